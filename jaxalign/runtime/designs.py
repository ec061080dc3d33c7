"""Which rows fit, which choose and which score: the folds of a metric on a data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxalign.compute import folds
from jaxalign.contracts import Design, Metric, RdmSet, Recording, RunConfig
from jaxalign.errors import ConfigError, DataError
from jaxalign.runtime import frames
from jaxalign.runtime.inputs import Inputs, no_column


def design_of(metric: Metric, run: RunConfig, inputs: Inputs) -> Design:
    """Folds of a metric on this data set: the given test set, or the outer folds that the metric asks for.

    Frames of a sequence are held out together.

    Raises:
        ConfigError: if a column is not there, or frames cannot be scored like this.
        DataError: if there are too few stimuli for the folds.
    """
    of_frames = frames.frames_of(inputs.brain)
    if of_frames is None:
        return _design(metric, run, inputs)
    name = _name_of(metric, run)
    frames.check_metric(name, metric, of_frames)
    design = _design(metric, run, inputs)
    frames.check_design(name, design, of_frames)
    return design


def _design(metric: Metric, run: RunConfig, inputs: Inputs) -> Design:
    n_rows = len(inputs.stimulus_ids)
    recording = None if isinstance(inputs.brain, RdmSet) else inputs.brain[0]
    n_outer, n_inner = getattr(metric, "n_outer", 2), getattr(metric, "n_inner", 2)
    scheme, column = getattr(metric, "folds", "shuffled"), getattr(metric, "group_by", "")
    columns = {} if recording is None else recording.columns
    if column and column not in columns:
        raise ConfigError(no_column(f"group_by={column!r}", column, inputs.brain))
    if scheme == "runs" and recording is not None and (column or "run") in recording.lacks:
        name = _name_of(metric, run)
        said = no_column(f"metric.{name}.folds=runs", column or "run", inputs.brain)
        raise ConfigError(f"{said} Leave metric.{name}.folds at auto.")
    runs = _runs(metric, columns)
    _check_runs(_name_of(metric, run), metric, runs, recording)
    try:
        return folds.nested(
            scheme,
            n_rows,
            n_outer,
            n_inner,
            run.seed,
            is_test=None if recording is None else recording.is_test,
            groups=columns[column] if column and runs is None else inputs.groups,
            runs=runs,
            gap=getattr(metric, "gap", 0),
            weights=_weights(metric, inputs),
        )
    except ValueError as error:
        raise DataError(f"{n_rows} stimuli do not go with n_outer={n_outer} and n_inner={n_inner}: {error}") from error


def _name_of(metric: Metric, run: RunConfig) -> str:
    """The name of a metric's entry."""
    return next((name for name, one in run.metric.items() if one == metric), "NAME")


def _runs(metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The run of each stimulus where the metric may leave runs out, or None. -> (n_rows,)"""
    scheme, column = getattr(metric, "folds", "shuffled"), getattr(metric, "group_by", "")
    is_run = scheme == "runs" or (scheme == "auto" and column in ("", "run"))
    return columns.get(column or "run") if is_run else None


def _check_runs(name: str, metric: Metric, runs: np.ndarray | None, recording: Recording | None) -> None:
    """Refuse folds of runs that were asked for by name and cannot be.

    Raises:
        ConfigError: with the number of runs, the number that is needed, and what to set.
    """
    column = getattr(metric, "group_by", "")
    if runs is None or recording is None or (metric.folds == "auto" and not column):  # type: ignore[attr-defined]
        return
    n_runs, n_needed = folds.count_runs(runs, recording.is_test)
    if n_runs < n_needed:
        asked = f"metric.{name}.group_by={column}" if column else f"metric.{name}.folds=runs"
        empty = " with an empty group_by" if column else ""
        raise ConfigError(
            f"{asked} leaves one run out at a time, and {_of_runs(n_runs, n_needed)}: "
            f"set metric.{name}.folds=shuffled{empty}."
        )


def _of_runs(n_runs: int, n_needed: int) -> str:
    """The numbers of `folds.count_runs` in words."""
    runs = "run" if n_runs == 1 else "runs"
    if n_needed == 3:
        uses = "one tested, one that chooses the penalty, one trained on"
        return f"the recording has {n_runs} {runs} of the 3 or more that this needs ({uses})"
    uses = "one that chooses the penalty, one trained on"
    return f"the training stimuli have {n_runs} {runs} of the 2 or more that this needs ({uses})"


def notes(run: RunConfig, inputs: Inputs) -> list[str]:
    """What a reader must know of folds that were chosen by themselves: runs that were too few to leave one out.

    Args:
        run: the request.
        inputs: data and features.
    """
    if isinstance(inputs.brain, RdmSet):
        return []
    recording, found = inputs.brain[0], []
    of_frames = frames.frames_of(inputs.brain)
    for name, metric in run.metric.items():
        runs = _runs(metric, recording.columns)
        if runs is None:
            continue
        n_runs, n_needed = folds.count_runs(runs, recording.is_test)
        if n_runs < n_needed:
            what = "stimuli" if of_frames is None else "whole sequences"
            which = "folds" if n_needed == 3 else "the folds that choose penalties"
            found.append(
                f"{name}: {which} are of shuffled {what} and leave no run out, since "
                f"{_of_runs(n_runs, n_needed)}. Training and held-out {what} share "
                "their runs, and whatever drifts slowly in them."
            )
    return found


def _weights(metric: Metric, inputs: Inputs) -> np.ndarray | None:
    """Mean number of presentations of each stimulus over subjects, scaled to a mean of 1; None where all are alike."""
    if isinstance(inputs.brain, RdmSet) or getattr(metric, "weights", "equal") != "repetitions":
        return None
    repetitions = np.mean([recording.n_repetitions for recording in inputs.brain], axis=0)
    is_train = ~inputs.brain[0].is_test
    if np.ptp(repetitions[is_train]) == 0:
        return None
    return (repetitions / repetitions[is_train].mean()).astype(np.float32)
