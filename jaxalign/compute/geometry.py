"""Representational similarity: one correlation of two RDMs, under all labellings, as a gather and a matrix product."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.gram import correlation_rdm, n_stimuli_of, pair_index
from jaxalign.compute.permute import summarise
from jaxalign.compute.stats import dot, rank, unit_norm
from jaxalign.compute.trace import under_labellings
from jaxalign.contracts import Design, Features, Null, Patterns, Rdms, Scores

COMPARATORS = ("spearman", "pearson")


ROUNDING_EPS = 8
"""Correlation distances carry a rounding error of a few eps of the largest of them; given RDMs are taken as exact."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dissimilarities:
    """One side of RSA.

    Attributes:
        values: (n_fits, n_pairs) of features, (n_pairs, n_targets) of responses.
        rounding: entries that differ by no more than this share of the largest of their RDM are equal.
    """

    values: jax.Array
    rounding: float = field(default=0.0, metadata={"static": True})


@dataclass(frozen=True)
class Rsa:
    """Correlation between the RDM of a layer and the RDM of the responses, over the scored stimuli.

    Either side is a given RDM, or patterns from which a correlation RDM (1 - Pearson r) is made. A permutation
    relabels stimuli: rows and columns of the RDM together, never its entries. Ranks are taken once.

    Attributes:
        comparator: "spearman" (ties share their mean rank) or "pearson", over the upper triangles.
        n_folds: disjoint parts of the stimuli in which the score is also taken, so that a layer can be chosen on
            one part and scored on another when there is a single subject.
        n_permutations: random relabellings of the stimuli.
    Source:
        Kriegeskorte et al. 2008, Front. Syst. Neurosci. 2:4; permutation: Nili et al. 2014, PLoS Comput. Biol.
        10:e1003553.
    """

    statistics: ClassVar[tuple[str, ...]] = ("rsa",)
    tail: ClassVar[str] = "greater"
    takes: ClassVar[str] = "patterns"
    uses_folds: ClassVar[bool] = False

    comparator: str = "spearman"
    n_folds: int = 5
    n_permutations: int = 1000

    def __post_init__(self) -> None:
        if self.comparator not in COMPARATORS:
            raise ValueError(f"comparator={self.comparator!r} is not one of {', '.join(COMPARATORS)}.")

    def features_state(self, features: Features | Rdms, design: Design, platform: str) -> Dissimilarities:
        """Dissimilarities of each layer of a block, (n_fits, n_pairs)."""
        if isinstance(features, Rdms):
            return Dissimilarities(features.values.T)
        rows = features.values[:, design.rsa_rows]
        values = jax.lax.map(lambda layer: correlation_rdm(*layer), (rows, features.widths))
        return Dissimilarities(values, _rounding(values))

    def responses_state(self, responses: Patterns | Rdms, design: Design) -> Dissimilarities:
        """Dissimilarities of each target of a tile, (n_pairs, n_targets)."""
        if isinstance(responses, Rdms):
            return Dissimilarities(responses.values)
        patterns = jnp.moveaxis(responses.values[design.rsa_rows], 2, 0)
        width = jnp.asarray(patterns.shape[2], jnp.int32)
        values = jax.lax.map(lambda pattern: correlation_rdm(pattern, width), patterns).T
        return Dissimilarities(values, _rounding(values))

    def score(
        self, features_state: Dissimilarities, responses_state: Dissimilarities, design: Design, null: Null
    ) -> Scores:
        """Correlate all layers of a block with all targets of a tile under every labelling."""
        ours = Dissimilarities(features_state.values.T, features_state.rounding)
        n_stimuli = n_stimuli_of(responses_state.values.shape[0])
        everything = np.arange(ours.values.shape[0])
        folds = self._fold_scores(ours, responses_state, parts_of_pairs(n_stimuli, self.n_folds))
        sides = (self.standard(side, everything) for side in (ours, responses_state))
        scores = under_labellings(*sides, null.rows, "triangle")
        return summarise(scores[:, :, None, :], folds[:, :, None, :], null, tail=self.tail)

    def standard(self, side: Dissimilarities, pairs: np.ndarray) -> jax.Array:
        """Some pairs, ranked (spearman), centred, of length 1. -> (n_pairs, m); NaN for a constant RDM"""
        values = side.values[pairs]
        ranked = rank(values, side.rounding) if self.comparator == "spearman" else values
        return unit_norm(ranked, jnp.ones(values.shape[0], bool))

    def _fold_scores(self, ours: Dissimilarities, theirs: Dissimilarities, parts: list[np.ndarray]) -> jax.Array:
        """The same score inside disjoint parts of the stimuli. -> (n_fits, n_folds, n_targets)"""
        if not parts:
            return jnp.zeros((ours.values.shape[1], 0, theirs.values.shape[1]), ours.values.dtype)
        return jnp.stack([dot(self.standard(ours, part).T, self.standard(theirs, part)) for part in parts], axis=1)


def _rounding(values: jax.Array) -> float:
    return ROUNDING_EPS * float(jnp.finfo(values.dtype).eps)


def parts_of_stimuli(n_stimuli: int, n_folds: int) -> list[np.ndarray]:
    """Disjoint interleaved parts of the stimuli; none when a part would hold under 4 stimuli."""
    if n_folds < 2 or n_stimuli // n_folds < 4:
        return []
    return [np.arange(fold, n_stimuli, n_folds) for fold in range(n_folds)]


def parts_of_pairs(n_stimuli: int, n_folds: int) -> list[np.ndarray]:
    """Pairs inside each of those parts."""
    index = pair_index(n_stimuli)
    return [index[np.ix_(part, part)][np.triu_indices(len(part), 1)] for part in parts_of_stimuli(n_stimuli, n_folds)]
