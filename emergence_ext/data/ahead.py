"""Work that is done ahead of who asks for it: in order, and so much at once at most.

Files are decoded in threads, as Pillow lets go of Python's lock while it decodes and resizes: they
take a quarter less of the processor than `DataLoader`'s processes for the same images
(docs/input.md), nothing is copied from one process into another, and errors come as they are. Code
of a user's may hold the lock, and is written for one thread: it gets processes.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emergence_ext import parallel
from emergence_ext.lookup import told

__all__ = ["in_processes", "in_threads", "threads"]

T = TypeVar("T")
R = TypeVar("R")

MOST: Final = 8
"""Threads, at most: of more than these each waits for Python's lock."""
TOGETHER: Final = 8
"""Results that a process sends at once; it has two such lots ready, or is at work on them."""


def threads() -> int:
    """Return how many threads read: one for each core, shared with the job's other processes."""
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(MOST, allowed, cores // parallel.neighbours()))


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


def in_processes(
    work: Callable[[int], R], indices: Iterable[int], workers: int
) -> Generator[R, None, None]:
    """Yield `work(index)` of each index, in order, from worker processes of torch's `DataLoader`.

    Args:
        work: gives tensors or plain values.
        indices: taken some ahead.
        workers: processes; with none, all is done here, and nothing ahead.

    Raises:
        Exception: what `work` raises for an index, in its turn.
        RuntimeError: a process was ended from outside.
    """
    if not workers:
        yield from map(work, indices)
        return
    loader: DataLoader[Any] = DataLoader(
        _Each(work),
        sampler=indices,
        batch_size=TOGETHER,
        num_workers=workers,
        collate_fn=_together,
        generator=torch.Generator(),  # else it draws from the state that the network draws from
    )
    lots = iter(loader)
    try:
        while True:
            try:
                lot = next(lots, None)
            except RuntimeError as error:  # of torch's own: those of `work` come as results
                said = " ".join(str(error).split())
                raise RuntimeError(
                    "a process that read the data set was ended from outside, perhaps for want of "
                    f"memory; take fewer `workers` ({said:.200})"
                ) from error
            if lot is None:
                return
            for result in lot:
                if isinstance(result, _Failed):
                    raise result.error
                yield result
    finally:
        del lots  # ends the processes now, and not when a traceback lets go of it


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.error = error


class _Each(Dataset[Any]):
    """Results by index. Errors are results too, so that they come out as they were raised."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        self._work = work

    def __getitem__(self, index: int) -> Any:
        try:
            return self._work(index)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # what cannot be sent would leave the other side waiting for ever
                return _Failed(RuntimeError(told(error)))
            return _Failed(error)


def _together(results: list[Any]) -> Any:
    """Results as one tensor where they are alike, which is sent quicker."""
    first = results[0]
    if all(
        isinstance(x, Tensor) and (x.shape, x.dtype) == (first.shape, first.dtype) for x in results
    ):
        return torch.stack(results)
    return results
