"""Run every benchmark, print a table, keep the results with the hardware's name.

Command:  make bench
Duration: about 15 minutes on 2 cores, a third of it the largest ridge by a peer.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxalign.runtime.folder import git_revision, versions
from tests.benchmarks import models, rdm_bootstrap, ridge, rsa, runtime, sentences

RESULTS = Path(__file__).parent / "results"
REPEATS = 3
FILES: dict[str, Any] = {
    "ridge": ridge,
    "rsa": rsa,
    "rdm_bootstrap": rdm_bootstrap,
    "sentences": sentences,
    "runtime": runtime,
    "models": models,
}
"""Name -> module with `cases(timed)`; `python -m tests.benchmarks NAME` measures one and keeps the results of the others."""


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, float, Any]:
    """First call (with compilation) and best of the next ones, in seconds, and what came out."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        out = jax.block_until_ready(work())
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds[1:]), out


def hardware() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    found = re.search(r"model name\s*:\s*(.*)", cpu)
    return {
        "cpu": found.group(1) if found else platform.processor(),
        "cores": os.cpu_count(),
        "device": str(jax.devices()[0].device_kind),
        "gemm_gflops_per_s": round(gemm_rate(), 1),
    }


def gemm_rate() -> float:
    """Measured rate of a large float32 matrix product, GFLOP/s: the ceiling of everything here."""
    size = 2048
    matrix = jax.numpy.ones((size, size), jax.numpy.float32)
    product = jax.jit(lambda a: jax.numpy.matmul(a, a, precision="highest"))
    _, seconds, _ = timed(lambda: product(matrix))
    return 2 * size**3 / seconds / 1e9


def main() -> None:
    """Measure, print and write; each file in a process of its own, whose memory no other one has filled."""
    if not sys.argv[1:]:
        for name in FILES:
            subprocess.run([sys.executable, "-m", "tests.benchmarks", name], check=True)
        return
    name = sys.argv[1]
    about = {"hardware": hardware(), "versions": versions()}
    slug = re.sub(r"[^a-z0-9]+", "-", f"{about['hardware']['cpu']} {about['hardware']['device']}".lower()).strip("-")
    path = RESULTS / f"{slug}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.is_file() else []
    cases = [case for case in before if case.get("file") != name and case.get("file") in FILES]
    for case in FILES[name].cases(timed):
        # The rate of this moment: clocks and neighbours change it by a third within minutes.
        rate = gemm_rate()
        case |= {"file": name, "git": git_revision(), "gemm_gflops_per_s": round(rate, 1)}
        case["floor_seconds"] = round(case["gflop"] / rate, 3)
        case["percent_of_gemm_rate"] = round(100 * case["gflop"] / case["seconds"] / rate, 1)
        cases.append(case)
        print(_line(case), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({**about, "cases": cases}, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _line(case: dict[str, Any]) -> str:
    peers = "; ".join(
        f"{peer['name']} {peer['seconds']:.3g} s = {peer['seconds'] / case['seconds']:.1f} times ours, {peer['difference']}"
        for peer in case["peers"]
    )
    more = [f"{case['gemm_gflop'] / case['gflop']:.0%} of it in matrix products"] if "gemm_gflop" in case else []
    more += [f"{case['mib_above_inputs']:.0f} MiB above the inputs"] if "mib_above_inputs" in case else []
    more += [f"{case['mib_peak']:.0f} MiB at most, inputs included"] if "mib_peak" in case else []
    more += [f"as an estimator {case['estimator_seconds']:.3g} s"] if "estimator_seconds" in case else []
    more += [case["accuracy"]] if "accuracy" in case else []
    return (
        f"{case['name']}: {case['seconds']:.3g} s (first call {case['first_seconds']:.3g} s), floor {case['floor_seconds']:.3g} s, "
        f"{case['percent_of_gemm_rate']:.0f} % of the GEMM rate; {'; '.join(more)}; {peers}"
    )


if __name__ == "__main__":
    main()
