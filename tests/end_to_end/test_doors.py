"""A run's folder, its name, what ends it, and what is refused, by the command line."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_metric
from lit_metric.commands.runs import runs
from tests import forked
from tests.end_to_end.command import ROOT, metrics, options, run
from tests.small import Small, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


def given(small: Small, *more: str, **values: Any) -> list[str]:
    """A short fit without a config."""
    usual = {
        "data__train": small / "train.csv",
        "data__cache_dir": small / "cache",
        "data__validation_share": 0.3,
        "data__planner": "PKPlanner",
        "data__planner__classes": 4,
        "model__encoder__backbone": small / "backbone",
        "trainer__accelerator": "cpu",
        "trainer__max_epochs": 2,
        "trainer__limit_train_batches": 2,
    }
    return ["fit", *options(**{**usual, **values}), *more]


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_table_is_enough(small: Small, tmp_path: Path) -> None:
    shutil.copy(small / "train.csv", tmp_path / "my questions.csv")
    run(tmp_path, *given(small, data__train="my questions.csv"))
    folder = tmp_path / "runs" / "my-questions"
    assert metrics(folder)["best_checkpoint"] == "checkpoints/best.ckpt"
    assert {"config.yaml", "metrics.csv", "model/encoder.json", "checkpoints/last.ckpt"} <= files(
        folder
    ).keys()
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["name"] == "my-questions"
    assert [each["init_args"]["name"] for each in written["trainer"]["logger"]] == ["my-questions"] * 2
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert any("val/map@r" in key for key in state["callbacks"])


@pytest.mark.parametrize("option", ["--name=triplet", "--trainer.logger.name=triplet"])
def test_a_run_has_a_name(small: Small, tmp_path: Path, option: str) -> None:
    run(tmp_path, *given(small, option, "--trainer.max_epochs=1"))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["triplet"]
    run(tmp_path, "fit", f"--config={tmp_path / 'runs' / 'triplet' / 'config.yaml'}")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["triplet", "triplet-2"]


@pytest.mark.parametrize("option", ["--trainer.fast_dev_run=true", "--trainer.logger=false"])
def test_nothing_is_written_where_nothing_should_be(small: Small, tmp_path: Path, option: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "encoder.json").write_text("mine")
    (tmp_path / "metrics.json").write_text("mine")
    before = files(tmp_path)
    mining = ["--data.miner=Miner", "--data.miner.top_k=6", "--data.refresh.mode=inline"]
    run(tmp_path, *given(small, option, *mining))
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--trainer.accelerator=gpu"], "Lightning refuses this: No supported gpu backend found!"),
        (
            ["--trainer.devices=0"],
            "Lightning refuses this: `Trainer(devices='0')` value is not a valid input",
        ),
        (["--trainer.limit_val_batches=0.5"], "Lightning refuses this: You requested to check 0.5"),
        (
            ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/map@rr"],
            "ValueError: ModelCheckpoint monitors 'val/map@rr', which these data don't have: take val/map@r",
        ),
        (
            ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=map@r"],
            "ValueError: EarlyStopping monitors 'map@r', which these data don't have: take val/map@r",
        ),
        (["--trainer.logger=false", "--name=a"], "ValueError: --name a has no effect"),
        (["--ckpt_path=last"], "ValueError: --ckpt_path last: there is no runs/train/checkpoints/last.ckpt"),
        (["--config=bankin77"], "ValueError: --config bankin77: there is no such file, and no config"),
        (["--data.trian=f"], "data: MetricDataModule has no option 'trian'; nearest are 'train'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    if "gpu" in more[0] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    arguments = given(small, *more)
    if "accelerator" in more[0]:
        arguments = [each for each in arguments if each != "--trainer.accelerator=cpu"]
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *arguments)
    assert stopped.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lit-metric: ")]
    assert len(told) == 1
    assert told[0].startswith(f"lit-metric: {expected}")
    assert not files(tmp_path)


def test_last_without_a_last_checkpoint_leaves_the_run_alone(small: Small, tmp_path: Path) -> None:
    run(tmp_path, *given(small, "--name=a"))
    (tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt").unlink()
    before = files(tmp_path)
    with pytest.raises(SystemExit):
        run(tmp_path, "fit", "--config=runs/a/config.yaml", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert files(tmp_path) == before


def test_resuming_from_elsewhere_goes_on_in_the_folder(small: Small, tmp_path: Path) -> None:
    run(tmp_path, *given(small, "--name=a"))
    folder, other = tmp_path / "runs" / "a", tmp_path / "other"
    other.mkdir()
    best = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    [score] = [state["best_model_score"] for key, state in best.items() if key.startswith("BestCheckpoint")]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    run(
        other,
        "fit",
        f"--config={folder / 'config.yaml'}",
        f"--ckpt_path={checkpoint}",
        "--trainer.max_epochs=3",
    )
    assert not files(other)
    assert metrics(folder)["steps"] == 6
    later = torch.load(checkpoint, weights_only=True)["callbacks"]
    [after] = [state["best_model_score"] for key, state in later.items() if key.startswith("BestCheckpoint")]
    assert after >= score


@pytest.mark.parametrize(
    ("number", "start"), [(signal.SIGTERM, forked.popen), (signal.SIGINT, subprocess.Popen)]
)
def test_a_run_ended_by_a_signal_says_so(
    small: Small, tmp_path: Path, number: signal.Signals, start: Any
) -> None:
    lasting = ["--trainer.max_epochs=100000", "--trainer.callbacks=LastCheckpoint"]
    arguments = given(small, *lasting, "--name=a")
    # Where a shell has started the tests in the background, SIGINT is ignored.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start(
        [sys.executable, "-m", "lit_metric", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **(heeding if number == signal.SIGINT else {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 600
    while not (tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt").exists():
        assert time.monotonic() < limit
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(number)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert told.splitlines()[-1].startswith("lit-metric: ")
    assert "Traceback" not in told


def test_runs_are_listed(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lr in (("a", 0.001), ("b", 0.003)):
        run(tmp_path, *given(small, f"--name={name}", f"--model.lr={lr}", "--trainer.max_epochs=1"))
    capsys.readouterr()
    run(tmp_path, "runs")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "lr", "metric", "before", "after", "seconds"]
    for line, name, lr in zip(lines[1:3], "ab", ("0.001", "0.003"), strict=True):
        report = metrics(tmp_path / "runs" / name)
        shown = [f"{report[key]['map@r']:.4g}" for key in ("before", "after")]
        assert line.split()[:5] == [name, lr, "map@r", *shown]
    assert lines[3] == "lr is model.lr"
    runs(str(tmp_path / "runs"), str(tmp_path / "list.csv"))
    with (tmp_path / "list.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model.lr"] for row in rows] == ["0.001", "0.003"]
    runs(str(tmp_path / "runs"), str(tmp_path / "list.json"))
    read = json.loads((tmp_path / "list.json").read_text())
    assert read[0]["after"] == metrics(tmp_path / "runs" / "a")["after"]["map@r"]
    for folder, output in (("nowhere", None), ("runs", "list.xlsx")):
        with pytest.raises(SystemExit):
            run(tmp_path, "runs", folder, *([f"--output={output}"] if output else []))


def test_a_table_too_small_for_validation_is_trained_on(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("w4 w5", "a"), ("w4 w6", "a"), ("w7 w8", "b"), ("w7 w9", "b")]
    write_csv(tmp_path / "four.csv", rows)
    with caplog.at_level("INFO"):
        run(
            tmp_path,
            "fit",
            f"--model.encoder.backbone={small / 'backbone'}",
            "--data.train=four.csv",
            "--trainer.max_epochs=2",
            "--trainer.accelerator=cpu",
            f"--data.cache_dir={small / 'cache'}",
        )
    assert "nothing is held out for validation" in caplog.text
    assert "Nothing was measured" in caplog.text
    assert "holds the trained encoder" in capsys.readouterr().out
    assert lit_metric.load(tmp_path / "runs/four").encode(["w4"]).shape == (1, 32)
    assert (tmp_path / "runs/four/checkpoints/best.ckpt").is_file()
