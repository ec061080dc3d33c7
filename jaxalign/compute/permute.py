"""The one null that all units share: labellings, scores under each of them, counts and family maxima."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.stats import dot
from jaxalign.contracts import Null, Scores

TIE = 1e-6
"""A permuted score counts as reaching the observed one when it is lower by at most this share of the spread of its cell,
and the rounding of its value: scores that are equal by symmetry differ by rounding, and count on every platform."""


def labellings(n_rows: int, n_permutations: int, seed: int) -> np.ndarray:
    """Relabellings of the stimuli; labelling i depends on (seed, scheme, n_rows, i) alone.

    Args:
        n_rows: stimuli that are relabelled.
        n_permutations: random labellings beside the observed one.
        seed: integer.
    Returns:
        (n_permutations + 1, n_rows) int32; row 0 is the identity.
    """
    rows = np.empty((n_permutations + 1, n_rows), np.int32)
    rows[0] = np.arange(n_rows)
    for index in range(1, n_permutations + 1):
        key = np.random.SeedSequence([seed, 0x1ABE1, n_rows, index])
        rows[index] = np.random.Generator(np.random.Philox(key)).permutation(n_rows)
    return rows


def over_labellings(score: Callable[[jax.Array], jax.Array], null: Null) -> jax.Array:
    """Apply a score to every labelling, one after the other. -> (n_permutations + 1, ...)"""
    return jax.lax.map(score, null.rows)


def with_aggregates(values: jax.Array, null: Null) -> jax.Array:
    """Append the declared aggregates of the targets: NaN where one of their targets is NaN.

    (..., n_targets) -> (..., n_cells)
    """
    is_missing = jnp.isnan(values)
    flat = jnp.where(is_missing, 0, values).reshape(-1, values.shape[-1])
    sums = dot(flat, null.aggregates)
    is_used = (null.aggregates != 0).astype(values.dtype)
    missing = dot(is_missing.astype(values.dtype).reshape(flat.shape), is_used) > 0
    sums = jnp.where(missing, jnp.nan, sums)
    return jnp.concatenate([values, sums.reshape(*values.shape[:-1], null.aggregates.shape[1])], axis=-1)


def summarise(
    scores: jax.Array,
    fold_scores: jax.Array,
    null: Null,
    *,
    tail: str,
    extras: dict[str, jax.Array] | None = None,
) -> Scores:
    """Reduce the scores of all labellings to what a unit keeps.

    Args:
        scores: (n_permutations + 1, n_fits, n_statistics, n_targets); index 0 is observed.
        fold_scores: (n_fits, n_folds, n_statistics, n_targets), observed.
        null: labellings, aggregates and families.
        tail: "greater" or "two-sided".
        extras: alpha, edge, validation of each target, where the metric has them.
    Returns:
        Scores.
    """
    cells = with_aggregates(scores, null)
    mean = jnp.mean(cells, axis=0)
    sd = jnp.std(cells, axis=0)
    z = jnp.where(sd > 0, (cells - mean[None]) / jnp.where(sd > 0, sd, 1)[None], jnp.where(jnp.isnan(mean), jnp.nan, 0))
    ordered = jnp.abs(cells) if tail == "two-sided" else cells
    tested = z if null.is_calibrated else cells
    tested = jnp.abs(tested) if tail == "two-sided" else tested
    observed = ordered[0]
    spread, largest = jnp.max(jnp.abs(cells - mean[None]), axis=0), jnp.max(jnp.abs(cells), axis=0)
    slack = TIE * spread + 2 * jnp.finfo(cells.dtype).eps * largest
    reaches = ordered[1:] >= (observed - slack)[None]
    n_fits, n_targets = scores.shape[1], scores.shape[-1]
    nothing = jnp.full((n_fits, n_targets), jnp.nan, scores.dtype)
    extras = extras or {}
    return Scores(
        value=cells[0],
        fold_value=with_aggregates(fold_scores, null),
        z=z[0],
        exceed_count=jnp.sum(reaches, axis=0, dtype=jnp.int32),
        maxima=family_maxima(tested, null),
        alpha=extras.get("alpha", nothing),
        edge=extras.get("edge", jnp.zeros((n_fits, n_targets), jnp.int8)),
        validation=extras.get("validation", nothing),
    )


def family_maxima(tested: jax.Array, null: Null) -> jax.Array:
    """Largest score of each family under each labelling; -inf for a family without a defined score.

    (n_labellings, n_fits, n_statistics, n_cells) -> (n_fits, n_statistics, n_families, n_labellings)
    """
    defined = jnp.where(jnp.isnan(tested), -jnp.inf, tested)
    member = null.family[None, :] == jnp.arange(null.n_families, dtype=null.family.dtype)[:, None]

    def of_family(is_member: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(is_member, defined, -jnp.inf), axis=-1)

    return jnp.moveaxis(jax.lax.map(of_family, member), (0, 1), (2, 3))
