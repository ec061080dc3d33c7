"""Within-sentence RSA of many layers with every electrode and its mismatch null, against NumPy and SciPy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxalign.compute import mismatch, row_sets, sentences
from tests.benchmarks.ridge import peak_bytes

N_SENTENCES, N_FITS, N_CHANNELS, WIDTH = 84, 32, 62, 20
SHORTEST, LONGEST, N_PERMUTATIONS = 60, 140, 500
N_PEER_PAIRS = 3


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """One case: features to null means, all electrodes; SciPy ranks once per sentence, and again for a common length."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(SHORTEST, LONGEST + 1, N_SENTENCES)
    labels = np.repeat(np.arange(N_SENTENCES), sizes)
    features = rng.standard_normal((N_FITS, len(labels), WIDTH)).astype(np.float32)
    responses = rng.standard_normal((len(labels), N_CHANNELS)).astype(np.float32)
    widths = np.full(N_FITS, WIDTH, np.int32)
    buckets = row_sets.buckets(labels)
    matchings = row_sets.mismatches(N_SENTENCES, N_PERMUTATIONS, 0)

    @jax.jit
    def run(features: Any, responses: Any, buckets: Any) -> Any:
        ours = sentences.set_rdms(features, widths, buckets)
        theirs = sentences.channel_rdms(responses, buckets)
        scores = sentences.pair_scores(ours, theirs, buckets)
        even = mismatch.without_length(scores, sizes)
        return scores, mismatch.mismatch_null(even, matchings), mismatch.mismatch_mean(even)

    first, seconds, (scores, _, _) = timed(lambda: run(features, responses, buckets))
    peak = peak_bytes() / 2**20
    common = np.minimum(sizes[:, None], sizes[None, :]).astype(np.float64)
    yield {
        "name": f"sentences {N_SENTENCES} of {SHORTEST} to {LONGEST} rows, {N_FITS} fits x {N_CHANNELS} electrodes, {N_PERMUTATIONS} mismatches",
        "seconds": seconds,
        "first_seconds": first,
        "gflop": float((common * (common - 1) / 2).sum()) * 2 * N_FITS * N_CHANNELS / 1e9,
        "mib_peak": round(peak),
        "accuracy": "counts products of pair scores only; ranks take most of the time",
        "peers": [_peer(features, responses, labels, matchings, np.asarray(scores))],
    }


def _peer(
    features: np.ndarray, responses: np.ndarray, labels: np.ndarray, matchings: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    """Seconds of a few mismatched pairs of sentences, times all that the matchings ask for, without repeats."""
    pairs = sorted({(s, int(o)) for row in matchings for s, o in enumerate(row)})
    some = [pairs[place] for place in np.linspace(0, len(pairs) - 1, N_PEER_PAIRS).astype(int)]
    start = time.perf_counter()
    found = [_one_by_one(features[:, labels == o], responses[labels == s]) for s, o in some]
    per_pair = (time.perf_counter() - start) / N_PEER_PAIRS
    gap = max(float(np.abs(one - scores[s, o]).max()) for one, (s, o) in zip(found, some, strict=True))
    return {
        "name": "NumPy and SciPy, one pair of sentences at a time",
        "seconds": per_pair * len(pairs),
        "difference": f"values differ by at most {gap:.1e} (time of {N_PEER_PAIRS} of {len(pairs)} pairs scaled up)",
    }


def _one_by_one(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import pdist
    from scipy.stats import rankdata

    n = min(features.shape[1], len(responses))
    ours = np.stack([pdist(fit[:n].astype(np.float64), "correlation") for fit in features])
    theirs = np.stack([pdist(channel[:n, None].astype(np.float64), "cityblock") for channel in responses.T])
    ours, theirs = (rankdata(side, axis=1) - (ours.shape[1] + 1) / 2 for side in (ours, theirs))
    lengths = np.linalg.norm(ours, axis=1)[:, None] * np.linalg.norm(theirs, axis=1)[None, :]
    return ours @ theirs.T / lengths
