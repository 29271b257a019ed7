"""The best documents of a collection for each query, also of one that memory does not hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emergence_ext import ops
from emergence_ext.late_interaction.sets import (
    Embeddings,
    Mask,
    Packed,
    Padded,
    Reader,
    Scale,
    in_their_words,
    one_after_another,
)


@torch.no_grad()
def topk(
    queries: Embeddings,
    documents: Embeddings,
    k: int,
    query_mask: Mask | None = None,
    document_mask: Mask | None = None,
    *,
    document_offsets: Any = None,
    normalize: bool = False,
    length_normalize: bool = False,
    query_scale: Scale | None = None,
    document_scale: Scale | None = None,
    empty_score: float = -1e9,
    precision: str = "highest",
    max_memory: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k documents that score best for each query, a block of documents at a time.

    Every document is scored, exactly: this is no index. A collection on disk goes as one array of
    all tokens (`numpy.memmap`, `Tensor.from_file`) with offsets, or as `[B, tokens, width]` without
    a mask; of it only a block is read at once. On a GPU are the queries, and of documents that are
    not there a block at a time.

    Args:
        queries: as in `maxsim`.
        documents: as in `maxsim`; with offsets the tokens of all, `[all tokens, width]`.
        k: how many to keep.
        query_mask, document_mask: as in `maxsim`.
        document_offsets: where each document begins among all tokens, and where the last ends:
            `[B + 1]`, from 0 on, integers.
        normalize, length_normalize, query_scale, empty_score, precision: as in `maxsim`.
        document_scale: as in `maxsim`; with offsets a number or one for each token.
        max_memory: bytes of documents, as they are stored, that are scored at once; 64 MiB when
            left out.

    Returns:
        Scores and places of the documents, both `[N, k]`, best first; fewer columns where there are
        fewer documents. Of equal scores the earlier document comes first. No gradients.

    Raises:
        ValueError, TypeError: as `maxsim`; a k below 1, offsets that fall or do not fit.

    Examples:
        >>> from emergence_ext import late_interaction
        >>> q, d = torch.ones(1, 2, 3), torch.tensor([1.0, 3.0, 2.0]).view(3, 1, 1).expand(3, 4, 3)
        >>> late_interaction.topk(q, d, k=2)
        (tensor([[18., 12.]]), tensor([[1, 2]]))
    """
    q = Reader("queries", "query_scale", "query_mask", normalize, query_scale)
    d = Reader("documents", "document_scale", "document_mask", normalize, document_scale, True)
    of_q = q.read(queries, query_mask)
    scale: Tensor | None = None
    of_d: Packed
    if document_offsets is not None:
        tokens, starts = ops.as_tensor(documents), ops.as_tensor(document_offsets)
        if tokens.ndim != 2 or document_mask is not None:
            raise ValueError(
                "document_offsets go with documents [all tokens, width] and no document_mask, "
                f"got documents {list(tokens.shape)}"
            )
        scale, of_d = d.scale_of(tuple(tokens.shape[:1])), Packed([tokens], starts)
    elif document_mask is None and not isinstance(documents, list | tuple):
        tokens = ops.as_tensor(documents)
        tokens = tokens[None] if tokens.ndim == 2 else tokens
        if tokens.ndim != 3:
            raise ValueError(
                "documents must be [sets, tokens, width], or [all tokens, width] with "
                f"document_offsets, got {list(tokens.shape)}"
            )
        scale = d.scale_of(tuple(tokens.shape[:2]))
        if scale is not None and scale.ndim:
            scale = scale.expand(tokens.shape[:2]).reshape(-1)
        of_d = Padded(tokens, None).packed()
    else:  # read as a whole, and as it is scored
        of_d = d.read(documents, document_mask).packed()
        d = d._replace(normalize=False, scale=None)
    d.require_numbers(of_d.tokens)
    if d.keeps(of_d.tokens):
        of_d = of_d._replace(scale=scale)

    def prepare(rows: Tensor, first: int) -> Tensor:
        here = scale[first : first + len(rows)] if scale is not None and scale.ndim else scale
        return d.prepare(rows, here)

    if len(of_d.starts) == 1 or len(of_q.counts) == 0:  # of a list of none nobody knows the width
        types = [x.dtype for x in (of_q.tokens, of_d.tokens) if x.is_floating_point()]
        found = torch.zeros(len(of_q.counts), 0, device=of_q.tokens.device)
        wide = torch.float64 if torch.float64 in types else torch.float32
        return found.to(wide), found.long()
    with in_their_words():
        scores, places = ops.maxsim_packed(
            **one_after_another(of_q, of_d),
            topk=k,
            prepare=prepare if d.changes and of_d.scale is None else None,
            empty_score=empty_score,
            precision=precision,
            max_memory=max_memory,
        )
    if length_normalize:
        scores = scores / of_q.counts.clamp(min=1).to(scores)[:, None]
    return scores, places
