"""Tensors of any shape and strides, cut out of larger ones, as hypothesis draws them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def tensors(
    draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, *, positive: bool = False
) -> Tensor:
    """A tensor of normal values, or of their magnitudes, its dimensions in any order in memory.

    What lies between its entries is NaN, so that reading beside them cannot go unseen.
    """
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.tuples(*[st.integers(1, 2)] * len(shape)))
    starts = draw(st.tuples(*[st.integers(0, 1)] * len(shape)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    room = [start + size * step for start, size, step in zip(starts, shape, steps, strict=True)]
    whole = torch.full([room[axis] for axis in order], torch.nan, dtype=dtype)
    places = [order.index(axis) for axis in range(len(shape))]
    view = whole.permute(places)
    for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
        view = view.narrow(axis, start, room[axis] - start)
        view = view[(slice(None),) * axis + (slice(None, None, step),)]
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    view.copy_(values.abs() if positive else values)
    if len(shape) > 1 and draw(st.integers(0, 7)) == 0:
        return view[:1].expand(shape)
    return view
