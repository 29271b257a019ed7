"""Shapley values beside w: the section of the report, its tables and figures (Fig. 5, 16)."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from matplotlib.figure import Figure

from emergence_ext import figures as draw
from emergence_ext.method import mean_interval
from emergence_ext.report.files import NO_IMAGES, Drawings, Row, Tables, interval
from emergence_ext.report.words import FigureText, SectionText, TableText
from emergence_ext.run import FinishedRun, Thumbnails, file_name
from emergence_ext.studies.shapley import NAME, Shapley

SHOWN: Final = 18
"""Images on a sheet of maps."""

SECTION: Final = SectionText(
    NAME,
    "Experiment: Shapley values",
    "What each region adds to the network's own output, beside its importance w "
    "(emergence shapley; Fig. 5, 16).",
    (
        FigureText(
            "correlations",
            "Importance and Shapley values",
            "Correlation of the Shapley values of regions with w, |F|, Grad-CAM and a random "
            "w, in the images that w was learned on. A dot is an image, the mark their mean "
            "with its 95 % interval.",
            "Right of the random one: better than chance. Where an average and a linear map "
            "follow the layer, Grad-CAM is the Shapley value.",
        ),
        FigureText(
            "maps_*",
            "Shapley values and importance on images",
            "Examples of the images that w was learned on: what each region adds to the "
            "logit of the true category, and its importance w (Fig. 5, 16).",
            "Each map is scaled by its own largest value, for w named above it: a nearly "
            "uniform w is enlarged as much as a pronounced one. Where both maps have the same "
            "shape, rho is near 1.",
        ),
    ),
    (
        TableText(
            "shapley",
            "Correlation with Shapley values",
            "Mean and 95 % interval over the images that w was learned on.",
        ),
        TableText(
            "shapley_images",
            "Correlation with Shapley values, by image",
            "Every image of the figure.",
        ),
    ),
)


def tables(s: Shapley, run: FinishedRun) -> Tables:
    """Correlations of importances with Shapley values, over images and of each."""
    return {"shapley": correlations(s), "shapley_images": _images(s)}


def figures(s: Shapley, run: FinishedRun) -> Drawings:
    """Correlations, and maps on the images of the run."""
    thumbnails = run.thumbnails

    def summary() -> Figure:
        spearman, pearson = (
            {
                name: (r, draw.Band.of([mean_interval(row) for row in r]))
                for name, r in coefficients.items()
            }
            for coefficients in (s.spearman(), s.pearson())
        )
        return draw.shapley_correlations(spearman, pearson, s.layers)

    return {
        "correlations": summary,
        **{
            f"maps_{file_name(layer)}": NO_IMAGES
            if thumbnails is None
            else partial(_maps, s, k, thumbnails)
            for k, layer in enumerate(s.layers)
        },
    }


def _maps(s: Shapley, layer: int, thumbnails: Thumbnails) -> Figure:
    order = torch.argsort(s.y, stable=True)
    count = min(SHOWN, len(order))
    shown = order[torch.arange(count) * len(order) // count]
    return draw.shapley_maps(
        thumbnails.images(s.index[shown]),
        s.values[layer, shown],
        s.w[layer, shown],
        s.spearman()["w"][layer, shown],
        s.grid,
        s.y[shown],
        s.categories,
    )


def correlations(s: Shapley) -> list[Row]:
    """Importances of regions against Shapley values, a row for each layer and importance."""
    spearman, pearson = s.spearman(), s.pearson()
    return [
        {
            "layer": layer,
            "importance": name,
            **interval("Spearman, mean", mean_interval(spearman[name][k]), "undefined"),
            **interval("Pearson, mean", mean_interval(pearson[name][k]), "undefined"),
            "images": int(spearman[name][k].isfinite().sum()),
            "permutations, mean": float(s.permutations[k].double().mean()),
            "standard error, share of spread": float(
                (s.error[k] / s.values[k].std(dim=-1)).nanmedian()
            ),
            "error reached, share of images": float(s.reached[k].double().mean()),
        }
        for k, layer in enumerate(s.layers)
        for name in spearman
    ]


def _images(s: Shapley) -> list[Row]:
    """Shapley values of every image in every layer, and what goes with them."""
    spearman, pearson = s.spearman(), s.pearson()
    return [
        {
            "layer": layer,
            "image": image,
            "category": s.categories[int(s.y[i])],
            "logit of all regions": float(s.full[k, i]),
            "logit of none": float(s.none[k, i]),
            "standard error (logits)": float(s.error[k, i]),
            "permutations": int(s.permutations[k, i]),
            **{f"Spearman, {name}": float(r[k, i]) for name, r in spearman.items()},
            **{f"Pearson, {name}": float(r[k, i]) for name, r in pearson.items()},
        }
        for k, layer in enumerate(s.layers)
        for i, image in enumerate(s.names)
    ]
