"""Lightning itself: the batches after a resume are those that an uninterrupted run would have seen."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from lit_metric.batching import PKPlanner, PlanDataset, PlanSampler, resume_position
from lit_metric.data import Batch, Collator, Items, LabelRelations, Tokens

EPOCHS, STEPS = 3, 5  # 60 items in batches of 12
Seen = list[list[int]]


def dataset_of(rank: int = 0, world_size: int = 1) -> PlanDataset:
    items, vocabulary = Items.encode([[str(number)] for number in range(60)])
    tokens = Tokens.from_lists([[number] for number in range(len(vocabulary))])
    relations = LabelRelations(torch.arange(60) % 6, list("abcdef"), items.fingerprints)
    return PlanDataset(
        PKPlanner(4, 3),
        torch.arange(60),
        relations,
        Collator(items, tokens),
        rank=rank,
        world_size=world_size,
    )


class Tiny(pl.LightningModule):
    """Notes the anchors of each batch that it trains on; fails at step ``fails_at``, before counting it."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fails_at = fails_at
        self.seen: Seen = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.fails_at:
            raise ZeroDivisionError
        self.seen.append(batch.anchor_ids.tolist())
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(pl.LightningDataModule):
    def __init__(self, workers: int, validate: bool) -> None:
        super().__init__()
        self.workers = workers
        if validate:
            self.val_dataloader = lambda: DataLoader(list(range(2)))  # type: ignore[method-assign]

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        trainer = self.trainer
        dataset = dataset_of(trainer.global_rank, trainer.world_size)
        sampler = PlanSampler(len(dataset), lambda: resume_position(trainer))
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )


class SaveOnFailure(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        trainer.save_checkpoint(self.path)


def fit(
    *callbacks: Callback,
    workers: int = 0,
    validate: bool = False,
    resume: Path | None = None,
    fails_at: int | None = None,
    **options: Any,
) -> Seen:
    model = Tiny(fails_at)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )
    try:
        trainer.fit(model, Data(workers, validate), ckpt_path=resume)
    except ZeroDivisionError:
        assert fails_at is not None
    return model.seen


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def whole() -> Seen:
    dataset = dataset_of()
    return [dataset[epoch, step, 0].anchor_ids.tolist() for epoch in range(EPOCHS) for step in range(STEPS)]


def saved_steps(folder: Path) -> dict[int, Path]:
    found = {path: re.search(r"step=(\d+)", path.name) for path in folder.iterdir()}
    return {int(match[1]): path for path, match in found.items() if match}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_uninterrupted_run_sees_every_epochs_own_plan(whole, workers):
    assert fit(workers=workers) == whole
    assert fit(workers=workers, reload_dataloaders_every_n_epochs=1) == whole


@pytest.mark.parametrize("options", [{}, {"validate": True}, {"reload_dataloaders_every_n_epochs": 1}])
def test_a_resume_goes_on_at_the_very_next_batch_wherever_it_was_saved(tmp_path, whole, options):
    def saving(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, "{step}", save_top_k=-1, every_n_train_steps=1)

    fit(saving("whole"), **options)
    checkpoints = saved_steps(tmp_path / "whole")
    assert sorted(checkpoints) == list(range(1, EPOCHS * STEPS + 1))
    for step, path in checkpoints.items():
        assert fit(saving("resumed"), resume=path, **options) == whole[step:], step


@pytest.mark.parametrize("reload", [0, 1])
@pytest.mark.parametrize(
    ("when", "options", "steps"),
    [
        ({"save_on_train_epoch_end": True}, {}, [5, 10, 15]),
        ({"save_on_train_epoch_end": False}, {"validate": True}, [5, 10, 15]),
        (
            {"save_on_train_epoch_end": False},
            {"validate": True, "val_check_interval": 2},
            [2, 4, 7, 9, 12, 14],
        ),
    ],
)
def test_a_resume_from_the_end_of_an_epoch_or_of_a_validation(tmp_path, whole, when, options, steps, reload):
    options = options | {"reload_dataloaders_every_n_epochs": reload}
    fit(ModelCheckpoint(tmp_path / "whole", "{step}", save_top_k=-1, **when), **options)
    checkpoints = saved_steps(tmp_path / "whole")
    assert sorted(checkpoints) == steps
    for step, path in checkpoints.items():
        saving = ModelCheckpoint(tmp_path / "resumed", "{step}", save_top_k=-1, **when)
        assert fit(saving, resume=path, **options) == whole[step:], step


@pytest.mark.parametrize("step", [0, 3, 5, 9, 12])
def test_a_batch_whose_training_failed_is_trained_again(tmp_path, whole, step):
    assert fit(SaveOnFailure(tmp_path / "failed.ckpt"), fails_at=step) == whole[:step]
    assert fit(resume=tmp_path / "failed.ckpt") == whole[step:]


def test_resuming_with_workers_that_prefetch(tmp_path, whole):
    fit(ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=7), workers=2)
    assert fit(workers=2, resume=saved_steps(tmp_path)[7]) == whole[7:]
    assert fit(workers=0, resume=saved_steps(tmp_path)[14]) == whole[14:]


def test_a_run_interrupted_twice(tmp_path, whole):
    first, second = tmp_path / "first", tmp_path / "second"
    assert fit(ModelCheckpoint(first, "{step}", every_n_train_steps=4), max_steps=4) == whole[:4]
    resumed = fit(
        ModelCheckpoint(second, "{step}", every_n_train_steps=4), resume=saved_steps(first)[4], max_steps=8
    )
    assert resumed == whole[4:8]
    assert fit(resume=saved_steps(second)[8]) == whole[8:]


def test_fewer_batches_than_planned(whole):
    expected = [batch for epoch in range(EPOCHS) for batch in whole[epoch * STEPS : epoch * STEPS + 2]]
    assert fit(limit_train_batches=2) == expected
    assert fit(overfit_batches=2) == whole[:2] * EPOCHS


RANKS = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.batching.test_resume import Data, Tiny
folder, resume = Path(sys.argv[1]), sys.argv[2:3]
model = Tiny()
saving = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=7)
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=3, logger=False, enable_progress_bar=False,
    enable_model_summary=False, num_sanity_val_steps=0, callbacks=[saving],
)
trainer.fit(model, Data(workers=0, validate=False), ckpt_path=resume[0] if resume else None)
(folder / f"rank{trainer.global_rank}{'-resumed' if resume else ''}.txt").write_text(json.dumps(model.seen))
"""


@pytest.mark.slow
def test_two_ranks_share_each_batch_and_resume(tmp_path, whole):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)

    def run(*resume: str) -> Seen:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(script), str(tmp_path), *resume]
        root = Path(__file__).parents[2]
        environment = {"PYTHONPATH": str(root), "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=root, env=environment, capture_output=True, timeout=600)
        suffix = "-resumed" if resume else ""
        ranks = [json.loads((tmp_path / f"rank{rank}{suffix}.txt").read_text()) for rank in (0, 1)]
        return [first + second for first, second in zip(*ranks, strict=True)]

    assert run() == whole
    assert run(str(saved_steps(tmp_path)[7])) == whole[7:]
