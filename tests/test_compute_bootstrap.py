"""Bootstrap samples equal scores of repeated rows; intervals equal SciPy's and cover what they say they cover."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import r2_score

from jaxalign.compute import bootstrap

pytestmark = pytest.mark.usefixtures("strict")

SIZES, N_TEST, N_TARGETS, N_SAMPLES, N_SUBJECTS = (14, 17), 19, 3, 50, 7
IS_ROW = np.arange(N_TEST) < np.array(SIZES)[:, None]

_compiled = {
    name: jax.jit(getattr(bootstrap, name), static_argnames=statics)
    for name, statics in {
        "stimulus_scores": (),
        "stimulus_samples": ("samples_per_chunk",),
        "stimulus_influence": (),
        "stimulus_intervals": ("level", "method", "targets_per_chunk"),
        "subject_samples": (),
        "subject_influence": (),
        "subject_intervals": ("level", "method"),
        "joint_samples": (),
        "joint_intervals": ("level", "method", "targets_per_chunk"),
        "interval": ("level", "method"),
    }.items()
}


def call(name, *arrays, dtype=np.float64, **settings):
    settings = {key: x.astype(dtype) if isinstance(x, np.ndarray) else x for key, x in settings.items()}
    with jax.enable_x64(dtype == np.float64):
        given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in map(np.asarray, arrays)]
        out = np.asarray(_compiled[name](*given, **settings))
    assert out.dtype == dtype
    return out


@cache
def data(n_subjects=None):
    """Responses and predictions of two padded folds; padding holds NaN."""
    rng = np.random.default_rng(11)
    shape = (*([n_subjects] if n_subjects else []), len(SIZES), N_TEST, N_TARGETS)
    predicted = rng.standard_normal(shape)
    responses = [2, 0.5, 0] * predicted + rng.standard_normal(shape) + [0, 3, -1]
    blank = np.where(IS_ROW[:, :, None], 0, np.nan)
    return responses + blank, predicted + blank


@cache
def counts():
    return bootstrap.stimulus_counts(IS_ROW, N_SAMPLES, 5)


def slow_sample(responses, predicted, times):
    """Mean over folds of SciPy's r and scikit-learn's r2 of rows repeated as often as they were drawn."""
    out = np.zeros((2, N_TARGETS))
    for fold, target in np.ndindex(len(SIZES), N_TARGETS):
        truth = np.repeat(responses[fold, :, target], times[fold])
        guess = np.repeat(predicted[fold, :, target], times[fold])
        out[:, target] += stats.pearsonr(truth, guess).statistic, r2_score(truth, guess)
    return out / len(SIZES)


@cache
def slow_samples():
    return np.stack([slow_sample(*data(), times) for times in counts()])


# Draws.


def test_each_fold_keeps_its_number_of_stimuli_and_padding_is_never_drawn():
    np.testing.assert_array_equal(counts().sum(2), np.tile(SIZES, (N_SAMPLES, 1)))
    assert counts()[:, ~IS_ROW].sum() == 0


def test_a_sample_depends_on_its_index_and_not_on_how_many_there_are():
    np.testing.assert_array_equal(bootstrap.stimulus_counts(IS_ROW, 9, 5), counts()[:9])
    np.testing.assert_array_equal(bootstrap.subject_counts(8, 9, 5), bootstrap.subject_counts(8, 30, 5)[:9])
    assert (bootstrap.stimulus_counts(IS_ROW, 9, 6) != counts()[:9]).any()


def test_padding_does_not_change_a_draw():
    np.testing.assert_array_equal(bootstrap.stimulus_counts(IS_ROW[:, :17], 9, 5), counts()[:9, :, :17])


def test_folds_of_one_size_draw_their_own_samples():
    drawn = bootstrap.stimulus_counts(np.ones((2, 40), bool), 20, 0)
    assert (drawn[:, 0] != drawn[:, 1]).any(axis=1).all()


def test_counts_have_the_mean_and_variance_of_draws_with_replacement():
    drawn = bootstrap.subject_counts(10, 4000, 0)
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.07)
    np.testing.assert_allclose(drawn.var(0), 0.9, atol=0.12)


def test_every_sample_of_stimuli_has_three_distinct_ones():
    drawn = bootstrap.stimulus_counts(np.ones((1, 8), bool), 4000, 0)
    assert np.count_nonzero(drawn, axis=2).min() == 3


def test_five_subjects_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"5 subjects: a bootstrap over subjects needs 6.*to stimuli, not to subjects"):
        bootstrap.subject_counts(5, 10, 0)


def test_a_fold_with_few_stimuli_is_refused():
    with pytest.raises(ValueError, match="Fold 1 has 5 test stimuli: a bootstrap over stimuli needs 8"):
        bootstrap.stimulus_counts(np.arange(9) < np.array([[9], [5]]), 10, 0)


# Samples against repeated rows.


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("samples_per_chunk", [16, 256])
def test_samples_are_scores_of_repeated_rows(samples_per_chunk, dtype, atol):
    ours = call("stimulus_samples", *data(), IS_ROW, counts(), samples_per_chunk=samples_per_chunk, dtype=dtype)
    np.testing.assert_allclose(ours, slow_samples(), atol=atol)


def test_drawing_every_stimulus_once_gives_the_observed_scores():
    once = IS_ROW[None].astype(np.int32)
    observed = call("stimulus_scores", *data(), IS_ROW)
    np.testing.assert_allclose(call("stimulus_samples", *data(), IS_ROW, once)[0], observed, atol=1e-13)
    np.testing.assert_allclose(observed, slow_sample(*data(), once[0]), atol=1e-12)


def test_counts_of_padded_rows_are_ignored():
    ours = call("stimulus_samples", *data(), IS_ROW, np.where(IS_ROW[None], counts(), 3))
    np.testing.assert_allclose(ours, slow_samples(), atol=1e-12)


def test_volts_on_an_offset_keep_their_digits_in_float32():
    """The offset is about 100 SD: the inputs are rounded to 6e-6 SD, and compared as rounded."""
    responses, predicted = (((x + 100) * 1e-7).astype(np.float32) for x in data())
    exact = call("stimulus_samples", responses.astype(float), predicted.astype(float), IS_ROW, counts())
    ours = call("stimulus_samples", responses, predicted, IS_ROW, counts(), dtype=np.float32)
    np.testing.assert_allclose(ours, exact, rtol=2e-5, atol=2e-5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(shift=st.floats(-100, 100), unit=st.sampled_from([1e-13, 1e-6, 1e4]))
def test_a_common_offset_and_unit_change_no_sample(shift, unit):
    moved = [(x + shift) * unit for x in data()]
    np.testing.assert_allclose(call("stimulus_samples", *moved, IS_ROW, counts()), slow_samples(), atol=1e-9)


def test_leaving_a_stimulus_out_gives_the_jackknife():
    expected = np.zeros((len(SIZES), N_TEST, 2, N_TARGETS))
    for fold, size in enumerate(SIZES):
        left = []
        for row in range(size):
            times = IS_ROW.astype(int)
            times[fold, row] = 0
            left.append(slow_sample(*data(), times))
        expected[fold, :size] = (np.mean(left, axis=0) - left) * (size - 1) / size
    ours = call("stimulus_influence", *data(), IS_ROW)
    np.testing.assert_allclose(ours, expected.reshape(ours.shape), atol=1e-12)


def test_samples_of_subjects_are_means_of_repeated_subjects(rng):
    scores, times = rng.standard_normal((N_SUBJECTS, 2, 3)), bootstrap.subject_counts(N_SUBJECTS, 20, 1)
    expected = [np.repeat(scores, row, axis=0).mean(0) for row in times]
    np.testing.assert_allclose(call("subject_samples", scores, times), expected, atol=1e-14)


def test_joint_samples_score_resampled_subjects_on_the_same_resampled_stimuli():
    responses, predicted = data(N_SUBJECTS)
    of_subjects = bootstrap.subject_counts(N_SUBJECTS, 20, 1)
    expected = np.zeros((20, 2, N_TARGETS))
    for index in range(20):
        for subject in np.repeat(np.arange(N_SUBJECTS), of_subjects[index]):
            expected[index] += slow_sample(responses[subject], predicted[subject], counts()[index]) / N_SUBJECTS
    ours = call("joint_samples", responses, predicted, IS_ROW, counts()[:20], of_subjects)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


# Intervals against SciPy.


def scipys(data, statistic, method, n_samples=300, **settings):
    return stats.bootstrap(
        data,
        statistic,
        n_resamples=n_samples,
        method=method,
        vectorized=False,
        rng=np.random.default_rng(0),
        confidence_level=0.9,
        **settings,
    )


def r_of(fold, responses, predicted, rows):
    return np.corrcoef(responses[fold, rows, 0], predicted[fold, rows, 0])[0, 1]


@pytest.mark.parametrize("method", bootstrap.METHODS)
def test_intervals_over_the_stimuli_of_two_folds_equal_scipys_for_two_samples(method):
    def statistic(first, second):
        return (r_of(0, *data(), first) + r_of(1, *data(), second)) / 2

    theirs = scipys([np.arange(size) for size in SIZES], statistic, method)
    influence = call("stimulus_influence", *data(), IS_ROW)[:, 0, :1]
    observed = call("stimulus_scores", *data(), IS_ROW)[0, :1]
    samples = theirs.bootstrap_distribution[:, None]
    ours = call("interval", samples, observed, level=0.9, method=method, influence=influence)
    np.testing.assert_allclose(ours[:, 0], theirs.confidence_interval, atol=1e-12)


@pytest.mark.parametrize("method", bootstrap.METHODS)
def test_intervals_over_subjects_equal_scipys(method, rng):
    scores = rng.exponential(size=9)
    theirs = scipys((scores,), np.mean, method)
    samples, influence = theirs.bootstrap_distribution[:, None], call("subject_influence", scores[:, None])
    ours = call("interval", samples, scores.mean(keepdims=True), level=0.9, method=method, influence=influence)
    np.testing.assert_allclose(ours[:, 0], theirs.confidence_interval, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_tiles_of_targets_give_the_interval_of_all_samples(dtype):
    samples = call("stimulus_samples", *data(), IS_ROW, counts())
    observed, influence = (call(f"stimulus_{name}", *data(), IS_ROW) for name in ("scores", "influence"))
    expected = call("interval", samples, observed, level=0.9, influence=influence)
    tiled = partial(call, "stimulus_intervals", *data(), IS_ROW, counts(), level=0.9, dtype=dtype)
    np.testing.assert_allclose(tiled(targets_per_chunk=2), expected, atol=1e-12 if dtype == np.float64 else 1e-5)


def test_the_joint_interval_leaves_out_each_stimulus_and_each_subject():
    responses, predicted = data(N_SUBJECTS)
    of_subjects = bootstrap.subject_counts(N_SUBJECTS, N_SAMPLES, 1)
    scores = np.stack([call("stimulus_scores", *one, IS_ROW) for one in zip(responses, predicted, strict=True)])
    parts = [call("stimulus_influence", *one, IS_ROW) for one in zip(responses, predicted, strict=True)]
    influence = np.concatenate([np.mean(parts, axis=0), call("subject_influence", scores)])
    samples = call("joint_samples", responses, predicted, IS_ROW, counts(), of_subjects)
    expected = call("interval", samples, scores.mean(0), level=0.9, influence=influence)
    ours = call("joint_intervals", responses, predicted, IS_ROW, counts(), of_subjects, level=0.9, targets_per_chunk=2)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_paired_differences_are_narrower_than_unpaired_ones():
    """Two models that predict nearly the same: drawing the same stimuli for both removes what they share."""
    responses, predicted = data()
    other = predicted + 0.1 * np.random.default_rng(0).standard_normal(predicted.shape)
    first = call("stimulus_samples", responses, predicted, IS_ROW, counts())
    paired = call("stimulus_samples", responses, other, IS_ROW, counts()) - first
    apart = call("stimulus_samples", responses, other, IS_ROW, counts()[::-1]) - first
    assert (paired.std(0) < 0.5 * apart.std(0)).all()
    observed, influence = (
        call(f"stimulus_{name}", responses, other, IS_ROW) - call(f"stimulus_{name}", responses, predicted, IS_ROW)
        for name in ("scores", "influence")
    )
    low, high = call("interval", paired, observed, level=0.9, influence=influence)
    assert ((low < observed) & (observed < high)).all()


# Undefined scores.


def test_a_nan_or_constant_target_has_nan_samples_and_a_nan_interval():
    responses, predicted = (x.copy() for x in data())
    responses[1, 2, 0] = np.nan
    responses[0, :, 1] = 4.0
    samples = call("stimulus_samples", responses, predicted, IS_ROW, counts())
    assert np.isnan(samples[..., :2]).all()
    np.testing.assert_array_equal(samples[..., 2], call("stimulus_samples", *data(), IS_ROW, counts())[..., 2])
    ends = call("stimulus_intervals", responses, predicted, IS_ROW, counts(), level=0.9, targets_per_chunk=2)
    np.testing.assert_array_equal(np.isnan(ends).all((0, 1)), [True, True, False])


def test_a_constant_prediction_has_r_zero_in_every_sample():
    responses, predicted = (x.copy() for x in data())
    predicted[:, :, 1] = 0.3
    samples = call("stimulus_samples", responses, predicted, IS_ROW, counts())
    np.testing.assert_array_equal(samples[:, 0, 1], 0)
    assert np.isfinite(samples[:, 1, 1]).all()


def test_a_prediction_with_nan_is_not_taken_for_a_constant():
    responses, predicted = (x.copy() for x in data())
    predicted[0, 3, 1] = np.nan
    assert np.isnan(call("stimulus_samples", responses, predicted, IS_ROW, counts())[..., 1]).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_target_that_is_constant_in_one_sample_is_nan_there_alone(dtype):
    """A target of 0.1 and 0.7: the drawn stimuli all have 0.7 in the first sample."""
    responses, predicted = (x.copy() for x in data())
    responses[:, :, 0] = np.where(np.arange(N_TEST) % 2, 0.7, 0.1)
    times = counts()[:3].copy()
    times[0, 0] = np.where(IS_ROW[0] & (np.arange(N_TEST) % 2 == 1), 2, 0)
    is_nan = np.isnan(call("stimulus_samples", responses, predicted, IS_ROW, times, dtype=dtype))
    expected = np.zeros_like(is_nan)
    expected[0, :, 0] = True
    np.testing.assert_array_equal(is_nan, expected)


def test_a_nan_subject_makes_its_cell_nan(rng):
    scores = rng.standard_normal((N_SUBJECTS, 2))
    scores[3, 1] = np.nan
    ends = call("subject_intervals", scores, bootstrap.subject_counts(N_SUBJECTS, 100, 0))
    np.testing.assert_array_equal(np.isnan(ends), [[False, True], [False, True]])


def test_bca_says_nothing_when_all_samples_lie_on_one_side(rng):
    samples, influence = rng.uniform(1, 2, (100, 2)), rng.standard_normal((9, 2))
    ends = call("interval", samples, np.array([0.5, 1.5]), influence=influence)
    np.testing.assert_array_equal(np.isnan(ends), [[True, False], [True, False]])


def test_bca_says_nothing_where_its_correction_has_a_pole():
    """One stimulus decides (acceleration 1/6), one sample in 10,000 lies above: 1 - a (z0 + z) is negative at .995."""
    samples, influence = np.linspace(0, 1, 10_000)[:, None], np.eye(9)[:, :1]
    ends = partial(call, "interval", samples, np.array([0.99995]), influence=influence)
    assert np.isnan(ends(level=0.995)).all()
    assert np.isfinite(ends(level=0.95)).all()


def test_samples_that_equal_the_score_but_for_rounding_give_an_interval_of_no_width():
    samples = np.full((100, 1), np.nextafter(0.25, 1))
    ends = call("interval", samples, np.array([0.25]), influence=np.zeros((9, 1)))
    np.testing.assert_allclose(ends, [[0.25], [0.25]], rtol=1e-15)


# Refusals.


def test_settings_that_give_no_interval_are_refused():
    samples, observed = np.zeros((50, 2)), np.zeros(2)
    with pytest.raises(ValueError, match=r"method='percentiles' is not an interval. Nearest: percentile"):
        bootstrap.interval(samples, observed, method="percentiles")
    with pytest.raises(ValueError, match=r"level=95: a level lies between 0 and 1"):
        bootstrap.interval(samples, observed, level=95, method="percentile")
    with pytest.raises(ValueError, match=r"50 bootstrap samples .* level=0.99. Draw at least 200"):
        bootstrap.interval(samples, observed, level=0.99, method="percentile")
    with pytest.raises(ValueError, match="method='bca' needs influence="):
        bootstrap.interval(samples, observed)


def test_shapes_that_disagree_are_refused():
    responses, predicted = data()
    with pytest.raises(ValueError, match=r"\(2, 19, 3\), predictions \(2, 18, 3\) and rows \(2, 19\)"):
        bootstrap.stimulus_samples(responses, predicted[:, 1:], IS_ROW, counts())
    with pytest.raises(ValueError, match=r"counts are for \(2, 18\) folds and test stimuli, the data have \(2, 19\)"):
        bootstrap.stimulus_samples(responses, predicted, IS_ROW, counts()[:, :, 1:])
    with pytest.raises(ValueError, match=r"4 subjects have data and counts have shape \(9, 7\)"):
        bootstrap.subject_samples(np.zeros((4, 2)), bootstrap.subject_counts(7, 9, 0))
    with pytest.raises(ValueError, match="50 samples of stimuli and 9 of subjects"):
        bootstrap.joint_samples(*data(N_SUBJECTS), IS_ROW, counts(), bootstrap.subject_counts(N_SUBJECTS, 9, 0))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_joint_interval_lowers_for_accelerators(platform):
    shape = jax.ShapeDtypeStruct((N_SUBJECTS, *IS_ROW.shape, N_TARGETS), np.float32)
    of_stimuli = jax.ShapeDtypeStruct((N_SAMPLES, *IS_ROW.shape), np.int32)
    of_subjects = jax.ShapeDtypeStruct((N_SAMPLES, N_SUBJECTS), np.int32)
    rows = jax.ShapeDtypeStruct(IS_ROW.shape, np.bool_)
    traced = _compiled["joint_intervals"].trace(shape, shape, rows, of_stimuli, of_subjects, level=0.9)
    assert "stablehlo" in traced.lower(lowering_platforms=(platform,)).as_text()


# Coverage: the share of simulated data sets, one per cell, whose interval holds the true score.


def share_covered(ends, truth):
    return np.mean((ends[0] <= truth) & (truth <= ends[1]))


def subject_coverage(n_subjects, n_sets, method, n_samples=1000, seed=0):
    """Scores are tanh of normal deviates, skewed as correlations are."""
    rng = np.random.default_rng(seed)
    truth = np.tanh(rng.normal(0.4, 0.3, 2_000_000)).mean()
    scores = np.tanh(rng.normal(0.4, 0.3, (n_subjects, n_sets)))
    ends = call("subject_intervals", scores, bootstrap.subject_counts(n_subjects, n_samples, seed), method=method)
    return share_covered(ends, truth)


def predicted_data(rng, *shape):
    """Responses and predictions with correlation .5, of the best scale, so that the r2 of many stimuli is .25."""
    predicted = 0.5 * rng.standard_normal(shape)
    return predicted + np.sqrt(0.75) * rng.standard_normal(shape), predicted


def stimulus_coverage(n_folds, n_test, n_sets, method, n_samples=1000, seed=0):
    """Coverage of the r and of the r2 that is expected of a fold of this size."""
    rows = np.ones((n_folds, n_test), bool)
    many = predicted_data(np.random.default_rng(seed + 1), 1, n_test, 100_000)
    truth = call("stimulus_scores", *many, rows[:1]).mean(1)
    responses, predicted = predicted_data(np.random.default_rng(seed), n_folds, n_test, n_sets)
    drawn = bootstrap.stimulus_counts(rows, n_samples, seed)
    ends = call("stimulus_intervals", responses, predicted, rows, drawn, method=method)
    return [share_covered(ends[:, place], truth[place]) for place in (0, 1)]


def test_intervals_of_the_mean_over_subjects_cover_it():
    assert abs(subject_coverage(24, 300, "bca") - 0.95) <= 0.04


@pytest.mark.slow
@pytest.mark.parametrize("method", bootstrap.METHODS)
def test_intervals_over_subjects_cover_at_each_number_of_subjects(method):
    """Few subjects make intervals too short; these are the numbers that the docstring of subject_intervals tells."""
    measured = [subject_coverage(n_subjects, 2000, method) for n_subjects in (6, 10, 24, 60)]
    np.testing.assert_allclose(measured, [0.86, 0.89, 0.93, 0.94], atol=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("method", bootstrap.METHODS)
def test_intervals_over_stimuli_cover_r_and_r2(method):
    np.testing.assert_allclose(stimulus_coverage(1, 150, 1000, method), 0.95, atol=0.025)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "of_r2"), [("bca", 0.88), ("percentile", 0.92)])
def test_small_folds_make_intervals_of_r2_too_short(method, of_r2):
    """Five folds of 20: the numbers that the docstring of stimulus_intervals tells."""
    np.testing.assert_allclose(stimulus_coverage(5, 20, 1000, method), [0.94, of_r2], atol=0.015)
