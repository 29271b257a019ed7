"""Compile what the Triton packages and torch.compile run, into their caches on disk.

`python -m benchmarks.gpu.warm_up` needs none of this package's compiled code, so that it can run
while that is built. What fails here fails again, and is told, where it is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import peers, suite
from benchmarks.gpu import run
from benchmarks.gpu.cases import BENCHES
from benchmarks.gpu.peers import GROUPS


def main() -> None:
    """Call each of them once, until somebody ends this process."""
    for bench in BENCHES:
        x = bench.problem("cuda")
        few = x.first(suite.CHECKED_IMAGES)
        for work in run.works(bench):
            calls = {peer.name: peer.call for peer in work.peers(bench.D) if peer.group in GROUPS}
            for name, call in calls.items():
                _try(f"{bench.name}, {name}", lambda: call(x))  # noqa: B023 (called in this turn)
            for mode in peers.MODES:
                for name, make in work.compiled(bench.D).items():
                    label = f"{bench.name}, torch.compile {mode}: {name}"
                    _try(label, lambda: make(mode)(few))  # noqa: B023


def _try(name: str, call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        print(f"{name}: {suite.why_failed(error)}", file=sys.stderr, flush=True)
    else:
        print(f"{name}: compiled", flush=True)


if __name__ == "__main__":
    main()
