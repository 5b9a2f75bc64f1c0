"""Losses that compare an anchor's scored candidates must find several of them in a batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_metric import MetricDataModule, MetricLearner, TextEncoder
from lit_metric.batching import PairPlanner, ScoredPairPlanner
from lit_metric.data import DataError, PairRelations, Pairs
from lit_metric.losses import CoSENTLoss, DistillationKLLoss, MarginMSELoss, SumLoss
from lit_metric.modules.tasks import check_scores
from tests.small import Small, trainer

IDS = torch.arange(40)


def several(each: int) -> PairRelations:
    """40 anchors with so many scored candidates each, all different."""
    anchors = IDS.repeat_interleave(each)
    count = 40 + len(anchors)
    return PairRelations(anchors, torch.arange(40, count), torch.rand(len(anchors)), torch.arange(count))


@pytest.mark.parametrize("loss", [MarginMSELoss(), DistillationKLLoss()])
def test_anchors_with_one_candidate_in_their_batch_are_told(
    caplog: pytest.LogCaptureFixture, loss: MarginMSELoss | DistillationKLLoss
) -> None:
    relations, planner = several(3), ScoredPairPlanner(4)
    check_scores(loss, planner, IDS, relations, seed=0)
    plan = planner.plan(IDS, relations, 0, 0)
    alone = every = 0
    for batch in range(10):
        anchors, met = plan.anchors[batch].tolist(), set(plan.candidates[batch].tolist())
        every += len(anchors)
        alone += sum(len(met & {40 + 3 * anchor + place for place in range(3)}) < 2 for anchor in anchors)
    assert alone > every / 2
    assert caplog.messages == [
        f"{type(loss).__name__} compares the scored candidates of an anchor, and {alone} of the {every} "
        "anchors in the first 10 batches have only one there, from which it can't learn: set together to "
        "true in ScoredPairPlanner"
    ]


def test_it_is_quiet_where_there_is_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check_scores(MarginMSELoss(), ScoredPairPlanner(4, together=True), IDS, several(3), seed=0)
        check_scores(MarginMSELoss(), ScoredPairPlanner(120), IDS, several(3), seed=0)
        check_scores(CoSENTLoss(), ScoredPairPlanner(4), IDS, several(1), seed=0)
        check_scores(MarginMSELoss(), PairPlanner(4), IDS, several(1), seed=0)
    assert caplog.messages == []


def test_an_anchor_needs_two_candidates_somewhere() -> None:
    with pytest.raises(
        DataError, match="none of the 40 anchors has more than one: give several rows for each"
    ):
        check_scores(MarginMSELoss(), ScoredPairPlanner(4), IDS, several(1), seed=0)


def test_the_loss_is_chosen_by_the_data(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored = MetricDataModule(small / "similarity/similarity.parquet", cache_dir=small / "cache")
    together = MetricDataModule(
        small / "pairs/pairs.parquet", supervision=Pairs("words", "definition"), cache_dir=small / "cache"
    )
    for data, kind in ((scored, "CoSENTLoss"), (together, "InfoNCELoss"), (small.data(), "InfoNCELoss")):
        learner = MetricLearner(TextEncoder(small / "backbone"), lr=1e-3)
        with caplog.at_level("INFO"):
            trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(learner, data)
        assert type(learner.loss).__name__ == kind
        assert f"The loss is {kind}, as none is given" in caplog.text
        assert learner.trainer.callback_metrics["train/loss"] > 0
        caplog.clear()


@pytest.mark.parametrize("scores", [None, 0.5])
@pytest.mark.parametrize("loss", [CoSENTLoss(), SumLoss({"a": CoSENTLoss()})])
def test_a_loss_of_scores_without_scores_is_refused(
    small: Small, tmp_path: Path, loss: Any, scores: float | None
) -> None:
    rows = [(f"w{4 + row} w7", f"w{5 + row} w8", scores) for row in range(24)]
    names = ["anchor", "positive", "score"]
    table = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    if scores is None:
        del table["score"]
    known = Pairs("anchor", "positive", score=None if scores is None else "score")
    data = MetricDataModule(table, supervision=known, cache_dir=small / "cache")
    with pytest.raises(DataError, match="CoSENTLoss learns from differences between scores, and these data"):
        trainer(tmp_path).fit(MetricLearner(TextEncoder(small / "backbone"), loss), data)
