"""What is left of a run that is interrupted, that can't write, or whose weights are averaged at the end."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from safetensors.torch import load_file

import lit_metric
from lit_metric.callbacks import RunReport, report
from lit_metric.callbacks.summary import next_steps, read_report, table, worst_confusions
from lit_metric.data import Ragged
from lit_metric.encoders import Encoder
from lit_metric.evaluation import Measured
from lit_metric.metrics import QueryValues
from tests.small import Small, distance, questions, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """A shell that starts the tests in the background ignores SIGINT; and Lightning does after the first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class At(Callback):
    """Does something in the middle of the second epoch, or in its validation."""

    def __init__(self, what: Callable[[], None], validation: bool = False) -> None:
        self.what, self.validation = what, validation

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 7 and not self.validation:
            self.what()

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == 1 and self.validation:
            self.what()


def fail() -> None:
    raise ZeroDivisionError("by a metric")


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("monitor", ["val/map@r", None])
@pytest.mark.parametrize(
    ("event", "raised", "ended"),
    [
        (At(send(signal.SIGTERM)), SystemExit, "SIGTERM"),
        (At(send(signal.SIGINT)), SystemExit, "SIGINT"),
        (At(fail), ZeroDivisionError, "ZeroDivisionError: by a metric"),
        (At(fail, validation=True), ZeroDivisionError, "ZeroDivisionError: by a metric"),
    ],
    ids=["SIGTERM", "SIGINT", "training", "validation"],
)
def test_an_interrupted_run_keeps_the_encoder_of_its_checkpoint(
    small: Small,
    tmp_path: Path,
    monitor: str | None,
    event: At,
    raised: type[BaseException],
    ended: str,
) -> None:
    saving = ModelCheckpoint(tmp_path / "checkpoints", "kept", monitor=monitor, mode="max")
    with pytest.raises(raised):
        trainer(tmp_path, event, RunReport(), saving, max_epochs=5).fit(small.learner(), small.data())
    written = read_report(tmp_path / "metrics.json")
    assert written["ended"] == ended
    assert written["before"]
    assert "after" not in written
    assert written["steps"] == (10 if event.validation else 7)
    # Without those of the batch that failed.
    assert written["texts"] in (12 * written["steps"], 12 * (written["steps"] - 1))
    assert written["best_checkpoint"] == "checkpoints/kept.ckpt"
    state = torch.load(tmp_path / "checkpoints" / "kept.ckpt", weights_only=True)
    assert state["global_step"] == 5
    kept = {f"encoder.{name}": value for name, value in weights(lit_metric.load(tmp_path)).items()}
    assert distance(kept, {name: state["state_dict"][name] for name in kept}) == 0


def test_without_a_checkpoint_a_signal_leaves_the_last_weights(small: Small, tmp_path: Path) -> None:
    learner = small.learner()
    with pytest.raises(SystemExit):
        trainer(tmp_path, At(send(signal.SIGINT)), RunReport()).fit(learner, small.data())
    assert distance(weights(lit_metric.load(tmp_path)), weights(learner.encoder)) == 0
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path / "other", At(fail), RunReport()).fit(small.learner(), small.data())
    assert not (tmp_path / "other" / "model").exists()  # weights that an error left may be anything


def test_an_old_after_is_not_that_of_an_interrupted_part(small: Small, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "checkpoints", "kept")
    trainer(tmp_path, RunReport(), saving, max_epochs=1).fit(small.learner(), small.data())
    whole = read_report(tmp_path / "metrics.json")
    assert whole["after"]
    assert whole["ended"] == "max_epochs"
    path = tmp_path / "checkpoints" / "kept.ckpt"
    fit = trainer(tmp_path, At(fail), RunReport(), max_epochs=3)
    with pytest.raises(ZeroDivisionError):
        fit.fit(small.learner(), small.data(), ckpt_path=path)
    part = read_report(tmp_path / "metrics.json")
    assert part["before"] == whole["before"]
    assert "after" not in part


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_at_the_end_costs_neither_checkpoints_nor_the_report(
    small: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    there: bool,
) -> None:
    if there:
        trainer(tmp_path, RunReport(before=False), max_steps=1).fit(small.learner(), small.data())

    save = Encoder.save

    def full(this: Encoder, folder: Path, weights: bool = True) -> None:
        if not weights:  # a description, which is not written to this disk
            save(this, folder, weights=False)
            return
        Path(folder).mkdir(parents=True)
        (Path(folder) / "lit_metric.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    learner = small.learner()
    saving = ModelCheckpoint(tmp_path / "checkpoints", "kept", save_last=True)
    fit = trainer(tmp_path, RunReport(), saving)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "save", full)
        with pytest.raises(OSError, match="No space left"):
            fit.fit(learner, small.data())
    assert "The checkpoints are there: lit_metric.load(" in caplog.text
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert read_report(tmp_path / "metrics.json")["after"]
    assert not list(tmp_path.glob(".model*"))
    if not there:
        assert distance(weights(lit_metric.load(tmp_path)), weights(learner.encoder)) == 0
    else:  # what an earlier part of the run wrote is whole
        lit_metric.load(tmp_path)


def test_a_report_that_cant_be_written_leaves_the_encoder(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = report.write_report

    def full(path: Path, content: Any) -> None:
        if "after" in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(report, "write_report", full)
    learner = small.learner()
    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, RunReport()).fit(learner, small.data())
    assert distance(weights(lit_metric.load(tmp_path)), weights(learner.encoder)) == 0
    assert read_report(tmp_path / "metrics.json")["before"]


@pytest.mark.parametrize(
    ("limits", "callback", "ended"),
    [
        ({"max_epochs": 2}, None, "max_epochs"),
        ({"max_epochs": 9, "max_steps": 3}, None, "max_steps"),
        ({"max_epochs": 999}, Timer({"seconds": 1}), "max_time"),
        ({"max_epochs": 9}, EarlyStopping("val/map@r", patience=1, min_delta=9.0), "early stopping"),
    ],
)
def test_how_it_ended(
    small: Small, tmp_path: Path, limits: dict[str, int], callback: Callback | None, ended: str
) -> None:
    callbacks = [] if callback is None else [callback]
    trainer(tmp_path, *callbacks, RunReport(), **limits).fit(small.learner(), small.data())
    written = read_report(tmp_path / "metrics.json")
    assert written["ended"] == ended
    assert written["after"]
    lit_metric.load(tmp_path)


def averaging(kind: str) -> Callback:
    if kind == "swa":
        return StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    return EMAWeightAveraging(decay=0.9)


@pytest.mark.parametrize("first", ["report", "averaging"])
@pytest.mark.parametrize("kind", ["swa", "ema"])
@pytest.mark.parametrize("monitor", ["val/map@r", None])
def test_averaged_weights_are_what_is_kept(
    small: Small, tmp_path: Path, kind: str, first: str, monitor: str | None
) -> None:
    if kind == "ema" and monitor:
        pytest.skip("validation measures the averaged weights, and the best checkpoint holds them")
    callbacks = [RunReport(), averaging(kind)]
    saving = ModelCheckpoint(tmp_path / "checkpoints", "kept", monitor=monitor, mode="max")
    learner = small.learner(lr=1e-2)
    fit = trainer(
        tmp_path, *(callbacks if first == "report" else callbacks[::-1]), saving, max_epochs=4, logger=False
    )
    fit.fit(learner, small.data())
    name = "backbone.model.encoder.layer.0.attention.self.query.weight"
    averaged = learner.encoder.state_dict()[name]  # what the callback leaves in the module
    assert torch.equal(lit_metric.load(tmp_path).state_dict()[name], averaged)
    saved = load_file(tmp_path / "model" / "backbone" / "model.safetensors")
    assert torch.equal(saved[name.removeprefix("backbone.model.")], averaged)
    kept = {
        path.name: torch.equal(torch.load(path, weights_only=True)["state_dict"][f"encoder.{name}"], averaged)
        for path in (tmp_path / "checkpoints").iterdir()
    }
    if kind == "ema":
        assert kept == {"kept.ckpt": True}
    else:  # the weights to resume from are those that are trained
        assert kept == {"kept.ckpt": False, "averaged.ckpt": True}
        assert read_report(tmp_path / "metrics.json")["best_checkpoint"] == "checkpoints/averaged.ckpt"


def test_a_fit_ends_with_a_table_and_what_to_do_next(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, RunReport()).fit(small.learner(), small.data())
    written = read_report(tmp_path / "metrics.json")
    lines = capsys.readouterr().out.splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith("test split")]
    heading = "test split before after change 95% interval of the change"
    assert " ".join(lines[place].split()) == heading
    rows = {line.split()[0]: line.split()[1:] for line in lines[place + 1 : place + 6]}
    assert "map@r" in rows
    for name, (old, new, change, *bounds) in rows.items():
        values = written["before"][name], written["after"][name]
        assert [old, new, change] == [f"{values[0]:.4f}", f"{values[1]:.4f}", f"{values[1] - values[0]:+.4f}"]
        # Only a mean over classes has no values by query.
        assert (name in written["intervals"]) == (name != "knn10_accuracy_macro") == bool(bounds)
        if bounds:
            low, high = written["intervals"][name]["change"]
            assert bounds == [f"{low:+.4f}", "…", f"{high:+.4f}"]
            assert low <= values[1] - values[0] <= high
    assert written["intervals"]["map@r"]["queries"] == 30
    confused = [line for line in lines if " -> " in line]
    assert confused == [
        f"  {each['class']} -> {each['nearest']}: {each['count']} of {each['of']}"
        for each in written["confusions"]
    ]
    assert f"  encoder = lit_metric.load({str(tmp_path)!r})" in lines


def test_confusions_are_those_of_the_nearest_other_items(small: Small, tmp_path: Path) -> None:
    trainer(tmp_path, RunReport(), max_steps=2).fit(small.learner(), small.data())
    written = read_report(tmp_path / "metrics.json")
    rows = questions(30, seed=1)  # those of test.csv
    vectors = lit_metric.load(tmp_path).encode([text for text, _ in rows])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    counts: dict[tuple[str, str], int] = {}
    for place, (_, label) in enumerate(rows):
        cosines = unit @ unit[place]
        cosines[place] = -2
        other = rows[int(cosines.argmax())][1]
        if other != label:
            counts[label, other] = counts.get((label, other), 0) + 1
    assert counts, "with no confusion there is nothing to compare"
    assert len(written["confusions"]) == min(3, len(counts))
    for each in written["confusions"]:
        assert (counts[each["class"], each["nearest"]], each["of"]) == (each["count"], 5)
    assert [each["count"] for each in written["confusions"]] == sorted(counts.values(), reverse=True)[:3]
    wrong = sum(counts.values())
    assert written["after"]["hit_rate@1"] == pytest.approx(1 - wrong / 30)


def test_a_confusion_of_items_of_several_classes_counts_each_of_them() -> None:
    labels = Ragged.from_lists([[0, 1], [2], [1], []])
    nearest = torch.tensor([1, 2, 0, 1])
    found = worst_confusions(labels, ["a", "b", "c"], QueryValues(torch.arange(4), {}, {}, nearest), most=9)
    # Item 2 has b in common with item 0; item 3 has no class.
    assert [(each["class"], each["nearest"], each["count"], each["of"]) for each in found] == [
        ("a", "c", 1, 1),
        ("c", "b", 1, 1),
        ("b", "c", 1, 2),
    ]


def test_a_model_that_is_worse_than_before_is_a_warning(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = iter([0.5, 0.25])
    monkeypatch.setattr(report, "measure", lambda *args: Measured({"map@r": next(values)}, {}))
    trainer(tmp_path, RunReport(), max_steps=1).fit(small.learner(), small.data())
    [record] = [record for record in caplog.records if "lower after training" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "map@r is lower after training than before (by 0.2500): lower the learning rate" in caplog.text
    written = read_report(tmp_path / "metrics.json")
    assert (written["main_metric"], written["warning"]) == ("map@r", record.getMessage())


def test_the_commands_that_are_named_fit_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    told = next_steps(tmp_path, tmp_path / "checkpoints" / "best.ckpt", "validation")
    assert f"lit-metric export --model {tmp_path} --output FOLDER" in told
    assert f"validate --config {tmp_path}/config.yaml --ckpt_path {tmp_path}/checkpoints/best.ckpt" in told
    trusted = next_steps(tmp_path, None, None, trust=True)
    assert f"export --model {tmp_path} --output FOLDER --trust_remote_code true" in trusted
    assert f"lit_metric.load({str(tmp_path)!r}, trust_remote_code=True)" in trusted
    shown = table({"split": "test", "before": {"mrr": None}, "after": {"mrr": 0.5}}, ["mrr", "tot"])
    assert shown.splitlines()[1].split() == ["mrr", "–", "0.5000", "–"]
    assert len(shown.splitlines()) == 2


def test_before_is_the_first_point_of_the_curves(small: Small, tmp_path: Path) -> None:
    from lit_metric.loggers import RunLogger
    from tests.end_to_end.command import logged

    first: list[float] = []
    for split, prefix in (("validation", "val"), ("test", "test")):
        fit = trainer(tmp_path, RunReport(), logger=RunLogger(split, str(tmp_path)), log_every_n_steps=50)
        fit.fit(small.learner(), small.data(**({"test": None} if split == "validation" else {})))
        folder = tmp_path / split
        report = json.loads((folder / "metrics.json").read_text())
        assert report["split"] == split
        assert logged(folder, f"{prefix}/map@r")[0] == pytest.approx(report["before"]["map@r"])
        # Curves of validation begin before training, whatever the report is about.
        curve = logged(folder, "val/map@r")
        assert sorted(curve) == [0, 4, 9]
        first.append(curve[0])
        # Epochs of five batches are in the curves of training, too.
        assert sorted(logged(folder, "train/loss")) == sorted(logged(folder, "train/loss_epoch")) == [4, 9]
        assert sorted(logged(folder, "train/effective_rank")) == [4, 9]
    assert first[0] == pytest.approx(first[1])
