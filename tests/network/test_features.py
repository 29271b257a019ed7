"""Extraction: the arrays are the network's own, and the network comes back as it was."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from emergence_ext.data.samples import ArraySamples
from emergence_ext.network import forward_pass
from emergence_ext.network.features import FeatureSet, extract
from emergence_ext.network.hooks import Record, find_head, recorder, regions
from emergence_ext.store.arrays import StoreError, save_arrays


class Net(nn.Module):
    """Two stages, an in-place ReLU after a hooked layer, batch norm, dropout and a hidden head."""

    def __init__(self, inplace=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=inplace)
        self.stage2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc1 = nn.Linear(6, 5)
        self.fc2 = nn.Linear(5, 3)

    def forward(self, x):
        x = self.stage2(self.relu1(self.norm1(self.conv1(x))))
        x = torch.relu(self.fc1(self.drop(x.mean(dim=(2, 3)))))
        return self.fc2(x)


class Tokens(nn.Module):
    """Patches as tokens `[B, T, K]`, with or without a class token."""

    def __init__(self, class_token=True):
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 5)) if class_token else None
        self.block = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.block(x)[:, 0])


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        net.norm1.running_mean.normal_()
    return net


@pytest.fixture
def images(generator):
    return torch.rand(7, 3, 8, 8, generator=generator)


@pytest.fixture
def dataset(images):
    return ArraySamples(images, [0, 1, 2, 0, 1, 2, 0], ["cat", "dog", "bus"])


LAYERS = {"first": "relu1", "last": "stage2"}


def test_arrays_are_what_the_network_computes(net, dataset, images):
    found = extract(net, dataset, LAYERS, batch_size=3, preprocess=lambda x: 2 * x - 1)
    net.eval()
    with torch.no_grad():
        x = 2 * images - 1
        first = torch.relu(net.norm1(net.conv1(x)))
        last = net.stage2(first.clone())
        f = torch.relu(net.fc1(last.mean(dim=(2, 3))))
    assert found.grid == (4, 4)
    pooled = functional.avg_pool2d(first, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found.layers["first"], pooled)
    torch.testing.assert_close(found.layers["last"], last.flatten(2).transpose(1, 2))
    torch.testing.assert_close(found.f, f)
    torch.testing.assert_close(found.z, net.fc2(f).detach())
    assert found.y.tolist() == dataset.labels
    assert found.names == dataset.names and found.categories == ["cat", "dog", "bus"]


def test_regions_are_row_major(net, images):
    output = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert torch.equal(regions(output)[1, 2 * 5 + 3], output[1, :, 2, 3].float())


def test_the_batch_size_does_not_matter(net, dataset):
    one, all_at_once = (extract(net, dataset, LAYERS, batch_size=b) for b in (1, 100))
    for name in LAYERS:
        torch.testing.assert_close(one.layers[name], all_at_once.layers[name])
    torch.testing.assert_close(one.z, all_at_once.z)


def test_an_in_place_relu_does_not_reach_back_into_the_layer_before_it(dataset):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        in_place = Net(inplace=True)
    apart = Net(inplace=False)
    apart.load_state_dict(in_place.state_dict())
    a, b = (extract(net, dataset, ["norm1", "stage2"]) for net in (in_place, apart))
    assert a.layers["norm1"].min() < 0
    assert torch.equal(a.layers["norm1"], b.layers["norm1"])


@pytest.mark.parametrize("grid", [(2, 2), (3, 1), (8, 8)])
def test_every_layer_is_resized_to_the_grid(net, dataset, grid):
    found = extract(net, dataset, LAYERS, grid=grid)
    assert found.grid == grid
    assert {array.shape[1] for array in found.layers.values()} == {grid[0] * grid[1]}


def state_of(net):
    return {
        "state": copy.deepcopy(net.state_dict()),
        "training": [m.training for m in net.modules()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        "rng": torch.get_rng_state(),
    }


def assert_unchanged(net, before):
    after = state_of(net)
    for name in ("training", "requires_grad", "hooks"):
        assert after[name] == before[name], name
    for name, value in before["state"].items():
        assert torch.equal(after["state"][name], value), name
    for new, old in zip(after["grads"], before["grads"], strict=True):
        assert (new is None and old is None) or torch.equal(new, old)
    assert torch.equal(after["rng"], before["rng"])


@pytest.mark.parametrize("ending", ["success", RuntimeError, KeyboardInterrupt])
def test_the_module_comes_back_as_it_was(net, dataset, ending):
    net.train()
    net.norm1.eval()  # a mixture of modes has to come back as the same mixture
    net.conv1.weight.requires_grad_(False)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    before = state_of(net)
    if ending == "success":
        extract(net, dataset, LAYERS)
    else:
        calls = []

        def breaking(images):
            calls.append(images)
            torch.rand(1)
            if len(calls) == 4:
                raise ending("stop")
            return images

        with pytest.raises(ending, match="stop"):
            extract(net, dataset, LAYERS, batch_size=2, preprocess=breaking)
    assert_unchanged(net, before)


def test_a_module_in_training_mode_is_evaluated_in_eval_mode(net, dataset):
    expected = extract(net.eval(), dataset, LAYERS)
    found = extract(net.train(), dataset, LAYERS)
    assert torch.equal(found.z, expected.z) and torch.equal(found.f, expected.f)


def test_recorder_keeps_the_gradient_path_and_forgets_the_previous_pass(net, images):
    with recorder(net, ["conv1"], inputs=["fc2"]) as record:
        net(images[:2])
        x = images[2:5].clone().requires_grad_()
        net(x)
        assert isinstance(record, Record)
        assert record.outputs["conv1"].shape[0] == record.inputs["fc2"].shape[0] == 3
        (gradient,) = torch.autograd.grad(record.outputs["conv1"].sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_are_regions_without_the_class_token(images, dataset, class_token):
    net = Tokens(class_token)
    found = extract(net, dataset, ["block"])
    with torch.no_grad():
        tokens = net.patch(images).flatten(2).transpose(1, 2)
        expected = net.block(tokens)
    assert found.grid == (2, 2)
    torch.testing.assert_close(found.layers["block"], expected)


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_maps_with_channels_last_are_told_by_the_shape_of_the_image(generator, size):
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)
            self.last = nn.Identity()
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(self.last(self.conv(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))

    net, images = ChannelsLast(), torch.rand(2, 3, *size, generator=generator)
    found = extract(net, [(image, 0) for image in images], ["conv", "last"])
    assert found.grid == size
    torch.testing.assert_close(found.layers["last"], found.layers["conv"])


def test_the_head_is_the_linear_that_gives_the_output(net, images):
    assert find_head(net, images) == ("fc2", True)
    softmax = nn.Sequential(net, nn.Softmax(dim=1))
    assert find_head(softmax, images) == ("0.fc2", False)


def test_a_network_that_ends_in_softmax_is_warned_about(net, dataset, caplog):
    softmax = nn.Sequential(net, nn.Softmax(dim=1))
    with caplog.at_level(logging.WARNING):
        extract(softmax, dataset, ["0.stage2"])
    assert "softmax" in caplog.text


def test_another_module_can_give_the_sample_feature(net, dataset):
    assert extract(net, dataset, LAYERS, last_linear="fc1").f.shape == (7, 6)


def test_a_convolutional_head_gives_the_mean_over_positions(dataset, images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1))
    net.append(nn.Flatten())
    found = extract(net, dataset, ["1"])
    torch.testing.assert_close(found.f, net[:2](images).mean(dim=(2, 3)).detach())


class Heads(Net):
    """Two heads that are averaged, as of a distillation token; or one that tokens go through."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.other = kind, nn.Linear(5, 3)
        self.conv = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.stage2(self.relu1(self.norm1(self.conv1(x))))
        if self.kind == "conv":  # as SqueezeNet's; the fully connected layer is of a gate
            x = x * torch.sigmoid(self.fc1(x.mean(dim=(2, 3)))[:, :1, None, None])
            return torch.relu(self.conv(x)).mean(dim=(2, 3))
        if self.kind == "tokens":
            return self.fc2(self.fc1(x.flatten(2).transpose(1, 2))).mean(1)
        f = torch.relu(self.fc1(x.mean(dim=(2, 3))))
        return (self.fc2(f) + self.other(f * f)) / (2 if self.kind == "mean" else 1)


@pytest.mark.parametrize(
    ("kind", "head"), [("mean", "fc2"), ("sum", "fc2"), ("conv", "conv"), ("tokens", "fc2")]
)
def test_heads_of_other_kinds_are_found(images, dataset, kind, head):
    net = Heads(kind).eval()
    assert find_head(net, images) == (head, True)
    with recorder(net, [], inputs=[head]) as record, torch.no_grad():
        net(images)
    f = record.inputs[head]
    f = f.mean(dim=(2, 3)) if f.ndim == 4 else f.mean(dim=1) if f.ndim == 3 else f
    torch.testing.assert_close(extract(net, dataset, ["stage2"]).f, f)


def test_without_a_head_the_argument_is_named(dataset):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten())
    with pytest.raises(ValueError, match="Name the module whose input it is: `last_linear`"):
        extract(net, dataset, ["0"])


class OneRow(Net):
    """Gives all images one sample feature, or one row of logits."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        x = self.stage2(self.relu1(self.norm1(self.conv1(x))))
        f = torch.relu(self.fc1(x.mean(dim=(2, 3))))
        if self.what == "the sample feature":
            return self.fc2(f[:1]).expand(len(x), -1)
        return self.fc2(f)[:1]


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("what", ["the sample feature", "the logits"])
def test_one_row_is_not_copied_to_all_images(dataset, what, batch_size):
    expected = {
        "the sample feature": r"the sample feature has shape \[1, \d\] for 2 images",
        "the logits": r"expected logits \[2, C\] .* a row for each image, got shape \[1, 3\]",
    }
    with pytest.raises(ValueError, match=expected[what]):
        extract(OneRow(what), dataset, LAYERS, last_linear="fc2", batch_size=batch_size)


def test_a_later_batch_of_another_shape_is_refused(dataset):
    class Short(Net):
        def forward(self, x):
            z = super().forward(x)
            return z[:1] if len(x) == 3 else z

    with pytest.raises(ValueError, match=r"logits \[3, C\] .* got shape \[1, 3\]"):
        extract(Short(), dataset, LAYERS, batch_size=4)


class Live(Net):
    """A network whose result for an image depends on the others."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "module":
            self.norm1 = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return super().forward(x - x.mean(0) if self.kind == "centred" else x)


@pytest.mark.parametrize(("kind", "told"), [("module", "norm1"), ("centred", "depends on")])
def test_statistics_of_the_batch_are_warned_about(dataset, caplog, kind, told):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # one network in ten has nothing but zeros behind its first ReLU
        live = Live(kind)
    with caplog.at_level(logging.WARNING):
        extract(live, dataset, LAYERS)
    assert "depends on the other images of its batch" in caplog.text and told in caplog.text
    caplog.clear()
    extract(Net(), dataset, LAYERS)
    assert "depends on the other" not in caplog.text


def test_outputs_restrict_and_order_the_logits(net, images):
    two = ArraySamples(images, [0, 1, 0, 1, 0, 1, 0], ["bus", "cat"])
    found = extract(net, two, LAYERS, outputs=[2, 0])
    whole = extract(net, ArraySamples(images, [0] * 7, list("abc")), LAYERS)
    assert torch.equal(found.z, whole.z[:, [2, 0]])


def test_bfloat16_is_close_to_float32(net, dataset, bfloat16_products):
    coarse, fine = (extract(net, dataset, LAYERS, precision=p) for p in ("bfloat16", "float32"))
    assert coarse.z.dtype == torch.float32 and not torch.equal(coarse.z, fine.z)
    # 8 bits of mantissa through three layers.
    torch.testing.assert_close(coarse.z, fine.z, rtol=0.05, atol=0.05)


def test_bfloat16_is_float32_where_it_would_be_slower(net, dataset, monkeypatch, caplog):
    lacks = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", lacks)
    forward_pass._multiplies.cache_clear()
    try:
        coarse, fine = (extract(net, dataset, LAYERS, precision=p) for p in ("bfloat16", "float32"))
    finally:
        forward_pass._multiplies.cache_clear()
    assert torch.equal(coarse.z, fine.z)
    assert [record.message for record in caplog.records if "bfloat16" in record.message] == [
        "precision: bfloat16 is slower than float32 on this processor, which has no such products: "
        "the network computes in float32"
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_running_out_halves_the_batch_and_keeps_the_answer(net, dataset, caplog, error):
    sizes = []

    def hungry(images):
        sizes.append(len(images))
        if len(images) > 2:
            raise error
        return images

    with caplog.at_level(logging.WARNING):
        found = extract(net, dataset, LAYERS, batch_size=6, preprocess=hungry)
    torch.testing.assert_close(found.z, extract(net, dataset, LAYERS).z)
    assert [n for n in sizes if n > 2] == [6, 3] and "out of memory" in caplog.text


def test_errors_of_the_network_are_not_taken_for_a_lack_of_memory(net, dataset):
    with pytest.raises(ValueError, match="input") as told:
        extract(net, dataset, LAYERS, preprocess=lambda x: x.flatten(1))
    assert isinstance(told.value.__cause__, RuntimeError)


def test_the_first_bad_image_and_layer_are_named(net, images):
    bad = images.clone()
    bad[4, 1, 3, 3] = 1.05
    dataset = ArraySamples(bad, [0] * 7, list("abc"), [f"img{i}.png" for i in range(7)])
    with pytest.raises(ValueError, match=r"layer 'first' for image 'img4.png'"):
        extract(
            net, dataset, LAYERS, batch_size=3,
            preprocess=lambda x: torch.where(x > 1.01, torch.nan, x),
        )  # fmt: skip
    with torch.no_grad():
        net.fc2.bias[1] = torch.inf
    with pytest.raises(ValueError, match=r"the logits for image 'img0.png'"):
        extract(net, dataset, LAYERS, batch_size=3)


class Twice(Net):
    def forward(self, x):
        return super().forward(self.relu1(x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.split = nn.Identity()
        self.idle = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("make", "layers", "message"),
    [
        (Net, ["relu2"], r"no layer 'relu2'. Nearest: 'relu1'.*emergence doctor --model ... lists"),
        (Net, ["stage2.9"], r"Nearest: 'stage2.2'"),
        (Net, [], "at least one layer"),
        (Net, {"a": "relu1", "b": "relu1"}, "'relu1' is listed twice"),
        (Net, ["fc1"], r"'fc1' gives shape \[8, 5\], expected a map"),
        (Twice, ["relu1"], "'relu1' runs more than once"),
        (Pair, ["idle"], "'idle' never runs"),
    ],
)
def test_unusable_layers_are_named(dataset, make, layers, message):
    net = make()
    before = state_of(net)
    with pytest.raises(ValueError, match=message):
        extract(net, dataset, layers)
    assert_unchanged(net, before)


def test_tokens_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="3 tokens are no square grid"):
        regions(torch.zeros(1, 3, 8))


def test_categories_that_do_not_match_the_outputs_need_a_class_map(net, images):
    with pytest.raises(ValueError, match=r"2 categories and the network 3 outputs.*class map"):
        extract(net, ArraySamples(images, [0] * 7, ["a", "b"]), LAYERS)
    with pytest.raises(ValueError, match=r"outputs 0..2, not \[5\]"):
        extract(net, ArraySamples(images, [0] * 7, ["a", "b"]), LAYERS, outputs=[0, 5])


def test_a_plain_list_of_pairs_is_a_data_set(net, images):
    found = extract(net, [(image, 1) for image in images], LAYERS)
    assert found.names == [str(i) for i in range(7)] and found.categories == ["0", "1", "2"]


def test_images_of_different_sizes_are_refused(net, images):
    pairs = [(images[0], 0), (images[1, :, :6], 1)]
    with pytest.raises(ValueError, match=r"image '1' has shape \[3, 6, 8\], expected \[3, 8, 8\]"):
        extract(net, pairs, LAYERS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "float16"}, "precision"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "8"}, "batch_size: expected a whole number, got '8'"),
        ({"grid": 4}, "grid: expected .last. or two numbers of at least 1, got 4"),
        ({"grid": (0, 2)}, "grid: expected"),
        ({"device": "gpu"}, "device: expected cpu, cuda or cuda:1, got 'gpu'"),
    ],
)
def test_bad_settings_are_named(net, dataset, setting, message):
    with pytest.raises((ValueError, TypeError), match=message):
        extract(net, dataset, LAYERS, **setting)


def test_a_network_that_draws_random_numbers_is_seeded(dataset):
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Noisy()
    first, again = (extract(net, dataset, LAYERS, random_state=3) for _ in range(2))
    other = extract(net, dataset, LAYERS, random_state=4)
    assert torch.equal(first.z, again.z) and not torch.equal(first.z, other.z)


class Dark(nn.Module):
    """A network that sees nothing in a dark image."""

    def __init__(self):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        bright = x.mean(dim=(1, 2, 3), keepdim=True) > 0.2
        return self.fc(self.stage(x * bright).mean(dim=(2, 3)))


def test_a_network_can_be_tried_on_another_image_than_the_first(dataset, images):
    net = Dark()
    dark = ArraySamples(torch.cat([0.1 * images[:1], images[1:]]), dataset.labels, ["a", "b", "c"])
    with pytest.raises(ValueError, match="gives the same for all images"):
        extract(net, dark, ["stage"])
    features = extract(net, dark, ["stage"], example=images[1])
    torch.testing.assert_close(
        features.layers["stage"][1:], extract(net, dataset, ["stage"]).layers["stage"][1:]
    )


def test_a_feature_set_saves_and_loads_whole(net, dataset, tmp_path):
    found = extract(net, dataset, LAYERS)
    found.save(tmp_path / "features")
    again = FeatureSet.load(tmp_path / "features")
    assert list(again.layers) == list(found.layers)
    for name in found.layers:
        assert torch.equal(again.layers[name], found.layers[name])
    for name in ("f", "z", "y"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    for name in ("grid", "names", "categories"):
        assert getattr(again, name) == getattr(found, name)


def test_a_stored_set_whose_shapes_disagree_is_refused(net, dataset, tmp_path):
    found = extract(net, dataset, LAYERS)
    arrays, settings = found._state()
    save_arrays(tmp_path / "f", arrays, {**settings, "grid": [2, 2]}, kind="FeatureSet")
    with pytest.raises(StoreError, match="grid"):
        FeatureSet.load(tmp_path / "f")


def test_subset_and_select_keep_order_and_everything_else(net, dataset):
    found = extract(net, dataset, LAYERS)
    part = found.subset([5, 0, 2]).select(["last"])
    assert len(part) == 3 and part.names == ["5", "0", "2"] and list(part.layers) == ["last"]
    assert torch.equal(part.layers["last"], found.layers["last"][[5, 0, 2]])
    assert part.y.tolist() == [2, 0, 2] and part.categories == found.categories
    with pytest.raises(ValueError, match="no \\['middle'\\]"):
        found.select(["middle"])


@pytest.mark.gpu
def test_the_device_of_the_module_is_put_back(net, dataset):
    found = extract(net, dataset, LAYERS, device="cuda")
    assert {p.device.type for p in net.parameters()} == {"cpu"}
    torch.testing.assert_close(found.z, extract(net, dataset, LAYERS).z, rtol=1e-3, atol=1e-3)


def test_real_vgg16_features_at_112_pixels_are_seven_by_seven(data_dir):
    from emergence_ext.data.folders import ImageFolder
    from emergence_ext.network.builtin import vgg16_pooled
    from emergence_ext.network.models import load_weights
    from emergence_ext.network.preprocessing import preprocess

    net = vgg16_pooled()
    load_weights(net, data_dir / "weights" / "vgg16_imagenet_conv.safetensors", partial=True)
    folder = ImageFolder(data_dir / "tiny-imagenet-10", split="val", size=112, per_class=1)
    found = extract(net, folder, {"conv5_3": "features.29"}, preprocess=preprocess("caffe"))
    assert found.grid == (7, 7) and found.layers["conv5_3"].shape == (10, 49, 512)
    # After the ReLU; trained units are sparse (random ones are active half of the time).
    assert found.layers["conv5_3"].min() == 0
    assert 0.02 < found.layers["conv5_3"].gt(0).float().mean() < 0.4


def test_a_single_layer_may_be_given_by_its_name(net, dataset):
    found = extract(net, dataset, "stage2.1")
    assert list(found.layers) == ["stage2.1"] == list(found.select("stage2.1").layers)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers": None}, "layers: expected Iterable, got NoneType"),
        ({"preprocess": "imagenet"}, r"got str; network.preprocess\('imagenet'\) makes one"),
        ({"preprocess": 3}, "preprocess: expected a function of images .* got int"),
        ({"random_state": "a"}, "random_state: expected a whole number, got 'a'"),
    ],
)
def test_arguments_of_another_kind_are_named(net, dataset, changes, told):
    with pytest.raises(TypeError, match=told):
        extract(**{"module": net, "dataset": dataset, "layers": ["stage2"], **changes})


@pytest.mark.parametrize("indices", ["a", 1, [0.5], [True]])
def test_what_are_no_numbers_of_samples_is_refused(net, dataset, indices):
    with pytest.raises(TypeError, match="indices: expected numbers of samples"):
        extract(net, dataset, ["stage2"]).subset(indices)


def test_a_sample_that_is_not_there_is_refused(net, dataset):
    found = extract(net, dataset, ["stage2"])
    assert len(found.subset([])) == 0
    with pytest.raises(IndexError, match=rf"expected 0 to {len(found) - 1}, got 99"):
        found.subset([0, 99])


def test_what_is_neither_map_nor_tokens_is_named():
    for output, got in ((torch.zeros(3), r"\[3\]"), (None, "NoneType")):
        with pytest.raises(ValueError, match=rf"output: expected a map .* got {got}"):
            regions(output)
