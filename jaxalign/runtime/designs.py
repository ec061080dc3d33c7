"""Which rows fit, which choose and which score: the folds of a metric on a data set."""

from __future__ import annotations

import numpy as np

from jaxalign.compute import folds
from jaxalign.contracts import Design, Metric, RdmSet, RunConfig
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.runtime import frames
from jaxalign.runtime.inputs import Inputs


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
    name = next((name for name, one in run.metric.items() if one == metric), "")
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
        raise ConfigError(f"group_by={column!r} is no column of the recording. {nearest(column, columns)}")
    is_run = scheme == "runs" or (scheme == "auto" and column in ("", "run"))
    runs = columns.get(column or "run") if is_run else None
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


def _weights(metric: Metric, inputs: Inputs) -> np.ndarray | None:
    """Mean number of presentations of each stimulus over subjects, scaled to a mean of 1; None where all are alike."""
    if isinstance(inputs.brain, RdmSet) or getattr(metric, "weights", "equal") != "repetitions":
        return None
    repetitions = np.mean([recording.n_repetitions for recording in inputs.brain], axis=0)
    is_train = ~inputs.brain[0].is_test
    if np.ptp(repetitions[is_train]) == 0:
        return None
    return (repetitions / repetitions[is_train].mean()).astype(np.float32)
