"""Means, correlations, ranks and scores of columns: everything runs over the first axis, under a row mask."""

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST

RANKED_AT_ONCE = 1 << 24
"""Entries that are sorted and searched together: more would hold several copies of the largest RDMs of a block."""


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product at full precision of the dtype on every platform. (n, k), (k, m) -> (n, m)"""
    return jnp.matmul(a, b, precision=HIGHEST)


def mean(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Mean over the true rows. (n, m), (n,) -> (m,)"""
    weight = is_row.astype(values.dtype)
    return jnp.sum(values * weight[:, None], axis=0) / jnp.maximum(weight.sum(), 1)


def centre(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Subtract the mean of the true rows; padded rows become 0. (n, m), (n,) -> (n, m)"""
    return jnp.where(is_row[:, None], values - mean(values, is_row)[None, :], 0)


def is_constant(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Tell which columns vary by no more than rounding over the true rows. (n, m), (n,) -> (m,) bool"""
    big = jnp.max(jnp.where(is_row[:, None], jnp.abs(values), 0), axis=0)
    low = jnp.min(jnp.where(is_row[:, None], values, jnp.inf), axis=0)
    high = jnp.max(jnp.where(is_row[:, None], values, -jnp.inf), axis=0)
    return high - low <= 8 * jnp.finfo(values.dtype).eps * big


def scale(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Standard deviation (n in the denominator) over the true rows, 0 for constant columns. (n, m), (n,) -> (m,)

    The largest deviation is divided out first: squares of volts and teslas would underflow in float32.
    """
    deviations = centre(values, is_row)
    largest = jnp.max(jnp.abs(deviations), axis=0)
    unit = deviations / jnp.where(largest > 0, largest, 1)[None, :]
    count = jnp.maximum(is_row.sum(), 1).astype(values.dtype)
    sd = largest * jnp.sqrt(jnp.sum(unit**2, axis=0) / count)
    return jnp.where(is_constant(values, is_row), 0, sd)


def zscore(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Centre and divide by the SD of the true rows; constant columns become 0. (n, m), (n,) -> (n, m)"""
    sd = scale(values, is_row)
    safe = jnp.where(sd > 0, sd, 1)
    return jnp.where(sd[None, :] > 0, centre(values, is_row) / safe[None, :], 0)


def unit_norm(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """Centre each column and give it length 1, so that a dot product is a Pearson r. (n, m), (n,) -> (n, m)

    Constant columns become NaN: a correlation with them is undefined.
    """
    sd = scale(values, is_row)
    length = sd * jnp.sqrt(is_row.sum().astype(values.dtype))
    return centre(values, is_row) / jnp.where(length > 0, length, jnp.nan)[None, :]


def sort(values: jax.Array) -> jax.Array:
    """Ascending values, by their bits: sorting integers is 6 times faster on a CPU. (n,) -> (n,); NaN at either end"""
    whole = jnp.int32 if values.dtype.itemsize == 4 else jnp.int64
    largest = jnp.asarray(jnp.iinfo(whole).max, whole)

    def flip(bits: jax.Array) -> jax.Array:
        return jnp.where(bits < 0, bits ^ largest, bits)

    bits = jax.lax.bitcast_convert_type(values, whole)
    return jax.lax.bitcast_convert_type(flip(jnp.sort(flip(bits))), values.dtype)


def rank(values: jax.Array, rounding: float = 0.0) -> jax.Array:
    """Ranks from 1 within each column; ties share their mean rank. (n, m) -> (n, m)

    Args:
        values: (n, m); a column with NaN or Inf gives NaN.
        rounding: values that differ by no more than this share of the column's largest are ties. What is equal by
            definition, such as the dissimilarities within a category, comes out of a matrix product with different
            last bits.
    """

    def one(column: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(column))
        ordered = sort(column)
        below = jnp.searchsorted(ordered, column - rounding * largest, side="left")
        upto = jnp.searchsorted(ordered, column + rounding * largest, side="right")
        return jnp.where(jnp.isfinite(largest), (below + upto + 1).astype(values.dtype) / 2, jnp.nan)

    if values.size <= RANKED_AT_ONCE:
        return jax.vmap(one, in_axes=1, out_axes=1)(values)
    return jax.lax.map(one, values.T, batch_size=max(1, RANKED_AT_ONCE // values.shape[0])).T


def r2(truth: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """1 - SS_res / SS_tot over the true rows; NaN for a constant target. (n, m), (n, m), (n,) -> (m,)"""
    residual = jnp.where(is_row[:, None], truth - predicted, 0)
    total = jnp.sum(centre(truth, is_row) ** 2, axis=0)
    total = jnp.where(is_constant(truth, is_row), jnp.nan, total)
    return 1 - jnp.sum(residual**2, axis=0) / total


def pearson(truth: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """Pearson r of matching columns: NaN for a constant target, 0 for a constant prediction.

    (n, m), (n, m), (n,) -> (m,)
    """
    guess = jnp.where(is_constant(predicted, is_row)[None, :], 0, unit_norm(predicted, is_row))
    return jnp.sum(unit_norm(truth, is_row) * guess, axis=0)
