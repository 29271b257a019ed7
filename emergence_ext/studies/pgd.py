"""Projected gradient descent on images: small steps up the loss, every one of them seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from emergence_ext.network import require_preprocess
from emergence_ext.render import check_images
from emergence_ext.settings import require_count, require_real


def pgd(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 1 / 255,
    step: float = 0.1 / 255,
    steps: int = 20,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attack images, untargeted and without a random start, and yield every step.

    `x_(t+1) = clip(x_t + step sign(d/dx CE(network(x_t), y)))`, where clip keeps every pixel within
    eps of the clean image and in 0..1 (Madry et al., ICLR 2018; the paper's defaults). CE is the
    cross-entropy, which counts by the signs of its gradient alone.

    Args:
        network: images in 0..1 to logits `[B, C]`; differentiable.
        images: clean images in 0..1, `[B, channels, H, W]`.
        labels: categories to be led away from, `[B]`.
        eps: most that a pixel may change.
        step: by how much it changes in a step.
        steps: number of steps.

    Yields:
        Images and their logits `[B, C]` at the steps 0, the clean images, to `steps`.

    Raises:
        ValueError: what is no image in 0..1, a number out of its range, logits or gradients that
            are not finite, no gradient at all, or other labels.

    Examples:
        >>> from emergence_ext import studies
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> images = torch.rand(1, 3, 8, 8)
        >>> path = [
        ...     x for x, logits in studies.pgd.pgd(net, images, torch.tensor([0]), eps=0.1, steps=3)
        ... ]
        >>> len(path), bool((path[-1] - images).abs().max() <= 0.1)
        (4, True)
    """
    check_images("images", images, within=True)
    require_real("eps", eps, zero=True)
    require_real("step", step, zero=True)
    require_count("steps", steps, 1)
    labels = torch.as_tensor(labels, device=images.device)
    x = images.detach()
    for t in range(steps + 1):
        x = x.detach().requires_grad_(t < steps)
        with torch.set_grad_enabled(t < steps):
            z = network(x)
        _check_finite(z, "logits", t)
        if t == 0 and (labels.shape != z.shape[:1] or not _are_columns(labels, z.shape[1])):
            raise ValueError(
                f"labels: expected [{len(z)}], in 0..{z.shape[1] - 1}, got {labels.tolist()}"
            )
        yield x.detach(), z.detach()
        if t == steps:
            return
        with torch.enable_grad():
            loss = _log_odds(z.double(), labels).sum()
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "network: its output has no gradient with respect to the images, so there is no "
                "way up the loss. Use a network that is differentiable from pixels to logits."
            )
        _check_finite(gradient, "gradients", t)
        change = (x.detach() + step * gradient.sign() - images).clamp(-eps, eps)
        x = (images + change).clamp(0, 1)


def _are_columns(labels: Tensor, count: int) -> bool:
    whole = not labels.is_floating_point()
    return whole and bool(((labels >= 0) & (labels < count)).all())


def _log_odds(z: Tensor, labels: Tensor) -> Tensor:
    """`log((1 - p(y)) / p(y))` of logits `[B, C]`, `[B]`: the cross-entropy is its softplus.

    So both have gradients of the same signs. But that of the cross-entropy shrinks with 1 - p(y),
    of which a sure network leaves nothing, in float64 neither, and with it goes its direction.
    """
    own = labels[:, None]
    return z.scatter(1, own, -torch.inf).logsumexp(1) - z.gather(1, own)[:, 0]


def require_differentiable(preprocess: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Refuse a preprocessing through which no gradient comes back to the pixels.

    Args:
        preprocess: from images in 0..1 to the input of a network.
        images: some of them, `[B, channels, H, W]`.

    Raises:
        ValueError: it cuts the gradient, rounds, or leaves torch.

    Examples:
        >>> from emergence_ext import studies
        >>> studies.pgd.require_differentiable(torch.round, torch.rand(1, 3, 8, 8))
        Traceback (most recent call last):
        ...
        ValueError: preprocess: no gradient comes back through it...
    """
    require_preprocess(preprocess)
    x = images.detach().clone().requires_grad_()
    reason = "its result does not depend on the pixels in a way that torch can differentiate"
    gradient = None
    try:
        with torch.enable_grad():
            result = preprocess(x)
        if result.requires_grad:
            # Uneven weights: those of a plain sum cancel where a mean is subtracted.
            weights = torch.linspace(0.5, 1.5, result.numel(), device=result.device)
            loss = (result.float().flatten() * weights).sum()
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    if gradient is None or not bool(gradient.any()):
        raise ValueError(
            f"preprocess: no gradient comes back through it ({reason}), so images cannot be "
            "attacked in pixel space. Give a preprocessing of differentiable torch operations, "
            "without rounding, detaching or NumPy, and run again."
        )


def _check_finite(values: Tensor, what: str, step: int) -> None:
    finite = values.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(
            f"network: NaN or infinite {what} at step {step}, for image "
            f"{int(finite.logical_not().nonzero()[0])} of the batch. Check the weights and the "
            "preprocessing."
        )
