"""Rows that are scored inside sets of any size: drawn, padded into a few compiled shapes, matched and shifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import factorial, prod
from typing import Any

import jax
import numpy as np

LADDER = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Steps of 1.33 to 1.5: sets spread evenly over a step of them waste less than half of its padded pairs."""

MIN_ROWS = 3
"""Two rows have one pair, and no correlation of RDMs."""

MULTIPLE = 8
"""A bucket is cut to its longest set, rounded up to this."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bucket:
    """Sets of similar size, padded to one.

    Attributes:
        index: (n_sets, n_max) int32, rows of each set in row order; padding repeats the first row of the set.
        is_row: (n_sets, n_max) bool, false where padded: the rows of a set come first.
        sets: (n_sets,) int32, place of each set among the sorted labels; sets go by size, then by label.
    """

    index: Any
    is_row: Any
    sets: Any


def set_sizes(set_of_row: np.ndarray) -> np.ndarray:
    """Number of rows of each set, in the order of the sorted labels. (n_rows,) -> (n_sets,)

    Args:
        set_of_row: (n_rows,) integer label of the set of each row; negative for a row in no set.
    """
    labels = np.asarray(set_of_row)
    return np.unique(labels[labels >= 0], return_counts=True)[1]


def buckets(set_of_row: np.ndarray, ladder: Sequence[int] = LADDER) -> list[Bucket]:
    """Row indices of each set, padded: sets between two steps of the ladder share one shape.

    Args:
        set_of_row: (n_rows,) integer label of the set of each row, such as its sentence; negative for a row in no set.
        ladder: rising sizes; a last bucket holds the sets above all of them.
    Returns:
        Non-empty buckets by rising size, each cut to its longest set rounded up to a multiple of 8.
    Raises:
        ValueError: if labels are not whole numbers, no row has a set, a set has fewer than 3 rows, or the ladder falls.
    """
    labels = np.asarray(set_of_row)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"set_of_row has shape {labels.shape} and dtype {labels.dtype}: give one whole number per row, negative for rows in no set."
        )
    if any(low >= high for low, high in pairwise(ladder)):
        raise ValueError(f"ladder={tuple(ladder)} does not rise: give sizes in increasing order.")
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if len(names) == 0:
        raise ValueError(f"None of the {len(labels)} rows is in a set: labels of sets are 0 or larger.")
    if sizes.min() < MIN_ROWS:
        small = names[sizes < MIN_ROWS]
        raise ValueError(
            f"{len(small)} of {len(names)} sets have fewer than {MIN_ROWS} rows (set {small[0]} has {sizes.min()}): a correlation of RDMs needs 3. Leave such sets out by a negative label."
        )
    order = np.argsort(sizes, kind="stable")
    step = np.searchsorted(np.asarray(ladder), sizes[order], side="left")
    rows = [np.flatnonzero(labels == name) for name in names]
    return [_bucket(order[step == one], rows, sizes) for one in np.unique(step)]


def _bucket(sets: np.ndarray, rows: list[np.ndarray], sizes: np.ndarray) -> Bucket:
    n_max = -(-int(sizes[sets].max()) // MULTIPLE) * MULTIPLE
    is_row = np.arange(n_max)[None, :] < sizes[sets][:, None]
    index = np.stack([np.pad(rows[one], (0, n_max - sizes[one]), constant_values=rows[one][0]) for one in sets])
    return Bucket(index.astype(np.int32), is_row, sets.astype(np.int32))


def disjoint_sets(n: int, size: int, seed: int) -> np.ndarray:
    """Draw as many disjoint sets of one size as the rows allow, without replacement.

    The draw depends on (seed, scheme, n, size) alone: use it for all models and regions.

    Args:
        n: number of rows.
        size: rows per set, 100 in the NSD study.
        seed: integer.
    Returns:
        (n,) int32, the set of each row; -1 for the n mod size rows left over. `buckets` takes it as it is.
    Raises:
        ValueError: if a set would have fewer than 3 rows, or there are fewer rows than one set needs.
    Source: Doerig et al. 2025, Nat. Mach. Intell.; its code draws without a seed.
    """
    if size < MIN_ROWS or size > n:
        raise ValueError(f"size={size} with {n} rows: a set needs at least {MIN_ROWS} rows and at most all of them.")
    key = np.random.SeedSequence([seed, 0xD15C0, n, size])
    order = np.random.Generator(np.random.Philox(key)).permutation(n)
    labels = np.full(n, -1, np.int32)
    n_sets = n // size
    labels[order[: n_sets * size]] = np.repeat(np.arange(n_sets, dtype=np.int32), size)
    return labels


# Relabellings: sets that trade places, rows that move inside their set. Row 0 is the observed one.


def mismatches(n_sets: int, n_permutations: int, seed: int) -> np.ndarray:
    """Which set's features meet the responses of each set: every permutation of the sets, fixed points included.

    A test by permutations is exact when they form a group. Permutations without a fixed point do not: they share no pair
    with the observed matching but share pairs with each other, and reject too often (.112 at .05 with 5 sets, .074 with
    8, .052 with 30, against .041, .048 and .049; 4,000 simulated null data sets each). So a set may meet itself.

    Matching i depends on (seed, scheme, n_sets, i) alone. When n_sets! <= n_permutations + 1, all are listed once.

    Args:
        n_sets: sets, such as sentences.
        n_permutations: matchings beside the observed one, at most.
        seed: integer.
    Returns:
        (n + 1, n_sets) int32; row 0 is the identity. (1 + count) / (1 + n) is the p value in either case.
    Raises:
        ValueError: if there are fewer than 2 sets.
    """
    if n_sets < 2:
        raise ValueError(f"{n_sets} set: a mismatch needs the features of another set, so at least 2.")
    if n_sets <= 12 and factorial(n_sets) <= n_permutations + 1:
        return np.array(list(permutations(range(n_sets))), np.int32)
    rows = np.empty((n_permutations + 1, n_sets), np.int32)
    rows[0] = np.arange(n_sets)
    for index in range(1, n_permutations + 1):
        rows[index] = _rng(seed, 0x315A7, n_sets, index).permutation(n_sets)
    return rows


def shifts(sizes: np.ndarray, n_permutations: int, seed: int) -> np.ndarray:
    """Circular shift of each set's rows, its own for every set, zero included.

    Shift i depends on (seed, scheme, sizes, i) alone. When the sets together have no more shifts than
    n_permutations + 1, all are listed once.

    Args:
        sizes: (n_sets,) rows of each set, from `set_sizes`.
        n_permutations: shifts beside the observed one, at most.
        seed: integer.
    Returns:
        (n + 1, n_sets) int32, rows moved; row 0 is zero.
    """
    sizes = np.asarray(sizes)
    if _n_shifts(sizes) <= n_permutations + 1:
        return np.stack(np.unravel_index(np.arange(_n_shifts(sizes)), tuple(sizes)), axis=1).astype(np.int32)
    rows = np.zeros((n_permutations + 1, len(sizes)), np.int32)
    for index in range(1, n_permutations + 1):
        rows[index] = _rng(seed, 0x5417, len(sizes), index).integers(0, sizes)
    return rows


def shift_floor(sizes: np.ndarray, n_permutations: int) -> float:
    """Smallest p that circular shifts can give: 1 / min(n_permutations + 1, product of the sizes).

    Args:
        sizes: (n_sets,) rows of each set.
        n_permutations: shifts beside the observed one.
    """
    return 1 / min(n_permutations + 1, _n_shifts(sizes))


def mismatch_floor(n_sets: int, n_permutations: int) -> float:
    """Smallest p that mismatches can give: 1 / min(n_permutations + 1, n_sets!).

    Args:
        n_sets: sets, such as sentences.
        n_permutations: matchings beside the observed one.
    """
    return 1 / min(n_permutations + 1, factorial(n_sets))


def frame_labellings(bucket: Bucket, n_permutations: int, seed: int) -> np.ndarray:
    """Rows permuted freely inside each set of a bucket: published, and wrong for rows that follow each other in time.

    The draw of a set depends on (seed, scheme, rows of the set, label place, i) alone.

    Args:
        bucket: from `buckets`.
        n_permutations: labellings beside the observed one.
        seed: integer.
    Returns:
        (n_sets, n_permutations + 1, n_max) int32; labelling 0 is the identity, padded places stay.
    """
    n_max = bucket.index.shape[1]
    rows = np.tile(np.arange(n_max, dtype=np.int32), (len(bucket.sets), n_permutations + 1, 1))
    for place, (name, size) in enumerate(zip(bucket.sets, bucket.is_row.sum(1), strict=True)):
        for index in range(1, n_permutations + 1):
            rows[place, index, :size] = _rng(seed, 0xF4A3E, int(size), int(name), index).permutation(size)
    return rows


def _n_shifts(sizes: np.ndarray) -> int:
    return prod(map(int, sizes))


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))
