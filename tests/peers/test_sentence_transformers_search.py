"""Mining, evaluators and batches of sentence-transformers, on the same random vectors."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)
from sentence_transformers.util import cos_sim, mine_hard_negatives, pairwise_cos_sim
from torch import Tensor, nn

from lit_metric.data import PairRelations
from lit_metric.index import Embeddings
from lit_metric.metrics import NeighbourMetrics, PairMetrics, TripletMetrics
from lit_metric.mining import AbsoluteMargin, MaxScore, Miner, NegativeFilter, RelativeMargin
from tests.metrics.items import clustered
from tests.peers.cases import count, seeds

PEER = "sentence-transformers"


class Stored:
    """The part of a SentenceTransformer that the evaluators use; a text is the number of its embedding."""

    similarity_fn_name = "cosine"
    model_card_data = Mock()

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    def encode(self, texts: list[str], convert_to_tensor: bool = False, **_: object) -> Tensor | np.ndarray:
        vectors = self.embeddings[[int(text) for text in texts]]
        return vectors if convert_to_tensor else vectors.numpy()

    encode_query = encode_document = encode


class Model(Stored):
    """As much of a SentenceTransformer as mining asks for."""

    device = torch.device("cpu")
    similarity = staticmethod(cos_sim)
    similarity_pairwise = staticmethod(pairwise_cos_sim)

    def encode_query(self, texts: list[str], **_: object) -> np.ndarray:
        return nn.functional.normalize(self.embeddings[[int(text) for text in texts]], dim=1).numpy()

    encode_document = encode_query


FILTERS: dict[str, tuple[list[NegativeFilter], dict[str, float]]] = {
    "none": ([], {}),
    "relative margin": ([RelativeMargin(0.05)], {"relative_margin": 0.05}),
    "absolute margin": ([AbsoluteMargin(0.1)], {"absolute_margin": 0.1}),
    "largest score": ([MaxScore(0.4)], {"max_score": 0.4}),
    "all": (
        [MaxScore(0.6), AbsoluteMargin(0.05), RelativeMargin(0.1)],
        {"max_score": 0.6, "absolute_margin": 0.05, "relative_margin": 0.1},
    ),
}


@seeds(quick=2)
@pytest.mark.parametrize("name", FILTERS)
def test_mining(name: str, seed: int) -> None:
    filters, options = FILTERS[name]
    queries, documents, wanted = 15, 60, 5
    vectors, _ = clustered(queries + documents, d=6, seed=seed)
    answers = queries + torch.randperm(documents, generator=torch.Generator().manual_seed(seed))[:queries]
    # What they differ in: 95% of a score below 0 lies above it.
    unit = nn.functional.normalize(vectors, dim=1)
    told = (unit[:queries] * unit[answers]).sum(1) > 0.05
    asked, found = torch.arange(queries)[told], answers[told]
    pairs = Dataset.from_dict(
        {"query": [str(q) for q in asked.tolist()], "answer": [str(a) for a in found.tolist()]}
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mined = mine_hard_negatives(
            pairs,
            Model(vectors),
            corpus=[str(number) for number in range(queries, queries + documents)],
            num_negatives=wanted,
            range_max=documents - 1,
            output_format="triplet",
            verbose=False,
            **options,
        )
    theirs: dict[int, list[int]] = {}
    for row in mined:
        theirs.setdefault(int(row["query"]), []).append(int(row["negative"]))
    relations = PairRelations(asked, found, None, torch.arange(queries + documents))
    miner = Miner(top_k=wanted, filters=filters)
    table = miner.mine(
        Embeddings(torch.arange(queries + documents), vectors),
        relations,
        anchors=asked,
        corpus=torch.arange(queries, queries + documents),
    )
    ours = {
        anchor: [one for one in row if one >= 0]
        for anchor, row in zip(asked.tolist(), table.ids.tolist(), strict=True)
    }
    assert {anchor: row for anchor, row in ours.items() if row} == theirs
    count(PEER, "mining", sum(map(len, ours.values())))


def search(seed: int) -> tuple[Tensor, Tensor, int]:
    """Vectors of queries, then of documents, which is relevant, and the number of queries."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents = (int(torch.randint(3, high, (), generator=generator)) for high in (30, 90))
    vectors, _ = clustered(queries + documents, seed=seed)
    relevant = torch.rand(queries, documents, generator=generator) < 0.2
    relevant[torch.arange(queries), torch.randint(documents, (queries,), generator=generator)] = True
    return vectors, relevant, queries


@seeds(quick=3)
def test_evaluator_of_search(seed: int) -> None:
    vectors, relevant, queries = search(seed)
    total, ks = len(vectors), [1, 3, 5, 10]
    ks = [k for k in ks if k <= total - queries]
    peers = InformationRetrievalEvaluator(
        queries={f"q{row}": str(row) for row in range(queries)},
        corpus={f"{row:04d}": str(row) for row in range(queries, total)},
        relevant_docs={
            f"q{row}": {f"{int(at) + queries:04d}" for at in relevant[row].nonzero()}
            for row in range(queries)
        },
        mrr_at_k=[total],
        ndcg_at_k=ks,
        accuracy_at_k=ks,
        precision_recall_at_k=ks,
        map_at_k=[*ks, total],
        score_functions={"cosine": cos_sim},
    )
    theirs = peers.compute_all_metrics(Stored(vectors))["cosine"]
    anchors, documents = relevant.nonzero(as_tuple=True)
    relations = PairRelations(anchors, documents + queries, None, torch.arange(total))
    metric = NeighbourMetrics(relations, ks=ks, graded=(*ks, total))
    metric.update(vectors[:queries], torch.arange(queries))
    metric.update(vectors[queries:], torch.arange(queries, total), corpus=True)
    found = {name: float(value) for name, value in metric.compute().items()}
    names = {
        "accuracy": "hit_rate",
        "recall": "recall",
        "precision": "precision",
        "ndcg": "ndcg",
        "map": "map",
    }
    for their, our in names.items():
        for k in ks:
            assert found[f"{our}@{k}"] == pytest.approx(theirs[f"{their}@k"][k], rel=1e-6)
            count(PEER, "search")
    assert found["mrr"] == pytest.approx(theirs["mrr@k"][total], rel=1e-6)
    assert found[f"map@{total}"] == pytest.approx(theirs["map@k"][total], rel=1e-6)


@seeds(quick=3)
def test_evaluators_of_pairs_and_triplets(seed: int) -> None:
    vectors, labels = clustered(60, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    first, second, third = torch.randint(0, 60, (3, 90), generator=generator)
    # An item with itself has a cosine of 1 but for the last bit, by which neither should be ranked.
    keep = (first != second) & (first != third) & (second != third)
    first, second, third = first[keep], second[keep], third[keep]
    texts = [[str(item) for item in column.tolist()] for column in (first, second, third)]
    targets = torch.rand(len(first), generator=generator).round(decimals=1)
    theirs = EmbeddingSimilarityEvaluator(*texts[:2], targets.tolist(), similarity_fn_names=["cosine"])
    model = Stored(vectors)
    scores = theirs(model)
    metric = PairMetrics(first, second, targets)
    metric.update(vectors, torch.arange(60))
    found = metric.compute()
    for name in ("spearman", "pearson"):
        assert float(found[name]) == pytest.approx(scores[f"{name}_cosine"], abs=1e-5)
        count(PEER, name)
    same = (labels[first] == labels[second]).long()
    binary = BinaryClassificationEvaluator(*texts[:2], same.tolist(), similarity_fn_names=["cosine"])
    metric = PairMetrics(first, second, same.float())
    metric.update(vectors, torch.arange(60))
    assert float(metric.compute()["pair_ap"]) == pytest.approx(
        binary.compute_metrices(model)["cosine"]["ap"], abs=1e-6
    )
    count(PEER, "average precision of pairs")
    # Ours looks at a triplet from both of the items that belong together, the peer from one.
    right = []
    for one, other, negative in zip(*texts, strict=True):
        sides = [
            TripletEvaluator([a], [p], [negative])(model)["cosine_accuracy"]
            for a, p in ((one, other), (other, one))
        ]
        right.append(min(sides))
    triplets = TripletMetrics(first, second, third)
    triplets.update(vectors, torch.arange(60))
    assert float(triplets.compute()["tot"]) == pytest.approx(np.mean(right))
    count(PEER, "triplets", len(right))


def sampled_by_the_peer(labels: list[int], size: int, seed: int) -> list[list[int]]:
    from sentence_transformers.base.sampler import GroupByLabelBatchSampler

    dataset = Dataset.from_dict({"text": [str(number) for number in range(len(labels))], "label": labels})
    sampler = GroupByLabelBatchSampler(
        dataset, batch_size=size, drop_last=True, valid_label_columns=["label"], seed=seed
    )
    return [list(items) for items in sampler]


@seeds(quick=2)
def test_batches_of_classes(seed: int) -> None:
    """Both samplers fill batches with classes of two items at least; ours leaves nothing out."""
    from lit_metric.batching import StratifiedPlanner
    from lit_metric.data import LabelRelations

    labels = torch.arange(10).repeat(8)[torch.randperm(80, generator=torch.Generator().manual_seed(seed))]
    for items in sampled_by_the_peer(labels.tolist(), 16, seed):
        assert min(Counter(labels[items].tolist()).values()) >= 2
    relations = LabelRelations(labels, [str(number) for number in range(10)], torch.arange(80))
    plan = StratifiedPlanner(16).plan(torch.arange(80), relations, seed, 0)
    assert sorted(plan.anchors.values.tolist()) == [*range(80)]
    for items in plan.anchors.tolist():
        assert min(Counter(labels[items].tolist()).values()) >= 2
    count(PEER, "batches", len(plan))
