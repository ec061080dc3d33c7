"""Features and targets as they are given, checked, in their own units, and which targets miss which rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Targets that miss the same rows, and the weight of every row for them; None weighs all alike."""

    columns: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True)
class Data:
    """Checked data. features (n, p), responses (n, n_targets) without NaN, weights (n,) or None, is_missing
    (n, n_targets) or None, the shape of one row of y, and the mean of the features (p,), 0 without intercept."""

    features: np.ndarray
    responses: np.ndarray
    weights: np.ndarray | None
    is_missing: np.ndarray | None
    shape: tuple[int, ...]
    shift: np.ndarray
    is_centred: bool

    @property
    def dtype(self) -> np.dtype:
        return self.features.dtype

    @property
    def n_targets(self) -> int:
        return self.responses.shape[1]

    def patterns(self) -> list[Rows]:
        """Targets by the rows that they miss; those without any row are in none."""
        if self.is_missing is None:
            return [Rows(np.arange(self.n_targets), self.weights)]
        packed = np.packbits(self.is_missing, axis=0)
        _, member = np.unique(packed, axis=1, return_inverse=True)
        found = []
        for pattern in range(member.max() + 1):
            columns = np.flatnonzero(member.ravel() == pattern)
            is_missing = self.is_missing[:, columns[0]]
            weights = self.weights
            if is_missing.any():
                weights = np.where(is_missing, 0, 1 if weights is None else weights).astype(self.dtype)
            if weights is None or (weights > 0).any():
                found.append(Rows(columns, weights))
        return found

    def features_mean(self, weights: np.ndarray | None) -> np.ndarray:
        """Mean of the features in double precision, without a copy of them. -> (p,)"""
        if weights is None:
            return self.features.mean(0, dtype=np.float64)
        share = weights.astype(np.float64) / weights.sum(dtype=np.float64)
        return np.einsum("i,ij->j", share, self.features)


class Standard(NamedTuple):
    """Targets in their own unit, (n, m) in the dtype of the fit, with what makes them responses again, (m,) each."""

    values: np.ndarray
    average: np.ndarray
    unit: np.ndarray


def standardised(data: Data, columns: np.ndarray, weights: np.ndarray | None, units: np.ndarray | None) -> Standard:
    """Centre targets and divide by their largest deviation in double precision; constant ones become 0.

    Volts and targets far from 0 then keep their digits in float32. `units` (n_targets,) are given where the criteria
    of targets must stay comparable.
    """
    values = data.responses[:, columns].astype(np.float64)
    is_row = np.ones(len(values), bool) if weights is None else weights > 0
    inside = values[is_row]
    average = np.zeros(len(columns))
    if data.is_centred:
        share = np.full(len(inside), 1.0) if weights is None else weights[is_row].astype(np.float64)
        average = share @ inside / share.sum()
    is_flat = is_constant(inside, data.dtype) & data.is_centred
    average = np.where(is_flat, inside[0], average)
    values = np.where(is_row[:, None] & ~is_flat[None, :], values - average, 0)
    unit = np.abs(values).max(0) if units is None else units[columns]
    unit = np.where(unit > 0, unit, 1)
    return Standard((values / unit).astype(data.dtype), average, unit)


def is_constant(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Which columns vary by no more than rounding in a dtype. (n, m) -> (m,)"""
    return np.ptp(values, axis=0) <= 8 * np.finfo(dtype).eps * np.abs(values).max(0)


def common_units(data: Data, labels: np.ndarray) -> np.ndarray:
    """Largest deviation within each group of targets, for all of its targets. -> (n_targets,)"""
    unit = np.zeros(data.n_targets)
    for rows in data.patterns():
        for columns in np.array_split(rows.columns, -(-len(rows.columns) // 1024)):
            unit[columns] = standardised(data, columns, rows.weights, None).unit
    largest = np.zeros(labels.max() + 1)
    np.maximum.at(largest, labels, unit)
    return largest[labels]


def flattened(y: Any, is_masked: bool) -> tuple[Any, tuple[int, ...] | None, np.ndarray | None]:
    """y with its later axes as one, their shape if it was changed, and where values are missing (they become 0)."""
    if y is None:
        return None, None, None
    y, shape = np.asarray(y), None
    if y.ndim > 2:
        shape, y = y.shape[1:], y.reshape(len(y), -1)
    if not is_masked:
        return y, shape, None
    y = y if np.issubdtype(y.dtype, np.floating) else y.astype(np.float64)
    is_missing = np.isnan(y)
    if not is_missing.any():
        return y, shape, None
    return np.where(is_missing, 0, y), shape, is_missing.reshape(len(y), -1)


def dtype_of(given: Any) -> np.dtype:
    dtype = np.dtype(given)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype={given!r}: give float32 or float64, or None to keep that of X.")
    return dtype


def filled(values: np.ndarray, width: int) -> np.ndarray:
    """Columns of 0 up to a width, so that the last batch needs no compilation of its own. (n, m) -> (n, width)"""
    missing = width - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing))) if missing > 0 else values


def batches_of(columns: np.ndarray, size: int) -> Iterator[np.ndarray]:
    yield from (columns[start : start + size] for start in range(0, len(columns), size))


def penalties(given: Any, name: str) -> np.ndarray:
    """Penalties as float64, checked."""
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}={given!r} is no number or array of numbers: give penalties from 0 upwards."
        ) from error
    refused = values[~((values >= 0) & (values < np.inf))]
    if refused.size or not values.size:
        found = f"holds {refused.flat[0]}" if refused.size else "is empty"
        raise ValueError(f"{name} {found}: give finite penalties from 0 upwards.")
    return values


def rounding_of_gram(data: Data) -> float:
    """Penalty below which the rounding of a Gram matrix is felt: the rank cut-off for all of its trace."""
    trace = np.einsum("ij,ij->", data.features, data.features, dtype=np.float64)
    trace -= len(data.features) * np.sum(data.shift.astype(np.float64) ** 2)
    largest = 1.0 if data.weights is None else float(data.weights.max())
    return float(np.finfo(data.dtype).eps * max(data.features.shape) * max(trace, 0) * largest)
