"""Settings against the images at hand: what cannot hold is found before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from emergence_ext.method import check_tau, usual_tau
from emergence_ext.settings import PAPER_TAU, Settings

logger = logging.getLogger(__name__)


def settled(
    settings: Settings, y: Tensor, categories: Sequence[str], *, kappa_p: float | None = None
) -> Settings:
    """Return settings with the tau that the categories have, after holding them against the images.

    Args:
        settings: of the fits.
        y: labels, `[N]`.
        categories: names, `[C]`.
        kappa_p: concentration that is given; None: that of the settings, or one that has to be
            solved for.

    Raises:
        ValueError: one category, a tau that every region passes, or too few images.
    """
    kappa_p = settings.kappa_p if kappa_p is None else kappa_p
    C = len(categories)
    if C < 2:
        raise ValueError("categories: one category leaves nothing to tell apart; give two or more")
    if settings.tau is None:
        settings = replace(settings, tau=usual_tau(C))
        if settings.tau != PAPER_TAU:
            logger.info("tau = %g, as there are %d categories", settings.tau, C)
    check_tau(settings.tau or 0, C)
    held_out, chosen = split_images(y, settings)
    fitted = ~held_out
    if kappa_p is None and settings.sample_images < 2 * C:
        raise ValueError(
            f"sample_images = {settings.sample_images} is too few for {C} categories; give at "
            f"least {2 * C} (--sample-images)"
        )
    if kappa_p is None and int(fitted.sum()) < 2 * C:
        raise ValueError(
            f"held_out = {settings.held_out} of {len(y)} images leaves {int(fitted.sum())} to fit; "
            f"{C} categories need at least {2 * C}: these images are too few, give more of them"
        )
    counts = [torch.bincount(y[part], minlength=C) for part in (fitted, held_out)]
    there = counts[0] + counts[1] > 0
    for c in (there & (counts[0] == 0)).nonzero().flatten().tolist():
        raise ValueError(
            f"held_out = {settings.held_out} leaves no image of category {categories[c]!r} to fit, "
            f"which has {int(counts[1][c])}; give it more images, or leave it out"
        )
    bare = [categories[c] for c in (there & (counts[1] == 0)).nonzero().flatten().tolist()]
    if bare:
        logger.warning("no image is held out of %s: nothing is reported of it", ", ".join(bare))
    if len(chosen) < C:
        logger.warning(
            "regions are learned on %d images, fewer than the %d categories; give a larger "
            "region_images",
            len(chosen),
            C,
        )
    return settings


def split_images(y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Choose images, balanced over categories.

    Args:
        y: labels, `[N]`.
        settings: of the fits.

    Returns:
        Which images are held out, `[N]` bool, and the indices of those that regions are learned on.

    Raises:
        ValueError: so few images that none are left to fit or to hold out.
    """
    generator = torch.Generator().manual_seed(settings.random_state)
    shuffled = torch.randperm(len(y), generator=generator)
    by_category = shuffled[torch.argsort(y[shuffled], stable=True)]
    held_out = torch.zeros(len(y), dtype=torch.bool)
    held_out[evenly(by_category, round(settings.held_out * len(y)))] = True
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"held_out = {settings.held_out} of {len(y)} images leaves none to fit or none to "
            "report on; give more images"
        )
    fitted = (~held_out).nonzero().flatten()
    if len(fitted) > settings.region_images:
        by_category = fitted[torch.argsort(y[fitted], stable=True)]
        fitted = evenly(by_category, settings.region_images).sort().values
    return held_out, fitted


def sample_images(held_out: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Choose the images that M and the frame are learned on, balanced over categories.

    Args:
        held_out: as from `split_images`, `[N]` bool.
        y: labels, `[N]`.
        settings: of the fits.

    Returns:
        Indices, `[m]`, ascending: all fitted images where they are few enough.
    """
    fitted = (~held_out).nonzero().flatten()
    if len(fitted) <= settings.sample_images:
        return fitted
    order = fitted[torch.argsort(y[fitted], stable=True)]
    return evenly(order, settings.sample_images).sort().values


def kept_images(held_out: Tensor, region_images: Tensor, y: Tensor) -> Tensor:
    """Choose the images whose features are kept where there are many.

    Those that regions are learned on, and as many held-out ones, which new images are compared
    with.

    Args:
        held_out, region_images: as from `split_images`.
        y: labels, `[N]`.

    Returns:
        Indices, `[m]`, ascending.
    """
    out = held_out.nonzero().flatten()
    out = out[torch.argsort(y[out], stable=True)]
    return torch.cat([region_images, evenly(out, min(len(out), len(region_images)))]).sort().values


def evenly(order: Tensor, count: int) -> Tensor:
    """`count` elements of `order`, at even distances: of sorted things as many of every kind."""
    return order[torch.arange(count) * len(order) // max(count, 1)]
