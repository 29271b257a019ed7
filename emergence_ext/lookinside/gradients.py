"""Gradients of a class with respect to the image: plain, smoothed, and with other rules at ReLUs.

captum computes all of them. Its DeconvNet and guided backpropagation put hooks on ReLU modules,
which miss every ReLU that is called as a function and mix up calls of a shared module; here every
ReLU of the network is sent through a module of its own (`rectifiers.AsModules`), and captum sees
those. On networks that captum handles, the results are captum's own.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from emergence_ext.lookinside.targets import Target, check_batch, nothing_of, target_columns
from emergence_ext.lookup import optional
from emergence_ext.method import spearman, takes_numpy
from emergence_ext.network import AsModules, RectifierMode, above, classify, preserved, randomise
from emergence_ext.network import grad_cam as pooled_grad_cam
from emergence_ext.settings import require_count, require_real


def saliency(module: nn.Module, inputs: Tensor, target: Target, *, batch_size: int = 16) -> Tensor:
    """Gradient of the logit of a class with respect to the inputs, signed.

    Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks (2014), Sec. 3; `magnitude`
    makes their map of it. captum's `Saliency` without its absolute value.

    Args:
        module: the network; it comes back as it was.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: column of the output, one for all inputs or one for each.
        batch_size: inputs at a time.

    Returns:
        `[n, channels, H', W']`.

    Raises:
        ValueError: no gradient reaches the inputs, or it is zero everywhere, or what
            `target_columns` says.
        ImportError: captum is absent.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> lookinside.gradients.saliency(net, torch.rand(2, 3, 8, 8), 1).shape
        torch.Size([2, 3, 8, 8])
    """
    method = _captum().Saliency(partial(classify, module))
    return _of_batches(
        module,
        inputs,
        target,
        batch_size,
        lambda x, column: method.attribute(x, target=column, abs=False),
    )


def smooth_grad(
    module: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    n_samples: int = 25,
    noise_level: float = 0.15,
    perturbations_per_eval: int = 8,
    random_state: int = 0,
) -> Tensor:
    """Mean of the signed gradient over noisy copies of the inputs.

    Smilkov et al., SmoothGrad (2017); with the same noise it is what captum's `NoiseTunnel` gives,
    which draws other noise for other sizes of a pass. Every input is taken alone and sees the same
    noise, so that what it gets depends neither on the others nor on `perturbations_per_eval`.

    Args:
        module: the network; it comes back as it was.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: column of the output, one for all inputs or one for each.
        n_samples: noisy copies of an input.
        noise_level: deviation of the noise as a share of the range of values of an input.
        perturbations_per_eval: copies in one forward pass.
        random_state: seed of the noise.

    Returns:
        `[n, channels, H', W']`.

    Raises:
        ValueError: a number out of its range, no gradient, or what `target_columns` says.
        ImportError: captum is absent.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> lookinside.gradients.smooth_grad(net, torch.rand(2, 3, 8, 8), 1, n_samples=4).shape
        torch.Size([2, 3, 8, 8])
    """
    require_count("n_samples", n_samples, 1)
    require_real("noise_level", noise_level, zero=True)
    check_batch("perturbations_per_eval", perturbations_per_eval)
    method = _captum().Saliency(partial(classify, module))

    def smoothed(x: Tensor, column: Tensor) -> Tensor:
        x = x.detach()
        deviation = noise_level * float(x.max() - x.min())
        generator = torch.Generator().manual_seed(random_state)
        total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for start in range(0, n_samples, perturbations_per_eval):
            count = min(perturbations_per_eval, n_samples - start)
            # One copy after the other: several at once would be other numbers.
            noise = [torch.randn(x.shape[1:], generator=generator) for _ in range(count)]
            noisy = (x + deviation * torch.stack(noise).to(x)).requires_grad_()
            gradient = method.attribute(noisy, target=column.expand(count), abs=False)
            total += gradient.detach().sum(0)
        return total / n_samples

    return _of_batches(module, inputs, target, 1, smoothed)


def deconvnet(module: nn.Module, inputs: Tensor, target: Target, *, batch_size: int = 16) -> Tensor:
    """Project a class back to the inputs with a ReLU on what comes back in place of its gradient.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014), by captum's
    `Deconvolution`; pooling switches are those of the forward pass.

    Args:
        module: the network; it comes back as it was.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: column of the output, one for all inputs or one for each.
        batch_size: inputs at a time.

    Returns:
        `[n, channels, H', W']`.

    Raises:
        ValueError: a network without ReLUs, or with parts that nobody can look into; no gradient;
            or what `target_columns` says.
        ImportError: captum is absent.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3),
        ...     torch.nn.ReLU(),
        ...     torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 2),
        ... )
        >>> lookinside.gradients.deconvnet(net, torch.rand(2, 3, 8, 8), [0, 1]).shape
        torch.Size([2, 3, 8, 8])
    """
    return _with_rule(_captum().Deconvolution, module, inputs, target, batch_size)


def guided_backprop(
    module: nn.Module, inputs: Tensor, target: Target, *, batch_size: int = 16
) -> Tensor:
    """Gradient in which only what is positive passes a ReLU on its way back.

    Springenberg et al., Striving for Simplicity (2015), by captum's `GuidedBackprop`.

    Args and Raises: as of `deconvnet`.

    Returns:
        `[n, channels, H', W']`.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3),
        ...     torch.nn.ReLU(),
        ...     torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 2),
        ... )
        >>> lookinside.gradients.guided_backprop(net, torch.rand(2, 3, 8, 8), [0, 1]).shape
        torch.Size([2, 3, 8, 8])
    """
    return _with_rule(_captum().GuidedBackprop, module, inputs, target, batch_size)


def grad_cam(
    module: nn.Module, layer: str, inputs: Tensor, target: Target, *, batch_size: int = 16
) -> Tensor:
    """Maps of a layer, each weighted by the mean gradient of the class, summed; before the ReLU.

    Selvaraju et al., Grad-CAM (ICCV 2017), by captum's `LayerGradCam`.

    Args:
        module: the network; it comes back as it was.
        layer: dotted name of a layer that gives maps `[n, K, H, W]` or tokens `[n, T, K]`.
        inputs: `[n, channels, H', W']`, as the network takes them.
        target: column of the output, one for all inputs or one for each.
        batch_size: inputs at a time.

    Returns:
        `[n, H, W]`, signed.

    Raises:
        ValueError: an unknown layer, one without maps, one on whose maps the output does not
            depend, or what `target_columns` says.
        ImportError: captum is absent.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3),
        ...     torch.nn.ReLU(),
        ...     torch.nn.Flatten(),
        ...     torch.nn.Linear(144, 2),
        ... )
        >>> lookinside.gradients.grad_cam(net, "0", torch.rand(2, 3, 8, 8), 1).shape
        torch.Size([2, 6, 6])
    """
    columns = target_columns(module, inputs, target)
    check_batch("batch_size", batch_size)
    parts = []
    for x, column in zip(inputs.split(batch_size), columns.split(batch_size), strict=True):
        with above(module, layer, x) as part:
            grid = (part.maps.shape[2], part.maps.shape[3])
            parts.append(pooled_grad_cam(part, column, grid).unflatten(1, grid))
    heat = torch.cat(parts)
    if not heat.any():
        raise ValueError(nothing_of(layer))
    return heat


@takes_numpy
def magnitude(attributions: Tensor) -> Tensor:
    """Largest absolute value over the channels, `[n, H', W']` of `[n, channels, H', W']`.

    Raises:
        ValueError: another number of axes.

    Examples:
        >>> from emergence_ext import lookinside
        >>> lookinside.gradients.magnitude(torch.tensor([[[[3.0]], [[-4.0]], [[0.0]]]]))
        tensor([[[4.]]])
    """
    if attributions.ndim != 4 or not attributions.shape[1]:
        raise ValueError(
            f"attributions: expected [n, channels, H', W'], got {list(attributions.shape)}; "
            "map[None] makes a batch of a single one"
        )
    return attributions.abs().amax(dim=1)


def randomised(module: nn.Module, random_state: int = 0) -> nn.Module:
    """Return a copy of the network with all layers initialised anew; the network stays.

    What a map shows should change with it: Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS
    2018), Sec. 3, all layers at once.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Linear(3, 2)
        >>> torch.equal(lookinside.gradients.randomised(net).weight, net.weight)
        False
    """
    module = copy.deepcopy(module)
    randomise(module, random_state)
    return module


@takes_numpy
def map_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Spearman correlation of two maps `[n, H, W]` within each image, `[n]` (Adebayo et al.).

    Raises:
        ValueError: shapes that differ, or that are no maps.

    Examples:
        >>> from emergence_ext import lookinside
        >>> maps = torch.rand(1, 4, 4)
        >>> lookinside.gradients.map_similarity(maps, 2 * maps)
        tensor([1.])
    """
    if maps.ndim != 3 or maps.shape != others.shape:
        raise ValueError(
            f"maps, others: expected [n, H, W] each, got {list(maps.shape)} and "
            f"{list(others.shape)}"
        )
    return spearman(maps.flatten(1), others.flatten(1))


def hidden_relus(module: nn.Module, inputs: Tensor) -> list[str]:
    """Describe the ReLUs that hooks on ReLU modules miss or mix up; nothing where there are none.

    Args:
        module: the network; it comes back as it was.
        inputs: `[n, channels, H', W']`, as the network takes them; the first one is run.

    Examples:
        >>> from emergence_ext import lookinside
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2), torch.nn.ReLU())
        >>> lookinside.gradients.hidden_relus(net, torch.rand(1, 3, 8, 8))
        []
    """
    watch = RectifierMode(module)
    watch.run(inputs[:1])
    hidden = [
        f"{function} in {owner or 'the network itself'}" + (f" ({n} times)" if n > 1 else "")
        for (owner, function), n in watch.functional.items()
    ]
    for name, part in module.named_modules():
        if isinstance(part, nn.ReLU) and watch.runs.get(name, 0) > 1:
            hidden.append(f"module {name}, which is shared ({watch.runs[name]} calls)")
        elif isinstance(part, nn.ReLU6) and watch.runs.get(name, 0):
            hidden.append(f"module {name}, a ReLU6")
    return hidden


class _Visible(nn.Module):
    """A network whose ReLUs are modules, one a call, that captum finds."""

    def __init__(self, module: nn.Module, calls: int) -> None:
        super().__init__()
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(calls))
        # Not as a submodule: captum would put hooks on the network's own ReLUs as well.
        self._network: Callable[[Tensor], Tensor] = partial(classify, module)

    def forward(self, x: Tensor) -> Tensor:
        with AsModules(self.relus):
            return self._network(x)


def _with_rule(
    method: Any, module: nn.Module, inputs: Tensor, target: Target, batch_size: int
) -> Tensor:
    watch = RectifierMode(module)
    watch.run(inputs[:1])
    if not watch.rectified:
        raise ValueError(
            "module: there is no ReLU in it that can be recognised, so that DeconvNet and guided "
            "backpropagation would be nothing else than its gradient; use saliency"
        )
    visible = method(_Visible(module, watch.rectified))
    return _of_batches(
        module,
        inputs,
        target,
        batch_size,
        lambda x, column: visible.attribute(x, target=column),
    )


def _of_batches(
    module: nn.Module,
    inputs: Tensor,
    target: Target,
    batch_size: int,
    attribute: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    columns = target_columns(module, inputs, target)
    check_batch("batch_size", batch_size)
    parts = []
    jobs = list(zip(inputs.split(batch_size), columns.split(batch_size), strict=True))
    with preserved(module), _quiet():
        for x, column in tqdm(jobs, desc="gradients", disable=None, leave=False):
            try:
                attribution = attribute(x.detach().clone().requires_grad_(), column)
            except RuntimeError as error:
                if "require grad" in str(error) or "not have been used" in str(error):
                    raise ValueError(
                        "module: no gradient of its output reaches the inputs; is there a detach, "
                        "a no_grad or a rounding in its forward pass?"
                    ) from error
                raise
            attribution = attribution.detach().cpu()
            parts.append(attribution.float() if attribution.dtype.itemsize < 4 else attribution)
    attributions = torch.cat(parts)
    if not attributions.any():
        raise ValueError(
            "module: what comes back from its output is zero everywhere in all of these inputs, so "
            "there is nothing to see: its output does not depend on them, or is saturated"
        )
    return attributions


@contextmanager
def _quiet() -> Iterator[None]:
    """Without captum's warning that it sets hooks, on modules that only it sees."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting backward hooks", category=UserWarning)
        yield


def _captum() -> Any:
    return optional("captum.attr", "attribution")
