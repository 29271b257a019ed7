"""The time that a run may take."""

from __future__ import annotations

import math
import time


class Budget:
    """Seconds from now on; without end when left out."""

    def __init__(self, seconds: float = math.inf) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, 0 when it is spent."""
        return max(0.0, self._end - time.monotonic())

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.left == 0

    def at_most(self, seconds: float, *, keep: float = 0) -> float:
        """What a part may take that shall leave `keep` to those behind it."""
        return max(0.0, min(seconds, self.left - keep))
