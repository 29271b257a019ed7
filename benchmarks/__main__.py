"""Time the ops beside their peers, print tables, keep them as JSON and plots: `make bench`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from benchmarks import bounds, growth, memory, results, suite, targets
from benchmarks.budget import Budget
from benchmarks.cases import BENCHES, Bench, shrunk
from benchmarks.gpu import cases as gpu_cases
from benchmarks.gpu import paths, run
from benchmarks.gpu.peak import measure_gpu_peak
from benchmarks.peak import Peak, measure_peak
from benchmarks.peers import use_threads
from benchmarks.suite import Effort
from emergence_ext.ops import build_info
from emergence_ext.ops.library import why_not

BUSY: Final = 0.4
"""Load per core above which a run is not to be trusted."""

KEPT: Final = results.ROOT / "benchmarks" / "results"
IMAGES: Final = results.ROOT / "docs" / "images"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="few images, one mode of torch.compile, no targets"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    names = [bench.name for bench in (*BENCHES, *gpu_cases.BENCHES)]
    parser.add_argument(
        "--case",
        choices=names,
        nargs="+",
        metavar="CASE",
        help="these sizes alone; neither growth nor targets, and memory only if --measure says so",
    )
    parser.add_argument(
        "--ways",
        choices=[paths.AUTO, *paths.WAYS],
        nargs="+",
        help="on a GPU: the ways that the ops are made to take; all there are when left out",
    )
    parser.add_argument(
        "--measure",
        choices=["peak", *run.PARTS],
        nargs="+",
        help="on a GPU: parts of the benchmark; all of them when left out",
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="after which no peer is timed any more"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for JSON, and on the CPU plots; when left out, a run of everything goes to "
        "benchmarks/results and docs/images, any other is printed only",
    )
    options = parser.parse_args()
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if (reason := why_not(options.device)) is not None:
        parser.error(f"the compiled library is not there: {reason}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no GPU")
    benches = BENCHES if options.device == "cpu" else gpu_cases.BENCHES
    if options.device == "cpu" and (options.ways or options.measure):
        parser.error("--ways and --measure are for --device cuda")
    for name in options.case or ():
        if name not in [bench.name for bench in benches]:
            parser.error(f"{name} is no case of --device {options.device}")
    benches = [bench for bench in benches if options.case is None or bench.name in options.case]
    if options.quick:
        benches = [shrunk(bench) for bench in benches]
    use_threads(options.threads)
    effort = suite.QUICK if options.quick else suite.FULL
    effort = replace(effort, budget=Budget(options.seconds))
    parts = options.measure
    everything = not options.quick and options.case is None and parts is None
    folder = options.out or (KEPT if everything else None)
    whole = options.case is None
    if options.device == "cuda":
        alone = ("peak", "ops", "peers")
        parts = parts or (("peak", *run.PARTS) if whole else alone)
        kept = _on_gpu(benches, options.ways, parts, effort, folder, quick=options.quick)
    else:
        measured = _on_cpu(benches, effort, quick=options.quick, whole=whole)
        kept = [] if folder is None else _save(measured, folder, options.out or IMAGES)
    for path in kept:
        print(f"wrote {path}")


def _save(measured: results.Results, folder: Path, images: Path) -> list[Path]:
    # matplotlib is not needed to measure.
    from benchmarks import plots

    return [measured.save(folder), *plots.draw(measured, images)]


def _on_gpu(
    benches: Sequence[Bench],
    ways: Sequence[str] | None,
    parts: Sequence[str],
    effort: Effort,
    folder: Path | None,
    *,
    quick: bool,
) -> list[Path]:
    """Measure, and keep what there is after every step, as whoever waits may lose patience."""
    unmeasured = Peak(why_not="it was not asked for")
    measured = results.begin(measure_gpu_peak() if "peak" in parts else unmeasured, "cuda")
    gpu, peak = measured.machine["gpu"], measured.peak
    ways = ways or [paths.AUTO, *paths.built(gpu["capability"])]
    applying = [x for x in benches if any(paths.applying(x, p, ways) for p in x.precisions)]
    print(
        f"{gpu['name']}, {gpu['multiprocessors']} multiprocessors, {gpu['memory_gib']} GiB, ",
        end="",
    )
    print(f"L2 {gpu['l2_mib']:g} MiB, driver {gpu['driver']}")
    _begin(measured)
    if peak.why_not:
        print(f"multiply-adds were not measured: {peak.why_not}")
    else:
        print(
            f"float32 multiply-adds {peak.float32:.0f} GFLOP/s at {peak.busy_clock:.0f} MHz, ",
            end="",
        )
        print(f"the device reports {peak.clock:.0f} MHz")
    if peak.bfloat16 and peak.copy:
        print(f"the library's bfloat16 products {peak.bfloat16:.0f} GFLOP/s, ", end="")
        print(f"copy {peak.copy:.0f} GB/s")
    keep = (lambda: None) if folder is None else (lambda: measured.save(folder))
    effort = replace(effort, seconds=effort.seconds if quick else run.SECONDS)
    run.Run(measured, applying, ways, effort, _show, keep).measure(parts, quick=quick)
    if not quick and set(run.PARTS) <= set(parts):
        _show("targets", results.targets(measured.targets))
    for failure in measured.failures:
        print(f"failed: {failure}")
    return [] if folder is None else [measured.save(folder)]


def _begin(measured: results.Results) -> None:
    """Print what machine this is, and whether others are busy on it."""
    machine, versions = measured.machine, measured.versions
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; ", end="")
    print(f"{machine['threads']} threads, {machine['instruction_set']}, load {measured.load:.2f}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if measured.load > BUSY * machine["cores"]:
        print(
            f"the load is {measured.load:.1f} on {machine['cores']} cores: others are running, and"
        )
        print("threads that wait for one another make such figures meaningless")


def _on_cpu(
    benches: Sequence[Bench], effort: Effort, *, quick: bool, whole: bool
) -> results.Results:
    """Measure, printing each table as soon as it is there."""
    measured = results.begin(measure_peak(torch.get_num_threads()))
    peak = measured.peak
    _begin(measured)
    rates = peak.why_not or f"float32 {peak.float32:.0f} GFLOP/s"
    rates += f", bfloat16 pairs {peak.bfloat16:.0f} GFLOP/s" if peak.bfloat16 else ""
    print(f"peak of multiply-adds: {rates}")

    for bench in benches:
        for work in suite.works(bench):
            print(f"\n{bench.name}: {work.name}", flush=True)
            rows = suite.run(bench, work, effort)
            measured.rows += rows
            print(results.timings(rows), flush=True)
    pairs = build_info().get("instruction_set") == "avx512_bf16"
    measured.shares = bounds.shares(benches, measured.rows, peak, pairs)
    _show("share of the arithmetic bound, forward with indices", results.bounds(measured.shares))
    print("share: 2 D flops per match over the peak of multiply-adds. all operations, where")
    print(f"D <= {bounds.NARROW}: D multiply-adds, a maximum, a comparison and a move per register")
    print("over the same peak; more than 100 % where a machine compares beside multiplying.")
    if not whole:
        return measured

    measured.growth = growth.measure_growth(growth.QUICK if quick else growth.FULL, effort.seconds)
    _show("growth: match_kl with all gradients, D = 3", results.growth(measured.growth))
    demands = memory.QUICK if quick else memory.FULL
    measured.memory = [memory.measure_extra(demand) for demand in demands]
    _show("peak memory beyond inputs, loss and gradients", results.memory(measured.memory))
    print("A block is 32 MiB unless `max_memory` says otherwise; B beyond it adds nothing.")
    if not quick:
        measured.targets = targets.judge(measured.rows, measured.growth, measured.memory)
        _show("targets", results.targets(measured.targets))
    return measured


def _show(title: str, text: str) -> None:
    print(f"\n{title}\n{text}", flush=True)


if __name__ == "__main__":
    main()
