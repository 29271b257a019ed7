"""Run a function in a process of its own that can be killed, and say how it ended.

Processes are forked from one that has imported the package already, so each takes a fraction of a
second.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# The first optimiser of a process imports dynamo, which takes seconds.
_CONTEXT.set_forkserver_preload(["tests.trust.jobs", "torch._dynamo"])
TIMEOUT = 300


@dataclass(frozen=True)
class Ending:
    """How a process ended: what the function returned or raised, or the signal that killed it."""

    value: Any = None
    error: BaseException | None = None
    trace: str = ""
    killed_by: int | None = None
    seconds: float = 0.0
    peak: int = 0  # bytes of memory beyond those at the beginning


def forked(function: Callable[..., Any], *arguments: Any) -> Ending:
    """Call a function of a module in a new process, and wait for the end of that."""
    here, there = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(there, function, arguments))
    process.start()
    there.close()
    ending = Ending()
    if here.poll(TIMEOUT):
        with suppress(EOFError):
            ending = here.recv()
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{function.__name__}{arguments} did not end within {TIMEOUT} s")
    if process.exitcode is not None and process.exitcode < 0:
        return Ending(killed_by=-process.exitcode)
    return ending


def _child(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    before, start = _peak(), time.perf_counter()
    value, error, trace = None, None, ""
    try:
        value = function(*arguments)
    except BaseException as raised:
        error, trace = raised, traceback.format_exc()
    ending = Ending(value, error, trace, None, time.perf_counter() - start, _peak() - before)
    try:
        pipe.send(ending)
    except Exception:  # what cannot be pickled is told in words
        pipe.send(Ending(None, RuntimeError(repr(error or value)), trace))
    pipe.close()
    os._exit(0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
