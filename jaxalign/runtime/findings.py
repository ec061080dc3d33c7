"""What the report says first: the peak of each family, when and where it is significant, and held-out best layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from jaxalign.compute.inference import critical, p_floor
from jaxalign.contracts import Design, RdmSet, RunConfig
from jaxalign.runtime import folder, messages
from jaxalign.runtime.bounds import Bounds, Ceilings
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis, Plan
from jaxalign.runtime.selection import Grid, finite, held_out, ranking, tested, where
from jaxalign.runtime.targets import Groups

LEVEL = 0.05
MIN_SUBJECTS = 6
"""Below this many subjects a test over subjects has too high a floor: stimuli are permuted instead, and said so."""


def summarise(
    run: RunConfig,
    plan: Plan,
    inputs: Inputs,
    tables: dict[str, pa.Table],
    families: dict[str, np.ndarray],
    bounds: dict[int, Ceilings],
    failed: list[dict[str, str]],
) -> dict[str, Any]:
    """The summary of a run, JSON values; `results.report` puts it in words."""
    found = []
    for index, analysis in enumerate(plan.analyses):
        for place, statistic in enumerate(analysis.metric.statistics):
            grids = {kind: _grid(plan, index, kind, place, tables) for kind in analysis.groups}
            found.append(_finding(run, plan, inputs, index, statistic, grids, families, bounds[index]))
    return {
        "name": run.name,
        "command": f"jaxalign experiment={run.name}",
        "run_hash": plan.run_hash,
        "is_simulated": inputs.is_simulated,
        "planted": folder.planted(run),
        "dataset": messages.dataset(run, plan, inputs),
        "warnings": messages.warnings(run, plan, inputs, tables),
        "n_constant_targets": messages.n_constant_targets(plan, inputs, run),
        "failed_units": failed,
        "n_units": len(plan.units),
        "findings": found,
    }


def _grid(plan: Plan, analysis: int, kind: str, statistic: int, tables: dict[str, pa.Table]) -> Grid:
    """Collect the rows of all units of an analysis into arrays."""
    one = plan.analyses[analysis]
    columns = ("value", "z", "p", "p_corrected", "fold_values")
    by_fit: dict[int, list[list[np.ndarray]]] = {fit: [] for fit in one.fits}
    for unit in plan.units:
        tile = one.tiles[unit.tile] if unit.analysis == analysis else None
        if tile is not None and tile.kind == kind:
            rows = tables[unit.unit_id]
            by_fit[unit.fit].append(
                [
                    _laid_out(rows, name, statistic, len(one.metric.statistics), len(tile.groups), len(plan.subjects))
                    for name in columns
                ]
            )
    joined = [[np.concatenate(parts) for parts in zip(*tiles, strict=True)] for tiles in by_fit.values()]
    return Grid(*(np.stack(parts) for parts in zip(*joined, strict=True)))


def _laid_out(
    rows: pa.Table, name: str, statistic: int, n_statistics: int, n_groups: int, n_subjects: int
) -> np.ndarray:
    """One column of a unit. -> (n_groups, n_levels), or (n_groups, n_levels, n_folds) for lists"""
    column = rows.column(name).combine_chunks()
    if name == "fold_values":
        values = column.flatten().to_numpy(zero_copy_only=False)
        values = values.reshape(len(column), -1)
    else:
        values = column.to_numpy(zero_copy_only=False)[:, None]
    values = np.split(values, n_statistics)[statistic]
    of_subjects = values[: n_groups * n_subjects].reshape(n_groups, n_subjects, -1)
    laid = (
        of_subjects
        if n_subjects == 1
        else np.concatenate([of_subjects, values[n_groups * n_subjects :][:, None]], axis=1)
    )
    return laid if name == "fold_values" else laid[:, :, 0]


def _finding(
    run: RunConfig,
    plan: Plan,
    inputs: Inputs,
    index: int,
    statistic: str,
    grids: dict[str, Grid],
    families: dict[str, np.ndarray],
    ceilings: Ceilings,
) -> dict[str, Any]:
    """The answer of one metric and statistic."""
    bounds = ceilings.of("cells", statistic)
    analysis, design = plan.analyses[index], plan.design[index]
    n_subjects = len(plan.subjects)
    level = -1  # the mean over subjects, or the only subject
    subject = "mean" if n_subjects > 1 else plan.subjects[0]
    grid, groups = grids["cells"], analysis.groups["cells"]
    scores = tested(analysis, grid)[..., level]
    significant = grid.p_corrected[..., level] <= LEVEL
    maxima = families[f"{analysis.name}/{statistic}/{subject}/cells"]
    has_score = np.isfinite(scores).any()
    peak = tuple(map(int, np.unravel_index(np.nanargmax(scores), scores.shape))) if has_score else None
    return {
        "metric": analysis.name,
        "statistic": statistic,
        "level": f"mean over {n_subjects} subjects" if n_subjects > 1 else f"subject {subject}",
        "subject": subject,
        "generalises_to": "stimuli, not to subjects"
        if n_subjects < MIN_SUBJECTS
        else "stimuli; subjects were not permuted",
        "tail": analysis.metric.tail,
        "n_permutations": analysis.metric.n_permutations,
        "scheme": _scheme(analysis, design) + _within(run),
        "p_floor": finite(p_floor(analysis.metric.n_permutations)),
        "family_id": f"{analysis.name}/{statistic}/{subject}/cells",
        "family_size": int(np.isfinite(scores).sum()),
        "family_complete": bool(np.isfinite(grid.p_corrected[..., level]).any()),
        "critical": finite(critical(maxima)),
        "critical_of": "z" if analysis.is_calibrated else "value",
        "n_significant": int(significant.sum()),
        "n_uncorrected": int((grid.p[..., level] <= LEVEL).sum()),
        "peak": None
        if peak is None
        else _cell(inputs, analysis, grid, groups, bounds, statistic, peak[0], peak[1], level),
        **_extent(analysis, groups, significant, peak),
        "ceiling": _ceiling(bounds, statistic) | {"is_divided": ceilings.is_divided and bounds.divides},
        "ceilings": [
            _ceiling(one, statistic) | one.at(statistic, peak[1]) for one in ceilings.kinds["cells"] if peak is not None
        ],
        "held_out": held_out(plan, inputs, analysis, grid, groups, range(len(analysis.fits)), bounds, statistic),
        "ranking": ranking(plan, inputs, analysis, grid, groups),
        "averages": _averages(inputs, analysis, grids.get("averages"), level),
    }


def _within(run: RunConfig) -> str:
    """What restricts the relabelling, in words; nothing for free labels."""
    how = {
        "strata": "within each value of",
        "block": "in whole blocks of equal",
        "mismatch": "in whole sequences of equal",
        "circular": "by circular shifts (which reject smooth series too often) along each value of",
    }
    return f", {how[run.null.scheme]} {run.null.column}" if run.null.scheme in how else ""


def _scheme(analysis: Analysis, design: Design) -> str:
    """What a permutation relabels."""
    if analysis.side != "responses":
        return "stimuli are relabelled, rows and columns of an RDM together"
    if not analysis.metric.uses_folds:
        return "stimuli of the feature are relabelled"
    if design.is_fixed_split:
        return "test stimuli are relabelled; weights and penalties come from the training stimuli and stay"
    return "stimuli of all responses are relabelled before anything is fitted, and penalties are chosen anew"


def _cell(
    inputs: Inputs,
    analysis: Analysis,
    grid: Grid,
    groups: Groups,
    bounds: Bounds,
    statistic: str,
    fit: int,
    group: int,
    level: int,
) -> dict[str, Any]:
    """Names and scores of a cell, with its ceiling."""
    scores = {name: finite(getattr(grid, name)[fit, group, level]) for name in ("value", "z", "p", "p_corrected")}
    return {**where(inputs, analysis, groups, fit, group), **scores, **bounds.at(statistic, group)}


def _ceiling(bounds: Bounds, statistic: str) -> dict[str, Any]:
    """What a ceiling is of, and why there is none."""
    recipe = bounds.recipe(statistic)
    said = bounds.why_not or (None if recipe else f"{bounds.asked} gives none for {statistic}")
    return {
        "recipe": recipe,
        "asked": bounds.asked,
        "why_not": said,
        "level": bounds.level,
        "n_stimuli": bounds.n_stimuli,
        "n_repetitions": bounds.n_repetitions,
        "folds": bounds.folds,
        "divides": bounds.divides,
    }


def _extent(analysis: Analysis, groups: Groups, significant: np.ndarray, peak: Any) -> dict[str, Any]:
    """Significant bins around the peak in its layer, and the channels significant in them."""
    if peak is None or not significant[peak]:
        return {"window": None, "channels": []}
    mine = significant[peak[0]]
    starts = np.asarray(groups.start_s)
    if np.isnan(starts).any():
        return {"window": None, "channels": [groups.channel[peak[1]]]}
    times = np.unique(starts)
    is_on = np.array([mine[starts == time].any() for time in times])
    first = last = int(np.searchsorted(times, starts[peak[1]]))
    while first > 0 and is_on[first - 1]:
        first -= 1
    while last + 1 < len(times) and is_on[last + 1]:
        last += 1
    stop = float(np.asarray(groups.stop_s)[starts == times[last]][0])
    inside = mine & (starts >= times[first]) & (starts <= times[last])
    return {
        "window": [float(times[first]), stop],
        "channels": sorted({groups.channel[group] for group in np.flatnonzero(inside)}),
    }


def _averages(inputs: Inputs, analysis: Analysis, grid: Grid | None, level: int) -> list[dict[str, Any]]:
    """Declared averages of responses: every layer of each."""
    if grid is None or isinstance(inputs.brain, RdmSet):
        return []
    groups = analysis.groups["averages"]
    found = []
    for group in range(len(groups)):
        for fit in range(len(analysis.fits)):
            scores = {
                name: finite(getattr(grid, name)[fit, group, level]) for name in ("value", "z", "p", "p_corrected")
            }
            found.append({**where(inputs, analysis, groups, fit, group), **scores})
    return found
