"""Choosing penalties: every criterion on every kind of fold equals one least-squares fit per fold and penalty; ties, votes, refinement."""

from functools import cache

import jax
import numpy as np
import oracles_choose as slow
import pytest
from oracles_choose import ALWAYS_BY_GRAM, fitted

from jaxalign.compute import choose, folds, linalg
from jaxalign.compute.choose import Choosing
from jaxalign.compute.decompose import Way

pytestmark = pytest.mark.usefixtures("strict")

ALPHAS = np.array([0.03, 1.0, 30.0, 1000.0])
REFINED = {"tall": ALPHAS, "wide": np.array([0.03, 3.0, 100.0, 10000.0])}
MANY = np.geomspace(1, 100, 60)
SHAPES = {"tall": (36, 6), "wide": (24, 40), "mixed": (36, 30), "long": (80, 36), "broad": (44, 60)}
"""Mixed: all stimuli outnumber the features, those of a training part do not."""


@cache
def data(shape, n_targets=3):
    """Features with offsets and of different spread, targets of different signal, weights of stimuli."""
    n, width = SHAPES[shape]
    rng = np.random.default_rng(n * width)
    features = rng.standard_normal((n, width)) * rng.uniform(0.5, 2, width) + rng.uniform(-2, 2, width)
    signal = features @ rng.standard_normal((width, n_targets)) / np.sqrt(width)
    responses = signal * np.linspace(2, 0, n_targets) + rng.standard_normal((n, n_targets)) + 1
    return features, responses, rng.uniform(0.5, 3, n)


def contiguous(n, n_folds):
    test = np.arange(n) * n_folds // n == np.arange(n_folds)[:, None]
    return slow.pairs_of(~test, test)


@cache
def made(kind, n):
    """Folds, and the same as plain lists of rows."""
    if kind == "blocks with a gap":
        masks = folds.blocks(n, 4, 2)
        return folds.indexed(*masks), slow.pairs_of(*masks)
    pairs = contiguous(n, 2 if kind == "two folds" else 4)
    if kind == "more tests":
        pairs = [(test, train) for train, test in pairs]
    if kind == "repeated rows":
        rng = np.random.default_rng(n)
        pairs = [(rng.choice(train, len(train)), test) for train, test in pairs]
    return folds.from_pairs(pairs, n), pairs


def agree(shape, kind, name="r2", weighted=False, announced=0, is_centred=True, rtol=1e-8, **how):
    features, responses, weights = data(shape)
    made_folds, pairs = made(kind, len(features))
    ours = how.pop("ours", ALPHAS)
    given = weights if weighted else None
    way = Way(is_centred=is_centred, solver=how.pop("solver", "eigh"))
    state, found = fitted(
        features, responses, made_folds, given, ours, Choosing(criterion=name), way, announced=announced, **how
    )
    weights = weights if weighted else np.ones(len(features))
    by = slow.scaling(features, weights, is_centred)
    expected = slow.judged(slow.scaled(features, *by), responses, pairs, weights, ours, name, is_centred)
    np.testing.assert_allclose(found.judged, expected, rtol=rtol, atol=rtol)
    return state


BY_PREDICTIONS = 0
QUICK = [
    ("tall", "four folds", "r2", False, ALWAYS_BY_GRAM),
    ("tall", "four folds", "pearson_r", True, BY_PREDICTIONS),
    ("tall", "blocks with a gap", "neg_mse", True, ALWAYS_BY_GRAM),
    ("tall", "repeated rows", "r2", True, BY_PREDICTIONS),
    ("wide", "blocks with a gap", "pearson_r", True, BY_PREDICTIONS),
    ("mixed", "repeated rows", "neg_mse", True, BY_PREDICTIONS),
]
KINDS = ("four folds", "two folds", "blocks with a gap", "repeated rows", "more tests")
EVERY = [
    (shape, kind, name, weighted, announced)
    for shape in ("tall", "wide", "mixed")
    for kind in KINDS
    for name in ("r2", "neg_mse", "pearson_r")
    for weighted in (False, True)
    for announced in ((BY_PREDICTIONS, ALWAYS_BY_GRAM) if shape == "tall" else (BY_PREDICTIONS,))
]


@pytest.mark.parametrize(("shape", "kind", "name", "weighted", "announced"), QUICK)
def test_the_criterion_of_every_fold_equals_the_definition(shape, kind, name, weighted, announced):
    state = agree(shape, kind, name, weighted, announced)
    assert (state.parts.gram is not None) == (announced == ALWAYS_BY_GRAM), "the intended way is taken"


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "kind", "name", "weighted", "announced"), [one for one in EVERY if one not in QUICK])
def test_the_criterion_of_every_combination_equals_the_definition(shape, kind, name, weighted, announced):
    agree(shape, kind, name, weighted, announced)


def test_mixed_shapes_are_wide_in_the_folds_and_tall_on_the_whole():
    state = agree("mixed", "repeated rows", "neg_mse", weighted=True)
    assert state.split.is_tall and not state.parts.is_tall


@pytest.mark.parametrize(
    ("shape", "announced"), [("tall", ALWAYS_BY_GRAM), pytest.param("wide", BY_PREDICTIONS, marks=pytest.mark.slow)]
)
def test_without_centring_the_criterion_equals_the_definition(shape, announced):
    agree(shape, "four folds", weighted=True, announced=announced, is_centred=False)


def test_repeated_rows_are_no_complement_and_weigh_twice():
    """Each fold's training rows appended once more as rows of their own: the same fit, however they are written."""
    features, responses, _ = data("tall")
    pairs = contiguous(36, 4)
    twice = [(np.concatenate([train, train[:5]]), test) for train, test in pairs]
    made_folds = folds.from_pairs(twice, 36)
    assert not made_folds.is_complement
    _, found = fitted(features, responses, made_folds, None, ALPHAS)
    for fold, (train, test) in enumerate(pairs):
        weights = np.ones(36)
        weights[train[:5]] = 2
        expected = slow.judged(features - features.mean(0), responses, [(train, test)], weights, ALPHAS)
        np.testing.assert_allclose(found.judged[fold], expected[0], atol=1e-8)


@pytest.mark.parametrize("shape", ["tall", pytest.param("wide", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-9), pytest.param(np.float32, 1e-5, marks=pytest.mark.slow)]
)
def test_solvers_agree_on_every_criterion_and_penalty(shape, dtype, tolerance):
    features, responses, weights = data(shape)
    made_folds, _ = made("blocks with a gap", len(features))
    # In float32 the smallest penalty is left out: there eigh, which sees squared singular values, has fewer digits.
    alphas = ALPHAS if dtype == np.float64 else ALPHAS[1:]
    found = {
        solver: fitted(features, responses, made_folds, weights, alphas, way=Way(solver=solver), dtype=dtype)[1]
        for solver in ("eigh", "svd", "cholesky")
    }
    for solver in ("svd", "cholesky"):
        np.testing.assert_allclose(found[solver].judged, found["eigh"].judged, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(found[solver].choice.place, found["eigh"].choice.place)


@pytest.mark.parametrize("shape", ["tall", pytest.param("wide", marks=pytest.mark.slow)])
def test_scores_in_float32_equal_the_definition(shape):
    features, responses, _ = (values.astype(np.float32).astype(np.float64) for values in data(shape))
    made_folds, pairs = made("four folds", len(features))
    expected = slow.judged(features - features.mean(0), responses, pairs, np.ones(len(features)), ALPHAS[1:])
    for announced in (BY_PREDICTIONS, ALWAYS_BY_GRAM) if shape == "tall" else (BY_PREDICTIONS,):
        _, found = fitted(features, responses, made_folds, None, ALPHAS[1:], dtype=np.float32, announced=announced)
        np.testing.assert_allclose(found.judged, expected, rtol=1e-5, atol=1e-5)


# Many penalties by a few filters.


@pytest.mark.parametrize(
    ("shape", "announced", "name"),
    [
        ("long", ALWAYS_BY_GRAM, "pearson_r"),
        pytest.param("broad", BY_PREDICTIONS, "r2", marks=pytest.mark.slow),
        pytest.param("long", ALWAYS_BY_GRAM, "r2", marks=pytest.mark.slow),
        pytest.param("broad", BY_PREDICTIONS, "pearson_r", marks=pytest.mark.slow),
    ],
)
def test_many_penalties_by_a_few_filters_equal_each_by_itself(shape, announced, name):
    features, responses, weights = data(shape)
    made_folds, _ = made("blocks with a gap", len(features))
    size = linalg.basis_size(MANY, np.float64)
    assert 0 < size < min(SHAPES[shape][1], 30), "fewer than directions"
    by = Choosing(criterion=name)
    dense, each = (
        fitted(features, responses, made_folds, weights, MANY, by, announced=announced, n_basis=n_basis)[1].judged
        for n_basis in (size, 0)
    )
    np.testing.assert_allclose(dense, each, atol=1e-9)


# Sums over training rows by difference.


def spiked(kind):
    """A unit that only one held-out stimulus shows; a stimulus 1,000 times larger than others; a unit at +5000."""
    features, responses, _ = (values.copy() for values in data("tall"))
    if kind == "one row only":
        features[:, 1] = 0
        features[7, 1] = 5
    if kind == "large stimulus":
        features[7] *= 1000
    if kind == "far unit":
        features[:, 1] += 5000
    return features.astype(np.float32).astype(np.float64), responses.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(("kind", "atol"), [("one row only", 1e-5), ("large stimulus", 2e-4), ("far unit", 1e-5)])
@pytest.mark.parametrize("shape", ["tall", pytest.param("wide", marks=pytest.mark.slow)])
def test_sums_by_difference_keep_their_digits_in_float32(kind, atol, shape):
    """The fold that holds the stimulus out, whose training rows are small remainders of the sums over all rows.

    The large stimulus moves the mean by 28 SD of the others, hence 2e-4; plain differences of sums are off by 2e-2 there.
    """
    features, responses = spiked(kind)
    if shape == "wide":
        features = np.tile(features, (1, 8))
    made_folds, pairs = made("four folds", 36)
    expected = slow.judged(features - features.mean(0), responses, pairs, np.ones(36), ALPHAS[1:])[0]
    scale = np.maximum(1, np.abs(expected))
    _, found = fitted(features, responses, made_folds, None, ALPHAS[1:], dtype=np.float32)
    np.testing.assert_allclose(found.judged[0] / scale, expected / scale, atol=atol)
    _, found = fitted(features, responses, made_folds, None, ALPHAS[1:])
    np.testing.assert_allclose(found.judged[0] / scale, expected / scale, atol=1e-8)


# Which candidate is picked.


def picked(judged, alphas, groups=None, **how):
    """Choice as NumPy arrays."""
    with jax.enable_x64(True):
        n_groups = 1 if groups is None else int(groups.max()) + 1
        groups = None if groups is None else groups.astype(np.int32)
        found = choose.pick(np.asarray(judged), np.asarray(alphas), Choosing(**how), groups, n_groups)
        return jax.tree.map(np.asarray, found)


@cache
def criteria():
    """Criterion of 4 folds, 7 penalties, 6 targets, rounded so that ties happen; some folds and one target without."""
    rng = np.random.default_rng(3)
    judged = rng.standard_normal((4, 7, 6)).round(0) + np.linspace(0, 1, 7).round(0)[None, :, None]
    judged[1, :, 2] = np.nan
    judged[:3, :, 4] = np.nan
    judged[:, :, 5] = np.nan
    return judged, np.array([3.0, 0.1, 100.0, 1.0, 0.0, 30.0, 10.0])


@pytest.mark.parametrize("is_conservative", [False, True])
@pytest.mark.parametrize("groups", [None, np.array([0, 1, 0, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2])])
def test_the_pick_equals_the_definition(groups, is_conservative):
    judged, alphas = criteria()
    found = picked(judged, alphas, groups, is_conservative=is_conservative)
    place = slow.pick(judged, alphas, groups, is_conservative)
    np.testing.assert_array_equal(found.place, place)
    np.testing.assert_array_equal(found.alpha, alphas[place])
    expected = [slow._mean(judged[:, one, target]) for target, one in enumerate(place)]
    np.testing.assert_allclose(found.validation, expected, atol=1e-12)


@pytest.mark.parametrize("is_conservative", [False, True])
def test_the_order_of_candidates_does_not_matter(is_conservative):
    judged, alphas = criteria()
    order = np.random.default_rng(0).permutation(7)
    ours, bare = (picked(judged[:, one], alphas[one], is_conservative=is_conservative) for one in (order, np.arange(7)))
    np.testing.assert_array_equal(ours.alpha, bare.alpha)
    np.testing.assert_array_equal(ours.validation, bare.validation)


def test_ties_go_to_the_larger_penalty():
    judged = np.zeros((2, 3, 1))
    np.testing.assert_array_equal(picked(judged, [1.0, 7.0, 2.0]).alpha, [7.0])


def test_a_fold_without_a_value_does_not_vote():
    judged = np.array([[1.0, 0.0], [np.nan, np.nan], [0.0, 0.5]])[:, :, None]
    found = picked(judged, [1.0, 2.0])
    np.testing.assert_array_equal(found.alpha, [1.0])
    np.testing.assert_allclose(found.validation, [0.5])


def test_a_target_that_no_fold_can_judge_gets_the_largest_penalty_and_no_validation():
    found = picked(np.full((2, 3, 1), np.nan), [1.0, 7.0, 2.0])
    np.testing.assert_array_equal(found.alpha, [7.0])
    assert np.isnan(found.validation).all()


def test_the_conservative_pick_is_within_one_standard_error_and_no_larger_one_is():
    judged = np.array([[0.9, 0.8, 0.5], [0.5, 0.5, 0.2], [0.7, 0.6, 0.3]])[:, :, None]
    # Best mean .7, SD .2, standard error .2 / sqrt(3) = .115: .633 is within, .333 is not.
    np.testing.assert_array_equal(picked(judged, [1.0, 2.0, 3.0], is_conservative=True).alpha, [2.0])


def test_a_group_takes_the_best_mean_of_its_members():
    judged = np.array([[1.0, 0.8, 0.0], [0.0, 0.7, 0.9]]).T[None]
    np.testing.assert_array_equal(picked(judged, [1.0, 2.0, 3.0]).alpha, [1.0, 3.0])
    np.testing.assert_array_equal(picked(judged, [1.0, 2.0, 3.0], np.array([0, 0])).alpha, [2.0, 2.0])


@pytest.mark.slow
def test_a_fold_of_weight_zero_has_no_value():
    features, responses, weights = (values.copy() for values in data("tall"))
    weights[:9] = 0
    made_folds, _ = made("four folds", 36)
    _, found = fitted(features, responses, made_folds, weights, ALPHAS, Choosing(criterion="neg_mse"))
    assert np.isnan(found.judged[0]).all() and np.isfinite(found.judged[1:]).all()


# Refinement.


def fine(features, responses, pairs, low, high):
    """The criterion, averaged over folds, on 400 penalties between two. -> (400, n_targets)"""
    alphas = np.geomspace(low, high, 400)
    return slow.judged(features - features.mean(0), responses, pairs, np.ones(len(features)), alphas).mean(0)


@pytest.mark.parametrize("shape", ["tall", pytest.param("wide", marks=pytest.mark.slow)])
def test_refinement_finds_the_best_penalty_between_the_neighbours(shape):
    features, responses, _ = data(shape)
    alphas, responses = REFINED[shape], responses + features[:, :3]
    made_folds, pairs = made("four folds", len(features))
    _, grid = fitted(features, responses, made_folds, None, alphas)
    _, found = fitted(features, responses, made_folds, None, alphas, Choosing(n_refinements=25))
    assert (found.choice.validation >= grid.choice.validation).all()
    assert (found.choice.validation > grid.choice.validation + 1e-6).any()
    np.testing.assert_array_equal(found.choice.place, grid.choice.place)
    for target, place in enumerate(grid.choice.place):
        low, high = alphas[max(place - 1, 0)], alphas[min(place + 1, 3)]
        assert low <= found.choice.alpha[target] <= high
        best = fine(features, responses[:, target : target + 1], pairs, low, high).max()
        assert found.choice.validation[target] >= best - 1e-6
        own = slow.judged(
            features - features.mean(0),
            responses[:, target : target + 1],
            pairs,
            np.ones(len(features)),
            found.choice.alpha[target : target + 1],
        )
        np.testing.assert_allclose(found.choice.validation[target], own.mean(), atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"by": "cv"}, "by='cv' is not one of folds, loo, gcv"),
        ({"criterion": "mse"}, "criterion='mse' is not one of r2, neg_mse, pearson_r"),
        ({"by": "loo", "criterion": "pearson_r"}, "criterion='pearson_r' with loo"),
        ({"by": "gcv", "n_refinements": 3}, "need folds, and penalties are chosen by gcv"),
        ({"by": "loo", "is_conservative": True}, "need folds, and penalties are chosen by loo"),
        ({"n_refinements": -1}, "n_refinements=-1"),
        ({"is_conservative": True, "n_refinements": 4}, "conservative choice with n_refinements=4"),
    ],
)
def test_ways_of_choosing_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Choosing(**settings)


def test_groups_and_refinement_together_are_refused():
    features, responses, _ = data("tall")
    made_folds, _ = made("four folds", 36)
    with pytest.raises(ValueError, match="n_refinements=5 with 2 groups of targets: refinement is per target"):
        fitted(
            features,
            responses,
            made_folds,
            None,
            ALPHAS,
            Choosing(n_refinements=5),
            groups=np.array([0, 0, 1], np.int32),
            n_groups=2,
        )


def test_groups_share_their_penalty_in_a_fit():
    features, responses, _ = data("tall")
    made_folds, pairs = made("four folds", 36)
    groups = np.array([0, 1, 0], np.int32)
    _, found = fitted(features, responses, made_folds, None, ALPHAS, groups=groups, n_groups=2)
    expected = slow.chosen(features, responses, pairs, np.ones(36), ALPHAS, groups=groups)
    np.testing.assert_array_equal(found.choice.place, expected["place"])
    np.testing.assert_allclose(found.weights, expected["weights"], atol=1e-9)
