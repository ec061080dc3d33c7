"""Dissimilarities between patterns of stimuli, over the true width and over the units that two stimuli share."""

import jax
import jax.numpy as jnp

from jaxalign.compute.gram import row_centre, upper_triangle
from jaxalign.compute.stats import dot
from jaxalign.errors import nearest

DISTANCES = {
    "correlation": "1 - Pearson r over units, in [0, 2]",
    "cosine": "1 - cosine, in [0, 2]",
    "euclidean": "root of the summed squared differences, in the unit of the patterns (rsatoolbox: `sqeuclidean` per channel)",
    "sqeuclidean": "summed squared differences",
    "mahalanobis": "summed squared differences under a noise precision, never rooted (scipy and mne-rsa root it)",
    "poisson": "symmetrised Kullback-Leibler divergence of Poisson rates",
    "difference": "absolute difference of a single channel",
}
"""Distances of one pattern per stimulus, and what each is."""

CROSS_VALIDATED = {
    "crossnobis": "cross-validated `mahalanobis`: signed, 0 on average for equal stimuli",
    "poisson_cv": "cross-validated `poisson`: signed",
}
"""Distances that take independent measurements of each stimulus, and what each is."""

ALIASES = {
    "pearson": "correlation",
    "corr": "correlation",
    "cos": "cosine",
    "squared euclidean": "sqeuclidean",
    "squared_euclidean": "sqeuclidean",
    "squared mahalanobis": "mahalanobis",
    "squared_mahalanobis": "mahalanobis",
    "cityblock": "difference",
    "absolute": "difference",
}
"""Names by which rsatoolbox, scipy and mne-rsa know the same distances."""

SUMS = ("euclidean", "sqeuclidean", "mahalanobis", "poisson")
"""Distances that are sums over units, or the root of one."""

PRIOR_LAMBDA, PRIOR_WEIGHT = 1.0, 0.1
"""Rate that a unit is thought to have before any count, and how many measurements that is worth (as rsatoolbox)."""

ROUNDING_EPS = 8
"""Summed differences below so many rounding units of the patterns' own power are those of equal patterns: 0."""


def distance_name(distance: str) -> str:
    """The name in DISTANCES or CROSS_VALIDATED of a distance or of its alias.

    Raises:
        ValueError: if nothing has that name.
    """
    known = {**ALIASES, **{name: name for name in (*DISTANCES, *CROSS_VALIDATED)}}
    if distance not in known:
        raise ValueError(f"distance={distance!r} is not a distance. {nearest(distance, known)}")
    return known[distance]


def dissimilarities(
    values: jax.Array,
    width: jax.Array,
    distance: str,
    *,
    is_unit: jax.Array | None = None,
    precision: jax.Array | None = None,
    is_per_channel: bool = False,
) -> jax.Array:
    """Dissimilarity of every two stimuli over the true width; each pair stands for itself.

    Columns are centred before they are multiplied, so that an offset that all stimuli share costs no digits. Equal
    patterns are 0 apart. With `is_unit`, a pair is compared over the units that both stimuli have: means and lengths
    are those of these units, and sums are scaled to the full width, as if the missing units were like the others.
    Sums then take three to six times as long; correlation and cosine, one stimulus at a time, 25 to 150 times.

    Args:
        values: (n, width) patterns, any unit; poisson takes counts or rates.
        width: () number of true columns; columns above it never count.
        distance: a name in DISTANCES or an alias of one.
        is_unit: (n, width) bool, false where a stimulus lacks a unit; None when all have all.
        precision: (width, width) inverse noise covariance of mahalanobis; None is the identity.
        is_per_channel: divide sums over units by their number (rsatoolbox always does); euclidean by its root.
            Distances that are no sums stay the same.
    Returns:
        (n_pairs,); NaN for the pairs of a stimulus whose pattern is constant (correlation), 0 (cosine), not finite, or
        has a rate of -PRIOR_LAMBDA * PRIOR_WEIGHT or less; and for pairs that share no unit (correlation: fewer than 2).
    Raises:
        ValueError: if the distance is unknown, or does not fit the number of channels, the mask or the precision.
    Source: Kriegeskorte et al. 2008, Front. Syst. Neurosci. 2:4; Schuett et al. 2023, eLife 12:e82566 (poisson).
    """
    name = distance_name(distance)
    _check(name, values, is_unit, precision)
    width = jnp.asarray(width)
    is_true = (jnp.arange(values.shape[1], dtype=width.dtype) < width)[None, :]
    count = width.astype(values.dtype)
    is_used = jnp.broadcast_to(is_true, values.shape) if is_unit is None else is_unit & is_true
    is_bad = jnp.any(is_used & ~_is_valid(name, values), axis=1)
    given = jnp.where(is_used & ~is_bad[:, None], values, 0)
    if is_unit is None:
        distances, unit = _complete(name, given, width, is_used, precision)
    else:
        distances, unit = _shared(name, given, is_used, count)
    if is_per_channel and name in SUMS:
        distances = distances / count
    distances = jnp.sqrt(distances) * unit if name == "euclidean" else distances * unit * unit
    return jnp.where(upper_triangle(is_bad[:, None] | is_bad[None, :]), jnp.nan, distances)


def _is_valid(name: str, values: jax.Array) -> jax.Array:
    is_finite = jnp.isfinite(values)
    return is_finite & (values > -PRIOR_LAMBDA * PRIOR_WEIGHT) if name == "poisson" else is_finite


def _check(name: str, values: jax.Array, is_unit: jax.Array | None, precision: jax.Array | None) -> None:
    if name in CROSS_VALIDATED:
        raise ValueError(
            f"{name} takes several independent measurements of each stimulus: call compute.crossnobis.{name}(patterns) with patterns of shape (n_partitions, n, width)."
        )
    if name in ("correlation", "cosine") and values.shape[1] == 1:
        raise ValueError(
            f"{name} of a single channel is undefined: a pattern needs at least 2. Use distance='difference' or 'euclidean'."
        )
    if name == "difference" and values.shape[1] != 1:
        raise ValueError(f"difference compares a single channel and values has {values.shape[1]}. Use 'euclidean'.")
    if is_unit is not None and is_unit.shape != values.shape:
        raise ValueError(f"is_unit has shape {is_unit.shape} and values {values.shape}: they must be equal.")
    if precision is None:
        return
    if name != "mahalanobis":
        raise ValueError(f"{name} takes no precision. Use 'mahalanobis', or whiten the patterns first.")
    if precision.shape != (values.shape[1],) * 2:
        raise ValueError(f"precision has shape {precision.shape} and the patterns have {values.shape[1]} channels.")
    if is_unit is not None:
        raise ValueError(
            "mahalanobis with missing units is undefined: the precision of fewer channels is not a part of the precision of all. Drop the channels or the stimuli, or whiten the patterns first and use 'sqeuclidean'."
        )


# All stimuli have all units.


def _complete(
    name: str, values: jax.Array, width: jax.Array, is_used: jax.Array, precision: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Distances in a unit in which squares neither overflow nor vanish, and that unit. -> (n_pairs,), ()"""
    one = jnp.ones((), values.dtype)
    if name == "correlation":
        centred = row_centre(values, width)
        return _chord(centred, _is_flat(centred, values)), one
    if name == "cosine":
        return _chord(values, _is_zero(values)), one
    if name == "poisson":
        rate, log_rate = (_moved(side, is_used) for side in rates(values))
        return _products(rate, log_rate), one
    if name == "difference":
        return upper_triangle(jnp.abs(values - values.T)), one
    moved = _moved(values, is_used)
    unit = largest_magnitude(moved)
    moved = moved / unit
    if precision is not None:
        return _products(dot(moved, precision * unit * unit), moved), one
    return _products(moved, moved), unit


def _chord(values: jax.Array, is_undefined: jax.Array) -> jax.Array:
    """1 - cosine: half the squared distance of patterns of length 1. Moved to their mean they keep their digits where
    one huge unit makes all cosines nearly 1. (n, width), (n,) -> (n_pairs,)
    """
    unit = _unit(values, is_undefined)
    moved = unit - jnp.mean(unit, axis=0)[None, :]
    is_missing = upper_triangle(is_undefined[:, None] | is_undefined[None, :])
    return jnp.where(is_missing, jnp.nan, _products(moved, moved) / 2)


def _is_zero(values: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(values), axis=1) == 0


def _is_flat(centred: jax.Array, values: jax.Array) -> jax.Array:
    """Tell which rows vary by no more than rounding. (n, width) twice -> (n,) bool"""
    spread, largest = (jnp.max(jnp.abs(side), axis=1) for side in (centred, values))
    return spread <= 8 * jnp.finfo(values.dtype).eps * largest


def _moved(values: jax.Array, is_used: jax.Array) -> jax.Array:
    """Subtract the column means over what is used; the rest becomes 0. (n, width) twice -> (n, width)"""
    count = jnp.maximum(jnp.sum(is_used, axis=0), 1).astype(values.dtype)
    mean = jnp.sum(jnp.where(is_used, values, 0), axis=0) / count
    return jnp.where(is_used, values - mean[None, :], 0)


def _products(left: jax.Array, right: jax.Array) -> jax.Array:
    """(l_i - l_j)(r_i - r_j)' of every pair, never negative: rounding becomes 0. (n, width) twice -> (n_pairs,)"""
    kernel = dot(left, right.T)
    own = jnp.diagonal(kernel)
    return _without_rounding(jnp.broadcast_to(own[:, None], kernel.shape), kernel)


def _without_rounding(own: jax.Array, kernel: jax.Array) -> jax.Array:
    """own_ij + own_ji - kernel_ij - kernel_ji, 0 where it is no more than rounding. (n, n) twice -> (n_pairs,)"""
    distances = own + own.T - kernel - kernel.T
    power = jnp.abs(own) + jnp.abs(own.T)
    return upper_triangle(jnp.where(distances <= ROUNDING_EPS * jnp.finfo(own.dtype).eps * power, 0, distances))


def rates(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rates drawn to the prior and their logarithms, NaN where a rate is not positive."""
    rate = (values + PRIOR_LAMBDA * PRIOR_WEIGHT) / (1 + PRIOR_WEIGHT)
    return rate, jnp.log(jnp.where(rate > 0, rate, jnp.nan))


def largest_magnitude(values: jax.Array) -> jax.Array:
    """Largest absolute value, 1 if all are 0. -> ()"""
    largest = jnp.max(jnp.abs(values))
    return jnp.where(largest == 0, 1, largest)


def _unit(values: jax.Array, is_undefined: jax.Array) -> jax.Array:
    """Give each row length 1, or 0 where undefined. (n, width), (n,) -> (n, width)"""
    largest = jnp.where(is_undefined, 1, jnp.max(jnp.abs(values), axis=1))
    values = jnp.where(is_undefined[:, None], 0, values / largest[:, None])
    return values / jnp.where(is_undefined, 1, jnp.sqrt(jnp.sum(values**2, axis=1)))[:, None]


# Stimuli lack units.


def _shared(name: str, values: jax.Array, is_unit: jax.Array, width: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Distances over the units that both stimuli have, and the unit that sums of squares are in. -> (n_pairs,), ()"""
    one, weight = jnp.ones((), values.dtype), is_unit.astype(values.dtype)
    count = upper_triangle(dot(weight, weight.T))
    if name == "difference":
        return jnp.where(count < 1, jnp.nan, upper_triangle(jnp.abs(values - values.T))), one
    if name in ("correlation", "cosine"):
        return _chords_of_pairs(values, is_unit, is_centred=name == "correlation"), one
    share = width / jnp.where(count < 1, jnp.nan, count)
    if name == "poisson":
        rate, log_rate = (_moved(side, is_unit) for side in rates(values))
        return _shared_products(rate, log_rate, weight) * share, one
    moved = _moved(values, is_unit)
    unit = largest_magnitude(moved)
    return _shared_products(moved / unit, moved / unit, weight) * share, unit


def _shared_products(left: jax.Array, right: jax.Array, weight: jax.Array) -> jax.Array:
    """`_products` over the units that both stimuli have; both sides are 0 elsewhere."""
    return _without_rounding(dot(left * right, weight.T), dot(left, right.T))


def _chords_of_pairs(values: jax.Array, is_unit: jax.Array, *, is_centred: bool) -> jax.Array:
    """1 - cosine, or 1 - r, over shared units, one stimulus against all others at a time. (n, width) twice -> (n_pairs,)

    Masked matrix products would be faster, but lose all digits of a pair when one of the two has a huge unit that the
    other lacks, or when one huge unit makes all r nearly 1.
    """
    largest = jnp.max(jnp.abs(values), axis=1)
    values = values / jnp.where(largest == 0, 1, largest)[:, None]

    def with_all(stimulus: tuple[jax.Array, jax.Array]) -> jax.Array:
        is_common = stimulus[1][None, :] & is_unit
        count = jnp.maximum(jnp.sum(is_common, axis=1), 1).astype(values.dtype)
        sides = [jnp.where(is_common, side, 0) for side in (stimulus[0][None, :], values)]
        (one, is_one_flat), (other, is_other_flat) = (_standard(side, is_common, count, is_centred) for side in sides)
        chord = jnp.sum((one - other) ** 2, axis=1) / 2
        rounding = (ROUNDING_EPS * jnp.finfo(values.dtype).eps) ** 2
        return jnp.where(is_one_flat | is_other_flat, jnp.nan, jnp.where(chord <= rounding, 0, chord))

    return upper_triangle(jax.lax.map(with_all, (values, is_unit)))


def _standard(side: jax.Array, is_common: jax.Array, count: jax.Array, is_centred: bool) -> tuple[jax.Array, jax.Array]:
    """Rows of length 1 over the common units, and whether nothing but rounding gives a row its direction."""
    power = jnp.sqrt(jnp.sum(side**2, axis=1))
    if is_centred:
        side = jnp.where(is_common, side - (jnp.sum(side, axis=1) / count)[:, None], 0)
    length = jnp.sqrt(jnp.sum(side**2, axis=1))
    is_flat = length <= (8 * jnp.finfo(side.dtype).eps if is_centred else 0) * power
    return side / jnp.where(is_flat, 1, length)[:, None], is_flat
