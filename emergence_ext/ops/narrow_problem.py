"""Narrow rows and their candidates as the Triton kernels read them, and the launches of those."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

_RUN: Final = 7  # candidates whose maximum is compared at once
_IMAGES: Final = 4  # that a program meets in turn
_THREADS: Final = 128  # of a program, Triton's default


class Problem(NamedTuple):
    """Rows and candidates as the kernels read them, and the launches of the kernels.

    Attributes:
        q: rows, `[N, R, D]`, contiguous, float32; v `[N, D]` scales them, where there is one.
        d: candidates, `[B, S', D]`, the last repeated up to a whole number of runs.
        a: weights, `[N, R]`, or None for ones.
        S: candidates of an image without those repeated.
    """

    q: Tensor
    d: Tensor
    a: Tensor | None
    v: Tensor | None
    S: int

    @classmethod
    def of(cls, q: Tensor, d: Tensor, a: Tensor | None, v: Tensor | None = None) -> Problem:
        """Bring inputs of any strides, in float32 or less, into this form."""
        S = d.shape[1]
        d = torch.cat([d, d[:, -1:].expand(-1, -S % _RUN, -1)], 1) if S % _RUN else d
        weights, scale = (None if x is None else plain(x) for x in (a, v))
        return cls(plain(q), plain(d), weights, scale, S)

    @property
    def sizes(self) -> dict[str, int]:
        """Of the rows: their number N R, how many an image has, and their channels."""
        N, R, D = self.q.shape
        return {"rows": N * R, "R": R, "D": D}

    def copied(self, *inputs: Tensor) -> int:
        """Bytes of what is not the inputs' own memory."""
        given = {x.untyped_storage().data_ptr() for x in inputs}
        own = (x for x in (self.q, self.d, self.a, self.v) if x is not None)
        return sum(x.nbytes for x in own if x.untyped_storage().data_ptr() not in given)

    def on_its_device(self) -> AbstractContextManager[Any]:
        """Where Triton launches: on the current device, whatever the tensors'."""
        return torch.cuda.device(self.q.device) if self.q.is_cuda else nullcontext()

    def match(self, rows: slice, value: Tensor, place: Tensor | None, T: Tensor) -> None:
        """Write products, places and scores of the images of `rows`."""
        (N, R, D), d = self.q.shape, self.d[rows]
        of_program = _THREADS * (8 if D <= 4 else 4)
        programs = ceil_div(N * R, of_program) * ceil_div(len(d), _IMAGES)
        options = {"n": len(d), "S": d.shape[1], "ROWS": of_program, "RUN": _RUN, "IMAGES": _IMAGES}
        launch("match", programs, self.q, self.v, d, value, place, **self.sizes, **options)
        options = {"pairs": len(d) * N, "N": N, "R": R, "PAIRS": 32, "REGIONS": 32}
        launch("weigh", ceil_div(len(d) * N, 32), value, self.a, T, **options)

    def new_sums(self) -> Tensor:
        """`u[j, r] = sum_i G[i, j] d[i, place]` before the first image."""
        return torch.zeros_like(self.q)

    def add_scored(self, start: int, G: Tensor, place: Tensor, u: Tensor) -> None:
        """Add the images from `start` on, as many as G has, to u."""
        n, N = G.shape
        d = self.d[start : start + n]
        options = {"N": N, "n": n, "S": d.shape[1], "ROWS": _THREADS}
        programs = ceil_div(u.shape[0] * u.shape[1], _THREADS)
        launch("add_scored", programs, d, G, place, u, **self.sizes, **options)

    def of_q(self, images: slice) -> Problem:
        """The same of some images of q."""
        a, v = (None if x is None else x[images] for x in (self.a, self.v))
        return self._replace(q=self.q[images], a=a, v=v)

    def add_conditioning(self, G: Tensor, place: Tensor, dd: Tensor, images: int) -> None:
        """Add to the gradient of d, so many images of q at a time."""
        n, N = G.shape
        (_, R, D), S = self.q.shape, self.S
        candidates = 1 << (S - 1).bit_length()
        candidates = min(max(candidates, 4), 128 if D <= 4 else 64)
        options = {"N": N, "S": S, "CANDIDATES": candidates, "ROWS": 32}
        programs = n * ceil_div(S, candidates)
        # A launch for each group: a second loop in the kernel costs it registers that it lacks.
        for first in range(0, len(self.q), max(1, images)):
            options |= {"begin": first * R, "end": min(first + images, len(self.q)) * R}
            launch("conditioning", programs, self.q, self.a, G, place, dd, **self.sizes, **options)

    def weight_gradient(self, u: Tensor) -> Tensor:
        """`da = <q, u>`, a channel at a time: no library's product, no second q."""
        da = u.new_zeros(u.shape[:2])
        for k in range(u.shape[2]):
            q = self.q[..., k]
            da.addcmul_(q if self.v is None else q * self.v[:, None, k], u[..., k])
        return da

    def weighed(self, u: Tensor) -> Tensor:
        """Turn u into `dq = a u`."""
        return u if self.a is None else u.mul_(self.a[..., None])


def launch(kernel: str, programs: int, *tensors: Tensor | None, **sizes: int) -> None:
    """Enqueue a kernel on the current stream; nothing where there is nothing to do."""
    from emergence_ext.ops import narrow_kernels

    if programs:
        getattr(narrow_kernels, kernel)[(programs,)](*tensors, **sizes)


def plain(x: Tensor) -> Tensor:
    """In float32, contiguous."""
    return x.to(torch.float32).contiguous()


def ceil_div(x: int, y: int) -> int:
    """Divide and round up."""
    return -(-x // y)
