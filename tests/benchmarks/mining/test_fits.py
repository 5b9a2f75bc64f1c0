"""Runs that keep time: what is counted, what is measured, and which tables are compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from benchmarks.mining import fits, process
from benchmarks.mining.corpora import Corpus
from benchmarks.mining.fits import Runs
from benchmarks.peer import read
from benchmarks.results import BenchmarkError, Finished, read_json, write_json
from lit_metric import TextEncoder
from tests.benchmarks.mining.tiny import corpus, naive_map
from tests.small import Small


def test_overlap_is_that_of_sets() -> None:
    random = np.random.default_rng(0)
    table, other = (np.stack([random.permutation(9)[:6] for _ in range(50)]) for _ in range(2))
    table[3:5, 2:] = -1
    other[4:6, 1:] = -1
    other[7] = -1
    for k in (1, 3, 6, 10):
        shares = []
        for mine, theirs in zip(table[:, :k].tolist(), other[:, :k].tolist(), strict=True):
            wanted = {place for place in theirs if place >= 0}
            shares += [len(wanted & set(mine)) / len(wanted)] if wanted else []
        assert fits.overlap(table, other, k) == pytest.approx(np.mean(shares))
    assert fits.overlap(other, other, 6) == 1.0


def run_child(small: Small, part: Corpus, folder: Path, **own: Any) -> dict[str, Any]:
    """A run on the tiny backbone in this process, which keeps its threads and its seed."""
    spec = {
        "train": str(part.train),
        "test": str(part.test),
        "kind": part.kind,
        "threads": 1,
        "backbone": small / "backbone",
        "precision": "32-true",
        "compare": True,
        **own,
    }
    threads = torch.get_num_threads()
    try:
        with mock.patch.dict(os.environ):
            return fits.child(spec, folder)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
def test_a_run_with_vectors_at_hand(small: Small, tmp_path: Path) -> None:
    """On the tiny backbone, with a mining process beside it."""
    part = corpus(small, tmp_path / "data")
    runs = Runs(tmp_path, {}, part, 1, 2, 1, backbone=small / "backbone")
    own = {"batch": part.batch, "refresh": runs.kinds["free"], "seed": 0, "epochs": 2, "marks": 2}
    found = run_child(small, part, tmp_path / "run", **own)
    assert part.batches == 4
    assert found["step"] == [0, 2, 4, 6, 8]
    assert found["seconds"] == sorted(found["seconds"])
    assert found["seconds"][-1] == pytest.approx(sum(found["epoch_seconds"]))
    texts, labels = read(part.test)
    untrained = TextEncoder(small / "backbone", dropout=0.0, max_length=64).encode(texts)
    assert found["map@r"][0] == pytest.approx(naive_map(untrained, labels), abs=1e-6)
    assert len(set(found["map@r"])) > 1
    # A batch has 128 texts, and at most as many negatives.
    tokenizer = AutoTokenizer.from_pretrained(small / "backbone")
    lengths = [len(tokenizer(text)["input_ids"]) for text in read(part.train)[0]]
    least, most = 4 * 100 * min(lengths), 4 * 256 * max(lengths)
    assert all(least < tokens <= most for tokens in found["epoch_tokens"])
    [refresh] = found["refreshes"]
    assert refresh["delay"] == 2
    [(seconds, tokens)] = found["alone"]
    assert 0 < seconds < found["epoch_seconds"][1]
    assert 0.25 < tokens / found["epoch_tokens"][1] < 0.75
    assert refresh["encoded"] < 0.1
    assert found["cold_start_seconds"] > 0
    assert found["worker_cpu_seconds"] > 0
    [alike] = found["overlaps"]
    assert alike["step"] == 4
    # The vectors are of the epoch before, so that the table is not that of the first weights.
    assert alike["stale@50"] < alike["overlap@50"] < 1


@pytest.mark.filterwarnings("ignore")
def test_a_table_encoded_anew_with_the_same_weights_is_the_same(small: Small, tmp_path: Path) -> None:
    """Where mining is inline, nothing is between a table and one that is mined of the weights afterwards."""
    part = corpus(small, tmp_path / "data")
    own = {"batch": 100, "refresh": {"mode": "inline"}, "seed": 3, "epochs": 3, "marks": 1}
    found = run_child(small, part, tmp_path / "run", **own)
    assert [row["step"] for row in found["overlaps"]] == [4, 8]
    for row in found["overlaps"]:
        assert row["overlap@10"] > 0.99  # not 1: texts that are encoded together round alike
        assert row["stale@10"] < 0.9
    assert (len(found["refreshes"]), found["worker_cpu_seconds"]) == (2, pytest.approx(0, abs=0.1))


def test_what_is_logged_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "mining/seconds,mining/stall_seconds,mining/snapshot_seconds,train/loss,step\n"
        "7.5,,,,0\n,,,0.3,5\n,,0.25,,8\n2.0,0.5,,,9\n,,0.5,,16\n3.0,0.0,,,17\n"
    )
    found = fits.logged(path)
    assert found["cold_start_seconds"] == 7.5
    assert found["refreshes"] == [
        {"seconds": 2.0, "stall_seconds": 0.5},
        {"seconds": 3.0, "stall_seconds": 0.0},
    ]
    assert found["snapshot_seconds"] == [0.25, 0.5]
    path.write_text("mining/seconds,mining/skipped,step\n7.5,,0\n,1.0,8\n")
    with pytest.raises(BenchmarkError, match=r"a refresh was given up, see .*skipped\.json"):
        fits.logged(path)


@pytest.mark.parametrize(
    ("texts", "batch", "soon"), [(10_003, 128, 2), (2_000, 32, 2), (25_600, 128, 11), (20_000, 32, 25)]
)
def test_the_delay_grows_with_the_search(texts: int, batch: int, soon: int) -> None:
    part = Corpus("some", Path("a"), Path("b"), texts, "banking77", batch)
    runs = Runs(Path("out"), {}, part, 3, 4, 2)
    assert (runs.soon, runs._replace(delay=7).soon) == (soon, 7)
    assert runs.kinds["free"]["delay"] == runs.kinds["full"]["delay"] == soon
    with pytest.raises(BenchmarkError, match="take 2 or more"):
        runs._replace(epochs=1).check()


def test_a_run_is_kept_and_a_new_one_begins_in_an_empty_folder(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: list[dict[str, Any]] = []

    def fake(command: list[str], log: Path) -> Finished:
        given = dict(zip(command[3::2], command[4::2], strict=True))
        folder = Path(given["--report"]).parent
        assert sorted(path.name for path in folder.iterdir()) == ["benchmark.json", "spec.json"]
        specs.append(read_json(Path(given["--spec"])))
        (folder / "metrics.csv").write_text("")
        write_json(Path(given["--report"]), {"map@r": [0.1, 0.2]})
        return Finished(1.0, 99.0)

    monkeypatch.setattr(process, "run", fake)
    runs = Runs(tmp_path / "out", {"versions": {}}, corpus(small, tmp_path / "data"), 1, 2, 1)
    found = fits.fit(runs, "free", runs.kinds["free"], 5)
    assert (found["map@r"], found["peak_memory"], found["settings"]["seed"]) == ([0.1, 0.2], 99.0, 5)
    assert specs[0]["train"] == str(tmp_path / "data" / "train.parquet")
    fits.fit(runs, "free", runs.kinds["free"], 5)
    assert len(specs) == 1
    fits.fit(runs._replace(precision="bf16-mixed"), "free", runs.kinds["free"], 5)  # of another name
    assert [spec["precision"] for spec in specs] == ["32-true", "bf16-mixed"]
    assert runs._replace(precision="bf16-mixed").settings["precision"] == "bf16-mixed"
    fits.fit(runs, "free", runs.kinds["free"], 5)
    assert len(specs) == 2
    fits.fit(runs, "free", {**runs.kinds["free"], "delay": 3}, 5)
    assert [spec["refresh"]["delay"] for spec in specs] == [2, 2, 3]
