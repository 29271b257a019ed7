"""The arrays that the figures accept, checked against the letters of the method's symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def plain(value: Any) -> Array:
    """Return a tensor, array or nested sequence as a NumPy array on the host."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.double()
        return np.asarray(value.numpy())
    return np.asarray(value)


class _Interval(Protocol):
    """A number that knows the ends of its interval, such as `emergence_ext.method.Interval`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


_Intervals: TypeAlias = "_Interval | Sequence[_Intervals] | None"


class Band(NamedTuple):
    """A quantity with the ends of its interval, arrays of one shape.

    Examples:
        >>> from emergence_ext import figures
        >>> from emergence_ext.method import mean_interval
        >>> band = figures.Band.of([mean_interval(torch.tensor([2.0, 3.0, 4.0])), None])
        >>> band.value, band.low < band.value
        (array([ 3., nan]), array([ True, False]))
    """

    value: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, intervals: Sequence[_Intervals]) -> Band:
        """Collect intervals into three arrays of floats, NaN where there is no interval.

        Args:
            intervals: objects with `value`, `low` and `high`, or None, in sequences nested to any
                depth; rows of one level are equally long.

        Raises:
            ValueError: rows of unequal length.
        """

        def ends(x: _Intervals, end: str) -> Any:
            if isinstance(x, str):
                raise TypeError(f"intervals: expected value, low and high, or None, got {x!r}")
            if isinstance(x, Sequence):
                return [ends(y, end) for y in x]
            return np.nan if x is None else getattr(x, end)

        return cls(*(np.array(ends(intervals, end), dtype=np.float64) for end in cls._fields))


class Sizes:
    """Sizes bound to letters, so that `N` is the same in every argument of one figure."""

    def __init__(self, figure: str, **known: int) -> None:
        self.figure = figure
        self.known = dict(known)

    def __getitem__(self, letter: str) -> int:
        return self.known[letter]

    def numbers(self, name: str, value: Any, letters: str) -> Array:
        """Return `value` as floats of the shape that `letters` names, as in `"N R dim"`.

        Raises:
            ValueError: another number of axes, a size that contradicts an earlier argument, or an
                axis of length zero.
        """
        array = plain(value)
        wanted = letters.split()
        shape = ", ".join(
            f"{x}={self.known[x]}" if x in self.known and not x.isdigit() else x for x in wanted
        )
        message = f"{self.figure}: {name} must be [{shape}], got {list(array.shape)}"
        if array.ndim != len(wanted):
            raise ValueError(message)
        if array.dtype.kind not in "bifu":
            raise TypeError(f"{self.figure}: {name} must hold numbers, got {array.dtype}")
        for letter, size in zip(wanted, array.shape, strict=True):
            expected = int(letter) if letter.isdigit() else self.known.setdefault(letter, size)
            if size != expected:
                raise ValueError(message)
            if size == 0:
                raise ValueError(f"{message}: there is nothing to draw")
        return array.astype(np.float64)

    def band(self, name: str, band: Band, letters: str) -> Band:
        """Return `band` as floats of the shape that `letters` names."""
        ends = zip(Band._fields, band, strict=True)
        return Band(*(self.numbers(f"{name}, {end}", x, letters) for end, x in ends))

    def flags(self, name: str, value: Any, letters: str) -> NDArray[np.bool_]:
        """Return `value` as booleans of the shape that `letters` names."""
        return self.numbers(name, value, letters).astype(bool)

    def labels(
        self, value: Any, categories: Sequence[str], letters: str = "N"
    ) -> NDArray[np.int64]:
        """Return integer labels in `[0, C)`, one of `letters`' shape.

        Raises:
            ValueError: a label that is no integer in `[0, C)`.
        """
        raw = self.numbers("labels", value, letters)
        count = len(categories)
        wrong = ~np.isfinite(raw) | (raw != np.round(raw)) | (raw < 0) | (raw >= count)
        if wrong.any():
            raise ValueError(
                f"{self.figure}: labels must be integers in [0, {count}), one for each of the "
                f"{count} categories, got {raw[wrong][0]:g}"
            )
        return raw.astype(np.int64)

    def names(self, name: str, value: Sequence[Any], letter: str) -> list[str]:
        """Return as many names as `letter` stands for.

        Raises:
            ValueError: another number of names.
        """
        names = [str(x) for x in value]
        size = self.known.setdefault(letter, len(names))
        if len(names) != size:
            raise ValueError(
                f"{self.figure}: {name} must name {letter}={size} items, got {len(names)}"
            )
        if size == 0:
            raise ValueError(f"{self.figure}: {name} is empty: there is nothing to draw")
        return names

    def spatial(self, name: str, value: Any, letters: str) -> Array:
        """Return points in space `[..., 3]`; those of the plane get a third axis of zeros.

        Raises:
            ValueError: a last axis other than 2 or 3.
        """
        array = self.numbers(name, value, letters)
        dim = array.shape[-1]
        if dim not in (2, 3):
            raise ValueError(
                f"{self.figure}: {name} has dim {dim}, only 2 or 3 can be drawn. "
                "Fit the projections with dim=3 for this figure."
            )
        if dim == 3:
            return array
        return np.concatenate([array, np.zeros((*array.shape[:-1], 1))], axis=-1)

    def directions(self, value: Any) -> Array:
        """Return category directions `[C, 3]`, finite and of unit length.

        Raises:
            ValueError: a direction that is zero or not finite.
        """
        array = self.spatial("directions", value, "C dim")
        length = np.linalg.norm(array, axis=1, keepdims=True)
        if not np.isfinite(array).all() or (length == 0).any():
            wrong = int(np.argmax(~(np.isfinite(length) & (length > 0))))
            raise ValueError(
                f"{self.figure}: directions must be finite and non-zero, that of category {wrong} "
                "is not. Check the fit of the frame."
            )
        return array / length
