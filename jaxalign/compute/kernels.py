"""Similarities and distances between the rows of a matrix, and what centring and neighbourhoods make of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxalign.compute.stats import dot

ROUNDING_EPS = 8
"""Squared distances within so many rounding units of the squared lengths they are made of are 0."""


def centred(values: jax.Array) -> jax.Array:
    """Columns about their mean. (n, width) -> (n, width)"""
    return values - jnp.mean(values, axis=0)[None, :]


def linear_gram(values: jax.Array) -> jax.Array:
    """Inner products of the centred rows, at a scale of 1: squares of volts and teslas would underflow in float32.

    (n, width) -> (n, n), mean of the diagonal 1; NaN where all rows are equal.
    """
    left = of_unit_scale(centred(values), values)
    return dot(left, left.T)


def of_unit_scale(left: jax.Array, values: jax.Array) -> jax.Array:
    """Centred rows whose mean squared length is 1; NaN where their differences are rounding of `values`."""
    largest = jnp.max(jnp.abs(left))
    is_flat = largest <= ROUNDING_EPS * jnp.finfo(left.dtype).eps * jnp.max(jnp.abs(values))
    scaled = left / jnp.where(is_flat, jnp.nan, largest)
    return scaled * jnp.sqrt(left.shape[0] / jnp.sum(scaled**2))


def raw_gram(values: jax.Array) -> jax.Array:
    """Inner products of the centred rows, in the squared unit of the values. (n, width) -> (n, n)"""
    left = centred(values)
    return dot(left, left.T)


def squared_distances(gram: jax.Array) -> jax.Array:
    """Squared Euclidean distances of rows from their inner products, exactly 0 on the diagonal. (n, n) -> (n, n)"""
    squared = jnp.diagonal(gram)
    total = squared[:, None] + squared[None, :]
    found = total - 2 * gram
    is_zero = found <= ROUNDING_EPS * jnp.finfo(gram.dtype).eps * total
    return jnp.where(is_zero | jnp.eye(gram.shape[0], dtype=bool), 0, found)


def distances(gram: jax.Array) -> jax.Array:
    """Euclidean distances of rows from their inner products. (n, n) -> (n, n)"""
    return jnp.sqrt(squared_distances(gram))


def rbf(squared: jax.Array, bandwidth: float = 1.0) -> jax.Array:
    """Gaussian kernel exp(-d^2 / (2 (bandwidth sigma)^2)), sigma^2 the median of the positive squared distances.

    (n, n) -> (n, n); NaN when all rows are equal.
    """
    n_stimuli = squared.shape[0]
    is_pair = jnp.triu(jnp.ones((n_stimuli, n_stimuli), bool), 1) & ~(squared <= 0)
    median = jnp.nanmedian(jnp.where(is_pair, squared, jnp.nan))
    return jnp.exp(-squared / (2 * bandwidth**2 * median))


def double_centred(matrix: jax.Array) -> jax.Array:
    """H M H: rows and columns of mean 0. (n, n) symmetric -> (n, n)"""
    row = jnp.mean(matrix, axis=1)
    return matrix - row[:, None] - row[None, :] + jnp.mean(row)


def u_centred(matrix: jax.Array) -> jax.Array:
    """Off-diagonal entries of rows that sum to 0, the diagonal 0: products of such matrices have no bias.

    (n, n) symmetric, n of at least 4 -> (n, n)
    Source: Szekely & Rizzo 2014, Ann. Stat. 42:2382; the same as the estimator of Song et al. 2012, JMLR 13:1393.
    """
    n_stimuli = matrix.shape[0]
    is_diagonal = jnp.eye(n_stimuli, dtype=bool)
    off = jnp.where(is_diagonal, 0, matrix)
    row = jnp.sum(off, axis=1) / (n_stimuli - 2)
    total = jnp.sum(row) / (n_stimuli - 1)
    return jnp.where(is_diagonal, 0, off - row[:, None] - row[None, :] + total)


def cosine_similarities(values: jax.Array) -> jax.Array:
    """Cosine of the angle between rows, not centred. (n, width) -> (n, n); 0 for a row of zeros"""
    largest = jnp.max(jnp.abs(values), axis=1)
    scaled = values / jnp.where(largest > 0, largest, 1)[:, None]
    length = jnp.sqrt(jnp.sum(scaled**2, axis=1))
    unit = scaled / jnp.where(length > 0, length, 1)[:, None]
    return dot(unit, unit.T)


def neighbour_mask(similarities: jax.Array, n_neighbours: int) -> jax.Array:
    """Which rows are the nearest neighbours of each: 1 or 0, and shares where rows tie for the last places.

    Shares keep the mask equivariant: a tie is not settled by the order of the stimuli.

    Args:
        similarities: (n, n), higher is nearer; the diagonal is not looked at.
        n_neighbours: of each row, at most n - 1.
    Returns:
        (n, n), row i sums to n_neighbours; the diagonal is 0.
    """
    is_self = jnp.eye(similarities.shape[0], dtype=bool)
    others = jnp.where(is_self, -jnp.inf, similarities)
    last = jnp.sort(others, axis=1)[:, -n_neighbours][:, None]
    slack = ROUNDING_EPS * jnp.finfo(similarities.dtype).eps * jnp.max(jnp.abs(similarities))
    is_above = others > last + slack
    is_tied = ~is_above & (others >= last - slack)
    left = n_neighbours - jnp.sum(is_above, axis=1).astype(similarities.dtype)
    share = left / jnp.sum(is_tied, axis=1).astype(similarities.dtype)
    mask = jnp.where(is_above, 1, jnp.where(is_tied, share[:, None], 0))
    return jnp.where(jnp.isnan(last), jnp.nan, mask)
