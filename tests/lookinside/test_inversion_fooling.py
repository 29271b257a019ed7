"""Inversion of codes, fooling images, their figures and sheets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emergence_ext import figures
from emergence_ext.data.samples import ArraySamples
from emergence_ext.lookinside.fooling import fool
from emergence_ext.lookinside.inversion import invert
from emergence_ext.network.models import load_model
from emergence_ext.render import maps_of, noise
from emergence_ext.report.look import Scene, Sheet
from emergence_ext.report.look.fooling import fooling
from emergence_ext.report.look.inversion import inversion
from emergence_ext.run.finished import FinishedRun
from emergence_ext.run.subject import Subject
from tests.render.test_render import Net
from tests.tiny_networks import in_a_dict


class Colours(nn.Module):
    """Says which colour an image has the most of."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.sharpness * images.mean(dim=(2, 3))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    # Smooth, as the prior of the inversion expects it.
    rough = torch.rand(3, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(rough, 12, mode="bilinear")


def test_a_code_is_inverted_and_its_error_is_that_of_the_images(net: Net, images: Tensor) -> None:
    before = {name: x.clone() for name, x in net.state_dict().items()}
    found = invert(net, "conv1", images, steps=150, batch_size=2)
    assert found.images.shape == images.shape and found.losses.shape == (150, 3)
    assert (found.error < 0.1).all() and (found.start_error > 0.3).all()
    F, F0 = (maps_of(net, ["conv1"], x)["conv1"].flatten(1) for x in (found.images, images))
    torch.testing.assert_close(found.error, (F - F0).norm(dim=1) / F0.norm(dim=1))
    # An early layer knows the pixels themselves.
    assert (found.images - images).abs().mean() < 0.05
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    same = invert(net, "conv1", images[1:2], steps=150, random_state=1)
    torch.testing.assert_close(same.images, found.images[1:2], atol=1e-3, rtol=0)


def test_a_smoother_inversion_is_farther_from_the_code(net: Net, images: Tensor) -> None:
    errors = [
        float(invert(net, "conv2", images, steps=60, variation_weight=w).error.mean())
        for w in (0.5, 50.0)
    ]
    assert errors[0] < errors[1]


def test_a_dead_code_or_no_image_is_refused(net: Net, images: Tensor) -> None:
    with torch.no_grad():
        net.conv2.bias.fill_(-100)
    with pytest.raises(ValueError, match="may be dead"):
        invert(net, "relu2", images, steps=1)
    with pytest.raises(ValueError, match=r"images: expected images \[n, channels, H, W\]"):
        invert(net, "conv1", images[0])
    with pytest.raises(ValueError, match=r"images: .* divide by 255"):
        invert(net, "conv1", images.byte())
    with pytest.raises(ValueError, match="expected a map"):
        invert(net, "head", images)


def test_the_network_is_fooled_and_what_was_added_is_told(images: Tensor) -> None:
    net = Colours()
    target = torch.tensor([0, 1, 2])
    found = fool(net, images, target, confidence=0.9, batch_size=2)
    assert found.fooled.all() and (found.reached >= 0.9).all()
    with torch.no_grad():
        p = net(found.images).softmax(1)
    torch.testing.assert_close(found.after, p)
    # What is told as added is what fools, and no more than the steps can have added.
    with torch.no_grad():
        torch.testing.assert_close(net(images + found.perturbation).softmax(1), p)
    rms = found.norms()["root mean square"]
    assert (rms > 0).all() and (rms <= found.steps * 0.5 / 255 + 1e-6).all()
    norms, flat = found.norms(), (found.images - images).flatten(1)
    torch.testing.assert_close(norms["L2"], flat.square().sum(1).sqrt())
    torch.testing.assert_close(norms["L-infinity"], flat.abs().max(1).values)
    # An image that is sure already is left alone.
    again = fool(net, found.images, target, confidence=0.9)
    assert again.steps.tolist() == [0, 0, 0] and torch.equal(again.images, found.images)
    less = fool(net, images, target, confidence=0.5)
    assert (less.steps <= found.steps).all() and less.norms()["L2"].sum() < norms["L2"].sum()


def test_noise_fools_too_and_few_steps_do_not() -> None:
    start = noise(2, 3, 10)
    assert not fool(Colours(), start, 1, steps=1).fooled.any()
    found = fool(Colours(), start, 1)
    assert found.fooled.all()
    # The shortest way: only the colour that is aimed at rises, and others fall as they must.
    added = found.perturbation.mean(dim=(2, 3))
    assert (added[:, 1] > 0).all() and (added[:, [0, 2]] < 0).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": 3}, r"target: .* 0\.\.2"),
        ({"target": torch.tensor([0, 1])}, "target: .* one for each of the 3"),
        ({"confidence": 1.0}, "confidence"),
        ({"batch_size": 0}, "batch_size"),
        ({"start": torch.zeros(3, 4, 4)}, r"start: expected images \[n, channels, H, W\]"),
        ({"start": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, "start: .* divide by 255"),
    ],
)
def test_fooling_refuses(net: Net, images: Tensor, changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fool(net, **{"start": images, "target": 0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [2.0, True, torch.tensor([0.0, 1.0, 2.0]), "a"])
def test_fooling_refuses_a_target_that_is_no_integer(
    net: Net, images: Tensor, target: object
) -> None:
    with pytest.raises(TypeError):
        fool(net, images, target)  # type: ignore[arg-type]


def test_fooling_needs_two_classes(net: Net, images: Tensor) -> None:
    net.head = nn.Linear(5, 1)
    with pytest.raises(ValueError, match="two classes at least, got C=1"):
        fool(net, images, 0)


def test_fooling_needs_logits(images: Tensor) -> None:
    with pytest.raises(ValueError, match="expected logits"):
        fool(in_a_dict(), images, 0)


def test_figures_take_grey_images_and_refuse_more_channels_than_can_be_shown() -> None:
    grey, p = torch.rand(2, 1, 6, 8), torch.eye(3)[:2]
    drawn = figures.inversions(grey, [grey, grey], torch.rand(2, 2), ["a", "b"])
    assert len(drawn.axes) == 6
    assert len(figures.fooling(grey, grey, p, p, [0, 2], ["a", "b", "c"]).axes) == 6
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        figures.inversions(torch.rand(2, 4, 6, 6), [], torch.rand(0, 2), ["a"])
    with pytest.raises(ValueError, match="inverted must hold L=2"):
        figures.inversions(grey, [grey], torch.rand(2, 2), ["a", "b"])


@pytest.fixture
def scene(finished_run: Path) -> Scene:
    run = FinishedRun.open(finished_run)
    return Scene(run.subject(), [0, 17, 33], ["conv1_1", "conv2_1"], run)


def test_the_sheets_are_made_from_a_subject(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(sheet: Sheet, rows: int) -> None:
        assert sheet.figures and sheet.notes
        assert [len(table) for table in sheet.tables.values()] == [rows]

    monkeypatch.setattr("emergence_ext.lookinside.inversion.invert.__kwdefaults__", {
        **invert.__kwdefaults__, "steps": 5,  # type: ignore[dict-item]
    })  # fmt: skip
    check(inversion(scene), 6)
    sheet = fooling(scene)
    check(sheet, 6)
    row = sheet.tables["fooling"][0]
    assert row["from"] == "image" and row["target"] != row["network says before"]
    assert row["p(target) after"] > row["p(target) before"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (invert, fool):
        monkeypatch.setattr(
            function, "__kwdefaults__", {**(function.__kwdefaults__ or {}), "steps": 20}
        )


def planted(net: nn.Module, images: Tensor) -> Scene:
    samples = ArraySamples(images, [0, 1, 2], ["red", "green", "blue"])
    return Scene(Subject(net, {"first": "conv1"}, samples), [0, 1], ["first"])


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.usefixtures("few_steps")
def test_the_sheets_show_images_of_any_number_of_channels(channels: int) -> None:
    scene = planted(Net(channels), noise(3, channels, 8))
    assert inversion(scene).figures
    assert f"mean of the {channels} channels" in fooling(scene).notes[-1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.usefixtures("few_steps")
def test_the_sheets_take_networks_of_any_precision(
    dtype: torch.dtype, net: Net, images: Tensor
) -> None:
    scene = planted(net.to(dtype), images)
    (row, *_) = inversion(scene).tables["inversion"]
    assert 0 < row["relative code error"] < row["of the noise it starts from"]
    assert all(
        row["p(target) after"] > row["p(target) before"] for row in fooling(scene).tables["fooling"]
    )
    assert {p.dtype for p in scene.subject.module.parameters()} == {dtype}


@pytest.mark.parametrize("sheet", [inversion, fooling])
def test_the_sheets_refuse_images_of_several_sizes(sheet: Callable[[Scene], Sheet]) -> None:
    class Sizes(ArraySamples):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            image, label = super().__getitem__(index)
            return image[:, index:], label

    scene = planted(Net(), torch.rand(3, 3, 8, 8))
    several = Sizes(torch.rand(3, 3, 8, 8), [0, 1, 2], ["red", "green", "blue"])
    with pytest.raises(ValueError, match="images: expected one size"):
        sheet(replace(scene, subject=replace(scene.subject, dataset=several)))


@pytest.mark.parametrize("sheet", [inversion, fooling])
def test_the_sheets_leave_the_network_where_it_was(
    sheet: Callable[[Scene], Sheet], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emergence_ext.network.forward_pass.device_named", torch.device)
    moves: list[str] = []

    class Still(Net):
        def to(self, *arguments: object, **_: object) -> Still:
            moves.append(str(arguments[0]))
            return self

    scene = planted(Still(), images)
    scene = replace(scene, subject=replace(scene.subject, device="meta"))
    # There is nothing to compute with on that device, so that the sheet ends in an error.
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        sheet(scene)
    assert moves == ["meta", "cpu"]


@pytest.mark.slow
def test_the_code_of_conv3_3_of_vgg16_is_inverted_below_0_15(data_dir: Path) -> None:
    from emergence_ext.data.folders import ImageFolder
    from emergence_ext.network.preprocessing import preprocess
    from emergence_ext.network.weights import load_weights

    net = load_model("vgg16_pooled")
    weights = data_dir / "weights" / "vgg16_imagenet_conv.safetensors"
    load_weights(net.module, weights, partial=True)
    dataset = ImageFolder(data_dir / "tiny-imagenet-10", split="val", size=112, per_class=1)
    images = torch.stack([dataset[i][0] for i in (1, 5)])
    found = invert(net.module, net.layers["conv3_3"], images, preprocess=preprocess(net.preprocess))
    assert (found.error < 0.15).all()
