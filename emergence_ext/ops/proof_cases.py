"""The problems of a proof: inputs whose right answers are known, on any device.

Most hold small whole numbers, of which every product and sum is exact in each dtype and precision,
so that scores, matches and gradients must be equal, not near, and many matches tie. Others hold
random numbers, whose scores may miss by what rounding explains. Inputs stand between red zones of
NaN: a read outside of one spoils a result, a write shows afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from emergence_ext.ops import reference

ZONE: Final = 1024
"""Numbers of a red zone, on either side of an input."""

SELECTION: Final = {"highest": 0.0, "high": 2.0**-15, "medium": 2.0**-6}
"""By how much of `sum_k |q_k d_k|` a match may miss the best one, as `maxsim` says."""

CANCELLED: Final = 1e-9
"""Size in float64 of a gradient whose terms cancel: over d those in the scores of an image of q sum
to 0, and so does all that hangs on them where its matches hold the same numbers."""

NEAR: Final = 2e-4
"""Share of its size by which a loss or gradient in float32 may miss: what is wrong misses by more,
and rounding by a hundredth of that."""

HALVES: Final = (torch.bfloat16, torch.float16)


class Wrong(Exception):
    """What is wrong with a result."""


@dataclass(frozen=True)
class Problem:
    """Sizes as in `maxsim`, and what the inputs are.

    Attributes:
        values: "whole", small whole numbers; "normal"; "first" or "last", where that candidate of
            each image wins all rows; "ties", where all candidates of an image are equal; "nan", one
            in q and one in d.
        offset: by how many numbers the inputs miss the beginning of their memory.
        losses: whether losses and gradients are compared too.
    """

    N: int
    R: int
    B: int
    S: int
    D: int
    dtype: torch.dtype = torch.float32
    precision: str = "highest"
    values: str = "whole"
    offset: int = 0
    losses: bool = True

    def __str__(self) -> str:
        sizes = f"N{self.N} R{self.R} B{self.B} S{self.S} D{self.D}"
        kinds = [str(self.dtype).removeprefix("torch."), self.precision, self.values]
        return " ".join([sizes, *kinds] + ([f"offset {self.offset}"] if self.offset else []))


class Targets(NamedTuple):
    """What a loss compares with, as in `match_kl`."""

    b: Tensor
    P: Tensor
    exclude: Tensor


@dataclass(frozen=True)
class Inputs:
    """Arguments of all ops, on the CPU in float64 as the device holds them."""

    q: Tensor
    v: Tensor
    d: Tensor
    a: Tensor
    targets_over: dict[str, Targets]  # "q" and "d"
    G: Tensor  # dL/dT, for the gradients of maxsim


def problems(way: str) -> Iterator[Problem]:
    """The problems of a way, from the least on."""
    if way in ("narrow", "split", "triton"):
        shapes = [
            Problem(3, R, 3 if R * S > 9999 else 11, S, D)
            for R in (1, 49, 1100)
            for S in (1, 7, 14, 49, 196, 257, 1000)
            for D in (1, 3, 4, 5, 8)
        ]
        other = (torch.float64, torch.bfloat16) if way == "narrow" else ()
        shapes += [Problem(3, 49, 11, 196, 3, dtype) for dtype in other]
        filling = Problem(64, 196, 64, 196, 3, losses=False)
    elif way == "wide":
        shapes = [
            Problem(3, R, 5, S, D, dtype)
            for dtype in (torch.float32, torch.float64)
            for R in (43, 100)
            for S in (1, 49, 196, 300)
            for D in (9, 63, 64, 520)
        ]
        filling = Problem(32, 196, 32, 196, 64, losses=False)
    else:
        hopper = way == "hopper"
        # Rows in an odd number of tiles of 128, images that no tile of two or four divides, and
        # more steps than a ring of copies holds in three laps.
        shapes = [
            Problem(3, 100, 5, S, D, dtype, precision, offset=offset)
            for S in (49, 100, 128, 196, 300)
            for D in ((64, 520, 2048) if hopper else (9, 63, 64, 520))
            for dtype, precision, offset in (
                *((half, "highest", offset) for half in HALVES for offset in (0, 1)),
                (torch.float32, "high", 0),
                (torch.float32, "medium", 0),
            )
        ]
        filling = Problem(32, 196, 32, 196, 64, torch.bfloat16, losses=False)
    yield from shapes
    for shape in {
        (each.dtype, each.precision): each for each in shapes if each.S in (49, 196)
    }.values():
        small = replace(shape, N=3, R=49, B=5)
        for values in ("normal", "first", "last", "ties", "nan"):
            yield replace(small, values=values)
        yield replace(small, offset=3)
    yield filling


def repeated(way: str) -> Problem:
    """The problem that is computed twenty times, on a busy device, and from a graph."""
    dtype = torch.bfloat16 if way in ("planes", "hopper") else torch.float32
    D = 3 if way in ("narrow", "split", "triton") else 72
    return Problem(5, 100, 11, 196, D, dtype, values="normal")


def inputs_of(problem: Problem) -> Inputs:
    """Make the inputs of a problem; the same on every machine."""
    generator = torch.Generator().manual_seed(0)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator).double()

    p = problem
    most = 8 if p.D <= 8 else 3
    q, d = whole(-most, most, p.N, p.R, p.D), whole(-most, most, p.B, p.S, p.D)
    if p.values == "normal":
        q, d = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (q, d))
        q, d = q.to(p.dtype).double(), d.to(p.dtype).double()
    if p.values in ("first", "last"):
        q, d = q.abs() + 1, d.abs()
        d[:, 0 if p.values == "first" else -1] = most + 1
    if p.values == "ties":
        d = d[:, :1].expand(d.shape).clone()
    if p.values == "nan":
        q[-1, p.R // 2, 0] = d[0, p.S // 2, -1] = torch.nan
    # Scores of some units, in numbers that stay exact: a share of 2^-k of whole ones.
    scale = 2.0 ** -min(14, math.ceil(math.log2(p.R * most * most * math.sqrt(p.D))))

    def targets(rows: int, columns: int) -> Targets:
        P = torch.softmax(2 * torch.randn(rows, columns, generator=generator).double(), 1)
        exclude = torch.arange(rows) % columns
        exclude[-1] = -1
        P[exclude[:, None] == torch.arange(columns)] = 0
        P = (P / P.sum(1, keepdim=True)).to(torch.float32).double()
        return Targets(whole(-4, 4, columns) / 8, P, exclude)

    return Inputs(
        q, whole(1, 2, p.N, p.D), d, scale * whole(0, 3, p.N, p.R),
        {"q": targets(p.B, p.N), "d": targets(p.N, p.B)}, whole(-2, 2, p.B, p.N),
    )  # fmt: skip


class Zones:
    """Inputs on a device, each between red zones."""

    def __init__(self, device: torch.device, offset: int = 0) -> None:
        self.device, self.offset = device, offset
        self._zones: list[Tensor] = []

    def put(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of x there."""
        room = torch.full(
            (x.numel() + 2 * ZONE + self.offset,), torch.nan, dtype=dtype, device=self.device
        )
        start = ZONE + self.offset
        inner = room[start : start + x.numel()]
        self._zones += [room[:start], room[start + x.numel() :]]
        return inner.copy_(x.reshape(-1)).view(x.shape)

    def beside(self, *sizes: int) -> None:
        """Leave holes of these bytes between red zones, for what the ops will allocate."""
        holes: list[Tensor] = []
        for size in sizes:
            for length, kept in ((max(1, size), holes), (4 * ZONE, self._zones)):
                kept.append(torch.full((-(-length // 4),), torch.nan, device=self.device))

    def check(self) -> None:
        """Raise `Wrong` where a zone was written to."""
        if not all(bool(zone.isnan().all()) for zone in self._zones):
            raise Wrong("memory beside an input or a result was written to")


def check(problem: Problem, ops: Any, device: torch.device | str) -> None:
    """Solve a problem by `ops` on a device.

    Raises:
        Wrong: a result is not what it must be.
    """
    x = inputs_of(problem)
    zones = Zones(torch.device(device), problem.offset)
    q, d, a = (zones.put(each, problem.dtype) for each in (x.q, x.d, x.a))
    products = problem.B * problem.N * problem.R
    zones.beside(4 * problem.B * problem.N, products, 8 * products, 4 * q.numel(), 4 * d.numel())
    T, argmax = ops.maxsim_indices(q, d, a, precision=problem.precision)
    again = ops.maxsim(q, d, a, precision=problem.precision)
    _equal("the scores without matches", again.cpu(), T.cpu())
    _check_scores(problem, x, T.cpu(), argmax.cpu())
    if problem.losses and problem.values not in ("normal", "nan"):
        _check_gradients(problem, x, ops, (q, d, a))
        for op in ("match_kl", "match_kl_scaled"):
            for over in ("q", "d"):
                _check_loss(problem, op, over, x, ops, zones)
    zones.check()


def results(problem: Problem, ops: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Scores, matches, the loss and all gradients of `inputs`, see `on_device`."""
    q, d, a = (inputs[name] for name in ("q", "d", "a"))
    found = [*ops.maxsim_indices(q, d, a, precision=problem.precision)]
    leaves = {name: inputs[name].detach().requires_grad_() for name in ("q", "d", "a", "b")}
    loss = ops.match_kl(
        **leaves, P=inputs["P"], exclude=inputs["exclude"], precision=problem.precision
    )
    return [*found, loss.detach(), *torch.autograd.grad(loss, list(leaves.values()))]


def on_device(problem: Problem, device: torch.device | str) -> dict[str, Tensor]:
    """The inputs of `results`, by name."""
    x = inputs_of(problem)
    b, P, exclude = x.targets_over["q"]
    given = {"q": x.q, "d": x.d, "a": x.a, "b": b, "P": P}
    moved = {name: tensor.to(device, problem.dtype) for name, tensor in given.items()}
    return moved | {"exclude": exclude.to(device)}


def _check_scores(problem: Problem, x: Inputs, T: Tensor, argmax: Tensor) -> None:
    if problem.values == "nan":
        clean = replace(problem, values="whole")
        truth, _ = reference.maxsim_indices(*_of(inputs_of(clean)))
        truth[:, -1] = truth[0] = torch.nan
        _equal("the scores beside a NaN", T, truth)
        if not bool(((argmax >= 0) & (argmax < problem.S)).all()):
            raise Wrong("matches beside a NaN are no candidates")
        return
    truth, best = reference.maxsim_indices(*_of(x))
    if problem.values != "normal":
        _equal("the matches", argmax, best)
        _equal("the scores", T, truth)
        return
    if not bool(((argmax >= 0) & (argmax < problem.S)).all()):
        raise Wrong("matches are no candidates")
    eps = torch.finfo(T.dtype).eps
    size = torch.einsum("nr,bs->bnrs", x.q.norm(dim=2), x.d.norm(dim=2)).amax(3)
    chosen, top = _products(x, argmax), _products(x, best)
    allowed = (SELECTION[problem.precision] + 2 * problem.D * eps) * size
    if not bool((chosen >= top - allowed).all()):
        raise Wrong(f"a match misses the best one by {float((top - chosen).max()):.2g}")
    slack = (problem.D + problem.R) * eps * (x.a * size).sum(2)
    missed = (T.double() - (x.a * chosen).sum(2)).abs()
    if not bool((missed <= slack).all()):
        raise Wrong(f"a score misses by {float(missed.max()):.2g}")


def _check_gradients(problem: Problem, x: Inputs, ops: Any, given: tuple[Tensor, ...]) -> None:
    exact = [each.clone().requires_grad_() for each in _of(x)]
    truth = torch.autograd.grad(reference.maxsim(*exact), exact, x.G)
    leaves = [each.detach().requires_grad_() for each in given]
    T = ops.maxsim(*leaves, precision=problem.precision)
    found = torch.autograd.grad(T, leaves, x.G.to(T.device, T.dtype))
    for name, mine, other in zip("qda", found, truth, strict=True):
        _equal(f"the gradient of maxsim in {name}", mine.cpu(), other.to(problem.dtype))


def _check_loss(problem: Problem, op: str, over: str, x: Inputs, ops: Any, zones: Zones) -> None:
    scaled = op == "match_kl_scaled"
    exact = {"f" if scaled else "q": x.q} | ({"v": x.v} if scaled else {})
    exact |= {"d": x.d, "a": x.a}
    b, P, exclude = x.targets_over[over]
    exact |= {"b": b, "P": P}
    given = {name: zones.put(each, problem.dtype) for name, each in exact.items()}
    exact["P"] = given["P"].cpu().double()  # which is not whole
    wanted = ["v", "a", "b"] if scaled else ["q", "d", "a", "b"]
    options = {"over": over, "precision": problem.precision}
    found = _loss(getattr(ops, op), given, wanted, exclude, **options)
    truth = _loss(getattr(reference, op), exact, wanted, exclude, over=over)
    for name, mine in found.items():
        missed, size = (mine.cpu().double() - truth[name]).norm(), truth[name].norm()
        if name == "loss":
            allowed = NEAR * (1 + size)  # of terms of some units
        else:
            info = torch.finfo(mine.dtype)
            allowed = (NEAR + info.eps) * size + info.tiny * info.eps * math.sqrt(mine.numel())
            if size < CANCELLED:
                # Of a kernel in float32 the rounding of the terms is left, whose sizes are units.
                allowed = NEAR * math.sqrt(mine.numel())
        if not bool(missed <= allowed):
            raise Wrong(
                f"{op} over {over}: {_named(name)}, of size {size:.2g}, misses by {missed:.2g}"
            )


def _loss(
    op: Any, given: dict[str, Tensor], wanted: list[str], exclude: Tensor, **options: Any
) -> dict[str, Tensor]:
    leaves = {name: given[name].detach().requires_grad_() for name in wanted}
    place = given["d"].device
    loss = op(**{**given, **leaves}, exclude=exclude.to(place), **options)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return {"loss": loss.detach()} | dict(zip(leaves, grads, strict=True))


def _named(name: str) -> str:
    return "the loss" if name == "loss" else f"the gradient in {name}"


def _of(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return x.q, x.d, x.a


def _products(x: Inputs, matches: Tensor) -> Tensor:
    """`<q[j, r], d[i, matches[i, j, r]]>`, `[B, N, R]`."""
    images = torch.arange(len(x.d))[:, None, None]
    return torch.einsum("nrk,bnrk->bnr", x.q, x.d[images, matches])


def _equal(what: str, mine: Tensor, truth: Tensor) -> None:
    """Raise `Wrong` unless all numbers are the same, or both are NaN."""
    mine, truth = mine.double(), truth.double()
    wrong = ~((mine == truth) | (mine.isnan() & truth.isnan()))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        raise Wrong(
            f"{int(wrong.sum())} of {wrong.numel()} of {what}, the first at {place}: "
            f"{float(mine[tuple(place)]):.8g} for {float(truth[tuple(place)]):.8g}"
        )
