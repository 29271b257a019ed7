"""Attack a network's images and follow their regions in the frame of the clean run (Sec. 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from emergence_ext.method import Frame, check_tau
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
from emergence_ext.studies.attacked import TYPE_TAU, TYPES, Attack, region_types
from emergence_ext.studies.pgd import pgd, require_differentiable

logger = logging.getLogger(__name__)

SHOWN: Final = 6  # images that are kept at every step
SHOWN_OF_TYPE: Final = 3  # regions of each type that are kept at every step


def attack(
    subject: Subject, found: Emergence, learned: Learned, settings: AttackSettings | None = None
) -> Attack:
    """Attack the finished network and follow regions in the frame of its clean images.

    Only images that the network gets right are attacked, in turn one of each category. Features are
    projected at every step; what is held of all images does not grow with the steps.

    Args:
        subject: network and images, as in the run.
        found: what the run found.
        learned: M and Lambda of the last checkpoint; they are not fitted again.
        settings: of the attack.

    Raises:
        ValueError: a tau outside of `[1/C, 1)`, no image that is right, a preprocessing or network
            without gradients, or another network than the run's.
    """
    settings = settings or AttackSettings()
    tau = found.tau if settings.tau is None else settings.tau
    check_tau(tau, len(found.categories))
    if settings.stride * settings.steps < settings.eps:
        logger.warning(
            "steps: %d of %.3g reach no farther than %.3g, eps = %.3g is never used up",
            settings.steps, settings.stride, settings.stride * settings.steps, settings.eps,
        )  # fmt: skip
    order = _in_turn(found, settings)
    taken = _Taken(found.frame)
    with moved_to(subject.module, subject.device) as device:
        network = ForwardPass(
            subject.module, subject.preprocess, subject.outputs, subject.precision, device
        )
        first = subject.dataset[int(order[0])][0][None].to(device)
        require_differentiable(subject.preprocess, first)
        head, _ = find_head(subject.module, network.prepared(first))
        named = {name: subject.layers[name] for name in found.layers}
        with recorder(
            subject.module,
            named.values(),
            inputs=[head],
            keep=lambda output: regions(output.detach(), found.grid),
        ) as record:
            torch.manual_seed(settings.random_state)
            watch = _Watch(network, record, head, named, found, learned, settings)
            for batch, steps in in_batches(
                lambda batch: watch.steps(subject, order[batch]),
                len(order),
                subject.batch_size,
                description="attack",
            ):
                taken.add(steps, found.y[order[batch]])
    return Attack(
        frame=found.frame,
        eps=settings.eps,
        step=settings.stride,
        steps=settings.steps,
        tau=tau,
        random_state=settings.random_state,
        layers=found.layers,
        categories=found.categories,
        names=[found.names[int(i)] for i in order],
        grid=found.grid,
        y=found.y[order],
        chosen="held out and fitted" if settings.images == "all" else "held out",
        **taken.arrays(),
    )


def _in_turn(found: Emergence, settings: AttackSettings) -> Tensor:
    """Indices of the images to attack, at random and one of each category in turn, `[N]`."""
    chosen = torch.ones_like(found.held_out) if settings.images == "all" else found.held_out
    generator = torch.Generator().manual_seed(settings.random_state)
    order = torch.randperm(len(chosen), generator=generator)
    order = order[chosen[order]]
    y = found.y[order]
    turn = functional.one_hot(y, len(found.categories)).cumsum(0).gather(1, y[:, None])[:, 0]
    order = order[turn.argsort(stable=True)]
    if settings.images.isdigit():
        order = order[: int(settings.images)]
    right = found.z[-1, order].argmax(1) == found.y[order]
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
    found: Emergence
    learned: Learned
    settings: AttackSettings

    def steps(self, subject: Subject, batch: Tensor) -> _Steps:
        images = torch.stack([subject.dataset[int(i)][0] for i in batch])
        predicted, h, g, last = [], [], [], images
        for t, (x, z) in enumerate(
            pgd(
                self.network.logits,
                images.to(self.network.device),
                self.found.y[batch].to(self.network.device),
                eps=self.settings.eps,
                step=self.settings.stride,
                steps=self.settings.steps,
            )
        ):
            if t == 0:
                before = self.found.z[-1]
                require_same_network(z.cpu(), before[batch], float(before.abs().max()))
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
        found = []
        for kind in range(1, len(TYPES)):
            wanted = SHOWN_OF_TYPE - sum(int((x["typed"][:, 0] == kind).sum()) for x in self.parts)
            holds = types == kind
            for i in holds.any(1).nonzero().flatten()[: max(wanted, 0)].tolist():
                region = torch.where(holds[i], moved[i], -1).argmax()
                found.append([kind, i, int(region)])
        return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)

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
