"""The entries of the recipe book, one YAML file each in ``benchmarks/methods/entries``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import yaml

from benchmarks.methods.corpora import CORPORA
from benchmarks.methods.verdicts import Expected
from benchmarks.results import REPOSITORY, BenchmarkError

FOLDER = Path(__file__).parent / "entries"
RECIPES = REPOSITORY / "configs" / "recipes"


@dataclass(frozen=True)
class Claim:
    """What the literature, or the idea, says.

    Args:
        words: the claim, as a sentence.
        arm: which should differ.
        against: from which.
        measure: in what.
        expected: ``up``, ``down``, ``same`` or ``not lower``.
    """

    words: str
    arm: str
    against: str
    measure: str
    expected: Expected = "up"


@dataclass(frozen=True)
class Entry:
    """A method, and how it is measured.

    Args:
        key: such as ``B5``, or ``C26-STAR`` for one of several of a paper.
        title: of its section.
        what: it is, in plain words.
        formula: in one line.
        source: the paper.
        when: to use it.
        cost: of using it, in words.
        recipe: the name of its file in ``configs/recipes``, without the ending; None where there is nothing
            to turn on.
        base: the shipped config that the recipe adds to.
        corpus: the name of one of ``CORPORA``.
        corpora: of single arms, if they differ.
        arms: options by the name of an arm, as a YAML has them; the key ``recipe`` takes the recipe, too.
        claims: what should come out.
        measures: of test items; the first chooses the learning rate on validation items.
        digits: of figures in the table.
        common: options of all arms.
        budget: items that each fit encodes.
        budgets: of single arms, if they differ.
        lrs: learning rates to choose from; a single one is not searched beyond.
        seeds: fits at the chosen rate.
        logged: figures of training whose means come with each fit.
        probe: the name of a function in ``benchmarks/methods/probes.py`` that measures; None for the usual.
        note: what a reader must know about the figures.
    """

    key: str
    title: str
    what: str
    formula: str
    source: str
    when: str
    cost: str
    corpus: str
    arms: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...]
    measures: tuple[str, ...]
    recipe: str | None = None
    base: str = "banking77"
    corpora: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    budget: int = 25_600
    budgets: Mapping[str, int] = field(default_factory=dict)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    seeds: int = 3
    logged: tuple[str, ...] = ()
    probe: str | None = None
    digits: int = 3
    note: str = ""

    def corpus_of(self, arm: str) -> str:
        """The corpus of an arm."""
        return self.corpora.get(arm, self.corpus)

    def budget_of(self, arm: str) -> int:
        """The items that a fit of an arm encodes."""
        return self.budgets.get(arm, self.budget)

    def baseline(self, arm: str) -> str | None:
        """The first arm that is trained on the corpus of this one; None if that is itself, or if it isn't."""
        corpus = self.corpus_of(arm)
        trained = [each for each in self.arms if self.budget_of(each) and self.corpus_of(each) == corpus]
        return trained[0] if arm in trained[1:] else None

    def parts(self, arm: str) -> list[dict[str, Any]]:
        """The options of an arm beyond those of its corpus: one mapping after another, as a YAML has them."""
        options = dict(self.arms[arm])
        found = [dict(self.common)]
        if options.pop("recipe", False):
            recipe = yaml.safe_load((RECIPES / f"{self.recipe}.yaml").read_text(encoding="utf-8"))
            encoder = recipe.get("model", {}).get("encoder", {})
            if encoder and "class_path" not in encoder:  # of the class that the corpus has
                recipe["model"]["encoder"] = {"init_args": encoder}
            found.append(recipe)
        return [part for part in [*found, options] if part]


def load(path: Path) -> Entry:
    """The entry in a file.

    Raises:
        BenchmarkError: the file says something that an entry doesn't have, or leaves out what it needs.
    """
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {each.name for each in fields(Entry)}
    if odd := sorted({*given} - known):
        raise BenchmarkError(f"{path}: an entry has no {', '.join(odd)}; it has {', '.join(sorted(known))}")
    try:
        claims = tuple(Claim(**claim) for claim in given.pop("claims", ()))
        lists = {name: tuple(given[name]) for name in ("measures", "lrs", "logged") if name in given}
        entry = Entry(**{**given, **lists}, claims=claims)
    except TypeError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    for claim in claims:
        for arm in (claim.arm, claim.against):
            if arm not in entry.arms:
                raise BenchmarkError(f"{path}: a claim names the arm {arm!r}; arms: {', '.join(entry.arms)}")
        if claim.measure not in (*entry.measures, *entry.logged) or claim.expected not in get_args(Expected):
            raise BenchmarkError(
                f"{path}: {claim.words!r} needs one of {', '.join(entry.measures)}, and one of "
                f"{', '.join(get_args(Expected))}"
            )
    for name in (entry.corpus, *entry.corpora.values()):
        if name not in CORPORA:
            raise BenchmarkError(f"{path}: there is no corpus {name!r}; take one of {', '.join(CORPORA)}")
    return entry


def entries() -> dict[str, Entry]:
    """All, by key, in the order of letters and numbers."""
    found = [load(path) for path in sorted(FOLDER.glob("*.yaml"))]

    def place(entry: Entry) -> tuple[str, int, str]:
        number, _, rest = entry.key[1:].partition("-")
        return entry.key[0], int(number), rest

    return {entry.key: entry for entry in sorted(found, key=place)}
