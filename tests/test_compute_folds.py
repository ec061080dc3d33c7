"""Folds: every row is tested once, groups stay together, the same seed gives the same folds, padding is marked."""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.compute import folds

SIZES = [(10, 5), (11, 4), (23, 5), (5, 5)]


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES)
def test_contiguous_folds_equal_scikit_learn(n_rows, n_folds):
    from sklearn.model_selection import KFold

    expected = np.zeros((n_folds, n_rows), bool)
    for fold, (_, test) in enumerate(KFold(n_folds).split(np.zeros(n_rows))):
        expected[fold, test] = True
    np.testing.assert_array_equal(folds.contiguous(n_rows, n_folds), expected)


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES)
def test_every_row_is_tested_exactly_once(n_rows, n_folds):
    np.testing.assert_array_equal(folds.shuffled(n_rows, n_folds, 7).sum(0), 1)


@pytest.mark.parametrize(("n_rows", "n_folds"), SIZES)
def test_fold_sizes_differ_by_at_most_one(n_rows, n_folds):
    assert np.ptp(folds.shuffled(n_rows, n_folds, 7).sum(1)) <= 1


def test_the_seed_alone_decides_the_folds():
    np.testing.assert_array_equal(folds.shuffled(40, 5, 3), folds.shuffled(40, 5, 3))
    assert (folds.shuffled(40, 5, 3) != folds.shuffled(40, 5, 4)).any()


def test_groups_are_never_split():
    groups = np.repeat(np.array(["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]), [3, 1, 4, 2, 5, 1, 4])
    is_test = folds.shuffled(len(groups), 3, 0, groups)
    for fold in is_test:
        assert not set(groups[fold]) & set(groups[~fold])


def test_every_row_of_grouped_folds_is_tested_exactly_once():
    groups = np.arange(30) // 4
    np.testing.assert_array_equal(folds.shuffled(30, 4, 0, groups).sum(0), 1)


def test_inner_folds_never_split_groups_either():
    groups = np.arange(36) // 3
    made = folds.design(folds.shuffled(36, 3, 0, groups), 2, 0, groups=groups)
    masks = oracles.masks_of(made)
    for train, test in zip(masks["inner_train"].reshape(-1, 36), masks["inner_test"].reshape(-1, 36), strict=True):
        assert not set(groups[train]) & set(groups[test])


@pytest.mark.parametrize("make", [folds.contiguous, lambda n, k: folds.shuffled(n, k, 0)])
def test_too_few_rows_say_how_many_folds_are_possible(make):
    with pytest.raises(ValueError, match=r"4 stimuli \(or groups\) cannot fill 5 folds.*at most 4"):
        make(4, 5)


def test_too_few_groups_say_how_many_folds_are_possible():
    with pytest.raises(ValueError, match=r"3 stimuli \(or groups\) cannot fill 5 folds"):
        folds.shuffled(30, 5, 0, np.arange(30) % 3)


@pytest.mark.parametrize("n_folds", [1, 0, -2])
def test_fewer_than_two_folds_are_refused(n_folds):
    with pytest.raises(ValueError, match=f"{n_folds} folds were asked for"):
        folds.contiguous(10, n_folds)


def test_a_training_part_smaller_than_the_inner_folds_is_refused():
    with pytest.raises(ValueError, match="3 stimuli"):
        folds.design(folds.contiguous(6, 2), 5, 0)


def test_padding_is_marked_and_the_rest_are_the_rows_of_the_mask():
    masks = np.array([[True, False, True, True], [False, True, False, False]])
    index, is_real = folds.padded(masks)
    np.testing.assert_array_equal(is_real, [[True, True, True], [True, False, False]])
    np.testing.assert_array_equal(index, [[0, 2, 3], [1, 0, 0]])


def test_indexed_folds_hold_the_rows_of_their_masks(rng):
    is_test = folds.shuffled(23, 5, 0)
    made = folds.indexed(~is_test, is_test)
    for fold in range(5):
        np.testing.assert_array_equal(made.test[fold][made.is_test[fold]], np.flatnonzero(is_test[fold]))
        np.testing.assert_array_equal(made.train[fold][made.is_train[fold]], np.flatnonzero(~is_test[fold]))


@pytest.mark.parametrize("shuffle", [True, False])
def test_inner_folds_split_the_outer_training_rows_and_nothing_else(shuffle):
    masks = oracles.masks_of(folds.design(folds.shuffled(23, 4, 0), 3, 0, shuffle=shuffle))
    for outer in range(4):
        np.testing.assert_array_equal(masks["inner_test"][outer].sum(0), masks["outer_train"][outer])
        union = masks["inner_train"][outer] | masks["inner_test"][outer]
        np.testing.assert_array_equal(union, np.tile(masks["outer_train"][outer], (3, 1)))
        assert not (masks["inner_train"][outer] & masks["inner_test"][outer]).any()


def test_unshuffled_inner_folds_are_contiguous_in_the_training_rows():
    masks = oracles.masks_of(folds.design(folds.contiguous(24, 4), 3, 0, shuffle=False))
    training = np.flatnonzero(masks["outer_train"][1])
    for fold, test in enumerate(masks["inner_test"][1]):
        np.testing.assert_array_equal(np.flatnonzero(test), np.array_split(training, 3)[fold])


def test_rdm_stimuli_are_the_given_test_set_or_all():
    is_test = np.zeros((1, 12), bool)
    is_test[0, [2, 5, 7]] = True
    np.testing.assert_array_equal(folds.design(is_test, 3, 0, is_fixed_split=True).rsa_rows, [2, 5, 7])
    np.testing.assert_array_equal(folds.design(folds.contiguous(12, 3), 3, 0).rsa_rows, np.arange(12))


# scikit-learn's cv.


def rows_of(made, fold):
    """Training and test rows of one fold."""
    return made.train[fold][made.is_train[fold]], made.test[fold][made.is_test[fold]]


GROUPS = np.repeat(np.arange(8), [3, 1, 4, 2, 5, 1, 4, 2])


def splitters():
    from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, ShuffleSplit, TimeSeriesSplit

    return {
        "KFold": KFold(4, shuffle=True, random_state=0),
        "GroupKFold": GroupKFold(3),
        "LeaveOneGroupOut": LeaveOneGroupOut(),
        "TimeSeriesSplit": TimeSeriesSplit(4, gap=2),
        "ShuffleSplit": ShuffleSplit(3, test_size=0.3, random_state=0),
    }


@pytest.mark.parametrize("name", ["KFold", "GroupKFold", "LeaveOneGroupOut", "TimeSeriesSplit", "ShuffleSplit"])
@pytest.mark.parametrize("as_pairs", [lambda cv: cv, lambda cv: list(pairs(cv)), lambda cv: pairs(cv)])
def test_splitters_lists_and_generators_give_the_rows_of_scikit_learn(name, as_pairs):
    cv = splitters()[name]
    made = folds.of_cv(as_pairs(cv), 22, GROUPS if "Group" in name else None)
    expected = list(pairs(cv))
    assert len(made.train) == len(expected)
    for fold, (train, test) in enumerate(expected):
        np.testing.assert_array_equal(rows_of(made, fold)[0], np.sort(train))
        np.testing.assert_array_equal(rows_of(made, fold)[1], np.sort(test))
    assert made.is_complement
    assert made.is_partition == (name in ("KFold", "GroupKFold", "LeaveOneGroupOut"))
    assert (made.rest is not None) == (name == "TimeSeriesSplit")


def pairs(cv):
    return cv.split(np.zeros((22, 1)), None, GROUPS if "Group" in type(cv).__name__ else None)


def test_a_number_of_folds_is_contiguous_and_with_groups_as_group_k_fold():
    made = folds.of_cv(4, 22)
    for fold, test in enumerate(np.array_split(np.arange(22), 4)):
        np.testing.assert_array_equal(rows_of(made, fold)[1], test)
    made = folds.of_cv(np.int64(3), 22, GROUPS)
    sizes = sorted(len(rows_of(made, fold)[1]) for fold in range(3))
    expected = sorted(len(test) for _, test in splitters()["GroupKFold"].split(np.zeros(22), None, GROUPS))
    assert sizes == expected and made.is_partition
    for fold in range(3):
        train, test = rows_of(made, fold)
        assert not set(GROUPS[train]) & set(GROUPS[test])


def test_pairs_may_be_masks_and_rows_may_repeat():
    train = np.arange(10) < 6
    made = folds.of_cv([(train, ~train)], 10)
    np.testing.assert_array_equal(rows_of(made, 0)[0], np.arange(6))
    repeated = folds.of_cv([([0, 0, 1], [2, 3]), ([4], [5, 5])], 10)
    np.testing.assert_array_equal(rows_of(repeated, 0)[0], [0, 0, 1])
    np.testing.assert_array_equal(rows_of(repeated, 1)[1], [5, 5])
    assert not repeated.is_complement and not repeated.is_partition
    only_test = folds.of_cv([([0, 1], [5, 5, 6])], 10)
    np.testing.assert_array_equal(rows_of(only_test, 0)[1], [5, 5, 6])


@pytest.mark.parametrize(
    ("cv", "words"),
    [
        (None, "cv=None is none of: a number of folds"),
        (True, "cv=True is none of"),
        ("kfold", "cv='kfold' is none of"),
        (1, "1 folds were asked for"),
        (30, r"22 stimuli \(or groups\) cannot fill 30 folds"),
        ([], "yields no fold. An iterator that was used up"),
        ([([], [1])], "A fold has no training rows"),
        ([([1], [])], "A fold has no test rows"),
        ([([1], [22])], "names test row 22, and there are rows 0 to 21"),
        ([([-1], [2])], "names training row -1, and there are rows 0 to 21"),
        ([([0], [1]), ([1, 2, 3], [3, 2, 5])], "Fold 1 tests 2 of its training rows, first row 2"),
    ],
)
def test_folds_that_cannot_be_are_refused(cv, words):
    with pytest.raises(ValueError, match=words):
        folds.of_cv(cv, 22)


def test_a_generator_that_was_used_up_is_refused():
    generator = pairs(splitters()["KFold"])
    list(generator)
    with pytest.raises(ValueError, match="yields no fold"):
        folds.of_cv(generator, 22)


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(ValueError, match=r"8 groups cannot fill 9 folds\. Ask for at most 8"):
        folds.of_cv(9, 22, GROUPS)


# What the flags say.


@given(seed=st.integers(0, 2**32 - 1), n_folds=st.integers(1, 4), is_whole=st.booleans(), has_rest=st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_flags_say_what_the_masks_are(seed, n_folds, is_whole, has_rest):
    rng = np.random.default_rng(seed)
    base = np.ones(15, bool) if is_whole else rng.random(15) < 0.8
    kind = rng.integers(0, 3 if has_rest else 2, (n_folds, 15))
    kind[:, :2] = 0, 1
    base[:2] = True
    if seed % 2 and n_folds > 1:  # a true partition
        kind = np.where(np.arange(15) % n_folds == np.arange(n_folds)[:, None], 1, 0)
    train, test = (kind == 0) & base, (kind == 1) & base
    made = folds.indexed(train, test, base)
    rest = base & ~train & ~test
    assert made.is_complement
    assert (made.rest is not None) == rest.any()
    assert made.is_partition == (not rest.any() and (test.sum(0) == base).all())
    for fold in range(n_folds):
        np.testing.assert_array_equal(rows_of(made, fold)[0], np.flatnonzero(train[fold]))
        np.testing.assert_array_equal(rows_of(made, fold)[1], np.flatnonzero(test[fold]))
        if rest.any():
            np.testing.assert_array_equal(made.rest[fold][made.is_rest[fold]], np.flatnonzero(rest[fold]))


# Blocks, runs, and designs by name.


@given(n=st.integers(12, 50), n_folds=st.integers(2, 5), gap=st.integers(0, 3))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_no_training_row_is_within_the_gap_of_a_test_row(n, n_folds, gap):
    train, test = folds.blocks(n, n_folds, gap)
    for trained, tested in zip(train, test, strict=True):
        distance = np.abs(np.flatnonzero(trained)[:, None] - np.flatnonzero(tested)[None, :])
        assert distance.min() > gap
        assert (trained | tested).sum() >= n - 2 * gap
    np.testing.assert_array_equal(test, folds.contiguous(n, n_folds))


def test_a_gap_that_leaves_nothing_or_is_negative_is_refused():
    with pytest.raises(ValueError, match="gap=9 leaves no training rows of 12 in 2 blocks"):
        folds.blocks(12, 2, 9)
    with pytest.raises(ValueError, match="gap=-1: a number of rows from 0"):
        folds.blocks(12, 2, -1)


def test_one_group_is_left_out_at_a_time_and_one_alone_cannot_be():
    is_test = folds.leave_one_group_out(GROUPS)
    for group, tested in enumerate(is_test):
        np.testing.assert_array_equal(tested, group == GROUPS)
    with pytest.raises(ValueError, match=r"All 4 rows are of one group \(a\)"):
        folds.leave_one_group_out(np.array(["a"] * 4))


def test_designs_by_name_are_what_their_parts_are():
    masks = oracles.masks_of(folds.nested("shuffled", 22, 4, 3, 5))
    np.testing.assert_array_equal(masks["outer_test"], folds.shuffled(22, 4, 5))
    auto = oracles.masks_of(folds.nested("auto", 22, 4, 3, 5, groups=GROUPS))
    np.testing.assert_array_equal(auto["outer_test"], folds.shuffled(22, 4, 5, GROUPS))
    by_run = oracles.masks_of(folds.nested("auto", 22, 4, 3, 5, runs=GROUPS))
    np.testing.assert_array_equal(by_run["outer_test"], folds.leave_one_group_out(GROUPS))
    for train, test in zip(by_run["inner_train"].reshape(-1, 22), by_run["inner_test"].reshape(-1, 22), strict=True):
        assert not set(GROUPS[train]) & set(GROUPS[test])
    is_test = np.arange(22) >= 18
    fixed = folds.nested("shuffled", 22, 4, 3, 5, is_test=is_test, weights=np.ones(22))
    assert fixed.is_fixed_split and fixed.weights is not None
    np.testing.assert_array_equal(oracles.masks_of(fixed)["outer_test"], is_test[None])
    assert not folds.nested("shuffled", 22, 4, 3, 5, is_test=np.zeros(22, bool)).is_fixed_split


@pytest.mark.parametrize("n_runs", [1, 2, 3])
@pytest.mark.parametrize("has_test", [False, True])
def test_runs_are_left_out_by_themselves_where_there_are_enough(n_runs, has_test):
    """Three, or two beside a given test set: with fewer the folds are those without runs."""
    runs, is_test = np.arange(24) % n_runs, np.arange(24) >= 18 if has_test else None
    auto, plain, by_run = (
        oracles.masks_of(folds.nested(scheme, 24, 4, 3, 5, is_test=is_test, runs=given))
        if scheme == "auto" or n_runs + has_test >= 3
        else None
        for scheme, given in (("auto", runs), ("auto", None), ("runs", runs))
    )
    expected, other = (by_run, plain) if n_runs + has_test >= 3 else (plain, by_run)
    for name in auto:
        np.testing.assert_array_equal(auto[name], expected[name])
    assert other is None or not np.array_equal(auto["inner_test"], other["inner_test"])


def test_nested_blocks_keep_the_gap_outside_and_inside():
    masks = oracles.masks_of(folds.nested("blocks", 40, 4, 3, 0, gap=2))
    for outer in range(4):
        sides = [(masks["outer_train"][outer], masks["outer_test"][outer])]
        sides += list(zip(masks["inner_train"][outer], masks["inner_test"][outer], strict=True))
        for train, test in sides:
            assert np.abs(np.flatnonzero(train)[:, None] - np.flatnonzero(test)[None, :]).min() > 2
        assert not (masks["inner_train"][outer] & ~masks["outer_train"][outer]).any()
        np.testing.assert_array_equal(masks["inner_test"][outer].sum(0), masks["outer_train"][outer])


@pytest.mark.parametrize(
    ("scheme", "given", "words"),
    [
        ("random", {}, "folds='random' is not one of auto, shuffled, blocks, runs"),
        ("runs", {}, "needs to know the run of each stimulus"),
        ("shuffled", {"gap": 2}, "gap=2 goes with folds='blocks', and folds are 'shuffled'"),
        ("runs", {"runs": np.zeros(22)}, "The rows are of one run, and leaving runs out needs 3.*folds=shuffled"),
        ("runs", {"runs": np.arange(22) % 2}, "The rows are of 2 runs, and leaving runs out needs 3"),
        (
            "runs",
            {"runs": np.arange(22) // 18, "is_test": np.arange(22) >= 18},
            "The training rows are of one run, and .* needs 2",
        ),
    ],
)
def test_designs_that_cannot_be_are_refused(scheme, given, words):
    with pytest.raises(ValueError, match=words):
        folds.nested(scheme, 22, 4, 3, 0, **given)
