"""What a run starts from: responses and features of the same stimuli, in the same order, on the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.contracts import Fit, RdmSet, Recording, RunConfig
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models import SOURCES
from jaxalign.models.given import Metadata
from jaxalign.runtime import stream
from jaxalign.sources.checks import check_same_stimuli
from jaxalign.sources.rdm_files import RdmFile
from jaxalign.sources.simulated import SimulatedEeg


@dataclass(frozen=True)
class Inputs:
    """Everything that decides the numbers of a run.

    Attributes:
        brain: recordings, one per subject, or given RDMs.
        fits: labels of all layers.
        features: per fit, (n_stimuli, width) activations, or (n_pairs,) of a given RDM.
        is_rdm: per fit, whether it is a given RDM.
        model_of: name of the configuration entry each fit belongs to.
        groups: (n_stimuli,) labels that folds never split, or None.
        identity: of data and models, as JSON values.
    """

    brain: list[Recording] | RdmSet
    fits: list[Fit]
    features: list[np.ndarray]
    is_rdm: list[bool]
    model_of: list[str]
    groups: np.ndarray | None
    identity: dict[str, Any]

    @property
    def stimulus_ids(self) -> tuple[str, ...]:
        return self.brain.stimulus_ids if isinstance(self.brain, RdmSet) else self.brain[0].stimulus_ids

    @property
    def is_simulated(self) -> bool:
        return not isinstance(self.brain, RdmSet) and any(recording.is_simulated for recording in self.brain)


def gather(run: RunConfig, progress: Any) -> Inputs:
    """Read recordings, and read or extract the activations of the same stimuli.

    Raises:
        DataError: if the two sides do not belong together.
        ConfigError: if a model cannot be used with this data set.
    """
    is_simulator = isinstance(run.dataset, SimulatedEeg)
    brain = None if is_simulator else _read(run.dataset)
    pictures = run.stimuli
    if is_simulator and pictures is None:
        raise ConfigError("A simulated data set needs pictures to show: add stimuli=pictures.")
    stimulus_ids = pictures.ids() if brain is None else _ids(brain)
    parts = [
        part for name, entry in run.model.items() for part in _features(name, entry, run, brain, stimulus_ids, progress)
    ]
    fits, features, is_rdm, model_of, identities = map(list, zip(*parts, strict=True))
    _check_fits(fits)
    if brain is None:
        named = {(fit.model, fit.layer, fit.pooling): values for fit, values in zip(fits, features, strict=True)}
        brain = run.dataset.recordings(stimulus_ids, named)
    for fit, values in zip(fits, features, strict=True):
        _check_features(fit, values, stimulus_ids)
    origin = brain.origin if isinstance(brain, RdmSet) else [recording.origin for recording in brain]
    identity = {"brain": origin, "models": {fit.name: one for fit, one in zip(fits, identities, strict=True)}}
    return Inputs(brain, fits, features, is_rdm, model_of, _groups(pictures), identity)


def _read(dataset: Any) -> list[Recording] | RdmSet:
    if isinstance(dataset, RdmFile):
        return dataset.rdms()
    recordings = dataset.recordings()
    check_same_stimuli(recordings)
    return recordings


def _ids(brain: list[Recording] | RdmSet) -> tuple[str, ...]:
    return brain.stimulus_ids if isinstance(brain, RdmSet) else brain[0].stimulus_ids


def _groups(pictures: Any) -> np.ndarray | None:
    return None if pictures is None else pictures.groups()


Part = tuple[Fit, np.ndarray, bool, str, dict[str, Any]]


def _features(
    name: str, entry: Any, run: RunConfig, brain: Any, stimulus_ids: tuple[str, ...], progress: Any
) -> Iterator[Part]:
    """Fits of one model entry with their values, by the kind of the entry."""
    if isinstance(entry, Metadata):
        yield from _from_metadata(name, entry, brain)
    elif isinstance(entry, RdmFile):
        yield from _from_rdms(name, entry, stimulus_ids)
    elif isinstance(entry, tuple(SOURCES.values())):
        stimuli = _stimuli(brain, run.stimuli)
        for fit, values, identity in stream.activations(entry, stimuli, stimulus_ids, run.store, progress):
            yield fit, values, False, name, identity
    else:
        raise ConfigError(f"model.{name} is a {type(entry).__name__}, which is no model.")


def _stimuli(brain: Any, pictures: Any) -> dict[str, Any]:
    """Functions that give the stimuli anew, by kind: only a model that needs them pays for decoding."""
    kinds: dict[str, Any] = {}
    if pictures is not None:
        kinds["image"] = pictures.images
    if isinstance(brain, list) and brain[0].columns:
        columns = {column: [str(value) for value in values] for column, values in brain[0].columns.items()}
        kinds["text"] = lambda: (
            {column: values[row] for column, values in columns.items()} for row in range(len(brain[0].stimulus_ids))
        )
    return kinds


def _from_metadata(name: str, entry: Metadata, brain: Any) -> Iterator[Part]:
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
        yield Fit(entry.name, "", column, 0.0, "none", 1), values, False, name, {"column": column}


def _from_rdms(name: str, entry: RdmFile, stimulus_ids: tuple[str, ...]) -> Iterator[Part]:
    rdms = entry.rdms()
    if len(rdms.stimulus_ids) != len(stimulus_ids):
        raise DataError(
            f"model.{name} has RDMs of {len(rdms.stimulus_ids)} stimuli and the data set has {len(stimulus_ids)}: both must be ordered by the same stimuli."
        )
    for layer, values in zip(rdms.names, rdms.values, strict=True):
        yield Fit(layer, entry.revision, "rdm", 0.0, "none", 0), values, True, name, dict(rdms.origin)


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
