"""The notebook face gives the numbers of the definitions, labelled."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr

import jaxalign
from jaxalign import Correlation, Ridge, Rsa
from jaxalign.errors import DataError


@pytest.fixture
def problem(rng):
    features = rng.standard_normal((40, 6))
    weights = rng.standard_normal((6, 12))
    responses = features @ weights + rng.standard_normal((40, 12))
    return features, responses.reshape(40, 4, 3)


def test_rdm_equals_scipy(problem):
    features, _ = problem
    np.testing.assert_allclose(jaxalign.rdm(features), pdist(features, "correlation"), atol=1e-6)


def test_rsa_of_patterns_equals_spearman_of_rdms(problem):
    features, responses = problem
    found = jaxalign.rsa(features, responses, metric=Rsa(n_permutations=19))
    expected = [
        spearmanr(pdist(features, "correlation"), pdist(responses[:, :, bin_], "correlation"))[0] for bin_ in range(3)
    ]
    assert found.value["rsa"].shape == (3,)
    np.testing.assert_allclose(found.value["rsa"], expected, atol=1e-5)


def test_a_given_rdm_and_its_patterns_give_one_score(problem):
    features, responses = problem
    metric = Rsa(comparator="pearson", n_permutations=19)
    patterns = jaxalign.rsa(features, responses[:, :, 0], metric=metric)
    given = jaxalign.rsa(jaxalign.rdm(features), jaxalign.rdm(responses[:, :, 0]), metric=metric)
    assert patterns.value["rsa"] == given.value["rsa"]
    assert patterns.p["rsa"] == given.p["rsa"]


def test_correlate_equals_scipy_and_finds_the_planted_target(problem):
    _, responses = problem
    found = jaxalign.correlate(responses[:, 1, 2], responses, metric=Correlation(n_permutations=99))
    expected = [[pearsonr(responses[:, 1, 2], responses[:, c, t])[0] for t in range(3)] for c in range(4)]
    np.testing.assert_allclose(found.value["pearson_r"], expected, atol=1e-5)
    assert found.p_corrected["pearson_r"][1, 2] == pytest.approx(0.01)


def test_encode_keeps_the_shape_of_the_targets_and_finds_a_linear_relation(problem):
    features, responses = problem
    found = jaxalign.encode(features, responses, metric=Ridge(n_permutations=19))
    assert found.value["r2"].shape == found.alpha.shape == (4, 3)
    assert np.median(found.value["pearson_r"]) > 0.5


def test_encode_takes_a_given_test_set(problem):
    features, responses = problem
    test = np.arange(40) >= 28
    found = jaxalign.encode(features, responses, test=test, metric=Ridge(n_permutations=0))
    assert np.isnan(found.p["pearson_r"]).all()
    assert np.median(found.value["pearson_r"]) > 0.5


def test_results_become_a_table_with_one_row_per_statistic_and_target(problem):
    features, responses = problem
    frame = jaxalign.encode(features, responses, metric=Ridge(n_permutations=0)).to_frame()
    assert list(frame.columns) == [
        "statistic",
        "target_0",
        "target_1",
        "value",
        "z",
        "p",
        "p_floor",
        "p_corrected",
        "family_size",
    ]
    assert len(frame) == 2 * 12


def test_float64_is_kept_when_it_is_enabled(problem):
    features, responses = problem
    with jax.enable_x64(True):
        found = jaxalign.rsa(features, responses[:, :, 0], metric=Rsa(n_permutations=0))
    expected = spearmanr(pdist(features, "correlation"), pdist(responses[:, :, 0], "correlation"))[0]
    np.testing.assert_allclose(found.value["rsa"], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y: jaxalign.encode(x, y[:39]), "features has 40 stimuli and responses has 39"),
        (lambda x, y: jaxalign.rsa(x, y[:39]), "features has 40 stimuli and responses has 39"),
        (lambda x, y: jaxalign.rsa(np.zeros(7), y), "7 pairs is not n\\(n-1\\)/2"),
        (lambda x, y: jaxalign.correlate(np.full(40, np.nan), y), "40 of 40 values are NaN or Inf"),
        (lambda x, y: jaxalign.encode(x[:3], y[:3]), "3 stimuli \\(or groups\\) cannot fill 5 folds"),
        (lambda x, y: jaxalign.rdm(x[:, :1]), "a pattern needs at least 2"),
    ],
)
def test_wrong_input_is_named_with_numbers(problem, call, said):
    with pytest.raises(DataError, match=said):
        call(*problem)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ridgecv'"):
        _ = jaxalign.ridgecv
