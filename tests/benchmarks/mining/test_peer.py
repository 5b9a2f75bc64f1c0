"""Mining offline once an epoch: what is mined, how a run goes, and how the two sides are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.mining import modes, peer
from benchmarks.mining.fits import Runs
from benchmarks.peer import read
from lit_metric import TextEncoder
from lit_metric.hub import export
from tests.benchmarks.mining.tiny import corpus, naive_map
from tests.small import Small


@pytest.mark.filterwarnings("ignore")
def test_negatives_are_near_and_of_another_class(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    part = corpus(small, tmp_path / "data")
    texts, labels = read(part.train)
    export(TextEncoder(small / "backbone"), tmp_path / "model")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    # All texts are much alike to an untrained model: hardly one is by a twentieth less so than the positive.
    before = peer.mine(model, texts, labels, seed=0)
    assert before.share < 0.5
    monkeypatch.setattr(peer, "SHARE", 2.0)
    found, seconds, share = peer.mine(model, texts, labels, seed=0)
    assert (seconds > 0, share > 0.9) == (True, True)
    vectors = torch.nn.functional.normalize(torch.from_numpy(model.encode(texts)), dim=1)
    scores = vectors @ vectors.T
    near = 0
    for anchor, row in enumerate(found):
        assert len(row) == peer.NEGATIVES
        assert all(labels[other] != labels[anchor] for other in row)
        rank = [int((scores[anchor] > scores[anchor, other]).sum()) for other in row]
        near += sum(place <= 5 + peer.CANDIDATES + 1 for place in rank)
    # A class has 5 texts, and 50 more are looked at; few others of so many are as near by chance.
    assert share <= near / (peer.NEGATIVES * len(texts)) < share + 0.1
    assert peer.mine(model, texts, labels, seed=0).negatives == found


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_the_peer(small: Small, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    part = corpus(small, tmp_path / "data", prefix="")
    export(TextEncoder(small / "backbone"), tmp_path / "model")
    spec = {
        "train": str(part.train),
        "test": str(part.test),
        "batches": 12,
        "rows": 6,
        "epochs": 2,
        "threads": 1,
        "seed": 0,
        "lr": 3e-3,
        "backbone": str(tmp_path / "model"),
    }
    threads = torch.get_num_threads()
    try:
        found = peer.child(spec, tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert found["step"] == [0, 12, 24]
    assert len(found["mining_seconds"]) == len(found["epoch_seconds"]) == 2
    assert found["seconds"][-1] == pytest.approx(sum(found["mining_seconds"] + found["epoch_seconds"]))
    texts, labels = read(part.test)
    untrained = TextEncoder(small / "backbone").encode(texts)
    assert found["map@r"][0] == pytest.approx(naive_map(untrained, labels), abs=1e-6)
    assert len(set(found["map@r"])) == 3
    assert all(0 <= share <= 1 for share in found["mined"])


OURS: dict[str, Any] = {
    "cold_start_seconds": 10.0,
    "seconds": [0.0, 50.0, 100.0],
    "map@r": [0.1, 0.5, 0.7],
    "snapshot_seconds": [0.5, 0.5],
    "refreshes": [{"seconds": 2.0, "stall_seconds": 0.0}, {"seconds": 2.0, "stall_seconds": 3.0}],
    "settings": {},
}
THEIRS: dict[str, Any] = {
    "seconds": [0.0, 150.0, 300.0],
    "map@r": [0.1, 0.6, 0.45],
    "mining_seconds": [60.0, 64.0],
    "settings": {"recipe": "r"},
}


def test_both_sides_are_compared_by_time() -> None:
    found = peer.compared(OURS, THEIRS)
    assert (found["ours_seconds"], found["peer_seconds"]) == (110.0, 300.0)
    # The peer's last score is 0.45: ours after 50 seconds and the first table, theirs after one epoch.
    assert (found["ours_reach"], found["peer_reach"]) == (60.0, 150.0)
    assert found["ours_mining"] == pytest.approx(10 + 2 + 3 + 1)
    assert (found["peer_mining"], found["peer_refresh"]) == (124.0, 64.0)
    assert found["ours_waited"] == pytest.approx(10 + 3 + 1)
    assert peer.compared(OURS, {**THEIRS, "map@r": [0.1, 0.6, 0.8]})["ours_reach"] is None


def test_another_learning_rate_is_another_run(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, float] = {}

    def in_process(module: str, out: Path, label: str, settings: dict[str, Any], spec: dict[str, Any]) -> Any:
        assert settings["lr"] == spec["lr"]
        told[label] = spec["lr"]

    monkeypatch.setattr(peer, "in_process", in_process)
    runs = Runs(tmp_path, {}, corpus(small, tmp_path / "data"), 1, 2, 1)
    peer.fit(runs, 0)
    peer.fit(runs._replace(peer_lr=peer.LEARNING_RATE), 0)  # the same run
    peer.fit(runs._replace(peer_lr=8e-4), 0)
    assert told == {
        "peer-tiny-2-epochs-0": peer.LEARNING_RATE,
        "peer-tiny-2-epochs-lr-0.0008-0": 8e-4,
    }


def test_sides_take_turns(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def ours(runs: Runs, name: str, refresh: dict[str, Any], seed: int) -> dict[str, Any]:
        order.append((name, seed))
        return OURS

    def theirs(runs: Runs, seed: int) -> dict[str, Any]:
        order.append(("peer", seed))
        return THEIRS if seed == 0 else {**THEIRS, "map@r": [0.1, 0.6, 0.75]}

    monkeypatch.setattr(modes, "fit", ours)
    monkeypatch.setattr(peer, "fit", theirs)
    runs = Runs(tmp_path, {}, corpus(small, tmp_path / "data"), 2, 2, 1)
    found = peer.measure(runs)
    assert order == [("free", 0), ("peer", 0), ("peer", 1), ("free", 1)]
    # With the second seed ours does not come so far, so there is no time to tell.
    assert (found["ours"], found["ratio"]) == (None, None)
    assert found["mining"] == pytest.approx({"all": 16 / 124, "refresh": 6 / 64, "waited": 14 / 124})
    assert found["targets"]["mining"]["met"]
    assert found["targets"]["map@r"]["is"] == pytest.approx(0.7 - 0.6)
    assert found["curves"]["ours"][0] == {"seconds": [0.0, 60.0, 110.0], "map@r": [0.1, 0.5, 0.7]}
    assert peer.measure(runs._replace(seeds=1))["ratio"] == pytest.approx(60 / 150)
