"""Noise ceilings of RDM comparisons: how well the average of subjects, or of halves of the data, agrees with each."""

from itertools import combinations
from math import comb

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import resampled, stats
from jaxalign.compute.comparators import canonical
from jaxalign.compute.gram import n_stimuli_of
from jaxalign.compute.kendall import VARIANTS, kendall
from jaxalign.compute.resampled import RANKED, Similarity
from jaxalign.compute.stats import dot
from jaxalign.contracts import Array

LEAVE_ONE_OUT = "leave_one_subject_out_rdm"
CROSS_VALIDATED = "cross_validated_rdm"
SPLIT_HALF = "split_half_rdm_spearman_brown_sqrt"
SPLIT_HALF_RELIABILITY = "split_half_rdm_spearman_brown"
SPLIT_QUARTER = "split_quarter_rdm_two_terms_sqrt"
OF_RDMS = (LEAVE_ONE_OUT, SPLIT_HALF, SPLIT_QUARTER)
"""Names of the recipes, as tables write them."""


def leave_one_out(data: jax.Array, comparator: str, *, rounding: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Bounds from how well subjects agree: each with the average of the others (low), and of all (high).

    Before they are averaged, RDMs are scaled so that the average does best by the comparator: to variance 1 (pearson,
    corr_cov), to mean square 1 (cosine, cosine_cov) or to ranks (the others). For spearman and rho-a the average does
    best among all RDMs before it is ranked again; for tau it is an approximation.

    Args:
        data: (n_pairs, n_subjects) dissimilarities.
        comparator: any of `comparators.COMPARATORS`.
        rounding: values that differ by no more than this share of the largest of their RDM are ties (ranks, tau).
    Returns:
        low (n_subjects,), high (n_subjects,); their means are the bounds for the mean over subjects.
    Raises:
        ValueError: with fewer than 2 subjects or an unknown comparator.
    Source: Nili et al. 2014, PLoS Comput. Biol. 10:e1003553.
    """
    name = canonical(comparator)
    _check_subjects(data.shape[1])
    once = jnp.ones(data.shape[1], jnp.int32)
    if name in VARIANTS:
        return _tau_bounds(data, name, rounding)
    if name in RANKED:
        weights = jnp.ones(data.shape[0], jnp.int32)
        ranks = resampled.doubled_ranks(resampled.orders(data, rounding), weights, data.dtype)
        return ranked_bounds(ranks, resampled.unit_ranks(ranks, weights, data.dtype), weights, once, name)
    all_of_them = jnp.ones((1, n_stimuli_of(data.shape[0])), jnp.int32)
    found = resampled.similarity(data[:, :0], data, all_of_them, name)
    low, high = bounds(found, once[None])
    return low[0], high[0]


def _check_subjects(n_subjects: int) -> None:
    if n_subjects < 2:
        raise ValueError(f"{n_subjects} subject: a leave-one-subject-out ceiling needs at least 2.")


def bounds(found: Similarity, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both bounds of every subject under samples of stimuli and subjects; a subject is left out with all its copies.

    Args:
        found: Similarity of k samples of stimuli.
        times: (k, n_subjects), how often each sample holds each subject.
    Returns:
        low (k, n_subjects), high (k, n_subjects), of no meaning for subjects that were not drawn; with one distinct
        subject nobody is left, and low is high.
    """
    parts = found.length / found.scale * times.astype(found.length.dtype)
    n_subjects = times.shape[1]
    with_others = parts[:, None, :] * (1 - jnp.eye(n_subjects, dtype=parts.dtype))[None]
    is_alone = jnp.sum(times > 0, axis=1) == 1
    high = _with_average(found.within, parts[:, None, :])
    low = _with_average(found.within, with_others)
    low = jnp.diagonal(low, axis1=1, axis2=2)
    return jnp.where(is_alone[:, None], high[:, 0], low), high[:, 0]


def _with_average(within: jax.Array, parts: jax.Array) -> jax.Array:
    """Similarity of weighted averages of subjects with each subject. (k, s, s), (k, a, s) -> (k, a, s)"""
    inner = dot(parts, within)
    square = jnp.sum(inner * parts, axis=2)
    return inner / jnp.sqrt(jnp.where(square > 0, square, jnp.nan))[:, :, None]


def mean_of_drawn(values: jax.Array, times: jax.Array) -> jax.Array:
    """Mean over the distinct subjects that were drawn. (..., n_subjects), (..., n_subjects) -> (...)"""
    is_drawn = times > 0
    total = jnp.sum(jnp.where(is_drawn, values, 0), axis=-1)
    return total / jnp.sum(is_drawn, axis=-1).astype(values.dtype)


# Ranks: the average of ranks is ranked again, among the pairs of the sample.


def ranked_bounds(
    ranks: jax.Array, units: jax.Array, weights: jax.Array, times: jax.Array, comparator: str
) -> tuple[jax.Array, jax.Array]:
    """Both bounds of every subject for spearman or rho-a in one sample.

    Args:
        ranks: (n_subjects, n_pairs) int32 from `resampled.doubled_ranks`.
        units: (n_subjects, n_pairs) from `resampled.unit_ranks`.
        weights: (n_pairs,) int32, how often the sample holds each pair.
        times: (n_subjects,) int32, how often it holds each subject.
        comparator: "spearman" or "rho-a".
    Returns:
        low (n_subjects,), high (n_subjects,), as `bounds`.
    """
    n_subjects = ranks.shape[0]
    total = jnp.sum(times[:, None] * ranks, axis=0, dtype=jnp.int32)
    squares = jnp.sum(weights.astype(units.dtype)[None, :] * units**2, axis=1)
    high = _with_ranked(total, units, squares, weights, n_subjects, comparator)

    def left_out(ours: jax.Array, own: jax.Array, square: jax.Array, often: jax.Array) -> jax.Array:
        return _with_ranked(total - often * ours, own[None], square[None], weights, n_subjects, comparator)[0]

    low = jax.vmap(left_out)(ranks, units, squares, times)
    is_alone = jnp.sum(times > 0) == 1
    return jnp.where(is_alone, high, low), high


def _with_ranked(
    keys: jax.Array, units: jax.Array, squares: jax.Array, weights: jax.Array, n_subjects: int, comparator: str
) -> jax.Array:
    """Rank an average in a sample and compare it with subjects. (n_pairs,) int32, (s, n_pairs), (s,) -> (s,)

    Everything is summed in the order of the average, so that nothing has to be sorted back.
    """
    ordered, place = _sorted(keys, 2 * n_subjects * keys.shape[0])
    drawn = weights[place]
    upto = jnp.cumsum(drawn, dtype=jnp.int32)
    is_new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    is_last = jnp.concatenate([is_new[1:], jnp.ones(1, bool)])
    below = jax.lax.cummax(jnp.where(is_new, upto - drawn, 0))
    through = jax.lax.cummin(jnp.where(is_last, upto, jnp.iinfo(jnp.int32).max), reverse=True)
    unit = resampled.unit_ranks(below + through, weights, units.dtype)
    beside = drawn.astype(unit.dtype) * unit
    cross = jnp.sum(units[:, place] * beside[None, :], axis=1)
    return resampled.divide_ranks(cross, jnp.sum(beside * unit)[None], squares, weights, comparator)


def _sorted(keys: jax.Array, largest: int) -> tuple[jax.Array, jax.Array]:
    """Sort whole numbers up to `largest`, and say where each stood. (n,) int32 -> (n,), (n,) int32

    Key and place share one 32-bit number where they fit: sorting single numbers is four times faster on CPU.
    """
    places = jnp.arange(keys.shape[0], dtype=jnp.int32)
    bits = keys.shape[0].bit_length()
    if largest.bit_length() + bits > 31:
        ordered, place = jax.lax.sort((keys, places), num_keys=1)
        return ordered, place
    packed = jnp.sort(keys * 2**bits + places)
    return packed >> bits, packed & (2**bits - 1)


def _tau_bounds(data: jax.Array, comparator: str, rounding: float) -> tuple[jax.Array, jax.Array]:
    """Bounds of Kendall's tau from averages of ranks. (n_pairs, n_subjects) -> (n_subjects,), (n_subjects,)"""
    ranks = resampled.doubled_ranks(resampled.orders(data, rounding), jnp.ones(data.shape[0], jnp.int32), data.dtype)
    total = jnp.sum(ranks, axis=0, dtype=jnp.int32)
    # Dense places keep the ties of whole numbers in any dtype.
    averages = jnp.concatenate([total[None] - ranks, total[None]]).T
    places = jax.vmap(lambda column: jnp.searchsorted(jnp.sort(column), column), in_axes=1, out_axes=1)(averages)
    tau = kendall(places.astype(data.dtype), ranks.T.astype(data.dtype), comparator)
    return jnp.diagonal(tau), tau[-1]


# Held-out stimuli.


def cross_validated(
    data: jax.Array,
    is_test_stimulus: jax.Array,
    is_test_subject: jax.Array,
    comparator: str,
    *,
    rounding: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Bounds on held-out stimuli of held-out subjects: with the average of the other subjects (low), and of all (high).

    The low average is scaled, or ranked, on the pairs of the held-out stimuli; the high one on all pairs. A fold
    without other subjects (all are held out) takes all of them for the low bound too: it is then no bound from below.

    Args:
        data: (n_pairs, n_subjects) dissimilarities.
        is_test_stimulus: (n_folds, n_stimuli) bool; all true where stimuli are not held out.
        is_test_subject: (n_folds, n_subjects) bool; all true where subjects are not held out.
        comparator: any of `resampled.COMPARATORS`.
        rounding: values that differ by no more than this share of the largest of their RDM are ties (ranks).
    Returns:
        low (n_folds,), high (n_folds,), mean over the held-out subjects; NaN with fewer than 3 held-out stimuli.
    Raises:
        ValueError: if shapes disagree or for tau.
    Source: Schutt et al. 2023, eLife 12:e82566.
    """
    name = resampled.canonical(comparator)
    n_stimuli = n_stimuli_of(data.shape[0])
    wanted = ((is_test_stimulus.shape[0], n_stimuli), (is_test_stimulus.shape[0], data.shape[1]))
    if (is_test_stimulus.shape, is_test_subject.shape) != wanted:
        raise ValueError(
            f"Folds have shapes {is_test_stimulus.shape} and {is_test_subject.shape}: give (n_folds, {n_stimuli}) stimuli and (n_folds, {data.shape[1]}) subjects."
        )
    is_train = jnp.where(jnp.all(is_test_subject, axis=1, keepdims=True), is_test_subject, ~is_test_subject)
    counts = is_test_stimulus.astype(jnp.int32)
    if name in RANKED:
        low, high = _ranked_folds(data, counts, is_train, name, rounding)
    else:
        low, high = _moment_folds(data, counts, is_train, name)
    enough = jnp.sum(counts, axis=1) >= 3
    times = is_test_subject.astype(jnp.int32)
    return tuple(jnp.where(enough, mean_of_drawn(bound, times), jnp.nan) for bound in (low, high))  # type: ignore[return-value]


def _moment_folds(data: jax.Array, counts: jax.Array, is_train: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """Bounds of every subject in every fold. (n_pairs, s), (f, n), (f, s) -> (f, s), (f, s)"""
    found = resampled.similarity(data[:, :0], data, counts, name)
    everything = resampled.similarity(data[:, :0], data, jnp.ones_like(counts[:1]), name)
    of_others = found.length / found.scale * is_train.astype(data.dtype)
    of_all = found.length / everything.scale
    low, high = (_with_average(found.within, parts[:, None, :])[:, 0] for parts in (of_others, of_all))
    return low, high


def _ranked_folds(
    data: jax.Array, counts: jax.Array, is_train: jax.Array, name: str, rounding: float
) -> tuple[jax.Array, jax.Array]:
    order = resampled.orders(data, rounding)
    n_subjects = data.shape[1]
    once = jnp.ones(data.shape[0], jnp.int32)
    of_all = jnp.sum(resampled.doubled_ranks(order, once, data.dtype), axis=0, dtype=jnp.int32)

    def of_fold(fold: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        count, train = fold
        weights = resampled.pair_weights(count[None])[0]
        ranks = resampled.doubled_ranks(order, weights, data.dtype)
        units = resampled.unit_ranks(ranks, weights, data.dtype)
        squares = jnp.sum(weights.astype(units.dtype)[None, :] * units**2, axis=1)
        of_others = jnp.sum(jnp.where(train[:, None], ranks, 0), axis=0, dtype=jnp.int32)
        compared = (_with_ranked(keys, units, squares, weights, n_subjects, name) for keys in (of_others, of_all))
        return tuple(compared)  # type: ignore[return-value]

    return jax.lax.map(of_fold, (counts, is_train))


# Halves of the data.


def halves(n_repetitions: int, n_splits: int, seed: int) -> np.ndarray:
    """Ways to split repetitions or sessions into two halves; all of them where there are no more than asked for.

    Args:
        n_repetitions: repetitions or sessions; of an odd number each split leaves one out.
        n_splits: random splits; split i depends on (seed, scheme, n_repetitions, i) alone.
        seed: integer.
    Returns:
        (n_splits, n_repetitions) int8: 1 and 2 for the halves, 0 for the one left out.
    Raises:
        ValueError: with fewer than 2 repetitions.
    """
    if n_repetitions < 2:
        raise ValueError(f"{n_repetitions} repetition: a split-half ceiling needs 2, since one has no other half.")
    half = n_repetitions // 2
    n_ways = comb(n_repetitions, half) // 2
    if n_repetitions % 2 == 0 and n_ways <= n_splits:
        # The first repetition is always in half 1: its mirror image is the same split.
        chosen = [(0, *rest) for rest in combinations(range(1, n_repetitions), half - 1)]
        splits = np.full((n_ways, n_repetitions), 2, np.int8)
        for index, members in enumerate(chosen):
            splits[index, list(members)] = 1
        return splits
    splits = np.zeros((n_splits, n_repetitions), np.int8)
    for index in range(n_splits):
        key = np.random.SeedSequence([seed, 0x5B117, n_repetitions, index])
        order = np.random.Generator(np.random.Philox(key)).permutation(n_repetitions)
        splits[index, order[:half]], splits[index, order[half : 2 * half]] = 1, 2
    return splits


def split_half(rdms: jax.Array, splits: jax.Array, comparator: str) -> tuple[jax.Array, jax.Array]:
    """Reliability of an average RDM, from how well the averages of two halves of its repetitions agree.

    The mean similarity r of halves gives k r / (1 + (k - 1) r) for all repetitions, where k is how many times more they
    are than a half (Spearman-Brown). A perfect model reaches its square root; both hold for correlations of additive
    noise, so for pearson, and nearly for spearman.

    Args:
        rdms: (n_repetitions, n_pairs, m), an RDM of each repetition or session of m subjects or time bins.
        splits: (n_splits, n_repetitions) from `halves`.
        comparator: "pearson" or "spearman".
    Returns:
        reliability (m,), of the average over all repetitions; and the mean similarity of halves (m,), to be held
        against chance. The ceiling is `ceiling_of`, NaN where halves do not agree.
    Raises:
        ValueError: for another comparator, or if the splits are for another number of repetitions.
    Source: Spearman 1910; Brown 1910.
    """
    name = resampled.canonical(comparator)
    if name not in ("pearson", "spearman"):
        raise ValueError(
            f"comparator={comparator!r}: the Spearman-Brown formula is about correlations. Use pearson or spearman."
        )
    if splits.shape[1] != rdms.shape[0]:
        raise ValueError(f"Splits are of {splits.shape[1]} repetitions, the RDMs of {rdms.shape[0]}.")
    flat = rdms.reshape(rdms.shape[0], -1)
    every = jnp.ones(rdms.shape[1], bool)

    def of_split(split: jax.Array) -> jax.Array:
        sides = []
        for side in (1, 2):
            member = (split == side).astype(rdms.dtype)
            average = (dot(member[None], flat) / jnp.sum(member)).reshape(rdms.shape[1:])
            sides.append(stats.unit_norm(stats.rank(average) if name == "spearman" else average, every))
        return jnp.sum(sides[0] * sides[1], axis=0)

    agreement = jnp.mean(jax.lax.map(of_split, splits), axis=0)
    return spearman_brown(agreement, rdms.shape[0] / (rdms.shape[0] // 2)), agreement


def ceiling_of(reliability: jax.Array) -> jax.Array:
    """What a perfect model reaches: the square root of the reliability, NaN where it is not positive."""
    return jnp.sqrt(jnp.where(reliability > 0, reliability, jnp.nan))


def two_terms(half: np.ndarray, quarter: np.ndarray, sizes: tuple[int, int, int]) -> np.ndarray:
    """What a perfect model reaches with the RDM of all repetitions, from halves and quarters of them.

    Distances are quadratic in the responses, so the noise of an RDM over averages of n repetitions has a part that falls
    with 1/n and one that falls with its square: 1 / c(n)^2 - 1 = a / n + b / n^2, where c(n) is the similarity of such an
    RDM to the one without noise, and c(n)^2 that of two RDMs of n repetitions each. Spearman-Brown knows the first part
    only and comes out too low: simulated, by 7 % where halves agree by .22, by 3 % at .45 and by less than 1 % at .7; this
    one within 1.5 % from .37 on.

    Args:
        half: (...) mean similarity of two RDMs, each over the average of a half of the repetitions.
        quarter: (...) the same of quarters.
        sizes: repetitions of a quarter, of a half, and of the RDM that is scored.
    Returns:
        (...) ceiling; NaN where halves do not agree. What quarters say is kept within what either part alone would say.
    Source: the variance of squared distances has parts of first and second order in the noise: Diedrichsen et al. 2016,
        arXiv:1607.01371.
    """
    n_quarter, n_half, n_all = sizes
    ratio = n_half / n_quarter
    with np.errstate(invalid="ignore", divide="ignore"):
        of_half = np.where(half > 0, 1 / half - 1, np.nan)
        of_quarter = np.clip(np.where(quarter > 0, 1 / quarter - 1, np.inf), ratio * of_half, ratio**2 * of_half)
        second = (of_quarter * n_quarter - of_half * n_half) / (1 / n_quarter - 1 / n_half)
        first = of_half * n_half - second / n_half
        return np.sqrt(1 / (1 + first / n_all + second / n_all**2))


def spearman_brown(agreement: Array, ratio: float) -> Array:
    """Reliability of averages of `ratio` times as many repetitions as two parts whose agreement is given. (...) -> (...)"""
    return ratio * agreement / (1 + (ratio - 1) * agreement)
