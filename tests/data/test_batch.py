"""A batch unfolds to exactly the texts that its ids name, each text and item held once."""

from __future__ import annotations

import copy

import pytest
import torch

from lit_metric.data import Batch, Collator, Items, Tokens

ROWS = [["red", "round"], ["round"], [], ["red"], ["blue", "red", "round"], ["round"]]


@pytest.fixture
def collator() -> Collator:
    items, vocabulary = Items.encode(ROWS, kind="set")
    return Collator(items, Tokens.from_lists([list(text.encode()) for text in vocabulary.texts]))


def unfolded(batch: Batch, positions: torch.Tensor) -> list[list[str]]:
    texts = [bytes(row).decode() for row in batch.tokens.tolist()]
    items = batch.items.tolist()
    return [[texts[text] for text in items[item]] for item in positions.tolist()]


@pytest.mark.parametrize(
    ("anchors", "candidates"), [([4, 0, 2], [0, 5, 5, 1]), ([3], [3]), ([1, 2, 0], []), ([], [2]), ([], [])]
)
def test_a_batch_unfolds_to_the_named_items(collator, anchors, candidates):
    ids = [torch.tensor(side, dtype=torch.int64) for side in (anchors, candidates)]
    batch = collator(*ids)
    assert batch.anchor_ids.tolist() == anchors
    assert batch.candidate_ids.tolist() == candidates
    assert unfolded(batch, batch.anchors) == [ROWS[item] for item in anchors]
    assert unfolded(batch, batch.candidates) == [ROWS[item] for item in candidates]
    used = sorted({*anchors, *candidates})
    assert batch.item_ids.tolist() == used
    assert len(batch.tokens) == len({text for item in used for text in ROWS[item]}) == len(batch.text_ids)


def test_text_ids_name_the_texts_of_the_vocabulary(collator):
    batch = collator(torch.tensor([4]), torch.tensor([1]))
    assert batch.text_ids.tolist() == [0, 1, 2]
    assert collator(torch.tensor([5]), torch.tensor([1])).text_ids.tolist() == [1]


def test_copies_hold_the_same(collator):
    batch = collator(torch.tensor([4, 0]), torch.tensor([1, 4]))
    for other in (
        batch.to("cpu"),
        batch.to(torch.device("cpu"), non_blocking=True),
        copy.deepcopy(batch),
    ):
        assert isinstance(other, Batch)
        assert unfolded(other, other.anchors) == [ROWS[4], ROWS[0]]
        assert other.candidate_ids.tolist() == [1, 4]
        assert other.text_ids.tolist() == batch.text_ids.tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")
def test_pinned_copies_hold_the_same(collator):
    batch = collator(torch.tensor([4, 0]), torch.tensor([1, 4])).pin_memory()
    assert batch.tokens.values.is_pinned()
    assert unfolded(batch.to("cuda", non_blocking=True), batch.anchors) == [ROWS[4], ROWS[0]]


def test_a_batch_says_roles_weights_and_what_poolings_are_not_to_see():
    weights = [[1.0, 2.0], [3.0], [], [4.0], [5.0, 6.0, 7.0], [8.0]]
    roles = ["document", "query", "document", "title", "document", "query"]
    items, vocabulary = Items.encode(ROWS, kind="set", roles=roles, weights=weights)
    skips = torch.tensor(
        [10 * len(text) + int(role) for text, role in zip(vocabulary.texts, vocabulary.roles, strict=True)]
    )
    tokens = Tokens.from_lists([list(text.encode()) for text in vocabulary.texts], skips)
    batch = Collator(items, tokens)(torch.tensor([4, 1]), torch.tensor([3, 5, 4, 2]), task=3)
    assert batch.item_ids.tolist() == [1, 2, 3, 4, 5]
    assert batch.roles.tolist() == [0, 1, 2, 1, 0]
    assert batch.weights.tolist() == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert batch.skip.tolist() == skips[batch.text_ids].tolist()
    assert batch.task == 3
    assert unfolded(batch, batch.anchors) == [ROWS[4], ROWS[1]]
    inputs = batch.to("cpu").inputs
    for name in ("tokens", "items", "text_ids", "weights", "skip", "roles"):
        assert getattr(inputs, name).tolist() == getattr(batch, name).tolist()


def test_a_batch_without_roles_and_weights_says_so(collator):
    batch = collator(torch.tensor([4]), torch.tensor([0]))
    assert (batch.roles, batch.weights, batch.skip, batch.task) == (None, None, None, 0)
