"""Which units are done: one append-only file of checksummed lines, and a lock on the output folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxalign.errors import ConfigError

JOURNAL_FILE = "journal.jsonl"
LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the output folder: a lock of the operating system, which dies with its process.

    Raises:
        ConfigError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by process {file.read().strip() or 'unknown'}. Wait for it, or choose another output=."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def append(folder: Path, entry: dict[str, Any]) -> None:
    """Add one line, durable before this returns."""
    body = json.dumps(entry, sort_keys=True)
    line = f"{_checksum(body)} {body}\n".encode()
    with (folder / JOURNAL_FILE).open("ab") as file:
        # A torn line of a killed process must not swallow this one.
        if file.tell() and not _ends_with_newline(folder / JOURNAL_FILE):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Last whole entry of each unit; torn or damaged lines are ignored, their units are done again."""
    path = folder / JOURNAL_FILE
    if not path.is_file():
        return {}
    done: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        checksum, _, body = line.partition(" ")
        if body and checksum == _checksum(body):
            entry = json.loads(body)
            done[entry["unit_id"]] = entry
    return done


def verified(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries whose files are there with the content that was journalled."""
    return {
        unit_id: entry
        for unit_id, entry in entries(folder).items()
        if all(_is_whole(folder / name, digest) for name, digest in entry["files"].items())
    }


def file_hash(path: Path) -> str:
    """Content hash of one file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and file_hash(path) == digest


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
