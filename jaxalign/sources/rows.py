"""Rows of tables in text files (CSV, TSV), strictly: every row has as many fields as the header, and none is lost."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxalign.errors import DataError, nearest

TABBED = (".tsv", ".tab")
"""Suffixes, in lower case, of files that are separated by tabs."""

SHOWN = 12
"""Columns of a table that a message lists at most."""


def rows_of(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV (or, by its suffix .tsv or .tab, TSV) file in UTF-8 with a header.

    Args:
        path: the file.
        needed: columns that it must have.
    Returns:
        (line where the row begins, column -> text as it is in the file) of each row; lines that are empty are no rows.
    Raises:
        DataError: if it is no such file, lacks a column or has one twice, or a row has more or fewer fields than the
            header.
    """
    header, rows = _table(path, needed, ",")
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows]


def table_rows(path: Path, needs: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV, TSV or semicolon-separated table in UTF-8 with a header, blanks at the ends of values taken off.

    Args:
        path: the file; .tsv and .tab are separated by tabs, others by what their header uses.
        needs: columns that must be there.
    Raises:
        DataError: as `rows_of` does, and if the table has no row.
    """
    header, rows = _table(path, needs, ",;\t")
    if not rows:
        raise DataError(f"{path} has a header of {len(header)} columns and no row: at least one is needed.")
    return [{name: value.strip() for name, value in zip(header, row, strict=True)} for _, row in rows]


def _table(path: Path, needed: Sequence[str], separators: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header, and rows with the line where each begins; separated by the tab or by what the header holds most often."""
    text = _text(path)
    first = next(io.StringIO(text.lstrip("\r\n"), newline=""), "")
    is_tabbed = path.suffix.lower() in TABBED or ("\t" in separators and "\t" in first)
    separator = "\t" if is_tabbed else max(separators, key=first.count)
    lines = list(_records(path, text, separator))
    if not lines:
        raise DataError(f"{path} is empty: a header{_with(needed)} and at least one row are needed.")
    header = [name.strip() for name in lines[0][1]]
    _check_header(path, header, needed, separator, separators)
    is_wide = len(header) > 1  # in a table of one column, a blank is a value
    rows = [(line, row) for line, row in lines[1:] if not (is_wide and len(row) == 1 and not row[0].strip())]
    for number, (line, row) in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number}, {_misfit(line, row, header, separator)}")
    return header, rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}. Save it as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the file and its rights.") from error


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Fields of the rows that have any, with the line where each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}, cannot be read as a row of a table: {error}. A field that begins with a quotation "
            'mark ends with one, and those within it are doubled (""). Save it as CSV in UTF-8 with a header.'
        ) from error


def _check_header(path: Path, header: list[str], needed: Sequence[str], separator: str, separators: str) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"{path} has {len(header)} columns and {repeated[0]!r} more than once: give each its own name.")
    for column in needed:
        if column not in header:
            is_other = len(header) == 1 and ";" in header[0] and ";" not in separators
            hint = " Is it separated by semicolons? Save it with commas." if is_other else ""
            shown = ", ".join(header[:SHOWN]) + (f" and {len(header) - SHOWN} more" if len(header) > SHOWN else "")
            raise DataError(
                f"{path} has no column {column!r} among its {len(header)} (separated by {separator!r}). "
                f"{nearest(column, header)} It has: {shown}.{hint}"
            )


def _misfit(line: int, row: list[str], header: list[str], separator: str) -> str:
    """What is wrong with a row of more or fewer fields than the header, and what to do."""
    found = f"line {line}, has {len(row)} fields and the header has {len(header)}"
    if len(row) > len(header):
        return f"{found}: put the value that holds {separator!r} into quotes. The row ends with {row[-1]!r}."
    last = f" after {header[len(row) - 1]}={row[-1]!r}"
    return f"{found}: it ends{last}. Leave the fields that are not known empty, but separate them by {separator!r}."


def _with(needed: Sequence[str]) -> str:
    return f" with {', '.join(needed)}" if needed else ""
