"""Slow float64 definitions of RSA inside sets of rows, one set and one RDM at a time, without padding."""

import numpy as np


def distances(patterns, distance):
    """(n, width) -> (n_pairs,) in scipy's order."""
    n = len(patterns)
    out = []
    for i in range(n):
        for j in range(i + 1, n):
            a, b = patterns[i], patterns[j]
            if distance == "correlation":
                a, b = a - a.mean(), b - b.mean()
                out.append(1 - a @ b / np.sqrt((a @ a) * (b @ b)))
            else:
                out.append(np.sqrt(((a - b) ** 2).sum()))
    return np.array(out)


def ranks(values):
    """Mean rank of ties: those below, and half of those equal. What differs by rounding alone is equal."""
    values = np.round(values / np.abs(values).max(), 11)
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    return below + (equal + 1) / 2


def time_apart(n):
    return np.array([j - i for i in range(n) for j in range(i + 1, n)], float)


def residual(values, other):
    """What a line on the other leaves, by least squares."""
    basis = np.stack([np.ones_like(other), other], axis=1)
    return values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]


def score(ours, theirs, comparator, n_rows=None, is_time_partialled=False):
    """Correlation of two condensed RDMs."""
    if comparator == "spearman":
        ours, theirs = ranks(ours), ranks(theirs)
    if is_time_partialled:
        time = time_apart(n_rows)
        time = ranks(time) if comparator == "spearman" else time
        ours, theirs = residual(ours, time), residual(theirs, time)
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    return ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs))


def pair_score(features, responses, distance, comparator, is_time_partialled=False):
    """Features of one set, responses of another, on their first common rows: (T, width), (T', n_channels) -> (n_channels,)"""
    n = min(len(features), len(responses))
    ours = distances(features[:n], distance)
    theirs = [distances(responses[:n, [channel]], "difference") for channel in range(responses.shape[1])]
    return np.array([score(ours, one, comparator, n, is_time_partialled) for one in theirs])


def matrix(features, responses, labels, distance, comparator, is_time_partialled=False):
    """(n_fits lists of (n_rows, width)), (n_rows, n_channels) -> (n_sets, n_sets, n_fits, n_channels)"""
    rows = [np.flatnonzero(labels == name) for name in np.unique(labels[labels >= 0])]
    out = np.empty((len(rows), len(rows), len(features), responses.shape[1]))
    for s, own in enumerate(rows):
        for o, other in enumerate(rows):
            for f, fit in enumerate(features):
                out[s, o, f] = pair_score(fit[other], responses[own], distance, comparator, is_time_partialled)
    return out


def mean_under(matrix, matching):
    """Mean over sets of the entries that a matching picks, by a loop."""
    return sum(matrix[s, other] for s, other in enumerate(matching)) / len(matching)


def smooth(rng, n_rows, width, sd):
    """Noise smoothed by a Gaussian of so many rows, (n_rows, width); the ends are cut off."""
    reach = int(4 * sd)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sd**2))
    noise = rng.standard_normal((n_rows + 2 * reach, width))
    return np.stack([np.convolve(column, kernel, "valid") for column in noise.T], axis=1)
