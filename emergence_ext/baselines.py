"""What the sample projection is compared with (Table 1); strength is distance from the mean."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class PCA:
    """Principal components of sample features, by singular value decomposition.

    Args:
        dim: components to keep.

    Attributes:
        mean_: `[E]`.
        components_: `[dim, E]`, orthonormal rows, by falling variance.
    """

    def __init__(self, dim: int = 3) -> None:
        self.dim = dim

    def fit(self, f: Tensor) -> Self:
        """Learn from sample features `[N, E]`."""
        self.mean_ = f.mean(0)
        self.components_ = torch.linalg.svd(f - self.mean_, full_matrices=False).Vh[: self.dim]
        return self

    def transform(self, f: Tensor) -> Tensor:
        """Project sample features `[N, E]` to `[N, dim]`, centred."""
        return (f - self.mean_) @ self.components_.t()
