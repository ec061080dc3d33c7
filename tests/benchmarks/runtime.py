"""The runtime around the kernels: a THINGS-EEG2-shaped run with its memory and overhead, and what a sweep costs.

There is no peer that does the same job; a run is compared with its own kernels, and a sweep with one run of the same fits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.contracts import Fit

N_PERMUTATIONS = 20
N_JOBS = 32
ROOT = Path(__file__).parents[2]


def cases(timed: Callable[..., Any]) -> list[dict[str, Any]]:
    """All of this file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [_things(folder, 1, 1.5), _things(folder, 8, 0.7), _sweep(folder)]


def _things(folder: Path, n_devices: int, memory_gib: float) -> dict[str, Any]:
    """The run in a process of its own, on simulated devices that split the targets."""
    words = [
        sys.executable,
        "-m",
        "tests.things_shaped",
        str(folder),
        str(n_devices),
        str(memory_gib),
        str(N_PERMUTATIONS),
    ]
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    done = subprocess.run(
        words, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(done.stdout.splitlines()[-1])
    profile = found["profile"]
    gflop = sum(stage["flop"] for stage in profile["stages"].values()) / 1e9
    kernels = profile["busy_s"]
    return {
        "name": f"THINGS-EEG2-shaped run (simulated), 4 layers x 17,000 targets, {n_devices} device(s) of {memory_gib} GiB",
        "seconds": round(found["seconds"], 2),
        "first_seconds": round(found["seconds"], 2),
        "gflop": round(gflop, 1),
        "mib_peak": round(found["peak_bytes"] / 2**20),
        "mib_planned": round(found["planned_bytes"] / 2**20),
        "targets_per_s": round(4 * 17_000 / found["seconds"], 1),
        "kernel_seconds": round(kernels, 2),
        "compile_seconds": round(profile["compile_s"], 2),
        "overhead_percent": round(100 * (1 - kernels / found["seconds"]), 1),
        "idle_percent": round(100 * profile["idle_share"], 1),
        "accuracy": f"{1 - kernels / found['seconds']:.0%} of it outside the kernels, compilation and simulation included; {found['planned_bytes'] / 2**20:.0f} MiB planned; r of planted cells {found['planted_r']:.3f}, of others {found['other_r']:.4f}",
        "peers": [],
    }


def _sweep(folder: Path) -> dict[str, Any]:
    """32 jobs of one layer each through the launcher, beside one run of the 32 layers."""
    rng = np.random.default_rng(0)
    n, width = 200, 256
    ids = tuple(f"s{index}" for index in range(n))
    fits = [Fit("simulated", "0", f"l{index:02d}", (index + 1) / N_JOBS, "mean", width) for index in range(N_JOBS)]
    block = {(fit.layer, fit.pooling): rng.standard_normal((n, width), np.float32) for fit in fits}
    store.write(folder / "layers", fits, ids, {"simulated": True}, [block])
    recording = _recording(folder, ids, rng)
    common = [
        "dataset=epochs", f"dataset.path={recording}", "dataset.subject=01", "dataset.stimulus_columns=[word]",
        "model=[stored]", f"model.stored.path={folder / 'layers'}", "metric=[ridge,rsa]", "report=false",
        "metric.ridge.n_permutations=20", "metric.rsa.n_permutations=200", "mesh.fits_per_call=1",
    ]  # fmt: skip
    alone = _seconds([*common, f"output={folder / 'one'}"])
    layers = ",".join(f"[{fit.layer}]" for fit in fits)
    sweep = ["-m", *common, f"model.stored.layers={layers}", f"hydra.sweep.dir={folder / 'sweep'}"]
    first = _seconds(sweep)
    again = _seconds(sweep)
    return {
        "name": f"sweep of {N_JOBS} jobs of one layer through the launcher, beside one run of all layers",
        "seconds": round(first, 2),
        "first_seconds": round(first, 2),
        "gflop": 0.0,
        "one_run_seconds": round(alone, 2),
        "beyond_one_run_seconds": round(first - alone, 2),
        "again_seconds": round(again, 2),
        "accuracy": f"{first - alone:.1f} s beyond one run of the same fits ({alone:.1f} s), {(first - alone) / N_JOBS:.2f} s per job; the same sweep again, with nothing to do, {again:.1f} s",
        "peers": [],
    }


def _recording(folder: Path, ids: tuple[str, ...], rng: np.random.Generator) -> Path:
    """Noise in 8 channels x 20 samples."""
    import mne
    import pandas as pd

    names = ["Fz", "Cz", "Pz", "Oz", "P3", "P4", "O1", "O2"]
    info = mne.create_info(names, 50.0, "eeg", verbose="error")
    epochs = mne.EpochsArray(
        rng.standard_normal((len(ids), len(names), 20)) * 1e-6,
        info,
        metadata=pd.DataFrame({"word": ids}),
        verbose="error",
    )
    path = folder / "simulated-epo.fif"
    epochs.save(path, verbose="error")
    return path


def _seconds(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jaxalign", *words], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start
