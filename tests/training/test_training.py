"""Training does what the recipe says, can be killed anywhere, and takes no shortcut that shows."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emergence_ext.data.samples import ArraySamples
from emergence_ext.network.builtin import small_vgg
from emergence_ext.network.models import load_weights
from emergence_ext.training import loop as training
from emergence_ext.training.heads import augment, frozen_names, trained_part
from emergence_ext.training.loop import Recipe, TrainingLog, evaluate, load_checkpoints, train


def _samples(count: int = 36, seed: int = 0, categories: int = 3) -> ArraySamples:
    """Images that are brighter in the channel of their category: learned within a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = [index % categories for index in range(count)]
    images = torch.rand(count, max(3, categories), 8, 8, generator=generator)
    images[torch.arange(count), torch.tensor(labels)] += 0.7
    return ArraySamples(
        images / 1.7, labels, [f"category {number}" for number in range(categories)]
    )


def _net(categories: int = 3, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return small_vgg(
            categories, widths=(4, 6), depths=(1, 1), pools=1, hidden=16, dropout=dropout
        )


RECIPE = Recipe(epochs=4, batch_size=12, lr=0.01)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_training_learns_and_says_so(tmp_path: Path) -> None:
    module = _net()
    log = train(module, _samples(), _samples(seed=1), replace(RECIPE, epochs=15), out=tmp_path)
    assert log.epoch == list(range(16)) and math.isnan(log.loss[0])
    assert log.loss[-1] < 0.5 * log.loss[1]
    assert log.val_accuracy[-1] > 0.9 > 0.6 > log.val_accuracy[0]
    assert log.val_accuracy[-1] == evaluate(module, _samples(seed=1))
    assert not any(submodule.training for submodule in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    stored = TrainingLog.load(tmp_path / "log")
    assert stored.val_accuracy == log.val_accuracy and stored.loss[1:] == log.loss[1:]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_result_depends_on_the_seed_alone(tmp_path: Path, optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, augment=True)
    states = []
    before = torch.random.get_rng_state()
    for number, seed in enumerate((0, 0, 1)):
        module = _net(dropout=0.3)
        out = tmp_path / str(number)
        train(module, _samples(), _samples(seed=1), recipe, out=out, random_state=seed)
        states.append(_state(module))
        torch.rand(number)
    _assert_same(states[0], states[1])
    assert not torch.equal(states[0]["fc2.weight"], states[2]["fc2.weight"])
    torch.random.set_rng_state(before)


def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(_net(dropout=0.3), _samples(), _samples(), replace(RECIPE, augment=True), out=tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


class _KilledError(Exception):
    pass


@pytest.mark.one_in(3)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 2, 4, 7])
def test_a_killed_training_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, steps: int
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, augment=True)
    whole = _net(dropout=0.3)
    kept = [0, 2, 4]
    log = train(whole, _samples(), _samples(seed=1), recipe, out=tmp_path / "a", checkpoints=kept)

    calls = 0
    schedule = training._schedule

    def killed(progress: float, warmup: float) -> float:
        nonlocal calls
        calls += 1
        if calls > steps:
            raise _KilledError
        return schedule(progress, warmup)

    out = tmp_path / "b"
    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(training, "_schedule", killed)
        train(_net(dropout=0.3), _samples(), _samples(seed=1), recipe, out=out, checkpoints=kept)
    resumed = _net(dropout=0.3)
    again = train(resumed, _samples(), _samples(seed=1), recipe, out=out, checkpoints=kept)
    _assert_same(_state(whole), _state(resumed))
    assert again.val_accuracy == log.val_accuracy and again.loss[1:] == log.loss[1:]
    for checkpoint in load_checkpoints(str(tmp_path / "a" / "epoch_*.safetensors")):
        _assert_same(load_file(checkpoint.path), load_file(out / checkpoint.path.name))


def test_killed_while_the_state_is_written_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _net()
    train(whole, _samples(), _samples(), RECIPE, out=tmp_path / "a")
    replace_file = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).name == "000002.json":
            raise _KilledError
        return replace_file(self, target)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(Path, "replace", killed)
        train(_net(), _samples(), _samples(), RECIPE, out=tmp_path / "b")
    resumed = _net()
    train(resumed, _samples(), _samples(), RECIPE, out=tmp_path / "b")
    _assert_same(_state(whole), _state(resumed))
    stems = sorted(path.stem for path in (tmp_path / "b" / "resume").iterdir())
    assert stems == ["000003"] * 2 + ["000004"] * 2


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = train(_net(), _samples(), _samples(), RECIPE, out=tmp_path)
    module = _net()
    assert train(module, _samples(), _samples(), RECIPE, out=tmp_path).seconds == first.seconds
    _assert_same(_state(module), load_file(tmp_path / "epoch_0004.safetensors"))


def test_checkpoints_are_the_network_after_those_epochs(tmp_path: Path) -> None:
    module = _net()
    initial = _state(module)
    val_set = _samples(seed=1)
    log = train(module, _samples(), val_set, RECIPE, out=tmp_path, checkpoints=[0, 1, 4])
    found = load_checkpoints(str(tmp_path / "epoch_*.safetensors"))
    assert [checkpoint.epoch for checkpoint in found] == [0, 1, 4]
    assert [checkpoint.label for checkpoint in found] == ["epoch 0", "epoch 1", "epoch 4"]
    _assert_same(load_file(found[0].path), initial)
    index = json.loads((tmp_path / "checkpoints.json").read_text())["checkpoints"]
    assert index[0]["loss"] is None and index[0]["file"] == "epoch_0000.safetensors"
    for checkpoint, entry in zip(found, index, strict=True):
        other = _net()
        assert load_weights(other, checkpoint.path) == []
        assert (
            evaluate(other, val_set) == log.val_accuracy[checkpoint.epoch] == entry["val_accuracy"]
        )
    with pytest.raises(ValueError, match=r"epochs in 0\.\.4, got \[5\]"):
        train(module, _samples(), val_set, RECIPE, out=tmp_path / "b", checkpoints=[5])


class _Trunk(nn.Module):
    """Normalisation and dropout on both sides of the head's input, so that a wrong mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images).mean(dim=(2, 3)))


def _trunk() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _Trunk()


def test_a_head_on_remembered_inputs_is_the_head_of_the_whole_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, freeze="^trunk")
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    quick = _trunk()
    quick.trunk.register_forward_hook(count)
    quick_log = train(quick, _samples(), _samples(seed=1), recipe, out=tmp_path / "quick")
    monkeypatch.setattr(training, "remember_inputs", lambda module, head, inputs, *_: inputs)
    slow = _trunk()
    slow_log = train(slow, _samples(), _samples(seed=1), recipe, out=tmp_path / "slow")
    for name, value in slow.state_dict().items():
        torch.testing.assert_close(quick.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert quick_log.val_accuracy == slow_log.val_accuracy
    # Two looks at the structure, and each image of both sets once.
    assert calls <= 2 + 2 * math.ceil(36 / 12)
    assert quick_log.loss[-1] < quick_log.loss[1]


def test_what_is_frozen_stays_bit_for_bit(tmp_path: Path) -> None:
    module = _trunk()
    module.trunk[0].bias.requires_grad_(False)
    before = _state(module)
    train(module, _samples(), _samples(), replace(RECIPE, freeze="^trunk"), out=tmp_path)
    after = _state(module)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("trunk"), name
    assert [n for n, p in module.named_parameters() if not p.requires_grad] == ["trunk.0.bias"]


def test_a_layer_in_the_middle_can_be_frozen(tmp_path: Path) -> None:
    module = _net()
    before = _state(module)
    recipe = replace(RECIPE, freeze=r"^conv2_1")
    train(module, _samples(), _samples(), recipe, out=tmp_path)
    after = _state(module)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("conv2_1"), name


def test_resuming_on_other_frozen_weights_is_refused(tmp_path: Path) -> None:
    recipe = replace(RECIPE, freeze="^trunk")
    train(_trunk(), _samples(), _samples(), recipe, out=tmp_path)
    other = _trunk()
    nn.init.zeros_(other.trunk[0].weight)
    with pytest.raises(ValueError, match="other initial weights"):
        train(other, _samples(), _samples(), recipe, out=tmp_path)


def test_the_head_is_the_smallest_module_that_gives_the_output() -> None:
    example = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = _trunk().eval()
    assert trained_part(module, frozen_names(module, "^trunk"), example) == "head"
    assert trained_part(module, frozen_names(module, r"^trunk|head\.0"), example) == "head"
    assert trained_part(module, frozen_names(module, r"^trunk|head\.[01]"), example) == "head.4"
    assert trained_part(module, set(), example) == ""
    assert trained_part(module, frozen_names(module, r"^head"), example) == ""
    assert trained_part(_net().eval(), frozen_names(_net(), "^conv"), example) == ""


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("^nothing", "no parameter's name"),
        (".", "leaves no parameter"),
        ("(", "regular expression"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused(
    tmp_path: Path, pattern: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(_net(), _samples(), _samples(), replace(RECIPE, freeze=pattern), out=tmp_path)


def test_bfloat16_learns_the_same_thing_and_gives_float32_back(
    bfloat16_products: None, tmp_path: Path
) -> None:
    module = _net()
    recipe = replace(RECIPE, epochs=15, precision="bfloat16")
    log = train(module, _samples(), _samples(seed=1), recipe, out=tmp_path)
    assert log.val_accuracy[-1] > 0.9
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert all(value.is_contiguous() for value in module.parameters())


def test_folders_that_do_not_match_the_outputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3\], one a category, got \[1, 5\]"):
        train(_net(5), _samples(), _samples(), RECIPE, out=tmp_path)
    with pytest.raises(ValueError, match="val_set"):
        train(_net(), _samples(), _samples(categories=4), RECIPE, out=tmp_path)


def test_a_loss_that_is_not_finite_stops_and_gives_the_module_back(tmp_path: Path) -> None:
    module = _net()
    with pytest.raises(ValueError, match="train with a lower one"):
        train(module, _samples(), _samples(), replace(RECIPE, lr=1e30), out=tmp_path)
    assert not module.training and all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": -1}, {"optimizer": "lbfgs"}, {"precision": "half"}, {"warmup": 1}],
)
def test_a_recipe_says_what_is_wrong_with_it(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        replace(RECIPE, **wrong)


@pytest.mark.parametrize("wrong", [{"epochs": "4"}, {"batch_size": 2.5}, {"lr": None}])
def test_a_recipe_says_what_is_no_number(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(wrong))}: expected a"):
        replace(RECIPE, **wrong)


def test_evaluating_leaves_the_module_as_it_was() -> None:
    module = _net()
    module.train()
    module.conv1_1.eval()
    modes = [submodule.training for submodule in module.modules()]
    before = _state(module)
    evaluate(module, _samples())
    assert [submodule.training for submodule in module.modules()] == modes
    _assert_same(before, _state(module))


def test_augmented_images_stay_within_the_image() -> None:
    images = torch.linspace(0.2, 0.8, 16).expand(50, 3, 16, 16)
    changed = augment(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.min() >= 0.2 - 1e-6 and changed.max() <= 0.8 + 1e-6
    slopes = changed[..., -1] - changed[..., 0]
    assert (slopes > 0).any() and (slopes < 0).any()
    assert torch.equal(changed, augment(images, torch.Generator().manual_seed(0)))


def _touch(folder: Path, names: Sequence[str]) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


def test_checkpoints_are_ordered_by_the_epoch_in_their_name(tmp_path: Path) -> None:
    paths = _touch(tmp_path, ["epoch_12.pt", "Epoch-2.pt", "resnet50_epoch100.pt", "resnet18_7.pt"])
    for found in (load_checkpoints(paths), load_checkpoints(str(tmp_path / "*.pt"))):
        assert [checkpoint.epoch for checkpoint in found] == [2, 7, 12, 100]
    assert load_checkpoints(paths[:1]) == [("epoch 12", 12, paths[0])]


def test_an_index_beside_them_says_the_epoch(tmp_path: Path) -> None:
    paths = _touch(tmp_path, ["best.pt", "epoch_3.pt"])
    with pytest.raises(ValueError, match=r"no epoch in the name best\.pt"):
        load_checkpoints(paths)
    index = tmp_path / "checkpoints.json"
    index.write_text('{"checkpoints": [{"file": "best.pt", "epoch": 40}, {"file": "x"}, 3]}')
    assert [checkpoint.epoch for checkpoint in load_checkpoints(paths)] == [3, 40]
    for damaged in ("{", "[]", '{"checkpoints": 3}'):
        index.write_text(damaged)
        with pytest.raises(ValueError, match=r"checkpoints\.json"):
            load_checkpoints(paths)


def test_checkpoints_that_cannot_be_ordered_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing matches"):
        load_checkpoints(str(tmp_path / "*.pt"))
    with pytest.raises(ValueError, match="no file"):
        load_checkpoints([tmp_path / "epoch_1.pt"])
    with pytest.raises(ValueError, match="both of epoch 1"):
        load_checkpoints(_touch(tmp_path, ["epoch_1.pt", "epoch_01.pt"]))
