"""Arrays of one call: a padded block of fits, a padded tile of targets, and the null that goes with it."""

from __future__ import annotations

import numpy as np

from jaxalign.contracts import Average, Features, Null, Patterns, Rdms, RdmSet, Recording, Responses, RunConfig
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Analysis, Plan, Tile, average_of

KINDS = ("cells", "averages")


def features_block(analysis: Analysis, inputs: Inputs, fits: list[int], n_padded: int) -> Features | Rdms:
    """Features of some fits, zero padded in width and number."""
    if inputs.is_rdm[analysis.fits[0]]:
        values = np.zeros((len(inputs.features[analysis.fits[0]]), n_padded), np.float32)
        for place, fit in enumerate(fits):
            values[:, place] = inputs.features[fit]
        return Rdms(values)
    block = np.zeros((n_padded, len(inputs.stimulus_ids), analysis.width), np.float32)
    widths = np.ones(n_padded, np.int32)
    for place, fit in enumerate(fits):
        block[place, :, : inputs.fits[fit].width] = inputs.features[fit]
        widths[place] = inputs.fits[fit].width
    return Features(block, widths)


def responses_tile(analysis: Analysis, inputs: Inputs, run: RunConfig, tile: Tile) -> Responses | Patterns | Rdms:
    """Responses of one tile, subjects innermost, zero padded in number."""
    brain = inputs.brain
    if isinstance(brain, RdmSet):
        return Rdms(_pad(brain.values.T[:, None, :], tile.n_padded))
    if analysis.side == "patterns":
        stacked = np.stack([recording.values[:, :, tile.groups] for recording in brain], axis=-1)
        return Patterns(_pad(stacked, tile.n_padded))
    if tile.kind == "averages":
        averages = [run.averages[group] for group in tile.groups]
        stacked = np.stack([_averaged(recording, averages) for recording in brain], axis=-1)
    else:
        stacked = np.stack(
            [recording.values.reshape(len(recording.values), -1)[:, tile.groups] for recording in brain], axis=-1
        )
    return Responses(_pad(stacked, tile.n_padded))


def _averaged(recording: Recording, averages: list[Average]) -> np.ndarray:
    """Declared averages as columns; none for a tile of padding only. -> (n_stimuli, n_averages)"""
    columns = [average_of(recording, one) for one in averages]
    return np.stack(columns, axis=1) if columns else np.zeros((len(recording.values), 0), np.float32)


def _pad(values: np.ndarray, n_groups: int) -> np.ndarray:
    """(..., n_real, n_subjects) -> (..., n_groups * n_subjects) float32"""
    out = np.zeros((*values.shape[:-2], n_groups, values.shape[-1]), np.float32)
    out[..., : values.shape[-2], :] = values
    return out.reshape(*values.shape[:-2], -1)


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


def null_of(analysis: Analysis, plan: Plan, rows: np.ndarray, tiles: list[Tile]) -> Null:
    """The null of one call, for the tiles that lie side by side on the target axis."""
    n_subjects = len(plan.subjects)
    family = np.concatenate([families(tile, n_subjects) for tile in tiles])
    return Null(rows, aggregates(tiles[0], n_subjects), family, n_families(n_subjects), analysis.is_calibrated)
