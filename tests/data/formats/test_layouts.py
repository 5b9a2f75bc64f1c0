"""Usual layouts of tables are recognised by their columns, and the log lists what was guessed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from lit_metric import MetricDataModule
from lit_metric.batching import PairPlanner, ScoredPairPlanner
from lit_metric.data import DataError, GivenPairs, Labels, Pairs, guess_supervision, read_table
from tests.data.formats.tables import known, read, table, write

HALVES: dict[str, Any] = {"sentence1": ["a 1", "a 2"], "sentence2": ["b 1", "b 2"]}


def facts(*rows: dict[str, Any], supervision: Pairs | None = None) -> set[tuple[str, str, float]]:
    """What is known of the pairs of some rows."""
    part = read_table([*rows])
    return known(read(supervision or guess_supervision(part), train=part, validation=part), "train")  # type: ignore[arg-type]


def test_n_tuples_as_mining_and_sentence_transformers_write_them() -> None:
    row = {"anchor": "q", "positive": "p", **{f"negative_{number}": f"n{number}" for number in range(1, 12)}}
    assert facts(row) == {("q", "p", 1.0), *(("q", f"n{number}", 0.0) for number in range(1, 12))}


def test_lists_of_positives_and_negatives() -> None:
    row = {
        "query": "what is it",
        "pos": ["p1", "p2"],
        "neg": ["n1", "n2"],
        "pos_scores": [1, 2],
        "neg_scores": [],
    }
    expected = {("what is it", text, float(text[0] == "p")) for text in ("p1", "p2", "n1", "n2")}
    assert facts(row) == expected
    assert facts({**row, "query": "one"}) == {("one", text, grade) for _, text, grade in expected}
    with pytest.raises(DataError, match=r"column 'pos': no text in row 2"):
        facts(row, {**row, "query": "other one", "pos": []})


def test_passages_with_titles() -> None:
    passages = {
        "query_id": "7",
        "query": "what is ink",
        "positive_passages": [{"docid": "1", "title": "Ink", "text": "is black"}],
        "negative_passages": [{"docid": "2", "title": "", "text": "milk"}, {"docid": "3", "text": "tea"}],
    }
    assert facts(passages) == {
        ("what is ink", "Ink is black", 1.0),
        ("what is ink", "milk", 0.0),
        ("what is ink", "tea", 0.0),
    }


def test_positives_and_negatives_of_a_row_make_triplets() -> None:
    part = table(query=["a question"], pos=[["p1", "p2"]], neg=[["n1", "n2"]])
    content = read(guess_supervision(part), train=part, validation=part)
    triplets = content.triplets["train"]
    told = {
        tuple(content.vocabulary.texts[content.items.texts[int(item)].tolist()[0]] for item in row)
        for row in zip(triplets.anchors, triplets.positives, triplets.negatives, strict=True)
    }
    assert told == {("a question", p, n) for p in ("p1", "p2") for n in ("n1", "n2")}


def test_columns_that_are_not_used_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = {"anchor": ["a", "b"], "positive": ["c", "d"], "note": ["", ""], "negative_1": ["e", "f"]}
    with caplog.at_level(logging.INFO):
        MetricDataModule(train=rows).read()
        MetricDataModule(train={**rows, "more": [1, 2]}, supervision=Pairs("anchor", "positive")).read()
    assert [message for message in caplog.messages if "not used" in message] == [
        "columns that are not used: 'note' of train (dict of lists)",
        "columns that are not used: 'note', 'negative_1', 'more' of train (dict of lists)",
    ]


def test_labels_that_are_all_one_are_positive_pairs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = MetricDataModule(train={**HALVES, "label": [1, 1]}, test={**HALVES, "label": [1, 0]})
        data.read()
    assert isinstance(data.planner, PairPlanner)
    assert data.dataset.pairs.get("train") is None
    # Another split may well have both, and is measured by them.
    pairs = data.dataset.pairs.get("test")
    assert isinstance(pairs, GivenPairs)
    assert pairs.targets.tolist() == [1, 0]
    assert "'label' is 1 in every row, so all pairs belong together" in caplog.text
    assert "not used" not in caplog.text


@pytest.mark.parametrize("scores", [[0, 1], ["0.5", "4"], [1.0, 2.0], [0, 0]])
def test_numbers_are_scores(scores: list[Any]) -> None:
    part = read_table({**HALVES, "score" if scores == [1.0, 2.0] else "label": scores})
    format = guess_supervision(part)
    content = read(format, test=part)
    assert content.pairs["test"].targets.tolist() == [float(score) for score in scores]
    assert content.planned == "scores"


def test_scores_that_are_all_equal_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = MetricDataModule(
        train={**HALVES, "s": [3, 3]},
        validation=HALVES | {"s": [1, 2]},
        supervision=Pairs(*HALVES, score="s"),
    )
    data.read()
    assert isinstance(data.planner, ScoredPairPlanner)
    assert (
        "all 2 scores of the training pairs are 3, and losses that compare scores learn nothing from them"
        in caplog.text
    )


def test_what_is_trained_is_decided_by_the_training_table(tmp_path: Path) -> None:
    plain, scored = tmp_path / "plain.csv", tmp_path / "scored.csv"
    plain.write_text("sentence1,sentence2\na,x\nb,y\n")
    scored.write_text("sentence1,sentence2,score\nc,z,0.5\nd,w,4\n")
    data = MetricDataModule(train=str(scored), validation=str(plain), test=str(plain))
    assert isinstance(data.planner, ScoredPairPlanner)
    assert data.dataset.pairs.get("test") is None
    data = MetricDataModule(train=str(plain), validation=str(scored), test=str(scored))
    assert isinstance(data.planner, PairPlanner)
    assert data.dataset.pairs.get("train") is None
    pairs = data.dataset.pairs.get("test")
    assert pairs is not None
    assert pairs.targets.tolist() == [0.5, 4.0]
    assert data.headlines("test")[0] == "spearman"
    # A column that is named must be in every table.
    named = Pairs("sentence1", "sentence2", score="score")
    with pytest.raises(DataError, match=r"plain\.csv has no column 'score'; it has 'sentence1', 'sentence2'"):
        MetricDataModule(train=str(scored), test=str(plain), supervision=named).read()


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["entailment", "contradiction"], "'entailment', 'contradiction'"),
        ([2, 0], "0, 2"),
        (["0", "2"], "0, 2"),
    ],
)
def test_classes_of_entailment_are_no_scores(labels: list[Any], shown: str) -> None:
    with pytest.raises(
        DataError, match=rf"column 'label' of train .* holds {shown}: classes of pairs, as of text"
    ):
        MetricDataModule(train={**HALVES, "label": labels}).read()
    # Whoever names the columns knows what they are.
    data = MetricDataModule(train={**HALVES, "label": labels}, supervision=Pairs(*HALVES))
    data.read()
    assert data.dataset.pairs.get("train") is None


QUERIES = [{"_id": "q1", "text": "what is ink"}, {"_id": "q2", "text": "who drinks tea"}]
CORPUS = [
    {"_id": "d1", "title": "Ink", "text": "is black"},
    {"_id": "d2", "title": "", "text": "tea and milk"},
]


@pytest.mark.parametrize("name", ["test.tsv", "qrels.txt"])
def test_judgements_find_their_texts_as_beir_lays_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "queries.jsonl", *QUERIES)
    write(tmp_path / "corpus.jsonl", *CORPUS)
    lines = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q2\td2\t1"]
    if name.endswith(".txt"):
        lines = ["q1 0 d1 2", "q2 0 d2 1"]
    (tmp_path / "qrels" / name).write_text("\n".join(lines))
    with caplog.at_level(logging.INFO):
        data = MetricDataModule(test=str(tmp_path / "qrels" / name))
        data.read()
    assert {(query, document) for query, document, _ in known(data.dataset, "test")} == {
        ("what is ink", "Ink is black"),
        ("who drinks tea", "tea and milk"),
    }
    assert f"taken from {tmp_path / 'queries.jsonl'} and {tmp_path / 'corpus.jsonl'}" in caplog.text
    assert "id='_id', text=['title', 'text']" in caplog.text
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"ids of texts that stand elsewhere: say where by supervision"):
        MetricDataModule(test=str(tmp_path / "qrels" / name)).read()


def test_a_column_called_split_is_taken_and_said(caplog: pytest.LogCaptureFixture) -> None:
    rows: dict[str, Any] = {
        "text": [*"abcdef"],
        "label": ["x"] * 6,
        "split": ["train", "train", "train", "dev", "val", "test"],
    }
    with caplog.at_level(logging.INFO):
        data = MetricDataModule(train=rows)
        data.read()
    assert {name: len(ids) for name, ids in data.splits.items()} == {"train": 3, "validation": 2, "test": 1}
    assert "says which split each row belongs to (train: 3, validation: 2, test: 1)" in caplog.text
    pairs = MetricDataModule(train={"anchor": rows["text"], "positive": [*"uvwxyz"], "split": rows["split"]})
    pairs.read()
    assert len(pairs.splits["train"]) == 3
    # Not where its values are anything else, or where other sources are the splits.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        MetricDataModule(train={**rows, "split": ["train"] * 5 + ["left"]}).read()
        MetricDataModule(train=rows, test={"text": ["g"], "label": ["x"]}).read()
        MetricDataModule(train=rows, split=None).read()
        MetricDataModule(train={**HALVES, "split": ["train", "test"]}, split=None).read()
    assert "says which split" not in caplog.text
    assert caplog.text.count("columns that are not used: 'split'") == 4


def test_a_column_of_splits_that_is_not_there_says_how_to_do_without() -> None:
    with pytest.raises(DataError) as error:
        MetricDataModule(train={"text": ["a"], "label": ["b"]}, split="split").read()
    assert str(error.value) == (
        "split='split' is no column: train (dict of lists) has 'text', 'label'. Without such a column, leave "
        "split= out, and a share is held out for validation"
    )


def test_what_mining_writes_is_read(tmp_path: Path) -> None:
    line = {"query": "a card", "pos": ["the card"], "neg": ["a rate", "the rate"], "pos_scores": [0.9]}
    (tmp_path / "mined.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "query": "b card"}))
    data = MetricDataModule(train=str(tmp_path / "mined.jsonl"), validation=str(tmp_path / "mined.jsonl"))
    data.read()
    assert data.relations.given_negatives(data.splits["train"]).lengths.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("columns", "kind", "symmetric"),
    [
        ({"anchor": ["a b"], "positive": ["c"]}, Pairs, True),
        ({"Sentence1": ["a"], "sentence2": ["c"], "score": [1]}, Pairs, True),
        ({"question": ["where is it"], "answer": ["here"]}, Pairs, False),
        ({"text": ["a"], "label": ["c"]}, Labels, None),
        ({"question": ["a"], "intent": ["c"]}, Labels, None),
    ],
)
def test_guesses(columns, kind, symmetric, caplog):
    with caplog.at_level(logging.INFO):
        found = guess_supervision(table(**columns))
    assert not caplog.messages  # the format says it
    assert type(found) is kind
    assert getattr(found, "symmetric", None) is symmetric


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"anchor": ["a", "b"], "positive": ["c", "d"]}, "anchor='anchor', positive='positive'"),
        (
            {"query": ["a b", "b c"], "answer": ["c", "d"], "score": [1, 2]},
            "anchor='query', positive='answer', score='score', symmetric=False",
        ),
    ],
)
def test_what_is_taken_is_said_in_one_line(caplog, columns, said):
    data = table(**columns)
    with caplog.at_level(logging.INFO):
        read(guess_supervision(data), train=data)
    assert caplog.messages == [f"columns of items.csv taken by their usual names: {said}"]


@pytest.mark.parametrize(
    ("columns", "needs"),
    [
        ({"query": ["1"], "document": ["7"], "relevance": [1]}, r"Judgements(queries=..., corpus=...)"),
        ({"query-id": ["1"], "corpus-id": ["7"], "score": [1]}, r"Judgements(queries=..., corpus=...)"),
        ({"head": ["1"], "relation": ["r"], "tail": ["2"]}, r"Triples(entities=...)"),
    ],
)
def test_ids_of_texts_elsewhere(columns, needs):
    with pytest.raises(DataError) as error:
        guess_supervision(table("qrels.tsv", **columns))
    named = ", ".join(map(repr, columns))
    assert str(error.value) == (
        f"qrels.tsv has {named}, ids of texts that stand elsewhere: say where by "
        f"supervision: lit_metric.data.{needs}"
    )
