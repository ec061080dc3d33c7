"""What a device was measured to do: operations per second of a matrix product, bytes per second of copies to and from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

from jaxalign.compute.stats import dot

LARGEST, LARGEST_COPY = 8192, 1 << 28
"""Rows of the largest matrix product, and bytes of the largest copy, that are tried."""

ENOUGH_S = 0.02
"""A call that takes so long is not decided by what launching it costs."""

REPEATS = 3


@dataclass(frozen=True)
class Rates:
    """Best of a few calls, of one device used alone.

    Attributes:
        gemm_flop_per_s: operations per second of a float32 matrix product at full precision.
        copy_to_bytes_per_s, copy_from_bytes_per_s: bytes per second from the host, and to it.
    """

    gemm_flop_per_s: float
    copy_to_bytes_per_s: float
    copy_from_bytes_per_s: float


def measured(device: jax.Device) -> Rates:
    """Measure a device once per process; devices of one kind share the answer. Takes about a second.

    Simulated devices of one CPU share its cores: the rate is that of one of them while the others rest.
    """
    return _of_kind(device.platform, device.device_kind)


@cache
def _of_kind(platform: str, kind: str) -> Rates:
    device = next(one for one in jax.local_devices() if (one.platform, one.device_kind) == (platform, kind))
    return Rates(_gemm(device), *_copies(device))


def _gemm(device: jax.Device) -> float:
    """Operations per second of the first product that is large enough."""
    product = jax.jit(dot)

    def seconds(n: int) -> float:
        # Ones would do for the arithmetic; powers of a few values do not let a chip save energy by equal bits.
        host = (np.arange(n * n, dtype=np.float32) % 61 / 61).reshape(n, n)
        matrix = jax.device_put(host, device)
        product(matrix, matrix).block_until_ready()
        return _best(lambda: product(matrix, matrix).block_until_ready())

    n, took = _grown(seconds, 256, LARGEST)
    return 2.0 * n**3 / took


def _copies(device: jax.Device) -> tuple[float, float]:
    """Bytes per second to the device and back."""
    n_bytes, to_device = _grown(lambda size: _best(_to_device(size, device)), 1 << 20, LARGEST_COPY)
    # A second fetch of the same array would be answered from the host.
    there = iter([_placed(_host(n_bytes), device) for _ in range(REPEATS)])
    return n_bytes / to_device, n_bytes / _best(lambda: _fetched(there))


def _to_device(n_bytes: int, device: jax.Device) -> Callable[[], Any]:
    host = _host(n_bytes)
    return lambda: _placed(host, device)


def _host(n_bytes: int) -> np.ndarray:
    return np.ones(n_bytes // 4, np.float32)


def _placed(host: np.ndarray, device: jax.Device) -> jax.Array:
    """A copy: on a CPU the device could take the memory of the host as its own."""
    return jax.device_put(host, device, may_alias=False).block_until_ready()


def _fetched(arrays: Iterator[jax.Array]) -> np.ndarray:
    """A copy on the host; on a CPU the array itself would be handed out."""
    array = next(arrays)
    host = jax.device_get(array)
    return host.copy() if array.devices().pop().platform == "cpu" else host


def _grown(seconds: Callable[[int], float], size: int, largest: int) -> tuple[int, float]:
    """The first size, doubled from the given one, whose call takes long enough; and how long it takes."""
    took = seconds(size)
    while took < ENOUGH_S and size < largest:
        size *= 2
        took = seconds(size)
    return size, took


def _best(call: Callable[[], Any]) -> float:
    """Shortest duration in seconds: interruptions only ever add."""
    durations = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    return max(min(durations), 1e-9)
