"""The command that shows what a set of images has in common in a layer: mindseye."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from emergence_ext import settings
from emergence_ext.cli.commands import command
from emergence_ext.cli.common import (
    Device,
    ModelOrRun,
    Out,
    Output,
    Seed,
    Weights,
    device_name,
    numbers,
    reported,
)
from emergence_ext.cli.terminal import closing, echo
from emergence_ext.settings import words

# None where the user left it out, so that an option of no effect can be refused.
Side = Annotated[
    int | None,
    typer.Option("--size", help="With --images: side in pixels; default: of training, or 224."),
]
Prepared = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help=f"With --images: auto, {words(settings.Preprocessing)}, or module:callable; "
        "default: auto.",
    ),
]
TopK = Annotated[
    str | None,
    typer.Option(
        "--top-k", help="Channels to optimise; several to compare, as 16,64; default: up to 64."
    ),
]


@command()
def mindseye(
    out: Out,
    layer: Annotated[
        str, typer.Option("--layer", help="Layers by dotted or the paper's names, comma between.")
    ],
    images: Annotated[
        Path | None, typer.Option("--images", help="A folder of images, of one category or any.")
    ] = None,
    model: ModelOrRun = None,
    weights: Weights = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", help="Instead of --images and --model: what `emergence run` wrote."),
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="With --run: categories, comma between; default: all.")
    ] = None,
    points: Annotated[
        bool, typer.Option("--points", help="With --run: only regions that are knowledge points.")
    ] = False,
    directions: Annotated[
        bool, typer.Option("--directions", help="With --run: along mu of categories, no facets.")
    ] = False,
    facets: Annotated[int | None, typer.Option(help="Facets of the images; default: 1.")] = None,
    top_k: TopK = None,
    steps: Annotated[int, typer.Option(help="Iterations.")] = 200,
    size: Side = None,
    preprocess: Prepared = None,
    output: Output = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Show what a set of images has in common in a layer, facet by facet (Stergiou, ICIP 2021).

    Example: emergence mindseye --images photos/cat --layer conv5_3 --model vgg16_pooled
    --weights W.safetensors --facets 2 --out runs/cat
    """
    with reported():
        from emergence_ext.mindseye import Schedule
        from emergence_ext.report import mindseye as eye
        from emergence_ext.report import refresh
        from emergence_ext.run import FinishedRun
        from emergence_ext.store import locked

        layers = _names(layer, "layer")
        channels = None if top_k is None else numbers(top_k, int, "top_k")
        for name, count in (("steps", steps), ("facets", facets)):
            if count is not None and count < 1:
                raise ValueError(f"{name}: expected at least 1, got {count}")
        how: dict[str, Any] = {
            "schedule": Schedule(steps=steps), "device": device_name(device), "random_state": seed
        }  # fmt: skip
        grouping: dict[str, Any] = {"facets": facets or 1, "top_k": channels}
        if run_dir is None:
            if images is None or model is None:
                raise ValueError("images: give either --images and --model, or --run")
            _refuse("needs --run", points=points, directions=directions, category=category)
            with locked(out):
                notes = eye.facets_of_folder(
                    images, model, layers, out, weights=weights, prepared=preprocess or "auto",
                    size=size, output=output, **grouping, **how,
                )  # fmt: skip
        else:
            _refuse(
                "is of no use with --run, which knows network and images; leave one of them out",
                images=images, model=model, weights=weights, size=size, preprocess=preprocess,
                output=output,
            )  # fmt: skip
            how["categories"] = None if category is None else _names(category, "category")
            if directions:
                why = "is of no use with --directions"
                _refuse(why, points=points, facets=facets, top_k=top_k)
            run = FinishedRun.open(run_dir)
            with locked(out):
                if directions:
                    notes = eye.directions_of_run(run, layers, out, **how)
                else:
                    notes = eye.facets_of_run(run, layers, out, points=points, **grouping, **how)
        for note in notes:
            echo(note)
        if run_dir is not None and run.folder.resolve() in out.resolve().parents:
            refresh(run)
        closing(out)


def _names(text: str, option: str) -> list[str]:
    """Read names with commas between, each once."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{option}: expected names with one comma between, got {text!r}")
    return list(dict.fromkeys(names))


def _refuse(why: str, **options: object) -> None:
    """Refuse options that were given though they change nothing."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise ValueError(f"{name}: it {why}")
