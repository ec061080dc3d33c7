"""Ridge regression with given penalties."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from jaxalign.compute.decompose import Way
from jaxalign.compute.linalg import resolve
from jaxalign.estimators.data import Data, batches_of, filled, penalties, rounding_of_gram, standardised
from jaxalign.estimators.linear import Linear, Result, rescued
from jaxalign.estimators.steps import decomposed, is_sound_state, platform_of, weights_at


class Ridge(Linear):
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
        alpha = penalties(self.alpha, "alpha").ravel()
        if alpha.size not in (1, data.n_targets):
            raise ValueError(
                f"Number of targets and number of penalties do not correspond: {alpha.size} != {data.n_targets}"
            )
        alpha = np.broadcast_to(alpha, data.n_targets)
        with jax.enable_x64(data.dtype == np.float64):
            result, self.solver_ = rescued(self._solver(data, alpha), partial(self._fit_by, data, alpha))
        self._keep(data, result)
        return self

    def _solver(self, data: Data, alpha: np.ndarray) -> str:
        is_one = bool(np.all(alpha == alpha[0]))
        if self.solver == "cholesky" and not is_one:
            raise ValueError(
                f"solver='cholesky' with {len(np.unique(alpha))} different penalties: it factorises for a single one. Use eigh or svd."
            )
        if self.solver == "auto" and alpha.min() <= rounding_of_gram(data):
            return "svd"
        n_alphas = 1 if is_one else 1000
        return resolve(self.solver, min(data.features.shape), n_alphas, data.n_targets, platform_of())

    def _fit_by(self, data: Data, alpha: np.ndarray, solver: str) -> Result:
        result = Result.empty(data)
        size = self._batch(data)
        way = Way(data.is_centred, False, solver, platform_of())
        for rows in data.patterns():
            state = decomposed(data, None, rows.weights, None, way, 1)
            result.is_sound &= is_sound_state(state.state)
            shift = data.features_mean(rows.weights) if data.is_centred else data.shift
            for columns in batches_of(rows.columns, size):
                standard = standardised(data, columns, rows.weights, None)
                width = size if len(rows.columns) > size else len(columns)
                found = weights_at(data, state, filled(standard.values, width), rows.weights, alpha[columns])
                result.put(data, columns, found, standard, shift)
        return result
