"""The benchmark of static models: the learning rate is chosen on validation, before anything is tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import static


def test_the_rate_is_chosen_on_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[float, int, bool]] = []

    def measure(task: str, source: str, rate: float, seed: int, out: Path, tested: bool) -> dict[str, Any]:
        calls.append((rate, seed, tested))
        # On test items the highest rate would win.
        value = rate if tested else -abs(rate - 3e-3)
        scores = dict.fromkeys(("map@r", "knn1_accuracy"), value)
        return {"before": scores, "after": scores, "seconds": 1.0, "steps": 1}

    monkeypatch.setenv("LIT_METRIC_DATA", str(tmp_path))
    monkeypatch.setattr(static, "measure", measure)
    monkeypatch.setattr(static, "distill", lambda encoder, folder: None)
    monkeypatch.setattr(static, "TextEncoder", lambda backbone: None)
    given = ["--out", str(tmp_path), "--tasks", "banking77", "--starts", "distilled", "--seeds", "2"]
    static.main(given)
    validated, tested = calls[: len(static.RATES)], calls[len(static.RATES) :]
    assert validated == [(rate, 0, False) for rate in static.RATES]
    assert tested == [(3e-3, 0, True), (3e-3, 1, True)]
    rows = json.loads((tmp_path / "static.json").read_text())["results"]["banking77"]
    assert set(rows) == {"distilled", "distilled, trained (lr 0.003)"}
    static.main(given)
    assert len(calls) == len(static.RATES) + 2  # kept


def test_a_rate_is_that_of_the_fastest_epoch_after_the_first_ones() -> None:
    clock = static._Clock()
    clock.epochs = [(100, 0.1), (100, 2.0), (100, 1.0)]
    assert clock.rate(skipped=1) == 100.0
