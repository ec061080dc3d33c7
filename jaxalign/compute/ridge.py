"""Cross-validated ridge with one penalty per target, from one decomposition per fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.linalg import SOLVERS, Factors, factorise, shrinkage
from jaxalign.compute.permute import over_labellings, summarise
from jaxalign.compute.stats import centre, dot, is_constant, mean, pearson, r2, scale
from jaxalign.contracts import Design, Features, Folds, Null, Responses, Scores

AUTO_ALPHAS = (1e-4, 1e6, 25)
"""Ends and number of the automatic grid, times the mean nonzero eigenvalue of the training Gram matrix."""


class FoldState(NamedTuple):
    """One train/test split of one layer, decomposed.

    Attributes:
        left: (n_train, r) left singular vectors of the training features, 0 in padded rows.
        singular: (r,) singular values.
        held_out: (n_test, r) test features in the basis of the right singular vectors.
    """

    left: jax.Array
    singular: jax.Array
    held_out: jax.Array


class RidgeState(NamedTuple):
    """All splits of a block of layers: every field has leading axis n_fits.

    Attributes:
        outer: FoldState, (n_fits, n_outer, ...).
        inner: FoldState, (n_fits, n_outer, n_inner, ...).
        alphas: (n_fits, n_outer, n_alphas) candidates.
    """

    outer: FoldState
    inner: FoldState
    alphas: jax.Array


class Choice(NamedTuple):
    """Penalties chosen for each target of one outer fold: place in the grid, and its inner-fold r2."""

    place: jax.Array
    validation: jax.Array


@dataclass(frozen=True)
class Ridge:
    """Linear readout of a layer, nested cross-validation, one penalty per target.

    For target j the weights minimise sum((y_j - X w)^2) + alpha_j sum(w^2) over the training stimuli; the first term
    is a sum, so a good alpha grows with their number. Features are centred and z-scored by the training rows of the
    outer fold. alpha_j is the candidate with the best r2 averaged over inner folds, ties to the larger; scores come
    from the outer folds alone.

    Attributes:
        n_outer: outer folds, used when the data set has no test set of its own.
        n_inner: inner folds.
        shuffle: shuffle stimuli before folding; contiguous folds otherwise.
        alphas: "auto" (25 values from 1e-4 to 1e6 times the mean nonzero eigenvalue of the training Gram matrix) or
            "given".
        alpha_values: candidates when alphas is "given", as penalties of the sum above; 0 allowed.
        zscore: z-score features; False centres only.
        solver: "auto", "eigh" or "svd".
        n_permutations: random relabellings: of the test stimuli with a given test set; else of all responses before
            fitting, penalties chosen anew.
    Source:
        Hoerl & Kennard 1970, Technometrics 12:55; many penalties from one decomposition: Dupre la Tour et al. 2022,
        NeuroImage 264:119728.
    """

    statistics: ClassVar[tuple[str, ...]] = ("pearson_r", "r2")
    tail: ClassVar[str] = "greater"
    takes: ClassVar[str] = "responses"
    uses_folds: ClassVar[bool] = True

    n_outer: int = 5
    n_inner: int = 5
    shuffle: bool = True
    alphas: str = "auto"
    alpha_values: tuple[float, ...] = ()
    zscore: bool = True
    solver: str = "auto"
    n_permutations: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha_values", tuple(float(alpha) for alpha in self.alpha_values))
        if self.alphas not in ("auto", "given"):
            raise ValueError(f"alphas={self.alphas!r}: write auto, or given together with alpha_values=[...].")
        if (self.alphas == "given") != bool(self.alpha_values):
            raise ValueError(
                f"alphas={self.alphas!r} with {len(self.alpha_values)} alpha_values: alphas=given goes with a non-empty list, alphas=auto with none."
            )
        refused = [alpha for alpha in self.alpha_values if not alpha >= 0]
        if refused:
            raise ValueError(f"alpha_values holds {refused[0]}: penalties are numbers from 0 upwards.")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is not one of {', '.join(SOLVERS)}.")

    def features_state(self, features: Features, design: Design, platform: str) -> RidgeState:
        """Decompose every training part of every layer of a block, one after the other."""
        return jax.lax.map(lambda values: self._layer_state(values, design, platform), features.values)

    def responses_state(self, responses: Responses, design: Design) -> jax.Array:
        """Shift and scale each target over all rows: r and r2 do not change, float32 keeps its digits.

        (n_stimuli, n_targets) -> (n_stimuli, n_targets); a constant target becomes 0.
        """
        values = responses.values
        rows = jnp.ones(values.shape[0], bool)
        sd = scale(values, rows)
        return jnp.where(sd[None, :] > 0, centre(values, rows) / jnp.where(sd > 0, sd, 1)[None, :], 0)

    def score(self, features_state: RidgeState, responses_state: jax.Array, design: Design, null: Null) -> Scores:
        """Score a block of layers against a tile of targets, under the observed and the permuted labellings."""
        of_layer = _fixed_split if design.is_fixed_split else _cross_validated
        null_scores, fold_scores, choice = jax.lax.map(
            lambda state: of_layer(state, responses_state, design, null), features_state
        )
        return summarise(
            jnp.swapaxes(null_scores, 0, 1),
            fold_scores,
            null,
            tail=self.tail,
            extras=_chosen(features_state.alphas, choice),
        )

    def _layer_state(self, values: jax.Array, design: Design, platform: str) -> RidgeState:
        def of_outer(fold: tuple[Folds, Folds]) -> RidgeState:
            outer, inner = fold
            scaled = _scaled(values, outer, self.zscore)
            state, factors = self._split(scaled, outer, platform)
            parts, _ = jax.lax.map(lambda one: self._split(scaled, one, platform), inner)
            return RidgeState(state, parts, self._grid(factors))

        return jax.lax.map(of_outer, (design.outer, design.inner))

    def _split(self, scaled: jax.Array, fold: Folds, platform: str) -> tuple[FoldState, Factors]:
        """Decompose the training rows of one split and rotate its test rows. (n_stimuli, width)"""
        train = scaled[fold.train]
        centred = centre(train, fold.is_train)
        factors = factorise(centred, solver=self.solver, platform=platform)
        test = jnp.where(fold.is_test[:, None], scaled[fold.test] - mean(train, fold.is_train)[None, :], 0)
        return FoldState(factors.left, factors.singular, dot(test, factors.right)), factors

    def _grid(self, factors: Factors) -> jax.Array:
        """Candidate penalties for one outer fold. -> (n_alphas,)"""
        dtype = factors.singular.dtype
        if self.alphas == "given":
            return jnp.asarray(self.alpha_values, dtype)
        squared = factors.singular**2
        average = jnp.sum(squared) / jnp.maximum(jnp.sum(squared > 0), 1).astype(dtype)
        low, high, count = AUTO_ALPHAS
        return jnp.asarray(np.geomspace(low, high, count), dtype) * jnp.where(average > 0, average, 1)


def _scaled(values: jax.Array, outer: Folds, is_zscored: bool) -> jax.Array:
    """Features centred (and z-scored) by the training rows of an outer fold. (n_stimuli, width)"""
    train = values[outer.train]
    shifted = values - mean(train, outer.is_train)[None, :]
    if not is_zscored:
        return shifted
    sd = scale(train, outer.is_train)
    return jnp.where(sd[None, :] > 0, shifted / jnp.where(sd > 0, sd, 1)[None, :], 0)


def _rotated(state: FoldState, fold: Folds, responses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Training responses in the basis of the left singular vectors, and their mean. -> (r, n_targets), (n_targets,)"""
    train = responses[fold.train]
    return dot(state.left.T, centre(train, fold.is_train)), mean(train, fold.is_train)


def _choose(inner: FoldState, folds: Folds, alphas: jax.Array, responses: jax.Array) -> Choice:
    """Penalty of each target with the best r2 averaged over inner folds; ties go to the larger penalty."""
    n_alphas = alphas.shape[0]

    def of_fold(parts: tuple[FoldState, Folds]) -> jax.Array:
        state, fold = parts
        rotated, average = _rotated(state, fold, responses)
        truth = jnp.where(fold.is_test[:, None], responses[fold.test] - average[None, :], 0)
        scaled = (state.held_out[None] * shrinkage(state.singular, alphas)[:, None, :]).reshape(-1, rotated.shape[0])
        residual = truth[None] - dot(scaled, rotated).reshape(n_alphas, *truth.shape)
        total = jnp.sum(centre(responses[fold.test], fold.is_test) ** 2, axis=0)
        total = jnp.where(is_constant(responses[fold.test], fold.is_test), jnp.nan, total)
        return 1 - jnp.sum(residual**2, axis=1) / total[None, :]

    # A target that is constant in one inner fold is judged by the others; in all of them, by none (the largest).
    criterion = jnp.nanmean(jax.lax.map(of_fold, (inner, folds)), axis=0)
    largest_first = jnp.argsort(-alphas)
    best = largest_first[jnp.argmax(jnp.nan_to_num(criterion[largest_first], nan=-jnp.inf), axis=0)]
    return Choice(best.astype(jnp.int32), jnp.take_along_axis(criterion, best[None], axis=0)[0])


def _predict(state: FoldState, fold: Folds, alpha: jax.Array, responses: jax.Array) -> jax.Array:
    """Predictions of the test rows with one penalty per target, minus the training mean. -> (n_test, n_targets)"""
    rotated, _ = _rotated(state, fold, responses)
    return dot(state.held_out, shrinkage(state.singular, alpha).T * rotated)


def _outer_scores(state: RidgeState, responses: jax.Array, design: Design) -> tuple[jax.Array, Choice]:
    """Scores of each outer fold of one layer. -> (n_outer, n_statistics, n_targets), Choice (n_outer, n_targets)"""

    def of_outer(parts: tuple[RidgeState, Folds, Folds]) -> tuple[jax.Array, Choice]:
        one, outer, inner = parts
        choice = _choose(one.inner, inner, one.alphas, responses)
        predicted = _predict(one.outer, outer, one.alphas[choice.place], responses)
        truth = responses[outer.test] - mean(responses[outer.train], outer.is_train)[None, :]
        return jnp.stack([pearson(truth, predicted, outer.is_test), r2(truth, predicted, outer.is_test)]), choice

    return jax.lax.map(of_outer, (state, design.outer, design.inner))


def _cross_validated(
    state: RidgeState, responses: jax.Array, design: Design, null: Null
) -> tuple[jax.Array, jax.Array, Choice]:
    """Null by permuting responses before anything is fitted; the decomposition stays, penalties are chosen anew."""
    folds, choice = _outer_scores(state, responses, design)
    permuted = over_labellings(lambda rows: jnp.mean(_outer_scores(state, responses[rows], design)[0], axis=0), null)
    return permuted, folds, choice


def _fixed_split(
    state: RidgeState, responses: jax.Array, design: Design, null: Null
) -> tuple[jax.Array, jax.Array, Choice]:
    """Null by relabelling the test stimuli: weights and penalties come from training rows and stay."""
    one, outer, inner = jax.tree.map(lambda leaf: leaf[0], (state, design.outer, design.inner))
    choice = _choose(one.inner, inner, one.alphas, responses)
    predicted = _predict(one.outer, outer, one.alphas[choice.place], responses)
    truth = responses[outer.test] - mean(responses[outer.train], outer.is_train)[None, :]
    permuted = over_labellings(_relabelled(truth, predicted, outer.is_test), null)
    return permuted, permuted[0][None], jax.tree.map(lambda leaf: leaf[None], choice)


def _relabelled(truth: jax.Array, predicted: jax.Array, is_test: jax.Array):
    """r and r2 under a relabelling of the test rows need one sum of products; the rest does not change.

    (n_test, n_targets) twice -> function of (n_test,) rows -> (n_statistics, n_targets)
    """
    rows = is_test[:, None]
    total = jnp.where(is_constant(truth, is_test), jnp.nan, jnp.sum(centre(truth, is_test) ** 2, axis=0))
    spread = jnp.sum(centre(predicted, is_test) ** 2, axis=0)
    is_flat = is_constant(predicted, is_test)
    root = jnp.sqrt(total) * jnp.where(is_flat, 1, jnp.sqrt(spread))
    count = is_test.sum().astype(truth.dtype)
    shift = mean(truth, is_test)
    means = shift * mean(predicted, is_test) * count
    # r2 = 1 - SS_res / SS_tot without the 1: where predictions are tiny, its digits are all in the rest.
    rest = jnp.sum(jnp.where(rows, predicted**2, 0), axis=0) + count * shift**2

    def score(permuted: jax.Array) -> jax.Array:
        product = jnp.sum(jnp.where(rows, truth[permuted] * predicted, 0), axis=0)
        r = jnp.where(is_flat & ~jnp.isnan(total), 0, (product - means) / root)
        return jnp.stack([r, (2 * product - rest) / total])

    return score


def _chosen(alphas: jax.Array, choice: Choice) -> dict[str, jax.Array]:
    """Penalty, grid edge and validation r2 of each target over the outer folds. -> (n_fits, n_targets) each"""
    picked = jnp.take_along_axis(alphas, choice.place, axis=2)
    last = alphas.shape[2] - 1
    order = jnp.argsort(jnp.argsort(alphas, axis=2), axis=2)
    order = jnp.take_along_axis(order, choice.place, axis=2)
    edge = jnp.where(jnp.any(order == last, axis=1), 1, jnp.where(jnp.any(order == 0, axis=1), -1, 0))
    smallest = jnp.finfo(alphas.dtype).tiny
    return {
        "alpha": jnp.where(
            jnp.any(picked == 0, axis=1), 0, jnp.exp(jnp.mean(jnp.log(jnp.maximum(picked, smallest)), axis=1))
        ),
        "edge": jnp.where(last == 0, 0, edge).astype(jnp.int8),
        "validation": jnp.mean(choice.validation, axis=1),
    }
