"""Time the ops and their peers at one size: rows for the tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from benchmarks import peers
from benchmarks.cases import Bench, Problem, problem
from benchmarks.peers import ByMode, Call, Peer
from benchmarks.timing import Timing, measure
from emergence_ext import ops

CHECKED_IMAGES: Final = 8
"""Conditioning images on which a peer must agree with the op before it is timed."""


@dataclass(frozen=True)
class Effort:
    """How long one timing may take, and which modes of torch.compile are tried."""

    seconds: float
    modes: tuple[str, ...]


FULL: Final = Effort(1.2, peers.MODES)
QUICK: Final = Effort(0.1, peers.MODES[:1])


@dataclass(frozen=True)
class Row:
    """One line of a table.

    `timing` is of all conditioning images of the case; a peer that was timed on fewer `images` was
    scaled, its cost being proportional to them. `ratio` is its time over that of the op at
    "highest". A peer that could not be timed has neither, and a remark that says why.
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
    check: Callable[[Problem, Any], None]


def op_name(precision: str) -> str:
    """Name the op in a table."""
    return f"op, {precision}"


def fastest_of(rows: Iterable[Row]) -> float | None:
    """Return the smallest median in seconds, None where nothing was timed."""
    return min((row.timing.median for row in rows if row.timing), default=None)


def works(bench: Bench) -> list[Work]:
    """List what is timed at this size."""
    return [FORWARD, MATCH_KL] + ([SCALED] if bench.scaled else [])


def run(bench: Bench, work: Work, effort: Effort) -> list[Row]:
    """Time one op at one size beside all of its peers."""
    x = problem(bench.N, bench.R, bench.D)
    rows: list[Row] = []

    def add(row: Row) -> Row:
        rows.append(row)
        return row

    unit = 0.0
    for precision in bench.precisions:
        op = work.op(precision)
        timing = measure(lambda: op(x), effort.seconds)  # noqa: B023 (called in this turn)
        unit = unit or timing.median  # "highest" comes first
        ratio = timing.median / unit
        add(Row(bench.name, work.name, "op", op_name(precision), timing, len(x.d), ratio))

    def timed(peer: Peer) -> Row:
        return add(_timed(bench, work, peer, x, unit, effort))

    for peer in work.peers(bench.D):
        timed(peer)
    compiled = work.compiled(bench.D)
    # Every body is tried in the first mode, the fastest of them in every other mode.
    first, *others = effort.modes
    tried = {name: timed(_compiled(name, make, first)) for name, make in compiled.items()}
    # By the lower quartile, which others on the machine disturb less than the median.
    good = {name: row.timing.low for name, row in tried.items() if row.timing}
    if good:
        fastest = min(good, key=good.__getitem__)
        for mode in others:
            timed(_compiled(fastest, compiled[fastest], mode))
    return rows


def _compiled(name: str, make: ByMode, mode: str) -> Peer:
    # Compiled at the first call, so that a failure is that of this peer.
    made: list[Call] = []

    def call(x: Problem) -> Any:
        if not made:
            made.append(make(mode))
        return made[0](x)

    return Peer(f"torch.compile {mode}: {name}", "compile", call)


def _timed(bench: Bench, work: Work, peer: Peer, x: Problem, unit: float, effort: Effort) -> Row:
    row = partial(Row, bench.name, work.name, peer.group, peer.name)
    few = x.first(CHECKED_IMAGES)
    try:
        work.check(few, peer.call(few))
        once = measure(lambda: peer.call(few), 0, fewest=2).median
        # As many images as allow five calls in the time, and no fewer than were checked.
        fitting = int(effort.seconds / 5 / once * len(few.d))
        some = x.first(max(len(few.d), fitting))
        timing = measure(lambda: peer.call(some), effort.seconds)
    except ModuleNotFoundError as error:
        return row(remark=f"not installed: {error.name}")
    except peers.Unusable as error:
        return row(remark=f"not run: {error}")
    except Exception as error:
        # A peer that fails is a line of the table; what it is compared with goes on.
        line = (str(error).strip().splitlines() or [""])[0]
        told = re.sub(r"(/[^\s/]+)+/", "", line)[:120]  # no folders of this machine
        return row(remark=f"failed: {type(error).__name__}: {told}")
    timing = timing.times(len(x.d) / len(some.d))
    return row(timing, len(some.d), timing.median / unit, peer.remark)


def check_forward(x: Problem, answer: Any) -> None:
    """Compare T with that of the op, and with the products of the matches that were found."""
    if answer is None:
        return
    T, argmax = answer
    a = None if argmax is None else x.a
    _close("T", T, ops.maxsim(x.q, x.d, a))
    if argmax is not None:
        found = torch.stack(
            [(x.a * (x.q * d[s]).sum(2)).sum(1) for d, s in zip(x.d, argmax, strict=True)]
        )
        _close("the score of the matches", found, T)


def check_gradients(x: Problem, answer: Any, *, scaled: bool) -> None:
    """Compare the loss and every gradient with those of the op."""
    loss, grads = answer
    wanted_loss, wanted = peers.op_gradients("highest", scaled=scaled)(x)
    _close("the loss", loss, wanted_loss)
    for name, got, want in zip("vab" if scaled else "qdab", grads, wanted, strict=True):
        _close(f"the gradient of {name}", got, want)


def _close(what: str, got: torch.Tensor, want: torch.Tensor) -> None:
    error, size = float((got - want).abs().max()), float(want.abs().max())
    if not error <= 1e-3 * size:
        raise ValueError(f"{what} differs from the op's by {error:.2g}, of up to {size:.2g}")


FORWARD: Final = Work(
    "forward with indices",
    peers.op_forward,
    peers.forward_peers,
    peers.compiled_forward,
    check_forward,
)
MATCH_KL, SCALED = (
    Work(
        f"{name} forward + backward",
        partial(peers.op_gradients, scaled=scaled),
        partial(peers.gradient_peers, scaled=scaled),
        partial(peers.compiled_gradients, scaled=scaled),
        partial(check_gradients, scaled=scaled),
    )
    for name, scaled in (("match_kl", False), ("match_kl_scaled", True))
)
