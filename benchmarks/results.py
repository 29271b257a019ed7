"""The outcome of a run: as dated JSON, and as tables of text."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.bounds import Share
from benchmarks.gpu.bounds import Share as GpuShare
from benchmarks.gpu.device import describe
from benchmarks.growth import Point
from benchmarks.memory import Extra
from benchmarks.peak import Peak
from benchmarks.suite import Row
from benchmarks.targets import Target
from benchmarks.timing import Timing
from emergence_ext.ops import build_info

ROOT = Path(__file__).parents[1]


@dataclass
class Results:
    """All of one run. `load` is the machine's load average of a minute as the run began.

    `shares` are of the CPU's bounds, `gpu_shares` of a GPU's, which `machine["gpu"]` describes;
    `failures` are of the ops, not of their peers.
    """

    date: str
    revision: str | None
    machine: dict[str, Any]
    versions: dict[str, Any]
    load: float
    peak: Peak
    rows: list[Row] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    growth: list[Point] = field(default_factory=list)
    memory: list[Extra] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    device: str = "cpu"
    gpu_shares: list[GpuShare] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the file of these results: `DATE-CPU.json`, or of the GPU they are of."""
        place = self.machine["gpu"]["name"] if self.device == "cuda" else self.machine["cpu"]
        return f"{self.date}-{re.sub(r'[^a-z0-9]+', '-', place.lower()).strip('-')}.json"

    def save(self, folder: Path) -> Path:
        """Write them into `folder`, which is made where it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        path, partly = folder / self.name, folder / f"{self.name}.partly"
        partly.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return partly.replace(path)  # whole, whenever somebody ends this process


def load(path: Path) -> Results:
    """Read what `Results.save` wrote."""
    kept = json.loads(path.read_text())
    kinds: dict[str, Callable[..., Any]] = {
        "rows": Row,
        "shares": Share,
        "growth": Point,
        "memory": Extra,
        "targets": Target,
        "gpu_shares": GpuShare,
    }
    for name, kind in kinds.items():
        kept[name] = [kind(**_timed(item)) for item in kept.get(name, [])]
    kept["peak"] = Peak(**kept["peak"])
    known = {entry.name for entry in fields(Results)}
    return Results(**{name: value for name, value in kept.items() if name in known})


def merged(parts: Sequence[Results]) -> Results:
    """Put what several processes measured of one device into one; of two alike the first counts.

    The times of an op are compared with the first of them, whichever process that is of.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    units: dict[tuple[str, str], float] = {}
    for row in (row for part in parts for row in part.rows):
        if row.group == "op" and row.timing is not None:
            unit = units.setdefault((row.case, row.work), row.timing.median)
            row = replace(row, ratio=row.timing.median / unit)
        kept = rows.setdefault((row.case, row.work, row.name), row)
        if kept.timing is None and row.timing is not None:
            rows[row.case, row.work, row.name] = row
    return replace(
        parts[0],
        peak=next((part.peak for part in parts if part.peak.copy), parts[0].peak),
        rows=list(rows.values()),
        growth=[point for part in parts for point in part.growth],
        memory=[extra for part in parts for extra in part.memory],
        failures=list(dict.fromkeys(line for part in parts for line in part.failures)),
    )


def _timed(item: dict[str, Any]) -> dict[str, Any]:
    timing = item.get("timing")
    return item | {"timing": Timing(**timing)} if timing else item


def begin(peak: Peak, device: str = "cpu") -> Results:
    """Note when, where and with what a run takes place."""
    info = build_info()
    machine = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "instruction_set": info.get("instruction_set"),
    }
    if device == "cuda":
        machine["gpu"] = describe()
    versions = {
        "package": info.get("package"),
        "torch": f"{info['running_torch']}+{info['running_torch_variant']}",
        "python": platform.python_version(),
        "compiler": info.get("compiler"),
        "cuda_compiler": info.get("cuda_compiler"),
    }
    today = datetime.date.today().isoformat()
    load = os.getloadavg()[0]
    return Results(today, revision(), machine, versions, load, peak, device=device)


def _cpu() -> str:
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpu = ""
    named = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def revision() -> str | None:
    """Name the commit that is checked out, and whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Set a table in Markdown, in columns that line up as plain text too."""
    widths = [max(len(line[k]) for line in [head, *lines]) for k in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def timings(rows: Sequence[Row]) -> str:
    """Set the timings of one op at one size."""
    head = ["", "ms, median (quartiles)", "images i timed", "times the op's", "remark"]
    return table(
        head,
        [
            [
                row.name,
                str(row.timing) if row.timing else "",
                str(row.images) if row.timing else "",
                f"{row.ratio:.2f}" if row.ratio is not None else "",
                row.remark,
            ]
            for row in rows
        ],
    )


def bounds(shares: Sequence[Share]) -> str:
    """Set what share of the arithmetic bound is reached, as `bounds.Share` defines it."""
    head = [
        "case",
        "",
        "matches/s",
        "GFLOP/s",
        "of the peak in",
        "share",
        "all operations",
    ]
    return table(
        head,
        [
            [
                x.case,
                x.name,
                f"{x.matches:.2e}",
                f"{x.flops / 1e9:.0f}",
                x.arithmetic,
                percent(x.share),
                percent(x.operations),
            ]
            for x in shares
        ],
    )


def gpu_bounds(shares: Sequence[GpuShare]) -> str:
    """Set the bounds of a GPU and what is reached of them, as `gpu.bounds.Share` defines it."""
    head = ["case", "", "", "ms", "bound, ms", "set by", "share", "of the measured peak"]
    return table(
        head,
        [
            [
                x.case,
                x.work,
                x.name,
                f"{1e3 * x.seconds:.3g}",
                f"{1e3 * x.bound:.3g}",
                x.limit,
                percent(x.share),
                percent(x.of_peak),
            ]
            for x in shares
        ],
    )


def percent(x: float | None) -> str:
    """Set a share, nothing where it is None."""
    return "" if x is None else f"{100 * x:.0f} %"


def growth(points: Sequence[Point]) -> str:
    """Set the time per element over N."""
    head = ["R", "N", "B", "ms, median (quartiles)", "ps per element", "of the first"]
    return table(
        head,
        [
            [
                str(x.R),
                str(x.N),
                str(x.B or x.N),
                str(x.timing),
                f"{1e12 * x.per_element:.2f}",
                f"{x.relative:.2f}",
            ]
            for x in points
        ],
    )


def memory(extras: Sequence[Extra]) -> str:
    """Set peak memory beyond inputs, loss and gradients."""
    sizes = [x.why_not or "" if x.bytes is None else f"{x.bytes / 2**20:.1f} MiB" for x in extras]
    return table(["call", "extra"], [[x.name, y] for x, y in zip(extras, sizes, strict=True)])


def targets(judged: Sequence[Target]) -> str:
    """Set every target with what was reached."""
    verdict = {True: "met", False: "not met", None: "not measured"}
    return table(
        ["target", "wanted", "reached", ""],
        [[x.what, x.wanted, x.reached, verdict[x.met]] for x in judged],
    )
