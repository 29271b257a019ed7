"""Time the ops and their peers at one size: rows for the tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.budget import Budget
from benchmarks.cases import Bench, Problem
from benchmarks.peers import ByMode, Call, Peer
from benchmarks.timing import Timing, measure
from emergence_ext import ops

CHECKED_IMAGES: Final = 8
"""Conditioning images on which a peer must agree with the op before it is timed."""


@dataclass(frozen=True)
class Effort:
    """How long one timing may take, which modes of torch.compile are tried, how long all may take.

    When the budget is spent, no further peer is timed.
    """

    seconds: float
    modes: tuple[str, ...]
    budget: Budget = field(default_factory=Budget)


FULL: Final = Effort(1.2, peers.MODES)
QUICK: Final = Effort(0.1, peers.MODES[:1])


@dataclass(frozen=True)
class Row:
    """One line of a table.

    `timing` is of all conditioning images of the case; a peer that was timed on fewer `images` was
    scaled, its cost being proportional to them. `ratio` is its time over that of the op at the
    first precision of the case. What could not be timed has neither, and a remark that says why.
    """

    case: str
    work: str
    group: str
    name: str
    timing: Timing | None = None
    images: int = 0
    ratio: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Work:
    """An op with its peers: what is called, and what a peer's answer must agree with."""

    name: str
    op: Callable[[str], Call]
    peers: Callable[[int], Iterator[Peer]]
    compiled: Callable[[int], dict[str, ByMode]]
    check: Callable[[Problem, Any, bool], None]


def op_name(precision: str, path: str | None = None) -> str:
    """Name the op in a table, with the path that it was made to take."""
    return f"op, {precision}" + (f", {path}" if path else "")


def fastest_of(rows: Iterable[Row]) -> float | None:
    """Return the smallest median in seconds, None where nothing was timed."""
    return min((row.timing.median for row in rows if row.timing), default=None)


def works(bench: Bench) -> list[Work]:
    """List what is timed at this size."""
    return [FORWARD] + [LOSSES[name] for name in bench.losses]


def run(bench: Bench, work: Work, effort: Effort) -> list[Row]:
    """Time one op at one size beside all of its peers."""
    x = bench.problem()
    rows: list[Row] = []
    for precision in bench.precisions:
        rows.append(time_op(bench, work, x, precision, effort, beside=rows))
    return [*rows, *time_peers(bench, work, x, fastest_of(rows[:1]), effort)]


def time_op(
    bench: Bench,
    work: Work,
    x: Problem,
    precision: str,
    effort: Effort,
    *,
    beside: Sequence[Row] = (),
    path: str | None = None,
) -> Row:
    """Time the op; in units of the first of the rows `beside` it, where there are any."""
    op = work.op(precision)
    timing = measure(lambda: op(x), effort.seconds, device=x.device)
    ratio = timing.median / (fastest_of(beside[:1]) or timing.median)
    return Row(bench.name, work.name, "op", op_name(precision, path), timing, len(x.d), ratio)


def time_peers(
    bench: Bench, work: Work, x: Problem, unit: float | None, effort: Effort
) -> Iterator[Row]:
    """Time all peers of an op, torch.compile last."""
    for peer in work.peers(bench.D):
        yield _timed(bench, work, peer, x, unit, effort)
    compiled = work.compiled(bench.D)
    # Every body is tried in the first mode, the fastest of them in every other mode.
    first, *others = effort.modes
    good: dict[str, float] = {}
    for name, make in compiled.items():
        row = _timed(bench, work, _compiled(name, make, first), x, unit, effort)
        yield row
        if row.timing:
            # By the lower quartile, which others on the machine disturb less than the median.
            good[name] = row.timing.low
    if good:
        fastest = min(good, key=good.__getitem__)
        for mode in others:
            yield _timed(bench, work, _compiled(fastest, compiled[fastest], mode), x, unit, effort)


def why_failed(error: Exception) -> str:
    """Put an error into a line of a table."""
    line = (str(error).strip().splitlines() or [""])[0]
    message = re.sub(r"(/[^\s/]+)+/", "", line)[:120]  # no folders of this machine
    return f"failed: {type(error).__name__}: {message}"


def _compiled(name: str, make: ByMode, mode: str) -> Peer:
    # Compiled at the first call, so that a failure is that of this peer.
    compiled: list[Call] = []

    def call(x: Problem) -> Any:
        if not compiled:
            compiled.append(make(mode))
        return compiled[0](x)

    return Peer(f"torch.compile {mode}: {name}", "compile", call)


def _timed(
    bench: Bench, work: Work, peer: Peer, x: Problem, unit: float | None, effort: Effort
) -> Row:
    row = partial(Row, bench.name, work.name, peer.group, peer.name)
    if effort.budget.spent:
        return row(remark="not run: no time was left")
    x = x if peer.weighted else x.unweighted()
    few = x.first(CHECKED_IMAGES)
    try:
        work.check(few, peer.call(few), peer.rough or few.q.dtype != torch.float32)
        once = measure(lambda: peer.call(few), 0, fewest=2, device=x.device).median
        # As many images as allow five calls in the time, and no fewer than were checked.
        fitting = int(effort.seconds / 5 / once * len(few.d))
        some = x.first(max(len(few.d), fitting))
        timing = measure(lambda: peer.call(some), effort.seconds, device=x.device)
    except ModuleNotFoundError as error:
        return row(remark=f"not installed: {error.name}")
    except peers.Unusable as error:
        return row(remark=f"not run: {error}")
    except Exception as error:
        # A peer that fails is a line of the table; what it is compared with goes on.
        return row(remark=why_failed(error))
    timing = timing.times(len(x.d) / len(some.d))
    ratio = timing.median / unit if unit else None
    return row(timing, len(some.d), ratio, peer.remark)


def check_forward(x: Problem, answer: Any, rough: bool) -> None:
    """Compare T with that of the op, and with the products of the matches that were found."""
    if answer is None:
        return
    T, argmax = answer
    missed = 2e-2 if rough else 1e-3
    _close("T", T, ops.maxsim(x.q, x.d, x.a), missed)
    if argmax is not None:
        q, d, a = (t.float() for t in (x.q, x.d, x.a))
        rescored = torch.stack(
            [(a * (q * d_i[s]).sum(2)).sum(1) for d_i, s in zip(d, argmax, strict=True)]
        )
        _close("the score of the matches", rescored, T, missed)


def check_gradients(x: Problem, answer: Any, rough: bool, *, scaled: bool) -> None:
    """Compare the loss and every gradient with those of the op.

    Rounding to 8 bits moves some per cent of the matches to another region, and a gradient is a sum
    of regions: two that differ in 3 % of their terms are a quarter of their size apart.
    """
    loss, grads = answer
    wanted_loss, wanted = peers.op_gradients(scaled=scaled)(x)
    _close("the loss", loss, wanted_loss, 2e-2 if rough else 1e-3)
    for name, got, want in zip("vab" if scaled else "qdab", grads, wanted, strict=True):
        if got is not None:
            _close(f"the gradient of {name}", got, want, 0.3 if rough else 1e-3)


def _close(what: str, got: Tensor, want: Tensor, missed: float) -> None:
    got, want = got.float(), want.float()
    error, size = float((got - want).norm()), float(want.norm())
    if not error <= missed * size:
        raise ValueError(f"{what} differs from the op's by {error:.2g}, whose size is {size:.2g}")


FORWARD: Final = Work(
    "forward with indices",
    peers.op_forward,
    peers.forward_peers,
    peers.compiled_forward,
    check_forward,
)
LOSSES: Final = {
    name: Work(
        f"{name} forward + backward",
        partial(peers.op_gradients, scaled=scaled),
        partial(peers.gradient_peers, scaled=scaled),
        partial(peers.compiled_gradients, scaled=scaled),
        partial(check_gradients, scaled=scaled),
    )
    for name, scaled in (("match_kl", False), ("match_kl_scaled", True))
}
MATCH_KL, SCALED = LOSSES.values()
