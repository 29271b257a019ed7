"""Which GPU this is, and whether it still answers: `python -m benchmarks.gpu.device`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch


def describe() -> dict[str, Any]:
    """Tell name, capability, multiprocessors, caches, memory, CUDA and driver of the GPU in use."""
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": facts.name,
        "capability": [facts.major, facts.minor],
        "multiprocessors": facts.multi_processor_count,
        "l2_mib": round(facts.L2_cache_size / 2**20, 1),
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def is_lost() -> bool:
    """Whether an error has left the device of no more use to this process."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here")
    print(json.dumps(describe()))
