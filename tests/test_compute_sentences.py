"""Scores inside ragged sets equal one-by-one definitions, and of the nulls for frames only the mismatch holds."""

from functools import cache, partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import oracles_sentences as oracle
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from jaxalign.compute import mismatch, row_sets, sentences
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.permute import summarise
from jaxalign.contracts import Null

pytestmark = pytest.mark.usefixtures("strict")

SIZES, WIDTHS, N_CHANNELS = (7, 12, 5, 12, 20), (6, 4), 3
LADDER = (10, 32)


@cache
def data():
    """Labels in mixed order with two rows in no set, two fits of different width, channels with ties."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.r_[np.repeat(np.arange(len(SIZES)) * 10, SIZES), [-1, -1]])
    features = rng.standard_normal((len(WIDTHS), len(labels), max(WIDTHS)))
    features *= np.arange(max(WIDTHS)) < np.array(WIDTHS)[:, None, None]
    return labels, features, np.round(rng.standard_normal((len(labels), N_CHANNELS)), 1)


def _pair_scores(features, widths, responses, buckets, distance, comparator, is_time_partialled):
    ours = sentences.set_rdms(features, widths, buckets, distance)
    theirs = sentences.channel_rdms(responses, buckets)
    return sentences.pair_scores(ours, theirs, buckets, comparator, is_time_partialled=is_time_partialled)


def _set_scores(features, widths, responses, buckets):
    ours = sentences.set_rdms(features, widths, buckets)
    return sentences.set_scores(ours, sentences.channel_rdms(responses, buckets), buckets)


_compiled = jax.jit(_pair_scores, static_argnames=("distance", "comparator", "is_time_partialled"))
_inside = jax.jit(_set_scores)


@cache
def scores(ladder=LADDER, distance="correlation", comparator="spearman", is_time_partialled=False, dtype=np.float64):
    labels, features, responses = data()
    with jax.enable_x64(dtype == np.float64):
        both = features.astype(dtype), np.array(WIDTHS, np.int32), responses.astype(dtype)
        buckets = row_sets.buckets(labels, ladder)
        out = np.asarray(_compiled(*both, buckets, distance, comparator, is_time_partialled))
    assert out.dtype == dtype
    return out


def own():
    """(n_sets, n_fits, n_channels), each set with itself."""
    return slow()[np.arange(5), np.arange(5)]


@cache
def slow(distance="correlation", comparator="spearman", is_time_partialled=False):
    labels, features, responses = data()
    fits = [fit[:, :width] for fit, width in zip(features, WIDTHS, strict=True)]
    return oracle.matrix(fits, responses, labels, distance, comparator, is_time_partialled)


# Row sets.


def test_buckets_hold_every_row_of_a_set_once_in_row_order():
    labels = data()[0]
    names = np.unique(labels[labels >= 0])
    found = {
        int(names[name]): index[is_row]
        for one in row_sets.buckets(labels, LADDER)
        for name, index, is_row in zip(one.sets, one.index, one.is_row, strict=True)
    }
    assert sorted(found) == list(names)
    for name, rows in found.items():
        np.testing.assert_array_equal(rows, np.flatnonzero(labels == name))


def test_the_ladder_wastes_less_than_half_of_the_padded_pairs():
    sizes = np.arange(20, 1500, 5)
    shapes = row_sets.buckets(np.repeat(np.arange(len(sizes)), sizes))
    padded = sum(len(one.sets) * one.index.shape[1] ** 2 for one in shapes)
    assert len(shapes) <= 12
    assert padded < 2 * (sizes**2).sum()


def test_disjoint_sets_share_no_row_and_are_drawn_by_seed():
    labels = row_sets.disjoint_sets(515, 100, 7)
    np.testing.assert_array_equal(np.unique(labels, return_counts=True)[1], [15, 100, 100, 100, 100, 100])
    np.testing.assert_array_equal(labels, row_sets.disjoint_sets(515, 100, 7))
    assert (labels != row_sets.disjoint_sets(515, 100, 8)).any()
    (bucket,) = row_sets.buckets(labels)
    assert bucket.index.shape == (5, 104)


def test_unusable_sets_are_refused_in_words():
    with pytest.raises(ValueError, match=r"1 of 2 sets have fewer than 3 rows \(set 4 has 2\)"):
        row_sets.buckets(np.array([0, 0, 0, 4, 4]))
    with pytest.raises(ValueError, match="None of the 4 rows is in a set"):
        row_sets.buckets(np.full(4, -1))
    with pytest.raises(ValueError, match="whole number per row"):
        row_sets.buckets(np.zeros(4))
    with pytest.raises(ValueError, match="does not rise"):
        row_sets.buckets(np.zeros(4, int), (8, 8))
    with pytest.raises(ValueError, match="size=2 with 10 rows"):
        row_sets.disjoint_sets(10, 2, 0)
    with pytest.raises(ValueError, match="1 set: a mismatch needs"):
        row_sets.mismatches(1, 10, 0)


# Draws.


def test_matching_i_depends_on_its_index_alone_and_may_keep_a_set():
    many = row_sets.mismatches(30, 400, 5)
    np.testing.assert_array_equal(row_sets.mismatches(30, 9, 5), many[:10])
    np.testing.assert_array_equal(np.sort(many, axis=1), np.tile(np.arange(30), (401, 1)))
    # A random permutation has one fixed point on average, with variance one.
    assert abs((many[1:] == np.arange(30)).sum(1).mean() - 1) < 0.2


def test_few_sets_and_few_shifts_are_listed_once_each():
    listed = row_sets.mismatches(4, 500, 0)
    assert sorted(map(tuple, listed)) == sorted(permutations(range(4)))
    np.testing.assert_array_equal(listed[0], np.arange(4))
    assert row_sets.mismatch_floor(4, 500) == 1 / 24
    moved = row_sets.shifts(np.array([3, 5]), 500, 0)
    assert len(np.unique(moved, axis=0)) == len(moved) == 15
    np.testing.assert_array_equal(moved[0], 0)
    assert row_sets.shift_floor(np.array([3, 5]), 500) == 1 / 15
    assert row_sets.shift_floor(np.array([100, 120]), 500) == 1 / 501


def test_each_set_draws_its_own_shift_below_its_size():
    sizes = np.array([60, 100, 140])
    drawn = row_sets.shifts(sizes, 3000, 1)
    np.testing.assert_array_equal(drawn.max(0), sizes - 1)
    assert np.abs(np.corrcoef(drawn[1:].T) - np.eye(3)).max() < 0.06


# Scores against definitions.


@pytest.mark.parametrize(
    ("ladder", "distance", "comparator", "is_time_partialled"),
    [
        (LADDER, "correlation", "spearman", False),
        ((32,), "correlation", "spearman", True),
        ((32,), "correlation", "pearson", True),
        pytest.param(LADDER, "correlation", "pearson", False, marks=pytest.mark.slow),
        pytest.param(LADDER, "euclidean", "spearman", True, marks=pytest.mark.slow),
        pytest.param(LADDER, "euclidean", "pearson", True, marks=pytest.mark.slow),
    ],
)
def test_every_pair_of_sets_scores_as_one_by_one_without_padding(ladder, distance, comparator, is_time_partialled):
    found = scores(ladder, distance, comparator, is_time_partialled)
    np.testing.assert_allclose(found, slow(distance, comparator, is_time_partialled), atol=1e-13)


def test_float32_keeps_its_digits():
    np.testing.assert_allclose(scores((32,), dtype=np.float32), slow(), atol=2e-6)


def test_one_bucket_or_two_give_equal_scores():
    np.testing.assert_allclose(scores((32,)), scores(), atol=1e-13)


@cache
def even():
    """One set in row order, numbers with exact differences."""
    rng = np.random.default_rng(4)
    return rng.standard_normal((2, 24, 6)), rng.integers(-40, 40, (24, N_CHANNELS)).astype(float)


def test_scores_inside_sets_are_the_diagonal():
    labels, features, responses = data()
    with jax.enable_x64(True):
        ours = _inside(features, np.array(WIDTHS, np.int32), responses, row_sets.buckets(labels, (32,)))
    np.testing.assert_allclose(ours, own(), atol=1e-13)


def test_one_set_scores_as_scipy_says():
    features, responses = even()
    buckets = row_sets.buckets(np.zeros(24, int), (32,))
    with jax.enable_x64(True):
        both = (features, np.array([6, 6], np.int32), responses, buckets)
        ours = np.asarray(_inside(*both))[0]
    for f, c in np.ndindex(ours.shape):
        sides = pdist(features[f], "correlation"), pdist(responses[:, [c]], "cityblock")
        assert abs(ours[f, c] - stats.spearmanr(*sides).statistic) < 1e-12


def test_partial_scores_are_scipys_of_residual_ranks():
    """A second road to the partial score: the formula from three rank correlations."""
    labels, features, responses = data()
    rows = np.flatnonzero(labels == 40)
    sides = [
        oracle.distances(features[0, rows], "correlation"),
        oracle.distances(responses[rows, :1], "difference"),
        oracle.time_apart(len(rows)),
    ]
    r = stats.spearmanr(np.round(np.stack(sides, axis=1), 11)).statistic
    want = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert abs(scores((32,), is_time_partialled=True)[4, 4, 0, 0] - want) < 1e-12


def test_a_constant_channel_is_nan_and_spares_the_others():
    features, responses = even()
    responses = responses.copy()
    responses[:, 1] = 2
    buckets = row_sets.buckets(np.zeros(24, int), (32,))
    with jax.enable_x64(True):
        out = np.asarray(_inside(features, np.array([6, 6], np.int32), responses, buckets))
    assert np.isnan(out[..., 1]).all()
    assert np.isfinite(np.delete(out, 1, axis=-1)).all()


# Nulls.


def test_counts_equal_a_numpy_loop_exactly():
    matchings = row_sets.mismatches(5, 60, 2)
    with jax.enable_x64(True):
        null = np.asarray(mismatch.mismatch_null(jnp.asarray(scores()), matchings))
        blank = Null(np.zeros((1, 1), np.int32), np.zeros((N_CHANNELS, 0)), np.zeros(N_CHANNELS, np.int32))
        folds = jnp.moveaxis(jnp.asarray(own()), 0, 1)[:, :, None]
        kept = summarise(jnp.asarray(null)[:, :, None], folds, blank, tail=Rsa.tail)
    want = np.stack([oracle.mean_under(slow(), one) for one in matchings])
    np.testing.assert_allclose(null, want, atol=1e-13)
    np.testing.assert_array_equal(kept.exceed_count[:, 0], (want[1:] >= want[0] - 1e-12).sum(0))
    np.testing.assert_allclose(kept.value[:, 0], own().mean(0), atol=1e-13)
    np.testing.assert_allclose(kept.z[:, 0], (want[0] - want.mean(0)) / want.std(0), atol=1e-10)


def test_the_mismatch_mean_leaves_the_own_set_out():
    with jax.enable_x64(True):
        ours = np.asarray(mismatch.mismatch_mean(jnp.asarray(scores())))
    others = [slow()[s, o] for s, o in np.ndindex(5, 5) if s != o]
    np.testing.assert_allclose(ours, np.mean(others, axis=0), atol=1e-13)


def test_shifted_and_permuted_frames_score_as_reordered_features():
    labels, features, responses = data()
    buckets = row_sets.buckets(labels, (32,))
    rows = [row_sets.frame_labellings(buckets[0], 2, 0)]

    @jax.jit
    def both(features, responses):
        sides = (
            sentences.set_rdms(features, np.array(WIDTHS, np.int32), buckets),
            sentences.channel_rdms(responses, buckets),
        )
        permuted = sentences.relabelled_scores(*sides, buckets, list(map(jnp.asarray, rows)))
        return sentences.shift_scores(*sides, buckets), permuted

    with jax.enable_x64(True):
        shifted, permuted = map(np.asarray, both(features, responses))
    np.testing.assert_allclose(permuted[:, 0], own(), atol=1e-13)
    place = list(buckets[0].sets).index(1)
    here = np.flatnonzero(labels == 10)
    drawn = rows[0][place, 2, : len(here)]
    assert (drawn != np.arange(len(here))).any()
    for got, order in ((permuted[1, 2], drawn), (shifted[1, 5], (np.arange(len(here)) + 5) % len(here))):
        want = oracle.pair_score(features[0, here[order]], responses[here], "correlation", "spearman")
        np.testing.assert_allclose(got[0], want, atol=1e-13)


def test_wrong_names_and_sides_are_refused():
    labels, features, _ = data()
    buckets = row_sets.buckets(labels, LADDER)
    widths = np.array(WIDTHS, np.int32)
    with pytest.raises(ValueError, match=r"distance='correlations' is not .*correlation"):
        sentences.set_rdms(features, widths, buckets, "correlations")
    with pytest.raises(ValueError, match="patterns have width 6"):
        sentences.set_rdms(features, widths, buckets, "difference")
    one = sentences.SetRdms([np.zeros((5, 2, 276))])
    with pytest.raises(ValueError, match=r"RDMs of the features have \(sets, pairs\) \[\(5, 276\)\]"):
        sentences.set_scores(one, one, buckets)
    with pytest.raises(ValueError, match=r"comparator='spearmann' .*spearman"):
        sentences.set_scores(one, one, buckets, "spearmann")


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_matrix_of_pairs_lowers_for_accelerators(platform):
    labels, features, responses = (np.asarray(x, np.float32) if x.dtype.kind == "f" else x for x in data())
    given = (features, np.array(WIDTHS, np.int32), responses, row_sets.buckets(labels, LADDER))
    traced = _compiled.trace(*given, "correlation", "spearman", True)
    assert "stablehlo" in traced.lower(lowering_platforms=(platform,)).as_text()


# Calibration: independent smooth series in every sentence.


def _null_data(rng, n_data, sizes, sd, planted=0.0):
    """Features (n_data, n_rows, 1) and responses (n_rows, n_data) of independent smooth series, one pair per data set."""
    sides = [np.concatenate([oracle.smooth(rng, n, n_data, sd) for n in sizes]) for _ in range(2)]
    sides[1] = sides[1] + planted * sides[0]
    return sides[0].T[:, :, None].astype(np.float32), sides[1].astype(np.float32)


@partial(jax.jit, static_argnames="sizes")
def _nulls(features, responses, buckets, orders, matchings, moves, sizes):
    """(n_data, n_permutations + 1) of mismatch without length, circular, label, and the raw mismatch."""

    def one(both):
        sides = (
            sentences.set_rdms(both[0][None], jnp.ones(1, jnp.int32), buckets, "difference"),
            sentences.channel_rdms(both[1][:, None], buckets),
        )
        pairs = sentences.pair_scores(*sides, buckets)
        even = mismatch.without_length(pairs, sizes)
        return (
            mismatch.mismatch_null(even, matchings)[:, 0, 0],
            mismatch.shift_null(sentences.shift_scores(*sides, buckets), moves)[:, 0, 0],
            jnp.mean(sentences.relabelled_scores(*sides, buckets, orders), axis=0)[:, 0, 0],
            mismatch.mismatch_null(pairs, matchings)[:, 0, 0],
        )

    return jax.lax.map(one, (features, responses.T))


def rejected(n_data, sizes, sd, seed=0, n_permutations=99, planted=0.0):
    """Share of data sets with p <= .05 under mismatch without length, circular, label, and the raw mismatch."""
    sizes = np.asarray(sizes)
    rng = np.random.default_rng(seed)
    buckets = row_sets.buckets(np.repeat(np.arange(len(sizes)), sizes), (int(sizes.max()),))
    orders = [row_sets.frame_labellings(one, n_permutations, seed) for one in buckets]
    matchings = row_sets.mismatches(len(sizes), n_permutations, seed)
    moves = row_sets.shifts(sizes, n_permutations, seed)
    nulls = _nulls(
        *_null_data(rng, n_data, sizes, sd, planted), buckets, orders, matchings, moves, tuple(map(int, sizes))
    )
    p = [(1 + (one[:, 1:] >= one[:, :1] - 1e-6).sum(1)) / one.shape[1] for one in map(np.asarray, nulls)]
    return [float((one <= 0.05).mean()) for one in p]


def limits(n_data, level=0.05):
    return stats.binom.ppf([0.001, 0.999], n_data, level) / n_data


RAGGED = (24, 30, 36, 40, 28, 33, 38, 26)


def test_only_the_mismatch_holds_for_smooth_series():
    n_data = 200
    mismatch, circular, label, raw = rejected(n_data, RAGGED, 4.0)
    low, high = limits(n_data)
    assert low <= mismatch <= high
    assert label > 0.9
    assert circular > high
    assert raw <= mismatch


def test_length_is_taken_out_by_a_line_that_leaves_the_score_alone():
    sizes, own = np.array(SIZES), np.arange(5)
    with jax.enable_x64(True):
        ours = np.asarray(mismatch.without_length(jnp.asarray(slow()), sizes))
        same = np.asarray(mismatch.without_length(jnp.asarray(slow()), np.full(5, 9)))
    common = np.minimum(sizes[:, None], sizes[None, :])
    for cell in np.ndindex(ours.shape[2:]):
        slope = stats.linregress(common.ravel(), slow()[(..., *cell)].ravel()).slope
        want = slow()[(..., *cell)] - slope * (common - sizes.mean())
        np.testing.assert_allclose(ours[(..., *cell)], want, atol=1e-13)
    np.testing.assert_allclose(ours[own, own].mean(0), slow()[own, own].mean(0), atol=1e-13)
    np.testing.assert_array_equal(same, slow())


def test_a_planted_signal_is_found_by_the_mismatch():
    assert rejected(200, RAGGED, 4.0, seed=1, planted=1.5)[0] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(100,) * 12, tuple(range(60, 141, 7))])
def test_only_the_mismatch_holds_over_a_thousand_null_data_sets(sizes):
    """Lengths that vary make the raw mismatch conservative; without length it holds at .05 from both sides."""
    n_data = 1000
    mismatch, circular, label, raw = rejected(n_data, sizes, 8.0, seed=2)
    low, high = limits(n_data)
    assert low <= mismatch <= high
    assert label > 0.9
    assert circular > high
    assert raw == mismatch if len(set(sizes)) == 1 else raw < low
