"""Columns become checked items; guesses are stated, and nothing bad passes silently."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lit_metric.data import DataError, Table, labelled_items
from lit_metric.data.table import Part


def table(**columns: list[Any]) -> Table:
    rows = len(next(iter(columns.values())))
    return Table([Part("items.csv", rows, list(columns), columns.__getitem__)])


def test_named_columns_are_taken_as_they_are():
    items = labelled_items(
        table(body=["a", "b"], title=["x", "y"], kind=[3, 4.0], name=["one", None]),
        text="body",
        label="kind",
        key="name",
    )
    assert (items.rows, items.labels, items.kind, items.keys) == (
        [["a"], ["b"]],
        ["3", "4"],
        "text",
        ["one", ""],
    )
    assert len(items) == 2


def test_usual_names_are_guessed_and_said(caplog):
    data = table(Utterance=["a"], tags=[["t"]], Intent=["i"])
    with caplog.at_level(logging.INFO, logger="lit_metric"):
        items = labelled_items(data)
    assert (items.rows, items.labels) == ([["a"]], ["i"])
    assert [record.message for record in caplog.records] == [
        "columns of items.csv taken by their usual names: text='Utterance', label='Intent'"
    ]
    assert labelled_items(table(keywords=[["t"]], section=["s"])).kind == "set"


def test_what_cannot_be_guessed_is_asked_for_with_the_columns_there_are():
    with pytest.raises(DataError, match=r"text= or tags=. items.csv has 'words', 'label'"):
        labelled_items(table(words=["a"], label=["b"]))
    with pytest.raises(DataError, match=r"name it with label=. items.csv has 'text', 'sort'"):
        labelled_items(table(text=["a"], sort=["b"]))
    with pytest.raises(DataError, match=r"no column 'texts'; it has 'text', 'label'"):
        labelled_items(table(text=["a"], label=["b"]), text="texts")
    with pytest.raises(DataError, match="one or the other"):
        labelled_items(table(text=["a"], tags=[["b"]], label=["b"]), text="text", tags="tags")


def test_tags_as_lists_and_as_strings():
    lists = labelled_items(table(tags=[["b", "a", "b"], ["c"]], label=["x", "y"]), tags="tags")
    assert lists.rows == [["b", "a"], ["c"]]
    strings = labelled_items(table(tags=["b , a,, b", "c"], label=["x", "y"]), tags="tags", tag_separator=",")
    assert strings.rows == [["b", "a"], ["c"]]
    with pytest.raises(DataError, match=r"a string instead of a list of tags in rows 1, 2. .*tag_separator"):
        labelled_items(table(tags=["b, a", "c"], label=["x", "y"]), tags="tags")


def test_all_bad_rows_are_reported_together():
    texts = ["fine", "", "  ", None, 7, "bro" + chr(0xD800), "fine", "fine", float("nan"), True, "fine"]
    labels = ["x", "y", "z", "x", "x", "x", None, "", "x", "x", ["a", "b"]]
    with pytest.raises(DataError) as error:
        labelled_items(table(text=texts, label=labels))
    assert str(error.value).splitlines() == [
        "10 bad values (rows are counted from 1, without a header):",
        "- items.csv, column 'text': empty text in rows 2, 3. Fill it in, or drop the row.",
        "- items.csv, column 'text': no text in rows 4, 9. Fill it in, or drop the row.",
        "- items.csv, column 'text': an int instead of text in row 5. "
        "Convert the column to strings, or name another.",
        "- items.csv, column 'text': broken characters (not valid UTF-8) in row 6. Save the file as UTF-8.",
        "- items.csv, column 'text': a bool instead of text in row 10. "
        "Convert the column to strings, or name another.",
        "- items.csv, column 'label': no label in rows 7, 8. Fill it in, or drop the row.",
        "- items.csv, column 'label': a list instead of a label in row 11. "
        "Give one string or whole number per row.",
    ]


def test_long_reports_are_cut_but_count_everything():
    with pytest.raises(
        DataError, match=r"40 bad values .*\n.* in rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 30 more"
    ):
        labelled_items(table(text=[""] * 40, label=["x"] * 40))


def test_bad_tags():
    tags = [["a"], [], None, ["a", None], ["a", ""], 5]
    with pytest.raises(DataError) as error:
        labelled_items(table(tags=tags, label=["x"] * 6))
    report = str(error.value)
    assert "no tags in rows 2, 3." in report
    assert "no text among the tags in row 4." in report
    assert "empty text among the tags in row 5." in report
    assert "an int instead of a list of tags in row 6." in report


def test_missing_labels_by_permission_only():
    data = table(text=["a", "b", "c"], label=["x", None, float("nan")])
    with pytest.raises(DataError, match="no label in rows 2, 3"):
        labelled_items(data)
    assert labelled_items(data, labelled=False).labels == [None, None, None]
    with pytest.raises(DataError, match="a float instead of a label in row 1"):
        labelled_items(table(text=["a"], label=[0.5]))
