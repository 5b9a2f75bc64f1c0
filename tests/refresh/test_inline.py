"""Tables between epochs, and what batches draw from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_metric import MetricDataModule, Miner, Refresh
from lit_metric.data import Batch
from lit_metric.encoders.pretrained import fingerprint
from lit_metric.index import Embeddings
from lit_metric.loggers import RunLogger
from lit_metric.mining import NegativeTable, UniformWindow, versions
from tests.small import Small, Watch, questions, trainer, write_csv
from tests.test_loggers import rows

pytestmark = pytest.mark.filterwarnings("ignore")


class Drawn(pl.Callback):
    """Draws for each batch what its anchors should have met, from the table of the moment."""

    def __init__(self) -> None:
        self.negatives: list[torch.Tensor] = []
        self.planned: list[list[int]] = []
        self.versions: list[int] = []
        self.weights: list[str] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.weights.append(fingerprint(pl_module.encoder))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        data: MetricDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert data.miner is not None
        assert data.refresher is not None
        epoch = trainer.current_epoch
        if batch_idx == 0:
            self.versions.append(max(versions(data.refresher.task.tables)))
            self.table = data.refresher.task.open(self.versions[-1])
        plan = data.planner.plan(data.splits["train"], data.relations, data.seed, epoch)
        self.planned.append(plan.candidates[batch_idx].tolist())
        assert batch.anchor_ids.tolist() == plan.anchors[batch_idx].tolist()
        self.negatives.append(
            self.table.draw(
                data.miner.draw,
                data.miner.negatives,
                batch.anchor_ids,
                data.relations,
                data.seed,
                epoch,
                batch_idx,
            )
        )


def fit(small: Small, folder: Path, miner: Miner, **options: Any) -> tuple[MetricDataModule, Watch, Drawn]:
    data, watch, drawn = small.data(miner=miner, refresh=Refresh(mode="inline"), **options), Watch(), Drawn()
    trainer(folder, watch, drawn, max_epochs=3).fit(small.learner(), data)
    return data, watch, drawn


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_meet_what_was_drawn_for_them_and_nothing_that_is_like_them(
    small: Small, tmp_path: Path, workers: int
) -> None:
    # Every text comes twice, the second time under the wrong intent.
    rows = questions(36, seed=0)
    wrong = [(text, f"intent{(int(label[-1]) + 1) % 6}") for text, label in rows]
    train = write_csv(tmp_path / "train.csv", [*rows, *wrong])
    miner = Miner(top_k=8, negatives=3, filters=[])
    data, watch, drawn = fit(
        small, tmp_path / "run", miner, train=train, validation=small / "test.csv", num_workers=workers
    )
    assert drawn.versions == [1, 2, 3]
    assert len(watch.candidates) == 18
    for anchors, met, planned, negatives in zip(
        watch.anchors, watch.candidates, drawn.planned, drawn.negatives, strict=True
    ):
        assert met[: len(planned)] == planned
        asked = set(negatives[negatives >= 0].tolist())
        assert set(met) == set(planned) | asked
        assert len(asked - set(planned)) > 3  # it does add something
        for anchor, row in zip(anchors, negatives.tolist(), strict=True):
            for negative in row:
                assert negative >= 0
                assert data.texts_of(negative) != data.texts_of(anchor)
                assert data.relations.labels[negative] != data.relations.labels[anchor]


def test_a_new_table_for_every_epoch(small: Small, tmp_path: Path) -> None:
    data, _, drawn = fit(small, tmp_path, Miner(top_k=5, draw=UniformWindow(0, 3)))
    folder = tmp_path / "negatives"
    assert versions(folder) == [2, 3]  # the first is collected
    for epoch in (1, 2):
        manifest = NegativeTable.open(folder, epoch + 1, data.corpus).manifest
        assert (manifest["epoch"], manifest["step"]) == (epoch, 5 * epoch)
        assert manifest["weights"] == drawn.weights[epoch]
    assert len(set(drawn.weights)) == 3


def test_a_table_is_of_the_training_items_and_the_weights_of_the_moment(small: Small, tmp_path: Path) -> None:
    learner, data = (
        small.learner(dropout=0.4),
        small.data(miner=Miner(top_k=5), refresh=Refresh("never")),
    )
    untrained = small.learner().encoder
    trainer(tmp_path, max_epochs=3).fit(learner, data)
    assert versions(tmp_path / "negatives") == [1]
    ids = data.splits["train"]
    vectors = torch.from_numpy(untrained.encode([data.texts_of(item)[0] for item in ids.tolist()]))
    assert data.miner is not None
    expected = data.miner.mine(Embeddings(ids, vectors), data.relations, data.seed)
    table = NegativeTable.open(tmp_path / "negatives", 1, data.corpus)
    assert table.anchors.tolist() == ids.tolist()
    assert table.overlap(expected) > 0.99  # but for ties, the same neighbours
    torch.testing.assert_close(
        torch.from_numpy(table.scores.copy()), torch.from_numpy(expected.scores), atol=2e-3, rtol=0
    )


def test_mining_is_logged(small: Small, tmp_path: Path) -> None:
    data = small.data(miner=Miner(top_k=5), refresh=Refresh(mode="inline"))
    trainer(tmp_path, logger=RunLogger("run", str(tmp_path))).fit(small.learner(), data)
    mined = [row for row in rows(tmp_path / "run") if "mining/seconds" in row]
    assert [row["step"] for row in mined] == ["0", "5"]
    assert all(
        float(row["mining/seconds"]) > 0 and 0 < float(row["mining/rejected/RelativeMargin"]) < 1
        for row in mined
    )
    assert versions(tmp_path / "run" / "negatives") == [1, 2]
