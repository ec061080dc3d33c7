"""Ranks among the first of many entries, for any number of first ones, from one sort."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.stats import dot, sort

BLOCK = 64
"""Counts along the sorted order are summed in blocks by a product with a triangle: exact below 2^24 pairs in float32."""


class Order(NamedTuple):
    """Where the pairs of m RDMs stand in ascending order: (m, n_pairs) each, int32.

    `place` counts the pairs strictly below an entry, `below` those below its tie, `upto` those not above its tie.
    """

    place: jax.Array
    below: jax.Array
    upto: jax.Array


def order_of(values: jax.Array, rounding: float) -> Order:
    """Sort once; ranks among the first rows then need no sorting. (m, n_pairs) -> Order"""

    def one(row: jax.Array) -> Order:
        ordered, slack = sort(row), rounding * jnp.max(jnp.abs(row))
        left = partial(jnp.searchsorted, ordered, side="left")
        ends = left(row), left(row - slack), jnp.searchsorted(ordered, row + slack, side="right")
        return Order(*(end.astype(jnp.int32) for end in ends))

    return jax.vmap(one)(values)


def _counts(place: jax.Array, n_first: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """How many of the first n_first pairs stand before each place. (m, n_pairs), () -> (m, n_pairs + 1)"""
    n_columns, n_all = place.shape
    is_member = jnp.broadcast_to(jnp.arange(n_all, dtype=n_first.dtype) < n_first, (n_columns, n_all)).astype(dtype)
    # One place more: NaN sorts after everything.
    empty = jnp.zeros(n_all + 1 + (-(n_all + 1) % BLOCK), dtype)
    held = jax.vmap(lambda at, member: empty.at[at].add(member, mode="promise_in_bounds"))(place, is_member)
    blocks = held.reshape(-1, BLOCK)
    within = dot(blocks, jnp.asarray(np.triu(np.ones((BLOCK, BLOCK))), dtype)).reshape(n_columns, -1, BLOCK)
    before = jnp.cumsum(within[:, :, -1], axis=1) - within[:, :, -1]
    upto = (within + before[:, :, None]).reshape(n_columns, -1)
    return (upto - held)[:, : n_all + 1]


def _read(counts: jax.Array, at: jax.Array) -> jax.Array:
    """(m, n_pairs + 1), (m, k) -> (m, k)"""
    return jnp.take_along_axis(counts, at, axis=1, mode="promise_in_bounds")


def rank_of_first(order: Order, n_first: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Ranks of the first n_first pairs among themselves, ties sharing their mean rank. Order, () -> (m, n_pairs)

    Members are counted along the sorted order and read at both ends of each tie. Entries of other pairs mean nothing.
    """
    counts = _counts(order.place, n_first, dtype)
    return (_read(counts, order.below) + _read(counts, order.upto) + 1) / 2


def first_of(order: Order, n_first: int, dtype: jnp.dtype) -> Order:
    """Order of the first n_first pairs, as if the others were not there. Order of n_pairs -> Order of n_first"""
    if n_first == order.place.shape[1]:
        return order
    counts = _counts(order.place, jnp.asarray(n_first, jnp.int32), dtype)
    return Order(*(_read(counts, one[:, :n_first]).astype(jnp.int32) for one in order))
