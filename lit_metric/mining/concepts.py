"""Candidates that share a concept with their anchor are no negatives."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor

from lit_metric.data.relations import Relations
from lit_metric.index import Embeddings
from lit_metric.mining.candidates import Candidates
from lit_metric.mining.filters import NegativeFilter
from lit_metric.mining.texts import ReadsTexts

_PAIRS = 1 << 18
"""Pairs of an anchor and a candidate that are compared at once."""


class ConceptFilter(ReadsTexts, NegativeFilter):
    """Drops candidates that share a concept with the anchor: a word that few items have.

    Such candidates are often about the same thing, whatever their labels say. Words of two letters or more
    count, in lower case; a text without spaces is a single word. An anchor without concepts keeps all
    candidates.

    Source: CAR (Wang et al., "CAR: Conceptualization-Augmented Reasoner for Zero-Shot Commonsense Question
    Answering", Findings of EMNLP 2023, arXiv 2305.14869), where concepts are keywords of a question and
    abstractions of them; here they are words of the items' texts, or tags.

    Args:
        max_share: a word that more than this share of the items have is no concept, above 0 and at most 1.
        shared: how many concepts the two must share, at least 1.
        texts: file of the items' texts; by default the file of the DataModule.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, max_share: float = 0.01, shared: int = 1, texts: str | None = None) -> None:
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share={max_share} must be above 0 and at most 1, a share of the items")
        if shared < 1:
            raise ValueError(f"shared={shared} must be at least 1; with 0 no candidate would be left")
        self.max_share = max_share
        self.shared = shared
        self.texts = texts
        self._embeddings: Embeddings | None = None
        self._concepts: csr_matrix | None = None  # [items, words]
        self._read: str | None = None

    def prepare(self, embeddings: Embeddings, relations: Relations) -> None:
        """See :class:`~lit_metric.mining.NegativeFilter`."""
        before, self._embeddings = self._embeddings, embeddings
        if before is not None and self._read == self.texts and torch.equal(before.ids, embeddings.ids):
            return
        # A word of a single item can't be shared.
        words = CountVectorizer(min_df=min(2, len(embeddings)), binary=True, dtype=np.int32)
        try:
            counts = words.fit_transform(self.texts_of(embeddings.ids)).tocsr()
        except ValueError:  # no item has a word
            counts = csr_matrix((len(embeddings), 0), dtype=np.int32)
        items_with = np.asarray(counts.sum(axis=0)).ravel()
        self._concepts = counts[:, items_with / len(embeddings) <= self.max_share]
        self._read = self.texts

    def keep(self, candidates: Candidates) -> Tensor:
        """See :class:`~lit_metric.mining.NegativeFilter`.

        Raises:
            RuntimeError: before :meth:`prepare`.
            KeyError: for an item that :meth:`prepare` did not see.
        """
        if self._embeddings is None or self._concepts is None:
            raise RuntimeError("call prepare() first: no item has concepts yet")
        present = candidates.present
        keep = torch.ones_like(present)
        anchors = candidates.anchors[:, None].expand_as(present)[present]
        left, right = (self._embeddings.rows(ids).numpy() for ids in (anchors, candidates.ids[present]))
        found = np.zeros(len(left), dtype=np.int64)
        for start in range(0, len(left), _PAIRS):
            rows = slice(start, start + _PAIRS)
            both = self._concepts[left[rows]].multiply(self._concepts[right[rows]])
            found[rows] = np.asarray(both.sum(axis=1)).ravel()
        keep[present] = torch.from_numpy(found < self.shared)
        return keep
