"""Fractional ridge: penalties named by the share of the length of the least squares weights that they leave."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.linalg import Factors, factorise, shrinkage
from jaxalign.compute.stats import centre, dot, is_constant, mean, pearson, r2
from jaxalign.contracts import Folds

SMALLEST = 1e-9
"""Weights shorter than this share cannot be told from 0 in float32: ask for fraction 0."""
CRITERIA = {"r2": r2, "pearson_r": pearson}
N_BRACKETS, N_NEWTON = 48, 8
"""Points of the grid that brackets a penalty (one matrix product), and the Newton steps that finish it."""


class FractionalFit(NamedTuple):
    """Training rows decomposed, with the responses in the basis of the left singular vectors.

    Attributes:
        factors: Factors of the training features, centred if is_centred.
        rotated: (r, n_targets).
        features_mean: (2, n_features) mean of the training rows, and what its rounding left over; 0 if not centred.
        responses_mean: (n_targets,) of the training rows; 0 if not centred.
    """

    factors: Factors
    rotated: jax.Array
    features_mean: jax.Array
    responses_mean: jax.Array


class FractionChoice(NamedTuple):
    """What cross-validation says of the fractions.

    Attributes:
        place: (n_targets,) int32, position of the chosen fraction; one value throughout if shared.
        validation: (n_fractions, n_targets), criterion averaged over the folds in which it is defined.
    """

    place: jax.Array
    validation: jax.Array


def checked_fractions(fractions: tuple[float, ...], *, as_published: bool = False) -> tuple[float, ...]:
    """Fractions as numbers in [0, 1], in the given order.

    Args:
        fractions: shares of the length of the least squares weights.
        as_published: fractions above 1 become 1, which is what the published code does with its grid up to 1.05.
    Raises:
        ValueError: if there are none, one is no number from 0 upwards, or one exceeds 1 and is not to be clamped.
    """
    values = tuple(float(fraction) for fraction in fractions)
    if not values:
        raise ValueError("fractions is empty: give shares of the length of the least squares weights, such as 0.5.")
    refused = [value for value in values if not (value == 0 or SMALLEST <= value < float("inf"))]
    if refused:
        raise ValueError(f"fractions holds {refused[0]}: shares of a length are 0, or numbers from {SMALLEST} to 1.")
    if max(values) > 1 and not as_published:
        raise ValueError(
            f"fractions holds {max(values)}: no penalty makes weights longer than least squares does, which is fraction 1. Leave it out, or ask for as_published, which takes it as 1."
        )
    return tuple(min(value, 1.0) for value in values)


def decompose(
    features: jax.Array,
    responses: jax.Array,
    is_train: jax.Array,
    *,
    is_centred: bool = True,
    solver: str = "auto",
    platform: str = "cpu",
) -> FractionalFit:
    """Decompose the training rows once; every fraction afterwards costs matrix products.

    Args:
        features: (n_stimuli, n_features), any unit.
        responses: (n_stimuli, n_targets), any unit.
        is_train: (n_stimuli,) bool; other rows are not read.
        is_centred: subtract training means (fit an intercept that is not penalised); False fits through the origin.
        solver: as in linalg.factorise.
        platform: "cpu", "cuda" or "tpu".
    """
    rows = is_train[:, None]
    features, responses = jnp.where(rows, features, 0), jnp.where(rows, responses, 0)
    shift, level = jnp.zeros((2, features.shape[1]), features.dtype), jnp.zeros(responses.shape[1], responses.dtype)
    if is_centred:
        coarse, level = mean(features, is_train), mean(responses, is_train)
        features, responses = _varying(features, is_train), _varying(responses, is_train)
        # The mean of a unit at 5000 is rounded; test rows must be shifted by the same amount as training rows.
        shift = jnp.stack([coarse, mean(features, is_train)])
        features = centre(features, is_train)  # constant columns stay exactly 0
    factors = factorise(features, solver=solver, platform=platform)
    return FractionalFit(factors, dot(factors.left.T, responses), shift, level)


def _varying(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Centred columns; constant ones become exactly 0, else their rounding would be fitted. (n, m), (n,) -> (n, m)"""
    return jnp.where(is_constant(values, is_row)[None, :], 0, centre(values, is_row))


def fractional_alphas(
    singular: jax.Array, rotated: jax.Array, fractions: tuple[float, ...], *, as_published: bool = False
) -> jax.Array:
    """Penalty of each target at which its weights have the given share of their length under least squares.

    Solves ||b(alpha)|| = fraction ||b(0)|| to the precision of the dtype, where ||b(alpha)||^2 is the sum over
    directions of (s q / (s^2 + alpha))^2. No unit enters: volts and microvolts give the same penalties.

    Args:
        singular: (r,) singular values, 0 for dropped directions; b(0) is then the solution of minimum length.
        rotated: (r, n_targets) responses q in the basis of the left singular vectors.
        fractions: (n_fractions,) numbers in [0, 1], any order.
        as_published: take fractions above 1 as 1.
    Returns:
        (n_fractions, n_targets) penalties of ||y - X b||^2 + alpha ||b||^2: 0 at fraction 1, infinite at fraction 0
        and where no feature says anything of the target (b(0) = 0); NaN for a target with NaN.
    Raises:
        ValueError: as in checked_fractions.
    Source: Rokem & Kay 2020, GigaScience 9:giaa133, who interpolate on a grid of penalties.
    """
    wanted = checked_fractions(fractions, as_published=as_published)
    largest = jnp.max(singular)
    relative = singular / jnp.where(largest > 0, largest, 1)
    eigenvalues = relative**2
    weights = jnp.where(relative[:, None] > 0, rotated / jnp.where(relative > 0, relative, 1)[:, None], 0)
    longest = jnp.max(jnp.abs(weights), axis=0)
    share = (weights / jnp.where(longest > 0, longest, 1)[None, :]) ** 2
    inside = np.clip(wanted, SMALLEST, 1 - np.finfo(share.dtype).epsneg)
    solved = jax.lax.map(lambda one: _solve(eigenvalues, share, one), jnp.asarray(inside, share.dtype))
    exact = jnp.asarray(wanted, share.dtype)[:, None]
    alphas = jnp.where(exact == 1, 0, jnp.where((exact == 0) | (longest == 0)[None, :], jnp.inf, solved * largest**2))
    return jnp.where(jnp.isnan(longest + largest)[None, :], jnp.nan, alphas)


def _solve(eigenvalues: jax.Array, share: jax.Array, fraction: jax.Array) -> jax.Array:
    """Root of sum_r w_r ((d_r / (d_r + a))^2 - f^2) = 0 for each target. (r,), (r, n_targets), () -> (n_targets,)

    Newton's method on 1 / length, which is concave in the penalty: from below it climbs to the root without
    overshooting (as in trust-region methods: Conn, Gould & Toint 2000, chapter 7). The start comes from a grid.
    """
    smallest = jnp.min(jnp.where(eigenvalues > 0, eigenvalues, 1))
    odds = (1 - fraction) / fraction
    # The length lies between those that the smallest and the largest eigenvalue alone would give.
    grid = odds * jnp.exp(jnp.log(smallest) * jnp.linspace(1, 0, N_BRACKETS, dtype=share.dtype))
    ratio = eigenvalues[None, :] / (eigenvalues[None, :] + grid[:, None])
    excess = dot((ratio - fraction) * (ratio + fraction), share)
    place = jnp.maximum(jnp.sum(excess > 0, axis=0) - 1, 0)
    low, high = grid[place] / 2, grid[jnp.minimum(place + 1, N_BRACKETS - 1)] * 2

    def newton(_: int, alpha: jax.Array) -> jax.Array:
        inverse = 1 / (eigenvalues[:, None] + alpha[None, :])
        kept = eigenvalues[:, None] * inverse
        # kept - fraction without cancellation where both are nearly 1
        above = ((1 - fraction) * eigenvalues[:, None] - fraction * alpha[None, :]) * inverse
        excess = jnp.sum(share * above * (kept + fraction), axis=0)
        squared = jnp.sum(share * kept**2, axis=0)
        slope = jnp.sum(share * kept**2 * inverse, axis=0)
        total = jnp.sum(share, axis=0)
        length = jnp.sqrt(squared / total)
        step = excess / (length + fraction) * squared / (fraction * slope * total)
        return jnp.clip(alpha + step, low, high)

    return jax.lax.fori_loop(0, N_NEWTON, newton, grid[place])


def fractional_weights(fit: FractionalFit, alphas: jax.Array) -> jax.Array:
    """Weights of every fraction; as large as they look, so ask for predictions where those will do.

    Args:
        fit: training rows from decompose.
        alphas: (n_fractions, n_targets) penalties.
    Returns:
        (n_fractions, n_features, n_targets), responses per feature unit.
    """
    return jax.lax.map(lambda alpha: dot(fit.factors.right, _rotated_weights(fit, alpha)), alphas)


def fractional_predictions(fit: FractionalFit, alphas: jax.Array, features: jax.Array) -> jax.Array:
    """Predicted responses of any rows under every fraction.

    Args:
        fit: training rows from decompose.
        alphas: (n_fractions, n_targets) penalties.
        features: (n_test, n_features), the unit of the training features.
    Returns:
        (n_fractions, n_test, n_targets), the unit of the responses.
    """
    held_out = _held_out(fit, features)
    return jax.lax.map(lambda alpha: _predict(fit, alpha, held_out) + fit.responses_mean[None, :], alphas)


def _held_out(fit: FractionalFit, features: jax.Array) -> jax.Array:
    """Rows in the basis of the right singular vectors. (n_test, n_features) -> (n_test, r)"""
    return dot(features - fit.features_mean[:1] - fit.features_mean[1:], fit.factors.right)


def _rotated_weights(fit: FractionalFit, alpha: jax.Array) -> jax.Array:
    """Weights in the basis of the right singular vectors, a penalty per target. (n_targets,) -> (r, n_targets)"""
    return shrinkage(fit.factors.singular, alpha).T * fit.rotated


def _predict(fit: FractionalFit, alpha: jax.Array, held_out: jax.Array) -> jax.Array:
    """Predictions minus the training mean. (n_targets,), (n_test, r) -> (n_test, n_targets)"""
    return dot(held_out, _rotated_weights(fit, alpha))


def choose_fraction(
    features: jax.Array,
    responses: jax.Array,
    folds: Folds,
    fractions: tuple[float, ...],
    *,
    criterion: str = "r2",
    is_shared: bool = False,
    is_centred: bool = True,
    as_published: bool = False,
    solver: str = "auto",
    platform: str = "cpu",
) -> FractionChoice:
    """Fraction of each target (or of all targets together) that predicts held-out rows best; ties go to the smaller.

    Within a fold the penalties follow from the fractions and the fold's training rows. The criterion is averaged
    over the folds in which it is defined; a target that is constant in all of them gets the smallest fraction.

    Args:
        features: (n_stimuli, n_features), any unit.
        responses: (n_stimuli, n_targets), any unit.
        folds: Folds with one leading axis, n_folds; only the rows they name are read.
        fractions: (n_fractions,) numbers in [0, 1], any order.
        criterion: "r2" or "pearson_r" of the held-out rows.
        is_shared: one fraction for all targets, by the mean criterion over targets in which it is defined.
        is_centred: subtract training means.
        as_published: take fractions above 1 as 1.
        solver: as in linalg.factorise.
        platform: "cpu", "cuda" or "tpu".
    Returns:
        FractionChoice.
    Raises:
        ValueError: as in checked_fractions, or if the criterion is unknown.
    Source: one fraction per target: Rokem & Kay 2020; one for all: cross-validation in their package fracridge.
    """
    wanted = checked_fractions(fractions, as_published=as_published)
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r} is not one of {', '.join(CRITERIA)}.")

    def of_fold(fold: Folds) -> jax.Array:
        fit = decompose(
            features[fold.train],
            responses[fold.train],
            fold.is_train,
            is_centred=is_centred,
            solver=solver,
            platform=platform,
        )
        held_out = _held_out(fit, features[fold.test])
        truth = responses[fold.test] - fit.responses_mean[None, :]
        alphas = fractional_alphas(fit.factors.singular, fit.rotated, wanted)
        return jax.lax.map(lambda one: CRITERIA[criterion](truth, _predict(fit, one, held_out), fold.is_test), alphas)

    validation = jnp.nanmean(jax.lax.map(of_fold, folds), axis=0)
    judged = jnp.nanmean(validation, axis=1, keepdims=True) if is_shared else validation
    smallest_first = np.argsort(wanted, kind="stable")
    best = jnp.argmax(jnp.nan_to_num(judged[smallest_first], nan=-jnp.inf), axis=0)
    place = jnp.asarray(smallest_first, jnp.int32)[best]
    return FractionChoice(jnp.broadcast_to(place, (responses.shape[1],)), validation)
