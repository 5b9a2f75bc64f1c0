"""Several data sets in one run: each batch is of one, with its loss; each is measured under its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lit_metric import MetricDataModule, MetricLearner, TextEncoder
from lit_metric.batching import MixturePart, PairPlanner, PKPlanner
from lit_metric.data import DataError, Labels, Pairs
from lit_metric.evaluation import Evaluation, evaluate
from lit_metric.losses import InfoNCELoss, RelationPairs, TripletLoss
from lit_metric.modules.tasks import TaskLosses
from tests.distributed import RankPool
from tests.end_to_end.command import logged, metrics, run
from tests.end_to_end.ranks import places, quiet
from tests.small import Small, Watch, distance, questions, trainer, weights, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def pairs_file(path: Path, count: int = 24) -> str:
    """Two wordings of ``count`` questions."""
    rows = [(f"{text} w5", f"{text} w9") for text, _ in questions(count, seed=5)]
    return str(path) if path.exists() else write_csv(path, rows, ("anchor", "positive"))


def mixture(small: Small, folder: Path, **options: Any) -> MetricDataModule:
    """Questions with an intent (5 batches) and pairs (3 batches)."""
    sets = {
        "intents": MixturePart(small / "train.csv", test=small / "test.csv", planner=PKPlanner(4, 3)),
        "pairs": MixturePart(pairs_file(folder / "pairs.csv"), supervision=Pairs(), planner=PairPlanner(7)),
    }
    return MetricDataModule(
        **{"mixture": sets, "validation_share": 0.2, "cache_dir": small / "cache", **options}
    )


class Logged(Watch):
    """Keeps the data set of each batch, and the names that were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[int] = []
        self.values: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.tasks.append(batch.task)
        self.values |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        # What is logged under the name of the batch's data set is the loss of this very batch.
        name = [*pl_module.data.mixture][batch.task]
        assert float(trainer.callback_metrics[f"train/{name}/loss"]) == pytest.approx(
            self.losses[-1], abs=1e-6
        )


def test_each_batch_has_the_loss_of_its_data_set(small: Small, tmp_path: Path) -> None:
    data, watch = mixture(small, tmp_path), Logged()
    encoder = TextEncoder(small / "backbone", dropout=0.0)
    losses = {"intents": TripletLoss(), "pairs": InfoNCELoss(0.2, learnable=True)}
    learner = MetricLearner(encoder, losses, lr=1e-3)
    fit = trainer(tmp_path, watch, max_epochs=1)
    fit.fit(learner, data)
    assert sorted(watch.tasks) == [0] * 5 + [1] * 3
    start = len(data.dataset.parts["intents"].items)
    for task, anchors, met in zip(watch.tasks, watch.anchors, watch.candidates, strict=True):
        assert {int(item >= start) for item in [*anchors, *met]} == {task}
    # The first loss, from untrained weights, by the relations of that data set alone.
    task, offset = watch.tasks[0], start * watch.tasks[0]
    batch = data.collator(torch.tensor(watch.anchors[0]), torch.tensor(watch.candidates[0]), task)
    vectors = TextEncoder(small / "backbone", dropout=0.0)(batch.inputs)
    part = [*data.parts.values()][task]
    pairs = RelationPairs(part.relations, batch.anchor_ids - offset, batch.candidate_ids - offset)
    loss = [TripletLoss(), InfoNCELoss(0.2)][task]
    first = loss.on_pairs(vectors[batch.anchors], vectors[batch.candidates], pairs)["loss"]
    assert float(first) == pytest.approx(watch.losses[0], abs=1e-5)


def test_each_data_set_is_measured_under_its_name(small: Small, tmp_path: Path) -> None:
    data = mixture(small, tmp_path)
    learner = small.learner()
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(learner, data)
    measured = {name: float(value) for name, value in fit.callback_metrics.items() if name.startswith("val/")}
    assert measured["val/pairs/hit_rate@1"] >= 0
    # Alone, the same items give the same.
    alone = small.data()
    alone.prepare(learner.encoder.tokenizer)
    expected = evaluate(learner.encoder, alone, "validation", Evaluation(alone, "validation"))
    for name, value in expected.items():
        assert measured[f"val/intents/{name}"] == pytest.approx(value, abs=1e-5, nan_ok=True), name
    tested = fit.test(learner, data, verbose=False)[0]
    expected = evaluate(learner.encoder, alone, "test", Evaluation(alone, "test"))
    assert {name for name in tested if "pairs" in name} == set()
    for name, value in expected.items():
        assert tested[f"test/intents/{name}"] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_losses_and_data_sets_must_agree(small: Small, tmp_path: Path) -> None:
    learner = MetricLearner(
        TextEncoder(small / "backbone"), {"intents": InfoNCELoss(), "other": InfoNCELoss()}
    )
    told = (
        r"model.loss has losses for 'intents', 'other', but data.mixture has 'intents', 'pairs': "
        "name one for each"
    )
    with pytest.raises(ValueError, match=told):
        trainer(tmp_path).fit(learner, mixture(small, tmp_path))
    with pytest.raises(ValueError, match=r"data.mixture has no data sets"):
        trainer(tmp_path).fit(learner, small.data())
    with pytest.raises(ValueError, match="an empty mapping"):
        TaskLosses({})


def test_parameters_of_other_losses_have_a_gradient_of_zero() -> None:
    losses = TaskLosses({"a": InfoNCELoss(0.2, learnable=True), "b": InfoNCELoss(0.2, learnable=True)})
    rest = losses.untouched("a")
    assert rest is not None
    rest.backward()
    assert [float(p.grad) for p in losses["b"].parameters()] == [0.0]
    assert [p.grad for p in losses["a"].parameters()] == [None]
    assert TaskLosses({"a": TripletLoss(), "b": TripletLoss()}).untouched("a") is None


def test_a_mixture_stands_alone(small: Small) -> None:
    sets = {"one": MixturePart(small / "train.csv")}
    with pytest.raises(DataError, match=r"mixture= names several data sets, so name sources"):
        MetricDataModule(mixture=sets, train=small / "train.csv")
    with pytest.raises(DataError, match=r"mixture= names several data sets"):
        MetricDataModule(mixture=sets, supervision=Labels())


def test_shares_by_weights(small: Small, tmp_path: Path) -> None:
    data = mixture(small, tmp_path, strategy="weighted")
    data.mixture["pairs"].weight = 3.0
    data.read()
    plan = data.planner.plan(data.splits["train"], data.relations, 0, 0)
    assert torch.bincount(plan.tasks).tolist() == [2, 6]


def fit(root: Path, folder: Path, ranks: int) -> dict[str, Any]:
    """Two epochs in float64, with a temperature to learn in each of the losses."""
    quiet()
    small = Small(root)
    data = mixture(small, folder.parent)
    losses = {name: InfoNCELoss(0.2, learnable=True) for name in ("intents", "pairs")}
    learner = MetricLearner(TextEncoder(small / "backbone", dropout=0.0), losses, lr=1e-3).double()
    run = trainer(folder, max_epochs=2, **places(ranks))
    run.fit(learner, data)
    metrics = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    return {"weights": weights(learner), "metrics": metrics}


def test_two_ranks_train_as_one(small: Small, tmp_path: Path, pool: RankPool) -> None:
    pairs_file(tmp_path / "pairs.csv")
    alone = fit(small.root, tmp_path / "alone", 1)
    shared = pool.run(fit, small.root, tmp_path / "ranks", 2)
    start = torch.tensor(0.2).log().abs()
    for name in ("intents", "pairs"):
        [learned] = [
            value for key, value in alone["weights"].items() if key.startswith(f"loss.losses.{name}.")
        ]
        assert abs(float(learned.abs() - start)) > 1e-4
    assert {name.split("/")[1] for name in alone["metrics"]} == {"mean", "intents", "pairs"}
    for rank in shared:
        assert distance(rank["weights"], alone["weights"]) < 1e-9
        assert rank["metrics"] == pytest.approx(alone["metrics"], abs=1e-6, nan_ok=True)


MIXTURE = """
seed_everything: 0
model:
  class_path: lit_metric.MetricLearner
  init_args:
    encoder:
      class_path: lit_metric.TextEncoder
      init_args: {{backbone: {backbone}, dropout: 0.0}}
    loss:
      intents:
        class_path: lit_metric.losses.TripletLoss
      pairs:
        class_path: lit_metric.losses.InfoNCELoss
        init_args: {{temperature: 0.2}}
data:
  class_path: lit_metric.MetricDataModule
  init_args:
    mixture:
      intents:
        train: {root}/train.csv
        test: {root}/test.csv
        planner:
          class_path: lit_metric.batching.PKPlanner
          init_args: {{classes: 4, per_class: 3}}
      pairs:
        train: {pairs}
        supervision:
          class_path: lit_metric.data.Pairs
          init_args: {{anchor: anchor, positive: positive, symmetric: false}}
    strategy: round_robin
    validation_share: 0.2
    cache_dir: {root}/cache
trainer:
  accelerator: cpu
  max_epochs: 1
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  logger:
    class_path: lit_metric.loggers.RunLogger
    init_args: {{name: mixture}}
  callbacks:
    - class_path: lit_metric.callbacks.RunReport
"""


def test_a_mixture_from_yaml(small: Small, tmp_path: Path) -> None:
    config = tmp_path / "mixture.yaml"
    values = {"backbone": small / "backbone", "root": small.root, "pairs": pairs_file(tmp_path / "pairs.csv")}
    config.write_text(MIXTURE.format(**values), encoding="utf-8")
    run(tmp_path, "fit", f"--config={config}")
    folder = tmp_path / "runs" / "mixture"
    # Pairs make one batch of at most 64, so a round robin has one of each.
    losses = logged(folder, "train/loss")
    each = [logged(folder, f"train/{name}/loss") for name in ("intents", "pairs")]
    assert [len(values) for values in each] == [1, 1]
    assert losses == each[0] | each[1]
    assert len(losses) == 2
    parts = [logged(folder, f"train/{name}/anchors_used") for name in ("intents", "pairs")]
    assert [values.keys() for values in parts] == [values.keys() for values in each]
    assert set(logged(folder, "val/pairs/ndcg@10")) == set(logged(folder, "val/intents/map@r"))
    report = metrics(folder)
    assert report["split"] == "test"
    assert {name.partition("/")[0] for name in report["after"]} == {"mean", "intents"}
    again = tmp_path / "again"
    again.mkdir()
    run(again, "fit", f"--config={folder / 'config.yaml'}")
    assert metrics(again / "runs" / "mixture")["after"] == report["after"]


def test_what_is_logged_of_a_data_set_is_its_mean_since_the_last_time(small: Small, tmp_path: Path) -> None:
    logged_rows: list[tuple[int | None, dict[str, float]]] = []

    class Rows(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged_rows.append((step, metrics))

    watch, rows = Logged(), Rows(tmp_path)
    learner = MetricLearner(
        TextEncoder(small / "backbone", dropout=0.0), {"intents": TripletLoss(), "pairs": InfoNCELoss(0.2)}
    )
    trainer(tmp_path, watch, max_epochs=1, logger=rows, log_every_n_steps=3).fit(
        learner, mixture(small, tmp_path)
    )
    assert len(watch.losses) == 8
    for name, task in (("intents", 0), ("pairs", 1)):
        expected = {}
        for first, last in ((0, 2), (3, 5), (6, 7)):
            own = [watch.losses[step] for step in range(first, last + 1) if watch.tasks[step] == task]
            expected |= {last: np.mean(own)} if own else {}
        key = f"train/{name}/loss"
        assert {step: row[key] for step, row in logged_rows if key in row} == pytest.approx(
            expected, abs=1e-6
        )


def test_a_mixture_encodes_what_its_data_sets_give_for_that(small: Small, tmp_path: Path) -> None:
    config = tmp_path / "mixture.yaml"
    pairs = pairs_file(tmp_path / "pairs.csv")
    values = {"backbone": small / "backbone", "root": small.root, "pairs": pairs}
    asked = write_csv(tmp_path / "asked.csv", [("w5 w6",), ("w4",)], ("text",))
    text = MIXTURE.format(**values)
    config.write_text(text.replace(f"train: {pairs}", f"train: {pairs}\n        predict: {asked}"))
    run(tmp_path, "predict", f"--config={config}")
    found = np.load(tmp_path / "runs" / "mixture" / "predictions.npy")
    expected = TextEncoder(small / "backbone").encode(["w5 w6", "w4"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Without any, the test split.
    config.write_text(text)
    run(tmp_path, "predict", f"--config={config}")
    assert len(np.load(tmp_path / "runs" / "mixture" / "predictions.npy")) == 30


@pytest.mark.parametrize("names", [("cards.v2", "cards_v2"), ("cards_v2", "cards.v2"), ("values", "train")])
def test_losses_have_the_names_of_any_data_set(names: tuple[str, str]) -> None:
    first, second = InfoNCELoss(learnable=True), InfoNCELoss(0.2, learnable=True)
    losses = TaskLosses({names[0]: first, names[1]: second})
    losses.check(reversed(names))
    assert (losses[names[0]], losses[names[1]]) == (first, second)
    assert len([*losses.parameters()]) == 2
    untouched = losses.untouched(names[0])
    assert untouched is not None
    untouched.backward()
    assert all(each.grad is None for each in first.parameters())
    assert all(each.grad is not None for each in second.parameters())
