"""Arrays in files that users have: .npy, .npz, HDF5, zarr, netCDF and tables; read block by block, never a pickle."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import DataError, nearest

Rows = tuple[slice, ...]
"""One slice per axis of an array."""


@dataclass(frozen=True)
class ArrayFile:
    """One array in a file, not read yet.

    Attributes:
        where: file and name inside it, for messages.
        shape: size of each axis.
        read: from one slice per axis to the values there.
        dims: names of the axes, where the file has them.
        coords: name of an axis -> (size,) labels along it, where the file has them.
        columns: (size of the first axis,) further columns of a table.
    """

    where: str
    shape: tuple[int, ...]
    read: Callable[[Rows], np.ndarray]
    dims: tuple[str, ...] = ()
    coords: Mapping[str, np.ndarray] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


def open_array(path: Path, variable: str, stack: ExitStack) -> ArrayFile:
    """The array of a file; handles stay open until the stack closes.

    Args:
        path: .npy, .npz, .h5, .hdf5, .nc file or .zarr folder.
        variable: name inside the file; empty where it holds a single array.
        stack: closes the file.
    Raises:
        DataError: if the file is damaged, of another kind, holds Python objects, or has no such array.
    """
    kind = path.suffix.lower()
    if kind not in OPENERS:
        raise DataError(f"{path} is not read: {REFUSED.get(kind, 'use one of ' + ', '.join(OPENERS))}.")
    try:
        return OPENERS[kind](path, variable, stack)
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        n_bytes = path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*"))
        raise DataError(
            f"{path} ({n_bytes} bytes) cannot be read as {kind}: {_short(error)}. It may be truncated, or another kind of "
            "file under this name: copy it again."
        ) from error


def given_array(values: np.ndarray, where: str, dims: tuple[str, ...], **labels: Any) -> ArrayFile:
    """An array that is in memory already.

    Args:
        values: any shape.
        where: for messages.
        dims: names of its axes.
        labels: coords and columns of the ArrayFile.
    """
    return ArrayFile(where, values.shape, lambda rows: values[rows], dims, **labels)


def read_block(source: ArrayFile, rows: Rows) -> np.ndarray:
    """Part of an array.

    Args:
        source: the array.
        rows: one slice per axis.
    Raises:
        DataError: if the file is damaged there.
    """
    try:
        return np.asarray(source.read(rows))
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zlib.error) as error:
        shown = ", ".join(f"{one.start or 0}:{'' if one.stop is None else one.stop}" for one in rows)
        raise DataError(
            f"{source.where} of shape {source.shape} cannot be read at [{shown}]: {_short(error)}. A part is missing or damaged: copy it again."
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _chosen(names: list[str], variable: str, path: Path) -> str:
    """The name that was asked for, or the only one there is."""
    if not variable and len(names) == 1:
        return names[0]
    if variable in names:
        return variable
    if not names:
        raise DataError(f"{path} holds no array.")
    asked = f"has no array {variable!r}" if variable else "holds several arrays: set dataset.variable"
    raise DataError(f"{path} {asked}. {nearest(variable, names)} It has {len(names)}: {', '.join(sorted(names)[:12])}.")


def _numbers(dtype: Any, where: str) -> None:
    """Refuse what is no number: objects need a pickle, which can run code."""
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise DataError(
            f"{where} is an array of Python objects, which only a pickle can hold, and a pickle can run code. In the program "
            "that made it: numpy.save(file, numpy.stack(list(x)).astype('float32')), each array of a dictionary on its own."
        )
    if dtype.kind not in "fiub":
        raise DataError(f"{where} has dtype {dtype}, which is no real number.")


def _npy(path: Path, variable: str, stack: ExitStack) -> ArrayFile:
    with path.open("rb") as handle:
        _numbers(_npy_dtype(handle), str(path))
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    return ArrayFile(str(path), values.shape, lambda rows: np.array(values[rows]))


def _npy_dtype(handle: Any) -> np.dtype:
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(handle)[2]


def _npz(path: Path, variable: str, stack: ExitStack) -> ArrayFile:
    handle = stack.enter_context(path.open("rb"))  # NumPy leaves the file open when it is no archive
    archive = stack.enter_context(np.load(handle, allow_pickle=False))
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{path} ({path.stat().st_size} bytes) cannot be read as .npz: it is a single .npy array.")
    name = _chosen(list(archive.files), variable, path)
    where = f"{path}:{name}"
    with stack.enter_context(zipfile.ZipFile(path)).open(f"{name}.npy") as member:
        _numbers(_npy_dtype(member), where)
    values = archive[name]
    return ArrayFile(where, values.shape, lambda rows: values[rows])


def _hdf5(path: Path, variable: str, stack: ExitStack) -> ArrayFile:
    h5py = _needs("h5py", path, "'jaxalign[data]'")
    source = stack.enter_context(h5py.File(path, "r"))
    found: list[str] = []
    source.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    name = _chosen(found, variable.strip("/"), path)
    array = source[name]
    where = f"{path}:{name}"
    if array.shape is None:
        raise DataError(f"{where} is empty.")
    if array.dtype.kind == "O":
        raise DataError(f"{where} holds strings or objects of varying length, and numbers are needed.")
    _numbers(array.dtype, where)
    return ArrayFile(where, array.shape, lambda rows: array[rows])


def _zarr(path: Path, variable: str, stack: ExitStack) -> ArrayFile:
    """zarr 2 or 3, through TensorStore."""
    import tensorstore as ts

    markers = {"zarr.json": "zarr3", ".zarray": "zarr"}
    arrays = {
        str(marker.parent.relative_to(path)): driver
        for name, driver in markers.items()
        for marker in sorted(path.rglob(name))
        if name == ".zarray" or '"array"' in marker.read_text(encoding="utf-8")
    }
    name = "." if not variable and "." in arrays else _chosen(list(arrays), variable.strip("/"), path)
    where = str(path) if name == "." else f"{path}:{name}"
    store = {"driver": "file", "path": str((path / name).resolve())}
    spec: dict[str, Any] = {"driver": arrays[name], "kvstore": store}
    array = ts.open(spec, open=True, read=True).result()
    _numbers(array.dtype.numpy_dtype, where)
    if array.fill_value is None or not np.isnan(np.asarray(array.fill_value, np.float64)).all():
        # A chunk that was lost on the way would read as zeros; only NaN can stand for what was never measured.
        array = ts.open({**spec, "fill_missing_data_reads": False}, open=True, read=True).result()
    labels = tuple(label for label in array.domain.labels if label)
    dims = labels if len(labels) == len(array.shape) else ()
    return ArrayFile(where, tuple(array.shape), lambda rows: np.asarray(array[rows].read().result()), dims)


def _netcdf(path: Path, variable: str, stack: ExitStack) -> ArrayFile:
    """What xarray writes: named axes, and coordinates along them."""
    import xarray

    with path.open("rb") as handle:
        is_classic = handle.read(3) == b"CDF"
    if not is_classic:
        _needs("h5netcdf", path, "h5netcdf")
    content = stack.enter_context(xarray.open_dataset(path, engine=None, decode_timedelta=False))
    name = _chosen([str(one) for one in content.data_vars], variable, path)
    array = content[name]
    _numbers(array.dtype, f"{path}:{name}")
    coords = {str(dim): array[dim].values for dim in array.dims if dim in array.coords}
    dims = tuple(str(dim) for dim in array.dims)
    first = array.dims[0] if array.dims else None
    columns = {str(key): one.values for key, one in array.coords.items() if one.dims == (first,) and key != first}
    return ArrayFile(f"{path}:{name}", array.shape, lambda rows: array[rows].values, dims, coords, columns)


def _needs(package: str, path: Path, install: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise DataError(f"{path} needs {package}, which is not installed: pip install {install}.") from error


OPENERS: dict[str, Callable[[Path, str, ExitStack], ArrayFile]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".zarr": _zarr,
    ".nc": _netcdf,
    ".nc4": _netcdf,
}
"""Ending -> function that opens it."""

_PICKLE = "it is a pickle, which can run code: save plain arrays with numpy.save, or a table with to_parquet"
REFUSED = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".dill"), _PICKLE),
    **dict.fromkeys(
        (".pt", ".pth"), "it is a pickle of torch, which can run code: numpy.save('x.npy', tensor.numpy())"
    ),
    ".mat": "save from MATLAB with h5write('x.h5', '/x', x), or numpy.save('x.npy', scipy.io.loadmat(file)['x'])",
}
"""Ending of a file that is not read -> what to do instead."""
