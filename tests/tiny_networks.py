"""Networks of the user's own, as `module:callable`; images are `[3, 16, 16]`, three categories."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from emergence_ext.network.builtin import SmallVGG, small_vgg


def three(num_classes: int = 3) -> SmallVGG:
    """Two stages, the last with a map of 8 x 8; layers `conv1_1` and `conv2_1`."""
    return small_vgg(num_classes, widths=(6, 8), depths=(1, 1), pools=1, hidden=12)


class Odd(nn.Module):
    """A network whose output is something else than logits."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        z = self.fc(torch.relu(self.conv(images)).mean(dim=(2, 3)))
        if self.what == "nan":
            red = images.mean(dim=(2, 3)).argmax(1) == 0
            return torch.where(red[:, None], torch.nan, z)
        if self.what == "constant":
            return 0 * z + torch.arange(3.0)
        if self.what == "logits":
            return z
        return {"loss": z.mean()} if self.what == "dict" else self.conv(images)


def not_finite() -> nn.Module:
    return Odd("nan")


def constant() -> nn.Module:
    return Odd("constant")


def in_a_dict() -> nn.Module:
    return Odd("dict")


def maps() -> nn.Module:
    return Odd("maps")


def one_output() -> nn.Module:
    return three(1)


def five_outputs() -> nn.Module:
    return three(5)


def wider() -> nn.Module:
    return small_vgg(3, widths=(7, 8), depths=(1, 1), pools=1, hidden=12)


def left_in_training_mode() -> nn.Module:
    return three().train()


def compiled() -> nn.Module:
    """A network in TorchScript, which takes no hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still in use
        return torch.jit.trace(Odd("logits").eval(), torch.rand(1, 3, 16, 16))


class ClassToken(nn.Module):
    """A small transformer whose output is that of its class token."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.patch = nn.Conv2d(3, 16, 4, 4)
            self.token = nn.Parameter(torch.randn(1, 1, 16))
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(16, 2, 16, 0.0, batch_first=True) for _ in range(blocks)
            )
            self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.fc(x[:, 0])
