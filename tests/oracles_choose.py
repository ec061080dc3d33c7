"""Slow float64 definitions of choosing a penalty: every fold, penalty and left-out stimulus is a least-squares fit of its own."""

from functools import partial

import jax
import numpy as np

from jaxalign.compute import fit
from jaxalign.compute.choose import Choosing
from jaxalign.compute.decompose import Way

BY_FOLDS, WAY = Choosing(), Way()
ALWAYS_BY_GRAM = 10**4
"""So many penalties are announced that scoring by held-out Gram matrices is the cheaper way for tall splits."""


# How tests call a fit: two compiled steps, one cache for all tests.

_state = jax.jit(fit.fit_state, static_argnums=(3, 4, 5))
_chosen = jax.jit(fit.fit_chosen, static_argnums=(5, 6), static_argnames=("is_centred", "n_groups"))
_given = jax.jit(fit.fit_given, static_argnames=("is_centred",))


def fitted(features, responses, folds, weights, alphas, by=BY_FOLDS, way=WAY, dtype=np.float64, **how):
    """FitState and Fitted as NumPy arrays; penalties are given, one per target, where `by` is None.

    `announced` is the number of penalties that the decomposition is told, `n_basis` that of basis filters.
    """
    announced, n_basis = how.pop("announced", len(alphas)), how.pop("n_basis", 0)
    with jax.enable_x64(dtype == np.float64):
        cast = partial(np.asarray, dtype=dtype)
        weights = None if weights is None else cast(weights)
        state = _state(cast(features), folds, weights, by, way, announced)
        if by is None:
            found = _given(state, cast(responses), weights, cast(alphas), is_centred=way.is_centred)
        else:
            given = state, cast(responses), folds, weights, cast(alphas), by, n_basis
            found = _chosen(*given, is_centred=way.is_centred, **how)
        return jax.tree.map(np.asarray, (state, found))


def pairs_of(train, test):
    """Row indices of boolean masks. (n_folds, n) twice -> list of pairs"""
    return [(np.flatnonzero(one), np.flatnonzero(other)) for one, other in zip(train, test, strict=True)]


# The definitions.


def ridge_fit(features, responses, weights, alpha, is_centred=True):
    """Least squares on rows times sqrt(weight) with sqrt(alpha) rows of the identity below; minimum norm at alpha 0.

    (n, p), (n, n_targets), (n,) -> (p, n_targets), (n_targets,)
    """
    x_mean, y_mean = np.zeros(features.shape[1]), np.zeros(responses.shape[1])
    if is_centred:
        x_mean, y_mean = (np.average(values, axis=0, weights=weights) for values in (features, responses))
    root = np.sqrt(weights)[:, None]
    x, y = (features - x_mean) * root, (responses - y_mean) * root
    if alpha > 0:
        width = x.shape[1]
        x = np.concatenate([x, np.sqrt(alpha) * np.eye(width)])
        y = np.concatenate([y, np.zeros((width, y.shape[1]))])
    coefficients = np.linalg.lstsq(x, y, rcond=1e-10 if alpha == 0 else None)[0]
    return coefficients, y_mean - x_mean @ coefficients


def scaling(features, weights, is_centred=True, is_zscored=False):
    """Shift and spread of features by weighted mean and SD; a constant column has spread 0. -> (p,), (p,)"""
    mean = np.average(features, axis=0, weights=weights)
    spread = np.ones(features.shape[1])
    if is_zscored:
        spread = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
        spread[np.ptp(features[weights > 0], axis=0) == 0] = 0
    return mean if is_centred else 0 * mean, spread


def scaled(features, shift, spread):
    """(n, p) -> (n, p), columns of spread 0 become 0."""
    return np.where(spread > 0, (features - shift) / np.where(spread > 0, spread, 1), 0)


def score(truth, predicted, weights, name):
    """One criterion of one target on held-out rows, weighted; NaN for a constant target unless it is neg_mse."""
    truth, predicted, weights = (values[weights > 0] for values in (truth, predicted, weights))
    if name == "neg_mse":
        return -np.average((truth - predicted) ** 2, weights=weights)
    if np.isnan(truth).any() or np.ptp(truth) == 0:
        return np.nan
    left = truth - np.average(truth, weights=weights)
    if name == "r2":
        return 1 - np.sum(weights * (truth - predicted) ** 2) / np.sum(weights * left**2)
    guess = predicted - np.average(predicted, weights=weights)
    spread = np.sum(weights * guess**2)
    if spread <= 1e-15 * np.sum(weights * predicted**2):
        return 0.0
    return np.sum(weights * left * guess) / np.sqrt(np.sum(weights * left**2) * spread)


def judged(features, responses, pairs, weights, alphas, name="r2", is_centred=True):
    """Criterion of every fold, penalty and target; training rows may repeat. -> (n_folds, n_alphas, n_targets)"""
    out = np.zeros((len(pairs), len(alphas), responses.shape[1]))
    for fold, (train, test) in enumerate(pairs):
        for place, alpha in enumerate(alphas):
            by = ridge_fit(features[train], responses[train], weights[train], alpha, is_centred)
            predicted = features[test] @ by[0] + by[1]
            for target in range(responses.shape[1]):
                out[fold, place, target] = score(responses[test, target], predicted[:, target], weights[test], name)
    return out


def left_out(features, responses, weights, alpha, is_centred=True):
    """Prediction of each stimulus by a fit to all others. -> (n, n_targets)"""
    out = np.zeros_like(responses)
    for row in range(len(features)):
        others = np.arange(len(features)) != row
        by = ridge_fit(features[others], responses[others], weights[others], alpha, is_centred)
        out[row] = features[row] @ by[0] + by[1]
    return out


def loo(features, responses, weights, alphas, name="r2", is_centred=True):
    """Criterion of left-out predictions, by refitting n times. -> (n_alphas, n_targets)"""
    return np.stack(
        [
            criterion_about(responses, left_out(features, responses, weights, alpha, is_centred), weights, name)
            for alpha in alphas
        ]
    )


def criterion_about(responses, predicted, weights, name):
    """r2 or neg_mse of all targets. (n, n_targets) twice -> (n_targets,)"""
    return np.array([score(a, b, weights, name) for a, b in zip(responses.T, predicted.T, strict=True)])


def gcv(features, responses, weights, alphas, name="r2", is_centred=True):
    """Mean squared error over (1 - trace of the hat matrix / n)^2, the hat matrix built column by column."""
    out = []
    used = weights > 0
    features, responses, weights = features[used], responses[used], weights[used]
    for alpha in alphas:
        slopes, shift = ridge_fit(features, np.eye(len(features)), weights, alpha, is_centred)
        hat = features @ slopes + shift
        free = 1 - np.trace(hat) / len(features)
        out.append(criterion_about(responses, responses - (responses - hat @ responses) / free, weights, name))
    return np.stack(out)


def pick(values, alphas, groups=None, is_conservative=False):
    """Place of the best mean over the folds that have a value, ties to the larger penalty. -> (n_targets,)

    A group shares the mean over its members that have one; "conservative" is the largest penalty whose mean is within
    one standard error (SD over folds / sqrt(n_folds)) of the best.
    """
    n_folds, n_alphas, n_targets = values.shape
    places = []
    for target in range(n_targets):
        members = (
            [target] if groups is None else [other for other in range(n_targets) if groups[other] == groups[target]]
        )
        of_alpha, spread = np.full(n_alphas, np.nan), np.zeros(n_alphas)
        for place in range(n_alphas):
            means = [_mean(values[:, place, member]) for member in members]
            of_alpha[place] = _mean(np.array(means))
            of_fold = np.array([_mean(values[fold, place, members]) for fold in range(n_folds)])
            of_fold = of_fold[~np.isnan(of_fold)]
            spread[place] = np.std(of_fold, ddof=1) / np.sqrt(len(of_fold)) if len(of_fold) > 1 else 0
        best = None
        for place in range(n_alphas):
            value = -np.inf if np.isnan(of_alpha[place]) else of_alpha[place]
            if best is None or (value, alphas[place]) > best[:2]:
                best = value, alphas[place], place
        if is_conservative:
            enough = best[0] - spread[best[2]]
            within = [place for place in range(n_alphas) if np.nan_to_num(of_alpha[place], nan=-np.inf) >= enough]
            best = max((alphas[place], place) for place in within)
        places.append(best[-1])
    return np.array(places)


def _mean(values):
    values = values[~np.isnan(values)]
    return values.mean() if len(values) else np.nan


def chosen(
    features, responses, pairs, weights, alphas, by="folds", name="r2", is_centred=True, is_zscored=False, **how
):
    """Weights for features as given and intercepts, with penalties chosen. -> dict of arrays"""
    shift, spread = scaling(features, weights, is_centred, is_zscored)
    x = scaled(features, shift, spread)
    if by == "folds":
        values = judged(x, responses, pairs, weights, alphas, name, is_centred)
    else:
        values = {"loo": loo, "gcv": gcv}[by](x, responses, weights, alphas, name, is_centred)[None]
    place = pick(values, alphas, **how)
    coefficients, intercept = np.zeros((x.shape[1], len(place))), np.zeros(len(place))
    for target, one in enumerate(place):
        y = responses[:, target : target + 1]
        slopes, level = ridge_fit(x, y, weights, alphas[one], is_centred)
        coefficients[:, target] = np.where(spread > 0, slopes[:, 0] / np.where(spread > 0, spread, 1), 0)
        intercept[target] = level[0] - shift @ coefficients[:, target]
    return {"weights": coefficients, "intercept": intercept, "place": place, "judged": values}
