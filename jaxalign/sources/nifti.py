"""Volumes with a table of what was shown at each: patterns per condition, averaged over volumes and runs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxalign.contracts import Recording
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.checks import check_recording
from jaxalign.sources.files import find, sha256
from jaxalign.sources.rows import rows_of
from jaxalign.sources.volumes import open_series, read_map, same_space

NORMALISATIONS = ("sd", "zscore", "none")


class Attributes(NamedTuple):
    """What was shown at each volume: (n_volumes,) conditions, and (n_volumes,) runs."""

    condition: np.ndarray
    run: np.ndarray


@dataclass(frozen=True)
class Nifti:
    """A series of volumes of one subject. A stimulus is a condition, a channel is a voxel of the mask, and there is no time.

    Attributes:
        name: data set name in the table of results.
        path: .nii, .nii.gz, .mgh or .mgz file of volumes, absolute or under a data folder.
        mask: file of one volume; its voxels above 0 are the channels.
        attributes: table with one row per volume: .csv or .tsv with a header, or .txt of words with none.
        columns: names of the columns of a table without header.
        condition_columns: columns that together name the condition.
        run_column: column of the run; empty takes all volumes as one run.
        leave_out: conditions that are left out, such as rest.
        runs: runs to use; empty takes all.
        subject: subject name.
        normalise: of each voxel within each run, before detrending: "sd" divides by the standard deviation, "zscore"
            subtracts the mean as well, "none" does nothing.
        detrend_order: degree of the polynomial that is taken from each voxel within each run; -1 takes none.
        shift_volumes: volumes by which the response follows what is shown (2 to 3 at a TR of 2 s).
        unit: of the values.
    """

    name: str = "nifti"
    path: str = ""
    mask: str = ""
    attributes: str = ""
    columns: tuple[str, ...] = ("condition", "run")
    condition_columns: tuple[str, ...] = ("condition",)
    run_column: str = "run"
    leave_out: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    subject: str = "01"
    normalise: str = "zscore"
    detrend_order: int = 1
    shift_volumes: int = 0
    unit: str = "a.u."

    def __post_init__(self) -> None:
        for name in ("columns", "condition_columns", "leave_out", "runs"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        if self.normalise not in NORMALISATIONS:
            raise ConfigError(f"dataset.normalise={self.normalise!r}. {nearest(self.normalise, NORMALISATIONS)}")
        if self.shift_volumes < 0 or self.detrend_order < -1 or not self.condition_columns:
            raise ConfigError(
                f"dataset.shift_volumes={self.shift_volumes}, detrend_order={self.detrend_order}, condition_columns={list(self.condition_columns)}: a shift is 0 or more, an order -1 or more, and a condition has a column."
            )

    def recordings(self) -> list[Recording]:
        """Patterns per condition: mean over the volumes of a run, then over runs. -> one Recording

        Raises:
            DataError: if a file is missing or damaged, or mask, table and volumes do not belong together.
            ConfigError: if a run or a condition is asked for that is not there.
        """
        for name in ("path", "mask", "attributes"):
            if not getattr(self, name):
                raise ConfigError(f"dataset.{name} is empty: volumes need a path, a mask and a table of attributes.")
        path, mask, table = find(self.path), find(self.mask), find(self.attributes)
        attributes = self._attributes(table)
        inside = read_map(mask)
        with ExitStack() as stack:
            series = open_series(path, stack)
            same_space(series.space, inside.shape, str(path), str(mask))
            voxels = np.flatnonzero(np.nan_to_num(inside) > 0)
            if not len(voxels):
                raise DataError(f"{mask} has no voxel above 0 among {inside.size}.")
            if series.n_volumes != len(attributes.run):
                raise DataError(
                    f"{path} has {series.n_volumes} volumes and {table} describes {len(attributes.run)}: they need one row per volume."
                )
            values = series.all(voxels)
        kept = np.ones(len(voxels), bool) if self.normalise == "none" else _varies(values, attributes.run)
        values, voxels = values[:, kept], voxels[kept]
        if not len(voxels):
            raise DataError(f"{path}: all {len(kept)} voxels of {mask} are constant in a run.")
        conditions, patterns, counts = self._patterns(values, attributes)
        places = np.stack(np.unravel_index(voxels, inside.shape), 1).tolist()
        return [
            check_recording(
                Recording(
                    dataset=self.name,
                    subject=self.subject,
                    stimulus_ids=conditions,
                    values=patterns[:, :, None].astype(np.float32),
                    channels=tuple(f"voxel-{x}-{y}-{z}" for x, y, z in places),
                    starts_s=np.full(1, np.nan),
                    stops_s=np.full(1, np.nan),
                    unit=self.unit,
                    n_repetitions=counts,
                    is_test=np.zeros(len(conditions), bool),
                    positions=np.full((len(voxels), 3), np.nan),
                    columns={"condition": np.array(conditions)},
                    origin={
                        "file": path.name,
                        "sha256": sha256(path),
                        "mask_sha256": sha256(mask),
                        "attributes_sha256": sha256(table),
                        "runs": list(self._runs(attributes)),
                        "normalise": self.normalise,
                        "detrend_order": self.detrend_order,
                        "shift_volumes": self.shift_volumes,
                        "n_constant_voxels": int((~kept).sum()),
                    },
                )
            )
        ]

    def _attributes(self, table: Path) -> Attributes:
        """Condition and run of each volume."""
        needed = [*self.condition_columns, *([self.run_column] if self.run_column else [])]
        if table.suffix.lower() in (".csv", ".tsv", ".tab"):
            rows = [row for _, row in rows_of(table, needed)]
        else:
            lines = [line.split() for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            wrong = [number for number, line in enumerate(lines, 1) if len(line) != len(self.columns)]
            if wrong or not lines:
                raise DataError(
                    f"{table}, line {wrong[0] if wrong else 1} of {len(lines)}, has {len(lines[wrong[0] - 1]) if wrong else 0} words and dataset.columns names {len(self.columns)}: {', '.join(self.columns)}."
                )
            unknown = [name for name in needed if name not in self.columns]
            if unknown:
                raise ConfigError(
                    f"{unknown[0]!r} is not among dataset.columns. {nearest(unknown[0], self.columns)} {table.name} has no header."
                )
            rows = [dict(zip(self.columns, line, strict=True)) for line in lines]
        condition = np.array(["/".join(row[name] for name in self.condition_columns) for row in rows])
        run = np.array([row[self.run_column] if self.run_column else "0" for row in rows])
        if self.shift_volumes:
            condition = _shifted(condition, run, self.shift_volumes)
        return Attributes(condition, run)

    def _runs(self, attributes: Attributes) -> tuple[str, ...]:
        there = tuple(dict.fromkeys(attributes.run.tolist()))
        missing = [run for run in self.runs if run not in there]
        if missing:
            raise ConfigError(f"dataset.runs names {missing[0]!r}, and the table has {', '.join(there)}.")
        return self.runs or there

    def _patterns(self, values: np.ndarray, attributes: Attributes) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Conditions, their (n_conditions, n_voxels) patterns, and in how many runs each was shown."""
        shown = set(attributes.condition.tolist()) - {""}
        unknown = [name for name in self.leave_out if name not in shown]
        if unknown:
            raise ConfigError(f"dataset.leave_out names {unknown[0]!r}. {nearest(unknown[0], shown)}")
        conditions = tuple(sorted(shown - set(self.leave_out)))
        sums = np.zeros((len(conditions), values.shape[1]))
        counts = np.zeros(len(conditions), np.int32)
        for run in self._runs(attributes):
            rows = attributes.run == run
            cleaned = cleaned_run(values[rows].astype(np.float64), self.normalise, self.detrend_order)
            here = attributes.condition[rows]
            for index, name in enumerate(conditions):
                if (here == name).any():
                    sums[index] += cleaned[here == name].mean(0)
                    counts[index] += 1
        never = [name for name, count in zip(conditions, counts, strict=True) if not count]
        if never:
            raise DataError(
                f"{len(never)} of {len(conditions)} conditions are in none of the runs {', '.join(self._runs(attributes))}, first {never[0]!r}."
            )
        return conditions, sums / counts[:, None], counts


def cleaned_run(values: np.ndarray, normalise: str, detrend_order: int) -> np.ndarray:
    """Voxels of one run, normalised over its volumes, then freed of a slow trend. (n_volumes, n_voxels), same shape

    Args:
        values: volumes of the run.
        normalise: "sd", "zscore" or "none".
        detrend_order: degree of the polynomial that is fitted and taken away; -1 for none.
    """
    if normalise == "zscore":
        values = values - values.mean(0)
    if normalise != "none":
        values = values / values.std(0)
    if detrend_order < 0:
        return values
    trend = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(values)), detrend_order)
    return values - trend @ np.linalg.lstsq(trend, values, rcond=None)[0]


def _varies(values: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Voxels that are finite and not constant in any run. -> (n_voxels,) bool"""
    kept = np.isfinite(values).all(0)
    for name in dict.fromkeys(run.tolist()):
        kept &= np.ptp(values[run == name], axis=0) > 0
    return kept


def _shifted(condition: np.ndarray, run: np.ndarray, n_volumes: int) -> np.ndarray:
    """Conditions moved later within each run; the first volumes of a run then belong to none."""
    moved = np.full(len(condition), "", condition.dtype)
    for name in dict.fromkeys(run.tolist()):
        rows = np.flatnonzero(run == name)
        moved[rows[n_volumes:]] = condition[rows[: max(0, len(rows) - n_volumes)]]
    return moved
