"""A learner with a memory: its losses by a loop, two ranks against one, resuming, mixtures, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lit_metric import (
    MetricDataModule,
    MetricLearner,
    Miner,
    Refresh,
    SetEncoder,
    TextEncoder,
    TwoTowerLearner,
)
from lit_metric.batching import MixturePart, PairPlanner, PKPlanner
from lit_metric.cli.training import resolved
from lit_metric.data import Labels, Pairs
from lit_metric.losses import (
    CandidateBank,
    CoSENTLoss,
    InfoNCELoss,
    MatryoshkaLoss,
    ProxyAnchorLoss,
    SumLoss,
    TripletLoss,
)
from tests.distributed import RankPool
from tests.end_to_end.ranks import places, quiet
from tests.small import Small, Watch, distance, questions, trainer, weights, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def info_nce(
    anchors: list[int], candidates: list[int], vectors: dict[int, np.ndarray], labels: Any, texts: Any
) -> float:
    """InfoNCE at a temperature of 0.5, as in a book."""
    terms = []
    for anchor in anchors:
        powers = {item: math.exp(float(vectors[anchor] @ vectors[item]) / 0.5) for item in candidates}
        negatives = sum(
            power
            for item, power in powers.items()
            if labels[item] != labels[anchor] and texts[item] != texts[anchor]
        )
        positives = [item for item in powers if labels[item] == labels[anchor] and item != anchor]
        if positives:
            losses = [-math.log(powers[item] / (powers[item] + negatives)) for item in positives]
            terms.append(np.mean(losses))
    return float(np.mean(terms))


def test_anchors_are_compared_with_the_latest_batches(small: Small, tmp_path: Path) -> None:
    data, watch = small.data(), Watch()
    learner = small.learner(InfoNCELoss(0.5), lr=1e-12, memory=20)
    trainer(tmp_path, watch, max_steps=4).fit(learner, data)
    items = sorted({item for batch in watch.candidates for item in batch})
    texts = {item: data.texts_of(item)[0] for item in items}
    labels = {item: int(data.relations.labels[item]) for item in items}
    vectors = dict(zip(items, learner.encode([*texts.values()]), strict=True))
    memory: list[int] = []
    for anchors, candidates, loss in zip(watch.anchors, watch.candidates, watch.losses, strict=True):
        known = [*candidates, *(item for item in memory if item not in candidates)]
        assert loss == pytest.approx(info_nce(anchors, known, vectors, labels, texts), rel=1e-5)
        memory = [*(item for item in memory if item not in candidates), *sorted(candidates)][-20:]
    assert learner.bank.state_dict()["0.ids"].tolist() == memory
    assert len(memory) == 20


def test_a_memory_changes_what_is_learned_and_callbacks_see_the_batch_alone(
    small: Small, tmp_path: Path
) -> None:
    class Sizes(Watch):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, number: int
        ) -> None:
            super().on_train_batch_end(trainer, module, outputs, batch, number)
            assert len(outputs["vectors"]) == len(batch.items) == 12

    ends = []
    for memory in (0, 40):
        learner = small.learner(memory=memory)
        trainer(tmp_path, Sizes(), max_epochs=1).fit(learner, small.data())
        ends.append(weights(learner))
    assert distance(*ends) > 1e-4


def pairs_file(folder: Path) -> str:
    rows = [(text, " ".join(text.split()[::-1])) for text, _ in questions(30, seed=5)]
    path = folder / "pairs.csv"
    return str(path) if path.exists() else write_csv(path, rows, ("anchor", "positive"))


def world(kind: str, small: Small, folder: Path) -> tuple[MetricLearner, MetricDataModule]:
    """A learner with a memory of 16, in float64, and its data."""
    options: dict[str, Any] = {"validation_share": 0.2, "cache_dir": str(folder / "cache")}
    encoders = [TextEncoder(small / "backbone", dropout=0.0) for _ in range(2)]
    near = MatryoshkaLoss(SumLoss({"near": InfoNCELoss(0.2, learnable=True), "far": TripletLoss()}), [8, 4])
    settings: dict[str, Any] = {"lr": 1e-3, "memory": 16}
    if kind == "towers":
        pairs = Pairs(symmetric=False)
        data = MetricDataModule(pairs_file(folder), supervision=pairs, planner=PairPlanner(7), **options)
        return TwoTowerLearner(*encoders, near, **settings).double(), data
    if kind == "mixture":
        sets = {
            "intents": MixturePart(small / "train.csv", planner=PKPlanner(4, 3)),
            "pairs": MixturePart(pairs_file(folder), supervision=Pairs(), planner=PairPlanner(7)),
        }
        losses = {"intents": SumLoss({"near": TripletLoss(), "own": ProxyAnchorLoss()}), "pairs": near}
        data = MetricDataModule(mixture=sets, **options)
        return MetricLearner(encoders[0], losses, **settings).double(), data
    torch.manual_seed(0)
    data = MetricDataModule(
        small / "train.parquet",
        supervision=Labels(tags="tags", label="section"),
        planner=PKPlanner(4, 3),
        miner=Miner(top_k=4, negatives=2),
        refresh=Refresh(mode="inline"),
        **options,
    )
    return MetricLearner(SetEncoder(encoders[0], projection=8), near, **settings).double(), data


def fit(kind: str, root: Path, folder: Path, ranks: int) -> dict[str, Any]:
    """Train here or as one of several ranks."""
    quiet()
    torch.manual_seed(0)
    module, data = world(kind, Small(root), folder.parent)
    watch = Watch()
    run = trainer(folder, watch, max_epochs=2, limit_val_batches=0, **places(ranks))
    run.fit(module, data)
    assert module.bank is not None
    return {"weights": weights(module), "candidates": watch.candidates, "bank": module.bank.state_dict()}


@pytest.mark.parametrize("kind", ["mined sets", "towers", "mixture"])
def test_two_ranks_train_as_one(small: Small, tmp_path: Path, pool: RankPool, kind: str) -> None:
    alone = fit(kind, small.root, tmp_path / "alone", 1)
    shared = pool.run(fit, kind, small.root, tmp_path / "ranks", 2)
    before = weights(world(kind, small, tmp_path)[0])
    trained = {name: value for name, value in alone["weights"].items() if name in before}
    assert distance({name: before[name] for name in trained}, trained) > 1e-3
    for each in shared:
        assert distance(each["weights"], alone["weights"]) < 1e-9
        assert each["bank"].keys() == alone["bank"].keys()
        for name, value in alone["bank"].items():
            assert torch.allclose(each["bank"][name], value)
    sizes = {name: len(value) for name, value in alone["bank"].items() if name.endswith("ids")}
    assert sizes == ({"0.ids": 16, "1.ids": 16} if kind == "mixture" else {"0.ids": 16})


def test_of_two_towers_documents_are_remembered(small: Small, tmp_path: Path) -> None:
    module, data = world("towers", small, tmp_path)
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, data)
    remembered = module.bank.state_dict()["0.ids"]
    assert data.items.roles[remembered].tolist() == [1] * 16


def resumable(
    small: Small, folder: Path, memory: int, resume: Path | None = None, **options: Any
) -> tuple[MetricLearner, Watch]:
    learner, watch = small.learner(InfoNCELoss(0.2), dropout=0.1, memory=memory), Watch()
    saving = ModelCheckpoint(
        folder, "{step}", auto_insert_metric_name=False, every_n_train_steps=1, save_top_k=-1
    )
    trainer(folder, watch, saving, max_epochs=3, **options).fit(learner, small.data(), ckpt_path=resume)
    return learner, watch


def test_a_resumed_run_ends_like_the_whole_one(small: Small, tmp_path: Path) -> None:
    whole, watch = resumable(small, tmp_path / "whole", 25, accumulate_grad_batches=2)
    middle = next((tmp_path / "whole").glob("4.ckpt"))
    resumed, rest = resumable(small, tmp_path / "again", 25, middle, accumulate_grad_batches=2)
    assert 0 < len(rest.losses) < len(watch.losses)
    assert rest.losses == watch.losses[-len(rest.losses) :]
    assert distance(weights(whole), weights(resumed)) == 0
    for name, value in whole.bank.state_dict().items():
        assert torch.equal(value, resumed.bank.state_dict()[name])


def test_a_memory_can_be_changed_on_the_way(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumable(small, tmp_path / "whole", 25)
    caplog.set_level("INFO", logger="lit_metric")
    for memory, told in ((7, "memory 25 → 7"), (0, "memory 25 → None")):
        caplog.clear()
        learner, watch = resumable(small, tmp_path / f"{memory}", memory, tmp_path / "whole" / "10.ckpt")
        assert len(watch.losses) == 5
        assert told in caplog.text
        assert memory == 0 or len(learner.bank.state_dict()["0.ids"]) == memory
    resumable(small, tmp_path / "later", 30, tmp_path / "0" / "12.ckpt")


def test_every_fit_starts_with_nothing_and_a_checkpoint_gives_the_size(small: Small, tmp_path: Path) -> None:
    class First(Watch):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            assert module.bank.state_dict() == {}

    learner = small.learner(memory=30)
    saving = ModelCheckpoint(tmp_path, "end", every_n_epochs=1)
    for _ in range(2):
        trainer(tmp_path, First(), saving, max_epochs=1).fit(learner, small.data())
    loaded = MetricLearner.load_from_checkpoint(tmp_path / "end.ckpt")
    assert loaded.memory == 30
    trainer(tmp_path).test(loaded, small.data(), verbose=False)


@pytest.mark.parametrize("loss", [ProxyAnchorLoss(), MatryoshkaLoss(CoSENTLoss(), [2])])
def test_a_loss_that_compares_no_candidates_is_refused(small: Small, tmp_path: Path, loss: Any) -> None:
    told = f"memory adds candidates of earlier batches, and {type(loss).__name__} learns nothing from them"
    with pytest.raises(ValueError, match=told):
        trainer(tmp_path).fit(small.learner(loss, memory=9), small.data())


def test_a_size_below_zero_is_refused(small: Small) -> None:
    with pytest.raises(ValueError, match="at least 1 vector, not -1"):
        small.learner(memory=-1)


class Fixed(CandidateBank):
    """Two vectors for the first candidate's id and the next one."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.asked: list[tuple[int, ...]] = []

    def extend(self, anchors: Tensor, ids: Tensor, task: int = 0) -> tuple[Tensor, Tensor]:
        self.asked.append((len(anchors), len(ids), task))
        return self.scale * torch.ones(2, anchors.shape[1]), ids[:1].repeat(2) + torch.tensor([0, 1])


def test_a_bank_of_ones_own(small: Small, tmp_path: Path) -> None:
    bank, watch = Fixed(2.0), Watch()
    learner = small.learner(memory=bank)
    saving = ModelCheckpoint(tmp_path, "end", every_n_epochs=1)
    trainer(tmp_path, watch, saving, max_epochs=1).fit(learner, small.data())
    assert bank.asked == [(12, 12, 0)] * 5
    assert MetricLearner.load_from_checkpoint(tmp_path / "end.ckpt").memory == 0


class Sized(Fixed):
    """A bank with a length, which is 0 before training."""

    def __len__(self) -> int:
        return len(self.asked)


def test_an_empty_bank_with_a_length_is_used(small: Small) -> None:
    bank = Sized()
    assert small.learner(memory=bank).bank is bank


class Fewer(MetricLearner):
    """Anchors are compared with every other candidate."""

    def candidates(self, batch: Any, vectors: Tensor) -> tuple[Tensor, Tensor]:
        gathered, ids = super().candidates(batch, vectors)
        return gathered[::2], ids[::2]


def test_a_step_of_training_can_be_overridden(small: Small, tmp_path: Path) -> None:
    learner = Fewer(TextEncoder(small / "backbone", dropout=0.0), InfoNCELoss(0.5), lr=1e-12)
    data, watch = small.data(), Watch()
    trainer(tmp_path, watch, max_steps=1).fit(learner, data)
    items = watch.candidates[0]
    texts = {item: data.texts_of(item)[0] for item in items}
    labels = {item: int(data.relations.labels[item]) for item in items}
    vectors = dict(zip(items, learner.encode([*texts.values()]), strict=True))
    expected = info_nce(watch.anchors[0], items[::2], vectors, labels, texts)
    assert watch.losses[0] == pytest.approx(expected, rel=1e-5)


def test_the_command_line_takes_a_size_or_a_class() -> None:
    assert resolved("--config", "banking77", "--model.memory", "9")["model"]["init_args"]["memory"] == 9
    given = resolved("--config", "banking77", "--model.memory", "CandidateMemory", "--model.memory.size", "5")
    memory = given["model"]["init_args"]["memory"]
    assert memory == {"class_path": "lit_metric.losses.CandidateMemory", "init_args": {"size": 5}}
