"""Banded ridge equals himalaya and the slow definition; the gradient is the derivative, and its search never loses."""

import warnings
from functools import cache

import jax
import jax.extend
import numpy as np
import oracles
import oracles_banded
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.compute import banded, folds

pytestmark = pytest.mark.usefixtures("strict")

N, N_TARGETS = 31, 4
WIDTHS = {"tall": (3, 4, 2), "wide": (20, 15, 10)}
ALPHAS = np.array([0.1, 100.0, 10.0, 1.0])
INNER = np.random.default_rng(8).dirichlet([0.7] * 3, 6)
EDGE = banded.random_gammas(6, 3, 0)
CASES = [("r2", True), ("r2", False), ("neg_mse", True)]
DESCENTS = [
    ("tall", "r2", True),
    ("tall", "neg_mse", True),
    ("wide", "r2", True),
    pytest.param("wide", "r2", False, marks=pytest.mark.slow),
]
# One row more in the first folds: test rows are padded.
IS_TEST = folds.contiguous(N, 4)
FOLDS = folds.indexed(~IS_TEST, IS_TEST)


@cache
def planted(shape):
    """Three groups of features with means; the first drives the targets, the second a little, the third not at all."""
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1, 2], WIDTHS[shape])
    features = rng.standard_normal((N, len(groups))) + rng.uniform(-2, 2, len(groups))
    weights = rng.standard_normal((len(groups), N_TARGETS)) * np.array([1, 0.3, 0])[groups][:, None]
    responses = features @ weights / np.sqrt(WIDTHS[shape][0]) + rng.standard_normal((N, N_TARGETS)) + 3
    return features, groups, responses


def search(features, groups, responses, gammas=EDGE, alphas=ALPHAS, dtype=np.float64, **options):
    with jax.enable_x64(dtype == np.float64):
        given = features.astype(dtype), groups, responses.astype(dtype), FOLDS
        return jax.tree.map(np.asarray, banded.random_search(*given, gammas, alphas, **options))


def descend(features, groups, responses, start, dtype=np.float64, **options):
    with jax.enable_x64(dtype == np.float64):
        given = features.astype(dtype), groups, responses.astype(dtype), FOLDS
        return jax.tree.map(np.asarray, banded.gradient_search(*given, start, **options))


@cache
def slow_table(shape, name, criterion, fit_intercept):
    gammas = {"inner": INNER, "edge": EDGE}[name]
    return oracles_banded.table(*planted(shape), IS_TEST, gammas, ALPHAS, criterion, fit_intercept)


def weights_of(features, groups, responses, fitted, fit_intercept=True):
    """Weights and intercepts of the slow definition under the penalties of a result."""
    found = [
        oracles_banded.banded_fit(features, groups, y, np.exp(-delta), fit_intercept)
        for y, delta in zip(responses.T, fitted.deltas.T.astype(np.float64), strict=True)
    ]
    return np.stack([one for one, _ in found], axis=1), np.array([one for _, one in found])


# Candidates.


@settings(max_examples=20, deadline=None, derandomize=True)
@given(n_candidates=st.integers(1, 30), n_groups=st.integers(2, 6), seed=st.integers(0, 1000))
def test_candidates_lie_on_the_simplex_and_start_with_its_centre_and_corners(n_candidates, n_groups, seed):
    gammas = banded.random_gammas(n_candidates, n_groups, seed)
    assert gammas.shape == (n_candidates, n_groups) and (gammas >= 0).all()
    np.testing.assert_allclose(gammas.sum(1), 1, atol=1e-12)
    fixed = np.concatenate([np.full((1, n_groups), 1 / n_groups), np.eye(n_groups)])[:n_candidates]
    np.testing.assert_array_equal(gammas[: len(fixed)], fixed)
    np.testing.assert_array_equal(gammas, banded.random_gammas(30, n_groups, seed)[:n_candidates])


def test_candidates_take_their_concentrations_in_turn():
    drawn = banded.random_gammas(404, 3, 0, (0.01, 1000.0))[4:]
    assert drawn[::2].max(1).mean() > 0.97
    assert drawn[1::2].max(1).max() < 0.5


def test_seeds_differ_and_one_group_has_one_candidate():
    assert (banded.random_gammas(9, 3, 0)[4:] != banded.random_gammas(9, 3, 1)[4:]).all()
    np.testing.assert_array_equal(banded.random_gammas(9, 1, 0), [[1.0]])


# Random search against the definition and himalaya.


@pytest.mark.parametrize("name", ["inner", "edge"])
@pytest.mark.parametrize(("criterion", "fit_intercept"), CASES)
@pytest.mark.parametrize("shape", WIDTHS)
def test_penalties_scores_and_weights_equal_the_definition(shape, criterion, fit_intercept, name):
    features, groups, responses = planted(shape)
    gammas = {"inner": INNER, "edge": EDGE}[name]
    fitted = search(*planted(shape), gammas, criterion=criterion, fit_intercept=fit_intercept)
    table = slow_table(shape, name, criterion, fit_intercept)
    for target in range(N_TARGETS):
        candidate, place = oracles_banded.best_pair(table[:, :, target], ALPHAS)
        assert fitted.alphas[target] == ALPHAS[place]
        np.testing.assert_array_equal(fitted.gammas[:, target], gammas[candidate])
        np.testing.assert_allclose(fitted.cv_scores[target], table[candidate, place, target], rtol=0, atol=1e-10)
    weights, intercept = weights_of(features, groups, responses, fitted, fit_intercept)
    np.testing.assert_allclose(fitted.weights, weights, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fitted.intercept, intercept, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("criterion", "fit_intercept"), CASES)
@pytest.mark.parametrize("shape", WIDTHS)
def test_deltas_scores_and_weights_equal_himalaya(shape, criterion, fit_intercept):
    from himalaya.backend import set_backend
    from himalaya.ridge import solve_group_ridge_random_search
    from himalaya.scoring import l2_neg_loss, r2_score

    set_backend("numpy")
    features, groups, responses = planted(shape)
    options = {"fit_intercept": fit_intercept, "score_func": {"r2": r2_score, "neg_mse": l2_neg_loss}[criterion]}
    options |= {"return_weights": True, "progress_bar": False, "warn": False}
    cv = [(np.flatnonzero(~test), np.flatnonzero(test)) for test in IS_TEST]
    spaces = [features[:, groups == group].copy() for group in range(3)]
    with warnings.catch_warnings():
        # himalaya hands (train, test) lists to scikit-learn's check_cv; nothing in them concerns the result.
        warnings.simplefilter("ignore")
        peer = solve_group_ridge_random_search(spaces, responses.copy(), n_iter=INNER, alphas=ALPHAS, cv=cv, **options)
    fitted = search(features, groups, responses, INNER, criterion=criterion, fit_intercept=fit_intercept)
    np.testing.assert_allclose(fitted.deltas, peer[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(fitted.weights, peer[1], rtol=0, atol=1e-10)
    # himalaya adds 1e-10 log(alpha) to its scores, so that ties go to the larger alpha.
    np.testing.assert_allclose(fitted.cv_scores + 1e-10 * np.log(fitted.alphas), peer[2].max(0), rtol=0, atol=1e-12)
    if fit_intercept:
        np.testing.assert_allclose(fitted.intercept, peer[3], rtol=0, atol=1e-10)


def test_shared_penalties_are_the_best_on_average():
    fitted = search(*planted("wide"), is_shared=True)
    table = slow_table("wide", "edge", "r2", True)
    candidate, place = oracles_banded.best_pair(table.mean(2), ALPHAS)
    np.testing.assert_array_equal(fitted.alphas, ALPHAS[place])
    np.testing.assert_array_equal(fitted.gammas, np.tile(EDGE[candidate][:, None], N_TARGETS))
    np.testing.assert_allclose(fitted.cv_scores, table[candidate, place], rtol=0, atol=1e-10)
    np.testing.assert_allclose(fitted.weights, weights_of(*planted("wide"), fitted)[0], rtol=0, atol=1e-10)


def test_targets_without_a_score_do_not_decide_shared_penalties():
    features, groups, responses = planted("tall")
    broken = responses.copy()
    broken[:, 1], broken[4, 2] = 5, np.nan
    fitted = search(features, groups, broken, is_shared=True)
    table = slow_table("tall", "edge", "r2", True)[:, :, [0, 3]]
    candidate, place = oracles_banded.best_pair(table.mean(2), ALPHAS)
    assert fitted.alphas[0] == ALPHAS[place]
    np.testing.assert_array_equal(fitted.gammas[:, 0], EDGE[candidate])
    np.testing.assert_array_equal(np.isnan(fitted.cv_scores), [False, True, True, False])


@pytest.mark.parametrize("shape", WIDTHS)
def test_one_group_is_ridge(shape):
    features, groups, responses = planted(shape)
    fitted = search(features, 0 * groups, responses, np.ones((1, 1)))
    masks = (~IS_TEST, IS_TEST)
    for target, y in enumerate(responses.T):
        alpha, score = oracles.choose_alpha(features, y, *masks, ALPHAS)
        weights, intercept = oracles.ridge_fit(features, y, alpha)
        assert fitted.alphas[target] == alpha
        np.testing.assert_allclose(fitted.cv_scores[target], score, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fitted.weights[:, target], weights, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fitted.intercept[target], intercept, rtol=0, atol=1e-10)


# What must not matter.


@pytest.mark.parametrize("shape", WIDTHS)
def test_the_order_of_groups_and_columns_does_not_matter(shape):
    features, groups, responses = planted(shape)
    bare = search(features, groups, responses)
    order = np.array([2, 0, 1])
    columns = np.random.default_rng(0).permutation(len(groups))
    mixed = search(features[:, columns], order[groups[columns]], responses, EDGE[:, np.argsort(order)])
    np.testing.assert_array_equal(mixed.alphas, bare.alphas)
    np.testing.assert_array_equal(mixed.gammas[order], bare.gammas)
    np.testing.assert_allclose(mixed.weights, bare.weights[columns], rtol=0, atol=1e-10)


def test_a_duplicated_group_is_the_group_with_halved_gammas():
    features, groups, responses = planted("tall")
    bare = search(features, groups, responses, INNER)
    doubled = np.concatenate([features, features[:, groups == 0]], axis=1)
    gammas = np.concatenate([INNER, INNER[:, :1] / 2], axis=1)
    gammas[:, 0] /= 2
    twice = search(doubled, np.r_[groups, [3, 3, 3]], responses, gammas)
    np.testing.assert_allclose(twice.cv_scores, bare.cv_scores, rtol=0, atol=1e-10)
    np.testing.assert_allclose(twice.weights[:3] + twice.weights[-3:], bare.weights[:3], rtol=0, atol=1e-10)


def test_the_order_of_alphas_does_not_matter():
    bare, turned = search(*planted("tall")), search(*planted("tall"), alphas=ALPHAS[::-1])
    jax.tree.map(np.testing.assert_array_equal, bare, turned)


def test_a_group_with_gamma_zero_has_no_weight():
    features, groups, responses = planted("wide")
    fitted = search(features, groups, responses, EDGE[[1] * 6])
    np.testing.assert_array_equal(fitted.weights[groups != 0], 0)
    np.testing.assert_array_equal(fitted.deltas[1:], -np.inf)
    np.testing.assert_allclose(fitted.deltas[0], -np.log(fitted.alphas), atol=1e-12)


def test_ties_go_to_the_larger_alpha_and_the_earlier_candidate():
    features, groups, responses = planted("tall")
    fitted = search(np.full_like(features, 0.3), groups, responses, INNER)
    np.testing.assert_array_equal(fitted.alphas, 100)
    np.testing.assert_array_equal(fitted.gammas, np.tile(INNER[0][:, None], N_TARGETS))
    np.testing.assert_array_equal(fitted.weights, 0)


# Numbers.


@pytest.mark.parametrize("shape", WIDTHS)
def test_float32_equals_the_definition(shape):
    features, groups, responses = planted(shape)
    fitted = search(features, groups, responses, dtype=np.float32)
    assert {str(one.dtype) for one in fitted} == {"float32"}
    table = slow_table(shape, "edge", "r2", True)
    np.testing.assert_allclose(fitted.cv_scores, table.max((0, 1)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(fitted.weights, weights_of(features, groups, responses, fitted)[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", WIDTHS)
def test_a_constant_of_5000_costs_no_digits(shape):
    features, groups, responses = planted(shape)
    shifted = (features + 5000 * (np.arange(len(groups)) == 2)).astype(np.float32)
    raised = (responses + 5000).astype(np.float32)
    fitted = search(shifted, groups, raised, dtype=np.float32)
    exact = search(shifted, groups, raised)
    np.testing.assert_array_equal(fitted.gammas, exact.gammas.astype(np.float32))
    np.testing.assert_allclose(fitted.cv_scores, exact.cv_scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(fitted.weights, exact.weights, rtol=0, atol=2e-5)


@pytest.mark.parametrize("criterion", banded.CRITERIA)
def test_the_unit_of_responses_scales_the_weights_only(criterion):
    features, groups, responses = planted("tall")
    bare = search(features, groups, responses, dtype=np.float32, criterion=criterion)
    volts = search(features, groups, responses * 1e-13, dtype=np.float32, criterion=criterion)
    np.testing.assert_array_equal(volts.deltas, bare.deltas)
    np.testing.assert_allclose(volts.weights / 1e-13, bare.weights, rtol=1e-4, atol=1e-5)
    unit = 1e-26 if criterion == "neg_mse" else 1
    np.testing.assert_allclose(volts.cv_scores / unit, bare.cv_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", WIDTHS)
def test_targets_without_a_score_have_nan_and_harm_no_other(shape):
    features, groups, responses = planted(shape)
    broken = responses.copy()
    broken[:, 1], broken[4, 2] = 0.1, np.nan
    fitted, bare = search(features, groups, broken), search(features, groups, responses)
    np.testing.assert_array_equal(np.isnan(fitted.cv_scores), [False, True, True, False])
    np.testing.assert_array_equal(fitted.weights[:, [0, 3]], bare.weights[:, [0, 3]])
    np.testing.assert_array_equal(fitted.weights[:, 1], 0)
    np.testing.assert_allclose(fitted.intercept[1], 0.1, rtol=1e-12)
    assert np.isnan(fitted.weights[:, 2]).all()
    np.testing.assert_array_equal(fitted.alphas[[1, 2]], 100)


def test_a_target_that_is_constant_in_one_fold_is_judged_by_the_others():
    features, groups, responses = planted("tall")
    flat = responses.copy()
    flat[IS_TEST[1], 0] = 2.0
    table = oracles_banded.table(features, groups, flat[:, :1], IS_TEST, INNER, ALPHAS)
    start = search(features, groups, flat, INNER)
    np.testing.assert_allclose(start.cv_scores[0], table.max(), rtol=0, atol=1e-10)
    fitted = descend(features, groups, flat, start, n_steps=30)
    assert fitted.cv_scores[0] > table.max() + 1e-4
    expected = oracles_banded.validation(features, groups, flat[:, 0], IS_TEST, np.exp(-fitted.deltas[:, 0]))
    np.testing.assert_allclose(fitted.cv_scores[0], expected, rtol=0, atol=1e-10)


# Predictions.


@pytest.mark.parametrize("shape", WIDTHS)
def test_parts_of_groups_and_the_intercept_sum_to_the_prediction(shape):
    features, groups, responses = planted(shape)
    fitted = search(features, groups, responses, INNER)
    with jax.enable_x64(True):
        parts = np.asarray(banded.predict_split(features, groups, fitted))
        whole = np.asarray(banded.predict(features, fitted))
    assert parts.shape == (3, N, N_TARGETS)
    np.testing.assert_allclose(parts[1], features[:, groups == 1] @ fitted.weights[groups == 1], atol=1e-12)
    np.testing.assert_allclose(parts.sum(0) + fitted.intercept, whole, rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole, features @ fitted.weights + fitted.intercept, rtol=0, atol=1e-12)


# Gradient search.


@cache
def start_of(shape, criterion="r2", fit_intercept=True):
    return search(*planted(shape), INNER, criterion=criterion, fit_intercept=fit_intercept)


@pytest.mark.parametrize(("shape", "criterion", "fit_intercept"), DESCENTS)
def test_the_validation_score_is_that_of_the_search_and_its_gradient_is_its_slope(shape, criterion, fit_intercept):
    features, groups, responses = planted(shape)
    start = start_of(shape, criterion, fit_intercept)

    def total(deltas):
        options = {"criterion": criterion, "fit_intercept": fit_intercept}
        scores = banded.validation_scores(features, groups, responses, FOLDS, deltas, **options)
        return scores.sum(), scores

    with jax.enable_x64(True):
        of = jax.jit(jax.grad(total, has_aux=True))
        slopes, scores = (np.asarray(one) for one in of(start.deltas))
        np.testing.assert_allclose(scores, start.cv_scores, rtol=0, atol=1e-10)
        for group in range(3):
            step = 1e-5 * (np.arange(3) == group)[:, None]
            ends = [np.asarray(of(start.deltas + sign * step)[1]) for sign in (1, -1)]
            np.testing.assert_allclose(slopes[group], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("shape", "criterion", "fit_intercept"), DESCENTS)
def test_the_gradient_search_improves_and_its_result_is_the_definition(shape, criterion, fit_intercept):
    features, groups, responses = planted(shape)
    start = start_of(shape, criterion, fit_intercept)
    options = {"criterion": criterion, "fit_intercept": fit_intercept}
    fitted = descend(features, groups, responses, start, n_steps=30, **options)
    assert (fitted.cv_scores > start.cv_scores + 1e-4).all()
    expected = [
        oracles_banded.validation(features, groups, y, IS_TEST, np.exp(-delta), criterion, fit_intercept)
        for y, delta in zip(responses.T, fitted.deltas.T, strict=True)
    ]
    np.testing.assert_allclose(fitted.cv_scores, expected, rtol=0, atol=1e-10)
    weights, intercept = weights_of(features, groups, responses, fitted, fit_intercept)
    np.testing.assert_allclose(fitted.weights, weights, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fitted.intercept, intercept, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fitted.gammas.sum(0), 1, atol=1e-12)
    np.testing.assert_allclose(np.log(fitted.gammas / fitted.alphas), fitted.deltas, atol=1e-12)


def test_the_gradient_search_finds_an_optimum_between_the_candidates():
    """The candidates leave a group out or weigh both equally; a fine grid of penalties says what could be had."""
    features, groups, _ = planted("tall")
    groups = np.minimum(groups, 1)
    rng = np.random.default_rng(5)
    weights = rng.standard_normal(9) * np.array([2, 0.4])[groups]
    response = features @ weights + rng.standard_normal(N)
    start = search(features, groups, response[:, None], banded.random_gammas(3, 2, 0))
    fitted = descend(features, groups, response[:, None], start, n_steps=150)
    grid = np.exp(np.linspace(-4, 4, 11))
    pairs = [(one, other) for one in grid for other in grid]
    best = max(oracles_banded.validation(features, groups, response, IS_TEST, pair) for pair in pairs)
    assert best > start.cv_scores[0] + 0.05
    assert fitted.cv_scores[0] > best
    # The random search had left the second group out.
    np.testing.assert_array_equal(start.gammas[:, 0], [1, 0])
    assert fitted.gammas[1, 0] > 0.01


def test_a_search_that_only_loses_returns_its_start():
    features, groups, responses = planted("tall")
    start = start_of("tall")._replace(cv_scores=np.full(N_TARGETS, 0.9999))
    fitted = descend(features, groups, responses, start, n_steps=30)
    jax.tree.map(np.testing.assert_array_equal, fitted, start)


def test_targets_side_by_side_are_found_as_one_by_one():
    start = start_of("tall")
    one, two = (descend(*planted("tall"), start, n_steps=30, targets_per_call=count) for count in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), one, two)


def test_targets_without_a_score_stay_at_their_start():
    features, groups, responses = planted("tall")
    broken = responses.copy()
    broken[:, 1], broken[4, 2] = 0.1, np.nan
    start = search(features, groups, broken, INNER)
    fitted = descend(features, groups, broken, start, n_steps=30)
    np.testing.assert_array_equal(np.isnan(fitted.cv_scores), [False, True, True, False])
    np.testing.assert_array_equal(fitted.deltas[:, 1:3], start.deltas[:, 1:3])
    np.testing.assert_array_equal(fitted.weights[:, 1:3], start.weights[:, 1:3])
    bare = descend(features, groups, responses, start_of("tall"), n_steps=30)
    np.testing.assert_array_equal(fitted.deltas[:, [0, 3]], bare.deltas[:, [0, 3]])


def test_the_gradient_search_moves_in_volts_and_in_float32():
    features, groups, responses = planted("tall")
    options = {"dtype": np.float32, "criterion": "neg_mse"}
    start = search(features, groups, responses * 1e-13, INNER, **options)
    fitted = descend(features, groups, responses * 1e-13, start, n_steps=30, **options)
    assert {str(one.dtype) for one in fitted} == {"float32"}
    exact = descend(features, groups, responses, start_of("tall", "neg_mse"), n_steps=30, criterion="neg_mse")
    np.testing.assert_allclose(fitted.cv_scores / 1e-26, exact.cv_scores, rtol=1e-4)


# Devices and memory.


def shaped(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def traced(platform, n_stimuli=420, width=300, n_targets=6, n_alphas=5):
    is_test = folds.contiguous(n_stimuli, 4)
    data = shaped(n_stimuli, width), shaped(width, dtype=np.int32), shaped(n_stimuli, n_targets)
    given = (*data, folds.indexed(~is_test, is_test))
    asked = banded._Settings("r2", False, True, platform)
    start = jax.eval_shape(
        lambda *one: banded._random_search(*one, settings=asked), *given, shaped(7, 3), shaped(n_alphas)
    )
    return (
        banded._random_search.trace(*given, shaped(7, 3), shaped(n_alphas), settings=asked),
        banded._gradient_search.trace(*given, start, settings=asked, plan=(0.1, 5, 2)),
    )


@pytest.mark.parametrize("width", [300, 500])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_both_searches_lower_for_other_devices(platform, width):
    for step in traced(platform, width=width):
        assert step.lower(lowering_platforms=(platform,)).as_text().startswith("module")


def largest_array(jaxpr):
    """Elements of the largest array that any step of a program makes, also inside its loops."""
    largest = 0
    for equation in jaxpr.eqns:
        largest = max([largest, *(one.aval.size for one in equation.outvars)])
        inner = (leaf for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program))
        largest = max([largest, *(largest_array(getattr(one, "jaxpr", one)) for one in inner if is_program(one))])
    return largest


def is_program(thing):
    return isinstance(thing, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


@pytest.mark.parametrize("width", [30, 60])
def test_no_array_holds_predictions_of_all_penalties(width):
    step, _ = traced("cpu", n_stimuli=40, width=width, n_targets=3000, n_alphas=50)
    assert 40 * 3000 <= largest_array(step.jaxpr.jaxpr) < 50 * 40 * 3000 / 3


# What is refused.


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"criterion": "r"}, "criterion='r' is not one of r2, neg_mse"),
        ({"responses": np.zeros((N - 1, 2))}, rf"features have shape \({N}, 9\) and responses \({N - 1}, 2\)"),
        ({"responses": np.zeros((N, 2), np.float32)}, "features are float64 and responses float32"),
        ({"groups": np.zeros(4, int)}, r"groups have shape \(4,\) for 9 features"),
        ({"groups": np.zeros(9, int)}, r"groups hold \[0\], and 3 groups are penalised"),
        ({"gammas": INNER * 1.1}, r"gammas of shape \(6, 3\) are not points of the simplex"),
        ({"gammas": np.full((6, 3), np.nan)}, "are not points of the simplex"),
        ({"gammas": np.array([[1.5, -0.5, 0.0]])}, "are not points of the simplex"),
        ({"alphas": np.array([1.0, 0.0])}, "alphas hold 0.0: give finite penalties above 0"),
        ({"alphas": np.array([1.0, np.nan])}, "alphas hold nan"),
        ({"alphas": 1.0}, r"alphas have shape \(\)"),
        ({"features": np.zeros((20, 9)), "responses": np.zeros((20, 2))}, "folds name row 30 of 20 stimuli"),
        ({"folds": folds.indexed(IS_TEST | True, IS_TEST & False | (np.arange(4) < 3)[:, None])}, "a fold has no"),
    ],
)
def test_a_wrong_input_is_named(changed, words):
    features, groups, responses = planted("tall")
    given = {"features": features, "groups": groups, "responses": responses, "folds": FOLDS, "gammas": INNER}
    with jax.enable_x64(True), pytest.raises(ValueError, match=words):
        banded.random_search(**(given | {"alphas": ALPHAS} | changed))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0, n_steps=100"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"targets_per_call": 0}, "targets_per_call=0"),
        ({"responses": np.zeros((N, 2))}, "start has 4 targets and 9 features, the data 2 and 9"),
    ],
)
def test_a_wrong_gradient_search_is_named(changed, words):
    features, groups, responses = planted("tall")
    given = {"features": features, "groups": groups, "responses": responses, "folds": FOLDS}
    with jax.enable_x64(True), pytest.raises(ValueError, match=words):
        banded.gradient_search(**(given | {"start": start_of("tall")} | changed))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0, 3, 0), "0 candidates of 3 groups"),
        ((5, 0, 0), "5 candidates of 0 groups"),
        ((5, 3, 0, (1.0, 0.0)), r"concentrations=\(1.0, 0.0\)"),
        ((5, 3, 0, ()), r"concentrations=\(\)"),
    ],
)
def test_wrong_candidates_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        banded.random_gammas(*given)
