"""A d of int8 with a scale for each row, in packed sets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from emergence_ext.ops import fused as ops
from emergence_ext.ops import reference

everywhere = pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
WITH_BYTES = ("avx512_vnni", "avx512_bf16")
EPS = torch.finfo(torch.float32).eps


def sets(D: int, q: list[int], d: list[int], seed: int = 3) -> dict[str, Tensor]:
    """Arguments of `maxsim_packed`: sets of so many rows, of which some scales are not positive."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randn(sum(d), generator=generator)
    scale[::7] = 0
    return {
        "q": torch.randn(sum(q), D, generator=generator),
        "cu_q": torch.tensor([0, *q]).cumsum(0),
        "d": torch.randint(-128, 128, (sum(d), D), generator=generator, dtype=torch.int8),
        "cu_d": torch.tensor([0, *d]).cumsum(0),
        "d_scale": scale,
    }


def of_rows(D: int, rows: int, candidates: int) -> dict[str, Tensor]:
    """Sets of q of one row each, so that a score is one match."""
    return sets(D, [1] * rows, [candidates])


def products(x: dict[str, Tensor]) -> Tensor:
    """Of every row of q with every one of d, float64."""
    return x["q"].double() @ (x["d"].double() * x["d_scale"].double()[:, None]).T


def chosen_by_bytes(x: dict[str, Tensor]) -> Tensor:
    """The lowest best candidate of each row of q, by whole numbers, as the kernels have them."""
    largest = x["q"].abs().amax(1, keepdim=True)
    steps = (x["q"] * (127 / largest)).round().double()
    values = (steps @ x["d"].double().T).float() * x["d_scale"]
    return (values == values.amax(1, keepdim=True)).int().argmax(1)


@everywhere
@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("D", [3, 19, 70])
def test_scores_are_those_of_what_the_bytes_stand_for(
    D: int, dtype: torch.dtype, module: Any
) -> None:
    x = sets(D, [3, 0, 40, 1], [5, 17, 0, 1, 30, 2])
    x["q"] = x["q"].to(dtype)
    T = module.maxsim_packed(**x, empty_score=-7.0)
    found = products(x)
    for i in range(6):
        for j in range(4):
            rows = slice(*x["cu_q"][j : j + 2].tolist()), slice(*x["cu_d"][i : i + 2].tolist())
            here = found[rows]
            truth = here.amax(1).sum().item() if here.shape[1] else -7.0
            assert T[i, j].item() == pytest.approx(truth, rel=1e-4, abs=1e-3)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("D", [1, 3, 4, 15, 16, 61, 64, 65, 128, 130, 511])
def test_medium_takes_the_match_that_bytes_choose(D: int, level: str) -> None:
    # Tiles that are whole, half and neither, candidates that are left over of each number.
    for rows, candidates in ((1, 1), (31, 25), (33, 7), (64, 12), (97, 13), (161, 59)):
        x = of_rows(D, rows, candidates)
        T = ops.maxsim_packed(**x, precision="medium")[0].double()
        found = products(x)
        best = chosen_by_bytes(x) if level in WITH_BYTES else found.argmax(1)
        expected = found.gather(1, best[:, None])[:, 0]
        slack = D * EPS * x["q"].abs().amax(1) * 128 * x["d_scale"].abs().amax() * D
        assert ((T - expected).abs() <= slack).all()


@pytest.mark.usefixtures("level")
def test_medium_is_below_the_maximum_by_at_most_its_bound(level: str) -> None:
    # All of a row's numbers lie halfway between two steps: those of the best candidate lose that
    # half, those of the others gain it.
    D = 256
    row = torch.full((1, D), 10.5 - 1e-4)
    row[:, D // 2 :] = 9.5 + 1e-4
    row[:, 0] = 127  # the largest, so that a step is 1
    d = torch.zeros(5, D, dtype=torch.int8)
    d[:4, D // 2 + 1 :] = 127
    d[4, 1 : D // 2] = 127
    one = torch.tensor([0, 1])
    x = {"q": row, "cu_q": one, "d": d, "cu_d": 5 * one, "d_scale": torch.full((5,), 0.01)}
    missed = products(x).amax() - ops.maxsim_packed(**x, precision="medium").double()
    share = missed / (0.01 * d.double().abs().sum(1).amax())
    if level in WITH_BYTES:
        assert 0.99 < share <= 1
    else:
        assert abs(share) < 1e-4


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("D", [4, 30, 128])
def test_bits_depend_neither_on_threads_nor_on_neighbours(D: int, precision: str) -> None:
    x = sets(D, [3, 0, 70, 33], [5, 17, 0, 100, 2])
    everything = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    shuffled = everything[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    T = ops.maxsim_packed(**x, precision=precision)
    for number in (1, 2, 8):
        torch.set_num_threads(number)
        assert torch.equal(ops.maxsim_packed(**x, precision=precision), T)
        listed = ops.maxsim_packed(**x, pairs=shuffled, precision=precision)
        assert torch.equal(listed, T[shuffled[:, 1], shuffled[:, 0]])


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-30, 1e30])
def test_rows_of_any_size_are_scored(size: float) -> None:
    x = of_rows(40, 5, 9)
    x["q"] *= size
    T = ops.maxsim_packed(**x, precision="medium")[0].double()
    bound = x["q"].abs().amax(1) * (x["d"].abs().double().sum(1) * x["d_scale"].abs()).amax()
    # Where a row is so small that it counts as zeros, any candidate may be the match.
    missed = products(x).amax(1) - T
    assert (missed <= bound * (2 if size < 1e-35 else 1.01 / 127) + 1e-40).all()
    assert (missed >= -1e-5 * bound - 1e-40).all()


@everywhere
def test_one_scale_is_that_of_every_row(module: Any) -> None:
    x = sets(20, [3, 4], [5, 6])
    x["d_scale"] = torch.full((11,), 0.25)
    expected = module.maxsim_packed(**x)
    for scale in (0.25, torch.tensor(0.25), x["d_scale"].double().numpy()):
        assert torch.equal(module.maxsim_packed(**x | {"d_scale": scale}), expected)


@everywhere
def test_the_best_are_found_block_by_block(module: Any) -> None:
    x = sets(20, [3, 4], [5] * 40)
    T = module.maxsim_packed(**x).T
    scores, places = module.maxsim_packed(**x, topk=7, max_memory=200)
    torch.testing.assert_close(scores, T.topk(7).values)
    torch.testing.assert_close(T.gather(1, places), scores)


def test_gradients_of_q_are_those_of_what_the_bytes_stand_for() -> None:
    x = sets(20, [3, 4], [5, 6])
    floats = x["d"].float() * x["d_scale"][:, None]
    found = []
    for given in (x, {"cu_d": x["cu_d"], "cu_q": x["cu_q"], "d": floats}):
        q = x["q"].clone().requires_grad_()
        found += torch.autograd.grad(ops.maxsim_packed(**given | {"q": q}).sum(), q)
    assert torch.equal(*found)


@everywhere
@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"d_scale": None}, TypeError, "torch.int8 without d_scale"),
        ({"d": torch.zeros(11, 20)}, TypeError, "d_scale goes with d of int8, got d of .*float32"),
        ({"d_scale": torch.zeros(3)}, ValueError, r"a number or \[11\], .* got .* \[3\]"),
        ({"d_scale": torch.zeros(11).int()}, ValueError, "floating point, got torch.int32"),
        ({"prepare": lambda rows, first: rows, "topk": 2}, ValueError, "without d_scale"),
    ],
)
def test_what_is_wrong_is_named(
    change: dict[str, Any], kind: type[Exception], says: str, module: Any
) -> None:
    x: dict[str, Any] = sets(20, [3, 4], [5, 6])
    with pytest.raises(kind, match=f"^maxsim_packed: .*{says}"):
        module.maxsim_packed(**x | change)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_scale_that_is_not_finite_is_named_by_its_row(precision: str) -> None:
    x = sets(20, [3, 4], [5, 6])
    for wrong in (torch.nan, torch.inf):
        x["d_scale"][8] = wrong
        with pytest.raises(ValueError, match="d is not finite at row 8"):
            ops.maxsim_packed(**x, precision=precision)


def test_the_library_itself_refuses_half_of_it(library: None) -> None:
    x = sets(20, [3, 4], [5, 6])
    q, cu_q, d, cu_d, scale = x.values()
    for rows, of_rows in ((d, None), (d.float(), scale)):
        with pytest.raises(TypeError, match="give both, int8 and a scale for each row"):
            torch.ops.emergence_ext.maxsim_packed(q, cu_q, [rows], cu_d, of_rows, None)
    with pytest.raises(ValueError, match=r"d_scale must be floating point \[11\]"):
        torch.ops.emergence_ext.maxsim_packed(q, cu_q, [d], cu_d, scale[:3], None)
