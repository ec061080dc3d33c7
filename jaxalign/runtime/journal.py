"""Which units are done: one append-only file of checksummed lines per process, and locks on the output folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from jaxalign.errors import ConfigError

JOURNAL_FILE = "journal.jsonl"
LOCK_FILE = ".lock"


def journal_file(folder: Path, process: int = 0) -> Path:
    """Each process appends to its own file."""
    return folder / (JOURNAL_FILE if process == 0 else f"journal-{process}.jsonl")


@contextmanager
def locked(folder: Path, process: int = 0) -> Iterator[None]:
    """Hold the output folder: a lock of the operating system, which dies with its process.

    Each process of a run holds a lock of its own; the first one also makes sure that no process of another run does.

    Raises:
        ConfigError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = LOCK_FILE if process == 0 else f"{LOCK_FILE}-{process}"
    with (folder / name).open("a+", encoding="utf-8") as file:
        _hold(folder, file)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def check_alone(folder: Path, n_processes: int) -> None:
    """Make sure that no process of an earlier run still writes here, such as one that outlived the first process.

    Raises:
        ConfigError: if one does.
    """
    for path in folder.glob(f"{LOCK_FILE}-*"):
        if int(path.name.rsplit("-", 1)[1]) >= n_processes:
            with path.open("a+", encoding="utf-8") as file:
                _hold(folder, file)


def _hold(folder: Path, file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise ConfigError(
            f"{folder} is in use by process {file.read().strip() or 'unknown'}. Wait for it, or choose another output=."
        ) from error


def append(folder: Path, entry: dict[str, Any], process: int = 0) -> None:
    """Add one line, durable before this returns."""
    body = json.dumps(entry, sort_keys=True)
    line = f"{_checksum(body)} {body}\n".encode()
    path = journal_file(folder, process)
    with path.open("ab") as file:
        # A torn line of a killed process must not swallow this one.
        if file.tell() and not _ends_with_newline(path):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Whole entries of all processes; torn or damaged lines are ignored, their units are done again."""
    for path in sorted(folder.glob("journal*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            checksum, _, body = line.partition(" ")
            if body and checksum == _checksum(body):
                yield json.loads(body)


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Last whole entry of each unit."""
    return {entry["unit_id"]: entry for entry in _lines(folder)}


def verified(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries whose files are there with the content that was journalled, by any process."""
    claims: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in _lines(folder):
        claims[entry["unit_id"]].append(entry)
    hashes: dict[str, str | None] = {}
    whole = {}
    for unit_id, made in claims.items():
        for entry in reversed(made):
            if all(_hash(folder, name, hashes) == digest for name, digest in entry["files"].items()):
                whole[unit_id] = entry
                break
    return whole


def _hash(folder: Path, name: str, known: dict[str, str | None]) -> str | None:
    """Content hash of a file of a unit, taken once; None where there is no file."""
    if name not in known:
        known[name] = file_hash(folder / name) if (folder / name).is_file() else None
    return known[name]


def file_hash(path: Path) -> str:
    """Content hash of one file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
