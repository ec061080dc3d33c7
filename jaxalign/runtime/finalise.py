"""The finishing pass, when all units are there: family maxima, corrected p, ceilings, best layers, the final table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxalign.compute.inference import p_corrected
from jaxalign.contracts import RunConfig
from jaxalign.results import ceilings as ceiling_table
from jaxalign.results import table
from jaxalign.results.files import replacing
from jaxalign.runtime import ceilings, findings, folder, rows, tiles
from jaxalign.runtime.bounds import Ceilings
from jaxalign.runtime.inputs import Inputs
from jaxalign.runtime.plan import Plan, Unit

Families = dict[str, np.ndarray]
"""family_id -> (n_permutations + 1,) maxima over all its units."""


def finish(output: Path, run: RunConfig, plan: Plan, inputs: Inputs) -> dict[str, Any]:
    """Write the final table and the summary, from the units on disk; repeating it gives the same bytes.

    Returns:
        The summary.
    """
    tables = {unit.unit_id: table.read_parquet(folder.rows_file(output, unit.unit_id)) for unit in plan.units}
    families = _families(output, plan)
    sizes = _sizes(tables)
    failed = [unit for unit in plan.units if tables[unit.unit_id].column("status")[0].as_py() == "failed"]
    bounds = {
        index: ceilings.of_analysis(analysis, plan.design[index], run, inputs)
        for index, analysis in enumerate(plan.analyses)
    }
    finished = {}
    for unit in plan.units:
        complete = not any(one.analysis == unit.analysis for one in failed)
        columns = _tested(tables[unit.unit_id], plan, unit, families, sizes, complete)
        columns |= _ceiling_columns(bounds[unit.analysis], plan, unit, tables[unit.unit_id])
        finished[unit.unit_id] = _with(tables[unit.unit_id], columns)
    _write(output / table.SCORES_FILE, [finished[unit.unit_id] for unit in plan.units])
    ceiling_table.write(_ceiling_rows(run, plan, inputs, bounds), output / ceiling_table.CEILINGS_FILE)
    why = [
        {
            "unit_id": unit.unit_id,
            "why": f"{inputs.fits[unit.fit].name}: NaN or Inf for targets that vary, also with the rescue solver",
        }
        for unit in failed
    ]
    summary = findings.summarise(run, plan, inputs, finished, families, bounds, why)
    table.write_json_atomic(summary, output / table.SUMMARY_FILE)
    return summary


def _families(output: Path, plan: Plan) -> Families:
    """Combine the maxima of all units."""
    found: Families = {}
    for unit in plan.units:
        analysis = plan.analyses[unit.analysis]
        maxima = folder.read_maxima(output, unit.unit_id)
        maxima = maxima.reshape(len(analysis.metric.statistics), -1, maxima.shape[-1])
        for statistic, of_statistic in zip(analysis.metric.statistics, maxima, strict=True):
            for index, one in enumerate(of_statistic):
                subject, kind = tiles.family_name(index, plan.subjects)
                key = f"{analysis.name}/{statistic}/{subject}/{kind}"
                found[key] = np.maximum(found[key], one) if key in found else one
    return found


def _sizes(tables: dict[str, pa.Table]) -> dict[str, int]:
    """Cells with a defined score in each family."""
    sizes: dict[str, int] = defaultdict(int)
    for part in tables.values():
        defined = ~np.isnan(part.column("value").to_numpy())
        names, counts = np.unique(
            part.column("family_id").to_pandas().astype(str).to_numpy()[defined], return_counts=True
        )
        for name, count in zip(names, counts, strict=True):
            sizes[str(name)] += int(count)
    return sizes


def tested_column(is_calibrated: bool, tail: str, part: pa.Table) -> np.ndarray:
    """Observed scores on the scale of the family maxima. -> (n_rows,)"""
    tested = part.column("z" if is_calibrated else "value").to_numpy()
    return np.abs(tested) if tail == "two-sided" else tested


def _tested(
    part: pa.Table, plan: Plan, unit: Unit, families: Families, sizes: dict[str, int], complete: bool
) -> dict[str, Any]:
    """Corrected p, family size and whether the family is complete, row by row."""
    analysis = plan.analyses[unit.analysis]
    tested = tested_column(analysis.is_calibrated, analysis.metric.tail, part)
    family = part.column("family_id").to_pandas().astype(str).to_numpy()
    corrected = np.full(len(tested), np.nan)
    for name in np.unique(family):
        mine = family == name
        corrected[mine] = p_corrected(tested[mine], families[str(name).split("/", 1)[1]])
    corrected = corrected if complete else np.full(len(tested), np.nan)
    return {
        "p_corrected": corrected.astype(np.float32),
        "family_size": np.array([sizes[str(name)] for name in family], np.int32),
        "family_complete": np.full(len(tested), complete),
    }


def _ceiling_columns(bounds: Ceilings, plan: Plan, unit: Unit, part: pa.Table) -> dict[str, Any]:
    """Ceilings of the rows of a unit, statistics outermost."""
    analysis = plan.analyses[unit.analysis]
    tile, statistics = analysis.tiles[unit.tile], analysis.metric.statistics
    values = np.split(part.column("value").to_numpy(), len(statistics))
    found = [
        bounds.columns(tile.kind, statistic, tile, value) for statistic, value in zip(statistics, values, strict=True)
    ]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _ceiling_rows(run: RunConfig, plan: Plan, inputs: Inputs, bounds: dict[int, Ceilings]) -> Iterator[dict[str, Any]]:
    """Every ceiling that was asked for and found, as columns of the table of ceilings."""
    for index, analysis in enumerate(plan.analyses):
        for kind, of_kind in bounds[index].kinds.items():
            every = np.arange(len(analysis.groups[kind]))
            labels = rows.labels(analysis.groups[kind], every, plan.subjects)
            for one in of_kind:
                for statistic, recipe in one.names.items():
                    low, high, above = one.cells(statistic, every)
                    yield labels | {
                        "dataset": run.dataset.name,
                        "metric": analysis.name,
                        "statistic": statistic,
                        "recipe": recipe,
                        "level": one.level,
                        "folds": one.folds,
                        "n_stimuli": one.n_stimuli,
                        "n_repetitions": one.n_repetitions,
                        "low": low,
                        "high": high,
                        "is_above_chance": above,
                        "divides": one.divides,
                        "is_simulated": inputs.is_simulated,
                    }


def _with(part: pa.Table, columns: dict[str, Any]) -> pa.Table:
    """Rows with some columns replaced."""
    for name, values in columns.items():
        index = part.schema.get_field_index(name)
        field = part.schema.field(index)
        array = pa.array(values)
        array = array.dictionary_encode() if pa.types.is_dictionary(field.type) else array.cast(field.type)
        part = part.set_column(index, field, array)
    return part


def _write(path: Path, parts: list[pa.Table]) -> None:
    """One row group per unit, in the order of the plan."""
    with replacing(path) as file, pq.ParquetWriter(file, table.SCHEMA, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part)
