"""The face of scikit-learn: what fits, which shape and dtype come out, what is warned of and refused, and how exact float32 is."""

import pickle
import warnings
from contextlib import suppress
from functools import cache
from unittest import SkipTest

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from jaxalign.estimators import (
    AlphaEdgeWarning,
    BandedRidgeCV,
    FractionalRidgeCV,
    GroupRidgeCV,
    Ridge,
    RidgeCV,
    SklearnBandedRidgeCV,
    SklearnFractionalRidgeCV,
    SklearnRidge,
    SklearnRidgeCV,
    steps,
)

ALPHAS = np.geomspace(0.1, 1e4, 12)
CLOSE = {"rtol": 1e-8, "atol": 1e-9}
EDGES = pytest.mark.filterwarnings(
    "ignore::jaxalign.estimators.AlphaEdgeWarning"  # random targets choose the ends of any grid
)
EVERY = {
    "Ridge": Ridge(),
    "RidgeCV": RidgeCV(),
    "RidgeCV folds": RidgeCV([1.0, 10.0], cv=3),
    "BandedRidgeCV": BandedRidgeCV(n_candidates=3, cv=3),
    "FractionalRidgeCV": FractionalRidgeCV(cv=3),
}
QUICK = {
    "check_regressor_data_not_an_array",
    "check_supervised_y_no_nan",
    "check_fit2d_1sample",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimator_tags_renamed",
}
SLOW = pytest.mark.slow


@cache
def data():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((60, 8)) + 2
    Y = X @ rng.standard_normal((8, 6)) * [2, 1, 1, 0.5, 0.2, 0] + 2 * rng.standard_normal((60, 6)) + 5
    return X, Y


def checked(name, is_quick):
    """How many of scikit-learn's checks an estimator passes."""
    count = 0
    for estimator, check in estimator_checks_generator(EVERY[name]):
        if (getattr(check, "func", check).__name__ in QUICK) == is_quick:
            with suppress(SkipTest):  # such as the check of array libraries, which its own switch turns on
                check(estimator)
                count += 1
    return count


@EDGES
@pytest.mark.parametrize("name", ["Ridge", "RidgeCV", *(pytest.param(name, marks=SLOW) for name in list(EVERY)[2:])])
def test_scikit_learn_has_no_quick_objection(name):
    assert checked(name, is_quick=True) >= len(QUICK) - 1


@EDGES
@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_scikit_learn_has_no_objection(name):
    assert checked(name, is_quick=False) >= 45


# Shapes, dtypes, orientation.


@EDGES
def test_targets_keep_their_axes():
    X, Y = data()
    flat = RidgeCV(ALPHAS, cv=5, store_cv_results=True).fit(X, Y)
    ours = RidgeCV(ALPHAS, cv=5, store_cv_results=True).fit(X, Y.reshape(60, 2, 3))
    assert ours.coef_.shape == (8, 2, 3) and ours.cv_results_.shape == (5, 12, 2, 3)
    for name in ("alpha_", "best_alphas_", "cv_scores_", "best_score_", "intercept_", "responses_mean_"):
        assert getattr(ours, name).shape == (2, 3)
        np.testing.assert_array_equal(np.ravel(getattr(ours, name)), getattr(flat, name))
    np.testing.assert_array_equal(ours.predict(X).reshape(60, 6), flat.predict(X))
    np.testing.assert_array_equal(ours.scores(X, Y.reshape(60, 2, 3)).ravel(), flat.scores(X, Y))
    assert ours.score(X, Y.reshape(60, 2, 3)) == flat.score(X, Y)


@EDGES
def test_one_target_has_the_axes_that_it_came_with():
    X, Y = data()
    ours = RidgeCV(ALPHAS, cv=5).fit(X, Y[:, 0])
    assert ours.coef_.shape == (8,) and ours.predict(X).shape == (60,)
    assert np.ndim(ours.alpha_) == np.ndim(ours.intercept_) == np.ndim(ours.cv_scores_) == 0
    column = RidgeCV(ALPHAS, cv=5).fit(X, Y[:, :1])
    assert column.coef_.shape == (8, 1) and column.predict(X).shape == (60, 1) and column.alpha_.shape == (1,)
    assert RidgeCV(ALPHAS, cv=5, alpha_per_target=False).fit(X, Y).alpha_ in ALPHAS


PAIRS = [
    (Ridge(2.0), SklearnRidge(2.0)),
    (RidgeCV(ALPHAS, cv=5), SklearnRidgeCV(ALPHAS, cv=5)),
    pytest.param(BandedRidgeCV(alphas=ALPHAS), SklearnBandedRidgeCV(alphas=ALPHAS), marks=SLOW),
    pytest.param(FractionalRidgeCV(), SklearnFractionalRidgeCV(), marks=SLOW),
]


@EDGES
@pytest.mark.parametrize(("ours", "transposed"), PAIRS)
def test_the_transposed_family_differs_in_nothing_but_coef(ours, transposed):
    X, Y = data()
    Y = Y.reshape(60, 2, 3)
    assert GroupRidgeCV is BandedRidgeCV
    ours, transposed = clone(ours).fit(X, Y), clone(transposed).fit(X, Y)
    assert list(transposed.get_params()) == list(ours.get_params())
    assert transposed.coef_.shape == (2, 3, 8)
    np.testing.assert_array_equal(np.moveaxis(transposed.coef_, -1, 0), ours.coef_)
    np.testing.assert_allclose(transposed.predict(X), ours.predict(X), **CLOSE)
    assert SklearnRidge(2.0).fit(X, Y[:, 0, 0]).coef_.shape == (8,)


@EDGES
@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(),
        RidgeCV(ALPHAS, cv=5),
        pytest.param(BandedRidgeCV(alphas=ALPHAS, n_candidates=1), marks=SLOW),
        pytest.param(FractionalRidgeCV(), marks=SLOW),
    ],
)
def test_the_dtype_of_the_features_stays_unless_another_is_asked_for(estimator):
    X, Y = data()
    single = X.astype(np.float32)
    for features, dtype, expected in ((X, None, np.float64), (single, None, np.float32), (X, "float32", np.float32)):
        ours = clone(estimator).set_params(dtype=dtype).fit(features, Y)
        assert ours.coef_.dtype == ours.predict(X).dtype == ours.intercept_.dtype == expected
    assert Ridge(dtype=np.float64).fit(single, Y).coef_.dtype == np.float64
    assert Ridge().fit(X.astype(int), Y).coef_.dtype == np.float64


def test_clones_pickles_and_pipelines_work():
    X, Y = data()
    pipeline = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, cv=5, alpha_per_target=False)).fit(X, Y)
    same = clone(pipeline).fit(X, Y)
    np.testing.assert_array_equal(same.predict(X), pipeline.predict(X))
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(X), pipeline.predict(X))
    assert clone(RidgeCV(ALPHAS, cv=KFold(3), n_refinements=2)).get_params()["n_refinements"] == 2


def test_model_selection_of_scikit_learn_takes_the_score():
    X, Y = data()
    grid = {"alpha": [0.1, 10.0, 1000.0]}
    ours, peer = (GridSearchCV(kind, grid, cv=4).fit(X, Y) for kind in (Ridge(), linear_model.Ridge(solver="svd")))
    assert ours.best_params_ == peer.best_params_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], peer.cv_results_["mean_test_score"], **CLOSE)
    found = cross_val_score(Ridge(), X, Y, cv=4)
    np.testing.assert_allclose(found, cross_val_score(linear_model.Ridge(solver="svd"), X, Y, cv=4), **CLOSE)


# Scores.


def test_scores_are_those_of_each_target():
    X, Y = data()
    Y = Y.copy()
    Y[:, 1] = 4.0
    weights = np.arange(1.0, 61.0)
    ours = Ridge(5.0).fit(X, Y)
    predicted = ours.predict(X)
    kept = [0, 2, 3, 4, 5]
    for sample_weight in (None, weights):
        found = ours.scores(X, Y, sample_weight=sample_weight)
        expected = r2_score(Y[:, kept], predicted[:, kept], sample_weight=sample_weight, multioutput="raw_values")
        np.testing.assert_allclose(found[kept], expected, **CLOSE)
        assert np.isnan(found[1])
    r = ours.scores(X, Y, "pearson_r")
    np.testing.assert_allclose(r[kept], [np.corrcoef(Y[:, k], predicted[:, k])[0, 1] for k in kept], **CLOSE)
    assert np.isnan(r[1])
    useless = Ridge(1.0).fit(np.zeros((60, 1)), Y)
    np.testing.assert_array_equal(useless.scores(np.zeros((60, 1)), Y, "pearson_r")[kept], 0)
    assert ours.score(X, Y, weights) == pytest.approx(r2_score(Y, predicted, sample_weight=weights), rel=1e-12)


# Missing values.


@EDGES
@pytest.mark.parametrize("folds", [False, pytest.param(True, marks=SLOW)])
def test_missing_rows_are_left_out_for_the_targets_that_miss_them(folds):
    X, Y = data()
    Y = Y.reshape(60, 2, 3).copy()
    Y[:7, 0], Y[20:30, 1, 1], Y[:, 1, 2] = np.nan, np.nan, np.nan
    cv = None if not folds else [(np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))]
    ours = RidgeCV(ALPHAS, missing="mask", cv=cv, scoring="neg_mse").fit(X, Y)
    for place in ((0, 1), (1, 1))[not folds :]:
        y = Y[(slice(None), *place)]
        has = np.isfinite(y)
        number = np.cumsum(has) - 1
        pairs = None if cv is None else [[number[rows][has[rows]] for rows in pair] for pair in cv]
        alone = RidgeCV(ALPHAS, cv=pairs, scoring="neg_mse").fit(X[has], y[has])
        assert ours.alpha_[place] == alone.alpha_
        np.testing.assert_allclose(ours.coef_[(slice(None), *place)], alone.coef_, **CLOSE)
        np.testing.assert_allclose(ours.predict(X)[(slice(None), *place)], alone.predict(X), **CLOSE)
        np.testing.assert_allclose(ours.cv_scores_[place], alone.cv_scores_, **CLOSE)
        np.testing.assert_allclose(ours.scores(X, Y)[place], alone.scores(X[has], y[has]), **CLOSE)
    for values in (ours.alpha_, ours.cv_scores_, ours.intercept_, ours.scores(X, Y)):
        assert np.isnan(values[1, 2]) and np.isfinite(np.ravel(values)[:5]).all()
    assert np.isnan(ours.coef_[:, 1, 2]).all()
    assert ours.score(X, Y) == pytest.approx(np.nanmean(ours.scores(X, Y)))


@EDGES
@pytest.mark.slow
def test_a_fold_that_a_target_misses_does_not_vote():
    X, Y = data()
    Y = Y.copy()
    Y[:12, 0] = np.nan  # the first of five folds
    Y[:50, 1] = np.nan  # all but ten rows of the last
    ours = RidgeCV(ALPHAS, cv=5, missing="mask", store_cv_results=True).fit(X, Y)
    assert np.isnan(ours.cv_results_[0, :, 0]).all() and np.isfinite(ours.cv_results_[1:, :, 0]).all()
    pairs = [(np.setdiff1d(np.arange(12, 60), test), test) for test in np.arange(60).reshape(5, 12)[1:]]
    alone = RidgeCV(ALPHAS, cv=pairs, store_cv_results=True).fit(X, np.nan_to_num(Y[:, 0]))
    np.testing.assert_allclose(ours.cv_results_[1:, :, 0], alone.cv_results_, **CLOSE)
    assert ours.alpha_[0] == alone.alpha_
    np.testing.assert_allclose(ours.coef_[:, 1], Ridge(ours.alpha_[1]).fit(X[50:], Y[50:, 1]).coef_, **CLOSE)
    nothing = RidgeCV(ALPHAS, cv=[(np.arange(30), np.arange(30, 40))], missing="mask").fit(X, Y)
    assert nothing.alpha_[1] == ALPHAS.max() and np.isnan(nothing.cv_scores_[1])


@EDGES
@pytest.mark.slow
def test_missing_rows_and_shared_penalties_go_together():
    X, Y = data()
    Y = Y.copy()
    Y[3:9, :2] = np.nan
    ours = RidgeCV(ALPHAS, cv=4, missing="mask", alpha_per_target=False, store_cv_results=True).fit(X, Y)
    assert ours.alpha_ == ALPHAS[np.argmax(ours.cv_results_.mean((0, 2)))]
    np.testing.assert_allclose(ours.coef_, Ridge(ours.alpha_, missing="mask").fit(X, Y).coef_, **CLOSE)


# Ends of the candidates.


def test_a_crowded_end_is_warned_of_and_widened():
    X, Y = data()
    narrow = np.array([1e-3, 1e-2, 1e-1])
    with pytest.warns(
        AlphaEdgeWarning, match=r"100% of 4 predicted targets chose the highest of 3 candidates, alpha=0.1"
    ):
        ours = RidgeCV(narrow).fit(X, Y[:, :4])
    assert ours.edge_high_ == 1 and ours.edge_low_ == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = RidgeCV(narrow, widen=True).fit(X, Y[:, :4])
        RidgeCV([1.0]).fit(X, Y)
    assert wide.edge_high_ == 0 and len(wide.alphas_) > 3 and wide.alphas_.max() > 0.1
    np.testing.assert_allclose(wide.alphas_[1:] / wide.alphas_[:-1], 10)
    assert set(wide.alpha_) <= set(wide.alphas_)
    np.testing.assert_allclose(wide.coef_, Ridge(wide.alpha_).fit(X, Y[:, :4]).coef_, **CLOSE)


def test_targets_that_nothing_predicts_belong_at_the_top_and_widen_nothing():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((60, 8)), rng.standard_normal((60, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = RidgeCV(np.geomspace(1e-2, 1e5, 12), cv=5).fit(X, Y)
    is_null = found.cv_scores_ <= 0
    assert found.null_at_top_ == np.mean(found.alpha_[is_null] == 1e5) > 0.3
    nulls = np.flatnonzero(is_null)[np.arange(40) % is_null.sum()]
    only = RidgeCV(np.geomspace(1e-2, 1e5, 12), cv=5, widen=True).fit(X, Y[:, nulls])
    assert len(only.alphas_) == 12 and np.isnan(only.edge_high_)
    assert only.null_at_top_ == np.mean(only.alpha_ == 1e5) > 0.3


@EDGES
@pytest.mark.slow
def test_squared_errors_tell_predicted_targets_by_what_the_mean_predicts():
    X, Y = data()
    ours = RidgeCV(ALPHAS, cv=5, scoring="neg_mse").fit(X, Y * 1e-6)
    top = RidgeCV([1e20], cv=5, scoring="neg_mse").fit(X, Y * 1e-6)
    is_predicted = ours.cv_scores_ > top.cv_scores_ * (1 - 1e-12)
    assert ours.edge_low_ == np.mean(ours.alpha_[is_predicted] == ALPHAS.min())


@EDGES
def test_penalties_are_exactly_candidates_and_the_grid_follows_the_spectrum():
    X, Y = data()
    ours = RidgeCV(cv=5, dtype=np.float32).fit(X, Y)
    eigenvalues = np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(ours.alphas_, np.geomspace(1e-4, 1e6, 25) * eigenvalues.mean(), rtol=1e-6)
    assert set(ours.alpha_) <= set(ours.alphas_) and ours.alphas_.dtype == np.float64
    np.testing.assert_array_equal(RidgeCV(ALPHAS.astype(str), cv=5).fit(X, Y).alphas_, ALPHAS)


# Batches, solvers, rescue.


@EDGES
@pytest.mark.parametrize("shared", [False, True])
def test_batches_of_targets_change_nothing(shared):
    X, Y = data()
    options = {"cv": 5, "alpha_per_target": not shared, "store_cv_results": True}
    whole, parts = (RidgeCV(ALPHAS, n_targets_batch=size, **options).fit(X, Y) for size in (None, 4))
    for name in ("alpha_", "coef_", "intercept_", "cv_scores_", "cv_results_", "edge_low_", "edge_high_"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-11, atol=1e-12)


def test_the_cheapest_solver_that_keeps_the_digits_is_taken():
    X, Y = data()
    assert Ridge(1.0).fit(X, Y).solver_ == "cholesky"
    assert Ridge([1.0, 2, 3, 4, 5, 6]).fit(X, Y).solver_ == "eigh"
    assert Ridge(1e-15).fit(X, Y).solver_ == "svd"


@EDGES
@pytest.mark.slow
def test_cholesky_chooses_and_fits_as_eigh_does():
    X, Y = data()
    given_alphas = RidgeCV([1.0, 10.0], cv=5, solver="cholesky").fit(X, Y)
    by_eigh = RidgeCV([1.0, 10.0], cv=5, solver="eigh").fit(X, Y)
    assert given_alphas.solver_ == "cholesky"
    np.testing.assert_allclose(given_alphas.coef_, by_eigh.coef_, **CLOSE)
    np.testing.assert_allclose(given_alphas.cv_scores_, by_eigh.cv_scores_, **CLOSE)


def test_a_failed_decomposition_is_done_again_by_svd(monkeypatch):
    X, Y = data()
    real = steps.state_step

    def failing(features, folds, weights, by, way, n_alphas):
        state = real(features, folds, weights, by, way, n_alphas)
        broken = jax.tree.map(lambda leaf: leaf * np.nan, state.split)
        return state._replace(split=broken) if way.solver in names else state

    monkeypatch.setattr(steps, "state_step", failing)
    names = {"eigh"}
    ours = RidgeCV(ALPHAS).fit(X, Y)
    assert ours.solver_ == "svd"
    np.testing.assert_allclose(ours.coef_, Ridge(ours.alpha_, solver="svd").fit(X, Y).coef_, **CLOSE)
    assert Ridge([1.0, 2, 3, 4, 5, 6]).fit(X, Y).solver_ == "svd"
    names = {"eigh", "svd"}
    with pytest.raises(np.linalg.LinAlgError, match="not finite with solver='eigh' nor with 'svd'"):
        RidgeCV(ALPHAS).fit(X, Y)


# What is refused.


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Ridge([1.0, 2.0]), r"Number of targets and number of penalties do not correspond: 2 != 6"),
        (Ridge(-1.0), r"alpha holds -1.0: give finite penalties from 0 upwards"),
        (Ridge("x"), r"alpha='x' is no number"),
        (Ridge([1.0, 2, 3, 4, 5, 6], solver="cholesky"), r"6 different penalties: it factorises for a single one"),
        (Ridge(solver="lu"), r"solver='lu' is not one of auto, eigh, svd, cholesky"),
        (Ridge(missing="drop"), r"missing='drop': write error, or mask"),
        (Ridge(dtype="int32"), r"dtype='int32': give float32 or float64"),
        (Ridge(n_targets_batch=0), r"n_targets_batch=0: give a whole number from 1"),
        (RidgeCV([]), r"alphas is empty"),
        (RidgeCV([1.0, np.nan]), r"alphas holds nan"),
        (RidgeCV("wide"), r"alphas='wide': write auto, or give penalties"),
        (RidgeCV(scoring="f1"), r"scoring='f1' is not one of r2, neg_mean_squared_error"),
        (RidgeCV(scoring="pearson_r"), r"'pearson_r' with loo: .* biased"),
        (RidgeCV(conservative=True), r"need folds, and penalties are chosen by loo"),
        (RidgeCV(solver="cholesky", cv=5), r"solver='cholesky' knows no spectrum"),
        (RidgeCV([1.0], solver="cholesky"), r"solver='cholesky' knows no spectrum"),
        (RidgeCV(cv="loo"), r"cv='loo' is none of"),
        (RidgeCV(cv=100), r"60 stimuli \(or groups\) cannot fill 100 folds"),
        (RidgeCV(cv=iter([])), r"yields no fold"),
        (RidgeCV(target_groups=[0, 1]), r"target_groups has shape \(2,\) and a row of y \(6,\)"),
        (RidgeCV(target_groups=[0] * 6, alpha_per_target=False), r"exclude each other"),
        (RidgeCV(cv=5, n_refinements=3, alpha_per_target=False), r"n_refinements=3 with shared penalties"),
        (BandedRidgeCV(cv=None), r"cv=None: BandedRidgeCV chooses by folds"),
        (BandedRidgeCV([0, 1]), r"feature_groups has shape \(2,\) for 8 features"),
        (BandedRidgeCV(scoring="pearson_r"), r"scoring='pearson_r' is not one of r2, neg"),
        (BandedRidgeCV(search="gradient", alpha_per_target=False), r"gives each target its own penalties"),
        (BandedRidgeCV(search="grid"), r"search='grid': write random or gradient"),
        (FractionalRidgeCV([0.5, 1.5]), r"fractions holds 1.5"),
        (FractionalRidgeCV(cv="gcv"), r"cv='gcv': FractionalRidgeCV chooses by folds"),
        (FractionalRidgeCV(scoring="neg_mse"), r"scoring='neg_mse' is not one of r2, pearson_r"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_by_name(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(*data())


def test_wrong_data_are_refused_by_name():
    X, Y = data()
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        Ridge().fit(X, Y, sample_weight=-np.ones(60))
    with pytest.raises(ValueError, match="at least one non-zero number"):
        Ridge().fit(X, Y, sample_weight=np.zeros(60))
    with pytest.raises(ValueError, match="groups has shape"):
        RidgeCV(cv=5).fit(X, Y, groups=[1, 2])
    with pytest.raises(ValueError, match="does not keep groups together"):
        RidgeCV().fit(X, Y, groups=np.arange(60))
    for missing in ("error", "mask"):
        with pytest.raises(ValueError, match="infinity"):
            Ridge(missing=missing).fit(X, np.where(Y[0, 0] == Y, np.inf, Y))
        with pytest.raises(ValueError, match="Input X contains NaN"):
            Ridge(missing=missing).fit(np.where(X[0, 0] == X, np.nan, X), Y)
    with pytest.raises(ValueError, match="contains NaN"):
        Ridge().fit(X, np.where(Y[0, 0] == Y, np.nan, Y))
    with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(60, 0\)\)"):
        Ridge().fit(X, np.zeros((60, 0)))
    fitted = Ridge().fit(X, Y)
    with pytest.raises(ValueError, match=r"y has shape \(60, 2\) and predictions \(60, 6\)"):
        fitted.scores(X, Y[:, :2])
    with pytest.raises(ValueError, match="statistic='mse' is not one of r2, pearson_r"):
        fitted.scores(X, Y, "mse")


# Precision.

KINDS = ("tall", "wide", "decaying", "decaying and wide", "unit at 5000", "volts")


def planted(kind):
    """Training and test rows in float32, as they would come from a recording."""
    rng = np.random.default_rng(1)
    n, p = (60, 90) if "wide" in kind else (150, 40)
    X = rng.standard_normal((2 * n, p))
    X *= np.arange(1, p + 1) ** -1.5 if "decaying" in kind else 1
    signal = (X - X.mean(0)) @ rng.standard_normal((p, 20))
    Y = signal / signal.std(0) * rng.uniform(0, 2, 20) + rng.standard_normal((2 * n, 20))
    if kind == "unit at 5000":
        X[:, 3] += 5000
        Y += 300
    Y *= 1e-6 if kind == "volts" else 1
    return [part for whole in (X, Y) for part in np.split(whole.astype(np.float32), 2)]


@EDGES
@pytest.mark.parametrize("cv", [5, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[SLOW] * (kind in ("tall", "volts"))) for kind in KINDS])
def test_float32_predicts_as_float64_does(kind, cv):
    """Predictions to 1e-4 of the target's SD, r to 1e-5, the same penalty unless the criterion differs by less than 1e-6."""
    train, test, of_train, of_test = planted(kind)
    single, double = (
        RidgeCV(ALPHAS, cv=cv, store_cv_results=True, dtype=dtype).fit(train, of_train) for dtype in (None, np.float64)
    )
    assert single.coef_.dtype == np.float32
    differs = np.flatnonzero(single.alpha_ != double.alpha_)
    criterion = double.cv_results_.mean(0)
    for target in differs:
        at = [np.searchsorted(ALPHAS, found.alpha_[target]) for found in (single, double)]
        assert abs(np.diff(criterion[at, target])[0]) < 1e-6
    assert len(differs) <= 2
    same = single.alpha_ == double.alpha_
    error = np.abs(single.predict(test) - double.predict(test)).max(0) / of_test.std(0, dtype=np.float64)
    assert error[same].max() <= 1e-4
    r = single.scores(test, of_test, "pearson_r") - double.scores(test, of_test, "pearson_r")
    assert np.abs(r[same]).max() <= 1e-5


# Whatever the data.


def messy(rows, columns, targets, seed, feature_scale, target_scale):
    """Data with a repeated row, a constant column, a unit at 5000, a repeated column and a constant target."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, columns))
    y = X @ rng.standard_normal((columns, targets)) + rng.standard_normal((rows, targets))
    X[1] = X[0]
    X[:, 0], X[:, 1], X[:, 2] = 3.0, X[:, 1] + 5000, X[:, 3]
    y[:, -1] = 1.5 if targets > 1 else y[:, -1]
    return X * feature_scale, y * target_scale


@EDGES
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.sampled_from([(24, 6, 3), (12, 20, 1)]),
    st.integers(0, 10**6),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_units_cancel_and_messy_data_stay_finite(shape, seed, feature_scale, target_scale):
    X, y = messy(*shape, seed, 1.0, 1.0)
    plain = RidgeCV(cv=3).fit(X, y)
    ours = RidgeCV(cv=3).fit(X * feature_scale, y * target_scale)
    assert np.isfinite(ours.coef_).all() and set(ours.alpha_.ravel()) <= set(ours.alphas_)
    np.testing.assert_allclose(ours.alphas_, plain.alphas_ * feature_scale**2, rtol=1e-6)
    same = np.isclose(ours.alpha_, plain.alpha_ * feature_scale**2, rtol=1e-3)
    expected = plain.predict(X)[:, same] * target_scale
    np.testing.assert_allclose(ours.predict(X * feature_scale)[:, same], expected, atol=1e-6 * target_scale)
    np.testing.assert_allclose(ours.cv_scores_, plain.cv_scores_, atol=1e-6)
    if shape[2] > 1:
        assert np.isnan(ours.cv_scores_[-1]) and ours.alpha_[-1] == ours.alphas_.max()
        np.testing.assert_array_equal(ours.coef_[:, -1], 0)
        assert np.isnan(ours.scores(X * feature_scale, y * target_scale)[-1])
    assert np.all(ours.coef_[0] == 0)


@EDGES
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 30.0]))
def test_a_row_of_weight_two_is_a_row_given_twice(seed, alpha):
    X, y = messy(24, 6, 3, seed, 1.0, 1.0)
    rng = np.random.default_rng(seed)
    times = rng.permutation(np.repeat([0, 1, 2], 8))
    weighted = Ridge(alpha).fit(X, y, sample_weight=times)
    repeated = Ridge(alpha).fit(np.repeat(X, times, axis=0), np.repeat(y, times, axis=0))
    scale = np.abs(repeated.predict(X)).max()
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-7 * scale)


@EDGES
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 23), st.integers(0, 1)), min_size=1, max_size=12))
def test_missing_values_anywhere_leave_the_other_targets_alone(seed, places):
    X, y = messy(24, 6, 4, seed, 1.0, 1.0)
    gaps = y.copy()
    for row, target in places:
        gaps[row, target] = np.nan
    ours = Ridge([1.0, 2.0, 3.0, 4.0], missing="mask").fit(X, gaps)
    whole = Ridge([1.0, 2.0, 3.0, 4.0]).fit(X, y)
    untouched = ~np.isnan(gaps).any(0)
    np.testing.assert_allclose(ours.coef_[:, untouched], whole.coef_[:, untouched], atol=1e-8)
    for target in np.flatnonzero(~untouched):
        has = np.isfinite(gaps[:, target])
        alone = linear_model.Ridge(target + 1.0, solver="svd").fit(X[has], y[has, target])
        np.testing.assert_allclose(ours.predict(X)[:, target], alone.predict(X), atol=1e-7 * np.abs(y).max())


@EDGES
@pytest.mark.slow
def test_ties_go_to_the_larger_penalty():
    X, Y = data()
    same = RidgeCV([2.0, 2.0, 1e30, 1e31], cv=5, scoring="neg_mse").fit(X, np.random.default_rng(1).permutation(Y))
    null = same.alpha_ >= 1e30
    assert null.any() and np.all(same.alpha_[null] == 1e31)
