"""Nulls over sets of rows: mean scores when the responses of each set meet the features of another, or shifted ones."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.stats import dot


def without_length(scores: jax.Array, sizes: np.ndarray) -> jax.Array:
    """Scores of all pairs of sets moved to one number of common rows, by a straight line over all of them.

    Short smooth series look more alike, and the common rows of two sets are fewer than a set's own, so raw mismatches lie
    above what smoothness gives whole sets: with 12 independent sentences of 60 to 137 frames the mean mismatch is .252,
    the mean score .223, and p <= .05 in .014 of 1,000 null data sets; after this, in .044, with a planted signal found in
    .60 instead of .46. The line is fitted to own and mismatched pairs alike, so that it does not know which are observed.

    Args:
        scores: (n_sets, n_sets, n_fits, n_targets) from `pair_scores`.
        sizes: (n_sets,) rows of each set, from `row_sets.set_sizes`.
    Returns:
        The same shape; the mean over sets of the diagonal is unchanged, and all scores are when sizes are equal.
    """
    sizes = np.asarray(sizes, np.float64)
    common = np.minimum(sizes[:, None], sizes[None, :])
    away = common - common.mean()
    share = away / max((away**2).sum(), 1.0)
    slope = dot(jnp.asarray(share.reshape(1, -1), scores.dtype), scores.reshape(share.size, -1))
    shift = jnp.asarray(common - sizes.mean(), scores.dtype)[:, :, None, None]
    return scores - shift * slope.reshape(1, 1, *scores.shape[2:])


def mismatch_null(scores: jax.Array, matchings: np.ndarray) -> jax.Array:
    """Mean score over sets under each matching of responses with features.

    Args:
        scores: (n_sets, n_sets, n_fits, n_targets) from `pair_scores`, through `without_length` where sizes differ.
        matchings: (n_permutations + 1, n_sets) from `row_sets.mismatches`; row 0 is the identity.
    Returns:
        (n_permutations + 1, n_fits, n_targets); row 0 is observed. `permute.summarise` takes it with a statistics axis.
    """
    responses = jnp.arange(scores.shape[0])
    return jax.lax.map(lambda features: jnp.mean(scores[responses, features], axis=0), jnp.asarray(matchings))


def shift_null(scores: jax.Array, shifts: np.ndarray) -> jax.Array:
    """Mean score over sets when each set's features are shifted by its own number of rows.

    Args:
        scores: (n_sets, n_shifts, n_fits, n_targets) from `shift_scores`.
        shifts: (n_permutations + 1, n_sets) from `row_sets.shifts`; row 0 is zero.
    Returns:
        (n_permutations + 1, n_fits, n_targets); row 0 is observed.
    """
    return mismatch_null(scores, shifts)


def mismatch_mean(scores: jax.Array) -> jax.Array:
    """Mean score over every two different sets: what smoothness alone gives, to be subtracted from the score.

    Args:
        scores: (n_sets, n_sets, n_fits, n_targets) from `pair_scores`, through `without_length` where sizes differ.
    Returns:
        (n_fits, n_targets); NaN where any of the scores is.
    """
    n_sets = scores.shape[0]
    is_own = jnp.eye(n_sets, dtype=bool)[:, :, None, None]
    return jnp.sum(jnp.where(is_own, 0, scores), axis=(0, 1)) / (n_sets * (n_sets - 1))
