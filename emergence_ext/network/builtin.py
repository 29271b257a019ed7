"""The package's own networks: VGG-style, and the paper's ResNets; with the paper's layer names."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from emergence_ext.lookup import optional

__all__ = [
    "PooledVGG16",
    "SmallVGG",
    "resnet34_stride1",
    "resnet50_stride1",
    "scene_vgg",
    "small_vgg",
    "small_vgg28",
    "small_vgg64",
    "vgg16_pooled",
    "vgg_layers",
]

# Convolutions of each of the five stages of VGG-16, and their widths there.
VGG16_DEPTHS = (2, 2, 3, 3, 3)
VGG16_WIDTHS = (64, 128, 256, 512, 512)


class SmallVGG(nn.Module):
    """A narrow VGG with batch normalisation that pools only after its first stages.

    Children are `conv1_1`, `conv1_2`, ... (convolution, normalisation, ReLU: the output is after
    the ReLU), `fc1` and `fc2`, the last fully connected layer.

    Args:
        num_classes: outputs, `C`.
        in_channels: channels of an image.
        widths: channels of each stage.
        depths: convolutions of each stage.
        pools: how many of the first stages end in pooling by two.
        hidden: width of the sample feature, `E`.
        dropout: share of the pooled features that is dropped in training.
    """

    default_preprocess: ClassVar[str] = "none"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        pools: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or not 0 <= pools < len(widths):
            raise ValueError(
                "widths, depths, pools: expected as many widths as depths and fewer pools, got "
                f"{len(widths)}, {len(depths)} and {pools}"
            )
        self.stages: list[list[str]] = []
        channels = in_channels
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            self.stages.append([f"conv{stage}_{number}" for number in range(1, depth + 1)])
            for name in self.stages[-1]:
                self.add_module(name, _conv_block(channels, width))
                channels = width
        self.pools = pools
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.default_layers = {names[-1]: names[-1] for names in self.stages}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, C]` of images `[B, in_channels, H, W]`."""
        maps = images
        for stage, names in enumerate(self.stages):
            for name in names:
                maps = getattr(self, name)(maps)
            if stage < self.pools:
                maps = self.pool(maps)
        pooled = self.dropout(maps.mean(dim=(2, 3)))
        return self.fc2(torch.relu(self.fc1(pooled)))


class PooledVGG16(nn.Module):
    """The 13 convolutions of VGG-16, global average pooling, and two fully connected layers.

    Child `features` has torchvision's indices up to the last ReLU, so that weights of its
    convolutions fit.

    Args:
        num_classes: outputs, `C`.
        hidden: width of the sample feature, `E`.
    """

    default_preprocess: ClassVar[str] = "caffe"

    def __init__(self, num_classes: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in zip(VGG16_WIDTHS, VGG16_DEPTHS, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.classifier = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )
        self.default_layers = vgg_layers(self.features, "features.")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, C]` of images `[B, 3, H, W]`, `H, W >= 16`."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def small_vgg(
    num_classes: int = 10,
    in_channels: int = 3,
    widths: Sequence[int] = (16, 32, 64, 64, 64),
    depths: Sequence[int] = VGG16_DEPTHS,
    pools: int = 2,
    hidden: int = 64,
    dropout: float = 0.0,
) -> SmallVGG:
    """Return an untrained `SmallVGG`; its last map is smaller than the image by `2 ** pools`."""
    return SmallVGG(num_classes, in_channels, widths, depths, pools, hidden, dropout)


def small_vgg28(num_classes: int = 10) -> SmallVGG:
    """Return a network for digits `[1, 28, 28]`; its last map is 7 x 7."""
    return small_vgg(num_classes, in_channels=1)


def scene_vgg(num_classes: int = 10) -> SmallVGG:
    """Return the network of the demo, for scenes `[1, 64, 64]`; its last map is 8 x 8.

    A region of it sees 62 pixels, and chiefly the middle of them: a digit and what is around it.
    """
    return small_vgg(num_classes, in_channels=1, depths=(1, 1, 2, 1, 1), pools=3)


def small_vgg64(num_classes: int = 10) -> SmallVGG:
    """Return a network for images `[3, 64, 64]`; its last map is 8 x 8 of 256 channels."""
    return small_vgg(
        num_classes,
        widths=(32, 64, 128, 256, 256),
        depths=(2, 2, 2, 2, 2),
        pools=3,
        hidden=128,
        dropout=0.3,
    )


def vgg16_pooled(num_classes: int = 10, hidden: int = 128) -> PooledVGG16:
    """Return an untrained `PooledVGG16`; its last map is smaller than the image by 16."""
    return PooledVGG16(num_classes, hidden)


def resnet34_stride1(num_classes: int = 1000) -> nn.Module:
    """Return torchvision's ResNet-34 with stride 1 in place of 2 in layer4, as in the paper."""
    return _stride1("resnet34", num_classes)


def resnet50_stride1(num_classes: int = 1000) -> nn.Module:
    """Return torchvision's ResNet-50 with stride 1 in place of 2 in layer4, as in the paper."""
    return _stride1("resnet50", num_classes)


def resnet_layers() -> dict[str, str]:
    """Name the ends of a ResNet's stages as the paper does."""
    return {"conv_1": "relu"} | {f"conv_{stage + 1}": f"layer{stage}" for stage in range(1, 5)}


def vgg_layers(features: nn.Sequential, prefix: str) -> dict[str, str]:
    """Name the ReLU after each stage's last convolution in a VGG: `conv5_3` -> `features.29`."""
    layers: dict[str, str] = {}
    stage, convolution, last_relu = 1, 0, ""
    for name, submodule in features.named_children():
        if isinstance(submodule, nn.Conv2d):
            convolution += 1
        elif isinstance(submodule, nn.ReLU):
            last_relu = name
        elif isinstance(submodule, nn.MaxPool2d):
            layers[f"conv{stage}_{convolution}"] = prefix + last_relu
            stage, convolution = stage + 1, 0
    if convolution:
        layers[f"conv{stage}_{convolution}"] = prefix + last_relu
    return layers


def _stride1(name: str, num_classes: int) -> nn.Module:
    models = optional("torchvision.models", f"model: {name}_stride1")
    module: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    for part in module.layer4[0].modules():  # type: ignore[index,union-attr]
        if isinstance(part, nn.Conv2d):
            part.stride = (1, 1)
    module.default_layers = resnet_layers()  # type: ignore[assignment]
    module.default_preprocess = "imagenet"  # type: ignore[assignment]
    return module


def _conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
