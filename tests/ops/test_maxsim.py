"""Scores and matches of the compiled ops against the oracle, the reference and another package."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emergence_ext.ops import fused as ops
from emergence_ext.ops import reference
from tests import layouts, oracle
from tests.cases import CASES, DTYPES, LARGE, Case, build
from tests.conftest import CUDA

pytestmark = pytest.mark.usefixtures("each_backend")

SMALL = Case(N=3, R=5, B=2, S=7, D=4)
WIDE = replace(SMALL, D=37)
TIES = [case for case in CASES if case.values == "ties"]
# `each_backend` puts the instruction set back after the test, which examples in between don't need.
examples = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sizes = st.integers(1, 40) | st.sampled_from([6, 7, 12, 16, 17, 32, 33])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_and_matches_are_the_oracles(case: Case) -> None:
    x = build(case)
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert T.dtype == torch.float32
    assert argmax.dtype == torch.int64
    oracle.assert_scores(x.q, x.d, x.a, T, argmax)
    assert torch.equal(ops.maxsim(x.q, x.d, x.a), T)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_inputs_are_the_references(case: Case, dtype: torch.dtype) -> None:
    x = build(replace(case, dtype=dtype))
    exact = [t.double() for t in (x.q, x.d, x.a)]
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    oracle.assert_scores(x.q, x.d, x.a, T, argmax, reference.maxsim_indices(*exact))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [CASES[4], CASES[9], CASES[10], CASES[12], TIES[0]], ids=str)
def test_every_dtype_is_the_oracles_of_its_rounded_inputs(case: Case, dtype: torch.dtype) -> None:
    # Wide bfloat16 inputs take the products of pairs where the machine has them.
    x = build(replace(case, dtype=dtype))
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert T.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    oracle.assert_scores(x.q, x.d, x.a, T, argmax)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_agree_with_the_reference(case: Case) -> None:
    x = build(replace(case, dtype=torch.float64))
    expected, matches = reference.maxsim_indices(x.q, x.d, x.a)
    T, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    torch.testing.assert_close(T, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(argmax, matches)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TIES, ids=str)
def test_a_tie_goes_to_the_lowest_index(case: Case, dtype: torch.dtype) -> None:
    x = build(replace(case, dtype=dtype))
    _, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert argmax.tolist() == oracle.maxsim(x.q, x.d, x.a)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("D", [3, 8, 9, 37, 129])
def test_equal_regions_tie_at_every_place(
    D: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    # Block of candidates or remainder: the same region must give the same bits wherever it stands.
    q = torch.randn(2, 9, D, generator=generator).to(dtype)
    d = torch.randn(1, 1, D, generator=generator).to(dtype).expand(3, 23, D)
    assert not ops.maxsim_indices(q, d)[1].any()


@pytest.mark.parametrize("D", [4, 37])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("S", [1, 2, 5, 6, 7, 8, 11, 12, 13, 256, 257])
def test_a_planted_maximum_is_found(place: str, S: int, D: int) -> None:
    x = build(replace(SMALL, values=place, S=S, D=D))
    assert (ops.maxsim_indices(x.q, x.d, x.a)[1] == (0 if place == "first" else S - 1)).all()


@pytest.mark.parametrize("case", [SMALL, WIDE], ids=str)
def test_negative_maxima_are_not_cut_at_zero(case: Case) -> None:
    x = build(replace(case, values="negative"))
    assert (ops.maxsim(x.q, x.d) < 0).all()


@pytest.mark.parametrize("case", [SMALL, WIDE], ids=str)
@pytest.mark.parametrize("strides", ["transposed", "sliced", "expanded"])
def test_strides_do_not_change_a_bit(case: Case, strides: str) -> None:
    x = build(replace(case, strides=strides))
    plain = [t.clone(memory_format=torch.contiguous_format) for t in (x.q, x.d, x.a)]
    assert not all(t.is_contiguous() for t in (x.q, x.d, x.a))
    assert torch.equal(ops.maxsim(x.q, x.d, x.a), ops.maxsim(*plain))


@pytest.mark.parametrize("S", [256, 257])
def test_compact_matches_are_the_same_in_a_smaller_type(S: int) -> None:
    x = build(replace(SMALL, S=S))
    matched = ops._compiled.maxsim_indices
    T, compact = matched(x.q, x.d, x.a, compact=True)
    assert compact.dtype == (torch.uint8 if S == 256 else torch.int32)
    other, argmax = ops.maxsim_indices(x.q, x.d, x.a)
    assert torch.equal(T, other)
    assert torch.equal(compact.long(), argmax)


@pytest.mark.parametrize("D", [5, 128])
def test_scores_without_weights_are_those_of_late_interaction(
    D: int, generator: torch.Generator
) -> None:
    published = pytest.importorskip("maxsim_cpu", reason="maxsim-cpu is not installed")
    q = torch.randn(3, 17, D, generator=generator)
    d = torch.randn(4, 29, D, generator=generator)
    theirs = [torch.from_numpy(published.maxsim_scores(image.numpy(), d.numpy())) for image in q]
    torch.testing.assert_close(ops.maxsim(q, d), torch.stack(theirs, 1), rtol=1e-5, atol=1e-4)


@examples
@given(data=st.data(), D=sizes, R=sizes, S=sizes, images=st.tuples(*[st.integers(1, 3)] * 2))
def test_any_shape_and_layout_gives_the_references_scores(
    data: st.DataObject, D: int, R: int, S: int, images: tuple[int, int]
) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    N, B = images
    q, d, a = (data.draw(layouts.tensors(shape, dtype)) for shape in ((N, R, D), (B, S, D), (N, R)))
    T, argmax = ops.maxsim_indices(q, d, a)
    truth = reference.maxsim_indices(*(t.double() for t in (q, d, a)))
    oracle.assert_scores(q, d, a, T, argmax, truth)
    assert torch.equal(ops.maxsim(q, d, a), T)


@examples
@given(sizes=st.tuples(*[st.integers(1, 9)] * 5), seed=st.integers(0, 2**31), order=st.randoms())
def test_order_of_images_and_candidates_does_not_change_scores(
    sizes: tuple[int, ...], seed: int, order: random.Random
) -> None:
    x = build(Case(*sizes, seed=seed))
    T = ops.maxsim(x.q, x.d, x.a)
    images, others, regions = (
        torch.tensor(order.sample(range(n), n)) for n in (sizes[0], sizes[2], sizes[3])
    )
    shuffled = ops.maxsim(x.q[images], x.d[others][:, regions], x.a[images])
    assert torch.equal(shuffled, T[others][:, images])


@examples
@given(sizes=st.tuples(*[st.integers(1, 9)] * 5), seed=st.integers(0, 2**31))
def test_one_more_candidate_never_lowers_a_score(sizes: tuple[int, ...], seed: int) -> None:
    x = build(Case(*sizes, seed=seed))
    fewer = ops.maxsim(x.q, x.d[:, : max(1, sizes[3] - 1)], x.a)
    assert (ops.maxsim(x.q, x.d, x.a) >= fewer).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_that_pad_win_over_negative_products_and_copies_do_not(
    dtype: torch.dtype, each_backend: str
) -> None:
    x = build(replace(SMALL, values="negative", dtype=dtype))
    zeros = x.d.new_zeros(x.d.shape[0], 3, x.d.shape[2])
    T, argmax = ops.maxsim_indices(x.q, torch.cat([x.d, zeros], 1), x.a)
    assert (argmax == SMALL.S).all() and not T.any()
    if each_backend != CUDA:  # which does not wait for the device to look
        with pytest.raises(ValueError, match="d is not finite"):
            ops.maxsim(x.q, torch.cat([x.d, zeros - torch.inf], 1), x.a)
    scores, matches = ops.maxsim_indices(x.q, x.d, x.a)
    copies = torch.cat([x.d, x.d[:, 2:3].expand(-1, 3, -1)], 1)
    found = ops.maxsim_indices(x.q, copies, x.a)
    assert torch.equal(found[0], scores) and torch.equal(found[1], matches)
    q, a = torch.cat([x.q, x.q.new_ones(SMALL.N, 3, SMALL.D)], 1), x.a.new_zeros(SMALL.N, 3)
    torch.testing.assert_close(ops.maxsim(q, x.d, torch.cat([x.a, a], 1)), scores)
