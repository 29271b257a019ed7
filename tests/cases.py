"""One table of matching problems, for the tests of every backend and for the benchmarks.

Only torch is imported here, so that the same inputs can be built anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A problem of matching: sizes (in the symbols of the docs), how values are laid out, dtype."""

    N: int
    R: int
    B: int
    S: int
    D: int
    values: str = "normal"
    strides: str = "contiguous"
    weights: bool = True
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def __str__(self) -> str:
        kind = [self.values, self.strides, str(self.dtype).removeprefix("torch.")]
        sizes = f"N{self.N}-R{self.R}-B{self.B}-S{self.S}-D{self.D}"
        return "-".join([sizes, *kind] + ([] if self.weights else ["ones"]))


@dataclass(frozen=True)
class Inputs:
    """Arguments of `maxsim`: q `[N, R, D]`, d `[B, S, D]`, a `[N, R]` or None."""

    q: Tensor
    d: Tensor
    a: Tensor | None


# Every width, every number of regions and every number of images occurs, together with small and
# large others; a full product would take minutes and show nothing more.
_SIZES = [
    Case(N=1, R=1, B=1, S=1, D=1),
    Case(N=2, R=2, B=7, S=1, D=2),
    Case(N=7, R=15, B=2, S=16, D=3),
    Case(N=2, R=16, B=2, S=15, D=4),
    Case(N=7, R=17, B=7, S=17, D=5),
    Case(N=2, R=49, B=1, S=49, D=8),
    Case(N=1, R=196, B=2, S=196, D=3),
    Case(N=2, R=257, B=2, S=257, D=3),
    Case(N=2, R=16, B=2, S=2, D=16),
    Case(N=1, R=17, B=2, S=49, D=63),
    Case(N=2, R=15, B=1, S=17, D=64),
    Case(N=2, R=49, B=2, S=16, D=512),
    Case(N=1, R=2, B=2, S=15, D=1280),
    Case(N=1, R=1, B=2, S=257, D=64),
    Case(N=2, R=196, B=1, S=1, D=2),
]
_VALUES = [
    Case(N=2, R=17, B=7, S=49, D=3, values="ties"),
    Case(N=2, R=17, B=2, S=257, D=16, values="ties"),
    Case(N=2, R=16, B=2, S=17, D=5, values="first"),
    Case(N=2, R=15, B=2, S=17, D=5, values="last"),
    Case(N=2, R=17, B=2, S=257, D=64, values="last"),
    Case(N=7, R=15, B=2, S=16, D=3, values="negative"),
    Case(N=2, R=17, B=2, S=15, D=64, values="negative"),
    Case(N=2, R=17, B=2, S=15, D=3, values="zero rows"),
]
_LAYOUTS = [
    Case(N=7, R=17, B=2, S=49, D=5, strides="transposed"),
    Case(N=2, R=49, B=7, S=17, D=64, strides="sliced"),
    Case(N=2, R=16, B=2, S=17, D=3, strides="expanded"),
    Case(N=7, R=15, B=2, S=17, D=4, weights=False),
]
CASES = _SIZES + _VALUES + _LAYOUTS
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def build(case: Case, device: str = "cpu") -> Inputs:
    """Make the inputs of a case; the same values on every machine."""
    generator = torch.Generator().manual_seed(case.seed)
    q = _values(case, (case.N, case.R, case.D), generator)
    d = _values(case, (case.B, case.S, case.D), generator)
    a = torch.rand(case.N, case.R, generator=generator, dtype=torch.float64)
    if case.values in ("first", "last"):
        # All of q and d are positive, so that the largest region wins whatever scores it.
        q, d = q.abs() + 0.1, d.abs() + 0.1
        d[:, 0 if case.values == "first" else -1] += d.amax()
    if case.values == "negative":
        q, d = q.abs() + 0.1, -d.abs() - 0.1
    if case.values == "zero rows":
        q[:, ::2], d[:, 1::3] = 0, 0
    q, d, a = (
        _lay_out(x, case.strides).to(device) for x in (_as(q, case), _as(d, case), _as(a, case))
    )
    return Inputs(q, d, a if case.weights else None)


def _values(case: Case, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if case.values == "ties":
        # Few small integers: products are exact in every dtype and many are equal.
        return torch.randint(-1, 2, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _as(x: Tensor, case: Case) -> Tensor:
    return x.to(case.dtype)


def _lay_out(x: Tensor, strides: str) -> Tensor:
    if strides == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if strides == "sliced":
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if strides == "expanded":
        return x[:1].expand(x.shape)
    return x
