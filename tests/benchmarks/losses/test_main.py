"""What is trained, tested, kept and said, with fits that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.losses import __main__ as command
from benchmarks.losses.table import SETUPS, Setup
from benchmarks.results import BenchmarkError
from benchmarks.short_fits import MEASURES
from tests.benchmarks.test_short_fits import small_setup
from tests.small import Small

RATES = (1e-3, 1e-2, 1e-1)
Valued = Callable[[str, float, int], float | None]


class Fits:
    """Fits whose validation score is given, None for one that diverges, and whose test score is one tenth."""

    def __init__(self, score: Valued, monkeypatch: pytest.MonkeyPatch) -> None:
        self.score, self.trained, self.tested = score, [], []
        monkeypatch.setattr(command, "train", self.train)
        monkeypatch.setattr(command, "tested", self.test)

    def train(self, config: dict[str, Any], budget: int, weights: Path) -> dict[str, Any]:
        what = self.of(config) if budget else ("untrained", 0.0, 0)
        self.trained.append(what)
        common = {"diverged_at": None, "steps": 4, "items": budget, "seconds": 2.0}
        value = self.score(*what)
        if value is None:
            return {**common, "status": "diverged", "diverged_at": 3}
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_text(str(value))
        return {**common, "status": "trained", "validation": dict.fromkeys(MEASURES, value)}

    def test(self, config: dict[str, Any], weights: Path) -> dict[str, float]:
        self.tested.append(self.of(config))
        return dict.fromkeys(MEASURES, float(weights.read_text()) / 10)

    @staticmethod
    def of(config: dict[str, Any]) -> tuple[str, float, int]:
        model = config["model"]["init_args"]
        return model["loss"]["class_path"].split(".")[-1], model["lr"], config["seed_everything"]


@pytest.fixture
def setup(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    made = Setup(**{**vars(small_setup(small, tmp_path)), "lrs": RATES})
    monkeypatch.setitem(SETUPS, "debtags", made)
    return made


def arguments(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), "--data", "debtags", "--losses", "nca", "circle", "--seeds", "3", *more]


def test_validation_chooses_and_only_the_chosen_are_tested(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")

    def score(loss: str, lr: float, seed: int) -> float | None:
        if loss == "CircleLoss":
            return None if lr > 1e-2 else 0.5 - lr
        return {1e-3: 0.5, 1e-2: 0.8 + seed / 100, 1e-1: 0.6}.get(lr, 0.1)

    fits, out = Fits(score, monkeypatch), tmp_path / "out"
    command.main(arguments(out))
    nca = [("NCALoss", lr, 0) for lr in RATES] + [("NCALoss", 1e-2, 1), ("NCALoss", 1e-2, 2)]
    # The smallest is the best, and so is each of the two that are tried beyond it.
    circle = [("CircleLoss", lr, 0) for lr in (*RATES, 1e-4, 1e-5)]
    circle += [("CircleLoss", 1e-5, 1), ("CircleLoss", 1e-5, 2)]
    assert fits.trained == [("untrained", 0.0, 0), *nca, *circle]
    assert fits.tested[1:] == [
        (*each, seed) for each in (("NCALoss", 1e-2), ("CircleLoss", 1e-5)) for seed in (0, 1, 2)
    ]
    found = json.loads((out / "losses.json").read_text())["debtags"]
    assert found["settings"]["budget"] == 48
    rows = found["losses"]
    assert list(rows) == ["untrained", "nca", "circle"]
    assert rows["nca"]["map@r"]["values"] == pytest.approx([0.08, 0.081, 0.082])
    assert rows["nca"]["map@r"]["mean"] == pytest.approx(0.081)
    assert (rows["nca"]["lr"], rows["nca"]["at_edge"]) == (1e-2, False)
    tried = {"0.001": 0.499, "0.01": 0.49, "0.1": None, "0.0001": 0.4999, "1e-05": 0.49999}
    assert rows["circle"]["validation"] == pytest.approx(tried)
    assert rows["circle"]["grid_status"]["0.1"] == "diverged"
    assert (rows["circle"]["lr"], rows["circle"]["at_edge"]) == (1e-5, True)
    assert (out / "losses-debtags.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "circle: the learning rate 1e-05 is at the edge of its grid" in said
    assert not [*out.rglob("*.safetensors")]

    before = len(fits.trained), len(fits.tested)
    command.main(arguments(out))
    assert (len(fits.trained), len(fits.tested)) == before
    assert json.loads((out / "losses.json").read_text())["debtags"]["losses"] == rows
    command.main([*arguments(out)[:-2], "--seeds", "4"])  # one more
    assert fits.trained[before[0] :] == [("NCALoss", 1e-2, 3), ("CircleLoss", 1e-5, 3)]
    command.main(arguments(out, "--budget", "24"))
    assert len(fits.trained) == before[0] + 2 + before[0] - 1  # all but the untrained


def test_a_grid_grows_until_the_best_rate_has_neighbours(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Fits(lambda loss, lr, seed: {1e-1: 0.5, 1.0: 0.7, 10.0: 0.6}.get(lr, 0.1), monkeypatch)
    planned = []
    comparison = command.Comparison("debtags", tmp_path, 48, 1, more=lambda: planned.append(1))
    row = comparison.compare("nca")
    assert [lr for _, lr, _ in fits.trained] == [*RATES, 1.0, 10.0]
    assert (row["lr"], row["at_edge"], len(planned)) == (1.0, False, 2)


def test_a_call_that_was_interrupted_before_the_test_goes_on(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Fits(lambda loss, lr, seed: lr, monkeypatch)
    comparison = command.Comparison("debtags", tmp_path, 48, 1)
    chosen = {"loss": "nca", "lr": 0.1, "seed": 0}
    comparison.run(**chosen, final=False)
    result, trained = comparison.run(**chosen, final=True)
    assert (len(fits.trained), len(fits.tested), trained) == (1, 1, False)
    assert result["test"] == dict.fromkeys(MEASURES, 0.01)
    comparison.run("nca", 0.01, 0, final=False)
    comparison._weights("nca", 0.01, 0).unlink()  # as when another rate was chosen by then
    result, trained = comparison.run("nca", 0.01, 0, final=True)
    assert (len(fits.trained), len(fits.tested), trained) == (3, 2, True)
    assert result["test"] == dict.fromkeys(MEASURES, 0.001)


def test_a_loss_that_always_diverges_is_shown_as_such(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    fits = Fits(lambda loss, lr, seed: None if loss == "CircleLoss" else 0.5, monkeypatch)
    command.main(arguments(tmp_path / "out"))
    row = json.loads((tmp_path / "out" / "losses.json").read_text())["debtags"]["losses"]["circle"]
    assert (row["lr"], row["status"]) == (None, ["diverged"] * 3)
    assert not {*MEASURES} & {*row}
    assert len([each for each in fits.trained if each[0] == "CircleLoss"]) == 3
    assert "circle (3 of 3 diverged)" in capsys.readouterr().out


def test_what_cannot_go_on_is_said_in_one_line(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        raise BenchmarkError("the fit ended after 2 steps of 4")

    monkeypatch.setattr(command, "train", fail)
    with pytest.raises(SystemExit, match=r"benchmarks\.losses: the fit ended after 2 steps of 4"):
        command.main(arguments(tmp_path / "out"))
    with pytest.raises(SystemExit):
        command.main(arguments(tmp_path / "out", "--budget", "0"))
