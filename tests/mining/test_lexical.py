"""BM25 against its formula."""

from __future__ import annotations

import itertools
import math
import random
import re
import sys
from pathlib import Path

import pytest
import torch

from lit_metric.configurable import rebuilt, spec
from lit_metric.data import Items
from lit_metric.index import Embeddings
from lit_metric.mining import BM25Proposer, Miner, write_texts
from tests.mining.cases import blobs, relations_of


def bm25(corpus: list[list[str]], query: list[str], k1: float, b: float) -> list[float]:
    """Lucene's, without its constant factor k1 + 1."""
    mean = sum(map(len, corpus)) / len(corpus)
    scores = []
    for document in corpus:
        score = 0.0
        for word in query:
            holders = sum(word in other for other in corpus)
            rarity = math.log(1 + (len(corpus) - holders + 0.5) / (holders + 0.5))
            times = document.count(word)
            score += rarity * times / (times + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[list[str], str]:
    draw = random.Random(0)
    texts = [
        " ".join(f"Word{int(draw.expovariate(0.15))}" for _ in range(draw.randrange(2, 12)))
        for _ in range(50)
    ]
    texts = [*dict.fromkeys(texts), "", "unique-to-me", "a . b"]
    items, vocabulary = Items.encode([[text] for text in texts])
    return texts, str(write_texts(items, vocabulary, tmp_path))


def test_the_order_is_that_of_the_formula(corpus: tuple[list[str], str]) -> None:
    texts, path = corpus
    embeddings = torch.randn(len(texts), 8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(texts))[3:]  # A corpus of some items only, whose row is not their id.
    vectors = Embeddings(torch.arange(len(texts)), embeddings, "cosine")
    proposer = rebuilt(spec(BM25Proposer(k1=1.2, b=0.6, texts=path)))
    proposer.fit(vectors.subset(rows), seed=0)
    words = [re.findall(r"\w\w+", text.lower()) for text in texts]
    anchors = torch.arange(len(texts))
    scores, found = proposer.propose(anchors, vectors[anchors], 60)
    everything = vectors[anchors] @ vectors[anchors].T
    for anchor in range(len(texts)):
        told = bm25(words[3:], [*dict.fromkeys(words[anchor])], 1.2, 0.6)
        repeated = bm25(words[3:], words[anchor], 1.2, 0.6)
        drawn = [one for one in found[anchor].tolist() if one >= 0]
        assert {*drawn} == {row + 3 for row, score in enumerate(told) if score > 0}
        ranked = [repeated[one - 3] for one in drawn]
        assert all(first >= second - 1e-4 for first, second in itertools.pairwise(ranked))
        torch.testing.assert_close(scores[anchor, : len(drawn)], everything[anchor, drawn], rtol=0, atol=1e-6)
        assert scores[anchor, len(drawn) :].isneginf().all()
    assert found[anchors[-3]].unique().tolist() == [-1]  # an empty text shares no word
    assert torch.equal(proposer.propose(anchors, vectors[anchors], 5)[1], found[:, :5])
    proposer.forget()
    with pytest.raises(RuntimeError, match=r"call fit\(\)"):
        proposer.propose(anchors, vectors[anchors], 5)


def test_a_miner_finds_negatives_by_their_words(corpus: tuple[list[str], str]) -> None:
    texts, path = corpus
    embeddings, labels = blobs(len(texts), 3)
    relations, ids = relations_of(labels), torch.arange(len(texts))
    table = Miner(top_k=4, filters=[], proposer=BM25Proposer(texts=path)).mine(
        Embeddings(ids, embeddings), relations
    )
    words = [{*re.findall(r"\w\w+", text.lower())} for text in texts]
    pairs = [(one, int(other)) for one, row in enumerate(table.ids) for other in row if other >= 0]
    assert len(pairs) > 100
    assert all(words[one] & words[other] and labels[one] != labels[other] for one, other in pairs)
    assert (table.scores[:, :-1] >= table.scores[:, 1:]).all()  # A table ranks by similarity.


def test_a_corpus_without_words_has_nothing_to_propose(tmp_path: Path) -> None:
    items, vocabulary = Items.encode([["?"], ["!"]])
    proposer = BM25Proposer(texts=str(write_texts(items, vocabulary, tmp_path)))
    vectors = Embeddings(torch.arange(2), torch.eye(2), "cosine")
    proposer.fit(vectors, seed=0)
    assert proposer.propose(torch.arange(2), torch.eye(2), 3)[1].tolist() == [[-1] * 3] * 2


def test_stop_words_find_nothing(tmp_path: Path) -> None:
    items, vocabulary = Items.encode([["this is the card"], ["this is the cash"], ["card lost"]])
    path = str(write_texts(items, vocabulary, tmp_path))
    vectors = Embeddings(torch.arange(3), torch.eye(3), "cosine")
    for stopwords, expected in ((None, [[0, 1, 2], [1, 0, -1]]), ("en", [[2, 0, -1], [1, -1, -1]])):
        proposer = BM25Proposer(stopwords=stopwords, texts=path)
        proposer.fit(vectors, seed=0)
        found = proposer.propose(torch.arange(2), torch.eye(3)[:2], 3)[1]
        assert [{*row} for row in found.tolist()] == [{*row} for row in expected]


def test_what_is_missing_or_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="k1=0 must be above 0"):
        BM25Proposer(k1=0)
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lit-metric\[bm25\]"'):
        BM25Proposer()
