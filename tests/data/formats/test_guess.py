"""What kind of data a file holds is guessed from its columns, and said in one line."""

from __future__ import annotations

import logging

import pytest

from lit_metric.data import DataError, Labels, Pairs, guessed
from tests.data.formats.tables import table


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
        found = guessed(table(**columns))
    assert type(found) is kind
    assert getattr(found, "symmetric", None) is symmetric
    assert len(caplog.messages) == (kind is Pairs)


def test_what_is_said(caplog):
    with caplog.at_level(logging.INFO):
        guessed(table(anchor=["a"], positive=["c"]))
    assert caplog.messages == ["items.csv is taken to hold pairs, alike: 'anchor', 'positive'"]


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
        guessed(table("qrels.tsv", **columns))
    named = ", ".join(map(repr, columns))
    assert str(error.value) == (
        f"qrels.tsv has {named}, ids of texts that stand elsewhere: say where by "
        f"supervision: lit_metric.data.{needs}"
    )
