"""Everything that needs a GPU, in one command: `python3 -m benchmarks.gpu_check --out DIR`.

Part a builds the library for the GPU that is there, tests each way to match, watches it with the
tools of compute-sanitizer and profiles it; part b times the ops on each way and what could be used
instead. Each phase is a process group with a limit of time, so that one that crashes or hangs
stops no other. Needs torch, its compilers and pytest, no network and no virtual environment;
pytest-xdist, pytest-timeout, compute-sanitizer and ncu are used where they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.budget import Budget
from benchmarks.gpu import plan, run, tools
from benchmarks.gpu.cases import BENCHES
from benchmarks.gpu.phase import BEGIN, Outcome, Step, planned
from benchmarks.gpu.phase import run as run_phases
from benchmarks.gpu.summary import summary
from benchmarks.results import ROOT, Results, revision

LOGS: Final = ROOT / "build" / "gpu-check"
ARCHIVE: Final = 15 << 20
"""Bytes: where such a machine can be had, files of up to 16 MiB come back from it."""

CLOSING: Final = 6
"""Seconds that starting this process, reading and writing take."""

STAND_IN: Final = 0.3
"""Seconds of a phase in a dry run."""

NO_GPU: Final = {"name": "dry run", "capability": [9, 0], "driver": None}


def main() -> None:
    """Run what is asked for; exit with 1 if a phase failed, with 2 where there is no GPU."""
    options = _options()
    budget = Budget(options.seconds)
    gpu = NO_GPU if options.dry_run else _gpu()
    if gpu is None:
        print("gpu-check needs a GPU: torch sees no CUDA device here")
        sys.exit(2)
    programs = {name: tools.find(name, os.environ) for name in (tools.SANITIZER, tools.PROFILER)}
    if options.dry_run:
        programs = {name: found or name for name, found in programs.items()}
    good = True
    for part in plan.PARTS if options.part is None else [options.part]:
        place = plan.Place(gpu, LOGS / part, programs, options.wheels)
        steps = plan.steps(part, place)
        if options.dry_run:
            good &= _dry_run(part, place, steps, options.out)
        else:
            outcomes = check(part, place, _scaled(steps, budget.left), options.out)
            good &= not any(outcome.failed for outcome in outcomes)
            budget = Budget(options.seconds)
    sys.exit(not good)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--part", choices=plan.PARTS, help="one part alone; both when left out")
    parser.add_argument("--seconds", type=float, default=250, help="in which a part ends")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder for the JSON and the archive of logs; benchmarks/results when left out",
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels of the Triton packages")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="without a GPU: a stand-in for every phase, that hangs until its time is up",
    )
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error(f"--seconds must be positive, got {options.seconds:g}")
    if options.wheels is not None and not any(options.wheels.glob("*.whl")):
        parser.error(f"--wheels: {options.wheels} holds no wheels (*.whl)")
    options.out = options.out.resolve()
    options.wheels = options.wheels and options.wheels.resolve()
    return options


def _gpu() -> dict[str, Any] | None:
    """Ask another process: this one shall outlast whatever happens to the device."""
    command = [sys.executable, "-m", "benchmarks.gpu.device"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def _scaled(steps: Sequence[Step], seconds: float) -> list[Step]:
    """Share the seconds out as the phases are planned."""
    share = max(0.0, seconds - CLOSING) / max(1.0, sum(map(planned, steps)))
    return [[replace(phase, seconds=share * phase.seconds) for phase in step] for step in steps]


def _dry_run(part: str, place: plan.Place, steps: Sequence[Step], out: Path) -> bool:
    """Show that every phase starts, is ended when its time is up, and reports."""
    # All of them hang, so none may wait for another.
    given = {"seconds": STAND_IN, "needs": None, "unavailable": None}
    stand_ins = [
        [replace(phase, command=_stand_in(phase.command), **given) for phase in step]
        for step in steps
    ]
    names = [phase.name for step in steps for phase in step if not phase.helper]
    outcomes = check(part, place, stand_ins, out)
    ended = [x.name for x in outcomes if re.match("failed: not done in .*, in", x.outcome)]
    missed = sorted(set(names) - set(ended))
    print(f"dry run: {len(ended)} phases of part {part} began, were ended and reported")
    if missed:
        print(f"dry run: these did not: {', '.join(missed)}")
    return not missed


def _stand_in(command: Callable[[float], Sequence[str]]) -> Callable[[float], Sequence[str]]:
    """Say what would be run, and hang, with a child that hangs as well."""

    def stand_in(seconds: float) -> list[str]:
        script = f'printf "%s\\n" "{BEGIN}a stand-in" "$*"; sleep 600 & sleep 600'
        return ["sh", "-c", script, "sh", *command(seconds)]

    return stand_in


def check(part: str, place: plan.Place, steps: Sequence[Step], out: Path) -> list[Outcome]:
    """Run the steps of a part, and keep what is known whenever one has ended."""
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    out.mkdir(parents=True, exist_ok=True)
    named = re.sub(r"[^a-z0-9]+", "-", place.gpu["name"].lower()).strip("-")
    file = out / f"{datetime.date.today().isoformat()}-{named}-{part}.json"
    outcomes: list[Outcome] = []
    budget = Budget(sum(map(planned, steps)))
    try:
        for found in run_phases(steps, budget, place.folder, place.env):
            outcomes += found
            for outcome in found:
                print(outcome, flush=True)
            try:
                _keep(file, place, outcomes)
            except Exception as error:  # the phases to come can still be kept
                outcomes.append(Outcome("results", f"failed: {type(error).__name__}: {error}"))
    except BaseException as error:
        ended = Outcome("the check", f"failed: ended by {type(error).__name__}")
        _keep(file, place, [*outcomes, ended])
        raise
    print(f"\n{summary(part, place.gpu, outcomes, _measured(place))}", flush=True)
    return outcomes


def _measured(place: plan.Place) -> Results | None:
    measured = plan.measured(place)
    if measured is not None:
        run.judge(measured, BENCHES)
    return measured


def _keep(file: Path, place: plan.Place, outcomes: Sequence[Outcome]) -> None:
    """Write the JSON and the archive, each whole whenever somebody ends this process."""
    left_out = _archive(file.with_suffix(".zip"), place.folder)
    measured = _measured(place)
    record = ROOT / "emergence_ext" / "_build.json"
    kept = {
        "date": datetime.date.today().isoformat(),
        "revision": revision(),
        "machine": {"gpu": place.gpu},
        **({} if measured is None else asdict(measured)),
        "build": json.loads(record.read_text()) if record.exists() else None,
        "phases": [asdict(x) for x in outcomes],
        "left_out_of_archive": left_out,
    }
    partly = file.with_name(f"{file.name}.partly")
    partly.write_text(json.dumps(kept, indent=1) + "\n")
    partly.replace(file)
    return measured


def _archive(path: Path, folder: Path) -> list[str]:
    """Pack a folder's files, the small ones first; return the names of those that found no room."""
    left_out, size = [], 0
    files = sorted((x for x in folder.rglob("*") if x.is_file()), key=lambda x: x.stat().st_size)
    partly = path.with_name(f"{path.name}.partly")
    with zipfile.ZipFile(partly, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            name, data = str(file.relative_to(folder)), file.read_bytes()
            size += len(zlib.compress(data))
            if size > ARCHIVE:
                left_out.append(name)
            else:
                archive.writestr(name, data)
    partly.replace(path)
    return left_out


if __name__ == "__main__":
    # As an interrupt: what is running is ended, and what is known is kept.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
