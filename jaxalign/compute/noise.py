"""Noise covariance over channels, its inverse, and its inverse root for multivariate noise normalisation."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxalign.compute.stats import dot
from jaxalign.errors import nearest

COVARIANCES = {
    "full": "the sample covariance",
    "diag": "variances only (univariate noise normalisation)",
    "shrinkage_eye": "shrunk towards a multiple of the identity (Ledoit & Wolf 2004)",
    "shrinkage_diag": "shrunk towards its own diagonal (Schaefer & Strimmer 2005)",
}
"""Estimators of the noise covariance, by the names of rsatoolbox."""


def residuals(measurements: jax.Array, condition: jax.Array, n_conditions: int) -> jax.Array:
    """Measurements minus the mean of their condition: the noise, when a condition is measured more than once.

    Args:
        measurements: (n_trials, width), any unit.
        condition: (n_trials,) int in [0, n_conditions).
        n_conditions: how many conditions there are.
    Returns:
        (n_trials, width); 0 for a condition with one trial. Degrees of freedom: n_trials minus the conditions that
        have trials.
    Raises:
        ValueError: if the labels are not one per trial.
    """
    if condition.shape != measurements.shape[:1]:
        raise ValueError(f"{measurements.shape[0]} trials have condition labels of shape {condition.shape}.")
    count = jax.ops.segment_sum(jnp.ones(condition.shape, measurements.dtype), condition, n_conditions)
    mean = jax.ops.segment_sum(measurements, condition, n_conditions) / jnp.maximum(count, 1)[:, None]
    return measurements - mean[condition]


def noise_covariance(residuals: jax.Array, method: str = "shrinkage_diag", dof: int | None = None) -> jax.Array:
    """Covariance over channels of what is left when the conditions are taken out; columns are centred once more.

    Args:
        residuals: (n, width), any unit.
        method: a name in COVARIANCES.
        dof: degrees of freedom; None is n - 1. For residuals about condition means it is n minus the number of
            conditions. rsatoolbox takes (n_conditions - 1) * n_repetitions in `*_from_measurements`, which is too many.
    Returns:
        (width, width) in squared units of the residuals; NaN for shrinkage_diag when a channel does not vary.
    Raises:
        ValueError: if the method is unknown, or there are fewer than 2 residuals or no degrees of freedom.
    Source: Ledoit & Wolf 2004, J. Multivar. Anal. 88:365; Schaefer & Strimmer 2005, Stat. Appl. Genet. Mol. Biol. 4:32.
    """
    if method not in COVARIANCES:
        raise ValueError(
            f"method={method!r} is not an estimator of the noise covariance. {nearest(method, COVARIANCES)}"
        )
    n, dof = residuals.shape[0], _dof(residuals, dof)
    centred = residuals - jnp.mean(residuals, axis=0)[None, :]
    largest = jnp.max(jnp.abs(centred))
    unit = jnp.where(largest == 0, 1, largest)
    centred = centred / unit
    covariance = dot(centred.T, centred) / dof
    if method == "diag":
        covariance = jnp.diag(jnp.diagonal(covariance))
    elif method == "shrinkage_eye":
        covariance = _towards_identity(covariance * (dof / n), centred) * (n / dof)
    elif method == "shrinkage_diag":
        covariance = _towards_diagonal(covariance, centred, dof)
    return covariance * unit * unit


def _dof(residuals: jax.Array, dof: int | None) -> int:
    n = residuals.shape[0]
    dof = n - 1 if dof is None else dof
    if n < 2 or dof < 1:
        raise ValueError(
            f"{n} residuals with {dof} degrees of freedom have no covariance: at least one condition must be measured twice."
        )
    return dof


def _towards_identity(covariance: jax.Array, centred: jax.Array) -> jax.Array:
    """Ledoit and Wolf's mix of a covariance (n in the denominator) and its mean variance times the identity."""
    n, width = centred.shape
    target = jnp.trace(covariance) / width * jnp.eye(width, dtype=covariance.dtype)
    distance = jnp.sum((covariance - target) ** 2)
    noise = (jnp.sum(jnp.sum(centred**2, axis=1) ** 2) / n - jnp.sum(covariance**2)) / n
    share = _ratio(jnp.minimum(noise, distance), distance)
    return share * target + (1 - share) * covariance


def _towards_diagonal(covariance: jax.Array, centred: jax.Array, dof: int) -> jax.Array:
    """Schaefer and Strimmer's shrinkage of the correlations; variances stay."""
    n, width = centred.shape
    standard = centred / jnp.sqrt(jnp.diagonal(covariance))[None, :]
    mean = dot(standard.T, standard) / (n - 1)
    variance = (dot((standard**2).T, standard**2) / (n - 1) - mean**2) * (n / dof**2)
    off = 1 - jnp.eye(width, dtype=covariance.dtype)
    share = _ratio(jnp.sum(variance * off), jnp.sum(mean**2 * off))
    return covariance * (1 - jnp.clip(share, 0, 1) * off)


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
    """Their ratio, 0 where a single channel or a perfect target leaves nothing to divide by."""
    return jnp.where(below == 0, 0, above / jnp.where(below == 0, 1, below))


def noise_precision(residuals: jax.Array, method: str = "shrinkage_diag", dof: int | None = None) -> jax.Array:
    """Inverse of `noise_covariance`, the precision that mahalanobis and crossnobis take.

    Args:
        residuals: (n, width), any unit.
        method: a name in COVARIANCES.
        dof: degrees of freedom; None is n - 1.
    Returns:
        (width, width), 1 / squared units of the residuals; NaN throughout when the covariance is singular to rounding.
    Raises:
        ValueError: as `noise_covariance`, and for the full covariance of more channels than degrees of freedom.
    """
    rank = min(_dof(residuals, dof), residuals.shape[0] - 1)
    if method == "full" and rank < residuals.shape[1]:
        raise ValueError(
            f"The full covariance of {residuals.shape[1]} channels has no inverse with {rank} degrees of freedom. Use method='shrinkage_diag', or more residuals."
        )
    return precision(noise_covariance(residuals, method, dof))


def precision(covariance: jax.Array) -> jax.Array:
    """Inverse of a covariance. (width, width) -> (width, width); NaN throughout when it is singular to rounding."""
    scale = jnp.sqrt(jnp.diagonal(covariance))
    # Channels of different units differ by 1e12 in variance; their correlations do not.
    factor = jnp.linalg.cholesky(covariance / scale[:, None] / scale[None, :])
    half = solve_triangular(factor, jnp.eye(scale.shape[0], dtype=scale.dtype), lower=True)
    smallest = jnp.min(jnp.diagonal(factor) ** 2)
    is_regular = smallest > _rounding(covariance)
    inverse = dot(half.T, half) / scale[:, None] / scale[None, :]
    return jnp.where(is_regular, inverse, jnp.nan)


def whitening(covariance: jax.Array) -> jax.Array:
    """Symmetric inverse root of a covariance: `patterns @ whitening` has uncorrelated noise of variance 1 (MVNN).

    Args:
        covariance: (width, width) of the noise.
    Returns:
        (width, width), symmetric, its square is the precision; NaN throughout when the covariance is singular to
        rounding.
    Source: Guggenmos et al. 2018, NeuroImage 173:434.
    """
    largest = jnp.max(jnp.diagonal(covariance))
    eigenvalues, vectors = jnp.linalg.eigh(covariance / largest)
    is_regular = eigenvalues[0] > _rounding(covariance) * eigenvalues[-1]
    root = dot(vectors / jnp.sqrt(eigenvalues)[None, :], vectors.T) / jnp.sqrt(largest)
    return jnp.where(is_regular, root, jnp.nan)


def _rounding(covariance: jax.Array) -> float:
    return covariance.shape[0] * float(jnp.finfo(covariance.dtype).eps)
