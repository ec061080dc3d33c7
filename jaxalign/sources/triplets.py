"""Behaviour of THINGS: odd-one-out triplets, concept tables and embeddings, matched by name, never by the order of rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxalign.errors import DataError, nearest
from jaxalign.sources.files import find


@dataclass(frozen=True)
class Triplets:
    """Choices of the odd one out of three concepts.

    Attributes:
        names: names of all concepts; a file of triplets numbers them from 0 in this order.
        choices: (n_trials, 3) int32 indices into `names`; the last is the odd one, the first two are the kept pair.
        where: file, for messages.
    """

    names: tuple[str, ...]
    choices: np.ndarray
    where: str = ""

    def ordered_as(self, names: Sequence[str]) -> Triplets:
        """The same choices with concepts numbered in another order, matched by name.

        Args:
            names: all concepts that occur in a trial, and others.
        Raises:
            DataError: if a concept of a trial is missing, or a name is there twice.
        """
        place = _places(names, "the new order")
        used = np.unique(self.choices)
        missing = [self.names[index] for index in used if self.names[index] not in place]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(used)} concepts of {self.where} are not among the {len(place)} names, first {missing[0]!r}. {nearest(missing[0], names)}"
            )
        number = np.full(len(self.names), -1, np.int32)
        number[used] = [place[self.names[index]] for index in used]
        return Triplets(tuple(names), number[self.choices], self.where)


@dataclass(frozen=True)
class Embedding:
    """Dimensions of concepts.

    Attributes:
        names: (n_concepts,) names.
        values: (n_concepts, n_dimensions) float64, in the unit of the file.
        where: file, for messages.
    """

    names: tuple[str, ...]
    values: np.ndarray
    where: str = ""

    def ordered_as(self, names: Sequence[str]) -> np.ndarray:
        """Rows of these concepts. -> (len(names), n_dimensions)

        Args:
            names: concepts in the order wanted.
        Raises:
            DataError: if one is not in the embedding, or the embedding has one twice.
        """
        place = _places(self.names, self.where)
        missing = [name for name in names if name not in place]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(names)} concepts are not in {self.where}, first {missing[0]!r}. {nearest(missing[0], self.names)}"
            )
        return self.values[[place[name] for name in names]]


def read_triplets(path: str, names: Sequence[str]) -> Triplets:
    """Triplets of a text file: three numbers of concepts per line, from 0, the odd one last.

    Args:
        path: .txt file, absolute or under a data folder.
        names: (n_concepts,) concepts in the order in which the file numbers them.
    Raises:
        DataError: if a line is no three different numbers below the number of names.
    """
    file = find(path)
    _places(names, "the list of concepts")
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    rows = [(number, line.replace(",", " ").split()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, parts in rows:
        if len(parts) != 3 or not all(part.isdecimal() for part in parts) or len(set(parts)) < 3:
            raise DataError(
                f"{file}, line {number} of {len(lines)}, is {' '.join(parts)[:60]!r}: three different numbers are needed, the odd one last. Is the file whole?"
            )
    if not rows:
        raise DataError(f"{file} ({file.stat().st_size} bytes) holds no triplets.")
    choices = np.array([parts for _, parts in rows], np.int64)
    if choices.max() >= len(names):
        first = int(np.flatnonzero((choices >= len(names)).any(1))[0])
        raise DataError(
            f"{file}, line {rows[first][0]}, numbers a concept {choices[first].max()} and there are {len(names)} names, 0 to {len(names) - 1}: it belongs to another table of concepts."
        )
    return Triplets(tuple(names), choices.astype(np.int32), str(file))


def read_concepts(path: str, column: str = "uniqueID") -> tuple[str, ...]:
    """Names of a table of concepts, in its order: things_concepts.tsv, or one name per line.

    Args:
        path: .tsv, .csv or .txt file.
        column: that holds the unique name; THINGS calls it uniqueID ("bat1" is not "bat2"). Not used for .txt.
    Raises:
        DataError: if there is no such column, or a name is empty or there twice.
    """
    file = find(path)
    if file.suffix.lower() == ".txt":
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    else:
        header, rows = _table(file)
        if column not in header:
            raise DataError(f"{file} has no column {column!r}. {nearest(column, header)}")
        names = tuple(row[header.index(column)].strip() for row in rows)
    _places(names, str(file))
    return names


def read_embedding(path: str, column: str = "") -> Embedding:
    """An embedding with a name in each row, such as spose_embedding66d_rescaled.csv.

    Args:
        path: .csv or .tsv file with a header; a column without a title or called "index" is a row number and is left out.
        column: that names the concept; empty takes the only column of text. Names of pictures ("aardvark_01b.jpg")
            become those of their concepts ("aardvark").
    Raises:
        DataError: if there is no such column, a name is there twice, or a value is no finite number.
    """
    file = find(path)
    header, rows = _table(file)
    texts = [name for place, name in enumerate(header) if not _is_number(rows[0][place])]
    if not column and len(texts) != 1:
        raise DataError(f"{file} has {len(texts)} columns of text ({', '.join(texts[:5])}): name the one of concepts.")
    column = column or texts[0]
    if column not in header:
        raise DataError(f"{file} has no column {column!r}. {nearest(column, header)}")
    kept = [place for place, name in enumerate(header) if name not in ("", "index", column)]
    try:
        values = np.array([[float(row[place]) for place in kept] for row in rows])
    except ValueError as error:
        raise DataError(f"{file}: {error}. All columns but {column!r} are dimensions.") from error
    if not np.isfinite(values).all():
        raise DataError(f"{file} holds {int((~np.isfinite(values)).sum())} values that are NaN or Inf.")
    names = tuple(concept_of(row[header.index(column)].strip()) for row in rows)
    _places(names, str(file))
    return Embedding(names, values, str(file))


def concept_of(picture: str) -> str:
    """The concept of a picture of THINGS: "aardvark_01b.jpg" shows an "aardvark"; other names stay.

    Args:
        picture: file name, or a concept.
    """
    stem, _, suffix = picture.rpartition(".")
    if suffix.lower() not in ("jpg", "jpeg", "png"):
        return picture
    name, _, number = stem.rpartition("_")
    return name if name and number[:2].isdecimal() else stem


def agreement(first: Triplets, second: Triplets) -> float:
    """Share of trials in which both choose the same odd one, in percent; trials are matched by their three concepts.

    Args:
        first: choices, of which no three concepts occur twice.
        second: choices of the same trials, in any order, with concepts in any order.
    Raises:
        DataError: if three concepts occur twice, or only in one of them.
    """
    one, two = _odd_by_trial(first), _odd_by_trial(second)
    if one.keys() != two.keys():
        only = sorted(map(sorted, one.keys() ^ two.keys()))
        raise DataError(
            f"{first.where} has {len(one)} triplets and {second.where} has {len(two)}; {len(only)} are only in one of them, first {', '.join(only[0])}."
        )
    return 100 * sum(odd == two[trial] for trial, odd in one.items()) / len(one)


def _odd_by_trial(triplets: Triplets) -> dict[frozenset[str], str]:
    named = [tuple(triplets.names[index] for index in row) for row in triplets.choices.tolist()]
    found = {frozenset(row): row[2] for row in named}
    if len(found) < len(named):
        raise DataError(
            f"{triplets.where}: {len(named) - len(found)} of {len(named)} trials show concepts of an earlier one: agreement trial by trial needs each once."
        )
    return found


def _places(names: Sequence[str], where: str) -> dict[str, int]:
    """Place of each name; each is there once."""
    counts = Counter(names)
    if len(counts) < len(names) or "" in counts:
        name, count = counts.most_common(1)[0]
        what = f"{name!r} occurs {count} times" if len(counts) < len(names) else "one is empty"
        raise DataError(
            f"{where}: {len(names)} names, {len(counts)} of them different; {what}. Concepts are matched by name: each needs its own (uniqueID of THINGS)."
        )
    return {name: index for index, name in enumerate(names)}


def _table(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV or TSV file, each as long as the header."""
    delimiter = "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            rows = [row for row in csv.reader(handle, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}. Save it as UTF-8.") from error
    if len(rows) < 2:
        raise DataError(f"{file} has {len(rows)} lines: a header and a row per concept are needed.")
    short = [number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])]
    if short:
        raise DataError(
            f"{file}, row {short[0]} of {len(rows)}, has {len(rows[short[0] - 1])} fields and the header has {len(rows[0])}. Is the file whole?"
        )
    return [name.strip() for name in rows[0]], rows[1:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
