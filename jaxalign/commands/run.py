"""`jaxalign run`: one run from the request to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxalign.commands import progress
from jaxalign.commands.composed import with_run
from jaxalign.contracts import RunConfig


def main(arguments: list[str]) -> None:
    """Compose and do the run (or the sweep, with -m), print its answer."""
    with_run(arguments, job)


def job(run: RunConfig, output: Path) -> dict[str, Any]:
    """One job of Hydra: the run in its folder.

    Returns:
        name of a finding ("metric/statistic") -> held-out score, or the largest score where none can be held out.
    """
    from jaxalign.errors import UnitsFailedError
    from jaxalign.runtime.run import execute

    failure = None
    with progress.shown() as show:
        try:
            summary = execute(run, output, show)
        except UnitsFailedError as error:
            from jaxalign.results import summary as read_summary

            summary, failure = read_summary(output), error
    finish(run, output, summary)
    if failure is not None:
        raise failure
    return {f"{one['metric']}/{one['statistic']}": _score(one) for one in summary["findings"]}


def finish(run: RunConfig, output: Path, summary: dict[str, Any]) -> None:
    """Write the report and print the answer in words."""
    from jaxalign.results.report import write_report
    from jaxalign.results.words import headline

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
