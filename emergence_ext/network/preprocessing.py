"""From images in 0..1 to what a network was trained on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from emergence_ext.lookup import load_callable, nearest, user_code

__all__ = ["PREPROCESSING", "preprocess"]

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
            ValueError: another number of channels (it would broadcast silently).
        """
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
        """Return `function(images)`."""
        with user_code("preprocess"):
            return self.function(images)


def preprocess(name: str) -> nn.Module:
    """Return the module that turns images `[B, 3, H, W]` in 0..1 into the input of a network.

    It has that name as its attribute `name`, which a training keeps with its checkpoints.

    Args:
        name: `none`, `imagenet` (mean and deviation of ImageNet), `caffe` (RGB in 0..255 less a
            mean), `inception`, `clip`, or `module:callable` of a function of `[B, 3, H, W]`. `auto`
            is settled by `models.load_model`, in `LoadedModel.preprocess`.

    Raises:
        ValueError: another name, or nothing callable there.
    """
    module: nn.Module
    if name == "none":
        module = nn.Identity()
    elif name in PREPROCESSING:
        module = Normalize(*PREPROCESSING[name])
    elif ":" in name:
        module = _Call(load_callable(name, "preprocess"))
    else:
        raise _unknown(name)
    module.name = name  # type: ignore[assignment]  # torch's stubs allow tensors and modules
    return module


def _unknown(name: str) -> ValueError:
    known = ["none", *PREPROCESSING]
    return ValueError(
        f"preprocess: expected one of {', '.join(known)} or module:callable, got {name!r}."
        f"{nearest(name, known)}"
    )
