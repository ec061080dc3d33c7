"""Bootstrap intervals of encoding scores over test stimuli, over subjects, and over both; weights stay fixed."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxalign.compute.stats import centre, dot, pearson, r2, scale
from jaxalign.errors import nearest

METHODS = ("bca", "percentile")
GENERALISES = {
    "stimuli": "to stimuli, not to subjects",
    "subjects": "to subjects, not to stimuli",
    "both": "to subjects and stimuli",
}
"""What an interval speaks of, by what was resampled."""

MIN_SUBJECTS = 6
MIN_STIMULI = 8
MIN_DISTINCT = 3
"""Draws with fewer distinct stimuli of a fold are drawn again: r of two points is 1 or -1 by construction."""

FLAT = 32
"""A resample is constant when its variance is below so many rounding units of its mean square."""


def stimulus_counts(is_test: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """How often each bootstrap sample holds each test stimulus: drawn with replacement within each fold.

    Sample i of a fold depends on (seed, scheme, stimuli of the fold, fold, i) alone.

    Args:
        is_test: (n_folds, n_test) bool, false where padded; one fold for a given test set.
        n_samples: bootstrap samples.
        seed: integer.
    Returns:
        (n_samples, n_folds, n_test) int32; 0 where padded, and each fold keeps its number of stimuli.
    Raises:
        ValueError: if a fold has fewer than 8 test stimuli.
    """
    is_test = np.asarray(is_test, bool)
    sizes = is_test.sum(1)
    if sizes.min() < MIN_STIMULI:
        raise ValueError(
            f"Fold {int(sizes.argmin())} has {int(sizes.min())} test stimuli: a bootstrap over stimuli needs {MIN_STIMULI} in every fold, or resamples hold too few distinct ones. Use fewer folds."
        )
    counts = np.zeros((n_samples, *is_test.shape), np.int32)
    for fold, rows in enumerate(is_test):
        for index in range(n_samples):
            counts[index, fold, rows] = _draw(int(sizes[fold]), MIN_DISTINCT, [seed, 0xB0075, sizes[fold], fold, index])
    return counts


def subject_counts(n_subjects: int, n_samples: int, seed: int) -> np.ndarray:
    """How often each bootstrap sample holds each subject; sample i depends on (seed, scheme, n_subjects, i) alone.

    Args:
        n_subjects: subjects.
        n_samples: bootstrap samples.
        seed: integer.
    Returns:
        (n_samples, n_subjects) int32; rows sum to n_subjects.
    Raises:
        ValueError: with fewer than 6 subjects.
    """
    if n_subjects < MIN_SUBJECTS:
        raise ValueError(
            f"{n_subjects} subjects: a bootstrap over subjects needs {MIN_SUBJECTS}, since fewer cannot show how subjects differ. Resample stimuli and say that the interval generalises to stimuli, not to subjects."
        )
    return np.stack([_draw(n_subjects, 1, [seed, 0xB005B, n_subjects, index]) for index in range(n_samples)])


def _draw(n: int, n_distinct: int, key: list[int]) -> np.ndarray:
    """Counts of n draws from n with replacement, at least so many distinct. -> (n,) int32"""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    while True:
        counts = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.int32)
        if np.count_nonzero(counts) >= n_distinct:
            return counts


# Over stimuli.


def stimulus_scores(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """Pearson r and r2 of the stimuli as they are, mean over folds, never pooled.

    Args:
        responses: (n_folds, n_test, n_targets), the responses of each fold's test stimuli, padded.
        predicted: (n_folds, n_test, n_targets), predictions by the weights of the same fold.
        is_row: (n_folds, n_test) bool, false where padded.
    Returns:
        (n_statistics, n_targets); NaN for a target that is constant in a fold, r 0 for a constant prediction.
    """

    def of_fold(fold: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        rows = fold[2]
        truth, guess = jnp.where(rows[:, None], fold[0], 0), jnp.where(rows[:, None], fold[1], 0)
        return jnp.stack([pearson(truth, guess, rows), r2(truth, guess, rows)])

    return jnp.mean(jax.lax.map(of_fold, (responses, predicted, is_row)), axis=0)


def stimulus_samples(
    responses: jax.Array, predicted: jax.Array, is_row: jax.Array, counts: jax.Array, *, samples_per_chunk: int = 256
) -> jax.Array:
    """Pearson r and r2 of every bootstrap sample of the test stimuli, mean over folds; weights and penalties stay.

    The same counts for two models make their samples paired: subtract them for the interval of a difference. In
    float32, a stimulus 1000 SD away from the others costs two digits in the samples that leave it out.

    Args:
        responses: (n_folds, n_test, n_targets), the responses of each fold's test stimuli, padded.
        predicted: (n_folds, n_test, n_targets), predictions by the weights of the same fold.
        is_row: (n_folds, n_test) bool, false where padded.
        counts: (n_samples, n_folds, n_test) from `stimulus_counts`; ignored where padded.
        samples_per_chunk: samples computed at a time.
    Returns:
        (n_samples, n_statistics, n_targets); NaN where a target is constant among the drawn stimuli of a fold, r 0
        where a prediction is.
    Raises:
        ValueError: if shapes disagree.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap.
    """
    _check(responses, predicted, is_row)
    if counts.shape[1:] != is_row.shape:
        raise ValueError(f"counts are for {counts.shape[1:]} folds and test stimuli, the data have {is_row.shape}.")
    n_samples, chunk = counts.shape[0], min(samples_per_chunk, counts.shape[0])
    table = jax.lax.map(lambda fold: _table(*fold), (responses, predicted, is_row))
    weights = jnp.where(is_row[None], counts, 0).astype(responses.dtype)
    # Whole chunks have one shape; the filling repeats ones and is cut off.
    weights = jnp.pad(weights, ((0, -n_samples % chunk), (0, 0), (0, 0)), constant_values=1)
    chunks = weights.reshape(-1, chunk, *weights.shape[1:])
    samples = jax.lax.map(partial(_mean_over_folds, table), chunks)
    return samples.reshape(-1, *samples.shape[2:])[:n_samples]


def stimulus_influence(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """What each test stimulus adds to r and r2, by leaving it out: the jackknife values of `acceleration`.

    Args:
        responses: (n_folds, n_test, n_targets), the responses of each fold's test stimuli, padded.
        predicted: (n_folds, n_test, n_targets), predictions by the weights of the same fold.
        is_row: (n_folds, n_test) bool, false where padded.
    Returns:
        (n_folds * n_test, n_statistics, n_targets), 0 where padded; NaN where a target is left constant.
    Raises:
        ValueError: if shapes disagree.
    """
    _check(responses, predicted, is_row)

    def of_fold(fold: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        rows = fold[2]
        table = _table(*fold)
        weight = rows.sum().astype(table.dtype) - rows.astype(table.dtype)
        return _influence(_score(jnp.sum(table, axis=0)[None] - table, weight), rows)

    each = jax.lax.map(of_fold, (responses, predicted, is_row)) / responses.shape[0]
    return each.reshape(-1, *each.shape[2:])


def stimulus_intervals(
    responses: jax.Array,
    predicted: jax.Array,
    is_row: jax.Array,
    counts: jax.Array,
    *,
    level: float = 0.95,
    method: str = "bca",
    targets_per_chunk: int = 256,
) -> jax.Array:
    """Interval of r and r2 that generalises to stimuli, not to subjects; samples are dropped chunk by chunk.

    It holds for the weights that were fitted: how scores vary with the training stimuli is not in it. In simulation a
    95 % interval covers r in 94 to 95 % of studies, and r2 with 150 test stimuli too; with 5 folds of 20 it covers r2
    in 88 % (bca) or 92 % (percentile), since resamples of few stimuli understate SS_tot.

    Args:
        responses: (n_folds, n_test, n_targets), the responses of each fold's test stimuli, padded.
        predicted: (n_folds, n_test, n_targets), predictions by the weights of the same fold.
        is_row: (n_folds, n_test) bool, false where padded.
        counts: (n_samples, n_folds, n_test) from `stimulus_counts`.
        level: share of intervals that should hold the true score.
        method: "bca" or "percentile".
        targets_per_chunk: targets computed at a time; memory is n_samples times that.
    Returns:
        (2, n_statistics, n_targets), low and high, as `interval` gives them.
    Raises:
        ValueError: if shapes disagree, or as `interval`.
    """
    _check(responses, predicted, is_row)

    def of_tile(tile: tuple[jax.Array, jax.Array]) -> jax.Array:
        data = (*tile, is_row)
        influence = stimulus_influence(*data) if method == "bca" else None
        return interval(
            stimulus_samples(*data, counts), stimulus_scores(*data), level=level, method=method, influence=influence
        )

    return _over_tiles(of_tile, responses, predicted, targets_per_chunk)


# Over subjects.


def subject_samples(scores: jax.Array, counts: jax.Array) -> jax.Array:
    """Mean score over the subjects of every bootstrap sample.

    Args:
        scores: (n_subjects, ...), one score per subject and cell.
        counts: (n_samples, n_subjects) from `subject_counts`.
    Returns:
        (n_samples, ...); NaN for a cell in which any subject is NaN.
    Raises:
        ValueError: if the counts are for another number of subjects.
    """
    _check_subjects(scores, counts)
    flat = dot(counts.astype(scores.dtype), scores.reshape(scores.shape[0], -1)) / scores.shape[0]
    return flat.reshape(-1, *scores.shape[1:])


def subject_influence(scores: jax.Array) -> jax.Array:
    """What each subject adds to the mean, the jackknife values of `acceleration`. (n_subjects, ...) -> the same"""
    return (scores - jnp.mean(scores, axis=0, keepdims=True)) / scores.shape[0]


def subject_intervals(scores: jax.Array, counts: jax.Array, *, level: float = 0.95, method: str = "bca") -> jax.Array:
    """Interval of the mean over subjects that generalises to subjects, not to stimuli.

    Few subjects make it too short, as they do every bootstrap: in simulation a 95 % interval holds the true mean in
    86 % of studies with 6 subjects, 89 % with 10, 93 % with 24 and 94 % with 60.

    Args:
        scores: (n_subjects, ...), one score per subject and cell.
        counts: (n_samples, n_subjects) from `subject_counts`.
        level: share of intervals that should hold the true mean.
        method: "bca" or "percentile".
    Returns:
        (2, ...), low and high, as `interval` gives them.
    Raises:
        ValueError: if the counts are for another number of subjects, or as `interval`.
    """
    samples = subject_samples(scores, counts)
    return interval(samples, jnp.mean(scores, axis=0), level=level, method=method, influence=subject_influence(scores))


# Over both.


def joint_samples(
    responses: jax.Array,
    predicted: jax.Array,
    is_row: jax.Array,
    counts: jax.Array,
    of_subjects: jax.Array,
) -> jax.Array:
    """Mean r and r2 over resampled subjects, all scored on the same resampled stimuli.

    Args:
        responses: (n_subjects, n_folds, n_test, n_targets), the same test stimuli in every subject, padded.
        predicted: (n_subjects, n_folds, n_test, n_targets), predictions by each subject's weights.
        is_row: (n_folds, n_test) bool, false where padded.
        counts: (n_samples, n_folds, n_test) from `stimulus_counts`.
        of_subjects: (n_samples, n_subjects) from `subject_counts`.
    Returns:
        (n_samples, n_statistics, n_targets); NaN where any subject is NaN.
    Raises:
        ValueError: if shapes disagree.
    Source: Owen 2007, Ann. Appl. Stat. 1:386 (the pigeonhole bootstrap; its variance errs on the large side).
    """
    _check_subjects(responses, of_subjects)
    if len(counts) != len(of_subjects):
        raise ValueError(f"{len(counts)} samples of stimuli and {len(of_subjects)} of subjects: draw as many of both.")
    share = of_subjects.astype(responses.dtype).T / responses.shape[0]

    def add(total: jax.Array, subject: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        truth, guess, weight = subject
        return total + weight[:, None, None] * stimulus_samples(truth, guess, is_row, counts), None

    nothing = jnp.zeros((counts.shape[0], 2, responses.shape[-1]), responses.dtype)
    return jax.lax.scan(add, nothing, (responses, predicted, share))[0]


def joint_intervals(
    responses: jax.Array,
    predicted: jax.Array,
    is_row: jax.Array,
    counts: jax.Array,
    of_subjects: jax.Array,
    *,
    level: float = 0.95,
    method: str = "bca",
    targets_per_chunk: int = 256,
) -> jax.Array:
    """Interval of the mean r and r2 that generalises to subjects and stimuli, given how weights were fitted.

    Args:
        responses: (n_subjects, n_folds, n_test, n_targets), the same test stimuli in every subject, padded.
        predicted: (n_subjects, n_folds, n_test, n_targets), predictions by each subject's weights.
        is_row: (n_folds, n_test) bool, false where padded.
        counts: (n_samples, n_folds, n_test) from `stimulus_counts`.
        of_subjects: (n_samples, n_subjects) from `subject_counts`.
        level: share of intervals that should hold the true mean.
        method: "bca" (acceleration from leaving out each stimulus and each subject) or "percentile".
        targets_per_chunk: targets computed at a time; memory is n_samples times that.
    Returns:
        (2, n_statistics, n_targets), low and high, as `interval` gives them.
    Raises:
        ValueError: if shapes disagree, or as `interval`.
    """

    def of_tile(tile: tuple[jax.Array, jax.Array]) -> jax.Array:
        scores = jax.lax.map(lambda one: stimulus_scores(one[0], one[1], is_row), tile)
        influence = None
        if method == "bca":
            of_stimuli = jax.lax.map(lambda one: stimulus_influence(one[0], one[1], is_row), tile)
            influence = jnp.concatenate([jnp.mean(of_stimuli, axis=0), subject_influence(scores)])
        samples = joint_samples(*tile, is_row, counts, of_subjects)
        return interval(samples, jnp.mean(scores, axis=0), level=level, method=method, influence=influence)

    return _over_tiles(of_tile, responses, predicted, targets_per_chunk)


# From samples to an interval.


def acceleration(influence: jax.Array) -> jax.Array:
    """Skewness of the score, sum(u^3) / 6 sum(u^2)^1.5 over all that was left out once; 0 where nothing matters.

    (n, ...) -> (...)
    """
    largest = jnp.max(jnp.abs(influence), axis=0)
    unit = influence / jnp.where(largest > 0, largest, 1)[None]
    power = jnp.sum(unit**2, axis=0)
    skew = jnp.sum(unit**3, axis=0) / (6 * jnp.where(power == 0, 1, power) ** 1.5)
    return jnp.where(jnp.isnan(largest), jnp.nan, skew)


def interval(
    samples: jax.Array,
    observed: jax.Array,
    *,
    level: float = 0.95,
    method: str = "bca",
    influence: jax.Array | None = None,
) -> jax.Array:
    """Low and high end between which a score lies with the given confidence.

    percentile takes the quantiles of the samples; bca shifts them by the median bias of the samples and by how the
    spread changes with the score (acceleration).

    Args:
        samples: (n_samples, ...), the score or the paired difference of every bootstrap sample.
        observed: (...), the same of the data as they are.
        level: share of intervals that should hold the true score.
        method: "bca" or "percentile".
        influence: (n, ...) from `stimulus_influence` or `subject_influence`, for bca; of a paired difference, the
            difference of both influences.
    Returns:
        (2, ...); NaN where the observed score or any sample is NaN, and for bca where all samples lie on one side of
        the observed score or its correction has a pole.
    Raises:
        ValueError: if the level, the method or the number of samples cannot give an interval, or bca lacks influence.
    Source: Efron 1987, JASA 82:171; Efron & Tibshirani 1993, chapter 14.
    """
    _check_interval(samples.shape[0], level, method, influence is not None)
    tails = jnp.asarray([(1 - level) / 2, (1 + level) / 2], samples.dtype).reshape(2, *[1] * observed.ndim)
    tails = jnp.broadcast_to(tails, (2, *observed.shape))
    if method == "bca" and influence is not None:
        tails = _corrected(tails, samples, observed, acceleration(influence))
    ends = _quantiles(jnp.sort(samples, axis=0), tails)
    is_undefined = jnp.isnan(observed) | jnp.any(jnp.isnan(samples), axis=0) | jnp.any(jnp.isnan(tails), axis=0)
    return jnp.where(is_undefined[None], jnp.nan, ends)


def _corrected(tails: jax.Array, samples: jax.Array, observed: jax.Array, skew: jax.Array) -> jax.Array:
    """Tail probabilities of BCa. (2, ...), (n_samples, ...), (...), (...) -> (2, ...)

    Samples that differ from the observed score by rounding alone count half below and half above.
    """
    slack = 8 * jnp.finfo(samples.dtype).eps * jnp.abs(observed)
    below = jnp.mean((samples < (observed - slack)[None]).astype(samples.dtype), axis=0)
    upto = jnp.mean((samples <= (observed + slack)[None]).astype(samples.dtype), axis=0)
    share = (below + upto) / 2
    bias = ndtri(jnp.where((share > 0) & (share < 1), share, jnp.nan))
    moved = bias[None] + ndtri(tails)
    shrink = 1 - skew[None] * moved
    return ndtr(bias[None] + moved / jnp.where(shrink > 0, shrink, jnp.nan))


def _quantiles(ordered: jax.Array, tails: jax.Array) -> jax.Array:
    """Quantiles with linear interpolation. (n_samples, ...), (2, ...) -> (2, ...)"""
    last = ordered.shape[0] - 1
    place = jnp.where(jnp.isnan(tails), 0, tails) * last
    low = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last)
    part = place - low.astype(place.dtype)
    first = jnp.take_along_axis(ordered, low, axis=0)
    second = jnp.take_along_axis(ordered, jnp.minimum(low + 1, last), axis=0)
    return first + part * (second - first)


def _check_interval(n_samples: int, level: float, method: str, has_influence: bool) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not an interval. {nearest(method, METHODS)}")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a level lies between 0 and 1, such as 0.95.")
    if n_samples < 2 / (1 - level) - 1e-9:
        raise ValueError(
            f"{n_samples} bootstrap samples leave fewer than one in each tail at level={level}. Draw at least {int(np.ceil(2 / (1 - level) - 1e-9))}, better 1000 or more."
        )
    if method == "bca" and not has_influence:
        raise ValueError("method='bca' needs influence=, the jackknife values. Give them, or use method='percentile'.")


# The sums that every sample needs.


def _standard(values: jax.Array, is_row: jax.Array) -> jax.Array:
    """z-scores; constants become 0 and NaN stays. (n, m), (n,) -> (n, m)"""
    sd = scale(values, is_row)
    return jnp.where((sd == 0)[None, :], 0, centre(values, is_row) / jnp.where(sd == 0, 1, sd)[None, :])


def _table(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> jax.Array:
    """What is summed over stimuli: y, p, y^2, p^2, yp of z-scores and the squared residual. (n, m) x 2 -> (n, 6, m)

    Centred and scaled first, so that float32 sums keep their digits whatever the unit and the offset.
    """
    responses, predicted = jnp.where(is_row[:, None], responses, 0), jnp.where(is_row[:, None], predicted, 0)
    y, p = _standard(responses, is_row), _standard(predicted, is_row)
    sd = scale(responses, is_row)
    residual = (responses - predicted) / jnp.where(sd == 0, 1, sd)[None, :]
    return jnp.stack([y, p, y**2, p**2, y * p, residual**2], axis=1)


def _score(sums: jax.Array, weight: jax.Array) -> jax.Array:
    """Pearson r and r2 from weighted sums. (k, 6, m), (k,) -> (k, 2, m)"""
    y, p, yy, pp, yp, residual = jnp.moveaxis(sums / weight[:, None, None], 1, 0)
    of_y, of_p = yy - y**2, pp - p**2
    rounding = FLAT * jnp.finfo(sums.dtype).eps
    of_y = jnp.where(of_y <= rounding * yy, jnp.nan, of_y)
    is_flat = of_p <= rounding * pp
    together = jnp.where(is_flat, 0, yp - y * p)
    r = together / (jnp.sqrt(of_y) * jnp.sqrt(jnp.where(is_flat, 1, of_p)))
    return jnp.stack([r, 1 - residual / of_y], axis=1)


def _mean_over_folds(table: jax.Array, counts: jax.Array) -> jax.Array:
    """Scores of a chunk of samples. (n_folds, n, 6, m), (k, n_folds, n) -> (k, 2, m)"""

    def of_fold(fold: tuple[jax.Array, jax.Array]) -> jax.Array:
        values, weights = fold
        sums = dot(weights, values.reshape(values.shape[0], -1)).reshape(-1, *values.shape[1:])
        return _score(sums, weights.sum(axis=1))

    return jnp.mean(jax.lax.map(of_fold, (table, jnp.moveaxis(counts, 1, 0))), axis=0)


def _influence(left_out: jax.Array, is_row: jax.Array) -> jax.Array:
    """(n - 1) / n of the mean of leave-one-out scores minus each; 0 where padded. (n, ...), (n,) -> (n, ...)"""
    rows = is_row.reshape(-1, *[1] * (left_out.ndim - 1))
    count = is_row.sum().astype(left_out.dtype)
    mean = jnp.sum(jnp.where(rows, left_out, 0), axis=0, keepdims=True) / count
    return jnp.where(rows, (mean - left_out) * (count - 1) / count, 0)


def _check(responses: jax.Array, predicted: jax.Array, is_row: jax.Array) -> None:
    if responses.ndim != 3 or responses.shape != predicted.shape or responses.shape[:2] != is_row.shape:
        raise ValueError(
            f"responses have shape {responses.shape}, predictions {predicted.shape} and rows {is_row.shape}: give (n_folds, n_test, n_targets) twice and (n_folds, n_test). A given test set is one fold."
        )


def _check_subjects(values: jax.Array, counts: jax.Array) -> None:
    if counts.ndim != 2 or values.shape[0] != counts.shape[1]:
        raise ValueError(
            f"{values.shape[0]} subjects have data and counts have shape {counts.shape}: give (n_samples, {values.shape[0]}) counts."
        )


def _over_tiles(
    of_tile: Callable[[tuple[jax.Array, jax.Array]], jax.Array],
    responses: jax.Array,
    predicted: jax.Array,
    width: int,
) -> jax.Array:
    """Apply to tiles of targets one after the other. (..., n_targets) x 2 -> (2, n_statistics, n_targets)"""
    n_targets = responses.shape[-1]
    width = min(width, n_targets)

    def tiles(values: jax.Array) -> jax.Array:
        padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -n_targets % width)])
        return jnp.moveaxis(padded.reshape(*values.shape[:-1], -1, width), -2, 0)

    done = jnp.moveaxis(jax.lax.map(of_tile, (tiles(responses), tiles(predicted))), 0, -2)
    return done.reshape(*done.shape[:-2], -1)[..., :n_targets]
