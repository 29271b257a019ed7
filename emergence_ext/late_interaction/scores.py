"""The scores of queries and documents, all pairs of them or those that belong together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emergence_ext import ops
from emergence_ext.late_interaction.sets import (
    Embeddings,
    Mask,
    Reader,
    Scale,
    Sets,
    as_padded,
    in_their_words,
    one_after_another,
    require_meeting,
)


def maxsim(
    queries: Embeddings,
    documents: Embeddings,
    query_mask: Mask | None = None,
    document_mask: Mask | None = None,
    *,
    normalize: bool = False,
    length_normalize: bool = False,
    query_scale: Scale | None = None,
    document_scale: Scale | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
) -> Tensor:
    """Score every query against every document: a sum over its tokens of their best products.

    `scores[i, j] = sum_t max_s <queries[i, t], documents[j, s]>`, in float32 at least whatever the
    tokens are stored as; queries and documents of different dtypes meet in the wider of them. It is
    `sentence_transformers.util.maxsim`, PyLate's `colbert_scores` and the `score_multi_vector` of
    colpali-engine's processors, without a tensor of all products and with exact gradients.

    Padding is what a mask, or the end of a listed set, says: it is never multiplied and never a
    match. Zeros without a mask are tokens like others. (PyLate multiplies by the mask and
    colpali-engine pads with zeros, so that there a masked token still scores 0, which shows where
    all real products of a query's token are negative.) A mask whose ones do not come first costs a
    copy of the tokens, which moves them there.

    Args:
        queries: `[N, tokens, width]`, a tensor or NumPy array; or a list of sets
            `[tokens, width]` of any lengths; or one such set.
        documents: the same, `[B, tokens, width]`.
        query_mask: which tokens of the queries count, `[N, tokens]` of 0 and 1 or booleans, or a
            list of one mask for each; all when left out.
        document_mask: the same of the documents, `[B, tokens]`.
        normalize: make every token one of length 1 first.
        length_normalize: divide by the number of the query's tokens, at least 1.
        query_scale: what multiplies the tokens of the queries, needed for int8: a number, one for
            each query `[N]`, or for each token `[N, tokens]` where they are not listed.
        document_scale: the same of the documents.
        empty_score: of a document without tokens, before anything is divided.
        precision: "highest", "high" or "medium", as in `emergence_ext.ops.maxsim`.

    Returns:
        `[N, B]`, float32 (float64 where tokens are).

    Raises:
        ValueError: shapes that do not fit, a mask of something else than 0 and 1, on the CPU a
            token that is not finite.
        TypeError: what is not a tensor or array, devices that differ, integers without a scale.

    Examples:
        >>> from emergence_ext.late_interaction import maxsim
        >>> queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> maxsim(queries, [torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 2.0]])])
        tensor([[3., 5.]])
    """
    q = Reader("queries", "query_scale", "query_mask", normalize, query_scale)
    d = Reader("documents", "document_scale", "document_mask", normalize, document_scale, True)
    of_q = q.read(queries, query_mask)
    of_d = d.read(documents, document_mask)
    with in_their_words():
        scores = _all_pairs(of_q, of_d, empty_score, precision)
    return _finished(scores, of_q, length_normalize)


def pairwise(
    queries: Embeddings,
    documents: Embeddings,
    query_mask: Mask | None = None,
    document_mask: Mask | None = None,
    *,
    normalize: bool = False,
    length_normalize: bool = False,
    query_scale: Scale | None = None,
    document_scale: Scale | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
) -> Tensor:
    """Score each query against its own document: `maxsim(...)[i, i]`, as `[N]`.

    It is `sentence_transformers.util.maxsim_pairwise`.

    Args:
        queries, documents, query_mask, document_mask, normalize, length_normalize, query_scale,
            document_scale, empty_score, precision: as in `maxsim`; as many queries as documents.

    Raises:
        ValueError, TypeError: as `maxsim`; another number of documents than of queries.

    Examples:
        >>> from emergence_ext import late_interaction
        >>> q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> late_interaction.pairwise(q, 2 * q)
        tensor([2., 2.])
    """
    q = Reader("queries", "query_scale", "query_mask", normalize, query_scale)
    d = Reader("documents", "document_scale", "document_mask", normalize, document_scale, True)
    of_q, of_d = q.read(queries, query_mask), d.read(documents, document_mask)
    if len(of_q.counts) != len(of_d.counts):
        raise ValueError(
            f"queries and documents must be as many, got {len(of_q.counts)} and {len(of_d.counts)}"
        )
    with in_their_words():
        scores = _own(of_q, of_d, 1, empty_score, precision)
    return _finished(scores, of_q, length_normalize)[:, 0]


def colbert_scores(
    queries_embeddings: Embeddings,
    documents_embeddings: Embeddings,
    queries_mask: Mask | None = None,
    documents_mask: Mask | None = None,
    *,
    length_normalize: bool = False,
) -> Tensor:
    """`maxsim` under PyLate's and sentence-transformers' name, for their contrastive losses.

    Args:
        queries_embeddings: as in `maxsim`.
        documents_embeddings: as in `maxsim`; or several documents for each query,
            `[N, ways, tokens, width]`, each of which is scored against every query.
        queries_mask: as in `maxsim`.
        documents_mask: as in `maxsim`, or `[N, ways, tokens]`.
        length_normalize: as in `maxsim`.

    Returns:
        `[N, B]`, with several for each query `[N, N ways]`: query by query, way by way.

    Raises:
        ValueError, TypeError: as `maxsim`.

    Examples:
        >>> from emergence_ext import late_interaction
        >>> q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> late_interaction.colbert_scores(q, 2 * q)
        tensor([[2., 0.],
                [0., 2.]])
    """
    documents, mask, _ = _flat(documents_embeddings, documents_mask)
    return maxsim(
        queries_embeddings, documents, queries_mask, mask, length_normalize=length_normalize
    )


def colbert_scores_pairwise(
    queries_embeddings: Embeddings,
    documents_embeddings: Embeddings,
    queries_mask: Mask | None = None,
    documents_mask: Mask | None = None,
    *,
    length_normalize: bool = False,
) -> Tensor:
    """`pairwise` under PyLate's and sentence-transformers' name, for losses of pairs, `[N]`.

    Examples:
        >>> from emergence_ext import late_interaction
        >>> q = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> late_interaction.colbert_scores_pairwise(q, 2 * q)
        tensor([2., 2.])
    """
    return pairwise(
        queries_embeddings,
        documents_embeddings,
        queries_mask,
        documents_mask,
        length_normalize=length_normalize,
    )


def colbert_kd_scores(
    queries_embeddings: Embeddings,
    documents_embeddings: Tensor,
    queries_mask: Mask | None = None,
    documents_mask: Mask | None = None,
    *,
    length_normalize: bool = False,
) -> Tensor:
    """Score each query against documents of its own, for losses that distil a teacher.

    Args:
        queries_embeddings: as in `maxsim`.
        documents_embeddings: `[N, ways, tokens, width]`, a tensor or NumPy array.
        queries_mask: as in `maxsim`.
        documents_mask: `[N, ways, tokens]`.
        length_normalize: as in `maxsim`.

    Returns:
        `[N, ways]`.

    Raises:
        ValueError, TypeError: as `maxsim`; documents that are not `[N, ways, tokens, width]`.

    Examples:
        >>> from emergence_ext import late_interaction
        >>> queries, documents = torch.ones(2, 1, 4), torch.ones(2, 3, 5, 4)
        >>> late_interaction.colbert_kd_scores(queries, documents)
        tensor([[4., 4., 4.],
                [4., 4., 4.]])
    """
    documents, mask, ways = _flat(documents_embeddings, documents_mask)
    of_q = Reader("queries_embeddings", "a scale", "queries_mask").read(
        queries_embeddings, queries_mask
    )
    of_d = Reader("documents_embeddings", "a scale", "documents_mask").read(documents, mask)
    if ways is None or len(of_q.counts) * ways != len(of_d.counts):
        raise ValueError(
            f"documents_embeddings must be [{len(of_q.counts)}, ways, tokens, width], some for "
            f"each query, got {list(ops.as_tensor(documents_embeddings).shape)}"
        )
    with in_their_words():
        scores = _own(of_q, of_d, ways, -1e9, "highest")
    return _finished(scores, of_q, length_normalize)


def _flat(documents: Embeddings, mask: Mask | None) -> tuple[Embeddings, Mask | None, int | None]:
    """Documents of each query as one batch, with their mask, and how many each query has."""
    if isinstance(documents, list | tuple):
        return documents, mask, None
    tokens = ops.as_tensor(documents)
    if tokens.ndim != 4:
        return tokens, mask, None
    if mask is not None:
        mask = ops.as_tensor(mask)
        if mask.shape != tokens.shape[:3]:
            raise ValueError(
                f"documents_mask must be {list(tokens.shape[:3])}, as documents_embeddings, "
                f"got {list(mask.shape)}"
            )
        mask = mask.flatten(0, 1)
    return tokens.flatten(0, 1), mask, tokens.shape[1]


def _all_pairs(queries: Sets, documents: Sets, empty_score: float, precision: str) -> Tensor:
    """`[N, B]`."""
    if len(queries.counts) == 0 or len(documents.counts) == 0:
        wide = documents.tokens if len(queries.counts) == 0 else queries.tokens
        dtype = torch.float64 if wide.dtype == torch.float64 else torch.float32
        shape = len(queries.counts), len(documents.counts)
        return torch.zeros(shape, dtype=dtype, device=wide.device)
    require_meeting(queries, documents)
    options: dict[str, Any] = {"empty_score": empty_score, "precision": precision}
    padded = as_padded(queries, documents)
    if padded is not None:
        lengths: dict[str, Any] = {"q_lengths": padded[0].lengths, "d_lengths": padded[1].lengths}
        T = ops.maxsim(padded[0].tokens, padded[1].tokens, **lengths, **options)
    else:
        T = ops.maxsim_packed(**one_after_another(queries, documents), **options)
    return T.t().contiguous()


def _own(queries: Sets, documents: Sets, ways: int, empty_score: float, precision: str) -> Tensor:
    """Scores of each query and its own documents, `ways` that follow one another: `[N, ways]`."""
    n = len(queries.counts)
    if n == 0 or ways == 0:
        return _all_pairs(queries, documents, empty_score, precision).new_zeros(n, ways)
    require_meeting(queries, documents)
    options: dict[str, Any] = {"empty_score": empty_score, "precision": precision}
    tokens = queries.tokens, documents.tokens
    wants_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in tokens)
    padded = as_padded(queries, documents) if wants_gradient or not tokens[0].is_cpu else None
    if padded is not None:
        q, d = padded
        found = []
        for j in range(n):
            own = slice(j * ways, (j + 1) * ways)
            lengths: dict[str, Any] = {
                "q_lengths": None if q.lengths is None else q.lengths[j : j + 1],
                "d_lengths": None if d.lengths is None else d.lengths[own],
            }
            found.append(ops.maxsim(q.tokens[j : j + 1], d.tokens[own], **lengths, **options)[:, 0])
        return torch.stack(found)
    pairs = torch.stack([torch.arange(n * ways) // ways, torch.arange(n * ways)], 1)
    given = one_after_another(queries, documents)
    return ops.maxsim_packed(**given, pairs=pairs, **options).view(n, ways)


def _finished(scores: Tensor, queries: Sets, length_normalize: bool) -> Tensor:
    """Scores `[N, ...]`, divided by the number of a query's tokens where that is wished."""
    if not length_normalize:
        return scores
    return scores / queries.counts.clamp(min=1).to(scores)[:, None]
