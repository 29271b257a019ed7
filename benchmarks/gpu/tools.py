"""Where the programs of the CUDA toolkit are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SANITIZER: Final = "compute-sanitizer"
PROFILER: Final = "ncu"


def find(name: str, env: Mapping[str, str]) -> str | None:
    """Find a program: in CUDA_HOME (or CUDA_PATH), on the PATH, in CUDA's usual folders."""
    homes = [env.get("CUDA_HOME"), env.get("CUDA_PATH")]
    named = [str(Path(home) / "bin" / name) for home in homes if home]
    versions = sorted(Path("/opt/nvidia/nsight-compute").glob(f"*/{name}"), reverse=True)
    usual = [f"/usr/local/cuda/bin/{name}", *map(str, versions)]
    for candidate in (*named, name, *usual):
        if (path := shutil.which(candidate, path=env.get("PATH", os.defpath))) is not None:
            return path
    return None


def missing(name: str) -> str:
    """Say that it was not found."""
    return f"{name} is neither in CUDA_HOME nor on the PATH"
