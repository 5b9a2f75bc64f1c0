"""Texts that look wrong by themselves."""

from __future__ import annotations

import numpy as np

from lit_metric.report.odd_texts import oddities


def test_each_kind_of_odd_text() -> None:
    texts = [f"plain text number {row}" for row in range(200)]
    texts[1] = " "
    texts[2] = "?!"
    texts[3] = "bell\x07 rings here"
    texts[4] = "a"
    texts[5] = "long " * 400
    texts[6] = "привет как дела вы"
    cut = np.arange(200) == 7
    assert oddities(texts, cut) == {
        1: ["empty"],
        2: ["neither letters nor digits"],
        3: ["control or replacement characters"],
        4: ["very short"],
        5: ["very long"],
        6: ["letters are CYRILLIC"],
        7: ["cut at the encoder's length"],
    }


def test_plain_texts_are_not_odd() -> None:
    assert oddities([]) == {}
    assert oddities(["one text", "another text"]) == {}
