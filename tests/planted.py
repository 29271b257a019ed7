"""Features with planted categories: what the fits have to find is known, and nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emergence_ext.network.features import FeatureSet


@dataclass(frozen=True)
class Planted:
    """Features of `N` images of `C` categories; the first half of the regions shows the category.

    Attributes:
        f: sample features, `[N, E]`.
        z: logits, `[N, C]`, a function of f.
        y: labels, `[N]`.
        F: regional features, `[N, R, K]`, non-negative.
        telling: regions that show the category, `[R]` bool.
    """

    f: Tensor
    z: Tensor
    y: Tensor
    F: Tensor
    telling: Tensor


def planted(
    N: int = 60,
    C: int = 4,
    *,
    E: int = 12,
    R: int = 6,
    K: int = 10,
    learned: float = 1.0,
    sureness: float = 3.0,
    seed: int = 0,
) -> Planted:
    """Make features in which a share `learned` of the category's pattern has appeared.

    What belongs to the images (labels, noise, how clear each one is) depends on the seed alone, so
    that the same seed with rising `learned` is one set of images through a training.
    """
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % C
    clear = 0.3 + torch.rand(N, generator=generator)  # how clearly an image shows its category
    pattern = torch.randn(C, E, generator=generator)
    pattern = pattern / pattern.norm(dim=1, keepdim=True)
    noise = 0.15 * torch.randn(N, E, generator=generator)
    f = (learned * clear[:, None] * pattern[y] + noise + 0.2).clamp_min(0)
    z = sureness * (f - f.mean(0)) @ pattern.t() * learned

    telling = torch.arange(R) < R // 2
    own = (torch.arange(K) % (C + 1) == torch.arange(C)[:, None]).float()  # [C, K]
    ground = (torch.arange(K) % (C + 1) == C).float()
    speckle = torch.rand(N, R, K, generator=generator)
    shown = learned * clear[:, None, None] * telling[:, None] * own[y][:, None]
    F = shown + 0.1 * ground + 0.1 * speckle
    return Planted(f, z, y, F, telling)


def feature_set(learned: float, N: int = 60, C: int = 4, seed: int = 0) -> FeatureSet:
    """A checkpoint with two layers, of which the first has learned half as much."""
    late = planted(N, C, learned=learned, seed=seed)
    early = planted(N, C, learned=0.5 * learned, seed=seed)
    return FeatureSet(
        layers={"conv1": early.F, "conv2": late.F},
        grid=(2, 3),
        f=late.f,
        z=late.z,
        y=late.y,
        names=[f"image {i}" for i in range(N)],
        categories=[f"category {c}" for c in range(C)],
    )
