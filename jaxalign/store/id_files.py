"""Stimulus ids in files: a CSV column stimulus_id, one id per line, or a NumPy array of names."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxalign.errors import DataError, nearest

COLUMN = "stimulus_id"
LINES = "stimulus_ids.txt"


def read_ids(file: Path) -> tuple[str, ...]:
    """Stimulus ids, (n_stimuli,), in the order of the file.

    Args:
        file: .csv with a column stimulus_id, .txt with one id per line, or .npy with strings or integers.
    Raises:
        DataError: if the file is missing or of another kind, or an id is empty or there twice.
    """
    readers = {".csv": _from_csv, ".txt": _from_lines, ".npy": _from_npy}
    if file.suffix.lower() not in readers:
        raise DataError(f"{file} holds no stimulus ids that can be read: use one of {', '.join(readers)}.")
    try:
        ids = readers[file.suffix.lower()](file)
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist: give the file of the stimulus ids.") from error
    except (ValueError, OSError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read as stimulus ids: {error}. Save it as text in UTF-8.") from error
    check_ids(ids, str(file))
    return ids


def check_ids(ids: Sequence[str], where: str) -> None:
    """Refuse ids that do not name one stimulus each.

    Raises:
        DataError: naming the first id that is there twice, or the first that is empty, with its place.
    """
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name:
            raise DataError(f"{where} has an empty stimulus id at place {row} of {len(ids)}: every row needs a name.")
        if name in first:
            n_twice = len(ids) - len(set(ids))
            raise DataError(
                f"{where} has the stimulus id {name!r} at places {first[name]} and {row} ({n_twice} of {len(ids)} repeat an earlier one): ids must be unique. Average repetitions first."
            )
        first[name] = row


def can_be_lines(ids: Sequence[str]) -> bool:
    """Whether the ids come back from a file of lines as they are."""
    return not any("\n" in name or name.endswith("\r") for name in ids) and not ids[0].startswith("\ufeff")


def _from_csv(file: Path) -> tuple[str, ...]:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        table = csv.DictReader(handle)
        columns = [str(name) for name in table.fieldnames or ()]
        if COLUMN not in columns:
            raise DataError(f"{file} has {len(columns)} columns and none is {COLUMN}. {nearest(COLUMN, columns)}")
        return tuple(row[COLUMN] or "" for row in table)


def _from_lines(file: Path) -> tuple[str, ...]:
    lines = file.read_bytes().decode("utf-8-sig").split("\n")
    lines = lines[:-1] if not lines[-1] else lines
    return tuple(line.removesuffix("\r") for line in lines)


def _from_npy(file: Path) -> tuple[str, ...]:
    array = np.load(file, allow_pickle=False)
    if array.ndim != 1 or array.dtype.kind not in "Uiu":
        raise DataError(f"{file} has shape {array.shape} and dtype {array.dtype}: save one row of strings or integers.")
    return tuple(str(name) for name in array.tolist())
