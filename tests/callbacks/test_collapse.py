"""The alarm rings for embeddings of one point, and for no others."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_metric import MetricLearner, TextEncoder
from lit_metric.callbacks import CollapseAlarm
from lit_metric.losses import InfoNCELoss, TripletLoss
from lit_metric.metrics import effective_rank
from tests.small import Small, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def learner(small: Small, collapsed: bool) -> MetricLearner:
    """With 32 components; a collapsed one gives nearly the same vector to every text."""
    encoder = TextEncoder(small / "backbone", projection=32)
    if collapsed:
        linear: Any = encoder.projection[-1].linear  # type: ignore[union-attr]
        torch.nn.init.normal_(linear.weight, std=1e-4)
        torch.nn.init.ones_(linear.bias)
    return MetricLearner(encoder, InfoNCELoss(), lr=1e-9)


class Keep(pl.Callback):
    """Keeps the vectors of every batch."""

    def __init__(self) -> None:
        self.vectors: list[torch.Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.vectors.append(outputs["vectors"])


@pytest.mark.parametrize("collapsed", [True, False])
@pytest.mark.parametrize("every", [4, 50])  # 10 steps: two looks and one at the end, or only that
def test_the_alarm(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, collapsed: bool, every: int
) -> None:
    keep, alarm = Keep(), CollapseAlarm(every)
    fit = trainer(tmp_path, keep, alarm)
    with caplog.at_level(logging.WARNING, "lit_metric"):
        fit.fit(learner(small, collapsed), small.data())
    assert alarm.warned == collapsed
    told = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(told) == collapsed
    if collapsed:
        step = 4 if every == 4 else 10
        assert f"collapsed at step {step}: pairwise spread" in told[0]
    if every == 4:
        seen = torch.nn.functional.normalize(torch.cat(keep.vectors[4:8]), dim=1)
        logged = float(fit.logged_metrics["train/effective_rank"])
        assert logged == pytest.approx(float(effective_rank(seen)), rel=1e-4)
        assert (logged < 1.01) == collapsed


def test_a_run_has_one_alarm_and_it_is_ours_if_none_is_given(small: Small, tmp_path: Path) -> None:
    given = CollapseAlarm(7)
    for callbacks, every in (([], 50), ([given], 7)):
        fit = trainer(tmp_path, *callbacks, max_steps=1)
        fit.fit(small.learner(), small.data())
        assert [one.every for one in fit.callbacks if isinstance(one, CollapseAlarm)] == [every]


def test_looks_are_at_least_a_step_apart() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, not 0"):
        CollapseAlarm(0)


class Stuck(TripletLoss):
    """A triplet loss that has the values of a list, one at each step."""

    def __init__(self, values: list[float], margin: Any = 0.2) -> None:
        super().__init__(margin)
        self.values = values

    def on_pairs(self, anchors: Any, candidates: Any, pairs: Any) -> Any:
        loss = super().on_pairs(anchors, candidates, pairs)["loss"]
        return {"loss": 0.0 * loss + self.values.pop(0)}


@pytest.mark.parametrize(
    ("margin", "values", "rings"),
    [
        (0.2, [0.2] * 12, True),  # the vectors are healthy, the loss is where it would be for one point
        ("soft", [math.log(2)] * 12, True),
        (0.2, [0.201, 0.199] * 6, True),
        (0.2, [0.2] * 6 + [0.19] * 6, False),
        (0.2, [0.2] * 9, False),  # too few steps say nothing
        (0.2, [0.693] * 12, False),  # log 2 is the plateau of the soft margin alone
        (0.3, torch.linspace(0.35, 0.25, 12).tolist(), False),
    ],
)
def test_a_loss_that_stays_at_its_plateau(
    small: Small,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    margin: Any,
    values: list[float],
    rings: bool,
) -> None:
    alarm, steps = CollapseAlarm(len(values)), len(values)
    with caplog.at_level(logging.WARNING, "lit_metric"):
        learner = small.learner(Stuck([*values], margin), lr=1e-9)
        fit = trainer(tmp_path, alarm, max_steps=steps, max_epochs=-1, limit_val_batches=0)
        fit.fit(learner, small.data())
    assert alarm.warned == rings
    told = [record.getMessage() for record in caplog.records if "stuck" in record.getMessage()]
    assert len(told) == rings
    if rings:
        plateau = "0.693" if margin == "soft" else "0.2"
        assert f"stuck at step {steps}: the loss has stayed at {plateau} for {steps} steps" in told[0]


def test_each_window_is_looked_at_by_itself_and_other_losses_have_no_plateau(
    small: Small, tmp_path: Path
) -> None:
    alarm = CollapseAlarm(10)
    learner = small.learner(Stuck([0.2] * 9 + [0.5] * 2 + [0.2] * 9), lr=1e-9)
    trainer(tmp_path, alarm, max_steps=20, max_epochs=-1, limit_val_batches=0).fit(learner, small.data())
    assert not alarm.warned
    assert InfoNCELoss().plateau is None
