"""Losses as any training script calls them, and the pairs behind: labels, scores, both directions, biases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytorch_metric_learning.losses as peer
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from sentence_transformers.sentence_transformer.losses import CoSENTLoss as PeerCoSENT
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from torch import Tensor

from lit_metric.losses import (
    CircleLoss,
    ClassWeightedLoss,
    CoSENTLoss,
    DensePairs,
    DistillationKLLoss,
    GuidedLoss,
    InfoNCELoss,
    LabelPairs,
    LiftedStructureLoss,
    Loss,
    LossContext,
    MarginMSELoss,
    MetricLoss,
    MultiSimilarityLoss,
    NPairLoss,
    Pairs,
    ProxyAnchorLoss,
    ProxyNCALoss,
    RelationPairs,
    SumLoss,
    SymmetricLoss,
    TripletLoss,
    VectorLoss,
)
from tests.losses.cases import (
    CLASS_LOSSES,
    COMBINATIONS,
    COMPARE_WITH_A_NUMBER,
    LOSSES,
    Labels,
    labelled_batch,
    random_batch,
    random_weights,
)

LABELS = [0, 0, 0, 1, 1, 2, 2, 3]
EVERY_LOSS = {**LOSSES, **CLASS_LOSSES, **{name: COMBINATIONS[name] for name in ("sum", "symmetric")}}


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_labels_are_the_batch_of_a_learner(name: str) -> None:
    embeddings, labels, _ = labelled_batch(LABELS)
    loss = EVERY_LOSS[name]().double()
    loss.setup(LossContext(5, torch.bincount(labels)))
    loss.double()
    ids = torch.arange(len(labels))
    pairs = RelationPairs(Labels(labels), ids, ids, anchor_labels=labels, candidate_labels=labels)
    if loss.requires_scores:  # without any, a positive counts as 1 and a negative as 0
        masks = pairs.rows(0, len(labels))
        pairs = DensePairs(masks.positive, masks.negative)  # type: ignore[assignment]
    embeddings.requires_grad_()
    value, expected = loss(embeddings, labels=labels), loss.on_pairs(embeddings, embeddings, pairs)["loss"]
    assert value.shape == ()
    assert torch.equal(value, expected)
    assert torch.equal(*(torch.autograd.grad(each, embeddings)[0] for each in (value, expected)))


PEERS: dict[str, tuple[Loss, Callable[..., Tensor]]] = {
    "sup-con": (InfoNCELoss(0.2, positives_in_denominator=True), peer.SupConLoss(0.2)),
    "triplet": (TripletLoss(0.3, average="active"), peer.TripletMarginLoss(0.3, distance=CosineSimilarity())),
    "multi-similarity": (MultiSimilarityLoss(2.0, 10.0, 0.4, None), peer.MultiSimilarityLoss(2, 10, 0.4)),
    "circle": (CircleLoss(0.4, 8.0), peer.CircleLoss(0.4, 8)),
    "lifted": (LiftedStructureLoss(normalize=True), peer.GeneralizedLiftedStructureLoss()),
}


@pytest.mark.parametrize("name", PEERS)
def test_pytorch_metric_learning_called_alike(name: str) -> None:
    embeddings, labels, _ = labelled_batch(LABELS[:-1])  # all have a positive
    ours, theirs = PEERS[name]
    torch.testing.assert_close(ours(embeddings, labels=labels), theirs(embeddings, labels))


class Given(torch.nn.Module):
    """Embeddings in place of a model of sentence-transformers."""

    def __init__(self, embeddings: list[Tensor]) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, features: dict) -> dict:
        return {"sentence_embedding": self.embeddings[features["side"]]}


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_pairs_and_negatives_are_multiple_negatives_ranking(negatives: int) -> None:
    columns = [draws(6, 4, seed=seed) for seed in range(2 + negatives)]
    theirs = MultipleNegativesRankingLoss(Given(columns), scale=5.0)
    features = [{"side": side} for side in range(len(columns))]
    given = torch.stack(columns[2:], dim=1) if negatives else None
    loss = InfoNCELoss(1 / 5.0)
    torch.testing.assert_close(loss(*columns[:2], given), theirs(features, None))
    if given is not None:  # whose negatives they are makes no difference
        assert torch.equal(loss(*columns[:2], given.reshape(-1, 4)), loss(*columns[:2], given))


def test_both_directions_are_the_symmetric_ranking_loss() -> None:
    columns = [draws(6, 4, seed=seed) for seed in range(2)]
    theirs = MultipleNegativesSymmetricRankingLoss(Given(columns), scale=5.0)
    found = SymmetricLoss(InfoNCELoss(1 / 5.0))(*columns)
    torch.testing.assert_close(found, theirs([{"side": 0}, {"side": 1}], None))


def test_scores_of_pairs() -> None:
    first, second, scores = draws(7, 4), draws(7, 4, seed=1), draws(7, seed=2)
    theirs = PeerCoSENT(Given([first, second]), scale=20.0)
    expected = theirs([{"side": 0}, {"side": 1}], scores)
    torch.testing.assert_close(CoSENTLoss(1 / 20)(first, second, scores=scores), expected)


@pytest.mark.parametrize("compared", ["all", "positives"])
def test_a_teacher_s_scores_of_an_anchor_s_own_candidates(compared: str) -> None:
    anchors, positives, negatives, teacher = draws(3, 4), draws(3, 4, seed=1), draws(3, 2, 4), draws(3, 3)
    own = torch.cat([positives[:, None], negatives], dim=1)
    errors = (anchors[:, None] * own).sum(dim=2) - teacher
    couples = [(0, 1), (0, 2)] if compared == "positives" else [(0, 1), (0, 2), (1, 2)]
    terms = [(errors[row, i] - errors[row, j]) ** 2 for row in range(3) for i, j in couples]
    found = MarginMSELoss(compared)(anchors, positives, negatives, scores=teacher)
    torch.testing.assert_close(found, sum(terms) / len(terms))
    student, wanted = (errors + teacher).log_softmax(dim=1), teacher.log_softmax(dim=1)
    divergence = torch.nn.functional.kl_div(student, wanted, log_target=True, reduction="batchmean")
    found = DistillationKLLoss()(anchors, positives, negatives, scores=teacher)
    torch.testing.assert_close(found, divergence)


def test_it_trains() -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Linear(6, 4)
    features, labels = torch.randn(24, 6), torch.arange(24) % 3
    features += 0.5 * torch.nn.functional.one_hot(labels, 6)
    loss = SumLoss({"near": InfoNCELoss(0.2, learnable=True), "own": ProxyAnchorLoss(scale=4.0)})
    loss.setup(LossContext(4, torch.bincount(labels)))
    optimizer = torch.optim.Adam([*encoder.parameters(), *loss.parameters()], lr=0.05)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(encoder(features), labels=labels)
        value.backward()
        optimizer.step()
        loss.after_step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


def test_what_cannot_be_meant_is_refused() -> None:
    vectors, labels, loss = torch.eye(3), torch.tensor([0, 0, 1]), InfoNCELoss()
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    for arguments, options, error, message in [
        (
            (vectors,),
            {},
            ValueError,
            r"call loss\(embeddings, labels=labels\), or loss\(anchors, positives\)",
        ),
        ((vectors, vectors), {"labels": labels}, ValueError, r"loss\(anchors, positives\) without labels"),
        ((vectors,), {"labels": labels[:2]}, ValueError, r"give labels \[3\], one for each embedding"),
        ((vectors, None, vectors), {"labels": labels}, ValueError, "and no negatives"),
        ((vectors, vectors[:2]), {}, ValueError, r"anchors \[3, 3\] and positives \[2, 3\] must be \[n, d\]"),
        ((vectors, vectors, vectors[:, :2]), {}, ValueError, r"negatives \[3, 2\] \[m, d\] or \[n, k, d\]"),
        ((vectors, vectors), {"scores": labels}, ValueError, "InfoNCELoss takes no scores here"),
        ((vectors, vectors, DensePairs(nothing, nothing)), {}, TypeError, r"call loss.on_pairs\("),
    ]:
        with pytest.raises(error, match=message):
            loss(*arguments, **options)
    for scores in (torch.ones(2), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"must be \[3, 1\], one for the positive"):
            CoSENTLoss()(vectors, vectors, scores=scores)
    proxies = ProxyNCALoss()
    proxies.setup(LossContext(3, torch.ones(2)))
    with pytest.raises(ValueError, match=r"needs the classes \[3\] of anchors, got none; call loss\("):
        proxies.on_pairs(vectors, vectors, DensePairs(nothing, nothing))
    guided = GuidedLoss(InfoNCELoss(), "none")
    guided.setup(LossContext(3, encode=lambda _: vectors))
    with pytest.raises(ValueError, match="LabelPairs has none; use RelationPairs"):
        guided(vectors, labels=labels)
    with pytest.raises(ValueError, match="ProxyAnchorLoss compares anchors with learned proxies"):
        SymmetricLoss(SumLoss({"own": ProxyAnchorLoss()}))


def every_kind_of_pairs() -> dict[str, Pairs]:
    _, _, dense = random_batch()
    labels, ids, others = torch.arange(14) % 3, torch.arange(6), torch.arange(4, 13)
    mined = torch.tensor([[4, 9], [-1, -1], [12, 5], [7, -1], [8, 6], [10, 10]])
    target, bias = draws(6, 9).masked_fill(draws(6, 9, seed=1) > 1, torch.nan), draws(6, 9, seed=2)
    relations = RelationPairs(
        Labels(labels),
        ids,
        others,
        labelled_relations=Labels(torch.where(torch.arange(14) % 4 == 0, labels, 3)),
        mined_negatives=mined,
        anchor_labels=labels[ids],
        candidate_labels=labels[others],
        bias=lambda anchors, candidates: (anchors[:, None] - 2.0 * candidates).double(),
    )
    return {
        "dense": DensePairs(dense.positive, dense.negative, random_weights(dense), target, bias),
        "labels": LabelPairs(labels[ids], labels[others], ids, others),
        "relations": relations,
    }


@pytest.mark.parametrize("kind", ["dense", "labels", "relations"])
def test_turned_round_a_pair_is_the_same_pair(kind: str) -> None:
    pairs = every_kind_of_pairs()[kind]
    turned, again = pairs.turned(), pairs.turned().turned()
    for row, column in [(row, column) for row in range(6) for column in range(9)]:
        known = pairs.rows(row, row + 1, targets=True)
        for other, place in (
            (turned.rows(column, column + 1, targets=True), row),
            (again.rows(row, row + 1, targets=True), column),
        ):
            for mine, theirs in zip(known, other, strict=True):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    torch.testing.assert_close(mine[0, column], theirs[0, place], equal_nan=True)
    if kind != "dense":
        assert torch.equal(turned.anchor_labels, pairs.candidate_labels)
        assert torch.equal(turned.candidate_labels, pairs.anchor_labels)
    assert known.positive is not None


def test_the_way_back_of_weighted_classes_weighs_the_candidates() -> None:
    embeddings, others = draws(5, 4), draws(5, 4, seed=1)
    labels = torch.tensor([0, 1, 2, 3, 0])
    counts = torch.tensor([50, 3, 1, 2])
    both = SymmetricLoss(ClassWeightedLoss(InfoNCELoss(0.3), beta=0.9))
    both.setup(LossContext(4, counts))
    pairs = LabelPairs(labels, labels[[1, 2, 3, 4, 0]])
    there, back = (ClassWeightedLoss(InfoNCELoss(0.3), beta=0.9) for _ in range(2))
    for each in (there, back):
        each.setup(LossContext(4, counts))
    expected = there.on_pairs(embeddings, others, pairs)["loss"]
    expected = (
        expected + back.on_pairs(others, embeddings, LabelPairs(labels[[1, 2, 3, 4, 0]], labels))["loss"]
    )
    output = both.on_pairs(embeddings, others, pairs)
    torch.testing.assert_close(output["loss"], expected / 2)
    assert output["forward"] != output["backward"]


@pytest.mark.parametrize("block_rows", [2, 1024])
def test_a_bias_is_added_to_similarities(block_rows: int) -> None:
    anchors, candidates, pairs = random_batch()
    bias = draws(6, 9, seed=3)
    given = DensePairs(pairs.positive, pairs.negative, bias=bias)
    found = InfoNCELoss(0.5, block_rows=block_rows).on_pairs(anchors, candidates, given)["loss"]
    scores = torch.nn.functional.cosine_similarity(anchors[:, None], candidates, dim=2) + bias
    terms = []
    for row in range(6):
        positives, negatives = (mask[row].nonzero().flatten() for mask in (pairs.positive, pairs.negative))
        if len(positives) and len(negatives):
            below = torch.exp(scores[row, negatives] / 0.5).sum()
            of_row = [torch.log1p(below / torch.exp(scores[row, each] / 0.5)) for each in positives]
            terms.append(sum(of_row) / len(of_row))
    torch.testing.assert_close(found, sum(terms) / len(terms))
    assert not torch.isclose(found, InfoNCELoss(0.5).on_pairs(anchors, candidates, pairs)["loss"])


@pytest.mark.parametrize("name", LOSSES)
def test_an_equal_bias_changes_nothing_where_only_differences_count(name: str) -> None:
    anchors, candidates, pairs = random_batch()
    loss = LOSSES[name]().double()
    biased = DensePairs(pairs.positive, pairs.negative, bias=torch.full((6, 9), 0.125).double())
    if not isinstance(loss, MetricLoss):
        with pytest.raises(ValueError, match=f"{type(loss).__name__} has no similarities"):
            loss.on_pairs(anchors, candidates, biased)
        return
    value, plain = (loss.on_pairs(anchors, candidates, each)["loss"] for each in (biased, pairs))
    told = f"does {name} compare scores with a number? COMPARE_WITH_A_NUMBER of cases.py lists such losses"
    assert bool(torch.isclose(value, plain, rtol=1e-9)) != (name in COMPARE_WITH_A_NUMBER), told


def test_a_bias_must_be_finite() -> None:
    same = torch.eye(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="a bias must be finite; to leave a pair out, give it weight 0"):
        DensePairs(same, ~same, bias=torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))


def test_losses_without_a_setup_need_none() -> None:
    embeddings, labels, _ = labelled_batch(LABELS)
    for loss in (NPairLoss(), *(make() for make in LOSSES.values())):
        assert isinstance(loss, VectorLoss)
        loss.setup(LossContext(5))
        loss.after_step()
        assert loss.double()(embeddings, labels=labels).isfinite()
