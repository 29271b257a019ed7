"""Measure the Mind's Eye on the categories of a finished run: the tables of docs/mindseye.md.

python -m benchmarks.mindseye runs/tiny-vgg16 --layer conv5_3 --bfloat16 --windows
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from emergence_ext import mindseye, render
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.subject import Subject

WINDOWS: Final = 10
SPARSITY: Final = 1e-3  # a ramp of lambda would lower the objective by itself


class Autocast(nn.Module):
    """A network whose forward pass is in bfloat16 and whose output is float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network says of images."""
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.module(images).float()


def facets_of(subject: Subject, layer: str, images: Tensor, y: Tensor) -> mindseye.Facets:
    """One facet of each category, so that all of them are optimised at once."""
    rows = mindseye.layer_rows(subject.module, layer, images, preprocess=subject.preprocess)
    points, centres, facets = torch.zeros(len(y), 2, dtype=torch.float64), [], []
    for c in range(int(y.max()) + 1):
        index = (y == c).nonzero().flatten()
        found = mindseye.find_facets(rows[index], 1)
        points[index] = found.points.double()
        centres.append(found.centres[0])
        facets.append(replace(found.facets[0], members=index[found.facets[0].members]))
    return mindseye.Facets(points, y, torch.stack(centres), facets)


def print_table(eye: mindseye.MindsEye, y: Tensor, names: Sequence[str]) -> None:
    """Print a row for each category; the best real image is one of its own."""
    s = eye.score
    print("category | initial | best real | image | / initial | / best real | share | reach | says")
    for c, name in enumerate(names):
        made, initial, best = s.rendered[c], s.initial[c], s.real[c, y == c].max()
        numbers = [initial, best, made, made / initial, made / best]
        told = " | ".join(f"{float(x):.2f}" for x in numbers)
        said = None if s.logits is None else int(s.logits[c].argmax())
        print(f"{name} | {told} | {s.median_share[c]} | {s.reached[c]} | output {said}")


def print_windows(
    subject: Subject, images: Tensor, eye: mindseye.MindsEye, schedule: mindseye.Schedule
) -> None:
    """Print how many windows end lower than the one before, by the objective before smoothing."""
    objective = mindseye.facet_objective(
        subject.module, images, eye.layer, eye.facets, top_k=eye.channels.shape[1],
        sparsity=SPARSITY, preprocess=subject.preprocess,
    )  # fmt: skip
    seen: list[Tensor] = []

    def note(x: Tensor, _: float) -> Tensor:
        how = {"preprocess": subject.preprocess, "batch_size": len(x)}
        seen.append(render.measure(subject.module, x, objective.total, **how))
        return x

    rendering = render.render(
        subject.module, eye.initial, objective.total, steps=schedule.steps,
        learning_rate=schedule.learning_rate, preprocess=subject.preprocess,
        mask=render.CentreMask(schedule.mask), smoothing=[note, *schedule.smoothing()],
    )  # fmt: skip
    length = max(1, schedule.steps // WINDOWS)
    ends = torch.stack([rendering.losses[0], *seen[length - 1 :: length]])
    print("windows that fall:", (ends.diff(dim=0) < 0).sum(0).tolist(), "of", len(ends) - 1)
    print("r:", objective.adaptive.scale.tolist(), "b:", objective.adaptive.shape.tolist())


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="what `emergence run` wrote")
    parser.add_argument("--layer", required=True, help="name as in the run")
    parser.add_argument("--categories", help="comma between; all where left out")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--windows", action="store_true", help="count where the objective falls")
    options = parser.parse_args()
    run = FinishedRun.open(options.run)
    subject, found = run.subject(), run.found
    names = options.categories.split(",") if options.categories else found.categories
    layer = subject.layers[options.layer]
    if options.bfloat16:
        subject, layer = replace(subject, module=Autocast(subject.module)), f"module.{layer}"
    places = {found.categories.index(name): c for c, name in enumerate(names)}
    index = [i for i, c in enumerate(found.y.tolist()) if c in places]
    images = torch.stack([subject.dataset[i][0] for i in index])
    y = torch.tensor([places[int(found.y[i])] for i in index])
    schedule, own = mindseye.Schedule(options.steps), facets_of(subject, layer, images, y)
    eye = mindseye.minds_eye(
        subject.module, images, layer, facets=own, schedule=schedule, preprocess=subject.preprocess
    )
    print_table(eye, y, names)
    if options.windows:
        print_windows(subject, images, eye, schedule)


if __name__ == "__main__":
    main()
