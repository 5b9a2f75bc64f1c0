"""The trainer is killed while its miner is at work, and resumes; two ranks mine with one worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch.distributed as dist

from lit_metric.mining import NegativeTable, versions
from lit_metric.mining.faults import VARIABLE
from tests.background import children, contents, fit
from tests.distributed import RankPool
from tests.end_to_end import ranks
from tests.end_to_end.command import ROOT, options
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def start(small: Small, folder: Path, faults: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """A fit in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", VARIABLE: faults}
    arguments = [str(small.root), str(folder), json.dumps(options)]
    with (folder / "told").open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.background", *arguments], cwd=ROOT, env=environment, stderr=told
        )


def wait_for(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := what():
            return answer
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_a_trainer_killed_while_its_miner_works_leaves_nothing_behind_and_resumes_to_the_same_end(
    small: Small, tmp_path: Path
) -> None:
    whole = fit(small, tmp_path / "whole")
    # At batch 7, between the copy at 5 and the switch at 8, with the worker in the middle of its work.
    process = start(small, tmp_path, faults=f"search:60:1:{tmp_path / 'searching'}", save=1, pause=7)
    wait_for(lambda: (tmp_path / "paused").exists() and (tmp_path / "searching").exists())
    descendants = children(process.pid)
    assert descendants
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(_alive(pid) for pid in descendants), seconds=15)
    negatives = tmp_path / "run" / "negatives"
    assert versions(negatives) == [1]
    rest = fit(small, tmp_path, resume="7.ckpt")
    assert rest.tables.versions[0] == 1
    assert rest.tables.versions.index(max(rest.tables.versions) - 1) == 1  # batch 8
    assert rest.watch.candidates == whole.watch.candidates[7:]
    assert rest.weights == whole.weights
    NegativeTable.open(negatives, max(versions(negatives)), rest.data.corpus)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    with RankPool(2, tmp_path_factory.mktemp("ranks")) as pool:
        yield pool


class Slow(pl.Callback):
    """Keeps one rank behind the other around each switch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step % 5 in (1, 2, 3):
            time.sleep(0.3)


def shared_fit(root: Path, folder: Path, faults: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fit of one of two ranks, of which the second is slow."""
    ranks.quiet()
    os.environ[VARIABLE] = faults
    done = fit(Small(root), folder, places=ranks.places(2), callbacks=[Slow()], **options)
    return {
        "weights": done.weights,
        "versions": done.tables.versions,
        "met": done.watch.candidates,
        "drawn": done.tables.drawn,
        "restarts": 0 if dist.get_rank() else done.mining.background.supervisor.restarted,  # type: ignore[union-attr]
        "skipped": [each["batch"] for each in done.mining.state_dict()["background"]["skipped"]],
    }


def check(shared: list[dict[str, Any]]) -> None:
    """Both have the same weights, and met by shares what all their anchors drew."""
    assert shared[0]["weights"] == shared[1]["weights"]
    for batch in range(15):
        met = shared[0]["met"][batch] + shared[1]["met"][batch]
        assert sorted(met) == sorted({*shared[0]["drawn"][batch], *shared[1]["drawn"][batch]})


def test_ranks_switch_at_the_same_batch_with_one_slow_and_the_worker_killed(
    small: Small, tmp_path: Path, pool: RankPool
) -> None:
    faults = f"search:kill:1:{tmp_path / 'marks'}"
    options = {"reuse_training_embeddings": True, "first_table": "in_background"}
    shared = pool.run(shared_fit, small.root, tmp_path, faults, options)
    assert (tmp_path / "marks").read_text() == "."
    assert [rank["versions"] for rank in shared] == [[0] * 3 + [1] * 5 + [2] * 5 + [3] * 2] * 2
    assert shared[0]["restarts"] == 1
    check(shared)


def test_ranks_skip_a_refresh_together(small: Small, tmp_path: Path, pool: RankPool) -> None:
    faults = f"build:kill:1:{tmp_path / 'marks'}"
    shared = pool.run(shared_fit, small.root, tmp_path, faults, {"restarts": 0})
    assert [rank["versions"] for rank in shared] == [[1] * 13 + [2] * 2] * 2
    assert [rank["skipped"] for rank in shared] == [[5], [5]]
    check(shared)


def fit_of_a_machine(root: Path, folder: Path, faults: str, apart: bool, options: dict[str, Any]) -> Any:
    """The fit of one of two ranks, on one machine or each on its own."""
    ranks.quiet()
    os.environ[VARIABLE] = faults
    places = ranks.machines(2) if apart else ranks.places(2)
    done = fit(Small(root), folder, places=places, max_tokens=60, epochs=2, **options)
    told = (folder / "run" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(told[0].split(","), row.split(","), strict=True)) for row in told[1:]]
    tables = [contents(done.negatives / f"v{version:06d}") for version in (1, 2)]
    left = sorted(path.name for path in done.negatives.iterdir() if not path.name.startswith("v0"))
    shared = [float(row["mining/shared"]) for row in rows if row.get("mining/shared")]
    return done.weights, done.tables.versions, tables, shared, left


def test_machines_share_the_encoding_and_one_makes_up_for_another(
    small: Small, tmp_path: Path, pool: RankPool
) -> None:
    def run(name: str, faults: str, apart: bool, **options: Any) -> list[Any]:
        return pool.run(fit_of_a_machine, small.root, tmp_path / name, faults, apart, options)

    together = run("together", "", False)
    assert [versions for _, versions, *_ in together] == [[1] * 8 + [2] * 2] * 2
    assert [shared for *_, shared, _ in together] == [[]] * 2
    apart = run("apart", "", True)
    assert [each[:3] for each in apart] == [each[:3] for each in together]
    for *_, shared, left in apart:
        assert shared[0] == pytest.approx(0.5, abs=0.2)
        assert left == ["worker.log", "worker1.log"]
    # It dies before it hands over what it encoded, and is not started again.
    mark = tmp_path / "marks"
    alone = run("alone", f"share:kill:9:{mark}", True, restarts=0)
    assert mark.read_text()[0] == "."
    assert [each[:3] for each in alone] == [each[:3] for each in together]
    assert [shared[0] for *_, shared, _ in alone] == [0.0] * 2
    assert "is not there yet" in (tmp_path / "alone" / "run" / "negatives" / "worker.log").read_text()


def test_a_strict_run_of_the_command_ends_in_one_line(small: Small, tmp_path: Path) -> None:
    given = options(
        data__train=small / "train.csv",
        data__cache_dir=small / "cache",
        data__validation_share=0.3,
        data__planner__init_args__classes=4,
        data__planner__init_args__per_class=3,
        data__miner="lit_metric.Miner",
        data__refresh__strict=True,
        data__refresh__restarts=0,
        model__encoder__init_args__backbone=small / "backbone",
        trainer__accelerator="cpu",
        trainer__max_epochs=2,
    )
    config = f"--config={ROOT / 'configs' / 'banking77.yaml'}"
    done = subprocess.run(
        [sys.executable, "-m", "lit_metric", "fit", config, *given],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            VARIABLE: f"encode:kill:9:{tmp_path / 'marks'}",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "lit-metric: MiningFailed: negatives could not be mined after batch 4: the worker died by signal 9; "
        f"see {Path('runs') / 'banking77' / 'negatives' / 'worker.log'}"
    )


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
