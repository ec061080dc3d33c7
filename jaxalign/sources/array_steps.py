"""Steps over the trials of a subject: time bins, windows, noise normalisation, z-scores, and averages of repetitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.noise import COVARIANCES, noise_covariance, residuals, whitening
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.times import binned, bins_of, inside
from jaxalign.sources.trials import Trials, taken

AT_ONCE = 64
"""Time bins whose covariances are computed in one call."""


@dataclass(frozen=True)
class TimeBins:
    """Average samples within half-open bins, from the first sample on.

    Attributes:
        width_s: a multiple of the sampling interval.
    """

    takes: ClassVar[tuple[str, ...]] = ("trials",)
    width_s: float = 0.0

    def __call__(self, trials: Trials, where: str) -> Trials:
        _check_samples(trials, where, "time_bins")
        bins = bins_of(trials.starts_s, trials.sfreq_hz, self.width_s)
        values = binned(trials.values, bins).astype(np.float32)
        return replace(trials, values=values, starts_s=bins.starts_s, stops_s=bins.stops_s)


@dataclass(frozen=True)
class SlidingWindows:
    """Averages over half-open windows that may overlap.

    Attributes:
        width_s, step_s: multiples of the sampling interval; the last window ends within the trial.
    """

    takes: ClassVar[tuple[str, ...]] = ("trials",)
    width_s: float = 0.25
    step_s: float = 0.05

    def __call__(self, trials: Trials, where: str) -> Trials:
        _check_samples(trials, where, "sliding_windows")
        width, step = (self._samples(name, trials.sfreq_hz) for name in ("width_s", "step_s"))
        n_samples = trials.values.shape[2]
        if width > n_samples:
            raise ConfigError(
                f"The step sliding_windows has width_s={self.width_s:g}, and a trial lasts {n_samples / trials.sfreq_hz:g} s."
            )
        firsts = np.arange(0, n_samples - width + 1, step)
        windows = np.lib.stride_tricks.sliding_window_view(trials.values, width, axis=2)[:, :, ::step]
        starts = trials.starts_s[firsts]
        return replace(
            trials,
            values=windows.mean(-1, dtype=np.float64).astype(np.float32),
            starts_s=starts,
            stops_s=np.round(starts + width / trials.sfreq_hz, 9),
        )

    def _samples(self, name: str, sfreq: float) -> int:
        samples = getattr(self, name) * sfreq
        if round(samples) < 1 or abs(samples - round(samples)) > 1e-3:
            raise ConfigError(
                f"The step sliding_windows has {name}={getattr(self, name):g}, which holds {samples:.3f} samples at {sfreq:g} Hz: use a multiple of {1 / sfreq:g} s."
            )
        return round(samples)


def _check_samples(trials: Trials, where: str, name: str) -> None:
    widths = trials.stops_s - trials.starts_s
    if not np.allclose(widths, 1 / trials.sfreq_hz, atol=1e-6):
        raise ConfigError(
            f"The step {name} averages samples, and those of {where} are averaged over {widths[0]:g} s already: keep one such step."
        )
    if trials.kept is not None:
        raise ConfigError(f"The step {name} comes after average with keep_trials: put it before.")


@dataclass(frozen=True)
class Mvnn:
    """Multivariate noise normalisation: trials times the symmetric inverse root of their noise covariance over channels.

    The noise is what is left of the trials when the mean of each stimulus is taken out. Its covariance is estimated at
    each time bin and averaged over time bins, from training trials only where there is a test set.

    Attributes:
        covariance: an estimator of compute.noise.
        tmin_s, tmax_s: bins that start within [tmin_s, tmax_s) give the covariance; null takes all.
        within: "recording", or "run" for a covariance of each run (column run).

    Source: Guggenmos, Sterzer & Cichy 2018, NeuroImage 173:434.
    """

    takes: ClassVar[tuple[str, ...]] = ("trials",)
    covariance: str = "shrinkage_eye"
    tmin_s: float | None = None
    tmax_s: float | None = None
    within: str = "recording"

    def __call__(self, trials: Trials, where: str) -> Trials:
        if self.covariance not in COVARIANCES:
            raise ConfigError(
                f"The step mvnn has covariance={self.covariance!r}. {nearest(self.covariance, COVARIANCES)}"
            )
        if trials.n_repetitions.max() > 1:
            raise ConfigError("The step mvnn needs single trials and comes after average: put it before.")
        start = trials.starts_s[0] if self.tmin_s is None else self.tmin_s
        stop = trials.stops_s[-1] + 1 if self.tmax_s is None else self.tmax_s
        bins = inside(trials.starts_s, trials.sfreq_hz, start, stop)
        if not bins.any():
            raise ConfigError(f"The step mvnn takes noise from [{start:g}, {stop:g}) s, where no time bin starts.")
        values = np.empty_like(trials.values)
        for rows in _groups(trials, self.within, "mvnn"):
            of_noise = rows[~trials.is_test[rows]] if trials.is_test.any() else rows
            root = self._root(taken(trials, of_noise), bins, where)
            values[rows] = np.einsum("tcb,cd->tdb", trials.values[rows], root)
        return replace(trials, values=values, unit="noise SD")

    def _root(self, trials: Trials, bins: np.ndarray, where: str) -> np.ndarray:
        """(n_channels, n_channels)"""
        names, condition = np.unique(trials.ids.astype(str), return_inverse=True)
        dof = len(condition) - len(names)
        if dof < 1:
            raise DataError(
                f"{where}: {len(names)} stimuli have {len(condition)} trials, so no stimulus is repeated and the noise of mvnn cannot be told from the signal. Leave mvnn out, or use data with repetitions."
            )
        noise = trials.values[:, :, bins].astype(np.float64)
        total = np.zeros((noise.shape[1],) * 2)
        # In float64 on the host: responses in volts have variances of 1e-10, and channels are alike.
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            covariances = _covariances(self.covariance, len(names), dof)
            for first in range(0, noise.shape[2], AT_ONCE):
                part = covariances(jnp.asarray(noise[:, :, first : first + AT_ONCE]), jnp.asarray(condition))
                total += np.asarray(part).sum(0)
            root = np.asarray(_whitening(jnp.asarray(total / noise.shape[2])))
        if not np.isfinite(root).all():
            raise DataError(
                f"{where}: the noise covariance of {noise.shape[1]} channels from {len(condition)} trials is singular. Interpolated channels and an average reference take rank away: use covariance: shrinkage_eye or diag, or drop channels."
            )
        return root


@cache
def _covariances(method: str, n_conditions: int, dof: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(n_trials, n_channels, n_time_bins), (n_trials,) -> (n_time_bins, n_channels, n_channels)"""

    def covariance(trials: jax.Array, condition: jax.Array) -> jax.Array:
        return noise_covariance(residuals(trials, condition, n_conditions), method, dof)

    return jax.jit(jax.vmap(covariance, in_axes=(2, None)))


_whitening = jax.jit(whitening)


@dataclass(frozen=True)
class ZScore:
    """Responses in standard deviations of a channel; mean and SD are those of training trials where there is a test set.

    Attributes:
        over: "trials" (each channel and time bin by its own mean and SD over trials) or "trials_and_times".
        within: "recording", or "run" (column run) to take out differences between runs.
        as_published: take mean and SD from all trials, the test set among them, as most publications do.
    """

    takes: ClassVar[tuple[str, ...]] = ("trials",)
    over: str = "trials"
    within: str = "recording"
    as_published: bool = False

    def __call__(self, trials: Trials, where: str) -> Trials:
        if self.over not in ("trials", "trials_and_times"):
            raise ConfigError(
                f"The step zscore has over={self.over!r}. {nearest(self.over, ('trials', 'trials_and_times'))}"
            )
        if trials.kept is not None:
            raise ConfigError("The step zscore comes after average with keep_trials: put it before.")
        axes = (0,) if self.over == "trials" else (0, 2)
        values = np.empty_like(trials.values)
        for rows in _groups(trials, self.within, "zscore"):
            fitted = rows if self.as_published else rows[~trials.is_test[rows]]
            if len(fitted) < 2:
                raise DataError(
                    f"{where}: {len(fitted)} of {len(rows)} trials are outside the test set, too few for the mean and SD of zscore. Use within: recording, or as_published: true to take them from all trials."
                )
            part = trials.values[fitted]
            mean = part.mean(axes, dtype=np.float64, keepdims=True)
            spread = (part - mean).std(axes, dtype=np.float64, keepdims=True)
            flat = np.flatnonzero((spread <= 0).any((0, 2)))
            if len(flat):
                raise DataError(
                    f"{where}: {len(flat)} of {len(trials.channels)} channels do not vary over the {len(fitted)} trials of zscore, first {trials.channels[flat[0]]}. Interpolate or drop them."
                )
            values[rows] = (trials.values[rows] - mean) / spread
        said = "z-scored by all trials, the test set among them" if self.as_published else "z-scored by training trials"
        notes = (*trials.notes, said) if trials.is_test.any() else trials.notes
        return replace(trials, values=values, unit="SD", notes=notes)


def _groups(trials: Trials, within: str, name: str) -> Iterator[np.ndarray]:
    """Rows of each run, or all rows."""
    if within not in ("recording", "run"):
        raise ConfigError(f"The step {name} has within={within!r}. {nearest(within, ('recording', 'run'))}")
    if within == "recording":
        yield np.arange(len(trials.ids))
        return
    if "run" not in trials.columns:
        raise ConfigError(
            f"The step {name} has within: run, and the trials have no column run. {nearest('run', trials.columns)}"
        )
    runs = trials.columns["run"].astype(str)
    for run in np.unique(runs):
        yield np.flatnonzero(runs == run)


@dataclass(frozen=True)
class Average:
    """Average the trials of each stimulus.

    Attributes:
        min_repetitions: trials that each stimulus must have.
        short: stimuli with fewer: "error" refuses them, "drop" leaves them out and says so.
        max_repetitions: first trials that are taken, for equal numbers; null takes all.
        keep_trials: keep the single trials of the test stimuli (of all, without a test set) for noise ceilings, as many
            as the stimulus with the fewest has.
    """

    takes: ClassVar[tuple[str, ...]] = ("trials",)
    min_repetitions: int = 1
    short: str = "error"
    max_repetitions: int | None = None
    keep_trials: bool = False

    def __call__(self, trials: Trials, where: str) -> Trials:
        self._check(trials)
        counts = Counter(trials.ids.tolist())
        short = {name: count for name, count in sorted(counts.items()) if count < self.min_repetitions}
        if short and (self.short == "error" or len(short) == len(counts)):
            name, count = next(iter(short.items()))
            raise DataError(
                f"{where}: {len(short)} of {len(counts)} stimuli have fewer than {self.min_repetitions} trials, first {name!r} with {count}. Lower average.min_repetitions, set average.short: drop, or leave these stimuli out."
            )
        rows_of: dict[str, list[int]] = {}
        for row, name in enumerate(trials.ids.tolist()):
            if name not in short and len(rows_of.setdefault(name, [])) < (self.max_repetitions or len(trials.ids)):
                rows_of[name].append(row)
        first = np.array([rows[0] for rows in rows_of.values()])
        means = np.stack([trials.values[rows].mean(0, dtype=np.float64) for rows in rows_of.values()])
        used = np.zeros(len(trials.ids), bool)
        used[[row for rows in rows_of.values() for row in rows]] = True
        gone = [(name, f"of stimuli with fewer than {self.min_repetitions} trials" if name in short else "beyond max_repetitions")
                for name in trials.ids[~used].tolist()]  # fmt: skip
        kept, notes = self._kept(trials, rows_of)
        weights = [int(trials.n_repetitions[rows].sum()) for rows in rows_of.values()]
        return replace(
            taken(trials, first),
            values=means.astype(np.float32),
            n_repetitions=np.array(weights, np.int32),
            columns={
                name: values[first] for name, values in trials.columns.items() if _is_of_stimulus(values, rows_of)
            },
            dropped=(*trials.dropped, *gone),
            kept=kept,
            notes=(*trials.notes, *notes),
        )

    def _check(self, trials: Trials) -> None:
        if self.short not in ("error", "drop"):
            raise ConfigError(f"The step average has short={self.short!r}. {nearest(self.short, ('error', 'drop'))}")
        if self.max_repetitions is not None and self.max_repetitions < max(self.min_repetitions, 1):
            raise ConfigError(
                f"The step average has max_repetitions={self.max_repetitions} below min_repetitions={self.min_repetitions}."
            )
        if trials.kept is not None or (trials.n_repetitions > 1).any():
            raise ConfigError("The step average is there twice, or the data are averages already: leave it out.")

    def _kept(self, trials: Trials, rows_of: dict[str, list[int]]) -> tuple[np.ndarray | None, list[str]]:
        """(n_kept_stimuli, n_repetitions, n_channels, n_time_bins) in the order of the rows, and a note."""
        if not self.keep_trials:
            return None, []
        asked = [rows for rows in rows_of.values() if trials.is_test[rows[0]] or not trials.is_test.any()]
        least, most = min(map(len, asked)), max(map(len, asked))
        note = (
            [f"single trials are kept up to repetition {least}; some stimuli have up to {most}"] if most > least else []
        )
        return np.stack([trials.values[rows[:least]] for rows in asked]), note


def _is_of_stimulus(values: np.ndarray, rows_of: dict[str, list[int]]) -> bool:
    """Whether a column is the same for all trials of a stimulus, and so describes it."""
    return all(len({str(values[row]) for row in rows}) == 1 for rows in rows_of.values())
