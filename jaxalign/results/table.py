"""The long table: one row per fit x subject x channel x time bin x statistic, in Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.results.files import replacing

WORD = pa.dictionary(pa.int32(), pa.string())
"""Type of a column of words, each kept once."""

KEYS = (
    "dataset", "subject", "model", "revision", "layer", "layer_depth", "pooling", "metric", "statistic",
    "channel", "time_start_s", "time_stop_s", "unit_id",
)  # fmt: skip

SCHEMA = pa.schema(
    [
        ("dataset", WORD),
        ("subject", WORD),
        ("model", WORD),
        ("revision", WORD),
        ("layer", WORD),
        ("layer_depth", pa.float32()),
        ("pooling", WORD),
        ("metric", WORD),
        ("statistic", WORD),
        ("channel", WORD),
        ("time_start_s", pa.float32()),
        ("time_stop_s", pa.float32()),
        ("unit_id", WORD),
        ("value", pa.float32()),
        ("z", pa.float32()),
        ("ceiling_low", pa.float32()),
        ("ceiling_high", pa.float32()),
        ("ceiling_recipe", WORD),
        ("is_ceiling_above_chance", pa.bool_()),
        ("value_normalised", pa.float32()),
        ("n_stimuli", pa.int32()),
        ("n_repetitions", pa.int32()),
        ("n_permutations", pa.int32()),
        ("exceed_count", pa.int32()),
        ("p", pa.float32()),
        ("p_floor", pa.float32()),
        ("p_corrected", pa.float32()),
        ("family_id", WORD),
        ("family_size", pa.int32()),
        ("family_complete", pa.bool_()),
        ("fold_values", pa.list_(pa.float32())),
        ("alpha", pa.float32()),
        ("alpha_edge", pa.int8()),
        ("validation", pa.float32()),
        ("solver", WORD),
        ("precision", WORD),
        ("tile", WORD),
        ("status", WORD),
        ("is_simulated", pa.bool_()),
    ]
)
"""Column -> type. NaN times mean a target without a time; channel "all" means a pattern over all channels."""

SCORES_FILE = "scores.parquet"
SUMMARY_FILE = "summary.json"


def to_table(columns: dict[str, Any], schema: pa.Schema = SCHEMA, counted: str = "value") -> pa.Table:
    """Columns as an Arrow table of a schema; a single value is repeated over the rows, which `counted` counts."""
    n_rows = len(columns[counted])
    arrays = []
    for field in schema:
        column = columns[field.name]
        if isinstance(column, (str, int, float, bool)) or column is None:
            column = [column] * n_rows
        if isinstance(column, pa.Array | pa.DictionaryArray):
            arrays.append(column)
        elif field.type == WORD:
            arrays.append(pa.array(list(column), pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(column, field.type))
    return pa.table(arrays, schema=schema)


def write_atomic(table: pa.Table, path: Path) -> None:
    """Write a Parquet file that is there whole or not at all."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def write_json_atomic(content: Any, path: Path) -> None:
    """Write a JSON file that is there whole or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True).encode())


def read_parquet(path: Path) -> pa.Table:
    """One results file.

    Raises:
        DataError: if the file is missing or cut short.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist. Run the command that makes it, or name the output folder of a finished run."
        )
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is not a whole Parquet file: {error}. It was cut short or "
            "overwritten. Delete it and run the same command again: only what is missing is computed."
        ) from error


class Frame(pd.DataFrame):
    """A table of scores that also converts to a labelled array."""

    @property
    def _constructor(self) -> type[Frame]:
        return Frame

    def to_xarray(self, value: str = "value") -> Any:
        """One variable as an xarray.DataArray over those keys that vary, each row at its own place.

        Args:
            value: the column to lay out, such as "value", "z" or "p_corrected".
        Raises:
            ConfigError: if two rows fall on one place; select rows with `where=` first.
        """
        keys = [key for key in KEYS if key in self and key not in ("unit_id", "layer_depth", "revision")]
        varying = [key for key in keys if self[key].nunique(dropna=False) > 1 and key != "time_stop_s"]
        plain = pd.DataFrame(self)[[*varying, value]]
        for key in varying:
            if isinstance(plain[key].dtype, pd.CategoricalDtype):
                plain = plain.assign(**{key: plain[key].astype(str)})
        repeated = plain.duplicated(varying).sum()
        if repeated:
            raise ConfigError(
                f"{repeated} of {len(plain)} rows share their keys {varying}: select one of them with where= before to_xarray()."
            )
        array = plain.set_index(varying)[value].to_xarray()
        array.attrs.update({key: str(self[key].iloc[0]) for key in keys if key not in varying and len(self)})
        return array


def load(
    folder: str | Path,
    columns: Sequence[str] | None = None,
    where: dict[str, Any] | None = None,
) -> Frame:
    """Scores of a finished run, or of all jobs of a sweep.

    Args:
        folder: output folder of a run or of a sweep, or a Parquet file.
        columns: columns to read; all by default.
        where: column -> value or list of values; only matching rows are read from disk.
    Returns:
        One row per fit x subject x channel x time bin x statistic, with the columns of `SCHEMA`, and for a sweep `job`, the
        name of the job's folder; `.to_xarray()` lays one column out over the keys that vary.
    Raises:
        DataError: if there is no table, one is cut short, or jobs of a sweep have none yet.
        ConfigError: if a column does not exist.
    """
    path = Path(folder)
    if path.is_dir() and not (path / SCORES_FILE).is_file():
        jobs = _jobs(path)
        if jobs:
            frames = [load(job, columns, where) for job in jobs]
            names = np.repeat([job.name for job in jobs], [len(frame) for frame in frames])
            together = pd.concat([pd.DataFrame(frame).astype(_plain(frame)) for frame in frames], ignore_index=True)
            return Frame(together.assign(job=pd.Categorical(names)))
    path = path / SCORES_FILE if path.is_dir() or not path.suffix else path
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: {path.parent} holds no finished run. Run jaxalign first, or name its output folder."
        )
    for name in [*(columns or ()), *(where or {})]:
        if name not in SCHEMA.names:
            raise ConfigError(f"The table has no column {name!r}. {nearest(name, SCHEMA.names)}")
    try:
        table = ds.dataset(path, format="parquet").to_table(
            columns=None if columns is None else list(columns), filter=_filter(where or {})
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is cut short or damaged: {error}. Run the same command again to rewrite it."
        ) from error
    return Frame(table.to_pandas())


def _jobs(sweep: Path) -> list[Path]:
    """Folders of the jobs of a sweep, in order; none where there are no tables.

    Raises:
        DataError: naming jobs that were begun and have no table.
    """
    done = sorted(file.parent for file in sweep.glob(f"*/{SCORES_FILE}"))
    begun = sorted({file.parent for file in sweep.glob("*/run.json")} - set(done))
    if done and begun:
        raise DataError(
            f"{sweep}: {len(begun)} of {len(begun) + len(done)} jobs are not finished, first {begun[0].name}. Run the same "
            "sweep again, or load the folders of its jobs one by one."
        )
    return done


def _plain(frame: pd.DataFrame) -> dict[str, str]:
    """Columns of categories as words: those of other jobs are others."""
    return {name: "object" for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)}


def _filter(where: dict[str, Any]) -> Any:
    """The rows to keep, as one Arrow expression; None keeps all."""
    keep = None
    for name, wanted in where.items():
        values = list(wanted) if isinstance(wanted, (list, tuple, set, np.ndarray)) else [wanted]
        field_type = SCHEMA.field(name).type
        value_type = pa.string() if field_type == WORD else field_type
        term = pc.field(name).cast(value_type).isin(pa.array(values, value_type))
        keep = term if keep is None else keep & term
    return keep


def summary(folder: str | Path) -> dict[str, Any]:
    """Families, best layers and provenance of a finished run, as its finishing pass wrote them.

    Raises:
        DataError: if it is missing or damaged.
    """
    path = Path(folder) / SUMMARY_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist: the run has not finished. Run the same command again.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is damaged: {error}. Run the same command again to rewrite it."
        ) from error
