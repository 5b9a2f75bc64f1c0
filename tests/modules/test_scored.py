"""Losses that compare an anchor's scored candidates must find several of them in a batch."""

from __future__ import annotations

import logging

import pytest
import torch

from lit_metric.batching import PairPlanner, ScoredPairPlanner
from lit_metric.data import DataError, PairRelations
from lit_metric.losses import CoSENTLoss, DistillationKLLoss, MarginMSELoss
from lit_metric.modules.scored import say_what_is_alone

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
    say_what_is_alone(loss, planner, IDS, relations, seed=0)
    plan = planner.plan(IDS, relations, 0, 0)
    alone = every = 0
    for batch in range(10):
        anchors, met = plan.anchors[batch].tolist(), set(plan.candidates[batch].tolist())
        every += len(anchors)
        alone += sum(len(met & {40 + 3 * anchor + place for place in range(3)}) < 2 for anchor in anchors)
    assert alone > every / 2
    assert caplog.messages == [
        f"{type(loss).__name__} compares the scored candidates of an anchor, and {alone} of the {every} "
        "anchors in the first 10 batches have only one there and teach nothing: set together to true in "
        "ScoredPairPlanner"
    ]


def test_it_is_quiet_where_there_is_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        say_what_is_alone(MarginMSELoss(), ScoredPairPlanner(4, together=True), IDS, several(3), seed=0)
        say_what_is_alone(MarginMSELoss(), ScoredPairPlanner(120), IDS, several(3), seed=0)
        say_what_is_alone(CoSENTLoss(), ScoredPairPlanner(4), IDS, several(1), seed=0)
        say_what_is_alone(MarginMSELoss(), PairPlanner(4), IDS, several(1), seed=0)
    assert caplog.messages == []


def test_an_anchor_needs_two_candidates_somewhere() -> None:
    with pytest.raises(
        DataError, match="none of the 40 anchors has more than one: give several rows for each"
    ):
        say_what_is_alone(MarginMSELoss(), ScoredPairPlanner(4), IDS, several(1), seed=0)
