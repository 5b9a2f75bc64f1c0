"""Rows that are only encoded become the same items in blocks as when all are read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_metric.data import DataError, Judgements, Labels, Pairs, Problems, Supervision, Triples
from lit_metric.data.rows_to_encode import Block, RowsToEncode
from tests.small import write_csv

TEXTS = {"text": ["a b", "c", "a b", "d", "e"]}


def opened(source: Any, supervision: Supervision | None = None, **others: Any) -> RowsToEncode:
    rows = RowsToEncode.open([({**others, "predict": source}, supervision)])
    assert rows is not None
    return rows


def contents(block: Block) -> list[list[str]]:
    return [[block.vocabulary.texts[text] for text in row] for row in block.items.texts.tolist()]


def test_blocks_have_all_rows_in_order() -> None:
    rows = opened(TEXTS)
    rows.survey(2, Problems())
    blocks = [*rows.blocks(range(3))]
    assert [block.rows.tolist() for block in blocks] == [[0, 1], [2, 3], [4]]
    assert [text for block in blocks for [text] in contents(block)] == TEXTS["text"]
    assert (rows.starts, rows.kept) == ([0, 2, 4, 5], [2, 2, 1])
    assert [block.number for block in rows.blocks([2, 0])] == [0, 2]


def test_bad_rows_are_left_out_or_refused() -> None:
    source = {"text": ["a", None, "", "b", "c"]}
    rows = opened(source)
    rows.survey(2, Problems(skip=True))
    assert rows.kept == [1, 1, 1]
    assert [block.rows.tolist() for block in rows.blocks([0, 1, 2])] == [[0], [3], [4]]
    with pytest.raises(DataError, match="2 bad rows"):
        rows.survey(2, Problems())
    with pytest.raises(DataError, match="no row of predict= can be used"):
        opened({"text": ["", " "]}, Labels(text="text")).survey(2, Problems(skip=True))


def test_the_digest_is_of_content_and_rows(tmp_path: Path) -> None:
    def digest(texts: list[str], block_rows: int = 2) -> str:
        source = write_csv(tmp_path / "rows.csv", [(text,) for text in texts], ["text"])
        return opened(source).survey(block_rows, Problems(skip=True))

    first = digest(["a", "b", "c"])
    assert first == digest(["a", "b", "c"])
    assert len({first, digest(["a", "c", "b"]), digest(["a", "b", "d"]), digest(["a", "", "b", "c"])}) == 4


def test_several_sources_follow_each_other() -> None:
    data_sets = [({"predict": {"text": list("abc")}}, None), ({"predict": {"text": list("de")}}, None)]
    rows = RowsToEncode.open(data_sets)
    assert rows is not None
    rows.survey(2, Problems())
    assert rows.starts == [0, 2, 3, 5]
    assert [block.rows.tolist() for block in rows.blocks([1, 2])] == [[2], [3, 4]]


def test_columns_are_those_of_other_splits_where_there_are_such() -> None:
    train = {"question": ["x y"], "intent": ["i"]}
    rows = opened({"text": ["no"], "question": ["yes"]}, train=train)
    rows.survey(9, Problems())
    assert contents(next(rows.blocks([0]))) == [["yes"]]
    rows = opened({"text": ["yes"]}, train=train)
    rows.survey(9, Problems())
    assert contents(next(rows.blocks([0]))) == [["yes"]]
    with pytest.raises(DataError, match="texts in all splits or sets in all splits"):
        opened({"tags": [["a"]]}, train=train)
    with pytest.raises(DataError, match="no column of texts"):
        opened({"words": ["a"]})


def test_items_of_sets_keep_roles_and_weights() -> None:
    source = {"tags": [["a", "b"], ["b"]], "w": [[1.0, 2.0], [0.5]]}
    rows = opened(source, Labels(tags="tags", weights="w"))
    rows.survey(9, Problems())
    block = next(rows.blocks([0]))
    assert block.items.kind == "set"
    assert block.items.weights is not None
    assert (contents(block), block.items.weights.tolist()) == ([["a", "b"], ["b"]], [1.0, 2.0, 0.5])
    rows = opened(
        {"name": ["n", "m"], "words": [["a"], []]}, Labels(fields={"title": "name", "tag": "words"})
    )
    rows.survey(9, Problems())
    block = next(rows.blocks([0]))
    assert block.vocabulary.roles is not None
    roles = [block.vocabulary.role_names[number] for number in block.vocabulary.roles.tolist()]
    assert (contents(block), roles) == ([["n", "a"], ["m"]], ["title", "tag", "title"])


NOTHING: dict[str, list[str]] = {"id": [], "text": []}


@pytest.mark.parametrize(
    ("supervision", "column", "role"),
    [
        (Pairs(anchor="said", positive="text", symmetric=False), "said", "document"),
        (Pairs(anchor="said", positive="text"), "said", None),
        (Judgements(queries=NOTHING, corpus=NOTHING), "text", "document"),
        (Judgements(queries=NOTHING, corpus=NOTHING, text="said"), "said", "document"),
        (Triples(entities=NOTHING), "text", "document"),
    ],
)
def test_items_beside_judged_texts_have_the_role_of_answers(
    supervision: Supervision, column: str, role: str | None
) -> None:
    rows = opened({"text": ["a", "b"], "said": ["c", "d"]}, supervision)
    rows.survey(9, Problems())
    block = next(rows.blocks([0]))
    assert contents(block) == ([["c"], ["d"]] if column == "said" else [["a"], ["b"]])
    if role is None:
        assert block.items.roles is None
        assert block.vocabulary.roles is None
    else:
        assert block.items.roles is not None
        assert [block.items.role_names[number] for number in block.items.roles.tolist()] == [role, role]
        assert block.vocabulary.role_names == [role]


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = opened(write_csv(path, [("a",), ("b",), ("c",)], ["text"]))
    rows.survey(2, Problems())
    write_csv(path, [("a",), ("b",)], ["text"])
    with pytest.raises(DataError, match="other rows than at the start"):
        [*rows.blocks([0, 1])]


class Own(Labels):
    """One that needs all rows at once."""

    def items_to_encode(self, table: Any, other: Any = None) -> Any:
        return None


def test_nothing_is_opened_where_all_rows_are_needed() -> None:
    assert RowsToEncode.open([({"predict": TEXTS}, Own(text="text"))]) is None
    assert RowsToEncode.open([({"predict": None, "train": TEXTS}, None)]) is None
