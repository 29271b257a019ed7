"""Peak memory of an op beyond inputs and results, each measure in a process of its own.

`python -m benchmarks.memory NAME` is that process. Linux alone lets it set its peak back to what
it holds before the op runs, so that what building the inputs took does not hide the op.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from benchmarks.cases import Problem, problem
from benchmarks.peers import op_gradients, use_threads

STATUS: Final = Path("/proc/self/status")
RESET: Final = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Demand:
    """Sizes of a problem whose memory is measured, and which op runs."""

    N: int
    R: int
    D: int
    B: int
    scaled: bool

    @property
    def name(self) -> str:
        """How it is called in tables."""
        op = "match_kl_scaled" if self.scaled else "match_kl"
        return f"{op}, N={self.N} R={self.R} D={self.D} B={self.B}"


# The cost of time is proportional to B; of memory it is bounded by one block, which at these N and
# R holds 328 conditioning images when `max_memory` is left out.
FULL: Final = (
    Demand(N=500, R=196, D=3, B=500, scaled=False),
    Demand(N=500, R=196, D=512, B=8, scaled=True),
    Demand(N=500, R=196, D=512, B=344, scaled=True),
)
QUICK: Final = (
    Demand(N=100, R=196, D=3, B=100, scaled=False),
    Demand(N=100, R=49, D=512, B=8, scaled=True),
)


@dataclass(frozen=True)
class Extra:
    """Bytes beyond inputs, loss and gradients at the peak of a call; None where not measured.

    `most` is what the call was allowed, None where nothing was said.
    """

    name: str
    bytes: int | None
    why_not: str | None = None
    most: int | None = None


def measure_extra(demand: Demand) -> Extra:
    """Measure in a fresh process, forward and backward with all gradients."""
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(asdict(demand))]
    done = subprocess.run(
        [*command, str(torch.get_num_threads())],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Extra(demand.name, None, last)
    return Extra(demand.name, int(done.stdout))


def extra_bytes(x: Problem, *, scaled: bool) -> int:
    """Run the op once and return its extra peak; the process should have done nothing else."""
    call = op_gradients(scaled=scaled)
    # What the first call of a process loads and starts, code and threads, is none of the op's.
    call(problem(2, 4, 4))
    # Memory that was freed and kept would serve the op unseen.
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")
    before = _status("VmRSS")
    loss, grads = call(x)
    peak = _status("VmHWM")
    return peak - before - sum(y.nbytes for y in (loss, *grads))


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _main() -> None:
    demand, threads = Demand(**json.loads(sys.argv[1])), int(sys.argv[2])
    if not os.access(RESET, os.W_OK):
        sys.exit("peak memory is measured on Linux only")
    use_threads(threads)
    x = problem(demand.N, demand.R, demand.D, B=demand.B)
    print(extra_bytes(x, scaled=demand.scaled))


if __name__ == "__main__":
    _main()
