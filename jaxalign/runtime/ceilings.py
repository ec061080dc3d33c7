"""Which noise ceilings each analysis can have, from its own recordings, for the very rows that it scores; and why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from jaxalign.compute import ceiling
from jaxalign.contracts import Design, RdmSet, Recording, RunConfig
from jaxalign.runtime import rdm_bounds
from jaxalign.runtime.bounds import Bounds, Ceilings, without_trials
from jaxalign.runtime.frames import frames_of
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis
from jaxalign.runtime.targets import average_of

BLOCK_VALUES = 1 << 24
"""Single trials that are taken at a time, in float64: 128 MiB."""

LEAST_AGREEMENT = 0.99
"""Correlation over stimuli between responses and the average of the trials that they are said to average."""


def of_analysis(analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Ceilings:
    """The ceilings that match the scores of an analysis: same stimuli, repetitions, level, statistic and folds.

    Args:
        analysis: what was scored.
        design: its folds.
        run: the request; `run.ceiling` names the recipes.
        inputs: recordings.
    """
    names = _expanded(analysis, run, inputs)
    kinds = {kind: tuple(_by(name, kind, analysis, design, run, inputs) for name in names) for kind in analysis.groups}
    return Ceilings(kinds, run.ceiling.normalise)


def _expanded(analysis: Analysis, run: RunConfig, inputs: Inputs) -> tuple[str, ...]:
    """The recipes of the level of the analysis, or all where none is; "auto" is what its data are good for."""
    auto = ceiling.SPLIT_HALF if analysis.side == "responses" else rdm_bounds.best(analysis, inputs)
    names = tuple(dict.fromkeys(auto if name == ceiling.AUTO else name for name in run.ceiling.recipes))
    return tuple(name for name in names if _is_about(name, analysis)) or names


def _is_about(name: str, analysis: Analysis) -> bool:
    """Whether a recipe is of the level that an analysis compares."""
    return (analysis.side == "responses") is (name in RESPONSES)


def _by(name: str, kind: str, analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    """One recipe for one kind of target."""
    if not _is_about(name, analysis):
        level = "responses" if analysis.side == "responses" else "RDMs"
        found = Bounds(why_not=f"{name} is not about {level}, which this metric compares")
    elif analysis.side == "responses":
        found = _of_responses(name, kind, analysis, design, run, inputs)
    elif kind != "cells":
        found = Bounds(why_not="declared averages have no RDM")
    else:
        found = rdm_bounds.of_analysis(name, analysis, design, run, inputs)
    return replace(found, asked=name)


# Responses: a ceiling per target.


@dataclass(frozen=True)
class _Scored:
    """What the scores of responses are taken over.

    Attributes:
        rows: (n_rows,) stimuli that are scored, in order.
        folds: places in `rows` of each test fold.
        words: the same for readers.
        n_repetitions: (n_subjects,) repetitions that scored responses average, harmonic mean over stimuli.
        independent: share of the rows that are independent: neighbouring frames of a sentence are not, sentences are.
    """

    rows: np.ndarray
    folds: tuple[np.ndarray, ...]
    words: str
    n_repetitions: np.ndarray
    independent: float = 1.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Independent rows of each fold."""
        return tuple(max(1, round(len(fold) * self.independent)) for fold in self.folds)


@dataclass(frozen=True)
class _Recipe:
    """How a ceiling of responses is made.

    Attributes:
        make: trials (n_rows, n_repetitions, n_targets) of one subject, or values (n_subjects, n_rows, n_targets) of all;
            what is scored, the run, and the subject's place -> low and high of r, and the evidence (z) that the agreement
            behind them is above chance; each (n_targets,), or (n_subjects, n_targets).
        divides: low and high are one estimate of what a perfect model reaches.
        of_r2: recipe of the ceiling of r2, the square of that of r; empty for none.
        takes: "trials" of one subject, "responses" of several, or the "ncsnr" that comes with the data, (1, 1, n_targets).
    """

    make: Callable[[np.ndarray, _Scored, RunConfig, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
    divides: bool
    of_r2: str = ""
    takes: str = "trials"


def _split_half(
    trials: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_scored = float(scored.n_repetitions[subject])
    bound, halves = ceiling.split_half(trials, run.ceiling.n_splits, run.seed, n_scored=n_scored, folds=scored.folds)
    return bound, bound, ceiling.z_of_r(halves, scored.sizes)


def _low_up(
    trials: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, up = ceiling.half_split_bounds(trials, run.ceiling.n_splits, run.seed, folds=scored.folds)
    return low, up, ceiling.z_of_r(low, scored.sizes)


def _ncsnr(
    trials: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ratio = ceiling.ncsnr(trials, folds=scored.folds)
    bound = ceiling.ceiling_of_ncsnr(np.where(ratio > 0, ratio, np.nan), float(scored.n_repetitions[subject]))
    return bound, bound, _z_of_repetitions(trials, scored)


def _ncsnr_given(
    given: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ratio, n_averaged = given[0, 0].astype(np.float64), float(scored.n_repetitions[subject])
    bound = ceiling.ceiling_of_ncsnr(np.where(ratio > 0, ratio, np.nan), n_averaged)
    return bound, bound, ceiling.z_of_ncsnr(ratio, len(scored.rows), max(2, round(n_averaged)))


def _explainable(
    trials: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    share = ceiling.explainable_variance(trials, folds=scored.folds)
    bound = ceiling.ceiling_of_explainable_variance(share, float(scored.n_repetitions[subject]))
    return bound, bound, _z_of_repetitions(trials, scored)


def _z_of_repetitions(trials: np.ndarray, scored: _Scored) -> np.ndarray:
    return np.asarray(ceiling.z_of_repetitions(trials, folds=scored.folds) * np.sqrt(scored.independent))


def _other_subjects(
    responses: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = ceiling.leave_one_subject_out_responses(responses, folds=scored.folds)
    return low, high, ceiling.z_of_r(low, scored.sizes)


def _cross_subject(
    responses: np.ndarray, scored: _Scored, run: RunConfig, subject: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bound, agreement = ceiling.cross_subject(responses, folds=scored.folds)
    return bound, bound, ceiling.z_of_r(agreement, scored.sizes)


RESPONSES: Mapping[str, _Recipe] = {
    ceiling.SPLIT_HALF: _Recipe(_split_half, divides=True, of_r2=ceiling.SPLIT_HALF_RELIABILITY),
    ceiling.HALF_SPLIT_BOUNDS: _Recipe(_low_up, divides=False),
    ceiling.NCSNR: _Recipe(_ncsnr, divides=True, of_r2=ceiling.NCSNR),
    ceiling.NCSNR_GIVEN: _Recipe(_ncsnr_given, divides=True, of_r2=ceiling.NCSNR_GIVEN, takes="ncsnr"),
    ceiling.EXPLAINABLE_VARIANCE: _Recipe(_explainable, divides=True, of_r2=ceiling.EXPLAINABLE_VARIANCE),
    ceiling.LEAVE_ONE_SUBJECT_OUT_RESPONSES: _Recipe(_other_subjects, divides=False, takes="responses"),
    ceiling.CROSS_SUBJECT: _Recipe(_cross_subject, divides=True, of_r2=ceiling.CROSS_SUBJECT, takes="responses"),
}
"""Recipes for scores of responses, target by target."""


def _of_responses(name: str, kind: str, analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    recipe, recordings = RESPONSES[name], inputs.brain
    assert not isinstance(recordings, RdmSet)
    scored = _scored(analysis, design, recordings)
    why_not = _why_not(recipe, recordings, scored)
    if why_not:
        return Bounds(why_not=why_not)
    if recipe.takes == "ncsnr" and kind != "cells":
        return Bounds(why_not="the ncsnr that comes with the data is of single targets, and not of declared averages")
    if recipe.takes != "responses":
        parts = []
        for subject, recording in enumerate(recordings):
            blocks = _trials(recording, scored.rows, kind, run) if recipe.takes == "trials" else _given(recording)
            made = [recipe.make(block, scored, run, subject) for block in blocks]
            parts.append([np.concatenate(arrays) for arrays in zip(*made, strict=True)])
        low, high, z = (np.stack(arrays, axis=1) for arrays in zip(*parts, strict=True))
        together = z.mean(1) * np.sqrt(len(recordings))
    else:
        made = [recipe.make(block, scored, run, 0) for block in _responses(recordings, scored.rows, kind, run)]
        low, high, z = (np.concatenate(arrays, axis=1).T for arrays in zip(*made, strict=True))
        together = z.mean(1)  # subjects share what they are compared with
    names = {"pearson_r": name} | ({"r2": recipe.of_r2} if recipe.of_r2 else {})
    square = {"r2": 2, "pearson_r": 1}
    with np.errstate(invalid="ignore"):
        return Bounds(
            names={statistic: one for statistic, one in names.items() if statistic in analysis.metric.statistics},
            low={statistic: low ** square[statistic] for statistic in names},
            high={statistic: high ** square[statistic] for statistic in names},
            is_above=(z > ceiling.CRITICAL_Z) & np.isfinite(low),
            is_mean_above=(together > ceiling.CRITICAL_Z) & np.isfinite(low).all(1),
            divides=recipe.divides,
            level="responses",
            n_stimuli=len(scored.rows),
            n_repetitions=float(scored.n_repetitions.mean()),
            folds=scored.words,
        )


def _scored(analysis: Analysis, design: Design, recordings: list[Recording]) -> _Scored:
    """The rows that are scored: of each test fold, or all where nothing is fitted."""
    n_stimuli = len(recordings[0].stimulus_ids)
    if analysis.metric.uses_folds:
        outer = design.outer
        tests = [np.asarray(row)[np.asarray(is_real)] for row, is_real in zip(outer.test, outer.is_test, strict=True)]
        words = "a given test set" if design.is_fixed_split else f"{len(tests)} folds, correlations inside each"
    else:
        tests, words = [np.arange(n_stimuli)], "all stimuli at once"
    rows = np.unique(np.concatenate(tests))
    found = frames_of(recordings)
    independent = 1.0 if found is None else len(set(found.sequences[rows].tolist())) / len(rows)
    counts = np.array([1 / np.mean(1 / recording.n_repetitions[rows].astype(np.float64)) for recording in recordings])
    return _Scored(rows, tuple(np.searchsorted(rows, test) for test in tests), words, counts, independent)


def _why_not(recipe: _Recipe, recordings: list[Recording], scored: _Scored) -> str:
    """Why the data do not allow a recipe; empty when they do."""
    if recipe.takes == "ncsnr":
        without = [recording.subject for recording in recordings if recording.ncsnr is None]
        return f"no ncsnr comes with the data of subject {without[0]}" if without else ""
    if recipe.takes == "responses" and len(recordings) < 2:
        return "one subject, and no other subject to compare with"
    for recording in recordings if recipe.takes == "trials" else ():
        kept = without_trials(recording)
        if kept or recording.trials is None:
            n_subjects = "one subject" if len(recordings) == 1 else f"{len(recordings)} subjects"
            return f"{n_subjects} with {kept}, and no repetition to compare it with"
        if not np.isin(scored.rows, kept_rows(recording)).all():
            return (
                f"no ceiling: single trials are kept for {len(recording.trials)} test stimuli only, and this metric scores "
                f"{len(scored.rows)}"
            )
        why_not = _disagreement(recording)
        if why_not:
            return why_not
    return "" if len(scored.rows) >= 3 else f"{len(scored.rows)} stimuli are scored, and 3 are needed"


def kept_rows(recording: Recording) -> np.ndarray:
    """Stimuli whose single trials are kept: the test set, or all without one. -> (n_kept,) row indices"""
    return np.flatnonzero(recording.is_test) if recording.is_test.any() else np.arange(len(recording.stimulus_ids))


def _disagreement(recording: Recording) -> str:
    """Why trials are not those that the responses average, as after a step that changed only the average; else empty."""
    trials, rows = recording.trials, kept_rows(recording)
    assert trials is not None
    if len(trials) != len(rows):
        return f"no ceiling: trials are kept of {len(trials)} stimuli, and the test set has {len(rows)}"
    if (recording.n_repetitions[rows] != trials.shape[1]).any() or len(rows) < 3:
        return ""  # other numbers of repetitions: averages differ by more than rounding
    means = np.nanmean(trials, axis=1, dtype=np.float64).reshape(len(rows), -1)
    values = recording.values[rows].reshape(len(rows), -1).astype(np.float64)
    agreement = ceiling.pearson(means, values)
    if not (agreement < LEAST_AGREEMENT).any():  # NaN for constants
        return ""
    worst = int(np.nanargmin(agreement))
    channel = recording.channels[worst // len(recording.starts_s)]
    return (
        f"no ceiling: the trials of subject {recording.subject} do not average to its responses (r {agreement[worst]:.2f} at "
        f"{channel}): a step after the average changed the responses"
    )


def _trials(recording: Recording, rows: np.ndarray, kind: str, run: RunConfig) -> Iterator[np.ndarray]:
    """Single trials of the scored stimuli, some targets at a time. -> (n_rows, n_repetitions, n_targets)"""
    assert recording.trials is not None
    trials = recording.trials[np.searchsorted(kept_rows(recording), rows)]
    n_rows, n_repetitions = trials.shape[:2]
    if kind == "averages":
        single = replace(recording, values=trials.reshape(-1, *trials.shape[2:]))
        columns = [average_of(single, one).reshape(n_rows, n_repetitions) for one in run.averages]
        yield np.stack(columns, axis=2)
        return
    yield from _blocks(trials.reshape(n_rows, n_repetitions, -1))


def _given(recording: Recording) -> Iterator[np.ndarray]:
    """The ncsnr that comes with the data. -> (1, 1, n_targets)"""
    assert recording.ncsnr is not None
    yield recording.ncsnr.reshape(1, 1, -1)


def _responses(recordings: list[Recording], rows: np.ndarray, kind: str, run: RunConfig) -> Iterator[np.ndarray]:
    """Responses of all subjects, some targets at a time. -> (n_subjects, n_rows, n_targets)"""
    if kind == "averages":
        columns = [[average_of(recording, one)[rows] for one in run.averages] for recording in recordings]
        yield np.moveaxis(np.array(columns), 1, 2)
        return
    yield from _blocks(np.stack([recording.values[rows].reshape(len(rows), -1) for recording in recordings]))


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Parts along the last axis."""
    width = max(1, BLOCK_VALUES // int(np.prod(values.shape[:-1])))
    return (values[..., start : start + width] for start in range(0, values.shape[-1], width))
