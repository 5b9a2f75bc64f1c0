"""Candidates out of the clusters that lie nearest to the anchor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lit_metric.clusters import k_means, nearest_centres
from lit_metric.data.ragged import Ragged
from lit_metric.index import Similarity
from lit_metric.mining.hashing import hashed, permuted
from lit_metric.mining.propose import Proposer
from lit_metric.mining.vectors import Vectors

_BLOCK = 65536
_POINTS_PER_CLUSTER = 256


class ClusterProposer(Proposer):
    """Items drawn uniformly without replacement out of the clusters nearest to the anchor.

    Harder than :class:`~lit_metric.mining.RandomProposer`, less so than
    :class:`~lit_metric.mining.NeighbourProposer`, and far less prone to propose the very nearest, among which
    unlabelled positives gather.

    Source: LEMON (arXiv 2203.04703), there on fixed sentence embeddings reduced by PCA.

    Args:
        clusters: how many the corpus is divided into, by k-means on at most 256 items for each.
        nearest: how many of them are drawn from, at least 1; all their items together are one pool.
        metric: the scale of the scores; the centres are found by it, too.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, clusters: int = 15, nearest: int = 3, metric: Similarity = "cosine") -> None:
        if not 1 <= nearest <= clusters:
            raise ValueError(f"nearest={nearest} must be at least 1 and at most clusters={clusters}")
        self.clusters = clusters
        self.nearest = nearest
        self.metric = metric
        self._corpus: tuple[Vectors, Tensor, int] | None = None
        self._centres = torch.empty(0, 0)
        self._members = Ragged.from_lists([])

    def fit(self, vectors: Vectors, ids: Tensor, seed: int) -> None:
        """See :class:`~lit_metric.mining.Proposer`."""
        drawn = np.arange(min(len(ids), _POINTS_PER_CLUSTER * self.clusters))
        rows = torch.from_numpy(permuted(hashed(seed), drawn, len(ids))).sort().values
        self._centres = k_means(vectors[rows], self.clusters, self.metric, seed)
        own = torch.cat(
            [nearest_centres(block, self._centres, self.metric)[:, 0] for _, block in vectors.blocks(_BLOCK)]
        )
        sizes = torch.bincount(own, minlength=len(self._centres))
        self._members = Ragged.from_lengths(own.argsort(stable=True), sizes)
        self._corpus = vectors, ids, seed

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`~lit_metric.mining.Proposer`."""
        if self._corpus is None:
            raise RuntimeError("propose() before fit(): there is no corpus to draw from")
        corpus, corpus_ids, seed = self._corpus
        ids = torch.full((len(anchors), count), -1)
        scores = torch.full((len(anchors), count), -torch.inf)
        near = nearest_centres(vectors, self._centres, self.metric, self.nearest)
        keys = hashed(seed, anchors.numpy())
        for row, clusters in enumerate(near):
            pool = self._members.select(clusters).values
            drawn = np.arange(min(count, len(pool)))
            found = pool[torch.from_numpy(permuted(keys[row : row + 1], drawn, max(1, len(pool))))]
            ids[row, : len(found)] = corpus_ids[found]
            scores[row, : len(found)] = (corpus[found] @ vectors[row]).cpu()
        return scores, ids

    def forget(self) -> None:
        """See :class:`~lit_metric.mining.Proposer`."""
        self._corpus, self._members = None, Ragged.from_lists([])
