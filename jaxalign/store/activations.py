"""Pooled activations of one model as a folder of zarr3 arrays with a manifest that is written last."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.errors import DataError, nearest
from jaxalign.store.manifests import (
    MANIFEST,
    REMEDY,
    check_bytes,
    check_file,
    commit,
    hash_files,
    known_manifest,
    list_files,
    manifest,
    origin,
    sync,
    write_stimulus_ids,
)

if TYPE_CHECKING:  # contracts imports jax, which takes a second that a reader of manifests need not spend
    from jaxalign.contracts import Fit

DTYPES = ("float32", "bfloat16", "float16")
CHUNK_ROWS = 128  # the least that one read fetches: 2 MiB at 4,096 float32 columns
BUFFER_BYTES = 256 * 2**20  # host memory of the shards being filled, one per fit


def write(
    folder: Path,
    fits: Sequence[Fit],
    stimulus_ids: Sequence[str],
    identity: dict[str, Any],
    blocks: Iterable[Mapping[tuple[str, str], np.ndarray]],
    dtype: str = "float32",
) -> None:
    """Write the activations of one model; the folder appears, whole, when everything is on disk.

    Host memory: at most 256 MiB of shards (or one shard of 128 stimuli per fit, if that is more), and one block.

    Args:
        folder: must not exist yet, or be empty. A finished store is never overwritten.
        fits: the arrays to write, all of one model and revision, each (layer, pooling) once.
        stimulus_ids: (n_stimuli,) names, the row order.
        identity: where the activations come from (weights, processor, prompt, ...), any JSON object.
        blocks: (layer, pooling) -> (n_block, width) in any unit, in stimulus order; n_block may vary.
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        DataError: if rows, widths or names disagree, if a finite value leaves the range of dtype, if the folder
            is taken, or if the disk refuses.
    """
    _check_request(fits, stimulus_ids, dtype)
    start = origin(fits, stimulus_ids, identity)
    layout = _layout(fits, len(stimulus_ids), dtype)
    with unfinished(folder) as temporary:
        arrays = _write_arrays(temporary, fits, layout, blocks)
        write_stimulus_ids(temporary, stimulus_ids)
        _sync_folders(temporary)
        commit(temporary / MANIFEST, start | layout | {"arrays": arrays, "files": hash_files(temporary)})


def read(folder: Path, fit: Fit, rows: slice | None = None) -> np.ndarray:
    """Return the stored activations of one fit, checked against the digests taken when they were written.

    Args:
        rows: stimuli to read, all by default; bounds as in NumPy, without a step.

    Returns:
        (n_rows, width) in the dtype of the store.

    Raises:
        DataError: if the store is not finished, has no such fit, or differs from what was written.
    """
    content = known_manifest(folder)
    array = _find(folder, content, fit)
    start, stop, step = (rows or slice(None)).indices(content["n_stimuli"])
    if step != 1:
        raise DataError(f"read was asked for every {step}th row: read a contiguous slice and index the result.")
    return _read_rows(folder, content, array, start, max(start, stop))


def verify(folder: Path) -> None:
    """Hash every file again and read every array.

    Raises:
        DataError: naming the first file that is missing, extra or changed, or the first array that cannot be read.
    """
    content = manifest(folder)
    check_bytes(folder)
    expected, found = content["files"], set(list_files(folder))
    for name in sorted(found | set(expected)):
        check_file(folder, name, expected.get(name), name in found)
    n_stimuli, shard_rows = content["n_stimuli"], content["shard_rows"]
    for array in content["arrays"]:
        for start in range(0, n_stimuli, shard_rows):
            _read_rows(folder, content, array, start, min(start + shard_rows, n_stimuli))


# What is to be written, settled before the first row is computed


def _check_request(fits: Sequence[Fit], stimulus_ids: Sequence[str], dtype: str) -> None:
    if dtype not in DTYPES:
        raise DataError(f"dtype {dtype!r} cannot be stored: use one of {', '.join(DTYPES)}.")
    if not fits or not stimulus_ids:
        raise DataError(f"A store needs fits and stimuli: {len(fits)} fits and {len(stimulus_ids)} stimuli were given.")
    sources = sorted({f"{fit.model}@{fit.revision}" for fit in fits})
    if len(sources) > 1:
        raise DataError(
            f"One store holds one model, {len(sources)} were given: {', '.join(sources)}. Use one folder each."
        )
    n_keys = len({_key(fit) for fit in fits})
    if n_keys < len(fits):
        raise DataError(f"{len(fits)} fits have only {n_keys} distinct (layer, pooling): pass each of them once.")
    for fit in fits:
        if fit.width < 1:
            raise DataError(f"The fit {fit.name} has width {fit.width}: it must be at least 1.")


def _layout(fits: Sequence[Fit], n_stimuli: int, dtype: str) -> dict[str, Any]:
    """Choose the rows of a shard: whole chunks, such that one shard of every fit fits the buffer."""
    bytes_per_row = sum(fit.width for fit in fits) * numpy_dtype(dtype).itemsize
    n_chunks = min(BUFFER_BYTES // (CHUNK_ROWS * bytes_per_row), -(-n_stimuli // CHUNK_ROWS))
    return {
        "dtype": dtype,
        "n_stimuli": n_stimuli,
        "chunk_rows": CHUNK_ROWS,
        "shard_rows": CHUNK_ROWS * max(1, n_chunks),
    }


def _key(fit: Fit) -> tuple[str, str]:
    return fit.layer, fit.pooling


def _array_folder(index: int, fit: Fit) -> str:
    """Name an array's folder; the index keeps names apart that differ only in what is replaced, cut or in case."""
    return f"{index:03d}-" + re.sub(r"[^0-9A-Za-z_]+", "-", f"{fit.layer}-{fit.pooling}")[:80]


# Writing


def _write_arrays(
    folder: Path,
    fits: Sequence[Fit],
    layout: Mapping[str, Any],
    blocks: Iterable[Mapping[tuple[str, str], np.ndarray]],
) -> list[dict[str, Any]]:
    """Write all rows of all fits; return each array's entry in the manifest."""
    entries = [_entry(index, fit, layout["n_stimuli"]) for index, fit in enumerate(fits)]
    stores = [_create(folder, entry, layout) for entry in entries]
    for start, shard in _shards(blocks, fits, layout):
        _write_shard(folder, entries, stores, start, shard)
        for entry, values in zip(entries, shard, strict=True):
            entry["n_nonfinite"] += int(np.count_nonzero(~np.isfinite(values)))
            entry["chunk_crc32"] += _digests(values, layout["chunk_rows"])
    return entries


def _entry(index: int, fit: Fit, n_stimuli: int) -> dict[str, Any]:
    place = {"fit": asdict(fit), "folder": _array_folder(index, fit), "shape": [n_stimuli, fit.width]}
    return place | {"n_nonfinite": 0, "chunk_crc32": []}


def _create(folder: Path, entry: Mapping[str, Any], layout: Mapping[str, Any]) -> Any:
    try:
        return _open(folder, entry, layout, create=True)
    except ValueError as error:
        raise _write_failure(folder, entry, error) from error


def _write_shard(
    folder: Path, entries: list[dict[str, Any]], stores: list[Any], start: int, shard: list[np.ndarray]
) -> None:
    futures = [store[start : start + len(rows)].write(rows) for store, rows in zip(stores, shard, strict=True)]
    # All are awaited before one may raise: a write still under way would put files back that the clean-up deletes.
    for entry, error in zip(entries, [future.exception() for future in futures], strict=True):
        if error is not None:
            raise _write_failure(folder, entry, error) from error


def _write_failure(folder: Path, entry: Mapping[str, Any], error: BaseException) -> DataError:
    return DataError(
        f"Layer {entry['fit']['layer']} could not be written to {folder}: {error}. "
        "Check free space and permissions, then run the command again."
    )


def _shards(
    blocks: Iterable[Mapping[tuple[str, str], np.ndarray]], fits: Sequence[Fit], layout: Mapping[str, Any]
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Regroup blocks of any size into whole shards: (first row, the rows of each fit)."""
    dtype, n_stimuli, shard_rows = numpy_dtype(layout["dtype"]), layout["n_stimuli"], layout["shard_rows"]
    buffers = [np.empty((shard_rows, fit.width), dtype) for fit in fits]
    n_seen = 0
    for block in blocks:
        n_block = _check_block(block, fits, n_seen, n_stimuli)
        taken = 0
        while taken < n_block:
            filled = (n_seen + taken) % shard_rows
            count = min(n_block - taken, shard_rows - filled)
            for fit, buffer in zip(fits, buffers, strict=True):
                cast(block[_key(fit)][taken : taken + count], buffer[filled : filled + count], fit)
            taken += count
            if filled + count == shard_rows:
                yield n_seen + taken - shard_rows, buffers
        n_seen += n_block
    if n_seen < n_stimuli:
        raise DataError(
            f"The blocks end after {n_seen} rows and there are {n_stimuli} stimuli: every stimulus needs a row."
        )
    if remainder := n_seen % shard_rows:
        yield n_seen - remainder, [buffer[:remainder] for buffer in buffers]


def _check_block(block: Mapping[tuple[str, str], np.ndarray], fits: Sequence[Fit], n_seen: int, n_stimuli: int) -> int:
    """Return the rows of a block that agrees with the fits and with itself."""
    names = {_key(fit) for fit in fits}
    if set(block) != names:
        wrong = sorted("/".join(key) for key in set(block) ^ names)
        raise DataError(
            f"The block at row {n_seen} has {len(block)} arrays and there are {len(names)} fits; missing or unasked "
            f"for: {', '.join(wrong[:5])}. Each block must hold every fit once."
        )
    n_block = len(block[_key(fits[0])])
    for fit in fits:
        shape = block[_key(fit)].shape
        if shape != (n_block, fit.width):
            raise DataError(
                f"The block at row {n_seen} has shape {shape} for {fit.name}, and {(n_block, fit.width)} was "
                "expected: all fits of a block hold the same stimuli, one row each, at the width of the fit."
            )
    if n_seen + n_block > n_stimuli:
        raise DataError(
            f"The blocks hold at least {n_seen + n_block} rows and there are {n_stimuli} stimuli: drop padding rows "
            "before writing."
        )
    return n_block


def cast(source: np.ndarray, target: np.ndarray, fit: Fit) -> None:
    """Copy rows into the stored dtype; a finite value that becomes infinite is an error, not an infinity.

    Raises:
        DataError: with how many values are out of range, and the largest.
    """
    with np.errstate(over="ignore"):
        target[...] = source
    if source.dtype == target.dtype:
        return
    n_lost = np.count_nonzero(np.isfinite(source) & ~np.isfinite(target))
    if n_lost:
        raise DataError(
            f"{n_lost} of {source.size} values of {fit.name} are beyond the range of {target.dtype} (largest: "
            f"{np.nanmax(np.abs(np.where(np.isfinite(source), source, np.nan))):.3g}): store bfloat16 or float32."
        )


# Appearing whole or not at all


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Lend an empty hidden sibling folder; rename it into place when the block ends well, else delete it."""
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name}.unfinished")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _check_free(folder)
        if temporary.exists():  # left by a writer that was killed: the lock says that it is gone
            shutil.rmtree(temporary)
        temporary.mkdir()
        try:
            yield temporary
            temporary.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers of this folder out, until the end of the block or of the process."""
    path = folder.with_name(f".{folder.name}.lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"{folder} cannot be locked ({error}): another process is writing it, or its file system has no locks. "
                "Wait for that process, or choose another folder."
            ) from error
        yield


def _check_free(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder} holds a finished store, which is never overwritten: read it, or delete it first.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not a finished store: delete it, or choose another folder.")


def _sync_folders(folder: Path) -> None:
    """Make the names of all files durable; TensorStore has done so for their bytes."""
    for parent, _, _ in os.walk(folder):
        sync(Path(parent))


# Reading


def _find(folder: Path, content: Mapping[str, Any], fit: Fit) -> dict[str, Any]:
    """Return a fit's entry in the manifest; every field must agree, not only the name."""
    arrays: list[dict[str, Any]] = content["arrays"]
    for array in arrays:
        if array["fit"] == asdict(fit):
            return array
    known = ["/".join(array["fit"][part] for part in ("model", "layer", "pooling")) for array in arrays]
    if fit.name in known:
        stored = arrays[known.index(fit.name)]["fit"]
        raise DataError(f"{folder} holds {stored}, and {asdict(fit)} was asked for. {REMEDY}")
    raise DataError(f"{folder} has no fit {fit.name} among its {len(known)}. {nearest(fit.name, known)}")


def _read_rows(folder: Path, content: Mapping[str, Any], array: Mapping[str, Any], start: int, stop: int) -> np.ndarray:
    """Read the whole chunks around the rows start to stop, compare their digests, and cut the rows out."""
    chunk_rows = content["chunk_rows"]
    first, last = start // chunk_rows, -(-stop // chunk_rows)
    begin, end = first * chunk_rows, min(last * chunk_rows, content["n_stimuli"])
    try:
        values: np.ndarray = _open(folder, array, content, create=False)[begin : max(begin, end)].read().result()
    except ValueError as error:  # what TensorStore raises for DATA_LOSS, NOT_FOUND and FAILED_PRECONDITION
        raise DataError(f"Layer {array['fit']['layer']} in {folder} cannot be read: {error}. {REMEDY}") from error
    _check_digests(folder, array, _digests(values, chunk_rows), first, chunk_rows)
    return values[start - begin : stop - begin]


def _check_digests(folder: Path, array: Mapping[str, Any], digests: list[int], first: int, chunk_rows: int) -> None:
    """Refuse chunks that are sound in themselves but not the ones that were written here, such as swapped files."""
    for index, digest in enumerate(digests, start=first):
        expected = array["chunk_crc32"][index]
        if digest != expected:
            raise DataError(
                f"Layer {array['fit']['layer']} in {folder} is not what was written: rows {index * chunk_rows} and "
                f"after have CRC-32 {digest:08x} instead of {expected:08x}. {REMEDY}"
            )


# Digests


def _digests(values: np.ndarray, chunk_rows: int) -> list[int]:
    """Return the CRC-32 of each chunk's rows: it binds content to place, while zarr's own CRC only binds content."""
    starts = range(0, len(values), chunk_rows)
    return [
        zlib.crc32(np.ascontiguousarray(values[start : start + chunk_rows]).view(np.uint8).data) for start in starts
    ]


# TensorStore


def numpy_dtype(dtype: str) -> np.dtype:
    """The NumPy dtype of a name in DTYPES."""
    import tensorstore

    return tensorstore.dtype(dtype).numpy_dtype  # bfloat16 is unknown to NumPy itself


def _open(folder: Path, array: Mapping[str, Any], layout: Mapping[str, Any], *, create: bool) -> Any:
    """Create or open one array; opening fails when zarr.json disagrees with the manifest."""
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder.absolute() / array['folder']}/"},
        "metadata": _metadata(array["shape"], layout),
        # Without these two a chunk that is lost, or was all NaN and therefore left out, reads as NaN in silence.
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": False,
    }
    return tensorstore.open(spec, create=create, open=not create).result()


def _metadata(shape: list[int], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Describe shards of whole chunks, full width, uncompressed, with CRC-32C on chunks and on the shard index."""
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    chunk, shard = [layout["chunk_rows"], shape[1]], [layout["shard_rows"], shape[1]]
    sharding = {"chunk_shape": chunk, "codecs": codecs, "index_codecs": codecs, "index_location": "end"}
    return {
        "shape": shape,
        "data_type": layout["dtype"],
        "fill_value": "NaN",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
