"""Losses, pooling, mining and evaluators of sentence-transformers, on the same random numbers."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TripletEvaluator,
)
from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction as Apart
from sentence_transformers.sentence_transformer.losses import SiameseDistanceMetric, TripletDistanceMetric
from sentence_transformers.sentence_transformer.modules import Pooling as PeerPooling
from sentence_transformers.util import cos_sim, dot_score, mine_hard_negatives, pairwise_cos_sim
from torch import Tensor, nn

from lit_metric.data import PairRelations, Ragged
from lit_metric.encoders import recipe
from lit_metric.losses import (
    ContrastiveLoss,
    CoSENTLoss,
    DensePairs,
    DistillationKLLoss,
    InfoNCELoss,
    Loss,
    MarginMSELoss,
    MatryoshkaLoss,
    TripletLoss,
)
from lit_metric.metrics import NeighbourMetrics, PairMetrics, TripletMetrics
from lit_metric.mining import AbsoluteMax, MarginFilter, Miner, NegativeFilter, PercentageFilter
from tests.metrics.items import clustered
from tests.metrics.test_peers import Stored
from tests.peers.cases import DTYPES, KINDS, agree, batch, count, seeds

PEER = "sentence-transformers"


INEXACT = ("large norms", "ties", "duplicates", "nearly one point")


class OfLabels(NamedTuple):
    """A loss of labelled batches in both libraries.

    Attributes:
        whole: whether it needs a positive and a negative for every anchor to be the same by definition.
    """

    ours: Loss
    theirs: Any
    whole: bool = True


BY_LABELS = {
    "TripletLoss, all": OfLabels(
        TripletLoss(0.5, average="active", distance="euclidean"),
        peer.BatchAllTripletLoss(None, margin=0.5),
        False,
    ),
    "TripletLoss, all cosine": OfLabels(
        TripletLoss(0.2, average="active"),
        peer.BatchAllTripletLoss(None, Apart.cosine_distance, 0.2),
        False,
    ),
    "TripletLoss, hard": OfLabels(
        TripletLoss(0.5, "hard", distance="euclidean"), peer.BatchHardTripletLoss(None, margin=0.5)
    ),
    "TripletLoss, hard cosine": OfLabels(
        TripletLoss(0.2, "hard"), peer.BatchHardTripletLoss(None, Apart.cosine_distance, 0.2)
    ),
    "TripletLoss, hard soft": OfLabels(
        TripletLoss("soft", "hard", distance="euclidean"), peer.BatchHardSoftMarginTripletLoss(None)
    ),
    "TripletLoss, semi-hard": OfLabels(
        TripletLoss(0.5, "semi_hard", distance="euclidean"), peer.BatchSemiHardTripletLoss(None, margin=0.5)
    ),
    "TripletLoss, semi-hard cosine": OfLabels(
        TripletLoss(0.2, "semi_hard"), peer.BatchSemiHardTripletLoss(None, Apart.cosine_distance, 0.2)
    ),
}


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BY_LABELS)
def test_losses_of_labels(name: str, dtype: torch.dtype, seed: int) -> None:
    case = BY_LABELS[name]
    for kind in KINDS:
        given = batch(kind, seed, dtype)
        # Its distances, by the expanded square, are off by more where vectors are equal, near or large.
        if kind in INEXACT or kind == "one class" or (case.whole and not given.whole):
            continue
        agree(
            PEER,
            "TripletLoss",
            lambda e, case=case, given=given: case.ours(e, e, given.pairs)["loss"],
            lambda e, case=case, given=given: case.theirs.compute_loss_from_embeddings([e], given.labels),
            [given.embeddings],
            rtol=1e-7 if dtype == torch.float64 else 1e-2,
        )


class Columns(NamedTuple):
    """A random batch of columns: queries, documents, and negatives of each query.

    Attributes:
        vectors: ``[B, d]`` of each column.
        scores: ``[B, columns - 1]`` of a teacher.
    """

    vectors: list[Tensor]
    scores: Tensor

    @property
    def candidates(self) -> list[int]:
        return [*range(1, len(self.vectors))]

    def pairs(self, in_batch: bool = True) -> DensePairs:
        """The first document is the positive; with ``in_batch`` all other documents are negatives."""
        own = torch.eye(len(self.scores), dtype=torch.bool)
        nothing = torch.zeros_like(own)
        number = len(self.vectors) - 2
        positive = torch.cat([own, *[nothing] * number], dim=1)
        if in_batch:
            return DensePairs(positive, ~positive)
        return DensePairs(positive, torch.cat([nothing, *[own] * number], dim=1))

    def judged(self) -> DensePairs:
        """With the teacher's scores of a query's own documents."""
        pairs = self.pairs(in_batch=False)
        targets = torch.cat([column.diag() for column in self.scores.unbind(1)], dim=1)
        known = pairs.positive | pairs.negative
        return DensePairs(pairs.positive, pairs.negative, target=targets.masked_fill(~known, torch.nan))


def columns(seed: int, dtype: torch.dtype, negatives: int, scale: float = 1.0) -> Columns:
    generator = torch.Generator().manual_seed(seed)
    rows, dimension = (int(torch.randint(2, 12, (), generator=generator)) for _ in range(2))
    vectors = torch.randn(2 + negatives, rows, dimension, generator=generator, dtype=torch.float64) * scale
    scores = 3 * torch.randn(rows, 1 + negatives, generator=generator, dtype=torch.float64)
    return Columns([*vectors.to(dtype)], scores.to(dtype))


class OfColumns(NamedTuple):
    """A loss of columns in both libraries.

    Attributes:
        kind: which pairs ours is given.
        labels: what the peer is given besides.
    """

    ours: Loss
    theirs: Any
    kind: Callable[[Columns], DensePairs]
    labels: Callable[[Columns], Tensor | None] = lambda _: None
    negatives: tuple[int, ...] = (0, 1, 3)


def given_negatives(batch: Columns) -> DensePairs:
    return batch.pairs(in_batch=False)


def all_others(batch: Columns) -> DensePairs:
    return batch.pairs()


BY_COLUMNS = {
    "InfoNCELoss": OfColumns(InfoNCELoss(0.05), peer.MultipleNegativesRankingLoss(None), all_others),
    "InfoNCELoss, dot": OfColumns(
        InfoNCELoss(1.0, distance="dot"),
        peer.MultipleNegativesRankingLoss(None, scale=1.0, similarity_fct=dot_score),
        all_others,
    ),
    "InfoNCELoss, sharp": OfColumns(
        InfoNCELoss(0.001), peer.MultipleNegativesRankingLoss(None, scale=1000), all_others
    ),
    "TripletLoss": OfColumns(
        TripletLoss(0.5, distance="euclidean"),
        peer.TripletLoss(None, TripletDistanceMetric.EUCLIDEAN, 0.5),
        given_negatives,
        negatives=(1,),
    ),
    "TripletLoss, cosine": OfColumns(
        TripletLoss(0.3),
        peer.TripletLoss(None, TripletDistanceMetric.COSINE, 0.3),
        given_negatives,
        negatives=(1,),
    ),
    "MarginMSELoss": OfColumns(
        MarginMSELoss("positives"),
        peer.MarginMSELoss(None),
        Columns.judged,
        lambda batch: batch.scores,
        (1, 2, 4),
    ),
    "MarginMSELoss, cosine": OfColumns(
        MarginMSELoss("positives", distance="cosine"),
        peer.MarginMSELoss(None, pairwise_cos_sim),
        Columns.judged,
        lambda batch: batch.scores,
        (1, 2, 4),
    ),
    "DistillationKLLoss": OfColumns(
        DistillationKLLoss(2.0),
        peer.DistillKLDivLoss(None, temperature=2.0),
        Columns.judged,
        lambda batch: batch.scores,
        (1, 2, 4),
    ),
    "DistillationKLLoss, cosine": OfColumns(
        DistillationKLLoss(0.1, 3.0, distance="cosine"),
        peer.DistillKLDivLoss(None, pairwise_cos_sim, temperature=0.1, teacher_temperature=3.0),
        Columns.judged,
        lambda batch: batch.scores,
        (1, 2, 4),
    ),
}


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BY_COLUMNS)
def test_losses_of_columns(name: str, dtype: torch.dtype, seed: int) -> None:
    case = BY_COLUMNS[name]
    for negatives in case.negatives:
        for scale in (1.0, 0.01, 10.0):
            given = columns(seed, dtype, negatives, scale)
            pairs, labels = case.kind(given), case.labels(given)
            agree(
                PEER,
                name.split(",")[0],
                lambda first, *rest, pairs=pairs: case.ours(first, torch.cat(rest), pairs)["loss"],
                lambda *vectors, labels=labels: case.theirs.compute_loss_from_embeddings([*vectors], labels),
                given.vectors,
                rtol=2e-8 if "dot" in name and dtype == torch.float64 else None,
            )


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_of_scored_pairs(dtype: torch.dtype, seed: int) -> None:
    for scale in (1.0, 0.01, 10.0):
        given = columns(seed, dtype, 0, scale)
        rows = len(given.scores)
        neither = torch.zeros(rows, rows, dtype=torch.bool)
        for decimals in (0, 3):  # with ties, and without
            scores = given.scores[:, 0].round(decimals=decimals)
            target = torch.full((rows, rows), torch.nan, dtype=scores.dtype)
            target.diagonal().copy_(scores)
            pairs = DensePairs(neither, neither, target=target)
            for temperature in (0.05, 0.01):
                theirs = peer.CoSENTLoss(None, scale=1 / temperature)
                agree(
                    PEER,
                    "CoSENTLoss",
                    lambda a, b, pairs=pairs, t=temperature: CoSENTLoss(t)(a, b, pairs)["loss"],
                    lambda a, b, s=scores, theirs=theirs: theirs.compute_loss_from_embeddings([a, b], s),
                    given.vectors,
                )
        together = given.scores[:, 0] > 0
        zero_one = together.long()
        own = torch.eye(rows, dtype=torch.bool)
        pairs = DensePairs(own & together, own & ~together)
        loss = ContrastiveLoss(0.5, distance="cosine", average="pairs")
        theirs = peer.ContrastiveLoss(None, SiameseDistanceMetric.COSINE_DISTANCE, 0.5)
        agree(
            PEER,
            "ContrastiveLoss",  # there with Hadsell's factor of one half
            lambda a, b, pairs=pairs, loss=loss: loss(a, b, pairs)["loss"] / 2,
            lambda a, b, t=zero_one, theirs=theirs: theirs.compute_loss_from_embeddings([a, b], t),
            given.vectors,
        )


class Given(nn.Module):
    """As much of a SentenceTransformer as MatryoshkaLoss asks for."""

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self) -> None:
        return None


@seeds()
def test_matryoshka(seed: int) -> None:
    for dtype in DTYPES:
        given = columns(seed, dtype, 2)
        whole = given.vectors[0].shape[1]
        sizes = sorted({whole, max(whole // 2, 1), 1}, reverse=True)
        weights = [1.0, 0.5, 0.25][: len(sizes)]
        ours = MatryoshkaLoss(InfoNCELoss(0.05), sizes, weights)
        model = Given()
        theirs = peer.MatryoshkaLoss(model, peer.MultipleNegativesRankingLoss(model), sizes, weights)
        pairs = given.pairs()

        def other(*vectors: Tensor, theirs: Any = theirs) -> Tensor:
            return theirs([{"vectors": column} for column in vectors], torch.zeros(0))

        agree(
            PEER,
            "MatryoshkaLoss",
            lambda first, *rest, pairs=pairs, ours=ours: ours(first, torch.cat(rest), pairs)["loss"],
            other,
            given.vectors,
        )


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", recipe.POOLINGS)
def test_pooling(mode: str, side: str, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(1, 9, (), generator=generator))
    lengths = torch.randint(1, 9, (rows,), generator=generator)
    longest = int(lengths.max())
    places = torch.arange(longest)
    mask = places < lengths[:, None] if side == "right" else places >= longest - lengths[:, None]
    values, weights = (
        torch.randn(size, 5, generator=generator, dtype=torch.float64).to(dtype)
        for size in (int(lengths.sum()), rows)
    )

    def theirs(values: Tensor) -> Tensor:
        padding = torch.full((*mask.shape, 5), 7.0, dtype=values.dtype)
        states = padding.masked_scatter(mask[..., None], values)
        pooled = PeerPooling(5, mode)({"token_embeddings": states, "attention_mask": mask.long()})
        return (pooled["sentence_embedding"] * weights).sum()

    def ours(values: Tensor) -> Tensor:
        return (recipe.POOLINGS[mode]()(Ragged.from_lengths(values, lengths)) * weights).sum()

    agree(PEER, "pooling", ours, theirs, [values])


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
    "relative margin": ([PercentageFilter(0.95)], {"relative_margin": 0.05}),
    "absolute margin": ([MarginFilter(0.1)], {"absolute_margin": 0.1}),
    "largest score": ([AbsoluteMax(0.4)], {"max_score": 0.4}),
    "all": (
        [AbsoluteMax(0.6), MarginFilter(0.05), PercentageFilter(0.9)],
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
    miner = Miner(candidates=wanted, filters=filters, refresh="never", mode="inline")
    table = miner.mine(
        vectors,
        torch.arange(queries + documents),
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
        "accuracy": "recall",
        "recall": "hit_rate",
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
