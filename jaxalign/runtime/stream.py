"""Stimuli in fixed-size batches through a model, pooled rows into the store, and out of it into the feature bank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models import ActivationSource, open_source
from jaxalign.models.stored import Stored
from jaxalign.runtime import dist, meter


def open_for(entry: Any, stimuli: dict[str, Any]) -> ActivationSource:
    """The model of an entry, ready to be shown the stimuli of a data set.

    Args:
        entry: settings of the model.
        stimuli: kind ("image", "text") -> function that yields the stimuli in order.
    Raises:
        ConfigError: if the data set has no stimuli of the kind that the model takes.
    """
    source = open_source(entry)
    if source.takes not in stimuli:
        has = " and ".join(sorted(stimuli)) or "no stimuli"
        raise ConfigError(
            f"{source.fits[0].model} takes {source.takes} stimuli, and this data set has {has}. Choose another model or data set."
        )
    return source


def extracted(
    source: ActivationSource,
    stimuli: dict[str, Callable[[], Iterator[Any]]],
    stimulus_ids: tuple[str, ...],
    root: str,
    progress: Any,
) -> Path:
    """The store that holds all layers of a model; they are extracted into it when they are not there.

    Of several processes the first one decides and extracts, and the others wait for it.

    Args:
        source: the open model.
        stimuli: kind -> function that yields the stimuli in order.
        stimulus_ids: names, in the same order.
        root: folder of stores.
        progress: called with a sentence and a fraction done.
    """
    folder = Path(root) / _store_name(source, stimulus_ids)

    def extract() -> None:
        if store.matches(folder, source.identity, stimulus_ids, source.fits):
            return
        blocks = _extract(source, stimuli[source.takes](), len(stimulus_ids), progress)
        folder.parent.mkdir(parents=True, exist_ok=True)
        store.write(folder, source.fits, stimulus_ids, source.identity, blocks)

    dist.first_does(extract)
    return folder


def must_be_checked(folder: Path, fit: Fit) -> bool:
    """Whether a stored fit may hold what cannot be scored: NaN or Inf by its manifest, or a single column."""
    entries = [array for array in store.known_manifest(folder)["arrays"] if array["fit"]["layer"] == fit.layer]
    return fit.width == 1 or any(array["n_nonfinite"] for array in entries)


def _decoded(stimuli: Iterator[Any], n: int) -> list[Any]:
    """The next stimuli, at most n."""
    with meter.METER.stage("decode"):
        return list(islice(stimuli, n))


def _store_name(source: ActivationSource, stimulus_ids: tuple[str, ...]) -> str:
    """One store per model identity and stimulus order."""
    content = json.dumps([source.identity, stimulus_ids], sort_keys=True)
    return f"{source.fits[0].model}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _extract(
    source: ActivationSource, stimuli: Iterator[Any], n_stimuli: int, progress: Any
) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """Pooled rows of each batch; the last batch is padded to full size and its padding dropped."""
    done = 0
    while batch := _decoded(stimuli, source.batch_size):
        n_real = len(batch)
        with meter.METER.stage("forward"):
            pooled = source.activations(batch + [batch[-1]] * (source.batch_size - n_real))
            rows = {key: np.asarray(values)[:n_real] for key, values in pooled.items()}
        yield rows
        done += n_real
        progress(f"extract {source.fits[0].model}", done / n_stimuli)


# Features that are in a store already


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
    held = store.stimulus_ids(folder)
    row_of = {name: row for row, name in enumerate(held)}
    missing = [name for name in stimulus_ids if name not in row_of]
    if missing:
        raise DataError(
            f"{folder} has {len(held)} stimuli ({held[0]!r}, ...) and lacks {len(missing)} of the {len(stimulus_ids)} of the recording, "
            f"first {', '.join(map(repr, missing[:3]))}: import the features again with ids= a file of the recording's stimulus ids."
        )
    if len(row_of) < len(held):
        raise DataError(
            f"{folder} names only {len(row_of)} different stimuli in {len(held)} rows: which rows belong to the recording is unknown. Import the features again with unique ids."
        )
    return np.array([row_of[name] for name in stimulus_ids])


def _words_on_rows(folder: Path, n_held: int, n_stimuli: int) -> str:
    what = "all" if n_held == n_stimuli else f"{n_stimuli} of"
    return f"{folder} holds its stimuli in another order or number: {what} {n_held} rows were matched by stimulus id."
