"""Banded ridge regression: groups of features with their own penalties."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxalign.compute import banded
from jaxalign.compute.decompose import Way
from jaxalign.estimators.data import Data, batches_of, common_units, filled, penalties, standardised
from jaxalign.estimators.linear import Linear, Result, needed_folds
from jaxalign.estimators.ridge_cv import SCORINGS
from jaxalign.estimators.steps import automatic_grid, platform_of, state_step


class BandedRidgeCV(Linear):
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
        folds = needed_folds(self, data, groups)
        n_groups = len(self.feature_groups_)
        gammas = banded.random_gammas(int(self.n_candidates), n_groups, int(self.random_state), self.concentrations)
        result = Result.empty(data)
        self.gammas_, self.deltas_ = np.full((2, n_groups, data.n_targets), np.nan)
        with jax.enable_x64(data.dtype == np.float64):
            if isinstance(self.alphas, str):
                if self.alphas != "auto":
                    raise ValueError(f"alphas={self.alphas!r}: write auto, or give penalties.")
                way = Way(data.is_centred, False, "eigh", platform_of())
                split = state_step(data.features, None, None, None, way, 1).split
                self.alphas_ = automatic_grid(split.singular, split.noise)
            else:
                self.alphas_ = np.atleast_1d(penalties(self.alphas, "alphas")).ravel()
            size = self._batch(data) if self.alpha_per_target else data.n_targets
            for columns in batches_of(np.arange(data.n_targets), size):
                self._fit_block(data, columns, size, (labels, folds, gammas, criterion), result)
        if not result.is_sound:
            raise np.linalg.LinAlgError(
                "Weights are not finite, though the data are: scale features and targets, or use float64."
            )
        self._keep(data, result)
        self.gammas_, self.deltas_ = self._shaped(self.gammas_), self._shaped(self.deltas_)
        self.alpha_, self.cv_scores_ = self._shaped(result.alpha), self._shaped(result.validation)
        return self

    def _feature_labels(self, data: Data) -> np.ndarray:
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

    def _fit_block(self, data: Data, columns: np.ndarray, size: int, plan: tuple[Any, ...], result: Result) -> None:
        labels, folds, gammas, criterion = plan
        is_common = not self.alpha_per_target and criterion == "neg_mse"
        units = common_units(data, np.zeros(data.n_targets, int)) if is_common else None
        standard = standardised(data, columns, None, units)
        features, values = data.features - data.shift, jnp.asarray(filled(standard.values, size))
        is_shared = not self.alpha_per_target
        settings: dict[str, Any] = {"criterion": criterion, "fit_intercept": data.is_centred}
        found = banded.random_search(
            features,
            labels,
            values,
            folds,
            gammas,
            self.alphas_,
            is_shared=is_shared,
            platform=platform_of(),
            **settings,
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
