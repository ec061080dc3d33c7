"""Variance partitioning: what each of 2 to 4 feature sets explains alone, and what sets explain together."""

from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.scoring import r2_score_split
from jaxalign.compute.stats import dot

MOST_SETS = 4
"""2^k - 1 models are fitted for k sets, and their parts stop being readable."""


def subsets(n_sets: int) -> tuple[tuple[int, ...], ...]:
    """Every non-empty subset of the feature sets, small ones first: (0,), (1,), (0, 1).

    Args:
        n_sets: number of feature sets, 2 to 4.
    Returns:
        2^n_sets - 1 tuples of set numbers; this is the order of models, and of parts.
    Raises:
        ValueError: if there are fewer than 2 or more than 4 sets.
    """
    if not 2 <= n_sets <= MOST_SETS:
        raise ValueError(
            f"{n_sets} feature set{'s' if n_sets != 1 else ''} to partition: give 2 to {MOST_SETS}. One set shares with nothing; join sets where there are more."
        )
    return tuple(one for size in range(1, n_sets + 1) for one in combinations(range(n_sets), size))


def subset_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names of the models to fit, such as "A", "B", "A+B", in the order of subsets.

    Args:
        labels: one name per feature set.
    Raises:
        ValueError: if there are fewer than 2 or more than 4 labels, or two are equal.
    """
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels {list(labels)} repeat a name: give every feature set its own.")
    return tuple("+".join(labels[one] for one in subset) for subset in subsets(len(labels)))


def part_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names of the parts, such as "unique A", "unique B", "shared A+B", in the order of subsets.

    Args:
        labels: one name per feature set.
    Raises:
        ValueError: if there are fewer than 2 or more than 4 labels, or two are equal.
    """
    names = subset_names(labels)
    return tuple(f"unique {name}" if place < len(labels) else f"shared {name}" for place, name in enumerate(names))


def coefficients(n_sets: int) -> np.ndarray:
    """Inclusion-exclusion: what a part takes of the score of each model. -> (n_parts, n_subsets) int

    The part of subset T is the piece of the Venn diagram inside all sets of T and outside all others. With f(S) the
    score of the model that has the sets S, f of none = 0 and N all sets, it is
    sum over R within T of (-1)^(|T| - |R| + 1) f(N without R).

    Args:
        n_sets: number of feature sets, 2 to 4.
    Raises:
        ValueError: if there are fewer than 2 or more than 4 sets.
    """
    order = subsets(n_sets)
    matrix = np.zeros((len(order), len(order)), np.int64)
    for row, part in enumerate(order):
        for size in range(len(part) + 1):
            for left_out in combinations(part, size):
                kept = tuple(one for one in range(n_sets) if one not in left_out)
                if kept:
                    matrix[row, order.index(kept)] += (-1) ** (len(part) - size + 1)
    return matrix


def partition(scores: jax.Array) -> jax.Array:
    """Unique contribution of each feature set and shared contribution of each combination; they sum to the full model.

    Shared parts may be negative (suppression, or noise of the scores), and are never clipped.

    Args:
        scores: (n_subsets, ...) score of the model of each subset, in the order of subsets; r2, or r where its parts
            are wanted. n_subsets = 2^k - 1.
    Returns:
        (n_parts, ...), the part of each subset in the same order: the piece inside all its sets and outside all
        others. A NaN in any model's score makes every part of that target NaN.
    Raises:
        ValueError: if n_subsets belongs to no number of sets from 2 to 4.
    Source: Lescroart et al. 2015, Front. Comput. Neurosci. 9:135; de Heer et al. 2017, J. Neurosci. 37:6539.
    """
    n_subsets = scores.shape[0] if scores.ndim else 0
    n_sets = (n_subsets + 1).bit_length() - 1
    if 2**n_sets - 1 != n_subsets:
        raise ValueError(
            f"scores has {n_subsets} rows: k feature sets have 2^k - 1 models (3, 7 or 15), one row each in the order of subsets(k)."
        )
    matrix = jnp.asarray(coefficients(n_sets), scores.dtype)
    return dot(matrix, scores.reshape(n_subsets, -1)).reshape(scores.shape)


def product_measure(responses: jax.Array, predictions: jax.Array, intercept: jax.Array) -> jax.Array:
    """Share of each feature set in the r2 of one joint model; the shares sum to that r2 and may be negative.

    Args:
        responses: (n_stimuli, n_targets), any unit.
        predictions: (n_sets, n_stimuli, n_targets), the part that each set predicts, without the intercept.
        intercept: (n_targets,) of the joint model; it belongs to no set.
    Returns:
        (n_sets, n_targets); NaN where a target is constant.
    Raises:
        ValueError: if the shapes disagree.
    Source: Pratt 1987; see scoring.r2_score_split for the definition.
    """
    return r2_score_split(responses - intercept[None, :], predictions)


def subset_columns(groups: np.ndarray, subset: Sequence[int]) -> np.ndarray:
    """Which columns of the features belong to a subset: multiply the features by it, so that every model has one shape.

    Args:
        groups: (n_features,) set number of each column.
        subset: set numbers to keep.
    Returns:
        (n_features,) bool. A column of zeros has weight 0 in any ridge.
    Raises:
        ValueError: if a set of the subset has no column.
    """
    groups = np.asarray(groups)
    missing = [one for one in subset if one not in groups]
    if missing:
        raise ValueError(f"subset {tuple(subset)} names set {missing[0]}, which has none of the {len(groups)} columns.")
    return np.isin(groups, list(subset))
