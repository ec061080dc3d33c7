"""Given dissimilarity matrices from a file: brain RDMs of subjects, or RDMs of models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import RdmSet
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.files import find, sha256
from jaxalign.sources.rdm_readers import read_npy, read_rsatoolbox
from jaxalign.sources.tables import read_names


@dataclass(frozen=True)
class RdmFile:
    """RDMs in a file: MATLAB (a struct array with fields RDM (n, n) and name), rsatoolbox (.hdf5) or mne-rsa (.npy, .npz).

    Attributes:
        name: data set (or model set) name in the table.
        path: .mat file (version 5); .hdf5 or .h5 that rsatoolbox saved; .npy or .npz of condensed or square RDMs, as mne-rsa
            gives them; absolute or under a data folder.
        variable: variable of the .mat file that holds the struct array.
        name_pattern: regular expression whose first group is taken from each name; RDMs that share it (sessions of a
            subject) are averaged.
        revision: version of the RDMs, free text.
        name_descriptor: RDM descriptor of rsatoolbox that names each RDM; empty takes name, subject, or the next there is.
        stimulus_descriptor: pattern descriptor of rsatoolbox that names the stimuli; empty numbers them.
        stimulus_ids: file that names the stimuli in their order, where the file of RDMs does not.
    """

    name: str = "rdms"
    path: str = ""
    variable: str = "RDMs"
    name_pattern: str = "(.*)"
    revision: str = ""
    name_descriptor: str = ""
    stimulus_descriptor: str = ""
    stimulus_ids: str = ""

    def rdms(self) -> RdmSet:
        """Read, check and average the RDMs.

        Raises:
            ConfigError: if no file is named.
            DataError: if the file or variable is missing, or a matrix is not square, symmetric, finite, of zero
                diagonal and of the same size as the others.
        """
        if not self.path:
            raise ConfigError(f"{self.name} names no file: set its path, such as model.rdm_file.path=rdms.hdf5.")
        path = find(self.path)
        named: dict[str, list[np.ndarray]] = {}
        labelled, described = self._labelled(path)
        for label, matrix in labelled:
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
            stimulus_ids=self._ids(described, n_stimuli, path),
            names=tuple(named),
            values=np.stack([np.mean(rdms, axis=0) for rdms in named.values()]).astype(np.float32),
            origin={"file": path.name, "sha256": sha256(path), "n_averaged": [len(rdms) for rdms in named.values()]},
        )

    def _labelled(self, path: Path) -> tuple[list[tuple[str, np.ndarray]], dict[str, np.ndarray]]:
        """Square RDMs by name, and what the file says of their stimuli."""
        kind = path.suffix.lower()
        if kind in (".npy", ".npz"):
            return read_npy(path), {}
        if kind in (".hdf5", ".h5"):
            return read_rsatoolbox(path, self.name_descriptor)
        if kind in (".pkl", ".pickle"):
            raise DataError(
                f"{path} is a pickle, which can run code: save it again with rsatoolbox's RDMs.save(file, 'hdf5')."
            )
        return self._read(path), {}

    def _ids(self, described: dict[str, np.ndarray], n_stimuli: int, path: Path) -> tuple[str, ...]:
        """Names of the stimuli; numbers where nothing names them."""
        if self.stimulus_ids:
            names = read_names(find(self.stimulus_ids))
            ids, where = names.ids, names.where
        elif self.stimulus_descriptor:
            if self.stimulus_descriptor not in described:
                raise DataError(
                    f"{path} has no pattern descriptor {self.stimulus_descriptor!r}. {nearest(self.stimulus_descriptor, described)}"
                )
            ids, where = tuple(map(str, described[self.stimulus_descriptor])), f"{path}, {self.stimulus_descriptor}"
        else:
            return tuple(str(index) for index in range(n_stimuli))
        if len(ids) != n_stimuli or len(set(ids)) < len(ids):
            raise DataError(
                f"{where} names {len(ids)} stimuli, {len(set(ids))} of them different, and {path} has RDMs of {n_stimuli}."
            )
        return ids

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
