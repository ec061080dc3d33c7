"""Nested ridge: scores, penalties and null equal the slow definition; nothing of the test rows reaches training."""

import warnings
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import oracles
import pytest
from oracles import masks_of, null_of, scores_of

from jaxalign.compute import folds
from jaxalign.compute.permute import labellings
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Features, Responses

pytestmark = pytest.mark.usefixtures("strict")

N, N_TARGETS, WIDE = 41, 5, 60
WIDTHS = {"tall": 6, "wide": WIDE}
ALPHAS = (0.1, 1.0, 10.0, 100.0, 1000.0)
GIVEN = Ridge(n_outer=4, n_inner=3, alphas="given", alpha_values=ALPHAS, n_permutations=12)
AUTO = Ridge(n_outer=4, n_inner=3, n_permutations=12)
ONE, ZERO = replace(GIVEN, alpha_values=(0.5,)), replace(GIVEN, alpha_values=(0.0,))
REVERSED = replace(GIVEN, alpha_values=ALPHAS[::-1])


@cache
def planted(width):
    """Two layers and five targets: three driven by the first layer at different strengths, one weak, one noise."""
    rng = np.random.default_rng(width)
    features = rng.standard_normal((2, N, width)) * rng.uniform(0.5, 3, width) + rng.uniform(-2, 2, width)
    signal = features[0] @ rng.standard_normal((width, N_TARGETS)) / np.sqrt(width)
    responses = signal * [3, 1, 1, 0.4, 0] + rng.standard_normal((N, N_TARGETS))
    return features, responses


@cache
def k_fold():
    return folds.design(folds.shuffled(N, 4, 1), 3, 1)


@cache
def fixed_split():
    is_test = np.zeros((1, N), bool)
    is_test[0, 3::3] = True
    return folds.design(is_test, 3, 1, is_fixed_split=True)


def rows_of(design, n_permutations=12):
    return labellings(int(fixed_split().outer.is_test.sum()) if design.is_fixed_split else N, n_permutations, 5)


def run(metric, features, responses, design=None, dtype=np.float64, **null):
    design = k_fold() if design is None else design
    features, responses = features.astype(dtype), responses.astype(dtype)
    widths = np.full(len(features), features.shape[2], np.int32)
    rows = null.pop("rows", None)
    rows = rows_of(design) if rows is None else rows
    with jax.enable_x64(dtype == np.float64):
        return scores_of(
            metric,
            Features(features, widths),
            Responses(responses),
            design,
            null_of(rows, responses.shape[1], dtype, **null),
        )


@cache
def slow(width, alphas, layer=0):
    features, responses = planted(width)
    return oracles.nested_ridge(features[layer], responses, masks_of(k_fold()), alphas)


# Against the definition.


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize(("metric", "alphas"), [(GIVEN, ALPHAS), (AUTO, None)], ids=["given", "auto"])
def test_scores_of_every_fold_equal_the_definition_in_float64(metric, alphas, shape, layer):
    expected, _, _ = slow(WIDTHS[shape], alphas, layer)
    ours = run(metric, *planted(WIDTHS[shape])).fold_value[layer]
    np.testing.assert_allclose(np.moveaxis(ours, 0, 1), expected, atol=1e-8)


@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize(("metric", "alphas"), [(GIVEN, ALPHAS), (AUTO, None)], ids=["given", "auto"])
def test_penalties_equal_the_definition(metric, alphas, shape):
    _, chosen, _ = slow(WIDTHS[shape], alphas)
    ours = run(metric, *planted(WIDTHS[shape])).alpha[0]
    np.testing.assert_allclose(ours, np.exp(np.log(chosen).mean(0)), rtol=1e-9)


@pytest.mark.parametrize("shape", WIDTHS)
def test_validation_is_the_r2_of_inner_folds(shape):
    _, _, validation = slow(WIDTHS[shape], ALPHAS)
    np.testing.assert_allclose(run(GIVEN, *planted(WIDTHS[shape])).validation[0], validation.mean(0), atol=1e-9)


@pytest.mark.parametrize("shape", WIDTHS)
def test_scores_in_float32_equal_the_definition(shape):
    expected, _, _ = slow(WIDTHS[shape], ALPHAS)
    ours = run(GIVEN, *planted(WIDTHS[shape]), dtype=np.float32)
    np.testing.assert_allclose(ours.value[0], expected.mean(1), atol=1e-5)


def test_the_value_is_the_mean_over_outer_folds():
    scores = run(GIVEN, *planted(6))
    np.testing.assert_allclose(scores.value, scores.fold_value.mean(1), atol=1e-12)


@cache
def slow_null(name):
    features, responses = planted(6)
    design = k_fold() if name == "k_fold" else fixed_split()
    of = oracles.nested_ridge_null if name == "k_fold" else oracles.fixed_split_null
    return of(features[0], responses, masks_of(design), rows_of(design), ALPHAS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["k_fold", "fixed_split"])
def test_exceedance_counts_equal_the_definition_exactly(name, dtype):
    design = k_fold() if name == "k_fold" else fixed_split()
    ours = run(GIVEN, *planted(6), design, dtype)
    np.testing.assert_array_equal(ours.exceed_count[0], oracles.exceedances(slow_null(name)))


@pytest.mark.parametrize("name", ["k_fold", "fixed_split"])
def test_observed_scores_and_maxima_equal_the_definition(name):
    design = k_fold() if name == "k_fold" else fixed_split()
    ours = run(GIVEN, *planted(6), design, is_calibrated=False)
    null = slow_null(name)
    np.testing.assert_allclose(ours.value[0], null[0], atol=1e-9)
    np.testing.assert_allclose(ours.maxima[0, :, 0], null.max(2).T, atol=1e-9)


@pytest.mark.parametrize("name", ["k_fold", "fixed_split"])
def test_calibrated_scores_and_maxima_equal_the_definition(name):
    design = k_fold() if name == "k_fold" else fixed_split()
    ours = run(GIVEN, *planted(6), design)
    z = oracles.calibrated(slow_null(name))
    np.testing.assert_allclose(ours.z[0], z[0], atol=1e-7)
    np.testing.assert_allclose(ours.maxima[0, :, 0], z.max(2).T, atol=1e-7)


# Against peers.


@pytest.mark.parametrize("shape", WIDTHS)
def test_one_penalty_equals_scikit_learn(shape):
    from sklearn.linear_model import Ridge as Peer
    from sklearn.preprocessing import StandardScaler

    features, responses = planted(WIDTHS[shape])
    masks = masks_of(k_fold())
    expected = []
    for train, test in zip(masks["outer_train"], masks["outer_test"], strict=True):
        scaler = StandardScaler().fit(features[0][train])
        peer = Peer(alpha=0.5).fit(scaler.transform(features[0][train]), responses[train])
        predicted = peer.predict(scaler.transform(features[0][test]))
        expected.append([oracles.pearson(a, b) for a, b in zip(responses[test].T, predicted.T, strict=True)])
    np.testing.assert_allclose(run(ONE, features, responses).fold_value[0, :, 0], expected, atol=1e-9)


@pytest.mark.parametrize("shape", WIDTHS)
def test_penalties_of_each_target_equal_himalaya(shape):
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from himalaya.scoring import r2_score

    set_backend("numpy")
    features, responses = planted(WIDTHS[shape])
    design = fixed_split()
    masks = masks_of(design)
    train = masks["outer_train"][0]
    place = np.cumsum(train) - 1
    inner = zip(masks["inner_train"][0], masks["inner_test"][0], strict=True)
    cv = [(place[one], place[other]) for one, other in inner]
    peer = RidgeCV(alphas=ALPHAS, cv=cv, fit_intercept=True, solver_params={"score_func": r2_score, "warn": False})
    with warnings.catch_warnings():
        # himalaya hands (train, test) lists to scikit-learn's check_cv; nothing in them concerns the result.
        warnings.simplefilter("ignore")
        peer.fit(oracles.scaled_by(features[0], train)[train], responses[train])
    np.testing.assert_allclose(run(GIVEN, features, responses, design).alpha[0], peer.best_alphas_, rtol=1e-12)


# Shapes and padding.


def test_tall_and_wide_agree_when_columns_are_repeated():
    features, responses = planted(6)
    # Ten copies of each column have ten times the eigenvalues, hence the penalties of the automatic grid: one model.
    tall, wide = run(AUTO, features, responses), run(AUTO, np.tile(features, (1, 1, 10)), responses)
    np.testing.assert_allclose(wide.value, tall.value, atol=1e-9)


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_padding_columns_changes_nothing(dtype, atol):
    features, responses = planted(6)
    padded = np.pad(features, ((0, 0), (0, 0), (0, WIDE - 6)))
    ours, bare = run(GIVEN, padded, responses, dtype=dtype), run(GIVEN, features, responses, dtype=dtype)
    np.testing.assert_allclose(ours.value, bare.value, atol=atol)


def test_padding_fits_changes_no_bit_of_the_others():
    features, responses = planted(6)
    padded = np.concatenate([features[:1], np.zeros_like(features[:1])])
    np.testing.assert_array_equal(run(GIVEN, padded, responses).value[0], run(GIVEN, features, responses).value[0])


def test_a_padding_fit_stays_finite():
    features, responses = planted(6)
    assert np.isfinite(run(AUTO, np.zeros_like(features), responses).value).all()


def test_one_target_scores_as_among_others():
    features, responses = planted(6)
    ours = run(GIVEN, features, responses[:, 1:2]).value[..., 0]
    np.testing.assert_allclose(ours, run(GIVEN, features, responses).value[..., 1], atol=1e-12)


def test_solvers_agree():
    ours = run(replace(GIVEN, solver="svd"), *planted(WIDE))
    np.testing.assert_allclose(ours.value, run(GIVEN, *planted(WIDE)).value, atol=1e-9)


def test_alpha_zero_is_ordinary_least_squares():
    features, responses = planted(6)
    expected, _, _ = oracles.nested_ridge(features[0], responses, masks_of(k_fold()), (0.0,))
    ours = run(ZERO, features, responses)
    np.testing.assert_allclose(ours.value[0], expected.mean(1), atol=1e-9)
    np.testing.assert_array_equal(ours.alpha, 0)


@pytest.mark.parametrize("solver", ["auto", "svd"])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-8), (np.float32, 1e-5)])
def test_alpha_zero_on_rank_deficient_features_is_the_minimum_norm_solution(solver, dtype, atol):
    features, responses = planted(6)
    features = features.copy()
    features[:, :, 4] = features[:, :, 0]
    features[:, :, 5] = features[:, :, 1] - features[:, :, 2]
    expected, _, _ = oracles.nested_ridge(features[0], responses, masks_of(k_fold()), (0.0,))
    ours = run(replace(ZERO, solver=solver), features, responses, dtype=dtype)
    np.testing.assert_allclose(ours.value[0], expected.mean(1), atol=atol)


def test_duplicated_stimuli_equal_the_definition():
    features, responses = (values.copy() for values in planted(6))
    features[:, 20:40] = features[:, :20]
    expected, _, _ = oracles.nested_ridge(features[0], responses, masks_of(k_fold()), ALPHAS)
    np.testing.assert_allclose(run(GIVEN, features, responses).value[0], expected.mean(1), atol=1e-9)


def test_features_that_are_only_centred_equal_the_definition():
    features, responses = planted(6)
    expected, _, _ = oracles.nested_ridge(features[0], responses, masks_of(k_fold()), ALPHAS, zscore=False)
    ours = run(replace(GIVEN, zscore=False), features, responses)
    np.testing.assert_allclose(ours.value[0], expected.mean(1), atol=1e-9)


# Scales and offsets.


@pytest.mark.parametrize("unit", [1e-13, 1e-6, 1e6])
@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_the_unit_of_responses_changes_no_score(unit, dtype, atol):
    features, responses = planted(6)
    ours, bare = run(GIVEN, features, responses * unit, dtype=dtype), run(GIVEN, features, responses, dtype=dtype)
    np.testing.assert_allclose(ours.value, bare.value, atol=atol)
    np.testing.assert_array_equal(ours.exceed_count, bare.exceed_count)


@pytest.mark.parametrize("unit", [1e-13, 1e-6, 1e6])
def test_the_unit_of_features_changes_no_score(unit):
    features, responses = planted(6)
    ours = run(GIVEN, features * unit, responses, dtype=np.float32)
    np.testing.assert_allclose(ours.value, run(GIVEN, features, responses, dtype=np.float32).value, atol=1e-5)


def test_a_unit_at_5000_costs_no_digits():
    features, responses = planted(WIDE)
    shifted = features.copy()
    shifted[:, :, 7] += 5000
    shifted = shifted.astype(np.float32).astype(np.float64)
    expected, _, _ = oracles.nested_ridge(shifted[0], responses, masks_of(k_fold()), ALPHAS)
    ours = run(GIVEN, shifted, responses, dtype=np.float32)
    np.testing.assert_allclose(ours.value[0], expected.mean(1), atol=1e-5)


def test_a_unit_at_5000_changes_scores_by_its_rounding_only():
    features, responses = planted(WIDE)
    shifted = features.copy()
    shifted[:, :, 7] += 5000
    ours = run(GIVEN, shifted, responses, dtype=np.float32).value
    np.testing.assert_allclose(ours, run(GIVEN, features, responses, dtype=np.float32).value, atol=3e-5)


# Degenerate cases.


def test_a_constant_target_has_no_score_and_harms_no_other():
    features, responses = planted(6)
    flat = responses.copy()
    flat[:, 2] = 0.1
    ours, bare = run(GIVEN, features, flat, dtype=np.float32), run(GIVEN, features, responses, dtype=np.float32)
    assert np.isnan(ours.value[:, :, 2]).all()
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(ours.value[:, :, others], bare.value[:, :, others])


def test_constant_features_predict_the_training_mean():
    features, responses = planted(6)
    ours = run(GIVEN, np.full_like(features, 0.3), responses)
    np.testing.assert_array_equal(ours.value[:, 0], 0)
    masks = masks_of(k_fold())
    expected = [
        [oracles.r2_of_prediction(y[test], np.full(test.sum(), y[train].mean())) for y in responses.T]
        for train, test in zip(masks["outer_train"], masks["outer_test"], strict=True)
    ]
    np.testing.assert_allclose(ours.fold_value[0, :, 1], expected, atol=1e-10)


def test_ties_of_the_criterion_go_to_the_larger_penalty():
    features, responses = planted(6)
    ours = run(REVERSED, np.full_like(features, 0.3), responses)
    np.testing.assert_array_equal(run(GIVEN, np.full_like(features, 0.3), responses).alpha, ours.alpha)
    np.testing.assert_allclose(ours.alpha, 1000)


def test_the_order_of_penalties_does_not_matter():
    features, responses = planted(6)
    ours = run(REVERSED, features, responses)
    bare = run(GIVEN, features, responses)
    np.testing.assert_array_equal(ours.value, bare.value)
    np.testing.assert_array_equal(ours.edge, bare.edge)


def test_edges_of_the_grid_are_marked():
    features, responses = planted(6)
    strong = features[0] @ np.eye(6, N_TARGETS)
    assert (run(GIVEN, features, strong).edge[0] == -1).all()
    assert (run(GIVEN, np.full_like(features, 0.3), responses).edge == 1).all()
    assert (run(ONE, features, responses).edge == 0).all()


def test_a_nan_target_does_not_leak():
    features, responses = planted(6)
    broken = responses.copy()
    broken[4, 2] = np.nan
    weights = np.zeros((N_TARGETS, 2))
    weights[:2, 0], weights[2:4, 1] = 0.5, 0.5
    ours, bare = (run(GIVEN, features, values, aggregates=weights) for values in (broken, responses))
    is_nan = np.isnan(ours.value).any((0, 1))
    np.testing.assert_array_equal(is_nan, [False, False, True, False, False, False, True])
    np.testing.assert_array_equal(ours.value[..., ~is_nan], bare.value[..., ~is_nan])
    np.testing.assert_array_equal(ours.exceed_count[..., ~is_nan], bare.exceed_count[..., ~is_nan])


def test_aggregates_have_their_own_null():
    features, responses = planted(6)
    weights = np.stack([np.full(N_TARGETS, 1 / N_TARGETS), np.array([0.5, 0, 0.25, 0, 0.25])], axis=1)
    ours = run(GIVEN, features, responses, aggregates=weights)
    null = slow_null("k_fold") @ weights
    np.testing.assert_allclose(ours.value[0, :, -2:], null[0], atol=1e-9)
    np.testing.assert_array_equal(ours.exceed_count[0, :, -2:], oracles.exceedances(null))
    np.testing.assert_allclose(ours.z[0, :, -2:], oracles.calibrated(null)[0], atol=1e-7)


# Leakage.


def test_test_features_change_no_penalty_and_no_validation_bit():
    features, responses = planted(6)
    huge = features.copy()
    huge[:, fixed_split().rsa_rows] *= 1e4
    ours, bare = (run(GIVEN, values, responses, fixed_split(), np.float32) for values in (huge, features))
    np.testing.assert_array_equal(ours.alpha, bare.alpha)
    np.testing.assert_array_equal(ours.validation, bare.validation)


def test_test_features_change_no_automatic_penalty_bit():
    features, responses = planted(6)
    huge = features.copy()
    huge[:, fixed_split().rsa_rows] *= 1e4
    ours, bare = (run(AUTO, values, responses, fixed_split(), np.float32) for values in (huge, features))
    np.testing.assert_array_equal(ours.alpha, bare.alpha)


def test_test_responses_change_no_penalty_and_no_validation():
    features, responses = planted(6)
    shifted = responses.copy()
    shifted[fixed_split().rsa_rows] = 3 * shifted[fixed_split().rsa_rows] + 10
    ours, bare = (run(GIVEN, features, values, fixed_split()) for values in (shifted, responses))
    np.testing.assert_array_equal(ours.alpha, bare.alpha)
    np.testing.assert_allclose(ours.validation, bare.validation, atol=1e-10)


def test_a_feature_that_knows_the_answer_in_test_rows_only_does_not_raise_the_score():
    features, responses = (values.copy() for values in planted(6))
    features[:, :, 5] = 0
    leaked = features.copy()
    test = fixed_split().rsa_rows
    leaked[:, test, 5] = 1000 * responses[test, 4]
    ours, bare = (run(GIVEN, values, responses, fixed_split()) for values in (leaked, features))
    np.testing.assert_array_equal(ours.value, bare.value)


def test_inner_scores_do_not_see_the_outer_test_fold():
    features, responses = planted(6)
    changed = responses.copy()
    outer_test = masks_of(k_fold())["outer_test"][2]
    changed[outer_test] = np.random.default_rng(0).permutation(changed[outer_test])
    masks = masks_of(k_fold())
    only = {name: mask[2:3] for name, mask in masks.items()}
    _, chosen, _ = oracles.nested_ridge(features[0], changed, only, ALPHAS)
    _, before, _ = oracles.nested_ridge(features[0], responses, only, ALPHAS)
    np.testing.assert_array_equal(chosen, before)
    expected, _, _ = oracles.nested_ridge(features[0], changed, masks, ALPHAS)
    np.testing.assert_allclose(np.moveaxis(run(GIVEN, features, changed).fold_value[0], 0, 1), expected, atol=1e-8)


# Settings.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alphas": "log"}, "alphas='log'"),
        ({"alphas": "given"}, "with 0 alpha_values"),
        ({"alpha_values": (1.0, 2.0)}, "alphas='auto' with 2 alpha_values"),
        ({"alphas": "given", "alpha_values": (1.0, -3.0)}, "alpha_values holds -3.0"),
        ({"alphas": "given", "alpha_values": (1.0, float("nan"))}, "alpha_values holds nan"),
        ({"solver": "lu"}, "solver='lu' is not one of auto, eigh, svd"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings, words):
    with pytest.raises(ValueError, match=words):
        Ridge(**settings)


def test_lists_of_penalties_become_hashable():
    assert hash(Ridge(alphas="given", alpha_values=[1, 2])) == hash(Ridge(alphas="given", alpha_values=(1.0, 2.0)))


# Real data.


def test_n400_association_strength_predicts_pz_at_380_ms(data_folder):
    import mne

    epochs = mne.read_epochs(data_folder / "n400" / "subject04-epo.fif", verbose="error")
    features = epochs.metadata["FAS"].to_numpy()[None, :, None]
    responses = epochs.get_data(copy=False).reshape(200, -1)
    design = folds.design(folds.contiguous(200, 5), 2, 0, shuffle=False)
    r = run(ZERO, features, responses, design, np.float32, rows=np.arange(200)[None]).value[0, 0].reshape(32, 60)
    channel, time = np.unravel_index(r.argmax(), r.shape)
    assert r.max() == pytest.approx(0.3966, abs=5e-5)
    assert (epochs.ch_names[channel], round(epochs.times[time], 2)) == ("Pz", 0.38)
    assert r[:, epochs.times < 0].max() == pytest.approx(0.168, abs=5e-4)
