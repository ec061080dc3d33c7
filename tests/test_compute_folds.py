"""Folds: every row is tested once, groups stay together, the same seed gives the same folds, padding is marked."""

import numpy as np
import oracles
import pytest

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
