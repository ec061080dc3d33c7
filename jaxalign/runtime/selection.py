"""Choosing a layer, a channel and a time bin on some data, and scoring them on data that did not choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.runtime.bounds import Bounds
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis, Plan
from jaxalign.runtime.targets import Groups


@dataclass(frozen=True)
class Grid:
    """One statistic of one kind of target, laid out. Subjects are followed by their mean when there are several.

    Attributes:
        value, z, p, p_corrected: (n_fits, n_groups, n_levels).
        fold_value: (n_fits, n_groups, n_levels, n_folds).
    """

    value: np.ndarray
    z: np.ndarray
    p: np.ndarray
    p_corrected: np.ndarray
    fold_value: np.ndarray


def tested(analysis: Analysis, grid: Grid) -> np.ndarray:
    tested = grid.z if analysis.is_calibrated else grid.value
    return np.abs(tested) if analysis.metric.tail == "two-sided" else tested


def is_biased(analysis: Analysis) -> bool:
    """Whether noise scores above 0, so that raw scores of models differ by their width alone."""
    return getattr(analysis.metric, "is_biased", False)


def finite(value: Any) -> Any:
    """A number that JSON can hold: NaN becomes null."""
    number = float(value)
    return number if np.isfinite(number) else None


def where(inputs: Inputs, analysis: Analysis, groups: Groups, fit: int, group: int) -> dict[str, Any]:
    """Names of a cell."""
    label = inputs.fits[analysis.fits[fit]]
    return {
        "model": label.model,
        "layer": label.layer,
        "layer_depth": label.layer_depth,
        "pooling": label.pooling,
        "channel": groups.channel[group],
        "time_start_s": finite(groups.start_s[group]),
        "time_stop_s": finite(groups.stop_s[group]),
    }


def held_out(
    plan: Plan,
    inputs: Inputs,
    analysis: Analysis,
    grid: Grid,
    groups: Groups,
    fits: Any,
    bounds: Bounds | None = None,
    statistic: str = "",
) -> dict[str, Any] | None:
    """Score of the layer, channel and bin that other subjects (or other folds of the only one) chose.

    Null: no second subject and no second fold, a single cell to choose from and one subject, or folds of a biased
    measure, which would choose the widest layer.
    """
    chosen = list(fits)
    n_subjects = len(plan.subjects)
    if n_subjects > 1:
        choosing, scoring = tested(analysis, grid)[chosen][..., :n_subjects], grid.value[chosen][..., :n_subjects]
        names, other = list(plan.subjects), "subjects"
    else:
        choosing = scoring = grid.fold_value[chosen][:, :, 0]
        names, other = [f"fold {fold + 1}" for fold in range(scoring.shape[-1])], "folds"
    if len(names) < 2 or analysis.metric.tail == "two-sided" or (n_subjects == 1 and is_biased(analysis)):
        return None
    cells = [_chosen_by_others(choosing, index) for index in range(len(names))]
    parts = [
        _part(inputs, analysis, groups, chosen, scoring[..., index], cell, name)
        for index, (name, cell) in enumerate(zip(names, cells, strict=True))
    ]
    values = [part["value"] for part in parts if part["value"] is not None]
    what = (
        "layer"
        if len(groups) == 1
        else "layer, channel and time bin"
        if len(set(groups.channel)) > 1
        else "layer and time bin"
    )
    return {
        "recipe": f"{what} chosen on the other {other}",
        "value": finite(np.mean(values)) if values else None,
        "n": len(values),
        "parts": parts,
        **_ceiling(bounds, statistic, cells if n_subjects > 1 else []),
    }


def _ceiling(bounds: Bounds | None, statistic: str, cells: list[tuple[int, int] | None]) -> dict[str, float | None]:
    """Mean over subjects of the ceiling of the very cells that are scored; None where there is none above chance."""
    nothing: dict[str, float | None] = {"ceiling_low": None, "ceiling_high": None}
    if bounds is None or bounds.recipe(statistic) is None or not cells or None in cells:
        return nothing
    places = [(cell[1], subject) for subject, cell in enumerate(cells) if cell is not None]
    if not all(bounds.is_above[place] for place in places):
        return nothing
    sides = {"ceiling_low": bounds.low[statistic], "ceiling_high": bounds.high[statistic]}
    return {name: finite(np.mean([side[place] for place in places])) for name, side in sides.items()}


def _chosen_by_others(choosing: np.ndarray, index: int) -> tuple[int, int] | None:
    """Fit and group with the largest mean over the other subjects (or folds); None where all are undefined."""
    others = np.delete(choosing, index, axis=-1).mean(-1)
    if not np.isfinite(others).any():
        return None
    fit, group = np.unravel_index(np.nanargmax(others), others.shape)
    return int(fit), int(group)


def _part(
    inputs: Inputs,
    analysis: Analysis,
    groups: Groups,
    fits: list[int],
    scoring: np.ndarray,
    cell: tuple[int, int] | None,
    name: str,
) -> dict[str, Any]:
    """One subject (or fold), scored where the others chose. scoring: (n_fits, n_groups)"""
    if cell is None:
        return {"part": name, "value": None, **where(inputs, analysis, groups, fits[0], 0)}
    fit, group = cell
    return {"part": name, "value": finite(scoring[fit, group]), **where(inputs, analysis, groups, fits[fit], group)}


def ranking(plan: Plan, inputs: Inputs, analysis: Analysis, grid: Grid, groups: Groups) -> list[dict[str, Any]]:
    """Models by held-out score, each choosing among its own layers. Empty where nothing can be held out, or the measure is biased."""
    if is_biased(analysis):
        return []
    ranked = []
    for model in dict.fromkeys(inputs.fits[fit].model for fit in analysis.fits):
        own = [place for place, fit in enumerate(analysis.fits) if inputs.fits[fit].model == model]
        found = held_out(plan, inputs, analysis, grid, groups, own)
        if found is None:
            return []
        layers = [part["layer"] for part in found["parts"]]
        most = max(dict.fromkeys(layers), key=layers.count)
        ranked.append(
            {
                "model": model,
                "value": found["value"],
                "parts": [part["value"] for part in found["parts"]],
                "layer": most,
                "layer_count": layers.count(most),
            }
        )
    return sorted(ranked, key=lambda one: -np.inf if one["value"] is None else one["value"], reverse=True)
