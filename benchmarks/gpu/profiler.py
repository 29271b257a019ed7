"""The hardware profiler, ncu: how it is run, what it said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.gpu.phase import BEGIN, PASSED, Ended, Verdict

KERNEL: Final = "match"
"""In the names of the kernels that match, and of no other."""

MOST: Final = 8
"""Launches that are profiled, each some forty times over."""


def command(program: str, report: Path, watched: Sequence[str]) -> list[str]:
    """Profile the matching kernels of a command into a report, and print what is in it.

    The clocks are left alone: they are those that the benchmark runs at.
    """
    profile = [program, "--set", "full", "--clock-control", "none", "--profile-from-start", "off"]
    profile += ["--kernel-name", f"regex:{KERNEL}", "--launch-count", str(MOST)]
    profile += ["--force-overwrite", "--export", str(report), *watched]
    told = [program, "--import", str(report), "--page", "details"]
    return ["sh", "-c", f"{shlex.join(profile)} && {shlex.join(told)}"]


def judge(ended: Ended) -> Verdict:
    """Say how many launches were profiled; unavailable where ncu says that it cannot work here."""
    launches = len(re.findall(r"^==PROF== Profiling ", ended.log, re.MULTILINE))
    if ended.status == 0 and launches:
        return Verdict(f"{PASSED}: {launches} launches")
    errors = re.findall(r"^==ERROR== (.*)$", ended.log, re.MULTILINE)
    if errors and not re.search(rf"^{BEGIN}", ended.log, re.MULTILINE):
        return Verdict(f"unavailable: {errors[0].strip()[:160]}", ended.lines)
    if errors and "ERR_NVGPUCTRPERM" in ended.log:
        return Verdict(f"unavailable: {errors[0].strip()[:160]}", ended.lines)
    outcome = "failed: no launch was profiled" if ended.status == 0 else ended.how()
    return Verdict(outcome, ended.lines)
