"""Tests over subjects: sign flips of null-calibrated scores, corrected by the maximum over cells, plain and in steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.bootstrap import GENERALISES, MIN_SUBJECTS
from jaxalign.compute.measures import MEASURES
from jaxalign.compute.multiplicity import check_tail, exact_p, flip_floor, in_steps
from jaxalign.compute.permute import TIE
from jaxalign.compute.stats import dot
from jaxalign.errors import nearest

STATISTICS = ("t", "mean")
CENTRED = (
    "z", "pearson_r", "pearson", "corr", "spearman", "rsa", "rho_a", "tau_a", "tau_b", "kendall", "corr_cov", "partial",
    "partial_spearman", *(name for name, measure in MEASURES.items() if not measure.is_biased),
)  # fmt: skip
"""Scores that are 0 on average where nothing is shared, so that flipping their signs is a null; `cka` is the debiased one."""

BIASED = ("cosine", "cosine_cov", "r2", *(name for name, measure in MEASURES.items() if measure.is_biased))
"""Scores that are not 0 on average where nothing is shared; calibrated by their null they may be tested."""

VALUES_PER_CHUNK = 1 << 22
"""Statistics held at once, flips times cells: 16 MB in float32."""


class Flips(NamedTuple):
    """Signs of the subjects under each flip; row 0 is the observed labelling.

    Attributes:
        signs: (n_flips, n_subjects) int8, 1 or -1.
        is_exhaustive: all 2 ** n_subjects flips are there, each once.
    """

    signs: np.ndarray
    is_exhaustive: bool


class GroupTest(NamedTuple):
    """A test over subjects in every cell, float64 p; NaN where the statistic is undefined.

    Attributes:
        statistic: (n_cells,), one-sample t or mean over subjects.
        p: (n_cells,), uncorrected.
        p_corrected: (n_cells,), by the maximum over the cells.
        p_stepdown: (n_cells,), by the step-down maximum; never above p_corrected.
        floor: (n_cells,), the smallest p that the flips of the cell's subjects can give.
        n_subjects: (n_cells,) int32, subjects with a score in the cell.
        wording: what the result generalises to, or why it says little.
    """

    statistic: np.ndarray
    p: np.ndarray
    p_corrected: np.ndarray
    p_stepdown: np.ndarray
    floor: np.ndarray
    n_subjects: np.ndarray
    wording: str


class FlipCounts(NamedTuple):
    """What `count_flips` keeps of all flips.

    Attributes:
        statistic: (n_cells,), observed; NaN where undefined.
        n_subjects: (n_cells,) int32, subjects with a score.
        count_plain, count_corrected: (n_cells,) int32, flips whose statistic, or maximum over cells, reaches the observed one.
        count_steps: (n_cells,) int32, in ascending order of the statistic, flips whose maximum over the cells up to this
            one reaches it.
        order: (n_cells,) int32, the cells in that order.
        maxima: (n_flips,), largest statistic over cells; index 0 is observed.
    """

    statistic: jax.Array
    n_subjects: jax.Array
    count_plain: jax.Array
    count_corrected: jax.Array
    count_steps: jax.Array
    order: jax.Array
    maxima: jax.Array


class Table(NamedTuple):
    """Scores made ready for flipping.

    Attributes:
        unit: (n_subjects, n_cells), scores over the largest of their cell; 0 where missing.
        largest: (n_cells,), absolute.
        length: (n_cells,), root of the sum of squares of `unit`, which no flip changes.
        n_subjects: (n_cells,) int32, subjects with a score.
        has_spread: (n_cells,) bool, false where all scores have the same size.
    """

    unit: jax.Array
    largest: jax.Array
    length: jax.Array
    n_subjects: jax.Array
    has_spread: jax.Array


def sign_flips(n_subjects: int, n_permutations: int, seed: int) -> Flips:
    """Flips of the subjects' signs: all of them when there are few, else random ones beside the observed labelling.

    Random flip i depends on (seed, scheme, n_subjects, i) alone.

    Args:
        n_subjects: subjects.
        n_permutations: random flips; all 2 ** n_subjects flips are listed when they are no more than this.
        seed: integer.
    Returns:
        Flips; row 0 flips nothing. (2 ** n_subjects, n_subjects) or (n_permutations + 1, n_subjects).
    Raises:
        ValueError: with fewer than 2 subjects.
    """
    if n_subjects < 2:
        raise ValueError(f"{n_subjects} subject: a test over subjects needs at least 2, and says little below 6.")
    if n_subjects < 63 and 2**n_subjects <= n_permutations:
        bits = (np.arange(2**n_subjects)[:, None] >> np.arange(n_subjects)[None, :]) & 1
        return Flips((1 - 2 * bits).astype(np.int8), True)
    signs = np.ones((n_permutations + 1, n_subjects), np.int8)
    for index in range(1, n_permutations + 1):
        key = np.random.SeedSequence([seed, 0x51617, n_subjects, index])
        signs[index] -= 2 * np.random.Generator(np.random.Philox(key)).integers(0, 2, n_subjects, dtype=np.int8)
    return Flips(signs, False)


def check_null_mean(score: str, is_calibrated: bool) -> None:
    """Refuse scores that are not 0 on average under the null: flipping their signs would find everything.

    Args:
        score: name of the score, such as "z", "pearson_r", "spearman" or "cka".
        is_calibrated: each score is (score - null mean) / null SD of its own cell and subject.
    Raises:
        ValueError: for a biased score that is not calibrated, or a name that is not known.
    """
    name = score.replace("-", "_").lower()
    if is_calibrated or name in CENTRED:
        return
    if name not in BIASED:
        raise ValueError(
            f"score={score!r} is not known to be 0 on average where nothing is shared. Calibrate it by its permutation null and give is_calibrated=True. {nearest(name, (*CENTRED, *BIASED))}"
        )
    raise ValueError(
        f"{score} is not 0 on average where nothing is shared, so a sign flip against 0 is no test: linear CKA of pure noise is .27 at 200 stimuli, 4096 features and 17 channels, .45 at 1024 and 63, .73 at 12 stimuli. Subtract the null mean and divide by the null SD of each cell and subject, then give is_calibrated=True."
    )


def check_flips(flips: Flips, n_subjects: int) -> None:
    """Refuse flips of other subjects, and flips without the observed labelling in front."""
    if flips.signs.ndim != 2 or flips.signs.shape[1] != n_subjects or not np.all(flips.signs[0] == 1):
        raise ValueError(
            f"flips have shape {flips.signs.shape} and the scores {n_subjects} subjects: give signs of shape (n_flips, {n_subjects}) whose first row is all 1, the observed labelling."
        )


def wording(n_subjects: int) -> str:
    """What a test over so many subjects generalises to; below 6, what to do instead."""
    if n_subjects >= MIN_SUBJECTS:
        return f"generalises {GENERALISES['subjects']}"
    return f"{n_subjects} subjects: sign flips give no p below 1/{2**n_subjects}. Permute the stimuli of the subject mean, which generalises {GENERALISES['stimuli']}."


def group_test(
    scores: jax.Array,
    flips: Flips,
    *,
    score: str,
    is_calibrated: bool = False,
    statistic: str = "t",
    tail: str = "greater",
) -> GroupTest:
    """Test in each cell whether the scores of the subjects lie above 0, by flipping the signs of whole subjects.

    A cell uses the subjects that have a score in it. With unequal numbers of subjects, or cells of different SD, "t" puts
    the cells on one scale before the maximum; "mean" does not. A cell whose scores all have the same size has no t.

    Args:
        scores: (n_subjects, n_cells), 0 on average under the null; NaN where a subject has none.
        flips: from `sign_flips`, the same for all cells, so that the maximum keeps their correlation.
        score: name of the score, as in `check_null_mean`.
        is_calibrated: the scores are z against their own permutation null.
        statistic: "t", one-sample, or "mean".
        tail: "greater" or "two-sided".
    Returns:
        GroupTest.
    Raises:
        ValueError: for a biased score, an unknown name, or flips of another number of subjects.
    Source: Nichols & Holmes 2002, Human Brain Mapping 15:1; Westfall & Young 1993.
    """
    check_null_mean(score, is_calibrated)
    check_flips(flips, scores.shape[0])
    counts = _count_flips(scores, flips.signs, statistic=statistic, tail=tail)
    return finish(counts, len(flips.signs), tail=tail, n_subjects=scores.shape[0])


def paired_test(
    first: jax.Array,
    second: jax.Array,
    flips: Flips,
    *,
    score: str,
    is_calibrated: bool = False,
    statistic: str = "t",
    tail: str = "two-sided",
) -> GroupTest:
    """Test in each cell whether one model or layer scores differently from another in the same subjects.

    Biased scores are refused as in `group_test`: two layers of different width have different biases.

    Args:
        first: (n_subjects, n_cells), scores of one model or layer.
        second: (n_subjects, n_cells), of the other, by the same score, stimuli and subjects.
        flips: from `sign_flips`.
        score: name of the score, as in `check_null_mean`.
        is_calibrated: the scores are z against their own permutation null.
        statistic: "t", one-sample on the differences, or "mean".
        tail: "two-sided", or "greater" where the first was expected to win.
    Returns:
        GroupTest of first - second; a subject with NaN on either side is left out of the cell.
    Raises:
        ValueError: as in `group_test`, and if shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"first has shape {first.shape} and second {second.shape}: give the same subjects and cells.")
    difference = first - second
    return group_test(difference, flips, score=score, is_calibrated=is_calibrated, statistic=statistic, tail=tail)


def count_flips(scores: jax.Array, signs: jax.Array, *, statistic: str = "t", tail: str = "greater") -> FlipCounts:
    """Count the flips that reach each cell, and keep the maximum over cells of each flip; memory does not grow with flips.

    Args:
        scores: (n_subjects, n_cells); NaN where a subject has no score.
        signs: (n_flips, n_subjects), 1 or -1; row 0 is all 1.
        statistic: "t" or "mean".
        tail: "greater" or "two-sided".
    Returns:
        FlipCounts.
    Raises:
        ValueError: for an unknown name, or signs of another number of subjects.
    """
    check_tail(tail)
    table = prepare(scores, signs, statistic)
    observed = under(table, jnp.ones((1, scores.shape[0]), signs.dtype), statistic)[0]
    is_undefined = jnp.isnan(observed)
    lowest = jnp.where(is_undefined, -jnp.inf, jnp.abs(observed) if tail == "two-sided" else observed)
    threshold = lowest - tie_width(table, observed, statistic)
    order = jnp.argsort(lowest).astype(jnp.int32)

    def of_chunk(chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        rows, is_flip = chunk
        null = under(table, rows, statistic)
        null = jnp.abs(null) if tail == "two-sided" else null
        null = jnp.where(is_undefined[None, :] | ~is_flip[:, None], -jnp.inf, null)
        steps = jax.lax.cummax(null[:, order], axis=1)
        maxima = steps[:, -1]
        found = (null >= threshold[None, :], maxima[:, None] >= threshold[None, :], steps >= threshold[order][None, :])
        counts = (jnp.sum(one, axis=0, dtype=jnp.int32) for one in found)
        return (*counts, maxima)

    plain, corrected, steps, maxima = over_chunks(of_chunk, signs, scores.shape[1])
    plain, corrected, steps = (jnp.sum(one, axis=0, dtype=jnp.int32) for one in (plain, corrected, steps))
    maxima = maxima.reshape(-1)[: signs.shape[0]]
    return FlipCounts(observed, table.n_subjects, plain, corrected, steps, order, maxima)


_count_flips = jax.jit(count_flips, static_argnames=("statistic", "tail"))


def finish(counts: FlipCounts, n_flips: int, *, tail: str, n_subjects: int) -> GroupTest:
    """Turn the counts of all flips into p values.

    Args:
        counts: from `count_flips`.
        n_flips: flips, the observed labelling included.
        tail: the one that was counted.
        n_subjects: subjects of the data, for the wording.
    Returns:
        GroupTest.
    """
    observed = np.asarray(counts.statistic, np.float64)
    is_undefined = np.isnan(observed)

    def p_of(count: jax.Array) -> np.ndarray:
        return np.where(is_undefined, np.nan, exact_p(np.where(is_undefined, 1, count), n_flips))

    used = np.asarray(counts.n_subjects)
    steps = in_steps(np.asarray(counts.count_steps), np.asarray(counts.order), is_undefined, n_flips)
    return GroupTest(
        statistic=observed,
        p=p_of(counts.count_plain),
        p_corrected=p_of(counts.count_corrected),
        p_stepdown=steps,
        floor=np.where(is_undefined, np.nan, flip_floor(n_flips, used, tail)),
        n_subjects=used,
        wording=wording(n_subjects),
    )


# The statistic under a flip.


def prepare(scores: jax.Array, signs: jax.Array, statistic: str) -> Table:
    """Compute what all flips share.

    Args:
        scores: (n_subjects, n_cells); NaN where missing.
        signs: (n_flips, n_subjects).
        statistic: "t" or "mean".
    Returns:
        Table.
    Raises:
        ValueError: for another statistic or shapes that disagree.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r} is not a test statistic. {nearest(statistic, STATISTICS)}")
    if scores.ndim != 2 or signs.ndim != 2 or scores.shape[0] != signs.shape[1]:
        raise ValueError(
            f"scores have shape {scores.shape} and flips {signs.shape}: give (n_subjects, n_cells) and (n_flips, n_subjects), with channels and times in one axis of cells."
        )
    is_missing = jnp.isnan(scores)
    sizes = jnp.where(is_missing, 0, jnp.abs(scores))
    largest = jnp.max(sizes, axis=0)
    smallest = jnp.min(jnp.where(is_missing, jnp.inf, sizes), axis=0)
    unit = jnp.where(is_missing, 0, scores) / jnp.where(largest > 0, largest, 1)[None, :]
    return Table(
        unit=unit,
        largest=largest,
        length=jnp.sqrt(jnp.sum(unit**2, axis=0)),
        n_subjects=jnp.sum(~is_missing, axis=0, dtype=jnp.int32),
        has_spread=largest - smallest > 8 * jnp.finfo(scores.dtype).eps * largest,
    )


def under(table: Table, signs: jax.Array, statistic: str) -> jax.Array:
    """The statistic of every cell under each flip; NaN where undefined.

    The sum over subjects, divided by the largest that it could be, is u in [-1, 1]; t = u sqrt(n - 1) / sqrt(1 - u^2).

    Args:
        table: from `prepare`.
        signs: (n_flips, n_subjects).
        statistic: "t" or "mean".
    Returns:
        (n_flips, n_cells).
    """
    n = table.n_subjects.astype(table.unit.dtype)
    sums = dot(signs.astype(table.unit.dtype), table.unit)
    if statistic == "mean":
        mean = sums * (table.largest / jnp.maximum(n, 1))[None, :]
        return jnp.where((n >= 2)[None, :], mean, jnp.nan)
    u = sums / (jnp.sqrt(n) * jnp.where(table.length > 0, table.length, 1))[None, :]
    left = jnp.maximum((1 - jnp.abs(u)) * (1 + jnp.abs(u)), 4 * jnp.finfo(u.dtype).eps)
    t = u * jnp.sqrt(jnp.maximum(n - 1, 0))[None, :] / jnp.sqrt(left)
    return jnp.where(((n >= 2) & table.has_spread)[None, :], t, jnp.nan)


def tie_width(table: Table, observed: jax.Array, statistic: str) -> jax.Array:
    """How much lower a statistic may be and still count as equal: what a change of u by TIE does to it.

    Args:
        table: from `prepare`.
        observed: (..., n_cells), values of the statistic.
        statistic: "t" or "mean".
    Returns:
        (..., n_cells), NaN where undefined.
    """
    n = jnp.maximum(table.n_subjects, 2).astype(table.unit.dtype)
    shape = (1,) * (observed.ndim - 1) + (-1,)
    if statistic == "mean":
        sd = (table.largest * table.length / n).reshape(shape)
        return TIE * jnp.maximum(jnp.abs(observed), sd)
    steepness = 1 + observed**2 / (n - 1).reshape(shape)
    return TIE * jnp.maximum(1, jnp.abs(observed)) * steepness


def over_chunks(of_chunk: Callable[[tuple[jax.Array, jax.Array]], Any], signs: jax.Array, n_cells: int) -> Any:
    """Apply to chunks of flips one after the other, so that memory is bounded by VALUES_PER_CHUNK.

    Args:
        of_chunk: takes signs (n, n_subjects) and is_flip (n,), false for rows that only fill up the last chunk.
        signs: (n_flips, n_subjects).
        n_cells: statistics of a flip.
    Returns:
        What of_chunk returns, with an axis of chunks in front.
    """
    n_flips = signs.shape[0]
    width = max(1, min(n_flips, VALUES_PER_CHUNK // max(n_cells, 1)))
    padded = jnp.pad(signs, ((0, -n_flips % width), (0, 0)), constant_values=1)
    is_flip = jnp.arange(padded.shape[0]) < n_flips
    return jax.lax.map(of_chunk, (padded.reshape(-1, width, signs.shape[1]), is_flip.reshape(-1, width)))
