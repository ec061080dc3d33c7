"""RDMs: equal to their definition over the true width, at any scale; packing as SciPy packs."""

import jax
import numpy as np
import oracles
import pytest
from scipy.spatial.distance import pdist, squareform

from jaxalign.compute import gram

pytestmark = pytest.mark.usefixtures("strict")

N, WIDTH = 14, 9
_rdm = jax.jit(gram.correlation_rdm)


def rdm(values, width=WIDTH):
    return np.asarray(_rdm(values, np.int32(width)))


@pytest.fixture
def patterns(rng):
    return rng.standard_normal((N, WIDTH)) + np.arange(N)[:, None]


def test_pairs_are_in_the_order_of_scipy():
    matrix = squareform(np.arange(N * (N - 1) // 2))
    np.testing.assert_array_equal(gram.upper_triangle(matrix), np.arange(N * (N - 1) // 2))


def test_pair_index_finds_each_pair_from_both_sides():
    index = gram.pair_index(N)
    np.testing.assert_array_equal(index, squareform(np.arange(N * (N - 1) // 2)))


@pytest.mark.parametrize("n", [2, 3, 92, 200, 16540])
def test_number_of_stimuli_comes_back_from_the_number_of_pairs(n):
    assert gram.n_stimuli_of(gram.n_pairs(n)) == n


def test_a_wrong_number_of_pairs_names_the_nearest_right_ones():
    with pytest.raises(ValueError, match=r"11 pairs .*10 \(n = 5\) and 15 \(n = 6\)"):
        gram.n_stimuli_of(11)


def test_correlation_rdm_equals_its_definition_in_float64(patterns):
    with jax.enable_x64(True):
        ours = rdm(patterns)
    np.testing.assert_allclose(ours, oracles.condensed(oracles.correlation_rdm(patterns)), atol=1e-12)


def test_correlation_rdm_equals_scipy_in_float32(patterns):
    np.testing.assert_allclose(rdm(patterns.astype(np.float32)), pdist(patterns, "correlation"), atol=3e-6)


def test_correlation_rdm_equals_rsatoolbox(patterns):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    theirs = calc_rdm(Dataset(patterns), method="correlation").dissimilarities[0]
    with jax.enable_x64(True):
        np.testing.assert_allclose(rdm(patterns), theirs, atol=1e-12)


def test_padding_columns_change_no_dissimilarity(patterns):
    padded = np.pad(patterns, ((0, 0), (0, 31)))
    with jax.enable_x64(True):
        np.testing.assert_allclose(rdm(padded), rdm(patterns), atol=1e-13)


def test_a_wrong_width_would_be_noticed(patterns):
    padded = np.pad(patterns, ((0, 0), (0, 31)))
    with jax.enable_x64(True):
        assert np.abs(rdm(padded, WIDTH + 31) - rdm(patterns)).max() > 0.1


@pytest.mark.parametrize("unit", [1e-30, 1e-13, 1e-6, 1e6, 1e30])
def test_the_unit_of_patterns_changes_no_dissimilarity(patterns, unit):
    scaled = (patterns * unit).astype(np.float32)
    np.testing.assert_allclose(rdm(scaled), rdm(patterns.astype(np.float32)), atol=3e-6)


def test_a_constant_pattern_has_no_dissimilarity_to_any_other_and_harms_no_other_pair(patterns):
    patterns[3] = 0.1
    ours = rdm(patterns.astype(np.float32))
    of_third = np.isin(np.arange(len(ours)), gram.pair_index(N)[3, np.arange(N) != 3])
    np.testing.assert_array_equal(np.isnan(ours), of_third)


def test_row_centring_runs_over_the_true_width(patterns):
    padded = np.pad(patterns, ((0, 0), (0, 3)), constant_values=99)
    with jax.enable_x64(True):
        ours = np.asarray(gram.row_centre(padded, np.int32(WIDTH)))
    np.testing.assert_allclose(ours[:, :WIDTH], patterns - patterns.mean(1, keepdims=True), atol=1e-13)
    np.testing.assert_array_equal(ours[:, WIDTH:], 0)


def test_largest_unit_share_is_its_part_of_the_variance(patterns):
    patterns[:, 4] *= 1000
    variance = patterns.var(0)
    with jax.enable_x64(True):
        ours = float(gram.largest_unit_share(patterns))
    assert ours == pytest.approx(variance[4] / variance.sum(), abs=1e-12)
    assert ours > 0.99
