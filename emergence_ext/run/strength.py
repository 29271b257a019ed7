"""Does length tell anything? Strength against uncertainty and against importance (Tables 1, 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from emergence_ext import parallel
from emergence_ext.method import (
    PCA,
    Frame,
    RegionalProjection,
    SampleProjection,
    Similarity,
    entropy,
    pearson,
    stratified_folds,
)
from emergence_ext.run.estimators import origins_of_choices, regional_projection
from emergence_ext.settings import Backend, Settings
from emergence_ext.store import Saved, once

TEMPERATURES: Final = (1.0, 2.0, 4.0)
"""Of the softmax whose entropy is taken, in every run."""


def temperatures(own: float) -> list[float]:
    """The temperatures of a run: the usual ones, and its own."""
    return sorted({*TEMPERATURES, own})


@dataclass(frozen=True, eq=False)
class StrengthEntropy(Saved):
    """Strength of sample features beside the entropy of the network's output, at one temperature.

    Every strength is that of an image that its projection was not fitted to.

    Attributes:
        temperature: of the softmax.
        entropy: `[N]`, nats.
        strength: `|g|`, `[N]`.
        pca_strength: distance from the mean of the fitted points in as many principal components,
            `[N]`.
        r, pca_r: Pearson correlation with the entropy.
        fitted_r, pca_fitted_r: the same on the fitted images, mean over folds.
        mean_cosine: between category directions, mean over folds; near 1 the fit would have
            collapsed.
        images: indices of the `N` images in the run, where these are some of many; None: all.

    Examples:
        >>> import emergence_ext as ee
        >>> row = ee.FinishedRun.open("runs/demo").strengths()[0]
        >>> row.temperature, row.entropy.shape, -1 <= row.r <= 1
        (1.0, torch.Size([48]), True)
    """

    temperature: float
    entropy: Tensor
    strength: Tensor
    pca_strength: Tensor
    r: float
    pca_r: float
    fitted_r: float
    pca_fitted_r: float
    mean_cosine: float
    images: Tensor | None = None

    @property
    def mean_entropy(self) -> float:
        """How unsure the network is, nats."""
        return float(self.entropy.mean())


def strength_entropy(
    f: Tensor,
    z: Tensor,
    y: Tensor,
    temperatures: Sequence[float],
    *,
    make: Callable[[float], SampleProjection] = lambda t: SampleProjection(temperature=t),
    folds: int = 5,
    random_state: int = 0,
) -> dict[float, StrengthEntropy | str]:
    """Correlate strength with entropy on images that were not fitted, also for PCA (Table 1).

    Within a job the fits, one of each fold and temperature, are shared by its processes, which call
    this together.

    Args:
        f: sample features, `[N, E]`.
        z: logits, `[N, C]`.
        y: labels, `[N]`, by which the folds are balanced.
        temperatures: of the network's softmax.
        make: the projection to fit, from a temperature.
        folds: parts, each of which is left out once.
        random_state: seed of the folds.

    Returns:
        Temperature -> the study, or why there is none: features that cannot be fitted there.

    Raises:
        ValueError: fewer images than folds.
        PeerError: a process of the job ended.
    """
    fold = stratified_folds(y, folds, random_state)
    tasks = list(product(temperatures, range(folds)))
    own: dict[tuple[float, int], _LeftOut | str] = {}
    for temperature, k in tasks[parallel.rank() :: parallel.world()]:
        try:
            own[temperature, k] = _left_out(f, z, temperature, fold == k, make(temperature))
        except ValueError as error:
            own[temperature, k] = str(error)
    done = {task: part for parts in parallel.gathered_objects(own) for task, part in parts.items()}
    found: dict[float, StrengthEntropy | str] = {}
    for temperature in temperatures:
        parts = [done[temperature, k] for k in range(folds)]
        good = [part for part in parts if not isinstance(part, str)]
        failed = [part for part in parts if isinstance(part, str)]
        found[temperature] = failed[0] if failed else _of_folds(fold, z, temperature, good)
    return found


class _LeftOut(NamedTuple):
    """What a fit without the images of a fold says."""

    strength: Tensor  # of those images, by the projection
    pca_strength: Tensor
    fitted_r: float  # Pearson with the entropy on the images that it saw
    pca_fitted_r: float
    mean_cosine: float


def _left_out(
    f: Tensor, z: Tensor, temperature: float, out: Tensor, projection: SampleProjection
) -> _LeftOut:
    """Fit what is not left out."""
    kept, uncertainty = ~out, entropy(z, temperature)
    projection.fit(f[kept], z[kept])
    pca = PCA(projection.dim).fit(f[kept])
    ours, theirs = projection.transform(f).norm(dim=1), pca.transform(f).norm(dim=1)
    return _LeftOut(
        ours[out],
        theirs[out],
        float(pearson(ours[kept], uncertainty[kept])),
        float(pearson(theirs[kept], uncertainty[kept])),
        projection.stats_.terms["mean_cosine"],
    )


def _of_folds(
    fold: Tensor, z: Tensor, temperature: float, parts: Sequence[_LeftOut]
) -> StrengthEntropy:
    """Put the folds of a temperature together."""
    strength, pca_strength = torch.empty(len(z)), torch.empty(len(z))
    for k, part in enumerate(parts):
        strength[fold == k], pca_strength[fold == k] = part.strength, part.pca_strength
    uncertainty = entropy(z, temperature)
    return StrengthEntropy(
        temperature,
        uncertainty,
        strength,
        pca_strength,
        r=float(pearson(strength, uncertainty)),
        pca_r=float(pearson(pca_strength, uncertainty)),
        fitted_r=sum(part.fitted_r for part in parts) / len(parts),
        pca_fitted_r=sum(part.pca_fitted_r for part in parts) / len(parts),
        mean_cosine=sum(part.mean_cosine for part in parts) / len(parts),
    )


@dataclass(frozen=True)
class ImportanceStrength:
    """Strength of regional features beside the importance of regions, per image, for one alpha.

    Attributes:
        alpha: weight of the alignment.
        r: Pearson of `|h|` with `w` over the regions of each image, `[N]`.
        raw_r: the same of `|F|` with `w`, which needs no projection, `[N]`.
        projection: the fitted projection.

    Examples:
        >>> import emergence_ext as ee
        >>> run = ee.FinishedRun.open("runs/demo")
        >>> run.other_alphas()  # none were asked for
        []
    """

    alpha: float
    r: Tensor
    raw_r: Tensor
    projection: RegionalProjection


def importance_strength(
    F: Tensor,
    w: Tensor,
    P: Similarity,
    g: Tensor,
    frame: Frame,
    alphas: Sequence[float] = (0.1, 1.0, 10.0),
    *,
    settings: Settings | None = None,
    v: Tensor | None = None,
    mask: Tensor | None = None,
    backend: Backend = "auto",
    folder: Path | None = None,
    made_from: Mapping[str, str] | None = None,
) -> list[ImportanceStrength]:
    """Correlate `|h|` with `w` for several weights of the alignment (Table 2).

    Args:
        F: regional features, `[N, R, K]`.
        w: importance of regions, `[N, R]`.
        P: similarity between the images, see `Similarity`.
        g: projected sample features, `[N, dim]`.
        frame: the frame of g.
        alphas: weights to try.
        settings: of the fits.
        v: importance of channels, `[N, K]`, where matches are of raw features.
        mask: which regions count, `[N, R]` bool; None: all.
        backend: what matches regions, see `backend.choose`.
        folder: where finished fits are kept and looked for.
        made_from: digests of what all of the above depends on.
    """
    settings = settings or Settings()
    origins = {
        **(made_from or {}),
        "max_evals": str(settings.regional_evals),
        "include_self": str(settings.include_self),
        **origins_of_choices(settings),
    }
    raw = pearson(F.norm(dim=-1), w, mask)
    results = []
    for alpha in alphas:
        path = None if folder is None else folder / f"{alpha:g}"

        def fit(alpha: float = alpha) -> RegionalProjection:
            own = regional_projection(replace(settings, alpha=alpha), frame, backend)
            return own.fit(F, w, P, g, v=v, mask=mask)

        projection = once(path, RegionalProjection, fit, {**origins, "alpha": str(alpha)})
        r = pearson(projection.transform(F).norm(dim=-1), w, mask)
        results.append(ImportanceStrength(alpha, r, raw, projection))
    return results
