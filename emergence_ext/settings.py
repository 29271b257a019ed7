"""What can be chosen, and what is taken where nothing is said: a default stands here and only here.

Signatures and command-line options read it from here. This module needs the standard library alone,
so that every room may import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Backend = Literal["auto", "fused", "reference"]
"""What matches regions, see `ops.choose`."""

Precision = Literal["float32", "bfloat16"]
"""Of a network's forward pass."""


@dataclass(frozen=True)
class Settings:
    """What can be chosen about the fits; defaults are those of the method (docs/method.md).

    Attributes:
        dim: projected width.
        alpha: weight of the alignment of regions with their sample.
        temperature: of the network's softmax.
        tau: threshold of knowledge points.
        held_out: share of the images that no fit sees; what is reported is reported on them.
        region_images: images on which w, v and Lambda are learned, at most; from the fitted ones.
        importance_evals, regional_evals: evaluations of loss and gradient at most, per layer and
            checkpoint.
        include_self: whether an image takes part in its own similarities.
        random_state: seed of the split and of restarts.
    """

    dim: int = 3
    alpha: float = 0.1
    temperature: float = 1.0
    tau: float = 0.4
    held_out: float = 0.4
    region_images: int = 300
    importance_evals: int = 40
    regional_evals: int = 60
    include_self: bool = True
    random_state: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("dim", self.dim >= 2, "at least 2"),
            ("alpha", self.alpha >= 0, "at least 0"),
            ("temperature", self.temperature > 0, "positive"),
            ("tau", 0 < self.tau < 1, "between 0 and 1"),
            ("held_out", 0 < self.held_out < 1, "between 0 and 1"),
            ("region_images", self.region_images >= 2, "at least 2"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")
