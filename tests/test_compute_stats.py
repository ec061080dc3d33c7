"""Column statistics: each equals its textbook definition, under a row mask, at any scale of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from jaxalign.compute import stats

pytestmark = pytest.mark.usefixtures("strict")

ROWS = np.array([True] * 17 + [False] * 4 + [True] * 9)


@pytest.fixture
def columns(rng):
    """Thirty rows of three targets, with nonsense where the mask is false."""
    values = rng.standard_normal((30, 3)) * [1, 30, 0.02] + [0, 5, 1]
    values[~ROWS] = 1e6
    return values


def in_float64(function, *values):
    with jax.enable_x64(True):
        return np.asarray(function(*values))


def test_mean_runs_over_true_rows(columns):
    ours = in_float64(stats.mean, columns, ROWS)
    np.testing.assert_allclose(ours, columns[ROWS].mean(0), rtol=1e-12)


def test_mean_of_no_rows_is_zero_and_not_nan(columns):
    np.testing.assert_array_equal(in_float64(stats.mean, columns, np.zeros(30, bool)), 0)


def test_centre_subtracts_the_mean_of_true_rows_and_zeroes_the_others(columns):
    ours = in_float64(stats.centre, columns, ROWS)
    expected = np.where(ROWS[:, None], columns - columns[ROWS].mean(0), 0)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("unit", [1e-30, 1e-13, 1e-6, 1.0, 1e6, 1e15])
def test_scale_is_the_population_sd_in_any_unit_in_float32(columns, unit):
    values = (columns * unit).astype(np.float32)
    expected = values[ROWS].astype(np.float64).std(0)
    np.testing.assert_allclose(np.asarray(stats.scale(values, ROWS)) / expected, 1, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 1e-13, 0.1, 5000.0, -1e6])
def test_scale_of_a_constant_column_is_exactly_zero(level):
    assert np.asarray(stats.scale(np.full((30, 1), level, np.float32), ROWS)) == 0


def test_zscore_equals_scipy(columns):
    ours = in_float64(stats.zscore, columns, ROWS)
    np.testing.assert_allclose(ours[ROWS], scipy_stats.zscore(columns[ROWS]), atol=1e-11)


def test_zscore_of_a_constant_column_is_zero():
    np.testing.assert_array_equal(np.asarray(stats.zscore(np.full((30, 1), 0.1, np.float32), ROWS)), 0)


def test_product_of_unit_norm_columns_is_pearson(columns):
    unit = in_float64(stats.unit_norm, columns, ROWS)
    expected = np.corrcoef(columns[ROWS].T)
    np.testing.assert_allclose(unit.T @ unit, expected, atol=1e-12)


def test_unit_norm_of_a_constant_column_is_nan():
    assert np.isnan(np.asarray(stats.unit_norm(np.full((30, 1), 3.3, np.float32), ROWS))[ROWS]).all()


def test_a_column_is_constant_up_to_rounding_and_no_further():
    base = np.float32(5000)
    rounded = np.where(np.arange(30) % 2, base, np.nextafter(base, np.float32(6000)))
    varying = base + np.float32(0.05) * (np.arange(30) % 2)
    columns = np.stack([rounded, varying], axis=1).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(stats.is_constant(columns, ROWS)), [True, False])


@given(arrays(np.int32, (24, 2), elements=st.integers(-4, 4)))
@settings(deadline=None, max_examples=25, derandomize=True, database=None)
def test_ranks_with_ties_equal_scipy_for_any_column(values):
    ours = np.asarray(stats.rank(values.astype(np.float32)))
    np.testing.assert_array_equal(ours, scipy_stats.rankdata(values, axis=0))


@given(arrays(np.int32, (12,), elements=st.integers(-3, 3)))
@settings(deadline=None, max_examples=25, derandomize=True, database=None)
def test_the_rank_oracle_equals_scipy(values):
    np.testing.assert_array_equal(oracles.ranks(values), scipy_stats.rankdata(values))


@pytest.mark.parametrize("unit", [1e-13, 1.0, 1e6])
def test_ranks_do_not_depend_on_the_unit(rng, unit):
    values = rng.permutation(500).reshape(-1, 1) / 500 + 1
    ours = np.asarray(stats.rank((values * unit).astype(np.float32)))
    np.testing.assert_array_equal(ours, scipy_stats.rankdata(values, axis=0))


def test_values_that_differ_by_rounding_share_their_rank():
    third = np.float32(1) / np.float32(3)
    values = np.array([[third], [np.nextafter(third, np.float32(1))], [0.9], [np.nextafter(third, np.float32(0))]])
    values = values.astype(np.float32)
    rounding = 8 * float(np.finfo(np.float32).eps)
    np.testing.assert_array_equal(np.asarray(stats.rank(values, rounding)), [[2], [2], [4], [2]])
    np.testing.assert_array_equal(np.asarray(stats.rank(values)), [[2], [3], [4], [1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ranks_of_an_undefined_column_are_nan_and_others_keep_theirs(bad):
    values = np.array([[3, 3], [bad, 1], [1, 2]], np.float32)
    np.testing.assert_array_equal(np.asarray(stats.rank(values)), [[np.nan, 3], [np.nan, 1], [np.nan, 2]])


def test_spearman_oracle_equals_scipy(rng):
    first, second = rng.integers(0, 6, 40), rng.integers(0, 5, 40)
    assert oracles.spearman(first, second) == pytest.approx(scipy_stats.spearmanr(first, second).statistic, abs=1e-12)


def test_r2_equals_scikit_learn(columns, rng):
    from sklearn.metrics import r2_score

    predicted = columns + rng.standard_normal(columns.shape)
    ours = in_float64(stats.r2, columns, predicted, ROWS)
    expected = r2_score(columns[ROWS], predicted[ROWS], multioutput="raw_values")
    np.testing.assert_allclose(ours, expected, rtol=1e-11)


def test_pearson_equals_scipy(columns, rng):
    predicted = columns + rng.standard_normal(columns.shape)
    ours = in_float64(stats.pearson, columns, predicted, ROWS)
    expected = [scipy_stats.pearsonr(columns[ROWS, j], predicted[ROWS, j]).statistic for j in range(3)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("function", [stats.r2, stats.pearson])
def test_a_constant_target_has_no_score(columns, function):
    values = columns.astype(np.float32)
    assert np.isnan(np.asarray(function(np.full_like(values, 7.7), values, ROWS))).all()


def test_a_constant_prediction_has_r_zero(columns):
    values = columns.astype(np.float32)
    np.testing.assert_array_equal(np.asarray(stats.pearson(values, np.full_like(values, 0.3), ROWS)), 0)


def test_a_constant_prediction_of_a_constant_target_has_no_r():
    flat = np.full((30, 1), 0.3, np.float32)
    assert np.isnan(np.asarray(stats.pearson(flat, flat, ROWS))).all()


def test_dot_keeps_the_digits_of_float32(rng):
    a, b = rng.standard_normal((20, 300)).astype(np.float32), rng.standard_normal((300, 5)).astype(np.float32)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(np.asarray(stats.dot(jnp.asarray(a), jnp.asarray(b))), expected, atol=3e-5)
