"""Opening whatever MNE reads, with its events and metadata, and saying in words what is wrong with what it refuses."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.files import candidates, find, sha256
from jaxalign.sources.rows import table_rows
from jaxalign.sources.steps import carried_out
from jaxalign.sources.trials import ID, Wanted, Work, column_of, near, numbers, recording_of, wanted

HDF5 = b"\x89HDF\r\n\x1a\n"
FOLDERS = (".ds", ".mff")
"""Formats of MNE whose recordings are folders."""

BESIDE = {".vhdr": (".vmrk", ".eeg", ".dat"), ".set": (".fdt",)}
"""Files that hold samples or markers of a recording, by the suffix of its header."""

TRUNCATED = ("outside data range", "does not match the file size", "outside the data range")
"""Parts of MNE's warnings that say that a file ends before it should."""

ONSET = "onset_s"


def is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, with or without MATLAB's header of 512 bytes."""
    with path.open("rb") as file:
        start = file.read(520)
    return start[:8] == HDF5 or start[512:520] == HDF5


def find_folder(path: str, needs: str = "", inner: str = "") -> Path:
    """A folder of a data set: as given, or under the first data folder that has it.

    Args:
        path: absolute, or relative to here or a data folder.
        needs: a pattern of which the folder must hold at least one file.
        inner: folder within it that may hold them instead, as `jaxalign fetch` makes one per data set.
    Raises:
        DataError: if it is nowhere, or holds other files; says what was looked for and what was found.
    """
    if not path:
        raise ConfigError("dataset.folder is empty: name the folder of the data set.")
    places = candidates(path)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        looked = ", ".join(str(place.resolve()) for place in places)
        raise DataError(
            f"The folder {path} was not found. Looked for {looked}. Give its path, or set JAXALIGN_DATA to the folder that holds it."
        )
    if needs and inner and not any(found.glob(needs)) and any((found / inner).glob(needs)):
        return found / inner
    if needs and not any(found.glob(needs)):
        raise DataError(
            f"{found.resolve()} holds no {needs}. It holds {holds(found)}. Give the folder of the data set."
        )
    return found


def holds(folder: Path) -> str:
    """The first entries of a folder, for messages."""
    entries = sorted(f"{one.name}/" if one.is_dir() else one.name for one in folder.iterdir())
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return f"{', '.join(entries[:8])}{more}" if entries else "nothing"


def find_recording(path: str) -> Path:
    """A recording, a file or one of the formats that are folders (.ds, .mff), as given or under a data folder.

    Args:
        path: absolute, or relative to here or a data folder.
    Raises:
        DataError: if it is nowhere; says where it was looked for.
    """
    return find_folder(path) if Path(path).suffix.lower() in FOLDERS else find(path)


def content_sha256(path: Path) -> str:
    """Content hash of a recording with the files that belong to it."""
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
    else:
        files = [path, *(path.with_suffix(suffix) for suffix in BESIDE.get(path.suffix.lower(), ()))]
    hashes = [sha256(one) for one in files if one.is_file()]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def recorded(dataset: Any, subject: str, runs: Sequence[Work], files: Sequence[Path]) -> Recording:
    """Preprocess the runs of a subject and put them together.

    Args:
        dataset: has name, steps, notes and the fields of `Wanted`.
        subject: whose they are.
        runs: one per file, as `work_of` makes them.
        files: what was read, for the record.
    Raises:
        ConfigError: if a step does not fit the data.
        DataError: if the responses cannot be used.
    """
    trials = carried_out(runs, dataset.steps, f"{dataset.name}, subject {subject}")
    origin = {
        "files": [path.name for path in files],
        "sha256": [content_sha256(path) for path in files],
        "steps": [dict(step) for step in dataset.steps],
        "notes": list(dataset.notes),
    }
    return recording_of(trials, wanted(dataset, subject), origin)


def quietly(read: Callable[[], Any], path: Path) -> tuple[Any, tuple[str, ...]]:
    """Read a file, and say what MNE says about it.

    Args:
        read: opens it.
        path: the file, for messages.
    Returns:
        What was read, and MNE's warnings as notes.
    Raises:
        DataError: if it cannot be read, or ends before it should.
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = read()
    # Of a damaged file MNE raises almost anything: KeyError, struct.error, UnboundLocalError, Exception itself.
    except Exception as error:
        raise DataError(f"MNE cannot read {path} ({_size(path)}): {_first(error)}. {_help(path)}") from error
    notes = tuple(
        dict.fromkeys(" ".join(str(one.message).split()) for one in said if issubclass(one.category, RuntimeWarning))
    )
    for note in notes:
        if any(part in note for part in TRUNCATED):
            raise DataError(f"{path} ({_size(path)}) ends before it should: {note}. Copy or download the file again.")
    return data, tuple(f"MNE says of {path.name}: {note[:300]}" for note in notes)


def _size(path: Path) -> str:
    return f"{path.stat().st_size} bytes" if path.is_file() else "no such file"


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else f"it raises {type(error).__name__}")[:300].rstrip(".")


def _help(path: Path) -> str:
    if path.is_file() and path.suffix.lower() == ".set" and is_hdf5(path):
        return "It is a MATLAB 7.3 file (HDF5), which MNE does not read as EEGLAB data: in EEGLAB, save it with pop_saveset(EEG, 'savemode', 'twofiles') after pop_editoptions('option_saveversion6', 1), or export it as BrainVision or EDF."
    return "Is it whole, and are the files that belong to it (.eeg and .vmrk, .fdt) beside it?"


def read_any(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Anything that MNE reads. -> Raw, or Epochs (also of averages, one epoch each); notes

    Args:
        path: a raw file of any format of mne.io.read_raw, -epo.fif, epochs in EEGLAB's .set, or averages in -ave.fif.
    Raises:
        DataError: if it cannot be read, or is truncated.
    """
    import mne

    stem = path.name.removesuffix(".gz").removesuffix(".fif")
    if path.name != stem and stem.endswith(("-epo", "_epo")):
        return quietly(lambda: mne.read_epochs(path, preload=True, verbose="warning"), path)
    if path.name != stem and stem.endswith(("-ave", "_ave")):
        return quietly(lambda: _averages(path), path)
    if path.suffix.lower() == ".set":
        return quietly(lambda: _eeglab(path), path)
    return quietly(lambda: mne.io.read_raw(path, preload=True, verbose="warning"), path)


def _eeglab(path: Path) -> Any:
    import mne

    try:
        return mne.io.read_raw_eeglab(path, preload=True, verbose="warning")
    except TypeError as error:
        if "trials" not in str(error):
            raise
        return mne.read_epochs_eeglab(path, verbose="warning")


def _averages(path: Path) -> Any:
    """Averages as epochs: their comments name the events, and metadata hold how many trials each averages."""
    import mne
    import pandas as pd

    evokeds = mne.read_evokeds(path, verbose="warning")
    codes = {str(one.comment): index for index, one in enumerate(evokeds, 1)}
    if len(codes) < len(evokeds):
        raise ValueError(f"it has {len(evokeds)} averages and {len(codes)} different comments")
    events = np.array([[index, 0, index] for index in range(1, len(evokeds) + 1)])
    table = pd.DataFrame({"n_averaged": [one.nave for one in evokeds]})
    values = np.stack([one.data for one in evokeds])
    return mne.EpochsArray(values, evokeds[0].info, events, evokeds[0].tmin, codes, metadata=table, verbose="error")


class Events(dict[str, np.ndarray]):
    """Column name -> (n_events,) values; `event` is the name of each, and onset_s its seconds from the start of a raw file."""

    def rows(self, keep: np.ndarray) -> Events:
        """Some events, by mask or index."""
        return Events({name: values[keep] for name, values in self.items()})


def events_of(data: Any, source: str, stim_channel: str, path: Path, table: str = "") -> Events:
    """The events that a file itself holds.

    Args:
        data: Raw or Epochs.
        source: "annotations" or "stim" for Raw; epochs know their own.
        stim_channel: for "stim"; empty takes the only one.
        path: the file, for messages.
        table: file of a BIDS folder that should hold the events and is not there, for messages.
    Raises:
        DataError: if there is none; says where events may be instead.
        ConfigError: if the stim channel is not there.
    """
    import mne

    if hasattr(data, "drop_log"):
        named = {code: name for name, code in data.event_id.items()}
        columns = (
            {} if data.metadata is None else {str(name): np.asarray(data.metadata[name]) for name in data.metadata}
        )
        event = np.asarray([named.get(code, str(code)) for code in data.events[:, 2]], dtype=object)
        return Events({"event": event, **columns})
    sfreq = float(data.info["sfreq"])
    if source == "annotations":
        names = sorted(set(map(str, data.annotations.description)))
        codes = {name: number for number, name in enumerate(names, 1)}
        events, used = (
            mne.events_from_annotations(data, codes, verbose="error") if names else (np.zeros((0, 3), int), {})
        )
        named = {code: name for name, code in used.items()}
    else:
        has = [name for name, kind in zip(data.ch_names, data.get_channel_types(), strict=True) if kind == "stim"]
        chosen = stim_channel or (has[0] if len(has) == 1 else "")
        if chosen not in data.ch_names:
            raise ConfigError(
                f"dataset.stim_channel={stim_channel!r}: {path} has the stim channels {', '.join(has) or 'none'}. Name one of them, or take dataset.events=annotations or a table."
            )
        events = mne.find_events(data, chosen, shortest_event=1, verbose="error")
        named = {code: str(code) for code in events[:, 2].tolist()}
    if not len(events):
        raise DataError(f"{path} has no event in its {source}. {_other_events(data, source, table)}")
    return Events({
        "event": np.asarray([named[code] for code in events[:, 2].tolist()], dtype=object),
        ONSET: (events[:, 0] - data.first_samp) / sfreq,
    })  # fmt: skip


def _other_events(data: Any, source: str, file: str) -> str:
    """Where events may be instead."""
    if file:
        return f"Write {file} beside it, with the columns onset, duration and trial_type."
    table = "ame a table of events in dataset.events, with the columns onset and trial_type."
    has = [name for name, kind in zip(data.ch_names, data.get_channel_types(), strict=True) if kind == "stim"]
    if source != "annotations" or not has:
        return f"N{table}"
    which = f"channel {has[0]}" if len(has) == 1 else f"channel that dataset.stim_channel names ({', '.join(has)})"
    return f"Set dataset.events=stim to read the trigger {which}, or n{table}"


def events_table(path: Path, onset_column: str, event_column: str) -> Events:
    """Events of a table such as BIDS' events.tsv; all its columns are kept.

    Args:
        path: CSV or TSV.
        onset_column: column of onsets in seconds from the start of the recording.
        event_column: column that names the event; empty names them all "event".
    Raises:
        DataError: if a column is missing or an onset is no number.
    """
    rows = table_rows(path, tuple(name for name in (onset_column, event_column) if name))
    columns = {name: column_of([row[name] for row in rows]) for name in rows[0]}
    event = [row[event_column] if event_column else "event" for row in rows]
    return Events({**columns, "event": np.asarray(event, dtype=object), ONSET: numbers(rows, onset_column, path)})


def chosen_events(
    events: Events, use: Sequence[str], renamed: Mapping[str, Any], n_events: int | None, where: str
) -> Events:
    """The events that are trials, under their names of the configuration.

    Args:
        events: all events.
        use: names of those that are trials; empty takes those of `renamed`, or all.
        renamed: name in the file -> name of the stimulus or condition.
        n_events: how many there must be; None does not look.
        where: whose they are, for messages.
    Raises:
        DataError: if a name is not there, or there are more or fewer.
    """
    names = [str(one) for one in (use or renamed)]
    has = sorted(set(events["event"].tolist()))
    missing = [name for name in (*names, *map(str, renamed)) if name not in has]
    if missing:
        raise DataError(
            f"{where}: no event is named {missing[0]!r}. {near(missing[0], has)} It has {len(has)} names: {', '.join(has[:12])}."
        )
    kept = events.rows(np.isin(events["event"].astype(str), names)) if names else events
    if n_events is not None and len(kept["event"]) != n_events:
        raise DataError(
            f"{where}: {len(kept['event'])} events, and dataset.n_events={n_events} are expected. Is the recording whole, and are these its events?"
        )
    words = {str(name): str(value) for name, value in renamed.items()}
    kept["event"] = np.asarray([words.get(name, name) for name in kept["event"].tolist()], dtype=object)
    return kept


def with_metadata(events: Events, metadata: str, key: str, where: str) -> Events:
    """Events with the columns of a table: one row per event in order, or looked up by a column.

    Args:
        events: of one run.
        metadata: CSV or TSV; empty adds nothing.
        key: column of both that says which row belongs to an event; empty takes rows in order.
        where: whose they are, for messages.
    Raises:
        DataError: if the numbers disagree, or a key has no row or several.
    """
    if not metadata:
        return events
    path = find(metadata)
    rows = table_rows(path, (key,) if key else ())
    if not key:
        if len(rows) != len(events["event"]):
            raise DataError(
                f"{where}: {len(events['event'])} events, and {path} has {len(rows)} rows: they must be as many, in the same order. Choose the events with dataset.use_events, or name the column that both have in dataset.metadata_key."
            )
        index = list(range(len(rows)))
    else:
        if key not in events:
            raise DataError(f"{where}: the events have no column {key!r}. {near(key, events)}")
        place: dict[str, int] = {}
        for number, row in enumerate(rows):
            if row[key] in place:
                raise DataError(
                    f"{path}: {key}={row[key]!r} is in rows {place[row[key]] + 1} and {number + 1}. Give each its own."
                )
            place[row[key]] = number
        wanted = [_word(value) for value in events[key].tolist()]
        missing = [name for name in wanted if name not in place]
        if missing:
            raise DataError(
                f"{where}: {len(missing)} of {len(wanted)} events have no row in {path}, first {key}={missing[0]!r}. {near(missing[0], place)}"
            )
        index = [place[name] for name in wanted]
    added = {name: column_of([rows[at][name] for at in index]) for name in rows[0] if name != key}
    return Events({**added, **events})


def _word(value: Any) -> str:
    """A value as it is written in a table: 3.0 is 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def named_stimuli(events: Events, columns: Sequence[str], where: str) -> Events:
    """Events with stimulus_id, made of some of their columns; `index` counts the events of a run from 1.

    Args:
        events: of one run.
        columns: which ones.
        where: whose they are, for messages.
    Raises:
        ConfigError: if no column is named.
        DataError: if a column is not there, or is empty for an event.
    """
    if not columns:
        raise ConfigError(
            f"dataset.stimulus_columns is empty: name the columns that identify a stimulus. {where} has {', '.join(events)}, index."
        )
    width = len(str(len(events["event"])))
    counted = np.asarray([f"{number:0{width}d}" for number in range(1, len(events["event"]) + 1)], dtype=object)
    events = Events({"index": counted, **events})
    for column in columns:
        if column not in events:
            raise DataError(f"{where}: the events have no column {column!r}. {near(column, events)}")
    ids = ["/".join(_word(events[column][row]) for column in columns) for row in range(len(counted))]
    empty = [row for row, name in enumerate(ids) if name.strip() in ("", "n/a", "nan")]
    if empty:
        raise DataError(
            f"{where}: {len(empty)} of {len(ids)} events have no stimulus in {'/'.join(columns)}, first event {empty[0] + 1} ({events['event'][empty[0]]!r}). Choose the events that are trials with dataset.use_events."
        )
    return Events({**events, ID: np.asarray(ids, dtype=object)})


def prepared(data: Any, channel_types: Mapping[str, Any], mains_hz: float | None, where: str) -> Any:
    """A recording with the channel types and the mains frequency of the configuration.

    Args:
        data: Raw or Epochs.
        channel_types: channel -> type of MNE, such as "eog".
        mains_hz: replaces what the file says; None keeps it.
        where: whose it is, for messages.
    Raises:
        ConfigError: if a channel is not there, or a type is unknown.
    """
    missing = [name for name in channel_types if name not in data.ch_names]
    if missing:
        raise ConfigError(
            f"dataset.channel_types: {where} has no channel {missing[0]!r}. {near(missing[0], data.ch_names)}"
        )
    if channel_types:
        try:
            data.set_channel_types(
                {name: str(kind) for name, kind in channel_types.items()}, on_unit_change="ignore", verbose="error"
            )
        except ValueError as error:
            raise ConfigError(f"dataset.channel_types: {_first(error)}") from error
    if mains_hz is not None:
        with data.info._unlock():
            data.info["line_freq"] = float(mains_hz)
    return data


def work_of(data: Any, events: Events, want: Wanted, where: str, notes: Sequence[str] = ()) -> Work:
    """A run at the start of its steps.

    Args:
        data: Raw or Epochs.
        events: with stimulus_id.
        want: what is kept at the end.
        where: what it is, for messages.
        notes: of its reader.
    """
    before = sum(1 for log in getattr(data, "drop_log", ()) if log and log != ("IGNORED",))
    if before:
        notes = (*notes, f"{where}: {before} epochs had been dropped before the file was saved")
    return Work(data=data, events=dict(events), where=where, want=want, notes=tuple(notes))
