"""Tables that compare models: means with intervals, tests against 0 and the noise ceiling, and models with each other."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc

from jaxalign.compute.multiplicity import benjamini_hochberg, bonferroni
from jaxalign.compute.rdm_bootstrap import Samples, Variances
from jaxalign.errors import nearest

CORRECTIONS = ("none", "fdr", "bonferroni")
HALVINGS = 80


class Table(NamedTuple):
    """One row per model.

    Attributes:
        mean: (n_models,) score.
        sem: (n_models,) standard error of it.
        interval: (2, n_models), low and high end.
        p_zero: (n_models,), one-sided, against 0.
        p_ceiling: (n_models,), two-sided (t) or one-sided (bootstrap), against the low bound of the noise ceiling.
        difference: (n_models, n_models), row minus column.
        p_difference: (n_models, n_models), two-sided and uncorrected; 1 on the diagonal.
    """

    mean: jax.Array
    sem: jax.Array
    interval: jax.Array
    p_zero: jax.Array
    p_ceiling: jax.Array
    difference: jax.Array
    p_difference: jax.Array


def t_table(mean: jax.Array, ceiling_low: jax.Array, spread: Variances, *, level: float = 0.95) -> Table:
    """Compare models by t tests with variances from a bootstrap or over subjects.

    Args:
        mean: (n_models,) scores: of a bootstrap the mean over its samples, as rsatoolbox reports them, or those of the
            data as they are, which the samples over- or underestimate by their bias.
        ceiling_low: () the low bound of the noise ceiling.
        spread: Variances.
        level: share of intervals that should hold the true score.
    Returns:
        Table.
    Raises:
        ValueError: for a level outside (0, 1).
    Source: Schutt et al. 2023, eLife 12:e82566.
    """
    _check_level(level)
    degrees = spread.degrees
    sem = jnp.sqrt(jnp.maximum(spread.model, 0))
    reach = t_quantile((1 + level) / 2, degrees) * sem
    difference = mean[:, None] - mean[None, :]
    of_zero = _t(mean, spread.model)
    two_sided = t_tails(of_zero, degrees)
    p_difference = t_tails(_t(difference, spread.difference), degrees)
    return Table(
        mean=mean,
        sem=sem,
        interval=jnp.stack([mean - reach, mean + reach]),
        p_zero=jnp.where(of_zero > 0, two_sided / 2, 1 - two_sided / 2),
        p_ceiling=t_tails(_t(mean - ceiling_low, spread.ceiling[:, 0]), degrees),
        difference=difference,
        p_difference=jnp.where(np.eye(len(mean), dtype=bool), 1, p_difference),
    )


def bootstrap_table(samples: Samples, *, level: float = 0.95) -> Table:
    """Compare models by the samples of one bootstrap themselves, without a distribution.

    p is (1 + count) / (1 + n), never 0. Against 0 and the ceiling, samples on the wrong side are counted; between two
    models, twice the samples on the rarer side, samples in which both are equal left out. Samples of a dual bootstrap
    over both are too wide (see `rdm_bootstrap.variances`): prefer `t_table` for them.

    Args:
        samples: evaluations (n_samples, n_models) and ceilings (n_samples, 2); samples with a NaN are left out.
        level: share of intervals that should hold the true score.
    Returns:
        Table; intervals are quantiles.
    Raises:
        ValueError: for a level outside (0, 1), or samples of a dual bootstrap.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap.
    """
    _check_level(level)
    if samples.evaluations.ndim != 2:
        raise ValueError(
            f"Evaluations have shape {samples.evaluations.shape}: give the samples of one scheme, (n_samples, n_models)."
        )
    values, low = samples.evaluations, samples.ceilings[:, 0]
    is_kept = ~jnp.any(jnp.isnan(values), axis=1)
    values = jnp.where(is_kept[:, None], values, jnp.nan)
    n_kept = jnp.sum(is_kept).astype(values.dtype)
    mean = jnp.nanmean(values, axis=0)

    def share(hits: jax.Array) -> jax.Array:
        return (1 + jnp.sum(hits, axis=0).astype(values.dtype)) / (1 + n_kept)

    has_ceiling = ~jnp.any(jnp.isnan(low) & is_kept)
    return Table(
        mean=mean,
        sem=jnp.sqrt(jnp.nansum((values - mean[None]) ** 2, axis=0) / (n_kept - 1)),
        interval=jnp.nanquantile(values, jnp.asarray([(1 - level) / 2, (1 + level) / 2], values.dtype), axis=0),
        p_zero=share(values <= 0),
        p_ceiling=jnp.where(has_ceiling, share(values >= low[:, None]), jnp.nan),
        difference=mean[:, None] - mean[None, :],
        p_difference=_p_of_pairs(values),
    )


def _p_of_pairs(values: jax.Array) -> jax.Array:
    """Two-sided p of each pair of models. (n_samples, n_models) -> (n_models, n_models)"""

    def against(column: jax.Array) -> jax.Array:
        lower = jnp.sum(values < column[:, None], axis=0)
        higher = jnp.sum(values > column[:, None], axis=0)
        p = 2 * (1 + jnp.minimum(lower, higher)).astype(values.dtype) / (1 + lower + higher).astype(values.dtype)
        return jnp.minimum(p, 1)

    return jax.lax.map(against, values.T)


def corrected(p: np.ndarray, correction: str) -> np.ndarray:
    """Correct the p values of pairs of models for their number; each pair counts once.

    Args:
        p: (n_models, n_models) symmetric, from a `Table`.
        correction: "none", "fdr" (Benjamini-Hochberg) or "bonferroni".
    Returns:
        (n_models, n_models) float64, 1 on the diagonal.
    Raises:
        ValueError: for another correction.
    Source: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289.
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"correction={correction!r} is unknown. {nearest(correction, CORRECTIONS)}")
    p = np.asarray(p, np.float64)
    rows, columns = np.triu_indices(len(p), 1)
    pairs = p[rows, columns]
    if correction == "fdr":
        pairs = benjamini_hochberg(pairs, 0.0)
    elif correction == "bonferroni":
        pairs = bonferroni(pairs)
    out = np.ones_like(p)
    out[rows, columns] = out[columns, rows] = pairs
    return out


# Student's t.


def t_tails(t: jax.Array, degrees: jax.Array) -> jax.Array:
    """Probability of a larger |t| by chance; no digits are lost in far tails. (...), () -> (...)"""
    t, degrees = jnp.broadcast_arrays(t, degrees.reshape((1,) * t.ndim))
    return betainc(degrees / 2, jnp.full_like(t, 0.5), degrees / (degrees + t**2))


def t_quantile(share: float, degrees: jax.Array) -> jax.Array:
    """The t below which this share of the distribution lies, at least one half; by halving. (), () -> ()"""
    tails = 2 * (1 - share)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        is_low = betainc(degrees / 2, jnp.full_like(degrees, 0.5), middle) < tails
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    # In x = degrees / (degrees + t^2), which is bounded.
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(degrees), jnp.ones_like(degrees)))
    x = (low + high) / 2
    return jnp.sqrt(degrees * (1 - x) / x)


def _t(value: jax.Array, variance: jax.Array) -> jax.Array:
    """t of a value with its variance; a variance below rounding counts as that, so equal models do not differ."""
    return value / jnp.sqrt(jnp.maximum(variance, jnp.finfo(value.dtype).eps))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: a level lies between 0 and 1, such as 0.95.")
