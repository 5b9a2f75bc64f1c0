"""Rows of texts by numbers are the same rows, and make the same items."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_metric.data import DataError, Dataset, Items, LabelRelations, Vocabulary
from lit_metric.data.dataset import union
from lit_metric.data.text_sets import SetWriter, TextSets
from lit_metric.data.texts import Texts


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


Judged = dict[tuple[str, str], float]


def largest(rows: list[list[str]], roles: list[list[str]] | None, weights: list[list[float]]) -> list[Judged]:
    """By item, the largest weight of each (role, text), in the order of their first places."""
    found: list[Judged] = [{} for _ in rows]
    for row, texts in enumerate(rows):
        for place, text in enumerate(texts):
            key = ("" if roles is None else roles[row][place], text)
            found[row][key] = max(found[row].get(key, 0.0), weights[row][place])
    return found


@pytest.mark.parametrize("with_roles", [False, True])
@pytest.mark.parametrize("on_disk", [False, True])
def test_roles_and_weights_stay_with_their_texts(
    with_roles: bool, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_metric.data.text_sets.BLOCK", 7)
    draw = random.Random(5)
    rows = drawn(60, seed=6)
    roles = [[draw.choice("ab") for _ in row] for row in rows] if with_roles else None
    weights = [[draw.randrange(1, 9) / 8 for _ in row] for row in rows]  # exact in float32
    sets = TextSets.of(rows, roles, weights)
    if on_disk:
        sets.names = Texts.of(sets.names)
    expected = largest(rows, roles, weights)
    assert [*sets] == [[text for _, text in row] for row in expected]
    assert sets.role_rows() == ([[role for role, _ in row] for row in expected] if with_roles else None)
    assert sets.weight_rows() == [[*row.values()] for row in expected]

    places = np.array([*range(40, 60), 3])
    plain = drawn(10, seed=7)
    whole = TextSets.joined([sets.select(places), TextSets.of(plain)])
    expected = [expected[place] for place in places.tolist()]
    expected += [{("", text): 1.0 for text in row} for row in once(plain)]
    assert [*whole] == [[text for _, text in row] for row in expected]
    assert whole.role_rows() == ([[role for role, _ in row] for row in expected] if with_roles else None)
    assert whole.weight_rows() == [[*row.values()] for row in expected]

    items, vocabulary = Items.encode(whole, "set")
    words, numbers = numbered([[*row] for row in expected])
    assert [*vocabulary.texts] == [text for _, text in words]
    assert items.texts.tolist() == numbers
    assert items.weights is not None
    assert items.weights.tolist() == [weight for row in expected for weight in row.values()]
    if with_roles:
        assert vocabulary.roles is not None
        names = [vocabulary.role_names[role] for role in vocabulary.roles.tolist()]
        assert names == [role for role, _ in words]


def numbered(rows: list[list[tuple[str, str]]]) -> tuple[list[tuple[str, str]], list[list[int]]]:
    words = list(dict.fromkeys(each for row in rows for each in row))
    return words, [[words.index(each) for each in row] for row in rows]


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("most", [5, 1000])
def test_many_texts_are_numbered_as_few_are(
    repeats: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_metric.data.text_sets.IN_MEMORY", most)
    rows = drawn(50, seed=8)
    with SetWriter(repeats=repeats) as writer:
        for row in rows:
            writer.append(row)
    expected = rows if repeats else once(rows)
    assert [*writer.sets] == expected
    assert isinstance(writer.sets.names, Texts) == (most == 5)
    assert [*writer.sets.names] == list(dict.fromkeys(text for row in rows for text in row))
    vocabulary, texts = Vocabulary.encode(writer.sets)
    words, ids = Vocabulary.encode(expected)
    assert [*vocabulary.texts] == words.texts
    assert texts.tolist() == ids.tolist()
    assert vocabulary.digest == words.digest


@pytest.mark.parametrize("most", [5, 1000])
def test_fields_are_laid_side_by_side(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_metric.data.text_sets.IN_MEMORY", most)
    columns = {name: drawn(30, seed=seed) for seed, name in enumerate(("title", "tag", "cast"))}
    written = {}
    for name, rows in columns.items():
        with SetWriter() as writer:
            for row in rows:
                writer.append(row)
        written[name] = writer.sets
    whole = TextSets.fields(written)
    expected = [
        [(name, text) for name, row in zip(columns, rows, strict=True) for text in dict.fromkeys(row)]
        for rows in zip(*columns.values(), strict=True)
    ]
    assert [*whole] == [[text for _, text in row] for row in expected]
    assert whole.role_rows() == [[role for role, _ in row] for row in expected]


def test_other_names_merge_texts() -> None:
    rows = drawn(40, seed=9)
    new = {f"t{number}": f"t{number % 4}" for number in range(20)}
    found = TextSets.of(rows).renamed(new)
    assert [*found] == [list(dict.fromkeys(new.get(text, text) for text in row)) for row in rows]
    assert found.weights is None


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


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_mixture_keeps_roles_and_weights(on_disk: bool) -> None:
    draw = random.Random(10)
    rows, given, parts = [], [], {}
    for number, with_roles in enumerate((True, False)):
        own = once(drawn(30, seed=11 + number))
        roles = [[draw.choice("ab") if with_roles else "" for _ in row] for row in own]
        weights = None if number else [[draw.randrange(1, 9) / 8 for _ in row] for row in own]
        items, vocabulary = Items.encode(own, "set", None, roles if with_roles else None, weights)
        if on_disk:
            vocabulary = replace(vocabulary, texts=Texts.of(vocabulary.texts))
        relations = LabelRelations.from_names(["a"] * len(own), items.fingerprints)
        parts[f"p{number}"] = Dataset(items, vocabulary, relations, {"train": torch.arange(len(own))})
        rows += [[*zip(roles[row], texts, strict=True)] for row, texts in enumerate(own)]
        given += [weight for row in weights or [[1.0] * len(row) for row in own] for weight in row]
    whole = union(parts)
    words, numbers = numbered(rows)
    assert whole.items.texts.tolist() == numbers
    assert whole.items.weights is not None
    assert whole.items.weights.tolist() == given
    assert whole.vocabulary.roles is not None
    names = [whole.vocabulary.role_names[role] for role in whole.vocabulary.roles.tolist()]
    assert [*zip(names, whole.vocabulary.texts, strict=True)] == words


def test_a_mixture_keeps_the_roles_of_items() -> None:
    roles = [["query", "document", "query"], ["document", "answer"]]
    texts = [["a", "b", "b"], ["b", "a"]]
    parts = {}
    for number in range(2):
        rows = [[text] for text in texts[number]]
        items, vocabulary = Items.encode(rows, roles=roles[number])
        relations = LabelRelations.from_names(["a"] * len(rows), items.fingerprints)
        parts[f"p{number}"] = Dataset(items, vocabulary, relations, {"train": torch.arange(len(rows))})
    whole = union(parts)
    assert whole.items.roles is not None
    assert whole.items.role_names == ["query", "document", "answer"]
    assert whole.items.roles.tolist() == [0, 1, 0, 1, 2]
    assert whole.vocabulary.roles is not None
    assert [*whole.vocabulary.texts] == ["a", "b", "b", "a"]
    assert [whole.vocabulary.role_names[role] for role in whole.vocabulary.roles.tolist()] == [
        "query",
        "document",
        "query",
        "answer",
    ]
    assert whole.items.texts.tolist() == [[0], [1], [2], [1], [3]]
