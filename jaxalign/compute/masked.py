"""Comparisons of RDMs with missing or repeated pairs: each pair of RDMs over the pairs that both have, ranked again among those."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.gram import pair_index
from jaxalign.errors import nearest

COMPARATORS = ("cosine", "pearson", "spearman")

MIN_COMMON = 3
"""Two pairs always correlate by 1 or -1."""


class Order(NamedTuple):
    """An RDM sorted once, so that ranks within any part of its pairs, or with any repetitions, need no other sort.

    Attributes:
        order: (n_pairs,) int32, positions of the entries from the smallest to the largest; missing entries last.
        first, last: (n_pairs,) int32, where in that order the ties of each entry begin and end, itself included.
    """

    order: jax.Array
    first: jax.Array
    last: jax.Array


def pairs_under(rows: jax.Array) -> jax.Array:
    """Where a relabelled RDM finds each of its pairs in the RDM as it was. (n_stimuli,) -> (n_pairs,) int32"""
    first, second = np.triu_indices(rows.shape[0], 1)
    return jnp.asarray(pair_index(rows.shape[0]))[rows[first], rows[second]]


def order_of(values: jax.Array, rounding: float = 0.0) -> Order:
    """Sort an RDM once and note its ties.

    Args:
        values: (n_pairs,) dissimilarities; NaN where a pair is missing.
        rounding: values that differ by no more than this share of the largest are ties.
    Returns:
        Order.
    """
    filled = jnp.where(jnp.isnan(values), jnp.inf, values)
    order = jnp.argsort(filled)
    ordered = filled[order]
    reach = rounding * jnp.max(jnp.where(jnp.isnan(values), 0, jnp.abs(values))) if rounding else 0.0
    first = jnp.searchsorted(ordered, filled - reach, side="left")
    last = jnp.searchsorted(ordered, filled + reach, side="right") - 1
    return Order(*(jnp.astype(part, jnp.int32) for part in (order, first, last)))


def weighted_rank(order: Order, weight: jax.Array) -> jax.Array:
    """Ranks from 1 in the multiset in which each entry occurs as often as its weight says; ties share their mean rank.

    The mean rank of the multiset is (sum of weights + 1) / 2, whatever the ties.

    Args:
        order: of the RDM.
        weight: (n_pairs,) non-negative whole numbers in a floating dtype; 0 leaves an entry out. Their sum is exact
            up to 2^23 in float32.
    Returns:
        (n_pairs,) ranks in the dtype of the weights; of entries with weight 0, where they would stand.
    """
    upto = jnp.cumsum(weight[order.order])
    below = jnp.where(order.first > 0, upto[jnp.maximum(order.first - 1, 0)], 0)
    return (below + upto[order.last] + 1) / 2


def weighted_pearson(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """Pearson r of two vectors in which each entry counts as often as its weight says.

    Args:
        a, b: (n_pairs,) values, any unit; where the weight is 0 they may be anything.
        weight: (n_pairs,) non-negative, in the dtype of the values.
    Returns:
        () r in [-1, 1]; NaN where one of them is constant over the entries that count.
    """
    return _cosine(_deviations(a, weight), _deviations(b, weight), weight)


def weighted_cosine(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """Cosine of two vectors in which each entry counts as often as its weight says; NaN where one is all zero.

    Args:
        a, b: (n_pairs,) values, any unit; where the weight is 0 they may be anything.
        weight: (n_pairs,) non-negative, in the dtype of the values.
    Returns:
        () cosine in [-1, 1].
    """
    return _cosine(jnp.where(weight > 0, a, 0), jnp.where(weight > 0, b, 0), weight)


def compare_masked(
    ours: jax.Array, theirs: jax.Array, comparator: str, rows: jax.Array | None = None, rounding: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Compare RDMs over the pairs that both have: the mask of one comparison says nothing about another.

    Args:
        ours: (n_pairs, m1) dissimilarities, NaN where a pair is missing.
        theirs: (n_pairs, m2) the same.
        comparator: "spearman" (ranks among the common pairs), "pearson" or "cosine".
        rows: (n_stimuli,) int32 relabelling of the stimuli of `theirs`; its missing pairs move with it.
        rounding: values that differ by no more than this share of the largest of their RDM are ties (spearman).
    Returns:
        (m1, m2) scores, NaN where fewer than three pairs are common, where one of the two is constant (all zero for
        cosine) over them, or holds an Inf among them; and (m1, m2) int32 numbers of common pairs.
    Raises:
        ValueError: for another comparator.
    """
    if comparator not in COMPARATORS:
        raise ValueError(
            f"comparator={comparator!r} does not compare RDMs with missing pairs. {nearest(comparator, COMPARATORS)} "
            "Drop the stimuli with missing pairs for the others."
        )
    if ours.shape[0] != theirs.shape[0]:
        raise ValueError(
            f"ours has {ours.shape[0]} pairs and theirs has {theirs.shape[0]}: both must be RDMs of the same stimuli."
        )
    one, other = (_sides(values, comparator, rounding) for values in (ours, theirs))
    if rows is not None:
        other = jax.vmap(lambda side: _relabelled(side, rows))(other)

    def against_one(other: _Side) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda one: _compare(one, other, comparator), one)

    scores, n_common = jax.lax.map(against_one, other)
    return scores.T, n_common.T


class _Side(NamedTuple):
    """(m, n_pairs) each; without ranks the order is not needed."""

    values: jax.Array
    order: Order | None


def _sides(values: jax.Array, comparator: str, rounding: float) -> _Side:
    order = jax.vmap(lambda column: order_of(column, rounding))(values.T) if comparator == "spearman" else None
    return _Side(values.T, order)


def _relabelled(side: _Side, rows: jax.Array) -> _Side:
    """The same RDM and order with entries in other places: no sort. (n_pairs,) each"""
    to = pairs_under(rows)
    if side.order is None:
        return _Side(side.values[to], None)
    back = pairs_under(jnp.argsort(rows))
    order, first, last = side.order
    return _Side(side.values[to], Order(back[order], first[to], last[to]))


def _compare(one: _Side, other: _Side, comparator: str) -> tuple[jax.Array, jax.Array]:
    is_common = ~(jnp.isnan(one.values) | jnp.isnan(other.values))
    n_common = jnp.sum(is_common, dtype=jnp.int32)
    weight = is_common.astype(one.values.dtype)
    is_infinite = jnp.any(is_common & (jnp.isinf(one.values) | jnp.isinf(other.values)))
    if one.order is not None and other.order is not None:
        score = weighted_pearson(weighted_rank(one.order, weight), weighted_rank(other.order, weight), weight)
    else:
        score = (weighted_cosine if comparator == "cosine" else weighted_pearson)(one.values, other.values, weight)
    return jnp.where((n_common < MIN_COMMON) | is_infinite, jnp.nan, score), n_common


def _deviations(values: jax.Array, weight: jax.Array) -> jax.Array:
    """From the weighted mean; NaN where the values vary by no more than rounding. (n_pairs,), (n_pairs,) -> (n_pairs,)"""
    counts = weight > 0
    low = jnp.min(jnp.where(counts, values, jnp.inf))
    high = jnp.max(jnp.where(counts, values, -jnp.inf))
    big = jnp.maximum(jnp.abs(low), jnp.abs(high))
    is_flat = high - low <= 8 * jnp.finfo(values.dtype).eps * big
    mean = jnp.sum(jnp.where(counts, values * weight, 0)) / jnp.sum(weight)
    return jnp.where(is_flat, jnp.nan, jnp.where(counts, values - mean, 0))


def _cosine(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """The largest entry is divided out first: squares of volts would underflow in float32."""
    unit_a, unit_b = (values / jnp.max(jnp.abs(values)) for values in (a, b))
    length_a, length_b = (jnp.sqrt(jnp.sum(weight * unit**2)) for unit in (unit_a, unit_b))
    return jnp.sum(weight * unit_a * unit_b) / (length_a * length_b)
