"""Validation within a fit: limits, what can't be measured, monitors, precision, Lightning's searches."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
)
from lightning.pytorch.tuner import Tuner

from lit_metric import MetricDataModule
from lit_metric.data import Labels, Pairs
from lit_metric.evaluation import Evaluation, evaluate
from lit_metric.losses import InfoNCELoss
from lit_metric.mining import Miner
from tests.modules.test_tasks import mixture
from tests.small import Small, Watch, questions, trainer, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def paired(small: Small, folder: Path) -> MetricDataModule:
    """24 questions and answers to validate by, in batches of a few."""
    rows = [(f"{text} w5", f"{text} w9") for text, _ in questions(80, seed=5)]
    path = write_csv(folder / "pairs.csv", rows, ("anchor", "positive"))
    return MetricDataModule(
        train=path,
        supervision=Pairs(symmetric=False),
        validation_share=0.3,
        max_tokens=60,
        cache_dir=small / "cache",
    )


class Asked(Callback):
    """The ids that validation was asked for, in the first loader."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 0:
            self.ids += batch.anchor_ids.tolist()


@pytest.mark.parametrize("limit", [1.0, 0.5, 1, 2])
def test_limits_leave_out_queries_and_keep_the_corpus(small: Small, tmp_path: Path, limit: float) -> None:
    data, asked, learner = paired(small, tmp_path), Asked(), small.learner()
    fit = trainer(tmp_path, asked, limit_val_batches=limit)
    fit.validate(learner, data, verbose=False)
    values = {name: float(value) for name, value in fit.callback_metrics.items()}
    queries, corpus = data.splits["validation"], data.splits["validation_corpus"]
    assert (len(asked.ids) < len(queries)) == (limit != 1.0 or isinstance(limit, int))
    vectors = {
        item: learner.encoder.encode(data.texts_of(item), role=role)[0]
        for role, ids in (("query", asked.ids), ("document", corpus.tolist()))
        for item in ids
    }
    found = []
    for query in asked.ids:
        scores = {item: float(vectors[query] @ vectors[item]) for item in corpus.tolist()}
        right = data.relations.positive(torch.tensor([query]), corpus)[0]
        best = max(scores[item] for item in corpus[right].tolist())
        found.append(1 / sum(score >= best for score in scores.values()))
    assert values["val/mrr"] == pytest.approx(np.mean(found), abs=1e-5)


@pytest.mark.parametrize("against", ["self", "both"])
def test_limits_keep_all_that_items_of_one_split_search(small: Small, tmp_path: Path, against: Any) -> None:
    data = small.data(validation_share=0.4, validation_corpus=against, max_tokens=40)
    asked, learner = Asked(), small.learner()
    fit = trainer(tmp_path, asked, limit_val_batches=1)
    fit.validate(learner, data, verbose=False)
    values = {name: float(value) for name, value in fit.callback_metrics.items()}
    split = data.splits["validation"]
    assert len(asked.ids) < len(split)
    vectors = dict(
        zip(split.tolist(), learner.encoder.encode([data.texts_of(i)[0] for i in split]), strict=True)
    )
    labels = data.relations.labels
    hits = []
    for query in asked.ids:
        others = [item for item in split.tolist() if item != query]
        nearest = max(others, key=lambda item: float(vectors[query] @ vectors[item]))
        if any(labels[item] == labels[query] for item in others):
            hits.append(bool(labels[nearest] == labels[query]))
    assert values["val/hit_rate@1"] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(
    "options", [{"fast_dev_run": True}, {"overfit_batches": 1}, {"num_sanity_val_steps": 1}]
)
def test_scored_pairs_of_which_some_were_left_out(
    small: Small, tmp_path: Path, options: dict[str, Any]
) -> None:
    source = small / "similarity/similarity.parquet"
    data = MetricDataModule(train=source, validation_share=0.4, max_tokens=40, cache_dir=small / "cache")
    fit = trainer(tmp_path, **{"max_epochs": 1, **options})
    fit.fit(small.learner(), data)
    assert fit.state.finished


def alone(small: Small, folder: Path) -> MetricDataModule:
    """Of each class one validation item, that is compared with the others of its split."""
    rows = [(f"{text} w{4 + row % 7}", label) for row, (text, label) in enumerate(questions(60, seed=7))]
    path = write_csv(folder / "alone.csv", rows[6:])
    one = write_csv(folder / "one.csv", rows[:6])  # questions go through the six intents in turn
    return small.data(train=path, validation=one, test=None, validation_corpus="self")


def test_what_cannot_be_measured_decides_nothing_and_is_told_once(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop = EarlyStopping("val/map@r", mode="max", patience=1)
    best = ModelCheckpoint(tmp_path / "checkpoints", monitor="val/map@r", mode="max", filename="best")
    fit = trainer(tmp_path, stop, best, max_epochs=4)
    with caplog.at_level(logging.WARNING):
        fit.fit(small.learner(), alone(small, tmp_path))
    assert fit.current_epoch == 4
    assert math.isnan(float(fit.callback_metrics["val/map@r"]))
    told = [record.message for record in caplog.records if "can't be measured" in record.message]
    assert len(told) == 1
    assert "val/map@r" in told[0]
    assert "early stopping by val/map@r is off" in told[0]
    saved = torch.load(best.best_model_path, weights_only=True)
    assert saved["epoch"] == 3  # the latest, and not the first


def test_what_can_be_measured_decides(small: Small, tmp_path: Path) -> None:
    stop = EarlyStopping("val/map@r", mode="max", patience=1, min_delta=5.0)
    fit = trainer(tmp_path, stop, max_epochs=6)
    fit.fit(small.learner(), small.data(validation_share=0.4))
    assert fit.current_epoch == 2


@pytest.mark.parametrize(
    ("monitor", "near"), [("val/map@R", "val/map@r"), ("map@r", "val/map@r"), ("val/ndcg@10", "val/")]
)
@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_monitor_that_will_never_be_there_is_refused_before_training(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, monitor: str, near: str
) -> None:
    watch = Watch()
    fit = trainer(tmp_path, watch, kind(monitor=monitor, mode="max"))
    monkeypatch.setattr(Watch, "__module__", "lit_metric.callbacks")  # as if there were no others
    with pytest.raises(ValueError, match=rf"{kind.__name__} monitors '{monitor}', .*{near}"):
        fit.fit(small.learner(), small.data())
    assert not watch.losses


def test_monitors_of_somebody_else_are_only_warned_of(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("my/score", 1.0)

    stop = EarlyStopping("my/score", mode="max", patience=1)
    fit = trainer(tmp_path, stop, Own(), max_epochs=5)
    fit.fit(small.learner(), small.data())
    assert fit.current_epoch == 2
    assert "EarlyStopping monitors 'my/score'" in caplog.text


@pytest.mark.parametrize("name", ["val/mean", "val/intents/map@r", "val/pairs/mrr"])
def test_metrics_of_a_mixture_can_be_monitored(small: Small, tmp_path: Path, name: str) -> None:
    best = ModelCheckpoint(tmp_path / "checkpoints", monitor=name, mode="max")
    fit = trainer(tmp_path, best, max_epochs=1)
    fit.fit(small.learner(), mixture(small, tmp_path, validation_share=0.3))
    assert float(best.best_model_score) == pytest.approx(float(fit.callback_metrics[name]))


@pytest.mark.parametrize("kind", ["labels", "pairs", "several", "triplets"])
def test_nothing_is_measured_under_a_name_that_was_not_announced(
    small: Small, tmp_path: Path, kind: str
) -> None:
    sources = {
        "labels": {"train": small / "train.csv"},
        "pairs": {"train": small / "similarity/similarity.parquet"},
        "several": {
            "train": write_several(tmp_path),
            "supervision": Labels("text", labels="labels", labels_separator=","),
        },
        "triplets": {
            "train": small / "sugarcrepe/triplets.parquet",
            "supervision": Pairs("caption", "caption2", "negative", group="subset"),
        },
    }
    data = MetricDataModule(**sources[kind], validation_share=0.4, cache_dir=small / "cache")
    encoder = small.learner().encoder
    data.prepare(encoder.tokenizer)
    evaluation = Evaluation(data, "validation", space=True)
    results = evaluate(encoder, data, "validation", evaluation)
    assert {*results} <= evaluation.names()
    assert {data.main_metric} <= evaluation.names()
    rare = {"queries_without_positive", "queries_without_voter", "pair_ap"}
    missing = {name for name in evaluation.names() - {*results} - rare if "_accuracy_" not in name}
    assert not missing


def write_several(folder: Path) -> str:
    rows = [
        (text, label + (",many" if row % 2 else ""))
        for row, (text, label) in enumerate(questions(60, seed=9))
    ]
    return write_csv(folder / "several.csv", [(text, names) for text, names in rows], ("text", "labels"))


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_true_precisions(small: Small, tmp_path: Path, precision: Any) -> None:
    fit = trainer(tmp_path, max_epochs=1, precision=precision)
    data, learner = small.data(validation_share=0.3), small.learner()
    fit.fit(learner, data)
    assert 0 < float(fit.callback_metrics["val/map@r"]) <= 1
    learner.float()
    expected = evaluate(learner.encoder, data, "validation", Evaluation(data, "validation"))
    close = 1e-5 if precision == "64-true" else 0.2
    assert float(fit.callback_metrics["val/map@r"]) == pytest.approx(expected["map@r"], abs=close)


@pytest.mark.parametrize("how", ["tuner", "callback"])
def test_a_learning_rate_can_be_searched_for(small: Small, tmp_path: Path, how: str) -> None:
    learner, data = small.learner(InfoNCELoss(0.5), lr=1e-6), small.data(validation_share=0.3)
    if how == "tuner":
        found = Tuner(trainer(tmp_path, max_epochs=10)).lr_find(
            learner, datamodule=data, num_training=40, early_stop_threshold=None
        )
        assert found is not None
        assert len(found.results["loss"]) > 20
        assert found.suggestion() == learner.lr
        return
    watch = Watch()
    finder = LearningRateFinder(num_training_steps=40, early_stop_threshold=None)
    fit = trainer(tmp_path, finder, watch, max_epochs=10)
    fit.fit(learner, data)
    assert learner.lr != 1e-6
    assert len(watch.losses) == 10 * data.batches_per_epoch
    assert 0 < float(fit.callback_metrics["val/map@r"]) <= 1


def test_searches_that_cannot_be_are_refused_with_what_to_do(small: Small, tmp_path: Path) -> None:
    for fit in (
        lambda: trainer(tmp_path, BatchSizeFinder()).fit(small.learner(), small.data()),
        lambda: Tuner(trainer(tmp_path)).scale_batch_size(small.learner(), datamodule=small.data()),
    ):
        with pytest.raises(ValueError, match=r"data\.planner makes the batches"):
            fit()
    with pytest.raises(ValueError, match=r"search without data\.miner"):
        trainer(tmp_path, LearningRateFinder()).fit(small.learner(), small.data(miner=Miner()))


def test_schedules_of_accumulation_count_in_the_planned_length(small: Small, tmp_path: Path) -> None:
    watch, learner = Watch(), small.learner(warmup=0.0)
    schedule = GradientAccumulationScheduler({1: 3, 2: 2})
    fit = trainer(tmp_path, watch, schedule, max_epochs=4)
    fit.fit(learner, small.data())
    # 5 batches: one by one, then in threes, then twice in twos; the last of an epoch may be of fewer.
    assert fit.global_step == 5 + 2 + 3 + 3
    rates = sorted({round(rate[0], 9) for rate in watch.rates}, reverse=True)
    assert rates == pytest.approx([1e-3 * (1 - step / 13) for step in range(13)], abs=1e-8)
