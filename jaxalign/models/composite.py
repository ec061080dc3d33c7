"""Audio models without a class of their own: a native speech encoder, a projector and a native language model.

Imports torch and transformers at once. The checkpoints of these models come with code that is never run here; their
arithmetic is restated from native parts, so that they are one more class for everything else.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models.snapshot import LOCAL, quiet

if TYPE_CHECKING:
    from jaxalign.models.network import Network

AUDIO_PLACEHOLDER = "<|audio|>"
"""Stands for the sound in the prompt of a composite."""


class CompositeConfig(PreTrainedConfig):
    """What a composite is made of.

    Attributes:
        encoder, language: {model_class, config} of the native parts.
        projector: {kind, ...} with the arguments of a class in PROJECTORS.
        media_token_id: the id in input_ids that audio tokens replace.
    """

    model_type = "jaxalign_composite"

    encoder: dict[str, Any] | None = None
    projector: dict[str, Any] | None = None
    language: dict[str, Any] | None = None
    media_token_id: int = 0


class RmsNorm(nn.Module):
    """Root mean square normalisation over the last axis."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        wide = frames.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(frames.dtype)


def stacked(frames: torch.Tensor, n: int) -> torch.Tensor:
    """n frames side by side, zeros behind the last. (n_batch, n_frames, width) -> (n_batch, ceil(n_frames / n), n * width)"""
    n_batch, n_frames, width = frames.shape
    return functional.pad(frames, (0, 0, 0, -n_frames % n)).reshape(n_batch, -1, n * width)


class StackSwiglu(nn.Module):
    """Ultravox v0.5: stacked frames, norm, gated linear unit, norm, linear."""

    def __init__(self, width: int, out_width: int, stack: int, hidden: int) -> None:
        super().__init__()
        self.stack = stack
        self.ln_pre = RmsNorm(width * stack)
        self.linear_1 = nn.Linear(width * stack, hidden, bias=False)
        self.ln_mid = RmsNorm(hidden // 2)
        self.linear_2 = nn.Linear(hidden // 2, out_width, bias=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        value, gate = self.linear_1(self.ln_pre(stacked(frames, self.stack))).chunk(2, dim=-1)
        return self.linear_2(self.ln_mid(functional.silu(gate) * value))


class StackMlp(nn.Module):
    """Llama-Omni: stacked frames, two linear layers."""

    def __init__(self, width: int, out_width: int, stack: int, hidden: int) -> None:
        super().__init__()
        self.stack = stack
        self.linear_1 = nn.Linear(width * stack, hidden)
        self.linear_2 = nn.Linear(hidden, out_width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.linear_2(functional.relu(self.linear_1(stacked(frames, self.stack))))


class MlpPool(nn.Module):
    """MiniCPM-o: two linear layers, then the average of neighbouring frames."""

    def __init__(self, width: int, out_width: int, pool: int, hidden: int | None = None) -> None:
        super().__init__()
        self.pool = pool
        self.linear_1 = nn.Linear(width, hidden or out_width)
        self.linear_2 = nn.Linear(hidden or out_width, out_width)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        out = self.linear_2(functional.relu(self.linear_1(frames)))
        return functional.avg_pool1d(out.transpose(1, 2), self.pool).transpose(1, 2)


def nearest_code(frames: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Index of the nearest code. frames (..., width), codebook (n_codes, width) -> (...) int64"""
    distance = codebook.pow(2).sum(-1) - 2 * frames @ codebook.T
    return distance.argmin(-1)


class ResidualVq(nn.Module):
    """Baichuan-Audio, SpeechGPT 2.0: average of frames, residual codebooks, a table of embeddings per codebook, summed.

    codebook_sizes has the number of codes of each codebook.
    """

    def __init__(self, width: int, out_width: int, stack: int, codebook_sizes: Sequence[int], code_width: int) -> None:
        super().__init__()
        self.stack = stack
        self.into_codes = nn.Linear(width, code_width)
        self.codebooks = nn.ParameterList(torch.randn(size, code_width) for size in codebook_sizes)
        self.embeddings = nn.ModuleList(nn.Embedding(size, out_width) for size in codebook_sizes)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pooled = functional.avg_pool1d(frames.transpose(1, 2), self.stack, ceil_mode=True).transpose(1, 2)
        rest = self.into_codes(pooled)
        total = None
        for codebook, table in zip(self.codebooks, self.embeddings, strict=True):
            codes = nearest_code(rest, codebook)
            rest = rest - codebook[codes]
            total = table(codes) if total is None else total + table(codes)
        assert total is not None
        return total


class VqIds(nn.Module):
    """GLM-4-Voice: average of frames, nearest code; the language model embeds the code as a token."""

    def __init__(self, width: int, out_width: int, stack: int, codebook_size: int, first_id: int) -> None:
        super().__init__()
        self.stack = stack
        self.first_id = first_id
        self.codebook = nn.Parameter(torch.randn(codebook_size, width))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pooled = functional.avg_pool1d(frames.transpose(1, 2), self.stack, ceil_mode=True).transpose(1, 2)
        return self.first_id + nearest_code(pooled, self.codebook)


PROJECTORS: dict[str, type[nn.Module]] = {
    "stack_swiglu": StackSwiglu,
    "stack_mlp": StackMlp,
    "mlp_pool": MlpPool,
    "residual_vq": ResidualVq,
    "vq_ids": VqIds,
}
"""Kind in an entry -> module: (n_batch, n_frames, width) -> (n_batch, n_tokens, out_width), or token ids."""


class Composite(PreTrainedModel):
    """Speech encoder, projector and language model in one module; audio tokens replace placeholders in the prompt."""

    config_class = CompositeConfig
    base_model_prefix = "composite"

    def __init__(self, config: CompositeConfig) -> None:
        super().__init__(config)
        self.encoder = _part(config.encoder)
        self.language = _part(config.language)
        # The width of a Whisper encoder is d_model, that of a language model hidden_size; transformers maps both.
        self.projector = _projector(config, self.encoder.config.hidden_size, self.language.config.hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        """Hidden states of the language model.

        Args:
            input_ids: (n_batch, n_tokens) int64, as many placeholders in each row.
            input_features: (n_batch, n_mels, n_frames) log-mel spectrogram.
            attention_mask: (n_batch, n_tokens), 0 at tokens of padding.
            position_ids: (n_batch, n_tokens), positions without padding.
            use_cache: whether keys and values are kept; never here.
        """
        embedded = self.language.get_input_embeddings()
        is_media = input_ids == self.config.media_token_id
        tokens = embedded(input_ids.masked_fill(is_media, 0))  # the id of the medium may lie outside the vocabulary
        audio = self.projector(self.encoder(input_features).last_hidden_state)
        if audio.ndim == 2:
            audio = embedded(audio)
        n_media = int(is_media[0].sum())
        audio = audio[:, :n_media].to(tokens.dtype)
        merged = tokens.masked_scatter(is_media.unsqueeze(-1).expand_as(tokens), audio)
        return self.language(
            inputs_embeds=merged, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache
        )


class CompositeProcessor:
    """Sounds to log-mel spectrograms, and a prompt with as many placeholders as the projector makes tokens."""

    def __init__(self, settings: Network, feature_extractor: Any, tokenizer: Any, token_id: int) -> None:
        self.settings = settings
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.token_id = token_id
        self.audio_token = AUDIO_PLACEHOLDER

    def __call__(self, text: list[str], audio: list[Any], sampling_rate: int, return_tensors: str = "pt") -> Any:
        """input_ids (1, n_tokens), attention_mask and input_features of one sound."""
        before, found, after = text[0].partition(AUDIO_PLACEHOLDER)
        n_media = max(1, math.ceil(len(audio[0]) / sampling_rate / (self.settings.language_frame_s or 1.0) - 1e-4))
        ids = self.tokenizer(before)["input_ids"] + [self.token_id] * (n_media if found else 0)
        ids += self.tokenizer(after, add_special_tokens=False)["input_ids"]
        features = self.feature_extractor(audio[0], sampling_rate=sampling_rate, return_tensors=return_tensors)
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "input_features": features["input_features"],
        }


def processor_for(settings: Network, folder: Path, token_id: int | None) -> CompositeProcessor:
    """The processor of a composite: Whisper's spectrogram, the checkpoint's or one set to this encoder, and its tokenizer."""
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    if (folder / "preprocessor_config.json").is_file():
        extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    else:
        encoder = settings.config["encoder"]["config"]
        n_mels, n_positions = encoder.get("num_mel_bins", 80), encoder.get("max_source_positions", 1500)
        extractor = WhisperFeatureExtractor(feature_size=n_mels, chunk_length=n_positions // 50)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} carries no tokenizer that can be read without its code: {error}") from error
    return CompositeProcessor(settings, extractor, tokenizer, int(token_id or 0))


def _part(settings: dict[str, Any] | None) -> PreTrainedModel:
    from jaxalign.models.building import class_named

    if settings is None:
        raise ConfigError("A composite needs both parts: give encoder and language, each with model_class and config.")
    kind = class_named(settings["model_class"])
    values = {name: value for name, value in copy.deepcopy(settings["config"]).items() if name != "model_type"}
    return kind(kind.config_class(**values))


def _projector(config: CompositeConfig, width: int, out_width: int) -> nn.Module:
    options = dict(config.projector or {})
    kind = options.pop("kind", "")
    if kind not in PROJECTORS:
        raise ConfigError(f"A composite asks for the projector '{kind}'. {nearest(kind, PROJECTORS)}")
    return PROJECTORS[kind](width, out_width, **options)
