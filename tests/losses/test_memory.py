"""Candidates from outside the batch: what is remembered, and what anchors learn from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lit_metric.data import LabelRelations
from lit_metric.losses import (
    CandidateBank,
    CandidateMemory,
    CoSENTLoss,
    InfoNCELoss,
    LossContext,
    MatryoshkaLoss,
    ProxyNCALoss,
    RelationPairs,
    SumLoss,
    gather_ids,
    gather_with_grad,
    rank,
    world_size,
)
from lit_metric.losses.memory import compares_candidates
from tests.distributed import RankPool
from tests.losses.cases import COMBINATIONS, LOSSES, Labels

EVERY_LOSS = {**LOSSES, **COMBINATIONS}


def fill(memory: CandidateMemory, *batches: list[int], task: int = 0) -> None:
    """Train on batches of items whose vector is their id and the number of the batch."""
    for number, ids in enumerate(batches):
        vectors = torch.tensor([[float(item), float(number)] for item in ids]).reshape(-1, 2)
        memory.append(vectors, vectors, torch.tensor(ids, dtype=torch.int64), task)


def rows_of(memory: CandidateMemory, task: int = 0) -> list[list[float]]:
    return memory.extend(torch.empty(0, 2), torch.empty(0, dtype=torch.int64), task)[0].tolist()


def test_the_latest_vector_of_each_item_is_kept_the_oldest_first() -> None:
    memory = CandidateMemory(4)
    fill(memory, [5, 3], [7, 5], [], [1, 2, 3])
    assert rows_of(memory) == [[7, 1], [1, 3], [2, 3], [3, 3]]
    # Of an item that two ranks have, the later rank's.
    vectors = torch.tensor([[8.0, 0.0], [9.0, 0.0], [8.0, 1.0]])
    memory.append(vectors, vectors, torch.tensor([8, 9, 8]))
    assert rows_of(memory) == [[2, 3], [3, 3], [8, 1], [9, 0]]


def test_a_batch_larger_than_the_memory() -> None:
    memory = CandidateMemory(2)
    fill(memory, [4, 6, 5])
    assert rows_of(memory) == [[5, 0], [6, 0]]


def test_each_data_set_of_a_mixture_has_its_own() -> None:
    memory = CandidateMemory(2)
    fill(memory, [1, 2])
    fill(memory, [7], [8], [9], task=1)
    assert (rows_of(memory), rows_of(memory, 1)) == ([[1, 0], [2, 0]], [[8, 1], [9, 2]])


def test_items_of_the_batch_are_not_appended_again() -> None:
    memory = CandidateMemory(9)
    fill(memory, [1, 2, 3])
    candidates = torch.tensor([[0.5, 0.5], [2.0, 9.0]], requires_grad=True)
    vectors, ids = memory.append(candidates[:1], candidates, torch.tensor([4, 2]))
    assert ids.tolist() == [4, 2, 1, 3]
    assert vectors.tolist() == [[0.5, 0.5], [2, 9], [1, 0], [3, 0]]
    vectors.sum().backward()
    assert candidates.grad.tolist() == [[1, 1], [1, 1]]
    assert not memory.extend(candidates, ids)[0].requires_grad


def test_no_gradient_is_computed_for_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    plain = torch.mm

    def counted(left: Tensor, right: Tensor, **options: Any) -> Tensor:
        rows.append(len(left))
        return plain(left, right, **options)

    memory, ids = CandidateMemory(10), torch.arange(6)
    vectors = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    memory.append(vectors[:4], vectors[:4], ids[:4])
    batch = vectors[4:].requires_grad_()
    candidates, known = memory.append(batch, batch, ids[4:])
    pairs = RelationPairs(LabelRelations.from_names(["a", "b"] * 3, ids), ids[4:], known)
    loss = InfoNCELoss().on_pairs(batch, candidates, pairs)["loss"]
    monkeypatch.setattr(torch, "mm", counted)
    [found] = torch.autograd.grad(loss, batch)
    assert rows == [2]  # of the candidates, those of the batch alone
    together = torch.cat([batch, vectors[:4]])
    expected = InfoNCELoss().on_pairs(batch, together, pairs)["loss"]
    torch.testing.assert_close(found, torch.autograd.grad(expected, batch)[0])


def test_a_state_continues_and_a_smaller_memory_takes_the_latest() -> None:
    memory, other, smaller = CandidateMemory(3), CandidateMemory(3), CandidateMemory(2)
    fill(memory, [1, 2], [3])
    fill(memory, [6], task=1)
    for each in (other, smaller):
        fill(each, [20, 21])
        each.load_state_dict(memory.state_dict())
    assert rows_of(other) == [[1, 0], [2, 0], [3, 1]]
    assert rows_of(smaller) == [[2, 0], [3, 1]]
    assert rows_of(other, 1) == [[6, 0]]
    fill(other, [2])
    assert rows_of(other) == [[1, 0], [3, 1], [2, 0]]
    assert rows_of(memory) == [[1, 0], [2, 0], [3, 1]]  # shares nothing with the other
    other.load_state_dict({})
    memory.clear()
    assert rows_of(other) == rows_of(memory) == []


def test_half_precision_is_remembered_as_it_was_gathered() -> None:
    memory, vectors = CandidateMemory(3), torch.ones(2, 2, dtype=torch.bfloat16)
    for start in (0, 2):
        candidates, _ = memory.append(vectors, gather_with_grad(vectors), torch.arange(start, start + 2))
    assert candidates.dtype == torch.float32
    assert len(candidates) == 4


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least 1 vector, not 0"):
        CandidateMemory(0)

    class Odd(CandidateBank):
        def extend(self, anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
            return torch.ones(2, 3), torch.tensor([1, 2])

    told = r"Odd.extend returned vectors \[2, 3\] for 2 ids; they must be \[2, 4\]"
    with pytest.raises(ValueError, match=told):
        Odd().append(torch.ones(1, 4), torch.ones(1, 4), torch.tensor([0]))

    class Twice(CandidateBank):
        def extend(self, anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
            return torch.ones(2, 4), torch.tensor([1, 1])

    with pytest.raises(ValueError, match=r"Twice.extend returned an id twice"):
        Twice().append(torch.ones(1, 4), torch.ones(1, 4), torch.tensor([0]))


def test_unlabelled_items_are_negatives_only_for_the_anchors_they_were_mined_for() -> None:
    names = ["a", "a", "b", None, None]
    relations = LabelRelations.from_names(names, torch.arange(5), unlabelled="negative")
    memory = CandidateMemory(9)
    fill(memory, [0, 3, 4])
    anchors, mined = torch.tensor([1, 2]), torch.tensor([[4], [-1]])
    vectors = torch.ones(2, 2)
    ids = memory.append(vectors, vectors, anchors)[1]
    assert ids.tolist() == [1, 2, 0, 3, 4]
    block = RelationPairs(relations, anchors, ids, relations.labelled_only(), mined).rows(0, 2)
    assert block.positive.int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert block.negative.int().tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (InfoNCELoss(), True),
        (ProxyNCALoss(), False),
        (CoSENTLoss(), False),
        (MatryoshkaLoss(ProxyNCALoss(), [2]), False),
        (SumLoss({"near": InfoNCELoss(), "own": ProxyNCALoss(), "scored": CoSENTLoss()}), True),
    ],
)
def test_losses_that_learn_from_a_memory(loss: Any, expected: bool) -> None:
    assert compares_candidates(loss) is expected


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 1])
BATCHES = [  # anchors and candidates of the first rank, and of the second
    (([], []), ([4, 5, 6, 7, 8], [8, 9, 10, 12])),
    (([0, 1, 2, 3], [4, 5, 6]), ([0], [9, 11, 13])),
]


class Step(nn.Module):
    """An encoder, a loss and a memory, as a training step uses them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(6, 4)
        self.loss = EVERY_LOSS[name](block_rows=2)
        vectors = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
        self.loss.setup(LossContext(4, torch.bincount(LABELS), encode=lambda _: vectors))
        self.memory = CandidateMemory(6)

    def forward(self, features: Tensor, anchor_ids: Tensor, candidate_ids: Tensor) -> Tensor:
        anchors = self.encoder(features[anchor_ids])
        gathered = gather_with_grad(self.encoder(features[candidate_ids]))
        candidates, ids = self.memory.append(anchors, gathered, gather_ids(candidate_ids))
        labels = LABELS[anchor_ids], LABELS[ids]
        pairs = RelationPairs(
            Labels(LABELS), anchor_ids, ids, anchor_labels=labels[0], candidate_labels=labels[1]
        )
        return self.loss.on_pairs(anchors, candidates, pairs)["loss"]


def learn(name: str) -> tuple[float, dict[str, list[float]], dict[str, list]]:
    """The second step's loss and gradients, on this rank's share or on everything, and the memory then."""
    step: nn.Module = Step(name).double()
    module = step if world_size() == 1 else DistributedDataParallel(step)
    for number, (anchors, candidates) in enumerate(BATCHES):
        own = [
            [*one, *other] if world_size() == 1 else (one, other)[rank()]
            for one, other in (anchors, candidates)
        ]
        generator = torch.Generator().manual_seed(number)  # what dropout or training would change
        features = torch.randn(14, 6, generator=generator, dtype=torch.float64)
        module.zero_grad()
        loss = module(features, *(torch.tensor(ids, dtype=torch.int64) for ids in own))
        loss.backward()
    gradients = {name: weight.grad.flatten().tolist() for name, weight in step.named_parameters()}
    state = step.memory.state_dict()
    return loss.item(), gradients, {name: value.tolist() for name, value in state.items()}


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_two_ranks_with_a_memory_learn_what_one_process_learns(pool: RankPool, name: str) -> None:
    loss, gradients, memory = learn(name)
    shares = pool.run(learn, name)
    assert sum(share[0] for share in shares) / 2 == pytest.approx(loss, rel=1e-10, abs=1e-12)
    for _, averaged, remembered in shares:
        for parameter, gradient in gradients.items():
            assert averaged[parameter] == pytest.approx(gradient, rel=1e-9, abs=1e-12)
        assert remembered["0.ids"] == memory["0.ids"]
        assert torch.allclose(*(torch.tensor(each["0.vectors"]) for each in (remembered, memory)), rtol=1e-12)
    assert memory["0.ids"] == [10, 12, 0, 9, 11, 13]
    assert loss > 0
