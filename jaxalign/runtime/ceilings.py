"""Which noise ceiling each analysis can have, from its own recordings, and why not when it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import ceiling
from jaxalign.contracts import Design, RdmSet, RunConfig
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis, Tile
from jaxalign.runtime.tiles import responses_tile


@dataclass(frozen=True)
class Bounds:
    """Ceilings of the cells of one analysis.

    Attributes:
        names: statistic -> recipe; a statistic that is not named has no ceiling.
        low, high: statistic -> (n_groups, n_subjects).
        agreement: (n_groups, n_subjects) correlation of halves, or with the other subjects.
        chance: agreement that a ceiling must exceed, the one-sided .05 critical value.
        why_not: why there is no ceiling; empty when there is.
    """

    names: dict[str, str] = field(default_factory=dict)
    low: dict[str, np.ndarray] = field(default_factory=dict)
    high: dict[str, np.ndarray] = field(default_factory=dict)
    agreement: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    chance: float = float("inf")
    why_not: str = ""

    def recipe(self, statistic: str, kind: str) -> str | None:
        return self.names.get(statistic) if kind == "cells" else None

    def cells(self, statistic: str, tile: Tile, n_subjects: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low, high and whether above chance for the cells of a tile: targets, then means over subjects."""
        n_groups = len(tile.groups)
        if self.recipe(statistic, tile.kind) is None:
            n_cells = n_groups * n_subjects + (n_groups if n_subjects > 1 else 0)
            return np.full(n_cells, np.nan), np.full(n_cells, np.nan), np.zeros(n_cells, bool)
        low, high = self.low[statistic][tile.groups], self.high[statistic][tile.groups]
        above = self.agreement[tile.groups] > self.chance
        if n_subjects == 1:
            return low.ravel(), high.ravel(), above.ravel()
        return (
            np.concatenate([low.ravel(), low.mean(1)]),
            np.concatenate([high.ravel(), high.mean(1)]),
            np.concatenate([above.ravel(), self.is_above_chance()[tile.groups]]),
        )

    def is_above_chance(self) -> np.ndarray:
        """Whether the mean agreement over subjects is above chance. -> (n_groups,) bool"""
        return self.agreement.mean(1) > self.chance


def of_analysis(analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    """The ceiling that matches the scores of an analysis: same stimuli, repetitions, level and statistic."""
    if analysis.side == "responses":
        return _split_half(analysis, run, inputs)
    return _between_subjects(analysis, design, run, inputs)


def _split_half(analysis: Analysis, run: RunConfig, inputs: Inputs) -> Bounds:
    """From the repetitions of the test stimuli, for scores of a fixed split."""
    recordings = inputs.brain
    assert not isinstance(recordings, RdmSet)
    if any(recording.trials is None or recording.trials.shape[1] < 2 for recording in recordings):
        n_subjects = "one subject" if len(recordings) == 1 else f"{len(recordings)} subjects"
        return Bounds(why_not=f"{n_subjects} with one presentation per stimulus, and no repetition to compare it with")
    if not analysis.metric.uses_folds:
        return Bounds(
            why_not="no ceiling: repetitions are kept for the test stimuli only, and this metric scores all stimuli"
        )
    found = [ceiling.split_half(recording.trials, run.n_ceiling_splits, run.seed) for recording in recordings]  # type: ignore[arg-type]
    bound = np.stack([one.ravel() for one, _ in found], axis=1)
    reliability = bound**2
    return Bounds(
        names={"pearson_r": ceiling.SPLIT_HALF, "r2": ceiling.SPLIT_HALF_RELIABILITY},
        low={"pearson_r": bound, "r2": reliability},
        high={"pearson_r": bound, "r2": reliability},
        agreement=np.stack([one.ravel() for _, one in found], axis=1),
        chance=ceiling.critical_r(recordings[0].trials.shape[0]),  # type: ignore[union-attr]
    )


def _between_subjects(analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    """From the agreement of the subjects' RDMs, group by group."""
    n_subjects = len(inputs.brain.names) if isinstance(inputs.brain, RdmSet) else len(inputs.brain)
    if n_subjects < 2:
        single = isinstance(inputs.brain, list) and inputs.brain[0].trials is None
        presented = " with one presentation per stimulus" if single else ""
        return Bounds(why_not=f"one subject{presented}, and no other subject to compare with")
    comparator = analysis.metric.comparator  # type: ignore[attr-defined]
    low, high = [], []
    for tile in analysis.tiles:
        given = responses_tile(analysis, inputs, run, tile)
        state = np.asarray(analysis.metric.responses_state(jax.tree.map(jnp.asarray, given), design))
        state = state.reshape(len(state), tile.n_padded, n_subjects)[:, : len(tile.groups)]
        for group in range(state.shape[1]):
            bounds = ceiling.leave_one_subject_out(state[:, group].T, comparator)
            low.append(bounds[0])
            high.append(bounds[1])
    lows, highs = np.stack(low), np.stack(high)
    statistic = analysis.metric.statistics[0]
    return Bounds(
        names={statistic: ceiling.LEAVE_ONE_SUBJECT_OUT},
        low={statistic: lows},
        high={statistic: highs},
        agreement=lows,
        # A correlation over pairs: chance is judged by the number of stimuli, since pairs share them.
        chance=ceiling.critical_r(len(design.rsa_rows)),
    )
