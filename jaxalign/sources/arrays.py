"""Responses that a user has as an array or a table: axes by name, stimuli by id, repetitions averaged."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.array_files import ArrayFile, open_array, read_block
from jaxalign.sources.checks import check_recording
from jaxalign.sources.montage import template_positions
from jaxalign.sources.places import digest, find_place
from jaxalign.sources.tables import TABLES, Columns, Named, open_table, read_names, truths
from jaxalign.sources.times import Bins, binned, bins_of

AXES = ("subjects", "stimuli", "trials", "repetitions", "channels", "times")
BLOCK_BYTES = 64 * 2**20


class _Trials(NamedTuple):
    """Where presentations belong, and what their average is made of."""

    values: np.ndarray
    counts: np.ndarray
    kept: np.ndarray | None


@dataclass(frozen=True)
class Arrays:
    """An array, or a table, of responses.

    Attributes:
        name: data set name in the table of results.
        path: .npy, .npz, .h5, .zarr or .nc, or a table .csv, .tsv, .parquet, .feather; absolute or under a data folder;
            "{subject}" in it stands for each of `subjects`.
        variable: name of the array inside the file; empty where there is one.
        axes: what the axes are, in the order of the file: subjects, stimuli (or trials), repetitions, channels, times.
            Empty takes the names that the file has, or stimuli, channels, times.
        subjects: subject names.
        stimulus_ids: file that names the rows: .csv or .tsv with the column `id_column`, .txt or .npy; empty takes the
            names that the file itself has. Rows of an axis "trials" may repeat a name and are averaged.
        channels: channel names; empty takes those that the file has, or numbers.
        sfreq_hz, tmin_s: sampling rate, and time of the first sample in seconds from stimulus onset; needed where
            there is an axis of times without coordinates.
        time_bin_s: width of time bins in seconds, averaged; null keeps the samples.
        unit: of the values, such as "V".
        test_column: column of `stimulus_ids` (or of the table) that marks the test set; empty for none.
        keep_trials: keep the single presentations of the test stimuli (of all, without a test set), for noise ceilings.
        id_column: column that names the stimulus.
        channel_column, time_column, repetition_column, value_column: of a long table, one row per value.
    """

    name: str = "arrays"
    path: str = ""
    variable: str = ""
    axes: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ("01",)
    stimulus_ids: str = ""
    channels: tuple[str, ...] = ()
    sfreq_hz: float | None = None
    tmin_s: float = 0.0
    time_bin_s: float | None = None
    unit: str = "a.u."
    test_column: str = ""
    keep_trials: bool = False
    id_column: str = "stimulus_id"
    channel_column: str = ""
    time_column: str = ""
    repetition_column: str = ""
    value_column: str = ""

    def __post_init__(self) -> None:
        for name in ("axes", "subjects", "channels"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        wrong = [axis for axis in self.axes if axis not in AXES]
        if wrong:
            raise ConfigError(f"dataset.axes names {wrong[0]!r}. {nearest(wrong[0], AXES)}")
        twice = [axis for axis, count in Counter(self.axes).items() if count > 1]
        both = "stimuli" in self.axes and "trials" in self.axes
        if twice or both:
            raise ConfigError(
                f"dataset.axes={list(self.axes)}: {twice[0] + ' is there twice' if twice else 'rows are either stimuli or trials'}."
            )
        if self.axes and not {"stimuli", "trials"} & set(self.axes):
            raise ConfigError(f"dataset.axes={list(self.axes)} has no stimuli (or trials): these are the rows.")
        if not self.subjects or len(set(self.subjects)) < len(self.subjects):
            raise ConfigError(f"dataset.subjects={list(self.subjects)}: name each subject once.")
        if len(self.subjects) > 1 and "{subject}" not in self.path and self.axes and "subjects" not in self.axes:
            raise ConfigError(
                f"dataset.subjects names {len(self.subjects)}: put {{subject}} into dataset.path, or subjects into dataset.axes."
            )

    def recordings(self) -> list[Recording]:
        """Read all subjects. -> one Recording each, repetitions averaged, in the unit that was named

        Raises:
            DataError: if a file is missing, damaged, holds objects, or does not fit the names given for its axes.
            ConfigError: if an axis, a time or a channel is asked for that cannot be there.
        """
        if not self.path:
            raise ConfigError("dataset.path is empty: name the file of the responses.")
        return [self._recording(subject) for subject in self.subjects]

    def _recording(self, subject: str) -> Recording:
        path = find_place(self.path.replace("{subject}", subject))
        with ExitStack() as stack:
            source = self._open(path, stack)
            axes = self._axes(source)
            named = self._names(source, axes, subject)
            is_test = self._is_test(named)
            rows = "stimuli" if "stimuli" in axes else "trials"
            ids = tuple(dict.fromkeys(named.ids)) if rows == "trials" else named.ids
            channels = self._channels(source, axes)
            bins = self._bins(source, axes)
            reader = _Reader(source, axes, self._subject_index(source, axes, subject), bins)
            wanted = self._wanted(named, ids, is_test)
            found = _by_stimulus(reader, named.ids, ids, wanted, source.where)
        first = [named.ids.index(name) for name in ids] if len(ids) < len(named.ids) else range(len(ids))
        return check_recording(
            Recording(
                dataset=self.name,
                subject=subject,
                stimulus_ids=ids,
                values=found.values,
                channels=channels,
                starts_s=np.full(1, np.nan) if bins is None else bins.starts_s,
                stops_s=np.full(1, np.nan) if bins is None else bins.stops_s,
                unit=self.unit,
                n_repetitions=found.counts,
                is_test=is_test[list(first)],
                positions=_positions(channels, self.unit),
                trials=found.kept,
                columns={name: np.asarray(column)[list(first)] for name, column in named.columns.items()},
                origin={"file": path.name, "variable": self.variable, "sha256": digest(path), "axes": list(axes)},
            )
        )

    def _open(self, path: Path, stack: ExitStack) -> ArrayFile:
        if path.suffix.lower() not in TABLES:
            return open_array(path, self.variable, stack)
        names = (self.id_column, self.channel_column, self.time_column, self.repetition_column, self.value_column)
        other = (self.test_column,) if self.test_column else ()
        return open_table(path, Columns(*names, other, () if self.value_column else self.channels))

    def _axes(self, source: ArrayFile) -> tuple[str, ...]:
        """What each axis of the array is."""
        own = source.dims if source.dims and set(source.dims) <= set(AXES) else ()
        axes = self.axes or own or ("stimuli", "channels", "times")[: max(2, len(source.shape))]
        if own == ("trials", "channels") and not self.axes:
            axes = ("stimuli", "channels")  # of a table, unless repeated rows are announced
        if len(axes) != len(source.shape):
            raise DataError(
                f"{source.where} has {len(source.shape)} axes of sizes {source.shape}, and dataset.axes names {len(axes)}: {', '.join(axes)}."
            )
        if self.axes and own and sorted(own) == sorted(self.axes) and own != self.axes:
            raise DataError(
                f"{source.where} names its axes {', '.join(own)}, and dataset.axes says {', '.join(axes)}: leave dataset.axes empty."
            )
        return axes

    def _names(self, source: ArrayFile, axes: tuple[str, ...], subject: str) -> Named:
        """Names of the rows, from the file that was given or from the array's own."""
        place = axes.index("stimuli") if "stimuli" in axes else axes.index("trials")
        if self.stimulus_ids:
            named = read_names(find_place(self.stimulus_ids.replace("{subject}", subject)), self.id_column)
        else:
            own = _labels(source, place)
            if own is None:
                raise ConfigError(
                    f"{source.where} does not name its {source.shape[place]} {axes[place]}: set dataset.stimulus_ids to a file that does, in the order of the array. Rows are matched by name."
                )
            columns = source.columns if place == 0 else {}
            named = Named(tuple(str(name) for name in own), columns, source.where)
        if len(named.ids) != source.shape[place]:
            raise DataError(
                f"{source.where} has {source.shape[place]} {axes[place]} on axis {place} (shape {source.shape}), and {named.where} names {len(named.ids)}. Is an axis named wrongly, or a file truncated?"
            )
        counts = Counter(named.ids)
        if axes[place] == "stimuli" and len(counts) < len(named.ids):
            name, count = counts.most_common(1)[0]
            raise DataError(
                f"{named.where}: {len(named.ids)} stimuli have {len(counts)} different ids, and {name!r} occurs {count} times. If rows are single presentations, name that axis trials in dataset.axes."
            )
        return named

    def _is_test(self, named: Named) -> np.ndarray:
        """(n_rows,) bool"""
        if not self.test_column:
            return np.zeros(len(named.ids), bool)
        if self.test_column not in named.columns:
            raise DataError(
                f"{named.where} has no column {self.test_column!r}, which dataset.test_column names. {nearest(self.test_column, named.columns)}"
            )
        is_test = truths(named.columns[self.test_column], f"{named.where}, column {self.test_column}")
        both = {name for name, mark in zip(named.ids, is_test, strict=True) if mark}
        both &= {name for name, mark in zip(named.ids, is_test, strict=True) if not mark}
        if both:
            raise DataError(
                f"{named.where}: {len(both)} stimuli are marked as test in some rows and not in others, first {min(both)!r}."
            )
        return is_test

    def _wanted(self, named: Named, ids: tuple[str, ...], is_test: np.ndarray) -> tuple[str, ...]:
        """Stimuli whose single presentations are kept."""
        if not self.keep_trials:
            return ()
        marked = {name for name, mark in zip(named.ids, is_test, strict=True) if mark or not is_test.any()}
        return tuple(name for name in ids if name in marked)

    def _channels(self, source: ArrayFile, axes: tuple[str, ...]) -> tuple[str, ...]:
        if "channels" not in axes:
            return self.channels or ("channel",)
        place = axes.index("channels")
        own = _labels(source, place)
        n_channels = source.shape[place]
        numbered = [f"channel{index:0{len(str(n_channels))}d}" for index in range(1, n_channels + 1)]
        names = self.channels or tuple(map(str, numbered if own is None else own))
        if len(names) != n_channels or len(set(names)) < len(names):
            raise DataError(
                f"{source.where} has {n_channels} channels on axis {place} (shape {source.shape}), and {len(names)} names are given, {len(set(names))} of them different."
            )
        return names

    def _bins(self, source: ArrayFile, axes: tuple[str, ...]) -> Bins | None:
        """Time bins; None without an axis of times."""
        if "times" not in axes:
            if self.time_bin_s is not None or self.sfreq_hz is not None:
                raise ConfigError(
                    f"{source.where} has no axis of times ({', '.join(axes)}): leave sfreq_hz and time_bin_s out."
                )
            return None
        place = axes.index("times")
        own = _labels(source, place)
        if self.sfreq_hz is None:
            if own is None or len(own) < 2:
                raise ConfigError(
                    f"{source.where} has {source.shape[place]} times and does not say when: set dataset.sfreq_hz and dataset.tmin_s."
                )
            times = np.asarray(own, np.float64)
            steps = np.diff(times)
            if not (steps > 0).all() or np.ptp(steps) > 1e-3 * steps.mean():
                raise DataError(
                    f"{source.where}: its times are not evenly spaced, steps run from {steps.min():g} to {steps.max():g} s."
                )
            if np.abs(times).max() > 100:
                raise DataError(
                    f"{source.where}: its times run from {times[0]:g} to {times[-1]:g}. Seconds are needed; are these milliseconds or samples? Set dataset.sfreq_hz and dataset.tmin_s."
                )
            return bins_of(times, 1 / steps.mean(), self.time_bin_s)
        if not self.sfreq_hz > 0:
            raise ConfigError(f"dataset.sfreq_hz={self.sfreq_hz}: samples per second are above 0.")
        times = self.tmin_s + np.arange(source.shape[place]) / self.sfreq_hz
        return bins_of(times, self.sfreq_hz, self.time_bin_s)

    def _subject_index(self, source: ArrayFile, axes: tuple[str, ...], subject: str) -> int:
        if "subjects" not in axes:
            return 0
        place = axes.index("subjects")
        own = _labels(source, place)
        names = self.subjects if own is None else tuple(map(str, own))
        if len(names) != source.shape[place] or subject not in names:
            raise DataError(
                f"{source.where} has {source.shape[place]} subjects ({', '.join(names[:8])}), and dataset.subjects={list(self.subjects)}."
            )
        return names.index(subject)


class _Reader(NamedTuple):
    """Blocks of rows of one subject."""

    source: ArrayFile
    axes: tuple[str, ...]
    subject: int
    bins: Bins | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Repetitions, channels and time bins of a row."""
        size = dict(zip(self.axes, self.source.shape, strict=True))
        n_bins = 1 if self.bins is None else len(self.bins.starts_s)
        return size.get("repetitions", 1), size.get("channels", 1), n_bins

    @property
    def n_at_once(self) -> int:
        size = dict(zip(self.axes, self.source.shape, strict=True))
        per_row = size.get("repetitions", 1) * size.get("channels", 1) * size.get("times", 1)
        return max(1, BLOCK_BYTES // (8 * per_row))

    def block(self, start: int, stop: int) -> np.ndarray:
        """Rows of the array. -> (stop - start, n_repetitions, n_channels, n_time_bins) float64"""
        rows = [slice(None)] * len(self.axes)
        rows[self.axes.index("stimuli" if "stimuli" in self.axes else "trials")] = slice(start, stop)
        if "subjects" in self.axes:
            rows[self.axes.index("subjects")] = slice(self.subject, self.subject + 1)
        values = np.asarray(read_block(self.source, tuple(rows)), np.float64)
        order = {"subjects": 0, "stimuli": 1, "trials": 1, "repetitions": 2, "channels": 3, "times": 4}
        values = values.transpose(sorted(range(values.ndim), key=lambda place: order[self.axes[place]]))
        n_repetitions, n_channels, _ = self.shape
        values = values.reshape(stop - start, n_repetitions, n_channels, -1)
        return values if self.bins is None else binned(values, self.bins)


def _labels(source: ArrayFile, place: int) -> np.ndarray | None:
    """Labels along an axis, where the file has them."""
    return source.coords.get(source.dims[place]) if source.dims else None


def _by_stimulus(
    reader: _Reader, names: tuple[str, ...], ids: tuple[str, ...], wanted: tuple[str, ...], where: str
) -> _Trials:
    """Average what belongs to one stimulus; a repetition that is NaN throughout was not shown."""
    place = {name: index for index, name in enumerate(ids)}
    rows = np.array([place[name] for name in names])
    n_repetitions, *shape = reader.shape
    sums = np.zeros((len(ids), *shape))
    counts = np.zeros(len(ids), np.int32)
    singles: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for start in range(0, len(names), reader.n_at_once):
        stop = min(start + reader.n_at_once, len(names))
        block = reader.block(start, stop)
        is_shown = np.ones(block.shape[:2], bool) if n_repetitions == 1 else ~np.isnan(block).all((2, 3))
        np.add.at(sums, rows[start:stop], np.where(is_shown[:, :, None, None], block, 0).sum(1))
        np.add.at(counts, rows[start:stop], is_shown.sum(1).astype(np.int32))
        for index in range(stop - start):
            if names[start + index] in singles:
                singles[names[start + index]].extend(block[index, is_shown[index]].astype(np.float32))
    if not counts.all():
        never = np.flatnonzero(counts == 0)
        raise DataError(
            f"{where}: {len(never)} of {len(ids)} stimuli are NaN in every repetition, first {ids[never[0]]!r}. Leave them out."
        )
    kept = _stacked(singles, where) if wanted else None
    return _Trials((sums / counts[:, None, None]).astype(np.float32), counts, kept)


def _stacked(singles: dict[str, list[np.ndarray]], where: str) -> np.ndarray:
    """Presentations of the stimuli whose trials are kept, of which each has the same number. -> (n, n_repetitions, ...)"""
    shown = {name: len(values) for name, values in singles.items()}
    once = [name for name, count in shown.items() if count < 2]
    if once:
        raise DataError(
            f"{where}: {len(once)} of {len(shown)} stimuli were shown once, first {once[0]!r}; repetitions are needed to keep trials. Set dataset.keep_trials=false, or leave those stimuli out (of the test set)."
        )
    if len(set(shown.values())) > 1:
        few, many = min(shown, key=lambda name: shown[name]), max(shown, key=lambda name: shown[name])
        raise DataError(
            f"{where}: stimuli were shown {shown[few]} ({few!r}) to {shown[many]} ({many!r}) times; keeping trials needs the same number of each."
        )
    return np.stack([np.stack(values) for values in singles.values()])


def _positions(channels: tuple[str, ...], unit: str) -> np.ndarray:
    """Template positions of electrodes whose names are known; NaN for others. -> (n_channels, 3) metres"""
    nowhere = np.full((len(channels), 3), np.nan)
    if not unit.endswith("V"):
        return nowhere
    places: Any = template_positions(channels)
    return nowhere if np.isnan(places).all() else places
