"""Attack a network's images and follow their regions in the frame of the clean run (Sec. 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.lookup import require_kind
from emergence_ext.method import Frame, Interval, bootstrap_ratio, check_tau, polar, proportion
from emergence_ext.network import (
    ForwardPass,
    Record,
    find_head,
    flat_features,
    in_batches,
    moved_to,
    recorder,
    regions,
)
from emergence_ext.run import Emergence, Learned, Subject, require_same_network
from emergence_ext.settings import AttackSettings
from emergence_ext.store import Saved
from emergence_ext.studies.pgd import pgd, require_differentiable

logger = logging.getLogger(__name__)

NAME: Final = "attack"  # of the experiment, and of its folder in a run
TYPES: Final = ("unchanged", "type 1", "type 2", "type 3", "type 4")
TYPE_TAU: Final = 0.5  # so that a region cannot be important for both categories
SHOWN: Final = 6  # images that are kept at every step
SHOWN_OF_TYPE: Final = 3  # regions of each type that are kept at every step


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

    Raises:
        ValueError: shapes that differ, or what is not bool.
    """
    if o.shape != a.shape or o.dtype != torch.bool or a.dtype != torch.bool:
        raise ValueError(
            f"o and a must be bool [T, ...], got {o.dtype} {list(o.shape)} and {a.dtype} "
            f"{list(a.shape)}"
        )
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


def attack(
    subject: Subject, emergence: Emergence, learned: Learned, settings: AttackSettings | None = None
) -> Attack:
    """Attack the finished network and follow regions in the frame of its clean images.

    Only images that the network gets right are attacked, in turn one of each category. Features are
    projected at every step; what is held of all images does not grow with the steps.

    Args:
        subject: network and images, as in the run.
        emergence: what the run found.
        learned: M and Lambda of the last checkpoint; they are not fitted again.
        settings: of the attack.

    Raises:
        ValueError: a tau outside of `[1/C, 1)`, no image that is right, a preprocessing or network
            without gradients, or another network than the run's.
    """
    settings = settings or AttackSettings()
    require_kind(
        subject=(subject, Subject),
        emergence=(emergence, Emergence),
        learned=(learned, Learned),
        settings=(settings, AttackSettings),
    )
    emergence.require_every_region("the attack")
    tau = emergence.tau if settings.tau is None else settings.tau
    check_tau(tau, len(emergence.categories))
    if settings.stride * settings.steps < settings.eps:
        logger.warning(
            "steps: %d of %.3g reach no farther than %.3g, eps = %.3g is never used up",
            settings.steps, settings.stride, settings.stride * settings.steps, settings.eps,
        )  # fmt: skip
    order = _in_turn(emergence, settings)
    taken = _Taken(emergence.frame)
    with moved_to(subject.module, subject.device) as device:
        network = ForwardPass(
            subject.module, subject.preprocess, subject.outputs, subject.precision, device
        )
        first = subject.dataset[int(order[0])][0][None].to(device)
        require_differentiable(subject.preprocess, first)
        head = subject.last_linear or find_head(subject.module, network.prepared(first))[0]
        named = {name: subject.layers[name] for name in emergence.layers}
        with recorder(
            subject.module,
            named.values(),
            inputs=[head],
            keep=lambda output: regions(output.detach(), emergence.grid),
        ) as record:
            torch.manual_seed(settings.random_state)
            watch = _Watch(network, record, head, named, emergence, learned, settings)
            for batch, steps in in_batches(
                lambda batch: watch.steps(subject, order[batch]),
                len(order),
                subject.batch_size,
                description="attack",
            ):
                taken.add(steps, emergence.y[order[batch]])
    return Attack(
        frame=emergence.frame,
        eps=settings.eps,
        step=settings.stride,
        steps=settings.steps,
        tau=tau,
        random_state=settings.random_state,
        layers=emergence.layers,
        categories=emergence.categories,
        names=[emergence.names[int(i)] for i in order],
        grid=emergence.grid,
        y=emergence.y[order],
        chosen="held out and fitted" if settings.images == "all" else "held out",
        **taken.arrays(),
    )


def _in_turn(emergence: Emergence, settings: AttackSettings) -> Tensor:
    """Indices of the images to attack, at random and one of each category in turn, `[N]`."""
    chosen = torch.ones_like(emergence.held_out) if settings.images == "all" else emergence.held_out
    if emergence.stores and not settings.images.isdigit():  # of many images some
        chosen = chosen & torch.isin(torch.arange(len(chosen)), emergence.sampled)
    generator = torch.Generator().manual_seed(settings.random_state)
    order = torch.randperm(len(chosen), generator=generator)
    order = order[chosen[order]]
    y = emergence.y[order]
    turn = functional.one_hot(y, len(emergence.categories)).cumsum(0).gather(1, y[:, None])[:, 0]
    order = order[turn.argsort(stable=True)]
    if settings.images.isdigit():
        order = order[: int(settings.images)]
    right = emergence.predicted()[order] == emergence.y[order]
    if not bool(right.any()):
        raise ValueError(
            f"images: the network is wrong on all {len(order)} already, so there is nothing to "
            "attack. Train it further, or take more images."
        )
    return order[right]


@dataclass(frozen=True)
class _Steps:
    """One batch at every step."""

    predicted: Tensor  # [T, B]
    h: Tensor  # [T, L, B, R, dim]
    g: Tensor  # [T, B, dim]
    images: Tensor  # [2, B, channels, H', W']


@dataclass(frozen=True)
class _Watch:
    """Attack batches of images and project what is recorded at every step."""

    network: ForwardPass
    record: Record
    head: str
    named: Mapping[str, str]
    emergence: Emergence
    learned: Learned
    settings: AttackSettings

    def steps(self, subject: Subject, batch: Tensor) -> _Steps:
        images = torch.stack([subject.dataset[int(i)][0] for i in batch])
        predicted, h, g, last = [], [], [], images
        for t, (x, z) in enumerate(
            pgd(
                self.network.logits,
                images.to(self.network.device),
                self.emergence.y[batch].to(self.network.device),
                eps=self.settings.eps,
                step=self.settings.stride,
                steps=self.settings.steps,
            )
        ):
            if t == 0:
                before = self.emergence.logits(-1, batch)
                require_same_network(z.cpu(), before, self.emergence.largest_logit())
            maps = [
                self.learned.regional[name].transform(self.record.outputs[dotted])
                for name, dotted in self.named.items()
            ]
            f = flat_features(self.record.inputs[self.head].detach(), self.head)
            predicted.append(z.argmax(1).cpu())
            h.append(torch.stack(maps).cpu())
            g.append(self.learned.samples.transform(f.cpu()))
            last = x.cpu()
        return _Steps(
            torch.stack(predicted), torch.stack(h), torch.stack(g), torch.stack([images, last])
        )


@dataclass
class _Taken:
    """What is kept of the batches so far."""

    frame: Frame
    count: int = 0  # images attacked
    astray: int = 0  # images led astray
    parts: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, x: _Steps, y: Tensor) -> None:
        led = (x.predicted[0] == y) & (x.predicted[-1] != y)
        h, (original, adversarial) = x.h[:, :, led], (y[led], x.predicted[-1, led])
        # Step by step: all categories at all steps at once would be large.
        p = torch.stack([_says(self.frame, part, original, adversarial) for part in h], dim=1)
        important = p > TYPE_TAU  # [2, T, L, n, R]
        types = region_types(important[0], important[1])
        shown = max(SHOWN - self.astray, 0)
        typed = self._examples(types[-1], h[:, -1])
        of, at = typed[:, 1], typed[:, 2]
        self.parts.append(
            {
                "predicted": x.predicted,
                "astray": self.count + led.nonzero().flatten(),
                "h": h[[0, -1]],
                "g": x.g[[0, -1]][:, led],
                "p": p[:, [0, -1]],
                "types": types,
                "images": x.images[:, led][:, :shown],
                "path": h[:, :, :shown],
                "typed": typed + torch.tensor([0, self.astray, 0]),
                "typed_path": h[:, -1, of, at],
                "typed_p": p[:, :, -1, of, at],
            }
        )
        self.count += len(y)
        self.astray += int(led.sum())

    def _examples(self, types: Tensor, h: Tensor) -> Tensor:
        """Type, image and region of examples that are still wanted, one an image, `[m, 3]`.

        Args:
            types: of the last layer, `[n, R]`.
            h: of the last layer, `[T, n, R, dim]`; of several regions the one that moved most.
        """
        moved = (h[-1] - h[0]).norm(dim=-1)
        examples = []
        for kind in range(1, len(TYPES)):
            wanted = SHOWN_OF_TYPE - sum(int((x["typed"][:, 0] == kind).sum()) for x in self.parts)
            holds = types == kind
            for i in holds.any(1).nonzero().flatten()[: max(wanted, 0)].tolist():
                region = torch.where(holds[i], moved[i], -1).argmax()
                examples.append([kind, i, int(region)])
        return torch.tensor(examples, dtype=torch.int64).reshape(-1, 3)

    def arrays(self) -> dict[str, Tensor]:
        axes = {"predicted": 1, "astray": 0, "g": 1, "types": 1, "images": 1}
        axes |= {"h": 2, "p": 3, "path": 2, "typed": 0, "typed_path": 1, "typed_p": 2}
        whole = {n: torch.cat([x[n] for x in self.parts], axis) for n, axis in axes.items()}
        # In the order of type and image, whatever the batches were.
        kind, image = whole["typed"][:, 0], whole["typed"][:, 1]
        order = (kind * (self.astray + 1) + image).argsort()
        for name in ("typed", "typed_path", "typed_p"):
            whole[name] = whole[name].index_select(axes[name], order)
        return whole


def _says(frame: Frame, h: Tensor, *categories: Tensor) -> Tensor:
    """`p(c | h)` of regions `[L, n, R, dim]` for each `[n]` of categories, `[k, L, n, R]`."""
    p = frame.posterior(h)
    strong = h.square().sum(-1) > 0  # without strength the posterior is the prior
    index = torch.stack(categories)[:, None, :, None].expand(-1, *h.shape[:-1])
    return torch.stack([p.gather(-1, i[..., None])[..., 0] * strong for i in index])
