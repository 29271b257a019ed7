"""What is no argument of a technique is named, and NumPy's arrays are as good as tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from emergence_ext import lookinside as look
from emergence_ext.data import ArraySamples

NETWORK = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
)
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES = ArraySamples(X, [0, 1, 0, 1], ["cat", "dog"])
CODES = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
BASIS = {"1": torch.eye(4)}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: look.gradients.saliency(NETWORK, X, "cat"), "target: expected a column .* 'cat'"),
        (lambda: look.gradients.saliency(NETWORK, X, None), "target: expected a column .* None"),
        (
            lambda: look.gradients.saliency(NETWORK, X, 0, batch_size="4"),
            "batch_size: expected a whole number, got '4'",
        ),
        (
            lambda: look.gradients.smooth_grad(NETWORK, X, 0, n_samples="4"),
            "n_samples: expected a whole number, got '4'",
        ),
        (
            lambda: look.gradients.smooth_grad(NETWORK, X, 0, noise_level="4"),
            "noise_level: expected a number, got '4'",
        ),
        (lambda: look.gradients.randomised(None), "module: expected a torch.nn.Module"),
        (
            lambda: look.activations.sparsity(NETWORK, IMAGES, ["1"], precision="half"),
            "precision must be one of float32, bfloat16, got 'half'",
        ),
        (
            lambda: look.activations.sparsity(NETWORK, IMAGES, ["1"], batch_size="a"),
            "batch_size: expected a whole number",
        ),
        (
            lambda: look.activations.sparsity(NETWORK, IMAGES, ["1"], preprocess="clip"),
            r"preprocess: expected a function .* network.preprocess\('clip'\) makes one",
        ),
        (
            lambda: look.annotators.agreement(None, CODES, CODES),
            "labels: expected Labels, got None",
        ),
        (lambda: look.annotators.counts(torch.tensor([[0, 9]]), 3), "said: expected .* in 0..2"),
        (lambda: look.annotators.fleiss_kappa(torch.ones(3)), r"votes: expected \[M, C\]"),
        (lambda: look.attributes.object_attributes(None, ["a"]), "boxes: expected Mapping"),
        (
            lambda: look.attributes.accuracy_by([1.0, 2.0], torch.ones(2)),
            "right: expected bool .* got torch.float32",
        ),
        (lambda: look.codes.embed(CODES, perplexity="3"), "perplexity: expected a number"),
        (lambda: look.codes.embed(CODES, perplexity=0), "perplexity: expected above 0, got 0"),
        (lambda: look.codes.embed(CODES, components=0), "components: expected at least 2, got 0"),
        (lambda: look.codes.rectangle("3"), "count: expected a whole number, got '3'"),
        (lambda: look.codes.lay_out(torch.rand(4, 2), 4), r"grid: expected \(H, W\), .* got 4"),
        (lambda: look.correspondence.region_centres((0, 4)), r"grid: expected .* got \(0, 4\)"),
        (lambda: look.excite.excite(NETWORK, IMAGES, {"1": 3}), "directions: expected Tensor"),
        (lambda: look.excite.excite(NETWORK, IMAGES, BASIS, k="3"), "k: expected a whole number"),
        (
            lambda: look.excite.excite(NETWORK, IMAGES, BASIS, position=3),
            r"position: expected \(row, column\), got 3",
        ),
        (lambda: look.fooling.fool(NETWORK, X, 0, confidence="1"), "confidence: .* got '1'"),
        (lambda: look.fooling.fool(NETWORK, X, 0, preprocess="clip"), "preprocess: expected a fun"),
        (lambda: look.inversion.invert(NETWORK, "1", X, norm_weight="a"), "norm_weight: expected"),
        (
            lambda: look.inversion.invert(NETWORK, "1", X, variation_weight=-1.0),
            "variation_weight: expected at least 0, got -1.0",
        ),
        (lambda: look.occlusion.window_and_stride(0), "size: expected at least 1, got 0"),
        (
            lambda: look.occlusion.occlusion(
                NETWORK, X, 0, sliding_window_shapes=4, baselines="black"
            ),
            "baselines: expected a number or a tensor",
        ),
        (
            lambda: look.occlusion.occlusion(NETWORK, X, 0, sliding_window_shapes=2.5),
            r"sliding_window_shapes: expected pixels or \(height, width\), got 2.5",
        ),
        (lambda: look.occlusion.region_occlusion(NETWORK, "1", X, 0, 4), "grid: expected .* got 4"),
    ],
)
def test_what_is_no_argument_is_named(call: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        call()


def test_arrays_of_numpy_are_as_good_as_tensors() -> None:
    codes = look.codes.embed(CODES.numpy(), perplexity=3)  # type: ignore[arg-type]
    assert torch.equal(codes.points, look.codes.embed(CODES, perplexity=3).points)
    a, b = torch.rand(2, 4, 3)
    of_arrays = look.correspondence.correspond(a.numpy(), b.numpy())  # type: ignore[arg-type]
    assert torch.equal(of_arrays.region, look.correspondence.correspond(a, b).region)
    weight = torch.rand(4, 3, 3, 3)
    smooth = look.filters.smoothness(weight.numpy())  # type: ignore[arg-type]
    assert torch.equal(smooth.score, look.filters.smoothness(weight).score)
    brightness = look.attributes.image_attributes(X.numpy())["brightness"]  # type: ignore[arg-type]
    assert torch.equal(brightness, look.attributes.image_attributes(X)["brightness"])
    assert look.annotators.fleiss_kappa([[3, 0], [0, 3]]) == 1  # type: ignore[arg-type]


def test_numbers_in_a_list_are_no_words() -> None:
    numbers, right = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, True])
    expected = look.attributes.accuracy_by(numbers, right, bins=2)
    for given in (numbers.tolist(), numbers.numpy()):
        assert look.attributes.accuracy_by(given, right.numpy(), bins=2) == expected  # type: ignore[arg-type]
    assert [group.name for group in expected] == ["", ""]


def test_a_single_layer_may_be_given_by_its_name() -> None:
    network = nn.Sequential()
    network.add_module("conv", NETWORK[0])
    network.add_module("rest", NETWORK[1:])
    assert list(look.activations.sparsity(network, IMAGES, "conv")) == ["conv"]
    given: list[str] = []
    look.stream.stream(network, IMAGES, "conv", lambda start, parts: given.extend(parts))
    assert given == ["conv"]
