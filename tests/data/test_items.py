"""Items, their fingerprints, and several splits in one space of ids."""

from __future__ import annotations

import pytest

from lit_metric.data import DataError, Items


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


def test_a_text_in_two_roles_is_two_texts_of_the_same_content():
    items, vocabulary = Items.encode(
        [["a"], ["b"], ["a"], ["a"]], roles=["document", "query", "query", "document"]
    )
    assert items.role_names == ["query", "document"]
    assert items.roles.tolist() == [1, 0, 0, 1]
    assert vocabulary.texts == ["a", "b", "a"]
    assert [vocabulary.role_names[role] for role in vocabulary.roles] == ["document", "query", "query"]
    assert items.texts.tolist() == [[0], [1], [2], [0]]
    plain, _ = Items.encode([["a"], ["b"], ["a"], ["a"]])
    assert items.fingerprints.tolist() == plain.fingerprints.tolist()


def test_queries_have_the_number_0_also_where_there_are_none():
    items, _ = Items.encode([["a"], ["b"]], roles=["cast", "title"])
    assert (items.role_names, items.roles.tolist()) == (["query", "cast", "title"], [1, 2])


def test_roles_of_texts_leave_items_without_one():
    items, vocabulary = Items.encode(
        [["x", "y", "x"], ["x", "x"], []], kind="set", roles=[["title", "cast", "cast"], ["cast", "cast"], []]
    )
    assert items.roles is None
    assert items.texts.tolist() == [[0, 1, 2], [2], []]
    assert [
        (vocabulary.role_names[role], text)
        for role, text in zip(vocabulary.roles, vocabulary.texts, strict=True)
    ] == [
        ("title", "x"),
        ("cast", "y"),
        ("cast", "x"),
    ]
    plain, _ = Items.encode([["x", "y"], ["x"], []], kind="set")
    assert items.fingerprints.tolist() == plain.fingerprints.tolist()


def test_weights_stay_with_their_texts_and_of_repeats_the_largest_counts():
    rows, weights = [["a", "b", "a"], [], ["b"]], [[0.5, 2, 3], [], [0.25]]
    items, _ = Items.encode(rows, kind="set", weights=weights)
    assert items.texts.tolist() == [[0, 1], [], [1]]
    assert items.weights.tolist() == [3.0, 2.0, 0.25]
    plain, _ = Items.encode(rows, kind="set")
    assert plain.weights is None
    assert items.fingerprints.tolist() == plain.fingerprints.tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"roles": ["query"]}, DataError, "1 roles were given for 2 items"),
        ({"roles": [["a"], ["b", "c"]]}, DataError, "item 0 has 2 texts and 1 roles for them"),
        ({"roles": [["a", 3], ["b"]]}, TypeError, "role 1 is 3, a int; roles are strings"),
        ({"roles": [["a", "b"], "c"]}, TypeError, "the roles of item 1 are the string 'c'"),
        ({"weights": [[1, 2]]}, DataError, "1 weights were given for 2 items"),
        ({"weights": [[1, 2], [1, 2]]}, DataError, "item 1 has 1 texts and 2 weights for them"),
        ({"weights": [[1, 2], [0]]}, DataError, "item 1: the weight of 'c' is 0; it has to be above 0"),
        ({"weights": [[1, float("nan")], [1]]}, DataError, "item 0: the weight of 'b' is nan"),
        ({"kind": "text", "weights": [[1, 2], [1]]}, ValueError, "weights say how much each text of a set"),
        (
            {"roles": [[f"r{i}{j}" for j in range(70)] for i in range(2)], "rows": [["x"] * 70] * 2},
            DataError,
            "there are 140 roles",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        Items.encode(**{"rows": [["a", "b"], ["c"]], "kind": "set", **options})
