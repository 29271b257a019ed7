"""Time the ops beside their peers, print tables, keep them as JSON and plots: `make bench`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import torch

from benchmarks import bounds, growth, memory, plots, results, suite, targets
from benchmarks.cases import BENCHES, shrunk
from benchmarks.peak import measure_peak
from benchmarks.peers import use_threads
from emergence_ext._library import build_info, why_not

BUSY: Final = 0.4
"""Load per core above which a run is not to be trusted."""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few images, one mode of torch.compile, no targets"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    names = [bench.name for bench in BENCHES]
    parser.add_argument(
        "--case", choices=names, help="one size alone; neither growth, memory nor targets"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for JSON and plots; when left out, a run of everything goes to "
        "benchmarks/results and docs/images, any other is printed only",
    )
    options = parser.parse_args()
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if (reason := why_not("cpu")) is not None:
        parser.error(f"the compiled library is not there: {reason}")
    use_threads(options.threads)
    found = _measure(options.quick, options.case)
    if options.out is not None:
        kept = [found.save(options.out), *plots.draw(found, options.out)]
    elif not options.quick and options.case is None:
        images = results.ROOT / "docs" / "images"
        kept = [found.save(results.ROOT / "benchmarks" / "results"), *plots.draw(found, images)]
    else:
        kept = []
    for path in kept:
        print(f"wrote {path}")


def _measure(quick: bool, case: str | None) -> results.Results:
    """Measure, printing each table as soon as it is there."""
    found = results.begin(measure_peak(torch.get_num_threads()))
    machine, versions, peak = found.machine, found.versions, found.peak
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; ", end="")
    print(f"{machine['threads']} threads, {machine['instruction_set']}, load {found.load:.2f}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    told = peak.why_not or f"float32 {peak.float32:.0f} GFLOP/s"
    told += f", bfloat16 pairs {peak.bfloat16:.0f} GFLOP/s" if peak.bfloat16 else ""
    print(f"peak of multiply-adds: {told}")
    if found.load > BUSY * machine["cores"]:
        print(f"the load is {found.load:.1f} on {machine['cores']} cores: others are running, and")
        print("threads that wait for one another make such figures meaningless")

    effort = suite.QUICK if quick else suite.FULL
    benches = [shrunk(x) if quick else x for x in BENCHES if case in (None, x.name)]
    for bench in benches:
        for work in suite.works(bench):
            print(f"\n{bench.name}: {work.name}", flush=True)
            rows = suite.run(bench, work, effort)
            found.rows += rows
            print(results.timings(rows), flush=True)
    pairs = build_info().get("instruction_set") == "avx512_bf16"
    found.shares = bounds.shares(benches, found.rows, peak, pairs)
    _show("share of the arithmetic bound, forward with indices", results.bounds(found.shares))
    print("share: 2 D flops per match over the peak of multiply-adds. all operations, where")
    print(f"D <= {bounds.NARROW}: D multiply-adds, a maximum, a comparison and a move per register")
    print("over the same peak; more than 100 % where a machine compares beside multiplying.")
    if case is not None:
        return found

    found.growth = growth.measure_growth(growth.QUICK if quick else growth.FULL, effort.seconds)
    _show("growth: match_kl with all gradients, D = 3", results.growth(found.growth))
    demands = memory.QUICK if quick else memory.FULL
    found.memory = [memory.measure_extra(demand) for demand in demands]
    _show("peak memory beyond inputs, loss and gradients", results.memory(found.memory))
    print("A block is 32 MiB unless `max_memory` says otherwise; B beyond it adds nothing.")
    if not quick:
        found.targets = targets.judge(found.rows, found.growth, found.memory)
        _show("targets", results.targets(found.targets))
    return found


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text}", flush=True)


if __name__ == "__main__":
    main()
