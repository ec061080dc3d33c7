"""The story of a run: gather, plan, score what is missing, write each unit, finish."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
import pyarrow as pa
from jax.sharding import Mesh

from jaxalign.contracts import Design, MeshConfig, Metric, Null, RunConfig, Scores
from jaxalign.errors import PreemptedError, UnitsFailedError
from jaxalign.runtime import finalise, folder, journal, mesh, rows, tiles
from jaxalign.runtime.inputs import Inputs, gather
from jaxalign.runtime.null import labellings_of
from jaxalign.runtime.plan import GIB, Analysis, Plan, Tile, Unit, make_plan


def execute(run: RunConfig, output: Path, progress: Any) -> dict[str, Any]:
    """Do one run, or the part of it that is missing.

    Args:
        run: the request.
        output: folder of results; made if need be.
        progress: called with a sentence and a fraction done.
    Returns:
        The summary that the finishing pass wrote.
    Raises:
        ConfigError, DataError: see their texts.
        PreemptedError: if SIGTERM came; finished units are kept.
        UnitsFailedError: if some units have no result; everything else is written.
    """
    started = time.monotonic()
    with journal.locked(output), _stop_flag() as is_stopped:
        folder.check_is_free(output, run)
        inputs = gather(run, progress)
        devices = mesh.make_mesh(run.mesh)
        plan = make_plan(run, inputs, memory_limit(run.mesh))
        folder.open_run(output, run, plan, inputs)
        missing = folder.missing_units(output, plan)
        for index, (unit_rows, maxima, unit) in enumerate(_scored(run, plan, inputs, devices, missing)):
            folder.commit(output, plan.run_hash, unit, unit_rows, maxima)
            progress(f"score {plan.analyses[unit.analysis].name}", (index + 1) / len(missing))
            if is_stopped():
                raise PreemptedError(
                    f"Stopped after {index + 1} of {len(missing)} missing units, as asked. The same command goes on from here."
                )
        progress("finish", 0.0)
        summary = finalise.finish(output, run, plan, inputs)
        folder.close_run(output, plan, len(missing), time.monotonic() - started)
    if summary["failed_units"]:
        first = summary["failed_units"][0]
        raise UnitsFailedError(
            f"{len(summary['failed_units'])} of {len(plan.units)} units have no result, first {first['unit_id']}: {first['why']}. The rest is in {output}."
        )
    return summary


def memory_limit(config: MeshConfig) -> int:
    """Bytes that one device may hold: as configured, 85 % of what it has, or half of free memory shared by CPU devices."""
    if config.memory_gib is not None:
        return int(config.memory_gib * GIB)
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(0.85 * stats["bytes_limit"])
    return int(0.5 * psutil.virtual_memory().available / len(jax.devices()))


@dataclass(frozen=True)
class _Stage:
    """One analysis on the devices: what its calls share.

    Attributes:
        metric: the frozen metric, perhaps with the rescue solver.
        null_rows: (n_permutations + 1, n) labellings.
        responses: tiles that were prepared before, by their indices; they serve every block of fits.
    """

    run: RunConfig
    plan: Plan
    inputs: Inputs
    devices: Mesh
    analysis: Analysis
    metric: Metric
    design: Design
    null_rows: np.ndarray
    responses: dict[tuple[int, ...], Any]


def _scored(
    run: RunConfig, plan: Plan, inputs: Inputs, devices: Mesh, missing: list[Unit]
) -> Iterator[tuple[pa.Table, np.ndarray, Unit]]:
    """Rows and maxima of each missing unit, analysis by analysis, block by block of fits, tile by tile."""
    for index, analysis in enumerate(plan.analyses):
        todo = [unit for unit in missing if unit.analysis == index]
        if not todo:
            continue
        own = mesh.narrowed(devices, -(-len(analysis.fits) // analysis.fits_per_call))
        null_rows = labellings_of(run.metric[analysis.name], analysis.side, plan.design[index], run, inputs).rows
        design = mesh.place(own, "shared", plan.design[index])
        stage = _Stage(run, plan, inputs, own, analysis, analysis.metric, design, null_rows, {})
        for block, wanted in _blocks(analysis, todo, own):
            yield from _block(stage, block, wanted)


def _blocks(analysis: Analysis, todo: list[Unit], devices: Mesh) -> Iterator[tuple[list[int], list[Unit]]]:
    """Fits that one call takes, each with its missing units; the shape of a call never depends on how many are left."""
    per_call = analysis.fits_per_call * mesh.shape_of(devices)[0]
    fits = sorted({unit.fit for unit in todo})
    for start in range(0, len(fits), per_call):
        block = fits[start : start + per_call]
        yield block, [unit for unit in todo if unit.fit in block]


def _block(stage: _Stage, block: list[int], wanted: list[Unit]) -> Iterator[tuple[pa.Table, np.ndarray, Unit]]:
    """Score one block of fits against its tiles."""
    features_state = _features_state(stage, block)
    for side_by_side in _rows_of_tiles(stage, {unit.tile for unit in wanted}):
        scores, maxima = _call(stage, features_state, side_by_side)
        for unit in wanted:
            if unit.tile in side_by_side:
                place = block.index(unit.fit), side_by_side.index(unit.tile)
                yield _unit(stage, scores, maxima, place, unit)


def _rows_of_tiles(stage: _Stage, wanted: set[int]) -> Iterator[tuple[int, ...]]:
    """Tiles of one shape, as many at a time as there are devices on the target axis."""
    n_target = mesh.shape_of(stage.devices)[1]
    for kind in stage.analysis.groups:
        of_kind = sorted(tile for tile in wanted if stage.analysis.tiles[tile].kind == kind)
        for start in range(0, len(of_kind), n_target):
            yield tuple(of_kind[start : start + n_target])


def _unit(
    stage: _Stage, scores: Scores, maxima: np.ndarray, place: tuple[int, int], unit: Unit
) -> tuple[pa.Table, np.ndarray, Unit]:
    """One unit of a call; when it came out undefined it is tried again with the rescue solver."""
    parts = rows.of_unit(scores, maxima, place, unit, stage.plan, stage.inputs, stage.run)
    rescue = _rescue(stage.metric)
    if parts.why_failed and rescue is not None:
        again = dataclasses.replace(stage, metric=rescue, responses={})
        out = _call(again, _features_state(again, [unit.fit]), (unit.tile,))
        parts = rows.of_unit(*out, (0, 0), unit, stage.plan, stage.inputs, stage.run, solver="svd")
    return rows.to_table(parts, unit, stage.plan, stage.inputs, stage.run), parts.maxima, unit


def _rescue(metric: Metric) -> Metric | None:
    """The same metric with the more robust solver, if it has one that was not used."""
    if getattr(metric, "solver", "svd") == "svd":
        return None
    return dataclasses.replace(metric, solver="svd")  # type: ignore[type-var]


def _features_state(stage: _Stage, block: list[int]) -> Any:
    """What a metric needs of a block of fits, on the devices; computed once for all tiles."""
    n_padded = stage.analysis.fits_per_call * mesh.shape_of(stage.devices)[0]
    layout = "rdm_features" if stage.inputs.is_rdm[block[0]] else "features"
    features = tiles.features_block(stage.analysis, stage.inputs, block, n_padded)
    features = mesh.place(stage.devices, layout, features)
    with jax.transfer_guard("disallow"):
        return mesh.features_step(stage.metric, stage.devices, layout)(features, stage.design)


def _responses_state(stage: _Stage, side_by_side: tuple[int, ...], padded: list[Tile]) -> Any:
    """What a metric needs of some tiles, on the devices; computed once for all blocks of fits."""
    if side_by_side not in stage.responses:
        layout = "patterns" if stage.analysis.side == "patterns" else "responses"
        parts = [tiles.responses_tile(stage.analysis, stage.inputs, stage.run, tile) for tile in padded]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=-1), *parts)
        placed = mesh.place(stage.devices, layout, joined)
        with jax.transfer_guard("disallow"):
            step = mesh.responses_step(stage.metric, stage.devices, layout)
            stage.responses[side_by_side] = step(placed, stage.design)
    return stage.responses[side_by_side]


def _call(stage: _Stage, features_state: Any, side_by_side: tuple[int, ...]) -> tuple[Scores, np.ndarray]:
    """Score a block of fits against some tiles, one per device of the target axis; one transfer out."""
    real = [stage.analysis.tiles[tile] for tile in side_by_side]
    padded = real + [_empty(real[0])] * (mesh.shape_of(stage.devices)[1] - len(real))
    responses_state = _responses_state(stage, side_by_side, padded)
    null: Null = mesh.place_null(stage.devices, tiles.null_of(stage.analysis, stage.plan, stage.null_rows, padded))
    step = mesh.score_step(stage.metric, stage.devices, null.n_families, null.is_calibrated)
    with jax.transfer_guard("disallow"):
        out = step(features_state, responses_state, stage.design, null)
    return jax.device_get(out)


def _empty(tile: Tile) -> Tile:
    """A tile of padding only, so that every device has one of the same shape."""
    return dataclasses.replace(tile, groups=tile.groups[:0])


@contextmanager
def _stop_flag() -> Iterator[Any]:
    """A function that tells whether SIGTERM came; the unit in flight is finished first."""
    stopped: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    except ValueError:  # not the main thread: the process's own handler stays
        yield lambda: False
        return
    try:
        yield lambda: bool(stopped)
    finally:
        signal.signal(signal.SIGTERM, before)
