"""A folder goes on with the same training alone, and a damaged one is never begun anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emergence_ext.data import ArraySamples
from emergence_ext.network import load_checkpoints, preprocess
from emergence_ext.store import StoreError, load_arrays, made_from, save_arrays
from emergence_ext.training import Recipe, TrainingLog, train

RECIPE = Recipe(epochs=3, batch_size=6, lr=0.01)


class Net(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4), persistent=False)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        if self.training:
            self.mean.lerp_(x.detach().mean(dim=0), 0.1)
            self.steps += 1
        return self.scale * self.fc(x - self.mean)


class Other(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).tanh()


def _net(kind: Callable[[], nn.Module] = Net) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


def _samples(seed: int = 0, *, size: int = 6, pixel: float = 0.0, swap: bool = False) -> Any:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, size, size, generator=generator) * 0.9
    images[-1, 0, 0, 0] += pixel
    labels = [index % 3 for index in range(12)]
    return ArraySamples(images, labels[::-1] if swap else labels, ["a", "b", "c"])


def _train(out: Path, module: nn.Module | None = None, **other: Any) -> nn.Module:
    module = module or _net()
    arguments = {
        "train_set": _samples(), "val_set": _samples(1), "recipe": RECIPE, "checkpoints": [0, 2, 3],
        **other,
    }  # fmt: skip
    train(module, out=out, **arguments)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    _train(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    for path in finished.rglob("*.*"):
        target = tmp_path / path.relative_to(finished)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def _with_other_weight() -> nn.Module:
    module = _net()
    with torch.no_grad():
        module.get_parameter("fc.bias")[-1] += 1e-3
    return module


def _with_other_buffer() -> nn.Module:
    module = _net()
    module.get_buffer("mean")[0] = 1e-3
    return module


def _doubled(images: Tensor) -> Tensor:
    return 2 * images


def _halved(images: Tensor) -> Tensor:
    return images / 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: {"train_set": _samples(pixel=0.01)}, "images"),
        (lambda: {"val_set": _samples(1, pixel=0.01)}, "images"),
        (lambda: {"train_set": _samples(swap=True)}, "images, labels"),
        (
            lambda: {"train_set": _samples(size=8), "val_set": _samples(1, size=8)},
            "images, size",
        ),
        (lambda: {"preprocess": preprocess("imagenet")}, "preprocessing"),
        (lambda: {"module": _with_other_weight()}, "initial weights"),
        (lambda: {"module": _with_other_buffer()}, "initial weights"),
        (lambda: {"module": _net(Other)}, "network code"),
        (lambda: {"module": _net(lambda: Net(2.0))}, "network code"),
        (lambda: {"recipe": replace(RECIPE, lr=0.02)}, "lr"),
        (lambda: {"recipe": replace(RECIPE, epochs=4)}, "epochs"),
        (lambda: {"random_state": 1}, "seed"),
        (lambda: {"checkpoints": [3]}, "kept epochs"),
    ],
)
def test_another_training_in_the_folder_is_refused_by_what_differs(
    finished: Path, change: Callable[[], dict[str, Any]], named: str
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.*")}
    with pytest.raises(ValueError, match=f"with other {named}; choose another folder or delete"):
        _train(finished, **change())
    assert before == {path: path.read_bytes() for path in finished.rglob("*.*")}


def test_a_log_says_what_it_was_made_from_and_is_of_one_training(
    copied: Path, tmp_path: Path
) -> None:
    noted = made_from(copied / "log")
    assert noted is not None and noted == made_from(copied / "resume" / "000003")
    before = (copied / "log.json").read_bytes()
    _train(copied)
    assert (copied / "log.json").read_bytes() == before
    # A log that came from elsewhere, though the states beside it are of this training.
    TrainingLog.load(copied / "log").save(copied / "log", {**noted, "seed": "another"})
    with pytest.raises(ValueError, match="with other seed; choose another folder or delete it"):
        _train(copied)
    # One of an earlier version does not say.
    TrainingLog.load(copied / "log").save(copied / "log")
    _train(copied)
    assert made_from(copied / "log") == noted


def test_preprocessing_is_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"{__name__}:_doubled"
    _train(tmp_path, preprocess=preprocess(here))
    _train(tmp_path, preprocess=preprocess(here))
    monkeypatch.setattr(f"{__name__}._doubled", _halved)
    with pytest.raises(ValueError, match="other preprocessing;"):
        _train(tmp_path, preprocess=preprocess(here))


def test_a_state_of_an_earlier_version_is_refused(copied: Path) -> None:
    for stem in ("000002", "000003"):
        arrays, settings = load_arrays(copied / "resume" / stem)
        old = settings | {"signature": "0" * 64}
        save_arrays(copied / "resume" / stem, arrays, old, kind="TrainingState")
    with pytest.raises(ValueError, match=r"earlier version.* choose another folder or delete it"):
        _train(copied)


def _flip(path: Path, bit: int = 3, place: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)


def test_the_state_before_a_damaged_one_is_gone_on_from(
    copied: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _flip(copied / "resume" / "000003.safetensors")
    module = _train(copied)
    assert "the state after epoch 000003 is left aside" in caplog.text
    whole = load_file(finished / "epoch_0003.safetensors")
    for name, value in module.state_dict().items():
        assert torch.equal(value, whole[name]), name
    ends = [load_arrays(folder / "resume" / "000003")[0] for folder in (copied, finished)]
    assert ends[0].keys() == ends[1].keys() and "buffer/mean" in ends[0]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert sorted(path.name for path in (copied / "resume").glob("*.json")) == [
        "000002.json",
        "000003.json",
    ]


@pytest.mark.parametrize("way", ["flipped", "removed"])
def test_without_a_whole_state_good_checkpoints_are_not_replaced(copied: Path, way: str) -> None:
    for path in list((copied / "resume").iterdir()):
        if way == "removed":
            path.unlink()
        elif path.suffix == ".json":
            _flip(path)
    before = (copied / "epoch_0002.safetensors").read_bytes()
    with pytest.raises(StoreError, match=r"no state to go on from\. Choose another folder, or del"):
        _train(copied)
    assert (copied / "epoch_0002.safetensors").read_bytes() == before


def test_killed_before_the_first_state_it_begins(copied: Path, finished: Path) -> None:
    for path in copied.rglob("*.*"):
        if path.name != "epoch_0000.safetensors":
            path.unlink()
    _train(copied)
    for name in ("epoch_0000.safetensors", "epoch_0003.safetensors"):
        assert (copied / name).read_bytes() == (finished / name).read_bytes()


def test_a_damaged_index_is_noticed_and_written_again(copied: Path) -> None:
    index = copied / "checkpoints.json"
    text = index.read_text()
    assert json.loads(text)["training"]["size"] == 6
    for old, new in (
        ('"epoch": 2', '"epoch": 3'),
        ("epoch_0002", "epoch_0006"),
        ('"sha256"', '"sha257"'),
    ):
        assert old in text
        index.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"checkpoints\.json is damaged.*Delete it"):
            load_checkpoints(str(copied / "epoch_*.safetensors"))
    _train(copied)
    assert index.read_text() == text


@pytest.mark.parametrize("name", ["epoch_0003.safetensors", "000003.safetensors", "000003.json"])
def test_a_full_disk_loses_nothing(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace_file = Path.replace

    def full(self: Path, target: Path) -> Path:
        if Path(target).name == name:
            raise OSError(28, "No space left on device", str(target))
        return replace_file(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Path, "replace", full)
        _train(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    _train(tmp_path)
    whole = finished / "epoch_0003.safetensors"
    assert (tmp_path / whole.name).read_bytes() == whole.read_bytes()


def test_weights_that_are_no_longer_finite_stop_and_are_not_kept(tmp_path: Path) -> None:
    # One step: its loss is that of the weights before it.
    recipe = Recipe(epochs=1, batch_size=12, lr=1e38, optimizer="sgd", weight_decay=0, warmup=0)
    module = _net(lambda: Net(1e4))
    with pytest.raises(ValueError, match="no longer finite in epoch 1; train with a lower one"):
        _train(tmp_path, module, recipe=recipe, checkpoints=[1])
    assert not list(tmp_path.glob("epoch_*"))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.out = nn.Conv2d(3, 3, 1)
        self.out.weight = self.conv.weight
        self.register_buffer("view", self.conv.weight.detach()[:1])

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.conv(images).relu()).mean(dim=(2, 3))


def test_tied_weights_and_views_are_kept(tmp_path: Path) -> None:
    from emergence_ext.network import load_weights

    module = _train(tmp_path, _net(Tied))
    stored = load_file(tmp_path / "epoch_0003.safetensors")
    assert torch.equal(stored["conv.weight"], stored["out.weight"])
    other = _net(Tied)
    assert load_weights(other, tmp_path / "epoch_0003.safetensors") == []
    assert other.get_parameter("conv.weight") is other.get_parameter("out.weight")
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(images), other(images))
    again = _train(tmp_path, _net(Tied))
    assert torch.equal(again(images), module(images))


def test_a_tied_weight_is_frozen_by_either_name(tmp_path: Path) -> None:
    from emergence_ext.training.heads import frozen_names

    assert frozen_names(_net(Tied), r"out\.weight") == {"conv.weight"}
    assert frozen_names(_net(Tied), r"conv\.weight") == {"conv.weight"}
