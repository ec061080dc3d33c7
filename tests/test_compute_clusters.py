"""Clusters and their enhancement equal a walk from cell to cell and MNE, on time, montages and layers, and keep their error rate."""

from functools import cache

import jax
import mne
import numpy as np
import oracles_group as oracles
import pytest
from scipy import sparse, stats

from jaxalign.compute import clusters, group, neighbours

pytestmark = pytest.mark.usefixtures("strict")

N_SUBJECTS, N_CHANNELS, N_TIMES = 7, 4, 6
RING = np.roll(np.eye(N_CHANNELS, dtype=bool), 1, 0) | np.roll(np.eye(N_CHANNELS, dtype=bool), -1, 0)
THRESHOLD = 1.4
HEIGHTS = clusters.Enhancement(start=0.3, step=0.4)
TAILS = {"two-sided": 0, "greater": 1}


@cache
def scores():
    """Smooth noise and a planted bump. (n_subjects, n_channels * n_times)"""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((N_SUBJECTS, N_CHANNELS, N_TIMES))
    values += np.roll(values, 1, 2)
    values[:, :2, 2:4] += 1.5
    values[:, 3, 4:] -= 1.0
    return values.reshape(N_SUBJECTS, -1)


@cache
def flips():
    return group.sign_flips(N_SUBJECTS, 128, 0)


@cache
def cells():
    return neighbours.grid_neighbours(RING, N_TIMES)


@cache
def table():
    return oracles.grid(RING, N_TIMES)


@cache
def slow_null():
    return oracles.flip_null(scores(), flips().signs, oracles.student)


def call(name, *arrays, dtype=np.float64, **settings):
    with jax.enable_x64(dtype == np.float64):
        return getattr(clusters, name)(arrays[0].astype(dtype), *arrays[1:], **settings)


def cluster_test(tail, **settings):
    return call("cluster_test", scores(), flips(), cells(), threshold=THRESHOLD, score="z", tail=tail, **settings)


def tfce_test(tail, **settings):
    return call("tfce_test", scores(), flips(), cells(), settings=HEIGHTS, score="z", tail=tail, **settings)


cluster_test.__test__ = tfce_test.__test__ = False


@cache
def mnes(tail, is_enhanced):
    """MNE's test of all flips over the same neighbours."""
    adjacency = mne.stats.combine_adjacency(sparse.coo_array(RING.astype(int)), N_TIMES)
    return mne.stats.permutation_cluster_1samp_test(
        scores(),
        threshold={"start": HEIGHTS.start, "step": HEIGHTS.step} if is_enhanced else THRESHOLD,
        n_permutations=10**6,
        tail=TAILS[tail],
        adjacency=adjacency,
        out_type="mask",
        verbose="error",
    )


def as_mne_counts(null, tail):
    """The null as MNE lists it: two-sided, half of the flips, as the others mirror them; one-sided, the observed labelling
    twice and the flip of all subjects never."""
    if tail == "two-sided":
        return null[flips().signs[:, 0] == 1]
    all_flipped = int(np.flatnonzero((flips().signs == -1).all(1))[0])
    return np.append(np.delete(null, all_flipped), null[0])


# Neighbours.


def listed(neighbour_list):
    """The table that a list of neighbours stands for."""
    found = np.zeros((len(neighbour_list),) * 2, bool)
    for cell, others in enumerate(neighbour_list):
        found[cell, others] = True
    return found & ~np.eye(len(found), dtype=bool)


def test_a_list_of_neighbours_holds_the_table_and_is_filled_up_with_the_cell(rng):
    adjacency = np.triu(rng.uniform(size=(12, 12)) < 0.2, 1)
    adjacency[:, 5] = adjacency[5] = False
    adjacency |= adjacency.T
    ours = neighbours.neighbours_of(adjacency)
    assert ours.dtype == np.int32 and ours.shape == (12, adjacency.sum(1).max())
    np.testing.assert_array_equal(listed(ours), adjacency)
    np.testing.assert_array_equal(ours[5], 5)
    assert neighbours.neighbours_of(np.zeros((3, 3), bool)).shape == (3, 1)


def test_neighbours_on_channels_and_time_equal_mnes_and_the_definition():
    theirs = mne.stats.combine_adjacency(sparse.coo_array(RING.astype(int)), N_TIMES).toarray() > 0
    np.testing.assert_array_equal(listed(cells()), table())
    np.testing.assert_array_equal(listed(cells()), theirs & ~np.eye(len(theirs), dtype=bool))


def test_one_row_of_time_bins_is_a_chain():
    np.testing.assert_array_equal(listed(neighbours.grid_neighbours(None, 4)), np.eye(4, k=1) + np.eye(4, k=-1) > 0)
    assert neighbours.grid_neighbours(None, 1).tolist() == [[0, 0, 0]]


def test_layers_touch_the_next_layer_of_their_own_model_only():
    models = ["clip/vision", "vit", "clip/vision", "vit", "clip/text"]
    layers = np.zeros((5, 5), bool)
    layers[0, 2] = layers[2, 0] = layers[1, 3] = layers[3, 1] = True
    np.testing.assert_array_equal(listed(neighbours.layer_neighbours(models, 3)), oracles.grid(layers, 3))


@pytest.mark.parametrize(
    ("call_it", "words"),
    [
        (
            lambda: neighbours.neighbours_of(np.triu(np.ones((3, 3)))),
            "3 cells have a neighbour that does not have them",
        ),
        (lambda: neighbours.neighbours_of(np.ones((3, 4))), r"adjacency has shape \(3, 4\)"),
        (lambda: neighbours.grid_neighbours(None, 0), "n_times=0"),
        (lambda: neighbours.layer_neighbours([], 3), "model_of_layer is empty"),
    ],
)
def test_tables_that_are_no_neighbourhood_are_refused(call_it, words):
    with pytest.raises(ValueError, match=words):
        call_it()


# Connected cells.


@jax.jit
def connect(side, near):
    return neighbours.connected(side, near)


def test_connected_cells_equal_scipys_on_random_graphs(rng):
    for share in (0.01, 0.03, 0.1):
        adjacency = np.triu(rng.uniform(size=(60, 60)) < share, 1)
        adjacency |= adjacency.T
        near = np.tile(np.arange(60, dtype=np.int32)[:, None], (1, 24))
        short = neighbours.neighbours_of(adjacency)
        near[:, : short.shape[1]] = short
        side = rng.choice(np.array([-1, 0, 1], np.int8), 60)
        linked = adjacency & (side[:, None] == side[None, :]) & (side != 0)[:, None]
        _, theirs = sparse.csgraph.connected_components(sparse.csr_array(linked))
        ours = np.asarray(connect(side, near))
        np.testing.assert_array_equal(ours[:, None] == ours[None, :], theirs[:, None] == theirs[None, :])
        assert (ours <= np.arange(60)).all() and (ours[ours] == ours).all()


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_chain_of_a_thousand_cells_is_one_cluster(is_shuffled, rng):
    """Also where the numbers of the cells say nothing of their place, so that news must travel the whole chain."""
    place = rng.permutation(1000) if is_shuffled else np.arange(1000)
    adjacency = np.zeros((1000, 1000), bool)
    adjacency[place[1:], place[:-1]] = adjacency[place[:-1], place[1:]] = True
    near = neighbours.neighbours_of(adjacency)
    np.testing.assert_array_equal(connect(np.ones(1000, np.int8), near), 0)
    side = np.ones(1000, np.int8)
    side[place[400]] = 0
    ours = np.asarray(connect(side, near))
    for part in (place[:400], place[401:]):
        np.testing.assert_array_equal(ours[part], part.min())


# Clusters against definitions and MNE.


@pytest.mark.parametrize("tail", TAILS)
def test_clusters_and_their_p_equal_a_walk_over_all_flips(tail):
    ours = cluster_test(tail)
    found = oracles.signed_components(slow_null()[0], THRESHOLD, table(), tail)
    found.sort(key=lambda cluster: -abs(slow_null()[0, cluster].sum()))
    null = np.array([oracles.largest_mass(row, THRESHOLD, table(), tail) for row in slow_null()])
    np.testing.assert_allclose(ours.null, null, rtol=1e-11)
    assert len(ours.mass) == len(found) > 1
    expected = np.ones(scores().shape[1])
    for index, cluster in enumerate(found):
        np.testing.assert_array_equal(np.flatnonzero(ours.labels == index), cluster)
        expected[cluster] = np.mean(oracles.reaches(null, abs(slow_null()[0, cluster].sum())))
        np.testing.assert_allclose(ours.mass[index], slow_null()[0, cluster].sum(), rtol=1e-11)
        assert ours.p[index] == expected[cluster[0]]
    np.testing.assert_array_equal(ours.p_of_cell, expected)
    assert (ours.labels == -1).sum() == scores().shape[1] - sum(map(len, found))


@pytest.mark.parametrize("tail", TAILS)
def test_clusters_equal_mnes(tail):
    ours = cluster_test(tail)
    t, found, p, null = mnes(tail, False)
    order = np.argsort([-abs(t[one].sum()) for one in found], kind="stable")
    np.testing.assert_allclose(ours.statistic, t, rtol=1e-11)
    np.testing.assert_allclose(ours.mass, [t[found[index]].sum() for index in order], rtol=1e-11)
    for label, index in enumerate(order):
        np.testing.assert_array_equal(ours.labels == label, found[index])
    theirs = as_mne_counts(ours.null, tail)
    np.testing.assert_allclose(np.sort(theirs), np.sort(np.abs(null)), rtol=1e-11, atol=1e-12)
    if tail == "two-sided":
        np.testing.assert_array_equal(ours.p, p[order])
    np.testing.assert_array_equal([np.mean(theirs >= abs(one) * (1 - 1e-9)) for one in ours.mass], p[order])


@pytest.mark.parametrize("tail", TAILS)
def test_enhanced_statistics_and_their_p_equal_mnes_and_the_definition(tail):
    ours = tfce_test(tail)
    slow = [oracles.tfce(row, table(), HEIGHTS.start, HEIGHTS.step, tail) for row in slow_null()[:9]]
    np.testing.assert_allclose(ours.enhanced, slow[0], rtol=1e-11)
    np.testing.assert_allclose(ours.null[:9], np.abs(slow).max(1), rtol=1e-11)
    t, _, p, null = mnes(tail, True)
    np.testing.assert_allclose(ours.enhanced, t, rtol=1e-11)
    theirs = as_mne_counts(ours.null, tail)
    np.testing.assert_allclose(np.sort(theirs), np.sort(np.abs(null)), rtol=1e-11)
    if tail == "two-sided":
        np.testing.assert_array_equal(ours.p, p)
    np.testing.assert_array_equal([np.mean(theirs >= abs(one) * (1 - 1e-9)) for one in ours.enhanced], p)


def test_float32_gives_the_same_clusters_and_p_values():
    ours, expected = cluster_test("two-sided", dtype=np.float32), cluster_test("two-sided")
    np.testing.assert_array_equal(ours.labels, expected.labels)
    np.testing.assert_array_equal(ours.p, expected.p)
    enhanced = tfce_test("two-sided", dtype=np.float32)
    np.testing.assert_array_equal(enhanced.p, tfce_test("two-sided").p)
    assert ours.statistic.dtype == enhanced.enhanced.dtype == np.float32


def test_powers_of_the_enhancement_are_those_asked_for():
    settings = clusters.Enhancement(0.0, 0.25, 1.0, 0.5)
    with jax.enable_x64(True):
        ours = clusters.tfce(slow_null()[0], cells(), settings, tail="two-sided")
    expected = oracles.tfce(slow_null()[0], table(), 0.0, 0.25, "two-sided", 1.0, 0.5)
    np.testing.assert_allclose(ours, expected, rtol=1e-11)


def test_t_thresholds_equal_scipys():
    for n_subjects in (2, 3, 4, 5, 8, 9, 40, 101):
        for level in (0.001, 0.05, 0.5):
            one, two = stats.t.isf(level, n_subjects - 1), stats.t.isf(level / 2, n_subjects - 1)
            np.testing.assert_allclose(clusters.t_threshold(n_subjects, level=level), one, rtol=1e-9, atol=1e-9)
            ours = clusters.t_threshold(n_subjects, level=level, tail="two-sided")
            np.testing.assert_allclose(ours, two, rtol=1e-9)
    with pytest.raises(ValueError, match=r"1 subjects at level=0\.05"):
        clusters.t_threshold(1)


# Missing cells, no clusters, refusals.


def test_a_cell_that_is_undefined_is_in_no_cluster_and_has_no_p():
    values = scores().copy()
    values[:, 2] = np.nan
    ours = call("cluster_test", values, flips(), cells(), threshold=THRESHOLD, score="z", tail="two-sided")
    apart = table().copy()
    apart[2] = apart[:, 2] = False
    statistic = np.where(np.isnan(ours.statistic), 0, ours.statistic)
    found = oracles.signed_components(statistic, THRESHOLD, apart, "two-sided")
    assert len(found) == len(ours.mass) and ours.labels[2] == -1 and np.isnan(ours.p_of_cell[2])
    enhanced = call("tfce_test", values, flips(), cells(), settings=HEIGHTS, score="z", tail="two-sided")
    assert enhanced.enhanced[2] == 0 and np.isnan(enhanced.p[2]) and np.isfinite(np.delete(enhanced.p, 2)).all()
    np.testing.assert_allclose(
        enhanced.enhanced, oracles.tfce(statistic, apart, HEIGHTS.start, HEIGHTS.step, "two-sided"), rtol=1e-11
    )


def test_without_clusters_every_p_is_one():
    ours = call("cluster_test", scores(), flips(), cells(), threshold=1e9, score="z", tail="two-sided")
    assert ours.mass.shape == ours.p.shape == (0,)
    np.testing.assert_array_equal(ours.p_of_cell, 1)
    np.testing.assert_array_equal(ours.null, 0)


def test_floors_count_the_mirror_image_of_a_two_sided_test():
    assert cluster_test("two-sided").floor == tfce_test("two-sided").floor == 2 / 128
    assert cluster_test("greater").floor == tfce_test("greater").floor == 1 / 128


def test_a_huge_statistic_ends():
    """Heights are limited in number: a t of a million takes as long as any other."""
    statistic = np.array([1e6, 0.5, -2.0], np.float32)
    enhanced = np.asarray(call("tfce", statistic, neighbours.grid_neighbours(None, 3), HEIGHTS, dtype=np.float32))
    assert np.isfinite(enhanced).all() and enhanced[0] > enhanced[1] > 0


@pytest.mark.parametrize("name", ["cluster_test", "tfce_test"])
def test_wrong_requests_are_refused(name):
    extra = {"threshold": 2.0} if name == "cluster_test" else {}
    with pytest.raises(ValueError, match="cka_biased is not 0 on average"):
        call(name, scores(), flips(), cells(), score="cka_biased", **extra)
    with pytest.raises(ValueError, match=r"neighbours have shape \(5, 3\) and the scores 24 cells"):
        call(name, scores(), flips(), neighbours.grid_neighbours(None, 5), score="z", **extra)
    with pytest.raises(ValueError, match="tail='less' is not a tail"):
        call(name, scores(), flips(), cells(), score="z", tail="less", **extra)
    with pytest.raises(ValueError, match="and the scores 6 subjects"):
        call(name, scores()[:6], flips(), cells(), score="z", **extra)
    wrong = {"threshold": -2.0} if extra else {"settings": clusters.Enhancement(step=0.0)}
    with pytest.raises(ValueError, match="a threshold is at or above 0 and a step above 0"):
        call(name, scores(), flips(), cells(), score="z", **wrong)


# Relabelled stimuli.


@pytest.mark.parametrize("tail", TAILS)
def test_clusters_under_relabelled_stimuli_equal_a_walk(tail, rng):
    null = rng.standard_normal((30, scores().shape[1]))
    null[0, 3:5] += 3
    null[0, 18:20] -= 3
    ours = call("clusters_of_null", null, cells(), threshold=1.5, tail=tail)
    masses = np.array([oracles.largest_mass(row, 1.5, table(), tail) for row in null])
    np.testing.assert_allclose(ours.null, masses, rtol=1e-12)
    np.testing.assert_array_equal(ours.p, [np.mean(oracles.reaches(masses, abs(one))) for one in ours.mass])
    assert ours.floor == 1 / 30
    enhanced = call("tfce_of_null", null, cells(), settings=HEIGHTS, tail=tail)
    slow = np.abs([oracles.tfce(row, table(), HEIGHTS.start, HEIGHTS.step, tail) for row in null])
    np.testing.assert_allclose(enhanced.null, slow.max(1), rtol=1e-11)
    np.testing.assert_array_equal(enhanced.p, [np.mean(oracles.reaches(slow.max(1), one)) for one in slow[0]])


# Error rates.


@cache
def smallest_p(n_sets, name):
    """Smallest cluster p, or enhanced p, of smooth noise of 8 subjects at 20 time bins, one set after the other."""
    rng = np.random.default_rng(5)
    chain, given = neighbours.grid_neighbours(None, 20), group.sign_flips(8, 256, 0)
    settings = {"threshold": 1.9} if name == "cluster_test" else {"settings": clusters.Enhancement(0.0, 0.5)}
    noise = rng.standard_normal((n_sets, 8, 22))
    noise = (noise[..., 2:] + noise[..., 1:-1] + noise[..., :-2]).astype(np.float32)
    tests = [getattr(clusters, name)(one, given, chain, score="z", tail="two-sided", **settings) for one in noise]
    return np.array([np.min(one.p, initial=1.0) for one in tests])


def check_rate(n_sets, name):
    found = int(np.sum(smallest_p(n_sets, name) <= 0.05))
    assert stats.binomtest(found, n_sets, 0.05).pvalue > 0.01, f"{found} of {n_sets}"


@pytest.mark.parametrize("name", ["cluster_test", "tfce_test"])
def test_error_rates_of_noise_are_within_binomial_limits(name):
    check_rate(120, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cluster_test", "tfce_test"])
def test_error_rates_of_noise_are_within_binomial_limits_in_two_thousand_sets(name):
    check_rate(2000, name)
    assert abs(np.mean(smallest_p(2000, name) <= 0.05) - 0.05) < 0.015


def test_a_planted_cluster_is_found():
    planted = np.zeros((N_CHANNELS, N_TIMES), bool)
    planted[:2, 2:4] = True
    values = scores() + 4 * planted.ravel()
    ours = call("cluster_test", values, flips(), cells(), threshold=THRESHOLD, score="z", tail="greater")
    assert ours.p[0] == 1 / 128 and (ours.labels[planted.ravel()] == 0).all() and (ours.labels == 0).sum() <= 8
    enhanced = call("tfce_test", values, flips(), cells(), settings=HEIGHTS, score="z", tail="greater")
    assert (enhanced.p[planted.ravel()] <= 0.05).all() and (enhanced.p[3 * N_TIMES :] > 0.05).all()


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_labels_and_heights_lower_where_there_is_no_such_device(platform):
    shaped = jax.ShapeDtypeStruct((50, len(cells())), np.float32)
    for settings in (None, HEIGHTS):
        step = jax.jit(lambda null, chosen=settings: clusters._largest(null, cells(), 2.0, chosen, "two-sided"))
        assert "stablehlo" in step.trace(shaped).lower(lowering_platforms=(platform,)).as_text()
