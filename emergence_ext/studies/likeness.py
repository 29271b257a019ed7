"""How like the regions of a run other regions are, and the limits below which they are unlike.

The distance to the nearest of the known features, of unit length, tells what is far from all of
them (Sun, Ming, Zhu and Li, "Out-of-distribution detection with deep nearest neighbors", ICML
2022); here it is that of regions, in every layer, and the limit is one on held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from emergence_ext.ops import choose

UNLIKE: Final = 0.01  # share of images like those of the run that shall fall below a limit
PAIRS: Final = 1 << 22  # scores held at once
FEW: Final = 1e-6  # the least spread of a likeness


class Matches(NamedTuple):
    """The most similar region, of a run, of every region.

    Attributes:
        likeness: the cosine of their features, `[n, R]`. Where a region's features are all 0, 1 if
            there are such in the run, else 0.
        region: its image times R plus its place in there, `[n, R]`.
    """

    likeness: Tensor
    region: Tensor


def best_matches(
    F: Tensor,
    run: Tensor,
    *,
    own: Tensor | None = None,
    device: str = "cpu",
    description: str = "regions",
) -> Matches:
    """Find the most similar region of a run for every region: the match of Eq. 12, on unit rows.

    Blocks of pairs are matched one after the other, so that memory does not grow with the pairs.
    A tie goes to the first image, and in it to the first region.

    Args:
        F: regional features, `[n, R, K]`.
        run: those of the run's images, `[N, S, K]`.
        own: for each of n, its place in the run, where it is not to be matched, `[n]`.
        device: where to match.
        description: what the progress bar says.

    Raises:
        ValueError: other widths, or no other image to match.

    Examples:
        >>> from emergence_ext import studies
        >>> run = torch.eye(3)[None]
        >>> studies.likeness.best_matches(2 * run, run).likeness
        tensor([[1., 1., 1.]])
    """
    n, R, K = F.shape
    N, S = run.shape[:2]
    if run.shape[2] != K:
        raise ValueError(f"run: its regions have {run.shape[2]} channels, the new ones {K}")
    others = N if own is None else N - 1
    if others < 1:
        raise ValueError("run: it holds no other image to match")
    ops = choose("auto", device, width=K + 1).ops
    silent = bool((F == 0).all(-1).any())
    images = max(1, min(n, 2**15 // R))  # that are matched at once
    likeness, region = torch.empty(n, R), torch.empty(n, R, dtype=torch.int64)
    with tqdm(total=n, desc=description, unit="image", leave=False, disable=None) as bar:
        for first in range(0, n, images):
            part = slice(first, min(first + images, n))
            count = part.stop - first
            # A region is an image of its own, so that a score is one match.
            q = _unit(F[part].to(device), silent).reshape(count * R, 1, -1)
            best = torch.full((count * R,), -torch.inf, device=device)
            place = torch.zeros(count * R, dtype=torch.int64, device=device)
            block = max(1, PAIRS // len(q))
            for start in range(0, N, block):
                d = _unit(run[start : start + block].to(device), silent)
                T, match = ops.maxsim_indices(q, d)
                if own is not None:
                    here = torch.arange(start, start + len(d))[:, None] == own[part]
                    T.masked_fill_(here.repeat_interleave(R, 1).to(device), -torch.inf)
                top = T.max(0)
                flat = match[..., 0].gather(0, top.indices[None])[0]
                better = top.values > best
                best = torch.where(better, top.values, best)
                place = torch.where(better, (start + top.indices) * S + flat, place)
            likeness[part], region[part] = best.view(count, R).cpu(), place.view(count, R).cpu()
            bar.update(count)
    return Matches(likeness, region)


def _unit(F: Tensor, silent: bool) -> Tensor:
    """Rows of length 1; where there are silent ones, these get a direction of their own."""
    if not silent:
        return normalize(F, dim=-1)
    zero = (F == 0).all(-1, keepdim=True)
    return torch.cat([normalize(F, dim=-1), zero.to(F)], dim=-1)


def scores(likeness: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """How like a run images are: in the layer in which each stands out most from held-out ones.

    Of every layer the mean over an image's regions is taken, less the median over the held-out
    images, in units of the way from that median down to their lowest hundredth; the lowest over the
    layers is the score. By the spread of the middle, layers with long tails would drown the others.

    Args:
        likeness: of the images' regions, `[L, N, R]`.
        held_out: of those of held-out images of the run, `[L, n, R]`.

    Returns:
        The score, `[N]`, and its layer, `[N]`.
    """
    mean, usual = likeness.double().mean(-1), held_out.double().mean(-1)
    levels = torch.tensor([UNLIKE, 0.5], dtype=torch.float64)
    low, middle = usual.quantile(levels, dim=1)[..., None]
    lowest = ((mean - middle) / (middle - low).clamp_min(FEW)).min(0)
    return lowest.values, lowest.indices


@dataclass(frozen=True)
class Limit:
    """A limit that few of the values of held-out images lie below.

    Attributes:
        value: the limit: `UNLIKE` of the values, but at least one, are at it or below.
        expected: share of new images, or regions, like those of the run that lie below.
        below: for each half of the held-out images, those below the limit of the other half, as
            (images or their regions below, of how many), `[n, 2]` by image.
        expected_below: the share of these that is expected.
    """

    value: float
    expected: float
    below: Tensor
    expected_below: float

    @classmethod
    def of(cls, values: Tensor) -> Limit:
        """Find the limit of values of held-out images, `[n]`, or of their regions, `[n, R]`.

        A new image that is exchangeable with n held-out ones lies below the k-th lowest of theirs
        with probability `k / (n + 1)`: `UNLIKE` or less, where n is 99 or more. How it holds is
        seen by judging each half of the images by the limit of the other.
        """
        value, expected = _lowest(values)
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        below = torch.zeros(len(values), 2, dtype=torch.int64)
        shares = []
        for one, other in (halves, halves[::-1]):
            if not len(one) or not len(other):
                continue
            limit, share = _lowest(values[other])
            lower = (values[one] < limit).reshape(len(one), -1)
            below[one] = torch.stack([lower.sum(1), torch.full((len(one),), lower.shape[1])], dim=1)
            shares.append(share)
        return cls(value, expected, below, sum(shares) / max(len(shares), 1))


def _lowest(values: Tensor) -> tuple[float, float]:
    """The k-th lowest of values, and the share of further ones that lie below it."""
    count = values.numel()
    k = max(1, int(UNLIKE * (count + 1)))
    return float(values.flatten().kthvalue(k).values), k / (count + 1)
