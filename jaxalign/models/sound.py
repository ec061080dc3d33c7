"""Sounds at another sampling rate."""

from __future__ import annotations

from math import gcd

import numpy as np

from jaxalign.contracts import Sound
from jaxalign.errors import ConfigError, DataError


def resampled(sound: Sound, rate_hz: int) -> Sound:
    """The sound at another rate: polyphase, exactly by the ratio of the two rates, without aliasing.

    The low-pass filter has linear phase and no delay (a Kaiser window, beta 5, over 10 zero crossings to each side); it
    is 6 dB down at the lower of the two Nyquist frequencies. Samples before and behind the sound are taken as 0.

    Args:
        sound: any rate and length.
        rate_hz: wanted samples per second.
    Returns:
        ceil(n_samples * rate_hz / sound.rate_hz) samples, float32; the sound itself where the rates are equal.
    Raises:
        ConfigError: if rate_hz is below 1.
        DataError: if the sound's own rate is below 1, or its samples are not one axis.
    Source:
        scipy.signal.resample_poly.
    """
    if rate_hz < 1:
        raise ConfigError(f"A sound is asked for at {rate_hz} Hz: give 1 or more samples per second.")
    if sound.rate_hz < 1 or np.ndim(sound.values) != 1:
        raise DataError(
            f"A sound has {sound.rate_hz} samples per second and samples of shape {np.shape(sound.values)}: "
            "1 Hz or more and one axis are needed."
        )
    if sound.rate_hz == rate_hz or not len(sound.values):
        return Sound(sound.values, int(rate_hz))
    from scipy.signal import resample_poly

    common = gcd(int(sound.rate_hz), int(rate_hz))
    values = resample_poly(np.asarray(sound.values, np.float64), rate_hz // common, sound.rate_hz // common)
    return Sound(values.astype(np.float32), int(rate_hz))
