"""Work that is done ahead of who asks for it, in threads: in order, and so much at once at most.

Threads and no processes, as Pillow lets go of Python's lock while it decodes and resizes: beside
`DataLoader`'s processes they take a quarter less of the processor for the same images
(docs/reliability.md), nothing is copied from one process into another, and errors come as they are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

__all__ = ["in_threads", "threads"]

T = TypeVar("T")
R = TypeVar("R")

MOST: Final = 8
"""Threads, at most: of more than these each waits for Python's lock."""


def threads() -> int:
    """Return how many threads read: one for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST, len(os.sched_getaffinity(0)))
    return min(MOST, os.cpu_count() or 1)


def in_threads(work: Callable[[T], R], items: Iterable[T], most: int) -> Generator[R, None, None]:
    """Yield `work(item)` of each item, in order, while the next ones are worked at.

    Args:
        work: safe to be called by several threads.
        items: taken as they are needed, by the thread that asks.
        most: results that are there at once, at most, those that are worked at included.

    Raises:
        Exception: what `work` raises for an item, in its turn; no further item is begun.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(threads(), thread_name_prefix="reading")
    waiting: deque[Future[R]] = deque()
    try:
        while True:
            for item in islice(remaining, max(1, most) - len(waiting)):
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
