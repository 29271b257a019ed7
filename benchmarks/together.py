"""Time a run in one process and in several, stage by stage, one thread each.

python -m benchmarks.together --processes 1 2

JPEGs of 500 x 375 pixels, taken as too many to be kept in memory, and the network of
`benchmarks.large`: they are read and digested, those that fits need go through the network, all
pairs are fitted, and all images go through it once more. `torchrun` starts the processes, each
keeps to a core of its own, and what is said of a stage is what the slowest took: by the clock, in
which they wait for each other, and of the processor, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from benchmarks.input import HEIGHT, WIDTH
from benchmarks.large import SIDE, WATCHED, Drawn, Stages, network
from emergence_ext import parallel
from emergence_ext.data import ImageFolder
from emergence_ext.run import Settings, Subject, run

LAYERS: Final = {"s2": "stages.1", "s4": "stages.3"}


def write_images(folder: Path, count: int) -> None:
    """Write what `Drawn` draws as JPEGs, in a folder for each category."""
    random, drawn = np.random.default_rng(0), Drawn(count)
    for n in range(count):
        small = (255 * drawn[n][0]).byte().permute(1, 2, 0).numpy()
        large = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels = np.asarray(large).astype(int) + random.integers(-8, 9, (HEIGHT, WIDTH, 1))
        path = folder / str(drawn.labels[n]) / f"{n:05d}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def one(images: Path, out: Path, region_images: int) -> list[dict[str, list[float]]]:
    """Do a run as one of the processes of a job, on a core of its own.

    Returns:
        Of each process, stage -> seconds by the clock and of the processor.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[parallel.launched()[0] % len(cores)]})
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # takes seconds, and torch's optimisers begin so
    settings = Settings(keep_features=0, region_images=region_images)
    module, stages = network(), Stages()
    with parallel.job(), ExitStack() as held:
        for owner, name, stage in WATCHED:
            held.enter_context(stages.watch(owner, name, stage))
        parallel.barrier()
        clock, processor = time.perf_counter(), time.process_time()
        with stages.stage("reading of images"):
            dataset = ImageFolder(images, size=SIDE, max_memory=0)
        run(Subject(module, LAYERS, dataset), out, settings)
        spent = time.perf_counter() - clock, time.process_time() - processor
        took = {x: [stages.seconds[x], stages.processor[x]] for x in stages.seconds}
        took["all else"] = [spent[k] - sum(x[k] for x in took.values()) for k in (0, 1)]
        return parallel.gathered_objects(took)


def in_processes(count: int, images: Path, region_images: int) -> dict[str, list[float]]:
    """Do a run in so many processes, and say of each stage what the slowest of them took."""
    start = [sys.executable]
    if count > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as out:
        command = [*start, "-m", "benchmarks.together", "--one", str(images), out]
        answer = subprocess.run(
            [*command, "--region-images", str(region_images)],
            capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if answer.returncode:
        raise RuntimeError(f"{count} processes: {answer.stderr[-2000:]}")
    each: list[dict[str, list[float]]] = json.loads(answer.stdout.splitlines()[-1])
    return {name: [max(x[name][k] for x in each) for k in (0, 1)] for name in each[0]}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--region-images", type=int, default=300)
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        took = one(*options.one, options.region_images)
        if parallel.launched()[0] == 0:
            print(json.dumps(took))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        runs = []
        for count in options.processes:
            runs.append(in_processes(count, Path(folder), options.region_images))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    heads = [f"{n}, {what}" for what in ("clock", "processor") for n in options.processes]
    print(f"| seconds | {' | '.join(heads)} | times as fast |")
    print("|--" * (len(heads) + 2) + "|")
    for name in [*runs[0], "in all"]:
        cells, times = [], []
        for k in (0, 1):
            row = [
                sum(x[k] for x in took.values()) if name == "in all" else took[name][k]
                for took in runs
            ]
            cells += [f"{x:.2f}" for x in row]
            times.append(f"{row[0] / row[-1]:.2f}")
        print(f"| {name} | {' | '.join(cells)} | {', '.join(times)} |")


if __name__ == "__main__":
    main()
