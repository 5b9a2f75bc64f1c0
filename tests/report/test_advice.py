"""Each rule of advice on a report where it must fire, and on one where it must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lit_metric.report.advice import MOST, advise
from lit_metric.report.structure import (
    ClassRow,
    Confusion,
    Curve,
    Health,
    Interval,
    MetricRow,
    MinedNegatives,
    ProblemList,
    Report,
    SplitSummary,
)
from tests.report.made import made_report

Values = list[float]


def metric(before: float, after: float, low: float | None = None, high: float | None = None) -> MetricRow:
    change = Interval(after - before, low, high)
    return MetricRow("map@r", Interval(before), Interval(after), change, 0 if low is None else 100)


def problem(
    name: str, strong: int, weak: int = 0, total: int | None = None, split: str = "train"
) -> ProblemList:
    columns = {"leaks": ("equal_texts", True, False), "suspected labels": ("suspicion", 2.5, 1.5)}
    column, high, low = columns[name]
    rows: list[list[Any]] = [
        ["a.csv", row, split, high if row < strong else low] for row in range(strong + weak)
    ]
    return ProblemList(name, "", ["file", "row", "of_split", column], rows, [], total or len(rows), "")


def rows(*sizes: int) -> list[ClassRow]:
    return [ClassRow(label, size, size, 1, 1, 1, 1, 0, -1, None) for label, size in enumerate(sizes)]


def confused(*counts: tuple[int, int, int]) -> list[Confusion]:
    return [Confusion(first, second, count, 0.1, 0, []) for first, second, count in counts]


def report(values: Values | None = None, ended: str = "max_epochs", **parts: Any) -> Report:
    """A run in which nothing is wrong, but for what is given."""
    made = made_report(items=100)
    curves = [Curve("val/map@r", [*range(len(values or []))], values or [])]
    quiet: dict[str, Any] = {
        "run": replace(made.run, curves=curves, ended=ended),
        "metrics": [metric(0.4, 0.6, 0.15, 0.25)],
        "health": Health((0.3, 0.1), (20.0, 30.0), (1.0, 1.0), (0.1, 0.1)),
        "splits": [SplitSummary("test", 50, 8, 50, [], [], 0)],
        "measured_split": "test",
        "problems": [],
        "negatives": None,
        "confusions": [],
        "classes": [],
        "comparison": None,
    }
    return replace(made, **(quiet | parts))


def health(cosine: tuple[float | None, float | None], width: tuple[float | None, float | None]) -> Health:
    return Health(cosine, width, (None, None), (None, None))


FIRES: list[tuple[str, str, str, Report]] = [
    ("cosine", "collapsed", "0.97", report(health=health((0.4, 0.97), (20, 15)))),
    ("dimensions", "collapsed", "1.5 effective", report(health=health((0.4, 0.5), (20, 1.5)))),
    ("worse", "made it worse", "0.6000 before", report(metrics=[metric(0.6, 0.5, -0.15, -0.05)])),
    ("leaks", "leaks", "5 training items", report(problems=[problem("leaks", 5)])),
    ("false", "belong to their anchor", "20%", report(negatives=MinedNegatives([], 0.2, ""))),
    ("rising", "still rising", "0.5500 to 0.6000", report([0.4, 0.5, 0.55, 0.6])),
    ("fell", "fell after its best", "0.6000 at step 1", report([0.4, 0.6, 0.55])),
    ("suspects", "suspected labels", "5 of 100", report(problems=[problem("suspected labels", 5, 3)])),
    ("many suspects", "labels", "5 or more of 100", report(problems=[problem("suspected labels", 5, 0, 9)])),
    (
        "swallows",
        "'class 2' takes",
        "80% of all 30",
        report(confusions=confused((0, 2, 14), (1, 2, 10), (0, 1, 6)), classes=rows(10, 12, 100)),
    ),
]
QUIET: list[tuple[str, Report]] = [
    ("nothing", report()),
    ("similar before", report(health=health((0.97, 0.96), (20, 15)))),
    ("unknown health", report(health=health((None, None), (None, None)))),
    ("no health", report(health=None)),
    ("worse by chance", report(metrics=[metric(0.6, 0.59, -0.03, 0.01)])),
    ("lower is better", report(metrics=[replace(metric(5, 4, -1.5, -0.5), better="lower")])),
    ("no direction", report(metrics=[replace(metric(5, 4, -1.5, -0.5), better="")])),
    ("no metrics", report(metrics=[])),
    ("one leak", report(problems=[problem("leaks", 1)])),
    ("texts of two splits are alike", report(problems=[problem("leaks", 1, weak=40)])),
    ("classes overlap", report(problems=[problem("suspected labels", 1, weak=40)])),
    ("few false", report(negatives=MinedNegatives([], 0.05, ""))),
    ("unknown false", report(negatives=MinedNegatives([], None, ""))),
    ("level", report([0.4, 0.59, 0.6, 0.601])),
    ("stopped early", report([0.4, 0.5, 0.6], ended="early stopping")),
    ("two validations", report([0.4, 0.6])),
    ("fell a little", report([0.4, 0.6, 0.599])),
    ("few suspects", report(problems=[problem("suspected labels", 2)])),
    ("few confusions", report(confusions=confused((0, 2, 5)), classes=rows(10, 12, 100))),
    ("not larger", report(confusions=confused((0, 2, 40)), classes=rows(10, 12, 20))),
    (
        "spread",
        report(confusions=confused((0, 2, 10), (0, 1, 40)), classes=rows(10, 12, 100)),
    ),
]


@pytest.mark.parametrize(
    ("what", "evidence", "given"), [each[1:] for each in FIRES], ids=[e[0] for e in FIRES]
)
def test_a_rule_fires(what: str, evidence: str, given: Report) -> None:
    (found,) = advise(given)
    assert what in found.what
    assert evidence in found.evidence
    assert found.option.startswith("--")


@pytest.mark.parametrize("given", [each[1] for each in QUIET], ids=[each[0] for each in QUIET])
def test_no_rule_fires(given: Report) -> None:
    assert advise(given) == []


def test_the_most_important_come_first_and_there_are_few() -> None:
    bad = report(
        [0.4, 0.6, 0.55],
        health=health((0.4, 0.97), (20, 1)),
        metrics=[metric(0.6, 0.5)],
        problems=[problem("leaks", 9), problem("suspected labels", 9)],
        negatives=MinedNegatives([], 0.5, ""),
    )
    found = [each.what for each in advise(bad)]
    assert len(found) == MOST
    for what, word in zip(found, ("collapsed", "worse", "leaks", "anchor"), strict=True):
        assert word in what


def test_two_runs_get_no_advice() -> None:
    assert advise(made_report(items=100, compared=True)) == []


def test_a_split_with_most_of_the_suspects_is_named() -> None:
    made = report()
    test = made.items.splits.index("test")
    size = int((made.items.split == test).sum())
    found = advise(replace(made, problems=[problem("suspected labels", 9, split="test")]))
    assert found[0].evidence.endswith(f"; 9 of them are among the {size} items of test")
    # As many for each item of both splits: nothing to say.
    others = len(made.items) - size
    both = [
        problem("suspected labels", size // 4, split="test"),
        problem("suspected labels", others // 4, split="train"),
    ]
    assert "among the" not in advise(replace(made, problems=both))[0].evidence


@pytest.mark.parametrize(
    ("values", "ended", "config", "option"),
    [
        ([0.4, 0.5, 0.6, 0.55], "max_epochs", "trainer: {max_epochs: 6}", "--trainer.max_epochs 4"),
        ([0.6, 0.5, 0.5, 0.55], "max_epochs", "trainer: {max_epochs: 6}", "--trainer.max_epochs 1"),
        ([0.4, 0.5, 0.55, 0.6], "max_epochs", "trainer: {max_epochs: 6}", "--trainer.max_epochs 12"),
        ([0.4, 0.5, 0.55, 0.6], "max_steps", "trainer: {max_epochs: 6}", "--trainer.max_epochs"),
        ([0.4, 0.5, 0.55, 0.6], "max_epochs", "trainer: {max_epochs: null}", "--trainer.max_epochs"),
        ([0.4, 0.5, 0.55, 0.6], "max_epochs", "trainer: [", "--trainer.max_epochs"),
        ([0.4, 0.5, 0.55, 0.6], "max_epochs", "", "--trainer.max_epochs"),
    ],
)
def test_epochs_are_counted_from_those_of_the_run(
    values: Values, ended: str, config: str, option: str
) -> None:
    made = report(values, ended)
    (found,) = advise(replace(made, run=replace(made.run, config=config)))
    assert found.option == option
