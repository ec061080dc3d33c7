"""What every source refuses of a batch: too few stimuli, and pictures or sounds that are none."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxalign.contracts import Sound
from jaxalign.errors import DataError

WORDS = {"image": "images", "audio": "sounds", "text": "texts"}


def check_count(name: str, takes: str, n_given: int, n_taken: int) -> None:
    """Refuse a batch that is not full.

    Args:
        name: of the model.
        takes: kind of stimulus.
        n_given, n_taken: stimuli of the batch, and of a full one.
    Raises:
        DataError: if they differ.
    """
    if n_given != n_taken:
        raise DataError(
            f"Model '{name}' was given {n_given} {WORDS[takes]} and takes {n_taken} at a time: "
            "pad a short batch with any stimulus."
        )


def checked_picture(picture: Any, index: int, name: str) -> np.ndarray:
    """A picture of 8 bits in three colours. -> (height, width, 3) uint8

    Args:
        picture: what was given as one.
        index: its place in the batch.
        name: of the model.
    Raises:
        DataError: if it is of another kind.
    """
    values = np.asarray(picture)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3 or 0 in values.shape:
        raise DataError(
            f"Image {index} of a batch of '{name}' is {values.dtype} of shape {values.shape}: "
            "give uint8 (height, width, 3), red, green and blue from 0 to 255."
        )
    return values


def checked_sound(sound: Any, index: int, name: str) -> Sound:
    """A sound with samples that are numbers, as it is.

    Args:
        sound: what was given as one.
        index: its place in the batch.
        name: of the model.
    Raises:
        DataError: if it is no sound, empty, or not finite.
    """
    if not isinstance(sound, Sound):
        raise DataError(f"Sound {index} of a batch of '{name}' is a {type(sound).__name__}: give a Sound.")
    n_bad = int(np.count_nonzero(~np.isfinite(sound.values)))
    if not len(sound.values) or n_bad:
        raise DataError(
            f"Sound {index} of a batch of '{name}' has {len(sound.values)} samples, {n_bad} of them not finite: "
            "give a recording with samples that are numbers."
        )
    return sound
