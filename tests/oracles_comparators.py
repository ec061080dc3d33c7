"""Slow definitions, in float64 NumPy, of what compute/comparators, kendall, weighted_models and masked do."""

from itertools import combinations

import numpy as np


def pairs_of(n_stimuli):
    return list(combinations(range(n_stimuli), 2))


def square(values):
    n_stimuli = int((1 + np.sqrt(1 + 8 * len(values))) / 2)
    out = np.zeros((n_stimuli, n_stimuli))
    for (row, column), value in zip(pairs_of(n_stimuli), values, strict=True):
        out[row, column] = out[column, row] = value
    return out


def relabelled(values, rows):
    """(n_pairs,) by moving rows and columns of the square RDM together."""
    moved = square(values)[np.ix_(rows, rows)]
    return np.array([moved[pair] for pair in pairs_of(len(rows))])


def ranks(values):
    """1 + how many are smaller + half of how many others are equal."""
    return np.array([1 + np.sum(values < one) + (np.sum(values == one) - 1) / 2 for one in values])


def cosine(a, b):
    lengths = np.sqrt(np.sum(a**2) * np.sum(b**2))
    return np.sum(a * b) / lengths if lengths > 0 else np.nan


def pearson(a, b):
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return cosine(a - a.mean(), b - b.mean())


def spearman(a, b):
    return pearson(ranks(a), ranks(b))


def rho_a(a, b):
    size = len(a)
    return 12 * np.sum((ranks(a) - (size + 1) / 2) * (ranks(b) - (size + 1) / 2)) / (size**3 - size)


def rho_a_by_breaking_ties(a, b, rng, n_draws):
    """Mean Spearman when ties of both are broken at random."""

    def broken(values):
        order = np.lexsort((rng.random(len(values)), values))
        return np.argsort(order).astype(float)

    return np.mean([pearson(broken(a), broken(b)) for _ in range(n_draws)])


def tau(a, b, variant):
    signs = [np.sign(values[:, None] - values[None, :])[np.triu_indices(len(values), 1)] for values in (a, b)]
    number = np.sum(signs[0] * signs[1])
    if variant == "tau-a":
        return number / len(signs[0])
    untied = [np.sum(sign != 0) for sign in signs]
    return number / np.sqrt(untied[0]) / np.sqrt(untied[1]) if all(untied) else np.nan


def covariance_of_entries(sigma_k):
    """(c_i Sigma c_j')^2 for the contrast c of each pair of stimuli."""
    n_stimuli = len(sigma_k)
    contrasts = np.array([np.eye(n_stimuli)[i] - np.eye(n_stimuli)[j] for i, j in pairs_of(n_stimuli)])
    return (contrasts @ sigma_k @ contrasts.T) ** 2


def whitened(a, b, sigma_k=None, is_centred=False):
    if is_centred:
        a, b = a - a.mean(), b - b.mean()
    precision = np.linalg.inv(covariance_of_entries(np.eye(len(square(a))) if sigma_k is None else sigma_k))
    return a @ precision @ b / np.sqrt((a @ precision @ a) * (b @ precision @ b))


COMPARE = {
    "spearman": spearman,
    "pearson": pearson,
    "cosine": cosine,
    "rho-a": rho_a,
    "cosine_cov": whitened,
    "corr_cov": lambda a, b: whitened(a, b, is_centred=True),
    "tau-a": lambda a, b: tau(a, b, "tau-a"),
    "tau-b": lambda a, b: tau(a, b, "tau-b"),
}


def table(compare, ours, theirs):
    """All columns with all columns."""
    return np.array([[compare(a, b) for b in theirs.T] for a in ours.T])


def on_common(compare, a, b):
    """Compare over the entries that both have; the number of them."""
    has = ~np.isnan(a) & ~np.isnan(b)
    return (compare(a[has], b[has]) if has.sum() >= 3 else np.nan), has.sum()


def residual(values, others):
    """What a regression on others, with an intercept, leaves."""
    design = np.column_stack([np.ones(len(values)), *others.T])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def partial(data, models, is_rank):
    """Correlation of the residuals of each model and of the data on all other models."""
    if is_rank:
        data, models = (np.apply_along_axis(ranks, 0, values) for values in (data, models))
    out = np.empty((models.shape[1], data.shape[1]))
    for index in range(models.shape[1]):
        others = np.delete(models, index, axis=1)
        left = residual(models[:, index], others)
        out[index] = [pearson(left, residual(column, others)) for column in data.T]
    return out


def held_out_pairs(is_held_out):
    """Positions of pairs among training stimuli, and among held-out ones."""
    pairs = pairs_of(len(is_held_out))
    return (
        [at for at, (i, j) in enumerate(pairs) if not is_held_out[i] and not is_held_out[j]],
        [at for at, (i, j) in enumerate(pairs) if is_held_out[i] and is_held_out[j]],
    )
