"""The gradient that two ranks average is the gradient of one process on the union of their batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from pytorch_metric_learning.losses import NPairsLoss
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lit_metric.losses import (
    InfoNCELoss,
    Loss,
    LossContext,
    MarginMSELoss,
    NPairLoss,
    RelationPairs,
    gather_ids,
    gather_with_grad,
    rank,
    sum_over_ranks,
    world_size,
)
from tests.distributed import RankPool
from tests.losses.cases import (
    CLASS_LOSSES,
    COMBINATIONS,
    LEARN_FROM_ONE_KIND,
    LOSSES,
    PROTOTYPE_LOSSES,
    UNWEIGHTED_LOSSES,
    Labels,
)

SHARES = ("active", "anchors_used", "mined", "proxies_used", "wrong_way")
"""Quotients of counts, which are of single precision."""


@dataclass(frozen=True)
class Case:
    """Items 0 to 7 are anchors, 4 to 13 candidates; how many of them the first rank and the second have."""

    labels: tuple[int, ...] = (0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 1)
    anchors: tuple[int, int] = (5, 3)
    candidates: tuple[int, int] = (6, 4)
    block_rows: int = 1024


CASES = {
    "uneven": Case(),
    "row blocks": Case(block_rows=2),
    "no positives on one rank": replace(Case(), labels=(0, 1, 2, 0, 1, 10, 11, 12, 2, 0, 0, 1, 2, 1)),
    "no positives anywhere": replace(Case(), labels=tuple(range(14))),
    "no anchors on one rank": Case(anchors=(8, 0)),
    "no candidates on one rank": Case(candidates=(0, 10)),
    "nothing on one rank": Case(anchors=(0, 8), candidates=(0, 10)),
}
EVERY_LOSS = {**LOSSES, **CLASS_LOSSES, **PROTOTYPE_LOSSES, **UNWEIGHTED_LOSSES, **COMBINATIONS}


class Step(nn.Module):
    """An encoder and a loss, as a training step uses them."""

    def __init__(self, loss: Loss, labels: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(6, 4)
        self.loss = loss
        vectors = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
        self.loss.setup(LossContext(4, torch.bincount(labels), encode=lambda _: vectors))

    def forward(self, features: Tensor, anchor_ids: Tensor, candidate_ids: Tensor, labels: Tensor) -> dict:
        candidates = gather_with_grad(self.encoder(features[candidate_ids]))
        ids = anchor_ids, gather_ids(candidate_ids)
        of_items = [labels[each] for each in ids]
        pairs = RelationPairs(Labels(labels), *ids, anchor_labels=of_items[0], candidate_labels=of_items[1])
        return self.loss.on_pairs(self.encoder(features[anchor_ids]), candidates, pairs)


def share_of(ids: Tensor, counts: tuple[int, int]) -> Tensor:
    return ids if world_size() == 1 else ids.split(list(counts))[rank()]


def learn(name: str, case: Case) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Outputs and gradients of one step on this rank's share, or on everything without a process group."""
    labels = torch.tensor(case.labels)
    step: nn.Module = Step(EVERY_LOSS[name](block_rows=case.block_rows), labels).double()
    module = step if world_size() == 1 else DistributedDataParallel(step)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(14, 6, generator=generator, dtype=torch.float64)
    output = module(
        features,
        share_of(torch.arange(8), case.anchors),
        share_of(torch.arange(4, 14), case.candidates),
        labels,
    )
    output["loss"].backward()
    outputs = {name: value.item() for name, value in output.items()}
    return outputs, {name: weight.grad.flatten().tolist() for name, weight in step.named_parameters()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", EVERY_LOSS)
def test_two_ranks_learn_what_one_process_learns(pool: RankPool, name: str, case: Case) -> None:
    alone, gradients = learn(name, case)
    shares = pool.run(learn, name, case)
    for other, gradients_of_rank in shares:
        assert other.keys() == alone.keys()
        for parameter, gradient in gradients.items():  # DDP leaves the average on every rank
            assert gradients_of_rank[parameter] == pytest.approx(gradient, rel=1e-10, abs=1e-12)
    for part, value in alone.items():
        mean = sum(other[part] for other, _ in shares) / 2
        assert mean == pytest.approx(value, rel=1e-6 if part.endswith(SHARES) else 1e-10, abs=1e-12)
    judged_without_positives = (
        *(*LEARN_FROM_ONE_KIND, *CLASS_LOSSES, *PROTOTYPE_LOSSES),
        *("cosent", "cosent-squared", "sum", "matryoshka"),
    )
    if case is CASES["no positives anywhere"] and name not in judged_without_positives:
        assert alone["loss"] == 0
        assert not any(any(gradient) for gradient in gradients.values())
    else:
        assert alone["loss"] > 0
        assert any(gradients["encoder.weight"])


def plainly(kind: str) -> tuple[float, list[float]]:
    """The value and the encoder's averaged gradient of a loop without a learner, on this rank's share."""
    torch.manual_seed(0)
    encoder = nn.Linear(6, 4).double()
    module = encoder if world_size() == 1 else DistributedDataParallel(encoder)
    features = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = share_of(torch.arange(8), (5, 3))
    vectors = module(features[:, ids])
    if kind == "labels":
        value = InfoNCELoss(0.3)(vectors[0], labels=(torch.arange(8) % 3)[ids])
    elif kind == "pairs":
        value = InfoNCELoss(0.3)(vectors[0], vectors[1], vectors[2])
    else:
        scores = torch.arange(16.0, dtype=torch.float64).reshape(8, 2).sin()
        value = MarginMSELoss()(vectors[0], vectors[1], vectors[2], scores=scores[ids])
    value.backward()
    return value.item(), encoder.weight.grad.flatten().tolist()


@pytest.mark.parametrize("kind", ["labels", "pairs", "scores"])
def test_a_plain_loop_learns_on_two_ranks_what_it_learns_on_one(pool: RankPool, kind: str) -> None:
    alone, gradient = plainly(kind)
    shares = pool.run(plainly, kind)
    assert sum(value for value, _ in shares) / 2 == pytest.approx(alone, rel=1e-12)
    assert all(averaged == pytest.approx(gradient, rel=1e-10) for _, averaged in shares)


def gather_by_hand() -> tuple[list, list, list]:
    counts = [2, 1]
    rows = torch.arange(2.0 * counts[rank()]).reshape(-1, 2) + 10 * rank()
    rows.requires_grad_()
    gathered = gather_with_grad(rows)
    # Rank r asks (r + 1) * (1, 2, 3) of the three rows.
    (gathered * torch.tensor([1.0, 2.0, 3.0])[:, None] * (rank() + 1)).sum().backward()
    ids = gather_ids(torch.tensor([7, 8, 9][: counts[rank()]]))
    return gathered.tolist(), rows.grad.tolist(), ids.tolist()


def test_gather_keeps_rank_order_and_adds_up_gradients(pool: RankPool) -> None:
    first, second = pool.run(gather_by_hand)
    assert first[0] == second[0] == [[0, 1], [2, 3], [10, 11]]
    assert first[1] == [[3, 3], [6, 6]]
    assert second[1] == [[9, 9]]
    assert first[2] == second[2] == [7, 8, 7]


def gather_from_one() -> tuple[list, list | None]:
    """Rank 1 has no rows, and what it has needs no gradient."""
    rows = torch.ones(3, 2, requires_grad=True) if rank() == 0 else torch.empty(0, 2)
    gathered = gather_with_grad(rows)
    (gathered.sum() * (rank() + 1)).backward()
    return gathered.tolist(), None if rows.grad is None else rows.grad.tolist()


def test_a_rank_with_no_rows_takes_part_in_the_backward_pass(pool: RankPool) -> None:
    first, second = pool.run(gather_from_one)
    assert first == ([[1, 1]] * 3, [[3, 3]] * 3)
    assert second == ([[1, 1]] * 3, None)


def gather_half_precision() -> tuple[str, list]:
    rows = torch.full((1, 1), 1.0, dtype=torch.bfloat16, requires_grad=True)
    gathered = gather_with_grad(rows)
    return str(gathered.dtype), gathered.tolist()


def test_half_precision_is_gathered_in_single(pool: RankPool) -> None:
    assert pool.run(gather_half_precision) == [("torch.float32", [[1], [1]])] * 2


def gather_no_rows() -> list[int]:
    return [*gather_with_grad(torch.empty(0, 3)).shape, *gather_ids(torch.empty(0, dtype=torch.int64)).shape]


def test_gathering_nothing(pool: RankPool) -> None:
    assert pool.run(gather_no_rows) == [[0, 3, 0]] * 2


def gather_unlike_widths() -> str:
    with pytest.raises(ValueError) as error:
        gather_with_grad(torch.ones(1, 2 + rank()))
    return str(error.value)


def test_rows_of_unlike_width_are_refused_on_every_rank(pool: RankPool) -> None:
    messages = pool.run(gather_unlike_widths)
    assert messages[0] == messages[1]
    assert "[2, 3] values each on ranks 0 to 1" in messages[0]


def add_up() -> tuple[list, list, int, int]:
    mine = torch.tensor([1, 10]) * (rank() + 1)
    return sum_over_ranks(mine).tolist(), mine.tolist(), rank(), world_size()


def test_sum_over_ranks_leaves_its_argument_alone(pool: RankPool) -> None:
    assert pool.run(add_up) == [([3, 30], [1, 10], 0, 2), ([3, 30], [2, 20], 1, 2)]


def test_without_a_process_group_there_is_one_rank() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert gather_with_grad(rows) is rows
    assert gather_ids(torch.tensor([4, 5])).tolist() == [4, 5]
    assert (rank(), world_size()) == (0, 1)


def n_pair(of_the_peer: bool) -> tuple[float, list[float]]:
    """The N-pair loss of eight items of two classes, four to a rank, and the encoder's averaged gradient."""
    torch.manual_seed(0)
    encoder = nn.Linear(6, 4).double()
    module = encoder if world_size() == 1 else DistributedDataParallel(encoder)
    features = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, ids = torch.arange(8) % 2, share_of(torch.arange(8), (4, 4))
    vectors = module(features[ids])
    if of_the_peer:
        loss = NPairsLoss() if world_size() == 1 else DistributedLossWrapper(NPairsLoss())
        value = loss(vectors, labels[ids])
    else:
        candidates = gather_with_grad(vectors)
        pairs = RelationPairs(Labels(labels), ids, gather_ids(ids))
        value = NPairLoss(l2=0).on_pairs(vectors, candidates, pairs)["loss"]
    value.backward()
    return value.item(), encoder.weight.grad.flatten().tolist()


def test_n_pair_is_one_loss_on_all_ranks_unlike_in_pytorch_metric_learning(pool: RankPool) -> None:
    alone, gradient = n_pair(False)
    shares = pool.run(n_pair, False)
    assert sum(value for value, _ in shares) / 2 == pytest.approx(alone, rel=1e-12)
    assert all(averaged == pytest.approx(gradient, rel=1e-10) for _, averaged in shares)
    # The peer takes the first pair of each class, and each rank puts its own items first: so each compares
    # other pairs, none of them across ranks, and nobody is told. It returns its loss times the ranks.
    alone, gradient = n_pair(True)
    (first, averaged), (second, _) = pool.run(n_pair, True)
    assert first / 2 == pytest.approx(alone, rel=1e-6)
    assert abs(second / 2 - alone) > 0.1 * alone
    expected, got = torch.tensor(gradient), torch.tensor(averaged)
    assert (got - expected).norm() > 0.3 * expected.norm()
