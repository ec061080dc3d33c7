"""A store as files that other programs read: one .safetensors, or a folder of .npy, written row by row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxalign.contracts import Fit
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.store.activations import DTYPES, cast, numpy_dtype, read, unfinished
from jaxalign.store.id_files import LINES, can_be_lines
from jaxalign.store.importing import ROW_NUMBERS
from jaxalign.store.manifests import STIMULUS_IDS, manifest, stimulus_ids, sync

SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
BLOCK_BYTES = 16 * 2**20


def export_safetensors(folder: Path, target: Path, layers: Sequence[str] = (), dtype: str | None = None) -> list[str]:
    """Write a store as one .safetensors file, a tensor (n_stimuli, width) per fit.

    Metadata: model, revision, stimulus_ids_sha256, jaxalign.fits (tensor -> layer, layer_depth, pooling) and
    jaxalign.stimulus_ids. A tensor is named after its layer, with /pooling when the store has several.

    Args:
        folder: a finished store.
        target: file to write; must not exist.
        layers: names or patterns; all by default.
        dtype: convert to it; None keeps that of the store.
    Returns:
        Sentences on what was written.
    Raises:
        DataError: if the store is damaged, the file exists, or values are beyond the range of dtype.
        ConfigError: if no layer has a name in `layers`.
    """
    content, fits, kept = _request(folder, layers, dtype)
    _check_free(target)
    ids = _known_ids(folder, content)
    names = _names(fits)
    temporary = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(_header(content, fits, names, kept, ids))
            for fit in fits:
                _write_rows(file, folder, fit, content["n_stimuli"], kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return [f"{target}: {len(fits)} tensors of {content['n_stimuli']} stimuli, {kept}."]


def export_npy(folder: Path, target: Path, layers: Sequence[str] = (), dtype: str | None = None) -> list[str]:
    """Write a store as a folder of .npy, one (n_stimuli, width) per fit, and stimulus_ids.txt when they are known.

    Args:
        folder: a finished store.
        target: folder to write; must not exist, or be empty.
        layers: names or patterns; all by default.
        dtype: convert to it; None keeps that of the store.
    Returns:
        Sentences on what was written.
    Raises:
        DataError: as `export_safetensors`, or for bfloat16, which .npy has no name for.
        ConfigError: if no layer has a name in `layers`.
    """
    content, fits, kept = _request(folder, layers, dtype)
    if kept == "bfloat16":
        raise DataError(
            f"{folder} holds bfloat16, which NumPy files cannot name: add dtype=float32, which is exact, or format=safetensors."
        )
    ids = _known_ids(folder, content)
    with unfinished(target) as temporary:
        for fit, name in zip(fits, _file_names(fits), strict=True):
            with (temporary / f"{name}.npy").open("wb") as file:
                _npy_header(file, (content["n_stimuli"], fit.width), kept)
                _write_rows(file, folder, fit, content["n_stimuli"], kept)
                file.flush()
                os.fsync(file.fileno())
        are_written = ids is not None and can_be_lines(ids)
        if are_written and ids is not None:
            (temporary / LINES).write_bytes("".join(f"{name}\n" for name in ids).encode())
    what = f"{target}: {len(fits)} arrays of {content['n_stimuli']} stimuli, {kept}"
    return [f"{what}, and {LINES}." if are_written else f"{what}; {LINES} is not written, since the ids are not known."]


# What is asked for


def _request(folder: Path, layers: Sequence[str], dtype: str | None) -> tuple[dict[str, Any], list[Fit], str]:
    content = manifest(folder)
    fits = [Fit(**array["fit"]) for array in content["arrays"]]
    for pattern in layers:
        if not any(_is_named(fit, [pattern]) for fit in fits):
            raise ConfigError(f"{folder} has no layer {pattern!r}. {nearest(pattern, {fit.layer for fit in fits})}")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype}: use one of {', '.join(DTYPES)}.")
    return content, [fit for fit in fits if not layers or _is_named(fit, layers)], dtype or content["dtype"]


def _is_named(fit: Fit, patterns: Sequence[str]) -> bool:
    return any(fit.layer == pattern or fnmatchcase(fit.layer, pattern) for pattern in patterns)


def _check_free(target: Path) -> None:
    if target.exists():
        raise DataError(f"{target} exists and is not overwritten: delete it, or choose another to=.")


def _known_ids(folder: Path, content: dict[str, Any]) -> tuple[str, ...] | None:
    is_named = content["identity"].get("stimulus_ids") != ROW_NUMBERS
    return stimulus_ids(folder) if is_named and STIMULUS_IDS in content["files"] else None


def _names(fits: Sequence[Fit]) -> list[str]:
    is_one = len({fit.pooling for fit in fits}) == 1
    return [fit.layer if is_one else f"{fit.layer}/{fit.pooling}" for fit in fits]


def _file_names(fits: Sequence[Fit]) -> list[str]:
    """Names that a file may have; they stay apart on file systems that ignore case."""
    names = [name.replace("/", "-").replace("\0", "-") for name in _names(fits)]
    wrong = [name for name in names if name.startswith(".") or len(name.encode()) > 200]
    if wrong or len({name.casefold() for name in names}) < len(names):
        raise DataError(
            f"The {len(names)} layers cannot all be names of files ({(wrong or names)[0]}): use format=safetensors."
        )
    return names  # fmt: skip


# Bytes


def _header(
    content: dict[str, Any], fits: Sequence[Fit], names: Sequence[str], dtype: str, ids: tuple[str, ...] | None
) -> bytes:
    """Length and JSON of a safetensors file; written here since the library wants all tensors in memory at once."""
    known = {
        name: {"layer": fit.layer, "layer_depth": fit.layer_depth, "pooling": fit.pooling}
        for name, fit in zip(names, fits, strict=True)
    }
    words = {
        "model": fits[0].model,
        "revision": fits[0].revision,
        "stimulus_ids_sha256": content["stimulus_ids_sha256"],
    }
    words |= {"jaxalign.fits": json.dumps(known)} | ({} if ids is None else {"jaxalign.stimulus_ids": json.dumps(ids)})
    header: dict[str, Any] = {"__metadata__": words}
    start, n_stimuli = 0, content["n_stimuli"]
    for name, fit in zip(names, fits, strict=True):
        stop = start + n_stimuli * fit.width * numpy_dtype(dtype).itemsize
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": [n_stimuli, fit.width],
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text  # fmt: skip


def _npy_header(file: IO[bytes], shape: tuple[int, int], dtype: str) -> None:
    description = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})


def _write_rows(file: IO[bytes], folder: Path, fit: Fit, n_stimuli: int, dtype: str) -> None:
    for rows in _converted(folder, fit, n_stimuli, dtype):
        file.write(np.ascontiguousarray(rows).view(np.uint8).data)


def _converted(folder: Path, fit: Fit, n_stimuli: int, dtype: str) -> Iterator[np.ndarray]:
    n_rows = max(1, BLOCK_BYTES // (4 * fit.width))
    for start in range(0, n_stimuli, n_rows):
        source = read(folder, fit, slice(start, start + n_rows))
        target = np.empty(source.shape, numpy_dtype(dtype))
        cast(source, target, fit)
        yield target
