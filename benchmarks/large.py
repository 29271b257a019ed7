"""Measure time, memory and disk of a run by its number of images, and by stage.

python -m benchmarks.large --images 500 2000 8000 --keep-features 0 256 --out large.json

Each run is a process of its own: five layers of 7 x 7 regions of a small network, images of
14 x 14 pixels that are drawn when they are asked for. Memory is the peak of what is resident, less
what it was when everything was imported; that of a stage is its own peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.memory import RESET, STATUS
from emergence_ext import method, report
from emergence_ext.data import Samples
from emergence_ext.method import sample
from emergence_ext.run import (
    Forecast,
    InMemory,
    Settings,
    Subject,
    Thumbnails,
    analyse,
    emerging,
    forecast,
    run,
    sources,
    strength,
)

CATEGORIES: Final = 10
SIDE: Final = 14
WIDTHS: Final = (16, 32, 32, 64, 64)


PLANNED: Final = {
    "reading of images": "digest of the images",
    "all images projected": "stream",
    "strength against entropy": "strength and entropy",
}
"""What stages of a forecast are called here, where it is something else."""


class Drawn(Samples):
    """Noise over a colour for each category, drawn anew whenever it is asked for."""

    def __init__(self, count: int) -> None:
        labels = [n % CATEGORIES for n in range(count)]
        names = [f"{n % CATEGORIES}/{n:07d}.png" for n in range(count)]
        super().__init__([f"colour {c}" for c in range(CATEGORIES)], labels, names)
        self.colours = torch.rand(CATEGORIES, 3, generator=torch.Generator().manual_seed(1))

    def _image(self, index: int) -> Tensor:
        random = torch.Generator().manual_seed(index)
        noise = torch.rand(3, SIDE, SIDE, generator=random)
        strength = 0.2 + 0.6 * torch.rand((), generator=random)
        return strength * self.colours[self.labels[index], :, None, None] + (1 - strength) * noise


class Network(nn.Module):
    """Five random convolutions, and a head that was fitted to some images."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for k, (before, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            convolution = nn.Conv2d(before, width, 3, stride=1 if k else 2, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            self.stages.append(nn.Sequential(convolution, nn.ReLU()))
        self.head = nn.Linear(WIDTHS[-1], CATEGORIES)

    def features(self, images: Tensor) -> Tensor:
        """The mean of the last stage, `[B, E]`."""
        for stage in self.stages:
            images = stage(images)
        return images.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, `[B, C]`."""
        result: Tensor = self.head(self.features(images))
        return result


WATCHED: Final[Sequence[tuple[object, str, str]]] = [
    (Drawn, "digest", "digest of the images"),
    (InMemory, "samples", "features"),
    (sources.Streamed, "samples", "features of fits"),
    (sources.Streamed, "regions", "features of fits"),
    (sources.Streamed, "project", "stream"),
    (Subject, "extract", "features"),
    (method.SampleProjection, "fit", "M and frame"),
    (method.RegionImportance, "fit", "w and v"),
    (method.RegionalProjection, "fit", "Lambda"),
    (InMemory, "project", "project"),
    (analyse, "_strengths", "strength and entropy"),
    (emerging, "settled_kappa_p", "kappa_p"),
    (Thumbnails, "of", "thumbnails"),
]
"""What is timed: a method or function of a class or module, and what its stage is called."""


def network() -> Network:
    """A network that tells the colours apart, though not always."""
    torch.manual_seed(0)
    module = Network().eval()
    some = Drawn(500)
    with torch.no_grad():
        f = module.features(torch.stack([*some.read(range(len(some)))]))
        scale = f.std()
        x = torch.cat([f / scale, torch.ones(len(f), 1)], 1).double()
        y = 6 * nn.functional.one_hot(torch.tensor(some.labels), CATEGORIES).double()
        ridge = x.t() @ x + 10 * torch.eye(x.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(ridge, x.t() @ y).t().float()
        module.head.weight.copy_(weights[:, :-1] / scale)
        module.head.bias.copy_(weights[:, -1])
    return module


class Stages:
    """Seconds and peak memory of the parts of a run; of parts within parts, the outer one."""

    def __init__(self) -> None:
        self.start, self.peak, self.inside = resident("VmRSS"), 0, False
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.memory: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done in the block."""
        if self.inside:
            yield
            return
        self.inside, clock, processor = True, time.perf_counter(), time.process_time()
        self._look("between")
        try:
            yield
        finally:
            self.inside = False
            self._look(name)
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - clock
            spent = time.process_time() - processor
            self.processor[name] = self.processor.get(name, 0) + spent

    def restart(self) -> None:
        """Forget what was measured so far."""
        self.peak = 0
        self.seconds, self.processor, self.memory = {}, {}, {}
        RESET.write_text("5")

    def watch(self, owner: object, name: str, stage: str) -> Any:
        """Measure every call of a function or method."""
        inner: Callable[..., Any] = getattr(owner, name)

        def measured(*arguments: Any, **options: Any) -> Any:
            with self.stage(stage):
                return inner(*arguments, **options)

        return mock.patch.object(owner, name, measured)

    def _look(self, name: str) -> None:
        here = resident("VmHWM") - self.start
        self.peak = max(self.peak, here)
        self.memory[name] = max(self.memory.get(name, 0), here)
        RESET.write_text("5")


def resident(what: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


class Asked(NamedTuple):
    """What is done with any number of images.

    Attributes:
        evaluations: of every fit, at most; 0: as a run does it.
        region_images: as of `Settings`.
        report: whether to draw the report, too.
        plan: whether to forecast it before, by the processor's time; the memory that this leaves
            behind counts with the run's.
    """

    evaluations: int
    region_images: int
    report: bool
    plan: bool


def one(images: int, keep_features: int, asked: Asked) -> dict[str, Any]:
    """Do a run of so many images, and say what it took; `keep_features` as of `Settings`."""
    evaluations = asked.evaluations
    subject = Subject(network(), {f"s{k + 1}": f"stages.{k}" for k in range(5)}, Drawn(images))
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        for owner, name, stage in WATCHED:
            held.enter_context(stages.watch(owner, name, stage))
        settings = Settings(keep_features=keep_features, region_images=asked.region_images)
        if evaluations:
            few = {"importance_evals": evaluations, "regional_evals": evaluations}
            settings = replace(settings, **few)
            held.enter_context(mock.patch.object(sample, "EVALS_PER_ROUND", evaluations))
            held.enter_context(mock.patch.object(strength, "TEMPERATURES", (1.0,)))
        planned = None
        if asked.plan:
            planned = forecast(subject, folder, settings, clock=time.process_time)
            stages.restart()
        clock, processor = time.perf_counter(), time.process_time()
        finished = run(subject, Path(folder), settings)
        seconds = time.perf_counter() - clock
        processor = time.process_time() - processor
        count = finished.emergence.held_out_counts[-1][-1]
        if asked.report:
            with stages.stage("report"):
                report.write(finished)
        stages._look("between")
        parts = sorted(path for path in Path(folder).iterdir() if path.name != ".lock")
        disk = {path.name: _size(path) for path in parts}
    return {
        "images": images, "keep_features": keep_features, "seconds": seconds,
        "processor": processor, "planned": {} if planned is None else _beside(planned, stages),
        "peak": stages.peak, "stages": stages.seconds, "memory": stages.memory, "disk": disk,
        "stages, processor": stages.processor,
        "streamed": bool(finished.emergence.projected),
        "points of an image": count.total.value / count.images,
        "reliable": None if count.ratio is None else count.ratio.value,
    }  # fmt: skip


def _beside(planned: Forecast, stages: Stages) -> dict[str, Any]:
    """What was forecast, with the processor's seconds that stages took behind those forecast."""
    names = {x: PLANNED.get(x.name, x.name) for x in planned.stages}
    return {
        "seconds": planned.seconds,
        "disk": planned.disk,
        "memory": planned.memory - stages.start,
        "stages": {n: [x.seconds, stages.processor.get(n, 0)] for x, n in names.items()},
    }


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def in_process(images: int, keep_features: int, asked: Asked) -> dict[str, Any]:
    """Do a run in a process of its own, see `one`."""
    command = [sys.executable, "-m", "benchmarks.large", "--one", str(images), str(keep_features)]
    command += ["--evaluations", str(asked.evaluations)]
    command += ["--region-images", str(asked.region_images)]
    command += ["--report"] if asked.report else []
    command += ["--plan"] if asked.plan else []
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(f"{images} images: {answer.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write what was measured as Markdown."""
    lines = [
        "| images | features kept up to, MiB | streamed | seconds | of the processor | "
        "memory, MiB | disk, MiB | points of an image |",
        "|--:|--:|--|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        disk = sum(row["disk"].values()) / 2**20
        lines.append(
            f"| {row['images']:,} | {row['keep_features']} | {'yes' if row['streamed'] else 'no'} "
            f"| {row['seconds']:.0f} | {row['processor']:.0f} | {row['peak'] / 2**20:.0f} "
            f"| {disk:.0f} | {row['points of an image']:.3f} |"
        )
    names = list(dict.fromkeys(name for row in rows for name in row["memory"]))
    heads = [f"{row['images']:,}, {'streamed' if row['streamed'] else 'kept'}" for row in rows]
    lines += [
        "",
        f"| seconds of the processor (MiB at the peak) | {' | '.join(heads)} |",
        "|--" * (len(rows) + 1) + "|",
    ]
    for name in names:
        cells = [
            f"{row['stages, processor'].get(name, 0):.1f} ({row['memory'][name] / 2**20:.0f})"
            if name in row["memory"]
            else ""
            for row in rows
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--keep-features", type=int, nargs="+", default=[0])
    parser.add_argument("--evaluations", type=int, default=0, help="of short fits; 0: as usual")
    parser.add_argument("--region-images", type=int, default=Settings.region_images)
    parser.add_argument("--report", action="store_true", help="also tables, figures and page")
    parser.add_argument("--plan", action="store_true", help="forecast it before, see `Asked`")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    asked = Asked(options.evaluations, options.region_images, options.report, options.plan)
    if options.one:
        print(json.dumps(one(*options.one, asked)))
        return
    rows = []
    for keep_features in options.keep_features:
        for images in options.images:
            rows.append(in_process(images, keep_features, asked))
            print(json.dumps(rows[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
