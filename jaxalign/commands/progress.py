"""Progress for a person: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown() -> Iterator[Callable[[str, float], None]]:
    """A function that takes the name of a stage and the fraction of it that is done."""
    if sys.stderr.isatty():
        yield from _bar()
    else:
        yield _lines()


def _bar() -> Iterator[Callable[[str, float], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, int] = {}

        def show(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0)
            progress.update(tasks[stage], completed=done)  # type: ignore[arg-type]

        yield show


def _lines() -> Callable[[str, float], None]:
    last = ("", 0.0)

    def show(stage: str, done: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] > SECONDS_BETWEEN_LINES:
            print(f"{stage}: {done:.0%}", file=sys.stderr, flush=True)
            last = (stage, now)

    return show
