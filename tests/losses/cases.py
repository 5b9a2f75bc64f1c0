"""What the tests of all losses share: the list of losses, relations by label, and a random batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_metric.losses import (
    AdversarialLoss,
    AngularLoss,
    AsymmetricLoss,
    CircleLoss,
    ClassWeightedLoss,
    ContrastiveLoss,
    CoSENTLoss,
    DeduplicatedLoss,
    DensePairs,
    DistillationKLLoss,
    GuidedLoss,
    HardestHingeLoss,
    ICNNLoss,
    InfoNCELoss,
    LiftedStructureLoss,
    Loss,
    MarginMSELoss,
    MatryoshkaLoss,
    MultiSimilarityLoss,
    NCALoss,
    NoiseNegatives,
    NormRatioLoss,
    NPairLoss,
    PairLogisticLoss,
    PrototypeTripletLoss,
    PrototypicalLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftTripleLoss,
    SumLoss,
    SymmetricLoss,
    TripletLoss,
    TupletLoss,
    VectorLoss,
    WhiteningMSELoss,
)

# A new loss joins here: it is then tested for gradients, row blocks, degenerate batches, autocast and ranks.
# Keys have hyphens: -k multi_similarity of pytest finds that loss's own file alone, and -k multi-similarity
# these tests.
LOSSES: dict[str, Callable[..., VectorLoss]] = {
    "contrastive": partial(ContrastiveLoss, margin=1.5),
    "contrastive-raw-pairs": partial(ContrastiveLoss, margin=3.0, normalize=False, average="pairs"),
    "contrastive-cosine": partial(ContrastiveLoss, margin=1.0, distance="cosine"),
    "triplet-cosine": partial(TripletLoss, margin=0.5),
    "triplet-dot": partial(TripletLoss, margin=0.5, distance="dot"),
    "triplet-active": partial(TripletLoss, margin=0.5, average="active"),
    "triplet-squared": partial(TripletLoss, margin=1.0, distance="squared_euclidean", normalize=True),
    "triplet-semi-hard": partial(TripletLoss, margin=0.3, mining="semi_hard"),
    "triplet-semi-hard-active": partial(TripletLoss, margin=0.3, mining="semi_hard", average="active"),
    "triplet-hard": partial(TripletLoss, margin=0.3, mining="hard"),
    "triplet-hard-soft": partial(TripletLoss, margin="soft", mining="hard", distance="euclidean"),
    "triplet-all-soft": partial(TripletLoss, margin="soft", distance="squared_euclidean"),
    "tuplet": TupletLoss,
    "tuplet-cosine": partial(TupletLoss, distance="cosine"),
    "n-pair": partial(NPairLoss, l2=0.02),
    "info-nce": partial(InfoNCELoss, temperature=0.2),
    "info-nce-sum": partial(InfoNCELoss, temperature=0.2, positives="sum"),
    "info-nce-learned": partial(InfoNCELoss, temperature=0.2, learnable=True),
    "info-nce-euclidean": partial(InfoNCELoss, temperature=1.0, distance="euclidean", normalize=True),
    "info-nce-hard": partial(InfoNCELoss, temperature=0.5, hardness=0.7),
    "sup-con-hard": partial(InfoNCELoss, temperature=0.5, hardness=0.7, positives_in_denominator=True),
    "nca": partial(NCALoss, temperature=0.2),
    "nca-learned": partial(NCALoss, temperature=0.2, learnable=True),
    "nca-squared": partial(NCALoss, temperature=1.0, distance="squared_euclidean"),
    "multi-similarity": partial(MultiSimilarityLoss, beta=10.0, epsilon=0.2),
    "multi-similarity-all": partial(MultiSimilarityLoss, beta=10.0, epsilon=None),
    "circle": partial(CircleLoss, scale=8.0),
    "lifted": partial(LiftedStructureLoss, margin=2.0),
    "lifted-cosine": partial(LiftedStructureLoss, margin=0.5, temperature=0.2, distance="cosine"),
    "cosent": partial(CoSENTLoss, temperature=0.2),
    "cosent-squared": partial(CoSENTLoss, temperature=1.0, distance="squared_euclidean", normalize=True),
    "margin-mse": MarginMSELoss,
    "margin-mse-positives": partial(MarginMSELoss, compared="positives"),
    "distillation": partial(DistillationKLLoss, temperature=0.7),
    "distillation-cosine": partial(DistillationKLLoss, temperature=0.1, distance="cosine"),
    "pair-logistic": partial(PairLogisticLoss, temperature=0.3),
    "pair-logistic-learned": partial(PairLogisticLoss, temperature=0.3, learnable=True, distance="dot"),
    "pair-logistic-ranks": partial(PairLogisticLoss, "reciprocal_rank", temperature=0.3),
    "pair-logistic-adore": partial(
        PairLogisticLoss, "reciprocal_rank", temperature=0.3, average="pairs", cut=3
    ),
    "angular": partial(AngularLoss, angle=36.0),
    "angular-dot": partial(AngularLoss, angle=20.0, distance="dot"),
    "asymmetric": partial(AsymmetricLoss, positive_focus=1.0, temperature=0.4, bias=-0.5),
    "asymmetric-cross-entropy": partial(
        AsymmetricLoss, negative_focus=0.0, temperature=0.4, bias=-0.5, learnable=False
    ),
    "hardest-hinge": partial(HardestHingeLoss, margin=0.5, hardest=2, temperature=0.5),
    "norm-ratio": NormRatioLoss,
    "whitening-mse": partial(WhiteningMSELoss, epsilon=0.1),
    "sup-con": partial(InfoNCELoss, temperature=0.2, positives_in_denominator=True),
}

# Losses that need classes and not pairs; they are tested alike, by test_proxies.py and over ranks.
CLASS_LOSSES: dict[str, Callable[..., Loss]] = {
    "proxy-nca": partial(ProxyNCALoss, temperature=0.5),
    "proxy-nca-others": partial(ProxyNCALoss, temperature=0.5, denominator="others", distance="cosine"),
    "proxy-anchor": partial(ProxyAnchorLoss, scale=4.0),
    "soft-triple": partial(SoftTripleLoss, centres=3, scale=5.0, gamma=0.5),
}

# Losses that compare anchors with the means of classes; they have tests of their own, and these over ranks.
PROTOTYPE_LOSSES: dict[str, Callable[..., Loss]] = {
    "prototypical": partial(PrototypicalLoss, temperature=0.5, learnable=True),
    "prototype-triplet": partial(PrototypeTripletLoss, margin=3.0),
}

# Losses of which weights change nothing; they have tests of their own, and these over ranks.
UNWEIGHTED_LOSSES: dict[str, Callable[..., Loss]] = {"icnn": partial(ICNNLoss, neighbours=3)}


def combination(name: str, block_rows: int = 1024) -> Loss:
    """Losses made of losses, for the tests over ranks; they have tests of their own besides."""
    near = InfoNCELoss(0.3, learnable=True, block_rows=block_rows)
    proxies = ProxyAnchorLoss(scale=4.0, block_rows=block_rows)
    if name == "class-weighted":
        return ClassWeightedLoss(near, beta=0.5)
    if name == "guided":
        return GuidedLoss(near, "not loaded here", threshold=0.6)
    if name.startswith("deduplicated"):
        linkage: Any = "complete" if name.endswith("complete") else "single"
        return DeduplicatedLoss(near, "not loaded here", threshold=0.8, linkage=linkage)
    if name == "noise":
        return NoiseNegatives(near, noise=1.5, step_size=0.1)
    if name == "adversarial":
        return AdversarialLoss(near)
    if name == "symmetric":
        return SymmetricLoss(near)
    if name == "symmetric-guided":
        return SymmetricLoss(GuidedLoss(ClassWeightedLoss(near, beta=0.5), "not loaded here", None, 0.1))
    both = SumLoss({"near": near, "own": proxies}, {"own": 0.5})
    return both if name == "sum" else MatryoshkaLoss(both, [4, 2], [1.0, 0.3])


COMBINED = (
    *("sum", "matryoshka", "class-weighted", "guided", "symmetric", "symmetric-guided"),
    *("noise", "adversarial", "deduplicated", "deduplicated-complete"),
)
COMBINATIONS: dict[str, Callable[..., Loss]] = {name: partial(combination, name) for name in COMBINED}

# They weigh pairs by numbers through which no gradient passes, which finite differences don't know.
WEIGHED_WITHOUT_GRADIENT = ("circle", "asymmetric", "hardest-hinge")

# They learn from an anchor's positives alone, and from its negatives alone.
LEARN_FROM_ONE_KIND = (
    *(name for name in LOSSES if name.startswith("contrastive")),
    "margin-mse",
    "distillation",
    "distillation-cosine",
    "asymmetric",
    "asymmetric-cross-entropy",
)

# They learn from an anchor's positives alone, and not from its negatives.
LEARN_FROM_POSITIVES = "norm-ratio", "whitening-mse"

# They look at all vectors of a batch, also at those that are in no pair.
USE_WHOLE_BATCHES = ("whitening-mse",)

# They compare scores with a number, and not only with each other: the same bias of all pairs changes them.
COMPARE_WITH_A_NUMBER = tuple(
    name
    for name in LOSSES
    if name.startswith(("contrastive", "multi-similarity", "circle", "asymmetric", "whitening"))
)


class Labels:
    """Relations by equality of labels; an item is never its own positive, nor its own negative.

    A quarter of all pairs is judged, by one of seven scores that don't go with the labels.
    """

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        same = self.labels[anchors][:, None] == self.labels[candidates]
        return same & (anchors[:, None] != candidates)

    def excluded(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        return self.labels[anchors][:, None] == self.labels[candidates]

    def targets(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        anchors = anchors[:, None]
        judged = ((anchors + candidates) % 4 == 0) & (anchors != candidates)
        return ((3 * anchors + 5 * candidates) % 7 / 7).masked_fill(~judged, torch.nan)


def random_batch(
    anchors: int = 6,
    candidates: int = 9,
    dimension: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, DensePairs]:
    """Random vectors, and masks with ignored pairs: the first anchor has no positive, the second no negative,
    the third nothing, all others at least one of each; the numbers differ from row to row.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = torch.rand(anchors, candidates, generator=generator)
    kind[:, 0], kind[:, 1] = 0.0, 1.0
    positive, negative = kind < 0.35, kind > 0.5
    positive[0] = positive[2] = negative[1] = negative[2] = False
    return (
        torch.randn(anchors, dimension, generator=generator, dtype=dtype),
        torch.randn(candidates, dimension, generator=generator, dtype=dtype),
        DensePairs(positive, negative),
    )


def random_weights(pairs: DensePairs, seed: int = 1) -> Tensor:
    """Weights between 0 and 2, of which a fifth are 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = 2 * torch.rand(pairs.positive.shape, generator=generator, dtype=torch.float64)
    return weight * (torch.rand(weight.shape, generator=generator) > 0.2)


def labelled_batch(labels: list[int], dimension: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, DensePairs]:
    """One list of items that are anchors and candidates alike: ``(embeddings, labels, pairs)``."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(len(labels), dimension, generator=generator, dtype=torch.float64)
    classes = torch.tensor(labels)
    same = classes[:, None] == classes
    itself = torch.eye(len(labels), dtype=torch.bool)
    return embeddings, classes, DensePairs(same & ~itself, ~same)


def cosines(anchors: Tensor, candidates: Tensor) -> Tensor:
    """An independent way to the cosine."""
    return torch.nn.functional.cosine_similarity(anchors[:, None], candidates[None], dim=-1)


def rows_of(pairs: DensePairs) -> list[tuple[int, list[int], list[int]]]:
    """``(anchor, its positives, its negatives)`` as plain lists, for naive loops."""
    return [
        (
            row,
            pairs.positive[row].nonzero().flatten().tolist(),
            pairs.negative[row].nonzero().flatten().tolist(),
        )
        for row in range(len(pairs.positive))
    ]
