"""The notebook face of compute/: features and responses in, labelled scores out, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxalign.compute import folds
from jaxalign.compute.correlation import Correlation
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.gram import correlation_rdm, n_stimuli_of
from jaxalign.compute.inference import p_corrected, p_value
from jaxalign.compute.permute import labellings
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Design, Features, Metric, Null, Rdms, Responses, Scores
from jaxalign.errors import DataError


@dataclass(frozen=True)
class Result:
    """Scores of one layer against all targets.

    Attributes:
        value: statistic -> scores of the targets' shape; NaN for constant targets.
        p, p_corrected: the same shapes; corrected by the maximum over all targets of the call.
        alpha: chosen penalties of the targets' shape, or None.
        n_permutations: random labellings behind the p values.
    """

    value: dict[str, np.ndarray]
    p: dict[str, np.ndarray]
    p_corrected: dict[str, np.ndarray]
    alpha: np.ndarray | None
    n_permutations: int

    def to_frame(self) -> pd.DataFrame:
        """One row per statistic and target, with the target's indices."""
        parts = []
        for statistic, values in self.value.items():
            places = np.indices(values.shape).reshape(values.ndim, -1)
            part = pd.DataFrame({f"target_{axis}": place for axis, place in enumerate(places)})
            part.insert(0, "statistic", statistic)
            part["value"] = values.ravel()
            part["p"] = self.p[statistic].ravel()
            part["p_corrected"] = self.p_corrected[statistic].ravel()
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def rdm(patterns: Any) -> np.ndarray:
    """Correlation RDM: 1 - Pearson r between the patterns of every two stimuli.

    Args:
        patterns: (n_stimuli, n_features), any unit.
    Returns:
        (n_pairs,) upper triangle row by row; NaN for pairs with a constant pattern.
    Raises:
        DataError: if it is not a finite matrix of at least 2 columns.
    """
    values = _matrix(patterns, "patterns")
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
    x, y, shape = _both(features, responses)
    try:
        design = folds.nested(
            metric.folds,
            len(x),
            metric.n_outer,
            metric.n_inner,
            seed,
            is_test=None if test is None else np.asarray(test, bool),
            groups=None if groups is None else np.asarray(groups),
            runs=None if runs is None else np.asarray(runs),
            gap=metric.gap,
            weights=_weights(weights, len(x)),
        )
    except ValueError as error:
        raise DataError(str(error)) from error
    n_relabelled = int(design.outer.is_test.sum()) if design.is_fixed_split else len(x)
    scores = _score(metric, Features(x[None], _width(x)), Responses(y), design, n_relabelled, seed)
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
    scores = _score(metric, Rdms(ours), Rdms(theirs), _all_rows(n_ours), n_ours, seed)
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
    x, y, shape = _both(np.asarray(feature).reshape(-1, 1), responses)
    left, right = Features(x[None], _width(x)), Responses(y)
    scores = _score(metric, left, right, _all_rows(len(x)), len(x), seed, is_calibrated=False)
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


def _weights(given: Any, n_stimuli: int) -> np.ndarray | None:
    """Weights of stimuli, checked and scaled to a mean of 1."""
    if given is None:
        return None
    values = _finite(given, "weights")
    if values.shape != (n_stimuli,) or values.min() < 0 or not values.sum() > 0:
        raise DataError(
            f"weights has shape {values.shape} and smallest value {values.min() if values.size else 'none'}: one number from 0 upwards for each of {n_stimuli} stimuli is needed."
        )
    return values / values.mean()


def _width(values: np.ndarray) -> np.ndarray:
    return np.array([values.shape[1]], np.int32)


def _both(features: Any, responses: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Features and flattened responses, checked. -> (n, p), (n, n_targets), trailing shape"""
    x = _matrix(features, "features")
    y = _finite(responses, "responses")
    if y.ndim == 0 or len(x) != len(y):
        found = len(y) if y.ndim else 0
        raise DataError(
            f"features has {len(x)} stimuli and responses has {found}: both must be ordered by the same stimulus ids. "
            "Responses still split into trials should be averaged per stimulus first."
        )
    return x, y.reshape(len(y), -1), y.shape[1:]


def _all_rows(n_stimuli: int) -> Design:
    """A design for metrics that score all stimuli at once; its folds are not used."""
    return folds.design(np.arange(n_stimuli)[None] % 2 == 0, 2, seed=0)


def _dissimilarities(given: Any, name: str) -> tuple[np.ndarray, int]:
    """One side of RSA as RDMs, and its number of stimuli. -> (n_pairs, n_rdms)

    One dimension is a given RDM; more are patterns, the last of three being time bins.
    """
    values = _finite(given, name)
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


def _matrix(given: Any, name: str) -> np.ndarray:
    values = _finite(given, name)
    if values.ndim != 2:
        raise DataError(f"{name} has shape {values.shape}; (n_stimuli, n_features) is needed.")
    return values


def _finite(given: Any, name: str) -> np.ndarray:
    """A float32 array without NaN or Inf (float64 stays when jax_enable_x64 is on)."""
    values = np.asarray(given, jax.dtypes.canonicalize_dtype(np.float64))
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{name}: {len(bad)} of {values.size} values are NaN or Inf, first at index {tuple(map(int, bad[0]))}."
        )
    return values
