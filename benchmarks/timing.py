"""How a call is timed: warm-up, repeats, median and quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

FLUSHED: Final = 8
"""L2 caches that are written over before a call on a GPU is timed."""


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
    call: Callable[[], object],
    seconds: float,
    *,
    device: torch.device | str = "cpu",
    fewest: int = 3,
    most: int = 40,
) -> Timing:
    """Time `call` as often as fits into `seconds`, after two calls that do not count."""
    on_device = torch.device(device).type == "cuda"
    once = _by_events if on_device else _by_clock
    call()
    repeats = min(most, max(fewest, int(seconds / max(once(call), 1e-9))))
    low, median, high = statistics.quantiles(
        [once(call) for _ in range(repeats)], n=4, method="inclusive"
    )
    return Timing(median, low, high, repeats)


def _by_clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _by_events(call: Callable[[], object]) -> float:
    """Seconds on the GPU, by events around the call.

    What the call before left in the L2 cache is written over first; while that goes on the host
    gets ahead, so that launching counts only where the GPU waits for it.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _over_cache().zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@cache
def _over_cache() -> Tensor:
    size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return torch.empty(FLUSHED * size, dtype=torch.uint8, device="cuda")
