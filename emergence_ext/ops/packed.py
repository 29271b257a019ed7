"""Sets that lie one after the other in one array, with offsets, and nothing between them.

The library's kernels for the CPU read such rows where they are. What computes elsewhere, and what
wants gradients, takes them as sets with lengths, padded for as long as the call lasts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emergence_ext.ops.transforms import wants_gradient

BLOCK_BYTES: Final = 64 << 20
"""Rows of d scored at once on the way to the best, when `max_memory` is not given."""

_OP: Final = "maxsim_packed"
_Rows = Tensor | np.ndarray
Prepare = Callable[[Tensor, int], Tensor]
"""What makes a block of rows ready, given it and the place of its first row."""


class Sets(NamedTuple):
    """Rows of all sets, and where each begins: `[sets + 1]`, int64 on the CPU.

    Attributes:
        parts: `[T, D]`, one after the other; or as many as there are sets, the rows of each.
        starts: as above.
        scale: of rows of int8, `[T]`, floating point.
    """

    parts: list[Tensor]
    starts: Tensor
    scale: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """All of them, `[T, D]`; a copy where each set has its own."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)

    @property
    def one(self) -> Tensor:
        """A part, for dtype, device and width."""
        return self.parts[0]

    def of_type(self, dtype: torch.dtype) -> Sets:
        """The same of this type, in one part; of int8 what their scales make of them."""
        rows = self.rows.to(dtype)
        if self.scale is not None:
            rows = rows * self.scale.to(rows)[:, None]
        return Sets([rows], self.starts)

    @property
    def lengths(self) -> Tensor:
        """How many rows each has, `[sets]`, int64 on the CPU."""
        return self.starts.diff()

    def some(self, first: int, last: int) -> Sets:
        """Sets `[first, last)`, whose rows alone are read."""
        starts = self.starts[first : last + 1]
        rows = slice(int(starts[0]), int(starts[-1]))
        listed = len(self.parts) > 1
        parts = self.parts[first:last] if listed else [self.parts[0][rows]]
        return Sets(parts, starts - starts[0], None if self.scale is None else self.scale[rows])

    def chosen(self, which: Tensor) -> Sets:
        """Copies of the sets `which`, int64 on the CPU, in that order."""
        lengths = self.lengths[which]
        starts = torch.zeros(len(which) + 1, dtype=torch.int64)
        starts[1:] = lengths.cumsum(0)
        shift = (self.starts[which] - starts[:-1]).repeat_interleave(lengths)
        places = (torch.arange(len(shift)) + shift).to(self.one.device)
        scale = None if self.scale is None else self.scale.index_select(0, places)
        return Sets([self.rows.index_select(0, places)], starts, scale)

    def padded(self) -> tuple[Tensor, Tensor]:
        """The same as `[sets, most rows, D]`, zeros beyond their lengths, and these."""
        rows, count, lengths = self.rows, len(self.lengths), self.lengths
        most = max(1, int(lengths.max())) if count else 1
        shift = (torch.arange(count) * most - self.starts[:-1]).repeat_interleave(lengths)
        places = (torch.arange(len(rows)) + shift).to(rows.device)
        D = rows.shape[1]
        flat = rows.new_zeros(count * most, D).index_copy(0, places, rows)
        return flat.view(count, most, D), lengths.to(rows.device)

    def blocks(self, max_bytes: int) -> Iterator[tuple[int, int]]:
        """Cut the sets into blocks of as many rows as `max_bytes` hold, of one set at least."""
        rows = max(1, max_bytes // (self.one.element_size() * max(1, self.one.shape[1])))
        first, count = 0, len(self.lengths)
        while first < count:
            end = int(torch.searchsorted(self.starts, self.starts[first] + rows, right=True)) - 1
            last = min(max(end, first + 1), count)
            yield first, last
            first = last


class Matcher(NamedTuple):
    """What computes.

    Attributes:
        ops: a module with `maxsim`.
        compiled: the library's ops, if they take packed sets.
        options: `empty_score` and `precision`.
    """

    ops: Any
    compiled: Any
    options: dict[str, Any]

    def scores(self, q: Sets, d: Sets) -> Tensor:
        """Scores of all pairs, `[B, N]`."""
        if self._reads(q, d):
            return self._compiled(q, d, None)
        if d.one.dtype != q.one.dtype:
            wide = torch.float32 if d.scale is not None else d.one.dtype
            wide = torch.promote_types(q.one.dtype, wide)
            q, d = q.of_type(wide), d.of_type(wide)
        (q_rows, q_lengths), (d_rows, d_lengths) = q.padded(), d.padded()
        lengths = {"q_lengths": q_lengths, "d_lengths": d_lengths}
        return self.ops.maxsim(q_rows, d_rows, **lengths, **self.options)

    def of_pairs(self, q: Sets, d: Sets, pairs: Tensor) -> Tensor:
        """Scores of these pairs, `[P]`; pairs are int64 on the CPU."""
        if self._reads(q, d):
            return self._compiled(q, d, pairs)
        order = pairs[:, 0].argsort(stable=True)
        queries, counts = pairs[order, 0].unique_consecutive(return_counts=True)
        found = [
            self.scores(q.some(j, j + 1), d.chosen(pairs[places, 1]))[:, 0]
            for j, places in zip(queries.tolist(), order.split(counts.tolist()), strict=True)
        ]
        if not found:
            wide = torch.float64 if q.one.dtype == torch.float64 else torch.float32
            return q.one.new_zeros(0, dtype=wide)
        return torch.cat(found)[order.argsort().to(q.one.device)]

    def best(
        self, q: Sets, d: Sets, k: int, prepare: Prepare | None, max_memory: int | None
    ) -> tuple[Tensor, Tensor]:
        """The k best of d for each of q, and their places: both `[N, k]`; a block at a time."""
        device = q.one.device
        kept = torch.zeros(len(q.lengths), 0, device=device)
        places = torch.zeros(len(q.lengths), 0, dtype=torch.int64, device=device)
        for first, last in d.blocks(max_memory or BLOCK_BYTES):
            block = d.some(first, last)
            if prepare is not None:
                ready = prepare(block.rows.to(device), int(d.starts[first]))
                block = Sets([ready], block.starts)
            elif block.one.device != device:
                scale = None if block.scale is None else block.scale.to(device)
                block = Sets([block.rows.to(device)], block.starts, scale)
            T = self.scores(q, block).t()
            at = torch.arange(first, last, device=device).expand(len(T), -1)
            # Stable: of equal scores the earlier one stays.
            order = torch.cat([kept.to(T.dtype), T], 1).sort(dim=1, descending=True, stable=True)
            kept = order.values[:, :k]
            places = torch.cat([places, at], 1).gather(1, order.indices[:, :k])
        return kept, places

    def _compiled(self, q: Sets, d: Sets, pairs: Tensor | None) -> Tensor:
        # What memory d may lie in is not copied; q, a few rows, is made as wide.
        rows = q.rows.double() if d.one.dtype == torch.float64 else q.rows
        return self.compiled.maxsim_packed(
            rows, q.starts, d.parts, d.starts, d.scale, pairs, **self.options
        )

    def _reads(self, q: Sets, d: Sets) -> bool:
        return (
            self.compiled is not None
            and q.one.device.type == d.one.device.type == "cpu"
            and int(q.starts[-1]) > 0
            and int(d.starts[-1]) > 0
            and not any(map(wants_gradient, [*q.parts, *d.parts]))
        )


def maxsim_packed(
    matcher: Matcher,
    q: _Rows,
    cu_q: _Rows,
    d: _Rows | Sequence[_Rows],
    cu_d: _Rows | None,
    d_scale: _Rows | float | None,
    pairs: _Rows | None,
    topk: int | None,
    prepare: Prepare | None,
    max_memory: int | None,
) -> Any:
    """As `emergence_ext.ops.maxsim_packed`, by what `matcher` says."""
    if max_memory is not None and max_memory <= 0:
        raise ValueError(f"{_OP}: max_memory must be a positive number of bytes, got {max_memory}")
    of_q = _sets("q", q, cu_q)
    of_d = _listed(d, cu_d) if isinstance(d, list | tuple) else _sets("d", d, cu_d)
    rows_q, rows_d = of_q.one, of_d.one
    if rows_q.shape[1] != rows_d.shape[1] or rows_q.shape[1] == 0:
        raise ValueError(
            f"{_OP}: q and d must be [rows, D] with one D of at least 1, "
            f"got {list(rows_q.shape)} and {list(rows_d.shape)}"
        )
    if prepare is not None and (topk is None or d_scale is not None):
        raise ValueError(f"{_OP}: prepare goes with topk, and without d_scale")
    if d_scale is not None:
        of_d = of_d._replace(scale=_scale(d_scale, of_d))
    made_so = prepare is not None or d_scale is not None
    if not rows_q.is_floating_point() or not (rows_d.is_floating_point() or made_so):
        raise TypeError(
            f"{_OP}: q and d must be floating-point, got {rows_q.dtype} and "
            f"{rows_d.dtype}{'' if rows_d.is_floating_point() else ' without d_scale'}"
        )
    if rows_d.device != rows_q.device and (topk is None or rows_d.device.type != "cpu"):
        raise TypeError(f"{_OP}: d is on {rows_d.device}, q is on {rows_q.device}")
    if topk is None:
        if pairs is None:
            return matcher.scores(of_q, of_d)
        return matcher.of_pairs(of_q, of_d, _pairs(pairs, of_q, of_d))
    if pairs is not None:
        raise ValueError(f"{_OP}: give pairs or topk, not both")
    if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
        raise ValueError(f"{_OP}: topk must be a number of sets, at least 1, got {topk!r}")
    with torch.no_grad():
        return matcher.best(of_q, of_d, topk, prepare, max_memory)


def as_tensor(x: Any) -> Tensor:
    """A tensor on the same memory: a file that is mapped stays where it is.

    Examples:
        >>> from emergence_ext import ops
        >>> import numpy as np
        >>> array = np.zeros(2, dtype=np.float32)
        >>> tensor = ops.as_tensor(array)
        >>> array[0] = 1
        >>> tensor
        tensor([1., 0.])
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray) and x.flags.writeable:
        return torch.from_numpy(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(x))


def require_alike(sets: Sequence[Tensor], name: str, shape: str) -> None:
    """Refuse listed sets of which one differs from the first in width, dtype or device.

    Args:
        sets: `[rows, D]` each, one at least.
        name: of the list, for the error.
        shape: of a set, for the error.

    Raises:
        ValueError: a set that has another shape.
        TypeError: another dtype or device.

    Examples:
        >>> from emergence_ext import ops
        >>> ops.require_alike([torch.ones(2, 4), torch.ones(1, 3)], "documents", "[tokens, width]")
        Traceback (most recent call last):
        ...
        ValueError: documents[1] must be [tokens, width] of one width, got [1, 3] beside [2, 4]
    """
    one = sets[0]
    for place, each in enumerate(sets):
        if each.ndim != 2 or each.shape[1] != one.shape[-1] or each.shape[1] == 0:
            raise ValueError(
                f"{name}[{place}] must be {shape} of one width, got {list(each.shape)} beside "
                f"{list(one.shape)}"
            )
        if each.dtype != one.dtype or each.device != one.device:
            raise TypeError(
                f"{name}[{place}] is {each.dtype} on {each.device}, {name}[0] {one.dtype} on "
                f"{one.device}"
            )


def _sets(name: str, x: Any, offsets: Any) -> Sets:
    """The sets, or an error that names what does not fit."""
    for which, given in ((name, x), (f"cu_{name}", offsets)):
        if not isinstance(given, Tensor | np.ndarray):
            raise TypeError(
                f"{_OP}: {which} must be a tensor or NumPy array, got {type(given).__name__}"
            )
    rows, starts = as_tensor(x), as_tensor(offsets)
    if rows.ndim != 2:
        raise ValueError(f"{_OP}: {name} must be [rows, D], got {list(rows.shape)}")
    if starts.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{_OP}: cu_{name} must be int64 or int32, got {starts.dtype}")
    if starts.ndim != 1 or len(starts) == 0:
        raise ValueError(
            f"{_OP}: cu_{name} must be [sets + 1], where each set of {name} begins and the last "
            f"ends, got {list(starts.shape)}"
        )
    starts = starts.to("cpu", torch.int64)
    if int(starts[0]) != 0 or int(starts[-1]) != len(rows):
        raise ValueError(
            f"{_OP}: cu_{name} must go from 0 to {len(rows)}, the rows of {name}, "
            f"got {int(starts[0])} to {int(starts[-1])}"
        )
    falls = (starts.diff() < 0).nonzero()
    if len(falls):
        raise ValueError(f"{_OP}: cu_{name} must not fall, it does after entry {int(falls[0])}")
    return Sets([rows], starts)


def _listed(d: Sequence[_Rows], offsets: _Rows | None) -> Sets:
    """Sets that are listed, where they lie, or an error that names the one that does not fit."""
    if offsets is not None:
        raise ValueError(f"{_OP}: cu_d must be None where d is a list of sets")
    if len(d) == 0:
        raise ValueError(f"{_OP}: d must have a set, got an empty list")
    parts = [as_tensor(each) for each in d]
    require_alike(parts, f"{_OP}: d", "[rows, D]")
    starts = torch.zeros(len(parts) + 1, dtype=torch.int64)
    starts[1:] = torch.tensor([len(each) for each in parts]).cumsum(0)
    return Sets(parts, starts)


def _scale(scale: _Rows | float, d: Sets) -> Tensor:
    """A scale for each row, without a copy of a number."""
    count = int(d.starts[-1])
    if d.one.dtype != torch.int8:
        raise TypeError(f"{_OP}: d_scale goes with d of int8, got d of {d.one.dtype}")
    found = as_tensor(scale) if isinstance(scale, Tensor | np.ndarray) else torch.tensor(scale)
    if not found.is_floating_point() or tuple(found.shape) not in ((), (count,)):
        raise ValueError(
            f"{_OP}: d_scale must be a number or [{count}], one for each row of d, floating "
            f"point, got {found.dtype} {list(found.shape)}"
        )
    return found.to(d.one.device).expand(count)


def _pairs(pairs: _Rows, q: Sets, d: Sets) -> Tensor:
    if not isinstance(pairs, Tensor | np.ndarray):
        pairs = torch.as_tensor(pairs)
    found = as_tensor(pairs)
    if found.ndim == 1 and len(found) == 0:
        found = found.new_zeros(0, 2, dtype=torch.int64)
    if found.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{_OP}: pairs must be int64 or int32, got {found.dtype}")
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(
            f"{_OP}: pairs must be [P, 2], a set of q and one of d each, got {list(found.shape)}"
        )
    found = found.to("cpu", torch.int64)
    for column, letter, sets in ((0, "q", q), (1, "d", d)):
        if len(found) == 0:
            break
        low, high = int(found[:, column].min()), int(found[:, column].max())
        count = len(sets.lengths)
        if low < 0 or high >= count:
            raise ValueError(
                f"{_OP}: pairs[:, {column}] must lie in [0, {count}), the sets of {letter}, "
                f"got entries from {low} to {high}"
            )
    return found
