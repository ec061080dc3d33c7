"""Noise ceilings of the cells of an analysis: which rows they match, and what a score becomes when it is divided by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.runtime.targets import Tile


def without_trials(recording: Recording) -> str:
    """What there is of repetitions, where no single trials are kept; empty where they are."""
    if recording.trials is not None and recording.trials.shape[1] > 1:
        return ""
    most = int(recording.n_repetitions.max())
    if most <= 1:
        return "one presentation per stimulus"
    return (
        f"averages of up to {most} presentations, of which no single trials were kept (keep_trials=true of the data set or of "
        "its step average keeps them)"
    )


@dataclass(frozen=True)
class Bounds:
    """Ceilings by one recipe for one kind of target of one analysis, or why there are none.

    Attributes:
        names: statistic -> recipe; a statistic that is not named has no ceiling.
        low, high: statistic -> (n_groups, n_subjects).
        is_above: (n_groups, n_subjects), whether the agreement behind a ceiling exceeds chance, one-sided .05.
        is_mean_above: (n_groups,), the same for the mean over subjects.
        divides: the ceiling is an estimate of what a perfect model reaches, and not a range that holds it.
        level: what is compared: "responses" of a target, or "rdm".
        n_stimuli: stimuli that it is taken over.
        n_repetitions: repetitions of the scores that it bounds (harmonic mean where they differ); 0 when unknown.
        folds: test sets that correlations are taken in.
        asked: the recipe that was asked for.
        why_not: why there is no ceiling; empty when there is.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    low: Mapping[str, np.ndarray] = field(default_factory=dict)
    high: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_above: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    is_mean_above: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    divides: bool = False
    level: str = ""
    n_stimuli: int = 0
    n_repetitions: float = 0.0
    folds: str = ""
    asked: str = ""
    why_not: str = ""

    def recipe(self, statistic: str) -> str | None:
        """The recipe of a statistic's ceiling; None without one."""
        return self.names.get(statistic)

    def cells(self, statistic: str, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low, high and whether above chance, of some groups: targets, then means over subjects.

        Args:
            statistic: one of those that have a ceiling.
            groups: (n,) indices.
        Returns:
            (n_cells,) each; the ceiling of the mean over subjects is the mean of theirs.
        """
        low, high, above = self.low[statistic][groups], self.high[statistic][groups], self.is_above[groups]
        if low.shape[1] == 1:
            return low.ravel(), high.ravel(), above.ravel()
        return (
            np.concatenate([low.ravel(), low.mean(1)]),
            np.concatenate([high.ravel(), high.mean(1)]),
            np.concatenate([above.ravel(), self.is_mean_above[groups]]),
        )

    def normalised(self, value: np.ndarray, low: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Scores over their ceiling; NaN where it does not divide, is not above chance, or is undefined. (n,) each

        For r the ceiling is that of r, for r2 the reliability, so that a perfect model reaches 1 in both. Nothing is clipped.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(above & (low > 0) & self.divides, value / low, np.nan)

    def at(self, statistic: str, group: int) -> dict[str, Any]:
        """The ceiling of the mean over subjects at one group, as values of the summary; null where there is none."""
        if self.recipe(statistic) is None:
            return {"ceiling_low": None, "ceiling_high": None, "is_ceiling_above_chance": False}
        low, high = (float(side[statistic][group].mean()) for side in (self.low, self.high))
        return {
            "ceiling_low": low if np.isfinite(low) else None,
            "ceiling_high": high if np.isfinite(high) else None,
            "is_ceiling_above_chance": bool(self.is_mean_above[group]),
        }


@dataclass(frozen=True)
class Ceilings:
    """All ceilings of one analysis.

    Attributes:
        kinds: kind of target -> ceilings in the order of the recipes that were asked for.
        is_divided: whether scores are divided by them, in a column of its own.
    """

    kinds: Mapping[str, tuple[Bounds, ...]]
    is_divided: bool = False

    def of(self, kind: str, statistic: str) -> Bounds:
        """The first that a statistic has, which is the one in its rows; else the first, which says why not."""
        found = self.kinds[kind]
        return next((one for one in found if one.recipe(statistic) is not None), found[0])

    def columns(self, kind: str, statistic: str, tile: Tile, value: np.ndarray) -> dict[str, Any]:
        """Columns of the table for the cells of a tile. value: (n_cells,)"""
        bounds = self.of(kind, statistic)
        recipe = bounds.recipe(statistic)
        nothing = np.full(len(value), np.nan)
        if recipe is None:
            low = high = normalised = nothing
            above = np.zeros(len(value), bool)
        else:
            low, high, above = bounds.cells(statistic, tile.groups)
            normalised = bounds.normalised(value, low, above) if self.is_divided else nothing
        return {
            "ceiling_low": low.astype(np.float32),
            "ceiling_high": high.astype(np.float32),
            "is_ceiling_above_chance": above,
            "ceiling_recipe": np.full(len(value), recipe or "none", dtype=object),
            "value_normalised": normalised.astype(np.float32),
        }
