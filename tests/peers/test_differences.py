"""What docs/correctness.md says of the peers' side: each case in the fewest numbers, seen by running it.

A failure here says that a peer has changed, not that anything is wrong: take its line off the page.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.distances import CosineSimilarity
from sentence_transformers.sentence_transformer import losses as st
from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction as Apart
from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR, RetrievalPrecision

from lit_metric.losses import (
    AngularLoss,
    CircleLoss,
    DensePairs,
    InfoNCELoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NCALoss,
    TripletLoss,
)
from lit_metric.losses.scores import prepare, similarity
from tests.peers.cases import Batch, module

pytestmark = pytest.mark.peers

OPPOSITE = Batch(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1]))
"""Positives at a cosine of −1, negatives at 1."""
ONE_ALONE = Batch(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
"""The third item has no positive."""


def ours(loss: Any, given: Batch, gradient: bool = False) -> tuple[float, float]:
    """The value, and the largest entry of the gradient."""
    vectors = given.embeddings.clone().requires_grad_()
    value = loss.on_pairs(vectors, vectors, given.pairs)["loss"]
    value.backward()
    return float(value.detach()), float(vectors.grad.abs().max())


class TestPytorchMetricLearning:
    def test_nca_of_no_positive_is_nan(self) -> None:
        alone = Batch(torch.eye(3), torch.arange(3))
        assert math.isnan(pml.NCALoss()(alone.embeddings, alone.labels))
        assert ours(NCALoss(1.0), alone) == (0, 0)

    def test_nca_drops_anchors_that_are_most_wrong(self) -> None:
        theirs = pml.NCALoss(softmax_scale=100, distance=CosineSimilarity())
        assert math.isnan(theirs(OPPOSITE.embeddings, OPPOSITE.labels))
        # Two negatives, one of them at 1: log(1 + (e^100 + e^-100) / e^-100).
        assert ours(NCALoss(0.01), OPPOSITE)[0] == pytest.approx(200)

    def test_ntxent_ends_at_the_smallest_number(self) -> None:
        vectors = OPPOSITE.embeddings.clone().requires_grad_()
        theirs = pml.NTXentLoss(0.01)(vectors, OPPOSITE.labels)
        theirs.backward()
        assert theirs.item() == pytest.approx(87.3365, abs=1e-3)
        assert not vectors.grad.any()
        assert ours(InfoNCELoss(0.01), OPPOSITE)[0] == pytest.approx(200)

    def test_angular_takes_negatives_at_any_length(self) -> None:
        given = Batch(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), OPPOSITE.labels)
        longer = given._replace(embeddings=10 * given.embeddings)
        theirs = [float(pml.AngularLoss(40)(each.embeddings, each.labels)) for each in (given, longer)]
        assert theirs[1] > 5 * theirs[0]
        assert ours(AngularLoss(40.0), given)[0] == pytest.approx(ours(AngularLoss(40.0), longer)[0])

    @pytest.mark.parametrize(
        ("theirs", "loss"),
        [
            (pml.MultiSimilarityLoss(2, 10, 0.5), MultiSimilarityLoss(2, 10, 0.5, None)),
            (pml.GeneralizedLiftedStructureLoss(1), LiftedStructureLoss(1.0, normalize=True)),
        ],
    )
    def test_anchors_without_a_positive_count_there(self, theirs: Any, loss: Any) -> None:
        without = ONE_ALONE.pairs
        without.negative[2] = False  # the same batch, in which that anchor says nothing
        vectors = ONE_ALONE.embeddings
        rest = float(loss.on_pairs(vectors, vectors, without)["loss"])
        assert ours(loss, ONE_ALONE)[0] == pytest.approx(rest)
        assert float(theirs(vectors, ONE_ALONE.labels)) != pytest.approx(rest, rel=1e-2)


class TestSentenceTransformers:
    def test_a_missing_positive_has_distance_0(self) -> None:
        vectors = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.5]])
        hard = st.BatchHardTripletLoss(None, margin=1.0)
        found = hard.compute_loss_from_embeddings([vectors], torch.tensor([0, 0, 1]))
        # 1 + 3 − 0.5, 1 + 3 − √9.25, and 1 + 0 − 0.5 of the third, over all three.
        assert found.item() == pytest.approx((3.5 + 4 - math.sqrt(9.25) + 0.5) / 3, abs=1e-4)
        given = Batch(vectors, torch.tensor([0, 0, 1]))
        expected = (3.5 + 4 - math.sqrt(9.25)) / 2
        assert ours(TripletLoss(1.0, "hard", distance="euclidean"), given)[0] == pytest.approx(expected)

    def test_one_class_has_a_loss(self) -> None:
        given = Batch(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.5]]), torch.zeros(3, dtype=torch.int64))
        semi_hard = st.BatchSemiHardTripletLoss(None, margin=1.0)
        assert semi_hard.compute_loss_from_embeddings([given.embeddings], given.labels).item() > 3
        assert ours(TripletLoss(1.0, "semi_hard", distance="euclidean"), given) == (0, 0)

    def test_near_vectors_far_from_the_origin(self) -> None:
        vectors = torch.tensor([[100.0, 0.0], [100.01, 0.0]])
        true = (vectors[0].double() - vectors[1].double()).norm().item()
        assert Apart.euclidean_distance(vectors)[0, 1].item() > 3 * true
        found = -similarity(*prepare(vectors, vectors, "euclidean"), "euclidean")
        assert found[0, 1].item() == pytest.approx(true, rel=1e-4)


class TestTorchmetrics:
    @pytest.mark.parametrize(
        ("measure", "right"), [(RetrievalMAP, 0.5), (RetrievalMRR, 0.5), (RetrievalPrecision, 1 / 3)]
    )
    def test_scores_of_0_or_less_are_not_retrieved(self, measure: Any, right: float) -> None:
        scores, relevant = torch.tensor([-0.1, -0.2, -0.3]), torch.tensor([False, True, False])
        query = torch.zeros(3, dtype=torch.int64)
        assert measure()(scores, relevant, query) == 0
        assert measure()(scores + 1, relevant, query).item() == pytest.approx(right)


class TestOpenMetricLearning:
    def test_the_soft_margin_overflows(self) -> None:
        triplet = module("oml.losses.triplet").TripletLoss(None)
        anchor = torch.zeros(1, 2, requires_grad=True)
        loss = triplet(anchor, torch.tensor([[100.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        loss.backward()
        assert loss.item() == math.inf
        assert anchor.grad.isnan().any()
        same = torch.tensor([[True, False]])
        candidates = torch.tensor([[100.0, 0.0], [1.0, 0.0]])
        found = TripletLoss("soft", distance="euclidean").on_pairs(
            anchor, candidates, DensePairs(same, ~same)
        )
        assert found["loss"].item() == pytest.approx(99)

    def test_average_precision_is_over_what_was_found(self) -> None:
        measures = module("oml.functional.metrics")
        ranking = torch.tensor([True, False, False, True])
        assert float(measures.calc_map([ranking], [2], (2,))[0]) == 1.0  # of two relevant, one is found
        assert float(measures.calc_precision([ranking], [1], (2,))[0]) == 1.0  # over min(k, relevant)


class TestLightningIR:
    def test_rank_net_is_multiplied_by_its_temperature(self) -> None:
        pairwise = module("lightning_ir.loss.pairwise")
        output, batch = (
            SimpleNamespace(scores=torch.tensor([[1.0, 0.0]])),
            SimpleNamespace(targets=torch.tensor([[1.0, 0.0]])),
        )
        found = pairwise.RankNet(temperature=2).compute_loss(output, batch)
        assert found.item() == pytest.approx(math.log1p(math.exp(-2)))


class TestTensorFlowSimilarity:
    @pytest.fixture(scope="class")
    def given(self) -> tuple[Any, Any, Any]:
        tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed: make test-peers does it")
        vectors = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]]
        cosine = module("tensorflow_similarity.distances").distance_canonicalizer("cosine")
        return tf.constant([0, 0, 1, 1]), tf.constant(vectors), cosine

    def test_circle_adds_what_it_should_multiply(self, given: tuple[Any, Any, Any]) -> None:
        labels, vectors, cosine = given
        circle = module("tensorflow_similarity.losses.circle_loss").circle_loss
        found = circle(labels, vectors, labels, vectors, cosine, gamma=8.0, margin=0.4).numpy().ravel()
        # Of the first: its positive has a cosine of 0.6 = 1 − m, its negatives have 0 and −0.6.
        negatives = math.exp(8 * 0.4 * (0 - 0.4)) + math.exp(0)
        assert found[0] == pytest.approx(math.log(2) + math.log1p(negatives), rel=1e-5)
        whole = Batch(torch.tensor(vectors.numpy()), torch.tensor(labels.numpy()))
        first = DensePairs(whole.pairs.positive[:1], whole.pairs.negative[:1])
        value = CircleLoss(0.4, 8.0)(whole.embeddings[:1], whole.embeddings, first)["loss"]
        assert value.item() == pytest.approx(math.log1p(1 * negatives), rel=1e-5)

    def test_ranking_has_a_negative_of_score_0(self, given: tuple[Any, Any, Any]) -> None:
        distances = module("tensorflow_similarity.distances")
        product = distances.distance_canonicalizer("inner_product")
        loss = module("tensorflow_similarity.losses.multinegrank_loss").multineg_ranking_loss
        found = loss(given[1][:1], given[1][:1], 1.0, product).numpy().ravel()
        assert found[0] == pytest.approx(math.log(math.e + 1) - 1, rel=1e-5)  # of one pair alone: should be 0

    def test_multi_similarity_underflows(self, given: tuple[Any, Any, Any]) -> None:
        labels, vectors, cosine = given
        loss = module("tensorflow_similarity.losses.multisim_loss").multisimilarity_loss
        found = loss(labels, vectors, labels, vectors, cosine, beta=500.0, epsilon=5.0).numpy()
        assert (found == -math.inf).all()
        whole = Batch(torch.tensor(vectors.numpy()), torch.tensor(labels.numpy()))
        assert math.isfinite(ours(MultiSimilarityLoss(beta=500.0, epsilon=None), whole)[0])

    def test_soft_nearest_neighbours_end_at_a_billionth(self, given: tuple[Any, Any, Any]) -> None:
        tf = pytest.importorskip("tensorflow")
        squared = module("tensorflow_similarity.distances").distance_canonicalizer("sql2")
        loss = module("tensorflow_similarity.losses.softnn_loss").soft_nn_loss
        vectors = tf.constant(OPPOSITE.embeddings.numpy())
        found = loss(given[0], vectors, given[0], vectors, squared, 0.05).numpy()
        assert found[0] == pytest.approx(-math.log(1e-9), rel=1e-5)
        mine = ours(NCALoss(0.05, "squared_euclidean", normalize=True), OPPOSITE)[0]
        assert mine == pytest.approx(4 / 0.05, rel=1e-4)
