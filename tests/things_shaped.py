"""A run of the shape of THINGS-EEG2, simulated: 16,540 + 200 stimuli, 10 subjects x 17 channels x 100 bins, 4 layers of 1,024.

Command:  python -m tests.things_shaped FOLDER N_TARGET_DEVICES MEMORY_GIB N_PERMUTATIONS
Duration: about 2.5 minutes on 2 cores; prints one line of JSON.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Fit, MeshConfig, Recording, RunConfig
from jaxalign.models.stored import Stored
from jaxalign.sources.simulated import CHANNELS

N_TRAIN, N_TEST, N_LAYERS, WIDTH, N_SUBJECTS, N_CHANNELS, N_BINS = 16540, 200, 4, 1024, 10, 17, 100


@dataclass(frozen=True)
class Shape:
    """Sizes of the run; the tests have a small one too."""

    n_train: int = N_TRAIN
    n_test: int = N_TEST
    n_layers: int = N_LAYERS
    width: int = WIDTH
    n_subjects: int = N_SUBJECTS
    n_channels: int = N_CHANNELS
    n_bins: int = N_BINS

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"stimulus{index}" for index in range(self.n_train + self.n_test))


@dataclass(frozen=True)
class Simulated:
    """Noise in which the first layer is planted weakly; a data set of the runtime."""

    shape: Shape
    path: str
    name: str = "things-shaped (simulated)"

    def recordings(self) -> list[Recording]:
        planted = store.read(Path(self.path), _fit(self.shape, 0))[:, : self.shape.n_channels]
        return [self._subject(index, planted) for index in range(self.shape.n_subjects)]

    def _subject(self, index: int, planted: np.ndarray) -> Recording:
        shape = self.shape
        rng = np.random.default_rng(index)
        n = shape.n_train + shape.n_test
        values = rng.standard_normal((n, shape.n_channels, shape.n_bins), np.float32)
        values[:, :, shape.n_bins // 2] += planted
        starts = 0.01 * np.arange(shape.n_bins)
        return Recording(
            dataset=self.name,
            subject=f"{index + 1:02d}",
            stimulus_ids=shape.ids,
            values=values,
            channels=CHANNELS[: shape.n_channels],
            starts_s=starts,
            stops_s=starts + 0.01,
            unit="V",
            n_repetitions=np.ones(n, np.int32),
            is_test=np.arange(n) >= shape.n_train,
            positions=np.full((shape.n_channels, 3), np.nan),
            is_simulated=True,
            origin={"simulated": True, "seed": index},
        )


def _fit(shape: Shape, layer: int) -> Fit:
    return Fit("simulated", "0", f"layer{layer}", (layer + 1) / shape.n_layers, "mean", shape.width)


def make_store(folder: Path, shape: Shape) -> Path:
    """Features with a falling spectrum, written block by block."""
    rng = np.random.default_rng(0)
    spectrum = ((1 + np.arange(shape.width)) ** -0.25).astype(np.float32)
    n = len(shape.ids)
    fits = [_fit(shape, layer) for layer in range(shape.n_layers)]

    def blocks() -> Any:
        for start in range(0, n, 1024):
            size = (min(1024, n - start), shape.width)
            yield {(fit.layer, fit.pooling): rng.standard_normal(size, np.float32) * spectrum for fit in fits}

    store.write(folder, fits, shape.ids, {"simulated": True}, blocks())
    return folder


def peak_bytes() -> int:
    """Most memory this process ever held."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "the peak of memory is read from /proc, which Linux has"
    return int(found.group(1)) * 1024


def request(folder: Path, shape: Shape, mesh: MeshConfig, n_permutations: int) -> RunConfig:
    """One ridge of all layers against all targets."""
    return RunConfig(
        name="things-shaped",
        model={"stored": Stored(path=str(folder / "store"))},
        metric={"ridge": Ridge(n_permutations=n_permutations)},
        dataset=Simulated(shape, str(folder / "store")),
        mesh=mesh,
        report=False,
    )


def measure(folder: Path, shape: Shape, mesh: MeshConfig, n_permutations: int) -> dict[str, Any]:
    """Do the run in this process, which must be new, and say what it took.

    Returns:
        seconds, peak and planned bytes, the profile of the run, and the score of the planted cells.
    """
    from jaxalign.results import load
    from jaxalign.runtime import outline, run

    if not (folder / "store").exists():
        make_store(folder / "store", shape)
    shutil.rmtree(folder / "out", ignore_errors=True)
    planned: dict[str, int] = {}
    check = outline.check_host

    def noted(plan: Any, *arguments: Any) -> None:
        planned.update(outline.host_bytes(plan, *arguments))
        check(plan, *arguments)

    outline.check_host = noted
    start = time.perf_counter()
    run.execute(request(folder, shape, mesh, n_permutations), folder / "out", lambda *_: None)
    seconds = time.perf_counter() - start
    rows = load(
        folder / "out",
        columns=["value", "channel", "time_start_s"],
        where={"statistic": "pearson_r", "subject": "mean", "layer": "layer0"},
    )
    is_planted = np.isclose(rows.time_start_s, 0.01 * (shape.n_bins // 2), atol=1e-4)
    return {
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "planned_bytes": sum(planned.values()),
        "planned": planned,
        "planted_r": float(rows.value[is_planted].mean()),
        "other_r": float(rows.value[~is_planted].mean()),
        "profile": json.loads((folder / "out" / "profile.json").read_text()),
    }


def main() -> None:
    folder, n_target, memory, n_permutations = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    shape = Shape(*map(int, sys.argv[5].split(","))) if len(sys.argv) > 5 else Shape()
    print(json.dumps(measure(folder, shape, MeshConfig(target=n_target, memory_gib=memory), n_permutations)))


if __name__ == "__main__":
    main()
