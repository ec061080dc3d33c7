"""From a request to a frozen list of units: which fits meet which targets, in tiles of one shape, and in how many bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxalign.contracts import Design, Metric, RdmSet, RunConfig
from jaxalign.errors import ConfigError
from jaxalign.runtime import budget
from jaxalign.runtime.budget import Shape, Sizes, padded_width
from jaxalign.runtime.designs import design_of
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.null import n_permutations_of
from jaxalign.runtime.targets import Groups, Tile, groups_of, tiles_of

SCHEMA_VERSION = 3


@dataclass(frozen=True)
class Analysis:
    """One metric against all its fits and targets.

    Attributes:
        name: of the metric entry, the column `metric`.
        metric: frozen metric.
        side: what the responses are given as: "responses", "patterns" or "rdms".
        fits: indices into the fits of the run.
        widths: padded width of each of them; 0 for given RDMs.
        groups: kind of target -> its groups.
        tiles: in order.
        sizes: of the calls.
        rows: stimuli that are placed on the devices; None for all.
        shape: what decides its bytes and operations.
        is_calibrated: family maxima run over null-calibrated scores.
        n_bytes: name of a buffer -> bytes on one device, for the largest call.
    """

    name: str
    metric: Metric
    side: str
    fits: tuple[int, ...]
    widths: tuple[int, ...]
    groups: dict[str, Groups]
    tiles: tuple[Tile, ...]
    sizes: Sizes
    rows: np.ndarray | None
    shape: Shape
    is_calibrated: bool
    n_bytes: dict[str, int]

    def width_of(self, fit: int) -> int:
        """Padded width of a fit."""
        return self.widths[self.fits.index(fit)]

    def shape_name(self, tile: Tile, fit: int) -> str:
        """Shape of a call on one device: fits x groups of targets."""
        return f"{self.sizes.fits[self.width_of(fit)]}x{tile.n_padded}"

    def calls(self, n_fit_devices: int = 1) -> int:
        """Blocks of fits that go through the devices one after the other."""
        counts = Counter(self.widths)
        return sum(-(-n // (self.sizes.fits[width] * n_fit_devices)) for width, n in counts.items())


@dataclass(frozen=True)
class Unit:
    """The smallest piece that is computed, written and resumed: one fit against one tile of targets."""

    unit_id: str
    analysis: int
    fit: int
    tile: int


@dataclass(frozen=True)
class Plan:
    """A frozen run.

    Attributes:
        run_hash: of everything that decides the numbers.
        subjects: names, innermost axis of the targets.
        analyses, units: in order.
        design: rows that fit, choose and score, per analysis.
        arrays: name -> bytes of arrays that stay on the host.
    """

    run_hash: str
    subjects: tuple[str, ...]
    analyses: tuple[Analysis, ...]
    units: tuple[Unit, ...]
    design: tuple[Design, ...]
    arrays: dict[str, int]


def run_identity(run: RunConfig, inputs: Inputs) -> dict[str, Any]:
    """Everything that decides the scores, as JSON values; not where things lie nor how many devices there are.

    Ceilings are made of the recordings in the finishing pass, which is done again when others are asked for.
    """
    asked = dataclasses.asdict(run)
    tile = {key: asked["mesh"][key] for key in ("fits_per_call", "targets_per_call")}
    kept = {
        key: value
        for key, value in asked.items()
        if key not in ("output", "store", "mesh", "dist", "profile", "report", "force", "ceiling")
    }
    # Files are known by their content, which is in the identity of the data.
    kept["dataset"] = _without_path(kept["dataset"])
    kept["model"] = {name: _without_path(entry) for name, entry in kept["model"].items()}
    return {"schema_version": SCHEMA_VERSION, "request": {**kept, "tile": tile}, "data": inputs.identity}


def _without_path(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "path"}


def hash_of(content: Any) -> str:
    """Short content hash of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def make_plan(run: RunConfig, inputs: Inputs, memory_bytes: int, kept: Mapping[str, Sizes] | None = None) -> Plan:
    """Decide every unit, shape and byte before anything starts.

    Args:
        run: the request.
        inputs: data and features.
        memory_bytes: what one device may hold.
        kept: name of an analysis -> sizes of a run that is resumed.
    Raises:
        ConfigError: if the smallest tile does not fit; says how much would.
        DataError: if there are too few stimuli for the folds.
    """
    run_hash = hash_of(run_identity(run, inputs))
    designs = tuple(design_of(metric, run, inputs) for metric in run.metric.values())
    analyses = tuple(
        _analysis(name, design, run, inputs, memory_bytes, (kept or {}).get(name))
        for name, design in zip(run.metric, designs, strict=True)
    )
    units = tuple(
        Unit(_unit_id(run_hash, analysis, fit, tile, inputs), index, fit, tile.index)
        for index, analysis in enumerate(analyses)
        for fit in analysis.fits
        for tile in analysis.tiles
    )
    return Plan(run_hash, subjects_of(inputs), analyses, units, designs, _arrays(inputs))


def _unit_id(run_hash: str, analysis: Analysis, fit: int, tile: Tile, inputs: Inputs) -> str:
    content = [run_hash, analysis.name, inputs.fits[fit].name, tile.index, analysis.shape_name(tile, fit)]
    return f"{analysis.name}-{hash_of(content)}"


def subjects_of(inputs: Inputs) -> tuple[str, ...]:
    """Subjects in column order."""
    brain = inputs.brain
    return brain.names if isinstance(brain, RdmSet) else tuple(recording.subject for recording in brain)


def _arrays(inputs: Inputs) -> dict[str, int]:
    """Bytes of what stays on the host: recordings with their trials, and features that no store holds."""
    brain = inputs.brain
    kept = [brain.values] if isinstance(brain, RdmSet) else [recording.values for recording in brain]
    trials = [] if isinstance(brain, RdmSet) else [recording.trials for recording in brain]
    return {
        "recordings": sum(values.nbytes for values in kept),
        "trials": sum(values.nbytes for values in trials if values is not None),
        "features": sum(inputs.n_resident),
    }


def _analysis(
    name: str, design: Design, run: RunConfig, inputs: Inputs, memory_bytes: int, kept: Sizes | None
) -> Analysis:
    metric = _with_its_permutations(name, design, run, inputs)
    models = run.score.get(name, list(run.model))
    fits = tuple(index for index, owner in enumerate(inputs.model_of) if owner in models)
    side = _side(name, metric, inputs)
    _check_fits(name, metric, side, [inputs.fits[fit] for fit in fits], [inputs.is_rdm[fit] for fit in fits])
    groups = groups_of(metric, side, run, inputs)
    widths = tuple(padded_width(inputs.fits[fit].width) for fit in fits)
    rows = np.asarray(design.rsa_rows) if side == "patterns" else None
    shape = Shape(
        metric=metric,
        side=side,
        design=design,
        n_rows=len(inputs.stimulus_ids) if rows is None else len(rows),
        n_channels=1 if isinstance(inputs.brain, RdmSet) or side != "patterns" else len(inputs.brain[0].channels),
        n_subjects=len(subjects_of(inputs)),
    )
    if kept is None:
        counts = {kind: len(group) for kind, group in groups.items()}
        sizes = budget.choose(name, shape, dict(Counter(widths)), counts, run.mesh, memory_bytes)
    else:
        sizes = kept
        budget.check_kept(name, shape, sizes, memory_bytes)
    n_targets = max(sizes.groups.values()) * shape.n_subjects
    return Analysis(
        name=name,
        metric=metric,
        side=side,
        fits=fits,
        widths=widths,
        groups=groups,
        tiles=tiles_of(groups, sizes.groups),
        sizes=sizes,
        rows=rows,
        shape=shape,
        is_calibrated=not (metric.tail == "two-sided" and len(fits) == 1),
        n_bytes=max(
            (budget.of_call(shape, width, n_fits, n_targets) for width, n_fits in sizes.fits.items()),
            key=lambda buffers: sum(buffers.values()),
        ),
    )


def _with_its_permutations(name: str, design: Design, run: RunConfig, inputs: Inputs) -> Metric:
    """The metric with as many permutations as its scheme has, where these are fewer than it asks for."""
    metric = run.metric[name]
    n_permutations = n_permutations_of(metric, _side(name, metric, inputs), design, run, inputs)
    if n_permutations == metric.n_permutations:
        return metric
    return dataclasses.replace(metric, n_permutations=n_permutations)


def _side(name: str, metric: Metric, inputs: Inputs) -> str:
    """How this metric is given the responses."""
    if isinstance(inputs.brain, RdmSet):
        if not metric.takes_rdms:
            raise ConfigError(f"metric.{name} needs {metric.takes} and this data set holds given RDMs: use rsa.")
        return "rdms"
    return metric.takes


def _check_fits(name: str, metric: Metric, side: str, fits: list[Any], is_rdm: list[bool]) -> None:
    if not fits:
        raise ConfigError(f"metric.{name} has no model to score: check score.{name}.")
    if not metric.takes_rdms and any(is_rdm):
        raise ConfigError(
            f"metric.{name} needs features, and {fits[is_rdm.index(True)].name} is a given RDM: use rsa for it, or leave it out with score.{name}."
        )
    if any(is_rdm) != all(is_rdm):
        raise ConfigError(
            f"metric.{name} scores given RDMs together with features: name them in two metrics with score."
        )
    widths = {fit.width for fit in fits}
    if metric.tail == "two-sided" and widths != {1}:
        raise ConfigError(
            f"metric.{name} takes features of width 1 and got widths {sorted(widths)}: name single features with score.{name}, or use ridge or rsa."
        )
    narrow = [] if all(is_rdm) else [fit for fit in fits if fit.width < metric.least_width]
    if side == "patterns" and narrow:
        raise ConfigError(
            f"metric.{name}: {narrow[0].name} has width {narrow[0].width}, and {metric.least_width} units are needed: leave it out with score.{name}, or take another distance."
        )
