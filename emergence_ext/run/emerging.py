"""The emergence of regional patterns: checkpoints x layers in one fixed frame (Sec. 3 and 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext.method import (
    FitStats,
    Frame,
    KnowledgePoints,
    PointCount,
    SampleProjection,
    entropy,
    knowledge_points,
    solve_kappa_p,
)
from emergence_ext.network import FeatureSet
from emergence_ext.run.fixed_frame import Fitted, FixedFrame, claim_folder
from emergence_ext.run.folder import FitsFolder
from emergence_ext.run.settle import settled, split_images
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import Saved, digest, once


@dataclass(frozen=True)
class Checkpoint:
    """One state of the network: its name, its epoch, and how to get its features of all images."""

    label: str
    epoch: int
    features: Callable[[], FeatureSet]


@dataclass(frozen=True, eq=False)
class Emergence(Saved):
    """Everything that was found, in one frame: `T` checkpoints, `L` layers, `N` images.

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
        region_images: indices of the images on which regions were learned, `[n]`.
        g: projected sample features, `[T, N, dim]`.
        z: logits, `[T, N, C]`.
        h: projected regional features, strengths normalised within a checkpoint,
            `[T, L, N, R, dim]`.
        w: importance of regions, `[T, L, n, R]`.
        scale: factor of each projection that makes layers comparable, `[T, L]`.
        raw_strength: `|F|` of the images of w, `[T, L, n, R]`.
        fits: statistics of every fit, by `kind/layer/checkpoint` (`samples/checkpoint`).
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
    g: Tensor
    z: Tensor
    h: Tensor
    w: Tensor
    scale: Tensor
    raw_strength: Tensor
    fits: dict[str, FitStats] = field(default_factory=dict)

    def points(self, checkpoint: int = -1, layer: int = -1) -> KnowledgePoints:
        """Knowledge points of all images in one layer of one checkpoint."""
        if checkpoint in (-1, len(self.labels) - 1):
            return self._last_points[layer]
        return knowledge_points(self.h[checkpoint, layer], self.frame, self.y, self.tau)

    @cached_property
    def _last_points(self) -> list[KnowledgePoints]:
        """Those of the finished network by layer, which everything asks for again."""
        return [knowledge_points(h, self.frame, self.y, self.tau) for h in self.h[-1]]

    @cached_property
    def counts(self) -> list[list[tuple[PointCount, PointCount]]]:
        """Knowledge points of held-out and of fitted images, by checkpoint and layer, `[T][L]`."""
        return [
            [
                (points.subset(self.held_out).count(), points.subset(~self.held_out).count())
                for points in (self.points(t, k) for k in range(len(self.layers)))
            ]
            for t in range(len(self.labels))
        ]

    @property
    def held_out_counts(self) -> list[list[PointCount]]:
        """Knowledge points of held-out images by checkpoint and layer, `[T][L]`."""
        return [[held_out for held_out, _ in row] for row in self.counts]

    def entropy(self, checkpoint: int = -1, temperature: float = 1.0) -> Tensor:
        """Entropy of the network's output for all images, `[N]`."""
        return entropy(self.z[checkpoint], temperature)

    def accuracy(self, checkpoint: int = -1) -> float:
        """Share of the analysed images that the network gets right."""
        return float((self.z[checkpoint].argmax(1) == self.y).float().mean())


def emergence(
    checkpoints: Sequence[Checkpoint],
    settings: Settings | None = None,
    *,
    kappa_p: float | None = None,
    folder: Path | None = None,
    backend: Backend = "auto",
) -> Emergence:
    """Learn the frame on the last checkpoint, hold it, and follow samples and regions through all.

    M, w and v begin anew in every checkpoint and stop equally early; Lambda may start from that of
    the checkpoint after it.

    Args:
        checkpoints: in the order of training; the last is the finished network.
        settings: of the fits.
        kappa_p: concentration of the similarity between images; solved on the last checkpoint when
            left out. A control takes that of the network it is compared with.
        folder: where every finished fit is kept; one that is there already and was made from the
            same is not made again, whatever backend made it.
        backend: what matches regions, see `backend.choose`; noted with every fit.

    Raises:
        ValueError: no checkpoints, two of one label, checkpoints whose layers or images differ, one
            category, features that cannot be fitted, a folder with fits of another study, or an
            unknown backend.
        RuntimeError: a backend that cannot compute here.
    """
    settings = settings or Settings()
    if not checkpoints:
        raise ValueError("checkpoints: none given; give at least the finished network's")
    labels = [checkpoint.label for checkpoint in checkpoints]
    if len(set(labels)) < len(labels):
        raise ValueError(f"checkpoints: labels must differ, got {labels}")
    last = checkpoints[-1].features()
    settings = settled(settings, last.y, last.categories, kappa_p=kappa_p)
    held_out, region_images = split_images(last.y, settings)
    fixed = _learn_frame(settings, last, held_out, region_images, kappa_p, folder, backend)
    bar = tqdm(total=len(checkpoints) * len(last.layers), desc="fits", unit="layer", disable=None)
    states: list[Fitted] = []
    with bar:
        for checkpoint in reversed(checkpoints):
            features = last if checkpoint is checkpoints[-1] else checkpoint.features()
            _require_like(last, checkpoint, features)
            neighbour = states[0] if states else None
            place = None if folder is None else FitsFolder(folder).state(checkpoint.label)
            if neighbour is None:
                samples = fixed.samples
            else:
                path = None if place is None else place.samples
                samples = fixed.refit(features, path)
            state = fixed.fit_regions(
                f"checkpoint {checkpoint.label!r}",
                features,
                samples,
                neighbour=neighbour,
                folder=place,
                bar=bar,
            )
            states.insert(0, state)
    return Emergence(
        frame=fixed.frame,
        labels=labels,
        epochs=[c.epoch for c in checkpoints],
        layers=list(last.layers),
        categories=last.categories,
        names=last.names,
        grid=last.grid,
        tau=settings.tau or 0,
        y=last.y,
        held_out=held_out,
        region_images=region_images,
        **stacked(labels, states),
    )


def stacked(labels: Sequence[str], states: Sequence[Fitted]) -> dict[str, Any]:
    """What an `Emergence` takes of the fits of its states: `g, z, h, w, scale, raw_strength, fits`.

    Args:
        labels: of the states.
        states: their fits, all of the same layers, images and regions.
    """
    return {
        "g": torch.stack([s.g for s in states]),
        "z": torch.stack([s.z for s in states]),
        "h": torch.stack([s.h for s in states]),
        "w": torch.stack([torch.stack([i.w_ for i in s.importance.values()]) for s in states]),
        "scale": torch.tensor([[fit.scale_ for fit in s.regional.values()] for s in states]),
        "raw_strength": torch.stack([s.raw_strength for s in states]),
        "fits": {
            "/".join(part for part in (kind, layer, label) if part): stats
            for label, state in zip(labels, states, strict=True)
            for kind, layer, stats in state.statistics()
        },
    }


def _learn_frame(
    settings: Settings,
    last: FeatureSet,
    held_out: Tensor,
    region_images: Tensor,
    kappa_p: float | None,
    folder: Path | None,
    backend: Backend,
) -> FixedFrame:
    """Learn the frame from the fitted images of the last checkpoint."""
    if folder is not None:
        first = FitsFolder(folder).frame
        claim_folder(folder, settings, list(last.layers), last.names, first=first)
    f, z = last.f[~held_out], last.z[~held_out]
    origins = {"features of the last checkpoint": last.digest()}
    made_from = {
        **origins,
        "held-out images": digest(held_out),
        **{name: str(getattr(settings, name)) for name in ("dim", "temperature", "random_state")},
    }
    # A kappa_p that is solved for follows from what is here, to the last bit on one machine alone.
    solved = {"kappa_p": "solved" if kappa_p is None else repr(kappa_p)}
    if kappa_p is None:
        kappa_p = solve_kappa_p(z, include_self=settings.include_self)
    projection = SampleProjection(
        dim=settings.dim, temperature=settings.temperature, random_state=settings.random_state
    )
    path = None if folder is None else FitsFolder(folder).frame
    samples = once(path, SampleProjection, lambda: projection.fit(f, z), made_from)
    frame = samples.frame_.with_kappa_p(kappa_p)
    origins |= solved
    return FixedFrame(settings, samples, frame, ~held_out, region_images, backend, origins)


def _require_like(last: FeatureSet, checkpoint: Checkpoint, features: FeatureSet) -> None:
    """Refuse a checkpoint that looked at other images or has other layers than the last one."""
    for what, here, there in (
        ("names", features.names, last.names),
        ("labels", features.y.tolist(), last.y.tolist()),
        ("categories", features.categories, last.categories),
        ("grid", features.grid, last.grid),
        ("layers", _widths(features), _widths(last)),
    ):
        if here != there:
            raise ValueError(
                f"checkpoint {checkpoint.label!r}: its {what} differ from the last "
                "checkpoint's. Extract all checkpoints of one network on the same images."
            )


def _widths(features: FeatureSet) -> list[tuple[str, int]]:
    """Name and number of channels of every layer, in order."""
    return [(name, F.shape[-1]) for name, F in features.layers.items()]
