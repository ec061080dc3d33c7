"""Banded ridge: every group of features has a penalty of its own, chosen per target by random or gradient search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign.compute.linalg import symmetric_eigen
from jaxalign.compute.stats import centre, dot, is_constant, mean, scale
from jaxalign.contracts import Array, Folds

CRITERIA = ("r2", "neg_mse")

REENTRY = 1e-4
"""Share of a target's largest gamma at which a group that the random search left out enters the gradient search."""


class Banded(NamedTuple):
    """Banded ridge of every target: penalties, their cross-validated score, and the weights refit on all stimuli.

    Target j minimises ||y - sum_g X_g b_g||^2 + sum_g (alpha / gamma_g) ||b_g||^2; gamma_g = 0 makes b_g = 0.

    Attributes:
        deltas: (n_groups, n_targets), log(gamma / alpha); -inf where gamma is 0.
        gammas: (n_groups, n_targets), on the simplex.
        alphas: (n_targets,), a value of the grid; from the gradient search, any.
        cv_scores: (n_targets,), criterion averaged over folds at these penalties. It chose them: no unbiased score.
        weights: (n_features, n_targets), in the units of the features as given.
        intercept: (n_targets,), 0 when none is fitted.
    """

    deltas: jax.Array
    gammas: jax.Array
    alphas: jax.Array
    cv_scores: jax.Array
    weights: jax.Array
    intercept: jax.Array


class _Settings(NamedTuple):
    """What is static in a search: criterion, one penalty for all targets, intercept, platform."""

    criterion: str
    is_shared: bool
    is_centred: bool
    platform: str


class _Data(NamedTuple):
    """Centred data. features (n, p), groups (p,), responses (n, n_targets) in units of unit (n_targets,), the means
    that were taken off, and with fewer stimuli than features the grams (n_groups, n, n), else None."""

    features: jax.Array
    groups: jax.Array
    responses: jax.Array
    unit: jax.Array
    feature_mean: jax.Array
    response_mean: jax.Array
    grams: jax.Array | None


class _Choice(NamedTuple):
    """Best so far: what is compared, and the candidate, place in the grid and criterion of each target."""

    level: jax.Array
    candidate: jax.Array
    place: jax.Array
    cv_scores: jax.Array


class _Factor(NamedTuple):
    """Eigenvectors of one penalised problem: coefficients are lift (1 / (values + alpha)) rotate y.

    rotate (r, n_train), values (r,), lift (n_train or p, r).
    """

    rotate: jax.Array
    values: jax.Array
    lift: jax.Array


class _Side(NamedTuple):
    """One fold for the gradient search. With fewer stimuli than features train (n_groups, n_train, n_train), test
    (n_groups, n_test, n_train) hold centred grams and gram is None; else rows of features and gram (p, p)."""

    train: jax.Array
    test: jax.Array
    gram: jax.Array | None


def random_gammas(
    n_candidates: int, n_groups: int, seed: int, concentrations: Sequence[float] = (0.1, 1.0)
) -> np.ndarray:
    """Candidate points of the simplex: the uniform point, the corners, then Dirichlet samples.

    Args:
        n_candidates: number of rows; fewer than 1 + n_groups cut the corners off. One group has one candidate.
        n_groups: number of feature groups.
        seed: the same seed gives the same candidates everywhere.
        concentrations: of the Dirichlet distribution, taken in turn; 1 is uniform on the simplex, less is sparser.
    Returns:
        (n_candidates, n_groups) float64, rows sum to 1.
    Raises:
        ValueError: if a number is below 1 or a concentration is not positive.
    """
    if n_candidates < 1 or n_groups < 1:
        raise ValueError(f"{n_candidates} candidates of {n_groups} groups: both must be at least 1.")
    refused = [one for one in concentrations if not 0 < one < np.inf]
    if refused or not len(concentrations):
        raise ValueError(f"concentrations={tuple(concentrations)}: give at least one, all positive and finite.")
    if n_groups == 1:
        return np.ones((1, 1))
    rng = np.random.Generator(np.random.Philox(seed))
    fixed = np.concatenate([np.full((1, n_groups), 1 / n_groups), np.eye(n_groups)])[:n_candidates]
    turns = (concentrations[turn % len(concentrations)] for turn in range(n_candidates - len(fixed)))
    return np.concatenate([fixed, *(rng.dirichlet(np.full(n_groups, one))[None] for one in turns)])


def random_search(
    features: jax.Array,
    groups: np.ndarray,
    responses: jax.Array,
    folds: Folds,
    gammas: np.ndarray,
    alphas: np.ndarray,
    *,
    criterion: str = "r2",
    is_shared: bool = False,
    fit_intercept: bool = True,
    platform: str = "cpu",
) -> Banded:
    """Banded ridge with the best pair of a candidate gamma and an alpha of the grid, by the mean over folds.

    Ties go to the larger alpha of a candidate, then to the earlier candidate. A target that is constant in the test
    rows of one fold is judged by the others; in all of them, or with NaN, it has score NaN, the first candidate and
    the largest alpha. Per candidate and fold there is one eigendecomposition of the smaller Gram matrix, and one
    matrix product of all targets per alpha.

    Args:
        features: (n_stimuli, n_features), any unit; the groups are compared in the units given.
        groups: (n_features,) group of each column, 0 to n_groups - 1.
        responses: (n_stimuli, n_targets), any unit.
        folds: (n_folds, ...) that choose the penalties.
        gammas: (n_candidates, n_groups), rows on the simplex; see random_gammas.
        alphas: (n_alphas,) penalties above 0.
        criterion: "r2" or "neg_mse".
        is_shared: one gamma and one alpha for all targets, best by the mean criterion over targets that have one.
        fit_intercept: centre by the training rows of each fold; False takes all data as they are.
        platform: "cpu", "cuda" or "tpu".
    Returns:
        Banded.
    Raises:
        ValueError: if shapes, groups, gammas, alphas, folds or the criterion are not as above.
    Source: Nunez-Elizalde et al. 2019, NeuroImage 197:482; Dupre la Tour et al. 2022, NeuroImage 264:119728.
    """
    features, groups, responses = _checked(features, groups, responses, folds, np.shape(gammas)[-1], criterion)
    _check_grid(np.asarray(gammas, np.float64), np.asarray(alphas, np.float64))
    settings = _Settings(criterion, is_shared, fit_intercept, platform)
    grid = (jnp.asarray(gammas, features.dtype), jnp.asarray(alphas, features.dtype))
    return _random_search(features, groups, responses, folds, *grid, settings=settings)


def gradient_search(
    features: jax.Array,
    groups: np.ndarray,
    responses: jax.Array,
    folds: Folds,
    start: Banded,
    *,
    criterion: str = "r2",
    fit_intercept: bool = True,
    learning_rate: float = 0.1,
    n_steps: int = 100,
    targets_per_call: int = 1,
) -> Banded:
    """Banded ridge with the deltas of each target improved by Adam on its cross-validated criterion.

    The best deltas seen are kept, so no cv_score is below the start's; a target that was not improved keeps
    everything of the start. Expensive: every target, step and fold takes one Cholesky factorisation of the smaller
    Gram matrix; its derivative takes one more pair of triangular solves.

    Args:
        features: (n_stimuli, n_features), as in the random search.
        groups: (n_features,) group of each column.
        responses: (n_stimuli, n_targets).
        folds: (n_folds, ...) of the random search.
        start: result of random_search with one gamma and alpha per target. Groups with gamma 0 enter at 1e-4 of the
            target's largest.
        criterion: "r2" or "neg_mse", the one of the start.
        fit_intercept: as in the start.
        learning_rate: of Adam, in units of log penalty.
        n_steps: evaluations per target; the first is of the start.
        targets_per_call: targets factorised side by side; more memory, fewer calls.
    Returns:
        Banded.
    Raises:
        ValueError: if shapes, groups, folds, the start or a setting are not as above.
    Source: Dupre la Tour et al. 2022, NeuroImage 264:119728, with the derivative of the solution taken exactly.
    """
    features, groups, responses = _checked(features, groups, responses, folds, len(start.deltas), criterion)
    if start.deltas.shape[1] != responses.shape[1] or len(start.weights) != features.shape[1]:
        raise ValueError(
            f"start has {start.deltas.shape[1]} targets and {len(start.weights)} features, the data {responses.shape[1]} and {features.shape[1]}: start from the random search of the same data."
        )
    if not learning_rate > 0 or n_steps < 1 or targets_per_call < 1:
        raise ValueError(
            f"learning_rate={learning_rate}, n_steps={n_steps}, targets_per_call={targets_per_call}: give a positive rate and counts of at least 1."
        )
    settings = _Settings(criterion, False, fit_intercept, "cpu")
    plan = (float(learning_rate), int(n_steps), int(targets_per_call))
    return _gradient_search(features, groups, responses, folds, start, settings=settings, plan=plan)


def validation_scores(
    features: jax.Array,
    groups: np.ndarray,
    responses: jax.Array,
    folds: Folds,
    deltas: jax.Array,
    *,
    criterion: str = "r2",
    fit_intercept: bool = True,
) -> jax.Array:
    """Criterion of given deltas averaged over folds, differentiable in the deltas. -> (n_targets,)

    Args:
        features: (n_stimuli, n_features), as in the random search.
        groups: (n_features,) group of each column.
        responses: (n_stimuli, n_targets).
        folds: (n_folds, ...).
        deltas: (n_groups, n_targets), log(gamma / alpha); -inf leaves a group out.
        criterion: "r2" or "neg_mse".
        fit_intercept: centre by the training rows of each fold.
    Raises:
        ValueError: if shapes, groups, folds or the criterion are not as above.
    """
    features, groups, responses = _checked(features, groups, responses, folds, len(deltas), criterion)
    settings = _Settings(criterion, False, fit_intercept, "cpu")
    return _validation_scores(features, groups, responses, folds, deltas, settings=settings)


def predict(features: jax.Array, fitted: Banded) -> jax.Array:
    """Predicted responses. (n_stimuli, n_features) -> (n_stimuli, n_targets)

    Args:
        features: (n_stimuli, n_features), in the units of the fit.
        fitted: result of a search.
    """
    return dot(features, fitted.weights) + fitted.intercept[None, :]


def predict_split(features: jax.Array, groups: np.ndarray, fitted: Banded) -> jax.Array:
    """What each group predicts; their sum plus the intercept is the prediction.

    Args:
        features: (n_stimuli, n_features), in the units of the fit. Features far from 0 give parts far from 0: centre
            them before the fit if parts are to be compared.
        groups: (n_features,) group of each column.
        fitted: result of a search.
    Returns:
        (n_groups, n_stimuli, n_targets).
    """
    labels = jnp.asarray(groups, jnp.int32)
    return jax.lax.map(
        lambda group: dot(jnp.where((labels == group)[None, :], features, 0), fitted.weights),
        jnp.arange(len(fitted.deltas), dtype=jnp.int32),
    )


# What may be searched.


def _checked(features, groups, responses, folds: Folds, n_groups: int, criterion: str):
    """Features, groups and responses as arrays, if they, the folds and the criterion belong together."""
    features, responses, labels = jnp.asarray(features), jnp.asarray(responses), np.asarray(groups)
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r} is not one of {', '.join(CRITERIA)}.")
    if features.ndim != 2 or responses.ndim != 2 or len(features) != len(responses):
        raise ValueError(
            f"features have shape {features.shape} and responses {responses.shape}: give (n_stimuli, n_features) and (n_stimuli, n_targets) with the same stimuli."
        )
    if features.dtype != responses.dtype:
        raise ValueError(f"features are {features.dtype} and responses {responses.dtype}: give both in one dtype.")
    if labels.shape != features.shape[1:]:
        raise ValueError(
            f"groups have shape {labels.shape} for {features.shape[1]} features: give one group per column."
        )
    if not np.array_equal(np.unique(labels), np.arange(n_groups)):
        raise ValueError(
            f"groups hold {np.unique(labels).tolist()}, and {n_groups} groups are penalised: number the groups 0 to {n_groups - 1}, each with a column."
        )
    last = max(np.max(folds.train), np.max(folds.test))
    if last >= len(features):
        raise ValueError(f"folds name row {last} of {len(features)} stimuli: make the folds for these stimuli.")
    if not (np.any(folds.is_train, axis=-1).all() and np.any(folds.is_test, axis=-1).all()):
        raise ValueError("a fold has no train or no test rows: every fold needs both.")
    return features, jnp.asarray(labels, jnp.int32), responses


def _check_grid(gammas: np.ndarray, alphas: np.ndarray) -> None:
    if gammas.ndim != 2 or not len(gammas) or not ((gammas >= 0).all() and np.allclose(gammas.sum(1), 1, atol=1e-5)):
        raise ValueError(
            f"gammas of shape {gammas.shape} are not points of the simplex: give (n_candidates, n_groups) numbers from 0 upwards, each row with sum 1."
        )
    if alphas.ndim != 1 or not len(alphas):
        raise ValueError(f"alphas have shape {alphas.shape}: give (n_alphas,) penalties.")
    refused = alphas[~((alphas > 0) & (alphas < np.inf))]
    if len(refused):
        raise ValueError(
            f"alphas hold {refused[0]}: give finite penalties above 0. The penalty of a group is alpha / gamma, which at alpha 0 says nothing of groups."
        )


# Both searches.


def _prepared(
    features: jax.Array, groups: jax.Array, responses: jax.Array, n_groups: int, settings: _Settings
) -> _Data:
    """Centre over all rows, scale targets to SD 1, and multiply out the grams of groups if they are the smaller."""
    rows = jnp.ones(len(features), bool)
    feature_mean = _average(features, rows, settings)
    response_mean = _average(responses, rows, settings)
    features = features - feature_mean[None, :]
    sd = scale(responses, rows)
    unit = jnp.where(sd == 0, 1, sd)
    is_zero = (sd == 0) & settings.is_centred
    responses = jnp.where(is_zero[None, :], 0, (responses - response_mean[None, :]) / unit[None, :])

    def gram_of(group: jax.Array) -> jax.Array:
        mine = jnp.where((groups == group)[None, :], features, 0)
        return dot(mine, mine.T)

    is_wide = features.shape[0] < features.shape[1]
    grams = jax.lax.map(gram_of, jnp.arange(n_groups, dtype=jnp.int32)) if is_wide else None
    return _Data(features, groups, responses, unit, feature_mean, response_mean, grams)


def _average(values: jax.Array, rows: jax.Array, settings: _Settings) -> jax.Array:
    """Mean over the true rows, or 0 without an intercept. (n, m), (n,) -> (m,)"""
    return mean(values, rows) if settings.is_centred else jnp.zeros(values.shape[1], values.dtype)


def _kernel_rows(gram: jax.Array, fold: Folds, settings: _Settings) -> tuple[jax.Array, jax.Array]:
    """Gram of the training rows, and of test with training rows, features centred by the training rows.

    (n, n) -> (n_train, n_train), (n_test, n_train); padded rows and columns are 0.
    """
    if settings.is_centred:
        average = mean(gram[fold.train], fold.is_train)
        gram = gram - average[:, None] - average[None, :] + mean(average[fold.train][:, None], fold.is_train)[None, :]
    columns = jnp.where(fold.is_train[None, :], gram[:, fold.train], 0)
    train = jnp.where(fold.is_train[:, None], columns[fold.train], 0)
    return train, jnp.where(fold.is_test[:, None], columns[fold.test], 0)


def _feature_rows(features: jax.Array, fold: Folds, settings: _Settings) -> tuple[jax.Array, jax.Array]:
    """Training and test rows, centred by the training rows; padded rows are 0. -> (n_train, m), (n_test, m)"""
    train = features[fold.train]
    average = _average(train, fold.is_train, settings)[None, :]
    test = jnp.where(fold.is_test[:, None], features[fold.test] - average, 0)
    return jnp.where(fold.is_train[:, None], train - average, 0), test


def _all_rows(n_stimuli: int) -> Folds:
    """The fold that trains on every row; its one test row is not used."""
    rows = jnp.arange(n_stimuli, dtype=jnp.int32)
    return Folds(rows, jnp.ones(n_stimuli, bool), rows[:1], jnp.ones(1, bool))


def _combined(amounts: jax.Array, matrices: jax.Array) -> jax.Array:
    """Sum of matrices, each in its amount. (n_groups,), (n_groups, a, b) -> (a, b)"""
    flat = matrices.reshape(len(matrices), -1)
    return dot(amounts[None, :], flat).reshape(matrices.shape[1:])


def _finished(data: _Data, found: jax.Array, amounts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights and intercept in the units given, from scaled weights, or from dual weights and amounts of groups.

    (n or p, n_targets), (n_groups, n_targets) -> (p, n_targets), (n_targets,)
    """
    weights = found if data.grams is None else amounts[data.groups] * dot(data.features.T, found)
    weights = weights * data.unit[None, :]
    return weights, data.response_mean - dot(data.feature_mean[None, :], weights)[0]


# Random search.


@partial(jax.jit, static_argnames=("settings",))
def _random_search(
    features: jax.Array,
    groups: jax.Array,
    responses: jax.Array,
    folds: Folds,
    gammas: jax.Array,
    alphas: jax.Array,
    *,
    settings: _Settings,
) -> Banded:
    data = _prepared(features, groups, responses, gammas.shape[1], settings)
    # The first of equal scores wins, so the larger penalties come first.
    alphas = alphas[jnp.argsort(-alphas)]
    choice = _choose(data, folds, gammas, alphas, settings)
    chosen, alpha = gammas[choice.candidate].T, alphas[choice.place]
    weights, intercept = _finished(data, _refit(data, choice, gammas, alpha, settings), chosen)
    deltas = jnp.log(chosen) - jnp.log(alpha)[None, :]
    return Banded(deltas, chosen, alpha, choice.cv_scores, weights, intercept)


def _choose(data: _Data, folds: Folds, gammas: jax.Array, alphas: jax.Array, settings: _Settings) -> _Choice:
    """Best candidate and place in the grid of each target, one candidate after the other."""
    n_candidates, n_targets, dtype = len(gammas), data.responses.shape[1], data.responses.dtype
    feature_grams = None
    if data.grams is None:
        feature_grams = jax.lax.map(lambda fold: _feature_gram(data.features, fold, settings), folds)

    def better(best: _Choice, step: tuple[jax.Array, jax.Array]) -> tuple[_Choice, None]:
        number, gamma = step
        criterion = _criterion(data, folds, feature_grams, gamma, alphas, settings)
        level = criterion
        if settings.is_shared:
            level = jnp.broadcast_to(jnp.nanmean(criterion, axis=1)[:, None], criterion.shape)
        level = jnp.where(jnp.isnan(level), -jnp.inf, level)
        place = jnp.argmax(level, axis=0).astype(jnp.int32)
        top, score = (jnp.take_along_axis(one, place[None], axis=0)[0] for one in (level, criterion))
        found = _Choice(top, jnp.full(n_targets, number, jnp.int32), place, score)
        return jax.tree.map(partial(jnp.where, top > best.level), found, best), None

    none = jnp.zeros(n_targets, jnp.int32)
    start = _Choice(jnp.full(n_targets, -jnp.inf, dtype), none, none, jnp.full(n_targets, jnp.nan, dtype))
    return jax.lax.scan(better, start, (jnp.arange(n_candidates, dtype=jnp.int32), gammas))[0]


def _feature_gram(features: jax.Array, fold: Folds, settings: _Settings) -> jax.Array:
    """Inner products of features over the training rows. (n, p) -> (p, p)"""
    train, _ = _feature_rows(features, fold, settings)
    return dot(train.T, train)


def _criterion(
    data: _Data, folds: Folds, feature_grams: jax.Array | None, gamma: jax.Array, alphas: jax.Array, settings: _Settings
) -> jax.Array:
    """Criterion of one candidate averaged over the folds that have one. -> (n_alphas, n_targets)"""
    kernel = None if data.grams is None else _combined(gamma, data.grams)

    def of_fold(parts: tuple[Folds, jax.Array | None]) -> jax.Array:
        fold, feature_gram = parts
        gram = feature_gram if kernel is None else kernel
        factor, held_out = _split(data, gram, gamma, fold, settings)
        train, test = _feature_rows(data.responses, fold, settings)
        basis, rotated = dot(held_out, factor.lift), dot(factor.rotate, train)
        offset, total = _yardstick(test, data.responses[fold.test], fold.is_test, settings)

        def of_alpha(alpha: jax.Array) -> jax.Array:
            predicted = dot(basis, _shrinkage(factor.values, alpha[None]) * rotated)
            return offset - jnp.sum((test - predicted) ** 2, axis=0) / total

        return jax.lax.map(of_alpha, alphas)

    return _in_units(jnp.nanmean(jax.lax.map(of_fold, (folds, feature_grams)), axis=0), data.unit[None, :], settings)


def _yardstick(test: jax.Array, raw: jax.Array, is_test: jax.Array, settings: _Settings) -> tuple[jax.Array, jax.Array]:
    """The criterion is offset - SS_res / total: total is SS_tot for r2, NaN when constant; else the number of rows.

    (n_test, n_targets) less the training mean, the same as it is, (n_test,) -> (), (n_targets,)
    """
    if settings.criterion == "neg_mse":
        return jnp.zeros((), test.dtype), jnp.full(test.shape[1], is_test.sum().astype(test.dtype))
    total = jnp.sum(centre(raw, is_test) ** 2, axis=0)
    return jnp.ones((), test.dtype), jnp.where(is_constant(raw, is_test), jnp.nan, total)


def _in_units(criterion: jax.Array, unit: jax.Array, settings: _Settings) -> jax.Array:
    """A squared error of scaled targets in squared units of the targets; r2 has none. (...), same rank -> (...)"""
    return criterion * unit**2 if settings.criterion == "neg_mse" else criterion


def _split(
    data: _Data,
    gram: Array,
    gamma: jax.Array,
    fold: Folds,
    settings: _Settings,
) -> tuple[_Factor, jax.Array]:
    """Decompose the training rows under one gamma; and the test rows in what the lift applies to.

    (n, n) gram of all rows under this gamma, or (p, p) of the training rows without it, whichever is smaller
    """
    if data.grams is not None:
        train, test = _kernel_rows(gram, fold, settings)
        values, vectors = symmetric_eigen(train, settings.platform)
        return _Factor(vectors.T, values, vectors), test
    root = jnp.sqrt(gamma)[data.groups]
    train, test = _feature_rows(data.features, fold, settings)
    values, vectors = symmetric_eigen(gram * root[:, None] * root[None, :], settings.platform)
    lift = root[:, None] * vectors
    return _Factor(dot(lift.T, train.T), values, lift), test


def _shrinkage(values: jax.Array, alphas: jax.Array) -> jax.Array:
    """1 / (value + alpha), 0 where both are below rounding; NaN stays NaN. (r,), (k,) -> (r, k)"""
    floor = jnp.finfo(values.dtype).eps * len(values) * values[-1]
    total = values[:, None] + alphas[None, :]
    is_lost = total <= floor
    return jnp.where(is_lost, 0, 1 / jnp.where(is_lost, 1, total))


def _refit(data: _Data, choice: _Choice, gammas: jax.Array, alpha: jax.Array, settings: _Settings) -> jax.Array:
    """Coefficients on all rows, one candidate after the other; those that no target chose are skipped.

    (n_candidates, n_groups), (n_targets,) -> (n or p, n_targets)
    """
    fold = _all_rows(len(data.features))
    feature_gram = _feature_gram(data.features, fold, settings) if data.grams is None else None

    def solve(found: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        number, gamma = step
        is_mine = choice.candidate == number

        def update(old: jax.Array) -> jax.Array:
            gram = feature_gram if data.grams is None else _combined(gamma, data.grams)
            factor, _ = _split(data, gram, gamma, fold, settings)
            new = dot(factor.lift, _shrinkage(factor.values, alpha) * dot(factor.rotate, data.responses))
            return jnp.where(is_mine[None, :], new, old)

        return jax.lax.cond(jnp.any(is_mine), update, lambda old: old, found), None

    n_rows = data.features.shape[1] if data.grams is None else len(data.features)
    start = jnp.zeros((n_rows, data.responses.shape[1]), data.responses.dtype)
    return jax.lax.scan(solve, start, (jnp.arange(len(gammas), dtype=jnp.int32), gammas))[0]


# Gradient search.


@partial(jax.jit, static_argnames=("settings",))
def _validation_scores(
    features: jax.Array,
    groups: jax.Array,
    responses: jax.Array,
    folds: Folds,
    deltas: jax.Array,
    *,
    settings: _Settings,
) -> jax.Array:
    data = _prepared(features, groups, responses, len(deltas), settings)
    sides = jax.lax.map(lambda fold: _side(data, fold, settings), folds)
    score = partial(_target_score, data.groups, folds, sides, settings)
    scores = jax.lax.map(lambda parts: score(*parts), (deltas.T, data.responses.T))
    return _in_units(scores, data.unit, settings)


@partial(jax.jit, static_argnames=("settings", "plan"))
def _gradient_search(
    features: jax.Array,
    groups: jax.Array,
    responses: jax.Array,
    folds: Folds,
    start: Banded,
    *,
    settings: _Settings,
    plan: tuple[float, int, int],
) -> Banded:
    data = _prepared(features, groups, responses, len(start.deltas), settings)
    deltas, scores = _descend(data, folds, start, settings, plan)
    is_better = scores > start.cv_scores
    whole = _side(data, _all_rows(len(features)), settings)

    def solve(parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _coefficients(data.groups, whole, parts[0], parts[1][:, None])[:, 0]

    found = jax.lax.map(solve, (deltas.T, data.responses.T), batch_size=_batch(plan)).T
    weights, intercept = _finished(data, found, jnp.exp(deltas))
    alpha = 1 / jnp.exp(deltas).sum(0)
    improved = Banded(deltas, jnp.exp(deltas) * alpha[None, :], alpha, scores, weights, intercept)
    return jax.tree.map(
        lambda new, old: jnp.where(is_better.reshape((1,) * (new.ndim - 1) + (-1,)), new, old), improved, start
    )


def _batch(plan: tuple[float, int, int]) -> int | None:
    return plan[2] if plan[2] > 1 else None


def _descend(
    data: _Data, folds: Folds, start: Banded, settings: _Settings, plan: tuple[float, int, int]
) -> tuple[jax.Array, jax.Array]:
    """Best deltas seen and their criterion. -> (n_groups, n_targets), (n_targets,)"""
    sides = jax.lax.map(lambda fold: _side(data, fold, settings), folds)
    score = jax.value_and_grad(partial(_target_score, data.groups, folds, sides, settings))
    optimiser = optax.adam(plan[0])

    def step(state, _):
        deltas, moments, best, best_score = state
        given = (deltas.T, data.responses.T)
        # Squared volts are so far below 1 that Adam would stand still: it sees scaled targets.
        scores, slopes = jax.lax.map(lambda parts: score(*parts), given, batch_size=_batch(plan))
        scores = _in_units(scores, data.unit, settings)
        is_better = scores > best_score
        best = jnp.where(is_better[None, :], deltas, best)
        # optax counts its steps in integers and multiplies them with floats.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, moments = optimiser.update(-slopes.T, moments)
            deltas = optax.apply_updates(deltas, updates)
        return (deltas, moments, best, jnp.where(is_better, scores, best_score)), None

    lowest = jnp.max(start.deltas, axis=0) + jnp.log(jnp.asarray(REENTRY, start.deltas.dtype))
    deltas = jnp.maximum(start.deltas, lowest[None, :])
    state = (deltas, optimiser.init(deltas), deltas, start.cv_scores)
    _, _, best, best_score = jax.lax.scan(step, state, None, length=plan[1])[0]
    return best, best_score


def _side(data: _Data, fold: Folds, settings: _Settings) -> _Side:
    """Whatever of one fold does not depend on the penalties."""
    if data.grams is not None:
        kernels, held_out = jax.lax.map(lambda gram: _kernel_rows(gram, fold, settings), data.grams)
        return _Side(kernels, held_out, None)
    train, test = _feature_rows(data.features, fold, settings)
    return _Side(train, test, dot(train.T, train))


def _target_score(
    groups: jax.Array,
    folds: Folds,
    sides: _Side,
    settings: _Settings,
    deltas: jax.Array,
    response: jax.Array,
) -> jax.Array:
    """Criterion of one scaled target averaged over the folds that have one. (n_groups,), (n,) -> ()"""

    def of_fold(parts: tuple[Folds, _Side]) -> tuple[jax.Array, jax.Array]:
        fold, side = parts
        train, test = _feature_rows(response[:, None], fold, settings)
        found = _coefficients(groups, side, deltas, train)
        predicted = dot(side.test if side.gram is not None else _combined(jnp.exp(deltas), side.test), found)
        offset, total = _yardstick(test, response[fold.test][:, None], fold.is_test, settings)
        # A NaN that is only left out of the mean would still be in its derivative.
        is_flat = jnp.isnan(total) & ~jnp.any(jnp.isnan(test), axis=0)
        score = offset - jnp.sum((test - predicted) ** 2, axis=0) / jnp.where(is_flat, 1, total)
        return jnp.where(is_flat, 0, score)[0], ~is_flat[0]

    scores, is_counted = jax.lax.map(of_fold, (folds, sides))
    return jnp.sum(scores) / jnp.sum(is_counted).astype(scores.dtype)


def _coefficients(groups: jax.Array, side: _Side, deltas: jax.Array, train: jax.Array) -> jax.Array:
    """Weights of features, or dual weights, for given deltas. (n_groups,), (n_train, 1) -> (p or n_train, 1)"""
    if side.gram is None:
        gram = _combined(jnp.exp(deltas), side.train)
        return _solved(gram + jnp.eye(len(gram), dtype=gram.dtype), train)
    root = jnp.exp(deltas / 2)[groups]
    gram = side.gram * root[:, None] * root[None, :]
    scaled = root[:, None] * dot(side.train.T, train)
    return root[:, None] * _solved(gram + jnp.eye(len(gram), dtype=gram.dtype), scaled)


def _solved(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solution of a positive definite system; its derivative reuses the factorisation. (n, n), (n, m) -> (n, m)"""
    factor = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(matrix), lower=True)
    return jax.lax.custom_linear_solve(
        lambda x: dot(matrix, x), right, lambda _, x: jax.scipy.linalg.cho_solve(factor, x), symmetric=True
    )
