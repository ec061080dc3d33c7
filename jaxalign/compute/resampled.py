"""Comparisons of RDMs under samples of stimuli: a pair counts as often as it was drawn, so no RDM is indexed again."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.gram import n_stimuli_of, pair_index
from jaxalign.compute.masked import Order, order_of, weighted_rank
from jaxalign.compute.stats import HIGHEST, dot
from jaxalign.errors import nearest

RANKED = ("spearman", "rho-a")
WHITENED = ("cosine_cov", "corr_cov")
COMPARATORS = ("pearson", "spearman", "cosine", "rho-a", "cosine_cov", "corr_cov")
ALIASES = {"corr": "pearson"}

FLAT = 32
"""An RDM is constant in a sample when its variance is below so many rounding units of its mean square."""

TILE = 256
"""Columns of products that are held at a time: memory stays at so many RDMs."""


class Similarity(NamedTuple):
    """How alike RDMs are under each of k samples of stimuli.

    Attributes:
        across: (k, n_models, n_subjects), models with subjects.
        within: (k, n_subjects, n_subjects), subjects with each other.
        length: (k, n_subjects), length of each subject in the space of the comparator.
        scale: (k, n_subjects), what each subject is divided by before subjects are averaged.
    """

    across: jax.Array
    within: jax.Array
    length: jax.Array
    scale: jax.Array


def canonical(comparator: str) -> str:
    """Name of a comparator that samples can be drawn for; "corr" is "pearson".

    Raises:
        ValueError: for another name.
    """
    name = ALIASES.get(comparator, comparator)
    if name not in COMPARATORS:
        raise ValueError(
            f"comparator={comparator!r} cannot be bootstrapped: it would compare all pairs of pairs in every sample. {nearest(comparator, (*COMPARATORS, *ALIASES))}"
        )
    return name


def pair_weights(counts: jax.Array) -> jax.Array:
    """How often each pair of different stimuli is in each sample. (k, n) -> (k, n_pairs)"""
    first, second = np.triu_indices(counts.shape[1], 1)
    return counts[:, first] * counts[:, second]


def similarity(models: jax.Array, data: jax.Array, counts: jax.Array, comparator: str) -> Similarity:
    """Compare all models with all subjects, and subjects with each other, under each sample of stimuli.

    Pairs of a stimulus with its own copy are left out: their dissimilarity is 0 by construction.

    Args:
        models: (n_pairs, n_models) dissimilarities.
        data: (n_pairs, n_subjects) dissimilarities.
        counts: (k, n_stimuli), how often each sample holds each stimulus.
        comparator: "pearson", "cosine", "cosine_cov" or "corr_cov".
    Returns:
        Similarity; 0 for a model without spread in a sample, NaN for a subject without.
    Source: Diedrichsen et al. 2021, arXiv 2007.02789 (the whitened forms).
    """
    n_models = models.shape[1]
    weights, total = pair_weights(counts).astype(data.dtype), _n_drawn(counts).astype(data.dtype)
    values = jnp.concatenate([models, data], axis=1)
    if comparator in WHITENED:
        return _whitened_similarity(values, n_models, counts.astype(data.dtype), weights, total, comparator)
    values = _scaled(values, is_centred=comparator == "pearson")
    cross, squares, sums = _products(values, n_models, weights)
    mean_squares = squares
    if comparator == "pearson":
        mean = sums / total[:, None]
        cross = cross - mean[:, :, None] * mean[:, None, n_models:] * total[:, None, None]
        squares = squares - mean**2 * total[:, None]
    return _normalised(cross, squares, mean_squares, n_models, None)


def _n_drawn(counts: jax.Array) -> jax.Array:
    """Pairs of different stimuli in each sample. (k, n) -> (k,)"""
    return (jnp.sum(counts, axis=1, dtype=counts.dtype) ** 2 - jnp.sum(counts**2, axis=1, dtype=counts.dtype)) // 2


def _scaled(values: jax.Array, *, is_centred: bool) -> jax.Array:
    """Divide columns by their largest entry, after centring if asked: float32 sums then keep their digits."""
    if is_centred:
        is_flat = jnp.max(values, axis=0) == jnp.min(values, axis=0)
        values = jnp.where(is_flat[None, :], 0, values - jnp.mean(values, axis=0)[None, :])
    largest = jnp.max(jnp.abs(values), axis=0)
    return values / jnp.where(largest == 0, 1, largest)[None, :]


def _products(values: jax.Array, n_models: int, weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weighted sums over pairs: of all columns times the subjects' columns, of squares and of the columns.

    (n_pairs, m), (k, n_pairs) -> (k, m, m - n_models), (k, m), (k, m)
    """
    data = values[:, n_models:]
    n_columns, n_subjects = values.shape[1], data.shape[1]
    width = min(n_columns, max(1, TILE // (n_subjects + 2)))
    n_tiles = -(-n_columns // width)
    tiles = jnp.pad(values, ((0, 0), (0, n_tiles * width - n_columns))).T.reshape(n_tiles, width, -1)

    def of_tile(tile: jax.Array) -> jax.Array:
        columns = tile.T
        beside = (columns[:, :, None] * data[:, None, :]).reshape(columns.shape[0], -1)
        return dot(weights, jnp.concatenate([beside, columns**2, columns], axis=1))

    done = of_tile(tiles[0])[None] if n_tiles == 1 else jax.lax.map(of_tile, tiles)
    parts = jnp.split(done, [width * n_subjects, width * (n_subjects + 1)], axis=2)
    cross = jnp.moveaxis(parts[0].reshape(n_tiles, -1, width, n_subjects), 0, 1)
    cross = cross.reshape(-1, n_tiles * width, n_subjects)[:, :n_columns]
    squares, sums = (jnp.moveaxis(p, 0, 1).reshape(-1, n_tiles * width)[:, :n_columns] for p in parts[1:])
    return cross, squares, sums


def _normalised(
    cross: jax.Array, squares: jax.Array, mean_squares: jax.Array, n_models: int, scale: jax.Array | None
) -> Similarity:
    """Divide inner products by lengths. (k, m, n_subjects), (k, m), (k, m), (k, n_subjects) -> Similarity"""
    is_flat = squares <= FLAT * jnp.finfo(cross.dtype).eps * mean_squares
    length = jnp.sqrt(jnp.where(is_flat, 1, squares))
    of_data = jnp.where(is_flat[:, n_models:], jnp.nan, length[:, n_models:])
    cosine = jnp.where(is_flat[:, :, None], 0, cross) / (length[:, :, None] * of_data[:, None, :])
    return Similarity(cosine[:, :n_models], cosine[:, n_models:], of_data, of_data if scale is None else scale)


# Whitened forms: RDMs as doubly centred matrices. In a sample the entries of copies are missing, and centring is
# the projection onto matrices of zero row sums that are 0 where an entry is missing.


def _row_means(rho: jax.Array, counts: jax.Array) -> jax.Array:
    """What centring subtracts for each stimulus, from its row sums. (k, n, m), (k, n) -> (k, n, m)

    Row sums of stimulus i vanish if (1 + N/2 - c_i) l_i + L/2 = rho_i, where L is the sum of c_j l_j. A stimulus drawn
    1 + N/2 times, which small samples hold, leaves no l_i in its own equation but gives L.
    """
    often = counts[:, :, None]
    most = 1 + jnp.sum(often, axis=1, keepdims=True) / 2
    is_half = often == most
    room = jnp.where(is_half, 1, most - often)
    share = jnp.where(is_half, 0, often / room)
    both = jnp.sum(share * rho, axis=1, keepdims=True) / (1 + jnp.sum(share, axis=1, keepdims=True) / 2)
    given = 2 * jnp.sum(jnp.where(is_half, rho, 0), axis=1, keepdims=True)
    both = jnp.where(jnp.any(is_half, axis=1, keepdims=True), given, both)
    means = jnp.where(is_half, 0, (rho - both / 2) / room)
    return jnp.where(is_half, (both - jnp.sum(often * means, axis=1, keepdims=True)) / most, means)


def _centred_gram(values: jax.Array) -> jax.Array:
    """Doubly centred matrices of inner products. (n_pairs, m) -> (n, n, m)"""
    n_stimuli = n_stimuli_of(values.shape[0])
    is_diagonal = np.eye(n_stimuli, dtype=bool)[:, :, None]
    matrix = jnp.where(is_diagonal, 0, -values[pair_index(n_stimuli)] / 2)
    means = _row_means(jnp.sum(matrix, axis=1)[None], jnp.ones((1, n_stimuli), values.dtype))[0]
    return matrix - (means[:, None, :] + means[None, :, :]) / 2


def _whitened_similarity(
    values: jax.Array, n_models: int, counts: jax.Array, weights: jax.Array, total: jax.Array, comparator: str
) -> Similarity:
    """cosine_cov and corr_cov. (n_pairs, m), (k, n), (k, n_pairs), (k,) -> Similarity"""
    is_centred = comparator == "corr_cov"
    values = _scaled(values, is_centred=is_centred)
    of_squares, of_values = dot(weights, values[:, n_models:] ** 2), dot(weights, values)
    # The last column is the RDM of ones: subtracting the mean of an RDM is subtracting a multiple of it.
    gram = _centred_gram(jnp.concatenate([values, jnp.ones_like(values[:, :1])], axis=1))
    n_stimuli, width = gram.shape[1:]
    cross, squares, _ = _products(gram[np.triu_indices(n_stimuli, 1)], n_models, weights)
    rho = dot(counts, gram.reshape(n_stimuli, -1)).reshape(-1, n_stimuli, width)
    diagonal = jnp.moveaxis(jnp.diagonal(gram), 0, 1)
    rho = rho + (1 - counts)[:, :, None] * diagonal[None]
    means = _row_means(rho, counts)
    own = jnp.broadcast_to(diagonal[None], rho.shape)
    left = jnp.concatenate([counts[:, :, None] * own, -counts[:, :, None] * rho], axis=1)
    right = jnp.concatenate([own, means], axis=1)
    cross = 2 * cross + jnp.einsum("kim,kis->kms", left, right[:, :, n_models:], precision=HIGHEST)
    uncentred = 2 * squares
    squares = uncentred + jnp.sum(left * right, axis=1)
    if is_centred:
        mean = of_values / total[:, None]
        mean = jnp.concatenate([mean, jnp.zeros_like(mean[:, :1])], axis=1)
        with_ones, of_ones = cross[:, :, -1], cross[:, -1, -1]
        beside = mean[:, :, None] * with_ones[:, None, n_models:] + mean[:, None, n_models:] * with_ones[:, :, None]
        cross = cross - beside + mean[:, :, None] * mean[:, None, n_models:] * of_ones[:, None, None]
        squares = squares - 2 * mean * with_ones + mean**2 * of_ones[:, None]
        of_squares = of_squares - mean[:, n_models:-1] ** 2 * total[:, None]
    scale = jnp.sqrt(of_squares)
    return _normalised(cross[:, :-1, :-1], squares[:, :-1], uncentred[:, :-1], n_models, scale)


# Ranks.


def orders(values: jax.Array, rounding: float = 0.0) -> Order:
    """Sort each column once; ranks in every sample are then cumulative sums. (n_pairs, m) -> Order of (m, n_pairs)"""
    return jax.vmap(lambda column: order_of(column, rounding))(values.T)


def doubled_ranks(order: Order, weights: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Twice the rank of each entry in a sample, less 1: whole numbers, so that averages over subjects keep their ties.

    Args:
        order: Order of m columns from `orders`.
        weights: (n_pairs,) int32, how often the sample holds each pair.
        dtype: floating dtype in which weights are added up, exact up to 2^23 in float32.
    Returns:
        (m, n_pairs) int32.
    """
    ranks = jax.vmap(lambda one: weighted_rank(one, weights.astype(dtype)))(order)
    return (2 * ranks - 1).astype(jnp.int32)


def unit_ranks(ranks: jax.Array, weights: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Centred ranks in units of half the number of pairs. (..., n_pairs) int32 -> (..., n_pairs) in [-1, 1]"""
    total = jnp.sum(weights, dtype=jnp.int32)
    return (ranks - total).astype(dtype) / total.astype(dtype)


def rank_similarity(units: jax.Array, n_models: int, weights: jax.Array, comparator: str) -> jax.Array:
    """Spearman or rho-a of models and subjects in one sample.

    Args:
        units: (m, n_pairs) from `unit_ranks`, models first.
        n_models: how many of them are models.
        weights: (n_pairs,) int32, how often the sample holds each pair.
        comparator: "spearman" or "rho-a".
    Returns:
        (n_models, n_subjects); 0 for a constant model, NaN for a constant subject.
    """
    beside = weights.astype(units.dtype)[None, :] * units
    cross = dot(beside[:n_models], units[n_models:].T)
    squares = jnp.sum(beside * units, axis=1)
    return divide_ranks(cross, squares[:n_models, None], squares[None, n_models:], weights, comparator)


def divide_ranks(
    cross: jax.Array, of_model: jax.Array, of_data: jax.Array, weights: jax.Array, comparator: str
) -> jax.Array:
    """Inner products of unit ranks to correlations; spearman by lengths, rho-a by the length of ranks without ties."""
    if comparator == "rho-a":
        total = jnp.sum(weights, dtype=jnp.int32).astype(cross.dtype)
        return jnp.where(of_data > 0, 3 * cross * total / (total**2 - 1), jnp.nan)
    safe = jnp.where(of_model > 0, of_model, 1)
    return cross / (jnp.sqrt(safe) * jnp.sqrt(jnp.where(of_data > 0, of_data, jnp.nan)))


def over_chunks(
    score: Callable[[jax.Array, jax.Array], tuple], first: jax.Array, second: jax.Array, size: int
) -> tuple:
    """Apply to chunks of samples one after the other; the filling repeats ones and is cut off.

    (n_samples, ...), (n_samples, ...) -> tuple of (n_samples, ...)
    """
    n_samples = first.shape[0]
    size = min(size, n_samples)

    def chunks(values: jax.Array) -> jax.Array:
        padded = jnp.pad(values, ((0, -n_samples % size), (0, 0)), constant_values=1)
        return padded.reshape(-1, size, values.shape[1])

    done = jax.lax.map(lambda chunk: score(*chunk), (chunks(first), chunks(second)))
    return tuple(part.reshape(-1, *part.shape[2:])[:n_samples] for part in done)
