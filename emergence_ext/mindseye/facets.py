"""Facets: groups of images that a layer answers to alike, and the images that stand for each.

Stergiou, "The Mind's Eye: Visualizing Class-Agnostic Features of CNNs" (ICIP 2021), Sec. 2.1.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.lookup import optional
from emergence_ext.method import takes_numpy
from emergence_ext.settings import require_count

COMPONENTS: Final = 50
"""Principal components that t-SNE is given, at most (van der Maaten and Hinton 2008)."""

PERPLEXITY: Final = 30.0

FLOOR: Final = 0.5
"""Least distance from a centre that counts, in units of the embedding.

The softmax of 1/distance gives all to a point that happens to lie on its centre. With this floor no
point weighs more than exp(2) = 7.4 times another.
"""

MOST: Final = 5000
"""Images that are grouped, at most.

Their pooled maps are held at once, and once more by PCA: 4 GB at 512 channels of 14 x 14 regions.
"""

_GRID: Final = 14  # larger maps are pooled for the embedding, so that memory stays bounded


@dataclass(frozen=True, eq=False)
class Facet:
    """The images that stand for a facet, nearest first.

    Attributes:
        members: indices of the images, `[m]`.
        weights: softmax of 1/distance, of sum 1, `[m]`.
        distances: from the centre in the embedding, `[m]`.

    Examples:
        >>> from emergence_ext import mindseye
        >>> rows = torch.cat([torch.randn(4, 6), torch.randn(4, 6) + 9])
        >>> facet = mindseye.find_facets(rows, 2, members=3).facets[0]
        >>> facet.members.shape, round(facet.weights.sum().item(), 4)
        (torch.Size([3]), 1.0)
    """

    members: Tensor
    weights: Tensor
    distances: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """Return the weighted mean of what its members have, `[m, ...]` to `[...]`."""
        return torch.tensordot(self.weights.to(x), x, dims=1)


@dataclass(frozen=True, eq=False)
class Facets:
    """All images in the plane, and `C` groups of them.

    Attributes:
        points: t-SNE of the activations, `[N, 2]`.
        labels: facet of each image, `[N]`.
        centres: of the facets, `[C, 2]`.
        facets: what stands for each, `[C]`.

    Examples:
        >>> from emergence_ext import mindseye
        >>> rows = torch.cat([torch.randn(4, 6), torch.randn(4, 6) + 9])
        >>> mindseye.find_facets(rows, 2).points.shape
        torch.Size([8, 2])
    """

    points: Tensor
    labels: Tensor
    centres: Tensor
    facets: list[Facet]


@takes_numpy
def find_facets(
    activations: Tensor, count: int = 1, *, members: int = 10, random_state: int = 0
) -> Facets:
    """Group images by a layer's activations: PCA, t-SNE to the plane, k-means.

    Needs the memory of the activations in float32 once more, up to 500 images some four times more.
    As many images as facets are each a facet of its own.

    Args:
        activations: of every image, `[N, D]`, such as `pooled` maps, `N` at most `MOST`.
        count: facets `C`.
        members: images that stand for a facet, at most; of a smaller facet all of them do.
        random_state: seed of PCA, t-SNE and k-means.

    Raises:
        ValueError: fewer different images than facets, a facet that no image falls to, too many
            images, or activations that are not finite.
        ImportError: scikit-learn is absent.

    Examples:
        >>> from emergence_ext import mindseye
        >>> rows = torch.cat([torch.randn(4, 6), torch.randn(4, 6) + 9])
        >>> labels = mindseye.find_facets(rows, 2).labels
        >>> labels[:4].unique().numel(), labels[4:].unique().numel()
        (1, 1)
    """
    if activations.ndim != 2 or not len(activations):
        raise ValueError(f"activations: expected [N, D], got {list(activations.shape)}")
    require_count("count", count, 1)
    require_count("members", members, 1)
    check_number(len(activations))
    x = activations.detach().cpu().float().numpy()
    if not np.isfinite(x).all():
        raise ValueError("activations: some are NaN or infinite. Check weights and preprocessing.")
    different = _different(x, count)
    if different < count:
        raise ValueError(
            f"facets: expected at most {different}, the number of images that the layer tells "
            f"apart ({len(x)} are given), got {count}"
        )
    points = _embedded(x, random_state)
    labels, centres = _clusters(points, count, random_state)
    groups = []
    for c in range(count):
        own = np.flatnonzero(labels == c)
        distance = np.linalg.norm(points[own] - centres[c], axis=1)
        order = np.argsort(distance, kind="stable")[:members]
        near = torch.from_numpy(distance[order])
        groups.append(Facet(torch.from_numpy(own[order]), facet_weights(near), near))
    return Facets(
        torch.from_numpy(points), torch.from_numpy(labels), torch.from_numpy(centres), groups
    )


def check_number(images: int) -> None:
    """Refuse more images than `find_facets` groups.

    Raises:
        ValueError: more than `MOST`.
    """
    if images > MOST:
        raise ValueError(
            f"images: expected at most {MOST}, since their activations are held at once, got "
            f"{images}; take some of them"
        )


def facet_weights(distances: Tensor) -> Tensor:
    """Return the weights of points at distances `[m]` from their centre, `[m]`, of sum 1.

    The softmax of `1 / max(distance, FLOOR)`.
    """
    return (1 / distances.clamp_min(FLOOR)).softmax(0)


def pooled(maps: Tensor) -> Tensor:
    """Return maps `[n, K, H, W]` as rows `[n, D]` for `find_facets`, at most 14 x 14 regions."""
    grid = (min(maps.shape[2], _GRID), min(maps.shape[3], _GRID))
    if grid != tuple(maps.shape[2:]):
        maps = functional.adaptive_avg_pool2d(maps, grid)
    return maps.flatten(1).float()


def _different(x: Any, enough: int) -> int:
    """Count different rows of `[N, D]`, up to `enough` of them, without a copy of all."""
    seen: set[bytes] = set()
    for row in x:
        # Adding 0 makes minus zero plain zero, which has other bytes.
        seen.add(hashlib.blake2b((row + 0).tobytes(), digest_size=16).digest())
        if len(seen) == enough:
            break
    return len(seen)


def _embedded(x: Any, random_state: int) -> Any:
    """Place rows `[N, D]` in the plane, `[N, 2]`."""
    decomposition = optional("sklearn.decomposition", "facets")
    manifold = optional("sklearn.manifold", "facets")
    components = min(COMPONENTS, *x.shape)
    if not np.ptp(x, axis=0).any():
        return np.zeros((len(x), 2))  # nothing to tell apart: all lie in one place
    reduced = decomposition.PCA(
        components, svd_solver="full" if len(x) <= 500 else "randomized", random_state=random_state
    ).fit_transform(x)
    # Neighbours of so few cannot be told, and two components show them as they are.
    if len(x) < 5 or components < 2:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    tsne = manifold.TSNE(
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3), init="pca", random_state=random_state
    )
    return tsne.fit_transform(reduced.astype(np.float32)).astype(np.float64)


def _clusters(points: Any, count: int, random_state: int) -> tuple[Any, Any]:
    if count == 1:
        return np.zeros(len(points), dtype=np.int64), points.mean(axis=0, keepdims=True)
    if count == len(points):
        return np.arange(count), points.copy()
    cluster = optional("sklearn.cluster", "facets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer clusters than asked for: refused below
        fit = cluster.KMeans(count, n_init=10, random_state=random_state).fit(points)
    sizes = np.bincount(fit.labels_, minlength=count)
    if not sizes.all():
        raise ValueError(
            f"facets: expected at most {np.count_nonzero(sizes)}, the number of groups that the "
            f"embedding of the {len(points)} images tells apart, got {count}"
        )
    # The largest facet first, so that their order says something.
    order = np.argsort(-sizes, kind="stable")
    place = np.empty(count, dtype=np.int64)
    place[order] = np.arange(count)
    return place[fit.labels_], fit.cluster_centers_[order]
