"""Arrays of one call: a padded block of fits, a padded tile of targets, and the null that goes with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jaxalign.contracts import (
    Array,
    Average,
    Design,
    Features,
    Null,
    Patterns,
    Rdms,
    RdmSet,
    Recording,
    Responses,
    RunConfig,
)
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis
from jaxalign.runtime.targets import Tile, average_of

KINDS = ("cells", "averages")


def features_block(
    fits: list[tuple[Inputs, int]], width: int, rows: np.ndarray | None, n_padded: int
) -> Features | Rdms:
    """Features of some fits of one padded width, zero padded in width and number.

    Args:
        fits: where each is read, and its index there.
        width: padded width; 0 for given RDMs.
        rows: stimuli that are placed; None for all.
        n_padded: fits of the block, padding included.
    """
    first = fits[0][0].read(fits[0][1], rows)
    read = (first if place == 0 else inputs.read(fit, rows) for place, (inputs, fit) in enumerate(fits))
    if width == 0:
        rdms = np.zeros((len(first), n_padded), np.float32)
        for place, values in enumerate(read):
            rdms[:, place] = values
        return Rdms(rdms)
    block = np.zeros((n_padded, len(first), width), np.float32)
    widths = np.ones(n_padded, np.int32)
    for place, values in enumerate(read):
        block[place, :, : values.shape[1]] = values
        widths[place] = values.shape[1]
    return Features(block, widths)


def local_design(analysis: Analysis, design: Design) -> Design:
    """The design with its stimuli numbered as they are placed."""
    if analysis.rows is None:
        return design
    return replace(design, rsa_rows=np.arange(len(analysis.rows), dtype=np.int32))


def responses_tile(analysis: Analysis, inputs: Inputs, run: RunConfig, tile: Tile) -> Responses | Patterns | Rdms:
    """Responses of one tile, of the stimuli that are placed, subjects innermost, zero padded in number."""
    brain = inputs.brain
    n_subjects = analysis.shape.n_subjects
    if isinstance(brain, RdmSet):
        return Rdms(_joined([brain.values.T[:, index, None] for index in range(n_subjects)], tile.n_padded))
    if analysis.side == "patterns":
        return Patterns(
            _joined([recording.values[analysis.rows][:, :, _consecutive(tile)] for recording in brain], tile.n_padded)
        )
    if tile.kind == "averages":
        averages = [run.averages[group] for group in tile.groups]
        return Responses(_joined([_averaged(recording, averages) for recording in brain], tile.n_padded))
    flat = [recording.values.reshape(len(recording.values), -1) for recording in brain]
    return Responses(_joined([values[:, _consecutive(tile)] for values in flat], tile.n_padded))


def _consecutive(tile: Tile) -> slice:
    """Groups of a tile, which follow each other: a view of them instead of a copy."""
    return slice(int(tile.groups[0]), int(tile.groups[-1]) + 1) if len(tile.groups) else slice(0, 0)


def _joined(parts: list[np.ndarray], n_groups: int) -> np.ndarray:
    """One (..., n_real) per subject -> (..., n_groups * n_subjects) float32, subjects innermost, padding zero."""
    out = np.zeros((*parts[0].shape[:-1], n_groups, len(parts)), np.float32)
    for index, part in enumerate(parts):
        out[..., : part.shape[-1], index] = part
    return out.reshape(*out.shape[:-2], -1)


def _averaged(recording: Recording, averages: list[Average]) -> np.ndarray:
    """Declared averages as columns; none for a tile of padding only. -> (n_stimuli, n_averages)"""
    columns = [average_of(recording, one) for one in averages]
    return np.stack(columns, axis=1) if columns else np.zeros((len(recording.values), 0), np.float32)


def n_families(n_subjects: int) -> int:
    """Families that a unit may hold: each subject, and their mean, of each kind of target."""
    return len(KINDS) * (n_subjects + (n_subjects > 1))


def family_name(index: int, subjects: tuple[str, ...]) -> tuple[str, str]:
    """Subject (or "mean") and kind of target of a family."""
    per_kind = n_families(len(subjects)) // len(KINDS)
    kind, member = divmod(index, per_kind)
    return (subjects[member] if member < len(subjects) else "mean"), KINDS[kind]


def families(tile: Tile, n_subjects: int) -> np.ndarray:
    """Family of each cell: targets (groups x subjects), then the mean over subjects of each group; -1 for padding."""
    per_kind = n_families(n_subjects) // len(KINDS)
    first = KINDS.index(tile.kind) * per_kind
    is_real = np.arange(tile.n_padded) < len(tile.groups)
    targets = np.where(is_real[:, None], first + np.arange(n_subjects)[None, :], -1).ravel()
    if n_subjects == 1:
        return targets.astype(np.int32)
    return np.concatenate([targets, np.where(is_real, first + n_subjects, -1)]).astype(np.int32)


def aggregates(tile: Tile, n_subjects: int) -> np.ndarray:
    """Mean over subjects of each group, as weights. -> (n_targets, n_aggregates); none with one subject"""
    if n_subjects == 1:
        return np.zeros((tile.n_padded, 0), np.float32)
    return np.repeat(np.eye(tile.n_padded, dtype=np.float32), n_subjects, axis=0) / n_subjects


def null_of(analysis: Analysis, rows: Array, tiles: list[Tile]) -> Null:
    """The null of one call, for the tiles that lie side by side on the target axis."""
    n_subjects = analysis.shape.n_subjects
    family = np.concatenate([families(tile, n_subjects) for tile in tiles])
    return Null(rows, aggregates(tiles[0], n_subjects), family, n_families(n_subjects), analysis.is_calibrated)
