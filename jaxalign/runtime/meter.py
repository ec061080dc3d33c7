"""Where the time of a run goes: seconds, bytes and operations of each stage, and how long the devices waited."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

STAGES = (
    "decode",
    "forward",
    "read",
    "transfer",
    "factorise",
    "project",
    "score",
    "permute",
    "land",
    "write",
    "finish",
)
"""decode: pictures and texts; forward: the model; read: features and responses on the host; transfer: host to devices;
factorise: features, project: responses, score and permute: one against the other; land: devices to host; write: rows."""

_COMPILE = "/jax/core/compile/"


class Meter:
    """Sums over a run; every thread of it adds to them.

    Device steps are watched by a thread that waits for their outputs in order: a step is busy from its launch, or from
    the end of the step before it, to the moment its outputs are there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: queue.Queue[Any] = queue.Queue()
        self._is_listening = False
        self._start()

    def _start(self) -> None:
        self._sums: dict[str, dict[str, float]] = defaultdict(
            lambda: {"seconds": 0.0, "bytes": 0.0, "flop": 0.0, "n": 0.0}
        )
        self._compile = {"seconds": 0.0, "n": 0.0}
        self._depths: list[int] = []
        self._first_launch: float | None = None
        self._last_ready: float | None = None
        self._began = time.perf_counter()

    def reset(self) -> None:
        """Begin a run: all sums are 0."""
        self.settle()
        with self._lock:
            self._start()
        if not self._is_listening:
            self._is_listening = True
            jax.monitoring.register_event_duration_secs_listener(self._compiled)
            threading.Thread(target=self._watch, name="jaxalign-meter", daemon=True).start()

    @contextmanager
    def stage(self, name: str, n_bytes: float = 0) -> Iterator[dict[str, float]]:
        """Count what is done inside as a stage; `["bytes"]` of what is given may be set once it is known."""
        start, did = time.perf_counter(), {"bytes": n_bytes}
        try:
            yield did
        finally:
            self.add(name, time.perf_counter() - start, did["bytes"])

    def add(self, name: str, seconds: float, n_bytes: float = 0, flop: float = 0) -> None:
        """Add to a stage."""
        with self._lock:
            sums = self._sums[name]
            for key, value in (("seconds", seconds), ("bytes", n_bytes), ("flop", flop), ("n", 1)):
                sums[key] += value

    def launched(self, name: str, outputs: Any, flop: float = 0) -> None:
        """Watch a step of the devices that was launched just now."""
        if self._is_listening:
            self._watched.put((name, outputs, flop, time.perf_counter()))

    def waiting(self, depth: int) -> None:
        """Note how many calls were ready when one was asked for."""
        with self._lock:
            self._depths.append(depth)

    def settle(self) -> None:
        """Wait until all launched steps are counted."""
        if self._is_listening:
            self._watched.join()

    def report(self) -> dict[str, Any]:
        """Sums so far.

        Returns:
            stages (name -> seconds, bytes, flop, n), busy_s, span_s and idle_share of the devices (compilation, during
            which they can do nothing, is left out of the span), compile_s, n_compiled, queue_depth (mean), wall_s.
        """
        self.settle()
        with self._lock:
            stages = {name: dict(self._sums[name]) for name in STAGES if name in self._sums}
            busy = sum(stages[name]["seconds"] for name in ("factorise", "project", "score") if name in stages)
            span = (self._last_ready or 0.0) - (self._first_launch or 0.0)
            able = max(span - self._compile["seconds"], 0.0)
            return {
                "stages": stages,
                "busy_s": busy,
                "span_s": span,
                "idle_share": max(0.0, 1 - busy / able) if able else 0.0,
                "compile_s": self._compile["seconds"],
                "n_compiled": int(self._compile["n"]),
                "queue_depth": sum(self._depths) / len(self._depths) if self._depths else 0.0,
                "wall_s": time.perf_counter() - self._began,
            }

    def _compiled(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_COMPILE):
            with self._lock:
                self._compile["seconds"] += duration_secs
                self._compile["n"] += event.endswith("backend_compile_duration")

    def _watch(self) -> None:
        while True:
            name, outputs, flop, launched = self._watched.get()
            jax.block_until_ready(outputs)
            now = time.perf_counter()
            del outputs
            with self._lock:
                before = self._last_ready
                self._first_launch = launched if self._first_launch is None else self._first_launch
                self._last_ready = now
            self.add(name, now - max(launched, before or launched), flop=flop)
            self._watched.task_done()


METER = Meter()
"""The meter of this process: one run goes on in it at a time."""
