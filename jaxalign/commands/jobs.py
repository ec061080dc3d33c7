"""What Hydra's launchers call, alone or for all jobs of a sweep at once, and what is said when some jobs failed."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from jaxalign import config
from jaxalign.contracts import RunConfig
from jaxalign.errors import ConfigError, JaxalignError, UnitsFailedError

UNUSABLE = (errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSPC)
"""What can be wrong with a folder that was asked for."""

Answer = Callable[[], Any]
Batch = Callable[[list[tuple[RunConfig, Path]]], list[Answer]]


@dataclass
class Task:
    """The task function of Hydra: called with one configuration by most launchers, with all by ours.

    Attributes:
        compute: runs with their folders -> a function per run that returns its answer or raises its error.
        returned: jobs that our launcher has reported.
    """

    compute: Batch
    returned: list[JobReturn] = field(default_factory=list)

    def __call__(self, composed: DictConfig) -> Any:
        """One job: for a single run, and for launchers that know jobs only."""
        output = Path(HydraConfig.get().runtime.output_dir)
        (answer,) = self.compute([(config.to_run(composed), output)])
        return answer()

    def __reduce__(self) -> Any:
        """Launchers with processes of their own send the task ahead of all else: it makes plugins and schemas known."""
        return _restored, (self.compute,)

    def request(self, composed: DictConfig) -> RunConfig:
        """A composed configuration, checked."""
        return config.to_run(composed)

    def place(self, output: Path) -> None:
        """Make the folder of a job.

        Raises:
            ConfigError: if that is impossible.
        """
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error) from error

    def batch(self, jobs: list[tuple[RunConfig, Path]]) -> list[Answer]:
        """Compute all jobs together."""
        return self.compute(jobs)

    def note(self, returns: Sequence[JobReturn]) -> None:
        """Remember reported jobs; sweepers may launch several batches."""
        self.returned += returns

    def failed(self) -> list[tuple[int, JobReturn]]:
        """Reported jobs that have no answer, with their numbers."""
        return [(number, job) for number, job in enumerate(self.returned) if job.status == JobStatus.FAILED]

    def conclude(self) -> None:
        """List the failed jobs, if any, and raise one error for all.

        Raises:
            JaxalignError: of the exit code that all jobs share, else UnitsFailedError.
        """
        failed = self.failed()
        if not failed:
            return
        errors = [job._return_value for _, job in failed]
        print(table_of(self.returned, failed), file=sys.stderr)
        raise _verdict(errors, len(self.returned))


def _restored(compute: Batch) -> Task:
    config.register()
    return Task(compute)


def explained(error: OSError) -> ConfigError:
    """A folder that cannot be used, in words; any other error of the system is raised again."""
    if error.errno not in UNUSABLE:
        raise error
    place = f"{str(error.filename)[:200]} cannot be used"
    return ConfigError(f"{place}: {error.strerror}. Choose another output= (in a sweep: hydra.sweep.subdir=).")


def table_of(jobs: Sequence[JobReturn], failed: Sequence[tuple[int, JobReturn]]) -> str:
    """Failed jobs as lines: number, the overrides that tell jobs apart, and why."""
    shared = set.intersection(*(set(job.overrides or ()) for job in jobs)) if len(jobs) > 1 else set()
    rows = [("job", "overrides", "why")]
    for number, job in failed:
        words = " ".join(word for word in job.overrides or () if word not in shared)
        rows.append((str(number), words, _first_line(job._return_value)))
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {number:>{wide[0]}}  {words:{wide[1]}}  {why}" for number, words, why in rows]
    return "\n".join([f"\n{len(failed)} of {len(jobs)} jobs failed:", *lines])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _verdict(errors: Sequence[Exception], n_jobs: int) -> Exception:
    """One error for a sweep. One that jaxalign did not raise on purpose is a bug, and goes out as it is."""
    unexpected = [error for error in errors if not isinstance(error, JaxalignError)]
    if unexpected or n_jobs == 1:
        return (unexpected or errors)[0]
    if len(errors) == n_jobs and len({error.exit_code for error in errors if isinstance(error, JaxalignError)}) == 1:
        return type(errors[0])(f"All {n_jobs} jobs failed. The first: {errors[0]}")
    return UnitsFailedError(
        f"{len(errors)} of {n_jobs} jobs failed and are listed above; the others have their results. The same command tries again only what is missing."
    )
