"""A run that was interrupted ends with the weights of one that was not."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
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


WHEN: dict[str, dict[str, Any]] = {
    "every step": {"every_n_train_steps": 1},
    "after validation": {"save_on_train_epoch_end": False},
    "after an epoch": {"save_on_train_epoch_end": True},
}


@dataclass
class Whole:
    """A run that nothing interrupted; ``root`` holds ``checkpoints`` and ``run``, which holds the tables."""

    root: Path
    weights: dict[str, torch.Tensor]
    watch: Watch

    def copy(self, folder: Path) -> Path:
        """The root of a copy, to go on in."""
        return shutil.copytree(self.root, folder / "whole")


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Whole]:
    """Each kind of run is made once, when a test first asks for it."""

    @functools.cache
    def made(when: str = "every step", workers: int = 0, miner: bool = False) -> Whole:
        root = tmp_path_factory.mktemp("whole")
        callback = saving(root, **WHEN[when])
        return Whole(root, *fit(small, root / "run", callback, workers=workers, miner=miner))

    return made


@pytest.mark.parametrize(
    ("when", "step", "workers", "miner"),
    [
        ("every step", 7, 0, False),
        ("every step", 7, 2, False),
        ("every step", 7, 0, True),
        ("every step", 12, 2, True),
        ("every step", 3, 0, True),
        ("every step", 10, 0, True),  # the last of an epoch, before its table is replaced
        ("after validation", 5, 0, True),
        ("after validation", 10, 2, True),
        ("after an epoch", 5, 2, True),
        ("after an epoch", 10, 0, False),
    ],
)
def test_a_resumed_run_ends_like_the_whole_one(
    small: Small,
    tmp_path: Path,
    whole: Callable[..., Whole],
    when: str,
    step: int,
    workers: int,
    miner: bool,
) -> None:
    first = whole(when, workers, miner)
    root = first.copy(tmp_path)
    # Tables that were mined after the checkpoint are of no use to the resumed run, nor in its way.
    resumed, rest = fit(
        small,
        root / "run",
        saving(tmp_path / "again", **WHEN[when]),
        resume=root / "checkpoints" / f"{step}.ckpt",
        workers=workers,
        miner=miner,
    )
    assert len(first.watch.anchors) == 3 * STEPS
    assert rest.anchors == first.watch.anchors[step:]
    assert rest.candidates == first.watch.candidates[step:]
    assert rest.rates == first.watch.rates[step:]
    assert rest.losses == first.watch.losses[step:]
    assert distance(resumed, first.weights) == 0


def test_what_stands_in_a_checkpoint_matters(
    small: Small, tmp_path: Path, whole: Callable[..., Whole]
) -> None:
    """The comparison above would notice: a run from the same place with other noise ends elsewhere."""
    first = whole()
    state = torch.load(first.root / "checkpoints" / "7.ckpt", weights_only=True)
    assert state["global_step"] == 7
    for group in state["optimizer_states"][0]["state"].values():
        group["exp_avg"].zero_()
    torch.save(state, tmp_path / "other.ckpt")
    resumed, _ = fit(small, tmp_path / "resumed", resume=tmp_path / "other.ckpt")
    assert distance(resumed, first.weights) > 1e-6


def test_a_table_that_is_gone_is_mined_again(
    small: Small, tmp_path: Path, whole: Callable[..., Whole], caplog: pytest.LogCaptureFixture
) -> None:
    root = whole(miner=True).copy(tmp_path)
    shutil.rmtree(root / "run" / "negatives")
    _, rest = fit(small, root / "run", resume=root / "checkpoints" / "7.ckpt", miner=True)
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
    whole: Callable[..., Whole],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    first = whole(miner=True)
    root = first.copy(tmp_path)
    tables = root / "run" / "negatives"
    damage(tables / "v000002")
    _, rest = fit(small, root / "run", resume=root / "checkpoints" / "7.ckpt", miner=True)
    assert re.search("can't be used, so one is mined: .*" + reason, caplog.text)
    # Mined with the weights of step 7, where the damaged one was of step 5.
    manifest = json.loads((tables / "v000004" / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert rest.candidates != first.watch.candidates[7:]
    assert len(rest.anchors) == 8


def test_a_table_of_other_items_is_not_used(
    small: Small, tmp_path: Path, whole: Callable[..., Whole], caplog: pytest.LogCaptureFixture
) -> None:
    root = whole(miner=True).copy(tmp_path)
    learner = small.learner(InfoNCELoss(0.2, learnable=True))
    data = small.data(
        train=[small / "train.csv", small / "test.csv"], miner=Miner(top_k=5), refresh=INLINE, test=None
    )
    data.read()
    # Such a resume is refused by what the checkpoint says of its data; here it says nothing.
    state = torch.load(root / "checkpoints" / "7.ckpt", weights_only=True)
    assert state.pop("MetricDataModule")["corpus"] != data.corpus
    del state["run_options"], state["callbacks"]["MiningCallback"]["times"]
    torch.save(state, tmp_path / "other.ckpt")
    trainer(root / "run", max_steps=8).fit(learner, data, ckpt_path=tmp_path / "other.ckpt")
    assert "was mined for another corpus" in caplog.text
