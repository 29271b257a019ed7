"""Students beside their teacher, in the teacher's frame (Fig. 9)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from tqdm import tqdm

from emergence_ext import data, network
from emergence_ext.data import Samples
from emergence_ext.lookup import nearest
from emergence_ext.method import Interval, SampleProjection, bootstrap_ratio, polar
from emergence_ext.network import FeatureSet, find_head, randomise
from emergence_ext.run import (
    DIGITS,
    Emergence,
    FinishedRun,
    FixedFrame,
    Settings,
    StateFolder,
    Subject,
    claim_folder,
    file_name,
    stacked,
)
from emergence_ext.settings import Backend
from emergence_ext.store import Saved, once
from emergence_ext.training import RECIPES, FeaturePlace, Recipe, distil

NAME: Final = "distill"  # of the experiment, and of its folder in a run
CONV: Final = "conv"
FC: Final = "fc"
TEACHER: Final = "teacher"
FITTED_AGAIN: Final = "teacher fitted again"


@dataclass(frozen=True)
class Student:
    """A network that was distilled from a teacher.

    Attributes:
        label: what it is called; by the place where it was distilled.
        epochs: of its training.
        features: gives its features of the images that the teacher was analysed on.
        missed: share of the teacher's features that it missed in its last epoch.
        folder: where its finished fits are kept and looked for.
    """

    label: str
    epochs: int
    features: Callable[[], FeatureSet]
    missed: float = float("nan")
    folder: StateFolder | None = None


@dataclass(frozen=True)
class StudentDifference:
    """How the regions of a student differ from its teacher's in one layer, on held-out images.

    Attributes:
        student, layer: names.
        orientation: `1 - cos(h_student, h_teacher)`, `[N, R]`; NaN where one has no strength.
        strength: `|h_student| - |h_teacher|`, signed, `[N, R]`.
        teacher_strength: mean `|h_teacher|`.
    """

    student: str
    layer: str
    orientation: Tensor
    strength: Tensor
    teacher_strength: float

    def mean(self, of: str) -> Interval:
        """Mean of "orientation" or "strength" over regions, interval bootstrapped over images.

        NaN where there is nothing to take the mean of.
        """
        values: Tensor = getattr(self, of)
        ratio = bootstrap_ratio(
            values.nan_to_num().double().sum(1), values.isfinite().double().sum(1)
        )
        nan = float("nan")
        return Interval(nan, nan, nan) if ratio is None else ratio


@dataclass(frozen=True, eq=False)
class Distillation(Saved):
    """Students and their teacher in the teacher's frame.

    Attributes:
        networks: what was found of each, as `Emergence` has it of checkpoints: `labels` name the
            students and, last, the teacher, and `epochs` are those of their trainings. Strengths
            are normalised within each network, and not to the teacher's.
        missed: share of the teacher's features that each student missed in its last epoch, `[S]`.
        layer: whose regions are shown; None: the last.
    """

    networks: Emergence
    missed: list[float] = field(default_factory=list)
    layer: str | None = None

    _unprefixed = ("networks",)

    @property
    def students(self) -> list[str]:
        """Their names, `[S]`."""
        return self.networks.labels[:-1]

    def difference(self, student: int, layer: int = -1) -> StudentDifference:
        """Compare the regions of a student with its teacher's in one layer."""
        e = self.networks
        mine, theirs = e.h[student, layer, e.held_out], e.h[-1, layer, e.held_out]
        (strength, direction), (strength_t, direction_t) = polar(mine), polar(theirs)
        both = (strength > 0) & (strength_t > 0)
        cosine = (direction * direction_t).sum(-1).clamp(-1, 1)
        return StudentDifference(
            e.labels[student],
            e.layers[layer],
            torch.where(both, 1 - cosine, torch.nan),
            strength - strength_t,
            float(strength_t.mean()),
        )

    def agreement(self, student: int) -> float:
        """Share of the analysed images for which a student says what its teacher says."""
        z = self.networks.z
        return float((z[student].argmax(1) == z[-1].argmax(1)).float().mean())


def distill(
    run: FinishedRun,
    teacher: Subject,
    at: Sequence[str] = (CONV, FC),
    layer: str | None = None,
    *,
    epochs: int | None = None,
    checkpoints: Sequence[int] | None = None,
    random_state: int = 0,
) -> Distillation:
    """Distil students from a run's network and see them in its frame, beside it fitted again.

    Their trainings and fits are kept in the run, and go on where they were.

    Args:
        run: a finished run.
        teacher: its network and images.
        at: where features are regressed, a student each, see `find_places`.
        layer: whose regions are shown; None: the last.
        epochs: passes over the training images; None: as the recipe of the network says.
        checkpoints: epochs to keep; None: the last.
        random_state: seed.

    Raises:
        ValueError: what `find_places`, `training_images`, `train_student` and `distillation` say.
    """
    places = find_places(teacher, at, layer or run.emergence.layers[-1])
    train_set = training_images(teacher)
    recipe = RECIPES.get(teacher.spec.model if teacher.spec else "", Recipe())
    students = [
        train_student(
            teacher,
            place,
            train_set,
            recipe if epochs is None else replace(recipe, epochs=epochs),
            folder=student_folder(run, place),
            grid=run.emergence.grid,
            checkpoints=checkpoints,
            random_state=random_state,
        )
        for place in places
    ]
    students.append(fitted_again(run))
    result = distillation(run.emergence, run.learned().samples, students, run.settings)
    return replace(result, layer=layer)


def distillation(
    teacher: Emergence,
    samples: SampleProjection,
    students: Sequence[Student],
    settings: Settings,
    *,
    backend: Backend = "auto",
) -> Distillation:
    """Fit every student in the frame of its teacher: M, w, v and Lambda are its own (Fig. 9).

    Nothing starts from the teacher's fits, and all stop as early as those.

    Args:
        teacher: what was found of it; its last checkpoint is meant.
        samples: its projection of samples, of the same checkpoint.
        students: at least one.
        settings: of the fits; those of the teacher's.
        backend: what matches regions, see `backend.choose`.

    Raises:
        ValueError: no students, two of one name, a student of other images, layers or regions than
            the teacher, or one whose features cannot be fitted.
    """
    labels = [student.label for student in students]
    if not students or len({*labels, TEACHER}) <= len(labels):
        raise ValueError(
            f"students: expected one or more, each of its own name and none {TEACHER!r}, got "
            f"{labels}"
        )
    fixed = FixedFrame(
        settings, samples, teacher.frame, ~teacher.held_out, teacher.region_images, backend
    )
    states = []
    total = len(students) * len(teacher.layers)
    with tqdm(total=total, desc="fits", unit="layer", disable=None) as bar:
        for student in students:
            features, folder, path = student.features(), student.folder, None
            _require_like_teacher(student.label, features, teacher)
            if folder is not None:
                path = folder.samples
                claim_folder(folder.path, settings, teacher.layers, teacher.names, first=path)
            own = fixed.refit(features, path)
            what = f"student {student.label!r}"
            states.append(fixed.fit_regions(what, features, own, folder=folder, bar=bar))
    fitted = stacked(labels, states)
    fits = fitted.pop("fits")
    arrays = {name: torch.cat([x, getattr(teacher, name)[-1:]]) for name, x in fitted.items()}
    networks = Emergence(
        frame=teacher.frame,
        labels=[*labels, TEACHER],
        epochs=[*(student.epochs for student in students), teacher.epochs[-1]],
        layers=teacher.layers,
        categories=teacher.categories,
        names=teacher.names,
        grid=teacher.grid,
        tau=teacher.tau,
        y=teacher.y,
        held_out=teacher.held_out,
        region_images=teacher.region_images,
        fits=fits,
        **arrays,
    )
    return Distillation(networks, [student.missed for student in students])


def find_places(subject: Subject, at: Sequence[str], compared: str) -> list[FeaturePlace]:
    """Say where in a network features are regressed.

    Args:
        subject: the network and its layers.
        at: for each student "conv", the last of the layers; "fc", the input of the last fully
            connected layer; or the name of one of the layers.
        compared: the layer whose regions are compared.

    Raises:
        ValueError: no such layer, one that is named twice, or no fully connected layer.
    """
    places = [_find_place(subject, name.strip()) for name in at]
    twice = next((p.label for k, p in enumerate(places) if p in places[:k]), None)
    if twice is not None:
        raise ValueError(f"at: {twice!r} is named twice; a student is distilled at one place")
    _require_layer(subject, compared, "layer", [])
    return places


def _find_place(subject: Subject, at: str) -> FeaturePlace:
    if at == FC:
        example = subject.preprocess(subject.dataset[0][0][None])
        return FeaturePlace(FC, find_head(subject.module, example)[0], "input")
    label = list(subject.layers)[-1] if at == CONV else at
    _require_layer(subject, label, "at", [CONV, FC])
    return FeaturePlace(label, subject.layers[label])


def _require_layer(subject: Subject, name: str, argument: str, words: Sequence[str]) -> None:
    if name not in subject.layers:
        layers = list(subject.layers)
        raise ValueError(
            f"{argument}: the run has no layer {name!r}.{nearest(name, [*layers, *words])} Choose "
            f"one of {', '.join([*words, *layers])}."
        )


def training_images(subject: Subject) -> Samples:
    """Return the images that a student is trained on: train/ beside the val/ of the teacher's.

    Raises:
        ValueError: nobody wrote down where the images are, there is no train/, or its categories
            are others.
    """
    spec = subject.spec
    if spec is None:
        raise ValueError("data: nothing says where the images are; give the training images")
    if spec.data == DIGITS:
        return data.digits(train=True)
    if "train" not in data.splits(spec.data):
        raise ValueError(
            f"data: {spec.data} holds no train/ with a folder per category, so there are no images "
            "to distil on. Put training images there, apart from those that are analysed."
        )
    images = data.ImageFolder(spec.data, split="train", size=spec.size)
    if images.categories != subject.dataset.categories:
        raise ValueError(
            f"data: train/ in {spec.data} holds {len(images.categories)} categories that are not "
            f"the {len(subject.dataset.categories)} that were analysed"
        )
    return images


def train_student(
    subject: Subject,
    place: FeaturePlace,
    train_set: Samples,
    recipe: Recipe,
    *,
    folder: Path,
    grid: tuple[int, int],
    checkpoints: Sequence[int] | None = None,
    random_state: int = 0,
) -> Student:
    """Train a new network of the teacher's architecture on its features, or find it trained.

    Its first weights depend on the seed and the place, and are not those that the teacher would
    have with that seed: else a student could start where its teacher did. They are drawn anew where
    whoever builds the network loads weights that the teacher has still.

    Args:
        subject: the teacher and the images that it was analysed on.
        place: where features are regressed.
        train_set: images to train on.
        recipe: of the training.
        folder: for checkpoints and log, features and fits; removed as a whole, all is made again.
        grid: `(H, W)` of the teacher's regions.
        checkpoints: epochs after which it is kept; None keeps the last.
        random_state: seed.

    Raises:
        ValueError: nothing says how to build the network, or as `distilling.distil`.
    """
    spec = subject.spec
    if spec is None:
        raise ValueError("subject: nothing says how to build its network; give one with a spec")
    digest = hashlib.sha256(f"student {place.label} {random_state}".encode()).digest()
    seed = int.from_bytes(digest[:7])
    with network.preserved(subject.module), torch.no_grad():
        width = subject.module(subject.preprocess(subject.dataset[0][0][None])).shape[1]
    module = network.load_model(
        spec.model,
        num_classes=width,
        image_size=spec.size,
        random_state=seed,
    ).module
    if _shares_weights(module, subject.module):
        randomise(module, seed)
    log = distil(
        subject.module,
        module,
        place,
        train_set,
        subject.dataset,
        recipe,
        out=folder,
        preprocess=subject.preprocess,
        outputs=subject.outputs,
        checkpoints=checkpoints,
        random_state=seed,
        device=subject.device,
    )
    make = partial(subject.extract, module, grid)
    return Student(
        f"student at {place.label}",
        recipe.epochs,
        partial(once, folder / "features", FeatureSet, make),
        missed=log.loss[-1],
        folder=StateFolder(folder / "fits"),
    )


def fitted_again(run: FinishedRun) -> Student:
    """Return the teacher as a student of its own: what differs then is the work of the fits alone.

    Args:
        run: the teacher's.
    """
    folder = StateFolder(run.inside.experiment(NAME) / "again")
    return Student(FITTED_AGAIN, run.emergence.epochs[-1], run.features, folder=folder)


def student_folder(run: FinishedRun, place: FeaturePlace) -> Path:
    """Where everything of one student of a run lies."""
    return run.inside.experiment(NAME) / "students" / file_name(place.label)


def _shares_weights(module: nn.Module, teacher: nn.Module) -> bool:
    """Say whether a network was built with weights that its teacher has, by loading the same."""
    theirs = dict(teacher.named_parameters())
    return any(
        x.requires_grad and x.ndim > 1 and bool(x.any()) and torch.equal(x, theirs[name].to(x))
        for name, x in module.named_parameters()
        if name in theirs
    )


def _require_like_teacher(label: str, features: FeatureSet, teacher: Emergence) -> None:
    """Refuse a student that cannot be laid over its teacher, region by region."""
    for what, here, there in (
        ("images", features.names, teacher.names),
        ("labels", features.y.tolist(), teacher.y.tolist()),
        ("categories", features.categories, teacher.categories),
        ("layers", list(features.layers), teacher.layers),
        ("numbers of regions", list(features.grid), list(teacher.grid)),
    ):
        if here != there:
            short = what in ("layers", "numbers of regions")
            values = f" ({here} and {there})" if short else ""
            raise ValueError(
                f"students: {label!r} and its teacher have different {what}{values}, so that their "
                "regions cannot be compared. Extract both at the same layers and grid, on the same "
                "images."
            )
