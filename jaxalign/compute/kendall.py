"""Kendall's tau between RDMs with exact counts: a radix tree per pair of RDMs, or sign matrices in blocks, whichever is faster."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.masked import pairs_under
from jaxalign.compute.stats import dot, rank
from jaxalign.errors import nearest

VARIANTS = ("tau-a", "tau-b")

MAX_PAIRS = 1 << 21
"""Up to 2,048 stimuli: two int32 words hold any count of pairs of pairs."""

BLOCK, BLOCK_OF_ACCELERATOR = 128, 512
"""Entries on each side of a block of signs: on a host it stays in the cache."""

TREE_WORK = 30
"""Measured on two CPU cores: a step of the tree costs as much as so many signs."""

WORD = 15
"""Bits of the lower of the two words of a count."""


class KendallState(NamedTuple):
    """RDMs ranked once; a relabelling moves their entries and changes nothing else.

    Attributes:
        below: (m, n_pairs) int32, number of entries that are smaller, equal for ties.
        starts: (m, n_pairs) int32, number of entries whose `below` is under 0, 1, 2, ...
        untied: (m,) number of pairs of entries that are not ties; NaN for an RDM with NaN or Inf.
    """

    below: jax.Array
    starts: jax.Array
    untied: jax.Array


def kendall_state(values: jax.Array, rounding: float = 0.0) -> KendallState:
    """Rank RDMs for comparisons under many labellings.

    Args:
        values: (n_pairs, m) dissimilarities.
        rounding: values that differ by no more than this share of the largest of their RDM are ties.
    Returns:
        KendallState.
    Raises:
        ValueError: for more pairs than a count can hold.
    """
    size = values.shape[0]
    if size > MAX_PAIRS:
        raise ValueError(
            f"{size} pairs of stimuli: Kendall's tau counts up to {MAX_PAIRS} (2,048 stimuli). Take rho-a."
        )
    ranked = rank(values, rounding).T
    is_defined = jnp.all(jnp.isfinite(ranked), axis=1)
    ranked = jnp.where(is_defined[:, None], ranked, 0)

    def number_below(column: jax.Array) -> jax.Array:
        return jnp.searchsorted(jnp.sort(column), column, side="left").astype(jnp.int32)

    def number_under(column: jax.Array) -> jax.Array:
        return jnp.searchsorted(jnp.sort(column), jnp.arange(size, dtype=jnp.int32)).astype(jnp.int32)

    below = jax.vmap(number_below)(ranked)
    untied = _value(_words(below), values.dtype)
    return KendallState(below, jax.vmap(number_under)(below), jnp.where(is_defined, untied, jnp.nan))


def kendall(ours: jax.Array, theirs: jax.Array, variant: str, rounding: float = 0.0) -> jax.Array:
    """Kendall's tau of all columns with all columns.

    tau-a divides (concordant - discordant) pairs of entries by all of them, n(n - 1)/2; tau-b by the root of the
    product of the untied ones of both. tau-a is the one to compare models that predict ties with others.

    Args:
        ours: (n_pairs, m1) dissimilarities.
        theirs: (n_pairs, m2) dissimilarities.
        variant: "tau-a" or "tau-b".
        rounding: values that differ by no more than this share of the largest of their RDM are ties.
    Returns:
        (m1, m2) in [-1, 1]. With a constant RDM tau-b is NaN and tau-a is 0, as its definition gives. NaN with a
        column that holds NaN or Inf.
    Raises:
        ValueError: for an unknown variant, or more than 2,097,152 pairs.
    Source: Kendall 1938, Biometrika 30:81; 1945, Biometrika 33:239. Nili et al. 2014, PLoS Comput. Biol. 10:e1003553.
    """
    _refuse_unknown(variant)
    return _tau(kendall_state(ours, rounding), kendall_state(theirs, rounding), variant, ours.dtype)


def kendall_under(ours: KendallState, theirs: KendallState, rows: jax.Array, variant: str) -> jax.Array:
    """The same with the stimuli of `theirs` relabelled: nothing is ranked again.

    Args:
        ours: state of (n_pairs, m1) RDMs.
        theirs: state of (n_pairs, m2) RDMs.
        rows: (n_stimuli,) int32 permutation.
        variant: "tau-a" or "tau-b".
    Returns:
        (m1, m2) in [-1, 1].
    Raises:
        ValueError: for an unknown variant.
    """
    _refuse_unknown(variant)
    return _tau(ours, theirs._replace(below=theirs.below[:, pairs_under(rows)]), variant, ours.untied.dtype)


def _refuse_unknown(variant: str) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is not a Kendall tau. {nearest(variant, VARIANTS)}")


def _tau(ours: KendallState, theirs: KendallState, variant: str, dtype: jnp.dtype) -> jax.Array:
    size = ours.below.shape[1]
    if size != theirs.below.shape[1]:
        raise ValueError(
            f"ours has {size} pairs and theirs has {theirs.below.shape[1]}: compare RDMs of the same stimuli."
        )
    agreement = _agreement(ours, theirs).astype(dtype)
    untied = [side.untied if variant == "tau-b" else _all_pairs(side.untied, size) for side in (ours, theirs)]
    lengths = [jnp.sqrt(jnp.where(number > 0, number, jnp.nan)) for number in untied]
    return agreement / lengths[0][:, None] / lengths[1][None, :]


def _all_pairs(untied: jax.Array, size: int) -> jax.Array:
    return jnp.where(jnp.isnan(untied), jnp.nan, size * (size - 1) / 2)


def _agreement(ours: KendallState, theirs: KendallState) -> jax.Array:
    """Concordant minus discordant pairs of entries. (m1, n_pairs), (m2, n_pairs) -> (m1, m2)"""
    n_ours, n_theirs, size = *ours.below.shape[:1], *theirs.below.shape
    n_bits = max(1, (size - 1).bit_length())
    is_tree = n_ours * n_theirs * n_bits * TREE_WORK < size * (n_ours + n_theirs)
    on_host = _by_tree if is_tree else partial(_by_signs, block=BLOCK)
    on_accelerator = partial(_by_signs, block=BLOCK_OF_ACCELERATOR)
    return jax.lax.platform_dependent(ours, theirs, cpu=on_host, default=on_accelerator)


def _by_signs(ours: KendallState, theirs: KendallState, block: int) -> jax.Array:
    """Sum over pairs of entries of the product of two signs: a matrix product for each block of pairs of entries.

    The sums of one block are whole numbers below 2^24, exact in float32.
    """
    size, dtype = ours.below.shape[1], ours.untied.dtype
    block = min(block, size)
    n_blocks = -(-size // block)
    left, right = (
        jnp.pad(side.below, ((0, 0), (0, n_blocks * block - size)), constant_values=-1) for side in (ours, theirs)
    )
    corners = np.array([(i, j) for i in range(n_blocks) for j in range(i, n_blocks)], np.int32)

    def signs(below: jax.Array, corner: jax.Array) -> jax.Array:
        one, other = (jax.lax.dynamic_slice_in_dim(below, at * block, block, 1) for at in corner)
        first, second = one[:, :, None], other[:, None, :]
        is_entry = (first >= 0) & (second >= 0)
        sign = (first > second).astype(dtype) - (first < second).astype(dtype)
        return jnp.where(is_entry, sign, 0).reshape(below.shape[0], block * block)

    def add(words: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        product = dot(signs(left, corner), signs(right, corner).T).astype(jnp.int32)
        # A block on the diagonal holds each pair of entries twice.
        return _add(words, _split(jnp.where(corner[0] == corner[1], product >> 1, product))), None

    nothing = jnp.zeros((2, left.shape[0], right.shape[0]), jnp.int32)
    return _value(jax.lax.scan(add, nothing, jnp.asarray(corners))[0], dtype)


def _by_tree(ours: KendallState, theirs: KendallState) -> jax.Array:
    """One tree for each pair of RDMs."""
    order = jnp.argsort(ours.below, axis=1)
    sorted_ours = jnp.take_along_axis(ours.below, order, axis=1)

    def with_all_of_ours(other: tuple[jax.Array, jax.Array]) -> jax.Array:
        below, starts = other
        return jax.vmap(lambda one, order: _tree(one, below[order], starts))(sorted_ours, order)

    words = jax.lax.map(with_all_of_ours, (theirs.below, theirs.starts))
    return _value(jnp.moveaxis(words, (0, 1, 2), (2, 1, 0)), ours.untied.dtype)


def _tree(ours: jax.Array, theirs: jax.Array, starts: jax.Array) -> jax.Array:
    """Concordant minus discordant pairs, entries in the order of ours: split theirs bit by bit, the highest first.

    Two entries of different `theirs` part at exactly one bit. There, an entry of the upper half is concordant with
    those of the lower half that come before it, and discordant the other way round; ties of ours do not come before.
    (n_pairs,), (n_pairs,), (n_pairs,) -> (2,) words
    """
    size = ours.shape[0]
    n_bits = max(1, (size - 1).bit_length())
    index = jnp.arange(size, dtype=jnp.int32)

    def level(depth: jax.Array, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        ours, theirs, words = state
        shift = n_bits - 1 - depth
        half = theirs >> shift
        is_upper = (half & 1) == 1
        node = half >> 1
        node_start = starts[node << (shift + 1)]
        is_new = (ours != jnp.roll(ours, 1)) | (node != jnp.roll(node, 1)) | (index == 0)
        tie_start = jax.lax.cummax(jnp.where(is_new, index, 0))
        uppers = jnp.cumsum(half & 1) - (half & 1)
        upper_before = uppers[tie_start] - uppers[node_start]
        lower_before = tie_start - node_start - upper_before
        words = _add(words, _words(jnp.where(is_upper, lower_before, -upper_before)))
        place = uppers - uppers[node_start]
        place = starts[half << shift] + jnp.where(is_upper, place, index - node_start - place)
        both = jnp.zeros((size, 2), jnp.int32).at[place].set(jnp.stack([ours, theirs], axis=1), unique_indices=True)
        return both[:, 0], both[:, 1], words

    return jax.lax.fori_loop(0, n_bits, level, (ours, theirs, jnp.zeros(2, jnp.int32)))[2]


def _words(parts: jax.Array) -> jax.Array:
    """Sum over the last axis of whole numbers below 2^21, as two words. (..., n_pairs) -> (2, ...)"""
    run = 512
    padded = jnp.pad(parts, [(0, 0)] * (parts.ndim - 1) + [(0, -parts.shape[-1] % run)])
    high, low = _split(jnp.sum(padded.reshape(*parts.shape[:-1], -1, run), axis=-1, dtype=jnp.int32))
    high, low = (jnp.sum(word, axis=-1, dtype=jnp.int32) for word in (high, low))
    return jnp.stack([high + (low >> WORD), low & ((1 << WORD) - 1)])


def _split(count: jax.Array) -> jax.Array:
    return jnp.stack([count >> WORD, count & ((1 << WORD) - 1)])


def _add(words: jax.Array, more: jax.Array) -> jax.Array:
    low = words[1] + more[1]
    return jnp.stack([words[0] + more[0] + (low >> WORD), low & ((1 << WORD) - 1)])


def _value(words: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return words[0].astype(dtype) * 2**WORD + words[1].astype(dtype)
