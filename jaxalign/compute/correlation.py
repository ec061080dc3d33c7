"""Pearson correlation of one feature with every target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxalign.compute.permute import summarise
from jaxalign.compute.stats import dot, unit_norm
from jaxalign.contracts import Design, Features, Null, Responses, Scores


@dataclass(frozen=True)
class Correlation:
    """Pearson r of a single feature, such as a metadata column, with every target over all stimuli.

    Two-sided: the sign of a feature is arbitrary. A permutation relabels the stimuli of the feature.

    Attributes:
        n_permutations: random relabellings of the stimuli.
    """

    statistics: ClassVar[tuple[str, ...]] = ("pearson_r",)
    tail: ClassVar[str] = "two-sided"
    takes: ClassVar[str] = "responses"
    takes_rdms: ClassVar[bool] = False
    least_width: ClassVar[int] = 1
    uses_folds: ClassVar[bool] = False

    n_permutations: int = 10_000

    def features_state(self, features: Features, design: Design, platform: str) -> jax.Array:
        """The one column of each fit. -> (n_fits, n_stimuli)

        Raises:
            ValueError: if a fit may have more than one column.
        """
        if features.values.shape[2] != 1:
            raise ValueError(
                f"correlation takes features of width 1 and got {features.values.shape[2]}: use ridge or rsa for whole layers."
            )
        return features.values[:, :, 0]

    def responses_state(self, responses: Responses, design: Design) -> jax.Array:
        """Targets centred, of length 1. (n_stimuli, n_targets)"""
        return unit_norm(responses.values, jnp.ones(responses.values.shape[0], bool))

    def score(self, features_state: jax.Array, responses_state: jax.Array, design: Design, null: Null) -> Scores:
        """All labellings of a feature against all targets are one matrix product."""
        unit = unit_norm(features_state.T, jnp.ones(features_state.shape[1], bool)).T
        scores = jax.lax.map(lambda column: dot(column[null.rows], responses_state), unit)
        fold_scores = jnp.zeros((unit.shape[0], 0, 1, responses_state.shape[1]), responses_state.dtype)
        return summarise(jnp.swapaxes(scores, 0, 1)[:, :, None, :], fold_scores, null, tail=self.tail)
