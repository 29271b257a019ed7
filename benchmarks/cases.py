"""What is measured: sizes, and the inputs that are built for them from those of the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.cases import Case, build


@dataclass(frozen=True)
class Problem:
    """Inputs of all ops, in the symbols of `emergence_ext.ops`; contiguous, on one device.

    q `[N, R, D]` stands for f in `match_kl_scaled`, with v `[N, D]`. Rows of q and d have unit
    length, as the features of the method have and as packages of late interaction expect them.
    q, d, a and v are of one type; b and P are float32.
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

    def unweighted(self) -> Problem:
        """Return the same with a = 1."""
        return replace(self, a=torch.ones_like(self.a))

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return self.q.device

    @property
    def matches(self) -> int:
        """Number of products of two regions, `N R B S`."""
        (N, R, _), (B, S, _) = self.q.shape, self.d.shape
        return N * R * B * S


def problem(
    N: int,
    R: int,
    D: int,
    *,
    B: int | None = None,
    device: torch.device | str = "cpu",
    dtype: str = "float32",
) -> Problem:
    """Build N scored and B (N when left out) conditioning images with R regions of width D."""
    x = build(Case(N=N, R=R, B=N if B is None else B, S=R, D=D))
    assert x.a is not None
    generator = torch.Generator().manual_seed(0)
    q, d = (torch.nn.functional.normalize(rows, dim=-1) for rows in (x.q, x.d))
    b = torch.randn(N, generator=generator)
    P = torch.randn(len(d), N, generator=generator).softmax(dim=1)
    v = 0.5 + torch.rand(N, D, generator=generator)
    q, d, a, v = (t.to(device, getattr(torch, dtype)) for t in (q, d, x.a, v))
    return Problem(q, d, a, b.to(device), P.to(device), v)


@dataclass(frozen=True)
class Bench:
    """One size that every op and peer is timed at, and what is timed there.

    `losses` are the ops with gradients; the forward pass is always timed. `dtype` is the type of
    the inputs, and the first of `precisions` what times are compared with.
    """

    N: int
    R: int
    D: int
    precisions: tuple[str, ...] = ("highest",)
    losses: tuple[str, ...] = ("match_kl",)
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """How the case is called in tables and on the command line."""
        name = f"D{self.D}-R{self.R}-N{self.N}"
        return name if self.dtype == "float32" else f"{name}-{self.dtype}"

    def problem(self, device: torch.device | str = "cpu") -> Problem:
        """Build the inputs."""
        return problem(self.N, self.R, self.D, device=device, dtype=self.dtype)


BOTH = ("match_kl", "match_kl_scaled")
HEADLINE = Bench(N=200, R=196, D=3)
WIDE = Bench(N=100, R=49, D=512, precisions=("highest", "medium"), losses=BOTH)
BENCHES = (HEADLINE, Bench(N=200, R=49, D=3), Bench(N=100, R=49, D=32), WIDE)


def shrunk(bench: Bench) -> Bench:
    """Return the case with few images, for a look in a minute."""
    return replace(bench, N=24)
