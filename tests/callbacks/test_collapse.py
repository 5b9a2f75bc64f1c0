"""The alarm rings for embeddings of one point, and for no others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_metric import MetricLearner, TextEncoder
from lit_metric.callbacks import CollapseAlarm
from lit_metric.losses import InfoNCELoss
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
