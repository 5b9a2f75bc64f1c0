"""What a memory is worth: one learning rate for both sides, and differences seed by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.losses import memory
from benchmarks.short_fits import MEASURES


def test_validation_chooses_one_rate_for_both_and_seeds_are_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[int, float, int]] = []
    looked: list[float] = []

    def train(config: dict[str, Any], budget: int, weights: Path) -> dict[str, Any]:
        model = config["model"]["init_args"]
        fits.append((model["memory"], model["lr"], config["seed_everything"]))
        assert budget == 5120
        assert config["data"]["init_args"]["planner"]["init_args"] == {"classes": 16, "per_class": 4}
        weights.write_bytes(b"")
        # Without a memory the first rate is the best, with it the last, and the second in the mean.
        scores = {0: (0.62, 0.61, 0.50), 4096: (0.50, 0.61, 0.62)}[model["memory"]]
        return {"validation": {"map@r": scores[memory.RATES.index(model["lr"])]}}

    def tested(config: dict[str, Any], weights: Path) -> dict[str, float]:
        model = config["model"]["init_args"]
        looked.append(model["lr"])
        gain = 0.1 * (config["seed_everything"] + 1) if model["memory"] else 0.0
        return dict.fromkeys(MEASURES, 0.5 + gain)

    monkeypatch.setattr(memory, "train", train)
    monkeypatch.setattr(memory, "tested", tested)
    monkeypatch.setattr(memory.SETUPS["banking77"].__class__, "digest", lambda setup: "digest")
    monkeypatch.setattr(memory, "configuration", configuration)
    found = memory.compare(tmp_path, seeds=3)
    assert found["lr"] == memory.RATES[1]
    assert {*looked} == {memory.RATES[1]}
    assert len(fits) == 6 + 4
    # The differences are 0.1, 0.2 and 0.3; t of two degrees of freedom is 4.303.
    assert found["difference"]["map@r"] == pytest.approx(
        {"mean": 0.2, "half_width": 4.3027 * 0.1 / 3**0.5}, rel=1e-4
    )
    assert memory.compare(tmp_path, seeds=3)["test"] == found["test"]
    assert len(fits) == 10
    assert not [*tmp_path.glob("*.safetensors")]


def configuration(setup: Any, entry: Any, lr: float, seed: int) -> dict[str, Any]:
    """As far as it is read here."""
    return {"model": {"init_args": {"lr": lr}}, "data": {"init_args": {}}, "seed_everything": seed}
