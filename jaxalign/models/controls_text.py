"""Low-level features of texts: how many characters and words, how long and how frequent the words are."""

from __future__ import annotations

import csv
import hashlib
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxalign.errors import DataError, nearest

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
"""Letters and digits, with apostrophes and hyphens inside. Scripts without spaces are not cut into words."""


@dataclass(frozen=True)
class Frequencies:
    """How often words occur in some corpus.

    Attributes:
        counts: word in lower case -> occurrences.
        n_tokens: all occurrences together.
        sha256: of the file that they were read from.
    """

    counts: Mapping[str, float] = field(repr=False)
    n_tokens: float
    sha256: str

    def zipf(self, word: str) -> float:
        """log10 of occurrences per 1e9 words, smoothed so that words that do not occur have a value, too.

        Source:
            van Heuven et al. 2014, Q. J. Exp. Psychol. 67:1176, doi:10.1080/17470218.2013.850521.
        """
        smoothed = (self.counts.get(_plain(word), 0.0) + 1) / (self.n_tokens + len(self.counts))
        return math.log10(smoothed) + 9


def words(text: str) -> list[str]:
    """The words of a text, as they are written."""
    return WORD.findall(unicodedata.normalize("NFC", text))


def n_characters(text: str) -> int:
    """Characters that are not white space, accents with their letters (NFC)."""
    return sum(not character.isspace() for character in unicodedata.normalize("NFC", text))


def measures(text: str) -> np.ndarray:
    """Number of characters, number of words, and mean length of the words in characters. -> (3,) float64

    Raises:
        DataError: if there is no word in it.
    """
    found = _some(text)
    return np.array([n_characters(text), len(found), np.mean([len(word) for word in found])])


def log_frequency(text: str, frequencies: Frequencies) -> float:
    """Mean Zipf frequency of the words of a text: log10 of occurrences per 1e9 words.

    Args:
        text: any string with a word in it.
        frequencies: of words in a corpus.
    Raises:
        DataError: if there is no word in the text.
    """
    return float(np.mean([frequencies.zipf(word) for word in _some(text)]))


def read_frequencies(path: str) -> Frequencies:
    """Word frequencies from a CSV or TSV file with the columns word and count; capitals do not matter.

    Args:
        path: the file, in UTF-8 with a header.
    Raises:
        DataError: if it is missing or no such table, or a count is no number from 0 upwards.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(
            f"The word frequencies {file.absolute()} are not there: give a CSV file with the columns word and count."
        )
    content = file.read_bytes()
    delimiter = "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    try:
        rows = list(csv.reader(content.decode("utf-8-sig").splitlines(), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table: {error}. Save it as CSV in UTF-8.") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    for column in ("word", "count"):
        if column not in header:
            raise DataError(f"{file} has {len(header)} columns and none is {column!r}. {nearest(column, header)}")
    counts: defaultdict[str, float] = defaultdict(float)
    at = header.index("word"), header.index("count")
    for line, row in enumerate(rows[1:], start=2):
        if row:
            counts[_plain(_field(row, at[0], file, line))] += _count(_field(row, at[1], file, line), file, line)
    if not counts or not sum(counts.values()):
        raise DataError(f"{file} counts 0 words: at least 1 is needed.")
    return Frequencies(dict(counts), float(sum(counts.values())), hashlib.sha256(content).hexdigest())


def _some(text: str) -> list[str]:
    found = words(text)
    if not found:
        raise DataError(
            f"The text {text[:40]!r} has {len(text)} characters and 0 words: leave it out, or give it a word."
        )
    return found


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word).strip().casefold().replace("’", "'")


def _field(row: list[str], index: int, file: Path, line: int) -> str:
    if index >= len(row):
        raise DataError(f"{file}, line {line}, has {len(row)} fields and {index + 1} are needed.")
    return row[index]


def _count(text: str, file: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{file}, line {line}: the count is {text!r}, and a number from 0 upwards is needed.")
    return value
