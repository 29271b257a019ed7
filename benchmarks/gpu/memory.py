"""Peak memory of an op on a GPU beyond inputs and results, as torch's allocator counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from benchmarks.bounds import NARROW
from benchmarks.cases import Bench, Problem
from benchmarks.memory import Extra
from benchmarks.peers import op_gradients
from benchmarks.suite import why_failed

NARROW_MEMORY: Final = 16 << 20
WIDE_MEMORY: Final = 384 << 20
"""What an op is allowed; rows for tensor cores are copies that are as large as the inputs."""


@dataclass(frozen=True)
class Demand:
    """A case whose memory is measured, with its last loss at its first precision."""

    bench: Bench
    max_memory: int | None = None

    @property
    def name(self) -> str:
        """How it is called in tables."""
        name = f"{self.bench.losses[-1]}, {self.bench.name}, {self.bench.precisions[0]}"
        most = self.max_memory
        return name if most is None else f"{name}, max_memory = {most >> 20} MiB"


def demands(benches: Sequence[Bench]) -> list[Demand]:
    """Take the cases with losses, as they come and with a limit."""
    demands = []
    for bench in benches:
        if bench.losses:
            most = NARROW_MEMORY if bench.D <= NARROW else WIDE_MEMORY
            demands += [Demand(bench), Demand(bench, most)]
    return demands


def measure_extra(demand: Demand, x: Problem) -> Extra:
    """Run the op once, forward and backward with all gradients, and count."""
    bench = demand.bench
    call = op_gradients(
        bench.precisions[0],
        scaled=bench.losses[-1] == "match_kl_scaled",
        max_memory=demand.max_memory,
    )
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        loss, grads = call(x)
        torch.cuda.synchronize()
    except Exception as error:
        return Extra(demand.name, None, why_failed(error), demand.max_memory)
    results = sum(y.nbytes for y in (loss, *grads))
    extra = torch.cuda.max_memory_allocated() - before - results
    return Extra(demand.name, extra, most=demand.max_memory)
