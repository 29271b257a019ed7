"""The real packages take these scores in place of their own, and say the same.

They are no requirement of this package's tests: `pip install 'emergence-ext[retrieval]'` brings
them. Their formulas are held in any case, in `test_scores.py`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emergence_ext import late_interaction

QUERIES, WAYS, TOKENS, ROOM, WIDTH = 4, 3, 5, 7, 16
EXTRA = "it comes with the extra [retrieval]"


def package(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name.split('.')[0]} is not installed; {EXTRA}")


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, documents of each, and masks; every token of a query likes one real token at least.

    So that PyLate, where a masked token scores 0, and zeros that pad change nothing.
    """
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(QUERIES, TOKENS, WIDTH, generator=generator)
    d = torch.randn(QUERIES, WAYS, ROOM, WIDTH, generator=generator)
    q_mask, d_mask = torch.ones(QUERIES, TOKENS), torch.ones(QUERIES, WAYS, ROOM)
    q_mask[1, 3:] = d_mask[2, 1, 6:] = d_mask[0, :, 2] = 0
    q, d = (nn.functional.normalize(x, dim=-1) for x in (q, d))
    d[:, :, 0], d[:, :, 1] = q[:, :1, :].mean(1, keepdim=True), -q[:, :1, :].mean(1, keepdim=True)
    return q, d, q_mask, d_mask


def same(mine: Any, theirs: Any, *inputs: Tensor) -> None:
    """Equal results and gradients, to the rounding of float32 sums."""
    found = []
    for score in (mine, theirs):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        value = score(*leaves)
        found.append((value.detach(), *torch.autograd.grad(value.square().sum(), leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Encoder(nn.Module):
    """What the losses call a model: token embeddings of features, and their mask."""

    skiplist: tuple[int, ...] = ()
    do_query_expansion = False

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH)

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        # Nor are products negative then, below which 0, what PyLate gives masked tokens, would win.
        tokens = nn.functional.normalize(self.embedding(features["input_ids"]).abs(), dim=-1)
        return {"token_embeddings": tokens, "attention_mask": features["attention_mask"]}


def features() -> list[dict[str, Tensor]]:
    """A batch of queries, and one of documents for each way, of one length."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for length in (TOKENS, ROOM, ROOM):
        ids = torch.randint(50, (QUERIES, length), generator=generator)
        mask = torch.ones(QUERIES, length, dtype=torch.int64)
        mask[1, length - 2 :] = 0
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def losses(of: Any, *options: dict[str, Any]) -> None:
    """The loss `of(model, **option)(features)` and its gradient are the same for both options."""
    found = []
    for option in options:
        torch.manual_seed(0)
        model = Encoder()
        loss = of(model, **option)
        loss.backward()
        found.append((loss.detach(), model.embedding.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert found[0][1].any()


def test_sentence_transformers_scores() -> None:
    util = package("sentence_transformers.util")
    q, d, q_mask, d_mask = batch()
    q_mask, d_mask = q_mask.bool(), d_mask.bool()
    flat, flat_mask = d[:, 0], d_mask[:, 0]
    for length_normalize in (False, True):
        same(
            lambda q, d, on=length_normalize: late_interaction.maxsim(
                q, d, q_mask, flat_mask, length_normalize=on
            ),
            lambda q, d, on=length_normalize: util.maxsim(
                q, d, q_mask, flat_mask, length_normalize=on
            ),
            q,
            flat,
        )
    same(
        lambda q, d: late_interaction.pairwise(q, d, q_mask, flat_mask),
        lambda q, d: util.maxsim_pairwise(q, d, q_mask, flat_mask),
        q,
        flat,
    )
    ragged_q, ragged_d = [x[:3] for x in q], [x[: 2 + n] for n, x in enumerate(flat)]
    torch.testing.assert_close(
        late_interaction.maxsim(ragged_q, ragged_d), util.maxsim(ragged_q, ragged_d)
    )
    empty = [flat[0], flat[1][:0]]
    assert torch.equal(late_interaction.maxsim(q, empty)[:, 1], util.maxsim(q, empty)[:, 1])


def test_sentence_transformers_losses() -> None:
    of = package("sentence_transformers.multi_vector_encoder.losses")
    mine = late_interaction
    labels = torch.rand(QUERIES, 2, generator=torch.Generator().manual_seed(2))
    losses(
        lambda model, **option: of.MultiVectorMultipleNegativesRankingLoss(model, **option)(
            features(), None
        ),
        {"similarity_fct": mine.colbert_scores},
        {},
    )
    losses(
        lambda model, **option: of.MultiVectorDistillKLDivLoss(model, **option)(features(), labels),
        {"similarity_fct": mine.colbert_kd_scores},
        {},
    )
    losses(
        lambda model, **option: of.MultiVectorMarginMSELoss(model, **option)(
            features(), labels[:, 0] - labels[:, 1]
        ),
        {"similarity_fct": mine.colbert_scores_pairwise},
        {},
    )


def test_pylate_scores() -> None:
    scores = package("pylate.scores")
    q, d, q_mask, d_mask = batch()
    same(
        lambda q, d: late_interaction.colbert_scores(q, d[:, 0], q_mask, d_mask[:, 0]),
        lambda q, d: scores.colbert_scores(q, d[:, 0], q_mask, d_mask[:, 0]).float(),
        q.abs(),
        d.abs(),
    )
    same(
        lambda q, d: late_interaction.colbert_kd_scores(q, d, q_mask, d_mask),
        lambda q, d: scores.colbert_kd_scores(q, d, q_mask, d_mask),
        q.abs(),
        d.abs(),
    )
    same(
        lambda q, d: late_interaction.colbert_scores_pairwise(q, d[:, 0]),
        lambda q, d: scores.colbert_scores_pairwise(q, d[:, 0]),
        q,
        d,
    )
    same(late_interaction.colbert_scores, scores.ColBERTScores(), q, d)


def test_pylate_losses() -> None:
    of = package("pylate.losses")
    mine = late_interaction

    def contrastive(model: Encoder, **option: Any) -> Tensor:
        return of.Contrastive(model, **option)(features())

    def distillation(model: Encoder, **option: Any) -> Tensor:
        first, *documents = features()
        both = {name: torch.cat([each[name] for each in documents]) for name in first}
        teacher = torch.rand(QUERIES, 2, generator=torch.Generator().manual_seed(2))
        return of.Distillation(model, **option)([first, both], teacher)

    losses(contrastive, {"score_metric": mine.colbert_scores}, {})
    losses(distillation, {"score_metric": mine.colbert_kd_scores}, {})


def test_colpali_scores() -> None:
    processing = package("colpali_engine.utils.processing_utils")
    maxsim = package("colpali_engine.utils.maxsim")
    # Zeros that pad win over negative products there, so that there are none.
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(QUERIES, TOKENS, WIDTH, generator=generator)
    d = torch.rand(QUERIES, WAYS, ROOM, WIDTH, generator=generator)
    ragged_q, ragged_d = (
        [x[: 3 + n % 2] for n, x in enumerate(q)],
        [x[: 2 + n] for n, x in enumerate(d[:, 0])],
    )
    scorer = processing.BaseVisualRetrieverProcessor.score_multi_vector
    torch.testing.assert_close(
        late_interaction.maxsim(ragged_q, ragged_d), scorer(ragged_q, ragged_d, device="cpu")
    )
    same(late_interaction.maxsim, maxsim.maxsim_inbatch, q, d[:, 0])
    same(late_interaction.colbert_kd_scores, maxsim.maxsim_kd, q, d)
