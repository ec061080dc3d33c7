"""Where a forward pass runs: weights and batches go to devices by what a Placement says, which the runtime makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np


class Placement(Protocol):
    """Devices for a network.

    Attributes:
        n_parallel: parts that a batch is split into by stimulus; each device runs the program on its own part.
    """

    @property
    def n_parallel(self) -> int: ...

    def weight(self, name: str, values: np.ndarray) -> jax.Array: ...

    def batch(self, tree: Any) -> Any: ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]: ...


class OneDevice:
    """Everything on the default device."""

    n_parallel = 1

    def weight(self, _name: str, values: np.ndarray) -> jax.Array:
        """A parameter on the device."""
        return jax.device_put(values)

    def batch(self, tree: Any) -> Any:
        """Inputs on the device."""
        return jax.device_put(tree)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as one program."""
        return jax.jit(function)


Place = Callable[[int], Placement]
"""Bytes of all weights of a network -> its devices."""
