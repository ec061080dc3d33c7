"""Responses beside decomposed features: rotated into the same basis, predicted, and judged on held-out stimuli."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.decompose import Scaling, Split, scaled
from jaxalign.compute.linalg import filter_basis, shrinkage, solve_by_cholesky
from jaxalign.compute.stats import dot, is_constant
from jaxalign.compute.sums import Sums, at_least_tiny, sums, take, weight_of, weighted_mean, weighted_sum
from jaxalign.contracts import Array, Folds

CRITERIA = ("r2", "neg_mse", "pearson_r")
ROWS_PER_PRODUCT = 1024
"""Predictions for several penalties go through one matrix product until it has about so many rows."""

ROWS_PER_SCAN = 32
"""Test rows whose predictions by all filters of a basis are held at a time."""


class Rotated(NamedTuple):
    """Training responses where the penalty is diagonal, (r, n_targets), and their mean (n_targets,)."""

    values: jax.Array
    average: jax.Array


class Truth(NamedTuple):
    """Held-out responses of one split.

    Attributes:
        values: (n_test, n_targets) minus the training mean, 0 where padded; None where the split scores by its Gram.
        weight: (n_test,).
        cross: (r, n_targets) products of values with the held-out features; None where predictions are made.
        first: (n_targets,) weighted sum of values.
        square: (n_targets,) weighted sum of squares of values.
        spread: (n_targets,) the same about the mean of the test rows; NaN for a target that is constant there.
    """

    values: Array
    weight: jax.Array
    cross: Array
    first: jax.Array
    square: jax.Array
    spread: jax.Array


class Side(NamedTuple):
    """Features beside which responses are rotated; None where the split is wide and needs them no more.

    Attributes:
        values: (n, p) features as given.
        by: their scaling.
        base: padded index of the rows that the folds divide, and which of it are rows.
    """

    values: Array
    by: Scaling
    base: tuple[jax.Array, jax.Array]


def products(side: Side, responses: jax.Array, weights: jax.Array | None, index: jax.Array, is_row: jax.Array) -> Sums:
    """Sums of responses and of their products with scaled features over some rows. -> Sums of (n_targets,), (p, n_targets)"""
    assert side.values is not None
    weight = weight_of(weights, index, is_row, responses.dtype)
    return sums(scaled(side.values[index], side.by), responses[index], weight)


def rotate(
    split: Split,
    fold: Folds,
    responses: jax.Array,
    weights: jax.Array | None,
    train: Sums | None,
    is_centred: bool,
    side: Side | None = None,
) -> Rotated:
    """Training responses in the basis of a split; `train` are the products of its training rows when it is tall.

    With `side`, products are taken again over centred rows where the split says that differences have lost the digits.
    """
    if train is not None:
        assert split.average is not None
        average = train.first / at_least_tiny(train.weight) if is_centred else jnp.zeros_like(train.first)
        cross = train.second - split.average[:, None] * train.first[None, :]
        if side is not None and split.is_lost is not None:
            again = partial(_centred_cross, split, side, fold, responses, weights)
            cross = jax.lax.cond(split.is_lost, again, lambda: cross)
        return Rotated(cross if split.rotation is None else dot(split.rotation.T, cross), average)
    weight = weight_of(weights, fold.train, fold.is_train, responses.dtype)
    rows = take(responses, fold.train, fold.is_train)
    average = weighted_mean(rows, weight) if is_centred else jnp.zeros_like(rows[0])
    centred = (rows - average[None, :]) * jnp.sqrt(weight)[:, None]
    return Rotated(centred if split.rotation is None else dot(split.rotation.T, centred), average)


def _centred_cross(split: Split, side: Side, fold: Folds, responses: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Sums of centred training features with responses. -> (p, n_targets)"""
    assert split.average is not None and side.values is not None
    weight = weight_of(weights, fold.train, fold.is_train, responses.dtype)
    rows = scaled(side.values[fold.train], side.by) - split.average[None, :]
    return dot(jnp.where((weight > 0)[:, None], rows * weight[:, None], 0).T, responses[fold.train])


def truth_of(
    split: Split,
    fold: Folds,
    responses: jax.Array,
    weights: jax.Array | None,
    average: jax.Array,
    test: Sums | None,
) -> Truth:
    """Held-out responses as a split needs them; `test` are the products of its test rows when it scores by Gram."""
    weight = weight_of(weights, fold.test, fold.is_test, responses.dtype)
    rows = responses[fold.test]
    values = jnp.where(fold.is_test[:, None], rows - average[None, :], 0)
    first = weighted_sum(values, weight)
    level = (first / at_least_tiny(weight.sum()))[None, :]
    square = weighted_sum(values**2, weight)
    spread = weighted_sum((values - level) ** 2, weight)
    spread = jnp.where(is_constant(rows, fold.is_test & (weight > 0)), jnp.nan, spread)
    if split.gram is None:
        return Truth(values, weight, None, first, square, spread)
    assert test is not None and split.rotation is not None and split.average is not None and split.singular is not None
    # Sum over test rows of w (x - train mean)(y - train mean)', rotated.
    cross = dot(split.rotation.T, test.second - split.average[:, None] * test.first[None, :]) * split.singular[:, None]
    cross = cross - split.pull[:, None] * average[None, :]
    return Truth(None, weight, cross, first, square, spread)


def criterion(
    split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str, n_basis: int = 0
) -> jax.Array:
    """Criterion on the test rows of one split, for every penalty and target.

    Args:
        split: one split.
        rotated, truth: its training and test responses.
        alphas: (n_alphas,).
        name: one of CRITERIA.
        n_basis: how many filters span those of all penalties (linalg.basis_size); 0 computes each by itself.
    Returns:
        (n_alphas, n_targets); NaN for a target that is constant over the test rows (r2 and r).
    """
    if split.system is not None:

        def of_alpha(alpha: jax.Array) -> jax.Array:
            predicted = dot(split.held_out, solve_by_cholesky(split.system, alpha, rotated.values))
            return _judged_predictions(predicted, truth, name)[0]

        return jax.lax.map(of_alpha, alphas)
    n_basis = min(n_basis, split.singular.shape[0])
    given = split, rotated, truth, alphas, name
    if split.gram is not None:
        return _dense_by_gram(*given, n_basis) if n_basis else _by_gram(*given)
    return _dense_by_predictions(*given, n_basis) if n_basis else _by_predictions(*given)


def at_own_alpha(split: Split, rotated: Rotated, truth: Truth, alpha: jax.Array, name: str) -> jax.Array:
    """The criterion with one penalty for each target. (n_targets,) -> (n_targets,)"""
    own = shrinkage(split.singular, alpha, split.noise).T * rotated.values
    if split.gram is None:
        return _judged_predictions(dot(split.held_out, own), truth, name)[0]
    return _judged_sums(*_sums(own, dot(split.gram, own), split, truth), truth, name)[0]


def predict(split: Split, rotated: Rotated, alpha: jax.Array, place: jax.Array, alphas: jax.Array) -> jax.Array:
    """Predictions of the test rows with one penalty per target, minus the training mean. -> (n_test, n_targets)

    `alpha` are the penalties, `place` where in `alphas` they are: a Cholesky solver goes through the candidates.
    """
    if split.system is None:
        return dot(split.held_out, shrinkage(split.singular, alpha, split.noise).T * rotated.values)

    return dot(split.held_out, own_solutions(split, rotated, place, alphas))


def own_solutions(split: Split, rotated: Rotated, place: jax.Array, alphas: jax.Array) -> jax.Array:
    """Solutions of (Gram + alpha) w = right side by Cholesky, each target with its own candidate. -> (r, n_targets)

    Targets are gone through by candidate: as many factorisations as there are candidates.
    """

    def add(index: jax.Array, so_far: jax.Array) -> jax.Array:
        solution = solve_by_cholesky(split.system, alphas[index], rotated.values)
        return jnp.where((place == index)[None, :], solution, so_far)

    return jax.lax.fori_loop(0, alphas.shape[0], add, jnp.zeros_like(rotated.values))


def _chunks(alphas: jax.Array, size: int) -> jax.Array:
    """Rows of (n_alphas, ...) in groups of `size`, the last one filled up by repeating. -> (n_chunks, size, ...)"""
    missing = -len(alphas) % size
    filled = jnp.concatenate([alphas, jnp.repeat(alphas[-1:], missing, axis=0)]) if missing else alphas
    return filled.reshape(-1, size, *alphas.shape[1:])


def _by_predictions(split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str) -> jax.Array:
    size = min(alphas.shape[0], max(1, ROWS_PER_PRODUCT // truth.values.shape[0]))

    def of_some(some: jax.Array) -> jax.Array:
        held_out = split.held_out[None] * shrinkage(split.singular, some, split.noise)[:, None, :]
        return _judged_predictions(dot(held_out.reshape(-1, held_out.shape[2]), rotated.values), truth, name)

    return jax.lax.map(of_some, _chunks(alphas, size)).reshape(-1, truth.values.shape[1])[: alphas.shape[0]]


def _by_gram(split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str) -> jax.Array:
    def of_filter(row: jax.Array) -> jax.Array:
        own = row[:, None] * rotated.values
        return _judged_sums(*_sums(own, dot(split.gram, own), split, truth), truth, name)[0]

    return jax.lax.map(of_filter, shrinkage(split.singular, alphas, split.noise))


def _over_basis(
    matrix: jax.Array, split: Split, rotated: Rotated, alphas: jax.Array, n_basis: int, add, start: Any
) -> Any:
    """Go through the rows of `matrix` x filtered responses, for all penalties of a row at a time.

    A filter is a combination of `n_basis` others, so the long product is taken for those alone, and a short one of
    (n_alphas, n_basis) x (n_basis, n_targets) per row gives all penalties.

    Args:
        matrix: (m, r).
        split, rotated: of one fold.
        alphas: (n_alphas,).
        n_basis: filters in the basis.
        add: (sums so far, row number, (n_alphas, n_targets) products of that row) -> sums.
        start: sums of no row.
    """
    singular = _certain(split, alphas)
    basis, share = filter_basis(singular, alphas, n_basis)
    basis = _over(basis, singular)
    n_targets = rotated.values.shape[1]
    filtered = (basis.T[:, :, None] * rotated.values[:, None, :]).reshape(-1, n_basis * n_targets)

    def of_rows(so_far: Any, some: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        numbers, rows = some
        made = dot(rows, filtered).reshape(-1, n_basis, n_targets)

        def of_row(so_far: Any, one: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            return add(so_far, one[0], dot(share, one[1])), None

        return jax.lax.scan(of_row, so_far, (numbers, made))[0], None

    numbers = jnp.arange(matrix.shape[0], dtype=jnp.int32)
    size = min(ROWS_PER_SCAN, matrix.shape[0])
    n_full = matrix.shape[0] // size * size
    blocks = numbers[:n_full].reshape(-1, size), matrix[:n_full].reshape(-1, size, matrix.shape[1])
    out, _ = jax.lax.scan(of_rows, start, blocks)
    if n_full < matrix.shape[0]:
        out, _ = of_rows(out, (numbers[n_full:], matrix[n_full:]))
    return out


def _dense_by_predictions(
    split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str, n_basis: int
) -> jax.Array:
    """As `_by_predictions`, for so many penalties that a few filters span theirs."""
    nothing = jnp.zeros((alphas.shape[0], truth.values.shape[1]), truth.values.dtype)
    if name != "pearson_r":

        def add_residual(so_far: jax.Array, row: jax.Array, predicted: jax.Array) -> jax.Array:
            return so_far + truth.weight[row] * (truth.values[row][None, :] - predicted) ** 2

        residual = _over_basis(split.held_out, split, rotated, alphas, n_basis, add_residual, nothing)
        return named(residual, truth, name)

    def add(so_far: jax.Array, row: jax.Array, predicted: jax.Array) -> jax.Array:
        weighted = truth.weight[row] * predicted
        return so_far + jnp.stack([weighted * truth.values[row][None, :], weighted * predicted, weighted])

    start = jnp.stack([nothing, nothing, nothing])
    cross, square, first = _over_basis(split.held_out, split, rotated, alphas, n_basis, add, start)
    return _judged_sums(cross, square, first, truth, name)


def _dense_by_gram(
    split: Split, rotated: Rotated, truth: Truth, alphas: jax.Array, name: str, n_basis: int
) -> jax.Array:
    """As `_by_gram`, for so many penalties that a few filters span theirs."""
    shrunk = shrinkage(_certain(split, alphas), alphas)

    def add(so_far: jax.Array, row: jax.Array, product: jax.Array) -> jax.Array:
        return so_far + shrunk[:, row][:, None] * rotated.values[row][None, :] * product

    nothing = jnp.zeros((alphas.shape[0], rotated.values.shape[1]), rotated.values.dtype)
    square = _over_basis(split.gram, split, rotated, alphas, n_basis, add, nothing)
    cross = dot(shrunk, truth.cross * rotated.values)
    first = dot(shrunk, split.pull[:, None] * rotated.values)
    return _judged_sums(cross, square, first, truth, name)


def _certain(split: Split, alphas: jax.Array) -> jax.Array:
    """Singular values without those that are noise to the smallest penalty: a filter must be smooth in alpha. -> (r,)"""
    is_noise = (split.singular**2 <= split.noise) & (jnp.min(alphas) <= split.noise)
    return jnp.where(is_noise, 0, split.singular)


def _over(basis: jax.Array, singular: jax.Array) -> jax.Array:
    """Filters as factors of rotated responses: divided by the singular value, 0 in dropped directions."""
    return jnp.where(singular > 0, basis / jnp.where(singular > 0, singular, 1)[None, :], 0 * singular[None, :])


def _sums(own: jax.Array, product: jax.Array, split: Split, truth: Truth) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over the test rows of prediction x truth, prediction squared, and prediction. -> (1, n_targets) each"""
    ones = jnp.ones((1, own.shape[0]), own.dtype)
    return dot(ones, truth.cross * own), dot(ones, own * product), dot(split.pull[None, :], own)


def _judged_sums(cross: jax.Array, square: jax.Array, first: jax.Array, truth: Truth, name: str) -> jax.Array:
    """The criterion from sums over the test rows. (n, n_targets) -> (n, n_targets)"""
    if name != "pearson_r":
        return named(truth.square[None, :] - 2 * cross + square, truth, name)
    total = at_least_tiny(truth.weight.sum())
    product = cross - first * truth.first[None, :] / total
    spread = jnp.maximum(square - first**2 / total, 0)
    return _correlation(product, spread, spread <= 8 * jnp.finfo(square.dtype).eps * square, truth)


def named(residual: jax.Array, truth: Truth, name: str) -> jax.Array:
    """A criterion from residual sums of squares. (n, n_targets) -> (n, n_targets)"""
    if name == "neg_mse":
        total = truth.weight.sum()
        return -residual / jnp.where(total > 0, total, jnp.nan)
    return 1 - residual / truth.spread[None, :]


def _correlation(product: jax.Array, spread: jax.Array, is_flat: jax.Array, truth: Truth) -> jax.Array:
    """Pearson r from sums: 0 for a constant prediction, NaN for a constant target. (n, n_targets) each"""
    r = product / jnp.sqrt(jnp.where(is_flat, 1, spread) * truth.spread[None, :])
    return jnp.where(is_flat & ~jnp.isnan(truth.spread)[None, :], 0, r)


def _judged_predictions(predicted: jax.Array, truth: Truth, name: str) -> jax.Array:
    """The criterion from predictions by several penalties, one below the other. (n * n_test, n_targets) -> (n, n_targets)"""
    n = predicted.shape[0] // truth.values.shape[0]
    values = jnp.tile(truth.values, (n, 1))
    # Sums over rows as products: a sum that XLA fuses into the product before it runs on one thread of a CPU.
    summing = jnp.kron(jnp.eye(n, dtype=predicted.dtype), truth.weight[None, :])
    if name != "pearson_r":
        return named(dot(summing, (values - predicted) ** 2), truth, name)
    total = at_least_tiny(truth.weight.sum())
    first = dot(summing, predicted)
    centred = predicted - jnp.repeat(first / total, truth.values.shape[0], axis=0)
    spread, product = dot(summing, centred**2), dot(summing, centred * values)
    is_flat = spread <= 8 * jnp.finfo(predicted.dtype).eps * (spread + first**2 / total)
    return _correlation(product, spread, is_flat, truth)
