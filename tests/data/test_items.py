"""Items, their fingerprints, and several splits in one space of ids."""

from __future__ import annotations

import pytest

from lit_metric.data import DataError, Items, concatenate


def equal(items: Items) -> list[tuple[int, int]]:
    prints = items.fingerprints.tolist()
    return [(i, j) for i in range(len(items)) for j in range(i) if prints[i] == prints[j]]


def test_texts_are_equal_when_they_are_the_same_characters():
    items, vocabulary = Items.encode([["a"], ["b"], ["a"], ["a "], ["A"], ["a\x00"], ["b"]])
    assert equal(items) == [(2, 0), (6, 1)]
    assert vocabulary.texts == ["a", "b", "a ", "A", "a\x00"]
    assert items.texts.tolist() == [[0], [1], [0], [2], [3], [4], [1]]


def test_sets_are_equal_whatever_the_order_and_repeats():
    rows = [["a", "b"], ["b", "a"], ["a", "a", "b"], ["a"], ["a", "c"], [], ["ab"], []]
    items, _ = Items.encode(rows, kind="set")
    assert equal(items) == [(1, 0), (2, 0), (2, 1), (7, 5)]
    assert items.texts.tolist() == [[0, 1], [1, 0], [0, 1], [0], [0, 2], [], [3], []]


@pytest.mark.parametrize("kind", ["text", "set"])
def test_fingerprints_depend_on_nothing_but_the_content(kind):
    alone, _ = Items.encode([["x"]], kind=kind)
    later, _ = Items.encode([["p"], ["q"], ["x"]], kind=kind)
    assert alone.fingerprints[0] == later.fingerprints[2]


def test_no_fingerprint_of_many_sets_collides():
    items, _ = Items.encode([[str(i), str(j)] for i in range(200) for j in range(i)], kind="set")
    assert len(set(items.fingerprints.tolist())) == len(items) == 19_900


def test_one_text_each_and_as_many_keys_as_items():
    with pytest.raises(DataError, match=r"item 1 has 2 texts.*kind='set'"):
        Items.encode([["a"], ["b", "c"]])
    with pytest.raises(DataError, match="item 1 has 0 texts"):
        Items.encode([["a"], []])
    with pytest.raises(DataError, match="1 keys were given for 2 items"):
        Items.encode([["a"], ["b"]], keys=["x"])
    with pytest.raises(ValueError, match="kind must be"):
        Items.encode([["a"]], kind="bag")
    with pytest.raises(TypeError, match="item 0 is the string"):
        Items.encode(["ab"], kind="set")


def test_splits_share_ids_and_texts():
    rows, splits = concatenate({"train": [["a"], ["b"]], "validation": [], "test": [["a"], ["c"]]})
    assert {name: ids.tolist() for name, ids in splits.items()} == {
        "train": [0, 1],
        "validation": [],
        "test": [2, 3],
    }
    items, vocabulary = Items.encode(rows)
    assert len(vocabulary) == 3
    assert equal(items) == [(2, 0)]
