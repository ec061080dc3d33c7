"""A trace of a few steady calls, for xprof and Perfetto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

TRACE_FOLDER = "trace"
SKIPPED, KEPT = 2, 8
"""Calls before the trace begins, since the first ones compile; and calls in it, since traces grow fast."""


@contextmanager
def traced(folder: Path | None, n_calls: int) -> Iterator[Callable[[], None]]:
    """A function to call before each call of the devices; the trace is written when enough of them are in it.

    Args:
        folder: output folder of the run; None traces nothing.
        n_calls: calls that will come, at least; with few of them the trace begins earlier.
    """
    state = {"calls": 0, "is_on": False}
    begin = max(0, min(SKIPPED, n_calls - 1))

    def step() -> None:
        if folder is not None and state["calls"] == begin:
            jax.profiler.start_trace(str(folder / TRACE_FOLDER), create_perfetto_trace=True)
            state["is_on"] = True
        if state["is_on"] and state["calls"] == begin + KEPT:
            stop()
        state["calls"] += 1

    def stop() -> None:
        state["is_on"] = False
        jax.profiler.stop_trace()

    try:
        yield step
    finally:
        if state["is_on"]:
            stop()
