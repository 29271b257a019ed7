"""The proof of a way to match: its child may do whatever it likes, and its problems are right."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import checks, fused, proof, proof_child, reference
from emergence_ext.ops.proof import GPU, Proved, prove
from emergence_ext.ops.proof_cases import (
    Problem,
    Wrong,
    Zones,
    check,
    on_device,
    problems,
    repeated,
    results,
)
from emergence_ext.ops.ways import WAYS, portable_way
from tests.emulated import EmulatedGPU

CARD = GPU("a card", (8, 6), 28, "580.65", "GPU-1234")
BEGUN = "say(case='first'); say(case='N3 R1'); "


def proved_by(code: str, limit: float = 20.0) -> Proved:
    """What the parent makes of a child that runs `code`."""
    program = (
        "import json, os, signal, sys, time\n"
        "def say(**words): print(json.dumps(words), flush=True)\n" + code
    )
    found = prove("narrow", CARD, [sys.executable, "-I", "-S", "-c", program], limit)
    assert "\n" not in found.verdict.reason
    return found


def test_a_way_that_is_right_and_quicker_is_taken() -> None:
    found = proved_by(BEGUN + "print('hello'); say(milliseconds=1.5, plain=20)")
    assert found.lasts and found.verdict.taken
    assert (found.verdict.milliseconds, found.verdict.plain) == (1.5, 20)
    assert len(found.verdict.date) == len("2026-11-30")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.abort()", "broke off in problem 'N3 R1' (SIGABRT)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "broke off in problem 'N3 R1' (SIGSEGV)"),
        ("sys.exit('all is lost')", "broke off in problem 'N3 R1' (exit code 1): all is lost"),
        ("", "broke off in problem 'N3 R1' (exit code 0)"),
        ("print('[1', 'nonsense'); say(milliseconds='1', plain=None)", "broke off in problem"),
        ("say(milliseconds=1)", "broke off in problem"),
        ("say(wrong='3 of 7 scores')", "problem 'N3 R1' is wrong: 3 of 7 scores"),
        ("say(error='RuntimeError: launch')", "problem 'N3 R1' failed: RuntimeError: launch"),
        ("say(milliseconds=3.21, plain=3.2)", "not quicker: 3.21 ms, plain torch 3.2 ms"),
        ("say(milliseconds=float('nan'), plain=3.2)", "not quicker"),
    ],
)
def test_what_a_problem_does_to_a_child_is_named_and_lasts(code: str, reason: str) -> None:
    found = proved_by(BEGUN + code)
    assert found.lasts and not found.verdict.taken
    assert reason in found.verdict.reason


def test_a_child_that_hangs_is_ended_and_its_problem_named() -> None:
    found = proved_by(BEGUN + "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", 2)
    assert found.lasts
    assert found.verdict.reason.startswith("problem 'N3 R1' did not end")
    assert "after 2 s" in found.verdict.reason


def test_a_child_that_cannot_be_ended_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not the child but one of its own holds on to its output, which comes to the same.
    monkeypatch.setattr(proof, "GRACE", 0.2)
    before = time.monotonic()
    found = proved_by(BEGUN + "os.fork() or (time.sleep(20), os._exit(0)); time.sleep(60)", 2)
    assert time.monotonic() - before < 15
    assert found.lasts and found.verdict.reason.startswith("problem 'N3 R1' did not end")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "did not begin: exit code 0, it said nothing"),
        ("print('x' * 10 + chr(10) + '{}')", "did not begin"),
        ("raise ImportError('no torch')", "did not begin: exit code 1, ImportError: no torch"),
        ("os.abort()", "did not begin: SIGABRT"),
        ("say(unable='of 0 GPUs none')", "cannot run: of 0 GPUs none"),
        (BEGUN + "say(error='out of memory', memory='full')", "failed: out of memory"),
    ],
)
def test_what_is_not_the_ways_fault_is_not_kept(code: str, reason: str) -> None:
    found = proved_by(code)
    assert not found.lasts and not found.verdict.taken
    assert reason in found.verdict.reason


def test_a_child_that_never_begins_is_ended_too() -> None:
    found = proved_by("time.sleep(60)", 0.5)
    assert not found.lasts and "did not begin: not within 0.5 s" in found.verdict.reason


def test_a_child_that_cannot_be_started_is_a_reason() -> None:
    found = prove("narrow", CARD, ["/nowhere/python"])
    assert not found.lasts and "cannot be started" in found.verdict.reason


@pytest.mark.parametrize(("way", "second"), [("wide", "portable"), ("hopper", "hopper")])
def test_the_child_is_told_what_to_prove_and_takes_it_without_a_proof(
    way: str, second: str
) -> None:
    code = (
        "import json, os, sys; e = os.environ; "
        "print(json.dumps({'unable': ' '.join([*sys.argv[1:], e['EMERGENCE_CUDA'], "
        "e['EMERGENCE_CUDA_PATH']])}))"
    )
    found = prove(way, CARD, [sys.executable, "-S", "-c", code])
    assert f"{way} GPU-1234 all {second}" in found.verdict.reason


def test_the_real_child_finds_the_very_device_or_says_so() -> None:
    found = prove("narrow", replace(CARD, uuid="GPU-none-has-this"))
    assert not found.lasts
    assert "none has the UUID GPU-none-has-this" in found.verdict.reason


# The problems


def cost(problem: Problem) -> int:
    return problem.N * problem.R * problem.B * problem.S * max(problem.D, 8)


def some(way: str, most: int, step: int) -> list[Problem]:
    """Every `step`-th problem of a way that the emulator solves soon."""
    return [each for each in problems(way) if cost(each) <= most][::step]


def sample(most: int, step: int) -> list[Any]:
    return [
        pytest.param(way, problem, id=f"{way} {problem}")
        for way in WAYS
        if way != "triton"  # none of the library's
        for problem in some(way, most, step)
    ]


def solve(way: str, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMERGENCE_CUDA_PATH", way if way in ("split", "hopper") else "portable")
    check(problem, fused, "cpu")


@pytest.mark.usefixtures("emulated_gpu")
@pytest.mark.parametrize(("way", "problem"), sample(most=1 << 19, step=9))
def test_the_ways_solve_their_problems(
    way: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve(way, problem, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("emulated_gpu")
@pytest.mark.parametrize(("way", "problem"), sample(most=1 << 25, step=1))
def test_the_ways_solve_more_of_their_problems(
    way: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve(way, problem, monkeypatch)


def test_the_problems_are_those_that_were_asked_for() -> None:
    listed = {way: list(problems(way)) for way in WAYS}
    for way in ("narrow", "split", "triton"):
        found = {(each.D, each.S, each.R) for each in listed[way]}
        sizes = (1, 3, 4, 5, 8), (1, 7, 14, 49, 196, 257, 1000), (1, 49, 1100)
        assert {(D, S, R) for D in sizes[0] for S in sizes[1] for R in sizes[2]} <= found
    planes = {(each.S, each.D, each.dtype, each.precision) for each in listed["planes"]}
    for S in (49, 100, 196, 300):
        for D in (9, 63, 64, 520):
            kinds = {(dtype, precision) for s, d, dtype, precision in planes if (s, d) == (S, D)}
            assert kinds == {
                (torch.bfloat16, "highest"),
                (torch.float16, "highest"),
                (torch.float32, "high"),
                (torch.float32, "medium"),
            }
    assert max(each.D for each in listed["hopper"]) == 2048
    for way, found in listed.items():
        portable = {"split": "narrow", "triton": "narrow", "hopper": "planes"}.get(way, way)
        assert {portable_way(x.D, x.dtype, x.precision, False) for x in found} == {portable}
        assert {"whole", "normal", "first", "last", "ties", "nan"} == {x.values for x in found}
        assert any(each.offset % 2 for each in found)
        assert max(each.N * each.B for each in found) >= 1024  # fills every multiprocessor
        assert portable_way(repeated(way).D, repeated(way).dtype, "highest", False) == portable


# What a proof is for: results that are wrong are seen.

SMALL = Problem(3, 20, 5, 14, 3)


class Spoiled:
    """The reference, with one of its results changed."""

    def __init__(self, op: str, change: Callable[..., Any]) -> None:
        self._op, self._change = op, change

    def __getattr__(self, name: str) -> Any:
        op = getattr(reference, name)
        if (name, self._op) == ("maxsim", "maxsim_indices"):
            return lambda *given, **options: self.maxsim_indices(*given, **options)[0]
        if name != self._op:
            return op
        return lambda *given, **options: self._change(op(*given, **options), *given)


def next_match(found: Any, q: Tensor, d: Tensor, *_: Tensor) -> Any:
    T, argmax = found
    return T, (argmax + 1) % d.shape[1]


def last_of_equals(found: Any, q: Tensor, d: Tensor, a: Tensor, *_: Tensor) -> Any:
    T, argmax = reference.maxsim_indices(q, d.flip(1), a)
    return T, d.shape[1] - 1 - argmax


def one_score(found: Any, *_: Tensor) -> Any:
    T, argmax = found
    return T.index_put((torch.tensor(1), torch.tensor(1)), T[1, 1] * 1.001), argmax


def out_of_bounds(found: Any, q: Tensor, *_: Tensor) -> Any:
    if not q.requires_grad:  # else autograd sees it first
        q.as_strided((1,), (1,), q.storage_offset() + q.numel()).zero_()
    return found


def read_outside(found: Any, q: Tensor, *_: Tensor) -> Any:
    T, argmax = found
    return T + 0 * q.as_strided((1,), (1,), q.storage_offset() - 1), argmax


def changed_loss(found: Tensor, *_: Tensor) -> Tensor:
    return found + 0.001 * (1 + found.detach())


def half_of_gradient(found: Tensor, *_: Tensor) -> Tensor:
    return found * 0.5 + found.detach() * 0.5


@pytest.mark.parametrize(
    ("op", "change", "values", "said"),
    [
        ("maxsim_indices", next_match, "whole", "of the matches, the first at"),
        ("maxsim_indices", last_of_equals, "ties", "of the matches"),
        ("maxsim_indices", next_match, "normal", "a match misses the best one"),
        ("maxsim_indices", one_score, "whole", "1 of 15 of the scores"),
        ("maxsim_indices", one_score, "nan", "of the scores"),
        ("maxsim_indices", out_of_bounds, "whole", "was written to"),
        ("maxsim_indices", read_outside, "whole", "of the scores"),
        ("maxsim", half_of_gradient, "whole", "the gradient of maxsim in q"),
        ("match_kl", changed_loss, "ties", "match_kl over q: the loss, of size"),
        ("match_kl", half_of_gradient, "whole", "match_kl over q: the gradient in q, of size"),
        ("match_kl_scaled", half_of_gradient, "first", "match_kl_scaled over q: the gradient in v"),
    ],
)
def test_a_wrong_result_is_seen(
    op: str, change: Callable[..., Any], values: str, said: str
) -> None:
    problem = replace(SMALL, values=values)
    check(problem, reference_with_nan(), "cpu")
    spoiled = Spoiled(op, change)
    with pytest.raises(Wrong) as found:
        check(problem, spoiled_with_nan(spoiled) if values == "nan" else spoiled, "cpu")
    assert said in str(found.value) and "\n" not in str(found.value)


def reference_with_nan() -> Any:
    return spoiled_with_nan(reference)


def spoiled_with_nan(module: Any) -> Any:
    """The module on NaN too, which the reference refuses on the CPU."""

    class Ops:
        def __getattr__(self, name: str) -> Any:
            def call(*given: Tensor, **options: Any) -> Any:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(checks, "require_finite", lambda *_: None)
                    return getattr(module, name)(*given, **options)

            return call

    return Ops()


@pytest.mark.parametrize("way", ["narrow", "wide", "planes"])
def test_rounding_alone_is_not_wrong(way: str) -> None:
    for problem in some(way, most=1 << 24, step=3):
        check(problem, reference_with_nan(), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["narrow", "wide", "planes", "hopper"])
def test_rounding_alone_is_not_wrong_in_any_problem(way: str) -> None:
    for problem in problems(way):
        check(problem, reference_with_nan(), "cpu")


def test_zones_hold_what_is_put_into_them() -> None:
    zones = Zones(torch.device("cpu"), offset=1)
    x = torch.arange(6.0).view(2, 3)
    put = zones.put(x, torch.bfloat16)
    assert torch.equal(put.float(), x) and put.storage_offset() % 2 == 1
    zones.beside(100)
    zones.check()


def test_what_is_repeated_gives_every_result(emulated_gpu: EmulatedGPU) -> None:
    problem = replace(repeated("narrow"), R=9, S=9)
    x = on_device(problem, "cpu")
    first, second = (results(problem, fused, x) for _ in range(2))
    assert len(first) == 7 and all(map(torch.equal, first, second))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, [{"milliseconds": 2.0, "plain": 3.0}]),
        (Wrong("3 of 7 scores"), [{"wrong": "3 of 7 scores"}]),
        (RuntimeError("launch\nand more"), [{"error": "RuntimeError: launch"}]),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            [{"error": "OutOfMemoryError: CUDA out of memory.", "memory": "full"}],
        ),
    ],
)
def test_the_child_says_what_it_begins_and_how_it_ends(
    error: Exception | None,
    told: list[dict[str, Any]],
    emulated_gpu: EmulatedGPU,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def last(problem: Problem, device: torch.device) -> None:
        if error is not None:
            raise error

    times = iter([(1.0, 9.0), (2.0, 3.0), (1.0, 2.0)])  # of which the worst share counts
    monkeypatch.setattr(proof_child, "problems", lambda way: [SMALL, replace(SMALL, S=7)])
    monkeypatch.setattr(proof_child, "ON_A_GPU", {"at last": last})
    monkeypatch.setattr(proof_child, "timed", lambda *_: next(times))
    proof_child.run("hopper", torch.device("cpu"))
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    begun = [{"case": str(SMALL)}, {"case": str(replace(SMALL, S=7))}, {"case": "at last"}]
    begun += [] if error else [{"case": "its time beside plain torch"}]
    assert said == begun + told
    assert not torch.are_deterministic_algorithms_enabled()
