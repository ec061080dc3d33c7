"""From the arrays of one unit to its rows in the table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxalign.compute.inference import p_floor, p_value
from jaxalign.contracts import RdmSet, RunConfig, Scores
from jaxalign.results import table
from jaxalign.runtime import tiles
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis, Plan, Unit
from jaxalign.runtime.targets import Groups, Tile


class Part(NamedTuple):
    """Scores of one unit, padding gone; cells are targets (group, then subject), then means over subjects.

    maxima is (n_statistics, n_families, n_permutations + 1); why_failed is empty for a unit that is well.
    """

    value: np.ndarray
    fold_value: np.ndarray
    z: np.ndarray
    exceed_count: np.ndarray
    alpha: np.ndarray
    edge: np.ndarray
    validation: np.ndarray
    maxima: np.ndarray
    solver: str
    why_failed: str


def of_unit(
    scores: Scores,
    maxima: np.ndarray,
    place: tuple[int, int],
    unit: Unit,
    plan: Plan,
    inputs: Inputs,
    run: RunConfig,
    solver: str | None = None,
) -> Part:
    """Cut one unit out of the arrays of a call.

    Args:
        scores, maxima: of the call, on the host.
        place: row among its fits, position among its tiles.
    """
    analysis = plan.analyses[unit.analysis]
    tile = analysis.tiles[unit.tile]
    row, column = place
    n_subjects = len(plan.subjects)
    n_targets = tile.n_padded * n_subjects
    n_means = tile.n_padded if n_subjects > 1 else 0
    cells = np.concatenate(
        [np.arange(len(tile.groups) * n_subjects), n_targets + np.arange(len(tile.groups) if n_means else 0)]
    )
    start = column * (n_targets + n_means)
    own = start + cells
    targets = column * n_targets + np.arange(len(tile.groups) * n_subjects)
    value = scores.value[row][:, own]
    return Part(
        value=value,
        fold_value=scores.fold_value[row][:, :, own],
        z=scores.z[row][:, own],
        exceed_count=scores.exceed_count[row][:, own],
        alpha=_on_cells(scores.alpha[row][targets], len(own), np.nan),
        edge=_on_cells(scores.edge[row][targets], len(own), 0),
        validation=_on_cells(scores.validation[row][targets], len(own), np.nan),
        maxima=maxima[row, column],
        solver=solver or _solver_name(analysis),
        why_failed=_why_failed(
            value, tile, analysis, unit, inputs, run, np.asarray(plan.design[unit.analysis].rsa_rows)
        ),
    )


def _on_cells(values: np.ndarray, n_cells: int, missing: Any) -> np.ndarray:
    """Values of the targets, with a missing value for the means over subjects."""
    out = np.full(n_cells, missing, values.dtype)
    out[: len(values)] = values
    return out


def _solver_name(analysis: Analysis) -> str:
    return getattr(analysis.metric, "solver_used", "none")


def is_constant(values: np.ndarray) -> np.ndarray:
    """Which columns vary by no more than float32 rounding: their scores are undefined. (n_stimuli, m) -> (m,) bool"""
    return np.ptp(values, axis=0) <= 8 * np.finfo(np.float32).eps * np.abs(values).max(axis=0)


def constant_targets(analysis: Analysis, tile: Tile, inputs: Inputs, run: RunConfig) -> np.ndarray:
    """Which targets of a tile have no defined score, and rightly so. -> (n_groups * n_subjects,) bool

    A target that is constant over the scored stimuli, or a pattern that is constant over channels.
    """
    n_targets = len(tile.groups) * (1 if isinstance(inputs.brain, RdmSet) else len(inputs.brain))
    values = tiles.responses_tile(analysis, inputs, run, tile).values
    if isinstance(inputs.brain, RdmSet):
        return is_constant(values)[: len(inputs.brain.names)]
    if analysis.side == "patterns":
        return (np.ptp(values, axis=1) == 0).any(0)[:n_targets]
    is_test = inputs.brain[0].is_test
    return is_constant(values[is_test] if is_test.any() else values)[:n_targets]


def is_flat_layer(inputs: Inputs, fit: int, stimuli: np.ndarray) -> bool:
    """Whether a layer gives some stimulus one value in all units: its correlation RDM is undefined, and rightly so."""
    return not inputs.is_rdm[fit] and bool((np.ptp(inputs.read(fit, stimuli), axis=1) == 0).any())


def _why_failed(
    value: np.ndarray, tile: Tile, analysis: Analysis, unit: Unit, inputs: Inputs, run: RunConfig, stimuli: np.ndarray
) -> str:
    if np.isfinite(value).all():
        return ""
    constant = constant_targets(analysis, tile, inputs, run)
    n_targets = len(constant)
    if analysis.side != "responses" and is_flat_layer(inputs, unit.fit, stimuli):
        return ""
    unexpected = ~np.isfinite(value[:, :n_targets]) & ~constant[None, :]
    if not unexpected.any():
        return ""
    name = inputs.fits[unit.fit].name
    return f"{int(unexpected.any(0).sum())} of {n_targets} targets of {name} came out as NaN or Inf although they vary"


def to_table(part: Part, unit: Unit, plan: Plan, inputs: Inputs, run: RunConfig) -> pa.Table:
    """Rows of one unit, statistics outermost. p_corrected and ceilings are left for the finishing pass."""
    analysis = plan.analyses[unit.analysis]
    tile = analysis.tiles[unit.tile]
    n_statistics, n_cells = part.value.shape
    names = labels(analysis.groups[tile.kind], tile.groups, plan.subjects)
    fit = inputs.fits[unit.fit]
    n_permutations = analysis.metric.n_permutations
    flat = {name: getattr(part, name).ravel() for name in ("value", "z", "exceed_count")}
    p = np.where(np.isnan(flat["value"]), np.nan, p_value(flat["exceed_count"], n_permutations))
    nothing = np.full(n_statistics * n_cells, np.nan, np.float32)
    repeated = {name: np.tile(values, n_statistics) for name, values in names.items()}
    columns = {
        **repeated,
        "dataset": run.dataset.name,
        "model": fit.model,
        "revision": fit.revision,
        "layer": fit.layer,
        "layer_depth": fit.layer_depth,
        "pooling": fit.pooling,
        "metric": analysis.name,
        "statistic": np.repeat(analysis.metric.statistics, n_cells),
        "unit_id": unit.unit_id,
        "value": flat["value"],
        "z": flat["z"],
        "ceiling_low": nothing,
        "ceiling_high": nothing,
        "ceiling_recipe": "none",
        "is_ceiling_above_chance": False,
        "value_normalised": nothing,
        "n_stimuli": n_scored_stimuli(analysis, plan, unit, inputs),
        "n_repetitions": n_scored_repetitions(inputs),
        "n_permutations": n_permutations,
        "exceed_count": flat["exceed_count"],
        "p": p,
        "p_floor": p_floor(n_permutations),
        "p_corrected": nothing,
        "family_size": 0,
        "family_complete": False,
        "fold_values": _lists(np.moveaxis(part.fold_value, 0, -1).reshape(n_statistics * n_cells, -1)),
        "alpha": np.tile(part.alpha, n_statistics),
        "alpha_edge": np.tile(part.edge, n_statistics),
        "validation": np.tile(part.validation, n_statistics),
        "solver": part.solver,
        "precision": run.precision,
        "tile": analysis.shape_name(tile, unit.fit),
        "status": "failed" if part.why_failed else "done",
        "is_simulated": inputs.is_simulated,
    }
    columns["family_id"] = [
        f"{run.dataset.name}/{analysis.name}/{statistic}/{subject}/{tile.kind}"
        for statistic, subject in zip(columns["statistic"], columns["subject"], strict=True)
    ]
    return table.to_table(columns)


def labels(groups: Groups, chosen: np.ndarray, subjects: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Subject, channel and time of each cell of some groups: targets, then means over subjects."""
    channel = np.asarray(groups.channel)[chosen]
    start, stop = groups.start_s[chosen], groups.stop_s[chosen]
    n_subjects, n_groups = len(subjects), len(chosen)
    with_means = n_subjects > 1

    def on_cells(of_group: np.ndarray) -> np.ndarray:
        return np.concatenate([np.repeat(of_group, n_subjects), of_group if with_means else of_group[:0]])

    names = np.concatenate([np.tile(np.asarray(subjects), n_groups), np.repeat("mean", n_groups if with_means else 0)])
    return {
        "subject": names,
        "channel": on_cells(channel),
        "time_start_s": on_cells(start),
        "time_stop_s": on_cells(stop),
    }


def _lists(values: np.ndarray) -> pa.Array:
    """(n_rows, n_folds) as a column of lists; empty lists without folds."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel().astype(np.float32)))


def n_scored_stimuli(analysis: Analysis, plan: Plan, unit: Unit, inputs: Inputs) -> int:
    """Stimuli that the score is taken over."""
    design = plan.design[unit.analysis]
    if analysis.side != "responses":
        return len(design.rsa_rows)
    if analysis.metric.uses_folds:
        return int(design.outer.is_test.sum())
    return len(inputs.stimulus_ids)


def n_scored_repetitions(inputs: Inputs) -> int:
    """Presentations averaged per scored stimulus; the smallest when they differ, 0 when unknown."""
    if isinstance(inputs.brain, RdmSet):
        return 0
    first = inputs.brain[0]
    scored = first.n_repetitions[first.is_test] if first.is_test.any() else first.n_repetitions
    return int(scored.min())
