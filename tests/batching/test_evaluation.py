"""Batches for encoding: every item once, no batch too large."""

from __future__ import annotations

import pytest
import torch

from lit_metric.batching import ChunkDataset, chunks
from lit_metric.batching import loader as module
from lit_metric.data import Collator, Items, Tokens


def world(rows: list[list[str]], lengths: dict[str, int], kind: str = "text") -> tuple[Items, Tokens]:
    """Items of ``rows``, whose texts have so many tokens."""
    items, vocabulary = Items.encode(rows, kind)  # type: ignore[arg-type]
    return items, Tokens.from_lists([[7] * lengths[text] for text in vocabulary.texts])


def test_texts_are_cut_by_tokens_longest_first() -> None:
    lengths = {"a": 2, "b": 9, "c": 4, "d": 1, "e": 3, "f": 12}
    items, tokens = world([[text] for text in lengths], lengths)
    parts = chunks(items, tokens, torch.arange(6), max_tokens=10)
    # 12 alone, though it is too long; 9; then 4 + 3 + 2 + 1 fill ten exactly.
    assert [part.tolist() for part in parts] == [[5], [1], [2, 4, 0, 3]]
    assert [part.tolist() for part in chunks(items, tokens, torch.tensor([3, 0]), 3)] == [[3, 0]]


def test_a_set_counts_the_tokens_of_all_its_texts() -> None:
    lengths = {"a": 5, "b": 5, "c": 1}
    items, tokens = world([["a", "b"], ["c"], ["a"], ["b", "c"]], lengths, "set")
    parts = chunks(items, tokens, torch.arange(4), max_tokens=10)
    assert [part.tolist() for part in parts] == [[0], [3], [2, 1]]


def test_a_vocabulary_that_fits_at_once_is_only_cut_by_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 3)
    items, tokens = world([["a"], ["b"], ["a", "b"], ["a"], ["b"], []], {"a": 5, "b": 5}, "set")
    parts = chunks(items, tokens, torch.arange(6), max_tokens=10)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5]]
    parts = chunks(items, tokens, torch.arange(6), max_tokens=9)
    assert sorted(torch.cat(parts).tolist()) == list(range(6))
    assert all(
        sum(5 * len(items.texts[item]) for item in part.tolist()) <= 9 or len(part) == 1 for part in parts
    )
    assert max(map(len, parts)) <= 3


def test_chunks_become_batches_of_anchors() -> None:
    lengths = {"a": 2, "b": 9, "c": 4}
    items, tokens = world([[text] for text in lengths], lengths)
    dataset = ChunkDataset(Collator(items, tokens), chunks(items, tokens, torch.arange(3), 6))
    assert len(dataset) == 2
    assert [dataset[number].anchor_ids.tolist() for number in range(2)] == [[1], [2, 0]]
    assert [dataset[number].tokens.lengths.tolist() for number in range(2)] == [[9], [2, 4]]
    assert all(len(dataset[number].candidates) == 0 for number in range(2))


def test_nothing_to_encode() -> None:
    items, tokens = world([["a"]], {"a": 1})
    nothing = chunks(items, tokens, torch.empty(0, dtype=torch.int64))
    assert nothing == []
    assert len(ChunkDataset(Collator(items, tokens), nothing)) == 0
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        chunks(items, tokens, torch.arange(1), 0)
