"""Scores of predictions, one per target, and their split over feature sets; names and shapes are himalaya's."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxalign.compute import stats
from jaxalign.compute.linalg import symmetric_eigen
from jaxalign.compute.stats import centre, dot, is_constant, mean


@jax.jit
def r2_score(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """1 - SS_res / SS_tot of each target; may be negative.

    NaN for a target that is constant or holds NaN, and for predictions that hold NaN; himalaya and scikit-learn say 0
    (or 1) for a constant target.

    Args:
        y_true: (n_samples, n_targets), any unit.
        y_pred: (n_samples, n_targets) or (n_predictions, n_samples, n_targets), in the unit of y_true.
    Returns:
        (n_targets,) or (n_predictions, n_targets).
    Raises:
        ValueError: if the shapes disagree.
    """
    return _mapped(stats.r2, y_true, y_pred)


@jax.jit
def correlation_score(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """Pearson r of each target: NaN for a constant target, 0 for a constant prediction.

    Args:
        y_true: (n_samples, n_targets), any unit.
        y_pred: (n_samples, n_targets) or (n_predictions, n_samples, n_targets), any unit.
    Returns:
        (n_targets,) or (n_predictions, n_targets).
    Raises:
        ValueError: if the shapes disagree.
    """
    return _mapped(stats.pearson, y_true, y_pred)


@jax.jit
def l2_neg_loss(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """Minus the mean squared error of each target; defined for a constant target too.

    Args:
        y_true: (n_samples, n_targets), any unit.
        y_pred: (n_samples, n_targets) or (n_predictions, n_samples, n_targets), in the unit of y_true.
    Returns:
        (n_targets,) or (n_predictions, n_targets), squared units.
    Raises:
        ValueError: if the shapes disagree.
    """
    return _mapped(lambda truth, predicted, rows: -mean((truth - predicted) ** 2, rows), y_true, y_pred)


@jax.jit
def explained_variance_score(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """1 - variance of the residual / variance of the target: r2 that forgives a wrong mean. NaN as in r2_score.

    Args:
        y_true: (n_samples, n_targets), any unit.
        y_pred: (n_samples, n_targets) or (n_predictions, n_samples, n_targets), in the unit of y_true.
    Returns:
        (n_targets,) or (n_predictions, n_targets).
    Raises:
        ValueError: if the shapes disagree.
    """

    def score(truth: jax.Array, predicted: jax.Array, rows: jax.Array) -> jax.Array:
        return 1 - jnp.sum(centre(truth - predicted, rows) ** 2, axis=0) / _total(truth, rows)

    return _mapped(score, y_true, y_pred)


@partial(jax.jit, static_argnames=("include_correlation",))
def r2_score_split(y_true: jax.Array, y_pred: jax.Array, include_correlation: bool = True) -> jax.Array:
    """Share of each feature set in the joint r2 by the product measure; the shares sum to r2_score of the summed parts.

    With deviations y and p_g from the means over samples, p = sum_g p_g and SS_tot = sum y^2, the share of set g is
    sum(2 y p_g - p_g p) / SS_tot plus its share n e (m_g - m_y / k) / SS_tot of the error e of the mean, where m are
    means and k counts the sets. Where m_y = 0, which himalaya asks of the caller, this is himalaya's score. Subtract
    the intercept of the model from y_true: it belongs to no set. Shares may be negative. NaN as in r2_score.

    Args:
        y_true: (n_samples, n_targets), any unit.
        y_pred: (n_sets, n_samples, n_targets), the part of the prediction that each feature set makes; two axes are
            one set.
        include_correlation: False gives the r2 of each part alone; these do not sum to anything.
    Returns:
        (n_sets, n_targets), or (n_targets,) for one set without its axis.
    Raises:
        ValueError: if the shapes disagree.
    Source: Pratt 1987; St-Yves & Naselaris 2018, NeuroImage 180:188; Dupre la Tour et al. 2022, NeuroImage 264:119728.
    """
    if not include_correlation:
        return r2_score(y_true, y_pred)
    parts = _parts(y_true, y_pred)
    rows = jnp.ones(len(y_true), bool)
    truth = centre(y_true, rows)
    total = _total(y_true, rows)
    joint = centre(parts.sum(0), rows)
    off = mean(y_true - parts.sum(0), rows)
    per_set = mean(y_true, rows) / len(parts)
    n_samples = jnp.asarray(len(y_true), y_true.dtype)

    def share(part: jax.Array) -> jax.Array:
        products = jnp.sum((2 * truth - joint) * centre(part, rows), axis=0)
        return (products + n_samples * off * (mean(part, rows) - per_set)) / total

    shares = jax.lax.map(share, parts)
    return shares if y_pred.ndim == 3 else shares[0]


@partial(jax.jit, static_argnames=("platform",))
def r2_score_split_svd(y_true: jax.Array, y_pred: jax.Array, *, platform: str = "cpu") -> jax.Array:
    """Share of each feature set in the joint r2 by relative weights; the shares sum to r2_score of the summed parts.

    With the parts of a target as columns of P and G = P'P, the weight of set j is sum_k (G^1/2)_jk^2 / G_kk times
    (sum_l (G^1/2)_kl)^2. Shares have the sign of the joint r2. Parts enter as they are, not centred, as in himalaya.
    A target whose parts are all 0 is shared equally. NaN as in r2_score.

    Args:
        y_true: (n_samples, n_targets), any unit; the sum of shares is meant for the mean 0 that himalaya asks for.
        y_pred: (n_sets, n_samples, n_targets), the part of the prediction that each feature set makes; two axes are
            one set.
        platform: "cpu", "cuda" or "tpu", for the eigenvectors of G.
    Returns:
        (n_sets, n_targets), or (n_targets,) for one set without its axis.
    Raises:
        ValueError: if the shapes disagree.
    Source: Johnson 2000, Multivariate Behavioral Research 35:1.
    """
    parts = _parts(y_true, y_pred)
    largest = jnp.max(jnp.abs(parts), axis=(0, 1))
    unit = jnp.moveaxis(parts, 2, 0) / jnp.where(largest == 0, 1, largest)[:, None, None]
    gram = dot(unit, jnp.swapaxes(unit, 1, 2))
    length = jnp.diagonal(gram, axis1=1, axis2=2)
    values, vectors = symmetric_eigen(gram, platform)
    root = dot(vectors * jnp.sqrt(values)[:, None, :], jnp.swapaxes(vectors, 1, 2))
    beta = root.sum(2) ** 2 / jnp.where(length == 0, 1, length)
    weights = jnp.sum(root**2 * beta[:, None, :], axis=2)
    weights = jnp.where((weights.sum(1) == 0)[:, None], 1, weights)
    shares = (weights / weights.sum(1)[:, None]).T * r2_score(y_true, parts.sum(0))[None, :]
    return shares if y_pred.ndim == 3 else shares[0]


@jax.jit
def correlation_score_split(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """Share of each feature set in the joint Pearson r; the shares sum to correlation_score of the summed parts.

    The share of set g is cov(y, p_g) / (sd(y) sd(p)), p the summed parts; 0 where p is constant, NaN where y is.

    Args:
        y_true: (n_samples, n_targets), any unit.
        y_pred: (n_sets, n_samples, n_targets), the part of the prediction that each feature set makes; two axes are
            one set.
    Returns:
        (n_sets, n_targets), or (n_targets,) for one set without its axis.
    Raises:
        ValueError: if the shapes disagree.
    """
    parts = _parts(y_true, y_pred)
    rows = jnp.ones(len(y_true), bool)
    truth = stats.unit_norm(y_true, rows)
    joint = parts.sum(0)
    length = stats.scale(joint, rows) * jnp.sqrt(jnp.asarray(len(y_true), y_true.dtype))
    is_flat = length == 0

    def share(part: jax.Array) -> jax.Array:
        guess = centre(part, rows) / jnp.where(is_flat, 1, length)[None, :]
        return jnp.sum(truth * jnp.where(is_flat[None, :], 0, guess), axis=0)

    shares = jax.lax.map(share, parts)
    return shares if y_pred.ndim == 3 else shares[0]


def _mapped(score, y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """One score per target for every prediction, one prediction at a time. -> (n_targets,) or (n_predictions, ...)"""
    rows = jnp.ones(len(y_true), bool)
    scores = jax.lax.map(lambda one: score(y_true, one, rows), _parts(y_true, y_pred))
    return scores if y_pred.ndim == 3 else scores[0]


def _parts(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """Predictions with a leading axis, if they fit the targets. -> (n_predictions, n_samples, n_targets)"""
    if y_true.ndim != 2 or y_pred.ndim not in (2, 3) or y_pred.shape[-2:] != y_true.shape:
        raise ValueError(
            f"y_true has shape {y_true.shape} and y_pred {y_pred.shape}: give (n_samples, n_targets), and for y_pred the same or one leading axis more."
        )
    return y_pred.reshape(-1, *y_true.shape)


def _total(y_true: jax.Array, rows: jax.Array) -> jax.Array:
    """Sum of squared deviations; NaN for a constant target. (n, m), (n,) -> (m,)"""
    return jnp.where(is_constant(y_true, rows), jnp.nan, jnp.sum(centre(y_true, rows) ** 2, axis=0))
