"""Several model RDMs at once: partial correlations, regression, non-negative weights, weights scored on other stimuli."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.gram import n_pairs
from jaxalign.compute.masked import order_of, weighted_cosine, weighted_pearson, weighted_rank
from jaxalign.compute.stats import centre, dot, rank, scale, unit_norm
from jaxalign.errors import nearest

SCORED_BY = ("cosine", "pearson", "spearman")


class CrossValidated(NamedTuple):
    """Weighted models scored on stimuli that their weights have not seen.

    Attributes:
        score: (T,) mean over folds.
        fold_score: (n_folds, T).
        weights: (n_folds, n_models, T) in units of the data per unit of each model.
    """

    score: jax.Array
    fold_score: jax.Array
    weights: jax.Array


class _Models(NamedTuple):
    """Pseudo-inverse (M, M) of the correlations of models, and which of them the others do not determine, (M,) bool."""

    inverse: jax.Array
    is_free: jax.Array


class _Search(NamedTuple):
    """Weights (M,) so far, which of them are free to differ from 0, (M,) bool, and where the search stands."""

    weights: jax.Array
    is_free: jax.Array
    is_done: jax.Array
    round_index: jax.Array


def partial(data: jax.Array, models: jax.Array, is_rank: bool) -> jax.Array:
    """Correlation of each model with the data when all other models are held constant.

    A null relabels the stimuli of the data (`comparators.relabelled`): the models keep their relation to one another.

    Args:
        data: (n_pairs, T) dissimilarities.
        models: (n_pairs, M) dissimilarities.
        is_rank: True for the partial Spearman correlation.
    Returns:
        (M, T) in [-1, 1]; NaN for constant data, and for a model that is constant or that the others determine.
    """
    target, regressors = _units(data, is_rank), _filled(_units(models, is_rank))
    known = _models(regressors)
    covariance = dot(regressors.T, target)
    betas = dot(known.inverse, covariance)
    # Of unit length, what no model explains is 1 - c'b; a difference that is lost to rounding is rounding.
    left = jnp.sum((target - dot(regressors, betas)) ** 2, axis=0)
    own = jnp.diagonal(known.inverse)[:, None] * left[None, :]
    value = betas / jnp.sqrt(betas**2 + own)
    return jnp.where(known.is_free[:, None], value, jnp.nan)


def partial_given(data: jax.Array, model: jax.Array, controls: jax.Array, is_rank: bool) -> jax.Array:
    """Correlation of each model with the data when the controls, not the other models, are held constant.

    Args:
        data: (n_pairs, T) dissimilarities.
        model: (n_pairs, M) dissimilarities, each taken alone.
        controls: (n_pairs, C) dissimilarities.
        is_rank: True for the partial Spearman correlation.
    Returns:
        (M, T) in [-1, 1]; NaN for constant data or model, and where the controls determine one of the two.
    """
    base = _filled(_units(controls, is_rank))
    inverse = _models(base).inverse

    def residual(values: jax.Array) -> jax.Array:
        unit = _units(values, is_rank)
        left = unit
        for _ in range(2):  # the second time removes what rounding left of the controls
            left = left - dot(base, dot(inverse, dot(base.T, left)))
        length = jnp.sqrt(jnp.sum(left**2, axis=0))
        is_left = length > base.shape[1] * 32 * jnp.finfo(values.dtype).eps
        return left / jnp.where(is_left, length, jnp.nan)[None, :]

    return dot(residual(model).T, residual(data))


def regression(data: jax.Array, models: jax.Array, is_standardised: bool = False) -> jax.Array:
    """Least-squares weights of all models together, with an intercept.

    Args:
        data: (n_pairs, T) dissimilarities.
        models: (n_pairs, M) dissimilarities.
        is_standardised: weights in SD of the data per SD of the model; else in units of the data per unit of the model.
    Returns:
        (M, T) weights; NaN for constant data, and for a model that is constant or that the others determine.
    """
    regressors = _filled(_units(models, False))
    known = _models(regressors)
    betas = dot(known.inverse, dot(regressors.T, _units(data, False)))
    betas = jnp.where(known.is_free[:, None], betas, jnp.nan)
    if is_standardised:
        return betas
    data_sd, model_sd = (scale(values, jnp.ones(values.shape[0], bool)) for values in (data, models))
    return betas * data_sd[None, :] / jnp.where(model_sd > 0, model_sd, jnp.nan)[:, None]


def nonnegative(data: jax.Array, models: jax.Array) -> jax.Array:
    """Non-negative weights w that minimise sum((data - models w)^2), without intercept.

    Args:
        data: (n_pairs, T) dissimilarities.
        models: (n_pairs, M) dissimilarities, not linearly dependent, or the weights are one of many solutions.
    Returns:
        (M, T) weights, at least 0; NaN for data with NaN or Inf.
    Source: Lawson & Hanson 1974, Solving Least Squares Problems; on the normal equations: Bro & de Jong 1997,
        J. Chemometrics 11:393.
    """
    return _weights(data, models, jnp.ones(data.shape[0], data.dtype), is_nonnegative=True)


def cross_validated_weights(
    data: jax.Array, models: jax.Array, folds: jax.Array, is_nonnegative: bool = True, comparator: str = "cosine"
) -> CrossValidated:
    """Weigh models on pairs of training stimuli, and compare their weighted sum on pairs of held-out stimuli.

    Pairs of a training stimulus with a held-out one serve neither. Weights are least squares, of values as they are
    for cosine, of centred ones for pearson and spearman.

    Args:
        data: (n_pairs, T) dissimilarities.
        models: (n_pairs, M) dissimilarities.
        folds: (n_folds, n_stimuli) bool, True where a stimulus is held out.
        is_nonnegative: weights of at least 0.
        comparator: "cosine", "pearson" or "spearman", of the held-out pairs.
    Returns:
        CrossValidated. A fold with fewer than 3 held-out stimuli is NaN; with all weights 0 it scores 0.
    Raises:
        ValueError: for another comparator, or folds of another number of stimuli.
    """
    if comparator not in SCORED_BY:
        raise ValueError(f"comparator={comparator!r} does not score weighted models. {nearest(comparator, SCORED_BY)}")
    if n_pairs(folds.shape[1]) != data.shape[0]:
        raise ValueError(
            f"folds hold {folds.shape[1]} stimuli, which have {n_pairs(folds.shape[1])} pairs, and data has "
            f"{data.shape[0]} pairs: folds are parts of the stimuli, not of the pairs."
        )
    first, second = np.triu_indices(folds.shape[1], 1)

    def of_fold(is_held_out: jax.Array) -> tuple[jax.Array, jax.Array]:
        train = (~is_held_out[first] & ~is_held_out[second]).astype(data.dtype)
        test = (is_held_out[first] & is_held_out[second]).astype(data.dtype)
        if comparator == "cosine":
            weights = _weights(data, models, train, is_nonnegative)
        else:
            weights = _weights(centre(data, train > 0), centre(models, train > 0), train, is_nonnegative)
        predicted = dot(models, weights)
        score = jax.vmap(lambda a, b: _score(a, b, test, comparator), in_axes=1)(predicted, data)
        is_nothing = jnp.all(weights == 0, axis=0) & jnp.all(jnp.isfinite(data), axis=0)
        score = jnp.where(is_nothing, 0, score)
        return jnp.where(jnp.sum(is_held_out) < 3, jnp.nan, score), weights

    scores, weights = jax.lax.map(of_fold, folds)
    return CrossValidated(jnp.mean(scores, axis=0), scores, weights)


def _score(predicted: jax.Array, data: jax.Array, test: jax.Array, comparator: str) -> jax.Array:
    if comparator == "cosine":
        return weighted_cosine(predicted, data, test)
    if comparator == "pearson":
        return weighted_pearson(predicted, data, test)
    ranked = weighted_rank(order_of(predicted), test)
    return weighted_pearson(ranked, weighted_rank(order_of(data), test), test)


def _units(values: jax.Array, is_rank: bool) -> jax.Array:
    return unit_norm(rank(values) if is_rank else values, jnp.ones(values.shape[0], bool))


def _filled(units: jax.Array) -> jax.Array:
    """Undefined models become 0, so that they spoil no other."""
    return jnp.where(jnp.isnan(units), 0, units)


def _models(units: jax.Array) -> _Models:
    """(n_pairs, M) of unit length, or 0 -> _Models"""
    eps = jnp.finfo(units.dtype).eps
    size, axes = jnp.linalg.eigh(dot(units.T, units))
    is_kept = size > 8 * units.shape[1] * eps * size[-1]
    inverse = dot(axes * jnp.where(is_kept, 1 / jnp.where(is_kept, size, 1), 0)[None, :], axes.T)
    lost = jnp.sum(jnp.where(is_kept[None, :], 0, axes**2), axis=1)
    return _Models(inverse, lost < eps**0.5)


def _weights(data: jax.Array, models: jax.Array, weight: jax.Array, is_nonnegative: bool) -> jax.Array:
    """Least-squares weights over the pairs that count; models of length 1 inside. -> (M, T)"""
    used = models * weight[:, None]
    length = jnp.sqrt(jnp.sum(used**2, axis=0))
    unit = used / jnp.where(length > 0, length, 1)[None, :]
    gram, covariance = dot(unit.T, unit), dot(unit.T, jnp.where(weight[:, None] > 0, data, 0))
    if is_nonnegative:
        found = jax.vmap(lambda one: _active_set(gram, one), in_axes=1, out_axes=1)(covariance)
    else:
        found = dot(_models(unit).inverse, covariance)
    return jnp.where(length[:, None] > 0, found / jnp.where(length > 0, length, 1)[:, None], 0)


def _active_set(gram: jax.Array, covariance: jax.Array) -> jax.Array:
    """Minimise w'Gw/2 - c'w over w >= 0: free the steepest weight, solve, step back to the first that turns negative.

    Bounded in rounds: where rounding frees and binds the same weight for ever, all others have long settled.
    (M, M) of unit diagonal, (M,) -> (M,)
    """
    n_models = gram.shape[0]
    eps = jnp.finfo(gram.dtype).eps
    slack = 4 * eps * jnp.max(jnp.abs(covariance))
    identity = jnp.eye(n_models, dtype=gram.dtype)

    def is_going(state: _Search) -> jax.Array:
        return ~state.is_done & (state.round_index < 6 * n_models + 20)

    def step(state: _Search) -> _Search:
        weights, is_free, _, round_index = state
        is_both = is_free[:, None] & is_free[None, :]
        system = jnp.where(is_both, gram, identity) + eps * identity
        solved = jnp.linalg.solve(system, jnp.where(is_free, covariance, 0)[:, None])[:, 0]
        is_low = is_free & (solved <= 0)
        share = jnp.where(is_low, weights / jnp.where(is_low, weights - solved, 1), jnp.inf)
        is_back = jnp.any(is_low)
        back = weights + jnp.where(is_back, jnp.min(share), 0) * (solved - weights)
        still_free = is_free & ~(is_low & (share <= jnp.min(share))) & (back > 0)
        gradient = jnp.where(is_free, -jnp.inf, covariance - dot(gram, solved[:, None])[:, 0])
        is_done = ~is_back & (jnp.max(gradient) <= slack)
        is_next = jnp.arange(n_models) == jnp.argmax(gradient)
        more_free = jnp.where(is_done, is_free, is_free | is_next)
        weights = jnp.where(is_back, jnp.where(still_free, back, 0), solved)
        return _Search(weights, jnp.where(is_back, still_free, more_free), is_done, round_index + 1)

    nothing = jnp.zeros(n_models, gram.dtype)
    start = _Search(nothing, jnp.zeros(n_models, bool), jnp.asarray(False), jnp.zeros((), jnp.int32))
    weights = jax.lax.while_loop(is_going, step, start).weights
    return jnp.where(jnp.all(jnp.isfinite(covariance)), weights, jnp.nan)
