"""Which way a device takes: what proved itself there, kept from one process to the next."""

from __future__ import annotations

import errno
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from emergence_ext import ops
from emergence_ext.ops import backend, fused, reference, ways
from emergence_ext.ops import library as _library
from emergence_ext.ops.backend import choose, in_words, why_not_fused
from emergence_ext.ops.proof import GPU, Proved, look_at
from emergence_ext.ops.verdicts import Verdict, cache_folder
from emergence_ext.ops.ways import PORTABLE, Gate
from tests.emulated import EmulatedGPU

CARD = GPU("a card", (8, 6), 28, "580.65", "GPU-1234")
OLD = GPU("Tesla T4", (7, 5), 40, "580.65", "GPU-5678")
HOPPER = GPU("NVIDIA H200", (9, 0), 132, "580.65", "GPU-9012")
YES = Verdict("", "2026-11-30", 1.0, 20.0)
WRONG = "problem 'N3 R1' is wrong: 3 of 7 scores"


class Prover:
    """Stands in for the child: what it finds by way, else yes; counts what it is asked."""

    def __init__(self, lasts: bool = True, seconds: float = 0, **refused: str) -> None:
        self.lasts, self.seconds, self.refused = lasts, seconds, refused
        self.asked: list[str] = []

    def __call__(self, way: str, gpu: GPU) -> Proved:
        self.asked.append(way)
        time.sleep(self.seconds)
        reason = self.refused.get(way)
        return Proved(YES if reason is None else Verdict(reason, "2026-11-30"), self.lasts)


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[str]]:
    """A library with a CUDA backend, and what it was told that each device may take."""
    told: dict[int, list[str]] = {}
    monkeypatch.setattr(_library, "why_not", lambda backend="cpu": None)
    monkeypatch.setattr(_library, "allow_cuda_ways", told.__setitem__)
    monkeypatch.setattr(backend, "_warned", set())
    for variable in ("EMERGENCE_CUDA", "EMERGENCE_CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return told


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Prover]:
    """Gives this process the devices 0 and 1 and a prover."""

    def put(first: GPU | str = CARD, second: GPU | str = OLD, **refused: str) -> Prover:
        prover = Prover(**refused)
        gate = Gate(lambda index: (first, second)[index], prover, tmp_path / "cache")
        monkeypatch.setattr(ways, "gate", gate)
        return prover

    return put


def gate_of(prover: Prover, folder: Path | None, gpu: GPU | str = CARD) -> Gate:
    return Gate(lambda index: gpu, prover, folder)


# What is kept


def test_a_way_is_proved_once_for_all_processes(tmp_path: Path, allowed: dict) -> None:
    first, second = Prover(planes=WRONG), Prover()
    gate = gate_of(first, tmp_path / "new" / "cache")
    assert gate.why_not("narrow", 0) is None and gate.why_not("planes", 0) == WRONG
    assert gate.why_not("narrow", 0) is None
    assert allowed == {0: ["narrow"]}
    later = gate_of(second, tmp_path / "new" / "cache")
    assert later.why_not("planes", 3) == WRONG and later.why_not("narrow", 3) is None
    assert allowed[3] == ["narrow"]
    assert first.asked == ["narrow", "planes"] and second.asked == []
    assert later.verdict("narrow", 3) == YES


@pytest.mark.parametrize(
    "other",
    [
        {"name": "another card"},
        {"name": "a card MIG 1g.18gb"},
        {"multiprocessors": 14},
        {"driver": "590.11"},
        {"capability": (8, 9)},
    ],
    ids=str,
)
def test_what_another_device_or_driver_proved_is_not_believed(
    other: dict[str, Any], tmp_path: Path
) -> None:
    prover = Prover()
    gate_of(prover, tmp_path).why_not("narrow", 0)
    gate_of(prover, tmp_path, replace(CARD, **other)).why_not("narrow", 0)
    gate_of(prover, tmp_path).why_not("narrow", 0)
    assert len(prover.asked) == 2


def test_which_device_of_its_kind_it_was_is_no_matter(tmp_path: Path) -> None:
    # CUDA_VISIBLE_DEVICES may show another, or the same one at another index.
    prover = Prover()
    for uuid in ("GPU-1", "GPU-2"):
        assert gate_of(prover, tmp_path, replace(CARD, uuid=uuid)).why_not("narrow", 0) is None
    assert len(prover.asked) == 1


def test_another_torch_proves_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prover = Prover()
    gate_of(prover, tmp_path).why_not("narrow", 0)
    monkeypatch.setattr(torch, "__version__", "9.9")
    gate_of(prover, tmp_path).why_not("narrow", 0)
    assert len(prover.asked) == 2


@pytest.mark.parametrize("damage", ["", "{", "[" * 100_000, "[]", "null", "key", "reason", "ms"])
def test_a_damaged_verdict_is_proved_anew(damage: str, tmp_path: Path) -> None:
    prover = Prover(narrow=WRONG)
    gate_of(prover, tmp_path).why_not("narrow", 0)
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())
    kept["key"]["way"] = "wide" if damage == "key" else "narrow"
    kept["verdict"] |= {"reason": 5} if damage == "reason" else {}
    kept["verdict"] |= {"milliseconds": "fast"} if damage == "ms" else {}
    known = damage in ("key", "reason", "ms")
    file.write_text(json.dumps(kept) if known else damage)
    assert gate_of(prover, tmp_path).why_not("narrow", 0) == WRONG
    assert len(prover.asked) == 2
    assert gate_of(prover, tmp_path).why_not("narrow", 0) == WRONG  # and kept again
    assert len(prover.asked) == 2


def no_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("a file")


def read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)


def full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)


@pytest.mark.parametrize("spoil", [no_folder, read_only, full])
def test_where_nothing_can_be_kept_the_process_knows_and_says_so_once(
    spoil: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    spoil(folder, monkeypatch)
    prover = Prover()
    gate = gate_of(prover, folder)
    with pytest.warns(RuntimeWarning, match=r"for this process alone: .*cache.* cannot") as told:
        for way in ("narrow", "wide", "narrow"):
            assert gate.why_not(way, 0) is None
    assert len(told) == 1 and prover.asked == ["narrow", "wide"]
    assert not folder.is_dir() or not [*folder.glob("*.json"), *folder.glob(".*.tmp")]


def test_what_was_of_the_day_is_not_kept_but_not_asked_again(tmp_path: Path) -> None:
    prover = Prover(lasts=False, narrow="its proof did not begin")
    gate = gate_of(prover, tmp_path)
    assert gate.why_not("narrow", 0) == gate.why_not("narrow", 0) == "its proof did not begin"
    assert prover.asked == ["narrow"]
    assert gate_of(Prover(), tmp_path).why_not("narrow", 0) is None


def test_of_two_processes_one_proves_and_the_other_waits(tmp_path: Path) -> None:
    # A lock on a file is of its opening, so that two gates are as good as two processes.
    provers = [Prover(seconds=0.3), Prover(seconds=0.3)]
    gates = [gate_of(prover, tmp_path) for prover in provers]
    found: list[str | None] = []
    threads = [
        threading.Thread(target=lambda gate=gate: found.append(gate.why_not("narrow", 0)))
        for gate in gates
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None, None]
    assert sorted(len(prover.asked) for prover in provers) == [0, 1]


def test_of_two_threads_one_proves(tmp_path: Path) -> None:
    prover = Prover(seconds=0.2)
    gate = gate_of(prover, tmp_path)
    threads = [threading.Thread(target=gate.why_not, args=("narrow", 0)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert prover.asked == ["narrow"]


def test_a_proof_can_be_had_again(tmp_path: Path, allowed: dict) -> None:
    gate_of(Prover(narrow=WRONG), tmp_path).why_not("narrow", 0)
    gate = gate_of(Prover(), tmp_path)
    assert gate.why_not("narrow", 0) == WRONG and allowed == {0: []}
    assert gate.verdict("narrow", 0, again=True) == YES
    assert gate.why_not("narrow", 0) is None and allowed == {0: ["narrow"]}
    assert gate_of(Prover(narrow=WRONG), tmp_path).why_not("narrow", 0) is None


def test_the_cache_is_the_users() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/emergence_ext")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == cache_folder({})


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
    install: Callable[..., Prover],
) -> None:
    prover = install()

    def which(x: Tensor) -> Tensor:
        return x + (1 if ways.computes("maxsim", "narrow", 0, False) == "library" else 2)

    def compiled() -> float:
        torch.compiler.reset()
        whole = torch.compile(which, fullgraph=True, backend="eager")
        return whole(torch.zeros(())).item()

    with pytest.warns(RuntimeWarning, match="not proved themselves"):
        assert compiled() == 2
    assert prover.asked == []
    assert ways.computes("maxsim", "narrow", 0, by_triton=False) == "library"
    assert compiled() == 1


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

        return SimpleNamespace(maxsim=note, maxsim_indices=note, why_not=lambda device: None)

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


# The library's own gate, for those who call torch.ops


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("D", [8, 9])
def test_the_library_takes_the_very_way_that_was_proved(
    D: int, dtype: torch.dtype, precision: str, scaled: bool, emulated_gpu: EmulatedGPU
) -> None:
    x = torch.ones(2, 3, D, dtype=dtype)
    P = torch.full((2, 2), 0.5, dtype=dtype)

    def call() -> Tensor:
        if scaled:
            rest = (x, x[..., 0], x[:, 0, 0], P, None, [True, True, True])
            return emulated_gpu.ops.match_kl_scaled(x, x[:, 0], *rest, precision=precision)[0]
        T, argmax = emulated_gpu.ops.maxsim_indices(x, x, None, precision=precision)
        emulated_gpu.ops.maxsim_backward(T, x, x, None, argmax, [True, True, False])
        return T

    way = ways.portable_way(D, dtype, precision, scaled)
    emulated_gpu.allow(way)
    assert call().isfinite().all()
    emulated_gpu.allow(*{"narrow", "wide", "planes", "split", "hopper"} - {way})
    with pytest.raises(NotImplementedError, match="not proved themselves on cpu") as error:
        call()
    assert "EMERGENCE_CUDA=portable" in str(error.value)


def test_the_library_reads_the_environment_too(
    emulated_gpu: EmulatedGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(1, 1, 3)
    emulated_gpu.allow()
    for said in ("portable", "all"):
        monkeypatch.setenv("EMERGENCE_CUDA", said)
        assert emulated_gpu.ops.maxsim(x, x, None).item() == 3
    emulated_gpu.allow("narrow")
    monkeypatch.setenv("EMERGENCE_CUDA", "off")
    with pytest.raises(NotImplementedError, match="not proved themselves"):
        emulated_gpu.ops.maxsim(x, x, None)
    monkeypatch.setenv("EMERGENCE_CUDA", "yes")
    with pytest.raises(ValueError, match="EMERGENCE_CUDA must be off, portable or all; got 'yes'"):
        emulated_gpu.ops.maxsim(x, x, None)
