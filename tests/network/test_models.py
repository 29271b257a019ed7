"""Networks come by name, with the paper's layers, and refuse weights that are not theirs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from emergence_ext.network.builtin import (
    scene_vgg,
    small_vgg,
    small_vgg28,
    small_vgg64,
    vgg16_pooled,
)
from emergence_ext.network.layers import suggest_layers
from emergence_ext.network.models import load_model, load_weights, read_weights
from emergence_ext.network.positions import require_size
from emergence_ext.network.preprocessing import normalisation, preprocess
from emergence_ext.network.receptive import receptive_field


def _output_of(module: nn.Module, name: str, example: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = module.get_submodule(name).register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        module.eval()(example)
    handle.remove()
    return found[-1]


@pytest.mark.parametrize(
    ("module", "shape", "grid"),
    [(small_vgg28(), (1, 28, 28), (7, 7)), (small_vgg64(), (3, 64, 64), (8, 8))],
    ids=["28", "64"],
)
def test_own_networks_keep_fine_regions(
    module: nn.Module, shape: tuple[int, ...], grid: tuple[int, int]
) -> None:
    layers = module.default_layers
    assert next(iter(layers)) == "conv1_2" and list(layers)[-1].startswith("conv5_")
    last = _output_of(module, list(layers.values())[-1], torch.rand(2, *shape))
    assert last.shape[2:] == grid and last.min() == 0
    assert module(torch.rand(2, *shape)).shape == (2, 10)


def test_a_region_of_the_network_for_scenes_sees_a_digit_and_what_is_around_it() -> None:
    module = scene_vgg()
    assert _output_of(module, "conv5_1", torch.rand(2, 1, 64, 64)).shape[2:] == (8, 8)
    assert receptive_field(module, "conv5_1", 64).size == (62, 62)
    assert module(torch.rand(2, 1, 64, 64)).shape == (2, 10)


def test_small_vgg_refuses_more_pools_than_stages() -> None:
    with pytest.raises(ValueError, match="pools"):
        small_vgg(widths=(4, 4), depths=(1, 1), pools=2)


def test_the_sample_feature_is_after_its_relu() -> None:
    module = small_vgg28()
    found: list[Tensor] = []
    module.fc2.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    module(torch.rand(4, 1, 28, 28))
    assert found[0].shape == (4, 64) and found[0].min() == 0


def test_pooled_vgg_is_torchvisions_up_to_the_last_relu() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = models.vgg16(weights=None).features.state_dict()
        ours = vgg16_pooled().features.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items()
    }


PAPER = {
    "torchvision:vgg16": {
        "conv1_2": "features.3",
        "conv2_2": "features.8",
        "conv3_3": "features.15",
        "conv4_3": "features.22",
        "conv5_3": "features.29",
    },
    "torchvision:resnet34": {
        "conv_1": "relu",
        "conv_2": "layer1",
        "conv_3": "layer2",
        "conv_4": "layer3",
        "conv_5": "layer4",
    },
    "torchvision:mobilenet_v2": {
        f"layer{number}": f"features.{number}" for number in (4, 7, 11, 14, 18)
    },
}


@pytest.mark.parametrize("spec", list(PAPER))
def test_networks_of_the_paper_have_its_layers(spec: str) -> None:
    pytest.importorskip("torchvision")
    model = load_model(spec, num_classes=3)
    assert model.layers == PAPER[spec] and model.preprocess == "imagenet"
    assert not model.module.training
    example = torch.rand(1, 3, 64, 64)
    for name in model.layers.values():
        assert _output_of(model.module, name, example).ndim == 4
    assert model.module(example).shape == (1, 3)
    assert load_model("vgg16_pooled").layers == PAPER["torchvision:vgg16"]


def _logits(module: nn.Module, size: int = 64) -> Tensor:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return module.eval()(images)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_network_that_is_named_is_the_network_that_runs(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = models.get_model(name, weights=None, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    plain = load_model(f"torchvision:{name}", weights=tmp_path / "w.pt")
    assert torch.equal(_logits(plain.module), _logits(theirs))
    assert plain.description == f"torchvision's own {name}"
    caplog.set_level("INFO", "emergence_ext")
    paper = load_model(f"{name}_stride1", weights=tmp_path / "w.pt")
    assert "stride 1 in place of 2 in layer4" in paper.description
    assert paper.description in caplog.text
    assert paper.layers == plain.layers == PAPER["torchvision:resnet34"]
    assert paper.preprocess == plain.preprocess == "imagenet"
    assert not torch.equal(_logits(paper.module), _logits(theirs))
    example = torch.rand(1, 3, 64, 64)
    for layer, size in {"layer3": (4, 4), "layer4": (4, 4)}.items():
        assert _output_of(paper.module, layer, example).shape[2:] == size
    assert _output_of(plain.module, "layer4", example).shape[2:] == (2, 2)


@pytest.mark.parametrize(
    ("spec", "preprocess"),
    [
        ("torchvision:resnet18", "imagenet"),
        ("torchvision:googlenet", "inception"),
        ("torchvision:efficientnet_v2_s", "imagenet"),
    ],
)
def test_preprocessing_is_that_of_the_published_weights(spec: str, preprocess: str) -> None:
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert load_model(spec, num_classes=3).preprocess == preprocess


@pytest.mark.filterwarnings("ignore")
def test_googlenet_sees_what_it_sees_with_its_own_weights() -> None:
    models = pytest.importorskip("torchvision.models")
    net = models.googlenet(weights=None, init_weights=False, aux_logits=False).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = net(preprocess("inception")(images))
        net.transform_input = True  # as torchvision sets it where it loads its weights
        theirs = net(preprocess("imagenet")(images))
    torch.testing.assert_close(ours, theirs)


def test_an_unknown_normalisation_is_taken_by_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) == "inception"
    assert normalisation((0, 0, 0), (1, 1, 1)) == "none"
    assert normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.2255)) == "imagenet"
    name = normalisation((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
    assert name == "0.43,0.411,0.296/0.213,0.156,0.143"
    images = torch.rand(1, 3, 2, 2)
    expected = (images[:, 2] - 0.296) / 0.143
    torch.testing.assert_close(preprocess(name)(images)[:, 2], expected)
    assert normalisation((0.5,), (0.25,)) == "0.5/0.25"
    assert preprocess("0.5/0.25")(torch.ones(1, 1, 2, 2)).unique() == 2
    for wrong in ("0.5,0.5/0.1", "0.5/0", "0.5/-1", "1-/2", "0.5/0.1/0.1"):
        with pytest.raises(ValueError, match="preprocess: expected"):
            preprocess(wrong)


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_one() -> None:
    before = torch.random.get_rng_state()
    first = load_model("small_vgg28").module.state_dict()["conv1_1.0.weight"]
    assert torch.equal(torch.random.get_rng_state(), before)
    again = load_model("small_vgg28").module.state_dict()["conv1_1.0.weight"]
    other = load_model("small_vgg28", random_state=1).module.state_dict()["conv1_1.0.weight"]
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("small_vgg46", "Nearest: 'small_vgg64'"),
        ("resnet18", r"Is it torchvision:resnet18\?"),
        ("vit_tiny_patch16_224", r"Is it timm:vit_tiny_patch16_224\?"),
        ("runs/net.safetensors", "give it as `weights`"),
        ("torchvision:vgg61", "torchvision has no 'vgg61'. Nearest: .*'vgg16'"),
        ("timm:resnet5O", "timm has no 'resnet5O'. Nearest: .*'resnet50"),
        ("no_such_module:net", "cannot import 'no_such_module'"),
        ("torch.nn:Lineal", "no 'Lineal' for 'torch.nn:Lineal'"),
        ("builtins:dict", "expected a torch.nn.Module"),
        ("math:pi", "expected something callable"),
    ],
)
def test_unknown_networks_are_refused_with_the_nearest(spec: str, message: str) -> None:
    for package in ("timm", "torchvision"):
        if package in f"{spec} {message}":
            pytest.importorskip(package)
    with pytest.raises(ValueError, match=message):
        load_model(spec)


def test_an_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match=r"emergence_ext\[timm\]"):
        load_model("timm:resnet50")


@pytest.mark.parametrize(
    ("spec", "size"),
    [("torchvision:vit_b_32", 64), ("torchvision:swin_t", 64), ("torchvision:resnet18", 64)],
)
def test_a_network_is_built_for_the_size_that_is_asked_for(spec: str, size: int) -> None:
    pytest.importorskip("torchvision")
    module = load_model(spec, image_size=size, num_classes=3).module
    with torch.no_grad():
        assert module(torch.rand(1, 3, size, size)).shape == (1, 3)


@pytest.mark.parametrize(
    ("spec", "size", "fits"),
    [("torchvision:vit_b_32", 100, 96), ("torchvision:maxvit_t", 200, 224)],
)
def test_a_size_that_a_network_cannot_have_is_refused_with_one_that_it_can(
    spec: str, size: int, fits: int
) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=rf"for images of {size} pixels .*: --size {fits}$"):
        load_model(spec, image_size=size, num_classes=3)


def test_weights_of_another_size_are_refused_with_theirs() -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        state = models.vit_b_32(image_size=96, num_classes=3).state_dict()
        module = models.vit_b_32(image_size=64, num_classes=3)
    with pytest.raises(ValueError, match="was trained at 96 pixels: --size 96"):
        require_size(module, state, "own.pt", 64)


def test_a_module_of_the_users_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_own_network.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    default_layers = {'first': '0'}\n"
        "    default_preprocess = 'imagenet'\n"
        "def build(num_classes=2):\n"
        "    return Net(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))\n"
        "def plain():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    model = load_model("users_own_network:build", num_classes=7)
    assert model.layers == {"first": "0"} and model.preprocess == "imagenet"
    assert model.module(torch.rand(1, 3, 8, 8)).shape == (1, 7)
    assert load_model("users_own_network:plain", num_classes=7).layers == {}


_WRAPPED = """
import torch
from torch import nn
def net(num_classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes)
    )
def compiled(num_classes=3):
    return torch.compile(net(num_classes))
def parallel(num_classes=3):
    return nn.DataParallel(torch.compile(net(num_classes)))
def averaged(num_classes=3):
    return torch.optim.swa_utils.AveragedModel(net(num_classes))
def inside(num_classes=3):
    module = net(num_classes)
    module[0] = torch.compile(module[0])
    module[3] = nn.DataParallel(module[3])
    return module
def in_place(num_classes=3):
    module = net(num_classes)
    module.compile()
    return module
def fixed():
    return net(3)
def needs(channels, num_classes=3):
    return net(num_classes)
def must(num_classes):
    return net(num_classes)
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = net()
    def forward(self, x):
        return self.module(2 * x)
class Named(nn.Sequential):
    default_preprocess = staticmethod(abs)
"""


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "users_wrapped.py").write_text(_WRAPPED)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("sys").modules.pop("users_wrapped", None)
    return tmp_path


@pytest.mark.parametrize("name", ["compiled", "parallel", "averaged", "inside", "in_place"])
def test_what_torch_puts_around_a_network_is_taken_off(wrapped: Path, name: str) -> None:
    plain = load_model("users_wrapped:net", num_classes=5).module
    module = load_model(f"users_wrapped:{name}", num_classes=5).module
    assert list(module.state_dict()) == list(plain.state_dict())
    assert type(module) is nn.Sequential and module._compiled_call_impl is None
    torch.save(plain.state_dict(), wrapped / "w.pt")
    again = load_model(f"users_wrapped:{name}", weights=wrapped / "w.pt").module
    assert torch.equal(_logits(again, 8), _logits(plain, 8))


def test_a_module_of_the_users_with_a_child_of_that_name_stays(wrapped: Path) -> None:
    module = load_model("users_wrapped:Own").module
    assert type(module).__name__ == "Own" and next(iter(module.state_dict())) == "module.0.weight"


def test_a_number_of_outputs_that_a_network_does_not_take_is_told(
    wrapped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_model("users_wrapped:fixed", num_classes=5).module[3].out_features == 3
    assert "takes no num_classes" in caplog.text and "not the 5 asked for" in caplog.text
    caplog.clear()
    torch.save(load_model("users_wrapped:net", num_classes=5).module.state_dict(), wrapped / "w.pt")
    with pytest.raises(ValueError, match="with 5 outputs, and users_wrapped:fixed takes no number"):
        load_model("users_wrapped:fixed", weights=wrapped / "w.pt")
    load_model("users_wrapped:net", num_classes=5)
    assert "num_classes" not in caplog.text


def test_a_network_that_cannot_be_called_or_described_is_refused(wrapped: Path) -> None:
    with pytest.raises(ValueError, match="users_wrapped:needs cannot be called without channels"):
        load_model("users_wrapped:needs", num_classes=3)
    with pytest.raises(ValueError, match="cannot be called without num_classes"):
        load_model("users_wrapped:must")
    assert load_model("users_wrapped:must", num_classes=4).module[3].out_features == 4
    with pytest.raises(ValueError, match="default_preprocess must be a name"):
        load_model("users_wrapped:Named")


def _net(outputs: int = 3) -> nn.Module:
    return small_vgg(outputs, widths=(4, 6), depths=(1, 1), pools=1, hidden=5)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_half_precision_weights_are_converted(tmp_path: Path, suffix: str) -> None:
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in _net().state_dict().items()
    }
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    else:
        save_file(state, path)
    module = _net()
    assert load_weights(module, path) == []
    for name, value in module.state_dict().items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, state[name].to(value.dtype))


def test_a_checkpoint_of_another_network_is_named_as_that(tmp_path: Path) -> None:
    module = _net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = dict(module.state_dict())
    cases = {
        "1 missing .fc2.bias": {k: v for k, v in state.items() if k != "fc2.bias"},
        "1 unexpected .extra": {**state, "extra": torch.zeros(1)},
        r"2 wrong shape .fc2.weight \[4, 5\], expected \[3, 5\]": {
            **state,
            "fc2.weight": torch.zeros(4, 5),
            "fc2.bias": torch.zeros(4),
        },
        "'fc2.bias' .* NaN": {**state, "fc2.bias": torch.full((3,), torch.nan)},
    }
    for message, wrong in cases.items():
        save_file(wrong, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=message):
            load_weights(module, tmp_path / "w.safetensors")
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_head_may_be_missing_when_it_is_to_be_trained(tmp_path: Path) -> None:
    module = _net()
    convolutions = {k: v + 1 for k, v in module.state_dict().items() if k.startswith("conv")}
    save_file(convolutions, tmp_path / "w.safetensors")
    missing = load_weights(module, tmp_path / "w.safetensors", partial=True)
    assert missing == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert torch.equal(module.conv1_1[0].weight, convolutions["conv1_1.0.weight"])
    save_file({"other": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="another network"):
        load_weights(module, tmp_path / "w.safetensors", partial=True)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__("os").mkdir, ("harm-was-done",)


def test_weights_never_run_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Harmful()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="tensors alone"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x05.", b"\xff" * 64])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_weights_are_an_error_that_names_them(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name):
        read_weights(path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="state_dict"):
        read_weights(tmp_path / "list.pt")


def test_the_number_of_outputs_comes_from_the_weights(tmp_path: Path) -> None:
    save_file(dict(small_vgg28(4).state_dict()), tmp_path / "w.safetensors")
    model = load_model("small_vgg28", weights=tmp_path / "w.safetensors")
    assert model.module.fc2.out_features == 4
    with pytest.raises(ValueError, match="another network"):
        load_model("small_vgg28", num_classes=5, weights=tmp_path / "w.safetensors")


def _suggested(spec: str, size: int) -> list[str]:
    pytest.importorskip(spec.partition(":")[0])
    module = load_model(spec, num_classes=3).module
    return list(suggest_layers(module, torch.rand(1, 3, size, size)))


@pytest.mark.parametrize("size", [64, 112])
def test_stages_of_vgg_end_before_the_pooling(size: int) -> None:
    assert _suggested("torchvision:vgg16", size) == list(PAPER["torchvision:vgg16"].values())


def test_stages_of_residual_networks_are_whole_blocks() -> None:
    assert _suggested("torchvision:resnet18", 64) == [
        "relu",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]


def test_maps_with_channels_last_are_no_stage() -> None:
    names = _suggested("timm:convnext_atto", 64)
    assert names[:3] == ["stages.0", "stages.1", "stages.2"] and len(names) == 4


def test_transformers_are_divided_evenly() -> None:
    names = _suggested("timm:vit_tiny_patch16_224", 224)
    # The output depends on no patch after the last block, only on the class token.
    assert names == ["blocks.2", "blocks.4", "blocks.6", "blocks.8", "blocks.10"]


def test_suggesting_leaves_the_module_as_it_was() -> None:
    module = _net()
    module.train()
    module.conv1_1.eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [submodule.training for submodule in module.modules()]
    generator_state = torch.random.get_rng_state()
    suggest_layers(module, torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [submodule.training for submodule in module.modules()] == modes
    assert not any(submodule._forward_hooks for submodule in module.modules())
    assert torch.equal(torch.random.get_rng_state(), generator_state)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(ValueError, match="takes 3 channels"):
        suggest_layers(module, torch.rand(2, 5, 8, 8))
    assert not any(submodule._forward_hooks for submodule in module.modules())
    assert [submodule.training for submodule in module.modules()] == modes


def test_a_network_without_maps_has_no_layers_to_suggest() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match="no submodule gives a map"):
        suggest_layers(module, torch.rand(1, 3, 2, 2))


def test_real_convolutions_load(data_dir: Path) -> None:
    path = data_dir / "weights" / "vgg16_imagenet_conv.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}")
    module = vgg16_pooled()
    assert all(name.startswith("classifier.") for name in load_weights(module, path, partial=True))
