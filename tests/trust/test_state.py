"""After success, an exception or Ctrl-C the user's network and random generators are as before."""

from __future__ import annotations

import contextlib
import copy
import importlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emergence_ext import lookinside, mindseye, network, render, studies
from emergence_ext.data import ArraySamples
from emergence_ext.lookinside.targets import dataset_logits
from emergence_ext.mindseye import Schedule

# It draws from Python's generator when it is first imported, whoever does so.
importlib.import_module("rich.style")

LAYER = "conv2"
IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
SAMPLES = ArraySamples(IMAGES, LABELS.tolist(), ["a", "b", "c"])


class Watched(nn.Module):
    """A network that raises at one of its forward passes, in the middle of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.norm, self.drop = nn.BatchNorm2d(6), nn.Dropout(0.2)
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()
        self.fc = nn.Linear(8, 3)
        self.passes, self.at, self.error = 0, -1, ValueError("stop")

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, 3]`."""
        x = self.drop(self.norm(self.relu1(self.conv1(x))))
        self.passes += 1
        if self.passes == self.at:
            torch.rand(1)
            raise self.error
        return self.fc(self.relu2(self.conv2(x)).mean((2, 3)))


def _pgd(net: nn.Module) -> None:
    with network.preserved(net):
        for _ in studies.pgd.pgd(net, IMAGES, LABELS, eps=0.1, step=0.05, steps=2):
            pass


def _above(net: nn.Module) -> None:
    with network.above(net, LAYER, IMAGES) as part:
        network.grad_cam(part, LABELS, (8, 8))


def _recorded(net: nn.Module) -> None:
    with network.recorder(net, [LAYER]):
        net(IMAGES)


def _excite(net: nn.Module) -> None:
    lookinside.excite.excite(net, SAMPLES, {LAYER: torch.eye(8)[:2]}, k=2, batch_size=3)


def _render(net: nn.Module) -> None:
    objective = render.channel(LAYER, 0)
    render.render(net, IMAGES[:1], objective, steps=2, learning_rate=0.1)


def _minds_eye(net: nn.Module) -> None:
    mindseye.minds_eye(net, IMAGES, "relu2", top_k=4, schedule=Schedule(steps=2), batch_size=4)


ENTRIES: dict[str, Callable[[nn.Module], Any]] = {
    "extract": lambda net: network.extract(net, SAMPLES, [LAYER], batch_size=2),
    "suggest_layers": lambda net: network.suggest_layers(net, IMAGES[:1]),
    "inspect_model": lambda net: network.inspect_model(net, IMAGES[:1]),
    "find_head": lambda net: network.find_head(net, IMAGES),
    "recorder": _recorded,
    "above": _above,
    "receptive_field": lambda net: network.receptive_field(net, LAYER, 16),
    "weights_digest": network.weights_digest,
    "activations": lambda net: lookinside.activations.activations(net, IMAGES, LAYER),
    "sparsity": lambda net: lookinside.activations.sparsity(net, SAMPLES, [LAYER], batch_size=2),
    "excite": _excite,
    "codes": lambda net: lookinside.codes.codes(net, SAMPLES, batch_size=2),
    "dataset_logits": lambda net: dataset_logits(net, SAMPLES, batch_size=2),
    "occlusion": lambda net: lookinside.occlusion.occlusion(
        net, IMAGES, LABELS, sliding_window_shapes=8, strides=8, perturbations_per_eval=2
    ),
    "region_occlusion": lambda net: lookinside.occlusion.region_occlusion(
        net, LAYER, IMAGES, LABELS, (2, 2), perturbations_per_eval=2
    ),
    "saliency": lambda net: lookinside.gradients.saliency(net, IMAGES, LABELS, batch_size=2),
    "smooth_grad": lambda net: lookinside.gradients.smooth_grad(net, IMAGES, LABELS, n_samples=3),
    "guided_backprop": lambda net: lookinside.gradients.guided_backprop(net, IMAGES, LABELS),
    "deconvnet": lambda net: lookinside.gradients.deconvnet(net, IMAGES, LABELS),
    "grad_cam": lambda net: lookinside.gradients.grad_cam(net, LAYER, IMAGES, LABELS),
    "filters": lambda net: lookinside.filters.filters(net, IMAGES),
    "fool": lambda net: lookinside.fooling.fool(net, IMAGES, LABELS, steps=2),
    "invert": lambda net: lookinside.inversion.invert(net, LAYER, IMAGES, steps=2),
    "layer_maps": lambda net: lookinside.stream.layer_maps(net, IMAGES, LAYER),
    "render": _render,
    "measure": lambda net: render.measure(net, IMAGES, render.channel(LAYER, 0)),
    "logits_of": lambda net: mindseye.logits_of(net, IMAGES),
    "minds_eye": _minds_eye,
    "previous_layer": lambda net: mindseye.previous_layer(net, LAYER, IMAGES),
    "pgd": _pgd,
}


def _state(net: Watched) -> dict[str, Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = list(net.modules())
    return {
        "values": copy.deepcopy(net.state_dict()),
        "class": [type(part) for part in parts],
        "training": [part.training for part in parts],
        "inplace": [getattr(part, "inplace", None) for part in parts],
        "hooks": [len(getattr(part, name)) for part in parts for name in hooks],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "images": IMAGES.clone(),
        "images' gradient": IMAGES.requires_grad,
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@pytest.fixture
def net() -> Iterator[Watched]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Watched().train()
        made.norm.eval()  # a mixture of modes has to come back as the same mixture
        made.conv1.weight.requires_grad_(False)
        made(IMAGES).sum().backward()
        made.passes = 0
        yield made


@pytest.mark.parametrize("ending", ["success", ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("entry", ENTRIES)
def test_everything_of_the_user_is_as_it_was(
    net: Watched, entry: str, ending: str | type[BaseException]
) -> None:
    before = _state(net)
    if ending == "success":
        ENTRIES[entry](net)
    else:
        counted = copy.deepcopy(net)
        ENTRIES[entry](counted)
        net.error = ending("stop")  # type: ignore[operator]
        net.at = counted.passes  # the last one
        with contextlib.suppress(ValueError, KeyboardInterrupt):
            ENTRIES[entry](net)
    after = _state(net)
    for name, value in before.items():
        assert _same(value, after[name]), f"{name} after {entry}"
