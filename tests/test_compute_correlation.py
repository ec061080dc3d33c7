"""Correlation of one feature: equal to the definition, two-sided, and to the published cells of a real N400."""

import jax
import numpy as np
import oracles
import pytest
from oracles import null_of, scores_of

from jaxalign.compute import folds, inference
from jaxalign.compute.correlation import Correlation
from jaxalign.compute.permute import labellings
from jaxalign.contracts import Features, Responses

pytestmark = pytest.mark.usefixtures("strict")

METRIC = Correlation(n_permutations=40)
N, N_TARGETS = 30, 6
ROWS = labellings(N, 40, 2)


@pytest.fixture
def problem(rng):
    """Two features, the second made of few values; the first two targets follow the first feature, one inversely."""
    features = np.stack([rng.standard_normal(N), rng.integers(0, 3, N).astype(float)])
    responses = rng.standard_normal((N, N_TARGETS))
    responses[:, 0] += features[0]
    responses[:, 1] -= features[0]
    return features, responses


def run(features, responses, dtype=np.float64, rows=ROWS, **null):
    design = folds.design(folds.contiguous(responses.shape[0], 5), 2, 0)
    given = Features(features[:, :, None].astype(dtype), np.ones(len(features), np.int32))
    with jax.enable_x64(dtype == np.float64):
        made = null_of(rows, responses.shape[1], dtype, **null)
        return scores_of(METRIC, given, Responses(responses.astype(dtype)), design, made)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_scores_equal_the_definition(problem, dtype, atol):
    features, responses = problem
    expected = [oracles.correlation_null(one, responses, ROWS[:1])[0] for one in features]
    np.testing.assert_allclose(run(features, responses, dtype).value[:, 0], expected, atol=atol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exceedance_counts_are_two_sided_and_equal_the_definition_exactly(problem, dtype):
    features, responses = problem
    expected = [oracles.exceedances(oracles.correlation_null(one, responses, ROWS), two_sided=True) for one in features]
    np.testing.assert_array_equal(run(features, responses, dtype).exceed_count[:, 0], expected)


def test_the_sign_of_a_feature_changes_no_count(problem):
    features, responses = problem
    ours, bare = run(-features, responses), run(features, responses)
    np.testing.assert_array_equal(ours.exceed_count, bare.exceed_count)
    np.testing.assert_allclose(ours.value, -bare.value, atol=1e-13)


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_maxima_equal_the_definition(problem, is_calibrated):
    features, responses = problem
    ours = run(features, responses, is_calibrated=is_calibrated).maxima[:, 0, 0]
    for fit, one in enumerate(features):
        null = oracles.correlation_null(one, responses, ROWS)
        tested = np.abs(oracles.calibrated(null) if is_calibrated else null)
        np.testing.assert_allclose(ours[fit], tested.max(1), atol=1e-10)


def test_corrected_p_equals_a_plain_loop(problem):
    features, responses = problem
    ours = run(features, responses, is_calibrated=False)
    null = np.abs(oracles.correlation_null(features[0], responses, ROWS))
    p = inference.p_corrected(np.abs(ours.value[0, 0]), ours.maxima[0, 0, 0])
    np.testing.assert_allclose(p, oracles.max_corrected_p(null))


@pytest.mark.parametrize("unit", [1e-13, 1e-6, 1e6])
def test_units_change_no_score_and_no_count(problem, unit):
    features, responses = problem
    ours, bare = run(features / unit, responses * unit, np.float32), run(features, responses, np.float32)
    np.testing.assert_allclose(ours.value, bare.value, atol=1e-6)
    np.testing.assert_array_equal(ours.exceed_count, bare.exceed_count)


def test_an_offset_of_5000_costs_no_digits(problem):
    features, responses = ((values + 5000).astype(np.float32).astype(np.float64) for values in problem)
    expected = [oracles.correlation_null(one, responses, ROWS[:1])[0] for one in features]
    np.testing.assert_allclose(run(features, responses, np.float32).value[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.1, 5000.0])
def test_a_constant_side_has_no_score_and_harms_no_other(problem, level):
    features, responses = (values.copy() for values in problem)
    bare = run(features, responses, np.float32)
    features[1], responses[:, 2] = level, level
    ours = run(features, responses, np.float32).value[:, 0]
    np.testing.assert_array_equal(np.isnan(ours), [[False, False, True, False, False, False], [True] * 6])
    np.testing.assert_array_equal(ours[0, [0, 1, 3, 4, 5]], bare.value[0, 0, [0, 1, 3, 4, 5]])


def test_a_nan_response_does_not_leak(problem):
    features, responses = problem
    broken = responses.copy()
    broken[7, 3] = np.nan
    ours, bare = run(features, broken), run(features, responses)
    others = [0, 1, 2, 4, 5]
    assert np.isnan(ours.value[:, 0, 3]).all()
    np.testing.assert_array_equal(ours.exceed_count[..., others], bare.exceed_count[..., others])


def test_the_mean_over_subjects_has_its_own_null(problem):
    features, responses = problem
    weights = np.repeat(np.eye(2), 3, axis=0) / 3
    ours = run(features, responses, aggregates=weights)
    null = oracles.correlation_null(features[0], responses, ROWS) @ weights
    np.testing.assert_allclose(ours.value[0, 0, -2:], null[0], atol=1e-12)
    np.testing.assert_array_equal(ours.exceed_count[0, 0, -2:], oracles.exceedances(null, two_sided=True))


def test_a_whole_layer_is_refused_with_its_width():
    with pytest.raises(ValueError, match="width 1 and got 7"):
        METRIC.features_state(Features(np.zeros((1, 5, 7), np.float32), np.array([7], np.int32)), None, "cpu")


# Real data: FAS (association strength) of 200 word pairs against 32 channels x 60 samples.


@pytest.fixture(scope="module")
def n400(data_folder):
    """Feature, responses (n_stimuli, n_channels, n_samples), channel names and sample times."""
    import mne

    epochs = mne.read_epochs(data_folder / "n400" / "subject04-epo.fif", verbose="error")
    return epochs.metadata["FAS"].to_numpy()[None], epochs.get_data(copy=True), epochs.ch_names, epochs.times


@pytest.fixture(scope="module")
def grid(n400):
    """Scores of all 1,920 cells under 10,000 permutations, raw maxima."""
    features, responses, _, _ = n400
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return run(
            features,
            responses.reshape(200, -1),
            np.float32,
            rows=labellings(200, 10_000, 0),
            is_calibrated=False,
        )


def test_n400_window_mean_of_posterior_channels(n400):
    features, responses, channels, times = n400
    place = [channels.index(name) for name in ("P3", "Pz", "P4")]
    window = (times >= 0.30 - 1e-6) & (times < 0.47 - 1e-6)
    average = responses[:, place][:, :, window].mean((1, 2))
    value = run(features, average[:, None], np.float32, rows=np.arange(200)[None]).value
    assert window.sum() == 9
    assert value.item() == pytest.approx(0.32409, abs=1e-5)


def test_n400_largest_cell_is_po4_at_380_ms(n400, grid):
    _, _, channels, times = n400
    r = np.abs(grid.value[0, 0].reshape(32, 60))
    channel, time = np.unravel_index(r.argmax(), r.shape)
    assert (channels[channel], round(times[time], 2)) == ("PO4", 0.38)
    assert r.max() == pytest.approx(0.40588, abs=1e-5)
    assert r[:, times < 0].max() == pytest.approx(0.166, abs=5e-4)


def test_n400_critical_r_over_the_grid(grid):
    assert inference.critical(grid.maxima[0, 0, 0]) == pytest.approx(0.2805, abs=0.004)


def test_n400_significant_cells(n400, grid):
    _, _, channels, times = n400
    corrected = inference.p_corrected(np.abs(grid.value[0, 0]), grid.maxima[0, 0, 0]).reshape(32, 60)
    uncorrected = inference.p_value(grid.exceed_count[0, 0], 10_000)
    assert (corrected <= 0.05).sum() == pytest.approx(51, abs=4)
    assert (uncorrected <= 0.05).sum() == pytest.approx(230, abs=5)
    assert (corrected[:, times < 0] > 0.05).all()
    p4 = corrected[channels.index("P4"), np.argmin(np.abs(times - 0.34))]
    assert p4 == pytest.approx(0.050, abs=0.006)
