"""Where candidate negatives come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lit_metric.clusters import k_means, nearest_centres
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import (
    LabelRelations,
    MultiLabelRelations,
    PairRelations,
    Relations,
    UnionRelations,
)
from lit_metric.index import Embeddings, ExactIndex, Index, Similarity
from lit_metric.index.base import Exclude
from lit_metric.mining.hashing import UInts, hashed, permuted

_BLOCK = 65536
_CLASSES = 1024
_POINTS_PER_CLUSTER = 256


class Proposer(ABC):
    """Proposes candidates for anchors from a corpus.

    A longer proposal for the same anchor begins with the shorter one. An approximate index may break this.

    Attributes:
        similarity: the scale of all scores.
    """

    similarity: Similarity

    @abstractmethod
    def fit(self, corpus: Embeddings, seed: int) -> None:
        """Replace the corpus."""

    @abstractmethod
    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Propose ``count`` items for each anchor.

        Args:
            anchors: ``[A]`` ids.
            vectors: ``[A, d]`` of the anchors; those of the corpus for anchors in it.
            count: at least 1.

        Returns:
            Scores float32 and ids int64, ``[A, count]`` each; -inf and -1 where the corpus has no more.
        """

    @abstractmethod
    def forget(self) -> None:
        """Release the corpus."""

    def excluding(self, relations: Relations, ceilings: Ceilings | None = None) -> Proposer:
        """A proposer over the same corpus that skips excluded items and items above the ``ceilings``.

        They then use up no places in a proposal. Where this is no cheaper than dropping them afterwards, the
        result is the proposer itself, which skips and counts nothing.
        """
        return self


class Ceilings:
    """Score limits for candidates, and a count of the candidates that each limit drops.

    Args:
        anchors: ``[A]`` int64 distinct ids, in any order.
        scores: ``[A, F]`` float32: filter ``f`` drops the candidates of an anchor that score as much or more;
            NaN drops none.

    Example:
        >>> ceilings = Ceilings(torch.tensor([7, 3]), torch.tensor([[0.9, 0.5], [0.2, torch.nan]]))
        >>> rows = ceilings.begin(torch.tensor([3, 7]))
        >>> scores = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.6, 0.9]])
        >>> ceilings.leave_out(rows, scores, torch.zeros(2, 3, dtype=torch.bool)).tolist()
        [[False, True, True], [False, True, True]]
        >>> ceilings.dropped.tolist()
        [[1, 1], [2, 0]]
    """

    def __init__(self, anchors: Tensor, scores: Tensor) -> None:
        self.scores = scores
        self._by_anchor = Embeddings(anchors, scores)
        self.dropped = torch.zeros(scores.shape, dtype=torch.int64)
        """``[A, F]`` how many candidates of each anchor each filter was the first to drop."""

    def begin(self, anchors: Tensor) -> Tensor:
        """Start a search for ``anchors [a]`` and return their rows ``[a]``.

        Earlier counts for them are reset, as a wider search for the same anchors meets the same candidates
        again.
        """
        rows = self._by_anchor.rows(anchors)
        self.dropped[rows] = 0
        return rows

    def leave_out(self, rows: Tensor, scores: Tensor, out: Tensor) -> Tensor:
        """Mark the candidates that are not below the limits, and count them.

        Args:
            rows: ``[a]`` of the anchors.
            scores: ``[a, n]`` of candidates that are new since :meth:`begin`.
            out: ``[a, n]`` bool, candidates left out for another reason; changed in place.

        Returns:
            ``out``.
        """
        for column, ceiling in enumerate(self.scores[rows].to(scores.device).T):
            dropped = (scores >= ceiling[:, None]) > out
            if dropped.device.type == "cpu":
                # A sum of bool takes 50 times as long there.
                counts = np.fromiter(map(np.count_nonzero, dropped.numpy()), np.int64, len(dropped))
                self.dropped[rows, column] += torch.from_numpy(counts)
            else:
                self.dropped[rows, column] += dropped.sum(1).cpu()
            out |= dropped
        return out


class NeighbourProposer(Proposer):
    """The anchor's nearest neighbours, most similar first.

    Args:
        index: searches; each corpus replaces its content. Exact cosine search by default.
    """

    def __init__(self, index: Index | None = None) -> None:
        self.index = ExactIndex() if index is None else index
        self.similarity = self.index.similarity

    def fit(self, corpus: Embeddings, seed: int) -> None:
        """See :class:`Proposer`; ``seed`` has no effect."""
        self.index.reset()
        for ids, vectors in corpus.blocks(_BLOCK):
            self.index.add(vectors, ids)

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`Proposer`."""
        return self._search(vectors, count)

    def forget(self) -> None:
        """See :class:`Proposer`."""
        self.index.reset()

    def excluding(self, relations: Relations, ceilings: Ceilings | None = None) -> Proposer:
        """See :class:`Proposer`; a subclass may propose something else, and stays as it is."""
        if type(self) is not NeighbourProposer or not self.index.excludes or not _cheap_by_block(relations):
            return self
        return _AllowedNeighbours(self.index, relations, ceilings)

    def _search(self, vectors: Tensor, count: int, exclude: Exclude | None = None) -> tuple[Tensor, Tensor]:
        if not len(self.index):
            raise RuntimeError("call fit() before propose(): there is no corpus to search")
        scores, ids = self.index.search(vectors, count, exclude)
        return scores.cpu(), ids.cpu()


class _AllowedNeighbours(NeighbourProposer):
    """The nearest neighbours that ``relations``, on the CPU, do not exclude, below ``ceilings``."""

    def __init__(self, index: Index, relations: Relations, ceilings: Ceilings | None) -> None:
        super().__init__(index)
        self._relations = {torch.device("cpu"): relations}
        self._ceilings = ceilings

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if not isinstance(self.index, ExactIndex) or not self.index.holds(anchors):
            return self._search(vectors, count, self._excluded(anchors))
        # Their vectors are those of the index.
        anchors, order = anchors.sort()
        scores, ids = self.index.search_by_id(anchors, count, self._excluded(anchors))
        back = order.argsort()
        return scores.cpu()[back], ids.cpu()[back]

    def _excluded(self, anchors: Tensor) -> Exclude:
        ceilings = self._ceilings
        within = None if ceilings is None else ceilings.begin(anchors)

        def excluded(rows: slice, ids: Tensor, scores: Tensor) -> Tensor:
            if ids.device not in self._relations:
                self._relations[ids.device] = self._relations[torch.device("cpu")].to(ids.device)
            out = self._relations[ids.device].excluded(anchors[rows].to(ids.device), ids)
            if ceilings is None or within is None:
                return out
            return ceilings.leave_out(within[rows], scores, out)

        return excluded


def _cheap_by_block(relations: Relations) -> bool:
    """Whether looking up all pairs of a block costs little compared with the scores of that block."""
    if isinstance(relations, UnionRelations):
        return all(_cheap_by_block(part) for part in relations.parts)
    if isinstance(relations, MultiLabelRelations):
        # The answer takes a product as wide as there are classes. Of many classes, most are small.
        return len(relations.classes) <= _CLASSES
    return isinstance(relations, LabelRelations | PairRelations)


class RandomProposer(Proposer):
    """Items drawn uniformly without replacement, whatever their similarity, in no order.

    Args:
        similarity: the scale of the scores.
    """

    def __init__(self, similarity: Similarity = "cosine") -> None:
        self.similarity = similarity
        self._corpus: Embeddings | None = None
        self._seed = 0

    def fit(self, corpus: Embeddings, seed: int) -> None:
        """See :class:`Proposer`."""
        self._corpus, self._seed = corpus, seed

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`Proposer`."""
        if self._corpus is None:
            raise RuntimeError("call fit() before propose(): there is no corpus to draw from")
        ids = torch.full((len(anchors), count), -1)
        scores = torch.full((len(anchors), count), -torch.inf)
        drawn = self._draw(self._corpus, hashed(self._seed, anchors.numpy()), vectors, count)
        for row, found in enumerate(drawn):
            ids[row, : len(found)] = self._corpus.ids[found]
            scores[row, : len(found)] = (self._corpus[found] @ vectors[row]).cpu()
        return scores, ids

    def forget(self) -> None:
        """See :class:`Proposer`."""
        self._corpus = None

    def _draw(self, corpus: Embeddings, keys: UInts, vectors: Tensor, count: int) -> Iterable[Tensor]:
        """For each anchor, by its hash in ``keys [A]``, ``count`` rows of the corpus, or all if fewer."""
        slots = np.arange(min(count, len(corpus)))
        return torch.from_numpy(permuted(keys[:, None], slots[None], len(corpus)))


class ClusterProposer(RandomProposer):
    """Items drawn uniformly without replacement from the clusters nearest to the anchor.

    They are harder than those of :class:`RandomProposer`, and less hard than those of
    :class:`NeighbourProposer`. The very nearest items, among which unlabelled positives gather, are seldom
    proposed.

    Source: LEMON (arXiv 2203.04703), there on fixed sentence embeddings reduced by PCA.

    Args:
        clusters: number of clusters of the corpus, by k-means on at most 256 items for each.
        nearest: number of clusters to draw from, at least 1; all their items are one pool.
        similarity: the scale of the scores, which also finds the centres.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, clusters: int = 15, nearest: int = 3, similarity: Similarity = "cosine") -> None:
        if not 1 <= nearest <= clusters:
            raise ValueError(f"nearest={nearest} must be at least 1 and at most clusters={clusters}")
        super().__init__(similarity)
        self.clusters = clusters
        self.nearest = nearest
        self._centres = torch.empty(0, 0)
        self._members = Ragged.from_lists([])

    def fit(self, corpus: Embeddings, seed: int) -> None:
        """See :class:`Proposer`."""
        super().fit(corpus, seed)
        drawn = np.arange(min(len(corpus), _POINTS_PER_CLUSTER * self.clusters))
        rows = torch.from_numpy(permuted(hashed(seed), drawn, len(corpus))).sort().values
        self._centres = k_means(corpus[rows], self.clusters, self.similarity, seed)
        blocks = (vectors for _, vectors in corpus.blocks(_BLOCK))
        cluster_of = torch.cat(
            [nearest_centres(vectors, self._centres, self.similarity)[:, 0] for vectors in blocks]
        )
        sizes = torch.bincount(cluster_of, minlength=len(self._centres))
        self._members = Ragged.from_lengths(cluster_of.argsort(stable=True), sizes)

    def forget(self) -> None:
        """See :class:`Proposer`."""
        super().forget()
        self._members = Ragged.from_lists([])

    def _draw(self, corpus: Embeddings, keys: UInts, vectors: Tensor, count: int) -> Iterable[Tensor]:
        near = nearest_centres(vectors, self._centres, self.similarity, self.nearest)
        for key, clusters in zip(keys[:, None], near, strict=True):
            pool = self._members.select(clusters).values
            slots = np.arange(min(count, len(pool)))
            yield pool[torch.from_numpy(permuted(key, slots, max(1, len(pool))))]


class JoinedProposer(Proposer):
    """The candidates of several proposers, each candidate once.

    A table is sorted by score, whatever the order here. So give the miner a draw from all candidates, such as
    ``UniformWindow()``: among the first ten there may be those of a single proposer.

    Source of the idea: R²anker (arXiv 2206.08063), which draws negatives from the results of several
    retrievers.

    Args:
        proposers: at least two, whose scores are on one scale.
        order: ``"round_robin"`` takes the first candidate of each proposer in turn, then the second of each,
            and so on. ``"reciprocal_rank"`` prefers candidates that several proposers rank early: it sorts by
            Σ 1 / (60 + rank) over them (Cormack, Clarke and Büttcher, SIGIR 2009), ties in turn.
        depth: ranks below this count for ``"reciprocal_rank"``. Candidates beyond it come after the others,
            in turn.

    Raises:
        ValueError: if there are fewer than two proposers, their similarities differ, or an argument is
            out of range.
    """

    def __init__(
        self,
        proposers: list[Proposer],
        order: Literal["round_robin", "reciprocal_rank"] = "reciprocal_rank",
        depth: int = 100,
    ) -> None:
        if len(proposers) < 2 or len({proposer.similarity for proposer in proposers}) > 1:
            raise ValueError(
                "proposers must be two or more with the same similarity, not "
                f"{[f'{type(proposer).__name__}: {proposer.similarity}' for proposer in proposers]}"
            )
        if order not in ("round_robin", "reciprocal_rank"):
            raise ValueError(f"order={order!r}; use 'round_robin' or 'reciprocal_rank'")
        if depth < 1:
            raise ValueError(f"depth={depth} must be at least 1")
        self.proposers = proposers
        self.order: Literal["round_robin", "reciprocal_rank"] = order
        self.depth = depth
        self.similarity = proposers[0].similarity

    def fit(self, corpus: Embeddings, seed: int) -> None:
        """See :class:`Proposer`."""
        for proposer in self.proposers:
            proposer.fit(corpus, seed)

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`Proposer`."""
        fused = self.order == "reciprocal_rank"
        wanted = max(count, self.depth) if fused else count
        proposals = [proposer.propose(anchors, vectors, wanted) for proposer in self.proposers]
        scores, ids = zip(*proposals, strict=True)
        joined, places = join(ids, self.depth if fused else 0, count)
        flat = torch.stack(scores, dim=2).flatten(1).gather(1, places)
        return flat.masked_fill(joined < 0, -torch.inf), joined

    def forget(self) -> None:
        """See :class:`Proposer`."""
        for proposer in self.proposers:
            proposer.forget()


def join(sources: Sequence[Tensor], depth: int, count: int, offset: int = 60) -> tuple[Tensor, Tensor]:
    """Merge rankings of the same anchors.

    Args:
        sources: S rankings, ``[A, n]`` int64 ids each, distinct within a row, -1 behind the last.
        depth: ranks from this one on count nothing for the fused score; 0 merges in turn alone.
        count: width of the result.
        offset: of the fused score, Σ 1 / (offset + rank) with ranks from 1.

    Returns:
        ids ``[A, count]``, -1 behind the last; and the place of each among ``n · S`` proposals in turn, in
        the first source that has it.

    Example:
        >>> lexical, dense = torch.tensor([[7, 3, 5]]), torch.tensor([[8, 5, 3]])
        >>> join([lexical, dense], depth=0, count=4)[0].tolist()
        [[7, 8, 3, 5]]
        >>> join([lexical, dense], depth=3, count=4)[0].tolist()  # 3 and 5 have 1/62 + 1/63
        [[3, 5, 7, 8]]
    """
    ids = torch.stack(list(sources), dim=2).flatten(1)  # [A, n·S], the order of taking turns
    ranks = torch.arange(ids.shape[1]) // len(sources)
    worth = torch.where(ranks < depth, 1.0 / (offset + 1 + ranks.double()), 0.0).expand(ids.shape)
    by_id, order = ids.sort(dim=1, stable=True)
    new = torch.ones_like(by_id, dtype=torch.bool)
    new[:, 1:] = by_id[:, 1:] != by_id[:, :-1]
    group = new.cumsum(1) - 1
    # Rounded, as a sum must not depend on which source came first.
    total = torch.zeros_like(worth).scatter_add(1, group, worth.gather(1, order)).round(decimals=12)
    score = torch.empty_like(worth).scatter(1, order, total.gather(1, group))
    first = torch.empty_like(new).scatter(1, order, new) & (ids >= 0)
    places = score.masked_fill(~first, -1.0).argsort(dim=1, descending=True, stable=True)[:, :count]
    joined = ids.gather(1, places).masked_fill(~first.gather(1, places), -1)
    missing = count - places.shape[1]
    return (
        torch.nn.functional.pad(joined, (0, missing), value=-1),
        torch.nn.functional.pad(places, (0, missing)),
    )
