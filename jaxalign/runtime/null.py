"""Which stimuli a run relabels, and the labellings that its units share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from jaxalign.compute.labellings import TAKES, Labellings, count, draw
from jaxalign.contracts import Design, Metric, RdmSet, RunConfig
from jaxalign.errors import ConfigError, nearest
from jaxalign.runtime import frames
from jaxalign.runtime.inputs import Inputs, no_column

SCHEMES = tuple(scheme for scheme in TAKES if scheme != "given")


def relabelled(metric: Metric, side: str, design: Design, n_stimuli: int) -> np.ndarray:
    """Rows that a permutation relabels: the scored ones of RSA and of a fixed split, else all. -> (n,) int"""
    if side != "responses":
        return np.asarray(design.rsa_rows)
    if design.is_fixed_split and metric.uses_folds:
        return np.asarray(design.outer.test[0])
    return np.arange(n_stimuli)


def n_permutations_of(metric: Metric, side: str, design: Design, run: RunConfig, inputs: Inputs) -> int:
    """Labellings beside the observed one: as many as the metric asks for, or all there are. Draws none.

    Raises:
        ConfigError: if the scheme or its column is unknown, or leaves nothing to permute.
    """
    n_rows, options = _request(metric, side, design, run, inputs)
    if metric.n_permutations == 0:
        return 0
    with _named(run):
        n_distinct = count(run.null.scheme, n_rows, **options)
    return n_distinct - 1 if n_distinct <= metric.n_permutations else metric.n_permutations


def labellings_of(metric: Metric, side: str, design: Design, run: RunConfig, inputs: Inputs) -> Labellings:
    """Labellings of one metric as it was asked for, within the strata or blocks that the request names."""
    n_rows, options = _request(metric, side, design, run, inputs)
    if metric.n_permutations == 0:
        return Labellings(np.arange(n_rows, dtype=np.int32)[None], run.null.scheme, False, float("nan"), None)
    with _named(run):
        return draw(run.null.scheme, n_rows, metric.n_permutations, run.seed, **options)


def _request(
    metric: Metric, side: str, design: Design, run: RunConfig, inputs: Inputs
) -> tuple[int, dict[str, np.ndarray]]:
    """Number of rows that are relabelled, and the argument that the scheme reads."""
    rows = relabelled(metric, side, design, len(inputs.stimulus_ids))
    scheme, column = run.null.scheme, run.null.column
    if scheme not in SCHEMES:
        raise ConfigError(f"null.scheme={scheme!r} is not a scheme. {nearest(scheme, SCHEMES)}")
    takes = TAKES[scheme]
    if (takes is None) != (column == ""):
        raise ConfigError(
            f"null.scheme={scheme!r} with null.column={column!r}: "
            + (f"name the column that holds the {takes}." if takes else "label takes no column.")
        )
    labels = _column(column, inputs)[rows] if takes else None
    of_frames = frames.frames_of(inputs.brain)
    if of_frames is not None and metric.n_permutations:
        frames.check_null(run, of_frames, rows, labels)
    return len(rows), {takes: labels} if takes and labels is not None else {}


@contextmanager
def _named(run: RunConfig) -> Iterator[None]:
    """Errors of the scheme, with the option that they are about."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"null.column={run.null.column!r}: {error}" if run.null.column else str(error)) from error


def _column(name: str, inputs: Inputs) -> np.ndarray:
    columns = {} if isinstance(inputs.brain, RdmSet) else inputs.brain[0].columns
    if name not in columns:
        raise ConfigError(no_column(f"null.column={name!r}", name, inputs.brain))
    return np.asarray(columns[name])
