"""The weights that a run starts from, and the vectors that it measures, kept for its page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.nn.functional import normalize

from lit_metric.callbacks import RunReport, untrained
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


def test_measured_vectors_are_kept_before_and_after(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, data = small.learner(lr=0.01), small.data()
    kept, before = KeepUntrained(), small.learner().encoder
    trainer(tmp_path, kept, RunReport(), max_epochs=1).fit(learner, data)
    assert set(kept.vectors) == {"before", "after"}
    ids = torch.cat([data.splits[name] for name in data.roles("test").values()]).sort().values
    texts = [data.texts_of(each)[0] for each in ids.tolist()]
    for when, encoder in (("before", before), ("after", learner.encoder)):
        assert kept.vectors[when].ids.tolist() == ids.tolist()
        expected = torch.from_numpy(encoder.encode(texts))
        found = kept.vectors[when].by("cosine").of(ids)
        torch.testing.assert_close(found, normalize(expected, dim=1), atol=1e-5, rtol=0)
    # Of a large split none are kept, nor those of an earlier fit.
    monkeypatch.setattr(untrained, "MOST", len(ids) - 1)
    again, more = small.learner(), trainer(tmp_path, kept, RunReport(), max_epochs=1)
    more.fit(again, small.data())
    assert kept.vectors == {}
