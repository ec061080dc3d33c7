"""Multivariate noise normalisation of epochs on the host: Ledoit-Wolf covariance per condition, averaged, inverse root.

The same numbers as `jaxalign.compute.noise` gives (shrinkage_eye, whitening), in float64 and streaming: 2 million small
covariances of a session are summed as they come, and none is kept.
"""

from __future__ import annotations

import numpy as np

from jaxalign.errors import DataError

DIMENSIONS = {
    "time": "the covariance over channels of the repetitions at each time, averaged over times",
    "epochs": "the covariance over channels of the times of each repetition, averaged over repetitions",
}
"""What one covariance is computed over."""


def shrunk_covariance(samples: np.ndarray, is_standardised: bool = True) -> np.ndarray:
    """Covariance over channels, shrunk by Ledoit and Wolf's share, of many small sets at once.

    Args:
        samples: (n_sets, n_samples, n_channels), any unit, one unit for all channels.
        is_standardised: shrink the correlations towards the identity and give the channels their variances back, as the
            published preprocessing does; otherwise shrink the covariance towards its mean variance.
    Returns:
        (n_sets, n_channels, n_channels) float64, squared units, with n_samples in the denominator.
    Source: Ledoit & Wolf 2004, J. Multivar. Anal. 88:365.
    """
    centred = samples.astype(np.float64)
    centred -= centred.mean(1, keepdims=True)
    scale = np.sqrt((centred**2).mean(1))
    scale = np.where((scale == 0) | (not is_standardised), 1.0, scale)
    centred /= scale[:, None]
    return _towards_identity(centred) * (scale[:, :, None] * scale[:, None, :])


def _towards_identity(centred: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf's mix. (n_sets, n_samples, n_channels) -> (n_sets, n_channels, n_channels)"""
    n_samples, width = centred.shape[1:]
    covariance = centred.transpose(0, 2, 1) @ centred / n_samples
    variance = np.trace(covariance, axis1=1, axis2=2) / width
    of_all = np.einsum("sij,sij->s", covariance, covariance)
    distance = of_all - width * variance**2  # squared norm of covariance - variance * identity
    noise = ((np.einsum("sni,sni->sn", centred, centred) ** 2).sum(1) / n_samples - of_all) / n_samples
    # A difference of near-equal numbers: below its rounding error the covariance is the target already.
    is_target = distance <= np.finfo(np.float64).eps * width * of_all
    share = np.where(is_target, 0.0, np.clip(noise, 0, np.where(is_target, 1.0, distance)))
    share = share / np.where(is_target, 1.0, distance)
    mixed = (1 - share)[:, None, None] * covariance
    places = np.arange(width)
    mixed[:, places, places] += (share * variance)[:, None]
    return mixed


def condition_covariance(trials: np.ndarray, dimension: str) -> np.ndarray:
    """Noise covariance over channels of one condition.

    Args:
        trials: (n_repetitions, n_channels, n_times) of the same stimulus, any unit.
        dimension: a name in DIMENSIONS. "time" needs two repetitions: one alone varies in nothing, and gives zeros.
    Returns:
        (n_channels, n_channels) float64, squared units.
    Source: Guggenmos et al. 2018, NeuroImage 173:434; Gifford et al. 2022, NeuroImage 264:119754.
    """
    sets = trials.transpose(2, 0, 1) if dimension == "time" else trials.transpose(0, 2, 1)
    return shrunk_covariance(sets).mean(0)


def inverse_root(covariance: np.ndarray, where: str) -> np.ndarray:
    """Symmetric inverse root: `whitener @ responses` has noise of unit variance, uncorrelated over channels.

    Args:
        covariance: (n_channels, n_channels) of the noise.
        where: subject and session, for the message.
    Returns:
        (n_channels, n_channels) float64, 1 / units.
    Raises:
        DataError: if the covariance is singular to rounding.
    """
    if not np.isfinite(covariance).all():
        raise DataError(
            f"{where}: the noise covariance is not finite. Epochs hold NaN or Inf: interpolate or drop channels."
        )
    eigenvalues, vectors = np.linalg.eigh(covariance)
    if eigenvalues[0] <= len(covariance) * np.finfo(np.float64).eps * eigenvalues[-1]:
        flat = int((np.diagonal(covariance) <= 0).sum())
        raise DataError(
            f"{where}: the noise covariance of {len(covariance)} channels is singular (eigenvalues "
            f"{eigenvalues[0]:.3g} to "
            f"{eigenvalues[-1]:.3g}; {flat} channels do not vary). Leave flat channels out, or set dataset.mvnn=none."
        )
    return (vectors / np.sqrt(eigenvalues)) @ vectors.T
