"""Exact leave-one-out and generalised cross-validation for every penalty, from one decomposition and no refits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.decompose import Split
from jaxalign.compute.held_out import Rotated, Truth, named
from jaxalign.compute.linalg import inverse
from jaxalign.compute.stats import dot
from jaxalign.compute.sums import at_least_tiny


class Residual(NamedTuple):
    """What no penalty explains: responses outside the span of the features, and the leverage that is left there.

    Attributes:
        left: (n, r) left singular vectors.
        outside: (n, n_targets) responses minus their projection.
        free: (n,) 1 minus leverage of the mean and of all directions.
        is_full: () whether features and mean span all stimuli; then both are 0, and the penalty cancels.
        n_rows: () stimuli of weight above 0.
        rank: () directions above the cut-off.
    """

    left: jax.Array
    outside: jax.Array
    free: jax.Array
    is_full: jax.Array
    n_rows: jax.Array
    rank: jax.Array


def loo_criterion(
    split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str, is_centred: bool
) -> jax.Array:
    """Criterion of exact leave-one-out: the residual of each stimulus divided by 1 minus its leverage.

    Args:
        split: decomposition whose test rows are its own training rows.
        rotated, truth: their responses.
        alphas: (n_alphas,).
        name: "r2" or "neg_mse", over all left-out predictions.
        is_centred: the mean is estimated too, and is left out with the stimulus.
    Returns:
        (n_alphas, n_targets).
    Source:
        Golub, Heath & Wahba 1979, Technometrics 21:215; Rifkin & Lippert 2007, MIT-CSAIL-TR-2007-025.
    """
    split = _certain(split)
    rest = _residual(split, rotated, truth, is_centred)
    share = truth.weight / at_least_tiny(truth.weight.sum())

    def of_alpha(alpha: jax.Array) -> jax.Array:
        damping = _damping(split.singular, alpha, rest.is_full)
        error = rest.outside + dot(rest.left, damping[:, None] * rotated.values)
        free = rest.free + dot(rest.left**2, damping[:, None])[:, 0]
        left_out = jnp.where((share > 0)[:, None], error / jnp.where(share > 0, free, 1)[:, None], 0)
        # As a product: a sum that XLA fuses into the product before it runs on one thread of a CPU.
        return dot(jnp.ones((1, left_out.shape[0]), left_out.dtype), left_out**2)[0]

    return named(jax.lax.map(of_alpha, alphas), truth, name)


def gcv_criterion(
    split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str, is_centred: bool
) -> jax.Array:
    """Criterion of generalised cross-validation: mean squared error over (1 - effective degrees of freedom / n)^2.

    Arguments, result and source as `loo_criterion`; the penalties cost one (n_alphas, r) x (r, n_targets) product.
    """
    split = _certain(split)
    rest = _residual(split, rotated, truth, is_centred)
    damping = jax.lax.map(lambda alpha: _damping(split.singular, alpha, rest.is_full), alphas)
    squares = jnp.sum(rest.outside**2, axis=0)[None, :] + dot(damping**2, rotated.values**2)
    spare = jnp.where(rest.is_full, 0, rest.n_rows - jnp.asarray(is_centred, rest.n_rows.dtype) - rest.rank)
    free = spare + jnp.sum(damping, axis=1)
    return named(squares * (rest.n_rows / free[:, None]) ** 2, truth, name)


def _certain(split: Split) -> Split:
    """Without directions that are noise: leverage needs singular vectors of length 1."""
    return split._replace(singular=jnp.where(split.singular**2 <= split.noise, 0, split.singular))


def _residual(split: Split, rotated: Rotated, truth: Truth, is_centred: bool) -> Residual:
    root = jnp.sqrt(truth.weight)
    keep = split.singular > 0
    left = split.held_out * root[:, None] * inverse(split.singular)[None, :]
    outside = truth.values * root[:, None] - dot(left, rotated.values)
    dtype = truth.weight.dtype
    n_rows, rank = (truth.weight > 0).sum().astype(dtype), keep.sum().astype(dtype)
    share = truth.weight / at_least_tiny(truth.weight.sum())
    free = 1 - jnp.sum(left**2, axis=1) - (share if is_centred else jnp.zeros_like(share))
    is_full = rank >= n_rows - jnp.asarray(is_centred, dtype)
    return Residual(
        left,
        jnp.where(is_full, 0, outside),
        jnp.where(is_full, 0, jnp.maximum(free, 0)),
        is_full,
        n_rows,
        rank,
    )


def _damping(singular: jax.Array, alpha: jax.Array, is_full: jax.Array) -> jax.Array:
    """Share of each direction that a penalty holds back, alpha / (s^2 + alpha); without alpha where it cancels. -> (r,)

    Never as a difference such as 1/(s^2 + alpha) - 1/alpha, which has no digits left for small penalties.
    """
    keep = singular > 0
    total = jnp.where(keep, singular**2 + alpha, 1)
    return jnp.where(keep, jnp.where(is_full, 1, alpha) / total, 0 * singular)
