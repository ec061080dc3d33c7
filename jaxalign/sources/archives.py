"""Archives of a data set: unpacked beside themselves, member by member, so that a stopped unpacking goes on."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxalign.errors import DataError

SUFFIX = ".zip"
PART = ".part"
"""Ending of a member that is not whole yet."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError)


@dataclass(frozen=True)
class Unpacked:
    """What became of an archive.

    Attributes:
        folder: that holds its files.
        n_files: files in it.
        n_new: those written now; the others were there with their size.
        is_locked: it has a password, and nothing was unpacked.
    """

    folder: Path
    n_files: int
    n_new: int
    is_locked: bool = False


def is_archive(name: str) -> bool:
    """Tell whether a file is unpacked, by its name.

    Args:
        name: of the file.
    """
    return name.lower().endswith(SUFFIX)


def unpack(path: Path) -> Unpacked:
    """Unpack a .zip into a folder of its own name beside it; the archive stays, so that it is not fetched again.

    An archive that holds nothing but a folder of that name is not put into a second one: sub-01.zip with
    sub-01/a.npy and sub-01.zip with a.npy both end as sub-01/a.npy. Members that are there with their size are left.

    Args:
        path: of the archive, which was checked already.
    Raises:
        DataError: if a member would lie outside that folder, is there with another size, or cannot be read, or the
            disk has no room.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpacked(archive, path)
    except _DAMAGE as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) could not be unpacked ({type(error).__name__}: {error}). What came "
            f"out of it is kept; run the command again, or unpack it by hand into {path.with_suffix('')}."
        ) from error


def _unpacked(archive: zipfile.ZipFile, path: Path) -> Unpacked:
    members = {_inside(one.filename, path): one for one in archive.infolist() if not one.is_dir()}
    members = {name: one for name, one in members.items() if name.parts[0] != "__MACOSX"}  # macOS keeps icons there
    folder = path.with_suffix("")
    is_doubled = bool(members) and all(name.parts[0] == folder.name and len(name.parts) > 1 for name in members)
    root = path.parent if is_doubled else folder
    missing = {name: one for name, one in members.items() if not _is_there(root / name, one.file_size)}
    if any(one.flag_bits & 1 for one in missing.values()):
        return Unpacked(folder, len(members), 0, is_locked=True)
    n_bytes, free = sum(one.file_size for one in missing.values()), shutil.disk_usage(path.parent).free
    if n_bytes > free:
        raise DataError(f"{path.name} unpacks to {n_bytes} more bytes, and {path.parent} has {free} free: make room.")
    for name, one in missing.items():
        _write(archive, one, root / name)
    return Unpacked(folder, len(members), len(missing))


def _inside(name: str, path: Path) -> PurePosixPath:
    """The name of a member, which has to stay in the folder of the archive."""
    found = PurePosixPath(name)
    if not found.parts or found.is_absolute() or ".." in found.parts or "\\" in name:
        raise DataError(
            f"{path} has a member {name!r}, which leads out of its folder. Nothing was unpacked; look at the page of "
            "the data set whether it is the right file."
        )
    return found


def _is_there(target: Path, n_bytes: int) -> bool:
    """Whether a member is unpacked already; another file in its place is not overwritten."""
    if not target.exists():
        return False
    found = target.stat().st_size
    if found != n_bytes or not target.is_file():
        raise DataError(
            f"{target} is there with {found} bytes, and the archive has {n_bytes}: it is another file. Move it away, "
            "and run the command again."
        )
    return True


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write a member, under its name only when it is whole; zipfile checks its CRC at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    try:
        with archive.open(member) as source, part.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except _DAMAGE:
        part.unlink(missing_ok=True)
        raise
    part.replace(target)
