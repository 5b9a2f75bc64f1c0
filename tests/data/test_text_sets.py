"""Rows of texts by numbers are the same rows, and make the same items."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lit_metric.data import DataError, Dataset, Items, LabelRelations, Vocabulary
from lit_metric.data.dataset import union
from lit_metric.data.text_sets import TextSets


def drawn(count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    return [[f"t{draw.randrange(30)}" for _ in range(draw.randrange(5))] for _ in range(count)]


def once(rows: list[list[str]]) -> list[list[str]]:
    return [list(dict.fromkeys(row)) for row in rows]


def test_rows_are_read_as_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.data.text_sets.BLOCK", 7)
    rows = drawn(50, seed=0)
    sets = TextSets.of(rows)
    assert [*sets] == once(rows)
    assert sets == once(rows)
    assert sets != once(rows)[1:]
    assert [sets[place] for place in range(-50, 50)] == once(rows) * 2
    assert sets[3:40:9] == once(rows)[3:40:9]
    with pytest.raises(IndexError):
        sets[50]
    places = np.array([4, 49, 4, 0, 17])
    assert [*sets.select(places)] == [once(rows)[place] for place in places.tolist()]
    assert [*sets.select(places[:0])] == []
    others = drawn(20, seed=1)
    assert [*TextSets.joined([sets.select(places), TextSets.of(others)])] == [
        *(once(rows)[place] for place in places.tolist()),
        *once(others),
    ]


def test_items_are_those_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.data.items.BLOCK", 7)
    rows = drawn(60, seed=2)
    places = np.array([*range(30, 60), *range(10)])
    found, vocabulary = Items.encode(TextSets.of(rows).select(places), "set")
    expected, words = Items.encode([rows[place] for place in places.tolist()], "set")
    assert vocabulary.texts == words.texts
    assert vocabulary.digest == words.digest
    assert found.texts.tolist() == expected.texts.tolist()
    assert found.texts.values.dtype == torch.int64
    assert torch.equal(found.fingerprints, expected.fingerprints)
    for name in ("roles", "weights"):
        given = {name: [["x"] * len(row) if name == "roles" else [1.0] * len(row) for row in once(rows)]}
        found, vocabulary = Items.encode(TextSets.of(rows), "set", **given)  # type: ignore[arg-type]
        assert found.texts.tolist() == Items.encode(once(rows), "set", **given)[0].texts.tolist()  # type: ignore[arg-type]


def test_half_a_character_is_refused_with_its_item() -> None:
    with pytest.raises(DataError, match=r"U\+D800 at character 1 of item 2"):
        Vocabulary.encode(TextSets.of([["a"], ["b"], ["a\ud800"]]))


@pytest.mark.parametrize("kind", ["text", "set"])
def test_a_mixture_has_the_items_of_one_list(kind: str) -> None:
    rows = [drawn(40, seed=3), drawn(25, seed=4)]
    if kind == "text":
        rows = [[[*row, "t0"][:1] for row in part] for part in rows]
    parts = {}
    for number, part in enumerate(rows):
        items, vocabulary = Items.encode(part, kind)  # type: ignore[arg-type]
        relations = LabelRelations.from_names(["a"] * len(part), items.fingerprints)
        parts[f"p{number}"] = Dataset(items, vocabulary, relations, {"train": torch.arange(len(part))})
    whole = union(parts)
    expected, words = Items.encode([*rows[0], *rows[1]], kind)  # type: ignore[arg-type]
    assert [*whole.vocabulary.texts] == words.texts
    assert whole.items.texts.tolist() == expected.texts.tolist()
    assert torch.equal(whole.items.fingerprints, expected.fingerprints)
    assert whole.items.keys is None
