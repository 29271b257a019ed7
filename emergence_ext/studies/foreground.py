"""Do knowledge points lie on the object? Their share inside of boxes or masks (Fig. 6, 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from emergence_ext.data import Box, boxes_on_grid, find_masks, mask_on_grid, read_boxes
from emergence_ext.lookup import require_kind
from emergence_ext.method import Interval, KnowledgePoints, bootstrap_ratio
from emergence_ext.run import Emergence
from emergence_ext.store import Saved

NAME: Final = "foreground"  # of the experiment, and of its folder in a run


@dataclass(frozen=True, eq=False)
class Objects(Saved):
    """Where the objects of some images lie.

    Attributes:
        names: of the images, `[n]`.
        inside: which of their regions have their centre on the object, `[n, R]` bool.
    """

    names: list[str]
    inside: Tensor

    def by_name(self) -> Mapping[str, Tensor]:
        """Name of an image -> which of its regions lie on the object, `[R]` bool."""
        return dict(zip(self.names, self.inside, strict=True))


def find_objects(
    e: Emergence,
    *,
    boxes: Path | Mapping[str, Sequence[Box]] | None = None,
    masks: Path | None = None,
) -> Objects:
    r"""Read boxes or masks, and lay them on the regions of a run.

    Args:
        e: what the run found.
        boxes: CSV file, see `data.read_boxes`, or what that gives of one.
        masks: folder of masks, see `data.find_masks`.

    Raises:
        ValueError: neither or both are given, one cannot be read, or there are none for any
            held-out image.
        FileNotFoundError: no such file.

    Examples:
        >>> from pathlib import Path
        >>> import emergence_ext as ee
        >>> e = ee.FinishedRun.open("runs/demo").emergence
        >>> _ = Path("one.csv").write_text(
        ...     f"name,left,top,right,bottom\n{e.names[0]},0,0,0.5,0.5\n"
        ... )
        >>> ee.studies.foreground.find_objects(e, boxes=Path("one.csv")).inside.sum()
        tensor(16)
    """
    if (boxes is None) == (masks is None):
        raise ValueError("foreground: give either --boxes FILE or --masks DIR")
    by_name = read_boxes(boxes) if isinstance(boxes, Path | str) else boxes
    require_kind(e=(e, Emergence))
    if by_name is not None:
        known = set(e.names)
        by_name = {name: by_name[name] for name in by_name if name in known}
        names, inside = list(by_name), boxes_on_grid(list(by_name.values()), e.grid)
    if masks is not None:
        files = find_masks(masks, e.names)
        rows = [mask_on_grid(path, e.grid) for path in files.values()]
        names, inside = list(files), torch.stack(rows) if rows else torch.empty(0, 0)
    there = set(names)
    if not any(e.names[n] in there for n in e.held_out.nonzero().flatten().tolist()):
        raise ValueError(
            f"foreground: boxes or masks are there for none of the {int(e.held_out.sum())} "
            f"held-out images; names are as in the table of images, such as {e.names[0]!r}"
        )
    return Objects(names, inside)


@dataclass(frozen=True)
class Foreground:
    """Where the knowledge points of one layer lie.

    Attributes:
        images: with boxes or a mask, and looked at.
        points: share of the knowledge points that lie on the foreground, None without points.
        reliable: the same of the reliable ones.
        area: share of all regions that count there, what points would have by chance.
    """

    images: int
    points: Interval | None
    reliable: Interval | None
    area: float


def foreground(
    points: KnowledgePoints, inside: Tensor, random_state: int = 0, there: Tensor | None = None
) -> Foreground:
    """Count knowledge points on the foreground, with bootstrap intervals over images.

    Args:
        points: of `N` images with `R` regions.
        inside: which regions lie on the foreground, `[N, R]` bool.
        random_state: seed of the bootstrap.
        there: which regions count at all, `[N, R]` bool; None: all.

    Raises:
        ValueError: another shape.

    Examples:
        >>> import emergence_ext as ee
        >>> e = ee.FinishedRun.open("runs/demo").emergence
        >>> inside = torch.ones(len(e.names), 64, dtype=torch.bool)
        >>> ee.studies.foreground.foreground(e.points(), inside).points.value
        1.0
    """
    require_kind(points=(points, KnowledgePoints), inside=(inside, Tensor))
    if inside.shape != points.point.shape:
        raise ValueError(
            f"inside must be [N, R] = {list(points.point.shape)}, got {list(inside.shape)}"
        )
    shares = [
        bootstrap_ratio((mask & inside).sum(1), mask.sum(1), random_state)
        for mask in (points.point, points.reliable)
    ]
    area = (inside if there is None else inside[there]).float().mean()
    return Foreground(len(inside), shares[0], shares[1], float(area))


def share_of_points(e: Emergence, objects: Objects, layer: int = -1) -> Foreground:
    r"""Count the knowledge points of held-out images on their objects, in a layer of a run.

    Images without an object that is given stay out.

    Examples:
        >>> from pathlib import Path
        >>> import emergence_ext as ee
        >>> e = ee.FinishedRun.open("runs/demo").emergence
        >>> _ = Path("few.csv").write_text(f"name,left,top,right,bottom\n{e.names[0]},0,0,1,1\n")
        >>> objects = ee.studies.foreground.find_objects(e, boxes=Path("few.csv"))
        >>> ee.studies.foreground.share_of_points(e, objects).images
        1
    """
    require_kind(e=(e, Emergence), objects=(objects, Objects))
    inside = objects.by_name()
    known = [n for n in e.held_out.nonzero().flatten().tolist() if e.names[n] in inside]
    on_object = torch.stack([inside[e.names[n]] for n in known])
    there = None if e.mask is None else e.mask[known]
    return foreground(e.points(-1, layer, torch.tensor(known)), on_object, there=there)
