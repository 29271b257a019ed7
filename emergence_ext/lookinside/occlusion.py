"""What a class loses when a part of the image, or of a layer, is hidden.

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014), Sec. 4.2: the
probability of a class with a patch over each position of the image. captum's `Occlusion` gives
something else, attributions `[n, channels, H', W']` in which every pixel averages over all windows
that cover it. What is here is the value at every position before that average; where windows do not
overlap, both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import torch
from torch import Tensor, nn
from tqdm import tqdm

from emergence_ext.lookinside.targets import Target, check_batch, nothing_of, target_columns
from emergence_ext.network import above, classify, preserved, region_cells
from emergence_ext.settings import require_count, require_grid

Size = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class Occlusion:
    """A class with each part of `n` inputs hidden, one after another.

    Attributes:
        p: probability of the class with the part at each position hidden, `[n, H, W]`.
        log_odds: `log(p / (1 - p))`, which does not saturate where the network is sure,
            `[n, H, W]`.
        z: its logit, `[n, H, W]`.
        p_whole, log_odds_whole, z_whole: the same with nothing hidden, `[n]`.
        boxes: what is hidden at each position, `(top, left, bottom, right)` in cells of what is
            occluded (pixels, or cells of the layer's map), ends exclusive, `[H, W, 4]`.
    """

    p: Tensor
    log_odds: Tensor
    z: Tensor
    p_whole: Tensor
    log_odds_whole: Tensor
    z_whole: Tensor
    boxes: Tensor

    @property
    def loss(self) -> Tensor:
        """By how much hiding lowers the logit, as Shapley values are in logits, `[n, H, W]`."""
        return self.z_whole[:, None, None] - self.z

    @property
    def loss_of_odds(self) -> Tensor:
        """By how much hiding lowers the log odds of the class, `[n, H, W]`."""
        return self.log_odds_whole[:, None, None] - self.log_odds


def window_and_stride(size: int) -> tuple[int, int]:
    """A window of an eighth of the image and half of it as stride: 15 x 15 positions at 112 px.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.occlusion.window_and_stride(224)
        (28, 14)
    """
    require_count("size", size, 1)
    window = max(1, round(size / 8))
    return window, max(1, window // 2)


def occlusion(
    module: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    sliding_window_shapes: Size,
    strides: Size | None = None,
    baselines: float | Tensor = 0.0,
    perturbations_per_eval: int = 32,
) -> Occlusion:
    """Hide a window at every position of a grid and look at the probability of a class.

    The first window lies in the upper left corner; the last of a row or column is cut off by the
    border where they do not come out even, as in captum.

    Args:
        module: the network; it comes back as it was.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: column of the output, one for all inputs or one for each.
        sliding_window_shapes: height and width of the window in pixels; it hides all channels.
        strides: pixels between windows, down and across; None: half a window.
        baselines: what the window is filled with, a number or a tensor that broadcasts to the
            inputs, already as the network takes it.
        perturbations_per_eval: windows in one forward pass, of all inputs together.

    Raises:
        ValueError: a window, stride or batch below 1, a window larger than the inputs, a stride
            that leaves pixels out, baselines that do not broadcast, logits that are not finite, or
            what `target_columns` says.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> found = lookinside.occlusion.occlusion(
        ...     net, torch.rand(1, 3, 8, 8), 1, sliding_window_shapes=4, strides=2
        ... )
        >>> found.p.shape
        torch.Size([1, 3, 3])
    """
    columns = target_columns(module, inputs, target)
    boxes = _windows(inputs.shape[2:], sliding_window_shapes, strides)
    check_batch("perturbations_per_eval", perturbations_per_eval)
    try:
        fill = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device)
        fill = fill.expand_as(inputs)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"baselines: expected a number or a tensor that broadcasts to {list(inputs.shape)}"
        ) from None
    n, places = len(inputs), boxes.flatten(0, 1).tolist()
    logits = []
    with preserved(module), torch.no_grad():
        network = partial(classify, module)
        whole = _logits(network, inputs, columns, perturbations_per_eval)
        for jobs in _batches(n * len(places), perturbations_per_eval, "windows"):
            image = torch.div(jobs, len(places), rounding_mode="floor")
            batch = inputs[image]
            for k, job in enumerate(jobs.tolist()):
                top, left, bottom, right = places[job % len(places)]
                part = slice(top, bottom), slice(left, right)
                batch[k, :, *part] = fill[job // len(places), :, *part]
            logits.append(_logits(network, batch, columns[image], len(batch)))
    shape = (n, *boxes.shape[:2])
    return _occlusion(torch.cat(logits), whole, shape, boxes)


def region_occlusion(
    module: nn.Module,
    layer: str,
    inputs: Tensor,
    target: Target,
    grid: tuple[int, int] | None = None,
    *,
    perturbations_per_eval: int = 32,
) -> Occlusion:
    """Hide each region of a layer, zero in all channels, and look at the probability of a class.

    A region is absent in the same way as for its Shapley value; this is the last of the steps that
    a Shapley value averages over, when all other regions are there.

    Args:
        module: the network; it comes back as it was.
        layer: dotted name of a layer that gives maps `[n, K, H', W']` or tokens `[n, T, K]`.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: column of the output, one for all inputs or one for each.
        grid: `(H, W)` of the regions; None: every cell of the layer's map is one.
        perturbations_per_eval: regions in one forward pass.

    Raises:
        ValueError: a layer without maps or on whose maps the output does not depend, a map that is
            smaller than the grid, a batch below 1, logits that are not finite, or what
            `target_columns` says.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2)
        ... )
        >>> found = lookinside.occlusion.region_occlusion(
        ...     net, "0", torch.rand(1, 3, 8, 8), 1, grid=(3, 3)
        ... )
        >>> found.loss.shape
        torch.Size([1, 3, 3])
    """
    columns = target_columns(module, inputs, target)
    check_batch("perturbations_per_eval", perturbations_per_eval)
    if grid is not None:
        require_grid(grid)
    logits, whole = [], []
    for i in tqdm(range(len(inputs)), desc="regions", unit="image", disable=None, leave=False):
        with above(module, layer, inputs[i : i + 1]) as part, torch.no_grad():
            maps = part.maps
            H, W = grid or (maps.shape[2], maps.shape[3])
            cells = region_cells(maps.shape[2:], (H, W)).to(maps.device)
            whole.append(_logits(part, maps, columns[i : i + 1], 1))
            for regions in torch.arange(H * W).split(perturbations_per_eval):
                hidden = cells == regions.to(maps.device)[:, None, None]
                batch = maps.masked_fill(hidden[:, None], 0)
                logits.append(_logits(part, batch, columns[i].expand(len(batch)), len(batch)))
    boxes = torch.stack([_box(cells == r) for r in range(H * W)])
    shape = (len(inputs), H, W)
    hidden, shown = torch.cat(logits), torch.cat(whole)
    change = (hidden[:, 2].view(len(inputs), -1) - shown[:, 2:]).abs().max()
    if change <= 1e-6 * shown[:, 2].abs().max():  # rounding
        raise ValueError(nothing_of(layer))
    return _occlusion(hidden, shown, shape, boxes.unflatten(0, (H, W)))


def _windows(size: torch.Size, shape: Size, strides: Size | None) -> Tensor:
    """Boxes of the windows, `[H, W, 4]`."""
    window = _pair("sliding_window_shapes", shape)
    half = (max(1, window[0] // 2), max(1, window[1] // 2))
    step = half if strides is None else _pair("strides", strides)
    spans = []
    for side, w, s in zip(size, window, step, strict=True):
        if not 1 <= w <= side:
            raise ValueError(
                f"sliding_window_shapes: expected 1..{side} pixels, the side of the inputs, got {w}"
            )
        if s < 1 or (s > w and w < side):
            raise ValueError(
                f"strides: expected 1..{w} pixels, so that windows leave nothing out, got {s}"
            )
        start = torch.arange(-(-(side - w) // s) + 1) * s
        spans.append(torch.stack([start, (start + w).clamp(max=side)], dim=1))
    down, across = spans
    H, W = len(down), len(across)
    both = torch.cat([down[:, None].expand(H, W, 2), across[None].expand(H, W, 2)], dim=2)
    return both[..., [0, 2, 1, 3]]


def _pair(name: str, size: Size) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, Integral) for side in pair):
        raise ValueError(f"{name}: expected pixels or (height, width), got {size}")
    return pair


def _box(inside: Tensor) -> Tensor:
    """The box around the marked cells of a map."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    return torch.stack([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]).cpu()


def _batches(count: int, size: int, what: str) -> Iterator[Tensor]:
    with tqdm(total=count, desc=what, unit="pass", disable=None, leave=False) as bar:
        for jobs in torch.arange(count).split(size):
            yield jobs
            bar.update(len(jobs))


def _logits(
    network: Callable[[Tensor], Tensor], batch: Tensor, columns: Tensor, size: int
) -> Tensor:
    """Probability, log odds and logit of the column, `[b, 3]`, on the CPU."""
    parts = []
    for images, column in zip(batch.split(size), columns.split(size), strict=True):
        # Convolutions on the CPU are quicker where the channels are innermost.
        z = network(images.contiguous(memory_format=torch.channels_last))
        # In float32 at least, where the network runs in autocast.
        z = z if z.dtype == torch.float64 else z.float()
        if not z.isfinite().all():
            raise ValueError("module: it gives logits that are not finite; check its weights")
        if z.shape[1] < 2:
            raise ValueError("module: one output alone has no probability among others")
        index = column[:, None]
        p, own = z.softmax(1).gather(1, index), z.gather(1, index)
        others = z.scatter(1, index, -torch.inf).logsumexp(1, keepdim=True)
        parts.append(torch.cat([p, own - others, own], dim=1))
    return torch.cat(parts).cpu()


def _occlusion(hidden: Tensor, whole: Tensor, shape: tuple[int, ...], boxes: Tensor) -> Occlusion:
    p, odds, z = (x.reshape(shape) for x in hidden.T)
    p_whole, odds_whole, z_whole = whole.T
    return Occlusion(p, odds, z, p_whole, odds_whole, z_whole, boxes)
