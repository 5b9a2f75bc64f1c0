"""The metric against a naive ranking, scikit-learn and pytorch-metric-learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.metrics import f1_score, recall_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import normalize

from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, PairRelations
from lit_metric.metrics import (
    NeighbourMetrics,
    PairMetrics,
    Ranking,
    SpaceMetrics,
    TripletMetrics,
    effective_rank,
)
from lit_metric.metrics.base import Relations
from tests.metrics.items import Overlap, SameClass, clustered


def naive(
    queries: dict[int, np.ndarray], corpus: dict[int, np.ndarray], relations: Relations, ks: tuple[int, ...]
) -> dict[str, float]:
    """One query after the other: sort everything, then count."""
    rows: dict[str, list[float]] = {}
    skipped = 0
    for query, vector in queries.items():
        others = [i for i in sorted(corpus) if i != query]
        ranking = sorted(others, key=lambda i: -float(vector @ corpus[i]))  # stable: lower ids first
        answer = relations.positive(torch.tensor([query]), torch.tensor(ranking, dtype=torch.int64))
        hits = answer[0].tolist()
        r = sum(hits)
        if r == 0:
            skipped += 1
            continue
        for k in ks:
            rows.setdefault(f"hit_rate@{k}", []).append(float(any(hits[:k])))
            rows.setdefault(f"precision@{k}", []).append(sum(hits[:k]) / k)
        average = sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r
        rows.setdefault("map@r", []).append(average)
        rows.setdefault("r_precision", []).append(sum(hits[:r]) / r)
        rows.setdefault("mrr", []).append(1 / (hits.index(True) + 1))
    means = {name: float(np.mean(values)) for name, values in rows.items()}
    return means | ({"queries_without_positive": skipped} if skipped else {})


def by_id(embeddings: Tensor, ids: Tensor, similarity: str) -> dict[int, np.ndarray]:
    x = embeddings.double().numpy()
    if similarity == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return dict(zip(ids.tolist(), x, strict=True))


def values_of(metric: NeighbourMetrics) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("with_corpus", [False, True])
def test_retrieval_is_that_of_a_naive_ranking(similarity: str, with_corpus: bool) -> None:
    embeddings, labels = clustered(90)
    labels[:4] = torch.tensor([20, 21, 22, -1])  # of these nothing else is relevant
    ids = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    relations = SameClass(labels)
    metric = NeighbourMetrics(relations, ks=(1, 5, 200), similarity=similarity)
    queries = ids[:40] if with_corpus else ids
    for part in queries.split(13):
        metric.update(embeddings[part], part)
    corpus = ids[30:] if with_corpus else ids  # ten queries are in the corpus, too
    if with_corpus:
        metric.update(embeddings[corpus], corpus, corpus=True)
    expected = naive(
        by_id(embeddings[queries], queries, similarity),
        by_id(embeddings[corpus], corpus, similarity),
        relations,
        (1, 5, 200),
    )
    assert expected["queries_without_positive"] > 0
    got = values_of(metric)
    assert got.pop("effective_rank") > 1
    assert got == pytest.approx(expected, rel=1e-5)


def test_several_labels_each() -> None:
    generator = torch.Generator().manual_seed(0)
    tags = torch.rand(70, 12, generator=generator) < 0.08
    embeddings = tags.float() @ torch.randn(12, 6, generator=generator) + 0.1
    ids, relations = torch.arange(70), Overlap(tags)
    metric = NeighbourMetrics(relations, ks=(3,))
    metric.update(embeddings, ids)
    expected = naive(by_id(embeddings, ids, "cosine"), by_id(embeddings, ids, "cosine"), relations, (3,))
    assert values_of(metric) == pytest.approx(
        expected | {"effective_rank": effective_rank(normalize(embeddings)).item()}, rel=1e-5
    )


def test_pytorch_metric_learning_agrees() -> None:
    train, train_labels = clustered(400, classes=8)
    test, test_labels = clustered(150, classes=8, seed=1)
    labels = torch.cat([train_labels, test_labels])
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_reciprocal_rank"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
    )
    names = {
        "hit_rate@1": "precision_at_1",
        "r_precision": "r_precision",
        "map@r": "mean_average_precision_at_r",
    }

    alone = NeighbourMetrics(SameClass(labels))
    alone.update(test, torch.arange(400, 550))
    expected = calculator.get_accuracy(test, test_labels)
    got = values_of(alone)
    assert {name: got[name] for name in names} == pytest.approx({n: expected[o] for n, o in names.items()})

    against = NeighbourMetrics(SameClass(labels))
    against.update(test, torch.arange(400, 550))
    against.update(train, torch.arange(400), corpus=True)
    expected = calculator.get_accuracy(test, test_labels, train, train_labels)
    got = values_of(against)
    assert {name: got[name] for name in names} == pytest.approx({n: expected[o] for n, o in names.items()})


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_classification_is_that_of_scikit_learn(temperature: float | None) -> None:
    train, train_labels = clustered(300, classes=6)
    test, test_labels = clustered(120, classes=6, seed=1)
    labels = torch.cat([train_labels, test_labels])
    metric = NeighbourMetrics(SameClass(labels), labels, knn=(1, 7), knn_temperature=temperature)
    metric.update(test, torch.arange(300, 420))
    metric.update(train, torch.arange(300), corpus=True)
    got = values_of(metric)

    def weights(distance: np.ndarray) -> np.ndarray:
        # Without a temperature a slight lean to the near ones breaks ties, which scikit-learn gives to the
        # lowest class, and outvotes nobody.
        return np.exp((1 - distance) / temperature) if temperature else 1 - 1e-4 * distance

    y, counts = test_labels.numpy(), np.bincount(train_labels)
    for k in (1, 7):
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
        predicted = model.fit(train.numpy(), train_labels.numpy()).predict(test.numpy())
        agree = 2 / 120 if temperature is None and k == 7 else 1e-6
        assert got[f"knn{k}_accuracy"] == pytest.approx(np.mean(predicted == y), abs=agree)
        if agree > 1e-6:
            continue
        assert got[f"knn{k}_accuracy_macro"] == pytest.approx(recall_score(y, predicted, average="macro"))
        assert got[f"knn{k}_f1_macro"] == pytest.approx(f1_score(y, predicted, average="macro"))
        low, high = np.quantile(counts, [1 / 3, 2 / 3])
        recalls = dict(enumerate(recall_score(y, predicted, labels=np.arange(6), average=None)))
        present = [c for c in range(6) if (y == c).any()]
        bins = {
            "tail": [recalls[c] for c in present if counts[c] <= low],
            "medium": [recalls[c] for c in present if low < counts[c] <= high],
            "head": [recalls[c] for c in present if counts[c] > high],
        }
        for name, members in bins.items():
            assert got[f"knn{k}_accuracy_{name}"] == pytest.approx(np.mean(members))


def test_unlabelled_items_neither_vote_nor_are_classified() -> None:
    corpus = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.05], [0.1, 1.0], [0.0, 1.0]])
    labels = torch.tensor([-1, 0, 1, 0, 1, -1])
    metric = NeighbourMetrics(SameClass(labels), labels, knn=(1, 10))
    metric.update(corpus, torch.arange(3), corpus=True)
    metric.update(queries, torch.arange(3, 6))
    got = values_of(metric)
    assert got["knn1_accuracy"] == 1.0  # the nearest of the first query is unlabelled
    assert got["knn10_accuracy"] == 1.0  # one vote each, and the nearer wins
    assert got["queries_without_positive"] == 1


def test_an_item_never_votes_for_itself() -> None:
    labels = torch.tensor([0, 1, 1])
    metric = NeighbourMetrics(SameClass(labels), labels, knn=(1, 5))
    metric.update(torch.eye(3) + 0.1, torch.arange(3))
    got = values_of(metric)
    # Equal similarities go to the lower id, so both items of class 1 see item 0 first.
    assert got["knn1_accuracy"] == 0.0
    assert got["mrr"] == pytest.approx(1 / 2)
    assert got["queries_without_positive"] == 1
    # Nor where there are fewer others than votes: its one fellow is nearest and is outvoted by two.
    metric = NeighbourMetrics(SameClass(torch.tensor([0, 0, 1, 1])), torch.tensor([0, 0, 1, 1]), knn=(10,))
    metric.update(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]), torch.arange(4))
    assert values_of(metric)["knn10_accuracy"] == 0.0


def test_relations_that_call_an_item_its_own_positive_do_no_harm() -> None:
    class Careless(SameClass):
        def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
            return self.labels[anchors][:, None] == self.labels[candidates]

    embeddings, labels = clustered(40)
    labels[7] = 30
    results = []
    for relations in (SameClass(labels), Careless(labels)):
        metric = NeighbourMetrics(relations)
        metric.update(embeddings, torch.arange(40))
        results.append(values_of(metric))
    assert results[0]["queries_without_positive"] > 0
    assert results[0] == results[1]


@pytest.mark.parametrize("own_counts", [False, True])
def test_frequency_bins_can_come_from_a_training_set(own_counts: bool) -> None:
    embeddings, labels = torch.eye(4).repeat(2, 1), torch.arange(4).repeat(2)
    counts = torch.tensor([1, 10, 100, 1000]) if own_counts else None
    metric = NeighbourMetrics(SameClass(labels), labels, knn=(1,), class_counts=counts)
    metric.update(embeddings + 0.01, torch.arange(8))
    bins = {name for name in values_of(metric) if name.endswith(("tail", "medium", "head"))}
    names = {"knn1_accuracy_tail", "knn1_accuracy_medium", "knn1_accuracy_head"}
    assert bins == (names if own_counts else set())


def test_blocks_change_nothing() -> None:
    embeddings, labels = clustered(101)
    results = []
    for rows in (7, 1, None):
        metric = NeighbourMetrics(SameClass(labels), labels, block_rows=rows)
        metric.update(embeddings, torch.arange(101))
        results.append(values_of(metric))
    assert results[0] == results[2]
    assert results[1] == results[2]


def test_nothing_larger_than_a_block_is_asked_for() -> None:
    embeddings, labels = clustered(101)
    relations = SameClass(labels)
    metric = NeighbourMetrics(relations, labels, block_rows=7)
    metric.update(embeddings[:50], torch.arange(50))
    metric.update(embeddings[50:], torch.arange(50, 101), corpus=True)
    metric.compute()
    assert relations.asked == [(7, 51)] * 7 + [(1, 51)]


def test_neither_order_nor_batches_nor_repeats_change_anything() -> None:
    embeddings, labels = clustered(60)
    embeddings[10:20] = embeddings[30:40]  # equal texts: ties are decided by the id
    whole = NeighbourMetrics(SameClass(labels), labels)
    whole.update(embeddings, torch.arange(60))
    parts = NeighbourMetrics(SameClass(labels), labels)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5))
    for part in [*order.split(9), order[:4]]:
        parts.update(embeddings[part], part)
    assert values_of(whole) == values_of(parts)


def test_first_of_a_repeated_id_counts() -> None:
    labels = torch.tensor([0, 0, 1])
    metric = NeighbourMetrics(SameClass(labels), ks=(1,))
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.0]])
    metric.update(vectors, torch.tensor([0, 1, 2, 0]))
    assert values_of(metric)["hit_rate@1"] == 1.0


def test_the_first_relevant_item_may_be_far_behind_every_list() -> None:
    labels = torch.tensor([0, 0, *range(1, 51)])
    vectors = torch.stack([torch.cos(torch.arange(52) / 60), torch.sin(torch.arange(52) / 60)], dim=1)
    vectors[1] = torch.tensor([0.0, 1.0])  # farther from item 0 than all others
    metric = NeighbourMetrics(SameClass(labels), ks=(1, 5))
    metric.update(vectors, torch.arange(52))
    got = values_of(metric)
    assert got["queries_without_positive"] == 50
    assert got["mrr"] == pytest.approx(1 / 51)
    assert (got["hit_rate@5"], got["map@r"]) == (0.0, 0.0)


def test_the_first_relevant_rank_by_a_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (40, 20), generator=generator).float()
    relevant = torch.rand(40, 20, generator=generator) < 0.15
    expected = []
    for row, hits in zip(scores.numpy(), relevant.numpy(), strict=True):
        sorted_hits = hits[np.argsort(-row, kind="stable")]
        expected.append(float(sorted_hits.argmax()) + 1 if hits.any() else float("inf"))
    assert float("inf") in expected
    for length in (1, 5, 20):
        assert Ranking(scores, relevant, length).first.tolist() == expected


def test_large_classes_among_small_ones() -> None:
    """R runs from 1 to 150, far beyond the lists of recall."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.zeros(150), torch.ones(40), torch.arange(2, 12).repeat(2)]).long()
    embeddings = torch.randn(12, 4, generator=generator)[labels] + torch.randn(210, 4, generator=generator)
    relations, ids = SameClass(labels), torch.arange(210)
    metric = NeighbourMetrics(relations, ks=(1, 3))
    metric.update(embeddings, ids)
    got = values_of(metric)
    del got["effective_rank"]
    vectors = by_id(embeddings, ids, "cosine")
    assert got == pytest.approx(naive(vectors, vectors, relations, (1, 3)), rel=1e-5)


def test_bfloat16_is_ranked_in_float32() -> None:
    embeddings, labels = clustered(80)
    embeddings = embeddings.bfloat16()
    results = []
    for given in (embeddings, embeddings.float()):
        metric = NeighbourMetrics(SameClass(labels), labels)
        metric.update(given, torch.arange(80))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(values_of(metric))
    assert results[0] == results[1]


def test_the_relations_of_the_data_package_fit() -> None:
    embeddings, labels = clustered(50)
    relations = LabelRelations(labels, [str(c) for c in range(5)], torch.arange(50))
    results = []
    for given in (relations, SameClass(labels)):
        metric = NeighbourMetrics(given)
        metric.update(embeddings, torch.arange(50))
        results.append(values_of(metric))
    assert results[0] == results[1]


def test_reset_starts_anew() -> None:
    embeddings, labels = clustered(50)
    fresh, used = NeighbourMetrics(SameClass(labels)), NeighbourMetrics(SameClass(labels))
    used.update(embeddings * 3, torch.arange(50), corpus=True)
    used.update(embeddings, torch.arange(50))
    used.compute()
    used.reset()
    for metric in (fresh, used):
        metric.update(embeddings, torch.arange(50))
    assert values_of(fresh) == values_of(used)


def test_no_query_with_a_relevant_item() -> None:
    metric = NeighbourMetrics(SameClass(torch.arange(3)), ks=(1,))
    metric.update(torch.eye(3), torch.arange(3))
    got = values_of(metric)
    assert got["queries_without_positive"] == 3
    assert np.isnan([got[name] for name in ("hit_rate@1", "map@r", "mrr")]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": (1, 0)}, "every k must be at least 1"),
        ({"knn": (-1,)}, "every k must be at least 1"),
        ({"similarity": "euclidean"}, "use 'cosine' or 'dot'"),
        ({"knn_temperature": 0.0}, "knn_temperature must be above 0"),
        ({"block_rows": 0}, "block_rows must be at least 1"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeighbourMetrics(SameClass(torch.zeros(1)), **arguments)


def test_bad_embeddings_are_refused() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    metric = NeighbourMetrics(SameClass(labels), labels)
    with pytest.raises(ValueError, match=r"must be \[n, d\] and ids \[n\]"):
        metric.update(torch.eye(3), torch.arange(2))
    metric.update(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="dimension 2, earlier ones 3"):
        metric.update(torch.eye(2), torch.arange(2), corpus=True)
    for vector, number, message in (
        ([1.0, 0.0, 0.0], 3, "id 3 has no label; labels has 3 entries"),
        ([1.0, 0.0, 0.0], -1, "ids must be >= 0, got -1"),
        ([torch.nan, 0.0, 0.0], 1, "1 of 1 embeddings hold NaN or infinity, the first is that of item 1"),
    ):
        metric.reset()
        metric.update(torch.tensor([vector]), torch.tensor([number]))
        with pytest.raises(ValueError, match=message):
            metric.compute()
    metric.reset()
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(ValueError, match="call update before compute"),
    ):
        metric.compute()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("knows_devices", [False, True])
def test_a_gpu_gives_what_the_cpu_gives(knows_devices: bool) -> None:
    embeddings, labels = clustered(500, classes=8)
    classes = [str(c) for c in range(8)]
    relations = LabelRelations(labels, classes, torch.arange(500)) if knows_devices else SameClass(labels)
    results = []
    for device in ("cpu", "cuda"):
        metric = NeighbourMetrics(relations, labels, knn_temperature=0.2).to(device)
        metric.update(embeddings.to(device), torch.arange(500, device=device))
        results.append(values_of(metric))
    assert results[1] == pytest.approx(results[0], rel=1e-5)


def test_a_query_that_nobody_could_vote_for_rightly() -> None:
    def measured(labels: Tensor | Ragged, corpus: int = 0) -> dict[str, float]:
        count = len(labels)
        metric = NeighbourMetrics(SameClass(torch.full((count,), -1)), labels, ks=(1,), knn=(1,))
        vectors = torch.eye(count) + 0.1
        metric.update(vectors[: count - corpus], torch.arange(count - corpus))
        if corpus:
            metric.update(vectors[count - corpus :], torch.arange(count - corpus, count), corpus=True)
        return values_of(metric)

    # Each class has one member, and a query doesn't vote for itself.
    alone = measured(torch.arange(4))
    names = ("knn1_accuracy", "knn1_accuracy_macro", "knn1_f1_macro")
    assert all(np.isnan(alone[name]) for name in names)
    # Of four queries two have another of their class beside them; the two others count as wrong.
    some = measured(torch.tensor([0, 0, 1, 2]))
    assert some["queries_without_voter"] == 2
    assert 0 <= some["knn1_accuracy"] <= 0.5
    assert "queries_without_voter" not in measured(torch.tensor([0, 0, 1, 1]))
    # The corpus has other classes, or none at all.
    assert np.isnan(measured(torch.tensor([0, 1, 5, 6]), corpus=2)["knn1_accuracy"])
    assert np.isnan(measured(torch.tensor([0, 1, -1, -1]), corpus=2)["knn1_accuracy"])
    assert measured(torch.tensor([0, 1, 0, 0]), corpus=2)["knn1_accuracy"] == 0.5
    for several in ([[1], []], [[1], [0]]):
        assert np.isnan(measured(Ragged.from_lists(several), corpus=1)["knn1_f1_micro"])
    assert measured(Ragged.from_lists([[1, 2], [2]]), corpus=1)["knn1_f1_micro"] == pytest.approx(2 / 3)
    assert np.isnan(measured(Ragged.from_lists([[0, 1], [2], [3]]))["knn1_f1_micro"])
    some = measured(Ragged.from_lists([[0], [0, 3], [1], [2, 4]]))
    assert some["queries_without_voter"] == 2


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("vectors", [torch.float64, torch.bfloat16, torch.float32])
def test_the_default_type_changes_nothing(default: torch.dtype, vectors: torch.dtype) -> None:
    """A trainer with ``precision: 64`` or ``bf16-true`` sets it while it evaluates."""
    embeddings, labels = clustered(60)
    embeddings = embeddings.to(torch.bfloat16)  # so that all types hold the same
    relations = LabelRelations(
        labels, [str(label) for label in range(int(labels.max()) + 1)], torch.arange(60)
    )
    pairs = PairRelations(
        torch.arange(20), torch.arange(20) + 30, torch.arange(20).float() / 7, torch.arange(60)
    )

    def measured(dtype: torch.dtype) -> dict[str, float]:
        labelled = NeighbourMetrics(relations, labels, knn_temperature=0.1)
        judged = NeighbourMetrics(pairs, graded=(10,), ks=(1,))
        space = SpaceMetrics(relations, labels)
        scored = PairMetrics(torch.arange(20), torch.arange(20) + 30, torch.arange(20).float() / 7)
        triplets = TripletMetrics(torch.arange(20), torch.arange(20) + 20, torch.arange(20) + 40)
        found = {}
        for metric in (labelled, judged, space, scored, triplets):
            metric.update(embeddings.to(dtype), torch.arange(60))
            found |= {name: value.item() for name, value in metric.compute().items()}
        return found

    expected = measured(torch.float32)
    torch.set_default_dtype(default)
    try:
        assert measured(vectors) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    finally:
        torch.set_default_dtype(torch.float32)
