"""Tokens as the data part wants them."""

from __future__ import annotations

import json

import pytest

from lit_metric.encoders import Backbone, TextTokenizer
from lit_metric.encoders.tokenizer import positions
from tests.encoders.models import make
from tests.encoders.tokens import model_folder, word_tokenizer


def test_tokens_with_prompt_case_and_length() -> None:
    tokenizer = TextTokenizer(word_tokenizer(), max_length=5, prompt="W9 ", lower_case=True)
    assert tokenizer.tokenize(["w10 W11", "", "w12 w13 w14 w15"]) == [
        [1, 9, 10, 11, 2],
        [1, 9, 2],
        [1, 9, 12, 13, 2],
    ]
    assert tokenizer.tokenize([]) == []
    assert TextTokenizer(word_tokenizer(), 5).tokenize(["W9"]) == [[1, 3, 2]]


def test_the_fingerprint_tells_settings_apart_and_nothing_else() -> None:
    first = TextTokenizer(word_tokenizer(), 8)
    assert len(first.fingerprint) == 64
    used = TextTokenizer(word_tokenizer(), 8)
    used.tokenize(["w4 w5 w6 w7 w8 w9 w10 w11"])
    used.tokenizer(["w4", "w5 w6"], padding=True, truncation=True, max_length=3)
    assert used.fingerprint == first.fingerprint
    bigger = word_tokenizer()
    bigger.add_tokens(["w99"])
    others = [
        TextTokenizer(word_tokenizer(), 9),
        TextTokenizer(word_tokenizer(), 8, prompt="query: "),
        TextTokenizer(word_tokenizer(), 8, lower_case=True),
        TextTokenizer(bigger, 8),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_the_limit_is_the_models(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert positions(make("bert")) == 64
    assert positions(make("roberta")) == 64  # 66 rows of which the first two belong to padding
    folder = model_folder(tmp_path, "roberta")
    assert Backbone.load(folder).tokenizer.max_length == 64
    assert Backbone.load(folder, max_length=10).tokenizer.max_length == 10
    with pytest.raises(ValueError, match=r"max_length is 65, but .* has positions for 64"):
        Backbone.load(folder, max_length=65)
    with pytest.raises(ValueError, match="at least one token"):
        TextTokenizer(word_tokenizer(), 0)
    # a tokenizer without a limit of its own
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Backbone.load(folder).tokenizer.max_length == 64
