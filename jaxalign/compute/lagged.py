"""Delayed features: temporal response functions and FIR models by ridge, from Gram matrices built without the delays."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.linalg import symmetric_eigen
from jaxalign.compute.stats import centre, dot, mean

INTERCEPTS = ("before", "bias", "none")


class Trf(NamedTuple):
    """A temporal response function per penalty.

    Attributes:
        weights: (n_alphas, n_features, n_lags, n_targets), responses per feature unit.
        intercept: (n_alphas, n_targets), the unit of the responses; 0 without an intercept.
    """

    weights: jax.Array
    intercept: jax.Array


class Products(NamedTuple):
    """What ridge needs of lagged features; features are the slow index of the rows, lags the fast one.

    Attributes:
        gram: (n_features * n_lags, n_features * n_lags).
        cross: (n_features * n_lags, n_targets).
        lagged_mean: (n_features * n_lags,), what predictions subtract from lagged features.
        responses_mean: (n_targets,).
    """

    gram: jax.Array
    cross: jax.Array
    lagged_mean: jax.Array
    responses_mean: jax.Array


def lags_of(tmin_s: float, tmax_s: float, sfreq: float) -> tuple[int, ...]:
    """Sample lags from tmin to tmax, both included, each end rounded to the nearest sample (half to even).

    A positive lag looks at features before the response. Rounding is MNE's; mTRFpy takes the floor of tmin and the
    ceiling of tmax, hence up to one lag more at either end.

    Args:
        tmin_s: first lag, seconds.
        tmax_s: last lag, seconds.
        sfreq: sampling frequency, Hz.
    Raises:
        ValueError: if the frequency is not above 0, or tmax is below tmin.
    """
    if not 0 < sfreq < float("inf"):
        raise ValueError(f"sfreq={sfreq} Hz: give the sampling frequency of features and responses, above 0.")
    if not -float("inf") < tmin_s <= tmax_s < float("inf"):
        raise ValueError(f"tmin_s={tmin_s} and tmax_s={tmax_s}: lags run from the first to the last, both finite.")
    return tuple(range(round(float(tmin_s * sfreq)), round(float(tmax_s * sfreq)) + 1))


def n_segments_of(segments: np.ndarray) -> int:
    """Number of uninterrupted stretches of one label. (n_rows,) -> int"""
    return 1 + int(np.count_nonzero(np.diff(np.asarray(segments))))


def alpha_from_mtrf(regularization: float, sfreq: float, n_trials: int) -> float:
    """Our penalty for the lambda of mTRFpy, which averages over trials and divides by the time step.

    Its weights are ours times sfreq.

    Args:
        regularization: its lambda.
        sfreq: sampling frequency, Hz.
        n_trials: trials it was trained on.
    """
    return float(regularization) * float(sfreq) * n_trials


def alpha_from_huth(alpha: float, largest_singular: float | None = None) -> float:
    """Our penalty for the alpha of alexhuth/ridge and LITcoder, which is squared there.

    Args:
        alpha: their alpha.
        largest_singular: largest singular value of the training features, where they were called with normalpha.
    """
    return (float(alpha) * (1.0 if largest_singular is None else float(largest_singular))) ** 2


def lagged(features: jax.Array, lags: tuple[int, ...], segments: jax.Array | None = None) -> jax.Array:
    """Delayed copies of each feature, 0 where the lag leaves the segment.

    Column `feature * n_lags + lag_index` of row t is the feature at row t - lag: features slow, lags fast, as MNE's
    delayed time series (n_times, n_features, n_delays) reshaped to two axes.

    Args:
        features: (n_rows, n_features) time series, any unit.
        lags: (n_lags,) samples; positive looks into the past, negative into the future.
        segments: (n_rows,) labels of trials, sentences or runs; a lag never crosses a change of label. None: one.
    Returns:
        (n_rows, n_features * n_lags).
    Raises:
        ValueError: if there are no lags, or they are no distinct whole numbers.
    """
    lags = _checked(lags)
    run = _runs(features.shape[0], segments)
    delayed = _all_lags(features, jnp.arange(features.shape[0], dtype=jnp.int32), lags, run, run)
    return jnp.swapaxes(delayed, 1, 2).reshape(features.shape[0], -1)


def valid_rows(n_rows: int, lags: tuple[int, ...], segments: jax.Array | None = None) -> jax.Array:
    """Rows at which all lags stay inside the segment, so that no padding enters; MNE's valid samples.

    Args:
        n_rows: number of rows.
        lags: (n_lags,) samples.
        segments: (n_rows,) labels, as for lagged.
    Returns:
        (n_rows,) bool.
    Raises:
        ValueError: as for lagged.
    """
    lags = _checked(lags)
    run = _runs(n_rows, segments)
    ones = jnp.ones((n_rows, 1), jnp.int32)
    return (_shifted(ones, max(*lags, 0), run) * _shifted(ones, min(*lags, 0), run))[:, 0] == 1


def by_lag(weights: jax.Array, n_lags: int) -> jax.Array:
    """Weights of lagged features with an axis of lags.

    (n_features * n_lags, n_targets) -> (n_features, n_lags, n_targets)
    """
    return weights.reshape(-1, n_lags, weights.shape[1])


def lagged_cross(
    features: jax.Array, responses: jax.Array, lags: tuple[int, ...], segments: jax.Array | None = None
) -> jax.Array:
    """Products of lagged features and responses, lag by lag: lagged(features).T @ responses.

    Args:
        features: (n_rows, n_features).
        responses: (n_rows, n_targets).
        lags: (n_lags,) samples.
        segments: (n_rows,) labels, as for lagged.
    Returns:
        (n_features * n_lags, n_targets).
    Raises:
        ValueError: as for lagged.
    """
    lags = _checked(lags)
    run = _runs(features.shape[0], segments)
    rows = jax.lax.map(lambda lag: dot(_shifted(features, lag, run).T, responses), jnp.asarray(lags, jnp.int32))
    return jnp.swapaxes(rows, 0, 1).reshape(-1, responses.shape[1])


def lagged_gram(
    features: jax.Array, lags: tuple[int, ...], segments: jax.Array | None = None, n_segments: int = 1
) -> jax.Array:
    """Gram matrix of lagged features, lagged(features).T @ lagged(features), without the lagged features.

    Blocks of equal lag difference are equal but for the ends of the segments: block (a + 1, b + 1) is block (a, b)
    without its products at the last rows and with those that enter before the first rows. One block row of
    n_lags products over all rows is therefore enough, exact and not circular; memory grows with n_segments * n_lags
    rows of features and the result. Lags with gaps are computed within their whole range.

    Args:
        features: (n_rows, n_features).
        lags: (n_lags,) samples.
        segments: (n_rows,) labels, as for lagged.
        n_segments: stretches of one label, counted by n_segments_of; more may be said. If there are more stretches
            than said, the result is NaN.
    Returns:
        (n_features * n_lags, n_features * n_lags), rows and columns in the order of lagged.
    Raises:
        ValueError: as for lagged.
    """
    lags = _checked(lags)
    full = range(min(lags), max(lags) + 1)
    run = _runs(features.shape[0], segments)
    ends, starts = _edges(features, full, run, n_segments)
    first = jax.lax.map(
        lambda lag: dot(_shifted(features, full[0], run).T, _shifted(features, lag, run)),
        jnp.asarray(full, jnp.int32),
    )

    def next_row(row: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Blocks (a, b) over all b to blocks (a + 1, b). (n_lags, n_features, n_features)"""
        change = _outer(starts, step) - _outer(ends, step)
        below = jnp.concatenate([first[step + 1].T[None], (row + change)[:-1]])
        return below, below

    steps = jnp.arange(len(full) - 1, dtype=jnp.int32)
    _, rest = jax.lax.scan(next_row, first, steps)
    blocks = jnp.concatenate([first[None], rest])
    wanted = np.array([full.index(lag) for lag in lags])
    blocks = blocks if tuple(full) == lags else blocks[wanted][:, wanted]
    width = features.shape[1] * len(lags)
    gram = jnp.transpose(blocks, (2, 0, 3, 1)).reshape(width, width)
    return jnp.where(run[-1] < n_segments, gram, jnp.nan)


def _checked(lags: tuple[int, ...]) -> tuple[int, ...]:
    if not lags:
        raise ValueError("lags is empty: give sample lags such as (0, 1, 2), or lags_of(tmin_s, tmax_s, sfreq).")
    whole = tuple(int(lag) for lag in lags)
    if whole != tuple(lags) or len(set(whole)) != len(whole):
        raise ValueError(f"lags={tuple(lags)}: lags are distinct whole numbers of samples.")
    return whole


def _runs(n_rows: int, segments: jax.Array | None) -> jax.Array:
    """Number of the stretch that each row is in, from 0; a label that comes back starts another. -> (n_rows,)"""
    if segments is None:
        return jnp.zeros(n_rows, jnp.int32)
    if segments.shape != (n_rows,):
        raise ValueError(
            f"segments has shape {tuple(segments.shape)} and features has {n_rows} rows: one label per row."
        )
    is_new = jnp.asarray(segments[1:] != segments[:-1])
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(is_new, dtype=jnp.int32)])


def _at(values: jax.Array, rows: jax.Array, run: jax.Array, wanted: jax.Array) -> jax.Array:
    """Values at some rows, 0 where a row is outside the wanted stretch. (n, m), (k,), (n,), (k,) -> (k, m)"""
    last = values.shape[0] - 1
    inside = jnp.clip(rows, 0, last)
    is_valid = (rows == inside) & (run[inside] == wanted)
    return jnp.where(is_valid[:, None], jnp.asarray(values)[inside], 0)


def _shifted(values: jax.Array, lag: jax.Array | int, run: jax.Array) -> jax.Array:
    """Values `lag` rows earlier in the same stretch, else 0. (n, m), (), (n,) -> (n, m)"""
    rows = jnp.arange(values.shape[0], dtype=jnp.int32)
    return _at(values, rows - jnp.asarray(lag, jnp.int32), run, run)


def _edges(features: jax.Array, lags: range, run: jax.Array, n_segments: int) -> tuple[jax.Array, jax.Array]:
    """Lagged features at the last row of each stretch, and at the row before its first: what a step of lags changes.

    (n, p), (n_lags), (n,) -> (n_segments, n_lags, p) twice; 0 for stretches that do not exist
    """
    n_rows = features.shape[0]
    is_first = jnp.concatenate([jnp.ones(1, bool), run[1:] != run[:-1]])
    first = jnp.nonzero(is_first, size=n_segments, fill_value=n_rows)[0].astype(jnp.int32)
    before_next = jnp.concatenate([first[1:], jnp.full(1, n_rows, jnp.int32)]) - 1
    label = jnp.arange(n_segments, dtype=jnp.int32)

    return _all_lags(features, before_next, lags, run, label), _all_lags(features, first - 1, lags, run, label)


def _all_lags(values: jax.Array, rows: jax.Array, lags: Sequence[int], run: jax.Array, wanted: jax.Array) -> jax.Array:
    """Values at every lag before some rows, 0 outside the wanted stretch.

    (n, m), (k,), (n_lags,), (n,), (k,) -> (k, n_lags, m)
    """
    before = rows[:, None] - jnp.asarray(lags, jnp.int32)[None, :]
    found = _at(values, before.reshape(-1), run, jnp.repeat(wanted, len(lags)))
    return found.reshape(*before.shape, values.shape[1])


def _outer(edge: jax.Array, step: jax.Array) -> jax.Array:
    """Products at the edges of lag `step` with every lag. (n_segments, n_lags, p), () -> (n_lags, p, p)"""
    n_segments, n_lags, width = edge.shape
    product = dot(edge[:, step].T, edge.reshape(n_segments, n_lags * width))
    return jnp.swapaxes(product.reshape(width, n_lags, width), 0, 1)


def _products(
    features: jax.Array,
    responses: jax.Array,
    lags: tuple[int, ...],
    segments: jax.Array | None,
    n_segments: int,
    intercept: str,
) -> Products:
    """Gram matrix and cross products of lagged features under one of the three intercepts."""
    if intercept == "bias":
        return _bias_products(features, responses, lags, segments, n_segments)
    shift, level = jnp.zeros(features.shape[1], features.dtype), jnp.zeros(responses.shape[1], responses.dtype)
    if intercept == "before":
        rows = jnp.ones(features.shape[0], bool)
        shift, level = mean(features, rows), mean(responses, rows)
        features, responses = centre(features, rows), centre(responses, rows)
    return Products(
        lagged_gram(features, lags, segments, n_segments),
        lagged_cross(features, responses, lags, segments),
        jnp.repeat(shift, len(lags)),
        level,
    )


def _bias_products(
    features: jax.Array, responses: jax.Array, lags: tuple[int, ...], segments: jax.Array | None, n_segments: int
) -> Products:
    """Products of centred lagged features, which is what an intercept that is not penalised amounts to.

    A lagged feature is its deviation from the feature's mean, lagged, plus the mean, minus the mean times an
    indicator of the rows outside the segment. Few rows are outside, so nothing large is ever subtracted.
    """
    n_rows, n_lags = features.shape[0], len(lags)
    rows = jnp.ones(n_rows, bool)
    level, shift = mean(responses, rows), mean(features, rows)
    deviations, targets = features - shift[None, :], centre(responses, rows)
    ones = jnp.ones((n_rows, 1), features.dtype)
    outside = 1 - lagged(ones, lags, segments)
    others = lagged_cross(deviations, jnp.concatenate([ones, outside, targets], axis=1), lags, segments)
    sums, counts, n = others[:, 0], jnp.sum(outside, axis=0), jnp.asarray(n_rows, features.dtype)
    by_outside = others[:, 1 : n_lags + 1] - sums[:, None] * counts[None, :] / n
    of_outside = dot(outside.T, outside) - counts[:, None] * counts[None, :] / n
    gram = lagged_gram(deviations, lags, segments, n_segments) - sums[:, None] * sums[None, :] / n
    # (n_features * n_lags, n_features * n_lags): every feature's mean times the indicators of its lags
    mixed = (by_outside[:, None, :] * shift[None, :, None]).reshape(gram.shape)
    pairs = shift[:, None, None, None] * shift[None, None, :, None] * of_outside[None, :, None, :]
    cross = others[:, n_lags + 1 :] - (shift[:, None, None] * dot(outside.T, targets)[None]).reshape(len(sums), -1)
    lagged_mean = sums / n + (shift[:, None] * (1 - counts / n)[None, :]).reshape(-1)
    return Products(gram - mixed - mixed.T + pairs.reshape(gram.shape), cross, lagged_mean, level)


def trf(
    features: jax.Array,
    responses: jax.Array,
    lags: tuple[int, ...],
    alphas: jax.Array,
    segments: jax.Array | None = None,
    *,
    n_segments: int = 1,
    intercept: str = "before",
    platform: str = "cpu",
) -> Trf:
    """Temporal response functions by ridge on lagged features, for every penalty from one decomposition.

    Minimises sum((y - X w)^2) + alpha sum(w^2) over all rows, X the lagged features with zeros at segment ends.

    Args:
        features: (n_rows, n_features) time series, any unit.
        responses: (n_rows, n_targets) time series, any unit.
        lags: (n_lags,) samples.
        alphas: (n_alphas,) penalties, or (n_alphas, n_targets) for one per target; 0 gives the shortest least squares
            weights.
        segments: (n_rows,) labels, as for lagged.
        n_segments: as for lagged_gram.
        intercept: "before" subtracts the means of features and responses before delaying (MNE: what lies outside a
            segment counts as the mean); "bias" adds a column of ones that is not penalised to the delayed features
            (mTRFpy: what lies outside counts as 0); "none" fits through the origin. The first two differ at the ends
            of segments only, but there by the features' means: with "bias", features far from 0 make steps there
            that rule the weights.
        platform: "cpu", "cuda" or "tpu".
    Returns:
        Trf; NaN for a target with NaN.
    Raises:
        ValueError: if features and responses disagree on n_rows, the intercept is unknown, or as for lagged.
    Source: Crosse et al. 2016, Front. Hum. Neurosci. 10:604.
    """
    if features.shape[0] != responses.shape[0]:
        raise ValueError(
            f"features has {features.shape[0]} rows and responses has {responses.shape[0]}: both need one row per sample, at one sampling frequency."
        )
    if intercept not in INTERCEPTS:
        raise ValueError(f"intercept={intercept!r} is not one of {', '.join(INTERCEPTS)}.")
    products = _products(features, responses, _checked(lags), segments, n_segments, intercept)
    values, vectors = symmetric_eigen(products.gram, platform)
    keep = ~(values <= jnp.finfo(values.dtype).eps * max(features.shape[0], values.shape[0]) * values[-1:])
    rotated = dot(vectors.T, products.cross)

    def one(alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
        penalised = jnp.where(keep, values, 1)[:, None] + alpha[None, :]
        weights = dot(vectors, jnp.where(keep[:, None], rotated / penalised, 0))
        offset = products.responses_mean - dot(products.lagged_mean[None, :], weights)[0]
        return by_lag(weights, len(lags)), offset

    per_target = alphas if alphas.ndim == 2 else jnp.broadcast_to(alphas[:, None], (*alphas.shape, responses.shape[1]))
    return Trf(*jax.lax.map(one, per_target))


def predict_lagged(
    features: jax.Array, weights: jax.Array, lags: tuple[int, ...], segments: jax.Array | None = None
) -> jax.Array:
    """Responses predicted from features and weights by lag, without the lagged features; add the intercept.

    Args:
        features: (n_rows, n_features), the unit of the training features, means included.
        weights: (n_features, n_lags, n_targets).
        lags: (n_lags,) samples, those of the weights.
        segments: (n_rows,) labels, as for lagged.
    Returns:
        (n_rows, n_targets).
    Raises:
        ValueError: if weights and lags disagree, or as for lagged.
    """
    lags = _checked(lags)
    if weights.shape[1] != len(lags):
        raise ValueError(f"weights has {weights.shape[1]} lags and lags has {len(lags)}: give the lags of the fit.")
    run = _runs(features.shape[0], segments)

    def add(total: jax.Array, part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        lag, of_lag = part
        return total + dot(_shifted(features, lag, run), of_lag), None

    zero = jnp.zeros((features.shape[0], weights.shape[2]), weights.dtype)
    return jax.lax.scan(add, zero, (jnp.asarray(lags, jnp.int32), jnp.swapaxes(weights, 0, 1)))[0]
