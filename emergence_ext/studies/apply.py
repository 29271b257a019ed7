"""New images in the frame of a finished run: nothing is fitted, and what is unlike it is found."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from emergence_ext.data import Samples, image_set, relabelled, splits, take
from emergence_ext.lookup import path_named, require_kind
from emergence_ext.method import (
    Frame,
    Interval,
    KnowledgePoints,
    entropy,
    knowledge_points,
    mean_interval,
    polar,
    proportion,
    similarity_with,
)
from emergence_ext.network import FeatureSet
from emergence_ext.run import (
    Emergence,
    FinishedRun,
    Learned,
    Subject,
    Thumbnails,
    compared,
    file_name,
)
from emergence_ext.settings import Settings
from emergence_ext.store import Saved, once
from emergence_ext.studies.likeness import Limit, Matches, best_matches, scores

logger = logging.getLogger(__name__)

NAME: Final = "apply"  # of the experiment, and of its folder in a run
CALIBRATED: Final = 1000  # held-out images of the run, at most, that limits are found on
SHOWN: Final = 12  # images that are kept small: of the most unlike, and as many of all
BLOCK: Final = 256  # images whose features are held at once


@dataclass(frozen=True, eq=False)
class Calibration(Saved):
    """How like other images of a run its held-out images are, of one checkpoint.

    Attributes:
        images: indices of the held-out images, `[n]`.
        likeness: of each of their regions with the most similar region of any other image of the
            run, `[L, n, R]`.
    """

    images: Tensor
    likeness: Tensor


@dataclass(frozen=True, eq=False)
class Applied(Saved):
    """New images in the frame of a run: `N` images, `L` layers, `R` regions.

    Attributes:
        frame: of the run, as are M, Lambda and tau.
        checkpoint: its label.
        layers: names, `[L]`.
        categories: names, `[C]`.
        names: of the new images, `[N]`.
        said: the category that each image is said to be of, empty where nothing is said, `[N]`.
        y: that category in the run, `[N]`; -1 where the run does not know it.
        grid: `(H, W)` of the regions.
        tau: threshold of knowledge points.
        z: logits, `[N, C]`.
        g: projected sample features, `[N, dim]`.
        h: projected regional features, on the scale of the run's, `[L, N, R, dim]`; what a region
            says is `frame.posterior(h)`.
        likeness: cosine of each region's features with those of the most similar region of the run,
            `[L, N, R]`.
        similar: that region: its image times R plus its place in there, `[L, N, R]`.
        calibration: the same cosines for held-out images of the run.
        shown: indices of the images that are kept small, ascending, `[e]`.
        thumbnails: these.
        bad: name and reason of each image that was left out.
        w: importance of each region, `[L, N, R]`, of a run whose w are those of the conditioning
            image; None of other runs, in which w of all images are one problem.
    """

    frame: Frame
    checkpoint: str
    layers: list[str]
    categories: list[str]
    names: list[str]
    said: list[str]
    y: Tensor
    grid: tuple[int, int]
    tau: float
    z: Tensor
    g: Tensor
    h: Tensor
    likeness: Tensor
    similar: Tensor
    calibration: Calibration
    shown: Tensor
    thumbnails: Thumbnails
    bad: list[list[str]]
    w: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """Images of a category of the run, `[N]` bool."""
        return self.y >= 0

    @property
    def predicted(self) -> Tensor:
        """What the network says, `[N]`."""
        return self.z.argmax(1)

    @property
    def entropy(self) -> Tensor:
        """How unsure the network is, `[N]`, nats."""
        return entropy(self.z)

    def points(self, layer: int = -1) -> KnowledgePoints:
        """Knowledge points of a layer; none is reliable where the category is not known."""
        points = knowledge_points(self.h[layer], self.frame, self.y.clamp_min(0), self.tau)
        return replace(points, y=self.y)

    def accuracy(self) -> Interval | None:
        """Share of the images of known category that the network gets right, with its interval."""
        right = (self.predicted == self.y)[self.known]
        return proportion(int(right.sum()), len(right)) if len(right) else None

    def points_of_an_image(self, layer: int) -> tuple[Interval | None, Interval | None]:
        """Knowledge points of an image, and reliable ones where its category is known; means."""
        points = self.points(layer)
        counts = points.point.sum(1), points.reliable[self.known].sum(1)
        of_all, reliable = (mean_interval(x.double()) for x in counts)
        return of_all, reliable

    def nearest(self) -> tuple[Tensor, Tensor]:
        """The nearest category direction of every image, and `1 - cos` with it, `[N]` each."""
        cosine = polar(self.g)[1] @ self.frame.directions.t()
        best = cosine.max(1)
        return best.indices, 1 - best.values

    @cached_property
    def scores(self) -> tuple[Tensor, Tensor]:
        """How like the run each image is, `[N]`, and the layer in which it is least so, `[N]`."""
        return scores(self.likeness, self.calibration.likeness)

    @cached_property
    def limit(self) -> Limit:
        """The score below which an image is unlike anything in the run."""
        held_out = self.calibration.likeness
        return Limit.of(scores(held_out, held_out)[0])

    def region_limit(self, layer: int) -> Limit:
        """The likeness below which a region of a layer is unlike anything in the run."""
        return Limit.of(self.calibration.likeness[layer])

    @property
    def unlike(self) -> Tensor:
        """Images that are unlike anything in the run, `[N]` bool."""
        return self.scores[0] < self.limit.value

    def ranked(self) -> Tensor:
        """Images by their score, the most unlike first, `[N]`."""
        return self.scores[0].argsort(stable=True)

    def striking(self) -> list[int]:
        """Images with the lowest scores that are kept small, no more than half of one kind."""
        return _striking(self.scores[0], _groups(self.said, self.z))

    def evenly(self) -> list[int]:
        """Images that are kept small, at even distances from the most unlike to the most like."""
        return _evenly(self.scores[0])

    def small(self, images: Sequence[int]) -> Tensor:
        """Images that are kept small, in 0..1, `[n, channels, H', W']`."""
        return self.thumbnails.images(torch.searchsorted(self.shown, torch.tensor(images)))

    def strongest(self, layer: int, image: int, most: int) -> list[int]:
        """Regions of an image by strength, the strongest first."""
        order = self.h[layer, image].norm(dim=-1).argsort(descending=True, stable=True)
        return [int(r) for r in order[:most]]


def place(run: FinishedRun, name: str, checkpoint: int = -1) -> str:
    """Where a set of new images lies among the experiments of a run: `apply/NAME`.

    Args:
        run: a finished run.
        name: of the set; may hold anything.
        checkpoint: of the run; all but the last stand in the name.

    Examples:
        >>> import emergence_ext as ee
        >>> ee.studies.apply.place(ee.FinishedRun.open("runs/demo"), "holiday")
        'apply/holiday'
    """
    labels = run.emergence.labels
    last = checkpoint in (-1, len(labels) - 1)
    return f"{NAME}/{file_name(name if last else f'{name}@{labels[checkpoint]}')}"


def open_folder(
    run: FinishedRun, folder: Path | str, checkpoint: int = -1, device: str = "cpu"
) -> tuple[Subject, list[str]]:
    """Load the network of a run and the images below a folder, in the run's size.

    An image is said to be of the category that its folder, just below the given one, is called by.
    Of a folder with splits the validation images are taken, else the test images; splits inside of
    categories are taken together, and the log says so.

    Args:
        run: a finished run.
        folder: images in a folder for each category, or of nothing known.
        checkpoint: of the run.
        device: of the network's forward pass.

    Returns:
        The network with these images, and what each is said to be, `[N]`: a category of the run, a
        folder that is none, or nothing.

    Raises:
        ValueError: no such folder, no readable image in it, or as `FinishedRun.subject`.
        FileNotFoundError: a file of the run's network that is not there.
    """
    require_kind(run=(run, FinishedRun))
    run.emergence.require_every_region("the search in new images")
    root, categories = path_named(folder, "folder"), run.emergence.categories
    present = splits(root)
    split = next((present[role] for role in ("val", "test", "train") if role in present), None)
    if split is not None and (root / split).is_dir():
        logger.info("images are those of %s/", split)
        root = root / split
    elif split is not None:
        logger.warning("%s holds splits inside of its categories: all of them are taken", root)
    places = {name: place for place, name in enumerate(categories)}

    def images(size: int) -> Samples:
        found = image_set(root, size=size)
        # What is not known has to have a label all the same.
        return relabelled(found, [places.get(x, 0) for x in _folders(found.names)], categories)

    subject = run.subject_of(images, checkpoint, device)
    return subject, _folders(subject.dataset.names)


def _folders(names: Sequence[str]) -> list[str]:
    """The folder just below the root that each image lies in; nothing for one that lies in none."""
    return [name.partition("/")[0] if "/" in name else "" for name in names]


def apply(
    run: FinishedRun, subject: Subject, said: Sequence[str] | None = None, checkpoint: int = -1
) -> Applied:
    """Project new images in the frame of a run, and find the run's most similar regions.

    M, Lambda, frame and tau are the run's, and none of its fits is made again. The w of an image is
    a problem of its own: each new one's is learned, beside the images that the run learned regions
    on (not where the run's are learned all together, with `importance_weights_of="scored"`). How
    like the run an image is, is judged by the cosines of its regions' features with the most
    similar ones of the run (see `likeness.scores`), beside those that held-out images have with its
    other images.

    Args:
        run: a finished run.
        subject: its network and layers as in the run, with new images; `open_folder` makes one.
        said: name of the category of each image, `[N]`, empty where none is known; None for what
            their labels say.
        checkpoint: of the run.

    Raises:
        ValueError: another number of names than images, or layers or widths that are not the run's.
    """
    require_kind(run=(run, FinishedRun), subject=(subject, Subject))
    e, dataset = run.emergence, subject.dataset
    e.require_every_region("the search in new images")
    said = [dataset.categories[y] for y in dataset.labels] if said is None else list(said)
    if len(said) != len(dataset):
        raise ValueError(f"said: expected {len(dataset)} names, one an image, got {len(said)}")
    places = {name: place for place, name in enumerate(e.categories)}
    y = torch.tensor([places.get(name, -1) for name in said])
    _say_what_is_unknown(said, places, e)
    features, learned = run.features(checkpoint), run.learned(checkpoint)
    calibration = _calibration(run, features, checkpoint, subject.device)
    example = _example(run, subject)
    parts, w = [], []
    own = run.settings.importance_weights_of == "conditioning"
    fitted = run.features(checkpoint, images=e.region_images) if own else None
    for start in range(0, len(dataset), BLOCK):
        block = range(start, min(start + BLOCK, len(dataset)))
        new = replace(subject, dataset=take(dataset, block)).extract(grid=e.grid, example=example)
        parts.append(_project(new, learned, features, subject.device))
        if fitted is not None:
            w.append(_importance(new, learned, fitted, run.settings))
    z, g, h, likeness, similar = (
        torch.cat(part, dim=1 if part[0].ndim > 2 else 0) for part in zip(*parts, strict=True)
    )
    R = e.grid[0] * e.grid[1]
    similar = run.kept_images[similar // R] * R + similar % R
    score = scores(likeness, calibration.likeness)[0]
    kept = [*_striking(score, _groups(said, z)), *_evenly(score)]
    shown = torch.tensor(sorted(set(kept)))
    small = replace(subject, dataset=take(dataset, shown.tolist()))
    return Applied(
        frame=e.frame,
        checkpoint=e.labels[checkpoint],
        layers=e.layers,
        categories=e.categories,
        names=list(dataset.names),
        said=said,
        y=y,
        grid=e.grid,
        tau=e.tau,
        z=z,
        g=g,
        h=h,
        likeness=likeness,
        similar=similar,
        calibration=calibration,
        shown=shown,
        thumbnails=Thumbnails.of(small, e.grid),
        bad=[list(entry) for entry in dataset.bad],
        w=torch.cat(w, dim=1) if own else None,
    )


def _example(run: FinishedRun, subject: Subject) -> Tensor | None:
    """The run's first image in the form of the new ones: these may be too strange to try on."""
    if run.thumbnails is None:
        return None
    new = subject.dataset[0][0]
    image = interpolate(
        run.thumbnails.images(torch.tensor([0])), new.shape[1:], mode="bilinear", antialias=True
    )[0]
    return image if len(image) == len(new) else image.mean(0, keepdim=True).expand_as(new)


def _project(
    new: FeatureSet, learned: Learned, run: FeatureSet, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Project the features of some new images, and match their regions: z, g, h and matches."""
    h, matches = [], []
    for layer, F in run.layers.items():
        h.append(learned.regional[layer].transform(new.layers[layer]))
        matches.append(best_matches(new.layers[layer], F, device=device, description=layer))
    both = Matches(*(torch.stack(parts) for parts in zip(*matches, strict=True)))
    return new.z, learned.samples.transform(new.f), torch.stack(h), both.likeness, both.region


def _importance(new: FeatureSet, learned: Learned, run: FeatureSet, settings: Settings) -> Tensor:
    """Learn the w of some new images, each by itself: `[L, n, R]`."""
    z, others = compared(settings, new.z), compared(settings, run.z)
    P = similarity_with(z, others, learned.frame.solved_kappa_p)
    fits = learned.importance.items()
    return torch.stack([fit.fit_new(new.layers[x], run.layers[x], P)[0] for x, fit in fits])


def _calibration(
    run: FinishedRun, features: FeatureSet, checkpoint: int, device: str
) -> Calibration:
    """Match held-out images of a run with its others; once, as it takes as long as new images."""
    e = run.emergence

    def make() -> Calibration:
        # Of many images those whose features are kept, by their place among these.
        images = e.held_out[run.kept_images].nonzero().flatten()
        # Some at even distances: held-out images are in the order of the data set.
        count = min(len(images), CALIBRATED)
        images = images[torch.arange(count) * len(images) // count]
        matched = [
            best_matches(F[images], F, own=images, device=device, description=f"{layer}, held out")
            for layer, F in features.layers.items()
        ]
        return Calibration(
            run.kept_images[images], torch.stack([found.likeness for found in matched])
        )

    path = run.inside.experiment(NAME) / f"held_out.{file_name(e.labels[checkpoint])}"
    return once(path, Calibration, make, run.made_from)


def _groups(said: Sequence[str], z: Tensor) -> list[str | int]:
    """What tells images apart: what they are said to be, or else what the network says."""
    return [name or says for name, says in zip(said, z.argmax(1).tolist(), strict=True)]


def _striking(score: Tensor, groups: Sequence[str | int]) -> list[int]:
    """`SHOWN` of the images with the lowest scores, of a group no more than half of them."""
    order = score.argsort(stable=True).tolist()
    kept: list[int] = []
    count: Counter[str | int] = Counter()
    for image in order:
        if count[groups[image]] < SHOWN // 2 and len(kept) < SHOWN:
            kept.append(image)
            count[groups[image]] += 1
    # Of one group alone there may be nothing else.
    others = [image for image in order if image not in kept]
    return sorted(kept + others[: SHOWN - len(kept)], key=order.index)


def _evenly(score: Tensor) -> list[int]:
    """`SHOWN` images at even distances of rank, the most unlike first."""
    order = score.argsort(stable=True)
    count = min(len(order), SHOWN)
    return [int(i) for i in order[torch.arange(count) * len(order) // count]]


def _say_what_is_unknown(said: Sequence[str], known: dict[str, int], e: Emergence) -> None:
    unknown = Counter(name for name in said if name and name not in known)
    if unknown:
        some = ", ".join(f"{name} ({count})" for name, count in unknown.most_common(5))
        logger.warning(
            "%d images are in folders that are no category of the run: %s%s; the run knows %s%s",
            unknown.total(), some, ", ..." if len(unknown) > 5 else "",
            ", ".join(e.categories[:5]), ", ..." if len(e.categories) > 5 else "",
        )  # fmt: skip
