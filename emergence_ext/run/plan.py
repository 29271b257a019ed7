"""What a run will take, before it is made: which images are kept, and the bytes that it writes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from emergence_ext.lookup import path_named
from emergence_ext.run.results import SAMPLED
from emergence_ext.run.settle import kept_images, sample_images, split_images
from emergence_ext.run.subject import Subject
from emergence_ext.run.thumbnails import thumbnail_size
from emergence_ext.settings import Settings


@dataclass(frozen=True)
class Sizes:
    """What the numbers of a run follow from.

    Attributes:
        images, checkpoints, categories, regions, dim: `N`, `T`, `C`, `R`, and the projected width.
        layers: name -> channels.
        width: of the sample feature.
        samples: images that M is learned on.
        region_images: that w, v and Lambda are learned on.
        kept: images whose regional features are kept.
        shown: thumbnails.
        pixels: bytes of a thumbnail.
    """

    images: int
    checkpoints: int
    categories: int
    regions: int
    dim: int
    layers: dict[str, int]
    width: int
    samples: int
    region_images: int
    kept: int
    shown: int
    pixels: int

    @property
    def streamed(self) -> bool:
        """Whether only the features are kept that fits need."""
        return self.kept < self.images

    @property
    def feature_bytes(self) -> int:
        """Of all features of one image."""
        return 4 * (self.regions * sum(self.layers.values()) + self.width + self.categories) + 8

    @property
    def row_bytes(self) -> int:
        """Of what a run found of one image."""
        h = len(self.layers) * self.regions * self.dim
        return 4 * (self.dim + self.categories) + (2 if self.streamed else 4) * h

    def disk(self) -> dict[str, int]:
        """Bytes that each part of a run writes; tables, figures and page aside."""
        T, n = self.checkpoints, self.region_images
        samples = 4 * (self.width + self.categories) + 8 if self.streamed else 0
        fits = sum(4 * n * (self.regions + K) + 8 * self.dim * K for K in self.layers.values())
        return {
            "features": T * (self.kept * self.feature_bytes + self.samples * samples),
            "rows of all images": T * self.images * self.row_bytes,
            "fits": T * (fits + 8 * len(self.layers) * n * self.regions),
            "thumbnails": self.shown * self.pixels,
        }

    def require_dim(self) -> None:
        """Refuse a projected width that a layer, or the sample feature, does not have.

        Raises:
            ValueError: names it.
        """
        widths = {"the sample feature": self.width}
        widths |= {f"layer {name!r}": K for name, K in self.layers.items()}
        narrow = min(widths, key=widths.__getitem__)
        if self.dim > widths[narrow]:
            raise ValueError(
                f"dim = {self.dim} is more than the {widths[narrow]} channels of {narrow}; give a "
                "smaller dim (--dim)"
            )

    def require_space(self, folder: Path) -> None:
        """Refuse a run that does not fit on its disk, less what is there of it.

        Args:
            folder: of the run; need not be there.

        Raises:
            OSError: it does not fit; says what would.
        """
        needed = sum(self.disk().values())
        there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        free = free_space(folder)
        if needed - there <= free:
            return
        cure = (
            "a smaller keep_features (--keep-features), fewer checkpoints"
            if not self.streamed
            else "fewer sample_images or region_images (--sample-images, --region-images), "
            "checkpoints"
        )
        raise OSError(
            f"out: this run writes {needed / 2**20:,.0f} MiB, and {folder} has {free / 2**20:,.0f} "
            f"MiB free; give {cure} or images (--per-class), or another directory"
        )

    @classmethod
    def of(cls, subject: Subject, settings: Settings) -> Sizes:
        """Find them by the features of one image.

        Args:
            subject: network and images.
            settings: of the fits.
        """
        with subject.stream() as stream:
            (_, arrays), *_ = stream.batches([range(1)])
            grid = stream.grid
        layers = {n: F for n, F in arrays.items() if n.startswith("layers/")}
        N = len(subject.dataset)
        held_out, chosen = split_images(y := torch.tensor(subject.dataset.labels), settings)
        each = sum(4 * array[0].numel() for array in arrays.values())
        kept = kept_images(held_out, chosen, y)
        many = each * N > settings.keep_features * 2**20 and len(kept) < N
        return cls(
            images=N,
            checkpoints=max(1, len(subject.checkpoints)),
            categories=arrays["z"].shape[1],
            regions=grid[0] * grid[1],
            dim=settings.dim,
            layers={name.removeprefix("layers/"): F.shape[-1] for name, F in layers.items()},
            width=arrays["f"].shape[1],
            samples=len(sample_images(held_out, y, settings)),
            region_images=len(chosen),
            kept=len(kept) if many else N,
            shown=min(N, len(kept) + SAMPLED) if many else N,
            pixels=thumbnail_size(subject.dataset[0][0]),
        )


def free_space(folder: Path | str) -> int:
    """Bytes that are free on the disk of a folder, which need not be there.

    Examples:
        >>> from pathlib import Path
        >>> from emergence_ext import run
        >>> run.free_space(Path("not/there/yet")) > 0
        True
    """
    folder = path_named(folder, "folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free
