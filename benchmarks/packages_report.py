"""What the benchmark of tagged packages prints: tables, who wins what, what it cost, what to try next."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.results import REPOSITORY, Rows, Spread, mean_of, score_table, short, spread
from benchmarks.tagged_items import SHIPPED

OURS = "lit-metric"
MEASURES = ("macro", "micro")
VARIANTS = {"only-unseen": "hidden", "all-tags": "all tags"}
"""Of ``benchmarks.unseen_tags``, and what tables call them."""
LEVEL = 0.01
"""A smaller difference says nothing: this is about the standard error of a share of 1,747 items."""


def over_seeds(results: Sequence[Mapping[str, Any]], *path: str) -> dict[str, Spread]:
    """Mean and spread of the scores that stand under the keys ``path`` in each seed's result.

    Example:
        >>> over_seeds([{"ours": {"micro": 0.5}}, {"ours": {"micro": 0.7}}], "ours")["micro"].mean
        0.6
    """
    rows: list[Any] = list(results)
    for key in path:
        rows = [row[key] for row in rows]
    return {name: spread([row[name] for row in rows]) for name in rows[0]}


def verdict(rows: Rows, ours: str = OURS, measures: Sequence[str] = MEASURES) -> str:
    """Who wins what, as sentences that follow from the numbers.

    Example:
        >>> verdict({"k-NN": {"macro": 0.6, "micro": 0.65}, "lit-metric": {"macro": 0.7, "micro": 0.63}})
        'By macro, lit-metric is first (0.700), 0.100 ahead of k-NN; by micro, k-NN is first (0.650), and
        lit-metric is number 2 of 2, 0.020 behind.'
    """
    means = {row: {name: mean_of(scores[name]) for name in measures} for row, scores in rows.items()}
    said, wins = [], 0
    for name in measures:
        best, second, *_ = ranked = sorted(means, key=lambda row: -means[row][name])
        top, own = means[best][name], means[ours][name]
        if best == ours:
            wins += 1
            gap = top - means[second][name]
            sentence = f"by {name}, {ours} is first ({top:.3f}), {gap:.3f} ahead of {second}"
        else:
            gap, place = top - own, ranked.index(ours) + 1
            sentence = f"by {name}, {best} is first ({top:.3f}), and {ours} is number {place} of {len(means)}"
            sentence += f", {gap:.3f} behind"
        said.append(sentence + (" (too little to tell them apart)" if gap < LEVEL else ""))
    told = "; ".join(said) + "."
    ahead = [row for row in means if row != ours and all(means[row][m] >= means[ours][m] for m in measures)]
    if not wins:
        alone = f" No other row is as good as {ours} at both."
        told += f" At least as good at both: {', '.join(ahead)}." if ahead else alone
    return told[0].upper() + told[1:]


def side_by_side(tables: Mapping[str, Rows]) -> Rows:
    """Several tables of the same rows as one, with two lines above each column.

    Example:
        >>> side_by_side({"a": {"row": {"x": 1.0}}, "b": {"row": {"x": 2.0}}})
        {'row': {'a\\nx': 1.0, 'b\\nx': 2.0}}
    """
    names = next(iter(tables.values()))
    return {
        name: {
            f"{table}\n{column}": score
            for table, rows in tables.items()
            for column, score in rows[name].items()
        }
        for name in names
    }


def print_tables(console: Console, seen: Rows, unseen: Mapping[str, Rows]) -> None:
    """Both tables, each with a word on who wins.

    Args:
        console: where to.
        seen: accuracies on all tags.
        unseen: the same for each of ``VARIANTS``.
    """
    console.rule("Result")
    console.print(score_table("10-NN accuracy on the test packages", seen, MEASURES))
    console.print(f"{verdict(seen)}\n")
    sides = side_by_side({VARIANTS[name]: rows for name, rows in unseen.items()})
    title = "A fifth of the tags hidden from training:\ntest packages by hidden tags alone, and by all tags"
    console.print(score_table(title, sides, list(sides[OURS])))
    for name, rows in unseen.items():
        console.print(f"{VARIANTS[name]}: {verdict(rows)}")


def print_costs(console: Console, costs: Mapping[str, Spread]) -> None:
    """Time, speed and memory of the fit on all tags."""
    console.print(
        f"\nTraining took {costs['seconds'].mean:.0f} s (validation included), at "
        f"{costs['texts_per_second'].mean:,.0f} distinct texts/s, with at most "
        f"{costs['peak_memory'].mean:,.0f} MiB of memory."
    )


def what_next(folder: Path, config: str) -> list[str]:
    """Lines to read or to paste, about the run in ``folder``."""
    tool = Path(sys.executable).with_name("lit-metric")
    command = str(short(tool)) if tool.exists() else f"{short(Path(sys.executable))} -m lit_metric"
    model, data = short(folder), short(SHIPPED)
    search = '--key name --query "interface::x11, use::gameplaying"'
    lines = [
        f"{command} search --model {model} --corpus {data} --tags tags {search}",
        f"{command} encode --model {model} --input {data} --tags tags --output {model}/packages.parquet",
        f"{command} fit --config {config} --data.train YOURS.parquet  # columns tags, section, name, split",
    ]
    pages = [page for page in ("README.md", "docs/index.md") if (REPOSITORY / page).exists()]
    return lines + [f"read {', '.join(str(short(REPOSITORY / page)) for page in pages)}"] * bool(pages)
