"""Items of texts and of sets share one vocabulary; what they contain decides what is equal."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lit_metric.data import DataError, Items, Vocabulary
from lit_metric.data.items import surrogate_at


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


ROWS = [["b", "a"], [], ["a"], ["a\x00", "a", "ä", "a\x00b"]]


def test_numbers_point_back_to_the_texts():
    vocabulary, rows = Vocabulary.encode(ROWS)
    assert vocabulary.texts == ["b", "a", "a\x00", "ä", "a\x00b"]
    assert [[vocabulary.texts[number] for number in row] for row in rows.tolist()] == ROWS
    assert len(vocabulary) == 5


def test_fingerprints_are_blake2b_of_the_bytes():
    vocabulary, _ = Vocabulary.encode(ROWS)
    expected = [
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
        for text in vocabulary.texts
    ]
    assert vocabulary.fingerprints.dtype == torch.int64
    assert vocabulary.fingerprints.tolist() == expected


def test_digest_tells_apart_what_plain_joining_would_not():
    digests = {
        Vocabulary(texts).digest for texts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["", "ab"])
    }
    assert len(digests) == 5
    assert Vocabulary(["a", "b"]).digest == Vocabulary(["a", "b"]).digest


def test_lone_surrogates_are_refused_with_their_place():
    with pytest.raises(DataError, match=r"3 texts .* U\+D83D at character 2 of item 1.*utf-16"):
        Vocabulary.encode([["fine \U0001f600"], ["ok\ud83d", "x"], ["ok\ud83d"], ["\udc80"]])


def test_surrogate_pairs_made_of_two_halves_are_lone_too():
    assert surrogate_at("a\ud83d\ude00") == 1
    assert surrogate_at("a\U0001f600") is None


@pytest.mark.parametrize(
    ("rows", "message"), [([["a"], "bc"], "item 1 is the string"), ([["a", 3]], "item 0 holds 3")]
)
def test_what_is_no_text_is_refused(rows, message):
    with pytest.raises(TypeError, match=message):
        Vocabulary.encode(rows)


def test_roles_take_part_in_the_digest_and_leave_it_alone_where_there_are_none():
    rows = [["a"], ["b"]]
    vocabularies = [
        Vocabulary.encode(rows, roles)[0]
        for roles in (None, [["q"], ["q"]], [["q"], ["d"]], [["d"], ["q"]], [["qd"], ["q"]])
    ]
    assert len({vocabulary.digest for vocabulary in vocabularies}) == 5
    # what it was before there were roles: caches of token ids stay good
    state = hashlib.sha256()
    for text in ("a", "b"):
        state.update((1).to_bytes(8, "little") + text.encode())
    assert vocabularies[0].digest == state.hexdigest()
