"""Sets one after the other: results are those of each set alone, from memory or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emergence_ext.ops import fused as ops
from emergence_ext.ops import reference
from tests import oracle

LENGTHS = {"q": [3, 0, 40, 1], "d": [5, 17, 0, 1, 30, 2]}

everywhere = pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
at_each_backend = pytest.mark.usefixtures("each_backend")


def packed(
    D: int, dtype: torch.dtype = torch.float32, lengths: dict[str, list[int]] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, cu_q, d and cu_d of random rows."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for counts in (lengths or LENGTHS).values():
        starts = torch.tensor([0, *counts]).cumsum(0)
        found += [torch.randn(int(starts[-1]), D, generator=generator).to(dtype), starts]
    return tuple(found)


def alone(x: tuple[Tensor, ...], module: Any = ops, **options: Any) -> Tensor:
    """Scores of each pair of sets by itself, `[B, N]`."""
    q, cu_q, d, cu_d = x
    rows = []
    for i in range(len(cu_d) - 1):
        scores = []
        for j in range(len(cu_q) - 1):
            of_q, of_d = q[cu_q[j] : cu_q[j + 1]][None], d[cu_d[i] : cu_d[i + 1]][None]
            empty = torch.full((1, 1), -1e9)
            T = module.maxsim(of_q, of_d, **options) if of_d.shape[1] else empty
            scores.append(T[0, 0].double())
        rows.append(torch.stack(scores))
    return torch.stack(rows)


@everywhere
@at_each_backend
@pytest.mark.one_in(4)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("D", [3, 19, 70])
def test_scores_are_the_oracles(D: int, dtype: torch.dtype, module: Any) -> None:
    q, cu_q, d, cu_d = packed(D, dtype)
    T = module.maxsim_packed(q, cu_q, d, cu_d, empty_score=-7.0)
    for i in range(6):
        for j in range(4):
            of_q, of_d = q[cu_q[j] : cu_q[j + 1]], d[cu_d[i] : cu_d[i + 1]]
            truth = oracle.maxsim(of_q[None], of_d[None], None)[0][0][0] if len(of_d) else -7.0
            assert T[i, j].item() == pytest.approx(truth, rel=1e-4, abs=1e-4)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("D", [3, 8, 70, 128])
def test_bits_are_those_of_the_sets_alone(D: int, dtype: torch.dtype, precision: str) -> None:
    x = packed(D, dtype)
    expected = alone(x, precision=precision)
    everything = torch.cartesian_prod(torch.arange(4), torch.arange(6))
    shuffled = everything[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    for number in (1, 2, 8):
        torch.set_num_threads(number)
        T = ops.maxsim_packed(*x, precision=precision)
        assert torch.equal(T.double(), expected)
        listed = ops.maxsim_packed(*x, pairs=shuffled, precision=precision)
        assert torch.equal(listed, T[shuffled[:, 1], shuffled[:, 0]])


@pytest.mark.usefixtures("level", "threads")
def test_sets_longer_than_what_is_packed_at_once() -> None:
    x = packed(200, lengths={"q": [1500, 7], "d": [3, 900]})
    expected = alone(x)
    assert torch.equal(ops.maxsim_packed(*x).double(), expected)
    pairs = torch.tensor([[0, 1], [0, 0], [1, 1], [0, 1]])
    found = ops.maxsim_packed(*x, pairs=pairs)
    assert torch.equal(found.double(), expected[pairs[:, 1], pairs[:, 0]])


@everywhere
@at_each_backend
@pytest.mark.parametrize("given", [None, [[3, 4], [0, 0], [2, 2], [0, 4], [1, 1]]], ids=str)
def test_gradients_are_those_of_the_sets_alone(given: Any, module: Any) -> None:
    q, cu_q, d, cu_d = packed(6, torch.float64)
    pairs = None if given is None else torch.tensor(given)
    leaves = [q.clone().requires_grad_(), d.clone().requires_grad_()]
    T = module.maxsim_packed(leaves[0], cu_q, leaves[1], cu_d, pairs=pairs)
    G = torch.randn(T.shape, dtype=T.dtype, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(T, leaves, G)
    expected = [torch.zeros_like(q), torch.zeros_like(d)]
    of_pairs = torch.cartesian_prod(torch.arange(4), torch.arange(6)) if given is None else pairs
    for place, (j, i) in enumerate(of_pairs.tolist()):
        g = G[i, j] if given is None else G[place]
        for r in range(cu_q[j], cu_q[j + 1] if cu_d[i] < cu_d[i + 1] else cu_q[j]):
            s = cu_d[i] + (d[cu_d[i] : cu_d[i + 1]] @ q[r]).argmax()
            expected[0][r] += g * d[s]
            expected[1][s] += g * q[r]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


@everywhere
@at_each_backend
@pytest.mark.parametrize("max_memory", [1, 400, None])
def test_the_best_are_those_of_all_scores(max_memory: int | None, module: Any) -> None:
    q, cu_q, d, cu_d = packed(5)
    d[cu_d[4] : cu_d[5]] = d[cu_d[1]]  # a set of copies ...
    d[cu_d[1] : cu_d[2]] = d[cu_d[1]].clone()  # ... as good as another
    T = module.maxsim_packed(q, cu_q, d, cu_d)
    for k in (1, 3, 6, 9):
        scores, places = module.maxsim_packed(q, cu_q, d, cu_d, topk=k, max_memory=max_memory)
        order = T.t().sort(dim=1, descending=True, stable=True)
        torch.testing.assert_close(scores, order.values[:, :k])
        assert places.dtype == torch.int64 and scores.shape == (4, min(k, 6))
        torch.testing.assert_close(T.t().gather(1, places), scores)
        assert places[1].tolist() == [0, 1, 3, 4, 5, 2][:k]  # of equal scores the lower set


@everywhere
def test_a_file_that_is_mapped_gives_what_memory_gives(tmp_path: Path, module: Any) -> None:
    q, cu_q, d, cu_d = packed(5)
    mapped = np.memmap(tmp_path / "d", dtype=np.float32, mode="w+", shape=tuple(d.shape))
    mapped[:] = d.numpy()
    mapped.flush()
    read = np.memmap(tmp_path / "d", dtype=np.float32, mode="r", shape=tuple(d.shape))
    torch_file = torch.from_file(str(tmp_path / "d"), size=d.numel()).view(d.shape)
    expected = module.maxsim_packed(q, cu_q, d, cu_d, topk=3, max_memory=100)
    for rows in (read, torch_file):
        found = module.maxsim_packed(
            q.numpy(), cu_q.numpy().astype(np.int32), rows, cu_d.numpy(), topk=3, max_memory=100
        )
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert torch.equal(
        module.maxsim_packed(q, cu_q, read, cu_d), module.maxsim_packed(q, cu_q, d, cu_d)
    )


@everywhere
def test_rows_are_made_ready_block_by_block(module: Any) -> None:
    q, cu_q, d, cu_d = packed(5)
    scale = d.abs().amax(1) / 127
    stored = (d / scale[:, None]).round().to(torch.int8)
    blocks = []

    def prepare(rows: Tensor, first: int) -> Tensor:
        blocks.append(len(rows))
        return rows.float() * scale[first : first + len(rows), None]

    found = module.maxsim_packed(q, cu_q, stored, cu_d, topk=2, prepare=prepare, max_memory=100)
    expected = module.maxsim_packed(q, cu_q, stored.float() * scale[:, None], cu_d, topk=2)
    torch.testing.assert_close(found, expected)
    assert sum(blocks) == len(d) and len(blocks) > 2


@everywhere
def test_nothing_gives_nothing(module: Any) -> None:
    q, cu_q, d, cu_d = packed(4)
    none = torch.zeros(1, dtype=torch.int64)
    assert module.maxsim_packed(q[:0], none, d, cu_d).shape == (6, 0)
    assert module.maxsim_packed(q, cu_q, d[:0], none).shape == (0, 4)
    assert module.maxsim_packed(q, cu_q, d[:0], none, topk=3)[1].shape == (4, 0)
    assert module.maxsim_packed(q, cu_q, d, cu_d, pairs=torch.zeros(0, 2, dtype=int)).shape == (0,)
    empty = torch.zeros(3, dtype=torch.int64)
    assert (module.maxsim_packed(q, cu_q, d[:0], empty) == -1e9).all()
    T = module.maxsim_packed(q[:0], empty, d, cu_d)
    assert (T[2] == -1e9).all() and not T[[0, 1, 3, 4, 5]].any()


@everywhere
@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"cu_q": torch.tensor([0, 5, 3, 44])}, ValueError, "cu_q must not fall.* entry 1"),
        ({"cu_d": torch.tensor([0, 55, 56])}, ValueError, "cu_d must go from 0 to 55.* to 56"),
        ({"cu_d": torch.tensor([1, 55])}, ValueError, "cu_d must go from 0 to 55.* got 1 to 55"),
        ({"cu_d": torch.tensor([0.0, 55.0])}, TypeError, "cu_d must be int64 or int32"),
        ({"cu_d": torch.zeros(2, 2, dtype=int)}, ValueError, r"cu_d must be \[sets \+ 1\]"),
        ({"cu_d": [0, 55]}, TypeError, "cu_d must be a tensor or NumPy array, got list"),
        ({"q": torch.zeros(44, 3)}, ValueError, r"q and d must be \[rows, D\] with one D"),
        ({"q": torch.zeros(44)}, ValueError, r"q must be \[rows, D\], got \[44\]"),
        ({"q": torch.zeros(44, 4).int()}, TypeError, "must be floating-point, got torch.int32"),
        ({"q": None}, TypeError, "q must be a tensor or NumPy array, got NoneType"),
        ({"pairs": torch.tensor([[0, 6]])}, ValueError, r"pairs\[:, 1\] must lie in \[0, 6\)"),
        ({"pairs": torch.tensor([[-1, 0]])}, ValueError, r"pairs\[:, 0\] must lie in \[0, 4\)"),
        ({"pairs": torch.tensor([0, 1, 2])}, ValueError, r"pairs must be \[P, 2\]"),
        ({"pairs": torch.tensor([[0.0, 1.0]])}, TypeError, "pairs must be int64 or int32"),
        ({"pairs": torch.tensor([[0, 1]]), "topk": 3}, ValueError, "pairs or topk, not both"),
        ({"topk": 0}, ValueError, "topk must be .* at least 1, got 0"),
        ({"topk": 2.0}, ValueError, "topk must be .* got 2.0"),
        ({"prepare": lambda rows, first: rows}, ValueError, "prepare goes with topk"),
        ({"topk": 2, "max_memory": 0}, ValueError, "max_memory must be a positive"),
        ({"d": torch.full((55, 4), torch.nan)}, ValueError, "d is not finite"),
        ({"precision": "best"}, ValueError, "precision"),
        ({"d": []}, ValueError, "cu_d must be None where d is a list"),
        ({"d": [], "cu_d": None}, ValueError, "an empty list"),
        (
            {"d": [torch.zeros(2, 4), torch.zeros(2, 3)], "cu_d": None},
            ValueError,
            r"d\[1\] must be \[rows, D\] of one width, got \[2, 3\]",
        ),
        (
            {"d": [torch.zeros(2, 4), torch.zeros(2, 4).half()], "cu_d": None},
            TypeError,
            r"d\[1\] is torch.float16",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else None,
)
def test_what_is_wrong_is_named(
    change: dict[str, Any], kind: type[Exception], says: str, module: Any
) -> None:
    given = dict(zip(("q", "cu_q", "d", "cu_d"), packed(4), strict=True)) | change
    with pytest.raises(kind, match=f"^maxsim.*: .*{says}") as raised:
        module.maxsim_packed(**given)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("level")
def test_d_is_looked_at_where_the_first_sets_of_q_are_empty() -> None:
    q, cu_q, d, cu_d = packed(4, lengths={"q": [0] * 30 + [2], "d": [3] * 20})
    d[50, 1] = torch.nan
    with pytest.raises(ValueError, match="maxsim_packed: d is not finite at row 50"):
        ops.maxsim_packed(q, cu_q, d, cu_d)
    lengths = cu_q.diff()
    padded = torch.zeros(31, 2, 4)
    padded[-1] = q
    with pytest.raises(ValueError, match="maxsim: d is not finite at sample 16, region 2"):
        ops.maxsim(padded, d.view(20, 3, 4), q_lengths=lengths)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("large", [1e30, 3e38])
def test_products_that_overflow_are_the_generic_levels(large: float) -> None:
    q, cu_q, d, cu_d = packed(70)
    d[20, 5] = large  # which is found while its set is matched
    q[0, 5] = 1e9
    found = ops.maxsim_packed(q, cu_q, d, cu_d)
    # The sets without it take other kernels alone.
    expected = alone((q, cu_q, d, cu_d))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    T, _ = ops.maxsim_indices(q[None, :3], d[None, 5:22])
    torch.testing.assert_close(found[1, 0], T[0, 0])


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_listed_sets_are_those_one_after_the_other(dtype: torch.dtype, module: Any) -> None:
    q, cu_q, d, cu_d = packed(70, dtype)
    listed = list(d.split(cu_d.diff().tolist()))
    pairs = torch.tensor([[0, 1], [3, 0], [2, 2], [2, 4]])
    for options in ({}, {"pairs": pairs}, {"topk": 4, "max_memory": 3000}):
        found = module.maxsim_packed(q, cu_q, listed, **options)
        expected = module.maxsim_packed(q, cu_q, d, cu_d, **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if module is ops else 1e-5)
