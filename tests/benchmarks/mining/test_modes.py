"""What an epoch costs beside the control's, whose turn it is, and what is made of the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mining import fits, modes, staleness, table
from benchmarks.mining.corpora import Corpus
from benchmarks.mining.fits import Runs
from benchmarks.results import BenchmarkError, Spread

EMPTY = {"worker_cpu_seconds": 0.0, "refreshes": [], "snapshot_seconds": [], "cold_start_seconds": 4.0}
CONTROL: dict[str, Any] = {
    **EMPTY,
    "epoch_seconds": [12.0, 10.0, 10.0],
    "epoch_cpu_seconds": [20.0, 20.0, 20.0],
    "epoch_tokens": [200, 200, 200],
    "map@r": [0.1, 0.2],
    "seconds": [0.0, 32.0],
}
REFRESHES = [
    {"seconds": 5.0, "encoding_seconds": 4.0, "stall_seconds": 0.4, "encoded": 1.0},
    {"seconds": 3.0, "encoding_seconds": 1.0, "stall_seconds": 0.0, "encoded": 0.5},
]
SCHEDULED: dict[str, Any] = {
    **CONTROL,
    "epoch_seconds": [15.0, 11.0, 12.0],
    "epoch_tokens": [200, 210, 220],
    "worker_cpu_seconds": 9.0,
    "refreshes": REFRESHES,
    "snapshot_seconds": [0.1, 0.2, 0.3],
    "map@r": [0.1, 0.3],
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    part = Corpus("some", tmp_path / "a", tmp_path / "b", 2000, "banking77")
    monkeypatch.setattr(Corpus, "settings", {"data": "some", "texts": 2000, "batch": 128})
    return Runs(tmp_path, {}, part, 3, 3, 2)


def test_where_the_time_of_an_epoch_goes() -> None:
    found = modes.cost(SCHEDULED, CONTROL)
    assert found["epoch_seconds"] == 11.5
    assert found["ratio"] == pytest.approx(1.15)
    assert found["ratio_per_token"] == pytest.approx(1.15 * 200 / 215)
    assert found["cpu_ratio"] == pytest.approx(69 / 60)
    assert found["stall"] == pytest.approx(0.2 / 11.5)
    assert found["waited"] == pytest.approx(0.2 + 0.2)
    assert (found["encode"], found["search"]) == (2.5, 1.5)
    assert found["contention"] == pytest.approx(1.5 - 0.4)
    assert found["encoded"] == 0.75
    assert (found["first_epoch_ratio"], found["map@r"]) == (1.25, 0.3)
    inline = {**SCHEDULED, "refreshes": [{"seconds": 3.0}, {"seconds": 1.0}], "snapshot_seconds": []}
    found = modes.cost(inline, CONTROL)
    assert (found["waited"], found["contention"]) == (2.0, pytest.approx(-0.5))
    assert found["stall"] == pytest.approx(2 / 11.5)
    assert "within" not in found
    assert (modes.cost(CONTROL, CONTROL)["ratio"], modes.cost(CONTROL, CONTROL)["waited"]) == (1.0, 0.0)


def test_an_epoch_is_compared_with_its_own_batches_without_mining() -> None:
    # Two slow batches of 10 tokens while a table is mined, then 8 of which each takes a second for 10; then
    # one as fast all the time.
    slow = [(3.0, 10), (3.0, 10), *[(1.0, 10)] * 8]
    even = [(0.5, 10), *[(0.5, 10)] * 7, (1.0, 20), (0.5, 10)]
    refreshes = [{**each, "delay": 2.0} for each in REFRESHES]
    run = {
        **SCHEDULED,
        "epoch_seconds": [9.0, 14.0, 5.5],
        "epoch_tokens": [100, 100, 110],
        "refreshes": refreshes,
        "alone": fits.alone([slow, even], refreshes),
    }
    assert modes.cost(run, CONTROL)["within"] == pytest.approx((1.4 + 1.0) / 2)
    assert "within" not in modes.cost({**CONTROL, "alone": []}, CONTROL)
    # Where training stops for it, or there are more refreshes than epochs, no batches are told apart.
    assert fits.alone([slow, even], REFRESHES) == fits.alone([slow], refreshes) == []
    # As long as the whole epoch, there is nothing to compare with.
    assert "within" not in modes.cost({**run, "alone": [(8.0, 80), (0.0, 0)]}, CONTROL)


def test_each_seed_begins_with_another_kind(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def fake(runs: Runs, name: str, refresh: Mapping[str, Any], seed: int) -> dict[str, Any]:
        order.append((seed, name, refresh))
        return {"seed": seed, "name": name}

    monkeypatch.setattr(modes, "fit", fake)
    found = modes.turns(runs, {"a": {}, "b": {"every": 3}}, [0, 1])
    assert order == [(0, "a", {}), (0, "b", {"every": 3}), (1, "b", {"every": 3}), (1, "a", {})]
    assert found["b"] == [{"seed": 0, "name": "b"}, {"seed": 1, "name": "b"}]


def test_ratios_are_of_runs_of_one_seed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [1.0, 2.0, 4.0]  # what else the machine does, by seed

    def fake(runs: Runs, name: str, refresh: Mapping[str, Any], seed: int) -> dict[str, Any]:
        times = {"none": 10.0, "free": 10.0 + seed / 10, "scheduled": 12.0, "inline": 20.0}[name]
        stall = [{"seconds": 1.0, "stall_seconds": 0.05}] * 2 if name in ("free", "scheduled") else []
        return {**CONTROL, "epoch_seconds": [9.0, *[slow[seed] * times] * 2], "refreshes": stall}

    monkeypatch.setattr(modes, "fit", fake)
    found = modes.measure(runs)
    assert found["runs"]["free"]["ratio"].values == pytest.approx([1.0, 1.01, 1.02])
    assert found["runs"]["inline"]["ratio"].values == pytest.approx([2.0] * 3)
    assert found["ratio"] == pytest.approx(1.01)
    assert found["peer"] == pytest.approx(70 / 3)
    assert found["targets"]["ratio"]["met"]
    assert found["targets"]["ratio_per_token"] == {"at most": 1.05, "is": pytest.approx(1.01), "met": True}
    stall = (0.05 / 10 + 0.05 / 20.2 + 0.05 / 40.8) / 3
    assert found["targets"]["stall"] == {"below": 0.01, "is": pytest.approx(stall), "met": True}
    assert (found["settings"]["texts"], found["settings"]["epochs"]) == (2000, 3)
    fewer = modes.measure(runs._replace(only=("none", "free")))
    assert list(fewer["runs"]) == list(fewer["settings"]["refreshes"]) == ["none", "free"]
    assert fewer["ratio"] == found["ratio"]
    with pytest.raises(BenchmarkError, match="take 2 or more"):
        modes.measure(runs._replace(epochs=1))


def test_tables_are_compared_by_refresh_and_seed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def fake(runs: Runs, name: str, refresh: Mapping[str, Any], seed: int) -> dict[str, Any]:
        started.append((name, refresh["delay"], refresh["reuse_training_embeddings"]))
        alike = 1.0 if name == "full" else 0.8 + seed / 10
        rows = [
            {
                f"{what}@{k}": value
                for what, value in (("overlap", alike - step), ("stale", 0.5))
                for k in table.KS
            }
            for step in (0.0, 0.1)
        ]
        score = 0.4 if name == "full" else 0.44
        return {**CONTROL, "overlaps": rows, "refreshes": [{"encoded": 0.25}] * 2, "map@r": [0.1, score]}

    monkeypatch.setattr(modes, "fit", fake)
    found = table.measure(runs)
    assert found["runs"]["free"]["overlap@10"].values == pytest.approx([0.75, 0.85, 0.95])
    assert found["runs"]["full"]["overlap@10"].mean == pytest.approx(0.95)
    assert found["runs"]["free"]["encoded"].mean == 0.25
    assert found["ratio"] == pytest.approx(1.1)
    # Both use a table after as many batches, and only one has the vectors at hand.
    assert set(started) == {("free", runs.soon, True), ("full", runs.soon, False)}


def test_periods_that_are_never_over_are_left_out(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert staleness.periods(78, 9) == {
        name: (every, {"mode": "inline", "every": refresh})
        for name, every, refresh in (
            ("none", None, "never"),
            ("every-312-batches", 4.0, 312),
            ("inline", 1.0, "epoch"),
            ("every-39-batches", 0.5, 39),
            ("every-8-batches", 0.1, 8),
        )
    }
    # Runs of one epoch between tables, and of one table, are those of the modes.
    both = staleness.periods(runs.corpus.batches, 3)
    assert all(both[name][1] == runs.kinds[name] for name in ("none", "inline"))

    def fake(runs: Runs, name: str, refresh: Mapping[str, Any], seed: int) -> dict[str, Any]:
        score = {"none": 0.4, "inline": 0.5}.get(name, 0.6) + seed / 100
        return {**CONTROL, "map@r": [0.1, score]}

    monkeypatch.setattr(modes, "fit", fake)
    found = staleness.measure(runs)
    assert "would be the only one" in capsys.readouterr().out
    assert [row["epochs"] for row in found["runs"].values()] == [None, 1.0, 0.5, 0.1]
    spread: Spread = found["runs"]["every-8-batches"]["map@r"]
    assert spread.values == pytest.approx([0.6, 0.61, 0.62])
    assert found["ratio"] == pytest.approx(0.51 / 0.41)
    assert found["runs"]["none"]["seconds"].mean == 36.0
