"""The command that looks inside a network: look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emergence_ext.cli.common import (
    Device,
    Precision,
    Preprocess,
    Seed,
    Size,
    Weights,
    app,
    command_line,
    device_name,
    numbers,
    reported,
)

if TYPE_CHECKING:
    from emergence_ext.studies.finished import FinishedRun
    from emergence_ext.subject import Subject


@app.command()
def look(
    context: typer.Context,
    run_dir: Annotated[
        Path | None, typer.Argument(help="What `emergence run --out` wrote; else --data, --model.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of images, as `emergence run` takes it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A network, as `emergence run` takes it.")
    ] = None,
    weights: Weights = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Pattern of files, as 'runs/x/epoch_*.safetensors'.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers by dotted or the paper's names, comma between.")
    ] = None,
    size: Size = 224,
    preprocess: Preprocess = "auto",
    class_map: Annotated[
        Path | None, typer.Option(help="JSON file: folder name -> column of the output.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Techniques, comma between; default: all.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Images to show, by index, as 3,17; default: of each kind.")
    ] = None,
    keypoints: Annotated[
        Path | None, typer.Option(help="CSV file for correspondence: name, keypoint, x, y.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Pixels of occlusion's window; default: an eighth.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Pixels between its windows; default: half a window.")
    ] = None,
    fill: Annotated[float | None, typer.Option(help="Its grey, 0 to 1; default: 0.5.")] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="CSV file for attributes: name, left, top, right, bottom, in shares of the image."
        ),
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option(help="CSV file for attributes: name and a column for each.")
    ] = None,
    annotators: Annotated[
        Path | None,
        typer.Option(help="CSV file for annotators: name, annotator, label, or a column for each."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory; default: look/ in the run.")
    ] = None,
    precision: Precision = "float32",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Look inside a network: activations, filters, occlusion, gradients and more, a sheet each.

    Every technique of CS231n's "Visualizing what ConvNets learn" that the network allows, and all
    sheets on one page that opens offline.

    Example: emergence look runs/demo --only activations,occlusion --images 3,17
    """
    with reported():
        from emergence_ext.sheets import Scene
        from emergence_ext.sheets.look import look as make
        from emergence_ext.sheets.look import some_images

        described = {
            "data": data,
            "model": model,
            "weights": weights,
            "checkpoints": checkpoints,
            "class_map": class_map,
        }
        settings = {"size": size, "preprocess": preprocess, "precision": precision}
        if out is None and run_dir is None:
            raise ValueError("out: say where to write, --out DIR")
        files = _files(
            keypoints=keypoints, boxes=boxes, attributes=attributes, annotators=annotators
        )
        given = {"window": window, "stride": stride, "fill": fill}
        choices = {name: value for name, value in given.items() if value is not None}
        subject, run = _load(
            run_dir,
            device_name(device),
            {name: str(value) for name, value in described.items() if value is not None}
            | {name: value for name, value in settings.items() if _is_given(context, name)},
            layers=layers,
            random_state=seed,
        )
        # It was loaded for this command alone, so nobody misses it where it was.
        subject.module.to(subject.device)
        shown = some_images(subject.dataset)
        if images is not None:
            shown = numbers(images, int, "images")
        found = make(
            Scene(subject, shown, list(subject.layers), run, seed, files, choices),
            out if out is not None else Path(run_dir or "") / "look",
            None if only is None else [name.strip() for name in only.split(",")],
            command=command_line(),
        )
        for name, sheet in found.sheets.items():
            for note in sheet.notes:
                typer.echo(f"{name}: {note}")
        for name, reason in found.refused.items():
            typer.echo(f"{name} is left out: {reason}", err=True)
        typer.echo(found.page)


def _load(
    run_dir: Path | None, device: str, described: Mapping[str, Any], **settings: Any
) -> tuple[Subject, FinishedRun | None]:
    """Load network and images, of a run or as described."""
    from emergence_ext.studies.finished import FinishedRun
    from emergence_ext.subject import SubjectSpec

    if run_dir is None:
        if not {"data", "model"} <= described.keys():
            raise ValueError("run: expected the folder of a run, or --data and --model")
        return SubjectSpec(**described, **settings).load(device), None
    if described:
        raise ValueError(
            "run: a run knows its network and images; give either RUN, or --data and --model with "
            f"their options, not RUN and --{next(iter(described)).replace('_', '-')}"
        )
    run = FinishedRun.open(run_dir)
    return run.subject(device, layers=settings["layers"]), run


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _files(**given: Path | None) -> dict[str, Path]:
    """The files that are given, all there."""
    files = {name: path for name, path in given.items() if path is not None}
    for name, path in files.items():
        if not path.is_file():
            raise FileNotFoundError(f"{name}: no file {path}")
    return files
