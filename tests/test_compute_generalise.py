"""Scores at other bins and on other subjects equal plain loops, scikit-learn and SciPy; NaN stays where it is."""

from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from jaxalign.compute import generalise, stats

pytestmark = pytest.mark.usefixtures("strict")

N, N_CHANNELS, N_TRAIN, N_BINS = 23, 3, 4, 5
N_SUBJECTS, N_TARGETS = 4, 6

_functions = {
    name: jax.jit(getattr(generalise, name)) for name in ("across_time", "across_subjects", "average_of_others")
}


def run(name, responses, predicted, is_row=None, dtype=np.float64):
    axis = 0 if name == "across_time" else 1
    is_row = np.ones(responses.shape[axis], bool) if is_row is None else is_row
    with jax.enable_x64(dtype == np.float64), jax.numpy_rank_promotion("raise"):
        out = np.asarray(_functions[name](responses.astype(dtype), predicted.astype(dtype), is_row))
    assert out.dtype == dtype
    return out


@cache
def recording():
    """Responses and weaker, shifted predictions of them: bins differ in mean, scale and how well they are predicted."""
    rng = np.random.default_rng(3)
    responses = rng.standard_normal((N, N_CHANNELS, N_BINS)) * rng.uniform(0.2, 3, N_BINS) + rng.uniform(-2, 2, N_BINS)
    predicted = 0.5 * responses[..., :N_TRAIN] + rng.standard_normal((N, N_CHANNELS, N_TRAIN)) + 0.3
    return responses, predicted


@cache
def subjects():
    rng = np.random.default_rng(4)
    shared = rng.standard_normal((N, N_TARGETS))
    responses = shared[None] + rng.standard_normal((N_SUBJECTS, N, N_TARGETS)) + 0.5
    predicted = 0.6 * shared[None] + 0.7 * rng.standard_normal((N_SUBJECTS, N, N_TARGETS))
    return responses, predicted


def slow_score(truth, guess):
    """Pearson r and r2 of two vectors by their definitions."""
    y, p = truth - truth.mean(), guess - guess.mean()
    return (y * p).sum() / np.sqrt((y**2).sum() * (p**2).sum()), 1 - ((truth - guess) ** 2).sum() / (y**2).sum()


def slow_time(responses, predicted):
    out = np.zeros((2, N_CHANNELS, predicted.shape[2], responses.shape[2]))
    for channel, train, test in np.ndindex(out.shape[1:]):
        out[:, channel, train, test] = slow_score(responses[:, channel, test], predicted[:, channel, train])
    return out


def slow_subjects(responses, predicted):
    out = np.zeros((2, N_SUBJECTS, N_SUBJECTS, N_TARGETS))
    for a, b, target in np.ndindex(out.shape[1:]):
        out[:, a, b, target] = slow_score(responses[b, :, target], predicted[a, :, target])
    return out


def slow_average(responses, predicted):
    out = np.zeros((2, N_SUBJECTS, N_TARGETS))
    for b, target in np.ndindex(out.shape[1:]):
        others = np.mean([predicted[a, :, target] for a in range(N_SUBJECTS) if a != b], axis=0)
        out[:, b, target] = slow_score(responses[b, :, target], others)
    return out


SLOW = {"across_time": slow_time, "across_subjects": slow_subjects, "average_of_others": slow_average}


def data_of(name):
    return recording() if name == "across_time" else subjects()


# Against definitions and peers.


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", SLOW)
def test_every_score_equals_its_definition(name, dtype, atol):
    np.testing.assert_allclose(run(name, *data_of(name), dtype=dtype), SLOW[name](*data_of(name)), atol=atol)


def test_temporal_generalisation_equals_scikit_learn_fitted_at_each_bin_and_scored_at_every_bin(rng):
    features, responses = rng.standard_normal((60, 7)), rng.standard_normal((60, N_CHANNELS, N_BINS))
    responses[..., :3] += (features @ rng.standard_normal((7, N_CHANNELS)))[..., None]
    train, test = slice(N, 60), slice(0, N)
    predicted = np.zeros((N, N_CHANNELS, N_BINS))
    expected = np.zeros((2, N_CHANNELS, N_BINS, N_BINS))
    for channel, at, to in np.ndindex(N_CHANNELS, N_BINS, N_BINS):
        fitted = Ridge(alpha=3.0).fit(features[train], responses[train, channel, at])
        predicted[:, channel, at] = fitted.predict(features[test])
        truth = responses[test, channel, to]
        expected[:, channel, at, to] = (
            pearsonr(truth, predicted[:, channel, at]).statistic,
            r2_score(truth, predicted[:, channel, at]),
        )
    np.testing.assert_allclose(run("across_time", responses[test], predicted), expected, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_the_diagonal_is_the_ordinary_score(dtype, atol):
    responses, predicted = (x[..., :N_TRAIN].astype(dtype) for x in recording())
    ours = np.einsum("sctt->sct", run("across_time", responses, predicted, dtype=dtype))
    flat, rows = (N, N_CHANNELS * N_TRAIN), np.ones(N, bool)
    with jax.enable_x64(dtype == np.float64):
        plain = [score(responses.reshape(flat), predicted.reshape(flat), rows) for score in (stats.pearson, stats.r2)]
    np.testing.assert_allclose(ours, np.reshape(plain, ours.shape), atol=atol)


def test_other_subjects_average_without_a_subjects_own_score():
    transfer = slow_subjects(*subjects())
    expected = [
        [transfer[s, [a for a in range(N_SUBJECTS) if a != b], b].mean(0) for b in range(N_SUBJECTS)] for s in (0, 1)
    ]
    with jax.enable_x64(True):
        np.testing.assert_allclose(generalise.mean_of_others(transfer), expected, atol=1e-13)


def test_the_average_of_others_predicts_better_than_its_members():
    """For predictions of one SD and a positive mean r the r of the average is at or above the mean r, exactly."""
    responses, predicted = subjects()
    predicted = (predicted - predicted.mean(1, keepdims=True)) / predicted.std(1, keepdims=True)
    with jax.enable_x64(True):
        members = np.asarray(generalise.mean_of_others(slow_subjects(responses, predicted)))[0]
    average = run("average_of_others", responses, predicted)[0]
    assert (members > 0).mean() > 0.9
    assert (average > members)[members > 0].all()


# Invariances.


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shift=st.floats(-1e3, 1e3), unit=st.sampled_from([1e-13, 1e-6, 1.0, 1e4]))
def test_a_common_offset_and_unit_change_nothing(shift, unit):
    moved = [(x + shift) * unit for x in recording()]
    np.testing.assert_allclose(run("across_time", *moved), slow_time(*recording()), rtol=1e-9, atol=1e-9)


def test_teslas_on_an_offset_keep_their_digits_in_float32():
    """The offset is 100 SD, so the inputs themselves are rounded to 6e-6 SD."""
    responses, predicted = (((x + 100) * 1e-13).astype(np.float32) for x in recording())
    expected = slow_time(responses.astype(np.float64), predicted.astype(np.float64))
    ours = run("across_time", responses, predicted, dtype=np.float32)
    np.testing.assert_allclose(ours[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SLOW)
def test_padded_rows_do_not_matter_even_if_they_hold_nan(name):
    axis = 0 if name == "across_time" else 1
    pad = [(0, 0)] * 3
    pad[axis] = (0, 3)
    padded = [np.pad(x, pad, constant_values=np.nan) for x in data_of(name)]
    ours = run(name, *padded, np.arange(N + 3) < N)
    np.testing.assert_allclose(ours, SLOW[name](*data_of(name)), atol=1e-12)


@pytest.mark.parametrize("name", SLOW)
def test_scores_of_folds_are_averaged_and_stimuli_never_pooled(name):
    axis = 0 if name == "across_time" else 1
    sizes, whole = (9, 14), data_of(name)
    parts = [np.split(x, [sizes[0]], axis=axis) for x in whole]
    expected = np.mean([SLOW[name](*fold) for fold in zip(*parts, strict=True)], axis=0)
    pads = [[(0, max(sizes) - size) if place == axis else (0, 0) for place in range(3)] for size in sizes]
    folds = [np.stack([np.pad(part, pad) for part, pad in zip(split, pads, strict=True)]) for split in parts]
    is_row = np.arange(max(sizes)) < np.array(sizes)[:, None]
    with jax.enable_x64(True):
        ours = np.asarray(generalise.over_folds(getattr(generalise, name), *folds, is_row))
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert np.abs(ours - SLOW[name](*whole)).max() > 0.01


# Undefined scores.


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_bin_that_is_constant_or_holds_nan_is_nan_as_a_test_bin_only(value):
    responses, predicted = (x.copy() for x in recording())
    responses[0 if np.isnan(value) else slice(None), 1, 2] = value
    is_nan = np.isnan(run("across_time", responses, predicted))
    expected = np.zeros_like(is_nan)
    expected[:, 1, :, 2] = True
    np.testing.assert_array_equal(is_nan, expected)


def test_a_constant_prediction_has_r_zero_and_the_r2_of_its_gap():
    responses, predicted = (x.copy() for x in recording())
    predicted[:, 1, 2] = 0.25
    responses[:, 1, 4] = 1.0
    ours = run("across_time", responses, predicted)[:, 1, 2]
    np.testing.assert_array_equal(ours[0], [0, 0, 0, 0, np.nan])
    np.testing.assert_allclose(
        ours[1, :4], [r2_score(responses[:, 1, t], np.full(N, 0.25)) for t in range(4)], atol=1e-12
    )


def test_a_prediction_with_nan_scores_nan():
    responses, predicted = (x.copy() for x in recording())
    predicted[3, 0, 1] = np.nan
    is_nan = np.isnan(run("across_time", responses, predicted))
    assert is_nan[:, 0, 1].all()
    assert is_nan.sum() == 2 * N_BINS


def test_a_missing_target_of_one_subject_is_missing_for_it_alone():
    responses, predicted = (x.copy() for x in subjects())
    responses[1, 4, 3] = np.nan
    transfer = run("across_subjects", responses, predicted)
    assert np.isnan(transfer[:, :, 1, 3]).all()
    assert np.isnan(transfer).sum() == 2 * N_SUBJECTS
    with jax.enable_x64(True):
        others = np.asarray(generalise.mean_of_others(transfer))
    for scores in (others, run("average_of_others", responses, predicted)):
        np.testing.assert_array_equal(np.argwhere(np.isnan(scores[0])), [[1, 3]])


def test_a_subject_without_predictions_does_not_hide_its_own_transfer_from_others():
    """Its weights are missing, so all others lose their average; what others predict of it is still there."""
    responses, predicted = (x.copy() for x in subjects())
    predicted[2, :, 0] = np.nan
    transfer = run("across_subjects", responses, predicted)
    with jax.enable_x64(True):
        others = np.asarray(generalise.mean_of_others(transfer))
    for scores in (others, run("average_of_others", responses, predicted)):
        np.testing.assert_array_equal(np.isnan(scores[0, :, 0]), [True, True, False, True])


# Refusals.


def test_other_stimuli_or_channels_are_refused():
    with pytest.raises(ValueError, match=r"\(23, 3, 5\) and predictions \(22, 3, 4\): both need the same test stimuli"):
        run("across_time", recording()[0], recording()[1][:-1])


def test_one_subject_is_refused():
    with pytest.raises(ValueError, match="1 subject: transfer between subjects needs at least 2"):
        run("across_subjects", *(x[:1] for x in subjects()))


def test_other_shapes_of_subjects_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 23, 6\) and predictions \(3, 23, 6\): both need the same subjects"):
        run("average_of_others", subjects()[0], subjects()[1][:3])


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", SLOW)
def test_every_score_lowers_for_accelerators(name, platform):
    shapes = [jax.ShapeDtypeStruct(x.shape, np.float32) for x in data_of(name)]
    traced = _functions[name].trace(*shapes, jax.ShapeDtypeStruct((N,), np.bool_))
    assert "stablehlo" in traced.lower(lowering_platforms=(platform,)).as_text()
