"""What setup.py has to decide: which backends are built, with what, and why not the others.

Nothing here imports torch, so that every decision can be tested on its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BACKENDS = ("cpu", "cuda")
# The first of each generation, whose code its later ones run as it is (8.9, 10.3, 12.1), and PTX
# for those to come. See default_architectures for a compiler that does not know all of them.
DEFAULT_ARCHITECTURES = "8.0;9.0a;10.0;12.0+PTX"
TORCH_AT_LEAST = "2.11"  # whose stable ABI the library keeps to: csrc/tensors.h
LIBRARY = "libemergence_ext.so"  # the ops, for any Python; the module _C is linked with it
LOWEST_ARCHITECTURE = 8  # asynchronous copies and products of bfloat16
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
]
SANITIZERS = "-fsanitize=address,undefined"
# Later flags win over the usual ones. Types of torch that other libraries own have no vtable here.
SANITIZE_FLAGS = [SANITIZERS, "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]
SANITIZE_FLAGS += ["-fno-wrapv", "-fno-omit-frame-pointer", "-O1", "-g"]
NVCC_FLAGS = ["-std=c++20", "-O3"]
NO_TORCH = (
    "emergence_ext is compiled with the headers of torch, and no torch can be imported here. "
    "Install torch first, then build without isolation: "
    "pip install --no-build-isolation ."
)
NOT_IN_PLACE = (
    "a library with sanitizers runs under them alone and must not replace the installed one: "
    "unset EMERGENCE_SANITIZE, or use `make sanitize`, which builds into a folder of its own"
)

_CXX_PROBE = """
#include <Python.h>
#include <vector>
int probe() { return static_cast<int>(std::vector<int>(3).size()); }
"""
_CUDA_PROBE = """
#include <cuda_runtime.h>
__global__ void probe(float* x) { x[threadIdx.x] += 1; }
void launch(float* x) { probe<<<1, 1>>>(x); }
"""


class BuildError(RuntimeError):
    """A backend that was asked for cannot be built."""


@dataclass(frozen=True)
class Wishes:
    """What the environment asks for: backends that must be there, CUDA on or off, sanitizers."""

    required: frozenset[str]
    cuda: bool | None
    sanitize: bool = False

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Wishes:
        """Read `EMERGENCE_REQUIRE` (a comma-separated list), `FORCE_CUDA` and `EMERGENCE_SANITIZE`.

        The latter two are 0 or 1; sanitizers are for the CPU alone.
        """
        required = {name.strip() for name in env.get("EMERGENCE_REQUIRE", "").split(",")} - {""}
        if unknown := sorted(required - set(BACKENDS)):
            raise BuildError(f"EMERGENCE_REQUIRE: expected some of {BACKENDS}, got {unknown}")
        cuda, sanitize = (_switch(env, name) for name in ("FORCE_CUDA", "EMERGENCE_SANITIZE"))
        if cuda is False and "cuda" in required:
            raise BuildError("EMERGENCE_REQUIRE asks for cuda and FORCE_CUDA=0 forbids it")
        if cuda or "cuda" in required:
            required |= {"cpu", "cuda"}
        if sanitize and "cuda" in required:
            raise BuildError("EMERGENCE_SANITIZE=1 builds no CUDA; ask for the two one at a time")
        return cls(frozenset(required), cuda, sanitize is True)


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder, the release of its compiler, and how to call that."""

    home: Path
    nvcc: Path
    release: str


@dataclass(frozen=True)
class Plan:
    """What will be built. `reasons[backend]` says why not, None where it is built."""

    reasons: dict[str, str | None]
    cxx: str
    cxx_flags: list[str]
    nvcc_flags: list[str]
    architectures: list[str]

    def builds(self, backend: str) -> bool:
        """Whether `backend` will be built."""
        return self.reasons[backend] is None

    @property
    def sanitizes(self) -> bool:
        """Whether the library will run under sanitizers only."""
        return SANITIZERS in self.cxx_flags

    @property
    def link_flags(self) -> list[str]:
        """The flags that the linker needs as well."""
        return [flag for flag in self.cxx_flags if flag == SANITIZERS]


def parse_architectures(text: str) -> list[str]:
    """Turn "8.0+PTX;9.0a" into ["sm_80", "compute_80", "sm_90a"], the names nvcc uses."""
    names: list[str] = []
    for item in re.split(r"[;\s]+", text.strip().strip(";")):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", item)
        if match is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: expected numbers such as {DEFAULT_ARCHITECTURES!r}, "
                f"got {item!r}"
            )
        if int(match[1]) < LOWEST_ARCHITECTURE:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: the kernels need {LOWEST_ARCHITECTURE}.0 or higher, got "
                f"{item!r}; leave it out, or build without CUDA: FORCE_CUDA=0"
            )
        number = match[1] + match[2]
        names += [f"sm_{number}"] + ([f"compute_{number}"] if match[3] else [])
    return list(dict.fromkeys(names))


def default_architectures(known: Collection[str]) -> list[str]:
    """Give the architectures that are built where nobody names any.

    Those that the compiler does not know are left out; PTX is of the newest that it does know.

    Args:
        known: the names that nvcc takes ("sm_80", ...), as `known_architectures` gives them.
    """
    wanted = parse_architectures(DEFAULT_ARCHITECTURES)
    real = [name for name in wanted if name.startswith("sm_") and _plain(name) in known]
    if not real:
        return wanted  # the probe will say what is wrong
    portable = [name for name in real if name == _plain(name)]
    newest = [name.replace("sm_", "compute_") for name in portable[-1:]]
    return real + newest


def known_architectures(nvcc: Path) -> set[str]:
    """Ask nvcc for the names of real architectures that it compiles for ("sm_80", ...)."""
    return set(re.findall(r"sm_\d+", _output([str(nvcc), "--list-gpu-code"])))


def architecture_flags(names: Sequence[str]) -> list[str]:
    """Give nvcc's -gencode flags for names such as "sm_90a" and "compute_80"."""
    return [f"-gencode=arch=compute_{name.split('_')[1]},code={name}" for name in names]


def toolkit_home(dryrun: str) -> Path | None:
    """Read the toolkit's folder out of what `nvcc --dryrun` prints (its line "TOP=...")."""
    match = re.search(r"^#\$ TOP=(.+?)\s*$", dryrun, re.MULTILINE)
    return Path(os.path.normpath(match[1])) if match else None


def find_toolkit(env: Mapping[str, str]) -> Toolkit | None:
    """Find the CUDA toolkit: CUDA_HOME or CUDA_PATH, else the one behind the nvcc on the PATH.

    The nvcc on the PATH may be a wrapper script or a link far from its toolkit, so it is asked.
    """
    named = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    candidates = (
        [str(Path(named) / "bin" / "nvcc")] if named else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    )
    for candidate in candidates:
        nvcc = shutil.which(candidate, path=env.get("PATH", os.defpath))
        if nvcc is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cu"
            source.write_text("")
            dryrun = _output([nvcc, "--dryrun", "-c", str(source), "-o", os.devnull])
        release = re.search(r"release (\d+\.\d+)", _output([nvcc, "--version"]))
        home = toolkit_home(dryrun)
        if home is not None and release is not None and (home / "bin" / "nvcc").exists():
            return Toolkit(home, home / "bin" / "nvcc", release[1])
    return None


def find_compiler(env: Mapping[str, str]) -> str | None:
    """Find the C++ compiler: CXX when it is set, else the first of c++, g++ and clang++."""
    candidates = [env["CXX"]] if env.get("CXX") else ["c++", "g++", "clang++"]
    path = env.get("PATH", os.defpath)
    return next((name for name in candidates if shutil.which(name.split()[0], path=path)), None)


def probe_cxx(compiler: str, flags: Sequence[str]) -> str | None:
    """Compile and link a few lines with Python's headers; None, or the reason why that failed."""
    include = sysconfig.get_path("include")
    command = [*compiler.split(), *flags, "-fPIC", "-shared", f"-I{include}"]
    return _probe(command, "probe.cpp", _CXX_PROBE)


def probe_cuda(toolkit: Toolkit, flags: Sequence[str]) -> str | None:
    """Compile a kernel for every architecture asked for; None, or the reason why that failed."""
    return _probe([str(toolkit.nvcc), *flags, "-c"], "probe.cu", _CUDA_PROBE)


def why_no_cuda(
    wishes: Wishes, torch_cuda: str | None, toolkit: Toolkit | None, flags: Sequence[str]
) -> str | None:
    """Say why the CUDA backend cannot be built, or None where it can.

    Args:
        wishes: what the environment asks for.
        torch_cuda: `torch.version.cuda`.
        toolkit: as `find_toolkit` gives it.
        flags: flags of nvcc, architectures included.
    """
    if wishes.cuda is False:
        return "FORCE_CUDA=0"
    if wishes.sanitize:
        return "EMERGENCE_SANITIZE=1"
    if torch_cuda is None:
        return "this torch is built without CUDA"
    if toolkit is None:
        return "no nvcc found (CUDA_HOME, then the PATH)"
    if toolkit.release.split(".")[0] != torch_cuda.split(".")[0]:
        return f"nvcc is of CUDA {toolkit.release}, torch of CUDA {torch_cuda}"
    return probe_cuda(toolkit, flags)


def make_plan(env: Mapping[str, str], torch_cuda: str | None, toolkit: Toolkit | None) -> Plan:
    """Probe the compilers and settle which backends are built.

    Raises:
        BuildError: a backend that `EMERGENCE_REQUIRE` or `FORCE_CUDA=1` asks for cannot be built.
    """
    wishes = Wishes.read(env)
    named = "" if wishes.cuda is False else env.get("TORCH_CUDA_ARCH_LIST", "")
    known = known_architectures(toolkit.nvcc) if toolkit and not named else set()
    architectures = parse_architectures(named) if named else default_architectures(known)
    nvcc_flags = NVCC_FLAGS + architecture_flags(architectures)
    compiler = find_compiler(env)
    cxx_flags = CXX_FLAGS + (SANITIZE_FLAGS if wishes.sanitize else [])
    if compiler is None:
        no_cpu: str | None = "no C++ compiler found (CXX, then c++, g++, clang++ on the PATH)"
    else:
        no_cpu = probe_cxx(compiler, cxx_flags)
    no_cuda = no_cpu or why_no_cuda(wishes, torch_cuda, toolkit, nvcc_flags)
    reasons = {"cpu": no_cpu, "cuda": no_cuda}
    for backend in sorted(wishes.required):
        if reasons[backend] is not None:
            raise BuildError(
                f"the {backend} backend is required and cannot be built: {reasons[backend]}"
            )
    return Plan(reasons, compiler or "", cxx_flags, nvcc_flags, [] if no_cuda else architectures)


def torch_variant(cuda: str | None, hip: str | None) -> str:
    """Name the variant of a torch: "cpu", "cu130" or "rocm6.4"."""
    if hip is not None:
        return f"rocm{'.'.join(hip.split('.')[:2])}"
    return "cpu" if cuda is None else f"cu{cuda.replace('.', '')}"


def build_facts(plan: Plan, toolkit: Toolkit | None, **versions: str) -> dict[str, Any]:
    """Collect what `build_info()` tells; `versions` are package, torch and torch_variant."""
    compiler = _output([*plan.cxx.split(), "--version"]).splitlines() if plan.builds("cpu") else []
    cuda = plan.builds("cuda")
    return {
        **versions,
        "torch_at_least": TORCH_AT_LEAST,
        "compiler": compiler[0] if compiler else None,
        "flags": plan.cxx_flags if plan.builds("cpu") else [],
        "cuda_compiler": f"nvcc {toolkit.release}" if toolkit and cuda else None,
        "cuda_flags": plan.nvcc_flags if cuda else [],
        "cuda_architectures": plan.architectures,
        "why_not": plan.reasons,
    }


def write_if_changed(path: Path, text: str) -> None:
    """Write `text` unless the file holds it already, so that ninja sees no change."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def facts_header(facts: Mapping[str, Any]) -> str:
    """Give the C++ header that carries the facts into the compiled library."""
    text = json.dumps(facts, indent=1, sort_keys=True)
    return f'#pragma once\nconstexpr const char* kBuildFacts = R"facts({text})facts";\n'


def _plain(name: str) -> str:
    return name.rstrip("af")


def _switch(env: Mapping[str, str], name: str) -> bool | None:
    value = env.get(name, "")
    if value not in ("", "0", "1"):
        raise BuildError(f"{name}: expected 0 or 1, got {value!r}")
    return {"": None, "0": False, "1": True}[value]


def _probe(command: list[str], name: str, text: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / name
        source.write_text(text)
        try:
            done = subprocess.run(
                [*command, str(source), "-o", str(Path(folder) / "probe.out")],
                capture_output=True,
                text=True,
                timeout=300,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{command[0]}: {error}"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
    first = next((line for line in lines if "error" in line.lower()), lines[0])
    return f"{command[0]} fails on a probe: {first.replace(folder + os.sep, '')}"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
