"""The features of one fit, decomposed once for every train/test split; penalties and targets then cost matrix products."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.linalg import factorise, from_gram, inverse
from jaxalign.compute.stats import dot, mean, scale
from jaxalign.compute.sums import (
    Sums,
    at_least_tiny,
    of_folds,
    of_training,
    subtracts,
    sums,
    take,
    weight_of,
    weighted_mean,
    weighted_sum,
)
from jaxalign.contracts import Array, Folds

KEPT_VARIANCE = 0.1
"""A fold's centred Gram matrix is the whole one minus the held-out part minus the mean's, unless a unit (wide: a stimulus)
keeps less than this share of its sum of squares: then too many digits cancel (float32 loses a factor 10 at most), and the
training rows are centred before their product is taken. One stimulus far from all others is enough."""


class Scaling(NamedTuple):
    """What is subtracted from each feature and what it is divided by; both (p,). Columns divided by 0 become 0."""

    shift: jax.Array
    spread: jax.Array


class Split(NamedTuple):
    """One train/test split of one fit, in the basis where every penalty is diagonal; r = min(n_train, p).

    Attributes:
        singular: (r,) singular values of the centred training features; None for "cholesky".
        rotation: turns training responses into that basis. Tall (p <= n_train): (p, r), right singular vectors over
            singular values, for cross-products with the features. Wide: (n_train, r), left singular vectors.
        average: tall, (p,) mean of the scaled training features; wide, None.
        held_out: (n_test, r) centred test features in the basis of the right singular vectors; None where gram serves.
        gram: (r, r) Gram matrix of held_out over the test rows; None where predictions are cheaper.
        pull: (r,) sum of held_out over the test rows, beside gram.
        system: "cholesky" only, the (r, r) Gram matrix of training features (tall) or stimuli (wide); held_out is then
            the (n_test, r) test features, or their inner products with the training stimuli.
        noise: () squared singular value up to which a direction cannot be told from rounding (linalg.from_gram); 0 by svd.
        is_lost: () whether sums over the training rows of a tall split must not be taken by difference; None where they
            are not.
    """

    singular: Array = None
    rotation: Array = None
    average: Array = None
    held_out: Array = None
    gram: Array = None
    pull: Array = None
    system: Array = None
    is_lost: Array = None
    noise: Array = None

    @property
    def is_tall(self) -> bool:
        return self.average is not None


def is_tall(n_train: int, width: int) -> bool:
    """Whether the Gram matrix of features is the smaller one: its factorisation then costs less."""
    return width <= n_train


def scores_by_gram(n_test: int, rank: int, n_alphas: int) -> bool:
    """Whether scoring by the held-out Gram matrix is cheaper than by predictions, per target and all penalties."""
    return n_alphas * n_test > (n_alphas + 1) * rank


def scaling(
    values: jax.Array,
    index: jax.Array,
    is_row: jax.Array,
    weights: jax.Array | None,
    is_centred: bool,
    is_zscored: bool,
) -> Scaling:
    """Mean and SD of the training rows, which alone decide; 0 and 1 where not asked for. (n, p) -> Scaling"""
    rows = values[index]
    weight = weight_of(weights, index, is_row, values.dtype)
    # First the plain mean, then the weighted mean of what is left: one unit at +5000 keeps its digits.
    rough = mean(rows, weight > 0)
    left = jnp.where((weight > 0)[:, None], rows - rough[None, :], 0)
    average = rough + weighted_mean(left, weight)
    one = jnp.ones_like(average)
    if not is_zscored:
        return Scaling(average if is_centred else jnp.zeros_like(one), one)
    sd = scale(rows, weight > 0)
    if weights is not None:
        safe = jnp.where(sd > 0, sd, 1)
        unit = (left + (rough - average)[None, :]) / safe[None, :]
        sd = sd * jnp.sqrt(weighted_mean(unit**2, weight))
    return Scaling(average if is_centred else jnp.zeros_like(one), sd)


def scaled(values: jax.Array, by: Scaling) -> jax.Array:
    """Features with their scaling applied. (n, p) -> (n, p)"""
    safe = jnp.where(by.spread > 0, by.spread, 1)
    return jnp.where(by.spread[None, :] > 0, (values - by.shift[None, :]) / safe[None, :], 0)


class Way(NamedTuple):
    """How to decompose: static.

    Attributes:
        is_centred: centre features by each fold's training rows.
        is_zscored: divide them by the SD over the outer training rows.
        solver: "eigh", "svd" or "cholesky".
        platform: "cpu", "cuda" or "tpu".
    """

    is_centred: bool = True
    is_zscored: bool = False
    solver: str = "eigh"
    platform: str = "cpu"


class Shared(NamedTuple):
    """What folds computed that the split of their base rows needs too; None where they did not.

    Attributes:
        whole: sums over the base rows.
        gram: (n, n) inner products of all stimuli.
    """

    whole: Array = None
    gram: Array = None


def splits(
    values: jax.Array,
    folds: Folds,
    base: tuple[jax.Array, jax.Array],
    weights: jax.Array | None,
    way: Way,
    n_alphas: int,
) -> tuple[Split, Shared]:
    """Decompose the training part of every fold, one after the other.

    Args:
        values: (n, p) scaled features.
        folds: (n_folds, ...) folds within the base rows.
        base: padded index of the base rows, which the folds divide, and which of it are rows.
        weights: (n,) weights of stimuli, or None.
        way: how.
        n_alphas: candidates that each fold will be scored with; decides how.
    Returns:
        Split with leading axis n_folds, and what they shared.
    """
    n_train, n_test = folds.train.shape[-1], folds.test.shape[-1]
    if not is_tall(n_train, values.shape[1]):
        gram = None if way.solver == "svd" else dot(values, values.T)
        return jax.lax.map(lambda fold: _wide(values, gram, fold, weights, way), folds), Shared(gram=gram)
    by_gram = way.solver != "cholesky" and scores_by_gram(n_test, values.shape[1], n_alphas)
    held, whole = of_folds(partial(_moments, values, weights), folds, base, by_gram)

    def of_fold(one: tuple[Folds, Sums | None]) -> Split:
        fold, test = one
        train, is_lost = _train_part(values, fold, whole, test, weights, way.is_centred)
        return _tall(values, fold, train, test, weights, way, by_gram)._replace(is_lost=is_lost)

    return jax.lax.map(of_fold, (folds, held)), Shared(whole=whole)


def one_split(values: jax.Array, fold: Folds, weights: jax.Array | None, way: Way, shared: Shared) -> Split:
    """Decompose one training part, to predict its test rows. `shared` is what is known of its training rows."""
    if not is_tall(fold.train.shape[-1], values.shape[1]):
        gram = dot(values, values.T) if shared.gram is None and way.solver != "svd" else shared.gram
        return _wide(values, gram, fold, weights, way)
    if shared.whole is None:
        train, _ = _train_part(values, fold, None, None, weights, way.is_centred)
    else:
        train = _about_mean(shared.whole, way.is_centred)
    return _tall(values, fold, train, None, weights, way, by_gram=False)


def _moments(values: jax.Array, weights: jax.Array | None, index: jax.Array, is_row: jax.Array) -> Sums:
    """Sums of features and of their products over some rows. (n, p) -> Sums of (p,) and (p, p)"""
    rows = take(values, index, is_row)
    return sums(rows, rows, weight_of(weights, index, is_row, values.dtype))


class Part(NamedTuple):
    """Training rows of a tall split: their mean, (p,), and Gram matrix about it, (p, p)."""

    average: jax.Array
    gram: jax.Array


def _about_mean(over: Sums, is_centred: bool) -> Part:
    total = at_least_tiny(over.weight)
    average = over.first / total if is_centred else jnp.zeros_like(over.first)
    return Part(average, over.second - total * average[:, None] * average[None, :])


def _train_part(
    values: jax.Array,
    fold: Folds,
    whole: Sums | None,
    test: Sums | None,
    weights: jax.Array | None,
    is_centred: bool,
) -> tuple[Part, jax.Array | None]:
    """Mean and Gram matrix of the training rows, by difference where that keeps the digits; and whether it did not."""

    def direct() -> Part:
        weight = weight_of(weights, fold.train, fold.is_train, values.dtype)
        rows = take(values, fold.train, fold.is_train)
        average = jnp.zeros_like(rows[0])
        if is_centred:
            average = weighted_mean(rows, weight)
        left = jnp.where(fold.is_train[:, None], rows - average[None, :], 0)
        return Part(average, dot((left * weight[:, None]).T, left))

    if whole is None or test is None or not subtracts(fold):
        return direct(), None
    train = _about_mean(of_training(partial(_moments, values, weights), fold, whole, test), is_centred)
    is_lost = jnp.any(jnp.diagonal(train.gram) < KEPT_VARIANCE * jnp.diagonal(whole.second))
    return jax.lax.cond(is_lost, direct, lambda: train), is_lost


def _tall(
    values: jax.Array,
    fold: Folds,
    train: Part,
    test: Sums | None,
    weights: jax.Array | None,
    way: Way,
    by_gram: bool,
) -> Split:
    average, gram = train
    rows = jnp.where(fold.is_test[:, None], values[fold.test] - average[None, :], 0)
    if way.solver == "cholesky":
        return Split(average=average, held_out=rows, system=gram)
    if way.solver == "svd":
        weight = weight_of(weights, fold.train, fold.is_train, values.dtype)
        centred = jnp.where(fold.is_train[:, None], values[fold.train] - average[None, :], 0)
        factors = factorise(centred * jnp.sqrt(weight)[:, None], solver="svd", platform=way.platform)
        singular, right, noise = factors.singular, factors.right, jnp.zeros((), values.dtype)
    else:
        singular, right, noise = from_gram(gram, way.platform)
    rotation = right * inverse(singular)[None, :]
    if not by_gram:
        return Split(singular, rotation, average, held_out=dot(rows, right), noise=noise)
    assert test is not None
    pull = test.first - test.weight * average
    centred = (
        test.second
        - average[:, None] * test.first[None, :]
        - test.first[:, None] * average[None, :]
        + test.weight * average[:, None] * average[None, :]
    )
    gram, pull = dot(right.T, dot(centred, right)), dot(pull[None, :], right)[0]
    return Split(singular, rotation, average, gram=gram, pull=pull, noise=noise)


def _wide(values: jax.Array, gram: jax.Array | None, fold: Folds, weights: jax.Array | None, way: Way) -> Split:
    weight = weight_of(weights, fold.train, fold.is_train, values.dtype)
    root = jnp.sqrt(weight)
    if way.solver == "svd":
        average = weighted_mean(values[fold.train], weight) if way.is_centred else jnp.zeros_like(values[0])
        factors = factorise(
            (values[fold.train] - average[None, :]) * root[:, None], solver="svd", platform=way.platform
        )
        test = jnp.where(fold.is_test[:, None], values[fold.test] - average[None, :], 0)
        noise = jnp.zeros((), values.dtype)
        return Split(factors.singular, factors.left, held_out=dot(test, factors.right), noise=noise)
    assert gram is not None
    own, other = _wide_products(values, gram, fold, weight, way.is_centred)
    # What a row of weight 0 holds must not matter, not even by overflow.
    own = jnp.where((root[:, None] > 0) & (root[None, :] > 0), own * root[:, None] * root[None, :], 0)
    other = jnp.where(fold.is_test[:, None] & (root[None, :] > 0), other * root[None, :], 0)
    if way.solver == "cholesky":
        # A padded or left-out row is all zero: 1 on the diagonal keeps the factorisation defined for alpha = 0.
        return Split(held_out=other, system=own + jnp.diag((weight == 0).astype(values.dtype)))
    singular, left, noise = from_gram(own, way.platform)
    return Split(singular, left, held_out=dot(other, left) * inverse(singular)[None, :], noise=noise)


def _wide_products(
    values: jax.Array, gram: jax.Array, fold: Folds, weight: jax.Array, is_centred: bool
) -> tuple[jax.Array, jax.Array]:
    """Inner products of training rows with themselves and with test rows. -> (n_train, n_train), (n_test, n_train)"""
    own, other = gram[fold.train][:, fold.train], gram[fold.test][:, fold.train]
    if not is_centred:
        return own, other
    share = weight / at_least_tiny(weight.sum())
    pull = dot(own, share[:, None])[:, 0]
    level = jnp.sum(pull * share)
    centred = own - pull[:, None] - (pull - level)[None, :]

    def direct() -> tuple[jax.Array, jax.Array]:
        average = weighted_sum(values[fold.train], share)
        rows = jnp.where((weight > 0)[:, None], values[fold.train] - average[None, :], 0)
        return dot(rows, rows.T), dot(values[fold.test] - average[None, :], rows.T)

    def by_difference() -> tuple[jax.Array, jax.Array]:
        return centred, other - dot(other, share[:, None]) - (pull - level)[None, :]

    is_lost = jnp.any((jnp.diagonal(centred) < KEPT_VARIANCE * jnp.diagonal(own)) & (weight > 0))
    return jax.lax.cond(is_lost, direct, by_difference)


def decomposed(
    values: jax.Array, outer: Folds, inner: Folds, weights: jax.Array | None, way: Way, n_alphas: int
) -> tuple[Scaling, Split, Split]:
    """One outer fold: its scaling, its inner splits, and the split that predicts its test rows.

    Args:
        values: (n, p) features as given.
        outer: one fold.
        inner: (n_inner, ...) folds within its training rows.
        weights: (n,) or None.
        way: how.
        n_alphas: candidates that inner folds will be scored with.
    """
    by, rows = _scaled_by_training(values, outer, weights, way)
    parts, shared = splits(rows, inner, (outer.train, outer.is_train), weights, way, n_alphas)
    return by, parts, one_split(rows, outer, weights, way, shared)


def inner_splits(
    values: jax.Array, outer: Folds, inner: Folds, weights: jax.Array | None, way: Way, n_alphas: int
) -> tuple[Scaling, Split]:
    """The part of `decomposed` that chooses: scaling of the outer fold, and its inner splits."""
    by, rows = _scaled_by_training(values, outer, weights, way)
    return by, splits(rows, inner, (outer.train, outer.is_train), weights, way, n_alphas)[0]


def alone(values: jax.Array, outer: Folds, weights: jax.Array | None, way: Way) -> tuple[Scaling, Split]:
    """The part of `decomposed` that predicts: scaling of the outer fold, and its own split."""
    by, rows = _scaled_by_training(values, outer, weights, way)
    return by, one_split(rows, outer, weights, way, Shared())


def _scaled_by_training(
    values: jax.Array, outer: Folds, weights: jax.Array | None, way: Way
) -> tuple[Scaling, jax.Array]:
    by = scaling(values, outer.train, outer.is_train, weights, way.is_centred, way.is_zscored)
    return by, scaled(values, by)


def decomposed_with_itself(
    values: jax.Array, outer: Folds, weights: jax.Array | None, way: Way
) -> tuple[Scaling, Split, Split]:
    """The same for leave-one-out: one decomposition, whose training rows are test rows too.

    Returns:
        Scaling; the split with the training rows as its test rows, leading axis 1; the split that predicts the test rows.
    """
    n_test = outer.test.shape[-1]
    both = replace(
        outer,
        test=jnp.concatenate([outer.test, outer.train]),
        is_test=jnp.concatenate([outer.is_test, outer.is_train]),
        rest=None,
        is_rest=None,
        is_complement=False,
        is_partition=False,
    )
    by, split = alone(values, both, weights, way)
    assert split.held_out is not None
    own = split._replace(held_out=split.held_out[n_test:])
    return by, jax.tree.map(lambda leaf: leaf[None], own), split._replace(held_out=split.held_out[:n_test])


def on_itself(outer: Folds) -> Folds:
    """The training rows of a fold as its test rows, leading axis 1."""
    index, is_row = outer.train[None], outer.is_train[None]
    return Folds(index, is_row, index, is_row)
