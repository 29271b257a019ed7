"""What can be chosen, and what is taken where nothing is said: a default stands here and only here.

Signatures and command-line options read it from here. This module needs the standard library alone,
so that every room may import it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

Backend = Literal["auto", "fused", "reference"]
"""What matches regions, see `ops.choose`."""

WeightsOf = Literal["scored", "conditioning"]
"""Whose w and v weigh a match, see `method.RegionImportance`."""

Precision = Literal["float32", "bfloat16"]
"""Of a network's forward pass."""

BuiltinModel = Literal[
    "small_vgg28", "small_vgg64", "vgg16_pooled", "resnet34_stride1", "resnet50_stride1"
]
"""Networks that the package brings, see `network.load_model`."""

Preprocessing = Literal["none", "imagenet", "caffe", "inception", "clip"]
"""How images in 0..1 become a network's input, see `network.preprocess`."""

ExportFormat = Literal["parquet", "csv"]
"""Of the files that other programs read."""

Attacked = Literal["held-out", "all"]
"""Which images of a run an attack takes, where it is told no number of them."""

Technique = Literal[
    "activations",
    "filters",
    "excite",
    "codes",
    "occlusion",
    "gradients",
    "inversion",
    "correspondence",
    "attributes",
    "fooling",
    "annotators",
]
"""Ways to look inside a network, in the order in which they are shown."""


PAPER_TAU: Final = 0.4
"""Threshold of knowledge points of the paper, which has ten categories or more."""


def words(choices: Any) -> str:
    """Name the words of a `Literal`, for a help text or an error."""
    return ", ".join(get_args(choices))


def require_choice(name: str, value: object, choices: Any) -> None:
    """Refuse what is none of the words of a `Literal`.

    Raises:
        ValueError: names it.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {words(choices)}, got {value!r}")


@dataclass(frozen=True)
class Settings:
    """What can be chosen about the fits; defaults are those of the method (docs/method.md).

    Attributes:
        dim: projected width.
        alpha: weight of the alignment of regions with their sample.
        temperature: of the network's softmax.
        tau: threshold of knowledge points; None: the paper's 0.4, or 1.2 / C where that is more, so
            0.6 for two categories, of which every region passes 0.4.
        held_out: share of the images that no fit sees; what is reported is reported on them.
        sample_images: images on which M, the frame and kappa_p are learned, at most, balanced over
            categories; kappa_p takes 4 bytes of memory for each pair of them.
        region_images: images on which w, v and Lambda are learned, at most; from the fitted ones.
        keep_features: MiB of features of a checkpoint up to which those of all images are kept. Of
            more, only those that fits need are: all images go through the network once more when
            the fits are done, and h is kept in half precision, on disk.
        importance_evals, regional_evals: evaluations of loss and gradient at most, per layer and
            checkpoint.
        pairs: other images that each image is scored against in an evaluation of these fits, drawn
            anew in each round of them; None: all, in time and memory of their number squared.
        weights_of: whose w and v weigh the match of two images, "scored" (Eq. 7, 11) or
            "conditioning" (as the authors' code).
        include_self: whether an image takes part in its own similarities.
        random_state: seed of the split and of restarts.
    """

    dim: int = 3
    alpha: float = 0.1
    temperature: float = 1.0
    tau: float | None = None
    held_out: float = 0.4
    sample_images: int = 3000
    region_images: int = 300
    keep_features: int = 256
    importance_evals: int = 40
    regional_evals: int = 60
    pairs: int | None = None
    weights_of: WeightsOf = "scored"
    include_self: bool = True
    random_state: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("dim", self.dim >= 2, "at least 2"),
            ("alpha", 0 <= self.alpha < math.inf, "at least 0"),
            ("temperature", 0 < self.temperature < math.inf, "positive"),
            ("tau", self.tau is None or 0 < self.tau < 1, "between 0 and 1"),
            ("held_out", 0 < self.held_out < 1, "between 0 and 1"),
            ("sample_images", self.sample_images >= 4, "at least 4"),
            ("region_images", self.region_images >= 2, "at least 2"),
            ("keep_features", self.keep_features >= 0, "at least 0"),
            ("pairs", self.pairs is None or self.pairs >= 2, "at least 2"),
            ("importance_evals", self.importance_evals >= 1, "at least 1"),
            ("regional_evals", self.regional_evals >= 1, "at least 1"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")
        require_choice("weights_of", self.weights_of, WeightsOf)


LATER: Final = ("sample_images", "keep_features", "pairs", "weights_of")
"""Fields of `Settings` that runs of earlier versions do not note: they had the default."""


def with_later(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as some version noted them, with what it did not know yet."""
    defaults = {name: Settings.__dataclass_fields__[name].default for name in LATER}
    return {**defaults, **noted}


@dataclass(frozen=True)
class AttackSettings:
    """What can be chosen about an attack; defaults are the paper's.

    Attributes:
        eps: most that a pixel in 0..1 may change.
        step: by how much it changes in a step; None: a tenth of eps.
        steps: number of steps.
        tau: a region is important for a category where its p is above; None: the run's.
        images: "held-out" images of the run, "all", or a number: so many of the held-out ones.
        random_state: seed of the choice and order of images, and of intervals.
    """

    eps: float = 1 / 255
    step: float | None = None
    steps: int = 20
    tau: float | None = None
    images: str = "held-out"
    random_state: int = 0

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("eps", 0 < self.eps <= 1, "above 0 and at most 1, the range of a pixel"),
            ("step", self.step is None or 0 < self.step <= 1, "above 0 and at most 1"),
            ("steps", self.steps >= 1, "at least 1"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")
        number = self.images.isascii() and self.images.isdigit() and int(self.images) > 0
        if not number and self.images not in get_args(Attacked):
            raise ValueError(
                f"images: expected {words(Attacked)}, or a number of images, got {self.images!r}"
            )

    @property
    def stride(self) -> float:
        """By how much a pixel changes in a step."""
        return self.eps / 10 if self.step is None else self.step


@dataclass(frozen=True)
class ShapleySettings:
    """How well Shapley values are known before their sampling ends.

    Attributes:
        samples: permutations of an image at most.
        error: standard error to reach, as a share of the spread over the regions of an image.
    """

    samples: int = 400
    error: float = 0.1
