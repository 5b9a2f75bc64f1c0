"""Memory and time of large batches: each side takes a step, and ratios say who is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine import memory


@pytest.mark.parametrize(
    ("side", "options"),
    [
        ("ours", {"recompute": "chunks", "max_tokens_in_memory": 16, "dropout": 0.1}),
        ("peer", {"mini_batch_size": 2, "dropout": 0.1}),
    ],
)
def test_each_side_takes_steps(side: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "texts", lambda count: [f"question {row} of some" for row in range(count)])
    found = memory.child(side, 3, 2, options)
    assert found["peak_mb"] >= found["loaded_mb"] > 50
    assert found["seconds"] > 0


def test_there_are_as_many_texts_as_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = ["where is my card", "how do I pay"]
    monkeypatch.setattr(memory, "banking77", lambda: (questions, []))
    made = memory.texts(6)
    assert made[:2] == questions
    assert [sorted(text.split()) for text in made] == [sorted(text.split()) for text in questions * 3]
    assert memory.texts(1) == questions[:1]


def test_ratios_are_higher_where_we_are_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(side: str, pairs: int, steps: int, **options: Any) -> dict[str, Any]:
        seconds = pairs * (4.0 if side == "peer" else 1.0 if options["recompute"] == "none" else 1.25)
        if side == "peer":
            seconds += abs(options["mini_batch_size"] - 64)
        elif options.get("max_tokens_in_memory", 256) not in (
            256,
            2048,
        ):  # those of a quick run, and the best
            seconds += 10
        return {"seconds": seconds, "peak_mb": 1000.0 + 0.5 * pairs, "loaded_mb": 900.0}

    monkeypatch.setattr(memory, "run", run)
    found = {result["name"]: result for result in memory.measure(tmp_path, quick=True)}
    assert found["memory-flat-32"]["ratio"] == pytest.approx(108 / 116)
    assert found["memory-flat-32"]["growth"]["exponent"]["lit-metric"] == pytest.approx(1)
    assert found["recompute-chunks-dropout-0"]["ratio"] == pytest.approx(0.8)
    cached = found["cached-loss-dropout-0.1"]
    assert (cached["chosen"]["peer"]["mini_batch_size"], cached["ratio"]) == (64, pytest.approx(3.2))
    assert cached["memory_mb"] == {"ours": 108, "peer": 108}
    assert memory.measure(tmp_path, quick=True)[0] == found["memory-flat-32"]
    assert memory.cached_loss(tmp_path, 8, (1024, 2048, 4096), 0.1, 1)["chosen"]["ours"] == {
        "recompute": "chunks",
        "max_tokens_in_memory": 2048,
        "dropout": 0.1,
    }
    alone = [result["name"] for result in memory.measure(tmp_path, quick=True, only=["recompute-chunks"])]
    assert alone == ["recompute-chunks-dropout-0.1", "recompute-chunks-dropout-0"]


def test_a_process_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "executable", "false")
    with pytest.raises(memory.BenchmarkError, match='"pairs": 4'):
        memory.run("ours", 4, 1)
