"""Edits carried over to another text, and the rows that they add."""

from __future__ import annotations

import logging

import pytest

from lit_metric.data import CounterpartPairs, DataError, Pairs, read_table, transfer_edit
from tests.data.formats.tables import known, read


@pytest.mark.parametrize(
    ("text", "edited", "other", "expected"),
    [
        # A replaced word, wherever it stands in the other text.
        ("a black dog on grass", "a white dog on grass", "there is a black dog", "there is a white dog"),
        # Two words change places; both replacements come from the text before.
        ("a man bites a dog", "a dog bites a man", "The dog, bitten by a man", "The man, bitten by a dog"),
        # A capital stays.
        ("two cats sleep", "two birds sleep", "Cats are asleep, two", "Birds are asleep, two"),
        ("Blue sky, white sea", "White sky, blue sea", "The sea white, sky blue", "The sea blue, sky white"),
        # Several words, and a word that falls away.
        ("a dog next to a car", "a dog on a car", "next to a car, a dog", "on a car, a dog"),
        ("a very old tree", "a old tree", "the tree is very old", "the tree is old"),
        # An added word goes with the word behind it, or before it at the end.
        ("a tree stands", "a green tree stands", "there stands a tree", "there stands a green tree"),
        ("birds fly", "birds fly home", "there, birds fly", "there, birds fly home"),
        # A word that isn't there, a word inside of another one, and nothing to do.
        ("a red bus", "a blue bus", "a scarlet coach", None),
        ("a car", "a van", "a carpet", None),
        ("a car", "a car", "a car", None),
    ],
)  # fmt: skip
def test_edits_by_hand(text: str, edited: str, other: str, expected: str | None) -> None:
    assert transfer_edit(text, edited, other) == expected


ROWS = [
    {"caption": "a black dog", "caption2": "the dog is black", "negative": "a white dog", "subset": "att"},
    {"caption": "a red bus", "caption2": "a scarlet coach", "negative": "a blue bus", "subset": "obj"},
]


def supervision() -> CounterpartPairs:
    return CounterpartPairs("caption", "caption2", "negative", group="subset")


def test_both_texts_get_a_counterpart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = known(read(supervision(), train=read_table(ROWS), validation=read_table(ROWS[1:])), "train")
    assert found == {
        ("a black dog", "the dog is black", 1.0),
        ("a black dog", "the dog is white", 0.0),
        ("a white dog", "the dog is white", 1.0),
        ("a white dog", "the dog is black", 0.0),
        ("a red bus", "a scarlet coach", 1.0),  # the edited word isn't there, so the row stays as it is
        ("a red bus", "a blue bus", 0.0),
    }
    assert "1 of 2 training rows have a counterpart" in caplog.text


def test_only_training_rows_are_changed() -> None:
    tables = {"train": read_table(ROWS[1:]), "test": read_table(ROWS[:1])}
    ours, plain = (
        known(read(kind("caption", "caption2", "negative"), **tables), "test")
        for kind in (CounterpartPairs, Pairs)
    )
    assert ours == plain
    assert ("a black dog", "a white dog", 0.0) in ours


@pytest.mark.parametrize("split", ["auto", "part"])
def test_rows_of_other_splits_in_the_same_table_stay(split: str) -> None:
    column = "split" if split == "auto" else split
    rows = [
        {
            **ROWS[0],
            column: name,
            "caption": f"{name}: a black dog",
            "negative": f"{name}: a white dog",
        }
        for name in ("train", "val", "test")
    ]
    data = read(
        CounterpartPairs("caption", "caption2", "negative", split=split),
        train=read_table([{**ROWS[1], column: "train"}, *rows]),
    )
    assert ("train: a white dog", "the dog is white", 1.0) in known(data, "train")
    for name, written in (("validation", "val"), ("test", "test")):
        assert known(data, name) == {
            (f"{written}: a black dog", "the dog is black", 1.0),
            (f"{written}: a black dog", f"{written}: a white dog", 0.0),
        }


def test_other_columns_go_along_and_rows_keep_their_places() -> None:
    table = supervision().with_counterparts(read_table(ROWS))
    assert table.column("subset") == ["att", "obj", "att"]
    assert table.column("negative") == ["the dog is white", "a blue bus", "the dog is black"]
    assert table.place(1) == read_table(ROWS).place(1)
    assert table.place(2)[0].startswith("counterparts of ")


def test_a_bad_row_is_reported_at_its_place() -> None:
    rows = [*ROWS, {**ROWS[0], "caption": None}]
    with pytest.raises(DataError, match=r"column 'caption'.*row 3"):
        read(supervision(), train=read_table(rows))


def test_what_it_needs() -> None:
    with pytest.raises(DataError, match="one column of negatives, negative=, and no score"):
        CounterpartPairs(negative=["a", "b"])
    with pytest.raises(DataError, match="one column of negatives, negative=, and no score"):
        CounterpartPairs(score="s")
    table = read_table([{"anchor": "a", "positive": "b"}])
    with pytest.raises(
        DataError, match=r"needs one column of negatives: name it with negative=\. .* has 'anchor'"
    ):
        read(CounterpartPairs(), train=table)
