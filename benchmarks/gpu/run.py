"""A run on a GPU: the ops on every path first, then how they grow, their memory and their peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from benchmarks import growth, results, suite
from benchmarks.cases import Bench, Problem
from benchmarks.gpu import bounds, memory, paths, peers, targets
from benchmarks.results import Results
from benchmarks.suite import FORWARD, LOSSES, Effort, Row, Work, op_name

IMAGES: Final = (500, 1000, 2000, 5000, 10_000)
FEW_IMAGES: Final = (100, 200)
MOST_MATCHES: Final = 10**12
"""Of one call while growth is measured: some tenths of a second."""

SECONDS: Final = 0.4
"""Of one timing."""


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
        effort: how long a timing may take, and the budget of the run.
        show: prints a table under a title.
        keep: is called whenever something was added.
        device: where all of it is.
    """

    measured: Results
    benches: Sequence[Bench]
    effort: Effort
    show: Callable[[str, str], None]
    keep: Callable[[], None]
    device: str = "cuda"

    def measure(self, *, quick: bool, whole: bool) -> None:
        """Measure, the most telling part first; `whole` is growth and memory as well."""
        # Inputs are built once, on the CPU, which takes longer than most of what is timed.
        inputs = {bench.name: bench.problem(self.device) for bench in self.benches}
        self._ops(inputs)
        if whole:
            self._growth(FEW_IMAGES if quick else IMAGES)
            self._memory(inputs)
        self._peers(inputs)

    def _ops(self, inputs: dict[str, Problem]) -> None:
        measured, built = self.measured, paths.built()
        for bench in self.benches:
            for work in works(bench):
                rows = list(time_ops(bench, work, inputs[bench.name], self.effort, built))
                measured.rows += rows
                measured.failures += [
                    f"{x.case} {x.work}, {x.name}: {x.remark}" for x in rows if x.remark
                ]
                self.show(f"{bench.name}: {work.name}", results.timings(rows))
                self._keep()
        measured.gpu_shares = bounds.shares(
            self.benches, measured.rows, measured.peak, measured.machine["gpu"], built
        )
        title = "share of the bound, which is that of the forward pass"
        self.show(title, results.gpu_bounds(measured.gpu_shares))

    def _growth(self, images: Sequence[int]) -> None:
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
                for row in suite.time_peers(bench, work, inputs[bench.name], unit, self.effort):
                    rows.append(row)
                    self.measured.rows.append(row)
                    self._keep()
                self.show(f"{bench.name}: {work.name}, peers", results.timings(rows))

    def _keep(self) -> None:
        measured = self.measured
        measured.targets = targets.judge(
            self.benches, measured.rows, measured.growth, measured.memory, measured.machine["gpu"]
        )
        self.keep()


def time_ops(
    bench: Bench, work: Work, x: Problem, effort: Effort, built: Sequence[str]
) -> Iterator[Row]:
    """Time an op at each of its precisions, left alone and made to take every path that applies.

    One that fails is a line of the table, and the others go on.
    """
    rows: list[Row] = []
    for precision in bench.precisions:
        for path in (None, *paths.applying(bench, precision, built)):
            try:
                with paths.taking(path):
                    row = suite.time_op(bench, work, x, precision, effort, beside=rows, path=path)
            except Exception as error:
                name = op_name(precision, path)
                row = Row(bench.name, work.name, "op", name, remark=suite.why_failed(error))
            rows.append(row)
            yield row
