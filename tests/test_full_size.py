"""Full-size networks, one per family: traced, lowered and compiled on shapes alone, with no memory for weights."""

import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxalign.commands.models import settings_of
from jaxalign.models import building, engine, tiny
from jaxalign.models.layers import Tokens, points_of, wanted_of
from jaxalign.models.network import Tiny
from jaxalign.models.patches import prepared
from jaxalign.models.placement import OneDevice
from jaxalign.models.processing import Batch, media_token_id

TWO = 2
SQUARE = {size: [[size, size]] * TWO for size in (384, 448, 512, 672)}

# Entry -> media shapes, fixed inputs, masks of ones, media tokens, extra inputs: two stimuli at the size of the entry.
CASES = {
    "llava_1_5_7b": ({"pixel_values": [2, 3, 336, 336]}, {}, {}, 576, ()),
    "llava_next_mistral_7b": ({"pixel_values": [2, 5, 3, 336, 336]}, {"image_sizes": SQUARE[672]}, {}, 2928, ()),
    "llava_ov_7b": ({"pixel_values": [2, 2, 3, 384, 384]}, {"image_sizes": SQUARE[384]}, {}, 1485, ()),
    "qwen2_vl_7b": (
        {"pixel_values": [2048, 1176]},
        {"image_grid_thw": [[1, 32, 32]] * 2},
        {},
        256,
        ("mm_token_type_ids",),
    ),
    "qwen2_5_vl_7b": (
        {"pixel_values": [2048, 1176]},
        {"image_grid_thw": [[1, 32, 32]] * 2},
        {},
        256,
        ("mm_token_type_ids",),
    ),
    "qwen3_vl_8b": (
        {"pixel_values": [1568, 1536]},
        {"image_grid_thw": [[1, 28, 28]] * 2},
        {},
        196,
        ("mm_token_type_ids",),
    ),
    "internvl3_8b": ({"pixel_values": [2, 3, 448, 448]}, {}, {}, 256, ()),
    "deepseek_vl_7b": (
        {"pixel_values": [2, 3, 384, 384], "high_res_pixel_values": [2, 3, 1024, 1024]},
        {},
        {},
        576,
        (),
    ),
    "janus_pro_7b": ({"pixel_values": [2, 3, 384, 384]}, {}, {}, 576, ()),
    "smolvlm_500m": ({"pixel_values": [2, 1, 3, 512, 512]}, {}, {}, 64, ()),
    "idefics2_8b": ({"pixel_values": [2, 1, 3, 378, 378]}, {}, {}, 64, ()),
    "paligemma_3b": ({"pixel_values": [2, 3, 448, 448]}, {}, {}, 1024, ("token_type_ids_zeros",)),
    "gemma3_4b": ({"pixel_values": [2, 3, 896, 896]}, {}, {}, 256, ("token_type_ids",)),
    "llama3_2_11b_v": (
        {"pixel_values": [2, 1, 4, 3, 560, 560]},
        {"aspect_ratio_ids": [[6]] * 2, "aspect_ratio_mask": [[[1, 1, 1, 1]]] * 2},
        {"cross_attention_mask": [2, "S", 1, 4]},
        1,
        (),
    ),
    "pixtral_12b": ({"pixel_values": [2, 3, 512, 512]}, {"image_sizes": SQUARE[512]}, {}, 1024, ()),
    "ovis2_8b": ({"pixel_values": [2, 3, 448, 448]}, {}, {}, 256, ()),
    "phi4_mm": (
        {"image_pixel_values": [2, 2, 3, 448, 448]},
        {"image_sizes": SQUARE[448]},
        {"image_attention_mask": [2, 2, 32, 32]},
        545,
        (),
    ),
    "instructblip_7b": ({"pixel_values": [2, 3, 224, 224]}, {"qformer_input_ids": [[3, 4, 5]] * 2}, {}, 32, ()),
    "qwen2_audio_7b": ({"input_features": [2, 128, 3000]}, {}, {"feature_attention_mask": [2, 3000]}, 750, ()),
    "audio_flamingo_3": ({"input_features": [2, 128, 3000]}, {}, {"input_features_mask": [2, 3000]}, 750, ()),
    "granite_speech_3_3_8b": ({"input_features": [2, 500, 160]}, {}, {"input_features_mask": [2, 102]}, 102, ()),
    "ultravox_v0_5_8b": ({"input_features": [2, 128, 3000]}, {}, {}, 188, ()),
    "whisper_large_v3_encoder": ({"input_features": [2, 128, 3000]}, {}, {}, None, ()),
    "dinov2_large": ({"pixel_values": [2, 3, 224, 224]}, {}, {}, None, ()),
}


def source_and_batch(key):
    """An entry without a checkpoint, and a batch of two stimuli at full size."""
    media, fixed, ones, n_media, extra = CASES[key]
    settings = settings_of(key)
    kind = building.class_named(settings.model_class)
    config = building.configuration(kind, settings.config)
    module = prepared(building.abstract(kind, config, settings.dtype), settings.patches)
    token_id = media_token_id(settings, config) if settings.media_token else 7
    shown = replace(settings, tiny=Tiny({"full": "size"}, media, fixed, ones, token_id, n_media, extra))
    made = tiny.inputs_of(shown, module)
    traced = {
        name: value.numpy() for name, value in made.items() if value.is_floating_point() or name in settings.traced
    }
    static = {name: value for name, value in made.items() if name not in traced}
    ids = made["input_ids"].numpy() if "input_ids" in made else np.ones((TWO, 1), int)
    duration_s = np.full(TWO, 20.0, np.float32) if settings.takes == "audio" else None
    batch = Batch(traced, static, Tokens(np.ones(ids.shape, bool), ids == token_id, duration_s), TWO)
    points = points_of(settings, module)
    wanted = wanted_of(settings, points)
    return engine.NetworkSource(settings, kind, config, Path(), module, points, wanted, None, OneDevice()), batch


@pytest.mark.slow
@pytest.mark.parametrize("key", CASES)
def test_a_full_size_network_is_compiled_without_memory_for_its_weights(key):
    source, batch = source_and_batch(key)
    dynamic = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), source.dynamic(batch))
    start = time.perf_counter()
    traced = jax.jit(source.function(batch)).trace(source.abstract_weights, dynamic)
    n_traced = time.perf_counter() - start
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "callback" not in text and len(text) < 60e6, "no constant of the size of weights"
    start = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    n_weights = sum(parameter.numel() for parameter in source.module.parameters())
    print(
        f"{key}: {n_weights / 1e9:.2f} B, {len(source.wanted)} rows, traced {n_traced:.1f} s, compiled {seconds:.1f} s, "
        f"weights {memory.argument_size_in_bytes / 2**30:.1f} GiB, activations {memory.temp_size_in_bytes / 2**30:.2f} GiB, "
        f"rows {memory.output_size_in_bytes / 2**20:.2f} MiB"
    )
    for (layer, pooling), row in traced.out_info.items():
        assert row.shape[0] == TWO and row.dtype == np.float32, (layer, pooling)
    assert memory.output_size_in_bytes < 40e6, "pooled rows alone leave the program"
