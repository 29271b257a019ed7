"""The Mind's Eye: robust loss, facets, objective, the layer before, images and scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_render import Net
from tiny_networks import in_a_dict, three
from torch import Tensor, nn

from emergence_ext.data import image_set
from emergence_ext.mindseye import (
    AdaptiveRobust,
    Facets,
    Schedule,
    alignment,
    distance,
    find_facets,
    log_normaliser,
    minds_eye,
    previous_layer,
    robust,
    top_channels,
)
from emergence_ext.mindseye.facets import facet_weights, pooled
from emergence_ext.models import load_model, load_weights
from emergence_ext.preprocessing import preprocess
from emergence_ext.render import Ramp, l1, maps_of
from emergence_ext.render.seen import Seen

X = torch.tensor([-300.0, -7.5, -1.0, -0.03, 0.0, 1e-4, 0.4, 2.0, 90.0], dtype=torch.float64)

# The losses that kornia publishes for fixed shapes (kornia.losses: charbonnier, cauchy,
# geman_mcclure, welsch), as their formulas say.
KORNIA = {
    1.0: lambda x: (x.square() + 1).sqrt() - 1,
    0.0: lambda x: (x.square() / 2 + 1).log(),
    -2.0: lambda x: 2 * x.square() / (x.square() + 4),
    -math.inf: lambda x: 1 - (-x.square() / 2).exp(),
    2.0: lambda x: x.square() / 2,
}


@pytest.mark.parametrize("shape", KORNIA)
def test_the_robust_loss_is_the_known_one_at_fixed_shapes(shape: float) -> None:
    # rtol: the closed forms themselves cancel for small residuals.
    expected = KORNIA[shape](X)
    torch.testing.assert_close(robust(X, shape), expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(robust(X, shape, 2.5), KORNIA[shape](X / 2.5), rtol=1e-9, atol=1e-15)
    single = robust(X.float(), shape)
    torch.testing.assert_close(single, expected.float(), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize(("limit", "near"), [(2.0, (2 - 1e-9, 2 + 1e-9)), (0.0, (-1e-9, 1e-9))])
def test_the_robust_loss_is_continuous_where_its_formula_is_not(
    limit: float, near: tuple[float, float]
) -> None:
    for shape in near:
        torch.testing.assert_close(robust(X, shape), robust(X, limit), rtol=1e-6, atol=1e-12)


def test_the_robust_loss_goes_to_welschs_for_ever_more_negative_shapes() -> None:
    x = X[X.abs() < 10]
    apart = [(robust(x, b) - robust(x, -math.inf)).abs().max() for b in (-1e2, -1e4, -1e6)]
    assert apart[0] > 50 * apart[1] > 50 * 50 * apart[2] and apart[2] < 1e-5


@pytest.mark.parametrize("shape", [-3.0, -1e-3, 1e-3, 0.7, 1.9, 2.5])
def test_gradients_of_the_robust_loss(shape: float) -> None:
    x = torch.tensor([-4.0, -0.2, 0.7, 30.0], dtype=torch.float64, requires_grad=True)
    b = torch.full((4,), shape, dtype=torch.float64, requires_grad=True)
    r = torch.tensor([0.3, 1.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(robust, (x, b, r), eps=1e-7, atol=1e-6, rtol=1e-5)


def test_gradients_are_finite_at_the_special_shapes() -> None:
    x = torch.tensor([0.0, 3.0], requires_grad=True)
    for shape in KORNIA:
        (gradient,) = torch.autograd.grad(robust(x, shape).sum(), x)
        assert gradient.isfinite().all() and gradient[0] == 0 and gradient[1] > 0


def test_the_normaliser_is_the_known_one() -> None:
    # Z(0) = pi sqrt 2; Z(1) = 2 e K_1(1), K_1(1) = 0.60190723019723457473...; Z(2) = sqrt(2 pi).
    known = [math.pi * math.sqrt(2), 2 * math.e * 0.6019072301972346, math.sqrt(2 * math.pi)]
    found = log_normaliser(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)).exp()
    torch.testing.assert_close(found, torch.tensor(known, dtype=torch.float64), rtol=1e-12, atol=0)
    between = log_normaliser(torch.linspace(0, 2, 41, dtype=torch.float64))
    assert (between.diff() < 0).all()
    b = torch.tensor([0.02, 0.4, 1.3, 1.95], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_normaliser, (b,), eps=1e-7, atol=1e-6)
    for wrong in (-0.1, 2.1):
        with pytest.raises(ValueError, match="expected in"):
            log_normaliser(torch.tensor(wrong))


def test_a_density_integrates_to_one() -> None:
    x = torch.sinh(torch.arange(-30, 30, 0.01, dtype=torch.float64))
    for b in (0.3, 1.0, 1.7):
        shape = torch.tensor(b, dtype=torch.float64)
        density = (-robust(x, shape, 2.0) - math.log(2.0) - log_normaliser(shape)).exp()
        assert abs(float(torch.trapezoid(density, x)) - 1) < 1e-4


def fitted(x: Tensor) -> AdaptiveRobust:
    adaptive = AdaptiveRobust(1).double()
    optimiser = torch.optim.LBFGS(
        adaptive.parameters(), max_iter=200, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        r, b = adaptive.scale, adaptive.shape
        value = (robust(x, b, r) + r.log() + log_normaliser(b)).mean()
        value.backward()
        return value

    optimiser.step(loss)
    return adaptive


def test_the_scale_does_not_run_away_and_the_shape_follows_the_tails() -> None:
    # Quantiles and no samples: these may have heavier tails than what they were drawn from.
    share = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    normal, cauchy = 3 * torch.special.ndtri(share), 3 * (math.pi * (share - 0.5)).tan()
    thin, heavy = fitted(normal), fitted(cauchy)
    thin_r, thin_b, heavy_r, heavy_b = (
        float(x.detach()) for eye in (thin, heavy) for x in (eye.scale, eye.shape)
    )
    assert abs(thin_r - 3) < 0.2 and thin_b > 1.9
    # A Cauchy distribution of width 3 is b = 0 with r = 3 / sqrt 2.
    assert abs(heavy_r - 3 / math.sqrt(2)) < 0.2 and heavy_b < 0.1
    with pytest.raises(ValueError, match="scale"):
        AdaptiveRobust(1, scale=0.0)
    for wrong in (0.0, -1.0):
        with pytest.raises(ValueError, match="scale: expected above 0"):
            robust(X, 1.0, wrong)
    with pytest.raises(ValueError, match="shape"):
        robust(X, math.nan)


def test_planted_facets_are_found_and_their_members_are_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(70, 30, generator=generator)
    rows[:40] += 12 * torch.eye(30)[0]
    rows[40:] += 12 * torch.eye(30)[1]
    before = torch.get_rng_state()
    found = find_facets(rows, 2, random_state=1)
    assert torch.equal(found.labels, torch.arange(70).ge(40).long())  # the larger one first
    for c, facet in enumerate(found.facets):
        assert len(facet.members) == 10 and (found.labels[facet.members] == c).all()
        away = (found.points[facet.members] - found.centres[c]).norm(dim=1)
        torch.testing.assert_close(facet.distances, away)
        assert (facet.distances.diff() >= 0).all() and (facet.weights.diff() <= 0).all()
        assert abs(float(facet.weights.sum()) - 1) < 1e-6
        others = (found.points[found.labels == c] - found.centres[c]).norm(dim=1)
        torch.testing.assert_close(facet.distances, others.sort().values[:10])
    again = find_facets(rows, 2, random_state=1)
    assert torch.equal(found.points, again.points)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_nearly_even_and_never_one_hot() -> None:
    even = facet_weights(torch.linspace(3, 9, 10))
    assert even.max() / even.min() < 1.3
    one = facet_weights(torch.tensor([1e-12, 4.0, 4.0, 5.0], dtype=torch.float64))
    expected = torch.tensor([2, 0.25, 0.25, 0.2], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_few_images_make_facets_of_what_there_is(count: int) -> None:
    rows = torch.randn(count, 7, generator=torch.Generator().manual_seed(count))
    found = find_facets(rows, 1)
    assert len(found.facets[0].members) == min(count, 10) and found.points.isfinite().all()
    each = find_facets(rows, count)
    assert sorted(int(f.members[0]) for f in each.facets) == list(range(count))
    with pytest.raises(ValueError, match=rf"at most {count}, .* got {count + 1}"):
        find_facets(rows, count + 1)


def test_constant_activations_are_one_facet_and_no_more() -> None:
    rows = torch.ones(12, 5)
    found = find_facets(rows, 1)
    assert (found.points == 0).all()
    torch.testing.assert_close(found.facets[0].weights, torch.full((10,), 0.1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"at most 1, .* \(12 are given\), got 2"):
        find_facets(rows, 2)
    for wrong in (torch.full((3, 2), torch.nan), torch.ones(3)):
        with pytest.raises(ValueError, match="activations"):
            find_facets(wrong, 1)


def test_large_maps_are_pooled_before_they_are_grouped() -> None:
    maps = torch.arange(2 * 28 * 28.0).view(1, 2, 28, 28)
    assert pooled(maps).shape == (1, 2 * 14 * 14)
    assert pooled(maps)[0, 0] == maps[0, 0, :2, :2].mean()
    assert torch.equal(pooled(maps[..., :3, :5]), maps[..., :3, :5].flatten(1))


@pytest.fixture
def target() -> Tensor:
    return torch.rand(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))


def test_terms_of_the_objective_are_what_they_say(target: Tensor) -> None:
    channels = top_channels(target, 2)
    means = target.mean(dim=(2, 3))
    assert torch.equal(means.gather(1, channels), means.sort(dim=1, descending=True).values[:, :2])
    adaptive = AdaptiveRobust(2)
    align, apart = alignment("a", target, channels), distance("a", target, channels, adaptive)
    assert apart.parameters == tuple(adaptive.parameters()) and align.parameters == ()

    def at(share: float) -> Seen:
        return Seen(target, {"a": share * target})

    torch.testing.assert_close(align(at(1.0)), torch.ones(2))
    torch.testing.assert_close(align(at(-0.5)), torch.full((2,), -0.5))
    # Distances of 0, 1 and 3 targets' lengths.
    for share, x in ((1.0, 0.0), (0.0, 1.0), (4.0, 3.0)):
        expected = adaptive(torch.full((2,), x)).detach()
        torch.testing.assert_close(apart(at(share)).detach(), expected, atol=1e-4, rtol=1e-4)
    # Channels that do not count do not count.
    other = target.clone()
    rest = top_channels(target, 6)[:, 2:]
    other.scatter_(1, rest[:, :, None, None].expand(-1, -1, 3, 4), 9.0)
    torch.testing.assert_close(align(Seen(other, {"a": other})), torch.ones(2))


def test_the_objective_refuses(target: Tensor) -> None:
    for k in (0, 7):
        with pytest.raises(ValueError, match="top_k: expected 1 to 6"):
            top_channels(target, k)
    dead = target.clone()
    dead[1] = 0
    with pytest.raises(ValueError, match="may be dead"):
        alignment("a", dead, top_channels(dead, 2))


class Blocks(nn.Module):
    """A residual block between two layers, defined in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.relu = nn.ReLU()
        self.last = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.first(images))))
        return self.head(self.last(x + self.inner(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("layer", "before"),
    [
        ("first", None),
        ("norm", None),
        ("relu", None),
        ("pool", None),
        ("inner", "pool"),
        ("inner.0", "pool"),
        ("inner.1", "pool"),
        ("last", "inner"),
        ("last.0", "inner"),
        ("last.1", "inner"),
        ("last.2", "inner"),
    ],
)
def test_the_layer_before_is_found_from_the_order_in_which_they_run(
    layer: str, before: str | None
) -> None:
    module = Blocks().train()
    assert previous_layer(module, layer, torch.rand(1, 3, 8, 8)) == before
    assert module.training and not any(m._forward_hooks for m in module.modules())
    assert (module.norm.running_mean == 0).all()


def test_the_layer_before_in_networks_of_the_package() -> None:
    images = torch.rand(1, 3, 32, 32)
    assert previous_layer(three(), "conv2_1", images) == "pool"
    from emergence_ext.networks import vgg16_pooled

    vgg = vgg16_pooled()
    assert previous_layer(vgg, "features.29", images) == "features.27"  # conv5_3, conv5_2
    assert previous_layer(vgg, "features.28", images) == "features.27"
    assert previous_layer(vgg, "features.25", images) == "features.23"  # conv5_1, pooling
    with pytest.raises(ValueError, match="never runs"):
        previous_layer(Blocks(), "unused", images)
    with pytest.raises(ValueError, match="no layer"):
        previous_layer(Blocks(), "absent", images)


QUICK = Schedule(steps=30, learning_rate=Ramp(0.05, 0.01), blur=Ramp(0.4, 0.2), denoising=None)


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(14, 3, 10, 10, generator=generator)


def test_images_of_facets_reach_their_channels(net: Net, images: Tensor) -> None:
    state = {name: x.clone() for name, x in net.train().state_dict().items()}
    eye = minds_eye(
        net, images, "relu2", facets=2, top_k=2, schedule=QUICK, keep=[0, 30], batch_size=5
    )
    assert eye.previous == "relu1" and eye.images.shape == (2, 3, 10, 10)
    assert eye.images.min() >= 0 and eye.images.max() <= 1
    for c, facet in enumerate(eye.facets.facets):
        mean = (facet.weights[:, None, None, None] * images[facet.members]).sum(0)
        torch.testing.assert_close(eye.initial[c], mean.float())
    assert torch.equal(eye.kept[0], eye.initial) and torch.equal(eye.kept[30], eye.images)
    assert (eye.losses[-1] < eye.losses[0]).all()
    assert (eye.score.rendered > eye.score.initial).all()
    maps = maps_of(net, ["relu2"], images)["relu2"].mean(dim=(2, 3))
    expected = torch.stack([maps[:, eye.channels[c]].mean(1) for c in range(2)])
    torch.testing.assert_close(eye.score.real, expected)
    assert eye.score.best_real[0] == expected[0].max() and eye.score.logits.shape == (2, 3)  # type: ignore[union-attr]
    assert net.training and all(torch.equal(x, state[n]) for n, x in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert (eye.scale > 0).all() and ((eye.shape > 0) & (eye.shape < 2)).all()


def test_the_same_seed_gives_the_same_image_and_facets_can_be_kept(
    net: Net, images: Tensor
) -> None:
    schedule = replace(QUICK, steps=5, jitter=2, crop=Ramp(0.9, 1.0), octaves=(0.7, 1.0))

    def go(facets: int | Facets, seed: int) -> Tensor:
        eye = minds_eye(
            net, images, "relu2", facets=facets, top_k=2, schedule=schedule, random_state=seed
        )
        return eye.images

    eye = minds_eye(net, images, "relu2", facets=2, top_k=2, schedule=schedule, random_state=3)
    assert torch.equal(go(2, 3), eye.images) and torch.equal(go(eye.facets, 3), eye.images)
    assert not torch.equal(go(eye.facets, 4), eye.images)


def test_the_schedule_of_the_paper_runs_with_denoising(net: Net, images: Tensor) -> None:
    pytest.importorskip("skimage")
    eye = minds_eye(net, images, "relu2", top_k=3, schedule=replace(Schedule(), steps=3))
    assert eye.losses.isfinite().all() and eye.losses.shape == (3, 1)


def test_only_regions_that_are_chosen_count(net: Net, images: Tensor) -> None:
    regions = torch.zeros(14, 5, 5, dtype=torch.bool)
    regions[:, :2] = True
    eye = minds_eye(net, images, "relu2", top_k=2, schedule=QUICK, regions=regions)
    before, after = (maps_of(net, ["relu2"], x)["relu2"][0] for x in (eye.initial, eye.images))
    rise = (after - before)[eye.channels[0]].mean(dim=(0, 2))
    assert rise[:2].mean() > 2 * rise[3:].mean()
    regions[4] = False
    with pytest.raises(ValueError, match="image 4 has none"):
        minds_eye(net, images, "relu2", regions=regions)
    with pytest.raises(ValueError, match=r"bool \[14, H, W\]"):
        minds_eye(net, images, "relu2", regions=regions.float())


def test_the_first_layer_has_none_before_it_and_goes_without_the_term(
    net: Net, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    eye = minds_eye(net, images, "relu1", top_k=2, schedule=QUICK)
    assert eye.previous is None and "conv" not in str(eye.previous)
    assert "is the first layer" in caplog.text and (eye.losses[-1] < eye.losses[0]).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"top_k": 6}, "top_k: expected 1 to 5"),
        ({"facets": 15}, "at most 14"),
        ({"layer": "relu3"}, "no layer 'relu3'"),
        ({"layer": "head"}, "Choose a layer before the pooling"),
        ({"images": torch.rand(3, 10, 10)}, "all of one size"),
        ({"images": torch.rand(0, 3, 10, 10)}, "all of one size"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    net: Net, images: Tensor, changes: dict[str, object], told: str
) -> None:
    given = {"images": images, "layer": "relu2", "top_k": 2, "schedule": QUICK, **changes}
    with pytest.raises(ValueError, match=told):
        minds_eye(net, given.pop("images"), given.pop("layer"), **given)  # type: ignore[arg-type]


def test_a_dead_layer_and_identical_images(net: Net, images: Tensor) -> None:
    same = images[:1].repeat(4, 1, 1, 1)
    assert minds_eye(net, same, "relu2", top_k=1, schedule=QUICK).images.isfinite().all()
    with pytest.raises(ValueError, match="at most 1"):
        minds_eye(net, same, "relu2", facets=2, top_k=1, schedule=QUICK)
    with torch.no_grad():
        net.conv2.bias.fill_(-100)
    with pytest.raises(ValueError, match="may be dead"):
        minds_eye(net, images, "relu2", top_k=1, schedule=QUICK)


def test_a_network_without_logits_has_no_class_and_grey_images_work() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        odd, grey = in_a_dict(), Net(1)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    schedule = replace(QUICK, steps=3)
    assert minds_eye(odd, x, "conv", top_k=1, schedule=schedule).score.logits is None
    assert minds_eye(grey, x[:, :1], "relu2", top_k=1, schedule=schedule).images.shape[1] == 1


def test_any_objective_runs_by_the_schedule(net: Net, images: Tensor) -> None:
    objective = 0.1 * l1("relu1") - distance(
        "relu2", torch.rand(1, 5, 5, 5), torch.tensor([[0]]), AdaptiveRobust(1)
    )
    assert QUICK.run(net, images[:1], objective).images.shape == (1, 3, 10, 10)


@pytest.mark.slow
def test_the_image_of_a_category_excites_vgg16_more_than_its_photographs(data_dir: Path) -> None:
    pytest.importorskip("skimage")
    net = load_model("vgg16_pooled")
    weights = data_dir / "weights" / "vgg16_imagenet_conv.safetensors"
    load_weights(net.module, weights, partial=True)
    samples = image_set(data_dir / "tiny-imagenet-10" / "val" / "golden_retriever", size=112)
    images = torch.stack([samples[i][0] for i in range(len(samples))])
    eye = minds_eye(
        net.module, images, net.layers["conv5_3"], preprocess=preprocess(net.preprocess)
    )
    assert eye.previous == "features.27"
    assert eye.score.rendered > 3 * eye.score.initial
    assert eye.score.rendered > eye.score.best_real
