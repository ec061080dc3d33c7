"""Scores in one call: ridge, RSA and correlation of one layer with all targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.api.checks import all_rows, both, design_of, finite, matrix, width_of
from jaxalign.api.result import Result
from jaxalign.compute.correlation import Correlation
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.gram import correlation_rdm, n_stimuli_of
from jaxalign.compute.inference import p_corrected, p_value
from jaxalign.compute.permute import labellings
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Design, Features, Metric, Null, Rdms, Responses, Scores
from jaxalign.errors import DataError


def rdm(patterns: Any) -> np.ndarray:
    """Correlation RDM: 1 - Pearson r between the patterns of every two stimuli.

    Args:
        patterns: (n_stimuli, n_features), any unit.
    Returns:
        (n_pairs,) upper triangle row by row; NaN for pairs with a constant pattern.
    Raises:
        DataError: if it is not a finite matrix of at least 2 columns.
    """
    values = matrix(patterns, "patterns")
    if values.shape[1] < 2:
        raise DataError(f"patterns has shape {values.shape}: a correlation RDM needs at least 2 columns.")
    return np.asarray(jax.jit(correlation_rdm)(values, jnp.asarray(values.shape[1], jnp.int32)))


def encode(
    features: Any,
    responses: Any,
    *,
    test: Any = None,
    groups: Any = None,
    runs: Any = None,
    weights: Any = None,
    metric: Ridge | None = None,
    seed: int = 0,
) -> Result:
    """Ridge from features to every target: nested cross-validation, or a given test set.

    Args:
        features: (n_stimuli, n_features).
        responses: (n_stimuli, ...) any unit; the trailing shape is kept.
        test: (n_stimuli,) bool, the test stimuli; outer folds when None.
        groups: (n_stimuli,) labels, such as the concept of each picture, that folds never split.
        runs: (n_stimuli,) run of each stimulus; each is left out in turn.
        weights: (n_stimuli,) weight of each stimulus in fitting, such as its number of repetitions.
        metric: settings, `Ridge()` when None.
        seed: of folds and permutations.
    Returns:
        Result with statistics pearson_r and r2.
    Raises:
        DataError: if shapes disagree or values are not finite.
    """
    metric = metric or Ridge()
    x, y, shape = both(features, responses)
    design = design_of(metric, len(x), seed, test=test, groups=groups, runs=runs, weights=weights)
    n_relabelled = int(design.outer.is_test.sum()) if design.is_fixed_split else len(x)
    scores = _score(metric, Features(x[None], width_of(x)), Responses(y), design, n_relabelled, seed)
    return _result(metric, scores, shape)


def rsa(features: Any, responses: Any, *, metric: Rsa | None = None, seed: int = 0) -> Result:
    """RSA of one layer with responses over the same stimuli.

    Args:
        features: (n_stimuli, n_features), or (n_pairs,) of a given RDM.
        responses: patterns (n_stimuli, n_channels) or (n_stimuli, n_channels, n_time_bins), or (n_pairs,) of a given
            RDM.
        metric: settings, `Rsa()` when None.
        seed: of permutations.
    Returns:
        Result with statistic rsa: one score, or one per time bin.
    Raises:
        DataError: if the two sides have different numbers of stimuli or values are not finite.
    """
    metric = metric or Rsa()
    ours, n_ours = _dissimilarities(features, "features")
    theirs, n_theirs = _dissimilarities(responses, "responses")
    if n_ours != n_theirs:
        raise DataError(
            f"features has {n_ours} stimuli and responses has {n_theirs}: both must be ordered by the same stimuli."
        )
    scores = _score(metric, Rdms(ours), Rdms(theirs), all_rows(n_ours), n_ours, seed)
    shape = theirs.shape[1:] if np.ndim(responses) == 3 else ()
    return _result(metric, scores, shape)


def correlate(feature: Any, responses: Any, *, metric: Correlation | None = None, seed: int = 0) -> Result:
    """Pearson r of one feature with every target, two-sided.

    Args:
        feature: (n_stimuli,).
        responses: (n_stimuli, ...), any unit.
        metric: settings, `Correlation()` when None.
        seed: of permutations.
    Returns:
        Result with statistic pearson_r; the corrected p uses the largest absolute r over all targets.
    Raises:
        DataError: if shapes disagree or values are not finite.
    """
    metric = metric or Correlation()
    x, y, shape = both(np.asarray(feature).reshape(-1, 1), responses)
    left, right = Features(x[None], width_of(x)), Responses(y)
    scores = _score(metric, left, right, all_rows(len(x)), len(x), seed, is_calibrated=False)
    return _result(metric, scores, shape)


@cache
def _compiled(metric: Metric) -> Any:
    """All three steps of a metric in one program, on the default device."""
    platform = jax.default_backend()

    def run(features: Any, responses: Any, design: Design, null: Null) -> Scores:
        ours = metric.features_state(features, design, "cuda" if platform == "gpu" else platform)
        return metric.score(ours, metric.responses_state(responses, design), design, null)

    return jax.jit(run)


def _score(
    metric: Metric, left: Any, right: Any, design: Design, n_relabelled: int, seed: int, is_calibrated: bool = True
) -> Scores:
    n_targets = right.values.shape[-1]
    null = Null(
        labellings(n_relabelled, metric.n_permutations, seed),
        np.zeros((n_targets, 0), np.float32),
        np.zeros(n_targets, np.int32),
        1,
        is_calibrated,
    )
    return jax.device_get(_compiled(metric)(left, right, design, null))


def _result(metric: Metric, scores: Scores, shape: Sequence[int]) -> Result:
    value, p, corrected = {}, {}, {}
    n_permutations = metric.n_permutations
    for place, statistic in enumerate(metric.statistics):
        observed = scores.value[0, place]
        tested = np.abs(observed) if metric.tail == "two-sided" else scores.z[0, place]
        value[statistic] = observed.reshape(shape)
        raw = np.where(np.isnan(observed), np.nan, p_value(scores.exceed_count[0, place], n_permutations))
        p[statistic] = raw.reshape(shape)
        corrected[statistic] = p_corrected(tested, scores.maxima[0, place, 0]).reshape(shape)
    alpha = None if np.isnan(scores.alpha).all() else scores.alpha[0].reshape(shape)
    return Result(value, p, corrected, alpha, n_permutations)


def _dissimilarities(given: Any, name: str) -> tuple[np.ndarray, int]:
    """One side of RSA as RDMs, and its number of stimuli. -> (n_pairs, n_rdms)

    One dimension is a given RDM; more are patterns, the last of three being time bins.
    """
    values = finite(given, name)
    if values.ndim == 1:
        try:
            return values[:, None], n_stimuli_of(len(values))
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
    if values.ndim > 3:
        raise DataError(
            f"{name} has shape {values.shape}: an RDM (n_pairs,) or patterns of 2 or 3 dimensions are needed."
        )
    patterns = values[:, :, None] if values.ndim == 2 else values
    return np.stack([rdm(patterns[:, :, place]) for place in range(patterns.shape[2])], axis=1), len(values)
