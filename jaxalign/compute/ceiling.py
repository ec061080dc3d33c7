"""Noise ceilings: what a perfect model could reach, each with its recipe in its name."""

from collections.abc import Callable

import numpy as np

from jaxalign.compute.gram import pair_index

SPLIT_HALF = "split_half_spearman_brown_sqrt"
SPLIT_HALF_RELIABILITY = "split_half_spearman_brown"
LEAVE_ONE_SUBJECT_OUT = "leave_one_subject_out_rdm"


def split_half(trials: np.ndarray, n_splits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ceiling of Pearson r for responses averaged over all repetitions: the root of their reliability.

    The mean correlation r of random halves over stimuli gives the reliability 2r / (1 + r) of all repetitions
    (Spearman-Brown); a model without noise correlates with them by its square root.

    Args:
        trials: (n_stimuli, n_repetitions, ...) responses, any unit.
        n_splits: random halves to average over.
        seed: decides the halves.
    Returns:
        ceiling (...), NaN where the halves do not correlate positively; and the mean correlation of halves (...), to be
        held against `critical_r`.
    Raises:
        ValueError: with fewer than 2 repetitions or 3 stimuli.
    Source: Spearman 1910; Brown 1910; Hsu et al. 2004, Network 15:91 (the root).
    """
    n_stimuli, n_repetitions = trials.shape[:2]
    if n_repetitions < 2 or n_stimuli < 3:
        raise ValueError(
            f"{n_stimuli} stimuli with {n_repetitions} repetitions: a split-half ceiling needs 3 stimuli and 2 repetitions."
        )
    rng = np.random.Generator(np.random.Philox(seed))
    half = n_repetitions // 2
    correlations = np.zeros(trials.shape[2:], np.float64)
    for _ in range(n_splits):
        order = rng.permutation(n_repetitions)
        first = trials[:, order[:half]].mean(1, dtype=np.float64)
        second = trials[:, order[half : 2 * half]].mean(1, dtype=np.float64)
        correlations += _pearson(first, second) / n_splits
    # Halves hold `half` repetitions each; the scored average holds all of them.
    ratio = n_repetitions / half
    positive = np.where(correlations > 0, correlations, np.nan)
    return np.sqrt(ratio * positive / (1 + (ratio - 1) * positive)), correlations


def critical_r(n_stimuli: int, n_averaged: int = 1) -> float:
    """One-sided .05 critical value of the mean of independent Pearson correlations, normal approximation by Fisher z."""
    return float(np.tanh(1.6448536 / np.sqrt(max(n_stimuli - 3, 1) * n_averaged)))


def _pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation over the first axis; NaN for constants. (n, ...), (n, ...) -> (...)"""
    first = first - first.mean(0)
    second = second - second.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0))


def leave_one_subject_out(rdms: np.ndarray, comparator: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of RSA from how well subjects agree: with the mean of the others (low), and of all (high).

    Each subject's RDM is ranked (spearman) or standardised (pearson) before averaging, so every subject weighs the same;
    the average is then compared as any model is, so for spearman it is ranked again.

    Args:
        rdms: (n_subjects, n_pairs) dissimilarities.
        comparator: "spearman" or "pearson".
    Returns:
        low (n_subjects,), high (n_subjects,); their means are the bounds for the mean over subjects.
    Raises:
        ValueError: with fewer than 2 subjects.
    Source: Nili et al. 2014, PLoS Comput. Biol. 10:e1003553.
    """
    if len(rdms) < 2:
        raise ValueError(f"{len(rdms)} subject: a leave-one-subject-out ceiling needs at least 2.")
    own, compared = _comparable(rdms, comparator)
    total = own.sum(0)
    low = _pearson(own.T, compared(total[None] - own).T)
    high = _pearson(own.T, np.broadcast_to(compared(total[None]), own.shape).T)
    return low, high


def _comparable(rdms: np.ndarray, comparator: str) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """RDMs in which each subject weighs the same, and what is done to an average before it is compared."""
    if comparator == "spearman":
        return _ranked(rdms), _ranked
    return _standardised(rdms.astype(np.float64)), np.asarray


def chance_agreement(rdms: np.ndarray, comparator: str, rows: np.ndarray) -> np.ndarray:
    """The low bound under relabellings of the left-out subject's stimuli: what agreement is worth by chance.

    Args:
        rdms: (n_subjects, n_pairs) dissimilarities.
        comparator: "spearman" or "pearson".
        rows: (n_labellings, n_stimuli) relabellings.
    Returns:
        (n_labellings, n_subjects).
    """
    own, compared = _comparable(rdms, comparator)
    others = _standardised(compared(own.sum(0)[None] - own))
    unit = _standardised(own)
    index = pair_index(rows.shape[1])
    first, second = np.triu_indices(rows.shape[1], 1)
    pairs = (index[labelling[first], labelling[second]] for labelling in rows)
    return np.stack([(unit[:, permuted] * others).mean(1) for permuted in pairs])


def _ranked(rdms: np.ndarray) -> np.ndarray:
    """Ranks within each RDM, ties averaged. (n_rdms, n_pairs) float64

    In NumPy: sums of ranks are exact in float64, so that averages of ranks keep their ties.
    """

    def one(rdm: np.ndarray) -> np.ndarray:
        _, place, counts = np.unique(rdm, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    return np.stack([one(rdm) for rdm in rdms])


def _standardised(rdms: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 within each RDM. (n_rdms, n_pairs)"""
    centred = rdms - rdms.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True))
