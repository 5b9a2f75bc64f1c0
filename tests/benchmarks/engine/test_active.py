"""A step in two passes has the gradient of a whole one."""

from __future__ import annotations

import pytest
import torch

from benchmarks.engine.active import Trainee, progress, summary
from lit_metric import MetricDataModule, TextEncoder
from lit_metric.batching import PKPlanner
from lit_metric.losses import TripletLoss
from tests.small import Small


@pytest.mark.parametrize(("texts", "margin", "active"), [(0, 1.9, 6), (1, 1e-9, 0), (2, 1e-9, 3)])
def test_both_steps_have_one_gradient(small: Small, texts: int, margin: float, active: int) -> None:
    # Equal texts keep a tiny margin to any other.
    rows = [
        ["w4 w5", "w6 w7", "w8 w9", "w10 w11", "w12 w13", "w14 w15"],
        ["w4 w5", "w4 w5", "w8 w9", "w8 w9", "w12 w13", "w12 w13"],
        ["w4 w5", "w4 w5", "w8 w9", "w8 w9", "w12 w13", "w50 w51"],
    ][texts]
    data = MetricDataModule({"text": rows, "label": [*"aabbcc"]}, planner=PKPlanner(3, 2))
    encoder = TextEncoder(small / "backbone", dropout=0.0)
    data.prepare(encoder.tokenizer, progress=False)
    trainee = Trainee(data, encoder, TripletLoss(margin, "hard"), lr=1e-3)
    batch = data.collator(torch.arange(6), torch.arange(6))
    found, _ = trainee.whole(batch)
    expected = trainee.gradient()
    trainee.in_two_passes(batch)
    torch.testing.assert_close(trainee.gradient(), expected, rtol=1e-4, atol=1e-6)
    assert (expected.norm() > 0) == (active > 0)
    assert int(found.sum()) == active


def test_progress_is_measured_on_the_way(small: Small) -> None:
    encoder, data = TextEncoder(small / "backbone", dropout=0.0), small.data()
    data.prepare(encoder.tokenizer, progress=False)
    plan = data.planner.plan(data.splits["train"], data.relations, 0, 0)
    batches = [data.collator(*plan.batch(number)) for number in range(4)]
    found = progress(Trainee(data, encoder, TripletLoss(), lr=1e-3), batches, every=2)
    assert [each["step"] for each in found] == [0, 2]
    assert all(0 < each["texts"] <= 1 and 0 < each["triplets"] <= 1 for each in found)
    assert summary(found)["ratio"] == 1  # all texts are active at first, so whole steps are taken
