"""The paper's Tables 1 and 2 for some finished runs, and what the second depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.method import pearson
from emergence_ext.run import FinishedRun
from emergence_ext.store import Saved
from emergence_ext.studies.ablation import AblationFit, Choices, ablation
from emergence_ext.studies.methods import Outcome, compare_methods

NAME: Final = "paper_tables"  # of the experiment, and of its folder in a run


@dataclass(frozen=True, eq=False)
class RegionStrength(Saved):
    """Strength of regions beside their importance in the finished network of a run (Table 2).

    Attributes:
        layers: names, `[L]`.
        alpha: weight of the alignment.
        r: Pearson of `|h|` with w over the regions of each image of w, `[L, n]`.
        raw_r: the same of `|F|`, `[L, n]`.
    """

    layers: list[str]
    alpha: float
    r: Tensor
    raw_r: Tensor


@dataclass(frozen=True, eq=False)
class PaperTables(Saved):
    """What both tables are made of.

    Attributes:
        methods: network -> strength against entropy by method and temperature (Table 1).
        importance: network -> strength against importance (Table 2).
        factors: what is varied in each fit of `ablation`, a field of `Choices`.
        ablation: fits of the first network under other choices; empty where none were asked for.
        default: what the choices are varied around.
    """

    methods: dict[str, list[Outcome]]
    importance: dict[str, RegionStrength]
    factors: list[str]
    ablation: list[AblationFit]
    default: Choices


def paper_tables(
    runs: Mapping[str, FinishedRun],
    temperatures: Sequence[float],
    *,
    seeds: int = 5,
    with_ablation: bool = False,
    images: int | None = None,
    device: str = "cpu",
    random_state: int = 0,
) -> PaperTables:
    """Compare strength with entropy over methods, and with importance; fits are kept in the runs.

    Args:
        runs: name -> run, the first is that whose choices are varied.
        temperatures: of the softmax whose entropy is taken.
        seeds: of every method: they move its folds and its start.
        with_ablation: also learn w, v and Lambda of the first run's last layer under other choices.
        images: of these, balanced over the categories; None: 100, or as many as the frame was
            fitted to.
        device: of the fits under other choices.
        random_state: seed.

    Raises:
        ValueError: a number of images that the first run does not have, or without an ablation.
    """
    if images is not None and not with_ablation:
        raise ValueError("images: --images is of use only with --ablation")
    require_kind(runs=(runs, Mapping))
    for run in runs.values():
        require_kind(runs=(run, FinishedRun))
    first = next(iter(runs.values()))
    if with_ablation:
        first.emergence.require_every_region("the ablation")
    # Before the long work, so that what cannot be done is refused at once.
    default = _default(first, images)
    methods = {}
    for name, run in runs.items():
        features = run.sample_features()
        methods[name] = compare_methods(
            features.f,
            features.z,
            features.y,
            temperatures,
            seeds=seeds,
            dim=run.emergence.frame.dim,
            random_state=random_state,
            folder=run.inside.experiment(NAME) / "fits",
        )
    varied = _ablation(first, default, device, random_state) if with_ablation else []
    return PaperTables(
        methods,
        {name: _region_strength(run) for name, run in runs.items()},
        [factor for factor, _ in varied],
        [fit for _, fit in varied],
        default,
    )


def open_runs(folders: Sequence[Path | str]) -> dict[str, FinishedRun]:
    """Open runs by the names of their folders, whole where two are called alike.

    Raises:
        ValueError: a run that is given twice.
        FileNotFoundError: no finished run there.

    Examples:
        >>> import emergence_ext as ee
        >>> list(ee.studies.paper_tables.open_runs(["runs/demo"]))
        ['demo']
    """
    folders = [folders] if isinstance(folders, str | Path) else folders
    whole = [Path(folder).resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        raise ValueError("RUN_DIR: a run was given twice; give each once")
    short = [path.name for path in whole]
    names = short if len(set(short)) == len(short) else [str(path) for path in whole]
    return {name: FinishedRun.open(path) for name, path in zip(names, folders, strict=True)}


def _default(run: FinishedRun, images: int | None) -> Choices:
    """What the choices are varied around: the method's defaults, on images that the run has."""
    there = int((~run.emergence.held_out[run.kept_images]).sum())
    if images is not None and not 8 <= images <= there:
        raise ValueError(
            f"images: expected 8 to {there}, as many as the frame was fitted to, got {images}"
        )
    usual = Choices(alpha=run.settings.alpha)
    return replace(usual, images=min(usual.images, there) if images is None else images)


def _ablation(
    run: FinishedRun, default: Choices, device: str, seed: int
) -> list[tuple[str, AblationFit]]:
    """Vary the choices on the last layer of the finished network and the images that M has seen."""
    e = run.emergence
    # Of many images those whose features are kept.
    fitted = run.kept_images[~e.held_out[run.kept_images]]
    features = run.features(layers=e.layers[-1:], images=fitted)
    return ablation(
        features.layers[e.layers[-1]].to(device),
        features.z,
        features.y,
        e.samples(-1, fitted),
        e.frame,
        default,
        random_state=seed,
        folder=run.inside.experiment(NAME) / "ablation",
    )


def _region_strength(run: FinishedRun) -> RegionStrength:
    e = run.emergence
    layers = range(len(e.layers))
    strength = [e.regions(-1, k, e.region_images).norm(dim=-1) for k in layers]
    there = e.weighed
    return RegionStrength(
        e.layers,
        run.settings.alpha,
        torch.stack([pearson(h, w, there) for h, w in zip(strength, e.w[-1], strict=True)]),
        torch.stack(
            [pearson(F, w, there) for F, w in zip(e.raw_strength[-1], e.w[-1], strict=True)]
        ),
    )
