"""Schemes allow what their definition allows and no more, list it when it is short, and draw it evenly when it is not."""

import itertools
import math

import numpy as np
import oracles
import oracles_labellings
import pytest
from scipy import stats

from jaxalign.compute import inference, permute
from jaxalign.compute.labellings import SALTS, TAKES, draw, p_of

pytestmark = pytest.mark.usefixtures("strict")

# scheme -> labels of the rows, and how many labellings there are.
SMALL = {
    "label": (None, 120),
    "strata": (["b", "a", "b", "c", "a", "b", "c"], 3 * 2 * 2 * 2),
    "block": ([2, 0, 2, 1, 0, 1, 3, 3], 24),
    "mismatch": (["x", "x", "z", "z", "y", "y"], 6),
    "circular": ([5, 5, 5, 1, 1, 1, 1, 3], 12),
}
N_SMALL = {"label": 5}


def small(scheme, n_permutations, seed=0):
    labels, _ = SMALL[scheme]
    option = {} if labels is None else {TAKES[scheme]: np.array(labels)}
    return draw(scheme, N_SMALL.get(scheme) or len(labels), n_permutations, seed, **option)


def tuples(rows):
    return [tuple(row) for row in rows.tolist()]


# All labellings.


@pytest.mark.parametrize("scheme", SMALL)
def test_few_labellings_are_all_listed_once_the_identity_first(scheme):
    labels, n_distinct = SMALL[scheme]
    made = small(scheme, n_distinct)
    n_rows = made.rows.shape[1]
    assert set(tuples(made.rows)) == oracles_labellings.allowed(scheme, n_rows, labels)
    assert len(made.rows) == n_distinct
    assert tuple(made.rows[0]) == tuple(range(n_rows))
    assert made.rows.dtype == np.int32
    assert made.is_exhaustive
    assert made.n_permutations == n_distinct - 1
    assert made.floor == pytest.approx(1 / n_distinct)


@pytest.mark.parametrize("scheme", SMALL)
def test_one_labelling_more_than_asked_for_and_they_are_drawn(scheme):
    _, n_distinct = SMALL[scheme]
    made = small(scheme, n_distinct - 1)
    assert not made.is_exhaustive
    assert len(made.rows) == n_distinct


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_listed_does_not_depend_on_the_seed(seed):
    np.testing.assert_array_equal(small("block", 100, seed).rows, small("block", 24, 7).rows)


# Random labellings.


@pytest.mark.parametrize("scheme", SMALL)
def test_every_allowed_labelling_is_drawn_equally_often_and_no_other(scheme):
    labels, n_distinct = SMALL[scheme]
    per_seed = n_distinct - 1
    drawn = np.concatenate([small(scheme, per_seed, seed).rows[1:] for seed in range(math.ceil(6000 / per_seed))])
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert set(tuples(found)) == oracles_labellings.allowed(scheme, drawn.shape[1], labels)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("scheme", SMALL)
def test_a_labelling_depends_on_its_index_and_not_on_how_many_there_are(scheme):
    many, few = small(scheme, SMALL[scheme][1] - 1, 3), small(scheme, 4, 3)
    np.testing.assert_array_equal(many.rows[:5], few.rows)
    assert tuple(few.rows[0]) == tuple(range(few.rows.shape[1]))


@pytest.mark.parametrize("scheme", SMALL)
def test_labellings_depend_on_the_seed(scheme):
    n_permutations = SMALL[scheme][1] - 1
    assert (small(scheme, n_permutations, 3).rows != small(scheme, n_permutations, 4).rows).any()


def test_schemes_do_not_share_their_draws():
    """Strata of one stratum, and blocks of one row, allow what label allows; their draws are their own."""
    rows = [
        draw("label", 9, 20, 0).rows,
        draw("strata", 9, 20, 0, strata=np.zeros(9)).rows,
        draw("block", 9, 20, 0, blocks=1).rows,
    ]
    for one, other in itertools.combinations(rows, 2):
        assert (one[1:] != other[1:]).any(axis=1).all()
    assert len(set(SALTS.values())) == len(SALTS) - 1


def test_label_draws_what_results_on_disk_were_drawn_with():
    np.testing.assert_array_equal(draw("label", 200, 50, 3).rows, permute.labellings(200, 50, 3))


def test_draws_are_those_of_the_first_release():
    def first(scheme, **option):
        return draw(scheme, 8, 2, 7, **option).rows[1:].tolist()

    labels = np.repeat([0, 1], 4)
    assert first("label") == [[3, 1, 5, 4, 0, 6, 2, 7], [7, 3, 5, 4, 6, 1, 2, 0]]
    assert first("strata", strata=labels) == [[3, 0, 2, 1, 7, 6, 5, 4], [3, 2, 1, 0, 5, 4, 7, 6]]
    assert first("block", blocks=2) == [[0, 1, 2, 3, 6, 7, 4, 5], [0, 1, 4, 5, 6, 7, 2, 3]]
    assert first("circular", sequences=labels) == [[2, 3, 0, 1, 6, 7, 4, 5], [2, 3, 0, 1, 7, 4, 5, 6]]


def test_copies_of_the_identity_among_random_labellings_stay_and_lift_the_floor():
    made = small("mismatch", 5, 0)
    copies = sum(row == tuple(range(6)) for row in tuples(made.rows))
    assert copies > 1
    assert made.floor == copies / 6


def test_without_permutations_there_is_the_identity_alone_and_no_floor():
    made = draw("label", 7, 0, 0)
    np.testing.assert_array_equal(made.rows, np.arange(7)[None])
    assert np.isnan(made.floor)
    assert made.warning is None
    assert np.isnan(p_of(np.zeros(2, int), made)).all()


# What each scheme means.


def test_blocks_given_by_their_size_are_contiguous_ones():
    by_label = draw("block", 12, 30, 5, blocks=np.repeat(np.arange(4), 3))
    by_size = draw("block", 12, 30, 5, blocks=3)
    np.testing.assert_array_equal(by_size.rows, by_label.rows)


def test_mismatch_moves_whole_sequences_as_blocks_do():
    labels = np.repeat(["c", "a", "b", "e", "d"], 4)
    blocks = draw("block", 20, 40, 1, blocks=labels)
    np.testing.assert_array_equal(draw("mismatch", 20, 40, 1, sequences=labels).rows, blocks.rows)


def test_each_sequence_is_shifted_by_its_own_number_of_rows():
    labels = np.repeat([0, 1], [9, 14])
    rows = draw("circular", 23, 100, 0, sequences=labels).rows
    first, second = rows[:, 0], rows[:, 9] - 9
    for shift in (first, second):
        assert len(set(shift.tolist())) > 7
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3
    assert (np.diff(rows[:, :9]) % 9 == 1).all()
    assert (np.diff(rows[:, 9:]) % 14 == 1).all()


# Floors and warnings.


def test_a_circular_shift_says_its_rate_and_its_floor():
    made = draw("circular", 30, 999, 0, sequences=np.repeat([0, 1], 15))
    assert made.is_exhaustive
    assert made.floor == pytest.approx(1 / 225)
    assert ".125 to .69" in made.warning
    assert "mismatch" in made.warning
    assert "never below 0.00444" in made.warning
    assert "nothing can reach" not in made.warning


@pytest.mark.parametrize(("n_permutations", "is_told"), [(18, True), (19, False)])
def test_a_floor_above_the_level_is_told(n_permutations, is_told):
    made = draw("label", 24, n_permutations, 0)
    assert made.floor == inference.p_floor(n_permutations)
    assert (made.warning is not None) == is_told


def test_a_floor_above_the_level_is_told_of_short_sequences_too():
    made = draw("circular", 12, 999, 0, sequences=np.zeros(12))
    assert made.floor == pytest.approx(1 / 12)
    assert "12 labellings are all there are: p is never below 0.0833, so nothing can reach 0.05." in made.warning


# p.


@pytest.fixture(scope="module")
def rdms():
    """Two RDMs of five stimuli that share something, and one whose many ties make labellings score alike."""
    rng = np.random.default_rng(5)
    patterns = rng.standard_normal((5, 6))
    other = patterns + rng.standard_normal((5, 6))
    groups = np.array([0, 0, 1, 1, 1])
    return [
        *(oracles_labellings.sqeuclidean_rdms(one) for one in (patterns, other)),
        1.0 * (groups[:, None] != groups[None, :]),
    ]


def spearman_of(ours, theirs, row):
    return oracles.spearman(oracles.condensed(ours), oracles.condensed(theirs[np.ix_(row, row)]))


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (0, 2), (2, 1)])
def test_exhaustive_p_is_the_exact_share(rdms, pair):
    ours, theirs = rdms[pair[0]], rdms[pair[1]]
    made = draw("label", 5, 1000, 0)
    null = np.array([spearman_of(ours, theirs, row) for row in made.rows])
    p = p_of(oracles.exceedances(null[:, None]), made).item()
    exact = oracles_labellings.exact_p(
        lambda row: spearman_of(ours, theirs, row), oracles_labellings.allowed("label", 5, None)
    )
    assert p == pytest.approx(float(exact), abs=1e-15)
    # Floor below each p.
    assert made.floor <= p
    peer = stats.permutation_test(
        (np.arange(5),),
        lambda row: spearman_of(ours, theirs, row.astype(int)),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
        vectorized=False,
    )
    assert p == pytest.approx(peer.pvalue, abs=1e-15)


def test_random_p_is_that_of_the_house():
    made = draw("label", 24, 99, 0)
    counts = np.array([0, 4, 99])
    np.testing.assert_array_equal(p_of(counts, made), inference.p_value(counts, 99))


@pytest.mark.parametrize("counts", [[0, 100], [-1, 3]])
def test_counts_of_other_labellings_are_refused(counts):
    with pytest.raises(ValueError, match="there are 99 labellings beside the observed one"):
        p_of(np.array(counts), draw("label", 24, 99, 0))


# Given labellings.


def test_given_labellings_are_kept_in_order_behind_the_identity():
    given = np.random.default_rng(0).permuted(np.tile(np.arange(6), (30, 1)), axis=1).astype(np.int64)
    made = draw("given", 6, 5, 0, given=given)
    np.testing.assert_array_equal(made.rows[1:], given)
    np.testing.assert_array_equal(made.rows[0], np.arange(6))
    assert made.rows.dtype == np.int32
    assert not made.is_exhaustive
    assert made.floor == pytest.approx(1 / 31)


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_given_identity_moves_to_the_front_and_counts_once(place):
    others = [[1, 0, 2], [2, 1, 0], [1, 2, 0]]
    made = draw("given", 3, 0, 0, given=np.array([*others[:place], [0, 1, 2], *others[place:]]))
    np.testing.assert_array_equal(made.rows, [[0, 1, 2], *others])


def test_all_labellings_given_give_the_p_of_all_labellings(rdms):
    listed = draw("label", 5, 120, 0)
    given = draw("given", 5, 0, 0, given=listed.rows[::-1])
    p = []
    for made in (listed, given):
        null = np.array([spearman_of(rdms[0], rdms[1], row) for row in made.rows])
        p.append(p_of(oracles.exceedances(null[:, None]), made).item())
    assert p[0] == p[1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            [0, 3, 3, 1],
            r"Labelling 1 of the 2 given is not a permutation of 4 rows: it holds 3 2 times and 2 not at all",
        ),
        ([0, 9, 2, 1], r"Labelling 1 .* it holds 9, outside 0 to 3\.$"),
        ([0, -1, 2, 1], r"Labelling 1 .* it holds -1, outside 0 to 3\.$"),
    ],
)
def test_what_is_no_permutation_is_named_with_its_row_and_value(bad, message):
    with pytest.raises(ValueError, match=message):
        draw("given", 4, 0, 0, given=np.array([[3, 2, 1, 0], bad]))


def test_labellings_that_count_from_one_are_told_so():
    with pytest.raises(ValueError, match=r"Labelling 0 .* holds 3, outside 0 to 2\. They count from 1: subtract 1\."):
        draw("given", 3, 0, 0, given=np.array([[3, 2, 1], [1, 2, 3]]))


@pytest.mark.parametrize("given", [np.zeros((2, 3), int), np.zeros(4, int), np.zeros((2, 4)), np.zeros((2, 4), bool)])
def test_given_labellings_of_another_shape_or_dtype_are_refused(given):
    with pytest.raises(ValueError, match=r"given has shape .* and dtype .*: labellings are integers of shape"):
        draw("given", 4, 0, 0, given=given)


@pytest.mark.parametrize("n_given", [0, 2])
def test_given_labellings_with_none_but_the_identity_are_refused(n_given):
    with pytest.raises(ValueError, match=f"The {n_given} given labellings hold none but the identity"):
        draw("given", 4, 0, 0, given=np.tile(np.arange(4), (n_given, 1)))


# What is refused.


@pytest.mark.parametrize(
    ("scheme", "option"),
    [
        ("strata", {"strata": np.arange(4)}),
        ("block", {"blocks": 4}),
        ("mismatch", {"sequences": np.zeros(4)}),
        ("circular", {"sequences": np.arange(4)}),
    ],
)
def test_a_scheme_without_a_second_labelling_is_refused(scheme, option):
    with pytest.raises(ValueError, match=rf"scheme='{scheme}' leaves no labelling of the 4 rows but the identity"):
        draw(scheme, 4, 10, 0, **option)


@pytest.mark.parametrize("scheme", [scheme for scheme, option in TAKES.items() if option])
def test_a_scheme_without_its_argument_is_refused(scheme):
    with pytest.raises(ValueError, match=rf"scheme='{scheme}' needs `{TAKES[scheme]}`, and it is None"):
        draw(scheme, 6, 10, 0)


def test_an_argument_that_would_not_be_read_is_refused():
    with pytest.raises(ValueError, match=r"scheme='label' does not read strata: leave that out"):
        draw("label", 6, 10, 0, strata=np.zeros(6))


def test_an_unknown_scheme_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"scheme='blocks' is not a scheme\. Nearest: block"):
        draw("blocks", 6, 10, 0)


def test_entries_are_no_scheme_and_the_answer_says_why():
    with pytest.raises(ValueError, match=r"scheme='entries' is not a scheme\..*not exchangeable.*\.26 to \.33"):
        draw("entries", 6, 10, 0)


@pytest.mark.parametrize(("n_rows", "n_permutations"), [(1, 10), (0, 10), (6, -1)])
def test_too_few_rows_or_permutations_are_refused(n_rows, n_permutations):
    with pytest.raises(ValueError, match=f"n_rows={n_rows} and n_permutations={n_permutations}"):
        draw("label", n_rows, n_permutations, 0)


def test_blocks_of_different_size_are_refused_with_their_sizes():
    with pytest.raises(ValueError, match=r"3 blocks differ in size \(2 of size 1, 1 of size 2\).*leave out the others"):
        draw("block", 4, 10, 0, blocks=np.array([0, 0, 1, 2]))


def test_sequences_of_different_length_are_sent_to_the_functions_for_sentences():
    with pytest.raises(
        ValueError, match=r"2 sequences differ in size \(1 of size 2, 1 of size 3\).*compute\.sentences"
    ):
        draw("mismatch", 5, 10, 0, sequences=np.array([0, 0, 1, 1, 1]))


def test_a_block_size_that_leaves_a_rest_is_refused():
    with pytest.raises(ValueError, match="10 rows are not whole blocks of 3"):
        draw("block", 10, 10, 0, blocks=3)


@pytest.mark.parametrize("scheme", ["circular", "mismatch"])
def test_a_sequence_in_pieces_is_refused_with_its_name(scheme):
    with pytest.raises(ValueError, match="Sequence b is in 2 pieces"):
        draw(scheme, 6, 10, 0, sequences=np.array(["a", "b", "b", "c", "c", "b"]))


@pytest.mark.parametrize("labels", [[0.0, np.nan, 1.0, 1.0], np.array(["a", None, "b", "b"], object)])
def test_a_row_without_a_label_is_refused(labels):
    with pytest.raises(ValueError, match="strata is missing for 1 of 4 rows, the first is row 1"):
        draw("strata", 4, 10, 0, strata=labels)


def test_labels_of_another_number_of_rows_are_refused():
    with pytest.raises(ValueError, match=r"strata has shape \(5,\): one label for each of the 6 rows"):
        draw("strata", 6, 10, 0, strata=np.zeros(5))
