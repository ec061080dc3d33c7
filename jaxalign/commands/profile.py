"""`jaxalign profile`: where the time of a run goes, stage by stage, beside what the machine can do."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxalign.commands import progress
from jaxalign.commands.composed import compose
from jaxalign.commands.words import option
from jaxalign.contracts import RunConfig


def main(arguments: list[str]) -> None:
    """Do the run in a folder that is thrown away, and again without permutations; print the table of its stages.

    `json=PATH` keeps the numbers; profile=trace keeps a trace in the folder `output=`.
    """
    path, rest = option("json", arguments)
    run = compose(rest)
    profile = _profiled(run)
    if path is not None:
        Path(path).write_text(json.dumps(profile, indent=2) + "\n", encoding="utf-8")
    from jaxalign.runtime.profiling import as_text

    print(as_text(profile))
    if run.profile == "trace":
        print(
            f"Trace: {Path(run.output) / 'trace'} (open perfetto_trace.json.gz with Perfetto, or the folder with xprof)"
        )


def _profiled(run: RunConfig) -> dict[str, Any]:
    import jax

    from jaxalign.runtime import profiling, rates

    rate = rates.measured(jax.local_devices()[0])
    bare = replace(run, metric={name: replace(metric, n_permutations=0) for name, metric in run.metric.items()})
    with tempfile.TemporaryDirectory() as folder, progress.shown() as show:
        measured = _measured(run, Path(folder) / "run", show)
        without = _measured(replace(bare, profile="none"), Path(folder) / "bare", show)
        flop = _operations(run)
    return profiling.with_rates(profiling.split_permutations(measured, without, flop), rate)


def _measured(run: RunConfig, output: Path, show: Any) -> dict[str, Any]:
    from jaxalign.runtime.run import execute

    execute(run, output, show)
    if run.profile == "trace":
        target = Path(run.output) / "trace"
        target.parent.mkdir(parents=True, exist_ok=True)
        _moved(output / "trace", target)
    return json.loads((output / "profile.json").read_text(encoding="utf-8"))


def _moved(source: Path, target: Path) -> None:
    import shutil

    if target.exists():
        shutil.rmtree(target)
    shutil.move(source, target)


def _operations(run: RunConfig) -> dict[str, float]:
    """Analytic operations of all analyses, step by step."""
    from jaxalign.runtime import budget, outline
    from jaxalign.runtime.inputs import gather
    from jaxalign.runtime.plan import make_plan

    plan = make_plan(run, gather(run, lambda *_: None, is_dry=True), budget.device_limit(run.mesh))
    parts = [outline.operations(analysis) for analysis in plan.analyses]
    return {name: sum(part[name] for part in parts) for name in parts[0]}
