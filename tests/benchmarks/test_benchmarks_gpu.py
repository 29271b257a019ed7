"""What the benchmarks do on a GPU, as far as it can be tested without one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import peers, plots, results, suite
from benchmarks.budget import Budget
from benchmarks.cases import BOTH, Bench, problem
from benchmarks.gpu import bounds, device, paths, run, sanitizers, targets
from benchmarks.gpu import peers as gpu_peers
from benchmarks.gpu.cases import BENCHES, HEADLINE, WIDE
from benchmarks.gpu.phase import Outcome
from benchmarks.gpu.summary import LINES, WIDTH, summary
from benchmarks.growth import Point
from benchmarks.memory import Extra
from benchmarks.peak import Peak
from benchmarks.peers import Unusable
from benchmarks.suite import FORWARD, MATCH_KL, SCALED, Effort, Row, op_name
from benchmarks.timing import Timing

H200 = {
    "name": "NVIDIA H200",
    "capability": [9, 0],
    "multiprocessors": 132,
    "l2_mib": 60.0,
    "memory_gib": 139.8,
    "cuda": "13.0",
    "driver": "580.1",
}
# At the clock of the design's table of bounds.
PEAK = Peak(float32=60_000, bfloat16=800_000, copy=4300, clock=1830, busy_clock=1800)
TINY = [
    Bench(N=10, R=5, D=3),
    Bench(N=10, R=6, D=70, precisions=("medium",), losses=("match_kl_scaled",), dtype="bfloat16"),
]
PATHS = ["portable", "split", "hopper"]


def timed(bench: Bench, work: suite.Work, name: str, ms: float, group: str = "op") -> Row:
    return Row(bench.name, work.name, group, name, Timing(ms / 1e3, ms / 1e3, ms / 1e3, 3))


def op_row(bench: Bench, work: suite.Work, ms: float, path: str | None = None) -> Row:
    return timed(bench, work, op_name(bench.precisions[0], path), ms)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> results.Results:
    """Results as of a run on an H200."""
    monkeypatch.setattr(results, "describe", lambda: H200)
    return results.begin(PEAK, "cuda")


# Bounds and paths


@pytest.mark.parametrize(
    ("bench", "precision", "path", "ms"),
    [
        (HEADLINE, "highest", "portable", 1.24),
        (HEADLINE, "highest", "split", 0.62),
        (WIDE, "medium", "hopper", 9.94),
        (replace(WIDE, dtype="float32"), "medium", "hopper", 9.94),
        (replace(WIDE, dtype="float32"), "high", "hopper", 29.8),
        (replace(WIDE, dtype="float32"), "highest", "portable", 159.3),
    ],
)
def test_bounds_are_those_of_the_design(bench: Bench, precision: str, path: str, ms: float) -> None:
    per_clock = bounds.limit(bench, precision, path, bounds.RATES[9, 0]).per_clock
    seconds = (bench.N * bench.R) ** 2 / (per_clock * 132 * 1.83e9)
    assert 1e3 * seconds == pytest.approx(ms, rel=0.01)


def test_shares_are_of_the_path_that_was_taken() -> None:
    rows = [op_row(HEADLINE, FORWARD, 1.24), op_row(HEADLINE, FORWARD, 2.48, "portable")]
    rows += [op_row(WIDE, FORWARD, 19.88), Row(WIDE.name, SCALED.name, "op", "op, medium")]
    auto, portable, wide = bounds.shares(BENCHES, rows, PEAK, H200, PATHS)
    assert (auto.limit, auto.of_peak) == ("maxima", None)
    assert auto.share == portable.share == pytest.approx(0.5, rel=0.01)
    assert portable.of_peak == pytest.approx(6 * 9.604e9 / 2.48e-3 / 60e12, rel=1e-3)
    assert wide.share == pytest.approx(0.5, rel=0.01)
    assert wide.of_peak == pytest.approx(1024 * 9.604e9 / 19.88e-3 / 800e12, rel=1e-3)
    unknown = H200 | {"capability": [7, 5]}
    assert bounds.shares(BENCHES, rows, PEAK, unknown, PATHS) == []
    assert bounds.shares(BENCHES, rows, Peak(why_not="no nvcc"), H200, PATHS) == []


def test_a_path_is_timed_where_it_applies() -> None:
    assert paths.applying(HEADLINE, "highest", PATHS) == ["portable", "split"]
    assert paths.applying(WIDE, "medium", PATHS) == ["portable", "hopper"]
    assert paths.applying(replace(WIDE, dtype="float32"), "highest", PATHS) == ["portable"]
    assert paths.applying(HEADLINE, "highest", ["auto", "portable"]) == ["auto", "portable"]
    assert paths.applying(HEADLINE, "highest", paths.WAYS) == ["portable", "split", "triton"]
    assert not paths.does("hopper", 64, "float64", "highest")


def test_a_path_is_taken_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    with paths.taking("split"):
        assert os.environ[paths.VARIABLE] == "split"
        with paths.taking("auto"):
            assert os.environ[paths.VARIABLE] == "auto"
        assert os.environ[paths.VARIABLE] == "split"
    assert paths.VARIABLE not in os.environ


# Targets


def test_targets_are_judged_on_their_device_alone() -> None:
    rows = [
        op_row(HEADLINE, FORWARD, 0.7),
        op_row(HEADLINE, FORWARD, 1.5, "portable"),
        op_row(HEADLINE, FORWARD, 0.7, "split"),
        timed(HEADLINE, FORWARD, "torch.compile", 3.4, "compile"),
        op_row(HEADLINE, MATCH_KL, 1.0),
        op_row(HEADLINE, MATCH_KL, 1.7, "portable"),
        op_row(HEADLINE, MATCH_KL, 1.4, "split"),
        timed(HEADLINE, MATCH_KL, "eager", 21, "eager"),
        op_row(WIDE, FORWARD, 13),
        timed(WIDE, FORWARD, "flash-maxsim", 30, "flash-maxsim"),
        timed(WIDE, FORWARD, "late-interaction-kernels", 22, "late-interaction"),
    ]
    growth = [Point(N, 49, Timing(1, 1, 1, 3), 1e-12, x) for N, x in ((500, 1.0), (1000, 1.1))]
    extras = [Extra("a", 99, most=100), Extra("b", 111, most=100), Extra("c", 5)]
    found = targets.judge(BENCHES, rows, growth, extras, H200)
    assert [target.met for target in found] == [
        *(True, True),  # forward, portable and split
        *(True, False),  # match_kl
        *(True, None),  # wide; scaled, never timed
        *(False, True, False),  # 4.9x torch.compile, 21x eager, 1.7x the best Triton package
        *(True, False),  # split ahead: 2.1x and 1.2x
        True,  # growth
        *(True, False),  # memory
    ]
    assert found[8].reached == "1.7x (late-interaction-kernels), 2.3x (flash-maxsim)"
    elsewhere = targets.judge(BENCHES, rows, growth, extras, H200 | {"name": "NVIDIA A100"})
    assert [target.met for target in elsewhere[:6]] == [None] * 6
    assert [target.met for target in elsewhere[6:]] == [target.met for target in found[6:]]


# Peers


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that compute as those of Triton do, in plain torch."""

    def score(q: Tensor, d: Tensor) -> Tensor:
        assert q.shape[2] >= gpu_peers.NARROWEST
        products = torch.einsum("nrk,bsk->nbrs", q, d).float()
        return products.amax(3).sum(2)

    monkeypatch.setattr(gpu_peers, "PACKAGES", {"package": ("flash-maxsim", score, score)})


@pytest.mark.usefixtures("library", "packages")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("D", [3, 70])
def test_peers_agree_with_the_op(D: int, dtype: str) -> None:
    bench = Bench(N=9, R=6, D=D, losses=BOTH, dtype=dtype)
    x = bench.problem()
    for work in run.works(bench):
        for peer in work.peers(D):
            given = x if peer.weighted else x.unweighted()
            try:
                answer = peer.call(given)
            except (Unusable, ModuleNotFoundError):
                assert peer.group in ("product", "keops")
                continue
            work.check(given, answer, peer.rough or dtype != "float32")


def test_tf32_is_for_float32_and_is_put_back() -> None:
    seen = []
    peer = gpu_peers.in_tf32(lambda x: seen.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    peer(problem(1, 2, 3))
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(Unusable, match="float32 inputs"):
        peer(problem(1, 2, 3, dtype="bfloat16"))


def test_a_package_that_is_not_there_is_a_line() -> None:
    if find_spec("flash_maxsim") is not None:
        pytest.skip("flash-maxsim is installed")
    work = replace(FORWARD, compiled=lambda D: {}, peers=gpu_peers.forward_peers)
    rows = suite.time_peers(TINY[1], work, TINY[1].problem(), 1.0, Effort(0, ("default",)))
    remarks = {row.name: row.remark for row in rows}
    assert remarks["flash-maxsim"] == "not installed: flash_maxsim"
    assert remarks["the same with TF32"] == "not run: TF32 is for float32 inputs"


# A run


def run_on_cpu(
    found: results.Results, effort: Effort, ways: list[str], *parts: str
) -> tuple[list[str], int]:
    titles: list[str] = []
    kept: list[int] = []
    it = run.Run(
        found,
        TINY,
        ways,
        effort,
        lambda title, text: titles.append(title),
        lambda: kept.append(len(found.rows)),
        device="cpu",
    )
    it.measure(parts or ("ops", "peers"), quick=True)
    return titles, len(kept)


@pytest.mark.usefixtures("library")
def test_a_run_times_every_path_first_and_keeps_every_row(
    monkeypatch: pytest.MonkeyPatch, measured: results.Results
) -> None:
    monkeypatch.setattr(peers, "compiled", lambda function, mode: function)
    titles, kept = run_on_cpu(measured, Effort(0, ("default",)), ["auto", *PATHS])
    ops = [row for row in measured.rows if row.group == "op"]
    assert ops == measured.rows[: len(ops)]
    assert [row.name for row in ops] == [
        *("op, highest", "op, highest, portable", "op, highest, split") * 2,
        *("op, medium", "op, medium, portable", "op, medium, hopper") * 2,
    ]
    assert kept >= len(measured.rows) - len(ops)
    assert measured.gpu_shares and measured.targets and not measured.failures
    assert len(titles) == 4 + 1 + 4


@pytest.mark.usefixtures("library")
def test_an_op_that_fails_is_a_failure_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, measured: results.Results
) -> None:
    fail_on_auto(monkeypatch)
    run_on_cpu(measured, Effort(0, ("default",), Budget(0)), ["auto", "portable"])
    assert len(measured.failures) == 4
    assert measured.failures[0].endswith("failed: RuntimeError: illegal memory access")
    assert sum(row.timing is not None for row in measured.rows) == 4


@pytest.mark.usefixtures("library")
def test_a_device_that_is_lost_ends_the_run_and_is_named(
    monkeypatch: pytest.MonkeyPatch, measured: results.Results, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_on_auto(monkeypatch)
    monkeypatch.setattr(device, "is_lost", lambda: True)
    with pytest.raises(RuntimeError, match="after op, highest of D3-R5-N10 the device is of no"):
        run_on_cpu(measured, Effort(0, ("default",)), ["portable", "auto"])
    assert len(measured.failures) == 1 and len(measured.rows) == 2
    assert capsys.readouterr().out.splitlines()[-1] == (
        "begin: D3-R5-N10, forward with indices, op, highest"
    )


def fail_on_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = suite.time_op

    def time_op(*args: Any, path: str | None = None, **options: Any) -> Row:
        if path is None:
            raise RuntimeError("illegal memory access\nand more")
        return usual(*args, path=path, **options)

    monkeypatch.setattr(suite, "time_op", time_op)


@pytest.mark.usefixtures("library")
def test_a_run_measures_what_it_is_asked_for(measured: results.Results) -> None:
    run_on_cpu(measured, Effort(0, ("default",)), ["split"], "ops")
    assert [row.name for row in measured.rows] == ["op, highest, split"] * 2
    measured.rows = []
    run_on_cpu(measured, Effort(0, ("default",), Budget(0)), PATHS, "peers")
    assert [row.name for row in measured.rows if row.group == "op"] == [
        *["op, highest"] * 2,
        *["op, medium"] * 2,
    ]


def test_what_several_processes_measured_is_put_together(measured: results.Results) -> None:
    failed = Row(WIDE.name, FORWARD.name, "op", "op, medium", remark="failed: RuntimeError")
    measured.peak = Peak(why_not="it was not asked for")
    first = replace(measured, rows=[op_row(HEADLINE, FORWARD, 2), failed], failures=["one"])
    rows = [op_row(HEADLINE, FORWARD, 3), op_row(HEADLINE, FORWARD, 1, "split")]
    other = replace(measured, peak=PEAK, rows=[*rows, op_row(WIDE, FORWARD, 9)], failures=["one"])
    both = results.merged([first, other])
    medians = {(row.case, row.name): 1e3 * row.timing.median for row in both.rows if row.timing}
    assert list(medians.values()) == pytest.approx([2, 9, 1])
    assert both.rows[-1].ratio == pytest.approx(0.5)
    assert (both.peak, both.failures) == (PEAK, ["one"])
    run.judge(both, BENCHES)
    assert both.targets and {share.name for share in both.gpu_shares} >= {"op, highest, split"}


def test_results_of_a_gpu_are_kept_and_drawn(measured: results.Results, tmp_path: Path) -> None:
    measured.rows = [op_row(HEADLINE, FORWARD, 0.7), op_row(WIDE, FORWARD, 13)]
    measured.rows.append(timed(WIDE, FORWARD, "flash-maxsim", 30, "flash-maxsim"))
    measured.gpu_shares = bounds.shares(BENCHES, measured.rows, PEAK, H200, PATHS)
    measured.memory = [Extra("one", 1 << 20, most=2 << 20)]
    path = measured.save(tmp_path)
    assert path.name == f"{measured.date}-nvidia-h200.json"
    assert json.loads(path.read_text())["device"] == "cuda"
    assert results.load(path) == measured
    drawn = plots.draw(measured, tmp_path)
    assert [x.name for x in drawn] == [
        f"benchmark_gpu_{name}.png" for name in ("ratios", "bounds", "memory")
    ]
    for text in (results.gpu_bounds(measured.gpu_shares), results.timings(measured.rows)):
        assert len({len(line) for line in text.splitlines()}) == 1


def test_the_summary_fits_a_screen(measured: results.Results) -> None:
    for bench in BENCHES:
        for work in run.works(bench):
            for path in (None, *paths.applying(bench, bench.precisions[0], PATHS)):
                measured.rows.append(op_row(bench, work, 2.0, path))
            measured.rows.append(timed(bench, work, "torch.compile", 9, "compile"))
            measured.rows.append(Row(bench.name, work.name, "keops", "KeOps", remark="not there"))
    measured.gpu_shares = bounds.shares(BENCHES, measured.rows, PEAK, H200, PATHS)
    measured.targets = targets.judge(BENCHES, measured.rows, [], [], H200)
    measured.failures = [f"failure {n}" for n in range(50)]
    checked = [Outcome(name, "passed") for name in ("build", "tests", *sanitizers.TOOLS)]
    assert summary("a", H200, checked, None).splitlines()[-1] == "nothing failed in 6 phases"
    failures = [300 * "x", *measured.failures]
    checked.append(Outcome("benchmark", "failed: 50 timings of the ops", failures))
    lines = summary("b", H200, checked, measured).splitlines()
    assert len(lines) <= LINES + 3
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].startswith("part b: NVIDIA H200, driver 580.1")
    assert lines[-1] == "benchmark: failed: 50 timings of the ops (0 s)"
    assert any("lines more in the JSON" in line for line in lines)
    assert any("| D3-R196-N500 forward" in line and "4.5x" in line for line in lines)
    json.dumps([asdict(outcome) for outcome in checked])
