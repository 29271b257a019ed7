"""Occlusion: what a window or region hides, exactly, and against captum where both say the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emergence_ext import figures
from emergence_ext.lookinside.occlusion import occlusion, region_occlusion, window_and_stride
from emergence_ext.report.look.occlusion import occlusion as sheet
from emergence_ext.report.look.sheet import Scene
from emergence_ext.run.finished import FinishedRun
from emergence_ext.studies.shapley import shapley
from tests import tiny_networks


class Corners(nn.Module):
    """Logits are the sums of the upper left and of the lower right quarter of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(x)
        half = x.shape[2] // 2
        return torch.stack([x[:, 0, :half, :half], x[:, 0, half:, half:]], 1).sum(dim=(2, 3))


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_networks.three().double().eval()


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64)


def test_a_window_takes_away_what_it_covers() -> None:
    found = occlusion(Corners(), torch.ones(1, 1, 4, 4), 0, sliding_window_shapes=2)
    # Windows at 0, 1 and 2 in both directions; the quarter of the class ends at 2.
    expected = torch.tensor([[4.0, 2, 0], [2, 1, 0], [0, 0, 0]])
    assert torch.equal(found.loss[0], expected)
    assert torch.equal(found.z[0], 4 - expected)
    assert found.boxes[1, 2].tolist() == [1, 2, 3, 4]
    other = torch.tensor([[4.0, 4, 4], [4, 3, 2], [4, 2, 0]])
    assert torch.allclose(found.p[0], torch.sigmoid(found.z[0] - other))
    assert torch.allclose(found.log_odds[0], found.z[0] - other)
    assert torch.allclose(found.loss_of_odds[0], other - found.z[0])


def test_the_last_window_is_cut_off_by_the_border() -> None:
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(20, 2)), torch.ones(1, 1, 4, 5)
    found = occlusion(network, x, 0, sliding_window_shapes=(4, 2), strides=(4, 2))
    assert found.p.shape == (1, 1, 3)
    assert found.boxes[0].tolist() == [[0, 0, 4, 2], [0, 2, 4, 4], [0, 4, 4, 5]]


def test_log_odds_say_what_a_sure_network_hides() -> None:
    found = occlusion(Corners(), 100 * torch.ones(1, 1, 4, 4), [0], sliding_window_shapes=2)
    assert found.p_whole == 0.5 and found.p[0, 2, 2] == 1
    assert found.loss_of_odds[0, 0, 0] == 400 and found.loss_of_odds[0, 2, 2] == -400


@pytest.mark.parametrize("strides", [4, 2, 3])
@pytest.mark.parametrize("baseline", [0.0, "image"])
def test_averaged_over_windows_it_is_captums_own(network, images, strides, baseline) -> None:
    attr = pytest.importorskip("captum.attr")
    network, images = network.float(), images.float()  # captum's weights of windows are
    fill = images.flip(0) if baseline == "image" else baseline
    target = torch.tensor([2, 0, 1])
    found = occlusion(
        network, images, target, sliding_window_shapes=4, strides=strides, baselines=fill
    )
    theirs = attr.Occlusion(lambda x: network(x).softmax(1)).attribute(
        images,
        sliding_window_shapes=(3, 4, 4),
        strides=(3, strides, strides),
        baselines=fill,
        target=target,
    )
    total, count = torch.zeros(3, 16, 16), torch.zeros(16, 16)
    for place, (top, left, bottom, right) in enumerate(found.boxes.flatten(0, 1).tolist()):
        lost = found.p_whole - found.p.flatten(1)[:, place]
        total[:, top:bottom, left:right] += lost[:, None, None]
        count[top:bottom, left:right] += 1
    assert torch.allclose(total / count, theirs.detach()[:, 0], atol=1e-6)
    if strides == 4:  # without overlap every pixel has one window, and both are the same
        assert count.max() == 1


def test_what_an_image_gets_does_not_depend_on_batches(network, images) -> None:
    whole = occlusion(network, images, 1, sliding_window_shapes=5, perturbations_per_eval=64)
    parts = occlusion(network, images[1:2], 1, sliding_window_shapes=5, perturbations_per_eval=7)
    assert torch.allclose(whole.p[1:2], parts.p, atol=1e-12)


def test_a_region_is_zero_in_all_channels() -> None:
    x = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    found = region_occlusion(Corners(), "maps", x, 0, (2, 2))
    assert found.loss.tolist() == [[[1 + 2 + 5 + 6, 0], [0, 0]]]
    assert found.boxes[1, 0].tolist() == [2, 0, 4, 2]
    own = region_occlusion(Corners(), "maps", x, 0)
    assert torch.equal(own.loss[0, :2, :2], x[0, 0, :2, :2]) and own.loss.shape == (1, 4, 4)


def test_the_values_of_regions_of_a_linear_part_are_those_of_shapley(network, images) -> None:
    """Above an average a logit is a sum over regions: each order of hiding says the same."""
    below = nn.Sequential(network.conv1_1, network.conv2_1)
    linear = nn.Sequential(below, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).double()
    found = region_occlusion(linear, "0", images, [0, 1, 2])
    empty = linear[3].bias[[0, 1, 2]]
    assert torch.allclose(found.loss.sum((1, 2)), found.z_whole - empty, atol=1e-12)


def test_the_network_comes_back_as_it_was(network, images) -> None:
    network.train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    state = torch.random.get_rng_state()
    occlusion(network, images, 0, sliding_window_shapes=8)
    region_occlusion(network, "conv2_1", images, 0, (2, 2))
    assert network.training and torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], x) for name, x in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sliding_window_shapes": 17}, "sliding_window_shapes: expected 1..16"),
        ({"sliding_window_shapes": (3, 4, 4)}, "sliding_window_shapes: expected pixels or"),
        ({"strides": 5}, "strides: expected 1..4"),
        ({"strides": 0}, "strides: expected 1..4"),
        ({"baselines": torch.zeros(7)}, "baselines: expected a number or a tensor"),
        ({"perturbations_per_eval": 0}, "perturbations_per_eval: expected at least 1"),
        ({"target": 3}, r"target: the network has outputs 0..2, got 3"),
        ({"target": -1}, r"target: the network has outputs 0..2"),
        ({"target": [0, 1]}, "target: expected one integer, or one for each of the 3"),
        ({"inputs": torch.zeros(3, 16, 16)}, "inputs: expected floating-point images"),
        ({"inputs": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, "got uint8"),
    ],
)
def test_what_does_not_fit_is_named(network, images, given, message) -> None:
    values = {"inputs": images, "target": 0, "sliding_window_shapes": 4, **given}
    with pytest.raises(ValueError, match=message):
        occlusion(network, **values)


@pytest.mark.parametrize("kind", ["dict", "maps"])
def test_a_network_without_logits_is_refused(kind) -> None:
    with pytest.raises(ValueError, match=r"expected logits .* Wrap the network"):
        occlusion(tiny_networks.Odd(kind), torch.rand(1, 3, 8, 8), 0, sliding_window_shapes=2)


def test_values_that_are_not_finite_and_single_outputs_are_refused() -> None:
    red = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="not finite"):
        occlusion(tiny_networks.Odd("nan"), red, 0, sliding_window_shapes=2)
    one = tiny_networks.one_output()
    with pytest.raises(ValueError, match="one output alone"):
        occlusion(one, torch.rand(1, 3, 16, 16), 0, sliding_window_shapes=4)


def test_layers_without_enough_regions_are_refused(network, images) -> None:
    with pytest.raises(ValueError, match="smaller than the grid"):
        region_occlusion(network, "conv2_1", images, 0, (17, 17))
    with pytest.raises(TypeError, match="target: expected integers"):
        region_occlusion(network, "conv2_1", images, torch.zeros(3))


def test_a_window_of_an_eighth_has_fifteen_positions() -> None:
    assert [window_and_stride(side) for side in (224, 112, 64, 28, 4)] == [
        (28, 14),
        (14, 7),
        (8, 4),
        (4, 2),
        (1, 1),
    ]


@pytest.fixture
def scene(finished_run: Path, tmp_path: Path) -> Scene:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    run = FinishedRun.open(folder)
    subject = run.subject()
    return Scene(subject, [0, 20, 40], list(subject.layers), run)


def test_a_sheet_stands_beside_w_and_shapley_values(scene: Scene) -> None:
    pytest.importorskip("captum")
    plain = sheet(scene)
    assert set(plain.figures) == {"windows", "regions_conv1_1", "regions_conv2_1"}
    assert all(row["Spearman with Shapley"] is None for row in plain.tables["regions"])
    assert all(-1 <= row["Spearman with w"] <= 1 for row in plain.tables["regions"])
    assert scene.run is not None
    found = shapley(scene.subject, scene.run.emergence, ["conv2_1"], 3, samples=32)
    found.save(scene.run.folder / "shapley" / "shapley")
    rows = sheet(replace(scene, layers=["conv2_1"])).tables["regions"]
    assert all(-1 <= row["Spearman with Shapley"] <= 1 for row in rows) and len(rows) == 3
    assert {row["image"] for row in rows} <= set(found.names)


def test_a_layer_without_maps_leaves_the_windows(scene: Scene) -> None:
    subject = replace(scene.subject, layers={"fc": "fc2"})
    made = sheet(Scene(subject, [1], ["fc"]))
    assert set(made.figures) == {"windows"} and not made.tables.get("regions")
    assert "fc has no regions: features: layer 'fc2' gives shape [8, 3]" in made.notes[1]


def test_choices_of_the_user_are_taken(scene: Scene) -> None:
    chosen = Scene(scene.subject, [1], ["conv2_1"], choices={"window": 8, "stride": 4, "fill": 0})
    made = sheet(chosen)
    assert "8 x 8 pixels with a stride of 4: 3 x 3 positions, filled with 0" in made.notes[0]
    wrong = {"fill": 2, "window": 17, "stride": 3}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            sheet(Scene(scene.subject, [1], ["conv2_1"], choices={name: value}))


def test_grey_and_many_channels(generator) -> None:
    for channels in (1, 5):
        network = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        )
        x = torch.rand(2, channels, 28, 28, generator=generator)
        network(x)
        assert occlusion(network, x, 1, sliding_window_shapes=7).p.shape == (2, 8, 8)


def test_figures_refuse_shapes_that_do_not_fit() -> None:
    n = {"images": torch.rand(2, 3, 8, 8), "p_whole": torch.ones(2), "labels": [0, 1]}
    boxes = torch.zeros(3, 3, 4)
    maps = torch.rand(2, 3, 3)
    with pytest.raises(ValueError, match="occlusion_maps: loss must be"):
        figures.occlusion_maps(**n, p=maps, loss=maps[:, :2], boxes=boxes, categories=["a", "b"])
    with pytest.raises(ValueError, match="grid 2 x 2"):
        figures.occlusion_regions(n["images"], torch.rand(2, 9), {}, (2, 2), [0, 1], ["a", "b"])
