"""Fractional ridge: lengths are what was asked for, penalties equal the slow definition, and test rows stay outside."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.linear_model import Ridge as Peer

from jaxalign.compute import folds
from jaxalign.compute.fractional import (
    checked_fractions,
    choose_fraction,
    decompose,
    fractional_alphas,
    fractional_predictions,
    fractional_weights,
)

pytestmark = pytest.mark.usefixtures("strict")

N, N_TARGETS = 30, 4
WIDTHS = {"tall": 7, "wide": 45}
FRACTIONS = (0.3, 0.0, 0.999, 0.05, 0.7, 1.0, 1e-6)
BETWEEN = [place for place, fraction in enumerate(FRACTIONS) if 0 < fraction < 1]
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROWS = np.ones(N, bool)


@cache
def planted(width):
    """Features of unequal spread with an offset; targets driven strongly, weakly, by the last feature, by nothing."""
    rng = np.random.default_rng(width)
    features = rng.standard_normal((N, width)) * np.geomspace(3, 0.1, width) + rng.uniform(-2, 2, width)
    signal = features @ rng.standard_normal((width, N_TARGETS)) / np.sqrt(width)
    signal[:, 2] = 10 * features[:, -1]
    return features, signal * [3, 0.5, 1, 0] + rng.standard_normal((N, N_TARGETS))


@partial(jax.jit, static_argnames=("fractions", "is_centred", "solver"))
def fitted(features, responses, held_out, is_train, fractions=FRACTIONS, is_centred=True, solver="auto"):
    fit = decompose(features, responses, is_train, is_centred=is_centred, solver=solver)
    alphas = fractional_alphas(fit.factors.singular, fit.rotated, fractions)
    return alphas, fractional_weights(fit, alphas), fractional_predictions(fit, alphas, held_out)


def run(features, responses, dtype=np.float64, is_train=ROWS, **options):
    """Penalties, weights and predictions of all rows, in float64 arrays."""
    with jax.enable_x64(dtype == np.float64):
        found = fitted(features.astype(dtype), responses.astype(dtype), features.astype(dtype), is_train, **options)
        assert all(value.dtype == dtype for value in found)
        return [np.asarray(value, np.float64) for value in found]


def centred(values, is_centred=True):
    return values - values.mean(0) if is_centred else values


def slow_alpha(features, target, fraction):
    """The penalty by bisection of the length of explicitly solved weights."""
    if fraction in (0, 1):
        return np.inf if fraction == 0 else 0.0
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    keep = singular > 1e-10 * singular[0]
    rotated, singular = (left.T @ target)[keep], singular[keep]

    def missing(log_alpha):
        length = np.linalg.norm(singular * rotated / (singular**2 + np.exp(log_alpha)))
        return np.log(length / np.linalg.norm(rotated / singular)) - np.log(fraction)

    odds = np.log((1 - fraction) / fraction)
    ends = 2 * np.log(singular[-1]) + odds - 1, 2 * np.log(singular[0]) + odds + 1
    return np.exp(brentq(missing, *ends, xtol=1e-15, rtol=1e-15))


# Against the definition and peers.


@pytest.mark.parametrize("is_centred", [True, False])
@pytest.mark.parametrize("shape", WIDTHS)
def test_penalties_equal_the_definition(shape, is_centred):
    features, responses = planted(WIDTHS[shape])
    ours, _, _ = run(features, responses, is_centred=is_centred)
    x, y = centred(features, is_centred), centred(responses, is_centred)
    expected = [[slow_alpha(x, target, fraction) for target in y.T] for fraction in FRACTIONS]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("shape", WIDTHS)
def test_scikit_learn_at_our_penalties_has_the_length_that_was_asked_for(shape):
    features, responses = planted(WIDTHS[shape])
    alphas, weights, predicted = run(features, responses)
    shortest = np.linalg.pinv(centred(features)) @ centred(responses)
    for place in BETWEEN:
        peer = Peer(alpha=alphas[place], solver="svd").fit(features, responses)
        share = np.linalg.norm(peer.coef_, axis=1) / np.linalg.norm(shortest, axis=0)
        np.testing.assert_allclose(share, FRACTIONS[place], rtol=1e-10)
        np.testing.assert_allclose(weights[place], peer.coef_.T, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(predicted[place], peer.predict(features), atol=1e-10)


@pytest.mark.parametrize("shape", WIDTHS)
def test_weights_equal_fracridge_and_penalties_do_up_to_its_interpolation(shape):
    from fracridge import fracridge

    features, responses = (centred(values) for values in planted(WIDTHS[shape]))
    features = features[:, : N - 2]  # fracridge needs every singular value to be above its absolute cut-off
    wanted = np.array([0.3, 0.7])
    theirs, their_alphas = fracridge(features[1:], responses[1:], fracs=wanted, jit=False)
    is_train = np.arange(N) > 0
    alphas, _, _ = run(features, responses, is_train=is_train, fractions=(0.3, 0.7), is_centred=False)
    # Penalties move by up to 10^0.2 - 1 = 58 % between the points of its grid; interpolating leaves a few percent.
    np.testing.assert_allclose(alphas, their_alphas, rtol=0.06)
    with jax.enable_x64(True):
        fit = decompose(features, responses, is_train, is_centred=False)
        weights = fractional_weights(fit, jax.numpy.asarray(their_alphas))
    np.testing.assert_allclose(np.moveaxis(weights, 0, 1), theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("shape", WIDTHS)
def test_lengths_are_what_was_asked_for(shape, dtype, rtol):
    _, weights, _ = run(*planted(WIDTHS[shape]), dtype)
    length = np.linalg.norm(weights, axis=1)
    full = length[FRACTIONS.index(1.0)]
    np.testing.assert_allclose(length, np.array(FRACTIONS)[:, None] * full[None], rtol=rtol)


MANY = (1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99, 0.9999)


@partial(jax.jit, static_argnames="fractions")
def alphas_of(singular, rotated, fractions):
    return fractional_alphas(singular, rotated, fractions)


@given(st.integers(0, 10_000), st.floats(0, 7), st.sampled_from([np.float64, np.float32]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_spectrum_and_any_fraction_give_the_length_to_rounding(seed, decades, dtype):
    """Singular values over up to 7 decades and rotated responses over 14: the precision does not depend on them."""
    rng = np.random.default_rng(seed)
    singular = (10 ** (-decades * rng.uniform(0, 1, 9))).astype(dtype)
    rotated = (rng.standard_normal((9, 3)) * 10 ** (-14 * rng.uniform(0, 1, (9, 3)))).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        alphas = np.asarray(alphas_of(singular, rotated, MANY), np.float64)[:, None]
    fractions = np.array(MANY).astype(dtype).astype(np.float64)[:, None]
    squared, weights = singular.astype(np.float64)[:, None] ** 2, rotated / singular.astype(np.float64)[:, None]
    length = np.linalg.norm(squared / (squared + alphas) * weights, axis=1) / np.linalg.norm(weights, axis=0)
    np.testing.assert_allclose(length, fractions * np.ones(3), rtol=20 * np.finfo(dtype).eps)
    lost = np.linalg.norm(weights, axis=0) ** 2
    lost = np.sum((1 - (squared / (squared + alphas)) ** 2) * weights**2, axis=1) / lost
    np.testing.assert_allclose(lost, (1 - fractions**2) * np.ones(3), rtol=20 * np.finfo(dtype).eps, atol=1e-12)


# Ends and degenerate cases.


def test_fraction_1_is_least_squares_and_fraction_0_is_the_mean():
    features, responses = planted(7)
    alphas, weights, predicted = run(features, responses)
    one, none = FRACTIONS.index(1.0), FRACTIONS.index(0.0)
    np.testing.assert_array_equal(alphas[one], 0)
    np.testing.assert_array_equal(alphas[none], np.inf)
    np.testing.assert_allclose(weights[one], np.linalg.pinv(centred(features)) @ centred(responses), atol=1e-10)
    np.testing.assert_array_equal(weights[none], 0)
    np.testing.assert_allclose(predicted[none], np.broadcast_to(responses.mean(0), responses.shape), atol=1e-12)


@pytest.mark.parametrize("solver", ["auto", "svd"])
def test_repeated_features_give_the_shortest_least_squares_weights(solver):
    features, responses = planted(7)
    features = features.copy()
    features[:, 5], features[:, 6] = features[:, 0], features[:, 1] - features[:, 2]
    _, weights, _ = run(features, responses, solver=solver)
    shortest = np.linalg.pinv(centred(features)) @ centred(responses)
    np.testing.assert_allclose(weights[FRACTIONS.index(1.0)], shortest, atol=1e-9)
    share = np.linalg.norm(weights, axis=1) / np.linalg.norm(shortest, axis=0)
    np.testing.assert_allclose(share, np.array(FRACTIONS)[:, None] * np.ones(N_TARGETS), rtol=1e-9)


def test_penalties_fall_as_fractions_rise():
    alphas, _, _ = run(*planted(7), fractions=GRID)
    assert (np.diff(alphas[1:], axis=0) < 0).all()


@pytest.mark.parametrize("unit", [1e-13, 1e-6, 1e6])
def test_the_unit_of_responses_changes_no_penalty_in_float32(unit):
    features, responses = planted(45)
    ours, bare = run(features, responses * unit, np.float32), run(features, responses, np.float32)
    np.testing.assert_allclose(ours[0], bare[0], rtol=2e-5)
    np.testing.assert_allclose(ours[2] / unit, bare[2], atol=1e-4)


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_the_unit_of_features_scales_penalties_by_its_square(unit):
    features, responses = planted(7)
    ours, bare = run(features * unit, responses, np.float32), run(features, responses, np.float32)
    np.testing.assert_allclose(ours[0] / unit**2, bare[0], rtol=2e-5)


def test_a_feature_at_5000_costs_predictions_its_rounding_only():
    features, responses = planted(7)
    shifted = features.copy()
    shifted[:, 2] += 5000
    shifted = shifted.astype(np.float32).astype(np.float64)
    ours, expected = run(shifted, responses, np.float32), run(shifted, responses)
    np.testing.assert_allclose(ours[2], expected[2], atol=5e-5)


def test_a_target_without_any_relation_is_left_at_its_mean():
    features, responses = planted(7)
    flat = responses.copy()
    flat[:, 1] = 0.0
    alphas, weights, predicted = run(features, flat)
    np.testing.assert_array_equal(alphas[:, 1], [0 if fraction == 1 else np.inf for fraction in FRACTIONS])
    np.testing.assert_array_equal(weights[:, :, 1], 0)
    np.testing.assert_array_equal(predicted[:, :, 1], 0)


@pytest.mark.parametrize("side", [0, 1])
def test_a_constant_is_not_fitted_through_its_rounding(side):
    given = [values.copy() for values in planted(7)]
    given[side][:] = 0.1
    alphas, weights, _ = run(*given, np.float32)
    np.testing.assert_array_equal(alphas[BETWEEN], np.inf)
    np.testing.assert_array_equal(weights, 0)


def test_a_nan_target_is_nan_and_harms_no_other():
    features, responses = planted(7)
    broken = responses.copy()
    broken[3, 1] = np.nan
    for ours, bare in zip(run(features, broken), run(features, responses), strict=True):
        assert np.isnan(ours[..., 1]).all()
        np.testing.assert_array_equal(ours[..., [0, 2, 3]], bare[..., [0, 2, 3]])


def test_rows_outside_training_are_not_read():
    features, responses = (values.copy() for values in planted(7))
    is_train = np.arange(N) % 5 != 0
    bare = run(features, responses, is_train=is_train)[:2]
    features[~is_train], responses[~is_train] = np.inf, np.nan
    for ours, expected in zip(run(features, responses, is_train=is_train)[:2], bare, strict=True):
        np.testing.assert_array_equal(ours, expected)


# The choice of a fraction.


FOLDS = folds.shuffled(N, 3, 1)
CHOICES = {"r2": {}, "pearson_r": {"criterion": "pearson_r"}, "shared": {"is_shared": True}}


@partial(jax.jit, static_argnames=("fractions", "criterion", "is_shared", "is_centred", "as_published"))
def chosen(features, responses, of, fractions=GRID, **options):
    return choose_fraction(features, responses, of, fractions, **options)


def choose(features, responses, dtype=np.float64, of=None, **options):
    of = folds.indexed(~FOLDS, FOLDS) if of is None else of
    with jax.enable_x64(dtype == np.float64):
        return jax.tree.map(np.asarray, chosen(features.astype(dtype), responses.astype(dtype), of, **options))


def slow_validation(features, responses, fractions, criterion="r2", is_centred=True):
    """Criterion of every fraction, target and fold by explicit ridge fits. -> (n_fractions, n_targets)"""
    scores = np.full((len(FOLDS), len(fractions), responses.shape[1]), np.nan)
    for fold, test in enumerate(FOLDS):
        x, y = features[~test], responses[~test]
        shift, level = (x.mean(0), y.mean(0)) if is_centred else (np.zeros(x.shape[1]), np.zeros(y.shape[1]))
        for t, truth in enumerate(responses[test].T):
            for f, fraction in enumerate(fractions):
                alpha = slow_alpha(x - shift, y[:, t] - level[t], fraction)
                weights = np.zeros(x.shape[1])
                if alpha == 0:
                    weights = np.linalg.pinv(x - shift) @ (y[:, t] - level[t])
                elif np.isfinite(alpha):
                    weights = Peer(alpha=alpha, fit_intercept=False, solver="svd").fit(x - shift, y[:, t] - level[t])
                    weights = weights.coef_
                guess = (features[test] - shift) @ weights + level[t]
                if criterion == "r2":
                    scores[fold, f, t] = 1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
                else:
                    scores[fold, f, t] = 0 if fraction == 0 else np.corrcoef(truth, guess)[0, 1]
    return scores.mean(0)


@pytest.mark.parametrize(
    ("shape", "choice"), [("tall", "r2"), ("wide", "r2"), ("tall", "pearson_r"), ("wide", "shared")]
)
def test_validation_and_choice_equal_the_definition(shape, choice):
    options = CHOICES[choice]
    features, responses = planted(WIDTHS[shape])
    ours = choose(features, responses, **options)
    expected = slow_validation(features, responses, GRID, options.get("criterion", "r2"))
    np.testing.assert_allclose(ours.validation, expected, atol=1e-8)
    judged = expected.mean(1, keepdims=True) if choice == "shared" else expected
    np.testing.assert_array_equal(ours.place, np.broadcast_to(judged.argmax(0), N_TARGETS))
    assert ours.place.dtype == np.int32


def test_validation_through_the_origin_equals_the_definition():
    features, responses = planted(7)
    ours = choose(features, responses, is_centred=False)
    expected = slow_validation(features, responses, GRID, is_centred=False)
    np.testing.assert_allclose(ours.validation, expected, atol=1e-8)


def test_a_fraction_of_all_targets_equals_cross_validation_with_fracridge():
    """Its interpolation moves scores a little, so the grid is coarse enough for the choice to be the same."""
    from fracridge import fracridge
    from sklearn.metrics import r2_score

    features, responses = (centred(values) for values in planted(7))
    grid = (0.2, 0.5, 0.8, 1.0)
    scores = []
    for test in FOLDS:
        weights, _ = fracridge(features[~test], responses[~test], fracs=np.array(grid), jit=False)
        guesses = (features[test] @ weights.reshape(7, -1)).reshape(test.sum(), len(grid), -1)
        scores.append([r2_score(responses[test], guesses[:, f]) for f in range(len(grid))])
    ours = choose(features, responses, fractions=grid, is_shared=True, is_centred=False)
    np.testing.assert_array_equal(ours.place, np.mean(scores, axis=0).argmax())
    np.testing.assert_allclose(ours.validation.mean(1), np.mean(scores, axis=0), atol=0.02)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_validation_in_float32_equals_the_definition_in_any_unit(unit):
    features, responses = planted(45)
    ours = choose(features, responses * unit, np.float32).validation
    np.testing.assert_allclose(ours, slow_validation(features, responses, GRID), atol=1e-4)


def test_ties_go_to_the_smaller_fraction_in_any_order():
    features, responses = planted(7)
    flat = np.full_like(features, 0.5)
    for fractions in [GRID, GRID[::-1]]:
        place = choose(flat, responses, fractions=fractions).place
        np.testing.assert_array_equal(np.array(fractions)[place], 0)


def test_a_constant_or_nan_target_takes_no_part_in_a_shared_choice():
    features, responses = planted(7)
    broken = responses.copy()
    broken[:, 3], broken[4, 1] = 0.25, np.nan
    ours, bare = choose(features, broken, is_shared=True), choose(features, responses)
    assert np.isnan(ours.validation[:, [1, 3]]).all()
    np.testing.assert_array_equal(ours.validation[:, [0, 2]], bare.validation[:, [0, 2]])
    np.testing.assert_array_equal(ours.place, bare.validation[:, [0, 2]].mean(1).argmax())
    np.testing.assert_array_equal(choose(features, broken).place[[1, 3]], 0)


def test_rows_in_no_fold_are_not_read():
    features, responses = (values.copy() for values in planted(7))
    within = FOLDS & (np.arange(N) != 4)[None]
    of = folds.indexed(~FOLDS & (np.arange(N) != 4)[None], within)
    bare = choose(features, responses, of=of)
    features[4], responses[4] = 1e9, -1e9
    np.testing.assert_array_equal(choose(features, responses, of=of).validation, bare.validation)


def test_test_rows_change_no_prediction_for_the_others():
    features, responses = planted(7)
    changed = responses.copy()
    changed[FOLDS[0]] = changed[FOLDS[0]][::-1]
    of = folds.indexed(~FOLDS[:1], FOLDS[:1])
    ours = choose(features, changed, of=of).validation
    is_train = ~FOLDS[0]
    _, _, predicted = run(features, responses, is_train=is_train, fractions=GRID)
    truth = changed[FOLDS[0]]
    expected = 1 - ((truth - predicted[:, FOLDS[0]]) ** 2).sum(1) / ((truth - truth.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(ours, expected, atol=1e-10)


# Settings and platforms.


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ((), "fractions is empty"),
        ((0.5, 1.05), "fractions holds 1.05: no penalty makes weights longer.*as_published"),
        ((0.5, -0.1), "fractions holds -0.1"),
        ((float("nan"),), "fractions holds nan"),
        ((float("inf"),), "fractions holds inf"),
        ((1e-12,), "fractions holds 1e-12"),
    ],
)
def test_a_wrong_fraction_is_named_with_its_value(fractions, words):
    with pytest.raises(ValueError, match=words):
        checked_fractions(fractions)


def test_a_published_grid_is_clamped_by_name():
    assert checked_fractions((0.5, 1.05), as_published=True) == (0.5, 1.0)
    features, responses = planted(7)
    ours = choose(features, responses, fractions=(0.5, 1.05), as_published=True)
    expected = choose(features, responses).validation[[GRID.index(0.5), GRID.index(1.0)]]
    np.testing.assert_allclose(ours.validation, expected, atol=1e-12)


def test_an_unknown_criterion_is_named():
    with pytest.raises(ValueError, match="criterion='mse' is not one of r2, pearson_r"):
        choose_fraction(*planted(7), folds.indexed(~FOLDS, FOLDS), GRID, criterion="mse")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_choice_lowers_for_accelerators(platform):
    given = [jax.ShapeDtypeStruct((N, width), np.float32) for width in (7, N_TARGETS)]
    step = jax.jit(lambda *of: choose_fraction(*of, fractions=GRID, platform=platform))
    text = step.trace(*given, folds.indexed(~FOLDS, FOLDS)).lower(lowering_platforms=(platform,)).as_text()
    assert "callback" not in text
