"""Numbers that go in a straight line from the first iteration to the last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """`start + (end - start) (t - 1) / (T - 1)` at iteration t of T.

    Attributes:
        start: at the first iteration.
        end: at the last one; a single iteration has `start`.

    Examples:
        >>> from emergence_ext import render
        >>> render.value(render.Ramp(100, 800), 0.5)
        450.0
    """

    start: float
    end: float

    def at(self, progress: float) -> float:
        """Return the value at `progress = (t - 1) / (T - 1)`, 0 to 1."""
        return self.start + (self.end - self.start) * progress


Number = float | Ramp


def value(number: Number, progress: float) -> float:
    """Return what a number or ramp is at `progress`, 0 to 1.

    Examples:
        >>> from emergence_ext import render
        >>> render.value(render.Ramp(100, 800), 0.5), render.value(0.5, 0.9)
        (450.0, 0.5)
    """
    return number.at(progress) if isinstance(number, Ramp) else float(number)


def ends(number: Number) -> tuple[float, float]:
    """Return the first and the last value, which bound those between.

    Examples:
        >>> from emergence_ext import render
        >>> render.ends(render.Ramp(100, 800)), render.ends(0.5)
        ((100, 800), (0.5, 0.5))
    """
    return (number.start, number.end) if isinstance(number, Ramp) else (number, number)
