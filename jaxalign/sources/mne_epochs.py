"""MNE epochs with metadata (-epo.fif): one trial per stimulus of one subject, an EEG or MEG recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import DataError, nearest
from jaxalign.sources.checks import check_recording
from jaxalign.sources.files import find, sha256
from jaxalign.sources.times import binned, bins_of
from jaxalign.sources.trials import keep_names, positions_of, unit_of


@dataclass(frozen=True)
class MneEpochs:
    """Epochs of one subject with one row of metadata per epoch.

    Attributes:
        name: data set name in the table.
        path: -epo.fif file, absolute or under a data folder.
        subject: subject name in the table.
        stimulus_columns: metadata columns that together name the stimulus.
        feature_columns: metadata columns of numbers that may be scored as features.
        picks: channel type, such as "eeg", or "all" for one type only; types with other units do not mix.
        channels: channel names to keep; all when empty.
        tmin_s, tmax_s: part of the epoch to keep, seconds, both ends within; null keeps all.
        time_bin_s: width of time bins in seconds, averaged; null keeps the samples.
    """

    name: str = "epochs"
    path: str = ""
    subject: str = "01"
    stimulus_columns: tuple[str, ...] = ()
    feature_columns: tuple[str, ...] = ()
    picks: str = "eeg"
    channels: tuple[str, ...] = ()
    tmin_s: float | None = None
    tmax_s: float | None = None
    time_bin_s: float | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        keep_names(self)

    def recordings(self) -> list[Recording]:
        """Read the file. -> one Recording, responses in volts (EEG), tesla or tesla per metre (MEG)

        Raises:
            DataError: if the file, a metadata column or a channel is missing, or the responses cannot be used.
        """
        path = find(self.path)
        epochs = _read(path)
        metadata = self._metadata(epochs, path)
        epochs = self._selected(epochs)
        times = bins_of(epochs.times, float(epochs.info["sfreq"]), self.time_bin_s)
        values = binned(epochs.get_data(copy=False), times)
        positions, notes = positions_of(epochs)
        recording = Recording(
            dataset=self.name,
            subject=self.subject,
            stimulus_ids=tuple("/".join(str(row[column]) for column in self.stimulus_columns) for _, row in metadata.iterrows()),
            values=values.astype(np.float32),
            channels=tuple(epochs.ch_names),
            starts_s=times.starts_s,
            stops_s=times.stops_s,
            unit=unit_of(epochs, str(path)),
            n_repetitions=np.ones(len(epochs), np.int32),
            is_test=np.zeros(len(epochs), bool),
            positions=positions,
            columns={column: np.asarray(metadata[column]) for column in metadata},
            origin={"file": path.name, "sha256": sha256(path), "sfreq_hz": float(epochs.info["sfreq"]),
                    "highpass_hz": float(epochs.info["highpass"]), "lowpass_hz": float(epochs.info["lowpass"]), "notes": [*self.notes, *notes]},
        )  # fmt: skip
        return [check_recording(recording)]

    def _metadata(self, epochs: Any, path: Path) -> Any:
        if epochs.metadata is None:
            raise DataError(
                f"{path} has {len(epochs)} epochs but no metadata: stimulus_columns={list(self.stimulus_columns)} cannot name their stimuli. Save the epochs with metadata."
            )
        if not self.stimulus_columns:
            raise DataError(
                f"dataset.stimulus_columns is empty: name the metadata columns that identify a stimulus. {path.name} has {', '.join(epochs.metadata.columns)}."
            )
        for column in (*self.stimulus_columns, *self.feature_columns):
            if column not in epochs.metadata:
                raise DataError(
                    f"{path} has no metadata column {column!r}. {nearest(column, epochs.metadata.columns)} It has: {', '.join(epochs.metadata.columns)}."
                )
        return epochs.metadata

    def _selected(self, epochs: Any) -> Any:
        """Keep the picked channels and times."""
        missing = [name for name in self.channels if name not in epochs.ch_names]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.channels)} channels are not in {self.path}: {missing[0]!r}. {nearest(missing[0], epochs.ch_names)}"
            )
        try:
            kept = epochs.copy().pick(list(self.channels) if self.channels else self.picks)
        except ValueError as error:
            has = ", ".join(sorted(set(epochs.get_channel_types())))
            raise DataError(
                f"{self.path} has no channel that dataset.picks={self.picks} names: its {len(epochs.ch_names)} channels are of type {has}."
            ) from error
        if self.tmin_s is None and self.tmax_s is None:
            return kept
        first, last = float(kept.times[0]), float(kept.times[-1])
        start = first if self.tmin_s is None else self.tmin_s
        stop = last if self.tmax_s is None else self.tmax_s
        step = 1 / float(kept.info["sfreq"])
        if start < first - step or stop > last + step or start > stop:
            raise DataError(
                f"{self.path} runs from {first:.3f} to {last:.3f} s, and dataset.tmin_s={self.tmin_s}, dataset.tmax_s={self.tmax_s} is no part of it."
            )
        return kept.crop(max(start, first), min(stop, last))


def _read(path: Path) -> Any:
    import mne

    try:
        return mne.read_epochs(path, preload=True, verbose="error")
    # Of a damaged file MNE raises almost anything: KeyError, AttributeError, UnboundLocalError, Exception itself.
    except Exception as error:
        raise DataError(
            f"MNE cannot read {path} ({path.stat().st_size} bytes) as epochs: {error}. Is it a whole -epo.fif file?"
        ) from error
