"""Spearman RSA of many layers with many time bins under label permutations, against rsatoolbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from jaxalign.compute import folds
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.permute import labellings
from jaxalign.contracts import Null, Rdms
from tests.benchmarks.ridge import peak_bytes

SHAPES = ((1854, 64, 1), (200, 64, 60), (200, 1024, 60))
"""Stimuli, fits, bins. The one whose memory is asked for comes first, in a process that has held nothing else."""

N_PERMUTATIONS = 1000
PEERS_AT = (200, 64)
"""The shape at which rsatoolbox is timed as documented; elsewhere it would take minutes per permutation."""


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Peers: rsatoolbox as documented, at its best (ranked once), and NumPy ranked once; one thread for the last two."""
    for n_stimuli, n_fits, n_bins in SHAPES:
        rng = np.random.default_rng(0)
        n_pairs = n_stimuli * (n_stimuli - 1) // 2
        models = rng.standard_normal((n_pairs, n_fits)).astype(np.float32)
        brain = rng.standard_normal((n_pairs, n_bins)).astype(np.float32)
        rows = labellings(n_stimuli, N_PERMUTATIONS, 0)
        run = _job(n_stimuli, n_bins)
        # One repeat of the largest: it takes as long as all others.
        first, seconds, scores = timed(
            lambda job=run, given=(models, brain, rows): job(*given), 1 if n_fits > 64 else 3
        )
        peak_mib, value = peak_bytes() / 2**20, np.asarray(scores.value[:, 0])
        yield {
            "name": f"rsa {n_stimuli} stimuli, {n_fits} fits x {n_bins} bins, {N_PERMUTATIONS} permutations",
            "seconds": seconds,
            "first_seconds": first,
            "gflop": 2 * n_fits * n_pairs * n_bins * (N_PERMUTATIONS + 1) / 1e9,
            **({"mib_peak": round(peak_mib)} if n_stimuli == SHAPES[0][0] else {}),
            "peers": [_peer(name, work, value) for name, work in _peers(models, brain, rows, n_stimuli)],
        }


def _job(n_stimuli: int, n_bins: int) -> Callable[..., Any]:
    """RDMs of both sides to scores, counts, z and maxima, in one compiled call."""
    metric = Rsa(n_permutations=N_PERMUTATIONS, n_folds=0)
    design = folds.design(np.arange(n_stimuli)[None] % 2 == 0, 2, 0)

    @jax.jit
    def run(models: Any, brain: Any, rows: Any) -> Any:
        null = Null(rows, np.zeros((n_bins, 0), np.float32), np.zeros(n_bins, np.int32))
        ours = metric.features_state(Rdms(models), design, "cpu")
        return metric.score(ours, metric.responses_state(Rdms(brain), design), design, null)

    return run


def _peer(name: str, work: Callable[[np.ndarray], np.ndarray], value: np.ndarray) -> dict[str, Any]:
    """Time per permutation of a peer, times the number of permutations that we did."""
    start = time.perf_counter()
    n_done = 0
    while n_done < 1 or time.perf_counter() - start < 2:
        work(n_done)
        n_done += 1
    per_permutation = (time.perf_counter() - start) / n_done
    gap = float(np.max(np.abs(work(0) - value)))
    return {
        "name": name,
        "seconds": per_permutation * (N_PERMUTATIONS + 1),
        "ms_per_permutation": 1000 * per_permutation,
        "difference": f"values differ by at most {gap:.1e} (time of {n_done} permutations scaled up)",
    }


def _peers(
    models: np.ndarray, brain: np.ndarray, rows: np.ndarray, n_stimuli: int
) -> Iterator[tuple[str, Callable[[int], np.ndarray]]]:
    from rsatoolbox.rdm import RDMs, compare, rank_transform
    from rsatoolbox.rdm.rdms import permute_rdms
    from scipy.stats import rankdata

    index = np.zeros((n_stimuli, n_stimuli), int)
    first, second = np.triu_indices(n_stimuli, 1)
    index[first, second] = index[second, first] = np.arange(len(first))
    unit_models, unit_brain = (_unit(rankdata(side, axis=0)) for side in (models, brain))

    def by_numpy(i: int) -> np.ndarray:
        return unit_models.T @ unit_brain[index[rows[i][first], rows[i][second]]]

    def on_one_thread(i: int) -> np.ndarray:
        with threadpool_limits(1):
            return by_numpy(i)

    yield "NumPy, ranked once", by_numpy
    yield "NumPy, ranked once, one thread", on_one_thread
    if n_stimuli != PEERS_AT[0]:
        return
    ours, theirs = RDMs(models.T.astype(np.float64)), RDMs(brain.T.astype(np.float64))
    ranked, ranked_brain = rank_transform(ours), rank_transform(theirs)
    yield (
        "rsatoolbox, ranked once",
        lambda i: compare(ranked, permute_rdms(ranked_brain, rows[i].astype(int)), "corr"),
    )
    if models.shape[1] == PEERS_AT[1]:
        yield (
            "rsatoolbox, spearman",
            lambda i: compare(ours, permute_rdms(theirs, rows[i].astype(int)), "spearman"),
        )


def _unit(ranks: np.ndarray) -> np.ndarray:
    centred = ranks - ranks.mean(0)
    return (centred / np.linalg.norm(centred, axis=0)).astype(np.float32)
