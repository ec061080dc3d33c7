"""What of a network is captured: points by part, and the rows that each becomes, pooled in JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import pool
from jaxalign.errors import ConfigError, nearest
from jaxalign.models.hooks import Outputs, Point, capture, layer_names
from jaxalign.models.patches import patched

if TYPE_CHECKING:
    import torch

    from jaxalign.models.network import Network

PART_NAMES = ("encoder", "connector", "embeddings", "language", "post_norm")
"""What `layers` of an entry may name beside module paths, in the order of the forward pass."""

EMBEDDINGS = "embeddings"

ENCODER_POOLINGS = ("spatial_mean", "cls", "mean", "audio_mean", "frames")
LANGUAGE_POOLINGS = ("image_mean", "audio_mean", "mean", "last", "frames")


class Wanted(NamedTuple):
    """One pooling of one captured layer.

    Attributes:
        layer: name in rows.
        pooling: name in rows.
        region: encoder, connector or language: which tokens there are, and their masks.
    """

    layer: str
    pooling: str
    region: str


def points_of(settings: Network, module: torch.nn.Module) -> dict[str, tuple[Point, ...]]:
    """Points of every part that the entry asks for, by part, in the order of the forward pass.

    Raises:
        ConfigError: if a part or path is not in the network, with the nearest names.
    """
    parts = settings.parts
    language = layer_names(module, parts.language)
    known = {
        "encoder": tuple(Point(name, name) for name in layer_names(module, parts.encoder)),
        "connector": tuple(Point(name, name) for name in layer_names(module, parts.connector)),
        "embeddings": (Point(EMBEDDINGS, language[0], "input"),) if language else (),
        "language": _residual(settings, language),
        "post_norm": tuple(Point(name, name) for name in layer_names(module, parts.post_norm)),
    }
    asked = {part: known[part] for part in PART_NAMES if part in settings.layers}
    for path in settings.layers:
        if path not in PART_NAMES:
            part = _part_of(settings, path)
            asked[part] = asked.get(part, ()) + tuple(Point(name, name) for name in layer_names(module, [path]))
    if not any(asked.values()):
        raise ConfigError(f"Model '{settings.name}' captures 0 layers: layers={list(settings.layers)}.")
    return {part: asked[part] for part in PART_NAMES if asked.get(part)}


def _part_of(settings: Network, path: str) -> str:
    """The part that a module path lies in; that of language layers where it lies in none."""
    for part in ("encoder", "connector", "post_norm", "language"):
        if any(path == known or path.startswith(f"{known}.") for known in getattr(settings.parts, part)):
            return part
    return "language" if settings.parts.language else "encoder"


def _residual(settings: Network, layers: Sequence[str]) -> tuple[Point, ...]:
    """Language layers; where features are added between layers, what the next layer reads stands for the layer."""
    if settings.residual not in ("output", "next_input"):
        raise ConfigError(f"residual='{settings.residual}' of '{settings.name}' is unknown: output or next_input.")
    if settings.residual == "output" or not layers:
        return tuple(Point(name, name) for name in layers)
    following = tuple(Point(name, after, "input") for name, after in pairwise(layers))
    return (*following, Point(layers[-1], layers[-1]))


def wanted_of(settings: Network, points: Mapping[str, Sequence[Point]]) -> tuple[Wanted, ...]:
    """Every pooling of every captured layer.

    Raises:
        ConfigError: if a pooling is unknown, or none is asked for.
    """
    _check_poolings(settings)
    return tuple(
        Wanted(point.name, pooling, region)
        for part, several in points.items()
        for region in [_region(settings, part)]
        for point in several
        for pooling in _poolings(settings, region)
    )


def _region(settings: Network, part: str) -> str:
    if part in ("encoder", "connector"):
        return part
    return "language" if settings.parts.language else "encoder"


def _poolings(settings: Network, region: str) -> tuple[str, ...]:
    """Poolings of a region; the connector holds media tokens alone, so its mean is over these."""
    if region == "language":
        return tuple(dict.fromkeys(settings.pooling))
    if region == "encoder":
        return tuple(dict.fromkeys(settings.encoder_pooling))
    if "frames" in settings.encoder_pooling:
        return ("frames",)
    return ("audio_mean" if settings.takes == "audio" else "image_mean",)


def _check_poolings(settings: Network) -> None:
    for name, known in (("encoder_pooling", ENCODER_POOLINGS), ("pooling", LANGUAGE_POOLINGS)):
        for pooling in getattr(settings, name):
            if pooling not in known:
                raise ConfigError(f"Model '{settings.name}' has {name} '{pooling}'. {nearest(pooling, known)}")
    if settings.parts.language and not settings.pooling:
        raise ConfigError(f"Model '{settings.name}' asks for 0 poolings: give some of {', '.join(LANGUAGE_POOLINGS)}.")
    is_framed = ["frames" in settings.pooling, "frames" in settings.encoder_pooling]
    if settings.parts.language and settings.parts.encoder and any(is_framed) and not all(is_framed):
        raise ConfigError(
            f"Model '{settings.name}' has frames in one of pooling and encoder_pooling: rows are time bins for all layers or none."
        )
    if any(is_framed) and len({*settings.pooling, *settings.encoder_pooling}) > 1:
        raise ConfigError(
            f"Model '{settings.name}' asks for frames among other poolings: rows are time bins or stimuli."
        )


def forward_of(
    settings: Network, module: torch.nn.Module, points: Mapping[str, Sequence[Point]], static: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Outputs]:
    """A forward pass that gives the captured layers.

    Args:
        settings: the entry.
        module: the network.
        points: what is captured, by part.
        static: inputs that are the same for every batch, as plain tensors.
    Returns:
        The other inputs -> name of the layer -> hidden states.
    """
    import inspect

    flat = [point for several in points.values() for point in several]
    takes_cache = "use_cache" in inspect.signature(module.forward).parameters
    options = {"use_cache": False} if takes_cache or settings.parts.language else {}

    def forward(inputs: Mapping[str, Any]) -> Outputs:
        with capture(module, flat) as outputs, patched(settings.patches):
            module(**static, **inputs, **options)
        missing = [point.name for point in flat if point.name not in outputs]
        if missing:
            raise ConfigError(
                f"'{settings.name}': {len(missing)} of {len(flat)} layers were not reached by a forward pass, first {missing[0]}."
            )
        return outputs

    return forward


def keeps_padding(settings: Network) -> bool:
    """Whether rows that a traced mask would drop stay, as placeholders that are masked: sounds padded to a bucket."""
    return settings.takes == "audio" and bool(settings.traced)


# Rows


class Tokens(NamedTuple):
    """Where the tokens of a batch stand.

    Attributes:
        is_token: (n_batch, n_tokens) bool, tokens of the language sequence that are no padding.
        is_media: (n_batch, n_tokens) bool, those that stand for the image or the sound.
        duration_s: (n_batch,) of each sound; None for images.
    """

    is_token: Any
    is_media: Any
    duration_s: Any = None


def pooled(
    settings: Network,
    outputs: Mapping[str, jax.Array],
    wanted: Sequence[Wanted],
    tokens: Tokens,
    n_batch: int,
    n_bins: int = 0,
) -> dict[tuple[str, str], jax.Array]:
    """Pool captured layers; runs under jit, so that only rows leave the program.

    Args:
        settings: the entry.
        outputs: layer -> hidden states in the layout of the entry.
        wanted: the rows to make.
        tokens: where the tokens stand.
        n_batch: stimuli.
        n_bins: time bins per stimulus, for the pooling "frames".
    Returns:
        (layer, pooling) -> (n_batch, width) float32; (n_batch, n_bins, width) for frames.
    """

    def one(item: Wanted) -> jax.Array:
        values = outputs[item.layer]
        by_stimulus = _by_stimulus(settings, item, values, n_batch)
        return _row(settings, item, by_stimulus, values, tokens, n_bins)

    return {(item.layer, item.pooling): one(item) for item in wanted}


def _by_stimulus(settings: Network, item: Wanted, values: jax.Array, n_batch: int) -> jax.Array:
    """Any layout as (n_batch, n_tokens, width)."""
    width = values.shape[-1]
    if values.size % (n_batch * width):
        raise ConfigError(
            f"Layer {item.layer} of '{settings.name}' has shape {tuple(values.shape)}, which {n_batch} stimuli do not divide: "
            "give image_size, so that every picture has as many tokens."
        )
    return values.reshape(n_batch, -1, width)


def _row(
    settings: Network, item: Wanted, by_stimulus: jax.Array, values: jax.Array, tokens: Tokens, n_bins: int
) -> jax.Array:
    n_batch, n_tokens, _ = by_stimulus.shape
    everything = jnp.ones((n_batch, n_tokens), bool)
    if item.region == "language":
        return _language_row(settings, item, by_stimulus, tokens, n_bins)
    if item.region == "encoder" and item.pooling == "cls":
        return by_stimulus[:, 0].astype(jnp.promote_types(values.dtype, jnp.float32))
    if tokens.duration_s is not None:
        frame_s = settings.encoder_frame_s if item.region == "encoder" else settings.language_frame_s
        return _sound_row(settings, item, by_stimulus, tokens.duration_s, frame_s, n_bins)
    if item.region == "encoder" and item.pooling == "spatial_mean":
        return pool.mean_tokens(by_stimulus, jnp.asarray(_is_patch(settings, values.shape, n_batch, n_tokens)))
    return pool.mean_tokens(by_stimulus, everything)


def _is_patch(settings: Network, shape: tuple[int, ...], n_batch: int, n_tokens: int) -> np.ndarray:
    """Tokens that are no prefix; each tile of an image has a prefix of its own."""
    n_tiles = shape[0] // n_batch if len(shape) == 3 and settings.encoder_layout in ("bnd", "tiles") else 1
    per_tile = np.arange(n_tokens // n_tiles) >= settings.n_prefix_tokens
    return np.tile(per_tile, (n_batch, n_tiles))


def _language_row(settings: Network, item: Wanted, by_stimulus: jax.Array, tokens: Tokens, n_bins: int) -> jax.Array:
    n_tokens, n_prompt = by_stimulus.shape[1], tokens.is_token.shape[1]
    if n_tokens != n_prompt:
        if item.pooling not in ("mean", "last"):
            raise ConfigError(
                f"Layer {item.layer} of '{settings.name}' has {n_tokens} tokens and the prompt {n_prompt}: where the media "
                f"stand among them is unknown. Ask for pooling mean or last instead of {item.pooling}."
            )
        return pool.POOLINGS[item.pooling](by_stimulus, jnp.ones(by_stimulus.shape[:2], bool))
    if item.pooling == "frames":
        return _media_frames(settings, by_stimulus, tokens, n_bins)
    mask = tokens.is_media if item.pooling in ("image_mean", "audio_mean") else tokens.is_token
    return pool.POOLINGS[item.pooling](by_stimulus, jnp.asarray(mask))


def _media_frames(settings: Network, by_stimulus: jax.Array, tokens: Tokens, n_bins: int) -> jax.Array:
    """Time bins of the audio tokens in a language sequence; they stand side by side."""
    first = jnp.argmax(tokens.is_media, axis=1)
    at = jnp.minimum(first[:, None] + jnp.arange(by_stimulus.shape[1]), by_stimulus.shape[1] - 1)
    shifted = jnp.take_along_axis(by_stimulus, at[:, :, None], axis=1)
    n_real = jnp.asarray(tokens.is_media).sum(axis=1)
    is_real = jnp.arange(by_stimulus.shape[1]) < n_real[:, None]
    return pool.time_bins(shifted, is_real, _frame_s(settings, settings.language_frame_s), settings.bin_s, n_bins)


def _sound_row(
    settings: Network, item: Wanted, by_stimulus: jax.Array, duration_s: jax.Array, frame_s: float | None, n_bins: int
) -> jax.Array:
    """Encoder and connector frames that belong to the sound and not to what it was padded with."""
    frame_s = _frame_s(settings, frame_s)
    n_real = jnp.ceil(jnp.asarray(duration_s) / frame_s - 1e-4)
    is_real = jnp.arange(by_stimulus.shape[1]) < n_real[:, None]
    if item.pooling == "frames":
        return pool.time_bins(by_stimulus, is_real, frame_s, settings.bin_s, n_bins)
    if item.pooling == "mean" and item.region == "encoder":
        return pool.mean_tokens(by_stimulus, jnp.ones(by_stimulus.shape[:2], bool))
    return pool.mean_tokens(by_stimulus, is_real)


def _frame_s(settings: Network, frame_s: float | None) -> float:
    if frame_s is None:
        raise ConfigError(
            f"Model '{settings.name}' does not say how long its frames are: give encoder_frame_s and language_frame_s."
        )
    return frame_s
