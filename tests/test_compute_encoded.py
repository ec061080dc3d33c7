"""Encoding RSA equals the definition by SciPy, for ties, flat predictions and undefined patterns too."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

from jaxalign.compute.encoded import encoding_rsa

pytestmark = pytest.mark.usefixtures("strict")

N_TEST, N_CHANNELS, N_BINS = 14, 9, 6
PEERS = {"spearman": spearmanr, "pearson": pearsonr}

COMPARATORS = ("spearman", "pearson")


def planted(dtype=np.float64):
    """Predictions that get better from bin to bin."""
    rng = np.random.default_rng(4)
    measured = rng.standard_normal((N_TEST, N_CHANNELS, N_BINS))
    predicted = measured * np.linspace(0, 2, N_BINS) + rng.standard_normal(measured.shape)
    return predicted.astype(dtype), measured.astype(dtype)


@partial(jax.jit, static_argnames="comparator")
def compiled(predicted, measured, comparator):
    return encoding_rsa(predicted, measured, comparator=comparator)


def scores(predicted, measured, comparator="spearman"):
    with jax.enable_x64(predicted.dtype == np.float64):
        found = compiled(predicted, measured, comparator)
        assert found.dtype == predicted.dtype
        return np.asarray(found)


def slow(predicted, measured, comparator):
    rdms = [[pdist(values[:, :, t], "correlation") for t in range(N_BINS)] for values in (predicted, measured)]
    return [PEERS[comparator](*pair).statistic for pair in zip(*rdms, strict=True)]


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_scores_equal_scipy(comparator, dtype, atol):
    ours = scores(*planted(dtype), comparator)
    np.testing.assert_allclose(ours, slow(*planted(), comparator), atol=atol)
    assert ours[-1] > 0.5


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_perfect_predictions_score_1_in_any_unit(comparator):
    _, measured = planted(np.float32)
    for unit in (1e-6, 1.0, 1e6):
        np.testing.assert_allclose(scores(measured * np.float32(unit), measured, comparator), 1, atol=1e-5)


def test_dissimilarities_that_are_equal_by_definition_are_ties():
    """Predictions of one pattern per category: their RDM has three values, whose last bits differ by position."""
    predicted, measured = planted()
    category = np.arange(N_TEST) % 3
    predicted = predicted[category] * np.linspace(1, 3, N_TEST)[:, None, None]
    exact = [pdist(predicted[:, :, t], "correlation").round(10) for t in range(N_BINS)]
    expected = [spearmanr(exact[t], pdist(measured[:, :, t], "correlation")).statistic for t in range(N_BINS)]
    np.testing.assert_allclose(scores(predicted, measured), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("comparator", COMPARATORS)
def test_one_predicted_pattern_for_all_stimuli_scores_0(comparator, dtype):
    predicted, measured = planted(dtype)
    sizes = np.linspace(0.5, 2, N_TEST).astype(dtype)[:, None]
    predicted[:, :, 0] = predicted[:1, :, 0]
    predicted[:, :, 1] = predicted[:1, :, 1] * sizes + sizes
    ours = scores(predicted, measured, comparator)
    np.testing.assert_array_equal(ours[:2], 0)
    np.testing.assert_array_equal(ours[2:], scores(*planted(dtype), comparator)[2:])


@pytest.mark.parametrize("side", [0, 1])
def test_a_stimulus_without_a_pattern_leaves_its_time_bin_undefined(side):
    given = planted()
    given[side][3, :, 2] = 0.7
    given[side][5, 1, 4] = np.nan
    np.testing.assert_array_equal(np.isnan(scores(*given)), np.isin(np.arange(N_BINS), [2, 4]))


def test_measured_patterns_that_do_not_differ_leave_the_score_undefined():
    predicted, measured = planted()
    measured[:, :, 0] = measured[:1, :, 0]
    predicted[:, :, 1] = predicted[:1, :, 1]
    measured[:, :, 1] = measured[:1, :, 1]
    assert np.isnan(scores(predicted, measured)[:2]).all()


def test_measured_patterns_that_differ_by_rounding_only_leave_the_score_undefined():
    """Two channels of which the second is larger: after centring and scaling there is one pattern."""
    predicted, measured = planted()
    rising = np.sort(measured[:, :2], axis=1)
    assert np.isnan(encoding_rsa(predicted[:, :2].astype(np.float32), rising.astype(np.float32))).all()


@pytest.mark.parametrize(
    ("predicted", "measured", "words"),
    [
        (np.zeros((4, 3, 2)), np.zeros((4, 3, 1)), r"predicted is \(4, 3, 2\) and measured is \(4, 3, 1\)"),
        (np.zeros((4, 3)), np.zeros((4, 3)), r"predicted is \(4, 3\)"),
        (np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), "2 test stimuli and 3 channels"),
        (np.zeros((4, 1, 1)), np.zeros((4, 1, 1)), "4 test stimuli and 1 channels"),
    ],
)
def test_wrong_shapes_are_named(predicted, measured, words):
    with pytest.raises(ValueError, match=words):
        encoding_rsa(predicted, measured)


def test_an_unknown_comparator_is_named():
    with pytest.raises(ValueError, match="Those that are: spearman, pearson"):
        encoding_rsa(*planted(), comparator="kendall")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_scores_lower_for_accelerators(platform):
    shape = jax.ShapeDtypeStruct((N_TEST, N_CHANNELS, N_BINS), np.float32)
    text = jax.jit(encoding_rsa).trace(shape, shape).lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in text
