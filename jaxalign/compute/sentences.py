"""RSA inside ragged sets of rows, such as the frames of each sentence, and the nulls that time-like rows allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.first_ranks import Order, first_of, order_of, rank_of_first
from jaxalign.compute.gram import correlation_rdm, n_pairs, n_stimuli_of, pair_index
from jaxalign.compute.row_sets import Bucket
from jaxalign.compute.stats import dot, unit_norm
from jaxalign.errors import nearest

COMPARATORS = ("spearman", "pearson")
DISTANCES = ("correlation", "euclidean", "difference")
SCHEMES = ("mismatch", "circular", "label_as_published")
"""The default first. Draws: `row_sets.mismatches`, `row_sets.shifts`, `row_sets.frame_labellings`."""

CIRCULAR_WARNING = "Circular shifts of smooth series reject too often: .125 to .69 at .05 in simulation, because a shift tears the series at one place and leaves its slow drift elsewhere. Use null='mismatch'."
LABEL_WARNING = "Permuting the frames of a sentence ignores that neighbouring frames are alike: it rejects nearly every null data set. It is here to reproduce published numbers; use null='mismatch'."

ROUNDING_EPS = 8
"""Distances carry a rounding error of a few eps of the largest of their RDM; differences that of the recorded values."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SetRdms:
    """RDMs of one side inside every set.

    Attributes:
        values: one array (n_sets, m, n_pairs) per bucket, m fits or targets; pairs go by their later row, so that those
            of the first rows are the first pairs: (0, 1), (0, 2), (1, 2), (0, 3), ... Pairs with a padded row hold 0.
        rounding: entries that differ by no more than this share of the largest of their RDM are equal.
    """

    values: list[jax.Array]
    rounding: float = field(default=0.0, metadata={"static": True})


class Way(NamedTuple):
    """How two RDMs are compared."""

    comparator: str
    is_time_partialled: bool


def by_later_row(n_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Earlier and later row of each pair, by later row: the pairs of the first k rows are the first k(k-1)/2."""
    later, earlier = np.tril_indices(n_max, -1)
    return earlier.astype(np.int32), later.astype(np.int32)


# RDMs.


def set_rdms(
    patterns: jax.Array, widths: jax.Array, buckets: Sequence[Bucket], distance: str = "correlation"
) -> SetRdms:
    """Dissimilarities of the rows of each set, for every fit (or target) of a stack.

    Args:
        patterns: (m, n_rows, width), zero padded to one width; any unit.
        widths: (m,) int32, the true width of each.
        buckets: from `row_sets.buckets`.
        distance: "correlation" (1 - Pearson r over the true width), "euclidean", or "difference" (|a - b|, width 1).
    Returns:
        SetRdms with m RDMs per set; NaN for pairs with a constant pattern under "correlation".
    Raises:
        ValueError: if the distance is unknown, or differences are asked of patterns wider than 1.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance={distance!r} is not a distance within sets. {nearest(distance, DISTANCES)}")
    if distance == "difference" and patterns.shape[2] != 1:
        raise ValueError(
            f"distance='difference' compares one number per row, and patterns have width {patterns.shape[2]}: score each column as a target of its own (`channel_rdms`), or use 'correlation'."
        )
    one_rdm = {"correlation": _correlation, "euclidean": _euclidean, "difference": _difference}[distance]

    def of_set(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, is_row = one
        values = jax.lax.map(lambda fit: one_rdm(fit[0][index], fit[1]), (patterns, widths))
        return jnp.where(is_row[by_later_row(index.shape[0])[1]][None, :], values, 0)

    rounding = ROUNDING_EPS * float(jnp.finfo(patterns.dtype).eps)
    values = [jax.lax.map(of_set, (jnp.asarray(one.index), jnp.asarray(one.is_row))) for one in buckets]
    return SetRdms(values, rounding)


def channel_rdms(values: jax.Array, buckets: Sequence[Bucket]) -> SetRdms:
    """|difference| of every two rows of a set, each channel a target of its own.

    Args:
        values: (n_rows, n_channels), any unit.
        buckets: from `row_sets.buckets`.
    """
    return set_rdms(values.T[:, :, None], jnp.ones(values.shape[1], jnp.int32), buckets, "difference")


def _correlation(values: jax.Array, width: jax.Array) -> jax.Array:
    """(n, width), () -> (n_pairs,)"""
    earlier, later = by_later_row(values.shape[0])
    return correlation_rdm(values, width)[pair_index(values.shape[0])[earlier, later]]


def _euclidean(values: jax.Array, width: jax.Array) -> jax.Array:
    """(n, width), () -> (n_pairs,); differences are squared after subtraction, and scaled so that volts do not vanish."""
    largest = jnp.max(jnp.abs(values))
    scaled = values / jnp.where(largest > 0, largest, 1)
    rows = jax.lax.map(lambda row: jnp.sqrt(jnp.sum((scaled - row[None, :]) ** 2, axis=1)), scaled)
    earlier, later = by_later_row(values.shape[0])
    return rows[earlier, later] * largest


def _difference(values: jax.Array, width: jax.Array) -> jax.Array:
    """(n, 1), () -> (n_pairs,)"""
    earlier, later = by_later_row(values.shape[0])
    return jnp.abs(values[later, 0] - values[earlier, 0])


# Unit vectors of the first rows of a set.


def _unit(values: jax.Array, order: Order | None, n_rows: jax.Array, way: Way) -> jax.Array:
    """RDMs of the first n_rows rows, ranked (with an order), centred, of length 1; other pairs 0, NaN where constant.

    (m, n_pairs), Order, () -> (m, n_pairs)
    """
    n_first = n_rows * (n_rows - 1) // 2
    is_pair = jnp.arange(values.shape[1], dtype=n_first.dtype) < n_first
    is_bad = jnp.any(~jnp.isfinite(values) & is_pair[None, :], axis=1)
    if order is None:
        unit = unit_norm(jnp.where(is_pair[None, :] & ~is_bad[:, None], values, 0).T, is_pair).T
    else:
        middle = (n_first.astype(values.dtype) + 1) / 2
        ranks = rank_of_first(order, n_first, values.dtype)
        unit = _length_one(jnp.where(is_pair[None, :], ranks - middle, 0), 0)
    if way.is_time_partialled:
        unit = _without_time(unit, n_rows, is_pair, way)
    return jnp.where(is_bad[:, None], jnp.nan, unit)


def _length_one(values: jax.Array, least: float) -> jax.Array:
    """Rows of length 1; NaN for rows no longer than `least`. (m, n_pairs) -> (m, n_pairs)"""
    largest = jnp.max(jnp.abs(values), axis=1, keepdims=True)
    scaled = values / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=1, keepdims=True))
    return scaled / jnp.where(length * largest > least, length, jnp.nan)


def _without_time(unit: jax.Array, n_rows: jax.Array, is_pair: jax.Array, way: Way) -> jax.Array:
    """What a straight line on |t1 - t2| (on its ranks for spearman) leaves, of length 1; NaN if that is rounding.

    Frames are equally spaced, so d frames apart are n - d pairs, and ranks of |t1 - t2| are known without sorting.
    (m, n_pairs), (), (n_pairs,) -> (m, n_pairs)
    """
    earlier, later = by_later_row(n_stimuli_of(unit.shape[1]))
    apart = jnp.asarray(later - earlier, unit.dtype)
    if way.comparator == "spearman":
        n = n_rows.astype(unit.dtype)
        nearer = (apart - 1) * n - apart * (apart - 1) / 2
        apart = nearer + (n - apart + 1) / 2
    time = unit_norm(jnp.where(is_pair, apart, 0)[:, None], is_pair)
    rest = unit - dot(unit, time) * time.T
    return _length_one(rest, 32 * float(jnp.finfo(unit.dtype).eps))


def _orders(rdms: SetRdms, way: Way) -> list[Order | None]:
    """Orders of whole sets: (n_sets, m, n_pairs) per bucket; None where no ranks are taken."""
    if way.comparator != "spearman":
        return [None] * len(rdms.values)
    return [jax.lax.map(partial(order_of, rounding=rdms.rounding), values) for values in rdms.values]


def _units(rdms: SetRdms, orders: list[Order | None], buckets: Sequence[Bucket], way: Way) -> list[jax.Array]:
    """Unit vectors of whole sets: one (n_sets, m, n_pairs) per bucket."""
    sides = zip(rdms.values, orders, map(_n_rows, buckets), strict=True)
    return [jax.lax.map(lambda one: _unit(one[0], one[1], one[2], way), side) for side in sides]


def _n_rows(bucket: Bucket) -> jax.Array:
    return jnp.sum(jnp.asarray(bucket.is_row), axis=1, dtype=jnp.int32)


# Scores.


def set_scores(
    ours: SetRdms,
    theirs: SetRdms,
    buckets: Sequence[Bucket],
    comparator: str = "spearman",
    *,
    is_time_partialled: bool = False,
) -> jax.Array:
    """Correlation of the two RDMs inside each set; the score of a fit and target is its mean over sets.

    Args:
        ours: RDMs of the features, n_fits per set.
        theirs: RDMs of the responses, n_targets per set.
        buckets: the buckets that both were made with.
        comparator: "spearman" (ties share their mean rank) or "pearson".
        is_time_partialled: correlate what a straight line on |t1 - t2| leaves of either side (ranks first for
            spearman); rows are equally spaced frames in order.
    Returns:
        (n_sets, n_fits, n_targets) in the order of the sorted set labels; NaN where an RDM is constant or has NaN.
    Raises:
        ValueError: if the comparator is unknown, or the RDMs do not belong to the buckets.
    """
    way = _check(ours, theirs, buckets, comparator, is_time_partialled)
    sides = zip(*(_units(one, _orders(one, way), buckets, way) for one in (ours, theirs)), strict=True)
    scores = [jax.lax.map(lambda pair: dot(pair[0], pair[1].T), side) for side in sides]
    return jnp.concatenate(scores)[_place(buckets)]


def pair_scores(
    ours: SetRdms,
    theirs: SetRdms,
    buckets: Sequence[Bucket],
    comparator: str = "spearman",
    *,
    is_time_partialled: bool = False,
) -> jax.Array:
    """Score of the responses of every set against the features of every set, on their first common rows.

    The mean over sets under any matching of sentences is a mean of entries of this matrix, so all mismatches together
    cost what it costs. Each set is sorted once; its ranks at another's length are counts along that order.
    Memory is about 20 bytes x n_sets x pairs x (n_fits + n_targets): give long sets few targets at a time.

    Args:
        ours: RDMs of the features, n_fits per set.
        theirs: RDMs of the responses, n_targets per set.
        buckets: the buckets that both were made with.
        comparator: "spearman" or "pearson".
        is_time_partialled: as in `set_scores`, at each common length.
    Returns:
        (n_sets, n_sets, n_fits, n_targets): set of the responses, then set of the features; the diagonal is
        `set_scores`. NaN where an RDM is constant or has NaN among the common rows.
    Raises:
        ValueError: if the comparator is unknown, or the RDMs do not belong to the buckets.
    """
    way = _check(ours, theirs, buckets, comparator, is_time_partialled)
    orders = [_orders(one, way) for one in (ours, theirs)]
    units = [_units(one, order, buckets, way) for one, order in zip((ours, theirs), orders, strict=True)]
    banks = list(zip(*units, map(_n_rows, buckets), strict=True))
    blocks: dict[tuple[int, int], jax.Array] = {}
    for long, (features, responses) in enumerate(zip(ours.values, theirs.values, strict=True)):
        n_rows = banks[long][2]
        for short in range(long + 1):
            sides = (features, orders[0][long]), (responses, orders[1][long])
            of_features, of_responses = _against(*sides, n_rows, banks[short], way)
            flipped = jnp.swapaxes(of_features, 0, 1)
            if short == long:
                is_longer = (n_rows[:, None] >= n_rows[None, :])[:, :, None, None]
                blocks[long, long] = jnp.where(is_longer, of_responses, flipped)
            else:
                blocks[long, short], blocks[short, long] = of_responses, flipped
    rows = [jnp.concatenate([blocks[i, j] for j in range(len(buckets))], axis=1) for i in range(len(buckets))]
    place = _place(buckets)
    return jnp.concatenate(rows)[place[:, None], place[None, :]]


def _against(
    features: tuple[jax.Array, Order | None],
    responses: tuple[jax.Array, Order | None],
    n_rows: jax.Array,
    bank: tuple[jax.Array, jax.Array, jax.Array],
    way: Way,
) -> tuple[jax.Array, jax.Array]:
    """Scores of long sets, cut to the length of each short one, against the short sets: features side, responses side.

    RDMs and orders (n_long, m, n_pairs), (n_long,), units and lengths of n_short -> (n_long, n_short, n_fits, n_targets)
    twice
    """
    n_short = bank[0].shape[2]
    dtype, n_fits, n_targets = features[0].dtype, features[0].shape[1], responses[0].shape[1]

    def of_long(one: tuple) -> tuple[jax.Array, jax.Array]:
        n_rows = one[2]
        sides = [
            (values[:, :n_short], None if order is None else first_of(order, n_short, dtype))
            for values, order in one[:2]
        ]

        def cut(length: jax.Array) -> tuple[jax.Array, ...]:
            return tuple(_unit(*side, length, way) for side in sides)

        def of_short(carry: tuple, short: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
            length = short[2]
            is_needed = length <= n_rows
            # Short sets come by size: equal lengths follow each other and are ranked once.
            now = jax.lax.cond(is_needed & (length != carry[0]), cut, lambda _: carry[1], length)
            nothing = jnp.zeros((n_fits, n_targets), dtype)
            scores = jax.lax.cond(
                is_needed,
                lambda: (dot(now[0], short[1].T), dot(short[0], now[1].T)),
                lambda: (nothing, nothing),
            )
            return (jnp.where(is_needed, length, carry[0]), now), scores

        start = (jnp.asarray(0, jnp.int32), tuple(jnp.zeros_like(values) for values, _ in sides))
        return jax.lax.scan(of_short, start, bank)[1]

    return jax.lax.map(of_long, (features, responses, n_rows))


def shift_scores(
    ours: SetRdms,
    theirs: SetRdms,
    buckets: Sequence[Bucket],
    comparator: str = "spearman",
    *,
    is_time_partialled: bool = False,
) -> jax.Array:
    """Score of each set under every circular shift of the features: row i takes the place of row i + shift.

    Args:
        ours: RDMs of the features, n_fits per set.
        theirs: RDMs of the responses, n_targets per set.
        buckets: the buckets that both were made with.
        comparator: "spearman" or "pearson".
        is_time_partialled: as in `set_scores`, before the shift.
    Returns:
        (n_sets, n_shifts, n_fits, n_targets), n_shifts the largest padded size; shifts past a set's rows begin again.
    Raises:
        ValueError: if the comparator is unknown, or the RDMs do not belong to the buckets.
    """
    n_shifts = max(one.index.shape[1] for one in buckets)
    every = [np.add.outer(np.arange(n_shifts), np.arange(one.index.shape[1])).astype(np.int32) for one in buckets]
    rows = [jnp.asarray(steps)[None] % _n_rows(one)[:, None, None] for steps, one in zip(every, buckets, strict=True)]
    return relabelled_scores(ours, theirs, buckets, rows, comparator, is_time_partialled=is_time_partialled)


def relabelled_scores(
    ours: SetRdms,
    theirs: SetRdms,
    buckets: Sequence[Bucket],
    rows: Sequence[jax.Array],
    comparator: str = "spearman",
    *,
    is_time_partialled: bool = False,
) -> jax.Array:
    """Score of each set under given relabellings of its features' rows; ranks are taken once.

    Args:
        ours: RDMs of the features, n_fits per set.
        theirs: RDMs of the responses, n_targets per set.
        buckets: the buckets that both were made with.
        rows: per bucket (n_sets, n_labellings, n_max), the row of the set that stands in each place; padded places are
            ignored.
        comparator: "spearman" or "pearson".
        is_time_partialled: as in `set_scores`, before relabelling.
    Returns:
        (n_sets, n_labellings, n_fits, n_targets).
    Raises:
        ValueError: if the comparator is unknown, or the RDMs do not belong to the buckets.
    """
    way = _check(ours, theirs, buckets, comparator, is_time_partialled)
    units = (_units(one, _orders(one, way), buckets, way) for one in (ours, theirs))
    sides = zip(*units, rows, strict=True)

    def of_set(one: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        features, responses, labellings = one
        earlier, later = by_later_row(labellings.shape[1])

        def under(places: jax.Array) -> jax.Array:
            low = jnp.minimum(places[earlier], places[later])
            high = jnp.maximum(places[earlier], places[later])
            # A padded place meets a zero of the responses, whatever pair is read for it.
            return dot(features[:, high * (high - 1) // 2 + low], responses.T)

        return jax.lax.map(under, labellings)

    return jnp.concatenate([jax.lax.map(of_set, side) for side in sides])[_place(buckets)]


def _place(buckets: Sequence[Bucket]) -> jax.Array:
    """Where the sets stand in the joined buckets, by label. -> (n_sets,)"""
    return jnp.argsort(jnp.concatenate([jnp.asarray(one.sets) for one in buckets]))


def _check(ours: SetRdms, theirs: SetRdms, buckets: Sequence[Bucket], comparator: str, is_time_partialled: bool) -> Way:
    if comparator not in COMPARATORS:
        raise ValueError(f"comparator={comparator!r} compares no RDMs of sets. {nearest(comparator, COMPARATORS)}")
    wanted = [(one.index.shape[0], n_pairs(one.index.shape[1])) for one in buckets]
    for side, rdms in (("features", ours), ("responses", theirs)):
        found = [(one.shape[0], one.shape[2]) for one in rdms.values]
        if found != wanted:
            raise ValueError(
                f"RDMs of the {side} have (sets, pairs) {found} and the buckets {wanted}: make both sides with the same buckets."
            )
    return Way(comparator, is_time_partialled)
