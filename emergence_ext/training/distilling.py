"""Train a student on the features of a teacher, below the teacher's own upper layers (Fig. 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from emergence_ext.data import Samples
from emergence_ext.lookup import require_kind
from emergence_ext.network import forward, logits, recorder, require_module
from emergence_ext.settings import require_choice
from emergence_ext.training.loop import TrainingLog, require_transform, train
from emergence_ext.training.losses import FeatureRegression
from emergence_ext.training.recipes import Recipe

__all__ = ["FeaturePlace", "distil", "take_upper_layers"]


Side = Literal["output", "input"]


@dataclass(frozen=True)
class FeaturePlace:
    """Where features are taken in a network.

    Attributes:
        label: what it is called.
        module: dotted name of a module.
        side: its output, a map `[B, K, H, W]` or tokens, or its first input, `[B, E]`.

    Examples:
        >>> from emergence_ext import training
        >>> training.FeaturePlace("conv5_3", "features.29")
        FeaturePlace(label='conv5_3', module='features.29', side='output')
    """

    label: str
    module: str
    side: Side = "output"

    def __post_init__(self) -> None:
        require_choice("side", self.side, Side)

    @contextmanager
    def recorded(self, module: nn.Module) -> Iterator[Callable[[], Tensor]]:
        """Give what returns the features of the latest pass, for the length of the block.

        The module is in eval mode meanwhile and as it was afterwards.

        Raises:
            ValueError: no such module; when asked for the features, one that did not run.
        """
        names = [self.module]
        outputs, inputs = (names, []) if self.side == "output" else ([], names)
        with recorder(module, outputs, inputs=inputs) as record:
            taken = record.outputs if self.side == "output" else record.inputs

            def latest() -> Tensor:
                if self.module not in taken:
                    raise ValueError(f"at: {self.module!r} never runs in the forward pass")
                return taken[self.module]

            yield latest


def distil(
    teacher: nn.Module,
    student: nn.Module,
    place: FeaturePlace,
    train_set: Samples,
    val_set: Samples,
    recipe: Recipe,
    *,
    out: Path | str,
    preprocess: nn.Module | None = None,
    outputs: Sequence[int] | None = None,
    checkpoints: Sequence[int] | None = None,
    random_state: int = 0,
    device: torch.device | str = "cpu",
) -> TrainingLog:
    """Train a student to have its teacher's features at one place, with checkpoints, and resume.

    Above that place the student is the teacher, frozen: all weights on which the features do not
    depend are copied. Labels are used for nothing but the accuracies of the log.

    Args:
        teacher: comes back as it was.
        student: another network of the same architecture, trained in place.
        place: where the features are.
        train_set: images `[channels, H, W]` in 0..1.
        val_set: likewise; never trained on.
        recipe: epochs and steps; its `freeze` is left aside.
        out: folder of checkpoints, log and the state to resume from, as for `training.train`.
        preprocess: from images in 0..1 to the networks' input.
        outputs: column of the output for each category; None where they are one to one.
        checkpoints: epochs after which the student is kept; None keeps the last.
        random_state: seed of order and augmentation.
        device: where to train; both networks come back to where they were, the student to the CPU.

    Returns:
        The log; its loss is the missed share of the teacher's features, see `FeatureRegression`.

    Raises:
        ValueError: another architecture, a place that does not run or that no parameter leads to,
            or as `training.train`.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import training
        >>> images = ee.ImageFolder("photos", size=16, per_class=4)
        >>> def net():
        ...     return torch.nn.Sequential(
        ...         torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 3)
        ...     )
        ...
        >>> place = training.FeaturePlace("conv", "0")
        >>> recipe = training.Recipe(epochs=2, batch_size=4)
        >>> log = training.distil(net(), net(), place, images, images, recipe, out="student")
        >>> log.loss[2] < log.loss[1]
        True
    """
    require_kind(
        place=(place, FeaturePlace), train_set=(train_set, Samples), recipe=(recipe, Recipe)
    )
    require_transform(preprocess)
    for argument, module in (("teacher", teacher), ("student", student)):
        require_module(module, argument)
    example = (preprocess or nn.Identity())(train_set[0][0][None])
    take_upper_layers(student, teacher, place, example)
    # Hooks that give only the columns of the categories, so that labels can be compared.
    hooks = []
    if outputs is not None:
        columns = list(outputs)
        hooks.append(student.register_forward_hook(lambda *call: logits(call[2])[:, columns]))
    home = next(teacher.parameters()).device
    try:
        teacher.to(device)
        with place.recorded(teacher) as theirs, place.recorded(student) as mine:
            return train(
                student,
                train_set,
                val_set,
                replace(recipe, freeze=None),
                out=out,
                preprocess=preprocess,
                checkpoints=checkpoints,
                random_state=random_state,
                device=device,
                loss=FeatureRegression(teacher, mine, theirs, f"{place.side} {place.module}"),
            )
    finally:
        teacher.to(home)
        for hook in hooks:
            hook.remove()


def take_upper_layers(
    student: nn.Module, teacher: nn.Module, place: FeaturePlace, example: Tensor
) -> list[str]:
    """Copy all weights into a student on which its features do not depend, and freeze them.

    Args:
        student: changed in place; what its features depend on stays, and needs a gradient.
        teacher: a network of the same architecture.
        place: where the features are.
        example: an input of both, `[1, ...]`.

    Returns:
        The names of the student's own parameters.

    Raises:
        ValueError: another architecture, or a place that no parameter leads to or that all do.
    """
    theirs = teacher.state_dict()
    shapes = [{n: tuple(x.shape) for n, x in s.items()} for s in (student.state_dict(), theirs)]
    if shapes[0] != shapes[1]:
        odd = sorted(n for n, _ in set(shapes[0].items()) ^ set(shapes[1].items()))
        raise ValueError(
            f"student: another architecture than the teacher's, which differs in {odd[0]!r} and "
            f"{len(odd) - 1} more. Build both alike."
        )
    parameters = dict(student.named_parameters(remove_duplicate=False))
    for parameter in parameters.values():
        parameter.requires_grad_()
    with place.recorded(student) as features, torch.enable_grad():
        forward(student, example)
        total = features().float().sum()
        reached: Sequence[Tensor | None] = [None] * len(parameters)
        if total.requires_grad:
            reached = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    own = [name for name, x in zip(parameters, reached, strict=True) if x is not None]
    if not own or len(own) == len(parameters):
        raise ValueError(
            f"at: {place.label!r} leaves {'the student' if not own else 'the teacher'} no "
            "parameter; choose a layer between the first convolution and the output"
        )
    # Running statistics go with the parameters of their module.
    owners = {name.rpartition(".")[0] for name in own}
    buffers = [n for n, _ in student.named_buffers() if n.rpartition(".")[0] in owners]
    kept = {*own, *buffers}
    student.load_state_dict({n: x for n, x in theirs.items() if n not in kept}, strict=False)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in kept)
    return own
