"""What a run found of its images, checkpoints and layers; in memory, or of many images on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext.method import (
    FitStats,
    Frame,
    KnowledgePoints,
    PointCount,
    entropy,
    knowledge_points,
    point_count,
)
from emergence_ext.run.rows import Images, h_of, read_rows
from emergence_ext.run.settle import evenly, kept_images
from emergence_ext.store import Saved, ShardStore

BLOCK: Final = 4096
"""Images whose rows are read from disk at once."""

SAMPLED: Final = 2000
"""Images that figures and studies look at, beside those of the fits, of a run of many."""


@dataclass(frozen=True, eq=False)
class Emergence(Saved):
    """Everything that was found, in one frame: `T` checkpoints, `L` layers, `N` images.

    What there is of every image is in memory, or, of many images, in shards on disk: `samples`,
    `logits` and `regions` read either, and nothing else should.

    Attributes:
        frame: directions and priors of the categories, learned on the last checkpoint.
        labels, epochs: of the checkpoints, `[T]`.
        layers: names, `[L]`.
        categories: names, `[C]`.
        names: of the images, `[N]`.
        grid: `(H, W)` of the regions.
        tau: threshold of knowledge points.
        y: true categories, `[N]`.
        held_out: images that no fit saw, `[N]` bool.
        region_images: indices of the images on which regions were learned, `[n]`, ascending.
        g: projected sample features, `[T, N, dim]`; None where rows are on disk.
        z: logits, `[T, N, C]`; None where rows are on disk.
        h: projected regional features, strengths normalised within a checkpoint,
            `[T, L, N, R, dim]`; None where rows are on disk.
        w: importance of regions, `[T, L, n, R]`.
        scale: factor of each projection that makes layers comparable, `[T, L]`.
        raw_strength: `|F|` of the images of w, `[T, L, n, R]`.
        fits: statistics of every fit, by `kind/layer/checkpoint` (`samples/checkpoint`).
        projected: digest of the rows on disk of each checkpoint, `[T]`; empty where they are in
            memory.
        stores: these rows, `[T]`; who loads results opens them.
        mask: which regions count, `[N, R]` bool; None: all. The others have h = 0 and w = 0.

    Examples:
        >>> import emergence_ext as ee
        >>> found = ee.FinishedRun.open("runs/demo").emergence
        >>> found.samples().shape, found.regions(layer=0).shape, found.accuracy()
        (torch.Size([48, 3]), torch.Size([48, 64, 3]), 1.0)
    """

    frame: Frame
    labels: list[str]
    epochs: list[int]
    layers: list[str]
    categories: list[str]
    names: list[str]
    grid: tuple[int, int]
    tau: float
    y: Tensor
    held_out: Tensor
    region_images: Tensor
    g: Tensor | None
    z: Tensor | None
    h: Tensor | None
    w: Tensor
    scale: Tensor
    raw_strength: Tensor
    fits: dict[str, FitStats] = field(default_factory=dict)
    projected: list[str] = field(default_factory=list)
    stores: Sequence[ShardStore] = ()
    mask: Tensor | None = None

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays, settings = super()._state()
        del settings["stores"]
        if not self.projected:  # results in memory are written as they always were
            del settings["projected"]
        if self.mask is None:
            del settings["mask"]
        return arrays, settings

    def samples(self, checkpoint: int = -1, images: Images = None) -> Tensor:
        """Projected sample features g of some images, `[n, dim]`, float32.

        Args:
            checkpoint: its place.
            images: indices, mask or slice; None: all.
        """
        checkpoint = place_of("checkpoint", checkpoint, self.labels)
        if self.g is not None:
            return self.g[checkpoint] if images is None else self.g[checkpoint][images]
        return read_rows(self.stores[checkpoint], "g", images)

    def logits(self, checkpoint: int = -1, images: Images = None) -> Tensor:
        """Logits z of some images, `[n, C]`, float32; as `samples`."""
        checkpoint = place_of("checkpoint", checkpoint, self.labels)
        if self.z is not None:
            return self.z[checkpoint] if images is None else self.z[checkpoint][images]
        return read_rows(self.stores[checkpoint], "z", images)

    def regions(self, checkpoint: int = -1, layer: int = -1, images: Images = None) -> Tensor:
        """Projected regional features h of some images in a layer, `[n, R, dim]`, float32.

        Args:
            checkpoint, layer: their places.
            images: indices, mask or slice; None: all.
        """
        checkpoint = place_of("checkpoint", checkpoint, self.labels)
        layer = place_of("layer", layer, self.layers)
        if self.h is not None:
            h = self.h[checkpoint, layer]
            return h if images is None else h[images]
        return read_rows(self.stores[checkpoint], h_of(self.layers[layer]), images)

    @property
    def weighed(self) -> Tensor | None:
        """Which regions of the images of w count, `[n, R]` bool; None: all."""
        return None if self.mask is None else self.mask[self.region_images]

    def counted(self, h: Tensor, y: Tensor, images: Images = None) -> tuple[Tensor, Tensor]:
        """Regions that count, as if each was an image of its own.

        Args:
            h: of some images, `[T, n, R, dim]`.
            y: categories of these, `[n]`.
            images: which they are; None: all.

        Returns:
            `[T, m, 1, dim]` and `[m]`; what was given where all regions count.
        """
        if self.mask is None:
            return h, y
        mask = self.mask if images is None else self.mask[images]
        return h[:, mask].unsqueeze(2), y[mask.nonzero()[:, 0]]

    def require_every_region(self, what: str) -> None:
        """Refuse results in which some regions do not count.

        Raises:
            ValueError: such results; says what cannot be done with them.
        """
        if self.mask is not None:
            raise ValueError(
                f"run: {what} looks at all regions, and in this run only those on the objects "
                "count (masks or boxes); make a run without these for it"
            )

    def points(
        self, checkpoint: int = -1, layer: int = -1, images: Tensor | None = None
    ) -> KnowledgePoints:
        """Knowledge points of some images, `[n]` by index or mask (None: all), in one layer."""
        checkpoint = place_of("checkpoint", checkpoint, self.labels)
        layer = place_of("layer", layer, self.layers)
        if self.h is None:
            y = self.y if images is None else self.y[images]
            h = self.regions(checkpoint, layer, images)
            return knowledge_points(h, self.frame, y, self.tau)
        if checkpoint in (-1, len(self.labels) - 1):
            points = self._last_points[layer]
        else:
            points = knowledge_points(self.h[checkpoint, layer], self.frame, self.y, self.tau)
        return points if images is None else points.subset(images)

    @cached_property
    def _last_points(self) -> list[KnowledgePoints]:
        """Those of the finished network by layer, which everything asks for again."""
        every = range(len(self.layers))
        return [knowledge_points(self.regions(-1, k), self.frame, self.y, self.tau) for k in every]

    def points_per_image(self, checkpoint: int = -1, layer: int = -1) -> Tensor:
        """Numbers of knowledge points, reliable and shared ones of every image, `[3, N]`."""
        if self.h is not None:
            return self.points(checkpoint, layer).per_image()
        blocks = (torch.arange(x.start, x.stop) for x in self.blocks())
        return torch.cat([self.points(checkpoint, layer, x).per_image() for x in blocks], dim=1)

    def reliable(self, checkpoint: int = -1, layer: int = -1) -> Tensor:
        """Where regions of all images are reliable knowledge points, `[N, R]`."""
        if self.h is not None:
            return self.points(checkpoint, layer).reliable
        blocks = (torch.arange(x.start, x.stop) for x in self.blocks())
        return torch.cat([self.points(checkpoint, layer, x).reliable for x in blocks])

    @cached_property
    def counts(self) -> list[list[tuple[PointCount, PointCount]]]:
        """Knowledge points of held-out and of fitted images, by checkpoint and layer, `[T][L]`."""

        def both(per_image: Tensor) -> tuple[PointCount, PointCount]:
            held_out = self.held_out
            return point_count(per_image[:, held_out]), point_count(per_image[:, ~held_out])

        return [
            [both(self.points_per_image(t, k)) for k in range(len(self.layers))]
            for t in range(len(self.labels))
        ]

    @property
    def held_out_counts(self) -> list[list[PointCount]]:
        """Knowledge points of held-out images by checkpoint and layer, `[T][L]`."""
        return [[held_out for held_out, _ in row] for row in self.counts]

    def entropy(self, checkpoint: int = -1, temperature: float = 1.0) -> Tensor:
        """Entropy of the network's output for all images, `[N]`."""
        return self._of_logits(checkpoint, lambda z: entropy(z, temperature))

    def predicted(self, checkpoint: int = -1) -> Tensor:
        """Category that the network says of every image, `[N]`."""
        return self._of_logits(checkpoint, lambda z: z.argmax(1))

    def largest_logit(self, checkpoint: int = -1) -> float:
        """The largest logit of any image and category, by size."""
        return float(self._of_logits(checkpoint, lambda z: z.abs().amax(1)).max())

    def accuracy(self, checkpoint: int = -1) -> float:
        """Share of the analysed images that the network gets right."""
        return float((self.predicted(checkpoint) == self.y).float().mean())

    def blocks(self) -> Iterator[slice]:
        """All images in parts of which what there is on disk is small."""
        N = len(self.names)
        return (slice(start, min(start + BLOCK, N)) for start in range(0, N, BLOCK))

    def _of_logits(self, checkpoint: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """What is made of the logits of each image, `[N]`."""
        checkpoint = place_of("checkpoint", checkpoint, self.labels)
        if self.z is not None:
            return make(self.z[checkpoint])
        return torch.cat([make(self.logits(checkpoint, block)) for block in self.blocks()])

    @cached_property
    def sample(self) -> Emergence:
        """Some of the images in memory, all where they are few: what figures and studies look at.

        Those whose features are kept, and `SAMPLED` of the others, held-out ones and fitted ones
        in their proportion, balanced over categories.
        """
        return self.part(self.sampled) if self.stores else self

    @cached_property
    def sampled(self) -> Tensor:
        """Indices of the images of `sample`, `[m]`, ascending."""
        N = len(self.names)
        if not self.stores:
            return torch.arange(N)
        chosen = torch.zeros(N, dtype=torch.bool)
        chosen[kept_images(self.held_out, self.region_images, self.y)] = True
        others = (~chosen).nonzero().flatten()
        # Sorted by category, and within each held-out ones first: even distances take of all.
        order = others[torch.argsort(2 * self.y[others] + ~self.held_out[others], stable=True)]
        chosen[evenly(order, min(SAMPLED, len(order)))] = True
        return chosen.nonzero().flatten()

    def part(self, images: Tensor) -> Emergence:
        """The same of some images alone, in memory.

        Args:
            images: indices, `[m]`, ascending; those that regions were learned on are among them.
        """
        images = torch.as_tensor(images)
        T, L = range(len(self.labels)), range(len(self.layers))
        h = [torch.stack([self.regions(t, k, images) for k in L]) for t in T]
        return replace(
            self,
            names=[self.names[i] for i in images.tolist()],
            y=self.y[images],
            held_out=self.held_out[images],
            region_images=torch.searchsorted(images, self.region_images),
            g=torch.stack([self.samples(t, images) for t in T]),
            z=torch.stack([self.logits(t, images) for t in T]),
            h=torch.stack(h),
            mask=None if self.mask is None else self.mask[images],
            projected=[],
            stores=(),
        )


def place_of(argument: str, given: int, names: Sequence[str]) -> int:
    """The place of a checkpoint or a layer; below 0 they are counted from the last.

    Raises:
        TypeError: no whole number, such as a name.
        IndexError: there is none at that place.
    """
    if not isinstance(given, Integral):
        known = isinstance(given, str) and given in names
        place = f"; {given!r} is {names.index(given)}" if known else ""
        raise TypeError(f"{argument}: expected its place in {list(names)}, got {given!r}{place}")
    if not -len(names) <= given < len(names):
        raise IndexError(f"{argument}: expected -{len(names)} to {len(names) - 1}, got {given}")
    return int(given)
