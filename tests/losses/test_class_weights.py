from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from lit_metric.losses import (
    ClassWeightedLoss,
    DensePairs,
    InfoNCELoss,
    LossContext,
    ProxyNCALoss,
    TripletLoss,
    effective_number_weights,
)
from tests.losses.cases import labelled_batch, random_weights


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999])
def test_the_geometric_series_of_the_source(beta: float) -> None:
    counts = [1, 3, 40]
    numbers = [sum(beta**i for i in range(count)) for count in counts]  # E_n = 1 + β E_(n−1)
    scale = 3 / sum(1 / number for number in numbers)
    expected = torch.tensor([scale / number for number in numbers])
    torch.testing.assert_close(effective_number_weights(torch.tensor(counts), beta), expected)


def test_between_no_weights_and_the_inverse_frequency() -> None:
    counts = torch.tensor([1, 3, 0, 6])
    assert effective_number_weights(counts, 0.0).tolist() == [1, 1, 1, 1]
    inverse = effective_number_weights(counts, 1 - 1e-12)
    assert inverse.tolist() == pytest.approx([2.0, 2 / 3, 1.0, 1 / 3], rel=1e-6)
    assert effective_number_weights(torch.tensor([0, 0]), 0.9).tolist() == [1, 1]


LABELS = [0, 0, 0, 0, 1, 1, 2, 2]
COUNTS = torch.tensor([90, 9, 2])


def labelled(pairs: DensePairs, labels: Tensor) -> DensePairs:
    """The pairs, with the classes of their anchors."""
    pairs = copy.copy(pairs)
    pairs.anchor_labels = labels
    return pairs


@pytest.mark.parametrize("given", [False, True])
def test_each_anchor_s_term_is_multiplied(given: bool) -> None:
    embeddings, labels, pairs = labelled_batch(LABELS)
    if given:  # weights that are there already remain
        pairs = DensePairs(pairs.positive, pairs.negative, random_weights(pairs) + 0.1)
    weights = effective_number_weights(COUNTS, 0.9).double()
    loss = ClassWeightedLoss(InfoNCELoss(0.3), beta=0.9)
    loss.setup(LossContext(5, COUNTS))
    terms = []
    for row in range(len(LABELS)):
        own = None if pairs.weight is None else pairs.weight[row : row + 1]
        one = DensePairs(pairs.positive[row : row + 1], pairs.negative[row : row + 1], own)
        alone = InfoNCELoss(0.3).on_pairs(embeddings[row : row + 1], embeddings, one)["loss"]
        terms.append(weights[LABELS[row]] * alone)
    output = loss.on_pairs(embeddings, embeddings, labelled(pairs, labels))
    torch.testing.assert_close(output["loss"], torch.stack(terms).mean())
    assert weights[2] > weights[1] > weights[0]


def test_blocks_of_rows_and_anchors_without_a_class() -> None:
    embeddings, labels, pairs = labelled_batch(LABELS)
    labels = torch.where(labels == 1, -1, labels)
    whole, blocked = (ClassWeightedLoss(TripletLoss(0.5, block_rows=rows), beta=0.9) for rows in (99, 3))
    for loss in (whole, blocked):
        loss.setup(LossContext(5, COUNTS))
    expected = whole.on_pairs(embeddings, embeddings, labelled(pairs, labels))
    torch.testing.assert_close(blocked.on_pairs(embeddings, embeddings, labelled(pairs, labels)), expected)
    weights = effective_number_weights(COUNTS, 0.9).double()
    by_class = torch.where(labels < 0, 1.0, weights[labels.clamp_min(0)])[:, None]
    by_hand = DensePairs(pairs.positive, pairs.negative, torch.where(pairs.positive, by_class, 1.0))
    torch.testing.assert_close(expected, TripletLoss(0.5).on_pairs(embeddings, embeddings, by_hand))


def test_weights_follow_the_data_and_are_not_saved() -> None:
    loss = ClassWeightedLoss(InfoNCELoss(learnable=True))
    loss.setup(LossContext(5, COUNTS))
    loss.setup(LossContext(5, torch.tensor([1, 1])))
    assert loss.weights.tolist() == [1, 1]
    assert list(loss.state_dict()) == ["loss.log_temperature"]


def test_settings_that_make_no_sense() -> None:
    for beta in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"beta must be at least 0 and below 1, not {beta}"):
            ClassWeightedLoss(InfoNCELoss(), beta)
    with pytest.raises(ValueError, match="ProxyNCALoss compares anchors with learned proxies"):
        ClassWeightedLoss(ProxyNCALoss())
    embeddings, labels, pairs = labelled_batch(LABELS)
    loss = ClassWeightedLoss(InfoNCELoss())
    with pytest.raises(ValueError, match=r"no weights: call setup\(LossContext\(dimension, class_counts"):
        loss.on_pairs(embeddings, embeddings, labelled(pairs, labels))
    with pytest.raises(ValueError, match="needs class_counts of the LossContext"):
        loss.setup(LossContext(5))
    loss.setup(LossContext(5, COUNTS))
    with pytest.raises(ValueError, match="needs the anchors' classes: call loss"):
        loss.on_pairs(embeddings, embeddings, pairs)
