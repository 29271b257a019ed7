"""Loading of the compiled library: only into a torch that has its ABI, and never a crash."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import build_support
import emergence_ext
from emergence_ext.ops import library as _library

ROOT = Path(__file__).resolve().parents[2]
FACTS: dict[str, Any] = {
    "torch": "2.14.1",
    "torch_variant": "cu130",
    "torch_at_least": "2.11",
    "why_not": {"cpu": None, "cuda": None},
}


def test_every_required_backend_is_there() -> None:
    for backend in filter(None, os.environ.get("EMERGENCE_REQUIRE", "").split(",")):
        assert _library.why_not(backend.strip()) is None


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0a0", "2.14.1", "3.0.0"])
def test_a_library_is_loaded_into_every_torch_from_its_abi_on(version: str) -> None:
    assert _library.reason_not_to_load(FACTS, (version, "cu130")) is None


@pytest.mark.parametrize("version", ["2.9.1", "2.10.0", "1.13.1"])
def test_a_library_is_not_loaded_into_a_torch_before_its_abi(version: str) -> None:
    reason = _library.reason_not_to_load(FACTS, (version, "cu130"))
    assert reason is not None
    for part in ("torch 2.11 or later", f"torch {version} is running"):
        assert part in reason


@pytest.mark.parametrize("variant", ["cpu", "cu129", "rocm6.4"])
def test_a_library_with_cuda_is_loaded_beside_its_cuda_alone(variant: str) -> None:
    assert _library.reason_not_to_load(FACTS, ("2.14.1", "cu132")) is None
    reason = _library.reason_not_to_load(FACTS, ("2.14.1", variant))
    assert reason is not None
    for part in ("a torch of CUDA 13", f"torch 2.14.1+{variant} is running", _library.REBUILD):
        assert part in reason
    without = {**FACTS, "why_not": {"cpu": None, "cuda": "no nvcc found"}}
    assert _library.reason_not_to_load(without, ("2.14.1", variant)) is None


def test_the_build_asks_for_the_torch_that_its_sources_keep_to() -> None:
    text = (ROOT / "csrc" / "tensors.h").read_text()
    major, minor = re.search(
        r"TORCH_TARGET_VERSION .*\+ (\d+)\) << 56.*\+ (\d+)\) << 48", text
    ).groups()
    assert f"{major}.{minor}" == build_support.TORCH_AT_LEAST


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to read the library with")
def test_the_library_takes_nothing_of_one_torch_or_one_python(library: None) -> None:
    path = Path(_library.__file__).parents[1] / build_support.LIBRARY
    wanted = subprocess.run(
        ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout.split()
    names = {name for name in wanted if len(name) > 1}
    assert not [name for name in names if re.match(r"_ZNK?(2at|3c10|5torch)", name)]
    of_torch = {name for name in names if name.startswith(("aoti_torch_", "torch_"))}
    assert {"torch_call_dispatcher", "torch_library_impl"} <= of_torch
    of_python = {name for name in names if name.startswith(("Py", "_Py"))}
    assert of_python <= {
        *("PyErr_SetString", "PyImport_ImportModule", "PyObject_GetAttrString", "Py_DecRef"),
        *("PyExc_TypeError", "PyExc_ValueError", "PyExc_NotImplementedError"),
    }


def test_a_build_without_a_compiler_says_so() -> None:
    facts = {**FACTS, "why_not": {"cpu": "no C++ compiler found", "cuda": "no C++ compiler found"}}
    reason = _library.reason_not_to_load(facts, ("2.14.1", "cu130"))
    assert reason is not None and "no C++ compiler found" in reason


def test_no_build_says_how_to_build() -> None:
    reason = _library.reason_not_to_load({}, ("2.14.1", "cu130"))
    assert reason is not None and _library.REBUILD in reason


def test_running_torch_is_named_by_version_and_variant() -> None:
    version, variant = _library.running_torch()
    assert torch.__version__.startswith(version)
    assert variant == "cpu" or variant.startswith(("cu", "rocm"))


def test_build_info_tells_of_compiler_flags_and_torch(library: None) -> None:
    info = _library.build_info()
    assert info["package"] == emergence_ext.__version__
    assert info["torch_at_least"] == build_support.TORCH_AT_LEAST
    assert info["compiler"] and "-O3" in info["flags"]
    known = ["generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16"]  # lowest first
    assert info["instruction_sets"] == known[: len(info["instruction_sets"])] != []
    assert info["instruction_set"] in info["instruction_sets"]
    assert info["why_not"]["cpu"] is None
    assert bool(info["cuda_architectures"]) == (info["why_not"]["cuda"] is None)
    assert bool(info["cuda_paths"]) == (info["why_not"]["cuda"] is None)


def test_a_callers_change_to_build_info_stays_the_callers() -> None:
    _library.build_info()["why_not"]["cpu"] = "changed"
    assert _library.build_info()["why_not"]["cpu"] != "changed"


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(ValueError, match="'cpu' or 'cuda', got 'tpu'"):
        _library.why_not("tpu")


def test_the_instruction_set_can_be_switched_to_one_that_is_there(level: str) -> None:
    assert _library.build_info()["instruction_set"] == level
    with pytest.raises(ValueError, match=r"must be one of \[.*'generic'.* got 'sse9'"):
        _library.use_instruction_set("sse9")
    with pytest.raises(ValueError, match=r"must be one of .* got None"):
        _library.use_instruction_set(None)  # type: ignore[arg-type]
    assert _library.build_info()["instruction_set"] == level


@pytest.mark.one_in(3)
@pytest.mark.parametrize("wanted", ["", "generic", "sse9"])
def test_the_environment_chooses_the_instruction_set(wanted: str, library: None) -> None:
    # The highest without a wish; a lower one is taken; what is not there is no reason to go on.
    done = subprocess.run(
        [sys.executable, "-c", "from emergence_ext.ops import build_info; print(build_info())"],
        cwd=Path(emergence_ext.__file__).parents[1],
        env={**os.environ, "EMERGENCE_INSTRUCTION_SET": wanted},
        capture_output=True,
        text=True,
        timeout=120,
    )
    levels = _library.build_info()["instruction_sets"]
    if wanted == "sse9":
        assert done.returncode != 0
        assert (
            "ValueError: EMERGENCE_INSTRUCTION_SET: instruction set must be one of "
            f"{levels} on this machine, got 'sse9'"
        ) in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert f"'instruction_set': '{wanted or levels[-1]}'" in done.stdout


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("record", "says"),
    [
        (None, "never built"),
        ("{", "never built"),
        (json.dumps({**FACTS, "torch_at_least": "1000.0"}), "runs with torch 1000.0 or later"),
    ],
    ids=["absent", "corrupt", "another torch"],
)
def test_import_survives_a_library_that_does_not_fit(
    record: str | None, says: str, tmp_path: Path
) -> None:
    # A copy of the sources without the shared object, as a machine without a compiler has it.
    package = tmp_path / "emergence_ext"
    left_out = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    shutil.copytree(Path(_library.__file__).parents[1], package, ignore=left_out)
    if record is not None:
        (package / "_build.json").write_text(record)
    program = (
        "import torch; from emergence_ext import ops\n"
        "print(ops.maxsim(torch.ones(1, 1, 1), torch.ones(1, 1, 1)).item(), ops.library.why_not())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1.0 ") and says in done.stdout
    assert "RuntimeWarning: emergence_ext runs without its compiled library" in done.stderr


def test_a_record_that_is_not_there_or_damaged_is_no_build(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _library._read_record(tmp_path / "none.json") == {} and not caplog.text
    (tmp_path / "half.json").write_text('{"torch": ')
    assert _library._read_record(tmp_path / "half.json") == {}
    assert "half.json cannot be read" in caplog.text


def test_what_is_loaded_is_believed_and_what_cannot_be_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Built:
        @staticmethod
        def build_info() -> dict[str, Any]:
            return {**FACTS, "compiler": "another"}

    monkeypatch.setattr(_library, "_read_record", lambda path: FACTS)
    monkeypatch.setattr(_library, "running_torch", lambda: ("2.14.1", "cu130"))
    monkeypatch.setattr(_library.importlib, "import_module", lambda name: Built)
    assert _library._load() == (Built.build_info(), Built, None)
    assert "is not the library's own" in caplog.text

    def fail(name: str) -> None:
        raise ImportError("undefined symbol")

    monkeypatch.setattr(_library.importlib, "import_module", fail)
    facts, library, reason = _library._load()
    assert facts == FACTS and library is None
    assert reason is not None and "undefined symbol" in reason and _library.REBUILD in reason


def test_without_the_library_its_switches_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_library", None)
    monkeypatch.setattr(_library, "_not_loaded", "it was never built here")
    assert _library.why_not("cpu") == _library.why_not("cuda") == "it was never built here"
    _library.allow_cuda_ways(0, ["narrow"])
    with pytest.raises(RuntimeError, match="not there: it was never built here"):
        _library.use_instruction_set("generic")
    with pytest.raises(ValueError, match="must be 'cpu' or 'cuda', got 'gpu'"):
        _library.why_not("gpu")


def test_an_installed_package_is_built_from_its_sdist(tmp_path: Path) -> None:
    assert _library._rebuild(tmp_path).endswith("SOURCE, its sdist")
    (tmp_path / "setup.py").touch()
    assert _library._rebuild(tmp_path).endswith("-e .")


@pytest.mark.parametrize(
    ("hip", "cuda", "variant"),
    [(None, None, "cpu"), (None, "13.0", "cu130"), ("6.4.43482-0f2d", None, "rocm6.4")],
)
def test_the_variant_of_torch_is_that_of_its_accelerator(
    hip: str | None, cuda: str | None, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert _library.running_torch()[1] == variant


@pytest.mark.parametrize("reason", [None, "no nvcc found"])
def test_a_backend_that_was_not_built_says_why(
    reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_library, "_library", None)
    monkeypatch.setattr(_library, "_not_loaded", None)
    monkeypatch.setattr(_library, "_facts", {**FACTS, "why_not": {"cpu": None, "cuda": reason}})
    info = _library.build_info()
    assert "instruction_sets" not in info and "instruction_set" not in info
    assert info["cuda_paths"] == ([] if reason else list(_library.CUDA_PATHS))
    said = info["why_not"]["cuda"]
    assert said == reason or said == f"it was not built: {reason}. To build it: {_library.REBUILD}"


def _loaded_again() -> None:
    spec = importlib.util.spec_from_file_location("library_again", _library.__file__)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_environments_instruction_set_is_taken_as_the_module_is_loaded(
    library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = _library.build_info()["instruction_set"]
    monkeypatch.setenv("EMERGENCE_INSTRUCTION_SET", level)
    _loaded_again()
    monkeypatch.setenv("EMERGENCE_INSTRUCTION_SET", "sse9")
    with pytest.raises(ValueError, match=r"^EMERGENCE_INSTRUCTION_SET: .* got 'sse9'"):
        _loaded_again()
    assert _library.build_info()["instruction_set"] == level


def test_a_device_is_allowed_its_ways_in_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, list[str]]] = []

    class Loaded:
        @staticmethod
        def allow_cuda_ways(index: int, names: list[str]) -> None:
            told.append((index, names))

    monkeypatch.setattr(_library, "_library", Loaded)
    _library.allow_cuda_ways(1, ("wide", "planes"))
    assert told == [(1, ["wide", "planes"])]
