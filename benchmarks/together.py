"""Time a run in one process and in several, stage by stage, one thread each.

python -m benchmarks.together --processes 1 2

JPEGs of 500 x 375 pixels, taken as too many to be kept in memory, and the network of
`benchmarks.large`: they are read and digested, those that fits need go through the network, all
pairs are fitted, and all images go through it once more. `torchrun` starts the processes; what is
said of a stage is by the clock of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks.input import HEIGHT, WIDTH
from benchmarks.large import SIDE, WATCHED, Drawn, Stages, network
from emergence_ext import parallel
from emergence_ext.data import ImageFolder
from emergence_ext.method import blocks, sample
from emergence_ext.run import Settings, Subject, run, strength

EVALUATIONS: Final = 10
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


def one(images: Path, out: Path, region_images: int) -> dict[str, float]:
    """Do a run as one of the processes of a job, and say what its stages took."""
    torch.set_num_threads(1)
    few = {"importance_evals": EVALUATIONS, "regional_evals": EVALUATIONS}
    settings = Settings(keep_features=0, region_images=region_images, **few)
    module, stages = network(), Stages()
    with parallel.job(), ExitStack() as held:
        for owner, name, stage in WATCHED:
            held.enter_context(stages.watch(owner, name, stage))
        held.enter_context(mock.patch.object(sample, "EVALS_PER_ROUND", EVALUATIONS))
        held.enter_context(mock.patch.object(strength, "TEMPERATURES", (1.0, 2.0)))
        held.enter_context(mock.patch.object(blocks, "BLOCK", region_images // 4))
        parallel.barrier()
        with stages.stage("reading of images"):
            dataset = ImageFolder(images, size=SIDE, max_memory=0)
        run(Subject(module, LAYERS, dataset), out, settings)
    return stages.seconds


def in_processes(count: int, images: Path, region_images: int) -> dict[str, float]:
    """Do a run in so many processes."""
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
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--region-images", type=int, default=400)
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        seconds = one(*options.one, options.region_images)
        if parallel.launched()[0] == 0:
            print(json.dumps(seconds))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        columns = [in_processes(n, Path(folder), options.region_images) for n in options.processes]
    print(f"| seconds | {' | '.join(map(str, options.processes))} | times as fast |")
    print("|--" * (len(columns) + 2) + "|")
    for name in [*columns[0], "in all"]:
        row = [sum(x.values()) if name == "in all" else x.get(name, 0.0) for x in columns]
        print(f"| {name} | {' | '.join(f'{x:.2f}' for x in row)} | {row[0] / row[-1]:.2f} |")


if __name__ == "__main__":
    main()
