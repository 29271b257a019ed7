"""The Triton kernels compiled for GPUs, without one: what ptxas makes of what would be launched."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import narrow_problem, narrow_triton
from tests.cases import Case, build_loss

pytest.importorskip("triton", reason="triton is not installed")

TARGETS = [80, 86, 89, 90, 120]
WIDTHS = [1, 3, 4, 5, 8]
FEW = 32  # bytes that ptxas puts aside at D = 3 and 5 though it has registers left: some addresses
TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.uint8: "u8", torch.int64: "i64"}


class Launch(NamedTuple):
    """A kernel and what it is given."""

    kernel: str
    arguments: dict[str, Any]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Launch]:
    """Records launches, of which none runs; what is compiled lies in a cache of its own."""
    from emergence_ext.ops import narrow_kernels

    seen: list[Launch] = []

    def record(kernel: str, programs: int, *tensors: Tensor | None, **sizes: int) -> None:
        names = getattr(narrow_kernels, kernel).arg_names
        seen.append(Launch(kernel, dict(zip(names, tensors, strict=False)) | sizes))

    monkeypatch.setattr(narrow_problem, "launch", record)
    monkeypatch.setattr(narrow_triton, "launch", record)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return seen


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "case",
    [
        Case(N=80, R=49, B=2, S=196, D=3),
        Case(N=1, R=1, B=1, S=1, D=1),  # sizes of 1 are constants
    ],
    ids=str,
)
def test_every_kernel_compiles_without_spills(case: Case, launches: list[Launch]) -> None:
    everything_is_launched(case)
    for launch in launches:
        assert_compiles(launch, 90)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("D", WIDTHS)
def test_every_kernel_compiles_for_every_gpu(D: int, target: int, launches: list[Launch]) -> None:
    everything_is_launched(Case(N=80, R=49, B=2, S=196, D=D))
    for launch in launches:
        assert_compiles(launch, target)


def everything_is_launched(case: Case) -> None:
    x = build_loss(case, exclude=True)
    kl = narrow_triton._match_kl(x.q, x.d, x.a, x.b, x.P, x.exclude, [True] * 4)
    assert [t.shape for t in kl[1:]] == [x.q.shape, x.d.shape, x.a.shape, x.b.shape]
    narrow_triton._match_kl_scaled(x.q, x.v, x.d, x.a, x.b, x.P, None, [True] * 3)
    narrow_triton._maxsim(x.q, x.d, None)


def assert_compiles(launch: Launch, target: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from emergence_ext.ops import narrow_kernels

    kernel = getattr(narrow_kernels, launch.kernel)
    signature, constants, aligned = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        given = launch.arguments[parameter.name]
        if parameter.is_constexpr or given is None:
            signature[parameter.name], constants[(place,)] = "constexpr", given
        elif isinstance(given, Tensor):
            signature[parameter.name] = "*" + TYPES[given.dtype]
            if not parameter.do_not_specialize_on_alignment:
                aligned[(place,)] = [["tt.divisibility", 16]]
        elif given == 1 and not parameter.do_not_specialize:
            signature[parameter.name], constants[(place,)] = "constexpr", given
        else:
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", target, 32))
    assert not re.search(r"\b(atom|red)\.", made.asm["ptx"]), "there are no atomics"
    used = resources(made.asm["cubin"])
    scaled = " scaled" if launch.arguments.get("v_ptr") is not None else ""
    print(f"sm_{target} D {launch.arguments.get('D', '-')} {launch.kernel}{scaled}: {used}")
    assert used["LOCAL"] == 0
    assert used["STACK"] <= (0 if target in (86, 89, 90) else FEW), "registers were spilled"


def resources(cubin: bytes) -> dict[str, int]:
    """What a kernel takes, as the tool beside Triton's assembler reads it."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    path = Path(triton.knobs.cache.dir) / "kernel.cubin"
    path.write_bytes(cubin)
    said = subprocess.run(
        [tool, "-res-usage", path], capture_output=True, text=True, check=True, timeout=60
    )
    return {
        name: int(n) for name, n in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", said.stdout)
    }
