"""Any MEG or EEG recording that MNE reads: continuous or epochs, with events and metadata that the configuration maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError
from jaxalign.sources.files import find
from jaxalign.sources.reading import (
    Events,
    chosen_events,
    events_of,
    events_table,
    find_recording,
    named_stimuli,
    prepared,
    read_any,
    recorded,
    with_metadata,
    work_of,
)
from jaxalign.sources.steps import parsed
from jaxalign.sources.trials import Work, keep_names, wanted


@dataclass(frozen=True)
class MneRaw:
    """Recordings in any format of MNE, one or more runs per subject.

    Attributes:
        name: data set name in the table.
        path, subject: one recording, absolute or under a data folder, and whose it is.
        files: instead of a path: subject -> file, or list of files (its runs in order).
        events: "annotations", "stim" (a trigger channel), or a CSV or TSV file with onsets, where {folder} and {stem}
            stand for those of the recording; epochs bring their own.
        stim_channel: trigger channel; empty takes the only one.
        onset_column, event_column: of a table of events: seconds from the start of the recording, and the name.
        use_events: names of the events that are trials; all when empty.
        event_names: name in the file -> name of the stimulus or condition.
        n_events: events that each run must have; null does not look.
        delay_s: added to each onset, such as the delay of a screen or of a tube.
        metadata: CSV or TSV with one row per event in order, or looked up by metadata_key.
        metadata_key: column of the events and of the metadata.
        stimulus_columns: columns that together name the stimulus: event, index, or those of the events and metadata.
        channel_types: channel -> MNE's type, such as EOG1: eog.
        mains_hz: mains frequency where it was recorded; null keeps what the file says.
        steps: preprocessing in order; each is a mapping with a name of STEPS and its options.
        picks: channel type, such as "eeg", or "all" for one type only; types with other units do not mix.
        channels: channel names to keep, in this order; all of the type when empty.
        tmin_s, tmax_s: time bins that start within [tmin_s, tmax_s); null keeps all.
        stimuli: stimulus ids to keep, in this order; empty keeps all, sorted by id.
        stimuli_file: CSV or TSV with a column stimulus_id instead.
        test_stimuli: stimulus ids of the test set.
        test_column: column whose values test, true, yes or 1 mark the test set.
        notes: carried into the report.
    """

    name: str = "mne-raw"
    path: str = ""
    subject: str = "01"
    files: dict[Any, Any] = field(default_factory=dict)
    events: str = "annotations"
    stim_channel: str = ""
    onset_column: str = "onset"
    event_column: str = "trial_type"
    use_events: tuple[str, ...] = ()
    event_names: dict[Any, Any] = field(default_factory=dict)
    n_events: int | None = None
    delay_s: float = 0.0
    metadata: str = ""
    metadata_key: str = ""
    stimulus_columns: tuple[str, ...] = ("event",)
    channel_types: dict[Any, Any] = field(default_factory=dict)
    mains_hz: float | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    picks: str = "eeg"
    channels: tuple[str, ...] = ()
    tmin_s: float | None = None
    tmax_s: float | None = None
    stimuli: tuple[str, ...] = ()
    stimuli_file: str = ""
    test_stimuli: tuple[str, ...] = ()
    test_column: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keep_names(self)
        parsed(self.steps)

    def recordings(self) -> list[Recording]:
        """Read and preprocess all subjects. -> one Recording each, in the SI unit of their channels or what a step made

        Raises:
            ConfigError: if an option or a step does not fit the data.
            DataError: if a file, an event or a channel is missing, or the responses cannot be used.
        """
        return [self._recording(subject, paths) for subject, paths in self._files().items()]

    def _files(self) -> dict[str, list[str]]:
        if bool(self.path) == bool(self.files):
            raise ConfigError(
                "dataset.path and dataset.files: give one of them, the file of one subject or {subject: [files of its runs]}."
            )
        if self.path:
            return {self.subject: [self.path]}
        return {
            str(subject): [paths] if isinstance(paths, str) else list(map(str, paths))
            for subject, paths in self.files.items()
        }

    def _recording(self, subject: str, paths: list[str]) -> Recording:
        found = [find_recording(path) for path in paths]
        runs = [self._run(subject, number, path) for number, path in enumerate(found, 1)]
        return recorded(self, subject, runs, found)

    def _run(self, subject: str, number: int, path: Path) -> Work:
        data, notes = read_any(path)
        data = prepared(data, self.channel_types, self.mains_hz, str(path))
        events = self._events(data, path)
        events = chosen_events(events, self.use_events, self.event_names, self.n_events, str(path))
        events = with_metadata(events, self.metadata, self.metadata_key, str(path))
        events = named_stimuli(run_and_delay(events, str(number), self.delay_s), self.stimulus_columns, str(path))
        if hasattr(data, "drop_log") and len(events["event"]) < len(data):
            data = data[kept_rows(self._events(data, path), self.use_events, self.event_names)]
        return work_of(data, events, wanted(self, subject), str(path), notes)

    def _events(self, data: Any, path: Path) -> Events:
        is_table = self.events not in ("annotations", "stim")
        if hasattr(data, "drop_log"):
            if is_table:
                raise ConfigError(
                    f"{path} holds epochs, which bring their own events: leave dataset.events out, and name a table of one row per epoch in dataset.metadata."
                )
            return events_of(data, self.events, self.stim_channel, path)
        if not is_table:
            return events_of(data, self.events, self.stim_channel, path)
        named = self.events.replace("{folder}", str(path.parent)).replace("{stem}", path.name.split(".")[0])
        return events_table(find(named), self.onset_column, self.event_column)


def run_and_delay(events: Events, run: str, delay_s: float) -> Events:
    """Events with the column run, and later by a delay.

    Args:
        events: of one run.
        run: its name.
        delay_s: seconds.
    """
    later = {"onset_s": events["onset_s"] + delay_s} if "onset_s" in events else {}
    return Events({**events, "run": np.full(len(events["event"]), run, dtype=object), **later})


def kept_rows(events: Events, use: tuple[str, ...], renamed: dict[str, Any]) -> Any:
    """Indices of the epochs whose events are used.

    Args:
        events: of all epochs.
        use: names that are used.
        renamed: names that are used where `use` is empty.
    """
    return np.flatnonzero(np.isin(events["event"].astype(str), [str(one) for one in (use or renamed)]))
