"""The ways to match on a GPU, and how an op is made to take a certain one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from benchmarks.bounds import NARROW
from benchmarks.cases import Bench
from emergence_ext.ops import library

VARIABLE: Final = "EMERGENCE_CUDA_PATH"
AUTO: Final = "auto"
"""The op is left alone."""

PORTABLE: Final = "portable"
SPLIT: Final = "split"
TRITON: Final = "triton"
HOPPER: Final = "hopper"
WAYS: Final = (PORTABLE, SPLIT, TRITON, HOPPER)
"""In the order in which they are tried: the one that could hang a device comes last."""


def why_not(way: str, capability: Sequence[int]) -> str | None:
    """Say why a way cannot be taken on a device of this compute capability, None where it can."""
    if way == HOPPER and capability[0] != 9:
        return "it is for compute capability 9.0"
    if way == TRITON and find_spec("triton") is None:
        return "triton is not installed"
    if way == TRITON and find_spec("emergence_ext.ops.narrow_triton") is None:
        return "this version has no kernels in Triton"
    return None


def built(capability: Sequence[int]) -> list[str]:
    """Name the ways that can be taken here, of those that the library was built with."""
    no_library = library.why_not("cuda") is not None
    return [
        way
        for way in WAYS
        if why_not(way, capability) is None and not (no_library and way != TRITON)
    ]


def does(way: str, D: int, dtype: str, precision: str) -> bool:
    """Whether a way does a problem by itself: what it cannot do, the portable one does."""
    if way in (SPLIT, TRITON):
        return D <= NARROW and dtype == "float32"
    return way in (AUTO, PORTABLE) or _uses_tensor_cores(D, dtype, precision)


def applying(bench: Bench, precision: str, names: Sequence[str]) -> list[str]:
    """Name those of `names` that do a case."""
    return [name for name in names if does(name, bench.D, bench.dtype, precision)]


def uses_tensor_cores(bench: Bench, precision: str) -> bool:
    """Whether the products of wide rows are of 16-bit numbers."""
    return _uses_tensor_cores(bench.D, bench.dtype, precision)


def _uses_tensor_cores(D: int, dtype: str, precision: str) -> bool:
    return D > NARROW and (
        dtype in ("bfloat16", "float16") or (dtype == "float32" and precision != "highest")
    )


@contextmanager
def taking(path: str) -> Iterator[None]:
    """Make the ops take a path, or with "auto" the one that they choose."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
