"""Ridge with one penalty per target: choose by 5 inner folds on the training rows, predict and score a test set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxalign.compute import folds
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Features, Null, Responses

SHAPES = ((1000, 512, 1000, 20), (400, 1024, 1000, 20))
"""(n_stimuli, n_features, n_targets, n_alphas): tall and wide."""

N_TEST = 100


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """One case per shape, with himalaya's RidgeCV on the same folds and criterion."""
    for n, p, n_targets, n_alphas in SHAPES:
        yield _case(timed, n, p, n_targets, n_alphas)


def _case(timed: Callable[..., Any], n: int, p: int, n_targets: int, n_alphas: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n + N_TEST, p)).astype(np.float32) * np.linspace(2, 0.1, p, dtype=np.float32)
    y = x @ rng.standard_normal((p, n_targets)).astype(np.float32) / np.sqrt(p)
    y += 2 * rng.standard_normal(y.shape).astype(np.float32)
    alphas = np.geomspace(1, 1e5, n_alphas)
    is_test = np.arange(n + N_TEST) >= n
    design = folds.design(is_test[None], 5, 0, shuffle=False, is_fixed_split=True)
    metric = Ridge(alphas="given", alpha_values=tuple(alphas), n_permutations=0, zscore=False)
    null = Null(
        np.arange(N_TEST)[None].astype(np.int32), np.zeros((n_targets, 0), np.float32), np.zeros(n_targets, np.int32)
    )

    @jax.jit
    def run(x: Any, y: Any) -> Any:
        state = metric.features_state(Features(x[None], np.array([p], np.int32)), design, "cpu")
        return metric.score(state, metric.responses_state(Responses(y), design), design, null)

    first, seconds, scores = timed(lambda: run(x, y))
    peer_seconds, r, peer_alphas = _himalaya(x, y, is_test, alphas)
    same = float(np.mean(np.isclose(np.asarray(scores.alpha[0]), peer_alphas, rtol=1e-3)))
    gap = float(np.max(np.abs(np.asarray(scores.value[0, 0]) - r)))
    return {
        "name": f"ridge {n} x {p}, {n_targets} targets, {n_alphas} alphas, 5 inner folds",
        "seconds": seconds,
        "first_seconds": first,
        "gflop": _gflop(n, p, n_targets, n_alphas),
        "peers": [
            {
                "name": "himalaya RidgeCV (numpy)",
                "seconds": peer_seconds,
                "difference": f"r differs by at most {gap:.1e}, {same:.1%} of alphas equal",
            }
        ],
    }


def _himalaya(
    x: np.ndarray, y: np.ndarray, is_test: np.ndarray, alphas: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The same work by the peer, best of two runs. -> seconds, r per target, chosen alphas"""
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from himalaya.scoring import correlation_score, r2_score
    from sklearn.model_selection import KFold

    set_backend("numpy")
    settings = {"score_func": r2_score, "warn": False}
    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        model = RidgeCV(alphas=alphas, cv=KFold(5), fit_intercept=True, solver_params=settings)
        model.fit(x[~is_test], y[~is_test])
        r = correlation_score(y[is_test], model.predict(x[is_test]))
        best = min(best, time.perf_counter() - start)
    return best, np.asarray(r), np.asarray(model.best_alphas_)


def _gflop(n: int, p: int, n_targets: int, n_alphas: int) -> float:
    """Arithmetic of this method: 6 decompositions (eigh counted as 9 r^3), and the products of the inner folds."""
    rank = min(p, n)
    train = 0.8 * n
    inner_rank = min(p, train)
    decompose = 5 * (2 * train * p * inner_rank + 9 * inner_rank**3) + 2 * n * p * rank + 9 * rank**3
    rotate = 5 * 2 * (2 * train * p * inner_rank) + 2 * 2 * n * p * rank
    products = 5 * (2 * inner_rank * train * n_targets + 2 * n_alphas * (n / 5) * inner_rank * n_targets)
    return (decompose + rotate + products) / 1e9
