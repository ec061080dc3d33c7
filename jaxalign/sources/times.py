"""Time bins: half-open windows in seconds, averaged over the samples inside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxalign.errors import ConfigError


class Bins(NamedTuple):
    """Half-open windows [start, stop) in seconds and which samples each one averages.

    Attributes:
        starts_s, stops_s: (n_time_bins,).
        member: (n_samples,) index of the bin of each sample, -1 for samples after the last whole bin.
    """

    starts_s: np.ndarray
    stops_s: np.ndarray
    member: np.ndarray


# Sample times are multiples of 1/sfreq with rounding errors; a thousandth of a sample is above them.
SLACK = 1e-3


def bins_of(times: np.ndarray, sfreq: float, width_s: float | None) -> Bins:
    """Bins of a given width from the first sample on; each sample is its own bin without one.

    Raises:
        ConfigError: if a bin would hold no whole number of samples, or more than there are.
    """
    step = 1 / sfreq
    per_bin = 1 if width_s is None else round(width_s * sfreq)
    if width_s is not None and (per_bin < 1 or abs(per_bin - width_s * sfreq) > SLACK):
        raise ConfigError(
            f"time_bin_s={width_s} holds {width_s * sfreq:.3f} samples at {sfreq:g} Hz: use a multiple of {step:g} s."
        )
    n_bins = len(times) // per_bin
    if n_bins < 1:
        raise ConfigError(
            f"time_bin_s={width_s} is longer than the epoch of {len(times)} samples, {len(times) * step:g} s."
        )
    member = np.where(np.arange(len(times)) < n_bins * per_bin, np.arange(len(times)) // per_bin, -1)
    starts = times[: n_bins * per_bin : per_bin]
    return Bins(np.round(starts, 9), np.round(starts + per_bin * step, 9), member)


def binned(values: np.ndarray, bins: Bins) -> np.ndarray:
    """Average samples within bins. (..., n_samples) -> (..., n_time_bins)"""
    kept = values[..., bins.member >= 0]
    return kept.reshape(*values.shape[:-1], len(bins.starts_s), -1).mean(-1)


def inside(starts_s: np.ndarray, sfreq: float, start_s: float, stop_s: float) -> np.ndarray:
    """Which bins start inside the half-open window [start_s, stop_s). -> (n_time_bins,) bool"""
    slack = SLACK / sfreq
    return (starts_s >= start_s - slack) & (starts_s < stop_s - slack)
