"""Slow float64 definitions of relabelling schemes and of tests under them, written from the textbooks and not from jaxalign."""

from fractions import Fraction
from itertools import permutations

import numpy as np

# Which relabellings a scheme allows: every permutation is looked at.


def keeps_strata(row, labels):
    """Every place keeps a row of its own stratum."""
    return all(labels[source] == labels[place] for place, source in enumerate(row))


def moves_blocks_whole(row, labels):
    """The rows at the places of each block are those of one block, in their order."""
    blocks = [[place for place, label in enumerate(labels) if label == one] for one in set(labels)]
    return all([row[place] for place in block] in blocks for block in blocks)


def shifts_sequences(row, labels):
    """Each sequence holds its own rows, in their order from some row on, the first after the last."""
    for one in set(labels):
        places = [place for place, label in enumerate(labels) if label == one]
        rotations = [places[shift:] + places[:shift] for shift in range(len(places))]
        if [row[place] for place in places] not in rotations:
            return False
    return True


RULES = {
    "label": lambda row, labels: True,
    "strata": keeps_strata,
    "block": moves_blocks_whole,
    "mismatch": moves_blocks_whole,
    "circular": shifts_sequences,
}


def allowed(scheme, n_rows, labels):
    """All relabellings of a scheme, as a set of tuples."""
    return {row for row in permutations(range(n_rows)) if RULES[scheme](row, labels)}


def exact_p(statistic, rows):
    """Share of a set of relabellings, the identity in it once, that reach the observed statistic. -> Fraction"""
    identity = tuple(range(len(next(iter(rows)))))
    observed = statistic(identity)
    return Fraction(sum(statistic(row) >= observed - 1e-12 for row in rows), len(rows))


# RSA under labellings.


def pair_ranks(rdm):
    """Twice the rank of each entry above the diagonal, ties share: whole numbers. (n, n) -> (n_pairs,) int"""
    entries = np.array([rdm[i, j] for i in range(len(rdm)) for j in range(i + 1, len(rdm))])
    return np.array([2 * np.sum(entries < one) + np.sum(entries == one) + 1 for one in entries], np.int64)


def count_reaching(ours, theirs, rows):
    """Labellings beside the first that reach the observed Spearman r of two RDMs, counted in whole numbers.

    Spearman r rises with the sum of products of ranks, since a relabelling changes neither their means nor their SDs.

    Args:
        ours, theirs: (n, n) symmetric.
        rows: (n_labellings, n).
    """
    fixed, sums = pair_ranks(ours), []
    for row in rows:
        relabelled = np.array([[theirs[row[i], row[j]] for j in range(len(row))] for i in range(len(row))])
        sums.append(int(np.sum(fixed * pair_ranks(relabelled))))
    return sum(one >= sums[0] for one in sums[1:])


# Null data.


def sqeuclidean_rdms(patterns):
    """Squared distances between the patterns of every two stimuli. (..., n, width) -> (..., n, n)"""
    difference = patterns[..., :, None, :] - patterns[..., None, :, :]
    return np.sum(difference**2, axis=-1)


def upper(matrices):
    """Entries above the diagonal, row by row. (..., n, n) -> (..., n_pairs)"""
    first, second = np.triu_indices(matrices.shape[-1], 1)
    return matrices[..., first, second]


def centred_gram(patterns):
    """Inner products of patterns after each column has lost its mean. (..., n, width) -> (..., n, n)"""
    centred = patterns - patterns.mean(-2, keepdims=True)
    return centred @ np.swapaxes(centred, -1, -2)


def cosine(first, second):
    """Inner product over the product of lengths, over the last axis. (..., m), (..., m) -> (...)"""
    length = np.sqrt(np.sum(first**2, -1) * np.sum(second**2, -1))
    return np.sum(first * second, -1) / length


def correlation(first, second):
    """Pearson r over the last axis. (..., m), (..., m) -> (...)"""
    return cosine(first - first.mean(-1, keepdims=True), second - second.mean(-1, keepdims=True))
