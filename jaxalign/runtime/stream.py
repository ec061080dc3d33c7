"""Features out of a store into the feature bank, by the stimuli of a recording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models.stored import Stored


def must_be_checked(folder: Path, fit: Fit) -> bool:
    """Whether a stored fit may hold what cannot be scored: NaN or Inf by its manifest, or a single column."""
    entries = [array for array in store.known_manifest(folder)["arrays"] if array["fit"]["layer"] == fit.layer]
    return fit.width == 1 or any(array["n_nonfinite"] for array in entries)


@dataclass(frozen=True)
class StoredFit:
    """One fit of a store that a recording can be scored with.

    Attributes:
        fit: label in the table.
        stored: label in the store, as `read_fit` needs it.
        folder: the store.
        rows: (n_stimuli,) rows of the store in the order of the recording, or None when they are all, in order.
        identity: of the model and of the content of this fit, as JSON values.
        note: what was done to the rows, in a sentence; empty when nothing was.
    """

    fit: Fit
    stored: Fit
    folder: Path
    rows: np.ndarray | None
    identity: dict[str, Any]
    note: str


def stored_fits(entry: Stored, stimulus_ids: Sequence[str]) -> list[StoredFit]:
    """The fits that an entry names, with the rows of the store that belong to the stimuli.

    Args:
        entry: which store, layers and poolings.
        stimulus_ids: (n_stimuli,) of the recording, in its order.
    Raises:
        ConfigError: if no store is named, or it has no such layer or pooling.
        DataError: if the store is damaged or lacks some of the stimuli, with numbers and the first that are missing.
    """
    if not entry.path:
        raise ConfigError("A stored model needs the folder of its store: set model.stored.path=FOLDER.")
    folder = Path(entry.path).expanduser()
    content = store.manifest(folder)
    rows = _rows_of(folder, content, stimulus_ids)
    note = "" if rows is None else _words_on_rows(folder, content["n_stimuli"], len(rows))
    arrays = [array for array in content["arrays"] if _is_chosen(array["fit"], entry)]
    _check_chosen(folder, content, entry, len(arrays))
    return [_stored_fit(entry, folder, content, array, rows, note) for array in arrays]


def read_fit(folder: Path, fit: Fit, rows: np.ndarray | None = None) -> np.ndarray:
    """Stored features of one fit.

    Args:
        folder: the store.
        fit: label in the store (`StoredFit.stored`).
        rows: (n_stimuli,) rows to take, in this order; all by default.
    Returns:
        (n_stimuli, width) float32
    Raises:
        DataError: if the store is damaged or has no such fit.
    """
    if rows is None:
        return np.asarray(store.read(folder, fit), np.float32)
    first = int(rows.min())
    return np.asarray(store.read(folder, fit, slice(first, int(rows.max()) + 1))[rows - first], np.float32)


def _stored_fit(
    entry: Stored, folder: Path, content: dict[str, Any], array: dict[str, Any], rows: np.ndarray | None, note: str
) -> StoredFit:
    stored = Fit(**array["fit"])
    fit = replace(stored, model=entry.name or stored.model)
    # Shards only: zarr.json and the manifest change with versions that leave the numbers as they are.
    files = {name: digest for name, digest in content["files"].items() if name.startswith(f"{array['folder']}/c/")}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    identity = {"store": content["identity"], "stimulus_ids_sha256": content["stimulus_ids_sha256"], "sha256": digest}
    return StoredFit(fit, stored, folder, rows, identity, note)


def _is_chosen(fit: dict[str, Any], entry: Stored) -> bool:
    return (not entry.layers or any(_is_named(fit["layer"], one) for one in entry.layers)) and (
        not entry.pooling or fit["pooling"] in entry.pooling
    )


def _is_named(layer: str, pattern: str) -> bool:
    return layer == pattern or fnmatchcase(layer, pattern)


def _check_chosen(folder: Path, content: dict[str, Any], entry: Stored, n_chosen: int) -> None:
    """Refuse a layer or pooling that the store has not, and a combination that leaves nothing."""
    layers = {array["fit"]["layer"] for array in content["arrays"]}
    poolings = {array["fit"]["pooling"] for array in content["arrays"]}
    for pattern in entry.layers:
        if not any(_is_named(layer, pattern) for layer in layers):
            raise ConfigError(f"{folder} has {len(layers)} layers and none is {pattern!r}. {nearest(pattern, layers)}")
    for pooling in entry.pooling:
        if pooling not in poolings:
            raise ConfigError(f"{folder} has no pooling {pooling!r}. {nearest(pooling, poolings)}")
    if not n_chosen:
        raise ConfigError(f"{folder} has none of the layers {list(entry.layers)} with pooling {list(entry.pooling)}.")


def _rows_of(folder: Path, content: dict[str, Any], stimulus_ids: Sequence[str]) -> np.ndarray | None:
    """Rows of the store in the order of the stimuli; None when they are all its rows, in order."""
    if content["stimulus_ids_sha256"] == store.hash_ids(stimulus_ids):
        return None
    return rows_by_id(str(folder), store.stimulus_ids(folder), stimulus_ids)


IMPORT_AGAIN = "import the features again with ids= a file of the recording's stimulus ids."


def rows_by_id(
    where: str, held: Sequence[str], stimulus_ids: Sequence[str], remedy: str = IMPORT_AGAIN
) -> np.ndarray | None:
    """Which of the held rows belong to the stimuli of a recording; None when they are all, in order.

    Args:
        where: what holds them, for errors.
        held: their names.
        stimulus_ids: (n_stimuli,) of the recording, in its order.
        remedy: what to do where stimuli are missing.
    Raises:
        DataError: if some of the recording's stimuli are missing, or names occur twice.
    """
    if tuple(held) == tuple(stimulus_ids):
        return None
    row_of = {name: row for row, name in enumerate(held)}
    missing = [name for name in stimulus_ids if name not in row_of]
    if missing:
        raise DataError(
            f"{where} has {len(held)} stimuli ({held[0]!r}, ...) and lacks {len(missing)} of the {len(stimulus_ids)} of the recording, "
            f"first {', '.join(map(repr, missing[:3]))}: {remedy}"
        )
    if len(row_of) < len(held):
        raise DataError(
            f"{where} names only {len(row_of)} different stimuli in {len(held)} rows: which rows belong to the recording is unknown. Import the features again with unique ids."
        )
    return np.array([row_of[name] for name in stimulus_ids])


def _words_on_rows(folder: Path, n_held: int, n_stimuli: int) -> str:
    what = "all" if n_held == n_stimuli else f"{n_stimuli} of"
    return f"{folder} holds its stimuli in another order or number: {what} {n_held} rows were matched by stimulus id."
