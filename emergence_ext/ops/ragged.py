"""Sets of different sizes for what computes on full ones: padding that changes nothing.

The library's kernels for the CPU know lengths; plain torch and Triton get padding filled here: rows
of d with copies of the image's first, which never win against it, rows of q with zeros of weight 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """How many regions each image has.

    Attributes:
        q_lengths: `[N]`, or None where all have R.
        d_lengths: `[B]`, or None where all have S.
        empty_score: of a pair whose image of d has none.
    """

    q_lengths: Tensor | None = None
    d_lengths: Tensor | None = None
    empty_score: float = -1e9

    @property
    def empty(self) -> Tensor | None:
        """Which images of d have no regions, `[B]`; None where all of them are full."""
        return None if self.d_lengths is None else self.d_lengths == 0

    def check(self, op: str, q: Tensor, d: Tensor) -> None:
        """An error that names the lengths that do not fit q `[N, R, D]` and d `[B, S, D]`."""
        for letter, lengths, x in (("q", self.q_lengths, q), ("d", self.d_lengths, d)):
            if lengths is None:
                continue
            name, (images, rows) = f"{letter}_lengths", x.shape[:2]
            if lengths.dtype not in (torch.int64, torch.int32) or lengths.device != x.device:
                raise TypeError(
                    f"{op}: {name} must be int64 or int32 on {x.device}, "
                    f"got {lengths.dtype} on {lengths.device}"
                )
            if lengths.shape != (images,):
                raise ValueError(
                    f"{op}: {name} must be [{images}], one for each image of {letter}, "
                    f"got {list(lengths.shape)}"
                )
            if images == 0 or lengths.device.type != "cpu":
                continue
            low, high = int(lengths.min()), int(lengths.max())
            if low < 0 or high > rows:
                raise ValueError(
                    f"{op}: {name} must lie in [0, {rows}], as {letter} has room for {rows} "
                    f"regions of an image; got entries from {low} to {high}"
                )

    def filled(self, q: Tensor, d: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sets with padding that changes nothing; images of d without regions are zeros."""
        if self.q_lengths is not None:
            padding = _beyond(self.q_lengths, q)
            q, a = q.masked_fill(padding[..., None], 0), a.masked_fill(padding, 0)
        if self.d_lengths is not None:
            d = torch.where(_beyond(self.d_lengths, d)[..., None], d[:, :1], d)
            d = d.masked_fill((self.d_lengths == 0)[:, None, None], 0)
        return q, d, a

    def scores(self, T: Tensor) -> Tensor:
        """Scores `[B, N]` of filled sets, with those of images without regions."""
        empty = self.empty
        return T if empty is None else T.masked_fill(empty[:, None], self.empty_score)

    def without_empty(self, dd: Tensor) -> Tensor:
        """The gradient of filled d, where images without regions have none."""
        empty = self.empty
        return dd if empty is None else dd.masked_fill(empty[:, None, None], 0)

    def bias(self, b: Tensor, over: str) -> Tensor:
        """The bias of a softmax over scores of filled sets that are not `scores`.

        Over q the scores of an image without regions are equal, whatever they are.
        """
        empty = self.empty
        if empty is None or over == "q":
            return b
        return b + torch.where(empty & ~empty.all(), self.empty_score, 0.0).to(b.dtype)


def _beyond(lengths: Tensor, x: Tensor) -> Tensor:
    """Which rows of x `[images, rows, D]` are padding, `[images, rows]`."""
    return torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
