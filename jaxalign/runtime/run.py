"""The story of a run, or of all runs of a sweep as one: gather, plan, score what is missing, write each unit, finish."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxalign import errors
from jaxalign.contracts import RunConfig
from jaxalign.errors import JaxalignError, PreemptedError, UnitsFailedError
from jaxalign.runtime import (
    budget,
    dist,
    events,
    finalise,
    folder,
    journal,
    mesh,
    outline,
    pipeline,
    rows,
    score,
    selfcheck,
    tracing,
)
from jaxalign.runtime.budget import Sizes
from jaxalign.runtime.inputs import Inputs, gather
from jaxalign.runtime.meter import METER
from jaxalign.runtime.plan import Plan, make_plan
from jaxalign.runtime.score import Landed, Prepared

STOP_FILE = ".stop"


@dataclass(frozen=True)
class Job:
    """One run and the folder of its results."""

    run: RunConfig
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        summary: what its finishing pass wrote; None if there was none.
        error: why it has no result, or only part of it; None when all is well.
    """

    summary: dict[str, Any] | None
    error: JaxalignError | None


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
    outcome = execute_all([Job(run, output)], progress)[0]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.summary is not None
    return outcome.summary


def execute_all(jobs: Sequence[Job], progress: Any) -> list[Outcome]:
    """Do all jobs as one plan on one mesh; a job that fails leaves the others alone.

    Every process of a run calls this with the same jobs.

    Args:
        jobs: runs with folders of their own; mesh and processes are those of the first.
        progress: called with a sentence and a fraction done.
    Returns:
        What became of each job, in order.
    Raises:
        PreemptedError: if SIGTERM came; finished units are kept.
    """
    dist.initialize(jobs[0].run.dist)
    METER.reset()
    shared: dict[str, Any] = {}
    with ExitStack() as locks, _stop_flag(jobs[0].output) as is_stopped:
        ready = [_ready(job, shared, locks, progress) for job in jobs]
        prepared = [one for one, error in ready if error is None]
        if prepared:
            _score(prepared, is_stopped, progress)
        progress("finish", 0.0)
        finished = iter([_attempt(partial(_finish, one)) for one in prepared])
        return [Outcome(None, error) if error else _outcome(*next(finished)) for _, error in ready]


def _attempt(work: Callable[[], Any]) -> tuple[Any, JaxalignError | None]:
    """What the work returned, or its error; with several processes, the first error that any of them met."""
    value, failure = None, None
    try:
        value = work()
    except PreemptedError:
        raise
    except JaxalignError as error:
        failure = error
    told = [one for one in dist.gather(failure and [type(failure).__name__, str(failure)]) if one]
    if told and failure is None:
        failure = getattr(errors, told[0][0])(told[0][1])
    return value, failure


def _ready(job: Job, shared: dict[str, Any], locks: ExitStack, progress: Any) -> tuple[Any, JaxalignError | None]:
    """A run made ready, or why it cannot be. What may fail in one process alone comes in steps of its own.

    An error that only one process met must not leave the others in a collective that it never reaches.
    """
    found, error = _attempt(partial(folder.check_same_request, job.output, job.run))
    if error is None:
        found, error = _attempt(lambda: locks.enter_context(journal.locked(job.output, dist.index())))
    if error is None and dist.count() > 1:  # files may be missing on one machine
        found, error = _attempt(lambda: gather(job.run, progress, shared, is_dry=True))
    if error is None:
        found, error = _attempt(partial(_planned, job, shared, progress))
    if error is None:
        inputs, plan = found
        found, error = _attempt(partial(_check_host, job, plan))
    if error is None:
        found, error = _attempt(partial(_prepared, job, inputs, plan))
    return found, error


def _planned(job: Job, shared: dict[str, Any], progress: Any) -> tuple[Inputs, Plan]:
    """Inputs and plan of a run; a resumed one keeps its tiles."""
    dist.first_does(partial(_check_free, job))
    inputs = gather(job.run, progress, shared)
    kept = dist.first_does(partial(folder.kept_sizes, job.output))
    # Free memory differs between processes and moments: the least of them decides for all.
    limit = min(dist.gather(budget.device_limit(job.run.mesh)))
    plan = make_plan(job.run, inputs, limit, {name: Sizes.from_json(sizes) for name, sizes in kept.items()})
    return inputs, plan


def _check_host(job: Job, plan: Plan) -> None:
    devices = mesh.make_mesh(job.run.mesh)
    outline.check_host(plan, job.run.mesh, devices.size, mesh.platform_of(devices) == "cpu")


def _prepared(job: Job, inputs: Inputs, plan: Plan) -> Prepared:
    """The run with what is missing of it; process 0 finds out, and all processes agree on the plan or stop."""
    dist.agree(f"The plan of {job.output}", folder.plan_digest(plan))
    missing = set(dist.first_does(partial(_open, job, plan, inputs)))
    return Prepared(job.run, job.output, inputs, plan, tuple(unit for unit in plan.units if unit.unit_id in missing))


def _check_free(job: Job) -> None:
    journal.check_alone(job.output, dist.count())
    folder.check_is_free(job.output, job.run)


def _open(job: Job, plan: Plan, inputs: Inputs) -> list[str]:
    """Names of the missing units."""
    output = job.output
    folder.open_run(output, job.run, plan, inputs)
    missing = [unit.unit_id for unit in folder.missing_units(output, plan)]
    folder.check_arithmetic(output, len(missing), len(plan.units))
    events.note(output, "planned", run_hash=plan.run_hash, units=len(plan.units), missing=len(missing))
    return missing


def _score(prepared: list[Prepared], is_stopped: Callable[[], bool], progress: Any) -> None:
    """Compute and write the missing units of all runs that are this process's share.

    Raises:
        PreemptedError: on every process, when one of them was asked to stop.
    """
    devices = mesh.make_mesh(prepared[0].run.mesh)
    if mesh.platform_of(devices) != "cpu":  # which has one precision only
        selfcheck.quick(devices)
    stages = score.share(score.stages_of(prepared), dist.index(), dist.count())
    n_missing, n_done = sum(stage.n_units for stage in stages), 0
    is_traced = prepared[0].run.profile == "trace" and dist.is_first()
    with pipeline.behind() as submit, tracing.traced(prepared[0].output if is_traced else None, n_missing) as step:
        for stage in stages:
            if is_stopped():
                break
            for landed in score.scored(stage, devices, is_stopped, step):
                submit(partial(_write, landed))
                n_done += len(landed)
                progress(f"score {stage.analysis.name}", n_done / n_missing)
    with ThreadPoolExecutor(1) as waiting:  # SIGTERM is heard only where the main thread waits in Python
        stopped = waiting.submit(dist.gather, n_done < n_missing).result()
    if any(stopped):
        n_all, n_kept = (sum(dist.gather(n)) for n in (n_missing, n_done))
        events.note(prepared[0].output, "preempted", kept=n_kept)
        raise PreemptedError(
            f"Stopped after {n_kept} of {n_all} missing units, as asked. The same command goes on from here."
        )


def _write(landed: list[Landed]) -> None:
    """Make the units of one call durable; runs in the writer's thread."""
    for one in landed:
        with METER.stage("write") as did:
            owner = one.owner
            table = rows.to_table(one.part, one.unit, owner.plan, owner.inputs, owner.run)
            did["bytes"] = table.nbytes + one.part.maxima.nbytes
            folder.commit(owner.output, owner.plan.run_hash, one.unit, table, one.part.maxima, dist.index())
        events.note(owner.output, "unit", unit_id=one.unit.unit_id, status=table.column("status")[0].as_py())


def _finish(one: Prepared) -> dict[str, Any]:
    """The finishing pass of one run, by process 0."""

    def finish() -> dict[str, Any]:
        with METER.stage("finish"):
            summary = folder.finished_summary(one.output, one.plan, one.run) if not one.missing else None
            if summary is None:
                summary = finalise.finish(one.output, one.run, one.plan, one.inputs)
                folder.note_finished(one.output, one.plan, one.run)
        folder.close_run(one.output, one.plan, len(one.missing), METER.report())
        events.note(one.output, "finished", failed=len(summary["failed_units"]))
        return summary

    return dist.first_does(finish)


def _outcome(summary: dict[str, Any] | None, error: JaxalignError | None) -> Outcome:
    if summary is None or not summary["failed_units"]:
        return Outcome(summary, error)
    first, n_failed = summary["failed_units"][0], len(summary["failed_units"])
    why = f"{n_failed} of {summary['n_units']} units have no result, first {first['unit_id']}: {first['why']}. The rest is written."
    return Outcome(summary, UnitsFailedError(why))


@contextmanager
def _stop_flag(output: Path) -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGTERM came, here or to another process; calls in flight are finished first."""
    marker = output / STOP_FILE
    stopped: list[int] = []

    def is_stopped() -> bool:
        if dist.count() > 1 and not stopped and marker.exists():
            stopped.append(signal.SIGTERM)
        return bool(stopped)

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        if dist.count() > 1:
            marker.touch()

    output.mkdir(parents=True, exist_ok=True)
    dist.first_does(partial(marker.unlink, missing_ok=True))
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the process's own handler stays
        yield is_stopped
        return
    try:
        yield is_stopped
    finally:
        signal.signal(signal.SIGTERM, before)
