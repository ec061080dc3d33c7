"""RDMs that rsatoolbox and mne-rsa wrote: .hdf5 of rsatoolbox, and .npy of condensed or square matrices."""

from __future__ import annotations

import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import DataError, nearest
from jaxalign.sources.array_files import open_array, read_block

NAMES = ("name", "subject", "roi", "model", "session", "index")
"""Descriptors of rsatoolbox that name an RDM, the preferred one first."""


def read_npy(path: Path) -> list[tuple[str, np.ndarray]]:
    """RDMs of an .npy or .npz file, as mne-rsa gives them. -> [(name, (n, n))]

    One RDM is (n_pairs,) in the order of scipy, or (n, n) with a diagonal of 0; several are stacked on the first axis.

    Args:
        path: the file; each array of an .npz gives its name to its RDMs.
    Raises:
        DataError: if it holds objects, or no number of stimuli has that many pairs.
    """
    found: list[tuple[str, np.ndarray]] = []
    names = _arrays(path) if path.suffix.lower() == ".npz" else [""]
    for name in names:
        with ExitStack() as stack:
            source = open_array(path, name, stack)
            values = np.asarray(read_block(source, (slice(None),) * len(source.shape)), np.float64)
        is_square = (
            values.ndim >= 2 and values.shape[-1] == values.shape[-2] and not np.diagonal(values, 0, -2, -1).any()
        )
        stacked = values.reshape(-1, *values.shape[-2:]) if is_square else values.reshape(-1, values.shape[-1])
        label = name or path.stem
        squares = [one if is_square else square(one, f"{source.where} of shape {values.shape}") for one in stacked]
        found += [(label if len(squares) == 1 else f"{label}{index}", one) for index, one in enumerate(squares)]
    return found


def read_rsatoolbox(path: Path, descriptor: str) -> tuple[list[tuple[str, np.ndarray]], dict[str, np.ndarray]]:
    """RDMs that `rsatoolbox.rdm.RDMs.save(file_type="hdf5")` wrote. -> [(name, (n, n))], descriptors of the stimuli

    Args:
        path: the file.
        descriptor: RDM descriptor that names them; empty takes the first of name, subject, roi, model, session, index.
    Raises:
        DataError: if the file is none of rsatoolbox's, or has no such descriptor.
    """
    import h5py

    try:
        with h5py.File(path, "r") as source:
            if "dissimilarities" not in source:
                raise DataError(
                    f"{path} has {', '.join(sorted(source)) or 'nothing'} and no dissimilarities: save it with rsatoolbox's RDMs.save(file, 'hdf5')."
                )
            values = np.asarray(source["dissimilarities"], np.float64)
            of_rdms = _descriptors(source, "rdm_descriptors", len(values))
            of_stimuli = _descriptors(source, "pattern_descriptors", None)
    except (OSError, RuntimeError, TypeError) as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as HDF5: {error}. Is it truncated, or a pickle? Save it with file_type='hdf5'."
        ) from error
    if values.ndim != 2:
        raise DataError(f"{path}: dissimilarities have shape {values.shape}, not (n_rdms, n_pairs).")
    if descriptor and descriptor not in of_rdms:
        raise DataError(f"{path} has no RDM descriptor {descriptor!r}. {nearest(descriptor, of_rdms)}")
    chosen = descriptor or next((name for name in NAMES if name in of_rdms), "")
    labels = of_rdms[chosen] if chosen else np.arange(len(values))
    squares = [square(one, f"{path}, dissimilarities of shape {values.shape}") for one in values]
    return [(str(label), one) for label, one in zip(labels, squares, strict=True)], of_stimuli


def square(condensed: np.ndarray, where: str) -> np.ndarray:
    """The symmetric matrix of an upper triangle in the order of scipy. (n_pairs,) -> (n, n)

    Args:
        condensed: upper triangle, row by row.
        where: for messages.
    Raises:
        DataError: if it has a length that no number of stimuli gives.
    """
    n = round((1 + np.sqrt(1 + 8 * len(condensed))) / 2)
    if n * (n - 1) // 2 != len(condensed):
        raise DataError(
            f"{where}: {len(condensed)} entries are no upper triangle: {n - 1} stimuli have {(n - 1) * (n - 2) // 2} pairs, {n} have {n * (n - 1) // 2}. A square RDM has a diagonal of 0."
        )
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = condensed
    return matrix + matrix.T


def _arrays(path: Path) -> list[str]:
    try:
        with path.open("rb") as handle, zipfile.ZipFile(handle) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} ({path.stat().st_size} bytes) cannot be read as .npz: {error}.") from error


def _descriptors(source: Any, group: str, length: int | None) -> dict[str, np.ndarray]:
    """Descriptors of a group that have one value per RDM or stimulus, as text."""
    if group not in source:
        return {}
    found = {name: np.asarray(item) for name, item in source[group].items() if getattr(item, "shape", None)}
    found |= {name: np.asarray(item) for name, item in source[group].attrs.items()}
    texts = {}
    for name, values in found.items():
        if values.ndim == 1 and (length is None or len(values) == length):
            texts[name] = np.array([one.decode() if isinstance(one, bytes) else str(one) for one in values.tolist()])
    return texts
