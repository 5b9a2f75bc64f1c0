"""Plans by the vectors of a version: which one that is, in every mode, in loader workers, and on resuming."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_metric import MetricDataModule, Miner, Refresh
from lit_metric.batching import HardPKPlanner, NegativeClassPlanner, NGAMEPlanner
from lit_metric.data import Batch, DataError
from lit_metric.encoders.pretrained import fingerprint
from lit_metric.mining import NegativeTable, open_vectors, versions
from lit_metric.refresh import InlineRefresher
from lit_metric.refresh.schedule import TableUses, Timetable
from lit_metric.refresh.snapshot import Bank, Snapshot, trained
from lit_metric.refresh.spec import Job, WorkerSettings
from lit_metric.refresh.worker import Worker
from tests.refresh.fits import split
from tests.small import Small, Watch, trainer

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCH = 5


class Planned(pl.Callback):
    """Notes the version that each epoch is planned by, and sees that each batch is the one of that plan."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        data: MetricDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert data.refresher is not None
        epoch = trainer.current_epoch
        if not self.versions or batch_idx == 0:
            self.versions.append(data.refresher.version(EPOCH * epoch))
            vectors = open_vectors(data.refresher.task.tables, self.versions[-1], data.corpus)
            self.plan = data.planner.plan(data.splits["train"], data.relations, data.seed, epoch, vectors)
        assert batch.anchor_ids.tolist() == self.plan.anchors[batch_idx].tolist()
        planned = self.plan.candidates[batch_idx].tolist()
        assert batch.candidate_ids.tolist()[: len(planned)] == planned


class Fit:
    """Up to three epochs with dropout, planned by vectors."""

    def __init__(self, small: Small, folder: Path, **options: Any) -> None:
        resume, save, steps = (options.pop(name, None) for name in ("resume", "save", "steps"))
        planner = options.pop("planner", None) or HardPKPlanner(4, 3, pool=5)
        workers = options.pop("workers", 0)
        miner, refresh = split({"top_k": 6, "negatives": 2, "mode": "inline", **options})
        self.data = small.data(
            miner=miner, refresh=refresh, planner=planner, num_workers=workers, prefetch_factor=1
        )
        self.learner = small.learner(dropout=0.1)
        self.watch, self.planned = Watch(), Planned()
        callbacks: list[Any] = [self.watch, self.planned]
        if save is not None:
            saving = {"every_n_train_steps": save, "save_top_k": -1, "auto_insert_metric_name": False}
            callbacks.append(ModelCheckpoint(folder / "checkpoints", "{step}", **saving))
        checkpoint = None if resume is None else folder / "checkpoints" / f"{resume}.ckpt"
        run = trainer(folder, *callbacks, max_epochs=3, **({} if steps is None else {"max_steps": steps}))
        run.fit(self.learner, self.data, ckpt_path=checkpoint)
        self.weights = fingerprint(self.learner)
        self.tables = folder / "negatives"


@pytest.mark.parametrize(
    ("workers", "timed"),
    [
        (0, {"every": 2}),
        (2, {"every": 2}),
        # A table from every second batch on, two batches old when it comes into use.
        (0, {"every": 2, "mode": "scheduled", "delay": 2}),
    ],
    ids=["inline", "inline with loader workers", "scheduled"],
)
def test_an_epoch_is_planned_by_the_version_of_its_first_batch_also_when_resumed(
    small: Small, tmp_path: Path, workers: int, timed: dict[str, Any]
) -> None:
    whole = Fit(small, tmp_path, workers=workers, save=9, **timed)
    # Batches 0, 5 and 10: inline, mined at 0, 4 and 10; otherwise in use from 0, 4 and 10 on.
    expected = [1, 3, 6] if "mode" not in timed else [1, 2, 5]
    assert whole.planned.versions == expected
    rest = Fit(small, tmp_path, workers=workers, resume=9, **timed)
    # At batch 9 newer tables were in use than that of batch 5, and the two newest would not have been it.
    assert rest.planned.versions[0] == expected[1] < rest.data.refresher.version(9) - 1
    assert rest.watch.anchors == whole.watch.anchors[9:]
    assert rest.watch.candidates == whole.watch.candidates[9:]
    assert rest.watch.losses == whole.watch.losses[9:]
    assert rest.weights == whole.weights


def test_a_checkpoint_names_the_version_that_its_epoch_is_planned_by() -> None:
    def named(trained: int, publish_vectors: bool) -> list[list[int]]:
        task: Any = SimpleNamespace(publish_vectors=publish_vectors)
        refresher = InlineRefresher(task, run, Timetable(EPOCH, 2, 2))
        refresher.uses = TableUses([(0, 1, 0), (4, 2, 2), (6, 3, 4), (8, 4, 6), (10, 5, 8)])
        refresher.trained = trained
        return refresher.state()["uses"]

    run: Any = None
    assert named(9, publish_vectors=False) == [[8, 4, 6], [10, 5, 8]]
    assert named(9, publish_vectors=True) == [[4, 2, 2], [8, 4, 6], [10, 5, 8]]
    assert named(10, publish_vectors=True) == [[10, 5, 8]]


@pytest.mark.parametrize("planner", [NegativeClassPlanner(4, pool=6), NGAMEPlanner(12, 4)])
def test_vectors_alone_are_published_without_a_search(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planner: Any
) -> None:
    def search(*_: Any) -> None:
        raise AssertionError("nothing is to be searched")

    monkeypatch.setattr("lit_metric.mining.miner.NeighbourProposer.fit", search)
    done = Fit(small, tmp_path, planner=planner, negatives=0)
    length = planner.length(torch.arange(60), done.data.relations, 0)
    assert versions(done.tables) == [2, 3]
    assert done.data.batches_per_epoch == length
    assert len(done.watch.anchors) == 3 * length
    assert NegativeTable.open(done.tables, 3).ids.shape == (60, 0)


def test_vectors_are_those_of_the_weights_of_the_moment(small: Small, tmp_path: Path) -> None:
    untrained = small.learner().encoder
    done = Fit(small, tmp_path, every="never", steps=1)
    ids = done.data.splits["train"].sort().values
    texts = [done.data.texts_of(item)[0] for item in ids.tolist()]
    vectors = open_vectors(done.tables, 1, done.data.corpus)
    assert vectors.values.dtype == np.float16
    assert isinstance(vectors.values, np.memmap)
    assert vectors.ids.tolist() == ids.tolist()
    expected = untrained.encode(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.values, expected, atol=2e-3)


def test_the_worker_publishes_the_vectors_of_the_bank(small: Small, tmp_path: Path) -> None:
    data = small.data(miner=Miner(negatives=0), planner=HardPKPlanner(4, 3))
    learner = small.learner()
    data.prepare(learner.encoder.tokenizer, progress=False)
    task = data.mining_task(tmp_path / "tables", "words")
    assert task.publish_vectors
    settings = WorkerSettings(1, "cpu", None, "float32", os.getpid())
    spec = task.write(tmp_path / "task", learner.encoder, settings, torch.empty(0))
    Snapshot(tmp_path / "weights.safetensors").write(trained(learner.encoder))
    bank = Bank(tmp_path / "bank", task.ids, learner.encoder.dimension, fresh=True)
    known = torch.nn.functional.normalize(torch.randn(20, learner.encoder.dimension), dim=1)
    bank.put(task.ids[:20], 3 * known, step=4)
    worker = Worker(spec, settings)
    job = Job(5, str(tmp_path / "weights.safetensors"), 5, 1, bank=str(tmp_path / "bank"), fresh_from=4)
    answer = worker.refresh(job)
    vectors = open_vectors(tmp_path / "tables", answer.version, data.corpus)
    assert answer.report["encoded"] == pytest.approx(1 - 20 / len(task.ids))
    np.testing.assert_allclose(vectors.values[:20], known.numpy(), atol=1e-3)
    own = learner.encoder.encode([data.texts_of(item)[0] for item in task.ids[20:].tolist()])
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.values[20:], own, atol=2e-3)


@pytest.mark.parametrize(
    ("miner", "planner", "message"),
    [
        (
            None,
            HardPKPlanner(4, 3),
            r"HardPKPlanner plans by the items' vectors.* give data.miner.*negatives: 0",
        ),
        (Miner(negatives=0), None, "negatives: 0, and data.planner uses no vectors"),
        (Miner(), NGAMEPlanner(), "first_table: in_background; set it to before_training"),
    ],
)
def test_a_planner_and_a_miner_that_do_not_fit_are_refused(
    small: Small, miner: Miner | None, planner: Any, message: str
) -> None:
    refresh = Refresh(first_table="in_background" if "first_table" in message else "before_training")
    with pytest.raises(DataError, match=message):
        small.data(miner=miner, refresh=refresh, planner=planner)


def test_a_checkpoint_of_a_run_without_vectors_has_them_mined(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Fit(small, tmp_path, save=7, steps=7)
    for version in (tmp_path / "negatives").glob("v*"):
        manifest = version / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"dimension"', '"other"'))
    rest = Fit(small, tmp_path, resume=7, steps=9)
    assert "was mined for a planner that uses no vectors; mine it again" in caplog.text
    assert len(rest.watch.anchors) == 2
