"""THINGS-EEG2, preprocessed: 16,540 training images shown 4 times, 200 test images shown 80 times (Gifford 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.checks import check_recording
from jaxalign.sources.restricted import read_npy
from jaxalign.sources.things_files import (
    PARTS,
    Axes,
    Images,
    axes_of,
    channels_setting,
    checked_choice,
    checked_names,
    held_dict,
    read_images,
    rows_of_conditions,
    subject_folders,
)
from jaxalign.sources.times import binned

DATA = "preprocessed_eeg_data"

INNER = (
    "preprocessed",
    "things_eeg2/preprocessed",
    "preprocessed_data",
    "eeg_dataset/preprocessed_data",
    "Preprocessed_data_250Hz",
)
"""Folders that may hold the subjects: those that `jaxalign fetch` makes, and those of the releases."""

PARTITIONS = ("none", "sessions")

MERGED = (
    "The preprocessed files of THINGS-EEG2 merge the repetitions of the 4 sessions and shuffle them, so the session "
    "of a trial "
    "is unknown and nothing can be cross-validated over sessions. Use the raw release (dataset=things_eeg2_raw), "
    "which keeps "
    "sessions apart, or set dataset.partition=none."
)

SHUFFLED = (
    "the preprocessed files of THINGS-EEG2 merge the repetitions of the 4 sessions and shuffle them, so that sessions "
    "and runs are unknown and each row is an average over them"
)

BLOCK_BYTES = 64 << 20
"""Bytes of a file that are in memory at a time: more does not read faster."""


@dataclass(frozen=True)
class ThingsEeg2:
    """Responses of 10 people to 16,740 images, from the official preprocessed files or those of the same format.

    One folder per subject with preprocessed_eeg_training.npy and preprocessed_eeg_test.npy: a dict with
    preprocessed_eeg_data (n_conditions, n_repetitions, n_channels, n_times), ch_names and times in seconds. The
    official files have 17 channels and 100 Hz; the 63-channel files at 250 Hz have the same format. Both went through
    multivariate noise normalisation over training and test trials together, hence arbitrary units and a little of the
    test set in the training responses: `things_eeg2_raw` can do without. Files are read block by block and never
    unpickled.

    Attributes:
        name: data set name in the table.
        path: folder that holds sub-01, sub-02 ..., the project's folder above it, or the one given to `jaxalign fetch`.
        images: image_metadata.npy, or its folder; empty looks near the data. Stimulus ids are the image files' names
            without suffix, as a folder of images names them; without the file they are condition numbers.
        subjects: "01", "02" ...; all when empty.
        channels: 17 (occipital and parietal), 63, or a list of names.
        tmin_s, tmax_s: part of the epoch to keep, seconds, both ends within; null keeps all.
        time_bin_s: width of time bins in seconds, averaged; null keeps the samples.
        keep_trials: keep the trials of the test stimuli, from which noise ceilings are computed.
        partition: "none"; "sessions" is refused, because these files do not say which session a trial is from.
    Source:
        Gifford, Dwivedi, Roig & Cichy 2022, NeuroImage 264:119754.
    """

    name: str = "things-eeg2"
    path: str = ""
    images: str = ""
    subjects: tuple[str, ...] = ()
    channels: Any = "17"
    tmin_s: float | None = None
    tmax_s: float | None = None
    time_bin_s: float | None = None
    keep_trials: bool = True
    partition: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", tuple(self.subjects))
        object.__setattr__(self, "channels", channels_setting(self.channels))

    def recordings(self) -> list[Recording]:
        """Read all subjects. -> one Recording each, training stimuli first, in the official order of the images.

        values: (n_stimuli, n_channels, n_time_bins) float32, averaged over 4 and 80 repetitions, arbitrary units.
        trials: (n_test, n_repetitions, n_channels, n_time_bins) float32.

        Raises:
            ConfigError: for cross-validation over sessions, and settings that are none.
            DataError: if files are missing, damaged, swapped or hold code, or their values cannot be used.
        """
        if checked_choice(self.partition, PARTITIONS, "dataset.partition") == "sessions":
            raise ConfigError(MERGED)
        folders = subject_folders(self.path, self.subjects, INNER, "preprocessed_eeg_*.npy")
        images = read_images(self.images, next(iter(folders.values())))
        return [self._recording(subject, folder, images) for subject, folder in folders.items()]

    def _recording(self, subject: str, folder: Path, images: dict[str, Images] | None) -> Recording:
        training, test = (_read(folder / f"preprocessed_eeg_{part}.npy") for part in PARTS)
        where = f"{self.name}, subject {subject}"
        _check_pair(training, test, images)
        file = str(training.path)
        axes = axes_of(training.names, training.times, self.channels, self.tmin_s, self.tmax_s, self.time_bin_s, file)
        _check_same_axes(training, test)
        numbers = {part: np.arange(1, len(file.data) + 1) for part, file in zip(PARTS, (training, test), strict=True)}
        rows = rows_of_conditions(numbers, images, where)
        values, trials = _values(training, test, axes, self.keep_trials)
        repetitions = [file.data.shape[1] for file in (training, test)]
        recording = Recording(
            dataset=self.name,
            subject=subject,
            stimulus_ids=rows.stimulus_ids,
            values=values,
            channels=axes.channels,
            starts_s=axes.bins.starts_s,
            stops_s=axes.bins.stops_s,
            unit="a.u.",
            n_repetitions=np.where(rows.is_test, repetitions[1], repetitions[0]).astype(np.int32),
            is_test=rows.is_test,
            positions=axes.positions,
            trials=trials,
            columns=rows.columns,
            lacks={"session": SHUFFLED, "run": SHUFFLED},
            origin={"files": [training.path.name, test.path.name], "values_sha256": digest_of(values, trials),
                    "sfreq_hz": axes.sfreq_hz,
                    "notes": [*dict.fromkeys((*rows.notes, *training.notes, *test.notes))]},
        )  # fmt: skip
        return check_recording(recording)


@dataclass(frozen=True)
class _File:
    """One part of one subject, its array where it lies on the disk.

    Attributes:
        data: (n_conditions, n_repetitions, n_channels, n_times), mapped.
        names, times: channel names, and seconds from onset.
        release: gives back the memory of the blocks read so far.
        notes: what a reader must know.
    """

    path: Path
    data: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray
    release: Callable[[], None]
    notes: tuple[str, ...]


def _read(path: Path) -> _File:
    if not path.is_file():
        beside = sorted(one.name for one in path.parent.iterdir())
        raise DataError(
            f"{path} was not found. {path.parent} holds {', '.join(beside[:6])}: both parts of a subject are needed."
        )
    content = read_npy(path)
    foreign = {"raw_eeg_data": "That is a file of the raw release: use dataset=things_eeg2_raw."}
    held = held_dict(path, content.value, (DATA, "ch_names", "times"), foreign)
    data = held[DATA]
    if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind not in "fiu" or not data.size:
        what = f"shape {data.shape}, type {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(
            f"{path}: {DATA} has {what}. Numbers of shape (conditions, repetitions, channels, times) are needed."
        )
    names = checked_names(held["ch_names"], str(path))
    if len(names) != data.shape[2]:
        raise DataError(
            f"{path} has {len(names)} channel names for {data.shape[2]} channels of responses: it is damaged."
        )
    times, notes = _times(np.asarray(held["times"], np.float64).ravel(), data.shape[3], path)
    return _File(path, data, tuple(names), times, content.release, notes)


def _times(times: np.ndarray, n_times: int, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Times of the samples. The 250 Hz release drops the baseline of the responses and keeps its times."""
    if len(times) == n_times:
        return times, ()
    tail = times[-n_times:]
    if len(times) > n_times >= 2 and abs(tail[0]) < (tail[1] - tail[0]) / 2:
        dropped = len(times) - n_times
        return tail, (
            f"the files have {len(times)} times for {n_times} samples: the first {dropped}, before onset, are dropped",
        )
    raise DataError(f"{path} has {len(times)} times for {n_times} samples of responses: it is damaged.")


def _check_pair(training: _File, test: _File, images: dict[str, Images] | None) -> None:
    """Refuse a file in the place of the other, or files of another set of images."""
    shapes = " and ".join(
        f"{file.path.name} has {file.data.shape[0]} conditions x {file.data.shape[1]} repetitions"
        for file in (training, test)
    )
    usual = "Training is 16,540 x 4 and test 200 x 80."
    (n_training, n_few), (n_test, n_many) = training.data.shape[:2], test.data.shape[:2]
    is_same, is_swapped = (n_training, n_few) == (n_test, n_many), n_training < n_test and n_few > n_many
    if is_same or is_swapped:
        what = "one file is in both places" if is_same else "the files are swapped"
        raise DataError(f"{training.path.parent}: {shapes}, so {what}. {usual} Put each file under its own name.")
    if images is None:
        return
    expected = [len(images[part].files) for part in PARTS]
    if [len(training.data), len(test.data)] != expected:
        raise DataError(
            f"{training.path.parent}: {shapes}, and image_metadata.npy names {expected[0]} training and {expected[1]} "
            "test images. "
            f"{usual} Are the files whole, and of the same release?"
        )


def _check_same_axes(training: _File, test: _File) -> None:
    if training.names != test.names:
        differ = [names for names in zip(training.names, test.names, strict=False) if len(set(names)) > 1]
        raise DataError(
            f"{training.path.parent}: the parts have {len(training.names)} and {len(test.names)} channels"
            + (f", and {len(differ)} differ, first {differ[0][0]!r} and {differ[0][1]!r}" if differ else "")
            + ". They are not of one preprocessing."
        )
    if training.times.shape != test.times.shape or not np.allclose(training.times, test.times, atol=1e-6):
        raise DataError(
            f"{training.path.parent}: the parts have {len(training.times)} and {len(test.times)} times, from "
            f"{training.times[0]:.3f} "
            f"and {test.times[0]:.3f} s on. They are not of one preprocessing."
        )


def _values(training: _File, test: _File, axes: Axes, keep_trials: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Averages of all stimuli and trials of the test stimuli, each block of a file read once."""
    shape = (len(axes.channels), len(axes.bins.starts_s))
    values = np.empty((len(training.data) + len(test.data), *shape), np.float32)
    trials = np.empty((*test.data.shape[:2], *shape), np.float32) if keep_trials else None
    for rows, block in _blocks(training):
        values[rows] = _kept(block.mean(1, dtype=np.float64), axes)
    for rows, block in _blocks(test):
        kept = _kept(block, axes)
        values[len(training.data) :][rows] = kept.mean(1, dtype=np.float64)
        if trials is not None:
            trials[rows] = kept
    return values, trials


def _blocks(file: _File) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows that fit BLOCK_BYTES, and their responses. An array in Fortran order is read whole for each."""
    step = max(1, BLOCK_BYTES // (file.data.itemsize * int(np.prod(file.data.shape[1:]))))
    for start in range(0, len(file.data), step):
        rows = slice(start, min(start + step, len(file.data)))
        yield rows, file.data[rows]
        file.release()


def _kept(block: np.ndarray, axes: Axes) -> np.ndarray:
    """(..., n_channels, n_times) of the file -> (..., n_channels, n_time_bins)"""
    return binned(block[..., axes.picks, :][..., axes.samples], axes.bins)


def digest_of(values: np.ndarray, trials: np.ndarray | None) -> str:
    """sha256 of what was read: large files are not read again for it. (n_stimuli, ...), (n_test, ...) -> 64 digits"""
    digest = hashlib.sha256(np.ascontiguousarray(values).data)
    if trials is not None:
        digest.update(np.ascontiguousarray(trials).data)
    return digest.hexdigest()
