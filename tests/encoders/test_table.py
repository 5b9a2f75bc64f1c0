"""The table of frozen vectors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.encoders.text import FrozenTable, token_hashes


class Counting:
    """Sums of token ids, and how many texts were asked for."""

    def __init__(self) -> None:
        self.texts = 0

    def __call__(self, tokens: Ragged) -> Tensor:
        self.texts += len(tokens)
        return torch.tensor([[float(sum(row)), 1.0] for row in tokens.tolist()]).view(-1, 2)


def test_each_text_is_computed_once() -> None:
    table, compute = FrozenTable(), Counting()
    texts = {number: [number, number + 1] for number in range(100)}
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for _ in range(30):
        ids = torch.randperm(100, generator=generator)[:7]
        seen |= set(ids.tolist())
        found = table.look_up(Ragged.from_lists([texts[i] for i in ids.tolist()]), ids, "state", compute)
        assert found[:, 0].tolist() == [2 * i + 1 for i in ids.tolist()]
    assert compute.texts == len(seen)


def test_an_id_with_other_tokens_is_computed_anew() -> None:
    table, compute = FrozenTable(), Counting()
    ids = torch.tensor([4, 9])
    table.look_up(Ragged.from_lists([[1], [2]]), ids, None, compute)
    assert table.look_up(Ragged.from_lists([[1], [5]]), ids, None, compute)[:, 0].tolist() == [1, 5]
    assert table.look_up(Ragged.from_lists([[1], [5]]), ids, None, compute)[:, 0].tolist() == [1, 5]
    assert compute.texts == 3


def test_another_state_of_the_model_empties_it() -> None:
    table, compute = FrozenTable(), Counting()
    tokens, ids = Ragged.from_lists([[1]]), torch.tensor([0])
    for state in ("a", "a", "b", "b"):
        table.look_up(tokens, ids, state, compute)
    assert compute.texts == 2
    table.clear()
    table.look_up(tokens, ids, "b", compute)
    assert compute.texts == 3


def test_entries_made_in_inference_mode_serve_training() -> None:
    table, compute = FrozenTable(), Counting()
    with torch.inference_mode():
        table.look_up(Ragged.from_lists([[1]]), torch.tensor([0]), None, compute)
    vectors = table.look_up(Ragged.from_lists([[1], [2]]), torch.tensor([0, 1]), None, compute)
    weights = torch.ones(2, requires_grad=True)
    (vectors @ weights).sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [3, 2]


def test_copies_start_empty() -> None:
    table, compute = FrozenTable(), Counting()
    table.look_up(Ragged.from_lists([[1]]), torch.tensor([0]), None, compute)
    assert copy.deepcopy(table).count == 0


def test_hashes_know_tokens_and_their_order() -> None:
    rows = [
        [],
        [1],
        [2],
        [1, 2],
        [2, 1],
        [1, 1],
        [1, 1, 1],
        [0],
        [0, 0],
        *([i, 50 - i] for i in range(3, 50)),
    ]
    assert len(token_hashes(Ragged.from_lists(rows)).unique()) == len(rows)
    assert torch.equal(token_hashes(Ragged.from_lists(rows[3:])), token_hashes(Ragged.from_lists(rows))[3:])


def test_an_id_whose_tokens_are_pooled_otherwise_is_computed_anew() -> None:
    def compute(tokens: Ragged, skip: Tensor) -> Tensor:
        rows = zip(tokens.tolist(), skip.tolist(), strict=True)
        return torch.tensor([[float(sum(row[left:]))] for row, left in rows]).view(-1, 1)

    table, tokens, ids = FrozenTable(), Ragged.from_lists([[1, 2], [3, 4]]), torch.tensor([7, 3])
    for skip, expected in (([0, 1], [3, 4]), ([0, 1], [3, 4]), ([1, 1], [2, 4]), ([0, 0], [3, 7])):
        assert table.look_up(tokens, ids, None, compute, torch.tensor(skip))[:, 0].tolist() == expected
