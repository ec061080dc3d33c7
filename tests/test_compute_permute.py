"""The shared null: labellings are reproducible, counts and maxima are plain loops, padding and NaN stay where they are."""

import jax
import numpy as np
import oracles
import pytest

from jaxalign.compute import permute

pytestmark = pytest.mark.usefixtures("strict")

N_LABELLINGS, N_FITS, N_STATISTICS, N_TARGETS = 31, 2, 2, 6
FOLDS = np.zeros((N_FITS, 0, N_STATISTICS, N_TARGETS))


@pytest.fixture
def scores(rng):
    return rng.standard_normal((N_LABELLINGS, N_FITS, N_STATISTICS, N_TARGETS))


_summarise = jax.jit(permute.summarise, static_argnames=("tail",))


def summary(scores, tail="greater", dtype=np.float64, fold_scores=FOLDS, **null):
    made = oracles.null_of(np.zeros((len(scores), 4)), N_TARGETS, dtype, **null)
    with jax.enable_x64(dtype == np.float64):
        return jax.tree.map(np.asarray, _summarise(scores.astype(dtype), fold_scores.astype(dtype), made, tail=tail))


# Labellings.


def test_the_first_labelling_is_the_identity():
    np.testing.assert_array_equal(permute.labellings(9, 3, 0)[0], np.arange(9))


def test_every_labelling_holds_every_stimulus_once():
    rows = permute.labellings(9, 50, 0)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(9), (51, 1)))


def test_a_labelling_depends_on_its_index_and_not_on_how_many_there_are():
    np.testing.assert_array_equal(permute.labellings(12, 1000, 3)[:11], permute.labellings(12, 10, 3))


@pytest.mark.parametrize("other", [(12, 4), (13, 3)])
def test_labellings_depend_on_the_seed_and_on_the_number_of_stimuli(other):
    rows = permute.labellings(12, 20, 3)[1:, :12]
    different = permute.labellings(other[0], 20, other[1])[1:, :12]
    assert (rows != different).any(axis=1).all()


def test_labellings_place_every_stimulus_everywhere_equally_often():
    rows = permute.labellings(5, 4000, 0)[1:]
    share = np.array([[np.mean(rows[:, place] == stimulus) for place in range(5)] for stimulus in range(5)])
    np.testing.assert_allclose(share, 0.2, atol=4 * np.sqrt(0.2 * 0.8 / 4000))


def test_no_permutations_leave_the_identity_alone():
    assert permute.labellings(7, 0, 0).shape == (1, 7)


# Counts, z, maxima.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tail", ["greater", "two-sided"])
def test_exceedance_counts_equal_a_loop_exactly(scores, tail, dtype):
    ours = summary(scores, tail, dtype).exceed_count
    np.testing.assert_array_equal(ours, oracles.exceedances(scores, tail == "two-sided"))


def test_scores_equal_up_to_rounding_are_counted(scores):
    scores[4:9, 0, 0, 0] = scores[0, 0, 0, 0] * (1 - np.linspace(0, 5e-7, 5))
    ours = summary(scores, dtype=np.float32).exceed_count
    np.testing.assert_array_equal(ours, oracles.exceedances(scores))


def test_z_uses_mean_and_sd_of_all_labellings_with_the_observed_one(scores):
    np.testing.assert_allclose(summary(scores).z, oracles.calibrated(scores)[0], atol=1e-12)


def test_a_cell_whose_null_does_not_vary_has_z_zero(scores):
    scores[..., 2] = 0.25
    np.testing.assert_array_equal(summary(scores, dtype=np.float32).z[..., 2], 0)


@pytest.mark.parametrize("tail", ["greater", "two-sided"])
@pytest.mark.parametrize("is_calibrated", [True, False])
def test_family_maxima_equal_a_loop(scores, tail, is_calibrated):
    family = np.array([0, 1, 1, 0, 2, 1])
    ours = summary(scores, tail, family=family, n_families=3, is_calibrated=is_calibrated).maxima
    tested = oracles.calibrated(scores) if is_calibrated else scores
    tested = np.abs(tested) if tail == "two-sided" else tested
    for index in np.ndindex(N_FITS, N_STATISTICS, 3, N_LABELLINGS):
        fit, statistic, one, labelling = index
        expected = max(tested[labelling, fit, statistic, cell] for cell in range(N_TARGETS) if family[cell] == one)
        assert ours[index] == pytest.approx(expected, abs=1e-12)


def test_padding_cells_never_enter_maxima(scores):
    scores[..., 3] = 1e6
    scores[..., 4] = np.nan
    family = np.array([0, 0, 0, -1, -1, 0])
    ours = summary(scores, family=family, is_calibrated=False).maxima[:, :, 0]
    np.testing.assert_allclose(ours, np.moveaxis(scores[..., [0, 1, 2, 5]].max(-1), 0, 2))


def test_a_family_without_a_defined_score_has_no_maximum(scores):
    scores[..., 3] = np.nan
    family = np.array([0, 0, 0, 1, -1, 0])
    ours = summary(scores, family=family, n_families=3).maxima
    assert np.isneginf(ours[:, :, 1:]).all()
    assert np.isfinite(ours[:, :, 0]).all()


def test_a_nan_score_changes_no_bit_of_its_neighbours(scores):
    broken = scores.copy()
    broken[..., 3] = np.nan
    ours, bare = summary(broken), summary(scores)
    others = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(ours.z[..., others], bare.z[..., others])
    np.testing.assert_array_equal(ours.exceed_count[..., others], bare.exceed_count[..., others])
    assert np.isnan(ours.value[..., 3]).all()
    assert np.isnan(ours.z[..., 3]).all()


# Aggregates.


@pytest.fixture
def weights():
    """The mean of the first three targets, and a weighted sum of two of the others."""
    out = np.zeros((N_TARGETS, 2))
    out[:3, 0] = 1 / 3
    out[3:5, 1] = 0.25, 0.75
    return out


def test_aggregates_are_scored_in_every_labelling(scores, weights):
    ours = summary(scores, aggregates=weights)
    null = scores @ weights
    np.testing.assert_allclose(ours.value[..., -2:], null[0], atol=1e-12)
    np.testing.assert_allclose(ours.z[..., -2:], oracles.calibrated(null)[0], atol=1e-12)
    np.testing.assert_array_equal(ours.exceed_count[..., -2:], oracles.exceedances(null))


def test_two_sided_aggregates_average_before_the_sign_is_dropped(scores, weights):
    ours = summary(scores, "two-sided", aggregates=weights)
    np.testing.assert_array_equal(ours.exceed_count[..., -2:], oracles.exceedances(scores @ weights, two_sided=True))


def test_an_aggregate_of_a_nan_target_is_nan_and_the_others_are_not(scores, weights):
    broken = scores.copy()
    broken[..., 1] = np.nan
    ours, bare = summary(broken, aggregates=weights), summary(scores, aggregates=weights)
    assert np.isnan(ours.value[..., -2]).all()
    np.testing.assert_array_equal(ours.value[..., -1], bare.value[..., -1])
    np.testing.assert_array_equal(ours.exceed_count[..., -1], bare.exceed_count[..., -1])


def test_fold_scores_get_their_aggregates(scores, weights, rng):
    folds = rng.standard_normal((N_FITS, 4, N_STATISTICS, N_TARGETS))
    ours = summary(scores, fold_scores=folds, aggregates=weights).fold_value
    np.testing.assert_allclose(ours, np.concatenate([folds, folds @ weights], axis=-1), atol=1e-12)


def test_a_metric_without_penalties_says_nan(scores):
    ours = summary(scores)
    assert np.isnan(ours.alpha).all()
    assert np.isnan(ours.validation).all()
    np.testing.assert_array_equal(ours.edge, 0)


def test_over_labellings_applies_the_score_to_each_row():
    rows = permute.labellings(6, 4, 0)
    made = oracles.null_of(rows, 1, np.float32)
    values = np.arange(6, dtype=np.float32) ** 2
    ours = permute.over_labellings(lambda one: jax.numpy.asarray(values)[one], made)
    np.testing.assert_array_equal(np.asarray(ours), values[rows])
