"""Votes and accuracies against scikit-learn and naive loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.index import ExactIndex
from lit_metric.metrics import (
    accuracy_by_frequency,
    f1_macro,
    filtered_rank,
    knn_predict,
    knn_predict_labels,
    macro_accuracy,
    prediction_counts,
)


def randint(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [None, 0.05, 1.0])
def test_votes_are_those_of_scikit_learn(temperature: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    corpus = torch.nn.functional.normalize(torch.randn(200, 5, generator=generator))
    queries = torch.nn.functional.normalize(torch.randn(150, 5, generator=generator))
    labels = randint(6, 200)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature) if temperature else np.ones_like(distance)

    model = KNeighborsClassifier(9, metric="cosine", algorithm="brute", weights=weights)
    model.fit(corpus.numpy(), labels.numpy())
    scores, where = (queries @ corpus.T).topk(9)
    predicted = knn_predict(labels[where], scores, temperature)
    # scikit-learn gives ties to the lowest class, so only queries with one winner are compared.
    probabilities = np.sort(model.predict_proba(queries.numpy()), axis=1)
    clear = torch.tensor(probabilities[:, -1] - probabilities[:, -2] > 1e-6)
    assert clear.float().mean() > (0.99 if temperature else 0.5)
    assert torch.equal(predicted[clear], torch.tensor(model.predict(queries.numpy()))[clear])


def test_ties_go_to_the_class_of_the_nearest() -> None:
    labels = randint(4, 300, 6)
    expected = []
    for row in labels.tolist():
        votes = Counter(row)
        most = max(votes.values())
        expected.append(next(label for label in row if votes[label] == most))
    assert knn_predict(labels).tolist() == expected
    assert (
        sum(
            len({c for c, n in Counter(r).items() if n == max(Counter(r).values())}) > 1
            for r in labels.tolist()
        )
        > 50
    )


def test_negative_labels_do_not_vote() -> None:
    labels = torch.tensor([[-1, -1, -1, 2, 1, 1], [-1, 0, 3, -1, -1, -1]])
    assert knn_predict(labels).tolist() == [1, 0]
    scores = torch.tensor([[0.9, 0.9, 0.9, 0.8, 0.1, 0.1]] * 2)
    assert knn_predict(labels, scores, temperature=0.1).tolist() == [2, 0]
    assert knn_predict(torch.full((1, 2), -1), scores[:1, :2], temperature=0.1).tolist() == [-1]
    assert knn_predict(torch.empty(3, 0, dtype=torch.int64)).tolist() == [-1, -1, -1]


def test_weights_do_not_overflow() -> None:
    labels = torch.tensor([[0, 1, 1]])
    assert knn_predict(labels, torch.tensor([[500.0, 499.0, 499.0]]), temperature=0.5).tolist() == [0]
    assert knn_predict(labels, torch.tensor([[500.0, 499.9, 499.9]]), temperature=0.5).tolist() == [1]
    missing = torch.tensor([[0.5, -torch.inf, -torch.inf]])
    assert knn_predict(torch.tensor([[0, -1, -1]]), missing, temperature=0.1).tolist() == [0]


def test_accuracies_are_those_of_scikit_learn() -> None:
    target, predicted = randint(7, 200), randint(7, 200, seed=1)
    target[target == 5] = 4  # a class that is predicted but never right
    predicted = torch.where(randint(2, 200, seed=2) == 0, target, predicted)
    y, p = target.numpy(), predicted.numpy()
    counts = prediction_counts(predicted, target, 8)
    assert macro_accuracy(counts).item() == pytest.approx(
        recall_score(y, p, labels=np.unique(y), average="macro")
    )
    assert f1_macro(counts).item() == pytest.approx(f1_score(y, p, average="macro"))
    recalls = counts[0] / counts[2]
    expected = recall_score(y, p, labels=np.unique(y), average=None)
    assert recalls[torch.tensor(np.unique(y))].tolist() == pytest.approx(expected.tolist())
    assert recalls[[5, 7]].isnan().all()
    same = torch.where(predicted == 5, 4, predicted)
    counts = prediction_counts(same, target, 8)
    assert macro_accuracy(counts).item() == pytest.approx(balanced_accuracy_score(y, same.numpy()))


def test_no_prediction_counts_as_wrong() -> None:
    predicted, target = torch.tensor([-1, 1, 1]), torch.tensor([0, 1, 1])
    counts = prediction_counts(predicted, target, 2)
    assert macro_accuracy(counts).item() == pytest.approx(1 / 2)
    assert f1_macro(counts).item() == pytest.approx(1 / 2)
    nobody = torch.empty(0, dtype=torch.int64)
    assert [f(prediction_counts(nobody, nobody, 2)).isnan().item() for f in (macro_accuracy, f1_macro)] == [
        True,
        True,
    ]


def bins_of(
    predicted: Tensor, target: Tensor, frequencies: Tensor, edges: tuple[float, float] | None = None
) -> dict[str, float]:
    counts = prediction_counts(predicted, target, len(frequencies))
    return {name: value.item() for name, value in accuracy_by_frequency(counts, frequencies, edges).items()}


def test_the_default_edges_are_terciles() -> None:
    frequencies = randint(50, 30)
    frequencies[::4] = 0  # classes that don't occur are not counted
    target, predicted = randint(30, 500, seed=1), randint(30, 500, seed=2)
    low, high = np.quantile(frequencies[frequencies > 0].numpy(), [1 / 3, 2 / 3])
    bins = bins_of(predicted, target, frequencies)
    assert bins == bins_of(predicted, target, frequencies, (float(low), float(high)))
    assert len(bins) == 3


def test_bins_are_mean_class_recalls() -> None:
    counts = torch.tensor([1, 2, 3, 4, 5, 6])  # terciles at 2 2/3 and 4 1/3
    target = torch.tensor([0, 1, 1, 1, 2, 3, 4, 5, 5])
    predicted = torch.tensor([0, 1, 0, 0, 2, 2, 5, 5, 5])
    assert bins_of(predicted, target, counts) == {
        "tail": pytest.approx((1 + 1 / 3) / 2),
        "medium": pytest.approx((1 + 0) / 2),
        "head": pytest.approx((0 + 1) / 2),
    }
    assert bins_of(predicted, target, counts, edges=(1, 5)) == {
        "tail": 1.0,
        "medium": pytest.approx((1 / 3 + 1 + 0 + 0) / 4),
        "head": 1.0,
    }


def test_tied_classes_share_a_bin_and_empty_bins_are_left_out() -> None:
    target = torch.arange(6)
    long_tail = torch.tensor([1, 1, 1, 1, 50, 60])
    assert bins_of(torch.tensor([0, 1, 2, 0, 4, 0]), target, long_tail) == {"tail": 0.75, "head": 0.5}
    # A class that has no query doesn't lower its bin's mean.
    assert bins_of(torch.tensor([0]), torch.tensor([0]), long_tail)["tail"] == 1.0
    assert bins_of(target, target, torch.full((6,), 40)) == {}
    assert bins_of(target, target, torch.full((6,), 40), edges=(10, 30)) == {"head": 1.0}
    # Classes that the training set lacks are of the tail, and not counted in the terciles.
    assert bins_of(target, target, torch.zeros(6, dtype=torch.int64)) == {}
    unseen = torch.tensor([0, 10, 20, 30, 40, 50])
    assert bins_of(torch.tensor([1]), torch.tensor([0]), unseen)["tail"] == 0.0


def test_bad_input_is_refused() -> None:
    labels = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        knn_predict(labels, labels.float(), temperature=0)
    with pytest.raises(ValueError, match=r"weighted votes need scores \[1, 2\]"):
        knn_predict(labels, temperature=0.1)
    with pytest.raises(ValueError, match=r"labels must be \[q, k\]"):
        knn_predict(labels[0])
    with pytest.raises(ValueError, match="a target is negative"):
        prediction_counts(torch.tensor([0]), torch.tensor([-1]), 2)
    with pytest.raises(ValueError, match=r"must both be \[q\]"):
        prediction_counts(torch.tensor([0]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="class 2 has no frequency; there are those of 2 classes"):
        accuracy_by_frequency(torch.ones(3, 3), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="frequency edges must rise"):
        accuracy_by_frequency(torch.ones(3, 1), torch.tensor([1]), edges=(3, 2))


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_places_that_an_index_leaves_empty_do_not_vote(temperature: float | None) -> None:
    # Row -1 of the labels is the last one, which is not what an index means by -1.
    vectors, labels = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    index = ExactIndex()
    index.add(vectors, torch.arange(3))
    scores, neighbours = index.search(torch.tensor([[1.0, 0.0]]), k=10)
    assert knn_predict(labels[neighbours], scores, temperature).tolist() == [0]
    several = Ragged.from_lists([[0], [0], [1]]).select(neighbours[0] % 3)
    assert knn_predict_labels(several, 10, 2, scores, temperature).tolist() == [[True, False]]


def test_votes_of_no_neighbours_and_no_classes() -> None:
    nobody = torch.zeros(2, 0, dtype=torch.bool)
    assert knn_predict(torch.empty(2, 0, dtype=torch.int64), torch.empty(2, 0), 0.1).tolist() == [-1, -1]
    assert knn_predict_labels(Ragged.from_lists([[], []]), 1, classes=0).shape == (2, 0)
    rows, ranks = filtered_rank(torch.empty(2, 0), nobody, nobody)
    assert len(rows) == len(ranks) == 0
