"""Gradients: captum's own where captum is right, and right where it misses ReLUs."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from emergence_ext.data.samples import ArraySamples
from emergence_ext.lookinside import gradients as G
from emergence_ext.lookinside.occlusion import region_occlusion
from emergence_ext.network.rectifiers import rectifies
from emergence_ext.report.look.gradients import gradients as sheet
from emergence_ext.report.look.sheet import Scene
from emergence_ext.run.subject import Subject
from tests import tiny_networks

attr = pytest.importorskip("captum.attr")

ZERO = torch.zeros(3)

RULES = {G.deconvnet: attr.Deconvolution, G.guided_backprop: attr.GuidedBackprop}


class Net(nn.Module):
    """The same function with ReLUs written in other ways."""

    def __init__(self, kind: str = "modules", channels: int = 3) -> None:
        super().__init__()
        self.kind = kind
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.a, self.b = nn.Conv2d(channels, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
            self.c, self.fc = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)
        relus = [nn.ReLU(inplace=kind == "in place") for _ in range(3)]
        self.relus = nn.ModuleList([relus[0]] * 3 if kind == "shared" else relus)
        self.double()

    def relu(self, x: Tensor, k: int) -> Tensor:
        match self.kind:
            case "functional":
                return functional.relu(x)
            case "unused result":
                x = x.clone()
                functional.relu(x, inplace=True)
                return x
            case "methods":
                return x.relu_() if k else x.relu()
            case "clamp":
                return x.clamp(min=0)
            case "threshold":
                return functional.threshold(x, 0, 0)
            case "maximum":
                zero = torch.zeros((1,) * k, dtype=x.dtype)
                return torch.maximum(zero, x) if k else torch.max(x, zero)
            case "tensor bound":
                return x.clamp(min=torch.zeros_like(x) if k else torch.tensor(0))
            case "clipped":
                return x.clamp(0, 1e9)
        return self.relus[k](x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x), 0)
        # Both branches are there before either is rectified.
        left, right = self.b(x), self.c(x)
        return self.fc((self.relu(left, 1) - self.relu(right, 2)).mean(dim=(2, 3)))


KINDS = [
    "modules",
    "in place",
    "shared",
    "functional",
    "methods",
    "clamp",
    "threshold",
    "maximum",
    "tensor bound",
    "clipped",
    "unused result",
]


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(3, 3, 10, 10, generator=generator, dtype=torch.float64)


@pytest.fixture
def target() -> Tensor:
    return torch.tensor([3, 0, 1])


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b.detach()).abs().max() <= 1e-6 * b.abs().max())


@pytest.mark.parametrize("kind", ["modules", "in place"])
@pytest.mark.parametrize("rule", RULES)
def test_rules_at_relus_are_captums_own(rule, kind, images, target) -> None:
    network = Net(kind)
    theirs = RULES[rule](network).attribute(images.clone(), target=target)
    assert theirs.abs().max() > 0 and close(rule(network, images, target), theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_rules_do_not_depend_on_how_relus_are_written(rule, kind, images, target) -> None:
    theirs = RULES[rule](Net()).attribute(images.clone(), target=target)
    assert close(rule(Net(kind), images, target, batch_size=2), theirs)


def test_captum_itself_misses_functional_relus(images, target) -> None:
    """What the above is for: with hooks alone this would be the plain gradient."""
    network = Net("functional")
    theirs = attr.GuidedBackprop(network).attribute(images.clone(), target=target)
    assert close(G.saliency(network, images, target), theirs)
    assert not close(G.guided_backprop(network, images, target), theirs)


def test_saliency_smooth_grad_and_grad_cam_are_captums_own(images, target) -> None:
    network = Net("in place")
    theirs = attr.Saliency(network).attribute(images.clone(), target=target, abs=False)
    assert close(G.saliency(network, images, target, batch_size=2), theirs)
    plain = Net()
    layer = attr.LayerGradCam(plain, plain.b)
    assert close(G.grad_cam(network, "b", images, target), layer.attribute(images, target)[:, 0])


def test_smooth_grad_is_captums_own_of_the_same_noise_in_passes_of_any_size(monkeypatch) -> None:
    network = Net("in place")
    images = torch.rand(2, 3, 7, 7, dtype=torch.float64)  # odd: torch would draw others in blocks
    ours = [
        G.smooth_grad(
            network, images, [0, 2], n_samples=10, noise_level=0.2, perturbations_per_eval=size,
            random_state=7,
        )
        for size in (10, 1, 4, 64)
    ]  # fmt: skip
    assert ours[0].abs().max() > 0 and all(close(ours[0], other) for other in ours[1:])
    generator = torch.Generator().manual_seed(7)
    noise = torch.stack([torch.randn(3, 7, 7, generator=generator) for _ in range(10)])
    monkeypatch.setattr(torch, "normal", lambda _mean, deviation: noise.double() * deviation)
    x = images[1:]
    theirs = attr.NoiseTunnel(attr.Saliency(network)).attribute(
        x.clone(), nt_samples=10, nt_samples_batch_size=10, target=2, abs=False,
        stdevs=0.2 * float(x.max() - x.min()),
    )  # fmt: skip
    assert close(ours[0][1:], theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_sheet_of_a_network_of_another_precision(dtype) -> None:
    shown = scene(3, Net(), {"conv": "c"})
    module = copy.deepcopy(shown.subject.module).to(dtype)
    made = sheet(Scene(Subject(module, {"conv": "c"}, shown.subject.dataset), [0, 1], ["conv"]))
    other = sheet(shown).tables["random_weights"]
    assert len(made.tables["random_weights"]) == len(other) == 2
    assert made.tables["random_weights"][0].keys() == other[0].keys()
    found = G.saliency(module, torch.rand(1, 3, 9, 9).to(dtype), 0)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_compiled_network_has_gradients_but_nothing_that_needs_hooks() -> None:
    shown = scene(3, Net(), {"conv": "c"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(shown.subject.module.eval(), torch.rand(2, 3, 28, 28))
    made = sheet(Scene(Subject(module, {"conv": "c"}, shown.subject.dataset), [0, 1], ["conv"]))
    told = " ".join(made.notes)
    for name in ("DeconvNet", "guided backprop.", "Grad-CAM"):
        assert f"{name} is left out: module: it is compiled to TorchScript" in told
    assert "gradient: rank correlation" in told


def test_relu6_keeps_its_ceiling() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU6(), nn.Flatten()).double()
    network[0].weight.data.fill_(1)
    x = torch.tensor([-1.0, 2, 7]).double().reshape(3, 1, 1, 1)
    assert G.guided_backprop(network, x, 0).flatten().tolist() == [0, 1, 0]
    clipped = nn.Sequential(network[0], nn.Hardtanh(0.0), nn.Flatten())
    assert G.guided_backprop(clipped, x / 3, 0).flatten().tolist() == [0, 1, 0]
    # DeconvNet asks what comes back, not whether the ReLU was open; the ceiling is no part of it.
    assert G.deconvnet(network, x, 0).flatten().tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("relu", (0,), {}), True),
        (("clamp", (0,), {"min": 0}), True),
        (("clamp", (0, 0, 1), {}), True),
        (("clamp", (0, 0, -1), {}), False),
        (("clamp", (0, -1, 1), {}), False),
        (("clamp", (ZERO + 1, torch.tensor([0.0, 0, 1])), {}), False),
        (("clamp", (torch.zeros(1), ZERO), {}), False),  # the bound gives it its shape
        (("maximum", (ZERO + 1, ZERO), {}), True),
        (("maximum", (ZERO + 1,), {"other": torch.tensor(0)}), True),
        (("maximum", (ZERO + 1, ZERO + 2), {}), False),
        (("max", (ZERO,), {}), False),
        (("max", (ZERO, 0), {}), False),
        (("leaky_relu", (ZERO, 0.0), {}), False),
        (("clamp", (0,), {"min": 1e-6}), False),
        (("clamp_min_", (0, 0), {}), True),
        (("hardtanh", (0, 0.0, 6.0), {}), True),
        (("hardtanh", (0, -1.0, 1.0), {}), False),
        (("threshold", (0, 0, 0), {}), True),
        (("threshold", (0, 1, 0), {}), False),
        (("gelu", (0,), {}), False),
    ],
)
def test_what_is_a_relu(call, expected) -> None:
    assert rectifies(*call) is expected


def test_hidden_relus_are_said(images) -> None:
    assert G.hidden_relus(Net(), images) == [] == G.hidden_relus(Net("in place"), images)
    assert G.hidden_relus(Net("functional"), images) == ["relu in the network itself (3 times)"]
    assert G.hidden_relus(Net("shared"), images) == ["module relus.0, which is shared (3 calls)"]
    six = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU6(), nn.Flatten()).double()
    assert G.hidden_relus(six, images) == ["module 1, a ReLU6"]


def test_smooth_grad_of_an_image_depends_on_nothing_else(images, target) -> None:
    network = Net()
    state = torch.random.get_rng_state()
    together = G.smooth_grad(network, images, target, n_samples=6, perturbations_per_eval=4)
    alone = G.smooth_grad(network, images[2:], target[2:], n_samples=6, perturbations_per_eval=4)
    assert torch.equal(together[2:], alone)
    assert torch.equal(state, torch.random.get_rng_state())
    other = G.smooth_grad(network, images, target, n_samples=6, random_state=1)
    assert not torch.allclose(together, other)
    still = G.smooth_grad(network, images, target, n_samples=2, noise_level=0)
    assert torch.allclose(still, G.saliency(network, images, target))


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_comes_back_as_it_was(kind, images, target) -> None:
    network = Net(kind).train()
    network.fc.weight.requires_grad_(False)
    before, given = copy.deepcopy(network), images.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (G.saliency, *RULES):
            method(network, images, target)
        G.grad_cam(network, "c", images, target)
    assert torch.equal(given, images) and not images.requires_grad
    for part, old in zip(network.modules(), before.modules(), strict=True):
        assert part.training and type(part) is type(old)
        assert getattr(part, "inplace", None) == getattr(old, "inplace", None)
        assert not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks)
    for p, old in zip(network.parameters(), before.parameters(), strict=True):
        assert p.grad is None and p.requires_grad == old.requires_grad and torch.equal(p, old)


def test_a_copy_is_randomised_and_the_network_is_not(images, target) -> None:
    network = Net()
    weight = network.a.weight.clone()
    random, again = G.randomised(network, 1), G.randomised(network, 1)
    assert torch.equal(network.a.weight, weight) and not torch.equal(random.a.weight, weight)
    assert torch.equal(random.a.weight, again.a.weight)
    maps = G.magnitude(G.saliency(network, images, target))
    assert torch.allclose(G.map_similarity(maps, maps), torch.ones(3).double())
    others = G.magnitude(G.saliency(random, images, target))
    assert G.map_similarity(maps, others).abs().max() < 0.9


def test_maps_may_be_arrays_of_numpy_or_lists() -> None:
    gradients = torch.tensor([[[[3.0, 1]], [[-4, 0]]]])
    for given in (gradients.numpy(), gradients.tolist()):
        assert G.magnitude(given).tolist() == [[[4.0, 1.0]]]
    maps = torch.rand(2, 3, 4)
    assert np.allclose(G.map_similarity(maps.numpy(), 2 * maps), 1)
    with pytest.raises(
        ValueError, match=r"attributions: expected \[n, channels, H', W'\], got \[3"
    ):
        G.magnitude(maps[0])
    with pytest.raises(ValueError, match=r"maps, others: .* got \[2, 3, 4\] and \[1, 3, 4\]"):
        G.map_similarity(maps, maps[:1])


def test_networks_that_have_no_such_map_are_refused(images) -> None:
    smooth = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(2)).double()
    smooth(images)
    with pytest.raises(ValueError, match="no ReLU in it that can be recognised"):
        G.deconvnet(smooth, images, 0)
    with pytest.raises(ValueError, match="TorchScript"):
        G.guided_backprop(torch.jit.trace(Net().eval(), images), images, 0)
    with pytest.raises(ValueError, match="no gradient of its output reaches"):
        G.saliency(Detached(), images, 0)
    with pytest.raises(ValueError, match=r"target: the network has outputs 0\.\.3"):
        G.saliency(Net(), images, 4)
    with pytest.raises(ValueError, match="Wrap the network"):
        G.guided_backprop(tiny_networks.Odd("dict"), images.float(), 0)
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        G.saliency(Net(), images, 0, batch_size=0)
    with pytest.raises(ValueError, match="n_samples"):
        G.smooth_grad(Net(), images, 0, n_samples=0)
    with pytest.raises(ValueError, match="expected a map"):
        G.grad_cam(Net(), "fc", images, 0)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)


def scene(channels: int, network: nn.Module, layers: dict[str, str]) -> Scene:
    generator = torch.Generator().manual_seed(0)
    count = 9 if channels == 1 else 2  # more than a sheet holds
    pixels = torch.rand(count, channels, 28, 28, generator=generator)
    data = ArraySamples(pixels, [i % 4 for i in range(count)], list("abcd"))
    return Scene(Subject(network.float(), layers, data), range(count), list(layers))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_sheet_says_what_is_hidden_and_how_alike_random_weights_are(channels) -> None:
    made = sheet(scene(channels, Net("functional", channels), {"conv": "c"}))
    assert len(made.figures) == (2 if channels == 1 else 1)
    assert any("functional" not in n and "relu in the network itself" in n for n in made.notes)
    assert sum("rank correlation with random weights" in note for note in made.notes) == 5
    rows = made.tables["random_weights"]
    assert all(-1 <= row["Spearman, gradient"] <= 1 for row in rows)


def test_a_sheet_leaves_out_what_the_network_does_not_allow() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.scale * functional.gelu(self.conv(x)).mean(dim=(2, 3)))

    made = sheet(scene(3, Scaled(), {"conv": "conv"}))
    told = " ".join(made.notes)
    assert "DeconvNet is left out: module: there is no ReLU" in told
    assert ".." not in told and "SmoothGrad: rank correlation" in told
    assert "ReLUs that hooks" not in told


def test_a_picture_of_nothing_says_so() -> None:
    network, x = tiny_networks.ClassToken(2), torch.rand(2, 3, 28, 28)
    assert G.grad_cam(network, "blocks.0", x, 0).any()
    told = r"the output does not depend on the patches after 'blocks.1'"
    with pytest.raises(ValueError, match=told):
        G.grad_cam(network, "blocks.1", x, 0)
    with pytest.raises(ValueError, match=told):
        region_occlusion(network, "blocks.1", x, 0)
    with torch.no_grad():
        network.fc.weight.zero_()
    for method in (G.saliency, G.smooth_grad):
        with pytest.raises(ValueError, match="zero everywhere"):
            method(network, x, 0)


def test_grad_cam_of_a_sheet_is_of_the_last_layer_that_counts() -> None:
    made = sheet(scene(3, tiny_networks.ClassToken(2), {"first": "blocks.0", "second": "blocks.1"}))
    told = " ".join(made.notes)
    assert "does not depend on the patches after second: Grad-CAM is of first" in told
    assert "Grad-CAM of first" in made.text
    assert "Grad-CAM: rank correlation" in told
    made = sheet(scene(3, tiny_networks.ClassToken(2), {"second": "blocks.1"}))
    assert any(note.startswith("Grad-CAM is left out") for note in made.notes)
