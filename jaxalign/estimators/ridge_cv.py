"""Ridge regression with penalties chosen by cross-validation, one for each target."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.choose import Choosing, pick
from jaxalign.compute.decompose import Way
from jaxalign.compute.linalg import SOLVERS, basis_size, resolve
from jaxalign.compute.ridge import AUTO_ALPHAS
from jaxalign.contracts import Folds
from jaxalign.estimators.data import (
    Data,
    Rows,
    Standard,
    batches_of,
    common_units,
    filled,
    penalties,
    rounding_of_gram,
    standardised,
)
from jaxalign.estimators.linear import Linear, Result, _nanmean, rescued
from jaxalign.estimators.steps import (
    Decomposed,
    automatic_grid,
    chosen_step,
    decomposed,
    is_sound_state,
    judged_step,
    platform_of,
    weights_at,
)

SCORINGS = {
    "r2": "r2",
    "neg_mean_squared_error": "neg_mse",
    "neg_mse": "neg_mse",
    "pearson_r": "pearson_r",
}


CROWDED = 0.05
"""A larger share of predicted targets at one end of the candidates is warned of, and widens them."""


WIDER_DECADES, MAX_WIDENINGS = 3, 4


class AlphaEdgeWarning(UserWarning):
    """Many targets chose the lowest or the highest candidate: the best penalty may lie beyond."""


class _Block(NamedTuple):
    """A batch of targets with the state that it is fitted from; `votes` (n_folds,) are the folds that can judge it."""

    columns: np.ndarray
    standard: Standard
    values: np.ndarray
    weights: np.ndarray | None
    folds: Folds | None
    votes: np.ndarray
    state: Decomposed
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


class RidgeCV(Linear):
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
        alphas = None if isinstance(self.alphas, str) else np.atleast_1d(penalties(self.alphas, "alphas")).ravel()
        if alphas is None and self.alphas != "auto":
            raise ValueError(f"alphas={self.alphas!r}: write auto, or give penalties.")
        labels = self._labels(data)
        with jax.enable_x64(data.dtype == np.float64):
            way = Way(data.is_centred, False, self._solver(data, by, alphas), platform_of())
            n_alphas = AUTO_ALPHAS[2] if alphas is None else len(alphas)
            units = common_units(data, labels) if labels is not None and by.criterion == "neg_mse" else None
            plan = _Plan(by, folds, way, n_alphas, labels, units, self._batch_of(data, folds, alphas))
            result, self.solver_ = rescued(way.solver, partial(self._widened, data, plan, alphas))
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

    def _labels(self, data: Data) -> np.ndarray | None:
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

    def _solver(self, data: Data, by: Choosing, alphas: np.ndarray | None) -> str:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is not one of {', '.join(SOLVERS)}.")
        needs_spectrum = alphas is None or by.by != "folds" or bool(by.n_refinements) or self.target_groups is not None
        if self.solver == "cholesky" and needs_spectrum:
            raise ValueError(
                "solver='cholesky' knows no spectrum: it goes with folds, given alphas, n_refinements=0 and no target_groups. Use eigh."
            )
        if self.solver == "auto" and (needs_spectrum or alphas is None or alphas.min() <= rounding_of_gram(data)):
            return "eigh"
        assert alphas is not None or self.solver != "auto"
        n_alphas = 1 if alphas is None else len(alphas)
        return resolve(self.solver, min(data.features.shape), n_alphas, data.n_targets, platform_of())

    def _batch_of(self, data: Data, folds: Folds | None, alphas: np.ndarray | None) -> int:
        n_basis = basis_size(np.geomspace(*AUTO_ALPHAS) if alphas is None else alphas, data.dtype)
        n_test = len(data.features) if folds is None else folds.test.shape[-1]
        return self._batch(data, n_basis * max(n_test, min(data.features.shape)))

    def _widened(self, data: Data, plan: _Plan, alphas: np.ndarray | None, solver: str) -> Result:
        """The fit, with candidates added at a crowded end if asked for."""
        plan = replace(plan, way=plan.way._replace(solver=solver))
        states: dict[int, Decomposed] = {}
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

    def _automatic(self, data: Data, plan: _Plan, states: dict[int, Decomposed]) -> np.ndarray:
        """The grid of all rows, whatever targets miss."""
        patterns = data.patterns()
        if len(patterns) == 1 and patterns[0].weights is data.weights:
            split = self._state_of(data, plan, patterns[0], plan.folds, 0, states).state.split
        else:
            split = decomposed(data, None, data.weights, None, plan.way, 1).state.split
        return automatic_grid(np.nan_to_num(np.asarray(split.singular)), np.nan_to_num(np.asarray(split.noise)))

    def _state_of(
        self, data: Data, plan: _Plan, rows: Rows, folds: Folds | None, place: int, states: dict[int, Decomposed]
    ) -> Decomposed:
        """Decompositions for one pattern of missing rows; kept where there is only one."""
        if place in states:
            return states[place]
        state = decomposed(data, folds, rows.weights, plan.by, plan.way, plan.n_alphas)
        if len(rows.columns) == data.n_targets:
            states[place] = state
        return state

    def _each_block(self, data: Data, plan: _Plan, states: dict[int, Decomposed]) -> Iterator[_Block]:
        for place, rows in enumerate(data.patterns()):
            folds, votes = _voting(plan.folds, rows.weights)
            shift = data.features_mean(rows.weights) if data.is_centred else data.shift
            if votes.any():
                state = self._state_of(data, plan, rows, folds, place, states)
            else:
                state = decomposed(data, None, rows.weights, None, plan.way, 1)
            for columns in batches_of(rows.columns, plan.size):
                standard = standardised(data, columns, rows.weights, plan.units)
                width = plan.size if len(rows.columns) > plan.size else len(columns)
                values = filled(standard.values, width)
                yield _Block(columns, standard, values, rows.weights, folds, votes, state, shift)

    def _search(self, data: Data, plan: _Plan, alphas: np.ndarray, states: dict[int, Decomposed]) -> Result:
        """A penalty for each target."""
        result = Result.empty(data, (plan.n_splits, len(alphas)) if self.store_cv_results else None)
        n_basis = basis_size(alphas, data.dtype)
        grid = alphas.astype(data.dtype)
        for block in self._each_block(data, plan, states):
            columns, n_real = block.columns, len(block.columns)
            result.is_sound &= is_sound_state(block.state.state)
            if not block.votes.any():
                self._fit_unjudged(data, block, alphas, result)
                continue
            given = (block.values, block.folds, block.weights, grid, plan.by, n_basis)
            if block.state.double is None:
                weights, _, choice, found = chosen_step(block.state.state, *given, is_centred=data.is_centred)
            else:
                weights, (choice, found) = None, judged_step(block.state.state, *given, data.is_centred)
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

    def _search_shared(self, data: Data, plan: _Plan, alphas: np.ndarray, states: dict[int, Decomposed]) -> Result:
        """A penalty for each group of targets: first the criterion of all, batch by batch, then the weights."""
        assert plan.labels is not None
        result = Result.empty(data, (plan.n_splits, len(alphas)) if self.store_cv_results else None)
        n_basis, grid = basis_size(alphas, data.dtype), alphas.astype(data.dtype)
        sums = np.zeros((2, plan.n_splits, len(alphas), plan.labels.max() + 1))
        average = np.full((len(alphas), data.n_targets), np.nan)
        for block in self._each_block(data, plan, states):
            columns, n_real = block.columns, len(block.columns)
            result.is_sound &= is_sound_state(block.state.state)
            if not block.votes.any():
                continue
            given = (block.values, block.folds, block.weights, grid, plan.by, n_basis)
            _, found = judged_step(block.state.state, *given, data.is_centred)
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

    def _fit_unjudged(self, data: Data, block: _Block, alphas: np.ndarray, result: Result) -> None:
        """Targets that no fold can judge get the largest candidate."""
        place = int(np.argmax(alphas))
        result.place[block.columns], result.alpha[block.columns] = place, alphas[place]
        result.put(data, block.columns, self._at(data, block, result), block.standard, block.shift)

    def _at(self, data: Data, block: _Block, result: Result) -> jax.Array:
        """Weights of a block with the penalties that were chosen."""
        return weights_at(data, block.state, block.values, block.weights, result.alpha[block.columns])

    def _store(self, result: Result, block: _Block, judged: np.ndarray) -> None:
        if result.judged is not None:
            result.judged[np.flatnonzero(block.votes)[:, None], :, block.columns] = np.moveaxis(judged, 2, 1)

    def _set_edges(self, result: Result) -> None:
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

    def _keep_choice(self, result: Result) -> None:
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
