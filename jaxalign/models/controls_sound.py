"""Low-level features of sounds: broadband envelope and log-mel spectrogram, over the whole sound or by time bins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jaxalign.contracts import Sound

WINDOW_S, STEP_S = 0.025, 0.010
"""Length and distance of the windows of the spectrogram, in seconds: those of Whisper and most speech recognition."""

FLOOR, DECADES = 1e-10, 8.0
"""Least power, and how many powers of ten below the loudest cell of a sound the log-mel spectrogram ends: 80 dB."""

FRAMES_AT_ONCE = 4096


@dataclass(frozen=True)
class Frames:
    """Features of one sound by time bins.

    Attributes:
        values: (n_bins, width) float32, zero where padded.
        is_real: (n_bins,) bool, false where padded.
    """

    values: np.ndarray
    is_real: np.ndarray


@dataclass(frozen=True)
class Course:
    """Features of one sound at the times that they are computed for.

    Attributes:
        values: (n_times, width) float64.
        times_s: (n_times,) seconds from the start of the sound.
    """

    values: np.ndarray
    times_s: np.ndarray


def envelope(sound: Sound) -> Course:
    """Broadband amplitude at every sample: absolute value of the analytic signal, the mean of the samples taken off first.

    The sound is taken as periodic, as in scipy.signal.hilbert.

    Returns:
        values (n_samples, 1), in the unit of the samples.
    Source:
        Gabor 1946, J. IEE 93:429.
    """
    values = np.asarray(sound.values, np.float64)
    n = len(values)
    spectrum = np.fft.fft(values - values.mean())
    weights = np.zeros(n)
    weights[0] = 1.0
    weights[1 : (n + 1) // 2] = 2.0
    if n % 2 == 0:
        weights[n // 2] = 1.0
    amplitude = np.abs(np.fft.ifft(spectrum * weights))
    return Course(amplitude[:, None], (np.arange(n) + 0.5) / sound.rate_hz)


def envelope_statistics(sound: Sound) -> np.ndarray:
    """Mean, standard deviation, maximum and mean rise of the envelope, averaged in bins of 10 ms.

    The rise is the mean of the positive differences of neighbouring bins, per second: how sharply sounds begin.

    Returns:
        (4,) float64, in the unit of the samples; the rise per second.
    """
    binned = in_bins(envelope(sound), STEP_S, n_bins_of(len(sound.values) / sound.rate_hz, STEP_S))[:, 0]
    steps = np.maximum(np.diff(binned), 0.0)
    rise = steps.mean() / STEP_S if len(steps) else 0.0
    return np.array([binned.mean(), binned.std(), binned.max(), rise])


def log_mel(sound: Sound, n_mels: int) -> Course:
    """Log-mel spectrogram: windows of 25 ms (Hann) every 10 ms, power through triangles on the mel scale, log10.

    Cells below 1e-10, and below 1e-8 of the loudest cell of the sound, are set to that, as in Whisper, whose input is
    this plus 4, divided by 4. Window i is centred on i * 10 ms; the sound is mirrored at its ends.

    Args:
        sound: at the rate that decides the highest frequency, half of it.
        n_mels: triangles.
    Returns:
        values (n_times, n_mels), log10 of power; n_times is n_samples / (0.01 * rate_hz) rounded down, 1 at least.
    Source:
        Radford et al. 2022, arXiv:2212.04356; mel scale and areas of the triangles: Slaney 1998, Auditory Toolbox 2.
    """
    window, step = samples_of(sound.rate_hz)
    values = np.asarray(sound.values, np.float64)
    n_times = max(1, len(values) // step)
    padded = np.pad(values, window // 2, mode="reflect" if len(values) > 1 else "edge")
    padded = np.pad(padded, (0, max(0, (n_times - 1) * step + window - len(padded))))
    views = np.lib.stride_tricks.sliding_window_view(padded, window)[::step][:n_times]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    filters = mel_filters(n_mels, window, sound.rate_hz)
    power = np.empty((n_times, n_mels))
    for start in range(0, n_times, FRAMES_AT_ONCE):
        part = slice(start, start + FRAMES_AT_ONCE)
        power[part] = np.abs(np.fft.rfft(views[part] * hann, axis=1)) ** 2 @ filters
    logs = np.log10(np.maximum(power, FLOOR))
    return Course(np.maximum(logs, logs.max() - DECADES), np.arange(n_times) * step / sound.rate_hz)


def samples_of(rate_hz: int) -> tuple[int, int]:
    """Samples of a window and of a step of the spectrogram."""
    return round(WINDOW_S * rate_hz), round(STEP_S * rate_hz)


def mel_filters(n_mels: int, window: int, rate_hz: int) -> np.ndarray:
    """Triangles, equally spaced on the mel scale from 0 Hz to half the rate, each of area 1 in hertz (but for a factor).

    Args:
        n_mels: triangles.
        window: samples of the Fourier transform.
        rate_hz: samples per second.
    Returns:
        (window // 2 + 1, n_mels) weights of the frequencies in each triangle.
    Source:
        Slaney 1998, Auditory Toolbox 2: linear to 1000 Hz, logarithmic above.
    """
    frequencies = np.arange(window // 2 + 1) * rate_hz / window
    edges = _hertz(np.linspace(0.0, _mel(rate_hz / 2), n_mels + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low)


def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


# Time bins


def n_bins_of(duration_s: float, bin_s: float) -> int:
    """How many bins cover a sound; the last may be shorter."""
    return max(1, math.ceil(duration_s / bin_s - 1e-6))


def in_bins(course: Course, bin_s: float, n_bins: int) -> np.ndarray:
    """Means over bins [i * bin_s, (i + 1) * bin_s); a bin without a value takes the nearest in time.

    Args:
        course: features and their times, in order.
        bin_s: width of a bin in seconds.
        n_bins: bins of the sound; later values go into the last.
    Returns:
        (n_bins, width)
    """
    bin_of = np.minimum(np.floor(course.times_s / bin_s + 1e-6).astype(int), n_bins - 1)
    sums = np.zeros((n_bins, course.values.shape[1]))
    np.add.at(sums, bin_of, course.values)
    counts = np.bincount(bin_of, minlength=n_bins)
    means = sums / np.maximum(counts, 1)[:, None]
    for empty in np.flatnonzero(counts == 0):
        means[empty] = course.values[np.abs(course.times_s - (empty + 0.5) * bin_s).argmin()]
    return means


def framed(course: Course, duration_s: float, bin_s: float, n_bins: int | None = None) -> Frames:
    """Features of a sound by time bins, with zeros behind its own where more bins are asked for.

    Args:
        course: features and their times.
        duration_s: of the sound.
        bin_s: width of a bin in seconds.
        n_bins: of the result, no fewer than the sound has; its own by default.
    """
    own = n_bins_of(duration_s, bin_s)
    values = np.zeros((own if n_bins is None else n_bins, course.values.shape[1]), np.float32)
    values[:own] = in_bins(course, bin_s, own)
    return Frames(values, np.arange(len(values)) < own)
