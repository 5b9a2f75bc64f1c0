"""Texts that parts of a miner read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from lit_metric.configurable import rebuilt, spec
from lit_metric.data import DataError, Items
from lit_metric.mining import (
    EncoderGuide,
    GuideFilter,
    JoinedProposer,
    Miner,
    RandomProposer,
    give_texts,
    write_texts,
)
from lit_metric.mining.texts import BM25Proposer


def test_texts_of_items_are_what_they_were(tmp_path: Path) -> None:
    rows = [["red", "round"], [], ["naïve\x00\n, 🚗"], ["round", "red"]]
    items, vocabulary = Items.encode(rows, kind="set")
    path = write_texts(items, vocabulary, tmp_path)
    guide = EncoderGuide("model", texts=str(path))
    for reader in (guide, pickle.loads(pickle.dumps(guide)), rebuilt(spec(guide))):
        assert reader.texts_of(torch.tensor([3, 2, 1, 0, 0])) == [
            "round, red",
            "naïve\x00\n, 🚗",
            "",
            "red, round",
            "red, round",
        ]
    before = path.stat().st_mtime_ns
    assert write_texts(items, vocabulary, tmp_path) == path
    assert path.stat().st_mtime_ns == before
    others, theirs = Items.encode([["red"], *rows[1:]], kind="set")
    assert write_texts(others, theirs, tmp_path) != path


def test_the_file_of_texts_may_be_a_path_and_must_be_one_of_texts(tmp_path: Path) -> None:
    items, vocabulary = Items.encode([["red"], ["round"]])
    guide = rebuilt(spec(EncoderGuide("model", texts=write_texts(items, vocabulary, tmp_path))))  # type: ignore[arg-type]
    assert guide.texts_of(torch.tensor([1, 0])) == ["round", "red"]
    (tmp_path / "other.csv").write_text("text")
    for path in (tmp_path / "none.arrow", tmp_path / "other.csv"):
        with pytest.raises(DataError, match=f"texts='{path}' of BM25Proposer is no file of texts; write one"):
            BM25Proposer(texts=str(path)).texts_of(torch.tensor([0]))


def test_all_that_read_texts_are_told_where_they_are(tmp_path: Path) -> None:
    items, vocabulary = Items.encode([["red"], ["round"]])
    given = BM25Proposer(texts="mine.arrow")
    miner = Miner(
        proposer=JoinedProposer([BM25Proposer(), given]), filters=[GuideFilter(EncoderGuide("model"))]
    )
    give_texts(miner, items, vocabulary, tmp_path)
    [path] = tmp_path.glob("*.arrow")
    [proposer, other], guide = miner.proposer.proposers, miner.filters[0].guide  # type: ignore[union-attr, attr-defined]
    assert [proposer.texts, other.texts, guide.texts] == [str(path), "mine.arrow", str(path)]
    # A miner that is used for other data reads theirs, but for what was given.
    give_texts(miner, *Items.encode([["blue"], ["long"]]), tmp_path / "other")
    [theirs] = (tmp_path / "other").glob("*.arrow")
    assert [proposer.texts, other.texts, guide.texts] == [str(theirs), "mine.arrow", str(theirs)]
    assert guide.texts_of(torch.tensor([0])) == ["blue"]
    give_texts(miner, items, vocabulary, tmp_path)
    assert guide.texts_of(torch.tensor([0])) == ["red"]
    # The miner of another process is built from a description, which must say so.
    assert rebuilt(spec(miner)).filters[0].guide.texts_of(torch.tensor([1])) == ["round"]


def test_nothing_is_written_where_nothing_reads(tmp_path: Path) -> None:
    items, vocabulary = Items.encode([["red"], ["round"]])
    give_texts(Miner(proposer=RandomProposer()), items, vocabulary, tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="EncoderGuide reads the items' texts and has none"):
        EncoderGuide("model").texts_of(torch.tensor([0]))
