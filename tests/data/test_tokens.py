"""The token cache: right, written once, and never trusted when damaged."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from lit_metric.data import Tokens, Vocabulary, default_cache_dir, progress, tokenize
from lit_metric.data import tokens as tokens_module

TEXTS = ["hello", "", "a\x00b", "ä" * 50, *(f"text {number}" for number in range(3000))]


class Bytes:
    """UTF-8 bytes as token ids, after a prompt."""

    def __init__(self, prompt: str = "") -> None:
        self.prompt = prompt
        self.calls: list[int] = []

    @property
    def fingerprint(self) -> str:
        return f"bytes {self.prompt!r}"

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        self.calls.append(len(texts))
        return [list((self.prompt + text).encode()) for text in texts]

    def prompt_tokens(self) -> int:
        return 0


def naive(ids: list[int], prompt: str = "") -> list[list[int]]:
    return [list((prompt + TEXTS[number]).encode()) for number in ids]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(TEXTS)


def test_select_against_tokenising_again(tmp_path, vocabulary):
    tokens = tokenize(vocabulary, Bytes(), tmp_path)
    assert len(tokens) == len(TEXTS)
    assert tokens.lengths.tolist() == [len(row) for row in naive(list(range(len(TEXTS))))]
    for ids in ([3, 1, 1, 3003, 0], [1], []):
        selected = tokens.select(torch.tensor(ids, dtype=torch.int64))
        assert selected.tolist() == naive(ids)
        assert selected.values.dtype == torch.int64


@pytest.mark.parametrize("number", [-1, len(TEXTS)])
def test_a_text_that_is_not_there(tmp_path, vocabulary, number):
    with pytest.raises(IndexError, match=r"0\.\.3003"):
        tokenize(vocabulary, Bytes(), tmp_path).select(torch.tensor([0, number]))


def test_tokenised_once_in_batches_and_then_read(tmp_path, vocabulary):
    tokenizer = Bytes()
    tokenize(vocabulary, tokenizer, tmp_path)
    assert tokenizer.calls == [1024, 1024, 956]
    tokenize(Vocabulary(list(TEXTS)), tokenizer, tmp_path)
    assert len(tokenizer.calls) == 3
    assert len(files(tmp_path)) == 1


def test_other_texts_or_another_tokenizer_have_another_file(tmp_path, vocabulary):
    tokenize(vocabulary, Bytes(), tmp_path)
    prompted = tokenize(vocabulary, Bytes("query: "), tmp_path)
    tokenize(Vocabulary(TEXTS[::-1]), Bytes(), tmp_path)
    assert len(files(tmp_path)) == 3
    assert prompted.select(torch.tensor([0, 2])).tolist() == naive([0, 2], "query: ")


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_all(path: Path) -> None:
    path.write_bytes(b"")


def damage_kind(path: Path) -> None:
    tokens_module._write(path, torch.zeros(0).int().numpy(), torch.zeros(1).long().numpy())


@pytest.mark.parametrize("damage", [damage_end, damage_middle, damage_all, damage_kind])
def test_a_damaged_file_is_found_and_written_again(tmp_path, vocabulary, caplog, damage):
    tokenize(vocabulary, Bytes(), tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    tokenizer = Bytes()
    with caplog.at_level(logging.WARNING, logger="lit_metric"):
        tokens = tokenize(vocabulary, tokenizer, tmp_path)
    assert tokenizer.calls
    assert "is damaged" in caplog.text
    assert path.read_bytes() == whole
    assert tokens.select(torch.tensor([3003])).tolist() == naive([3003])


def test_a_crash_while_writing_leaves_nothing(tmp_path, vocabulary, monkeypatch):
    def crash(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        tokenize(vocabulary, Bytes(), tmp_path)
    assert files(tmp_path) == []


def test_a_writer_that_loses_the_race_disturbs_nobody(tmp_path, vocabulary):
    first = tokenize(vocabulary, Bytes(), tmp_path)
    tokens_module._write(first.path, first.values, first.offsets)
    assert first.select(torch.tensor([3003])).tolist() == naive([3003])
    assert Tokens(first.path).select(torch.tensor([3003])).tolist() == naive([3003])
    assert len(files(tmp_path)) == 1


RACE = """
import sys
from lit_metric.data import Vocabulary, tokenize
class Bytes:
    fingerprint = "bytes"
    def tokenize(self, texts):
        return [list(text.encode()) for text in texts]
    def prompt_tokens(self):
        return 0
texts = [f"text {number}" for number in range(5_000)]
print("ready", flush=True)
sys.stdin.readline()
tokens = tokenize(Vocabulary(texts), Bytes(), sys.argv[1], progress=False)
print(tokens.verify(), len(tokens), bytes(tokens.values[-4:].tolist()).decode())
"""


def test_processes_that_race_each_get_the_whole(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert [racer.communicate()[0] for racer in racers] == ["True 5000 4999\n"] * 2
    assert len(files(tmp_path)) == 1


def read_elsewhere(tokens: Tokens, ids: list[int]) -> list[list[int]]:
    return tokens.select(torch.tensor(ids)).tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_the_file_again(tmp_path, vocabulary, method):
    tokens = tokenize(vocabulary, Bytes(), tmp_path)
    assert len(ForkingPickler.dumps(tokens)) < 1000  # the path, not the data
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_elsewhere, (tokens, [3, 0])) == naive([3, 0])


def test_tokens_in_memory_travel_as_data():
    tokens = copy.deepcopy(Tokens.from_lists([[1, 2], [], [3]]))
    assert tokens.select(torch.tensor([2, 1, 0])).tolist() == [[3], [], [1, 2]]
    assert tokens.verify()


def test_an_empty_vocabulary(tmp_path):
    tokens = tokenize(Vocabulary([]), Bytes(), tmp_path)
    assert tokens.select(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_a_tokenizer_that_drops_rows_is_refused(tmp_path, vocabulary):
    class Dropping(Bytes):
        def tokenize(self, texts: list[str]) -> list[list[int]]:
            return super().tokenize(texts)[1:]

    with pytest.raises(ValueError, match="1023 rows for 1024 texts"):
        tokenize(vocabulary, Dropping(), tmp_path)


@pytest.mark.parametrize("shown", [True, False])
def test_a_progress_bar_shows_on_a_terminal(tmp_path, capsys, monkeypatch, shown):
    monkeypatch.setattr(progress, "has_bars", lambda: shown)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    tokenize(Vocabulary([str(number) for number in range(2000)]), Bytes(), tmp_path)
    assert ("tokenising" in capsys.readouterr().err) == shown


def test_where_the_cache_lives_by_default(monkeypatch):
    monkeypatch.delenv("LIT_METRIC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/lit-metric")
    monkeypatch.setenv("LIT_METRIC_CACHE", "/own")
    assert default_cache_dir() == Path("/own")


class Roles(Bytes):
    """Each role has its prompt."""

    PROMPTS: ClassVar = {"query": "q: ", "document": "passage: "}

    def tokenize(self, texts: list[str], role: str | None = None) -> list[list[int]]:
        self.calls.append(len(texts))
        return naive_prompted(texts, self.PROMPTS.get(role, ""))

    def prompt_tokens(self, role: str | None = None) -> int:
        return len(self.PROMPTS.get(role, ""))


def naive_prompted(texts: list[str], prompt: str) -> list[list[int]]:
    return [list((prompt + text).encode()) for text in texts]


def test_each_text_has_the_prompt_of_its_role(tmp_path):
    roles = ["document", "query", "title"]
    rows = [[f"text {number // 2}"] for number in range(2500)]
    vocabulary, ids = Vocabulary.encode(rows, [[roles[number % 3]] for number in range(2500)])
    for _ in range(2):  # once made, once read
        tokens = tokenize(vocabulary, Roles(), tmp_path)
        assert len(files(tmp_path)) == 1
        for number in (0, 1, 2, 1023, 1024, 2499):
            text, role = rows[number][0], roles[number % 3]
            prompt = Roles.PROMPTS.get(role, "")
            assert tokens.select(ids[number]).tolist() == naive_prompted([text], prompt)
            assert tokens.skip[ids[number]].tolist() == [len(prompt)]
    for other in (copy.deepcopy(tokens), ForkingPickler.loads(ForkingPickler.dumps(tokens))):
        assert torch.equal(other.skip, tokens.skip)
    plain = tokenize(Vocabulary(vocabulary.texts), Roles(), tmp_path)
    assert plain.skip is None
    assert plain.select(torch.tensor([0])).tolist() == [list(b"text 0")]
    assert len(files(tmp_path)) == 2
