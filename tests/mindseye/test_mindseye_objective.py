"""The Mind's Eye: robust loss, terms of the objective, and the layer before."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from emergence_ext.mindseye import (
    AdaptiveRobust,
    Schedule,
    alignment,
    distance,
    log_normaliser,
    minds_eye,
    previous_layer,
    robust,
    top_channels,
)
from emergence_ext.render.seen import Seen
from tests.tiny_networks import three

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


def test_the_normaliser_is_exact_where_the_loss_turns_from_square_to_power() -> None:
    integrate = pytest.importorskip("scipy.integrate")
    for b in (1.9, 1.999, 1.99999):
        parts = [
            integrate.quad(
                lambda x, b=b: math.exp(-float(robust(torch.tensor(x, dtype=torch.float64), b))),
                *ends,
                epsabs=0,
                epsrel=1e-12,
                limit=400,
            )[0]
            for ends in ((0, 1), (1, 6), (6, 40), (40, 1e4), (1e4, 1e7))
        ]
        found = float(log_normaliser(torch.tensor(b, dtype=torch.float64)))
        assert abs(found - math.log(2 * sum(parts))) < 1e-11


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
    from emergence_ext.network.builtin import vgg16_pooled

    vgg = vgg16_pooled()
    assert previous_layer(vgg, "features.29", images) == "features.27"  # conv5_3, conv5_2
    assert previous_layer(vgg, "features.28", images) == "features.27"
    assert previous_layer(vgg, "features.25", images) == "features.23"  # conv5_1, pooling
    with pytest.raises(ValueError, match="never runs"):
        previous_layer(Blocks(), "unused", images)
    with pytest.raises(ValueError, match="no layer"):
        previous_layer(Blocks(), "absent", images)


class Repeated(nn.Module):
    """One ReLU after every convolution; `twice` makes of the first convolution two."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.twice = twice
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.conv1(images))
        if self.twice:
            x = self.relu(self.conv1(x))
        return self.relu(self.conv2(x)).mean(dim=(2, 3))


def test_what_runs_more_than_once_is_no_layer_before(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quick = Schedule(steps=2, denoising=None)
    assert minds_eye(Repeated(), images, "conv2", top_k=1, schedule=quick).previous == "conv1"
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        eye = minds_eye(Repeated(twice=True), images, "conv2", top_k=1, schedule=quick)
    assert eye.previous is None and "no layer before it that runs once" in caplog.text


class Attending(nn.Module):
    """Attention, whose weight is its own and not a child's, and two normed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.relu = nn.ReLU()
        self.second = parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.middle = nn.ReLU()
        self.third = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.tanh = nn.Tanh()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.drop = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        x = self.middle(self.second(self.relu(self.first(images))))
        tokens = self.tanh(self.third(x)).flatten(2).transpose(1, 2)
        return self.drop(self.attention(tokens, tokens, tokens)[0]).mean(1)


@pytest.mark.parametrize(
    ("layer", "before"),
    [("relu", None), ("middle", "relu"), ("tanh", "middle"), ("drop", "tanh")],
)
def test_weights_that_are_made_or_owned_beside_children_are_weights(
    layer: str, before: str | None
) -> None:
    assert previous_layer(Attending(), layer, torch.rand(1, 3, 4, 4)) == before
