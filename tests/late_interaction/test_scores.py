"""Scores in the field's words: their formulas, whatever tokens come as; what is wrong is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emergence_ext import late_interaction

N, B, TOKENS, ROOM, WIDTH = 3, 5, 4, 6, 8


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Queries `[N, TOKENS, WIDTH]` and documents `[B, ROOM, WIDTH]`."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(N, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    d = torch.randn(B, ROOM, WIDTH, generator=generator, dtype=torch.float64)
    return q.to(dtype), d.to(dtype)


def masks(prefix: bool) -> tuple[Tensor, Tensor]:
    """Which tokens count; without `prefix` anywhere, and none of the last document."""
    generator = torch.Generator().manual_seed(1)
    q = torch.rand(N, TOKENS, generator=generator) < 0.6
    d = torch.rand(B, ROOM, generator=generator) < 0.5
    d[-1], q[0, 0], d[:-1, 0] = False, True, True
    if prefix:
        q, d = q.sort(1, descending=True).values, d.sort(1, descending=True).values
    else:
        d[1, 0] = False
        d[1, 2] = True
    return q, d


def formula(
    q: Tensor, d: Tensor, q_mask: Tensor | None = None, d_mask: Tensor | None = None
) -> Tensor:
    """What sentence-transformers 6.2 documents: `sum_i max_j (a_i . b_j)` of tokens that count.

    A document of none scores -1e9.
    """
    products = torch.einsum("ash,bth->abst", q, d)
    if d_mask is not None:
        products = products.masked_fill(~d_mask[None, :, None], -torch.inf)
    best = products.amax(-1)
    if q_mask is not None:
        best = best.masked_fill(~q_mask[:, None], 0)
    scores = best.sum(-1)
    return scores if d_mask is None else scores.masked_fill(~d_mask.any(1), -1e9)


def listed(x: Tensor, mask: Tensor) -> list[Tensor]:
    return [each[real] for each, real in zip(x, mask, strict=True)]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int64], ids=str)
def test_masked_tokens_are_not_there(prefix: bool, kind: torch.dtype) -> None:
    (q, d), (q_mask, d_mask) = batch(), masks(prefix)
    expected = formula(q, d, q_mask, d_mask)
    q[~q_mask], d[~d_mask] = torch.nan, torch.nan
    found = late_interaction.maxsim(q, d, q_mask.to(kind), d_mask.to(kind))
    torch.testing.assert_close(found, expected)
    mine = late_interaction.maxsim(listed(q, q_mask), listed(d, d_mask))
    assert torch.equal(mine, found)
    by_masks = late_interaction.maxsim(list(q), list(d), list(q_mask), list(d_mask))
    assert torch.equal(by_masks, found)
    assert torch.equal(late_interaction.maxsim(q, listed(d, d_mask), q_mask), found)
    normal = late_interaction.maxsim(q, d, q_mask, d_mask, normalize=True)
    of_length_1 = [torch.nn.functional.normalize(x.nan_to_num(), dim=-1) for x in (q, d)]
    torch.testing.assert_close(normal, formula(*of_length_1, q_mask, d_mask))


@pytest.mark.parametrize("prefix", [True, False])
def test_gradients_are_the_formulas(prefix: bool) -> None:
    (q, d), (q_mask, d_mask) = batch(dtype=torch.float64), masks(prefix)
    G = torch.randn(N, B, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    G[:, -1] = 0  # of an empty document the formula has none either
    found = []
    for score in (late_interaction.maxsim, formula):
        leaves = [q.clone().requires_grad_(), d.clone().requires_grad_()]
        found.append(torch.autograd.grad(score(*leaves, q_mask, d_mask), leaves, G))
    leaves = [q.clone().requires_grad_(), d.clone().requires_grad_()]
    scores = late_interaction.maxsim(listed(leaves[0], q_mask), listed(leaves[1], d_mask))
    found.append(torch.autograd.grad(scores, leaves, G))
    for mine, other, of_lists in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)
        torch.testing.assert_close(of_lists, other)


def test_padding_has_no_gradient_whatever_it_holds() -> None:
    (q, d), (q_mask, d_mask) = batch(), masks(prefix=False)
    q[~q_mask], d[~d_mask] = torch.nan, torch.inf
    leaves = [q.requires_grad_(), d.requires_grad_()]
    scores = late_interaction.maxsim(*leaves, q_mask, d_mask, normalize=True)
    for grad, mask in zip(torch.autograd.grad(scores.sum(), leaves), (q_mask, d_mask), strict=True):
        assert grad.isfinite().all() and not grad[~mask].any()


@pytest.mark.parametrize("prefix", [True, False])
def test_pairs_are_the_diagonal(prefix: bool) -> None:
    (q, d), (q_mask, d_mask) = batch(dtype=torch.float64), masks(prefix)
    d, d_mask = d[-N:], d_mask[-N:]
    expected = late_interaction.maxsim(q, d, q_mask, d_mask).diagonal()
    assert torch.equal(late_interaction.pairwise(q, d, q_mask, d_mask), expected)
    found = late_interaction.pairwise(listed(q, q_mask), listed(d, d_mask))
    assert torch.equal(found, expected)
    assert torch.equal(
        late_interaction.colbert_scores_pairwise(q, d, queries_mask=q_mask, documents_mask=d_mask),
        expected,
    )
    found = []
    for score in (late_interaction.pairwise, late_interaction.maxsim):
        leaves = [q.clone().requires_grad_(), d.clone().requires_grad_()]
        scores = score(*leaves, q_mask, d_mask)
        scores = scores if scores.ndim == 1 else scores.diagonal()
        found.append(torch.autograd.grad(scores[:-1].square().sum(), leaves))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("grad", [True, False])
def test_documents_of_each_query(grad: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(N, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    d = torch.randn(N, 2, ROOM, WIDTH, generator=generator, dtype=torch.float64)
    q_mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
    d_mask = (torch.rand(N, 2, ROOM, generator=generator) < 0.7).long()
    d_mask[:, :, 3] = 1
    q.requires_grad_(grad)
    named = {"queries_mask": q_mask, "documents_mask": d_mask}
    contrastive = late_interaction.colbert_scores(q, d, **named)
    distilled = late_interaction.colbert_kd_scores(q, d, **named)
    assert contrastive.shape == (N, 2 * N) and distilled.shape == (N, 2)
    for i in range(N):
        for way in range(2):
            expected = formula(q, d[:, way], q_mask.bool(), d_mask[:, way].bool())
            torch.testing.assert_close(contrastive[:, way::2], expected)
            torch.testing.assert_close(distilled[i, way], expected[i, i])
    if grad:
        grads = [
            torch.autograd.grad(s.sum(), q)[0]
            for s in (
                distilled,
                distilled.new_tensor(0)
                + sum(
                    formula(q, d[:, way], q_mask.bool(), d_mask[:, way].bool()).trace()
                    for way in (0, 1)
                ),
            )
        ]
        torch.testing.assert_close(*grads)
    mean = late_interaction.colbert_kd_scores(q, d, **named, length_normalize=True)
    torch.testing.assert_close(mean, distilled / q_mask.sum(1, keepdim=True))


def test_arrays_lists_and_single_sets_are_read_alike() -> None:
    q, d = batch()
    expected = formula(q, d)
    for queries in (q, q.numpy(), list(q), [each.numpy() for each in q]):
        for documents in (d, d.numpy(), list(d), tuple(each.numpy() for each in d)):
            torch.testing.assert_close(late_interaction.maxsim(queries, documents), expected)
    torch.testing.assert_close(late_interaction.maxsim(q[1], d.numpy()), expected[1:2])
    mask = torch.tensor([1, 0, 1, 1])
    torch.testing.assert_close(
        late_interaction.maxsim(q[1], d, mask), formula(q[1:2], d, mask[None].bool())
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_float32_and_meet_wider_tokens(dtype: torch.dtype) -> None:
    q, d = batch(dtype=dtype)
    found = late_interaction.maxsim(q, d)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, formula(q.float(), d.float()))
    torch.testing.assert_close(late_interaction.maxsim(q.float(), d), found)
    assert late_interaction.maxsim(q.double(), d).dtype == torch.float64


def test_bytes_with_their_scale() -> None:
    (q, d), (_, mask) = batch(), masks(prefix=False)
    per_token = d.abs().amax(2) / 127
    stored = (d / per_token[..., None]).round().to(torch.int8)
    read = stored.float() * per_token[..., None]
    score = late_interaction.maxsim
    torch.testing.assert_close(score(q, stored, document_scale=per_token), formula(q, read))
    torch.testing.assert_close(
        score(q, stored, None, mask, document_scale=per_token), formula(q, read, None, mask)
    )
    per_set = torch.rand(B)
    expected = formula(q, stored.float() * per_set[:, None, None])
    torch.testing.assert_close(score(q, stored, document_scale=per_set), expected)
    torch.testing.assert_close(score(q, list(stored), document_scale=per_set), expected)
    for documents in (stored, list(stored)):
        found = score(q, documents, document_scale=0.5)
        torch.testing.assert_close(found, formula(q, stored * 0.5))
    both = score(stored, stored, query_scale=1.0, document_scale=2.0)
    torch.testing.assert_close(both, 2 * formula(stored.float(), stored.float()))


def test_scores_by_the_length_of_queries() -> None:
    (q, d), (q_mask, d_mask) = batch(), masks(prefix=False)
    q_mask[1] = False
    for queries, mask in ((q, q_mask), (listed(q, q_mask), None)):
        found = late_interaction.maxsim(queries, d, mask, d_mask, length_normalize=True)
        expected = formula(q, d, q_mask, d_mask) / q_mask.sum(1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(found, expected)
        found = late_interaction.pairwise(queries, d[:N], mask, d_mask[:N], length_normalize=True)
        torch.testing.assert_close(found, expected[:, :N].diagonal())


def test_nothing_scores_nothing() -> None:
    q, d = batch()
    score = late_interaction.maxsim
    for queries, documents in ((q[:0], d), ([], d), (q, d[:0]), (q, []), ([], [])):
        found = score(queries, documents)
        assert found.shape == (len(queries), len(documents)) and found.dtype == torch.float32
    assert late_interaction.pairwise([], []).shape == (0,)
    assert (score(q, d[:, :0]) == -1e9).all() and not score(q[:, :0], d).any()
    assert (score(q, [d[0, :0], d[1]])[:, 0] == -1e9).all()
    assert (score(q, d[:, :0], empty_score=-3.0) == -3).all()
    assert late_interaction.topk(q, [], 3)[0].shape == (N, 0)
    assert late_interaction.topk([], d, 3)[1].shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"queries": 3}, TypeError, "queries must be a tensor, a NumPy array or a list"),
        ({"queries": torch.zeros(3)}, ValueError, r"queries must be \[sets, tokens, width\]"),
        ({"queries": [torch.zeros(2, 8), [1.0]]}, TypeError, r"queries\[1\] must be a tensor"),
        (
            {"documents": [torch.zeros(2, 8), torch.zeros(2, 7)]},
            ValueError,
            r"documents\[1\] must be \[tokens, width\] of one width, got \[2, 7\]",
        ),
        (
            {"documents": [torch.zeros(2, 8), torch.zeros(2, 8).double()]},
            TypeError,
            r"documents\[1\] is torch.float64",
        ),
        ({"documents": torch.zeros(5, 6, 7)}, ValueError, "must have one width, got 8 and 7"),
        ({"documents": torch.zeros(5, 6, 0)}, ValueError, "documents must be"),
        ({"documents": torch.zeros(5, 6, 8, dtype=torch.int8)}, TypeError, "document_scale"),
        ({"queries": torch.zeros(3, 4, 8, dtype=torch.int64)}, TypeError, "query_scale"),
        ({"document_scale": torch.zeros(6)}, ValueError, r"document_scale must be a number or \[5"),
        ({"query_mask": torch.ones(3, 5)}, ValueError, r"query_mask must be \[3, 4\]"),
        ({"document_mask": torch.full((5, 6), 0.5)}, ValueError, "document_mask must hold 0 and 1"),
        ({"document_mask": "all"}, TypeError, "document_mask must be a tensor"),
        (
            {"documents": torch.full((5, 6, 8), torch.nan)},
            ValueError,
            "^documents are not finite at set 0, token 0",
        ),
        ({"documents": torch.zeros(5, 6, 8, device="meta")}, TypeError, "queries are on cpu"),
        ({"precision": "best"}, ValueError, "precision must be"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else None,
)
def test_what_is_wrong_is_named(change: dict[str, Any], kind: type[Exception], says: str) -> None:
    q, d = batch()
    with pytest.raises(kind, match=says) as raised:
        late_interaction.maxsim(**{"queries": q, "documents": d} | change)
    assert "\n" not in str(raised.value)


def test_documents_that_do_not_belong_to_queries_are_named() -> None:
    q, d = batch()
    with pytest.raises(ValueError, match="queries and documents must be as many, got 3 and 5"):
        late_interaction.pairwise(q, d)
    with pytest.raises(ValueError, match=r"must be \[3, ways, tokens, width\].* got \[5, 6, 8\]"):
        late_interaction.colbert_kd_scores(q, d)
    with pytest.raises(ValueError, match=r"documents_mask must be \[3, 1, 6\].* got \[3, 6\]"):
        late_interaction.colbert_scores(q, d[:3, None], documents_mask=torch.ones(3, 6))


def test_numpy_masks_do() -> None:
    (q, d), (q_mask, d_mask) = batch(), masks(prefix=False)
    found = late_interaction.maxsim(q.numpy(), d.numpy(), q_mask.numpy(), d_mask.numpy())
    torch.testing.assert_close(found, formula(q, d, q_mask, d_mask))
    assert isinstance(np.asarray(found), np.ndarray)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("arrays", [False, True])
def test_a_list_is_scored_as_what_it_holds_one_after_the_other(
    arrays: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 5, 16, generator=generator)
    documents: list[Any] = [
        torch.randn(n, 16, generator=generator).to(dtype) for n in (0, 4, 9, 30, 1, 7, 2)
    ]
    documents[3] = documents[3].T.contiguous().T  # dense no more
    whole = late_interaction.maxsim(
        queries, torch.nn.utils.rnn.pad_sequence(documents, batch_first=True), None,
        [torch.ones(len(each)) for each in documents],
    )  # fmt: skip
    if arrays and dtype != torch.bfloat16:
        documents = [each.numpy() for each in documents]
    assert torch.equal(late_interaction.maxsim(queries, documents), whole)
    assert torch.equal(late_interaction.pairwise(queries, documents[2:5]), whole[:, 2:5].diag())
    wrong = [*documents[:3], documents[3] * float("nan"), *documents[4:]]
    with pytest.raises(ValueError, match=r"documents are not finite at token 13"):
        late_interaction.maxsim(queries, wrong)
    with pytest.raises(ValueError, match=r"documents\[6\] must be \[tokens, width\]"):
        late_interaction.maxsim(queries, [*documents[:6], documents[6][:, :3]])
    learned = [torch.as_tensor(each).requires_grad_() for each in documents]
    late_interaction.maxsim(queries, learned).sum().backward()
    assert all(each.grad is not None for each in learned)


def test_documents_of_a_smaller_type_meet_queries_in_theirs() -> None:
    q, d = batch()
    for stored in (d.half(), d.bfloat16(), d.double()):
        wide = torch.promote_types(stored.dtype, q.dtype)
        expected = late_interaction.maxsim(q.to(wide), stored.to(wide))
        for documents in (stored, list(stored)):
            assert torch.equal(late_interaction.maxsim(q, documents), expected)
            scores = late_interaction.topk(q, documents, 2)[0]
            assert torch.equal(scores, expected.topk(2).values)
