"""What every recording must satisfy before anything is computed, whatever it was read from."""

from __future__ import annotations

from collections import Counter

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import DataError


def check_recording(recording: Recording) -> Recording:
    """Return the recording, or say where it cannot be used.

    Raises:
        DataError: on fewer than 4 stimuli, duplicated stimulus ids, or NaN or Inf in the responses.
    """
    where = f"{recording.dataset}, subject {recording.subject}"
    n_stimuli = len(recording.stimulus_ids)
    if n_stimuli < 4:
        found = f"{n_stimuli} stimulus" if n_stimuli == 1 else f"{n_stimuli} stimuli"
        raise DataError(
            f"{where}: {found}; at least 4 are needed to correlate anything over stimuli.{_more_names(recording)}"
        )
    repeated = [name for name, count in Counter(recording.stimulus_ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{where}: {len(repeated)} stimulus ids occur more than once, first {repeated[0]!r}. Average repetitions first, or name columns that make the ids distinct."
        )
    # Row by row: masks of all responses would be half as large as the responses.
    rows = np.flatnonzero([not np.isfinite(one).all() for one in recording.values])
    if len(rows):
        bad = np.argwhere(~np.isfinite(recording.values[rows]))
        stimulus, channel, time_bin = rows[bad[0, 0]], *bad[0, 1:]
        raise DataError(
            f"{where}: {len(bad)} of {recording.values.size} responses are NaN or Inf, first at stimulus "
            f"{recording.stimulus_ids[stimulus]!r}, channel {recording.channels[channel]}, bin "
            f"[{recording.starts_s[time_bin]:.3f}, {recording.stops_s[time_bin]:.3f}) s. Interpolate or drop that "
            "channel, or leave those stimuli out."
        )
    return recording


def _more_names(recording: Recording) -> str:
    """What to do where the names of events alone made few stimuli of many trials."""
    n_trials = int(recording.n_repetitions.sum())
    if "event" not in recording.columns or n_trials < 4:
        return ""
    return (
        f" They average {n_trials} trials by name: if trials of one name are stimuli of their own, name more columns "
        "in dataset.stimulus_columns, such as [event,index]."
    )


def check_same_stimuli(recordings: list[Recording]) -> None:
    """Refuse subjects whose rows differ: they are ordered by the same stimulus ids.

    Raises:
        DataError: naming the first difference.
    """
    first = recordings[0]
    for other in recordings[1:]:
        if other.stimulus_ids == first.stimulus_ids:
            continue
        missing = sorted(set(first.stimulus_ids) ^ set(other.stimulus_ids))
        what = (
            f"{len(missing)} stimulus ids are only in one of them, first {missing[0]!r}"
            if missing
            else "the order differs"
        )
        raise DataError(
            f"Subjects {first.subject} ({len(first.stimulus_ids)} stimuli) and {other.subject} ({len(other.stimulus_ids)} stimuli) do not match: {what}."
        )
