"""Encoding weights scored where they were not trained: at other time bins, and on other subjects."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.stats import centre, dot, is_constant, mean, pearson, r2, scale, unit_norm

STATISTICS = ("pearson_r", "r2")


class Columns(NamedTuple):
    """Columns taken apart, so that any two are scored by one inner product.

    Attributes:
        unit: (n, m), centred and of length 1.
        sd: (m,), 0 for a constant.
        coarse, fine: (m,), the mean and what rounding left of it; their sum is the mean.
    """

    unit: jax.Array
    sd: jax.Array
    coarse: jax.Array
    fine: jax.Array


def across_time(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """Temporal generalisation of encoding weights: trained at one time bin, scored at every other.

    The weights of a train bin predict the same whatever bin they are scored at, so the predictions of the bins are all
    that is needed. The diagonal is the ordinary score of each target. r2 is 1 - SS_res / SS_tot of the test bin:
    weights of another bin that predict the wrong mean or scale can make it very negative, r cannot see either.

    Args:
        responses: (n_test, n_channels, n_test_bins), in the unit of the recording.
        predicted: (n_test, n_channels, n_train_bins), predictions for the same test stimuli, in the same unit.
        is_row: (n_test,) bool, false where padded.
    Returns:
        (n_statistics, n_channels, n_train_bins, n_test_bins); Pearson r, then r2. NaN where the responses are constant
        or hold a NaN; r is 0 where the prediction is constant.
    Raises:
        ValueError: if responses and predictions differ in stimuli or channels.
    """
    if responses.ndim != 3 or predicted.ndim != 3 or responses.shape[:2] != predicted.shape[:2]:
        raise ValueError(
            f"responses have shape {responses.shape} and predictions {predicted.shape}: both need the same test stimuli and channels, as (n_test, n_channels, n_bins)."
        )

    def of_channel(both: tuple[jax.Array, jax.Array]) -> jax.Array:
        truth, guess = _targets(both[0], is_row), _predictions(both[1], is_row)
        r = dot(guess.unit.T, truth.unit)
        return jnp.stack([r, _r2(r, Columns(*(x[None] for x in truth)), Columns(*(x[..., None] for x in guess)))])

    channels = (jnp.moveaxis(responses, 1, 0), jnp.moveaxis(predicted, 1, 0))
    return jnp.moveaxis(jax.lax.map(of_channel, channels), 0, 1)


def across_subjects(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """Transfer between subjects: weights trained on one subject, scored on the responses of every other.

    Args:
        responses: (n_subjects, n_test, n_targets), the same test stimuli and targets in every subject, in one unit.
        predicted: (n_subjects, n_test, n_targets), predictions of the weights trained on each subject.
        is_row: (n_test,) bool, false where padded.
    Returns:
        (n_statistics, n_train_subjects, n_test_subjects, n_targets); Pearson r, then r2. The diagonal is each subject's
        own score. NaN and constants as in `across_time`.
    Raises:
        ValueError: if shapes differ, or there are fewer than 2 subjects.
    """
    _check_subjects(responses, predicted)
    truth = jax.lax.map(lambda one: _targets(one, is_row), responses)

    def of_train_subject(one: jax.Array) -> jax.Array:
        guess = _predictions(one, is_row)
        r = jnp.sum(truth.unit * guess.unit[None], axis=1)
        return jnp.stack([r, _r2(r, truth, Columns(*(x[None] for x in guess)))])

    return jnp.moveaxis(jax.lax.map(of_train_subject, predicted), 0, 1)


def mean_of_others(transfer: jax.Array) -> jax.Array:
    """How well other subjects' weights predict a subject: mean over train subjects, its own left out.

    Args:
        transfer: (n_statistics, n_train_subjects, n_test_subjects, n_targets) from `across_subjects`.
    Returns:
        (n_statistics, n_test_subjects, n_targets); NaN where any of the averaged scores is, as none is left out unsaid.
    """
    n_subjects = transfer.shape[1]
    is_own = jnp.eye(n_subjects, dtype=bool)[None, :, :, None]
    return jnp.sum(jnp.where(is_own, 0, transfer), axis=1) / (n_subjects - 1)


def average_of_others(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """Scores of the leave-one-subject-out average model: the mean of the other subjects' predictions.

    Averaging first removes noise of single subjects' weights: for predictions of equal SD and a positive mean r, this r
    is at or above that of `mean_of_others`.

    Args:
        responses: (n_subjects, n_test, n_targets), the same test stimuli and targets in every subject, in one unit.
        predicted: (n_subjects, n_test, n_targets), predictions of the weights trained on each subject.
        is_row: (n_test,) bool, false where padded.
    Returns:
        (n_statistics, n_test_subjects, n_targets); Pearson r, then r2. NaN and constants as in `across_time`.
    Raises:
        ValueError: if shapes differ, or there are fewer than 2 subjects.
    """
    n_subjects = _check_subjects(responses, predicted)
    rows = is_row[:, None]

    def of_test_subject(own: tuple[jax.Array, jax.Array]) -> jax.Array:
        is_other, truth = own
        others = jnp.sum(jnp.where(is_other[:, None, None], predicted, 0), axis=0) / (n_subjects - 1)
        truth, others = jnp.where(rows, truth, 0), jnp.where(rows, others, 0)
        return jnp.stack([pearson(truth, others, is_row), r2(truth, others, is_row)])

    scores = jax.lax.map(of_test_subject, (~jnp.eye(n_subjects, dtype=bool), responses))
    return jnp.moveaxis(scores, 0, 1)


def over_folds(
    score: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    responses: jax.Array,
    predicted: jax.Array,
    is_row: jax.Array,
) -> jax.Array:
    """Mean over folds of a score of this module, computed within each fold and never over pooled stimuli.

    Args:
        score: `across_time`, `across_subjects` or `average_of_others`.
        responses: (n_folds, ...), the responses of each fold's test stimuli as the score takes them, padded.
        predicted: (n_folds, ...), predictions by the weights of the same fold.
        is_row: (n_folds, n_test) bool, false where padded.
    Returns:
        What the score returns; NaN where any fold is NaN.
    """
    return jnp.mean(jax.lax.map(lambda fold: score(*fold), (responses, predicted, is_row)), axis=0)


def _check_subjects(responses: jax.Array, predicted: jax.Array) -> int:
    if responses.ndim != 3 or responses.shape != predicted.shape:
        raise ValueError(
            f"responses have shape {responses.shape} and predictions {predicted.shape}: both need the same subjects, test stimuli and targets, as (n_subjects, n_test, n_targets)."
        )
    if responses.shape[0] < 2:
        raise ValueError(f"{responses.shape[0]} subject: transfer between subjects needs at least 2.")
    return responses.shape[0]


def _targets(values: jax.Array, is_row: jax.Array) -> Columns:
    """Columns that are NaN where constant. (n, m), (n,) -> Columns"""
    values = jnp.where(is_row[:, None], values, 0)
    rest = centre(values, is_row)
    return Columns(unit_norm(values, is_row), scale(values, is_row), mean(values, is_row), mean(rest, is_row))


def _predictions(values: jax.Array, is_row: jax.Array) -> Columns:
    """Columns that are 0 where constant. (n, m), (n,) -> Columns"""
    columns = _targets(values, is_row)
    flat = is_constant(jnp.where(is_row[:, None], values, 0), is_row)
    return columns._replace(unit=jnp.where(flat[None, :], 0, columns.unit))


def _r2(r: jax.Array, truth: Columns, guess: Columns) -> jax.Array:
    """1 - SS_res / SS_tot from r, both SDs and the gap between the means; no squares of volts. -> shape of r

    SS_res / n = sd_y^2 + sd_p^2 - 2 r sd_y sd_p + (mean_y - mean_p)^2.
    """
    sd = jnp.where(truth.sd == 0, jnp.nan, truth.sd)
    ratio = guess.sd / sd
    gap = ((truth.coarse - guess.coarse) + (truth.fine - guess.fine)) / sd
    return 2 * r * ratio - ratio**2 - gap**2
