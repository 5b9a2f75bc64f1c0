"""Queries, documents and graded judgements, and what can be wrong with them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from lit_metric.data import DataError, Judgements, read_table
from tests.data.formats.tables import known, read, table, text_of, texts, write


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    return {
        "queries": write(tmp_path / "queries.jsonl", {"id": 1, "text": "one"}, {"id": 2, "text": "two"}),
        "corpus": write(
            tmp_path / "corpus.jsonl",
            {"id": "d1", "title": "Title", "text": "first"},
            {"id": "d2", "title": "", "text": "second"},
            {"id": "d3", "title": "Third", "text": None},
        ),
    }


JUDGED = {"query": [1, 1, 2], "document": ["d1", "d2", "d3"], "relevance": [2, 0, 1]}


def test_judgements_become_graded_pairs_of_queries_and_documents(sources):
    content = read(Judgements(**sources, text=["title", "text"]), train=table(**JUDGED), test=table(**JUDGED))
    assert texts(content, "corpus") == ["Title first", "second", "Third"]
    assert known(content, "test") == {
        ("one", "Title first", 2.0), ("one", "second", 0.0), ("two", "Third", 1.0)
    }  # fmt: skip
    assert content.corpus_of("test") == "corpus"
    items = content.items
    assert {name: items.role_names[items.roles[ids[0]]] for name, ids in content.splits.items()} == {
        "corpus": "document", "train": "query", "validation": "query", "test": "query"
    }  # fmt: skip
    assert items.keys[int(content.splits["corpus"][2])] == "d3"
    test = content.splits["test"]
    positive = content.relations.positive(test, content.splits["corpus"])
    assert positive.tolist() == [[True, False, False], [False, False, True]]
    negative = content.relations.negative(test, content.splits["corpus"])
    assert negative.tolist() == [[False, True, True], [True, True, False]]


def test_grades_from_which_on_a_document_is_relevant_and_what_nobody_judged(sources):
    format = Judgements(**sources, text=["title", "text"], positive_from=2, unjudged="ignored")
    content = read(format, test=table(**JUDGED))
    test, corpus = content.splits["test"], content.splits["corpus"]
    assert content.relations.positive(test, corpus).tolist() == [[True, False, False], [False] * 3]
    assert content.relations.negative(test, corpus).tolist() == [[False, True, False], [False, False, True]]


def test_what_another_split_judges_is_not_known_in_training(tmp_path):
    queries = [{"id": 1, "text": "one"}, {"id": 2, "text": "first"}, {"id": 3, "text": "one"}]
    corpus = [{"id": "d1", "text": "first"}, {"id": "d2", "text": "second"}, {"id": "d3", "text": "third"}]
    format = Judgements(
        write(tmp_path / "queries.jsonl", *queries), write(tmp_path / "corpus.jsonl", *corpus), text="text"
    )
    # Query 3 has the text of query 1, and is asked in the test split only; query 2 has that of a document.
    train, test = table(query=[1, 2], document=["d1", "d2"]), table(query=[3, 2], document=["d2", "d3"])
    content = read(format, train=train, validation=test, test=test)
    documents = content.splits["corpus"]
    assert texts(content, "train") == ["one", "first"]
    negative = {
        name: content.relations.negative(content.splits[name], documents) for name in ("train", "test")
    }
    assert negative["train"].tolist() == [[False, True, True], [False, False, True]]
    assert negative["test"][0].tolist() == [True, False, True]


def test_judgements_without_grades_are_positive(sources):
    format = Judgements(**sources, text=["title", "text"])
    content = read(format, test=table(query=[2], document=["d1"]))
    assert known(content, "test") == {("two", "Title first", 1.0)}


def bad(sources: dict[str, str], **columns: list[Any]) -> str:
    with pytest.raises(DataError) as error:
        read(Judgements(**sources, text=["title", "text"]), train=table("qrels.tsv", **columns))
    return str(error.value)


def test_unknown_queries_and_documents(sources):
    told = bad(sources, query=[1, 7], document=["d1", "d9"])
    counted = "qrels.tsv: 1 bad row (counted from 1, without a header): "
    assert told == (
        f"{counted}column 'query': '7' is not in {sources['queries']} in row 2. Add it there, or drop the "
        "row."
    )
    told = bad(sources, query=[1, 2], document=["d1", "d9"])
    assert told == (
        f"{counted}column 'document': 'd9' is not in {sources['corpus']} in row 2. Add it there, or drop the "
        "row."
    )


def test_judged_twice(sources):
    columns = {"query": [1, 1, 1], "document": ["d1", "d1", "d1"], "score": [1, 1, 2]}
    assert bad(sources, **columns) == (
        "qrels.tsv: 1 bad row (counted from 1, without a header): column 'score': the pair of row 1 again, "
        "with another value in row 3. Drop one of the two rows."
    )


def test_ids_that_occur_twice_or_are_missing(sources, tmp_path):
    sources["corpus"] = write(
        tmp_path / "twice.jsonl",
        {"id": "d1", "title": "", "text": "a"},
        {"id": "d2", "text": "b"},
        {"id": "d1", "text": "c"},
        {"id": None, "text": "d"},
        {"id": "d5", "text": ""},
    )
    told = bad(sources, query=[1, 1], document=["d1", "d5"])
    name = sources["corpus"]
    assert told == (
        f"{name}: 3 bad rows (counted from 1, without a header): column 'id': no id in row 4; column 'title "
        "+ text': empty text in row 5. Fill it in, or drop the row. Column 'id': the id 'd1' of row 1 again "
        "in row 3. Give each row its own."
    )
    content = read(Judgements(**sources), skip=True, test=table(query=[1, 1], document=["d1", "d5"]))
    assert texts(content, "corpus") == ["a", "b"]
    assert known(content, "test") == {("one", "a", 1.0)}


def test_columns_of_texts_must_be_somewhere(sources):
    with pytest.raises(DataError) as error:
        read(Judgements(**sources, text=["titel", "text"]), train=table(**JUDGED))
    assert str(error.value) == (
        f"text=['titel', 'text']: there is no column 'titel'; {sources['queries']} has 'id', 'text' and "
        f"{sources['corpus']} has 'id', 'title', 'text'"
    )


def test_a_share_of_the_queries_is_split_off_if_there_are_two(sources):
    data = table(query=[1, 1, 2], document=["d1", "d2", "d1"])
    content = read(Judgements(**sources, text=["title", "text"]), train=data)
    assert sorted(texts(content, "train") + texts(content, "validation")) == ["one", "two"]
    assert len(content.splits["validation"]) == 1
    alone = read(Judgements(**sources, text=["title", "text"]), train=table(query=[1], document=["d1"]))
    assert texts(alone, "train") == ["one"]
    assert "validation" not in alone.splits


def test_folds_part_the_queries_by_a_hash_of_their_id(tmp_path):
    ids = [f"q{number}" for number in range(40)]
    queries = write(tmp_path / "q.jsonl", *({"id": id, "text": f"text {id}"} for id in ids))
    corpus = write(tmp_path / "d.jsonl", {"id": "d", "text": "document"})
    data = table(query=ids, document=["d"] * 40)
    seen: list[str] = []
    for fold in range(4):
        content = read(Judgements(queries, corpus, folds=4, fold=fold), train=data)
        parts = {
            name: {text[5:] for text in texts(content, name)} for name in ("train", "validation", "test")
        }

        def expected(number: int) -> set[str]:
            return {
                id for id in ids if int(hashlib.sha256(id.encode()).hexdigest()[:16], 16) % 4 == number % 4
            }

        assert parts["test"] == expected(fold)
        assert parts["validation"] == expected(fold + 1)
        assert parts["train"] == expected(fold + 2) | expected(fold + 3)
        seen += parts["test"]
    assert sorted(seen) == sorted(ids)
    with pytest.raises(DataError, match=r"folds=4 parts the queries of train=, so give no other source"):
        read(Judgements(queries, corpus, folds=4), train=data, test=data)
    with pytest.raises(ValueError, match="folds=2 must be at least 3"):
        Judgements(queries, corpus, folds=2)
    with pytest.raises(ValueError, match=r"fold=5 within 0..4"):
        Judgements(queries, corpus, folds=5, fold=5)


@pytest.mark.skipif(
    "LIT_METRIC_DATA" not in os.environ, reason="LIT_METRIC_DATA does not name a folder of real data"
)
def test_real_judgements():
    folder = Path(os.environ["LIT_METRIC_DATA"]) / "cranfield"
    sources = {name: str(folder / f"{name}.parquet") for name in ("queries", "corpus")}
    qrels = read_table(folder / "qrels.parquet")
    with pytest.raises(DataError, match=r"column 'title \+ text': empty text in rows 471, 995"):
        read(Judgements(**sources, text=["title", "text"], folds=5), train=qrels)
    content = read(Judgements(**sources, text=["title", "text"], folds=5), skip=True, train=qrels)
    assert sum(len(content.splits[name]) for name in ("train", "validation", "test")) == 225
    assert len(content.splits["corpus"]) == 1398
    # 1,611 of grade 1 and one of grade 3, of which one judged an empty document.
    assert int((content.judgements.targets > 0).sum()) == 1611


def test_groups_are_those_of_the_queries(tmp_path):
    queries = write(
        tmp_path / "q.jsonl",
        {"id": 1, "text": "one", "kind": "how"},
        {"id": 2, "text": "two", "kind": None},
        {"id": 3, "text": "three", "kind": "why"},
    )
    corpus = write(tmp_path / "c.jsonl", {"id": "d", "text": "one"})
    judged = Judgements(queries, corpus, group="kind")
    content = read(judged, test=table(query=[3, 1, 2], document=["d", "d", "d"]))
    groups = {text_of(content, item): content.groups[item] for item in content.splits["test"].tolist()}
    assert groups == {"one": "how", "two": None, "three": "why"}
    assert [content.groups[item] for item in content.splits["corpus"].tolist()] == [None]
    assert read(Judgements(queries, corpus), test=table(query=[3], document=["d"])).groups is None
