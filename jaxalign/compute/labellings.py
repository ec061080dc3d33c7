"""Relabellings of the rows that stay within a scheme, all of them where they are few, and the p that they give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from jaxalign.compute.inference import p_value
from jaxalign.errors import nearest

TAKES = {
    "label": None,
    "strata": "strata",
    "block": "blocks",
    "mismatch": "sequences",
    "circular": "sequences",
    "given": "given",
}
"""Scheme -> the argument that it needs. Entries of an RDM are in no scheme: a pair shares its stimuli with other pairs."""

SALTS = {"label": 0x1ABE1, "strata": 0x57247, "block": 0x6209B, "mismatch": 0x6209B, "circular": 0xC12C1}
LEVEL = 0.05


@dataclass(frozen=True)
class Labellings:
    """Relabellings of the rows, shared by all that is tested on them.

    Attributes:
        rows: (n_permutations + 1, n_rows) int32; row 0 is the identity, the observed labelling.
        scheme: name of what was relabelled.
        is_exhaustive: every labelling of the scheme is there, once; else they were drawn or given.
        floor: smallest p that these labellings can give, in (0, 1]; NaN without permutations.
        warning: sentences for the reader of a p, or None.
    """

    rows: np.ndarray
    scheme: str
    is_exhaustive: bool
    floor: float
    warning: str | None

    @property
    def n_permutations(self) -> int:
        """Labellings beside the observed one."""
        return len(self.rows) - 1


@dataclass(frozen=True)
class Places:
    """What may take whose place.

    Attributes:
        members: (n_units, size), the rows of each unit that moves whole; units of one part follow each other.
        part: (n_units,), units trade places within a part alone; numbered from 0, ascending.
        is_cyclic: units of a part keep their order, up to a shift; else any order.
    """

    members: np.ndarray
    part: np.ndarray
    is_cyclic: bool = False

    @property
    def sizes(self) -> list[int]:
        """Units of each part."""
        return np.bincount(self.part).tolist()

    @property
    def n_distinct(self) -> int:
        """How many labellings there are, the identity included."""
        return math.prod(self.sizes if self.is_cyclic else map(math.factorial, self.sizes))


def draw(
    scheme: str,
    n_rows: int,
    n_permutations: int,
    seed: int,
    *,
    strata: np.ndarray | None = None,
    blocks: np.ndarray | int | None = None,
    sequences: np.ndarray | None = None,
    given: np.ndarray | None = None,
) -> Labellings:
    """Relabellings of a scheme: random ones, or all of them where there are no more than n_permutations.

    A random labelling i depends on (seed, scheme, number of units that move, i) alone. It may be the identity again,
    which then counts as reaching what was observed.

    Args:
        scheme: "label": any row takes any place. "strata": only within its category, run or subject. "block": blocks of
            equal size trade places and keep the order within. "mismatch": the same for time-like rows, whose sequences
            trade places. "circular": each sequence is shifted along itself, its end joined to its beginning. "given":
            the labellings of `given`, as they are.
        n_rows: rows that are relabelled: stimuli, or frames.
        n_permutations: random labellings beside the observed one; not read by "given".
        seed: integer; not read by "given".
        strata: (n_rows,) labels, for "strata".
        blocks: (n_rows,) labels, which need not be contiguous, or the size of contiguous blocks, for "block".
        sequences: (n_rows,) labels, the rows of a sequence next to each other in their order, for "mismatch" and
            "circular".
        given: (n_given, n_rows) integers from 0, each row a permutation; the identity is moved to the front, or put
            there if it is absent.
    Returns:
        Labellings.
    Raises:
        ValueError: if the scheme is unknown, its argument is missing or wrong or another one is there, sizes differ
            where they must not, or there is no labelling but the identity.
    Source: Nichols & Holmes 2002, Human Brain Mapping 15:1; all labellings and the identity once: Phipson & Smyth 2010,
        Stat. Appl. Genet. Mol. Biol. 9:39.
    """
    options = {"strata": strata, "blocks": blocks, "sequences": sequences, "given": given}
    _check_request(scheme, n_rows, n_permutations, options)
    if given is not None:
        return _labellings(_checked(np.asarray(given), n_rows), scheme, is_exhaustive=False)
    places = _distinct(scheme, n_rows, options)
    is_exhaustive = places.n_distinct <= n_permutations
    orders = _all_orders(places) if is_exhaustive else _random_orders(places, n_permutations, [seed, SALTS[scheme]])
    rows = np.empty((places.n_distinct if is_exhaustive else n_permutations + 1, n_rows), np.int32)
    for row, order in zip(rows, orders, strict=True):
        row[places.members] = places.members[order]
    return _labellings(rows, scheme, is_exhaustive)


def count(
    scheme: str,
    n_rows: int,
    *,
    strata: np.ndarray | None = None,
    blocks: np.ndarray | int | None = None,
    sequences: np.ndarray | None = None,
) -> int:
    """How many labellings a scheme has, the identity included; `draw` takes all when it is asked for as many.

    Args:
        scheme, n_rows, strata, blocks, sequences: as in `draw`.
    Raises:
        ValueError: as `draw`.
    """
    options = {"strata": strata, "blocks": blocks, "sequences": sequences, "given": None}
    _check_request(scheme, n_rows, 0, options)
    return _distinct(scheme, n_rows, options).n_distinct


def p_of(exceed_count: np.ndarray, labellings: Labellings) -> np.ndarray:
    """Share of the labellings that reach the observed score, the observed one included.

    All labellings: count / total with the identity counted once. Random or given ones: (1 + count) / (1 + n). Since
    exceed_count leaves the observed labelling out, both are the same expression.

    Args:
        exceed_count: any shape, int: labellings beside the observed one that reach it.
        labellings: under which they were counted.
    Returns:
        p values in (0, 1], the shape of exceed_count; NaN without permutations.
    Raises:
        ValueError: if a count is negative, or larger than the number of labellings.
    """
    counts = np.asarray(exceed_count)
    if counts.size and (counts.min() < 0 or counts.max() > labellings.n_permutations):
        raise ValueError(
            f"Counts run from {counts.min()} to {counts.max()}, and there are {labellings.n_permutations} labellings beside the observed one: they were counted under others."
        )
    return p_value(counts, labellings.n_permutations)


def _distinct(scheme: str, n_rows: int, options: dict) -> Places:
    """What may take whose place, where anything may."""
    places = _places(scheme, n_rows, options)
    if places.n_distinct < 2:
        raise ValueError(
            f"scheme={scheme!r} leaves no labelling of the {n_rows} rows but the identity: nothing that may trade places has a partner, so nothing can be tested. Give larger {TAKES[scheme] or 'sets of rows'}."
        )
    return places


def _check_request(scheme: str, n_rows: int, n_permutations: int, options: dict) -> None:
    if scheme not in TAKES:
        hint = " Entries of an RDM are not exchangeable (a false positive rate of .26 to .33 at .05 in simulation)."
        raise ValueError(
            f"scheme={scheme!r} is not a scheme. {nearest(scheme, TAKES)}{hint if 'entr' in scheme else ''}"
        )
    if n_rows < 2 or n_permutations < 0:
        raise ValueError(f"n_rows={n_rows} and n_permutations={n_permutations}: give at least 2 rows, and 0 or more.")
    if TAKES[scheme] is not None and options[TAKES[scheme]] is None:
        raise ValueError(f"scheme={scheme!r} needs `{TAKES[scheme]}`, and it is None.")
    foreign = [name for name, value in options.items() if value is not None and name != TAKES[scheme]]
    if foreign:
        raise ValueError(
            f"scheme={scheme!r} does not read {', '.join(foreign)}: leave that out, or name the scheme that reads it."
        )


def _labellings(rows: np.ndarray, scheme: str, is_exhaustive: bool) -> Labellings:
    """Add the floor and what a reader must be told. (n_labellings, n_rows)"""
    # A copy of the identity reaches the observed score whatever the data, so it lifts the floor.
    floor = float(np.mean((rows == rows[0]).all(axis=1))) if len(rows) > 1 else float("nan")
    told = []
    if scheme == "circular":
        told.append(
            f"A circular shift joins the end of a sequence to its beginning: for smooth rows its false positive rate is .125 to .69 at .05 in simulation, where that of mismatch is .037 to .087; prefer scheme='mismatch'. p is never below {floor:.3g}."
        )
    if floor > LEVEL:
        told.append(
            f"{len(rows)} labellings{' are all there are' if is_exhaustive else ''}: p is never below {floor:.3g}, so nothing can reach {LEVEL}."
        )
    return Labellings(rows, scheme, is_exhaustive, floor, " ".join(told) or None)


# What may take whose place.


def _places(scheme: str, n_rows: int, options: dict) -> Places:
    everything = np.arange(n_rows)
    if scheme == "label":
        return Places(everything[:, None], np.zeros(n_rows, int))
    if scheme == "block" and np.ndim(options["blocks"]) == 0:
        number = _numbers_of_contiguous(n_rows, int(options["blocks"]))
    else:
        number = _numbers(options[TAKES[scheme]], n_rows, str(TAKES[scheme]))
    if TAKES[scheme] == "sequences":
        _check_contiguous(number, options["sequences"])
    if scheme in ("block", "mismatch"):
        return _whole(number, scheme)
    by_part = np.argsort(number, kind="stable")
    return Places(by_part[:, None], number[by_part], is_cyclic=scheme == "circular")


def _numbers_of_contiguous(n_rows: int, size: int) -> np.ndarray:
    """The block of each row. -> (n_rows,)"""
    if size < 1 or n_rows % size:
        raise ValueError(
            f"{n_rows} rows are not whole blocks of {size}: give a size that divides {n_rows}, or the block of each row."
        )
    return np.arange(n_rows) // size


def _numbers(labels: np.ndarray, n_rows: int, name: str) -> np.ndarray:
    """Labels as numbers from 0, in sorted order. (n_rows,) -> (n_rows,)"""
    labels = np.asarray(labels)
    if labels.shape != (n_rows,):
        raise ValueError(f"{name} has shape {labels.shape}: one label for each of the {n_rows} rows is needed.")
    missing = [] if labels.dtype.kind in "USiub" else [i for i, one in enumerate(labels) if one is None or one != one]
    if missing:
        raise ValueError(
            f"{name} is missing for {len(missing)} of {n_rows} rows, the first is row {missing[0]}: label every row, or leave such rows out of the test."
        )
    return np.unique(labels, return_inverse=True)[1]


def _check_contiguous(number: np.ndarray, labels: np.ndarray) -> None:
    """(n_rows,), (n_rows,)"""
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    _, first, n_runs = np.unique(number[starts], return_index=True, return_counts=True)
    if n_runs.max() > 1:
        worst = int(n_runs.argmax())
        raise ValueError(
            f"Sequence {np.asarray(labels)[starts[first[worst]]]!s} is in {n_runs[worst]} pieces: the rows of a sequence must follow each other in their order of time. Sort the rows, or give each piece its own label."
        )


def _whole(number: np.ndarray, scheme: str) -> Places:
    """Units of equal size that trade places whole, stimulus k for stimulus k. (n_rows,)"""
    sizes = np.bincount(number)
    if sizes.min() != sizes.max():
        found = ", ".join(
            f"{count} of size {size}" for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)
        )
        advice = (
            "Sequences of different length are compared over the length that two of them share: use the functions for sentences (jaxalign.compute.sentences)."
            if scheme == "mismatch"
            else "Give blocks of one size, or leave out the others."
        )
        raise ValueError(
            f"{len(sizes)} {TAKES[scheme]} differ in size ({found}): they trade places whole, so all must have one size. {advice}"
        )
    members = np.argsort(number, kind="stable").reshape(len(sizes), sizes[0])
    return Places(members, np.zeros(len(sizes), int))


# Orders of the units: drawn, listed, given.


def _random_orders(places: Places, n_permutations: int, key: list[int]) -> Iterator[np.ndarray]:
    """The identity, then random orders of the units: every order that the parts allow is equally likely."""
    part, sizes = places.part, np.array(places.sizes)
    starts = (np.cumsum(sizes) - sizes)[part]
    within = np.arange(len(part)) - starts
    yield np.arange(len(part))
    for index in range(1, n_permutations + 1):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*key, len(part), index])))
        if places.is_cyclic:
            yield starts + (within + rng.integers(0, sizes)[part]) % sizes[part]
        else:
            order = rng.permutation(len(part))
            yield order[np.argsort(part[order], kind="stable")]


def _all_orders(places: Places) -> Iterator[np.ndarray]:
    """Every order of the units that the parts allow; the identity comes first."""
    choices, start = [], 0
    for size in places.sizes:
        units = range(start, start + size)
        shifts = [[*units[shift:], *units[:shift]] for shift in range(size)]
        choices.append(shifts if places.is_cyclic else list(permutations(units)))
        start += size
    for chosen in product(*choices):
        yield np.concatenate(chosen)


def _checked(given: np.ndarray, n_rows: int) -> np.ndarray:
    """Given labellings, the identity in front. (n_given, n_rows) -> (n_permutations + 1, n_rows) int32"""
    if given.ndim != 2 or given.shape[1] != n_rows or given.dtype.kind not in "iu":
        raise ValueError(
            f"given has shape {given.shape} and dtype {given.dtype}: labellings are integers of shape (n_given, {n_rows}), one place for each of the {n_rows} rows."
        )
    identity = np.arange(n_rows)
    is_wrong = (np.sort(given, axis=1) != identity[None, :]).any(axis=1)
    if is_wrong.any():
        raise ValueError(_wrong(given, int(is_wrong.argmax())))
    is_identity = (given == identity[None, :]).all(axis=1)
    if is_identity.all():
        raise ValueError(f"The {len(given)} given labellings hold none but the identity: nothing can be tested.")
    others = np.delete(given, int(is_identity.argmax()), axis=0) if is_identity.any() else given
    return np.concatenate([identity[None, :], others]).astype(np.int32)


def _wrong(given: np.ndarray, index: int) -> str:
    """Say which value of a given labelling keeps it from being a permutation. (n_given, n_rows)"""
    row, n_rows = given[index], given.shape[1]
    outside = row[(row < 0) | (row >= n_rows)]
    if len(outside):
        found = f"holds {outside[0]}, outside 0 to {n_rows - 1}"
        hint = " They count from 1: subtract 1." if given.min() == 1 and given.max() == n_rows else ""
    else:
        count = np.bincount(row, minlength=n_rows)
        found, hint = f"holds {count.argmax()} {count.max()} times and {count.argmin()} not at all", ""
    return f"Labelling {index} of the {len(given)} given is not a permutation of {n_rows} rows: it {found}.{hint}"
