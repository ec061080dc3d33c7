"""What the rest of the program may ask of a model: names of its layers, and pooled activations of one batch."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax

from jaxalign.contracts import Fit


class ActivationSource(Protocol):
    """A model that is loaded and ready.

    Attributes:
        fits: one per layer and pooling, in the model's own order.
        takes: kind of stimulus, "image" or "text".
        bin_s: width of a time bin where every stimulus becomes a row per bin; None for one row per stimulus.
        n_weight_bytes: of all weights of a large network; 0 where they do not matter.
        release: gives back the memory of weights and compiled programs.
        bucket: of a sound's duration: sounds of one bucket are computed in one compiled program.
        batch_size: how many stimuli every call is given.
        identity: everything that decides the numbers (weights, inputs, library versions), as JSON values.
    """

    @property
    def fits(self) -> tuple[Fit, ...]: ...

    @property
    def takes(self) -> str: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def bin_s(self) -> float | None: ...

    def bucket(self, duration_s: float) -> float: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def n_weight_bytes(self) -> int: ...

    def release(self) -> None: ...

    def activations(self, stimuli: Sequence[Any]) -> dict[tuple[str, str], jax.Array]:
        """Features of one batch, by (layer, pooling).

        Args:
            stimuli: batch_size images, each (height, width, 3) uint8 of any size, or batch_size texts, each a
                dictionary from column to string. The caller pads a short last batch with any stimulus.
        Returns:
            (n_batch, width) float32 for each fit, rows in the order of the stimuli.
        Raises:
            DataError: if the number of stimuli is not batch_size, or one of them is not of the kind taken.
        """
        ...
