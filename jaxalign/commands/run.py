"""`jaxalign run`: one run, or all runs of a sweep together, from the request to the report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxalign.commands import progress
from jaxalign.commands.composed import with_run
from jaxalign.commands.jobs import Answer
from jaxalign.contracts import RunConfig

if TYPE_CHECKING:
    from jaxalign.runtime.run import Outcome


def main(arguments: list[str]) -> None:
    """Compose and do the run (or the sweep, with -m), print its answer."""
    with_run(arguments, compute)
    from jaxalign.runtime import dist

    dist.barrier("end")  # an exit of the others would wait for the report of the first, and not for long


def compute(jobs: list[tuple[RunConfig, Path]]) -> list[Answer]:
    """All runs as one plan, each in its folder.

    Returns:
        Per run, a function that writes the report, prints the answer, and returns or raises what `answer` does.
    """
    from jaxalign.runtime.run import Job, execute_all

    with progress.shown() as show:
        outcomes = execute_all([Job(run, output) for run, output in jobs], show)
    return [partial(answer, run, output, outcome) for (run, output), outcome in zip(jobs, outcomes, strict=True)]


def answer(run: RunConfig, output: Path, outcome: Outcome) -> dict[str, Any]:
    """What a job of Hydra returns.

    Returns:
        name of a finding ("metric/statistic") -> held-out score, or the largest score where none can be held out.
    Raises:
        JaxalignError: why there is no result, or, once the rest is reported, why it is not whole.
    """
    if outcome.summary is not None:
        finish(run, output, outcome.summary)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.summary is not None
    return {f"{one['metric']}/{one['statistic']}": _score(one) for one in outcome.summary["findings"]}


def finish(run: RunConfig, output: Path, summary: dict[str, Any]) -> None:
    """Write the report and print the answer in words; of several processes, the first does."""
    from jaxalign.results.report import write_report
    from jaxalign.results.words import headline
    from jaxalign.runtime import dist

    if not dist.is_first():
        return
    for finding in summary["findings"]:
        print(f"\n{headline(finding, summary)}")
    for warning in summary["warnings"]:
        print(f"\nNote: {warning}")
    print(f"\nTable: {output / 'scores.parquet'}")
    if run.report:
        print(f"Report: {write_report(output)}")


def _score(finding: dict[str, Any]) -> float | None:
    if finding["held_out"] is not None:
        return finding["held_out"]["value"]
    return finding["peak"]["value"] if finding["peak"] else None
