"""Losses, miners, samplers and measures of pytorch-metric-learning, on the same random batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from pytorch_metric_learning import losses as peer
from pytorch_metric_learning.distances import BaseDistance, CosineSimilarity, DotProductSimilarity, LpDistance
from pytorch_metric_learning.miners import BatchHardMiner, MultiSimilarityMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, DoNothingReducer, MeanReducer
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch import Tensor, nn
from torch.func import functional_call

from lit_metric.batching import PKPlanner
from lit_metric.data import LabelRelations
from lit_metric.losses import (
    AngularLoss,
    CircleLoss,
    ContrastiveLoss,
    DensePairs,
    InfoNCELoss,
    LiftedStructureLoss,
    Loss,
    LossContext,
    MultiSimilarityLoss,
    NCALoss,
    NPairLoss,
    ProxyAnchorLoss,
    ProxyLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    TripletLoss,
)
from lit_metric.metrics import NeighbourMetrics
from tests.metrics.items import SameClass, clustered
from tests.peers.cases import DTYPES, KINDS, Batch, agree, batch, count, seeds

PEER = "pytorch-metric-learning"
NO_POSITIVE = ("all different", "two items")
OF_EVERY_ANCHOR = "an anchor without a positive counts there"
ByLabels = Callable[[Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """One loss in both libraries.

    Attributes:
        ours: ours.
        theirs: takes embeddings and labels.
        differs: why the two part where some anchor has no positive or no negative; None where they don't.
        gradient: whether gradients are the same by definition.
        within: kinds of batches that the peer can't compute.
    """

    ours: Loss
    theirs: ByLabels
    differs: str | None = None
    gradient: bool = True
    without: tuple[str, ...] = ()


def by_anchor(loss: Any) -> ByLabels:
    """The mean over an anchor's positives, then over anchors, of what the peer gives each positive pair."""

    def value(embeddings: Tensor, labels: Tensor) -> Tensor:
        found = loss(embeddings, labels)["loss"]
        if not torch.is_tensor(found["losses"]):
            return embeddings.sum() * 0
        anchors = found["indices"][0]
        sums = torch.zeros(len(labels), dtype=embeddings.dtype).index_add(0, anchors, found["losses"])
        numbers = torch.bincount(anchors, minlength=len(labels))
        return (sums / numbers.clamp_min(1)).sum() / (numbers > 0).sum()

    return value


def squared(loss: Any) -> ByLabels:
    """The peer's hinges on distances, squared: the mean over positive pairs plus that over negative ones."""

    def value(embeddings: Tensor, labels: Tensor) -> Tensor:
        parts = [part["losses"] for part in loss(embeddings, labels).values()]
        means = [part.square().mean() for part in parts if torch.is_tensor(part) and part.numel()]
        return sum(means, embeddings.sum() * 0)

    return value


def mined(loss: Any, miner: Any) -> ByLabels:
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def on_unit_vectors(loss: Any) -> ByLabels:
    return lambda embeddings, labels: loss(nn.functional.normalize(embeddings, dim=1), labels)


def triplets(
    distance: BaseDistance, margin: float, reducer: type, normalize: bool = False, name: str = "cosine"
) -> Case:
    average = "active" if reducer is AvgNonZeroReducer else "all"
    ours = TripletLoss(margin, average=average, distance=name, normalize=normalize)
    return Case(ours, peer.TripletMarginLoss(margin, distance=distance, reducer=reducer()))


RAW, UNIT = LpDistance(normalize_embeddings=False), LpDistance()
DOT = DotProductSimilarity(normalize_embeddings=False)
EACH = DoNothingReducer
CASES: dict[str, Case] = {
    "TripletLoss": triplets(CosineSimilarity(), 0.3, MeanReducer),
    "TripletLoss, active": triplets(CosineSimilarity(), 0.3, AvgNonZeroReducer),
    "TripletLoss, dot": triplets(DOT, 0.7, MeanReducer, name="dot"),
    "TripletLoss, euclidean": triplets(RAW, 0.5, MeanReducer, name="euclidean"),
    "TripletLoss, unit": triplets(UNIT, 0.3, AvgNonZeroReducer, True, "euclidean"),
    "TripletLoss, squared": triplets(LpDistance(power=2), 0.3, MeanReducer, True, "squared_euclidean"),
    "TripletLoss, soft": Case(
        TripletLoss("soft", distance="euclidean"),
        peer.TripletMarginLoss(0, distance=RAW, smooth_loss=True, reducer=MeanReducer()),
    ),
    "TripletLoss, hard": Case(
        TripletLoss(0.5, "hard", distance="euclidean"),
        mined(peer.TripletMarginLoss(0.5, distance=RAW, reducer=MeanReducer()), BatchHardMiner(distance=RAW)),
    ),
    "TripletLoss, hard cosine": Case(
        TripletLoss(0.2, "hard"),
        mined(
            peer.TripletMarginLoss(0.2, distance=CosineSimilarity(), reducer=MeanReducer()),
            BatchHardMiner(distance=CosineSimilarity()),
        ),
    ),
    "TripletLoss, hard soft": Case(
        TripletLoss("soft", "hard", distance="euclidean"),
        mined(
            peer.TripletMarginLoss(0, distance=RAW, smooth_loss=True, reducer=MeanReducer()),
            BatchHardMiner(distance=RAW),
        ),
    ),
    "ContrastiveLoss": Case(
        ContrastiveLoss(0.8), squared(peer.ContrastiveLoss(0, 0.8, distance=UNIT, reducer=EACH()))
    ),
    "ContrastiveLoss, raw": Case(
        ContrastiveLoss(2.0, normalize=False),
        squared(peer.ContrastiveLoss(0, 2.0, distance=RAW, reducer=EACH())),
    ),
    "InfoNCELoss": Case(InfoNCELoss(0.2), by_anchor(peer.NTXentLoss(0.2, reducer=EACH()))),
    "InfoNCELoss, dot": Case(
        InfoNCELoss(1.0, distance="dot"),
        by_anchor(peer.NTXentLoss(1.0, distance=DOT, reducer=EACH())),
        # e^(l_p - l_n) of inner products of thousands is 0 there, to which the smallest number is added.
        without=("large norms",),
    ),
    "InfoNCELoss, euclidean": Case(
        InfoNCELoss(0.5, distance="euclidean"),
        by_anchor(peer.NTXentLoss(0.5, distance=RAW, reducer=EACH())),
        without=("large norms",),
    ),
    "InfoNCELoss, SupCon": Case(InfoNCELoss(0.2, positives_in_denominator=True), peer.SupConLoss(0.2)),
    "NCALoss": Case(NCALoss(0.5, "squared_euclidean", normalize=True), peer.NCALoss(2), without=NO_POSITIVE),
    "NCALoss, cosine": Case(NCALoss(0.1), peer.NCALoss(10, distance=CosineSimilarity()), without=NO_POSITIVE),
    "MultiSimilarityLoss": Case(
        MultiSimilarityLoss(2, 10, 0.5, None), peer.MultiSimilarityLoss(2, 10, 0.5), OF_EVERY_ANCHOR
    ),
    "MultiSimilarityLoss, mined": Case(
        MultiSimilarityLoss(2, 50, 0.5, 0.1),
        mined(peer.MultiSimilarityLoss(2, 50, 0.5), MultiSimilarityMiner(0.1)),
        OF_EVERY_ANCHOR,
    ),
    "CircleLoss": Case(CircleLoss(0.3, 16.0), peer.CircleLoss(0.3, 16.0)),
    "CircleLoss, faces": Case(CircleLoss(0.25, 256.0), peer.CircleLoss(0.25, 256.0)),
    "LiftedStructureLoss": Case(
        LiftedStructureLoss(1.0, normalize=True), peer.GeneralizedLiftedStructureLoss(1), OF_EVERY_ANCHOR
    ),
    "LiftedStructureLoss, raw": Case(
        LiftedStructureLoss(1.0),
        peer.GeneralizedLiftedStructureLoss(1, distance=RAW),
        OF_EVERY_ANCHOR,
    ),
    # The peer scales anchors and positives to unit length, but not negatives.
    "AngularLoss": Case(AngularLoss(40.0), on_unit_vectors(peer.AngularLoss(40))),
    "AngularLoss, tight": Case(AngularLoss(25.0), on_unit_vectors(peer.AngularLoss(25))),
}


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_losses(name: str, dtype: torch.dtype, seed: int) -> None:
    case = CASES[name]
    for kind in KINDS:
        given = batch(kind, seed, dtype)
        if kind in case.without or (case.differs and not given.whole):
            continue
        agree(
            PEER,
            name.split(",")[0],
            lambda embeddings, case=case, given=given: case.ours.on_pairs(
                embeddings, embeddings, given.pairs
            )["loss"],
            lambda embeddings, case=case, given=given: case.theirs(embeddings, given.labels),
            [given.embeddings],
            gradient=case.gradient and not given.ties,
        )


class OfClasses(NamedTuple):
    """A loss with learned proxies in both libraries.

    Attributes:
        ours: makes ours.
        theirs: makes theirs, for a number of classes and a dimension.
        name: of the parameter that holds their proxies.
        turned: whether they stand in its columns.
    """

    ours: Callable[[], ProxyLoss]
    theirs: Callable[[int, int], Any]
    name: str = "proxies"
    turned: bool = False


PROXIES = {
    "ProxyNCALoss": OfClasses(
        lambda: ProxyNCALoss(0.25), lambda classes, d: peer.ProxyNCALoss(classes, d, softmax_scale=4)
    ),
    "ProxyNCALoss, cosine": OfClasses(
        lambda: ProxyNCALoss(0.1, distance="cosine"),
        lambda classes, d: peer.ProxyNCALoss(classes, d, softmax_scale=10, distance=CosineSimilarity()),
    ),
    "ProxyNCALoss, softmax": OfClasses(
        lambda: ProxyNCALoss(0.05, distance="cosine"),
        lambda classes, d: peer.NormalizedSoftmaxLoss(classes, d, temperature=0.05),
        name="W",
        turned=True,
    ),
    "ProxyAnchorLoss": OfClasses(
        lambda: ProxyAnchorLoss(0.1, 32.0), lambda classes, d: peer.ProxyAnchorLoss(classes, d, 0.1, 32)
    ),
    "SoftTripleLoss": OfClasses(
        lambda: SoftTripleLoss(3, 20.0, 0.125, 2**-7, tau=0.0),
        lambda classes, d: peer.SoftTripleLoss(classes, d, 3, la=20, gamma=0.125, margin=2**-7),
        name="fc",
        turned=True,
    ),
}


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PROXIES)
def test_losses_with_proxies(name: str, dtype: torch.dtype, seed: int) -> None:
    case = PROXIES[name]
    for kind in KINDS:
        given = batch(kind, seed, dtype)
        classes = max(int(given.labels.max()) + 1, 2)
        loss, theirs = case.ours(), case.theirs(classes, given.embeddings.shape[1])
        loss.setup(LossContext(given.embeddings.shape[1], torch.ones(classes, dtype=torch.int64)))
        assert loss.proxies is not None
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(loss.proxies.shape, generator=generator, dtype=torch.float64).to(dtype)

        def ours(embeddings: Tensor, proxies: Tensor, loss: Any = loss, given: Batch = given) -> Tensor:
            return functional_call(loss, {"proxies": proxies}, (embeddings,), {"labels": given.labels})

        def other(embeddings: Tensor, proxies: Tensor, theirs: Any = theirs, given: Batch = given) -> Tensor:
            delattr(theirs, case.name)
            setattr(theirs, case.name, proxies.T if case.turned else proxies)
            theirs.cast_types = lambda *_: None
            return theirs(embeddings, given.labels)

        inputs = [given.embeddings, start]
        agree(PEER, name.split(",")[0], ours, other, inputs, gradient=not given.ties)


@seeds()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distance", [DOT, CosineSimilarity()], ids=["dot", "cosine"])
def test_n_pairs(distance: BaseDistance, dtype: torch.dtype, seed: int) -> None:
    given = batch("pairs", seed, dtype)
    first = torch.arange(len(given.labels) // 2)
    second, nothing = first + len(first), first[:0]
    same = torch.eye(len(first), dtype=torch.bool)
    loss = NPairLoss(0.0) if distance is DOT else InfoNCELoss(1.0)
    theirs = peer.NPairsLoss(distance=distance)
    agree(
        PEER,
        "NPairLoss",
        lambda e: loss.on_pairs(e[first], e[second], DensePairs(same, ~same))["loss"],
        lambda e: theirs(e, given.labels, (first, second, nothing, nothing)),
        [given.embeddings],
    )


@seeds(quick=2)
def test_measures_of_search(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(20, 120, (), generator=generator))
    vectors, labels = clustered(n, classes=2 + seed % 6, seed=seed)
    searched = int(torch.randint(1, n, (), generator=generator)) if seed % 2 else 0
    calculator = AccuracyCalculator(
        include=(
            "precision_at_1",
            "r_precision",
            "mean_average_precision_at_r",
            "mean_average_precision",
            "mean_reciprocal_rank",
        ),
        k=None if searched else "max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
    )
    metric = NeighbourMetrics(SameClass(labels), ks=(1,), graded=(n,))
    if searched:  # queries and a corpus
        metric.update(vectors[:searched], torch.arange(searched))
        metric.update(vectors[searched:], torch.arange(searched, n), corpus=True)
        arguments = vectors[:searched], labels[:searched], vectors[searched:], labels[searched:]
        theirs = calculator.get_accuracy(*arguments, ref_includes_query=False)
    else:
        metric.update(vectors, torch.arange(n))
        theirs = calculator.get_accuracy(vectors, labels)
    found = {name: float(value) for name, value in metric.compute().items()}
    names = {"r_precision": "r_precision", "mean_average_precision_at_r": "map@r"}
    if searched:  # elsewhere it cuts the ranking at the size of the largest class
        names |= {"mean_reciprocal_rank": "mrr", "mean_average_precision": f"map@{n}"}
    for their, our in names.items():
        assert found[our] == pytest.approx(theirs[their], abs=1e-6), our
        count(PEER, our.split("@")[0])
    assert found["hit_rate@1"] == pytest.approx(theirs["precision_at_1"], abs=1e-6)
    count(PEER, "hit_rate@1")


def well_formed(batches: list[list[int]], labels: list[int], classes: int, per_class: int) -> None:
    for items in batches:
        counts = Counter(labels[item] for item in items)
        assert len(counts) == classes
        assert set(counts.values()) == {per_class}


@seeds(quick=2)
def test_batches_of_classes(seed: int) -> None:
    labels = torch.arange(12).repeat(6)[torch.randperm(72, generator=torch.Generator().manual_seed(seed))]
    relations = LabelRelations(labels, [str(number) for number in range(12)], torch.arange(72))
    plan = PKPlanner(4, 3).plan(torch.arange(72), relations, seed, 0)
    ours = plan.anchors.tolist()
    theirs = [*MPerClassSampler(labels, 3, batch_size=12, length_before_new_iter=72)]
    for batches in (ours, [theirs[start : start + 12] for start in range(0, 72, 12)]):
        well_formed(batches, labels.tolist(), 4, 3)
    # Ours goes through all items once; the peer draws each batch by itself.
    assert sorted(item for items in ours for item in items) == [*range(72)]
    count(PEER, "PKPlanner", len(ours))
