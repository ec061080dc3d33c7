"""Delayed features: products built without them are exact, and response functions equal mTRFpy, MNE and scikit-learn."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Peer

from jaxalign.compute.lagged import (
    _products,
    alpha_from_huth,
    alpha_from_mtrf,
    by_lag,
    lagged,
    lagged_cross,
    lagged_gram,
    lags_of,
    n_segments_of,
    predict_lagged,
    trf,
    valid_rows,
)

pytestmark = pytest.mark.usefixtures("strict")

N, N_FEATURES, N_TARGETS = 60, 3, 2
LAGS = {"past": (0, 1, 2), "both": (-3, -2, -1, 0, 1, 2), "future": (-4, -3, -2), "gaps": (5, -1, 0)}
SEGMENTS = {
    "one": np.zeros(N, int),
    "three": np.repeat([4, 2, 4], [20, 27, 13]),
    "short": np.repeat([0, 1, 2, 3, 1], [1, 2, 30, 3, 24]),
}
MOST = 5
"""Segments said everywhere, so that one compiled function serves all of SEGMENTS."""
ALPHAS = np.array([0.5, 20.0, 0.0])


@cache
def planted():
    """Smooth features with offsets, and responses that follow them with delays."""
    rng = np.random.default_rng(3)
    features = np.cumsum(rng.standard_normal((N, N_FEATURES)), axis=0) * 0.3 + rng.standard_normal((N, N_FEATURES))
    features += [2, -1, 0]
    responses = features[:, :2] + 0.5 * np.roll(features[:, 1:], 1, axis=0) + rng.standard_normal((N, N_TARGETS))
    return features, responses


def slow_lagged(features, lags, segments):
    """Feature-major delayed copies, row by row. A segment is an uninterrupted stretch of one label."""
    n_rows, width = features.shape
    out = np.zeros((n_rows, width, len(lags)))
    for t in range(n_rows):
        for k, lag in enumerate(lags):
            u = t - lag
            between = segments[max(min(t, u), 0) : max(t, u) + 1]
            if 0 <= u < n_rows and (between == segments[t]).all():
                out[t, :, k] = features[u]
    return out.reshape(n_rows, -1)


jit_lagged = jax.jit(lagged, static_argnums=1)
jit_gram = jax.jit(lagged_gram, static_argnums=(1, 3))
jit_cross = jax.jit(lagged_cross, static_argnums=2)
jit_trf = jax.jit(trf, static_argnums=2, static_argnames=("n_segments", "intercept", "platform"))


def products(features, responses, lags, segments, dtype=np.float64):
    features, responses = features.astype(dtype), responses.astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        gram = jit_gram(features, lags, segments, MOST)
        cross = jit_cross(features, responses, lags, segments)
        assert gram.dtype == cross.dtype == dtype
        return np.asarray(gram), np.asarray(cross)


def fitted(features, responses, lags, alphas, segments, dtype=np.float64, **options):
    features, responses, alphas = (np.asarray(values, dtype) for values in (features, responses, alphas))
    with jax.enable_x64(dtype == np.float64):
        found = jit_trf(features, responses, lags, alphas, segments, n_segments=MOST, **options)
        assert found.weights.dtype == found.intercept.dtype == dtype
        return jax.tree.map(np.asarray, found)


# Delayed features.


@pytest.mark.parametrize("stretches", SEGMENTS)
@pytest.mark.parametrize("lags", LAGS.values(), ids=LAGS)
def test_lagged_features_equal_the_definition(lags, stretches):
    features, segments = planted()[0], SEGMENTS[stretches]
    with jax.enable_x64(True):
        ours = jit_lagged(features, lags, segments)
        np.testing.assert_array_equal(ours, slow_lagged(features, lags, segments))


@pytest.mark.parametrize(("tmin", "tmax"), [(-3, 2), (0, 5), (-4, -2), (2, 3)])
def test_order_signs_and_valid_rows_are_those_of_mne(tmin, tmax):
    from mne.decoding import ReceptiveField
    from mne.decoding.receptive_field import _delay_time_series

    features = planted()[0]
    lags = lags_of(tmin, tmax, 1.0)
    with jax.enable_x64(True):
        ours = np.asarray(jit_lagged(features, lags))
    np.testing.assert_array_equal(ours, _delay_time_series(features, tmin, tmax, 1.0).reshape(N, -1))
    peer = ReceptiveField(tmin, tmax, 1.0, estimator=1.0, fit_intercept=False)
    peer.fit(features, planted()[1])
    expected = np.zeros(N, bool)
    expected[peer.valid_samples_] = True
    np.testing.assert_array_equal(valid_rows(N, lags), expected)
    assert lags == tuple(peer.delays_)


@pytest.mark.parametrize("stretches", SEGMENTS)
def test_valid_rows_are_those_without_padding(stretches):
    segments, lags = SEGMENTS[stretches], LAGS["both"]
    full = slow_lagged(np.ones((N, 1)), lags, segments).all(1)
    np.testing.assert_array_equal(valid_rows(N, lags, segments), full)


@given(st.floats(-1, 1), st.floats(0, 2), st.sampled_from([64.0, 100.0, 128.0, 250.0]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_lags_in_seconds_are_rounded_as_mne_does(tmin, length, sfreq):
    from mne.decoding.receptive_field import _times_to_delays

    assert lags_of(tmin, tmin + length, sfreq) == tuple(_times_to_delays(tmin, tmin + length, sfreq))


def test_half_a_sample_is_rounded_to_even_as_mne_does():
    assert lags_of(0.5, 2.5, 1.0) == (0, 1, 2)


# Products without the delayed features.


@pytest.mark.parametrize("stretches", SEGMENTS)
@pytest.mark.parametrize("lags", LAGS.values(), ids=LAGS)
def test_products_equal_those_of_the_lagged_features(lags, stretches):
    features, responses = planted()
    segments = SEGMENTS[stretches]
    wide = slow_lagged(features, lags, segments)
    gram, cross = products(features, responses, lags, segments)
    np.testing.assert_allclose(gram, wide.T @ wide, rtol=0, atol=1e-10)
    np.testing.assert_allclose(cross, wide.T @ responses, rtol=0, atol=1e-10)


def test_products_in_float32_carry_its_rounding_only():
    features, responses = planted()
    lags, segments = LAGS["both"], SEGMENTS["three"]
    ours, expected = (
        products(features, responses, lags, segments, np.float32),
        products(features, responses, lags, segments),
    )
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * np.abs(other).max())


@given(st.lists(st.integers(1, N - 1), min_size=1, max_size=6), st.sampled_from([LAGS["both"], LAGS["past"]]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_segments_give_the_exact_gram(borders, lags):
    features, segments = planted()[0], np.searchsorted(np.sort(borders), np.arange(N), side="right") % 2
    with jax.enable_x64(True):
        ours = jit_gram(features, lags, segments, 7)
    assert n_segments_of(segments) <= 7
    wide = slow_lagged(features, lags, segments)
    np.testing.assert_allclose(ours, wide.T @ wide, rtol=0, atol=1e-10)


def test_lags_beyond_a_segment_are_empty():
    features, responses = planted()
    gram, cross = products(features, responses, (0, 28), SEGMENTS["three"])
    np.testing.assert_allclose(gram.reshape(3, 2, 3, 2)[:, 1], 0, atol=1e-10)
    np.testing.assert_array_equal(cross.reshape(3, 2, 2)[:, 1], 0)


def test_more_segments_than_said_give_nan():
    features, segments = planted()[0], SEGMENTS["three"]
    with jax.enable_x64(True):
        assert np.isnan(jit_gram(features, LAGS["past"], segments, 2)).all()
        exact = jit_gram(features, LAGS["past"], segments, 3)
        np.testing.assert_allclose(jit_gram(features, LAGS["past"], segments, 7), exact, rtol=1e-12)


def test_the_gram_needs_no_memory_for_the_lagged_features():
    """Rows, lags and features such that the lagged matrix would be 64 times the features."""
    features = jax.ShapeDtypeStruct((20_000, 2), np.float32)
    compiled = jax.jit(partial(lagged_gram, lags=tuple(range(64)))).lower(features).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20_000 * 2 * 64 * 4 / 4


# Response functions.


@pytest.mark.parametrize("stretches", SEGMENTS)
@pytest.mark.parametrize("lags", [LAGS["both"], LAGS["gaps"]], ids=["both", "gaps"])
@pytest.mark.parametrize("intercept", ["before", "bias", "none"])
def test_response_functions_equal_ridge_on_lagged_features(intercept, lags, stretches):
    features, responses = planted()
    segments = SEGMENTS[stretches]
    ours = fitted(features, responses, lags, ALPHAS, segments, intercept=intercept)
    if intercept == "before":
        shift, level = features.mean(0), responses.mean(0)
        wide, y = slow_lagged(features - shift, lags, segments), responses - level
    else:
        wide, y = slow_lagged(features, lags, segments), responses
    for place, alpha in enumerate(ALPHAS):
        peer = Peer(alpha=alpha, fit_intercept=intercept == "bias", solver="svd").fit(wide, y)
        coefs = peer.coef_.T.reshape(N_FEATURES, len(lags), N_TARGETS)
        np.testing.assert_allclose(ours.weights[place], coefs, atol=1e-9)
        expected = level - shift @ coefs.sum(1) if intercept == "before" else peer.intercept_ * np.ones(N_TARGETS)
        np.testing.assert_allclose(ours.intercept[place], expected, atol=1e-9)


def test_a_feature_at_3000_costs_float32_its_rounding_only():
    features, responses = (values.copy() for values in planted())
    features[:, 0] += 3000
    features = features.astype(np.float32).astype(np.float64)
    ours, expected = (
        fitted(features, responses, LAGS["both"], ALPHAS, SEGMENTS["three"], dtype).weights[:2]
        for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_bias_loses_no_digits_to_the_mean_of_long_features():
    """In float32, 30,000 rows at a mean of 20: products before centring are 400 times those after it."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((30_000, 1)) + 20).astype(np.float32)
    responses = (features + rng.standard_normal((30_000, 1))).astype(np.float32)
    wide = slow_shifts(features.astype(np.float64), (0, 1, 2))
    wide -= wide.mean(0)
    with jax.enable_x64(False):
        ours = jax.jit(lambda x, y: _products(x, y, (0, 1, 2), None, 1, "bias"))(features, responses)
    # A plain float32 sum of n such products is as good as eps * sqrt(n); centring afterwards would leave 400 times that.
    rounding = np.finfo(np.float32).eps * np.sqrt(30_000)
    np.testing.assert_allclose(ours.gram, wide.T @ wide, rtol=0, atol=rounding * 30_000)


def slow_shifts(values, lags):
    return np.concatenate([np.pad(values, ((lag, 0), (0, 0)))[: len(values)] for lag in lags], axis=1)


def test_a_penalty_per_target_equals_the_fits_one_by_one():
    features, responses = planted()
    lags, segments = LAGS["both"], SEGMENTS["three"]
    both = fitted(features, responses, lags, np.array([[0.5, 20.0]] * 3), segments)
    each = fitted(features, responses, lags, ALPHAS, segments)
    for target in range(N_TARGETS):
        np.testing.assert_allclose(both.weights[0, ..., target], each.weights[target, ..., target], atol=1e-12)
        np.testing.assert_allclose(both.intercept[0, target], each.intercept[target, target], atol=1e-12)


def test_repeated_features_without_a_penalty_share_the_shortest_weights():
    features, responses = planted()
    features = features[:, [0, 1, 0]]
    lags, segments = LAGS["both"], SEGMENTS["one"]
    ours = fitted(features, responses, lags, ALPHAS, segments, intercept="none").weights[2]
    expected = np.linalg.pinv(slow_lagged(features, lags, segments), rcond=1e-9) @ responses
    np.testing.assert_allclose(ours.reshape(-1, N_TARGETS), expected, atol=1e-8)


def test_padded_rows_in_a_segment_of_their_own_change_nothing():
    features, responses = planted()
    lags = LAGS["both"]
    bare = fitted(features, responses, lags, ALPHAS, SEGMENTS["three"], intercept="none")
    longer = [np.pad(values, ((0, 9), (0, 0))) for values in planted()]
    padded = fitted(*longer, lags, ALPHAS, np.append(SEGMENTS["three"], np.full(9, -1)), intercept="none")
    np.testing.assert_allclose(padded.weights, bare.weights, atol=1e-10)


def test_a_nan_target_is_nan_and_harms_no_other():
    features, responses = planted()
    broken = responses.copy()
    broken[7, 1] = np.nan
    ours = fitted(features, broken, LAGS["both"], ALPHAS, SEGMENTS["one"])
    bare = fitted(features, responses, LAGS["both"], ALPHAS, SEGMENTS["one"])
    assert np.isnan(ours.weights[..., 1]).all() and np.isnan(ours.intercept[:, 1]).all()
    np.testing.assert_allclose(ours.weights[..., 0], bare.weights[..., 0], atol=1e-12)


@pytest.mark.parametrize("stretches", SEGMENTS)
def test_predictions_equal_the_lagged_features_times_the_weights(stretches):
    features, _ = planted()
    lags, segments = LAGS["gaps"], SEGMENTS[stretches]
    weights = np.random.default_rng(0).standard_normal((N_FEATURES * len(lags), N_TARGETS))
    with jax.enable_x64(True):
        ours = predict_lagged(features, by_lag(weights, len(lags)), lags, segments)
    np.testing.assert_allclose(ours, slow_lagged(features, lags, segments) @ weights, atol=1e-11)


# Against peers.


def epochs(values):
    """Three epochs of 20 rows. (60, m) -> (20, 3, m), mne's order"""
    return np.swapaxes(values.reshape(3, 20, -1), 0, 1)


EPOCHS = np.repeat([0, 1, 2], 20)


@pytest.mark.parametrize(
    ("tmin", "tmax", "intercept"), [(0, 5, "none"), (-3, 2, "before"), (-4, -2, "before"), (2, 4, "none")]
)
def test_response_functions_equal_mne(tmin, tmax, intercept):
    from mne.decoding import TimeDelayingRidge

    features, responses = planted()
    is_centred = intercept == "before"
    peer = TimeDelayingRidge(tmin, tmax, 1.0, alpha=0.7, fit_intercept=is_centred)
    peer.fit(epochs(features), epochs(responses))
    ours = fitted(features, responses, lags_of(tmin, tmax, 1.0), [0.7], EPOCHS, intercept=intercept)
    np.testing.assert_allclose(np.moveaxis(ours.weights[0], 2, 0), peer.coef_, atol=1e-10)
    if is_centred:
        np.testing.assert_allclose(ours.intercept[0], peer.intercept_, atol=1e-10)


@pytest.mark.parametrize("regularization", [1e-3, 1.0, 100.0])
def test_response_functions_equal_mtrf(regularization):
    from mtrf.model import TRF

    features, responses = planted()
    sfreq = 10.0
    model = TRF()
    model.train(
        list(features.reshape(3, 20, -1)),
        list(responses.reshape(3, 20, -1)),
        sfreq,
        -0.2,
        0.3,
        regularization,
        verbose=False,
    )
    alpha = alpha_from_mtrf(regularization, sfreq, 3)
    ours = fitted(features, responses, lags_of(-0.2, 0.3, sfreq), [alpha], EPOCHS, intercept="bias")
    np.testing.assert_allclose(ours.weights[0], model.weights / sfreq, atol=1e-10)
    np.testing.assert_allclose(ours.intercept[0], model.bias[0] / sfreq, atol=1e-10)


def test_penalties_of_huth_are_squared():
    """Their ridge is V diag(s / (s^2 + a^2)) U'y; with normalpha, a is first multiplied by the largest s."""
    features, responses = (values - values.mean(0) for values in planted())
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    for largest in (None, singular[0]):
        theirs = 0.4 * (1 if largest is None else largest)
        expected = right.T @ ((singular / (singular**2 + theirs**2))[:, None] * (left.T @ responses))
        ours = Peer(alpha=alpha_from_huth(0.4, largest), fit_intercept=False).fit(features, responses).coef_.T
        np.testing.assert_allclose(ours, expected, atol=1e-12)


# Wrong input and platforms.


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lags_of(0, 1, 0), "sfreq=0 Hz"),
        (lambda: lags_of(0.3, 0.1, 100), "tmin_s=0.3 and tmax_s=0.1"),
        (lambda: lags_of(float("nan"), 0.1, 100), "tmin_s=nan"),
        (lambda: lagged(planted()[0], ()), "lags is empty"),
        (lambda: lagged(planted()[0], (0, 0.5)), r"lags=\(0, 0.5\): lags are distinct whole numbers"),
        (lambda: lagged(planted()[0], (1, 1)), r"lags=\(1, 1\)"),
        (lambda: lagged(planted()[0], (0,), np.zeros(7)), r"segments has shape \(7,\) and features has 60 rows"),
        (lambda: trf(planted()[0], planted()[1][:-1], (0,), ALPHAS), "features has 60 rows and responses has 59"),
        (lambda: trf(*planted(), (0,), ALPHAS, intercept="yes"), "intercept='yes' is not one of before, bias, none"),
        (lambda: predict_lagged(planted()[0], np.zeros((3, 2, 1)), (0,)), "weights has 2 lags and lags has 1"),
    ],
)
def test_wrong_input_is_named_with_its_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_response_functions_lower_for_accelerators(platform):
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in [(N, 3), (N, 2), (2,)]]
    segments = jax.ShapeDtypeStruct((N,), np.int32)
    step = jax.jit(
        lambda x, y, a, of: trf(x, y, LAGS["both"], a, of, n_segments=3, intercept="bias", platform=platform)
    )
    text = step.trace(*shapes, segments).lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in text
