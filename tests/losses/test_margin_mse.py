from __future__ import annotations

import itertools

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MarginMSELoss as PeerMarginMSELoss
from torch import Tensor

from lit_metric.losses import DensePairs, MarginMSELoss
from tests.losses.cases import random_batch, random_weights


def random_targets(pairs: DensePairs, seed: int = 5) -> Tensor:
    """Teacher scores for two pairs in three."""
    generator = torch.Generator().manual_seed(seed)
    targets = 4 * torch.randn(pairs.positive.shape, generator=generator, dtype=torch.float64)
    return targets.masked_fill(torch.rand(targets.shape, generator=generator) < 1 / 3, torch.nan)


@pytest.mark.parametrize("compared", ["all", "positives"])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_a_naive_loop(compared: str, weighted: bool) -> None:
    anchors, candidates, pairs = random_batch()
    targets, scores = random_targets(pairs), anchors @ candidates.T
    weight = random_weights(pairs) if weighted else None
    terms, used = [], set()
    for row, (first, second) in itertools.product(range(6), itertools.permutations(range(9), 2)):
        counted = pairs.positive[row, first] and pairs.negative[row, second]
        if compared == "all":
            counted = first < second
        factor = 1.0 if weight is None else weight[row, first] * weight[row, second]
        if counted and factor and not targets[row, [first, second]].isnan().any():
            margin, wanted = (values[row, first] - values[row, second] for values in (scores, targets))
            terms.append(factor * (margin - wanted) ** 2)
            used.add(row)
    output = MarginMSELoss(compared).on_pairs(
        anchors, candidates, DensePairs(pairs.positive, pairs.negative, weight, targets)
    )
    torch.testing.assert_close(output["loss"], torch.stack(terms).mean())
    assert output["anchors_used"].item() == pytest.approx(len(used) / 6)
    assert len(terms) > 5


def layout(negatives: int) -> tuple[DensePairs, list[Tensor], Tensor]:
    """Four anchors with one positive and some negatives each, as pairs, as columns, and teacher scores."""
    generator = torch.Generator().manual_seed(2)
    columns = list(torch.randn(2 + negatives, 4, 3, generator=generator, dtype=torch.float64))
    scores = torch.randn(4, 1 + negatives, generator=generator, dtype=torch.float64)
    positive = torch.zeros(4, 4 * (1 + negatives), dtype=torch.bool)
    negative, target = positive.clone(), torch.full(positive.shape, torch.nan, dtype=torch.float64)
    for anchor in range(4):
        positive[anchor, anchor] = True
        negative[anchor, anchor + 4 :: 4] = True
        target[anchor, anchor::4] = scores[anchor]
    return DensePairs(positive, negative, target=target), columns, scores


@pytest.mark.parametrize(("compared", "negatives"), [("all", 1), ("positives", 1), ("positives", 3)])
def test_sentence_transformers_agrees(compared: str, negatives: int) -> None:
    pairs, columns, scores = layout(negatives)
    expected = PeerMarginMSELoss(None).compute_loss_from_embeddings(columns, scores)
    output = MarginMSELoss(compared).on_pairs(columns[0], torch.cat(columns[1:]), pairs)
    torch.testing.assert_close(output["loss"], expected)


def test_a_teacher_that_differs_by_a_constant_is_met() -> None:
    anchors, candidates, pairs = random_batch()
    neither = torch.zeros_like(pairs.positive)
    shifted = anchors @ candidates.T + torch.arange(6.0)[:, None]
    loss = MarginMSELoss().on_pairs(anchors, candidates, DensePairs(neither, neither, target=shifted))["loss"]
    assert loss.item() == pytest.approx(0, abs=1e-24)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="compared 'some' is none of all, positives"):
        MarginMSELoss("some")


@pytest.mark.parametrize("compared", ["all", "positives"])
def test_a_score_of_minus_infinity_leaves_a_candidate_out(compared: str) -> None:
    anchors, candidates, pairs = random_batch()
    targets = random_targets(pairs)
    masked = targets.masked_fill(
        torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.3, -torch.inf
    )
    assert masked.isneginf().any(dim=1).sum() == 5
    values = [
        MarginMSELoss(compared).on_pairs(
            anchors, candidates, DensePairs(pairs.positive, pairs.negative, target=target)
        )
        for target in (masked, masked.masked_fill(masked.isneginf(), torch.nan))
    ]
    assert values[0] == values[1]
    assert values[0]["loss"] > 0
