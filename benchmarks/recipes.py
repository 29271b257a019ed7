"""Which recipe suits a network: every difference of the recipes alone, and each recipe whole.

python -m benchmarks.recipes RUN --out recipes.json

RUN is what `emergence run --out` wrote. Its last layer, or `--layer`, is analysed anew for each
row, in the finished network, with the images, the split and the seed of the run; with `--seeds`, of
further splits and choices of images, too, and figures are means over them. A column is

- shapley: Spearman of w with the Shapley values of the regions within an image, mean over images,
  and of w |F|, as w weighs regions of length 1;
- |h|, |F|: Pearson of the strength of regions, projected and raw, with w, likewise;
- stable: Pearson of w with the w that half of the images give, over all of their regions;
- left out: divergence over pairs of an image of that half and one of the other, which no fit saw;
- points, reliable: knowledge points of a held-out image, and the share of them that speak for its
  category;
- seeds: largest less smallest share over the seeds, and the same of w with Shapley values;
- entropy: Pearson of the strength of left-out samples with the entropy of the network at
  temperature 4;
- from, to: the divergence that the fit of w begins and ends at.

Shapley, stable, left out and reliable are of something that no fit was made for, and compare
recipes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from emergence_ext.method import (
    KAPPA_TILDE,
    Frame,
    RegionImportance,
    pearson,
    similarity_with,
    spearman,
)
from emergence_ext.network import FeatureSet, above, grad_cam
from emergence_ext.ops import match_kl_scaled
from emergence_ext.run import (
    Checkpoint,
    Emergence,
    FinishedRun,
    Settings,
    compared,
    emergence,
    image_similarities,
    region_importance,
    sample_projection,
)
from emergence_ext.run.strength import strength_entropy
from emergence_ext.settings import RECIPES
from emergence_ext.studies.shapley import shapley

TOGETHER: Final = (
    ("paper", ("importance_solver", "importance_evals")),
    ("paper", ("importance_weights_of", "importance_solver", "importance_evals")),
    ("authors", ("solver", "regional_evals", "pairs")),
    ("authors", ("solver", "regional_evals", "pairs", "strength_gradient")),
    ("authors", ("importance_rate", "importance_evals")),
)
"""Settings of a recipe that are of use only together."""

BLOCK: Final = 32  # images at a time

WARM: Final = 4.0
"""Temperature of the entropy that strength is held against, whatever a recipe's is."""


@dataclass(frozen=True)
class Row:
    """What a choice gives, see the module; `settings` is what differs from the default's."""

    label: str
    settings: Mapping[str, Any]
    shapley: float
    shapley_of_product: float
    h: float
    h_deviation: float
    F: float
    stable: float
    left_out: float
    points: float
    reliable: float | None
    shapley_over_seeds: float
    reliable_over_seeds: float
    entropy: float | None
    first_loss: float
    last_loss: float
    seconds: float


def choices(channels: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row's name with what it sets, for a layer of so many channels."""
    yield "default", {}
    for recipe in ("paper", "authors"):
        yield recipe, {"recipe": recipe}
    own = KAPPA_TILDE * channels
    yield (
        "authors, 1.5 K and rates in proportion for w",
        {"recipe": "authors", "kappa_tilde": own, "importance_rate": None},
    )
    yield "paper, 1.5 K", {"recipe": "paper", "kappa_tilde": own}
    yield "probabilities, at 4", {"temperature": 4.0, "similarity_of": "probabilities"}
    alone = {**RECIPES["authors"], **RECIPES["paper"]}
    for recipe, names in TOGETHER:
        group = {name: RECIPES[recipe][name] for name in names}
        yield ", ".join(f"{name} = {value}" for name, value in group.items()), group
        alone = {name: value for name, value in alone.items() if name not in group}
    for name, value in alone.items():
        if value != getattr(Settings(), name):
            yield f"{name} = {value}", {name: value}


def measure(
    features: FeatureSet,
    of_regions: Callable[[Emergence], Tensor],
    settings: Settings,
    label: str,
    changed: dict[str, Any],
) -> Row:
    """Analyse features of one layer by some settings.

    Args:
        features: of all images.
        of_regions: gives Shapley values of the regions of the images of w, `[n, R]`.
        settings: of the fits.
        label: of the row.
        changed: what the settings have beside the default's.
    """
    began = time.perf_counter()
    (layer,) = features.layers
    e = emergence([Checkpoint("network", 0, lambda: features)], settings)
    stats = e.fits[f"importance/{layer}/network"]
    w, h = e.w[-1, 0], e.regions(images=e.region_images).norm(dim=-1)
    values = of_regions(e)
    r = pearson(h, w)
    points = e.held_out_counts[-1][-1]
    warm = strength_entropy(
        features.f, features.z, features.y, [WARM], make=lambda t: sample_projection(settings, t)
    )[WARM]
    stable, left_out = _of_half(features.layers[layer][e.region_images], features.z, e, settings)
    return Row(
        label,
        changed,
        shapley=float(spearman(w, values).mean()),
        shapley_of_product=float(spearman(w * e.raw_strength[-1, 0], values).mean()),
        h=float(r.mean()),
        h_deviation=float(r.std()),
        F=float(pearson(e.raw_strength[-1, 0], w).mean()),
        stable=stable,
        left_out=left_out,
        points=points.total.value / points.images,
        reliable=None if points.ratio is None else points.ratio.value,
        shapley_over_seeds=0.0,
        reliable_over_seeds=0.0,
        entropy=None if isinstance(warm, str) else warm.r,
        first_loss=stats.losses[0],
        last_loss=stats.losses[-1],
        seconds=time.perf_counter() - began,
    )


def over_seeds(rows: Sequence[Row]) -> Row:
    """Put together what the same settings give with several seeds."""
    first, means = rows[0], {}
    for name, value in asdict(first).items():
        found = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        if isinstance(value, float):
            means[name] = statistics.fmean(found)
    shares = [row.reliable for row in rows if row.reliable is not None]
    means["reliable_over_seeds"] = max(shares, default=0.0) - min(shares, default=0.0)
    agreement = [row.shapley for row in rows]
    means["shapley_over_seeds"] = max(agreement) - min(agreement)
    return replace(first, **means)


def _of_half(F: Tensor, z: Tensor, e: Emergence, settings: Settings) -> tuple[float, float]:
    """Learn w from every second image of a category; give its correlation and divergence."""
    half = torch.zeros(len(F), dtype=torch.bool)
    labels = e.y[e.region_images]
    for category in labels.unique():
        half[(labels == category).nonzero()[::2, 0]] = True
    z = z[e.region_images]
    P = image_similarities(settings, z[half], e.frame.kappa_p)
    fit = region_importance(settings).fit(F[half], P)
    r = float(pearson(fit.w_.flatten(), e.w[-1, 0][half].flatten()))
    return r, _divergence_from(F[half], F[~half], compared(settings, z), half, fit, e.frame)


def _divergence_from(
    F: Tensor, others: Tensor, z: Tensor, half: Tensor, fit: RegionImportance, frame: Frame
) -> float:
    """Mean divergence between images of a fit and others, by w and v of the former."""
    channels = F.shape[-1]
    kappa_tilde = KAPPA_TILDE * channels if fit.kappa_tilde is None else fit.kappa_tilde
    a, b = kappa_tilde * fit.w_, F.new_zeros(len(F))
    f, d = normalize(F, dim=-1), normalize(others, dim=-1)
    if fit.weights_of == "conditioning":
        P = similarity_with(z[half], z[~half], frame.kappa_p)
        return float(match_kl_scaled(f, fit.v_, d, a, F.new_zeros(len(d)), P, over="d"))
    P = similarity_with(z[~half], z[half], frame.kappa_p)
    return float(match_kl_scaled(f, fit.v_, d, a, b, P))


def _grad_cam(run: FinishedRun, layer: str, images: Tensor) -> Tensor:
    """Grad-CAM of the true categories of some images, `[n, R]`."""
    subject, e, parts = run.subject(), run.emergence, []
    outputs = torch.tensor(subject.outputs or range(len(e.categories)))
    for block in images.split(BLOCK):
        images = subject.preprocess(torch.stack([subject.dataset[int(i)][0] for i in block]))
        with above(subject.module, subject.layers[layer], images) as part:
            parts.append(grad_cam(part, outputs[e.y[block]], e.grid))
    return torch.cat(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each choice, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="what `emergence run --out` wrote")
    parser.add_argument("--layer", help="default: the last of the run")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose names hold one of it")
    parser.add_argument(
        "--grad-cam",
        action="store_true",
        help="take it for the Shapley values, which it is where an average and a linear map follow",
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many splits each row is of")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    asked = parser.parse_args(arguments)
    run = FinishedRun.open(asked.run)
    run.emergence.require_every_region("which recipe suits")
    layer = asked.layer or run.emergence.layers[-1]
    features = run.features(layers=[layer])
    F = features.layers[layer]
    known: dict[bytes, Tensor] = {}

    def of_regions(e: Emergence) -> Tensor:
        images = e.region_images.numpy().tobytes()
        if images not in known:
            known[images] = (
                _grad_cam(run, layer, e.region_images)
                if asked.grad_cam
                else shapley(run.subject(), e, [layer]).values[0]
            )
        return known[images]

    length = F[run.emergence.region_images].norm(dim=-1)
    reference = float(spearman(length, of_regions(run.emergence)).nanmean())
    print(f"{asked.run}, {layer}: {len(length)} images of {F.shape[1]} regions of {F.shape[2]}")
    print(f"Spearman of |F| with Shapley values: {reference:.2f}")
    print(
        "row | shapley: w ± seeds, w |F| | |h| ± | |F| | stable | left out | points | "
        "reliable ± seeds | entropy | from | to | seconds"
    )
    rows, failed = [], {}
    for label, changed in choices(F.shape[-1]):
        if not any(part in label for part in asked.only):
            continue
        own = run.settings
        settings = [
            Settings(
                held_out=own.held_out,
                region_images=own.region_images,
                random_state=own.random_state + seed,
                **changed,
            )
            for seed in range(asked.seeds)
        ]
        try:
            rows.append(
                over_seeds([measure(features, of_regions, s, label, changed) for s in settings])
            )
            print(_line(rows[-1]), flush=True)
        except (ValueError, ArithmeticError) as error:
            failed[label] = str(error)
            print(f"{label} | {error}", flush=True)
    if asked.out is not None:
        found = {"layer": layer, "|F|": reference, "rows": [asdict(x) for x in rows]}
        asked.out.write_text(json.dumps({**found, "failed": failed}, indent=1))


def _line(row: Row) -> str:
    optional = [
        "-" if x is None else f"{x:.{digits}f}"
        for x, digits in ((row.reliable, 3), (row.entropy, 2))
    ]
    return (
        f"{row.label} | {row.shapley:.2f} ± {row.shapley_over_seeds:.2f}, "
        f"{row.shapley_of_product:.2f} | {row.h:.2f} ± {row.h_deviation:.2f} | {row.F:.2f} | "
        f"{row.stable:.2f} | {row.left_out:.2f} | {row.points:.1f} | "
        f"{optional[0]} ± {row.reliable_over_seeds:.3f} | {optional[1]} | "
        f"{row.first_loss:.2f} | {row.last_loss:.2f} | {row.seconds:.0f}"
    )


if __name__ == "__main__":
    main()
