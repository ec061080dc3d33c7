"""A batch of jobs, from override lists to Hydra's JobReturns, computed together in between."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from jaxalign.contracts import RunConfig
from jaxalign.errors import ConfigError, JaxalignError
from jaxalign.runtime import dist

if TYPE_CHECKING:
    from hydra_plugins.jaxalign_launcher.launcher import JaxalignLauncher

log = logging.getLogger(__name__)


@dataclass
class _Job:
    """One job: its configuration with Hydra's part, its folder, and what is known of its answer."""

    config: DictConfig
    output: Path
    run: RunConfig | None = None
    answer: Callable[[], Any] | None = None
    is_placed: bool = True


def launch(
    launcher: JaxalignLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Compose all jobs, compute them in one call of the task function's `batch`, and report each.

    Args:
        launcher: as Hydra set it up; its task function offers `request`, `batch` and `note` (see commands.jobs).
        job_overrides: per job, its overrides.
        initial_job_idx: number of the first job.
    Returns:
        One JobReturn per job, in order. A failed job has the status FAILED, and its error rises where its value is read.
    """
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info(f"Launching {len(job_overrides)} jobs as one plan")
    with _hydra_config_kept():
        jobs = [_composed(launcher, number, words) for number, words in enumerate(job_overrides, initial_job_idx)]
        _request(jobs, launcher.task_function)
    with env_override(hydra.job.env_set):
        _compute(jobs, launcher.task_function)
    returns = [_report(job, launcher) for job in jobs]
    configure_log(hydra.hydra_logging, hydra.verbose)
    launcher.task_function.note(returns)
    return returns


@contextmanager
def _hydra_config_kept() -> Iterator[None]:
    """Each job's configuration is Hydra's for as long as that job is read."""
    before = HydraConfig.instance().cfg
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _composed(launcher: JaxalignLauncher, number: int, overrides: Sequence[str]) -> _Job:
    """A job composed as Hydra's basic launcher does, with the folder that run_job will give it."""
    log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = number
        config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    folder = Path(str(OmegaConf.select(config, "hydra.sweep.dir"))) / str(
        OmegaConf.select(config, "hydra.sweep.subdir")
    )
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    return _Job(config, folder.absolute())


def _request(jobs: list[_Job], task: Any) -> None:
    """The request of each job; a job that has none fails alone."""
    taken: dict[Path, int] = {}
    for job in jobs:
        number = job.config.hydra.job.num
        HydraConfig.instance().set_config(job.config)
        try:
            if (other := taken.setdefault(job.output, number)) != number:
                raise ConfigError(
                    f"Jobs {other} and {number} have the same folder {job.output}. Let hydra.sweep.subdir tell them apart."
                )
            job.is_placed = False
            task.place(job.output)
            job.is_placed = True
            job.run = task.request(_without_hydra(job.config))
        except JaxalignError as error:
            job.answer = _raising(error)


def _without_hydra(config: DictConfig) -> DictConfig:
    composed = copy.deepcopy(config)
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    return composed


def _raising(error: JaxalignError) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def _compute(jobs: list[_Job], task: Any) -> None:
    """One call for all jobs that have a request."""
    good = [job for job in jobs if job.run is not None]
    answers = task.batch([(job.run, job.output) for job in good]) if good else []
    for job, answer in zip(good, answers, strict=True):
        job.answer = answer


def _report(job: _Job, launcher: JaxalignLauncher) -> JobReturn:
    """What Hydra keeps of a job: .hydra/, its log and callbacks come with run_job."""
    answer = job.answer
    assert answer is not None
    if not job.is_placed:
        return _unplaced(job, answer)
    if not dist.is_first():
        with read_write(job.config.hydra):
            job.config.hydra.output_subdir = None  # one process writes .hydra/
    return run_job(
        hydra_context=launcher.hydra_context,
        task_function=lambda _: answer(),
        config=job.config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _unplaced(job: _Job, answer: Callable[[], Any]) -> JobReturn:
    """Hydra's run_job would stop the whole sweep at a folder that cannot be made."""
    overrides = list(job.config.hydra.overrides.task)
    failed = JobReturn(overrides=overrides, cfg=_without_hydra(job.config), status=JobStatus.FAILED)
    try:
        answer()
    except JaxalignError as error:
        failed.return_value = error
    return failed
