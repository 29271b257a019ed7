"""Networks of another precision, of one channel, and with auxiliary heads are trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emergence_ext.data import ArraySamples
from emergence_ext.network import load_model, load_weights, read_origin
from emergence_ext.training import Recipe, train
from emergence_ext.training.loop import evaluate


class Net(nn.Module):
    def __init__(self, channels: int = 3, auxiliary: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.auxiliary = auxiliary

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        f = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        z = self.fc(f)
        return (z, f[:, :2]) if self.auxiliary and self.training else z


@pytest.fixture
def samples() -> ArraySamples:
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[6:] *= 0.2
    return ArraySamples(images, [0] * 6 + [1] * 6, ["bright", "dark"])


def _train(net: nn.Module, samples: ArraySamples, out: Path) -> float:
    recipe = Recipe(epochs=12, batch_size=4, lr=0.05)
    return train(net, samples, samples, recipe, out=out).val_accuracy[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_keeps_its_precision_and_learns(
    dtype: torch.dtype, samples: ArraySamples, tmp_path: Path
) -> None:
    net = Net().to(dtype)
    assert _train(net, samples, tmp_path) == 1
    assert {x.dtype for x in net.state_dict().values() if x.is_floating_point()} == {dtype}
    again = Net().to(dtype)
    load_weights(again, tmp_path / "epoch_0012.safetensors")
    assert evaluate(again, samples) == 1


def test_colour_images_train_a_network_of_one_channel(
    samples: ArraySamples, tmp_path: Path
) -> None:
    assert _train(Net(1), samples, tmp_path) == 1


def test_the_first_logits_are_trained_where_there_are_auxiliary_ones(
    samples: ArraySamples, tmp_path: Path
) -> None:
    assert _train(Net(auxiliary=True), samples, tmp_path) == 1


class Two(Net):
    """Two heads; the first that is met is not the one that is trained."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        z = super().forward(x)
        assert isinstance(z, Tensor)
        return {"constant": torch.zeros_like(z), "own": z}


def test_the_chosen_output_travels_with_the_weights(samples: ArraySamples, tmp_path: Path) -> None:
    spec = f"{__name__}:Two"
    net = load_model(spec, num_classes=2, output="own").module
    log = train(
        net, samples, samples, Recipe(epochs=12, batch_size=4, lr=0.05), out=tmp_path,
        model=spec, output="own",
    )  # fmt: skip
    assert log.val_accuracy[-1] == 1
    weights = tmp_path / "epoch_0012.safetensors"
    assert read_origin(weights).output == "own"
    assert evaluate(load_model(spec, weights=weights).module, samples) == 1
    assert evaluate(load_model(spec, weights=weights, output="constant").module, samples) == 0.5
    with pytest.raises(ValueError, match="code"):
        # Another head, in the same folder, is another training.
        other = load_model(spec, num_classes=2, output="constant").module
        _train(other, samples, tmp_path)


class Closed(Net):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        with torch.no_grad():
            return super().forward(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Net().requires_grad_(False), "no parameter to train, as requires_grad is False"),
        (Closed, "has no gradient, so nothing can be trained"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), "'1.weight' has no values before"),
    ],
)
def test_a_network_that_cannot_be_trained_says_why(
    make: Callable[[], nn.Module], words: str, samples: ArraySamples, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^model: .*{words}"):
        _train(make(), samples, tmp_path)
