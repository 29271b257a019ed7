"""The tools of compute-sanitizer: how they are run, what they said."""

from __future__ import annotations

import re
from typing import Final

from benchmarks.gpu.phase import BEGIN, PASSED, Ended, Verdict

TOOLS: Final = ("memcheck", "racecheck", "initcheck", "synccheck")

_PREFIX: Final = "========= "


def command(program: str, tool: str) -> list[str]:
    """Give the options of a tool, before the command that it watches."""
    # torch asks CUDA what may fail; errors of launches it raises itself.
    extra = ["--report-api-errors", "no"] if tool == "memcheck" else []
    return [program, "--tool", tool, "--print-limit", "20", *extra]


def judge(ended: Ended) -> Verdict:
    """Say what a tool found.

    It passed only where the tool says that it saw no error and the driver that it made its calls;
    it is unavailable where the tool says before any call that it cannot work here.
    """
    counts = [int(number) for number in re.findall(r"SUMMARY: (\d+) (?:error|hazard)", ended.log)]
    if counts and max(counts) > 0:
        return Verdict(f"findings: {max(counts)}", ended.lines)
    lines = [line.strip() for line in ended.log.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_PREFIX.strip())]
    if ended.status == 0 and counts and any(re.fullmatch(r"[1-9]\d* calls", x) for x in said):
        return Verdict(PASSED)
    own = [line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)]
    errors = [x for x in own if re.search("error|not supported", x, re.I) and "SUMMARY" not in x]
    if errors and not any(line.startswith(BEGIN) for line in said):
        return Verdict(f"unavailable: {errors[0][:160]}", ended.lines)
    if ended.status == 0:
        why = "no call was made" if counts else "it gave no summary"
        return Verdict(f"failed: {why}", ended.lines)
    return Verdict(ended.how(), ended.lines)
