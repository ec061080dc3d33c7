"""p values: the count with the observed labelling in it, never below its floor, corrected by a plain maximum."""

import numpy as np
import oracles
import pytest

from jaxalign.compute import inference


def test_p_is_the_share_of_labellings_that_reach_the_observed_one_itself_included():
    np.testing.assert_allclose(inference.p_value(np.array([0, 4, 99]), 99), [0.01, 0.05, 1.0])


def test_p_never_goes_below_its_floor():
    assert inference.p_value(np.array(0), 999) == inference.p_floor(999) == 1 / 1000


def test_without_permutations_nothing_has_a_p():
    assert np.isnan(inference.p_value(np.zeros(3, np.int32), 0)).all()
    assert np.isnan(inference.p_floor(0))
    assert np.isnan(inference.p_corrected(np.zeros(3), np.zeros(1))).all()
    assert np.isnan(inference.critical(np.zeros(1)))


@pytest.fixture
def tested(rng):
    """Eighty labellings of twelve cells; the first cell is planted."""
    scores = rng.standard_normal((80, 12))
    scores[0, 0] = 6
    return scores


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corrected_p_equals_a_loop(tested, dtype):
    values = tested.astype(dtype)
    np.testing.assert_allclose(inference.p_corrected(values[0], values.max(1)), oracles.max_corrected_p(tested))


def test_corrected_p_of_a_planted_cell_is_the_floor(tested):
    assert inference.p_corrected(tested[0], tested.max(1))[0] == 1 / 80


def test_corrected_p_is_never_below_the_uncorrected_p(tested):
    uncorrected = inference.p_value(oracles.exceedances(tested), 79)
    assert (inference.p_corrected(tested[0], tested.max(1)) >= uncorrected).all()


def test_corrected_p_of_a_family_of_one_is_the_uncorrected_p(tested):
    one = tested[:, 3:4]
    uncorrected = inference.p_value(oracles.exceedances(one), 79)
    np.testing.assert_array_equal(inference.p_corrected(one[0], one.max(1)), uncorrected)


def test_maxima_equal_up_to_rounding_are_counted(tested):
    maxima = tested.max(1)
    maxima[5:9] = tested[0, 0] * (1 - 4e-7)
    assert inference.p_corrected(tested[0, :1], maxima)[0] == 5 / 80


def test_an_undefined_score_has_no_corrected_p(tested):
    tested[0, 4] = np.nan
    ours = inference.p_corrected(tested[0], np.nanmax(tested, axis=1))
    np.testing.assert_array_equal(np.isnan(ours), np.arange(12) == 4)


@pytest.mark.parametrize("n_permutations", [19, 20, 39, 99, 100, 999])
def test_what_exceeds_the_critical_score_has_p_of_at_most_the_level_and_what_equals_it_has_not(rng, n_permutations):
    maxima = rng.standard_normal(n_permutations + 1)
    critical = inference.critical(maxima)
    above, at = inference.p_corrected(np.array([critical + 1e-4, critical]), maxima)
    assert above <= 0.05 < at


def test_a_level_that_no_score_can_reach_has_no_critical_score(rng):
    assert np.isnan(inference.critical(rng.standard_normal(19)))


def test_the_critical_score_is_on_the_level_that_is_asked_for(rng):
    maxima = rng.standard_normal(1000)
    assert inference.p_corrected(np.array([inference.critical(maxima, 0.01) + 1e-5]), maxima)[0] == 0.01
