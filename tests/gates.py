"""What stands in for a GPU and the proof of its kernels, for tests of what comes of them."""

from __future__ import annotations

import time
from pathlib import Path

from emergence_ext.ops.proof import GPU, Proved
from emergence_ext.ops.verdicts import Verdict
from emergence_ext.ops.ways import Gate

CARD = GPU("a card", (8, 6), 28, "580.65", "GPU-1234")
OLD = GPU("Tesla T4", (7, 5), 40, "580.65", "GPU-5678")
HOPPER = GPU("NVIDIA H200", (9, 0), 132, "580.65", "GPU-9012")
YES = Verdict("", "2026-11-30", 1.0, 20.0)
WRONG = "problem 'N3 R1' is wrong: 3 of 7 scores"


class Prover:
    """Stands in for the child: what it finds by way, else yes; counts what it is asked."""

    def __init__(self, lasts: bool = True, seconds: float = 0, **refused: str) -> None:
        self.lasts, self.seconds, self.refused = lasts, seconds, refused
        self.asked: list[str] = []

    def __call__(self, way: str, gpu: GPU) -> Proved:
        self.asked.append(way)
        time.sleep(self.seconds)
        reason = self.refused.get(way)
        return Proved(YES if reason is None else Verdict(reason, "2026-11-30"), self.lasts)


def gate_of(prover: Prover, folder: Path | None, gpu: GPU | str = CARD) -> Gate:
    return Gate(lambda index: gpu, prover, folder)
