from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestCentroid

from lit_metric.metrics import few_shot_accuracy


def test_chance_and_perfect_and_fair_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 20
    noise = torch.randn(400, 16, generator=generator)
    chance = few_shot_accuracy(noise, labels, episodes=300)
    # 75 queries an episode: a mean of 0.2 with a standard error well below 0.02.
    assert chance.mean().item() == pytest.approx(0.2, abs=0.02)
    apart = noise + 100 * torch.nn.functional.one_hot(labels, 20).float() @ torch.randn(
        20, 16, generator=generator
    )
    assert few_shot_accuracy(apart, labels, shots=5, episodes=20).mean() > 0.99
    between = noise + torch.randn(20, 16, generator=generator)[labels]
    one, five = (few_shot_accuracy(between, labels, shots=k, episodes=100).mean() for k in (1, 5))
    assert chance.mean() + 0.1 < one < five


def test_one_episode_of_everything_is_nearest_centroid() -> None:
    """With as many ways as classes and as many queries as are left, only the choice of examples is random."""
    generator = torch.Generator().manual_seed(1)
    unit = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator), dim=1)
    labels = torch.arange(12) % 2
    found = set(few_shot_accuracy(unit, labels, ways=2, shots=5, queries=1, episodes=40).tolist())
    possible = set()
    for one in range(0, 12, 2):  # which item of either class is asked
        for other in range(1, 12, 2):
            kept = torch.tensor([item for item in range(12) if item not in (one, other)])
            centres = NearestCentroid().fit(unit[kept].numpy(), labels[kept].numpy()).centroids_
            centres = torch.nn.functional.normalize(torch.from_numpy(centres).float(), dim=1)
            right = (unit[[one, other]] @ centres.T).argmax(1) == torch.tensor([0, 1])
            possible.add(right.float().mean().item())
    assert found <= possible


def test_episodes_depend_on_labels_and_seed_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 6
    first = few_shot_accuracy(embeddings, labels, episodes=20)
    torch.testing.assert_close(few_shot_accuracy(7 * embeddings, labels, episodes=20), first, atol=0, rtol=0)
    assert not torch.equal(few_shot_accuracy(embeddings, labels, episodes=20, seed=1), first)
    unlabelled = torch.cat([labels, torch.full((9,), -1)])
    more = torch.cat([embeddings, torch.randn(9, 4, generator=generator)])
    torch.testing.assert_close(few_shot_accuracy(more, unlabelled, episodes=20), first)


def test_a_long_vector_counts_no_more_in_a_prototype() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 6
    lengths = torch.rand(60, 1, generator=generator) * 20 + 0.1
    first, scaled = (few_shot_accuracy(each, labels, shots=5) for each in (embeddings, lengths * embeddings))
    torch.testing.assert_close(scaled, first)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="5 classes with 3 items or more, and there are 2; take fewer"):
        few_shot_accuracy(torch.ones(6, 2), torch.tensor([0, 0, 0, 1, 1, 1]), shots=2)
    with pytest.raises(ValueError, match="ways must be at least 2, not 1"):
        few_shot_accuracy(torch.ones(6, 2), torch.zeros(6, dtype=torch.int64), ways=1)
    with pytest.raises(ValueError, match=r"got \[6, 2\] and \[5\]"):
        few_shot_accuracy(torch.ones(6, 2), torch.zeros(5, dtype=torch.int64))
