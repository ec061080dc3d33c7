"""Predictions for stimuli that did not train them, and what follows from them: time, subjects, geometry, intervals, variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxalign.api.checks import both, design_of, matrix
from jaxalign.compute import bootstrap, generalise
from jaxalign.compute.encoded import encoding_rsa
from jaxalign.compute.partition import part_names, subset_columns, subset_names, subsets
from jaxalign.compute.partition import partition as parts_of
from jaxalign.compute.permute import labellings
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Design, Features, Null, Responses
from jaxalign.errors import DataError

STATISTICS = generalise.STATISTICS


@dataclass(frozen=True)
class HeldOut:
    """Predicted and measured responses of held-out stimuli, fold by fold; scores are taken in each fold and averaged.

    Attributes:
        truth, predicted: (n_folds, n_test, *targets' shape), in the unit of the responses; 0 where padded.
        rows: (n_folds, n_test) int, which stimulus it is.
        is_row: (n_folds, n_test) bool, False where padded.
        alpha: (n_folds, *targets' shape), chosen penalties.
        n_stimuli: of the data set.
    """

    truth: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray
    is_row: np.ndarray
    alpha: np.ndarray
    n_stimuli: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the targets."""
        return self.predicted.shape[2:]

    def by_stimulus(self) -> np.ndarray:
        """Predictions in the order of the stimuli. -> (n_stimuli, *targets' shape); NaN for stimuli never held out"""
        out = np.full((self.n_stimuli, *self.shape), np.nan, self.predicted.dtype)
        out[self.rows[self.is_row]] = self.predicted[self.is_row]
        return out

    def scores(self) -> dict[str, np.ndarray]:
        """Pearson r and r2 of every target, mean over folds."""
        found = jax.jit(bootstrap.stimulus_scores)(*self._flat())
        return {name: np.asarray(one).reshape(self.shape) for name, one in zip(STATISTICS, found, strict=True)}

    def across_time(self) -> dict[str, np.ndarray]:
        """Temporal generalisation: weights of each time bin scored at every other. -> (n_channels, n_train_bins, n_test_bins)

        Raises:
            DataError: if targets are not (n_channels, n_time_bins).
        """
        self._needs_times("temporal generalisation")
        found = jax.jit(_across_time)(self.truth, self.predicted, self.is_row)
        return dict(zip(STATISTICS, np.asarray(found), strict=True))

    def encoding_rsa(self, comparator: str = "spearman") -> np.ndarray:
        """Correlation of the RDM of predicted responses with that of measured ones, mean over folds. -> (n_time_bins,)

        Args:
            comparator: "spearman" or "pearson".
        Raises:
            DataError: if targets are not (n_channels, n_time_bins), or a fold has fewer than 3 stimuli.
        """
        self._needs_times("encoding RSA")
        try:
            found = [
                encoding_rsa(predicted[rows], truth[rows], comparator=comparator)
                for predicted, truth, rows in zip(self.predicted, self.truth, self.is_row, strict=True)
            ]
        except ValueError as error:
            raise DataError(str(error)) from error
        return np.mean(found, axis=0)

    def intervals(
        self, n_samples: int = 2000, level: float = 0.95, method: str = "bca", seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Bootstrap intervals over test stimuli, weights fixed: they generalise to stimuli, not to subjects.

        Args:
            n_samples: bootstrap samples.
            level: coverage.
            method: "bca" or "percentile".
            seed: of the resamples.
        Returns:
            statistic -> (2, *targets' shape), lower and upper ends.
        Raises:
            DataError: if a fold has too few stimuli.
        """
        try:
            counts = jnp.asarray(bootstrap.stimulus_counts(self.is_row, n_samples, seed))
            found = bootstrap.stimulus_intervals(*self._flat(), counts, level=level, method=method)
        except ValueError as error:
            raise DataError(str(error)) from error
        ends = np.asarray(found).reshape(2, len(STATISTICS), *self.shape)
        return {name: ends[:, place] for place, name in enumerate(STATISTICS)}

    def _flat(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        flat = self.truth.reshape(*self.rows.shape, -1), self.predicted.reshape(*self.rows.shape, -1)
        return jnp.asarray(flat[0]), jnp.asarray(flat[1]), jnp.asarray(self.is_row)

    def _needs_times(self, what: str) -> None:
        if len(self.shape) != 2:
            raise DataError(
                f"{what} needs responses (n_stimuli, n_channels, n_time_bins); targets have shape {self.shape}."
            )


def _across_time(truth: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    return generalise.over_folds(generalise.across_time, truth, predicted, is_row)


def predict(
    features: Any,
    responses: Any,
    *,
    test: Any = None,
    groups: Any = None,
    runs: Any = None,
    weights: Any = None,
    metric: Ridge | None = None,
    seed: int = 0,
) -> HeldOut:
    """Ridge predictions of held-out stimuli, penalties chosen inside the training stimuli of each fold.

    Args:
        features: (n_stimuli, n_features).
        responses: (n_stimuli, ...) any unit; the trailing shape is kept.
        test: (n_stimuli,) bool, the test stimuli; outer folds when None.
        groups: (n_stimuli,) labels that folds never split.
        runs: (n_stimuli,) run of each stimulus; each is left out in turn.
        weights: (n_stimuli,) weight of each stimulus in fitting, such as its number of repetitions.
        metric: settings, `Ridge()` when None.
        seed: of the folds.
    Raises:
        DataError: if shapes disagree or values are not finite.
    """
    metric = metric or Ridge()
    x, y, shape = both(features, responses)
    design = design_of(metric, len(x), seed, test=test, groups=groups, runs=runs, weights=weights)
    level, spread = y.mean(0, dtype=np.float64), y.std(0, dtype=np.float64)
    spread = np.where(spread > 0, spread, 1)
    found, alpha = jax.device_get(_predictor(metric)(x, ((y - level) / spread).astype(x.dtype), design))
    rows, is_row = np.asarray(design.outer.test), np.asarray(design.outer.is_test)
    predicted = np.where(is_row[:, :, None], found * spread + level, 0).astype(x.dtype)
    truth = np.where(is_row[:, :, None], y[rows], 0)
    return HeldOut(
        truth.reshape(*rows.shape, *shape),
        predicted.reshape(*rows.shape, *shape),
        rows,
        is_row,
        alpha.reshape(len(rows), *shape),
        len(x),
    )


@cache
def _predictor(metric: Ridge) -> Any:
    """Features, responses and folds to predictions, compiled on the default device."""
    platform = jax.default_backend()

    def run(features: jax.Array, responses: jax.Array, design: Design) -> tuple[jax.Array, jax.Array]:
        widths = jnp.full(1, features.shape[1], jnp.int32)
        state = metric.features_state(
            Features(features[None], widths), design, "cuda" if platform == "gpu" else platform
        )
        return metric.held_out(jax.tree.map(lambda leaf: leaf[0], state), responses, design)

    return jax.jit(run)


def across_subjects(predictions: Sequence[HeldOut]) -> dict[str, np.ndarray]:
    """Transfer between subjects: weights trained on one subject scored on the responses of every other.

    Args:
        predictions: one per subject, of the same stimuli, folds and targets.
    Returns:
        statistic -> (n_train_subjects, n_test_subjects, *targets' shape); and, with "_of_others" appended to its name,
        (n_test_subjects, *targets' shape) of the mean prediction of the other subjects.
    Raises:
        DataError: if folds or targets differ between subjects, or there are fewer than 2.
    """
    for place, one in enumerate(predictions):
        if one.rows.shape != predictions[0].rows.shape or (one.rows != predictions[0].rows).any():
            raise DataError(
                f"Subject {place} has other folds than subject 0: predict all with one seed and one test set."
            )
        if one.shape != predictions[0].shape:
            raise DataError(
                f"Subject {place} has targets {one.shape} and subject 0 {predictions[0].shape}: the same channels and bins are needed."
            )
    if len(predictions) < 2:
        raise DataError(f"{len(predictions)} subject: transfer between subjects needs at least 2.")
    flat = [one._flat() for one in predictions]
    truth, predicted = (jnp.stack([one[side] for one in flat], axis=1) for side in (0, 1))
    found = {}
    for suffix, score in (("", generalise.across_subjects), ("_of_others", generalise.average_of_others)):
        values = np.asarray(generalise.over_folds(score, truth, predicted, flat[0][2]))
        for name, one in zip(STATISTICS, values, strict=True):
            found[name + suffix] = one.reshape(*one.shape[:-1], *predictions[0].shape)
    return found


def partition(
    features: Mapping[str, Any],
    responses: Any,
    *,
    test: Any = None,
    groups: Any = None,
    runs: Any = None,
    metric: Ridge | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Variance partitioning: what each of 2 to 4 feature sets explains alone, and what combinations explain together.

    A ridge is fitted to every combination of the sets on the same folds; parts follow by inclusion and exclusion. They
    sum to the r2 of all sets, may be negative, and are never clipped.

    Args:
        features: name of the set -> (n_stimuli, n_features).
        responses: (n_stimuli, ...).
        test, groups, runs: see `predict`.
        metric: settings, `Ridge()` when None.
        seed: of the folds.
    Returns:
        One row per target and part: the target's indices, part ("unique A", "shared A+B"), its r2; and one row per
        model ("A", "A+B") with its r2, told apart by the column kind.
    Raises:
        DataError: if shapes disagree or there are fewer than 2 or more than 4 sets.
    """
    metric = replace(metric or Ridge(), n_permutations=0)
    sets = {name: matrix(values, f"features[{name!r}]") for name, values in features.items()}
    try:
        names = subset_names(list(sets))
    except ValueError as error:
        raise DataError(str(error)) from error
    lengths = {name: len(values) for name, values in sets.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"The feature sets have different numbers of stimuli: {lengths}.")
    x, y, shape = both(np.concatenate(list(sets.values()), axis=1), responses)
    owner = np.repeat(np.arange(len(sets)), [values.shape[1] for values in sets.values()])
    keep = np.stack([subset_columns(owner, one) for one in subsets(len(sets))])
    design = design_of(metric, len(x), seed, test=test, groups=groups, runs=runs)
    r2 = _scorer(metric)(x[None] * keep[:, None, :].astype(x.dtype), y, design)
    found = {"model": (names, np.asarray(r2)), "part": (part_names(list(sets)), np.asarray(parts_of(r2)))}
    frames = []
    places = np.indices(shape).reshape(len(shape), -1)
    for kind, (labels, values) in found.items():
        for label, one in zip(labels, values, strict=True):
            targets = {f"target_{axis}": place for axis, place in enumerate(places)}
            frames.append(pd.DataFrame({"kind": kind, "name": label, **targets, "r2": one}))
    return pd.concat(frames, ignore_index=True)


@cache
def _scorer(metric: Ridge) -> Any:
    """Features of several fits, responses and folds to r2, compiled on the default device. -> (n_fits, n_targets)"""
    platform = jax.default_backend()

    def run(features: jax.Array, responses: jax.Array, design: Design) -> jax.Array:
        widths = jnp.full(features.shape[0], features.shape[2], jnp.int32)
        state = metric.features_state(Features(features, widths), design, "cuda" if platform == "gpu" else platform)
        n_relabelled = design.outer.test.shape[1] if design.is_fixed_split else features.shape[1]
        n_targets = responses.shape[1]
        null = Null(
            labellings(n_relabelled, 0, 0), jnp.zeros((n_targets, 0), features.dtype), jnp.zeros(n_targets, jnp.int32)
        )
        scores = metric.score(state, metric.responses_state(Responses(responses), design), design, null)
        return scores.value[:, metric.statistics.index("r2")]

    return jax.jit(run)
