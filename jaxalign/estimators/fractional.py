"""Ridge regression whose penalty is a fraction of the least-squares norm."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from jaxalign.compute import fractional
from jaxalign.contracts import Folds
from jaxalign.estimators.data import Data, batches_of, filled, standardised
from jaxalign.estimators.linear import Linear, Result, _nanmean, needed_folds, rescued
from jaxalign.estimators.steps import fraction_step, fractional_step, platform_of


class FractionalRidgeCV(Linear):
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
        folds = needed_folds(self, data, groups)
        solver = "eigh" if self.solver == "auto" else self.solver
        with jax.enable_x64(data.dtype == np.float64):
            result, self.solver_ = rescued(solver, partial(self._fit_by, data, fractions, folds))
        self.fractions_ = np.asarray(fractions)
        self._keep(data, result)
        chosen = self.fractions_[result.place]
        self.fraction_ = self._shaped(chosen) if self.fraction_per_target else float(chosen[0])
        self.alpha_, self.cv_scores_ = self._shaped(result.alpha), self._shaped(result.validation)
        return self

    def _fit_by(self, data: Data, fractions: tuple[float, ...], folds: Folds, solver: str) -> Result:
        result = Result.empty(data)
        size = self._batch(data)
        features = data.features - data.shift
        way = {"is_centred": data.is_centred, "solver": solver, "platform": platform_of()}
        validation = np.full((len(fractions), data.n_targets), np.nan)
        for columns in batches_of(np.arange(data.n_targets), size):
            values = filled(standardised(data, columns, None, None).values, size)
            found = fraction_step(features, values, folds, fractions=fractions, criterion=self.scoring, **way)
            validation[:, columns] = np.asarray(found.validation, np.float64)[:, : len(columns)]
        result.place = _best_fraction(validation, fractions, is_shared=not self.fraction_per_target)
        result.validation[:] = np.take_along_axis(validation, result.place[None], axis=0)[0]
        for columns in batches_of(np.arange(data.n_targets), size):
            standard = standardised(data, columns, None, None)
            place = np.zeros(size, np.int32)
            place[: len(columns)] = result.place[columns]
            weights, alpha = fractional_step(features, filled(standard.values, size), place, fractions, **way)
            result.put(data, columns, weights, standard, data.features_mean(None) if data.is_centred else data.shift)
            result.alpha[columns] = np.asarray(alpha, np.float64)[: len(columns)]
        return result


def _best_fraction(validation: np.ndarray, fractions: tuple[float, ...], is_shared: bool) -> np.ndarray:
    """Place of the best fraction of each target, ties to the smaller. (n_fractions, n_targets) -> (n_targets,)"""
    judged = _nanmean(validation, 1)[:, None] if is_shared else validation
    order = np.argsort(fractions, kind="stable")
    best = order[np.argmax(np.nan_to_num(judged[order], nan=-np.inf), axis=0)]
    return np.broadcast_to(best, validation.shape[1:]).copy()
