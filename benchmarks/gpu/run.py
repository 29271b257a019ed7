"""A run on a GPU: the ops on every way first, then how they grow, their memory and their peers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from benchmarks import growth, results, suite
from benchmarks.cases import Bench, Problem
from benchmarks.gpu import bounds, device, memory, paths, peers, targets
from benchmarks.gpu.phase import BEGIN
from benchmarks.results import Results
from benchmarks.suite import FORWARD, LOSSES, Effort, Row, Work, op_name

IMAGES: Final = (500, 1000, 2000, 5000, 10_000)
FEW_IMAGES: Final = (100, 200)
MOST_MATCHES: Final = 10**12
"""Of one call while growth is measured: some tenths of a second."""

SECONDS: Final = 0.4
"""Of one timing."""

PARTS: Final = ("ops", "growth", "memory", "peers")
"""What a run consists of, the most telling part first."""


def works(bench: Bench) -> list[Work]:
    """List what is timed at this size, with the peers that a GPU has."""
    losses = [
        replace(LOSSES[name], peers=partial(peers.gradient_peers, scaled=name == "match_kl_scaled"))
        for name in bench.losses
    ]
    return [replace(FORWARD, peers=peers.forward_peers), *losses]


@dataclass
class Run:
    """What is measured in a run, and where it goes.

    Attributes:
        measured: the results, filled as they come.
        benches: the cases.
        ways: the ways that the ops are made to take, "auto" the one that they choose.
        effort: how long a timing may take, and the budget of the run.
        show: prints a table under a title.
        keep: is called whenever something was added.
        device: where all of it is.
    """

    measured: Results
    benches: Sequence[Bench]
    ways: Sequence[str]
    effort: Effort
    show: Callable[[str, str], None]
    keep: Callable[[], None]
    device: str = "cuda"

    def measure(self, parts: Collection[str] = PARTS, *, quick: bool) -> None:
        """Measure these of `PARTS`; peers are compared with the op left alone."""
        # Inputs are built once, on the CPU, which takes longer than most of what is timed.
        inputs = {bench.name: bench.problem(self.device) for bench in self.benches}
        if "ops" in parts:
            self._ops(inputs, self.ways)
        elif "peers" in parts:
            self._ops(inputs, [paths.AUTO])
        if "growth" in parts:
            self._growth(FEW_IMAGES if quick else IMAGES)
        if "memory" in parts:
            self._memory(inputs)
        if "peers" in parts:
            self._peers(inputs)

    def _ops(self, inputs: dict[str, Problem], ways: Sequence[str]) -> None:
        measured = self.measured
        for bench in self.benches:
            for work in works(bench):
                rows = []
                for row in time_ops(bench, work, inputs[bench.name], self.effort, ways):
                    rows.append(row)
                    measured.rows.append(row)
                    if row.remark:
                        measured.failures.append(
                            f"{row.case} {work.name}, {row.name}: {row.remark}"
                        )
                    self._answers(row)
                self.show(f"{bench.name}: {work.name}", results.timings(rows))
                self._keep()
        title = "share of the bound, which is that of the forward pass"
        self.show(title, results.gpu_bounds(measured.gpu_shares))

    def _growth(self, images: Sequence[int]) -> None:
        begin("growth")
        try:
            self.measured.growth = growth.measure_growth(
                images, self.effort.seconds, device=self.device, most_matches=MOST_MATCHES
            )
        except Exception as error:
            self.measured.failures.append(f"growth: {suite.why_failed(error)}")
        title = "growth: match_kl with all gradients, D = 3"
        self.show(title, results.growth(self.measured.growth))
        self._keep()

    def _memory(self, inputs: dict[str, Problem]) -> None:
        begin("memory")
        self.measured.memory = [
            memory.measure_extra(demand, inputs[demand.bench.name])
            for demand in memory.demands(self.benches)
        ]
        title = "peak memory beyond inputs, loss and gradients"
        self.show(title, results.memory(self.measured.memory))
        self._keep()

    def _peers(self, inputs: dict[str, Problem]) -> None:
        for bench in self.benches:
            for work in works(bench):
                place = (bench.name, work.name)
                own = [row for row in self.measured.rows if (row.case, row.work) == place]
                unit = suite.fastest_of(own[:1])
                rows = []
                begin(f"the peers of {bench.name}, {work.name}")
                for row in suite.time_peers(bench, work, inputs[bench.name], unit, self.effort):
                    rows.append(row)
                    self.measured.rows.append(row)
                    begin(f"the peer of {bench.name}, {work.name} after {row.name}")
                    self._keep()
                    self._answers(row)
                self.show(f"{bench.name}: {work.name}, peers", results.timings(rows))

    def _answers(self, row: Row) -> None:
        """Stop where this row left the device of no use: whatever follows would fail by it."""
        if row.remark.startswith("failed") and device.is_lost():
            self._keep()
            raise RuntimeError(f"after {row.name} of {row.case} the device is of no more use")

    def _keep(self) -> None:
        judge(self.measured, self.benches)
        self.keep()


def begin(what: str) -> None:
    """Say what is done from now on, for whoever finds out that it never ended."""
    print(f"{BEGIN}{what}", flush=True)


def judge(measured: Results, benches: Sequence[Bench]) -> None:
    """Hold what was measured so far against bounds and targets."""
    gpu, rows = measured.machine["gpu"], measured.rows
    ways = [way for way in paths.WAYS if any(row.name.endswith(f", {way}") for row in rows)]
    measured.gpu_shares = bounds.shares(benches, rows, measured.peak, gpu, ways)
    measured.targets = targets.judge(benches, rows, measured.growth, measured.memory, gpu)


def time_ops(
    bench: Bench, work: Work, x: Problem, effort: Effort, ways: Sequence[str]
) -> Iterator[Row]:
    """Time an op at each of its precisions, made to take every one of the ways that applies.

    One that fails is a line of the table, and the others go on.
    """
    rows: list[Row] = []
    for precision in bench.precisions:
        for way in paths.applying(bench, precision, ways):
            path = None if way == paths.AUTO else way
            name = op_name(precision, path)
            begin(f"{bench.name}, {work.name}, {name}")
            try:
                with paths.taking(way):
                    row = suite.time_op(bench, work, x, precision, effort, beside=rows, path=path)
            except Exception as error:
                row = Row(bench.name, work.name, "op", name, remark=suite.why_failed(error))
            rows.append(row)
            yield row
