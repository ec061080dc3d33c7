"""Deterministic folds: which stimuli fit, which choose a penalty, which score. NumPy on the host; no data are looked at."""

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


def padded(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row indices of each mask, padded to the longest. (..., n_rows) bool -> (..., n_longest) int32 and bool"""
    count = masks.sum(-1)
    width = int(count.max())
    order = np.argsort(~masks, axis=-1, kind="stable")[..., :width]
    is_real = np.arange(width) < count[..., None]
    return np.where(is_real, order, 0).astype(np.int32), is_real


def indexed(is_train: np.ndarray, is_test: np.ndarray) -> Folds:
    """Folds as padded indices from boolean masks. (..., n_folds, n_rows) bool, twice"""
    train, real_train = padded(is_train)
    test, real_test = padded(is_test)
    return Folds(train, real_train, test, real_test)


def design(
    is_test: np.ndarray,
    n_inner: int,
    seed: int,
    *,
    shuffle: bool = True,
    groups: np.ndarray | None = None,
    is_fixed_split: bool = False,
) -> Design:
    """Outer folds that score, and inside the training rows of each the inner folds that choose a penalty.

    Args:
        is_test: (n_outer, n_rows) bool, the outer test rows.
        n_inner: inner folds per outer fold.
        seed: order of the inner folds.
        shuffle: False keeps inner folds contiguous (time-like rows).
        groups: (n_rows,) labels that are never split.
        is_fixed_split: True where the one outer fold is a given test set.
    Returns:
        Design; the stimuli of its RDMs are the given test set, or all rows when there is none.
    Raises:
        ValueError: if a training part has fewer rows than inner folds.
    """
    n_rows = is_test.shape[1]
    inner_test = np.zeros((len(is_test), n_inner, n_rows), bool)
    for outer, held_out in enumerate(is_test):
        rows = np.flatnonzero(~held_out)
        inside = None if groups is None else groups[rows]
        masks = shuffled(len(rows), n_inner, seed + outer, inside) if shuffle else contiguous(len(rows), n_inner)
        inner_test[outer][:, rows] = masks
    is_train = ~is_test
    inner_train = is_train[:, None, :] & ~inner_test
    rsa_rows = np.flatnonzero(is_test[0]) if is_fixed_split else np.arange(n_rows)
    return Design(
        outer=indexed(is_train, is_test),
        inner=indexed(inner_train, inner_test),
        rsa_rows=rsa_rows.astype(np.int32),
        is_fixed_split=is_fixed_split,
    )
