"""Candidates that share words with the anchor."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from lit_metric.index import Similarity, top_k
from lit_metric.mining.propose import Proposer
from lit_metric.mining.texts import ReadsTexts
from lit_metric.mining.vectors import Vectors


class BM25Proposer(ReadsTexts, Proposer):
    """Items by their BM25 score against the anchor's text, highest first, by the library bm25s.

    It finds what is alike in its words and not in its meaning, however the encoder sees it. Nothing is
    proposed that shares no word with the anchor. The scores that filters and draws see are similarities of
    the vectors, as with any other proposer.

    Install it with ``pip install "lit-metric[bm25]"``.

    Args:
        k1: how soon a word's repetition counts no more, above 0.
        b: how much long texts are held back, 0 to 1.
        stopwords: a language, such as ``"en"``, whose stop words are left out; None keeps all words.
        metric: the scale of the scores.
        texts: file of the items' texts; the data module gives its own.

    Raises:
        ValueError: if a number is out of range.
        ModuleNotFoundError: if bm25s is not installed.
    """

    def __init__(
        self,
        k1: float = 1.5,
        b: float = 0.75,
        stopwords: str | None = None,
        metric: Similarity = "cosine",
        texts: str | None = None,
    ) -> None:
        if k1 <= 0 or not 0 <= b <= 1:
            raise ValueError(f"k1={k1} must be above 0, b={b} between 0 and 1")
        _library()
        self.k1 = k1
        self.b = b
        self.stopwords = stopwords
        self.metric = metric
        self.texts = texts
        self._corpus: tuple[Vectors, Tensor, Any] | None = None

    def fit(self, vectors: Vectors, ids: Tensor, seed: int) -> None:
        """See :class:`~lit_metric.mining.Proposer`; ``seed`` has no part in it."""
        words = self._words(ids)
        index = None
        if any(words):
            index = _library().BM25(k1=self.k1, b=self.b)
            index.index(words, show_progress=False)
        self._corpus = vectors, ids, index

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`~lit_metric.mining.Proposer`."""
        if self._corpus is None:
            raise RuntimeError("propose() before fit(): there is no corpus to search")
        corpus, corpus_ids, index = self._corpus
        ids = torch.full((len(anchors), count), -1)
        scores = torch.full((len(anchors), count), -torch.inf)
        if index is None:
            return scores, ids
        for row, words in enumerate(self._words(anchors)):
            known = [word for word in words if word in index.vocab_dict]
            if not known:
                continue
            best, order = top_k(torch.from_numpy(index.get_scores(known))[None], count)
            found = order[best > 0]
            ids[row, : len(found)] = corpus_ids[found]
            scores[row, : len(found)] = (corpus[found] @ vectors[row]).cpu()
        return scores, ids

    def forget(self) -> None:
        """See :class:`~lit_metric.mining.Proposer`."""
        self._corpus = None

    def _words(self, ids: Tensor) -> list[list[str]]:
        words = _library().tokenize(
            self.texts_of(ids), stopwords=self.stopwords or [], return_ids=False, show_progress=False
        )
        # It has an empty word for a text without any, and all such texts would share that.
        return [[word for word in row if word] for row in words]


def _library() -> ModuleType:
    try:
        import bm25s
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'BM25Proposer needs the library bm25s: pip install "lit-metric[bm25]"', name="bm25s"
        ) from error
    return bm25s
