"""Analytic floating-point operations of each step. XLA's own count is wrong for factorisations by 20 to 1,000 times."""

from __future__ import annotations

from jaxalign.compute.decompose import scores_by_gram
from jaxalign.compute.gram import n_pairs
from jaxalign.runtime.budget import Shape, folds_of

EIGH = 9
"""Operations of a symmetric eigendecomposition with vectors, times n ** 3."""


def factorise(shape: Shape, width: int) -> float:
    """Operations that prepare one fit: Gram matrices and decompositions, or its RDM."""
    if shape.side == "rdms":
        return 0.0
    if shape.side == "patterns":
        return 2.0 * shape.n_rows**2 * width
    if not shape.metric.uses_folds:
        return 4.0 * shape.n_rows * width
    fold = folds_of(shape)
    rank, rank_inner = min(fold.n_train, width), min(fold.n_train_inner, width)
    gram = 2.0 * shape.n_rows * width * min(shape.n_rows, width)
    held_out = 4.0 * rank_inner**3 if _by_gram(shape, rank_inner) else 2.0 * fold.n_test_inner * width * rank_inner
    of_outer = fold.n_inner * (EIGH * rank_inner**3 + held_out) + EIGH * rank**3 + 2.0 * fold.n_test * width * rank
    return gram + fold.n_outer * of_outer


def project(shape: Shape, n_targets: int) -> float:
    """Operations that prepare the responses of one tile."""
    if shape.side == "patterns":
        return 2.0 * shape.n_rows**2 * shape.n_channels * n_targets
    return 4.0 * shape.n_rows * n_targets if shape.side == "responses" else 0.0


def score(shape: Shape, width: int, n_targets: int) -> float:
    """Operations of one fit against one tile, for one labelling."""
    if shape.side != "responses":
        entries = n_pairs(shape.n_rows) if shape.metric.takes_rdms else shape.n_rows**2
        return 2.0 * entries * n_targets
    if not shape.metric.uses_folds:
        return 2.0 * shape.n_rows * n_targets
    fold = folds_of(shape)
    rank, rank_inner = min(fold.n_train, width), min(fold.n_train_inner, width)
    is_tall = width <= fold.n_train
    products = 2.0 * shape.n_rows * width * n_targets if is_tall else 0.0
    rotated, rotated_inner = (
        2.0 * (width if is_tall else n_train) * rank * n_targets
        for n_train, rank in ((fold.n_train, rank), (fold.n_train_inner, rank_inner))
    )
    by_gram = _by_gram(shape, rank_inner)
    criterion = 2.0 * fold.n_alphas * rank_inner * (rank_inner if by_gram else fold.n_test_inner) * n_targets
    of_inner = rotated_inner * (2 if by_gram else 1) + criterion
    return products + fold.n_outer * (fold.n_inner * of_inner + rotated + 2.0 * fold.n_test * rank * n_targets)


def permute(shape: Shape, width: int, n_targets: int) -> float:
    """Operations of the null of one fit against one tile."""
    n = shape.metric.n_permutations
    if shape.side == "responses" and shape.metric.uses_folds and shape.design.is_fixed_split:
        return n * 4.0 * folds_of(shape).n_test * n_targets
    return n * score(shape, width, n_targets)


def _by_gram(shape: Shape, rank: int) -> bool:
    fold = folds_of(shape)
    return scores_by_gram(fold.n_test_inner, rank, fold.n_alphas)
