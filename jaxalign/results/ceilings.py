"""The table of noise ceilings: one row per recipe x subject x channel x time bin x statistic, in Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxalign.errors import DataError
from jaxalign.results.files import replacing
from jaxalign.results.table import WORD, to_table

CEILINGS_FILE = "ceilings.parquet"

SCHEMA = pa.schema(
    [
        ("dataset", WORD),
        ("subject", WORD),
        ("metric", WORD),
        ("statistic", WORD),
        ("channel", WORD),
        ("time_start_s", pa.float32()),
        ("time_stop_s", pa.float32()),
        ("recipe", WORD),
        ("level", WORD),
        ("folds", WORD),
        ("n_stimuli", pa.int32()),
        ("n_repetitions", pa.float32()),
        ("low", pa.float32()),
        ("high", pa.float32()),
        ("is_above_chance", pa.bool_()),
        ("divides", pa.bool_()),
        ("is_simulated", pa.bool_()),
    ]
)
"""Column -> type. `divides`: low and high are one estimate of what a perfect model reaches, and not a range that holds it."""


def write(parts: Iterable[dict[str, Any]], path: Path) -> None:
    """Write all ceilings of a run, a row group each; the file is there whole or not at all.

    Args:
        parts: columns of each; a single value is repeated over its rows.
        path: the file.
    """
    with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for part in parts:
            writer.write_table(to_table(part, SCHEMA, "low"))


def load_ceilings(folder: str | Path) -> pd.DataFrame:
    """Every noise ceiling that a run computed, also those that its scores were not held against.

    Args:
        folder: output folder of a finished run.
    Returns:
        One row per recipe x subject x channel x time bin x statistic, with the columns of `SCHEMA`; "mean" is the mean over
        subjects.
    Raises:
        DataError: if there is no table or it is cut short.
    """
    path = Path(folder) / CEILINGS_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist: {folder} holds no finished run. Run the same command again.")
    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) is cut short or damaged: {error}. Run the same command again to rewrite it."
        ) from error
