"""What can be chosen, and what is taken where nothing is said: a default stands here and only here.

Signatures and command-line options read it from here. This module needs the standard library alone,
so that every room may import it.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar, get_args

Backend = Literal["auto", "fused", "reference"]
"""What matches regions, see `ops.choose`."""

WeightsOf = Literal["scored", "conditioning"]
"""Whose w and v weigh a match, see `method.RegionImportance`."""

Recipe = Literal["default", "paper", "authors"]
"""Settings that go together, see `RECIPES`."""

Responsibilities = Literal["network", "posterior"]
"""Whose P(y|x) an EM step of the samples takes, see `method.SampleProjection`."""

SimilarityOf = Literal["logits", "probabilities"]
"""What the cosine of two images is of."""

Matches = Literal["projected", "raw"]
"""Where regions look for their match while Lambda is learned, see `method.RegionalProjection`."""

StrengthScale = Literal["last layer", "own mean"]
"""What the mean strength of a layer is brought to, see `method.normalise_strengths`."""

Solver = Literal["lbfgs", "sgd"]
"""What minimises the losses."""

Precision = Literal["float32", "bfloat16"]
"""Of a network's forward pass."""

BuiltinModel = Literal[
    "small_vgg28",
    "small_vgg64",
    "scene_vgg",
    "vgg16_pooled",
    "resnet34_stride1",
    "resnet50_stride1",
]
"""Networks that the package brings, see `network.load_model`."""

ShippedImages = Literal["digits", "digit-scenes"]
"""Images that need no folder, see `data.SHIPPED`."""

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


def require_count(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        ValueError: it is less.
        TypeError: it is no whole number.
    """
    if not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected a whole number, got {value!r}")
    if int(value) < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def require_real(name: str, value: object, *, zero: bool = False) -> None:
    """Refuse what is no finite number above 0, or from 0 on where `zero` says so.

    Raises:
        ValueError: it is less, or not finite.
        TypeError: it is no number.
    """
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: expected {'at least' if zero else 'above'} 0, got {value}")


def require_grid(grid: object) -> None:
    """Refuse what is no height and width of a grid.

    Raises:
        ValueError: other than two whole numbers of at least 1.
    """
    sides = grid if isinstance(grid, tuple | list) else ()
    whole = all(isinstance(side, numbers.Integral) and int(side) >= 1 for side in sides)
    if len(sides) != 2 or not whole:
        raise ValueError(f"grid: expected (H, W), two numbers of at least 1, got {grid!r}")


RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    # As it is printed, with what it leaves open at the default.
    "paper": {
        "responsibilities": "posterior",
        "include_self": True,
        "importance_weights_of": "scored",
        "importance_solver": "lbfgs",
        "importance_evals": 40,
        "kappa_tilde": 1000.0,
        "sample_prior": 0.0,
        "region_prior": 0.0,
    },
    # Those of the first author's published code, LMJJJJJJ/nn-visualizer (docs/method.md).
    "authors": {
        "temperature": 4.0,
        "similarity_of": "probabilities",
        "kappa_p": 5.0,
        "kappa_tilde": 1000.0,
        "matches": "raw",
        "weights_of": "conditioning",
        "strength_gradient": False,
        "normaliser": False,
        "sample_base": 10.0,
        "region_base": 1000.0,
        "strength_scale": "own mean",
        "point_priors": False,
        "sample_prior": 0.0,
        "region_prior": 0.0,
        "solver": "sgd",
        "importance_rate": 0.05,
        "importance_evals": 20,
        "regional_evals": 20,
        "pairs": 100,
    },
}
"""Recipe -> what differs in it from the defaults."""

Made = TypeVar("Made")


def _after_its_recipe(kind: type[Made]) -> type[Made]:
    """Let what is not given to a constructor be as `recipe` has it; what is given stands."""
    plain = kind.__init__

    @functools.wraps(plain)
    def made(self: Made, recipe: str = "default", **given: Any) -> None:
        require_choice("recipe", recipe, Recipe)
        plain(self, **{"recipe": recipe, **RECIPES[recipe], **given})

    kind.__init__ = made  # type: ignore[method-assign, assignment]
    return kind


@_after_its_recipe
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be chosen about the fits (docs/method.md).

    What is not given is as the recipe has it; what is given stands beside any recipe.

    Attributes:
        recipe: "default", "paper" as it is printed, or "authors" as their code has it, see
            `RECIPES`.
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
            checkpoint. By gradient descent: its steps for w and v, and for Lambda passes over the
            images, with a step for each of them.
        pairs: other images that each image is scored against in an evaluation of these fits, drawn
            anew in each round of them; None: all, in time and memory of their number squared.
        weights_of: whose w and strengths weigh the match of two images while Lambda is learned,
            "scored" (Eq. 7) or "conditioning" (as the authors' code).
        importance_weights_of: whose w and v weigh it while these are learned; "scored" is Eq. 11.
        include_self: whether an image takes part in its own similarities.
        responsibilities: whose P(y|x) an EM step takes, the "network"'s own or the "posterior" of
            the mixture (Eq. 15).
        similarity_of: what P of two images is the cosine of, "logits" or the network's
            "probabilities" at `temperature`.
        kappa_p: concentration of that P; None: solved for (docs/method.md).
        kappa_tilde: concentration of the matches of w and v; None: 1.5 K.
        matches: where regions look for their match while Lambda is learned: among the "projected",
            at every evaluation, or once among the "raw" ones, weighted by v.
        strength_gradient: whether the loss of Lambda has a gradient through strengths.
        normaliser: whether log C takes part in T (Eq. 8); of strengths of the conditioning image
            it cancels.
        sample_base, region_base: concentration of clean features around their direction, of which
            kappa(l) is made; None: infinite.
        strength_scale: mean strength that each layer is brought to: that of the "last layer", or 1,
            by its "own mean".
        point_priors: whether the priors of categories take part in p(y|h).
        sample_prior, region_prior: weights of the mean squared strength in the losses.
        solver: of M and Lambda, "lbfgs" or "sgd", gradient descent with momentum 0.9 and decay
            5e-4.
        importance_solver: of w and v.
        sample_rate, regional_rate: rates of gradient descent for M, for Lambda.
        importance_rate: that for w and v; None: in proportion to their shares, 0.3 / R and 0.3 / K.
        random_state: seed of the split and of restarts.

    Examples:
        >>> from emergence_ext.run import Settings
        >>> Settings(dim=4).changed
        {'dim': 4}
        >>> Settings(recipe="authors").solver
        'sgd'
    """

    recipe: Recipe = "default"
    dim: int = 3
    alpha: float = 0.1
    temperature: float = 1.0
    tau: float | None = None
    held_out: float = 0.4
    sample_images: int = 3000
    region_images: int = 300
    keep_features: int = 256
    importance_evals: int = 5
    regional_evals: int = 60
    pairs: int | None = None
    weights_of: WeightsOf = "scored"
    importance_weights_of: WeightsOf = "conditioning"
    include_self: bool = False
    responsibilities: Responsibilities = "network"
    similarity_of: SimilarityOf = "logits"
    kappa_p: float | None = None
    kappa_tilde: float | None = None
    matches: Matches = "projected"
    strength_gradient: bool = True
    normaliser: bool = True
    sample_base: float | None = None
    region_base: float | None = None
    strength_scale: StrengthScale = "last layer"
    point_priors: bool = True
    sample_prior: float = 1e-3
    region_prior: float = 1e-2
    solver: Solver = "lbfgs"
    importance_solver: Solver = "sgd"
    sample_rate: float = 1e-3
    importance_rate: float | None = None
    regional_rate: float = 0.01
    random_state: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            kind = _NUMBERS.get(str(one.type).removesuffix(" | None"))
            value = getattr(self, one.name)
            if kind is None or (value is None and str(one.type).endswith(" | None")):
                continue
            if not isinstance(value, kind):
                expected = f"a number ({one.type})" if kind is not bool else "True or False"
                raise TypeError(f"{one.name} must be {expected}, got {value!r}")
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
            *((n, _positive(getattr(self, n)), "positive") for n in _POSITIVE),
            *((n, 0 <= getattr(self, n) < math.inf, "at least 0") for n in _PRIORS),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")
        for name, choices in CHOICES.items():
            require_choice(name, getattr(self, name), choices)
        if self.solver == "lbfgs" and not self.strength_gradient:
            raise ValueError(
                "strength_gradient = False leaves a gradient that is of no loss, which L-BFGS "
                'cannot follow; take solver = "sgd" with it, or strength_gradient = True'
            )

    @property
    def in_words(self) -> str:
        """Which recipe, and what stands beside it, for a log and a report."""
        beside = ", ".join(f"{name} = {value}" for name, value in self.changed.items())
        return f"recipe {self.recipe!r}" + (f" with {beside}" if beside else "")

    @property
    def changed(self) -> dict[str, Any]:
        """What stands beside the recipe: the fields of a fit that differ from it, by name."""
        of_recipe = Settings(recipe=self.recipe)
        names = {name for recipe in RECIPES.values() for name in recipe}
        names |= {"alpha", "dim", *_POSITIVE, *_PRIORS}
        return {
            name: getattr(self, name)
            for name in Settings.__dataclass_fields__
            if name in names and getattr(self, name) != getattr(of_recipe, name)
        }


_NUMBERS: Final[Mapping[str, type]] = {
    "int": numbers.Integral,
    "float": numbers.Real,
    "bool": bool,
}
_POSITIVE: Final = (
    "kappa_p", "kappa_tilde", "sample_base", "region_base", "sample_rate", "importance_rate",
    "regional_rate",
)  # fmt: skip
_PRIORS: Final = ("sample_prior", "region_prior")
CHOICES: Final[Mapping[str, Any]] = {
    "weights_of": WeightsOf,
    "importance_weights_of": WeightsOf,
    "responsibilities": Responsibilities,
    "similarity_of": SimilarityOf,
    "matches": Matches,
    "strength_scale": StrengthScale,
    "solver": Solver,
    "importance_solver": Solver,
}
"""Settings that are words, and which."""


def _positive(value: float | None) -> bool:
    return value is None or 0 < value < math.inf


BEFORE: Final[Mapping[str, Any]] = {
    "sample_images": 3000,
    "keep_features": 256,
    "pairs": None,
    "recipe": "default",
    "weights_of": "scored",
    "responsibilities": "network",
    "similarity_of": "logits",
    "kappa_p": None,
    "kappa_tilde": None,
    "matches": "projected",
    "strength_gradient": True,
    "normaliser": True,
    "sample_base": None,
    "region_base": None,
    "strength_scale": "last layer",
    "point_priors": True,
    "sample_prior": 1e-3,
    "region_prior": 1e-2,
    "solver": "lbfgs",
    "sample_rate": 1e-3,
    "importance_rate": 0.05,
    "regional_rate": 0.01,
}
"""Fields of `Settings` that runs of earlier versions do not note, as these had them."""


def with_later(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as some version noted them, with what it did not know yet."""
    before = {**BEFORE, **noted}
    of_all = {f"importance_{name}": before[name] for name in ("solver", "weights_of")}
    return {**before, **of_all, **noted}


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
        if isinstance(self.images, numbers.Integral):
            object.__setattr__(self, "images", str(self.images))
        require_count("steps", self.steps, 0)
        require_count("random_state", self.random_state, 0)
        for name, value in (("eps", self.eps), ("step", self.step), ("tau", self.tau)):
            if value is not None and not isinstance(value, numbers.Real):
                raise TypeError(f"{name}: expected a number, got {value!r}")
        for name, holds, expected in (
            ("eps", 0 < self.eps <= 1, "above 0 and at most 1, the range of a pixel"),
            ("step", self.step is None or 0 < self.step <= 1, "above 0 and at most 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("tau", self.tau is None or 0 < self.tau < 1, "between 0 and 1"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)}")
        if not isinstance(self.images, str):
            raise TypeError(f"images: expected {words(Attacked)}, or a number, got {self.images!r}")
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
