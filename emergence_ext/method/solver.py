"""The one solver behind every fit, and what a fit tells about itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

WALL: Final = 1e30  # stands for a loss that is not finite
ROUND: Final = 10  # evaluations between two looks at the tolerance
MOMENTUM: Final = 0.9
DECAY: Final = 5e-4


@dataclass(frozen=True)
class FitStats:
    """How a fit went: nothing is printed, everything is here.

    Attributes:
        losses: the best objective so far after each evaluation, the first at the start, so that
            they never rise. A fit in rounds has one of each round; a fit with `pairs` begins anew
            in each round of evaluations, with other pairs. Gradient descent has the objective of
            each step, which may rise.
        seconds: wall-clock time.
        stopped: why the fit ended, in words.
        terms: named values at the end, for example the loss on left-out images.
        backend: what matched regions, "fused" or "reference"; None where nothing was matched, and
            in results that were stored before this was noted.

    Examples:
        >>> import emergence_ext as ee
        >>> f = torch.randn(20, 5)
        >>> stats = ee.SampleProjection().fit(f, 3 * f[:, :3]).stats_
        >>> stats.losses[-1] <= stats.losses[0], stats.backend
        (True, None)
    """

    losses: tuple[float, ...]
    seconds: float
    stopped: str
    terms: dict[str, float] = field(default_factory=dict)
    backend: str | None = None

    @property
    def evaluations(self) -> int:
        """Evaluations of the objective after the first."""
        return len(self.losses) - 1


def minimise(
    objective: Callable[..., Tensor],
    start: Sequence[Tensor],
    *,
    max_evals: int,
    tol: float,
    scale: float = 1.0,
    step: Callable[[int, float], None] | None = None,
) -> tuple[list[Tensor], FitStats]:
    """Minimise a function of some tensors by L-BFGS with a line search.

    The objectives of this method are stiff and only piecewise smooth: Adam diverges on them, and a
    gradient step that is halved whenever the loss would rise needs three times the evaluations of
    L-BFGS for the same loss (docs/method.md). The best point seen is what is returned.

    Args:
        objective: takes the tensors, returns the loss, a scalar.
        start: where to begin; not changed.
        max_evals: no iteration begins after so many evaluations of loss and gradient.
        tol: stop when ten evaluations lower the loss by less than `tol` times its size.
        scale: the solver sees `scale` times the objective; its first step is made for gradients
            near 1.
        step: called after each evaluation with their number and the best loss.

    Returns:
        The best tensors, detached, and the statistics.

    Raises:
        ValueError: the loss is not finite at the start.
    """
    clock = time.perf_counter()
    points = [x.detach().clone().requires_grad_() for x in start]
    best = [x.detach().clone() for x in points]
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(*points)
        (scale * loss).backward()
        value = float(loss.detach())
        finite = math.isfinite(value)
        if not losses and not finite:
            raise ValueError(
                f"the objective is {value} at the start of the fit; are the inputs finite?"
            )
        if not finite:
            # The line search cannot compare with what is no number; from a wall it turns back.
            optimizer.zero_grad(set_to_none=False)
            value = WALL
        elif not losses or value < losses[-1]:
            for kept, x in zip(best, points, strict=True):
                kept.copy_(x.detach())
        losses.append(min([value, *losses[-1:]]))
        if step is not None:
            step(len(losses), losses[-1])
        return scale * loss.detach() if finite else torch.full_like(loss.detach(), WALL)

    optimizer = torch.optim.LBFGS(
        points, max_iter=ROUND, max_eval=ROUND, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip
    stopped = f"reached max_evals = {max_evals}"
    while len(losses) < max_evals:
        before = losses[-1] if losses else math.inf
        optimizer.step(closure)
        if before - losses[-1] <= tol * abs(losses[-1]):
            stopped = f"fell by less than {tol:g} of itself in {ROUND} evaluations"
            break
    return best, FitStats(tuple(losses), time.perf_counter() - clock, stopped)


def evaluations(max_evals: int) -> int:
    """How many evaluations come of a limit that is not undercut: whole steps of the solver.

    Examples:
        >>> from emergence_ext import method
        >>> method.evaluations(5), method.evaluations(100)
        (10, 100)
    """
    return ROUND * -(-max_evals // ROUND)


def minimise_in_rounds(
    draw: Callable[[], Callable[..., Tensor]],
    start: Sequence[Tensor],
    *,
    max_evals: int,
    scale: float = 1.0,
    step: Callable[[int, float], None] | None = None,
) -> tuple[list[Tensor], FitStats]:
    """Minimise the mean of random functions: each round of ten evaluations sees another one.

    Within a round a function stays what it is, so that L-BFGS works as it does on a whole; Adam,
    which bears a new one at each evaluation, needs three times as many (docs/method.md).

    Args:
        draw: gives the objective of a round.
        start, max_evals, scale, step: as for `minimise`.

    Returns:
        The tensors at the end, detached, and the statistics. Losses are those of each round's own
        objective, and may rise from one round to the next.

    Raises:
        ValueError: the loss is not finite at the start of a round.
    """
    clock = time.perf_counter()
    points = list(start)
    losses: list[float] = []
    rounds = 0
    while len(losses) < max_evals:
        before = len(losses)

        def heard(number: int, loss: float, before: int = before) -> None:
            if step is not None:
                step(before + number, loss)

        points, stats = minimise(draw(), points, max_evals=1, tol=0, scale=scale, step=heard)
        losses.extend(stats.losses)
        rounds += 1
    stopped = f"reached max_evals = {max_evals} in {rounds} rounds, each of other pairs"
    return points, FitStats(tuple(losses), time.perf_counter() - clock, stopped)


def descend(
    draw: Callable[..., Callable[..., Tensor]],
    start: Sequence[Tensor],
    *,
    steps: int,
    rate: float | Sequence[float],
    scale: float = 1.0,
    after: Callable[..., None] | None = None,
    step: Callable[[int, float], None] | None = None,
) -> tuple[list[Tensor], FitStats]:
    """Minimise by gradient descent with momentum 0.9 and weight decay 5e-4, as the paper's authors.

    Args:
        draw: gives the objective of a step, of the tensors as they are.
        start: where to begin; not changed.
        steps: how many.
        rate: learning rate, of all tensors or of each.
        scale: what is minimised is `scale` times the objective.
        after: changes the tensors in place after each step.
        step: called after each step with their number and the loss.

    Returns:
        The tensors at the end, detached, and the statistics, one loss of each step.

    Raises:
        ValueError: the loss is not finite at the start, or becomes so.
    """
    clock = time.perf_counter()
    points = [x.detach().clone().requires_grad_() for x in start]
    rates = [rate] * len(points) if isinstance(rate, float | int) else list(rate)
    groups = [{"params": [x], "lr": r} for x, r in zip(points, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=DECAY)
    in_words = " and ".join(f"{r:.3g}" for r in dict.fromkeys(rates))
    losses: list[float] = []
    for number in range(1, steps + 1):
        with torch.no_grad():
            objective = draw(*points)
        loss = objective(*points)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            why = "are the inputs finite?" if number == 1 else f"a rate below {in_words} may do"
            raise ValueError(
                f"the loss is {losses[-1]} at step {number} of gradient descent; {why}"
            )
        optimizer.zero_grad()
        (scale * loss).backward()
        optimizer.step()
        if after is not None:
            with torch.no_grad():
                after(*points)
        if step is not None:
            step(number, losses[-1])
    seconds = time.perf_counter() - clock
    stopped = f"took {steps} steps of gradient descent at rate {in_words}"
    return [x.detach() for x in points], FitStats(tuple(losses), seconds, stopped)


def best_start(
    objective: Callable[..., Tensor], starts: Sequence[Sequence[Tensor]]
) -> Sequence[Tensor]:
    """Of several places to begin, the one with the lowest loss; the first of equals."""
    with torch.no_grad():
        return min(starts, key=lambda start: float(objective(*start)))


def least_squares(x: Tensor, target: Tensor) -> Tensor:
    """The ridge solution `A [dim, E]` of `x A^T = target`, for `x [N, E]` and `target [N, dim]`."""
    gram = (x.t() @ x).double()
    ridge = 1e-3 * gram.diagonal().mean()
    gram.diagonal().add_(ridge)
    return torch.linalg.solve(gram, (x.t() @ target).double()).t().to(x.dtype).contiguous()


def require_finite(**arrays: Tensor) -> None:
    """Refuse features and logits `[N, ...]` that are not finite.

    Raises:
        ValueError: the argument and its first such image, named.

    Examples:
        >>> from emergence_ext import method
        >>> method.require_finite(f=torch.tensor([[1.0], [float("inf")]]))
        Traceback (most recent call last):
        ...
        ValueError: f: ...
    """
    for name, x in arrays.items():
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"{name}: image {bad} is not finite; leave it out or check the network"
            )
