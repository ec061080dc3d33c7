"""Recordings whose rows are time bins (frames) of sentences: which features are theirs, and what may be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.contracts import Design, Folds, Metric, RdmSet, RunConfig
from jaxalign.errors import ConfigError, DataError
from jaxalign.sources.frame_rows import SEQUENCE, START, is_frames, sequence_of, start_of

ROUNDING_S = 1e-3
"""Names give starts to the millisecond, so widths of bins by them are off by up to that."""

SINGLE_ROWS = ("label", "strata")
"""Schemes of a null that relabel rows one by one."""


@dataclass(frozen=True)
class Frames:
    """Rows of a recording that are frames.

    Attributes:
        sequences: (n_rows,) name of the sentence, or other sound, of each row.
        bin_s: width of a bin in seconds; None where no sequence has two rows, so that it is not known.
    """

    sequences: np.ndarray
    bin_s: float | None


def frames_of(brain: Any) -> Frames | None:
    """The frames that the rows of recordings are, or None where they are whole stimuli.

    Args:
        brain: recordings, given RDMs, or None.
    """
    if brain is None or isinstance(brain, RdmSet) or not brain or not is_frames(brain[0].columns):
        return None
    columns = brain[0].columns
    sequences = np.asarray([str(one) for one in columns[SEQUENCE]])
    return Frames(sequences, _width(sequences, np.asarray(columns[START], float)))


def _width(sequences: np.ndarray, starts_s: np.ndarray) -> float | None:
    """Smallest step between the frames of a sequence, in seconds."""
    order = np.lexsort((starts_s, sequences))
    steps = np.diff(starts_s[order])[sequences[order][1:] == sequences[order][:-1]]
    steps = steps[steps > 0]
    return float(steps.min()) if len(steps) else None


# Features


def check_model(name: str, bin_s: float | None, takes: str, frames: Frames | None) -> None:
    """Refuse a model whose rows are not those of the recording.

    Args:
        name: of the model's entry.
        bin_s: width of the model's time bins in seconds; None for one row per stimulus.
        takes: kind of stimulus; a text is a column of the recording, and has its rows.
        frames: of the recording; None where its rows are whole stimuli.
    Raises:
        ConfigError: if one side has frames and the other has not, or bins differ in width.
    """
    if frames is None:
        if bin_s is None:
            return
        raise ConfigError(
            f"model.{name} pools into time bins of {bin_s:g} s, so its rows are frames, and the rows of this recording are whole stimuli. Cut the recording into the same bins with the step {{name: frames, bin_s: {bin_s:g}}} in dataset.steps (instead of epoch), or choose another pooling in model.{name}.pooling."
        )
    if bin_s is None:
        if takes == "text":
            return
        raise ConfigError(
            f"model.{name} has one row per stimulus, and the {len(frames.sequences)} rows of this recording are frames of {_bins(frames)}: choose the pooling frames in model.{name}.pooling with model.{name}.bin_s, or cut the recording with the step epoch instead of frames."
        )
    _check_width(f"model.{name} has", bin_s, frames)


def check_store(where: str, held: Sequence[str], frames: Frames) -> None:
    """Refuse a store of bins of another width: some of their names are the same.

    Args:
        where: the store, for messages.
        held: names of its rows.
        frames: of the recording.
    Raises:
        ConfigError: with both widths.
    """
    starts = np.asarray([start_of(name) for name in held])
    width = _width(np.asarray([sequence_of(name) for name in held]), starts)
    if width is not None:
        _check_width(f"{where} holds", width, frames)


def _check_width(whose: str, bin_s: float, frames: Frames) -> None:
    if frames.bin_s is None or abs(bin_s - frames.bin_s) <= ROUNDING_S * (1 + 1e-6):
        return
    raise ConfigError(
        f"{whose} time bins of {bin_s:g} s and the recording frames of {frames.bin_s:g} s: give the step frames and the model's pooling the same bin_s."
    )


def _bins(frames: Frames) -> str:
    return "one time bin each" if frames.bin_s is None else f"{frames.bin_s:g} s"


def matched(held: Sequence[str], frame_ids: Sequence[str], frames: Frames) -> tuple[np.ndarray | None, str]:
    """Which rows of a model belong to the frames of a recording; None when they are all, in order. And a note.

    Args:
        held: names of the model's rows.
        frame_ids: (n_rows,) of the recording, in its order.
        frames: of the recording.
    Raises:
        DataError: if the model lacks sentences of the recording, or the ends of some; with numbers and the first.
    """
    if tuple(held) == tuple(frame_ids):
        return None, ""
    row_of = {name: row for row, name in enumerate(held)}
    sounds = {sequence_of(name) for name in held}
    without = [name for name in dict.fromkeys(frames.sequences.tolist()) if name not in sounds]
    if without:
        n_sequences = len(set(frames.sequences.tolist()))
        raise DataError(
            f"The stimulus set has {len(sounds)} sounds and lacks {len(without)} of the {n_sequences} sequences of the recording, first {', '.join(map(repr, without[:3]))}: name the sound of each by a table with the columns stimulus_id and file (stimuli.table=FILE.csv), or leave these out of dataset.stimuli."
        )
    missing = [name for name in frame_ids if name not in row_of]
    if missing:
        first = sequence_of(missing[0])
        n_ours, n_theirs = (sum(sequence_of(name) == first for name in names) for names in (frame_ids, held))
        raise DataError(
            f"The model lacks {len(missing)} of the {len(frame_ids)} frames of the recording, first {missing[0]!r}: the sound of {first!r} has {n_theirs} frames and the recording {n_ours}. Cut each sound from onset to offset of its segment (columns sound_onset_s and sound_offset_s of the recording), or drop these sequences with dataset.stimuli."
        )
    ours, wanted = set(frame_ids), set(frames.sequences.tolist())
    extra = [name for name in held if name not in ours and sequence_of(name) in wanted]
    note = "Frames were matched to the recording by their ids, not by their order."
    if extra:
        note = f"{note} The model has {len(extra)} frames of its sequences that the recording has not, first {extra[0]!r}: they are left out."
    return np.array([row_of[name] for name in frame_ids]), note


# What may be done with them


def check_metric(name: str, metric: Metric, frames: Frames) -> None:
    """Refuse a metric that takes dissimilarities between frames of different sentences, or chooses on single frames.

    Args:
        name: of the metric's entry.
        metric: as it was asked for.
        frames: of the recording.
    Raises:
        ConfigError: if it takes patterns, or leaves out one frame at a time to choose penalties.
    """
    if metric.takes == "patterns":
        n_sequences = len(np.unique(frames.sequences))
        raise ConfigError(
            f"metric.{name} compares all {len(frames.sequences)} rows with each other, and they are frames of {n_sequences} sequences: neighbouring frames are alike, so dissimilarities of frames are compared inside each sequence and averaged. A run does not do that: use ridge here, or jaxalign.rsa_within on arrays."
        )
    choose_by = getattr(metric, "choose_by", "folds")
    if choose_by != "folds":
        raise ConfigError(
            f"metric.{name}.choose_by={choose_by} chooses penalties by single rows, and the "
            f"{len(frames.sequences)} rows here are frames of {len(np.unique(frames.sequences))} sequences: "
            f"what is left out has neighbours in the training rows that are nearly the same. Set "
            f"metric.{name}.choose_by=folds (whole sequences are held out)."
        )


def check_design(metric_name: str, design: Design, frames: Frames) -> None:
    """Refuse folds that train on some frames of a sequence and test others.

    Args:
        metric_name: name of the metric's entry.
        design: its folds.
        frames: of the recording.
    Raises:
        ConfigError: naming the first such fold and sequence.
    """
    for which, folds in (("outer", design.outer), ("inner", design.inner)):
        cut = _first_cut(folds, frames.sequences)
        if cut is not None:
            raise ConfigError(
                f"metric.{metric_name}: {which} fold {cut[0] + 1} trains on some frames of the sequence {cut[1]!r} and tests others, which are nearly the same. Set metric.{metric_name}.folds=shuffled with an empty group_by (whole sequences are held out), or folds=runs."
            )


def _first_cut(folds: Folds, sequences: np.ndarray) -> tuple[int, str] | None:
    """First fold and sequence that is on both sides, or None."""
    names, number = np.unique(sequences, return_inverse=True)
    sides = (folds.train, folds.is_train, folds.test, folds.is_test)
    flat = (np.asarray(one).reshape(-1, np.shape(one)[-1]) for one in sides)
    for place, (train, is_train, test, is_test) in enumerate(zip(*flat, strict=True)):
        both = np.intersect1d(number[train[is_train]], number[test[is_test]])
        if len(both):
            return place, str(names[both[0]])
    return None


def check_null(run: RunConfig, frames: Frames, rows: np.ndarray, labels: np.ndarray | None) -> None:
    """Refuse a null that moves frames one by one, or tears sequences, or cannot be drawn for ragged ones.

    Args:
        run: with its null.
        frames: of the recording.
        rows: (n,) rows that are relabelled.
        labels: (n,) values of null.column at these rows, or None without a column.
    Raises:
        ConfigError: with the reason, and the scheme to use.
    """
    sequences = frames.sequences[rows]
    names, sizes = np.unique(sequences, return_counts=True)
    scheme = run.null.scheme
    if scheme in SINGLE_ROWS:
        raise ConfigError(
            f"null.scheme={scheme!r} relabels rows one by one, and the {len(rows)} rows here are frames of {len(names)} sequences: neighbouring frames are alike, so permuted frames reject far too often (false positive rate up to 1.00 at .05 in simulation; mismatch: .037 to .087). Set null.scheme=mismatch null.column={SEQUENCE}, or n_permutations=0 for scores without p."
        )
    assert labels is not None
    pairs = set(zip(sequences.tolist(), [str(one) for one in labels], strict=True))
    if len(pairs) > len(names):
        raise ConfigError(
            f"null.column={run.null.column!r} has {len(pairs) - len(names)} more values within the {len(names)} sequences than one for each: what trades places must be whole sequences. Set null.column={SEQUENCE}."
        )
    if scheme == "mismatch" and run.null.column == SEQUENCE and sizes.min() < sizes.max():
        raise ConfigError(
            f"null.scheme='mismatch' lets sequences trade places, and the {len(names)} here have {sizes.min()} to {sizes.max()} frames (median {np.median(sizes):g}): in a run all must have one number. Cut them with the option n_frames of the step frames: n_frames: {sizes.min()} keeps all {len(names)}, n_frames: {int(np.median(sizes))} keeps {(sizes >= int(np.median(sizes))).sum()}. Or set n_permutations=0 for scores without p."
        )
