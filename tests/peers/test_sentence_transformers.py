"""Losses and poolings of sentence-transformers, on the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction as Apart
from sentence_transformers.sentence_transformer.losses import SiameseDistanceMetric, TripletDistanceMetric
from sentence_transformers.sentence_transformer.modules import Pooling as PeerPooling
from sentence_transformers.util import dot_score, pairwise_cos_sim
from torch import Tensor, nn

from lit_metric.data import Ragged
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
from tests.peers.cases import DTYPES, KINDS, agree, batch, seeds

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
            lambda e, case=case, given=given: case.ours.on_pairs(e, e, given.pairs)["loss"],
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
                lambda first, *rest, pairs=pairs: case.ours.on_pairs(first, torch.cat(rest), pairs)["loss"],
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
                    lambda a, b, pairs=pairs, t=temperature: CoSENTLoss(t).on_pairs(a, b, pairs)["loss"],
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
            lambda a, b, pairs=pairs, loss=loss: loss.on_pairs(a, b, pairs)["loss"] / 2,
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
            lambda first, *rest, pairs=pairs, ours=ours: ours.on_pairs(first, torch.cat(rest), pairs)["loss"],
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
