"""A user's network is called in one way: what it takes, what it gives, what it raises."""

from __future__ import annotations

import ast
import importlib
import logging
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import emergence_ext
from emergence_ext.data import ArraySamples
from emergence_ext.lookup import UserCodeError, load_callable, user_code
from emergence_ext.network import (
    classify,
    extract,
    first_logits,
    forward,
    inspect_model,
    load_model,
    logits,
    preprocess,
    recorder,
    select_output,
    suggest_layers,
)

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


class Gives(Net):
    """A network that gives what is made of its logits and features."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def forward(self, x):
        f = self.relu(self.conv(x)).mean((2, 3))
        return self.make(self.fc(f), f)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_described_and_extracted(
    dtype: torch.dtype, images: Tensor
) -> None:
    net = Net().to(dtype)
    x = images.clone().requires_grad_()
    z = classify(net, x)
    assert z.dtype == dtype
    z.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32 and x.grad.any()
    report = inspect_model(net, images[:1])
    assert report.head == "fc" and report.fields
    features = extract(net, ArraySamples(images, [0, 1, 2, 0], list("abc")), ["relu"])
    torch.testing.assert_close(features.z, Net.forward(net, images.to(dtype)).float())
    assert {p.dtype for p in net.parameters()} == {dtype}


def test_images_become_grey_for_a_network_of_one_channel(images: Tensor) -> None:
    net = Net(1)
    torch.testing.assert_close(classify(net, images), net((images * LUMA).sum(1, keepdim=True)))
    assert list(suggest_layers(net, images)) == ["relu"]
    x = images.clone().requires_grad_()
    classify(net, x).sum().backward()
    assert x.grad is not None and x.grad.shape == images.shape and x.grad.any()


def test_grey_images_are_repeated_for_a_network_of_three(images: Tensor) -> None:
    net = Net()
    grey = images[:, :1]
    torch.testing.assert_close(classify(net, grey), net(grey.repeat(1, 3, 1, 1)))


def test_a_network_of_four_channels_says_what_to_do(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"'conv' takes 4 channels.*images have 3.*`preprocess`"):
        classify(Net(4), images)


class Late(Net):
    """Its first convolution by name is not the one that meets the image."""

    def __init__(self) -> None:
        super().__init__()
        own = dict(self.named_children())
        for name in own:
            delattr(self, name)
        self.gate = nn.Conv2d(1, 1, 1)
        for name, part in own.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        return self.fc((x * self.gate(x.mean(1, keepdim=True))).mean((2, 3)))


class MakesGrey(Net):
    """It takes three channels and makes one of them by itself."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :1] + x[:, 1:2] + x[:, 2:])


@pytest.mark.parametrize("make", [Late, MakesGrey])
def test_the_convolution_that_meets_the_image_decides(make: type[Net], images: Tensor) -> None:
    net = make()
    torch.testing.assert_close(classify(net, images), net(images))


def test_looking_for_the_first_convolution_is_seen_by_nobody(images: Tensor) -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), Late()).train()
    before = net[0].running_mean.clone()
    with recorder(net, ["0", "1.relu"]) as record:
        classify(net, images)
    assert set(record.outputs) == {"0", "1.relu"}
    assert torch.equal(net[0].running_mean, before) and net.training


Pair = namedtuple("Pair", ["features", "logits"])  # as torchvision makes them


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    hidden: tuple[Tensor, ...]


FORMS = {
    "tensor": lambda z, f: z,
    "1x1 map": lambda z, f: z[..., None, None],
    "tuple": lambda z, f: (z, f),
    "list after a map": lambda z, f: [f[..., None, None].expand(-1, -1, 2, 2), z],
    "dict by name": lambda z, f: {"features": f, "logits": z},
    "dict, first": lambda z, f: {"out": z, "aux": f},
    "ordered dict": lambda z, f: OrderedDict(loss=None, logits=z),
    "named tuple": lambda z, f: Pair(f, z),
    "dataclass": lambda z, f: Output(None, z, (f, f)),
    "nested": lambda z, f: ({"head": z}, f),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_found_in_what_a_network_gives(form: str, images: Tensor) -> None:
    net = Gives(FORMS[form])
    expected = net.fc(net.relu(net.conv(images)).mean((2, 3)))
    torch.testing.assert_close(first_logits(net, images), expected)
    samples = ArraySamples(images, [0, 1, 2, 0], list("abc"))
    torch.testing.assert_close(extract(net, samples, ["relu"]).z, expected.detach())
    assert inspect_model(net, images[:2]).head_gives_output


def test_which_of_several_is_taken_is_said_once(
    images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    net = Gives(lambda z, f: {"first of all": z, "another": f})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            classify(net, images)
    assert caplog.text.count("'first of all' is taken") == 1


@pytest.mark.parametrize("name", ["b", "2", "c.0"])
def test_an_output_is_chosen_by_key_field_or_index(name: str, images: Tensor) -> None:
    def make(z: Tensor, f: Tensor):
        return (f, f, z) if name == "2" else {"a": f, "b": z, "c": [z, f]}

    net = Gives(make)
    select_output(net, name)
    assert classify(net, images).shape == (4, 3)
    broken = Gives(make)
    select_output(broken, "nothing")
    with pytest.raises(ValueError, match=r"output: no 'nothing' .* it has "):
        classify(broken, images)


@pytest.mark.parametrize(
    "make", [lambda z, f: None, lambda z, f: z[:, 0], lambda z, f: (z[:1],), lambda z, f: {"y": 1}]
)
def test_what_holds_no_logits_is_refused(make, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"module: expected logits \[4, C\]"):
        classify(Gives(make), images)


class Raises(Net):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("wrong\nsize"),
        AttributeError("no such thing"),
        KeyError("logits"),
        IndexError(),
        NameError("x"),
        ZeroDivisionError("by zero"),
        RuntimeError("shapes"),
        NotImplementedError(),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_network_raises_is_told_with_its_place(error: BaseException, images: Tensor) -> None:
    with pytest.raises(UserCodeError) as told:
        forward(Raises(error), images)
    text = str(told.value)
    assert text.startswith("model: tests/network/test_calling.py:") and "\n" not in text
    assert f" in forward: {type(error).__name__}" in text
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError()])
def test_what_is_no_fault_of_the_network_comes_as_it_is(
    error: BaseException, images: Tensor
) -> None:
    with pytest.raises(type(error)):
        forward(Raises(error), images)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x: x[0], r"\[3, 8, 8\]"),
        (lambda x: x[:1], r"\[1, 3, 8, 8\]"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: None, "NoneType"),
    ],
)
def test_what_is_no_batch_of_images_is_told_of_the_preprocessing(
    function, got: str, images: Tensor
) -> None:
    with pytest.raises(ValueError, match=rf"^preprocess: expected a tensor \[4, .*, got {got}"):
        preprocess(function)(images)


def test_what_torch_raises_under_a_mode_that_watches_is_the_networks_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3).half(), nn.Flatten())
    with pytest.raises(UserCodeError, match=r"^model: RuntimeError: Input type"):
        inspect_model(net, torch.rand(1, 3, 8, 8))


def test_a_single_output_says_how_to_make_two_of_it(images: Tensor) -> None:
    two = ArraySamples(images, [0, 1, 0, 1], ["a", "b"])
    net = Gives(lambda z, _: z[:, :1])
    with pytest.raises(ValueError, match=r"one output, .*cat\(\[torch.zeros_like\(z\), z\], 1\)"):
        extract(net, two, ["relu"])
    net.make = lambda z, _: torch.cat([torch.zeros_like(z[:, :1]), z[:, :1]], 1)
    assert extract(net, two, ["relu"]).z.shape == (4, 2)


def test_what_torch_raises_is_the_networks_too(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7, 3))
    with pytest.raises(UserCodeError, match="model: RuntimeError: mat1 and mat2 shapes"):
        classify(net, images)


class OneSize(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 32, "wrong size"
        return super().forward(x)


def test_the_size_that_a_network_takes_is_named(images: Tensor) -> None:
    with pytest.raises(UserCodeError, match="wrong size") as told:
        first_logits(OneSize(), images)
    assert told.value.advice == "It takes images of 32 x 32 pixels (`size` 32)."


def test_a_quantised_network_is_refused(images: Tensor) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="'fc' is quantised"):
        first_logits(quantised, images)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def net(:\n", "model: mine_{n}.py:1: SyntaxError: invalid syntax"),
        (
            "import sys\nsys.exit('no GPU')\n",
            "model: mine_{n}.py:2 in <module>: SystemExit: no GPU",
        ),
        ("x = 1 / 0\n", "model: mine_{n}.py:1 in <module>: ZeroDivisionError"),
        ("net = undefined\n", "model: mine_{n}.py:1 in <module>: NameError"),
        ("from os import nothing_there\n", "model: mine_{n}.py:1 in <module>: ImportError"),
        ("import not_there_at_all\n", "model: cannot import 'not_there_at_all'"),
        ("net = 3\n", "is a int, expected something callable"),
        ("def nett(): ...\n", "Nearest: 'nett'"),
        ("def net():\n    return {}['a']\n", "model: mine_{n}.py:2 in net: KeyError: 'a'"),
        ("def net():\n    raise SystemExit\n", "model: mine_{n}.py:2 in net: SystemExit"),
    ],
)
def test_what_a_module_or_builder_raises_is_told_with_its_place(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    number = abs(hash(source))
    (tmp_path / f"mine_{number}.py").write_text(source)
    with pytest.raises(ValueError) as told:
        load_model(f"mine_{number}:net", num_classes=3)
    assert said.format(n=number) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("spec", ["./mine.py:net", "a/b.py:net", "mine.py:net", "/x/mine:net"])
def test_a_path_is_told_how_to_write_it(spec: str) -> None:
    with pytest.raises(ValueError, match=r"expected module:callable .*: (mine|b):net\."):
        load_callable(spec, "model")


@pytest.mark.parametrize("spec", ["mine:", ":net", "a:b:c", "a..b:net", "a:3"])
def test_what_is_no_name_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="expected module:callable"):
        load_callable(spec, "preprocess")


instance = Net()


def test_a_network_that_is_there_is_copied(images: Tensor) -> None:
    own = importlib.import_module("tests.network.test_calling").instance
    loaded = load_model("tests.network.test_calling:instance").module
    assert loaded is not own
    torch.testing.assert_close(loaded(images), own(images))


def test_errors_of_this_package_in_the_block_come_as_they_are(images: Tensor) -> None:
    net = nn.Sequential(part := nn.Conv2d(3, 3, 1), part)
    with pytest.raises(ValueError, match="runs more than once") as told, recorder(net, ["0"]):
        forward(net, images)
    assert not isinstance(told.value, UserCodeError)
    with pytest.raises(UserCodeError), user_code("preprocess"):
        raise KeyError("x")


def test_nothing_calls_a_network_in_another_way() -> None:
    """Names that networks go by in this package, called; see the head of calling.py."""
    package = Path(emergence_ext.__file__).parent
    names = {"module", "net", "teacher", "student", "trained", "model"}
    wrong = []
    for file in package.rglob("*.py"):
        if file.name == "calling.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = getattr(called, "id", None) or getattr(called, "attr", None)
            inner = getattr(getattr(called, "value", None), "id", "")
            if name in names and inner in ("", "self", "subject", "part", "loaded"):
                wrong.append(f"{file.relative_to(package)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_logits_alone_need_no_count() -> None:
    assert logits((None, torch.zeros(2, 3))).shape == (2, 3)
