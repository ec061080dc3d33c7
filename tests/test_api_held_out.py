"""Held-out predictions, and what follows from them, equal refits by scikit-learn and the definitions."""

from functools import cache

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge as Peer
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

import jaxalign
from jaxalign import Ridge
from jaxalign.api import HeldOut
from jaxalign.compute import folds
from jaxalign.errors import DataError

N, N_CHANNELS, N_TIMES = 60, 4, 3
ONE_ALPHA = Ridge(n_outer=3, n_inner=2, alphas="given", alpha_values=(3.0,), n_permutations=0)


@cache
def problem(subject=0):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N, 6)) + 2
    weights = rng.standard_normal((6, N_CHANNELS * N_TIMES)) * 1e-6
    noise = np.random.default_rng(subject + 1).standard_normal((N, N_CHANNELS * N_TIMES)) * 1e-6
    return features, (features @ weights + noise + 5e-6).reshape(N, N_CHANNELS, N_TIMES)


@cache
def found(subject=0):
    return jaxalign.predict(*problem(subject), metric=ONE_ALPHA)


def refitted(subject=0):
    """Test rows, predictions and truth of every fold, by scikit-learn in float64."""
    features, responses = problem(subject)
    flat = responses.reshape(N, -1)
    for is_test in folds.shuffled(N, 3, 0):
        scaler = StandardScaler().fit(features[~is_test])
        peer = Peer(alpha=3.0).fit(scaler.transform(features[~is_test]), flat[~is_test])
        predicted = peer.predict(scaler.transform(features[is_test]))
        yield np.flatnonzero(is_test), predicted.reshape(-1, N_CHANNELS, N_TIMES), responses[is_test]


def test_predictions_equal_scikit_learn_in_the_unit_of_the_responses():
    ours = found().by_stimulus()
    spread = problem()[1].std(0)
    for rows, predicted, _ in refitted():
        np.testing.assert_allclose(ours[rows] / spread, predicted / spread, atol=1e-4)


def test_scores_equal_encode():
    encoded = jaxalign.encode(*problem(), metric=ONE_ALPHA).value
    for name, values in found().scores().items():
        np.testing.assert_allclose(values, encoded[name], atol=1e-5)


def test_stimuli_that_are_never_held_out_have_no_prediction():
    test = np.arange(N) < 15
    ours = jaxalign.predict(*problem(), test=test, metric=ONE_ALPHA)
    np.testing.assert_array_equal(np.isnan(ours.by_stimulus()).all((1, 2)), ~test)
    assert ours.alpha.shape == (1, N_CHANNELS, N_TIMES)


def test_temporal_generalisation_equals_the_definition():
    ours = found().across_time()
    expected = np.zeros((2, N_CHANNELS, N_TIMES, N_TIMES))
    for _, predicted, truth in refitted():
        for channel, train, test in np.ndindex(N_CHANNELS, N_TIMES, N_TIMES):
            y, guess = truth[:, channel, test], predicted[:, channel, train]
            expected[:, channel, train, test] += np.array([pearsonr(y, guess)[0], r2_score(y * 1e6, guess * 1e6)]) / 3
    np.testing.assert_allclose(ours["pearson_r"], expected[0], atol=1e-5)
    np.testing.assert_allclose(ours["r2"], expected[1], atol=1e-4)


def test_encoding_rsa_equals_the_definition():
    expected = [
        [
            spearmanr(pdist(predicted[:, :, bin_], "correlation"), pdist(truth[:, :, bin_], "correlation"))[0]
            for bin_ in range(N_TIMES)
        ]
        for _, predicted, truth in refitted()
    ]
    np.testing.assert_allclose(found().encoding_rsa(), np.mean(expected, axis=0), atol=1e-5)


def test_transfer_between_subjects_equals_the_definition():
    ours = jaxalign.across_subjects([found(subject) for subject in range(3)])
    expected = np.zeros((3, 3, N_CHANNELS, N_TIMES))
    for all_subjects in zip(*(refitted(subject) for subject in range(3)), strict=True):
        for train, test, channel, bin_ in np.ndindex(3, 3, N_CHANNELS, N_TIMES):
            guess, truth = all_subjects[train][1], all_subjects[test][2]
            expected[train, test, channel, bin_] += pearsonr(guess[:, channel, bin_], truth[:, channel, bin_])[0] / 3
    np.testing.assert_allclose(ours["pearson_r"], expected, atol=1e-5)
    assert ours["pearson_r_of_others"].shape == (3, N_CHANNELS, N_TIMES)


def test_intervals_hold_the_score_and_shrink_with_the_level():
    wide, narrow = (found().intervals(400, level) for level in (0.99, 0.5))
    for name, values in found().scores().items():
        assert ((wide[name][0] < values) & (values < wide[name][1])).all()
        assert (np.ptp(narrow[name], axis=0) < np.ptp(wide[name], axis=0)).all()


def test_parts_of_variance_sum_to_the_model_of_all_sets_and_find_what_was_planted(rng):
    one, other, shared = rng.standard_normal((3, 200, 1))
    sets = {
        "A": np.hstack([one, shared]) + 1e-3 * rng.standard_normal((200, 2)),
        "B": np.hstack([other, shared]) + 1e-3 * rng.standard_normal((200, 2)),
    }
    responses = np.hstack([one, other, shared]) + 0.5 * rng.standard_normal((200, 3))
    frame = jaxalign.partition(sets, responses, metric=Ridge(n_outer=4, n_inner=3))
    parts = frame[frame.kind == "part"].pivot(index="target_0", columns="name", values="r2")
    models = frame[frame.kind == "model"].pivot(index="target_0", columns="name", values="r2")
    np.testing.assert_allclose(parts.sum(axis=1), models["A+B"], atol=1e-5)
    planted = ["unique A", "unique B", "shared A+B"]
    assert list(parts.idxmax(axis=1)) == planted
    assert all(parts.loc[target, name] > 0.5 for target, name in enumerate(planted))


def test_a_set_of_variance_partitioning_scores_as_by_itself(rng):
    sets = {"A": rng.standard_normal((50, 3)), "B": rng.standard_normal((50, 4))}
    responses = sets["A"] @ rng.standard_normal((3, 2)) + rng.standard_normal((50, 2))
    frame = jaxalign.partition(sets, responses, metric=ONE_ALPHA)
    alone = jaxalign.encode(sets["A"], responses, metric=ONE_ALPHA).value["r2"]
    np.testing.assert_allclose(frame[(frame.kind == "model") & (frame.name == "A")].r2, alone, atol=1e-5)


# What is refused.


def test_one_set_of_features_is_refused():
    with pytest.raises(DataError, match="1 feature set to partition: give 2 to 4"):
        jaxalign.partition({"A": problem()[0]}, problem()[1])


def test_targets_without_time_are_refused():
    flat = jaxalign.predict(problem()[0], problem()[1][:, :, 0], metric=ONE_ALPHA)
    with pytest.raises(DataError, match=r"temporal generalisation needs responses .* targets have shape \(4,\)"):
        flat.across_time()


def test_subjects_with_other_folds_are_refused():
    other = jaxalign.predict(*problem(1), metric=ONE_ALPHA, seed=1)
    with pytest.raises(DataError, match="Subject 1 has other folds than subject 0"):
        jaxalign.across_subjects([found(), other])


def test_one_subject_is_refused():
    with pytest.raises(DataError, match="1 subject: transfer between subjects needs at least 2"):
        jaxalign.across_subjects([found()])


def test_labels_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"groups has shape \(3,\): one label for each of 60 stimuli"):
        jaxalign.predict(*problem(), groups=[1, 2, 3])


def test_two_runs_that_are_given_are_refused_and_not_shuffled():
    with pytest.raises(DataError, match=r"The rows are of 2 runs, and leaving runs out needs 3.*Set folds=shuffled"):
        jaxalign.predict(*problem(), runs=np.arange(60) % 2)


def test_intervals_of_small_folds_are_refused():
    small = HeldOut(
        np.zeros((1, 5, 1)), np.zeros((1, 5, 1)), np.arange(5)[None], np.ones((1, 5), bool), np.ones((1, 1)), 5
    )
    with pytest.raises(DataError, match="Fold 0 has 5 test stimuli: a bootstrap over stimuli needs 8"):
        small.intervals(10)


@pytest.mark.parametrize("labels", ["groups", "runs"])
def test_stimuli_of_one_group_or_run_are_predicted_together(labels):
    names = np.repeat(np.arange(6), 10)
    ours = jaxalign.predict(*problem(), **{labels: names}, metric=ONE_ALPHA)
    for rows, is_row in zip(ours.rows, ours.is_row, strict=True):
        inside = set(names[rows[is_row]])
        assert not inside & set(np.delete(names, rows[is_row]))


def test_weights_of_stimuli_equal_scikit_learn(rng):
    features, responses = problem()
    weights = rng.integers(1, 5, N).astype(float)
    test = np.arange(N) < 15
    metric = Ridge(n_inner=2, alphas="given", alpha_values=(3.0,), n_permutations=0, zscore=False)
    ours = jaxalign.predict(features, responses, test=test, weights=weights, metric=metric).by_stimulus()
    peer = Peer(alpha=3.0).fit(
        features[~test], responses[~test].reshape(45, -1), weights[~test] / weights[~test].mean()
    )
    spread = responses.std(0)
    expected = peer.predict(features[test]).reshape(15, N_CHANNELS, N_TIMES)
    np.testing.assert_allclose(ours[test] / spread, expected / spread, atol=1e-4)
