"""The worker process by itself: it keeps to its threads, and ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_metric import Miner
from lit_metric.index import FaissIndex
from lit_metric.mining import NegativeTable
from lit_metric.mining.snapshot import Snapshot, fingerprint, trained
from lit_metric.mining.supervisor import Supervisor
from lit_metric.mining.task import Settings, Task
from lit_metric.mining.worker import Job, Worker
from tests.small import Small

pytestmark = pytest.mark.filterwarnings("ignore")


def task_of(small: Small, folder: Path, **settings: Any) -> tuple[Task, Any, Any]:
    """The task of mining the many questions by FAISS, the encoder, and the data."""
    miner = Miner(index=FaissIndex("Flat", threads=8), candidates=20)
    encoder = small.learner().encoder
    data = small.data(train=small / "many_train.csv", test=small / "many_test.csv", validation_share=0.1)
    data.prepare(encoder.tokenizer, progress=False)
    given = {
        "tables": str(folder / "tables"),
        "corpus": data.corpus,
        "seed": 0,
        "max_tokens": 512,
        "threads": 1,
        "device": "cpu",
        "autocast": None,
        "dtype": "float32",
        "parent": os.getpid(),
        "path": [path for path in sys.path if path],
    }
    task = Task.of(
        encoder,
        miner,
        items=data.items,
        tokens=data.collator.tokens,
        relations=data.relations,
        ids=data.splits["train"].sort().values,
        anchors=None,
        proposed=None,
        settings=Settings(**{**given, **settings}),
    )
    return task, encoder, data


def cpu_seconds(pid: int) -> list[float]:
    """Of each thread of a process."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = [
        (task / "stat").read_text().rpartition(")")[2].split() for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return [(int(stat[11]) + int(stat[12])) / ticks for stat in stats]


def test_it_mines_with_one_thread_what_the_trainer_would(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    task, encoder, data = task_of(small, tmp_path)
    spec = task.write(tmp_path / "worker", encoder)
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    weights = Snapshot(tmp_path / "worker" / "weights")
    weights.write(trained(encoder))
    supervisor = Supervisor(spec, 1, tmp_path, restarts=0)
    try:
        assert supervisor.process is not None
        ready = supervisor.process.answer(60)
        assert ready == {"ready": supervisor.process.pid, "threads": {"torch": 1, "faiss": 1}}
        before = max(cpu_seconds(supervisor.process.pid))
        for number in range(1, 4):
            supervisor.ask(Job(number, str(weights.path), step=7, epoch=1))
            answer = supervisor.wait(number, 60)
            assert answer["version"] == number, answer
        spent = sorted(cpu_seconds(supervisor.process.pid))
        assert spent[-1] > before
        assert sum(spent[:-1]) < 0.05 * spent[-1]  # no thread but one did any work
    finally:
        supervisor.stop()
    table = NegativeTable.open(tmp_path / "tables", 1, data.corpus)
    assert table.manifest["weights"] == fingerprint(encoder)
    assert (table.manifest["step"], table.manifest["epoch"]) == (7, 1)
    ids = data.splits["train"].sort().values
    texts = [data.texts_of(item)[0] for item in ids.tolist()]
    expected = Miner(candidates=20).mine(encoder.encode(texts), ids, data.relations)
    assert table.overlap(expected) > 0.99  # but for ties


def test_it_encodes_what_the_bank_lacks_and_takes_the_rest(small: Small, tmp_path: Path) -> None:
    from lit_metric.mining.bank import Bank

    task, encoder, data = task_of(small, tmp_path)
    task.write(tmp_path / "worker", encoder)
    weights = Snapshot(tmp_path / "worker" / "weights")
    weights.write(trained(encoder))
    worker = Worker(Task.read(tmp_path / "worker" / "spec.json"), tmp_path / "worker")
    bank = Bank(tmp_path / "bank", task.ids, encoder.dimension, fresh=True)
    marked = torch.randn(200, encoder.dimension)
    bank.put(task.ids[:100], marked[:100], step=4)
    bank.put(task.ids[100:200], marked[100:], step=5)
    job = Job(1, str(weights.path), step=9, epoch=1, bank=str(tmp_path / "bank"), fresh_from=5)
    answer = worker.refresh(job)
    assert answer["report"]["encoded"] == pytest.approx(1 - 100 / len(task.ids))
    after = torch.from_numpy(Bank(tmp_path / "bank", task.ids, encoder.dimension).vectors.copy())
    texts = [data.texts_of(item)[0] for item in task.ids.tolist()]
    encoder.normalize = False
    expected = torch.from_numpy(encoder.encode(texts))
    expected[100:200] = marked[100:]
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
    found = NegativeTable.open(tmp_path / "tables", answer["version"])
    wanted = Miner(candidates=20).mine(expected, task.ids, data.relations)
    assert found.overlap(wanted) > 0.99


def test_an_orphan_ends_even_when_its_input_stays_open(small: Small, tmp_path: Path) -> None:
    task, encoder, _ = task_of(small, tmp_path)
    spec = task.write(tmp_path / "worker", encoder)
    # A parent that starts it as a trainer does, hands its input on to another child, and is gone.
    parent = (
        "import json, os, subprocess, sys, time\n"
        f"spec = {str(spec)!r}\n"
        "told = json.load(open(spec)); told['settings']['parent'] = os.getpid()\n"
        "json.dump(told, open(spec, 'w'))\n"
        "out, into = os.pipe()\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'lit_metric.mining.worker', spec], stdin=out,"
        " stdout=subprocess.PIPE)\n"
        "heir = subprocess.Popen(['sleep', '30'], pass_fds=[into], stdout=subprocess.DEVNULL)\n"
        "worker.stdout.readline()\n"
        "print(worker.pid, heir.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", parent],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    worker, heir = map(int, told.stdout.split())
    try:
        until = time.monotonic() + 10
        while _alive(worker) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _alive(worker)
        assert _alive(heir)
    finally:
        os.kill(heir, 9)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
