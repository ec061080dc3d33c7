"""Representational similarity: RDMs of layers against RDMs of responses, under all labellings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.comparators import STANDARD, canonical, packing, standard
from jaxalign.compute.distances import CROSS_VALIDATED, dissimilarities, distance_name
from jaxalign.compute.gram import n_stimuli_of, pair_index
from jaxalign.compute.kendall import kendall_state, kendall_under
from jaxalign.compute.permute import summarise
from jaxalign.compute.stats import zscore
from jaxalign.compute.trace import under_labellings
from jaxalign.contracts import Design, Features, Null, Patterns, Rdms, Scores

ROUNDING_EPS = 8
"""Distances that are computed carry a rounding error of a few eps of the largest of them; given RDMs are taken as exact."""


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
    """Comparison of the RDM of a layer with the RDM of the responses, over the scored stimuli.

    Either side is a given RDM, or patterns from which one is made. A permutation relabels stimuli: rows and columns of
    the RDM together, never its entries. Ranks are taken once.

    Attributes:
        comparator: "spearman" (ties share their mean rank), "pearson", "cosine", "rho-a", "cosine_cov", "corr_cov",
            "tau-a" or "tau-b", or a name that rsatoolbox or mne-rsa gives one of them.
        distance: of the layer's RDM, a name in `distances.DISTANCES`.
        responses_distance: of the responses' RDM; the same when empty.
        is_zscored: z-score each unit of a layer over the stimuli first; raw by default, as in rsatoolbox.
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
    takes_rdms: ClassVar[bool] = True
    uses_folds: ClassVar[bool] = False

    comparator: str = "spearman"
    distance: str = "correlation"
    responses_distance: str = ""
    is_zscored: bool = False
    n_folds: int = 5
    n_permutations: int = 1000

    def __post_init__(self) -> None:
        canonical(self.comparator)
        for name in (self.distance, self.responses_distance or self.distance):
            if distance_name(name) in (*CROSS_VALIDATED, "mahalanobis"):
                raise ValueError(
                    f"distance={name!r} needs repetitions or a noise covariance: make the RDMs with jaxalign.rdm, and score these."
                )

    @property
    def least_width(self) -> int:
        """Units that a pattern needs."""
        named = {distance_name(self.distance), distance_name(self.responses_distance or self.distance)}
        return 2 if named & {"correlation", "cosine"} else 1

    def features_state(self, features: Features | Rdms, design: Design, platform: str) -> Dissimilarities:
        """Dissimilarities of each layer of a block, (n_fits, n_pairs)."""
        if isinstance(features, Rdms):
            return Dissimilarities(features.values.T)
        rows = features.values[:, design.rsa_rows]

        def of_layer(layer: tuple[jax.Array, jax.Array]) -> jax.Array:
            values, width = layer
            values = zscore(values, jnp.ones(values.shape[0], bool)) if self.is_zscored else values
            return dissimilarities(values, width, self.distance)

        values = jax.lax.map(of_layer, (rows, features.widths))
        return Dissimilarities(values, _rounding(values))

    def responses_state(self, responses: Patterns | Rdms, design: Design) -> Dissimilarities:
        """Dissimilarities of each target of a tile, (n_pairs, n_targets)."""
        if isinstance(responses, Rdms):
            return Dissimilarities(responses.values)
        patterns = jnp.moveaxis(responses.values[design.rsa_rows], 2, 0)
        width = jnp.asarray(patterns.shape[2], jnp.int32)
        distance = self.responses_distance or self.distance
        values = jax.lax.map(lambda pattern: dissimilarities(pattern, width, distance), patterns).T
        return Dissimilarities(values, _rounding(values))

    def score(
        self, features_state: Dissimilarities, responses_state: Dissimilarities, design: Design, null: Null
    ) -> Scores:
        """Compare all layers of a block with all targets of a tile under every labelling."""
        ours = Dissimilarities(features_state.values.T, features_state.rounding)
        n_stimuli = n_stimuli_of(responses_state.values.shape[0])
        folds = self._fold_scores(ours, responses_state, parts_of_pairs(n_stimuli, self.n_folds))
        scores = self.under(ours, responses_state, null.rows)
        return summarise(scores[:, :, None, :], folds[:, :, None, :], null, tail=self.tail)

    def under(self, ours: Dissimilarities, theirs: Dissimilarities, rows: jax.Array) -> jax.Array:
        """Scores under labellings of the stimuli of `theirs`.

        (n_pairs, n_fits), (n_pairs, n_targets), (n_labellings, n_stimuli) -> (n_labellings, n_fits, n_targets)
        """
        name = canonical(self.comparator)
        if name in STANDARD:
            everything = np.arange(ours.values.shape[0])
            one, other = (self.standard(side, everything) for side in (ours, theirs))
            return under_labellings(one, other, rows, packing(name))
        state, their_state = (kendall_state(side.values, side.rounding) for side in (ours, theirs))
        return jax.lax.map(lambda labelling: kendall_under(state, their_state, labelling, name), rows)

    def standard(self, side: Dissimilarities, pairs: np.ndarray) -> jax.Array:
        """Some pairs in the form whose dot products are the scores. -> (n_packed, m); NaN for a constant RDM"""
        return standard(side.values[pairs], self.comparator, side.rounding)

    def _fold_scores(self, ours: Dissimilarities, theirs: Dissimilarities, parts: list[np.ndarray]) -> jax.Array:
        """The same score inside disjoint parts of the stimuli. -> (n_fits, n_folds, n_targets)"""
        if not parts:
            return jnp.zeros((ours.values.shape[1], 0, theirs.values.shape[1]), ours.values.dtype)
        found = []
        for part in parts:
            identity = jnp.arange(n_stimuli_of(len(part)), dtype=jnp.int32)[None]
            one, other = (Dissimilarities(side.values[part], side.rounding) for side in (ours, theirs))
            found.append(self.under(one, other, identity)[0])
        return jnp.stack(found, axis=1)


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
