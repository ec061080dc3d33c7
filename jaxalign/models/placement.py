"""Where a forward pass runs: weights and batches go to devices by what a Placement says, which the runtime makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np


class Placement(Protocol):
    """Devices for a network.

    Attributes:
        n_parallel: parts that a batch is split into by stimulus, one per group of devices.
        is_manual: whether each device runs the program on its own part (then static shapes are those of a part).
    """

    @property
    def n_parallel(self) -> int: ...

    @property
    def is_manual(self) -> bool: ...

    def weight(self, name: str, values: np.ndarray) -> jax.Array: ...

    def batch(self, tree: Any) -> Any: ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]: ...


class OneDevice:
    """Everything on the default device."""

    n_parallel = 1
    is_manual = True

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
