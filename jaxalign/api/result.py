"""What the notebook face returns: labelled scores of one layer against all targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Result:
    """Scores of one layer against all targets.

    Attributes:
        value: statistic -> scores of the targets' shape; NaN for constant targets.
        p, p_corrected: the same shapes; corrected by the maximum over all targets of the call.
        alpha: chosen penalties of the targets' shape, or None.
        n_permutations: random labellings behind the p values.
    """

    value: dict[str, np.ndarray]
    p: dict[str, np.ndarray]
    p_corrected: dict[str, np.ndarray]
    alpha: np.ndarray | None
    n_permutations: int

    def to_frame(self) -> pd.DataFrame:
        """One row per statistic and target, with the target's indices."""
        parts = []
        for statistic, values in self.value.items():
            places = np.indices(values.shape).reshape(values.ndim, -1)
            part = pd.DataFrame({f"target_{axis}": place for axis, place in enumerate(places)})
            part.insert(0, "statistic", statistic)
            part["value"] = values.ravel()
            part["p"] = self.p[statistic].ravel()
            part["p_corrected"] = self.p_corrected[statistic].ravel()
            parts.append(part)
        return pd.concat(parts, ignore_index=True)
