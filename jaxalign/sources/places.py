"""Folders of data sets, and files inside them: what was looked for, and what was found instead."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jaxalign.errors import DataError, nearest
from jaxalign.sources.files import candidates, find, sha256


def find_place(path: str) -> Path:
    """A file or a folder: as given, or under the first data folder that has it.

    Raises:
        DataError: if it is nowhere; says where it was looked for.
    """
    for place in candidates(path):
        if place.is_dir() and path:
            return place
    return find(path)


def one_of(folder: Path, names: Sequence[str], what: str, remedy: str) -> Path:
    """The first of some files that a folder has.

    Args:
        folder: where they should be.
        names: files relative to it, the preferred one first.
        what: it is, for messages.
        remedy: what to do when none is there, a sentence.
    Raises:
        DataError: if none is there; says what the nearest folder holds instead.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    wanted = folder / names[0]
    parent = wanted.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    inside = sorted(one.name for one in parent.iterdir())
    missing = wanted.relative_to(parent).parts[0]
    shown = f"{', '.join(inside[:8])}{', ...' if len(inside) > 8 else ''}" if inside else "nothing"
    raise DataError(
        f"{what} was not found: looked for {' or '.join(str(folder / name) for name in names)}. {parent} has no {missing!r} "
        f"but {len(inside)} entries: {shown}. {nearest(missing, inside) if inside else ''} {remedy}"
    )


def digest(place: Path) -> str:
    """sha256 of a file, or of the names and contents of all files of a folder."""
    if place.is_file():
        return sha256(place)
    together = hashlib.sha256()
    for file in sorted(one for one in place.rglob("*") if one.is_file()):
        together.update(f"{file.relative_to(place).as_posix()} {sha256(file)}\n".encode())
    return together.hexdigest()
