"""Numbers that go in a straight line from the first iteration to the last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real


@dataclass(frozen=True)
class Ramp:
    """`start + (end - start) (t - 1) / (T - 1)` at iteration t of T.

    Attributes:
        start: at the first iteration.
        end: at the last one; a single iteration has `start`.

    Raises:
        TypeError: an end that is no number.

    Examples:
        >>> from emergence_ext import render
        >>> render.value(render.Ramp(100, 800), 0.5)
        450.0
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not isinstance(getattr(self, name), Real):
                raise TypeError(f"{name}: expected a number, got {getattr(self, name)!r}")

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


def require_number(name: str, number: object, *, zero: bool, most: float = math.inf) -> None:
    """Refuse what is no number or ramp above 0.

    Args:
        name: of the argument, for the error.
        number: what came.
        zero: whether it may be 0, too.
        most: the largest that it may be.

    Raises:
        TypeError: neither a number nor a ramp.
        ValueError: it is out of its range, or not finite.

    Examples:
        >>> from emergence_ext import render
        >>> render.require_number("blur", -1.0, zero=True)
        Traceback (most recent call last):
        ...
        ValueError: blur: expected 0 or more, got -1.0
    """
    if not isinstance(number, Real | Ramp):
        raise TypeError(f"{name}: expected a number or a Ramp, got {number!r}")
    low, high = sorted(ends(number))  # type: ignore[arg-type]
    within = all(math.isfinite(x) and x <= most for x in (low, high))
    if not within or low < 0 or (low == 0 and not zero):
        least = "0 or more" if zero else "above 0"
        upto = "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{name}: expected {least}{upto}, got {number}")
