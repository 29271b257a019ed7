"""Receptive fields against networks worked out by hand and published sizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from emergence_ext.network.builtin import vgg16_pooled
from emergence_ext.network.hooks import recorder
from emergence_ext.network.receptive import receptive_field, region_boxes


class Residual(nn.Module):
    """A strided block whose shortcut sees 1 pixel and whose body sees 3 + 2 * 2 = 7."""

    def __init__(self, stride=2, activation=functional.relu):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=stride, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 4, 1, stride=stride)
        self.out = nn.Identity()
        self.fc = nn.Linear(4, 3)
        self.activation = activation

    def forward(self, x):
        y = self.conv2(self.activation(self.norm(self.conv1(x))))
        y += self.shortcut(x)
        return self.fc(self.out(functional.relu(y)).mean(dim=(2, 3)))


class Stack(nn.Module):
    def __init__(self, *parts, channels=3):
        super().__init__()
        self.body = nn.Sequential(*parts)
        self.fc = nn.LazyLinear(2)

    def forward(self, x):
        return self.fc(self.body(x).flatten(1))


HAND = {
    # name: (parts, input, grid, size, stride, offset)
    "valid": ([nn.Conv2d(3, 2, 3)], 10, 8, 3, 1, 0),
    "same": ([nn.Conv2d(3, 2, 5, padding="same")], 12, 12, 5, 1, -2),
    "dilated": ([nn.Conv2d(3, 2, 3, dilation=2)], 12, 8, 5, 1, 0),
    "depthwise": ([nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 3, groups=2)], 12, 8, 5, 1, 0),
    "strided": ([nn.Conv2d(3, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, 2, 1)], 32, 8, 7, 4, -3),
    "max_pool": ([nn.Conv2d(3, 2, 3, padding=1), nn.MaxPool2d(2)], 16, 8, 4, 2, -1),
    "overlapping_pool": ([nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)], 24, 12, 7, 2, -3),
    "avg_pool": ([nn.AvgPool2d(4), nn.Conv2d(3, 2, 1)], 16, 4, 4, 4, 0),
    "transposed": ([nn.ConvTranspose2d(3, 2, 3), nn.Conv2d(2, 2, 3)], 12, 12, 5, 1, -2),
    "patches": ([nn.Conv2d(3, 5, 8, stride=8)], 16, 2, 8, 8, 0),
}


@pytest.mark.parametrize("name", HAND)
def test_small_networks_worked_out_by_hand(name):
    parts, side, grid, size, stride, offset = HAND[name]
    field = receptive_field(Stack(*parts), "body", side)
    assert field.grid == (grid, grid)
    assert field.size == (size, size)
    assert field.stride == (stride, stride)
    assert field.offset == (offset, offset)
    for i in range(grid):
        start = offset + stride * i
        top, left, bottom, right = field.box(i, 0)
        assert (top, bottom) == (max(0, start), min(side, start + size))
        assert (left, right) == (max(0, offset), min(side, offset + size))


@pytest.mark.parametrize(
    "activation", [functional.relu, functional.silu, torch.tanh, lambda x: x * torch.sigmoid(x)]
)
def test_a_residual_block_sees_what_its_widest_branch_sees(activation):
    field = receptive_field(Residual(activation=activation), "out", (32, 48))
    assert field.grid == (16, 24)
    assert field.size == (7, 7) and field.stride == (2, 2) and field.offset == (-3, -3)
    assert field.box(5, 8) == (7, 13, 14, 20)
    assert field.box(0, 23) == (0, 43, 4, 48)


def test_perturbing_pixels_moves_a_region_exactly_inside_its_box():
    """The boxes against the network itself, at every pixel, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            Stack(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 2, 1)).body
        ).double()
        image = torch.rand(1, 3, 16, 12, dtype=torch.float64)
    field = receptive_field(net, "0", (16, 12))
    moved = torch.zeros(*field.grid, 16, 12, dtype=torch.bool)
    for row in range(16):
        for col in range(12):
            for change in (5.0, -5.0):  # up and down, so that a maximum notices
                other = image.clone()
                other[0, :, row, col] += change
                with torch.no_grad():
                    difference = (net(other) - net(image)).abs().amax(dim=1)[0]
                moved[:, :, row, col] |= difference > 0
    for row in range(field.grid[0]):
        for col in range(field.grid[1]):
            top, left, bottom, right = field.box(row, col)
            inside = torch.zeros(16, 12, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            seen = moved[row, col].nonzero()
            assert not (moved[row, col] & ~inside).any()
            assert seen.amin(dim=0).tolist() == [top, left]
            assert seen.amax(dim=0).tolist() == [bottom - 1, right - 1]


@pytest.mark.parametrize(
    ("layer", "side", "grid", "size", "stride"),
    [
        ("features.3", 112, 112, 5, 1),
        ("features.8", 112, 56, 14, 2),
        pytest.param("features.29", 224, 14, 196, 16, marks=pytest.mark.slow),
    ],
)
def test_vgg16_has_its_published_fields(layer, side, grid, size, stride):
    """Conv1_2, conv2_2 and conv5_3 (Simonyan and Zisserman, 2015)."""
    field = receptive_field(vgg16_pooled(), layer, side)
    assert field.grid == (grid, grid)
    assert field.size == (size, size) and field.stride == (stride, stride)


@pytest.mark.parametrize(
    ("name", "layer", "size", "stride"),
    [
        ("resnet18", "layer4", 435, 32),
        ("resnet34", "layer4", 899, 32),
        ("mobilenet_v2", "features.18", 491, 32),
    ],
)
def test_fields_larger_than_the_image_are_measured_beyond_it(name, layer, size, stride):
    """Sizes of Araujo, Norris and Sim (Distill, 2019); a region then sees the whole image."""
    torchvision = pytest.importorskip("torchvision")
    field = receptive_field(getattr(torchvision.models, name)(), layer, 64)
    assert field.size == (size, size) and field.stride == (stride, stride)
    assert field.box(1, 1) == (0, 0, 64, 64)


def test_depth_neither_overflows_nor_underflows():
    parts = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(120)]
    net = Stack(nn.Conv2d(3, 2, 1), *parts)
    assert receptive_field(net, "body", 16).size == (241, 241)


def test_a_network_of_fixed_input_size_is_measured_as_far_as_it_goes():
    net = Stack(nn.Conv2d(3, 2, 5, padding=2), nn.Conv2d(2, 2, 5, padding=2))
    net(torch.zeros(1, 3, 12, 12))  # fixes the linear layer
    field = receptive_field(net, "body", 12)
    assert field.size == (9, 9) and field.box(0, 11) == (0, 7, 5, 12)


def test_tokens_see_their_patch_and_after_attention_the_whole_image():
    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, stride=4)
            self.embed = nn.Identity()
            self.position = nn.Parameter(torch.randn(1, 16, 8))
            self.attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            x = self.embed(self.patch(x).flatten(2).transpose(1, 2)) + self.position
            return self.fc(self.attend(x).mean(dim=1))

    net = Vit()
    patch, attended = (receptive_field(net, name, 16) for name in ("embed", "attend"))
    assert patch.size == (4, 4) and patch.stride == (4, 4) and patch.box(1, 2) == (4, 8, 8, 12)
    assert attended.box(1, 2) == (0, 0, 16, 16)


def test_a_squeezed_map_sees_the_whole_image():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.gate = nn.Conv2d(4, 4, 1)
            self.out = nn.Identity()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.conv(x)
            x = self.out(x * torch.sigmoid(self.gate(x.mean(dim=(2, 3), keepdim=True))))
            return self.fc(x.mean(dim=(2, 3)))

    field = receptive_field(Squeezed(), "out", 40)
    assert set(field.rows) == set(field.columns) == {(0, 40)}
    assert len(field.rows) == len(field.columns) == 40 and field.size == (40, 40)


def test_the_weights_play_no_part_and_the_module_is_untouched():
    net = Residual().train()
    nn.init.zeros_(net.conv2.weight)
    net.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert receptive_field(net, "out", 32).size == (7, 7)
    assert net.training and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_images_of_one_channel_work():
    net = Stack(nn.Conv2d(1, 2, 3, padding=1))
    assert receptive_field(net, "body", 8).size == (3, 3)


def test_unknown_layers_and_regions_are_named():
    net = Residual()
    with pytest.raises(ValueError, match=r"no layer 'conv3'\. Nearest: 'conv"):
        receptive_field(net, "conv3", 32)
    with pytest.raises(IndexError, match=r"region \(16, 0\) is outside the map \(16, 16\)"):
        receptive_field(net, "out", 32).box(16, 0)


def test_a_layer_that_ignores_the_image_has_no_field():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.start = nn.Parameter(torch.ones(1, 3, 8, 8))
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.conv(self.start)

    with pytest.raises(ValueError, match="does not depend on the image"):
        receptive_field(Constant(), "conv", 8)


def test_cells_of_a_grid_tile_the_image():
    boxes = region_boxes((32, 48), (4, 6))
    assert boxes.cells.shape == (24, 4)
    painted = torch.zeros(32, 48, dtype=torch.int64)
    for top, left, bottom, right in boxes.cells.tolist():
        painted[top:bottom, left:right] += 1
    assert (painted == 1).all()
    assert boxes.cells[7].tolist() == [8, 8, 16, 16]  # row-major: row 1, column 1
    assert torch.equal(boxes.cells, boxes.fields)


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (32, 48), (1, 1)])
def test_a_resized_region_sees_the_fields_of_all_that_was_pooled_into_it(grid):
    field = receptive_field(Residual(), "out", (32, 48))
    boxes = region_boxes(field, grid)
    own = torch.arange(16 * 24, dtype=torch.float32).reshape(1, 1, 16, 24).requires_grad_()
    pooled = functional.adaptive_avg_pool2d(own, grid).flatten()
    for region, (top, left, bottom, right) in enumerate(boxes.fields.tolist()):
        (used,) = torch.autograd.grad(pooled[region], own, retain_graph=True)
        seen = [field.box(row, col) for _, _, row, col in used.nonzero().tolist()]
        tops, lefts, bottoms, rights = zip(*seen, strict=True)
        assert (top, left, bottom, right) == (min(tops), min(lefts), max(bottoms), max(rights))


def test_a_grid_needs_cells():
    with pytest.raises(ValueError, match="at least one cell"):
        region_boxes((8, 8), (0, 3))


class _Linear(TorchFunctionMode):
    """Runs a network without its nonlinearities, by means that share nothing with `structure`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name.strip("_") in ("relu", "relu6", "hardtanh"):
            return args[0]
        if name in ("max_pool2d", "boolean_dispatch", "fn"):
            window = kwargs or {}
            size, stride, padding = (
                args[i] if len(args) > i else window.get(key, default)
                for i, key, default in ((1, "kernel_size", 2), (2, "stride", 2), (3, "padding", 0))
            )
            return functional.avg_pool2d(args[0], size, stride, padding)
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [
        ("vgg16", 112, ["features.3", "features.8", "features.15", "features.22", "features.29"]),
        ("resnet34", 96, ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", 96, [f"features.{i}" for i in (4, 7, 11, 14, 18)]),
    ],
)
def test_fields_are_the_support_of_the_gradients_of_the_network_itself(name, side, layers):
    """With random weights, in float64, and linear: then no gradient inside a field vanishes."""
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = getattr(torchvision.models, name)().eval()
        fields = {layer: receptive_field(net, layer, side) for layer in layers}
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
        image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    with recorder(net.double(), layers) as record, _Linear():
        net(image)
        outputs = dict(record.outputs)
    for layer in layers:
        field, output = fields[layer], outputs[layer]
        assert field.grid == output.shape[2:]
        last = field.grid[0] - 1
        for row, col in {(0, 0), (last, 0), (last // 2, last), (last // 3, last // 2)}:
            (gradient,) = torch.autograd.grad(
                output[0, :, row, col].sum(), image, retain_graph=True
            )
            seen = gradient[0].ne(0).any(0).nonzero()
            (top, left), (bottom, right) = seen.amin(0).tolist(), seen.amax(0).tolist()
            assert field.box(row, col) == (top, left, bottom + 1, right + 1), (layer, row, col)
