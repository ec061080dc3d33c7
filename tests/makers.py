"""Tiny real files and the requests of tiny runs on them, for the tests of the runtime, the sources and the command line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

CHANNELS = ("Fz", "Cz", "Pz", "Oz")
SFREQ_HZ = 50.0


def epochs_file(path: Path, values: np.ndarray, columns: dict[str, Any] | None = None, types: Any = "eeg") -> Path:
    """Write an -epo.fif file. values: (n_stimuli, n_channels, n_times) volts; columns: its metadata, None for none."""
    info = mne.create_info(list(CHANNELS[: values.shape[1]]), SFREQ_HZ, types, verbose="error")
    metadata = None if columns is None else pd.DataFrame(columns)
    epochs = mne.EpochsArray(values, info, tmin=-0.1, metadata=metadata, verbose="error")
    epochs.save(path, fmt="double", overwrite=True, verbose="error")
    return path


def eeg(n_stimuli: int = 24, n_times: int = 6, seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    """Responses in volts and metadata: a word, a frequency that Pz follows, and a length that nothing follows."""
    rng = np.random.default_rng(seed)
    frequency, length = rng.standard_normal(n_stimuli), rng.integers(2, 12, n_stimuli)
    values = rng.standard_normal((n_stimuli, len(CHANNELS), n_times))
    values[:, CHANNELS.index("Pz")] += frequency[:, None]
    words = [f"word{index}" for index in range(n_stimuli)]
    return values * 1e-6, {"word": words, "frequency": frequency, "length": length}


def rdm(n_stimuli: int, seed: int) -> np.ndarray:
    """A Euclidean RDM of random points. -> (n_stimuli, n_stimuli)"""
    points = np.random.default_rng(seed).standard_normal((n_stimuli, 3))
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def rdm_file(path: Path, rdms: dict[str, np.ndarray], variable: str = "RDMs") -> Path:
    """Write a MATLAB file with a struct array of square RDMs, name -> (n, n)."""
    content = np.empty((1, len(rdms)), dtype=[("RDM", object), ("name", object)])
    for place, (name, matrix) in enumerate(rdms.items()):
        content[0, place] = (matrix, name)
    savemat(path, {variable: content})
    return path


def eeg_request(folder: Path, n_stimuli: int = 24, **changes: Any) -> list[str]:
    """Options of a run of two metadata columns against a recording of 4 channels x 6 bins: under a second once compiled."""
    path = folder / "tiny-epo.fif"
    if not path.exists():
        epochs_file(path, *eeg(n_stimuli))
    return request(
        {
            "dataset": "n400",
            "dataset.name": "tiny",
            "dataset.path": path,
            "dataset.stimulus_columns": "[word]",
            "dataset.feature_columns": "[]",
            "model": "[fas]",
            "model.fas.columns": "[frequency,length]",
            "metric": "[correlation]",
            "metric.correlation.n_permutations": 20,
            "mesh.targets_per_call": 8,
            "mesh.target": 1,
            "output": folder / "out",
            "store": folder / "store",
            "report": "false",
            **changes,
        }
    )


def rdm_request(folder: Path, n_stimuli: int = 12, n_models: int = 3, **changes: Any) -> list[str]:
    """Options of an RSA run of given RDMs on both sides: 2 subjects x 2 sessions against some models."""
    brain, models = folder / "brain.mat", folder / "models.mat"
    if not brain.exists():
        names = [f"hIT | {subject} | session{session}" for subject in ("BE", "KO") for session in (1, 2)]
        rdm_file(brain, {name: rdm(n_stimuli, seed) for seed, name in enumerate(names)})
        rdm_file(models, {f"model{index}": rdm(n_stimuli, 10 + index) for index in range(n_models)}, "Models")
    return request(
        {
            "dataset": "objects92",
            "dataset.path": brain,
            "model": "[objects92_models]",
            "model.objects92_models.path": models,
            "metric": "[rsa]",
            "metric.rsa.n_permutations": 20,
            "metric.rsa.n_folds": 2,
            "mesh.targets_per_call": 8,
            "mesh.target": 1,
            "output": folder / "out",
            "report": "false",
            **changes,
        }
    )


def request(options: dict[str, Any]) -> list[str]:
    """Options as words of the command line; double underscores stand for dots, None leaves an option out."""
    named = {name.replace("__", "."): value for name, value in options.items()}
    return [f"{name}={value}" for name, value in named.items() if value is not None]


def table_hash(path: Path) -> str:
    """sha256 over the Arrow columns, sorted by the keys: what "equal bytes" means. Dictionaries are decoded first."""
    from jaxalign.results import KEYS

    path = path / "scores.parquet" if path.is_dir() else path
    table = pq.read_table(path)
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
    table = table.sort_by([(key, "ascending") for key in KEYS]).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()
