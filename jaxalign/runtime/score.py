"""Scoring what is missing: blocks of fits against tiles of targets, read ahead, computed, and copied back one call late."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxalign.contracts import Metric, Null, RdmSet, RunConfig, Scores
from jaxalign.runtime import budget, memory, mesh, pipeline, rows, tiles, work
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.meter import METER
from jaxalign.runtime.null import labellings_of
from jaxalign.runtime.plan import Analysis, Plan, Unit
from jaxalign.runtime.targets import Tile


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to compute.

    Attributes:
        output: its folder.
        missing: units that have no whole files yet.
    """

    run: RunConfig
    output: Path
    inputs: Inputs
    plan: Plan
    missing: tuple[Unit, ...]


@dataclass(frozen=True)
class Member:
    """One fit of one run, with its missing units by tile."""

    owner: Prepared
    fit: int
    units: dict[int, Unit]


@dataclass(frozen=True)
class Stage:
    """Fits, of one run or of several, that go through the same programs against the same responses.

    Attributes:
        first: the run whose analysis stands for all.
        analysis: metric, tiles and sizes.
        width: padded width of the fits.
        members: the fits.
    """

    first: Prepared
    analysis: Analysis
    width: int
    members: tuple[Member, ...]

    @property
    def n_units(self) -> int:
        return sum(len(member.units) for member in self.members)


@dataclass(frozen=True)
class Landed:
    """One unit, computed and on the host."""

    owner: Prepared
    unit: Unit
    part: rows.Part


def stages_of(prepared: Sequence[Prepared]) -> list[Stage]:
    """Group the missing units of all runs by the programs and responses that they need, in order of appearance."""
    found: dict[Any, list[Member]] = {}
    heads: dict[Any, tuple[Prepared, Analysis, int]] = {}
    for owner in prepared:
        for index, analysis in enumerate(owner.plan.analyses):
            key_of_analysis = _key(owner, index)
            for fit in analysis.fits:
                units = {unit.tile: unit for unit in _units_of(owner, index, fit)}
                if units:
                    key = (*key_of_analysis, analysis.width_of(fit), analysis.sizes.fits[analysis.width_of(fit)])
                    heads.setdefault(key, (owner, analysis, analysis.width_of(fit)))
                    found.setdefault(key, []).append(Member(owner, fit, units))
    return [Stage(*heads[key], tuple(members)) for key, members in found.items()]


def _units_of(owner: Prepared, analysis: int, fit: int) -> list[Unit]:
    return [unit for unit in owner.missing if (unit.analysis, unit.fit) == (analysis, fit)]


def _key(owner: Prepared, index: int) -> tuple[Any, ...]:
    """What two analyses must share to be computed together: programs, responses and labellings."""
    analysis, run, brain = owner.plan.analyses[index], owner.run, owner.inputs.brain
    arrays = [brain.values] if isinstance(brain, RdmSet) else [recording.values for recording in brain]
    design = hashlib.sha256()
    for leaf in jax.tree.leaves(owner.plan.design[index]):
        design.update(np.ascontiguousarray(leaf).tobytes())
    return (
        analysis.metric,
        run.metric[analysis.name],
        analysis.side,
        tuple((tile.kind, tile.n_padded, len(tile.groups)) for tile in analysis.tiles),
        tuple(map(id, arrays)),
        analysis.is_calibrated,
        str(run.averages),
        str(run.null),
        run.seed,
        design.hexdigest(),
    )


def share(stages: list[Stage], process: int, n_processes: int) -> list[Stage]:
    """The part of one process: consecutive units, fits outermost, so that few fits are decomposed twice."""
    own = []
    for stage in stages:
        pairs = [(place, tile) for place, member in enumerate(stage.members) for tile in sorted(member.units)]
        start, stop = (len(pairs) * index // n_processes for index in (process, process + 1))
        wanted = set(pairs[start:stop])
        members = tuple(
            dataclasses.replace(
                member, units={tile: member.units[tile] for tile in member.units if (place, tile) in wanted}
            )
            for place, member in enumerate(stage.members)
        )
        members = tuple(member for member in members if member.units)
        if members:
            own.append(dataclasses.replace(stage, members=members))
    return own


@dataclass(frozen=True)
class _Context:
    """A stage on the devices: what its calls share.

    Attributes:
        metric: the frozen metric, perhaps with the rescue solver.
        design, column_design, null_rows: on the devices, and on the column of them that decomposes features.
        n_fits: fits of one call on all devices.
        keeps: whether prepared responses stay on the devices for all blocks of fits.
        kept: prepared responses by the tiles that lie side by side.
        sent: tiles whose responses the reader has sent to stay.
    """

    stage: Stage
    metric: Metric
    devices: Mesh
    design: Any
    column_design: Any
    null_rows: Any
    n_fits: int
    keeps: bool
    kept: dict[tuple[int, ...], Any]
    sent: set[tuple[int, ...]]


@dataclass(frozen=True)
class _Call:
    """A block of fits against tiles that lie side by side; features and responses only where they are not there yet."""

    block: tuple[Member, ...]
    side_by_side: tuple[int, ...]
    features: Any
    responses: Any
    null: Null


def scored(
    stage: Stage, devices: Mesh, is_stopped: Callable[[], bool], before_call: Callable[[], None]
) -> Iterator[list[Landed]]:
    """Compute the units of a stage, call by call; after a stop, what was launched is still landed.

    Args:
        stage: fits with their missing units.
        devices: the mesh of this process.
        is_stopped: asked before every call.
        before_call: called before every call that is launched.
    Yields:
        The units of one call.
    """
    context = _context(stage, devices)
    launched: deque[tuple[_Call, Any]] = deque()
    features_state = None
    with pipeline.ahead(_calls(context)) as calls:
        for call in calls:
            if is_stopped():
                break
            before_call()
            if call.features is not None:
                # The decompositions of the block before go first: two of them at once would be the largest buffer.
                while launched:
                    yield _landed(context, *launched.popleft())
                features_state = None
                memory.give_back()
                features_state = _prepared_features(context, call.features, len(call.block))
            launched.append((call, _launch(context, call, features_state)))
            if len(launched) > 1:
                yield _landed(context, *launched.popleft())
    while launched:
        yield _landed(context, *launched.popleft())


def _context(stage: Stage, devices: Mesh, metric: Metric | None = None) -> _Context:
    first, analysis = stage.first, stage.analysis
    per_device = analysis.sizes.fits[stage.width]
    own = mesh.arranged(devices, first.run.mesh, -(-len(stage.members) // per_device), len(analysis.tiles))
    index = first.plan.analyses.index(analysis)
    design = tiles.local_design(analysis, first.plan.design[index])
    null = labellings_of(
        first.run.metric[analysis.name], analysis.side, first.plan.design[index], first.run, first.inputs
    )
    n_fit, n_target = mesh.shape_of(own)
    return _Context(
        stage=stage,
        metric=metric or analysis.metric,
        devices=own,
        design=mesh.place(own, "shared", design),
        column_design=mesh.place(mesh.column(own), "shared", design),
        null_rows=mesh.place(own, "shared", null.rows),
        n_fits=per_device * n_fit,
        keeps=_fits_beside(stage, first.run, n_target),
        kept={},
        sent=set(),
    )


def _fits_beside(stage: Stage, run: RunConfig, n_target: int) -> bool:
    """Whether the prepared responses of all tiles fit on the devices beside a call."""
    analysis = stage.analysis
    n_targets = max(tile.n_padded for tile in analysis.tiles) * analysis.shape.n_subjects
    kept = -(-len(analysis.tiles) // n_target) * budget.prepared(analysis.shape, n_targets)
    return kept + sum(analysis.n_bytes.values()) <= budget.device_limit(run.mesh)


# What the reader does.


def _calls(context: _Context) -> Iterator[_Call]:
    """All calls of a stage with what they need, placed on the devices; runs in a thread of its own."""
    members = context.stage.members
    for start in range(0, len(members), context.n_fits):
        block = members[start : start + context.n_fits]
        features = _features(context, block)
        for side_by_side in _rows_of_tiles(context, {tile for member in block for tile in member.units}):
            padded = _padded(context, side_by_side)
            responses = _responses(context, side_by_side, padded)
            null = mesh.place_null(context.devices, tiles.null_of(context.stage.analysis, context.null_rows, padded))
            yield _Call(block, side_by_side, features, responses, null)
            features = None


def _rows_of_tiles(context: _Context, wanted: set[int]) -> Iterator[tuple[int, ...]]:
    """Tiles of one shape, as many at a time as there are devices on the target axis."""
    analysis = context.stage.analysis
    n_target = mesh.shape_of(context.devices)[1]
    for kind in analysis.groups:
        of_kind = sorted(tile for tile in wanted if analysis.tiles[tile].kind == kind)
        for start in range(0, len(of_kind), n_target):
            yield tuple(of_kind[start : start + n_target])


def _padded(context: _Context, side_by_side: tuple[int, ...]) -> list[Tile]:
    """The tiles of a call, with tiles of padding only, so that every device has one of the same shape."""
    real = [context.stage.analysis.tiles[tile] for tile in side_by_side]
    empty = dataclasses.replace(real[0], groups=real[0].groups[:0])
    return real + [empty] * (mesh.shape_of(context.devices)[1] - len(real))


def _features(context: _Context, block: tuple[Member, ...]) -> Any:
    analysis, width = context.stage.analysis, context.stage.width
    with METER.stage("read") as did:
        readers = [(member.owner.inputs, member.fit) for member in block]
        host = tiles.features_block(readers, width, analysis.rows, context.n_fits)
        did["bytes"] = _n_bytes(host)
    return _placed(mesh.column(context.devices), "features" if width else "rdm_features", host)


def _responses(context: _Context, side_by_side: tuple[int, ...], padded: list[Tile]) -> Any:
    """Responses of some tiles, each part on its own devices; None where the devices keep what was made of them."""
    if side_by_side in context.sent:
        return None
    if context.keeps:
        context.sent.add(side_by_side)
    analysis, first = context.stage.analysis, context.stage.first
    with METER.stage("read") as did:
        parts = [tiles.responses_tile(analysis, first.inputs, first.run, tile) for tile in padded]
        joined = parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays, axis=-1), *parts)
        del parts
        did["bytes"] = _n_bytes(joined)
    return _placed(context.devices, "patterns" if analysis.side == "patterns" else "responses", joined)


def _placed(devices: Mesh, layout: str, host: Any) -> Any:
    """Host arrays on the devices; the reader waits for them, the devices compute meanwhile."""
    with METER.stage("transfer", _n_bytes(host)):
        return jax.block_until_ready(mesh.place(devices, layout, host))


def _n_bytes(tree: Any) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(tree))


# What the devices do.


def _prepared_features(context: _Context, features: Any, n_real: int) -> Any:
    layout = "features" if context.stage.width else "rdm_features"
    with jax.transfer_guard("disallow"):
        step = mesh.features_step(context.metric, mesh.column(context.devices), layout)
        state = step(features, context.column_design)
    METER.launched("factorise", state, n_real * work.factorise(context.stage.analysis.shape, context.stage.width))
    return mesh.spread(context.devices, state)


def _prepared_responses(context: _Context, call: _Call) -> Any:
    if call.side_by_side in context.kept:
        return context.kept[call.side_by_side]
    analysis = context.stage.analysis
    layout = "patterns" if analysis.side == "patterns" else "responses"
    with jax.transfer_guard("disallow"):
        state = mesh.responses_step(context.metric, context.devices, layout)(call.responses, context.design)
    METER.launched("project", state, work.project(analysis.shape, _n_targets(context, call)))
    if context.keeps:
        context.kept[call.side_by_side] = state
    return state


def _launch(context: _Context, call: _Call, features_state: Any) -> tuple[Scores, Any]:
    """Score a block of fits against some tiles, one per device of the target axis, and start the copy back."""
    responses_state = _prepared_responses(context, call)
    step = mesh.score_step(context.metric, context.devices, call.null.n_families, call.null.is_calibrated)
    with jax.transfer_guard("disallow"):
        out = step(features_state, responses_state, context.design, call.null)
    for array in jax.tree.leaves(out):
        array.copy_to_host_async()
    METER.launched("score", out, _flop(context, call))
    return out


def _n_targets(context: _Context, call: _Call) -> int:
    """Real targets of a call."""
    analysis = context.stage.analysis
    return sum(len(analysis.tiles[tile].groups) for tile in call.side_by_side) * analysis.shape.n_subjects


def _flop(context: _Context, call: _Call) -> float:
    shape, width, n_targets = context.stage.analysis.shape, context.stage.width, _n_targets(context, call)
    return len(call.block) * (work.score(shape, width, n_targets) + work.permute(shape, width, n_targets))


# What comes back.


def _landed(context: _Context, call: _Call, out: Any) -> list[Landed]:
    """The missing units of a call, cut out of its arrays."""
    jax.block_until_ready(out)
    with METER.stage("land", _n_bytes(out)):
        scores, maxima = jax.device_get(out)
    found = []
    for row, member in enumerate(call.block):
        for column, tile in enumerate(call.side_by_side):
            if tile in member.units:
                found.append(_unit(context, member, member.units[tile], (scores, maxima), (row, column)))
    return found


def _unit(context: _Context, member: Member, unit: Unit, out: tuple[Scores, Any], place: tuple[int, int]) -> Landed:
    """One unit of a call; when it came out undefined it is tried again with the rescue solver."""
    owner = member.owner
    part = rows.of_unit(*out, place, unit, owner.plan, owner.inputs, owner.run)
    rescue = _rescue(context.metric)
    if part.why_failed and rescue is not None:
        alone = dataclasses.replace(context.stage, members=(dataclasses.replace(member, units={unit.tile: unit}),))
        again = dataclasses.replace(_context(alone, context.devices, rescue), keeps=False)
        call = next(_calls(again))
        out = jax.device_get(_launch(again, call, _prepared_features(again, call.features, 1)))
        part = rows.of_unit(*out, (0, 0), unit, owner.plan, owner.inputs, owner.run, solver="svd")
    return Landed(owner, unit, part)


def _rescue(metric: Metric) -> Metric | None:
    """The same metric with the more robust solver, if it has one that was not used."""
    if getattr(metric, "solver", "svd") == "svd":
        return None
    return dataclasses.replace(metric, solver="svd")  # type: ignore[type-var]
