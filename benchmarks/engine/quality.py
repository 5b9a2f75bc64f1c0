"""Quality on Banking77 after the same wall time of training, beside sentence-transformers. It takes hours.

Ours is ``configs/banking77.yaml``, which holds its own validation texts out; the peer has batch-hard,
batch-all or multiple negatives ranking. Short fits of all, one after the other, tell how many steps of each
fit into the time. Fits go by these steps: what else the machine does later is at nobody's cost, and the
learning rate falls to 0 at the end. The peer's loss, at a rate of 1e-4, and then the rates of both are
chosen by MAP@R on a tenth of the training texts, in fits on the rest. What was chosen then trains
on all training texts with each seed, and is measured once on test texts. Every fit is kept in
``OUT/quality``: a second call goes on where the first one ended.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.banking77 import Comparison, equal_steps, files
from benchmarks.engine.measures import compared, measured
from benchmarks.peer import BACKBONE, RECIPES

OUR_RATES = (2e-4, 4e-4, 8e-4)
PEER_RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
FIRST_RATE = 1e-4
"""At which the peer's losses are compared."""
SHORT = {"steps": 20, "lr": 2e-5}
"""The peer's short fits."""
WARMUP = 0.1
"""Share of the peer's steps; ours has the same by default."""
TITLES = {"map@r": "MAP@R (to reach: 0.05 more)", "knn1_accuracy": "1-NN accuracy (to reach: no less)"}
FEWEST = {"map@r": 0.05, "knn1_accuracy": 0.0}
"""How far we should be ahead."""


def fewer(folder: Path, paths: Sequence[Path], rows: int) -> tuple[Path, ...]:
    """Files of the first ``rows`` rows of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for path in paths:
        parts.append(folder / path.name)
        pq.write_table(pq.read_table(path, columns=["text", "label"]).slice(0, rows), parts[-1])
    return tuple(parts)


class Fits:
    """Fits of both sides.

    Args:
        out: folder of all fits.
        train: file of training texts.
        test: file of the texts to measure on.
    """

    def __init__(self, out: Path, train: Path, test: Path) -> None:
        self.out, self.train, self.test = out, train, test

    def short(self, recipes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Short fits of ``ours`` and of each recipe of the peer, which tell what a step takes."""
        ours = self._ours("calibrate", 0, OUR_RATES[0], "max_epochs", 1)
        peers = {
            recipe: self._comparison("calibrate").peer(recipe, {"recipe": recipe, **SHORT})
            for recipe in recipes
        }
        return {"ours": ours, **peers}

    def ours(self, rate: float, steps: int, seed: int) -> dict[str, Any]:
        """A fit of ours with this learning rate, and its scores."""
        return self._ours(f"ours-{rate:g}", seed, rate, "max_steps", steps)

    def peer(self, recipe: str, rate: float, steps: int, seed: int) -> dict[str, Any]:
        """A fit of the peer with this loss and learning rate, and its scores."""
        options = {"recipe": recipe, "steps": steps, "lr": rate, "warmup": WARMUP, "seed": seed}
        found: dict[str, Any] = self._comparison("peer").peer(f"{recipe}-{rate:g}-seed-{seed}", options)
        return found

    def _ours(self, folder: str, seed: int, rate: float, length: str, value: int) -> dict[str, Any]:
        options = [f"--model.lr={rate}", f"--trainer.{length}={value}"]
        if length == "max_steps":
            options.append("--trainer.max_epochs=-1")
        found: dict[str, Any] = self._comparison(folder, options).ours(seed)
        return found

    def _comparison(self, folder: str, options: Sequence[str] = ()) -> Comparison:
        return Comparison(self.out / folder, self.train, self.test, options, 0, {})


def highest(scores: Mapping[Any, Mapping[str, Any]]) -> Any:
    """The key with the highest MAP@R."""
    return max(scores, key=lambda key: scores[key]["map@r"])


def measure(out: Path, quick: bool) -> list[dict[str, Any]]:
    """MAP@R and 1-NN accuracy on test texts; see the module.

    Args:
        out: the folder of results.
        quick: a few texts, one setting of each, fits of two seconds.
    """
    seconds, seeds = (2.0, 1) if quick else (300.0, 3)
    rates = {"ours": OUR_RATES[:1] if quick else OUR_RATES, "peer": (FIRST_RATE,) if quick else PEER_RATES}
    recipes = RECIPES[:1] if quick else RECIPES
    folder = out / ("quality-quick" if quick else "quality")
    settings = {
        "both": {"backbone": BACKBONE, "seconds": seconds, "seeds": seeds, "precision": "fp32"},
        "ours": {"config": "banking77.yaml", "lr": rates["ours"]},
        "peer": {"recipes": recipes, "lr": rates["peer"], "batch": 128, "warmup": WARMUP},
    }
    found: dict[str, Any] = {}

    def fits() -> dict[str, Any]:
        train, test = files("test", folder)
        part, held = files("validation", folder / "data")
        if quick:
            train, test = fewer(folder / "few", (train, test), 400)
            part, held = fewer(folder / "few-validation", (part, held), 300)
        tried = Fits(folder / "validation", part, held)
        short = tried.short(recipes)
        steps = {name: equal_steps(seconds, run) for name, run in short.items()}
        ours = {rate: tried.ours(rate, steps["ours"], 0) for rate in rates["ours"]}
        peers = {(each, FIRST_RATE): tried.peer(each, FIRST_RATE, steps[each], 0) for each in recipes}
        best, _ = highest(peers)
        peers |= {(best, each): tried.peer(best, each, steps[best], 0) for each in rates["peer"]}
        rate, (recipe, peer_rate) = highest(ours), highest(peers)
        final = Fits(folder / "test", train, test)
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
        for seed in range(seeds):
            runs["ours"].append(final.ours(rate, steps["ours"], seed))
            runs["peer"].append(final.peer(recipe, peer_rate, steps[recipe], seed))
        return {
            "runs": runs,
            "short": {name: {key: run[key] for key in ("seconds", "steps")} for name, run in short.items()},
            "steps": steps,
            "chosen": {"ours": {"lr": rate}, "peer": {"recipe": recipe, "lr": peer_rate}},
            "validation": {
                "ours": {f"{each:g}": run["map@r"] for each, run in ours.items()},
                "peer": {f"{name} {each:g}": run["map@r"] for (name, each), run in peers.items()},
            },
        }

    def work(score: str) -> dict[str, Any]:
        found.update(found or fits())
        values = {side: [run[score] for run in each] for side, each in found["runs"].items()}
        gaps = [a - b for a, b in zip(values["ours"], values["peer"], strict=True)]
        gap = {
            "difference": statistics.fmean(gaps),
            "differences": gaps,
            "difference_to_reach": FEWEST[score],
        }
        return {**compared(values["ours"], values["peer"]), **gap, **found}

    results = []
    for score, title in TITLES.items():
        name, title = f"quality-{score.replace('@', '-')}", f"{seconds:g} s on Banking77: {title}"
        results.append(measured(out, name, title, settings, partial(work, score)))
    return results
