"""Tokens to features: one row per stimulus from the activations of all its tokens, under a token mask."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def _at_least_float32(tokens: jax.Array) -> jax.Array:
    """Widen half precision before anything is summed; float32 and float64 are kept."""
    return tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))


def mean_tokens(tokens: jax.Array, is_token: jax.Array) -> jax.Array:
    """Mean activation over the marked tokens of each stimulus.

    Args:
        tokens: (n_batch, n_tokens, n_units), any unit. What stands at unmarked tokens is never read, NaN included.
        is_token: (n_batch, n_tokens) bool, the tokens that count.
    Returns:
        (n_batch, n_units), the unit of the activations, float32 (float64 where given); NaN for a stimulus without
        any marked token.
    """
    kept = jnp.where(is_token[:, :, None], _at_least_float32(tokens), 0)
    count = is_token.sum(axis=1).astype(kept.dtype)
    return kept.sum(axis=1) / count[:, None]


def last_token(tokens: jax.Array, is_token: jax.Array) -> jax.Array:
    """Activation of the last marked token of each stimulus, wherever the padding stands.

    Args:
        tokens: (n_batch, n_tokens, n_units), any unit.
        is_token: (n_batch, n_tokens) bool, the tokens that count.
    Returns:
        (n_batch, n_units), the unit of the activations, float32 (float64 where given); NaN for a stimulus without
        any marked token.
    """
    last = is_token.shape[1] - 1 - jnp.argmax(is_token[:, ::-1], axis=1)
    row = jnp.take_along_axis(_at_least_float32(tokens), last[:, None, None], axis=1)[:, 0]
    return jnp.where(is_token.any(axis=1)[:, None], row, jnp.nan)


def time_bins(tokens: jax.Array, is_token: jax.Array, frame_s: float, bin_s: float, n_bins: int) -> jax.Array:
    """Frames in bins of time: the mean of the frames whose centres lie in a bin; the frame that covers its centre if none does.

    Args:
        tokens: (n_batch, n_frames, n_units), any unit; frame k lasts from k * frame_s to (k + 1) * frame_s.
        is_token: (n_batch, n_frames) bool, frames of the sound; false where it is padded.
        frame_s: duration of a frame in seconds.
        bin_s: width of a bin in seconds.
        n_bins: how many bins, from time 0.
    Returns:
        (n_batch, n_bins, n_units), float32 (float64 where given); NaN in bins behind the last frame.
    """
    n_frames = tokens.shape[1]
    # A hundredth of a frame more, so that a centre on the edge of two bins is in the later one whatever the rounding.
    bin_of = np.floor(((np.arange(n_frames) + 0.5) * frame_s + 0.01 * frame_s) / bin_s)
    weights = (bin_of[None, :] == np.arange(n_bins)[:, None]).astype(np.float32)
    centre = np.minimum((np.arange(n_bins) + 0.5) * bin_s / frame_s, n_frames - 0.5).astype(int)
    is_empty = weights.sum(axis=1) == 0
    in_reach = (np.arange(n_bins) + 0.5) * bin_s < n_frames * frame_s
    weights[is_empty & in_reach, centre[is_empty & in_reach]] = 1
    kept = jnp.where(is_token[:, :, None], _at_least_float32(tokens), 0)
    sums = jnp.einsum("kt,btd->bkd", weights.astype(kept.dtype), kept, precision="highest")
    counts = jnp.einsum("kt,bt->bk", weights, is_token.astype(np.float32), precision="highest")
    return jnp.where(counts[:, :, None] > 0, sums / jnp.maximum(counts, 1)[:, :, None], jnp.nan)


# "image_mean", "audio_mean" and "mean" are one computation under two masks: the tokens of the medium, or every token.
POOLINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "image_mean": mean_tokens,
    "audio_mean": mean_tokens,
    "mean": mean_tokens,
    "last": last_token,
}
