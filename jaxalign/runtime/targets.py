"""Targets of an analysis: what they are called, in which groups, and the tiles that one call takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.contracts import Metric, RdmSet, Recording, RunConfig
from jaxalign.errors import ConfigError, DataError
from jaxalign.runtime.inputs import Inputs
from jaxalign.sources.times import inside


@dataclass(frozen=True)
class Tile:
    """Groups of targets that one call scores. A group holds the same channel and bin of all subjects.

    Attributes:
        index: place in the analysis.
        kind: "cells" or "averages".
        groups: (n_groups,) indices into the groups of that kind.
        n_padded: groups per tile, padding included.
    """

    index: int
    kind: str
    groups: np.ndarray
    n_padded: int


@dataclass(frozen=True)
class Groups:
    """What a kind of target is called: one entry per group.

    Attributes:
        channel: names; "all" for patterns over all channels.
        start_s, stop_s: half-open bins in seconds, NaN without a time.
    """

    channel: tuple[str, ...]
    start_s: np.ndarray
    stop_s: np.ndarray

    def __len__(self) -> int:
        return len(self.channel)


def groups_of(metric: Metric, side: str, run: RunConfig, inputs: Inputs) -> dict[str, Groups]:
    brain = inputs.brain
    nothing = np.full(1, np.nan)
    if isinstance(brain, RdmSet):
        return {"cells": Groups(("all",), nothing, nothing)}
    first = brain[0]
    if side == "patterns":
        _check_repetitions(first)
        if len(first.channels) < metric.least_width:
            raise ConfigError(
                f"A pattern over channels needs at least {metric.least_width} channels here; the recording has {len(first.channels)}."
            )
        return {"cells": Groups(("all",) * len(first.starts_s), first.starts_s, first.stops_s)}
    n_times = len(first.starts_s)
    channel = tuple(name for name in first.channels for _ in range(n_times))
    cells = Groups(channel, np.tile(first.starts_s, len(first.channels)), np.tile(first.stops_s, len(first.channels)))
    if not run.averages:
        return {"cells": cells}
    starts = np.array([average.start_s for average in run.averages])
    stops = np.array([average.stop_s for average in run.averages])
    return {"cells": cells, "averages": Groups(tuple(average.name for average in run.averages), starts, stops)}


def _check_repetitions(recording: Recording) -> None:
    """Refuse an RDM over averages of unequal numbers of trials: their noise differs, and so do their distances."""
    scored = recording.n_repetitions[recording.is_test] if recording.is_test.any() else recording.n_repetitions
    if scored.min() != scored.max():
        raise DataError(
            f"subject {recording.subject}: the scored stimuli were presented {scored.min()} to {scored.max()} times. An RDM "
            "over unequal repetitions mixes noise with distance: keep the same number for each stimulus."
        )


def average_of(recording: Recording, average: Any) -> np.ndarray:
    """Responses averaged over the declared channels and window. -> (n_stimuli,)

    Raises:
        ConfigError: if a channel is not recorded or no bin starts inside the window.
    """
    missing = [name for name in average.channels if name not in recording.channels]
    if missing or not average.channels:
        raise ConfigError(
            f"The average {average.name!r} names {missing[0] if missing else 'no channel'}: the recording has {', '.join(recording.channels)}."
        )
    step = float(recording.stops_s[0] - recording.starts_s[0])
    bins = inside(recording.starts_s, 1 / step, average.start_s, average.stop_s)
    if not bins.any():
        raise ConfigError(
            f"The average {average.name!r}: no bin starts inside [{average.start_s}, {average.stop_s}) s; bins run from {recording.starts_s[0]:.3f} to {recording.stops_s[-1]:.3f} s."
        )
    rows = [recording.channels.index(name) for name in average.channels]
    return recording.values[:, rows][:, :, bins].mean((1, 2), dtype=np.float64).astype(np.float32)


def tiles_of(groups: dict[str, Groups], padded: dict[str, int]) -> tuple[Tile, ...]:
    tiles: list[Tile] = []
    for kind, group in groups.items():
        for start in range(0, len(group), padded[kind]):
            members = np.arange(start, min(start + padded[kind], len(group)))
            tiles.append(Tile(len(tiles), kind, members, padded[kind]))
    return tuple(tiles)
