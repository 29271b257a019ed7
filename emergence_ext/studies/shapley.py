"""Is w what the network goes by? Importance of regions beside their Shapley values (Fig. 5, 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Final

import torch
from torch import Tensor
from tqdm import tqdm

from emergence_ext.lookup import optional, require_kind
from emergence_ext.method import pearson, spearman
from emergence_ext.names import printable
from emergence_ext.network import Above, above, grad_cam, region_cells
from emergence_ext.run import Emergence, Subject, require_same_network
from emergence_ext.settings import ShapleySettings, require_count
from emergence_ext.store import Saved

NAME: Final = "shapley"  # of the experiment, and of its folder in a run
BATCH: Final = 8
"""Permutations between two looks at the standard error, which is measured from such batches."""

FEWEST: Final = 4
"""Batches before the first look: what is measured from fewer stops too early now and then."""

_BUDGET: Final = 1 << 22  # numbers in the maps of one forward pass, at most
_BLOCK: Final = 32  # images at a time, at most


@dataclass(frozen=True, eq=False)
class RegionValues:
    """Shapley values of the regions of `n` images in one layer.

    Attributes:
        values: in logits, signed, `[n, R]`; a row sums to `full - none`.
        error: standard error of the values, mean over regions, `[n]`.
        permutations: how many were drawn, `[n]`.
        full: the logit of all regions, `[n]`.
        none: the logit without any, `[n]`.
    """

    values: Tensor
    error: Tensor
    permutations: Tensor
    full: Tensor
    none: Tensor


@dataclass(frozen=True, eq=False)
class Shapley(Saved):
    """Shapley values beside what else may say how important a region is: `L` layers, `n` images.

    Attributes:
        layers: names, `[L]`.
        categories: names, `[C]`.
        names: of the images, `[n]`.
        grid: `(H, W)` of the regions, `R = H * W`.
        reach: the standard error that was asked for, as a share of the spread over regions.
        y: true categories, `[n]`.
        index: of the images in the data set, `[n]`.
        values: Shapley values, `[L, n, R]`, see `RegionValues`.
        error, permutations, full, none: as there, `[L, n]`.
        w: importance of regions (Eq. 11, 12), `[L, n, R]`.
        strength: `|F|`, `[L, n, R]`.
        grad_cam: Grad-CAM before its ReLU, on the same grid, `[L, n, R]`.
        random: a w that is drawn evenly among all w, `[L, n, R]`.
    """

    layers: list[str]
    categories: list[str]
    names: list[str]
    grid: tuple[int, int]
    reach: float
    y: Tensor
    index: Tensor
    values: Tensor
    error: Tensor
    permutations: Tensor
    full: Tensor
    none: Tensor
    w: Tensor
    strength: Tensor
    grad_cam: Tensor
    random: Tensor

    @property
    def measures(self) -> dict[str, Tensor]:
        """What is held against the Shapley values, by the name that is shown, `[L, n, R]` each.

        w weighs regions of length 1; with their length it is what they weigh in the network.
        """
        return {
            "w": self.w,
            "w |F|": self.w * self.strength,
            "|F|": self.strength,
            "Grad-CAM": self.grad_cam,
            "random w": self.random,
        }

    @property
    def reached(self) -> Tensor:
        """Whose standard error is as small as was asked for, `[L, n]` bool."""
        return self.error <= self.reach * self.values.std(dim=-1)

    def pearson(self) -> dict[str, Tensor]:
        """Pearson of each measure with the Shapley values within each image, `[L, n]`."""
        return {name: pearson(x, self.values) for name, x in self.measures.items()}

    def spearman(self) -> dict[str, Tensor]:
        """Spearman of each measure with the Shapley values within each image, `[L, n]`."""
        return {name: spearman(x, self.values) for name, x in self.measures.items()}


def shapley(
    subject: Subject,
    emergence: Emergence,
    layers: Sequence[str] | None = None,
    images: int | None = None,
    *,
    samples: int = ShapleySettings.samples,
    error: float = ShapleySettings.error,
    random_state: int = 0,
) -> Shapley:
    """Compute Shapley values of regions, and what they are compared with, in the finished network.

    Args:
        subject: the network, as its last checkpoint left it, and the images; runs where it is.
        emergence: what the run found, for w and `|F|` of the images that w was learned on.
        layers: names as in the run; None: its last.
        images: at most so many of those images, of all categories alike; None: all.
        samples: permutations of an image at most.
        error: standard error to reach, as a share of the spread over the regions of an image.
        random_state: seed of the permutations and of the random w.

    Raises:
        ValueError: an unknown layer, a number out of its range, a layer whose regions do not change
            the logit, values that are not finite, or another network than the run's.
        ImportError: captum is absent.
    """
    require_kind(subject=(subject, Subject), emergence=(emergence, Emergence))
    emergence.require_every_region("the Shapley study")
    layers = [layers] if isinstance(layers, str) else layers
    names = list(layers) if layers is not None else emergence.layers[-1:]
    chosen = _choose(emergence, images)
    _check(names, emergence, samples, error)
    index = emergence.region_images[chosen]
    batch = torch.stack([subject.dataset[int(i)][0] for i in index])
    outputs = range(len(emergence.categories)) if subject.outputs is None else subject.outputs
    columns = torch.tensor(outputs)[emergence.y[index]]
    parts: list[tuple[RegionValues, Tensor]] = []
    with tqdm(
        total=len(names) * len(index), desc="Shapley values", unit="image", disable=None
    ) as bar:
        for name in names:
            bar.set_postfix_str(printable(name))
            part = _of_layer(
                subject, emergence, name, index, batch, columns, samples, error, random_state, bar
            )
            parts.append(part)
    rows = [emergence.layers.index(name) for name in names]
    w = emergence.w[-1, rows][:, chosen]
    generator = torch.Generator().manual_seed(random_state)
    # Exponential shares are spread evenly over all w that sum to 1.
    shares = torch.empty_like(w).exponential_(generator=generator)
    return Shapley(
        layers=names,
        categories=emergence.categories,
        names=[emergence.names[i] for i in index.tolist()],
        grid=emergence.grid,
        reach=error,
        y=emergence.y[index],
        index=index,
        **{
            name: torch.stack([getattr(values, name) for values, _ in parts])
            for name in ("values", "error", "permutations", "full", "none")
        },
        w=w,
        strength=emergence.raw_strength[-1, rows][:, chosen],
        grad_cam=torch.stack([cam for _, cam in parts]),
        random=shares / shares.sum(-1, keepdim=True),
    )


def region_values(
    part: Above,
    columns: Tensor,
    grid: tuple[int, int],
    *,
    samples: int = ShapleySettings.samples,
    error: float = ShapleySettings.error,
    random_state: int = 0,
) -> RegionValues:
    """Sample Shapley values of regions by captum; a region that is absent is zero in all channels.

    All images see the same permutations, batch after batch until their own standard error is small
    enough, so that what an image gets does not depend on the others.

    Args:
        part: the network above the layer, with the layer's maps of `n` images.
        columns: which output of the network counts, `[n]`.
        grid: `(H, W)` of the regions; larger maps are divided as `region_cells` says.
        samples: permutations of an image at most, at least `FEWEST * BATCH`.
        error: standard error to reach, as a share of the spread over the regions of an image.
        random_state: seed of the permutations.

    Raises:
        ValueError: maps that are smaller than the grid, or logits that are not finite.
        ImportError: captum is absent.

    Examples:
        >>> from emergence_ext import network, studies
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2)
        ... )
        >>> with network.above(net, "0", torch.rand(1, 3, 8, 8)) as part:
        ...     found = studies.shapley.region_values(part, torch.tensor([1]), (2, 2), samples=8)
        ...
        >>> torch.allclose(found.values.sum(), (found.full - found.none).sum(), atol=1e-4)
        True
    """
    attribution = optional("captum.attr", "Shapley values").ShapleyValueSampling
    n, R, device = len(part.maps), grid[0] * grid[1], part.maps.device
    cells = region_cells(part.maps.shape[2:], grid).to(device)
    columns = columns.to(device)
    with torch.no_grad():
        ends = torch.cat([part.maps, torch.zeros_like(part.maps)])
        ends = part(ends).gather(1, columns.repeat(2)[:, None])[:, 0].double().cpu()
    if not ends.isfinite().all():
        raise ValueError(f"layer {part.layer!r}: its network gives logits that are not finite")
    first = torch.stack([(cells.flatten() == r).nonzero()[0, 0] for r in range(R)])
    together = max(1, min(R, _BUDGET // max(1, part.maps.numel())))
    total, squares = torch.zeros(2, n, R, dtype=torch.float64)
    rounds, spread = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.float64)
    wanted = torch.ones(n, dtype=torch.bool)
    standard_error = torch.full((n,), torch.inf, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        # captum draws its permutations from the global random state.
        torch.manual_seed(random_state)
        for _ in range(samples // BATCH):
            some = part.subset(wanted.to(device))
            means = attribution(some).attribute(
                some.maps,
                target=columns[wanted.to(device)],
                feature_mask=cells[None, None],
                n_samples=BATCH,
                perturbations_per_eval=together,
            )
            means = means[:, 0].flatten(1)[:, first].double().cpu()
            total[wanted] += means
            squares[wanted] += means.square()
            rounds[wanted] += 1
            standard_error, spread = _errors(total, squares, rounds)
            wanted = (rounds < FEWEST) | (standard_error > error * spread)
            if not wanted.any():
                break
    return RegionValues(
        (total / rounds[:, None]).float(),
        standard_error.float(),
        BATCH * rounds,
        ends[:n].float(),
        ends[n:].float(),
    )


def _of_layer(
    subject: Subject,
    emergence: Emergence,
    name: str,
    index: Tensor,
    images: Tensor,
    columns: Tensor,
    samples: int,
    error: float,
    random_state: int,
    bar: tqdm,
) -> tuple[RegionValues, Tensor]:
    """Shapley values and Grad-CAM of a layer, block by block of images `[n, 3, H', W']`.

    `index` `[n]` says which of the run's they are.
    """
    module, grid = subject.module, emergence.grid
    R, largest = grid[0] * grid[1], emergence.largest_logit()
    before = emergence.logits(-1, index)[torch.arange(len(index)), emergence.y[index]]
    weight = next(module.parameters())
    blocks: list[tuple[RegionValues, Tensor]] = []
    start, size = 0, 1  # the first image tells how large the maps are
    while start < len(images):
        batch = subject.preprocess(images[start : start + size].to(weight.device))
        with above(module, subject.layers[name], batch) as part:
            here = columns[start : start + size]
            values = region_values(
                part, here, grid, samples=samples, error=error, random_state=random_state
            )
            require_same_network(values.full, before[start : start + size], largest)
            blocks.append((values, grad_cam(part, here, grid)))
            start += len(batch)
            size = min(_BLOCK, max(1, _BUDGET // (R * part.maps[0].numel())))
        bar.update(len(batch))
    values = RegionValues(
        **{
            field.name: torch.cat([getattr(values, field.name) for values, _ in blocks])
            for field in fields(RegionValues)
        }
    )
    if not values.values.any():
        raise ValueError(
            f"layer {name!r}: no region of it changes the logit of the true category. Where the "
            "head reads only the class token of the last block, choose an earlier layer."
        )
    return values, torch.cat([cam for _, cam in blocks])


def _errors(total: Tensor, squares: Tensor, rounds: Tensor) -> tuple[Tensor, Tensor]:
    """Standard error of the means, mean over regions, and their spread over regions, `[n]` each."""
    count = rounds[:, None].double()
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) / (count - 1).clamp(min=1)
    return variance.sqrt().mean(1), mean.std(1)


def _choose(emergence: Emergence, images: int | None) -> Tensor:
    """Which of the images of w are looked at, as places among them, of all categories alike."""
    count = len(emergence.region_images)
    if images is not None:
        require_count("images", images, 1)
    if images is None or images >= count:
        return torch.arange(count)
    order = torch.argsort(emergence.y[emergence.region_images], stable=True)
    return order[torch.arange(images) * count // images].sort().values


def _check(names: Sequence[str], emergence: Emergence, samples: int, error: float) -> None:
    unknown = [name for name in names if name not in emergence.layers]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            f"layer: expected some of {', '.join(emergence.layers)}, got {list(names)}"
        )
    require_count("samples", samples, 0)
    if samples < FEWEST * BATCH:
        raise ValueError(
            f"samples: expected at least {FEWEST * BATCH} permutations, {FEWEST} batches of "
            f"{BATCH}, got {samples}"
        )
    if not isinstance(error, Real) or not error > 0:
        raise ValueError(f"error: expected a share above 0 of the spread, got {error!r}")
