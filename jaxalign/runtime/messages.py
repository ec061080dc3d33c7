"""What a reader must be told beside the numbers: the data set in figures, and warnings."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from jaxalign.compute.gram import largest_unit_share
from jaxalign.contracts import RdmSet, RunConfig
from jaxalign.runtime import designs
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Plan
from jaxalign.runtime.rows import constant_targets, is_flat_layer
from jaxalign.runtime.selection import is_biased

MASSIVE_SHARE = 0.5
EDGE_SHARE = 0.05


def dataset(run: RunConfig, plan: Plan, inputs: Inputs) -> dict[str, Any]:
    """Size of the data set, and notes of its reader."""
    brain = inputs.brain
    first = None if isinstance(brain, RdmSet) else brain[0]
    notes = list(first.origin.get("notes", [])) if first is not None else []
    return {
        "name": run.dataset.name,
        "n_subjects": len(plan.subjects),
        "n_stimuli": len(inputs.stimulus_ids),
        "n_test": int(first.is_test.sum()) if first is not None else 0,
        "n_channels": len(first.channels) if first is not None else 0,
        "n_times": len(first.starts_s) if first is not None else 0,
        "unit": first.unit if first is not None else "dissimilarity",
        "notes": notes,
    }


def warnings(run: RunConfig, plan: Plan, inputs: Inputs, tables: dict[str, pa.Table]) -> list[str]:
    """Everything that may make a number mean less than it seems."""
    found = [
        *inputs.notes,
        *designs.notes(run, inputs),
        *_biased(plan),
        *_single_unit(plan, inputs),
        *_edges(plan, tables),
        *_flat_predictions(plan, tables),
        *_above_one(tables),
    ]
    n_constant = n_constant_targets(plan, inputs, run)
    if n_constant:
        found.append(f"{n_constant} targets are constant over the scored stimuli: their scores are NaN.")
    return found


def n_constant_targets(plan: Plan, inputs: Inputs, run: RunConfig) -> int:
    """Constant targets, the largest number over analyses (they share the recordings)."""
    counts = [
        sum(int(constant_targets(analysis, tile, inputs, run).sum()) for tile in analysis.tiles)
        for analysis in plan.analyses
    ]
    return max(counts, default=0)


def _biased(plan: Plan) -> list[str]:
    """Measures whose raw scores rank no models."""
    return [
        f"{analysis.name}: {analysis.metric.statistics[0]} of noise lies above 0 and depends on the width of a layer, so models are not ranked by it. Compare layers and models by the column z."
        for analysis in plan.analyses
        if is_biased(analysis)
    ]


def _single_unit(plan: Plan, inputs: Inputs) -> list[str]:
    """Layers whose score is undefined, or mostly the doing of one unit (massive activations)."""
    found = []
    for analysis, design in zip(plan.analyses, plan.design, strict=True):
        if analysis.side == "responses":
            continue
        for fit in analysis.fits:
            if inputs.is_rdm[fit]:
                continue
            if analysis.metric.least_width > 1 and is_flat_layer(inputs, fit, np.asarray(design.rsa_rows)):
                found.append(
                    f"{analysis.name}: {inputs.fits[fit].name} has the same value in all units for some stimuli, so its "
                    "correlation RDM is undefined: its scores are NaN."
                )
                continue
            share = float(largest_unit_share(jnp.asarray(inputs.read(fit, np.asarray(design.rsa_rows)))))
            if share > MASSIVE_SHARE:
                found.append(
                    f"{analysis.name}: one unit of {inputs.fits[fit].name} carries {share:.0%} of its variance over stimuli; the score mostly describes that unit."
                )
    return found


def _edges(plan: Plan, tables: dict[str, pa.Table]) -> list[str]:
    """Share of penalties at an end of the grid, among targets that inner folds could predict at all."""
    found = []
    for index, analysis in enumerate(plan.analyses):
        if not hasattr(analysis.metric, "alphas"):
            continue
        parts = [
            tables[unit.unit_id].select(["alpha_edge", "validation", "statistic"]).to_pandas()
            for unit in plan.units
            if unit.analysis == index
        ]
        first = [part[part["statistic"] == analysis.metric.statistics[0]] for part in parts]
        edge = np.concatenate([part["alpha_edge"].to_numpy() for part in first])
        validation = np.concatenate([part["validation"].to_numpy() for part in first])
        predicted = validation > 0
        share = float((edge[predicted] != 0).mean()) if predicted.any() else 0.0
        if share > EDGE_SHARE:
            null_at_top = float((edge[np.isfinite(validation) & ~predicted] > 0).mean())
            found.append(
                f"{analysis.name}: {share:.0%} of the {int(predicted.sum())} targets with validation r2 > 0 chose a penalty at an end of the grid in some fold: widen it "
                f"with alphas=given and alpha_values. (Of the targets that cannot be predicted, {null_at_top:.0%} are at the top end, as expected.)"
            )
    return found


def _flat_predictions(plan: Plan, tables: dict[str, pa.Table]) -> list[str]:
    """Predictions that do not vary over the test stimuli: they hold no information and score r = 0."""
    found = []
    for index, analysis in enumerate(plan.analyses):
        if not analysis.metric.uses_folds:
            continue
        n_flat = n_scored = 0
        for unit in plan.units:
            if unit.analysis == index:
                rows = tables[unit.unit_id].select(["statistic", "subject", "fold_values"]).to_pandas()
                own = rows[(rows["statistic"] == "pearson_r") & (rows["subject"] != "mean")]
                values = np.stack(own["fold_values"].to_list())
                n_flat += int((values == 0).sum())
                n_scored += values.size
        if n_flat:
            found.append(
                f"{analysis.name}: {n_flat:,} of {n_scored:,} predictions (target x fold) do not vary over the test "
                "stimuli, since the chosen penalty leaves nothing of the weights: they score r = 0."
            )
    return found


def _above_one(tables: dict[str, pa.Table]) -> list[str]:
    """Normalised scores beyond 1: a ceiling is an estimate too."""
    values = np.concatenate([part.column("value_normalised").to_numpy() for part in tables.values()])
    n_above, n_defined = int((values > 1).sum()), int(np.isfinite(values).sum())
    if not n_above:
        return []
    return [
        f"{n_above:,} of {n_defined:,} normalised scores exceed 1 (largest {np.nanmax(values):.3g}), and are kept as they are: a "
        "ceiling is an estimate, and one just above chance a rough one."
    ]
