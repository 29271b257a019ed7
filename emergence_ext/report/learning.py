"""How points were learned through the checkpoints of networks: the words, the rows, the figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from matplotlib.figure import Figure

from emergence_ext import figures as draw
from emergence_ext.method import Interval, Learning, learning
from emergence_ext.report.files import Row, interval
from emergence_ext.report.words import FigureText, TableText
from emergence_ext.run import Emergence

FIGURE: Final = FigureText(
    "learning_epochs",
    "How points are learned",
    "Reliable knowledge points of held-out images, by layer: the epoch of the checkpoint at "
    "which an image has most of them, mean with its 95 % interval over images, and standard "
    "deviation over images; and the share of all regions that ever were such a point that are "
    "one at the end (after arXiv 2208.08741, which measures the way by weights, this by epochs).",
    "Lower on the left: the points are there earlier. Lower in the middle: those of all images "
    "come at the same time. Higher on the right: what was once learned is kept, the optimisation "
    "made few detours. Only kept checkpoints are seen: with more of them epochs are finer and "
    "fewer points are kept.",
)
TABLE: Final = TableText(
    "learning",
    "Speed of learning",
    "The figure's numbers, with 95 % intervals over images, and of how many images they are.",
)


def rows(networks: Mapping[str, Emergence]) -> list[Row]:
    """How points were learned, a row for each network and layer."""
    return [
        {
            "network": name,
            "layer": layer,
            "checkpoints": len(e.labels),
            **interval("epoch of most points, mean", x.mean_epoch),
            "standard deviation over images": x.spread,
            **interval("share kept to the end", x.steadiness),
            "images with points": x.images,
            "images": len(x.epoch),
        }
        for name, e in networks.items()
        for layer, x in zip(e.layers, followed(e), strict=True)
    ]


def figure(networks: Mapping[str, Emergence]) -> Figure:
    """Draw the numbers of `rows`."""
    found = {name: followed(e) for name, e in networks.items()}

    def band(of: str) -> draw.Band:
        values: list[list[Interval | None]] = [
            [getattr(x, of) for x in layers] for layers in found.values()
        ]
        return draw.Band.of(values)

    return draw.learning_speed(
        band("mean_epoch"),
        [[x.spread for x in layers] for layers in found.values()],
        band("steadiness"),
        list(found),
        next(iter(networks.values())).layers,
    )


def followed(e: Emergence) -> list[Learning]:
    """The way of held-out images to their points, in each layer."""
    return [
        learning((e.reliable(t, k)[e.held_out] for t in range(len(e.labels))), e.epochs)
        for k in range(len(e.layers))
    ]
