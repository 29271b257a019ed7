"""The decisions of the build, without building."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import build_support
from build_support import BuildError, Toolkit, Wishes
from emergence_ext import _version

PYTHON_ONLY = {"PATH": "/nowhere"}


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_toolkit(home: Path, release: str = "13.0") -> Path:
    """A folder with an nvcc that answers --dryrun and --version as the real one does."""
    return program(
        home / "bin" / "nvcc",
        f'case "$1" in --version) echo "Cuda compilation tools, release {release}, V{release}" ;;\n'
        f'*) echo "#\\$ _SPACE_= " >&2; echo "#\\$ TOP={home}/bin/.." >&2 ;; esac',
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("8.0+PTX;9.0a", ["sm_80", "compute_80", "sm_90a"]),
        ("8.0 8.6;8.6", ["sm_80", "sm_86"]),
        ("12.0f;", ["sm_120f"]),
    ],
)
def test_architectures_are_read_as_torch_writes_them(text: str, names: list[str]) -> None:
    assert build_support.parse_architectures(text) == names


@pytest.mark.parametrize("text", ["Ampere", "native", "8", "8.0+ptx", "8.0,9.0"])
def test_an_unknown_architecture_is_an_error_that_shows_the_form(text: str) -> None:
    with pytest.raises(BuildError, match=r"TORCH_CUDA_ARCH_LIST: expected numbers such as '8\.0"):
        build_support.parse_architectures(text)


def test_an_architecture_that_is_too_old_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(BuildError, match=r"need 8\.0 or higher, got '7\.5'; .* FORCE_CUDA=0"):
        build_support.parse_architectures("8.0;7.5")
    env = {"TORCH_CUDA_ARCH_LIST": "7.5", "FORCE_CUDA": "0", "PATH": ""}
    assert build_support.make_plan(env, None, None).reasons["cuda"] is not None


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (
            {"sm_80", "sm_90", "sm_100", "sm_110", "sm_120"},
            ["sm_80", "sm_90a", "sm_100", "sm_120", "compute_120"],
        ),
        ({"sm_80", "sm_90"}, ["sm_80", "sm_90a", "compute_80"]),
        ({"sm_90", "sm_100"}, ["sm_90a", "sm_100", "compute_100"]),
        (set(), ["sm_80", "sm_90a", "sm_100", "sm_120", "compute_120"]),
    ],
)
def test_by_default_what_nvcc_knows_is_built(known: set[str], names: list[str]) -> None:
    assert build_support.default_architectures(known) == names


def test_nvcc_is_asked_what_it_knows_unless_architectures_are_named(tmp_path: Path) -> None:
    nvcc = program(tmp_path / "bin" / "nvcc", "echo sm_80; echo sm_90; echo sm_103")
    assert build_support.known_architectures(nvcc) == {"sm_80", "sm_90", "sm_103"}
    toolkit = Toolkit(tmp_path, nvcc, "12.4")
    by_default = build_support.make_plan({}, "12.4", toolkit).nvcc_flags
    assert by_default[-1] == "-gencode=arch=compute_80,code=compute_80"
    named = build_support.make_plan({"TORCH_CUDA_ARCH_LIST": "8.9"}, "12.4", toolkit).nvcc_flags
    assert named[-1] == "-gencode=arch=compute_89,code=sm_89"


def test_architectures_become_flags_of_nvcc() -> None:
    assert build_support.architecture_flags(["sm_80", "compute_80", "sm_90a"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_80,code=compute_80",
        "-gencode=arch=compute_90a,code=sm_90a",
    ]


def test_the_toolkit_is_read_out_of_a_dry_run() -> None:
    text = "#$ _SPACE_= \n#$ TOP=/opt/my cuda/bin/..\n#$ PATH=/x\n"
    assert build_support.toolkit_home(text) == Path("/opt/my cuda")
    assert build_support.toolkit_home("nvcc fatal: no input") is None


def test_the_toolkit_behind_a_wrapper_on_the_path_is_found(tmp_path: Path) -> None:
    nvcc = fake_toolkit(tmp_path / "cuda-13.0")
    program(tmp_path / "tools" / "nvcc", f'exec "{nvcc}" "$@"')
    found = build_support.find_toolkit({"PATH": str(tmp_path / "tools")})
    assert found == Toolkit(tmp_path / "cuda-13.0", nvcc, "13.0")


def test_cuda_home_goes_before_the_path(tmp_path: Path) -> None:
    fake_toolkit(tmp_path / "a", "12.8")
    fake_toolkit(tmp_path / "b", "13.0")
    env = {"CUDA_HOME": str(tmp_path / "a"), "PATH": str(tmp_path / "b" / "bin")}
    found = build_support.find_toolkit(env)
    assert found is not None and found.home == tmp_path / "a" and found.release == "12.8"


def test_a_cuda_home_without_nvcc_is_not_replaced_by_another(tmp_path: Path) -> None:
    fake_toolkit(tmp_path / "b")
    env = {"CUDA_HOME": str(tmp_path / "a"), "PATH": str(tmp_path / "b" / "bin")}
    assert build_support.find_toolkit(env) is None


@pytest.mark.parametrize(
    ("env", "required", "cuda"),
    [
        ({}, set(), None),
        ({"FORCE_CUDA": "0"}, set(), False),
        ({"FORCE_CUDA": "1"}, {"cpu", "cuda"}, True),
        ({"EMERGENCE_REQUIRE": "cpu"}, {"cpu"}, None),
        ({"EMERGENCE_REQUIRE": " cuda , cpu"}, {"cpu", "cuda"}, None),
        ({"EMERGENCE_REQUIRE": "cuda"}, {"cpu", "cuda"}, None),
        ({"EMERGENCE_SANITIZE": "0"}, set(), None),
    ],
)
def test_wishes_are_read(env: dict[str, str], required: set[str], cuda: bool | None) -> None:
    assert Wishes.read(env) == Wishes(frozenset(required), cuda, sanitize=False)


def test_the_wish_for_sanitizers_is_read() -> None:
    assert Wishes.read({"EMERGENCE_SANITIZE": "1"}) == Wishes(frozenset(), None, sanitize=True)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"EMERGENCE_REQUIRE": "cpu,tpu"}, "tpu"),
        ({"FORCE_CUDA": "yes"}, "expected 0 or 1, got 'yes'"),
        ({"FORCE_CUDA": "0", "EMERGENCE_REQUIRE": "cuda"}, "FORCE_CUDA=0 forbids"),
        ({"EMERGENCE_SANITIZE": "on"}, "EMERGENCE_SANITIZE: expected 0 or 1, got 'on'"),
        ({"FORCE_CUDA": "1", "EMERGENCE_SANITIZE": "1"}, "EMERGENCE_SANITIZE=1 builds no CUDA"),
    ],
)
def test_wishes_that_cannot_be_are_errors(env: dict[str, str], says: str) -> None:
    with pytest.raises(BuildError, match=says):
        Wishes.read(env)


@pytest.mark.parametrize(
    ("wish", "torch_cuda", "release", "says"),
    [
        (False, "13.0", "13.0", "FORCE_CUDA=0"),
        (None, None, "13.0", "torch is built without CUDA"),
        (None, "13.0", None, "no nvcc found"),
        (None, "12.8", "13.0", "nvcc is of CUDA 13.0, torch of CUDA 12.8"),
    ],
)
def test_the_reason_for_no_cuda_is_said(
    wish: bool | None, torch_cuda: str | None, release: str | None, says: str
) -> None:
    toolkit = Toolkit(Path("/cuda"), Path("/cuda/bin/nvcc"), release) if release else None
    reason = build_support.why_no_cuda(Wishes(frozenset(), wish), torch_cuda, toolkit, [])
    assert reason is not None and says in reason


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
def test_sanitizers_are_compiled_and_linked_in_where_they_are_asked_for() -> None:
    env = {"PATH": os.environ["PATH"]}
    usual = build_support.make_plan(env, None, None)
    assert not usual.sanitizes
    assert "-O3" in usual.cxx_flags and build_support.SANITIZERS not in usual.link_flags
    plan = build_support.make_plan({**env, "EMERGENCE_SANITIZE": "1"}, None, None)
    assert plan.sanitizes
    assert build_support.SANITIZERS in plan.link_flags
    assert plan.link_flags[1:] == usual.link_flags
    # A finding ends the run, and the last of two levels of optimisation is taken.
    assert "-fno-sanitize-recover=undefined" in plan.cxx_flags
    assert plan.cxx_flags.index("-O1") > plan.cxx_flags.index("-O3")


def test_sanitizers_are_for_the_cpu_alone() -> None:
    toolkit = Toolkit(Path("/cuda"), Path("/cuda/bin/nvcc"), "13.0")
    wishes = Wishes.read({"EMERGENCE_SANITIZE": "1"})
    assert build_support.why_no_cuda(wishes, "13.0", toolkit, []) == "EMERGENCE_SANITIZE=1"


def test_no_compiler_gives_a_plan_that_builds_nothing() -> None:
    plan = build_support.make_plan(PYTHON_ONLY, "13.0", None)
    assert not plan.builds("cpu") and not plan.builds("cuda")
    assert "no C++ compiler found" in (plan.reasons["cpu"] or "")
    assert build_support.build_facts(plan, None, package="0")["flags"] == []


@pytest.mark.parametrize("wish", [{"EMERGENCE_REQUIRE": "cpu"}, {"FORCE_CUDA": "1"}])
def test_a_missing_backend_that_is_required_is_an_error(wish: dict[str, str]) -> None:
    with pytest.raises(BuildError, match="cpu backend is required and cannot be built: no C"):
        build_support.make_plan({**PYTHON_ONLY, **wish}, "13.0", None)


def test_a_compiler_that_fails_is_a_reason_with_its_message(tmp_path: Path) -> None:
    broken = program(
        tmp_path / "c++", 'echo "probe.cpp:2: fatal error: Python.h: none" >&2; exit 1'
    )
    reason = build_support.probe_cxx(str(broken), [])
    assert reason is not None and "fatal error: Python.h: none" in reason


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
def test_a_compiler_that_works_passes_the_probe() -> None:
    assert build_support.probe_cxx("c++", ["-O0"]) is None


@pytest.mark.parametrize(
    ("cuda", "hip", "name"),
    [
        (None, None, "cpu"),
        ("13.0", None, "cu130"),
        ("12.8", None, "cu128"),
        (None, "6.4.1", "rocm6.4"),
    ],
)
def test_the_variant_of_torch_is_named(cuda: str | None, hip: str | None, name: str) -> None:
    assert build_support.torch_variant(cuda, hip) == name


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "generated" / "facts.h"
    build_support.write_if_changed(path, "one")
    before = path.stat().st_mtime_ns
    build_support.write_if_changed(path, "one")
    assert path.stat().st_mtime_ns == before
    build_support.write_if_changed(path, "two")
    assert path.read_text() == "two"


def test_the_sdist_holds_all_that_its_tests_read(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    copy = tmp_path / "copy"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "runs", "*.egg-info", "*.so"
    )
    shutil.copytree(root, copy, ignore=left_out)
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=copy, check=True, timeout=300)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        there = {name.partition("/")[2] for name in opened.getnames()}
    needed = {
        file.relative_to(copy).as_posix()
        for file in copy.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and ".egg-info" not in str(file)
    }
    caches = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".coverage", ".ci_")
    unneeded = {".pre-commit-config.yaml", "emergence_ext/_build.json"}
    lacking = {name for name in needed - there - unneeded if not name.startswith(caches)}
    assert not lacking, sorted(lacking)


def test_without_torch_one_line_says_what_to_do(tmp_path: Path) -> None:
    root = Path(build_support.__file__).parent
    for name in ("setup.py", "build_support.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "emergence_ext").mkdir()
    # What is tested may be installed, and not beside the tests.
    shutil.copy(_version.__file__, tmp_path / "emergence_ext")
    (tmp_path / "emergence_ext" / "__init__.py").touch()
    build = "import sys; sys.modules['torch'] = None; from setuptools import build_meta as b; "
    done = subprocess.run(
        [sys.executable, "-c", build + "b.build_wheel('out')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1] == f"error: {build_support.NO_TORCH}"
