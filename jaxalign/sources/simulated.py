"""Simulated EEG: known layers of known models, planted at known times and channels in 1/f noise. Always marked so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, nearest
from jaxalign.sources.checks import check_recording
from jaxalign.sources.montage import template_positions
from jaxalign.sources.times import Bins, binned, bins_of

CHANNELS = (
    "Fp1", "F3", "F7", "FT9", "FC5", "FC1", "C3", "T7", "TP9", "CP5", "CP1", "Pz", "P3", "P7", "O1", "Oz", "O2",
    "P4", "P8", "TP10", "CP6", "CP2", "Cz", "C4", "T8", "FT10", "FC6", "FC2", "F4", "F8", "Fp2", "AF7", "AF3",
    "AFz", "F1", "F5", "FT7", "FC3", "C1", "C5", "TP7", "CP3", "P1", "P5", "PO7", "PO3", "POz", "PO4", "PO8", "P6",
    "P2", "CPz", "CP4", "TP8", "C6", "C2", "FC4", "FT8", "F6", "AF8", "AF4", "F2", "FCz",
)  # fmt: skip
"""63 channels of a 10-10 cap with reference at Fz, the layout of THINGS-EEG2."""

NOISE_V = 5e-6
"""Standard deviation of the noise of one trial, volts: the order of ongoing EEG."""

ROWS_AT_ONCE = 2048
"""Trials that are simulated at a time: some hundred MiB at 63 channels and 100 samples."""

_LENGTH_SCALE_M = 0.06
"""Distance over which the noise of two channels stays alike: volume conduction smears over centimetres."""


@dataclass(frozen=True)
class Plant:
    """A layer that the simulated brain represents.

    Attributes:
        model, layer, pooling: the fit that is planted, by its names in the table.
        start_s, stop_s: half-open window after onset, seconds.
        channels: where it is strongest; it falls off with distance on the scalp.
        n_latents: principal components of the layer that reach the scalp, each with a topography of its own.
    """

    model: str = ""
    layer: str = ""
    pooling: str = "image_mean"
    start_s: float = 0.1
    stop_s: float = 0.2
    channels: tuple[str, ...] = ()
    n_latents: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))


@dataclass(frozen=True)
class SimulatedEeg:
    """Subjects who look at pictures: a training set and a test set, repetitions, 1/f noise on a standard montage.

    Attributes:
        name: data set name in the table.
        n_subjects: subjects; topographies differ a little between them.
        n_test: test stimuli, the last ones; the others are the training set.
        n_repetitions_train, n_repetitions_test: trials averaged per stimulus.
        sfreq_hz, tmin_s, tmax_s: sampling rate and epoch, stop excluded.
        time_bin_s: width of time bins in seconds, averaged; null keeps the samples.
        effect: standard deviation of the planted signal at its best channel, in units of one trial's noise; 0 plants
            nothing.
        plants: which layers, when and where.
        seed: decides everything random.
        channels: the channels that are recorded, of the 63; empty for all.
    """

    name: str = "simulated-eeg"
    n_subjects: int = 4
    n_test: int = 100
    n_repetitions_train: int = 4
    n_repetitions_test: int = 20
    sfreq_hz: float = 100.0
    tmin_s: float = -0.2
    tmax_s: float = 0.8
    time_bin_s: float | None = None
    effect: float = 0.3
    plants: list[Plant] = field(default_factory=list)
    seed: int = 0
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        unknown = [name for name in self.channels if name not in CHANNELS]
        if unknown or len(set(self.channels)) < len(self.channels):
            what = (
                f"{unknown[0]!r} is not in the montage. {nearest(unknown[0], CHANNELS)}"
                if unknown
                else "one is named twice."
            )
            raise ConfigError(f"dataset.channels={list(self.channels)}: {what}")
        if self.effect < 0:
            raise ConfigError(f"dataset.effect={self.effect}: an effect size is 0 or larger.")
        if self.n_subjects < 1 or self.n_repetitions_train < 1 or self.n_repetitions_test < 1:
            raise ConfigError(
                f"n_subjects={self.n_subjects}, n_repetitions_train={self.n_repetitions_train}, n_repetitions_test={self.n_repetitions_test}: each is at least 1."
            )
        for plant in self.plants:
            wrong = [name for name in plant.channels if name not in CHANNELS]
            if wrong or not plant.channels:
                raise ConfigError(
                    f"A plant names channels {list(plant.channels)}: {wrong[0] if wrong else 'none'} is not in the montage. {nearest(wrong[0] if wrong else '', CHANNELS)}"
                )

    @property
    def recorded(self) -> tuple[str, ...]:
        """Channels of the recording."""
        return self.channels or CHANNELS

    def recordings(
        self, stimulus_ids: tuple[str, ...], features: Mapping[tuple[str, str, str], np.ndarray]
    ) -> list[Recording]:
        """Simulate all subjects.

        Args:
            stimulus_ids: names of all stimuli, training first.
            features: (model, layer, pooling) -> (n_stimuli, width), for at least the planted layers.
        Returns:
            One Recording per subject, in volts, trials of the test stimuli kept.
        Raises:
            ConfigError: if a planted layer is not among the features, or the test set leaves no training stimuli.
        """
        n_train = len(stimulus_ids) - self.n_test
        if n_train < 4 or self.n_test < 4:
            raise ConfigError(
                f"{len(stimulus_ids)} stimuli with n_test={self.n_test} leave {n_train} for training: both need at least 4."
            )
        latents = [self._latents(plant, features, n_train) for plant in self.plants] if self.effect else []
        return [self._subject(index, stimulus_ids, n_train, latents) for index in range(self.n_subjects)]

    def layout(self, stimulus_ids: tuple[str, ...]) -> list[Recording]:
        """Labels and sizes of all subjects without their values, which are a single 0: for planning."""
        _, bins = self._times()
        n_test, shape = self.n_test, (len(self.recorded), len(bins.starts_s))
        values = np.broadcast_to(np.float32(0), (len(stimulus_ids), *shape))
        trials = np.broadcast_to(np.float32(0), (n_test, self.n_repetitions_test, *shape))
        return [self._recording(index, stimulus_ids, values, trials, bins) for index in range(self.n_subjects)]

    def _times(self) -> tuple[np.ndarray, Bins]:
        times = self.tmin_s + np.arange(round((self.tmax_s - self.tmin_s) * self.sfreq_hz)) / self.sfreq_hz
        return times, bins_of(times, self.sfreq_hz, self.time_bin_s)

    def _latents(self, plant: Plant, features: Mapping[tuple[str, str, str], np.ndarray], n_train: int) -> np.ndarray:
        """Leading principal components of the planted layer with their own variances, 1 on average: its geometry.

        -> (n_stimuli, n_latents)
        """
        key = (plant.model, plant.layer, plant.pooling)
        if key not in features:
            known = ["/".join(other) for other in features]
            raise ConfigError(
                f"The planted layer {'/'.join(key)} is not among the {len(known)} fits of this run. {nearest('/'.join(key), known)}"
            )
        values = np.asarray(features[key], np.float64)
        centred = values - values[:n_train].mean(0)
        _, _, right = np.linalg.svd(centred[:n_train], full_matrices=False)
        scores = centred @ right[: plant.n_latents].T
        return scores / np.sqrt((scores[:n_train] ** 2).mean())

    def _subject(self, index: int, stimulus_ids: tuple[str, ...], n_train: int, latents: list[np.ndarray]) -> Recording:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, index])))
        times, bins = self._times()
        positions = template_positions(self.recorded)
        waves = [
            (scores, _topographies(plant, positions, rng), _envelope(plant, times))
            for plant, scores in zip(self.plants, latents, strict=bool(self.effect))
        ]
        smear = _smear(positions)
        values = np.empty((len(stimulus_ids), len(self.recorded), len(bins.starts_s)), np.float32)
        trials = np.empty((self.n_test, self.n_repetitions_test, *values.shape[1:]), np.float32)
        for rows in _blocks(n_train, 1):
            noise = _noise(rng, (rows.stop - rows.start,), len(times), smear) / np.sqrt(self.n_repetitions_train)
            values[rows] = binned(self._signal(waves, rows, noise.shape) + noise, bins)
        for rows in _blocks(self.n_test, self.n_repetitions_test):
            noise = _noise(rng, (rows.stop - rows.start, self.n_repetitions_test), len(times), smear)
            shown = slice(n_train + rows.start, n_train + rows.stop)
            signal = self._signal(waves, shown, (len(noise), *noise.shape[2:]))
            trials[rows] = binned(signal[:, None] + noise, bins)
        values[n_train:] = trials.mean(1, dtype=np.float64)
        return check_recording(self._recording(index, stimulus_ids, values, trials, bins))

    def _signal(self, waves: list[Any], rows: slice, shape: tuple[int, ...]) -> np.ndarray:
        """What the planted layers add, in volts. -> (n, n_channels, n_samples)"""
        signal = np.zeros(shape)
        for scores, mixing, envelope in waves:
            signal += np.einsum("sl,lc,t->sct", scores[rows], mixing, envelope)
        return signal * (self.effect * NOISE_V)

    def _recording(
        self, index: int, stimulus_ids: tuple[str, ...], values: np.ndarray, trials: np.ndarray, bins: Bins
    ) -> Recording:
        n_train = len(stimulus_ids) - self.n_test
        counts = np.repeat([self.n_repetitions_train, self.n_repetitions_test], [n_train, self.n_test])
        return Recording(
            dataset=self.name,
            subject=f"{index + 1:02d}",
            stimulus_ids=stimulus_ids,
            values=values,
            channels=self.recorded,
            starts_s=bins.starts_s,
            stops_s=bins.stops_s,
            unit="V",
            n_repetitions=counts.astype(np.int32),
            is_test=np.arange(len(stimulus_ids)) >= n_train,
            positions=template_positions(self.recorded),
            is_simulated=True,
            trials=trials,
            origin={"simulated": True, "seed": self.seed, "effect": self.effect},
        )


def _topographies(plant: Plant, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One topography per latent: strongest near the plant's channels, 1 in total variance at the best channel.

    -> (n_latents, n_channels)
    """
    centres = template_positions(plant.channels)
    distance = np.linalg.norm(positions[:, None] - centres[None], axis=2).min(1)
    gain = np.exp(-0.5 * (distance / 0.03) ** 2)
    mixing = rng.standard_normal((plant.n_latents, len(positions))) @ _smear(positions)
    mixing /= np.sqrt((mixing**2).sum(0))
    return mixing * gain


def _envelope(plant: Plant, times: np.ndarray) -> np.ndarray:
    """1 inside the window with raised-cosine edges of a fifth of its width, 0 outside. -> (n_times,)"""
    ramp = 0.2 * (plant.stop_s - plant.start_s)
    inside = np.minimum(times - plant.start_s, plant.stop_s - times)
    return np.where(inside > 0, 0.5 - 0.5 * np.cos(np.pi * np.clip(inside / ramp, 0, 1)), 0)


def _blocks(n_stimuli: int, n_trials: int) -> Iterator[slice]:
    """Stimuli whose trials are made at once, so that memory does not grow with their number."""
    at_once = max(1, ROWS_AT_ONCE // n_trials)
    return (slice(start, min(start + at_once, n_stimuli)) for start in range(0, n_stimuli, at_once))


def _smear(positions: np.ndarray) -> np.ndarray:
    """Mixing that makes neighbouring channels alike and keeps variance 1. -> (n_channels, n_channels)"""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    weights = np.exp(-0.5 * (distance / _LENGTH_SCALE_M) ** 2) + 0.2 * np.eye(len(positions))
    return weights / np.sqrt((weights**2).sum(0))


def _noise(rng: np.random.Generator, shape: tuple[int, ...], n_times: int, smear: np.ndarray) -> np.ndarray:
    """Noise with power falling as 1/f, smeared over the scalp, in volts. -> (*shape, n_channels, n_times)

    Twice the length is made and half is kept, so that the ends of an epoch are not tied together.
    """
    power = np.zeros(n_times + 1)
    power[1:] = 1 / np.arange(1, n_times + 1)
    size = (*shape, len(smear), n_times + 1)
    spectrum = (rng.standard_normal(size, np.float32) + 1j * rng.standard_normal(size, np.float32)) * np.sqrt(power)
    waves = np.fft.irfft(spectrum, 2 * n_times, axis=-1)[..., :n_times]
    expected_sd = np.sqrt(2 * power[:-1].sum() * 2 + power[-1]) / (2 * n_times)
    return np.einsum("...ct,cd->...dt", waves / expected_sd, smear, optimize=True) * NOISE_V
