"""Cross-validated dissimilarities: differences in one partition times differences in another, signed."""

import jax
import jax.numpy as jnp

from jaxalign.compute.distances import largest_magnitude, rates
from jaxalign.compute.gram import upper_triangle
from jaxalign.compute.stats import dot


def partition_patterns(
    measurements: jax.Array, stimulus: jax.Array, partition: jax.Array, n_stimuli: int, n_partitions: int
) -> tuple[jax.Array, jax.Array]:
    """Mean measurement of each stimulus in each partition.

    Args:
        measurements: (n_trials, width), any unit.
        stimulus: (n_trials,) int, index of the stimulus; trials with a negative index are left out.
        partition: (n_trials,) int, index of the session or run; trials with a negative index are left out.
        n_stimuli, n_partitions: how many there are.
    Returns:
        (n_partitions, n_stimuli, width) means, 0 where there is no trial, and (n_partitions, n_stimuli) bool, true
        where there is one.
    Raises:
        ValueError: if the labels are not one per trial.
    """
    if not stimulus.shape == partition.shape == measurements.shape[:1]:
        raise ValueError(
            f"{measurements.shape[0]} trials have labels of shapes {stimulus.shape} (stimulus) and {partition.shape} (partition): each trial needs one of both."
        )
    n_cells = n_partitions * n_stimuli
    is_used = (stimulus >= 0) & (partition >= 0) & (stimulus < n_stimuli) & (partition < n_partitions)
    cell = jnp.where(is_used, partition * n_stimuli + stimulus, n_cells)
    count = jax.ops.segment_sum(is_used.astype(measurements.dtype), cell, n_cells + 1)[:n_cells]
    total = jax.ops.segment_sum(jnp.where(is_used[:, None], measurements, 0), cell, n_cells + 1)[:n_cells]
    means = total / jnp.maximum(count, 1)[:, None]
    return means.reshape(n_partitions, n_stimuli, -1), (count > 0).reshape(n_partitions, n_stimuli)


def crossnobis(
    patterns: jax.Array,
    is_present: jax.Array | None = None,
    precision: jax.Array | None = None,
    *,
    other: jax.Array | None = None,
    is_per_channel: bool = True,
) -> jax.Array:
    """Cross-validated squared Mahalanobis distance of every two stimuli: signed, 0 on average where they are equal.

    The mean over ordered pairs of different partitions a, b of (x_i^a - x_j^a) P (x_i^b - x_j^b)'. A pair of stimuli
    takes the partitions in which both are present, so that what shifts a whole partition cancels. Equal to
    rsatoolbox's calc_rdm where every partition holds every stimulus equally often. Elsewhere calc_rdm_unbalanced
    averages x_i P x_i, x_j P x_j and x_i P x_j each over the trials it finds for it, so a shift of a partition stays.

    Args:
        patterns: (n_partitions, n, width), any unit; partitions are independent measurements, such as sessions.
        is_present: (n_partitions, n) bool; None when all are, which is faster.
        precision: (width, width) inverse noise covariance; None is the identity.
        other: (n_partitions, n, width) patterns that take the place of the second factor, such as another time.
        is_per_channel: divide by the width, as rsatoolbox.
    Returns:
        (n_pairs,) in squared units of the patterns, or in squared noise SD; NaN for pairs with fewer than 2 common
        partitions.
    Raises:
        ValueError: if there is a single partition or shapes disagree.
    Source: Walther et al. 2016, NeuroImage 137:188; Diedrichsen et al. 2016, arXiv:1607.01371.
    """
    _check_partitions(patterns, is_present, precision)
    right = _partition_centred(patterns if other is None else other, is_present)
    left = _partition_centred(patterns, is_present)
    units = largest_magnitude(left), largest_magnitude(right)
    left, right = left / units[0], right / units[1]
    if precision is None:
        distances = _across_partitions(left, right, is_present) * units[0] * units[1]
    else:
        distances = _across_partitions(dot(left, precision * units[0] * units[1]), right, is_present)
    return distances / patterns.shape[2] if is_per_channel else distances


def poisson_cv(patterns: jax.Array, is_present: jax.Array | None = None, *, is_per_channel: bool = True) -> jax.Array:
    """Cross-validated symmetrised Kullback-Leibler divergence of Poisson rates: differences of rates in one partition
    times differences of their logarithms in another, averaged as in `crossnobis`.

    rsatoolbox 0.3.2 returns its last fold only.

    Args:
        patterns: (n_partitions, n, width) counts or rates.
        is_present: (n_partitions, n) bool; None when all are, which is faster.
        is_per_channel: divide by the width, as rsatoolbox.
    Returns:
        (n_pairs,), signed; NaN for pairs with fewer than 2 common partitions.
    Raises:
        ValueError: if there is a single partition or shapes disagree.
    Source: Schuett et al. 2023, eLife 12:e82566.
    """
    _check_partitions(patterns, is_present, None)
    given = patterns if is_present is None else jnp.where(is_present[:, :, None], patterns, 0)
    rate, log_rate = (_partition_centred(side, is_present) for side in rates(given))
    distances = _across_partitions(rate, log_rate, is_present)
    return distances / patterns.shape[2] if is_per_channel else distances


def _check_partitions(patterns: jax.Array, is_present: jax.Array | None, precision: jax.Array | None) -> None:
    if patterns.shape[0] < 2:
        raise ValueError(
            "A cross-validated distance needs at least 2 partitions and patterns has 1. Use 'mahalanobis'."
        )
    if is_present is not None and is_present.shape != patterns.shape[:2]:
        raise ValueError(
            f"is_present has shape {is_present.shape} and patterns has {patterns.shape[0]} partitions of {patterns.shape[1]} stimuli."
        )
    if precision is not None and precision.shape != (patterns.shape[2],) * 2:
        raise ValueError(f"precision has shape {precision.shape} and the patterns have {patterns.shape[2]} channels.")


def _partition_centred(patterns: jax.Array, is_present: jax.Array | None) -> jax.Array:
    """Subtract from each partition its mean over the stimuli present; absent ones become 0."""
    if is_present is None:
        return patterns - jnp.mean(patterns, axis=1, keepdims=True)
    is_there = is_present[:, :, None]
    count = jnp.maximum(jnp.sum(is_there, axis=1, keepdims=True), 1).astype(patterns.dtype)
    mean = jnp.sum(jnp.where(is_there, patterns, 0), axis=1, keepdims=True) / count
    return jnp.where(is_there, patterns - mean, 0)


def _across_partitions(left: jax.Array, right: jax.Array, is_present: jax.Array | None) -> jax.Array:
    """Mean of (l_i^a - l_j^a)(r_i^b - r_j^b)' over ordered pairs a, b of different partitions that both stimuli have.

    (n_partitions, n, width) twice, (n_partitions, n) -> (n_pairs,)
    """
    n_partitions = left.shape[0]
    if is_present is None:
        kernel = dot(jnp.sum(left, axis=0), jnp.sum(right, axis=0).T) - dot(_side_by_side(left), _side_by_side(right).T)
        own = jnp.diagonal(kernel)
        total = own[:, None] + own[None, :] - kernel - kernel.T
        return upper_triangle(total) / (n_partitions * (n_partitions - 1))
    weight = is_present.astype(left.dtype).T
    own = _own_products(left, right, weight)
    kernel = _cross_products(left, right, weight)
    n_common = dot(weight, weight.T)
    n_ordered = jnp.where(n_common < 2, jnp.nan, n_common * (n_common - 1))
    return upper_triangle((own + own.T - kernel - kernel.T) / n_ordered)


def _side_by_side(patterns: jax.Array) -> jax.Array:
    """(n_partitions, n, width) -> (n, n_partitions * width)"""
    return jnp.moveaxis(patterns, 0, 1).reshape(patterns.shape[1], -1)


def _own_products(left: jax.Array, right: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum over a != b that j has of l_i^a r_i^b'. (n_partitions, n, width) twice, (n, n_partitions) -> (n, n)"""
    n, n_partitions = weight.shape
    products = dot(jnp.moveaxis(left, 0, 1), jnp.transpose(right, (1, 2, 0)))
    products = products * (1 - jnp.eye(n_partitions, dtype=left.dtype))[None]
    both = weight[:, :, None] * weight[:, None, :]
    return dot(products.reshape(n, -1), both.reshape(n, -1).T)


def _cross_products(left: jax.Array, right: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum over a that j has and b != a that i has of l_i^a r_j^b'. (n_partitions, n, width) twice, ... -> (n, n)"""
    n, n_partitions = weight.shape
    others, flat = 1 - jnp.eye(n_partitions, dtype=left.dtype), _side_by_side(right).T

    def add(total: jax.Array, partition: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        mine, is_other, is_there = partition
        spread = (weight * is_other[None, :])[:, :, None] * mine[:, None, :]
        return total + dot(spread.reshape(n, -1), flat) * is_there[None, :], None

    return jax.lax.scan(add, jnp.zeros((n, n), left.dtype), (left, others, weight.T))[0]
