"""Images that fool a network: sure of a class that nobody would see in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn

from emergence_ext.lookinside.targets import Target, target_columns
from emergence_ext.network import logits
from emergence_ext.render import Seen, check_images, log_probability, render, seeing
from emergence_ext.settings import require_count


@dataclass(frozen=True, eq=False)
class Fooling:
    """Images that were changed until the network was sure of another class.

    Attributes:
        start: in 0..1, `[n, channels, H', W']`.
        images: changed, in 0..1, `[n, channels, H', W']`.
        target: column of the output that was aimed at, `[n]`.
        before: probabilities of the start, `[n, C]`.
        after: probabilities of the images, `[n, C]`.
        steps: that were taken, `[n]`.
        confidence: that was asked for.
    """

    start: Tensor
    images: Tensor
    target: Tensor
    before: Tensor
    after: Tensor
    steps: Tensor
    confidence: float

    @property
    def perturbation(self) -> Tensor:
        """What was added, `[n, channels, H', W']`."""
        return self.images - self.start

    @property
    def reached(self) -> Tensor:
        """Probability of the target, `[n]`."""
        return self.after.gather(1, self.target[:, None])[:, 0]

    @property
    def fooled(self) -> Tensor:
        """Where it is at least what was asked for, `[n]` bool."""
        return self.reached >= self.confidence

    def norms(self) -> dict[str, Tensor]:
        """Sizes of the perturbation by name, `[n]` each, for pixels in 0..1."""
        flat = self.perturbation.flatten(1)
        return {
            "L2": flat.norm(dim=1),
            "root mean square": flat.square().mean(dim=1).sqrt(),
            "L-infinity": flat.abs().amax(dim=1),
            "mean absolute": flat.abs().mean(dim=1),
        }


def fool(
    module: nn.Module,
    start: Tensor,
    target: Target,
    *,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    confidence: float = 0.99,
    steps: int = 300,
    step_size: float = 0.5 / 255,
    batch_size: int = 16,
) -> Fooling:
    """Change images along the gradient of a class until the network is sure of it.

    Each image goes down `-log p(target)` in small steps and stops when it has arrived, so that the
    change is small: Szegedy et al. (ICLR 2014) from an image, Nguyen et al. (CVPR 2015) from noise.

    Args:
        module: the network; comes back as it was. It gives logits `[n, C]`, C >= 2.
        start: images of another class, or `render.noise`, in 0..1, `[n, channels, H', W']`.
        target: column of the output for all images, or one for each, `[n]`.
        preprocess: from images in 0..1 to the network's input.
        confidence: probability of the target at which an image has arrived, in (0, 1).
        steps: at most so many.
        step_size: root mean square of a step over the pixels of an image.
        batch_size: images at a time.

    Raises:
        ValueError: images that are none, a target out of range, a confidence that is no
            probability, or an output that is not logits of two classes at least.
        TypeError: a target that is no integer.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net, start = (
        ...     torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)),
        ...     torch.rand(1, 3, 8, 8),
        ... )
        >>> target = net(start).argmin(1)
        >>> found = lookinside.fooling.fool(net, start, target, confidence=0.6)
        >>> (found.before.argmax() == target).item(), (found.after.argmax() == target).item()
        (False, True)
    """
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a probability in (0, 1), got {confidence!r}")
    require_count("batch_size", batch_size, 1)
    check_images("start", start, within=True)
    before = _probabilities(module, start, preprocess, batch_size)
    if before.shape[1] < 2:
        raise ValueError(
            "module: expected logits [n, C] of two classes at least, got C=1. Wrap a network that "
            "gives one logit z in a module that returns the two logits (0, z)."
        )
    first = start[:1] if preprocess is None else preprocess(start[:1])
    aim = target_columns(module, first.expand(len(start), *first.shape[1:]), target)
    fooling, arrived = [], []
    for images, columns in zip(start.split(batch_size), aim.split(batch_size), strict=True):
        columns = columns.to(images.device)

        def sure(seen: Seen, columns: Tensor = columns) -> Tensor:
            return logits(seen.output).softmax(1).gather(1, columns[:, None])[:, 0] >= confidence

        result = render(
            module,
            images,
            -log_probability(columns),
            steps=steps,
            learning_rate=step_size,
            preprocess=preprocess,
            until=sure,
            describe="fooling",
        )
        fooling.append(result.images)
        arrived.append(result.arrived)
    images = torch.cat(fooling)
    after = _probabilities(module, images, preprocess, batch_size)
    return Fooling(start.detach(), images, aim.cpu(), before, after, torch.cat(arrived), confidence)


def _probabilities(
    module: nn.Module,
    images: Tensor,
    preprocess: Callable[[Tensor], Tensor] | None,
    batch_size: int,
) -> Tensor:
    with torch.no_grad(), seeing(module, (), output=True, preprocess=preprocess) as see:
        outputs = [see(batch).output for batch in images.split(batch_size)]
    return torch.cat([z for z in outputs if z is not None]).softmax(1).cpu()
