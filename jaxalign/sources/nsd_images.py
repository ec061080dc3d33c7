"""Pictures of the Natural Scenes Dataset, out of its one file of 73,000, for the subjects and sessions that are scored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.media import checked_index
from jaxalign.sources.nsd_design import SESSIONS, read_design
from jaxalign.sources.places import find_place, one_of

BRICK = "imgBrick"
CHOICES = ("own", "shared515", "shared1000")
HASHED_AT_ONCE = 64
"""Pictures that are hashed from one read: 35 MB."""


@dataclass(frozen=True)
class NsdImages:
    """Pictures of NSD as stimuli: 425 x 425 pixels, red, green and blue, cropped from COCO.

    Only pictures that were shown are listed, so that nothing is extracted for the others of the 73,000.

    Attributes:
        path: folder that holds nsddata and nsddata_stimuli.
        subjects: numbers 1 to 8, whose pictures are taken together.
        images: "own" (all that these subjects saw n_repetitions times), "shared515" or "shared1000".
        n_repetitions: presentations that an own picture needs.
        sessions: sessions that were read, from the first on; null takes all.
    Source: Allen et al. 2022, Nature Neuroscience 25:116.
    """

    path: str = ""
    subjects: tuple[int, ...] = (1,)
    images: str = "own"
    n_repetitions: int = 3
    sessions: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", tuple(self.subjects))
        if self.images not in CHOICES:
            raise ConfigError(f"stimuli.images={self.images!r}. {nearest(self.images, CHOICES)}")
        if not self.subjects or any(one not in range(1, len(SESSIONS) + 1) for one in self.subjects):
            raise ConfigError(f"stimuli.subjects={list(self.subjects)}: name subjects from 1 to 8.")

    @cached_property
    def _root(self) -> Path:
        if not self.path:
            raise ConfigError(
                "The pictures of NSD are nowhere: set stimuli.path to the folder that holds nsddata_stimuli."
            )
        return find_place(self.path)

    @cached_property
    def _file(self) -> Path:
        place = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
        return one_of(
            self._root,
            [place],
            "The file of pictures of NSD",
            "Set stimuli.path to the folder that holds nsddata_stimuli.",
        )

    @cached_property
    def _numbers(self) -> np.ndarray:
        """(n_stimuli,) numbers from 1, ascending."""
        shown = read_design(self._root)
        if self.images == "shared515":
            return shown.shared_of_all()
        if self.images == "shared1000":
            return np.sort(shown.shared)
        every = np.arange(1, int(shown.order.max()) + 1)
        seen = np.zeros(len(every), bool)
        for subject in self.subjects:
            n_sessions = min(self.sessions or SESSIONS[subject - 1], SESSIONS[subject - 1])
            seen |= shown.times(subject, n_sessions, every) >= self.n_repetitions
        if not seen.any():
            raise DataError(
                f"No picture was shown {self.n_repetitions} times to subjects {list(self.subjects)} in {self.sessions} sessions: "
                "lower stimuli.n_repetitions, or read more sessions."
            )
        return every[seen]

    def ids(self) -> tuple[str, ...]:
        """Stimulus ids in order, "nsd00001" being the first of the file, as the data set `nsd` names them.

        Raises:
            DataError: if the design of NSD is missing or damaged, or no picture was shown that often.
        """
        return tuple(f"nsd{number:05d}" for number in self._numbers)

    def groups(self) -> None:
        """None: no pictures belong together."""

    def content_sha256(self) -> str:
        """Digest of all ids and pixels; reads them all."""
        digest = hashlib.sha256(" ".join(self.ids()).encode())
        for start in range(0, len(self._numbers), HASHED_AT_ONCE):
            digest.update(self._read(self._numbers[start : start + HASHED_AT_ONCE]).tobytes())
        return digest.hexdigest()

    def image(self, index: int) -> np.ndarray:
        """One stimulus, read now. -> (425, 425, 3) uint8

        Args:
            index: position among the ids.
        Raises:
            DataError: if the file is missing, damaged, or holds fewer pictures.
        """
        at = checked_index(index, len(self._numbers))
        return self._read(self._numbers[at : at + 1])[0]

    def _read(self, numbers: np.ndarray) -> np.ndarray:
        """(n, height, width, 3) uint8 of ascending numbers."""
        import h5py

        try:
            with h5py.File(self._file, "r") as source:
                brick = source[BRICK]
                if brick.ndim != 4 or brick.shape[3] != 3 or brick.dtype != np.uint8 or numbers[-1] > len(brick):
                    raise DataError(
                        f"{self._file}: {BRICK} has shape {brick.shape} of {brick.dtype}, and picture {numbers[-1]} of (n, height, "
                        "width, 3) in uint8 is needed. Is it the file of NSD?"
                    )
                found: np.ndarray = brick[numbers - 1]
                return found
        except (OSError, KeyError) as error:
            raise DataError(
                f"{self._file} ({self._file.stat().st_size} bytes) cannot be read: {error}. Copy or download it again."
            ) from error
