"""A run that was interrupted ends with the weights of one that was not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric import Miner, Refresh
from lit_metric.losses import InfoNCELoss
from tests.small import Small, Watch, distance, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 5
INLINE = Refresh(mode="inline")


def fit(
    small: Small,
    folder: Path,
    *callbacks: Any,
    resume: Path | None = None,
    workers: int = 0,
    miner: bool = False,
    **options: Any,
) -> tuple[dict[str, torch.Tensor], Watch]:
    """Three epochs with dropout and a learned temperature; the final weights, and what was seen."""
    learner = small.learner(InfoNCELoss(0.2, learnable=True), dropout=0.1)
    data = small.data(
        num_workers=workers, miner=Miner(top_k=5, negatives=2) if miner else None, refresh=INLINE
    )
    watch = Watch()
    torch.manual_seed(len(str(folder)))  # of no consequence
    trainer(folder, watch, *callbacks, max_epochs=3, **options).fit(learner, data, ckpt_path=resume)
    return weights(learner), watch


def saving(folder: Path, **when: Any) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder / "checkpoints", "{step}", auto_insert_metric_name=False, save_top_k=-1, **when
    )


EVERY_STEP = {"every_n_train_steps": 1}
AFTER_VALIDATION = {"save_on_train_epoch_end": False}
AFTER_EPOCH = {"save_on_train_epoch_end": True}


@pytest.mark.parametrize(
    ("when", "step", "workers", "miner"),
    [
        (EVERY_STEP, 7, 0, False),
        (EVERY_STEP, 7, 2, False),
        (EVERY_STEP, 7, 0, True),
        (EVERY_STEP, 12, 2, True),
        (EVERY_STEP, 3, 0, True),
        (EVERY_STEP, 10, 0, True),  # the last of an epoch, before its table is replaced
        (AFTER_VALIDATION, 5, 0, True),
        (AFTER_VALIDATION, 10, 2, True),
        (AFTER_EPOCH, 5, 2, True),
        (AFTER_EPOCH, 10, 0, False),
    ],
)
def test_a_resumed_run_ends_like_the_whole_one(
    small: Small, tmp_path: Path, when: dict[str, Any], step: int, workers: int, miner: bool
) -> None:
    shared = {"workers": workers, "miner": miner}
    whole, watch = fit(small, tmp_path / "whole", saving(tmp_path, **when), **shared)
    # Tables that were mined after the checkpoint are of no use to the resumed run, nor in its way.
    resumed, rest = fit(
        small,
        tmp_path / "whole",
        saving(tmp_path / "again", **when),
        resume=tmp_path / "checkpoints" / f"{step}.ckpt",
        **shared,
    )
    assert len(watch.anchors) == 3 * STEPS
    assert rest.anchors == watch.anchors[step:]
    assert rest.candidates == watch.candidates[step:]
    assert rest.rates == watch.rates[step:]
    assert rest.losses == watch.losses[step:]
    assert distance(resumed, whole) == 0


def test_what_stands_in_a_checkpoint_matters(small: Small, tmp_path: Path) -> None:
    """The comparison above would notice: a run from the same place with other noise ends elsewhere."""
    whole, _ = fit(small, tmp_path / "whole", saving(tmp_path, **EVERY_STEP))
    state = torch.load(tmp_path / "checkpoints" / "7.ckpt", weights_only=True)
    assert state["global_step"] == 7
    for group in state["optimizer_states"][0]["state"].values():
        group["exp_avg"].zero_()
    torch.save(state, tmp_path / "other.ckpt")
    resumed, _ = fit(small, tmp_path / "resumed", resume=tmp_path / "other.ckpt")
    assert distance(resumed, whole) > 1e-6


def test_a_table_that_is_gone_is_mined_again(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(small, tmp_path, saving(tmp_path, **EVERY_STEP), miner=True)
    shutil.rmtree(tmp_path / "negatives")
    _, rest = fit(small, tmp_path, resume=tmp_path / "checkpoints" / "7.ckpt", miner=True)
    assert "The checkpoint's table of negatives can't be used, so one is mined" in caplog.text
    assert len(rest.anchors) == 8
    assert all(len(met) > len(anchors) for anchors, met in zip(rest.anchors, rest.candidates, strict=True))


def flip(folder: Path) -> None:
    content = bytearray((folder / "ids.npy").read_bytes())
    content[-3] ^= 1
    (folder / "ids.npy").write_bytes(content)


def cut(folder: Path) -> None:
    (folder / "scores.npy").write_bytes((folder / "scores.npy").read_bytes()[:-4])


def other_tokenizer(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "tokenizer": "other"}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, r"v000002/ids\.npy is damaged: its sha256 is not the manifest's"),
        (cut, r"v000002/scores\.npy is damaged: its sha256"),
        (other_tokenizer, r"v000002 was mined with another tokenizer \(other, not "),
    ],
)
def test_a_table_that_is_not_what_it_was_is_refused_and_mined_again(
    small: Small,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    _, watch = fit(small, tmp_path, saving(tmp_path, **EVERY_STEP), miner=True)
    tables = tmp_path / "negatives"
    damage(tables / "v000002")
    _, rest = fit(small, tmp_path, resume=tmp_path / "checkpoints" / "7.ckpt", miner=True)
    assert re.search("can't be used, so one is mined: .*" + reason, caplog.text)
    # Mined with the weights of step 7, where the damaged one was of step 5.
    manifest = json.loads((tables / "v000004" / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert rest.candidates != watch.candidates[7:]
    assert len(rest.anchors) == 8


def test_a_table_of_other_items_is_not_used(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(small, tmp_path, saving(tmp_path, **EVERY_STEP), miner=True)
    learner = small.learner(InfoNCELoss(0.2, learnable=True))
    data = small.data(
        train=[small / "train.csv", small / "test.csv"], miner=Miner(top_k=5), refresh=INLINE, test=None
    )
    data.read()
    # Such a resume is refused by what the checkpoint says of its data; here it says nothing.
    state = torch.load(tmp_path / "checkpoints" / "7.ckpt", weights_only=True)
    assert state.pop("MetricDataModule")["corpus"] != data.corpus
    del state["run_options"], state["callbacks"]["MiningCallback"]["times"]
    torch.save(state, tmp_path / "other.ckpt")
    trainer(tmp_path, max_steps=8).fit(learner, data, ckpt_path=tmp_path / "other.ckpt")
    assert "was mined for another corpus" in caplog.text
