"""Score functions equal himalaya's where both are defined, scikit-learn's, and slow loops; shares sum to the joint score."""

import warnings

import jax
import numpy as np
import oracles
import oracles_banded
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.compute import scoring

pytestmark = pytest.mark.usefixtures("strict")

N, N_TARGETS, N_SETS = 23, 4, 3
SCORES = ("r2_score", "correlation_score", "l2_neg_loss", "explained_variance_score")
SPLITS = ("r2_score_split", "r2_score_split_svd", "correlation_score_split")
JOINT = dict(zip(SPLITS, ("r2_score", "r2_score", "correlation_score"), strict=True))


def planted(seed=0):
    """Targets of mean 0, and three correlated parts of a prediction whose means are not 0."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((N_SETS, N, N_TARGETS)) + rng.uniform(-0.5, 0.5, (N_SETS, 1, 1))
    parts[1] += 0.6 * parts[0]
    truth = 1.2 * parts.sum(0) + 2 * rng.standard_normal((N, N_TARGETS))
    return truth - truth.mean(0), parts


def ours(name, truth, predicted, dtype=np.float64, **options):
    with jax.enable_x64(dtype == np.float64):
        out = getattr(scoring, name)(np.asarray(truth, dtype), np.asarray(predicted, dtype), **options)
        assert out.dtype == dtype
        return np.asarray(out)


def peer(name, truth, predicted, **options):
    from himalaya import scoring as himalaya
    from himalaya.backend import set_backend

    set_backend("numpy")
    return getattr(himalaya, name)(truth.copy(), predicted.copy(), **options)


def slow(name, truth, predicted):
    """One number per target by its textbook definition. (n, t), (n, t) -> (t,)"""
    of = {
        "r2_score": oracles.r2_of_prediction,
        "correlation_score": oracles.r_of_prediction,
        "l2_neg_loss": lambda t, p: -sum((a - b) ** 2 for a, b in zip(t, p, strict=True)) / len(t),
        "explained_variance_score": lambda t, p: 1 - np.var(t - p) / np.var(t),
    }[name]
    return np.array([of(t, p) for t, p in zip(truth.T, predicted.T, strict=True)])


def slow_split(name, truth, parts):
    """Shares of one target after the other, for targets of mean 0. (n, t), (k, n, t) -> (k, t)"""
    shares = []
    for target in range(truth.shape[1]):
        y, each = truth[:, target], parts[:, :, target]
        if name == "correlation_score_split":
            joint = each.sum(0)
            shares.append([np.mean((y - y.mean()) * (one - one.mean())) / (y.std() * joint.std()) for one in each])
        else:
            of = {"r2_score_split": "product_measure", "r2_score_split_svd": "relative_weights"}[name]
            shares.append(getattr(oracles_banded, of)(y, each))
    return np.array(shares).T


# Against the definition and the peers.


@pytest.mark.parametrize("has_axis", [True, False])
@pytest.mark.parametrize("name", SCORES)
def test_scores_equal_the_definition(name, has_axis):
    truth, parts = planted()
    truth = truth + 3
    expected = np.array([slow(name, truth, one) for one in parts])
    got = ours(name, truth, parts if has_axis else parts[1])
    np.testing.assert_allclose(got, expected if has_axis else expected[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("has_axis", [True, False])
@pytest.mark.parametrize("name", SCORES[:3] + SPLITS)
def test_scores_equal_himalaya(name, has_axis):
    truth, parts = planted()
    predicted = parts if has_axis else parts[1]
    np.testing.assert_allclose(ours(name, truth, predicted), peer(name, truth, predicted), rtol=0, atol=1e-10)


def test_parts_alone_equal_himalaya_without_correlations():
    truth, parts = planted()
    expected = peer("r2_score_split", truth, parts, include_correlation=False)
    got = ours("r2_score_split", truth, parts, include_correlation=False)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["r2_score", "explained_variance_score"])
def test_scores_equal_scikit_learn(name):
    from sklearn import metrics

    truth, parts = planted()
    expected = getattr(metrics, name)(truth + 7, parts[0], multioutput="raw_values")
    np.testing.assert_allclose(ours(name, truth + 7, parts[0]), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SPLITS)
def test_splits_equal_the_definition(name):
    truth, parts = planted()
    np.testing.assert_allclose(ours(name, truth, parts), slow_split(name, truth, parts), rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), level=st.sampled_from([0.0, 1.0, -30.0]), name=st.sampled_from(SPLITS))
def test_shares_sum_to_the_joint_score_whatever_the_means(seed, level, name):
    truth, parts = planted(seed)
    truth, parts = truth + level, parts + np.array([level, 0.3, 0])[:, None, None]
    joint = ours(JOINT[name], truth, parts.sum(0))
    np.testing.assert_allclose(ours(name, truth, parts).sum(0), joint, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SPLITS)
def test_the_order_of_sets_does_not_matter(name):
    truth, parts = planted()
    np.testing.assert_allclose(ours(name, truth, parts[::-1])[::-1], ours(name, truth, parts), rtol=0, atol=1e-11)


def test_a_set_that_predicts_nothing_has_no_share():
    truth, parts = planted()
    parts[2] = 0
    for name in SPLITS:
        shares = ours(name, truth, parts)
        np.testing.assert_allclose(shares[2], 0, atol=1e-14)
        np.testing.assert_allclose(shares[:2], ours(name, truth, parts[:2]), rtol=0, atol=1e-10)


def test_relative_weights_of_two_equal_sets_are_equal():
    truth, parts = planted()
    parts = np.stack([parts[0], parts[0]])
    shares = ours("r2_score_split_svd", truth, parts)
    np.testing.assert_allclose(shares[0], shares[1], rtol=0, atol=1e-7)
    np.testing.assert_allclose(shares.sum(0), ours("r2_score", truth, parts.sum(0)), rtol=0, atol=1e-12)


def test_relative_weights_of_nothing_are_shared_equally():
    truth, parts = planted()
    shares = ours("r2_score_split_svd", truth + 1, np.zeros_like(parts))
    expected = np.tile(ours("r2_score", truth + 1, np.zeros_like(truth)) / N_SETS, (N_SETS, 1))
    np.testing.assert_allclose(shares, expected, rtol=1e-12)


# float32.


@pytest.mark.parametrize("name", SCORES + SPLITS)
def test_float32_keeps_its_digits(name):
    truth, parts = (values.astype(np.float32) for values in planted())
    np.testing.assert_allclose(ours(name, truth, parts, np.float32), ours(name, truth, parts), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", SCORES)
def test_a_constant_of_5000_costs_a_score_no_digits(name):
    truth, parts = ((values + 5000).astype(np.float32) for values in planted())
    np.testing.assert_allclose(ours(name, truth, parts, np.float32), ours(name, truth, parts), rtol=1e-5, atol=1e-5)


def test_a_constant_of_5000_costs_the_split_of_r_no_digits():
    truth, parts = planted()
    truth, parts = (truth + 5000).astype(np.float32), (parts + 5000).astype(np.float32)
    expected = ours("correlation_score_split", truth, parts)
    # The sum of three parts at 5000 is rounded to 1e-3 before anything is centred.
    np.testing.assert_allclose(ours("correlation_score_split", truth, parts, np.float32), expected, atol=3e-4)


def test_a_target_at_5000_costs_the_split_of_r2_no_digits():
    truth, parts = planted()
    truth, parts = (truth + 5000).astype(np.float32), parts.astype(np.float32)
    intercept = np.float32(5000)
    exact = truth.astype(np.float64) - 5000
    got = ours("r2_score_split", truth - intercept, parts, np.float32)
    np.testing.assert_allclose(got, ours("r2_score_split", exact, parts), atol=1e-5)
    np.testing.assert_allclose(got.sum(0), ours("r2_score", exact, parts.astype(np.float64).sum(0)), atol=1e-5)


# What is undefined.


@pytest.mark.parametrize("name", SCORES + SPLITS)
def test_a_nan_target_has_no_score_and_harms_no_other(name):
    truth, parts = planted()
    broken = truth.copy()
    broken[3, 2] = np.nan
    scores, bare = ours(name, broken, parts), ours(name, truth, parts)
    assert np.isnan(scores[:, 2]).all()
    others = [0, 1, 3]
    np.testing.assert_array_equal(scores[:, others], bare[:, others])


@pytest.mark.parametrize("name", SCORES + SPLITS)
def test_a_nan_prediction_has_no_score(name):
    truth, parts = planted()
    parts[0, 5, 1] = np.nan
    scores = ours(name, truth, parts)
    assert np.isnan(scores[0, 1])
    assert np.isfinite(scores[:, [0, 2, 3]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", (*SCORES[:2], SCORES[3], *SPLITS))
def test_a_constant_target_has_no_score(name, dtype):
    truth, parts = planted()
    truth[:, 1] = 0.1
    is_nan = np.isnan(ours(name, truth, parts, dtype))
    np.testing.assert_array_equal(is_nan, np.broadcast_to(np.arange(N_TARGETS) == 1, is_nan.shape))


def test_the_error_of_a_constant_target_is_defined():
    truth, parts = planted()
    truth[:, 1] = 0.1
    np.testing.assert_allclose(ours("l2_neg_loss", truth, parts[0])[1], -np.mean((0.1 - parts[0][:, 1]) ** 2))


def test_himalaya_says_zero_for_a_constant_target():
    truth, parts = planted()
    truth[:, 1] = 0.0
    with np.errstate(divide="ignore"):
        assert peer("r2_score", truth, parts[0])[1] == 0
    assert np.isnan(ours("r2_score", truth, parts[0])[1])


def test_a_constant_prediction_has_r_zero():
    truth, parts = planted()
    parts[0, :, 3] = 0.7
    assert ours("correlation_score", truth, parts)[0, 3] == 0


def test_parts_that_cancel_have_no_share_of_r():
    truth, parts = planted()
    np.testing.assert_array_equal(ours("correlation_score_split", truth, np.stack([parts[0], -parts[0]])), 0)


# Wrong shapes.


@pytest.mark.parametrize("name", SCORES + SPLITS)
@pytest.mark.parametrize("shape", [(N, 1), (N - 1, N_TARGETS), (N,), (2, 2, N, N_TARGETS)])
def test_wrong_shapes_are_named(name, shape):
    truth, _ = planted()
    with pytest.raises(ValueError, match=rf"\({N}, {N_TARGETS}\) and y_pred \({shape[0]},"):
        ours(name, truth, np.zeros(shape))


def test_himalaya_warns_of_a_mean_and_its_shares_no_longer_sum():
    """Why ours take the mean into account: the peer leaves it to the caller."""
    truth, parts = planted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = peer("r2_score_split", truth + 1, parts)
    assert np.abs(shares.sum(0) - ours("r2_score", truth + 1, parts.sum(0))).min() > 0.01
