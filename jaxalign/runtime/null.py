"""Which stimuli a run relabels, and the labellings that its units share."""

from __future__ import annotations

import numpy as np

from jaxalign.compute.labellings import TAKES, Labellings, draw
from jaxalign.contracts import Design, Metric, RdmSet, RunConfig
from jaxalign.errors import ConfigError, nearest
from jaxalign.runtime.inputs import Inputs

SCHEMES = tuple(scheme for scheme in TAKES if scheme != "given")


def relabelled(metric: Metric, side: str, design: Design, n_stimuli: int) -> np.ndarray:
    """Rows that a permutation relabels: the scored ones of RSA and of a fixed split, else all. -> (n,) int"""
    if side != "responses":
        return np.asarray(design.rsa_rows)
    if design.is_fixed_split and metric.uses_folds:
        return np.asarray(design.outer.test[0])
    return np.arange(n_stimuli)


def labellings_of(metric: Metric, side: str, design: Design, run: RunConfig, inputs: Inputs) -> Labellings:
    """Labellings of one metric, within the strata or blocks that the request names.

    Raises:
        ConfigError: if the scheme or its column is unknown, or leaves nothing to permute.
    """
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
    options = {takes: _column(column, inputs)[rows]} if takes else {}
    if metric.n_permutations == 0:
        return Labellings(np.arange(len(rows), dtype=np.int32)[None], scheme, False, float("nan"), None)
    try:
        return draw(scheme, len(rows), metric.n_permutations, run.seed, **options)
    except ValueError as error:
        raise ConfigError(f"null.column={column!r}: {error}" if column else str(error)) from error


def _column(name: str, inputs: Inputs) -> np.ndarray:
    columns = {} if isinstance(inputs.brain, RdmSet) else inputs.brain[0].columns
    if name not in columns:
        raise ConfigError(f"null.column={name!r} is no column of the recording. {nearest(name, columns)}")
    return np.asarray(columns[name])
