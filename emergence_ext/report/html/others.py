"""What lies beside the page of a run: a film, sheets of look, what a Mind's Eye saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from emergence_ext.report import apply, compare
from emergence_ext.report.experiments import EXPERIMENTS, Experiment, experiments
from emergence_ext.report.words import FigureText, SectionText
from emergence_ext.run import Config, RunFolder
from emergence_ext.store import exists

FILM: Final = "animate"
LOOK: Final = "look"
EYE: Final = "mindseye"  # the file that says that a folder holds what was seen
FILM_TITLE: Final = "Film"
LOOK_TITLE: Final = "Look inside the network"
OPTIONS: Final = {"foreground": " --boxes BOXES.csv"}
"""What a command must be given beside the run."""


@dataclass(frozen=True)
class Other:
    """A page or a film beside the report.

    Attributes:
        title, text: what it is.
        path: from the run directory.
    """

    title: str
    text: str
    path: Path

    @property
    def address(self) -> str:
        """The path as a link has it."""
        return quote(self.path.as_posix(), errors="surrogateescape")


def others(inside: RunFolder) -> list[Other]:
    """Return the films and pages beside the report of a run, as far as they are there."""
    films = sorted((inside.experiment(FILM)).glob("*.*"))
    found = [
        Other(FILM_TITLE, "Regions through training and through the layers.", path)
        for path in films
        if path.suffix in (".mp4", ".gif")
    ]
    look = inside.experiment(LOOK) / "look.html"
    if look.is_file():
        sheets = [path.name for path in sorted(look.parent.glob("*/")) if any(path.iterdir())]
        found.append(Other(LOOK_TITLE, f"Sheets: {', '.join(sheets)}.", look))
    found += [
        Other(f"Mind's Eye: {path.parent.parent.name}", "Its iterations as a film.", path)
        for folder in eyes(inside)
        for path in sorted((folder / "figures").glob("iterations_*"))
        if path.suffix in (".mp4", ".gif")
    ]
    return [Other(x.title, x.text, x.path.relative_to(inside.path)) for x in found]


def undone(inside: RunFolder, config: Config) -> list[tuple[str, str]]:
    """Return what was not done with a run, and the command that does it; RUN stands for the run."""
    done = {each.section.anchor for each in experiments(inside) if _holds(inside, each)}
    texts = [
        (_title(each), f"emergence {each.command} RUN{OPTIONS.get(each.command, '')}")
        for each in EXPERIMENTS
        if each.section.anchor not in done
    ]
    many = {anchor.partition("/")[0] for anchor in done}
    if compare.NAME not in many:
        texts.append(("Comparison with another run or checkpoint", "emergence compare RUN OTHER"))
    if apply.NAME not in many:
        texts.append(("New images in the frame of this run", "emergence apply RUN --data DIR"))
    there = others(inside)
    if not any(other.title == FILM_TITLE for other in there):
        texts.append((FILM_TITLE, "emergence animate RUN"))
    if not any(other.title == LOOK_TITLE for other in there):
        texts.append((LOOK_TITLE, "emergence look RUN"))
    if not any(eyes(inside)):
        layer = str(config.layers[-1]) if config.layers else "LAYER"
        command = f"emergence mindseye --run RUN --layer {layer} --out RUN/mindseye"
        texts.append(("Mind's Eye: what the images of a category have in common", command))
    return texts


def eye_section(place: str) -> SectionText:
    """Return the words about what a Mind's Eye saw, by its folder from the run directory."""
    return SectionText(
        place,
        f"Mind's Eye: {place.rpartition('/')[2]}",
        "What the images of a set have in common in a layer, made visible by optimising an image "
        "(emergence mindseye; Stergiou, ICIP 2021).",
        (
            FigureText("facets_*", "Facets", "An image for each facet, beside real ones.", ""),
            FigureText("embedding_*", "Images by facet", "Where the images of each facet lie.", ""),
            FigureText("iterations_*", "Iterations", "From the start to the end.", ""),
        ),
    )


def _title(experiment: Experiment) -> str:
    own = experiment.section.title.removeprefix("Experiment: ")
    return own[:1].upper() + own[1:]


def _holds(inside: RunFolder, experiment: Experiment) -> bool:
    return exists(inside.result(experiment.section.anchor))


def eyes(inside: RunFolder) -> Iterator[Path]:
    """Yield the folders of a run that hold what a Mind's Eye saw."""
    for depth in ("*", "*/*"):
        yield from (path.parent for path in sorted(inside.path.glob(f"{depth}/{EYE}.json")))
