"""Excerpts and their sources."""

from __future__ import annotations

import pytest

from lit_metric.data import DataError, Excerpts, excerpt_of, read_table
from tests.data.formats.tables import known, read, text_of


def test_an_excerpt_is_a_sentence_or_half_of_the_words() -> None:
    text = "It rains today. We stay at home! Will it stop?  Nobody knows."
    found = {excerpt_of(text, seed) for seed in range(50)}
    assert found == {"It rains today.", "We stay at home!", "Will it stop?", "Nobody knows."}
    assert {excerpt_of("a b c d e", seed) for seed in range(30)} == {"a b", "c d e"}
    assert excerpt_of("alone") == "alone"
    assert excerpt_of(text) == excerpt_of(text)


ROWS = [
    {"title": f"no {n}", "extract": f"This is number {n}. It follows {n - 1}. Then it ends."}
    for n in range(8)
]


def test_excerpts_are_anchors_of_their_sources() -> None:
    content = read(Excerpts("extract"), train=read_table(ROWS[:6]), test=read_table(ROWS[6:]))
    pairs = known(content, "test")
    expected = {(excerpt_of(row["extract"]), row["extract"], 1.0) for row in ROWS[6:]}
    assert {(part, whole, grade) for part, whole, grade in pairs if grade == 1} == expected
    anchors = {text_of(content, int(item)) for item in content.splits["test"]}
    assert anchors == {part for part, _, _ in expected}  # wholes are searched, and are no queries


def test_training_goes_one_way_only() -> None:
    """A whole that searched its part, too, would teach that both are parts of each other."""
    content = read(Excerpts("extract"), train=read_table(ROWS), share=0.0)
    anchors = content.splits["train"]
    assert {text_of(content, int(item)) for item in anchors} == {excerpt_of(row["extract"]) for row in ROWS}
    wholes = content.splits[content.corpus_of("train")]  # type: ignore[index]
    assert {text_of(content, int(item)) for item in wholes} == {row["extract"] for row in ROWS}
    assert content.relations.positive(anchors, wholes).sum() == len(ROWS)
    assert not content.relations.positive(wholes, anchors).any()


def test_another_seed_takes_other_sentences() -> None:
    tables = {"train": read_table(ROWS[:6]), "test": read_table(ROWS)}
    first, second = (known(read(Excerpts("extract", seed=seed), **tables), "test") for seed in (0, 1))
    assert first != second


def test_a_bad_text_is_reported_in_its_own_column() -> None:
    rows = [*ROWS, {"title": "x", "extract": None}]
    with pytest.raises(DataError, match=r"column 'extract'.*row 9"):
        read(Excerpts("extract"), train=read_table(rows))
    with pytest.raises(DataError, match="plot"):
        read(Excerpts("plot"), train=read_table(ROWS))
