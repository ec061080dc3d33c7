"""Finding the files of a data set, and naming them by content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from jaxalign.errors import DataError

DATA_ROOTS = ("data", "../shared/data")
"""Folders searched for a relative path, after the one named by the environment variable JAXALIGN_DATA."""


def candidates(path: str) -> list[Path]:
    """Where a file or folder may be: as given, and, if that is relative, under the data folders; in order of preference."""
    given = Path(path).expanduser()
    roots = [Path(root) for root in (os.environ.get("JAXALIGN_DATA"), *DATA_ROOTS) if root]
    return [given] if given.is_absolute() else [given, *(root / given for root in roots)]


def find(path: str) -> Path:
    """A data file: as given, or under the first data folder that has it.

    Raises:
        DataError: if it is nowhere; says where it was looked for.
    """
    places = candidates(path)
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place.resolve()) for place in places)
    raise DataError(
        f"The file {path} was not found. Looked for {looked}. Give its path, or set JAXALIGN_DATA to the folder that holds it."
    )


def sha256(path: Path) -> str:
    """Content hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
