"""What all estimators share: reading data, targets of any number of axes, predictions, scores and the rescue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data

from jaxalign.compute.folds import of_cv
from jaxalign.contracts import Folds
from jaxalign.estimators.data import Data, Standard, batches_of, dtype_of, flattened
from jaxalign.estimators.steps import deviations_step, platform_of

STATISTICS = ("r2", "pearson_r")


BATCH_BYTES = 256e6
"""Size up to which the arrays of one batch of targets may grow, where no batch size is given."""


@dataclass
class Result:
    """What a fit leaves: coef (n_features, n_targets), and for every target the prediction at the features' mean
    and at 0, penalty, place in the grid, criterion, and criterion of predicting the mean; is_sound if everything is finite."""

    coef: np.ndarray
    level: np.ndarray
    intercept: np.ndarray
    alpha: np.ndarray
    place: np.ndarray
    validation: np.ndarray
    null: np.ndarray
    judged: np.ndarray | None = None
    is_sound: bool = True

    @staticmethod
    def empty(data: Data, judged: tuple[int, int] | None = None) -> Result:
        n_targets = data.n_targets
        nan = partial(np.full, n_targets, np.nan)
        coef = np.full((data.features.shape[1], n_targets), np.nan, data.dtype)
        kept = None if judged is None else np.full((*judged, n_targets), np.nan)
        return Result(coef, nan(), nan(), nan(), np.full(n_targets, -1), nan(), nan(), kept)

    def put(self, data: Data, columns: np.ndarray, weights: Any, standard: Standard, shift: np.ndarray) -> None:
        """Weights of a batch in responses per unit of each feature; `shift` (p,) is the mean that they were fitted about."""
        n_real = len(columns)
        inside = np.asarray(weights)[:, :n_real].astype(np.float64) * standard.unit
        self.is_sound &= bool(np.isfinite(inside).all())
        self.coef[:, columns] = inside
        self.level[columns] = standard.average - (shift - data.shift) @ inside
        self.intercept[columns] = standard.average - shift @ inside


def rescued(solver: str, run: Callable[[str], Result]) -> tuple[Result, str]:
    """The result, and the solver that gave it: a fit that comes out non-finite is done again by SVD."""
    for name in dict.fromkeys((solver, "svd")):
        result = run(name)
        if result.is_sound:
            return result, name
    raise np.linalg.LinAlgError(
        f"Weights are not finite with solver={solver!r} nor with 'svd', though the data are: scale features and targets, or use float64."
    )


class Linear(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """What all estimators share: reading data, targets of any number of axes, predictions and scores."""

    _targets_first = False

    def _read(self, X: Any, y: Any, sample_weight: Any = None, n_least: int = 1) -> Data:
        """Check data as scikit-learn does; the axes of y after the first become one."""
        missing = getattr(self, "missing", "error")
        if missing not in ("error", "mask"):
            raise ValueError(f"missing={missing!r}: write error, or mask to leave out the rows that a target misses.")
        y, shape, is_missing = flattened(y, missing == "mask")
        kinds = [np.float64, np.float32] if self.dtype is None else dtype_of(self.dtype)
        X, y = validate_data(
            self, X, y, dtype=kinds, multi_output=True, y_numeric=True, order="C", ensure_min_samples=n_least
        )
        shape = y.shape[1:] if shape is None else shape
        y = y.reshape(len(y), -1)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        shift = np.zeros(X.shape[1], X.dtype)
        data = Data(X, y, weights, is_missing, shape, shift, bool(self.fit_intercept))
        return replace(data, shift=data.features_mean(weights).astype(X.dtype)) if data.is_centred else data

    def _batch(self, data: Data, n_more: int = 0) -> int:
        """Targets of one batch: given, or as many as BATCH_BYTES hold; `n_more` numbers more for each target."""
        size = self.n_targets_batch
        if size is None:
            n_rows, width = data.features.shape
            size = BATCH_BYTES // (data.dtype.itemsize * (n_rows + width + 3 * min(n_rows, width) + n_more))
        elif not (isinstance(size, (int, np.integer)) and size >= 1):
            raise ValueError(f"n_targets_batch={size!r}: give a whole number from 1 upwards, or None.")
        return min(max(1, int(size)), data.n_targets)

    def _keep(self, data: Data, result: Result) -> None:
        """Set what predictions need."""
        self.target_shape_ = data.shape
        self.features_mean_ = data.shift
        level = result.level.astype(data.dtype)
        intercept = result.intercept.astype(data.dtype)
        coef = result.coef.T if self._targets_first else result.coef
        axes = (*data.shape, -1) if self._targets_first else (len(result.coef), *data.shape)
        self.coef_ = coef.reshape(axes)
        self.responses_mean_ = self._shaped(level)
        self.intercept_ = self._shaped(intercept) if data.is_centred else 0.0

    def _shaped(self, values: np.ndarray) -> Any:
        """Axes of y instead of targets; a number for a single target. (..., n_targets) -> (..., *shape)"""
        return values.reshape((*values.shape[:-1], *self.target_shape_))[()]

    def predict(self, X: Any) -> np.ndarray:
        """Predicted responses.

        Args:
            X: (n_stimuli, n_features), in the units of the fit.
        Returns:
            (n_stimuli, *shape of one row of y), in the units and the dtype of the fit. They are computed as
            (X - features_mean_) coef_ + responses_mean_, which keeps digits that intercept_ has lost for features far
            from 0.
        """
        found = self._deviations(X) + np.reshape(self.responses_mean_, -1)
        return found.reshape(len(found), *self.target_shape_)

    def _deviations(self, X: Any) -> np.ndarray:
        """Predictions minus responses_mean_. -> (n_stimuli, n_targets)"""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self.coef_.dtype, order="C")
        weights = self._weights()
        if platform_of() == "cpu":  # no compilation for every number of rows
            return (X - self.features_mean_) @ weights
        with jax.enable_x64(X.dtype == np.float64):
            return np.asarray(deviations_step(X, self.features_mean_, weights))

    def _weights(self) -> np.ndarray:
        """coef_ as (n_features, n_targets)."""
        width = self.n_features_in_
        return self.coef_.reshape(-1, width).T if self._targets_first else self.coef_.reshape(width, -1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean r2 over targets, one number, as scikit-learn's model selection asks; himalaya's score is `scores`.

        Args:
            X: (n_stimuli, n_features).
            y: (n_stimuli, *shape of one row in fit).
            sample_weight: (n_stimuli,) or None.
        Returns:
            r2_score of scikit-learn, where a constant target counts 0 (1 if predicted exactly). Where y misses values and
            missing="mask", the mean of `scores` over the targets that have one.
        """
        flat, _, is_missing = flattened(y, getattr(self, "missing", "error") == "mask")
        if is_missing is not None:
            found = np.ravel(self.scores(X, y, sample_weight=sample_weight))
            return float(_nanmean(found[:, None], 0)[0])
        predicted = self.predict(X)
        return float(r2_score(flat, predicted.reshape(len(predicted), -1), sample_weight=sample_weight))

    def scores(self, X: Any, y: Any, statistic: str = "r2", sample_weight: Any = None) -> Any:
        """A score of each target.

        Args:
            X: (n_stimuli, n_features).
            y: (n_stimuli, *shape of one row in fit).
            statistic: "r2" (1 - SS_res / SS_tot) or "pearson_r".
            sample_weight: (n_stimuli,) or None.
        Returns:
            (*shape of one row of y) float64. NaN for a constant target; r is 0 for a constant prediction. With
            missing="mask" over the rows that a target has, NaN without any.
        Raises:
            ValueError: if the statistic is unknown, or y holds NaN and missing is "error".
        """
        if statistic not in STATISTICS:
            raise ValueError(f"statistic={statistic!r} is not one of {', '.join(STATISTICS)}.")
        # A prediction that hardly varies keeps its digits as long as the mean is not added in float32.
        predicted = self._deviations(X)
        level = np.reshape(self.responses_mean_, -1).astype(np.float64)
        y, _, is_missing = flattened(y, getattr(self, "missing", "error") == "mask")
        truth = check_array(y, ensure_2d=False, dtype=[np.float64, np.float32], input_name="y")
        if truth.reshape(len(truth), -1).shape != predicted.reshape(len(predicted), -1).shape:
            raise ValueError(
                f"y has shape {np.shape(y)} and predictions {predicted.shape}: give as many rows and targets."
            )
        weight = np.ones(len(truth))
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, truth, dtype=np.float64, ensure_non_negative=True)
        truth, predicted = truth.reshape(len(truth), -1), predicted.reshape(len(predicted), -1)
        found = np.full(truth.shape[1], np.nan)
        for columns in batches_of(np.arange(truth.shape[1]), max(1, 2**23 // len(truth))):
            weights = np.broadcast_to(weight[:, None], (len(truth), len(columns)))
            if is_missing is not None:
                weights = np.where(is_missing[:, columns], 0, weights)
            found[columns] = scored(truth[:, columns], predicted[:, columns], level[columns], weights, statistic)
        return self._shaped(found)

    def _folds(self, cv: Any, n_rows: int, groups: Any) -> Folds:
        if isinstance(cv, str):
            raise ValueError(
                f"cv={cv!r} is none of: a number of folds, a splitter, an iterable of (train, test), None (leave-one-out), 'gcv'."
            )
        if groups is not None:
            groups = np.asarray(groups)
            if groups.shape != (n_rows,):
                raise ValueError(f"groups has shape {groups.shape} for {n_rows} rows: give one label for each row.")
        return of_cv(cv, n_rows, groups)


def scored(
    truth: np.ndarray, predicted: np.ndarray, level: np.ndarray, weight: np.ndarray, statistic: str
) -> np.ndarray:
    """Score of each column in double precision over its rows of weight above 0; `level` (m,) belongs to predictions.

    (n, m), (n, m), (m,), (n, m) -> (m,)
    """
    eps = 8 * max(np.finfo(truth.dtype).eps, np.finfo(predicted.dtype).eps)
    truth, predicted = truth.astype(np.float64), predicted.astype(np.float64)
    total = weight.sum(0)
    safe = np.where(total > 0, total, 1)

    def deviations(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = np.where(weight > 0, values, np.nan)
        low, high = np.fmin.reduce(inside), np.fmax.reduce(inside)
        is_flat = ~(high - low > eps * np.fmax(np.abs(low), np.abs(high)))
        return values - (weight * values).sum(0) / safe, is_flat

    (of_truth, is_flat), (of_guess, is_flat_guess) = deviations(truth), deviations(predicted)
    spread = np.where(is_flat | (total == 0), np.nan, (weight * of_truth**2).sum(0))
    if statistic == "r2":
        return 1 - (weight * (truth - predicted - level) ** 2).sum(0) / spread
    is_flat_guess &= np.isfinite(predicted).all(0)
    own = np.where(is_flat_guess, 1, (weight * of_guess**2).sum(0))
    product = np.where(is_flat_guess, 0, (weight * of_truth * of_guess).sum(0))
    return product / np.sqrt(spread) / np.sqrt(own)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is there; NaN, without a warning, where nothing is."""
    has = ~np.isnan(values)
    count = has.sum(axis)
    return np.where(count > 0, np.where(has, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def needed_folds(estimator: Any, data: Data, groups: Any) -> Folds:
    """Folds of an estimator that has nothing but folds to choose by."""
    if estimator.cv is None or isinstance(estimator.cv, str):
        raise ValueError(
            f"cv={estimator.cv!r}: {type(estimator).__name__} chooses by folds. Give a number, a splitter, or (train, test) pairs."
        )
    return estimator._folds(estimator.cv, len(data.features), groups)
