"""The parts that optimise an image: pixels, objectives, transforms, the loop."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emergence_ext import render as r
from emergence_ext.render.ramps import ends, value
from emergence_ext.render.seen import Seen


class Net(nn.Module):
    """Two layers and a head; the second ReLU works in place on what a hook has seen."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1, stride=2)
        self.relu2 = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu2(self.conv2(self.relu1(self.conv1(images))))
        return self.head(self.drop(maps).mean(dim=(2, 3)))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=generator)


@pytest.fixture
def seen(generator: torch.Generator) -> Seen:
    return Seen(
        torch.rand(2, 3, 8, 8, generator=generator),
        {"a": torch.randn(2, 4, 3, 5, generator=generator)},
        torch.randn(2, 3, generator=generator),
        0.25,
    )


def test_ramps_go_in_a_straight_line_and_a_number_is_its_own() -> None:
    ramp = r.Ramp(2.0, 1.0)
    assert [ramp.at(t / 4) for t in range(5)] == [2.0, 1.75, 1.5, 1.25, 1.0]
    assert value(3, 0.5) == 3.0 and ends(ramp) == (2.0, 1.0) and ends(3.0) == (3.0, 3.0)


def test_pixels_are_a_copy_within_0_and_1_of_any_number_of_channels() -> None:
    start = torch.linspace(-1, 2, 2 * 5 * 3 * 4).view(2, 5, 3, 4)
    pixels = r.Pixels(start)
    assert start.min() == -1 and pixels.image.min() == 0 and pixels.image.max() == 1
    pixels.replace(torch.full_like(start, 7.0))
    assert (pixels.image == 1).all() and pixels.values.requires_grad
    assert pixels.resized(6, 2).image.shape == (2, 5, 6, 2)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (torch.zeros(3, 4, 4), r"\[n, channels, H, W\]"),
        (torch.zeros(0, 3, 4, 4), r"\[n, channels, H, W\]"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "divide by 255"),
        (torch.full((1, 3, 4, 4), torch.nan), "NaN"),
        ([torch.zeros(3, 4, 4)], "expected a tensor .* got list; torch.stack"),
        (torch.zeros(1, 3, 4, 4, device="meta"), "meta device"),
    ],
)
def test_what_is_no_image_is_refused(start: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        r.Pixels(start)


def test_noise_is_seeded_and_the_same_for_any_number_of_images() -> None:
    before = torch.get_rng_state()
    three = r.noise(3, 1, (4, 6), random_state=5)
    assert three.shape == (3, 1, 4, 6) and three.min() >= 0 and three.max() <= 1
    assert torch.equal(three[:2], r.noise(2, 1, (4, 6), random_state=5))
    assert not torch.equal(three[0], three[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_objectives_are_what_they_say(seen: Seen) -> None:
    a = seen.layers["a"]
    close = torch.testing.assert_close
    close(r.channel("a", 2)(seen), a[:, 2].mean(dim=(1, 2)))
    close(r.channel("a", [0, 3])(seen), (a[:, 0] + a[:, 3]).mean(dim=(1, 2)) / 2)
    close(r.unit("a", 1)(seen), a[:, 1, 1, 2])
    close(r.unit("a", 1, 2, 0)(seen), a[:, 1, 2, 0])
    v = torch.tensor([3.0, 0, 4, 0])
    close(r.direction("a", v)(seen), (0.6 * a[:, 0] + 0.8 * a[:, 2]).mean(dim=(1, 2)))
    one = torch.zeros(3, 5, dtype=torch.bool)
    one[2, 4] = True
    close(r.direction("a", v, one)(seen), 0.6 * a[:, 0, 2, 4] + 0.8 * a[:, 2, 2, 4])
    close(r.l1("a")(seen), a.abs().sum(1).mean(dim=(1, 2)))
    F0 = a[1].clone()
    apart = (a[0] - F0).square().sum() / F0.square().sum()
    close(r.code("a", F0)(seen), torch.stack([apart, torch.zeros(())]))
    close(r.logit(2)(seen), seen.output[:, 2])  # type: ignore[index]
    close(r.logit(torch.tensor([2, 0]))(seen), seen.output[[0, 1], [2, 0]])  # type: ignore[index]
    close(r.log_probability(1)(seen), seen.output.log_softmax(1)[:, 1])  # type: ignore[union-attr]


def test_regularisers_of_the_image_by_hand() -> None:
    x = torch.zeros(1, 1, 2, 3)
    x[0, 0] = torch.tensor([[0.0, 0.5, 0.5], [0.0, 1.0, 0.5]])
    seen = Seen(x, {})
    # Gradients to the right and down: (.5, 0), (0, .5), (0, 0); (1, 0), (-.5, 0), (0, 0).
    squares = [0.25, 0.25, 0.0, 1.0, 0.25, 0.0]
    torch.testing.assert_close(r.total_variation()(seen), torch.tensor([sum(squares) / 6]))
    lengths = sum(s**0.5 for s in squares) / 6
    torch.testing.assert_close(
        r.total_variation(1.0)(seen), torch.tensor([lengths]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(r.alpha_norm(6)(seen), torch.tensor([3 / 6]))
    assert r.total_variation()(Seen(torch.full((2, 3, 4, 4), 0.3), {})).tolist() == [0, 0]


def test_objectives_numbers_and_ramps_compose(seen: Seen) -> None:
    a, b = r.channel("a", 0), r.logit(1)
    whole = 2 * a - b * r.Ramp(1.0, 3.0) + 1 - (3 - a) * b + (-a)
    x, z = a(seen), b(seen)
    torch.testing.assert_close(whole(seen), 2 * x - 1.5 * z + 1 - (3 - x) * z - x)
    assert whole.layers == ("a",) and whole.output and not a.output
    assert (r.Ramp(1.0, 0.0) * a).layers == ("a",)
    p = torch.zeros((), requires_grad=True)
    own = r.Objective(lambda seen: p.expand(2), "own", parameters=[p])
    assert (own + own * own - a).parameters == (p,)
    with pytest.raises(TypeError):
        a + "b"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: r.channel("a", 4), "channels: expected 0 to 3 in a, got 4"),
        (lambda: r.unit("a", 0, 3, 0), "row: expected 0 to 2"),
        (lambda: r.direction("a", torch.ones(3)), "expected 4 numbers, one a channel of 'a'"),
        (lambda: r.direction("a", torch.zeros(4)), "not zero"),
        (lambda: r.direction("a", torch.ones(4), torch.zeros(3, 5)), "at least one region"),
        (lambda: r.code("a", torch.zeros(4, 3, 5)), "may be dead"),
        (lambda: r.code("a", torch.ones(3, 3, 5)), r"expected \[2, 4, H, W\]"),
        (lambda: r.logit(3), "category: expected 0 to 2"),
        (lambda: r.logit(torch.tensor([0, 1, 2])), "one for each of 2 images"),
        (lambda: r.alpha_norm(0.5), "alpha"),
        (lambda: r.alpha_norm("6"), "alpha: expected a number of at least 1, got '6'"),
        (lambda: r.code("a", torch.ones(4, 3)), r"target: expected codes \[n, K, H, W\]"),
        (lambda: r.code("a", torch.full((4, 3, 5), torch.nan)), "target: expected codes"),
        (lambda: r.total_variation(0), "beta"),
        (lambda: r.channel("a", []), "none given"),
    ],
)
def test_objectives_refuse_what_is_not_there(make: object, told: str, seen: Seen) -> None:
    with pytest.raises(ValueError, match=told):
        make()(seen)  # type: ignore[operator]


def test_the_logarithm_of_a_probability_keeps_its_gradient_where_p_is_1() -> None:
    z = torch.tensor([[60.0, 0.0, -1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(r.log_probability(0)(Seen(z, {}, z)).sum(), z)
    assert 0 < float(gradient[0, 0]) < 1e-20


def test_blur_keeps_the_mean_of_an_even_image_and_spreads_a_point_by_sigma() -> None:
    point = torch.zeros(1, 2, 41, 41)
    point[:, :, 20, 20] = 1
    spread = r.GaussianBlur(2.0)(point, 0.0)
    at = torch.arange(41.0) - 20
    variance = (spread[0, 1].sum(0) * at.square()).sum()
    torch.testing.assert_close(spread.sum(dim=(2, 3)), torch.ones(1, 2))
    assert abs(float(variance) - 4) < 0.02
    even = torch.full((1, 3, 5, 4), 0.3)  # narrower than the kernel
    torch.testing.assert_close(r.GaussianBlur(3.0)(even, 0.0), even)
    assert torch.equal(r.GaussianBlur(r.Ramp(3.0, 0.0))(point, 1.0), point)


def test_the_mask_is_1_in_the_middle_and_falls_to_all_sides() -> None:
    mask = r.CentreMask(r.Ramp(0.5, 0.25))(torch.ones(1, 2, 9, 7), 1.0)[0, 0]
    assert mask[4, 3] == 1 and torch.equal(mask, mask.flip(0).flip(1))
    assert (mask[4].diff()[:3] > 0).all() and (mask[:, 3].diff()[4:] < 0).all()
    expected = torch.tensor(-0.5 * (4 / 9 / 0.25) ** 2).exp()
    torch.testing.assert_close(mask[0, 3], expected)


def test_denoising_denoises_less_with_a_larger_weight(generator: torch.Generator) -> None:
    pytest.importorskip("skimage")
    noisy = torch.rand(2, 3, 12, 12, generator=generator)
    variation = r.total_variation()
    left = [float(variation(Seen(r.SplitBregman(w)(noisy, 0.0), {})).sum()) for w in (1, 3, 50)]
    assert left[0] < left[1] < left[2] < float(variation(Seen(noisy, {})).sum())
    grey = noisy[:, :1, :, :7]  # neither squeezed nor turned
    few = r.SplitBregman(2.0)(grey, 0.0)
    assert (
        few.shape == grey.shape and float((r.SplitBregman(1e4)(grey, 0.0) - grey).abs().max()) < 0.1
    )
    alone = r.SplitBregman(2.0)(noisy[1:], 0.0)
    assert torch.equal(r.SplitBregman(2.0)(noisy, 0.0)[1:], alone) and alone.dtype == noisy.dtype


def test_jitter_rolls_and_crop_magnifies(images: Tensor) -> None:
    def drawn(view: object) -> Tensor:
        return view(images, 0.0, torch.Generator().manual_seed(1))  # type: ignore[operator]

    rolled = drawn(r.Jitter(3))
    assert torch.equal(rolled, drawn(r.Jitter(3))) and not torch.equal(rolled, images)
    torch.testing.assert_close(rolled.sum(dim=(2, 3)), images.sum(dim=(2, 3)))
    assert torch.equal(drawn(r.Jitter(0)), images)
    part = drawn(r.Crop(0.5))
    assert part.shape == images.shape and not torch.equal(part, images)
    torch.testing.assert_close(drawn(r.Crop(1.0)), images)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: r.GaussianBlur(-1), "sigma"),
        (lambda: r.CentreMask(r.Ramp(1, 0)), "sigma"),
        (lambda: r.Jitter(-1), "pixels"),
        (lambda: r.Crop(0), "share"),
        (lambda: r.Crop(r.Ramp(0.5, 1.5)), "share"),
        (lambda: r.GaussianBlur(float("nan")), "sigma: expected 0 or more, got nan"),
        (lambda: r.GaussianBlur("2"), "sigma: expected a number or a Ramp, got '2'"),
        (lambda: r.Jitter(1.5), "pixels: expected a whole number, got 1.5"),
        (lambda: r.Ramp("1", 2), "start: expected a number, got '1'"),
    ],
)
def test_transforms_refuse_numbers_out_of_range(make: object, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        make()  # type: ignore[operator]


def test_a_layer_is_seen_before_what_is_in_place_and_without_the_rest(
    net: Net, images: Tensor
) -> None:
    ran: list[int] = []
    net.head.register_forward_hook(lambda _module, _inputs, z: ran.append(len(z)))
    with r.seeing(net, ["conv2"]) as see, torch.no_grad():
        maps = see(images).layers["conv2"]
        see(images)
    # Once, of one image: whether the layer runs again further up.
    assert ran == [1] and (maps < 0).any()
    torch.testing.assert_close(maps, net.conv2(net.relu1(net.conv1(images))))
    with r.seeing(net, ["conv2"], output=True) as see, torch.no_grad():
        assert see(images).output.shape == (2, 3)  # type: ignore[union-attr]
    assert ran == [1, 2]
    parts = r.maps_of(net, ["conv1", "conv2"], images, batch_size=1)
    torch.testing.assert_close(parts["conv2"], maps)


def test_one_look_inside_another_does_not_end_it(net: Net, images: Tensor) -> None:
    traced: list[Tensor] = []

    def trace(x: Tensor, progress: float) -> Tensor:
        traced.append(r.measure(net, x, OBJECTIVE))
        return x

    found = go(net, images, smoothing=[trace])
    torch.testing.assert_close(torch.stack(traced)[:-1], found.losses[1:])


def test_what_cannot_be_seen_is_refused(net: Net, images: Tensor) -> None:
    with pytest.raises(ValueError, match="no layer 'conv3'"), r.seeing(net, ["conv3"]):
        pass
    with (
        r.seeing(net, (), output=True) as see,
        pytest.raises(ValueError, match="is on meta, the network on cpu"),
    ):
        see(images.to("meta"))
    dictionary = nn.Sequential(net)
    dictionary.register_forward_hook(lambda *_: {"logits": 1})
    with (
        r.seeing(dictionary, (), output=True) as see,
        pytest.raises(ValueError, match=r"expected logits .* got dict"),
    ):
        see(images)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": lambda seen: 0}, "objective: expected Objective, got function"),
        ({"objective": r.Objective}, "objective: expected Objective, got the class Objective"),
        ({"objective": -r.channel("conv2", ["a"])}, "channel.*numbers"),
        ({"views": r.Jitter(1)}, "views: expected Sequence, got Jitter"),
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"learning_rate": "0.1"}, "learning_rate: expected a number or a Ramp, got '0.1'"),
        ({"keep": 3}, "keep: expected Iterable, got int"),
        ({"mask": 0.5}, "mask: expected what can be called, .* got 0.5"),
        ({"views": [3]}, "views: expected what can be called, .* got 3"),
        ({"smoothing": [0.5]}, "smoothing: expected what can be called, .* got 0.5"),
        ({"until": 3}, "until: expected what can be called, .* got 3"),
        ({"preprocess": "clip"}, r"preprocess: .* network.preprocess\('clip'\) makes one"),
        ({"objective": r.Objective(lambda seen: 3, "three")}, "objective: three gives 3, expected"),
        ({"smoothing": r.GaussianBlur(1.0)}, "smoothing: expected Sequence, got GaussianBlur"),
    ],
)
def test_arguments_of_another_kind_are_named(
    net: Net, images: Tensor, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        go(net, images, **changes)
    for swapped in (images, Net):
        with pytest.raises(TypeError, match="module: "):
            go(swapped, images)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: r.total_variation("2"), "beta: expected a number, got '2'"),
        (lambda: r.direction("a", "red"), "vector: expected a tensor, got str"),
        (lambda: r.direction("a", None), "vector: expected a tensor, got NoneType"),
        (lambda: r.code("a", None), "target: expected a tensor, got NoneType"),
        (lambda: r.Objective(3, "three"), "compute: expected a function .* got 3"),
        (lambda: r.noise(1, "3", 8), "channels: expected a whole number, got '3'"),
        (lambda: r.noise(1, 0, 8), "channels: expected at least 1, got 0"),
        (lambda: r.noise(1, 3, 8.0), r"size: expected \(height, width\) or a side .* got 8.0"),
        (lambda: r.noise(1, 3, 8, spread="a"), "spread: expected a number, got 'a'"),
    ],
)
def test_what_nothing_can_be_made_of_is_named(make: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        make()


def test_what_cannot_be_measured_is_named(net: Net, images: Tensor) -> None:
    objective = r.channel("conv1", 0)
    for call in (
        lambda x, **options: r.measure(net, x, objective, **options),
        lambda x, **options: r.maps_of(net, ["conv1"], x, **options),
    ):
        with pytest.raises(ValueError, match=r"images: expected a tensor .* got ndarray"):
            call(images.numpy())
        with pytest.raises(ValueError, match=r"images: expected images \[n, channels, H, W\]"):
            call(images[:0])
        with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
            call(images, batch_size=0)
    with pytest.raises(TypeError, match="objective: expected Objective, got str"):
        r.measure(net, images, "conv1")  # type: ignore[arg-type]


def test_channels_and_layers_may_be_given_in_any_usual_way(net: Net, images: Tensor) -> None:
    expected = r.measure(net, images, r.channel("conv1", [0, 1]))
    for channels in (torch.tensor([0, 1]), np.array([0, 1]), (np.int64(0), 1)):
        assert torch.equal(r.measure(net, images, r.channel("conv1", channels)), expected)  # type: ignore[arg-type]
    one = r.measure(net, images, r.channel("conv1", np.int64(1)))  # type: ignore[arg-type]
    assert torch.equal(one, r.measure(net, images, r.channel("conv1", 1)))
    assert list(r.maps_of(net, "conv1", images)) == ["conv1"]
    assert r.Objective(lambda seen: seen.images.mean((1, 2, 3)), "mean", "conv1").layers == (
        "conv1",
    )


@pytest.mark.parametrize("iteration", [99, -1, 1.5, "1"])
def test_an_iteration_that_never_comes_is_not_kept_in_silence(
    net: Net, images: Tensor, iteration: object
) -> None:
    with pytest.raises(ValueError, match=rf"keep: expected .* from 0 to 4 .* got {iteration!r}"):
        go(net, images, steps=4, keep=[0, iteration])


class Twice(Net):
    """Its first convolution runs before the second and, of other maps, after it."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv2(self.relu1(self.conv1(images)))
        return self.head(maps.mean(dim=(2, 3))) + self.conv1(1 - images).mean()


def test_a_layer_that_runs_again_is_refused_where_the_output_is_not_read(images: Tensor) -> None:
    net = Twice()
    with pytest.raises(ValueError, match="'conv1' runs more than once"):
        r.maps_of(net, ["conv1"], images)
    with pytest.raises(ValueError, match="'conv1' runs more than once"):
        go(net, images, objective=-r.channel("conv1", 0), steps=1)
    with r.seeing(net, ["conv1"]) as see:
        for _ in range(2):
            with pytest.raises(ValueError, match="'conv1' runs more than once"):
                see(images)
    assert r.maps_of(net, ["conv2"], images)["conv2"].shape == (2, 5, 4, 4)


def test_a_head_that_wants_another_size_does_not_matter_below_it(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 4))
    for side, size in ((8, 6), (10, 8)):
        resized = nn.functional.interpolate(images, side)
        assert r.maps_of(net, ["0"], resized)["0"].shape == (2, 2, size, size)
    with pytest.raises(ValueError), r.seeing(net, ["0"], output=True) as see:
        see(nn.functional.interpolate(images, 10))
    broken = nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten())
    with pytest.raises(ValueError, match="channels"):
        r.maps_of(broken, ["0"], images)


def test_outputs_of_few_digits_are_read_with_more(net: Net, images: Tensor) -> None:
    halved = deepcopy(net).bfloat16()
    with (
        torch.no_grad(),
        r.seeing(halved, ["conv2"], output=True, preprocess=Tensor.bfloat16) as see,
    ):
        seen = see(images)
    assert seen.output is not None
    assert seen.output.dtype == seen.layers["conv2"].dtype == torch.float32


OBJECTIVE = -r.channel("conv2", 1) + 0.1 * r.total_variation()


def go(net: nn.Module, start: Tensor, **changes: object) -> r.Rendering:
    given: dict[str, object] = {"steps": 12, "learning_rate": 0.05, **changes}
    return r.render(net, start, given.pop("objective", OBJECTIVE), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["adam", "normalised"])
def test_the_objective_falls_and_pixels_stay_displayable(
    net: Net, images: Tensor, rule: str
) -> None:
    found = go(net, images, rule=rule, steps=40, keep=[0, 5, 40])
    assert found.losses.shape == (40, 2) and (found.losses[-1] < found.losses[0]).all()
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert list(found.kept) == [0, 5, 40] and torch.equal(found.kept[0], images)
    assert torch.equal(found.kept[40], found.images)
    after = r.measure(net, found.images, OBJECTIVE)
    assert (after < found.losses[0]).all() and found.arrived.tolist() == [40, 40]
    torch.testing.assert_close(r.measure(net, images, OBJECTIVE), found.losses[0])


def test_the_same_seed_gives_the_same_image(net: Net, images: Tensor) -> None:
    before = torch.get_rng_state()
    runs = [go(net, images, views=[r.Jitter(2)], random_state=s).images for s in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rule", ["adam", "normalised"])
def test_every_image_goes_its_own_way(net: Net, images: Tensor, rule: str) -> None:
    together = go(net, images, rule=rule, smoothing=[r.GaussianBlur(0.5)])
    alone = go(net, images[1:], rule=rule, smoothing=[r.GaussianBlur(0.5)])
    torch.testing.assert_close(together.images[1:], alone.images)


def test_a_step_has_the_size_that_is_asked_for_and_the_mask_holds_it_back(net: Net) -> None:
    start = torch.full((1, 3, 8, 8), 0.5)
    plain = go(net, start, steps=1, learning_rate=0.01).images - start
    assert abs(float(plain.square().mean().sqrt()) - 0.01) < 1e-6
    masked = go(net, start, steps=1, learning_rate=0.01, mask=r.CentreMask(0.2)).images - start
    assert masked[..., 0].abs().sum() / masked.abs().sum() < 0.5 * float(
        plain[..., 0].abs().sum() / plain.abs().sum()
    )


def test_the_network_comes_back_as_it_was(net: Net, images: Tensor) -> None:
    net.train()
    net.drop.eval()
    net.conv1.weight.requires_grad_(False)
    net.conv2.weight.grad = torch.ones_like(net.conv2.weight)
    state = deepcopy(net.state_dict())
    go(net, images, objective=r.logit(0) + r.l1("conv1"))
    with pytest.raises(ValueError, match="no layer"):
        go(net, images, objective=r.l1("nowhere"))
    assert all(torch.equal(x, net.state_dict()[name]) for name, x in state.items())
    assert net.training and not net.drop.training and net.relu1.inplace
    assert not net.conv1.weight.requires_grad and net.conv1.bias.grad is None
    assert (net.conv2.weight.grad == 1).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_octaves_end_in_the_size_of_the_image(net: Net, images: Tensor) -> None:
    found = go(net, images, octaves=(0.5, 1.0), keep=[1, 12])
    assert found.kept[1].shape[2:] == (4, 4) and found.images.shape == images.shape
    F0 = r.maps_of(net, ["conv2"], images)["conv2"]
    codes = go(net, images, objective=r.code("conv2", F0), octaves=(0.5, 1.0), steps=4)
    assert codes.images.shape == images.shape


def test_images_that_have_arrived_stay_and_the_loop_ends(net: Net, images: Tensor) -> None:
    with torch.no_grad():
        z = net.eval()(images)[:, 0]

    def until(seen: Seen) -> Tensor:
        assert seen.output is not None
        first = torch.tensor([True, False])
        return torch.where(first, seen.output[:, 0] > z + 0.001, seen.output[:, 0] > z + 0.02)

    found = go(net, images, objective=-r.logit(0), steps=200, until=until, rule="adam")
    first, second = found.arrived.tolist()
    assert 0 < first < second < 200 and len(found.losses) == second
    assert found.losses[first:, 0].isnan().all() and found.losses[:, 1].isfinite().all()
    again = go(net, images, objective=-r.logit(0), steps=first, learning_rate=0.05, rule="adam")
    assert torch.equal(found.images[0], again.images[0])


def test_parameters_of_an_objective_are_optimised_with_the_image(net: Net, images: Tensor) -> None:
    p = torch.ones((), requires_grad=True)
    objective = r.Objective(lambda seen: (p - 3).square().expand(2), "p", parameters=[p])
    go(net, images, objective=objective + r.l1("conv1"), steps=200, parameter_rate=0.1)
    assert abs(float(p.detach()) - 3) < 0.05


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_number_of_channels(channels: int) -> None:
    found = go(Net(channels), r.noise(1, channels, (8, 6)), objective=-r.channel("conv2", 0))
    assert found.images.shape == (1, channels, 8, 6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps: expected at least 1"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"rule": "lbfgs"}, "rule: expected one of adam, normalised"),
        ({"octaves": (0.5, 0.7)}, "end with 1"),
        ({"octaves": (1.0, 1.0), "steps": 1}, "at most 1"),
        (
            {"octaves": (0.5, 1.0), "until": lambda seen: seen.output[:, 0] > 0},
            "until: an image that has arrived stays as it is",
        ),
        ({"preprocess": torch.round}, None),
        (
            {"preprocess": torch.detach, "objective": r.l1("conv1")},
            "does not depend on the image",
        ),
        ({"objective": r.l1("conv1") * float("inf")}, "NaN or infinite at iteration 1"),
        (
            {"objective": r.Objective(lambda seen: seen.images.sum(), "all")},
            r"a number for each of 2 images, got \[\]",
        ),
    ],
)
def test_the_loop_refuses_what_cannot_be_optimised(
    net: Net, images: Tensor, changes: dict[str, object], told: str | None
) -> None:
    if told is None:  # no slope is no error: the image stays where it is
        objective = -r.channel("conv2", 1)
        still = go(net, images, objective=objective, **changes)
        assert torch.equal(still.images, images)
        return
    with pytest.raises(ValueError, match=told):
        go(net, images, **changes)
