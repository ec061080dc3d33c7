"""Arrays as a notebook gives them, checked and made float32 matrices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxalign.compute import folds
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Design
from jaxalign.errors import DataError


def weights_of(given: Any, n_stimuli: int) -> np.ndarray | None:
    """Weights of stimuli, checked."""
    if given is None:
        return None
    values = finite(given, "weights")
    if values.shape != (n_stimuli,) or values.min() < 0 or not values.sum() > 0:
        raise DataError(
            f"weights has shape {values.shape} and smallest value {values.min() if values.size else 'none'}: one number from 0 upwards for each of {n_stimuli} stimuli is needed."
        )
    return values


def width_of(values: np.ndarray) -> np.ndarray:
    return np.array([values.shape[1]], np.int32)


def both(features: Any, responses: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Features and flattened responses, checked. -> (n, p), (n, n_targets), trailing shape"""
    x = matrix(features, "features")
    y = finite(responses, "responses")
    if y.ndim == 0 or len(x) != len(y):
        found = len(y) if y.ndim else 0
        raise DataError(
            f"features has {len(x)} stimuli and responses has {found}: both must be ordered by the same stimulus ids. "
            "Responses still split into trials should be averaged per stimulus first."
        )
    return x, y.reshape(len(y), -1), y.shape[1:]


def all_rows(n_stimuli: int) -> Design:
    """A design for metrics that score all stimuli at once; its folds are not used."""
    return folds.design(np.arange(n_stimuli)[None] % 2 == 0, 2, seed=0)


def matrix(given: Any, name: str) -> np.ndarray:
    values = finite(given, name)
    if values.ndim != 2:
        raise DataError(f"{name} has shape {values.shape}; (n_stimuli, n_features) is needed.")
    return values


def finite(given: Any, name: str) -> np.ndarray:
    """A float32 array without NaN or Inf (float64 stays when jax_enable_x64 is on)."""
    values = np.asarray(given, jax.dtypes.canonicalize_dtype(np.float64))
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{name}: {len(bad)} of {values.size} values are NaN or Inf, first at index {tuple(map(int, bad[0]))}."
        )
    return values


def design_of(
    metric: Ridge,
    n_stimuli: int,
    seed: int,
    *,
    test: Any = None,
    groups: Any = None,
    runs: Any = None,
    weights: Any = None,
) -> Design:
    """Folds that a ridge asks for, from labels of the stimuli. (n_stimuli,) each, or None

    Weights are scaled to a mean of 1 over the training stimuli, so that penalties keep their meaning.

    Raises:
        DataError: if a label has another length, or the folds cannot be made.
    """
    labels = {"test": test, "groups": groups, "runs": runs}
    arrays = {name: None if given is None else np.asarray(given) for name, given in labels.items()}
    for name, array in arrays.items():
        if array is not None and array.shape != (n_stimuli,):
            raise DataError(f"{name} has shape {array.shape}: one label for each of {n_stimuli} stimuli is needed.")
    is_test = arrays["test"]
    weight = weights_of(weights, n_stimuli)
    if weight is not None:
        weight = weight / weight[slice(None) if is_test is None else ~is_test.astype(bool)].mean()
    try:
        if arrays["runs"] is not None and metric.folds == "auto":
            folds.check_runs(arrays["runs"], None if is_test is None else is_test.astype(bool))
        return folds.nested(
            metric.folds,
            n_stimuli,
            metric.n_outer,
            metric.n_inner,
            seed,
            is_test=None if is_test is None else is_test.astype(bool),
            groups=arrays["groups"],
            runs=arrays["runs"],
            gap=metric.gap,
            weights=weight,
        )
    except ValueError as error:
        raise DataError(str(error)) from error
