"""Cross-validated ridge with one penalty per target, from one decomposition per fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.choose import Choice, Choosing, choose
from jaxalign.compute.decompose import Scaling, Split, Way, decomposed, decomposed_with_itself
from jaxalign.compute.folds import SCHEMES
from jaxalign.compute.held_out import Side, predict
from jaxalign.compute.linalg import SOLVERS, basis_size
from jaxalign.compute.permute import over_labellings, summarise
from jaxalign.compute.stats import centre, is_constant, mean, pearson, r2, zscore
from jaxalign.contracts import Design, Features, Folds, Null, Responses, Scores

AUTO_ALPHAS = (1e-4, 1e6, 25)
"""Ends and number of the automatic grid, times the mean nonzero eigenvalue of the training Gram matrix."""


class RidgeState(NamedTuple):
    """All splits of a block of layers: every field has leading axis n_fits.

    Attributes:
        features: (n_fits, n_stimuli, p) where a split is tall and needs their products with responses; else None.
        scaling: (n_fits, n_outer, p) each; of the outer training rows.
        outer: Split, (n_fits, n_outer, ...).
        inner: Split, (n_fits, n_outer, n_inner, ...); with leave-one-out and gcv, the outer training rows as test rows.
        alphas: (n_fits, n_outer, n_alphas) candidates.
    """

    features: jax.Array | None
    scaling: Scaling
    outer: Split
    inner: Split
    alphas: jax.Array


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
        folds: "auto" (leave-one-run-out where rows have three runs or more, else shuffled), "shuffled", "blocks"
            (consecutive, for time-like rows) or "runs".
        gap: rows left out on both sides of a test block ("blocks").
        group_by: column of the recording whose stimuli are never split (shuffled), or that names the run (default "run").
        weights: "repetitions" weighs a stimulus by its number of presentations (mean over subjects, scaled to a mean of
            1), "equal" does not.
        alphas: "auto" (25 values from 1e-4 to 1e6 times the mean nonzero eigenvalue of the training Gram matrix) or
            "given".
        alpha_values: candidates when alphas is "given", as penalties of the sum above; 0 allowed.
        zscore: z-score features; False centres only.
        solver: "auto", "eigh", "svd" or "cholesky".
        choose_by: "folds" (the inner folds), "loo" (exact leave-one-out on the outer training rows) or "gcv".
        criterion: "r2", "neg_mse", or with inner folds "pearson_r".
        conservative: the largest penalty within one standard error, over inner folds, of the best.
        n_refinements: steps of a search between the neighbours of the best candidate; 0 keeps to the grid.
        n_permutations: random relabellings: of the test stimuli with a given test set; else of all responses before
            fitting, penalties chosen anew.
    Source:
        Hoerl & Kennard 1970, Technometrics 12:55; many penalties from one decomposition: Dupre la Tour et al. 2022,
        NeuroImage 264:119728.
    """

    statistics: ClassVar[tuple[str, ...]] = ("pearson_r", "r2")
    tail: ClassVar[str] = "greater"
    takes: ClassVar[str] = "responses"
    takes_rdms: ClassVar[bool] = False
    least_width: ClassVar[int] = 1
    uses_folds: ClassVar[bool] = True

    n_outer: int = 5
    n_inner: int = 5
    folds: str = "auto"
    gap: int = 0
    group_by: str = ""
    weights: str = "repetitions"
    alphas: str = "auto"
    alpha_values: tuple[float, ...] = ()
    zscore: bool = True
    solver: str = "auto"
    choose_by: str = "folds"
    criterion: str = "r2"
    conservative: bool = False
    n_refinements: int = 0
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
        if self.folds not in SCHEMES:
            raise ValueError(f"folds={self.folds!r} is not one of {', '.join(SCHEMES)}.")
        if self.weights not in ("repetitions", "equal"):
            raise ValueError(f"weights={self.weights!r}: write repetitions or equal.")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is not one of {', '.join(SOLVERS)}.")
        if self.solver == "cholesky" and (self.alphas == "auto" or self.choose_by != "folds" or self.n_refinements):
            raise ValueError(
                "solver='cholesky' knows no spectrum: it goes with alphas=given, choose_by=folds and n_refinements=0. Use eigh."
            )
        _ = self.choosing

    @property
    def choosing(self) -> Choosing:
        """How penalties are chosen."""
        return Choosing(self.choose_by, self.criterion, self.conservative, self.n_refinements)

    @property
    def solver_used(self) -> str:
        """What "auto" stands for: Cholesky for a single penalty above 0, else one eigendecomposition for all.

        A penalty of 0 may meet features of deficient rank, and penalties relative to the spectrum need to know it.
        """
        if self.solver != "auto":
            return self.solver
        is_single = len(self.alpha_values) == 1 and self.alpha_values[0] > 0
        return "cholesky" if is_single and self.choose_by == "folds" and not self.n_refinements else "eigh"

    def features_state(self, features: Features, design: Design, platform: str) -> RidgeState:
        """Decompose every training part of every layer of a block, one after the other."""
        return jax.lax.map(lambda values: self._layer_state(values, design, platform), features.values)

    def responses_state(self, responses: Responses, design: Design) -> jax.Array:
        """Shift and scale each target over all rows: r and r2 do not change, float32 keeps its digits.

        (n_stimuli, n_targets) -> (n_stimuli, n_targets); a constant target becomes 0.
        """
        return zscore(responses.values, jnp.ones(responses.values.shape[0], bool))

    def score(self, features_state: RidgeState, responses_state: jax.Array, design: Design, null: Null) -> Scores:
        """Score a block of layers against a tile of targets, under the observed and the permuted labellings."""
        of_layer = self._fixed_split if design.is_fixed_split else self._cross_validated
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
        n_alphas = len(self.alpha_values) if self.alphas == "given" else AUTO_ALPHAS[2]
        way = Way(True, self.zscore, self.solver_used, platform)

        def of_outer(fold: tuple[Folds, Folds]) -> tuple[Scaling, Split, Split, jax.Array]:
            outer, inner = fold
            if self.choose_by == "folds":
                by, parts, split = decomposed(values, outer, inner, design.weights, way, n_alphas)
            else:
                by, parts, split = decomposed_with_itself(values, outer, design.weights, way)
            return by, split, parts, self._grid(split, values.dtype)

        by, split, parts, alphas = jax.lax.map(of_outer, (design.outer, design.inner))
        return RidgeState(values if split.is_tall or parts.is_tall else None, by, split, parts, alphas)

    def _grid(self, split: Split, dtype: jnp.dtype) -> jax.Array:
        """Candidate penalties for one outer fold. -> (n_alphas,)"""
        if self.alphas == "given":
            return jnp.asarray(self.alpha_values, dtype)
        return automatic_alphas(split.singular, split.noise)

    def _basis(self, dtype: jnp.dtype) -> int:
        if self.alphas == "given":
            return basis_size(np.asarray(self.alpha_values), dtype)
        return basis_size(np.geomspace(*AUTO_ALPHAS), dtype)

    def _outer_scores(self, state: RidgeState, responses: jax.Array, design: Design) -> tuple[jax.Array, Choice]:
        """Scores of each outer fold of one layer. -> (n_outer, n_statistics, n_targets), Choice (n_outer, n_targets)"""

        def of_outer(parts: tuple[Scaling, Split, Split, jax.Array, Folds, Folds]) -> tuple[jax.Array, Choice]:
            truth, predicted, outer, choice = self._predicted(state.features, parts, responses, design.weights)
            scores = jnp.stack([pearson(truth, predicted, outer.is_test), r2(truth, predicted, outer.is_test)])
            return scores, choice

        return jax.lax.map(of_outer, _by_outer(state, design))

    def _predicted(
        self,
        features: jax.Array | None,
        parts: tuple[Scaling, Split, Split, jax.Array, Folds, Folds],
        responses: jax.Array,
        weights: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array, Folds, Choice]:
        """Choose penalties of one outer fold and predict its test rows. -> truth, prediction (n_test, n_targets), ..."""
        by, split, inner_parts, alphas, outer, inner = parts
        side = Side(features, by, (outer.train, outer.is_train))
        choice, rotated, _ = choose(
            side, split, inner_parts, outer, inner, responses, weights, alphas, self.choosing, self._basis(alphas.dtype)
        )
        predicted = predict(split, rotated, choice.alpha, choice.place, alphas)
        truth = responses[outer.test] - rotated.average[None, :]
        return truth, predicted, outer, choice

    def held_out(self, state: RidgeState, responses: jax.Array, design: Design) -> tuple[jax.Array, jax.Array]:
        """Predictions of the test rows of every outer fold, by the weights of its training rows.

        Args:
            state: of one layer.
            responses: (n_stimuli, n_targets), near mean 0 and SD 1.
            design: folds.
        Returns:
            (n_outer, n_test, n_targets) in the unit of the responses, and chosen penalties (n_outer, n_targets).
        """

        def of_outer(parts: tuple[Scaling, Split, Split, jax.Array, Folds, Folds]) -> tuple[jax.Array, jax.Array]:
            truth, predicted, outer, choice = self._predicted(state.features, parts, responses, design.weights)
            return predicted + (responses[outer.test] - truth), choice.alpha

        return jax.lax.map(of_outer, _by_outer(state, design))

    def _cross_validated(
        self, state: RidgeState, responses: jax.Array, design: Design, null: Null
    ) -> tuple[jax.Array, jax.Array, Choice]:
        """Null by permuting responses before anything is fitted; the decomposition stays, penalties are chosen anew."""
        folds, choice = self._outer_scores(state, responses, design)
        permuted = over_labellings(
            lambda rows: jnp.mean(self._outer_scores(state, responses[rows], design)[0], axis=0), null
        )
        return permuted, folds, choice

    def _fixed_split(
        self, state: RidgeState, responses: jax.Array, design: Design, null: Null
    ) -> tuple[jax.Array, jax.Array, Choice]:
        """Null by relabelling the test stimuli: weights and penalties come from training rows and stay."""
        parts = jax.tree.map(lambda leaf: leaf[0], _by_outer(state, design))
        truth, predicted, outer, choice = self._predicted(state.features, parts, responses, design.weights)
        permuted = over_labellings(_relabelled(truth, predicted, outer.is_test), null)
        return permuted, permuted[0][None], jax.tree.map(lambda leaf: leaf[None], choice)


def _by_outer(state: RidgeState, design: Design) -> tuple[Scaling, Split, Split, jax.Array, Folds, Folds]:
    """What belongs to each outer fold of one layer, with leading axis n_outer."""
    return state.scaling, state.outer, state.inner, state.alphas, design.outer, design.inner


def automatic_alphas(
    singular: jax.Array, noise: jax.Array | float = 0.0, ends: tuple[float, float, int] = AUTO_ALPHAS
) -> jax.Array:
    """Candidates relative to the mean nonzero eigenvalue of the training Gram matrix. (r,) -> (n_alphas,)

    Squared singular values up to `noise` count as 0.
    """
    squared = jnp.where(singular**2 <= noise, 0, singular**2)
    average = jnp.sum(squared) / jnp.maximum(jnp.sum(squared > 0), 1).astype(singular.dtype)
    return jnp.asarray(np.geomspace(*ends), singular.dtype) * jnp.where(average > 0, average, 1)


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
    picked = choice.alpha
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
