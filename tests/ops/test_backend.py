"""The choice of what computes: never silent, the same results, an error where it cannot be had."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch

from emergence_ext.ops import backend, reference, ways
from emergence_ext.ops import fused as ops
from emergence_ext.ops import library as _library
from emergence_ext.ops.backend import choose, in_words, why_not_fused

OPS = ("match_kl", "match_kl_scaled", "maxsim", "maxsim_indices", "maxsim_packed")
NEVER_BUILT = f"it was never built here. To build it: {_library.REBUILD}"


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the library was not built, and nobody was told yet."""
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": NEVER_BUILT)
    monkeypatch.setattr(ops, "_warned", False)


@pytest.fixture
def nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_warned", set())


def test_auto_takes_the_fused_ops_where_the_library_is(library: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose() == choose("auto", torch.device("cpu")) == choose("fused") == ("fused", ops)
    assert why_not_fused() is None
    assert _library.build_info()["instruction_set"] in in_words()


def test_the_reference_is_taken_on_any_device_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device in ("cpu", "cuda", "mps"):
            assert choose("reference", device) == ("reference", reference)
    assert "as asked" in in_words("reference")


@pytest.mark.parametrize("op", OPS)
def test_both_modules_take_the_same_arguments(op: str) -> None:
    assert inspect.signature(getattr(ops, op)) == inspect.signature(getattr(reference, op))


def test_without_a_library_auto_is_the_reference_and_says_so_once(no_library: None) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            matching = choose("auto")
            assert matching.name == "reference"
            assert torch.equal(matching.ops.maxsim(x, x), reference.maxsim(x, x))
        ops.maxsim(x, x)
    assert [NEVER_BUILT in str(warning.message) for warning in told] == [True]
    assert NEVER_BUILT in in_words()


def test_without_a_library_fused_is_an_error_that_says_how_to_build_it(no_library: None) -> None:
    with pytest.raises(RuntimeError, match="never built") as error:
        choose("fused")
    assert _library.REBUILD in str(error.value) and "'reference'" in str(error.value)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "gate", ways.Gate(lambda index: "torch finds no GPU"))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_elsewhere_auto_is_the_reference_and_says_so_once(
    device: str, nobody_told: None, no_gpu: None
) -> None:
    reason = why_not_fused(device)
    assert reason is not None
    with pytest.warns(RuntimeWarning, match=f"on {device}: ") as told:
        for place in (device, torch.device(device, 1)):
            assert choose("auto", place) == ("reference", reference)
    assert [reason in str(warning.message) for warning in told] == [True]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_elsewhere_fused_is_an_error(device: str, no_gpu: None) -> None:
    with pytest.raises(RuntimeError, match=f"cannot compute on {device}: "):
        choose("fused", device)


@pytest.mark.parametrize("device", ["gpu", "CPU", "", None, 3.5])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_is_no_device_is_an_error(backend: Any, device: Any) -> None:
    for ask in (choose, in_words):
        with pytest.raises(ValueError, match=rf"device: expected cpu, .* got {device!r}"):
            ask(backend, device)


@pytest.mark.parametrize("name", ["", "Fused", "cpu"])
def test_an_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"'auto', 'fused', 'reference'.* got '{name}'"):
        choose(name)
