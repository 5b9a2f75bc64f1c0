"""The weights that a run starts from, kept for its report."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from lit_metric.callbacks.untrained import UNTRAINED, KeepUntrained
from tests.small import Small, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_first_weights_are_kept_and_a_resumed_run_leaves_them(small: Small, tmp_path: Path) -> None:
    learner = small.learner(lr=0.01)
    first = weights(learner.encoder)
    saving = ModelCheckpoint(tmp_path, "last")
    trainer(tmp_path, KeepUntrained(), saving, max_epochs=1).fit(learner, small.data())
    assert distance(load_file(tmp_path / UNTRAINED), first) == 0
    assert distance(weights(learner.encoder), first) > 0
    again, more = small.learner(lr=0.01), trainer(tmp_path, KeepUntrained(), max_epochs=2)
    more.fit(again, small.data(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert distance(load_file(tmp_path / UNTRAINED), first) == 0


def test_a_trial_writes_nothing(small: Small, tmp_path: Path) -> None:
    kept = KeepUntrained()
    trainer(tmp_path, kept, fast_dev_run=True).fit(small.learner(), small.data())
    assert kept.folder is None
    assert not (tmp_path / UNTRAINED).exists()
