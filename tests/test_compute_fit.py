"""Weights on all stimuli: penalties chosen by folds, leave-one-out or gcv, or given, equal refits one by one and scikit-learn."""

from functools import cache

import jax
import numpy as np
import oracles_choose as slow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles_choose import fitted

from jaxalign.compute import fit, folds
from jaxalign.compute.choose import Choosing
from jaxalign.compute.decompose import Way

pytestmark = pytest.mark.usefixtures("strict")

ALPHAS = np.array([0.1, 1.0, 10.0, 300.0])
SHAPES = {"tall": (20, 5), "wide": (16, 30), "duplicates": (20, 5), "deficient": (20, 5)}
LOO, GCV = Choosing("loo"), Choosing("gcv")


@cache
def data(kind):
    """Features, responses, weights; duplicates are rows that come twice, deficient features have rank 3."""
    n, width = SHAPES[kind]
    rng = np.random.default_rng(n + width)
    features = rng.standard_normal((n, width)) + rng.uniform(-2, 2, width)
    if kind == "duplicates":
        features[n // 2 :] = features[: n // 2]
    if kind == "deficient":
        features[:, 3], features[:, 4] = features[:, 0] - features[:, 1], features[:, 2]
    responses = features @ rng.standard_normal((width, 3)) / np.sqrt(width) + rng.standard_normal((n, 3)) + 1
    return features, responses, rng.uniform(0.5, 3, n)


# Leave-one-out and generalised cross-validation.


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("by", ["loo", "gcv"])
def test_the_criterion_equals_refits(by, kind):
    """leave-one-out: a refit without each stimulus; gcv: the trace of the hat matrix."""
    features, responses, weights = data(kind)
    # alpha 0 interpolates where features outnumber stimuli: there the definitions are 0 / 0, and ours the limit.
    alphas = ALPHAS if kind == "wide" else np.array([0.0, *ALPHAS[1:]])
    centred = features - np.average(features, axis=0, weights=weights)
    _, found = fitted(features, responses, None, weights, alphas, Choosing(by))
    expected = {"loo": slow.loo, "gcv": slow.gcv}[by](centred, responses, weights, alphas)
    np.testing.assert_allclose(found.judged[0], expected, atol=1e-8)


@pytest.mark.parametrize("kind", ["tall", pytest.param("wide", marks=pytest.mark.slow)])
@pytest.mark.parametrize("by", ["loo", pytest.param("gcv", marks=pytest.mark.slow)])
def test_the_criterion_without_centring_equals_refits(by, kind):
    features, responses, weights = data(kind)
    way, of = Way(is_centred=False), {"loo": slow.loo, "gcv": slow.gcv}[by]
    _, found = fitted(features, responses, None, weights, ALPHAS, Choosing(by, "neg_mse"), way)
    expected = of(features, responses, weights, ALPHAS, "neg_mse", False)
    np.testing.assert_allclose(found.judged[0], expected, atol=1e-8)


@pytest.mark.parametrize("by", [LOO, GCV])
def test_penalties_to_zero_reach_the_limit_where_features_outnumber_stimuli(by):
    features, responses, _ = data("wide")
    _, found = fitted(features, responses, None, None, np.array([0.0, 1e-7, 1e-5, 1e-3]), by)
    assert np.isfinite(found.judged).all()
    np.testing.assert_allclose(found.judged[0, 0], found.judged[0, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["tall", pytest.param("wide", marks=pytest.mark.slow), "deficient"])
def test_weighted_leave_one_out_equals_scikit_learn(kind):
    from sklearn.linear_model import RidgeCV

    features, responses, weights = data(kind)
    peer = RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(features, responses, sample_weight=weights)
    _, found = fitted(features, responses, None, weights, ALPHAS, Choosing("loo", "neg_mse"))
    np.testing.assert_array_equal(found.choice.alpha, peer.alpha_)
    np.testing.assert_allclose(found.weights.T, peer.coef_, atol=1e-9)
    np.testing.assert_allclose(found.intercept, peer.intercept_, atol=1e-9)
    # scikit-learn divides the weighted squares by n and not by the sum of weights.
    np.testing.assert_allclose(found.choice.validation * weights.mean(), peer.best_score_, atol=1e-9)


@pytest.mark.parametrize(("by", "atol"), [(LOO, 1e-5), (GCV, 1e-5)])
@pytest.mark.parametrize("kind", ["wide", pytest.param("tall", marks=pytest.mark.slow)])
def test_float32_keeps_its_digits_at_small_penalties(kind, by, atol):
    features, responses, _ = (values.astype(np.float32).astype(np.float64) for values in data(kind))
    top = np.linalg.norm(features - features.mean(0), 2) ** 2
    alphas = top * np.array([1e-4, 1e-3, 1e-2, 1.0])
    single, double = (
        fitted(features, responses, None, None, alphas, by, dtype=dtype)[1].judged for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(single, double, rtol=atol, atol=atol)


# Weights of stimuli.


@cache
def grouped_folds(n):
    """Four folds over the rows, and the same with every third row twice, its copy in the same fold."""
    fold_of = np.arange(n) % 4
    rows = np.concatenate([np.arange(n), np.arange(0, n, 3)])
    once, twice = (of == np.arange(4)[:, None] for of in (fold_of, fold_of[rows]))
    return folds.indexed(~once, once), folds.indexed(~twice, twice), rows


@pytest.mark.parametrize("kind", ["tall", pytest.param("wide", marks=pytest.mark.slow)])
def test_weight_two_is_a_row_that_comes_twice(kind):
    features, responses, _ = data(kind)
    once, twice, rows = grouped_folds(len(features))
    weights = np.bincount(rows).astype(float)
    way = Way(is_zscored=True)
    _, ours = fitted(features, responses, once, weights, ALPHAS, way=way)
    _, copied = fitted(features[rows], responses[rows], twice, None, ALPHAS, way=way)
    np.testing.assert_allclose(ours.judged, copied.judged, atol=1e-9)
    np.testing.assert_allclose(ours.weights, copied.weights, atol=1e-9)
    np.testing.assert_allclose(ours.intercept, copied.intercept, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("wide", "folds"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("tall", "folds"), ("tall", "loo"), ("wide", "loo"))),
    ],
)
def test_weight_zero_is_a_row_that_is_not_there_whatever_it_holds(kind, by):
    features, responses, weights = (values.copy() for values in data(kind))
    n = len(features)
    weights[[2, 5]] = 0
    test = np.arange(n) % 4 == np.arange(4)[:, None]
    there = weights > 0
    by_all, by_rest = folds.indexed(~test, test), folds.indexed(~test[:, there], test[:, there])
    given = (by_all, by_rest) if by == "folds" else (None, None)
    _, ours = fitted(features, responses, given[0], weights, ALPHAS, Choosing(by))
    _, without = fitted(features[there], responses[there], given[1], weights[there], ALPHAS, Choosing(by))
    for name in ("weights", "intercept", "judged"):
        np.testing.assert_allclose(getattr(ours, name), getattr(without, name), atol=1e-9)
    features[2], features[5], responses[2], responses[5] = 1e200, -7.0, np.nan, 1e300
    _, absurd = fitted(features, responses, given[0], weights, ALPHAS, Choosing(by))
    for name in ("weights", "intercept", "judged"):
        np.testing.assert_array_equal(getattr(absurd, name), getattr(ours, name))


# Weights of features, and intercepts.


@pytest.mark.parametrize("is_zscored", [False, True])
@pytest.mark.parametrize("kind", ["tall", "wide"])
def test_given_penalties_equal_scikit_learn(kind, is_zscored):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, responses, weights = data(kind)
    _, found = fitted(features, responses, None, weights, ALPHAS[:3], None, Way(is_zscored=is_zscored))
    scaler = StandardScaler(with_std=is_zscored).fit(features, sample_weight=weights)
    peer = Ridge(alpha=ALPHAS[:3]).fit(scaler.transform(features), responses, sample_weight=weights)
    np.testing.assert_allclose(
        features @ found.weights + found.intercept, peer.predict(scaler.transform(features)), atol=1e-9
    )
    spread = scaler.scale_ if is_zscored else np.ones(features.shape[1])
    np.testing.assert_allclose(found.weights.T, peer.coef_ / spread, atol=1e-9)


@pytest.mark.parametrize("solver", [pytest.param("svd", marks=pytest.mark.slow), "cholesky"])
@pytest.mark.parametrize("kind", ["tall", "wide"])
def test_solvers_agree_on_weights(kind, solver):
    features, responses, weights = data(kind)
    once, _, _ = grouped_folds(len(features))
    ours, bare = (
        fitted(features, responses, once, weights, ALPHAS, way=Way(solver=one))[1] for one in (solver, "eigh")
    )
    np.testing.assert_allclose(ours.weights, bare.weights, atol=1e-9)
    np.testing.assert_allclose(ours.intercept, bare.intercept, atol=1e-9)


@pytest.mark.parametrize("kind", ["deficient", "wide"])
def test_without_penalty_deficient_features_have_minimum_norm_weights_and_cholesky_says_nan(kind):
    features, responses, _ = data(kind)
    none = np.zeros(3)
    expected = np.linalg.lstsq(features - features.mean(0), responses - responses.mean(0), rcond=1e-10)[0]
    for solver in ("eigh", "svd"):
        _, found = fitted(features, responses, None, None, none, None, Way(solver=solver))
        np.testing.assert_allclose(found.weights, expected, atol=1e-9)
    once, _, _ = grouped_folds(len(features))
    _, found = fitted(features, responses, once, None, none[:1], way=Way(solver="cholesky"))
    assert np.isnan(found.judged).all() and np.isnan(found.weights).all()


def test_a_feature_without_variance_gets_weight_zero():
    features, responses, _ = (values.copy() for values in data("tall"))
    features[:, 2] = 0.1
    _, found = fitted(features, responses, None, None, np.zeros(3), None, Way(is_zscored=True), np.float32)
    np.testing.assert_array_equal(found.weights[2], 0)
    assert np.isfinite(found.weights).all()


def test_a_nan_target_is_nan_and_harms_no_other():
    features, responses, _ = (values.copy() for values in data("tall"))
    once, _, _ = grouped_folds(len(features))
    _, bare = fitted(features, responses, once, None, ALPHAS)
    responses[3, 1] = np.nan
    _, found = fitted(features, responses, once, None, ALPHAS)
    assert np.isnan(found.weights[:, 1]).all() and np.isnan(found.choice.validation[1])
    np.testing.assert_array_equal(found.weights[:, [0, 2]], bare.weights[:, [0, 2]])


@pytest.mark.parametrize("what", ["features"])
def test_features_that_hold_nan_give_nan_weights_and_no_score(what):
    features, responses, _ = (values.copy() for values in data("tall"))
    once, _, _ = grouped_folds(len(features))
    features[3, 1] = np.nan
    _, found = fitted(features, responses, once, None, ALPHAS)
    assert np.isnan(found.weights).all() and np.isnan(found.choice.validation).all()


# Many fits.


def many(features, responses, made, alphas):
    """Fits one after the other in one compiled call. (n_fits, n, p), (n_fits, n, n_targets) -> Fitted"""

    def one(given):
        state = fit.fit_state(given[0], made, None, Choosing(), Way(), len(alphas))
        return fit.fit_chosen(state, given[1], made, None, alphas, Choosing())

    return jax.lax.map(one, (features, responses))


def test_many_fits_at_once_equal_one_by_one_and_padding_columns_changes_no_weight():
    n = 20
    rng = np.random.default_rng(0)
    features, responses = rng.standard_normal((5, n, 8)), rng.standard_normal((5, n, 2))
    features[3:, :, 5:] = 0
    made, _, _ = grouped_folds(n)
    call = jax.jit(many)
    with jax.enable_x64(True):
        together = jax.tree.map(np.asarray, call(features, responses, made, ALPHAS))
        for place in range(5):
            # The same compiled tile: another fit beside each one, in another order.
            order = np.roll(np.arange(5), place)
            alone = jax.tree.map(np.asarray, call(features[order], responses[order], made, ALPHAS))
            np.testing.assert_array_equal(alone.weights, together.weights[order])
            np.testing.assert_array_equal(alone.judged, together.judged[order])
    for place in (3, 4):
        _, narrow = fitted(features[place, :, :5], responses[place], made, None, ALPHAS)
        np.testing.assert_allclose(together.weights[place, :5], narrow.weights, atol=1e-12)
        np.testing.assert_array_equal(together.weights[place, 5:], 0)


# Anything that comes in.

DRAWN = [(14, 1), (30, 12), (12, 40)]


@st.composite
def problems(draw):
    """Features and responses of a few shapes, with whatever makes them awkward."""
    n, width = draw(st.sampled_from(DRAWN))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = rng.standard_normal((n, width))
    awkward = draw(st.sets(st.sampled_from(["rank", "constant", "duplicates", "far", "ties"]), max_size=3))
    if "rank" in awkward:
        features = features[:, :1] @ rng.standard_normal((1, width))
    if "duplicates" in awkward:
        features[1::2] = features[::2]
    if "ties" in awkward:
        features = features.round()
    if "constant" in awkward:
        features[:, -1] = 0.3
    features *= 10.0 ** draw(st.integers(-6, 6))
    responses = features @ rng.standard_normal((width, 2)) / max(1e-300, np.abs(features).max())
    responses = (responses + rng.standard_normal((n, 2))) * 10.0 ** draw(st.integers(-6, 6))
    if "far" in awkward:
        features[:, 0] += 5000 * max(1e-300, np.abs(features).max())
    if draw(st.booleans()):
        responses[:, 1] = 2.5
    if draw(st.booleans()):
        responses[draw(st.integers(0, n - 1)), 1] = np.nan
    return features, responses


@pytest.mark.parametrize("by", ["folds", "loo"])
@given(problem=problems())
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_in_the_fit_equals_the_definition(by, problem):
    features, responses = problem
    n = len(features)
    test = np.arange(n) % 3 == np.arange(3)[:, None]
    spread = np.var(features, axis=0).sum() * n
    alphas = np.array([1e-3, 1e-1, 1.0, 100.0]) * (spread if spread > 0 else 1)
    made = folds.indexed(~test, test) if by == "folds" else None
    _, found = fitted(features, responses, made, None, alphas, Choosing(by))
    expected = slow.chosen(features, responses, slow.pairs_of(~test, test), np.ones(n), alphas, by)
    np.testing.assert_array_equal(np.isnan(found.judged), np.isnan(expected["judged"]))
    np.testing.assert_allclose(found.judged, expected["judged"], rtol=1e-7, atol=1e-7)
    margin = gaps(expected["judged"])
    clear = margin > 1e-6
    np.testing.assert_array_equal(found.choice.place[clear], expected["place"][clear])
    scale = np.abs(responses[:, 0]).max()
    if clear[0]:
        predicted = (
            features @ (found.weights - expected["weights"])[:, 0] + (found.intercept - expected["intercept"])[0]
        )
        assert np.abs(predicted).max() <= 1e-7 * scale
    assert np.isnan(found.weights[:, 1]).all() == np.isnan(responses[:, 1]).any()


def gaps(judged):
    """How far the best penalty of each target is ahead of the second, 0 where it has no value. -> (n_targets,)"""
    means = judged.mean(0)
    ordered = np.sort(np.nan_to_num(means, nan=-1.0), axis=0)
    return np.where(np.isnan(means).any(0), 0, ordered[-1] - ordered[-2])
