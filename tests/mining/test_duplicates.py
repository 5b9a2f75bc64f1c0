"""Clusters of near duplicates against a loop over pairs, alone and within a miner."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_metric.configurable import rebuilt, spec
from lit_metric.index import Embeddings, FaissIndex, RepresentativeIndex
from lit_metric.mining import Candidates, DuplicateFilter, Miner, PositiveScores
from tests.mining.cases import relations_of


def at_angles(*degrees: float) -> Tensor:
    """Unit vectors in the plane."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def clusters_by_loop(vectors: Tensor, threshold: float) -> list[set[int]]:
    """Sets of rows joined by chains of pairs that are alike."""
    clusters = [{row} for row in range(len(vectors))]
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    for one in range(len(unit)):
        for other in range(one):
            if float(unit[one] @ unit[other]) >= threshold:
                first = next(cluster for cluster in clusters if one in cluster)
                second = next(cluster for cluster in clusters if other in cluster)
                if first is not second:
                    clusters.remove(second)
                    first |= second
    return clusters


def kept(rule: DuplicateFilter, ids: Tensor) -> list[set[int]]:
    """For each of ``ids``, which of all it may have as a negative."""
    proposed = ids.expand(len(ids), -1)
    nothing = torch.zeros(len(ids))
    found = rule.keep(Candidates(ids, proposed, torch.zeros(proposed.shape), PositiveScores(*[nothing] * 3)))
    return [{int(one) for one in ids[row]} for row in found]


def test_clusters_are_chains_and_not_single_pairs() -> None:
    # cos 15° = 0.966, cos 30° = 0.866: the ends of the chain are alike through its middle alone.
    vectors, ids = at_angles(0, 15, 30, 90, 200), torch.tensor([7, 3, 9, 1, 4])
    rule = DuplicateFilter(0.95)
    rule.prepare(Embeddings(ids, vectors, "cosine"), relations_of(torch.zeros(10, dtype=torch.int64)))
    assert kept(rule, ids) == [{1, 4}, {1, 4}, {1, 4}, {7, 3, 9, 4}, {7, 3, 9, 1}]


def test_an_item_is_no_neighbour_of_itself() -> None:
    rule, ids = DuplicateFilter(0.95, neighbours=1), torch.arange(3)
    rule.prepare(Embeddings(ids, at_angles(0, 5, 90)), relations_of(torch.zeros(3, dtype=torch.int64)))
    assert rule.clusters(ids).tolist() == [0, 0, 2]


def test_a_pair_at_the_threshold_is_joined() -> None:
    rule, ids = DuplicateFilter(1.0), torch.arange(3)
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    rule.prepare(Embeddings(ids, vectors, "cosine"), relations_of(torch.zeros(3, dtype=torch.int64)))
    assert rule.clusters(ids).tolist() == [0, 1, 0]


def test_clusters_are_those_of_a_loop_by_any_index_and_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 8, generator=generator)
    vectors = centres[torch.randint(30, (90,), generator=generator)]
    vectors = (vectors + 0.1 * torch.randn(90, 8, generator=generator)) * 3
    ids = torch.randperm(200, generator=generator)[:90]
    expected = clusters_by_loop(vectors, 0.97)
    assert 10 < len(expected) < 80
    for rule in (DuplicateFilter(0.97, 20), DuplicateFilter(0.97, 20, FaissIndex("Flat", threads=1))):
        rule.prepare(Embeddings(ids, vectors, "dot"), relations_of(torch.zeros(200, dtype=torch.int64)))
        numbers = rule.clusters(ids)
        found = [{row for row in range(90) if numbers[row] == one} for one in numbers.unique()]
        assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_copies_under_another_label_are_never_mined() -> None:
    generator = torch.Generator().manual_seed(0)
    originals = torch.randn(40, 16, generator=generator)
    vectors = torch.cat([originals, originals + 0.01 * torch.randn(40, 16, generator=generator)])
    labels = torch.arange(80) % 4
    labels[40:] = (labels[:40] + 1) % 4  # Every copy has another label than its original.
    ids = torch.arange(80)
    alone = Miner(top_k=5, filters=[]).mine(Embeddings(ids, vectors), relations_of(labels))
    copies = (ids + 40) % 80
    assert (torch.from_numpy(alone.ids[:, 0]).long() == copies).all()
    miner = rebuilt(spec(Miner(top_k=5, filters=[DuplicateFilter(0.95)])))  # as the worker makes it
    table = miner.mine(Embeddings(ids, vectors), relations_of(labels))
    assert not (torch.from_numpy(table.ids).long() == copies[:, None]).any()
    assert (table.ids[:, :4] == alone.ids[:, 1:]).all()
    assert table.report["rejected/DuplicateFilter"] > 0


def test_representatives_are_proposed_alone_and_nothing_of_the_anchors_own_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    originals = torch.randn(40, 16, generator=generator)
    vectors = originals.repeat(3, 1) + 0.01 * torch.randn(120, 16, generator=generator)
    labels = torch.arange(120) % 4
    labels[40:80] = (labels[:40] + 1) % 4  # One copy of each has another label than its original.
    ids = torch.arange(120)
    settings: dict[str, Any] = {"top_k": 8, "sample": 0}
    alone = Miner(**settings, filters=[DuplicateFilter(0.95)]).mine(
        Embeddings(ids, vectors), relations_of(labels)
    )
    index = RepresentativeIndex(FaissIndex("Flat", threads=1), 0.95)
    miner = rebuilt(spec(Miner(index, **settings, filters=[DuplicateFilter(0.95)])))
    table = miner.mine(Embeddings(ids, vectors), relations_of(labels))
    own, found = ids % 40, torch.from_numpy(table.ids).long()
    assert (found < 40).all()  # the lowest id stands for the three
    assert not (found % 40 == own[:, None]).any()
    assert all(len(row[row >= 0].unique()) == (row >= 0).sum() for row in found)
    # Eight different things in place of three or four, several times each.
    different = [len({one % 40 for one in row if one >= 0}) for row in alone.ids.tolist()]
    assert sum(different) / 120 < 5
    assert float((found >= 0).sum(1).float().mean()) == 8
