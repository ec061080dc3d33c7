"""Similarity of two sets of patterns by any measure of the table, under all labellings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import kernels, pairwise, trace
from jaxalign.compute.geometry import parts_of_stimuli
from jaxalign.compute.linalg import from_gram
from jaxalign.compute.measures import measure_of
from jaxalign.compute.permute import summarise
from jaxalign.contracts import Design, Features, Null, Patterns, Rdms, Scores

pytree = jax.tree_util.register_dataclass


@pytree
@dataclass(frozen=True)
class Bases:
    """One side: what a measure makes of the patterns of each fit or target.

    Attributes:
        values: (n_items, n_stimuli, n_stimuli) matrices, or (n_items, n_stimuli, width) patterns.
        widths: (n_items,) true widths.
    """

    values: jax.Array
    widths: jax.Array


@dataclass(frozen=True)
class Similarity:
    """Similarity of the patterns of a layer and the patterns of the responses, over the scored stimuli.

    A permutation relabels stimuli. Measures that are biased on noise (see `measures.MEASURES`) are compared between
    layers and models as z only.

    Attributes:
        measure: name in `measures.MEASURES`, or an alias.
        n_neighbours: of `mutual_knn` and `cknna`.
        bandwidth: of the Gaussian kernels, in units of the root of the median positive squared distance.
        n_folds: disjoint parts of the stimuli in which the score is also taken, so that a layer can be chosen on one
            part and scored on another when there is a single subject.
        n_permutations: random relabellings of the stimuli.
    Source:
        Kornblith et al. 2019, ICML (CKA); Song et al. 2012 (debiased); Szekely et al. 2007 (dcor); Huh et al. 2024
        (mutual_knn, cknna); Williams et al. 2021 (procrustes); Robert & Escoufier 1976 (rv).
    """

    tail: ClassVar[str] = "greater"
    takes: ClassVar[str] = "patterns"
    takes_rdms: ClassVar[bool] = False
    uses_folds: ClassVar[bool] = False

    measure: str = "cka"
    n_neighbours: int = 10
    bandwidth: float = 1.0
    n_folds: int = 5
    n_permutations: int = 1000

    def __post_init__(self) -> None:
        measure_of(self.measure)
        if self.n_neighbours < 1 or not self.bandwidth > 0:
            raise ValueError(
                f"n_neighbours={self.n_neighbours}, bandwidth={self.bandwidth}: at least 1 neighbour and a bandwidth above 0 are needed."
            )

    @property
    def statistics(self) -> tuple[str, ...]:
        return (measure_of(self.measure)[0],)

    @property
    def is_biased(self) -> bool:
        """Whether noise scores above 0, the more the wider a layer: raw scores then rank no layers or models."""
        return measure_of(self.measure)[1].is_biased

    @property
    def least_width(self) -> int:
        """Units that a pattern needs."""
        return 1

    def features_state(self, features: Features | Rdms, design: Design, platform: str) -> Bases:
        """Matrix of each layer of a block."""
        if isinstance(features, Rdms):
            raise ValueError(
                f"{self.measure} needs patterns and got given RDMs, which have lost them: use rsa, or leave the RDMs out with score."
            )
        rows = features.values[:, design.rsa_rows]
        self._check(rows.shape[1])
        make = partial(_base, measure_of(self.measure)[1].base, platform=platform)
        return Bases(jax.lax.map(make, rows), features.widths)

    def responses_state(self, responses: Patterns | Rdms, design: Design) -> Bases:
        """Matrix of each target of a tile; targets are on the second axis, as in every state of responses."""
        if isinstance(responses, Rdms):
            raise ValueError(
                f"{self.measure} needs patterns and this data set holds given RDMs, which have lost them: use rsa."
            )
        patterns = jnp.moveaxis(responses.values[design.rsa_rows], 2, 0)
        make = partial(_base, measure_of(self.measure)[1].base, platform=None)
        widths = jnp.full((1, patterns.shape[0]), patterns.shape[2], jnp.int32)
        return Bases(jnp.swapaxes(jax.lax.map(make, patterns), 0, 1), widths)

    def score(self, features_state: Bases, responses_state: Bases, design: Design, null: Null) -> Scores:
        """Compare all layers of a block with all targets of a tile under every labelling."""
        theirs = Bases(jnp.swapaxes(responses_state.values, 0, 1), responses_state.widths[0])
        scores = self.under(features_state, theirs, null.rows)
        n_stimuli = features_state.values.shape[1]
        folds = [
            self.under(self._part(features_state, part), self._part(theirs, part), _identity(len(part)))[0]
            for part in parts_of_stimuli(n_stimuli, self.n_folds)
            if self._fits(len(part))
        ]
        n_fits, n_targets = scores.shape[1:]
        by_fold = jnp.stack(folds, axis=1) if folds else jnp.zeros((n_fits, 0, n_targets), scores.dtype)
        return summarise(scores[:, :, None, :], by_fold[:, :, None, :], null, tail=self.tail)

    def under(self, ours: Bases, theirs: Bases, rows: jax.Array) -> jax.Array:
        """Scores of all layers with all targets under labellings of the targets' stimuli.

        (n_labellings, n_stimuli) int32 -> (n_labellings, n_fits, n_targets)
        """
        measure = measure_of(self.measure)[1]
        if measure.packing is None:
            return self._pair_by_pair(ours, theirs, rows)
        packed = [jax.lax.map(self._packed, side.values).T for side in (ours, theirs)]
        found = trace.under_labellings(packed[0], packed[1], rows, measure.packing)
        return jnp.sqrt(jnp.maximum(found, 0)) if measure.is_root else found

    def _packed(self, base: jax.Array) -> jax.Array:
        """One matrix as a vector of the inner product. (n, n) -> (n_packed,)"""
        measure, n_stimuli = measure_of(self.measure)[1], base.shape[0]
        matrix = kernels.rbf(base, self.bandwidth) if measure.base == "rbf" else base
        if measure.transform == "neighbours":
            mask = kernels.neighbour_mask(matrix, self.n_neighbours)
            return trace.pack(mask, "full") / (n_stimuli * self.n_neighbours) ** 0.5
        if measure.packing == "triangle":
            packed = trace.pack(kernels.u_centred(matrix), "triangle") * 2**0.5
            scale = (n_stimuli * (n_stimuli - 3)) ** 0.5
        else:
            packed = trace.pack(kernels.double_centred(matrix), "gram")
            scale = float(n_stimuli - 1)
        if not measure.transform.startswith("unit"):
            return packed / scale
        length = jnp.sqrt(jnp.sum(packed**2))
        return packed / jnp.where(length > 0, length, jnp.nan)

    def _pair_by_pair(self, ours: Bases, theirs: Bases, rows: jax.Array) -> jax.Array:
        """Scores by a measure that is no inner product."""
        name = measure_of(self.measure)[0]
        if name == "cknna":
            around = partial(pairwise.neighbourhood, n_neighbours=self.n_neighbours)
            near, other = (jax.lax.map(around, side.values) for side in (ours, theirs))
            return pairwise.under_labellings(pairwise.cknna, near, other, _relabel_neighbourhood, rows)
        make = pairwise.unit_columns if name == "mi_gaussian" else pairwise.unit_shape
        one, two = (jax.lax.map(make, side.values) for side in (ours, theirs))
        if name == "procrustes":
            return pairwise.under_labellings(pairwise.procrustes, one, two, _relabel_rows, rows)
        left, right = (one, ours.widths.astype(one.dtype)), (two, theirs.widths.astype(two.dtype))
        return pairwise.under_labellings(_information, left, right, _relabel_with_width, rows)

    def _part(self, side: Bases, part: np.ndarray) -> Bases:
        """The same side with some stimuli only."""
        values = side.values[:, part]
        is_square = measure_of(self.measure)[1].base not in ("columns", "shape")
        return Bases(values[:, :, part] if is_square else values, side.widths)

    def _fits(self, n_stimuli: int) -> bool:
        return n_stimuli >= 4 and not (self._uses_neighbours and self.n_neighbours > n_stimuli - 2)

    @property
    def _uses_neighbours(self) -> bool:
        return measure_of(self.measure)[0] in ("mutual_knn", "cknna")

    def _check(self, n_stimuli: int) -> None:
        if not self._fits(n_stimuli):
            raise ValueError(
                f"{self.measure} of {n_stimuli} stimuli with n_neighbours={self.n_neighbours}: at least 4 stimuli are needed, and for neighbours 2 more than n_neighbours."
            )


def _identity(n_stimuli: int) -> jax.Array:
    return jnp.arange(n_stimuli, dtype=jnp.int32)[None]


def _base(kind: str, values: jax.Array, platform: str | None) -> jax.Array:
    """What a measure keeps of patterns. (n, width) -> (n, n), or (n, width') for measures of patterns"""
    if kind == "gram":
        return kernels.linear_gram(values)
    if kind == "raw gram":
        return kernels.raw_gram(values)
    if kind == "rbf":
        return kernels.squared_distances(kernels.linear_gram(values))
    if kind == "distances":
        return kernels.distances(kernels.linear_gram(values))
    if kind == "cosine":
        return kernels.cosine_similarities(values)
    if kind == "shape" and platform is not None and values.shape[1] > values.shape[0]:
        # A rotation of the features changes nothing: as many columns as stimuli are enough.
        singular, vectors, noise = from_gram(kernels.linear_gram(values), platform)
        return vectors * jnp.where(singular**2 <= noise, 0, singular)[None, :]
    return values


def _information(ours: tuple[jax.Array, jax.Array], theirs: tuple[jax.Array, jax.Array]) -> jax.Array:
    return pairwise.gaussian_information(ours[0], theirs[0], ours[1] * theirs[1])


def _relabel_rows(values: jax.Array, rows: jax.Array) -> jax.Array:
    return values[rows]


def _relabel_with_width(side: tuple[jax.Array, jax.Array], rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    return side[0][rows], side[1]


def _relabel_neighbourhood(side: pairwise.Neighbourhood, rows: jax.Array) -> pairwise.Neighbourhood:
    return side._replace(gram=side.gram[rows][:, rows], mask=side.mask[rows][:, rows])
