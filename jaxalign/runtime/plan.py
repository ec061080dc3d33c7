"""From a request to a frozen list of units: which fits meet which targets, in tiles of one shape, and in how many bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.compute import folds
from jaxalign.compute.gram import n_pairs
from jaxalign.compute.held_out import ROWS_PER_PRODUCT
from jaxalign.compute.trace import BLOCK, COLUMNS
from jaxalign.contracts import Design, MeshConfig, Metric, RdmSet, Recording, RunConfig
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.null import n_permutations_of
from jaxalign.sources.times import inside

LADDER = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Sizes of a tile of targets: a fixed few, so that a sweep compiles a handful of programs."""

SMALL = (8, 16, 32)
"""Smaller tiles, for patterns: their targets are time bins and subjects only, and some comparisons cost much for each."""

MAX_FITS_PER_CALL = 32
SCHEMA_VERSION = 1
GIB = 1 << 30


@dataclass(frozen=True)
class Tile:
    """Groups of targets that one call scores. A group holds the same channel and bin of all subjects.

    Attributes:
        index: place in the analysis.
        kind: "cells" or "averages".
        groups: (n_groups,) indices into the groups of that kind.
        n_padded: groups per tile, padding included.
    """

    index: int
    kind: str
    groups: np.ndarray
    n_padded: int


@dataclass(frozen=True)
class Groups:
    """What a kind of target is called: one entry per group.

    Attributes:
        channel: names; "all" for patterns over all channels.
        start_s, stop_s: half-open bins in seconds, NaN without a time.
    """

    channel: tuple[str, ...]
    start_s: np.ndarray
    stop_s: np.ndarray

    def __len__(self) -> int:
        return len(self.channel)


@dataclass(frozen=True)
class Analysis:
    """One metric against all its fits and targets.

    Attributes:
        name: of the metric entry, the column `metric`.
        metric: frozen metric.
        side: what the responses are given as: "responses", "patterns" or "rdms".
        fits: indices into the fits of the run.
        groups: kind of target -> its groups.
        tiles: in order.
        fits_per_call: fits that one device computes at a time.
        width: padded width of the features; 0 for given RDMs.
        is_calibrated: family maxima run over null-calibrated scores.
        n_bytes: name of a buffer -> bytes on one device.
    """

    name: str
    metric: Metric
    side: str
    fits: tuple[int, ...]
    groups: dict[str, Groups]
    tiles: tuple[Tile, ...]
    fits_per_call: int
    width: int
    is_calibrated: bool
    n_bytes: dict[str, int]

    def shape_name(self, tile: Tile) -> str:
        """Shape of a call on one device: fits x groups of targets."""
        return f"{self.fits_per_call}x{tile.n_padded}"


@dataclass(frozen=True)
class Unit:
    """The smallest piece that is computed, written and resumed: one fit against one tile of targets."""

    unit_id: str
    analysis: int
    fit: int
    tile: int


@dataclass(frozen=True)
class Plan:
    """A frozen run.

    Attributes:
        run_hash: of everything that decides the numbers.
        subjects: names, innermost axis of the targets.
        analyses, units: in order.
        design: rows that fit, choose and score, per analysis.
        n_host_bytes: features and responses on the host.
    """

    run_hash: str
    subjects: tuple[str, ...]
    analyses: tuple[Analysis, ...]
    units: tuple[Unit, ...]
    design: tuple[Design, ...]
    n_host_bytes: int


def run_identity(run: RunConfig, inputs: Inputs) -> dict[str, Any]:
    """Everything that decides the numbers, as JSON values; not where things lie nor how many devices there are."""
    asked = dataclasses.asdict(run)
    tile = {key: asked["mesh"][key] for key in ("fits_per_call", "targets_per_call")}
    kept = {key: value for key, value in asked.items() if key not in ("output", "store", "mesh", "report", "force")}
    # Files are known by their content, which is in the identity of the data.
    kept["dataset"] = _without_path(kept["dataset"])
    kept["model"] = {name: _without_path(entry) for name, entry in kept["model"].items()}
    return {"schema_version": SCHEMA_VERSION, "request": {**kept, "tile": tile}, "data": inputs.identity}


def _without_path(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "path"}


def hash_of(content: Any) -> str:
    """Short content hash of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def make_plan(run: RunConfig, inputs: Inputs, memory_bytes: int) -> Plan:
    """Decide every unit, shape and byte before anything starts.

    Args:
        run: the request.
        inputs: data and features.
        memory_bytes: what one device may hold.
    Raises:
        ConfigError: if the smallest tile does not fit; says how much would.
        DataError: if there are too few stimuli for the folds.
    """
    run_hash = hash_of(run_identity(run, inputs))
    designs = tuple(_design(metric, run, inputs) for metric in run.metric.values())
    analyses = tuple(
        _analysis(name, design, run, inputs, memory_bytes) for name, design in zip(run.metric, designs, strict=True)
    )
    units = tuple(
        Unit(
            f"{analysis.name}-{hash_of([run_hash, analysis.name, inputs.fits[fit].name, tile.index])}",
            index,
            fit,
            tile.index,
        )
        for index, analysis in enumerate(analyses)
        for fit in analysis.fits
        for tile in analysis.tiles
    )
    host = sum(values.nbytes for values in inputs.features) + sum(values.nbytes for values in _brain_arrays(inputs))
    return Plan(run_hash, subjects_of(inputs), analyses, units, designs, host)


def subjects_of(inputs: Inputs) -> tuple[str, ...]:
    """Subjects in column order."""
    brain = inputs.brain
    return brain.names if isinstance(brain, RdmSet) else tuple(recording.subject for recording in brain)


def _brain_arrays(inputs: Inputs) -> list[np.ndarray]:
    brain = inputs.brain
    return [brain.values] if isinstance(brain, RdmSet) else [recording.values for recording in brain]


def _analysis(name: str, design: Design, run: RunConfig, inputs: Inputs, memory_bytes: int) -> Analysis:
    metric = _with_its_permutations(name, design, run, inputs)
    models = run.score.get(name, list(run.model))
    fits = tuple(index for index, owner in enumerate(inputs.model_of) if owner in models)
    side = _side(name, metric, inputs)
    _check_fits(name, metric, side, [inputs.fits[fit] for fit in fits], [inputs.is_rdm[fit] for fit in fits])
    groups = _groups(metric, side, run, inputs)
    width = max(inputs.fits[fit].width for fit in fits)
    fits_per_call = run.mesh.fits_per_call or _fits_per_call(side, len(fits))
    n_subjects = len(subjects_of(inputs))
    ladder = LADDER if side == "responses" else SMALL + LADDER
    sizes = {size: _bytes(metric, side, inputs, width, fits_per_call, size) for size in ladder}
    padded = {
        kind: _padded_groups(run.mesh, name, len(group), n_subjects, sizes, memory_bytes)
        for kind, group in groups.items()
    }
    return Analysis(
        name=name,
        metric=metric,
        side=side,
        fits=fits,
        groups=groups,
        tiles=_tiles(groups, padded),
        fits_per_call=fits_per_call,
        width=width,
        is_calibrated=not (metric.tail == "two-sided" and len(fits) == 1),
        n_bytes=_bytes(metric, side, inputs, width, fits_per_call, max(padded.values()) * n_subjects),
    )


def _with_its_permutations(name: str, design: Design, run: RunConfig, inputs: Inputs) -> Metric:
    """The metric with as many permutations as its scheme has, where these are fewer than it asks for."""
    metric = run.metric[name]
    n_permutations = n_permutations_of(metric, _side(name, metric, inputs), design, run, inputs)
    if n_permutations == metric.n_permutations:
        return metric
    return dataclasses.replace(metric, n_permutations=n_permutations)


def _side(name: str, metric: Metric, inputs: Inputs) -> str:
    """How this metric is given the responses."""
    if isinstance(inputs.brain, RdmSet):
        if not metric.takes_rdms:
            raise ConfigError(f"metric.{name} needs {metric.takes} and this data set holds given RDMs: use rsa.")
        return "rdms"
    return metric.takes


def _check_fits(name: str, metric: Metric, side: str, fits: list[Any], is_rdm: list[bool]) -> None:
    if not fits:
        raise ConfigError(f"metric.{name} has no model to score: check score.{name}.")
    if not metric.takes_rdms and any(is_rdm):
        raise ConfigError(
            f"metric.{name} needs features, and {fits[is_rdm.index(True)].name} is a given RDM: use rsa for it, or leave it out with score.{name}."
        )
    if any(is_rdm) != all(is_rdm):
        raise ConfigError(
            f"metric.{name} scores given RDMs together with features: name them in two metrics with score."
        )
    widths = {fit.width for fit in fits}
    if metric.tail == "two-sided" and widths != {1}:
        raise ConfigError(
            f"metric.{name} takes features of width 1 and got widths {sorted(widths)}: name single features with score.{name}, or use ridge or rsa."
        )
    narrow = [fit for fit in fits if fit.width < metric.least_width]
    if side == "patterns" and narrow:
        raise ConfigError(
            f"metric.{name}: {narrow[0].name} has width {narrow[0].width}, and {metric.least_width} units are needed: leave it out with score.{name}, or take another distance."
        )


def _groups(metric: Metric, side: str, run: RunConfig, inputs: Inputs) -> dict[str, Groups]:
    brain = inputs.brain
    nothing = np.full(1, np.nan)
    if isinstance(brain, RdmSet):
        return {"cells": Groups(("all",), nothing, nothing)}
    first = brain[0]
    if side == "patterns":
        _check_repetitions(first)
        if len(first.channels) < metric.least_width:
            raise ConfigError(
                f"A pattern over channels needs at least {metric.least_width} channels here; the recording has {len(first.channels)}."
            )
        return {"cells": Groups(("all",) * len(first.starts_s), first.starts_s, first.stops_s)}
    n_times = len(first.starts_s)
    channel = tuple(name for name in first.channels for _ in range(n_times))
    cells = Groups(channel, np.tile(first.starts_s, len(first.channels)), np.tile(first.stops_s, len(first.channels)))
    if not run.averages:
        return {"cells": cells}
    starts = np.array([average.start_s for average in run.averages])
    stops = np.array([average.stop_s for average in run.averages])
    return {"cells": cells, "averages": Groups(tuple(average.name for average in run.averages), starts, stops)}


def _check_repetitions(recording: Recording) -> None:
    """Refuse an RDM over averages of unequal numbers of trials: their noise differs, and so do their distances."""
    scored = recording.n_repetitions[recording.is_test] if recording.is_test.any() else recording.n_repetitions
    if scored.min() != scored.max():
        raise DataError(
            f"subject {recording.subject}: the scored stimuli were presented {scored.min()} to {scored.max()} times. An RDM "
            "over unequal repetitions mixes noise with distance: keep the same number for each stimulus."
        )


def average_of(recording: Recording, average: Any) -> np.ndarray:
    """Responses averaged over the declared channels and window. -> (n_stimuli,)

    Raises:
        ConfigError: if a channel is not recorded or no bin starts inside the window.
    """
    missing = [name for name in average.channels if name not in recording.channels]
    if missing or not average.channels:
        raise ConfigError(
            f"The average {average.name!r} names {missing[0] if missing else 'no channel'}: the recording has {', '.join(recording.channels)}."
        )
    step = float(recording.stops_s[0] - recording.starts_s[0])
    bins = inside(recording.starts_s, 1 / step, average.start_s, average.stop_s)
    if not bins.any():
        raise ConfigError(
            f"The average {average.name!r}: no bin starts inside [{average.start_s}, {average.stop_s}) s; bins run from {recording.starts_s[0]:.3f} to {recording.stops_s[-1]:.3f} s."
        )
    rows = [recording.channels.index(name) for name in average.channels]
    return recording.values[:, rows][:, :, bins].mean((1, 2), dtype=np.float64).astype(np.float32)


def _fits_per_call(side: str, n_fits: int) -> int:
    """RSA multiplies all fits of a call at once; ridge takes its layers one after the other anyway."""
    return 1 if side == "responses" else min(MAX_FITS_PER_CALL, n_fits)


def _padded_groups(
    mesh: MeshConfig, name: str, n_groups: int, n_subjects: int, sizes: dict[int, dict[str, int]], limit: int
) -> int:
    """Groups per tile: the largest of the ladder that fits in memory, and no larger than the targets need."""
    if mesh.targets_per_call is not None:
        return max(1, mesh.targets_per_call // n_subjects)
    fitting = [size for size in sizes if sum(sizes[size].values()) <= limit and size >= n_subjects]
    if not fitting:
        smallest = min(sizes)
        need = sum(sizes[smallest].values())
        raise ConfigError(
            f"metric.{name} needs {need / GIB:.3g} GiB per device for its smallest tile of {smallest} targets; {limit / GIB:.3g} GiB may be used. Set mesh.memory_gib={need / GIB * 1.05:.3g} if the device has it, or ask for fewer permutations."
        )
    needed = [size for size in fitting if size >= n_groups * n_subjects]
    return (needed[0] if needed else fitting[-1]) // n_subjects


def _tiles(groups: dict[str, Groups], padded: dict[str, int]) -> tuple[Tile, ...]:
    tiles: list[Tile] = []
    for kind, group in groups.items():
        for start in range(0, len(group), padded[kind]):
            members = np.arange(start, min(start + padded[kind], len(group)))
            tiles.append(Tile(len(tiles), kind, members, padded[kind]))
    return tuple(tiles)


def _bytes(metric: Metric, side: str, inputs: Inputs, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    """Bytes of each large buffer on one device, float32, for a tile of that many targets."""
    n_rows = len(inputs.stimulus_ids)
    n_cells = 2 * n_targets
    n_labellings = metric.n_permutations + 1
    null = n_labellings * n_fits * len(metric.statistics) * n_cells
    out = {"labellings": 4 * n_labellings * n_rows, "null (scores, z, tested)": 4 * 3 * null}
    if side == "responses":
        out |= _ridge_bytes(metric, n_rows, max(width, 1), n_fits, n_targets)
    else:
        # Given RDMs hold pairs; a similarity measure keeps whole matrices, or patterns when these are larger.
        entries = n_pairs(n_rows) if metric.takes_rdms else n_rows * max(n_rows, width)
        out["features"] = 4 * n_fits * (n_rows * width + 3 * entries)
        out["matrices of responses"] = 4 * 5 * entries * n_targets
        out["relabelled copies"] = 4 * COLUMNS * (BLOCK + 2 * max(n_fits, n_targets))
    return out


def _ridge_bytes(metric: Metric, n_rows: int, width: int, n_fits: int, n_targets: int) -> dict[str, int]:
    """Bytes of a ridge: splits are kept for all fits of a call, products and predictions for one fold at a time."""
    n_outer, n_inner = getattr(metric, "n_outer", 1), max(getattr(metric, "n_inner", 1), 1)
    n_alphas = len(getattr(metric, "alpha_values", ())) or 25
    rank = min(n_rows, width)
    side = width if width <= n_rows else n_rows
    n_test = n_rows if getattr(metric, "choose_by", "folds") != "folds" else -(-n_rows // n_inner)
    return {
        "features": 4 * 2 * n_fits * n_rows * width,
        "decompositions": 4 * n_fits * n_outer * (n_inner + 1) * (side + min(n_test, 2 * rank)) * rank,
        "Gram matrices": 4 * (n_inner + 4) * side * side,
        "responses": 4 * 3 * n_rows * n_targets,
        "products with responses": 4 * (n_inner + 4) * side * n_targets,
        "predictions": 4 * 3 * max(n_test, min(n_rows, ROWS_PER_PRODUCT)) * n_targets,
        "criterion per penalty": 4 * 2 * (n_inner + 1) * n_alphas * n_targets,
    }


def _design(metric: Metric, run: RunConfig, inputs: Inputs) -> Design:
    """Folds of a metric on this data set: the given test set, or the outer folds that the metric asks for."""
    n_rows = len(inputs.stimulus_ids)
    recording = None if isinstance(inputs.brain, RdmSet) else inputs.brain[0]
    n_outer, n_inner = getattr(metric, "n_outer", 2), getattr(metric, "n_inner", 2)
    scheme, column = getattr(metric, "folds", "shuffled"), getattr(metric, "group_by", "")
    columns = {} if recording is None else recording.columns
    if column and column not in columns:
        raise ConfigError(f"group_by={column!r} is no column of the recording. {nearest(column, columns)}")
    is_run = scheme == "runs" or (scheme == "auto" and column in ("", "run"))
    runs = columns.get(column or "run") if is_run else None
    try:
        return folds.nested(
            scheme,
            n_rows,
            n_outer,
            n_inner,
            run.seed,
            is_test=None if recording is None else recording.is_test,
            groups=columns[column] if column and runs is None else inputs.groups,
            runs=runs,
            gap=getattr(metric, "gap", 0),
            weights=_weights(metric, inputs),
        )
    except ValueError as error:
        raise DataError(f"{n_rows} stimuli do not go with n_outer={n_outer} and n_inner={n_inner}: {error}") from error


def _weights(metric: Metric, inputs: Inputs) -> np.ndarray | None:
    """Mean number of presentations of each stimulus over subjects, scaled to a mean of 1; None where all are alike."""
    if isinstance(inputs.brain, RdmSet) or getattr(metric, "weights", "equal") != "repetitions":
        return None
    repetitions = np.mean([recording.n_repetitions for recording in inputs.brain], axis=0)
    is_train = ~inputs.brain[0].is_test
    if np.ptp(repetitions[is_train]) == 0:
        return None
    return (repetitions / repetitions[is_train].mean()).astype(np.float32)


def describe(plan: Plan, inputs: Inputs) -> str:
    """The plan as text: units, tiles and bytes."""
    lines = [
        f"run {plan.run_hash}: {len(plan.units)} units, {len(plan.subjects)} subjects, {len(inputs.stimulus_ids)} stimuli, {plan.n_host_bytes / GIB:.3f} GiB of data on the host"
    ]
    for analysis in plan.analyses:
        n_groups = sum(len(group) for group in analysis.groups.values())
        total = sum(analysis.n_bytes.values())
        lines.append(
            f"{analysis.name}: {len(analysis.fits)} fits x {n_groups * len(plan.subjects)} targets in {len(analysis.tiles)} tiles of {' and '.join(dict.fromkeys(analysis.shape_name(tile) for tile in analysis.tiles))} (fits x groups), {analysis.metric.n_permutations} permutations, {total / GIB:.3f} GiB per device"
        )
        lines += [f"    {name}: {size / GIB:.4f} GiB" for name, size in analysis.n_bytes.items()]
    return "\n".join(lines)
