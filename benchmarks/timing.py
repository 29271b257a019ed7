"""How a call is timed: warm-up, repeats, median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Give milliseconds, median and quartiles."""
        return f"{self.median * 1e3:9.2f} ms ({self.low * 1e3:.2f}-{self.high * 1e3:.2f})"


def measure(call: Callable[[], object], *, repeats: int = 9, warm_up: int = 2) -> Timing:
    """Time `call`, `repeats` times after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds, n=4)
    return Timing(median, low, high)
