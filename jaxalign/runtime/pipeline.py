"""Threads around the devices: one reads ahead, one writes behind, both with bounded queues."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from jaxalign.runtime.meter import METER

T = TypeVar("T")
_END = object()


@contextmanager
def ahead(items: Iterator[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Make the next items in a thread while the caller works on one: `depth` wait, one more is being made.

    An error of the thread is raised where its item would have come. At the end of the block the thread is gone.

    Args:
        items: made in the thread, one after the other.
        depth: items that may wait.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not offer((item, None)):
                    return
        except BaseException as error:  # handed to the caller, whatever it is
            offer((None, error))
        offer((_END, None))

    def taken() -> Iterator[T]:
        while True:
            METER.waiting(waiting.qsize())
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=make, name="jaxalign-reader", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()


@contextmanager
def behind(depth: int = 2) -> Iterator[Callable[[Callable[[], None]], None]]:
    """A function that hands work to a thread, in order; it waits when `depth` pieces wait.

    The first error of the thread is raised by the next call, or at the end of the block; nothing after it is done. At the
    end of the block everything that was handed over is done, also when the block is left by an error.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    failed: list[BaseException] = []

    def work() -> None:
        while (piece := waiting.get()) is not _END:
            if not failed:
                try:
                    piece()
                except BaseException as error:  # raised in the thread that hands over
                    failed.append(error)

    def submit(piece: Callable[[], None]) -> None:
        if failed:
            raise failed[0]
        waiting.put(piece)

    thread = threading.Thread(target=work, name="jaxalign-writer", daemon=True)
    thread.start()
    try:
        yield submit
    finally:
        waiting.put(_END)
        thread.join()
    if failed:
        raise failed[0]
