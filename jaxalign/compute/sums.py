"""Weighted sums over rows, and those over training rows as the sums over all rows minus the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.stats import dot
from jaxalign.contracts import Folds


class Sums(NamedTuple):
    """Weighted sums over some rows of a left side (n, k) and a right side (n, m).

    Attributes:
        weight: () of the weights.
        first: (m,) of the right side.
        second: (k, m) of products of both sides.
    """

    weight: jax.Array
    first: jax.Array
    second: jax.Array

    def minus(self, other: Sums) -> Sums:
        return Sums(self.weight - other.weight, self.first - other.first, self.second - other.second)


def take(values: jax.Array, index: jax.Array, is_row: jax.Array) -> jax.Array:
    """Rows by padded index, 0 where padded. (n, m), (n_rows,), (n_rows,) -> (n_rows, m)"""
    return jnp.where(is_row[:, None], values[index], 0)


def weight_of(weights: jax.Array | None, index: jax.Array, is_row: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Weight of each row of a padded index, 0 where padded. -> (n_rows,)"""
    return is_row.astype(dtype) if weights is None else jnp.where(is_row, weights[index].astype(dtype), 0)


def weighted_sum(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum over rows. (n, m), (n,) -> (m,)"""
    return dot(weight[None, :], values)[0]


def at_least_tiny(total: jax.Array) -> jax.Array:
    """A sum of weights that can be divided by, also where there are none."""
    return jnp.maximum(total, jnp.finfo(total.dtype).tiny)


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean over rows, 0 without weights. (n, m), (n,) -> (m,)"""
    return weighted_sum(values, weight) / at_least_tiny(weight.sum())


def sums(left: jax.Array, right: jax.Array, weight: jax.Array) -> Sums:
    """(n, k), (n, m), (n,) -> Sums"""
    return Sums(weight.sum(), weighted_sum(right, weight), dot((left * weight[:, None]).T, right))


def subtracts(folds: Folds) -> bool:
    """Whether sums over training rows are taken as those over all rows minus the others, which are fewer."""
    n_other = folds.test.shape[-1] + (0 if folds.rest is None else folds.rest.shape[-1])
    return folds.is_complement and n_other < folds.train.shape[-1]


def of_folds(
    of_rows: Callable[[jax.Array, jax.Array], Sums],
    folds: Folds,
    base: tuple[jax.Array, jax.Array],
    needs_tests: bool,
) -> tuple[Sums | None, Sums | None]:
    """Sums over the test rows of every fold, and over the base rows that the folds divide; None where nothing needs them.

    Args:
        of_rows: padded index and which of it are rows -> Sums.
        folds: (n_folds, ...).
        base: padded index of the base rows, and which of it are rows.
        needs_tests: the test rows are wanted for themselves.
    """
    held = None
    if needs_tests or subtracts(folds):
        held = jax.lax.map(lambda fold: of_rows(fold.test, fold.is_test), folds)
    if held is not None and folds.is_partition:
        return held, jax.tree.map(lambda parts: parts.sum(0), held)
    return held, of_rows(*base) if subtracts(folds) else None


def of_training(of_rows: Callable[[jax.Array, jax.Array], Sums], fold: Folds, whole: Sums, test: Sums) -> Sums:
    """Sums over the training rows of a fold, by difference."""
    kept = whole.minus(test)
    return kept if fold.rest is None else kept.minus(of_rows(fold.rest, fold.is_rest))
