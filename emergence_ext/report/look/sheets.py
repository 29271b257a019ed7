"""Look at a network by one technique after another, and write what each of them shows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tqdm import tqdm

from emergence_ext.data import Samples, balanced_order
from emergence_ext.lookup import nearest, require_kind
from emergence_ext.report.files import save_figure, write_table
from emergence_ext.report.look.activations import activations
from emergence_ext.report.look.annotators import annotators
from emergence_ext.report.look.attributes import attributes
from emergence_ext.report.look.codes import codes
from emergence_ext.report.look.correspondence import correspondence
from emergence_ext.report.look.excite import excite
from emergence_ext.report.look.filters import filters
from emergence_ext.report.look.fooling import fooling
from emergence_ext.report.look.gradients import gradients
from emergence_ext.report.look.inversion import inversion
from emergence_ext.report.look.occlusion import occlusion
from emergence_ext.report.look.page import Shown, write_page
from emergence_ext.report.look.sheet import Scene, Sheet
from emergence_ext.settings import require_count

logger = logging.getLogger(__name__)

SHOWN: Final = 10
"""Images that are shown where nobody chose some."""

# What a technique raises where a network or its images do not allow it. Anything else is a defect.
_REFUSALS = (ValueError, TypeError, ImportError, NotImplementedError, RuntimeError, MemoryError)

TECHNIQUES: Final[Mapping[str, Callable[[Scene], Sheet]]] = {
    "activations": activations,
    "filters": filters,
    "excite": excite,
    "codes": codes,
    "occlusion": occlusion,
    "gradients": gradients,
    "inversion": inversion,
    "correspondence": correspondence,
    "attributes": attributes,
    "fooling": fooling,
    "annotators": annotators,
}
"""Every technique by its name, in the order in which they are shown."""


@dataclass(frozen=True)
class Looked:
    """What was written.

    Attributes:
        page: all sheets in one HTML file.
        sheets: technique -> its sheet, with the names of its files.
        refused: technique -> why it cannot be applied to this network.
    """

    page: Path
    sheets: Mapping[str, Shown]
    refused: Mapping[str, str]


def look(
    scene: Scene, out: Path, only: Sequence[str] | None = None, *, command: str = ""
) -> Looked:
    """Make contact sheets and write `OUT/TECHNIQUE/*.png|svg|csv` and `OUT/look.html`.

    A technique that the network or its images do not allow is left out, with its reason. Where one
    fails in any other way, the page of what was finished is written first.

    Args:
        scene: the network, its images, and which of both to look at.
        out: folder for everything; made if it is not there.
        only: names of techniques; None: all.
        command: how the page was asked for, written on it.

    Raises:
        ValueError: an unknown technique or layer, an image that is not there, or no technique that
            can be applied.
    """
    require_kind(scene=(scene, Scene))
    only = [only] if isinstance(only, str) else only
    names = list(TECHNIQUES) if only is None else list(dict.fromkeys(only))
    _check(scene, names)
    sheets: dict[str, Shown] = {}
    refused: dict[str, str] = {}
    with tqdm(names, desc="look", unit="sheet", disable=None) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            try:
                sheet = _attempt(name, scene, refused)
                if sheet is not None:
                    sheets[name] = _write(sheet, out / name)
            except Exception as error:
                if sheets:
                    refused[name] = f"{type(error).__name__}: {error}; nothing was made after it"
                    write_page(out, scene, sheets, refused, command)
                raise
    if not sheets:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"look: none of the techniques can be applied ({reasons})")
    page = write_page(out, scene, sheets, refused, command)
    return Looked(page, sheets, refused)


def some_images(dataset: Samples, count: int = SHOWN) -> list[int]:
    """Choose images to show, by index: as many of each category, at random, category by category.

    Where there are more categories than images to show, these are of some of them.
    """
    require_count("count", count, 1)
    chosen = balanced_order(torch.tensor(dataset.labels))[:count].tolist()
    return sorted(chosen, key=lambda i: (dataset.labels[i], i))


def _check(scene: Scene, names: Sequence[str]) -> None:
    for name in names:
        if name not in TECHNIQUES:
            raise ValueError(
                f"only: no technique {name!r}.{nearest(name, TECHNIQUES)} There are "
                f"{', '.join(TECHNIQUES)}."
            )
    if not names:
        raise ValueError(f"only: expected some of {', '.join(TECHNIQUES)}, got none")
    known, count = scene.subject.layers, len(scene.subject.dataset)
    absent = next((layer for layer in scene.layers if layer not in known), None)
    if absent is not None or not scene.layers:
        raise ValueError(f"layers: expected some of {', '.join(known)}, got {absent!r}")
    outside = next((i for i in scene.images if not 0 <= i < count), None)
    if outside is not None or not scene.images:
        raise ValueError(f"images: expected indices in 0..{count - 1}, got {outside}")


def _attempt(name: str, scene: Scene, refused: dict[str, str]) -> Sheet | None:
    """The sheet of a technique; None, and the reason in `refused`, where it cannot be applied."""
    try:
        return TECHNIQUES[name](scene)
    except _REFUSALS as error:
        refused[name] = str(error) or type(error).__name__
        # These may as well be a defect, of the network or in here.
        if isinstance(error, TypeError | RuntimeError):
            logger.warning("%s is left out: %s: %s", name, type(error).__name__, error)
        logger.debug("%s is left out", name, exc_info=True)
        return None


def _write(sheet: Sheet, folder: Path) -> Shown:
    """Write the files of a sheet."""
    for name, figure in sheet.figures.items():
        save_figure(figure, folder / name)
    for name, rows in sheet.tables.items():
        write_table(folder / f"{name}.csv", rows)
    return Shown(
        sheet.title, sheet.text, list(sheet.notes), list(sheet.figures), list(sheet.tables)
    )
