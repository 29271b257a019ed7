"""The child of a proof: `python -m emergence_ext.ops.proof_child WAY UUID`.

It says in a line of JSON which problem it begins, so that whoever started it can name it should
this process not come back, and at the end what the way took beside plain torch.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext.ops import fused, reference, ways
from emergence_ext.ops.proof_cases import (
    Problem,
    Wrong,
    check,
    on_device,
    problems,
    repeated,
    results,
)

REPEATS: Final = 20
TIMED: Final = {
    "narrow": (Problem(200, 196, 200, 196, 3),),
    "wide": (Problem(100, 49, 100, 49, 256),),
    "planes": (
        Problem(100, 49, 100, 49, 512, torch.bfloat16),
        Problem(100, 49, 100, 49, 512, precision="medium"),
        Problem(100, 49, 100, 49, 512, precision="high"),
    ),
}
"""By portable way: what is timed beside plain torch, loss and gradients."""

FULL: Final = re.compile("out of memory|ALLOC_FAILED", re.IGNORECASE)
"""What torch, CUDA and cuBLAS say where a device is full."""

WARM_UPS: Final = 3
TIMES: Final = 7


def main(way: str, uuid: str) -> int:
    """Prove a way on the GPU of a UUID; the exit code."""
    count = torch.cuda.device_count()
    index = next((k for k in range(count) if _uuid(k) == uuid), None)
    if index is None:
        say(unable=f"of {count} GPUs that it sees none has the UUID {uuid}")
        return 1
    if (reason := ways.gate.why_not(way, index)) is not None:
        say(unable=reason)
        return 1
    device = torch.device("cuda", index)
    try:
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except Exception as error:  # a device that is full, or another process's alone
        say(unable=_line(error))
        return 1
    run(way, device)
    return 0


def run(way: str, device: torch.device) -> None:
    """Prove a way on a device, and say how it goes."""
    try:
        with _poisoned_memory():
            for problem in problems(way):
                say(case=str(problem))
                check(problem, fused, device)
            for name, examine in ON_A_GPU.items():
                say(case=name)
                examine(repeated(way), device)
        say(case="its time beside plain torch")
        portable = ways.SECOND.get(way, way)
        took, plain = max((timed(each, device) for each in TIMED[portable]), key=_share)
        say(milliseconds=took, plain=plain)
    except Wrong as wrong:
        say(wrong=str(wrong))
    except Exception as error:  # what a launch, or a call after a bad one, raises
        full = {"memory": "full"} if FULL.search(str(error)) else {}
        say(error=f"{type(error).__name__}: {_line(error)}", **full)


def say(**words: object) -> None:
    """Print a line for the parent, at once."""
    print(json.dumps(words), flush=True)


def repeats(problem: Problem, device: torch.device) -> None:
    """Every repeat gives the bits of the first."""
    x = on_device(problem, device)
    first = results(problem, fused, x)
    for _ in range(REPEATS):
        _same("a repeat", results(problem, fused, x), first)


def side_stream(problem: Problem, device: torch.device) -> None:
    """Work goes to the stream in use, which is busy until its inputs are there."""
    x = on_device(problem, device)
    expected = results(problem, fused, x)
    late = {name: each.clone() for name, each in x.items()}
    for name in ("q", "d"):
        late[name].fill_(torch.nan)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # cycles, in which another stream would read the NaN
        for name in ("q", "d"):
            late[name].copy_(x[name])
        found = results(problem, fused, late)
        torch.cuda.current_stream().synchronize()
    _same("a side stream", found, expected)


def graph(problem: Problem, device: torch.device) -> None:
    """A captured graph replays to the bits of eager."""
    x = on_device(problem, device)
    expected = results(problem, fused, x)
    given = {name: each.clone() for name, each in x.items()}
    captured_graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(captured_graph):
        captured = results(problem, fused, given)
    for each in captured:
        each.zero_()
    captured_graph.replay()
    torch.cuda.synchronize()
    _same("a replayed graph", captured, expected)


ON_A_GPU: Final[dict[str, Callable[[Problem, torch.device], None]]] = {
    "twenty repeats": repeats,
    "a side stream beside a busy one": side_stream,
    "one replay of a graph": graph,
}


def timed(problem: Problem, device: torch.device) -> tuple[float, float]:
    """Milliseconds of loss and gradients, by the way and by plain torch."""
    x = on_device(problem, device)
    return _milliseconds(problem, fused, x), _milliseconds(problem, reference, x)


def _milliseconds(problem: Problem, ops: Any, x: dict[str, Tensor]) -> float:
    took = []
    for _ in range(WARM_UPS + TIMES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        results(problem, ops, x)
        end.record()
        end.synchronize()
        took.append(begin.elapsed_time(end))
    return statistics.median(took[WARM_UPS:])


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Let fresh memory hold NaN, as torch does for such algorithms: what is not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _same(what: str, found: list[Tensor], expected: list[Tensor]) -> None:
    if not all(map(torch.equal, found, expected)):
        raise Wrong(f"{what} gives other bits")


def _share(times: tuple[float, float]) -> float:
    return times[0] / max(times[1], 1e-9)


def _uuid(index: int) -> str:
    return str(torch.cuda.get_device_properties(index).uuid)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
