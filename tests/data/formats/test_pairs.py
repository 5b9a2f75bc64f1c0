"""Pairs, triplets and scored pairs; what contradicts itself is told with its rows."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import pytest

from lit_metric.data import DataError, Pairs, read_table
from tests.data.formats.tables import known, read, table, text_of, texts


def test_pairs_with_negatives_become_facts_in_both_directions():
    data = table(
        anchor=["a", "a", "b"],
        positive=["p", "q", "p"],
        negative=[["n", "m"], [], ["n"]],
    )
    content = read(Pairs("anchor", "positive", "negative"), train=data, validation=data)
    assert texts(content, "train") == ["a", "b"]
    assert set(texts(content, "train_corpus")) == {"p", "q", "n", "m"}
    assert known(content, "train") == {
        ("a", "p", 1.0), ("a", "q", 1.0), ("a", "n", 0.0), ("a", "m", 0.0), ("b", "p", 1.0), ("b", "n", 0.0)
    }  # fmt: skip
    # Positives are of the same kind as anchors, so that they have the negatives of their rows, too.
    by_text = {text_of(content, item): item for item in content.splits["train_corpus"].tolist()}
    given = content.relations.given_negatives(content.splits["train_corpus"]).tolist()
    of_p = given[content.splits["train_corpus"].tolist().index(by_text["p"])]
    assert sorted(text_of(content, item) for item in of_p) == ["m", "n"]
    # Splits share no items, however equal their texts.
    ids = [set(ids.tolist()) for name, ids in content.splits.items() if name.startswith("train")]
    others = [set(ids.tolist()) for name, ids in content.splits.items() if name.startswith("validation")]
    assert not set.union(*ids) & set.union(*others)
    triplets = content.triplets["train"]
    rows = zip(
        triplets.anchors.tolist(), triplets.positives.tolist(), triplets.negatives.tolist(), strict=True
    )
    assert [tuple(text_of(content, item) for item in row) for row in rows] == [
        ("a", "p", "n"), ("a", "p", "m"), ("b", "p", "n")
    ]  # fmt: skip


def test_questions_and_answers_have_roles():
    data = table(query=["same", "b"], answer=["same", "d"])
    content = read(Pairs("query", "answer", symmetric=False), train=data, validation=data)
    items = content.items
    assert [items.role_names[items.roles[item]] for item in content.splits["train"].tolist()] == ["query"] * 2
    assert [items.role_names[items.roles[item]] for item in content.splits["train_corpus"].tolist()] == [
        "document"
    ] * 2
    assert ("same", "same", 1.0) in known(content, "train")


def test_scores_are_kept_and_pairs_of_one_text_are_only_measured(caplog):
    data = table(sentence1=["a", "b", "c"], sentence2=["x", "y", "c"], score=["0.5", 4, 5.0])
    with caplog.at_level(logging.INFO):
        format = Pairs()
        content = read(format, train=data, validation=data)
    assert content.planned == "scores"
    assert [message for message in caplog.messages if "usual names" in message] == [
        "columns of items.csv taken by their usual names: "
        "anchor='sentence1', positive='sentence2', score='score'"
    ]
    assert "2 pairs hold the same text twice; they are evaluated, and not trained on" in caplog.messages
    assert known(content, "train") == {("a", "x", 0.5), ("b", "y", 4.0)}
    pairs = content.pairs["train"]
    assert pairs.targets.tolist() == [0.5, 4.0, 5.0]
    assert text_of(content, int(pairs.candidates[2])) == "c" == text_of(content, int(pairs.anchors[2]))
    assert not content.triplets


def test_only_given_negatives_are_true():
    data = table(a=["a", "b"], b=["x", "y"], score=[1, 0])
    format = Pairs("a", "b", score="score", in_batch_negatives=False, symmetric=False)
    content = read(format, train=data, validation=data)
    relations, anchors = content.relations, content.splits["train"]
    corpus = content.splits["train_corpus"]
    assert relations.positive(anchors, corpus).tolist() == [[True, False], [False, False]]
    assert relations.negative(anchors, corpus).tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_another_split_knows_is_not_known_in_training(symmetric):
    train = table(anchor=["a", "a", "b", "c"], positive=["p", "q", "r", "a"])
    other = table(anchor=["a", "b"], positive=["r", "p"])
    content = read(
        Pairs("anchor", "positive", symmetric=symmetric), train=train, validation=other, test=other
    )
    elsewhere = {"a": "r", "b": "p"}
    knows = {"train": {"a": "pq", "b": "r", "c": "a"}, "validation": elsewhere, "test": elsewhere}
    for name, facts in knows.items():
        pairs = {(anchor, other) for anchor, others in facts.items() for other in others}
        pairs |= {pair[::-1] for pair in pairs if symmetric}
        anchors, corpus = content.splits[name], content.splits[f"{name}_corpus"]
        others = texts(content, f"{name}_corpus")
        expected = [
            [other != anchor and (anchor, other) not in pairs for other in others]
            for anchor in texts(content, name)
        ]
        assert content.relations.negative(anchors, corpus).tolist() == expected
    trained = content.splits["train"]
    assert content.relations.positive(trained, content.splits["test_corpus"]).sum() == 0


def test_contradictions_are_told_with_both_rows():
    data = table(anchor=["a", "a", "x"], positive=["p", "q", "y"], negative=["n", "p", "z"])
    with pytest.raises(DataError) as error:
        read(Pairs("anchor", "positive", "negative"), train=data)
    assert str(error.value) == (
        "items.csv: 1 bad row (counted from 1, without a header): a pair that belongs together here and not "
        "in row 1, or the other way round in row 2. Drop one of the two rows."
    )
    kept = read(Pairs("anchor", "positive", "negative"), skip=True, train=data, validation=data)
    assert known(kept, "train") == {("a", "p", 1.0), ("a", "n", 0.0), ("x", "y", 1.0), ("x", "z", 0.0)}
    scored = table(one=["a", "b"], two=["b", "a"], score=[1.0, 2.0])
    with pytest.raises(DataError, match=r"'score': the pair of row 1 again, with another value in row 2"):
        read(Pairs("one", "two", score="score"), train=scored, validation=scored)
    # A question may be asked of its own answer: the other way round is another pair.
    read(Pairs("one", "two", score="score", symmetric=False), train=scored, validation=scored)


def test_every_bad_row_of_every_table_is_told():
    train = table("train.csv", a=["x", "", "z"], b=["y", "y", "z"], n=["x", "n", "n"], s=["1", "high", None])
    test = table("test.csv", a=["x"], b=[3], n=[["n", ""]], s=[float("inf")])
    with pytest.raises(DataError) as error:
        read(Pairs("a", "b", "n"), train=train, test=test)
    assert str(error.value) == (
        "train.csv: 2 bad rows, test.csv: 1 bad row (counted from 1, without a header): column 'a' of "
        "train.csv: empty text in row 2; column 'n' of test.csv: empty text among the negatives in row 1. "
        "Fill it in, or drop the row. Column 'n' of train.csv: the negative is the same text as the anchor "
        "in row 1. Give another, or drop the row. Column 'b' of test.csv: an int instead of text in row 1. "
        "Convert the column to strings, or name another."
    )
    with pytest.raises(DataError) as error:
        read(Pairs("a", "b", score="s"), train=train, test=test)
    assert "'high' instead of a number in row 2;" in str(error.value)
    assert "column 's' of train.csv: no number in row 3." in str(error.value)
    assert "column 's' of test.csv: inf in row 1. Give a finite number." in str(error.value)
    with pytest.raises(
        DataError, match=r"no row of test= can be used: train\.csv: 2 bad rows, test\.csv: 1 bad row \("
    ):
        read(Pairs("a", "b", "n"), skip=True, train=train, validation=train, test=test)


def test_options_that_contradict_each_other():
    with pytest.raises(DataError, match=r"score='s' and negative='n' were both given"):
        Pairs("a", "b", "n", score="s")
    with pytest.raises(DataError, match=r"no column of anchors has a usual name; name it with anchor="):
        read(Pairs(), train=table(left=["a"], right=["b"]))


def test_validation_takes_whole_anchors():
    anchors = [f"a{row // 3}" for row in range(60)]
    data = table(anchor=anchors, positive=[f"p{row}" for row in range(60)])
    content = read(Pairs(), share=0.25, train=data)
    train, validation = set(texts(content, "train")), set(texts(content, "validation"))
    assert len(validation) == 5
    assert len(train) == 15
    assert not train & validation
    assert len(content.splits["validation_corpus"]) == 15
    again = read(Pairs(), share=0.25, train=data)
    assert set(texts(again, "validation")) == validation
    assert set(texts(read(Pairs(), share=0.25, seed=1, train=data), "validation")) != validation


def test_a_column_of_splits_and_items_to_encode():
    data = table(a=["x", "y", "z"], b=["1", "2", "3"], part=["train", "test", "validation"])
    content = read(Pairs("a", "b", split="part"), train=data, predict=table(text=["x", "x"]))
    assert {name: texts(content, name) for name in ("train", "validation", "test", "predict")} == {
        "train": ["x"], "validation": ["z"], "test": ["y"], "predict": ["x", "x"]
    }  # fmt: skip
    with pytest.raises(DataError, match=r"split='part' says that a column of train= names the splits"):
        read(Pairs("a", "b", split="part"), train=data, test=data)
    alone = read(Pairs("a", "b"), predict=table(a=["only"]))
    assert texts(alone, "predict") == ["only"]


def test_many_pairs():
    rows = 20_000
    data = table(anchor=[f"a{row}" for row in range(rows)], positive=[f"p{row}" for row in range(rows)])
    content = read(Pairs(), train=data, validation=table(anchor=["a"], positive=["b"]))
    assert len(content.items) == 2 * rows + 2


@pytest.mark.skipif(
    "LIT_METRIC_DATA" not in os.environ, reason="LIT_METRIC_DATA does not name a folder of real data"
)
def test_real_triplets():
    source = Path(os.environ["LIT_METRIC_DATA"]) / "sugarcrepe_pp" / "triplets.parquet"
    format = Pairs("caption", "caption2", "negative", group="subset")
    with pytest.raises(DataError, match=r"the negative is the same text as the anchor in rows 4515, 4521\."):
        read(format, test=read_table(source))
    triplets = read(format, skip=True, test=read_table(source)).triplets["test"]
    assert Counter(triplets.groups) == {
        "replace_att": 788,
        "replace_obj": 1652,
        "replace_rel": 1406,
        "swap_att": 666,
        "swap_obj": 243,
    }


def test_anchors_have_groups_where_no_negatives_are_given():
    data = table(anchor=["a", "b", "a"], positive=["p", "q", "r"], kind=["x", "y", "x"])
    content = read(Pairs(group="kind"), test=data)
    assert {text_of(content, item): content.groups[item] for item in range(len(content.items))} == {
        "a": "x",
        "b": "y",
        **dict.fromkeys("pqr"),
    }
    odd = table(anchor=["a", "b", "a"], positive=["p", "q", "r"], kind=["x", "y", "z"])
    with pytest.raises(DataError) as error:
        read(Pairs(group="kind"), test=odd)
    assert str(error.value) == (
        "items.csv: 1 bad row (counted from 1, without a header): column 'kind': another group for the "
        "anchor of row 1 in row 3. Give an anchor one group."
    )
    triplets = table(anchor=["a", "a"], positive=["p", "r"], negative=["n", "m"], kind=["x", "z"])
    content = read(Pairs(group="kind"), test=triplets)
    assert content.triplets["test"].groups == ["x", "z"]
    assert content.groups is None
