"""What is measured on a GPU: sizes that keep one busy."""

from __future__ import annotations

from typing import Final

from benchmarks.cases import Bench

HEADLINE: Final = Bench(N=500, R=196, D=3)
WIDE: Final = Bench(
    N=500,
    R=196,
    D=512,
    precisions=("medium",),
    losses=("match_kl_scaled",),
    dtype="bfloat16",
)
BENCHES: Final = (
    HEADLINE,
    WIDE,
    Bench(N=500, R=49, D=3),
    Bench(
        N=500,
        R=49,
        D=512,
        precisions=("medium",),
        losses=("match_kl_scaled",),
        dtype="bfloat16",
    ),
    Bench(N=500, R=196, D=512, precisions=("medium", "high"), losses=("match_kl_scaled",)),
    Bench(N=500, R=49, D=512, precisions=("medium", "high"), losses=("match_kl_scaled",)),
    Bench(N=500, R=196, D=128, precisions=("medium",), losses=(), dtype="bfloat16"),
    Bench(N=500, R=49, D=128, precisions=("medium",), losses=(), dtype="bfloat16"),
)
