"""RDMs and similarities of a notebook: labelled, with labellings of every scheme, and with missing pairs."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import jaxalign
from jaxalign import Rsa, Similarity
from jaxalign.compute.measures import AS_PUBLISHED
from jaxalign.errors import DataError

N = 20


@pytest.fixture
def problem(rng):
    features = rng.standard_normal((N, 6))
    return features, (features @ rng.standard_normal((6, 10)) + rng.standard_normal((N, 10))).reshape(N, 5, 2)


def test_rdms_carry_their_labels(problem):
    features, responses = problem
    names = [f"picture {place}" for place in range(N)]
    found = jaxalign.rdm(features, "euclidean", ids=names)
    np.testing.assert_allclose(found, pdist(features, "euclidean"), rtol=1e-5)
    frame = found.to_frame()
    assert list(frame.columns) == ["stimulus_1", "stimulus_2", "euclidean"] and len(frame) == N * (N - 1) // 2
    assert tuple(frame.iloc[N - 1, :2]) == ("picture 1", "picture 2")
    assert found.square().shape == (N, N) and np.all(np.diag(found.square()) == 0)
    movie = jaxalign.rdm(responses)
    np.testing.assert_allclose(movie.values[:, 1], pdist(responses[:, :, 1], "correlation"), atol=1e-6)
    assert movie.square().shape == (N, N, 2) and len(movie.to_frame()) == N * (N - 1)


def test_crossnobis_of_trials_is_signed_and_equals_rsatoolbox():
    from rsatoolbox.data import Dataset
    from rsatoolbox.data.noise import prec_from_measurements
    from rsatoolbox.rdm import calc_rdm

    rng = np.random.default_rng(5)
    stimulus, session = np.tile(np.arange(8), 12), np.repeat(np.arange(3), 32)
    trials = rng.standard_normal((96, 6)) + 0.4 * rng.standard_normal((8, 6))[stimulus]
    found = jaxalign.rdm(trials, "crossnobis", stimulus=stimulus, partition=session, noise_precision="full")
    data = Dataset(trials, obs_descriptors={"c": stimulus.astype(str), "r": session.astype(str)})
    precision = prec_from_measurements(data, "c", method="full", dof=96 - 8)
    expected = calc_rdm(data, method="crossnobis", descriptor="c", cv_descriptor="r", noise=precision).dissimilarities[
        0
    ]
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.values.min() < 0 and found.ids == tuple(map(str, range(8)))


def test_missing_units_are_left_out_pair_by_pair(problem):
    features, _ = problem
    holed = features.copy()
    holed[3, 2] = np.nan
    found = jaxalign.rdm(holed, allow_missing=True).square()
    keep = [0, 1, 3, 4, 5]
    assert found[3, 8] == pytest.approx(1 - np.corrcoef(features[3, keep], features[8, keep])[0, 1], abs=1e-5)
    assert found[4, 8] == pytest.approx(1 - np.corrcoef(features[4], features[8])[0, 1], abs=1e-5)


def test_missing_pairs_are_left_out_of_ranks_and_null(problem):
    features, responses = problem
    ours, theirs = jaxalign.rdm(features).values, jaxalign.rdm(responses[:, :, 0]).values.copy()
    theirs[[4, 50]] = np.nan
    found = jaxalign.rsa(ours, theirs, metric=Rsa(n_permutations=99))
    is_there = np.isfinite(theirs)
    assert found.value["rsa"] == pytest.approx(spearmanr(ours[is_there], theirs[is_there])[0], abs=1e-5)
    assert found.p["rsa"] == pytest.approx(0.01)


def test_similarities_share_labellings_and_one_family(problem):
    features, responses = problem
    found = jaxalign.similarity(features, responses, ["cka", "mutual_knn", "rsa_spearman"], n_permutations=99)
    assert list(found.value) == ["cka", "mutual_knn", "rsa_spearman"]
    frame = found.to_frame()
    assert len(frame) == 6 and set(frame["family_size"]) == {6} and set(frame["p_floor"]) == {0.01}
    expected = jaxalign.rsa(features, responses, metric=Rsa(n_permutations=99))
    np.testing.assert_array_equal(found.value["rsa_spearman"], expected.value["rsa"])
    np.testing.assert_array_equal(found.p["rsa_spearman"], expected.p["rsa"])
    for name in found.value:
        assert np.all(found.p_corrected[name] >= found.p[name] - 1e-12)


@pytest.mark.slow
def test_the_published_set_runs_and_names_its_eight(problem):
    features, responses = problem
    found = jaxalign.similarity(features, responses[:, :, 0], "as_published", n_permutations=19)
    assert tuple(found.value) == AS_PUBLISHED
    np.testing.assert_array_equal(found.value["rv"], found.value["cka_biased"])
    one_electrode = jaxalign.similarity(features, responses[:, :1, 0], ["rsa_spearman"], n_permutations=19)
    expected = spearmanr(pdist(features, "correlation"), pdist(responses[:, :1, 0], "cityblock"))[0]
    assert one_electrode.value["rsa_spearman"] == pytest.approx(expected, abs=1e-5)


def test_labellings_of_a_scheme_or_given_ones_are_used_as_they_are(problem):
    features, responses = problem
    given = np.stack([np.random.default_rng(place).permutation(N) for place in range(9)])
    made = jaxalign.labellings.draw("given", N, 0, 0, given=given)
    found = jaxalign.rsa(features, responses[:, :, 0], labellings=made)
    ours, theirs = features, responses[:, :, 0]
    null = [spearmanr(pdist(ours, "correlation"), pdist(theirs[row], "correlation"))[0] for row in given]
    observed = spearmanr(pdist(ours, "correlation"), pdist(theirs, "correlation"))[0]
    assert found.p["rsa"] == pytest.approx((1 + np.sum(np.array(null) >= observed)) / 10)
    strata = jaxalign.labellings.draw("strata", N, 99, 0, strata=np.arange(N) % 2)
    assert jaxalign.rsa(features, responses, labellings=strata).n_permutations == 99


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y: jaxalign.similarity(x, y, ["ckaa"]), "measure='ckaa' is not known"),
        (lambda x, y: jaxalign.similarity(x, y[:19]), "20 stimuli and responses has 19"),
        (lambda x, y: jaxalign.rdm(x, "crossnobis"), "stimulus= and partition="),
        (lambda x, y: jaxalign.rdm(x, "euclid"), "distance='euclid' is not a distance"),
        (lambda x, y: jaxalign.rdm(x, ids=["a"]), "ids has 1 names for 20 stimuli"),
        (lambda x, y: jaxalign.rsa(x, y, labellings=jaxalign.labellings.draw("label", 7, 9, 0)), "of 7 rows"),
        (lambda x, y: jaxalign.similarity(x, y, [Similarity("mutual_knn", n_neighbours=19)]), "n_neighbours=19"),
    ],
)
def test_wrong_requests_are_named(problem, call, said):
    with pytest.raises(DataError, match=said):
        call(*problem)


# Rows within sentences.


def sentences_of(n_sets, signal, seed=0):
    """Smooth features and two smooth channels of sentences of 12 to 20 frames; the first channel follows the features."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(12, 21, n_sets)
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)

    def smooth(size):
        return np.convolve(rng.standard_normal(size + 12), kernel, mode="valid")

    features, responses = [], []
    for size in sizes:
        own = np.stack([smooth(size) for _ in range(3)], axis=1)
        features.append(own)
        responses.append(np.stack([signal * own[:, 0] + smooth(size), smooth(size)], axis=1))
    return np.concatenate(features), np.concatenate(responses), np.repeat(np.arange(n_sets), sizes)


def test_within_sentences_a_planted_channel_is_found_above_what_smoothness_gives():
    x, y, sets = sentences_of(10, signal=3.0)
    found = jaxalign.rsa_within(x, y, sets, n_permutations=99, distance="euclidean")
    scores = [
        [
            spearmanr(pdist(x[sets == one], "euclidean"), pdist(y[sets == one, c, None], "cityblock"))[0]
            for one in range(10)
        ]
        for c in range(2)
    ]
    np.testing.assert_allclose(found.value["rsa"], np.mean(scores, axis=1), atol=1e-5)
    assert found.p["rsa"][0] <= 0.02 and found.p["rsa"][1] > 0.05
    assert found.above_null[0] > 0.1 > abs(found.above_null[1]) and not found.warnings


def test_nulls_that_are_not_valid_for_time_warn():
    x, y, sets = sentences_of(3, signal=0.0)
    for null, word in (("circular", "too often"), ("as_published", "neighbouring")):
        found = jaxalign.rsa_within(x, y, sets, null=null, n_permutations=9, responses_distance="euclidean")
        assert found.value["rsa"].shape == () and word in found.warnings[0]
    with pytest.raises(DataError, match="null='labels' is not a null"):
        jaxalign.rsa_within(x, y, sets, null="labels")
