"""Bootstrap of RDM comparisons over stimuli, over subjects and over both, and the variances that follow from it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute import resampled
from jaxalign.compute.gram import n_stimuli_of
from jaxalign.compute.rdm_ceilings import bounds, mean_of_drawn, ranked_bounds
from jaxalign.compute.resampled import RANKED, Similarity
from jaxalign.compute.stats import HIGHEST
from jaxalign.errors import nearest

SCHEMES = ("both", "subjects", "stimuli")
"""What a dual bootstrap draws again, in the order of its last axis (rsatoolbox: both, rdm, pattern)."""

MIN_DISTINCT = 3
"""Samples with fewer distinct stimuli are drawn again, and NaN where a caller gives them: 2 stimuli make one pair."""


class Samples(NamedTuple):
    """Scores of bootstrap samples.

    Attributes:
        evaluations: (n_samples, n_models) or, of a dual bootstrap, (n_samples, n_models, 3); mean over the drawn
            subjects. 0 for a model that is constant in a sample, NaN where a subject is.
        ceilings: (n_samples, 2) or (n_samples, 2, 3), the leave-one-subject-out bounds, low and high.
    """

    evaluations: jax.Array
    ceilings: jax.Array


class Variances(NamedTuple):
    """What a bootstrap says of how far scores may be off.

    Attributes:
        model: (n_models,), of each model's score.
        difference: (n_models, n_models), of the difference of two models; 0 on the diagonal.
        ceiling: (n_models, 2), of the difference of a model and the low and high bound.
        degrees: (), degrees of freedom.
    """

    model: jax.Array
    difference: jax.Array
    ceiling: jax.Array
    degrees: jax.Array


# Draws.


def counts(scheme: str, n: int, n_samples: int, seed: int) -> np.ndarray:
    """How often each bootstrap sample holds each stimulus or subject: n draws with replacement.

    Sample i depends on (seed, scheme, n, i) alone; samples of stimuli with fewer than 3 distinct ones are drawn again.

    Args:
        scheme: "stimuli" or "subjects".
        n: stimuli or subjects.
        n_samples: bootstrap samples.
        seed: integer.
    Returns:
        (n_samples, n) int32; rows sum to n.
    Raises:
        ValueError: for another scheme, fewer than 3 stimuli or 2 subjects.
    """
    if scheme not in SCHEMES[1:]:
        raise ValueError(f"scheme={scheme!r} draws nothing. {nearest(scheme, SCHEMES[1:])} For both, draw each.")
    least, tag = (MIN_DISTINCT, 0xB0051) if scheme == "stimuli" else (1, 0xB0052)
    if n < max(least, 2):
        raise ValueError(f"{n} {scheme}: a bootstrap over {scheme} needs at least {max(least, 2)}.")
    drawn = np.empty((n_samples, n), np.int32)
    for index in range(n_samples):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, tag, n, index])))
        while True:
            drawn[index] = np.bincount(rng.integers(0, n, n), minlength=n)
            if np.count_nonzero(drawn[index]) >= least:
                break
    return drawn


# Samples.


def bootstrap(
    models: jax.Array,
    data: jax.Array,
    stimulus_counts: jax.Array | None,
    subject_counts: jax.Array | None,
    comparator: str,
    *,
    has_ceilings: bool = True,
    rounding: float = 0.0,
    samples_per_chunk: int | None = None,
) -> Samples:
    """Score every model, and bound the scores, in every bootstrap sample of stimuli, of subjects, or of both.

    Args:
        models: (n_pairs, n_models) dissimilarities.
        data: (n_pairs, n_subjects) dissimilarities.
        stimulus_counts: (n_samples, n_stimuli) from `counts`, or None to keep the stimuli as they are.
        subject_counts: (n_samples, n_subjects) from `counts`, or None to keep the subjects as they are.
        comparator: "pearson", "spearman", "cosine", "rho-a", "cosine_cov" or "corr_cov".
        has_ceilings: compute the bounds too; NaN if not. For spearman and rho-a they cost ten times the scores.
        rounding: values that differ by no more than this share of the largest of their RDM are ties (ranks).
        samples_per_chunk: samples computed at a time; by default as many as 64 MiB of pair weights hold.
    Returns:
        Samples, evaluations (n_samples, n_models) and ceilings (n_samples, 2).
    Raises:
        ValueError: if shapes disagree, the comparator has no such form, or nothing is resampled.
    Source: Nili et al. 2014, PLoS Comput. Biol. 10:e1003553.
    """
    name = resampled.canonical(comparator)
    _check(models, data, stimulus_counts, subject_counts)
    if stimulus_counts is None:
        if subject_counts is None:
            raise ValueError(
                "Neither stimuli nor subjects are resampled. Give stimulus_counts, subject_counts or both."
            )
        evaluations, ceilings = _of_subjects(models, data, subject_counts, name, has_ceilings, rounding)
        return Samples(evaluations, ceilings)
    if subject_counts is None:
        subject_counts = jnp.ones((stimulus_counts.shape[0], data.shape[1]), jnp.int32)
    settings = has_ceilings, rounding, samples_per_chunk
    done = _of_stimuli(models, data, stimulus_counts, subject_counts, name, (True,), *settings)
    return Samples(done[0][..., 0], done[1][..., 0])


def dual_bootstrap(
    models: jax.Array,
    data: jax.Array,
    stimulus_counts: jax.Array,
    subject_counts: jax.Array,
    comparator: str,
    *,
    has_ceilings: bool = True,
    rounding: float = 0.0,
    samples_per_chunk: int | None = None,
) -> Samples:
    """The bootstraps over both, over subjects and over stimuli, with the same draws, for `variances` to combine.

    Args:
        models: (n_pairs, n_models) dissimilarities.
        data: (n_pairs, n_subjects) dissimilarities.
        stimulus_counts: (n_samples, n_stimuli) from `counts`.
        subject_counts: (n_samples, n_subjects) from `counts`.
        comparator: as `bootstrap`.
        has_ceilings: compute the bounds too; NaN if not.
        rounding: values that differ by no more than this share of the largest of their RDM are ties (ranks).
        samples_per_chunk: samples computed at a time.
    Returns:
        Samples, evaluations (n_samples, n_models, 3) and ceilings (n_samples, 2, 3) in the order of `SCHEMES`; a
        sample with too few distinct stimuli is NaN in all three.
    Raises:
        ValueError: as `bootstrap`.
    Source: Schutt et al. 2023, eLife 12:e82566.
    """
    name = resampled.canonical(comparator)
    _check(models, data, stimulus_counts, subject_counts)
    settings = has_ceilings, rounding, samples_per_chunk
    done = _of_stimuli(models, data, stimulus_counts, subject_counts, name, (True, False), *settings)
    alone = _of_subjects(models, data, subject_counts, name, has_ceilings, rounding)
    is_small = (jnp.sum(stimulus_counts > 0, axis=1) < MIN_DISTINCT)[:, None]
    parts = []
    for both, one in zip(done, alone, strict=True):
        kept = jnp.where(is_small, jnp.nan, one)
        parts.append(jnp.stack([both[..., 0], kept, both[..., 1]], axis=-1))
    return Samples(*parts)


def _of_stimuli(
    models: jax.Array,
    data: jax.Array,
    stimulus_counts: jax.Array,
    subject_counts: jax.Array,
    name: str,
    resamples_subjects: tuple[bool, ...],
    has_ceilings: bool,
    rounding: float,
    samples_per_chunk: int | None,
) -> tuple[jax.Array, ...]:
    """Scores and bounds for subjects resampled or not. -> (n_samples, n_models, v), (n_samples, 2, v)"""
    size = samples_per_chunk or max(1, min(256, 2**24 // data.shape[0]))
    order = resampled.orders(jnp.concatenate([models, data], axis=1), rounding) if name in RANKED else None

    def of_chunk(drawn: jax.Array, times: jax.Array) -> tuple[jax.Array, ...]:
        ways = [times if resamples else jnp.ones_like(times) for resamples in resamples_subjects]
        if order is None:
            found = resampled.similarity(models, data, drawn, name)
            parts = [_reduced(found, way, has_ceilings) for way in ways]
        else:
            often = jnp.stack(ways, axis=1)

            def compare(one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
                return _ranked_sample(order, models, one[0], one[1], name, has_ceilings)

            across, low, high = jax.lax.map(compare, (resampled.pair_weights(drawn), often))
            parts = [_averaged(across, low[:, i], high[:, i], way) for i, way in enumerate(ways)]
        is_small = (jnp.sum(drawn > 0, axis=1) < MIN_DISTINCT)[:, None, None]
        return tuple(jnp.where(is_small, jnp.nan, jnp.stack(part, axis=-1)) for part in zip(*parts, strict=True))

    return resampled.over_chunks(of_chunk, stimulus_counts, subject_counts, size)


def _of_subjects(
    models: jax.Array,
    data: jax.Array,
    subject_counts: jax.Array,
    name: str,
    has_ceilings: bool,
    rounding: float,
) -> tuple[jax.Array, ...]:
    """Scores and bounds with the stimuli as they are. -> (n_samples, n_models), (n_samples, 2)"""
    all_of_them = jnp.ones((1, n_stimuli_of(data.shape[0])), jnp.int32)
    if name not in RANKED:
        found = resampled.similarity(models, data, all_of_them, name)
        shape = (subject_counts.shape[0],)
        found = Similarity(*(jnp.broadcast_to(part, shape + part.shape[1:]) for part in found))
        return _reduced(found, subject_counts, has_ceilings)
    order = resampled.orders(jnp.concatenate([models, data], axis=1), rounding)
    weights, n_models = resampled.pair_weights(all_of_them)[0], models.shape[1]
    ranks = resampled.doubled_ranks(order, weights, models.dtype)
    units = resampled.unit_ranks(ranks, weights, data.dtype)
    across = resampled.rank_similarity(units, n_models, weights, name)
    of_data = ranks[n_models:], units[n_models:], weights

    def of_sample(times: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _ranked_bounds(*of_data, times, name, has_ceilings)

    low, high = jax.lax.map(of_sample, subject_counts)
    return _averaged(jnp.broadcast_to(across, (subject_counts.shape[0], *across.shape)), low, high, subject_counts)


def _ranked_sample(
    order: resampled.Order,
    models: jax.Array,
    weights: jax.Array,
    times: jax.Array,
    name: str,
    has_ceilings: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One sample of stimuli, v of subjects. (n_pairs,), (v, s) -> (n_models, s), (v, s), (v, s)"""
    n_models = models.shape[1]
    ranks = resampled.doubled_ranks(order, weights, models.dtype)
    units = resampled.unit_ranks(ranks, weights, models.dtype)
    across = resampled.rank_similarity(units, n_models, weights, name)
    of_data = ranks[n_models:], units[n_models:], weights
    low, high = jax.lax.map(lambda way: _ranked_bounds(*of_data, way, name, has_ceilings), times)
    return across, low, high


def _ranked_bounds(
    ranks: jax.Array, units: jax.Array, weights: jax.Array, times: jax.Array, name: str, has_ceilings: bool
) -> tuple[jax.Array, jax.Array]:
    if has_ceilings:
        return ranked_bounds(ranks, units, weights, times, name)
    nothing = jnp.full(times.shape, jnp.nan, units.dtype)
    return nothing, nothing


def _reduced(found: Similarity, times: jax.Array, has_ceilings: bool) -> tuple[jax.Array, jax.Array]:
    """Mean scores and bounds of samples. Similarity, (k, s) -> (k, n_models), (k, 2)"""
    nothing = jnp.full(times.shape, jnp.nan, found.across.dtype)
    low, high = bounds(found, times) if has_ceilings else (nothing, nothing)
    return _averaged(found.across, low, high, times)


def _averaged(across: jax.Array, low: jax.Array, high: jax.Array, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores are means over draws of subjects; bounds are means over distinct subjects, as rsatoolbox takes them."""
    share = times.astype(across.dtype) / jnp.sum(times, axis=1, keepdims=True).astype(across.dtype)
    # A subject that was not drawn must not bring its NaN.
    drawn = jnp.where((times > 0)[:, None, :], across, 0)
    evaluations = jnp.einsum("kms,ks->km", drawn, share, precision=HIGHEST)
    return evaluations, jnp.stack([mean_of_drawn(low, times), mean_of_drawn(high, times)], axis=1)


def _check(
    models: jax.Array, data: jax.Array, stimulus_counts: jax.Array | None, subject_counts: jax.Array | None
) -> None:
    if models.ndim != 2 or data.ndim != 2 or models.shape[0] != data.shape[0]:
        raise ValueError(
            f"models have shape {models.shape} and data {data.shape}: give (n_pairs, n_models) and (n_pairs, n_subjects) of the same stimuli."
        )
    for name, given, n in (
        ("stimulus", stimulus_counts, n_stimuli_of(data.shape[0])),
        ("subject", subject_counts, data.shape[1]),
    ):
        if given is not None and (given.ndim != 2 or given.shape[1] != n):
            raise ValueError(f"{name}_counts have shape {given.shape}: give (n_samples, {n}).")
    if stimulus_counts is not None and subject_counts is not None and len(stimulus_counts) != len(subject_counts):
        raise ValueError(
            f"{len(stimulus_counts)} samples of stimuli and {len(subject_counts)} of subjects: draw as many of both."
        )


# Variances.


def covariances(samples: Samples) -> jax.Array:
    """Covariance over samples of the scores and both bounds; samples with a NaN are left out.

    (n_samples, n_models), (n_samples, 2) -> (n_models + 2, n_models + 2); of a dual bootstrap (3, ..., ...)
    """
    values = jnp.concatenate(samples, axis=1)
    values = values[:, :, None] if values.ndim == 2 else values
    centred, n_kept = _centred(values)
    found = jnp.einsum("ijk,ilk->kjl", centred, centred, precision=HIGHEST) / (n_kept - 1)
    return found[0] if samples.evaluations.ndim == 2 else found


def _centred(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Deviations from the mean of the samples without NaN, 0 for the others, and how many those are."""
    is_kept = ~jnp.any(jnp.isnan(values), axis=tuple(range(1, values.ndim)))
    rows = is_kept.reshape(-1, *[1] * (values.ndim - 1))
    n_kept = jnp.sum(is_kept).astype(values.dtype)
    mean = jnp.sum(jnp.where(rows, values, 0), axis=0, keepdims=True) / n_kept
    return jnp.where(rows, values - mean, 0), n_kept


def covariances_of_folds(samples: Samples) -> jax.Array:
    """Covariance of cross-validated scores in a dual bootstrap, freed of the variance from the choice of folds.

    With R choices of folds in each sample, the variance of their mean is V + W / R and that of a single one V + W:
    V = (R var(mean) - var(single)) / (R - 1), which can come out negative.

    Args:
        samples: evaluations (n_samples, n_models, n_folds, R, 3) and ceilings (n_samples, 2, R, 3).
    Returns:
        (3, n_models + 2, n_models + 2).
    Raises:
        ValueError: if folds were chosen only once.
    Source: Schutt et al. 2023, eLife 12:e82566.
    """
    n_choices = samples.evaluations.shape[3]
    if n_choices < 2:
        raise ValueError("Folds were chosen once per sample: the variance this adds needs at least 2 choices.")
    values = jnp.concatenate([jnp.mean(samples.evaluations, axis=2), samples.ceilings], axis=1)
    centred, n_kept = _centred(values)
    mean = jnp.mean(centred, axis=2)
    of_mean = jnp.einsum("ijk,ilk->kjl", mean, mean, precision=HIGHEST) / (n_kept - 1)
    single = jnp.einsum("ijmk,ilmk->kjl", centred, centred, precision=HIGHEST) / (n_kept - 1) / n_choices
    return (n_choices * of_mean - single) / (n_choices - 1)


def variances(
    covariance: jax.Array, *, n_stimuli: int | None = None, n_subjects: int | None = None, has_ceilings: bool = True
) -> Variances:
    """Variances of scores, of their differences, and of their distance from the noise ceiling.

    One covariance is corrected by n / (n - 1), n the smaller number of what was resampled. Three, of a dual bootstrap,
    are combined: resampling both counts the variance of measurement noise three times, so

        v = a v_subjects + b v_stimuli - a b (v_both - v_subjects - v_stimuli),

    a = n_subjects / (n_subjects - 1), b = n_stimuli / (n_stimuli - 1); at least the larger of the first two terms, at
    most v_both.

    Args:
        covariance: (m, m) or (3, m, m) from `covariances` or `covariances_of_folds`, in the order of `SCHEMES`.
        n_stimuli: stimuli, if they were resampled.
        n_subjects: subjects, if they were resampled.
        has_ceilings: whether the last two of m are the bounds; if not, these are taken as known.
    Returns:
        Variances, with degrees of freedom one less than the smaller number.
    Raises:
        ValueError: if neither number is given, or only one for a dual bootstrap.
    Source: Schutt et al. 2023, eLife 12:e82566.
    """
    sizes = [n for n in (n_stimuli, n_subjects) if n is not None]
    if not sizes or (covariance.ndim == 3 and len(sizes) < 2):
        raise ValueError(
            f"n_stimuli={n_stimuli} and n_subjects={n_subjects}: give the number of what was resampled, both for a dual bootstrap."
        )
    m = covariance.shape[-1] - 2 * has_ceilings
    own = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    models = covariance[..., :m, :m]
    difference = own[..., :m, None] + own[..., None, :m] - models - jnp.swapaxes(models, -1, -2)
    if has_ceilings:
        ceiling = own[..., :m, None] - 2 * covariance[..., :m, m:] + own[..., None, m:]
    else:
        ceiling = jnp.stack([own, own], axis=-1)
    of_both = [own[..., :m], difference, ceiling]
    if covariance.ndim == 3:
        corrected = [_combined(value, n_subjects, n_stimuli) for value in of_both]
    else:
        corrected = [value * (min(sizes) / (min(sizes) - 1)) for value in of_both]
    degrees = jnp.asarray(min(sizes) - 1, covariance.dtype)
    return Variances(corrected[0], corrected[1], corrected[2], degrees)


def _combined(value: jax.Array, n_subjects: int | None, n_stimuli: int | None) -> jax.Array:
    """Variance of a dual bootstrap from its three. (3, ...) -> (...)"""
    assert n_subjects is not None and n_stimuli is not None
    both, subjects, stimuli = value
    a, b = n_subjects / (n_subjects - 1), n_stimuli / (n_stimuli - 1)
    whole = a * subjects + b * stimuli - a * b * (both - subjects - stimuli)
    return jnp.minimum(jnp.maximum(jnp.maximum(whole, a * subjects), b * stimuli), both)


def fixed_variances(scores: jax.Array) -> Variances:
    """Variances of mean scores over subjects, without a bootstrap: the usual squared standard error of the mean.

    Args:
        scores: (n_models, n_subjects).
    Returns:
        Variances; the noise ceiling is taken as known.
    Raises:
        ValueError: with fewer than 2 subjects.
    """
    n_subjects = scores.shape[1]
    if n_subjects < 2:
        raise ValueError(f"{n_subjects} subject: the variance over subjects needs at least 2.")
    centred = scores - jnp.mean(scores, axis=1, keepdims=True)
    covariance = jnp.matmul(centred, centred.T, precision=HIGHEST) / n_subjects**2
    return variances(covariance, n_subjects=n_subjects, has_ceilings=False)
