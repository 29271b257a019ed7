"""What a training lowers: the cross-entropy of labels, or the distance from features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.network import classify, forward, weights_digest
from emergence_ext.training.heads import frozen_names, set_training, trained_part

__all__ = ["CrossEntropy", "FeatureRegression", "Loss"]


class Loss(Protocol):
    """What a training lowers, and in which modes of the network."""

    identity: str  # what beside network, images and recipe decides over the result
    labelled: bool  # whether outputs become those of the categories

    def trained_part(self, module: nn.Module, example: Tensor) -> str:
        """Name the smallest submodule that has to be run; empty for the network itself."""

    def set_training(self, module: nn.Module, part: str) -> None:
        """Put what is trained into training mode."""

    def step(
        self, module: nn.Module, inputs: Tensor, labels: Tensor, autocast: torch.autocast
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and logits `[B, C]`, of a batch."""


class CrossEntropy:
    """Of the labels."""

    identity = ""
    labelled = True

    def trained_part(self, module: nn.Module, example: Tensor) -> str:
        """Name the smallest submodule around all that is trained."""
        return trained_part(module, frozen_names(module, None), example)

    def set_training(self, module: nn.Module, part: str) -> None:
        """Put the submodule `part` into training mode, except for what is frozen."""
        set_training(module, part)

    def step(
        self, module: nn.Module, inputs: Tensor, labels: Tensor, autocast: torch.autocast
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy and the logits `[B, C]`."""
        with autocast:
            logits = classify(module, inputs)
        return functional.cross_entropy(logits.float(), labels), logits


class FeatureRegression:
    """`sum |a - t|^2 / sum |t|^2` of a student's features a and its teacher's features t.

    The denominator makes layers and networks compare: 0 is the teacher, 1 is no feature at all.
    The features are those of the pass before, as hooks on both networks record them.

    Args:
        teacher: in eval mode; never trained.
        student_feature: gives a of the latest pass, `[B, ...]`.
        teacher_feature: gives t of the latest pass, `[B, ...]`.
        place: what is regressed, in words.
    """

    labelled = False

    def __init__(
        self,
        teacher: nn.Module,
        student_feature: Callable[[], Tensor],
        teacher_feature: Callable[[], Tensor],
        place: str,
    ) -> None:
        self.teacher = teacher
        self.student_feature = student_feature
        self.teacher_feature = teacher_feature
        self.place = place
        self.identity = f"{place} of {weights_digest(teacher)}"

    def trained_part(self, module: nn.Module, example: Tensor) -> str:
        """All of the student is run: its features are somewhere in the middle."""
        return ""

    def set_training(self, module: nn.Module, part: str) -> None:
        """Put modules with trained parameters into training mode, and nothing else.

        Dropout stays off: it would pull regressed features, which are zero by chance, to zero.
        """
        module.eval()
        for submodule in module.modules():
            own = submodule.parameters(recurse=False)
            submodule.training = any(parameter.requires_grad for parameter in own)

    def step(
        self, module: nn.Module, inputs: Tensor, labels: Tensor, autocast: torch.autocast
    ) -> tuple[Tensor, Tensor]:
        """Return the share of the teacher's features that is missed, and the student's logits.

        Raises:
            ValueError: the teacher has no features for these images.
        """
        with torch.no_grad(), autocast:
            forward(self.teacher, inputs)
        with autocast:
            logits = classify(module, inputs)
        target = self.teacher_feature().float()
        size = target.square().sum()
        if not size:
            raise ValueError(
                f"at: the teacher's features at the {self.place} are all zero for {len(inputs)} "
                "images, so there is nothing to regress; choose another layer"
            )
        missed = (self.student_feature().float() - target).square().sum()
        return missed / size, logits
