"""The command that shows what a set of images has in common in a layer: mindseye."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from emergence_ext.cli.common import (
    Device,
    Out,
    Preprocess,
    Seed,
    Size,
    Weights,
    app,
    device_name,
    numbers,
    reported,
)

if TYPE_CHECKING:
    from emergence_ext.mindseye import Schedule
    from emergence_ext.sheets import Sheet
    from emergence_ext.sheets.mindseye import ImageSet
    from emergence_ext.studies.finished import FinishedRun
    from emergence_ext.subject import Subject


@app.command()
def mindseye(
    out: Out,
    layer: Annotated[
        str, typer.Option("--layer", help="Layers by dotted or the paper's names, comma between.")
    ],
    images: Annotated[
        Path | None, typer.Option("--images", help="A folder of images, of one category or any.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A network, as `emergence run` takes it.")
    ] = None,
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
    facets: Annotated[int, typer.Option(help="Facets of the images.")] = 1,
    top_k: Annotated[
        str, typer.Option("--top-k", help="Channels to optimise; several to compare, as 16,64.")
    ] = "64",
    steps: Annotated[int, typer.Option(help="Iterations.")] = 200,
    size: Size = 224,
    preprocess: Preprocess = "auto",
    device: Device = "auto",
    seed: Seed = 0,
) -> None:
    """Show what a set of images has in common in a layer, facet by facet (Stergiou, ICIP 2021).

    Example: emergence mindseye --images photos/cat --layer conv5_3 --model vgg16_pooled
    --weights W.safetensors --facets 2 --out runs/cat
    """
    with reported():
        from emergence_ext.mindseye import Schedule

        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        schedule = Schedule(steps=steps)
        names = [name.strip() for name in layer.split(",")]
        counts = numbers(top_k, int, "top_k")
        if (run_dir is None) == (images is None or model is None):
            raise ValueError("images: give either --images and --model, or --run")
        if run_dir is None:
            if points or directions or category:
                raise ValueError("run: --points, --directions and --category need --run")
            given = _of_folder(
                images or Path(), model or "", weights, names, size, preprocess,
                device_name(device), seed,
            )  # fmt: skip
            _facets(given, out, facets, counts, schedule, seed)
        else:
            if images is not None or model is not None or weights is not None:
                raise ValueError("run: a run knows its network and images; leave those options out")
            _of_run(
                run_dir, names, category, points, directions, out, facets, counts, schedule,
                device_name(device), seed,
            )  # fmt: skip
        typer.echo(out)


def _of_folder(
    folder: Path,
    model: str,
    weights: Path | None,
    names: list[str],
    size: int,
    preprocess: str,
    device: str,
    seed: int,
) -> ImageSet:
    from emergence_ext import data, models, preprocessing
    from emergence_ext.sheets.mindseye import ImageSet

    samples = data.image_set(folder, size=size)
    loaded = models.load_model(model, weights=weights, image_size=size, random_state=seed)
    prepare = preprocessing.preprocess(loaded.preprocess if preprocess == "auto" else preprocess)
    pixels = torch.stack([samples[i][0] for i in range(len(samples))])
    return ImageSet(
        loaded.module.to(device),
        {name: loaded.layers.get(name, name) for name in names},
        pixels.to(device),
        samples.names,
        prepare,
    )


def _of_run(
    run_dir: Path,
    names: list[str],
    category: str | None,
    points: bool,
    directions: bool,
    out: Path,
    facets: int,
    counts: list[int],
    schedule: Schedule,
    device: str,
    seed: int,
) -> None:
    """Facets, or directions, of the categories of a run."""
    from emergence_ext.sheets.mindseye import direction_sheet
    from emergence_ext.studies.emergence import file_name
    from emergence_ext.studies.finished import FinishedRun

    run = FinishedRun.open(run_dir)
    subject = run.subject(device)
    # It was loaded for this command alone, so nobody misses it where it was.
    subject.module.to(device)
    found = run.found
    chosen = found.categories if category is None else [c.strip() for c in category.split(",")]
    for what, asked, known in (
        ("category", chosen, found.categories), ("layer", names, found.layers)
    ):  # fmt: skip
        unknown = next((x for x in asked if x not in known), None)
        if unknown is not None:
            raise ValueError(f"{what}: expected some of {', '.join(known)}, got {unknown!r}")
    if directions:
        for name in names:
            _write(direction_sheet(run, subject, chosen, name, schedule, seed), out)
        return
    for name in chosen:
        given = _of_category(run, subject, name, names, points, device)
        _facets(given, out / file_name(name), facets, counts, schedule, seed)


def _of_category(
    run: FinishedRun, subject: Subject, category: str, names: list[str], points: bool, device: str
) -> ImageSet:
    from emergence_ext.sheets.mindseye import ImageSet

    found = run.found
    c = found.categories.index(category)
    index = (found.y == c).nonzero().flatten()
    regions = {}
    if points:
        which = {n: found.points(-1, found.layers.index(n)).reliable[index] for n in names}
        some = torch.stack([x.any(1) for x in which.values()]).all(0)
        if not bool(some.any()):
            raise ValueError(f"points: no image of {category} has a reliable point in {names}")
        index = index[some]
        regions = {n: x[some].unflatten(1, found.grid).to(device) for n, x in which.items()}
    columns = range(len(found.categories)) if subject.outputs is None else subject.outputs
    return ImageSet(
        subject.module,
        {name: subject.layers[name] for name in names},
        torch.stack([subject.dataset[i][0] for i in index.tolist()]).to(device),
        [found.names[i] for i in index.tolist()],
        subject.preprocess,
        dict(zip(columns, found.categories, strict=True)),
        regions,
        subject.batch_size,
    )


def _facets(
    given: ImageSet, out: Path, facets: int, counts: list[int], schedule: Schedule, seed: int
) -> None:
    from emergence_ext.animation import write_film
    from emergence_ext.sheets.mindseye import facet_sheet, film_frames
    from emergence_ext.studies.emergence import file_name

    sheet, found = facet_sheet(given, facets, counts, schedule, seed)
    _write(sheet, out)
    for name, eye in found.items():
        write_film(film_frames(eye), out / "figures" / f"iterations_{file_name(name)}", fps=12)


def _write(sheet: Sheet, out: Path) -> None:
    from emergence_ext import drawing, tables

    for name, figure in sheet.figures.items():
        drawing.save(figure, out / "figures" / name)
    for name, rows in sheet.tables.items():
        tables.write(out / "tables" / f"{name}.csv", rows)
    for note in sheet.notes:
        typer.echo(note)
