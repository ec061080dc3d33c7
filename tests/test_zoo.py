"""The zoo as data: every entry is whole, its parts exist, and its numbers of parameters are those of its class."""

import re
from functools import cache

import checkpoints
import pytest
import torch

from jaxalign import config
from jaxalign.commands.models import key_of, settings_of
from jaxalign.models import building
from jaxalign.models.hooks import layer_names
from jaxalign.models.layers import points_of
from jaxalign.models.network import Network
from jaxalign.models.patches import PATCHES, prepared
from jaxalign.models.text import TextEncoder

# The table of the specification: name -> parameters in 1e9, encoder layers, language layers, width.
LVLMS = {
    "llava-1.5-7b": (7.06, (24,), 32, 4096),
    "llava-1.5-13b": (13.35, (24,), 40, 5120),
    "llava-next-mistral-7b": (7.57, (24,), 32, 4096),
    "llava-next-vicuna-13b": (13.35, (24,), 40, 5120),
    "llava-ov-0.5b": (0.89, (26,), 24, 896),
    "llava-ov-7b": (8.03, (26,), 28, 3584),
    "qwen2-vl-2b": (2.21, (32,), 28, 1536),
    "qwen2-vl-7b": (8.29, (32,), 28, 3584),
    "qwen2.5-vl-3b": (3.75, (32,), 36, 2048),
    "qwen2.5-vl-7b": (8.29, (32,), 28, 3584),
    "qwen2.5-vl-32b": (33.45, (32,), 64, 5120),
    "qwen3-vl-4b": (4.44, (24,), 36, 2560),
    "qwen3-vl-8b": (8.77, (27,), 36, 4096),
    "internvl3-1b": (0.94, (24,), 24, 896),
    "internvl3-2b": (2.09, (24,), 28, 1536),
    "internvl3-8b": (7.94, (24,), 28, 3584),
    "internvl3-14b": (15.12, (24,), 48, 5120),
    "deepseek-vl-1.3b": (1.98, (24,), 24, 2048),
    "deepseek-vl-7b": (7.34, (12, 24), 30, 4096),
    "janus-pro-7b": (7.41, (24,), 30, 4096),
    "smolvlm-500m": (0.51, (12,), 32, 960),
    "smolvlm-2.2b": (2.25, (27,), 24, 2048),
    "idefics2-8b": (8.40, (27,), 32, 4096),
    "idefics3-8b": (8.46, (27,), 32, 4096),
    "paligemma-3b": (2.92, (27,), 18, 2048),
    "gemma3-4b": (4.30, (27,), 34, 2560),
    "gemma3-12b": (12.19, (27,), 48, 3840),
    "llama3.2-11b-v": (10.67, (32, 8), 40, 4096),
    "pixtral-12b": (12.68, (24,), 40, 5120),
    "ovis2-8b": (8.94, (24,), 28, 3584),
    "phi4-mm": (4.74, (27,), 32, 3072),
    "instructblip-7b": (7.91, (39,), 32, 4096),
}
"""Two differ from the specification. Phi-4-MM: 4.69 there is the class default of 32 heads, the published model has 24. Llama
3.2: 10.64 there; with 4 tiles and 9 aspect ratios there are 10,670,220,835, which is what its makers publish."""

AUDIO_LLMS = {
    "qwen2-audio-7b": (32, 4096),
    "qwen2-audio-7b-instruct": (32, 4096),
    "audio-flamingo-3": (28, 3584),
    "granite-speech-3.3-8b": (40, 4096),
    "minicpm-o-2.6": (28, 3584),
    "baichuan-audio-base": (28, 3584),
    "baichuan-audio-instruct": (28, 3584),
    "glm-4-voice-9b": (40, 4096),
    "llama-3.1-8b-omni": (32, 4096),
    "speechgpt-2.0-preview-7b": (28, 3584),
    "ultravox-v0.5-8b": (32, 4096),
    "ultravox-v0.5-1b": (16, 2048),
}
"""Name -> language layers and width."""

ENTRIES = {name: config.entry_values("model", name) for name in config.options("model")}
NETWORKS = sorted(name for name, entry in ENTRIES.items() if entry.get("schema") == "network")
TEXTS = sorted(name for name, entry in ENTRIES.items() if entry.get("schema") == "text_encoder" and entry.get("config"))
QUICK = {"llava_1_5_7b", "qwen2_5_vl_7b", "ultravox_v0_5_1b", "smolvlm_500m"}


def some_now(names):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@cache
def full(key):
    """An entry, and its full-size network on the meta device."""
    settings = settings_of(key)
    kind = building.class_named(settings.model_class)
    return settings, building.abstract(kind, building.configuration(kind, settings.config))


def test_the_zoo_has_the_models_of_the_studies():
    for name in (*LVLMS, *AUDIO_LLMS):
        assert ENTRIES[key_of(name)]["name"] == name
    assert len(LVLMS) == 32 and len(AUDIO_LLMS) == 12
    takes = [str(entry.get("takes", "image")) for entry in ENTRIES.values() if entry.get("schema") == "network"]
    assert takes.count("audio") >= 12 and takes.count("image") >= 36


def test_names_in_rows_are_unique():
    names = [entry["name"] for entry in ENTRIES.values() if "name" in entry]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_entry_says_all_that_a_network_needs(name):
    entry = ENTRIES[name]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry["hub_id"]), "where the checkpoint is"
    assert "revision" not in entry or re.fullmatch(r"[0-9a-f]{40}", entry["revision"]), (
        "pinned by a full SHA, or not yet"
    )
    assert "path" not in entry, "a path of somebody's machine"
    assert set(entry.get("patches", [])) <= set(PATCHES)
    assert entry["parts"]["encoder"] or entry["parts"]["language"]
    card = entry["card"]
    assert card["family"]
    for score in card.get("scores", {}).values():
        assert set(score) >= {"value", "source", "date"} and re.fullmatch(r"\d{4}-\d{2}-\d{2}", score["date"])
    if entry["parts"].get("language") and entry.get("takes", "image") == "audio":
        assert entry["encoder_frame_s"] and entry["language_frame_s"], "the true durations of its tokens"
    if entry.get("media_token") and entry["parts"].get("language"):
        assert entry["prompt"], "a prompt with the placeholder"
    assert (set(card) - {"notes"}) == set(card) or card["notes"].strip()


@pytest.mark.parametrize("name", checkpoints.architectures())
def test_an_architecture_names_modules_that_are_there(name):
    entry = checkpoints.architecture(name)
    module = prepared(building.miniature(entry), entry.patches)
    points = points_of(entry, module)
    assert "language" in points or "encoder" in points
    for part in ("encoder", "language"):
        for path in getattr(entry.parts, part):
            assert len(layer_names(module, [path])) >= 1


def counts(module, path=""):
    return round(building.n_parameters(module, path) / 1e9, 4)


@pytest.mark.parametrize("name", some_now(key for key in NETWORKS if ENTRIES[key].get("config")))
def test_numbers_of_parameters_are_counted(name):
    settings, module = full(name)
    total = counts(module)
    assert settings.card.parameters.total == total
    if settings.name in LVLMS:
        expected, n_encoder, n_language, width = LVLMS[settings.name]
        assert abs(total - expected) < 0.006, f"{total} against {expected} of the table"
        assert tuple(len(layer_names(module, [path])) for path in settings.parts.encoder) == n_encoder
        assert len(layer_names(module, settings.parts.language)) == n_language
        assert _width(settings, module) == width
    if settings.name in AUDIO_LLMS:
        assert (len(layer_names(module, settings.parts.language)), _width(settings, module)) == AUDIO_LLMS[
            settings.name
        ]


def _width(settings, module):
    """Units of the language model: the length of the norm behind its last layer."""
    (path,) = settings.parts.post_norm
    return next(module.get_submodule(path).parameters()).shape[0]


@pytest.mark.parametrize("name", some_now(TEXTS))
def test_parameters_of_text_models_are_counted(name):
    settings, module = full(name)
    assert isinstance(settings, TextEncoder)
    assert settings.card.parameters.total == counts(module)
    assert layer_names(module, [path for path in settings.layers if path != "embeddings"])


def test_nothing_of_a_full_size_network_takes_memory():
    _, module = full("llava_1_5_7b")
    assert all(parameter.device.type == "meta" for parameter in module.parameters())
    assert sum(buffer.numel() for buffer in module.buffers()) < 1e6
    frequencies = dict(module.named_buffers())["model.language_model.rotary_emb.inv_freq"]
    assert frequencies.device.type == "cpu" and torch.isclose(frequencies[0], torch.tensor(1.0))


def test_every_network_of_the_zoo_is_a_network():
    for name in QUICK:
        assert isinstance(settings_of(name), Network)
