"""Representatives of near duplicates against the exact index over everything, with copies injected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from lit_metric.index import ExactIndex, FaissIndex, RepresentativeIndex, load_index
from lit_metric.index.representatives import linked

ORIGINALS, COPIES, CLASSES = 300, 3, 20


def injected(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of originals and of three near copies of every second one, all in one random order; the number
    of each one's original, and the originals' classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, 32, generator=generator)
    classes = torch.arange(ORIGINALS) % CLASSES
    originals = centres[classes] + 0.6 * torch.randn(ORIGINALS, 32, generator=generator)
    own = torch.cat([torch.arange(ORIGINALS), torch.arange(0, ORIGINALS, 2).repeat(COPIES)])
    own = own[torch.randperm(len(own), generator=generator)]
    noise = 0.02 * torch.randn(len(own), 32, generator=generator)
    return originals[own] + noise, own, classes


def queries(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Vectors near the originals, and the classes that they should find."""
    generator = torch.Generator().manual_seed(seed)
    vectors, own, classes = injected()
    chosen = torch.randint(len(own), (400,), generator=generator)
    return vectors[chosen] + 1.3 * torch.randn(400, 32, generator=generator), classes[own[chosen]]


@pytest.mark.parametrize("inner", [ExactIndex(), FaissIndex("Flat", threads=1)], ids=["exact", "faiss"])
@pytest.mark.parametrize("parts", [1, 3])
def test_fewer_rows_are_scanned_and_recall_stays(inner: Any, parts: int) -> None:
    vectors, own, classes = injected()
    ids = torch.arange(len(own)) * 3 + 1
    exact, index = ExactIndex(), RepresentativeIndex(inner, threshold=0.95)
    exact.add(vectors, ids)
    for part in torch.arange(len(own)).tensor_split(parts):
        index.add(vectors[part], ids[part])
        index.search(vectors[:1], 1)  # what comes later joins what is there
    # One row for each original, out of 2.5 for each.
    assert (len(index), len(index.index)) == (len(own), ORIGINALS)
    lowest = torch.stack([ids[own == original].min() for original in range(ORIGINALS)])
    assert index.representatives(ids).tolist() == lowest[own].tolist()
    wanted, labels = queries()
    all_first, first = (each.search(wanted, 1)[1][:, 0] for each in (exact, index))
    recalls = [
        float((classes[own[(found - 1) // 3]] == labels).float().mean()) for found in (all_first, first)
    ]
    assert recalls[1] == pytest.approx(recalls[0], abs=0.01)
    assert 0.9 < recalls[0] < 1.0
    assert float((index.representatives(all_first) == first).float().mean()) > 0.97
    # Where all copies of one thing filled the first places, there are as many different things now.
    ten, of_all = index.search(wanted, 10)[1], exact.search(wanted, 10)[1]
    assert all(len(row.unique()) == 10 for row in own[(ten - 1) // 3])
    assert float(torch.tensor([len(row.unique()) for row in own[(of_all - 1) // 3]]).float().mean()) < 6


def test_what_is_added_later_joins_the_nearest_representative_or_stands_for_itself() -> None:
    index = RepresentativeIndex(ExactIndex(), threshold=0.9)
    index.add(torch.eye(3)[:2], torch.tensor([10, 11]))
    index.add(torch.tensor([[0.1, 1.0, 0.0]]), torch.tensor([3]))
    # All three wait until the first search, and the lowest id stands for its cluster.
    assert index.search(torch.eye(3), 3)[1].tolist() == [[10, 3, -1], [3, 10, -1], [3, 10, -1]]
    index.add(torch.tensor([[0.0, 1.0, 0.1], [0.0, 0.0, 2.0]]), torch.tensor([1, 12]))
    assert index.search(torch.eye(3), 1)[1].tolist() == [[10], [3], [12]]
    assert index.representatives(torch.tensor([[1, 3], [11, 12]])).tolist() == [[3, 3], [3, 12]]
    with pytest.raises(KeyError, match="id 2 was not added"):
        index.representatives(torch.tensor([3, 2]))
    index.add(torch.eye(3)[:1], torch.tensor([11]))
    with pytest.raises(ValueError, match="id 11 was added twice"):
        index.search(torch.eye(3), 1)
    index.reset()
    assert (len(index), len(index.index)) == (0, 0)
    with pytest.raises(ValueError, match="neighbours=0 must be at least 1"):
        RepresentativeIndex(neighbours=0)


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("inner", [ExactIndex("dot", vector_block=64), FaissIndex("IVF8,Flat", nprobe=8)])
def test_a_loaded_one_answers_as_the_saved_one(tmp_path: Path, inner: Any, memory_map: bool) -> None:
    vectors, own, _ = injected()
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    index = RepresentativeIndex(inner, threshold=0.94, neighbours=7)
    index.add(vectors, torch.arange(len(own)))
    index.save(tmp_path / "index")
    loaded = load_index(tmp_path / "index", memory_map, threads=1)
    assert isinstance(loaded, RepresentativeIndex)
    assert (loaded.threshold, loaded.neighbours, type(loaded.index)) == (0.94, 7, type(inner))
    assert (len(loaded), len(loaded.index), loaded.similarity) == (len(own), ORIGINALS, inner.similarity)
    wanted = queries()[0]
    for one, other in zip(index.search(wanted, 5), loaded.search(wanted, 5), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(loaded.representatives(torch.arange(9)), index.representatives(torch.arange(9)))


def test_complete_linkage_is_that_of_scikit_learn() -> None:
    vectors = torch.nn.functional.normalize(
        torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    groups = torch.arange(60) % 2 * 7
    found = linked(groups, vectors, 0.9)
    for group in (0, 7):
        rows = (groups == group).nonzero()[:, 0]
        model = AgglomerativeClustering(
            n_clusters=None, metric="precomputed", linkage="complete", distance_threshold=0.1
        )
        far = 1 - vectors[rows].double() @ vectors[rows].double().T
        labels = model.fit_predict(far.clamp(min=0).numpy())
        for label in set(labels.tolist()):
            own = rows[torch.from_numpy(labels == label)]
            assert found[own].tolist() == [int(own.min())] * len(own)
            assert float((vectors[own] @ vectors[own].T).min()) >= 0.9 - 1e-6
    assert len(found.unique()) < 60
    assert linked(torch.empty(0, dtype=torch.int64), torch.empty(0, 3), 0.9).tolist() == []


def test_the_farthest_pair_decides_about_a_cluster_and_not_the_mean() -> None:
    # The last two are joined first. The first is 0.020 and 0.045 away from them, 0.032 in the mean.
    angles = torch.tensor([0.0, 0.2, 0.3])
    vectors, cluster = torch.stack([angles.cos(), angles.sin()], dim=1), torch.zeros(3, dtype=torch.int64)
    assert linked(cluster, vectors, 0.96).tolist() == [0, 1, 1]
    assert linked(cluster, vectors, 0.95).tolist() == [0, 0, 0]


def test_a_cluster_too_large_to_compare_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.index.representatives._MOST_LINKED", 3)
    with pytest.raises(ValueError, match=r"has 4 items, too many .* raise the threshold, which is 0\.5"):
        linked(torch.zeros(4, dtype=torch.int64), torch.ones(4, 2), 0.5)
