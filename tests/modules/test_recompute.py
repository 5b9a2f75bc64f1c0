"""A fit that recomputes chunks ends with the weights of one that keeps everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_metric import MetricDataModule, MetricLearner, Miner, Refresh, TextEncoder
from lit_metric.losses import InfoNCELoss
from tests.modules.test_tasks import mixture
from tests.small import Small, Watch, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def data(kind: str, small: Small, folder: Path) -> MetricDataModule:
    """Mined negatives, two data sets, or the questions as they are."""
    if kind == "mixture":
        return mixture(small, folder)
    if kind in ("mined", "adapter"):
        return small.data(miner=Miner(top_k=4, negatives=2), refresh=Refresh(mode="inline"))
    return small.data()


@pytest.mark.parametrize("kind", ["mined", "mixture", "accumulated", "adapter"])
def test_a_fit_ends_with_the_same_weights(small: Small, tmp_path: Path, kind: str) -> None:
    ways: dict[str, dict[str, Any]] = {
        "none": {},
        "chunks": {"recompute": "chunks", "max_tokens_in_memory": 24},
        "layers": {"recompute": "layers"},
    }
    settings: dict[str, Any] = {"lr": 1e-3}
    adapter = None
    if kind == "adapter":
        pytest.importorskip("peft", reason="needs peft, of the extra 'peft'")
        adapter = {"peft_type": "LORA", "r": 4, "target_modules": ["query", "value"]}
        settings |= {"lr": 1e-2, "memory": 20, "layer_decay": 0.8}
    ends, losses = {}, {}
    for name, options in ways.items():
        torch.manual_seed(0)  # of the adapter's initial weights
        encoder, watch = TextEncoder(small / "backbone", dropout=0.0, adapter=adapter, **options), Watch()
        learner = MetricLearner(encoder, InfoNCELoss(0.2), **settings).double()
        start = weights(learner)
        more = {"accumulate_grad_batches": 2} if kind == "accumulated" else {}
        run = trainer(tmp_path, watch, max_epochs=1, limit_val_batches=0, **more)
        run.fit(learner, data(kind, small, tmp_path))
        ends[name], losses[name] = weights(learner), watch.losses
        assert distance(ends[name], start) > 1e-4
    for name in ("chunks", "layers"):
        assert distance(ends[name], ends["none"]) < 1e-9
        assert losses[name] == pytest.approx(losses["none"], abs=1e-9)
