"""What Li, Wang and Zhang (NeurIPS 2021) print in Tables 1 and 2, to be shown beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NETWORKS: Final = (
    "VGG-16, Tiny ImageNet",
    "ResNet-34, Tiny ImageNet",
    "MobileNet-V2, Tiny ImageNet",
    "ResNet-50, COCO 2014",
    "ResNet-34, CUB-200-2011",
)
"""The networks and data sets, ten categories each, of the columns below."""

STRENGTH_ENTROPY: Final[Mapping[str, tuple[float, ...]]] = {
    "ours": (-0.94, -0.94, -0.95, -0.84, -0.9),
    "DRPR": (-0.87, -0.89, -0.88, -0.77, -0.77),
    "PCA": (-0.65, -0.78, -0.81, -0.56, -0.78),
    "Isomap": (-0.66, -0.83, -0.77, -0.65, -0.75),
    "LLE": (-0.38, -0.51, -0.27, -0.09, -0.58),
    "t-SNE": (-0.5, -0.36, -0.66, -0.67, -0.5),
}
"""Table 1: Pearson correlation of strength with the entropy of the network's output."""

STRENGTH_IMPORTANCE: Final = (0.7707, 0.8248, 0.8169, 0.7572, 0.7765)
"""Table 2: Pearson correlation of |h| with w, mean over samples."""

STRENGTH_IMPORTANCE_DEVIATION: Final = (0.16, 0.09, 0.13, 0.18, 0.17)
"""Table 2: standard deviation over samples."""
