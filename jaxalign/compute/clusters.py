"""Clusters of neighbouring cells and threshold-free enhancement, with the null of their largest value."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import group
from jaxalign.compute.multiplicity import check_tail, exact_p, flip_floor
from jaxalign.compute.neighbours import connected
from jaxalign.compute.permute import TIE

MAX_STEPS = 10_000
"""Heights of an enhancement; what rises above the last adds nothing, in the observed labelling and in all others."""


class ClusterTest(NamedTuple):
    """Clusters of cells, and the p of each by the largest cluster of every labelling.

    Attributes:
        statistic: (n_cells,), NaN where undefined.
        labels: (n_cells,) int32, the cluster of each cell from 0, the largest mass first; -1 outside.
        mass: (n_clusters,), sum of the statistic over the cluster, negative for a negative cluster.
        p: (n_clusters,) float64, corrected over all clusters.
        p_of_cell: (n_cells,) float64, the p of its cluster; 1 outside, NaN where undefined. A small p speaks of the
            cluster, not of each of its cells.
        null: (n_labellings,), largest absolute mass; index 0 is observed.
        floor: smallest p that so many labellings can give.
    """

    statistic: np.ndarray
    labels: np.ndarray
    mass: np.ndarray
    p: np.ndarray
    p_of_cell: np.ndarray
    null: np.ndarray
    floor: float


class TfceTest(NamedTuple):
    """Enhanced statistics, and the p of each cell by the largest of every labelling.

    Attributes:
        statistic: (n_cells,), before enhancement; NaN where undefined.
        enhanced: (n_cells,), with the sign of the statistic.
        p: (n_cells,) float64, corrected over the cells; NaN where undefined.
        null: (n_labellings,), largest absolute enhanced statistic; index 0 is observed.
        floor: smallest p that so many labellings can give.
    """

    statistic: np.ndarray
    enhanced: np.ndarray
    p: np.ndarray
    null: np.ndarray
    floor: float


class Enhancement(NamedTuple):
    """Settings of the enhancement of Smith & Nichols: a cell gains extent ** E times height ** H at each height below it.

    Attributes:
        start, step: first height and distance of heights, in units of the statistic; step above 0.
        extent_power, height_power: E and H.
    """

    start: float = 0.0
    step: float = 0.2
    extent_power: float = 0.5
    height_power: float = 2.0


DEFAULT = Enhancement()
VALUES_AT_ONCE = 1 << 15
"""Cells times neighbours that are labelled side by side: more leaves the cache of a core."""


def masses(
    statistic: jax.Array, neighbours: jax.Array, *, threshold: float, tail: str = "greater"
) -> tuple[jax.Array, jax.Array]:
    """Sum the statistic over each cluster of cells beyond a threshold.

    Args:
        statistic: (n_cells,); NaN is outside.
        neighbours: (n_cells, max_degree) int32.
        threshold: cells above it form clusters; two-sided, those below its negative form clusters of their own.
        tail: "greater" or "two-sided".
    Returns:
        labels (n_cells,) int32, the smallest index of the cluster, -1 outside; and mass (n_cells,), at that index the
        signed sum, 0 elsewhere.
    """
    side = _side(statistic, threshold, tail)
    label = connected(side, neighbours)
    sums = jnp.zeros_like(statistic).at[label].add(jnp.where(side != 0, statistic, 0))
    return jnp.where(side != 0, label, -1), sums


def tfce(statistic: jax.Array, neighbours: jax.Array, settings: Enhancement, *, tail: str = "greater") -> jax.Array:
    """Enhance each cell by the extent of its cluster at every height below it, summed over heights.

    The sum runs over heights h = start, start + step, ... below the cell of extent ** E * h ** H * dh, with dh the step
    and, at the first height, the height itself. Heights beyond start + 10,000 steps add nothing.

    Args:
        statistic: (n_cells,); NaN is outside.
        neighbours: (n_cells, max_degree) int32.
        settings: heights and powers.
        tail: "greater" or "two-sided", where the cells below 0 are enhanced by clusters of their own.
    Returns:
        (n_cells,), with the sign of the statistic; 0 where undefined.
    Source: Smith & Nichols 2009, NeuroImage 44:83.
    """
    start, step, extent_power, height_power = settings
    known = jnp.where(jnp.isnan(statistic), 0, statistic)
    top = jnp.max(jnp.abs(known) if tail == "two-sided" else known)
    n_heights = jnp.clip(jnp.ceil((top - start) / step), 0, MAX_STEPS).astype(jnp.int32)
    own = jnp.arange(statistic.shape[0], dtype=jnp.int32)

    # From the top down: clusters only grow, so that the labels of one height start the next.
    def lower(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        index, labels, total = state
        height = start + index.astype(known.dtype) * step
        side = _side(known, height, tail)
        labels = connected(side, neighbours, labels)
        extent = jnp.zeros_like(known).at[labels].add((side != 0).astype(known.dtype))
        gain = extent[labels] ** extent_power * height**height_power * jnp.where(index == 0, height, step)
        return index - 1, labels, total + jnp.where(side != 0, gain, 0)

    first = (n_heights - 1, own, jnp.zeros_like(known))
    return jax.lax.while_loop(lambda state: state[0] >= 0, lower, first)[2] * jnp.sign(known)


def _side(statistic: jax.Array, threshold: float | jax.Array, tail: str) -> jax.Array:
    """1 above the threshold, -1 below its negative, 0 between; NaN is 0. (n_cells,) -> (n_cells,) int8"""
    above = (statistic > threshold).astype(jnp.int8)
    return above - (statistic < -threshold).astype(jnp.int8) if tail == "two-sided" else above


# Tests.


def cluster_test(
    scores: jax.Array,
    flips: group.Flips,
    neighbours: np.ndarray,
    *,
    threshold: float,
    score: str,
    is_calibrated: bool = False,
    statistic: str = "t",
    tail: str = "greater",
) -> ClusterTest:
    """Test clusters of cells over subjects, by flipping the signs of whole subjects.

    Args:
        scores: (n_subjects, n_cells), 0 on average under the null; NaN where a subject has none.
        flips: from `group.sign_flips`.
        neighbours: (n_cells, max_degree) int32 from jaxalign.compute.neighbours.
        threshold: of the statistic, above 0 and chosen before seeing the data, such as `t_threshold` gives.
        score: name of the score, as in `group.check_null_mean`.
        is_calibrated: the scores are z against their own permutation null.
        statistic: "t", one-sample, or "mean".
        tail: "greater" or "two-sided", where positive and negative clusters are apart.
    Returns:
        ClusterTest.
    Raises:
        ValueError: for a biased score, a threshold below 0, or shapes that disagree.
    Source: Maris & Oostenveld 2007, J Neurosci Methods 164:177.
    """
    group.check_null_mean(score, is_calibrated)
    group.check_flips(flips, scores.shape[0])
    _check(scores.shape[1], neighbours, threshold, tail)
    observed, width, null = _flip_maxima(
        scores, flips.signs, neighbours, threshold, settings=None, statistic=statistic, tail=tail
    )
    floor = flip_floor(len(flips.signs), scores.shape[0], tail)
    return _finish_clusters(observed, width, null, neighbours, threshold, tail)._replace(floor=float(floor))


def tfce_test(
    scores: jax.Array,
    flips: group.Flips,
    neighbours: np.ndarray,
    *,
    score: str,
    settings: Enhancement = DEFAULT,
    is_calibrated: bool = False,
    statistic: str = "t",
    tail: str = "greater",
) -> TfceTest:
    """Test every cell over subjects after enhancing it by the clusters that it lies in.

    Args:
        scores: (n_subjects, n_cells), 0 on average under the null; NaN where a subject has none.
        flips: from `group.sign_flips`.
        neighbours: (n_cells, max_degree) int32 from jaxalign.compute.neighbours.
        score: name of the score, as in `group.check_null_mean`.
        settings: heights and powers of the enhancement.
        is_calibrated: the scores are z against their own permutation null.
        statistic: "t", one-sample, or "mean".
        tail: "greater" or "two-sided".
    Returns:
        TfceTest.
    Raises:
        ValueError: for a biased score, a step that is not above 0, or shapes that disagree.
    Source: Smith & Nichols 2009, NeuroImage 44:83.
    """
    group.check_null_mean(score, is_calibrated)
    group.check_flips(flips, scores.shape[0])
    _check(scores.shape[1], neighbours, settings.start, tail, settings.step)
    observed, _, null = _flip_maxima(
        scores, flips.signs, neighbours, 0.0, settings=settings, statistic=statistic, tail=tail
    )
    floor = flip_floor(len(flips.signs), scores.shape[0], tail)
    return _finish_tfce(observed, null, neighbours, settings, tail)._replace(floor=float(floor))


def clusters_of_null(
    null: jax.Array, neighbours: np.ndarray, *, threshold: float, tail: str = "greater"
) -> ClusterTest:
    """Test clusters of cells under relabelled stimuli: the scores of one subject, or the mean over subjects.

    Args:
        null: (n_permutations + 1, n_cells), z of each cell against its own null; row 0 is observed.
        neighbours: (n_cells, max_degree) int32.
        threshold: of z, at or above 0.
        tail: "greater" or "two-sided".
    Returns:
        ClusterTest.
    Raises:
        ValueError: for a threshold below 0 or shapes that disagree.
    Source: Maris & Oostenveld 2007, J Neurosci Methods 164:177.
    """
    _check(null.shape[1], neighbours, threshold, tail)
    maxima = _null_maxima(null, neighbours, threshold, settings=None, tail=tail)
    width = TIE * jnp.maximum(1, jnp.abs(null[0]))
    return _finish_clusters(null[0], width, maxima, neighbours, threshold, tail)


def tfce_of_null(
    null: jax.Array, neighbours: np.ndarray, *, settings: Enhancement = DEFAULT, tail: str = "greater"
) -> TfceTest:
    """Test every enhanced cell under relabelled stimuli: the scores of one subject, or the mean over subjects.

    Args:
        null: (n_permutations + 1, n_cells), z of each cell against its own null; row 0 is observed.
        neighbours: (n_cells, max_degree) int32.
        settings: heights and powers of the enhancement.
        tail: "greater" or "two-sided".
    Returns:
        TfceTest.
    Raises:
        ValueError: for a step that is not above 0 or shapes that disagree.
    Source: Smith & Nichols 2009, NeuroImage 44:83.
    """
    _check(null.shape[1], neighbours, settings.start, tail, settings.step)
    maxima = _null_maxima(null, neighbours, 0.0, settings=settings, tail=tail)
    return _finish_tfce(null[0], maxima, neighbours, settings, tail)


def t_threshold(n_subjects: int, *, level: float = 0.05, tail: str = "greater") -> float:
    """One-sample t whose p by Student's distribution is the level; two-sided, half of it lies on each side.

    Args:
        n_subjects: subjects.
        level: p, between 0 and 1.
        tail: "greater" or "two-sided".
    Returns:
        t, at or above 0.
    Raises:
        ValueError: with fewer than 2 subjects, or a level that is not between 0 and 1, or above .5 for "greater".
    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4.
    """
    check_tail(tail)
    if n_subjects < 2 or not 0 < level < 1 or (tail == "greater" and level > 0.5):
        raise ValueError(
            f"{n_subjects} subjects at level={level}: give at least 2 subjects and a level between 0 and 1, at most .5 for a one-sided threshold, such as 0.05."
        )
    degrees = n_subjects - 1
    outside = level if tail == "two-sided" else 2 * level
    low, high = 0.0, np.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(middle, degrees) > outside else (low, middle)
    return float(np.sqrt(degrees) * np.tan(low))


def _beyond(angle: float, degrees: int) -> float:
    """Probability of |t| > sqrt(degrees) tan(angle), by the finite series for whole degrees of freedom."""
    sine, cosine = np.sin(angle), np.cos(angle)
    if degrees % 2:
        factors = [2 * k / (2 * k + 1) * cosine**2 for k in range(1, (degrees - 1) // 2)]
        series = np.sum(np.cumprod([cosine, *factors])) if degrees > 1 else 0.0
        return float(1 - 2 / np.pi * (angle + sine * series))
    factors = [(2 * k - 1) / (2 * k) * cosine**2 for k in range(1, degrees // 2)]
    return float(1 - sine * np.sum(np.cumprod([1.0, *factors])))


# The largest value of every labelling.


def _largest(
    statistics: jax.Array, neighbours: jax.Array, threshold: float, settings: Enhancement | None, tail: str
) -> jax.Array:
    """Largest absolute mass, or enhanced statistic, of each row; 0 without clusters. (n, n_cells) -> (n,)"""

    def of_row(statistic: jax.Array) -> jax.Array:
        if settings is None:
            return jnp.max(jnp.abs(masses(statistic, neighbours, threshold=threshold, tail=tail)[1]))
        return jnp.max(jnp.abs(tfce(statistic, neighbours, settings, tail=tail)))

    side_by_side = max(1, min(statistics.shape[0], VALUES_AT_ONCE // neighbours.size))
    return jax.lax.map(of_row, statistics, batch_size=side_by_side)


@partial(jax.jit, static_argnames=("settings", "statistic", "tail"))
def _flip_maxima(
    scores: jax.Array,
    signs: jax.Array,
    neighbours: jax.Array,
    threshold: float,
    *,
    settings: Enhancement | None,
    statistic: str,
    tail: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Observed statistic, the width of its ties, and the largest value of each flip. -> (n_cells,), (n_cells,), (n_flips,)"""
    table = group.prepare(scores, signs, statistic)
    observed = group.under(table, jnp.ones((1, scores.shape[0]), signs.dtype), statistic)[0]

    def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _largest(group.under(table, chunk[0], statistic), neighbours, threshold, settings, tail)

    null = group.over_chunks(of_chunk, signs, scores.shape[1])
    return observed, group.tie_width(table, observed, statistic), null.reshape(-1)[: signs.shape[0]]


_null_maxima = jax.jit(_largest, static_argnames=("settings", "tail"))
_masses = jax.jit(masses, static_argnames=("tail",))
_tfce = jax.jit(tfce, static_argnames=("settings", "tail"))


def _finish_clusters(
    observed: jax.Array, width: jax.Array, null: jax.Array, neighbours: np.ndarray, threshold: float, tail: str
) -> ClusterTest:
    """Number the clusters by the size of their mass and give each its p."""
    first, sums = (np.asarray(one) for one in _masses(observed, neighbours, threshold=threshold, tail=tail))
    found = np.unique(first[first >= 0])
    found = found[np.argsort(-np.abs(sums[found]), kind="stable")]
    number = np.full(len(first) + 1, -1, np.int32)
    number[found] = np.arange(len(found))
    labels = number[first]
    mass, maxima = sums[found].astype(np.float64), np.asarray(null, np.float64)
    slack = np.array([np.sum(np.asarray(width, np.float64)[labels == index]) for index in range(len(found))])
    count = _n_reaching(maxima, np.abs(mass) - slack)
    p = exact_p(count, len(maxima))
    statistic = np.asarray(observed)
    p_of_cell = np.where(np.isnan(statistic), np.nan, np.append(p, 1.0)[labels])
    return ClusterTest(statistic, labels, mass, p, p_of_cell, maxima, 1 / len(maxima))


def _finish_tfce(
    observed: jax.Array, null: jax.Array, neighbours: np.ndarray, settings: Enhancement, tail: str
) -> TfceTest:
    """Give each cell the share of labellings whose largest enhanced statistic reaches its own."""
    statistic = np.asarray(observed)
    enhanced = np.asarray(_tfce(observed, neighbours, settings, tail=tail))
    maxima, size = np.asarray(null, np.float64), np.abs(enhanced.astype(np.float64))
    p = np.where(np.isnan(statistic), np.nan, exact_p(_n_reaching(maxima, size * (1 - 10 * TIE)), len(maxima)))
    return TfceTest(statistic, enhanced, p, maxima, 1 / len(maxima))


def _n_reaching(maxima: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return len(maxima) - np.searchsorted(np.sort(maxima), thresholds, side="left")


def _check(n_cells: int, neighbours: np.ndarray, threshold: float, tail: str, step: float = 1.0) -> None:
    check_tail(tail)
    if neighbours.ndim != 2 or neighbours.shape[0] != n_cells:
        raise ValueError(
            f"neighbours have shape {neighbours.shape} and the scores {n_cells} cells: give ({n_cells}, max_degree), with channels, or layers, times time bins flattened in this order."
        )
    if not threshold >= 0 or not step > 0:
        raise ValueError(
            f"threshold or start is {threshold} and step is {step}: a threshold is at or above 0 and a step above 0. For negative clusters use tail='two-sided', or negate the scores."
        )
