"""What ``encode`` takes, and which item it names when it doesn't."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lit_metric.encoders import Encoder, SetEncoder, TextEncoder, TwoTowerEncoder

TEXTS = ["w5 w6 w7", "W8 w9", "w10"]


@pytest.fixture(scope="module")
def encoder(tiny: str) -> Encoder:
    return TextEncoder(tiny, max_length=5)


@pytest.mark.parametrize(
    "column",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS, index=[7, 8, 9]),
        pd.Index(TEXTS),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns_of_any_library(encoder: Encoder, column: Any) -> None:
    np.testing.assert_array_equal(encoder.encode(column), encoder.encode(TEXTS))


def test_columns_of_lists(tiny: str) -> None:
    encoder, tags = SetEncoder(TextEncoder(tiny)), [["w5", "w6"], ["w7"], []]
    expected = encoder.encode(tags)
    for column in (
        pd.Series([np.array(row, dtype=object) for row in tags]),
        pa.array(tags, pa.list_(pa.string())),
    ):
        np.testing.assert_array_equal(encoder.encode(column), expected)
    np.testing.assert_array_equal(encoder.encode([{"w6", "w5"}, {"w7"}, set()]), expected)
    assert tags == [["w5", "w6"], ["w7"], []]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["w5", None, 3], r"item 1 is None, .*\(2 of 3 are no texts\)"),
        (["w5", "w6", float("nan")], "item 2 is nan, a float"),
        (pd.Series(["w5", None], index=[5, 6]), "item 1 is"),
        ([["w5"]], r"item 0 is \['w5'\], a list"),
        (np.array("w5"), "0-d array"),
        (b"w5", "one text"),
        ({"w5"}, "a set has no order"),
        (3, "int is no sequence"),
        (None, "NoneType is no sequence"),
        (
            pd.DataFrame({"text": ["w5"], "label": [1]}),
            r"DataFrame is a table.* table\['text'\]; it has text, label",
        ),
        ({"question": ["w5"]}, r"dict is a table.*\['question'\]"),
        (pa.table({"text": ["w5"]}), "Table is a table"),
    ],
)
def test_what_can_t_be_encoded_is_named(encoder: Encoder, items: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        encoder.encode(items)


def test_one_text_gives_one_vector(encoder: Encoder, tiny: str) -> None:
    expected = encoder.encode(["w5 w6"])
    assert expected.shape == (1, encoder.dimension)
    for text in ("w5 w6", np.str_("w5 w6")):
        np.testing.assert_array_equal(encoder.encode(text), expected[0])
    towers = TwoTowerEncoder(TextEncoder(tiny), TextEncoder(tiny))
    asked = towers.encode("w5 w6", role="query")
    np.testing.assert_array_equal(asked, towers.encode(["w5 w6"], role="query")[0])
    with pytest.raises(TypeError, match="item 0 is 'w5', and a list of texts"):
        SetEncoder(TextEncoder(tiny)).encode("w5")


def test_texts_of_sets_and_towers_are_named_by_their_place(tiny: str) -> None:
    sets = SetEncoder(TextEncoder(tiny))
    with pytest.raises(TypeError, match="text 1 of item 2 is None"):
        sets.encode([["w5"], [], ["w6", None]])
    with pytest.raises(TypeError, match="item 1 is 'w6', and a list of texts"):
        sets.encode([["w5"], "w6"])
    towers = TwoTowerEncoder(TextEncoder(tiny), TextEncoder(tiny))
    with pytest.raises(TypeError, match="item 2 is None"):
        towers.encode(["w5", "w6", None], role=["document", "query", "document"])


def test_texts_that_are_cut_are_counted(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    # [CLS] and [SEP] leave room for three words
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        encoder.encode(["w5 w6 w7", "w5", "w5 w6"])
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        encoder.encode(["w5 w6 w7", "w5 w6 w7 w8", "w5", "w5 w6 w7 w8 w9"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 texts are longer than max_length=5 tokens, and are cut there"
    ]


def test_texts_of_several_roles_are_counted_in_one_line(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    lengths = {"query": 4, "document": 6}
    encoder = TextEncoder(tiny, max_length=5, max_lengths=lengths)
    texts, roles = ["w5 w6 w7 w8 w9", "w5 w6 w7", "w5 w6"], ["document", "query", "query"]
    towers = TwoTowerEncoder(TextEncoder(tiny, max_length=4), TextEncoder(tiny, max_length=6))
    for each in (encoder, towers):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="lit_metric"):
            each.encode(texts, role=roles)
        [line] = caplog.messages
        assert line.startswith("2 of 3 texts are longer than max_length, and are cut: ")
        assert {*line.rpartition(": ")[2].split(", ")} == {"1 at 6 tokens", "1 at 4 tokens"}
    tags = SetEncoder(TextEncoder(tiny, max_length=4))
    caplog.clear()
    tags.encode([["w5 w6", "w5 w6 w7"], ["w5 w6 w7"]])
    assert caplog.messages == ["1 of 2 texts are longer than max_length=4 tokens, and are cut there"]


def test_empty_texts_are_told(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        vectors = encoder.encode(["w5", "", "  "])
    assert "2 of 3 texts are empty, the first is item 1" in caplog.text
    np.testing.assert_allclose(vectors[1], vectors[2], rtol=1e-4, atol=1e-6)
