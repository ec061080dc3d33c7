"""The estimators against scikit-learn, himalaya, MNE and brute force: the same weights, penalties and criteria, in double precision."""

from functools import cache
from itertools import product

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, ShuffleSplit, TimeSeriesSplit

from jaxalign import estimators
from jaxalign.estimators import BandedRidgeCV, FractionalRidgeCV, Ridge, RidgeCV

pytestmark = pytest.mark.filterwarnings(
    "ignore::jaxalign.estimators.AlphaEdgeWarning"  # random targets choose the ends of any grid
)

ALPHAS = np.geomspace(0.1, 1e4, 12)
SHAPES = {"tall": (60, 8), "wide": (40, 70)}
N_TARGETS = 5
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def cases(*fast, of):
    """Parameters of a test: those named are for every run, the others for the long one."""
    return [one if one in fast else pytest.param(*one, marks=pytest.mark.slow) for one in of]


@cache
def data(shape):
    """Features off 0, five targets from well to badly predicted, and weights."""
    n, p = SHAPES[shape]
    rng = np.random.default_rng(p)
    X = rng.standard_normal((n, p)) * rng.uniform(0.5, 2, p) + 3
    Y = (
        X @ rng.standard_normal((p, N_TARGETS)) * [2, 1, 0.5, 0.2, 0] / np.sqrt(p)
        + rng.standard_normal((n, N_TARGETS))
        + 7
    )
    return X, Y, rng.uniform(0.5, 3, n)


def solved(X, y, alpha, weights):
    """Weights and intercept of one target, from the normal equations."""
    share = weights / weights.sum()
    centre, level = share @ X, share @ y
    rows = (X - centre) * np.sqrt(weights)[:, None]
    right = (y - level) * np.sqrt(weights)
    w = np.linalg.solve(rows.T @ rows + alpha * np.eye(X.shape[1]), rows.T @ right)
    return w, level - centre @ w


def judged(truth, predicted, weights, name):
    residual = weights @ (truth - predicted) ** 2
    if name == "neg_mse":
        return -residual / weights.sum()
    away = truth - weights @ truth / weights.sum()
    if name == "r2":
        return 1 - residual / (weights @ away**2)
    other = predicted - weights @ predicted / weights.sum()
    return weights @ (away * other) / np.sqrt((weights @ away**2) * (weights @ other**2))


def brute(X, Y, pairs, name="r2", weights=None):
    """Criterion of every fold, candidate and target, one fit at a time. -> (n_folds, n_alphas, n_targets)"""
    weights = np.ones(len(X)) if weights is None else weights
    found = np.zeros((len(pairs), len(ALPHAS), Y.shape[1]))
    for fold, (train, test) in enumerate(pairs):
        for place, alpha in enumerate(ALPHAS):
            for target, y in enumerate(Y.T):
                w, b = solved(X[train], y[train], alpha, weights[train])
                found[fold, place, target] = judged(y[test], X[test] @ w + b, weights[test], name)
    return found


def best(results):
    """(n_folds, n_alphas, n) -> penalties, ties to the larger."""
    return ALPHAS[::-1][np.argmax(results.mean(0)[::-1], axis=0)]


@pytest.mark.parametrize(
    ("shape", "weighted"), cases(("tall", True), ("wide", False), of=product(SHAPES, (False, True)))
)
def test_ridge_equals_scikit_learn_with_one_penalty_and_with_many(shape, weighted):
    X, Y, weights = data(shape)
    weights = weights if weighted else None
    for alpha in (3.0, np.array([0.1, 1, 10, 100, 1000])):
        peer = linear_model.Ridge(alpha=alpha, solver="svd").fit(X, Y, sample_weight=weights)
        for solver in ("auto", "eigh", "svd"):
            ours = Ridge(alpha, solver=solver).fit(X, Y, sample_weight=weights)
            np.testing.assert_allclose(ours.coef_.T, peer.coef_, **CLOSE)
            np.testing.assert_allclose(ours.intercept_, peer.intercept_, **CLOSE)
            np.testing.assert_allclose(ours.predict(X), peer.predict(X), **CLOSE)
    assert ours.score(X, Y) == pytest.approx(peer.score(X, Y), rel=1e-10)
    without = linear_model.Ridge(alpha=3.0, solver="svd", fit_intercept=False).fit(X, Y, sample_weight=weights)
    ours = Ridge(3.0, fit_intercept=False).fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(ours.coef_.T, without.coef_, **CLOSE)
    assert ours.intercept_ == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_without_penalty_is_least_squares_of_minimum_length(shape):
    X, Y, _ = data(shape)
    X = X.copy()
    X[:, 3], X[:, 5] = X[:, 1], 2.0  # deficient: a repeated and a constant column
    centred = X - X.mean(0)
    expected = np.linalg.lstsq(centred, Y - Y.mean(0), rcond=1e-10)[0]
    for solver in ("auto", "eigh"):
        ours = Ridge(0.0, solver=solver).fit(X, Y)
        np.testing.assert_allclose(ours.coef_, expected, rtol=1e-8, atol=1e-8)
    assert Ridge(0.0).fit(X, Y).solver_ == "svd"


@pytest.mark.parametrize(
    ("shape", "weighted", "per_target"),
    cases(("tall", True, True), ("wide", False, True), of=product(SHAPES, *[(False, True)] * 2)),
)
def test_leave_one_out_equals_scikit_learn(shape, weighted, per_target):
    X, Y, weights = data(shape)
    weights = weights if weighted else None
    peer = linear_model.RidgeCV(ALPHAS, alpha_per_target=per_target).fit(X, Y, sample_weight=weights)
    ours = RidgeCV(ALPHAS, scoring="neg_mean_squared_error", alpha_per_target=per_target)
    ours.fit(X, Y, sample_weight=weights)
    np.testing.assert_array_equal(ours.alpha_, peer.alpha_)
    np.testing.assert_allclose(ours.coef_.T, peer.coef_, **CLOSE)
    np.testing.assert_allclose(ours.intercept_, peer.intercept_, **CLOSE)
    # scikit-learn divides the weighted squares by the number of rows, we by the sum of weights.
    unit = 1 if weights is None else len(X) / weights.sum()
    np.testing.assert_allclose(ours.best_score_, np.asarray(peer.best_score_) * unit, rtol=1e-8)
    by_r2 = RidgeCV(ALPHAS).fit(X, Y, sample_weight=weights)
    if per_target:
        np.testing.assert_array_equal(by_r2.alpha_, peer.alpha_)


@pytest.mark.parametrize(
    ("shape", "scoring"),
    cases(("wide", "r2"), of=product(SHAPES, ("r2", "pearson_r", "neg_mse"))),
)
def test_k_fold_equals_himalaya(shape, scoring):
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV as HimalayaRidgeCV
    from himalaya.scoring import correlation_score, l2_neg_loss, r2_score

    set_backend("numpy")
    X, Y, _ = data(shape)
    score = {"r2": r2_score, "pearson_r": correlation_score, "neg_mse": l2_neg_loss}[scoring]
    kind = HimalayaRidgeCV if shape == "tall" else KernelRidgeCV
    options = {"alphas": ALPHAS, "cv": KFold(5), "fit_intercept": True}
    peer = kind(**options, solver_params={"score_func": score, **({"warn": False} if shape == "tall" else {})})
    peer = peer.set_params(**({} if shape == "tall" else {"warn": False})).fit(X, Y)
    for per_target in (True, False):
        ours = RidgeCV(ALPHAS, cv=5, scoring=scoring, alpha_per_target=per_target).fit(X, Y)
        if not per_target:
            peer = peer.set_params(solver_params={**peer.solver_params, "local_alpha": False}).fit(X, Y)
        np.testing.assert_allclose(
            ours.best_alphas_, peer.best_alphas_ if per_target else peer.best_alphas_[0], rtol=1e-9
        )
        weights = peer.coef_ if shape == "tall" else peer.get_primal_coef()
        np.testing.assert_allclose(ours.coef_, weights, **CLOSE)
        np.testing.assert_allclose(ours.intercept_, peer.intercept_, **CLOSE)
        if per_target:
            np.testing.assert_allclose(ours.cv_scores_, np.ravel(peer.cv_scores_), **CLOSE)


GROUPS = np.arange(60) // 7
SPLITTERS = {
    "k-fold": (5, None),
    "group-k-fold": (GroupKFold(4), GROUPS),
    "leave-one-group-out": (LeaveOneGroupOut(), GROUPS),
    "time-series": (TimeSeriesSplit(4, gap=3), None),
    "shuffle-split": (ShuffleSplit(3, test_size=0.3, random_state=1), None),
    "pairs": ([(np.arange(10, 60), np.arange(10)), (np.arange(40), np.arange(45, 60))], None),
}


@pytest.mark.parametrize(("name",), cases(("k-fold",), ("time-series",), of=[(name,) for name in SPLITTERS]))
def test_splitters_equal_brute_force(name):
    X, Y, _ = data("tall")
    cv, groups = SPLITTERS[name]
    pairs = list((KFold(5) if cv == 5 else cv).split(X, Y, groups)) if name != "pairs" else cv
    expected = brute(X, Y, pairs)
    ours = RidgeCV(ALPHAS, cv=cv, store_cv_results=True).fit(X, Y, groups=groups)
    np.testing.assert_allclose(ours.cv_results_, expected, **CLOSE)
    np.testing.assert_allclose(ours.cv_scores_, expected.mean(0).max(0), **CLOSE)
    np.testing.assert_array_equal(ours.alpha_, best(expected))
    for target, alpha in enumerate(ours.alpha_):
        w, b = solved(X, Y[:, target], alpha, np.ones(len(X)))
        np.testing.assert_allclose(ours.coef_[:, target], w, **CLOSE)
        np.testing.assert_allclose(ours.intercept_[target], b, **CLOSE)


def test_a_number_of_folds_keeps_groups_together():
    X, Y, _ = data("tall")
    groups = np.repeat(np.arange(8), [3, 5, 6, 7, 8, 9, 10, 12])  # no two of one size, whose order would be arbitrary
    ours = RidgeCV(ALPHAS, cv=4, store_cv_results=True).fit(X, Y, groups=groups)
    expected = brute(X, Y, list(GroupKFold(4).split(X, Y, groups)))
    np.testing.assert_allclose(ours.cv_results_.mean(0), expected.mean(0), **CLOSE)


@pytest.mark.parametrize(("scoring",), cases(("r2",), of=[("r2",), ("pearson_r",), ("neg_mse",)]))
def test_weighted_folds_equal_brute_force_and_rows_given_twice(scoring):
    X, Y, weights = data("tall")
    pairs = list(KFold(5).split(X))
    ours = RidgeCV(ALPHAS, cv=5, scoring=scoring, store_cv_results=True).fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(ours.cv_results_, brute(X, Y, pairs, scoring, weights), **CLOSE)
    twice = np.arange(60) % 5 == 1
    ours.fit(X, Y, sample_weight=1.0 + twice)
    rows = np.repeat(np.arange(60), 1 + twice)
    folds = [(np.flatnonzero(np.isin(rows, train)), np.flatnonzero(np.isin(rows, test))) for train, test in pairs]
    repeated = RidgeCV(ALPHAS, cv=folds, scoring=scoring, store_cv_results=True).fit(X[rows], Y[rows])
    np.testing.assert_allclose(ours.cv_results_, repeated.cv_results_, **CLOSE)
    np.testing.assert_allclose(ours.coef_, repeated.coef_, **CLOSE)


@pytest.mark.parametrize(("shape",), cases(("wide",), of=[("tall",), ("wide",)]))
def test_gcv_equals_the_hat_matrix(shape):
    X, Y, _ = data(shape)
    n = len(X)
    centred, truth = X - X.mean(0), Y - Y.mean(0)
    expected = []
    for alpha in ALPHAS:
        hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(X.shape[1]), centred.T)
        free = n - np.trace(hat) - 1
        expected.append(((truth - hat @ truth) ** 2).mean(0) * (n / free) ** 2)
    ours = RidgeCV(ALPHAS, cv="gcv", scoring="neg_mse", store_cv_results=True).fit(X, Y)
    np.testing.assert_allclose(ours.cv_results_[0], -np.array(expected), **CLOSE)
    np.testing.assert_array_equal(ours.alpha_, best(-np.array(expected)[None]))


@pytest.mark.parametrize(("scoring",), cases(("neg_mse",), of=[("r2",), ("neg_mse",)]))
def test_groups_of_targets_share_the_penalty_that_is_best_for_their_mean(scoring):
    X, Y, _ = data("tall")
    Y = Y * [1, 10, 1, 5, 1]
    labels = np.array(["a", "b", "a", "b", "b"])
    expected = brute(X, Y, list(KFold(5).split(X)), scoring)
    shared = [best(expected[..., labels == label].mean(-1, keepdims=True))[0] for label in "ab"]
    for size in (None, 2):
        ours = RidgeCV(ALPHAS, cv=5, scoring=scoring, target_groups=labels, n_targets_batch=size).fit(X, Y)
        np.testing.assert_array_equal(ours.alpha_, np.where(labels == "a", *shared))
        at = np.searchsorted(ALPHAS, ours.alpha_)
        np.testing.assert_allclose(ours.cv_scores_, expected.mean(0)[at, np.arange(5)], **CLOSE)
    ours = RidgeCV(ALPHAS, cv=5, scoring=scoring, alpha_per_target=False, n_targets_batch=2).fit(X, Y)
    assert ours.alpha_ == best(expected.mean(-1, keepdims=True))[0]
    np.testing.assert_allclose(ours.coef_, Ridge(ours.alpha_).fit(X, Y).coef_, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_the_conservative_choice_is_the_largest_within_one_standard_error(shared):
    X, Y, _ = data("tall")
    results = brute(X, Y, list(KFold(5).split(X)))
    results = results.mean(-1, keepdims=True) if shared else results
    expected = []
    for one in results.transpose(2, 0, 1):
        mean = one.mean(0)
        top = mean.argmax()
        error = one[:, top].std() / np.sqrt(len(one) - 1)
        expected.append(ALPHAS[mean >= mean[top] - error].max())
    ours = RidgeCV(ALPHAS, cv=5, conservative=True, alpha_per_target=not shared).fit(X, Y)
    np.testing.assert_array_equal(ours.alpha_, expected[0] if shared else expected)
    plain = RidgeCV(ALPHAS, cv=5, alpha_per_target=not shared).fit(X, Y)
    assert np.all(ours.alpha_ >= plain.alpha_) and np.any(ours.alpha_ > plain.alpha_)


@pytest.mark.slow
def test_refined_penalties_are_never_worse_and_come_close_to_a_fine_grid():
    X, Y, _ = data("tall")
    coarse, fine = np.geomspace(0.1, 1e4, 6), np.geomspace(0.1, 1e4, 60)
    grid, dense = (RidgeCV(alphas, cv=5).fit(X, Y) for alphas in (coarse, fine))
    ours = RidgeCV(coarse, cv=5, n_refinements=14).fit(X, Y)
    assert np.all(ours.cv_scores_ >= grid.cv_scores_ - 1e-12)
    assert np.all(ours.cv_scores_ >= dense.cv_scores_ - 1e-4)
    np.testing.assert_allclose(ours.coef_, Ridge(ours.alpha_).fit(X, Y).coef_, **CLOSE)


def test_banded_ridge_is_ridge_on_scaled_groups():
    X, Y, _ = data("tall")
    groups = np.array(["b", "a"] * 4)
    ours = BandedRidgeCV(groups, ALPHAS, n_candidates=6, cv=5).fit(X, Y)
    assert ours.gammas_.shape == (2, 5) and list(ours.feature_groups_) == ["a", "b"]
    for target in range(N_TARGETS):
        gamma = np.where(groups == "a", *ours.gammas_[:, target])
        w, _ = solved(X * np.sqrt(gamma), Y[:, target], ours.alpha_[target], np.ones(len(X)))
        np.testing.assert_allclose(ours.coef_[:, target], np.sqrt(gamma) * w, **CLOSE)
    assert set(ours.alpha_) <= set(ALPHAS)
    parts = ours.predict_split(X).sum(0) + ours.responses_mean_
    np.testing.assert_allclose(parts, ours.predict(X), **CLOSE)
    np.testing.assert_allclose(ours.intercept_ + X @ ours.coef_, ours.predict(X), **CLOSE)
    one = BandedRidgeCV(None, ALPHAS, cv=5).fit(X, Y)
    ridge = RidgeCV(ALPHAS, cv=5).fit(X, Y)
    np.testing.assert_array_equal(one.alpha_, ridge.alpha_)
    np.testing.assert_allclose(one.coef_, ridge.coef_, **CLOSE)
    np.testing.assert_allclose(one.cv_scores_, ridge.cv_scores_, **CLOSE)


@pytest.mark.slow
def test_gradients_improve_banded_ridge():
    X, Y, _ = data("tall")
    groups = np.arange(8) % 2
    options = {"n_candidates": 3, "cv": 5, "n_targets_batch": 3}
    start = BandedRidgeCV(groups, ALPHAS, **options).fit(X, Y)
    ours = BandedRidgeCV(groups, ALPHAS, search="gradient", n_steps=20, **options).fit(X, Y)
    assert np.all(ours.cv_scores_ >= start.cv_scores_) and np.any(ours.cv_scores_ > start.cv_scores_ + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_fractional_ridge_leaves_the_share_that_was_chosen(shared):
    X, Y, _ = data("tall")
    ours = FractionalRidgeCV((0.2, 0.5, 0.8, 1.0), cv=5, fraction_per_target=not shared, n_targets_batch=3).fit(X, Y)
    longest = np.linalg.norm(linear_model.LinearRegression().fit(X, Y).coef_, axis=1)
    np.testing.assert_allclose(
        np.linalg.norm(ours.coef_, axis=0) / longest, np.broadcast_to(ours.fraction_, 5), rtol=1e-8
    )
    np.testing.assert_allclose(ours.coef_, Ridge(ours.alpha_).fit(X, Y).coef_, **CLOSE)
    assert isinstance(ours.fraction_, float) == shared and ours.cv_scores_.shape == (5,)


def test_mne_receptive_field_takes_the_estimators_with_scikit_learns_orientation():
    from mne.decoding import ReceptiveField

    rng = np.random.default_rng(3)
    X = rng.standard_normal((80, 3))
    y = rng.standard_normal((80, 2)) + X[:, :2]

    def field(estimator):
        return ReceptiveField(0, 0.03, 100.0, estimator=estimator, scoring="corrcoef").fit(X, y)

    ours, peer = field(estimators.SklearnRidge(2.0)), field(linear_model.Ridge(2.0))
    assert ours.coef_.shape == (2, 3, 4)
    np.testing.assert_allclose(ours.coef_, peer.coef_, **CLOSE)
    np.testing.assert_allclose(ours.predict(X), peer.predict(X), **CLOSE)
    np.testing.assert_allclose(ours.score(X, y), peer.score(X, y), **CLOSE)
    chosen = field(estimators.SklearnRidgeCV(ALPHAS, scoring="neg_mse"))
    np.testing.assert_allclose(chosen.coef_, field(linear_model.RidgeCV(ALPHAS, alpha_per_target=True)).coef_, **CLOSE)


def test_mne_sliding_estimator_fits_every_time_bin():
    from mne.decoding import SlidingEstimator

    X, Y, _ = data("tall")
    by_time = np.stack([X, X[:, ::-1] ** 2], axis=2)
    ours = SlidingEstimator(RidgeCV(ALPHAS, scoring="neg_mse"), scoring="r2", verbose=False).fit(by_time, Y[:, 0])
    peer = SlidingEstimator(linear_model.RidgeCV(ALPHAS), scoring="r2", verbose=False).fit(by_time, Y[:, 0])
    np.testing.assert_allclose(ours.predict(by_time), peer.predict(by_time), **CLOSE)
    np.testing.assert_allclose(ours.score(by_time, Y[:, 0]), peer.score(by_time, Y[:, 0]), **CLOSE)
