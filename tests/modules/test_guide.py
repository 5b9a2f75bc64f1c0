"""Training with a guide."""

from __future__ import annotations

from pathlib import Path

import torch

from lit_metric import TextEncoder
from lit_metric.losses import GuidedLoss, InfoNCELoss, Loss, SumLoss
from tests.small import Small, Watch, trainer


def losses_with(small: Small, folder: Path, loss: Loss) -> list[float]:
    watch = Watch()
    trainer(folder, watch, max_epochs=1).fit(small.learner(loss), small.data(seed=0))
    return watch.losses


def test_a_guide_leaves_out_what_it_finds_alike(small: Small, tmp_path: Path) -> None:
    guide = small / "backbone"
    plain = losses_with(small, tmp_path, InfoNCELoss(0.2))
    everything = GuidedLoss(InfoNCELoss(0.2), guide, threshold=1.1)
    assert losses_with(small, tmp_path, everything) == plain
    nothing = GuidedLoss(InfoNCELoss(0.2), guide, threshold=-1.1)
    assert losses_with(small, tmp_path, nothing) == [0.0] * len(plain)
    nested = GuidedLoss(InfoNCELoss(0.2), guide, threshold=None, margin=0.0)
    some = losses_with(small, tmp_path, SumLoss({"guided": nested}))
    assert len(some) == len(plain)
    assert 0 < some[0] < plain[0]


def test_the_guide_knows_every_item_by_its_id(small: Small, tmp_path: Path) -> None:
    loss = GuidedLoss(InfoNCELoss(0.2), small / "backbone")
    data = small.data(seed=0)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(small.learner(loss), data)
    assert loss.vectors is not None
    encoder = TextEncoder(small / "backbone")
    for item in (0, 5, len(data.items) - 1):
        vector = torch.from_numpy(encoder.encode(data.texts_of(item)))[0]
        torch.testing.assert_close(loss.vectors[item], vector / vector.norm(), rtol=0, atol=1e-5)
