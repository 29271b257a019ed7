"""Activations, filters and what excites a unit, on planted and small cases."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from emergence_ext.data.folders import ImageFolder
from emergence_ext.data.samples import ArraySamples
from emergence_ext.lookinside import excite as module
from emergence_ext.lookinside.activations import activations, sparsity
from emergence_ext.lookinside.codes import codes
from emergence_ext.lookinside.excite import excite, random_directions
from emergence_ext.lookinside.filters import filters, smoothness
from emergence_ext.lookinside.stream import stream
from emergence_ext.network.builtin import small_vgg64


class Net(nn.Module):
    """One convolution, a ReLU in place, and a head; the output is what `what` says."""

    def __init__(self, channels: int = 3, K: int = 6, what: str = "logits") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, K, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = nn.Linear(K, 8)
        self.fc2 = nn.Linear(8, 3)
        self.what = what

    def forward(self, x):
        maps = self.relu(self.conv(x))
        z = self.fc2(torch.relu(self.fc1(maps.mean((2, 3)))))
        return {"logits": z, "tuple": (z, maps), "dict": {"z": z}}[self.what]


def made(channels=3, K=6, what="logits", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(channels, K, what)


def samples(N=20, channels=3, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(N, channels, side, side, generator=generator)
    return ArraySamples(images, [i % 3 for i in range(N)], ["a", "b", "c"])


def state_of(module):
    return (
        {name: value.clone() for name, value in module.state_dict().items()},
        [part.training for part in module.modules()],
        [p.requires_grad for p in module.parameters()],
        sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()),
        torch.random.get_rng_state(),
    )


def assert_unchanged(module, before):
    after = state_of(module)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:4] == after[1:4] and torch.equal(before[4], after[4])
    assert all(p.grad is None for p in module.parameters())


def test_the_network_comes_back_as_it_was():
    net, data = made().train(), samples()
    net.conv.weight.requires_grad_(False)
    before = state_of(net)
    sparsity(net, data, ["relu"])
    activations(net, data.images, "conv")
    filters(net, data.images, "relu")
    excite(net, data, {"relu": torch.eye(6)})
    codes(net, data)
    with pytest.raises(RuntimeError, match="stopped"):
        stream(net, data, ["conv"], lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    assert_unchanged(net, before)
    assert net.relu.inplace


# --- activations


def test_channels_are_sorted_by_their_peaks_and_ties_go_to_the_lowest():
    net = made()
    with torch.no_grad():
        net.conv.weight.fill_(1e-4)  # of all zeros the layer would not depend on the image
        net.conv.weight[[2, 4]] = 0
        net.conv.bias.copy_(torch.tensor([1.0, 3.0, -2.0, 3.0, 0.0, 2.0]))
    found = activations(net, torch.rand(2, 3, 5, 5), "relu")
    assert found.maps.shape == (2, 6, 5, 5)
    assert found.order.tolist() == [[1, 3, 5, 0, 2, 4]] * 2
    # The convolution's own output has a ReLU in place behind it and is recorded before that.
    assert activations(net, torch.rand(1, 3, 5, 5), "conv").maps.min() == -2


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_sparsity_is_that_of_all_maps_at_once(batch_size):
    net, data = made(), samples()
    found = sparsity(net, data, ["relu", "conv"], batch_size=batch_size)
    for layer in ("relu", "conv"):
        maps = activations(net, data.images, layer).maps
        flat = maps.transpose(0, 1).flatten(1)
        assert found[layer].images == 20
        assert torch.allclose(found[layer].zeros, (flat == 0).float().mean(1))
        assert torch.allclose(found[layer].peak, flat.amax(1))
        assert torch.allclose(found[layer].least, flat.amin(1))
        fires = (maps.flatten(2).amax(2) > 0).float().mean(0)
        assert torch.allclose(found[layer].firing, fires)
    assert found["conv"].signed and not found["relu"].signed
    assert found["relu"].zero_share == pytest.approx(float(found["relu"].zeros.mean()))


def test_planted_dead_filters_are_found_and_only_those():
    net, data = made(), samples()
    with torch.no_grad():
        net.conv.bias.fill_(5.0)
        net.conv.bias[[1, 4]] = -50.0
    found = sparsity(net, data, ["relu"])["relu"]
    assert found.dead.nonzero().flatten().tolist() == [1, 4]
    assert found.zeros[1] == 1 and found.firing[4] == 0 and found.firing[0] == 1


@pytest.mark.parametrize("what", ["tuple", "dict"])
@pytest.mark.parametrize("channels", [1, 5])
def test_odd_outputs_and_channels_do_no_harm_to_what_looks_at_layers(what, channels):
    net, data = made(channels, what=what), samples(channels=channels)
    assert sparsity(net, data, ["relu"])["relu"].images == 20
    assert excite(net, data, {"relu": torch.eye(6)}, k=2)["relu"].values.shape == (6, 2)
    assert filters(net, data.images).weight.shape == (6, channels, 3, 3)
    assert codes(net, data).shape == (20, 8)


@pytest.mark.parametrize(
    ("layer", "told"),
    [("fc1", "expected a map"), ("cony", r"no layer 'cony'\. Nearest: 'conv'")],
)
def test_layers_without_maps_are_refused(layer, told):
    net, data = made(), samples()
    for call in (
        lambda: sparsity(net, data, [layer]),
        lambda: activations(net, data.images, layer),
        lambda: excite(net, data, {layer: torch.eye(6)}),
    ):
        with pytest.raises(ValueError, match=told):
            call()


def test_values_that_are_not_finite_are_named_with_their_image():
    net, data = made(), samples()
    data.images[13, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="layer 'conv' for image '13'"):
        sparsity(net, data, ["conv"], batch_size=5)


# --- filters


def test_the_convolution_is_the_first_or_the_last_one_before_a_layer():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Flatten()
    )
    x = torch.rand(1, 2, 6, 6)
    assert filters(net, x).name == "0" and filters(net, x).first
    assert filters(net, x, "1").name == "0"
    found = filters(net, x, "2")
    assert found.name == "2.0" and not found.first and torch.equal(found.weight, net[2][0].weight)
    with pytest.raises(ValueError, match=r"no nn\.Conv2d runs in the network"):
        filters(nn.Linear(6, 2), x)


def test_smoothness_of_filters_that_are_worked_out_by_hand():
    edge = torch.tensor([[-1.0, 0.0, 1.0]] * 3)
    board = (torch.arange(9) % 2).reshape(3, 3) * 2.0 - 1
    plain = torch.ones(3, 3)
    weight = torch.stack([edge, board, plain, 0 * plain])[:, None].repeat(1, 3, 1, 1)
    found = smoothness(weight)
    # An edge: 6 of 12 pairs differ by 1, the mean square is 2/3: 1 - (1/2) / (4/3).
    assert torch.allclose(found.score[:3], torch.tensor([0.625, -1.0, 1.0]))
    assert found.score[3].isnan() and found.p[3].isnan()
    assert found.noisy.tolist() == [False, True, False, False]


def test_noise_is_flagged_as_often_as_the_level_says():
    noise = torch.randn(4000, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    found = smoothness(noise)
    assert float(found.score.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.noisy.float().mean()) == pytest.approx(0.95, abs=0.015)
    again = smoothness(7 * noise)  # the scale plays no part
    assert torch.allclose(found.score, again.score) and torch.equal(found.noisy, again.noisy)


def test_filters_of_one_pixel_have_no_smoothness():
    assert smoothness(torch.randn(4, 8, 1, 1)).score.isnan().all()


# --- what excites


def sorted_in_full(net, data, layer, directions, k):
    """All values at once, sorted by value and then by index: what the streamed one must equal."""
    maps = activations(net, data.images, layer).maps
    along = directions @ maps.flatten(2)  # [N, D, R]
    values = along.amax(2).t()
    rows = []
    for row in values.tolist():
        rows.append(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])
    images = torch.tensor(rows)
    places = torch.tensor(
        [
            [int((along[i, d] == along[i, d].max()).nonzero()[0, 0]) for i in row]
            for d, row in enumerate(rows)
        ]
    )
    return values.gather(1, images), images, places


def test_the_top_k_of_5000_images_are_those_of_a_full_sort():
    """Weights and pixels are small whole numbers, so that sums are exact and ties are many."""
    net = made(channels=1, K=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (net.conv.weight, net.conv.bias):
            part.copy_(torch.randint(-2, 3, part.shape, generator=generator).float())
    images = torch.randint(0, 2, (5000, 1, 6, 6), generator=generator).float()
    data = ArraySamples(images, [0] * 5000, ["a"])
    directions = torch.cat([torch.eye(4), torch.tensor([[1.0, -1.0, 2.0, 0.0]])])
    found = excite(net, data, {"relu": directions}, k=40, batch_size=64)["relu"]
    values, index, places = sorted_in_full(net, data, "relu", directions, 40)
    assert torch.equal(found.values, values)
    assert torch.equal(found.images, index)
    assert torch.equal(found.places[..., 0] * 6 + found.places[..., 1], places)
    assert len(values[0].unique()) < 40  # there were ties to be decided


@pytest.mark.slow
def test_the_top_k_of_5000_photographs_are_those_of_a_full_sort(data_dir):
    data = ImageFolder(data_dir / "tiny-imagenet-10", split="train", size=32)
    assert len(data) == 5000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = small_vgg64()
    directions = torch.cat([torch.eye(128)[::16], random_directions(8, 128)])
    found = excite(net, data, {"conv3_2": directions}, k=50)["conv3_2"]
    values = []
    stream(net, data, ["conv3_2"], lambda _, F: values.append(
        (directions @ F["conv3_2"].flatten(2)).amax(2).t()
    ))  # fmt: skip
    full = torch.cat(values, dim=1).sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.values, full.values[:, :50])
    assert torch.equal(found.images, full.indices[:, :50])


def test_an_image_stands_once_in_a_row_at_its_best_region():
    data = samples(N=6)
    data.images.zero_()
    data.images[2, 0, 1, 1:4] = 1.0  # three good regions in one image
    data.images[4, 0, 5, 6] = 0.5
    net = made()
    with torch.no_grad():
        net.conv.weight.zero_()
        net.conv.bias.zero_()
        net.conv.weight[0, 0, 1, 1] = 1
    found = excite(net, data, {"relu": torch.eye(6)[:1]}, k=9)["relu"]
    assert found.images.tolist() == [[2, 4, 0, 1, 3, 5]]
    assert found.values[0, :2].tolist() == [1.0, 0.5]
    assert found.places[0, :2].tolist() == [[1, 1], [5, 6]] and found.grid == (8, 8)


def test_a_unit_looks_at_one_position_only():
    net, data = made(), samples()
    maps = activations(net, data.images, "relu").maps
    found = excite(net, data, {"relu": torch.eye(6)[2:3]}, k=5, position=(3, 7))["relu"]
    # Convolutions of other batch sizes may differ in the last bit.
    torch.testing.assert_close(found.values[0], maps[:, 2, 3, 7].sort(descending=True).values[:5])
    assert found.places.tolist() == [[[3, 7]] * 5]
    with pytest.raises(ValueError, match="position: expected one in the map of 8 x 8"):
        excite(net, data, {"relu": torch.eye(6)}, position=(8, 0))


def test_only_the_best_are_kept_in_memory():
    from emergence_ext.lookinside.excite import _Best

    best = _Best(3, 5)
    for start in range(0, 1000, 50):
        best.add(start, torch.rand(3, 50), torch.zeros(3, 50, dtype=torch.int64))
        assert best.values.shape == best.images.shape == best.places.shape == (3, 5)
        assert best.values.untyped_storage().nbytes() <= 3 * 55 * 4


def test_products_of_many_directions_are_taken_in_blocks(monkeypatch):
    """With all directions at once, a thousand categories would take gigabytes."""
    net, data = made(channels=1, K=4), samples(N=30, channels=1)
    directions = random_directions(4, 4).repeat(5, 1)
    whole = excite(net, data, {"relu": directions}, k=7)["relu"]
    for budget in (1, 200, 1000, 5000):  # less than a map, some directions, some images
        monkeypatch.setattr(module, "_PRODUCTS", budget)
        with Largest() as seen:
            found = excite(net, data, {"relu": directions}, k=7)["relu"]
        assert 0 < seen.size <= max(budget, 8 * 8)
        assert torch.allclose(found.values, whole.values)
        assert torch.equal(found.images, whole.images) and torch.equal(found.places, whole.places)


class Largest(TorchFunctionMode):
    """Notes the size of the largest product."""

    size = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.__name__ in ("matmul", "__matmul__"):
            self.size = max(self.size, found.numel())
        return found


def test_random_directions_are_rows_of_a_rotation_and_spread_evenly():
    drawn = random_directions(8, 20, random_state=3)
    assert torch.allclose(drawn @ drawn.t(), torch.eye(8), atol=1e-5)
    assert torch.equal(drawn, random_directions(8, 20, random_state=3))
    assert not torch.equal(drawn, random_directions(8, 20, random_state=4))
    first = torch.stack([random_directions(1, 3, seed)[0] for seed in range(400)])
    assert first.mean(0).abs().max() < 0.1  # without the signs it would lean to one side
    with pytest.raises(ValueError, match=r"expected 1\.\.4"):
        random_directions(5, 4)


def test_directions_that_do_not_fit_are_refused():
    net, data = made(), samples()
    with pytest.raises(ValueError, match="layer 'relu' has 6 channels, the directions 5"):
        excite(net, data, {"relu": torch.eye(5)})
    with pytest.raises(ValueError, match="finite"):
        excite(net, data, {"relu": torch.full((1, 6), torch.nan)})
    with pytest.raises(ValueError, match="k: expected at least 1"):
        excite(net, data, {"relu": torch.eye(6)}, k=0)


def test_codes_are_the_input_of_the_last_layer_after_its_relu():
    net, data = made(), samples()
    found = codes(net, data, batch_size=7)
    with torch.no_grad():
        maps = net.relu(net.conv(data.images))
        expected = torch.relu(net.fc1(maps.mean((2, 3))))
    assert torch.allclose(found, expected, atol=1e-6) and (found >= 0).all()
