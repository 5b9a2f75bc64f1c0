"""The memory's rules one by one, its loss by a loop, and two ranks against one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_metric.losses import DensePairs, LabelPairs, LossContext, RareEventMemoryLoss, rank, world_size
from lit_metric.losses.memory import compares_candidates
from tests.distributed import RankPool


def memory(size: int = 4, dimension: int = 2, **options: float) -> RareEventMemoryLoss:
    loss = RareEventMemoryLoss(size, **options)  # type: ignore[arg-type]
    loss.setup(LossContext(dimension))
    return loss


def learn(loss: RareEventMemoryLoss, vectors: list[list[float]], labels: list[int]) -> float:
    value = loss(torch.tensor(vectors), labels=torch.tensor(labels)).item()
    loss.after_step()
    return value


def test_a_hit_moves_the_key_and_makes_it_young() -> None:
    loss = memory()
    learn(loss, [[1.0, 0.0]], [3])
    place = int((loss.values == 3).nonzero())
    learn(loss, [[0.0, 7.0]], [5])
    assert loss.ages[place] == 1
    learn(loss, [[0.6, 0.8]], [3])  # nearer to the key of 5: a miss, which takes a place of its own
    assert sorted(loss.values.tolist()) == [-1, 3, 3, 5]
    learn(loss, [[0.96, 0.28]], [3])
    expected = torch.nn.functional.normalize(torch.tensor([1.96, 0.28]), dim=0)
    torch.testing.assert_close(loss.keys[place], expected)
    assert loss.ages[place] == 0


def test_a_miss_overwrites_the_oldest_key() -> None:
    loss = memory(size=3, dimension=3, age_noise=0)
    for label, vector in enumerate(torch.eye(3).tolist()):
        learn(loss, [vector], [label])
    learn(loss, [[1.0, 0.2, 0.0]], [0])  # a hit: now the key of class 1 is the oldest
    learn(loss, [[-1.0, -1.0, -1.0]], [9])
    assert sorted(loss.values.tolist()) == [0, 2, 9]


def test_the_noise_lets_keys_of_nearly_equal_age_go() -> None:
    gone = set()
    for seed in range(30):
        torch.manual_seed(seed)
        loss = memory(size=3, dimension=3, age_noise=8)
        for label, vector in enumerate(torch.eye(3).tolist()):
            learn(loss, [vector], [label])
        learn(loss, [[-1.0, -1.0, -1.0]], [9])
        gone |= {0, 1, 2} - {*loss.values.tolist()}
    assert gone == {0, 1, 2}


@pytest.mark.parametrize(("apart", "may_go"), [(10, {0, 1}), (17, {1})])
def test_the_noise_is_added_or_taken_away(apart: int, may_go: set[int]) -> None:
    """Of two ages, each moved by up to 8, the younger can be the larger if they are less than 16 apart."""
    gone = set()
    for seed in range(200):
        torch.manual_seed(seed)
        loss = memory(size=2, dimension=3, age_noise=8)
        learn(loss, torch.eye(3)[:2].tolist(), [0, 1])
        loss.ages = torch.where(loss.values == 1, apart, 0).float()
        learn(loss, [[-1.0, -1.0, -1.0]], [9])
        gone |= {0, 1} - {*loss.values.tolist()}
    assert gone == may_go


def test_a_place_that_holds_nothing_is_no_key() -> None:
    """Its vector is 0, which would be nearer than a key with a negative similarity."""
    loss = memory()
    learn(loss, [[1.0, 0.0]], [3])
    assert loss.predict(torch.tensor([[-1.0, 0.5]])).tolist() == [3]
    learn(loss, [[-0.6, 0.8]], [3])
    assert sorted(loss.values.tolist()) == [-1, -1, -1, 3]  # a hit, which takes no other place
    expected = torch.tensor([0.4, 0.8]) / 0.8**0.5
    torch.testing.assert_close(loss.keys[loss.values == 3][0], expected)


def test_the_best_of_negative_similarities_counts_as_it_is() -> None:
    """The authors' code multiplies by masks, so it would count as 0, of right keys and of wrong ones."""
    loss = memory()
    learn(loss, [[1.0, 0.0], [-0.6, 0.8]], [1, 2])
    value = loss(torch.tensor([[-1.0, 0.0]]), labels=torch.tensor([1])).item()
    assert value == pytest.approx(0.1 + 0.6 + 1.0)
    value = loss(torch.tensor([[-0.6, -0.8]]), labels=torch.tensor([1])).item()
    assert value == pytest.approx(0.1 - 0.28 + 0.6)


def test_the_loss_against_a_loop() -> None:
    torch.manual_seed(0)
    loss = memory(size=12, dimension=5, margin=0.3).double()
    vectors, labels = torch.randn(10, 5).double(), torch.arange(10) % 3
    loss(vectors, labels=labels)
    loss.after_step()
    queries = torch.randn(8, 5).double().requires_grad_()
    asked = torch.tensor([0, 1, 2, 7, -1, 0, 1, 2])
    terms = []
    for query, label in zip(queries, asked.tolist(), strict=True):
        scores = [
            (torch.cosine_similarity(query, key, dim=0), int(value))
            for key, value in zip(loss.keys, loss.values, strict=True)
            if value >= 0
        ]
        right = [score for score, value in scores if value == label]
        wrong = [score for score, value in scores if value != label]
        if right:
            terms.append((0.3 + max(wrong) - max(right)).clamp_min(0))
    expected = torch.stack(terms).mean()
    found = loss(queries, labels=asked)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, queries)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_one_example_is_remembered_and_a_saved_memory_goes_on() -> None:
    loss = memory(size=50, dimension=8)
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    learn(loss, vectors.tolist(), list(range(40)))
    assert loss.predict(3 * vectors).tolist() == list(range(40))
    other = RareEventMemoryLoss(50)
    other.load_state_dict(loss.state_dict())
    other.setup(LossContext(8))
    assert other.predict(vectors).tolist() == list(range(40))
    assert torch.equal(other.ages, loss.ages)  # so the same keys go next
    assert len(other.ages[:40].unique()) == 40
    with pytest.raises(ValueError, match="keys of 8 components, and the model's vectors have 9"):
        other.setup(LossContext(9))


def test_it_changes_after_the_step_only() -> None:
    loss = memory()
    for _ in range(2):  # as with accumulated gradients
        loss(torch.eye(2), labels=torch.tensor([0, 1]))
        assert (loss.values == -1).all()
    loss.after_step()
    assert sorted(loss.values.tolist()) == [-1, -1, 0, 1]  # the second batch found its keys


def test_a_gradient_is_that_of_the_keys_that_the_loss_saw() -> None:
    loss, query = memory(), torch.tensor([[0.6, 0.8]], requires_grad=True)
    learn(loss, [[1.0, 0.0], [0.0, 1.0]], [1, 2])
    value = loss(query, labels=torch.tensor([1]))  # 0.1 + q · (k₂ − k₁), with q of unit length
    loss.after_step()  # overwrites a key
    value.backward()
    torch.testing.assert_close(query.grad, torch.tensor([[-1.12, 0.84]]))


def steps() -> tuple[list, list, list]:
    """Values and keys after three steps on this rank's share, and the gradient of the last."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    loss = memory(size=6, dimension=3).double()
    shares = [slice(None)] if world_size() == 1 else [slice(0, 5), slice(5, 8)]
    gradient: list = []
    for _ in range(3):
        vectors = torch.randn(8, 3, generator=generator).double().requires_grad_()
        labels = torch.randint(4, (8,), generator=generator)
        own = shares[rank()]
        value = loss(vectors[own], labels=labels[own])
        [found] = torch.autograd.grad(value, vectors)
        gradient = (found / world_size()).tolist()
        loss.after_step()
    return loss.keys.tolist(), loss.values.tolist(), gradient


def test_two_ranks_have_the_memory_of_one_process(pool: RankPool) -> None:
    keys, values, gradient = steps()
    first, second = pool.run(steps)
    assert first[:2] == second[:2]
    assert first[1] == values
    torch.testing.assert_close(torch.tensor(first[0]), torch.tensor(keys))
    torch.testing.assert_close(torch.tensor(first[2]) + torch.tensor(second[2]), torch.tensor(gradient))


def gradient_of_nothing(labels: Tensor) -> Tensor:
    candidates = torch.randn(3, 2, requires_grad=True)
    memory().on_pairs(torch.randn(2, 2), candidates, LabelPairs(labels, torch.zeros(3)))["loss"].backward()
    return candidates.grad


def test_what_it_needs_and_what_it_ignores() -> None:
    assert not gradient_of_nothing(torch.tensor([0, -1])).any()
    assert not compares_candidates(memory())  # so a bank of candidates beside it is refused
    same = torch.eye(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="needs the classes of 2 anchors"):
        memory().on_pairs(torch.eye(2), torch.eye(2), DensePairs(same, ~same))
    with pytest.raises(ValueError, match=r"call setup\(LossContext\(dimension\)\) first"):
        RareEventMemoryLoss()(torch.eye(2), labels=torch.tensor([0, 1]))
    for arguments, message in (
        ({"size": 1}, "size must be at least 2 keys"),
        ({"margin": 0.0}, "margin must be above 0"),
        ({"age_noise": -1}, "age_noise must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            RareEventMemoryLoss(**arguments)
