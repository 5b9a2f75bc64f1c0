"""Columns become checked items; guesses are stated, and nothing bad passes silently."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from lit_metric.data import BadRows, DataError, Labels, read_table
from tests.data.formats.tables import labelled_items, read, table, texts


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


def test_splits_share_one_guess_and_it_is_said_once(caplog):
    tables = {
        "train": table("train.csv", title=["a", "b"], label=["x", "x"]),
        "validation": table("train.csv", title=["c"], label=["x"]),
        "test": table("test.csv", title=["c"], text=["not taken, as in training"], label=["x"]),
        "predict": table("new.csv", title=["d"]),
    }
    with caplog.at_level(logging.INFO):
        content = read(Labels(), **tables)
    assert [texts(content, name) for name in ("test", "predict")] == [["c"], ["d"]]
    assert caplog.messages == [
        "columns of train.csv, test.csv, new.csv taken by their usual names: text='title', label='label'"
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        content = read(Labels(), **{**tables, "predict": table("new.csv", query=["e"])})
    assert texts(content, "predict") == ["e"]
    assert caplog.messages == [
        "columns of train.csv, test.csv taken by their usual names: text='title', label='label'; "
        "of new.csv taken by their usual names: text='query'"
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        read(Labels(text="title", label="label"), **tables)
    assert caplog.messages == []


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
    assert str(error.value) == (
        "items.csv: 10 bad rows (counted from 1, without a header): column 'text': empty text in rows 2, 3; "
        "column 'text': no text in rows 4, 9; column 'label': no label in rows 7, 8. Fill it in, or drop the "
        "row. Column 'text': an int instead of text in row 5; column 'text': a bool instead of text in row "
        "10. Convert the column to strings, or name another. Column 'text': broken characters (not valid "
        "UTF-8) in row 6. Save the file as UTF-8. Besides, 1 problem of other kinds."
    )
    assert isinstance(error.value, BadRows)
    assert error.value.problems.shortened
    rows = error.value.problems.rows()
    assert [each["row"] for each in rows] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert rows[-1] == {
        "file": "items.csv",
        "row": 11,
        "column": "label",
        "problem": "a list instead of a label",
        "remedy": "Give one string or whole number per row.",
    }


def test_long_reports_are_cut_but_count_everything():
    with pytest.raises(DataError, match=r"40 bad rows .*: empty text in rows 1, 2, 3 and 37 more\. Fill"):
        labelled_items(table(text=[""] * 40, label=["x"] * 40))


def test_bad_tags():
    tags = [["a"], [], None, ["a", None], ["a", ""], 5]
    with pytest.raises(DataError) as error:
        labelled_items(table(tags=tags, label=["x"] * 6))
    report = str(error.value)
    assert "no tags in rows 2, 3." in report
    assert "no text among the tags in row 4;" in report
    assert "empty text among the tags in row 5." in report
    assert "an int instead of a list of tags in row 6." in report


def test_missing_labels_by_permission_only():
    data = table(text=["a", "b", "c"], label=["x", None, float("nan")])
    with pytest.raises(DataError, match="no label in rows 2, 3"):
        labelled_items(data)
    assert labelled_items(data, labelled=False).labels == [None, None, None]
    with pytest.raises(DataError, match="a float instead of a label in row 1"):
        labelled_items(table(text=["a"], label=[0.5]))


def test_fields_give_each_text_its_role():
    data = table(name=["A Film", "B", ""], cast=[["X", "Y"], [], ["Z"]], kinds=[["k"], ["k", "l"], ["l"]])
    content = read(Labels(fields={"title": "name", "actor": "cast"}, labels="kinds"), test=data)
    vocabulary = content.vocabulary
    named = [
        [(vocabulary.role_names[vocabulary.roles[text]], vocabulary.texts[text]) for text in row]
        for row in content.items.texts.tolist()
    ]
    assert named == [
        [("title", "A Film"), ("actor", "X"), ("actor", "Y")], [("title", "B")], [("actor", "Z")]
    ]  # fmt: skip
    relations, ids = content.relations, content.splits["test"]
    assert relations.classes == ["k", "l"]
    assert relations.positive(ids, ids).int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    strict = read(Labels(fields={"t": "name", "c": "cast"}, labels="kinds", overlap=0.6), test=data)
    assert not strict.relations.positive(ids, ids).any()
    empty = table(name=[None], cast=[[]], label=["x"])
    with pytest.raises(DataError, match=r"column 'name \+ cast': no text in any in row 1\. Fill it in"):
        read(Labels(fields={"t": "name", "c": "cast"}), test=empty)


def test_several_labels_as_strings_and_guessed(caplog):
    data = table(text=["a", "b"], genres=["x, y,x", "y"])
    with pytest.raises(
        DataError, match=r"a string instead of a list of labels in rows 1, 2\. .*labels_separator=','"
    ):
        read(Labels(), test=data)
    with caplog.at_level(logging.INFO):
        content = read(Labels(labels_separator=","), test=data)
    assert content.relations.labels.tolist() == [[0, 1], [1]]
    assert caplog.messages == [
        "columns of items.csv taken by their usual names: text='text', labels='genres'"
    ]


def test_weights_belong_to_tags():
    data = table(tags=["a,b,a", "c"], weights=["1,2,3", "0.5"], label=["x", "x"])
    content = read(Labels(tags="tags", tag_separator=",", weights="weights"), test=data)
    assert content.items.texts.tolist() == [[0, 1], [2]]
    assert content.items.weights.tolist() == [3.0, 2.0, 0.5]
    bad = table(tags=[["a"], ["a"], ["a"]], weights=[[1, 2], [0], ["x"]], label=["x"] * 3)
    with pytest.raises(DataError) as error:
        read(Labels(tags="tags", weights="weights"), test=bad)
    assert str(error.value) == (
        "items.csv: 3 bad rows (counted from 1, without a header): column 'weights': 0 among the weights in "
        "row 2; column 'weights': 'x' among the weights in row 3. Weights are numbers above 0. Column "
        "'weights': 2 weights for 1 tags in row 1. Give each tag its weight, in the same order."
    )


def test_items_without_a_label_are_refused_kept_or_left_out(caplog):
    data = table(text=["a", "b", "c", "d"], label=["x", None, "x", ""])
    with pytest.raises(DataError, match="no label in rows 2, 4"):
        read(Labels(), test=data)
    with caplog.at_level(logging.INFO, logger="lit_metric"):
        left = read(Labels(text="text", label="label", unlabelled="ignore"), test=data)
        kept = read(Labels(text="text", label="label", unlabelled="negatives_if_mined"), test=data)
    assert texts(left, "test") == ["a", "c"]
    assert caplog.messages == [
        "2 items of test have no label and are left out",
        "2 items of test have no label: only a miner can make negatives of them",
    ]
    ids = kept.splits["test"]
    assert kept.relations.positive(ids, ids).int().tolist() == [
        [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]
    ]  # fmt: skip
    assert kept.relations.negative(ids, ids).int().tolist() == [
        [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]
    ]  # fmt: skip
    several = table(text=["a", "b"], labels=[["x"], []])
    assert texts(read(Labels(unlabelled="ignore"), test=several), "test") == ["a"]
    with pytest.raises(DataError, match=r"no labels in row 2\. Fill them in, or drop the row"):
        read(Labels(), test=several)


def test_labels_of_another_split_do_not_tell_what_unlabelled_items_are():
    train = table(text=["a", "b", "c", "d"], label=["x", "x", None, None])
    test = table(text=["a", "c"], label=["x", "x"])
    content = read(Labels(unlabelled="negatives_if_mined"), train=train, validation=train, test=test)
    ids = content.splits["train"]
    assert content.relations.negative(ids[:1], ids).tolist() == [[False, False, True, True]]
    assert content.relations.positive(ids[:1], content.splits["test"]).tolist() == [[True, True]]


def test_columns_of_mixed_types():
    with pytest.raises(DataError, match=r"'label': a string where other rows have numbers in row 3"):
        read(Labels(), test=table(text=["a", "b", "c"], label=[1, 2.0, "3"]))


def test_texts_of_several_columns_are_joined():
    data = table(title=["T", None, ""], body=["b", "c", None], label=["x"] * 3)
    with pytest.raises(DataError, match=r"column 'title \+ body': empty text in row 3"):
        read(Labels(text=["title", "body"]), test=data)
    content = read(Labels(text=["title", "body"]), skip=True, test=data)
    assert texts(content, "test") == ["T b", "c"]


def test_every_script_survives(tmp_path):
    strange = ["карта", "信用卡", "بطاقة", "💳👩‍👩‍👧", "a\0b", "e\u0301", "\ufeffx", "x" * 100_000]
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "label": 1}, ensure_ascii=False) + "\n" for text in strange)
    assert texts(read(Labels(), test=read_table(path)), "test") == strange


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label": "a", "labels": "b"}, "label='a' and labels='b' were both given"),
        ({"text": "a", "fields": {"t": "b"}}, r"text='a' and fields={'t': 'b'} were both given"),
        ({"weights": "w"}, "weights='w' need tags; name the column of tags with tags="),
        ({"overlap": 2.0}, r"overlap is a share of labels, in \[0, 1\], not 2.0"),
        ({"unlabelled": "drop"}, "unlabelled must be 'error', 'negatives_if_mined' or 'ignore', not 'drop'"),
    ],
)
def test_options_that_make_no_sense(options, told):
    with pytest.raises(ValueError, match=told):
        Labels(**options)


def test_each_row_goes_where_its_column_says():
    data = table(text=["one", "two", "three"], label=["a", "b", "a"], part=["train", "test", "val"])
    content = read(Labels(split="part"), train=data)
    told = {name: texts(content, name) for name in ("train", "validation", "test")}
    assert told == {"train": ["one"], "validation": ["three"], "test": ["two"]}
    data = table(text=["one", "two"], label=["a", "b"], part=["train", "other"])
    with pytest.raises(DataError, match=r"'part': 'other' in row 2\. Use one of 'train', 'validation'"):
        read(Labels(split="part"), train=data)
    with pytest.raises(DataError, match=r"split='part' says that a column of train= names the splits"):
        read(Labels(split="part"), train=data, test=data)


@pytest.mark.skipif(
    "LIT_METRIC_DATA" not in os.environ, reason="LIT_METRIC_DATA does not name a folder of real data"
)
def test_real_films():
    source = Path(os.environ["LIT_METRIC_DATA"]) / "movies" / "movies.parquet"
    content = read(
        Labels(fields={"title": "title", "cast": "cast"}, labels="genres"), test=read_table(source)
    )
    assert len(content.items) == 35_662
    assert len(content.relations.classes) == 41
    rows = read_table(source).column("cast")
    # 562 films have no cast, so nothing but a title.
    assert int((content.items.texts.lengths == 1).sum()) >= sum(not cast for cast in rows) == 562
