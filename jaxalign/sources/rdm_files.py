"""Given dissimilarity matrices from a file: brain RDMs of subjects, or RDMs of models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import RdmSet
from jaxalign.errors import DataError, nearest
from jaxalign.sources.files import find, sha256


@dataclass(frozen=True)
class RdmFile:
    """Square RDMs in a MATLAB file: a struct array with fields RDM (n, n) and name.

    Attributes:
        name: data set (or model set) name in the table.
        path: .mat file (version 5), absolute or under a data folder.
        variable: variable that holds the struct array.
        name_pattern: regular expression whose first group is taken from each name; RDMs that share it (sessions of a
            subject) are averaged.
        revision: version of the RDMs, free text.
    """

    name: str = "rdms"
    path: str = ""
    variable: str = "RDMs"
    name_pattern: str = "(.*)"
    revision: str = ""

    def rdms(self) -> RdmSet:
        """Read, check and average the RDMs.

        Raises:
            DataError: if the file or variable is missing, or a matrix is not square, symmetric, finite, of zero
                diagonal and of the same size as the others.
        """
        path = find(self.path)
        named: dict[str, list[np.ndarray]] = {}
        for label, matrix in self._read(path):
            found = re.search(self.name_pattern, label)
            if found is None:
                raise DataError(f"{path}: the RDM named {label!r} does not match name_pattern={self.name_pattern!r}.")
            named.setdefault(found.group(1), []).append(_condensed(matrix, label, path))
        sizes = {name: len(rdms[0]) for name, rdms in named.items()}
        if len(set(sizes.values())) != 1:
            raise DataError(f"{path}: RDMs have different sizes, in pairs: {sizes}.")
        n_stimuli = len(matrix)
        return RdmSet(
            dataset=self.name,
            stimulus_ids=tuple(str(index) for index in range(n_stimuli)),
            names=tuple(named),
            values=np.stack([np.mean(rdms, axis=0) for rdms in named.values()]).astype(np.float32),
            origin={"file": path.name, "sha256": sha256(path), "n_averaged": [len(rdms) for rdms in named.values()]},
        )

    def _read(self, path: Path) -> list[tuple[str, np.ndarray]]:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        try:
            content: dict[str, Any] = loadmat(path)
        except (MatReadError, ValueError, OSError, NotImplementedError) as error:
            raise DataError(
                f"{path} ({path.stat().st_size} bytes) cannot be read as a MATLAB 5 file: {error}."
            ) from error
        if self.variable not in content:
            known = [name for name in content if not name.startswith("__")]
            raise DataError(f"{path} has no variable {self.variable!r}. {nearest(self.variable, known)}")
        structs = content[self.variable].ravel()
        if structs.dtype.names is None or not {"RDM", "name"} <= set(structs.dtype.names):
            raise DataError(f"{path}: {self.variable} is not a struct array with fields RDM and name.")
        return [(str(entry["name"].ravel()[0]), np.asarray(entry["RDM"], np.float64)) for entry in structs]


def _condensed(matrix: np.ndarray, label: str, path: Path) -> np.ndarray:
    """Upper triangle of a checked RDM. (n, n) -> (n_pairs,)"""
    where = f"{path}: the RDM {label!r}"
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{where} has shape {matrix.shape}, not (n, n).")
    if len(matrix) < 4:
        raise DataError(f"{where} has {len(matrix)} stimuli; at least 4 are needed.")
    if not np.isfinite(matrix).all():
        raise DataError(f"{where} holds {int((~np.isfinite(matrix)).sum())} NaN or Inf entries.")
    gap = float(np.abs(matrix - matrix.T).max())
    if gap > 1e-4 * max(1.0, float(np.abs(matrix).max())):
        raise DataError(f"{where} is not symmetric: entries differ by up to {gap:.3g}.")
    if np.abs(np.diag(matrix)).max() > 1e-4 * max(1.0, float(np.abs(matrix).max())):
        raise DataError(
            f"{where} has up to {np.abs(np.diag(matrix)).max():.3g} on its diagonal, which is 0 for dissimilarities. Is it a similarity matrix?"
        )
    return matrix[np.triu_indices(len(matrix), 1)]
