"""Scores in one call: ridge and correlation of one layer with all targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

from jaxalign.api.checks import all_rows, both, design_of, width_of
from jaxalign.api.result import Result
from jaxalign.compute.correlation import Correlation
from jaxalign.compute.inference import p_corrected, p_value
from jaxalign.compute.permute import labellings
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Design, Features, Metric, Null, Responses, Scores


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
    rows = labellings(n_relabelled, metric.n_permutations, seed)
    scores = scored(metric, Features(x[None], width_of(x)), Responses(y), design, rows)
    return result_of([metric], [scores], shape)


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
    rows = labellings(len(x), metric.n_permutations, seed)
    scores = scored(metric, left, right, all_rows(len(x)), rows, is_calibrated=False)
    return result_of([metric], [scores], shape)


@cache
def _compiled(metric: Metric) -> Any:
    """All three steps of a metric in one program, on the default device."""
    platform = jax.default_backend()

    def run(features: Any, responses: Any, design: Design, null: Null) -> Scores:
        ours = metric.features_state(features, design, "cuda" if platform == "gpu" else platform)
        return metric.score(ours, metric.responses_state(responses, design), design, null)

    return jax.jit(run)


def null_of(rows: np.ndarray, n_targets: int, is_calibrated: bool = True) -> Null:
    """Labellings of a call whose targets are one family. (n_labellings, n), () -> Null"""
    return Null(rows, np.zeros((n_targets, 0), np.float32), np.zeros(n_targets, np.int32), 1, is_calibrated)


def scored(
    metric: Metric, left: Any, right: Any, design: Design, rows: np.ndarray, is_calibrated: bool = True
) -> Scores:
    """Scores of one layer under given labellings, on the host. (n_labellings, n) int32 -> Scores"""
    null = null_of(rows, right.values.shape[-1], is_calibrated)
    return jax.device_get(_compiled(metric)(left, right, design, null))


def result_of(
    metrics: Sequence[Metric],
    scores: Sequence[Scores],
    shape: Sequence[int],
    names: Sequence[str] | None = None,
    **more: Any,
) -> Result:
    """Scores of one or several metrics under the same labellings as one labelled result.

    Args:
        metrics: one per scores; those of several have one statistic each.
        scores: of one layer against the targets of the call.
        shape: of the targets.
        names: of the statistics, when there are several metrics.
        more: other attributes of the result.
    Returns:
        Result; the corrected p of several metrics hold over all of them.
    """
    value, z, p, corrected = {}, {}, {}, {}
    shared = np.max([one.maxima[0, 0, 0] for one in scores], axis=0) if len(metrics) > 1 else None
    n_permutations = scores[0].maxima.shape[-1] - 1
    for index, (metric, one) in enumerate(zip(metrics, scores, strict=True)):
        for place, statistic in enumerate(metric.statistics):
            name = statistic if names is None else names[index]
            observed = one.value[0, place]
            is_raw = metric.tail == "two-sided"
            tested = np.abs(observed) if is_raw else one.z[0, place]
            raw = np.where(np.isnan(observed), np.nan, p_value(one.exceed_count[0, place], n_permutations))
            maxima = one.maxima[0, place, 0] if shared is None else shared
            value[name], z[name] = observed.reshape(shape), one.z[0, place].reshape(shape)
            p[name], corrected[name] = raw.reshape(shape), p_corrected(tested, maxima).reshape(shape)
    alpha = scores[0].alpha
    chosen = None if np.isnan(alpha).all() else alpha[0].reshape(shape)
    return Result(value, p, corrected, chosen, n_permutations, z, is_one_family=shared is not None, **more)
