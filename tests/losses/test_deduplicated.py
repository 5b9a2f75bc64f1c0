"""Clusters of near duplicates in the batch, against loops and injected copies."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_metric import TextEncoder
from lit_metric.losses import (
    DeduplicatedLoss,
    DensePairs,
    InfoNCELoss,
    LossContext,
    RelationPairs,
    SymmetricLoss,
    TripletLoss,
)
from tests.losses.cases import Labels
from tests.small import Small, questions, trainer, write_csv

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 3, 3])
ANCHORS, CANDIDATES = torch.tensor([0, 2, 4, 8, 6]), torch.tensor([9, 1, 7, 5, 3, 0, 2])


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain() -> Tensor:
    """Ten directions in a plane; 0, 2 and 7 in steps of 0.2, and 4 and 3 in a step of 0.1."""
    angles = torch.tensor([0.0, 3.0, 0.2, 2.1, 2.0, 4.0, 5.0, 0.4, 1.0, 6.0])
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def ready(loss: DeduplicatedLoss) -> DeduplicatedLoss:
    loss.setup(LossContext(5, encode=lambda _: chain()))
    return loss


def without(clusters: list[set[int]]) -> DensePairs:
    """The pairs of the batch, without negatives within a cluster, by a loop."""
    dense = RelationPairs(Labels(LABELS), ANCHORS, CANDIDATES).rows(0, len(ANCHORS), targets=True)
    negative = dense.negative.clone()
    for row, anchor in enumerate(ANCHORS.tolist()):
        for column, candidate in enumerate(CANDIDATES.tolist()):
            if any({anchor, candidate} <= cluster for cluster in clusters):
                negative[row, column] = False
    assert negative.sum() < dense.negative.sum()
    return DensePairs(dense.positive, negative)


@pytest.mark.parametrize("block_rows", [2, 1024])
@pytest.mark.parametrize(
    ("linkage", "clusters"), [("single", [{0, 2, 7}, {3, 4}]), ("complete", [{0, 2}, {3, 4}])]
)
def test_it_is_the_loss_without_negatives_of_the_same_cluster(
    linkage: str, clusters: list[set[int]], block_rows: int
) -> None:
    vectors = draws(10, 5)
    inner = InfoNCELoss(0.3, block_rows=block_rows)
    loss = ready(DeduplicatedLoss(inner, "none", threshold=0.97, linkage=linkage))  # type: ignore[arg-type]
    pairs = RelationPairs(Labels(LABELS), ANCHORS, CANDIDATES)
    found = loss.on_pairs(vectors[ANCHORS], vectors[CANDIDATES], pairs)["loss"]
    expected = InfoNCELoss(0.3).on_pairs(vectors[ANCHORS], vectors[CANDIDATES], without(clusters))["loss"]
    torch.testing.assert_close(found, expected)


def test_a_copy_of_a_copy_is_found_and_complete_linkage_stops_the_chain() -> None:
    """cos 0.2 = 0.980, cos 0.4 = 0.921: item 7 is near item 2, and not near item 0."""
    loss = ready(DeduplicatedLoss(InfoNCELoss(), "none", threshold=0.97))
    assert loss.clusters is not None
    assert loss.clusters.tolist() == [0, 1, 0, 3, 3, 5, 6, 0, 8, 9]
    loss = ready(DeduplicatedLoss(InfoNCELoss(), "none", threshold=0.97, linkage="complete"))
    assert loss.clusters is not None
    assert loss.clusters.tolist() == [0, 1, 0, 3, 3, 5, 6, 7, 8, 9]


def test_positives_of_a_cluster_stay_positives() -> None:
    vectors = draws(10, 5)
    loss = DeduplicatedLoss(InfoNCELoss(0.3), "none", threshold=0.97)
    loss.setup(LossContext(5, encode=lambda _: chain()[:1].expand(10, 2)))  # all are copies
    same = RelationPairs(Labels(LABELS), ANCHORS, CANDIDATES)
    assert same.rows(0, 5).positive.any()
    assert loss.on_pairs(vectors[ANCHORS], vectors[CANDIDATES], same)["loss"] == 0  # no negatives are left
    assert same.rows(0, 5).positive.sum() == loss_positives(loss, same)


def loss_positives(loss: DeduplicatedLoss, pairs: RelationPairs) -> int:
    block = loss._leave_out(pairs.rows(0, 5), pairs, 0, 5)
    assert not block.negative.any()
    return int(block.positive.sum())


def test_of_injected_copies_none_is_a_negative_while_plainly_most_are() -> None:
    """Each of 40 items has a near copy under another label."""
    originals = F.normalize(draws(40, 32), dim=1)
    copies = F.normalize(originals + 0.02 * F.normalize(draws(40, 32, seed=1), dim=1), dim=1)
    guide = torch.cat([originals, copies])
    labels = torch.cat([torch.arange(40) % 8, (torch.arange(40) + 3) % 8])
    ids = torch.arange(80)
    pairs = RelationPairs(Labels(labels), ids, ids)
    loss = DeduplicatedLoss(TripletLoss(), "none")
    loss.setup(LossContext(32, encode=lambda _: guide))
    of_copies = (ids[:, None] % 40 == ids % 40) & (ids[:, None] != ids)
    plain = pairs.rows(0, 80).negative
    block = loss._leave_out(pairs.rows(0, 80), pairs, 0, 80)
    assert int((plain & of_copies).sum()) == 80
    assert int((block.negative & of_copies).sum()) == 0
    assert torch.equal(block.negative, plain & ~of_copies)  # nothing else is left out


def test_a_cluster_of_half_the_data_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    angles = torch.cat([torch.linspace(0, 1.5, 20), torch.linspace(2, 5, 20)])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    for threshold, told in ((0.99, True), (0.9999, False)):
        caplog.clear()
        loss = DeduplicatedLoss(InfoNCELoss(), "none", threshold)
        with caplog.at_level(logging.WARNING, logger="lit_metric.losses.deduplicated"):
            loss.setup(LossContext(2, encode=lambda _: vectors))
        assert ("takes 20 of 40 items for copies" in caplog.text) == told


def test_turned_pairs_are_masked_alike() -> None:
    vectors = draws(10, 5)
    pairs = RelationPairs(Labels(LABELS), ANCHORS, CANDIDATES)
    loss = SymmetricLoss(ready(DeduplicatedLoss(InfoNCELoss(0.3), "none", threshold=0.97)))
    dense = without([{0, 2, 7}, {3, 4}])
    expected = SymmetricLoss(InfoNCELoss(0.3)).on_pairs(vectors[ANCHORS], vectors[CANDIDATES], dense)
    found = loss.on_pairs(vectors[ANCHORS], vectors[CANDIDATES], pairs)
    torch.testing.assert_close(found["loss"], expected["loss"])


@pytest.mark.filterwarnings("ignore")
def test_a_run_finds_the_copies_of_its_data(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = questions(24, seed=3)
    text, label = rows[0]
    other = next(each for _, each in rows if each != label)
    path = write_csv(tmp_path / "rows.csv", [*rows, (text.replace(" ", "  "), other)])
    data = small.data(train=path, validation_share=0.0)
    loss = DeduplicatedLoss(InfoNCELoss(0.2), small / "backbone", threshold=0.9999)
    with caplog.at_level(logging.INFO, logger="lit_metric.losses.deduplicated"):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(small.learner(loss), data)
    assert loss.clusters is not None
    texts = [data.texts_of(item)[0] for item in range(len(data.items))]
    vectors = TextEncoder(small / "backbone").encode(texts)
    near = torch.from_numpy(vectors @ vectors.T) > 0.9999
    assert bool((loss.clusters[:, None] == loss.clusters)[near].all())
    assert "items have near duplicates, in" in caplog.text


def test_bad_arguments_and_missing_vectors() -> None:
    with pytest.raises(ValueError, match="neighbours=0 must be at least 1"):
        DeduplicatedLoss(InfoNCELoss(), "none", neighbours=0)
    with pytest.raises(ValueError, match="linkage is 'ward'; choose 'single' or 'complete'"):
        DeduplicatedLoss(InfoNCELoss(), "none", linkage="ward")  # type: ignore[arg-type]
    loss = DeduplicatedLoss(InfoNCELoss(), "none")
    pairs = RelationPairs(Labels(LABELS), ANCHORS, CANDIDATES)
    with pytest.raises(ValueError, match="call setup"):
        loss.on_pairs(draws(5, 4), draws(7, 4), pairs)
    with pytest.raises(ValueError, match="needs encode of the LossContext"):
        loss.setup(LossContext(4))
    ready(loss)
    masks = torch.ones(5, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match="DensePairs has none; use RelationPairs"):
        loss.on_pairs(draws(5, 4), draws(7, 4), DensePairs(masks, ~masks))
