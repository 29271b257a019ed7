"""From images in 0..1 to what a network was trained on."""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from emergence_ext.lookup import load_callable, nearest, user_code

__all__ = ["PREPROCESSING", "normalisation", "preprocess", "require_preprocess"]

# name -> (mean, standard deviation) of RGB in 0..1. Caffe's networks take 0..255 less a mean.
PREPROCESSING: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images `[B, 3, H, W]`.

        Raises:
            ValueError: another number of channels (it would broadcast silently), or pixels that
                are whole numbers.
        """
        if not images.is_floating_point():
            raise ValueError(
                f"images: expected pixels in 0..1, got {images.dtype}; divide by 255 where that is "
                "white"
            )
        if images.shape[-3] != len(self.mean):
            raise ValueError(
                f"images: expected {len(self.mean)} channels for this preprocessing, got "
                f"{images.shape[-3]}. Choose none for images of one channel."
            )
        return (images - self.mean.to(images)) / self.std.to(images)


class _Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        """Return `function(images)`.

        Raises:
            ValueError: it gives something else than a tensor of as many images.
        """
        with user_code("preprocess"):
            prepared = self.function(images)
        is_tensor = isinstance(prepared, Tensor)
        if not is_tensor or not prepared.ndim or len(prepared) != len(images):
            got = list(prepared.shape) if is_tensor else type(prepared).__name__
            raise ValueError(
                f"preprocess: expected a tensor [{len(images)}, channels, H, W] for images "
                f"{list(images.shape)}, got {got}"
            )
        return prepared


def normalisation(mean: Sequence[float], std: Sequence[float]) -> str:
    """Name a normalisation as `preprocess` takes it: one of those above, or its own numbers."""
    known = PREPROCESSING | {"none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}
    for name, (m, s) in known.items():
        pairs = list(zip([*mean, *std], [*m, *s], strict=False))
        if len(mean) == len(m) and all(math.isclose(a, b, abs_tol=1e-3) for a, b in pairs):
            return name
    return "/".join(",".join(f"{x:.6g}" for x in numbers) for numbers in (mean, std))


def preprocess(name: str | Callable[[Tensor], Tensor]) -> nn.Module:
    """Return the module that turns images `[B, 3, H, W]` in 0..1 into the input of a network.

    It has its name as the attribute `name`, which a training keeps with its checkpoints.

    Args:
        name: a function of `[B, 3, H, W]`, or a module, which is taken as it is; or `none`,
            `imagenet` (mean and deviation of ImageNet), `caffe` (RGB in 0..255 less a mean),
            `inception`, `clip`, `module:callable`, or means and deviations in 0..1 as
            `0.43,0.41,0.3/0.21,0.16,0.14`. `auto` is settled by `models.load_model`, in
            `LoadedModel.preprocess`.

    Raises:
        ValueError: another name, or nothing callable there.

    Examples:
        >>> import emergence_ext as ee
        >>> grey = torch.full((1, 3, 2, 2), 0.5)
        >>> ee.preprocess("inception")(grey).unique()
        tensor([0.])
    """
    if isinstance(name, nn.Module):
        return name
    if not isinstance(name, str):
        if not callable(name):
            raise TypeError(
                "preprocess: expected a name, or a module or function of images [B, 3, H, W], got "
                f"{type(name).__name__}"
            )
        return _Call(name)
    module = _made(name)
    module.name = name  # type: ignore[assignment]  # torch's stubs allow tensors and modules
    return module


def require_preprocess(given: object) -> None:
    """Refuse what is no function of images, such as the name of a preprocessing.

    Raises:
        TypeError: it cannot be called.

    Examples:
        >>> from emergence_ext import network
        >>> network.require_preprocess("imagenet")
        Traceback (most recent call last):
        ...
        TypeError: preprocess: expected a function of images ...
    """
    if given is not None and not callable(given):
        advice = f"; network.preprocess({given!r}) makes one" if isinstance(given, str) else ""
        raise TypeError(
            "preprocess: expected a function of images [B, channels, H, W], got "
            f"{type(given).__name__}{advice}"
        )


def _made(name: str) -> nn.Module:
    if name == "none":
        return nn.Identity()
    if name in PREPROCESSING:
        return Normalize(*PREPROCESSING[name])
    if re.fullmatch(r"[\d.e,-]+/[\d.e,-]+", name):
        return _by_numbers(name)
    if ":" in name:
        return _Call(load_callable(name, "preprocess"))
    known = ["none", *PREPROCESSING]
    raise ValueError(
        f"preprocess: expected one of {', '.join(known)}, module:callable or MEANS/DEVIATIONS, got "
        f"{name!r}."
        f"{nearest(name, known)}"
    )


def _by_numbers(name: str) -> nn.Module:
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in name.split("/"))
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or min(std) <= 0:
        raise ValueError(
            "preprocess: expected as many means as deviations above 0, as "
            f"0.43,0.41,0.3/0.21,0.16,0.14, got {name!r}"
        )
    return Normalize(mean, std)
