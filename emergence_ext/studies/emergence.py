"""The emergence of regional patterns: checkpoints x layers in one fixed frame (Sec. 3 and 4.1)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext.correlation import entropy
from emergence_ext.features import FeatureSet
from emergence_ext.fit import FitStats
from emergence_ext.frame import Frame
from emergence_ext.importance import RegionImportance
from emergence_ext.knowledge import KnowledgePoints, check_tau, knowledge_points
from emergence_ext.regional import RegionalProjection, normalise_strengths
from emergence_ext.sample import SampleProjection
from emergence_ext.similarity import image_similarity, solve_kappa_p
from emergence_ext.store import Saved, exists, once, write_file


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
    region_images: int = 200
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
        return knowledge_points(self.h[checkpoint, layer], self.frame, self.y, self.tau)

    def entropy(self, checkpoint: int = -1, temperature: float = 1.0) -> Tensor:
        """Entropy of the network's output for all images, `[N]`."""
        return entropy(self.z[checkpoint], temperature)

    def accuracy(self, checkpoint: int = -1) -> float:
        """Share of the analysed images that the network gets right."""
        return float((self.z[checkpoint].argmax(1) == self.y).float().mean())

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        frame_arrays, frame_settings = self.frame._state()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        settings = {name: getattr(self, name) for name in _LISTS}
        settings["grid"] = list(self.grid)
        settings["frame"] = frame_settings
        settings["fits"] = {name: stats.settings() for name, stats in self.fits.items()}
        return {**arrays, **{f"frame/{name}": x for name, x in frame_arrays.items()}}, settings

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        frame_arrays = {name[6:]: x for name, x in arrays.items() if name.startswith("frame/")}
        values: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        values |= {name: settings[name] for name in _LISTS}
        return cls(
            frame=Frame._from_state(frame_arrays, settings["frame"]),
            grid=(settings["grid"][0], settings["grid"][1]),
            fits={name: FitStats.from_settings(stats) for name, stats in settings["fits"].items()},
            **values,
        )


_ARRAYS = ("y", "held_out", "region_images", "g", "z", "h", "w", "scale", "raw_strength")
_LISTS = ("labels", "epochs", "layers", "categories", "names", "tau")


def emergence(
    checkpoints: Sequence[Checkpoint],
    settings: Settings | None = None,
    *,
    folder: Path | None = None,
    backend: str = "auto",
) -> Emergence:
    """Learn the frame on the last checkpoint, hold it, and follow samples and regions through all.

    From the last checkpoint to the first, every fit starts from its neighbour's.

    Args:
        checkpoints: in the order of training; the last is the finished network.
        settings: of the fits.
        folder: where every finished fit is kept; one that is there already is not made again,
            whatever backend made it.
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
    if len(last.categories) < 2:
        raise ValueError("categories: one category leaves nothing to tell apart; give two or more")
    check_tau(settings.tau, len(last.categories))
    held_out, region_images = split_images(last.y, settings)
    study = _Study(settings, last, held_out, region_images, folder, backend)
    bar = tqdm(total=len(checkpoints) * len(last.layers), desc="fits", unit="layer", disable=None)
    states: list[_State] = []
    with bar:
        for checkpoint in reversed(checkpoints):
            features = last if checkpoint is checkpoints[-1] else checkpoint.features()
            study.require_like_last(checkpoint, features)
            states.insert(0, study.fit(checkpoint, features, states[0] if states else None, bar))
    return Emergence(
        frame=study.frame,
        labels=labels,
        epochs=[c.epoch for c in checkpoints],
        layers=list(last.layers),
        categories=last.categories,
        names=last.names,
        grid=last.grid,
        tau=settings.tau,
        y=last.y,
        held_out=held_out,
        region_images=region_images,
        g=torch.stack([s.g for s in states]),
        z=torch.stack([s.z for s in states]),
        h=torch.stack([s.h for s in states]),
        w=torch.stack([torch.stack([i.w_ for i in s.importance.values()]) for s in states]),
        scale=torch.tensor([[fit.scale_ for fit in s.regional.values()] for s in states]),
        raw_strength=torch.stack([s.raw_strength for s in states]),
        fits={
            "/".join(part for part in (kind, layer, checkpoint.label) if part): stats
            for checkpoint, state in zip(checkpoints, states, strict=True)
            for kind, layer, stats in state.statistics()
        },
    )


def split_images(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Choose images, balanced over categories.

    Args:
        y: labels, `[N]`.
        settings: of the fits.

    Returns:
        Which images are held out, `[N]` bool, and the indices of those that regions are learned on.

    Raises:
        ValueError: so few images that none are left to fit or to hold out.
    """
    generator = torch.Generator().manual_seed(settings.random_state)
    shuffled = torch.randperm(len(y), generator=generator)
    by_category = shuffled[torch.argsort(y[shuffled], stable=True)]
    held_out = torch.zeros(len(y), dtype=torch.bool)
    held_out[_evenly(by_category, round(settings.held_out * len(y)))] = True
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"held_out = {settings.held_out} of {len(y)} images leaves none to fit or none to "
            "report on; give more images"
        )
    fitted = (~held_out).nonzero().flatten()
    if len(fitted) > settings.region_images:
        by_category = fitted[torch.argsort(y[fitted], stable=True)]
        fitted = _evenly(by_category, settings.region_images).sort().values
    return held_out, fitted


def _evenly(order: Tensor, count: int) -> Tensor:
    """`count` elements of `order`, at even distances: of sorted things as many of every kind."""
    return order[torch.arange(count) * len(order) // max(count, 1)]


@dataclass
class _State:
    """The fits of one checkpoint, and what they make of its features."""

    samples: SampleProjection
    importance: dict[str, RegionImportance]
    regional: dict[str, RegionalProjection]
    g: Tensor  # [N, dim]
    z: Tensor  # [N, C]
    h: Tensor  # [L, N, R, dim]
    raw_strength: Tensor  # [L, n, R]

    def statistics(self) -> list[tuple[str, str, FitStats]]:
        rows = [("samples", "", self.samples.stats_)]
        rows += [("importance", name, fit.stats_) for name, fit in self.importance.items()]
        rows += [("regional", name, fit.stats_) for name, fit in self.regional.items()]
        return rows


class _Study:
    """What all checkpoints have in common: settings, split, frame, the folder of finished fits."""

    def __init__(
        self,
        settings: Settings,
        last: FeatureSet,
        held_out: Tensor,
        region_images: Tensor,
        folder: Path | None,
        backend: str,
    ) -> None:
        self.settings, self.last, self.folder, self.backend = settings, last, folder, backend
        self._claim_folder()
        self.fitted, self.region_images = ~held_out, region_images
        kappa_p = solve_kappa_p(last.z[self.fitted], include_self=settings.include_self)
        projection = SampleProjection(
            dim=settings.dim, temperature=settings.temperature, random_state=settings.random_state
        )
        f, z = last.f[self.fitted], last.z[self.fitted]
        self.samples = once(self._path("frame"), SampleProjection, lambda: projection.fit(f, z))
        self.frame = self.samples.frame_.with_kappa_p(kappa_p)

    def _path(self, *names: str) -> Path | None:
        return None if self.folder is None else self.folder.joinpath(*names)

    def _claim_folder(self) -> None:
        """Note in the folder what its fits are of; refuse one that holds those of another study."""
        if self.folder is None:
            return
        names = zlib.crc32(json.dumps(self.last.names).encode())
        here = {**asdict(self.settings), "layers": list(self.last.layers), "names": names}
        path = self.folder / "study.json"
        there = json.loads(path.read_bytes()) if path.is_file() else here
        different = [name for name in here if there.get(name) != here[name]]
        if different and exists(self.folder / "frame"):
            raise ValueError(
                f"folder: {self.folder} holds fits with another {', '.join(different)}. Choose "
                "another folder, or remove that one."
            )
        write_file(path, json.dumps(here, indent=1).encode())

    def fit(
        self, checkpoint: Checkpoint, features: FeatureSet, neighbour: _State | None, bar: tqdm
    ) -> _State:
        """Fit M, and w, v and Lambda of every layer, of one checkpoint in the frame."""
        settings, chosen, name = self.settings, self.region_images, file_name(checkpoint.label)
        samples = self.samples
        if neighbour is not None:
            f, z, init = features.f[self.fitted], features.z[self.fitted], neighbour.samples
            path = self._path(name, "samples")
            samples = once(path, SampleProjection, lambda: self.samples.refit(f, z, init))
        g = samples.transform(features.f)
        assert self.frame.kappa_p is not None
        P = image_similarity(
            features.z[chosen], self.frame.kappa_p, include_self=settings.include_self
        )
        importance: dict[str, RegionImportance] = {}
        regional: dict[str, RegionalProjection] = {}
        for layer, all_regions in features.layers.items():
            bar.set_postfix_str(f"{checkpoint.label}, {layer}")
            F, file = all_regions[chosen], file_name(layer)

            def fit_importance(F: Tensor = F, layer: str = layer) -> RegionImportance:
                fit = RegionImportance(
                    include_self=settings.include_self,
                    max_evals=settings.importance_evals,
                    backend=self.backend,
                )
                init = None if neighbour is None else neighbour.importance[layer]
                return fit.fit(F, P, init=init)

            def fit_regional(F: Tensor = F, layer: str = layer) -> RegionalProjection:
                fit = RegionalProjection(
                    self.frame,
                    settings.alpha,
                    settings.include_self,
                    max_evals=settings.regional_evals,
                    backend=self.backend,
                )
                init = None if neighbour is None else neighbour.regional[layer]
                return fit.fit(F, importance[layer].w_, P, g[chosen], init=init)

            with _named(f"layer {layer!r} of checkpoint {checkpoint.label!r}"):
                path = self._path(name, f"{file}.importance")
                importance[layer] = once(path, RegionImportance, fit_importance)
                path = self._path(name, f"{file}.regional")
                regional[layer] = once(path, RegionalProjection, fit_regional)
            bar.update()
        normalise_strengths(regional, {layer: F[chosen] for layer, F in features.layers.items()})
        return _State(
            samples, importance, regional, g, features.z,
            h=torch.stack([regional[layer].transform(F) for layer, F in features.layers.items()]),
            raw_strength=torch.stack([F[chosen].norm(dim=-1) for F in features.layers.values()]),
        )  # fmt: skip

    def require_like_last(self, checkpoint: Checkpoint, features: FeatureSet) -> None:
        """Refuse a checkpoint that looked at other images or has other layers than the last one."""
        for what, here, there in (
            ("names", features.names, self.last.names),
            ("labels", features.y.tolist(), self.last.y.tolist()),
            ("categories", features.categories, self.last.categories),
            ("grid", features.grid, self.last.grid),
            ("layers", _widths(features), _widths(self.last)),
        ):
            if here != there:
                raise ValueError(
                    f"checkpoint {checkpoint.label!r}: its {what} differ from the last "
                    "checkpoint's. Extract all checkpoints of one network on the same images."
                )


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say in an error's text what it is about."""
    try:
        yield
    except ValueError as error:
        raise type(error)(f"{what}: {error}") from error


def _widths(features: FeatureSet) -> list[tuple[str, int]]:
    """Name and number of channels of every layer, in order."""
    return [(name, F.shape[-1]) for name, F in features.layers.items()]


def file_name(label: str) -> str:
    """A label as a file name of its own: labels may hold anything, slashes among it."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in label)[:80]
    plain = plain or "_"
    return plain if plain == label else f"{plain}.{zlib.crc32(label.encode()):08x}"
