"""The Mind's Eye: images, schedule and scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emergence_ext import mindseye
from emergence_ext.data.folders import image_set
from emergence_ext.mindseye import (
    AdaptiveRobust,
    Facet,
    Facets,
    Schedule,
    distance,
    facet_objective,
    find_facets,
    logits_of,
    minds_eye,
)
from emergence_ext.network.models import load_model, load_weights
from emergence_ext.network.preprocessing import preprocess
from emergence_ext.render import GaussianBlur, Ramp, l1, maps_of
from tests.render.test_render import Net
from tests.tiny_networks import in_a_dict, not_finite, one_output
from tests.tiny_networks import maps as maps_alone

QUICK = Schedule(steps=30, learning_rate=Ramp(0.05, 0.01), blur=Ramp(0.04, 0.02), denoising=None)


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(14, 3, 10, 10, generator=generator)


def by_hooks(net: Net, images: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of relu1 and relu2, without anything of the package."""
    seen: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: seen.update({name: output.clone()})
        )
        for name in ("relu1", "relu2")
    ]
    with torch.no_grad():
        net.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen["relu1"], seen["relu2"]


def two_facets() -> Facets:
    """Of 14 images; weights far from even."""
    place = torch.zeros(14, 2, dtype=torch.float64)
    facets = [
        Facet(torch.tensor([3, 5]), torch.tensor([0.85, 0.15]), torch.tensor([0.0, 1.0])),
        Facet(torch.tensor([0, 8, 9]), torch.tensor([0.1, 0.6, 0.3]), torch.tensor([0.0, 1, 2])),
    ]
    return Facets(place, torch.arange(14) % 2, place[:2], facets)


def test_the_first_loss_is_the_formula_and_scores_are_means(net: Net, images: Tensor) -> None:
    facets, bright = two_facets(), images.clone()
    bright[facets.facets[1].members] **= 0.2  # so that the units of the facets differ
    eye = minds_eye(
        net, bright, "relu2", facets=facets, top_k=2, schedule=replace(QUICK, sparsity=0.4)
    )
    for c, facet in enumerate(facets.facets):
        before, maps = by_hooks(net, bright[facet.members])
        target = torch.einsum("m,mkhw->khw", facet.weights, maps)
        channels = target.mean(dim=(1, 2)).argsort(descending=True)[:2]
        assert torch.equal(eye.channels[c], channels)
        wanted = target[channels]
        (now,), (maps,) = by_hooks(net, eye.initial[c : c + 1])
        a = maps[channels]
        apart = (a - wanted).flatten(1).norm(dim=1).sum() / wanted.flatten(1).norm(dim=1).sum()
        # Shape 1 and scale 1 at the start: Charbonnier's loss, Z(1) = 2 e K_1(1).
        ad = (apart.square() + 1).sqrt() - 1 + math.log(2 * math.e * 0.6019072301972346)
        dm = (a * wanted).sum() / wanted.square().sum()
        sparse = now.abs().sum(0).mean() / before.square().mean().sqrt()
        torch.testing.assert_close(eye.losses[0, c], ad - dm + 0.4 * sparse)
        torch.testing.assert_close(eye.score.initial[c], a.mean())
        after = by_hooks(net, eye.images[c : c + 1])[1][0, channels]
        torch.testing.assert_close(eye.score.rendered[c], after.mean())
        share = after.mean(dim=(1, 2)) / wanted.mean(dim=(1, 2))
        torch.testing.assert_close(eye.score.share[c], share)


def test_the_target_weighs_images_as_their_facet_does(net: Net, images: Tensor) -> None:
    made = facet_objective(net, images, "relu2", two_facets(), top_k=2, sparsity=0.0)
    maps = by_hooks(net, images)[1]
    torch.testing.assert_close(made.target[0], 0.85 * maps[3] + 0.15 * maps[5])
    torch.testing.assert_close(made.target[1], 0.1 * maps[0] + 0.6 * maps[8] + 0.3 * maps[9])


def test_a_facet_does_not_depend_on_its_neighbours(net: Net, images: Tensor) -> None:
    both, bright = two_facets(), images.clone()
    bright[both.facets[1].members] **= 0.2
    schedule = replace(QUICK, sparsity=1.0, steps=10)

    def go(facets: Facets) -> Tensor:
        return minds_eye(net, bright, "relu2", facets=facets, top_k=2, schedule=schedule).images

    together = go(both)
    for c, facet in enumerate(both.facets):
        torch.testing.assert_close(go(replace(both, facets=[facet]))[0], together[c])


STILL = Schedule(steps=4, learning_rate=0.05, blur=0.0, denoising=None, mask=None, sparsity=0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"mask": 0.3},
        {"blur": 0.1},
        {"octaves": (0.5, 1.0)},
        {"jitter": 2},
        {"crop": 0.7},
        {"sparsity": 1.0},
        {"denoising": 5.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_the_schedule_alone_changes_the_image(
    net: Net, images: Tensor, change: dict[str, Any]
) -> None:
    if "denoising" in change:
        pytest.importorskip("skimage")
    facets = two_facets()

    def go(schedule: Schedule) -> Tensor:
        return minds_eye(net, images, "relu2", facets=facets, top_k=2, schedule=schedule).images

    assert (go(replace(STILL, **change)) - go(STILL)).abs().max() > 1e-3


@pytest.mark.parametrize("side", [10, 30])
def test_blur_is_a_share_of_the_shorter_side(side: int) -> None:
    image = torch.rand(1, 3, side, 2 * side, generator=torch.Generator().manual_seed(0))
    (blurred,) = replace(STILL, blur=Ramp(0.2, 0.1)).smoothing()
    torch.testing.assert_close(blurred(image, 1.0), GaussianBlur(0.1 * side)(image, 1.0))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": "5"}, "steps: expected a whole number, got '5'"),
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"jitter": 0.5}, "jitter: expected a whole number, got 0.5"),
        ({"jitter": -1}, "jitter: expected at least 0, got -1"),
        ({"blur": "1"}, "blur: expected a number or a Ramp, got '1'"),
        ({"sparsity": None}, "sparsity: expected a number or a Ramp, got None"),
        ({"learning_rate": float("nan")}, "learning_rate: expected 0 or more, got nan"),
        ({"denoising": 0}, "denoising: expected above 0, got 0"),
        ({"mask": -1}, "mask: expected above 0, got -1"),
        ({"blur": Ramp(0.1, -0.1)}, "blur: expected 0 or more"),
        ({"crop": 0.0}, "crop: expected above 0"),
        ({"crop": 2}, "crop: expected above 0 and at most 1, got 2"),
        ({"octaves": 0.5}, "octaves: expected shares .* got 0.5"),
        ({"octaves": (0.5, 0.7)}, "octaves: expected shares"),
        ({"octaves": (0.5, 1), "steps": 1}, "octaves: expected at most 1, one a step, got 2"),
    ],
)
def test_a_schedule_out_of_range_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        Schedule(**changes)


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
    assert eye.previous is None
    assert "no layer before it" in caplog.text and (eye.losses[-1] < eye.losses[0]).all()


def test_scores_are_means_over_the_regions_that_count(net: Net, images: Tensor) -> None:
    regions = torch.rand(14, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.15
    regions[:, 2, 2] = True
    facets = two_facets()
    same = images[3:4].repeat(14, 1, 1, 1)
    still = replace(STILL, steps=1, learning_rate=0.0)
    alike = minds_eye(
        net,
        same,
        "relu2",
        facets=facets,
        top_k=3,
        schedule=still,
        regions=regions[:1].repeat(14, 1, 1),
    ).score
    # The image is every real one, so that nothing may differ.
    torch.testing.assert_close(alike.share, torch.ones(2, 3))
    torch.testing.assert_close(alike.rendered, alike.initial)
    torch.testing.assert_close(alike.rendered[:, None].expand(-1, 14), alike.real)

    eye = minds_eye(
        net, images, "relu2", facets=facets, top_k=3, schedule=still, regions=regions, batch_size=4
    )
    maps = by_hooks(net, images)[1]
    for c, facet in enumerate(facets.facets):
        k = eye.channels[c]
        for n in (0, 3, 13):
            own = maps[n, k][:, regions[n]].mean()
            torch.testing.assert_close(eye.score.real[c, n], own)
        mask = torch.einsum("m,mhw->hw", facet.weights, regions[facet.members].float())
        a = by_hooks(net, eye.initial[c : c + 1])[1][0, k]
        reached = (a * mask).sum(dim=(1, 2)) / mask.sum()
        torch.testing.assert_close(eye.score.initial[c], reached.mean())
        counted = maps[facet.members][:, k] * regions[facet.members][:, None]
        wanted = torch.einsum("m,mkhw->k", facet.weights, counted) / mask.sum()
        torch.testing.assert_close(eye.score.share[c], reached / wanted)
    fine = torch.zeros(14, 50, 50, dtype=torch.bool)
    fine[:, 0, 0] = True
    with pytest.raises(ValueError, match="none falls on the layer's 5 x 5 maps"):
        minds_eye(net, images, "relu2", top_k=2, regions=fine)


def test_channels_whose_target_is_not_above_zero_have_no_share(net: Net, images: Tensor) -> None:
    eye = minds_eye(net, images, "conv2", top_k=5, schedule=replace(STILL, steps=1))
    target = facet_objective(net, images, "conv2", eye.facets, top_k=5, sparsity=0.0).target
    negative = target.mean(dim=(2, 3)).gather(1, eye.channels) <= 0
    assert negative.any() and torch.equal(eye.score.share.isnan(), negative)
    score = replace(eye.score, share=torch.tensor([[torch.nan, 0.5, 2.0, 3.0], 4 * [torch.nan]]))
    assert score.median_share == [2.0, None] and score.reached == [pytest.approx(2 / 3), None]
    assert score.undefined[1] == "the target's mean is not above 0 in 4 of 4 channels"
    assert replace(score, share=torch.ones(1, 3)).undefined == [None]


def test_only_two_or_more_finite_logits_name_a_class(net: Net, images: Tensor) -> None:
    found = logits_of(net.train(), images, preprocess=lambda x: 2 * x, batch_size=5)
    assert net.training
    with torch.no_grad():
        torch.testing.assert_close(found, net.eval()(2 * images))
    red = torch.zeros(3, 3, 16, 16)
    red[:, 0] = 1
    for odd in (one_output, not_finite, in_a_dict, maps_alone):
        with torch.random.fork_rng():
            assert logits_of(odd(), red) is None

    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("takes pairs")

    with pytest.raises(ValueError, match="takes pairs"):
        logits_of(Pairs(), images)


def test_the_sheet_shows_the_nearest_real_member(net: Net, images: Tensor) -> None:
    from emergence_ext.report.mindseye import ImageSet, facet_sheet

    given = ImageSet(net, {"late": "relu2"}, images, [f"{n}" for n in range(14)])
    sheet, found = facet_sheet(given, 2, (2,), replace(STILL, steps=1))
    eye = found["late"]
    shown = [a.images[0].get_array() for a in sheet.figures["facets_late"].axes if a.images]

    def drawn(index: int) -> bool:
        picture = images[index].permute(1, 2, 0).numpy()
        return any(x.shape == picture.shape and abs(x - picture).max() < 1e-6 for x in shown)

    best = eye.score.real.argmax(1).tolist()
    for facet in eye.facets.facets:
        assert drawn(int(facet.members[0]))
        assert drawn(int(facet.members[-1])) == (int(facet.members[-1]) in best)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"top_k": 6}, "top_k: expected 1 to 5"),
        ({"facets": 15}, "at most 14"),
        ({"layer": "relu3"}, "no layer 'relu3'"),
        ({"layer": "head"}, "expected a map"),
        ({"images": torch.rand(3, 10, 10)}, r"images: expected images \[n, channels, H, W\]"),
        ({"images": torch.rand(0, 3, 10, 10)}, r"images: expected images \[n, channels, H, W\]"),
        ({"images": [torch.rand(3, 10, 10)]}, "images: expected a tensor .* got list"),
        ({"images": torch.zeros(2, 3, 10, 10, dtype=torch.uint8)}, "images: .* divide by 255"),
        ({"images": 255 * torch.ones(2, 3, 10, 10)}, "in 0..1, got 255 to 255"),
        ({"images": torch.full((2, 3, 10, 10), torch.nan)}, "NaN"),
        ({"facets": find_facets(torch.eye(4))}, "of 4 images, but 14 are given"),
        ({"facets": replace(find_facets(torch.eye(14)), facets=[])}, "facets: expected some"),
        ({"top_k": "3"}, "top_k: expected a whole number, got '3'"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"batch_size": "a"}, "batch_size: expected a whole number, got 'a'"),
        ({"preprocess": "clip"}, "preprocess: expected a function of images"),
        ({"regions": np.ones((14, 5, 5), dtype=bool)}, "regions: expected Tensor, got ndarray"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    net: Net, images: Tensor, changes: dict[str, object], told: str
) -> None:
    given = {"images": images, "layer": "relu2", "top_k": 2, "schedule": QUICK, **changes}
    with pytest.raises((ValueError, TypeError), match=told):
        minds_eye(net, given.pop("images"), given.pop("layer"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: mindseye.top_channels(torch.rand(3), 2), r"target: expected \[n, K, H, W\]"),
        (lambda: mindseye.layer_rows(Net(), "relu2", np.ones(3)), "images: expected a tensor"),
        (lambda: logits_of(Net(), np.ones(3)), "images: expected a tensor"),
        (lambda: logits_of(Net(), torch.rand(1, 3, 8, 8), batch_size=0), "batch_size: expected at"),
        (lambda: mindseye.AdaptiveRobust(0), "count: expected at least 1, got 0"),
        (lambda: mindseye.AdaptiveRobust(1, scale="a"), "scale: expected a number, got 'a'"),
        (lambda: mindseye.AdaptiveRobust(1, device="gpu"), "device: expected cpu, .* got 'gpu'"),
        (lambda: mindseye.robust("a", 1.0), "x: expected a tensor or an array of numbers"),
        (lambda: mindseye.log_normaliser(1.0), "shape: expected a tensor or an array of numbers"),
    ],
)
def test_parts_of_it_name_what_they_cannot_take(call: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        call()


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
