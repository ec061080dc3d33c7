"""Sounds in files: WAV, FLAC, OGG and whatever else libsndfile reads, at any rate, decoded one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.contracts import Sound
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.media import Asked, Listing, checked_index, content_sha256, listed

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".w64", ".caf")

UNKNOWN_SIZE = 0x7FFF_F000
"""Sizes from here on are what programs write into the header of a WAV that they stream: how much follows is not known."""


@dataclass(frozen=True)
class Sounds:
    """Sounds of a folder, or those that a table names, at the rate of their files.

    Channels are averaged into one. Values are as in the file, 1 is full scale: nothing is made louder, filtered or cut.
    A sound of zeros is a sound.

    Attributes:
        path: folder; with a table, the folder that its files are in (that of the table when empty). Relative folders are
            looked for here and under the data folders.
        pattern: of file names, such as "story_*.wav".
        recursive: look into folders within the folder, too.
        table: CSV or TSV file with the columns stimulus_id, file and, if folds must not split some, group. Without it a
            stimulus id is a file's name without its suffix.
    """

    path: str = ""
    pattern: str = "*"
    recursive: bool = False
    table: str = ""

    @cached_property
    def _listing(self) -> Listing:
        return listed(Asked("sounds", self.path, self.pattern, self.recursive, self.table, SUFFIXES))

    def ids(self) -> tuple[str, ...]:
        """Stimulus ids in order: natural order of names (2 before 10), or the order of the table.

        Raises:
            ConfigError: if no folder or table is named, or the folder does not exist.
            DataError: if there are no files, some are missing, or two have one id.
        """
        return self._listing.ids

    def groups(self) -> np.ndarray | None:
        """(n_stimuli,) number of each stimulus' group, or None where the table names no groups."""
        return self._listing.groups

    def content_sha256(self) -> str:
        """Digest of all ids and of the bytes of all files; reads them all."""
        return content_sha256(self._listing)

    def durations_s(self) -> tuple[float, ...]:
        """(n_stimuli,) seconds by the headers, in order; 0 for a file whose header cannot be read: `sound` says why."""
        return tuple(_duration_s(path) for path in self._listing.paths)

    def sounds(self) -> Iterator[Sound]:
        """Stimuli in order; see `sound`."""
        return (self.sound(index) for index in range(len(self.ids())))

    def sound(self, index: int) -> Sound:
        """One stimulus, decoded now: (n_samples,) float32, the mean over channels, and its rate.

        Args:
            index: position among the ids.
        Raises:
            DataError: if the file is no sound, damaged, cut short, has no samples, or samples that are not finite;
                others can still be read.
            ConfigError: if soundfile is not installed.
        """
        return _decoded(self._listing.paths[checked_index(index, len(self.ids()))])


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: libsndfile itself is missing
        raise ConfigError(
            f"Sounds are read by soundfile, which fails to load ({error}): pip install 'jaxalign[data]'."
        ) from error
    return soundfile


def _duration_s(path: Path) -> float:
    soundfile = _soundfile()
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError, TypeError):
        return 0.0
    return float(info.frames / info.samplerate)


def _decoded(path: Path) -> Sound:
    soundfile = _soundfile()
    size = path.stat().st_size if path.is_file() else 0
    try:
        info = soundfile.info(str(path), verbose=True)
        values, rate_hz = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        why = str(error).strip().rstrip(".")
        raise DataError(
            f"{path} ({size} bytes) cannot be decoded as a sound: {why}. Copy or download it again, or leave the stimulus out."
        ) from error
    _check_whole(path, info, len(values))
    if not len(values):
        raise DataError(
            f"{path} ({size} bytes) has a header and 0 samples: record it again, or leave the stimulus out."
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(
            f"{path}: {len(bad)} of {len(values)} samples are NaN or infinite, first at {bad[0] / rate_hz:.4f} s. "
            "Export it again, or leave the stimulus out."
        )
    return Sound(values.mean(axis=1, dtype=np.float64).astype(np.float32), int(rate_hz))


def _check_whole(path: Path, info: Any, n_read: int) -> None:
    """Refuse a file that holds less than it says: libsndfile reads what is left of it and is silent."""
    chunk = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE)
    if chunk and int(chunk[2]) < int(chunk[1]) < UNKNOWN_SIZE:
        raise DataError(_cut(path, f"its header promises {chunk[1]} bytes of samples and {chunk[2]} are there"))
    if n_read < info.frames and info.format != "MP3":
        raise DataError(_cut(path, f"its header promises {info.frames} samples and {n_read} are there"))
    if info.format == "MP3" and info.frames - n_read > info.samplerate // 10:
        raise DataError(_cut(path, f"its header promises {info.frames} samples and {n_read} are there"))
    if info.format == "OGG" and not _ends(path):
        raise DataError(_cut(path, "its last page is not there"))


def _cut(path: Path, what: str) -> str:
    return f"{path} is cut short: {what}. Copy or download it again, or leave the stimulus out."


def _ends(path: Path) -> bool:
    """Whether an Ogg file ends with a whole page that is marked as the last of its stream (RFC 3533, section 6)."""
    content = path.read_bytes()[-(1 << 17) :]  # a page has 65,307 bytes at most
    at = content.rfind(b"OggS")
    if at < 0 or len(content) < at + 27:
        return False
    n_segments = content[at + 26]
    table = content[at + 27 : at + 27 + n_segments]
    is_whole = len(table) == n_segments and len(content) >= at + 27 + n_segments + sum(table)
    return is_whole and bool(content[at + 5] & 4)
