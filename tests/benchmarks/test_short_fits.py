"""One fit among many: as long as its budget, equal to one in a process of its own, honest about failure."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks import short_fits as fit
from benchmarks import vectors
from benchmarks.losses.table import Entry, Setup, configuration, loss_of, planner_of
from lit_metric import MetricDataModule, Miner, Refresh, TextEncoder
from lit_metric.batching import PKPlanner
from lit_metric.losses import MetricLoss, PairBlock, Part, masked_mean
from tests.forked import SERVER
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


class Exploding(MetricLoss):
    """A loss that is infinite from the second call on."""

    def __init__(self) -> None:
        super().__init__("cosine")
        self.calls = 0

    def parts(self, scores: Tensor, pairs: PairBlock) -> dict[str, Part]:
        self.calls += 1
        return {"exploding": masked_mean(scores / (0 if self.calls > 1 else 1), pairs.positive)}


class Together(MetricLoss):
    """A loss that is least when all embeddings are one."""

    def __init__(self) -> None:
        super().__init__("cosine")

    def parts(self, scores: Tensor, pairs: PairBlock) -> dict[str, Part]:
        return {"together": masked_mean(1 - scores, pairs.positive | pairs.negative)}


def loss_here(name: str) -> Entry:
    return Entry({"class_path": f"tests.benchmarks.test_short_fits.{name}", "init_args": {}})


def small_setup(small: Small, folder: Path) -> Setup:
    """The tags of the small world, encoded by a frozen tower, beside the questions of :func:`questions`."""
    text = {
        "class_path": "lit_metric.TextEncoder",
        "init_args": {"backbone": small / "backbone", "freeze": True},
    }
    encoder = {"class_path": "lit_metric.SetEncoder", "init_args": {"text": text, "projection": 8}}
    data = {"tags": "tags", "label": "section", "validation_share": 0.4, "cache_dir": small / "cache"}
    model = {"encoder": encoder, "loss": loss_of("InfoNCELoss"), "lr": 1.0}
    config = {
        "model": {"class_path": "lit_metric.MetricLearner", "init_args": model},
        "data": {"class_path": "lit_metric.MetricDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "gradient_clip_val": 1.0, "max_epochs": 7},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    pairs = planner_of("PKPlanner", classes=6, per_class=2)
    return Setup(
        config=str(path),
        sources=lambda: (small.root / "train.parquet", small.root / "test.parquet"),
        choose_by="map@r",
        budget=48,
        lrs=(1e-3, 1e-2),
        planner=planner_of("PKPlanner", classes=4, per_class=3),
        single=planner_of("ShufflePlanner", batch_size=12),
        pairs=pairs,
        n_pair=planner_of("NPairPlanner", classes=6),
        grouped=planner_of("PKPlanner", classes=3, per_class=4),
        protocol="training items vote",
        data={"test_corpus": "train"},
    )


@pytest.fixture
def setup(small: Small, tmp_path: Path) -> Setup:
    return small_setup(small, tmp_path)


def test_a_batch_counts_whose_middle_lies_within_the_budget(small: Small) -> None:
    data = MetricDataModule(train=small / "train.csv", planner=PKPlanner(4, 3))
    data.read()
    # Batches of 12 end at 12, 24, 36, ...; there are 6 in an epoch.
    expected = {1: 1, 18: 2, 29: 2, 30: 3, 41: 3, 120: 10}
    assert {budget: fit.steps_within(data, budget) for budget in expected} == expected


def test_what_is_encoded_for_a_search_counts_too(small: Small) -> None:
    miner = Miner(top_k=5, negatives=1)
    data = MetricDataModule(train=small / "train.csv", planner=PKPlanner(4, 3), miner=miner)
    data.read()
    # A search before each epoch of 6 batches, which hold 12 anchors and 12 mined negatives each.
    search = len(data.splits["train"])
    assert 50 < search <= 72
    again = search + 6 * 24 + search
    expected = {1: 1, search + 24 + 11: 1, search + 24 + 12: 2, again + 11: 6, again + 12: 7}
    assert {budget: fit.steps_within(data, budget) for budget in expected} == expected
    data.refresh = Refresh(every="never", mode="inline")
    assert fit.steps_within(data, search + 6 * 24 + 12) == 7


def test_items_are_counted_as_they_pass_through_the_encoder(setup: Setup, tmp_path: Path) -> None:
    config = configuration(setup, Entry(loss_of("InfoNCELoss"), "pairs"), 1e-3, 0)
    data = config["data"]["init_args"]
    data["planner"] = planner_of("HardPKPlanner", classes=4, per_class=3)
    data["miner"] = {"class_path": "lit_metric.Miner", "init_args": {"negatives": 0}}
    data["refresh"] = {"class_path": "lit_metric.Refresh", "init_args": {"mode": "inline"}}
    found = fit.train(config, 42 + 42 + 42 + 6, tmp_path / "w.safetensors")
    # A search of 42 items before each epoch of 4 batches with 12 items each, so 42 + 48 + 42 + ....
    assert (found["steps"], found["items"]) == (4, 42 + 48)
    found = fit.train(config, 42 + 48 + 42 + 6, tmp_path / "w.safetensors")
    assert (found["steps"], found["items"]) == (5, 42 + 48 + 42 + 12)


def test_another_process_finds_vectors_on_disk_and_encodes_nothing(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, pool = [0], TextEncoder._pool

    def counted(tower: TextEncoder, tokens: Any, skip: Any = None) -> Tensor:
        texts[0] += len(tokens)
        return pool(tower, tokens, skip)

    monkeypatch.setattr(TextEncoder, "_pool", counted)
    config = configuration(setup, Entry(loss_of("NCALoss")), 1e-2, 0)
    found = []
    for number in range(2):  # what a process remembers is forgotten in between
        monkeypatch.setattr(vectors, "_kept", {})
        monkeypatch.setattr(vectors, "_names", {})
        found.append(fit.train(config, 48, tmp_path / f"{number}.safetensors", vectors=tmp_path / "vectors"))
        assert texts[0] == 6 * 4 + 32  # words, of which tags are made
    assert {**found[0], "seconds": 0} == {**found[1], "seconds": 0}
    weights = [(tmp_path / f"{number}.safetensors").read_bytes() for number in range(2)]
    assert weights[0] == weights[1]
    assert len([*(tmp_path / "vectors").iterdir()]) == 1


def test_a_fit_after_others_equals_one_in_a_process_of_its_own(setup: Setup, tmp_path: Path) -> None:
    first = configuration(setup, Entry(loss_of("NPairLoss"), "n_pair"), 1e-2, 1)
    second = configuration(setup, Entry(loss_of("ProxyNCALoss"), "single", {"loss.proxies": 100.0}), 1e-3, 0)
    fit.train(first, 60, tmp_path / "first.safetensors")
    ours = fit.train(second, 60, tmp_path / "ours.safetensors")
    with ProcessPoolExecutor(1, mp_context=SERVER) as pool:
        alone = pool.submit(fit.train, second, 60, tmp_path / "alone.safetensors").result()
    # Epochs of 42 items in batches of 11, 11, 10 and 10.
    assert (ours["status"], ours["steps"], ours["items"]) == ("trained", 6, 64)
    assert {**ours, "seconds": 0} == {**alone, "seconds": 0}
    weights = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("ours", "alone", "first")]
    assert weights[0] == weights[1] != weights[2]


def test_a_loss_of_losses_is_as_it_was_after_a_fit(setup: Setup, tmp_path: Path) -> None:
    entry = Entry(
        loss_of("SumLoss", losses={"n_pair": loss_of("NPairLoss"), "nca": loss_of("NCALoss")}), "n_pair"
    )
    before = json.dumps(configuration(setup, entry, 1e-2, 0))
    fit.train(configuration(setup, entry, 1e-2, 0), 48, tmp_path / "w.safetensors")
    assert json.dumps(configuration(setup, entry, 1e-2, 0)) == before


def test_only_validation_items_are_looked_at_before_the_choice(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at, evaluate = [], fit.evaluate

    def watched(encoder: Any, data: Any, split: str, evaluation: Any) -> dict[str, float]:
        looked_at.append(split)
        return evaluate(encoder, data, split, evaluation)

    monkeypatch.setattr(fit, "evaluate", watched)
    config, weights = configuration(setup, Entry(loss_of("NCALoss")), 1e-2, 0), tmp_path / "w.safetensors"
    result = fit.train(config, 48, weights)
    assert looked_at == ["validation"]
    assert result["validation"].keys() == {*fit.MEASURES}
    assert fit.tested(config, weights).keys() == {*fit.MEASURES}
    assert looked_at == ["validation", "test"]


def test_scores_are_those_of_the_saved_weights_by_scikit_learn(setup: Setup, tmp_path: Path) -> None:
    config, weights = configuration(setup, Entry(loss_of("NCALoss")), 3e-2, 0), tmp_path / "w.safetensors"
    before = fit.train(config, 0, tmp_path / "before.safetensors")
    assert (before["status"], before["steps"], before["items"]) == ("untrained", 0, 0)
    fit.train(config, 96, weights)
    got = fit.tested(config, weights)
    assert got != fit.tested(config, tmp_path / "before.safetensors")
    _, model, data = fit.start(config)
    model.encoder.load_state_dict(fit.load_file(weights), strict=False)
    sides = {}
    for split in ("train", "test"):
        ids = data.splits[split]
        vectors = model.encoder.encode([data.texts_of(item) for item in ids.tolist()])
        sides[split] = np.asarray(vectors), data.relations.labels[ids].numpy()
    peer = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(*sides["train"])
    assert got["knn1_accuracy"] == pytest.approx(peer.score(*sides["test"]), abs=1e-6)


def test_what_diverged_and_what_collapsed_is_said(setup: Setup, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    result = fit.train(configuration(setup, loss_here("Exploding"), 1e-3, 0), 96, weights)
    assert (result["status"], result["diverged_at"], result["steps"]) == ("diverged", 2, 2)
    assert "validation" not in result
    assert not weights.exists()
    result = fit.train(configuration(setup, loss_here("Together"), 0.1, 0), 1200, weights)
    assert (result["status"], result["diverged_at"], result["steps"]) == ("collapsed", None, 100)
    assert weights.exists()


def test_weights_of_another_encoder_are_refused(setup: Setup, tmp_path: Path) -> None:
    fit.save_file({"elsewhere": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(fit.BenchmarkError, match="is of another encoder: remove it"):
        fit.tested(configuration(setup, None, 1e-3, 0), tmp_path / "w.safetensors")
