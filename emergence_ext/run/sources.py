"""Where the features of one state of a network come from: memory, or the network once more.

Of few images all features are kept. Of many they are kept of those that fits need, and the others
go through the network again when the fits are done, batch by batch: what stays of an image is a row
of g, z and the h of each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from emergence_ext import parallel
from emergence_ext.data import take
from emergence_ext.method import RegionalProjection, SampleProjection
from emergence_ext.network import CheckpointFile, FeatureSet, FeatureStream, load_weights
from emergence_ext.run.folder import RunFolder
from emergence_ext.run.rows import Rows, h_of
from emergence_ext.run.settle import kept_images, split_images
from emergence_ext.run.subject import Subject
from emergence_ext.settings import Settings
from emergence_ext.store import ShardStore, content_digest, differences, digest, exists
from emergence_ext.store import made_from as origins

LARGEST: Final = torch.finfo(torch.float16).max


class Source(Protocol):
    """What fits and results need of one state of the network, for `N` images."""

    @property
    def names(self) -> list[str]:
        """Of the images, `[N]`."""

    @property
    def y(self) -> Tensor:
        """Labels, `[N]`."""

    @property
    def mask(self) -> Tensor | None:
        """Which regions count, `[N, R]` bool; None: all."""

    @property
    def about(self) -> FeatureSet:
        """Features of some images, which say categories, grid, and the layers with their widths."""

    def samples(self, images: Tensor) -> tuple[Tensor, Tensor, str]:
        """Sample features `[n, E]` and logits `[n, C]` of fitted images, and a digest of both."""

    def regions(self, images: Tensor) -> tuple[FeatureSet, str]:
        """Features of the images that regions are learned on, and a digest of them."""

    def orientations(self, samples: SampleProjection, images: Tensor) -> Tensor:
        """The g of the images that regions are learned on, `[n, dim]`."""

    def project(
        self, samples: SampleProjection, regional: Mapping[str, RegionalProjection]
    ) -> Rows:
        """The g, z and h of all images."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """The features of all images.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> images = run.InMemory(ee.FinishedRun.open("runs/demo").features())
        >>> len(images.names), images.y.shape
        (48, torch.Size([48]))
    """

    about: FeatureSet

    @property
    def names(self) -> list[str]:
        """As of a `Source`."""
        return self.about.names

    @property
    def y(self) -> Tensor:
        """As of a `Source`."""
        return self.about.y

    @property
    def mask(self) -> Tensor | None:
        """As of a `Source`."""
        return self.about.mask

    @cached_property
    def _digest(self) -> str:
        return self.about.digest()

    def samples(self, images: Tensor) -> tuple[Tensor, Tensor, str]:
        """As of a `Source`."""
        return self.about.f[images], self.about.z[images], self._digest

    def regions(self, images: Tensor) -> tuple[FeatureSet, str]:
        """As of a `Source`."""
        return self.about.subset(images), self._digest

    def orientations(self, samples: SampleProjection, images: Tensor) -> Tensor:
        """As of a `Source`."""
        return samples.transform(self.about.f)[images]

    def project(
        self, samples: SampleProjection, regional: Mapping[str, RegionalProjection]
    ) -> Rows:
        """As of a `Source`."""
        layers = self.about.layers.items()
        h = torch.stack([regional[layer].transform(F) for layer, F in layers])
        return Rows(g=samples.transform(self.about.f), z=self.about.z, h=h)


@dataclass(frozen=True, eq=False)
class Streamed:
    """A network that many images go through, and what is kept of them in a run.

    Attributes:
        subject: network and images.
        state: of the network; None: as it is.
        folder: of the run.
        label: of the state.
        made_from: digests of what its features depend on.
        settings: of the fits.
    """

    subject: Subject
    state: CheckpointFile | None
    folder: RunFolder
    label: str
    made_from: Mapping[str, str]
    settings: Settings

    @property
    def names(self) -> list[str]:
        """As of a `Source`."""
        return list(self.subject.dataset.names)

    @cached_property
    def y(self) -> Tensor:
        """As of a `Source`."""
        return torch.tensor(self.subject.dataset.labels)

    @property
    def mask(self) -> Tensor | None:
        """As of a `Source`."""
        masks = self.subject.masks
        return None if masks is None else masks.on_grid(self.names, self.about.grid)

    @cached_property
    def about(self) -> FeatureSet:
        """As of a `Source`; of one image."""
        return self._kept(torch.tensor([0]))

    def samples(self, images: Tensor) -> tuple[Tensor, Tensor, str]:
        """As of a `Source`."""
        path = self.folder.sample_features(self.label)
        self._keep(path, images, (), lambda x: {name: x[name] for name in ("f", "z", "y")})
        found = FeatureSet.load_part(path, ())
        return found.f, found.z, content_digest(path)

    def regions(self, images: Tensor) -> tuple[FeatureSet, str]:
        """As of a `Source`."""
        found = self._kept(torch.searchsorted(self._kept_images, images))
        return found, content_digest(self.folder.region_features(self.label))

    def orientations(self, samples: SampleProjection, images: Tensor) -> Tensor:
        """As of a `Source`."""
        path = self.folder.region_features(self.label)
        place = torch.searchsorted(self._kept_images, images)
        return samples.transform(FeatureSet.load_part(path, (), place).f)

    def project(
        self, samples: SampleProjection, regional: Mapping[str, RegionalProjection]
    ) -> Rows:
        """As of a `Source`; a killed pass goes on with the next shard.

        Raises:
            ValueError: a strength that half precision does not hold.
        """
        fits = {layer: digest([fit.digest(), fit.scale_]) for layer, fit in regional.items()}
        made_from = {
            **self.made_from,
            "projection of samples": samples.digest(),
            **{f"projection of {layer}": x for layer, x in fits.items()},
        }

        def rows(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
            made = {"g": samples.transform(arrays["f"].cpu()), "z": arrays["z"].cpu()}
            for layer, fit in regional.items():
                made[h_of(layer)] = _half(fit.transform(arrays[f"layers/{layer}"].cpu()), layer)
            return made

        path = self.folder.projected(self.label)
        R, dim = self.about.grid[0] * self.about.grid[1], samples.dim
        row_bytes = 4 * (dim + len(self.about.categories)) + 2 * len(regional) * R * dim
        with self._stream(self.subject) as stream:
            stream.fill(path, made_from, rows, row_bytes)
        return Rows(store=ShardStore(path))

    @cached_property
    def _kept_images(self) -> Tensor:
        return kept_images(*split_images(self.y, self.settings), self.y)

    def _kept(self, rows: Tensor) -> FeatureSet:
        """Some of the images whose regional features are kept."""
        path, layers = self.folder.region_features(self.label), list(self.subject.layers)
        self._keep(path, self._kept_images, layers)
        return FeatureSet.load_part(path, layers, rows)

    def _keep(
        self,
        path: Path,
        images: Tensor,
        layers: Sequence[str],
        rows: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda arrays: arrays,
    ) -> None:
        """Keep features of some images, unless they are there."""
        made_from = {**self.made_from, "chosen images": digest(images)}
        if exists(path) and not differences(origins(path) or {}, made_from):
            return
        part = replace(self.subject, dataset=take(self.subject.dataset, images.tolist()))
        with self._stream(part) as stream:
            stream.fill(path, made_from, rows)
            about = stream.about
        parallel.first(lambda: FeatureSet.finish(path, layers, about, made_from))

    @contextmanager
    def _stream(self, subject: Subject) -> Iterator[FeatureStream]:
        """Hold the network in its state, ready for images; tried on the first of all, always."""
        example = self.subject.dataset[0][0]
        with in_state(subject.module, self.state), subject.stream(example=example) as stream:
            yield stream


@contextmanager
def in_state(module: nn.Module, state: CheckpointFile | None) -> Iterator[None]:
    """Within the block a network has the weights of a checkpoint; None: its own.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> subject = ee.FinishedRun.open("runs/demo").subject()
        >>> last = [x.clone() for x in subject.module.parameters()]
        >>> with run.in_state(subject.module, subject.checkpoints[0]):
        ...     print(torch.equal(next(subject.module.parameters()), last[0]))
        ...
        False
        >>> torch.equal(next(subject.module.parameters()), last[0])
        True
    """
    if state is None:
        yield
        return
    before = {name: x.clone() for name, x in module.state_dict().items()}
    load_weights(module, state.path)
    try:
        yield
    finally:
        module.load_state_dict(before)


def _half(h: Tensor, layer: str) -> Tensor:
    """Projected regions in half precision."""
    if len(h) and float(h.abs().max()) > LARGEST:
        raise ValueError(
            f"layer {layer!r}: a region has a strength above {LARGEST:g}, more than is kept of "
            "many images; raise keep_features (--keep-features) to keep the features of all"
        )
    return h.half()
