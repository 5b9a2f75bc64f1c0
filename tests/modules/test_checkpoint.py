"""A checkpoint is loaded by itself, whatever ended the run; what could not be is refused before training."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

import lit_metric
from lit_metric import MetricLearner, Refresh, TextEncoder, TwoTowerLearner
from lit_metric.encoders import CLSPooling, Pooling, SetEncoder, TwoTowerEncoder
from lit_metric.losses import InfoNCELoss, MetricLoss, ProxyAnchorLoss
from lit_metric.mining import Miner
from lit_metric.mining.filters import NegativeFilter
from tests import forked
from tests.modules.test_two_tower import data as pairs
from tests.small import Small, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["w5 w6 w30", "w8 w9 w40"]


class Stop(Callback):
    """Ends the run as Ctrl-C does, in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class Odd(TextEncoder):
    """Can't be built from a folder."""

    def __init__(self, name: str) -> None:
        super().__init__(name)


class OddFilter(NegativeFilter):
    """Loses its argument."""

    def __init__(self, number: int) -> None:
        self.other = number

    def keep(self, candidates: Any) -> Any:  # pragma: no cover
        raise AssertionError


class OddLoss(InfoNCELoss):
    """Takes what can't be written down."""

    def __init__(self, function: Any) -> None:
        super().__init__()


def checkpoints(folder: Path, **options: Any) -> ModelCheckpoint:
    kept = {"filename": "best", "monitor": "val/map@r", "mode": "max", "save_last": True}
    return ModelCheckpoint(folder / "checkpoints", **{**kept, **options})


def test_a_checkpoint_is_the_encoder_that_was_trained(small: Small, tmp_path: Path) -> None:
    learner = small.learner(warmup=0.25, weight_decay=0.05, knn=[3], lr_scale={"encoder": 2.0})
    run = trainer(tmp_path, max_epochs=1)
    run.fit(learner, small.data())
    run.save_checkpoint(tmp_path / "a.ckpt")
    expected = learner.encoder.encode(TEXTS)
    np.testing.assert_array_equal(lit_metric.load(tmp_path / "a.ckpt").encode(TEXTS), expected)
    loaded = MetricLearner.load_from_checkpoint(tmp_path / "a.ckpt")
    np.testing.assert_array_equal(loaded.encode(TEXTS), expected)
    assert distance(weights(loaded), weights(learner)) == 0
    assert loaded.loss.spec() == learner.loss.spec()
    assert (loaded.lr, loaded.warmup, loaded.weight_decay, loaded.knn) == (1e-3, 0.25, 0.05, (3,))
    assert loaded.lr_scale == {"encoder": 2.0}
    other = MetricLearner.load_from_checkpoint(tmp_path / "a.ckpt", loss=InfoNCELoss(0.7), lr=0.5)
    assert (other.lr, other.loss.spec()["init_args"]["temperature"]) == (0.5, 0.7)
    # another process, from another folder, without the backbone's
    code = "import sys, lit_metric; print(lit_metric.load(sys.argv[1]).encode(sys.argv[2:]).tolist())"
    command = [sys.executable, "-c", code, str(tmp_path / "a.ckpt"), *TEXTS]
    done = forked.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, atol=1e-6)


def test_proxies_towers_and_sets_too(small: Small, tmp_path: Path) -> None:
    learner: MetricLearner = MetricLearner(TextEncoder(small / "backbone"), ProxyAnchorLoss())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(learner, small.data())
    run.save_checkpoint(tmp_path / "proxies.ckpt")
    loaded = MetricLearner.load_from_checkpoint(tmp_path / "proxies.ckpt")
    assert torch.equal(loaded.loss.proxies, learner.loss.proxies)  # type: ignore[union-attr, arg-type]

    towers = [TextEncoder(small / "backbone", projection=4, freeze=frozen) for frozen in (False, True)]
    two = TwoTowerLearner(*towers, InfoNCELoss(), lr=2e-4)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(two, pairs(tmp_path))
    run.save_checkpoint(tmp_path / "towers.ckpt")
    again = TwoTowerLearner.load_from_checkpoint(tmp_path / "towers.ckpt")
    assert isinstance(again, TwoTowerLearner)
    assert again.lr == 2e-4
    encoder = lit_metric.load(tmp_path / "towers.ckpt")
    assert isinstance(encoder, TwoTowerEncoder)
    for role in ("query", "document"):
        expected = two.encoder.encode(TEXTS, role=role)
        np.testing.assert_array_equal(again.encode(TEXTS, role=role), expected)
        np.testing.assert_array_equal(encoder.encode(TEXTS, role=role), expected)

    sets = MetricLearner(SetEncoder(TextEncoder(small / "backbone"), projection=3), InfoNCELoss())
    source = {"train": small / "train.parquet", "test": small / "test.parquet"}
    run = trainer(tmp_path, max_epochs=1)
    run.fit(sets, small.data(**source))
    run.save_checkpoint(tmp_path / "sets.ckpt")
    tags = [["w5", "w6"], ["w7"]]
    np.testing.assert_array_equal(
        lit_metric.load(tmp_path / "sets.ckpt").encode(tags), sets.encoder.encode(tags)
    )


def test_an_interrupted_run_is_loaded_from_its_best_then_its_last(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lit_metric")
    learner = small.learner()
    run = trainer(tmp_path, checkpoints(tmp_path), Stop(12), max_epochs=4)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        run.fit(learner, small.data())
    assert run.global_step == 12
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt"]
    # Nothing but the record inside a checkpoint says which is the best.
    (tmp_path / "checkpoints" / "best.ckpt").rename(tmp_path / "checkpoints" / "epoch=1.ckpt")
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    for state in last["callbacks"].values():
        if "best_model_path" in state:
            state["best_model_path"] = "/moved/away/epoch=1.ckpt"
    last["state_dict"] = {
        name: value * 1.5 if value.is_floating_point() else value
        for name, value in last["state_dict"].items()
    }
    last["global_step"] += 1
    torch.save(last, tmp_path / "checkpoints" / "last.ckpt")
    best = lit_metric.load(tmp_path / "checkpoints" / "epoch=1.ckpt").encode(TEXTS)
    newest = lit_metric.load(tmp_path / "checkpoints" / "last.ckpt").encode(TEXTS)
    assert not np.allclose(best, newest, atol=1e-3)
    np.testing.assert_array_equal(lit_metric.load(tmp_path).encode(TEXTS), best)
    assert "loaded the encoder of the best checkpoint" in caplog.text
    # a run that was killed while it wrote
    whole = (tmp_path / "checkpoints" / "epoch=1.ckpt").read_bytes()
    (tmp_path / "checkpoints" / "epoch=1.ckpt").write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(lit_metric.load(tmp_path).encode(TEXTS), newest)
    assert "epoch=1.ckpt can't be read" in caplog.text
    assert "loaded the encoder of the last checkpoint" in caplog.text
    learner.encoder.save(tmp_path / "model")
    np.testing.assert_array_equal(lit_metric.load(tmp_path).encode(TEXTS), learner.encoder.encode(TEXTS))
    lit_metric.export(lit_metric.load(tmp_path / "checkpoints" / "last.ckpt"), tmp_path / "exported")
    np.testing.assert_allclose(lit_metric.load(tmp_path / "exported").encode(TEXTS), newest, atol=1e-6)


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt")
    torch.save({"state_dict": {}, "filter": logging.Filter("a")}, tmp_path / "pickled.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    for name, message in {
        "text": "can't be read as a checkpoint",
        "old": r"doesn't describe its encoder.*load_from_checkpoint\(path, encoder=",
        "pickled": "could run code and is not read",
        "list": "no checkpoint of a training run",
    }.items():
        with pytest.raises(ValueError, match=message) as told:
            lit_metric.load(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        MetricLearner.load_from_checkpoint(tmp_path / "none.ckpt")


def test_a_checkpoint_of_an_earlier_version_takes_an_encoder(small: Small, tmp_path: Path) -> None:
    learner = small.learner()
    run = trainer(tmp_path, max_epochs=1)
    run.fit(learner, small.data())
    run.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["lit_metric"]
    torch.save(content, tmp_path / "old.ckpt")
    loaded = MetricLearner.load_from_checkpoint(
        tmp_path / "old.ckpt", encoder=TextEncoder(small / "backbone"), loss=InfoNCELoss()
    )
    np.testing.assert_array_equal(loaded.encode(TEXTS), learner.encoder.encode(TEXTS))


class Foreign(Pooling):
    """A pooling of the user's own."""

    def forward(self, states, weights=None):  # type: ignore[no-untyped-def]
        return CLSPooling()(states)


def test_foreign_classes_need_trust(small: Small, tmp_path: Path) -> None:
    learner = MetricLearner(TextEncoder(small / "backbone", Foreign()), InfoNCELoss())
    run = trainer(tmp_path, max_epochs=1)
    run.fit(learner, small.data())
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="Foreign lies outside lit_metric"):
        lit_metric.load(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="Foreign lies outside lit_metric"):
        MetricLearner.load_from_checkpoint(tmp_path / "a.ckpt")
    loaded = lit_metric.load(tmp_path / "a.ckpt", trust_remote_code=True)
    np.testing.assert_array_equal(loaded.encode(TEXTS), learner.encoder.encode(TEXTS))


def test_what_can_t_be_loaded_again_is_refused_before_the_first_batch(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    never = Stop(0)
    odd = MetricLearner(Odd(small / "backbone"), InfoNCELoss())
    with pytest.raises(ValueError, match="Odd can't be saved: its __init__ has to take backbone"):
        trainer(tmp_path, never).fit(odd, small.data())
    for mode in ("inline", "scheduled"):
        data = small.data(miner=Miner(filters=[OddFilter(3)]), refresh=Refresh(mode=mode))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="OddFilter cannot be described: its argument 'number'"):
            trainer(tmp_path, never).fit(small.learner(), data)
    assert never.step == 0
    assert not odd.trainer.global_step
    loss: MetricLoss = OddLoss(len)
    learner = small.learner(loss)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(learner, small.data())
    assert "Checkpoints can't describe the loss" in caplog.text
    run.save_checkpoint(tmp_path / "a.ckpt")
    np.testing.assert_array_equal(
        lit_metric.load(tmp_path / "a.ckpt").encode(TEXTS), learner.encoder.encode(TEXTS)
    )
    with pytest.raises(ValueError, match=r"doesn't describe its loss: pass one.*loss=InfoNCELoss\(\)"):
        MetricLearner.load_from_checkpoint(tmp_path / "a.ckpt")
