"""Write docs/methods.md from docs/methods.template, the entries of the recipe book, and docs/methods.json.

    python -m docs.build_methods                                       # after a change of an entry
    python -m docs.build_methods --measured runs/methods/methods.json  # after make methods

What is not measured is said to be, and nothing stands in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods.corpora import CORPORA
from benchmarks.methods.entries import RECIPES, Claim, Entry, entries
from benchmarks.results import Spread, shown
from docs.build_losses import TITLES, fill, write

FOLDER = Path(__file__).parent
TEMPLATE, PAGE, MEASURED = FOLDER / "methods.template", FOLDER / "methods.md", FOLDER / "methods.json"
NOT_YET = "not measured yet"


def claims(known: Mapping[str, Entry], found: Mapping[str, Any]) -> str:
    """The table of measured claims, each with the difference that decided and its two intervals; below it,
    what is still to be measured, and which measured entries make no claim."""
    lines = ["| | claim | here | difference | over seeds | over queries |", "| --- " * 6 + "|"]
    left: list[str] = []
    silent: list[str] = []
    for entry in known.values():
        link = f"[{entry.key}](#{slug(entry)})"
        measured = {claim["words"]: claim for claim in found.get(entry.key, {}).get("claims", ())}
        for claim in entry.claims:
            cells = outcome(claim, measured.get(claim.words))
            if cells is None:
                left.append(link)
            else:
                lines.append(f"| {' | '.join([link, claim.words, *cells])} |".replace("|  |", "| |"))
        if not entry.claims:
            (silent if entry.key in found else left).append(link)
    if left:
        lines += ["", fill(f"{NOT_YET.capitalize()}: {', '.join(dict.fromkeys(left))}.")]
    if silent:
        lines += ["", fill(f"Measured, and no claim: {', '.join(silent)}.")]
    return "\n".join(lines)


def outcome(claim: Claim, measured: Mapping[str, Any] | None) -> list[str] | None:
    """What became of a claim, and the numbers behind it; None if it isn't measured.

    Example:
        >>> outcome(Claim("A helps", "a", "b", "map@r"), None) is None
        True
    """
    if measured is None or measured["difference"] is None:
        return None
    difference = measured["difference"]
    title = TITLES.get(claim.measure, f"`{claim.measure}`")
    bounds = [interval(difference[name]) for name in ("over_seeds", "over_queries")]
    return [f"**{measured['outcome']}**", f"{signed(difference['mean'])} {title}", *bounds]


def interval(bounds: Sequence[float] | None) -> str:
    """The bounds of an interval, a dash for none.

    Example:
        >>> interval((-0.01, 0.02)), interval(None)
        ('−0.010 … +0.020', '–')
    """
    if bounds is None:
        return "–"
    return " … ".join(map(signed, bounds))


def signed(number: float) -> str:
    """Three digits with a sign, which 0 has none of; two from ten on.

    Example:
        >>> signed(-0.2534), signed(0.0001), signed(13.27)
        ('−0.253', '0.000', '+13.27')
    """
    digits = 2 if abs(number) >= 10 else 3
    return f"{0:.{digits}f}" if not round(number, digits) else f"{number:+.{digits}f}".replace("-", "−")


def slug(entry: Entry) -> str:
    """The anchor of an entry's section."""
    title = f"{entry.key} {entry.title}".lower()
    return "".join(letter for letter in title if letter.isalnum() or letter in "_- ").replace(" ", "-")


def section(entry: Entry, found: Mapping[str, Any] | None) -> str:
    """What the page says of an entry."""
    parts = [
        f"## {entry.key} {entry.title}",
        fill(" ".join(entry.what.split())),
        fill(f"**Formula.** {entry.formula}"),
        fill(f"**Source.** {entry.source}."),
        fill(f"**When.** {' '.join(entry.when.split())}"),
        *turn_on(entry),
        f"**What it did here.** {words_of(entry)}"
        if found
        else f"**What it did here.** {NOT_YET.capitalize()}.",
    ]
    if found:
        parts[-1] = fill(parts[-1])
        parts.append(table(entry, found))
        if entry.note:
            parts.append(fill(" ".join(entry.note.split())))
    return "\n\n".join([*parts, fill(f"**Cost.** {' '.join(entry.cost.split())}")])


def turn_on(entry: Entry) -> list[str]:
    """The recipe's own lines."""
    if entry.recipe is None:
        return ["**How.** It is always on."]
    lines = (RECIPES / f"{entry.recipe}.yaml").read_text(encoding="utf-8").splitlines()
    yaml = "\n".join(line for line in lines if not line.startswith("#"))
    return [f"**How.** `--config recipes/{entry.recipe}`, which is", f"```yaml\n{yaml}\n```"]


def words_of(entry: Entry) -> str:
    """The corpus, the budget and the seeds, in a sentence."""
    corpora = dict.fromkeys([entry.corpus, *entry.corpora.values()])
    where = "; ".join(CORPORA[name].words for name in corpora)
    if not any(entry.budget_of(arm) for arm in entry.arms):
        return f"{where}; nothing is trained."
    return f"{where}. {entry.budget:,} encoded items in each fit, {entry.seeds} seeds."


def table(entry: Entry, found: Mapping[str, Any]) -> str:
    """A row for each arm, and how it differs from the first that was trained on the same corpus."""
    names = [*entry.measures, *entry.logged]
    titles = [TITLES.get(name, f"`{name}`") for name in names]
    baselines = [*dict.fromkeys(filter(None, map(entry.baseline, entry.arms)))]
    versus = [f"against *{' / '.join(baselines)}*"] if baselines else []
    lines = [f"| arm | rate | {' | '.join([*titles, 'seconds', *versus])} |"]
    lines.append("| --- " * (len(titles) + 3 + len(versus)) + "|")
    for arm in entry.arms:
        row = found["arms"].get(arm)
        if row is None:
            continue
        figures = [
            shown(Spread(**row["test"][name]), entry.digits) if name in row.get("test", {}) else ""
            for name in names
        ]
        seconds = f"{row['cost']['seconds']['mean']:.0f}" if "cost" in row else ""
        lost = [
            f"{row['status'].count(word)} of {len(row['status'])} {word}"
            for word in ("collapsed", "diverged")
        ]
        remarks = [each for each in lost if not each.startswith("0")]
        remarks += ["rate at the edge of its grid"] if row["at_edge"] else []
        against = found["against"].get(arm)
        verdict = ["" if against is None else against["verdict"]] if baselines else []
        rate = "" if row["lr"] is None or not entry.budget_of(arm) else f"{row['lr']:g}"
        name = arm if not remarks else f"{arm} ({', '.join(remarks)})"
        lines.append(f"| {' | '.join([name, rate, *figures, seconds, *verdict])} |".replace("|  |", "| |"))
    return "\n".join(lines)


def page() -> str:
    """The whole of docs/methods.md."""
    found = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    known = entries()
    sections = "\n\n".join(section(entry, found.get(entry.key)) for entry in known.values())
    template = TEMPLATE.read_text(encoding="utf-8")
    return template.replace("{{claims}}", claims(known, found)).replace("{{sections}}", sections)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    write(arguments, "docs.build_methods", __doc__, MEASURED, PAGE, page)


if __name__ == "__main__":
    main()
