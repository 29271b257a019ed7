"""The proof of a way to match on a GPU, in a process of its own.

A kernel that is wrong on a card can crash, hang or spoil every later call. So a child process runs
the problems of `proof_cases` there and says which one it begins; whatever becomes of it, this side
has a verdict and goes on.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from emergence_ext.ops.verdicts import Verdict

LIMIT: Final = 180.0
"""Seconds that a proof may take; a proof that ends takes a small share of it."""

GRACE: Final = 10.0
"""Seconds that a killed child may take to go: a kernel that hangs can hold its process."""

CHILD: Final = (sys.executable, "-P", "-m", "emergence_ext.ops.proof_child")
"""The child's command line; the way and the UUID of the GPU follow."""


@dataclass(frozen=True)
class GPU:
    """What a verdict holds for.

    Attributes:
        name: as torch names it, slices (MIG) by their own names.
        capability: compute capability.
        multiprocessors: their number, which tells slices apart.
        driver: its version.
        uuid: of the one device, by which a child finds it whatever it is allowed to see.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    driver: str
    uuid: str

    def key(self, way: str) -> dict[str, str]:
        """All that the verdict on a way depends on."""
        return {
            "way": way,
            "gpu": self.name,
            "capability": "{}.{}".format(*self.capability),
            "multiprocessors": str(self.multiprocessors),
            "driver": self.driver,
            "torch": torch.__version__,
            "code": _digest_of_code(),
        }


@dataclass(frozen=True)
class Proved:
    """A verdict, and whether it lasts: a full memory or a child that never began is of the day."""

    verdict: Verdict
    lasts: bool = True


def look_at(index: int) -> GPU | str:
    """The GPU of an index, or why torch can use none there, in one line."""
    try:
        torch.cuda.init()
        found = torch.cuda.get_device_properties(index)
    except Exception as error:  # of many kinds: no driver, one that is too old, a forked process
        return f"torch can use no GPU {index} here: {_first_line(str(error))}"
    capability = (found.major, found.minor)
    return GPU(found.name, capability, found.multi_processor_count, _driver(), str(found.uuid))


def prove(way: str, gpu: GPU, command: Sequence[str] = CHILD, limit: float = LIMIT) -> Proved:
    """Prove a way on a GPU, in a child process.

    Args:
        way: one of `ways.WAYS`.
        gpu: where.
        command: of the child; way and UUID are appended.
        limit: seconds until the child is killed.
    """
    try:
        ended = _run([*command, way, gpu.uuid], _environment(way), limit)
    except OSError as error:
        return _refused(f"its proof cannot be started: {error}", lasts=False)
    return _judge(ended, limit)


@dataclass(frozen=True)
class _Ended:
    """What a child left: its exit code (None: it was killed for the time), words and errors."""

    code: int | None
    out: str
    errors: str


def _run(command: list[str], environment: dict[str, str], limit: float) -> _Ended:
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            out, errors = child.communicate(timeout=limit)
            return _Ended(child.returncode, _text(out), _text(errors))
        except subprocess.TimeoutExpired:
            child.kill()
            try:
                out, errors = child.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired as stuck:
                out, errors = stuck.output or b"", stuck.stderr or b""
                _leave(child)
            return _Ended(None, _text(out), _text(errors))
        except BaseException:  # Ctrl-C among them: nobody is left to end the child
            child.kill()
            raise


def _leave(child: subprocess.Popen[bytes]) -> None:
    """Wait no more for a child whose kernel holds it; it is gone when the driver lets it go."""
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    child.returncode = -signal.SIGKILL


def _judge(ended: _Ended, limit: float) -> Proved:
    said = _said(ended.out)
    cases = [line["case"] for line in said if "case" in line]
    told = {name: line[name] for line in said for name in line}
    at = f"problem {cases[-1]!r}" if cases else ""
    if "unable" in told:
        return _refused(f"its proof cannot run: {told['unable']}", lasts=False)
    if "wrong" in told:
        return _refused(f"{at} is wrong: {told['wrong']}")
    if "error" in told:
        return _refused(f"{at} failed: {told['error']}", lasts="memory" not in told)
    if not cases:
        last = _last_line(ended.errors) or "it said nothing"
        cause = f"not within {limit:g} s" if ended.code is None else f"{_ending(ended)}, {last}"
        return _refused(f"its proof did not begin: {cause}", lasts=False)
    if ended.code is None:
        return _refused(f"{at} did not end: its proof was stopped after {limit:g} s")
    if ended.code != 0 or not {"milliseconds", "plain"} <= told.keys():
        broke_off = f"its proof broke off in {at} ({_ending(ended)})"
        return _refused(": ".join(filter(None, (broke_off, _last_line(ended.errors)))))
    milliseconds, plain = float(told["milliseconds"]), float(told["plain"])
    reason = ""
    if not milliseconds < plain:
        reason = f"it is not quicker: {milliseconds:.3g} ms, plain torch {plain:.3g} ms"
    return Proved(Verdict(reason, _today(), milliseconds, plain))


def _said(out: str) -> list[dict[str, Any]]:
    """The child's lines; whatever else prints to its output is passed over."""
    said = []
    for line in out.splitlines():
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, dict):
            said.append({name: value for name, value in read.items() if _is_word(name, value)})
    return said


def _is_word(name: str, value: Any) -> bool:
    if name in ("milliseconds", "plain"):
        return isinstance(value, int | float)
    return name in ("case", "wrong", "error", "unable", "memory") and isinstance(value, str)


def _environment(way: str) -> dict[str, str]:
    """The child's: the way without a proof, and the modules that this process has."""
    root = str(Path(__file__).resolve().parents[2])
    second = way if way in ("split", "hopper", "triton") else "portable"
    path = os.pathsep.join([root, *(part for part in sys.path if part)])
    forced = {"EMERGENCE_CUDA": "all", "EMERGENCE_CUDA_PATH": second, "PYTHONPATH": path}
    return {**os.environ, **forced}


def _refused(reason: str, lasts: bool = True) -> Proved:
    return Proved(Verdict(_first_line(reason), _today()), lasts)


def _ending(ended: _Ended) -> str:
    if ended.code is not None and ended.code < 0:
        try:
            return signal.Signals(-ended.code).name
        except ValueError:
            return f"signal {-ended.code}"
    return f"exit code {ended.code}"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1][:300]


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:500]


def _driver() -> str:
    """The version of the driver, as its module and as its CUDA tell it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    numbers = re.search(r"\d+\.\d+(\.\d+)?", text)
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)
    return f"{numbers[0] if numbers else 'unknown'}, CUDA {ask() if ask else 'unknown'}"


@cache
def _digest_of_code() -> str:
    """Of the library, Triton's kernels, what both are compared with, and the proof itself."""
    digest, here = hashlib.sha256(), Path(__file__).parent
    files = [*sorted(here.parent.glob("libemergence_ext.*")), *sorted(here.glob("proof*.py"))]
    for file in [*files, here / "narrow_triton.py", here / "reference.py"]:
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
