"""Ours and other projections compared: strength against entropy over seeds and folds (Table 1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext.lookup import path_named
from emergence_ext.method import (
    PCA,
    Manifold,
    SampleProjection,
    distance_from_mean,
    entropy,
    pearson,
    spearman,
    stratified_folds,
    takes_numpy,
)
from emergence_ext.settings import Settings, require_count
from emergence_ext.store import Saved, digest, once
from emergence_ext.studies.drpr import DRPR

logger = logging.getLogger(__name__)

CROWDED: Final = 0.01  # of the largest distance from the mean


@dataclass(frozen=True)
class Projected:
    """One fit of one method: strengths of the fitted images `[n]`, and of any others."""

    fitted: Tensor
    strength: Callable[[Tensor], Tensor]
    pieces: int = 1


Fit = Callable[..., Projected]


@dataclass(frozen=True)
class Method:
    """A method of Table 1 and the configurations that are searched.

    Attributes:
        name: as in the paper.
        fit: takes features, logits, dim, temperature, random_state and what a configuration gives.
        configurations: name -> arguments; as many for every method.
        maps_new: whether images that were not fitted have a strength.
        tempered: whether the fit depends on the temperature at which the entropy is taken.
    """

    name: str
    fit: Fit
    configurations: Mapping[str, Mapping[str, Any]]
    maps_new: bool = True
    tempered: bool = False


def _ours(f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any) -> Projected:
    fit = SampleProjection(dim=dim, temperature=temperature, random_state=seed, **given).fit(f, z)
    return Projected(fit.transform(f).norm(dim=1), lambda x: fit.transform(x).norm(dim=1))


def _drpr(f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any) -> Projected:
    fit = DRPR(dim=dim, random_state=seed, **given).fit(f, z)
    points = fit.transform(f)
    return Projected(
        distance_from_mean(points, points),
        lambda x: distance_from_mean(fit.transform(x), points),
    )


def _pca(f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any) -> Projected:
    fit = PCA(dim, **given).fit(f)
    points = fit.transform(f)
    return Projected(
        distance_from_mean(points, points),
        lambda x: distance_from_mean(fit.transform(x), points),
    )


def _manifold(
    f: Tensor, z: Tensor, dim: int, temperature: float, seed: int, **given: Any
) -> Projected:
    fit = Manifold(dim=dim, random_state=seed, **given).fit(f)
    return Projected(
        distance_from_mean(fit.points_, fit.points_),
        lambda x: distance_from_mean(fit.transform(x), fit.points_),
        fit.pieces_,
    )


def _neighbours(method: str, words: str, values: Sequence[int]) -> dict[str, dict[str, Any]]:
    return {words.format(n): {"method": method, "neighbours": n} for n in values}


METHODS: Final = (
    Method(
        "ours",
        _ours,
        {
            f"{words}, prior {prior:g}": {"max_rounds": rounds, "strength_prior": prior}
            for words, rounds in (("one round", 1), ("to the end", 100))
            for prior in (1e-3, 1e-2)
        },
        tempered=True,
    ),
    Method(
        "DRPR",
        _drpr,
        {
            **{f"network, softening {t:g}": {"softening": t} for t in (1.0, 2.0, 4.0)},
            "linear, softening 2": {"softening": 2.0, "hidden": 0},
        },
    ),
    Method(
        "PCA",
        _pca,
        {
            "plain": {},
            "whitened": {"whiten": True},
            "standardised": {"standardise": True},
            "standardised, whitened": {"standardise": True, "whiten": True},
        },
    ),
    Method("Isomap", _manifold, _neighbours("Isomap", "{} neighbours", (5, 10, 20, 40))),
    Method("LLE", _manifold, _neighbours("LLE", "{} neighbours", (5, 10, 20, 40))),
    Method(
        "t-SNE", _manifold, _neighbours("t-SNE", "perplexity {}", (5, 15, 30, 50)), maps_new=False
    ),
)


@dataclass(frozen=True, eq=False)
class Strengths(Saved):
    """Strengths of one configuration with one seed, and what went wrong.

    Attributes:
        strength: of every image by a fit without it, `[N]`; NaN where that fit failed. Where a
            method maps no new images, of the fitted ones.
        fitted: of the fitted images by each fit, NaN for the others, `[fits, N]`.
        failures: why fits failed, one text each.
        crowded: fits that put nine tenths of the images at one place.
        pieces: fits whose graph of neighbours was not connected.
    """

    strength: Tensor
    fitted: Tensor
    failures: list[str]
    crowded: int
    pieces: int


@dataclass(frozen=True)
class Outcome:
    """One method at one temperature: all its configurations, and the best of them, over seeds.

    Attributes:
        method: its name.
        temperature: of the softmax whose entropy is taken.
        mean_entropy: nats.
        configuration: the one with the lowest mean r; of those with the most seeds that did not
            fail.
        searched: configuration -> r by seed, NaN where a fit failed.
        r, rho: Pearson and Spearman correlation of strength with entropy, by seed; NaN where a
            fit failed.
        fitted_r: Pearson on the fitted images, mean over folds, by seed.
        left_out: whether r and rho are of images that were not fitted.
        fits, failed, crowded, pieces: numbers of fits of that configuration: all, those that
            failed, that put nearly all images at one place, whose graph was not connected.
        failures: why fits failed, of all configurations and seeds, each text once.
    """

    method: str
    temperature: float
    mean_entropy: float
    configuration: str
    searched: dict[str, tuple[float, ...]]
    r: tuple[float, ...]
    rho: tuple[float, ...]
    fitted_r: tuple[float, ...]
    left_out: bool
    fits: int
    failed: int
    crowded: int
    pieces: int
    failures: list[str] = field(default_factory=list)


@takes_numpy
def compare_methods(
    f: Tensor,
    z: Tensor,
    y: Tensor,
    temperatures: Sequence[float] = (1.0, 2.0, 4.0),
    *,
    seeds: int = 5,
    dim: int = Settings.dim,
    folds: int = 5,
    random_state: int = 0,
    methods: Sequence[Method] | None = None,
    folder: Path | str | None = None,
) -> list[Outcome]:
    """Correlate strength with entropy for every method, each at its best configuration (Table 1).

    Every method has as many configurations, each is fitted with all seeds, and the best by its mean
    correlation is reported: one choice of a few, kinder to a method whose results scatter. A seed
    moves the folds and where fits start. Strengths are of images that were not fitted, except for
    methods that cannot map new ones.

    Args:
        f: sample features, `[N, E]`.
        z: logits, `[N, C]`.
        y: labels, `[N]`, by which the folds are balanced.
        temperatures: of the softmax whose entropy is taken.
        seeds: how many.
        dim: width of all projections.
        folds: parts, each of which is left out once.
        random_state: the first seed; the others follow it.
        methods: to compare; `METHODS` when left out.
        folder: where the strengths of every configuration and seed are kept and looked for.

    Returns:
        An outcome for each temperature and method, in that order.

    Raises:
        TypeError: methods that are none, such as their names.
        ValueError: no seeds or temperatures, a temperature that is not positive, fewer images than
            folds, shapes that do not fit.
        ImportError: scikit-learn is absent.

    Examples:
        >>> from emergence_ext import studies
        >>> f, y = torch.randn(30, 5), torch.arange(30) % 3
        >>> pca = [method for method in studies.methods.METHODS if method.name == "PCA"]
        >>> found = studies.methods.compare_methods(
        ...     f, f[:, :3], y, [1.0], seeds=1, folds=2, methods=pca
        ... )
        >>> found[0].method, found[0].fits
        ('PCA', 2)
    """
    require_count("seeds", seeds, 1)
    several = isinstance(temperatures, Sequence) and len(temperatures) > 0
    if not several or not all(isinstance(t, Real) and t > 0 for t in temperatures):
        raise ValueError(f"temperatures must be positive numbers in a list, got {temperatures!r}")
    methods = METHODS if methods is None else _checked(methods)
    if f.ndim != 2 or z.ndim != 2 or not len(f) == len(z) == len(y):
        raise ValueError(
            "f, z and y must be [N, E], [N, C] and [N]; got "
            f"{list(f.shape)}, {list(z.shape)} and {list(y.shape)}"
        )
    study = _Comparison(f, z, y, dim, folds, folder)
    outcomes = []
    with tqdm(total=len(temperatures) * len(methods), desc="methods", disable=None) as bar:
        for temperature in temperatures:
            for method in methods:
                bar.set_postfix_str(f"{method.name}, temperature {temperature:g}")
                outcomes.append(study.outcome(method, temperature, seeds, random_state))
                bar.update()
    return outcomes


def _checked(methods: Sequence[Method]) -> Sequence[Method]:
    """Methods to compare; names of them are told from them."""
    several = isinstance(methods, Sequence) and not isinstance(methods, str) and methods
    odd = [method for method in methods if not isinstance(method, Method)] if several else [methods]
    if odd:
        raise TypeError(
            f"methods: expected a list of Method, such as some of METHODS "
            f"({', '.join(method.name for method in METHODS)}), got {odd[0]!r:.80}"
        )
    return methods


class _Comparison:
    """What all methods are given, and the strengths that are there already."""

    def __init__(
        self, f: Tensor, z: Tensor, y: Tensor, dim: int, folds: int, folder: Path | str | None
    ) -> None:
        self.f, self.z, self.y = f, z, y
        self.dim, self.folds = dim, folds
        self.folder = None if folder is None else path_named(folder, "folder")
        self.made_from = {"features": digest([f, z, y]), "dim": str(dim)}
        self.kept: dict[tuple[str, str, float | None, int], Strengths] = {}

    def outcome(self, method: Method, temperature: float, seeds: int, seed: int) -> Outcome:
        uncertainty = entropy(self.z, temperature)
        tried = {
            name: [self.strengths(method, name, temperature, seed + k) for k in range(seeds)]
            for name in method.configurations
        }
        searched = {
            name: tuple(float(pearson(x.strength, uncertainty)) for x in strengths)
            for name, strengths in tried.items()
        }
        best = min(searched, key=lambda name: _rank(searched[name]))
        strengths = tried[best]
        fits = sum(len(x.fitted) for x in strengths)
        failures = [text for each in tried.values() for x in each for text in x.failures]
        return Outcome(
            method.name,
            temperature,
            float(uncertainty.mean()),
            best,
            searched,
            r=searched[best],
            rho=tuple(float(spearman(x.strength, uncertainty)) for x in strengths),
            fitted_r=tuple(_fitted_r(x, uncertainty) for x in strengths),
            left_out=method.maps_new,
            fits=fits,
            failed=sum(len(x.failures) for x in strengths),
            crowded=sum(x.crowded for x in strengths),
            pieces=sum(x.pieces for x in strengths),
            failures=list(dict.fromkeys(failures)),
        )

    def strengths(self, method: Method, name: str, temperature: float, seed: int) -> Strengths:
        """Of one configuration with one seed; found in memory, on disk, or made."""
        key = (method.name, name, temperature if method.tempered else None, seed)
        if key not in self.kept:
            path = None
            if self.folder is not None:
                at = f" at {temperature:g}" if method.tempered else ""
                words = f"{name}{at}, {self.folds} folds, seed {seed}"
                path = self.folder / method.name / words.replace(" ", "_").replace(",", "")
            self.kept[key] = once(
                path,
                Strengths,
                lambda: self._fit(method, name, temperature, seed),
                {**self.made_from, "settings": digest(dict(method.configurations[name]))},
            )
        return self.kept[key]

    def _fit(self, method: Method, name: str, temperature: float, seed: int) -> Strengths:
        N = len(self.f)
        fold = stratified_folds(self.y, self.folds, seed)
        parts = [fold != k for k in range(self.folds)] if method.maps_new else [fold >= 0]
        strength, fitted = torch.full((N,), torch.nan), torch.full((len(parts), N), torch.nan)
        failures, crowded, pieces = [], 0, 0
        for k, kept in enumerate(parts):
            try:
                fit = method.fit(
                    self.f[kept],
                    self.z[kept],
                    self.dim,
                    temperature,
                    seed,
                    **method.configurations[name],
                )
                wanted = ~kept if method.maps_new else kept
                here = fit.strength(self.f[wanted]) if method.maps_new else fit.fitted
                if not (here.isfinite().all() and fit.fitted.isfinite().all()):
                    raise ValueError("strengths that are not finite")
            except (ValueError, ArithmeticError, torch.linalg.LinAlgError) as error:
                logger.warning("%s, %s: %s", method.name, name, error)
                failures.append(f"{name}: {error}")
                continue
            fitted[k, kept], strength[wanted] = fit.fitted.to(fitted), here.to(strength)
            crowded += bool((fit.fitted <= CROWDED * fit.fitted.max()).float().mean() > 0.9)
            pieces += fit.pieces > 1
        return Strengths(strength, fitted, failures, crowded, pieces)


def _rank(r: Sequence[float]) -> tuple[int, float]:
    """What puts a configuration first: few failed seeds, then a low mean."""
    good = [x for x in r if x == x]
    return len(r) - len(good), sum(good) / max(len(good), 1)


def _fitted_r(strengths: Strengths, uncertainty: Tensor) -> float:
    """Pearson on the fitted images, mean over fits; NaN where one failed."""
    values = [pearson(x[~x.isnan()], uncertainty[~x.isnan()]) for x in strengths.fitted]
    return float(torch.stack(values).mean())
