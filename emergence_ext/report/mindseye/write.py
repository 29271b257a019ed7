"""From a folder of images, or a run, to the figures, tables and films of the Mind's Eye."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emergence_ext import __version__
from emergence_ext.mindseye import MindsEye, Schedule
from emergence_ext.report.files import FIGURES, TABLES, Row, save_figure, write_table
from emergence_ext.report.film import write_film
from emergence_ext.report.look import Sheet
from emergence_ext.report.mindseye.directions import direction_sheet
from emergence_ext.report.mindseye.facets import facet_sheet, film_frames
from emergence_ext.report.mindseye.images import category_images, folder_images
from emergence_ext.run import FinishedRun, Subject, file_name
from emergence_ext.store import write_document

logger = logging.getLogger(__name__)


def facets_of_folder(
    folder: Path,
    model: str,
    layers: Sequence[str],
    out: Path,
    *,
    facets: int = 1,
    top_k: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    random_state: int = 0,
    **loading: Any,
) -> list[str]:
    """Show what the images of a folder have in common in layers of a network.

    Args:
        folder, model, layers: see `folder_images`.
        out: folder that `figures/` and `tables/` are written to.
        facets, top_k, schedule, random_state: see `facet_sheet`.
        loading: further arguments of `folder_images`.

    Returns:
        What came of each facet, a sentence each.

    Raises:
        ValueError: what `folder_images` and `facet_sheet` refuse.
    """
    images = folder_images(folder, model, layers, random_state=random_state, **loading)
    sheet, eyes = facet_sheet(images, facets, top_k, schedule, random_state)
    _write(sheet, out, eyes)
    return list(sheet.notes)


def facets_of_run(
    run: FinishedRun,
    layers: Sequence[str],
    out: Path,
    *,
    categories: Sequence[str] | None = None,
    points: bool = False,
    facets: int = 1,
    top_k: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    device: str = "cpu",
    random_state: int = 0,
) -> list[str]:
    """Show what the images of each category of a run have in common in its layers.

    Args:
        run: it knows network and images.
        layers: as in the run, or dotted.
        out: folder that a folder for each category is written to, and one table of all scores.
        categories: names; None: all.
        points: only regions that are reliable knowledge points, and images that have some.
        facets, top_k, schedule, random_state: see `facet_sheet`.
        device: of the network.

    Returns:
        What came of each facet, a sentence each.

    Raises:
        ValueError: an unknown category or layer, too few images, or what `facet_sheet` refuses.
    """
    subject = _subject(run, device)
    categories, layers = _known(run, subject, categories, layers)
    notes: list[str] = []
    scores: list[Row] = []
    for category, images in category_images(
        run, subject, categories, layers, points=points, facets=facets
    ):
        sheet, eyes = facet_sheet(images, facets, top_k, schedule, random_state)
        _write(sheet, out / file_name(category), eyes)
        scores += [{"category": category, **row} for row in sheet.tables["scores"]]
        # After each category, so that what is done is there if the rest is broken off.
        write_table(out / TABLES / "scores.csv", scores)
        notes += [f"{category}, {note}" for note in sheet.notes]
    return notes


def directions_of_run(
    run: FinishedRun,
    layers: Sequence[str],
    out: Path,
    *,
    categories: Sequence[str] | None = None,
    schedule: Schedule | None = None,
    device: str = "cpu",
    random_state: int = 0,
) -> list[str]:
    """Show what the network of a run sees along the directions of categories in its layers.

    Args:
        run: it knows network and images.
        layers: as in the run, or dotted.
        out: folder that `figures/` and `tables/` are written to.
        categories: names; None: all.
        schedule, random_state: see `direction_sheet`.
        device: of the network.

    Returns:
        How far each image came, a sentence each.

    Raises:
        ValueError: an unknown category or layer.
    """
    subject = _subject(run, device)
    categories, layers = _known(run, subject, categories, layers)
    sheet = direction_sheet(run, subject, categories, layers, schedule, random_state)
    _write(sheet, out)
    return list(sheet.notes)


def _subject(run: FinishedRun, device: str) -> Subject:
    subject = run.subject(device)
    # It was loaded for this call alone, so nobody misses it where it was.
    subject.module.to(device)
    return subject


def _known(
    run: FinishedRun, subject: Subject, categories: Sequence[str] | None, layers: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Categories and layers by their names in the run, each once."""
    e = run.emergence
    by_dotted = {subject.layers[name]: name for name in e.layers}
    names = {
        "category": list(e.categories if categories is None else categories),
        "layer": list(dict.fromkeys(by_dotted.get(name, name) for name in layers)),
    }
    for what, there in (("category", e.categories), ("layer", e.layers)):
        unknown = next((name for name in names[what] if name not in there), None)
        if unknown is not None:
            raise ValueError(f"{what}: expected some of {', '.join(there)}, got {unknown!r}")
    return names["category"], names["layer"]


def _write(sheet: Sheet, out: Path, eyes: Mapping[str, MindsEye] | None = None) -> None:
    """Write figures, tables, a film of the iterations of each result, and what came of it."""
    # First, so that figures in a folder of images are known as results even after a kill.
    write_document(out / "mindseye.json", {"version": __version__, "notes": list(sheet.notes)})
    for name, figure in sheet.figures.items():
        save_figure(figure, out / FIGURES / name)
    for name, rows in sheet.tables.items():
        write_table(out / TABLES / f"{name}.csv", rows)
    for name, eye in (eyes or {}).items():
        try:
            write_film(film_frames(eye), out / FIGURES / f"iterations_{file_name(name)}", fps=12)
        except (OSError, RuntimeError, ValueError) as error:
            logger.warning("the film of %s is left out: %s", name, error)
