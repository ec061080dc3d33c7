"""Networks: images per second under JAX and under torch, and what capturing every layer costs.

Both engines run the same entry, on the same weights and pixels, float32, hooks on every layer. "none" captures the last layer
alone, as an embedding pipeline would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxalign.models import building, engine
from jaxalign.models.layers import Tokens, points_of, wanted_of
from jaxalign.models.network import Network, Parts
from jaxalign.models.patches import prepared
from jaxalign.models.placement import OneDevice
from jaxalign.models.processing import Batch

VIT_B = Network(
    name="ViT-B/16, 224 px",
    model_class="ViTModel",
    weights="untrained",
    dtype="float32",
    batch_size=4,
    layers=("encoder",),
    parts=Parts(encoder=("layers",), post_norm=("layernorm",)),
    n_prefix_tokens=1,
    config={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
)
IMAGE_ID = 49190
SMOLVLM = Network(
    name="SmolVLM-256M, 512 px",
    model_class="Idefics3ForConditionalGeneration",
    weights="untrained",
    dtype="float32",
    batch_size=2,
    layers=("encoder", "language"),
    parts=Parts(encoder=("model.vision_model.encoder.layers",), language=("model.text_model.layers",)),
    patches=("idefics_dense",),
    config={
        "image_token_id": IMAGE_ID,
        "scale_factor": 4,
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49280,
            "pad_token_id": 0,
        },
    },
)


class _Given:
    """Processing that hands out one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def batches(self, _stimuli: Any, _n_chunks: int) -> list[Batch]:
        return [self.batch]

    def example(self, _n_batch: int) -> Batch:
        return self.batch


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """All of this file."""
    for settings, batch in ((VIT_B, _vit_batch()), (SMOLVLM, _smolvlm_batch())):
        yield _case(timed, settings, batch)


def source_of(settings: Network, batch: Batch) -> engine.NetworkSource:
    """An open network without a checkpoint."""
    kind = building.class_named(settings.model_class)
    config = building.configuration(kind, settings.config)
    module = prepared(building.abstract(kind, config), settings.patches)
    points = points_of(settings, module)
    wanted = wanted_of(settings, points)
    return engine.NetworkSource(settings, kind, config, Path(), module, points, wanted, _Given(batch), OneDevice())


def _vit_batch() -> Batch:
    pixels = np.random.default_rng(0).standard_normal((VIT_B.batch_size, 3, 224, 224)).astype(np.float32)
    none = np.ones((len(pixels), 1), bool)
    return Batch({"pixel_values": pixels}, {}, Tokens(none, none), len(pixels))


def _smolvlm_batch() -> Batch:
    import torch

    n_batch, n_image = SMOLVLM.batch_size, 64
    pixels = np.random.default_rng(0).standard_normal((n_batch, 1, 3, 512, 512)).astype(np.float32)
    ids = np.array([[1, 2, *([IMAGE_ID] * n_image), 3, 4, 5, 6]] * n_batch)
    static = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(ids.shape, dtype=torch.long)}
    return Batch({"pixel_values": pixels}, static, Tokens(np.ones(ids.shape, bool), ids == IMAGE_ID), n_batch)


def _case(timed: Callable[..., Any], settings: Network, batch: Batch) -> dict[str, Any]:
    last = settings.parts.language or settings.parts.encoder
    n_layers = len(source_of(settings, batch).wanted)
    alone = replace(settings, layers=(f"{last[0]}.{len(_layers(settings, batch)) - 1}",))
    seconds, rows = {}, {}
    for name, entry in (("jax", settings), ("last", alone), ("torch", replace(settings, engine="torch"))):
        source = source_of(entry, batch)
        stimuli = [None] * entry.batch_size
        first, best, out = timed(lambda source=source, stimuli=stimuli: source.activations(stimuli))
        seconds[name], rows[name] = (first, best), {key: np.asarray(value) for key, value in out.items()}
    error = max(
        float(np.abs(rows["jax"][key] - rows["torch"][key]).max() / np.abs(rows["torch"][key]).max())
        for key in rows["torch"]
    )
    first, best = seconds["jax"]
    peer = seconds["torch"][1]
    difference = f"largest difference {error:.1e} of the largest value"
    return {
        "name": f"{settings.name}, batch of {batch.n_batch}, {n_layers} layers captured and pooled",
        "seconds": round(best, 3),
        "first_seconds": round(first, 2),
        "gflop": round(_gflop(settings, batch), 1),
        "images_per_s": round(batch.n_batch / best, 2),
        "peers": [{"name": "torch, hooks", "seconds": round(peer, 3), "difference": difference}],
        "capture_overhead": round(best / seconds["last"][1] - 1, 3),
        "accuracy": f"all layers cost {100 * (best / seconds['last'][1] - 1):.0f} % more than the last alone",
    }


def _gflop(settings: Network, batch: Batch) -> float:
    """Operations of one forward pass, as XLA counts them before it optimises."""
    source = source_of(settings, batch)
    lowered = jax.jit(source.function(batch)).lower(source.abstract_weights, source.dynamic(batch))
    return float(lowered.cost_analysis()["flops"]) / 1e9


def _layers(settings: Network, batch: Batch) -> tuple[Any, ...]:
    points = source_of(settings, batch).points
    return tuple(points["language" if settings.parts.language else "encoder"])


if __name__ == "__main__":
    from tests.benchmarks.__main__ import timed as stopwatch

    for case in cases(stopwatch):
        print(case, jax.devices())
