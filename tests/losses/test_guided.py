"""Negatives that a guide leaves out, against loops and sentence-transformers' GISTEmbedLoss."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor, nn

from lit_metric.losses import (
    ClassWeightedLoss,
    ContrastiveLoss,
    CoSENTLoss,
    DensePairs,
    GuidedLoss,
    InfoNCELoss,
    Loss,
    LossContext,
    RelationPairs,
    TripletLoss,
    too_similar,
)
from tests.losses.cases import Labels

gist = importlib.import_module("sentence_transformers.sentence_transformer.losses.gist_embed")


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("threshold", "margin"), [(0.3, None), (None, 0.1), (None, -0.2), (0.4, 0.2)])
def test_what_is_too_similar_is_that_of_a_loop(threshold: float | None, margin: float | None) -> None:
    scores = draws(9, 12).tanh()
    positive = draws(9, 12, seed=1) > 1
    positive[3] = False
    found = too_similar(scores, positive, threshold, margin)
    for row in range(9):
        own = [float(scores[row, other]) for other in range(12) if positive[row, other]]
        for other in range(12):
            score = float(scores[row, other])
            over = threshold is not None and score > threshold
            over |= margin is not None and bool(own) and score > max(own) - margin
            assert bool(found[row, other]) == over
    assert found.any()
    assert not found.all()


def test_a_score_at_the_bound_stays() -> None:
    scores, positive = torch.tensor([[0.75, 0.5, 0.625, 0.25]]), torch.tensor([[True, False, False, False]])
    assert too_similar(scores, positive, 0.5).tolist() == [[True, False, True, False]]
    assert too_similar(scores, positive, None, 0.25).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("block_rows", [3, 1024])
def test_it_is_the_loss_under_masks_without_them(block_rows: int) -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 3, 3])
    anchor_ids, candidate_ids = torch.tensor([0, 2, 4, 8, 6]), torch.tensor([9, 1, 7, 5, 3, 0])
    vectors, guide = draws(10, 5), draws(10, 4, seed=1)
    pairs = RelationPairs(Labels(labels), anchor_ids, candidate_ids)
    dense = pairs.rows(0, 5)
    scores = torch.nn.functional.cosine_similarity(guide[anchor_ids][:, None], guide[candidate_ids], dim=2)
    negative = dense.negative & ~(scores > 0.2)
    assert 0 < negative.sum() < dense.negative.sum()
    expected_of = DensePairs(dense.positive, negative, target=pairs.rows(0, 5, targets=True).target)
    for loss in (InfoNCELoss(0.3, block_rows=block_rows), ContrastiveLoss(), CoSENTLoss(0.2)):
        guided = GuidedLoss(loss, "none", threshold=0.2)
        guided.setup(LossContext(5, encode=lambda _: guide * 7))
        output = guided.on_pairs(vectors[anchor_ids], vectors[candidate_ids], pairs)
        expected = loss.on_pairs(vectors[anchor_ids], vectors[candidate_ids], expected_of)
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_with_a_margin_it_is_gist_embed_loss(monkeypatch: pytest.MonkeyPatch, margin: float) -> None:
    count = 8
    vectors, guide = draws(2 * count, 6).float(), draws(2 * count, 5, seed=1).float()
    guide[count:] += 0.8 * guide[:count]
    columns = {"model": vectors.split(count), "guide": guide.split(count)}
    monkeypatch.setattr(gist, "embed_columns", lambda model, features: list(columns[model.name]))
    peer = gist.GISTEmbedLoss.__new__(gist.GISTEmbedLoss)
    nn.Module.__init__(peer)
    for name, value in {
        "temperature": 0.1,
        "margin_strategy": "absolute",
        "margin": margin,
        "contrast_anchors": False,
        "contrast_positives": False,
        "gather_across_devices": False,
        "must_retokenize": False,
        "similarity_fct": nn.CosineSimilarity(dim=-1),
        "cross_entropy_loss": nn.CrossEntropyLoss(),
        "model": nn.Identity(),
        "guide": nn.Identity(),
    }.items():
        setattr(peer, name, value)
    for name in ("model", "guide"):
        getattr(peer, name).name = name
    expected = peer([{}, {}], torch.empty(0))

    anchors, candidates = torch.arange(count), torch.arange(count, 2 * count)
    pairs = RelationPairs(Labels(torch.arange(2 * count) % count), anchors, candidates)
    loss = GuidedLoss(InfoNCELoss(0.1), "none", threshold=None, margin=margin)
    loss.setup(LossContext(6, encode=lambda _: guide))
    output = loss.on_pairs(vectors[:count], vectors[count:], pairs)
    # An anchor without any negative left has no loss in either, but here it is not counted.
    found = output["loss"] * output["anchors_used"]
    torch.testing.assert_close(found, expected)
    unguided = InfoNCELoss(0.1).on_pairs(vectors[:count], vectors[count:], pairs)["loss"]
    assert float(found) < float(unguided) - 0.05


def test_a_negative_that_is_left_out_leaves_the_sum() -> None:
    """DCLR's code sets its logit to 0, so that e⁰ stays in the denominator, where its paper has no term."""
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    pairs = RelationPairs(Labels(torch.tensor([0, 0, 1, 2])), torch.tensor([0]), torch.tensor([1, 2, 3]))
    loss = GuidedLoss(InfoNCELoss(1.0), "none", threshold=0.5)
    guide = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, -0.8]])  # item 2: 0.8, item 3: 0.6
    loss.setup(LossContext(2, encode=lambda _: guide))
    assert loss.on_pairs(vectors[:1], vectors[1:], pairs)["loss"].item() == 0  # no negative is left
    loss.threshold = 0.7
    found = loss.on_pairs(vectors[:1], vectors[1:], pairs)["loss"].item()
    assert found == pytest.approx(math.log(1 + math.exp(0 - 1)))  # 0.3133; with e⁰ for item 2 it were 0.5514


def test_the_plateau_is_that_of_the_loss() -> None:
    """So the alarm on collapse hears of a guided loss, too."""
    assert GuidedLoss(TripletLoss(0.3), "none").plateau == 0.3
    assert GuidedLoss(InfoNCELoss(), "none").plateau is None


def test_what_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(ValueError, match="both None"):
        GuidedLoss(InfoNCELoss(), "none", threshold=None)
    loss, same, ids = GuidedLoss(InfoNCELoss(), "none"), torch.eye(2, dtype=torch.bool), torch.arange(2)
    with pytest.raises(ValueError, match=r"call setup\(LossContext"):
        loss.on_pairs(torch.eye(2), torch.eye(2), RelationPairs(Labels(ids), ids, ids))
    with pytest.raises(ValueError, match="needs encode of the LossContext"):
        loss.setup(LossContext(2))
    loss.setup(LossContext(2, encode=lambda _: torch.eye(2)))
    with pytest.raises(ValueError, match="DensePairs has none; use RelationPairs"):
        loss.on_pairs(torch.eye(2), torch.eye(2), DensePairs(same, ~same))


def test_it_may_stand_inside_a_loss_that_weighs_pairs() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 3, 3])
    ids, vectors, guide = torch.arange(10), draws(10, 5), draws(10, 4, seed=1)
    pairs = RelationPairs(Labels(labels), ids, ids, anchor_labels=labels, candidate_labels=labels)
    context = LossContext(5, torch.tensor([9, 3, 2, 1]), encode=lambda _: guide)
    values = []
    for order in (0, 1):
        loss: Loss = InfoNCELoss(0.3)
        for kind in ("guide", "weights")[:: 1 - 2 * order]:
            loss = GuidedLoss(loss, "none", 0.2) if kind == "guide" else ClassWeightedLoss(loss, 0.9)
        loss.setup(context)
        values.append(loss.on_pairs(vectors, vectors, pairs)["loss"])
    torch.testing.assert_close(*values)
    assert not torch.isclose(values[0], InfoNCELoss(0.3).on_pairs(vectors, vectors, pairs)["loss"], rtol=1e-3)
