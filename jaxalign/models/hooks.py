"""Activations of named torch layers, handed to JAX without a copy and pooled there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.pool import POOLINGS
from jaxalign.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

Outputs = dict[str, Any]
"""Name of a layer -> its hidden states, as tensors of torch."""


class Pooled(NamedTuple):
    """One pooling of one layer, and the name of the token mask that it runs under."""

    layer: str
    pooling: str
    mask: str


def layer_names(model: torch.nn.Module, paths: Sequence[str]) -> tuple[str, ...]:
    """Names of the layers under module paths: a ModuleList stands for each of its members, in order.

    Args:
        model: the network.
        paths: module paths such as "model.language_model.layers" or "model.language_model.layers.2".
    Raises:
        ConfigError: if the network has no module at a path, or the module there is an empty list.
    """
    return tuple(name for path in paths for name in _members(model, path))


def _members(model: torch.nn.Module, path: str) -> list[str]:
    """Names of the layers at one path: its members if it is a ModuleList, else itself."""
    from torch.nn import ModuleList

    modules = dict(model.named_modules())
    if not path or path not in modules:
        known = [name for name in modules if name]
        raise ConfigError(
            f"{type(model).__name__} has {len(known)} modules and none at the path '{path}'. {nearest(path, known)}"
        )
    if not isinstance(modules[path], ModuleList):
        return [path]
    members = [f"{path}.{name}" for name, _ in modules[path].named_children()]
    if not members:
        raise ConfigError(f"The list '{path}' of {type(model).__name__} holds 0 layers: name a list that has some.")
    return members


class Point(NamedTuple):
    """Where an activation is read.

    Attributes:
        name: of the layer in rows.
        module: path of the module that is hooked.
        reads: its "output", or its "input".
    """

    name: str
    module: str
    reads: str = "output"


@contextmanager
def capture(model: torch.nn.Module, layers: Sequence[str | Point]) -> Iterator[Outputs]:
    """Collect the outputs of named layers during the forward passes inside the block; hooks never outlive it.

    Args:
        model: the network.
        layers: module paths, or points that have names of their own and may read inputs.
    Yields:
        A dictionary, filled by each forward pass: name -> hidden states, such as (n_batch, n_tokens, n_units). A module
        that is called several times in one pass keeps its last.
    Raises:
        ConfigError: if the network has no such layer.
    """
    points = [point for layer in layers for point in _points(model, layer)]
    outputs: Outputs = {}
    handles = [_hooked(model.get_submodule(point.module), point, outputs) for point in points]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _points(model: torch.nn.Module, layer: str | Point) -> list[Point]:
    if isinstance(layer, Point):
        return [layer]
    return [Point(name, name) for name in layer_names(model, [layer])]


def _hooked(module: torch.nn.Module, point: Point, outputs: Outputs) -> Any:
    """Register the hook of a point; it stores hidden states under the point's name."""

    def after(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
        outputs[point.name] = hidden_states(output)

    def before(_module: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        outputs[point.name] = inputs[0] if inputs else options["hidden_states"]

    if point.reads == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def hidden_states(output: Any) -> Any:
    """The tensor of hidden states in what a module returns: itself, or the first of a tuple, list or output object."""
    import torch

    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


def to_numpy(value: torch.Tensor) -> np.ndarray:
    """The same numbers as NumPy, bfloat16 included (as ml_dtypes); without a copy where memory is contiguous."""
    import torch

    value = value.detach().contiguous()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(jnp.bfloat16)
    return value.numpy()


def to_jax(tensor: torch.Tensor) -> jax.Array:
    """The same host memory as a JAX array on the CPU; torch must not write to it afterwards.

    By way of NumPy, not by DLPack: a tensor imported by DLPack is freed in a thread of XLA, and a process that ends
    meanwhile aborts (jax 0.10.2, torch 2.13: 23 of 25 processes with results still pending, 3 of 25 with all fetched).
    JAX frees borrowed NumPy memory in a Python thread. Neither way copies.
    """
    return jax.device_put(to_numpy(tensor), jax.local_devices(backend="cpu")[0], may_alias=True)


def keep_rows(pooled: jax.Array) -> jax.Array:
    """The pooled rows as they are. (n_batch, n_units) -> (n_batch, n_units)"""
    return pooled


def pool_layers(
    outputs: Mapping[str, torch.Tensor],
    masks: Mapping[str, np.ndarray],
    wanted: Sequence[Pooled],
    finish: Callable[[jax.Array], jax.Array] = keep_rows,
) -> dict[tuple[str, str], jax.Array]:
    """Pool captured layers in JAX, all in one compiled call, so that only pooled rows leave it.

    Args:
        outputs: layer -> (n_batch, n_tokens, n_units), or packed (n_batch * n_tokens, n_units) with the tokens of
            one stimulus side by side.
        masks: name -> (n_batch, n_tokens) bool, the tokens that count.
        wanted: the poolings to make.
        finish: what becomes of each pooled (n_batch, n_units); a module-level function, since it is static.
    Returns:
        (layer, pooling) -> finish(pooled), float32 for a network in float32 or less.
    """
    tokens = {item.layer: to_jax(outputs[item.layer]) for item in wanted}
    device = next(iter(tokens.values())).sharding
    placed = {name: jax.device_put(mask, device) for name, mask in masks.items()}
    return _pool(tokens, placed, tuple(wanted), finish)


@partial(jax.jit, static_argnames=("wanted", "finish"))
def _pool(
    tokens: dict[str, jax.Array],
    masks: dict[str, jax.Array],
    wanted: tuple[Pooled, ...],
    finish: Callable[[jax.Array], jax.Array],
) -> dict[tuple[str, str], jax.Array]:
    def one(item: Pooled) -> jax.Array:
        mask = masks[item.mask]
        by_stimulus = tokens[item.layer].reshape(*mask.shape, -1)
        return finish(POOLINGS[item.pooling](by_stimulus, mask))

    return {(item.layer, item.pooling): one(item) for item in wanted}
