"""What to do next, by rules with their evidence."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from lit_metric.report.problems import STRONG
from lit_metric.report.structure import Advice, Curve, Report

MOST = 4
"""Pieces of advice at most."""
COLLAPSED_COSINE = 0.9
"""Mean cosine of random pairs above which nearly all items lie in one direction."""
COLLAPSED_SHARE = 0.1
"""Effective dimensions after, as a share of those before, below which the space has collapsed."""
FALSE_SHARE = 0.1
SWALLOWED = 0.25
"""Share of all confusions that one class may take."""
FEWEST_CONFUSED = 20
"""Confused items below which no class is said to swallow others."""
LARGER = 3.0
"""How many times as large as the typical class a class is that swallows others."""
RISE = 0.002
"""Change of a validation metric that counts."""
SUSPECTED = 0.01
LEAKED = 0.01


def advise(report: Report) -> list[Advice]:
    """The advice for a run, the most important first; none for a run in which nothing is wrong.

    The rules look for: a collapsed space, results below those of the untrained encoder, leaks between splits,
    many likely false negatives, many suspected labels, validation that fell after its best value or still
    rose at the end, and a class that takes other classes' neighbours.
    """
    if report.comparison is not None:  # two runs, of which neither is before the other
        return []
    rules: list[Callable[[Report], Advice | None]] = [
        _collapse,
        _worse,
        _leaks,
        _false_negatives,
        _suspects,
        _validation,
        _swallowing,
    ]
    found = [advice for rule in rules if (advice := rule(report)) is not None]
    return found[:MOST]


def _collapse(report: Report) -> Advice | None:
    if report.health is None:
        return None
    cosine_before, cosine = report.health.mean_cosine
    width_before, width = report.health.effective_dimensions
    reasons = []
    if cosine is not None and cosine > COLLAPSED_COSINE and cosine > (cosine_before or 0.0) + 0.05:
        reasons.append(
            f"random pairs of items have a mean cosine of {cosine:.2f} (before: {_of(cosine_before)})"
        )
    if width is not None and width_before is not None and width < COLLAPSED_SHARE * width_before:
        reasons.append(f"the vectors use {width:.1f} effective dimensions (before: {width_before:.1f})")
    if not reasons:
        return None
    return Advice(
        "The space has collapsed: train again with a lower learning rate.", "; ".join(reasons), "--model.lr"
    )


def _of(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _worse(report: Report) -> Advice | None:
    if not report.metrics:
        return None
    main = report.metrics[0]
    before, after, change = main.before.value, main.after.value, main.change
    if before is None or after is None or main.better == "":
        return None
    sign = -1 if main.better == "lower" else 1
    bound = change.high if sign > 0 else change.low
    # With an interval, all of it must be on the wrong side.
    if sign * (after - before) >= 0 or (bound is not None and sign * bound >= 0):
        return None
    return Advice(
        "Training made it worse: stop here, and keep the untrained encoder until a lower learning rate or "
        "other data help.",
        f"{main.name} was {before:.4f} before and is {after:.4f} after",
        "--model.lr",
    )


def _leaks(report: Report) -> Advice | None:
    splits, more = _at_least(report, "leaks", "equal_texts", True)
    leaked = len(splits)
    measured = (each for each in report.splits if each.name.rpartition("/")[2] == report.measured_split)
    items = sum(each.items_shown for each in measured)
    if not leaked or not items or leaked < max(2, LEAKED * items):
        return None
    return Advice(
        "Leave the leaks out of training and measure again: the results are too high. Leave out those with "
        "equal texts under Problems in the data, and save exclude.csv.",
        f"{leaked}{more} training items are in another split, too; {items} items were measured",
        "--data.exclude exclude.csv",
    )


def _false_negatives(report: Report) -> Advice | None:
    share = None if report.negatives is None else report.negatives.false_negative_share
    if share is None or share <= FALSE_SHARE:
        return None
    return Advice(
        "Many mined negatives probably belong to their anchor: mine with a larger margin, such as "
        "RelativeMargin(margin=0.1).",
        f"{share:.0%} of the kept candidates of sampled anchors are likely false negatives",
        "--data.miner.filters",
    )


def _validation(report: Report) -> Advice | None:
    curve = _watched(report)
    if curve is None or len(curve.values) < 3:
        return None
    values = curve.values
    best = max(range(len(values)), key=values.__getitem__)
    fell = values[best] - values[-1]
    if best < len(values) - 1 and fell > max(RISE, 0.02 * abs(values[best])):
        return Advice(
            "Validation fell after its best value: train for fewer epochs, or stop early.",
            f"{curve.name} was {values[best]:.4f} at step {curve.steps[best]}, and at last {values[-1]:.4f}",
            _epochs(report, curve.steps[best] / max(curve.steps[-1], 1)),
        )
    rose = values[-1] - values[-2]
    # The last rise also matters beside what the whole run gained.
    if best == len(values) - 1 and rose > max(RISE, 0.05 * (values[-1] - values[0])):
        if report.run.ended not in ("max_epochs", "max_steps"):
            return None
        return Advice(
            "Validation was still rising at the end: train for more epochs.",
            f"{curve.name} rose from {values[-2]:.4f} to {values[-1]:.4f} in the last validation",
            _epochs(report, 2.0),
        )
    return None


def _epochs(report: Report, factor: float) -> str:
    """The option that multiplies the run's epochs; it has no number if something else ended the run."""
    option = "--trainer.max_epochs"
    if report.run.ended != "max_epochs":
        return option
    try:
        epochs = int(yaml.safe_load(report.run.config)["trainer"]["max_epochs"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return option
    return f"{option} {max(1, round(factor * epochs))}" if epochs > 0 else option


def _watched(report: Report) -> Curve | None:
    """The curve of the main metric in validation, for which higher is better."""
    if not report.metrics or report.metrics[0].better != "higher":
        return None
    name = report.metrics[0].name
    return next((each for each in report.run.curves if each.name == f"val/{name}"), None)


def _suspects(report: Report) -> Advice | None:
    splits, more = _at_least(report, "suspected labels", "suspicion", STRONG)
    suspects, items = len(splits), len(report.items)
    if not items or suspects <= max(2, SUSPECTED * items):
        return None
    return Advice(
        "Look at the suspected labels first: wrong labels hold back training and falsify results. Decide "
        "about them under Problems in the data, and save both files.",
        f"{suspects}{more} of {items} labels have much against them (a suspicion of {STRONG:g} or more)"
        f"{_most_in(report, splits)}",
        "--data.exclude exclude.csv --data.corrections corrections.csv",
    )


def _most_in(report: Report, splits: list[str]) -> str:
    """In which split they are, if they are three times as frequent there as elsewhere: one split for each."""
    for number, name in enumerate(report.items.splits):
        size, count = int((report.items.split == number).sum()), splits.count(name)
        others, elsewhere = len(report.items) - size, len(splits) - count
        if others and size and count / size > 3 * max(elsewhere, 1) / others:
            return f"; {count} of them are among the {size} items of {name}"
    return ""


def _at_least(report: Report, name: str, column: str, bound: float) -> tuple[list[str], str]:
    """The split of each row of a list that reaches a bound; " or more" if all rows that are shown do."""
    splits: list[str] = []
    more = ""
    for each in report.problems:
        if each.name == name:
            place, split = each.columns.index(column), each.columns.index("of_split")
            splits += (strong := [row[split] for row in each.rows if row[place] >= bound])
            more = " or more" if len(strong) == len(each.rows) < each.total else more
    return splits, more


def _swallowing(report: Report) -> Advice | None:
    total = sum(each.count for each in report.confusions)
    sizes = sorted(each.train_size or each.size for each in report.classes)
    if total < FEWEST_CONFUSED or len(sizes) < 3:
        return None
    taken: dict[int, int] = {}
    for each in report.confusions:
        taken[each.second] = taken.get(each.second, 0) + each.count
    worst = max(taken, key=taken.__getitem__)
    size = next((each.train_size or each.size for each in report.classes if each.label == worst), 0)
    typical = sizes[len(sizes) // 2]
    share = taken[worst] / total
    if share <= SWALLOWED or size < LARGER * typical:
        return None
    return Advice(
        f"The class {report.items.labels[worst]!r} takes neighbours of others: weigh classes by their size.",
        f"{share:.0%} of all {total} confusions are with it; it has {size} items, the median class {typical}",
        "--model.loss ClassWeightedLoss",
    )
