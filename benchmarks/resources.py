"""What the compiler gives each CUDA kernel, printed as a table: `make resources`.

Registers decide how many threads a multiprocessor holds; a stack frame or a spill is a register
that lives in memory, and a failure here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import build_support
from benchmarks.results import ROOT

_REPORT: Final = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\s+ptxas info\s*: Used (\d+) registers"
)
_ANONYMOUS: Final = re.compile(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|emergence_ext::cuda::")


@dataclass(frozen=True)
class Kernel:
    """Registers of a thread, and bytes of a thread's memory that are not asked for."""

    name: str
    architecture: str
    registers: int
    stack: int
    spilled: int


def report(toolkit: build_support.Toolkit, architectures: Sequence[str]) -> list[Kernel]:
    """Compile every kernel for each architecture ("sm_80", ...) and read what it got.

    Raises:
        RuntimeError: a source that does not compile, or not without warnings.
    """
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    work = [(source, name) for source in sources for name in architectures]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        of_sources = pool.map(partial(_compiled, toolkit), *zip(*work, strict=True))
        return sorted(
            (kernel for kernels in of_sources for kernel in kernels), key=lambda x: x.name
        )


def parse(text: str, architecture: str) -> list[Kernel]:
    """Read the kernels out of what `nvcc -Xptxas -v` prints."""
    rows = _REPORT.findall(text)
    plain = _demangled([row[0] for row in rows])
    return [
        Kernel(name, architecture, int(registers), int(stack), int(stores) + int(loads))
        for name, (_, stack, stores, loads, registers) in zip(plain, rows, strict=True)
    ]


def _compiled(toolkit: build_support.Toolkit, source: Path, architecture: str) -> list[Kernel]:
    flags = [*build_support.NVCC_FLAGS, *build_support.architecture_flags([architecture])]
    with tempfile.TemporaryDirectory() as folder:
        command = [str(toolkit.nvcc), *flags, "-std=c++17", "-Xptxas", "-v", "-c", str(source)]
        command += [f"-I{ROOT / 'csrc'}", "-o", str(Path(folder) / "kernel.o")]
        done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout + done.stderr
    if done.returncode != 0 or re.search(r"\b(warning|error)\b", text):
        raise RuntimeError(f"{source.name} for {architecture}:\n{text}")
    return parse(text, architecture)


def _demangled(names: list[str]) -> list[str]:
    try:
        done = subprocess.run(
            ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return names
    plain = [_ANONYMOUS.sub("", line) for line in done.stdout.splitlines()]
    return [re.sub(r"^void |\((?!anonymous).*$", "", name) for name in plain]


def main() -> None:
    """Print the table; exit with 1 where a kernel has a stack frame or spills."""
    toolkit = build_support.find_toolkit(os.environ)
    if toolkit is None:
        sys.exit("no nvcc found (CUDA_HOME, then the PATH)")
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST")
    names = (
        build_support.parse_architectures(wanted)
        if wanted
        else build_support.default_architectures(build_support.known_architectures(toolkit.nvcc))
    )
    kernels = report(toolkit, [name for name in names if name.startswith("sm_")])
    width = max(len(kernel.name) for kernel in kernels)
    print(f"{'kernel':{width}}  {'for':8} registers  stack  spilled")
    for kernel in kernels:
        print(
            f"{kernel.name:{width}}  {kernel.architecture:8} {kernel.registers:9}"
            f"  {kernel.stack:5}  {kernel.spilled:7}"
        )
    bad = [kernel for kernel in kernels if kernel.stack or kernel.spilled]
    print(
        f"{len(kernels)} kernels, {len(bad)} with a stack frame or spills (nvcc {toolkit.release})"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
