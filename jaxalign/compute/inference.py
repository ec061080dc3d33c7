"""From counts and maxima to p values: uncorrected, and corrected by the maximum over a family."""

import numpy as np

from jaxalign.compute.permute import TIE


def p_value(exceed_count: np.ndarray, n_permutations: int) -> np.ndarray:
    """(1 + count) / (1 + n): never below its floor 1 / (1 + n). NaN without permutations."""
    if n_permutations == 0:
        return np.full(np.shape(exceed_count), np.nan)
    return (1 + np.asarray(exceed_count, np.float64)) / (1 + n_permutations)


def p_floor(n_permutations: int) -> float:
    """Smallest p that so many random labellings can give; NaN without permutations."""
    return 1 / (1 + n_permutations) if n_permutations else float("nan")


def p_corrected(tested: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Family-wise corrected p of each cell, by the maximum over the family under each labelling.

    Args:
        tested: (n_cells,) observed scores on the scale of the maxima; NaN where undefined.
        maxima: (n_permutations + 1,) family maxima; index 0 is the observed labelling.
    Returns:
        (n_cells,) p values; NaN where the score is undefined or there are no permutations.
    Source: Westfall & Young 1993; Nichols & Holmes 2002, Human Brain Mapping 15:1.
    """
    n_permutations = len(maxima) - 1
    if n_permutations == 0:
        return np.full(len(tested), np.nan)
    ordered = np.sort(maxima[1:].astype(np.float64))
    threshold = tested - TIE * np.maximum(1, np.abs(tested))
    reached = n_permutations - np.searchsorted(ordered, threshold, side="left")
    return np.where(np.isnan(tested), np.nan, p_value(reached, n_permutations))


def critical(maxima: np.ndarray, level: float = 0.05) -> float:
    """Score that a cell must exceed for a corrected p of at most `level`; NaN when no score can reach it.

    With n permutations, p <= level allows floor(level * (n + 1)) - 1 of them to reach the cell.
    """
    n_permutations = len(maxima) - 1
    allowed = int(np.floor(level * (n_permutations + 1) + 1e-9)) - 1
    if allowed < 0:
        return float("nan")
    return float(np.sort(maxima[1:])[::-1][allowed])
