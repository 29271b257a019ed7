"""How much a layer still knows of where things are: regions of one image found in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from emergence_ext import ops
from emergence_ext.data import read_csv
from emergence_ext.method import takes_numpy
from emergence_ext.settings import require_grid

COLUMNS: Final = ("name", "keypoint", "x", "y")
ALPHA: Final = 0.1
"""How far from its place a transferred keypoint may be, in shares of the image."""


@dataclass(frozen=True, eq=False)
class Matches:
    """The best match of every region of an image A in an image B.

    Attributes:
        region: the region of B, `[R]`, int64, row-major; the lowest of equals.
        cosine: of both features, `[R]`; 0 where either is zero.
        mutual: whether the match's own best match in A is the region, `[R]` bool.
    """

    region: Tensor
    cosine: Tensor
    mutual: Tensor


@dataclass(frozen=True)
class Transfer:
    """How keypoints of A were found in B.

    Attributes:
        place: (x, y) where each was found in B, `[n, 2]`, in shares of the image.
        distance: from the keypoint in B to where it was found, `[n]`, in shares of the image.
        near: those within `alpha`, `[n]` bool: their mean is PCK.
        chance: share of all regions of B that would have been near, `[n]`.
        possible: whether the best region of B is near, `[n]` bool; coarse grids lose some.
    """

    place: Tensor
    distance: Tensor
    near: Tensor
    chance: Tensor
    possible: Tensor


@takes_numpy
def correspond(a: Tensor, b: Tensor) -> Matches:
    """Find for every region of image A the region of image B whose feature points the same way.

    The matching is that of the method itself (`ops.maxsim_indices`) on unit features, so that a tie
    goes to the lowest region. Long, Zhang and Darrell (Do Convnets Learn Correspondence?, 2014).

    Args:
        a: regional features of A, `[R, K]`.
        b: regional features of B, `[S, K]`.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Examples:
        >>> from emergence_ext import lookinside
        >>> a = torch.eye(3)
        >>> lookinside.correspondence.correspond(a, a.flip(0)).region
        tensor([2, 1, 0])
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(
            f"a, b: expected regional features [R, K] and [S, K], got {list(a.shape)} and "
            f"{list(b.shape)}"
        )
    a, b = (normalize(x.detach().float(), dim=1) for x in (a, b))
    region, back = (_best(x, y) for x, y in ((a, b), (b, a)))
    cosine = (a * b[region]).sum(1)
    return Matches(region, cosine, back[region] == torch.arange(len(a), device=region.device))


def transfer(
    matches: Matches,
    keypoints_a: Tensor,
    keypoints_b: Tensor,
    grid: tuple[int, int],
    *,
    alpha: float = ALPHA,
) -> Transfer:
    """Carry keypoints of A over to B by the regions that they lie in, and measure how far off.

    A keypoint is found at the centre of the region of B that matches its region in A. The share of
    those within `alpha` of the right place is PCK (Yang and Ramanan, 2013).

    Args:
        matches: of all regions of A, on the same grid as B.
        keypoints_a: (x, y) in A in shares of the image, `[n, 2]`, in 0..1.
        keypoints_b: the same keypoints in B.
        grid: `(H, W)` of the regions.
        alpha: share of the longer side of the image that is near enough; images are square here.

    Raises:
        ValueError: shapes that do not fit, keypoints outside of 0..1, or an alpha that is not
            positive.

    Examples:
        >>> from emergence_ext import lookinside
        >>> a = torch.eye(4)
        >>> matches = lookinside.correspondence.correspond(a, a)
        >>> places = torch.tensor([[0.25, 0.25]])
        >>> lookinside.correspondence.transfer(matches, places, places, (2, 2)).near
        tensor([True])
    """
    require_grid(grid)
    H, W = grid
    if len(matches.region) != H * W:
        raise ValueError(f"grid: {H} x {W} holds {H * W} regions, got {len(matches.region)}")
    if not alpha > 0:
        raise ValueError(f"alpha: expected above 0, got {alpha}")
    for name, points in (("keypoints_a", keypoints_a), ("keypoints_b", keypoints_b)):
        if points.shape != (len(keypoints_a), 2) or ((points < 0) | (points > 1)).any():
            raise ValueError(
                f"{name}: expected [n, 2] in 0..1, as many for A as for B, got {list(points.shape)}"
            )
    column = (keypoints_a[:, 0] * W).long().clamp(max=W - 1)
    row = (keypoints_a[:, 1] * H).long().clamp(max=H - 1)
    centres = region_centres(grid).to(keypoints_b)  # [R, 2]
    apart = torch.cdist(keypoints_b, centres)  # [n, R]
    region = matches.region.cpu()[row * W + column]
    distance = apart.gather(1, region[:, None])[:, 0]
    near = apart <= alpha
    return Transfer(centres[region], distance, distance <= alpha, near.float().mean(1), near.any(1))


def region_centres(grid: tuple[int, int]) -> Tensor:
    """Return (x, y) of the centres of the regions of a grid in shares of the image, `[R, 2]`.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.correspondence.region_centres((1, 2))
        tensor([[0.2500, 0.5000],
                [0.7500, 0.5000]])
    """
    require_grid(grid)
    H, W = grid
    y, x = torch.meshgrid((torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5) / W, indexing="ij")
    return torch.stack([x, y], dim=2).flatten(0, 1)


def enlarged(
    part: Tensor, whole: Tensor, grid: tuple[int, int], *, share: float, alpha: float = ALPHA
) -> Transfer:
    """Score how well a layer finds the regions of an enlarged part of an image in the whole of it.

    What belongs together is known without any keypoints: a region at (x, y) of the part lies at
    `share * (x, y)` of the image. A layer that goes by absolute places alone finds few.

    Args:
        part: regional features of the upper left part of an image, brought to the image's size,
            `[R, K]`.
        whole: those of the image, `[R, K]`.
        grid: `(H, W)` of the regions.
        share: of the image's height and width that the part has, in 0..1.
        alpha: as in `transfer`.

    Raises:
        ValueError: shapes that do not fit, or a share outside of 0..1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected 0 < share <= 1, got {share}")
    centres = region_centres(grid)
    return transfer(correspond(part, whole), centres, share * centres, grid, alpha=alpha)


def read_keypoints(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    r"""Read keypoints from a CSV file with the columns name, keypoint, x and y.

    Args:
        path: the file: the name of an image, that of a keypoint, and where it is in shares of the
            image as the network sees it, from its upper left corner. What is not visible has no
            line.

    Returns:
        Name of an image -> keypoint -> (x, y).

    Raises:
        ValueError: other columns, a keypoint twice, a place outside of 0..1, or what `read_csv`
            says.
        FileNotFoundError: no such file.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import lookinside
        >>> _ = Path("points.csv").write_text("name,keypoint,x,y\na.png,eye,0.2,0.3\n")
        >>> lookinside.correspondence.read_keypoints(Path("points.csv"))
        {'a.png': {'eye': (0.2, 0.3)}}
    """
    keypoints: dict[str, dict[str, tuple[float, float]]] = {}
    file = read_csv(path, "keypoints")
    if not set(COLUMNS) <= set(file.columns):
        raise ValueError(
            f"keypoints: {path} must have the columns {', '.join(COLUMNS)}, has "
            f"{', '.join(file.columns) or 'none'}"
        )
    for where, row in file.rows:
        try:
            x, y = float(row["x"]), float(row["y"])
        except ValueError:
            raise ValueError(f"{where} holds no numbers") from None
        of_image = keypoints.setdefault(row["name"], {})
        if row["keypoint"] in of_image:
            raise ValueError(f"{where} names a keypoint twice")
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(
                f"{where} is not in the image: expected x and y in shares of it, 0..1, got {(x, y)}"
            )
        of_image[row["keypoint"]] = (x, y)
    return keypoints


def shared_keypoints(
    keypoints: Mapping[str, Mapping[str, tuple[float, float]]], names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return the keypoints that two images share, by name, `[n, 2]` each.

    Args:
        keypoints: as `read_keypoints` gives them.
        names: of the two images.

    Examples:
        >>> from emergence_ext import lookinside
        >>> keypoints = {
        ...     "a.png": {"eye": (0.2, 0.3), "ear": (0.1, 0.1)},
        ...     "b.png": {"eye": (0.6, 0.3)},
        ... }
        >>> lookinside.correspondence.shared_keypoints(keypoints, ["a.png", "b.png"])
        (tensor([[0.2000, 0.3000]]), tensor([[0.6000, 0.3000]]))
    """
    a, b = (keypoints.get(name, {}) for name in names)
    both = [name for name in a if name in b]
    return (
        torch.tensor([a[name] for name in both]).reshape(-1, 2),
        torch.tensor([b[name] for name in both]).reshape(-1, 2),
    )


def _best(q: Tensor, d: Tensor) -> Tensor:
    """The best match in d `[S, K]` of every row of q `[R, K]`, `[R]`."""
    return ops.maxsim_indices(q[None], d[None])[1][0, 0]
