"""The step that cuts sentences, or other sounds, of a continuous recording into rows of time bins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.frame_rows import LEAST_BIN_S, SEQUENCE, START, STOP, frame_ids, n_frames_of
from jaxalign.sources.times import SLACK
from jaxalign.sources.trials import ID, Trials, Work, near, picked, positions_of, unit_of

DURATIONS = ("duration_s", "duration")
"""Columns of events that may hold how long their sound lasts, in seconds; the first that is there is taken."""

OUTSIDE = "beyond the ends of the recording"
ANNOTATED = "within an annotation that begins with bad"
NO_SOUND = "of a segment that goes on in the next sound file"
SHORT = "of a segment with fewer frames than n_frames"
TORN = "of a segment that lost one of its n_frames"


@dataclass(frozen=True)
class Frames:
    """A row for each time bin of each segment, such as a sentence, from its onset up to its own end.

    Bins are [i * bin_s, (i + 1) * bin_s) from the onset; the last one ends with the segment and may be shorter. There are
    ceil(duration / bin_s - 1e-6) of them, as in a store of the pooling `frames`, and they have its names, "STIMULUS@START".
    A row is the mean over the samples of its bin. This mean is all the low-pass filter there is: its first zero is at
    1 / bin_s Hz and its largest side lobe lets 22 % (-13 dB) through at 1.43 / bin_s Hz. Put the step filter before where
    that matters. Bins need hold no whole number of samples; one without a sample takes the sample nearest to its middle.

    Attributes:
        bin_s: width of a bin, in seconds: that of the model's pooling.
        lag_s: the response is taken this much later than the sound, in seconds.
        n_frames: keep the first frames of each segment, as many for all, and no segment with fewer: the null `mismatch`
            of a run lets sequences of one length trade places. null keeps all.
        duration_column: column of the events with seconds; empty takes duration_s, else duration.
        reject_by_annotation: drop frames that touch an annotation whose name begins with "bad".
    """

    takes: ClassVar[tuple[str, ...]] = ("raw",)
    bin_s: float = 0.1
    lag_s: float = 0.0
    n_frames: int | None = None
    duration_column: str = ""
    reject_by_annotation: bool = True

    def __call__(self, work: Work) -> Work:
        sfreq = float(work.data.info["sfreq"])
        self._check(work, sfreq)
        onsets = np.asarray(work.events["onset_s"], float) + self.lag_s
        durations = self._durations(work)
        bins = _bins(work, durations, self.bin_s)
        first, stop = (_sample(onsets[bins.segment] + edge, sfreq) for edge in (bins.starts_s, bins.stops_s))
        is_empty = first >= stop
        middle = onsets[bins.segment] + (bins.starts_s + bins.stops_s) / 2
        nearest = np.round(middle * sfreq).astype(int)
        first, stop = np.where(is_empty, nearest, first), np.where(is_empty, nearest + 1, stop)
        reasons = self._reasons(work, bins, first, stop)
        keep = np.array([not reason for reason in reasons])
        dropped = tuple((str(bins.ids[row]), reasons[row]) for row in np.flatnonzero(~keep))
        if not keep.any():
            found = ", ".join(f"{count} {why}" for why, count in Counter(why for _, why in dropped).items())
            raise DataError(
                f"{work.where}: none of {len(keep)} frames of {len(onsets)} segments is left: {found}. Are the onsets seconds from the start of the recording?"
            )
        notes = self._notes(work.where, (stop - first)[keep], is_empty[keep], (bins.is_last & keep).sum())
        made = _means(work, first[keep], stop[keep])
        trials = replace(
            made,
            ids=bins.ids[keep],
            starts_s=np.array([self.lag_s]),
            stops_s=np.array([round(self.lag_s + self.bin_s, 9)]),
            columns=_columns(work.events, bins, keep),
            dropped=(*work.dropped, *dropped),
            notes=(*work.notes, *notes, *made.notes),
        )
        return replace(work, data=trials, dropped=trials.dropped, notes=trials.notes)

    def _check(self, work: Work, sfreq: float) -> None:
        if not self.bin_s >= max(LEAST_BIN_S, 1 / sfreq - 1e-9):
            raise ConfigError(
                f"The step frames has bin_s={self.bin_s:g}, and {work.where} has a sample every {1 / sfreq:g} s: a bin holds one sample and {LEAST_BIN_S:g} s at least."
            )
        if self.n_frames is not None and self.n_frames < 1:
            raise ConfigError(f"The step frames has n_frames={self.n_frames}: 1 at least, or null for all.")
        taken = [name for name in (SEQUENCE, START, STOP) if name in work.events]
        if taken:
            raise ConfigError(
                f"The step frames makes the column {taken[0]!r}, and the events of {work.where} have one already: rename it."
            )

    def _durations(self, work: Work) -> np.ndarray:
        """(n_segments,) seconds"""
        named = (self.duration_column,) if self.duration_column else DURATIONS
        column = next((name for name in named if name in work.events), None)
        if column is None:
            raise ConfigError(
                f"The step frames needs to know how long each sound lasts, and the events of {work.where} have no column {' or '.join(named)}. {near(named[0], work.events)}"
            )
        values = np.full(len(work.events[column]), np.nan)
        for row, value in enumerate(work.events[column]):
            try:
                values[row] = float(value)
            except (TypeError, ValueError):
                continue
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            raise DataError(
                f"{work.where}: {len(wrong)} of {len(values)} events have no duration above 0 s in {column}, first event {wrong[0] + 1} with {work.events[column][wrong[0]]!r}. Leave them out, or correct the column."
            )
        return values

    def _reasons(self, work: Work, bins: _Bins, first: np.ndarray, stop: np.ndarray) -> list[str]:
        """Why each frame is dropped; empty for those that stay. -> (n_frames,)"""
        n_samples = work.data.n_times
        reasons = np.full(len(first), "", dtype=object)
        reasons[(first < 0) | (stop > n_samples)] = OUTSIDE
        if self.reject_by_annotation:
            before = np.concatenate([[0], np.cumsum(_is_annotated(work.data))])
            inside = np.flatnonzero(reasons == "")
            touches = before[stop[inside]] > before[first[inside]]
            reasons[inside[touches]] = ANNOTATED
        if "sound_onset_s" in work.events:
            is_torn = np.isnan(np.asarray(work.events["sound_onset_s"], float))
            reasons[is_torn[bins.segment]] = NO_SOUND
        if self.n_frames is None:
            return list(reasons)
        is_asked = bins.number < self.n_frames
        lost = np.unique(bins.segment[is_asked & (reasons != "")])
        reasons[np.isin(bins.segment, lost) & (reasons == "")] = TORN
        short = np.flatnonzero(np.bincount(bins.segment) < self.n_frames)
        reasons[np.isin(bins.segment, short)] = SHORT
        reasons[~is_asked & (reasons == "")] = "behind the first n_frames"
        return list(reasons)

    def _notes(self, where: str, n_samples: np.ndarray, is_empty: np.ndarray, n_last: int) -> list[str]:
        held = f"{n_samples.min()}" if np.ptp(n_samples) == 0 else f"{n_samples.min()} to {n_samples.max()}"
        notes = [
            f"rows are frames: means over the samples of bins of {self.bin_s:g} s from the onset of a segment up to its end, taken {self.lag_s:g} s later; the mean is the anti-alias filter, with its first zero at {1 / self.bin_s:g} Hz",
            f"{where}: frames average {held} samples; {n_last} of {len(n_samples)} are shorter than a bin, at the end of a segment",
        ]
        if is_empty.any():
            notes.append(
                f"{where}: {is_empty.sum()} of {len(is_empty)} frames are shorter than the sampling interval and take the nearest sample"
            )
        return notes


class _Bins(NamedTuple):
    """All frames of a run, (n_frames,) each.

    Attributes:
        ids: names.
        segment: index of the event.
        number: of the frame in its segment, from 0.
        starts_s, stops_s: seconds from the onset, half open.
        is_last: shorter than a bin, at the end of its segment.
    """

    ids: np.ndarray
    segment: np.ndarray
    number: np.ndarray
    starts_s: np.ndarray
    stops_s: np.ndarray
    is_last: np.ndarray


def _bins(work: Work, durations: np.ndarray, bin_s: float) -> _Bins:
    counts = np.array([n_frames_of(duration, bin_s) for duration in durations])
    names = [
        name
        for stimulus, count in zip(work.events[ID], counts, strict=True)
        for name in frame_ids(str(stimulus), int(count), bin_s)
    ]
    segment = np.repeat(np.arange(len(counts)), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    ends = durations[segment]
    stops = np.minimum((number + 1) * bin_s, ends)
    # A duration that is above whole bins by no more than rounding has no bin for the rest: the last one holds it.
    stops = np.where(number + 1 == counts[segment], ends, stops)
    is_last = (number + 1) * bin_s - ends > 1e-6 * bin_s
    return _Bins(np.asarray(names, dtype=object), segment, number, number * bin_s, stops, is_last)


def _sample(times_s: np.ndarray, sfreq: float) -> np.ndarray:
    """First sample at or behind a time; sample i is at i / sfreq. -> int"""
    return np.ceil(times_s * sfreq - SLACK).astype(int)


def _is_annotated(raw: Any) -> np.ndarray:
    """Which samples lie within an annotation whose name begins with "bad". -> (n_samples,) bool"""
    if not any(str(name).lower().startswith("bad") for name in raw.annotations.description):
        return np.zeros(raw.n_times, bool)
    marked = raw.get_data(picks=[0], reject_by_annotation="NaN", verbose="error")
    return np.isnan(marked[0]) & ~np.isnan(raw.get_data(picks=[0], verbose="error")[0])


def _means(work: Work, first: np.ndarray, stop: np.ndarray) -> Trials:
    """Means over the samples [first, stop) of each frame, of the channels that are asked for, in float64."""
    raw = picked(work.data, work.want, work.where)
    positions, notes = positions_of(raw)
    if raw.info["bads"]:
        bad = ", ".join(raw.info["bads"])
        notes = (*notes, f"{work.where}: channels marked bad are still there: {bad}; add interpolate or drop_channels")
    samples = raw.get_data(verbose="error")
    values = np.empty((len(first), len(raw.ch_names), 1), np.float32)
    for row, (start, end) in enumerate(zip(first, stop, strict=True)):
        values[row, :, 0] = samples[:, start:end].mean(1, dtype=np.float64)
    n_rows = len(first)
    return Trials(
        values=values,
        ids=np.empty(n_rows, dtype=object),
        channels=tuple(raw.ch_names),
        positions=positions,
        starts_s=np.zeros(1),
        stops_s=np.zeros(1),
        sfreq_hz=float(raw.info["sfreq"]),
        unit=unit_of(raw, work.where),
        columns={},
        is_test=np.zeros(n_rows, bool),
        n_repetitions=np.ones(n_rows, np.int32),
        notes=notes,
    )


def _columns(events: Mapping[str, np.ndarray], bins: _Bins, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of the segments, repeated for each frame, and those of the frames."""
    segment = bins.segment[keep]
    of_segments = {name: np.asarray(values)[segment] for name, values in events.items() if name != ID}
    return {
        **of_segments,
        SEQUENCE: np.asarray(events[ID], dtype=object)[segment],
        START: np.round(bins.starts_s[keep], 9),
        STOP: np.round(bins.stops_s[keep], 9),
    }
