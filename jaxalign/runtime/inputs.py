"""What a run starts from: responses and features of the same stimuli, in the same order, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign import store
from jaxalign.contracts import Fit, RdmSet, Recording, RunConfig
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models import SOURCES
from jaxalign.models.given import Metadata
from jaxalign.models.stored import Stored
from jaxalign.runtime import extraction, frames, given_rdms, stream
from jaxalign.sources.checks import check_same_stimuli
from jaxalign.sources.rdm_files import RdmFile
from jaxalign.sources.simulated import SimulatedEeg


@dataclass(frozen=True)
class Bank(Sequence[np.ndarray]):
    """Features of all fits, each read when it is asked for: what no store holds stays in memory.

    Attributes:
        readers: per fit, rows (None for all) -> (n_rows, width) float32, or (n_pairs,) of a given RDM.
        n_resident: per fit, bytes that stay in memory.
    """

    readers: tuple[Callable[[np.ndarray | None], np.ndarray], ...]
    n_resident: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, fit: Any) -> Any:
        return self.readers[fit](None)


@dataclass(frozen=True)
class Inputs:
    """Everything that decides the numbers of a run.

    Attributes:
        brain: recordings, one per subject, or given RDMs.
        fits: labels of all layers.
        features: per fit, (n_stimuli, width) activations, or (n_pairs,) of a given RDM; a Bank reads them on demand.
        is_rdm: per fit, whether it is a given RDM.
        model_of: name of the configuration entry each fit belongs to.
        groups: (n_stimuli,) labels that folds never split, or None.
        identity: of data and models, as JSON values.
        notes: what a reader must know of how they were read.
        weight_bytes: name of a network -> bytes of its weights, which are on the devices while it is extracted.
    """

    brain: list[Recording] | RdmSet
    fits: list[Fit]
    features: Sequence[np.ndarray]
    is_rdm: list[bool]
    model_of: list[str]
    groups: np.ndarray | None
    identity: dict[str, Any]
    notes: tuple[str, ...] = ()
    weight_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def stimulus_ids(self) -> tuple[str, ...]:
        return self.brain.stimulus_ids if isinstance(self.brain, RdmSet) else self.brain[0].stimulus_ids

    @property
    def is_simulated(self) -> bool:
        return not isinstance(self.brain, RdmSet) and any(recording.is_simulated for recording in self.brain)

    @property
    def n_resident(self) -> tuple[int, ...]:
        """Bytes per fit that stay in memory."""
        if isinstance(self.features, Bank):
            return self.features.n_resident
        return tuple(values.nbytes for values in self.features)

    def read(self, fit: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Features of one fit, of some stimuli or of all. -> (n_rows, width) float32, or (n_pairs,)"""
        if isinstance(self.features, Bank):
            return self.features.readers[fit](rows)
        values = self.features[fit]
        return values if rows is None else values[rows]


def gather(run: RunConfig, progress: Any, shared: dict[str, Any] | None = None, is_dry: bool = False) -> Inputs:
    """Read recordings, and find or extract the activations of the same stimuli.

    Args:
        run: the request.
        progress: called with a sentence and a fraction done.
        shared: what runs of one sweep have in common (recordings, models) is kept here and not read twice.
        is_dry: extract and simulate nothing; features cannot be read then.
    Raises:
        DataError: if the two sides do not belong together.
        ConfigError: if a model cannot be used with this data set.
    """
    shared = {} if shared is None else shared
    is_simulator = isinstance(run.dataset, SimulatedEeg)
    brain = None if is_simulator else _brain(run, shared)
    pictures = run.stimuli
    if is_simulator and pictures is None:
        raise ConfigError("A simulated data set needs pictures to show: add stimuli=pictures.")
    stimulus_ids = pictures.ids() if brain is None else _ids(brain)
    way = _Way(run, brain, stimulus_ids, progress, shared, is_dry)
    parts = [part for name, entry in run.model.items() for part in _features(name, entry, way)]
    _check_fits([part.fit for part in parts])
    if brain is None:
        brain = _simulated(run, stimulus_ids, parts, shared, is_dry)
    brain = _selected(brain, run.subject)
    origin = brain.origin if isinstance(brain, RdmSet) else [recording.origin for recording in brain]
    return Inputs(
        brain=brain,
        fits=[part.fit for part in parts],
        features=Bank(tuple(part.read for part in parts), tuple(part.n_resident for part in parts)),
        is_rdm=[part.is_rdm for part in parts],
        model_of=[part.entry for part in parts],
        groups=_groups(pictures, stimulus_ids, frames.frames_of(brain)),
        identity={"brain": origin, "models": {part.fit.name: part.identity for part in parts}},
        notes=tuple(dict.fromkeys(part.note for part in parts if part.note)),
        weight_bytes={part.entry: part.n_weight_bytes for part in parts if part.n_weight_bytes},
    )


def extract(run: RunConfig, name: str, progress: Any, shared: dict[str, Any]) -> Path:
    """Extract one model of a request for its stimuli, or those of its data set, into a store.

    Args:
        name: of the model's entry.
        progress: called with a sentence and a fraction done.
        shared: recordings and stimuli are kept here, and read once for all models of a request.
    Returns:
        The folder of the store.
    Raises:
        ConfigError: if the entry is no network, or there are no stimuli of its kind.
        DataError: if stimuli cannot be read; the rest is kept.
    """
    entry = run.model[name]
    if not isinstance(entry, tuple(SOURCES.values())):
        raise ConfigError(
            f"model.{name} is no network: its features come with the recording, or are in a store already."
        )
    is_simulator = run.dataset is None or isinstance(run.dataset, SimulatedEeg)
    brain = None if is_simulator else _brain(run, shared)
    stimuli = _stimuli(brain, run.stimuli)
    source = extraction.open_for(entry, stimuli, run.mesh)
    return extraction.extracted(source, _shown(run, source.takes, stimuli, shared), run.store, progress)


def no_column(option: str, name: str, brain: Any) -> str:
    """What is said of a column that the recording has not: its reason where there is one, else the nearest names.

    Args:
        option: with its value, such as "null.column='runs'".
        name: of the column.
        brain: recordings, or given RDMs.
    """
    columns = {} if isinstance(brain, RdmSet) else brain[0].columns
    reason = "" if isinstance(brain, RdmSet) else brain[0].lacks.get(name, "")
    if not reason:
        return f"{option} is no column of the recording. {nearest(name, columns)}"
    return f"{option}: there is no column {name!r}, since {reason}. The columns are: {', '.join(columns)}."


NAME_THEM = "name them by a table with the columns stimulus_id and file (stimuli.table=FILE.csv)."


def _groups(stimuli: Any, stimulus_ids: tuple[str, ...], of_frames: frames.Frames | None) -> np.ndarray | None:
    """Groups of the recording's rows, in its order; None where there are none. Frames of a sequence are always one group."""
    groups = None if stimuli is None else stimuli.groups()
    if of_frames is None:
        return None if groups is None else _groups_of(stimuli.ids(), groups, stimulus_ids)
    names, number = np.unique(of_frames.sequences, return_inverse=True)
    return number if groups is None else _groups_of(stimuli.ids(), groups, tuple(names.tolist()))[number]


def _groups_of(held: tuple[str, ...], groups: Any, stimulus_ids: tuple[str, ...]) -> np.ndarray:
    """Groups of some of the held stimuli."""
    rows = stream.rows_by_id("The stimulus set", held, stimulus_ids, NAME_THEM)
    return np.asarray(groups) if rows is None else np.asarray(groups)[rows]


@dataclass(frozen=True)
class _Way:
    """What finding the features of any entry needs to know."""

    run: RunConfig
    brain: Any
    stimulus_ids: tuple[str, ...]
    progress: Any
    shared: dict[str, Any]
    is_dry: bool


@dataclass(frozen=True)
class _Part:
    """One fit: its label, how it is read, and where it comes from."""

    fit: Fit
    read: Callable[[np.ndarray | None], np.ndarray]
    n_resident: int
    is_rdm: bool
    entry: str
    identity: dict[str, Any]
    note: str = ""
    n_weight_bytes: int = 0


def _once(shared: dict[str, Any], key: str, make: Callable[[], Any]) -> Any:
    """What was made under this key before, or is made now."""
    if key not in shared:
        shared[key] = make()
    return shared[key]


def _brain(run: RunConfig, shared: dict[str, Any]) -> list[Recording] | RdmSet:
    """The recordings of a data set, read once for all runs of a sweep."""
    found: list[Recording] | RdmSet = _once(shared, f"brain {run.dataset}", lambda: _read(run.dataset))
    return found


def _shown(
    run: RunConfig, kind: str, stimuli: dict[str, Callable[[], extraction.Shown]], shared: dict[str, Any]
) -> extraction.Shown:
    """Stimuli of one kind, listed and hashed once for all models."""
    found: extraction.Shown = _once(shared, f"stimuli {kind} {run.stimuli} {run.dataset}", stimuli[kind])
    return found


def _simulated(
    run: RunConfig, stimulus_ids: tuple[str, ...], parts: list[_Part], shared: dict[str, Any], is_dry: bool
) -> list[Recording]:
    """Simulated recordings; the same object for all runs of a sweep that plant the same layers of the same models."""
    if is_dry:
        return run.dataset.layout(stimulus_ids)
    planted = {(plant.model, plant.layer, plant.pooling) for plant in run.dataset.plants}
    named = {(part.fit.model, part.fit.layer, part.fit.pooling): part for part in parts}
    identities = {str(key): named[key].identity for key in sorted(planted & named.keys())}
    key = f"simulated {run.dataset} {run.stimuli} {identities if run.dataset.effect else None}"
    return _once(shared, key, lambda: run.dataset.recordings(stimulus_ids, _Named(named)))


@dataclass(frozen=True)
class _Named(Mapping[tuple[str, str, str], np.ndarray]):
    """Features by (model, layer, pooling), read when they are asked for."""

    parts: dict[tuple[str, str, str], _Part]

    def __getitem__(self, key: tuple[str, str, str]) -> np.ndarray:
        return self.parts[key].read(None)

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _selected(brain: list[Recording] | RdmSet, subject: Any) -> list[Recording] | RdmSet:
    """The subjects that were asked for, in the order of the data set; all when none is named.

    Raises:
        ConfigError: if a subject is not in the data set.
    """
    if not subject:
        return brain
    names = brain.names if isinstance(brain, RdmSet) else tuple(recording.subject for recording in brain)
    wanted = [_subject_named(str(one), names) for one in subject]
    kept = [index for index, name in enumerate(names) if name in wanted]
    if isinstance(brain, RdmSet):
        return replace(brain, names=tuple(names[index] for index in kept), values=brain.values[kept])
    return [brain[index] for index in kept]


def _subject_named(name: str, names: tuple[str, ...]) -> str:
    """A subject by its name, or by its number without leading zeros."""
    if name in names:
        return name
    found = [one for one in names if name.isdigit() and one.isdigit() and int(one) == int(name)]
    if len(found) != 1:
        raise ConfigError(
            f"subject={name}: the data set has no such subject among its {len(names)}. {nearest(name, names)}"
        )
    return found[0]


def _read(dataset: Any) -> list[Recording] | RdmSet:
    if isinstance(dataset, RdmFile):
        return dataset.rdms()
    recordings = dataset.recordings()
    check_same_stimuli(recordings)
    return recordings


def _ids(brain: list[Recording] | RdmSet) -> tuple[str, ...]:
    return brain.stimulus_ids if isinstance(brain, RdmSet) else brain[0].stimulus_ids


def _features(name: str, entry: Any, way: _Way) -> Iterator[_Part]:
    """Fits of one model entry, by the kind of the entry."""
    if isinstance(entry, Metadata):
        yield from _from_metadata(name, entry, way)
    elif isinstance(entry, RdmFile):
        yield from _from_rdms(name, entry, way)
    elif isinstance(entry, Stored):
        found, of_frames = stream.stored_fits(entry, way.stimulus_ids), frames.frames_of(way.brain)
        if of_frames is not None:
            frames.check_store(str(found[0].folder), store.stimulus_ids(found[0].folder), of_frames)
        yield from _from_store(name, found, way)
    elif isinstance(entry, tuple(SOURCES.values())):
        yield from _from_network(name, entry, way)
    else:
        raise ConfigError(f"model.{name} is a {type(entry).__name__}, which is no model.")


def _from_network(name: str, entry: Any, way: _Way) -> Iterator[_Part]:
    stimuli = _stimuli(way.brain, way.run.stimuli)
    key = f"network {entry} {hash(way.stimulus_ids)}"
    source = _once(way.shared, key, lambda: extraction.open_for(entry, stimuli, way.run.mesh))
    of_frames = frames.frames_of(way.brain)
    frames.check_model(name, source.bin_s, source.takes, of_frames)
    if way.is_dry:
        size = source.n_weight_bytes
        yield from (_Part(fit, _not_read, 0, False, name, source.identity, "", size) for fit in source.fits)
        return
    shown = _shown(way.run, source.takes, stimuli, way.shared)
    rows, note = _matched(source, shown, way, of_frames)
    folder = extraction.extracted(source, shown, way.run.store, way.progress)
    found = [stream.StoredFit(fit, fit, folder, rows, source.identity, note) for fit in source.fits]
    yield from _from_store(name, found, way)


def _matched(
    source: Any, shown: extraction.Shown, way: _Way, of_frames: frames.Frames | None
) -> tuple[np.ndarray | None, str]:
    """Rows of what a model is shown that belong to the recording, and a note."""
    if of_frames is not None and source.bin_s is not None:
        return frames.matched(extraction.rows_of(source.bin_s, shown)[1], way.stimulus_ids, of_frames)
    rows = stream.rows_by_id("The stimulus set", shown.ids, way.stimulus_ids, NAME_THEM)
    return rows, "" if rows is None else "Stimuli were matched to the recording by their ids, not by their order."


def _from_store(name: str, found: list[stream.StoredFit], way: _Way) -> Iterator[_Part]:
    """Fits that a store holds; checked by what its manifest says, read when they are asked for."""
    for one in found:
        read = partial(_read_stored, one)
        if not way.is_dry and stream.must_be_checked(one.folder, one.stored):
            _check_features(one.fit, read(None), way.stimulus_ids)
        yield _Part(one.fit, read, 0, False, name, one.identity, one.note)


def _read_stored(one: stream.StoredFit, rows: np.ndarray | None) -> np.ndarray:
    """Features of some stimuli of the recording, wherever the store has them."""
    if rows is not None and one.rows is not None:
        rows = one.rows[rows]
    return stream.read_fit(one.folder, one.stored, one.rows if rows is None else rows)


def _not_read(rows: np.ndarray | None) -> np.ndarray:
    raise AssertionError("features are not read while planning")


def _held(values: np.ndarray) -> Callable[[np.ndarray | None], np.ndarray]:
    """A reader of values that stay in memory."""
    return lambda rows: values if rows is None else values[rows]


def _stimuli(brain: Any, stimuli: Any) -> dict[str, Callable[[], extraction.Shown]]:
    """Functions that give the stimuli, by kind: only a model that needs them pays for reading them."""
    kinds: dict[str, Callable[[], extraction.Shown]] = {}
    if isinstance(brain, list) and brain[0].columns:
        columns = {column: [str(value) for value in values] for column, values in brain[0].columns.items()}

        def row(index: int) -> dict[str, str]:
            return {column: values[index] for column, values in columns.items()}

        kinds["text"] = lambda: extraction.Shown(brain[0].stimulus_ids, row)
    return kinds if stimuli is None else kinds | extraction.shown_by_kind(stimuli)


def _from_metadata(name: str, entry: Metadata, way: _Way) -> Iterator[_Part]:
    brain = way.brain
    if not isinstance(brain, list) or not brain[0].columns:
        raise ConfigError(f"model.{name} scores metadata columns, but this data set has no metadata.")
    columns = brain[0].columns
    for column in entry.columns:
        if column not in columns:
            raise DataError(f"The recording has no metadata column {column!r}. {nearest(column, columns)}")
        try:
            values = np.asarray(columns[column]).astype(np.float32)[:, None]
        except ValueError as error:
            raise DataError(
                f"The metadata column {column!r} holds {columns[column][0]!r} and is not a number."
            ) from error
        fit = Fit(entry.name, "", column, 0.0, "none", 1)
        _check_features(fit, values, way.stimulus_ids)
        yield _Part(fit, _held(values), values.nbytes, False, name, {"column": column})


def _from_rdms(name: str, entry: RdmFile, way: _Way) -> Iterator[_Part]:
    rdms = entry.rdms()
    found = given_rdms.matched(name, entry, rdms, way.brain, way.stimulus_ids, way.run.dataset)
    for layer, values, read in zip(rdms.names, found.values, found.read, strict=True):
        fit = Fit(layer, entry.revision, "rdm", 0.0, "none", 0)
        _check_features(fit, values, way.stimulus_ids)
        yield _Part(fit, read, values.nbytes, True, name, dict(rdms.origin), found.note)


def _check_fits(fits: list[Fit]) -> None:
    names = [fit.name for fit in fits]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{len(twice)} fits occur more than once, first {twice[0]}: give model entries different names."
        )


def _check_features(fit: Fit, values: np.ndarray, stimulus_ids: tuple[str, ...]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        where = f"stimulus {stimulus_ids[bad[0][0]]!r}, column {bad[0][1]}" if values.ndim == 2 else f"pair {bad[0][0]}"
        raise DataError(
            f"{fit.name}: {len(bad)} of {values.size} features are NaN or Inf, first at {where}. Leave that stimulus out, or check the model's precision."
        )
    is_single = values.ndim == 1 or values.shape[1] == 1
    if is_single and np.ptp(values) == 0:
        what = f"{values.size} pairs" if values.ndim == 1 else f"{values.size} stimuli"
        raise DataError(
            f"{fit.name} is {values.flat[0]:g} for all {what}: a constant correlates with nothing. Leave it out."
        )
    if values.ndim == 2 and len(values) != len(stimulus_ids):
        raise DataError(
            f"{fit.name} has {len(values)} stimuli and the responses have {len(stimulus_ids)}: both must be ordered by the same stimulus ids."
        )
