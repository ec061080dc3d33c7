"""Responses in tables (CSV, TSV, Parquet, Feather), one row per stimulus or per value; and files that name stimuli."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.array_files import ArrayFile, given_array
from jaxalign.sources.rows import rows_of

TABLES = (".csv", ".tsv", ".tab", ".parquet", ".feather")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Attributes:
        stimulus: names the stimulus.
        channel, time, repetition, value: of a long table; a table without `value` is wide, one column per channel.
        other: columns that are metadata and no channel.
        channels: columns that are channels; every other numeric column when empty.
    """

    stimulus: str
    channel: str = ""
    time: str = ""
    repetition: str = ""
    value: str = ""
    other: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """Names of stimuli, in order, with what is said of each.

    Attributes:
        ids: (n,) names.
        columns: column -> (n,) texts.
        where: file, for messages.
    """

    ids: tuple[str, ...]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    where: str = ""


def open_table(path: Path, columns: Columns) -> ArrayFile:
    """Responses of a table as an array with named axes.

    Args:
        path: CSV, TSV, Parquet or Feather file.
        columns: which column is what.
    Returns:
        (trials, channels) of a wide table, (stimuli[, repetitions], channels[, times]) of a long one; NaN where a long
        table has no row.
    Raises:
        DataError: if the file cannot be read, or a column is missing or no number.
    """
    table = _read(path)
    needed = [columns.stimulus, columns.channel, columns.time, columns.repetition, columns.value, *columns.channels]
    for name in filter(None, needed):
        if name not in table:
            raise DataError(f"{path} has no column {name!r}. {nearest(name, map(str, table.columns))}")
    return _long(table, path, columns) if columns.value else _wide(table, path, columns)


def read_names(path: Path, column: str = "stimulus_id") -> Named:
    """Names of stimuli or trials, in the order of the file.

    Args:
        path: .csv or .tsv with the column, .txt with one name per line, or .npy of strings or integers.
        column: that names the stimulus.
    Raises:
        DataError: if it is no such file, or a name is empty.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv", ".tab"):
        rows = [row for _, row in rows_of(path, (column,))]
        found = (
            {name: np.array([row[name].strip() for row in rows]) for name in rows[0]}
            if rows
            else {column: np.zeros(0, str)}
        )
        named = Named(tuple(map(str, found.pop(column))), found, str(path))
    elif kind == ".txt":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        named = Named(tuple(line.strip() for line in lines), {}, str(path))
    elif kind == ".npy":
        named = Named(_from_npy(path), {}, str(path))
    else:
        raise DataError(f"{path} holds no names that can be read: use .csv, .tsv, .txt or .npy.")
    empty = [row for row, name in enumerate(named.ids) if not name]
    if empty or not named.ids:
        raise DataError(
            f"{path} has {len(empty)} empty names among {len(named.ids)}, first in row {empty[0] if empty else 0}: every row needs one."
        )
    return named


def truths(values: Iterable[Any], where: str) -> np.ndarray:
    """Which rows a column marks. -> (n,) bool

    Args:
        values: true, yes, 1, test, or false, no, 0, train in any case.
        where: file and column, for messages.
    Raises:
        DataError: if a value is none of them.
    """
    words = {"true": True, "yes": True, "1": True, "test": True, "1.0": True}
    words |= {"false": False, "no": False, "0": False, "train": False, "training": False, "0.0": False}
    texts = [str(value).strip().lower() for value in values]
    wrong = [text for text in texts if text not in words]
    if wrong:
        raise DataError(f"{where} holds {wrong[0]!r} ({len(wrong)} of {len(texts)} such): use true and false.")
    return np.array([words[text] for text in texts], bool)


def _from_npy(path: Path) -> tuple[str, ...]:
    try:
        names = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as names: {error}. Save one row of strings.") from error
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise DataError(f"{path} has shape {names.shape} and dtype {names.dtype}: save one row of strings or integers.")
    return tuple(str(name) for name in names.tolist())


def _read(path: Path) -> Any:
    import pandas

    readers = {".parquet": pandas.read_parquet, ".feather": pandas.read_feather}
    kind = path.suffix.lower()
    try:
        if kind in readers:
            return readers[kind](path)
        return pandas.read_csv(path, sep="," if kind == ".csv" else "\t", encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} ({path.stat().st_size} bytes) cannot be read as a table: {first}.") from error


def _wide(table: Any, path: Path, columns: Columns) -> ArrayFile:
    rest = [name for name in table.columns if name != columns.stimulus and name not in columns.other]
    numeric = [name for name in rest if table[name].dtype.kind in "fiu"]
    channels = list(columns.channels) or numeric
    wrong = [name for name in channels if table[name].dtype.kind not in "fiub"]
    if wrong or not channels:
        what = f"column {wrong[0]!r} holds {table[wrong[0]].iloc[0]!r}" if wrong else "no other column holds numbers"
        raise DataError(f"{path}: {what}; a channel is a column of numbers. Name them in dataset.channels.")
    named = {str(name): np.asarray(table[name]) for name in table.columns if name not in (columns.stimulus, *channels)}
    coords = {"trials": _text(table[columns.stimulus]), "channels": np.array([str(name) for name in channels])}
    values = table[channels].to_numpy(np.float64)
    return given_array(values, str(path), ("trials", "channels"), coords=coords, columns=named)


def _long(table: Any, path: Path, columns: Columns) -> ArrayFile:
    if not columns.channel:
        raise ConfigError(f"dataset.value_column={columns.value} makes {path.name} a long table: set channel_column.")
    roles = {"stimuli": columns.stimulus, "repetitions": columns.repetition, "channels": columns.channel, "times": columns.time}  # fmt: skip
    roles = {axis: name for axis, name in roles.items() if name}
    if table[columns.value].dtype.kind not in "fiub":
        raise DataError(f"{path}: column {columns.value!r} holds {table[columns.value].iloc[0]!r}, which is no number.")
    codes, coords = [], {}
    for axis, name in roles.items():
        given = table[name].to_numpy(np.float64) if axis == "times" else _text(table[name])
        labels, first, code = np.unique(given, return_index=True, return_inverse=True)
        if axis != "times":  # in order of appearance
            order = np.argsort(first)
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            labels, code = labels[order], place[code]
        codes.append(code)
        coords[axis] = labels
    shape = tuple(len(labels) for labels in coords.values())
    flat = np.ravel_multi_index(tuple(codes), shape)
    if len(np.unique(flat)) < len(flat):
        n_twice = len(flat) - len(np.unique(flat))
        raise DataError(
            f"{path}: {n_twice} of {len(flat)} rows repeat a combination of {', '.join(roles.values())}: name the column that tells repetitions apart in dataset.repetition_column."
        )
    values = np.full(shape, np.nan)
    values.reshape(-1)[flat] = table[columns.value].to_numpy(np.float64)
    return given_array(values, str(path), tuple(roles), coords=coords)


def _text(column: Any) -> np.ndarray:
    return np.array([str(value) for value in column])
