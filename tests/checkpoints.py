"""Checkpoints in miniature, written by save_pretrained with a real processor: what tests load through the real path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxalign.config import conf_folder, schema_of
from jaxalign.models import building
from jaxalign.models.network import Network

WORDS = [
    *("describe", "this", "image", "user", "assistant", "what", "is", "in", "the", "picture", "generate", "caption"),
    *("hear", "sound", "a", "cat", "dog", ":", ".", "?", "Describe", "USER", "ASSISTANT"),
]
IDS = {"image": 150, "audio": 151, "video": 152, "start": 153, "end": 154, "other": 155}


def architecture(name: str, **changes: Any) -> Network:
    """The entry of an architecture alone, as data of conf/ say it."""
    from omegaconf import OmegaConf

    values = OmegaConf.load(conf_folder() / "model" / "architecture" / f"{name}.yaml")
    entry = OmegaConf.merge(schema_of(Network), {"name": name}, values, changes)
    found = OmegaConf.to_object(entry)
    assert isinstance(found, Network)
    return found


def architectures() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "model" / "architecture").glob("*.yaml"))


def tokenizer(special: dict[str, int], **named: str):
    """Words of a few sentences, and special tokens at the ids that miniatures use.

    Args:
        special: token -> id.
        named: attribute of the tokenizer -> token, such as image_token.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {word: 4 + at for at, word in enumerate(WORDS)}
    free = iter(sorted(set(range(4 + len(WORDS), 160)) - set(special.values())))
    vocabulary |= special
    vocabulary |= {f"filler{at}": at for at in free}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])
    inner.add_special_tokens(list(special))
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **roles, extra_special_tokens=named or None)


def _sizes(pixels: int) -> dict[str, int]:
    return {"height": pixels, "width": pixels}


def _log_mel() -> Any:
    """Whisper's spectrogram, with frames of 25 ms, so that its shortest window of 1 s has the miniatures' 20 positions."""
    import transformers as hf

    return hf.WhisperFeatureExtractor(feature_size=16, chunk_length=1, hop_length=400)


def _llava(hf: Any) -> Any:
    images = hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=_sizes(28))
    words = tokenizer({"<image>": 150}, image_token="<image>")
    options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(images, words, patch_size=14, **options)


def _qwen(hf: Any) -> Any:
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 1024}
    )
    words = tokenizer({"<|image_pad|>": 150, "<|video_pad|>": 152, "<|vision_start|>": 153, "<|vision_end|>": 154})
    return _Both(images, words, processor_class="Qwen2_5_VLProcessor")


def _internvl(hf: Any) -> Any:
    images = hf.GotOcr2ImageProcessorPil(size=_sizes(28), crop_to_patches=True, min_patches=1, max_patches=2)
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = tokenizer(
        {"<IMG_CONTEXT>": 150, "<img>": 153, "</img>": 154, "<video>": 152}, **names, video_token="<video>"
    )
    return _Both(images, words, processor_class="InternVLProcessor", image_seq_length=4)


def _llava_next(hf: Any) -> Any:
    images = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size=_sizes(28), image_grid_pinpoints=[[28, 28]]
    )
    words = tokenizer({"<image>": 150}, image_token="<image>")
    options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaNextProcessor(images, words, patch_size=14, **options)


def _idefics3(hf: Any) -> Any:
    images = hf.Idefics3ImageProcessorPil(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    names = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    words = tokenizer(dict(zip(names, (150, 153, 154, 155), strict=True)))
    return hf.Idefics3Processor(images, words, image_seq_len=4)


def _paligemma(hf: Any) -> Any:
    images = hf.SiglipImageProcessorPil(size=_sizes(28))
    images.image_seq_length = 4
    return hf.PaliGemmaProcessor(images, tokenizer({"<image>": 150}, image_token="<image>"))


def _gemma3(hf: Any) -> Any:
    images = hf.Gemma3ImageProcessorPil(size=_sizes(28))
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer({"<image_soft_token>": 150, "<start_of_image>": 153, "<end_of_image>": 154}, **names)
    return hf.Gemma3Processor(images, words, image_seq_length=4)


def _mllama(hf: Any) -> Any:
    images = hf.MllamaImageProcessorPil(size=_sizes(28), max_image_tiles=2)
    return hf.MllamaProcessor(images, tokenizer({"<|image|>": 150, "<|python_tag|>": 155}))


def _pixtral(hf: Any) -> Any:
    images = hf.PixtralImageProcessorPil(size={"longest_edge": 28}, patch_size=14)
    names = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    words = tokenizer({"[IMG]": 150, "[IMG_BREAK]": 153, "[IMG_END]": 154})
    return _Both(images, words, processor_class="PixtralProcessor", patch_size=14, **names)


def _qwen2_audio(hf: Any) -> Any:
    words = tokenizer({"<|AUDIO|>": 151, "<|audio_bos|>": 153, "<|audio_eos|>": 154}, audio_token="<|AUDIO|>")
    return hf.Qwen2AudioProcessor(_log_mel(), words)


def _audioflamingo3(hf: Any) -> Any:
    return hf.AudioFlamingo3Processor(_log_mel(), tokenizer({"<sound>": 151}, audio_token="<sound>"))


class _Both:
    """Parts of a processor that is put together when it is loaded: its class, or its part for films, cannot be built here."""

    def __init__(self, *parts: Any, **config: Any) -> None:
        self.parts = parts
        self.config = config

    def save_pretrained(self, folder: Path) -> None:
        for part in self.parts:
            part.save_pretrained(folder)
        if self.config:
            (folder / "processor_config.json").write_text(json.dumps(self.config))


PROCESSORS = {
    "llava": _llava,
    "qwen2_5_vl": _qwen,
    "internvl": _internvl,
    "llava_next": _llava_next,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "mllama": _mllama,
    "qwen2_audio": _qwen2_audio,
    "audioflamingo3": _audioflamingo3,
    "whisper_encoder": lambda hf: _log_mel(),
    "wav2vec2": lambda hf: hf.Wav2Vec2FeatureExtractor(do_normalize=True),
    "hubert": lambda hf: hf.Wav2Vec2FeatureExtractor(do_normalize=True),
    "vit": lambda hf: hf.ViTImageProcessorPil(size=_sizes(28)),
    "clip_vision": lambda hf: hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=_sizes(28)),
    "siglip_vision": lambda hf: hf.SiglipImageProcessorPil(size=_sizes(28)),
    "dinov2": lambda hf: hf.BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=_sizes(28)),
}
"""Architecture -> the family's real processor, at the sizes of its miniature."""

PROMPTS = {
    "qwen2_audio": "<|audio_bos|> <|AUDIO|> <|audio_eos|> what is in the sound ?",
    "audioflamingo3": "what is in <sound> the sound ?",
    "qwen2_5_vl": "user <|vision_start|> <|image_pad|> <|vision_end|> Describe this image . assistant",
    "internvl": "user <IMG_CONTEXT> Describe this image . assistant",
    "llava_next": "USER : <image> Describe this image . ASSISTANT :",
    "idefics3": "user : <image> Describe this image . <end_of_utterance> assistant :",
    "paligemma": "<image> describe this image",
    "gemma3": "user <start_of_image> Describe this image . assistant",
    "mllama": "user <|image|> Describe this image . assistant",
    "llava_pixtral": "user [IMG] Describe this image . assistant",
    "llava": "USER : <image> Describe this image . ASSISTANT :",
}


def processor(name: str) -> Any:
    """The processor of an architecture; that of a composite is a spectrogram and a tokenizer."""
    import transformers

    if name == "llava_pixtral":
        return _pixtral(transformers)
    if name.startswith("composite"):
        return _Both(_log_mel(), tokenizer({"<|audio|>": 150}))
    return PROCESSORS[name](transformers)


def write(folder: Path, name: str, **save_options: Any) -> Network:
    """Save the miniature of an architecture with its processor; return the entry that loads it."""
    entry = architecture(name, dtype="float32", path=str(folder), batch_size=2, **_changes(name))
    module = building.miniature(entry)
    module.save_pretrained(folder, **save_options)
    processor(name).save_pretrained(folder)
    return entry


def _changes(name: str) -> dict[str, Any]:
    """What differs from the full-size entry: a prompt of known words, sounds of 1 s, the miniature's configuration."""
    entry = architecture(name)
    changes: dict[str, Any] = {"prompt": PROMPTS[name]} if name in PROMPTS else {}
    if entry.image_size:
        changes["image_size"] = [32, 32] if name == "qwen2_5_vl" else [28, 28]
    if entry.takes == "audio" and entry.max_audio_s:
        changes["max_audio_s"] = 1.0
        changes["encoder_frame_s"] = 0.05  # frames of 25 ms instead of 10
        changes["language_frame_s"] = entry.language_frame_s and 2.5 * entry.language_frame_s
    if entry.kind == "composite":
        changes |= {"config": entry.tiny.config, "prompt": "hear <|audio|> what is the sound ?", "renames": {}}
    return changes
