"""Features in files that others wrote: each layer by name, with a function that reads a block of its rows."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import DataError

READABLE = (".npy", ".npz", ".safetensors", ".h5", ".hdf5")
SAVE_ARRAYS = "in the program that made it, save plain arrays of numbers with numpy.save or safetensors"
REFUSED = {
    **dict.fromkeys(
        (".pt", ".pth", ".bin", ".ckpt"),
        "it is a pickle of torch, which can run code: load it in torch and write safetensors.torch.save_file({layer: tensor}, 'features.safetensors')",
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib", ".dill"), f"it is a pickle, which can run code: {SAVE_ARRAYS}.save_file"
    ),
    ".mat": "save from MATLAB with h5write('features.h5', '/layer', x'), or numpy.save('layer.npy', scipy.io.loadmat(file)['layer'])",
    **dict.fromkeys((".csv", ".tsv", ".txt"), "text is no store of features: numpy.save('layer.npy', numpy.loadtxt(file, delimiter=','))"),
}  # fmt: skip
"""Ending of a file that is not read -> what to do instead."""


@dataclass(frozen=True)
class Layer:
    """Features of one layer in a file.

    Attributes:
        name: layer name.
        file: where it is.
        shape: (n_stimuli, width), or what the file has instead.
        dtype: name of the dtype in the file.
        rows: function of (start, stop) giving (stop - start, width); called with blocks in order.
        depth, pooling: as in a file that jaxalign exported, else None.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[int, int], np.ndarray]
    depth: float | None = None
    pooling: str | None = None


@dataclass(frozen=True)
class Contents:
    """What a file holds: its layers in order, and the stimulus ids if jaxalign exported it with them."""

    layers: list[Layer]
    stimulus_ids: tuple[str, ...] | None = None


def expand(paths: list[Path]) -> list[Path]:
    """Files, with a folder replaced by the readable files in it, in natural order.

    Raises:
        DataError: if a file is missing or of a kind that is not read, with how to convert it.
    """
    files = [file for path in paths for file in (_in_folder(path) if path.is_dir() else [path])]
    for file in files:
        _check_kind(file)
    return files


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which layer 2 comes before layer 10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def open_file(file: Path, stack: ExitStack) -> Contents:
    """The layers of one file, whose handles stay open until the stack closes.

    Raises:
        DataError: if the file is damaged, or holds objects.
    """
    opener: dict[str, Callable[[Path, ExitStack], Contents]] = {".npy": _npy, ".npz": _npz, ".safetensors": _tensors}
    try:
        return opener.get(file.suffix.lower(), _hdf5)(file, stack)
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read: {error}. Write it again, or copy it again.") from error


def _in_folder(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in READABLE and not path.name.startswith(".")]
    if not found:
        raise DataError(f"{folder} holds no file that can be imported: {', '.join(READABLE)}.")
    return sorted(found, key=lambda path: natural(path.name))


def _check_kind(file: Path) -> None:
    kind = file.suffix.lower()
    if not file.is_file():
        raise DataError(f"{file} does not exist. Give files or folders of {', '.join(READABLE)}.")
    if kind not in READABLE:
        raise DataError(f"{file} is not imported: {REFUSED.get(kind, 'use one of ' + ', '.join(READABLE))}.")


# One array per file


def _npy(file: Path, stack: ExitStack) -> Contents:
    with file.open("rb") as handle:
        _npy_header(handle, file, file.stem)
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    return Contents([Layer(file.stem, file, array.shape, str(array.dtype), lambda start, stop: array[start:stop])])


def _npy_header(handle: Any, file: Path, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether stored by columns, and dtype; refuses objects, which only a pickle can hold."""
    version = np.lib.format.read_magic(handle)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} in {file} has .npy version {version}: {SAVE_ARRAYS}.")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(handle)
    if dtype.hasobject:
        raise DataError(
            f"{name} in {file} is an array of Python objects, which only a pickle can hold: {SAVE_ARRAYS}, as numpy.stack(list(x)).astype('float32')."
        )
    return shape, by_columns, dtype


# Several arrays per file


def _npz(file: Path, stack: ExitStack) -> Contents:
    archive = stack.enter_context(zipfile.ZipFile(file))
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    return Contents([_npz_layer(archive, name, file, stack) for name in names])


def _npz_layer(archive: zipfile.ZipFile, member: str, file: Path, stack: ExitStack) -> Layer:
    """One array of an archive, read forwards as it is unpacked; one stored by columns is read whole."""
    handle = stack.enter_context(archive.open(member))
    name = member.removesuffix(".npy")
    shape, by_columns, dtype = _npy_header(handle, file, name)
    if by_columns and len(shape) == 2:
        whole = cache(partial(_unpack_columns, handle, shape, dtype, file))
        return Layer(name, file, shape, str(dtype), lambda start, stop: whole()[start:stop])
    return Layer(name, file, shape, str(dtype), partial(_unpack_rows, handle, shape, dtype, file))


def _unpack_columns(handle: Any, shape: tuple[int, ...], dtype: np.dtype, file: Path) -> np.ndarray:
    return _unpack(handle, shape[0] * shape[1], dtype, file, is_last=True).reshape(shape[::-1]).T


def _unpack_rows(handle: Any, shape: tuple[int, ...], dtype: np.dtype, file: Path, start: int, stop: int) -> np.ndarray:
    return _unpack(handle, (stop - start) * shape[1], dtype, file, is_last=stop == shape[0]).reshape(-1, shape[1])


def _unpack(handle: Any, n_values: int, dtype: np.dtype, file: Path, *, is_last: bool) -> np.ndarray:
    """The next values; reading past the last one makes zipfile compare its CRC-32."""
    content = handle.read(n_values * dtype.itemsize)
    is_left = is_last and handle.read(1)
    if len(content) != n_values * dtype.itemsize or is_left:
        raise DataError(f"{handle.name} in {file} holds another number of values than its header says: write it again.")
    return np.frombuffer(content, dtype)


def _tensors(file: Path, stack: ExitStack) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        source = stack.enter_context(safe_open(file, framework="numpy"))
    except SafetensorError as error:
        raise DataError(f"{file} is no whole safetensors file: {error}. Write it again, or copy it again.") from error
    fits, ids = _own_words(source.metadata(), file)
    known = set(source.keys())
    names = [*(name for name in fits if name in known), *sorted(known - set(fits), key=natural)]
    return Contents([_tensor(source.get_slice(name), name, file, fits.get(name)) for name in names], ids)


def _own_words(metadata: dict[str, str] | None, file: Path) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Tensor -> layer, depth and pooling, and the stimulus ids, as `jaxalign export` wrote them; empty without."""
    own = {name: json.loads((metadata or {}).get(f"jaxalign.{name}", "null")) for name in ("fits", "stimulus_ids")}
    fits, ids = own["fits"] or {}, own["stimulus_ids"]
    is_whole = isinstance(fits, dict) and all(isinstance(fit, dict) for fit in fits.values())
    if not is_whole or not (ids is None or (isinstance(ids, list) and all(isinstance(name, str) for name in ids))):
        raise DataError(f"{file} has metadata of jaxalign that were edited: export the store again.")
    return fits, None if ids is None else tuple(ids)


def _tensor(tensor: Any, name: str, file: Path, fit: dict[str, Any] | None) -> Layer:
    shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    kind = names.get(dtype, dtype.lower().replace("u", "uint").replace("i", "int") if dtype[0] in "UI" else dtype)
    kept = (name, None, None) if fit is None else (fit["layer"], fit["layer_depth"], fit["pooling"])
    return Layer(kept[0], file, shape, kind, lambda start, stop: tensor[start:stop], kept[1], kept[2])


def _hdf5(file: Path, stack: ExitStack) -> Contents:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{file} needs h5py, which is not installed: pip install 'jaxalign[data]'.") from error
    source = stack.enter_context(h5py.File(file, "r"))
    return Contents([_dataset(source[name], name, file) for name in sorted(_datasets(source), key=natural)])


def _datasets(group: Any) -> Iterator[str]:
    """Paths of the arrays in the file; links out of it are not followed."""
    import h5py

    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    yield from found


def _dataset(array: Any, name: str, file: Path) -> Layer:
    return Layer(name, file, array.shape or (), str(array.dtype), lambda start, stop: array[start:stop])
