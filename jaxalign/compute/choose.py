"""Which penalty each target gets: a criterion on held-out stimuli for every candidate, from decomposed splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxalign.compute.decompose import Split, on_itself
from jaxalign.compute.held_out import (
    CRITERIA,
    Rotated,
    Side,
    Truth,
    at_own_alpha,
    criterion,
    products,
    rotate,
    truth_of,
)
from jaxalign.compute.loo import gcv_criterion, loo_criterion
from jaxalign.compute.stats import dot
from jaxalign.compute.sums import Sums, of_folds, of_training
from jaxalign.contracts import Folds

WAYS = ("folds", "loo", "gcv")
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Choosing:
    """How a penalty is chosen.

    Attributes:
        by: "folds" (inner folds), "loo" (exact leave-one-out) or "gcv" (generalised cross-validation).
        criterion: "r2", "neg_mse" or "pearson_r", the mean over folds. Leave-one-out and gcv have no folds: r over
            their predictions is biased to -1, so they take r2 or neg_mse, which choose alike.
        is_conservative: the largest penalty within one standard error (over folds) of the best, instead of the best.
        n_refinements: steps of a golden-section search between the neighbours of the best candidate; 0 keeps to the grid.
    Raises:
        ValueError: if a name is unknown, or a combination undefined.
    """

    by: str = "folds"
    criterion: str = "r2"
    is_conservative: bool = False
    n_refinements: int = 0

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ValueError(f"by={self.by!r} is not one of {', '.join(WAYS)}.")
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion={self.criterion!r} is not one of {', '.join(CRITERIA)}.")
        if self.by != "folds" and self.criterion == "pearson_r":
            raise ValueError(
                f"criterion='pearson_r' with {self.by}: each held-out prediction leans away from its own stimulus, so their r is biased (to -1 on null data). Use r2 or neg_mse, or K-fold."
            )
        if self.by != "folds" and (self.is_conservative or self.n_refinements):
            raise ValueError(
                f"conservative choice and refinement need folds, and penalties are chosen by {self.by}: use an inner K-fold."
            )
        if self.is_conservative and self.n_refinements:
            raise ValueError(
                f"conservative choice with n_refinements={self.n_refinements}: a search for the best penalty undoes the choice of a larger one. Use one of them."
            )
        if self.n_refinements < 0:
            raise ValueError(f"n_refinements={self.n_refinements}: a whole number from 0 upwards is needed.")


class Choice(NamedTuple):
    """What was chosen for each target: place in the grid, penalty, and the criterion there. (n_targets,) each"""

    place: jax.Array
    alpha: jax.Array
    validation: jax.Array


def over_folds(
    parts: Split,
    folds: Folds,
    side: Side,
    responses: jax.Array,
    weights: jax.Array | None,
    is_centred: bool,
    use: Callable[[Split, Rotated, Truth], Any],
) -> tuple[Any, Sums | None]:
    """Apply `use(split, rotated, truth)` to every fold, one after the other.

    Args:
        parts: Split with leading axis n_folds.
        folds: the folds of that axis.
        side: features and their scaling, for tall splits.
        responses: (n, n_targets).
        weights: (n,) or None.
        is_centred: centre responses by each fold's training rows.
        use: what to compute of a fold.
    Returns:
        Results of all folds, stacked, and the products over the base rows (None for wide splits).
    """
    if not parts.is_tall:

        def of_wide(one: tuple[Split, Folds]) -> jax.Array:
            split, fold = one
            rotated = rotate(split, fold, responses, weights, None, is_centred)
            return use(split, rotated, truth_of(split, fold, responses, weights, rotated.average, None))

        return jax.lax.map(of_wide, (parts, folds)), None

    of_rows = partial(products, side, responses, weights)
    held, whole = of_folds(of_rows, folds, side.base, parts.gram is not None)

    def of_tall(one: tuple[Split, Folds, Sums | None]) -> jax.Array:
        split, fold, test = one
        if whole is None or test is None:
            train = of_rows(fold.train, fold.is_train)
        else:
            train = of_training(of_rows, fold, whole, test)
        rotated = rotate(split, fold, responses, weights, train, is_centred, side)
        return use(split, rotated, truth_of(split, fold, responses, weights, rotated.average, test))

    return jax.lax.map(of_tall, (parts, folds, held)), whole


def pick(
    judged: jax.Array, alphas: jax.Array, by: Choosing, groups: jax.Array | None = None, n_groups: int = 1
) -> Choice:
    """The best penalty of each target, or of each group of targets; ties go to the larger penalty.

    Args:
        judged: (n_folds, n_alphas, n_targets) criterion; NaN where a target is constant in a fold. Such a fold does not
            vote; a target that no fold can judge gets the largest penalty.
        alphas: (n_alphas,).
        by: how to choose.
        groups: (n_targets,) int32, targets of one number share a penalty, the best for the mean of their criteria; None
            gives each target its own.
        n_groups: how many groups there are.
    Returns:
        Choice; validation is each target's own criterion at what was chosen.
    """
    average = jnp.nanmean(judged, axis=0)
    shared = _shared(average, groups, n_groups)
    largest_first = jnp.argsort(-alphas)
    ordered = jnp.nan_to_num(shared[largest_first], nan=-jnp.inf)
    first = jnp.argmax(ordered, axis=0)
    if by.is_conservative:
        folds = jax.lax.map(lambda one: _shared(one, groups, n_groups), judged)
        at_best = jnp.take_along_axis(folds[:, largest_first], first[None, None, :], axis=1)[:, 0]
        count = jnp.sum(~jnp.isnan(at_best), axis=0).astype(judged.dtype)
        error = jnp.nanstd(at_best, axis=0) / jnp.sqrt(jnp.maximum(count - 1, 1))
        best = jnp.take_along_axis(ordered, first[None], axis=0)[0]
        first = jnp.argmax(ordered >= (best - jnp.nan_to_num(error))[None, :], axis=0)
    place = largest_first[first].astype(jnp.int32)
    return Choice(place, alphas[place], jnp.take_along_axis(average, place[None], axis=0)[0])


def _shared(judged: jax.Array, groups: jax.Array | None, n_groups: int) -> jax.Array:
    """Criterion of each target, or the mean of its group's targets that have one. (n_alphas, n_targets), both ways"""
    if groups is None:
        return judged
    member = (groups[:, None] == jnp.arange(n_groups, dtype=groups.dtype)[None, :]).astype(judged.dtype)
    has = ~jnp.isnan(judged)
    mean = dot(jnp.where(has, judged, 0), member) / jnp.maximum(dot(has.astype(judged.dtype), member), 1)
    mean = jnp.where(dot(has.astype(judged.dtype), member) > 0, mean, jnp.nan)
    return mean[:, groups]


def refine(choice: Choice, alphas: jax.Array, judge: Callable[[jax.Array], jax.Array], n_steps: int) -> Choice:
    """A better penalty for each target between the neighbours of its best candidate, by golden-section search.

    Args:
        choice: the best candidates.
        alphas: (n_alphas,) candidates.
        judge: (n_targets,) penalties -> (n_targets,) criterion.
        n_steps: evaluations; each shrinks the interval, in log alpha, to .618 of itself.
    Returns:
        Choice with the best penalty seen, hence never a worse one; place stays. Candidates of 0 are not refined.
    """
    ordered = jnp.sort(alphas)
    at = jnp.searchsorted(ordered, choice.alpha)
    low = ordered[jnp.maximum(at - 1, 0)]
    high = ordered[jnp.minimum(at + 1, alphas.shape[0] - 1)]
    is_open = low > 0
    low, high = (jnp.log(jnp.where(is_open, end, 1)) for end in (low, high))

    def log_of(share: float) -> jax.Array:
        return low + share * (high - low)

    def better(best: tuple[jax.Array, jax.Array], at: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        wins = is_open & (value > best[1])
        return jnp.where(wins, jnp.exp(at), best[0]), jnp.where(wins, value, best[1])

    one, two = log_of(1 - GOLDEN), log_of(GOLDEN)
    of_one, of_two = judge(jnp.exp(one)), judge(jnp.exp(two))
    best = better(better((choice.alpha, choice.validation), one, of_one), two, of_two)

    def step(_: int, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, one, two, of_one, of_two, alpha, value = state
        left = of_one >= of_two
        low, high = jnp.where(left, low, one), jnp.where(left, two, high)
        new = jnp.where(left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        of_new = judge(jnp.exp(new))
        alpha, value = better((alpha, value), new, of_new)
        one, two, of_one, of_two = (
            jnp.where(left, new, two),
            jnp.where(left, one, new),
            jnp.where(left, of_new, of_two),
            jnp.where(left, of_one, of_new),
        )
        return low, high, one, two, of_one, of_two, alpha, value

    state = jax.lax.fori_loop(0, max(0, n_steps - 2), step, (low, high, one, two, of_one, of_two, *best))
    return Choice(choice.place, state[6], state[7])


def choose(
    side: Side,
    split: Split,
    parts: Split,
    outer: Folds,
    inner: Folds,
    responses: jax.Array,
    weights: jax.Array | None,
    alphas: jax.Array,
    by: Choosing,
    n_basis: int = 0,
    *,
    is_centred: bool = True,
    groups: jax.Array | None = None,
    n_groups: int = 1,
) -> tuple[Choice, Rotated, jax.Array]:
    """Penalties of all targets for one outer fold, the training responses rotated for its prediction, and the criterion.

    Args:
        side: features, their scaling and the outer training rows.
        split, outer: the outer fold and its decomposition.
        parts, inner: the inner folds and theirs (decompose.decomposed, or decomposed_with_itself for leave-one-out).
        responses: (n, n_targets).
        weights: (n,) or None.
        alphas: (n_alphas,).
        by: how to choose.
        n_basis: see `criterion`.
        is_centred: centre responses by training rows.
        groups, n_groups: see `pick`.
    Returns:
        Choice, Rotated, and (n_inner, n_alphas, n_targets); n_inner is 1 for leave-one-out and gcv.
    Raises:
        ValueError: if targets share a penalty and it is refined.
    """
    if groups is not None and by.n_refinements:
        raise ValueError(
            f"n_refinements={by.n_refinements} with {n_groups} groups of targets: refinement is per target, and a group shares its penalty. Use n_refinements=0 and a finer grid."
        )
    whole = None
    if by.by == "folds":
        judge = partial(criterion, alphas=alphas, name=by.criterion, n_basis=n_basis)
        judged, whole = over_folds(parts, inner, side, responses, weights, is_centred, judge)
    if whole is None and split.is_tall:
        whole = products(side, responses, weights, *side.base)
    rotated = rotate(split, outer, responses, weights, whole, is_centred)
    if by.by != "folds":
        own, fold = jax.tree.map(lambda leaf: leaf[0], (parts, on_itself(outer)))
        truth = truth_of(own, fold, responses, weights, rotated.average, None)
        of = loo_criterion if by.by == "loo" else gcv_criterion
        judged = of(own, rotated, truth, alphas, by.criterion, is_centred)[None]
    choice = pick(judged, alphas, by, groups, n_groups)
    if by.n_refinements:

        def kept(split: Split, rotated: Rotated, truth: Truth) -> tuple[Rotated, Truth]:
            return rotated, truth

        # Rotated once: a step of the search then costs the penalty's own products.
        both, _ = over_folds(parts, inner, side, responses, weights, is_centred, kept)

        def at(alpha: jax.Array) -> jax.Array:
            def of_fold(one: tuple[Split, Rotated, Truth]) -> jax.Array:
                return at_own_alpha(*one, alpha, by.criterion)

            return jnp.nanmean(jax.lax.map(of_fold, (parts, *both)), axis=0)

        choice = refine(choice, alphas, at, by.n_refinements)
    return choice, rotated, judged
