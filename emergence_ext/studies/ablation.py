"""What the correlation of strength with importance depends on, one choice at a time (Table 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext.data import balanced_order
from emergence_ext.method import (
    KAPPA_TILDE,
    Frame,
    pearson,
)
from emergence_ext.run import (
    frame_of_regions,
    image_similarities,
    region_importance,
    regional_projection,
    settled_kappa_p,
)
from emergence_ext.settings import (
    RECIPES,
    Backend,
    Matches,
    Recipe,
    Settings,
    Solver,
    WeightsOf,
    require_choice,
)
from emergence_ext.store import Saved, digest, once

logger = logging.getLogger(__name__)

Centring = Literal["none", "for w and v", "for Lambda too"]
Similarity = Literal["logits", "centred logits", "probabilities", "probabilities at 4"]
Descent = Literal["lbfgs", "sgd", "sgd, strengths without gradient"]

FACTORS: Final = {
    "alpha": "alpha",
    "images": "images",
    "kappa_p": "kappa_p, multiple of the solved one",
    "kappa_tilde": "kappa_tilde, multiple of K",
    "importance_evals": "evaluations for w and v",
    "include_self": "pair i = j",
    "normaliser": "log C in T",
    "centring": "centring of F",
    "similarity": "P is of",
    "given_kappa_p": "kappa_p itself",
    "weights_of": "T by strengths of the image that is",
    "importance_weights_of": "w and v of the image that is",
    "matches": "matches for Lambda",
    "region_base": "clean concentration of regions",
    "region_prior": "prior on strength",
    "importance_solver": "solver of w and v",
    "solver": "solver of Lambda",
    "recipe": "whole recipe",
}
"""Field of `Choices` -> the words for it in tables and figures."""


@dataclass(frozen=True)
class Choices:
    """What is varied; the defaults are those of the method.

    Attributes:
        alpha: weight of the alignment of regions with their image.
        images: on which w, v and Lambda are learned.
        kappa_p: concentration of P, as a multiple of the one that is solved for.
        kappa_tilde: concentration of matches for w and v, as a multiple of the K channels.
        importance_evals: evaluations for w and v.
        include_self: whether the pair i = j takes part.
        normaliser: whether log C takes part in T.
        centring: whether the mean regional feature is taken off F.
        similarity: of what P is the similarity: logits, logits less their mean over categories,
            or the network's probabilities at temperature 1 or 4.
        given_kappa_p: concentration of P itself; None: solved for.
        weights_of, importance_weights_of, matches, region_base, region_prior: as of `Settings`.
        importance_solver: of w and v; "lbfgs" takes the evaluations of the paper's recipe.
        solver: of Lambda; "sgd" takes the steps, rate and pairs of the authors' recipe.
        recipe: "default", or one that all but alpha and images is of; samples stay the run's.
    """

    alpha: float = Settings.alpha
    images: int = 100
    kappa_p: float = 1.0
    kappa_tilde: float = KAPPA_TILDE
    importance_evals: int = Settings.importance_evals
    include_self: bool = Settings.include_self
    normaliser: bool = True
    centring: Centring = "none"
    similarity: Similarity = "logits"
    given_kappa_p: float | None = None
    weights_of: WeightsOf = Settings.weights_of
    importance_weights_of: WeightsOf = Settings.importance_weights_of
    matches: Matches = "projected"
    region_base: float | None = None
    region_prior: float = Settings.region_prior
    importance_solver: Solver = Settings.importance_solver
    solver: Descent = "lbfgs"
    recipe: Recipe = "default"

    def __post_init__(self) -> None:
        require_choice("centring", self.centring, Centring)
        require_choice("similarity", self.similarity, Similarity)

    def settings(self, channels: int, regional_evals: int) -> Settings:
        """The settings of its fits, for layers of so many channels."""
        if self.recipe != "default":
            whole = Settings(recipe=self.recipe, alpha=self.alpha)
            return replace(whole, regional_evals=min(regional_evals, whole.regional_evals))
        steps: dict[str, Any] = {
            "importance_evals": self.importance_evals, "regional_evals": regional_evals,
        }  # fmt: skip
        if self.importance_solver != Settings.importance_solver:
            steps["importance_evals"] = RECIPES["paper"]["importance_evals"]
        if self.solver != "lbfgs":
            names = ("solver", "regional_evals", "pairs")
            steps |= {name: RECIPES["authors"][name] for name in names}
            steps["regional_evals"] = min(regional_evals, steps["regional_evals"])
            steps["strength_gradient"] = self.solver == "sgd"
        return Settings(
            alpha=self.alpha,
            temperature=4.0 if self.similarity == "probabilities at 4" else 1.0,
            similarity_of="probabilities" if "prob" in self.similarity else "logits",
            include_self=self.include_self,
            kappa_tilde=self.kappa_tilde * channels,
            normaliser=self.normaliser,
            kappa_p=self.given_kappa_p,
            weights_of=self.weights_of,
            importance_weights_of=self.importance_weights_of,
            matches=self.matches,
            region_base=self.region_base,
            region_prior=self.region_prior,
            importance_solver=self.importance_solver,
            **steps,
        )


def variants(
    default: Choices, available: int, channels: int | None = None
) -> list[tuple[str, Choices]]:
    """One factor at a time around the default, which comes first in the order of its levels.

    Args:
        default: what all other factors are at.
        available: images that there are; levels above are left out.
        channels: K, with which the paper's kappa_tilde of 1000 is a level too.

    Returns:
        `(field of Choices, choices)` pairs; every factor has the default among its levels.

    Examples:
        >>> from emergence_ext import studies
        >>> default = studies.ablation.Choices()
        >>> len(studies.ablation.variants(default, available=100)) > 10
        True
    """
    n, evals = default.images, default.importance_evals
    tildes = {KAPPA_TILDE * m for m in (0.25, 0.5, 1.0, 2.0, 4.0)}
    tildes |= {1000 / channels} if channels else set()
    levels: dict[str, Sequence[Any]] = {
        "alpha": sorted({0.0, 0.1, 1.0, 10.0, default.alpha}),
        "images": sorted({n, *(m for m in (n // 4, n // 2, 2 * n) if 8 <= m <= available)}),
        "kappa_p": (0.25, 0.5, 1.0, 2.0, 4.0),
        "kappa_tilde": sorted(tildes),
        "importance_evals": sorted({max(evals // 4, 1), evals, 2 * evals, 4 * evals}),
        "include_self": (True, False),
        "normaliser": (True, False),
        "centring": ("none", "for w and v", "for Lambda too"),
        "similarity": get_args(Similarity),
        "given_kappa_p": (None, 5.0),
        "weights_of": get_args(WeightsOf),
        "importance_weights_of": get_args(WeightsOf),
        "matches": get_args(Matches),
        "region_base": (None, 1000.0),
        "region_prior": sorted({0.0, default.region_prior}),
        "importance_solver": get_args(Solver),
        "solver": get_args(Descent),
        "recipe": get_args(Recipe),
    }
    return [(name, replace(default, **{name: level})) for name in FACTORS for level in levels[name]]


@dataclass(frozen=True, eq=False)
class AblationFit(Saved):
    """Strength and importance of the regions of some images, learned with given choices.

    Attributes:
        choices: what was chosen.
        r: Pearson of `|h|` with `w` over the regions of each image, `[n]`.
        raw_r: the same of `|F|` with `w`, which needs no projection, `[n]`.
        importance_loss, similarity_loss: divergences that w, v and Lambda end at.
        mean_strength: of h.
        failure: why there is nothing, the arrays then empty; None where there is.
    """

    choices: Choices
    r: Tensor
    raw_r: Tensor
    importance_loss: float
    similarity_loss: float
    mean_strength: float
    failure: str | None = None


def ablation(
    F: Tensor,
    z: Tensor,
    y: Tensor,
    g: Tensor,
    frame: Frame,
    default: Choices | None = None,
    *,
    regional_evals: int = Settings.regional_evals,
    random_state: int = 0,
    backend: Backend = "auto",
    folder: Path | None = None,
) -> list[tuple[str, AblationFit]]:
    """Correlate `|h|` with `w` under each choice, the others at their default (Table 2).

    Fewer images are a part of more: `random_state` puts them into an order in which every beginning
    has the categories in equal shares. kappa_p is solved on all images that are given.

    Args:
        F: regional features of one layer, `[N, R, K]`, on the device that is to compute.
        z: logits, `[N, C]`.
        y: labels, `[N]`.
        g: projected sample features, `[N, dim]`.
        frame: the frame of g.
        default: what the choices are varied around.
        regional_evals: evaluations for Lambda.
        random_state: seed of the order of images.
        backend: what matches regions, see `backend.choose`.
        folder: where finished fits are kept and looked for.

    Returns:
        `(field of Choices, fit)` pairs; a default appears once for each factor.

    Raises:
        ValueError: fewer images than the default asks for.
    """
    default = default or Choices()
    if default.images > len(F):
        raise ValueError(
            f"images: {default.images} asked for, but only {len(F)} images are there that the "
            "frame was fitted to; ask for fewer"
        )
    made_from = {
        "features": digest([F, z, y]),
        "frame": frame.digest(),
        "regional_evals": str(regional_evals),
    }
    order = balanced_order(y, random_state)
    F, z, g = F[order.to(F.device)], z[order], g[order]
    done: dict[Choices, AblationFit] = {}
    fits = []
    planned = variants(default, len(F), F.shape[-1])
    with tqdm(total=len({c for _, c in planned}), desc="ablation", disable=None) as bar:
        for name, choices in planned:
            if choices not in done:
                bar.set_postfix_str(f"{FACTORS[name]} {level_in_words(name, choices)}")
                path = None if folder is None else folder / _file(choices, random_state)

                def make(choices: Choices = choices) -> AblationFit:
                    return _fit(F, z, g, frame, choices, regional_evals, backend)

                done[choices] = once(path, AblationFit, make, made_from)
                bar.update()
            fits.append((name, done[choices]))
    return fits


def level_in_words(name: str, choices: Choices) -> str:
    """Say what a factor is set to, as tables and figures show it."""
    value = getattr(choices, name)
    if name == "include_self":
        return "in" if value else "left out"
    if name == "normaliser":
        return "in" if value else "left out"
    if value is None:
        return "solved for" if name == "given_kappa_p" else "infinite"
    if name in ("kappa_p", "kappa_tilde"):
        return f"× {value:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _file(choices: Choices, random_state: int) -> str:
    values = [str(v).replace(" ", "_") for v in asdict(choices).values()]
    return "-".join([*values, str(random_state)])


def _fit(
    F: Tensor,
    z: Tensor,
    g: Tensor,
    frame: Frame,
    choices: Choices,
    regional_evals: int,
    backend: Backend,
) -> AblationFit:
    """Learn w, v and Lambda on the first images, all of them in a balanced order."""
    n = choices.images
    settings = choices.settings(F.shape[-1], regional_evals)
    if choices.similarity == "centred logits":
        z = z - z.mean(1, keepdim=True)
    # The mean is that of the images that are fitted: others are not looked at.
    raw = F[:n]
    centred = raw - raw.mean((0, 1))
    try:
        kappa_p = choices.kappa_p * settled_kappa_p(settings, z)
        P = image_similarities(settings, z[:n], kappa_p)
        P = P.to(F) if isinstance(P, Tensor) else P
        importance = region_importance(settings, backend).fit(
            raw if choices.centring == "none" else centred, P
        )
        regions = centred if choices.centring == "for Lambda too" else raw
        frame = frame_of_regions(settings, frame, kappa_p)
        projection = regional_projection(settings, frame, backend).fit(
            regions, importance.w_, P, g[:n].to(F), v=importance.v_
        )
    except ValueError as error:
        logger.warning("no fit with %s: %s", choices, error)
        none, nan = torch.empty(0), float("nan")
        return AblationFit(choices, none, none, nan, nan, nan, str(error))
    strength = projection.transform(regions).norm(dim=-1)
    return AblationFit(
        choices,
        pearson(strength, importance.w_).cpu(),
        pearson(raw.norm(dim=-1), importance.w_).cpu(),
        importance.stats_.losses[-1],
        projection.stats_.terms["similarity"],
        float(strength.mean()),
    )
