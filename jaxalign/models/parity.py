"""Whether JAX computes what torch computes: every captured layer of an entry's miniature, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxalign.models import bridge, building, tiny
from jaxalign.models.layers import forward_of, keeps_padding, points_of
from jaxalign.models.network import Network
from jaxalign.models.patches import prepared


@dataclass(frozen=True)
class Parity:
    """How far JAX is from torch.

    Attributes:
        errors: layer -> largest difference over the largest value of torch.
        cosines: layer -> cosine between the two, over all values.
    """

    errors: dict[str, float]
    cosines: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The layer with the largest error, and that error."""
        layer = max(self.errors, key=lambda name: self.errors[name])
        return layer, self.errors[layer]


def compare(settings: Network, dtype: str = "float32", changes: Mapping[str, Any] | None = None) -> Parity:
    """Run the miniature of an entry under torch and under jit, on the same weights and inputs; torch runs the class unpatched.

    Args:
        settings: the entry.
        dtype: of weights and activations.
        changes: inputs that replace those that the entry gives, such as masks with padding.
    Raises:
        ConfigError: if the entry names something that its class has not.
    """
    module = prepared(building.miniature(settings, dtype), settings.patches)
    inputs = tiny.inputs_of(settings, module) | dict(changes or {})
    points = points_of(settings, module)
    traced = {name: _cast(value, dtype) for name, value in inputs.items() if is_traced(settings, name, value)}
    static = {name: value for name, value in inputs.items() if name not in traced}
    with bridge.torch.no_grad():
        plain = replace(settings, patches=())
        expected = forward_of(plain, module, points, static)({name: value.clone() for name, value in traced.items()})
    found = run(settings, module, points, static, traced)
    return Parity(
        {name: _error(np.asarray(found[name]), _wide(value)) for name, value in expected.items()},
        {name: _cosine(np.asarray(found[name]), _wide(value)) for name, value in expected.items()},
    )


def is_traced(settings: Network, name: str, value: Any) -> bool:
    """Whether an input varies from batch to batch: floats do, and what the entry names."""
    return value.is_floating_point() or name in settings.traced


def run(settings: Network, module: Any, points: Any, static: Any, traced: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The captured layers as JAX computes them. Every value of the module goes there without a copy."""
    forward = forward_of(settings, module, points, static)
    function = jax.jit(bridge.as_function(module, forward, keeps_padding(settings)))
    weights = {name: jax.numpy.asarray(bridge.to_numpy(value)) for name, value in bridge.weights_of(module).items()}
    given = {name: jax.numpy.asarray(bridge.to_numpy(value)) for name, value in traced.items()}
    with jax.default_matmul_precision("highest"):
        found: dict[str, jax.Array] = function(weights, given)
    return found


def _cast(value: Any, dtype: str) -> Any:
    return value.to(getattr(bridge.torch, dtype)) if value.is_floating_point() else value


def _wide(value: Any) -> np.ndarray:
    wide: np.ndarray = value.double().numpy()
    return wide


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max()), 1e-9)
    return float(np.abs(found.astype(np.float64) - expected).max()) / scale


def _cosine(found: np.ndarray, expected: np.ndarray) -> float:
    first, second = found.astype(np.float64).ravel(), expected.ravel()
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
