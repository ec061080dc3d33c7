"""Encoding RSA: the RDM of predicted responses against the RDM of measured ones, time bin by time bin."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.distances import dissimilarities
from jaxalign.compute.geometry import ROUNDING_EPS, Dissimilarities, Rsa


def encoding_rsa(predicted: jax.Array, measured: jax.Array, *, comparator: str = "spearman") -> jax.Array:
    """Correlation of the RDMs (1 - Pearson r over channels) of predicted and measured responses of test stimuli.

    Weights and penalties must come from other stimuli. One time bin after the other: memory is that of two RDMs.

    Args:
        predicted: (n_test, n_channels, n_time_bins), any unit.
        measured: (n_test, n_channels, n_time_bins), one unit for all channels.
        comparator: "spearman" (ties share their mean rank), "pearson" or another of `comparators.STANDARD`.
    Returns:
        (n_time_bins,) scores; 0 where one pattern, up to its mean and size, is predicted for all stimuli; NaN where a
        stimulus has the same value at all channels, or the dissimilarities of either side are otherwise all equal.
    Raises:
        ValueError: if the shapes differ, there are fewer than 3 stimuli or 2 channels, or the comparator is unknown.
    Source: the encoding RSA ("ersa", veRSA) of Conwell et al. 2024, Nat. Commun. 15:9383.
    """
    if predicted.shape != measured.shape or predicted.ndim != 3:
        raise ValueError(
            f"predicted is {tuple(predicted.shape)} and measured is {tuple(measured.shape)}: both are (n_test, n_channels, n_time_bins) of the same test stimuli."
        )
    n_test, n_channels, _ = predicted.shape
    if n_test < 3 or n_channels < 2:
        raise ValueError(
            f"{n_test} test stimuli and {n_channels} channels: RDMs to compare need at least 3 stimuli and patterns over 2 channels."
        )
    rsa, width = Rsa(comparator=comparator), jnp.asarray(n_channels, jnp.int32)
    rounding = ROUNDING_EPS * float(jnp.finfo(predicted.dtype).eps)

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        """(n_test, n_channels) twice -> ()"""
        guess, truth = (dissimilarities(patterns, width, "correlation")[:, None] for patterns in pair)
        pairs = np.arange(guess.shape[0])
        ours, theirs = (rsa.standard(Dissimilarities(rdm, rounding), pairs) for rdm in (guess, truth))
        ours = jnp.where(jnp.max(guess) <= _noise(pair[0]), 0, ours)
        theirs = jnp.where(jnp.max(truth) <= _noise(pair[1]), jnp.nan, theirs)
        return jnp.sum(ours * theirs)

    return jax.lax.map(one, (jnp.moveaxis(predicted, 2, 0), jnp.moveaxis(measured, 2, 0)))


def _noise(patterns: jax.Array) -> jax.Array:
    """Largest dissimilarity that rounding makes of patterns that are one, up to mean and size. (n, n_channels) -> ()

    A centred pattern is right to eps of its largest value; distances go with the square of its relative error.
    """
    spread = jnp.max(jnp.abs(patterns - jnp.mean(patterns, axis=1)[:, None]), axis=1)
    largest = jnp.max(jnp.max(jnp.abs(patterns), axis=1) / spread)
    return (ROUNDING_EPS * jnp.finfo(patterns.dtype).eps * largest) ** 2
