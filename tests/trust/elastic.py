"""Run a job in several processes by the engine of `torchrun`, and kill some of them at a moment.

The processes are forked from one that has imported the package, where `torchrun` starts a program
anew in each: torch's agent, its rendezvous and what it does when one dies are the same.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from tests.trust.forked import Ending, forked

ALL: Final = -1
"""Of the ranks, all; and the agent that watches over them."""


def launched(
    world: int,
    work: Callable[..., None],
    *arguments: Any,
    victim: int | None = None,
    after: float = 0,
) -> Ending:
    """Have so many processes call a function of a module, and say how the job ended.

    Args:
        world: number of processes.
        work: what each calls.
        arguments: for it.
        victim: rank that is killed, or `ALL`; None: nobody.
        after: seconds until then.
    """
    return forked(_agent, world, work, arguments, victim, after)


def _agent(
    world: int,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    victim: int | None,
    after: float,
) -> float:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.setpgrp()
    logging.disable(logging.CRITICAL)
    if victim == ALL:
        _later(after, lambda: os.killpg(0, signal.SIGKILL))
    config = LaunchConfig(
        1, 1, world, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork", monitor_interval=0.02, run_id=str(os.getpid()),
    )  # fmt: skip
    start = time.perf_counter()
    try:
        elastic_launch(config, _worker)(work, arguments, victim, after)
    except ChildFailedError as error:
        raise RuntimeError(str(error)) from None  # that one cannot be sent
    return time.perf_counter() - start


def _worker(
    work: Callable[..., None], arguments: tuple[Any, ...], victim: int | None, after: float
) -> None:
    if victim == int(os.environ["RANK"]):
        _later(after, lambda: os.kill(os.getpid(), signal.SIGKILL))
    work(*arguments)


def _later(seconds: float, act: Callable[[], None]) -> None:
    def wait() -> None:
        time.sleep(seconds)
        act()

    threading.Thread(target=wait, daemon=True).start()
