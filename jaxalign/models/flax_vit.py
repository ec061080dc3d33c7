"""A vision transformer in flax NNX that reads the checkpoints of transformers' ViTModel. Imports flax at once."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

NAMES = (
    (r"^(?:vit\.)?embeddings\.cls_token$", r"cls_token"),
    (r"^(?:vit\.)?embeddings\.position_embeddings$", r"positions"),
    (r"^(?:vit\.)?embeddings\.patch_embeddings\.projection\.(weight|bias)$", r"patches.\1"),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(?:(query|key|value)|(q|k|v)_proj)\.(weight|bias)$",
     r"layers.\1.\2\3.\4"),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(weight|bias)$", r"layers.\1.out.\2"),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(weight|bias)$", r"layers.\1.wide.\2"),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(weight|bias)$", r"layers.\1.narrow.\2"),
    (r"^(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.layernorm_(before|after)\.(weight|bias)$", r"layers.\1.\2.\3"),
    (r"^(?:vit\.)?layernorm\.(weight|bias)$", r"norm.\1"),
)  # fmt: skip
"""Name of a parameter in a checkpoint -> its path here; "query", "q" and so on are one."""

SHORT = {"q": "query", "k": "key", "v": "value"}
LEAVES = {"weight": "kernel", "bias": "bias"}


class Layer(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, hidden: int, n_heads: int, epsilon: float, rngs: nnx.Rngs) -> None:
        self.n_heads = n_heads
        self.before = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.after = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.wide = nnx.Linear(width, hidden, rngs=rngs)
        self.narrow = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(n_batch, n_tokens, width) -> the same."""
        normed = self.before(tokens)
        heads = (*tokens.shape[:2], self.n_heads, -1)
        query, key, value = (part(normed).reshape(heads) for part in (self.query, self.key, self.value))
        attended = jax.nn.dot_product_attention(query, key, value)
        tokens = tokens + self.out(attended.reshape(tokens.shape))
        return tokens + self.narrow(jax.nn.gelu(self.wide(self.after(tokens)), approximate=False))


class Vit(nnx.Module):
    """Patches, CLS, layers, norm; every layer's output is returned.

    Source:
        Dosovitskiy et al. 2021, ICLR, arXiv:2010.11929.
    """

    def __init__(self, config: dict[str, Any], rngs: nnx.Rngs) -> None:
        width, patch, size = config["hidden_size"], config["patch_size"], config["image_size"]
        epsilon = config.get("layer_norm_eps", 1e-12)
        self.cls_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, (size // patch) ** 2 + 1, width)))
        self.patches = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.layers = nnx.List(
            Layer(width, config["intermediate_size"], config["num_attention_heads"], epsilon, rngs)
            for _ in range(config["num_hidden_layers"])
        )
        self.norm = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> dict[str, jax.Array]:
        """(n_batch, 3, height, width), as the processor normalises them -> layer -> (n_batch, 1 + n_patches, width)."""
        patches = self.patches(jnp.moveaxis(pixels, 1, -1))
        flat = patches.reshape(len(pixels), -1, patches.shape[-1])
        cls = jnp.broadcast_to(self.cls_token[...], (len(pixels), 1, flat.shape[-1]))
        tokens = jnp.concatenate([cls, flat], axis=1) + self.positions[...]
        outputs = {"embeddings": tokens}
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens)
            outputs[f"layers.{index}"] = tokens
        outputs["norm"] = self.norm(tokens)
        return outputs


def path_of(name: str) -> tuple[str | int, ...] | None:
    """Where a parameter of a checkpoint goes: its path in the state; None for one that has no place here (a pooler)."""
    for pattern, target in NAMES:
        found = re.match(pattern, name)
        if found:
            parts = found.expand(target).split(".")
            keys = [SHORT.get(part, part) for part in parts]
            is_norm = len(keys) > 1 and keys[-2] in ("before", "after", "norm")
            if keys[-1] in LEAVES:
                keys[-1] = "scale" if is_norm and keys[-1] == "weight" else LEAVES[keys[-1]]
            return tuple(int(key) if key.isdigit() else key for key in keys)
    return None


def as_stored_here(path: tuple[str | int, ...], values: np.ndarray) -> np.ndarray:
    """A parameter of a checkpoint in the layout of flax: kernels have their input axis first."""
    if path[-1] != "kernel":
        return values
    return values.T if values.ndim == 2 else values.transpose(2, 3, 1, 0)


NETWORKS = {"vit": Vit}
"""Architecture in an entry -> module class: (configuration, rngs); called with pixels it gives {layer: tokens}."""
