"""Slow definitions of the bootstrap of RDM comparisons and of noise ceilings, in float64 NumPy, from the textbook."""

import numpy as np


def ranks(values):
    """Ranks from 1, ties share their mean rank."""
    lower = (values[None, :] < values[:, None]).sum(1)
    return lower + ((values[None, :] == values[:, None]).sum(1) + 1) / 2


def entry_covariance(n, is_kept):
    """Covariance of squared distances of n patterns with independent unit noise, of the pairs that are kept."""
    pairs = np.argwhere(np.triu(np.ones((n, n)), 1))
    contrast = np.zeros((len(pairs), n))
    contrast[np.arange(len(pairs)), pairs[:, 0]], contrast[np.arange(len(pairs)), pairs[:, 1]] = 1, -1
    return ((contrast @ contrast.T) ** 2)[np.ix_(is_kept, is_kept)]


def tau(a, b, variant):
    """Concordant less discordant pairs of pairs, over all of them (a) or over the untied ones (b)."""
    upper = np.triu_indices(len(a), 1)
    sign_a, sign_b = (np.sign(x[:, None] - x[None, :])[upper] for x in (a, b))
    untied = np.sqrt((sign_a**2).sum() * (sign_b**2).sum()) if variant == "tau-b" else len(sign_a)
    return (sign_a * sign_b).sum() / untied


def compare(a, b, comparator, n=None, is_kept=None):
    """Compare two vectors of dissimilarities; the whitened forms need the stimuli and which pairs these are."""
    if comparator in ("tau-a", "tau-b"):
        return tau(a, b, comparator)
    if comparator in ("spearman", "rho-a"):
        a, b = ranks(a), ranks(b)
    if comparator in ("pearson", "spearman", "rho-a", "corr_cov"):
        a, b = a - a.mean(), b - b.mean()
    if comparator == "rho-a":
        return 12 * (a @ b) / (len(a) ** 3 - len(a))
    weigh = np.eye(len(a))
    if comparator.endswith("_cov"):
        weigh = np.linalg.inv(entry_covariance(n, np.ones(len(a), bool) if is_kept is None else is_kept))
    return a @ weigh @ b / np.sqrt((a @ weigh @ a) * (b @ weigh @ b))


def average(rdms, comparator):
    """The RDM that agrees best with several. (s, n_pairs) -> (n_pairs,)"""
    if comparator in ("cosine", "cosine_cov"):
        return np.mean([x / np.sqrt(np.mean(x**2)) for x in rdms], axis=0)
    if comparator in ("pearson", "corr_cov"):
        return np.mean([(x - x.mean()) / x.std() for x in rdms], axis=0)
    return np.mean([ranks(x) for x in rdms], axis=0)


def drawn(rdms, n, stimuli):
    """RDMs of a sample of stimuli without the pairs of copies. (s, n_pairs) -> (s, n_kept), (n_sample_pairs,) bool"""
    upper = np.triu_indices(n, 1)
    stimuli = np.sort(stimuli)
    is_kept = np.not_equal.outer(stimuli, stimuli)[np.triu_indices(len(stimuli), 1)]
    out = []
    for rdm in rdms:
        matrix = np.zeros((n, n))
        matrix[upper] = rdm
        out.append((matrix + matrix.T)[np.ix_(stimuli, stimuli)][np.triu_indices(len(stimuli), 1)][is_kept])
    return np.array(out).reshape(len(rdms), -1), is_kept


def sample(models, data, n, stimuli, subjects, comparator):
    """Mean scores over the drawn subjects, and both bounds. -> (n_models,), low, high"""
    models, is_kept = drawn(models, n, stimuli)
    data, _ = drawn(data, n, stimuli)
    extra = comparator, len(stimuli), is_kept
    scores = [[compare(model, data[s], *extra) for s in subjects] for model in models]
    distinct = np.unique(subjects)
    high = [compare(average(data[subjects], comparator), data[s], *extra) for s in distinct]
    if len(distinct) == 1:
        return np.mean(scores, axis=1), np.mean(high), np.mean(high)
    others = [[t for t in subjects if t != s] for s in distinct]
    low = [compare(average(data[left], comparator), data[s], *extra) for s, left in zip(distinct, others, strict=True)]
    return np.mean(scores, axis=1), np.mean(low), np.mean(high)


def cross_validated(data, n, stimuli, subjects, comparator):
    """Bounds on held-out stimuli and subjects: others' average scaled there, everybody's scaled on all pairs."""
    held_out, is_kept = drawn(data, n, stimuli)
    extra = comparator, len(stimuli), is_kept
    others = [s for s in range(len(data)) if s not in subjects] or list(range(len(data)))
    low = average(held_out[others], comparator)
    high = drawn(average(data, comparator)[None], n, stimuli)[0][0]
    return [np.mean([compare(bound, held_out[s], *extra) for s in subjects]) for bound in (low, high)]
