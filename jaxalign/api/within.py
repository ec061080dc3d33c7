"""RSA inside sentences or other sets of rows, averaged over the sets, in one call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.api.checks import finite, matrix
from jaxalign.api.result import Result
from jaxalign.api.scores import null_of, result_of
from jaxalign.compute import mismatch, row_sets, sentences
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.permute import summarise
from jaxalign.errors import DataError, nearest

NULLS = ("mismatch", "circular", "as_published")


def rsa_within(
    features: Any,
    responses: Any,
    sets: Any,
    *,
    distance: str = "correlation",
    responses_distance: str = "difference",
    comparator: str = "spearman",
    null: str = "mismatch",
    n_permutations: int = 500,
    seed: int = 0,
    is_time_partialled: bool = False,
) -> Result:
    """RSA of the rows inside each set, such as the frames of each sentence; the score is the mean over sets.

    Args:
        features: (n_rows, n_features) of one layer.
        responses: (n_rows, n_channels) at the same rows, any unit.
        sets: (n_rows,) label of the set of each row, rows of a set in their order.
        distance: between features, "correlation", "euclidean" or "difference" (of one feature).
        responses_distance: "difference" scores each channel by itself; "correlation" or "euclidean" all together.
        comparator: "spearman" or "pearson".
        null: "mismatch" lets the responses of a sentence meet the features of another one, on their first common rows;
            "circular" shifts features along each sentence, which still rejects too often; "as_published" permutes rows
            within sentences, and is valid only for rows without an order in time.
        n_permutations: labellings beside the observed one.
        seed: of the labellings.
        is_time_partialled: take out of both sides what |t1 - t2| explains.
    Returns:
        Result with statistic rsa, per channel or (); `above_null` is the score minus what mismatched sentences score.
    Raises:
        DataError: if shapes disagree, a set has fewer than 3 rows, values are not finite, or a name is unknown.
    """
    x, y = matrix(features, "features"), matrix(finite(responses, "responses"), "responses")
    labels = np.asarray(sets)
    if not len(x) == len(y) == labels.size:
        raise DataError(
            f"features has {len(x)} rows, responses {len(y)} and sets {labels.size} labels: all must be equal."
        )
    if null not in NULLS:
        raise DataError(f"null={null!r} is not a null. {nearest(null, NULLS)}")
    try:
        buckets = row_sets.buckets(np.unique(labels, return_inverse=True)[1].astype(np.int32))
        sizes = row_sets.set_sizes(np.unique(labels, return_inverse=True)[1])
        options = {"comparator": comparator, "is_time_partialled": is_time_partialled}

        @jax.jit
        def under(x: jax.Array, y: jax.Array) -> jax.Array:
            ours = sentences.set_rdms(x[None], jnp.full(1, x.shape[1], jnp.int32), buckets, distance)
            if responses_distance == "difference":
                theirs = sentences.channel_rdms(y, buckets)
            else:
                width = jnp.full(1, y.shape[1], jnp.int32)
                theirs = sentences.set_rdms(y[None], width, buckets, responses_distance)
            return _under(null, ours, theirs, buckets, sizes, n_permutations, seed, options)

        scores = under(x, y)
    except ValueError as error:
        raise DataError(str(error)) from error
    n_targets = scores.shape[-1]
    nothing = jnp.zeros((1, 0, 1, n_targets), scores.dtype)
    no_rows = np.zeros((len(scores), 1), np.int32)
    made = jax.device_get(summarise(scores[:, :, None], nothing, null_of(no_rows, n_targets), tail=Rsa.tail))
    shape = (n_targets,) if responses_distance == "difference" else ()
    warning = {"circular": sentences.CIRCULAR_WARNING, "as_published": sentences.LABEL_WARNING}.get(null)
    above = np.asarray(scores[0] - scores[1:].mean(0))[0].reshape(shape)
    return result_of([Rsa()], [made], shape, above_null=above, warnings=(warning,) if warning else ())


def _under(
    null: str, ours: Any, theirs: Any, buckets: Any, sizes: np.ndarray, n_permutations: int, seed: int, options: Any
) -> jax.Array:
    """Mean over sets under every labelling. -> (n_labellings, 1, n_targets)"""
    if null == "mismatch":
        matchings = row_sets.mismatches(len(sizes), n_permutations, seed)
        even = mismatch.without_length(sentences.pair_scores(ours, theirs, buckets, **options), sizes)
        return mismatch.mismatch_null(even, matchings)
    if null == "circular":
        shifted = sentences.shift_scores(ours, theirs, buckets, **options)
        return mismatch.shift_null(shifted, row_sets.shifts(sizes, n_permutations, seed))
    rows = [jnp.asarray(row_sets.frame_labellings(one, n_permutations, seed)) for one in buckets]
    return jnp.mean(sentences.relabelled_scores(ours, theirs, buckets, rows, **options), axis=0)
