"""One run from the command line: its folder, what was looked at when, resuming, and the commands after it."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import lit_metric
from lit_metric.callbacks import RunReport
from lit_metric.data import Batch, Collator
from lit_metric.evaluation import Evaluation, evaluate
from tests.end_to_end.command import NAMES, ROOT, logged, metrics, options, run
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = ROOT / "configs" / "banking77.yaml"
EPOCHS = 14


def arguments(small: Small, *more: str, command: str = "fit", **values: Any) -> list[str]:
    """The shipped config on the small world, at a rate whose best epoch is not the last."""
    given = {
        "data__train": small / "train.csv",
        "data__test": small / "test.csv",
        "data__cache_dir": small / "cache",
        "data__validation_share": 0.3,
        "data__planner__init_args__classes": 4,
        "data__planner__init_args__per_class": 3,
        "model__encoder__init_args__backbone": small / "backbone",
        "model__lr": 0.003,
        "trainer__accelerator": "cpu",
        "trainer__log_every_n_steps": 1,
        "trainer__max_epochs": EPOCHS,
    }
    return [command, f"--config={CONFIG}", *options(**{**given, **values}), *more]


@dataclass
class Looks:
    """Which items were encoded: before, during and after training."""

    phase: str = "before"
    items: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    unsafe: int = 0
    loads: int = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        build, load = Collator.__call__, torch.load
        start, end = RunReport.on_fit_start, RunReport.on_train_end

        def collate(this: Collator, anchor_ids: torch.Tensor, candidate_ids: torch.Tensor) -> Batch:
            self.items[self.phase] |= set(anchor_ids.tolist()) | set(candidate_ids.tolist())
            return build(this, anchor_ids, candidate_ids)

        def on_fit_start(this: RunReport, *args: Any) -> None:
            start(this, *args)
            self.phase = "during"

        def on_train_end(this: RunReport, *args: Any) -> None:
            self.phase = "after"
            end(this, *args)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.loads += 1
            self.unsafe += kwargs.get("weights_only") is False
            return load(*args, **kwargs)

        patch.setattr(Collator, "__call__", collate)
        patch.setattr(RunReport, "on_fit_start", on_fit_start)
        patch.setattr(RunReport, "on_train_end", on_train_end)
        patch.setattr(torch, "load", counted)


@dataclass
class Done:
    root: Path
    looks: Looks
    seconds: float

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "banking77"


@pytest.fixture(scope="module")
def done(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A finished run; tests that write into it work on a copy."""
    root, looks = tmp_path_factory.mktemp("run"), Looks()
    with pytest.MonkeyPatch.context() as patch:
        looks.watch(patch)
        start = time.monotonic()
        run(root, *arguments(small))
    return Done(root, looks, time.monotonic() - start)


@pytest.fixture
def copy(done: Done, tmp_path: Path) -> Path:
    """A copy of the run's root."""
    shutil.copytree(done.root, tmp_path / "root")
    return tmp_path / "root"


def world(small: Small) -> lit_metric.MetricDataModule:
    return small.data(validation_share=0.3, test_corpus="both")


def measure(small: Small, encoder: lit_metric.Encoder, split: str = "test") -> dict[str, float]:
    data = world(small)
    data.prepare(encoder.tokenizer)
    return evaluate(encoder, data, split, Evaluation(data, split))


def test_before_and_after_are_those_of_the_encoders(small: Small, done: Done) -> None:
    report = metrics(done.folder)
    untrained = lit_metric.TextEncoder(small / "backbone", max_length=64)
    assert report["split"] == "test"
    assert report["before"] == pytest.approx(measure(small, untrained), abs=1e-6)
    assert report["after"] == pytest.approx(measure(small, lit_metric.load(done.folder)), abs=1e-6)
    assert set(report["after"]) >= NAMES
    assert report["after"] != report["before"]


def test_validation_chose_the_checkpoint(small: Small, done: Done) -> None:
    by_step = logged(done.folder, "val/map@r")
    best = max(by_step, key=lambda step: by_step[step])
    assert len(by_step) > 1
    assert best != max(by_step), "the best epoch must not be the last, or nothing was chosen"
    state = torch.load(done.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["global_step"] == best + 1
    assert metrics(done.folder)["best_checkpoint"] == "checkpoints/best.ckpt"
    encoder = lit_metric.load(done.folder)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state["state_dict"][f"encoder.{name}"]), name
    assert measure(small, encoder, "validation")["map@r"] == pytest.approx(by_step[best], abs=1e-6)


def test_the_test_split_is_not_looked_at_in_between(small: Small, done: Done) -> None:
    data = world(small)
    data.read()
    test = set(data.splits["test"].tolist())
    assert len(test) == 30
    assert test <= done.looks.items["before"]
    assert test <= done.looks.items["after"]
    assert not test & done.looks.items["during"]
    assert set(data.splits["validation"].tolist()) <= done.looks.items["during"]


def test_time_and_texts(done: Done) -> None:
    report = metrics(done.folder)
    steps = logged(done.folder, "train/loss")
    assert report["steps"] == len(steps)
    assert report["texts"] == 12 * report["steps"]  # no text twice in a batch
    assert report["texts_per_second"] == pytest.approx(report["texts"] / report["seconds"])
    assert 0 < report["seconds"] < done.seconds
    state = torch.load(done.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < state["callbacks"]["RunReport"]["seconds"] <= report["seconds"]


def test_training_stops_early(done: Done) -> None:
    values = list(logged(done.folder, "val/map@r").values())
    assert 6 <= len(values) < EPOCHS
    # Patience is 5: the best epoch, five no better, and no more.
    assert values.index(max(values)) == len(values) - 6


def test_the_config_is_there_and_a_second_fit_has_a_folder_of_its_own(small: Small, copy: Path) -> None:
    first = copy / "runs" / "banking77"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == 0.003
    assert config["data"]["init_args"]["planner"]["init_args"]["classes"] == 4
    for name in ("banking77-2", "banking77-3"):
        run(copy, *arguments(small, trainer__max_epochs=1, trainer__limit_train_batches=1))
        folder = copy / "runs" / name
        assert metrics(folder)["steps"] == 1
        assert (folder / "checkpoints").is_dir()
        assert (folder / "metrics.csv").is_file()
        assert list(folder.glob("events*"))
        loggers = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["logger"]
        assert [logger["init_args"]["name"] for logger in loggers] == [name, name]
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()} == before


def test_the_resolved_config_makes_the_same_run_again(small: Small, done: Done, tmp_path: Path) -> None:
    run(tmp_path, "fit", f"--config={done.folder / 'config.yaml'}")
    again = tmp_path / "runs" / "banking77"
    assert metrics(again)["after"] == metrics(done.folder)["after"]
    assert logged(again, "train/loss") == logged(done.folder, "train/loss")


def test_a_resumed_run_goes_on_in_its_folder(small: Small, tmp_path: Path) -> None:
    more = ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"]
    more += ["--trainer.callbacks.every_n_train_steps=7", "--trainer.callbacks.filename=at7"]
    run(tmp_path, *arguments(small, *more, model__lr=1e-3, trainer__max_steps=8, data__num_workers=0))
    folder = tmp_path / "runs" / "banking77"
    (tmp_path / "runs" / "banking77").rename(tmp_path / "runs" / "other")
    folder = tmp_path / "runs" / "other"
    report = metrics(folder)
    rows = (folder / "metrics.csv").read_text().splitlines()
    marked = {**report["before"], "map@r": 0.123456}
    (folder / "metrics.json").write_text(json.dumps({**report, "before": marked}))
    looks = Looks()
    with pytest.MonkeyPatch.context() as patch:
        looks.watch(patch)
        resume = f"--ckpt_path={folder / 'checkpoints' / 'at7.ckpt'}"
        run(tmp_path, *arguments(small, *more, resume, model__lr=1e-3, trainer__max_steps=12))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["other"]
    assert not looks.items["before"]  # what was measured before is read back
    assert looks.loads > 0
    assert looks.unsafe == 0
    resumed = metrics(folder)
    assert resumed["before"] == marked
    assert resumed["steps"] == 12
    assert resumed["texts"] == 12 * 12
    # Rows of what came before are still there; step 7, trained twice, has two.
    losses = logged(folder, "train/loss")
    assert sorted(losses) == list(range(12))
    assert len((folder / "metrics.csv").read_text().splitlines()) > len(rows)
    state = torch.load(folder / "checkpoints" / "at7.ckpt", weights_only=True)
    assert resumed["seconds"] > state["callbacks"]["RunReport"]["seconds"] > 0


def test_resuming_a_complete_run_says_so_and_writes_nothing(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"trainer__max_epochs": 2, "trainer__limit_train_batches": 2}
    run(tmp_path, *arguments(small, **few))
    runs = tmp_path / "runs"
    checkpoint, elsewhere = runs / "banking77" / "checkpoints" / "last.ckpt", tmp_path / "copied.ckpt"
    shutil.copy(checkpoint, elsewhere)
    (tmp_path / "empty").mkdir()

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()}

    written = files()
    further = "To train further, raise trainer.max_"
    for folder, path, more, reached in (
        (tmp_path, checkpoint, few, f"2 of 2 epochs. {further}epochs"),
        (tmp_path / "empty", elsewhere, few, f"2 of 2 epochs. {further}epochs"),
        (tmp_path, checkpoint, {"trainer__max_steps": 3}, f"4 of 3 steps. {further}steps"),
    ):
        capsys.readouterr()
        run(folder, *arguments(small, f"--ckpt_path={path}", **more))  # no SystemExit: status 0
        line = f"lit-metric: Nothing is left to train: {path} is of a complete run, with {reached}"
        assert capsys.readouterr().err.splitlines()[-1] == line
        assert files() == written
        assert sorted(runs.iterdir()) == [runs / "banking77"]
        assert not list((tmp_path / "empty").iterdir())
    run(tmp_path, *arguments(small, f"--ckpt_path={checkpoint}", **{**few, "trainer__max_epochs": 3}))
    assert metrics(runs / "banking77")["steps"] == 6


def test_test_and_validate_say_what_the_run_said_and_leave_its_config_alone(
    small: Small, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy / "runs" / "banking77"
    config = (folder / "config.yaml").read_bytes()
    checkpoint = f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"
    run(copy, "test", f"--config={folder / 'config.yaml'}", checkpoint)
    run(copy, "validate", f"--config={folder / 'config.yaml'}", checkpoint)
    report = metrics(folder)
    for name, value in report["after"].items():
        assert list(logged(folder, f"test/{name}").values()) == [pytest.approx(value, abs=1e-6)], name
    by_step = logged(folder, "val/map@r")
    assert max(by_step.values()) in [pytest.approx(value) for value in by_step.values()]
    assert (folder / "config.yaml").read_bytes() == config
    assert sorted(path.name for path in (copy / "runs").iterdir()) == ["banking77"]


def test_predict_writes_the_embeddings_of_the_best_checkpoint(small: Small, copy: Path) -> None:
    folder = copy / "runs" / "banking77"
    source, checkpoint = f"--data.predict={small / 'test.csv'}", folder / "checkpoints" / "best.ckpt"
    run(copy, "predict", f"--config={folder / 'config.yaml'}", f"--ckpt_path={checkpoint}", source)
    data = world(small)
    data.read()
    texts = [data.texts_of(item)[0] for item in data.splits["test"].tolist()]
    expected = lit_metric.load(folder).encode(texts)
    np.testing.assert_allclose(np.load(folder / "predictions.npy"), expected, atol=1e-5)


def test_a_checkpoint_of_another_model(small: Small, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = f"--ckpt_path={copy / 'runs' / 'banking77' / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(SystemExit) as stopped:
        run(copy, *arguments(small, resume, model__encoder__init_args__projection=8))
    assert stopped.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(
        "lit-metric: ValueError: the checkpoint is of another model: encoder.projection.0."
    )
    assert "is missing there and (8, 32) here (2 of " in told
