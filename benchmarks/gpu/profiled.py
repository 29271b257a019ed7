"""One launch of each kernel of a way, for the profiler: `python -m benchmarks.gpu.profiled`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from benchmarks.cases import Bench
from benchmarks.gpu import paths
from benchmarks.gpu.cases import HEADLINE, WIDE
from benchmarks.gpu.phase import BEGIN
from emergence_ext import ops

# As the benchmark has them, the wide ones with fewer images: a launch is run some forty times.
PLANES: Final = replace(WIDE, N=200)
FLOAT32: Final = replace(WIDE, N=100, dtype="float32", precisions=("highest",))
LAUNCHES: Final[dict[str, Sequence[Bench]]] = {
    paths.PORTABLE: (HEADLINE, PLANES, FLOAT32),
    paths.SPLIT: (HEADLINE,),
    paths.TRITON: (HEADLINE,),
    paths.HOPPER: (PLANES,),
}
"""What is matched on each way: on the portable one narrow rows, 16-bit ones, and wide ones."""


def main() -> None:
    """Match once on the way that is named, and once more for the profiler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=paths.WAYS, required=True)
    way = parser.parse_args().way
    for bench in LAUNCHES[way]:
        print(f"{BEGIN}{bench.name}, {bench.precisions[0]}, {way}", flush=True)
        x = bench.problem("cuda")
        with paths.taking(way), torch.no_grad():
            for profiled in (False, True):
                torch.cuda.synchronize()
                if profiled:
                    torch.cuda.profiler.start()
                ops.maxsim_indices(x.q, x.d, x.a, precision=bench.precisions[0])
                torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
