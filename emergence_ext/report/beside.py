"""What experiments add to the page's view: attacked images, another run, and Shapley values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from emergence_ext.method import knowledge_points
from emergence_ext.names import printable
from emergence_ext.report.planes import packed, planes, quantised
from emergence_ext.run import Emergence
from emergence_ext.studies.attack import Attack
from emergence_ext.studies.compare import Comparison
from emergence_ext.studies.shapley import Shapley

RUNS: Final = 3
"""Other runs beside which this one can be seen on the page, at most."""


@dataclass(frozen=True)
class Experiments:
    """What of the experiments with a run is in its view.

    Attributes:
        attack, shapley: None where that was not done.
        comparisons: with other runs, or of two checkpoints.
    """

    attack: Attack | None = None
    shapley: Shapley | None = None
    comparisons: Sequence[Comparison] = ()

    def other_runs(self, e: Emergence) -> list[Comparison]:
        """Comparisons whose B is no checkpoint of the run itself, and whose regions are known."""
        return [
            c
            for c in self.comparisons
            if c.positions is not None and not {c.a, c.b} <= set(e.labels)
        ][:RUNS]

    def count(self, e: Emergence) -> int:
        """How many states can be seen beside those of the run."""
        return len(self.other_runs(e)) + (self.attack is not None and len(self.attack.astray) > 0)


@dataclass(frozen=True)
class State:
    """Regions of some images of a run in another state, in the run's frame.

    Attributes:
        label: what it is called.
        checkpoint: of the run, which it is to be seen beside.
        index: places of the images in the run, `[n]`; -1 where they are not among them.
        h: `[L, n, R, dim]`.
        category, confidence: what each says, and with which p, `[L, n, R]`.
        g: samples, `[n, dim]`; None where they are not known.
        says: category that the network gives each image, `[n]`; None where it is not known.
    """

    label: str
    checkpoint: str
    index: Tensor
    h: Tensor
    category: Tensor
    confidence: Tensor
    g: Tensor | None = None
    says: Tensor | None = None


def states(e: Emergence, done: Experiments) -> list[State]:
    """Return the states beside which those of a run can be seen."""
    place = {name: i for i, name in enumerate(e.names)}
    found = []
    if done.attack is not None and len(done.attack.astray):
        found.append(_attacked(e, done.attack, place))
    for c in done.other_runs(e):
        assert c.positions is not None and c.category is not None and c.confidence is not None
        label = max((x for x in e.labels if c.a.endswith(x)), key=len, default=e.labels[-1])
        index = torch.tensor([place.get(name, -1) for name in c.names])
        found.append(State(c.b, label, index, c.positions, c.category, c.confidence))
    return found


def _attacked(e: Emergence, a: Attack, place: dict[str, int]) -> State:
    index = torch.tensor([place.get(a.names[i], -1) for i in a.astray.tolist()])
    points = [knowledge_points(h, e.frame, a.original, e.tau) for h in a.h[1]]
    return State(
        f"attacked, eps {a.eps:.3g}",
        e.labels[-1],
        index,
        a.h[1],
        torch.stack([x.category for x in points]),
        torch.stack([x.confidence for x in points]),
        a.g[1],
        a.adversarial,
    )


def state_data(
    state: State, e: Emergence, layers: Sequence[int], images: Tensor, turn: Tensor, taus: Tensor
) -> dict[str, Any]:
    """Return a state as the view takes it; images that it does not know are nothing at the centre.

    Args:
        state: of some images.
        e: what the run found.
        layers: that are shown.
        images: that are shown, `[n]`.
        turn: of positions, `[dim, dim]`.
        taus: thresholds that the view offers.
    """
    row = {image: i for i, image in enumerate(state.index.tolist())}
    there = [n for n, image in enumerate(images.tolist()) if image in row]
    rows = torch.tensor([row[int(images[n])] for n in there], dtype=torch.int64)

    def spread(x: Tensor) -> Tensor:
        whole = x.new_zeros(len(images), *x.shape[1:])
        whole[there] = x[rows]
        return whole

    frames = []
    for k in layers:
        scale, q = quantised((spread(state.h[k].float()) @ turn).flatten(0, 1))
        parts = [plane for x in q.unbind(1) for plane in planes(x, 2)]
        passed = torch.bucketize(spread(state.confidence[k]).flatten(), taus.to(state.confidence))
        parts += planes(passed, 1)
        category = spread(state.category[k]).flatten()
        parts += planes(category, 1 if len(e.categories) <= 256 else 2)
        frames.append(
            {
                "scale": scale,
                "strongest": float(state.h[k].norm(dim=-1).max()) if state.h[k].numel() else 0.0,
                "data": packed(parts),
            }
        )
    samples = None
    if state.g is not None:
        scale, q = quantised(spread(state.g.float()) @ turn)
        samples = {"scale": scale, "data": packed([p for x in q.unbind(1) for p in planes(x, 2)])}
    return {
        "label": printable(state.label),
        "of": e.labels.index(state.checkpoint),
        "images": there,
        "total": len(state.index),
        "says": None if state.says is None else spread(state.says).tolist(),
        "frames": frames,
        "samples": samples,
    }


def shapley_data(
    s: Shapley | None, e: Emergence, layers: Sequence[int], images: Tensor
) -> dict[str, Any] | None:
    """Return the Shapley values of images that are shown, in logits; None without any.

    Returns:
        `images`: places among those shown, `[n]`; `layers`: `scale` and `data`, `[n, R]`, or None.
    """
    row = {} if s is None else {name: i for i, name in enumerate(s.names)}
    there = [n for n, image in enumerate(images.tolist()) if e.names[image] in row]
    if s is None or not there:
        return None
    rows = torch.tensor([row[e.names[int(images[n])]] for n in there])

    def of_layer(name: str) -> dict[str, Any] | None:
        if name not in s.layers:
            return None
        scale, q = quantised(s.values[s.layers.index(name), rows].flatten())
        return {"scale": scale, "data": packed(planes(q, 2))}

    return {"images": there, "layers": [of_layer(e.layers[k]) for k in layers]}
