"""Bytes before anything starts: what every buffer takes on the devices and on the host, and the largest tile that fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import psutil

from jaxalign.compute.decompose import scores_by_gram
from jaxalign.compute.gram import n_pairs
from jaxalign.compute.held_out import ROWS_PER_PRODUCT
from jaxalign.compute.trace import BLOCK, COLUMNS
from jaxalign.contracts import Design, MeshConfig, Metric
from jaxalign.errors import ConfigError

GIB = 1 << 30
FLOAT = 4

LADDER = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Sizes of a tile of targets: a fixed few, so that a sweep compiles a handful of programs."""

SMALL = (8, 16, 32)
"""Smaller tiles, for patterns: their targets are time bins and subjects only, and some comparisons cost much for each."""

FITS = (1, 2, 4, 8, 16, 32)
"""Fits that a device takes at a time, where they share one matrix product."""

AHEAD = 2
"""Calls that are prepared while one computes: one is read, one waits on the devices."""

OF_COLUMN = ("features", "scaled features", "Gram matrices")
"""Buffers of the devices that decompose features: one for each place on the fit axis, however many share the targets."""

LIBRARIES = int(0.75 * GIB)
"""What Python, JAX, MNE and Arrow take before any data, and the compiler at work (measured: 0.45 to 0.7 GiB)."""


def padded_width(width: int) -> int:
    """The width that a fit is padded to: few widths, at most a quarter more, so that fits of alike width share programs.

    It depends on nothing but the width, so the bytes of a score do not depend on what else is scored.
    """
    if width <= 1:
        return width
    if width <= 64:
        return max(8, 1 << (width - 1).bit_length())
    step = next(step for ends, step in ((1024, 64), (2048, 128), (4096, 256), (1 << 62, 512)) if width <= ends)
    return -(-width // step) * step


@dataclass(frozen=True)
class Shape:
    """What decides the size of an analysis on one device.

    Attributes:
        metric, side, design: as in the plan.
        n_rows: stimuli that are placed.
        n_channels: channels of a pattern; 1 where responses are targets.
        n_subjects: columns of one group.
    """

    metric: Metric
    side: str
    design: Design
    n_rows: int
    n_channels: int
    n_subjects: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of the calls of an analysis, which decide the last digits of its numbers: a run keeps them when it is resumed.

    Attributes:
        groups: kind of target -> groups per tile.
        fits: padded width -> fits per call.
    """

    groups: dict[str, int] = field(default_factory=dict)
    fits: dict[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"groups": self.groups, "fits": {str(width): n for width, n in self.fits.items()}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Sizes:
        return cls(dict(content["groups"]), {int(width): n for width, n in content["fits"].items()})


def choose(
    name: str, shape: Shape, n_fits: dict[int, int], n_groups: dict[str, int], mesh: MeshConfig, limit: int
) -> Sizes:
    """The largest tile of the ladder that fits, no larger than the targets need.

    Args:
        name: of the metric entry, for the error.
        shape: see Shape.
        n_fits: padded width -> how many fits have it.
        n_groups: kind of target -> how many groups it has.
        mesh: sizes that the request fixes.
        limit: bytes that one device may hold.
    Raises:
        ConfigError: if the smallest tile does not fit; says how much would.
    """
    ladder = [size for size in (LADDER if shape.side == "responses" else SMALL + LADDER) if size >= shape.n_subjects]
    ladder = ladder or [shape.n_subjects]
    smallest = ladder[0]
    per_call = {width: _fits_per_call(shape, width, n, smallest, mesh, limit) for width, n in n_fits.items()}
    needs = {size: max(total(shape, width, fits, size) for width, fits in per_call.items()) for size in ladder}
    fitting = [size for size in ladder if needs[size] <= limit]
    if mesh.targets_per_call is not None:
        return Sizes({kind: max(1, mesh.targets_per_call // shape.n_subjects) for kind in n_groups}, per_call)
    if not fitting:
        need = needs[smallest]
        raise ConfigError(
            f"metric.{name} needs {need / GIB:.3g} GiB per device for its smallest tile of {smallest} targets; {limit / GIB:.3g} GiB may be used. Set mesh.memory_gib={need / GIB * 1.05:.3g} if the device has it, or ask for fewer permutations."
        )
    groups = {}
    for kind, n in n_groups.items():
        needed = [size for size in fitting if size >= n * shape.n_subjects]
        groups[kind] = (needed[0] if needed else fitting[-1]) // shape.n_subjects
    return Sizes(groups, per_call)


def check_kept(name: str, shape: Shape, sizes: Sizes, limit: int) -> None:
    """Refuse to go on with the tiles of a run that was begun with more memory.

    Raises:
        ConfigError: saying how much they need.
    """
    n_targets = max(sizes.groups.values()) * shape.n_subjects
    need = max(total(shape, width, fits, n_targets) for width, fits in sizes.fits.items())
    if need > limit:
        raise ConfigError(
            f"metric.{name} was begun with tiles of {n_targets} targets, which need {need / GIB:.3g} GiB per device; {limit / GIB:.3g} GiB may be used. Set mesh.memory_gib={need / GIB * 1.05:.3g} if the device has it, or begin anew with force=true."
        )


def _fits_per_call(shape: Shape, width: int, n_fits: int, n_targets: int, mesh: MeshConfig, limit: int) -> int:
    """RSA multiplies all fits of a call at once; ridge takes its layers one after the other anyway."""
    if mesh.fits_per_call is not None:
        return mesh.fits_per_call
    if shape.side == "responses":
        return 1
    wanted = next((size for size in FITS if size >= n_fits), FITS[-1])
    fitting = [size for size in FITS if size <= wanted and total(shape, width, size, n_targets) <= limit]
    return fitting[-1] if fitting else 1


def total(shape: Shape, width: int, n_fits: int, n_targets: int) -> int:
    """Bytes on one device of a call of that size."""
    return sum(of_call(shape, width, n_fits, n_targets).values())


def of_call(shape: Shape, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    """Bytes of each large buffer on one device, float32.

    Args:
        shape: see Shape.
        width: padded width of the features; 0 for given RDMs.
        n_fits, n_targets: of the call.
    Returns:
        name of a buffer -> bytes; copies that are on their way while a call computes are included.
    """
    metric, n_rows = shape.metric, shape.n_rows
    n_labellings = metric.n_permutations + 1
    n_cells = n_targets * (1 + (shape.n_subjects > 1) / shape.n_subjects)
    null = int(n_labellings * n_fits * len(metric.statistics) * n_cells)
    out = {"labellings": FLOAT * n_labellings * n_rows, "null (scores, z, tested)": FLOAT * 3 * null}
    placed = 1 + AHEAD
    if shape.side == "responses":
        out |= {"features": FLOAT * placed * n_fits * n_rows * max(width, 1)}
        out |= {"responses": FLOAT * (placed + 1) * n_rows * n_targets}
        return out | (_of_ridge if metric.uses_folds else _of_correlation)(shape, max(width, 1), n_fits, n_targets)
    # Given RDMs hold pairs; a similarity measure keeps whole matrices, or patterns when these are larger.
    entries = n_pairs(n_rows) if metric.takes_rdms else n_rows * max(n_rows, width)
    given = n_pairs(n_rows) if shape.side == "rdms" else n_rows * shape.n_channels
    features = n_rows * width if width else n_pairs(n_rows)
    out["features"] = FLOAT * n_fits * (placed * features + 3 * entries)
    out["responses"] = FLOAT * placed * given * n_targets
    out["matrices of responses"] = FLOAT * 5 * entries * n_targets
    out["relabelled copies"] = FLOAT * COLUMNS * (BLOCK + 2 * max(n_fits, n_targets))
    return out


def _of_correlation(shape: Shape, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    return {"relabelled features": FLOAT * 2 * n_fits * shape.n_rows * COLUMNS}


def _of_ridge(shape: Shape, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    """Bytes of a ridge: splits are kept for all fits of a call, products and predictions for one fold at a time."""
    fold = folds_of(shape)
    rank = min(fold.n_train, width)
    side = width if width <= fold.n_train else fold.n_train
    by_gram = scores_by_gram(fold.n_test_inner, rank, fold.n_alphas)
    held_out = rank if by_gram else fold.n_test_inner
    splits = fold.n_outer * (fold.n_inner * (side + held_out) + side + fold.n_test) * rank
    # Tall splits need the features again, for their products with responses.
    kept = shape.n_rows * width if width <= fold.n_train else 0
    n_chosen = max(fold.n_test_inner, fold.n_test, min(shape.n_rows, ROWS_PER_PRODUCT))
    return {
        "decompositions": FLOAT * n_fits * (splits + kept),
        "scaled features": FLOAT * 3 * shape.n_rows * width,
        "Gram matrices": FLOAT * (fold.n_inner + 6) * side * side,
        "products with responses": FLOAT * (fold.n_inner + 4) * side * n_targets,
        "training responses": FLOAT * (2 if width > fold.n_train else 1) * fold.n_train * n_targets,
        "predictions": FLOAT * 4 * n_chosen * n_targets,
        "criterion per penalty": FLOAT * 2 * (fold.n_inner + 1) * fold.n_alphas * n_targets,
    }


@dataclass(frozen=True)
class FoldSizes:
    """Numbers of folds and of their rows; a leave-one-out chooses on the training rows themselves."""

    n_outer: int
    n_inner: int
    n_train: int
    n_test: int
    n_train_inner: int
    n_test_inner: int
    n_alphas: int


def folds_of(shape: Shape) -> FoldSizes:
    """Sizes of the folds of a ridge."""
    outer, inner = shape.design.outer, shape.design.inner
    is_nested = getattr(shape.metric, "choose_by", "folds") == "folds"
    return FoldSizes(
        n_outer=int(np.shape(outer.train)[0]),
        n_inner=int(np.shape(inner.train)[1]) if is_nested else 1,
        n_train=int(np.shape(outer.train)[-1]),
        n_test=int(np.shape(outer.test)[-1]),
        n_train_inner=int(np.shape(inner.train if is_nested else outer.train)[-1]),
        n_test_inner=int(np.shape(inner.test)[-1] if is_nested else np.shape(outer.train)[-1]),
        n_alphas=len(getattr(shape.metric, "alpha_values", ())) or 25,
    )


def prepared(shape: Shape, n_targets: int) -> int:
    """Bytes of the prepared responses of one tile."""
    if shape.side == "responses":
        return FLOAT * shape.n_rows * n_targets
    entries = n_pairs(shape.n_rows) if shape.metric.takes_rdms else shape.n_rows * max(shape.n_rows, shape.n_channels)
    return FLOAT * entries * n_targets


def device_limit(config: MeshConfig) -> int:
    """Bytes that one device may hold: as configured, 85 % of what it has, or half of free memory shared by CPU devices."""
    if config.memory_gib is not None:
        return int(config.memory_gib * GIB)
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.85 * stats["bytes_limit"])
    return int(0.5 * psutil.virtual_memory().available / len(devices))


def host_limit(config: MeshConfig) -> int:
    """Bytes that this process may take on the host."""
    if config.host_memory_gib is not None:
        return int(config.host_memory_gib * GIB)
    return int(0.85 * (psutil.virtual_memory().available + psutil.Process().memory_info().rss))
