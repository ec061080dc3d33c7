"""How well RDMs agree, in float64 NumPy: between subjects, between parts of the repetitions, and by chance."""

from collections.abc import Callable

import numpy as np

from jaxalign.compute.ceiling import pearson
from jaxalign.compute.gram import pair_index


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
    low = pearson(own.T, compared(total[None] - own).T)
    high = pearson(own.T, np.broadcast_to(compared(total[None]), own.shape).T)
    return low, high


def _comparable(rdms: np.ndarray, comparator: str) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """RDMs in which each subject weighs the same, and what is done to an average before it is compared."""
    if comparator == "spearman":
        return _ranked(rdms), _ranked
    return _standardised(rdms.astype(np.float64)), np.asarray


def agreement(rdms: np.ndarray, comparator: str) -> float:
    """Mean similarity of all pairs of RDMs.

    Args:
        rdms: (n_rdms, n_pairs) dissimilarities.
        comparator: "spearman" or "pearson".
    """
    own, _ = _comparable(rdms, comparator)
    unit = _standardised(own)
    products = unit @ unit.T / unit.shape[1]
    return float(products[np.triu_indices(len(rdms), 1)].mean())


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


def mean_agreement(rdms: np.ndarray, comparator: str, rows: np.ndarray) -> np.ndarray:
    """Mean over subjects of their similarity with the average of the others, under relabellings of every subject of its own.

    Two subjects' agreement counts for both, so that chance must relabel them together and not each for itself. The average
    of ranks is not ranked again: with the identity among the rows this is a test in its own right, and no bound.

    Args:
        rdms: (n_subjects, n_pairs) dissimilarities.
        comparator: "spearman" or "pearson".
        rows: (n_labellings, n_subjects, n_stimuli) relabellings.
    Returns:
        (n_labellings,).
    """
    unit = _standardised(_comparable(rdms, comparator)[0])
    index = pair_index(rows.shape[2])
    first, second = np.triu_indices(rows.shape[2], 1)
    found = []
    for labelling in rows:
        moved = np.stack([one[index[own[first], own[second]]] for one, own in zip(unit, labelling, strict=True)])
        products = moved @ moved.T / moved.shape[1]
        with_others = products.sum(1) - np.diag(products)
        # The variance of the sum of the others: all products but those of the subject left out.
        of_others = products.sum() - 2 * with_others - np.diag(products)
        found.append(float(np.mean(with_others / np.sqrt(of_others))))
    return np.array(found)


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
