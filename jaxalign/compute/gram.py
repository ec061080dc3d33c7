"""Inner products between stimuli and the dissimilarities made of them: centre first, multiply second."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.stats import dot


def n_pairs(n_stimuli: int) -> int:
    """Number of entries of the upper triangle, without the diagonal."""
    return n_stimuli * (n_stimuli - 1) // 2


def n_stimuli_of(pairs: int) -> int:
    """Number of stimuli of a condensed RDM.

    Raises:
        ValueError: if no number of stimuli has that many pairs.
    """
    n_stimuli = (1 + int(np.sqrt(1 + 8 * pairs))) // 2
    if n_pairs(n_stimuli) != pairs:
        raise ValueError(
            f"{pairs} pairs is not n(n-1)/2 for any n: the nearest are {n_pairs(n_stimuli)} (n = {n_stimuli}) and {n_pairs(n_stimuli + 1)} (n = {n_stimuli + 1})."
        )
    return n_stimuli


def pair_index(n_stimuli: int) -> np.ndarray:
    """Position of each pair in the condensed RDM: (n, n) int32, symmetric, 0 on the diagonal."""
    index = np.zeros((n_stimuli, n_stimuli), np.int32)
    rows, columns = np.triu_indices(n_stimuli, 1)
    index[rows, columns] = index[columns, rows] = np.arange(len(rows), dtype=np.int32)
    return index


def upper_triangle(matrix: jax.Array) -> jax.Array:
    """Entries above the diagonal, row by row. (n, n) -> (n_pairs,)"""
    return matrix[np.triu_indices(matrix.shape[0], 1)]


def row_centre(values: jax.Array, width: jax.Array) -> jax.Array:
    """Subtract from each row its mean over the true width; padded columns stay 0. (n, width), () -> (n, width)"""
    is_unit = (jnp.arange(values.shape[1], dtype=width.dtype) < width)[None, :]
    mean = jnp.sum(jnp.where(is_unit, values, 0), axis=1) / width.astype(values.dtype)
    return jnp.where(is_unit, values - mean[:, None], 0)


def correlation_rdm(values: jax.Array, width: jax.Array) -> jax.Array:
    """1 - Pearson r between the patterns of every two stimuli, over the true width.

    Args:
        values: (n_stimuli, width) patterns, zero padded; any unit.
        width: () number of true columns, at least 2.
    Returns:
        (n_pairs,) dissimilarities in [0, 2]; NaN for pairs with a constant pattern.
    Source: Kriegeskorte et al. 2008, Front. Syst. Neurosci. 2:4.
    """
    centred = row_centre(values, width)
    largest = jnp.max(jnp.abs(centred), axis=1)
    is_flat = largest <= 8 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), axis=1)
    centred = centred / jnp.where(is_flat, 1, largest)[:, None]
    length = jnp.sqrt(jnp.sum(centred**2, axis=1))
    unit = jnp.where(is_flat[:, None], 0, centred / jnp.where(is_flat, 1, length)[:, None])
    # 1 - r is half the squared distance of unit patterns. Moved to their mean they keep their distances and their
    # digits: where one huge unit makes all r nearly 1, 1 - r itself would be rounding.
    moved = unit - jnp.mean(unit, axis=0)[None, :]
    gram = dot(moved, moved.T)
    squared = jnp.where(is_flat, jnp.nan, jnp.diagonal(gram))
    return upper_triangle((squared[:, None] + squared[None, :]) / 2 - gram)


def largest_unit_share(values: jax.Array) -> jax.Array:
    """Share of the variance over stimuli that the strongest single unit carries. (n, width) -> ()

    Massive activations of language models push it towards 1; an RDM then describes that one unit.
    """
    variance = jnp.var(values, axis=0)
    return jnp.max(variance) / jnp.maximum(jnp.sum(variance), jnp.finfo(values.dtype).tiny)
