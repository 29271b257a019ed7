"""Time maxsim beside its reference on the CPU and print a table: `python -m benchmarks`."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.timing import measure
from emergence_ext import ops, reference
from emergence_ext._library import build_info
from tests.cases import Case, build

CASES = [
    Case(N=50, R=196, B=50, S=196, D=3),
    Case(N=50, R=49, B=50, S=49, D=3),
    Case(N=10, R=49, B=10, S=49, D=512),
]


def main() -> None:
    """Print one line per case: the op, the reference, and how many times faster the op is."""
    info = build_info()
    print(f"torch {info['running_torch']}+{info['running_torch_variant']}, ", end="")
    print(f"{torch.get_num_threads()} threads, library: {info['why_not']['cpu'] or 'yes'}")
    for case in CASES:
        x = build(case)
        for name in ("maxsim", "maxsim_indices"):
            op, plain = (
                measure(partial(getattr(module, name), x.q, x.d, x.a))
                for module in (ops, reference)
            )
            matches = case.N * case.B * case.R * case.S / op.median
            print(f"{name:15} {case}: op {op}, reference {plain}, ", end="")
            print(f"ratio {plain.median / op.median:.2f}, {matches:.2e} matches/s")


if __name__ == "__main__":
    main()
