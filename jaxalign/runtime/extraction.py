"""Stimuli through a model into a store: by batches that are kept as they come, shared out over processes, resumed by batch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.contracts import MeshConfig
from jaxalign.errors import ConfigError, DataError
from jaxalign.models import ActivationSource, open_source
from jaxalign.models.placement import Placement
from jaxalign.runtime import budget, dist, mesh, meter
from jaxalign.runtime.pipeline import ahead, behind
from jaxalign.sources.frame_rows import frame_ids, n_frames_of

ROWS_PER_BLOCK = 128
"""Rows that are handed to the store at a time when parts are put together."""

HELD_BATCHES = 12
"""Batches in memory while parts are put together: one per length bucket."""

SHOWN_FAILURES = 5


@dataclass(frozen=True)
class Shown:
    """Stimuli of one kind, decoded one at a time.

    Attributes:
        ids: (n_stimuli,) names.
        get: index -> the decoded stimulus; raises DataError for one that cannot be read.
        durations_s: of sounds, in order; empty for other kinds.
        sha256: digest of their content, where a name alone does not decide it; empty otherwise.
    """

    ids: tuple[str, ...]
    get: Callable[[int], Any]
    durations_s: tuple[float, ...] = ()
    sha256: str = ""


KINDS = {"image": "image", "audio": "sound", "text": "text"}
"""Kind of stimulus -> method of a stimulus set that decodes one."""


def shown_by_kind(stimuli: Any) -> dict[str, Callable[[], Shown]]:
    """What a stimulus set can show: kind -> function that lists its stimuli."""
    return {kind: partial(_shown, stimuli, method) for kind, method in KINDS.items() if hasattr(stimuli, method)}


def _shown(stimuli: Any, method: str) -> Shown:
    durations = tuple(stimuli.durations_s()) if hasattr(stimuli, "durations_s") else ()
    sha256 = stimuli.content_sha256() if hasattr(stimuli, "content_sha256") else ""
    return Shown(stimuli.ids(), getattr(stimuli, method), durations, sha256)


def open_for(
    entry: Any, stimuli: Mapping[str, Callable[[], Shown]], mesh_config: MeshConfig | None = None
) -> ActivationSource:
    """The model of an entry, ready to be shown the stimuli of a data set.

    Args:
        entry: settings of the model.
        stimuli: kind ("image", "audio", "text") -> function that gives the stimuli.
        mesh_config: which devices; all of this process by default.
    Raises:
        ConfigError: if the data set has no stimuli of the kind that the model takes.
    """
    config = mesh_config or MeshConfig()

    def place(n_weight_bytes: int) -> Placement:
        return mesh.placement(config, budget.device_limit(config), n_weight_bytes)

    source = open_source(entry, place)
    if source.takes not in stimuli:
        has = " and ".join(sorted(stimuli)) or "no stimuli"
        raise ConfigError(
            f"{entry.name} takes {source.takes} stimuli, and this data set has {has}. Choose another model or data set."
        )
    return source


def extracted(source: ActivationSource, shown: Shown, root: str, progress: Any) -> Path:
    """The store that holds all layers of a model; they are extracted into it when they are not there.

    Every batch is kept in a file of its own until all are there, so a run that ends early continues behind the last. Of
    several processes each computes its share of the batches; the first puts them together.

    Args:
        source: the open model.
        shown: the stimuli.
        root: folder of stores.
        progress: called with a sentence and a fraction done.
    Raises:
        DataError: if stimuli cannot be read; those that can are kept, and not computed again.
    """
    plan = _Plan.of(source, shown)
    folder = Path(root) / _store_name(source, plan)
    if dist.first_does(lambda: store.matches(folder, plan.identity, plan.row_ids, source.fits)):
        return folder
    parts = folder.with_name(f".{folder.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    try:
        failures = _compute(source, shown, plan, parts, progress)
    finally:
        source.release()  # before anything is scored
    _report(source, shown, dist.gather(failures))
    dist.barrier(f"extracted {folder.name}")
    dist.first_does(lambda: _assemble(source, plan, parts, folder))
    return folder


@dataclass(frozen=True)
class _Plan:
    """Which stimuli are computed together, and which rows they become. The same for every run and number of processes.

    Attributes:
        batches: per batch, indices of stimuli.
        counts: (n_stimuli,) rows of each stimulus.
        row_ids: names of all rows.
        identity: of the model and the stimuli, as JSON values.
    """

    batches: list[np.ndarray]
    counts: np.ndarray
    row_ids: tuple[str, ...]
    identity: dict[str, Any]

    @classmethod
    def of(cls, source: ActivationSource, shown: Shown) -> _Plan:
        counts, row_ids = rows_of(source.bin_s, shown)
        identity = source.identity | ({"stimuli_sha256": shown.sha256} if shown.sha256 else {})
        return cls(_batches(source, shown), counts, row_ids, identity)

    @property
    def starts(self) -> np.ndarray:
        """(n_stimuli,) first row of each stimulus."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]])


def rows_of(bin_s: float | None, shown: Shown) -> tuple[np.ndarray, tuple[str, ...]]:
    """One row per stimulus, or one per time bin of it, named "id@start in seconds"."""
    if bin_s is None:
        return np.ones(len(shown.ids), int), shown.ids
    counts = np.array([n_frames_of(duration, bin_s) for duration in shown.durations_s])
    pairs = zip(shown.ids, counts, strict=True)
    return counts, tuple(frame for name, count in pairs for frame in frame_ids(name, int(count), bin_s))


def _batches(source: ActivationSource, shown: Shown) -> list[np.ndarray]:
    """Stimuli in order, those of one length bucket together."""
    size, n_stimuli = source.batch_size, len(shown.ids)
    buckets = np.array([source.bucket(duration) for duration in shown.durations_s] or [0.0] * n_stimuli)
    found = []
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        found += [members[start : start + size] for start in range(0, len(members), size)]
    return found


def _store_name(source: ActivationSource, plan: _Plan) -> str:
    """One store per model identity and stimulus order."""
    content = json.dumps([plan.identity, plan.row_ids], sort_keys=True)
    name = source.fits[0].model.replace("/", "_")
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


# Computing


def _compute(source: ActivationSource, shown: Shown, plan: _Plan, parts: Path, progress: Any) -> list[list[Any]]:
    """Compute the batches of this process that are not there. -> [index, why] of stimuli that failed."""
    failed: dict[int, str] = {}  # stimulus -> why
    mine = [batch for batch in range(len(plan.batches)) if batch % dist.count() == dist.index()]
    todo = [batch for batch in mine if not _is_whole(_part(parts, batch))]
    n_done = sum(len(plan.batches[batch]) for batch in set(mine) - set(todo))
    n_mine = sum(len(plan.batches[batch]) for batch in mine)
    with ahead(_decoded(todo, shown, plan, failed)) as decoded, behind() as write:
        for batch, stimuli in decoded:
            rows = _forward(source, batch, stimuli, plan, failed)
            if rows is not None:
                write(lambda batch=batch, rows=rows: _keep(_part(parts, batch), rows))  # type: ignore[misc]
            n_done += len(plan.batches[batch])
            progress(f"extract {source.fits[0].model}", n_done / n_mine)
    return [[index, why] for index, why in sorted(failed.items())]


def _decoded(todo: Sequence[int], shown: Shown, plan: _Plan, failed: dict[int, str]) -> Iterator[tuple[int, list[Any]]]:
    """Batches of stimuli, decoded in the reading thread; one with an unreadable stimulus is left for another run."""
    for batch in todo:
        with meter.METER.stage("decode"):
            stimuli = []
            for index in plan.batches[batch]:
                try:
                    stimuli.append(shown.get(int(index)))
                except DataError as error:
                    failed[int(index)] = str(error)
        if len(stimuli) == len(plan.batches[batch]):
            yield batch, stimuli


def _forward(
    source: ActivationSource, batch: int, stimuli: list[Any], plan: _Plan, failed: dict[int, str]
) -> list[np.ndarray] | None:
    """Rows of one batch per fit; the last batch is padded to full size and its padding dropped. None where a stimulus is refused."""
    members = plan.batches[batch]
    with meter.METER.stage("forward"):
        try:
            pooled = source.activations(stimuli + [stimuli[-1]] * (source.batch_size - len(stimuli)))
        except DataError:
            refused = _refused(source, stimuli)
            if not refused:
                raise
            failed.update({int(members[at]): why for at, why in refused.items()})
            return None
        keys = [(fit.layer, fit.pooling) for fit in source.fits]
        return [_real(np.asarray(pooled[key]), plan.counts[members]) for key in keys]


def _refused(source: ActivationSource, stimuli: list[Any]) -> dict[int, str]:
    """Which stimuli of a batch the model refuses, found by showing each alone."""
    found = {}
    for at, stimulus in enumerate(stimuli):
        try:
            source.activations([stimulus] * source.batch_size)
        except DataError as error:
            found[at] = str(error)
    return found


def _real(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of the real stimuli of a batch, one behind the other. -> (sum of counts, width)"""
    if values.ndim == 2:
        return values[: len(counts)]
    return np.concatenate([values[at, :count] for at, count in enumerate(counts)])


def _report(source: ActivationSource, shown: Shown, failures: list[list[list[Any]]]) -> None:
    """Raise one error for all stimuli that failed, on every process alike."""
    together = sorted((index, why) for one in failures for index, why in one)
    if not together:
        return
    lines = [f"  {shown.ids[index]}: {why}" for index, why in together[:SHOWN_FAILURES]]
    more = f"\n  and {len(together) - SHOWN_FAILURES} more" if len(together) > SHOWN_FAILURES else ""
    raise DataError(
        f"{len(together)} of {len(shown.ids)} stimuli could not be shown to {source.fits[0].model}:\n"
        + "\n".join(lines)
        + f"{more}\nBatches without them are kept. Repair or leave out these stimuli, and run the same command again."
    )


# Parts


def _part(parts: Path, batch: int) -> Path:
    return parts / f"batch-{batch:08d}.safetensors"


def _keep(path: Path, rows: list[np.ndarray]) -> None:
    """Write the rows of a batch, whole or not at all."""
    from safetensors.numpy import save

    with meter.METER.stage("write"):
        arrays = {f"{fit:05d}": np.ascontiguousarray(values) for fit, values in enumerate(rows)}
        content = save(arrays)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.write(zlib.crc32(content).to_bytes(4, "big"))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)


def _is_whole(path: Path) -> bool:
    """Whether a batch was written, and is what was written."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return len(content) > 4 and zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "big")


def _read(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    content = path.read_bytes()
    if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "big"):
        raise DataError(f"{path} is damaged: delete it and run the same command again.")
    found: dict[str, np.ndarray] = load(content[:-4])
    return found


def _assemble(source: ActivationSource, plan: _Plan, parts: Path, folder: Path) -> None:
    """One store of all batches, in stimulus order; the parts are deleted when it is whole."""
    if store.matches(folder, plan.identity, plan.row_ids, source.fits):  # another run was faster
        return
    store.write(folder, source.fits, plan.row_ids, plan.identity, _blocks(source, plan, parts))
    shutil.rmtree(parts, ignore_errors=True)


def _blocks(source: ActivationSource, plan: _Plan, parts: Path) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """Rows in order, some at a time; the batches of all length buckets that neighbours come from are held."""
    keys = [(fit.layer, fit.pooling) for fit in source.fits]
    batch_of = np.empty(len(plan.counts), int)
    row_in = np.empty(len(plan.counts), int)
    for batch, members in enumerate(plan.batches):
        batch_of[members] = batch
        row_in[members] = np.concatenate([[0], np.cumsum(plan.counts[members])[:-1]])
    held: dict[int, dict[str, np.ndarray]] = {}
    for start in range(0, len(plan.counts), ROWS_PER_BLOCK):
        stimuli = np.arange(start, min(start + ROWS_PER_BLOCK, len(plan.counts)))
        block: dict[tuple[str, str], list[np.ndarray]] = {key: [] for key in keys}
        for stimulus in stimuli:
            batch = int(batch_of[stimulus])
            if batch not in held:
                if len(held) == HELD_BATCHES:
                    held.pop(next(iter(held)))
                held[batch] = _read(_part(parts, batch))
            rows = slice(row_in[stimulus], row_in[stimulus] + plan.counts[stimulus])
            for fit, key in enumerate(keys):
                block[key].append(held[batch][f"{fit:05d}"][rows])
        yield {key: np.concatenate(values) for key, values in block.items()}
