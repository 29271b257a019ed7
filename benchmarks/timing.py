"""How a call is timed: warm-up, repeats, median and quartiles."""

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
    repeats: int

    def __str__(self) -> str:
        """Give milliseconds, median and quartiles."""
        low, median, high = (
            f"{1e3 * x:.3g}" if x < 0.1 else f"{1e3 * x:,.0f}"
            for x in (self.low, self.median, self.high)
        )
        return f"{median} ({low} - {high})"

    def times(self, factor: float) -> Timing:
        """Return the timing of `factor` as much work, where time is proportional to work."""
        return Timing(factor * self.median, factor * self.low, factor * self.high, self.repeats)


def measure(
    call: Callable[[], object], seconds: float, *, fewest: int = 3, most: int = 40
) -> Timing:
    """Time `call` as often as fits into `seconds`, after two calls that do not count."""
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    repeats = min(most, max(fewest, int(seconds / max(once, 1e-9))))
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(taken, n=4, method="inclusive")
    return Timing(median, low, high, repeats)
