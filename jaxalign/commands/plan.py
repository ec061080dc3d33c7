"""`jaxalign plan`: units, waves, bytes, operations and time of a run, without doing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxalign.commands import progress
from jaxalign.commands.composed import compose
from jaxalign.commands.words import option


def main(arguments: list[str]) -> None:
    """Print the plan, as text, or as JSON into a file with `json=PATH`. Nothing is extracted, simulated or written."""
    path, rest = option("json", arguments)
    found = outline_of(rest)
    if path is not None:
        Path(path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    from jaxalign.runtime.outline import describe

    print(describe(found))


def outline_of(arguments: list[str]) -> dict[str, Any]:
    """The plan of a request as JSON values."""
    import jax

    from jaxalign.runtime import budget, mesh, outline, rates
    from jaxalign.runtime.inputs import gather
    from jaxalign.runtime.plan import make_plan

    run = compose(arguments)
    with progress.shown() as show:
        inputs = gather(run, show, is_dry=True)
    devices = mesh.make_mesh(run.mesh)
    plan = make_plan(run, inputs, budget.device_limit(run.mesh))
    is_cpu = mesh.platform_of(devices) == "cpu"
    rate = rates.measured(jax.local_devices()[0]).gemm_flop_per_s
    return outline.as_json(plan, inputs, run.mesh, devices.size, is_cpu, rate)
