"""Ridge regressions with the face of scikit-learn: fit, predict and score, a penalty for every target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data

from jaxalign.compute import banded, fractional
from jaxalign.compute.choose import Choice, Choosing, pick
from jaxalign.compute.decompose import Split, Way
from jaxalign.compute.fit import FitState, fit_chosen, fit_given, fit_state, parts_state
from jaxalign.compute.folds import of_cv
from jaxalign.compute.linalg import SOLVERS, basis_size, resolve
from jaxalign.compute.ridge import AUTO_ALPHAS, automatic_alphas
from jaxalign.compute.stats import dot
from jaxalign.contracts import Folds

__all__ = [
    "AlphaEdgeWarning",
    "BandedRidgeCV",
    "FractionalRidgeCV",
    "GroupRidgeCV",
    "Ridge",
    "RidgeCV",
    "SklearnBandedRidgeCV",
    "SklearnFractionalRidgeCV",
    "SklearnRidge",
    "SklearnRidgeCV",
]

SCORINGS = {
    "r2": "r2",
    "neg_mean_squared_error": "neg_mse",
    "neg_mse": "neg_mse",
    "pearson_r": "pearson_r",
}
STATISTICS = ("r2", "pearson_r")
CROWDED = 0.05
"""A larger share of predicted targets at one end of the candidates is warned of, and widens them."""
WIDER_DECADES, MAX_WIDENINGS = 3, 4
BATCH_BYTES = 256e6
"""Size up to which the arrays of one batch of targets may grow, where no batch size is given."""


class AlphaEdgeWarning(UserWarning):
    """Many targets chose the lowest or the highest candidate: the best penalty may lie beyond."""


# Compiled once for each shape and setting.

_state = jax.jit(fit_state, static_argnums=(3, 4, 5))
_parts = jax.jit(parts_state, static_argnums=(3, 4))
_chosen = jax.jit(fit_chosen, static_argnames=("by", "n_basis", "is_centred", "n_groups"))
_given = jax.jit(fit_given, static_argnames=("is_centred",))
_choose_fraction = jax.jit(
    fractional.choose_fraction,
    static_argnames=("fractions", "criterion", "is_shared", "is_centred", "as_published", "solver", "platform"),
)


@partial(jax.jit, static_argnames=("by", "n_basis", "is_centred"))
def _judged(
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
def _deviations(features: jax.Array, shift: jax.Array, weights: jax.Array) -> jax.Array:
    return dot(features - shift[None, :], weights)


@partial(jax.jit, static_argnames=("fractions", "is_centred", "solver", "platform"))
def _fractional(
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


def _platform() -> str:
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


# What is fitted.


class _Rows(NamedTuple):
    """Targets that miss the same rows, and the weight of every row for them; None weighs all alike."""

    columns: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True)
class _Data:
    """Checked data. features (n, p), responses (n, n_targets) without NaN, weights (n,) or None, is_missing
    (n, n_targets) or None, the shape of one row of y, and the mean of the features (p,), 0 without intercept."""

    features: np.ndarray
    responses: np.ndarray
    weights: np.ndarray | None
    is_missing: np.ndarray | None
    shape: tuple[int, ...]
    shift: np.ndarray
    is_centred: bool

    @property
    def dtype(self) -> np.dtype:
        return self.features.dtype

    @property
    def n_targets(self) -> int:
        return self.responses.shape[1]

    def patterns(self) -> list[_Rows]:
        """Targets by the rows that they miss; those without any row are in none."""
        if self.is_missing is None:
            return [_Rows(np.arange(self.n_targets), self.weights)]
        packed = np.packbits(self.is_missing, axis=0)
        _, member = np.unique(packed, axis=1, return_inverse=True)
        found = []
        for pattern in range(member.max() + 1):
            columns = np.flatnonzero(member.ravel() == pattern)
            is_missing = self.is_missing[:, columns[0]]
            weights = self.weights
            if is_missing.any():
                weights = np.where(is_missing, 0, 1 if weights is None else weights).astype(self.dtype)
            if weights is None or (weights > 0).any():
                found.append(_Rows(columns, weights))
        return found

    def features_mean(self, weights: np.ndarray | None) -> np.ndarray:
        """Mean of the features in double precision, without a copy of them. -> (p,)"""
        if weights is None:
            return self.features.mean(0, dtype=np.float64)
        share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
        return np.einsum("i,ij->j", share, self.features)


class _Standard(NamedTuple):
    """Targets in their own unit, (n, m) in the dtype of the fit, with what makes them responses again, (m,) each."""

    values: np.ndarray
    average: np.ndarray
    unit: np.ndarray


def _standard(data: _Data, columns: np.ndarray, weights: np.ndarray | None, units: np.ndarray | None) -> _Standard:
    """Centre targets and divide by their largest deviation in double precision; constant ones become 0.

    Volts and targets far from 0 then keep their digits in float32. `units` (n_targets,) are given where the criteria
    of targets must stay comparable.
    """
    values = data.responses[:, columns].astype(np.float64)
    is_row = np.ones(len(values), bool) if weights is None else weights > 0
    inside = values[is_row]
    average = np.zeros(len(columns))
    if data.is_centred:
        share = np.full(len(inside), 1.0) if weights is None else weights[is_row].astype(np.float64)
        average = share @ inside / share.sum()
    is_flat = _is_constant(inside, data.dtype) & data.is_centred
    average = np.where(is_flat, inside[0], average)
    values = np.where(is_row[:, None] & ~is_flat[None, :], values - average, 0)
    unit = np.abs(values).max(0) if units is None else units[columns]
    unit = np.where(unit > 0, unit, 1)
    return _Standard((values / unit).astype(data.dtype), average, unit)


def _is_constant(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Which columns vary by no more than rounding in a dtype. (n, m) -> (m,)"""
    return np.ptp(values, axis=0) <= 8 * np.finfo(dtype).eps * np.abs(values).max(0)


def _common_units(data: _Data, labels: np.ndarray) -> np.ndarray:
    """Largest deviation within each group of targets, for all of its targets. -> (n_targets,)"""
    unit = np.zeros(data.n_targets)
    for rows in data.patterns():
        for columns in np.array_split(rows.columns, -(-len(rows.columns) // 1024)):
            unit[columns] = _standard(data, columns, rows.weights, None).unit
    largest = np.zeros(labels.max() + 1)
    np.maximum.at(largest, labels, unit)
    return largest[labels]


@dataclass
class _Result:
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
    def empty(data: _Data, judged: tuple[int, int] | None = None) -> _Result:
        n_targets = data.n_targets
        nan = partial(np.full, n_targets, np.nan)
        coef = np.full((data.features.shape[1], n_targets), np.nan, data.dtype)
        kept = None if judged is None else np.full((*judged, n_targets), np.nan)
        return _Result(coef, nan(), nan(), nan(), np.full(n_targets, -1), nan(), nan(), kept)

    def put(self, data: _Data, columns: np.ndarray, weights: Any, standard: _Standard, shift: np.ndarray) -> None:
        """Weights of a batch in responses per unit of each feature; `shift` (p,) is the mean that they were fitted about."""
        n_real = len(columns)
        inside = np.asarray(weights)[:, :n_real].astype(np.float64) * standard.unit
        self.is_sound &= bool(np.isfinite(inside).all())
        self.coef[:, columns] = inside
        self.level[columns] = standard.average - (shift - data.shift) @ inside
        self.intercept[columns] = standard.average - shift @ inside


def _rescued(solver: str, run: Callable[[str], _Result]) -> tuple[_Result, str]:
    """The result, and the solver that gave it: a fit that comes out non-finite is done again by SVD."""
    for name in dict.fromkeys((solver, "svd")):
        result = run(name)
        if result.is_sound:
            return result, name
    raise np.linalg.LinAlgError(
        f"Weights are not finite with solver={solver!r} nor with 'svd', though the data are: scale features and targets, or use float64."
    )


def _is_finite(*arrays: Any) -> bool:
    return all(bool(np.isfinite(np.asarray(array)).all()) for array in arrays if array is not None)


def _is_sound(state: FitState) -> bool:
    """Whether all decompositions of a state are finite."""
    splits = [state.split] if state.parts is None else [state.split, state.parts]
    return all(_is_finite(split.singular, split.rotation, split.system) for split in splits)


def _blocks(columns: np.ndarray, size: int) -> Iterator[np.ndarray]:
    yield from (columns[start : start + size] for start in range(0, len(columns), size))


class _Decomposed(NamedTuple):
    """Features decomposed: `state` in the dtype of the fit; `double` in double precision, where weights are taken from
    it, else None."""

    state: FitState
    double: FitState | None


def _decomposed(
    data: _Data, folds: Folds | None, weights: np.ndarray | None, by: Choosing | None, way: Way, n_alphas: int
) -> _Decomposed:
    """Decompose all rows in double precision, also for float32: a Gram matrix holds squares, hence half of the digits.

    Folds that only choose a penalty stay in float32, and so does what grows with the targets, but for the weights of a
    wide fit, which are sums over rows that cancel. A TPU has no double precision: there all is in float32.
    """
    if data.dtype == np.float64 or way.platform == "tpu":
        return _Decomposed(_state(data.features, folds, weights, by, way, n_alphas), None)
    alone = by if folds is None else None
    with jax.enable_x64(True):
        exact = None if weights is None else weights.astype(np.float64)
        double = _state(data.features.astype(np.float64), None, exact, alone, way, n_alphas)
        single = jax.tree.map(lambda leaf: leaf.astype(data.dtype), double._replace(features=None))
        single = single._replace(split=_cut(single.split, data), features=data.features)
        single = single._replace(parts=None if alone is None else _cut(single.parts, data))
    if folds is not None:
        by_rows, parts = _parts(data.features, folds, weights, way, n_alphas)
        single = single._replace(scaling=by_rows, parts=parts)
    needs_double = not double.split.is_tall or way.solver == "cholesky"
    return _Decomposed(single, double if needs_double else None)


def _cut(split: Split, data: _Data) -> Split:
    """Without directions that the dtype of the data cannot tell from rounding."""
    if split.singular is None:
        return split
    floor = np.finfo(data.dtype).eps * max(data.features.shape) * split.singular.max(-1, keepdims=True)
    return split._replace(singular=jnp.where(split.singular <= floor, jnp.zeros_like(floor), split.singular))


def _filled(values: np.ndarray, width: int) -> np.ndarray:
    """Columns of 0 up to a width, so that the last batch needs no compilation of its own. (n, m) -> (n, width)"""
    missing = width - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing))) if missing > 0 else values


def _penalties(given: Any, name: str) -> np.ndarray:
    """Penalties as float64, checked."""
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={given!r} is no number or array of numbers: give penalties from 0 upwards."
        ) from error
    refused = values[~((values >= 0) & (values < np.inf))]
    if refused.size or not values.size:
        found = f"holds {refused.flat[0]}" if refused.size else "is empty"
        raise ValueError(f"{name} {found}: give finite penalties from 0 upwards.")
    return values


def _automatic(singular: Any, noise: Any = 0.0) -> np.ndarray:
    """The automatic grid in double precision. (r,), () -> (n_alphas,)"""
    with jax.enable_x64(True):
        return np.asarray(automatic_alphas(jnp.asarray(singular, jnp.float64), jnp.asarray(noise, jnp.float64)))


def _cutoff(data: _Data) -> float:
    """Penalty below which the rounding of a Gram matrix is felt: the rank cut-off for all of its trace."""
    trace = np.einsum("ij,ij->", data.features, data.features, dtype=np.float64)
    trace -= len(data.features) * np.sum(data.shift.astype(np.float64) ** 2)
    largest = 1.0 if data.weights is None else float(data.weights.max())
    return float(np.finfo(data.dtype).eps * max(data.features.shape) * max(trace, 0) * largest)


class _Linear(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """What all estimators share: reading data, targets of any number of axes, predictions and scores."""

    _targets_first = False

    def _read(self, X: Any, y: Any, sample_weight: Any = None, n_least: int = 1) -> _Data:
        """Check data as scikit-learn does; the axes of y after the first become one."""
        missing = getattr(self, "missing", "error")
        if missing not in ("error", "mask"):
            raise ValueError(f"missing={missing!r}: write error, or mask to leave out the rows that a target misses.")
        y, shape, is_missing = _flat(y, missing == "mask")
        kinds = [np.float64, np.float32] if self.dtype is None else _dtype(self.dtype)
        X, y = validate_data(
            self, X, y, dtype=kinds, multi_output=True, y_numeric=True, order="C", ensure_min_samples=n_least
        )
        shape = y.shape[1:] if shape is None else shape
        y = y.reshape(len(y), -1)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        shift = np.zeros(X.shape[1], X.dtype)
        data = _Data(X, y, weights, is_missing, shape, shift, bool(self.fit_intercept))
        return replace(data, shift=data.features_mean(weights).astype(X.dtype)) if data.is_centred else data

    def _batch(self, data: _Data, n_more: int = 0) -> int:
        """Targets of one batch: given, or as many as BATCH_BYTES hold; `n_more` numbers more for each target."""
        size = self.n_targets_batch
        if size is None:
            n_rows, width = data.features.shape
            size = BATCH_BYTES // (data.dtype.itemsize * (n_rows + width + 3 * min(n_rows, width) + n_more))
        elif not (isinstance(size, (int, np.integer)) and size >= 1):
            raise ValueError(f"n_targets_batch={size!r}: give a whole number from 1 upwards, or None.")
        return min(max(1, int(size)), data.n_targets)

    def _keep(self, data: _Data, result: _Result) -> None:
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
        if _platform() == "cpu":  # no compilation for every number of rows
            return (X - self.features_mean_) @ weights
        with jax.enable_x64(X.dtype == np.float64):
            return np.asarray(_deviations(X, self.features_mean_, weights))

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
        flat, _, is_missing = _flat(y, getattr(self, "missing", "error") == "mask")
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
        y, _, is_missing = _flat(y, getattr(self, "missing", "error") == "mask")
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
        for columns in _blocks(np.arange(truth.shape[1]), max(1, 2**23 // len(truth))):
            weights = np.broadcast_to(weight[:, None], (len(truth), len(columns)))
            if is_missing is not None:
                weights = np.where(is_missing[:, columns], 0, weights)
            found[columns] = _scored(truth[:, columns], predicted[:, columns], level[columns], weights, statistic)
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


def _flat(y: Any, is_masked: bool) -> tuple[Any, tuple[int, ...] | None, np.ndarray | None]:
    """y with its later axes as one, their shape if it was changed, and where values are missing (they become 0)."""
    if y is None:
        return None, None, None
    y, shape = np.asarray(y), None
    if y.ndim > 2:
        shape, y = y.shape[1:], y.reshape(len(y), -1)
    if not is_masked:
        return y, shape, None
    y = y if np.issubdtype(y.dtype, np.floating) else y.astype(np.float64)
    is_missing = np.isnan(y)
    if not is_missing.any():
        return y, shape, None
    return np.where(is_missing, 0, y), shape, is_missing.reshape(len(y), -1)


def _dtype(given: Any) -> np.dtype:
    dtype = np.dtype(given)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype={given!r}: give float32 or float64, or None to keep that of X.")
    return dtype


def _scored(
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


def _weights_at(
    data: _Data, state: _Decomposed, values: np.ndarray, weights: np.ndarray | None, alpha: np.ndarray
) -> jax.Array:
    """Weights with given penalties; columns beyond those are filling. (n, width), (m,) -> (p, width)"""
    own = np.full(values.shape[1], alpha[0])
    own[: len(alpha)] = alpha
    if state.double is None:
        return _given(state.state, values, weights, own.astype(data.dtype), is_centred=data.is_centred).weights
    with jax.enable_x64(True):
        weights = None if weights is None else weights.astype(np.float64)
        return _given(state.double, values.astype(np.float64), weights, own, is_centred=data.is_centred).weights


class Ridge(_Linear):
    """Ridge regression with given penalties.

    For target j the weights minimise sum((y_j - X w - b)^2) + alpha_j sum(w^2): the first term is a sum, so a good alpha
    grows with the number of stimuli.

    Attributes:
        alpha: number, or one for each target: (n_targets,) or the shape of one row of y. At 0, or below rounding, the
            least squares weights of minimum length.
        fit_intercept: add an intercept, which is not penalised (himalaya and fracridge leave it out by default).
        solver: "auto", "eigh" (of the smaller Gram matrix), "svd", or "cholesky" (a single penalty). "auto" takes the
            cheapest that keeps the digits: svd where the penalty is below the rounding of a Gram matrix.
        missing: "error", or "mask" to leave out, for each target, the rows where it is NaN; a target without any row
            has NaN weights.
        n_targets_batch: targets fitted at a time; None plans it by memory.
        dtype: float32 or float64; None keeps that of X (anything else becomes float64).
        coef_: (n_features, *shape of one row of y); scikit-learn's is the transpose, see SklearnRidge.
        intercept_: (*shape of one row of y); 0.0 without.
        solver_: the solver that was used; svd where the one asked for failed.
        features_mean_: (n_features,), what predictions subtract from X.
        responses_mean_: (*shape of one row of y), the prediction at features_mean_.
        target_shape_: shape of one row of y.
    Source:
        Hoerl & Kennard 1970, Technometrics 12:55.
    """

    def __init__(
        self, alpha=1.0, *, fit_intercept=True, solver="auto", missing="error", n_targets_batch=None, dtype=None
    ):
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.missing = missing
        self.n_targets_batch = n_targets_batch
        self.dtype = dtype

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Ridge:
        """Fit the weights.

        Args:
            X: (n_stimuli, n_features), any unit, without NaN.
            y: (n_stimuli,), (n_stimuli, n_targets) or with more axes, any unit.
            sample_weight: (n_stimuli,) from 0 upwards: a weight of 2 is a row given twice. None weighs all alike.
        Returns:
            Itself, fitted.
        Raises:
            ValueError: if data, penalties or the solver are not as above.
        """
        data = self._read(X, y, sample_weight)
        alpha = _penalties(self.alpha, "alpha").ravel()
        if alpha.size not in (1, data.n_targets):
            raise ValueError(
                f"Number of targets and number of penalties do not correspond: {alpha.size} != {data.n_targets}"
            )
        alpha = np.broadcast_to(alpha, data.n_targets)
        with jax.enable_x64(data.dtype == np.float64):
            result, self.solver_ = _rescued(self._solver(data, alpha), partial(self._fit_by, data, alpha))
        self._keep(data, result)
        return self

    def _solver(self, data: _Data, alpha: np.ndarray) -> str:
        is_one = bool(np.all(alpha == alpha[0]))
        if self.solver == "cholesky" and not is_one:
            raise ValueError(
                f"solver='cholesky' with {len(np.unique(alpha))} different penalties: it factorises for a single one. Use eigh or svd."
            )
        if self.solver == "auto" and alpha.min() <= _cutoff(data):
            return "svd"
        n_alphas = 1 if is_one else 1000
        return resolve(self.solver, min(data.features.shape), n_alphas, data.n_targets, _platform())

    def _fit_by(self, data: _Data, alpha: np.ndarray, solver: str) -> _Result:
        result = _Result.empty(data)
        size = self._batch(data)
        way = Way(data.is_centred, False, solver, _platform())
        for rows in data.patterns():
            state = _decomposed(data, None, rows.weights, None, way, 1)
            result.is_sound &= _is_sound(state.state)
            shift = data.features_mean(rows.weights) if data.is_centred else data.shift
            for columns in _blocks(rows.columns, size):
                standard = _standard(data, columns, rows.weights, None)
                width = size if len(rows.columns) > size else len(columns)
                found = _weights_at(data, state, _filled(standard.values, width), rows.weights, alpha[columns])
                result.put(data, columns, found, standard, shift)
        return result


class _Block(NamedTuple):
    """A batch of targets with the state that it is fitted from; `votes` (n_folds,) are the folds that can judge it."""

    columns: np.ndarray
    standard: _Standard
    values: np.ndarray
    weights: np.ndarray | None
    folds: Folds | None
    votes: np.ndarray
    state: _Decomposed
    shift: np.ndarray


@dataclass(frozen=True)
class _Plan:
    """How penalties are chosen: settings, folds (None for leave-one-out and gcv), way, number of candidates that the
    decompositions expect, labels (n_targets,) of targets that share a penalty or None, common units or None, batch."""

    by: Choosing
    folds: Folds | None
    way: Way
    n_alphas: int
    labels: np.ndarray | None
    units: np.ndarray | None
    size: int

    @property
    def n_splits(self) -> int:
        return 1 if self.folds is None else len(self.folds.train)


class RidgeCV(_Linear):
    """Ridge regression with a penalty for each target, chosen by cross-validation or leave-one-out.

    For target j the weights minimise sum((y_j - X w - b)^2) + alpha_j sum(w^2), and alpha_j is the candidate with the best
    criterion, averaged over folds; ties go to the larger. A fold in which a target has no rows to fit or is constant does
    not judge it; a target that no fold can judge gets the largest candidate.

    Attributes:
        alphas: penalties to choose from, or "auto": 25 values from 1e-4 to 1e6 times the mean nonzero eigenvalue of the
            Gram matrix of X.
        cv: None for exact leave-one-out, "gcv" for generalised cross-validation, a number of unshuffled folds, a
            splitter, or an iterable of (train, test).
        fit_intercept: add an intercept, which is not penalised.
        scoring: criterion: "r2", "neg_mean_squared_error" ("neg_mse"), or with folds "pearson_r".
        solver: "auto", "eigh", "svd", or "cholesky" (with folds and given alphas).
        alpha_per_target: False chooses one penalty for all targets, by their mean criterion (himalaya: local_alpha).
        target_groups: labels of targets, (n_targets,) or the shape of one row of y: one penalty for each label.
        conservative: the largest penalty within one standard error, over folds, of the best.
        n_refinements: steps of a search between the neighbours of each target's best candidate; 0 keeps to the grid.
        widen: while more than 5 % of the predicted targets are at an end of the candidates, add 3 decades there and choose
            again, at most 4 times.
        store_cv_results: keep cv_results_.
        missing: "error", or "mask" to leave out, for each target, the rows where it is NaN; a target without any row
            has NaN weights, penalty and score.
        n_targets_batch: targets fitted at a time; None plans it by memory.
        dtype: float32 or float64; None keeps that of X (anything else becomes float64).
        coef_: (n_features, *shape of one row of y); scikit-learn's is the transpose, see SklearnRidgeCV.
        intercept_: (*shape of one row of y); 0.0 without.
        alpha_: chosen, exactly a candidate unless refined: (*shape of one row of y), a number if shared by all.
        alphas_: (n_alphas,) candidates.
        cv_scores_: (*shape of one row of y), criterion at alpha_, mean over folds. It chose: no unbiased score.
        cv_results_: (n_splits, n_alphas, *shape of one row of y) criterion, with store_cv_results.
        edge_low_, edge_high_: share of the predicted targets (criterion better than that of the mean; r2 or r above 0) that
            chose the lowest or highest candidate; NaN without any. AlphaEdgeWarning above 5 %.
        null_at_top_: share of the other targets at the highest candidate, where they belong.
        solver_: the solver that was used; svd where the one asked for failed.
        features_mean_: (n_features,), what predictions subtract from X.
        responses_mean_: (*shape of one row of y), the prediction at features_mean_.
        target_shape_: shape of one row of y.
    Source:
        Dupre la Tour et al. 2022, NeuroImage 264:119728; Golub, Heath & Wahba 1979, Technometrics 21:215.
    """

    def __init__(
        self,
        alphas="auto",
        *,
        cv=None,
        fit_intercept=True,
        scoring="r2",
        solver="auto",
        alpha_per_target=True,
        target_groups=None,
        conservative=False,
        n_refinements=0,
        widen=False,
        store_cv_results=False,
        missing="error",
        n_targets_batch=None,
        dtype=None,
    ):
        self.alphas = alphas
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.scoring = scoring
        self.solver = solver
        self.alpha_per_target = alpha_per_target
        self.target_groups = target_groups
        self.conservative = conservative
        self.n_refinements = n_refinements
        self.widen = widen
        self.store_cv_results = store_cv_results
        self.missing = missing
        self.n_targets_batch = n_targets_batch
        self.dtype = dtype

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> RidgeCV:
        """Choose penalties and fit the weights on all rows.

        Args:
            X: (n_stimuli, n_features), any unit, without NaN.
            y: (n_stimuli,), (n_stimuli, n_targets) or with more axes, any unit.
            sample_weight: (n_stimuli,) from 0 upwards, in fitting and in the criterion: with folds, a weight of 2 is a row
                given twice to the same fold. Leave-one-out leaves out the weighted row as one. None weighs all alike.
            groups: (n_stimuli,) labels; a number of folds never splits them, a splitter is given them.
        Returns:
            Itself, fitted.
        Raises:
            ValueError: if data, penalties, folds or settings are not as above.
        """
        data = self._read(X, y, sample_weight, n_least=2)
        by, folds = self._choosing(len(data.features), groups)
        alphas = None if isinstance(self.alphas, str) else np.atleast_1d(_penalties(self.alphas, "alphas")).ravel()
        if alphas is None and self.alphas != "auto":
            raise ValueError(f"alphas={self.alphas!r}: write auto, or give penalties.")
        labels = self._labels(data)
        with jax.enable_x64(data.dtype == np.float64):
            way = Way(data.is_centred, False, self._solver(data, by, alphas), _platform())
            n_alphas = AUTO_ALPHAS[2] if alphas is None else len(alphas)
            units = _common_units(data, labels) if labels is not None and by.criterion == "neg_mse" else None
            plan = _Plan(by, folds, way, n_alphas, labels, units, self._batch_of(data, folds, alphas))
            result, self.solver_ = _rescued(way.solver, partial(self._widened, data, plan, alphas))
        self._keep(data, result)
        self._keep_choice(result)
        return self

    def _choosing(self, n_rows: int, groups: Any) -> tuple[Choosing, Folds | None]:
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring={self.scoring!r} is not one of {', '.join(SCORINGS)}.")
        way = "loo" if self.cv is None else "gcv" if isinstance(self.cv, str) and self.cv == "gcv" else "folds"
        if way != "folds" and groups is not None:
            raise ValueError(f"cv={self.cv!r} does not keep groups together: give a number of folds, or a splitter.")
        by = Choosing(way, SCORINGS[self.scoring], bool(self.conservative), int(self.n_refinements))
        return by, self._folds(self.cv, n_rows, groups) if way == "folds" else None

    def _labels(self, data: _Data) -> np.ndarray | None:
        """Number of the group that each target shares its penalty with; None for a penalty of its own. -> (n_targets,)"""
        if self.target_groups is None:
            labels = None if self.alpha_per_target else np.zeros(data.n_targets, int)
        else:
            given = np.asarray(self.target_groups)
            if not self.alpha_per_target:
                raise ValueError("alpha_per_target=False and target_groups exclude each other: leave out one.")
            if given.shape not in (data.shape, (data.n_targets,)):
                raise ValueError(
                    f"target_groups has shape {given.shape} and a row of y {data.shape}: give one label for each target."
                )
            labels = np.unique(given.ravel(), return_inverse=True)[1].ravel()
        if labels is not None and self.n_refinements:
            raise ValueError(
                f"n_refinements={self.n_refinements} with shared penalties: each target would get its own. Give a finer grid."
            )
        return labels

    def _solver(self, data: _Data, by: Choosing, alphas: np.ndarray | None) -> str:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is not one of {', '.join(SOLVERS)}.")
        needs_spectrum = alphas is None or by.by != "folds" or bool(by.n_refinements) or self.target_groups is not None
        if self.solver == "cholesky" and needs_spectrum:
            raise ValueError(
                "solver='cholesky' knows no spectrum: it goes with folds, given alphas, n_refinements=0 and no target_groups. Use eigh."
            )
        if self.solver == "auto" and (needs_spectrum or alphas is None or alphas.min() <= _cutoff(data)):
            return "eigh"
        assert alphas is not None or self.solver != "auto"
        n_alphas = 1 if alphas is None else len(alphas)
        return resolve(self.solver, min(data.features.shape), n_alphas, data.n_targets, _platform())

    def _batch_of(self, data: _Data, folds: Folds | None, alphas: np.ndarray | None) -> int:
        n_basis = basis_size(np.geomspace(*AUTO_ALPHAS) if alphas is None else alphas, data.dtype)
        n_test = len(data.features) if folds is None else folds.test.shape[-1]
        return self._batch(data, n_basis * max(n_test, min(data.features.shape)))

    def _widened(self, data: _Data, plan: _Plan, alphas: np.ndarray | None, solver: str) -> _Result:
        """The fit, with candidates added at a crowded end if asked for."""
        plan = replace(plan, way=plan.way._replace(solver=solver))
        states: dict[int, _Decomposed] = {}
        if alphas is None:
            alphas = self._automatic(data, plan, states)
        for turn in range(MAX_WIDENINGS + 1):
            search = self._search if plan.labels is None else self._search_shared
            result = search(data, plan, alphas, states)
            self.alphas_: np.ndarray = alphas
            self._set_edges(result)
            wider = _wider(alphas, self.edge_low_ > CROWDED, self.edge_high_ > CROWDED)
            if not self.widen or turn == MAX_WIDENINGS or len(wider) == len(alphas) or not result.is_sound:
                break
            alphas = wider
        return result

    def _automatic(self, data: _Data, plan: _Plan, states: dict[int, _Decomposed]) -> np.ndarray:
        """The grid of all rows, whatever targets miss."""
        patterns = data.patterns()
        if len(patterns) == 1 and patterns[0].weights is data.weights:
            split = self._state_of(data, plan, patterns[0], plan.folds, 0, states).state.split
        else:
            split = _decomposed(data, None, data.weights, None, plan.way, 1).state.split
        return _automatic(np.nan_to_num(np.asarray(split.singular)), np.nan_to_num(np.asarray(split.noise)))

    def _state_of(
        self, data: _Data, plan: _Plan, rows: _Rows, folds: Folds | None, place: int, states: dict[int, _Decomposed]
    ) -> _Decomposed:
        """Decompositions for one pattern of missing rows; kept where there is only one."""
        if place in states:
            return states[place]
        state = _decomposed(data, folds, rows.weights, plan.by, plan.way, plan.n_alphas)
        if len(rows.columns) == data.n_targets:
            states[place] = state
        return state

    def _each_block(self, data: _Data, plan: _Plan, states: dict[int, _Decomposed]) -> Iterator[_Block]:
        for place, rows in enumerate(data.patterns()):
            folds, votes = _voting(plan.folds, rows.weights)
            shift = data.features_mean(rows.weights) if data.is_centred else data.shift
            if votes.any():
                state = self._state_of(data, plan, rows, folds, place, states)
            else:
                state = _decomposed(data, None, rows.weights, None, plan.way, 1)
            for columns in _blocks(rows.columns, plan.size):
                standard = _standard(data, columns, rows.weights, plan.units)
                width = plan.size if len(rows.columns) > plan.size else len(columns)
                values = _filled(standard.values, width)
                yield _Block(columns, standard, values, rows.weights, folds, votes, state, shift)

    def _search(self, data: _Data, plan: _Plan, alphas: np.ndarray, states: dict[int, _Decomposed]) -> _Result:
        """A penalty for each target."""
        result = _Result.empty(data, (plan.n_splits, len(alphas)) if self.store_cv_results else None)
        n_basis = basis_size(alphas, data.dtype)
        grid = alphas.astype(data.dtype)
        for block in self._each_block(data, plan, states):
            columns, n_real = block.columns, len(block.columns)
            result.is_sound &= _is_sound(block.state.state)
            if not block.votes.any():
                self._fit_unjudged(data, block, alphas, result)
                continue
            given = (block.values, block.folds, block.weights, grid, plan.by, n_basis)
            if block.state.double is None:
                weights, _, choice, found = _chosen(block.state.state, *given, is_centred=data.is_centred)
            else:
                weights, (choice, found) = None, _judged(block.state.state, *given, data.is_centred)
            place = np.asarray(choice.place)[:n_real]
            result.place[columns] = place
            refined = np.asarray(choice.alpha, np.float64)[:n_real]
            result.alpha[columns] = np.where(refined == grid[place], alphas[place], refined)
            of_unit = block.standard.unit**2 if plan.by.criterion == "neg_mse" else np.ones(n_real)
            weights = self._at(data, block, result) if weights is None else weights
            result.put(data, columns, weights, block.standard, block.shift)
            result.validation[columns] = np.asarray(choice.validation, np.float64)[:n_real] * of_unit
            result.null[columns] = _null_criterion(block, plan.by, data.is_centred) * of_unit
            if result.judged is not None or plan.way.solver == "cholesky":
                judged = np.asarray(found, np.float64)[..., :n_real]
                result.is_sound &= plan.way.solver != "cholesky" or _is_whole(judged)
                self._store(result, block, judged * of_unit)
        return result

    def _search_shared(self, data: _Data, plan: _Plan, alphas: np.ndarray, states: dict[int, _Decomposed]) -> _Result:
        """A penalty for each group of targets: first the criterion of all, batch by batch, then the weights."""
        assert plan.labels is not None
        result = _Result.empty(data, (plan.n_splits, len(alphas)) if self.store_cv_results else None)
        n_basis, grid = basis_size(alphas, data.dtype), alphas.astype(data.dtype)
        sums = np.zeros((2, plan.n_splits, len(alphas), plan.labels.max() + 1))
        average = np.full((len(alphas), data.n_targets), np.nan)
        for block in self._each_block(data, plan, states):
            columns, n_real = block.columns, len(block.columns)
            result.is_sound &= _is_sound(block.state.state)
            if not block.votes.any():
                continue
            given = (block.values, block.folds, block.weights, grid, plan.by, n_basis)
            _, found = _judged(block.state.state, *given, data.is_centred)
            of_unit = block.standard.unit**2 if plan.by.criterion == "neg_mse" else np.ones(n_real)
            judged = np.asarray(found, np.float64)[..., :n_real] * of_unit
            result.is_sound &= plan.way.solver != "cholesky" or _is_whole(judged)
            self._store(result, block, judged)
            average[:, columns] = _nanmean(judged, 0)
            result.null[columns] = _null_criterion(block, plan.by, data.is_centred) * of_unit
            for label in np.unique(plan.labels[columns]):
                mine = judged[..., plan.labels[columns] == label]
                sums[0, block.votes, :, label] += np.nansum(mine, axis=-1)
                sums[1, block.votes, :, label] += (~np.isnan(mine)).sum(-1)
        mean = np.where(sums[1] > 0, sums[0] / np.maximum(sums[1], 1), np.nan)
        with jax.enable_x64(True):
            result.place[:] = np.asarray(pick(jnp.asarray(mean), jnp.asarray(alphas), plan.by).place)[plan.labels]
        result.alpha[:] = alphas[result.place]
        result.validation[:] = np.take_along_axis(average, result.place[None], axis=0)[0]
        for block in self._each_block(data, plan, states):
            result.put(data, block.columns, self._at(data, block, result), block.standard, block.shift)
        is_empty = np.isnan(result.level)
        result.alpha[is_empty], result.place[is_empty] = np.nan, -1
        return result

    def _fit_unjudged(self, data: _Data, block: _Block, alphas: np.ndarray, result: _Result) -> None:
        """Targets that no fold can judge get the largest candidate."""
        place = int(np.argmax(alphas))
        result.place[block.columns], result.alpha[block.columns] = place, alphas[place]
        result.put(data, block.columns, self._at(data, block, result), block.standard, block.shift)

    def _at(self, data: _Data, block: _Block, result: _Result) -> jax.Array:
        """Weights of a block with the penalties that were chosen."""
        return _weights_at(data, block.state, block.values, block.weights, result.alpha[block.columns])

    def _store(self, result: _Result, block: _Block, judged: np.ndarray) -> None:
        if result.judged is not None:
            result.judged[np.flatnonzero(block.votes)[:, None], :, block.columns] = np.moveaxis(judged, 2, 1)

    def _set_edges(self, result: _Result) -> None:
        """Share of targets at the ends of the candidates."""
        is_predicted = result.validation > result.null
        is_null = result.validation <= result.null
        n_predicted, n_null = is_predicted.sum(), is_null.sum()
        chosen = np.where(result.place >= 0, self.alphas_[result.place], np.nan)
        is_low, is_high = chosen == self.alphas_.min(), chosen == self.alphas_.max()
        has_edge = self.alphas_.min() < self.alphas_.max()
        self.edge_low_ = (is_low & is_predicted & has_edge).sum() / n_predicted if n_predicted else np.nan
        self.edge_high_ = (is_high & is_predicted & has_edge).sum() / n_predicted if n_predicted else np.nan
        self.null_at_top_ = (is_high & is_null).sum() / n_null if n_null else np.nan
        self._n_predicted = int(n_predicted)

    def _keep_choice(self, result: _Result) -> None:
        is_one = self.target_groups is None and not self.alpha_per_target
        known = result.alpha[~np.isnan(result.alpha)]
        self.alpha_ = (float(known[0]) if known.size else np.nan) if is_one else self._shaped(result.alpha)
        self.cv_scores_ = self._shaped(result.validation)
        if result.judged is not None:
            self.cv_results_ = self._shaped(result.judged)
        ends = (("lowest", self.alphas_.min(), self.edge_low_), ("highest", self.alphas_.max(), self.edge_high_))
        for name, end, share in ends:
            if share > CROWDED and end > 0:
                warnings.warn(
                    f"{share:.0%} of {self._n_predicted} predicted targets chose the {name} of {len(self.alphas_)} candidates, alpha={end:.3g}: better ones may lie beyond. Give {'smaller' if name == 'lowest' else 'larger'} alphas too, or widen=True.",
                    AlphaEdgeWarning,
                    stacklevel=3,
                )

    @property
    def best_alphas_(self) -> Any:
        """alpha_ by the name that himalaya gives it."""
        return self.alpha_

    @property
    def best_score_(self) -> Any:
        """cv_scores_, or their mean where all targets share a penalty, as in scikit-learn."""
        if self.alpha_per_target:
            return self.cv_scores_
        return float(_nanmean(np.ravel(self.cv_scores_)[:, None], 0)[0])


def _wider(alphas: np.ndarray, is_low: bool, is_high: bool) -> np.ndarray:
    """Candidates with 3 decades more at a crowded end, spaced as there; nothing lies below 0. -> (n_alphas,)"""
    ordered = np.unique(alphas)
    more = [alphas]
    if len(ordered) > 1:
        positive = ordered[ordered > 0]
        ratios = positive[1:] / positive[:-1] if len(positive) > 1 else np.array([10.0])
        if is_high:
            more.append(ordered[-1] * ratios[-1] ** np.arange(1, _n_steps(ratios[-1]) + 1))
        if is_low and ordered[0] > 0:
            more.insert(0, ordered[0] * ratios[0] ** np.arange(-_n_steps(ratios[0]), 0.0))
    return np.concatenate(more)


def _n_steps(ratio: float) -> int:
    return int(np.ceil(WIDER_DECADES / np.log10(ratio) - 1e-9))


def _voting(folds: Folds | None, weights: np.ndarray | None) -> tuple[Folds | None, np.ndarray]:
    """The folds that have rows of weight to fit and to judge, and which these are. -> Folds, (n_folds,)"""
    if folds is None:
        return None, np.array([weights is None or (weights > 0).sum() > 1])
    if weights is None:
        return folds, np.ones(len(folds.train), bool)
    has = weights > 0
    votes = (has[folds.train] & folds.is_train).any(1) & (has[folds.test] & folds.is_test).any(1)
    if votes.all() or not votes.any():
        return folds, votes
    return replace(jax.tree.map(lambda leaf: leaf[votes], folds), is_partition=False), votes


def _is_whole(judged: np.ndarray) -> bool:
    """Whether no penalty failed: a target is judged for all or none, and some target is. (n_folds, n_alphas, m)"""
    is_nan = np.isnan(judged)
    return not (is_nan.any(1) & ~is_nan.all(1)).any() and not is_nan.all((1, 2)).any()


def _null_criterion(block: _Block, by: Choosing, is_centred: bool) -> np.ndarray:
    """Criterion of predicting the mean of the training rows (0 without intercept), in squared units. -> (m,)"""
    values = block.standard.values.astype(np.float64)
    if by.criterion != "neg_mse":
        return np.zeros(values.shape[1])
    weight = np.ones(len(values)) if block.weights is None else block.weights.astype(np.float64)

    def error(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        level = weight[train] @ values[train] / weight[train].sum() if is_centred else 0
        return weight[test] @ (values[test] - level) ** 2 / weight[test].sum()

    if block.folds is None:
        everything = np.arange(len(values))
        return -error(everything, everything)
    folds = block.folds
    errors = [
        error(folds.train[fold][folds.is_train[fold]], folds.test[fold][folds.is_test[fold]])
        for fold in range(len(folds.train))
    ]
    return -np.mean(errors, axis=0)


class BandedRidgeCV(_Linear):
    """Ridge regression with a penalty for each group of features and each target, chosen by cross-validation.

    For target j the weights minimise sum((y_j - sum_g X_g w_g - b)^2) + sum_g (alpha_j / gamma_gj) sum(w_g^2); gammas lie on
    the simplex, and a group with gamma 0 has no weights. Groups are compared in the units given.

    Attributes:
        feature_groups: (n_features,) label of each column (himalaya: groups); None for a single group.
        alphas: penalties above 0 to choose from, or "auto" as in RidgeCV.
        cv: a number of unshuffled folds, a splitter, or an iterable of (train, test).
        fit_intercept: add an intercept, which is not penalised.
        scoring: criterion: "r2" or "neg_mean_squared_error" ("neg_mse").
        search: "random", or "gradient" to improve what the random search found, expensive for many targets.
        n_candidates: gammas tried: the uniform point, the corners, then Dirichlet samples.
        concentrations: of the Dirichlet distribution, taken in turn.
        alpha_per_target: False chooses one alpha and one gamma for all targets (himalaya: local_alpha).
        learning_rate, n_steps: of the gradient search.
        random_state: seed of the candidates, a whole number.
        n_targets_batch: targets fitted at a time; None plans it by memory. All at a time if they share penalties.
        dtype: float32 or float64; None keeps that of X (anything else becomes float64).
        coef_: (n_features, *shape of one row of y); scikit-learn's is the transpose, see SklearnBandedRidgeCV.
        intercept_: (*shape of one row of y); 0.0 without.
        alpha_: (*shape of one row of y).
        gammas_: (n_groups, *shape of one row of y), in the order of feature_groups_.
        deltas_: (n_groups, *shape of one row of y), log(gamma / alpha).
        alphas_: (n_alphas,) candidates.
        feature_groups_: (n_groups,) labels.
        cv_scores_: (*shape of one row of y), criterion at what was chosen, mean over folds. It chose: no unbiased score.
        features_mean_: (n_features,), what predictions subtract from X.
        responses_mean_: (*shape of one row of y), the prediction at features_mean_.
        target_shape_: shape of one row of y.
    Source:
        Nunez-Elizalde et al. 2019, NeuroImage 197:482; Dupre la Tour et al. 2022, NeuroImage 264:119728.
    """

    def __init__(
        self,
        feature_groups=None,
        alphas="auto",
        *,
        cv=5,
        fit_intercept=True,
        scoring="r2",
        search="random",
        n_candidates=100,
        concentrations=(0.1, 1.0),
        alpha_per_target=True,
        learning_rate=0.1,
        n_steps=100,
        random_state=0,
        n_targets_batch=None,
        dtype=None,
    ):
        self.feature_groups = feature_groups
        self.alphas = alphas
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.scoring = scoring
        self.search = search
        self.n_candidates = n_candidates
        self.concentrations = concentrations
        self.alpha_per_target = alpha_per_target
        self.learning_rate = learning_rate
        self.n_steps = n_steps
        self.random_state = random_state
        self.n_targets_batch = n_targets_batch
        self.dtype = dtype

    def fit(self, X: Any, y: Any, groups: Any = None) -> BandedRidgeCV:
        """Choose the penalties of all groups and fit the weights on all rows.

        Args:
            X: (n_stimuli, n_features), without NaN.
            y: (n_stimuli,), (n_stimuli, n_targets) or with more axes, any unit, without NaN.
            groups: (n_stimuli,) labels of rows; a number of folds never splits them, a splitter is given them.
        Returns:
            Itself, fitted.
        Raises:
            ValueError: if data, groups, penalties, folds or settings are not as above.
        """
        data = self._read(X, y, n_least=2)
        labels = self._feature_labels(data)
        criterion = self._criterion()
        folds = _needed_folds(self, data, groups)
        n_groups = len(self.feature_groups_)
        gammas = banded.random_gammas(int(self.n_candidates), n_groups, int(self.random_state), self.concentrations)
        result = _Result.empty(data)
        self.gammas_, self.deltas_ = np.full((2, n_groups, data.n_targets), np.nan)
        with jax.enable_x64(data.dtype == np.float64):
            if isinstance(self.alphas, str):
                if self.alphas != "auto":
                    raise ValueError(f"alphas={self.alphas!r}: write auto, or give penalties.")
                way = Way(data.is_centred, False, "eigh", _platform())
                split = _state(data.features, None, None, None, way, 1).split
                self.alphas_ = _automatic(split.singular, split.noise)
            else:
                self.alphas_ = np.atleast_1d(_penalties(self.alphas, "alphas")).ravel()
            size = self._batch(data) if self.alpha_per_target else data.n_targets
            for columns in _blocks(np.arange(data.n_targets), size):
                self._fit_block(data, columns, size, (labels, folds, gammas, criterion), result)
        if not result.is_sound:
            raise np.linalg.LinAlgError(
                "Weights are not finite, though the data are: scale features and targets, or use float64."
            )
        self._keep(data, result)
        self.gammas_, self.deltas_ = self._shaped(self.gammas_), self._shaped(self.deltas_)
        self.alpha_, self.cv_scores_ = self._shaped(result.alpha), self._shaped(result.validation)
        return self

    def _feature_labels(self, data: _Data) -> np.ndarray:
        """Number of the group of each column; keeps the labels. -> (n_features,)"""
        width = data.features.shape[1]
        given = np.zeros(width, int) if self.feature_groups is None else np.asarray(self.feature_groups)
        if given.shape != (width,):
            raise ValueError(
                f"feature_groups has shape {given.shape} for {width} features: give one label for each column."
            )
        self.feature_groups_, labels = np.unique(given, return_inverse=True)
        return labels.ravel()

    def _criterion(self) -> str:
        criterion = SCORINGS.get(self.scoring)
        if criterion not in banded.CRITERIA:
            raise ValueError(f"scoring={self.scoring!r} is not one of r2, neg_mean_squared_error, neg_mse.")
        if self.search not in ("random", "gradient"):
            raise ValueError(f"search={self.search!r}: write random or gradient.")
        if self.search == "gradient" and not self.alpha_per_target:
            raise ValueError("search='gradient' gives each target its own penalties: use random with shared ones.")
        return criterion

    def _fit_block(self, data: _Data, columns: np.ndarray, size: int, plan: tuple[Any, ...], result: _Result) -> None:
        labels, folds, gammas, criterion = plan
        is_common = not self.alpha_per_target and criterion == "neg_mse"
        units = _common_units(data, np.zeros(data.n_targets, int)) if is_common else None
        standard = _standard(data, columns, None, units)
        features, values = data.features - data.shift, jnp.asarray(_filled(standard.values, size))
        is_shared = not self.alpha_per_target
        settings: dict[str, Any] = {"criterion": criterion, "fit_intercept": data.is_centred}
        found = banded.random_search(
            features, labels, values, folds, gammas, self.alphas_, is_shared=is_shared, platform=_platform(), **settings
        )
        if self.search == "gradient":
            settings |= {"learning_rate": self.learning_rate, "n_steps": self.n_steps}
            found = banded.gradient_search(features, labels, values, folds, found, **settings)
        n_real = len(columns)
        result.put(data, columns, found.weights, standard, data.features_mean(None) if data.is_centred else data.shift)
        alpha = np.asarray(found.alphas, np.float64)[:n_real]
        nearest = self.alphas_[np.argmin(np.abs(self.alphas_.astype(data.dtype) - alpha[:, None]), axis=1)]
        result.alpha[columns] = np.where(nearest.astype(data.dtype) == alpha, nearest, alpha)
        of_unit = standard.unit**2 if criterion == "neg_mse" else 1.0
        result.validation[columns] = np.asarray(found.cv_scores, np.float64)[:n_real] * of_unit
        self.gammas_[:, columns] = np.asarray(found.gammas)[:, :n_real]
        self.deltas_[:, columns] = np.asarray(found.deltas)[:, :n_real]

    @property
    def best_alphas_(self) -> Any:
        """alpha_ by the name that himalaya gives it."""
        return self.alpha_

    def predict_split(self, X: Any) -> np.ndarray:
        """What each group predicts about the mean; the parts plus responses_mean_ are the prediction.

        Args:
            X: (n_stimuli, n_features), in the units of the fit.
        Returns:
            (n_groups, n_stimuli, *shape of one row of y), in the order of feature_groups_.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=self.coef_.dtype, order="C") - self.features_mean_
        weights = self._weights()
        given = np.zeros(X.shape[1], int) if self.feature_groups is None else np.asarray(self.feature_groups)
        parts = [X[:, given == name] @ weights[given == name] for name in self.feature_groups_]
        return np.stack(parts).reshape(len(parts), len(X), *self.target_shape_)


GroupRidgeCV = BandedRidgeCV


def _needed_folds(estimator: Any, data: _Data, groups: Any) -> Folds:
    """Folds of an estimator that has nothing but folds to choose by."""
    if estimator.cv is None or isinstance(estimator.cv, str):
        raise ValueError(
            f"cv={estimator.cv!r}: {type(estimator).__name__} chooses by folds. Give a number, a splitter, or (train, test) pairs."
        )
    return estimator._folds(estimator.cv, len(data.features), groups)


class FractionalRidgeCV(_Linear):
    """Ridge regression whose penalty leaves a share of the length of the least squares weights, chosen by folds.

    The share, and not the penalty, is chosen for each target: it has no unit and always lies in [0, 1].

    Attributes:
        fractions: shares to choose from, numbers in [0, 1]; None for 0.05 to 1 in steps of 0.05.
        cv: a number of unshuffled folds, a splitter, or an iterable of (train, test).
        fit_intercept: add an intercept, which is not penalised (fracridge leaves it out by default).
        scoring: criterion: "r2" or "pearson_r".
        fraction_per_target: False chooses one fraction for all targets, as fracridge does; penalties still differ.
        solver: "auto", "eigh" or "svd".
        n_targets_batch: targets fitted at a time; None plans it by memory.
        dtype: float32 or float64; None keeps that of X (anything else becomes float64).
        coef_: (n_features, *shape of one row of y); scikit-learn's is the transpose, see SklearnFractionalRidgeCV.
        intercept_: (*shape of one row of y); 0.0 without.
        fraction_: (*shape of one row of y), exactly one of fractions; a number if shared by all.
        alpha_: (*shape of one row of y), the penalty at that fraction; infinite at 0 and for a target that no feature
            says anything of.
        fractions_: (n_fractions,) candidates.
        cv_scores_: (*shape of one row of y), criterion at fraction_, mean over folds. It chose: no unbiased score.
        solver_: the solver that was used; svd where the one asked for failed.
        features_mean_: (n_features,), what predictions subtract from X.
        responses_mean_: (*shape of one row of y), the prediction at features_mean_.
        target_shape_: shape of one row of y.
    Source:
        Rokem & Kay 2020, GigaScience 9:giaa133.
    """

    def __init__(
        self,
        fractions=None,
        *,
        cv=5,
        fit_intercept=True,
        scoring="r2",
        fraction_per_target=True,
        solver="auto",
        n_targets_batch=None,
        dtype=None,
    ):
        self.fractions = fractions
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.scoring = scoring
        self.fraction_per_target = fraction_per_target
        self.solver = solver
        self.n_targets_batch = n_targets_batch
        self.dtype = dtype

    def fit(self, X: Any, y: Any, groups: Any = None) -> FractionalRidgeCV:
        """Choose fractions and fit the weights on all rows.

        Args:
            X: (n_stimuli, n_features), any unit, without NaN.
            y: (n_stimuli,), (n_stimuli, n_targets) or with more axes, any unit, without NaN.
            groups: (n_stimuli,) labels of rows; a number of folds never splits them, a splitter is given them.
        Returns:
            Itself, fitted.
        Raises:
            ValueError: if data, fractions, folds or settings are not as above.
        """
        data = self._read(X, y, n_least=2)
        given = np.arange(1, 21) / 20 if self.fractions is None else np.ravel(self.fractions)
        fractions = fractional.checked_fractions(tuple(given.tolist()))
        if self.scoring not in fractional.CRITERIA:
            raise ValueError(f"scoring={self.scoring!r} is not one of {', '.join(fractional.CRITERIA)}.")
        folds = _needed_folds(self, data, groups)
        solver = "eigh" if self.solver == "auto" else self.solver
        with jax.enable_x64(data.dtype == np.float64):
            result, self.solver_ = _rescued(solver, partial(self._fit_by, data, fractions, folds))
        self.fractions_ = np.asarray(fractions)
        self._keep(data, result)
        chosen = self.fractions_[result.place]
        self.fraction_ = self._shaped(chosen) if self.fraction_per_target else float(chosen[0])
        self.alpha_, self.cv_scores_ = self._shaped(result.alpha), self._shaped(result.validation)
        return self

    def _fit_by(self, data: _Data, fractions: tuple[float, ...], folds: Folds, solver: str) -> _Result:
        result = _Result.empty(data)
        size = self._batch(data)
        features = data.features - data.shift
        way = {"is_centred": data.is_centred, "solver": solver, "platform": _platform()}
        validation = np.full((len(fractions), data.n_targets), np.nan)
        for columns in _blocks(np.arange(data.n_targets), size):
            values = _filled(_standard(data, columns, None, None).values, size)
            found = _choose_fraction(features, values, folds, fractions=fractions, criterion=self.scoring, **way)
            validation[:, columns] = np.asarray(found.validation, np.float64)[:, : len(columns)]
        result.place = _best_fraction(validation, fractions, is_shared=not self.fraction_per_target)
        result.validation[:] = np.take_along_axis(validation, result.place[None], axis=0)[0]
        for columns in _blocks(np.arange(data.n_targets), size):
            standard = _standard(data, columns, None, None)
            place = np.zeros(size, np.int32)
            place[: len(columns)] = result.place[columns]
            weights, alpha = _fractional(features, _filled(standard.values, size), place, fractions, **way)
            result.put(data, columns, weights, standard, data.features_mean(None) if data.is_centred else data.shift)
            result.alpha[columns] = np.asarray(alpha, np.float64)[: len(columns)]
        return result


def _best_fraction(validation: np.ndarray, fractions: tuple[float, ...], is_shared: bool) -> np.ndarray:
    """Place of the best fraction of each target, ties to the smaller. (n_fractions, n_targets) -> (n_targets,)"""
    judged = _nanmean(validation, 1)[:, None] if is_shared else validation
    order = np.argsort(fractions, kind="stable")
    best = order[np.argmax(np.nan_to_num(judged[order], nan=-np.inf), axis=0)]
    return np.broadcast_to(best, validation.shape[1:]).copy()


class SklearnRidge(Ridge):
    """Ridge whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE (ReceptiveField) read it."""

    _targets_first = True


class SklearnRidgeCV(RidgeCV):
    """RidgeCV whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE (ReceptiveField) read it."""

    _targets_first = True


class SklearnBandedRidgeCV(BandedRidgeCV):
    """BandedRidgeCV whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE read it."""

    _targets_first = True


class SklearnFractionalRidgeCV(FractionalRidgeCV):
    """FractionalRidgeCV whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE read it."""

    _targets_first = True
