"""A finished run, taken up again: what it found, what it learned, and the network it looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emergence_ext.data import Samples, take
from emergence_ext.lookup import path_named, require_kind
from emergence_ext.method import (
    Frame,
    RegionalProjection,
    RegionImportance,
    SampleProjection,
)
from emergence_ext.network import CheckpointFile, FeatureSet, load_weights
from emergence_ext.run.estimators import image_similarities
from emergence_ext.run.folder import Config, RunFolder
from emergence_ext.run.identity import (
    comparable,
    identity,
    thumbnail_origins,
    weights_name,
    weights_of,
)
from emergence_ext.run.results import Emergence, place_of
from emergence_ext.run.rows import h_of
from emergence_ext.run.settle import kept_images
from emergence_ext.run.strength import (
    ImportanceStrength,
    StrengthEntropy,
    importance_strength,
    temperatures,
)
from emergence_ext.run.subject import Subject, SubjectSpec
from emergence_ext.run.thumbnails import Thumbnails
from emergence_ext.settings import Backend, Settings, with_later
from emergence_ext.store import (
    Saved,
    ShardStore,
    StoreError,
    content_digest,
    differences,
    exists,
    locked,
    once,
    require_made_from,
)
from emergence_ext.store import made_from as origins

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """What was learned of one checkpoint, in the frame that all checkpoints share.

    Attributes:
        frame: priors, directions and concentrations.
        samples: the projection of samples, `g = M f`.
        importance: layer -> w and v of the images that regions were learned on.
        regional: layer -> the projection of regions, with the factor that makes layers comparable.

    Examples:
        >>> import emergence_ext as ee
        >>> run = ee.FinishedRun.open("runs/demo")
        >>> f = run.sample_features().f
        >>> torch.allclose(run.learned().samples.transform(f), run.emergence.samples(), atol=1e-5)
        True
    """

    frame: Frame
    samples: SampleProjection
    importance: Mapping[str, RegionImportance]
    regional: Mapping[str, RegionalProjection]


@dataclass(frozen=True)
class FinishedRun:
    """What `emergence run` left in a folder; files are read when they are asked for.

    Attributes:
        folder: the run directory.
        config: what `config.json` says.

    Examples:
        >>> import emergence_ext as ee
        >>> run = ee.FinishedRun.open("runs/demo")
        >>> run.emergence.layers, run.emergence.labels
        (['conv1_1', 'conv2_1'], ['epoch 0', 'epoch 2', 'epoch 12'])
    """

    folder: Path
    config: Config

    def __repr__(self) -> str:
        about, states = self.config, len(self.config.checkpoints)
        return (
            f"{type(self).__name__}({str(self.folder)!r}), "
            f"layers {', '.join(map(str, about.layers))}, "
            f"{states} checkpoint{'s' * (states > 1)}, {len(about.categories)} categories"
        )

    @classmethod
    def open(cls, folder: Path | str) -> FinishedRun:
        """Look for a finished run in a folder.

        Raises:
            FileNotFoundError: none is there.
            RuntimeError: one is there that is not finished.
            StoreError: what is there cannot be read.
            TypeError: it is no path.
        """
        inside = RunFolder(path_named(folder, "run"))
        config = Config.read(inside.config)
        if not exists(inside.emergence) or (config.digested and not config.results):
            again = config.command or f"emergence run --out {folder} ..."
            raise RuntimeError(
                f"run: {folder} is not finished: it was stopped, or goes on now. `{again}` goes on "
                "where it was"
            )
        if not config.digested:
            logger.warning(
                "%s was made by an earlier version, which noted no digests: what it was made from "
                "cannot be compared",
                folder,
            )
        return cls(inside.path, config)

    @property
    def inside(self) -> RunFolder:
        """Where what lies in the run directory."""
        return RunFolder(self.folder)

    @cached_property
    def emergence(self) -> Emergence:
        """Everything that the run found.

        Raises:
            StoreError: damaged, of another run, or made from other features or fits than are there.
        """
        path = self.inside.emergence
        found = Emergence.load(path)
        if found.projected:
            stores = [self._rows(label) for label in found.labels]
            if [store.digest() for store in stores] != found.projected:
                raise StoreError(
                    f"run: {self.inside.rows} holds other rows than were found in "
                    "this run. Bring those back, or make the run again in another directory."
                )
            found = replace(found, stores=stores)
        _require_shapes(found, path)
        if self.config.digested and self.made_from != self.config.results:
            raise StoreError(
                f"run: {path} is not what was found in this run, as config.json notes it. Bring "
                "that back, or make the run again in another directory."
            )
        require_made_from(path, self.inside.origins(found.labels, found.layers))
        return found

    def _rows(self, label: str) -> ShardStore:
        """The rows of all images in a checkpoint."""
        try:
            return ShardStore(self.inside.projected(label))
        except FileNotFoundError as error:
            again = self.config.command or f"emergence run --out {self.folder} ..."
            said = str(error).removeprefix("path: ")
            raise StoreError(f"run: {said}: `{again}`") from error

    @cached_property
    def made_from(self) -> dict[str, str]:
        """What all that is built upon the run depends on, as `config.json` notes it of a result."""
        return {"emergence": content_digest(self.inside.emergence)}

    def keep(self, result: Saved, name: str, made_from: Mapping[str, str] | None = None) -> None:
        """Save what an experiment found, with what it was made from: the run, and what is given."""
        require_kind(result=(result, Saved), name=(name, str))
        result.save(self.inside.result(name), {**self.made_from, **(made_from or {})})

    def owns(self, path: Path) -> bool:
        """Say whether a saved result was made from this run, as it is now.

        What was saved without digests, by an earlier version, is taken.
        """
        there = origins(path)
        if there is None and self.config.digested:
            logger.warning("%s does not note of which results of the run it was made", path)
        return there is None or not differences(there, self.made_from)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run's directory for writing, see `store.locked`."""
        with locked(self.folder, "run"):
            yield

    @cached_property
    def settings(self) -> Settings:
        """The settings of the fits.

        Raises:
            StoreError: the run does not note them.
        """
        there = with_later(self.config.settings)
        try:
            return Settings(**{name: there[name] for name in Settings.__dataclass_fields__})
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"run: config.json notes no setting, or a wrong one: {error}; make the run again"
            ) from None

    def strengths(self) -> list[StrengthEntropy]:
        """Return strength against entropy at every temperature that has one."""
        paths = map(self.inside.strength, temperatures(self.settings.temperature))
        there = [path for path in paths if exists(path)]
        label = self.emergence.labels[-1]
        many = bool(self.emergence.stores)
        last = self.inside.sample_features(label) if many else self.inside.features(label)
        for path in there if exists(last) else []:
            require_made_from(path, {"features": content_digest(last)})
        return [StrengthEntropy.load(path) for path in there]

    def other_alphas(self, backend: Backend = "auto") -> list[ImportanceStrength]:
        """Return strength against importance in the last layer, for the further alphas of the run.

        Args:
            backend: what matches regions in fits that are not there yet, see `backend.choose`.
        """
        e, settings = self.emergence, self.settings
        alphas = self.config.settings.get("alphas") or ()
        if not alphas:
            return []
        chosen, layer = e.region_images, e.layers[-1]
        last = self.features(layers=[layer], images=chosen)
        v = None
        if settings.matches == "raw":
            v = RegionImportance.load(self.inside.fits.state(e.labels[-1]).importance(layer)).v_
        return importance_strength(
            last.layers[layer],
            e.w[-1, -1],
            image_similarities(settings, last.z, e.frame.solved_kappa_p),
            e.samples(-1, chosen),
            e.frame,
            alphas,
            settings=settings,
            v=v,
            mask=e.weighed,
            backend=backend,
            folder=self.inside.alphas,
            made_from=self.made_from,
        )

    def features(
        self,
        checkpoint: int = -1,
        *,
        layers: Sequence[str] | None = None,
        images: Tensor | None = None,
    ) -> FeatureSet:
        """Return the features of one checkpoint that are kept.

        Args:
            checkpoint: its place in the run.
            layers: names of those to read; None: all.
            images: indices of those to read, ascending where they are some of `kept_images`;
                None: all that are kept.

        Raises:
            ValueError: an image whose features are not kept.
        """
        e = self.emergence
        wanted = e.layers if layers is None else layers
        wanted = [wanted] if isinstance(wanted, str) else wanted
        label = e.labels[place_of("checkpoint", checkpoint, e.labels)]
        if not e.stores:
            return FeatureSet.load_part(self.inside.features(label), wanted, images)
        path = self.inside.region_features(label)
        if images is None:
            return FeatureSet.load_part(path, wanted)
        kept = self.kept_images
        if not bool(torch.isin(images, kept).all()):
            raise ValueError(
                f"images: features are kept of {len(kept)} of the {len(e.names)} images of this "
                "run, and of others than these; raise keep_features (--keep-features) to keep all"
            )
        return FeatureSet.load_part(path, wanted, torch.searchsorted(kept, images))

    @cached_property
    def kept_images(self) -> Tensor:
        """Indices of the images whose regional features are kept, `[m]`, ascending."""
        e = self.emergence
        if not e.stores:
            return torch.arange(len(e.names))
        return kept_images(e.held_out, e.region_images, e.y)

    def sample_features(self, checkpoint: int = -1) -> FeatureSet:
        """Return sample features and logits of one checkpoint: of many images, of those of M."""
        if not self.emergence.stores:
            return self.features(checkpoint, layers=[])
        labels = self.emergence.labels
        path = self.inside.sample_features(labels[place_of("checkpoint", checkpoint, labels)])
        return FeatureSet.load_part(path, [])

    def sampled(self, subject: Subject) -> Subject:
        """The same network with the images of `Emergence.sample` alone."""
        e = self.emergence
        if not e.stores:
            return subject
        return replace(subject, dataset=take(subject.dataset, e.sampled.tolist()))

    def features_of_sample(self, subject: Subject) -> FeatureSet:
        """Return all features of the images of `Emergence.sample` in the last checkpoint.

        Args:
            subject: network and images; of many images they are run once more.
        """
        if not self.emergence.stores:
            return self.features()
        return once(
            self.inside.features_of_sample,
            FeatureSet,
            lambda: self.sampled(subject).extract(grid=self.emergence.grid),
            {**self.made_from, "images": self.config.hashes.get("images", "")},
        )

    def learned(self, checkpoint: int = -1) -> Learned:
        """Return the fits of one checkpoint."""
        e, fits = self.emergence, self.inside.fits
        checkpoint = place_of("checkpoint", checkpoint, e.labels)
        state = fits.state(e.labels[checkpoint])
        last = checkpoint in (-1, len(e.labels) - 1)
        regional = {layer: RegionalProjection.load(state.regional(layer)) for layer in e.layers}
        for layer, scale in zip(e.layers, e.scale[checkpoint].tolist(), strict=True):
            regional[layer].scale_ = scale
        return Learned(
            e.frame,
            SampleProjection.load(fits.frame if last else state.samples),
            {layer: RegionImportance.load(state.importance(layer)) for layer in e.layers},
            regional,
        )

    def subject(self, device: str = "cpu", **changes: Any) -> Subject:
        """Load the network, as its last checkpoint left it, and the images.

        Args:
            device: of the network's forward pass.
            changes: fields of the `SubjectSpec` to set otherwise, such as a folder that moved.

        Raises:
            ValueError: the run was made from Python, with objects that nobody wrote down, or its
                weights, images, preprocessing or code are others now.
            FileNotFoundError: a file or folder that is not there.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        spec = self._spec(given)
        subject = spec.load(device)
        if list(subject.dataset.names) != self.emergence.names:
            raise ValueError(
                f"data: {spec.data} holds other images than the run in {self.folder} looked at"
            )
        last = subject.checkpoints[-1] if subject.checkpoints else None
        self._require_same(subject, last, {"layers"} if "layers" in given else set())
        return subject

    def subject_of(
        self, images: Callable[[int], Samples], checkpoint: int = -1, device: str = "cpu"
    ) -> Subject:
        """Load the network, as a checkpoint left it, to look at other images than the run's.

        Those of the run need not be there any more.

        Args:
            images: from the side of an image in pixels to images of the run's categories.
            checkpoint: its place in the run.
            device: of the network's forward pass.

        Raises:
            ValueError, FileNotFoundError: as `subject`.
        """
        subject = self._spec({}).load(device, images)
        modules = self.config.settings.get("modules")
        if modules is not None:  # what an image suggests may depend on it
            layers = {name: modules[name] for name in self.emergence.layers}
            subject = replace(subject, layers=layers)
        label = self.emergence.labels[checkpoint]
        states = {state.label: state for state in subject.checkpoints}
        if states and label not in states:
            raise FileNotFoundError(
                f"run: the weights of {label} are not among the files of its checkpoints any more; "
                f"there are {', '.join(states)}"
            )
        self._require_same(subject, states.get(label), {"images"})
        if states and label != subject.checkpoints[-1].label:
            load_weights(subject.module, states[label].path)
        return subject

    def _spec(self, given: Mapping[str, Any]) -> SubjectSpec:
        settings = self.config.subject
        if settings is None:
            raise ValueError(
                f"run: {self.folder} was made from Python and does not say how to load its "
                "network; call the study from Python as well"
            )
        return SubjectSpec.from_settings({**settings, **given}, self.folder)

    def _require_same(
        self, subject: Subject, state: CheckpointFile | None, besides: Collection[str]
    ) -> None:
        """Refuse a network, in a state, or images that are not those of the run."""
        if not self.config.digested:
            return
        now = {weights_name(state): weights_of(subject, state), **identity(subject)}
        there = self.config.hashes
        now = comparable(there, now, self.config.versions.get("python"))
        different = [name for name in differences(there, now) if name not in besides]
        if different:
            raise ValueError(
                f"run: {', '.join(different)}: not as in the run in {self.folder}, whose results "
                "say nothing of what is there now. Bring those back, or make the run again in "
                "another directory."
            )

    @cached_property
    def thumbnails(self) -> Thumbnails | None:
        """The images of the run, small; None, and a warning, where they are not to be had.

        Runs of earlier versions have none: theirs are made of the images, if these are still there.
        """
        path = self.inside.thumbnails
        try:
            return once(
                path,
                Thumbnails,
                self._thumbnails,
                thumbnail_origins(self.config),
            )
        except (ValueError, ImportError, OSError) as error:
            if isinstance(error, StoreError):
                raise
            logger.warning("images are left out: %s", error)
            return None

    def _thumbnails(self) -> Thumbnails:
        e = self.emergence
        return Thumbnails.of(self.subject(), e.grid, e.sampled if e.stores else None)


def _require_shapes(e: Emergence, path: Path) -> None:
    """Refuse results whose arrays do not fit each other, whoever wrote them."""
    T, L, N, C = len(e.labels), len(e.layers), len(e.names), len(e.categories)
    n, R, dim = len(e.region_images), e.grid[0] * e.grid[1], e.frame.dim
    shapes = {
        "y": (N,), "held_out": (N,), "g": (T, N, dim), "z": (T, N, C), "h": (T, L, N, R, dim),
        "w": (T, L, n, R), "scale": (T, L), "raw_strength": (T, L, n, R),
    }  # fmt: skip
    if e.mask is not None:
        shapes["mask"] = (N, R)
    if e.stores:
        rows = {"g": (N, dim), "z": (N, C), **{h_of(layer): (N, R, dim) for layer in e.layers}}
        wrong = [x for x, shape in rows.items() if any(s.shapes.get(x) != shape for s in e.stores)]
        shapes = {name: shape for name, shape in shapes.items() if name not in "gzh"}
    else:
        wrong = []
    arrays = {name: getattr(e, name) for name in shapes}
    wrong += [n for n, x in arrays.items() if x is None or x.shape != shapes[n]]
    for name, index, end in (("y", e.y, C), ("region_images", e.region_images, N)):
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < end:
            wrong.append(name)
    if wrong or not T or len(e.epochs) != T or len(e.frame.priors) != C:
        raise StoreError(
            f"run: {path} does not fit itself ({', '.join(wrong) or 'labels'}). Make the run again."
        )


def require_same_network(z: Tensor, before: Tensor, largest: float) -> None:
    """Refuse a network that says something else of images than it did in the run.

    What the run learned, its projections and w, says nothing of another network.

    Args:
        z: logits, now, of any shape.
        before: the same logits in the run; they may have been computed at another precision.
        largest: the largest logit of any image and category in the run, by size.

    Raises:
        ValueError: they differ by more than a twentieth of that.

    Examples:
        >>> from emergence_ext import run
        >>> z = torch.tensor([[1.0, -2.0]])
        >>> run.require_same_network(z, z + 1e-5, largest=2.0)
        >>> run.require_same_network(-z, z, largest=2.0)
        Traceback (most recent call last):
        ...
        ValueError: ...
    """
    if not torch.allclose(z, before, rtol=0, atol=0.05 * largest):
        raise ValueError(
            "weights: the network gives other logits for the clean images than in the run, what "
            "was learned there does not fit it. Give the weights and images of the run."
        )
