"""Fewer features than a layer has units: seeded sparse random projections, and principal components of training rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.linalg import factorise
from jaxalign.compute.stats import centre, dot, mean

BLOCK = 4096
"""Input features per block of a projection: the largest part of its matrix that ever exists."""


def johnson_lindenstrauss_dim(n_stimuli: int, eps: float = 0.1) -> int:
    """Dimensions that keep all squared distances between stimuli within a factor 1 - eps to 1 + eps, most likely.

    4 log(n) / (eps^2 / 2 - eps^3 / 3), rounded down, whatever the number of features; scikit-learn's
    johnson_lindenstrauss_min_dim.

    Args:
        n_stimuli: rows whose distances count.
        eps: largest relative change of a squared distance, between 0 and 1.
    Raises:
        ValueError: if eps is not between 0 and 1, or there is no stimulus.
    Source: Dasgupta & Gupta 2003, Random Structures & Algorithms 22:60.
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps={eps}: the relative change of squared distances lies between 0 and 1, such as 0.1.")
    if n_stimuli < 1:
        raise ValueError(f"n_stimuli={n_stimuli}: a projection needs stimuli whose distances it keeps.")
    return int(4 * math.log(n_stimuli) / (eps**2 / 2 - eps**3 / 3))


@dataclass(frozen=True)
class SparseProjection:
    """A sparse random matrix by name: entries are 0, or plus or minus sqrt(1 / (density * n_components)).

    Its entries depend on these four numbers alone, block of features by block, so that features may be projected in
    pieces as they arrive. They come from whole numbers of the Philox generator: equal bytes on every machine.

    Attributes:
        n_features: input features.
        n_components: output features; as many as n_features means that features are returned as they are.
        density: share of entries that are not 0; 1 / sqrt(n_features) after Li, 1 / 3 after Achlioptas.
        seed: from 0 to 2^64 - 1.
    Source:
        Achlioptas 2003, J. Comput. Syst. Sci. 66:671; Li, Hastie & Church 2006, KDD, 287.
    """

    n_features: int
    n_components: int
    density: float
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.n_components <= self.n_features:
            raise ValueError(
                f"n_components={self.n_components} of {self.n_features} features: a projection has at least 1 and at most as many components as features."
            )
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density}: the share of entries that are not 0 is above 0, at most 1.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed}: a seed is a whole number from 0 to 2^64 - 1.")

    @property
    def is_identity(self) -> bool:
        """Features are returned as they are: they are no more than the components that are needed."""
        return self.n_components == self.n_features

    def block(self, index: int, dtype: np.dtype | type = np.float32) -> np.ndarray:
        """Rows index * BLOCK and following of the matrix, on the host.

        Args:
            index: place of the block, from 0.
            dtype: of the result.
        Returns:
            (n_rows, n_components), n_rows = BLOCK, or fewer in the last block.
        Raises:
            ValueError: if there is no such block.
        """
        n_rows = min(BLOCK, self.n_features - index * BLOCK)
        if index < 0 or n_rows <= 0:
            raise ValueError(f"block {index} of {-(-self.n_features // BLOCK)} was asked for: they count from 0.")
        place, is_negative = _nonzero(self, index, n_rows * self.n_components)
        value = math.sqrt(1 / (self.density * self.n_components))
        entries = np.zeros(n_rows * self.n_components, dtype)
        entries[place] = np.where(is_negative, -value, value)
        return entries.reshape(n_rows, self.n_components)


def _nonzero(plan: SparseProjection, index: int, n_entries: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the nonzero entries of a block, each entry on its own with the plan's density, and their signs.

    Gaps between them are geometric, by inversion of a table of (1 - density)^k that is built by multiplications only:
    no logarithm, whose last digit differs between machines.
    """
    bits = np.random.Philox(key=plan.seed, counter=[0, 0, 0, index])
    n_gaps = max(math.ceil(-38 / math.log1p(-plan.density)), 1) if plan.density < 1 else 1
    survival = np.cumprod(np.concatenate([[1.0], np.full(n_gaps, 1 - plan.density)]))[:-1]
    ascending = survival[::-1].copy()
    expected = n_entries * plan.density
    chunk = int(expected + 6 * math.sqrt(expected) + 16)
    places, negatives, last = [], [], -1
    while last < n_entries:
        drawn = bits.random_raw(chunk)
        uniform = (drawn >> np.uint64(11)) * 2.0**-53
        gaps = n_gaps - np.searchsorted(ascending, uniform, side="right")
        places.append(last + np.cumsum(gaps))
        negatives.append((drawn & np.uint64(1)).astype(bool))
        last = int(places[-1][-1])
    place, is_negative = np.concatenate(places), np.concatenate(negatives)
    inside = place < n_entries
    return place[inside], is_negative[inside]


def plan_projection(
    n_stimuli: int,
    n_features: int,
    seed: int,
    *,
    n_components: int | None = None,
    eps: float = 0.1,
    density: float | None = None,
) -> SparseProjection:
    """The projection of a layer: its size from the number of stimuli, its density from the number of features.

    Args:
        n_stimuli: rows whose distances are to be kept; at least 2.
        n_features: input features.
        seed: from 0 to 2^64 - 1.
        n_components: output features; None takes johnson_lindenstrauss_dim, or all features where that is more than
            there are: then is_identity says that features are returned as they are.
        eps: largest relative change of a squared distance, for n_components=None.
        density: share of entries that are not 0; None takes 1 / sqrt(n_features).
    Raises:
        ValueError: if a number is out of its range, or more components are asked for than there are features.
    """
    if n_stimuli < 2:
        raise ValueError(f"n_stimuli={n_stimuli}: distances need at least 2 stimuli.")
    needed = johnson_lindenstrauss_dim(n_stimuli, eps) if n_components is None else n_components
    if n_components is None:
        needed = min(max(needed, 1), n_features)
    return SparseProjection(n_features, needed, 1 / math.sqrt(max(n_features, 1)) if density is None else density, seed)


def pieces_of(plan: SparseProjection, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Parts of a range of features that lie within one block each: (block, first row in it, from, to) of the range."""
    for index in range(start // BLOCK, -(-stop // BLOCK)):
        first, last = max(start, index * BLOCK), min(stop, (index + 1) * BLOCK)
        yield index, first - index * BLOCK, first - start, last - start


def project(features: jax.Array, plan: SparseProjection, *, start: int = 0) -> jax.Array:
    """Projected features, or the share of them that some of the features contribute.

    The matrix is made on the host, block by block; a dense product follows. Pieces of the features may be projected
    apart and added: with the same blocks in the same order the sum is that of the whole.

    Args:
        features: (n_stimuli, n_piece), features start to start + n_piece of the layer, any unit.
        plan: from plan_projection.
        start: place of the first of these features in the layer.
    Returns:
        (n_stimuli, n_components), the unit of the features; the features themselves where plan.is_identity (then a
        piece comes back in its own columns, zeros elsewhere, so that pieces still add up).
    Raises:
        ValueError: if the piece reaches beyond the features of the plan.
    """
    n_stimuli, n_piece = features.shape
    if start < 0 or start + n_piece > plan.n_features:
        raise ValueError(
            f"features {start} to {start + n_piece} were given to a projection of {plan.n_features} features: plan it for the width of the layer."
        )
    if plan.is_identity:
        return jnp.pad(features, ((0, 0), (start, plan.n_features - start - n_piece)))
    total = jnp.zeros((n_stimuli, plan.n_components), features.dtype)
    for index, row, first, last in pieces_of(plan, start, start + n_piece):
        part = plan.block(index, features.dtype)[row : row + last - first]
        total = total + dot(features[:, first:last], jnp.asarray(part))
    return total


class Pca(NamedTuple):
    """Principal components of training rows, strongest first.

    Attributes:
        mean: (n_features,) of the training rows.
        mean_rest: (n_features,) what the rounding of the mean left over.
        components: (n_features, n_components), unit length; the largest loading of each is positive. Zeros beyond the
            rank of the training rows.
        variance: (n_components,) of the training rows along each component, n - 1 in the denominator.
        variance_share: (n_components,) share of the total variance of the training rows.
    """

    mean: jax.Array
    mean_rest: jax.Array
    components: jax.Array
    variance: jax.Array
    variance_share: jax.Array


def fit_pca(
    features: jax.Array, is_train: jax.Array, n_components: int, *, solver: str = "auto", platform: str = "cpu"
) -> Pca:
    """Principal components of the training rows; what other rows hold is never read, NaN included.

    Args:
        features: (n_stimuli, n_features), any unit.
        is_train: (n_stimuli,) bool.
        n_components: how many, static; at most min(n_stimuli, n_features).
        solver: as in linalg.factorise; "svd" keeps twice the digits of weak components.
        platform: "cpu", "cuda" or "tpu".
    Raises:
        ValueError: if there are fewer rows or features than components.
    """
    limit = min(features.shape)
    if not 1 <= n_components <= limit:
        raise ValueError(
            f"n_components={n_components} of {features.shape[0]} stimuli and {features.shape[1]} features: ask for 1 to {limit}."
        )
    train = jnp.where(is_train[:, None], features, 0)
    coarse = mean(train, is_train)
    deviations = centre(train, is_train)
    rest = mean(deviations, is_train)
    factors = factorise(centre(deviations, is_train), solver=solver, platform=platform)
    variances = factors.singular**2 / jnp.maximum(is_train.sum() - 1, 1).astype(features.dtype)
    strongest, place = jax.lax.top_k(variances, n_components)
    components = factors.right[:, place]
    largest = jnp.take_along_axis(components, jnp.argmax(jnp.abs(components), axis=0)[None], axis=0)
    components = jnp.where(largest < 0, -components, components)
    total = jnp.sum(variances)
    return Pca(coarse, rest, components, strongest, strongest / jnp.where(total > 0, total, 1))


def pca_scores(features: jax.Array, pca: Pca, *, is_whitened: bool = False) -> jax.Array:
    """Features of any rows in the basis of the principal components.

    Args:
        features: (n_stimuli, n_features), the unit of the training features.
        pca: from fit_pca.
        is_whitened: divide by the SD of the training rows, so that each component has variance 1; components without
            variance become 0.
    Returns:
        (n_stimuli, n_components), the unit of the features, or SDs.
    """
    scores = dot(features - pca.mean[None, :] - pca.mean_rest[None, :], pca.components)
    if not is_whitened:
        return scores
    sd = jnp.sqrt(pca.variance)
    return jnp.where(sd[None, :] > 0, scores / jnp.where(sd > 0, sd, 1)[None, :], 0)
