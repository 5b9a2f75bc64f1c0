"""Names of classes that differ in little, and the classes that are held out for validation."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest

from lit_metric import MetricDataModule
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


Sizes = dict[str, int]


def split(share: float, sizes: Sizes, **options: Any) -> tuple[Sizes, Sizes]:
    """How many items of each class are trained on and held out."""
    rows = [(f"text {row} of {name}", name) for name, size in sizes.items() for row in range(size)]
    data = MetricDataModule(
        train={"text": [text for text, _ in rows], "label": [name for _, name in rows]},
        validation_share=share,
        **options,
    )
    data.read()
    labels, classes = data.relations.labels, data.relations.classes
    counts = [Counter(classes[label] for label in labels[data.splits[name]].tolist()) for name in data.splits]
    assert sum(counts, Counter()) == Counter(sizes)
    return dict(counts[0]), dict(counts[1]) if len(counts) > 1 else {}


def of(count: int, size: int) -> Sizes:
    return {f"c{number:04}": size for number in range(count)}


def test_sixteen_labels_of_ten() -> None:
    train, held = split(0.1, of(16, 10))
    assert set(train.values()) == {8}
    assert held == of(16, 2)


@pytest.mark.parametrize(("count", "size"), [(3, 10), (14, 6), (2, 4), (77, 100), (5, 25)])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_every_class_that_is_held_out_from_has_two_on_both_sides(count: int, size: int, share: float) -> None:
    train, held = split(share, of(count, size))
    assert len(held) >= 2
    assert min(held.values()) >= 2
    assert min(train.values()) >= 2


def test_many_small_classes_do_not_give_much_more_than_the_share() -> None:
    _, held = split(0.1, of(400, 5))
    assert set(held.values()) == {2}
    assert sum(held.values()) == 2 * 0.1 * 400 * 5
    # Where rounding is enough, the share is that of each class.
    assert split(0.2, of(10, 20))[1] == of(10, 4)


@pytest.mark.parametrize("size", [2, 3])
def test_classes_that_are_too_small_to_be_split_go_as_a_whole(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train, held = split(0.1, of(100, size))
    assert (len(train), len(held)) == (90, 10)
    assert {*train.values(), *held.values()} == {size}
    told = "all of 10 of the 100 classes that are too small to be split"
    assert f"{10 * size} of {100 * size} training items are held out for validation: {told}" in caplog.text


def test_a_few_small_classes_stay_in_training() -> None:
    train, held = split(0.1, {**of(100, 2), "large": 150, "other": 60})
    assert held == {"large": 15, "other": 6}
    assert sum(size == 2 for size in train.values()) == 100


def test_where_most_items_are_in_small_classes_both_kinds_give_some() -> None:
    train, held = split(0.1, {**of(100, 3), "large": 40, "other": 60})
    assert (held.pop("large"), held.pop("other")) == (4, 6)
    assert list(held.values()) == [3] * 10
    assert not {*held} & {*train}


def test_training_items_are_neighbours_too_where_they_are_searched() -> None:
    # One item of a class is enough then, and a class of which none is trained on would be of no use.
    train, held = split(0.1, of(20, 3), validation_corpus="train")
    assert set(train.values()) <= {2, 3}
    assert set(held.values()) == {1}
    # Nothing can be measured of halves of pairs: none are torn apart.
    assert split(0.1, of(20, 2), validation_corpus="train") == (of(20, 2), {})


def test_too_few_to_hold_anything_out(caplog: pytest.LogCaptureFixture) -> None:
    assert split(0.1, of(3, 2)) == (of(3, 2), {})
    assert "nothing is held out for validation" in caplog.text
    assert split(0.1, of(3, 3)) == (of(3, 2), of(3, 1))
    data = MetricDataModule(train={"text": ["a", "b", "c", "d"], "label": ["x", "x", "y", "y"]})
    data.read()
    with pytest.raises(ValueError, match="there is no validation split: give validation="):
        data.val_dataloader()


def test_several_labels_hold_out_two_at_least() -> None:
    rows = [["a", "b"], ["a"], ["b"], ["a", "c"], ["c"], ["b"]]
    content = read(Labels(), share=0.1, train=table(text=[*"uvwxyz"], labels=rows))
    assert len(content.splits["validation"]) == 2


def test_labels_that_training_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    train = {"text": [f"t{row}" for row in range(8)], "label": ["a", "b"] * 4}

    def told(**other: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            MetricDataModule(train=train, **other).read()
        return [message for message in caplog.messages if "occurs in training" in message]

    assert told(test={"text": ["x", "y", "z"], "label": ["A!", "B!", "B!"]}) == [
        "none of the 3 test items has a class that occurs in training: 'A!', 'B!' there, 'a', 'b' in "
        "training. That is right for new classes, and wrong if labels are written differently"
    ]
    [message] = told(validation={"text": ["x", "y", "z"], "label": ["a", "c", "c"]})
    assert message.startswith(
        "1 of the 3 validation items has a class that occurs in training: 'c' there, 'a', 'b'"
    )
    assert not told(test={"text": ["x", "y"], "label": ["a", "c"]})
    train = {"text": ["s", "t", "u", "v"], "labels": [["a"], ["a", "b"], ["b"], ["b"]]}
    assert not told(test={"text": ["x"], "labels": [["b", "c"]]})
    assert len(told(test={"text": ["x"], "labels": [["c"]]})) == 1


def test_classes_of_one_item_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        split(0.1, {"many": 9, "more": 9, **{f"one{number:02}": 1 for number in range(10)}})
    assert (
        "10 classes have one training item, and serve as negatives and neighbours only: 'one00', 'one01', "
        "'one02', 'one03', 'one04', 'one05', 'one06', 'one07' and 2 more"
    ) in caplog.text
