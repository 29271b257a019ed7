"""The implementations of one op on a GPU, and how it is made to take a certain one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from benchmarks.bounds import NARROW
from benchmarks.cases import Bench
from emergence_ext.ops import build_info

VARIABLE: Final = "EMERGENCE_CUDA_PATH"
PORTABLE: Final = "portable"
SPLIT: Final = "split"
HOPPER: Final = "hopper"


def built() -> list[str]:
    """Name the paths that the library was built with."""
    return list(build_info()["cuda_paths"])


def applying(bench: Bench, precision: str, names: Sequence[str]) -> list[str]:
    """Name those of `names` that do a case: an op that a path cannot do takes the portable one."""
    does = {
        PORTABLE: True,
        SPLIT: bench.D <= NARROW and bench.dtype == "float32",
        HOPPER: uses_tensor_cores(bench, precision),
    }
    return [name for name in names if does[name]]


def uses_tensor_cores(bench: Bench, precision: str) -> bool:
    """Whether the products of wide rows are of 16-bit numbers."""
    return bench.D > NARROW and (bench.dtype != "float32" or precision != "highest")


@contextmanager
def taking(path: str | None) -> Iterator[None]:
    """Make the ops take a path, or the one that they choose where it is None."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = path or "auto"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
