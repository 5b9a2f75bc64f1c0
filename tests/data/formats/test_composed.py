"""Queries of a reference and an edit, and what they search."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lit_metric.data import Composed, DataError, Dataset
from tests.data.formats.tables import read, table


def rows(**columns: list[Any]) -> Any:
    return table("edits.csv", **columns)


REFERENCES = ["a GTK editor", "a GTK editor", "a Qt player", "12 a game"]
EDITS = ["Qt, not GTK", "in Lisp", "GTK, not Qt", "a \n tool"]
TARGETS = [["a Qt editor"], ["a Lisp editor", "Emacs"], ["a GTK player"], ["a GTK editor"]]


def words(content: Dataset, item: int) -> list[str]:
    return [content.vocabulary.texts[text] for text in content.items.texts[item].tolist()]


def test_queries_have_two_texts_in_order_and_targets_one() -> None:
    content = read(Composed(), train=rows(reference=REFERENCES, edit=EDITS, target=TARGETS), share=0.0)
    queries, corpus = content.splits["train"], content.splits["corpus"]
    assert content.corpus_of("train") == "corpus"
    assert [words(content, int(each)) for each in queries] == [
        list(each) for each in zip(REFERENCES, EDITS, strict=True)
    ]
    assert {text for each in corpus for text in words(content, int(each))} == {
        text for row in TARGETS for text in row
    }
    known = content.relations.targets(queries, corpus)
    found = {
        (place, words(content, int(corpus[column]))[0]) for place, column in (known == 1).nonzero().tolist()
    }
    assert found == {(place, text) for place, row in enumerate(TARGETS) for text in row}
    assert content.planned == "pairs"
    assert content.items.kind == "set"


def test_a_reference_that_is_a_target_elsewhere_is_a_negative_in_the_role_of_targets() -> None:
    content = read(Composed(), train=rows(reference=REFERENCES, edit=EDITS, target=TARGETS), share=0.0)
    queries, corpus = content.splits["train"], content.splits["corpus"]
    [place] = [row for row, each in enumerate(corpus.tolist()) if words(content, each) == ["a GTK editor"]]
    reference = content.items.texts[int(queries[0])][0]
    assert content.items.texts[int(corpus[place])].tolist() == [int(reference)]  # one text, encoded once
    assert not content.relations.positive(queries[:1], corpus[place : place + 1]).any()
    assert not content.relations.excluded(queries[:1], corpus[place : place + 1]).any()
    roles = [
        content.vocabulary.role_names[int(content.vocabulary.roles[text])]  # type: ignore[index]
        for text in content.items.texts[int(queries[0])].tolist()
    ]
    assert roles == ["document", "query"]
    named = [content.items.role_names[int(content.items.roles[item])] for item in (queries[0], corpus[0])]  # type: ignore[index]
    assert named == ["query", "document"]


def test_rows_of_one_query_are_one_item_and_a_turned_query_is_another() -> None:
    content = read(
        Composed(),
        train=rows(reference=["a", "a", "b"], edit=["b", "b", "a"], target=["x", "y", "z"]),
        share=0.0,
    )
    queries = content.splits["train"]
    assert [words(content, int(each)) for each in queries] == [["a", "b"], ["b", "a"]]
    assert len(content.items.fingerprints[queries].unique()) == 2
    positives = content.relations.positive(queries, content.splits["corpus"])
    assert positives.sum(1).tolist() == [2, 1]


def test_all_splits_search_the_targets_of_all_and_held_out_queries_stay_whole() -> None:
    count = 20
    content = read(
        Composed(),
        train=rows(
            reference=[f"r{row // 2}" for row in range(count)],
            edit=["e"] * count,
            target=[f"t{row}" for row in range(count)],
        ),
        test=rows(reference=["r", "s"], edit=["e", "e"], target=["t", "t0"]),
        share=0.3,
    )
    assert len(content.splits["corpus"]) == count + 1
    assert [content.corpus_of(split) for split in ("train", "validation", "test")] == ["corpus"] * 3
    assert len(content.splits["validation"]) == 3
    assert not torch.isin(content.splits["validation"], content.splits["train"]).any()
    positives = content.relations.positive(content.splits["validation"], content.splits["corpus"])
    assert positives.sum(1).tolist() == [2, 2, 2]  # both rows of a query went along


def test_a_column_of_splits_and_texts_to_predict() -> None:
    content = read(
        Composed("like", "but", "found"),
        train=rows(
            like=["a", "b", "c"], but=["x", "x", "x"], found=["d", "e", "f"], split=["train", "test", "train"]
        ),
        predict=rows(found=["g"]),
        share=0.0,
    )
    assert [words(content, int(each)) for each in content.splits["test"]] == [["b", "x"]]
    assert [words(content, int(each)) for each in content.splits["predict"]] == [["g"]]


def test_bad_rows_are_named() -> None:
    bad = rows(
        reference=["a", "b", "c", None, "e"],
        edit=["a", "x", "x", "x", " "],
        target=["t", ["b", "t"], [], "t", "t"],
    )
    with pytest.raises(DataError) as caught:
        read(Composed(), train=bad)
    message = str(caught.value)
    for part in (
        r"column 'edit'",
        "the edit is the same text as the reference",
        "a target is the same text as the reference",
        "no targets",
        "no text",
        "empty text",
    ):
        assert part in message
    with pytest.raises(DataError, match="like"):
        read(Composed("like"), train=rows(reference=["a"], edit=["b"], target=["c"]))
