"""What moved between two runs of the same regions, or two checkpoints of one, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from emergence_ext.lookup import require_kind
from emergence_ext.method import Frame, Interval, KnowledgePoints, mean_interval, polar
from emergence_ext.run import Emergence, FinishedRun, file_name, open_at
from emergence_ext.store import Saved

NAME: Final = "compare"  # of the experiment, and of its folder in a run
_SHUFFLES: Final = 200


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the frame of B was brought onto that of A.

    Attributes:
        map: orthogonal map from B's space to A's, applied from the right, `[dim, dim]`.
        cosine: of each category's direction in A with its mapped direction in B, `[C]`.
        chance: mean cosine that the best map reaches when B's categories are shuffled, mean over
            200 shuffles: what a fit is worth that knows nothing.
        same: whether A and B share one frame, so that nothing was mapped.
    """

    map: Tensor
    cosine: Tensor
    chance: float
    same: bool


@dataclass(frozen=True, eq=False)
class Comparison(Saved):
    """Regions of two states, paired: A, and B in the frame of A.

    Arrays of a pair have A first. `L` layers, `N` images in A's order, `R` regions.

    Attributes:
        a, b: what they are called.
        layers, categories, names: of both, `[L]`, `[C]`, `[N]`.
        grid: `(H, W)` of the regions.
        y: true categories, `[N]`.
        held_out: images that no fit of either saw, `[N]` bool; what is told is told of them.
        alignment: how B's frame was brought onto A's.
        distance: `|h_B - h_A|`, `[L, N, R]`: how far a region moved.
        turned: `1 - cos(h_A, h_B)`, `[L, N, R]`; NaN where either has no strength.
        strength: `|h|`, `[2, L, N, R]`.
        says: the category of a knowledge point, each in its own frame, `[2, L, N, R]`; -1 where a
            region is none.
        truth: p of the true category given h, each in its own frame, `[2, L, N, R]`.
        weighed: images whose regions have an importance in both, `[n]`.
        w: that importance, `[2, L, n, R]`.
        positions: h of B in the frame of A, `[L, N, R, dim]`; None in results of earlier versions,
            as are the next two.
        category, confidence: the category that a region of B speaks for most and its p, in its own
            frame, `[L, N, R]`.
    """

    a: str
    b: str
    layers: list[str]
    categories: list[str]
    names: list[str]
    grid: tuple[int, int]
    y: Tensor
    held_out: Tensor
    alignment: Alignment
    distance: Tensor
    turned: Tensor
    strength: Tensor
    says: Tensor
    truth: Tensor
    weighed: Tensor
    w: Tensor
    positions: Tensor | None = None
    category: Tensor | None = None
    confidence: Tensor | None = None

    def reliable(self) -> Tensor:
        """Where a region is a reliable knowledge point in A and in B, `[2, L, N, R]`."""
        return self.says == self.y[:, None]

    def says_in_words(self, layer: int, image: int, region: int) -> tuple[str, str]:
        """The category that a region is a knowledge point for, in A and in B, or "no point"."""
        says = self.says[:, layer, image, region].tolist()
        a, b = ("no point" if c < 0 else self.categories[c] for c in says)
        return a, b

    def ranked_regions(self, layer: int = -1, most: int = 40) -> list[tuple[int, int]]:
        """The (image, region) of the held-out images that moved farthest, the farthest first."""
        images = self.held_out.nonzero().flatten()
        far = self.distance[layer, images].flatten()
        order = torch.argsort(far, descending=True, stable=True)[:most].tolist()
        R = self.distance.shape[-1]
        return [(int(images[place // R]), place % R) for place in order]

    def ranked_images(self, layer: int = -1) -> Tensor:
        """Held-out images by the mean distance that their regions moved, the farthest first."""
        images = self.held_out.nonzero().flatten()
        far = self.distance[layer, images].mean(1)
        return images[torch.argsort(far, descending=True, stable=True)]

    # The numbers of the alignment are stored beside those of the comparison.
    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        arrays, settings = super()._state()
        alignment = settings.pop("alignment")
        return arrays, {**settings, **alignment}

    @classmethod
    def _from_state(cls, arrays: dict[str, Tensor], settings: dict[str, Any]) -> Self:
        rest = dict(settings)
        alignment = {name: rest.pop(name) for name in ("chance", "same")}
        return super()._from_state(arrays, {**rest, "alignment": alignment})


@dataclass(frozen=True)
class Difference:
    """What changed from A to B in one layer, means over images with intervals over images.

    Attributes:
        layer: its name.
        category: whose images; None for all.
        images: how many, held out in both.
        turned: `1 - cos(h_A, h_B)`, mean over the regions of an image.
        stronger: `|h_B| - |h_A|`, mean over the regions.
        changed: share of the regions that became a point, are none any more, or say another
            category now.
        points: knowledge points of an image, B less A.
        reliable: reliable points of an image, B less A.
        reweighed: share of an image's importance that lies elsewhere now,
            `sum_r |w_B - w_A| / 2`; None where no image has an importance in both.
        weighed: on how many images that is.
    """

    layer: str
    category: str | None
    images: int
    turned: Interval
    stronger: Interval
    changed: Interval
    points: Interval
    reliable: Interval
    reweighed: Interval | None
    weighed: int


def compare(
    a: Emergence,
    b: Emergence,
    checkpoint_a: int = -1,
    checkpoint_b: int = -1,
    *,
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Pair the regions of two states by the name of their image, and say how each changed.

    If the states have different frames, B's is brought onto A's by the orthogonal map that best
    fits the category directions (Procrustes). Strengths, and what a region says in its own frame,
    are compared as they are: neither depends on that map.

    Args:
        a, b: of two runs, or twice of one.
        checkpoint_a, checkpoint_b: places of the checkpoints.
        names: what to call the two.

    Raises:
        ValueError: other layers, another grid, images, categories, labels, projected width or
            threshold of knowledge points, or fewer than two images that are held out in both.

    Examples:
        >>> import emergence_ext as ee
        >>> e = ee.FinishedRun.open("runs/demo").emergence
        >>> found = ee.studies.compare.compare(e, e, 0, 2, names=("before", "after"))
        >>> found.layers, found.distance.shape
        (['conv1_1', 'conv2_1'], torch.Size([2, 48, 64]))
    """
    for name, e, place in (("a", a, checkpoint_a), ("b", b, checkpoint_b)):
        require_kind(**{name: (e, Emergence)})
        if not isinstance(place, Integral) or not -len(e.labels) <= place < len(e.labels):
            raise ValueError(
                f"checkpoint_{name}: expected the place of one of {len(e.labels)}, got {place!r}"
            )
    if isinstance(names, str) or len(names) != 2:
        raise ValueError(f"names: expected two, of A and of B, got {names!r}")
    for e in (a, b):
        e.require_every_region("a comparison")
    order = _paired(a, b, names)
    held_out = a.held_out & b.held_out[order]
    if int(held_out.sum()) < 2:
        raise ValueError(
            f"compare: {int(held_out.sum())} images are held out in both runs, which have "
            "different splits; analyse both with one --seed"
        )
    alignment = align(a.frame, b.frame)
    layers = range(len(a.layers))
    h_a = torch.stack([a.regions(checkpoint_a, k) for k in layers])
    h_b = torch.stack([b.regions(checkpoint_b, k, order) for k in layers])
    moved = h_b if alignment.same else h_b @ alignment.map.to(h_b)
    strength, direction = polar(torch.stack([h_a, moved]))
    turned = (1 - (direction[0] * direction[1]).sum(-1)).clamp(0, 2)
    nowhere = (strength == 0).any(0)
    place_b = {int(i): n for n, i in enumerate(torch.argsort(order)[b.region_images].tolist())}
    both = [(n, place_b[i]) for n, i in enumerate(a.region_images.tolist()) if i in place_b]
    first, second = (torch.tensor([x[k] for x in both], dtype=torch.int64) for k in (0, 1))
    points_a, points_b = (
        [e.points(t, k) for k in layers] for e, t in ((a, checkpoint_a), (b, checkpoint_b))
    )
    return Comparison(
        *names,
        layers=a.layers,
        categories=a.categories,
        names=a.names,
        grid=a.grid,
        y=a.y,
        held_out=held_out,
        alignment=alignment,
        distance=(moved - h_a).norm(dim=-1),
        turned=torch.where(nowhere, torch.nan, turned),
        strength=strength,
        says=torch.stack([_says(points_a), _says(points_b)[:, order]]),
        truth=torch.stack([_truth(e.frame, h, a.y) for e, h in ((a, h_a), (b, h_b))]),
        weighed=a.region_images[first],
        w=torch.stack([a.w[checkpoint_a][:, first], b.w[checkpoint_b][:, second]]),
        positions=moved.float(),
        category=torch.stack([p.category for p in points_b])[:, order],
        confidence=torch.stack([p.confidence for p in points_b])[:, order],
    )


def compare_runs(a: str, b: str) -> tuple[Comparison, FinishedRun, Path]:
    """Compare two runs, or two checkpoints of one, by name.

    Args:
        a, b: a run directory, or `RUN_DIR@CHECKPOINT`.

    Returns:
        The pairs, the run of A, and the folder in it that is theirs.

    Raises:
        ValueError: twice the same, no such checkpoint, or what `compare` says.
        FileNotFoundError: no finished run there.

    Examples:
        >>> import emergence_ext as ee
        >>> found, run, folder = ee.studies.compare.compare_runs("runs/demo@epoch 0", "runs/demo")
        >>> found.a, found.b, folder.as_posix()
        ('epoch 0', 'epoch 12', 'runs/demo/compare/epoch_0_to_epoch_12.cbf32d93')
    """
    (run_a, t_a), (run_b, t_b) = open_at(a), open_at(b)
    labels = (run_a.emergence.labels[t_a], run_b.emergence.labels[t_b])
    one = run_a.folder.resolve() == run_b.folder.resolve()
    if one and t_a == t_b:
        raise ValueError(
            f"compare: A and B are both {labels[0]!r} of {run_a.folder}, so nothing moved; give "
            "two runs, or RUN_DIR@CHECKPOINT twice"
        )
    names = labels if one else _names((run_a.folder, run_b.folder), labels)
    e_a, e_b = run_a.emergence, run_b.emergence
    if e_a.stores or e_b.stores:  # of many images some
        if e_a.names != e_b.names or not torch.equal(e_a.region_images, e_b.region_images):
            raise ValueError(
                "compare: runs of many images are compared on some of them, and these two are of "
                "other images or learned their regions on others; analyse both on one folder with "
                "the same options"
            )
        e_a, e_b = (e.part(e_a.sampled if e_a.stores else e_b.sampled) for e in (e_a, e_b))
    comparison = compare(e_a, e_b, t_a, t_b, names=names)
    return comparison, run_a, run_a.inside.experiment(NAME) / file_name(" to ".join(names))


def _names(folders: tuple[Path, Path], labels: tuple[str, str]) -> tuple[str, str]:
    """Call checkpoints by the folders of their runs too, whole where the last part is the same."""
    (a, b), (label_a, label_b) = (folder.resolve() for folder in folders), labels
    if (a.name, label_a) == (b.name, label_b):
        return f"{a} {label_a}", f"{b} {label_b}"
    return f"{a.name} {label_a}", f"{b.name} {label_b}"


def align(a: Frame, b: Frame, random_state: int = 0) -> Alignment:
    """Find the orthogonal map that brings the directions of b closest to those of a.

    Args:
        a, b: frames of the same categories, of one width.
        random_state: seed of the shuffles.

    Examples:
        >>> import emergence_ext as ee
        >>> frame = ee.FinishedRun.open("runs/demo").emergence.frame
        >>> ee.studies.compare.align(frame, frame).cosine
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    from scipy.linalg import orthogonal_procrustes

    require_kind(a=(a, Frame), b=(b, Frame))
    ours, theirs = a.directions.double().numpy(), b.directions.double().numpy()
    if np.allclose(ours, theirs, atol=1e-6) and torch.allclose(a.priors, b.priors, atol=1e-6):
        ones = torch.ones(len(ours), dtype=torch.float64)
        return Alignment(torch.eye(a.dim, dtype=torch.float64), ones, float("nan"), same=True)
    generator = np.random.default_rng(random_state)
    best, _ = orthogonal_procrustes(theirs, ours)
    chance = []
    for _ in range(_SHUFFLES):
        shuffled = theirs[generator.permutation(len(theirs))]
        turn, _ = orthogonal_procrustes(shuffled, ours)
        chance.append(((shuffled @ turn) * ours).sum(1).mean())
    cosine = ((theirs @ best) * ours).sum(1)
    return Alignment(
        torch.from_numpy(best), torch.from_numpy(cosine), float(np.mean(chance)), same=False
    )


def comparable(c: Comparison) -> list[str]:
    """Say in plain sentences what of the two can be compared, and how far.

    Examples:
        >>> import emergence_ext as ee
        >>> e = ee.FinishedRun.open("runs/demo").emergence
        >>> ee.studies.compare.comparable(ee.studies.compare.compare(e, e, 0, 2))[0]
        'The frames are one and the same: directions, strengths, points and w compare.'
    """
    own = (
        "Each of the two has fits of its own: what two fits of one network differ by is in it all."
    )
    if c.alignment.same:
        same = "The frames are one and the same: directions, strengths, points and w compare."
        return [same, own]
    cosine = c.alignment.cosine
    worst = int(cosine.argmin())
    mean, lowest = float(cosine.mean()), float(cosine.min())
    sentences = [
        f"The frames differ. After the best orthogonal map the category directions agree with a "
        f"mean cosine of {mean:.2f} (chance {c.alignment.chance:.2f}), worst "
        f"{c.categories[worst]!r} with {lowest:.2f}.",
        "Strengths, knowledge points (each in its own frame) and w compare as they are.",
    ]
    if mean - c.alignment.chance < 0.5 * (1 - c.alignment.chance):
        sentences.append(
            "The map fits little better than chance: 1 - cos and the distance a region moved are "
            "mostly the difference of the frames. Do not read them."
        )
    else:
        sentences.append(
            f"1 - cos of regions holds the misfit of the frames ({1 - mean:.2f} on average, up to "
            f"{1 - lowest:.2f}): smaller differences of direction, and ranks among them, mean "
            "nothing."
        )
    return [*sentences, own]


def differences(c: Comparison, random_state: int = 0) -> list[Difference]:
    """Differences by layer, of all held-out images and of those of every category.

    Intervals are bootstrapped over images; a single image has none (NaN).

    Args:
        c: the pairs.
        random_state: seed of the resamples.
    """
    require_kind(c=(c, Comparison))
    R = c.distance.shape[-1]
    rows = []
    for k, layer in enumerate(c.layers):
        point, reliable = (c.says[:, k] >= 0).double(), c.reliable()[:, k].double()
        per_image = {
            "turned": c.turned[k].nanmean(1),
            "stronger": (c.strength[1, k] - c.strength[0, k]).mean(1),
            "changed": (c.says[1, k] != c.says[0, k]).double().mean(1),
            "points": R * (point[1] - point[0]).mean(1),
            "reliable": R * (reliable[1] - reliable[0]).mean(1),
        }
        reweighed = 0.5 * (c.w[1, k] - c.w[0, k]).abs().sum(1)
        for category in (None, *range(len(c.categories))):
            of = torch.ones_like(c.held_out) if category is None else c.y == category
            chosen, weighed = c.held_out & of, of[c.weighed]
            if not chosen.any():
                continue
            intervals = {
                name: _interval(values[chosen], random_state) for name, values in per_image.items()
            }
            rows.append(
                Difference(
                    layer,
                    None if category is None else c.categories[category],
                    int(chosen.sum()),
                    **intervals,
                    reweighed=_interval(reweighed[weighed], random_state)
                    if weighed.any()
                    else None,
                    weighed=int(weighed.sum()),
                )
            )
    return rows


def _interval(values: Tensor, random_state: int) -> Interval:
    """Mean over images with its interval; NaN where no image has a value."""
    nan = float("nan")
    return mean_interval(values, random_state) or Interval(nan, nan, nan)


def _paired(a: Emergence, b: Emergence, names: tuple[str, str]) -> Tensor:
    """Return the place in b of every image of a, `[N]`; refuse what cannot be paired."""
    for what, here, there in (
        ("layers", a.layers, b.layers),
        ("grid of regions", list(a.grid), list(b.grid)),
        ("categories", a.categories, b.categories),
        ("projected width", a.frame.dim, b.frame.dim),
        ("threshold of knowledge points", a.tau, b.tau),
    ):
        if here != there:
            raise ValueError(
                f"compare: {names[0]} and {names[1]} differ in their {what} ({here} and {there}); "
                "only what was found alike compares. Analyse both with the same options."
            )
    for name, e in zip(names, (a, b), strict=True):
        if len(set(e.names)) < len(e.names):
            raise ValueError(f"compare: {name} has several images of one name")
    place = {name: n for n, name in enumerate(b.names)}
    absent = _some(set(a.names) - set(b.names)), _some(set(b.names) - set(a.names))
    if any(absent):
        raise ValueError(
            f"compare: {names[0]} and {names[1]} looked at different images: "
            f"{absent[0] or 'none'} only in the first, {absent[1] or 'none'} only in the second. "
            "Analyse both on one folder with the same --per-class and --seed."
        )
    order = torch.tensor([place[name] for name in a.names])
    if not torch.equal(a.y, b.y[order]):
        wrong = int((a.y != b.y[order]).nonzero()[0])
        raise ValueError(
            f"compare: image {a.names[wrong]!r} is {a.categories[int(a.y[wrong])]!r} in "
            f"{names[0]} and another category in {names[1]}"
        )
    return order


def _some(names: set[str]) -> str:
    """A few of the names, and how many more there are."""
    if not names:
        return ""
    first: Sequence[str] = sorted(names)[:2]
    more = len(names) - len(first)
    return ", ".join(map(repr, first)) + (f" and {more} more" if more else "")


def _says(points: Sequence[KnowledgePoints]) -> Tensor:
    """What every region of all layers is a knowledge point for, or -1, `[L, N, R]`."""
    return torch.stack([torch.where(p.point, p.category, -1) for p in points])


def _truth(frame: Frame, h: Tensor, y: Tensor) -> Tensor:
    """Probability of the true categories `[N]` of regions `[L, N, R, dim]`, `[L, N, R]`."""
    return frame.posterior(h)[:, torch.arange(len(y)), :, y].transpose(0, 1)
