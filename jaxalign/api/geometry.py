"""RDMs, their comparison, and other similarities of patterns, in one call each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.api.checks import all_rows, finite, matrix, width_of
from jaxalign.api.result import RdmResult, Result
from jaxalign.api.scores import null_of, result_of, scored
from jaxalign.compute import noise
from jaxalign.compute.crossnobis import crossnobis, partition_patterns, poisson_cv
from jaxalign.compute.distances import CROSS_VALIDATED, dissimilarities, distance_name
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.gram import n_stimuli_of
from jaxalign.compute.labellings import Labellings
from jaxalign.compute.masked import compare_masked
from jaxalign.compute.measures import AS_PUBLISHED, measure_of
from jaxalign.compute.permute import labellings as draw_labels
from jaxalign.compute.permute import summarise
from jaxalign.compute.similarity import Similarity
from jaxalign.contracts import Features, Patterns, Rdms, Scores
from jaxalign.errors import DataError

RSA_NAMES = {"rsa_spearman": "spearman", "rsa_pearson": "pearson", "kendall": "tau-b", "rsa_kendall": "tau-b"}
"""Names of RSA among the similarity metrics -> comparator."""


def rdm(
    patterns: Any,
    distance: str = "correlation",
    *,
    stimulus: Any = None,
    partition: Any = None,
    noise_precision: Any = None,
    is_per_channel: bool | None = None,
    allow_missing: bool = False,
    ids: Sequence[str] | None = None,
) -> RdmResult:
    """Dissimilarities between the patterns of every two stimuli.

    Args:
        patterns: (n_stimuli, n_features) or (n_stimuli, n_features, n_time_bins), any unit. For "crossnobis" and
            "poisson_cv": (n_trials, n_features[, n_time_bins]) measurements, with `stimulus` and `partition`.
        distance: "correlation", "cosine", "euclidean", "sqeuclidean", "mahalanobis" (squared), "poisson", "difference"
            (of one feature), "crossnobis" (signed) or "poisson_cv", or an alias of rsatoolbox or mne-rsa.
        stimulus: (n_trials,) label of each trial; the RDM is ordered by the sorted labels.
        partition: (n_trials,) session or run of each trial: independent measurements.
        noise_precision: (n_features, n_features) inverse noise covariance of mahalanobis and crossnobis; or "full",
            "diag", "shrinkage_eye" or "shrinkage_diag" to take it from the trials about the mean of their stimulus.
        is_per_channel: divide by the number of features, as rsatoolbox does; the default for cross-validated distances.
        allow_missing: NaN marks a feature that a stimulus lacks; each pair is compared over what both have.
        ids: (n_stimuli,) names; positions, or the labels of `stimulus`, when None.
    Returns:
        RdmResult of (n_pairs,) or (n_pairs, n_time_bins); NaN for pairs that are undefined.
    Raises:
        DataError: if shapes disagree, values are not finite, or the distance does not go with what is given.
    """
    values = (
        np.asarray(patterns, jax.dtypes.canonicalize_dtype(np.float64))
        if allow_missing
        else finite(patterns, "patterns")
    )
    if values.ndim not in (2, 3):
        raise DataError(f"patterns has shape {values.shape}: 2 or 3 dimensions are needed.")
    try:
        name = distance_name(distance)
        if name in CROSS_VALIDATED:
            made, labels = _cross_validated(name, values, stimulus, partition, noise_precision, is_per_channel)
        else:
            labels = [str(place) for place in range(len(values))]
            made = _single(name, values, noise_precision, bool(is_per_channel), allow_missing)
    except ValueError as error:
        raise DataError(str(error)) from error
    names = tuple(labels if ids is None else map(str, ids))
    if len(names) != len(labels):
        raise DataError(f"ids has {len(names)} names for {len(labels)} stimuli: one for each is needed.")
    return RdmResult(made if values.ndim == 3 else made[:, 0], names, name)


def rsa(
    features: Any,
    responses: Any,
    *,
    metric: Rsa | None = None,
    seed: int = 0,
    labellings: Labellings | None = None,
) -> Result:
    """RSA of one layer with responses over the same stimuli.

    Args:
        features: (n_stimuli, n_features), or an RDM: (n_pairs,), NaN for missing pairs, or what `rdm` returns.
        responses: patterns (n_stimuli, n_channels) or (n_stimuli, n_channels, n_time_bins), or an RDM, or the RDMs of
            several time bins as `rdm` returns them.
        metric: settings, `Rsa()` when None.
        seed: of permutations.
        labellings: of the stimuli, from `jaxalign.labellings.draw`; random relabellings by `seed` when None.
    Returns:
        Result with statistic rsa: one score, or one per time bin.
    Raises:
        DataError: if the two sides have different numbers of stimuli, or patterns are not finite.
    """
    metric = metric or Rsa()
    ours, n_ours = _side(features, "features", is_response=False)
    theirs, n_theirs = _side(responses, "responses", is_response=True)
    _check_equal(n_ours, n_theirs)
    shape = theirs.values.shape[-1:] if np.ndim(responses) == 3 or _is_movie(responses) else ()
    missing = [isinstance(side, Rdms) and bool(np.isnan(side.values).any()) for side in (ours, theirs)]
    rows = _rows(n_ours, metric.n_permutations, seed, labellings)
    try:
        if any(missing):
            scores = _masked(metric, ours, theirs, rows, n_ours)
        else:
            scores = scored(metric, ours, theirs, all_rows(n_ours), rows)
    except ValueError as error:
        raise DataError(str(error)) from error
    return result_of([metric], [scores], shape)


def similarity(
    x: Any,
    y: Any,
    metrics: str | Sequence[str | Similarity | Rsa] = ("cka",),
    *,
    n_permutations: int = 1000,
    seed: int = 0,
    labellings: Labellings | None = None,
) -> Result:
    """Similarity of two sets of patterns by several metrics, under the same labellings.

    Args:
        x: (n_stimuli, n_features).
        y: (n_stimuli, n_channels) or (n_stimuli, n_channels, n_time_bins), any unit.
        metrics: names of `compute.measures.MEASURES` ("cka", "dcor", "mutual_knn", ...), "rsa_spearman",
            "rsa_pearson", "kendall", or settings (`Similarity(...)`, `Rsa(...)`); "as_published" is the set of eight of
            arXiv 2601.16540. RSA names take |difference| instead of correlation for a side of one column.
        n_permutations: random relabellings of the stimuli, for metrics given by name.
        seed: of permutations.
        labellings: of the stimuli, from `jaxalign.labellings.draw`; random relabellings by `seed` when None.
    Returns:
        Result with one statistic per metric; p_corrected holds over all time bins and metrics of the call, which their
        z make comparable.
    Raises:
        DataError: if shapes disagree, values are not finite, or a metric is not known.
    """
    left, right = matrix(x, "x"), finite(y, "y")
    if right.ndim not in (2, 3):
        raise DataError(f"y has shape {right.shape}: (n_stimuli, n_channels[, n_time_bins]) is needed.")
    _check_equal(len(left), len(right))
    shape = right.shape[2:]
    right = right[:, :, None] if right.ndim == 2 else right
    chosen = AS_PUBLISHED if metrics == "as_published" else [metrics] if isinstance(metrics, str) else metrics
    widths = left.shape[1], right.shape[1]
    try:
        made = [_metric(one, n_permutations, widths) for one in chosen]
        sides = Features(left[None], width_of(left)), Patterns(right)
        rows = _rows(len(left), max(one.n_permutations for one in made), seed, labellings)
        design = all_rows(len(left))
        scores = [scored(one, *sides, design, rows if labellings else rows[: one.n_permutations + 1]) for one in made]
    except ValueError as error:
        raise DataError(str(error)) from error
    return result_of(made, scores, shape, names=[_name(one) for one in chosen])


def _metric(asked: str | Similarity | Rsa, n_permutations: int, widths: tuple[int, int]) -> Similarity | Rsa:
    if not isinstance(asked, str):
        return asked
    if asked not in RSA_NAMES:
        return Similarity(asked, n_permutations=n_permutations)
    ours, theirs = ("difference" if width == 1 else "correlation" for width in widths)
    return Rsa(RSA_NAMES[asked], distance=ours, responses_distance=theirs, n_permutations=n_permutations)


def _name(asked: str | Similarity | Rsa) -> str:
    if isinstance(asked, Rsa):
        return f"rsa_{asked.comparator}"
    if isinstance(asked, Similarity):
        return asked.statistics[0]
    return asked if asked in RSA_NAMES else measure_of(asked)[0]


def _rows(n_stimuli: int, n_permutations: int, seed: int, given: Labellings | None) -> np.ndarray:
    """Labellings of a call. -> (n_labellings, n_stimuli) int32"""
    if given is None:
        return draw_labels(n_stimuli, n_permutations, seed)
    if given.rows.shape[1] != n_stimuli:
        raise DataError(f"labellings are of {given.rows.shape[1]} rows and there are {n_stimuli} stimuli.")
    return given.rows


def _check_equal(n_ours: int, n_theirs: int) -> None:
    if n_ours != n_theirs:
        raise DataError(
            f"features has {n_ours} stimuli and responses has {n_theirs}: both must be ordered by the same stimuli."
        )


def _is_movie(given: Any) -> bool:
    return isinstance(given, RdmResult) and given.values.ndim == 2


def _side(given: Any, name: str, *, is_response: bool) -> tuple[Any, int]:
    """One side of RSA for a metric, and its number of stimuli.

    One dimension is a given RDM; more are patterns, the last of three being time bins.
    """
    if isinstance(given, RdmResult) or np.ndim(given) == 1:
        values = np.asarray(given, jax.dtypes.canonicalize_dtype(np.float64))
        values = values[:, None] if values.ndim == 1 else values
        try:
            return Rdms(values), n_stimuli_of(len(values))
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
    values = finite(given, name)
    if values.ndim not in ((2, 3) if is_response else (2,)):
        raise DataError(
            f"{name} has shape {values.shape}: an RDM (n_pairs,) or patterns (n_stimuli, n_features{'[, n_time_bins]' if is_response else ''}) are needed."
        )
    if is_response:
        return Patterns(values[:, :, None] if values.ndim == 2 else values), len(values)
    return Features(values[None], width_of(values)), len(values)


@cache
def _masked_step(comparator: str) -> Any:
    """Scores over the pairs that both sides have, under every labelling. -> (n_labellings, 1, n_targets)"""

    def run(ours: jax.Array, theirs: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.lax.map(lambda labelling: compare_masked(ours, theirs, comparator, labelling)[0], rows)

    return jax.jit(run)


def _masked(metric: Rsa, ours: Any, theirs: Any, rows: np.ndarray, n_stimuli: int) -> Scores:
    """RSA of RDMs with missing pairs; ranks are taken again among the pairs that are left."""
    design = all_rows(n_stimuli)
    if not isinstance(ours, Rdms):
        ours = Rdms(np.asarray(metric.features_state(jax.tree.map(jnp.asarray, ours), design, "cpu").values.T))
    if not isinstance(theirs, Rdms):
        theirs = Rdms(np.asarray(metric.responses_state(jax.tree.map(jnp.asarray, theirs), design).values))
    found = _masked_step(metric.comparator)(ours.values, theirs.values, rows)
    null = null_of(rows, theirs.values.shape[1])
    nothing = jnp.zeros((1, 0, 1, theirs.values.shape[1]), found.dtype)
    return jax.device_get(jax.jit(partial(summarise, tail=metric.tail))(found[:, :, None], nothing, null))


def _single(name: str, values: np.ndarray, precision: Any, is_per_channel: bool, allow_missing: bool) -> np.ndarray:
    """RDMs of one pattern per stimulus. (n, width[, n_times]) -> (n_pairs, n_times)"""
    if isinstance(precision, str):
        raise ValueError(f"noise_precision={precision!r} needs trials: give the matrix, or measurements to crossnobis.")
    values = values[:, :, None] if values.ndim == 2 else values
    is_unit = np.isfinite(values) if allow_missing else None
    if allow_missing and np.isinf(values).any():
        raise ValueError(f"patterns holds {int(np.isinf(values).sum())} Inf: only NaN marks what is missing.")
    matrix_ = None if precision is None else np.asarray(precision, values.dtype)
    given = np.where(is_unit, values, 0) if is_unit is not None else values
    step = jax.jit(partial(dissimilarities, distance=name, is_per_channel=is_per_channel))
    width = np.asarray(values.shape[1], np.int32)
    parts = [
        step(given[:, :, bin_], width, is_unit=None if is_unit is None else is_unit[:, :, bin_], precision=matrix_)
        for bin_ in range(values.shape[2])
    ]
    return np.stack([np.asarray(part) for part in parts], axis=1)


def _cross_validated(
    name: str, values: np.ndarray, stimulus: Any, partition: Any, precision: Any, is_per_channel: bool | None
) -> tuple[np.ndarray, list[str]]:
    """RDMs from trials. (n_trials, width[, n_times]) -> (n_pairs, n_times), labels"""
    if stimulus is None or partition is None:
        raise ValueError(f"{name} takes measurements with stimulus= and partition= of each trial.")
    names, of_stimulus = np.unique(np.asarray(stimulus), return_inverse=True)
    sessions, of_partition = np.unique(np.asarray(partition), return_inverse=True)
    trials = values[:, :, None] if values.ndim == 2 else values
    which, when = (jnp.asarray(label.astype(np.int32)) for label in (of_stimulus, of_partition))
    per_channel = True if is_per_channel is None else is_per_channel
    found = []
    for bin_ in range(trials.shape[2]):
        one = jnp.asarray(trials[:, :, bin_])
        patterns, is_present = partition_patterns(one, which, when, len(names), len(sessions))
        given = None if bool(is_present.all()) else is_present
        if name == "poisson_cv":
            if precision is not None:
                raise ValueError("poisson_cv takes no noise_precision.")
            found.append(poisson_cv(patterns, given, is_per_channel=per_channel))
            continue
        weight = precision
        if isinstance(precision, str):
            left = noise.residuals(one, which, len(names))
            weight = noise.noise_precision(left, precision, len(one) - len(names))
        weight = None if weight is None else jnp.asarray(weight, one.dtype)
        found.append(crossnobis(patterns, given, weight, is_per_channel=per_channel))
    return np.stack([np.asarray(one) for one in found], axis=1), [str(one) for one in names]
