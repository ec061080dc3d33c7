"""Weights of a ridge on all stimuli, penalties chosen or given: what the estimators are the face of."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.choose import Choice, Choosing, choose
from jaxalign.compute.decompose import (
    Scaling,
    Split,
    Way,
    alone,
    decomposed,
    decomposed_with_itself,
    inner_splits,
    scaled,
)
from jaxalign.compute.held_out import Rotated, Side, own_solutions, products, rotate
from jaxalign.compute.linalg import shrinkage
from jaxalign.compute.stats import dot
from jaxalign.compute.sums import weight_of
from jaxalign.contracts import Array, Folds


class FitState(NamedTuple):
    """Features of one fit, decomposed for choosing penalties and for the weights.

    Attributes:
        features: (n, p) as given, 0 in rows of weight 0.
        scaling: shift and spread over all rows of weight above 0.
        split: decomposition of all rows.
        parts: decompositions of the folds, or of all rows with themselves as test rows; None for given penalties.
    """

    features: jax.Array
    scaling: Scaling
    split: Split
    parts: Array


class Fitted(NamedTuple):
    """Weights and what they were chosen by.

    Attributes:
        weights: (p, n_targets), in responses per unit of each feature.
        intercept: (n_targets,).
        choice: Choice; None for given penalties.
        judged: (n_folds, n_alphas, n_targets) criterion on each fold; None for given penalties.
    """

    weights: jax.Array
    intercept: jax.Array
    choice: Array
    judged: Array


def whole(n_rows: int) -> Folds:
    """All rows as training rows, one row as a placeholder for the test rows that there are not."""
    index = jnp.arange(n_rows, dtype=jnp.int32)
    return Folds(index, index >= 0, index[:1], index[:1] < 0)


def used(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Values with rows of weight 0 made 0, so that nothing in them can matter. (n, m), (n,) -> (n, m)"""
    return values if weights is None else jnp.where((weights > 0)[:, None], values, 0)


def fit_state(
    features: jax.Array,
    folds: Folds | None,
    weights: jax.Array | None,
    by: Choosing | None,
    way: Way,
    n_alphas: int = 1,
) -> FitState:
    """Decompose features once; every tile of targets is then fitted from it.

    Args:
        features: (n, p).
        folds: (n_folds, ...) that choose; None with leave-one-out, gcv, or given penalties.
        weights: (n,) weights of stimuli, 0 leaves one out; None weighs all alike.
        by: how penalties are chosen; None when they are given.
        way: how to decompose.
        n_alphas: candidates.
    """
    features = used(features, weights)
    outer = whole(features.shape[0])
    if by is None:
        return FitState(features, *alone(features, outer, weights, way), None)
    if folds is None:
        scale_by, parts, split = decomposed_with_itself(features, outer, weights, way)
    else:
        scale_by, parts, split = decomposed(features, outer, folds, weights, way, n_alphas)
    return FitState(features, scale_by, split, parts)


def parts_state(
    features: jax.Array, folds: Folds, weights: jax.Array | None, way: Way, n_alphas: int
) -> tuple[Scaling, Split]:
    """The part of `fit_state` that chooses by folds: scaling over all rows, and the decompositions of the folds."""
    return inner_splits(used(features, weights), whole(features.shape[0]), folds, weights, way, n_alphas)


def fit_chosen(
    state: FitState,
    responses: jax.Array,
    folds: Folds | None,
    weights: jax.Array | None,
    alphas: jax.Array,
    by: Choosing,
    n_basis: int = 0,
    *,
    is_centred: bool = True,
    groups: jax.Array | None = None,
    n_groups: int = 1,
) -> Fitted:
    """Choose a penalty for each target and fit its weights on all stimuli.

    Args:
        state: of the features, with the same folds, weights and way.
        responses: (n, n_targets), any unit; rows of weight 0 are not used, whatever they hold.
        folds, weights: as given to `fit_state`.
        alphas: (n_alphas,) candidates.
        by: how to choose.
        n_basis: filters that span those of all penalties (linalg.basis_size); 0 computes each by itself.
        is_centred: fit an intercept.
        groups, n_groups: targets that share a penalty, see choose.pick.
    """
    responses = used(responses, weights)
    outer = whole(responses.shape[0])
    side = Side(state.features, state.scaling, (outer.train, outer.is_train))
    choice, rotated, judged = choose(
        side,
        state.split,
        state.parts,
        outer,
        outer if folds is None else folds,
        responses,
        weights,
        alphas,
        by,
        n_basis,
        is_centred=is_centred,
        groups=groups,
        n_groups=n_groups,
    )
    return Fitted(*weights_of(state, rotated, weights, choice, alphas), choice, judged)


def fit_given(
    state: FitState, responses: jax.Array, weights: jax.Array | None, alpha: jax.Array, *, is_centred: bool = True
) -> Fitted:
    """Fit weights with one given penalty per target, (n_targets,)."""
    responses = used(responses, weights)
    outer = whole(responses.shape[0])
    side = Side(state.features, state.scaling, (outer.train, outer.is_train))
    train = products(side, responses, weights, *side.base) if state.split.is_tall else None
    rotated = rotate(state.split, outer, responses, weights, train, is_centred)
    choice = Choice(jnp.zeros(alpha.shape, jnp.int32), alpha, jnp.full_like(alpha, jnp.nan))
    return Fitted(*weights_of(state, rotated, weights, choice, alpha[:1]), None, None)


def weights_of(
    state: FitState, rotated: Rotated, weights: jax.Array | None, choice: Choice, alphas: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weights for features as given, and intercepts. -> (p, n_targets), (n_targets,)

    With a Cholesky solver, targets are gone through by candidate: at most as many solves as there are candidates.
    """
    split, by = state.split, state.scaling
    if split.system is not None:
        inside = own_solutions(split, rotated, choice.place, alphas)
    else:
        shrunk = shrinkage(split.singular, choice.alpha, split.noise).T
        safe = jnp.where(split.singular > 0, split.singular, 1)[:, None]
        filters = shrunk * split.singular[:, None] if split.is_tall else shrunk / safe
        inside = dot(split.rotation, filters * rotated.values)
    if not split.is_tall:
        n = inside.shape[0]
        index = jnp.arange(n, dtype=jnp.int32)
        root = jnp.sqrt(weight_of(weights, index, index >= 0, inside.dtype))
        inside = dot(scaled(state.features, by).T, inside * root[:, None])
    safe = jnp.where(by.spread > 0, by.spread, 1)
    coefficients = jnp.where(by.spread[:, None] > 0, inside / safe[:, None], 0)
    return coefficients, rotated.average - dot(by.shift[None, :], coefficients)[0]
