"""Losses of tensorflow-similarity, on the same random batches, with TensorFlow's gradients."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lit_metric.losses import InfoNCELoss, Loss, MultiSimilarityLoss, NCALoss, TripletLoss
from tests.peers.cases import KINDS, agree, batch, module, seeds

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed: make test-peers installs it")

PEER = "tensorflow-similarity"
triplet = module("tensorflow_similarity.losses.triplet_loss")
multi = module("tensorflow_similarity.losses.multisim_loss")
neighbours = module("tensorflow_similarity.losses.softnn_loss")
simclr = module("tensorflow_similarity.losses.simclr")
distances = module("tensorflow_similarity.distances")


class FromTensorFlow(torch.autograd.Function):
    """The mean of what a function of TensorFlow gives."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, function: Callable[[Any], Any]) -> Tensor:
        variable = tf.Variable(vectors.detach().numpy())
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(function(variable))
        ctx.save_for_backward(torch.from_numpy(tape.gradient(value, variable).numpy()))
        return torch.from_numpy(value.numpy().reshape(1))[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * gradients[0], None


class Case(NamedTuple):
    """A loss in both libraries.

    Attributes:
        theirs: takes labels and vectors, and gives one value an anchor; vectors have unit length.
    """

    ours: Loss
    theirs: Callable[[Any, Any], Any]


def triplets(name: str, margin: float | None) -> Callable[[Any, Any], Any]:
    distance = distances.distance_canonicalizer(name)
    return lambda labels, vectors: triplet.triplet_loss(
        labels, vectors, labels, vectors, distance, True, "hard", "hard", margin
    )


def multi_similarity(labels: Any, vectors: Any) -> Any:
    # An epsilon larger than any difference of cosines keeps all pairs.
    cosine = distances.distance_canonicalizer("cosine")
    return multi.multisimilarity_loss(
        labels, vectors, labels, vectors, cosine, alpha=2.0, beta=10.0, epsilon=5.0, lmda=0.5
    )


def soft_nearest(labels: Any, vectors: Any) -> Any:
    squared = distances.distance_canonicalizer("sql2")
    return neighbours.soft_nn_loss(labels, vectors, labels, vectors, squared, 0.5)


CASES = {
    "TripletLoss, hard": Case(TripletLoss(0.2, "hard"), triplets("cosine", 0.2)),
    "TripletLoss, soft": Case(TripletLoss("soft", "hard"), triplets("cosine", None)),
    "TripletLoss, euclidean": Case(
        TripletLoss(0.3, "hard", distance="euclidean", normalize=True), triplets("euclidean", 0.3)
    ),
    "MultiSimilarityLoss": Case(MultiSimilarityLoss(2.0, 10.0, 0.5, None), multi_similarity),
    "NCALoss": Case(NCALoss(0.5, "squared_euclidean", normalize=True), soft_nearest),
}


@seeds(quick=2, full=15)
@pytest.mark.parametrize("name", CASES)
def test_losses(name: str, seed: int) -> None:
    case = CASES[name]
    for kind in KINDS:
        given = batch(kind, seed, torch.float32)
        # Its triplet losses take anchors without a positive too, as negatives pushed away from nothing. The
        # scores of vectors that nearly coincide cancel in float32, and a share of 1e-9 is added to.
        if given.ties or not given.whole or kind == "nearly one point":
            continue
        labels = tf.constant(given.labels.numpy())

        def theirs(vectors: Tensor, labels: Any = labels) -> Tensor:
            unit = nn.functional.normalize(vectors, dim=1)
            return FromTensorFlow.apply(unit, lambda variable: case.theirs(labels, variable))

        agree(
            PEER,
            name.split(",")[0],
            lambda e, given=given: case.ours.on_pairs(e, e, given.pairs)["loss"],
            theirs,
            [given.embeddings],
            rtol=1e-2 if "euclidean" in name else None,
        )


@seeds(quick=2, full=15)
def test_two_views(seed: int) -> None:
    given = batch("pairs", seed, torch.float32)
    half = len(given.labels) // 2
    loss = simclr.SimCLRLoss(temperature=0.2)
    agree(
        PEER,
        "InfoNCELoss",  # the peer adds up what the two sides give
        lambda e: 2 * InfoNCELoss(0.2).on_pairs(e, e, given.pairs)["loss"],
        lambda e: FromTensorFlow.apply(e, lambda vectors: loss.call(vectors[:half], vectors[half:])),
        [given.embeddings],
    )
