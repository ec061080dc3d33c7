"""Recordings laid out as BIDS: which files belong to a subject, their events, bad channels and mains frequency, by mne-bids."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.mne_raw import run_and_delay
from jaxalign.sources.reading import (
    chosen_events,
    events_of,
    events_table,
    find_folder,
    holds,
    named_stimuli,
    prepared,
    quietly,
    recorded,
    with_metadata,
    work_of,
)
from jaxalign.sources.steps import parsed
from jaxalign.sources.trials import Work, keep_names, wanted


@dataclass(frozen=True)
class Bids:
    """Recordings of a BIDS folder, all runs of a subject together.

    Attributes:
        name: data set name in the table.
        folder: root of the data set, the folder of dataset_description.json.
        subjects: labels without "sub-"; all when empty.
        session, task: labels; empty takes the only one.
        runs: labels; all when empty.
        datatype: "eeg", "meg" or "ieeg".
        event_column: column of events.tsv that names the event; empty names them all "event".
        use_events: names of the events that are trials; all when empty.
        event_names: name in the file -> name of the stimulus or condition.
        n_events: events that each run must have; null does not look.
        delay_s: added to each onset.
        metadata: CSV or TSV with one row per event in order, or looked up by metadata_key.
        metadata_key: column of the events and of the metadata.
        stimulus_columns: columns of events.tsv or the metadata that together name the stimulus; also event, index, run.
        channel_types: channel -> MNE's type, such as EOG1: eog.
        mains_hz: mains frequency where it was recorded; null keeps PowerLineFrequency of the data set.
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

    name: str = "bids"
    folder: str = ""
    subjects: tuple[str, ...] = ()
    session: str = ""
    task: str = ""
    runs: tuple[str, ...] = ()
    datatype: str = "eeg"
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
            ConfigError: if mne-bids is not installed, or an option or a step does not fit the data.
            DataError: if a file, an event or a channel is missing, or the responses cannot be used.
        """
        root = find_folder(self.folder, "sub-*")
        return [
            self._recording(root, subject) for subject in chosen_labels(root, "sub", self.subjects, "dataset.subjects")
        ]

    def _recording(self, root: Path, subject: str) -> Recording:
        found = run_files(root, subject, self)
        runs = [self._run(path, subject, number) for number, path in enumerate(found, 1)]
        return recorded(self, subject, runs, [path.fpath for path in found])

    def _run(self, path: Any, subject: str, number: int) -> Work:
        where = path.basename
        data, notes = read_run(path)
        data = prepared(data, self.channel_types, self.mains_hz, where)
        table = path.copy().update(suffix="events", extension=".tsv").fpath
        events = (
            events_table(table, "onset", self.event_column)
            if table.is_file()
            else events_of(data, "annotations", "", path.fpath, table.name)
        )
        events = chosen_events(events, self.use_events, self.event_names, self.n_events, where)
        events = with_metadata(events, self.metadata, self.metadata_key, where)
        events = run_and_delay(events, str(path.run or number), self.delay_s)
        return work_of(data, named_stimuli(events, self.stimulus_columns, where), wanted(self, subject), where, notes)


def mne_bids() -> Any:
    """The package mne_bids.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import mne_bids as package
    except ImportError as error:
        raise ConfigError("Data in BIDS need the package mne-bids: pip install 'jaxalign[data]'.") from error
    return package


def chosen_labels(root: Path, entity: str, asked: tuple[str, ...], option: str) -> list[str]:
    """Labels of a BIDS entity, those that are asked for or all.

    Args:
        root: folder that holds folders named entity-label.
        entity: such as "sub".
        asked: labels, with or without "sub-"; empty for all.
        option: its name, for messages.
    Raises:
        DataError: if a label is not there.
    """
    has = sorted(one.name.removeprefix(f"{entity}-") for one in root.glob(f"{entity}-*") if one.is_dir())
    named = [label.removeprefix(f"{entity}-") for label in asked]
    missing = [label for label in named if label not in has]
    if missing or not has:
        first = missing[0] if missing else ""
        raise DataError(
            f"{option}={list(asked)}: {root} has no {entity}-{first}. {nearest(first, has)} It holds {holds(root)}."
        )
    return named or has


def run_files(root: Path, subject: str, asked: Any) -> list[Any]:
    """The recordings of a subject in the order of their runs, as BIDSPaths.

    Args:
        root: of the data set.
        subject: label.
        asked: has session, task, runs and datatype.
    Raises:
        DataError: if there is none, or one of the runs is missing.
        ConfigError: if sessions or tasks are several and none is named.
    """
    package = mne_bids()
    path = package.BIDSPath(
        subject=subject, session=asked.session or None, task=asked.task or None, datatype=asked.datatype,
        suffix=asked.datatype, root=root, check=False,
    )  # fmt: skip
    found = [
        one
        for one in path.match(check=False)
        if one.extension in package.config.ALLOWED_DATATYPE_EXTENSIONS[asked.datatype]
    ]
    if not found:
        named = " ".join(
            f"{name}={value}" for name, value in (("session", asked.session), ("task", asked.task)) if value
        )
        folder = root / f"sub-{subject}"
        raise DataError(
            f"{folder} has no {asked.datatype} recording {named}: looked for {path.basename}* below it. It holds {holds(folder)}."
        )
    for entity in ("session", "task"):
        labels = sorted({str(getattr(one, entity)) for one in found})
        if len(labels) > 1:
            raise ConfigError(
                f"Subject {subject} has {len(labels)} of {entity}: {', '.join(labels)}. Set dataset.{entity}."
            )
    by_run = {
        str(one.run or ""): one for one in sorted(found, key=lambda one: (len(str(one.run or "")), str(one.run or "")))
    }
    missing = [run for run in asked.runs if run not in by_run]
    if missing:
        raise DataError(f"Subject {subject} has no run {missing[0]!r}. {nearest(missing[0], by_run)}")
    return [by_run[run] for run in (asked.runs or by_run)]


def read_run(path: Any) -> tuple[Any, tuple[str, ...]]:
    """One recording with its bad channels and mains frequency. -> Raw, notes

    Args:
        path: BIDSPath.
    Raises:
        DataError: if it cannot be read, or is truncated.
    """
    package = mne_bids()
    data, notes = quietly(lambda: package.read_raw_bids(path, verbose="warning").load_data(verbose="error"), path.fpath)
    return data, tuple(note for note in notes if "participants.tsv" not in note and "electrodes" not in note)
