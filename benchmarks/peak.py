"""The arithmetic bound: a loop of multiply-adds, compiled for this machine and run on the spot."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import build_support

SOURCE: Final = Path(__file__).with_name("peak.cpp")


@dataclass(frozen=True)
class Peak:
    """GFLOP/s of float32 multiply-adds and of bfloat16 pairs; None where not measured.

    `why_not` says why there is no measurement at all.
    """

    float32: float | None = None
    bfloat16: float | None = None
    why_not: str | None = None


def measure_peak(threads: int) -> Peak:
    """Compile and run the loop on `threads` threads."""
    compiler = build_support.find_compiler(os.environ)
    if compiler is None:
        return Peak(why_not="no C++ compiler found")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        flags = ["-std=c++17", "-O3", "-march=native", "-pthread"]
        try:
            subprocess.run(
                [*compiler.split(), *flags, str(SOURCE), "-o", str(program)],
                check=True,
                capture_output=True,
            )
            told = subprocess.run(
                [str(program), str(threads)], check=True, capture_output=True, text=True
            ).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            return Peak(why_not=f"{SOURCE.name} does not run: {type(error).__name__}")
    float32, bfloat16 = map(float, told.split())
    return Peak(float32, bfloat16 or None)
