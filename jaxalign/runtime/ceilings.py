"""Which noise ceiling each analysis can have, from its own recordings, and why not when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import ceiling, rdm_ceilings
from jaxalign.compute.comparators import canonical
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.permute import labellings
from jaxalign.contracts import Design, RdmSet, RunConfig
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis
from jaxalign.runtime.targets import Tile
from jaxalign.runtime.tiles import local_design, responses_tile

N_CHANCE = 199
"""Relabellings that tell whether the agreement between subjects exceeds chance."""


@dataclass(frozen=True)
class Bounds:
    """Ceilings of the cells of one analysis.

    Attributes:
        names: statistic -> recipe; a statistic that is not named has no ceiling.
        low, high: statistic -> (n_groups, n_subjects).
        is_above: (n_groups, n_subjects), whether the agreement behind a ceiling exceeds chance, one-sided .05.
        is_mean_above: (n_groups,), the same for the mean over subjects.
        why_not: why there is no ceiling; empty when there is.
    """

    names: dict[str, str] = field(default_factory=dict)
    low: dict[str, np.ndarray] = field(default_factory=dict)
    high: dict[str, np.ndarray] = field(default_factory=dict)
    is_above: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    is_mean_above: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
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
        above = self.is_above[tile.groups]
        if n_subjects == 1:
            return low.ravel(), high.ravel(), above.ravel()
        return (
            np.concatenate([low.ravel(), low.mean(1)]),
            np.concatenate([high.ravel(), high.mean(1)]),
            np.concatenate([above.ravel(), self.is_mean_above[tile.groups]]),
        )


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
    halves = np.stack([one.ravel() for _, one in found], axis=1)
    n_stimuli = len(recordings[0].trials)  # type: ignore[arg-type]
    return Bounds(
        names={"pearson_r": ceiling.SPLIT_HALF, "r2": ceiling.SPLIT_HALF_RELIABILITY},
        low={"pearson_r": bound, "r2": bound**2},
        high={"pearson_r": bound, "r2": bound**2},
        is_above=halves > ceiling.critical_r(n_stimuli),
        is_mean_above=halves.mean(1) > ceiling.critical_r(n_stimuli, len(recordings)),
    )


def _between_subjects(analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    """From the agreement of the subjects' RDMs, group by group."""
    n_subjects = len(inputs.brain.names) if isinstance(inputs.brain, RdmSet) else len(inputs.brain)
    if n_subjects < 2:
        single = isinstance(inputs.brain, list) and inputs.brain[0].trials is None
        presented = " with one presentation per stimulus" if single else ""
        return Bounds(why_not=f"one subject{presented}, and no other subject to compare with")
    if not isinstance(analysis.metric, Rsa):
        return Bounds(why_not="no ceiling: subjects' matrices have no average whose score would bound this measure")
    comparator = canonical(analysis.metric.comparator)
    # Whether subjects agree above chance is one question; it is asked of ranks where the comparator is another.
    judged = comparator if comparator in ("spearman", "pearson") else "spearman"
    rows = labellings(len(design.rsa_rows), N_CHANCE, run.seed)[1:]
    low, high, is_above, is_mean_above = [], [], [], []
    for rdms in _rdms_of_groups(analysis, design, run, inputs, n_subjects):
        bounds = ceiling.leave_one_subject_out(rdms, judged)
        agreement = bounds[0]
        if comparator != judged:
            bounds = jax.device_get(rdm_ceilings.leave_one_out(jnp.asarray(rdms.T), comparator))
        chance = ceiling.chance_agreement(rdms, judged, rows)
        low.append(bounds[0])
        high.append(bounds[1])
        is_above.append(agreement > np.quantile(chance, 0.95, axis=0))
        is_mean_above.append(agreement.mean() > np.quantile(chance.mean(1), 0.95))
    statistic = analysis.metric.statistics[0]
    return Bounds(
        names={statistic: ceiling.LEAVE_ONE_SUBJECT_OUT},
        low={statistic: np.stack(low)},
        high={statistic: np.stack(high)},
        is_above=np.stack(is_above),
        is_mean_above=np.array(is_mean_above),
    )


def _rdms_of_groups(
    analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs, n_subjects: int
) -> Iterator[np.ndarray]:
    """RDMs of all subjects, one group (time bin) after the other. -> (n_subjects, n_pairs) each"""
    local = local_design(analysis, design)
    for tile in analysis.tiles:
        given = responses_tile(analysis, inputs, run, tile)
        state = np.asarray(analysis.metric.responses_state(jax.tree.map(jnp.asarray, given), local).values)
        state = state.reshape(len(state), tile.n_padded, n_subjects)[:, : len(tile.groups)]
        for group in range(state.shape[1]):
            yield state[:, group].T
