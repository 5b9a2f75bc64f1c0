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

from lit_metric import AttentionPooling, MetricDataModule, Miner, TextEncoder, TwoTowerEncoder
from lit_metric.data import Pairs
from lit_metric.encoders import MaxPooling
from lit_metric.encoders.pretrained import fingerprint
from lit_metric.index import Embeddings, FaissIndex
from lit_metric.mining import (
    DuplicateFilter,
    JoinedProposer,
    NegativeTable,
    NeighbourProposer,
    RelativeMargin,
)
from lit_metric.refresh import MiningTask
from lit_metric.refresh.client import WorkerClient
from lit_metric.refresh.snapshot import Bank, Snapshot, SnapshotError, trained
from lit_metric.refresh.spec import Answer, Job, WorkerSettings
from lit_metric.refresh.worker import Worker
from tests.small import Small, write_csv

pytestmark = pytest.mark.filterwarnings("ignore")


SETTINGS = WorkerSettings(1, "cpu", None, "float32", os.getpid())


def task_of(small: Small, folder: Path) -> tuple[MiningTask, Any, Any]:
    """The task of mining the many questions by FAISS, the encoder, and the data."""
    # Indexes at two depths that would take more threads than the process may; the filter drops nothing.
    inner = JoinedProposer([NeighbourProposer(FaissIndex("Flat", threads=8)), NeighbourProposer()])
    unlike = DuplicateFilter(2.0, index=FaissIndex("Flat", threads=8))
    miner = Miner(proposer=inner, filters=[RelativeMargin(), unlike], top_k=20)
    encoder = small.learner().encoder
    sources = {"train": small / "many_train.csv", "test": small / "many_test.csv"}
    data = small.data(**sources, validation_share=0.1, max_tokens=512, miner=miner)
    data.prepare(encoder.tokenizer, progress=False)
    return data.mining_task(folder / "tables", "words"), encoder, data


def vectors_of(encoder: Any, data: Any, ids: torch.Tensor) -> torch.Tensor:
    """Raw vectors of items, by the encoder's own way from texts."""
    normalize, encoder.normalize = encoder.normalize, False
    roles = None
    if data.items.roles is not None:
        roles = [data.items.role_names[role] for role in data.items.roles[ids].tolist()]
    texts = [data.texts_of(item)[0] for item in ids.tolist()]
    vectors = torch.from_numpy(encoder.encode(texts, role=roles))
    encoder.normalize = normalize
    return vectors


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
    monkeypatch.setattr("lit_metric.refresh.client.Popen", subprocess.Popen)
    task, encoder, data = task_of(small, tmp_path)
    spec = task.write(tmp_path / "worker", encoder, SETTINGS, vectors_of(encoder, data, task.probed))
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    weights = Snapshot(tmp_path / "worker" / "weights")
    weights.write(trained(encoder))
    client = WorkerClient(spec, 1, tmp_path / "worker.log", restarts=0)
    try:
        assert client.process is not None
        assert client.answer(600) == Answer("ready", report={"torch": 1, "faiss": 1})
        started = cpu_seconds(client.process.pid)
        for number in range(1, 4):
            client.ask(Job(number, str(weights.path), step=7, epoch=1))
            answer = client.wait(number, 600)
            assert answer.version == number, answer
        spent = sorted(cpu_seconds(client.process.pid))
        assert spent[-1] > max(started)
        assert sum(spent[:-1]) < 0.05 * spent[-1]  # no thread but one did any work
        assert len(spent) == len(started)  # nor was any made to do some
    finally:
        client.stop()
    table = NegativeTable.open(tmp_path / "tables", 1, data.corpus)
    assert table.manifest["weights"] == fingerprint(encoder)
    assert (table.manifest["step"], table.manifest["epoch"]) == (7, 1)
    assert table.manifest["tokenizer"] == task.tokenizer
    ids = data.splits["train"].sort().values
    expected = Miner(top_k=20).mine(Embeddings(ids, vectors_of(encoder, data, ids)), data.relations)
    assert table.overlap(expected) > 0.99  # but for ties


def test_it_encodes_what_the_bank_lacks_and_takes_the_rest(small: Small, tmp_path: Path) -> None:
    task, encoder, data = task_of(small, tmp_path)
    spec = task.write(tmp_path / "worker", encoder, SETTINGS, vectors_of(encoder, data, task.probed))
    weights = Snapshot(tmp_path / "worker" / "weights")
    weights.write(trained(encoder))
    worker = Worker(spec, SETTINGS)
    bank = Bank(tmp_path / "bank", task.ids, encoder.dimension, fresh=True)
    marked = torch.randn(200, encoder.dimension)
    bank.put(task.ids[:100], marked[:100], step=4)
    bank.put(task.ids[100:200], marked[100:], step=5)
    job = Job(1, str(weights.path), step=9, epoch=1, bank=str(tmp_path / "bank"), fresh_from=5)
    answer = worker.refresh(job)
    assert answer.report["encoded"] == pytest.approx(1 - 100 / len(task.ids))
    after = torch.from_numpy(Bank(tmp_path / "bank", task.ids, encoder.dimension).vectors.copy())
    expected = vectors_of(encoder, data, task.ids)
    expected[100:200] = marked[100:]
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
    found = NegativeTable.open(tmp_path / "tables", answer.version)
    wanted = Miner(top_k=20).mine(Embeddings(task.ids, expected), data.relations)
    assert found.overlap(wanted) > 0.99


def test_queries_are_mined_among_documents_by_two_towers_one_of_them_frozen(
    small: Small, tmp_path: Path
) -> None:
    rows = [(f"w{number} w{number + 1} w30", f"w{number} w{number + 2} w40") for number in range(4, 26)]
    pairs = write_csv(tmp_path / "pairs.csv", rows, header=("anchor", "positive"))
    known = Pairs(anchor="anchor", positive="positive", symmetric=False)
    data = MetricDataModule(
        train=pairs,
        supervision=known,
        cache_dir=small / "cache",
        validation_share=0.1,
        max_tokens=512,
        miner=Miner(top_k=5, filters=[]),
    )
    encoder = TwoTowerEncoder(
        TextEncoder(small / "backbone", dropout=0.0, projection=8),
        TextEncoder(small / "backbone", freeze=True, projection=8, prompts={"document": "w50 "}),
    )
    data.prepare(encoder.tokenizer, progress=False)
    task = data.mining_task(tmp_path / "tables", "words")
    ids, anchors, corpus = task.ids, task.anchors, task.corpus
    assert anchors is not None
    assert corpus is not None
    spec = task.write(tmp_path / "worker", encoder, SETTINGS, vectors_of(encoder, data, task.probed))
    worker = Worker(spec, SETTINGS)
    worker.check()
    weights = Snapshot(tmp_path / "weights")
    for number in (1, 2):
        with torch.no_grad():
            for value in trained(encoder).values():
                value.add_(torch.randn_like(value) * 0.3 * (value.ndim > 1))
        weights.write(trained(encoder))
        answer = worker.refresh(Job(number, str(weights.path), step=0, epoch=0))
        assert fingerprint(worker.encoder) == fingerprint(encoder)
        table = NegativeTable.open(tmp_path / "tables", answer.version, data.corpus)
        assert table.anchors.tolist() == anchors.sort().values.tolist()
        assert set(table.ids[table.ids >= 0].tolist()) <= set(corpus.tolist())
        wanted = Miner(top_k=5, filters=[]).mine(
            Embeddings(ids, vectors_of(encoder, data, ids)), data.relations, anchors=anchors, corpus=corpus
        )
        assert table.overlap(wanted) > 0.97


@pytest.mark.parametrize("change", ["pooling", "weights"])
def test_an_encoder_that_was_changed_after_it_was_built_is_found_out(
    small: Small, tmp_path: Path, change: str
) -> None:
    task, encoder, data = task_of(small, tmp_path)
    if change == "pooling":  # without any weights that could tell
        encoder.pooling = MaxPooling()
    else:
        encoder.pooling = AttentionPooling()
        encoder.pooling.build(encoder.backbone.hidden_size)
    spec = task.write(tmp_path / "worker", encoder, SETTINGS, vectors_of(encoder, data, task.probed))
    worker = Worker(spec, SETTINGS)
    with pytest.raises(SnapshotError, match="changed after it was built"):
        worker.check()


def test_an_orphan_ends_even_when_its_input_stays_open(small: Small, tmp_path: Path) -> None:
    task, encoder, data = task_of(small, tmp_path)
    spec = task.write(tmp_path / "worker", encoder, SETTINGS, vectors_of(encoder, data, task.probed))
    # A parent that starts it as a trainer does, hands its input on to another child, and is gone.
    parent = (
        "import json, os, subprocess, sys, time\n"
        f"spec = {str(spec)!r}\n"
        "told = json.load(open(spec)); told['worker']['parent'] = os.getpid()\n"
        "json.dump(told, open(spec, 'w'))\n"
        "out, into = os.pipe()\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'lit_metric.refresh.worker', spec], stdin=out,"
        " stdout=subprocess.PIPE)\n"
        "heir = subprocess.Popen(['sleep', '600'], pass_fds=[into], stdout=subprocess.DEVNULL)\n"
        "worker.stdout.readline()\n"
        "print(worker.pid, heir.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", parent],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,  # where other things keep the machine busy
        check=True,
    )
    worker, heir = map(int, told.stdout.split())
    try:
        until = time.monotonic() + 600
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
