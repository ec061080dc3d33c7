"""Rows that are time bins (frames) of a stimulus: how many there are, their names, their columns and their order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.errors import DataError, nearest

SEQUENCE, START, STOP = "sequence", "frame_start_s", "frame_stop_s"
"""Columns of a recording of frames: the stimulus that a frame is of, and its bin in seconds from the stimulus' onset."""

LEAST_BIN_S = 1e-3
"""Names give the start of a bin to the millisecond."""


def n_frames_of(duration_s: float, bin_s: float) -> int:
    """Bins that cover a stimulus; the last may be shorter, and there is one at least.

    Args:
        duration_s: of the stimulus, seconds.
        bin_s: width of a bin, seconds.
    """
    return max(1, math.ceil(duration_s / bin_s - 1e-6))


def frame_ids(stimulus_id: str, n_frames: int, bin_s: float) -> list[str]:
    """Names of the frames of a stimulus: "STIMULUS@START", START in seconds from its onset with three decimals.

    Args:
        stimulus_id: of the stimulus.
        n_frames: from `n_frames_of`.
        bin_s: width of a bin, seconds.
    """
    return [f"{stimulus_id}@{number * bin_s:.3f}" for number in range(n_frames)]


def sequence_of(frame_id: str) -> str:
    """The stimulus of a frame, by the frame's name."""
    return frame_id.rpartition("@")[0]


def start_of(frame_id: str) -> float:
    """Seconds from the stimulus' onset to the start of a frame, by the frame's name; NaN for a name of no frame."""
    try:
        return float(frame_id.rpartition("@")[2])
    except ValueError:
        return float("nan")


def is_frames(columns: Mapping[str, Any]) -> bool:
    """Whether rows with these columns are frames."""
    return SEQUENCE in columns and START in columns


def in_time_order(ids: Sequence[str], columns: Mapping[str, np.ndarray], asked: Sequence[str], where: str) -> tuple[str, ...]:  # fmt: skip
    """Names of frames, those of a sequence next to each other and in time: "s@10.000" comes behind "s@2.000".

    Args:
        ids: (n_frames,) names.
        columns: sequence and frame_start_s, (n_frames,) each.
        asked: sequences to keep, in this order; empty keeps all, sorted.
        where: whose they are, for messages.
    Raises:
        DataError: if a sequence that is asked for has no frame.
    """
    sequences = [str(one) for one in columns[SEQUENCE]]
    has = set(sequences)
    missing = [name for name in asked if name not in has]
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(asked)} stimuli have no frame left, first {missing[0]!r}. {nearest(missing[0], has)[:200]} Leave them out of dataset.stimuli, or drop fewer frames."
        )
    place = {name: at for at, name in enumerate(asked or sorted(has))}
    rows = [row for row, name in enumerate(sequences) if name in place]
    return tuple(ids[row] for row in sorted(rows, key=lambda row: (place[sequences[row]], float(columns[START][row]))))
