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
    """GFLOP/s of float32 multiply-adds and of bfloat16 products; None where not measured.

    `why_not` says why there is no measurement. On a GPU there are also `copy`, GB/s read and
    written, `clock`, MHz as the device reports it, and `busy_clock`, MHz under multiply-adds.
    """

    float32: float | None = None
    bfloat16: float | None = None
    why_not: str | None = None
    copy: float | None = None
    clock: float | None = None
    busy_clock: float | None = None


def measure_peak(threads: int) -> Peak:
    """Compile and run the loop on `threads` threads."""
    compiler = build_support.find_compiler(os.environ)
    if compiler is None:
        return Peak(why_not="no C++ compiler found")
    flags = ["-std=c++17", "-O3", "-march=native", "-pthread"]
    try:
        float32, bfloat16 = told_by(SOURCE, [*compiler.split(), *flags], str(threads))
    except (OSError, subprocess.CalledProcessError) as error:
        return Peak(why_not=f"{SOURCE.name} does not run: {type(error).__name__}")
    return Peak(float32, bfloat16 or None)


def told_by(source: Path, compiler: list[str], *arguments: str) -> list[float]:
    """Compile a program, run it, and read the numbers that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        command = [*compiler, str(source), "-o", str(program)]
        subprocess.run(command, check=True, capture_output=True)
        done = subprocess.run(
            [str(program), *arguments], check=True, capture_output=True, text=True
        )
    return [float(number) for number in done.stdout.split()]
