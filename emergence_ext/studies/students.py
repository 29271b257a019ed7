"""Students of a network: where features are regressed, on which images, and what was trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import nn

from emergence_ext import data, network
from emergence_ext.data import Samples
from emergence_ext.lookup import nearest
from emergence_ext.network import FeatureSet, find_head, randomise
from emergence_ext.run import (
    FinishedRun,
    StateFolder,
    Subject,
    file_digest,
    file_name,
    identity,
    in_state,
)
from emergence_ext.store import once
from emergence_ext.training import FeaturePlace, Recipe, distil

NAME: Final = "distill"  # of the experiment, and of its folder in a run
CONV: Final = "conv"
FC: Final = "fc"
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
        earlier: the same student after fewer epochs, in their order.
    """

    label: str
    epochs: int
    features: Callable[[], FeatureSet]
    missed: float = float("nan")
    folder: StateFolder | None = None
    earlier: tuple[Student, ...] = ()


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
        head = subject.last_linear or find_head(subject.module, example)[0]
        return FeaturePlace(FC, head, "input")
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
    if spec.data in data.SHIPPED:
        return data.SHIPPED[spec.data](True)
    if "train" not in data.splits(spec.data):
        raise ValueError(
            f"data: {spec.data} holds no train/ with a folder per category, so there are no images "
            "to distil on. Put training images there, apart from those that are analysed."
        )
    images = data.ImageFolder(spec.data, split="train", size=subject.dataset[0][0].shape[-1])
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
    example = subject.preprocess(subject.dataset[0][0][None])
    width = network.first_logits(subject.module, example).shape[1]
    module = network.load_model(
        spec.model,
        num_classes=width,
        image_size=subject.dataset[0][0].shape[-1],
        output=spec.output,
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

    def features(
        weights: str, make: Callable[[], FeatureSet], name: str
    ) -> Callable[[], FeatureSet]:
        made_from = {**identity(subject), "weights of the student": weights, "grid": str(grid)}
        return partial(once, folder / name, FeatureSet, make, made_from)

    def at(state: network.CheckpointFile) -> FeatureSet:
        with in_state(module, state):
            return subject.extract(module, grid)

    kept = network.load_checkpoints(str(folder / "epoch_*.safetensors")) if checkpoints else []
    earlier = tuple(
        Student(
            state.label,
            state.epoch,
            features(file_digest(state.path), partial(at, state), f"features_{state.epoch:04d}"),
            folder=StateFolder(folder / f"fits_{state.epoch:04d}"),
        )
        for state in kept
        if state.epoch < recipe.epochs
    )
    make = partial(subject.extract, module, grid)
    return Student(
        f"student at {place.label}",
        recipe.epochs,
        features(network.weights_digest(module), make, "features"),
        missed=log.loss[-1],
        folder=StateFolder(folder / "fits"),
        earlier=earlier,
    )


def fitted_again(run: FinishedRun, teacher: Subject) -> Student:
    """Return the teacher as a student of its own: what differs then is the work of the fits alone.

    Args:
        run: the teacher's.
        teacher: its network and images.
    """
    folder = StateFolder(run.inside.experiment(NAME) / "again")
    features = partial(run.features_of_sample, teacher)
    return Student(FITTED_AGAIN, run.emergence.epochs[-1], features, folder=folder)


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
