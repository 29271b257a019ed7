"""What was found, in sentences made from the numbers and their intervals."""

from __future__ import annotations

import torch

from emergence_ext.method import Interval, bootstrap_ratio, proportion
from emergence_ext.names import printable
from emergence_ext.run import Emergence, FinishedRun
from emergence_ext.studies.attack import Attack


def findings(run: FinishedRun, attack: Attack | None = None) -> list[str]:
    """Return a sentence for each thing that the numbers of a run say; nothing that they do not.

    Args:
        run: a finished run.
        attack: on its images; None: there was none.
    """
    e = run.emergence
    texts = (
        _accuracy(e),
        _through_epochs(e),
        _through_layers(e),
        _alike(e.sample),
        _misread(e),
        _others(e.sample),
        _attacked(attack) if attack is not None else "",
    )
    return [text for text in texts if text]


def _accuracy(e: Emergence) -> str:
    right = int((e.predicted() == e.y).sum())
    share = proportion(right, len(e.y))
    return f"The network gets {_share(share)} of the {len(e.y):,} images right."


def _through_epochs(e: Emergence) -> str:
    """From which checkpoint on the regions of the last layer are as reliable as at the end."""
    ratios = [row[-1].ratio for row in e.held_out_counts]
    last = ratios[-1]
    if last is None or len(ratios) < 2:
        return ""
    alike = [r is not None and r.high >= last.low for r in ratios]
    first = next(t for t in range(len(alike)) if all(alike[t:]))
    layer, end = printable(e.layers[-1]), printable(e.labels[-1])
    start = ratios[0]
    begun = "" if start is None else f", from {_share(start)} at {printable(e.labels[0])}"
    if first == len(ratios) - 1:
        return (
            f"Regions still become more reliable at the end of training: {_share(last)} of the "
            f"knowledge points of {layer} are for the right category at {end}{begun}."
        )
    there = ratios[first]
    assert there is not None
    return (
        f"From {printable(e.labels[first])} on, regions are as reliable as at the end: "
        f"{_share(there)} of the knowledge points of {layer} are for the right category, "
        f"{_share(last)} at {end}{begun if first else ''}."
    )


def _through_layers(e: Emergence) -> str:
    """Which layer is the first whose knowledge points are mostly right, and the step to it."""
    counts = e.held_out_counts[-1]
    ratios = [count.ratio for count in counts]
    if len(ratios) < 2:
        return ""
    names = [printable(layer) for layer in e.layers]
    mostly = [k for k, r in enumerate(ratios) if r is not None and r.low > 0.5]
    if not mostly:
        best = max((r for r in ratios if r is not None), key=lambda r: r.value, default=None)
        if best is None:
            return "No layer has a knowledge point on held-out images."
        return (
            "In no layer are knowledge points mostly right; the best is "
            f"{names[ratios.index(best)]} with {_share(best)}."
        )
    k = mostly[0]
    ratio, before = ratios[k], ratios[k - 1] if k else None
    assert ratio is not None
    text = f"{names[k]} is the first layer whose knowledge points are mostly right: {_share(ratio)}"
    return text + (f", after {_share(before)} in {names[k - 1]}." if before is not None else ".")


def _alike(e: Emergence) -> str:
    """Which layer first tells the two categories apart whose directions are nearest."""
    mu = e.frame.directions
    if len(mu) < 3 or len(e.layers) < 2:
        return ""
    cosines = mu @ mu.t()
    cosines.fill_diagonal_(-2)
    a, b = sorted(divmod(int(cosines.argmax()), len(mu)))
    images = ((e.y == a) | (e.y == b)) & e.held_out
    names = f"{_category(e, a)} and {_category(e, b)}, whose directions are the most alike"
    before = ""
    for k, layer in enumerate(e.layers):
        points = e.points(-1, k, images)
        # Of the regions of their images that speak for one of the two, those that name the right.
        of_both = points.point & ((points.category == a) | (points.category == b))
        right = bootstrap_ratio((of_both & points.reliable).sum(1), of_both.sum(1))
        if right is None:
            continue
        if right.low > 0.5:
            first = f"{printable(layer)} is the first layer that tells {names}"
            return f"{first}: {_share(right)}{before}."
        before = f", after {_share(right)} in {printable(layer)}"
    return f"No layer tells {names}{before.replace(', after', ': at the end')}." if before else ""


def _misread(e: Emergence) -> str:
    """What the finished network takes most often for something else."""
    C, says = len(e.categories), e.predicted()
    wrong = says != e.y
    if not wrong.any():
        return "The network misreads none of the images."
    pairs = torch.bincount(e.y[wrong] * C + says[wrong], minlength=C * C)
    y, said = divmod(int(pairs.argmax()), C)
    most = int(pairs.max())
    text = f"It misreads {int(wrong.sum()):,}"
    if most > 1:
        text += f", most often {_category(e, y)} as {_category(e, said)} ({most:,} times)"
    return f"{text}."


def _others(e: Emergence) -> str:
    """On which images regions speak most often for one other category."""
    C, points = len(e.categories), e.points().subset(e.held_out)
    of = points.y[:, None] * C + points.category
    wrong = points.point & ~points.reliable
    if not wrong.any():
        return ""
    y, said = divmod(int(torch.bincount(of[wrong], minlength=C * C).argmax()), C)
    images = points.subset(points.y == y)
    told = (images.point & (images.category == said)).sum(1)
    share = bootstrap_ratio(told, images.point.sum(1))
    assert share is not None  # there is one at least
    return (
        f"Regions of {_category(e, y)} speak most often for another category: {_share(share)} of "
        f"its knowledge points in {printable(e.layers[-1])} say {_category(e, said)}."
    )


def _attacked(a: Attack) -> str:
    """How many images an attack led astray, and in which layer their regions turned most."""
    text = (
        f"An attack that changes pixels by {a.eps:.3g} at most leads {len(a.astray):,} of "
        f"{len(a.names):,} images astray that were right: {_share(a.success())}"
    )
    cosines = [a.cosine(k) for k in range(len(a.layers))] if len(a.astray) else []
    told = [(x, printable(layer)) for x, layer in zip(cosines, a.layers, strict=False) if x]
    if not told:
        return f"{text}."
    x, layer = min(told, key=lambda found: found[0].value)
    return (
        f"{text}. Their regions turn most in {layer}: the mean cosine with the clean ones is "
        f"{x.value:.2f} ({x.low:.2f} to {x.high:.2f})."
    )


def _category(e: Emergence, y: int) -> str:
    return printable(e.categories[y]).replace("_", " ")


def _share(x: Interval) -> str:
    """Write a share with the ends of its interval."""
    return f"{100 * x.value:.0f} % ({100 * x.low:.0f} to {100 * x.high:.0f})"
