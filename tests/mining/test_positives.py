"""Best, worst and mean positive score against a double loop."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_metric.data import LabelRelations, MultiLabelRelations, PairRelations, Relations
from lit_metric.data.ragged import Ragged
from lit_metric.index import Embeddings
from lit_metric.mining import Miner, PositiveScores, positive_scores
from tests.mining.cases import blobs, cosine, relations_of

module = importlib.import_module("lit_metric.mining.candidates")


def loop(embeddings: Tensor, ids: list[int], labels: list[int]) -> list[tuple[float, float, float]]:
    """(best, worst, mean) of each item, by the definition."""
    rows = embeddings.double().tolist()
    result = []
    for mine, one in zip(rows, ids, strict=True):
        scores = [
            cosine(mine, theirs)
            for theirs, other in zip(rows, ids, strict=True)
            if other != one and labels[other] == labels[one] >= 0
        ]
        result.append((max(scores), min(scores), sum(scores) / len(scores)) if scores else (math.nan,) * 3)
    return result


def stacked(scores: PositiveScores) -> Tensor:
    return torch.stack([scores.best, scores.worst, scores.mean], dim=1)


@pytest.mark.parametrize(("block", "chunk"), [(512, 16384), (3, 4), (1, 1)])
def test_agrees_with_the_loop_for_ragged_positives_in_any_blocks(
    block: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    embeddings, _ = blobs(23, 4)
    # Classes of 9, 5, 3, 2 and 1 items, three without a label, in no order; ids in no order either.
    sizes = [0] * 9 + [1] * 5 + [2] * 3 + [3] * 2 + [4] + [-1] * 3
    shuffle = torch.Generator().manual_seed(1)
    labels = torch.tensor(sizes)[torch.randperm(23, generator=shuffle)]
    ids = torch.randperm(23, generator=shuffle)
    found = positive_scores(Embeddings(ids, embeddings, "cosine"), relations_of(labels), block=block)
    expected = torch.tensor(loop(embeddings, ids.tolist(), labels.tolist()))
    torch.testing.assert_close(stacked(found), expected, equal_nan=True, rtol=0, atol=1e-6)


def test_each_row_has_its_own_positives_when_counts_differ() -> None:
    # Counts of positives 1, 1, 2, 2, 2, 0: an offset that ran one row behind would shift the numbers below.
    embeddings = torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 2], [-3, 0], [1, 0]])
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    found = stacked(positive_scores(Embeddings(torch.arange(6), embeddings, "cosine"), relations_of(labels)))
    half = math.sqrt(0.5)
    expected = [[half] * 3, [half] * 3, [1, 0, 0.5], [1, 0, 0.5], [0, 0, 0], [math.nan] * 3]
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)


def test_only_items_that_were_given_count_as_positives() -> None:
    embeddings = torch.tensor([[1.0, 0], [0, 1]])
    found = positive_scores(
        Embeddings(torch.tensor([4, 2]), embeddings, "cosine"), relations_of(torch.tensor([0, 0, 0, 0, 0]))
    )
    assert found.best.tolist() == [0, 0]


def test_dot_products_are_not_scaled() -> None:
    embeddings = torch.tensor([[2.0, 0], [3, 1], [0, 5]])
    found = positive_scores(
        Embeddings(torch.arange(3), embeddings, "dot"), relations_of(torch.tensor([0] * 3))
    )
    assert stacked(found).tolist() == [[6, 0, 3], [6, 5, 5.5], [5, 0, 2.5]]


def test_a_memory_mapped_matrix_in_half_precision_gives_the_same(tmp_path: Path) -> None:
    embeddings, labels = blobs(50, 5)
    embeddings = embeddings.half().float()
    np.save(tmp_path / "e.npy", embeddings.numpy().astype(np.float16))
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    ids, relations = torch.arange(50), relations_of(labels)
    expected = positive_scores(Embeddings(ids, embeddings, "cosine"), relations)
    found = positive_scores(Embeddings(ids, mapped, "cosine"), relations)
    torch.testing.assert_close(stacked(found), stacked(expected), equal_nan=True)


def test_a_diverged_embedding_is_named() -> None:
    embeddings = torch.ones(4, 2)
    embeddings[2, 1] = torch.nan
    with pytest.raises(ValueError, match="1 embeddings are not finite, the first is that of item 2"):
        positive_scores(
            Embeddings(torch.arange(4), embeddings, "cosine"), relations_of(torch.tensor([0, 0, 1, 1]))
        )


@pytest.mark.parametrize("corpus", [None, "documents"])
@pytest.mark.parametrize(("answered", "unanswered", "others"), [(10, 0, 600), (10, 600, 0), (512, 1, 0)])
def test_blocks_of_anchors_of_which_none_has_a_positive(
    answered: int, unanswered: int, others: int, corpus: str | None
) -> None:
    queries, documents = answered + unanswered, answered + unanswered + others
    anchors = torch.arange(queries)
    grades = torch.cat([torch.ones(answered), torch.zeros(unanswered)])
    everything = torch.arange(queries + documents)
    relations = PairRelations(anchors, anchors + queries, grades, everything)
    vectors = torch.randn(len(everything), 4, generator=torch.Generator().manual_seed(0))
    asked = everything if corpus is None else anchors
    best = positive_scores(Embeddings(everything, vectors, "cosine"), relations, asked).best
    expected = torch.cosine_similarity(vectors[:answered], vectors[queries : queries + answered])
    torch.testing.assert_close(best[:answered], expected)
    assert bool(best[answered:].isnan().all())
    among = {} if corpus is None else {"anchors": anchors, "corpus": torch.arange(queries, len(everything))}
    mined = Miner(top_k=5, sample=0).mine(Embeddings(everything, vectors), relations, **among)
    without = np.asarray(mined.anchors) >= answered
    assert len(mined.anchors) == len(asked)
    assert (mined.ids[without] == -1).all()
    assert (mined.ids[~without] >= 0).any()


@pytest.mark.parametrize(
    "relations",
    [
        LabelRelations(torch.tensor([-1, -1]), ["a"], torch.arange(2)),
        MultiLabelRelations(Ragged.from_lists([[], []]), ["a"], torch.arange(2)),
        PairRelations(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.0]), torch.arange(2)),
    ],
)
def test_nothing_belongs_together(relations: Relations) -> None:
    mined = Miner(sample=0).mine(Embeddings(torch.arange(2), torch.eye(2)), relations)
    assert (mined.ids == -1).all()
