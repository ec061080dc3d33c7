"""Slow float64 definitions of banded ridge, split scores and set partitions, written from the papers."""

from itertools import combinations

import numpy as np


def banded_fit(features, groups, response, penalties, fit_intercept=True):
    """Weights of ||y - X b||^2 + sum_g penalty_g ||b_g||^2 and the intercept; an infinite penalty leaves its group out.

    (n, p), (p,), (n,), (n_groups,) -> (p,), float
    """
    x_mean = features.mean(0) if fit_intercept else np.zeros(features.shape[1])
    y_mean = response.mean() if fit_intercept else 0.0
    each = np.asarray(penalties, np.float64)[groups]
    kept = np.isfinite(each)
    x, y = (features - x_mean)[:, kept], response - y_mean
    weights = np.zeros(features.shape[1])
    weights[kept] = np.linalg.solve(x.T @ x + np.diag(each[kept]), x.T @ y)
    return weights, y_mean - x_mean @ weights


def penalties_of(gamma, alpha):
    """alpha / gamma, infinite where gamma is 0."""
    return np.array([alpha / one if one > 0 else np.inf for one in gamma])


def fold_score(truth, predicted, criterion):
    """r2 or minus the mean squared error of one target; r2 of a constant target is NaN."""
    error = np.sum((truth - predicted) ** 2)
    if criterion == "neg_mse":
        return -error / len(truth)
    return np.nan if np.ptp(truth) == 0 else 1 - error / np.sum((truth - truth.mean()) ** 2)


def validation(features, groups, response, is_test, penalties, criterion="r2", fit_intercept=True):
    """Mean over folds of the score of one target; folds without one are left out. -> float"""
    scores = []
    for test in is_test:
        weights, intercept = banded_fit(features[~test], groups, response[~test], penalties, fit_intercept)
        scores.append(fold_score(response[test], features[test] @ weights + intercept, criterion))
    return np.nan if np.isnan(scores).all() else np.nanmean(scores)


def table(features, groups, responses, is_test, gammas, alphas, criterion="r2", fit_intercept=True):
    """Validation score of every candidate, penalty and target. -> (n_candidates, n_alphas, n_targets)"""
    out = np.zeros((len(gammas), len(alphas), responses.shape[1]))
    for place in np.ndindex(out.shape):
        penalties = penalties_of(gammas[place[0]], alphas[place[1]])
        out[place] = validation(features, groups, responses[:, place[2]], is_test, penalties, criterion, fit_intercept)
    return out


def best_pair(scores, alphas):
    """First candidate and largest penalty among the best. (n_candidates, n_alphas) -> int, int"""
    best, where = -np.inf, (0, int(np.argmax(alphas)))
    for candidate in range(len(scores)):
        for place in sorted(range(len(alphas)), key=lambda one: -alphas[one]):
            if scores[candidate, place] > best:
                best, where = scores[candidate, place], (candidate, place)
    return where


def product_measure(truth, parts):
    """Shares of the parts in the r2 of their sum, for a target of mean 0. (n,), (k, n) -> (k,)"""
    total = sum(one**2 for one in truth)
    shares = []
    for part in parts:
        share = 0.0
        for i in range(len(truth)):
            share += 2 * truth[i] * part[i] - part[i] * sum(other[i] for other in parts)
        shares.append(share / total)
    return np.array(shares)


def relative_weights(truth, parts):
    """Johnson's relative weights of the parts in the r2 of their sum. (n,), (k, n) -> (k,)

    Z is the orthonormal matrix closest to the parts P; the sum of parts is regressed on Z, each z on every part.
    """
    left, _, right = np.linalg.svd(parts.T, full_matrices=False)
    closest = left @ right
    beta = np.linalg.lstsq(closest, parts.sum(0), rcond=None)[0]
    weights = np.zeros(len(parts))
    for j, part in enumerate(parts):
        for k in range(len(parts)):
            # Share of z_k in its own regression on the orthogonal directions, scaled as in the peer.
            weights[j] += (closest[:, k] @ part) ** 2 * beta[k] ** 2 / (parts[k] @ parts[k])
    r2 = 1 - np.sum((truth - parts.sum(0)) ** 2) / np.sum((truth - truth.mean()) ** 2)
    return weights / weights.sum() * r2


def venn(rng, n_sets, shape):
    """Random measures of the atoms of a Venn diagram, some negative. -> {atom: array}"""
    order = [one for size in range(1, n_sets + 1) for one in combinations(range(n_sets), size)]
    return {atom: rng.standard_normal(shape) for atom in order}


def union(atoms, subset):
    """Measure of the union of the sets of a subset: all atoms that lie in at least one of them."""
    return sum(value for atom, value in atoms.items() if set(atom) & set(subset))
