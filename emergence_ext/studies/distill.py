"""Students beside their teacher, in the teacher's frame (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext.lookup import require_kind
from emergence_ext.method import Interval, SampleProjection, bootstrap_ratio, polar
from emergence_ext.network import FeatureSet
from emergence_ext.run import (
    Emergence,
    FinishedRun,
    Fitted,
    FixedFrame,
    InMemory,
    Settings,
    Subject,
    claim_folder,
    stacked,
)
from emergence_ext.settings import Backend
from emergence_ext.store import Saved
from emergence_ext.studies.students import (
    CONV,
    FC,
    NAME,
    Student,
    find_places,
    fitted_again,
    student_folder,
    train_student,
    training_images,
)
from emergence_ext.training import RECIPES, Recipe

__all__ = ["NAME", "Distillation", "StudentDifference", "distill", "distillation"]

TEACHER: Final = "teacher"


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
        courses: student -> what was found of it through its own training, at the epochs that were
            kept; of none where only the last was.
    """

    networks: Emergence
    missed: list[float] = field(default_factory=list)
    layer: str | None = None
    courses: dict[str, Emergence] = field(default_factory=dict)

    _unprefixed = ("networks",)

    @property
    def students(self) -> list[str]:
        """Their names, `[S]`."""
        return self.networks.labels[:-1]

    def difference(self, student: int, layer: int = -1) -> StudentDifference:
        """Compare the regions of a student with its teacher's in one layer."""
        e = self.networks
        mine, theirs = (e.regions(t, layer, e.held_out) for t in (student, -1))
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
        e = self.networks
        return float((e.predicted(student) == e.predicted()).float().mean())


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
    require_kind(run=(run, FinishedRun), teacher=(teacher, Subject))
    at = [at] if isinstance(at, str) else at
    run.emergence.require_every_region("distillation")
    places = find_places(teacher, at, layer or run.emergence.layers[-1])
    train_set, e = training_images(teacher), run.emergence.sample
    recipe = RECIPES.get(teacher.spec.model if teacher.spec else "", Recipe())
    students = [
        train_student(
            run.sampled(teacher),
            place,
            train_set,
            recipe if epochs is None else replace(recipe, epochs=epochs),
            folder=student_folder(run, place),
            grid=e.grid,
            checkpoints=checkpoints,
            random_state=random_state,
        )
        for place in places
    ]
    students.append(fitted_again(run, teacher))
    result = distillation(e, run.learned().samples, students, run.settings)
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
        settings, samples, teacher.frame, ~teacher.held_out, teacher.region_images, backend,
        {"frame of the teacher": teacher.frame.digest()},
    )  # fmt: skip
    states: dict[str, list[Fitted]] = {}
    every = [[*student.earlier, student] for student in students]
    with tqdm(
        total=sum(map(len, every)) * len(teacher.layers), desc="fits", unit="layer", disable=None
    ) as bar:
        for student, course in zip(students, every, strict=True):
            name = student.label
            states[name] = [_fit(x, name, teacher, fixed, settings, bar) for x in course]
    fitted = stacked(labels, [course[-1] for course in states.values()])
    fits = fitted.pop("fits")
    arrays: dict[str, Any] = {
        name: torch.cat([x, getattr(teacher, name)[-1:]]) for name, x in fitted.items()
    }
    networks = replace(
        teacher,
        labels=[*labels, TEACHER],
        epochs=[*(student.epochs for student in students), teacher.epochs[-1]],
        fits=fits,
        **arrays,
    )
    courses = {
        name: replace(
            teacher,
            labels=[f"epoch {state.epochs}" for state in course],
            epochs=[state.epochs for state in course],
            **stacked([state.label for state in course], states[name]),
        )
        for name, course in zip(labels, every, strict=True)
        if len(course) > 1
    }
    return Distillation(networks, [student.missed for student in students], courses=courses)


def _fit(
    student: Student,
    of: str,
    teacher: Emergence,
    fixed: FixedFrame,
    settings: Settings,
    bar: tqdm,
) -> Fitted:
    """Fit one state of a student, or find it fitted."""
    features, folder, path = student.features(), student.folder, None
    what = of if of == student.label else f"{of}, {student.label}"
    _require_like_teacher(what, features, teacher)
    if folder is not None:
        path = folder.samples
        claim_folder(folder.path, settings, teacher.layers, teacher.names, first=path)
    source = InMemory(features)
    own = fixed.refit(source, path)
    return fixed.fit_regions(f"student {what!r}", source, own, folder=folder, bar=bar)


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
