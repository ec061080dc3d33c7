"""The guard refuses nulls that are too narrow, and a simulation shows why."""

import numpy as np
import pytest

from jaxalign.compute import folds, schemes

N, WIDTH, N_FOLDS, ALPHA, N_PERMUTATIONS = 60, 20, 5, 20.0, 99


def fold_predictors(features, is_test):
    """Matrices that turn responses into predictions for each fold's test rows: ridge, centred by training rows."""
    matrices = []
    for held_out in is_test:
        train = features[~held_out]
        centred = train - train.mean(0)
        weights = np.linalg.solve(centred.T @ centred + ALPHA * np.eye(WIDTH), centred.T)
        weights -= weights.mean(1, keepdims=True)
        average = np.full((1, len(train)), 1 / len(train))
        matrices.append((features[held_out] - train.mean(0)) @ weights + average)
    return matrices


def columns_r(truth, guess):
    truth, guess = truth - truth.mean(0), guess - guess.mean(0)
    return (truth * guess).sum(0) / np.sqrt((truth**2).sum(0) * (guess**2).sum(0))


def p_values(rng, n_folds):
    """p of one null data set under both schemes, after K-fold; n_folds=1 scores the first fold alone, a fixed split."""
    features, responses = rng.standard_normal((N, WIDTH)), rng.standard_normal(N)
    is_test = folds.contiguous(N, N_FOLDS)[:n_folds]
    rows = np.stack([np.arange(N), *(rng.permutation(N) for _ in range(N_PERMUTATIONS))], axis=1)
    scores = {scheme: np.zeros(N_PERMUTATIONS + 1) for scheme in schemes.SCHEMES}
    for held_out, predict in zip(is_test, fold_predictors(features, is_test), strict=True):
        # Relabel held-out stimuli: by the order in which a permutation of all names those of this fold.
        inside = np.stack([row[held_out[row]] for row in rows.T], axis=1)
        guess = predict @ responses[~held_out]
        scores["test_stimuli"] += columns_r(responses[inside], np.broadcast_to(guess[:, None], inside.shape))
        permuted = responses[rows]
        scores["responses"] += columns_r(permuted[held_out], predict @ permuted[~held_out])
    return [np.mean(null >= null[0] - 1e-9) for null in (scores[scheme] for scheme in schemes.SCHEMES)]


def false_positive_rates(n_sets, n_folds, seed=0):
    rng = np.random.default_rng(seed)
    return np.mean([np.less_equal(p_values(rng, n_folds), 0.05) for _ in range(n_sets)], axis=0)


# What is refused.


@pytest.mark.parametrize("cv", [cv for cv in schemes.CROSS_VALIDATIONS if cv != "fixed_split"])
def test_relabelling_held_out_stimuli_is_refused_wherever_stimuli_are_trained_on_as_well(cv):
    with pytest.raises(ValueError, match=rf"cv='{cv}'.*\.098 to \.124 at \.05.*scheme='responses'.*\.037 to \.060"):
        schemes.check_scheme("test_stimuli", cv)


@pytest.mark.parametrize("cv", schemes.CROSS_VALIDATIONS)
def test_permuting_responses_before_fitting_is_always_allowed(cv):
    schemes.check_scheme("responses", cv)


def test_relabelling_the_stimuli_of_a_given_test_set_is_allowed():
    schemes.check_scheme("test_stimuli", "fixed_split")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"scheme='response' is not a null. Nearest: responses"):
        schemes.check_scheme("response", "k_fold")
    with pytest.raises(ValueError, match=r"cv='kfold' is not a cross-validation. Nearest: k_fold"):
        schemes.check_scheme("responses", "kfold")


@pytest.mark.parametrize(("is_fixed_split", "cv"), [(True, "fixed_split"), (False, "k_fold")])
def test_the_default_is_never_refused_and_relabels_least(is_fixed_split, cv):
    scheme = schemes.default_scheme(is_fixed_split)
    schemes.check_scheme(scheme, cv)
    assert scheme == ("test_stimuli" if is_fixed_split else "responses")


# Why.


def test_the_refused_null_finds_too_much_in_noise():
    wrong, right = false_positive_rates(300, N_FOLDS)
    assert wrong > 0.08
    assert abs(right - 0.05) <= 0.03


@pytest.mark.slow
def test_false_positive_rates_of_both_nulls_under_k_fold():
    wrong, right = false_positive_rates(1000, N_FOLDS, seed=1)
    assert wrong > 0.065
    assert abs(right - 0.05) <= 0.015


@pytest.mark.slow
def test_both_nulls_hold_their_rate_on_a_fixed_split():
    np.testing.assert_allclose(false_positive_rates(1000, 1, seed=2), 0.05, atol=0.015)
