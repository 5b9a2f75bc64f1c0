"""Tokens as the data part wants them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lit_metric.encoders import Backbone, TextTokenizer
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


def test_each_role_has_its_prompt_and_its_length() -> None:
    tokenizer = TextTokenizer(
        word_tokenizer(),
        8,
        prompt="w4 ",
        prompts={"query": "w20 w21 ", "title": ""},
        max_lengths={"query": 5},
    )
    texts = ["w10 w11 w12 w13 w14 w15 w16", "w10"]
    assert tokenizer.tokenize(texts, "query") == [[1, 20, 21, 10, 2], [1, 20, 21, 10, 2]]
    assert tokenizer.tokenize(texts, "title") == [[1, 10, 11, 12, 13, 14, 15, 2], [1, 10, 2]]
    assert tokenizer.tokenize(texts, "no one spoke of it") == tokenizer.tokenize(texts)
    assert tokenizer.tokenize(texts) == [[1, 4, 10, 11, 12, 13, 14, 2], [1, 4, 10, 2]]
    assert tokenizer.roles == ["query", "title"]
    assert {role: tokenizer.prompt_tokens(role) for role in (None, "query")} == {None: 0, "query": 0}


def test_documents_go_by_other_names_too() -> None:
    both = TextTokenizer(word_tokenizer(), 8, prompts={"passage": "w4 ", "corpus": "w5 "})
    assert [both.prompt_of(role) for role in ("document", "passage", "corpus", "query")] == [
        "w4 ",
        "w4 ",
        "w5 ",
        "",
    ]


def test_tokens_of_a_prompt_are_counted_with_what_stands_before_them() -> None:
    tokenizer = TextTokenizer(
        word_tokenizer(), 8, prompt="w4 ", prompts={"query": "w20 w21 ", "title": ""}, pool_prompt=False
    )
    assert [tokenizer.prompt_tokens(role) for role in (None, "query", "title", "other")] == [2, 3, 0, 2]
    cut = TextTokenizer(word_tokenizer(), 8, max_lengths={"query": 4}, prompts={"query": "w20 w21 "})
    assert cut.prompt_tokens("query") == 0
    cut = TextTokenizer(
        word_tokenizer(), 8, max_lengths={"query": 4}, prompts={"query": "w20 w21 "}, pool_prompt=False
    )
    with pytest.raises(ValueError, match=r"'w20 w21 ' has 3 tokens, which leaves none of a text cut to 4"):
        cut.prompt_tokens("query")


def test_only_roles_that_change_something_change_the_fingerprint() -> None:
    def fingerprint(**options: Any) -> str:
        return TextTokenizer(word_tokenizer(), 8, prompt="w4 ", **options).fingerprint

    plain = fingerprint()
    assert fingerprint(prompts={"query": "w4 "}, max_lengths={"query": 8}, pool_prompt=False) == plain
    several = [{"query": "w5 "}, {"document": "w5 "}, {"query": ""}, {"query": "w5 ", "document": "w6 "}]
    assert len({plain, *(fingerprint(prompts=each) for each in several)}) == 5
    lengths = [{"query": 7}, {"query": 6}, {"document": 7}]
    assert len({plain, *(fingerprint(max_lengths=each) for each in lengths)}) == 4


def test_a_length_by_role_has_its_limits(tiny: str) -> None:
    with pytest.raises(ValueError, match="max_length is 0"):
        TextTokenizer(word_tokenizer(), 8, max_lengths={"query": 0})
    with pytest.raises(ValueError, match=r"max_lengths: 'query' has 65, but .* positions for 64 tokens only"):
        Backbone.load(tiny, max_lengths={"query": 65})
