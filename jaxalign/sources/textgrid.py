"""Praat's TextGrid files, long and short, UTF-8 and UTF-16: the tiers of words and phonemes and their times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxalign.errors import DataError, nearest

# Praat reads free-standing strings, numbers and flags, and nothing else: "xmin =" and "intervals [1]:" are for people.
_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?<!\S)(?P<number>[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)(?!\S)|(?P<flag><\w+>)|![^\n]*'
)


@dataclass(frozen=True)
class Tier:
    """One tier of a TextGrid.

    Attributes:
        name: of the tier.
        starts_s, stops_s: (n_intervals,) seconds; equal for points.
        labels: (n_intervals,) texts, blanks at their ends taken off; "" where nothing is said.
    """

    name: str
    starts_s: np.ndarray
    stops_s: np.ndarray
    labels: tuple[str, ...]

    def without(self, silences: tuple[str, ...]) -> Tier:
        """The intervals whose label is none of these and not empty."""
        keep = [index for index, label in enumerate(self.labels) if label and label not in silences]
        return Tier(self.name, self.starts_s[keep], self.stops_s[keep], tuple(self.labels[index] for index in keep))


def read_textgrid(path: Path) -> tuple[Tier, ...]:
    """All tiers of a TextGrid, in order.

    Args:
        path: text file of Praat, long or short, in UTF-8 or, with its mark at the start, UTF-16.
    Raises:
        DataError: if it is no TextGrid, ends too early, or an interval ends before it starts.
    Source: the manual of Praat, TextGrid file formats.
    """
    tokens = _tokens(path)
    found: list[Tier] = []
    try:
        if (next(tokens), next(tokens)) != ("ooTextFile", "TextGrid"):
            raise DataError(f"{path} is no TextGrid: its first words are not ooTextFile and TextGrid.")
        next(tokens), next(tokens)
        if next(tokens) != "<exists>":
            return ()
        for _ in range(int(next(tokens))):
            found.append(_tier(tokens, path))
    except StopIteration as error:
        whole = ", ".join(repr(tier.name) for tier in found) or "none"
        raise DataError(
            f"{path} ({path.stat().st_size} bytes) ends before its last tier does; whole tiers: {whole}. Copy it again."
        ) from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} has words where a TextGrid has numbers: {error}. Save it in Praat as a text file."
        ) from error
    return tuple(found)


def _tokens(path: Path) -> Iterator[str]:
    raw = path.read_bytes()
    if raw.startswith(b"ooBinaryFile"):
        raise DataError(f"{path} is a binary TextGrid. Save it in Praat as a text file.")
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(coding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is neither UTF-8 nor UTF-16: byte {error.start} cannot be read. Save it in Praat as UTF-8."
        ) from error
    for match in _TOKEN.finditer(text):
        if match["text"] is not None:
            yield match["text"].replace('""', '"')
        elif match["number"] or match["flag"]:
            yield match["number"] or match["flag"]


def _tier(tokens: Iterator[str], path: Path) -> Tier:
    kind, name = next(tokens), next(tokens)
    if kind not in ("IntervalTier", "TextTier"):
        raise DataError(f"{path}: a tier is of the class {kind!r}, and IntervalTier or TextTier is known.")
    next(tokens), next(tokens)
    starts, stops, labels = [], [], []
    for _ in range(int(next(tokens))):
        starts.append(float(next(tokens)))
        stops.append(float(next(tokens)) if kind == "IntervalTier" else starts[-1])
        labels.append(" ".join(next(tokens).split()))
        if stops[-1] < starts[-1]:
            raise DataError(
                f"{path}, tier {name!r}: interval {len(starts)} runs from {starts[-1]:g} to {stops[-1]:g} s."
            )
    return Tier(name, np.array(starts), np.array(stops), tuple(labels))


def tier_named(tiers: tuple[Tier, ...], name: str, path: Path) -> Tier:
    """A tier by its name, whatever the case.

    Args:
        tiers: of one file.
        name: of the tier.
        path: the file, for messages.
    Raises:
        DataError: if there is none, with the nearest names.
    """
    for tier in tiers:
        if tier.name.lower() == name.lower():
            return tier
    has = [tier.name for tier in tiers]
    raise DataError(f"{path} has no tier {name!r}. {nearest(name, has)} It has {len(has)} tiers.")
