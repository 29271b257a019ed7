"""The emergence of regional patterns: checkpoints x layers in one fixed frame (Sec. 3 and 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext import parallel
from emergence_ext.lookup import path_named, require_kind
from emergence_ext.method import SampleProjection
from emergence_ext.network import FeatureSet
from emergence_ext.run.estimators import (
    frame_of_regions,
    origins_of_choices,
    sample_projection,
    settled_kappa_p,
)
from emergence_ext.run.fixed_frame import Fitted, FixedFrame, claim_folder, origins_of_samples
from emergence_ext.run.folder import FitsFolder
from emergence_ext.run.results import Emergence
from emergence_ext.run.rows import Rows
from emergence_ext.run.settle import sample_images, settled, split_images
from emergence_ext.run.sources import InMemory, Source, Streamed
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import digest, once


@dataclass(frozen=True)
class Checkpoint:
    """One state of the network: its name, its epoch, and where its features of all images are.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> features = ee.FinishedRun.open("runs/demo").features()
        >>> run.Checkpoint("epoch 12", 12, lambda: features).features().z.shape
        torch.Size([48, 3])
    """

    label: str
    epoch: int
    features: Callable[[], FeatureSet | Streamed]

    def __post_init__(self) -> None:
        require_kind(label=(self.label, str))
        if not isinstance(self.epoch, Integral):
            raise TypeError(f"epoch: expected a whole number, got {self.epoch!r}")
        if not callable(self.features):
            raise TypeError(
                "features: expected a function that gives them, such as lambda: features, got "
                f"{type(self.features).__name__}"
            )

    def source(self) -> Source:
        """Where fits and results take features from."""
        features = self.features()
        if isinstance(features, FeatureSet):
            return InMemory(features)
        require_kind(features=(features, Streamed))
        return features


def emergence(
    checkpoints: Sequence[Checkpoint],
    settings: Settings | None = None,
    *,
    kappa_p: float | None = None,
    folder: Path | str | None = None,
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

    Examples:
        >>> import emergence_ext as ee
        >>> run = ee.FinishedRun.open("runs/demo")
        >>> features = ee.FeatureSet.load(run.inside.features(run.emergence.labels[-1]))
        >>> last = ee.run.Checkpoint("trained", 12, lambda: features)
        >>> quick = ee.run.Settings(importance_evals=3, regional_evals=3)
        >>> ee.emergence([last], quick).layers
        ['conv1_1', 'conv2_1']
    """
    settings = settings or Settings()
    require_kind(settings=(settings, Settings), checkpoints=(checkpoints, Sequence))
    for checkpoint in checkpoints:
        require_kind(checkpoints=(checkpoint, Checkpoint))
    folder = None if folder is None else path_named(folder, "folder")
    if not checkpoints:
        raise ValueError("checkpoints: none given; give at least the finished network's")
    labels = [checkpoint.label for checkpoint in checkpoints]
    if len(set(labels)) < len(labels):
        raise ValueError(f"checkpoints: labels must differ, got {labels}")
    last = checkpoints[-1].source()
    about = last.about
    settings = settled(settings, last.y, about.categories, kappa_p=kappa_p)
    held_out, region_images = split_images(last.y, settings)
    fixed = _learn_frame(settings, last, held_out, region_images, kappa_p, folder, backend)
    layers = len(checkpoints) * len(about.layers)
    bar = tqdm(total=layers, desc="fits", unit="layer", disable=parallel.no_bar())
    states: list[Fitted] = []
    with bar:
        for checkpoint in reversed(checkpoints):
            source = last if checkpoint is checkpoints[-1] else checkpoint.source()
            _require_like(last, checkpoint, source)
            neighbour = states[0] if states else None
            place = None if folder is None else FitsFolder(folder).state(checkpoint.label)
            if neighbour is None:
                samples = fixed.samples
            else:
                path = None if place is None else place.samples
                samples = fixed.refit(source, path)
            state = fixed.fit_regions(
                f"checkpoint {checkpoint.label!r}",
                source,
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
        layers=list(about.layers),
        categories=about.categories,
        names=last.names,
        grid=about.grid,
        tau=settings.tau or 0,
        y=last.y,
        held_out=held_out,
        region_images=region_images,
        mask=last.mask,
        **stacked(labels, states),
    )


def stacked(labels: Sequence[str], states: Sequence[Fitted]) -> dict[str, Any]:
    """What an `Emergence` takes of the fits of its states: their rows, w, scale and so on.

    Args:
        labels: of the states.
        states: their fits, all of the same layers, images and regions.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> from emergence_ext.run.rows import Rows
        >>> found = ee.FinishedRun.open("runs/demo")
        >>> e, fits = found.emergence, found.learned()
        >>> rows = Rows(e.samples(), e.logits(), e.h[-1])
        >>> fitted = run.Fitted(
        ...     fits.samples, fits.importance, fits.regional, rows, e.raw_strength[-1]
        ... )
        >>> run.stacked(["epoch 12"], [fitted])["w"].shape
        torch.Size([1, 2, 24, 64])
    """
    return {
        **_stacked_rows([s.rows for s in states]),
        "w": torch.stack([torch.stack([i.w_ for i in s.importance.values()]) for s in states]),
        "scale": torch.tensor([[fit.scale_ for fit in s.regional.values()] for s in states]),
        "raw_strength": torch.stack([s.raw_strength for s in states]),
        "fits": {
            "/".join(part for part in (kind, layer, label) if part): stats
            for label, state in zip(labels, states, strict=True)
            for kind, layer, stats in state.statistics()
        },
    }


def _stacked_rows(states: Sequence[Rows]) -> dict[str, Any]:
    """The rows of all images in all states, in memory or on disk."""
    stores = [rows.store for rows in states if rows.store is not None]
    if stores:
        projected = [store.digest() for store in stores]
        return {"g": None, "z": None, "h": None, "projected": projected, "stores": stores}
    return {name: torch.stack([getattr(rows, name) for rows in states]) for name in "gzh"}


def _learn_frame(
    settings: Settings,
    last: Source,
    held_out: Tensor,
    region_images: Tensor,
    kappa_p: float | None,
    folder: Path | None,
    backend: Backend,
) -> FixedFrame:
    """Learn the frame from the fitted images of the last checkpoint."""
    if folder is not None:
        first = FitsFolder(folder).frame
        claim_folder(folder, settings, list(last.about.layers), last.names, first=first)
    chosen = sample_images(held_out, last.y, settings)
    f, z, features = last.samples(chosen)
    origins = {"features of the last checkpoint": features}
    made_from = {
        **origins,
        **origins_of_samples(held_out, chosen),
        **{name: str(getattr(settings, name)) for name in ("dim", "temperature", "random_state")},
        **origins_of_choices(settings),
    }
    # A kappa_p that is solved for follows from what is here, to the last bit on one machine alone.
    given = settings.kappa_p if kappa_p is None else kappa_p
    solved = {"kappa_p": "solved" if given is None else repr(given)}
    if kappa_p is None:
        kappa_p = settled_kappa_p(settings, z)
    path = None if folder is None else FitsFolder(folder).frame
    samples = once(path, SampleProjection, lambda: sample_projection(settings).fit(f, z), made_from)
    frame = frame_of_regions(settings, samples.frame_, kappa_p)
    origins |= solved
    return FixedFrame(settings, samples, frame, ~held_out, region_images, backend, origins)


def _require_like(last: Source, checkpoint: Checkpoint, source: Source) -> None:
    """Refuse a checkpoint that looked at other images or has other layers than the last one."""
    for what, here, there in (
        ("names", source.names, last.names),
        ("labels", source.y.tolist(), last.y.tolist()),
        ("categories", source.about.categories, last.about.categories),
        ("grid", source.about.grid, last.about.grid),
        ("masks", digest(source.mask), digest(last.mask)),
        ("layers", _widths(source.about), _widths(last.about)),
    ):
        if here != there:
            raise ValueError(
                f"checkpoint {checkpoint.label!r}: its {what} differ from the last "
                "checkpoint's. Extract all checkpoints of one network on the same images."
            )


def _widths(features: FeatureSet) -> list[tuple[str, int]]:
    """Name and number of channels of every layer, in order."""
    return [(name, F.shape[-1]) for name, F in features.layers.items()]
