"""What the page's view is fed with: positions, what regions say, and pictures; bounded in bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext.figures import category_style, distinct_names
from emergence_ext.method import knowledge_points
from emergence_ext.names import printable
from emergence_ext.report.atlas import atlas
from emergence_ext.report.beside import Experiments, shapley_data, state_data, states
from emergence_ext.report.planes import BITS, packed, planes, quantised
from emergence_ext.report.shown import Shown
from emergence_ext.run import Emergence, FinishedRun

IMAGES: Final = 500
"""Images whose regions are shown, at most."""

ROOM: Final = 7_000_000
"""Characters that the positions of regions take on the page, about, at most."""

FEWEST: Final = 8
LISTED: Final = 60
"""Misread images that are listed with their picture, though their regions are not shown."""

STEP: Final = 0.005  # of tau
KAPPAS: Final = 512


def view_data(run: FinishedRun, done: Experiments | None = None) -> str:
    """Return everything that the view shows, as JSON that may stand in a page's script element.

    Positions are those of `h` and `g`; where `dim > 3` they are turned, so that the first three
    coordinates are those in which the directions of the categories spread most. What a region says
    and whether it is a knowledge point at any threshold was computed before positions were rounded.

    Args:
        run: a finished run.
        done: experiments that were done with it; None: none.
    """
    whole, done = run.emergence, done or Experiments()
    e, thumbnails = whole.sample, run.thumbnails
    steps = Shown.of(e)
    images = chosen_images(e, (len(steps.checkpoints) + done.count(e)) * len(steps.layers))
    listed = _misread(e, images)
    turn = _turn(e.frame.directions)
    taus = thresholds(e)
    names = [printable(name).replace("_", " ") for name in e.categories]
    frames, largest = [], 0.0
    for t in steps.checkpoints:
        for k in steps.layers:
            frames.append(_frame(e, t, k, images, turn, taus))
            largest = max(largest, frames[-1]["strongest"])
    data = {
        "bits": BITS,
        "dim": e.frame.dim,
        "grid": list(e.grid),
        "categories": names,
        "short": distinct_names(names, 16),
        "colors": [category_style(c).color for c in range(len(e.categories))],
        "priors": _rounded(e.frame.priors),
        "directions": _rounded(e.frame.directions @ turn),
        "floor": _rounded(_floor(e.frame.directions @ turn)),
        "kappa": _concentrations(e, largest),
        "taus": _rounded(taus),
        "tau": int((taus - e.tau).abs().argmin()),
        "checkpoints": [
            {
                "label": printable(e.labels[t]),
                "epoch": e.epochs[t],
                "accuracy": round(whole.accuracy(t), 4),
                "says": e.logits(t, images).argmax(1).tolist(),
            }
            for t in steps.checkpoints
        ],
        "layers": [printable(e.layers[k]) for k in steps.layers],
        "total": len(whole.names),
        "heldOut": int(whole.held_out.sum()),
        "shown": len(images),
        "weighed": int(torch.isin(images, e.region_images).sum()),
        "counted": None if e.mask is None else packed(planes(e.mask[images].flatten().int(), 1)),
        "images": _described(e, torch.cat([images, listed])),
        "frames": frames,
        "samples": [_sample_frame(e, t, images, turn) for t in steps.checkpoints],
        "confusion": _confusion(whole),
        "beside": [
            _beside(steps, state_data(state, e, steps.layers, images, turn, taus))
            for state in states(e, done)
        ],
        "shapley": shapley_data(done.shapley, e, steps.layers, images),
        **atlas(thumbnails and thumbnails.alone, torch.cat([images, listed]), e.grid),
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # No name may end the script element, begin a comment or another one.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def chosen_images(e: Emergence, frames: int) -> Tensor:
    """Choose the images that are shown: from each category as many, held-out ones before others.

    A fifth, at most, are images that regions were learned on, for these alone have a `w`; they come
    last.

    Args:
        e: what was found.
        frames: checkpoints times layers that are shown.

    Returns:
        Indices, `[n]`.
    """
    regions = e.grid[0] * e.grid[1]
    bits = (BITS + 1) * e.frame.dim + 12  # about, with those of what a region says
    fitting = int(ROOM * 3 / 4 / (bits / 8 * regions * frames))
    count = min(len(e.names), max(FEWEST, min(IMAGES, fitting)))
    weighed = torch.zeros(len(e.names), dtype=torch.bool)
    weighed[e.region_images] = True
    last = _in_turn(e, weighed & ~e.held_out)[: count // 5]
    first = _in_turn(e, e.held_out)[: count - len(last)]
    taken = torch.cat([first, last])
    others = torch.ones(len(e.names), dtype=torch.bool)
    others[taken] = False
    rest = _in_turn(e, others & ~weighed)
    more = _in_turn(e, others & weighed)
    fill = torch.cat([rest, more])[: count - len(taken)]
    chosen = torch.cat([first, fill, last])
    # Those with a w at the end, in their order.
    return chosen[weighed[chosen].int().argsort(stable=True)]


def thresholds(e: Emergence) -> Tensor:
    """Thresholds that the view offers, at most 255, ascending: `STEP` apart, and the run's own."""
    low = 1 / len(e.categories)
    grid = [STEP * i for i in range(1, round(1 / STEP)) if STEP * i >= low]
    grid = [tau for tau in grid if abs(tau - e.tau) > 1e-6]
    return torch.tensor(sorted({*grid, e.tau}))


def _in_turn(e: Emergence, which: Tensor) -> Tensor:
    """Indices of some images `[N]`: the first of every category, then the second of each, ..."""
    index = which.nonzero().flatten()
    y = e.y[index]
    order = y.argsort(stable=True)
    ranks = torch.empty_like(y)
    _, sizes = y[order].unique_consecutive(return_counts=True)
    if len(index):
        ranks[order] = torch.cat([torch.arange(n) for n in sizes.tolist()])
    return index[ranks.argsort(stable=True)]


def _misread(e: Emergence, images: Tensor) -> Tensor:
    """Images `[m]` beside those shown that the finished network misreads, the surest first."""
    p, says = e.logits().softmax(1).max(1)
    wrong = says != e.y
    wrong[images] = False
    index = wrong.nonzero().flatten()
    return index[p[index].argsort(descending=True, stable=True)][:LISTED]


def _turn(directions: Tensor) -> Tensor:
    """Return how positions are turned, `[dim, dim]`: beyond three, the leading ones first."""
    dim = directions.shape[1]
    if dim <= 3:
        return torch.eye(dim)
    return torch.linalg.svd(directions, full_matrices=True).Vh.t().contiguous()


def _floor(directions: Tensor) -> Tensor:
    """Return the two axes, `[2, dim]`, of the plane in which the directions spread most."""
    centred = directions - directions.mean(0)
    return torch.linalg.svd(centred, full_matrices=True).Vh[:2]


def _regions(e: Emergence, t: int, k: int, images: Tensor) -> Tensor:
    """Projected regional features of some images, `[n, R, dim]`."""
    return e.regions(t, k, images)


def _frame(
    e: Emergence, t: int, k: int, images: Tensor, turn: Tensor, taus: Tensor
) -> dict[str, Any]:
    """Return regions of one checkpoint and layer: where they are and what they say."""
    h = _regions(e, t, k, images)
    points = knowledge_points(h, e.frame, e.y[images], e.tau)
    scale, q = quantised((h @ turn).flatten(0, 1))
    parts = [plane for x in q.unbind(1) for plane in planes(x, 2)]
    # How many thresholds a region passes: at each of them it is a point, or not, exactly.
    passed = torch.bucketize(points.confidence.flatten(), taus.to(points.confidence))
    parts += planes(passed, 1)
    parts += planes(points.category.flatten(), 1 if len(e.categories) <= 256 else 2)
    return {
        "scale": scale,
        "strongest": float(h.norm(dim=-1).max()) if h.numel() else 0.0,
        "data": packed(parts),
        **_importance(e, t, k, images),
    }


def _importance(e: Emergence, t: int, k: int, images: Tensor) -> dict[str, Any]:
    """Return w of the images, the last, that it was learned on, in steps of 1 / 255 of the most."""
    place = {image: row for row, image in enumerate(e.region_images.tolist())}
    rows = [place[image] for image in images.tolist() if image in place]
    if not rows:
        return {}
    w = e.w[t, k, rows].flatten()
    most = float(w.max())
    unit = w / most if most > 0 else w
    return {"most": most, "w": packed(planes((unit * 255).round().long(), 1))}


def _beside(steps: Shown, state: dict[str, Any]) -> dict[str, Any]:
    """Say by its place among those shown which checkpoint a state is to be seen beside."""
    of = state["of"]
    nearest = min(range(len(steps.checkpoints)), key=lambda k: abs(steps.checkpoints[k] - of))
    return {**state, "of": nearest}


def _sample_frame(e: Emergence, t: int, images: Tensor, turn: Tensor) -> dict[str, Any]:
    scale, q = quantised(e.samples(t, images) @ turn)
    return {"scale": scale, "data": packed([p for x in q.unbind(1) for p in planes(x, 2)])}


def _described(e: Emergence, images: Tensor) -> list[list[Any]]:
    """Name, category, what the network says, whether held out, how sure it is, and its entropy."""
    p, says = e.logits(-1, images).softmax(1).max(1)
    unsure = e.entropy()[images]
    rows = zip(
        images.tolist(), e.y[images].tolist(), says.tolist(), e.held_out[images].tolist(),
        p.tolist(), unsure.tolist(), strict=True,
    )  # fmt: skip
    return [
        [printable(e.names[i]), y, said, int(held), round(sure, 3), round(nats, 3)]
        for i, y, said, held, sure, nats in rows
    ]


def _confusion(e: Emergence) -> list[list[int]]:
    """Every true category and answer of the finished network, with their images: `[y, says, n]`."""
    C = len(e.categories)
    cells = torch.bincount(e.y * C + e.predicted(), minlength=C * C)
    return [[i // C, i % C, int(cells[i])] for i in cells.nonzero().flatten().tolist()]


def _concentrations(e: Emergence, largest: float) -> dict[str, Any]:
    """Return the concentration of strengths from 0 to the largest, in even steps."""
    strengths = torch.linspace(0, max(largest, 1.0) * 1.01, KAPPAS, dtype=torch.float64)
    return {"step": float(strengths[1]), "values": _rounded(e.frame.kappa(strengths))}


def _rounded(x: Tensor) -> list[Any]:
    """Return nested lists of numbers with six digits."""

    def short(values: Any) -> Any:
        return (
            [short(v) for v in values] if isinstance(values, Sequence) else float(f"{values:.6g}")
        )

    return short(x.tolist())
