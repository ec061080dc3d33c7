"""Trials of one subject on their way from epochs to a Recording: values, labels, what was dropped and why."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.checks import check_recording
from jaxalign.sources.files import find
from jaxalign.sources.frame_rows import in_time_order, is_frames
from jaxalign.sources.montage import are_metres, template_positions
from jaxalign.sources.rows import table_rows
from jaxalign.sources.times import inside

UNITS = {
    **dict.fromkeys(("eeg", "eog", "ecg", "emg", "seeg", "ecog", "dbs"), "V"),
    "mag": "T",
    "grad": "T/m",
    "dipole": "Am",
    "hbo": "M",
    "hbr": "M",
    "ref_meg": "T",
}
"""SI unit in which MNE holds a channel type."""

ID = "stimulus_id"
TEST_WORDS = ("1", "1.0", "true", "test", "yes")
"""Values of a column, in lower case, that say that a trial belongs to the test set."""


LONGEST_LIST = 200
"""Characters of a list of names in a message: thousands of stimuli have names."""


def near(name: str, known: Iterable[str]) -> str:
    """The known names closest to a wrong one, or the first of them."""
    text = nearest(name, map(str, known))
    return text if len(text) <= LONGEST_LIST else f"{text[:LONGEST_LIST].rpartition(',')[0]} and more."


@dataclass(frozen=True)
class Trials:
    """Trials of one run or one subject, on the host.

    Attributes:
        values: (n_trials, n_channels, n_time_bins) float32, in `unit`.
        ids: (n_trials,) stimulus of each trial.
        channels: channel names.
        positions: (n_channels, 3) metres, NaN where unknown.
        starts_s, stops_s: (n_time_bins,) seconds from onset, half open.
        sfreq_hz: sampling rate that the bins were made from.
        unit: unit of the values.
        columns: column name -> (n_trials,) values.
        is_test: (n_trials,) bool.
        n_repetitions: (n_trials,) presentations that a row averages; 1 for a single trial.
        dropped: (stimulus id, reason) of each trial that is not there.
        kept: (n_kept_stimuli, n_repetitions, n_channels, n_time_bins) single trials beside averages, or None.
        notes: what a reader of the results must know.
    """

    values: np.ndarray
    ids: np.ndarray
    channels: tuple[str, ...]
    positions: np.ndarray
    starts_s: np.ndarray
    stops_s: np.ndarray
    sfreq_hz: float
    unit: str
    columns: Mapping[str, np.ndarray]
    is_test: np.ndarray
    n_repetitions: np.ndarray
    dropped: tuple[tuple[str, str], ...] = ()
    kept: np.ndarray | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What a data set keeps of its trials; the fields are those of the data sets in the configuration.

    Attributes:
        dataset, subject: names in the table.
        picks: channel type, such as "eeg", or "all" for one type only.
        channels: channels to keep, in this order; all of the type when empty.
        tmin_s, tmax_s: bins that start within [tmin_s, tmax_s); null keeps all.
        stimuli: stimulus ids to keep, in this order; empty keeps all, sorted by id.
        stimuli_file: CSV or TSV with a column stimulus_id instead of the list.
        test_stimuli: stimulus ids of the given test set.
        test_column: column of the trials whose values test, true, yes or 1 mark the test set.
    """

    dataset: str = ""
    subject: str = ""
    picks: str = "eeg"
    channels: tuple[str, ...] = ()
    tmin_s: float | None = None
    tmax_s: float | None = None
    stimuli: tuple[str, ...] = ()
    stimuli_file: str = ""
    test_stimuli: tuple[str, ...] = ()
    test_column: str = ""

    @property
    def stimulus_ids(self) -> tuple[str, ...]:
        """The ids that are asked for; empty for all.

        Raises:
            ConfigError: if both a list and a file are given, or an id is given twice.
            DataError: if the file has no column stimulus_id.
        """
        if self.stimuli and self.stimuli_file:
            raise ConfigError("dataset.stimuli and dataset.stimuli_file are both given: keep one of them.")
        ids = tuple(map(str, self.stimuli))
        if self.stimuli_file:
            ids = tuple(row[ID] for row in table_rows(find(self.stimuli_file), (ID,)))
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if twice:
            raise ConfigError(f"dataset.stimuli names {len(twice)} of {len(set(ids))} ids twice, first {twice[0]!r}.")
        return ids


SELECTION = tuple(option.name for option in fields(Wanted) if option.name not in ("dataset", "subject"))
"""Options that every data set with steps has; Wanted says their types and what is taken without them."""


def wanted(dataset: Any, subject: str) -> Wanted:
    """The selection that a data set of the configuration asks for.

    Args:
        dataset: a dataclass with the options of SELECTION; `name` is its name in the table.
        subject: whose recording it is.
    """
    return Wanted(dataset.name, subject, **{name: getattr(dataset, name) for name in SELECTION})


def keep_names(dataset: Any) -> None:
    """Lists of names of a data set of the configuration become tuples of strings, so that nobody changes them.

    Names of maps become strings too: a trigger, a subject or a sound file may be called by its number.

    Args:
        dataset: a frozen dataclass, in its __post_init__; its fields of type tuple[str, ...] and
            dict[Any, Any] are replaced.
    """
    for name, hint in get_type_hints(type(dataset)).items():
        if hint == tuple[str, ...]:
            object.__setattr__(dataset, name, tuple(map(str, getattr(dataset, name))))
        if hint == dict[Any, Any]:
            object.__setattr__(dataset, name, {str(key): value for key, value in getattr(dataset, name).items()})


def numbers(rows: Sequence[Mapping[str, str]], column: str, path: Path) -> np.ndarray:
    """A column of numbers of a table. -> (n_rows,) float64

    Args:
        rows: of the table.
        column: which one.
        path: of the table, for messages.
    Raises:
        DataError: naming the first row that holds no finite number.
    """
    values = np.full(len(rows), np.nan)
    for index, row in enumerate(rows):
        with contextlib.suppress(ValueError):
            values[index] = float(row[column])
        if not np.isfinite(values[index]):
            raise DataError(f"{path}, row {index + 1}: {column} holds {row[column]!r}, and a number is needed.")
    return values


def column_of(values: Sequence[str]) -> np.ndarray:
    """Values of a table's column: numbers where all are numbers, else strings. -> (n_rows,)"""
    try:
        return np.asarray([float(value) for value in values])
    except ValueError:
        return np.asarray(values, dtype=object)


def unit_of(inst: Any, where: str) -> str:
    """The one SI unit of an MNE object's channels.

    Args:
        inst: MNE Raw, Epochs or Evoked.
        where: what it is, for messages.
    Raises:
        DataError: if channels of different types, hence units, are together.
    """
    types = sorted(set(inst.get_channel_types()))
    if len(types) > 1:
        raise DataError(
            f"{where}: channel types {', '.join(types)} have different units and do not mix. Set dataset.picks to one of them."
        )
    return UNITS.get(types[0], "a.u.")


def picked(inst: Any, want: Wanted, where: str) -> Any:
    """A copy with the channels that are asked for, in the order asked; bad channels stay in it.

    Args:
        inst: MNE Raw, Epochs or Evoked.
        want: picks and channels.
        where: what it is, for messages.
    Raises:
        DataError: if a channel or the type is not there.
    """
    missing = [name for name in want.channels if name not in inst.ch_names]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(want.channels)} channels of dataset.channels are not among its {len(inst.ch_names)}, first {missing[0]!r}. {near(missing[0], inst.ch_names)}"
        )
    if want.channels:
        return inst.copy().pick(list(want.channels)).reorder_channels(list(want.channels))
    types = sorted(set(inst.get_channel_types()))
    names = [
        name
        for name, kind in zip(inst.ch_names, inst.get_channel_types(), strict=True)
        if want.picks in ("all", kind) or (want.picks == "meg" and kind in ("mag", "grad"))
    ]
    if not names:
        raise DataError(
            f"{where} has no channel that dataset.picks={want.picks} names: its {len(inst.ch_names)} channels are of type {', '.join(types)}."
        )
    return inst.copy().pick(names)


def positions_of(inst: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Channel positions, and a note where template positions stand in. -> (n_channels, 3) metres, notes"""
    places = np.stack([channel["loc"][:3] for channel in inst.info["chs"]]).astype(np.float64)
    unknown = ~np.isfinite(places).all(1) | (places == 0).all(1)
    places[unknown] = np.nan
    if are_metres(places):
        return places, ()
    template = template_positions(tuple(inst.ch_names))
    n_known = int(np.isfinite(template).all(1).sum())
    if unknown.all():
        note = f"the file has no channel positions: {n_known} of {len(template)} names are on the template head"
    else:
        radius = float(np.nanmedian(np.linalg.norm(places, axis=1)))
        note = f"channel positions of the file are not in metres (median radius {radius:.3g}): {n_known} of {len(template)} template positions of the same names are drawn"
    return template, (note,)


def joined(parts: Sequence[Trials], where: str) -> Trials:
    """Trials of several runs as those of one subject.

    Args:
        parts: one per run, in order.
        where: whose they are, for messages.
    Raises:
        DataError: if channels, times, units or columns of the runs differ.
    """
    first = parts[0]
    for index, other in enumerate(parts[1:], 2):
        if other.channels != first.channels:
            differing = sorted(set(first.channels) ^ set(other.channels)) or ["only the order"]
            raise DataError(
                f"{where}: run 1 has {len(first.channels)} channels and run {index} has {len(other.channels)}, and they differ in {', '.join(differing[:5])}. Name the common ones in dataset.channels, or interpolate bad channels instead of dropping them."
            )
        if other.values.shape[2] != first.values.shape[2] or not np.allclose(other.starts_s, first.starts_s, atol=1e-6):
            raise DataError(
                f"{where}: run 1 has {first.values.shape[2]} time bins at {first.sfreq_hz:g} Hz and run {index} has {other.values.shape[2]} at {other.sfreq_hz:g} Hz. Add the step resample, so that all runs have one rate."
            )
    shared = [name for name in first.columns if all(name in part.columns for part in parts)]
    return replace(
        first,
        values=np.concatenate([part.values for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in shared},
        is_test=np.concatenate([part.is_test for part in parts]),
        n_repetitions=np.concatenate([part.n_repetitions for part in parts]),
        dropped=tuple(one for part in parts for one in part.dropped),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def taken(trials: Trials, rows: np.ndarray) -> Trials:
    """Some trials, by index or mask; the others are not counted as dropped."""
    return replace(
        trials,
        values=trials.values[rows],
        ids=trials.ids[rows],
        columns={name: values[rows] for name, values in trials.columns.items()},
        is_test=trials.is_test[rows],
        n_repetitions=trials.n_repetitions[rows],
    )


def with_test(trials: Trials, want: Wanted, where: str) -> Trials:
    """Mark the trials of the given test set, by stimulus id and by a column.

    Args:
        trials: of one subject.
        want: test_stimuli and test_column.
        where: whose they are, for messages.
    Raises:
        DataError: if a test stimulus was never shown, the column is not there, or trials of one stimulus disagree.
    """
    names = set(map(str, want.test_stimuli))
    shown = set(trials.ids.tolist()) | {name for name, _ in trials.dropped}
    missing = sorted(names - shown)
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(names)} test stimuli were not shown, first {missing[0]!r}. {near(missing[0], shown)}"
        )
    is_test = np.isin(trials.ids, sorted(names)) if names else np.zeros(len(trials.ids), bool)
    if want.test_column:
        if want.test_column not in trials.columns:
            raise DataError(
                f"{where}: dataset.test_column={want.test_column} is no column. {near(want.test_column, trials.columns)}"
            )
        is_test |= np.array([str(value).lower() in TEST_WORDS for value in trials.columns[want.test_column]], bool)
    both = sorted(set(trials.ids[is_test].tolist()) & set(trials.ids[~is_test].tolist()))
    if both:
        raise DataError(
            f"{where}: {len(both)} stimuli have trials in the test set and outside it, first {both[0]!r}. A stimulus belongs to one of them."
        )
    return replace(trials, is_test=is_test)


def recording_of(trials: Trials, want: Wanted, origin: Mapping[str, Any]) -> Recording:
    """Rows, one per stimulus, as a checked Recording in the order of the stimuli asked for, else sorted by id.

    Args:
        trials: after all steps.
        want: what is kept.
        origin: where the data are from; notes are added to its "notes", counts under "trials".
    Returns:
        Columns n_trials_used and n_trials_dropped beside the trials' own say what happened to each stimulus.
    Raises:
        DataError: if a stimulus has more than one row, a stimulus that is asked for has none, or the responses cannot
            be used.
        ConfigError: if no bin starts between tmin_s and tmax_s.
    """
    where = f"{want.dataset}, subject {want.subject}"
    _check_one_row_each(trials, where)
    ids = want.stimulus_ids or tuple(sorted(trials.ids.tolist()))
    if is_frames(trials.columns):
        ids = in_time_order(trials.ids.tolist(), trials.columns, want.stimulus_ids, where)
    place = {name: index for index, name in enumerate(trials.ids.tolist())}
    missing = [name for name in ids if name not in place]
    if missing:
        reasons = Counter(reason for name, reason in trials.dropped if name == missing[0])
        why = f" Its trials were dropped: {_counted(reasons)}." if reasons else f" {near(missing[0], place)}"
        raise DataError(
            f"{where}: {len(missing)} of {len(ids)} stimuli have no trial left, first {missing[0]!r}.{why} Leave them out of dataset.stimuli, or drop fewer trials."
        )
    rows = np.array([place[name] for name in ids])
    bins = _bins(trials, want)
    lost = Counter(name for name, _ in trials.dropped)
    columns = {name: values[rows] for name, values in trials.columns.items()}
    columns["n_trials_used"] = trials.n_repetitions[rows].astype(np.int32)
    columns["n_trials_dropped"] = np.array([lost[name] for name in ids], np.int32)
    gone = sorted(set(lost) - set(place))
    counts = {
        "used": int(trials.n_repetitions[rows].sum()),
        "dropped": len(trials.dropped),
        "reasons": dict(sorted(Counter(reason for _, reason in trials.dropped).items())),
        "stimuli_without_a_trial": gone,
    }
    notes = [*origin.get("notes", ()), *trials.notes]
    if trials.dropped:
        n_shown = len(trials.dropped) + int(trials.n_repetitions.sum())
        notes.append(
            f"{len(trials.dropped)} of {n_shown} trials were dropped: {_counted(Counter(reason for _, reason in trials.dropped))}"
        )
    values = np.ascontiguousarray(trials.values[rows][:, :, bins], np.float32)
    recording = Recording(
        dataset=want.dataset,
        subject=want.subject,
        stimulus_ids=ids,
        values=values,
        channels=trials.channels,
        starts_s=trials.starts_s[bins],
        stops_s=trials.stops_s[bins],
        unit=trials.unit,
        n_repetitions=trials.n_repetitions[rows].astype(np.int32),
        is_test=trials.is_test[rows],
        positions=trials.positions,
        trials=_kept(trials, ids, bins),
        columns=columns,
        # Tables of events and of words, and the version of MNE, decide values too: their hash tells runs apart.
        origin={
            **origin,
            "sfreq_hz": trials.sfreq_hz,
            "trials": counts,
            "notes": notes,
            "values_sha256": _sha256(values),
        },
    )
    return check_recording(recording)


def _kept(trials: Trials, ids: Sequence[str], bins: np.ndarray) -> np.ndarray | None:
    """Single trials in the order of the stimuli. -> (n_kept_stimuli, n_repetitions, n_channels, n_time_bins)"""
    if trials.kept is None:
        return None
    of_kept = trials.is_test if trials.is_test.any() else np.ones(len(trials.ids), bool)
    place = {name: index for index, name in enumerate(trials.ids[of_kept].tolist())}
    return trials.kept[[place[name] for name in ids if name in place]][:, :, :, bins]


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.data).hexdigest()


def _bins(trials: Trials, want: Wanted) -> np.ndarray:
    start = trials.starts_s[0] if want.tmin_s is None else want.tmin_s
    stop = trials.stops_s[-1] + 1 if want.tmax_s is None else want.tmax_s
    found = inside(trials.starts_s, trials.sfreq_hz, start, stop)
    if not found.any():
        raise ConfigError(
            f"{want.dataset}, subject {want.subject}: no time bin starts in [{start:g}, {stop:g}) s of dataset.tmin_s and dataset.tmax_s; the trials run from {trials.starts_s[0]:.3f} to {trials.stops_s[-1]:.3f} s."
        )
    return found


def _check_one_row_each(trials: Trials, where: str) -> None:
    if not len(trials.ids):
        raise DataError(
            f"{where}: no trial is left of {len(trials.dropped)}: {_counted(Counter(reason for _, reason in trials.dropped))}. Drop fewer of them, or correct the events."
        )
    counts = Counter(trials.ids.tolist())
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DataError(
            f"{where}: {len(repeated)} of {len(counts)} stimuli were shown more than once, first {repeated[0]!r} ({counts[repeated[0]]} times). Add the step average to dataset.steps, or name columns in dataset.stimulus_columns that make the ids distinct."
        )


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none was found"


@dataclass(frozen=True)
class Work:
    """A run on its way through the steps.

    Attributes:
        data: MNE Raw or Epochs, or Trials at the end.
        events: column name -> (n_events,) values of the trials that are planned or left; onset_s is in seconds from
            the start of a raw recording, stimulus_id names the stimulus.
        where: what is read, for messages.
        want: what is kept at the end.
        notes: what a reader of the results must know.
        dropped: (stimulus id, reason) of each trial that was dropped.
    """

    data: Any
    events: Mapping[str, np.ndarray]
    where: str
    want: Wanted
    notes: tuple[str, ...] = field(default=())
    dropped: tuple[tuple[str, str], ...] = field(default=())

    def noted(self, note: str, **changes: Any) -> Work:
        """The same with a note more, and whatever else changes."""
        return replace(self, notes=(*self.notes, note), **changes)


def trials_of(work: Work) -> Trials:
    """Epochs as trials of the channels that are asked for.

    Args:
        work: epochs with their events.
    Raises:
        DataError: if channels are missing, or their units differ.
    """
    epochs = picked(work.data, work.want, work.where)
    unit = unit_of(epochs, work.where)
    positions, notes = positions_of(epochs)
    if epochs.info["bads"]:
        bad = ", ".join(epochs.info["bads"])
        notes = (*notes, f"{work.where}: channels marked bad are still there: {bad}; add interpolate or drop_channels")
    sfreq = float(epochs.info["sfreq"])
    starts = np.round(epochs.times.astype(np.float64), 9)
    n_trials = len(epochs)
    counts = work.events.get("n_averaged", np.ones(n_trials))
    return Trials(
        values=epochs.get_data(copy=False).astype(np.float32),
        ids=np.asarray(work.events[ID], dtype=object),
        channels=tuple(epochs.ch_names),
        positions=positions,
        starts_s=starts,
        stops_s=np.round(starts + 1 / sfreq, 9),
        sfreq_hz=sfreq,
        unit=unit,
        columns={name: values for name, values in work.events.items() if name not in (ID, "n_averaged")},
        is_test=np.zeros(n_trials, bool),
        n_repetitions=np.asarray(counts, np.int32),
        dropped=work.dropped,
        notes=(*work.notes, *notes),
    )
