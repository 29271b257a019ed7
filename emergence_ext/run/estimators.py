"""What the settings of a run make of the method: every fit of every study gets its choices here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from emergence_ext.method import (
    ExactKappa,
    Frame,
    RegionalProjection,
    RegionImportance,
    SampleProjection,
    Similarity,
    similarity_for,
    solve_kappa_p,
)
from emergence_ext.settings import BEFORE, Backend, Settings


def sample_projection(settings: Settings, temperature: float | None = None) -> SampleProjection:
    """Give what learns M and the frame, at the temperature of the settings or another one.

    Examples:
        >>> from emergence_ext import run
        >>> run.sample_projection(run.Settings(dim=2))
        SampleProjection(dim=2), not fitted
    """
    return SampleProjection(
        dim=settings.dim,
        temperature=settings.temperature if temperature is None else temperature,
        responsibilities=settings.responsibilities,
        kappa=_kappa(settings.sample_base),
        strength_prior=settings.sample_prior,
        random_state=settings.random_state,
        solver=settings.solver,
        rate=settings.sample_rate,
    )


def region_importance(settings: Settings, backend: Backend = "auto") -> RegionImportance:
    """Give what learns w and v.

    Examples:
        >>> from emergence_ext import run
        >>> run.region_importance(run.Settings(importance_evals=8))
        RegionImportance(max_evals=8), not fitted
    """
    return RegionImportance(
        settings.kappa_tilde,
        settings.include_self,
        max_evals=settings.importance_evals,
        pairs=settings.pairs,
        weights_of=settings.importance_weights_of,
        random_state=settings.random_state,
        solver=settings.importance_solver,
        rate=settings.importance_rate,
        backend=backend,
    )


def regional_projection(
    settings: Settings, frame: Frame, backend: Backend = "auto"
) -> RegionalProjection:
    """Give what learns Lambda, in the `frame_of_regions`.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> frame = ee.Frame(torch.ones(3) / 3, torch.eye(3), ee.ExactKappa(3))
        >>> run.regional_projection(run.Settings(regional_evals=9), frame).max_evals
        9
    """
    return RegionalProjection(
        frame,
        settings.alpha,
        settings.include_self,
        settings.region_prior,
        pairs=settings.pairs,
        normaliser=settings.normaliser,
        max_evals=settings.regional_evals,
        random_state=settings.random_state,
        weights_of=settings.weights_of,
        matches=settings.matches,
        strength_gradient=settings.strength_gradient,
        solver=settings.solver,
        rate=settings.regional_rate,
        backend=backend,
    )


def frame_of_regions(settings: Settings, frame: Frame, kappa_p: float) -> Frame:
    """Give the frame that regions are learned and read in, from that of the samples.

    Args:
        settings: of the fits.
        frame: of `sample_projection`.
        kappa_p: concentration of the similarity between images.

    Examples:
        >>> import emergence_ext as ee
        >>> from emergence_ext import run
        >>> frame = ee.Frame(torch.ones(3) / 3, torch.eye(3), ee.ExactKappa(3))
        >>> run.frame_of_regions(run.Settings(), frame, kappa_p=4.0).kappa_p
        4.0
    """
    C = len(frame.priors)
    priors = frame.priors if settings.point_priors else torch.full_like(frame.priors, 1 / C)
    kappa = frame.kappa
    if settings.region_base != settings.sample_base:
        kappa = _kappa(settings.region_base)(settings.dim)
    return replace(frame, priors=priors, kappa=kappa, kappa_p=kappa_p)


def compared(settings: Settings, z: Tensor) -> Tensor:
    """Give what two images are compared by: their logits, or their tempered probabilities.

    Examples:
        >>> from emergence_ext import run
        >>> run.compared(run.Settings(similarity_of="probabilities"), torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    if settings.similarity_of == "logits":
        return z
    return torch.softmax(z.float() / settings.temperature, dim=1)


def settled_kappa_p(settings: Settings, z: Tensor) -> float:
    """Give kappa_p: that of the settings, or the one that is solved for on logits z `[N, C]`.

    Examples:
        >>> from emergence_ext import run
        >>> run.settled_kappa_p(run.Settings(kappa_p=4.0), torch.randn(6, 3))
        4.0
    """
    if settings.kappa_p is not None:
        return settings.kappa_p
    return solve_kappa_p(compared(settings, z), include_self=settings.include_self)


def image_similarities(settings: Settings, z: Tensor, kappa_p: float) -> Similarity:
    """Give P of images from their logits z `[N, C]`, as fits take it.

    Examples:
        >>> from emergence_ext import run
        >>> run.image_similarities(run.Settings(), torch.randn(6, 3), kappa_p=4.0).shape
        torch.Size([6, 6])
    """
    return similarity_for(
        compared(settings, z), kappa_p, settings.pairs, include_self=settings.include_self
    )


def origins_of_choices(settings: Settings) -> dict[str, str]:
    """Name the choices of a fit that differ from those of versions that knew no others."""
    choices = {name: getattr(settings, name) for name in _OF_FITS}
    # What now can be another one for w and v was that of all fits.
    of_all = {f"importance_{name}": getattr(settings, name) for name in ("solver", "weights_of")}
    before = {**BEFORE, **of_all}
    origins = {name: str(x) for name, x in choices.items() if x != before[name]}
    if settings.pairs is not None:
        origins["pairs"] = f"{settings.pairs}, drawn by {settings.random_state}"
    return origins


_OF_FITS = (
    "weights_of", "importance_weights_of", "similarity_of", "kappa_p", "kappa_tilde", "matches",
    "strength_gradient", "normaliser", "sample_base", "region_base", "responsibilities",
    "sample_prior", "region_prior", "point_priors", "solver", "importance_solver", "sample_rate",
    "importance_rate", "regional_rate",
)  # fmt: skip


def _kappa(base: float | None) -> Callable[[int], ExactKappa]:
    return ExactKappa if base is None else partial(ExactKappa, base=base)
