"""P is a distribution over images for each image, and kappa_p spreads it as far as one category."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emergence_ext.method import similarity
from emergence_ext.method.similarity import image_similarity, solve_kappa_p
from tests.planted import planted


def _logits(N: int = 40, C: int = 4, seed: int = 0) -> Tensor:
    return planted(N, C, seed=seed).z


def test_P_is_the_softmax_of_cosines() -> None:
    z = _logits(5, 2).double()
    P = image_similarity(z, 7.0, include_self=True)
    for i in range(5):
        scores = []
        for j in range(5):
            dot = math.fsum(a * b for a, b in zip(z[i].tolist(), z[j].tolist(), strict=True))
            lengths = math.hypot(*z[i].tolist()) * math.hypot(*z[j].tolist())
            scores.append(math.exp(7 * dot / lengths))
        expected = torch.tensor(scores, dtype=torch.float64) / math.fsum(scores)
        torch.testing.assert_close(P[i], expected, rtol=1e-12, atol=0)


@given(
    seed=st.integers(0, 1000),
    kappa_p=st.floats(0, 1e6),
    include_self=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_rows_sum_to_1_for_any_concentration(seed: int, kappa_p: float, include_self: bool) -> None:
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    z[4] = 0
    P = image_similarity(z, kappa_p, include_self=include_self)
    assert torch.isfinite(P).all() and (P >= 0).all()
    torch.testing.assert_close(P.sum(1), torch.ones(12))
    assert (P.diagonal() == 0).all() != include_self


def test_an_image_is_most_similar_to_itself_and_alike_images_are_alike() -> None:
    z = _logits()
    both = torch.cat([z, 3 * z])  # cosines do not see the length of logits
    P = image_similarity(both, 20.0, include_self=True)
    torch.testing.assert_close(P[:, :40], P[:, 40:])
    assert (P.argmax(1) % 40 == torch.arange(80) % 40).all()


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_kappa_p_solves_its_equation(include_self: bool, seed: int) -> None:
    z = _logits(60, 4, seed)
    kappa_p = solve_kappa_p(z, include_self=include_self)
    P = image_similarity(z.double(), kappa_p, include_self=include_self)
    perplexity = torch.special.entr(P).sum(1).exp().mean()
    assert float(perplexity) == pytest.approx(60 / 4, rel=1e-6)


@pytest.mark.parametrize("include_self", [True, False])
def test_blocks_of_rows_change_nothing(include_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    z = _logits(60, 4)
    whole = solve_kappa_p(z, include_self=include_self)
    P = image_similarity(z, 9.0, include_self=include_self)
    for rows in (1, 7, 60):
        monkeypatch.setattr(similarity, "BLOCK_BYTES", 8 * 60 * rows)
        assert solve_kappa_p(z, include_self=include_self) == pytest.approx(whole, rel=1e-12)
        torch.testing.assert_close(image_similarity(z, 9.0, include_self=include_self), P)


def test_kappa_p_is_solved_where_logits_are_nearly_alike() -> None:
    z = _logits(60, 4).double()
    z = z / z.norm(dim=1, keepdim=True) + 100 * torch.tensor([1.0, -1.0, 1.0, 1.0])
    kappa_p = solve_kappa_p(z)  # cosines differ in the fifth digit and below, float32 has seven
    perplexity = torch.special.entr(image_similarity(z, kappa_p)).sum(1).exp().mean()
    assert float(perplexity) == pytest.approx(60 / 4, rel=1e-5) and kappa_p > 1e5


MEMORY = """
import resource, torch
from emergence_ext.method.similarity import BLOCK_BYTES, image_similarity, solve_kappa_p
most = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
images = lambda N: torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
for function in (solve_kappa_p, lambda z: image_similarity(z, 5.0)):
    function(images(800))
    before = most()
    function(images(2400))
    print((most() - before) / 2400**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.slow
def test_a_pair_of_images_takes_little_more_memory_than_its_similarity() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(float(line) < 10 for line in done.stdout.split()), done.stdout


def test_kappa_p_does_not_depend_on_the_scale_of_the_logits() -> None:
    assert solve_kappa_p(100 * _logits()) == pytest.approx(solve_kappa_p(_logits()), rel=1e-4)


def test_logits_that_are_all_alike_have_no_kappa_p() -> None:
    alike = torch.tensor([1.0, 2.0, 3.0]).expand(30, 3)
    with pytest.raises(ValueError, match="alike"):
        solve_kappa_p(alike)
    with pytest.raises(ValueError, match="alike"):
        solve_kappa_p(torch.zeros(30, 3))


def test_too_few_images_are_an_error_that_says_how_many() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        solve_kappa_p(torch.randn(19, 10))


def test_one_category_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="one category"):
        solve_kappa_p(torch.randn(19, 1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_named(bad: float) -> None:
    z = _logits()
    z[7, 1] = bad
    for call in (lambda: image_similarity(z, 5.0), lambda: solve_kappa_p(z)):
        with pytest.raises(ValueError, match="image 7 "):
            call()


def test_one_image_is_similar_to_nothing() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        image_similarity(torch.ones(1, 3), 5.0)
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        image_similarity(torch.ones(3), 5.0)
