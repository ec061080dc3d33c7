"""Noise ceilings of RDM comparisons: from how well subjects agree, or halves and quarters of one subject's repetitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import rdm_agreement, rdm_ceilings
from jaxalign.compute.comparators import canonical
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.permute import labellings
from jaxalign.contracts import Design, Patterns, RdmSet, Recording, RunConfig
from jaxalign.runtime.bounds import Bounds, without_trials
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis
from jaxalign.runtime.rows import n_scored_repetitions
from jaxalign.runtime.tiles import local_design, responses_tile

N_CHANCE = 199
"""Relabellings that tell whether an agreement exceeds chance."""

NOT_RSA = "no ceiling: matrices of a subject have no average whose score would bound this measure"


def best(analysis: Analysis, inputs: Inputs) -> str:
    """The recipe that "auto" stands for: several subjects bound each other; of one, its repetitions do."""
    brain = inputs.brain
    if isinstance(brain, RdmSet) or len(brain) > 1 or brain[0].trials is None:
        return rdm_ceilings.LEAVE_ONE_OUT
    return rdm_ceilings.SPLIT_QUARTER if brain[0].trials.shape[1] >= 4 else rdm_ceilings.SPLIT_HALF


def of_analysis(name: str, analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    """The ceiling of an RDM comparison by one of `RECIPES`.

    Args:
        name: of the recipe.
        analysis: what was scored.
        design: its stimuli.
        run: the request.
        inputs: recordings or given RDMs.
    """
    return RECIPES[name](analysis, design, run, inputs)


def _bounds(
    name: str,
    analysis: Analysis,
    design: Design,
    inputs: Inputs,
    sides: tuple[np.ndarray, np.ndarray],
    above: tuple[np.ndarray, np.ndarray],
    divides: bool = False,
) -> Bounds:
    statistic = analysis.metric.statistics[0]
    return Bounds(
        names={statistic: name},
        low={statistic: sides[0]},
        high={statistic: sides[1]},
        is_above=above[0],
        is_mean_above=above[1],
        divides=divides,
        level="rdm",
        n_stimuli=len(design.rsa_rows),
        n_repetitions=n_scored_repetitions(inputs),
        folds="all scored stimuli at once",
    )


# Between subjects.


def _between_subjects(analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
    """From the agreement of the subjects' RDMs, group by group."""
    n_subjects = len(inputs.brain.names) if isinstance(inputs.brain, RdmSet) else len(inputs.brain)
    if n_subjects < 2:
        kept = without_trials(inputs.brain[0]) if isinstance(inputs.brain, list) else ""
        return Bounds(why_not=f"one subject{kept and ' with ' + kept}, and no other subject to compare with")
    if not isinstance(analysis.metric, Rsa):
        return Bounds(why_not=NOT_RSA)
    comparator = canonical(analysis.metric.comparator)
    # Whether subjects agree above chance is one question; it is asked of ranks where the comparator is another.
    judged = comparator if comparator in ("spearman", "pearson") else "spearman"
    n_stimuli = len(design.rsa_rows)
    rows = labellings(n_stimuli, N_CHANCE, run.seed)[1:]
    of_all = labellings(n_stimuli, N_CHANCE * n_subjects, run.seed + 1)[1:].reshape(N_CHANCE, n_subjects, n_stimuli)
    identity = np.broadcast_to(np.arange(n_stimuli), (1, n_subjects, n_stimuli))
    low, high, is_above, is_mean_above = [], [], [], []
    for rdms in _rdms_of_groups(analysis, design, run, inputs, n_subjects):
        bounds = rdm_agreement.leave_one_subject_out(rdms, judged)
        agreement = bounds[0]
        if comparator != judged:
            bounds = jax.device_get(rdm_ceilings.leave_one_out(jnp.asarray(rdms.T), comparator))
        chance = rdm_agreement.chance_agreement(rdms, judged, rows)
        low.append(bounds[0])
        high.append(bounds[1])
        is_above.append(agreement > np.quantile(chance, 0.95, axis=0))
        together = rdm_agreement.mean_agreement(rdms, judged, np.concatenate([identity, of_all]))
        is_mean_above.append(together[0] > np.quantile(together[1:], 0.95))
    sides, above = (np.stack(low), np.stack(high)), (np.stack(is_above), np.array(is_mean_above))
    return _bounds(rdm_ceilings.LEAVE_ONE_OUT, analysis, design, inputs, sides, above)


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


# Within a subject.


@dataclass(frozen=True)
class _Agreement:
    """How alike RDMs of parts of the repetitions are, of one subject at one time bin.

    Attributes:
        half, quarter: mean over splits; quarter is NaN where there are none.
        is_above: whether the halves agree above chance.
    """

    half: float
    quarter: float
    is_above: bool


def _split(name: str, n_parts: int) -> Callable[[Analysis, Design, RunConfig, Inputs], Bounds]:
    """A recipe from that many parts of each subject's repetitions."""

    def make(analysis: Analysis, design: Design, run: RunConfig, inputs: Inputs) -> Bounds:
        why_not = _why_not(n_parts, analysis, design, inputs)
        if why_not:
            return Bounds(why_not=why_not)
        assert isinstance(inputs.brain, list)
        found = [list(_agreements(recording, n_parts, analysis, design, run)) for recording in inputs.brain]
        half, quarter, above = (
            np.array([[getattr(one, field) for one in subject] for subject in found]).T
            for field in ("half", "quarter", "is_above")
        )
        n_all = np.array([one.trials.shape[1] for one in inputs.brain if one.trials is not None])
        if n_parts == 4:
            columns = zip(half.T, quarter.T, n_all.tolist(), strict=True)
            bound = np.stack([rdm_ceilings.two_terms(one, four, (n // 4, n // 2, n)) for one, four, n in columns], 1)
        else:
            reliability = rdm_ceilings.spearman_brown(np.where(half > 0, half, np.nan), n_all / (n_all // 2))
            bound = np.sqrt(reliability)
        # The mean over subjects is above chance where most of them are: at .05 each, chance gives half of them rarely.
        return _bounds(
            name, analysis, design, inputs, (bound, bound), (above, above.mean(1) > 0.5), divides=n_parts == 4
        )

    return make


def _why_not(n_parts: int, analysis: Analysis, design: Design, inputs: Inputs) -> str:
    if not isinstance(analysis.metric, Rsa):
        return NOT_RSA
    if isinstance(inputs.brain, RdmSet):
        return "given RDMs have no repetitions to split"
    comparator = canonical(analysis.metric.comparator)
    if comparator not in ("spearman", "pearson"):
        return f"halves of repetitions bound correlations of RDMs, and the comparator is {comparator}"
    for recording in inputs.brain:
        kept = without_trials(recording)
        if recording.trials is None:
            return f"subject {recording.subject} has {kept}, and {n_parts} single trials are needed"
        has = recording.trials.shape[1]
        if has < n_parts:
            return f"subject {recording.subject} has {has} single trials per stimulus, and {n_parts} are needed"
        n_kept, n_scored = len(recording.trials), len(design.rsa_rows)
        counts = recording.n_repetitions[design.rsa_rows]
        if n_kept != n_scored or (counts != has).any():
            return (
                f"no ceiling: {has} trials of {n_kept} stimuli are kept, and the score is of {n_scored} stimuli with "
                f"{counts.min()} to {counts.max()} repetitions"
            )
    return ""


def _agreements(
    recording: Recording, n_parts: int, analysis: Analysis, design: Design, run: RunConfig
) -> Iterator[_Agreement]:
    """One time bin after the other."""
    trials = recording.trials
    assert trials is not None
    metric, local = analysis.metric, local_design(analysis, design)
    assert isinstance(metric, Rsa)
    comparator = canonical(metric.comparator)
    rng = np.random.Generator(np.random.Philox(run.seed))
    orders = [rng.permutation(trials.shape[1]) for _ in range(run.ceiling.n_splits)]
    rows = labellings(len(design.rsa_rows), N_CHANCE, run.seed)[1:]
    rdms_of = jax.jit(lambda patterns: metric.responses_state(Patterns(patterns), local).values)
    for time in range(trials.shape[3]):
        at_time = trials[..., time]
        half = np.asarray(rdms_of(_parts(at_time, orders, 2))).T.reshape(len(orders), 2, -1)
        agree = [rdm_agreement.agreement(pair, comparator) for pair in half]
        chance = rdm_agreement.chance_agreement(half[0], comparator, rows)[:, 0]
        quarter = np.nan
        if n_parts == 4:
            parts = np.asarray(rdms_of(_parts(at_time, orders, 4))).T.reshape(len(orders), 4, -1)
            quarter = float(np.mean([rdm_agreement.agreement(four, comparator) for four in parts]))
        yield _Agreement(float(np.mean(agree)), quarter, bool(np.mean(agree) > np.quantile(chance, 0.95)))


def _parts(at_time: np.ndarray, orders: list[np.ndarray], n_parts: int) -> np.ndarray:
    """Averages of disjoint equal parts of the repetitions. (n_stimuli, R, n_channels) -> (n_stimuli, n_channels, n_orders * n_parts)"""
    size = at_time.shape[1] // n_parts
    means = [
        at_time[:, order[part * size : (part + 1) * size]].mean(1, dtype=np.float64)
        for order in orders
        for part in range(n_parts)
    ]
    return np.stack(means, axis=2).astype(np.float32)


RECIPES: Mapping[str, Callable[[Analysis, Design, RunConfig, Inputs], Bounds]] = {
    rdm_ceilings.LEAVE_ONE_OUT: _between_subjects,
    rdm_ceilings.SPLIT_HALF: _split(rdm_ceilings.SPLIT_HALF, 2),
    rdm_ceilings.SPLIT_QUARTER: _split(rdm_ceilings.SPLIT_QUARTER, 4),
}
"""Recipes for scores of RDMs."""
