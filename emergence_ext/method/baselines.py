"""What the sample projection is compared with (Table 1); strength is distance from the mean."""

from __future__ import annotations

import warnings
from typing import Any, Final, Literal, Self

import torch
from scipy.sparse import SparseEfficiencyWarning
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from emergence_ext.lookup import optional
from emergence_ext.method.numpy_arrays import takes_numpy
from emergence_ext.settings import Settings, require_count
from emergence_ext.store import NotFittedError

MANIFOLDS: Final = ("t-SNE", "LLE", "Isomap")


class PCA:
    """Principal components of sample features, by singular value decomposition.

    Args:
        dim: components to keep.
        standardise: whether channels are first brought to a variance of 1.
        whiten: whether components are brought to a variance of 1.

    Attributes:
        mean_: `[E]`.
        components_: `[dim, E]`, by falling variance; orthonormal rows unless scaled.

    Examples:
        >>> from emergence_ext import method
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
        >>> method.PCA(dim=1).fit(x).components_.abs()
        tensor([[1., 0.]])
    """

    def __init__(
        self, dim: int = Settings.dim, *, standardise: bool = False, whiten: bool = False
    ) -> None:
        require_count("dim", dim, 1)
        self.dim = dim
        self.standardise = standardise
        self.whiten = whiten

    @takes_numpy
    def fit(self, f: Tensor) -> Self:
        """Learn from sample features `[N, E]`.

        Raises:
            ValueError: another shape, or `dim` more than E.
        """
        if f.ndim != 2 or self.dim > f.shape[1]:
            raise ValueError(f"f must be [N, E], E at least dim = {self.dim}, got {tuple(f.shape)}")
        self.mean_ = f.mean(0)
        centred = f - self.mean_
        # A channel that never varies has nothing to be scaled.
        spread = centred.std(0) if self.standardise else torch.ones_like(self.mean_)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        _, s, Vh = torch.linalg.svd(centred / spread, full_matrices=False)
        self.components_ = Vh[: self.dim] / spread
        if self.whiten:
            deviation = s[: self.dim, None] / max(len(f) - 1, 1) ** 0.5
            self.components_ = self.components_ / deviation.clamp_min(1e-12)
        return self

    @takes_numpy
    def transform(self, f: Tensor) -> Tensor:
        """Project sample features `[N, E]` to `[N, dim]`, centred.

        Raises:
            ValueError: another shape, or nothing was fitted yet.
        """
        _require_fitted(self, "components_")
        if f.ndim != 2 or f.shape[1] != len(self.mean_):
            raise ValueError(f"f must be [N, E = {len(self.mean_)}], got {tuple(f.shape)}")
        return (f - self.mean_) @ self.components_.t()


class Manifold:
    """A method of scikit-learn that embeds images by their neighbours: t-SNE, LLE or Isomap.

    Args:
        method: "t-SNE" (van der Maaten and Hinton 2008), "LLE" (Roweis and Saul 2000) or "Isomap"
            (Tenenbaum et al. 2000).
        dim: width of the embedding.
        neighbours: of each image; for t-SNE the perplexity.
        random_state: seed of t-SNE's start; the other two have no choice to make.

    Attributes:
        points_: the fitted images, `[N, dim]`.
        pieces_: connected components of the graph of neighbours, 1 for t-SNE, which has none;
            where there are more, LLE keeps them apart as if nothing else mattered, and Isomap is
            given edges between them.

    Raises:
        ValueError: another method.
        ImportError: scikit-learn is absent.

    Examples:
        >>> from emergence_ext import method
        >>> method.Manifold("Isomap", dim=2, neighbours=5).fit(torch.randn(20, 6)).points_.shape
        torch.Size([20, 2])
    """

    def __init__(
        self,
        method: Literal["t-SNE", "LLE", "Isomap"],
        dim: int = Settings.dim,
        neighbours: int = 20,
        random_state: int = 0,
    ) -> None:
        if method not in MANIFOLDS:
            raise ValueError(f"method must be one of {', '.join(MANIFOLDS)}, got {method!r}")
        require_count("dim", dim, 1)
        require_count("neighbours", neighbours, 1)
        optional("sklearn.manifold", method)
        self.method = method
        self.dim = dim
        self.neighbours = neighbours
        self.random_state = random_state

    @takes_numpy
    def fit(self, f: Tensor) -> Self:
        """Embed sample features `[N, E]`.

        Raises:
            ValueError: fewer images than neighbours, or features that the method cannot embed.
        """
        if f.ndim != 2:
            raise ValueError(f"f must be [N, E], got {tuple(f.shape)}")
        if len(f) <= self.neighbours:
            raise ValueError(
                f"neighbours = {self.neighbours} need more images than that, got {len(f)}"
            )
        x = f.detach().cpu().double().numpy()
        self.model_ = self._new_model()
        with warnings.catch_warnings():
            # That the graph falls into pieces stands in `pieces_`.
            warnings.filterwarnings("ignore", "The number of connected components")
            warnings.simplefilter("ignore", SparseEfficiencyWarning)
            self.model_.fit(x)
        self.points_ = torch.as_tensor(self.model_.embedding_, dtype=torch.float32)
        self.pieces_ = 1
        if self.maps_new:
            graph = self.model_.nbrs_.kneighbors_graph()
            self.pieces_ = int(connected_components(graph, directed=False)[0])
        return self

    @property
    def maps_new(self) -> bool:
        """Whether images that were not fitted can be embedded."""
        return self.method != "t-SNE"

    @takes_numpy
    def transform(self, f: Tensor) -> Tensor:
        """Embed further sample features `[N, E]` as `[N, dim]`.

        Raises:
            ValueError: t-SNE, which embeds only what it is fitted to (`points_`).
        """
        if not self.maps_new:
            raise ValueError("t-SNE cannot embed images that it was not fitted to; use points_")
        _require_fitted(self, "points_")
        return torch.as_tensor(
            self.model_.transform(f.detach().cpu().double().numpy()), dtype=torch.float32
        )

    def _new_model(self) -> Any:
        manifold = optional("sklearn.manifold", self.method)
        if self.method == "t-SNE":
            return manifold.TSNE(
                n_components=self.dim,
                perplexity=self.neighbours,
                init="random",
                random_state=self.random_state,
            )
        # The sparse solvers start from random vectors and may not find the near-null space.
        kind = manifold.LocallyLinearEmbedding if self.method == "LLE" else manifold.Isomap
        return kind(n_components=self.dim, n_neighbors=self.neighbours, eigen_solver="dense")


def _require_fitted(baseline: Any, learned: str) -> None:
    if not hasattr(baseline, learned):
        raise NotFittedError(f"{type(baseline).__name__} has no {learned} yet: call fit")


@takes_numpy
def distance_from_mean(x: Tensor, fitted: Tensor) -> Tensor:
    """Distance `[N]` of points `[N, dim]` from the mean of the fitted points `[n, dim]`.

    Raises:
        ValueError: points of other widths.

    Examples:
        >>> from emergence_ext import method
        >>> method.distance_from_mean(torch.tensor([[3.0, 4.0]]), torch.zeros(5, 2))
        tensor([5.])
    """
    if x.ndim != 2 or fitted.ndim != 2 or x.shape[1] != fitted.shape[1]:
        raise ValueError(
            f"x and fitted must be [N, dim] and [n, dim], got {tuple(x.shape)} and "
            f"{tuple(fitted.shape)}"
        )
    return (x - fitted.mean(0)).norm(dim=1)
