"""Similarity measures that are no inner product of two matrices: each pair of sides and each labelling on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.kernels import centred, neighbour_mask, of_unit_scale
from jaxalign.compute.stats import dot

LARGEST_SQUARED_R = 1 - 1e-7
"""Squared correlations are cut here, so that equal features have finite information: 8.06 nats."""


class Neighbourhood(NamedTuple):
    """Inner products of rows, and which rows are neighbours: (n, n) each; the product with itself, ()."""

    gram: jax.Array
    mask: jax.Array
    own: jax.Array


def neighbourhood(gram: jax.Array, n_neighbours: int) -> Neighbourhood:
    """One side of CKNNA. (n, n) -> Neighbourhood"""
    mask = neighbour_mask(gram, n_neighbours)
    masked = jnp.where(mask > 0, mask * gram, 0)
    return Neighbourhood(gram, mask, _unbiased_product(masked, masked))


def cknna(ours: Neighbourhood, theirs: Neighbourhood) -> jax.Array:
    """CKA over mutual nearest neighbours: inner products count where both sides call a row a neighbour. -> ()

    Source: Huh et al. 2024, ICML (The Platonic Representation Hypothesis), appendix A.
    """
    both = ours.mask * theirs.mask
    product = _unbiased_product(both * ours.gram, both * theirs.gram)
    total = ours.own * theirs.own
    return product / jnp.sqrt(jnp.where(total > 0, total, jnp.nan))


def _unbiased_product(ours: jax.Array, theirs: jax.Array) -> jax.Array:
    """HSIC of matrices with a zero diagonal that need not be symmetric, without bias. (n, n), (n, n) -> ()"""
    n_stimuli = ours.shape[0]
    first = jnp.sum(ours * theirs.T)
    second = jnp.sum(ours) * jnp.sum(theirs) / ((n_stimuli - 1) * (n_stimuli - 2))
    third = 2 * jnp.sum(jnp.sum(ours, axis=0) * jnp.sum(theirs, axis=1)) / (n_stimuli - 2)
    return (first + second - third) / (n_stimuli * (n_stimuli - 3))


def unit_columns(values: jax.Array) -> jax.Array:
    """Columns centred and of length 1; constant columns 0. (n, width) -> (n, width)"""
    left = centred(values)
    largest = jnp.max(jnp.abs(left), axis=0)
    is_flat = largest <= 8 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), axis=0)
    scaled = left / jnp.where(is_flat, 1, largest)[None, :]
    length = jnp.sqrt(jnp.sum(scaled**2, axis=0))
    return jnp.where(is_flat[None, :], 0, scaled / jnp.where(is_flat, 1, length)[None, :])


def gaussian_information(ours: jax.Array, theirs: jax.Array, n_columns: jax.Array) -> jax.Array:
    """Mutual information of Gaussian features, mean over all pairs of columns, nats. (n, p), (n, q), () -> ()

    -1/2 log(1 - r^2) of each pair. Not below 0, so noise has a positive mean of about 1 / (2 n).

    Args:
        ours, theirs: columns of mean 0 and length 1, zero where padded.
        n_columns: true columns of ours times those of theirs.
    """
    squared = jnp.minimum(dot(ours.T, theirs) ** 2, LARGEST_SQUARED_R)
    return -0.5 * jnp.sum(jnp.log1p(-squared)) / n_columns


def unit_shape(values: jax.Array) -> jax.Array:
    """Rows about their mean, of total squared length 1. (n, width) -> (n, width); NaN where all rows are equal"""
    return of_unit_scale(centred(values), values) / values.shape[0] ** 0.5


def procrustes(ours: jax.Array, theirs: jax.Array) -> jax.Array:
    """Cosine of the angle between two shapes after the best rotation: the nuclear norm of their product. -> ()

    Its arc cosine is the angular Procrustes distance.

    Source: Williams et al. 2021, NeurIPS (Generalized shape metrics on neural representations).
    """
    singular = jnp.linalg.svd(dot(ours.T, theirs), compute_uv=False)
    return jnp.sum(singular)


def under_labellings(measure: Callable, ours: object, theirs: object, relabel: Callable, rows: jax.Array) -> jax.Array:
    """A measure of all pairs of sides under all labellings.

    Args:
        measure: (one side, other side) -> ().
        ours: sides stacked on a leading axis, (n_fits, ...).
        theirs: the same, (n_targets, ...); these are relabelled.
        relabel: (one side, (n_stimuli,) rows) -> the side with its stimuli in another order.
        rows: (n_labellings, n_stimuli).
    Returns:
        (n_labellings, n_fits, n_targets).
    """

    def of_labelling(labelling: jax.Array) -> jax.Array:
        def of_target(other: object) -> jax.Array:
            moved = relabel(other, labelling)
            return jax.lax.map(lambda one: measure(one, moved), ours)

        return jax.lax.map(of_target, theirs).T

    return jax.lax.map(of_labelling, rows)
