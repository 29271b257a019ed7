"""The CUDA sources compile without warnings, and no kernel keeps registers in memory."""

from __future__ import annotations

import os

import pytest

import build_support
from benchmarks import resources

PRINTED = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_80'
ptxas info    : Function properties for _Z5firstPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 464 bytes cmem[0]
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_80'
ptxas info    : Function properties for _Z6secondPf
    16 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 464 bytes cmem[0]
"""


def test_a_report_is_read_kernel_by_kernel() -> None:
    first, second = resources.parse(PRINTED, "sm_80")
    assert (first.registers, first.stack, first.spilled) == (40, 0, 0)
    assert (second.registers, second.stack, second.spilled) == (128, 16, 32)
    assert "first" in first.name and second.architecture == "sm_80"


@pytest.mark.slow  # compiles every kernel for two architectures
def test_no_kernel_spills() -> None:
    toolkit = build_support.find_toolkit(os.environ)
    if toolkit is None:
        pytest.skip("no nvcc found (CUDA_HOME, then the PATH)")
    kernels = resources.report(toolkit, ["sm_80", "sm_90a"])
    names = {kernel.name.split("<")[0] for kernel in kernels}
    assert {"match_kernel", "score_kernel", "kl_kernel", "scored_wide_kernel"} <= names
    assert not [kernel for kernel in kernels if kernel.stack or kernel.spilled]
