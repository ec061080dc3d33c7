"""Inner products <A, P B P'> of many matrices under many relabellings P of the stimuli: a row gather, then one matrix product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.gram import n_pairs, upper_triangle
from jaxalign.compute.stats import dot

BLOCK = 1024
"""Entries that are gathered and multiplied at a time: relabelled copies never leave the cache."""

COLUMNS = 2400
"""Relabelled copies side by side in one product: wide enough for its full rate."""


def pack(matrix: jax.Array, packing: str) -> jax.Array:
    """A matrix as a vector; the dot product of two is the trace form of the matrices. (n, n) -> (n_packed,)

    "triangle" is the upper triangle of a matrix with a zero diagonal; "gram" the upper triangle times sqrt(2), then the
    diagonal, of a symmetric one; "full" all entries of any.
    """
    if packing == "triangle":
        return upper_triangle(matrix)
    if packing == "gram":
        return jnp.concatenate([2**0.5 * upper_triangle(matrix), jnp.diagonal(matrix)])
    return matrix.reshape(-1)


def entries(n_stimuli: int, packing: str) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry of a packed matrix, int32. -> (n_packed,), (n_packed,)"""
    if packing == "full":
        first, second = np.indices((n_stimuli, n_stimuli)).reshape(2, -1)
    else:
        first, second = np.triu_indices(n_stimuli, 1)
    if packing == "gram":
        diagonal = np.arange(n_stimuli)
        first, second = np.concatenate([first, diagonal]), np.concatenate([second, diagonal])
    return first.astype(np.int32), second.astype(np.int32)


def places(n_stimuli: int, packing: str) -> np.ndarray:
    """Position of each entry of a matrix in the packed one; 0 for a diagonal that is not packed. -> (n, n) int32"""
    row, column = np.indices((n_stimuli, n_stimuli))
    if packing == "full":
        return (row * n_stimuli + column).astype(np.int32)
    low, high = np.minimum(row, column), np.maximum(row, column)
    of_pairs = low * (2 * n_stimuli - 3 - low) // 2 + high - 1
    diagonal = n_pairs(n_stimuli) + low if packing == "gram" else 0
    return np.where(low == high, diagonal, of_pairs).astype(np.int32)


def under_labellings(ours: jax.Array, theirs: jax.Array, rows: jax.Array, packing: str) -> jax.Array:
    """Trace forms of all matrices of one side with all of the other, relabelled.

    The side with fewer matrices is the one that is gathered: relabelling it by the inverse is relabelling the other.

    Args:
        ours: (n_packed, n_fits) packed matrices.
        theirs: (n_packed, n_targets) packed matrices, which the labellings relabel.
        rows: (n_labellings, n_stimuli) int32 permutations.
        packing: of both.
    Returns:
        (n_labellings, n_fits, n_targets).
    """
    if ours.shape[1] < theirs.shape[1]:
        inverse = jnp.argsort(rows, axis=1).astype(rows.dtype)
        return jnp.swapaxes(_gathered(theirs, ours, inverse, packing), 1, 2)
    return _gathered(ours, theirs, rows, packing)


def _gathered(still: jax.Array, moved: jax.Array, rows: jax.Array, packing: str) -> jax.Array:
    """(n_packed, m), (n_packed, k), (n_labellings, n) -> (n_labellings, m, k)"""
    (n_labellings, n_stimuli), (length, n_still), n_moved = rows.shape, still.shape, moved.shape[1]
    block, width = min(BLOCK, length), min(max(COLUMNS // n_moved, 1), n_labellings)
    n_blocks, n_products = -(-length // block), -(-n_labellings // width)
    padding = n_blocks * block - length
    # Entries beyond the last are those of the first pair, times 0.
    first, second = (
        np.concatenate([place, np.full(padding, start, np.int32)]).reshape(n_blocks, block)
        for place, start in zip(entries(n_stimuli, packing), (0, 1), strict=True)
    )
    left = jnp.swapaxes(jnp.pad(still, ((0, padding), (0, 0))).reshape(n_blocks, block, n_still), 1, 2)
    # Calls of one shape: the last one is filled up with labellings that are dropped again.
    filled = jnp.concatenate([rows, rows[: n_products * width - n_labellings]])
    # Gathered from whole matrices: a row of pairs then lies in one row of memory.
    square = moved[places(n_stimuli, packing).reshape(-1)]

    def of_labellings(labellings: jax.Array) -> jax.Array:
        def add(total: jax.Array, one: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            part, row, column = one
            if n_moved == 1:  # labelling by labelling, each in its own row of memory
                place = labellings[:, row] * n_stimuli + labellings[:, column]
                return total + dot(part, square[place, 0].T), None
            place = labellings.T[row] * n_stimuli + labellings.T[column]
            return total + dot(part, square[place].reshape(block, width * n_moved)), None

        nothing = jnp.zeros((n_still, width * n_moved), still.dtype)
        total, _ = jax.lax.scan(add, nothing, (left, jnp.asarray(first), jnp.asarray(second)))
        return jnp.swapaxes(total.reshape(n_still, width, n_moved), 0, 1)

    scores = jax.lax.map(of_labellings, filled.reshape(n_products, width, n_stimuli))
    return scores.reshape(n_products * width, n_still, n_moved)[:n_labellings]
