"""Which way a device takes: what proved itself there, or what the environment says."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from emergence_ext import ops
from emergence_ext.ops import fused, reference, ways
from emergence_ext.ops import library as _library
from emergence_ext.ops.backend import choose, in_words, why_not_fused
from emergence_ext.ops.proof import GPU, look_at
from emergence_ext.ops.verdicts import Verdict
from emergence_ext.ops.ways import PORTABLE, Gate
from tests.gates import CARD, HOPPER, OLD, WRONG, YES, Prover, gate_of

pytestmark = pytest.mark.usefixtures("allowed")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Prover]:
    """Gives this process the devices 0 and 1 and a prover."""

    def put(first: GPU | str = CARD, second: GPU | str = OLD, **refused: str) -> Prover:
        prover = Prover(**refused)
        gate = Gate(lambda index: (first, second)[index], prover, tmp_path / "cache")
        monkeypatch.setattr(ways, "gate", gate)
        return prover

    return put


# What cannot be proved


@pytest.mark.parametrize("recorded", ["compiling", "capturing"])
def test_nothing_is_proved_while_calls_are_recorded(
    recorded: str, install: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    prover = install()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: recorded == "compiling")
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recorded == "capturing")
        with pytest.warns(RuntimeWarning, match=r"not proved themselves on this GPU yet"):
            assert ways.computes("maxsim", "narrow", 0, by_triton=False) == "reference"
        assert prover.asked == []
    assert ways.computes("maxsim", "narrow", 0, by_triton=False) == "library"


def test_torch_compile_takes_the_reference_until_the_proof(
    library: None, install: Callable[..., Prover]
) -> None:
    prover = install()
    graphs: list[str] = []

    def note(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(str(module.graph))
        return module.forward

    def compiled() -> str:
        torch.compiler.reset()
        with FakeTensorMode():
            x = on_gpu(0, 3)
            torch.compile(ops.maxsim, fullgraph=True, backend=note)(x, x)
        return graphs[-1]

    with pytest.warns(RuntimeWarning, match=r"not proved themselves"):
        assert "emergence_ext.maxsim" not in compiled()
    assert prover.asked == []
    assert why_not_fused("cuda:0", width=3) is None
    assert "emergence_ext.maxsim" in compiled()


@pytest.mark.parametrize(
    ("gpu", "way", "reason"),
    [
        (OLD, "narrow", "Tesla T4 has compute capability 7.5, the kernels need 8.0 or higher"),
        (CARD, "hopper", "a card has compute capability 8.6, hopper needs 9.0"),
        ("The NVIDIA driver on your system is too old", "wide", "driver on your system is too old"),
    ],
)
@pytest.mark.parametrize("said", ["", "all"])
def test_what_cannot_run_is_not_proved(
    gpu: GPU | str, way: str, reason: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA", said)
    prover = Prover()
    assert reason in str(gate_of(prover, None, gpu).why_not(way, 0))
    assert prover.asked == []


def test_hopper_needs_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for architectures, fits in ((["sm_80", "sm_90a"], True), (["sm_80", "compute_80"], False)):
        facts = {"cuda_architectures": architectures}
        monkeypatch.setattr(_library, "build_info", lambda facts=facts: facts)
        reason = gate_of(Prover(), None, HOPPER).impossible("hopper", 0)
        assert (reason is None) == fits


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_torch_says_why_in_one_line() -> None:
    reason = look_at(0)
    assert isinstance(reason, str) and "torch can use no GPU 0 here: " in reason
    assert "\n" not in reason
    assert why_not_fused("cuda") is not None
    with pytest.raises(RuntimeError, match=r"nothing to prove: .* can use no GPU"):
        ways.standings(prove=True)


# What is overruled


@pytest.mark.parametrize(
    ("said", "taken"),
    [("off", []), ("portable", list(PORTABLE)), ("all", [*PORTABLE, "split"])],
)
def test_the_environment_overrules_the_proof(
    said: str, taken: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prover = Prover(narrow=WRONG)
    gate = gate_of(prover, tmp_path)
    gate.why_not("narrow", 0)
    monkeypatch.setenv("EMERGENCE_CUDA", said)
    assert [way for way in (*PORTABLE, "split") if gate.why_not(way, 0) is None] == taken
    assert prover.asked == ["narrow"]


@pytest.mark.parametrize("variable", ["EMERGENCE_CUDA", "EMERGENCE_CUDA_PATH"])
def test_another_word_is_an_error(
    variable: str, install: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setenv(variable, "yes")
    with pytest.raises(ValueError, match=rf"{variable} must be one of .*; got 'yes'"):
        ways.computes("maxsim", "narrow", 0, by_triton=False)


# What computes


def on_gpu(index: int, D: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(2, 3, D, device=torch.device("cuda", index), dtype=dtype)


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors that have a device and no numbers."""
    with FakeTensorMode():
        yield


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which module computed, call by call."""
    found: list[str] = []

    def module(name: str) -> SimpleNamespace:
        def note(*_: Any, **__: Any) -> Tensor:
            found.append(name)
            return torch.empty(())

        def note_both(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return note(), torch.empty((), dtype=torch.int64)

        return SimpleNamespace(maxsim=note, maxsim_indices=note_both, why_not=lambda device: None)

    monkeypatch.setattr(fused, "_compiled", module("library"))
    monkeypatch.setattr(fused, "reference", module("reference"))
    monkeypatch.setattr(ways, "narrow_triton", lambda: module("triton"))
    return found


@pytest.mark.usefixtures("fake")
def test_each_kind_of_rows_takes_the_way_that_is_right_for_it(
    install: Callable[..., Prover], called: list[str]
) -> None:
    install(planes=WRONG)
    half = on_gpu(0, 40, torch.bfloat16)
    with pytest.warns(RuntimeWarning) as told:
        for x, precision in (
            (on_gpu(0, 3), "highest"),
            (on_gpu(0, 40), "highest"),
            (on_gpu(0, 40), "medium"),
            (half, "highest"),
            (half, "highest"),
        ):
            ops.maxsim(x, x, precision=precision)
    assert called == ["library", "library", "reference", "reference", "reference"]
    assert [str(warning.message) for warning in told] == [
        f"maxsim is computed in plain torch on cuda:0: {WRONG}"
    ]
    assert told[0].filename == __file__


@pytest.mark.usefixtures("fake")
def test_an_older_second_card_has_the_reference_and_the_first_one_its_kernels(
    install: Callable[..., Prover], called: list[str], allowed: dict
) -> None:
    install()
    ops.maxsim(on_gpu(0, 40), on_gpu(0, 40))
    with pytest.warns(RuntimeWarning, match=r"cuda:1: Tesla T4 has compute capability 7\.5"):
        ops.maxsim(on_gpu(1, 40), on_gpu(1, 40))
    assert called == ["library", "reference"]
    assert allowed == {0: ["wide"]}


@pytest.mark.usefixtures("fake")
def test_triton_stands_in_for_narrow_float32_rows(
    install: Callable[..., Prover], called: list[str], allowed: dict
) -> None:
    prover = install(narrow=WRONG, wide=WRONG)
    with pytest.warns(RuntimeWarning):
        for D, dtype in ((3, torch.float32), (3, torch.float64), (40, torch.float32)):
            ops.maxsim_indices(on_gpu(0, D, dtype), on_gpu(0, D, dtype))
    assert called == ["triton", "reference", "reference"]
    assert prover.asked == ["narrow", "triton", "wide"]
    assert allowed == {0: []}  # which is the library's


@pytest.mark.usefixtures("fake")
def test_a_way_that_is_preferred_is_proved_and_taken(
    install: Callable[..., Prover],
    called: list[str],
    allowed: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prover = install(split="it is not quicker")
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", "triton")
    ops.maxsim(on_gpu(0, 3), on_gpu(0, 3))
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", "split")
    with pytest.warns(RuntimeWarning, match="does not take split on cuda:0: it is not quicker"):
        ops.maxsim(on_gpu(0, 3), on_gpu(0, 3))
    ops.maxsim(on_gpu(0, 40), on_gpu(0, 40))  # of which it is no way
    assert called == ["triton", "library", "library"]
    assert prover.asked == ["triton", "split", "narrow", "wide"]
    assert allowed == {0: ["narrow", "wide"]}


@pytest.mark.usefixtures("fake")
def test_what_is_off_as_asked_is_off_without_a_word(
    install: Callable[..., Prover], called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setenv("EMERGENCE_CUDA", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.maxsim(on_gpu(0, 3), on_gpu(0, 3))
        assert choose("auto", "cuda:0", width=3).name == "reference"
    assert called == ["reference"]
    with pytest.raises(RuntimeError, match="EMERGENCE_CUDA=off"):
        choose("fused", "cuda:0")


def test_a_fit_chooses_by_its_device_and_rows(install: Callable[..., Prover]) -> None:
    prover = install(wide=WRONG, triton="no Triton")
    assert choose("auto", "cuda:0", width=3) == choose("fused", "cuda:0") == ("fused", fused)
    assert in_words("auto", "cuda:0", width=3) == "the fused ops, on CUDA"
    assert prover.asked == ["narrow"]
    with pytest.warns(RuntimeWarning, match=f"plain torch on cuda: {WRONG}") as told:
        for _ in range(2):
            assert choose("auto", "cuda:0", width=512, scaled=True) == ("reference", reference)
    assert len(told) == 1
    with pytest.raises(RuntimeError, match=rf"cannot compute on cuda:0: {WRONG}.*'reference'"):
        choose("fused", "cuda:0", width=512)
    with pytest.raises(RuntimeError, match="cannot compute on cuda:1: Tesla T4 has"):
        choose("fused", "cuda:1", width=3)
    assert choose("auto", "cuda:0", width=512, precision="medium").name == "fused"


def test_looking_proves_nothing(install: Callable[..., Prover]) -> None:
    prover = install()
    assert why_not_fused("cuda:0", may_prove=False) == ways.NOT_YET
    assert prover.asked == []
    assert why_not_fused("cuda:0") is None
    assert why_not_fused("cuda:0", may_prove=False) is None


def test_every_way_of_every_gpu_is_named(
    install: Callable[..., Prover], monkeypatch: pytest.MonkeyPatch
) -> None:
    prover = install(planes=WRONG)
    monkeypatch.setattr(ways, "narrow_triton", lambda: SimpleNamespace(why_not=lambda _: None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("fused", "cuda:0", width=3)
    found = ways.standings()
    assert list(found) == [
        "cuda:0 a card, compute capability 8.6",
        "cuda:1 Tesla T4, compute capability 7.5",
    ]
    first, second = ({each.way: each for each in way} for way in found.values())
    assert first["narrow"].verdict == YES and first["wide"].verdict is None
    assert "hopper needs 9.0" in str(first["hopper"].impossible)
    assert "7.5" in str(second["narrow"].impossible)
    assert prover.asked == ["narrow"]
    proved = {each.way: each for each in next(iter(ways.standings(prove=True).values()))}
    assert prover.asked == ["narrow", "narrow", "wide", "planes", "split", "triton"]
    assert proved["planes"].verdict == Verdict(WRONG, "2026-11-30")
