"""Two towers in training: the loss against a loop, a frozen tower, two ranks against one, a config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from lit_metric import MetricDataModule, TextEncoder, TwoTowerLearner
from lit_metric.batching import BatchPlanner, PairPlanner, Plan
from lit_metric.data import Batch, Pairs, Relations
from lit_metric.data.ragged import Ragged
from lit_metric.hub import load
from lit_metric.losses import InfoNCELoss
from tests.distributed import RankPool
from tests.end_to_end.command import run
from tests.end_to_end.ranks import places, quiet
from tests.small import Small, Watch, distance, trainer, weights, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [
    (f"w{4 + number} w{28 + number} w{29 + number}", f"w{29 + number} w{4 + number} w{5 + number}")
    for number in range(24)
]


class Uneven(BatchPlanner):
    """One query and the documents of four: of two ranks, only the second has a query."""

    def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
        anchors = ids[:8]
        documents = relations.all_positives(anchors).values.split(4)
        return Plan(
            Ragged.from_lists([[int(anchor)] for anchor in (anchors[0], anchors[4])]),
            Ragged.from_lists([part.tolist() for part in documents]),
        )


def data(root: Path, **options: Any) -> MetricDataModule:
    """Questions and their answers."""
    source = root / "pairs.csv"
    if not source.exists():
        write_csv(source, ROWS, ["question", "answer"])
    supervision = Pairs("question", "answer", symmetric=False)
    defaults = {"planner": PairPlanner(6), "validation_share": 0.25, "cache_dir": str(root / "cache")}
    return MetricDataModule(str(source), supervision=supervision, **{**defaults, **options})


def learner(small: Small, freeze: bool = False, **options: Any) -> TwoTowerLearner:
    """Two small towers, of which the second may be frozen, with prompts of their own."""
    query = TextEncoder(small / "backbone", prompts={"query": "w50 "}, pool_prompt=False, dropout=0.0)
    document = TextEncoder(
        small / "backbone", prompts={"document": "w51 w52 "}, freeze=freeze, dropout=0.0, max_length=6
    )
    return TwoTowerLearner(query, document, InfoNCELoss(0.2), **{"lr": 1e-3, **options})


def test_the_loss_of_a_step_is_that_of_queries_against_documents(small: Small, tmp_path: Path) -> None:
    content, watch = data(tmp_path), Watch()
    untrained = learner(small).encoder
    trainer(tmp_path, watch, max_steps=1).fit(learner(small), content)
    queries = [content.texts_of(item)[0] for item in watch.anchors[0]]
    documents = [content.texts_of(item)[0] for item in watch.candidates[0]]
    answers = dict(ROWS)
    assert documents == [answers[text] for text in queries]
    similar = untrained.encode(queries, role="query") @ untrained.encode(documents, role="document").T
    powers = np.exp(similar / 0.2)
    expected = np.mean([-math.log(powers[row, row] / powers[row].sum()) for row in range(len(queries))])
    assert watch.losses == [pytest.approx(expected, rel=1e-5)]
    swapped = untrained.encode(queries, role="document") @ untrained.encode(documents, role="query").T
    assert np.abs(swapped - similar).max() > 0.01


class Calls(pl.Callback):
    """Counts the texts that go through the backbone of the document tower."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.texts = 0
        backbone = pl_module.encoder.document.backbone
        forward = backbone.forward

        def counted(tokens: Ragged) -> Ragged:
            self.texts += len(tokens)
            return forward(tokens)

        backbone.forward = counted


def test_a_frozen_tower_stays_and_encodes_each_document_once(small: Small, tmp_path: Path) -> None:
    module, calls = learner(small, freeze=True), Calls()
    before = weights(module)
    content = data(tmp_path)
    trainer(tmp_path, calls, max_epochs=4).fit(module, content)
    after = weights(module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert {name.split(".")[1] for name in moved} == {"query"}
    documents = len(content.splits["train_corpus"]) + len(content.splits["validation_corpus"])
    assert calls.texts == documents == 24


def fit(root: Path, folder: Path, ranks: int, freeze: bool, uneven: bool) -> dict[str, Any]:
    """Train in float64, here or as one of several ranks."""
    quiet()
    module, watch = learner(Small(root), freeze).double(), Watch()
    content = data(folder.parent, **({"planner": Uneven()} if uneven else {}))
    plan = trainer(folder, watch, max_epochs=3, **places(ranks))
    plan.fit(module, content)
    metrics = {name: float(value) for name, value in plan.callback_metrics.items() if name != "train/loss"}
    return {"weights": weights(module), "losses": watch.losses, "metrics": metrics, "anchors": watch.anchors}


@pytest.mark.parametrize(("freeze", "uneven"), [(False, False), (True, False), (False, True)])
def test_two_ranks_train_as_one(
    small: Small, tmp_path: Path, pool: RankPool, freeze: bool, uneven: bool
) -> None:
    data(tmp_path)  # written before two ask for it
    alone = fit(small.root, tmp_path / "alone", 1, freeze, uneven)
    shared = pool.run(fit, small.root, tmp_path / "ranks", 2, freeze, uneven)
    assert distance(alone["weights"], weights(learner(small).double())) > 1e-3
    if uneven:
        assert [len(batch) for batch in shared[0]["anchors"]] == [0] * 6
        assert [len(batch) for batch in shared[1]["anchors"]] == [1] * 6
    for rank in shared:
        assert distance(rank["weights"], alone["weights"]) < 1e-9
        assert rank["metrics"] == pytest.approx(alone["metrics"], abs=1e-6, nan_ok=True)
    if not uneven:
        losses = [rank["losses"] for rank in shared]
        assert np.mean(losses, axis=0) == pytest.approx(alone["losses"], abs=1e-9)


def test_a_batch_of_one_role_reaches_every_parameter(small: Small, tmp_path: Path) -> None:
    class Gradients(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
            self.missing = [
                name for name, p in pl_module.named_parameters() if p.requires_grad and p.grad is None
            ]

        def on_train_batch_start(
            self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int
        ) -> None:
            self.roles = batch.roles

    gradients = Gradients()

    class Documents(Uneven):
        def plan(self, ids: Tensor, relations: Relations, seed: int, epoch: int) -> Plan:
            whole = super().plan(ids, relations, seed, epoch)
            return Plan(whole.candidates, whole.candidates)

    content = data(tmp_path, planner=Documents())
    trainer(tmp_path, gradients, max_steps=1, limit_val_batches=0).fit(learner(small), content)
    assert gradients.roles is not None
    assert bool((gradients.roles > 0).all())
    assert gradients.missing == []


def test_a_run_by_config_leaves_both_towers(small: Small, tmp_path: Path) -> None:
    write_csv(tmp_path / "pairs.csv", ROWS, ["question", "answer"])
    tower = {"class_path": "lit_metric.TextEncoder", "init_args": {"backbone": small / "backbone"}}
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "enable_progress_bar": False,
            "logger": {
                "class_path": "lit_metric.loggers.RunLogger",
                "init_args": {"save_dir": "runs", "name": "towers"},
            },
            "callbacks": [{"class_path": "lit_metric.callbacks.RunReport"}],
        },
        "model": {
            "class_path": "lit_metric.TwoTowerLearner",
            "init_args": {
                "query": tower,
                "document": tower,
                "loss": {"class_path": "lit_metric.losses.InfoNCELoss"},
                "lr": 0.01,
                "lr_scale": {"encoder.document": 0.1},
            },
        },
        "data": {
            "class_path": "lit_metric.MetricDataModule",
            "init_args": {
                "train": "pairs.csv",
                "supervision": {
                    "class_path": "lit_metric.data.Pairs",
                    "init_args": {"anchor": "question", "positive": "answer", "symmetric": False},
                },
                "cache_dir": "cache",
            },
        },
    }
    (tmp_path / "towers.yaml").write_text(yaml.safe_dump(config))
    run(tmp_path, "fit", "--config", "towers.yaml")
    encoder = load(tmp_path / "runs" / "towers")
    start = TextEncoder(small / "backbone")
    texts = [text for text, _ in ROWS]
    moved = {
        role: np.abs(encoder.encode(texts, role=role) - start.encode(texts)).max()
        for role in ("query", "document")
    }
    assert moved["query"] > moved["document"] > 1e-4
