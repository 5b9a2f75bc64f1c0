"""Given pairs and triplets against scipy, scikit-learn and loops, however their items arrive."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lit_metric.metrics import PairMetrics, TripletMetrics
from lit_metric.metrics.given import GivenMetric
from tests.metrics.items import clustered

N = 60


def given_ids(columns: int, count: int = 150, seed: int = 4) -> list[Tensor]:
    """Ids below 50, so that some items stand in no pair."""
    return list(torch.randint(0, 50, (columns, count), generator=torch.Generator().manual_seed(seed)))


def values_of(metric: GivenMetric, parts: int = 1) -> dict[str, float]:
    """What it comes to when items arrive in some order, a few of them twice."""
    embeddings, _ = clustered(N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(7))
    for ids in [*order.tensor_split(parts), order[:5]]:
        metric.update(embeddings[ids], ids)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_scored_pairs(similarity: str) -> None:
    embeddings, _ = clustered(N)
    anchors, candidates = given_ids(2)
    targets = torch.randint(0, 6, (150,), generator=torch.Generator().manual_seed(5)).float()
    a, c = embeddings[anchors].double(), embeddings[candidates].double()
    scores = cosine_similarity(a, c) if similarity == "cosine" else (a * c).sum(dim=1)
    assert values_of(PairMetrics(anchors, candidates, targets, similarity), parts=4) == pytest.approx(
        {
            "spearman": stats.spearmanr(scores, targets).statistic,
            "pearson": stats.pearsonr(scores, targets).statistic,
        },
        abs=1e-6,
    )


def test_pairs_of_two_kinds() -> None:
    embeddings, labels = clustered(N)
    anchors, candidates = given_ids(2)
    same = labels[anchors] == labels[candidates]
    scores = cosine_similarity(embeddings[anchors].double(), embeddings[candidates].double())
    expected = average_precision_score(same, scores)
    for targets in (same.float(), same.float() - 1, 3 * same):
        got = values_of(PairMetrics(anchors, candidates, targets))
        assert got["pair_ap"] == pytest.approx(expected, rel=1e-6)


def test_triplets_by_group() -> None:
    embeddings, _ = clustered(N)
    anchors, positives, negatives = given_ids(3)
    groups = [("swap", "replace", "add")[each % 3] for each in range(149)] + ["alone"]
    right: dict[str, list[bool]] = {}
    for a, p, n, group in zip(anchors, positives, negatives, groups, strict=True):
        first, second, third = embeddings[torch.stack([a, p, n])].double()
        together = cosine_similarity(first, second, dim=0)
        rest = max(cosine_similarity(first, third, dim=0), cosine_similarity(second, third, dim=0))
        for name in ("tot", f"tot_{group}"):
            right.setdefault(name, []).append(bool(together > rest + 1e-12))
    expected = {name: sum(each) / len(each) for name, each in right.items()}
    assert len(expected) == 5
    assert values_of(TripletMetrics(anchors, positives, negatives, groups), 3) == pytest.approx(expected)
    assert values_of(TripletMetrics(anchors, positives, negatives)).keys() == {"tot"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_negative_that_is_as_near_as_the_match_is_no_right_answer(turned: bool) -> None:
    """The cosine of anchor and positive must be larger than both others; here it equals one of them."""
    sides = [torch.tensor([0]), torch.tensor([1])]
    metric = TripletMetrics(*(sides[::-1] if turned else sides), torch.tensor([2]))
    metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.arange(3))
    assert metric.compute()["tot"].item() == 0


def test_only_what_is_asked_for_is_kept() -> None:
    metric = PairMetrics(torch.tensor([3]), torch.tensor([5]), torch.ones(1))
    metric.update(torch.eye(8), torch.arange(8))
    assert torch.cat(metric.ids).tolist() == [3, 5]


def test_many_pairs_of_few_items_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, candidates = given_ids(2)
    whole = values_of(PairMetrics(anchors, candidates, torch.arange(150.0)))
    monkeypatch.setattr("lit_metric.metrics.given.CHUNK", 7)
    assert values_of(PairMetrics(anchors, candidates, torch.arange(150.0))) == whole


def test_an_item_that_was_not_given_is_named() -> None:
    metric = TripletMetrics(torch.tensor([1]), torch.tensor([2]), torch.tensor([9]))
    metric.update(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="1 of 3 items were not given, the first is item 9"):
        metric.compute()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda two, three: PairMetrics(two, three, two), r"anchors, candidates must .* \[\[2\], \[3\]\]"),
        (lambda two, three: PairMetrics(two, two, three), r"targets must be \[2\], got \[3\]"),
        (lambda two, three: TripletMetrics(two, two, three), "anchors, positives, negatives must be"),
        (lambda two, three: TripletMetrics(two, two, two, ["a"]), "1 groups were given for 2 triplets"),
        (lambda two, three: PairMetrics(two, two, two, "euclidean"), "use 'cosine' or 'dot'"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(torch.arange(2), torch.arange(3))  # type: ignore[operator]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    embeddings, _ = clustered(N)
    first, second, third = given_ids(3)
    results: list[dict[str, float]] = []
    for device in ("cpu", "cuda"):
        metrics = (
            PairMetrics(first, second, third % 2),
            TripletMetrics(first, second, third, ["a", "b"] * 75),
        )
        results.append({})
        for metric in metrics:
            metric.to(device).update(embeddings.to(device), torch.arange(N, device=device))
            results[-1] |= {name: value.item() for name, value in metric.compute().items()}
    assert results[1] == pytest.approx(results[0], rel=1e-5)
