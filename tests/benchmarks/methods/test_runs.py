"""What is fitted, chosen, tested and kept, with fits that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import runs as module
from benchmarks.methods.corpora import CORPORA, digest_of, without_files
from benchmarks.methods.entries import entries, load
from benchmarks.methods.runs import Runs
from benchmarks.results import BenchmarkError, read_json

ENTRY = """
key: Z1
title: A test
what: w
formula: f
source: s
when: w
cost: c
corpus: debtags
arms: {plain: {}, better: {model: {loss: NCALoss}}}
measures: [map@r]
lrs: [0.001, 0.01, 0.1]
claims: [{words: better is better, arm: better, against: plain, measure: map@r}]
"""


@pytest.fixture
def entry(tmp_path: Path) -> Any:
    (tmp_path / "Z1.yaml").write_text(ENTRY)
    return load(tmp_path / "Z1.yaml")


class Fits:
    """Validation is best at a rate of 0.01; the test scores are 0.5, and 0.1 more with NCALoss."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[Any] = []
        self.tested: list[Any] = []
        self.budgets: list[int] = []
        monkeypatch.setattr(module, "train", self.train)
        monkeypatch.setattr(module, "tested", self.test)

    def train(self, config: Any, budget: int, weights: Path, measure: Any, logged: Any, *_: Any) -> Any:
        self.trained.append(self.of(config))
        self.budgets.append(budget)
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.touch()
        costs = {"steps": 1, "items": budget, "seconds": 1.0}
        score = 1 - abs(self.of(config)[1] - 0.01)
        return {"status": "trained", **costs, "validation": {"map@r": score}}

    def test(self, config: Any, weights: Path, measure: Any, *_: Any) -> dict[str, float]:
        better, _, seed = self.of(config)
        self.tested.append(self.of(config))
        measure.queries = {"map@r": [value + 0.1 * better + 0.001 * seed for value in (0.4, 0.5, 0.6)]}
        return {"map@r": 0.5 + 0.1 * better + 0.001 * seed}

    @staticmethod
    def of(config: Any) -> tuple[bool, float, int]:
        model = config["model"]["init_args"]
        return "NCA" in str(model["loss"]), model["lr"], config["seed_everything"]


def test_each_arm_gets_its_rate_by_validation_and_a_claim_its_answer(
    entry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = Fits(monkeypatch)
    found = Runs(entry, tmp_path / "out").measure()
    rates = [(0.001, 0), (0.01, 0), (0.1, 0), (0.01, 1), (0.01, 2)]
    assert fits.trained == [(better, *each) for better in (False, True) for each in rates]
    assert fits.tested == [(better, 0.01, seed) for better in (False, True) for seed in range(3)]
    [claim] = found["claims"]
    assert claim["outcome"] == "confirmed"
    assert claim["difference"]["mean"] == pytest.approx(0.1)
    assert found["against"]["better"]["verdict"] == "helps"
    assert not list(tmp_path.rglob("*.safetensors"))
    kept = read_json(tmp_path / "out" / "Z1" / "better-lr-0.01-seed-1.json")
    assert kept["queries"] == {"map@r": [0.501, 0.601, 0.701]}
    assert fits.budgets == [entry.budget] * 10  # items that a fit encodes: the same for all arms
    Runs(entry, tmp_path / "out").measure()
    assert len(fits.trained) == 10  # nothing is measured twice


def test_an_arm_is_compared_with_the_first_of_its_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = "arms: {untrained: {}, plain: {}, better: {model: {loss: NCALoss}}, other: {}, elsewhere: {}, "
    arms += "better elsewhere: {model: {loss: NCALoss}}}\nbudgets: {untrained: 0}\n"
    arms += "corpora: {elsewhere: another, better elsewhere: another}"
    given = ENTRY.replace("arms: {plain: {}, better: {model: {loss: NCALoss}}}", arms)
    (tmp_path / "Z1.yaml").write_text(given)
    monkeypatch.setitem(CORPORA, "another", CORPORA["debtags"])
    Fits(monkeypatch)
    found = Runs(load(tmp_path / "Z1.yaml"), tmp_path / "out").measure()
    differences = {arm: round(each["mean"], 6) for arm, each in found["against"].items()}
    assert differences == {"better": 0.1, "other": 0.0, "better elsewhere": 0.1}


def test_a_result_depends_on_the_contents_of_files_and_not_on_their_places(tmp_path: Path) -> None:
    def config(folder: str, content: str) -> Any:
        (tmp_path / folder).mkdir(exist_ok=True)
        files = {name: str(tmp_path / folder / f"{name}.csv") for name in ("train", "test", "corpus")}
        for name, path in files.items():
            Path(path).write_text(content if name == "corpus" else name)
        supervision = {"class_path": "Judgements", "init_args": {"corpus": files.pop("corpus"), "folds": 5}}
        return {"data": {"init_args": {**files, "supervision": supervision}}}

    first, moved, changed = config("a", "x"), config("b", "x"), config("c", "y")
    assert digest_of(first) == digest_of(moved) != digest_of(changed)
    assert without_files(first) == without_files(moved) != first
    assert first["data"]["init_args"]["supervision"]["init_args"]["corpus"].endswith("corpus.csv")
    with pytest.raises(BenchmarkError, match="names no file"):
        digest_of({"data": {"init_args": {}}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title: A test", "titel: A test"), "an entry has no titel"),
        (("title: A test\n", ""), "title"),
        (("arm: better", "arm: best"), "a claim names the arm 'best'"),
        (("measure: map@r", "measure: mrr"), "'better is better' needs one of map@r"),
        (("corpus: debtags", "corpus: sky"), "there is no corpus 'sky'"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    (tmp_path / "Z1.yaml").write_text(ENTRY.replace(*change))
    with pytest.raises(BenchmarkError, match=message):
        load(tmp_path / "Z1.yaml")


def test_every_recipe_belongs_to_an_entry_that_exists() -> None:
    from benchmarks.methods.entries import RECIPES

    known = {entry.recipe for entry in entries().values()} - {None}
    assert known <= {path.stem for path in RECIPES.glob("*.yaml")}
    for key, entry in entries().items():
        takes = [arm for arm in entry.arms.values() if arm.get("recipe")]
        assert takes or entry.recipe is None, f"{key}: no arm measures the recipe"
