"""What is measured: sizes, and the inputs that are built for them from those of the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.cases import Case, build


@dataclass(frozen=True)
class Problem:
    """Inputs of all ops, in the symbols of `emergence_ext.ops`; float32, contiguous.

    q `[N, R, D]` stands for f in `match_kl_scaled`, with v `[N, D]`. Rows of q and d have unit
    length, as the features of the method have and as maxsim-cpu expects them.
    """

    q: Tensor
    d: Tensor
    a: Tensor
    b: Tensor
    P: Tensor
    v: Tensor

    def first(self, images: int) -> Problem:
        """Return the same with the first conditioning images only."""
        return replace(self, d=self.d[:images], P=self.P[:images])

    @property
    def matches(self) -> int:
        """Number of products of two regions, `N R B S`."""
        (N, R, _), (B, S, _) = self.q.shape, self.d.shape
        return N * R * B * S


def problem(N: int, R: int, D: int, *, B: int | None = None) -> Problem:
    """Build N scored and B (N when left out) conditioning images with R regions of width D."""
    x = build(Case(N=N, R=R, B=N if B is None else B, S=R, D=D))
    assert x.a is not None
    generator = torch.Generator().manual_seed(0)
    q, d = (torch.nn.functional.normalize(rows, dim=-1) for rows in (x.q, x.d))
    b = torch.randn(N, generator=generator)
    P = torch.randn(len(d), N, generator=generator).softmax(dim=1)
    v = 0.5 + torch.rand(N, D, generator=generator)
    return Problem(q, d, x.a, b, P, v)


@dataclass(frozen=True)
class Bench:
    """One size that every op and peer is timed at, and what is timed there."""

    N: int
    R: int
    D: int
    precisions: tuple[str, ...] = ("highest",)
    scaled: bool = False

    @property
    def name(self) -> str:
        """How the case is called in tables and on the command line."""
        return f"D{self.D}-R{self.R}-N{self.N}"


HEADLINE = Bench(N=200, R=196, D=3)
WIDE = Bench(N=100, R=49, D=512, precisions=("highest", "medium"), scaled=True)
BENCHES = (HEADLINE, Bench(N=200, R=49, D=3), Bench(N=100, R=49, D=32), WIDE)


def shrunk(bench: Bench) -> Bench:
    """Return the case with few images, for a look in a minute."""
    return replace(bench, N=24)
