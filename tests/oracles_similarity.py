"""Similarity measures in float64, from their papers: loops and full matrices, nothing packed or rotated."""

import numpy as np


def centring(n):
    return np.eye(n) - np.full((n, n), 1 / n)


def squared_distances(patterns):
    return np.array([[np.sum((one - other) ** 2) for other in patterns] for one in patterns])


def linear(patterns):
    left = patterns - patterns.mean(0)
    return left @ left.T


def rbf(patterns, bandwidth=1.0):
    squared = squared_distances(patterns)
    above = squared[np.triu_indices(len(patterns), 1)]
    return np.exp(-squared / (2 * bandwidth**2 * np.median(above[above > 0])))


def hsic_biased(ours, theirs):
    """Trace of K H L H over (n - 1)^2."""
    n = len(ours)
    return np.trace(ours @ centring(n) @ theirs @ centring(n)) / (n - 1) ** 2


def hsic_unbiased(ours, theirs):
    """Song et al. 2012, equation 5."""
    n = len(ours)
    k, m = ours - np.diag(np.diag(ours)), theirs - np.diag(np.diag(theirs))
    one = np.ones(n)
    total = (
        np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 * (one @ k @ m @ one) / (n - 2)
    )
    return total / (n * (n - 3))


def normalised(product, ours, theirs):
    return product(ours, theirs) / np.sqrt(product(ours, ours) * product(theirs, theirs))


def distance_correlation_squared(x, y):
    """Szekely, Rizzo & Bakirov 2007."""
    sides = []
    for patterns in (x, y):
        d = np.sqrt(squared_distances(patterns))
        sides.append(d - d.mean(0) - d.mean(1)[:, None] + d.mean())
    a, b = sides
    return (a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())


def neighbours(similarities, k):
    """Indices of the k most similar other rows of each. -> list of sets"""
    found = []
    for row, values in enumerate(similarities):
        order = [place for place in np.argsort(-values, kind="stable") if place != row]
        found.append(set(order[:k]))
    return found


def cosine(patterns):
    unit = patterns / np.linalg.norm(patterns, axis=1, keepdims=True)
    return unit @ unit.T


def mutual_knn(x, y, k):
    pairs = zip(neighbours(cosine(x), k), neighbours(cosine(y), k), strict=True)
    return np.mean([len(one & other) / k for one, other in pairs])


def cknna(x, y, k):
    """Huh et al. 2024: the unbiased HSIC of inner products where both rows call the column a neighbour."""
    grams = cosine(x), cosine(y)
    masks = [np.array([[float(j in one) for j in range(len(x))] for one in neighbours(gram, k)]) for gram in grams]

    def product(first, second):
        mask = masks[first] * masks[second]
        a, b = mask * grams[first], mask * grams[second]
        n = len(a)
        total = np.sum(a * b.T) + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)
        return total / (n * (n - 3))

    return product(0, 1) / np.sqrt(product(0, 0) * product(1, 1))


def mi_gaussian(x, y):
    found = []
    for one in x.T:
        for other in y.T:
            r = np.corrcoef(one, other)[0, 1]
            found.append(-0.5 * np.log(1 - min(r**2, 1 - 1e-7)))
    return np.mean(found)


def procrustes(x, y):
    a, b = x - x.mean(0), y - y.mean(0)
    return np.linalg.svd(a.T @ b, compute_uv=False).sum() / np.linalg.norm(a) / np.linalg.norm(b)


def rv(x, y):
    """Robert & Escoufier 1976, from covariances of features."""
    a, b = x - x.mean(0), y - y.mean(0)
    cross, own, other = a.T @ b, a.T @ a, b.T @ b
    return np.trace(cross @ cross.T) / np.sqrt(np.trace(own @ own) * np.trace(other @ other))


def _dcor_debiased(x, y):
    return normalised(hsic_unbiased, *(np.sqrt(squared_distances(side)) for side in (x, y)))


def measure(name, x, y, k):
    """Any measure by name. (n, p), (n, q) -> float"""
    one_by_one = {
        "cka": lambda: normalised(hsic_unbiased, linear(x), linear(y)),
        "cka_rbf": lambda: normalised(hsic_unbiased, rbf(x), rbf(y)),
        "cka_biased": lambda: normalised(hsic_biased, linear(x), linear(y)),
        "cka_rbf_biased": lambda: normalised(hsic_biased, rbf(x), rbf(y)),
        "rv": lambda: rv(x, y),
        "hsic": lambda: hsic_unbiased(linear(x), linear(y)),
        "hsic_rbf": lambda: hsic_unbiased(rbf(x), rbf(y)),
        "hsic_biased": lambda: hsic_biased(linear(x), linear(y)),
        "hsic_rbf_biased": lambda: hsic_biased(rbf(x), rbf(y)),
        "dcor_debiased": lambda: _dcor_debiased(x, y),
        "dcor": lambda: np.sqrt(distance_correlation_squared(x, y)),
        "dcor_squared": lambda: distance_correlation_squared(x, y),
        "mutual_knn": lambda: mutual_knn(x, y, k),
        "cknna": lambda: cknna(x, y, k),
        "mi_gaussian": lambda: mi_gaussian(x, y),
        "procrustes": lambda: procrustes(x, y),
    }
    return float(one_by_one[name]())
