"""Slow float64 definitions of tests over subjects, clusters and corrections, from the textbooks and not from jaxalign."""

from itertools import product

import numpy as np


def all_flips(n_subjects):
    """Every sign of every subject, the unflipped first. -> (2 ** n, n)"""
    return np.array(list(product([1, -1], repeat=n_subjects)))


def student(column):
    """Mean over its standard error, of the subjects that are there."""
    known = column[~np.isnan(column)]
    return known.mean() / (known.std(ddof=1) / np.sqrt(len(known)))


def mean(column):
    return column[~np.isnan(column)].mean()


def flip_null(scores, signs, statistic):
    """Statistic of every cell under every flip. (n_subjects, n_cells), (n_flips, n_subjects) -> (n_flips, n_cells)"""
    return np.array([[statistic(row * column) for column in scores.T] for row in signs])


def reaches(null, observed):
    """Equal but for the last digits is equal."""
    return null >= observed - 1e-9 * max(1, abs(observed))


def plain_p(null):
    return np.array([np.mean([reaches(value, cell[0]) for value in cell]) for cell in null.T])


def max_p(null):
    return np.array([np.mean([reaches(row.max(), cell) for row in null]) for cell in null[0]])


def step_down_p(null):
    """Westfall and Young: from the highest cell on, the maximum over it and those below; p never falls on the way."""
    p, highest = np.zeros(null.shape[1]), 0.0
    left = list(range(null.shape[1]))
    for cell in sorted(left, key=lambda one: -null[0, one]):
        highest = max(highest, np.mean([reaches(max(row[left]), null[0, cell]) for row in null]))
        p[cell] = highest
        left.remove(cell)
    return p


def benjamini_hochberg_is_found(p, q):
    """The k smallest p are found, k the largest with p_(k) <= k q / m. -> bool of each"""
    known = np.sort(p[~np.isnan(p)])
    k = max([0, *[rank for rank, value in enumerate(known, 1) if value <= rank * q / len(known)]])
    return np.zeros(len(p), bool) if k == 0 else p <= known[k - 1]


def components(is_in, adjacency):
    """Sets of cells that are connected, by walking from cell to cell. (n,), (n, n) -> list of sorted lists"""
    seen, found = set(), []
    for start in np.flatnonzero(is_in):
        if start in seen:
            continue
        cluster, waiting = {start}, [start]
        while waiting:
            for other in np.flatnonzero(adjacency[waiting.pop()] & is_in):
                if other not in cluster:
                    cluster.add(other)
                    waiting.append(other)
        seen |= cluster
        found.append(sorted(cluster))
    return found


def signed_components(statistic, threshold, adjacency, tail):
    above = components(statistic > threshold, adjacency)
    return above + (components(statistic < -threshold, adjacency) if tail == "two-sided" else [])


def largest_mass(statistic, threshold, adjacency, tail):
    return max([0.0, *[abs(sum(statistic[one])) for one in signed_components(statistic, threshold, adjacency, tail)]])


def tfce(statistic, adjacency, start, step, tail, extent_power=0.5, height_power=2.0):
    """Sum over heights of extent ** E * height ** H * width of the strip, the first strip as wide as the first height."""
    total, index = np.zeros(len(statistic)), 0
    while start + index * step < max(abs(statistic)):
        height = start + index * step
        for cluster in signed_components(statistic, height, adjacency, tail):
            total[cluster] += len(cluster) ** extent_power * height**height_power * (step if index else height)
        index += 1
    return total * np.sign(statistic)


def grid(adjacency, n_times):
    """Channels times time bins as one table of what touches what. (n, n) -> (n * n_times, n * n_times)"""
    n_cells = len(adjacency) * n_times
    table = np.zeros((n_cells, n_cells), bool)
    for a, b in product(range(n_cells), repeat=2):
        (channel, time), (other, later) = divmod(a, n_times), divmod(b, n_times)
        table[a, b] = (channel == other and abs(time - later) == 1) or (
            channel != other and time == later and adjacency[channel, other]
        )
    return table
