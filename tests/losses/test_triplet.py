from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pytorch_metric_learning.distances import BaseDistance, CosineSimilarity, DotProductSimilarity, LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from torch import Tensor, nn

from lit_metric.losses import DeduplicatedLoss, DensePairs, GuidedLoss, TripletLoss
from tests.losses.cases import cosines, labelled_batch, random_batch, random_weights, rows_of


def naive_scores(anchors: Tensor, candidates: Tensor, distance: str) -> Tensor:
    if distance == "cosine":
        return cosines(anchors, candidates)
    if distance == "dot":
        return (anchors[:, None] * candidates).sum(dim=-1)
    distances = (anchors[:, None] - candidates).norm(dim=-1)
    return -distances if distance == "euclidean" else -(distances**2)


def naive_triplets(scores: Tensor, pairs: DensePairs, mining: str) -> list[tuple[int, int, int]]:
    triplets = []
    for row, positives, negatives in rows_of(pairs):
        s = scores[row].tolist()
        if not positives or not negatives:
            continue
        if mining == "all":
            triplets += [(row, p, n) for p in positives for n in negatives]
        elif mining == "hard":
            triplets.append((row, min(positives, key=s.__getitem__), max(negatives, key=s.__getitem__)))
        else:
            for p in positives:
                further = [n for n in negatives if s[n] < s[p]]
                chosen = max(further, key=s.__getitem__) if further else min(negatives, key=s.__getitem__)
                triplets.append((row, p, chosen))
    return triplets


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean", "squared_euclidean"])
@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
@pytest.mark.parametrize(("margin", "average"), [(0.4, "all"), (0.4, "active"), ("soft", "all")])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(
    distance: str, mining: str, margin: float | str, average: str, weighted: bool
) -> None:
    anchors, candidates, pairs = random_batch(anchors=20, candidates=4)
    weight = (
        random_weights(pairs) + 0.1 if weighted else torch.ones(pairs.positive.shape, dtype=torch.float64)
    )
    scores = naive_scores(anchors, candidates, distance)
    losses, active = [], 0
    for a, p, n in naive_triplets(scores, pairs, mining):
        excess = scores[a, n] - scores[a, p]
        loss = torch.log1p(excess.exp()) if margin == "soft" else max(margin + excess, torch.tensor(0.0))
        losses.append(weight[a, p] * weight[a, n] * loss)
        active += bool(excess > 0) if margin == "soft" else bool(margin + excess > 0)
    output = TripletLoss(margin, mining, average, distance).on_pairs(
        anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight if weighted else None)
    )
    expected = sum(losses) / (active if average == "active" else len(losses))
    torch.testing.assert_close(output["loss"], expected)
    assert 0 < active < len(losses)
    assert output["active"].item() == pytest.approx(active / len(losses))


@pytest.mark.parametrize(
    ("arguments", "peer_distance"),
    [
        ({"margin": 0.3}, CosineSimilarity()),
        ({"margin": 0.7, "distance": "dot"}, DotProductSimilarity(normalize_embeddings=False)),
        ({"margin": 0.3, "distance": "euclidean", "normalize": True}, LpDistance()),
        ({"margin": 0.3, "distance": "squared_euclidean", "normalize": True}, LpDistance(power=2)),
        ({"margin": 0.3, "distance": "euclidean"}, LpDistance(normalize_embeddings=False)),
    ],
)
@pytest.mark.parametrize(("average", "reducer"), [("all", MeanReducer), ("active", AvgNonZeroReducer)])
def test_all_triplets_of_pytorch_metric_learning(
    arguments: dict, peer_distance: BaseDistance, average: str, reducer: type
) -> None:
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    embeddings.requires_grad_()
    ours = TripletLoss(average=average, **arguments).on_pairs(embeddings, embeddings, pairs)["loss"]
    theirs = TripletMarginLoss(arguments["margin"], distance=peer_distance, reducer=reducer())(
        embeddings, labels
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, embeddings)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize(("margin", "smooth"), [(0.5, False), ("soft", True)])
def test_batch_hard_of_pytorch_metric_learning(margin: float | str, smooth: bool) -> None:
    embeddings, labels, pairs = labelled_batch([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    distance = LpDistance(normalize_embeddings=False)
    peer = TripletMarginLoss(
        0 if smooth else margin, smooth_loss=smooth, distance=distance, reducer=MeanReducer()
    )
    theirs = peer(embeddings, labels, BatchHardMiner(distance=distance)(embeddings, labels))
    ours = TripletLoss(margin, "hard", distance="euclidean").on_pairs(embeddings, embeddings, pairs)
    torch.testing.assert_close(ours["loss"], theirs)


def test_on_unit_vectors_the_hinge_on_cosines_is_half_that_on_squared_distances_with_twice_the_margin() -> (
    None
):
    # d² = 2 − 2s, so d²(a, p) − d²(a, n) + 2m = 2 (s(a, n) − s(a, p) + m).
    anchors, candidates, pairs = random_batch()
    anchors.requires_grad_()
    on_cosines = TripletLoss(0.4).on_pairs(anchors, candidates, pairs)["loss"]
    on_squares = TripletLoss(0.8, distance="squared_euclidean", normalize=True).on_pairs(
        anchors, candidates, pairs
    )["loss"]
    torch.testing.assert_close(on_cosines, on_squares / 2)
    gradients = (torch.autograd.grad(loss, anchors)[0] for loss in (on_cosines, on_squares / 2))
    torch.testing.assert_close(*gradients)


def test_batch_hard_with_the_soft_margin_takes_distances_and_not_their_squares_hand_computed() -> None:
    # Positives at 1 and 3, negatives at 2 and 10: log(1 + e^(3 − 2)); squares would give log(1 + e^(9 − 4)).
    candidates = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, -2.0], [10.0, 0.0]])
    same = torch.tensor([[True, True, False, False]])
    loss = TripletLoss("soft", "hard", distance="euclidean").on_pairs(
        torch.zeros(1, 2), candidates, DensePairs(same, ~same)
    )
    assert loss["loss"].item() == pytest.approx(1.3132617)


@pytest.mark.parametrize("margin", [0.9, 1.0])
def test_no_gradient_once_the_margin_holds(margin: float) -> None:
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    same = torch.eye(2, dtype=torch.bool)
    output = TripletLoss(margin, distance="dot").on_pairs(anchors, torch.eye(2), DensePairs(same, ~same))
    output["loss"].backward()
    assert output["loss"] == output["active"] == 0
    assert not anchors.grad.any()


def test_active_average_does_not_fade_as_triplets_are_satisfied() -> None:
    # One triplet of four breaks the margin, by 0.1.
    anchors, same = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, True, False, False]])
    candidates = nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]]))
    pairs = DensePairs(same, ~same)
    assert TripletLoss(0.3).on_pairs(anchors, candidates, pairs)["loss"].item() == pytest.approx(0.1 / 4)
    assert TripletLoss(0.3, average="active").on_pairs(anchors, candidates, pairs)[
        "loss"
    ].item() == pytest.approx(0.1)


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared_euclidean", "dot"])
@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
@pytest.mark.parametrize(("margin", "plateau"), [(0.3, 0.3), ("soft", math.log(2))])
def test_a_collapsed_batch_sits_at_the_plateau(
    distance: str, mining: str, margin: float | str, plateau: float
) -> None:
    _, _, pairs = random_batch()
    vector = torch.tensor([0.3, -1.1, 0.7])
    loss = TripletLoss(margin, mining, distance=distance).on_pairs(
        vector.expand(6, 3), vector.expand(9, 3), pairs
    )["loss"]
    assert loss.item() == pytest.approx(plateau, rel=1e-6)


def test_semi_hard_takes_the_easiest_negative_where_all_are_closer_than_the_positive() -> None:
    # The positive's cosine is 0, the negatives' 0.6 and 1: 0.2 + 0.6 − 0.
    candidates = torch.tensor([[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    same = torch.tensor([[True, False, False]])
    loss = TripletLoss(0.2, "semi_hard").on_pairs(
        torch.tensor([[1.0, 0.0]]), candidates, DensePairs(same, ~same)
    )["loss"]
    assert loss.item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin must be 'soft' or above 0 and below 2.0 here, not 0.0"),
        ({"margin": 2.0}, "below 2.0"),
        ({"margin": 4.0, "distance": "squared_euclidean", "normalize": True}, "below 4.0"),
        ({"margin": math.inf, "distance": "dot"}, "below inf here, not inf"),
        ({"margin": "hard"}, "not 'hard'"),
        ({"margin": "soft", "average": "active"}, "use average 'all'"),
        ({"mining": "easy"}, "'easy' is none of all, semi_hard, hard"),
        ({"average": "mean"}, "'mean' is none of all, active"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TripletLoss(**arguments)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
@pytest.mark.parametrize(("margin", "expected"), [(0.3, 0.3), ("soft", math.log(2))])
def test_the_plateau_is_the_loss_of_one_point(mining: Any, margin: Any, expected: float) -> None:
    loss = TripletLoss(margin, mining)
    value = loss(torch.ones(6, 3), labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    assert value.item() == pytest.approx(expected)
    assert loss.plateau == expected
    for wrapped in (GuidedLoss(loss, "none"), DeduplicatedLoss(loss, "none")):
        assert wrapped.plateau == expected
