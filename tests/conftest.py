"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

from emergence_ext import _library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real images and weights: $EMERGENCE_DATA, else shared/data beside the checkout."""
    named = os.environ.get("EMERGENCE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set EMERGENCE_DATA")
    return folder


@pytest.fixture(scope="session")
def truth_dir() -> Path:
    """The published values that are committed with the tests."""
    return Path(__file__).with_name("truth")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def library() -> None:
    """For tests of the compiled ops: skips without the library, fails where it is required."""
    reason = _library.why_not("cpu")
    if reason is None:
        return
    if "cpu" in os.environ.get("EMERGENCE_REQUIRE", ""):
        pytest.fail(f"EMERGENCE_REQUIRE asks for the library: {reason}")
    pytest.skip(f"the library is not there: {reason}")


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test change torch's number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
