"""Labels that hide something: told with counts and examples, merged on demand only."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from lit_metric.data import Dataset, Labels
from lit_metric.data.formats.classes import unify_names
from tests.data.formats.tables import read, table, texts

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
WAYS = ["Card", "card", "card ", "CARD", "Card", COMPOSED, DECOMPOSED, "rate", "rate"]


def classes(content: Dataset, split: str = "train") -> list[str]:
    """The class of each item of a split."""
    return [
        content.relations.classes[label] for label in content.relations.labels[content.splits[split]].tolist()
    ]


def data(labels: list[object]) -> dict[str, object]:
    return {"train": table(text=[f"text {row}" for row in range(len(labels))], label=labels)}


def read_all(labels: list[object], **options: bool) -> Dataset:
    """With a validation split that takes nothing away."""
    tables = data(labels)
    return read(Labels(**options), **tables, validation=table(text=["v"], label=labels[:1]))  # type: ignore[arg-type]


def test_ways_of_writing_are_told_and_kept_apart(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        content = read_all(WAYS)
    assert classes(content) == WAYS
    assert caplog.messages == [
        "2 labels are written in several ways (case, blanks, Unicode form), and each way is a class: "
        r"'Card' (3) and 'CARD' (1) and 'card' (1) and 'card ' (1); 'cafe\u0301' (1) and 'caf\xe9' (1). "
        "normalize_labels=True makes them one"
    ]


def test_they_are_merged_on_demand_under_the_most_frequent_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        content = read_all(WAYS, normalize_labels=True)
    assert Counter(classes(content)) == {"Card": 5, DECOMPOSED: 2, "rate": 2}
    assert "labels that differ in case, blanks or Unicode form are one class: 'Card' (3) and" in caplog.text
    # Items of several labels likewise, each label once.
    several = read(
        Labels(normalize_labels=True),
        train=table(text=["a", "b"], labels=[["Card", "card", "rate"], ["card", "Rate"]]),
        validation=table(text=["c"], labels=[["card"]]),
    )
    names = several.relations.classes
    rows = [[names[label] for label in row] for row in several.relations.labels.tolist()]
    assert rows == [["Rate", "card"], ["Rate", "card"], ["card"]]


def test_labels_without_hidden_differences_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert classes(read_all(["007", "7", "v1.0", "v1", "a-b", "ab"])) == [
            "007",
            "7",
            "v1.0",
            "v1",
            "a-b",
            "ab",
        ]
    assert not caplog.messages


def test_whole_numbers_are_one_class_however_a_table_wrote_them(caplog: pytest.LogCaptureFixture) -> None:
    train = table("train.csv", text=["a", "b", "c", "d"], label=["0.0", "1.0", "0.0", "1.0"])
    test = table("test.csv", text=["e", "f"], label=["0", "1"])
    with caplog.at_level(logging.INFO):
        content = read(Labels(), train=train, validation=train, test=test)
    assert (classes(content), classes(content, "test")) == (["0", "1", "0", "1"], ["0", "1"])
    assert "2 of them are read without a point: '0.0' as '0', '1.0' as '1'" in caplog.text
    # Ratings and versions are names.
    assert unify_names({"0.5": 1, "1.0": 1}, normalize=False) == {}
    assert unify_names({"1.0": 1, "1": 1, "beta": 1}, normalize=False) == {}
    assert unify_names({"-1.00": 1, "007": 1}, normalize=False) == {"-1.00": "-1"}


@pytest.mark.parametrize("said", ["nan", "None", "N/A", " NULL ", "<NA>"])
def test_cells_that_say_that_nothing_is_there(caplog: pytest.LogCaptureFixture, said: str) -> None:
    rows = ["one", said, "two", said, "three", said, "four", said]
    with caplog.at_level(logging.WARNING):
        content = read(
            Labels(),
            train=table(text=rows, label=["x"] * 8),
            validation=table("v.csv", text=["a"], label=[said]),
        )
    assert texts(content, "train") == rows
    assert caplog.messages == [
        f"4 texts of column 'text' of items.csv say {said!r} (rows 2, 4, 6 and 1 more), and are read as "
        "texts; leave cells empty that are missing values",
        f"1 item has the label {said!r}, and so a class; leave the cell empty where that means that there "
        "is no label",
    ]


def test_numbers_and_class_names_may_be_several_a_row() -> None:
    content = read(
        Labels(),
        train=table(text=["a", "b"], labels=[[0, 1], [1.0, 2]]),
        validation=table(text=["c"], labels=[["2"]]),
    )
    assert content.relations.classes == ["0", "1", "2"]
    assert content.relations.labels.tolist() == [[0, 1], [1, 2], [2]]
