"""What kind of data a file holds is guessed from its columns, and said in one line."""

from __future__ import annotations

import logging

import pytest

from lit_metric.data import DataError, Labels, Pairs, guess_supervision
from tests.data.formats.tables import read, table


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
