"""The trainer is killed while its miner is at work, and resumes; two ranks mine with one worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch.distributed as dist

from lit_metric.mining import NegativeTable, versions
from tests import forked
from tests.distributed import RankPool
from tests.end_to_end import ranks
from tests.end_to_end.command import ROOT, options
from tests.refresh import faulty
from tests.refresh.fits import Fit, children, contents, fit
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def start(small: Small, folder: Path, faults: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """A fit in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", faulty.VARIABLE: faults}
    arguments = [str(small.root), str(folder), json.dumps(options)]
    with (folder / "told").open("wb") as told:
        return forked.popen(
            [sys.executable, "-m", "tests.refresh.fits", *arguments], cwd=ROOT, env=environment, stderr=told
        )


def wait_for(
    what: Callable[[], Any], of: subprocess.Popen[bytes] | None = None, told: Path | None = None
) -> Any:
    """The first true answer.

    Args:
        what: asked again and again.
        of: a process without which the answer stays false; its end is an error at once.
        told: the file of its output, for that error.
    """
    until = time.monotonic() + 600.0
    while time.monotonic() < until:
        ended = None if of is None else of.poll()
        if answer := what():
            return answer
        if ended is not None:
            output = told.read_text(errors="replace") if told is not None else ""
            raise AssertionError(f"the process has ended with status {ended}:\n{output}")
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_waiting_ends_with_the_process_and_shows_its_output(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text("no such backbone")
    process = subprocess.Popen(["sh", "-c", "exit 3"])
    with pytest.raises(AssertionError, match="ended with status 3:\nno such backbone"):
        wait_for(lambda: False, process, told)


def test_a_trainer_killed_while_its_miner_works_leaves_nothing_behind_and_resumes_to_the_same_end(
    small: Small, tmp_path: Path, undisturbed: Fit
) -> None:
    # At batch 7, between the copy at 5 and the switch at 8, with the worker in the middle of its work.
    process = start(small, tmp_path, faults=f"search:600:1:{tmp_path / 'searching'}", save=1, pause=7)
    reached = [tmp_path / "paused", tmp_path / "searching"]
    wait_for(lambda: all(path.exists() for path in reached), process, tmp_path / "told")
    descendants = children(process.pid)
    assert descendants
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(_alive(pid) for pid in descendants))
    negatives = tmp_path / "run" / "negatives"
    assert versions(negatives) == [1]
    rest = fit(small, tmp_path, resume="7.ckpt")
    assert rest.tables.versions[0] == 1
    assert rest.tables.versions.index(max(rest.tables.versions) - 1) == 1  # batch 8
    assert rest.watch.candidates == undisturbed.watch.candidates[7:]
    assert rest.weights == undisturbed.weights
    NegativeTable.open(negatives, max(versions(negatives)), rest.data.corpus)


class Slow(pl.Callback):
    """Keeps one rank behind the other around each switch."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step % 5 in (1, 2, 3):
            time.sleep(0.3)


def shared_fit(root: Path, folder: Path, faults: str, options: dict[str, Any]) -> dict[str, Any]:
    """The fit of one of two ranks, of which the second is slow."""
    ranks.quiet()
    faulty.arm(faults)
    done = fit(Small(root), folder, places=ranks.places(2), callbacks=[Slow()], **options)
    return {
        "weights": done.weights,
        "versions": done.tables.versions,
        "met": done.watch.candidates,
        "drawn": done.tables.drawn,
        "restarts": 0 if dist.get_rank() else done.refresher.client.restarted,
        "skipped": [each["batch"] for each in done.refresher.state()["background"]["skipped"]],
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


def fit_on_nodes(root: Path, folder: Path, apart: bool) -> Any:
    """The fit of one of two ranks, on one machine or each on its own."""
    ranks.quiet()
    faulty.arm("")
    places = ranks.machines(2) if apart else ranks.places(2)
    done = fit(Small(root), folder, places=places, max_tokens=60, epochs=2)
    tables = [contents(done.negatives / f"v{version:06d}") for version in (1, 2)]
    # Rank zero removes the worker's files, maybe after the other rank has come here.
    left = [] if dist.get_rank() else sorted(path.name for path in done.negatives.glob("[!v]*"))
    return done.weights, done.tables.versions, tables, left


def test_on_two_machines_the_worker_of_rank_zero_mines_for_all(
    small: Small, tmp_path: Path, pool: RankPool
) -> None:
    together = pool.run(fit_on_nodes, small.root, tmp_path / "together", False)
    assert [versions for _, versions, *_ in together] == [[1] * 8 + [2] * 2] * 2
    apart = pool.run(fit_on_nodes, small.root, tmp_path / "apart", True)
    assert apart == together
    assert [left for *_, left in apart] == [["worker.log"], []]


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
    imports = "from tests.refresh.faulty import arm_from_environment; from lit_metric.cli import main"
    code = f"{imports}; arm_from_environment(); main()"
    config = f"--config={ROOT / 'configs' / 'banking77.yaml'}"
    done = forked.run(
        [sys.executable, "-c", code, "fit", config, *given],
        cwd=tmp_path,
        env={**os.environ, faulty.VARIABLE: f"encode:kill:9:{tmp_path / 'marks'}"},
        capture_output=True,
        text=True,
        timeout=600,
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
