"""The fits of an entry: the learning rate by validation for each arm alike, then the seeds."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.methods import probes
from benchmarks.methods.corpora import BACKBONE, CORPORA, digest_of, headless, without_files
from benchmarks.methods.entries import Entry
from benchmarks.methods.verdicts import compare
from benchmarks.rates import choose, search
from benchmarks.results import environment, kept, read_json, spread, write_json
from benchmarks.short_fits import short, tested, train
from lit_metric import MetricDataModule, MetricLearner
from lit_metric.cli.training import resolved

Result = dict[str, Any]
COSTS = ("steps", "items", "seconds")


class Measuring:
    """What a probe finds, as figures, with those of each query beside them.

    Args:
        entry: says which probe, and which figures.
        trained: whether the encoder was; without its untrained head it answers alone.

    Attributes:
        queries: lists of values by name, of the latest split; None where a query has none.
    """

    def __init__(self, entry: Entry, trained: bool) -> None:
        self.entry, self.trained = entry, trained
        self.queries: dict[str, list[float | None]] = {}

    def __call__(self, model: MetricLearner, data: MetricDataModule, split: str) -> dict[str, float]:
        """The figures of a split."""
        find = getattr(probes, self.entry.probe or "usual")
        found = find(model if self.trained else headless(model), data, split, self.entry.measures)
        self.queries = {name: values for name, values in found.items() if isinstance(values, list)}
        return {name: _mean(values) for name, values in found.items()}


def _mean(values: float | Sequence[float | None]) -> float:
    if isinstance(values, float):
        return values
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Runs:
    """The fits of one entry.

    Args:
        entry: of the recipe book.
        out: folder of all entries.
        seeds: fits at the chosen rate; the entry's if None.
        budget: items that each fit encodes; the entry's if None.
        lrs: learning rates to choose from; the entry's if None.
        backbone: of the frozen text encoder.
        done: called after each fit.
    """

    entry: Entry
    out: Path
    seeds: int | None = None
    budget: int | None = None
    lrs: tuple[float, ...] | None = None
    backbone: str = BACKBONE
    done: Callable[[str], None] = lambda words: None

    def config(self, arm: str) -> Result:
        """All options of an arm, but for the learning rate and the seed."""
        corpus = _prepared(self.entry.corpus_of(arm), self.out / "corpora", self.backbone)
        given = json.dumps([json.loads(corpus), *self.entry.parts(arm)])
        return _resolved(given.replace(json.dumps(BACKBONE), json.dumps(self.backbone)))

    def run(self, arm: str, lr: float, seed: int, final: bool) -> Result:
        """A fit, from its JSON file if it is there, with the figures of test items if ``final``."""
        config, budget = short(self.config(arm), lr, seed), self.entry.budget_of(arm)
        if self.budget is not None:
            budget = min(budget, self.budget)
        name = f"{arm.replace(' ', '-')}-lr-{lr:g}-seed-{seed}"
        path = self.out / self.entry.key / f"{name}.json"
        weights = path.with_suffix(".safetensors")
        settings = {
            "files": digest_of(config),
            "versions": environment()["versions"],
            "budget": budget,
            "config": without_files(config),
            "probe": self.entry.probe,
            "measures": list(self.entry.measures),
        }
        if config["data"]["init_args"].get("miner"):
            settings["budget_counts"] = "what is encoded for searches, too"
        measure, vectors = Measuring(self.entry, bool(budget)), self.out / "vectors"

        def fit() -> Result:
            return train(config, budget, weights, measure, self.entry.logged, vectors)

        result = kept(path, settings, fit)
        if final and "test" not in result and result["status"] != "diverged":
            if not weights.is_file():  # an earlier call was interrupted, or another rate chosen by then
                path.unlink()
                result = kept(path, settings, fit)
            test = tested(config, weights, measure, vectors) | result.get("logged", {})
            write_json(path, {**result, "test": test, "queries": _rounded(measure.queries)})
            result = read_json(path)
        if final:
            weights.unlink(missing_ok=True)
        self.done(f"{self.entry.key} {name}: {result['status']}")
        return result

    def arm(self, arm: str) -> tuple[Result, dict[int, Result]]:
        """An arm at the learning rate that the validation items choose: in short, and its runs by seed."""
        by = self.entry.measures[0]
        lrs = self.entry.lrs if self.lrs is None else self.lrs
        if not self.entry.budget_of(arm):
            lrs = lrs[:1]
        grid = search(lrs, lambda lr: self.run(arm, lr, 0, final=False), by)
        chosen = choose(grid, by)
        for lr in grid:
            if lr != chosen:
                name = f"{arm.replace(' ', '-')}-lr-{lr:g}-seed-0.safetensors"
                (self.out / self.entry.key / name).unlink(missing_ok=True)
        seeds = range(self.entry.seeds if self.seeds is None else self.seeds)
        runs = {} if chosen is None else {seed: self.run(arm, chosen, seed, final=True) for seed in seeds}
        return {**summed_up(grid, chosen, runs, by)}, runs

    def measure(self) -> Result:
        """All arms of the entry, and what became of its claims."""
        arms, runs = {}, {}
        for arm in self.entry.arms:
            arms[arm], runs[arm] = self.arm(arm)
        claims = []
        for claim in self.entry.claims:
            difference = compare(runs[claim.arm], runs[claim.against], claim.measure)
            claims.append(
                {
                    **vars(claim),
                    "difference": None if difference is None else difference._asdict(),
                    "verdict": None if difference is None else difference.verdict,
                    "outcome": "not measured yet" if difference is None else difference.claim(claim.expected),
                }
            )
        return {
            "budget": self.entry.budget if self.budget is None else self.budget,
            "corpus": self.entry.corpus,
            "arms": arms,
            "claims": claims,
            "against": self.against(runs),
        }

    def against(self, runs: Mapping[str, Mapping[int, Result]]) -> dict[str, Any]:
        """How each arm differs from the first that was trained on its corpus, in the measure that chose."""
        found: dict[str, Any] = {}
        for arm in self.entry.arms:
            baseline = self.entry.baseline(arm)
            each = baseline and compare(runs[arm], runs[baseline], self.entry.measures[0])
            if each:
                found[arm] = {**each._asdict(), "verdict": each.verdict}
        return found


@functools.cache
def _prepared(corpus: str, folder: Path, backbone: str) -> str:
    """The config of a corpus as JSON, whose tables are written once in a process."""
    return json.dumps(CORPORA[corpus].config(folder, backbone))


@functools.cache
def _resolved(parts: str) -> Result:
    """The options of several YAML files, one after another; read once, as that takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        words = []
        for number, part in enumerate(json.loads(parts)):
            path = Path(folder) / f"{number}.yaml"
            path.write_text(yaml.safe_dump(part), encoding="utf-8")
            words += ["--config", str(path)]
        return resolved(*words)


def _rounded(queries: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """To four digits, whole numbers as such, so that the files stay small."""
    return {
        name: [value if value is None or value % 1 else int(value) for value in _to_digits(values)]
        for name, values in queries.items()
    }


def _to_digits(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]


def summed_up(
    grid: Mapping[float, Result], chosen: float | None, runs: Mapping[int, Result], by: str
) -> Result:
    """The choice of a learning rate, and means over seeds of figures and costs."""
    ended = [run for run in runs.values() if "test" in run]
    content: Result = {
        "validation": {
            f"{lr:g}": run["validation"].get(by) if "validation" in run else None for lr, run in grid.items()
        },
        "lr": chosen,
        "at_edge": chosen is not None and len(grid) > 1 and chosen in (min(grid), max(grid)),
        "status": [run["status"] for run in runs.values()] or [run["status"] for run in grid.values()],
    }
    if ended:
        content["test"] = {name: spread([run["test"][name] for run in ended]) for name in ended[0]["test"]}
        content["cost"] = {name: spread([run[name] for run in ended]) for name in COSTS}
    return content
