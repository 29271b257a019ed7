"""Codes of images embedded in the plane by t-SNE, and laid out as a grid without holes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from emergence_ext.data import MapStyle, as_samples
from emergence_ext.lookinside.stream import stream
from emergence_ext.lookup import optional
from emergence_ext.method import takes_numpy
from emergence_ext.network import ForwardPass, Precision, find_head, flat_features, moved_to
from emergence_ext.settings import require_count, require_grid, require_real

MOST = 4000
"""Images for which the assignment to a grid is still a matter of a minute."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Codes in the plane.

    Attributes:
        points: `[N, 2]`, float32.
        kl: divergence that t-SNE ended with.
        perplexity: that it was run with.
        variance: share of the codes' variance that PCA kept.
    """

    points: Tensor
    kl: float
    perplexity: float
    variance: float


def codes(
    module: nn.Module,
    dataset: MapStyle,
    *,
    last_linear: str | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 32,
    precision: Precision = "float32",
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the codes of images: the input of the last fully connected layer, after its ReLU.

    Args:
        module, dataset, preprocess, batch_size, precision, device: as `stream.stream` takes them.
        last_linear: module whose input is the code; by default the last `nn.Linear` that runs.

    Returns:
        `[N, E]`, float32; maps are averaged over positions.

    Raises:
        ValueError: no fully connected layer runs, or as `stream.stream`.

    Examples:
        >>> from emergence_ext import lookinside
        >>> import emergence_ext as ee
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ... )
        >>> lookinside.codes.codes(net, ee.ImageFolder("photos", size=16, per_class=4)).shape
        torch.Size([12, 784])
    """
    if last_linear is None:
        with moved_to(module, device) as target:
            run = ForwardPass(module, preprocess, None, precision, target)
            first = run.prepared(run.images(as_samples(dataset), slice(1)))
            last_linear = find_head(module, first)[0]
    head, parts = last_linear, []

    def keep(_start: int, inputs: Mapping[str, Tensor]) -> None:
        parts.append(flat_features(inputs[head], head).cpu())

    stream(
        module,
        dataset,
        (),
        keep,
        inputs=[head],
        preprocess=preprocess,
        batch_size=batch_size,
        precision=precision,
        device=device,
    )
    return torch.cat(parts)


@takes_numpy
def embed(
    f: Tensor, *, perplexity: float = 30.0, components: int = 50, random_state: int = 0
) -> Embedding:
    """Embed codes in the plane: PCA, then t-SNE (van der Maaten and Hinton, 2008) by scikit-learn.

    t-SNE starts from the first two principal components, which keeps the large-scale arrangement
    (Kobak and Linderman, 2021).

    Args:
        f: codes `[N, E]`.
        perplexity: at most; less where there are fewer than three times as many images.
        components: of PCA, at most.
        random_state: seed.

    Raises:
        ValueError: fewer than four codes, values that are not finite or all the same, or numbers
            out of their range.
        ImportError: scikit-learn is absent.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.codes.embed(torch.randn(12, 5), perplexity=3).points.shape
        torch.Size([12, 2])
    """
    PCA = optional("sklearn.decomposition", "t-SNE").PCA
    TSNE = optional("sklearn.manifold", "t-SNE").TSNE
    if f.ndim != 2 or len(f) < 4:
        raise ValueError(f"f: expected codes [N, E] of at least 4 images, got {list(f.shape)}")
    require_real("perplexity", perplexity)
    require_count("components", components, 2)
    x: Any = f.detach().cpu().double()
    if not x.isfinite().all() or not (x - x[0]).any():
        raise ValueError("f: expected finite codes that are not all the same")
    pca = PCA(min(components, *f.shape), svd_solver="full")
    reduced = pca.fit_transform(x.numpy())
    perplexity = min(perplexity, (len(f) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=random_state)
    points = tsne.fit_transform(reduced.astype("float32"))
    return Embedding(
        torch.from_numpy(points).float(),
        float(tsne.kl_divergence_),
        float(perplexity),
        min(1.0, float(pca.explained_variance_ratio_.sum())),
    )


def rectangle(count: int) -> tuple[int, int]:
    """Return rows and columns of a grid without holes, not more than twice as wide as high.

    Of all such grids that `count` images fill it is the largest; where there are several, the one
    that is nearest to a square.

    Raises:
        ValueError: no images.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.codes.rectangle(12)
        (3, 4)
    """
    require_count("count", count, 1)
    grids = [
        (rows, columns)
        for rows in range(max(1, math.isqrt(count // 2)), math.isqrt(count) + 1)
        if (columns := min(count // rows, 2 * rows))
    ]
    return max(grids, key=lambda grid: (grid[0] * grid[1], grid[0]))


@takes_numpy
def lay_out(points: Tensor, grid: tuple[int, int]) -> Tensor:
    """Give every point a cell of a grid of its own, so that the squared ways sum to the least.

    Args:
        points: `[N, 2]`, finite; the first coordinate runs to the right, the second upwards.
        grid: `(H, W)` with `H * W = N`.

    Returns:
        The point of each cell, `[H, W]`, int64; every point once.

    Raises:
        ValueError: another number of points than cells, or points that are not finite.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.codes.lay_out(
        ...     torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), (2, 2)
        ... )
        tensor([[2, 3],
                [0, 1]])
    """
    require_grid(grid)
    H, W = grid
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != H * W:
        raise ValueError(
            f"points: expected [{H * W}, 2] for {H} x {W} cells, got {list(points.shape)}"
        )
    if not points.isfinite().all():
        raise ValueError("points: expected finite coordinates")
    low, high = points.double().amin(dim=0), points.double().amax(dim=0)
    unit = (points.double() - low) / (high - low).clamp_min(1e-12)
    at = torch.stack([unit[:, 0], 1 - unit[:, 1]], dim=1) * torch.tensor([W - 1.0, H - 1.0])
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    cells = torch.stack([columns, rows], dim=2).reshape(-1, 2).double()
    cost = torch.cdist(at, cells).square()
    point, cell = linear_sum_assignment(cost.numpy())
    taken = torch.empty(H * W, dtype=torch.int64)
    taken[torch.from_numpy(cell)] = torch.from_numpy(point)
    return taken.reshape(H, W)
