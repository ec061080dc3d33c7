"""What the notebook face returns: labelled scores of one layer against all targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from jaxalign.compute.gram import pair_index
from jaxalign.compute.inference import p_floor


@dataclass(frozen=True)
class Result:
    """Scores of one layer against all targets.

    Attributes:
        value: statistic -> scores of the targets' shape; NaN for constant targets.
        p, p_corrected: the same shapes; corrected by the maximum over all targets of the call.
        alpha: chosen penalties of the targets' shape, or None.
        n_permutations: labellings behind the p values, beside the observed one.
        z: statistic -> (score - null mean) / null SD, of the targets' shape: what may be compared between layers.
        is_one_family: corrected p hold over all statistics together, not over each by itself.
        above_null: score minus its mean over the other labellings, where that mean is not 0 (rows of a sentence), or None.
        warnings: what the reader of a p must know of the labellings behind it.
    """

    value: dict[str, np.ndarray]
    p: dict[str, np.ndarray]
    p_corrected: dict[str, np.ndarray]
    alpha: np.ndarray | None
    n_permutations: int
    z: dict[str, np.ndarray] = field(default_factory=dict)
    is_one_family: bool = False
    above_null: np.ndarray | None = None
    warnings: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per statistic and target, with the target's indices."""
        parts = []
        for statistic, values in self.value.items():
            places = np.indices(values.shape).reshape(values.ndim, -1)
            part = pd.DataFrame({f"target_{axis}": place for axis, place in enumerate(places)})
            part.insert(0, "statistic", statistic)
            part["value"] = values.ravel()
            part["z"] = self.z[statistic].ravel() if self.z and self.n_permutations else np.nan
            part["p"] = self.p[statistic].ravel()
            part["p_floor"] = p_floor(self.n_permutations)
            part["p_corrected"] = self.p_corrected[statistic].ravel()
            part["family_size"] = sum(int(np.isfinite(one).sum()) for one in self._family(statistic))
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def _family(self, statistic: str) -> list[np.ndarray]:
        """Scores over which a corrected p holds: those of the statistic, or of all metrics that shared their labellings."""
        return list(self.value.values()) if self.is_one_family else [self.value[statistic]]


@dataclass(frozen=True)
class RdmResult:
    """Dissimilarities of labelled stimuli; NumPy functions take it as the array of its values.

    Attributes:
        values: (n_pairs,) upper triangle row by row (scipy order), or (n_pairs, n_time_bins).
        ids: (n_stimuli,) names.
        distance: name of the distance.
    """

    values: np.ndarray
    ids: tuple[str, ...]
    distance: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype) if copy is not False else np.asarray(self.values, dtype)

    def square(self) -> np.ndarray:
        """Symmetric matrices with a diagonal of 0. -> (n_stimuli, n_stimuli[, n_time_bins])"""
        n_stimuli = len(self.ids)
        found = np.array(self.values[pair_index(n_stimuli)])
        found[np.arange(n_stimuli), np.arange(n_stimuli)] = 0
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and time bin, with the names of both stimuli."""
        first, second = np.triu_indices(len(self.ids), 1)
        names = np.array(self.ids, object)
        columns = self.values if self.values.ndim == 2 else self.values[:, None]
        parts = []
        for bin_ in range(columns.shape[1]):
            part = pd.DataFrame({"stimulus_1": names[first], "stimulus_2": names[second]})
            if self.values.ndim == 2:
                part["time_bin"] = bin_
            part[self.distance] = columns[:, bin_]
            parts.append(part)
        return pd.concat(parts, ignore_index=True)
