"""The manifest of a store: what it holds and where that came from, with a hash of everything, written last."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxalign.errors import DataError

if TYPE_CHECKING:  # contracts imports jax, which takes a second that a reader of manifests need not spend
    from jaxalign.contracts import Fit

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
STIMULUS_IDS = "stimulus_ids.json"
REMEDY = "Delete the folder and run the command that made it again."


def manifest(folder: Path) -> dict[str, Any]:
    """Return what a finished store says of itself.

    Keys: schema_version, identity, stimulus_ids_sha256, n_stimuli, dtype, chunk_rows, shard_rows, versions, arrays (a
    list of fit, folder, shape, n_nonfinite, chunk_crc32), files (path -> sha256), sha256 (of all the rest).

    Raises:
        DataError: if the store is missing, unfinished, damaged, or of another schema version.
    """
    path = _manifest_file(folder)
    return _parse(path, path.read_bytes())


def known_manifest(folder: Path) -> dict[str, Any]:
    """As `manifest`, parsed once per file: for reads of few rows, which must not pay for a million digests each time.

    Every caller gets the same dictionary, which is not to be changed.
    """
    path = _manifest_file(folder)
    status = path.stat()
    return _parse_once(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def check_bytes(folder: Path) -> None:
    """Refuse a manifest that was edited without changing what it says, such as a space that became a tab.

    Raises:
        DataError: if the file is not, byte for byte, what `commit` writes.
    """
    content = (folder / MANIFEST).read_bytes()
    if content != json.dumps(_parse(folder / MANIFEST, content), allow_nan=False).encode():
        raise DataError(f"{folder / MANIFEST} is damaged: it is not written as it was. {REMEDY}")


def stimulus_ids(folder: Path) -> tuple[str, ...]:
    """Return the names of the stimuli of a finished store, in the order of its rows.

    Raises:
        DataError: if the store is damaged, or was written by a version that kept only a hash of the names.
    """
    content = known_manifest(folder)
    expected = content["files"].get(STIMULUS_IDS)
    if expected is None:
        raise DataError(
            f"{folder} holds only a hash of its {content['n_stimuli']} stimulus ids: an earlier version wrote it. {REMEDY}"
        )
    path = folder / STIMULUS_IDS
    check_file(folder, STIMULUS_IDS, expected, path.is_file())
    ids = tuple(json.loads(path.read_bytes()))
    if hash_ids(ids) != content["stimulus_ids_sha256"]:
        raise DataError(f"{path} holds {len(ids)} stimulus ids that are not those of the manifest. {REMEDY}")
    return ids


def write_stimulus_ids(folder: Path, ids: Sequence[str]) -> None:
    """Write the names of the stimuli beside the arrays, durable before this returns."""
    with (folder / STIMULUS_IDS).open("w", encoding="utf-8") as file:
        json.dump(list(ids), file)
        file.flush()
        os.fsync(file.fileno())


def _manifest_file(folder: Path) -> Path:
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.exists():
            raise DataError(f"{folder} does not exist: write the store first.")
        raise DataError(f"{folder} has no {MANIFEST}, so it is not finished. {REMEDY}")
    return path


@lru_cache(maxsize=16)
def _parse_once(path: Path, *_version: int) -> dict[str, Any]:
    return _parse(path, path.read_bytes())


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError, or a file of brackets
        raise DataError(f"{path} is damaged: {error}. {REMEDY}") from error
    _check_manifest(path, content)
    return content


def matches(folder: Path, identity: dict[str, Any], stimulus_ids: Sequence[str], fits: Iterable[Fit]) -> bool:
    """Say whether a finished store holds these fits, of this origin, for these stimuli in this order.

    The store may hold further fits. False when there is no finished store.

    Raises:
        DataError: if there is a manifest but it is damaged or of another schema version.
    """
    if not (folder / MANIFEST).is_file():
        return False
    content = manifest(folder)
    stored = [array["fit"] for array in content["arrays"]]
    return (
        content["identity"] == as_json(identity, "identity")
        and content["stimulus_ids_sha256"] == hash_ids(stimulus_ids)
        and all(asdict(fit) in stored for fit in fits)
    )


def origin(fits: Sequence[Fit], stimulus_ids: Sequence[str], identity: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest that is known before the first row is computed."""
    for fit in fits:  # a label that JSON cannot hold must fail now, not after hours of extraction
        as_json(asdict(fit), f"the fit {fit.name}")
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": as_json(identity, "identity"),
        "stimulus_ids_sha256": hash_ids(stimulus_ids),
        "n_stimuli": len(stimulus_ids),
        "versions": {name: version(name) for name in ("numpy", "tensorstore")} | {"python": platform.python_version()},
    }


def commit(path: Path, content: dict[str, Any]) -> None:
    """Write a manifest, with its own hash, so that it is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content | {"sha256": _hash_json(content)}, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync(path.parent)


def _check_manifest(path: Path, content: Any) -> None:
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {found}, and this jaxalign reads {SCHEMA_VERSION}. {REMEDY}")
    rest = {name: value for name, value in content.items() if name != "sha256"}
    if content.get("sha256") != _hash_json(rest):
        raise DataError(f"{path} is damaged: its sha256 is not the one it states. {REMEDY}")


def check_file(folder: Path, name: str, expected: str | None, is_found: bool) -> None:
    """Refuse a file that is missing, extra or changed."""
    if not is_found:
        raise DataError(f"{name} is missing from {folder}. {REMEDY}")
    if expected is None:
        raise DataError(f"{name} in {folder} is not part of the store: remove it, or delete the folder and run again.")
    found = hash_file(folder / name)
    if found != expected:
        raise DataError(f"{name} in {folder} has sha256 {found[:12]} instead of {expected[:12]}. {REMEDY}")


def hash_file(path: Path) -> str:
    """Content hash of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> list[str]:
    """Return the paths of all files but the manifest, relative to the folder."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in files if name != MANIFEST)


def hash_files(folder: Path) -> dict[str, str]:
    """Path -> sha256 of every file but the manifest."""
    return {name: hash_file(folder / name) for name in list_files(folder)}


def _hash_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def hash_ids(stimulus_ids: Sequence[str]) -> str:
    """The hash that stands for stimulus ids and their order in a manifest."""
    return _hash_json(list(stimulus_ids))


def as_json(content: dict[str, Any], what: str) -> Any:
    """Return content as it comes back from JSON, where tuples are lists and keys are strings."""
    try:
        return json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The manifest cannot hold {what}: {error}. Use strings, finite numbers, lists and dicts."
        ) from error


def sync(path: Path) -> None:
    """Make a file or folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
