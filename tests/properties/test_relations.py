"""All kinds of relations against their definitions, pair by pair."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_metric.data import (
    LabelRelations,
    MultiLabelRelations,
    PairRelations,
    Ragged,
    Relations,
    UnionRelations,
)
from tests.data.relations.loops import assert_answers
from tests.peers.cases import count

UNLABELLED = st.sampled_from(["ignored", "negative"])
SEEDS = st.integers(0, 1000)


def fingerprints(data: st.DataObject, items: int) -> Tensor:
    """Of few contents or of many."""
    contents = data.draw(st.sampled_from([max(items // 2, 1), 5 * items]))
    return torch.tensor(data.draw(st.lists(st.integers(0, contents), min_size=items, max_size=items)))


def admitted(labelled: list[bool], prints: list[int], unlabelled: str) -> list[bool]:
    """Which items may be negatives at all."""
    known = {print_ for print_, has in zip(prints, labelled, strict=True) if has}
    return [
        has or (unlabelled == "negative" and print_ not in known)
        for print_, has in zip(prints, labelled, strict=True)
    ]


@given(st.data())
def test_labels(data: st.DataObject) -> None:
    count("property", "relations")
    names = data.draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=12))
    prints, unlabelled = fingerprints(data, len(names)), data.draw(UNLABELLED)
    known = prints.tolist()
    may = admitted([name is not None for name in names], known, unlabelled)

    def positive(a: int, c: int) -> bool:
        return a != c and names[a] is not None and names[a] == names[c]

    def excluded(a: int, c: int) -> bool:
        return names[a] is None or not may[c] or names[a] == names[c] or known[a] == known[c]

    relations = LabelRelations.from_names(names, prints, unlabelled)
    assert_answers(relations, positive, excluded, data.draw(SEEDS))
    labelled = LabelRelations.from_names(names, prints)
    ids = torch.arange(len(names))
    assert torch.equal(relations.labelled_only().excluded(ids, ids), labelled.excluded(ids, ids))


@given(st.data())
def test_several_labels(data: st.DataObject) -> None:
    count("property", "relations")
    rows = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=12))
    prints, unlabelled = fingerprints(data, len(rows)), data.draw(UNLABELLED)
    overlap = data.draw(
        st.sampled_from([Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), Fraction(1)])
    )
    known, may = prints.tolist(), admitted([bool(row) for row in rows], prints.tolist(), unlabelled)

    def share(a: int, c: int) -> Fraction:
        either = {*rows[a]} | {*rows[c]}
        return Fraction(len({*rows[a]} & {*rows[c]}), len(either)) if either else Fraction(0)

    def together(a: int, c: int) -> bool:
        return share(a, c) > 0 and share(a, c) >= overlap

    def excluded(a: int, c: int) -> bool:
        return not rows[a] or not may[c] or together(a, c) or known[a] == known[c]

    relations = MultiLabelRelations(Ragged.from_lists(rows), [*"abcdef"], prints, float(overlap), unlabelled)
    assert_answers(relations, lambda a, c: a != c and together(a, c), excluded, data.draw(SEEDS))
    ids = torch.arange(len(rows))
    expected = [
        [math.nan if a == c or not rows[a] or not rows[c] else float(share(a, c)) for c in ids.tolist()]
        for a in ids.tolist()
    ]
    torch.testing.assert_close(relations.targets(ids, ids), torch.tensor(expected), equal_nan=True)


def judged(
    data: st.DataObject,
) -> tuple[PairRelations, dict[tuple[int, int], float], set[tuple[int, int]], dict]:
    """Random judgements with the relations that they make: both as the relations see them."""
    items = data.draw(st.integers(1, 10))
    pair = st.tuples(st.integers(0, items - 1), st.integers(0, items - 1))
    symmetric = data.draw(st.booleans())
    grades: dict[tuple[int, int], float] = {}
    for (a, c), grade in data.draw(
        st.dictionaries(pair, st.sampled_from([0.0, 1.0, 2.0]), max_size=20)
    ).items():
        if not (symmetric and (c, a) in grades):
            grades[a, c] = grade
    held = {p for p in data.draw(st.sets(pair, max_size=6)) if p not in grades and p[::-1] not in grades}
    options = {
        "positive_from": data.draw(st.sampled_from([None, 1.0, 2.0])),
        "unjudged": data.draw(st.sampled_from(["negative", "ignored"])),
    }
    first, second = torch.tensor([*grades], dtype=torch.int64).reshape(-1, 2).unbind(1)
    left = torch.tensor(sorted(held), dtype=torch.int64).reshape(-1, 2)
    relations = PairRelations(
        first,
        second,
        torch.tensor([*grades.values()]),
        fingerprints(data, items),
        ignored=(left[:, 0], left[:, 1]),
        symmetric=symmetric,
        **options,
    )
    if symmetric:
        grades |= {p[::-1]: grade for p, grade in grades.items()}
        held |= {p[::-1] for p in held}
    return relations, grades, held, options


@given(st.data())
def test_judged_pairs(data: st.DataObject) -> None:
    count("property", "relations")
    relations, grades, held, options = judged(data)
    prints, limit = relations.fingerprints.tolist(), options["positive_from"]

    def good(grade: float) -> bool:
        return grade > 0 if limit is None else grade >= limit

    clashing = {(prints[a], prints[c]) for (a, c), grade in grades.items() if good(grade)}
    clashing |= {(prints[a], prints[c]) for a, c in held}

    def positive(a: int, c: int) -> bool:
        return a != c and (a, c) in grades and good(grades[a, c])

    def excluded(a: int, c: int) -> bool:
        told = (a, c) in grades and not good(grades[a, c])
        unknown = options["unjudged"] == "ignored" and not told
        return unknown or prints[a] == prints[c] or (prints[a], prints[c]) in clashing

    assert_answers(relations, positive, excluded, data.draw(SEEDS))
    ids = torch.arange(len(relations))
    expected = [[grades.get((a, c), math.nan) for c in ids.tolist()] for a in ids.tolist()]
    torch.testing.assert_close(relations.targets(ids, ids), torch.tensor(expected), equal_nan=True)
    given_ = [[c for c in ids.tolist() if (a, c) in grades and not excluded(a, c)] for a in ids.tolist()]
    assert relations.given_negatives(ids).tolist() == given_


@given(st.data())
def test_union(data: st.DataObject) -> None:
    count("property", "relations")
    parts: list[Relations] = []
    for _ in range(data.draw(st.integers(1, 3))):
        names = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=6))
        of_labels = LabelRelations.from_names(names, fingerprints(data, len(names)))
        parts.append(judged(data)[0] if data.draw(st.booleans()) else of_labels)
    where = [(part, torch.tensor(item)) for part in parts for item in range(len(part))]

    def ask(question: str, across: bool, a: int, c: int) -> bool:
        (one, first), (other, second) = where[a], where[c]
        return bool(getattr(one, question)(first, second)) if one is other else across

    assert_answers(
        UnionRelations(parts),
        lambda a, c: ask("positive_pairs", False, a, c),
        lambda a, c: ask("excluded_pairs", True, a, c),
        data.draw(SEEDS),
    )
