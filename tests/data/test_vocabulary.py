"""Texts are numbered once, by first appearance, and what is no text is refused with its place."""

from __future__ import annotations

import hashlib

import pytest
import torch

from lit_metric.data import DataError, Vocabulary
from lit_metric.data.items import surrogate_at

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
