"""Deterministic folds: which stimuli fit, which choose a penalty, which score. NumPy on the host; no data are looked at."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxalign.contracts import Design, Folds


def contiguous(n_rows: int, n_folds: int) -> np.ndarray:
    """Unshuffled K-fold: consecutive blocks, the first ones longer by one. -> (n_folds, n_rows) bool

    Raises:
        ValueError: if there are fewer rows than folds.
    """
    return _split(np.arange(n_rows), n_rows, n_folds)


def shuffled(n_rows: int, n_folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """K-fold over rows shuffled by seed; rows of one group stay together. -> (n_folds, n_rows) bool

    Args:
        n_rows: number of stimuli.
        n_folds: number of folds.
        seed: decides the order; the same seed gives the same folds everywhere.
        groups: (n_rows,) labels, such as the concept of each picture.
    Raises:
        ValueError: if there are fewer rows, or groups, than folds.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    if groups is None:
        return _split(rng.permutation(n_rows), n_rows, n_folds)
    names, member = np.unique(groups, return_inverse=True)
    of_groups = _split(rng.permutation(len(names)), len(names), n_folds)
    return of_groups[:, member]


def _split(order: np.ndarray, n_rows: int, n_folds: int) -> np.ndarray:
    if n_folds < 2:
        raise ValueError(f"{n_folds} folds were asked for: cross-validation needs at least 2.")
    if n_rows < n_folds:
        raise ValueError(f"{n_rows} stimuli (or groups) cannot fill {n_folds} folds. Ask for at most {n_rows} folds.")
    is_test = np.zeros((n_folds, n_rows), bool)
    for fold, rows in enumerate(np.array_split(order, n_folds)):
        is_test[fold, rows] = True
    return is_test


def blocks(n_rows: int, n_folds: int, gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """K-fold over consecutive blocks of time-like rows, with rows left out on both sides of each test block.

    Args:
        n_rows: number of rows, in order.
        n_folds: number of blocks.
        gap: rows before and after a test block that are neither trained on nor tested.
    Returns:
        is_train, is_test, each (n_folds, n_rows) bool.
    Raises:
        ValueError: if the gap is negative or leaves a fold without training rows.
    """
    if gap < 0:
        raise ValueError(f"gap={gap}: a number of rows from 0 upwards is needed.")
    is_test = contiguous(n_rows, n_folds)
    place = np.arange(n_rows)
    is_train = np.ones_like(is_test)
    for fold, rows in enumerate(is_test):
        first, last = np.flatnonzero(rows)[[0, -1]]
        is_train[fold] = (place < first - gap) | (place > last + gap)
    if not is_train.any(1).all():
        raise ValueError(f"gap={gap} leaves no training rows of {n_rows} in {n_folds} blocks: ask for a smaller gap.")
    return is_train, is_test


def leave_one_group_out(groups: np.ndarray) -> np.ndarray:
    """One fold per group, such as a run: its rows are tested, all others train. (n_rows,) -> (n_groups, n_rows) bool

    Raises:
        ValueError: if there is only one group.
    """
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"All {len(member)} rows are of one group ({names[0]}): nothing is left to train on.")
    return member[None, :] == np.arange(len(names))[:, None]


def padded(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row indices of each mask, padded to the longest. (..., n_rows) bool -> (..., n_longest) int32 and bool"""
    count = masks.sum(-1)
    width = int(count.max())
    order = np.argsort(~masks, axis=-1, kind="stable")[..., :width]
    is_real = np.arange(width) < count[..., None]
    return np.where(is_real, order, 0).astype(np.int32), is_real


def indexed(is_train: np.ndarray, is_test: np.ndarray, base: np.ndarray | None = None) -> Folds:
    """Folds as padded indices from boolean masks.

    Args:
        is_train, is_test: (..., n_folds, n_rows) bool, disjoint.
        base: (..., n_rows) bool, the rows that the folds divide; None for all.
    """
    within = np.ones_like(is_train[..., 0, :]) if base is None else base
    rest = within[..., None, :] & ~is_train & ~is_test
    has_rest = bool(rest.any())
    is_partition = not has_rest and bool((is_test.sum(-2) == within).all())
    index, is_real = padded(rest) if has_rest else (None, None)
    return Folds(*padded(is_train), *padded(is_test), index, is_real, is_complement=True, is_partition=is_partition)


def from_pairs(pairs: Iterable[tuple[Any, Any]], n_rows: int) -> Folds:
    """Folds from (training rows, test rows) as scikit-learn's splitters yield them, as indices or masks.

    Rows may repeat (a bootstrap sample); then the repeated rows weigh more.

    Raises:
        ValueError: if there is no fold, or a fold is empty, holds rows that are not there, or tests a training row.
    """
    found = [(_rows(train, n_rows, "training"), _rows(test, n_rows, "test")) for train, test in pairs]
    if not found:
        raise ValueError(
            "The cross-validation yields no fold. An iterator that was used up before yields none: pass a list."
        )
    for place, (train, test) in enumerate(found):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"Fold {place} tests {len(both)} of its training rows, first row {both[0]}: training and test rows must be disjoint."
            )
    if any(len(np.unique(rows)) < len(rows) for pair in found for rows in pair):
        return Folds(*_stacked([train for train, _ in found]), *_stacked([test for _, test in found]))
    masks = np.zeros((2, len(found), n_rows), bool)
    for place, pair in enumerate(found):
        for side, rows in enumerate(pair):
            masks[side, place, rows] = True
    return indexed(*masks)


def of_cv(cv: Any, n_rows: int, groups: np.ndarray | None = None) -> Folds:
    """Folds of scikit-learn's `cv` argument: a number of unshuffled folds, a splitter, or an iterable of (train, test).

    Args:
        cv: int, an object with `split(X, y, groups)`, or an iterable.
        n_rows: number of rows.
        groups: (n_rows,) labels; with an int they are never split (as GroupKFold does), a splitter is given them.
    Raises:
        ValueError: if the folds are empty, out of range or overlap, or `cv` is nothing of the kind.
    """
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        is_test = contiguous(n_rows, int(cv)) if groups is None else _whole_groups(groups, int(cv))
        return indexed(~is_test, is_test)
    if hasattr(cv, "split") and not isinstance(cv, str):
        return from_pairs(cv.split(np.zeros((n_rows, 1)), None, groups), n_rows)
    if isinstance(cv, Iterable) and not isinstance(cv, str):
        return from_pairs(cv, n_rows)
    raise ValueError(
        f"cv={cv!r} is none of: a number of folds, a splitter, an iterable of (train, test), None (leave-one-out), 'gcv'."
    )


def _whole_groups(groups: np.ndarray, n_folds: int) -> np.ndarray:
    """Groups dealt to folds, the largest first, each to the fold with the fewest rows. -> (n_folds, n_rows) bool"""
    names, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < n_folds:
        raise ValueError(f"{len(names)} groups cannot fill {n_folds} folds. Ask for at most {len(names)} folds.")
    filled = np.zeros(n_folds, int)
    fold_of = np.zeros(len(names), int)
    for group in np.argsort(-size, kind="stable"):
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += size[group]
    return fold_of[member][None, :] == np.arange(n_folds)[:, None]


def _rows(given: Any, n_rows: int, what: str) -> np.ndarray:
    """Row indices from indices or a mask, checked."""
    rows = np.asarray(given)
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int).ravel()
    if len(rows) == 0:
        raise ValueError(f"A fold has no {what} rows.")
    wrong = rows[(rows < 0) | (rows >= n_rows)]
    if len(wrong):
        raise ValueError(f"A fold names {what} row {wrong[0]}, and there are rows 0 to {n_rows - 1}.")
    return rows


def _stacked(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Index lists padded to the longest. -> (n_folds, n_longest) int32 and bool"""
    width = max(len(one) for one in rows)
    out = np.zeros((len(rows), width), np.int32)
    for place, one in enumerate(rows):
        out[place, : len(one)] = one
    return out, np.arange(width) < np.array([len(one) for one in rows])[:, None]


def design(
    is_test: np.ndarray,
    n_inner: int,
    seed: int,
    *,
    shuffle: bool = True,
    groups: np.ndarray | None = None,
    is_fixed_split: bool = False,
    is_train: np.ndarray | None = None,
    gap: int = 0,
    weights: np.ndarray | None = None,
) -> Design:
    """Outer folds that score, and inside the training rows of each the inner folds that choose a penalty.

    Args:
        is_test: (n_outer, n_rows) bool, the outer test rows.
        n_inner: inner folds per outer fold.
        seed: order of the inner folds.
        shuffle: False keeps inner folds contiguous (time-like rows).
        groups: (n_rows,) labels that are never split.
        is_fixed_split: True where the one outer fold is a given test set.
        is_train: (n_outer, n_rows) bool, the outer training rows; None for all that are not tested.
        gap: contiguous inner folds only, rows left out on both sides of an inner test block.
        weights: (n_rows,) weights of stimuli in fitting, such as their repetitions.
    Returns:
        Design; the stimuli of its RDMs are the given test set, or all rows when there is none.
    Raises:
        ValueError: if a training part has fewer rows than inner folds.
    """
    n_rows = is_test.shape[1]
    is_train = ~is_test if is_train is None else is_train
    inner_train, inner_test = np.zeros((2, len(is_test), n_inner, n_rows), bool)
    for outer, trained in enumerate(is_train):
        rows = np.flatnonzero(trained)
        if shuffle:
            held_out = shuffled(len(rows), n_inner, seed + outer, None if groups is None else groups[rows])
            kept = ~held_out
        else:
            kept, held_out = blocks(len(rows), n_inner, gap)
        inner_train[outer][:, rows] = kept
        inner_test[outer][:, rows] = held_out
    rsa_rows = np.flatnonzero(is_test[0]) if is_fixed_split else np.arange(n_rows)
    return Design(
        outer=indexed(is_train, is_test),
        inner=indexed(inner_train, inner_test, is_train),
        rsa_rows=rsa_rows.astype(np.int32),
        weights=weights,
        is_fixed_split=is_fixed_split,
    )


SCHEMES = ("auto", "shuffled", "blocks", "runs")
"""Ways to fold: "auto" leaves one run out where rows have enough runs, and shuffles otherwise."""


def count_runs(runs: np.ndarray, is_test: np.ndarray | None = None) -> tuple[int, int]:
    """How many runs there are to train on or to leave out, and how many are needed to leave out one at a time.

    Inner folds leave out one of the runs that train, so two must train: 3 runs are needed, or 2 beside a test set.

    Args:
        runs: (n_rows,) labels of runs.
        is_test: (n_rows,) bool, a given test set; None or all False for none.
    Returns:
        Runs that are there, outside the test set; runs that are needed.
    """
    labels = np.asarray(runs)
    if is_test is None or not is_test.any():
        return len(np.unique(labels)), 3
    return len(np.unique(labels[~is_test])), 2


def check_runs(runs: np.ndarray, is_test: np.ndarray | None = None) -> None:
    """Refuse to leave out runs where there are too few.

    Args:
        runs, is_test: as in `count_runs`.
    Raises:
        ValueError: with the number that is there and the number that is needed.
    """
    n_runs, n_needed = count_runs(runs, is_test)
    if n_runs < n_needed:
        where = "of one run" if n_runs == 1 else f"of {n_runs} runs"
        kind = "rows" if n_needed == 3 else "training rows"
        raise ValueError(
            f"The {kind} are {where}, and leaving runs out needs {n_needed}: outer folds and the inner "
            "folds that choose the penalty each leave out one. Set folds=shuffled."
        )


def nested(
    scheme: str,
    n_rows: int,
    n_outer: int,
    n_inner: int,
    seed: int,
    *,
    is_test: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    runs: np.ndarray | None = None,
    gap: int = 0,
    weights: np.ndarray | None = None,
) -> Design:
    """Outer folds that score and inner folds that choose, by name.

    Args:
        scheme: one of SCHEMES. "blocks" are consecutive, for time-like rows; "runs" leaves each run out in turn, and deals
            the other runs to inner folds; "auto" does so where `count_runs` finds enough, and shuffles otherwise.
        n_rows: number of stimuli.
        n_outer, n_inner: folds; with runs, as many outer folds as runs and at most one inner fold per remaining run.
        seed: order of shuffled folds.
        is_test: (n_rows,) bool, a given test set, the one outer fold; None or all False for none.
        groups: (n_rows,) labels that are never split (shuffled folds).
        runs: (n_rows,) labels of runs.
        gap: rows left out on both sides of a test block ("blocks").
        weights: (n_rows,) weights of stimuli in fitting.
    Raises:
        ValueError: if rows, groups or runs are too few, runs are asked for and not known, or a gap goes with other folds.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"folds={scheme!r} is not one of {', '.join(SCHEMES)}.")
    if scheme == "auto":
        scheme = "shuffled" if runs is None or np.less(*count_runs(runs, is_test)) else "runs"
    if scheme == "runs" and runs is None:
        raise ValueError("folds='runs' needs to know the run of each stimulus, and the recording has no such column.")
    if scheme == "runs":
        check_runs(np.asarray(runs), is_test)
    if gap and scheme != "blocks":
        raise ValueError(f"gap={gap} goes with folds='blocks', and folds are {scheme!r}.")
    labels = runs if scheme == "runs" else groups
    given = is_test is not None and bool(is_test.any())
    is_train = None
    if given:
        assert is_test is not None
        outer = is_test[None]
    elif scheme == "runs":
        outer = leave_one_group_out(np.asarray(runs))
    elif scheme == "shuffled":
        outer = shuffled(n_rows, n_outer, seed, groups)
    else:
        is_train, outer = blocks(n_rows, n_outer, gap)
    if scheme == "runs":
        trained = np.asarray(runs)[~outer[0]] if given else np.asarray(runs)
        n_inner = min(n_inner, len(np.unique(trained)) - (0 if given else 1))
    return design(
        outer,
        n_inner,
        seed,
        shuffle=scheme != "blocks",
        groups=labels,
        is_fixed_split=given,
        is_train=is_train,
        gap=gap,
        weights=weights,
    )
