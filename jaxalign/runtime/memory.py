"""Memory of the process that nobody holds any more."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return freed buffers to the operating system, where the C library can.

    On a CPU the buffers of devices are the process's own; what is freed stays with its allocator, and a run of several
    blocks grew by a tenth with each (measured). Elsewhere nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
