"""MATLAB files of FieldTrip, as Alice has them: the recording, when its words began, its bad channels, its groups of people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.reading import is_hdf5

GROUPS = ("use", "lowperf", "highnoise")
"""Lists of subjects in datasets.mat."""

VOLTS = {"uv": 1e-6, "µv": 1e-6, "mv": 1e-3, "v": 1.0}
TYPES = {"VEOG": "eog", "HEOG": "eog", "EOG": "eog", "AUD": "misc", "AUX5": "misc"}


@dataclass(frozen=True)
class Proc:
    """What the authors' preprocessing says of a subject.

    Attributes:
        samples: (n_words,) zero-based sample of each word's onset in the recording.
        segments: (n_words,) its sound file.
        orders: (n_words,) its number in the table of words.
        bads: channels they interpolated.
        sfreq_hz: sampling rate of the samples.
    """

    samples: np.ndarray
    segments: np.ndarray
    orders: np.ndarray
    bads: tuple[str, ...]
    sfreq_hz: float = 500.0

    def starts_s(self, words: Mapping[str, np.ndarray], tolerance_s: float, where: str) -> dict[float, float]:
        """Start of each sound file in the recording: the median over its words of their onset there minus that in the file.

        Args:
            words: Order, Segment and onset of the table of words.
            tolerance_s: how far a word may be from the median.
            where: whose they are, for messages.
        Returns:
            sound file -> seconds from the start of the recording; a file that began before it has a negative start.
        Raises:
            DataError: if a word is not in the table or of another sound file, or words of one file disagree.
        """
        row_of = {order: row for row, order in enumerate(words["Order"].tolist())}
        missing = [order for order in self.orders.tolist() if order not in row_of]
        if missing:
            raise DataError(
                f"{where}: proc has {len(missing)} of {len(self.orders)} words that the table of words has not, first Order {missing[0]:g}."
            )
        rows = np.array([row_of[order] for order in self.orders.tolist()])
        other = np.flatnonzero(words["Segment"][rows] != self.segments)
        if len(other):
            raise DataError(
                f"{where}: {len(other)} of {len(rows)} words are of another sound file in proc than in the table, first Order {self.orders[other[0]]:g}."
            )
        late = self.samples / self.sfreq_hz - words["onset"][rows]
        starts = {}
        for segment in sorted(set(self.segments.tolist())):
            of_segment = late[self.segments == segment]
            starts[segment] = float(np.median(of_segment))
            worst = float(np.abs(of_segment - starts[segment]).max())
            if worst > tolerance_s:
                raise DataError(
                    f"{where}: the {len(of_segment)} words of sound file {segment:g} disagree about its start by up to {worst:.3f} s (median {starts[segment]:.3f} s). Are proc and the table of words of one release? Raise dataset.tolerance_s, or give dataset.segment_starts_s."
                )
        return starts


def load(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file of any version, structs as mappings.

    Args:
        path: .mat file.
    Raises:
        DataError: if it cannot be read.
        ConfigError: if it is of version 7.3 and h5py is not installed.
    """
    from scipy.io import loadmat

    if is_hdf5(path):
        return _load_hdf5(path)
    try:
        found = loadmat(path, simplify_cells=True)
    # A damaged MATLAB file raises what its bytes happen to mean: zlib.error, TypeError, OverflowError and more.
    except Exception as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a MATLAB file: {error}. Copy or download it again."
        ) from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _load_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(
            f"{path} is a MATLAB 7.3 file and needs the package h5py: pip install 'jaxalign[data]'."
        ) from error
    try:
        with h5py.File(path) as file:
            return {name: _plain(file[name], file, h5py) for name in file if not name.startswith("#")}
    except OSError as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is a damaged MATLAB 7.3 file: {error}. Copy or download it again."
        ) from error


def _plain(node: Any, file: Any, h5py: Any) -> Any:
    """A node of HDF5 as MATLAB meant it: MATLAB's arrays are stored with their axes reversed."""
    if isinstance(node, h5py.Group):
        return {name: _plain(node[name], file, h5py) for name in node}
    values = node[()]
    if node.attrs.get("MATLAB_empty", 0):
        return [] if node.attrs.get("MATLAB_class", b"") == b"cell" else np.zeros(0)
    if node.dtype == h5py.ref_dtype:
        cells = [_plain(file[one], file, h5py) for one in np.asarray(values).T.ravel()]
        return cells[0] if len(cells) == 1 else cells
    if node.attrs.get("MATLAB_class", b"") == b"char":
        return "".join(chr(code) for code in np.asarray(values).ravel())
    values = np.asarray(values).T
    return values.item() if values.size == 1 else np.squeeze(values)


def _texts(value: Any) -> list[str]:
    """A cell array of texts, or one text, as a list; numbers as MATLAB prints them."""
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, dict) or value is None:
        return []
    flat = np.asarray(value, dtype=object).ravel().tolist()
    return [f"{one:g}" if isinstance(one, int | float) else str(one) for one in flat if not isinstance(one, dict)]


def read_raw(path: Path) -> Any:
    """A continuous recording of FieldTrip as MNE Raw, in volts.

    Args:
        path: .mat file with one struct of label, fsample, trial and, for the unit, hdr.chanunit.
    Returns:
        EEG channels, VEOG as eog and the sound channel as misc.
    Raises:
        DataError: if it holds no such struct, several trials, or channels of an unknown unit.
    """
    import mne

    variables = load(path)
    found = [value for value in variables.values() if isinstance(value, dict) and "trial" in value]
    if not found:
        raise DataError(
            f"{path} holds no recording of FieldTrip: its variables are {', '.join(variables) or 'none'}, and a struct with the field trial is needed."
        )
    given = variables["raw"] if "raw" in variables else found[0]
    hdr = given.get("hdr", {})
    trial = given["trial"]
    if isinstance(trial, list) or np.ndim(trial) != 2:
        raise DataError(f"{path}: {len(trial)} trials; one continuous recording (channels x samples) is needed.")
    values, labels = np.asarray(trial, np.float64), _texts(given.get("label", hdr.get("label")))
    if len(labels) != values.shape[0]:
        raise DataError(
            f"{path}: {len(labels)} channel names, and the recording has {values.shape[0]} x {values.shape[1]} values (channels x samples)."
        )
    sfreq = float(given.get("fsample") or hdr.get("Fs") or 0)
    if not sfreq > 0:
        raise DataError(f"{path} states no sampling rate: fields fsample or hdr.Fs are needed.")
    units = _texts(hdr.get("chanunit")) or ["uV"]
    units = units * len(labels) if len(units) == 1 else units
    unknown = sorted({unit for unit in units if unit.lower() not in VOLTS})
    if unknown:
        raise DataError(f"{path}: channels are in {unknown[0]!r}; uV, mV or V are known.")
    scale = np.array([VOLTS[unit.lower()] for unit in units])
    kinds = [TYPES.get(label.upper(), "eeg") for label in labels]
    info = mne.create_info(labels, sfreq, kinds, verbose="error")
    return mne.io.RawArray(values * scale[:, None], info, verbose="error")


def read_proc(path: Path) -> Proc:
    """When words began and which channels were bad, from the authors' struct proc.

    trl is FieldTrip's: first sample (from 1), last sample, and the offset, in samples, of the first from the onset; then
    the columns that varnames names: segment, tmin, Order.

    Args:
        path: proc/SNN.mat.
    Raises:
        DataError: if a field is missing, or trl is no such table.
    """
    proc = load(path).get("proc")
    if not isinstance(proc, dict) or "trl" not in proc or "varnames" not in proc:
        has = ", ".join(proc) if isinstance(proc, dict) else "nothing"
        raise DataError(f"{path}: the struct proc with trl and varnames is needed, and it has {has}.")
    trl = np.atleast_2d(np.asarray(proc["trl"], np.float64))
    names = _texts(proc["varnames"])
    names = names if len(names) == trl.shape[1] else ["begin", "end", "offset", *names]
    if len(names) != trl.shape[1]:
        raise DataError(
            f"{path}: trl has {trl.shape[1]} columns, and varnames names {len(names) - 3} beside begin, end and offset."
        )
    place = {name.lower(): index for index, name in enumerate(names)}
    missing = [name for name in ("segment", "order") if name not in place]
    if missing:
        raise DataError(f"{path}: trl has no column {missing[0]!r}. {nearest(missing[0], place)}")
    rejections, impedance = proc.get("rejections"), proc.get("impedence")
    bads = _texts(rejections.get("badchans")) if isinstance(rejections, dict) else []
    bads += _texts(impedance.get("bads")) if isinstance(impedance, dict) else []
    return Proc(
        samples=trl[:, 0] - trl[:, 2] - 1,
        segments=trl[:, place["segment"]],
        orders=trl[:, place["order"]],
        bads=tuple(dict.fromkeys(bads)),
    )


def subjects_of(path: Path, group: str) -> list[str]:
    """Subjects of a group of datasets.mat, such as S01.

    Args:
        path: datasets.mat.
        group: a name in GROUPS.
    Raises:
        DataError: if the file or the group is not there.
    """
    if not path.is_file():
        raise DataError(
            f"{path} was not found: it says which people are in the group {group}. Name them in dataset.subjects, or set dataset.group=all."
        )
    variables = load(path)
    nested = next((one for one in variables.values() if isinstance(one, dict) and group in one), {})
    if group not in variables and not nested:
        raise DataError(f"{path} has no group {group!r}. {nearest(group, variables)}")
    value = variables.get(group, nested.get(group))
    flat = np.asarray(value, dtype=object).ravel().tolist()
    if all(isinstance(one, str) for one in flat):
        return [Path(one).stem for one in flat]
    is_flags = set(flat) <= {0, 1} and len(flat) > 1
    chosen = [row for row, one in enumerate(flat, 1) if one] if is_flags else [int(one) for one in flat]
    return [f"S{number:02d}" for number in chosen]
