"""The command that shows what a set of images has in common in a layer: mindseye."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor, nn

from emergence_ext.cli.common import (
    Device,
    ModelOrRun,
    Out,
    Seed,
    Weights,
    app,
    device_name,
    numbers,
    reported,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emergence_ext.mindseye import MindsEye, Schedule
    from emergence_ext.report.look import Sheet
    from emergence_ext.report.look.mindseye import ImageSet
    from emergence_ext.run import Emergence, FinishedRun, Subject

logger = logging.getLogger(__name__)


# None where the user left it out, so that an option of no effect can be refused.
Side = Annotated[
    int | None, typer.Option("--size", help="With --images: side in pixels; default: 224.")
]
Prepared = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="With --images: auto, none, imagenet, caffe, inception, clip, or module:callable; "
        "default: auto.",
    ),
]
TopK = Annotated[
    str | None,
    typer.Option(
        "--top-k", help="Channels to optimise; several to compare, as 16,64; default: up to 64."
    ),
]


@dataclass(frozen=True)
class _Asked:
    """What to make, whatever of.

    Attributes:
        out: folder that everything is written to.
        layers: names as the user gave them.
        facets: of every set of images.
        top_k: numbers of channels; None for the default of each layer.
        schedule: of the optimisation.
        device: of the network.
        seed: of every random choice.
    """

    out: Path
    layers: list[str]
    facets: int
    top_k: list[int] | None
    schedule: Schedule
    device: str
    seed: int


@app.command()
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
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Show what a set of images has in common in a layer, facet by facet (Stergiou, ICIP 2021).

    Example: emergence mindseye --images photos/cat --layer conv5_3 --model vgg16_pooled
    --weights W.safetensors --facets 2 --out runs/cat
    """
    with reported():
        asked = _asked(out, layer, facets, top_k, steps, device, seed)
        if run_dir is None:
            if images is None or model is None:
                raise ValueError("images: give either --images and --model, or --run")
            _refuse("needs --run", points=points, directions=directions, category=category)
            given = _of_folder(images, model, weights, size, preprocess, asked)
            _write(*_facets(given, asked), out)
        else:
            _refuse(
                "is of no use with --run, which knows network and images; leave one of them out",
                images=images, model=model, weights=weights, size=size, preprocess=preprocess,
            )  # fmt: skip
            if directions:
                why = "is of no use with --directions"
                _refuse(why, points=points, facets=facets, top_k=top_k)
            _of_run(run_dir, category, points, directions, asked)
        typer.echo(out)


def _asked(
    out: Path,
    layer: str,
    facets: int | None,
    top_k: str | None,
    steps: int,
    device: str,
    seed: int,
) -> _Asked:
    from emergence_ext.mindseye import Schedule

    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if facets is not None and facets < 1:
        raise ValueError(f"facets: expected at least 1, got {facets}")
    return _Asked(
        out,
        _names(layer, "layer"),
        1 if facets is None else facets,
        None if top_k is None else numbers(top_k, int, "top_k"),
        Schedule(steps=steps),
        device_name(device),
        seed,
    )


def _names(text: str, option: str) -> list[str]:
    """Read names with commas between, each once."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{option}: expected names with one comma between, got {text!r}")
    return list(dict.fromkeys(names))


def _refuse(why: str, **given: object) -> None:
    """Refuse options that were given though they change nothing."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise ValueError(f"{name}: --{name.replace('_', '-')} {why}")


def _of_folder(
    folder: Path,
    model: str,
    weights: Path | None,
    size: int | None,
    preprocess: str | None,
    asked: _Asked,
) -> ImageSet:
    from emergence_ext import data, network
    from emergence_ext.report.look.mindseye import ImageSet

    side = 224 if size is None else size
    samples = data.image_set(folder, size=side)
    loaded = network.load_model(model, weights=weights, image_size=side, random_state=asked.seed)
    name = loaded.preprocess if preprocess in (None, "auto") else preprocess
    pixels = torch.stack([samples[i][0] for i in range(len(samples))])
    return ImageSet(
        loaded.module.to(asked.device),
        {name: loaded.layers.get(name, name) for name in asked.layers},
        _as_taken(pixels, loaded.module).to(asked.device),
        samples.names,
        network.preprocess(name),
    )


def _as_taken(pixels: Tensor, module: nn.Module) -> Tensor:
    """RGB images `[N, 3, H', W']` with as many channels as the network's first convolution takes.

    Raises:
        ValueError: that is neither one nor three.
    """
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels == 3:
        return pixels
    if first.in_channels != 1:
        raise ValueError(
            f"images: the network takes images of {first.in_channels} channels, and those of a "
            "folder have three; call emergence_ext.mindseye.minds_eye from Python with such images"
        )
    # Luma of ITU-R BT.601, as Pillow's mode L.
    return torch.einsum("nchw,c->nhw", pixels, torch.tensor([0.299, 0.587, 0.114]))[:, None]


def _of_run(
    run_dir: Path, category: str | None, points: bool, directions: bool, asked: _Asked
) -> None:
    """Facets, or directions, of the categories of a run."""
    from emergence_ext.report.look.mindseye import direction_sheet
    from emergence_ext.run import FinishedRun

    run = FinishedRun.open(run_dir)
    subject = run.subject(asked.device)
    # It was loaded for this command alone, so nobody misses it where it was.
    subject.module.to(asked.device)
    found = run.emergence
    shown = {subject.layers[name]: name for name in found.layers}
    layers = list(dict.fromkeys(shown.get(name, name) for name in asked.layers))
    categories = found.categories if category is None else _names(category, "category")
    for what, given, known in (
        ("category", categories, found.categories), ("layer", layers, found.layers)
    ):  # fmt: skip
        unknown = next((x for x in given if x not in known), None)
        if unknown is not None:
            raise ValueError(f"{what}: expected some of {', '.join(known)}, got {unknown!r}")
    if directions:
        sheet = direction_sheet(run, subject, categories, layers, asked.schedule, asked.seed)
        _write(sheet, {}, asked.out)
    else:
        _facets_of_run(run, subject, categories, layers, points, asked)


def _facets_of_run(
    run: FinishedRun,
    subject: Subject,
    categories: Sequence[str],
    layers: Sequence[str],
    points: bool,
    asked: _Asked,
) -> None:
    from emergence_ext.report.files import Row, write_table
    from emergence_ext.run import file_name

    chosen = _chosen(run.emergence, categories, layers, points)
    few = next((name for name, (index, _) in chosen.items() if len(index) < asked.facets), None)
    if few is not None:
        raise ValueError(
            f"facets: expected at most {len(chosen[few][0])}, the images of {few}, got "
            f"{asked.facets}; leave it out with --category"
        )
    scores: list[Row] = []
    for category, (index, regions) in chosen.items():
        given = _of_category(run, subject, layers, index, regions, asked.device)
        out = asked.out / file_name(category)
        sheet, eyes = _facets(given, asked)
        _write(sheet, eyes, out, f"{category}, ")
        scores += [{"category": category, **row} for row in sheet.tables["scores"]]
        # After each category, so that what is done is there if the rest is broken off.
        write_table(asked.out / "tables" / "scores.csv", scores)


def _chosen(
    found: Emergence, categories: Sequence[str], layers: Sequence[str], points: bool
) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Images of each category, by index, and for each layer the regions that count, `[n, R]`."""
    chosen = {c: (found.y == found.categories.index(c)).nonzero().flatten() for c in categories}
    if not points:
        return {category: (index, {}) for category, index in chosen.items()}
    reliable = {name: found.points(-1, found.layers.index(name)).reliable for name in layers}
    some = torch.stack([x.any(1) for x in reliable.values()]).all(0)
    chosen = {category: index[some[index]] for category, index in chosen.items()}
    where = ", ".join(layers) + (" at once" if len(layers) > 1 else "")
    if not any(len(index) for index in chosen.values()):
        raise ValueError(
            f"points: no image of {', '.join(categories)} has a reliable point in {where}"
        )
    for category, index in chosen.items():
        if not len(index):
            logger.warning(
                "%s is left out: none of its images has a reliable point in %s", category, where
            )
    return {
        category: (index, {name: x[index] for name, x in reliable.items()})
        for category, index in chosen.items()
        if len(index)
    }


def _of_category(
    run: FinishedRun,
    subject: Subject,
    layers: Sequence[str],
    index: Tensor,
    regions: dict[str, Tensor],
    device: str,
) -> ImageSet:
    from emergence_ext.report.look.mindseye import ImageSet, output_names

    found = run.emergence
    return ImageSet(
        subject.module,
        {name: subject.layers[name] for name in layers},
        torch.stack([subject.dataset[i][0] for i in index.tolist()]).to(device),
        [found.names[i] for i in index.tolist()],
        subject.preprocess,
        output_names(subject, found.categories),
        {name: x.unflatten(1, found.grid).to(device) for name, x in regions.items()},
        subject.batch_size,
    )


def _facets(given: ImageSet, asked: _Asked) -> tuple[Sheet, dict[str, MindsEye]]:
    from emergence_ext.report.look.mindseye import facet_sheet

    return facet_sheet(given, asked.facets, asked.top_k, asked.schedule, asked.seed)


def _write(sheet: Sheet, eyes: dict[str, MindsEye], out: Path, of: str = "") -> None:
    """Write figures, tables and films; `of` stands before every note."""
    from emergence_ext.report.files import save_figure, write_table
    from emergence_ext.report.film import write_film
    from emergence_ext.report.look.mindseye import film_frames
    from emergence_ext.run import file_name

    for name, figure in sheet.figures.items():
        save_figure(figure, out / "figures" / name)
    for name, rows in sheet.tables.items():
        write_table(out / "tables" / f"{name}.csv", rows)
    for name, eye in eyes.items():
        try:
            write_film(film_frames(eye), out / "figures" / f"iterations_{file_name(name)}", fps=12)
        except (OSError, RuntimeError, ValueError) as error:
            logger.warning("the film of %s is left out: %s", name, error)
    for note in sheet.notes:
        typer.echo(f"{of}{note}")
