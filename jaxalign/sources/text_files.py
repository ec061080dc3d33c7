"""Texts in a table: one stimulus per row, one or more columns of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.sources.files import find
from jaxalign.sources.media import GROUP, ID, Listing, checked_ids, checked_index, content_sha256, labels
from jaxalign.sources.rows import rows_of


@dataclass(frozen=True)
class Texts:
    """Texts of a table.

    Attributes:
        path: CSV or, with the suffix .tsv or .tab, TSV file in UTF-8 with a header: stimulus_id, columns of text and, if
            folds must not split some stimuli, group. A relative path is looked for here and under the data folders.
        columns: columns of text to keep; all when empty.
    """

    path: str = ""
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))

    @cached_property
    def _file(self) -> Path:
        if not self.path:
            raise ConfigError(
                f"The texts are nowhere: set stimuli.path=FILE.csv with the column {ID} and columns of text."
            )
        return find(self.path)

    @cached_property
    def _rows(self) -> list[tuple[int, dict[str, str]]]:
        """(line, column -> text), unique by id and with all columns that are kept."""
        rows = rows_of(self._file, (ID,))
        ids, places = [row[ID].strip() for _, row in rows], [f"line {line}" for line, _ in rows]
        checked_ids(ids, places, str(self._file), "Give each row its own.")
        has = [column for column in rows[0][1] if column not in (ID, GROUP)]
        if not has:
            raise DataError(f"{self._file} has the column {ID} and no text: add a column of text.")
        for column in self.columns:
            if column not in has:
                raise ConfigError(f"{self._file} has no column of text {column!r}. {nearest(column, has)}")
        return rows

    def ids(self) -> tuple[str, ...]:
        """Stimulus ids in the order of the rows.

        Raises:
            ConfigError: if no file is named, or a column is not there.
            DataError: if the file is missing or no such table, or two rows have one id.
        """
        return tuple(row[ID].strip() for _, row in self._rows)

    def groups(self) -> np.ndarray | None:
        """(n_stimuli,) number of each stimulus' group, or None where the table names no groups."""
        if GROUP not in self._rows[0][1]:
            return None
        return labels([row[GROUP].strip() for _, row in self._rows])

    def content_sha256(self) -> str:
        """Digest of the bytes of the file."""
        return content_sha256(Listing((self._file.name,), (self._file,), None))

    def texts(self) -> Iterator[dict[str, str]]:
        """Stimuli in order, column -> text; see `text`."""
        return (self.text(index) for index in range(len(self.ids())))

    def text(self, index: int) -> dict[str, str]:
        """One stimulus: column -> text, as it is in the file.

        Args:
            index: position among the ids.
        Raises:
            DataError: if one of its texts is blank; others can still be read.
        """
        line, row = self._rows[checked_index(index, len(self._rows))]
        kept = {name: row[name] for name in self.columns or [name for name in row if name not in (ID, GROUP)]}
        for column, text in kept.items():
            if not text.strip():
                raise DataError(
                    f"{self._file}, line {line}: the text of {row[ID].strip()!r} in column {column!r} is blank. Fill it, leave the "
                    "stimulus out, or name the columns that are read in stimuli.columns."
                )
        return kept
