"""The command that looks inside a network: look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emergence_ext.cli.commands import command
from emergence_ext.cli.common import (
    Checkpoints,
    ClassMap,
    DataOrRun,
    Device,
    Layers,
    ModelOrRun,
    Output,
    Precision,
    Preprocess,
    Seed,
    Size,
    Split,
    Weights,
    as_text,
    command_line,
    device_name,
    existing,
    numbers,
    reported,
)
from emergence_ext.cli.terminal import closing, echo
from emergence_ext.settings import Technique, require_choice, words

if TYPE_CHECKING:
    from emergence_ext.report.look import Looked
    from emergence_ext.run import FinishedRun, Subject

RunOrNone = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN_DIR", help="What `emergence run --out` wrote; else --data, --model."
    ),
]
Only = Annotated[
    str | None, typer.Option(help=f"Some of {words(Technique)}, comma between; default: all.")
]
Images = Annotated[
    str | None, typer.Option(help="Images to show, by index, as 3,17; default: of each kind.")
]
Keypoints = Annotated[
    Path | None, typer.Option(help="CSV file for correspondence: name, keypoint, x, y.")
]
Window = Annotated[
    int | None, typer.Option(help="Pixels of occlusion's window; default: an eighth.")
]
Stride = Annotated[
    int | None, typer.Option(help="Pixels between its windows; default: half a window.")
]
Fill = Annotated[float | None, typer.Option(help="Its grey, 0 to 1; default: 0.5.")]
Boxes = Annotated[
    Path | None,
    typer.Option(
        help="CSV file for attributes: name, left, top, right, bottom, in shares of the image."
    ),
]
Attributes = Annotated[
    Path | None, typer.Option(help="CSV file for attributes: name and a column for each.")
]
Annotators = Annotated[
    Path | None,
    typer.Option(help="CSV file for annotators: name, annotator, label, or a column for each."),
]
LookOut = Annotated[
    Path | None, typer.Option("--out", help="Directory; default: look/ in the run.")
]


@command()
def look(
    context: typer.Context,
    run_dir: RunOrNone = None,
    data: DataOrRun = None,
    model: ModelOrRun = None,
    weights: Weights = None,
    split: Split = None,
    checkpoints: Checkpoints = None,
    layers: Layers = None,
    size: Size = None,
    preprocess: Preprocess = "auto",
    class_map: ClassMap = None,
    only: Only = None,
    images: Images = None,
    keypoints: Keypoints = None,
    window: Window = None,
    stride: Stride = None,
    fill: Fill = None,
    boxes: Boxes = None,
    attributes: Attributes = None,
    annotators: Annotators = None,
    out: LookOut = None,
    output: Output = None,
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
        from emergence_ext.report import refresh
        from emergence_ext.store import locked

        techniques = None if only is None else [name.strip() for name in only.split(",")]
        for name in techniques or ():
            require_choice("only", name, Technique)
        files = existing(
            keypoints=keypoints, boxes=boxes, attributes=attributes, annotators=annotators
        )
        if run_dir is None and (data is None or model is None):
            raise ValueError("run: expected the folder of a run, or --data and --model")
        if out is None and run_dir is None:
            raise ValueError("out: say where to write, --out DIR")
        described = {
            "data": as_text(data), "model": model, "weights": as_text(weights),
            "checkpoints": checkpoints, "class_map": as_text(class_map), "size": size,
            "preprocess": preprocess, "precision": precision, "output": output,
            "split": split,
        }  # fmt: skip
        described = {name: value for name, value in described.items() if _is_given(context, name)}
        where = device_name(device)
        subject, run = _load(run_dir, where, described, layers=layers, random_state=seed)
        place = out if out is not None else Path(run_dir or "") / "look"
        with locked(place):
            looked = _look(
                subject, run, place, images, techniques, files,
                {"window": window, "stride": stride, "fill": fill}, seed,
            )  # fmt: skip
        for name, sheet in looked.sheets.items():
            for note in sheet.notes:
                echo(f"{name}: {note}")
        for name, reason in looked.refused.items():
            echo(f"{name} is left out: {reason}", err=True)
        if run is not None and place.parent.resolve() == run.folder.resolve():
            refresh(run)
        closing(looked.page)


def _look(
    subject: Subject,
    run: FinishedRun | None,
    out: Path,
    images: str | None,
    only: list[str] | None,
    files: Mapping[str, Path],
    choices: Mapping[str, float | None],
    seed: int,
) -> Looked:
    """Look at what was loaded, in the way that was asked for."""
    from emergence_ext.report.look import Scene, some_images
    from emergence_ext.report.look import look as make

    # It was loaded for this command alone, so nobody misses it where it was.
    subject.module.to(subject.device)
    shown = some_images(subject.dataset) if images is None else numbers(images, int, "images")
    given = {name: value for name, value in choices.items() if value is not None}
    return make(
        Scene(subject, shown, list(subject.layers), run, seed, files, given),
        out,
        only,
        command=command_line(),
    )


def _load(
    run_dir: Path | None, device: str, described: Mapping[str, Any], **settings: Any
) -> tuple[Subject, FinishedRun | None]:
    """Load network and images, of a run or as described."""
    from emergence_ext.run import FinishedRun, SubjectSpec

    if run_dir is None:
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
