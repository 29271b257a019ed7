"""What was found: the questions a reader has, answered from the numbers and their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from emergence_ext.method import Interval, bootstrap_ratio, proportion
from emergence_ext.names import printable
from emergence_ext.report.shown import Shown
from emergence_ext.run import Emergence, FinishedRun
from emergence_ext.studies.attack import Attack
from emergence_ext.studies.foreground import Objects, share_of_points


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
        question: what it answers.
        text: the answer, a sentence or two.
        view: the address of the view that shows it, behind the #; nothing where none does.
    """

    question: str
    text: str
    view: str = ""


def findings(
    run: FinishedRun, attack: Attack | None = None, objects: Objects | None = None
) -> list[Finding]:
    """Return what the numbers of a run say, an answer a question; nothing that they do not.

    Args:
        run: a finished run.
        attack: on its images; None: there was none.
        objects: where they lie in its images; None: nobody said.
    """
    e = run.emergence
    found = (
        _misread(e),
        _through_layers(e),
        _on_object(e, objects) if objects is not None else None,
        _alike(e.sample),
        _through_epochs(e),
        _others(e.sample),
        _attacked(attack) if attack is not None else None,
    )
    return [x for x in found if x is not None]


def _misread(e: Emergence) -> Finding:
    """How right the finished network is, and what it takes most often for something else."""
    C, says = len(e.categories), e.predicted()
    wrong = says != e.y
    share = _share(proportion(int((~wrong).sum()), len(e.y)))
    text = f"The network gets {share} of the {len(e.y):,} images right"
    if not wrong.any():
        return Finding("Which images are misread?", f"None. {text}.")
    pairs = torch.bincount(e.y[wrong] * C + says[wrong], minlength=C * C)
    y, said = divmod(int(pairs.argmax()), C)
    most = int(pairs.max())
    text += f" and misreads {int(wrong.sum()):,}"
    if most > 1:
        text += f", most often {_category(e, y)} as {_category(e, said)} ({most:,} times)"
    return Finding("Which images are misread?", f"{text}.", "who=misread&what=both")


def _through_layers(e: Emergence) -> Finding | None:
    """Which layer is the first whose knowledge points are mostly right, and the step to it."""
    counts = e.held_out_counts[-1]
    ratios = [count.ratio for count in counts]
    if len(ratios) < 2:
        return None
    question = "Which layer first tells the categories apart?"
    names = [printable(layer) for layer in e.layers]
    mostly = [k for k, r in enumerate(ratios) if r is not None and r.low > 0.5]
    if not mostly:
        best = max((r for r in ratios if r is not None), key=lambda r: r.value, default=None)
        if best is None:
            return Finding(question, "None: no layer has a knowledge point on held-out images.")
        return Finding(
            question,
            f"None: nowhere are most knowledge points right. {names[ratios.index(best)]} comes "
            f"nearest with {_share(best)}.",
        )
    k = mostly[0]
    ratio, before = ratios[k], ratios[k - 1] if k else None
    assert ratio is not None
    text = f"{names[k]}: {_share(ratio)} of its knowledge points are right"
    text += f", after {_share(before)} in {names[k - 1]}." if before is not None else "."
    return Finding(question, text, f"layout=height&l={_place(Shown.of(e).layers, k)}")


def _on_object(e: Emergence, objects: Objects) -> Finding | None:
    """Which share of the knowledge points lies on the object, in the last layer and the first."""
    shares = [share_of_points(e, objects, k) for k in range(len(e.layers))]
    last = shares[-1]
    if last.points is None or last.reliable is None:
        return None
    text = (
        f"{printable(e.layers[-1])}: {_share(last.points)} of its knowledge points lie on it, of "
        f"the right ones {_share(last.reliable)}; by chance {100 * last.area:.0f}\u00a0%, its "
        "share of the area"
    )
    first = shares[0].points
    if len(shares) > 1 and first is not None:
        text += f". In {printable(e.layers[0])} {_share(first)} lie there"
    place = _place(Shown.of(e).layers, len(e.layers) - 1)
    return Finding("Do knowledge points lie on the object?", f"{text}.", f"l={place}")


def _alike(e: Emergence) -> Finding | None:
    """Which layer first tells the two categories apart whose directions are nearest."""
    mu = e.frame.directions
    if len(mu) < 3 or len(e.layers) < 2:
        return None
    cosines = mu @ mu.t()
    cosines.fill_diagonal_(-2)
    a, b = sorted(divmod(int(cosines.argmax()), len(mu)))
    images = ((e.y == a) | (e.y == b)) & e.held_out
    question = f"And {_category(e, a)} from {_category(e, b)}, the two most alike?"
    others = ".".join(str(y) for y in range(len(mu)) if y not in (a, b))
    before = ""
    for k, layer in enumerate(e.layers):
        points = e.points(-1, k, images)
        # Of the regions of their images that speak for one of the two, those that name the right.
        of_both = points.point & ((points.category == a) | (points.category == b))
        right = bootstrap_ratio((of_both & points.reliable).sum(1), of_both.sum(1))
        if right is None:
            continue
        if right.low > 0.5:
            text = f"{printable(layer)}: {_share(right)} right between these two{before}."
            place = _place(Shown.of(e).layers, k)
            return Finding(question, text, f"l={place}&hide={others}" if len(mu) <= 20 else "")
        before = f", after {_share(right)} in {printable(layer)}"
    if not before:
        return None
    return Finding(question, f"No layer does{before.replace(', after', ': at the end')}.")


def _through_epochs(e: Emergence) -> Finding | None:
    """From which checkpoint on the regions of the last layer are as reliable as at the end."""
    ratios = [row[-1].ratio for row in e.held_out_counts]
    last = ratios[-1]
    if last is None or len(ratios) < 2:
        return None
    alike = [r is not None and r.high >= last.low for r in ratios]
    first = next(t for t in range(len(alike)) if all(alike[t:]))
    layer, start = printable(e.layers[-1]), ratios[0]
    names = [printable(label) for label in e.labels]
    begun = "no point" if start is None else _share(start)
    place = _place(Shown.of(e).checkpoints, first)
    if first == len(ratios) - 1:
        text = (
            f"They still become more reliable at the end: {_share(last)} of the knowledge points "
            f"of {layer} are right at {names[-1]}, {begun} at {names[0]}."
        )
    else:
        there = ratios[first]
        assert there is not None
        text = (
            f"From {names[first]} on as at the end: {_share(there)} of the knowledge points of "
            f"{layer} are right, {_share(last)} at {names[-1]}"
            + (f", {begun} at {names[0]}." if first else ".")
        )
    return Finding("When in training are regions reliable?", text, f"e={place}")


def _others(e: Emergence) -> Finding | None:
    """On which images regions speak most often for one other category."""
    C, points = len(e.categories), e.points().subset(e.held_out)
    of = points.y[:, None] * C + points.category
    wrong = points.point & ~points.reliable
    if not wrong.any():
        return None
    y, said = divmod(int(torch.bincount(of[wrong], minlength=C * C).argmax()), C)
    images = points.subset(points.y == y)
    told = (images.point & (images.category == said)).sum(1)
    share = bootstrap_ratio(told, images.point.sum(1))
    assert share is not None  # there is one at least
    text = (
        f"Most often those of {_category(e, y)} as {_category(e, said)}: {_share(share)} of its "
        f"knowledge points in {printable(e.layers[-1])}."
    )
    return Finding("Which regions are misread, and as what?", text, f"cell=points.{y}.{said}")


def _attacked(a: Attack) -> Finding:
    """How many images an attack led astray, and in which layer their regions turned most."""
    text = (
        f"Pixels changed by {a.eps:.3g} at most lead {len(a.astray):,} of {len(a.names):,} images "
        f"astray that were right: {_share(a.success())}"
    )
    question = "What did the attack change?"
    if not len(a.astray):
        return Finding(question, f"{text}.")
    C = len(a.categories)
    pairs = torch.bincount(a.original * C + a.adversarial, minlength=C * C)
    y, said = divmod(int(pairs.argmax()), C)
    if int(pairs.max()) > 1:
        names = (printable(a.categories[c]).replace("_", " ") for c in (y, said))
        text += f", most often {' to '.join(names)} ({int(pairs.max()):,} times)"
    cosines = [a.cosine(k) for k in range(len(a.layers))]
    told = [(x, printable(layer)) for x, layer in zip(cosines, a.layers, strict=True) if x]
    if told:
        x, layer = min(told, key=lambda found: found[0].value)
        text += (
            f". Their regions turn most in {layer}: mean cosine with the clean ones "
            f"{_signed(x.value)} ({_signed(x.low)} to {_signed(x.high)})"
        )
    return Finding(question, f"{text}.", "beside=x0")


def _place(shown: list[int], k: int) -> int:
    """Where a checkpoint or layer stands among those that are shown, or the nearest of these."""
    return min(range(len(shown)), key=lambda i: abs(shown[i] - k))


def _category(e: Emergence, y: int) -> str:
    return printable(e.categories[y]).replace("_", " ")


def _share(x: Interval) -> str:
    """Write a share with the ends of its interval."""
    return f"{100 * x.value:.0f}\u00a0% ({100 * x.low:.0f} to {100 * x.high:.0f})"


def _signed(x: float) -> str:
    return f"{x:.2f}".replace("-", "\u2212")
