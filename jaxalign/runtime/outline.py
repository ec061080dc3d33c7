"""A plan as people read it: units, waves, bytes, operations and an estimate of the time; and whether the host can hold it."""

from __future__ import annotations

from typing import Any

from jaxalign.contracts import MeshConfig
from jaxalign.errors import ConfigError
from jaxalign.runtime import budget, work
from jaxalign.runtime.budget import AHEAD, FLOAT, GIB, LIBRARIES
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis, Plan

EFFICIENCY = 0.4
"""Share of the rate of a large matrix product that a run reaches (measured: .3 to .65), for the estimate of its time."""

KEPT_BY_ALLOCATOR = 0.25
"""Share of what CPU devices hold that stays with the process when it is freed (measured: up to a fifth, over 4 blocks)."""


def devices_of(analysis: Analysis, config: MeshConfig, n_devices: int) -> tuple[int, int]:
    """Devices along the fit and the target axis that an analysis uses."""
    n_target = config.target or 1
    n_fit = min(config.fit or max(1, n_devices // n_target), n_devices)
    n_fit = max(1, min(n_fit, analysis.calls()))
    if config.target is None:
        n_target = max(1, min(n_devices // n_fit, len(analysis.tiles)))
    return n_fit, n_target


def host_bytes(plan: Plan, config: MeshConfig, n_devices: int, is_cpu: bool) -> dict[str, int]:
    """Bytes on the host: what stays, what is on its way, and on a CPU what the devices hold.

    Returns:
        name -> bytes. Analyses come one after the other: of what they need the largest counts.
    """
    kept = {"libraries and programs": LIBRARIES, **plan.arrays}
    parts = [_of_analysis(analysis, config, n_devices, is_cpu) for analysis in plan.analyses]
    return kept | max(parts, key=lambda part: sum(part.values()))


def _of_analysis(analysis: Analysis, config: MeshConfig, n_devices: int, is_cpu: bool) -> dict[str, int]:
    n_fit, n_target = devices_of(analysis, config, n_devices)
    shape = analysis.shape
    n_targets = max(tile.n_padded for tile in analysis.tiles) * shape.n_subjects
    width, n_fits = max(analysis.sizes.fits.items(), key=lambda item: item[0] * item[1])
    features = FLOAT * n_fit * n_fits * shape.n_rows * max(width, 1)
    responses = FLOAT * 2 * n_target * shape.n_rows * shape.n_channels * n_targets
    results = FLOAT * AHEAD * 8 * n_fit * n_fits * n_target * n_targets
    out = {"features and responses being read": features + responses, "results being written": results}
    if is_cpu:
        device = sum(analysis.n_bytes.values()) + _beside(analysis, config, n_target, n_targets)
        once = sum(size for name, size in analysis.n_bytes.items() if name in budget.OF_COLUMN)
        out[f"{n_fit * n_target} CPU devices"] = held = n_fit * (n_target * device - (n_target - 1) * once)
        out["freed buffers that the allocator keeps"] = int(KEPT_BY_ALLOCATOR * held)
    return out


def _beside(analysis: Analysis, config: MeshConfig, n_target: int, n_targets: int) -> int:
    """Bytes of prepared responses that stay on a device for all blocks of fits, where they fit."""
    kept = -(-len(analysis.tiles) // n_target) * budget.prepared(analysis.shape, n_targets)
    return kept if kept + sum(analysis.n_bytes.values()) <= budget.device_limit(config) else 0


def check_host(plan: Plan, config: MeshConfig, n_devices: int, is_cpu: bool) -> None:
    """Refuse a run that the host cannot hold.

    Raises:
        ConfigError: saying how much it needs, and what needs most.
    """
    buffers, limit = host_bytes(plan, config, n_devices, is_cpu), budget.host_limit(config)
    need = sum(buffers.values())
    if need > limit:
        largest = max(buffers, key=lambda name: buffers[name])
        raise ConfigError(
            f"The run needs {need / GIB:.3g} GiB on the host, {buffers[largest] / GIB:.3g} of it for {largest}; {limit / GIB:.3g} GiB may be used. Set mesh.host_memory_gib={need / GIB * 1.05:.3g} if the machine has it, score fewer subjects at a time with subject=[...], or use a smaller mesh.memory_gib."
        )


def operations(analysis: Analysis) -> dict[str, float]:
    """Analytic floating-point operations of each step of an analysis, over all its units."""
    shape = analysis.shape
    n_targets = [len(tile.groups) * shape.n_subjects for tile in analysis.tiles]
    pairs = [(width, n) for width in analysis.widths for n in n_targets]
    return {
        "factorise": sum(work.factorise(shape, width) for width in analysis.widths),
        "project": sum(work.project(shape, n) for n in n_targets),
        "score": sum(work.score(shape, width, n) for width, n in pairs),
        "permute": sum(work.permute(shape, width, n) for width, n in pairs),
    }


def as_json(
    plan: Plan, inputs: Inputs, config: MeshConfig, n_devices: int, is_cpu: bool, rate: float
) -> dict[str, Any]:
    """Everything that `describe` says, as JSON values. rate: measured operations per second of one device."""
    analyses = []
    for analysis in plan.analyses:
        n_fit, n_target = devices_of(analysis, config, n_devices)
        flop = operations(analysis)
        cores = 1 if is_cpu else n_fit * n_target  # simulated devices share the processor that was measured
        analyses.append(
            {
                "name": analysis.name,
                "fits": len(analysis.fits),
                "widths": sorted(set(analysis.widths)),
                "targets": sum(len(tile.groups) for tile in analysis.tiles) * len(plan.subjects),
                "tiles": len(analysis.tiles),
                "tile_shapes": sorted(
                    {analysis.shape_name(tile, fit) for tile in analysis.tiles for fit in analysis.fits}
                ),
                "waves": analysis.calls(n_fit),
                "programs": len(analysis.sizes.fits) * len({(tile.kind, tile.n_padded) for tile in analysis.tiles}),
                "families": _families(analysis),
                "aggregates": _aggregates(analysis),
                "permutations": analysis.metric.n_permutations,
                "devices": [n_fit, n_target],
                "bytes": analysis.n_bytes,
                "gflop": {name: value / 1e9 for name, value in flop.items()},
                "estimated_s": sum(flop.values()) / (EFFICIENCY * rate * cores),
            }
        )
    return {
        "run_hash": plan.run_hash,
        "units": len(plan.units),
        "subjects": len(plan.subjects),
        "stimuli": len(inputs.stimulus_ids),
        "weight_bytes": dict(inputs.weight_bytes),
        "host_bytes": host_bytes(plan, config, n_devices, is_cpu),
        "gemm_gflop_per_s": rate / 1e9,
        "analyses": analyses,
    }


def _families(analysis: Analysis) -> int:
    """Families that p values are corrected over: each subject and their mean, each kind of target and statistic."""
    n = analysis.shape.n_subjects
    return len(analysis.metric.statistics) * len(analysis.groups) * (n + (n > 1))


def _aggregates(analysis: Analysis) -> list[str]:
    """What is scored beside single targets."""
    means = ["mean over subjects"] if analysis.shape.n_subjects > 1 else []
    return [*means, *(analysis.groups["averages"].channel if "averages" in analysis.groups else ())]


def describe(outline: dict[str, Any]) -> str:
    """The outline of `as_json` as text."""
    host = outline["host_bytes"]
    lines = [
        f"run {outline['run_hash']}: {outline['units']:,} units, {outline['subjects']} subjects, {outline['stimuli']:,} stimuli",
        f"host: {sum(host.values()) / GIB:.3f} GiB at most",
        *(f"    {name}: {size / GIB:.4f} GiB" for name, size in host.items()),
    ]
    for name, size in outline["weight_bytes"].items():
        lines.append(
            f"{name}: {size / GIB:.3f} GiB of weights on the devices while it is extracted, before anything is scored"
        )
    for one in outline["analyses"]:
        n_fit, n_target = one["devices"]
        lines += [
            f"{one['name']}: {one['fits']} fits x {one['targets']:,} targets in {one['tiles']} tiles of {' and '.join(one['tile_shapes'])} (fits x groups), {one['permutations']:,} permutations, {one['families']} families"
            + (f", aggregates: {', '.join(one['aggregates'])}" if one["aggregates"] else ""),
            f"    {one['waves']} waves of fits on {n_fit} x {n_target} devices (fit x target), {one['programs']} shapes to compile, widths padded to {', '.join(map(str, one['widths']))}",
            f"    {sum(one['gflop'].values()):,.1f} GFLOP ({', '.join(f'{name} {value:,.1f}' for name, value in one['gflop'].items())}): about {_time(one['estimated_s'])} at {EFFICIENCY:.0%} of {outline['gemm_gflop_per_s']:,.0f} GFLOP/s, compilation apart",
            f"    {sum(one['bytes'].values()) / GIB:.3f} GiB per device, {n_fit * n_target * sum(one['bytes'].values()) / GIB:.3f} GiB on all",
            *(f"        {name}: {size / GIB:.4f} GiB" for name, size in one["bytes"].items()),
        ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
