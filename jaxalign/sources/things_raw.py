"""THINGS-EEG2, raw: epochs, baseline, resampling and noise normalisation, session by session (Gifford 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources import mvnn
from jaxalign.sources.checks import check_recording
from jaxalign.sources.restricted import read_npy
from jaxalign.sources.things_eeg2 import PARTITIONS, digest_of
from jaxalign.sources.things_files import (
    PARTS,
    Axes,
    Images,
    Rows,
    axes_of,
    channels_setting,
    checked_choice,
    checked_names,
    held_dict,
    read_images,
    rows_of_conditions,
    session_of,
    subject_folders,
)
from jaxalign.sources.times import binned

EPOCH_S = (-0.2, 0.8)
"""The published epoch; its baseline is what is before onset."""

TARGET = 99999
"""Event of the target pictures (Buzz Lightyear), which are no stimuli."""

MAX_REPETITIONS = {"training": 2, "test": 20}
"""Repetitions of an image that the published preprocessing keeps per session."""

SEED = 20200220
"""Of the published choice among more repetitions than it keeps."""

FITS = {
    "train": "the training trials of the session",
    "as_published": "the mean of the covariances of its training and test trials",
}
"""What the noise covariance of a session is of."""

BLOCK_BYTES = 16 << 20
"""Bytes of epochs at the recorded rate in memory at a time; as they lie scattered, several times as much is mapped."""

LARGEST_V = 1e-3
"""EEG of a standard deviation above this is not in volts."""


@dataclass(frozen=True)
class ThingsEeg2Raw:
    """Responses of 10 people to 16,740 images, from the raw recordings, with the published preprocessing.

    One folder per subject and session, sub-01/ses-01/raw_eeg_training.npy and _test.npy: a dict with raw_eeg_data
    (n_channels, n_samples) in volts, ch_names, ch_types, sfreq, and a stim channel that holds the condition number of
    each image (from 1; 99999 is a target). Per session: target trials are left out, epochs from -0.2 to 0.8 s, baseline
    before onset, resampled, at most 2 (training) and 20 (test) repetitions of an image, noise normalised; no filter and
    no other reference. Sessions are kept apart until then; the trials of the test stimuli stay in the order of the
    sessions, which the origin names. Epochs are computed block by block, and the files are never unpickled. Beyond what
    comes out, the sums of one training part are in memory, and never together with the trials of test stimuli: the
    training parts of all sessions are read first.

    Attributes:
        name: data set name in the table.
        path: folder that holds sub-01, sub-02 ..., the project's folder above it, or the one given to `jaxalign fetch`.
        images: image_metadata.npy, or its folder; empty looks near the data. Stimulus ids are the image files' names
            without suffix; without the file they are condition numbers.
        subjects: "01", "02" ...; all when empty.
        sessions: numbers of sessions; all when empty. Two sessions hold every training image once or twice.
        channels: 17 (occipital and parietal), 63, or a list of names.
        sfreq_hz: rate of the epochs after resampling: 100 as published, 250, or that of the files (1000).
        tmin_s, tmax_s: part of the epoch to keep, seconds, both ends within; null keeps all.
        time_bin_s: width of time bins in seconds, averaged; null keeps the samples.
        mvnn: "time" (as published) or "epochs": what a covariance is over; "none" leaves volts. Over time, 2
            repetitions about their mean show half the noise variance, so whitened noise is larger than 1: units are
            arbitrary.
        mvnn_fit: "train", the noise of training trials only; "as_published", the mean of training and test, which lets
            test trials into the training responses.
        keep_trials: keep the trials of the test stimuli, from which noise ceilings are computed.
        partition: "none", or "sessions" to insist that trials can be cross-validated over sessions: an equal number of
            trials in each, and at least two sessions.
    Source:
        Gifford, Dwivedi, Roig & Cichy 2022, NeuroImage 264:119754; Guggenmos et al. 2018, NeuroImage 173:434.
    """

    name: str = "things-eeg2-raw"
    path: str = ""
    images: str = ""
    subjects: tuple[str, ...] = ()
    sessions: tuple[int, ...] = ()
    channels: Any = "17"
    sfreq_hz: float = 100.0
    tmin_s: float | None = None
    tmax_s: float | None = None
    time_bin_s: float | None = None
    mvnn: str = "time"
    mvnn_fit: str = "train"
    keep_trials: bool = True
    partition: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", tuple(self.subjects))
        object.__setattr__(self, "sessions", tuple(self.sessions))
        object.__setattr__(self, "channels", channels_setting(self.channels))

    def recordings(self) -> list[Recording]:
        """Read and preprocess all subjects. -> one Recording each, training stimuli first, by condition number.

        values: (n_stimuli, n_channels, n_time_bins) float32, averaged over repetitions; arbitrary units after noise
        normalisation, volts without. trials: (n_test, n_repetitions, n_channels, n_time_bins) float32.

        Raises:
            ConfigError: for settings that are none.
            DataError: if files are missing, damaged, swapped or hold code, or their values cannot be used.
        """
        checked_choice(self.mvnn, ("none", *mvnn.DIMENSIONS), "dataset.mvnn")
        checked_choice(self.mvnn_fit, tuple(FITS), "dataset.mvnn_fit")
        checked_choice(self.partition, PARTITIONS, "dataset.partition")
        if not self.sfreq_hz > 0:
            raise ConfigError(f"dataset.sfreq_hz={self.sfreq_hz} is no rate: 100 as published, or 250.")
        inner = ("things_eeg2_raw", "raw_data", "things_eeg2_raw/raw_data", "eeg_dataset/raw_data", "Raw_data")
        folders = subject_folders(self.path, self.subjects, inner, "ses-*/raw_eeg_*.npy")
        images = read_images(self.images, next(iter(folders.values())))
        return [self._recording(subject, folder, images) for subject, folder in folders.items()]

    def _recording(self, subject: str, folder: Path, images: dict[str, Images] | None) -> Recording:
        where = f"{self.name}, subject {subject}"
        sessions = self._sessions(folder)
        conditions = {
            part: np.unique(np.concatenate([one[part].events[:, 2] for one in sessions.values()])) for part in PARTS
        }
        rows = rows_of_conditions(conditions, images, where)
        taken = _Taken(self, rows, conditions, sessions)
        for number, parts in sessions.items():
            taken.add_training(number, parts, f"{where}, session {number}")
        for number, parts in sessions.items():
            taken.add_test(number, parts["test"])
        values, trials = taken.finished()
        axes, unit, notes = taken.axes(), "V" if self.mvnn == "none" else "a.u.", list(rows.notes)
        if unit == "V" and (spread := _deviation(values)) > LARGEST_V:
            unit = "a.u."
            notes.append(f"responses have a standard deviation of {spread:.3g}, which is not volts: arbitrary units")
        recording = Recording(
            dataset=self.name,
            subject=subject,
            stimulus_ids=rows.stimulus_ids,
            values=values,
            channels=axes.channels,
            starts_s=axes.bins.starts_s,
            stops_s=axes.bins.stops_s,
            unit=unit,
            n_repetitions=taken.count,
            is_test=rows.is_test,
            positions=axes.positions,
            trials=trials,
            columns=rows.columns,
            origin={"sessions": list(sessions), "session_of_trial": taken.session_of_trial(), "sfreq_hz": axes.sfreq_hz,
                    "mvnn": self.mvnn, "mvnn_fit": self.mvnn_fit,
                    "values_sha256": digest_of(values, trials), "notes": notes},
        )  # fmt: skip
        return check_recording(recording)

    def _sessions(self, folder: Path) -> dict[int, dict[str, _File]]:
        """Both parts of every session, with the events that are kept."""
        held = {session_of(one): one for one in sorted(folder.glob("ses-*")) if one.is_dir()}
        missing = [number for number in self.sessions if number not in held]
        if missing:
            raise DataError(
                f"{folder} has the sessions {list(held)} and not {missing[0]}: set dataset.sessions to some of them."
            )
        found = {number: {part: _read(one / f"raw_eeg_{part}.npy", part) for part in PARTS}
                 for number, one in held.items() if not self.sessions or number in self.sessions}  # fmt: skip
        if self.partition == "sessions":
            counts = {number: parts["test"].n_repetitions for number, parts in found.items()}
            if len(counts) < 2 or len(set(counts.values())) > 1:
                raise DataError(
                    f"{folder}: sessions have {counts} test trials per image. Cross-validation over sessions needs at "
                    "least 2 "
                    "sessions with the same number: choose dataset.sessions, or set dataset.partition=none."
                )
        return found


@dataclass(frozen=True)
class _File:
    """One part of one session, its samples where they lie on the disk.

    Attributes:
        raw: MNE's view of the mapped samples.
        events: (n_events, 3) kept events, as MNE has them: sample, previous value, condition number; by time.
        names: EEG channels.
        n_repetitions: kept events of the condition with the fewest.
        release: gives back the memory of the samples read so far.
    """

    path: Path
    raw: Any
    events: np.ndarray
    names: tuple[str, ...]
    n_repetitions: int
    release: Callable[[], None]


def _read(path: Path, part: str) -> _File:
    import mne

    if not path.is_file():
        beside = sorted(one.name for one in path.parent.iterdir())
        raise DataError(
            f"{path} was not found. {path.parent} holds {', '.join(beside[:6])}: both parts of a session are needed."
        )
    content = read_npy(path)
    foreign = {"preprocessed_eeg_data": "That is a preprocessed file: use dataset=things_eeg2."}
    held = held_dict(path, content.value, ("raw_eeg_data", "ch_names", "ch_types", "sfreq"), foreign)
    data, names, types = (
        held["raw_eeg_data"],
        checked_names(held["ch_names"], str(path)),
        [str(one) for one in held["ch_types"]],
    )
    shape: tuple[int, ...] = data.shape if isinstance(data, np.ndarray) else ()
    if len(shape) != 2 or data.dtype.kind not in "fiu" or not len(names) == len(types) == shape[0]:
        raise DataError(
            f"{path}: raw_eeg_data has shape {shape}, with {len(names)} channel names and {len(types)} types. Numbers "
            "of shape "
            "(channels, samples) with one name and type per channel are needed."
        )
    if types.count("stim") != 1:
        raise DataError(
            f"{path} has {types.count('stim')} stim channels among {len(types)}; one that holds the condition numbers "
            "is needed."
        )
    sfreq = float(held["sfreq"])
    events = _kept_events(_events(data[types.index("stim")], sfreq, path), part, path)
    raw = mne.io.RawArray(np.asarray(data, np.float64), mne.create_info(names, sfreq, types), verbose="error")
    content.release()
    eeg = tuple(name for name, kind in zip(names, types, strict=True) if kind == "eeg")
    return _File(path, raw, events, eeg, int(np.unique(events[:, 2], return_counts=True)[1].min()), content.release)


def _events(stim: np.ndarray, sfreq: float, path: Path) -> np.ndarray:
    """Onsets on the stim channel, (n_samples,). -> (n_events, 3)"""
    import mne

    if not np.isfinite(stim).all():
        raise DataError(
            f"{path}: {int((~np.isfinite(stim)).sum())} of {len(stim)} samples of its stim channel are NaN or Inf."
        )
    raw = mne.io.RawArray(stim.astype(np.float64)[None], mne.create_info(["stim"], sfreq, "stim"), verbose="error")
    try:
        return mne.find_events(raw, stim_channel="stim", verbose="error")
    except ValueError as error:
        raise DataError(f"{path}: MNE finds no events on its stim channel of {len(stim)} samples: {error}") from error


def _kept_events(events: np.ndarray, part: str, path: Path) -> np.ndarray:
    """Without targets, and without the repetitions beyond those kept per session."""
    from sklearn.utils import shuffle

    events = events[events[:, 2] != TARGET]
    numbers, counts = (
        np.unique(events[:, 2], return_counts=True) if len(events) else (np.zeros(0, int), np.zeros(0, int))
    )
    if not len(numbers):
        raise DataError(f"{path}: its stim channel has no event besides targets ({TARGET}). Is the file whole?")
    most = MAX_REPETITIONS[part]
    other = "test" if part == "training" else "training"
    if (part == "training" and counts.min() > most) or (part == "test" and len(numbers) > 1000):
        raise DataError(
            f"{path} has {len(numbers)} conditions with {counts.min()} to {counts.max()} repetitions, so it is a "
            f"{other} file. "
            "Training sessions have 8,270 x 2 and test sessions 200 x 20. Put each file under its own name."
        )
    kept = int(min(most, counts.min())) if part == "test" else most
    chosen = []
    for number, count in zip(numbers, counts, strict=True):
        rows = np.flatnonzero(events[:, 2] == number)
        chosen.append(rows if count <= kept else shuffle(rows, random_state=SEED, n_samples=kept))
    return events[np.sort(np.concatenate(chosen))]


@dataclass
class _Noise:
    """Noise covariances of the conditions of one part, summed as they come: (n_channels, n_channels), squared volts."""

    path: Path
    dimension: str
    total: np.ndarray | None = None
    n_conditions: int = 0

    def add(self, trials: np.ndarray) -> None:
        """One condition more. (n_repetitions, n_channels, n_times) volts"""
        if len(trials) < 2 and self.dimension != "epochs":
            return
        covariance = mvnn.condition_covariance(trials, self.dimension)
        self.total = covariance if self.total is None else self.total + covariance
        self.n_conditions += 1

    def mean(self) -> np.ndarray:
        """Over conditions. (n_channels, n_channels)"""
        if self.total is None:
            raise DataError(
                f"{self.path}: no image has 2 repetitions, so there is no noise over repetitions. Set "
                "dataset.mvnn=epochs or none."
            )
        return self.total / self.n_conditions


class _Taken:
    """What is gathered of one subject while its sessions are read one after the other."""

    def __init__(
        self,
        source: ThingsEeg2Raw,
        rows: Rows,
        conditions: dict[str, np.ndarray],
        sessions: dict[int, dict[str, _File]],
    ) -> None:
        self.source, self.conditions = source, conditions
        self.count = np.zeros(len(rows.stimulus_ids), np.int32)
        self.per_session = {number: parts["test"].n_repetitions for number, parts in sessions.items()}
        self.first = {"training": 0, "test": len(conditions["training"])}
        self.whiteners: dict[int, np.ndarray] = {}
        self.shared_axes: Axes | None = None
        self.values = np.zeros((0, 0, 0), np.float32)
        self.trials = np.zeros((0, 0, 0, 0), np.float32)

    def axes(self) -> Axes:
        """Of all sessions."""
        assert self.shared_axes is not None
        return self.shared_axes

    def session_of_trial(self) -> list[int]:
        """Session in which each kept trial of a test stimulus was recorded."""
        return [number for number, count in self.per_session.items() for _ in range(count)]

    def finished(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Averages of all stimuli, and trials of the test stimuli."""
        self.values /= self.count[:, None, None]
        return self.values, self.trials if self.source.keep_trials else None

    def add_training(self, number: int, parts: dict[str, _File], where: str) -> None:
        """Sum the training repetitions of one session, and whiten them by its own noise."""
        noise = None if self.source.mvnn == "none" else _Noise(parts["training"].path, self.source.mvnn)
        rows, sums = self._sums(number, "training", parts["training"], noise)
        self.whiteners[number] = np.eye(len(self.axes().channels))
        if noise is not None:
            _check_flat(sums, self.axes().channels, where)
            covariance = noise.mean()
            if self.source.mvnn_fit == "as_published":
                covariance = np.mean([covariance, self._test_noise(parts["test"])], axis=0)
            self.whiteners[number] = mvnn.inverse_root(covariance, where)
        self._add_whitened(number, rows, sums)

    def add_test(self, number: int, file: _File) -> None:
        """Sum the test repetitions of one session and keep its trials, whitened as its training part was."""
        self._add_whitened(number, *self._sums(number, "test", file, None))
        if self.source.keep_trials:
            here = self._trial_places(number)
            for row in range(len(self.trials)):
                self.trials[row, here] = self.whiteners[number] @ self.trials[row, here]

    def _add_whitened(self, number: int, rows: np.ndarray, sums: np.ndarray) -> None:
        for row, one in zip(rows, sums, strict=True):
            self.values[row] += self.whiteners[number] @ one

    def _test_noise(self, file: _File) -> np.ndarray:
        """Mean noise covariance of a test part. Its trials are read again later, not held until the whitener is known."""
        noise = _Noise(file.path, self.source.mvnn)
        for _, trials, times in _trials(file, self.source):
            self._axes(file, times)
            noise.add(trials)
        return noise.mean()

    def _trial_places(self, number: int) -> slice:
        numbers = list(self.per_session)
        start = sum(self.per_session[one] for one in numbers[: numbers.index(number)])
        return slice(start, start + self.per_session[number])

    def _sums(self, number: int, part: str, file: _File, noise: _Noise | None) -> tuple[np.ndarray, np.ndarray]:
        """(rows, sums of repetitions) of one part of one session; adds to the noise as it goes, where there is one."""
        total: np.ndarray | None = None
        rows: list[int] = []
        for condition, trials, times in _trials(file, self.source):
            axes = self._axes(file, times) if total is None else self.axes()
            if total is None:
                n_conditions = len(np.unique(file.events[:, 2]))
                total = np.zeros((n_conditions, len(axes.channels), len(axes.bins.starts_s)), np.float32)
            if noise is not None:
                noise.add(trials)
            kept = binned(trials[..., axes.samples], axes.bins)
            row = self.first[part] + int(np.searchsorted(self.conditions[part], condition))
            total[len(rows)] = kept.sum(0)
            rows.append(row)
            self.count[row] += len(kept)
            if part == "test" and self.source.keep_trials:
                self._keep_trials(row - self.first["test"], number, kept, file)
        assert total is not None
        return np.array(rows), total[: len(rows)]

    def _keep_trials(self, row: int, number: int, kept: np.ndarray, file: _File) -> None:
        here = self._trial_places(number)
        if len(kept) != here.stop - here.start:
            raise DataError(
                f"{file.path}: a test image has {len(kept)} whole epochs and others {here.stop - here.start}: the "
                "recording ends "
                "within an epoch. Leave this session out (dataset.sessions), or set dataset.keep_trials=false."
            )
        if not self.trials.size:
            n_trials = sum(self.per_session.values())
            self.trials = np.zeros((len(self.conditions["test"]), n_trials, *kept.shape[1:]), np.float32)
        self.trials[row, here] = kept

    def _axes(self, file: _File, times: np.ndarray) -> Axes:
        if self.shared_axes is None:
            source = self.source
            names = _picked(file, source.channels)
            self.shared_axes = axes_of(
                names, times, source.channels, source.tmin_s, source.tmax_s, source.time_bin_s, str(file.path)
            )
            shape = (len(self.shared_axes.channels), len(self.shared_axes.bins.starts_s))
            self.values = np.zeros((len(self.count), *shape), np.float32)
        elif _picked(file, self.source.channels) != self.shared_axes.channels:
            raise DataError(
                f"{file.path} has other channels than the files before it, or in another order. Are the files of one "
                "subject?"
            )
        return self.shared_axes


def _deviation(values: np.ndarray) -> float:
    """Standard deviation over all responses, row by row: numpy.std would make a copy of them. (n_stimuli, ...)"""
    mean = values.mean(dtype=np.float64)
    return float(np.sqrt(sum(float(((row - mean) ** 2).sum()) for row in values) / values.size))


def _check_flat(sums: np.ndarray, channels: tuple[str, ...], where: str) -> None:
    """Refuse a flat channel: whitened, it would be a rounding error of the others. (n, n_channels, n_bins)"""
    flat = [name for name, one in zip(channels, np.ptp(sums, axis=(0, 2)), strict=True) if one == 0]
    if flat:
        raise DataError(
            f"{where}: {len(flat)} of {len(channels)} channels do not vary, first {flat[0]}, so their noise cannot be "
            "normalised. Leave them out of dataset.channels, or set dataset.mvnn=none."
        )


def _picked(file: _File, channels: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names of the channels to read, in the order that `axes_of` gives them."""
    times = np.arange(2.0)
    return axes_of(file.names, times, channels, None, None, None, str(file.path)).channels


def _trials(file: _File, source: ThingsEeg2Raw) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """One condition after the other. -> (condition, (n_repetitions, n_channels, n_times) volts, times in seconds)"""
    import mne

    names = list(_picked(file, source.channels))
    sfreq = float(file.raw.info["sfreq"])
    numbers, counts = np.unique(file.events[:, 2], return_counts=True)
    per_epoch = 8 * len(names) * int((EPOCH_S[1] - EPOCH_S[0]) * sfreq + 1)
    step = max(1, int(BLOCK_BYTES // (per_epoch * counts.max())))
    for start in range(0, len(numbers), step):
        among = np.isin(file.events[:, 2], numbers[start : start + step])
        epochs = mne.Epochs(
            file.raw, file.events[among], tmin=EPOCH_S[0], tmax=EPOCH_S[1], baseline=(None, 0), picks=names,
            preload=True, verbose="error",
        )  # fmt: skip
        if source.sfreq_hz < sfreq:
            epochs.resample(source.sfreq_hz, verbose="error")
        elif source.sfreq_hz > sfreq:
            raise ConfigError(f"dataset.sfreq_hz={source.sfreq_hz:g} is above the {sfreq:g} Hz of {file.path}.")
        values, order = epochs.get_data(copy=False), [epochs.ch_names.index(name) for name in names]
        for number in np.unique(epochs.events[:, 2]):
            yield int(number), values[epochs.events[:, 2] == number][:, order], epochs.times
        file.release()
