"""The tools of compute-sanitizer: where they are, how they are run, what they said."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TOOLS: Final = ("memcheck", "racecheck", "initcheck", "synccheck")
PASSED: Final = "passed"

_PREFIX = "========= "


def find(env: Mapping[str, str]) -> str | None:
    """Find compute-sanitizer: in CUDA_HOME (or CUDA_PATH), on the PATH, in CUDA's usual folder."""
    homes = [env.get("CUDA_HOME"), env.get("CUDA_PATH")]
    named = [str(Path(home) / "bin" / "compute-sanitizer") for home in homes if home]
    for name in (*named, "compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer"):
        if (path := shutil.which(name, path=env.get("PATH", os.defpath))) is not None:
            return path
    return None


def command(program: str, tool: str) -> list[str]:
    """Give the options of a tool, before the command that it watches."""
    # torch asks CUDA what may fail; errors of launches it raises itself.
    extra = ["--report-api-errors", "no"] if tool == "memcheck" else []
    return [program, "--tool", tool, "--print-limit", "20", *extra]


def verdict(output: str, status: int | None) -> str:
    """Say what a tool found.

    Args:
        output: what tool and driver printed.
        status: exit status, None where the time was up.

    Returns:
        "passed", "findings: n" or "unavailable: reason"; passed only where the tool says that it
        saw no error and the driver that it made its calls.
    """
    if status is None:
        return "unavailable: its time was up"
    counts = [int(number) for number in re.findall(r"SUMMARY: (\d+) (?:error|hazard)", output)]
    if counts and max(counts) > 0:
        return f"findings: {max(counts)}"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_PREFIX.strip())]
    completed = any(re.fullmatch(r"[1-9]\d* calls", line) for line in said)
    if counts and completed and status == 0:
        return PASSED
    own = [line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)]
    errors = [x for x in own if re.search("error|not supported", x, re.I) and "SUMMARY" not in x]
    if errors:
        reason = errors[0]
    elif status != 0:
        reason = said[-1] if said else f"exit status {status}"
    else:
        reason = "it gave no summary" if completed else "no call was made"
    return f"unavailable: {reason[:160]}"
