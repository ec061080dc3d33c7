"""Slow float64 definitions of dissimilarities and noise covariances, one pair of stimuli at a time."""

from itertools import combinations, permutations

import numpy as np

PRIOR_RATE, PRIOR_WEIGHT = 1.0, 0.1


def rate(counts):
    """Mean of the counts and of a prior measurement that weighs a tenth of one."""
    return (counts + PRIOR_WEIGHT * PRIOR_RATE) / (1 + PRIOR_WEIGHT)


def cosine(x, y):
    return 1 - np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))


def poisson(x, y):
    """Kullback-Leibler divergence both ways, summed over units."""
    one, other = rate(x), rate(y)
    forward = np.sum(one * np.log(one / other) - one + other)
    return forward + np.sum(other * np.log(other / one) - other + one)


DISTANCE = {
    "correlation": lambda x, y: cosine(x - x.mean(), y - y.mean()),
    "cosine": cosine,
    "euclidean": lambda x, y: np.sqrt(np.sum((x - y) ** 2)),
    "sqeuclidean": lambda x, y: np.sum((x - y) ** 2),
    "poisson": poisson,
    "difference": lambda x, y: abs(x[0] - y[0]),
}


def over_pairs(n, one):
    return np.array([one(i, j) for i, j in combinations(range(n), 2)])


def rdm(values, distance, precision=None):
    """(n, width) -> (n_pairs,)"""
    values = np.asarray(values, np.float64)
    if distance == "mahalanobis":
        return over_pairs(len(values), lambda i, j: (values[i] - values[j]) @ precision @ (values[i] - values[j]))
    return over_pairs(len(values), lambda i, j: DISTANCE[distance](values[i], values[j]))


def rdm_of_shared_units(values, is_unit, distance, width):
    """Each pair over the units that both have; sums as if the missing units were like the others."""

    def one(i, j):
        both = is_unit[i] & is_unit[j]
        if both.sum() < (2 if distance == "correlation" else 1):
            return np.nan
        found = DISTANCE[distance](values[i, both], values[j, both])
        share = width / both.sum()
        return found * {"euclidean": np.sqrt(share), "sqeuclidean": share, "poisson": share}.get(distance, 1)

    return over_pairs(len(values), one)


def crossnobis(patterns, is_present, precision, other=None):
    """Mean over ordered pairs of different partitions that both stimuli have; not divided by the width."""
    other = patterns if other is None else other

    def one(i, j):
        common = np.flatnonzero(is_present[:, i] & is_present[:, j])
        products = [
            (patterns[a, i] - patterns[a, j]) @ precision @ (other[b, i] - other[b, j])
            for a, b in permutations(common, 2)
        ]
        return np.mean(products) if products else np.nan

    return over_pairs(patterns.shape[1], one)


def poisson_cv(patterns, is_present):
    rates = rate(patterns)
    return crossnobis(rates, is_present, np.eye(patterns.shape[2]), np.log(rates))


def covariance(residuals, method, dof):
    """Entry by entry, as the papers write them."""
    n, width = residuals.shape
    x = residuals - residuals.mean(0)
    sample = sum(np.outer(row, row) for row in x) / dof
    if method == "full":
        return sample
    if method == "diag":
        return np.diag(np.diag(sample))
    return (ledoit_wolf if method == "shrinkage_eye" else schaefer_strimmer)(x, n, width, dof, sample)


def ledoit_wolf(x, n, width, dof, sample):
    """Lemma 3.2 to 3.4 of Ledoit & Wolf 2004, rescaled to the degrees of freedom."""
    s = sample * dof / n
    m = np.trace(s) / width
    d2 = np.sum((s - m * np.eye(width)) ** 2)
    b2 = min(sum(np.sum((np.outer(row, row) - s) ** 2) for row in x) / n**2, d2)
    return (b2 / d2 * m * np.eye(width) + (d2 - b2) / d2 * s) * n / dof


def schaefer_strimmer(x, n, width, dof, sample):
    """Target D of Schaefer & Strimmer 2005 on correlations; w_k is the product of two standardised entries."""
    z = x / np.sqrt(np.diag(sample))
    above = below = 0.0
    for i, j in permutations(range(width), 2):
        w = z[:, i] * z[:, j]
        r = w.sum() / (n - 1)
        above += n / dof**2 * ((w**2).sum() / (n - 1) - r**2)
        below += r**2
    share = min(max(above / below, 0), 1)
    return np.where(np.eye(width, dtype=bool), sample, (1 - share) * sample)
