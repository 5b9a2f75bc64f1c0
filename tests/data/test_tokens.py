"""The token cache: right, written once, and never trusted when damaged."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lit_metric.data import Tokens, Vocabulary, default_cache_dir, progress, tokenize
from lit_metric.data import tokens as tokens_module
from tests import forked

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
    racers = [forked.popen(command, **pipes) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert [racer.communicate()[0] for racer in racers] == ["True 5000 4999\n"] * 2
    assert len(files(tmp_path)) == 1


def read_elsewhere(tokens: Tokens, ids: list[int]) -> list[list[int]]:
    return tokens.select(torch.tensor(ids)).tolist()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
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


class Cut(Bytes):
    """Is cut off after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().tokenize(texts)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(tokens_module, "CHUNK", 100)
    monkeypatch.setattr(tokens_module, "BLOCK", 300)


def cut_off(folder: Path, calls: int) -> Path:
    """Tokenise some of the texts, and return the folder of what was done."""
    with pytest.raises(KeyboardInterrupt):
        tokenize(Vocabulary(TEXTS), Cut(calls), folder)
    (unfinished,) = folder.glob("*.unfinished")
    return unfinished


def test_many_texts_make_the_same_file_as_few(tmp_path, vocabulary, monkeypatch):
    whole = tokenize(vocabulary, Bytes(), tmp_path / "whole")
    for block in (300, 3004, 10_000):
        monkeypatch.setattr(tokens_module, "CHUNK", 100 if block == 300 else 1024)
        monkeypatch.setattr(tokens_module, "BLOCK", block)
        tokens = tokenize(vocabulary, Bytes(), tmp_path / str(block))
        assert tokens.path.read_bytes() == whole.path.read_bytes()
        assert files(tmp_path / str(block)) == [whole.path.name]


@pytest.mark.usefixtures("small_blocks")
def test_a_run_that_was_cut_off_goes_on(tmp_path, vocabulary, caplog, monkeypatch):
    cut_off(tmp_path, 17)  # five blocks of three chunks, and two chunks more
    tokenizer = Bytes()
    monkeypatch.setattr("lit_metric.data.progress.BETWEEN", 0.0)
    with caplog.at_level(logging.INFO, logger="lit_metric"):
        tokens = tokenize(vocabulary, tokenizer, tmp_path)
    assert "on after the 1500 texts" in caplog.text
    assert f" 300 of {len(vocabulary) - 1500:,} texts, " in caplog.text
    assert sum(tokenizer.calls) == len(TEXTS) - 1500
    assert tokens.select(torch.arange(len(TEXTS))).tolist() == naive(list(range(len(TEXTS))))
    assert len(files(tmp_path)) == 1


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    [
        ("blocks", lambda data: data[:-5], 1200),  # a torn entry
        ("tokens", lambda data: data[:-1], 1200),  # written to the list first, lost in a power failure
        ("lengths", lambda data: data + b"123", 1500),  # a block that was being written
        ("tokens", lambda data: data[:8] + b"\1" + data[9:], 0),
        ("blocks", lambda data: b"", 0),
    ],
)
def test_a_damaged_block_and_those_after_it_are_made_again(tmp_path, vocabulary, name, damage, kept):
    path = cut_off(tmp_path, 17) / name
    path.write_bytes(damage(path.read_bytes()))
    tokenizer = Bytes()
    tokens = tokenize(vocabulary, tokenizer, tmp_path)
    assert sum(tokenizer.calls) == len(TEXTS) - kept
    assert tokens.select(torch.arange(len(TEXTS))).tolist() == naive(list(range(len(TEXTS))))


class Killed(Bytes):
    """Its process is killed after some calls."""

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        if len(self.calls) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().tokenize(texts)


@pytest.mark.usefixtures("small_blocks")
def test_what_a_killed_process_did_is_kept(tmp_path, vocabulary):
    process = multiprocessing.get_context("fork").Process(
        target=tokenize, args=(vocabulary, Killed(), tmp_path)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    tokenizer = Bytes()
    tokens = tokenize(vocabulary, tokenizer, tmp_path)
    assert sum(tokenizer.calls) == len(TEXTS) - 600
    assert tokens.select(torch.tensor([3003])).tolist() == naive([3003])


def tokenize_here(folder: Path, barrier: Any, counts: Any) -> None:
    tokenizer = Bytes()
    barrier.wait()
    tokens = tokenize(Vocabulary(TEXTS), tokenizer, folder)
    assert tokens.select(torch.tensor([3003])).tolist() == naive([3003])
    counts.put(sum(tokenizer.calls))


@pytest.mark.usefixtures("small_blocks")
def test_of_processes_that_race_for_many_texts_one_does_the_work(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, counts = context.Barrier(3), context.Queue()
    racers = [context.Process(target=tokenize_here, args=(tmp_path, barrier, counts)) for _ in range(3)]
    for racer in racers:
        racer.start()
    assert sorted(counts.get(timeout=300) for _ in racers) == [0, 0, len(TEXTS)]
    for racer in racers:
        racer.join(300)
    assert len(list(tmp_path.glob("tokens-*.arrow"))) == len(list(tmp_path.glob("*.unfinished"))) + 1 == 1
