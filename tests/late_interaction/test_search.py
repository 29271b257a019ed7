"""The best of a collection are those of all scores, from memory and from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emergence_ext import late_interaction


def collection() -> tuple[Tensor, list[Tensor]]:
    """Three queries and 40 documents of 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 5, 8, generator=generator)
    lengths = torch.randint(1, 10, (40,), generator=generator).tolist()
    return queries, [torch.randn(length, 8, generator=generator) for length in lengths]


def best(queries: Tensor, documents: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    order = late_interaction.maxsim(queries, documents).sort(dim=1, descending=True, stable=True)
    return order.values[:, :k], order.indices[:, :k]


@pytest.mark.parametrize("max_memory", [None, 500])
def test_lists_padded_documents_and_offsets_give_the_same(max_memory: int | None) -> None:
    queries, documents = collection()
    expected = best(queries, documents, 7)
    padded = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=torch.nan)
    lengths = torch.tensor([len(each) for each in documents])
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    offsets = torch.tensor([0, *lengths.tolist()]).cumsum(0)
    for found in (
        late_interaction.topk(queries, documents, 7, max_memory=max_memory),
        late_interaction.topk(queries, padded, 7, None, mask, max_memory=max_memory),
        late_interaction.topk(
            queries.numpy(),
            torch.cat(documents).numpy(),
            7,
            document_offsets=offsets.numpy(),
            max_memory=max_memory,
        ),
    ):
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_a_collection_of_bytes_in_a_file(tmp_path: Path) -> None:
    queries, documents = collection()
    tokens = torch.nn.functional.normalize(torch.cat(documents), dim=1)
    offsets = np.cumsum([0] + [len(each) for each in documents])
    scale = tokens.abs().amax(1) / 127
    stored = (tokens / scale[:, None]).round().to(torch.int8)
    np.save(tmp_path / "tokens.npy", stored.numpy())
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    read = list((stored.float() * scale[:, None]).split(np.diff(offsets).tolist()))
    for options in ({}, {"normalize": True}, {"length_normalize": True}):
        found = late_interaction.topk(
            queries,
            mapped,
            4,
            document_offsets=offsets,
            document_scale=scale,
            max_memory=100,
            **options,
        )
        order = late_interaction.maxsim(queries, read, **options).sort(1, descending=True)
        torch.testing.assert_close(found[0], order.values[:, :4])
        assert torch.equal(found[1], order.indices[:, :4])


def test_documents_of_one_size_are_read_where_they_are() -> None:
    queries = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    documents = torch.randn(20, 6, 8, generator=torch.Generator().manual_seed(2)).half()
    found = late_interaction.topk(queries, documents, 3, max_memory=200)
    expected = best(queries, list(documents), 3)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    scales = torch.rand(20)
    found = late_interaction.topk(queries, documents, 3, document_scale=scales, max_memory=200)
    expected = best(queries, list(documents.float() * scales[:, None, None]), 3)
    torch.testing.assert_close(found, expected)


def test_what_is_wrong_is_named() -> None:
    queries, documents = collection()
    tokens = torch.cat(documents)
    with pytest.raises(ValueError, match=r"^k must be .* at least 1, got 0"):
        late_interaction.topk(queries, documents, 0)
    with pytest.raises(ValueError, match=r"^document_offsets must not fall"):
        offsets = torch.tensor([0, 9, 5, len(tokens)])
        late_interaction.topk(queries, tokens, 3, document_offsets=offsets)
    with pytest.raises(ValueError, match="document_offsets go with documents"):
        late_interaction.topk(queries, tokens[None], 3, document_offsets=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="documents must be"):
        late_interaction.topk(queries, torch.zeros(3), 3)
