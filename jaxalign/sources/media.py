"""Which files are stimuli: those of a folder by pattern, or those that a table names; their ids, order, groups and content."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.files import candidates, find, sha256
from jaxalign.sources.rows import rows_of

ID, FILE, GROUP = "stimulus_id", "file", "group"
"""Columns of a table of stimuli; the group is optional."""

HASHED_AT_ONCE = 4


@dataclass(frozen=True)
class Listing:
    """Stimuli that are files, none of them opened yet.

    Attributes:
        ids: (n_stimuli,) names, unique.
        paths: (n_stimuli,) files.
        groups: (n_stimuli,) labels that folds never split, or None.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    groups: np.ndarray | None


@dataclass(frozen=True)
class Asked:
    """What a stimulus set of files asks for.

    Attributes:
        kind: "images" or "sounds", for messages.
        path: folder.
        pattern: of file names, with * and ?.
        recursive: look into folders within the folder, too.
        table: CSV or TSV file that names the stimuli instead.
        suffixes: of files that can be decoded, in lower case.
    """

    kind: str
    path: str
    pattern: str
    recursive: bool
    table: str
    suffixes: tuple[str, ...]


def listed(asked: Asked) -> Listing:
    """The stimuli, in natural order of their ids (2 before 10) in a folder, in the order of the rows in a table.

    Args:
        asked: a folder and a pattern, or a table.
    Raises:
        ConfigError: if neither is named, or the folder is none.
        DataError: if no file is there, files are missing, or ids are not unique; with numbers.
    """
    if asked.table:
        return _from_table(asked)
    if not asked.path:
        raise ConfigError(
            f"The {asked.kind} are nowhere: set stimuli.path=FOLDER, or stimuli.table=FILE.csv with the columns {ID} and {FILE}."
        )
    return _from_folder(asked)


def content_sha256(listing: Listing) -> str:
    """Digest of all ids and of the bytes of all files, in order: it changes when any of them does.

    Args:
        listing: the stimuli.
    Raises:
        DataError: if a file is gone or cannot be read.
    """
    try:
        with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:  # hashing releases the interpreter's lock
            digests = list(pool.map(sha256, listing.paths))
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): check the file and its rights."
        ) from error
    together = hashlib.sha256()
    for name, digest in zip(listing.ids, digests, strict=True):
        together.update(f"{len(name)} {name} {digest}\n".encode())
    return together.hexdigest()


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Key of natural order: digits count as numbers, and capitals only break ties at the end."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part.casefold()) for part in parts)


def checked_index(index: int, n_stimuli: int) -> int:
    """An index of a stimulus.

    Raises:
        IndexError: if there is none of this number.
    """
    if not 0 <= index < n_stimuli:
        raise IndexError(f"There is no stimulus {index} among {n_stimuli}: count from 0 to {n_stimuli - 1}.")
    return index


def labels(values: Sequence[str]) -> np.ndarray:
    """Group names -> (n_stimuli,) int, numbered in order of appearance."""
    number = {name: index for index, name in enumerate(dict.fromkeys(values))}
    return np.array([number[name] for name in values])


def checked_ids(ids: Sequence[str], places: Sequence[str], where: str, remedy: str) -> tuple[str, ...]:
    """Ids of stimuli, of which there are some, none empty and none twice.

    Args:
        ids: (n_stimuli,) names.
        places: (n_stimuli,) file name or line of each, for messages.
        where: folder or table, for messages.
        remedy: what to do about an id that occurs twice, in a sentence.
    Raises:
        DataError: otherwise.
    """
    if not ids:
        raise DataError(f"{where} has 0 stimuli: at least 1 is needed.")
    blank = [place for name, place in zip(ids, places, strict=True) if not name]
    if blank:
        raise DataError(
            f"{where}: {len(blank)} of {len(ids)} stimuli have an empty id, first at {blank[0]}. Give each a name."
        )
    counts = Counter(ids)
    if len(counts) < len(ids):
        first = next(name for name in ids if counts[name] > 1)
        at = [place for name, place in zip(ids, places, strict=True) if name == first]
        n_twice = sum(count > 1 for count in counts.values())
        raise DataError(
            f"{where}: {len(ids)} stimuli have {len(counts)} different ids; {n_twice} occur more than once, first {first!r} "
            f"({', '.join(at[:3])}). {remedy}"
        )
    return tuple(ids)


# Folders


def _from_folder(asked: Asked) -> Listing:
    folder = _folder(asked.path)
    every = sorted(_files(folder, asked))
    paths = [path for path in every if path.suffix.lower() in asked.suffixes]
    if not paths:
        inside = "" if asked.recursive else " (stimuli.recursive=true looks into its folders)"
        found = Counter(path.suffix or path.name for path in every).most_common(3)
        seen = (
            f"{len(every)} files match, {', '.join(f'{count} {suffix}' for suffix, count in found)}; " if every else ""
        )
        raise DataError(
            f"{folder}{inside} has no {asked.kind} that match {asked.pattern!r}: {seen}{' '.join(asked.suffixes)} can be read. "
            "Check stimuli.path and stimuli.pattern."
        )
    paths = sorted(paths, key=lambda path: (natural(path.stem), str(path)))
    places = [str(path.relative_to(folder)) for path in paths]
    remedy = f"An id is the file's name without its suffix: rename them, narrow stimuli.pattern, or name them in stimuli.table ({ID},{FILE})."
    return Listing(checked_ids([path.stem for path in paths], places, str(folder), remedy), tuple(paths), None)


def _files(folder: Path, asked: Asked) -> Iterator[Path]:
    """Files that match, without hidden ones (macOS writes ._name.jpg beside name.jpg)."""
    try:
        found = list(folder.rglob(asked.pattern) if asked.recursive else folder.glob(asked.pattern))
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"stimuli.pattern={asked.pattern!r} is no pattern of file names: {error}.") from error
    for path in found:
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _folder(path: str) -> Path:
    """A folder: as given, or under the first data folder that has it."""
    given, places = Path(path).expanduser(), candidates(path)
    for place in places:
        if place.is_dir():
            return place
        if place.is_file():
            raise ConfigError(
                f"stimuli.path={path} is a file: name the folder that it is in, or give the file as stimuli.table."
            )
    parent = given.parent if given.is_absolute() else given.absolute().parent
    beside = [one.name for one in parent.iterdir() if one.is_dir()] if parent.is_dir() else []
    near = f" {nearest(given.name, beside)}" if beside else ""
    looked = ", ".join(str(place.absolute()) for place in places)
    raise ConfigError(f"The folder stimuli.path={path} does not exist. Looked for {looked}.{near}")


# Tables


def _from_table(asked: Asked) -> Listing:
    table = find(asked.table)
    folder = _folder(asked.path) if asked.path else table.parent
    rows = rows_of(table, (ID, FILE))
    ids = checked_ids(
        [row[ID].strip() for _, row in rows], [f"line {line}" for line, _ in rows], str(table), "Give each row its own."
    )
    paths = [folder / Path(row[FILE].strip()).expanduser() for _, row in rows]
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    if missing:
        first = paths[missing[0]]
        beside = [one.name for one in first.parent.iterdir() if one.is_file()] if first.parent.is_dir() else []
        near = nearest(first.name, beside) if len(beside) < 100_000 else ""
        raise DataError(
            f"{len(missing)} of {len(paths)} files of {table} are not there, first {first} (line {rows[missing[0]][0]}). {near} "
            f"Files are looked for in {folder}: set stimuli.path to another folder, or correct the table."
        )
    has_groups = GROUP in rows[0][1]
    groups = labels([row[GROUP].strip() for _, row in rows]) if has_groups else None
    return Listing(ids, tuple(paths), groups)
