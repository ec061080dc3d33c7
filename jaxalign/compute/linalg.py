"""Factorisations of a layer's features, for a platform and a shape that are known at trace time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import EighImplementation

from jaxalign.compute.stats import dot

SOLVERS = ("auto", "eigh", "svd", "cholesky")
"""Names of the ways to solve for weights."""

FACTORISERS = ("auto", "eigh", "svd")
"""Those that give singular vectors."""

NOISE_EPS = 16
"""Eigenvalues of a Gram matrix up to so many eps of the largest are noise. Measured in float32, r = 50 to 1,024, full and
deficient rank: the largest error of an eigenvalue is 4.4 eps of the largest eigenvalue, the largest false one 1.6."""

EIGH_COST = {"cpu": 25.0, "cuda": 60.0, "tpu": 60.0}
CHOLESKY_COST = {"cpu": 2.0, "cuda": 1.0, "tpu": 1.0}
"""Time of one factorisation of an (n, n) matrix, in units of n^3 / (rate of a matrix product in operations per second).
cpu: measured in float32 at n = 512 to 1,024 (eigh 17 to 35, Cholesky 1.4 to 4). cuda and tpu: estimates, not measured."""


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
        Factors. The relative cut-off is 16 eps of the largest eigenvalue (eigh), or eps * max(n, p) of the largest
        singular value (svd).
        Non-finite features give non-finite factors.
    Raises:
        ValueError: if the solver is unknown.
    """
    if solver not in FACTORISERS:
        raise ValueError(f"solver={solver!r} does not give singular vectors: use auto, eigh or svd.")
    return _by_svd(features) if solver == "svd" else _by_eigh(features, platform)


def _by_svd(features: jax.Array) -> Factors:
    left, singular, right = jnp.linalg.svd(features, full_matrices=False)
    floor = jnp.finfo(features.dtype).eps * max(features.shape) * singular[:1]
    keep = ~(singular <= floor)
    left, right = jnp.where(keep[None, :], left, 0), jnp.where(keep[None, :], right.T, 0)
    return Factors(left, jnp.where(keep, singular, 0), right)


def _by_eigh(features: jax.Array, platform: str) -> Factors:
    n_rows, width = features.shape
    tall = width <= n_rows
    gram = dot(features.T, features) if tall else dot(features, features.T)
    singular, vectors, noise = from_gram(gram, platform)
    keep = ~(singular**2 <= noise)
    singular, vectors = jnp.where(keep, singular, 0), jnp.where(keep[None, :], vectors, 0)
    if tall:
        return Factors(dot(features, vectors) * inverse(singular)[None, :], singular, vectors)
    return Factors(vectors, singular, dot(features.T, vectors) * inverse(singular)[None, :])


def inverse(singular: jax.Array) -> jax.Array:
    """1 / s, 0 for dropped directions; the NaN of a failed factorisation stays, since it is found by it. (r,) -> (r,)"""
    return jnp.where(singular > 0, 1 / jnp.where(singular > 0, singular, 1), singular)


def from_gram(gram: jax.Array, platform: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Singular values and vectors of one side of a matrix, from its Gram matrix, and below what they are noise.

    Rounding moves eigenvalues by up to about 5 eps of the largest: those below 16 eps of it cannot be told from 0. They
    are kept, since a penalty above that makes them harmless whatever they are, and dropping real ones costs far more (up
    to 1 SD of a prediction where the spectrum decays); `shrinkage` drops them for smaller penalties.

    Args:
        gram: (r, r), products of the shorter side.
        platform: "cpu", "cuda" or "tpu".
    Returns:
        (r,) singular values, ascending; (r, r) vectors in columns; () squared singular value up to which they are noise.
        Non-finite input gives non-finite output.
    """
    values, vectors = symmetric_eigen(gram, platform)
    eps = jnp.finfo(gram.dtype).eps
    # "Not below" instead of "above": a NaN must stay visible.
    keep = ~(values <= eps**2 * values[-1:])
    return jnp.where(keep, jnp.sqrt(values), 0), vectors, NOISE_EPS * eps * values[-1]


def resolve(solver: str, rank: int, n_alphas: int, n_targets: int | None, platform: str) -> str:
    """The cheapest way for a shape, by measured costs, where the solver is "auto"; the solver itself otherwise.

    One eigendecomposition serves all penalties and makes each cost a product with a diagonal matrix; Cholesky is cheaper
    by far but is needed once per penalty, with two triangular solves for every target.

    Args:
        solver: one of SOLVERS.
        rank: the smaller of training stimuli and features.
        n_alphas: penalties to be solved for.
        n_targets: targets; None if unknown, then "eigh" unless there is a single penalty.
        platform: "cpu", "cuda" or "tpu".
    Raises:
        ValueError: if the solver is unknown.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is not one of {', '.join(SOLVERS)}.")
    if solver != "auto":
        return solver
    if n_targets is None:
        return "eigh" if n_alphas > 1 else "cholesky"
    by_eigh = EIGH_COST[platform] * rank + 2.0 * n_targets
    by_cholesky = n_alphas * (CHOLESKY_COST[platform] * rank + 4.0 * n_targets)
    return "cholesky" if by_cholesky < by_eigh else "eigh"


def cholesky(matrix: jax.Array, alpha: jax.Array) -> jax.Array:
    """Lower factor of matrix + alpha; NaN where alpha is 0 and a column is, but for rounding, a combination of others.

    Rounding makes the pivot of such a column a tiny number instead of 0, and the solution a huge one.
    (n, n), () -> (n, n)
    """
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    factor = jax.lax.linalg.cholesky(matrix + alpha * eye, symmetrize_input=False)
    floor = jnp.finfo(matrix.dtype).eps * matrix.shape[0] * jnp.diagonal(matrix)
    is_deficient = (alpha == 0) & jnp.any(jnp.diagonal(factor) ** 2 <= floor)
    return jnp.where(is_deficient, jnp.nan, factor)


def solve_by_cholesky(matrix: jax.Array, alpha: jax.Array, right: jax.Array) -> jax.Array:
    """Solution of (matrix + alpha) w = right side. (n, n), (), (n, m) -> (n, m)"""
    with jax.default_matmul_precision("highest"):
        return jax.scipy.linalg.cho_solve((cholesky(matrix, alpha), True), right)


def shrinkage(singular: jax.Array, alphas: jax.Array, noise: jax.Array | float = 0.0) -> jax.Array:
    """Factor s / (s^2 + alpha) that turns rotated responses into rotated weights; 0 for dropped directions.

    Dropped are those of singular value 0, and those of s^2 up to `noise` where alpha is no larger than that either.
    (r,), (n_alphas,), () -> (n_alphas, r)
    """
    squared = singular[None, :] ** 2
    is_kept = (squared > 0) & ((squared > noise) | (alphas[:, None] > noise))
    # 0 * squared keeps the NaN of a failed decomposition visible.
    return jnp.where(is_kept, singular[None, :] / jnp.where(is_kept, squared + alphas[:, None], 1), 0 * squared)


def filters(singular: jax.Array, alphas: jax.Array) -> jax.Array:
    """Share s^2 / (s^2 + alpha) of each direction that a penalty lets through; 0 for dropped directions.

    (r,), (n_alphas,) -> (n_alphas, r)
    """
    return shrinkage(singular, alphas) * singular[None, :]


def basis_size(alphas: np.ndarray, dtype: jnp.dtype) -> int:
    """Directions that span the filters of all penalties to 1e-6 (float32) or 1e-11 (float64) of the response's spread.

    A filter is 1 / (1 + exp(log alpha - log s^2)), whose nearest poles in log alpha are at a distance of pi whatever s
    is. Interpolation at m Chebyshev points of an interval of half-length h therefore errs by rho^-m / (1 - 1 / rho), with
    rho = pi / h + sqrt(1 + (pi / h)^2): 15 penalties stand for all others within 2 decades, 42 within 7.

    Args:
        alphas: (n_alphas,) on the host.
        dtype: of the computation.
    Returns:
        0 where no fewer directions than penalties would do. One of them is kept for a penalty of 0.
    Source:
        Trefethen 2013, Approximation Theory and Approximation Practice, theorem 8.2.
    """
    positive = alphas[alphas > 0]
    if len(positive) == 0 or positive.max() == positive.min():
        return 0
    reach = np.pi / (np.log(positive.max() / positive.min()) / 2)
    digits = 6 if jnp.finfo(dtype).bits <= 32 else 11
    rho = reach + np.sqrt(1 + reach**2)
    size = 2 + int(np.ceil((digits * np.log(10) + np.log(rho / (rho - 1))) / np.log(rho)))
    return size if size < 0.8 * len(alphas) else 0


def filter_basis(singular: jax.Array, alphas: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """A few filters that all others are combinations of. (r,), (n_alphas,) -> (size, r), (n_alphas, size)

    The first is that of penalty 0; the others are at Chebyshev points of log alpha. No more than r are needed.
    """
    if size >= singular.shape[0]:
        return jnp.eye(singular.shape[0], dtype=singular.dtype), filters(singular, alphas)
    is_zero = alphas == 0
    low = jnp.min(jnp.where(is_zero, jnp.inf, alphas))
    # Logarithms about the middle: near 0 they have the most digits.
    middle = jnp.sqrt(low) * jnp.sqrt(jnp.max(alphas))
    half = jnp.log(middle / low)
    angle = (2 * np.arange(size - 1) + 1) * np.pi / (2 * (size - 1))
    points = jnp.asarray(np.cos(angle), singular.dtype)
    weight = jnp.asarray((-1.0) ** np.arange(size - 1) * np.sin(angle), singular.dtype)
    nodes = jnp.concatenate([jnp.zeros_like(points[:1]), middle * jnp.exp(half * points)])
    place = jnp.log(jnp.where(is_zero, middle, alphas) / middle) / half
    gap = place[:, None] - points[None, :]
    is_node = gap == 0
    share = weight[None, :] / jnp.where(is_node, 1, gap)
    share = jnp.where(jnp.any(is_node, axis=1)[:, None], is_node.astype(share.dtype), share)
    share = jnp.where(is_zero[:, None], 0, share / jnp.sum(share, axis=1)[:, None])
    return filters(singular, nodes), jnp.concatenate([is_zero.astype(share.dtype)[:, None], share], axis=1)
