"""Names of the ways to compare RDMs, and the form in which most of them are one dot product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.gram import n_stimuli_of, pair_index
from jaxalign.compute.kendall import VARIANTS, kendall
from jaxalign.compute.masked import pairs_under
from jaxalign.compute.stats import dot, is_constant, rank, unit_norm
from jaxalign.errors import nearest

WHITENED = ("cosine_cov", "corr_cov")
"""Whitened by the covariance that noise gives to the entries of an RDM."""

STANDARD = ("spearman", "pearson", "cosine", "rho-a", *WHITENED)
"""Those that are an inner product of two standard forms."""

COMPARATORS = (*STANDARD, *VARIANTS)

ALIASES = {
    "corr": "pearson",
    "correlation": "pearson",
    "rho_a": "rho-a",
    "kendall": "tau-b",
    "tau_a": "tau-a",
    "tau_b": "tau-b",
    "kendall-tau-a": "tau-a",
    "kendall-tau-b": "tau-b",
    "kendall-tau": "tau-b",
    "cosine-cov": "cosine_cov",
    "corr-cov": "corr_cov",
}
"""Names of rsatoolbox and of MNE-RSA, and spellings."""


def canonical(name: str) -> str:
    """The one name of a comparator.

    Raises:
        ValueError: for an unknown name.
    """
    name = ALIASES.get(name, name)
    if name not in COMPARATORS:
        raise ValueError(f"comparator={name!r} is not known. {nearest(name, (*COMPARATORS, *ALIASES))}")
    return name


def packing(comparator: str, has_sigma_k: bool = False) -> str:
    """How the standard form is packed, which says how a relabelling moves its entries.

    Args:
        comparator: any name of one.
        has_sigma_k: whether a covariance of the stimuli is given.
    Returns:
        "triangle": one entry for each pair; "gram": the pairs, then the diagonal.
    Raises:
        ValueError: for a comparator without standard form; with a covariance of the stimuli, which belongs to the
            stimuli as they were measured: a relabelled RDM must be whitened anew.
    """
    comparator = _with_standard_form(comparator)
    if has_sigma_k:
        raise ValueError(
            f"comparator={comparator!r} with sigma_k has no null by relabelling: the covariance belongs to the stimuli as "
            "measured. Leave sigma_k out, or ask for no permutations."
        )
    return "gram" if comparator in WHITENED else "triangle"


def standard(values: jax.Array, comparator: str, rounding: float = 0.0, sigma_k: jax.Array | None = None) -> jax.Array:
    """RDMs in the form whose dot products are the comparisons; relabelled stimuli relabel it (see `packing`).

    spearman, pearson: ranks or values, centred, of length 1. cosine: of length 1. rho-a: centred ranks over the root
    of (n_pairs^3 - n_pairs) / 12, the expected Spearman when ties are broken at random. cosine_cov: the double-centred
    Gram matrix of the RDM, of length 1 (linear CKA); corr_cov: the same after the mean of the RDM is removed.

    A covariance of the stimuli whitens the Gram matrix G. As (n, n) Sigma: W G W with W the inverse root of Sigma
    centred on both sides, which is the cosine under the covariance of RDM entries ((c_i Sigma c_j')^2 for contrasts c)
    exactly. As (n,) variances s: G_ij / sqrt(s_i s_j), as rsatoolbox has it; diag(s) as (n, n) is another number.

    Args:
        values: (n_pairs, m) dissimilarities.
        comparator: any name of one with a standard form.
        rounding: values that differ by no more than this share of the largest of their RDM are ties (ranks only).
        sigma_k: covariance between the stimuli's pattern estimates, (n_stimuli, n_stimuli) or (n_stimuli,); for the
            whitened forms, and for observed scores only.
    Returns:
        (n_packed, m). NaN for a constant RDM, for cosine and cosine_cov an RDM of zeros; rho-a of a constant is 0.
    Raises:
        ValueError: for another comparator, or sigma_k with a form that is not whitened.
    Source: Diedrichsen et al. 2021, "Comparing representational geometries using whitened unbiased-distance-matrix
        similarity"; rho-a: Schuett et al. 2023, eLife 12:e82566.
    """
    comparator = _with_standard_form(comparator)
    if sigma_k is not None and comparator not in WHITENED:
        raise ValueError(f"comparator={comparator!r} does not whiten: sigma_k goes with {' or '.join(WHITENED)}.")
    is_pair = jnp.ones(values.shape[0], bool)
    if comparator == "pearson":
        return unit_norm(values, is_pair)
    if comparator == "spearman":
        return unit_norm(rank(values, rounding), is_pair)
    if comparator == "cosine":
        return _unit(values)
    if comparator == "rho-a":
        size = values.shape[0]
        return (rank(values, rounding) - (size + 1) / 2) / ((size**3 - size) / 12) ** 0.5
    if comparator == "corr_cov":
        is_flat = is_constant(values, is_pair)
        values = jnp.where(is_flat[None, :], jnp.nan, values - jnp.mean(values, axis=0)[None, :])
    return _unit(_whitened(values, sigma_k))


def compare(
    ours: jax.Array, theirs: jax.Array, comparator: str, rounding: float = 0.0, sigma_k: jax.Array | None = None
) -> jax.Array:
    """Compare all RDMs with all others.

    Args:
        ours: (n_pairs, m1) dissimilarities.
        theirs: (n_pairs, m2) dissimilarities.
        comparator: any name of one.
        rounding: values that differ by no more than this share of the largest of their RDM are ties.
        sigma_k: covariance between the stimuli's pattern estimates, for the whitened ones (see `standard`).
    Returns:
        (m1, m2) in [-1, 1], NaN where undefined.
    Raises:
        ValueError: for an unknown name, other numbers of pairs, or sigma_k where nothing is whitened.
    """
    comparator = canonical(comparator)
    if ours.shape[0] != theirs.shape[0]:
        raise ValueError(
            f"ours has {ours.shape[0]} pairs and theirs has {theirs.shape[0]}: both must be RDMs of the same stimuli."
        )
    if comparator in VARIANTS:
        if sigma_k is not None:
            raise ValueError(f"comparator={comparator!r} does not whiten: sigma_k goes with {' or '.join(WHITENED)}.")
        return kendall(ours, theirs, comparator, rounding)
    one, other = (standard(values, comparator, rounding, sigma_k) for values in (ours, theirs))
    return dot(one.T, other)


def relabelled(values: jax.Array, rows: jax.Array) -> jax.Array:
    """RDMs with their stimuli in another order. (n_pairs, m), (n_stimuli,) int32 -> (n_pairs, m)"""
    return values[pairs_under(rows)]


def _with_standard_form(comparator: str) -> str:
    comparator = canonical(comparator)
    if comparator not in STANDARD:
        raise ValueError(
            f"comparator={comparator!r} is no inner product of two RDMs: compute/kendall.py counts it. "
            f"Those that are: {', '.join(STANDARD)}."
        )
    return comparator


def _unit(values: jax.Array) -> jax.Array:
    """Columns of length 1, NaN for zeros; the largest entry is divided out first, since squares would underflow."""
    largest = jnp.max(jnp.abs(values), axis=0)
    scaled = values / jnp.where(largest == 0, jnp.nan, largest)[None, :]
    return scaled / jnp.sqrt(jnp.sum(scaled**2, axis=0))[None, :]


def _whitened(values: jax.Array, sigma_k: jax.Array | None) -> jax.Array:
    """Double-centred Gram matrices of RDMs, packed. (n_pairs, m), (n, n) or (n,) -> (n_pairs + n, m)"""
    n_stimuli = n_stimuli_of(values.shape[0])
    first, second = np.triu_indices(n_stimuli, 1)
    is_diagonal = np.eye(n_stimuli, dtype=bool)[:, :, None]
    square = jnp.where(is_diagonal, 0, values[pair_index(n_stimuli)])
    row = jnp.mean(square, axis=1)
    whole = jnp.mean(row, axis=0)
    if sigma_k is not None and sigma_k.ndim == 2:
        gram = -(square - row[:, None] - row[None] + whole[None, None]) / 2
        root = _inverse_root(sigma_k)
        gram = jax.lax.map(lambda one: dot(dot(root, one), root), jnp.moveaxis(gram, 2, 0))
        return jnp.concatenate([2**0.5 * gram[:, first, second], jnp.diagonal(gram, axis1=1, axis2=2)], axis=1).T
    pairs = -(values - row[first] - row[second] + whole[None]) / 2
    diagonal = row - whole[None] / 2
    if sigma_k is not None:
        sd = jnp.sqrt(sigma_k)
        pairs, diagonal = pairs / (sd[first] * sd[second])[:, None], diagonal / sigma_k[:, None]
    return jnp.concatenate([2**0.5 * pairs, diagonal])


def _inverse_root(sigma_k: jax.Array) -> jax.Array:
    """Pseudo-inverse root of a covariance that is centred on both sides. (n, n) -> (n, n)"""
    n_stimuli = sigma_k.shape[0]
    centred = sigma_k - jnp.mean(sigma_k, axis=0)[None, :]
    centred = centred - jnp.mean(centred, axis=1)[:, None]
    variances, axes = jnp.linalg.eigh((centred + centred.T) / 2)
    is_kept = variances > n_stimuli * jnp.finfo(sigma_k.dtype).eps * variances[-1]
    scale = jnp.where(is_kept, 1 / jnp.sqrt(jnp.where(is_kept, variances, 1)), 0)
    return dot(axes * scale[None, :], axes.T)
