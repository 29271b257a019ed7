"""The benchmarks: peers agree with the ops, rows come out, figures mean what the tables say.

No speed is tested here. Compiled bodies run without torch.compile, whose results are torch's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import bounds, growth, large, memory, peers, plots, results, suite, targets
from benchmarks.budget import Budget
from benchmarks.cases import BENCHES, BOTH, HEADLINE, WIDE, Bench, problem
from benchmarks.growth import Point
from benchmarks.memory import Demand, Extra, extra_bytes, measure_extra
from benchmarks.peak import Peak, measure_peak
from benchmarks.peers import Peer, Unusable
from benchmarks.suite import FORWARD, MATCH_KL, Effort, Row
from benchmarks.timing import Timing, measure

pytestmark = pytest.mark.usefixtures("library")

ONCE = Effort(0, ("default", "other"))
TINY = [
    Bench(N=10, R=5, D=3),
    Bench(N=10, R=6, D=70, precisions=("highest", "medium"), losses=BOTH),
]
SECOND = Timing(1.0, 0.5, 2.0, 3)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "compiled", lambda function, mode: function)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call takes a second."""

    def one_second(call: Callable[[], object], *args: Any, **options: Any) -> Timing:
        call()
        return SECOND

    monkeypatch.setattr(suite, "measure", one_second)
    monkeypatch.setattr(growth, "measure", one_second)


def with_peer(call: Callable[[Any], Any]) -> suite.Work:
    def only(D: int) -> Iterator[Peer]:
        yield Peer("it", "eager", call)

    return replace(FORWARD, peers=only, compiled=lambda D: {})


@pytest.mark.parametrize("bench", TINY, ids=lambda bench: bench.name)
def test_every_peer_agrees_with_the_op_and_is_timed(bench: Bench, no_compiler: None) -> None:
    for work in suite.works(bench):
        rows = suite.run(bench, work, ONCE)
        assert [row.name for row in rows if row.group == "op"] == [
            f"op, {precision}" for precision in bench.precisions
        ]
        groups = {"op", "eager", "compile"} if work is FORWARD else {"op", "reference", "compile"}
        assert groups <= {row.group for row in rows}
        for row in rows:
            absent = row.remark.startswith("not installed")
            assert absent or (row.timing is not None and row.ratio is not None), row


def test_every_mode_is_tried_with_the_fastest_body(no_compiler: None, seconds: None) -> None:
    rows = suite.run(TINY[0], FORWARD, ONCE)
    names = [row.name for row in rows if row.group == "compile"]
    bodies = [name for name, _ in peers.bodies(3)]
    assert names[:-1] == [f"torch.compile default: {name}" for name in bodies]
    assert names[-1] in [f"torch.compile other: {name}" for name in bodies]


def test_a_peer_is_timed_on_fewer_images_and_scaled(seconds: None) -> None:
    row = suite.run(TINY[0], with_peer(peers.forward(peers.maximum)), ONCE)[-1]
    assert row.images == suite.CHECKED_IMAGES == 8
    assert row.timing == Timing(1.25, 0.625, 2.5, 3)
    assert row.ratio == 1.25


def wrong_scores(x: Any) -> Any:
    T, argmax = peers.forward(peers.maximum)(x)
    return T + 0.1, argmax


def wrong_matches(x: Any) -> Any:
    T, argmax = peers.forward(peers.maximum)(x)
    return T, (argmax + 1) % x.d.shape[1]


def absent(x: Any) -> Any:
    raise ModuleNotFoundError("No module named 'peer'", name="peer")


def unusable(x: Any) -> Any:
    raise Unusable("too large")


@pytest.mark.parametrize(
    "call, remark",
    [
        (wrong_scores, "failed: ValueError: T differs"),
        (wrong_matches, "failed: ValueError: the score of the matches differs"),
        (absent, "not installed: peer"),
        (unusable, "not run: too large"),
    ],
)
def test_a_peer_that_cannot_be_compared_says_why(
    call: Callable[[Any], Any], remark: str, seconds: None
) -> None:
    row = suite.run(TINY[0], with_peer(call), ONCE)[-1]
    assert row.timing is None and row.ratio is None
    assert row.remark.startswith(remark)


def test_a_peer_without_weights_is_held_against_the_op_without_weights(seconds: None) -> None:
    def scores(x: Any) -> Any:
        return (x.q[None] @ x.d[:, None].mT).amax(3).sum(2), None

    for weighted, good in ((False, True), (True, False)):
        work = replace(FORWARD, compiled=lambda D: {})
        peer = Peer("it", "eager", scores, weighted=weighted)
        row = suite.run(TINY[0], replace(work, peers=lambda D, peer=peer: iter([peer])), ONCE)[-1]
        assert (row.timing is not None) == good, row


def test_no_peer_is_timed_when_the_budget_is_spent(no_compiler: None, seconds: None) -> None:
    rows = suite.run(TINY[0], FORWARD, replace(ONCE, budget=Budget(0)))
    assert rows[0].timing is not None
    assert {row.remark for row in rows[1:]} == {"not run: no time was left"}


def test_a_budget_keeps_something_for_those_behind() -> None:
    assert Budget(0).spent and not Budget().spent
    budget = Budget(100)
    assert budget.at_most(10) == 10
    assert budget.at_most(99, keep=50) == pytest.approx(50, abs=1)
    assert budget.at_most(99, keep=200) == 0


@pytest.mark.parametrize("scaled", [False, True])
def test_a_wrong_gradient_is_found(scaled: bool) -> None:
    x = problem(3, 4, 5)
    loss, grads = peers.op_gradients("highest", scaled=scaled)(x)
    without_a = tuple(None if grad is grads[-2] else grad for grad in grads)
    for answer in (grads, without_a):
        suite.check_gradients(x, (loss, answer), False, scaled=scaled)
    for rough in (False, True):
        with pytest.raises(ValueError, match="the gradient of b differs"):
            suite.check_gradients(x, (loss, (*grads[:-1], 2 * grads[-1])), rough, scaled=scaled)


def test_maxsim_cpu_is_not_called_where_it_crashes() -> None:
    pytest.importorskip("maxsim_cpu")
    with pytest.raises(Unusable, match=r"64\^3"):
        peers.maxsim_cpu(problem(1, 49, 512))


def test_timing_has_its_quartiles_in_order() -> None:
    timing = measure(lambda: None, 0.001, most=5)
    assert timing.low <= timing.median <= timing.high
    assert timing.repeats == 5


def test_shares_count_two_flops_per_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = Bench(N=10, R=10, D=3), Bench(N=10, R=10, D=100)
    rows = [
        Row(narrow.name, FORWARD.name, "op", "op, highest", SECOND, 10, 1.0),
        Row(narrow.name, MATCH_KL.name, "op", "op, highest", SECOND, 10, 1.0),
        Row(wide.name, FORWARD.name, "op", "op, medium", SECOND, 10, 1.0),
        Row(wide.name, FORWARD.name, "sgemm", "sgemm alone", SECOND, 10, 1.0),
        Row(wide.name, FORWARD.name, "eager", "eager", SECOND, 10, 1.0),
    ]
    peak = Peak(float32=1e-3, bfloat16=4e-3)  # a million and four million flops per second
    first, medium, alone = bounds.shares([narrow, wide], rows, peak, pairs=True)
    assert (first.matches, first.flops) == (1e4, 6e4)
    assert first.share == pytest.approx(0.06)
    assert first.operations == pytest.approx(0.12)  # 6 operations, 3 of them multiply-adds
    assert (medium.arithmetic, medium.share) == ("bfloat16 pairs", pytest.approx(0.5))
    assert (alone.arithmetic, alone.share) == ("float32", pytest.approx(2.0))
    assert medium.operations is None
    without = bounds.shares([narrow, wide], rows, Peak(why_not="no compiler"), pairs=False)
    assert [share.share for share in without] == [None] * 3


def test_the_peak_is_measured_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = measure_peak(1)
    assert (peak.float32 is None) == (peak.why_not is not None)
    assert peak.float32 is None or peak.float32 > 0.1
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert measure_peak(1) == Peak(why_not="no C++ compiler found")


def test_growth_is_relative_to_the_smallest(seconds: None) -> None:
    points = growth.measure_growth((2, 4), 0)
    assert [(point.R, point.N) for point in points] == [(49, 2), (49, 4), (196, 2), (196, 4)]
    assert [point.relative for point in points] == [1, 0.25, 1, 0.25]
    assert points[0].per_element == 1 / (2**2 * 49**2 * 3)


def test_growth_takes_fewer_conditioning_images_where_all_would_take_long(seconds: None) -> None:
    points = growth.measure_growth((2, 4), 0, most_matches=8 * 49**2)
    assert [(x.N, x.B) for x in points if x.R == 49] == [(2, None), (4, 2)]
    assert points[1].per_element == 1 / (4 * 2 * 49**2 * 3)


needs_linux = pytest.mark.skipif(
    not memory.RESET.exists(), reason="peak memory is measured on Linux only"
)


@needs_linux
def test_memory_counts_what_a_call_holds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*, scaled: bool) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            result = torch.ones(4 << 20)  # 16 MiB that stay
            torch.ones(8 << 20).sum()  # 32 MiB that do not
            return result[0], (result,)

        return call

    monkeypatch.setattr(memory, "op_gradients", greedy)
    assert extra_bytes(problem(2, 2, 2), scaled=False) == pytest.approx(32 << 20, abs=1 << 20)


@needs_linux
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    extra = measure_extra(Demand(N=20, R=49, D=3, B=20, scaled=False))
    assert extra.why_not is None
    assert extra.bytes is not None and 0 <= extra.bytes < 8 << 20


def rows_at(bench: Bench, work: str, **seconds: float) -> list[Row]:
    """One row per group, `op` under "highest" and `medium` under "medium"."""
    names = {"op": "op, highest", "medium": "op, medium"}
    return [
        Row(bench.name, work, "op" if group in names else group, names.get(group, group), timing)
        for group, median in seconds.items()
        for timing in [Timing(median, median, median, 3)]
    ]


def test_targets_are_judged_by_the_fastest_peer() -> None:
    rows = rows_at(HEADLINE, FORWARD.name, op=1, compile=30, eager=120, keops=90)
    rows += rows_at(HEADLINE, FORWARD.name, eager=101)
    rows += rows_at(WIDE, FORWARD.name, op=1, medium=0.5, eager=1.4, sgemm=1.1)
    flat = [Point(100, 49, SECOND, 1e-12, 1.0), Point(200, 49, SECOND, 1e-12, 0.9)]
    steep = [Point(100, 196, SECOND, 1e-12, 1.0), Point(200, 196, SECOND, 1e-12, 1.2)]
    extras = [Extra("small", 1 << 20), Extra("large", 65 << 20), Extra("none", None, "no Linux")]
    found = targets.judge(rows, flat + steep, extras)
    assert [target.met for target in found] == [
        *(True, True, False),  # compile, eager, KeOps
        None,  # eager autograd, never timed
        *(True, False),  # sgemm, and eager / medium = 2.8
        *(True, False),  # growth
        *(True, False, None),  # memory
    ]
    assert found[1].reached == "101.0x (eager)"
    assert "within 20 %" in found[7].reached


def test_what_was_measured_is_kept_and_drawn(tmp_path: Any) -> None:
    found = results.begin(Peak(float32=100))
    found.rows = rows_at(HEADLINE, FORWARD.name, op=1, compile=30, eager=120)
    found.rows += rows_at(HEADLINE, MATCH_KL.name, op=1, eager=50)
    found.rows.append(Row(HEADLINE.name, FORWARD.name, "keops", "KeOps", remark="not installed"))
    found.growth = [Point(N, 49, SECOND, 1e-12, 1.0) for N in (100, 200)]
    found.memory = [Extra("one", 1 << 20), Extra("two", None, "no Linux")]
    found.shares = bounds.shares([HEADLINE], found.rows, found.peak, pairs=False)
    found.targets = targets.judge(found.rows, found.growth, found.memory)
    kept = json.loads(found.save(tmp_path).read_text())
    assert kept["rows"][1]["timing"]["median"] == 30
    assert kept["machine"]["threads"] == torch.get_num_threads()
    assert kept["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert results.load(tmp_path / found.name) == found
    drawn = plots.draw(found, tmp_path)
    assert [path.name for path in drawn] == [
        f"benchmark_{name}.png" for name in ("ratios", "bounds", "growth", "memory")
    ]
    assert all(path.stat().st_size > 1000 for path in drawn)
    for text in (
        results.timings(found.rows),
        results.bounds(found.shares),
        results.growth(found.growth),
        results.memory(found.memory),
        results.targets(found.targets),
    ):
        assert len({len(line) for line in text.splitlines()}) == 1


def test_the_command_measures_one_case(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    no_compiler: None,
) -> None:
    threads = str(torch.get_num_threads())
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setenv("RAYON_NUM_THREADS", threads)
    arguments = ["--quick", "--case", BENCHES[1].name, "--out", str(tmp_path), "--threads", threads]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    command.main()
    told = capsys.readouterr().out
    assert "D3-R49-N24: forward with indices" in told
    assert "op, highest" in told and "targets" not in told
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_the_command_refuses_no_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--threads", "0"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--threads must be at least 1, got 0" in capsys.readouterr().err


def test_what_the_stages_of_a_run_are_told_by_is_there() -> None:
    for owner, name, _ in large.WATCHED:
        assert callable(getattr(owner, name)), name
