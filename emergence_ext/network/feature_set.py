"""The arrays that the method needs of a network and a set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emergence_ext.store import Saved, StoreError, load_arrays, save_rows


@dataclass(frozen=True, eq=False)
class FeatureSet(Saved):
    """What the method needs of a network and a set of images.

    Attributes:
        layers: layer name -> regional features F, `[N, R, K]`, float32, all on the same grid.
        grid: `(H, W)` of that grid, `R = H * W`, regions row-major.
        f: sample features, `[N, E]`, float32: the input of the last fully connected layer.
        z: logits, `[N, C]`, float32.
        y: labels, `[N]`, int64, in `[0, C)`.
        names: names of the images, `[N]`.
        categories: names of the categories, `[C]`.
        mask: which regions count, `[N, R]` bool, at least one of each image; None: all. What lies
            outside, such as padding or background, may hold anything, and is kept as 0.

    Raises:
        ValueError: shapes that do not agree, a label outside `[0, C)`, or an image without a
            region.

    Examples:
        >>> import emergence_ext as ee
        >>> features = ee.FeatureSet(
        ...     layers={"conv": torch.rand(4, 9, 8)}, grid=(3, 3), f=torch.rand(4, 5),
        ...     z=torch.rand(4, 2), y=torch.tensor([0, 1, 0, 1]), names=list("abcd"),
        ...     categories=["cat", "dog"],
        ... )
        >>> len(features), features.layers["conv"].shape
        (4, torch.Size([4, 9, 8]))
    """

    layers: dict[str, Tensor]
    grid: tuple[int, int]
    f: Tensor
    z: Tensor
    y: Tensor
    names: list[str]
    categories: list[str]
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        count, regions_count = len(self.names), self.grid[0] * self.grid[1]
        shapes: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        shapes |= {"f": (self.f, (count, -1)), "z": (self.z, (count, len(self.categories)))}
        shapes["y"] = (self.y, (count,))
        for name, array in self.layers.items():
            shapes[f"layers[{name!r}]"] = (array, (count, regions_count, -1))
        if self.mask is not None:
            shapes["mask"] = (self.mask, (count, regions_count))
        for name, (array, expected) in shapes.items():
            pairs = zip(array.shape, expected, strict=False)
            if array.ndim != len(expected) or any(e not in (-1, got) for got, e in pairs):
                raise ValueError(
                    f"FeatureSet: {name} has shape {list(array.shape)}, expected {list(expected)} "
                    f"({count} names, grid {self.grid}, {len(self.categories)} categories)"
                )
        if count and not 0 <= int(self.y.min()) <= int(self.y.max()) < len(self.categories):
            raise ValueError(
                f"FeatureSet: y goes from {int(self.y.min())} to {int(self.y.max())}, expected "
                f"labels in [0, {len(self.categories)})"
            )
        if self.mask is not None:
            self._clear(self.mask)

    def _clear(self, mask: Tensor) -> None:
        """Have nothing where no region counts: no strength, and no NaN that reaches others."""
        if mask.dtype != torch.bool:
            raise ValueError(f"FeatureSet: mask is {mask.dtype}, expected torch.bool")
        none = (~mask).all(1).nonzero().flatten().tolist()
        if none:
            raise ValueError(
                f"FeatureSet: mask has no region of image {self.names[none[0]]!r}; leave it out"
            )
        for name, F in self.layers.items():
            if bool((F[~mask] != 0).any()):
                cleared = F.masked_fill(~mask[..., None], 0)
                object.__setattr__(self, "layers", {**self.layers, name: cleared})

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays, settings = super()._state()
        if self.mask is None:  # as sets were written, and digested, before there were masks
            del settings["mask"]
        return arrays, settings

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.names)

    def subset(self, indices: Sequence[int] | Tensor) -> FeatureSet:
        """Return the samples at `indices`, in that order.

        Raises:
            IndexError: an index outside `[0, N)`.
        """
        try:
            chosen = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError):
            chosen = torch.zeros(1)
        if chosen.ndim != 1 or (chosen.numel() and chosen.dtype not in (torch.int64, torch.int32)):
            raise TypeError(f"indices: expected numbers of samples, [n], got {indices!r:.80}")
        chosen = chosen.long()
        if bool(((chosen < -len(self)) | (chosen >= len(self))).any()):
            raise IndexError(f"indices: expected 0 to {len(self) - 1}, got {int(chosen.max())}")
        return FeatureSet(
            layers={name: array[chosen] for name, array in self.layers.items()},
            grid=self.grid,
            f=self.f[chosen],
            z=self.z[chosen],
            y=self.y[chosen],
            names=[self.names[index] for index in chosen.tolist()],
            categories=self.categories,
            mask=None if self.mask is None else self.mask[chosen],
        )

    def select(self, layers: Sequence[str]) -> FeatureSet:
        """Return the same samples with only the named layers, in that order.

        Raises:
            ValueError: a layer that is not there.
        """
        layers = [layers] if isinstance(layers, str) else layers
        absent = [name for name in layers if name not in self.layers]
        if absent:
            raise ValueError(f"layers: no {absent}, there are {list(self.layers)}")
        return replace(self, layers={name: self.layers[name] for name in layers})

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Tensor], about: Mapping[str, Any]) -> FeatureSet:
        """Put arrays together, named as they are saved, and what else there is to say."""
        layers = {
            k.removeprefix("layers/"): x for k, x in arrays.items() if k.startswith("layers/")
        }
        f, z, y, mask = arrays["f"], arrays["z"], arrays["y"], arrays.get("mask")
        return cls(layers=layers, f=f, z=z, y=y, mask=mask, **about)

    @classmethod
    def finish(
        cls,
        path: Path | str,
        layers: Sequence[str],
        about: Mapping[str, Any],
        made_from: Mapping[str, str],
    ) -> None:
        """Make the rows in the shards at `path` a saved result.

        Args:
            path: without a suffix.
            layers: names, in order.
            about: the fields that are no arrays.
            made_from: digest of each thing that it depends on, by a name that an error can say.
        """
        save_rows(path, {"layers": list(layers), **about}, kind=cls.__name__, made_from=made_from)

    @classmethod
    def load_part(
        cls, path: Path | str, layers: Sequence[str], rows: Sequence[int] | Tensor | None = None
    ) -> FeatureSet:
        """Read some layers, and some samples in the order of `rows`, of what `save` wrote.

        Of what is kept in shards nothing else is read.

        Raises:
            StoreError: nothing there, damaged, of another class, or written by a newer version.
            ValueError: a layer that is not there.
            IndexError: a sample that is not there.
        """
        index = None if rows is None else torch.as_tensor(rows, dtype=torch.int64)
        wanted = [*(f"layers/{name}" for name in layers), "f", "z", "y"]
        arrays, settings = load_arrays(
            path, kind=cls.__name__, names=wanted, optional=["mask"], rows=index
        )
        try:
            names = settings["names"]
            about = {
                "grid": tuple(settings["grid"]),
                "names": names if index is None else [names[n] for n in index.tolist()],
                "categories": settings["categories"],
            }
            return cls.of_arrays(arrays, about)
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"path: {path} is intact but does not make a {cls.__name__} ({error!r}). Compute "
                "it again."
            ) from error
