"""Dual bootstrap of model comparisons, three bootstraps and their noise ceilings, against rsatoolbox on the same draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxalign.compute import rdm_bootstrap

N_STIMULI, N_MODELS, N_SUBJECTS = 92, 8, 8
N_SAMPLES, N_PEER_SAMPLES = 1000, 12
PEER = {"pearson": "corr"}


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """One case per comparator; the target of 50 times is for pearson."""
    rng = np.random.default_rng(0)
    base = rng.random(N_STIMULI * (N_STIMULI - 1) // 2)
    data = base[:, None] + 0.5 * rng.random((len(base), N_SUBJECTS))
    models = base[:, None] * np.linspace(0, 1, N_MODELS)[None] + rng.random((len(base), N_MODELS))
    data, models = data.astype(np.float32), models.astype(np.float32)
    for comparator in ("pearson", "cosine_cov", "spearman", "rho-a"):
        seconds_of_peer, theirs, drawn = _peer(models, data, comparator)
        exact = jax.jit(partial(rdm_bootstrap.dual_bootstrap, comparator=comparator))(models, data, *drawn)
        gap = float(np.max(np.abs(np.asarray(exact.evaluations) - theirs.evaluations[:, :, 0, 0])))
        of_bounds = np.asarray(exact.ceilings) - theirs.noise_ceiling[:, :, 0].transpose(1, 0, 2)
        stimuli, subjects = (
            rdm_bootstrap.counts(scheme, n, N_SAMPLES, 0)
            for scheme, n in (("stimuli", N_STIMULI), ("subjects", N_SUBJECTS))
        )
        run = jax.jit(partial(rdm_bootstrap.dual_bootstrap, comparator=comparator))
        first, seconds, _ = timed(partial(run, models, data, stimuli, subjects))
        n_columns = (N_MODELS + N_SUBJECTS) * (N_SUBJECTS + 2)
        yield {
            "name": f"dual bootstrap, {comparator}, {N_MODELS} models x {N_SUBJECTS} RDMs of {N_STIMULI} stimuli, {N_SAMPLES} samples",
            "seconds": seconds,
            "first_seconds": first,
            "gflop": 2 * len(base) * n_columns * N_SAMPLES / 1e9,
            "accuracy": f"{N_SAMPLES / seconds:.0f} samples/s",
            "peers": [
                {
                    "name": "rsatoolbox",
                    "seconds": seconds_of_peer * N_SAMPLES,
                    "difference": f"{1 / seconds_of_peer:.1f} samples/s; scores differ by at most {gap:.1e}, ceilings by {np.max(np.abs(of_bounds)):.1e} (float32, same draws; time of {N_PEER_SAMPLES} samples scaled up)",
                }
            ],
        }


def _peer(models: np.ndarray, data: np.ndarray, comparator: str) -> tuple[float, Any, list[np.ndarray]]:
    """Seconds per sample of rsatoolbox, its result, and how often it drew each stimulus and subject."""
    from rsatoolbox.inference import evaluate
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.rdm import RDMs

    counts: list[tuple[np.ndarray, np.ndarray]] = []
    original, bar = evaluate.bootstrap_sample, evaluate.tqdm.trange

    def recording(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        counts.append((np.bincount(out[2], minlength=N_STIMULI), np.bincount(out[1], minlength=N_SUBJECTS)))
        return out

    named = [ModelFixed(str(i), model) for i, model in enumerate(models.T.astype(np.float64))]
    settings = {"method": PEER.get(comparator, comparator), "k_pattern": 1, "k_rdm": 1, "N": N_PEER_SAMPLES}
    rdms = RDMs(data.T.astype(np.float64))
    np.random.seed(0)  # noqa: NPY002
    evaluate.bootstrap_sample, evaluate.tqdm.trange = recording, range
    try:
        start = time.perf_counter()
        result = evaluate.eval_dual_bootstrap(named, rdms, **settings)
        seconds = (time.perf_counter() - start) / N_PEER_SAMPLES
    finally:
        evaluate.bootstrap_sample, evaluate.tqdm.trange = original, bar
    return seconds, result, [np.array(x, np.int32) for x in zip(*counts, strict=True)]
