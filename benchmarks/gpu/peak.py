"""What a GPU reaches at best: multiply-adds, the library's product of bfloat16, a copy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import torch

import build_support
from benchmarks.peak import Peak, told_by
from benchmarks.timing import measure

SOURCE: Final = Path(__file__).with_name("peak.cu")
SIDE: Final = 8192
"""Of the square matrices whose product is timed."""

COPIED: Final = 2 << 30
"""Bytes, many times any L2 cache."""


def measure_gpu_peak() -> Peak:
    """Measure on the device in use; the multiply-adds where there is a CUDA compiler."""
    # Random numbers: zeros take less power, and a higher clock.
    x, y = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    taken = measure(lambda: torch.mm(x, y), 1.0, device="cuda").median
    source = torch.randint(256, (COPIED,), device="cuda", dtype=torch.uint8)
    copy = torch.empty_like(source)
    copied = measure(lambda: copy.copy_(source), 0.2, device="cuda").median
    rates = {"bfloat16": 2 * SIDE**3 / taken / 1e9, "copy": 2 * COPIED / copied / 1e9}
    toolkit = build_support.find_toolkit(os.environ)
    if toolkit is None:
        return Peak(why_not="no nvcc found", **rates)
    number = "".join(map(str, torch.cuda.get_device_capability()))
    flags = ["-std=c++17", "-O3", f"-gencode=arch=compute_{number},code=sm_{number}"]
    try:
        float32, busy_clock, clock = told_by(SOURCE, [str(toolkit.nvcc), *flags])
    except (OSError, subprocess.CalledProcessError) as error:
        why_not = f"{SOURCE.name} does not run: {type(error).__name__}"
        return Peak(why_not=why_not, **rates)
    return Peak(float32, clock=clock, busy_clock=busy_clock, **rates)
