"""Factorisations of a layer's features, for a platform and a shape that are known at trace time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax.linalg import EighImplementation

from jaxalign.compute.stats import dot

SOLVERS = ("auto", "eigh", "svd")


class Factors(NamedTuple):
    """Thin singular value decomposition of (n, p) features; directions below the rank cut-off are zero.

    Attributes:
        left: (n, r), r = min(n, p).
        singular: (r,), 0 below the cut-off.
        right: (p, r).
    """

    left: jax.Array
    singular: jax.Array
    right: jax.Array


def symmetric_eigen(matrix: jax.Array, platform: str) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (ascending, negatives clipped to 0) and eigenvectors. (n, n) -> (n,), (n, n)

    On TPU, matrices above 256 use Jacobi: the default (QDWH) compiles for minutes and runs a batch one by one.
    """
    implementation = EighImplementation.JACOBI if platform == "tpu" else None
    vectors, values = jax.lax.linalg.eigh(matrix, implementation=implementation, symmetrize_input=True)
    return jnp.maximum(values, 0), vectors


def factorise(features: jax.Array, *, solver: str = "auto", platform: str = "cpu") -> Factors:
    """Decompose centred features once; every penalty and target afterwards costs matrix products.

    Args:
        features: (n, p), centred over rows; padded rows and columns are zero.
        solver: "eigh" of the smaller Gram matrix, "svd" of the features, or "auto" (eigh).
        platform: "cpu", "cuda" or "tpu"; an explicit choice, since each has its own routines.
    Returns:
        Factors. The relative cut-off is eps * max(n, p) of the largest eigenvalue (eigh) or singular value (svd).
        Non-finite features give non-finite factors.
    Raises:
        ValueError: if the solver is unknown.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is not one of {', '.join(SOLVERS)}.")
    return _by_svd(features) if solver == "svd" else _by_eigh(features, platform)


def _by_svd(features: jax.Array) -> Factors:
    left, singular, right = jnp.linalg.svd(features, full_matrices=False)
    floor = jnp.finfo(features.dtype).eps * max(features.shape) * singular[:1]
    keep = ~(singular <= floor)
    left, right = jnp.where(keep[None, :], left, 0), jnp.where(keep[None, :], right.T, 0)
    return Factors(left, jnp.where(keep, singular, 0), right)


def _by_eigh(features: jax.Array, platform: str) -> Factors:
    n_rows, width = features.shape
    is_tall = width <= n_rows
    gram = dot(features.T, features) if is_tall else dot(features, features.T)
    values, vectors = symmetric_eigen(gram, platform)
    floor = jnp.finfo(features.dtype).eps * max(features.shape) * values[-1:]
    # A NaN must stay visible: it is how a failed factorisation is found, so "not below" instead of "above".
    keep = ~(values <= floor)
    singular = jnp.where(keep, jnp.sqrt(values), 0)
    vectors = jnp.where(keep[None, :], vectors, 0)
    inverse = jnp.where(keep, 1 / jnp.where(keep, singular, 1), 0)
    if is_tall:
        return Factors(dot(features, vectors) * inverse[None, :], singular, vectors)
    return Factors(vectors, singular, dot(features.T, vectors) * inverse[None, :])


def shrinkage(singular: jax.Array, alphas: jax.Array) -> jax.Array:
    """Factor s / (s^2 + alpha) that turns rotated responses into rotated weights; 0 for dropped directions.

    (r,), (n_alphas,) -> (n_alphas, r)
    """
    squared = singular[None, :] ** 2
    return jnp.where(squared > 0, singular[None, :] / jnp.where(squared > 0, squared + alphas[:, None], 1), 0)
