"""Multi-target ridge beside himalaya and scikit-learn: choose one penalty per target by 5 folds (or leave-one-out), refit."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign import estimators
from jaxalign.compute import fit, folds
from jaxalign.compute.choose import Choosing
from jaxalign.compute.decompose import Way, is_tall, scores_by_gram
from jaxalign.compute.linalg import basis_size

N_FOLDS = 5
N_LAYERS = 16


class Shape(NamedTuple):
    """One problem: stimuli, features, targets, penalties."""

    n: int
    p: int
    n_targets: int
    n_alphas: int

    def __str__(self) -> str:
        return f"{self.n} x {self.p}, {self.n_targets} targets, {self.n_alphas} alphas"


LARGE, TALL, WIDE = Shape(16540, 1024, 1700, 20), Shape(2000, 1024, 1700, 20), Shape(1000, 2048, 1700, 20)


def cases(timed: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The shapes of a data set of 16,540 pictures and of smaller ones, then many penalties and many layers at once."""
    yield _by_folds(timed, TALL, ("RidgeCV", "KernelRidgeCV"))
    yield _leave_one_out(timed, TALL)
    yield _by_folds(timed, WIDE, ("RidgeCV", "KernelRidgeCV"))
    for shape in (WIDE, TALL):
        yield _dense(timed, shape)
    yield _layers(timed, TALL)
    yield _by_folds(timed, LARGE, ("RidgeCV",), is_repeated=False)


def problem(shape: Shape, decay: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a decaying spectrum, responses with signal and noise, penalties over 6 decades; float32."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.n, shape.p), np.float32)
    x *= 5 / np.arange(1, shape.p + 1, dtype=np.float32) ** decay
    y = x @ rng.standard_normal((shape.p, shape.n_targets), np.float32) * np.float32(3 / np.sqrt(shape.p))
    y += 2 * rng.standard_normal(y.shape, np.float32)
    return x - x.mean(0), y - y.mean(0), np.logspace(0, 6, shape.n_alphas)


@partial(jax.jit, static_argnums=(4, 5))
def _fit(x: Any, y: Any, split: Any, alphas: Any, by: Choosing, n_basis: int) -> Any:
    state = fit.fit_state(x, split, None, by, Way(), alphas.shape[0])
    return fit.fit_chosen(state, y, split, None, alphas, by, n_basis)


def ours(shape: Shape, x: np.ndarray, y: np.ndarray, alphas: np.ndarray, by: str = "folds") -> Any:
    """Weights and penalties, from arrays on the host."""
    split = folds.of_cv(N_FOLDS, shape.n) if by == "folds" else None
    return _fit(x, y, split, alphas.astype(np.float32), Choosing(by), basis_size(alphas, jnp.float32))


def _by_folds(
    timed: Callable[..., Any], shape: Shape, peers: tuple[str, ...], is_repeated: bool = True
) -> dict[str, Any]:
    x, y, alphas = problem(shape)
    first, seconds, fitted = timed(lambda: ours(shape, x, y, alphas))
    out = {
        "name": f"ridge {shape}, {N_FOLDS} folds",
        "seconds": seconds,
        "first_seconds": first,
        **work(shape),
        "accuracy": accuracy(x, y, fitted, alphas),
        "peers": [
            _himalaya(name, backend, x, y, alphas, fitted, is_repeated)
            for name in peers
            for backend in ("numpy", "torch")
            if is_repeated or backend == "numpy"
        ],
    }
    out["estimator_seconds"] = _estimator(timed, x, y, alphas, N_FOLDS)
    if shape is LARGE:
        out["mib_above_inputs"] = _peak_mib()
    return out


def _estimator(timed: Callable[..., Any], x: np.ndarray, y: np.ndarray, alphas: np.ndarray, cv: int | None) -> float:
    """Seconds of the same through scikit-learn's face, which decomposes all rows in double precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", estimators.AlphaEdgeWarning)
        return timed(lambda: estimators.RidgeCV(alphas, cv=cv).fit(x, y).coef_)[1]


def _leave_one_out(timed: Callable[..., Any], shape: Shape) -> dict[str, Any]:
    from sklearn.linear_model import RidgeCV

    x, y, alphas = problem(shape)
    first, seconds, fitted = timed(lambda: ours(shape, x, y, alphas, "loo"))
    peer_seconds, peer = _best_of(lambda: RidgeCV(alphas, alpha_per_target=True).fit(x, y))
    same = float(np.mean(alphas[np.asarray(fitted.choice.place)] == peer.alpha_))
    return {
        "name": f"ridge {shape}, leave-one-out",
        "estimator_seconds": _estimator(timed, x, y, alphas, None),
        "seconds": seconds,
        "first_seconds": first,
        **work(shape, "loo"),
        "accuracy": accuracy(x, y, fitted, alphas),
        "peers": [
            {"name": "scikit-learn RidgeCV", "seconds": peer_seconds, "difference": f"{same:.1%} of alphas equal"}
        ],
    }


def _dense(timed: Callable[..., Any], shape: Shape) -> dict[str, Any]:
    """The same with 200 penalties; the peer is ourselves with 20."""
    dense = shape._replace(n_alphas=200)
    x, y, few = problem(shape, decay=1.0)
    _, few_seconds, _ = timed(lambda: ours(shape, x, y, few))
    many = np.logspace(0, 6, 200)
    first, seconds, fitted = timed(lambda: ours(dense, x, y, many))
    split = folds.of_cv(N_FOLDS, shape.n)
    single = _fit(x, y, split, many.astype(np.float32), Choosing(), 0)
    gap = float(np.max(np.abs(np.asarray(fitted.judged) - np.asarray(single.judged))))
    same = float(np.mean(np.asarray(fitted.choice.place) == np.asarray(single.choice.place)))
    return {
        "name": f"ridge {dense}, {N_FOLDS} folds, decaying spectrum",
        "seconds": seconds,
        "first_seconds": first,
        **work(dense),
        "accuracy": f"r2 differs from each penalty by itself by at most {gap:.1e}, {same:.1%} of alphas equal",
        "peers": [
            {
                "name": "this with 20 alphas",
                "seconds": few_seconds,
                "difference": f"{seconds / few_seconds:.2f} times its time",
            }
        ],
    }


def _layers(timed: Callable[..., Any], shape: Shape) -> dict[str, Any]:
    """Many layers in one call, against a loop over them."""
    x, y, alphas = problem(shape)
    rng = np.random.default_rng(1)
    stack = np.stack([x * rng.uniform(0.5, 2, shape.p).astype(np.float32) for _ in range(N_LAYERS)])
    split, single = folds.of_cv(N_FOLDS, shape.n), alphas.astype(np.float32)
    at_once = jax.jit(lambda all_x, y: jax.lax.map(lambda one: _fit(one, y, split, single, Choosing(), 0), all_x))
    first, seconds, together = timed(lambda: at_once(stack, y), repeats=1)
    _, loop_seconds, looped = timed(lambda: [ours(shape, one, y, alphas) for one in stack], repeats=1)
    same = all(
        np.array_equal(np.asarray(one.choice.place), np.asarray(together.choice.place[place]))
        for place, one in enumerate(looped)
    )
    of_one = work(shape)
    return {
        "name": f"ridge {N_LAYERS} layers of {shape}, {N_FOLDS} folds",
        "seconds": seconds,
        "first_seconds": first,
        **{name: N_LAYERS * value for name, value in of_one.items()},
        "accuracy": f"penalties {'equal' if same else 'DIFFER'} those of the loop",
        "peers": [{"name": "loop over layers", "seconds": loop_seconds, "difference": "the same function, one by one"}],
    }


def _himalaya(
    name: str, backend: str, x: np.ndarray, y: np.ndarray, alphas: np.ndarray, fitted: Any, is_repeated: bool
) -> dict[str, Any]:
    """The peer at its best, with the same folds, criterion and intercept."""
    import himalaya.kernel_ridge
    import himalaya.ridge
    from himalaya.backend import set_backend
    from himalaya.scoring import r2_score

    at = set_backend(backend)
    data, targets = at.asarray(x), at.asarray(y)
    settings = {"score_func": r2_score}
    # All targets at once: batches of 500 were no faster, for either class and backend (4.21 against 4.16 s at best).
    if name == "RidgeCV":
        candidate = himalaya.ridge.RidgeCV(
            alphas, cv=N_FOLDS, fit_intercept=True, solver_params={**settings, "warn": False}
        )
    else:
        candidate = himalaya.kernel_ridge.KernelRidgeCV(
            alphas, kernel="linear", cv=N_FOLDS, fit_intercept=True, warn=False, solver_params=settings
        )
    best, model = _best_of(lambda: candidate.fit(data, targets), 2 if is_repeated else 1)
    chosen = np.asarray(at.to_numpy(model.best_alphas_))
    set_backend("numpy")
    same = float(np.mean(np.isclose(alphas[np.asarray(fitted.choice.place)], chosen, rtol=1e-3)))
    return {"name": f"himalaya {name} ({backend})", "seconds": best, "difference": f"{same:.1%} of alphas equal"}


def _best_of(do: Callable[[], Any], n_times: int = 2) -> tuple[float, Any]:
    best, out = np.inf, None
    for _ in range(n_times):
        start = time.perf_counter()
        out = do()
        best = min(best, time.perf_counter() - start)
    return best, out


def accuracy(x: np.ndarray, y: np.ndarray, fitted: Any, alphas: np.ndarray, n_checked: int = 40) -> str:
    """Largest difference of predictions from float64 with the same penalties, over the SD of the target, of some targets."""
    x64, y64 = x.astype(np.float64), y[:, :n_checked].astype(np.float64)
    left, singular, right = np.linalg.svd(x64 - x64.mean(0), full_matrices=False)
    chosen = alphas[np.asarray(fitted.choice.place)[:n_checked]]
    shrunk = singular[:, None] / (singular[:, None] ** 2 + chosen[None])
    exact = x64 @ (right.T @ (shrunk * (left.T @ (y64 - y64.mean(0)))))
    ours_ = x64 @ np.asarray(fitted.weights, np.float64)[:, :n_checked]
    gap = (np.abs((ours_ - ours_.mean(0)) - (exact - exact.mean(0))) / y64.std(0)).max()
    return f"predictions differ from float64 by at most {gap:.1e} SD"


def work(shape: Shape, by: str = "folds") -> dict[str, float]:
    """Arithmetic of this method in GFLOP: matrix products, and eigendecompositions counted as 9 r^3."""
    n, p, t, a = shape
    n_test, n_train = n / N_FOLDS, n - n / N_FOLDS
    tall = is_tall(int(n_train), p)
    r = p if tall else n_train
    whole = min(n, p)
    refit = 2 * whole**2 * t * (2 if tall else 1) + (0 if tall else 2 * n * p * t)
    gram = 2 * n * p * min(n, p)
    if by == "loo":
        products = gram + 2 * n * whole**2 + 2 * n * whole * t * (a + 2) + refit
        return {"gflop": (products + 9 * whole**3) / 1e9, "gemm_gflop": products / 1e9}
    n_basis = basis_size(np.logspace(0, 6, a), np.dtype(np.float32))
    n_long = n_basis or a
    short = 2 * a * n_basis * t
    if tall and scores_by_gram(int(n_test), p, a):
        per_fold = 4 * r**3 + 4 * r * r * t + r * (2 * n_long * r * t + short)
    else:
        per_fold = 2 * n_test * r * r + 2 * r * r * t + n_test * (2 * n_long * r * t + short)
    products = gram + (2 * n * p * t if tall else 0) + N_FOLDS * per_fold + refit
    return {"gflop": (products + 9 * (N_FOLDS * r**3 + whole**3)) / 1e9, "gemm_gflop": products / 1e9}


def _peak_mib() -> float:
    """Largest memory above the inputs, of a process of its own."""
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.ridge"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_bytes() -> int:
    """Most memory this program ever held; getrusage would count what its parent held."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "the peak of memory is read from /proc, which Linux has"
    return int(found.group(1)) * 1024


def main() -> None:
    """Fit the large shape once and print how many MiB the process grew above its inputs."""
    import psutil

    x, y, alphas = problem(LARGE)
    jax.block_until_ready(jnp.zeros(1))
    before, made = psutil.Process().memory_info().rss, peak_bytes()
    jax.block_until_ready(ours(LARGE, x, y, alphas))
    peak = peak_bytes()
    assert peak > made, "the peak was reached while inputs were made: it says nothing"
    print(round((peak - before) / 2**20, 1))


if __name__ == "__main__":
    main()
