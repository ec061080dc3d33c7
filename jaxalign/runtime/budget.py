"""Bytes before anything starts: what every buffer takes on the devices and on the host, and the largest tile that fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import psutil

from jaxalign.compute.comparators import canonical, packing
from jaxalign.compute.decompose import scores_by_gram
from jaxalign.compute.gram import n_pairs
from jaxalign.compute.held_out import ROWS_PER_PRODUCT, ROWS_PER_SCAN
from jaxalign.compute.kendall import BLOCK as BLOCK_OF_SIGNS
from jaxalign.compute.kendall import BLOCK_OF_ACCELERATOR, VARIANTS
from jaxalign.compute.linalg import basis_size
from jaxalign.compute.measures import measure_of
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

RANKING = 12
"""Copies of the entries of RDMs that ranking them takes: values and places sorted, where ties begin and end (measured)."""

PER_CELL = 6
"""Numbers of a cell in the results, those of the folds apart."""

OF_COLUMN = ("features", "scaled features", "Gram matrices")
"""Buffers of the devices that decompose features: one for each place on the fit axis, however many share the targets."""

LIBRARIES = int(0.75 * GIB)
"""What Python, JAX, MNE and Arrow take before any data, and the compiler at work (measured: 0.45 to 0.7 GiB)."""


def padded_width(width: int) -> int:
    """The width that a fit is padded to: few widths, above 64 at most a quarter more, so that fits of alike width share programs.

    It depends on nothing but the width, so the bytes of a score do not depend on what else is scored.
    """
    if width <= 1:
        return width
    if width <= 64:
        return max(8, 1 << (width - 1).bit_length())
    steps = (128, 16), (256, 32), (1024, 64), (2048, 128), (4096, 256), (1 << 62, 512)
    step = next(step for end, step in steps if width <= end)
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
        ConfigError: if the smallest tile, or the one that the request fixes, does not fit; says how much would.
    """
    ladder = [size for size in (LADDER if shape.side == "responses" else SMALL + LADDER) if size >= shape.n_subjects]
    ladder = ladder or [shape.n_subjects]
    smallest = ladder[0]
    per_call = {width: _fits_per_call(shape, width, n, smallest, mesh, limit) for width, n in n_fits.items()}
    needs = {size: max(total(shape, width, fits, size) for width, fits in per_call.items()) for size in ladder}
    fitting = [size for size in ladder if needs[size] <= limit]
    if mesh.targets_per_call is not None:
        n_each = max(1, mesh.targets_per_call // shape.n_subjects)
        need = max(total(shape, width, fits, n_each * shape.n_subjects) for width, fits in per_call.items())
        if need > limit:
            raise ConfigError(
                f"metric.{name} needs {need / GIB:.3g} GiB per device for mesh.targets_per_call={mesh.targets_per_call}; {limit / GIB:.3g} GiB may be used. Set mesh.memory_gib={need / GIB * 1.05:.3g} if the device has it, or ask for fewer targets per call."
            )
        return Sizes(dict.fromkeys(n_groups, n_each), per_call)
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
    n_labellings, n_subjects = metric.n_permutations + 1, shape.n_subjects
    n_groups = n_targets // n_subjects
    n_cells = n_targets + (n_groups if n_subjects > 1 else 0)
    n_scores = n_fits * len(metric.statistics) * n_cells
    n_maxima = n_fits * len(metric.statistics) * 2 * (n_subjects + 1) * n_labellings
    out = {
        "labellings": FLOAT * n_labellings * n_rows,
        "null (scores, z, tested)": FLOAT * _copies_of_null(shape) * n_labellings * n_scores,
        # One call computes while the results of the one before are copied.
        "results": FLOAT * 2 * ((PER_CELL + getattr(metric, "n_outer", PER_CELL)) * n_scores + n_maxima),
    }
    if n_subjects > 1:  # weights of the mean over subjects, and which of them are not 0
        out["means over subjects"] = FLOAT * (2 + AHEAD) * n_targets * n_groups
    if shape.side == "responses":
        out["features"] = FLOAT * (1 + AHEAD) * n_fits * n_rows * max(width, 1)
        out["responses"] = FLOAT * (2 + AHEAD) * n_rows * n_targets
        return out | (_of_ridge if metric.uses_folds else _of_correlation)(shape, max(width, 1), n_fits, n_targets)
    given = n_pairs(n_rows) if shape.side == "rdms" else n_rows * shape.n_channels
    features = n_rows * width if width else n_pairs(n_rows)
    # Patterns are taken by row and then item by item: two copies beside what is given.
    out["features"] = FLOAT * (3 + AHEAD) * n_fits * features
    out["responses"] = FLOAT * (3 + AHEAD) * n_targets * given
    return out | _of_geometry(shape, width, n_fits, n_targets)


def _copies_of_null(shape: Shape) -> int:
    """Copies of the null that a summary takes (measured: 6.0, 2.0 and 4.0 at most): XLA fuses differently in each case."""
    if shape.n_subjects > 1:
        return 4
    return 6 if shape.side == "responses" else 3


def _of_correlation(shape: Shape, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    return {"relabelled features": FLOAT * 2 * (shape.metric.n_permutations + 1) * shape.n_rows}


def _of_geometry(shape: Shape, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    """Bytes of comparing matrices: what is kept of each side, the form that is multiplied, and relabelled copies of it."""
    metric: Any = shape.metric
    n, n_both = shape.n_rows, n_fits + n_targets
    if not metric.takes_rdms:
        kept = [n_items * _base(shape, wide) for n_items, wide in ((n_fits, width), (n_targets, shape.n_channels))]
        out = {"matrices": FLOAT * 2 * sum(kept)}
        form = measure_of(metric.measure)[1].packing
        if form is None:  # one pair of sides at a time: what is made of them, and their product
            return out | {"pairs": FLOAT * (3 * sum(kept) + 4 * max(n, width) * max(n, shape.n_channels))}
    else:
        out, form = {"matrices": FLOAT * 2 * n_pairs(n) * n_both}, canonical(metric.comparator)
        ranks = FLOAT * RANKING * n_pairs(n) * n_both if form in (*VARIANTS, "spearman", "rho-a") else 0
        if form in VARIANTS:
            block = BLOCK_OF_SIGNS if jax.default_backend() == "cpu" else BLOCK_OF_ACCELERATOR
            return out | {"ranks": ranks, "signs": FLOAT * (12 * n_pairs(n) * n_fits + 3 * block**2 * n_both)}
        form = packing(form)
    length = {"triangle": n_pairs(n), "gram": n_pairs(n) + n, "full": n * n}[form]
    n_moved = min(n_fits, n_targets)
    n_side_by_side = min(max(COLUMNS // n_moved, 1), metric.n_permutations + 1)
    n_columns, block = n_side_by_side * n_moved, min(BLOCK, length)
    packed = FLOAT * (3 * length * n_both + n * n * (1 + n_moved))
    # Places, the copies gathered from there, the same in the order of the product; and sums of products.
    copies = FLOAT * (block * (n_side_by_side + 2 * n_columns) + 3 * max(n_fits, n_targets) * n_columns)
    out |= {"packed matrices": packed, "relabelled copies": copies}
    # RDMs are ranked before anything is relabelled.
    return out | ({"ranks": max(0, ranks - packed - copies)} if metric.takes_rdms else {})


def _base(shape: Shape, width: int) -> int:
    """Numbers that a similarity measure keeps of the patterns of one fit or target: a matrix, or the patterns."""
    metric: Any = shape.metric
    return shape.n_rows * (width if measure_of(metric.measure)[1].base in ("columns", "shape") else shape.n_rows)


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
    # Predictions by several penalties go through one product until it has enough rows; a basis of filters goes row by row.
    is_together = not by_gram and not _n_basis(shape)
    n_together = fold.n_test_inner * min(fold.n_alphas, max(1, ROWS_PER_PRODUCT // fold.n_test_inner))
    is_refined, is_conservative = (getattr(shape.metric, name, 0) for name in ("n_refinements", "conservative"))
    searched = 2 * fold.n_inner * (rank + held_out) if is_refined else 0
    return {
        "decompositions": FLOAT * n_fits * (splits + kept),
        "scaled features": FLOAT * 3 * shape.n_rows * width,
        "Gram matrices": FLOAT * (fold.n_inner + 6) * side * side,
        "products with responses": FLOAT * (fold.n_inner + 4) * side * n_targets,
        "training responses": FLOAT * 2 * fold.n_train * n_targets,
        # Truth and prediction, and both centred, for r and for r2: 9 copies (measured) of the rows that score.
        "predictions": FLOAT * max(9 * fold.n_test, 3 * is_together * n_together) * n_targets,
        "held-out responses": FLOAT * 4 * fold.n_test_inner * n_targets,
        "filtered responses": FLOAT * (rank + ROWS_PER_SCAN) * _n_basis(shape) * n_targets,
        "kept for the search": FLOAT * searched * n_targets,
        "criterion per penalty": FLOAT * (4 if is_conservative else 2) * (fold.n_inner + 1) * fold.n_alphas * n_targets,
    }


def _n_basis(shape: Shape) -> int:
    """Filters that stand for those of many penalties on inner folds; 0 where there are too few penalties for that."""
    alphas, by = (getattr(shape.metric, name, "") for name in ("alpha_values", "choose_by"))
    return basis_size(np.asarray(alphas), np.dtype(np.float32)) if alphas and by == "folds" else 0


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
