"""Batches of fewer items than there are ranks: those without a share wait for nobody, and nobody for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_metric import MetricDataModule, MetricLearner, SetEncoder, TextEncoder, TwoTowerLearner
from lit_metric.batching import BatchPlanner, Plan
from lit_metric.data import Labels, Pairs, Relations
from lit_metric.data.ragged import Ragged
from lit_metric.losses import InfoNCELoss
from tests.distributed import RankPool
from tests.end_to_end.ranks import places, quiet
from tests.small import Small, Watch, distance, questions, trainer, weights, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


class OneAndMany(BatchPlanner):
    """By turns one item alone, of which the first of two ranks gets nothing, and six items."""

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        others = relations.positives(ids[:6], torch.arange(len(relations))).tolist()
        anchors = [[int(item)] if turn % 2 == 0 else ids[:6].tolist() for turn, item in enumerate(ids[:6])]
        candidates = [
            [others[turn][0]] if turn % 2 == 0 else [row[0] for row in others] for turn in range(len(anchors))
        ]
        return Plan(Ragged.from_lists(anchors), Ragged.from_lists(candidates))


def data(kind: str, root: Path, folder: Path) -> MetricDataModule:
    """Pairs of questions, or sets of words that have a class."""
    options: dict[str, Any] = {
        "planner": OneAndMany(),
        "validation_share": 0.2,
        "cache_dir": str(folder / "cache"),
    }
    if kind == "sets":
        supervision: Any = Labels(tags="tags", label="section")
        return MetricDataModule(str(root / "train.parquet"), supervision=supervision, **options)
    rows = [(text, " ".join(text.split()[::-1])) for text, _ in questions(30, seed=5)]
    source = folder / "pairs.csv"
    if not source.exists():
        write_csv(source, rows, ("anchor", "positive"))
    return MetricDataModule(str(source), supervision=Pairs(symmetric=kind != "towers"), **options)


def learner(kind: str, small: Small, chunks: bool = False) -> MetricLearner:
    """With parameters of its own in the loss, the poolings and the projection."""
    loss = InfoNCELoss(0.2, learnable=True)
    options: dict[str, Any] = {"dropout": 0.0}
    if chunks:
        options |= {"recompute": "chunks", "max_tokens_in_memory": 12}
    if kind == "towers":
        query, document = (TextEncoder(small / "backbone", **options) for _ in range(2))
        return TwoTowerLearner(query, document, loss, lr=1e-3)
    encoder: Any = TextEncoder(small / "backbone", **options)
    if kind == "sets":
        torch.manual_seed(0)
        encoder = SetEncoder(encoder, projection=8)
    return MetricLearner(encoder, loss, lr=1e-3)


def fit(kind: str, root: Path, folder: Path, ranks: int, chunks: bool = False) -> dict[str, Any]:
    """Train in float64, here or as one of several ranks."""
    quiet()
    module, watch = learner(kind, Small(root), chunks).double(), Watch()
    run = trainer(folder, watch, max_epochs=2, limit_val_batches=0, **places(ranks))
    run.fit(module, data(kind, root, folder.parent))
    return {"weights": weights(module), "anchors": watch.anchors, "candidates": watch.candidates}


@pytest.mark.parametrize(
    ("kind", "chunks"),
    [("texts", False), ("sets", False), ("towers", False), ("sets", True), ("towers", True)],
)
def test_a_rank_without_a_share_trains_as_one(
    small: Small, tmp_path: Path, pool: RankPool, kind: str, chunks: bool
) -> None:
    alone = fit(kind, small.root, tmp_path / "alone", 1)
    shared = pool.run(fit, kind, small.root, tmp_path / "ranks", 2, chunks)
    assert [len(batch) for batch in shared[0]["anchors"]] == [0, 3] * 6
    assert [len(batch) for batch in shared[0]["candidates"]] == [0, 3] * 6
    assert [len(batch) for batch in shared[1]["candidates"]] == [1, 3] * 6
    assert distance(alone["weights"], weights(learner(kind, small).double())) > 1e-3
    for rank in shared:
        assert distance(rank["weights"], alone["weights"]) < 1e-9
