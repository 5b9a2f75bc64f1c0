"""The command in processes of its own: two ranks, also with workers, against one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import lit_metric
from tests import forked
from tests.end_to_end.command import ROOT, logged, metrics, options, run
from tests.small import Small, distance, weights

pytestmark = pytest.mark.filterwarnings("ignore")

MIDWAY = 7


@pytest.fixture(scope="module")
def arguments(small: Small) -> list[str]:
    """A fit with mining that leaves a checkpoint within its second epoch."""
    return [
        "fit",
        f"--config={ROOT / 'configs' / 'banking77.yaml'}",
        *options(
            data__train=small / "train.csv",
            data__test=small / "test.csv",
            data__cache_dir=small / "cache",
            data__validation_share=0.3,
            data__planner__init_args__classes=4,
            data__planner__init_args__per_class=3,
            data__miner="lit_metric.Miner",
            data__miner__init_args__top_k=6,
            data__refresh__mode="inline",
            model__encoder__init_args__backbone=small / "backbone",
            trainer__accelerator="cpu",
            trainer__max_epochs=3,
            trainer__log_every_n_steps=1,
        ),
        "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint",
        "--trainer.callbacks.filename=midway",
        f"--trainer.callbacks.every_n_train_steps={MIDWAY}",
    ]


@pytest.fixture(scope="module")
def alone(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, in this one."""
    root = tmp_path_factory.mktemp("alone")
    run(root, *arguments)
    return root / "runs" / "banking77"


def on_two_ranks(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lit_metric", *arguments, "--trainer.devices=2", "--trainer.strategy=ddp"]


def compare(alone: Path, together: Path) -> None:
    """Both ended alike: in float32, whose sums differ a little."""
    reports = [metrics(folder) for folder in (alone, together)]
    assert reports[1]["before"] == pytest.approx(reports[0]["before"], abs=1e-6)
    assert reports[1]["texts"] == reports[0]["texts"]
    losses = [logged(folder, "train/loss") for folder in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert sorted(losses[0]) == list(range(reports[0]["steps"]))
    last = [logged(folder, "val/map@r") for folder in (alone, together)]
    assert last[1] == pytest.approx(last[0], abs=0.02)
    assert distance(*(weights(lit_metric.load(folder)) for folder in (alone, together))) < 1e-3


def test_two_ranks_are_one_run_in_one_folder(alone: Path, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs" / "banking77").mkdir(parents=True)
    (tmp_path / "runs" / "banking77" / "config.yaml").touch()
    done = forked.run(  # Lightning starts the second rank, as a fork of the first
        on_two_ranks(*arguments, "--report"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = done.stderr
    assert "runs/banking77 holds a run already; this one writes to runs/banking77-2" in told
    # Both ranks read both files, and it is said once.
    assert told.count(" taken by their usual names: --data.text text, --data.label label") == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["banking77", "banking77-2"]
    assert [path.name for path in (tmp_path / "runs" / "banking77").iterdir()] == ["config.yaml"]
    folder = tmp_path / "runs" / "banking77-2"
    assert int(yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["devices"]) == 2
    compare(alone, folder)
    # The page is written once, by the first rank, after both have encoded their share of the measured items.
    assert told.count(f"Wrote {Path('runs/banking77-2/report.html')}") == 1, told
    assert not list(folder.glob("untrained*"))
    page, written = (folder / "report.html").read_text(encoding="utf-8"), metrics(folder)
    content = re.search(r'<script type="application/json" id="first">(.*?)</script>', page, re.DOTALL)
    assert content is not None
    shown = json.loads(content[1])
    assert shown["run"]["warnings"] == []
    assert shown["run"]["steps"] == written["steps"]
    assert {row["name"] for row in shown["metrics"]} == set(written["after"])
    for row in shown["metrics"]:
        for when in ("before", "after"):
            assert row[when]["value"] == written[when][row["name"]]
        if (own := written["intervals"].get(row["name"])) is not None:
            assert [row["change"]["low"], row["change"]["high"]] == own["change"]


def test_two_ranks_of_a_launcher_with_workers_go_on_where_one_process_left_off(
    alone: Path, arguments: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "banking77"
    shutil.copytree(alone, folder)
    rows = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join(row for row in rows if not _after(row, rows[0])) + "\n")
    assert sorted(logged(folder, "train/loss")) == list(range(MIDWAY))
    checkpoint = folder / "checkpoints" / "midway.ckpt"
    command = on_two_ranks(*arguments, f"--ckpt_path={checkpoint}", "--data.num_workers=2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "GROUP_RANK": "0"}  # as torchrun says
    started = [
        forked.popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["banking77"]
    compare(alone, folder)


def _after(row: str, header: str) -> bool:
    """Whether a row of ``metrics.csv`` was written after the checkpoint."""
    step = row.split(",")[header.split(",").index("step")]
    return step.isdigit() and int(step) >= MIDWAY
