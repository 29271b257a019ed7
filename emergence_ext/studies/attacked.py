"""What an attack did to regions: numbers with intervals, by layer (Fig. 7, 8, 15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from emergence_ext.method import Frame, Interval, bootstrap_ratio, polar, proportion
from emergence_ext.store import Saved

TYPES: Final = ("unchanged", "type 1", "type 2", "type 3", "type 4")
TYPE_TAU: Final = 0.5  # so that a region cannot be important for both categories


@dataclass(frozen=True, eq=False)
class Attack(Saved):
    """What an attack did: `N` images that were right before, `n` of them wrong after.

    The first of two states is the clean image, the second the end of the attack. `T = steps + 1`.

    Attributes:
        frame: of the clean run; Lambda and M are its own too.
        eps, step, steps: of the attack.
        tau: a region is important for a category where its p is above.
        random_state: seed of the intervals.
        layers: names, `[L]`.
        categories: names, `[C]`.
        names: of the attacked images, `[N]`.
        grid: `(H, W)` of the regions.
        y: true categories, `[N]`; c_ori of those that were led astray.
        predicted: what the network says at every step, `[T, N]`.
        astray: indices of the images that are wrong after, `[n]`.
        h: projected regional features of these, `[2, L, n, R, dim]`.
        g: projected sample features of these, `[2, n, dim]`.
        p: `p(c_ori | h)` and `p(c_adv | h)`, `[2, 2, L, n, R]` by category and state; 0 where a
            region has no strength.
        types: place in `TYPES` of every region, `[L, n, R]`.
        images: of the first `e` of these, `[2, e, channels, H', W']`.
        path: their regions at every step, `[T, L, e, R, dim]`.
        typed: type, place in `astray` and region of `m` examples in the last layer, `[m, 3]`.
        typed_path: these at every step, `[T, m, dim]`.
        typed_p: their `p(c_ori | h)` and `p(c_adv | h)` at every step, `[2, T, m]`.
        chosen: which images of the run were attacked, "held out" or "held out and fitted".
    """

    frame: Frame
    eps: float
    step: float
    steps: int
    tau: float
    random_state: int
    layers: list[str]
    categories: list[str]
    names: list[str]
    grid: tuple[int, int]
    y: Tensor
    predicted: Tensor
    astray: Tensor
    h: Tensor
    g: Tensor
    p: Tensor
    types: Tensor
    images: Tensor
    path: Tensor
    typed: Tensor
    typed_path: Tensor
    typed_p: Tensor
    chosen: str = "held out"

    @property
    def original(self) -> Tensor:
        """c_ori, the category before, `[n]`."""
        return self.y[self.astray]

    @property
    def adversarial(self) -> Tensor:
        """c_adv, the category after, `[n]`."""
        return self.predicted[-1, self.astray]

    def success(self) -> Interval:
        """Share of the images right before that are wrong after, with Wilson's interval."""
        return proportion(len(self.astray), len(self.names))

    def important(self, layer: int, category: int, state: int) -> Interval:
        """Regions with p > tau, for the original (0) or adversarial (1) category, by state."""
        count = (self.p[category, state, layer] > self.tau).sum(1)
        return _total(count, self.random_state)

    def utility(self, layer: int) -> Tensor:
        """`p(c_ori | h_ori)` of the regions with `p(c_adv | h_adv) > tau`, `[m]` (Fig. 8)."""
        return self.p[0, 0, layer][self.p[1, 1, layer] > self.tau]

    def cosine(self, layer: int | None) -> Interval | None:
        """Delta_orientation = E cos(h_ori, h_adv), over regions that have a direction in both.

        Where layer is None, this and the next two are of sample features g instead.
        """
        strength, orientation = polar(self._features(layer))
        both = (strength > 0).all(0)
        cosine = (orientation[0] * orientation[1]).sum(-1) * both
        return bootstrap_ratio(cosine.sum(1), both.sum(1), self.random_state)

    def directionless(self, layer: int | None) -> int:
        """Regions that have no direction before or after, and so no cosine."""
        return int((polar(self._features(layer))[0] == 0).any(0).sum())

    def strength(self, layer: int | None, relative: bool = False) -> Interval | None:
        """Delta_strength = E | |h_ori| - |h_adv| |, or the same over the mean of |h_ori|."""
        before, after = polar(self._features(layer))[0]
        over = before if relative else torch.ones_like(before)
        return bootstrap_ratio((before - after).abs().sum(1), over.sum(1), self.random_state)

    def of_type(self, layer: int, kind: int) -> Interval:
        """Number of regions of a type, a place in `TYPES`."""
        return _total((self.types[layer] == kind).sum(1), self.random_state)

    def _features(self, layer: int | None) -> Tensor:
        """Regions of a layer, `[2, n, R, dim]`, or samples as their own only region."""
        return self.g[:, :, None] if layer is None else self.h[:, layer]


def region_types(o: Tensor, a: Tensor) -> Tensor:
    """Type of each region, a place in `TYPES`, from what it is important for at every step.

    Types 1 and 2: o at the start and a at the end; type 1 where o or a holds at every step. Type 3:
    neither at the start, a at the end. Type 4: o at the start, neither at the end (Sec. 4.2).

    Args:
        o: important for the original category, `[T, ...]` bool.
        a: important for the adversarial category, `[T, ...]` bool.

    Returns:
        `[...]`, uint8.
    """
    switched = o[0] & a[-1]
    types = torch.zeros(o.shape[1:], dtype=torch.uint8)
    types[switched] = 2
    types[switched & (o | a).all(0)] = 1
    types[~o[0] & ~a[0] & a[-1]] = 3
    types[o[0] & ~o[-1] & ~a[-1]] = 4
    return types


def _total(per_image: Tensor, random_state: int) -> Interval:
    """Sum over images `[n]` with a bootstrap interval over images."""
    mean = bootstrap_ratio(per_image, torch.ones_like(per_image), random_state)
    if mean is None:
        raise ValueError(
            "attack: no image was led astray, so there are no regions to count; give a larger eps"
        )
    n = len(per_image)
    return Interval(float(per_image.sum()), n * mean.low, n * mean.high)
