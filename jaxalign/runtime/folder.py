"""The output folder of a run: whose it is, which units it holds, and where they came from."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from jaxalign.contracts import RdmSet, RunConfig
from jaxalign.errors import ConfigError, DataError
from jaxalign.results import ceilings, table
from jaxalign.runtime import dist, journal
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Plan, Unit, hash_of, run_identity

RUN_FILE = "run.json"
UNITS = "units"
PROFILE_FILE = "profile.json"
FINISHED_FILE = "finished.json"
OWN_FILES = (
    RUN_FILE,
    journal.JOURNAL_FILE,
    table.SCORES_FILE,
    table.SUMMARY_FILE,
    ceilings.CEILINGS_FILE,
    FINISHED_FILE,
    PROFILE_FILE,
    "report.html",
    "channels.json",
)
OF_PROCESSES = ("journal-*.jsonl", "events*.jsonl")
"""What further processes of a run write."""

PACKAGES = (
    "jaxalign",
    "jax",
    "jaxlib",
    "numpy",
    "mne",
    "hydra-core",
    "transformers",
    "torch",
    "tensorstore",
    "pyarrow",
)


def check_is_free(output: Path, run: RunConfig) -> None:
    """Refuse a folder that holds another run, before any work; with force, discard what it holds.

    Raises:
        ConfigError: naming what differs.
    """
    if run.force:
        discard(output)
        return
    held = read_run(output)
    if held is None:
        strangers = [name for name in OWN_FILES if (output / name).exists()]
        if strangers:
            raise ConfigError(
                f"{output} holds {', '.join(strangers)} but no {RUN_FILE}: whose results they are is unknown. Choose another output=, or add force=true to discard them."
            )
        return
    asked = _request_of(run)
    different = sorted(key for key in asked if asked[key] != held["request"].get(key))
    if different:
        key = different[0]
        raise ConfigError(
            f"{output} holds the results of another run ({held['run_hash']}): {', '.join(different)} differ"
            f" ({_first_difference(key, held['request'].get(key), asked[key])}). Choose another output=, or add force=true to discard them."
        )


def check_same_request(output: Path, run: RunConfig) -> None:
    """Make sure that all processes were started with the same command.

    Raises:
        ConfigError: on every process, naming what differs.
    """
    requests = dist.gather({"output": str(output), **_request_of(run)})
    first = requests[0]
    for process, one in enumerate(requests):
        different = sorted(key for key in first if first[key] != one.get(key))
        if different:
            key = different[0]
            raise ConfigError(
                f"The request differs between processes: {', '.join(different)}"
                f" ({_first_difference(key, first[key], one.get(key), ('in process 0', f'in process {process}'))}). Start all processes with the same command."
            )


def _request_of(run: RunConfig) -> dict[str, Any]:
    """The part of the request that decides the numbers, as it is after a journey through JSON."""
    nothing = Inputs([], [], [], [], [], None, {})
    return json.loads(json.dumps(run_identity(run, nothing)["request"], default=str))


def _first_difference(where: str, held: Any, asked: Any, places: tuple[str, str] = ("there", "asked")) -> str:
    if isinstance(held, dict) and isinstance(asked, dict):
        for key in sorted({*held, *asked}):
            if held.get(key) != asked.get(key):
                return _first_difference(f"{where}.{key}", held.get(key), asked.get(key), places)
    return f"{where}: {str(held)[:200]} {places[0]}, {str(asked)[:200]} {places[1]}"


def discard(output: Path) -> None:
    """Remove the files of a run, and nothing else."""
    of_processes = [path for pattern in OF_PROCESSES for path in output.glob(pattern)]
    for path in [*(output / name for name in OWN_FILES), *of_processes, *(output / UNITS).glob("*")]:
        path.unlink(missing_ok=True)


def read_run(output: Path) -> dict[str, Any] | None:
    """run.json of a folder, None when there is none.

    Raises:
        DataError: if it is damaged.
    """
    path = output / RUN_FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged: {error}. Add force=true to discard this folder's results.") from error


def open_run(output: Path, run: RunConfig, plan: Plan, inputs: Inputs) -> None:
    """Write who this folder belongs to, before the first unit.

    Raises:
        ConfigError: if the same request was made of other data.
    """
    held = read_run(output)
    if held is not None and held["run_hash"] != plan.run_hash:
        raise ConfigError(
            f"{output} holds results of the same request on other data or models (run {held['run_hash']}, now {plan.run_hash}). Choose another output=, or add force=true to discard them."
        )
    (output / UNITS).mkdir(exist_ok=True)
    for leftover in [*output.glob(".*.part"), *(output / UNITS).glob(".*.part")]:
        leftover.unlink()  # of a killed process: the lock says that nobody else writes here
    content = {
        "run_hash": plan.run_hash,
        "arithmetic": arithmetic() if held is None else held["arithmetic"],
        "request": _request_of(run),
        "data": inputs.identity,
        "command": " ".join(["jaxalign", *sys.argv[1:]]),
        "versions": versions(),
        "git": git_revision(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "processes": dist.describe(),
        "platform": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "precision": run.precision,
        "sizes": {analysis.name: analysis.sizes.to_json() for analysis in plan.analyses},
        "bytes": {analysis.name: analysis.n_bytes for analysis in plan.analyses},
        "is_simulated": inputs.is_simulated,
        "sessions": [] if held is None else held["sessions"],
    }
    table.write_json_atomic(content, output / RUN_FILE)
    if not isinstance(inputs.brain, RdmSet):
        first = inputs.brain[0]
        places = [None if np.isnan(place).any() else [float(x) for x in place] for place in first.positions]
        table.write_json_atomic(
            {"names": list(first.channels), "positions": places, "unit": first.unit}, output / "channels.json"
        )


def kept_sizes(output: Path) -> dict[str, Any]:
    """Sizes of the calls of a run that was begun here, by analysis; a resumed run goes on with them."""
    held = read_run(output)
    return {} if held is None else held["sizes"]


def plan_digest(plan: Plan) -> str:
    """What all processes of a run must agree on."""
    return hash_of([plan.run_hash, [unit.unit_id for unit in plan.units]])


def arithmetic() -> dict[str, Any]:
    """What decides the last digits beside the plan: equal bytes are promised where all of this is equal."""
    return {
        "device_kind": str(jax.devices()[0].device_kind),
        "cpu_threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jaxlib": version("jaxlib"),
        "is_optimised": not jax.config.read("jax_disable_most_optimizations"),
    }


def check_arithmetic(output: Path, n_missing: int, n_units: int) -> None:
    """Refuse to finish a run under other arithmetic than it was begun with: half of its last digits would differ.

    Raises:
        ConfigError: naming what differs.
    """
    held = read_run(output)
    now = arithmetic()
    if held is None or n_missing in (0, n_units):
        return
    different = [
        f"{key} was {held['arithmetic'].get(key)} and is {now[key]}"
        for key in now
        if held["arithmetic"].get(key) != now[key]
    ]
    if different:
        raise ConfigError(
            f"{output} has {n_units - n_missing} of {n_units} units, computed where {'; '.join(different)}: the last digits of the others would differ. Go on as it was begun, or compute all anew with force=true."
        )


def close_run(output: Path, plan: Plan, n_computed: int, measured: dict[str, Any]) -> None:
    """Note what this session did, and where its time went."""
    content = read_run(output)
    assert content is not None
    session = {"units_computed": n_computed, "units": len(plan.units), "seconds": round(measured["wall_s"], 2)}
    content["sessions"].append(session)
    table.write_json_atomic(content, output / RUN_FILE)
    if n_computed:
        table.write_json_atomic(measured, output / PROFILE_FILE)


def note_finished(output: Path, plan: Plan, run: RunConfig) -> None:
    """Note of which units, ceilings and files the finishing pass was."""
    table.write_json_atomic(_finished(output, plan, run), output / FINISHED_FILE)


def finished_summary(output: Path, plan: Plan, run: RunConfig) -> dict[str, Any] | None:
    """The summary of a finishing pass over these very units with these ceilings, by this version; None when it must be done again."""
    path = output / FINISHED_FILE
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != _finished(output, plan, run):
        return None
    return table.summary(output)


def _finished(output: Path, plan: Plan, run: RunConfig) -> dict[str, Any]:
    """Version, ceilings, units and files that belong together; a file that is not there has no hash."""
    done = journal.verified(output)
    files = {
        name: journal.file_hash(output / name) if (output / name).is_file() else None
        for name in (table.SCORES_FILE, table.SUMMARY_FILE, ceilings.CEILINGS_FILE)
    }
    units = hash_of([done.get(unit.unit_id, {}).get("files") for unit in plan.units])
    return {
        "version": [version("jaxalign"), git_revision()],
        "ceiling": dataclasses.asdict(run.ceiling),
        "units": units,
        "files": files,
    }


def missing_units(output: Path, plan: Plan) -> list[Unit]:
    """Units without whole, journalled files."""
    done = journal.verified(output)
    return [unit for unit in plan.units if done.get(unit.unit_id, {}).get("run_hash") != plan.run_hash]


def rows_file(output: Path, unit_id: str) -> Path:
    return output / UNITS / f"{unit_id}.parquet"


def maxima_file(output: Path, unit_id: str) -> Path:
    return output / UNITS / f"{unit_id}.maxima.parquet"


def commit(output: Path, run_hash: str, unit: Unit, rows: pa.Table, maxima: np.ndarray, process: int = 0) -> None:
    """Make one unit durable: its files first, its journal line last.

    maxima: (n_statistics, n_families, n_permutations + 1)
    """
    table.write_atomic(rows, rows_file(output, unit.unit_id))
    flat = maxima.reshape(-1, maxima.shape[-1])
    columns = pa.table({str(index): pa.array(row) for index, row in enumerate(flat)})
    table.write_atomic(columns, maxima_file(output, unit.unit_id))
    files = {
        str(path.relative_to(output)): journal.file_hash(path)
        for path in (rows_file(output, unit.unit_id), maxima_file(output, unit.unit_id))
    }
    journal.append(output, {"unit_id": unit.unit_id, "run_hash": run_hash, "files": files}, process)


def read_maxima(output: Path, unit_id: str) -> np.ndarray:
    """Family maxima of a unit. -> (n_statistics * n_families, n_permutations + 1)"""
    columns = table.read_parquet(maxima_file(output, unit_id))
    return np.stack([columns.column(index).to_numpy() for index in range(columns.num_columns)])


def versions() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def git_revision() -> str:
    """Revision of the checkout that runs, with + when it has changes; "none" for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "none"
    try:
        revision = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        changes = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return revision.stdout.strip() + ("+" if changes.stdout.strip() else "")


def planted(run: RunConfig) -> list[dict[str, Any]]:
    """Ground truth of a simulated data set; empty for a real one, or without an effect."""
    if not getattr(run.dataset, "effect", 0):
        return []
    return [
        {
            "model": plant.model,
            "layer": plant.layer,
            "time_start_s": plant.start_s,
            "time_stop_s": plant.stop_s,
            "channels": list(plant.channels),
            "effect": run.dataset.effect,
        }
        for plant in run.dataset.plants
    ]
