"""Many tests at once: exact p, Bonferroni, Benjamini-Hochberg with a guard on the floor, step-down maximum."""

import numpy as np

from jaxalign.compute.permute import TIE
from jaxalign.errors import nearest

TAILS = ("greater", "two-sided")


def check_tail(tail: str) -> None:
    """Refuse a tail that is not "greater" or "two-sided"; for the lower tail, negate the scores."""
    if tail not in TAILS:
        raise ValueError(f"tail={tail!r} is not a tail; for the lower one, negate the scores. {nearest(tail, TAILS)}")


def exact_p(count: np.ndarray, total: int) -> np.ndarray:
    """Share of all labellings that reach the observed one, which is itself counted once.

    With every labelling listed this is the exhaustive p. With random labellings and the observed one in front, the same
    share is (1 + count of the random ones) / (1 + n_permutations).

    Args:
        count: (...), labellings that reach the observed score, the observed one included: 1 to total.
        total: labellings, the observed one included.
    Returns:
        (...) float64 in [1 / total, 1].
    Raises:
        ValueError: if a count is below 1 or above total.
    """
    count = np.asarray(count)
    if count.size and (count.min() < 1 or count.max() > total):
        raise ValueError(
            f"Counts run from {count.min()} to {count.max()} of {total} labellings: the observed one reaches itself, so a count is 1 to {total}. Count row 0 too."
        )
    return count.astype(np.float64) / total


def flip_floor(n_flips: int, n_subjects: int | np.ndarray, tail: str) -> np.ndarray:
    """Smallest p that flips can give: 1 / 2 ** n_subjects or 1 / n_flips; two-sided, flipping all subjects gives a tie.

    Args:
        n_flips: flips, the observed labelling included.
        n_subjects: subjects of a cell, one or an array.
        tail: "greater" or "two-sided".
    Returns:
        As n_subjects, float64.
    """
    return np.maximum(1 / n_flips, (2.0 if tail == "two-sided" else 1.0) / 2.0 ** np.asarray(n_subjects))


def bonferroni(p: np.ndarray) -> np.ndarray:
    """p times the number of defined tests, at most 1.

    Args:
        p: (...) p values; NaN where a test is undefined, which is not counted as a test.
    Returns:
        (...) float64, corrected; NaN stays.
    """
    p = np.asarray(p, np.float64)
    return np.minimum(p * np.count_nonzero(~np.isnan(p)), 1)


def benjamini_hochberg(
    p: np.ndarray, floor: float | np.ndarray, *, q: float = 0.05, is_floor_accepted: bool = False
) -> np.ndarray:
    """Smallest false discovery rate at which each test is found; compare it with q.

    Holds for independent tests and for positively dependent ones.

    Args:
        p: (...) p values; NaN where a test is undefined, which is not counted as a test.
        floor: smallest p that the labellings can give, one or (...) as p; 0 for p values of a formula.
        q: false discovery rate that will be asked for, between 0 and 1.
        is_floor_accepted: go on although a single true effect could not be found, however strong.
    Returns:
        (...) float64, adjusted p in [0, 1]; NaN stays.
    Raises:
        ValueError: if q is not between 0 and 1, a p is not in [0, 1], or the floor exceeds q / n_tests and that is not
            accepted.
    Source: Benjamini & Hochberg 1995, J R Stat Soc B 57:289.
    """
    p = np.asarray(p, np.float64)
    if not 0 < q < 1:
        raise ValueError(f"q={q}: a false discovery rate lies between 0 and 1, such as 0.05.")
    is_test = ~np.isnan(p)
    n_tests = int(is_test.sum())
    tested = p[is_test]
    if n_tests == 0:
        return p.copy()
    if tested.min() < 0 or tested.max() > 1:
        raise ValueError(f"p values run from {tested.min():g} to {tested.max():g}: they lie between 0 and 1.")
    highest = float(np.max(np.broadcast_to(np.asarray(floor, np.float64), p.shape)[is_test]))
    if highest > q / n_tests * (1 + 1e-12) and not is_floor_accepted:
        raise ValueError(
            f"The floor of p is {highest:.3g} and q / n_tests is {q:g} / {n_tests} = {q / n_tests:.3g}: no single test could be found, however strong. Draw at least {int(np.ceil(n_tests / q)) - 1} permutations if there are as many, test fewer cells, use the maximum over the family, or set is_floor_accepted=True."
        )
    order = np.argsort(tested, kind="stable")
    raised = tested[order] * n_tests / np.arange(1, n_tests + 1)
    adjusted = np.empty(n_tests)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1)
    result = np.full(p.shape, np.nan)
    result[is_test] = adjusted
    return result


def step_down(null: np.ndarray, tail: str = "greater") -> np.ndarray:
    """Family-wise corrected p by the step-down maximum: each cell is compared with the cells that are not above it.

    Never above the p of the plain maximum, and as valid. Cells must be on one scale, such as z against their own null.

    Args:
        null: (n_permutations + 1, n_cells) scores under each labelling; row 0 is observed; NaN where undefined.
        tail: "greater" or "two-sided".
    Returns:
        (n_cells,) float64; NaN where the observed score is, or without permutations.
    Raises:
        ValueError: for another tail, or if null is not a table.
    Source: Westfall & Young 1993, Resampling-Based Multiple Testing, algorithm 4.1.
    """
    check_tail(tail)
    null = np.asarray(null, np.float64)
    if null.ndim != 2:
        raise ValueError(f"null has shape {null.shape}: give (n_permutations + 1, n_cells), with row 0 observed.")
    total, n_cells = null.shape
    if total == 1:
        return np.full(n_cells, np.nan)
    scores = np.abs(null) if tail == "two-sided" else null
    is_undefined = np.isnan(scores[0])
    scores = np.where(np.isnan(scores) | is_undefined[None, :], -np.inf, scores)
    order = np.argsort(scores[0], kind="stable")
    maxima = np.maximum.accumulate(scores[:, order], axis=1)
    observed = scores[0, order]
    slack = TIE * np.maximum(1, np.abs(np.where(np.isinf(observed), 0, observed)))
    count = np.sum(maxima >= (observed - slack)[None, :], axis=0)
    return in_steps(count, order, is_undefined, total)


def in_steps(count: np.ndarray, order: np.ndarray, is_undefined: np.ndarray, total: int) -> np.ndarray:
    """Turn the counts of successive maxima into p values that never fall from a higher cell to a lower one.

    Args:
        count: (n_cells,), labellings whose maximum over the cells up to this one reaches it, in ascending order of score.
        order: (n_cells,), the cells in ascending order of their observed score.
        is_undefined: (n_cells,) bool, by cell.
        total: labellings, the observed one included.
    Returns:
        (n_cells,) float64 by cell; NaN where undefined.
    """
    p = np.empty(len(count))
    p[order] = np.maximum.accumulate(np.asarray(count, np.float64)[::-1])[::-1] / total
    return np.where(is_undefined, np.nan, p)
