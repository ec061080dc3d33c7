"""Compiled steps of a fit, and in which precision each is taken."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import fractional
from jaxalign.compute.choose import Choice, Choosing
from jaxalign.compute.decompose import Split, Way
from jaxalign.compute.fit import FitState, fit_chosen, fit_given, fit_state, parts_state
from jaxalign.compute.ridge import automatic_alphas
from jaxalign.compute.stats import dot
from jaxalign.contracts import Folds
from jaxalign.estimators.data import Data

state_step = jax.jit(fit_state, static_argnums=(3, 4, 5))


parts_step = jax.jit(parts_state, static_argnums=(3, 4))


chosen_step = jax.jit(fit_chosen, static_argnames=("by", "n_basis", "is_centred", "n_groups"))


given_step = jax.jit(fit_given, static_argnames=("is_centred",))


fraction_step = jax.jit(
    fractional.choose_fraction,
    static_argnames=("fractions", "criterion", "is_shared", "is_centred", "as_published", "solver", "platform"),
)


@partial(jax.jit, static_argnames=("by", "n_basis", "is_centred"))
def judged_step(
    state: FitState,
    responses: jax.Array,
    folds: Folds | None,
    weights: jax.Array | None,
    alphas: jax.Array,
    by: Choosing,
    n_basis: int,
    is_centred: bool,
) -> tuple[Choice, jax.Array]:
    """Choice and criterion; weights are not computed. -> Choice, (n_folds, n_alphas, n_targets)"""
    fitted = fit_chosen(state, responses, folds, weights, alphas, by, n_basis, is_centred=is_centred)
    return fitted.choice, fitted.judged


@jax.jit
def deviations_step(features: jax.Array, shift: jax.Array, weights: jax.Array) -> jax.Array:
    return dot(features - shift[None, :], weights)


@partial(jax.jit, static_argnames=("fractions", "is_centred", "solver", "platform"))
def fractional_step(
    features: jax.Array,
    responses: jax.Array,
    place: jax.Array,
    fractions: tuple[float, ...],
    is_centred: bool,
    solver: str,
    platform: str,
) -> tuple[jax.Array, jax.Array]:
    """Weights and penalty for the chosen fractions. -> (p, m), (m,)"""
    rows = jnp.ones(features.shape[0], bool)
    fit = fractional.decompose(features, responses, rows, is_centred=is_centred, solver=solver, platform=platform)
    alphas = fractional.fractional_alphas(fit.factors.singular, fit.rotated, fractions)
    own = jnp.take_along_axis(alphas, place[None], axis=0)
    return fractional.fractional_weights(fit, own)[0], own[0]


def platform_of() -> str:
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


class Decomposed(NamedTuple):
    """Features decomposed: `state` in the dtype of the fit; `double` in double precision, where weights are taken from
    it, else None."""

    state: FitState
    double: FitState | None


def decomposed(
    data: Data, folds: Folds | None, weights: np.ndarray | None, by: Choosing | None, way: Way, n_alphas: int
) -> Decomposed:
    """Decompose all rows in double precision, also for float32: a Gram matrix holds squares, hence half of the digits.

    Folds that only choose a penalty stay in float32, and so does what grows with the targets, but for the weights of a
    wide fit, which are sums over rows that cancel. A TPU has no double precision: there all is in float32.
    """
    if data.dtype == np.float64 or way.platform == "tpu":
        return Decomposed(state_step(data.features, folds, weights, by, way, n_alphas), None)
    alone = by if folds is None else None
    with jax.enable_x64(True):
        exact = None if weights is None else weights.astype(np.float64)
        double = state_step(data.features.astype(np.float64), None, exact, alone, way, n_alphas)
        single = jax.tree.map(lambda leaf: leaf.astype(data.dtype), double._replace(features=None))
        single = single._replace(split=_cut(single.split, data), features=data.features)
        single = single._replace(parts=None if alone is None else _cut(single.parts, data))
    if folds is not None:
        by_rows, parts = parts_step(data.features, folds, weights, way, n_alphas)
        single = single._replace(scaling=by_rows, parts=parts)
    needs_double = not double.split.is_tall or way.solver == "cholesky"
    return Decomposed(single, double if needs_double else None)


def _cut(split: Split, data: Data) -> Split:
    """Without directions that the dtype of the data cannot tell from rounding."""
    if split.singular is None:
        return split
    floor = np.finfo(data.dtype).eps * max(data.features.shape) * split.singular.max(-1, keepdims=True)
    return split._replace(singular=jnp.where(split.singular <= floor, jnp.zeros_like(floor), split.singular))


def automatic_grid(singular: Any, noise: Any = 0.0) -> np.ndarray:
    """The automatic grid in double precision. (r,), () -> (n_alphas,)"""
    with jax.enable_x64(True):
        return np.asarray(automatic_alphas(jnp.asarray(singular, jnp.float64), jnp.asarray(noise, jnp.float64)))


def weights_at(
    data: Data, state: Decomposed, values: np.ndarray, weights: np.ndarray | None, alpha: np.ndarray
) -> jax.Array:
    """Weights with given penalties; columns beyond those are filling. (n, width), (m,) -> (p, width)"""
    own = np.full(values.shape[1], alpha[0])
    own[: len(alpha)] = alpha
    if state.double is None:
        return given_step(state.state, values, weights, own.astype(data.dtype), is_centred=data.is_centred).weights
    with jax.enable_x64(True):
        weights = None if weights is None else weights.astype(np.float64)
        return given_step(state.double, values.astype(np.float64), weights, own, is_centred=data.is_centred).weights


def is_finite(*arrays: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(array)).all()) for array in arrays if array is not None)


def is_sound_state(state: FitState) -> bool:
    """Whether all decompositions of a state are finite."""
    splits = [state.split] if state.parts is None else [state.split, state.parts]
    return all(is_finite(split.singular, split.rotation, split.system) for split in splits)
