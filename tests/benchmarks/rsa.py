"""Spearman RSA of many layers with many time bins under label permutations, against rsatoolbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxalign.compute import folds
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.permute import labellings
from jaxalign.contracts import Null, Rdms

N_STIMULI, N_FITS, N_BINS = 200, 64, 60
N_PERMUTATIONS, N_PEER_PERMUTATIONS = 200, 3


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """One case, three peers: rsatoolbox as documented, at its best (ranked once), and NumPy ranked once."""
    rng = np.random.default_rng(0)
    n_pairs = N_STIMULI * (N_STIMULI - 1) // 2
    models = rng.standard_normal((n_pairs, N_FITS)).astype(np.float32)
    brain = rng.standard_normal((n_pairs, N_BINS)).astype(np.float32)
    metric = Rsa(n_permutations=N_PERMUTATIONS, n_folds=0)
    design = folds.design(np.arange(N_STIMULI)[None] % 2 == 0, 2, 0)
    rows = labellings(N_STIMULI, N_PERMUTATIONS, 0)
    null = Null(rows, np.zeros((N_BINS, 0), np.float32), np.zeros(N_BINS, np.int32))

    @jax.jit
    def run(models: Any, brain: Any) -> Any:
        ours = metric.features_state(Rdms(models), design, "cpu")
        return metric.score(ours, metric.responses_state(Rdms(brain), design), design, null)

    first, seconds, scores = timed(lambda: run(models, brain))
    value = np.asarray(scores.value[0:N_FITS, 0])
    yield {
        "name": f"rsa {N_STIMULI} stimuli, {N_FITS} fits x {N_BINS} bins, {N_PERMUTATIONS} permutations",
        "seconds": seconds,
        "first_seconds": first,
        "gflop": 2 * N_FITS * n_pairs * N_BINS * (N_PERMUTATIONS + 1) / 1e9,
        "peers": [_peer(name, work, value) for name, work in _peers(models, brain, rows).items()],
    }


def _peer(name: str, work: Callable[[np.ndarray], np.ndarray], value: np.ndarray) -> dict[str, Any]:
    """Time per permutation of a peer, times the number of permutations that we did."""
    start = time.perf_counter()
    for index in range(N_PEER_PERMUTATIONS):
        work(index)
    per_permutation = (time.perf_counter() - start) / N_PEER_PERMUTATIONS
    gap = float(np.max(np.abs(work(0) - value)))
    return {
        "name": name,
        "seconds": per_permutation * (N_PERMUTATIONS + 1),
        "difference": f"values differ by at most {gap:.1e} (time of {N_PEER_PERMUTATIONS} permutations scaled up)",
    }


def _peers(models: np.ndarray, brain: np.ndarray, rows: np.ndarray) -> dict[str, Callable[[int], np.ndarray]]:
    from rsatoolbox.rdm import RDMs, compare, rank_transform
    from rsatoolbox.rdm.rdms import permute_rdms
    from scipy.stats import rankdata

    ours, theirs = RDMs(models.T.astype(np.float64)), RDMs(brain.T.astype(np.float64))
    ranked, ranked_brain = rank_transform(ours), rank_transform(theirs)
    unit_models, unit_brain = (_unit(rankdata(side, axis=0)) for side in (models, brain))
    index = np.zeros((N_STIMULI, N_STIMULI), int)
    first, second = np.triu_indices(N_STIMULI, 1)
    index[first, second] = index[second, first] = np.arange(len(first))
    return {
        "rsatoolbox, spearman": lambda i: compare(ours, permute_rdms(theirs, rows[i].astype(int)), "spearman"),
        "rsatoolbox, ranked once": lambda i: compare(ranked, permute_rdms(ranked_brain, rows[i].astype(int)), "corr"),
        "NumPy, ranked once": lambda i: unit_models.T @ unit_brain[index[rows[i][first], rows[i][second]]],
    }


def _unit(ranks: np.ndarray) -> np.ndarray:
    centred = ranks - ranks.mean(0)
    return (centred / np.linalg.norm(centred, axis=0)).astype(np.float32)
