"""All losses that learn from classes, at equal encoded items, on Banking77 and on the Debian tags.

    LIT_METRIC_DATA=DIR python -m benchmarks.losses --out DIR --data debtags banking77

For each loss, with the arguments and the batches of ``benchmarks/losses/table.py``: a fit at each of three
learning rates with seed 0, of which the validation items choose, and up to two rates beyond them while the
best lies at an edge; then the other seeds at that rate. The test items are looked at with the chosen fits
only. Every fit encodes the same number of items (``--budget``), in batches that may be of different sizes,
and keeps its last weights. Encoder and data are those of ``configs/banking77.yaml`` and
``configs/debtags.yaml``, with fewer steps.

``triplet_hard`` and ``n_pair`` encode as many items in a batch; ``triplet_hard_pairs`` and ``n_pair_grouped``
are each of both losses in the other's kind of batch.

Left out: losses of scores (CoSENT, MarginMSE, KL), which ``benchmarks.supervision`` is for, and the wrappers
``MatryoshkaLoss`` and ``GuidedLoss``, which serve another end than a better score.

Each fit is one JSON file in OUT/DATA, and a second call measures only what is missing or has other settings.
``losses.json`` is the summary, from which ``docs/losses.md`` takes its table. A fit whose loss became
infinite or NaN is reported as diverged, one whose embeddings went to a point or a line as collapsed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.losses.table import LOSSES, SETUPS, Entry, Setup, configuration
from benchmarks.rates import choose, search
from benchmarks.results import (
    BenchmarkError,
    Rows,
    Spread,
    environment,
    kept,
    plot,
    read_json,
    score_table,
    short,
    spread,
    write_json,
)
from benchmarks.short_fits import MEASURES, tested, train, without_paths

SUMMARY = "losses.json"
UNTRAINED = "untrained"
COSTS = ("steps", "items", "seconds")
Result = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The fits on one data set.

    Args:
        name: of the data set.
        out: the folder of all data sets.
        budget: items that each fit encodes.
        seeds: fits at the chosen learning rate.
        done: called after each fit with whether it had to be trained.
        more: called before a fit that was not planned.
        precision: of Lightning's trainer, in which all fits are trained.
    """

    name: str
    out: Path
    budget: int
    seeds: int
    done: Callable[[bool], None] = lambda trained: None
    more: Callable[[], None] = lambda: None
    precision: str = "32-true"

    @property
    def setup(self) -> Setup:
        """Of the data set."""
        return SETUPS[self.name]

    def run(self, loss: str, lr: float, seed: int, final: bool) -> tuple[Result, bool]:
        """A fit, from its JSON file if it is there, with its scores on test items if ``final``; and whether
        it had to be trained."""
        entry = LOSSES.get(loss)
        config = configuration(self.setup, entry, lr, seed, self.precision)
        path, weights = self._path(loss, lr, seed), self._weights(loss, lr, seed)
        settings = {
            "files": self.setup.digest(),
            "versions": environment()["versions"],
            "budget": self.budget if entry else 0,
            "config": without_paths(config),
        }
        trained = []

        def fit() -> Result:
            trained.append(True)
            return train(config, settings["budget"], weights)

        result = kept(path, settings, fit)
        if final and "test" not in result and result["status"] != "diverged":
            if not weights.is_file():  # an earlier call was interrupted, or another rate chosen by then
                path.unlink()
                result = kept(path, settings, fit)
            write_json(path, {**result, "test": tested(config, weights)})
            result = read_json(path)
        if final:
            weights.unlink(missing_ok=True)
        return result, bool(trained)

    def _path(self, loss: str, lr: float, seed: int) -> Path:
        return self.out / self.name / f"{loss}-lr-{lr:g}-seed-{seed}.json"

    def _weights(self, loss: str, lr: float, seed: int) -> Path:
        return self._path(loss, lr, seed).with_suffix(".safetensors")

    def compare(self, loss: str) -> Result:
        """A loss at the learning rate that the validation items choose: its fits, summed up."""
        entry, grid, runs = LOSSES[loss], self.grid(loss), []
        chosen = choose(grid, self.setup.choose_by)
        for lr in grid:
            if lr != chosen:
                self._weights(loss, lr, 0).unlink(missing_ok=True)
        for seed in range(self.seeds):
            trained = False
            if chosen is not None:
                run, trained = self.run(loss, chosen, seed, final=True)
                runs.append(run)
            if seed:  # the first is of the grid
                self.done(trained)
        return {**described(entry, self.setup), **summed_up(grid, chosen, runs, self.setup.choose_by)}

    def grid(self, loss: str) -> dict[float, Result]:
        """The fits with seed 0 by learning rate: those planned, and some beyond an edge that is the best."""

        def fit(lr: float) -> Result:
            result, trained = self.run(loss, lr, 0, final=False)
            self.done(trained)
            return result

        return search(LOSSES[loss].lrs(self.name, self.setup), fit, self.setup.choose_by, self.more)

    def untrained(self) -> Result:
        """The encoder as it starts, with seed 0."""
        run, trained = self.run(UNTRAINED, self.setup.lrs[0], 0, final=True)
        self.done(trained)
        return {"status": [UNTRAINED], **{key: spread([run["test"][key]]) for key in MEASURES}}

    def all(self, losses: Sequence[str]) -> dict[str, Any]:
        """The untrained encoder and each of the losses; ``losses.json`` holds what is done so far.

        What it holds of other losses stays there if it was measured under the same settings.
        """
        settings = {
            "files": self.setup.digest(),
            "versions": environment()["versions"],
            "budget": self.budget,
            "seeds": self.seeds,
            "precision": self.precision,
            "choose_by": self.setup.choose_by,
            "protocol": self.setup.protocol,
        }
        path = self.out / SUMMARY
        before = read_json(path).get(self.name, {})
        found = before["losses"] if before.get("settings") == settings else {}
        for loss in (UNTRAINED, *losses):
            found[loss] = self.untrained() if loss == UNTRAINED else self.compare(loss)
            ordered = {name: found[name] for name in (UNTRAINED, *LOSSES) if name in found}
            content = {self.name: {"settings": settings, "losses": ordered}, "environment": environment()}
            write_json(path, {**read_json(path), **content})
        return read_json(path)[self.name]["losses"]


def described(entry: Entry, setup: Setup) -> Result:
    """What was trained with."""
    return {
        **entry.loss,
        "planner": entry.planner(setup),
        "lr_scale": dict(entry.lr_scale),
        "note": entry.note,
    }


def summed_up(
    grid: Mapping[float, Result], chosen: float | None, runs: Sequence[Result], by: str
) -> dict[str, Any]:
    """The choice and the means over seeds.

    Returns:
        ``validation``: the score by learning rate, None where the fit diverged; ``grid_status``; ``lr``: the
        chosen one; ``at_edge``: whether it is the first or the last of its grid; ``status`` of each seed; and
        the mean and spread of ``MEASURES`` on test items and of the costs, of the seeds that did not diverge.
    """
    lrs = sorted(grid)
    content: dict[str, Any] = {
        "validation": {
            f"{lr:g}": run["validation"][by] if "validation" in run else None for lr, run in grid.items()
        },
        "grid_status": {f"{lr:g}": run["status"] for lr, run in grid.items()},
        "lr": chosen,
        "at_edge": chosen is not None and len(lrs) > 1 and chosen in (lrs[0], lrs[-1]),
        "status": [run["status"] for run in runs] or [run["status"] for run in grid.values()],
    }
    ended = [run for run in runs if "test" in run]
    if ended:
        content |= {key: spread([run["test"][key] for run in ended]) for key in MEASURES}
        content |= {key: spread([run[key] for run in ended]) for key in COSTS}
    return content


def title_of(loss: str, row: Mapping[str, Any]) -> str:
    """The loss, and what went wrong in how many of its fits.

    Example:
        >>> title_of("circle", {"status": ["trained", "collapsed", "collapsed"]})
        'circle (2 of 3 collapsed)'
    """
    status = row["status"]
    wrong = {name: status.count(name) for name in ("collapsed", "diverged") if name in status}
    said = ", ".join(f"{count} of {len(status)} {name}" for name, count in wrong.items())
    return f"{loss} ({said})" if said else loss


def show(console: Console, out: Path, name: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """The table and the plot of a data set, the best by the measure that chose first."""
    by = SETUPS[name].choose_by
    numbers = {
        loss: {key: Spread(**row[key]) for key in (*MEASURES, *COSTS) if key in row}
        for loss, row in found.items()
    }
    order = sorted(
        found, key=lambda loss: numbers[loss][by].mean if by in numbers[loss] else -1.0, reverse=True
    )
    rows: Rows = {title_of(loss, found[loss]): numbers[loss] for loss in order}
    console.print(score_table(f"{name}, test, learning rate by validation", rows, MEASURES))
    costs = {title: row for title, row in rows.items() if "seconds" in row}
    console.print(score_table("What the fits took", costs, COSTS, digits=0, stars=False))
    for loss in order:
        if found[loss].get("at_edge"):
            console.print(f"{loss}: the learning rate {found[loss]['lr']:g} is at the edge of its grid")
    panels: dict[str, Rows] = {
        key: {title: {key: row[key]} if key in row else {} for title, row in rows.items()}
        for key in dict.fromkeys((by, "knn10_accuracy_macro"))
    }
    plot(out / f"losses-{name}.png", f"{name}, test items", panels, "score")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.losses", description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--data", nargs="+", choices=SETUPS, default=list(SETUPS), help="(all)")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, metavar="LOSS", help=f"of {', '.join(LOSSES)}")
    parser.add_argument("--seeds", type=int, default=3, help="fits at the chosen rate (%(default)s)")
    parser.add_argument("--budget", type=int, help="items that each fit encodes (that of the data set)")
    parser.add_argument("--precision", default="32-true", help="of training, as Lightning's (%(default)s)")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or (given.budget is not None and given.budget < 1):
        parser.error(f"--seeds {given.seeds} and --budget {given.budget} must be at least 1")
    out, console = given.out.resolve(), Console()
    losses = [loss for loss in LOSSES if given.losses is None or loss in given.losses]
    try:
        found = compare_all(out, given.data, losses, given.seeds, given.budget, given.precision, console)
    except BenchmarkError as error:
        raise SystemExit(f"benchmarks.losses: {error}") from error
    for name, rows in found.items():
        show(console, out, name, rows)
    print(f"The numbers are in {short(out / SUMMARY)}, and a plot of each data set beside it.")


def compare_all(
    out: Path,
    names: Sequence[str],
    losses: Sequence[str],
    seeds: int,
    budget: int | None,
    precision: str,
    console: Console,
) -> dict[str, dict[str, Any]]:
    """Every loss on every data set, with a bar of the fits that are done; the summaries by data set."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, speed_estimate_period=1800) as progress:
        fits = {
            name: 1 + sum(len(LOSSES[loss].lrs(name, SETUPS[name])) + seeds - 1 for loss in losses)
            for name in names
        }
        task = progress.add_task("fits", total=sum(fits.values()))

        def done(trained: bool) -> None:
            # What was there already says nothing about the time that the others will take.
            if trained:
                progress.advance(task)
            else:
                progress.update(task, total=(progress.tasks[0].total or 1) - 1)

        def more() -> None:
            progress.update(task, total=(progress.tasks[0].total or 0) + 1)

        found = {}
        for name in names:
            progress.update(task, description=name)
            sizes = budget or SETUPS[name].budget, seeds
            comparison = Comparison(name, out, *sizes, done, more, precision)
            found[name] = comparison.all(losses)
    return found


if __name__ == "__main__":
    main()
