"""Noise ceilings of responses: what a perfect model could reach in a target, each with its recipe in its name."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.scipy import special

SPLIT_HALF = "split_half_spearman_brown_sqrt"
SPLIT_HALF_RELIABILITY = "split_half_spearman_brown"
HALF_SPLIT_BOUNDS = "half_split_low_up"
NCSNR = "ncsnr"
NCSNR_GIVEN = "ncsnr_given"
EXPLAINABLE_VARIANCE = "explainable_variance"
LEAVE_ONE_SUBJECT_OUT_RESPONSES = "leave_one_subject_out_responses"
CROSS_SUBJECT = "cross_subject_triads_sqrt"
AUTO = "auto"
OF_RESPONSES = (
    SPLIT_HALF,
    HALF_SPLIT_BOUNDS,
    NCSNR,
    NCSNR_GIVEN,
    EXPLAINABLE_VARIANCE,
    LEAVE_ONE_SUBJECT_OUT_RESPONSES,
    CROSS_SUBJECT,
)
"""Recipes for scores of responses; those of RDMs are in `rdm_ceilings.OF_RDMS`."""


Folds = Sequence[np.ndarray] | None
"""Rows of each test fold: correlations are taken inside each and averaged, as scores are; None takes all rows at once."""


def split_half(
    trials: np.ndarray, n_splits: int, seed: int, *, n_scored: float | None = None, folds: Folds = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ceiling of Pearson r for responses averaged over repetitions: the root of their reliability.

    The mean correlation r of random halves over stimuli gives the reliability k r / (1 + (k - 1) r) of the averages that
    are scored, of k times as many repetitions as a half (Spearman-Brown); a model without noise correlates with them by
    its square root.

    Args:
        trials: (n_stimuli, n_repetitions, ...) responses, any unit.
        n_splits: random halves to average over.
        seed: decides the halves.
        n_scored: repetitions that the scored responses average; those of `trials` by default.
        folds: rows of each test fold; all at once by default.
    Returns:
        ceiling (...), NaN where the halves do not correlate positively; and the mean correlation of halves (...), to be
        held against chance by `z_of_r`.
    Raises:
        ValueError: with fewer than 2 repetitions or 3 stimuli.
    Source: Spearman 1910; Brown 1910; Hsu et al. 2004, Network 15:91 (the root).
    """
    _check_repeated(trials, "split-half ceilings")
    n_repetitions = trials.shape[1]
    rng = np.random.Generator(np.random.Philox(seed))
    half = n_repetitions // 2
    correlations = np.zeros(trials.shape[2:], np.float64)
    for _ in range(n_splits):
        order = rng.permutation(n_repetitions)
        first = trials[:, order[:half]].mean(1, dtype=np.float64)
        second = trials[:, order[half : 2 * half]].mean(1, dtype=np.float64)
        correlations += _in_folds(first, second, folds) / n_splits
    # Halves hold `half` repetitions each; the scored average holds all of them.
    ratio = (n_scored or n_repetitions) / half
    positive = np.where(correlations > 0, correlations, np.nan)
    return np.sqrt(ratio * positive / (1 + (ratio - 1) * positive)), correlations


def half_split_bounds(
    trials: np.ndarray, n_splits: int, seed: int, *, folds: Folds = None
) -> tuple[np.ndarray, np.ndarray]:
    """Low and up of the THINGS-EEG2 code: a random half against the other half, and against all repetitions.

    They are drawn and never divided by: low is the reliability of half the data, and up contains its own half, so that a
    perfect model lies between them without reaching either.

    Args:
        trials: (n_stimuli, n_repetitions, ...) responses, any unit.
        n_splits: random halves to average over.
        seed: decides the halves.
        folds: rows of each test fold; all at once by default.
    Returns:
        low (...), up (...), mean Pearson correlations over stimuli.
    Raises:
        ValueError: with fewer than 2 repetitions or 3 stimuli.
    Source: Gifford et al. 2022, NeuroImage 264:119754, and the code that its authors publish with the data.
    """
    _check_repeated(trials, "half-split bounds")
    rng = np.random.Generator(np.random.Philox(seed))
    n_repetitions = trials.shape[1]
    half = n_repetitions // 2
    whole = trials.mean(1, dtype=np.float64)
    low, up = (np.zeros(trials.shape[2:], np.float64) for _ in range(2))
    for _ in range(n_splits):
        order = rng.permutation(n_repetitions)
        first = trials[:, order[:half]].mean(1, dtype=np.float64)
        second = trials[:, order[half:]].mean(1, dtype=np.float64)
        low += _in_folds(first, second, folds) / n_splits
        up += _in_folds(first, whole, folds) / n_splits
    return low, up


def ncsnr(trials: np.ndarray, *, folds: Folds = None) -> np.ndarray:
    """Noise ceiling signal-to-noise ratio: SD of the signal over SD of the noise of one presentation.

    The noise variance is the mean over stimuli of the unbiased variance over repetitions; what the variance over stimuli of
    the averages has beyond its share of noise is the signal's, never below 0.

    Args:
        trials: (n_stimuli, n_repetitions, ...) responses, any unit; NaN where a repetition was not shown.
        folds: rows of each test fold, inside which stimuli vary; all at once by default.
    Returns:
        (...) ratio, 0 where no signal is left; NaN where there is neither signal nor noise.
    Raises:
        ValueError: with fewer than 2 repetitions or 3 stimuli.
    Source: Allen et al. 2022, Nature Neuroscience 25:116, doi:10.1038/s41593-021-00962-x.
    """
    _check_repeated(trials, "ncsnr")
    wide = trials.astype(np.float64)
    is_shown = np.isfinite(wide)
    counts, kept = is_shown.sum(1), np.where(is_shown, wide, 0)
    averages = kept.sum(1) / np.maximum(counts, 1)
    squares = np.where(is_shown, (wide - averages[:, None]) ** 2, 0).sum(1)
    is_once, is_repeated = counts >= 1, counts >= 2
    with np.errstate(invalid="ignore", divide="ignore"):
        within = squares / np.maximum(counts - 1, 1)
        noise = np.where(is_repeated, within, 0).sum(0) / is_repeated.sum(0)
        n_once = is_once.sum(0)
        inside, n_centres = _centred(np.where(is_once, averages, 0), is_once, folds)
        between = np.where(is_once, inside**2, 0).sum(0) / (n_once - n_centres)
        share = np.where(is_once, 1 / np.maximum(counts, 1), 0).sum(0) / n_once
        return np.sqrt(np.maximum(between - noise * share, 0) / noise)


def ceiling_of_ncsnr(ratio: np.ndarray, n_averaged: float) -> np.ndarray:
    """Ceiling of Pearson r for averages of so many repetitions: sqrt(ncsnr^2 / (ncsnr^2 + 1 / n)). (...) -> (...)

    1 where there is no noise at all (an infinite ratio).
    """
    with np.errstate(divide="ignore"):
        return np.sqrt(1 / (1 + 1 / (n_averaged * ratio**2)))


def explainable_variance(trials: np.ndarray, *, folds: Folds = None) -> np.ndarray:
    """Share of the variance of single presentations that repeats, corrected for what noise alone would share.

    Args:
        trials: (n_stimuli, n_repetitions, ...) responses, any unit.
        folds: rows of each test fold, inside which stimuli vary; all at once by default.
    Returns:
        (...), unbiased: about 0 for noise, slightly below 0 by chance.
    Raises:
        ValueError: with fewer than 2 repetitions or 3 stimuli.
    Source: Sahani & Linden 2003, NIPS 15 (signal power), over the total power as Schoppe et al. 2016, Front. Comput. Neurosci.
        10:10.
    """
    _check_repeated(trials, "explainable variance")
    wide = trials.astype(np.float64)
    n_repetitions = trials.shape[1]
    total, of_average = _variance(wide, folds).mean(0), _variance(wide.mean(1), folds)
    signal = (n_repetitions * of_average - total) / (n_repetitions - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return signal / total


def ceiling_of_explainable_variance(share: np.ndarray, n_averaged: float) -> np.ndarray:
    """Ceiling of Pearson r for averages of so many repetitions, from the share of one. (...) -> (...)

    The signal is `share` of the variance of one presentation, and averaging divides the rest by n; NaN where no signal is left.
    """
    positive = np.where(share > 0, share, np.nan)
    return np.sqrt(positive / (positive + (1 - positive) / n_averaged))


def leave_one_subject_out_responses(responses: np.ndarray, *, folds: Folds = None) -> tuple[np.ndarray, np.ndarray]:
    """How well the mean of the other subjects (low), or of all (high), predicts a subject's responses, per target.

    Args:
        responses: (n_subjects, n_stimuli, ...) of the same stimuli; every subject weighs the same (z-scored over stimuli).
        folds: rows of each test fold; all at once by default.
    Returns:
        low (n_subjects, ...), high (n_subjects, ...), Pearson correlations over stimuli. They hold for models of what subjects
        share, and only where a channel means the same in all of them.
    Raises:
        ValueError: with fewer than 2 subjects or 3 stimuli.
    Source: as the RDM level: Nili et al. 2014, PLoS Comput. Biol. 10:e1003553.
    """
    n_subjects, n_stimuli = responses.shape[:2]
    if n_subjects < 2 or n_stimuli < 3:
        raise ValueError(
            f"{n_subjects} subjects with {n_stimuli} stimuli: leaving one out needs 2 subjects and 3 stimuli."
        )
    wide = responses.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / np.sqrt((centred**2).sum(1, keepdims=True))
    total = unit.sum(0)
    low = np.stack([_in_folds(one, total - one, folds) for one in unit])
    high = np.stack([_in_folds(one, total, folds) for one in unit])
    return low, high


def cross_subject(responses: np.ndarray, *, folds: Folds = None) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect model of the responses that all subjects share reaches in each of them, from how subjects correlate.

    Where subjects agree by what they share alone, the correlation of two is the product of their ceilings, so that
    three give each: c_s^2 = r_st r_su / r_tu, summed over all pairs t, u of the others. Two give the root of their r.

    Args:
        responses: (n_subjects, n_stimuli, ...) of the same stimuli.
        folds: rows of each test fold; all at once by default.
    Returns:
        ceiling (n_subjects, ...), NaN where subjects do not agree; and the mean correlation of each subject with the
        others (n_subjects, ...), to be held against chance by `z_of_r`. Both hold only where a channel means the same in all.
    Raises:
        ValueError: with fewer than 2 subjects or 3 stimuli.
    Source: Spearman 1904, American Journal of Psychology 15:201 (one factor).
    """
    n_subjects, n_stimuli = responses.shape[:2]
    if n_subjects < 2 or n_stimuli < 3:
        raise ValueError(f"{n_subjects} subjects with {n_stimuli} stimuli: 2 subjects and 3 stimuli are needed.")
    wide = responses.astype(np.float64)
    r = np.zeros((n_subjects, n_subjects, *responses.shape[2:]))
    for one in range(n_subjects):
        for other in range(one):
            r[one, other] = r[other, one] = _in_folds(wide[one], wide[other], folds)
    with_others = r.sum(1)
    if n_subjects == 2:
        squared = with_others
    else:
        products = (with_others**2 - (r**2).sum(1)) / 2
        among_others = r.sum((0, 1)) / 2 - with_others
        with np.errstate(invalid="ignore", divide="ignore"):
            squared = np.where(among_others > 0, products / among_others, np.nan)
    mean = with_others / (n_subjects - 1)
    is_fine = (squared > 0) & (mean > 0)
    return np.sqrt(np.where(is_fine, squared, np.nan)), mean


def _check_repeated(trials: np.ndarray, what: str) -> None:
    n_stimuli, n_repetitions = trials.shape[:2]
    if n_repetitions < 2 or n_stimuli < 3:
        raise ValueError(
            f"{n_stimuli} stimuli with {n_repetitions} repetitions: {what} need 3 stimuli and 2 repetitions."
        )


CRITICAL_Z = 1.6448536
"""One-sided .05 of a standard normal."""


def z_of_r(r: np.ndarray, n_stimuli: Sequence[int]) -> np.ndarray:
    """Correlations on the scale of a standard normal under chance, by Fisher z.

    Args:
        r: (...) Pearson correlations over stimuli, mean over folds.
        n_stimuli: of each fold; one entry without folds.
    Returns:
        (...), to be held against `CRITICAL_Z`; the mean of k independent ones, times sqrt(k), likewise.
    Source: Fisher 1921, Metron 1:3.
    """
    # A mean of correlations varies as one of as many stimuli as give 1 / (n - 1) its variance.
    variance = float(np.mean([1 / max(count - 1, 1) for count in n_stimuli])) / len(n_stimuli)
    with np.errstate(divide="ignore"):
        return np.arctanh(np.clip(r, -1, 1)) * np.sqrt(max(1 / variance - 2, 1.0))


def z_of_repetitions(trials: np.ndarray, *, folds: Folds = None) -> np.ndarray:
    """Whether repetitions of a stimulus are more alike than chance, on the scale of a standard normal.

    Args:
        trials: (n_stimuli, n_repetitions, ...) responses, any unit; NaN where a repetition was not shown.
        folds: rows of each test fold, inside which stimuli vary; all at once by default.
    Returns:
        (...), the normal score of the F test of a one-way analysis of variance over stimuli; NaN for constants.
    Raises:
        ValueError: with fewer than 2 repetitions or 3 stimuli.
    Source: Fisher 1925, Statistical Methods for Research Workers.
    """
    _check_repeated(trials, "a test of repetitions")
    wide = trials.astype(np.float64)
    is_shown = np.isfinite(wide)
    counts, kept = is_shown.sum(1), np.where(is_shown, wide, 0)
    averages = kept.sum(1) / np.maximum(counts, 1)
    within = np.where(is_shown, (wide - averages[:, None]) ** 2, 0).sum((0, 1))
    n_trials, n_stimuli = counts.sum(0), (counts > 0).sum(0)
    inside, n_centres = _centred(averages, counts, folds)
    between = (counts * inside**2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (between / (n_stimuli - n_centres)) / (within / (n_trials - n_stimuli))
    with jax.enable_x64(True):
        above, below = (n_stimuli - n_centres) / 2, (n_trials - n_stimuli) / 2
        p = special.betainc(below, above, below / (below + above * ratio))
        return -np.asarray(special.ndtri(p))


def z_of_ncsnr(ratio: np.ndarray, n_stimuli: int, n_repetitions: int) -> np.ndarray:
    """The same from a given ratio, as if it was estimated from so many stimuli and repetitions. (...) -> (...)

    Args:
        ratio: (...) noise ceiling signal-to-noise ratios.
        n_stimuli, n_repetitions: that it is of, or fewer.
    """
    above, below = (n_stimuli - 1) / 2, n_stimuli * (n_repetitions - 1) / 2
    with jax.enable_x64(True):
        p = special.betainc(below, above, below / (below + above * (1 + n_repetitions * ratio.astype(np.float64) ** 2)))
        return -np.asarray(special.ndtri(p))


def _centred(values: np.ndarray, weights: np.ndarray, folds: Folds) -> tuple[np.ndarray, int]:
    """Values without the weighted mean of their fold, and how many means that took. (n, ...) each"""
    parts = [np.arange(len(values))] if folds is None else folds
    out = np.zeros_like(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        for rows in parts:
            of_fold = weights[rows]
            out[rows] = values[rows] - (values[rows] * of_fold).sum(0) / of_fold.sum(0)
    return out, len(parts)


def _variance(values: np.ndarray, folds: Folds) -> np.ndarray:
    """Unbiased variance over stimuli inside folds. (n, ...) -> (...)"""
    inside, n_centres = _centred(values, np.ones_like(values), folds)
    return np.asarray((inside**2).sum(0) / (len(values) - n_centres))


def _in_folds(first: np.ndarray, second: np.ndarray, folds: Folds) -> np.ndarray:
    """Mean over folds of the correlations inside each. (n, ...), (n, ...) -> (...)"""
    if folds is None:
        return pearson(first, second)
    return np.mean([pearson(first[rows], second[rows]) for rows in folds], axis=0)


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation over the first axis, in the dtype that is given; NaN for constants. (n, ...), (n, ...) -> (...)

    Args:
        first, second: (n, ...) of one shape.
    """
    first = first - first.mean(0)
    second = second - second.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))
