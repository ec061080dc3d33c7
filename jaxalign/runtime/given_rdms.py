"""Given RDMs of models against recordings or RDMs: matched by the names of stimuli, by position only where nothing names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.compute.gram import pair_index
from jaxalign.contracts import RdmSet, Recording
from jaxalign.errors import DataError, nearest
from jaxalign.sources.rdm_files import RdmFile

Brain = list[Recording] | RdmSet | None


@dataclass(frozen=True)
class Matched:
    """RDMs of a model for the stimuli of a data set.

    Attributes:
        read: per RDM, rows of the data set (None for all that are compared) -> (n_pairs,) float32, their upper triangle.
        values: per RDM, (n_pairs,) of all stimuli that are compared.
        note: how they were matched, where a reader must know.
    """

    read: tuple[Callable[[np.ndarray | None], np.ndarray], ...]
    values: tuple[np.ndarray, ...]
    note: str


def is_named(source: Any) -> bool:
    """Whether a data set or model names its stimuli; an RDM file without names numbers them."""
    return not isinstance(source, RdmFile) or bool(source.stimulus_ids or source.stimulus_descriptor)


def matched(
    name: str, entry: RdmFile, rdms: RdmSet, brain: Brain, stimulus_ids: tuple[str, ...], dataset: Any
) -> Matched:
    """Bring RDMs into the order of a data set.

    Args:
        name: of the model's entry, for messages.
        entry: names its stimuli, or does not.
        rdms: read from it.
        brain: recordings or RDMs; None before it is simulated.
        stimulus_ids: of the data set, in order.
        dataset: its settings.
    Raises:
        DataError: if a stimulus that is compared has no row, or, without names, there are more or fewer.
    """
    compared = _compared(brain, len(stimulus_ids))
    if is_named(entry) and is_named(dataset):
        rows, note = _by_name(name, rdms.stimulus_ids, [stimulus_ids[index] for index in compared]), ""
    else:
        rows, note = _by_position(name, rdms, compared, stimulus_ids)
    index = np.full(len(stimulus_ids), -1)
    index[compared] = rows
    pairs = pair_index(len(rdms.stimulus_ids))
    values = tuple(_part(one, rows, pairs) for one in rdms.values)
    read = tuple(_reader(one, held, index, pairs) for one, held in zip(values, rdms.values, strict=True))
    return Matched(read, values, note)


def _compared(brain: Brain, n_stimuli: int) -> np.ndarray:
    """Rows whose dissimilarities are compared: the test set of a recording that has one, else all."""
    if isinstance(brain, list) and brain[0].is_test.any():
        return np.flatnonzero(brain[0].is_test)
    return np.arange(n_stimuli)


def _by_name(name: str, held: tuple[str, ...], wanted: list[str]) -> np.ndarray:
    place = {one: index for index, one in enumerate(held)}
    missing = [one for one in wanted if one not in place]
    if missing:
        raise DataError(
            f"model.{name} has RDMs of {len(held)} stimuli, and {len(missing)} of the {len(wanted)} that are compared are not "
            f"among them, first {missing[0]!r}. {nearest(missing[0], held)}"
        )
    return np.array([place[one] for one in wanted])


def _by_position(
    name: str, rdms: RdmSet, compared: np.ndarray, stimulus_ids: tuple[str, ...]
) -> tuple[np.ndarray, str]:
    n_held = len(rdms.stimulus_ids)
    if n_held == len(stimulus_ids):
        return compared, "The RDM files name no stimuli: rows are matched by position."
    if n_held == len(compared):
        return np.arange(n_held), (
            f"The RDMs of model.{name} name no stimuli: their {n_held} rows are taken as the test stimuli, in order."
        )
    test = "" if len(compared) == len(stimulus_ids) else f", {len(compared)} of them the test set"
    raise DataError(
        f"model.{name} has RDMs of {n_held} stimuli and the data set has {len(stimulus_ids)}{test}: both must be ordered by "
        "the same stimuli. Name them with stimulus_ids= a file, or stimulus_descriptor= of rsatoolbox, to match them by name."
    )


def _part(condensed: np.ndarray, rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The upper triangle of some rows of an RDM, in their order; `pairs` is the `pair_index` of all. -> (n_pairs of rows,)"""
    first, second = np.triu_indices(len(rows), 1)
    return condensed[pairs[rows[first], rows[second]]]


def _reader(
    values: np.ndarray, held: np.ndarray, index: np.ndarray, pairs: np.ndarray
) -> Callable[[np.ndarray | None], np.ndarray]:
    return lambda rows: values if rows is None else _part(held, index[rows], pairs)
