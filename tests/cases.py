"""One table of matching problems, for the tests of every backend and for the benchmarks.

Only torch is imported here, so that the same inputs can be built anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class LossInputs:
    """Arguments of `match_kl` and `match_kl_scaled`, q of the one being f of the other.

    q `[N, R, D]`, v `[N, D]`, d `[B, S, D]`, a `[N, R]`, b `[N]`, P `[B, N]`, exclude `[B]` or
    None; where the softmax runs over d, b `[B]`, P `[N, B]`, exclude `[N]`. Lengths `[N]` and `[B]`
    where images have fewer regions than there is room for.
    """

    q: Tensor
    v: Tensor
    d: Tensor
    a: Tensor
    b: Tensor
    P: Tensor
    exclude: Tensor | None
    over: str = "q"
    q_lengths: Tensor | None = None
    d_lengths: Tensor | None = None

    def of(self, op: str) -> dict[str, Any]:
        """The arguments of `op` ("match_kl" or "match_kl_scaled") by their names."""
        first = {"q": self.q} if op == "match_kl" else {"f": self.q, "v": self.v}
        rest = {key: getattr(self, key) for key in ("d", "a", "b", "P", "exclude")}
        given = {"q_lengths": self.q_lengths, "d_lengths": self.d_lengths}
        if self.over == "d":
            given["over"] = self.over
        return first | rest | {name: value for name, value in given.items() if value is not None}


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
# More rows than are packed at once, more images than make a task, and rows wider than any block.
LARGE = [
    Case(N=1, R=1500, B=3, S=5, D=3),
    Case(N=2, R=300, B=2, S=7, D=512),
    Case(N=150, R=17, B=70, S=2, D=2),
    Case(N=2, R=3, B=2, S=3, D=5000),
]
# What takes different ways on a GPU: narrow rows, wide ones and 16-bit numbers; images in several
# groups of eight, none of them full; matches of one byte and of more.
KINDS = [
    Case(N=13, R=49, B=27, S=49, D=3),
    Case(N=13, R=49, B=27, S=49, D=3, dtype=torch.float64),
    Case(N=13, R=17, B=19, S=300, D=5),
    Case(N=11, R=33, B=21, S=17, D=40),
    Case(N=11, R=33, B=21, S=49, D=72, dtype=torch.bfloat16),
    Case(N=11, R=33, B=21, S=300, D=128, dtype=torch.float16),
    Case(N=9, R=49, B=9, S=49, D=512),
]
# What each loss has a gradient for.
DIFFERENTIABLE = {"match_kl": ["q", "d", "a", "b"], "match_kl_scaled": ["v", "a", "b"]}
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
    # On the device: a copy to it has strides of its own.
    q, d, a = (_lay_out(x.to(case.dtype).to(device), case.strides) for x in (q, d, a))
    return Inputs(q, d, a if case.weights else None)


def build_loss(
    case: Case, *, exclude: bool = False, over: str = "q", device: str = "cpu"
) -> LossInputs:
    """Make the inputs of a loss: scores whose softmax is neither flat nor all in one place.

    Rows of P sum to 1 and hold a zero. With `exclude` row i leaves out column i, and the last row,
    where there are more, leaves out none.
    """
    x = build(case, device)
    generator = torch.Generator().manual_seed(case.seed + 1)
    rows, columns = (case.B, case.N) if over == "q" else (case.N, case.B)
    a = torch.ones(case.N, case.R, dtype=torch.float64) if x.a is None else x.a.cpu().double()
    v = torch.rand(case.N, case.D, generator=generator, dtype=torch.float64) + 0.5
    b = torch.randn(columns, generator=generator, dtype=torch.float64)
    P = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    if columns > 2:
        P[:, 1] = 0
    out = None
    if exclude:
        out = torch.arange(rows) % max(columns, 1)
        out[1:][-1:] = -1
        P[out[:, None] == torch.arange(columns)] = 0
    P /= P.sum(1, keepdim=True).clamp(min=1e-9)
    a, v, b, P = (
        _lay_out(t.to(case.dtype).to(device), case.strides)
        for t in (a / max(case.R * case.D, 1) ** 0.5, v, b, P)
    )
    return LossInputs(x.q, v, x.d, a, b, P, None if out is None else out.to(device), over)


def run_loss(
    module: Any, op: str, x: LossInputs, dtype: torch.dtype | None = None, **options: Any
) -> dict[str, Tensor]:
    """Give "loss" and, by their names, all gradients of `op` of `module` (`ops` or `reference`).

    With `dtype` the inputs are converted first.
    """
    arguments = {
        name: t.to(dtype) if dtype and isinstance(t, Tensor) and t.is_floating_point() else t
        for name, t in x.of(op).items()
    }
    leaves = {name: arguments[name].detach().requires_grad_() for name in DIFFERENTIABLE[op]}
    loss = getattr(module, op)(**arguments | leaves, **options)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {"loss": loss.detach()} | dict(zip(leaves, grads, strict=True))


def _values(case: Case, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if case.values == "ties":
        # Few small integers: products are exact in every dtype and many are equal.
        return torch.randint(-1, 2, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


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
