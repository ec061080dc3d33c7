"""Tokens to features: one row per stimulus from the activations of all its tokens, under a token mask."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


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


# "image_mean" and "mean" are one computation under two masks: the image's tokens, or every token of the stimulus.
POOLINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "image_mean": mean_tokens,
    "mean": mean_tokens,
    "last": last_token,
}
