"""Series of fMRI volumes or surface maps (NIfTI, MGH, HDF5), of which some voxels are read, some volumes at a time."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import DataError

BLOCK_BYTES = 64 * 2**20
"""Bytes of whole volumes that are in memory at a time."""


@dataclass(frozen=True)
class Series:
    """Volumes in a file, not read yet.

    Attributes:
        where: file, for messages.
        space: (nx, ny, nz) voxels of a volume; (n_vertices, 1, 1) of a surface map.
        n_volumes: how many there are.
        n_at_once: volumes whose whole values fit BLOCK_BYTES.
        read: from start, stop and (n_voxels,) flat indices in C order of `space` to (stop - start, n_voxels).
    """

    where: str
    space: tuple[int, ...]
    n_volumes: int
    n_at_once: int
    read: Callable[[int, int, np.ndarray], np.ndarray]

    def blocks(self, voxels: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Volumes and their values at some voxels, in order. -> (n, n_voxels) float32 each

        Args:
            voxels: (n_voxels,) flat indices.
        Raises:
            DataError: if the file ends before its header says.
        """
        for start in range(0, self.n_volumes, self.n_at_once):
            stop = min(start + self.n_at_once, self.n_volumes)
            try:
                values = self.read(start, stop, voxels)
            except _DAMAGE as error:
                raise DataError(
                    f"{self.where} cannot be read from volume {start} of {self.n_volumes}: {error}. Is it truncated? Copy it again."
                ) from error
            yield slice(start, stop), np.asarray(values, np.float32)

    def all(self, voxels: np.ndarray) -> np.ndarray:
        """All volumes at some voxels. -> (n_volumes, n_voxels) float32

        Args:
            voxels: (n_voxels,) flat indices.
        """
        values = np.empty((self.n_volumes, len(voxels)), np.float32)
        for rows, block in self.blocks(voxels):
            values[rows] = block
        return values


def open_series(path: Path, stack: ExitStack) -> Series:
    """The volumes of a .nii, .nii.gz, .mgh, .mgz or .hdf5 file (HDF5 as in NSD: data set betas, axes volume, z, y, x).

    Args:
        path: the file.
        stack: closes it.
    Raises:
        DataError: if it cannot be read, or holds a single volume.
    """
    series = _hdf5(path, stack) if path.suffix.lower() in (".hdf5", ".h5") else _image(path, stack)
    if series.n_volumes < 2:
        raise DataError(f"{path} holds {series.n_volumes} volume of {series.space}: a series is needed.")
    return series


def read_map(path: Path) -> np.ndarray:
    """One volume or surface map, such as a mask. -> (nx, ny, nz) as stored in the file

    Args:
        path: .nii, .nii.gz, .mgh or .mgz file.
    Raises:
        DataError: if it cannot be read, or holds several volumes.
    """
    with ExitStack() as stack:
        image = _loaded(path, stack)
        try:
            values = np.asarray(image.dataobj).copy()
        except _DAMAGE as error:
            raise DataError(
                f"{path} ({path.stat().st_size} bytes) cannot be read: {error}. Is it truncated?"
            ) from error
    shape = _space(values.shape)
    if values.size != np.prod(shape):
        raise DataError(f"{path} has shape {values.shape}: one volume is needed.")
    return values.reshape(shape)


def same_space(space: tuple[int, ...], other: tuple[int, ...], where: str, what: str) -> None:
    """Refuse a mask of another grid.

    Args:
        space: voxels of the series.
        other: voxels of the map.
        where: series, for messages.
        what: map, for messages.
    Raises:
        DataError: if they differ.
    """
    if space != other:
        raise DataError(f"{what} has {other} voxels and the volumes of {where} have {space}: they need the same grid.")


def _loaded(path: Path, stack: ExitStack) -> Any:
    """An image whose values are read when they are asked for, as long as the stack is open."""
    try:
        import nibabel
    except ImportError as error:
        raise DataError(f"{path} needs nibabel, which is not installed: pip install 'jaxalign[data]'.") from error
    kind = path.suffix.lower()
    try:
        if kind in (".mgh", ".mgz"):  # nibabel 5.4 leaves these open for the garbage collector
            handle = stack.enter_context(gzip.GzipFile(path) if kind == ".mgz" else path.open("rb"))
            return nibabel.MGHImage.from_file_map({"image": nibabel.FileHolder(fileobj=handle)})
        # Kept open, a compressed file is unpacked once from front to back, not once per block.
        return nibabel.load(path, keep_file_open=kind == ".gz")
    except (*_DAMAGE, nibabel.filebasedimages.ImageFileError, nibabel.wrapstruct.WrapStructError,
            nibabel.spatialimages.HeaderDataError, nibabel.freesurfer.mghformat.MGHError) as error:  # fmt: skip
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as an image of volumes: {error}. It may be truncated, or another kind of file under this name."
        ) from error


_DAMAGE = (OSError, EOFError, ValueError, TypeError, zlib.error)
"""What reading a damaged file raises."""


def _space(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:3], *(1,) * (3 - len(shape[:3])))


def _image(path: Path, stack: ExitStack) -> Series:
    image = _loaded(path, stack)
    space, n_volumes = _space(image.shape), (int(image.shape[3]) if len(image.shape) > 3 else 1)
    per_volume = 8 * int(np.prod(space))
    data = image.dataobj

    def read(start: int, stop: int, voxels: np.ndarray) -> np.ndarray:
        block = np.asarray(data[..., start:stop])
        return block.reshape(-1, stop - start)[voxels].T

    return Series(str(path), space, n_volumes, max(1, BLOCK_BYTES // per_volume), read)


def _hdf5(path: Path, stack: ExitStack) -> Series:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} needs h5py, which is not installed: pip install 'jaxalign[data]'.") from error
    try:
        source = stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as HDF5: {error}. Is it truncated?"
        ) from error
    if "betas" not in source or source["betas"].ndim != 4:
        raise DataError(f"{path} has {', '.join(source) or 'nothing'}: a data set betas (volume, z, y, x) is needed.")
    betas = source["betas"]
    space = (int(betas.shape[3]), int(betas.shape[2]), int(betas.shape[1]))
    per_volume = 4 * int(np.prod(space))

    def read(start: int, stop: int, voxels: np.ndarray) -> np.ndarray:
        """Only the box around the voxels is read; MATLAB wrote x first, HDF5 gives it last."""
        x, y, z = np.unravel_index(voxels, space)
        box = [slice(int(one.min()), int(one.max()) + 1) for one in (z, y, x)]
        block = betas[(slice(start, stop), *box)]
        return block[:, z - box[0].start, y - box[1].start, x - box[2].start]

    return Series(str(path), space, int(betas.shape[0]), max(1, BLOCK_BYTES // per_volume), read)
