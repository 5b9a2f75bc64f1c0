"""Facts of a graph become questions with answers; what other splits know counts neither way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lit_metric.batching import PairPlanner
from lit_metric.data import DataError, Triples, read_table
from tests.data.formats.tables import known, read, table, text_of, texts, write


@pytest.fixture
def entities(tmp_path: Path) -> str:
    return write(
        tmp_path / "entities.jsonl",
        {"id": 1, "lemmas": ["dog", "hound"], "definition": "an animal"},
        {"id": 2, "lemmas": ["poodle"], "definition": "a dog"},
        {"id": 3, "lemmas": ["puppy"], "definition": "a young dog"},
    )


TRAIN = table(head=[2], relation=["_hypernym"], tail=[1])
TEST = table("test.csv", head=[3, 2], relation=["_hypernym", "_similar_to"], tail=[1, 3])


def test_heads_with_relations_ask_for_tails_and_back(entities):
    format = Triples(entities, text=["lemmas", "definition"])
    content = read(format, train=TRAIN, validation=TRAIN, test=TEST)
    dog, poodle, puppy = "dog, hound: an animal", "poodle: a dog", "puppy: a young dog"
    assert texts(content, "corpus") == [dog, poodle, puppy]
    assert known(content, "train") == {
        (f"hypernym: {poodle}", dog, 1.0),
        (f"inverse hypernym: {dog}", poodle, 1.0),
    }
    assert known(content, "test") == {
        (f"hypernym: {puppy}", dog, 1.0),
        (f"inverse hypernym: {dog}", puppy, 1.0),
        (f"similar to: {poodle}", puppy, 1.0),
        (f"inverse similar to: {puppy}", poodle, 1.0),
    }
    alone = read(Triples(entities, text=["lemmas", "definition"], inverse=False), test=TEST)
    assert texts(alone, "test") == [f"hypernym: {puppy}", f"similar to: {poodle}"]


def test_questions_are_grouped_by_relation_if_so_asked(entities):
    tables = {"train": TRAIN, "validation": TRAIN, "test": TEST}
    content = read(Triples(entities, text="definition", group="relation"), **tables)
    # Entities are in no group; a question is in that of its relation and direction.
    assert [content.groups[entity] for entity in content.splits["corpus"].tolist()] == [None] * 3
    for split, groups in (
        ("train", {"hypernym": "a dog", "inverse_hypernym": "an animal"}),
        (
            "test",
            {
                "hypernym": "a young dog",
                "inverse_hypernym": "an animal",
                "similar_to": "a dog",
                "inverse_similar_to": "a young dog",
            },
        ),
    ):
        found = {content.groups[question]: question for question in content.splits[split].tolist()}
        assert {group: text_of(content, question) for group, question in found.items()} == {
            group: f"{group.replace('_', ' ')}: {text}" for group, text in groups.items()
        }
    assert len(content.groups) == 3 + 2 + 2 + 4
    assert read(Triples(entities, text="definition"), **tables).groups is None
    with pytest.raises(ValueError, match="group='tail' must be 'relation' or None"):
        Triples(entities, group="tail")


def test_known_answers_are_no_mistakes_when_asked_and_are_not_known_in_training(entities):
    content = read(Triples(entities, text="definition"), train=TRAIN, validation=TRAIN, test=TEST)
    corpus = content.splits["corpus"]
    asked = texts(content, "test").index("inverse hypernym: an animal")
    anchors = content.splits["test"][asked : asked + 1]
    # Puppies are the answer; poodles are one that training knows, dogs a mistake.
    assert content.relations.positive(anchors, corpus).tolist() == [[False, False, True]]
    assert content.relations.negative(anchors, corpus).tolist() == [[True, False, False]]
    trained = texts(content, "train").index("inverse hypernym: an animal")
    anchors = content.splits["train"][trained : trained + 1]
    assert content.relations.positive(anchors, corpus).tolist() == [[False, True, False]]
    assert content.relations.negative(anchors, corpus).tolist() == [[True, False, True]]


def test_the_entity_of_a_query_is_a_negative_of_it_if_so_asked(entities):
    format = Triples(entities, text="definition", self_negatives=True)
    content = read(format, train=TRAIN, validation=TEST)
    dog, poodle = "an animal", "a dog"
    assert known(content, "train") == {
        (f"hypernym: {poodle}", dog, 1.0),
        (f"hypernym: {poodle}", poodle, 0.0),
        (f"inverse hypernym: {dog}", poodle, 1.0),
        (f"inverse hypernym: {dog}", dog, 0.0),
    }
    assert (f"similar to: {poodle}", poodle, 0.0) in known(content, "validation")
    anchors = content.splits["train"]
    given = content.relations.given_negatives(anchors)
    assert [text_of(content, item) for item in given.values.tolist()] == [poodle, dog]
    plan = PairPlanner(batch_size=2, negatives=1).plan(anchors, content.relations, seed=0, epoch=0)
    assert [sorted(text_of(content, item) for item in row) for row in plan.candidates.tolist()] == [
        [poodle, dog]
    ]


def test_an_entity_that_is_an_answer_of_its_own_query_is_no_negative(tmp_path):
    entities = write(
        tmp_path / "entities.jsonl",
        {"id": 1, "text": "equal"},
        {"id": 2, "text": "similar"},
        {"id": 3, "text": "similar"},
    )
    facts = table(head=[1, 1, 2], relation=["is", "is", "is"], tail=[1, 2, 3])
    content = read(Triples(entities, self_negatives=True), train=facts, validation=facts)
    # 1 is itself, and the texts of 2 and 3 are the same. The query for what is 2 has 1 as an answer, too.
    assert known(content, "train") == {
        ("is: equal", "equal", 1.0),
        ("inverse is: equal", "equal", 1.0),
        ("is: equal", "similar", 1.0),
        ("inverse is: similar", "equal", 1.0),
        ("is: similar", "similar", 1.0),
        ("inverse is: similar", "similar", 1.0),
    }


def test_some_facts_are_split_off_if_there_are_two(entities):
    content = read(Triples(entities, text="definition", inverse=False), train=TEST)
    assert (len(content.splits["train"]), len(content.splits["validation"])) == (1, 1)
    assert not set(texts(content, "train")) & set(texts(content, "validation"))
    assert "validation" not in read(Triples(entities, text="definition"), train=TRAIN).splits


def test_unknown_entities_and_missing_columns(entities):
    broken = table("facts.csv", head=[1, 4], relation=["r", None], tail=[5, 2])
    with pytest.raises(DataError) as error:
        read(Triples(entities, text="definition"), train=broken)
    assert str(error.value) == (
        "facts.csv: 2 bad rows (counted from 1, without a header): column 'relation': no label in row 2. "
        f"Fill it in, or drop the row. Column 'tail': '5' is not in {entities} in row 1. Add it there, or "
        "drop the row."
    )
    with pytest.raises(DataError, match=r"facts.csv has no column 'object'; it has 'head', 'relation'"):
        read(Triples(entities, text="definition", tail="object"), train=broken)
    with pytest.raises(DataError, match=r"no column of texts has a usual name; name it with text=."):
        read(Triples(entities), train=TRAIN)


@pytest.mark.skipif(
    "LIT_METRIC_DATA" not in os.environ, reason="LIT_METRIC_DATA does not name a folder of real data"
)
def test_real_facts():
    folder = Path(os.environ["LIT_METRIC_DATA"]) / "wn18rr"
    tables = {
        name: read_table(folder / f"{file}.parquet")
        for name, file in (("validation", "valid"), ("test", "test"))
    }
    content = read(Triples(str(folder / "entities.parquet"), text=["lemmas", "definition"]), **tables)
    assert len(content.splits["corpus"]) == 40_943
    assert len(content.judgements.anchors) == 2 * (3034 + 3134)
    # Independent count of the distinct questions in both directions.
    facts = list(zip(*(tables["test"].column(name) for name in ("head", "relation", "tail")), strict=True))
    asked = {(head, relation) for head, relation, _ in facts} | {(tail, f"-{r}") for _, r, tail in facts}
    assert len(content.splits["test"]) == len(asked)
