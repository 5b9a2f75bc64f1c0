"""Where candidate negatives come from, and how many have to be fetched so that enough remain."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.relations import (
    LabelRelations,
    MultiLabelRelations,
    PairRelations,
    Relations,
    UnionRelations,
)
from lit_metric.index import ExactIndex, Index, Similarity
from lit_metric.index.base import Exclude
from lit_metric.mining.candidates import first_kept
from lit_metric.mining.ceilings import Ceilings
from lit_metric.mining.hashing import hashed, permuted
from lit_metric.mining.vectors import Vectors

_ADDED_TOGETHER = 65536
_HELD = 1 << 21
_CLASSES = 1024
KEPT, EMPTY, BEYOND = 0, -1, -2


class Proposer(ABC):
    """Candidates for anchors out of a corpus.

    A longer proposal for the same anchor begins with the shorter one (an approximate index may break this).
    """

    metric: Similarity

    @abstractmethod
    def fit(self, vectors: Vectors, ids: Tensor, seed: int) -> None:
        """Forget the last corpus and take this one: ``M`` vectors with their ids ``[M]``."""

    @abstractmethod
    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """For anchors ``[A]`` with their ``vectors [A, d]`` (those of the corpus if they are in it): scores
        float32 and ids int64, ``[A, count]`` each; -inf and -1 where the corpus has no more."""

    @abstractmethod
    def forget(self) -> None:
        """Let go of the corpus."""

    def excluding(self, relations: Relations, ceilings: Ceilings | None = None) -> Proposer:
        """The same over the same corpus, but for what ``relations`` exclude, and then ``ceilings``, which
        takes no places there.

        It is the proposer itself where leaving them out is no cheaper than to propose and drop them; nothing
        is counted in ``ceilings`` then.
        """
        return self


class NeighbourProposer(Proposer):
    """The anchor's nearest neighbours, most similar first.

    Args:
        index: what searches; it is emptied and filled anew with every corpus. Exact cosine search by default.
    """

    def __init__(self, index: Index | None = None) -> None:
        self.index = ExactIndex() if index is None else index
        self.metric = self.index.similarity

    def fit(self, vectors: Vectors, ids: Tensor, seed: int) -> None:
        """See :class:`Proposer`; ``seed`` has no part in it."""
        self.index.reset()
        for rows, block in vectors.blocks(_ADDED_TOGETHER):
            self.index.add(block, ids[rows])

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`Proposer`."""
        return self._search(vectors, count)

    def forget(self) -> None:
        """See :class:`Proposer`."""
        self.index.reset()

    def excluding(self, relations: Relations, ceilings: Ceilings | None = None) -> Proposer:
        """See :class:`Proposer`; a subclass may propose something else, and is left as it is."""
        if type(self) is not NeighbourProposer or not self.index.excludes or not _asked_by_block(relations):
            return self
        return _AllowedNeighbours(self.index, relations, ceilings)

    def _search(self, vectors: Tensor, count: int, exclude: Exclude | None = None) -> tuple[Tensor, Tensor]:
        if not len(self.index):
            raise RuntimeError("propose() before fit(): there is no corpus to search")
        scores, ids = self.index.search(vectors, count, exclude)
        return scores.cpu(), ids.cpu()


class _AllowedNeighbours(NeighbourProposer):
    """The nearest of those neighbours that ``relations``, on the CPU, do not exclude, and that stay below
    ``ceilings``."""

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
            out = self._on(ids.device).excluded(anchors[rows].to(ids.device), ids)
            if ceilings is None or within is None:
                return out
            return ceilings.leave_out(within[rows], scores, out)

        return excluded

    def _on(self, device: torch.device) -> Relations:
        if device not in self._relations:
            self._relations[device] = self._relations[torch.device("cpu")].to(device)
        return self._relations[device]


def _asked_by_block(relations: Relations) -> bool:
    """Whether to ask about all pairs of a block costs little beside the scores of that block."""
    if isinstance(relations, UnionRelations):
        return all(_asked_by_block(part) for part in relations.parts)
    if isinstance(relations, MultiLabelRelations):
        # It takes a product as wide as the classes are many; where they are, most of them are small.
        return len(relations.classes) <= _CLASSES
    return isinstance(relations, LabelRelations | PairRelations)


class RandomProposer(Proposer):
    """Items drawn uniformly without replacement, whatever their similarity, in no order.

    Args:
        metric: the scale that their scores are computed on.
    """

    def __init__(self, metric: Similarity = "cosine") -> None:
        self.metric = metric
        self._corpus: tuple[Vectors, Tensor, int] | None = None

    def fit(self, vectors: Vectors, ids: Tensor, seed: int) -> None:
        """See :class:`Proposer`."""
        self._corpus = vectors, ids, seed

    def propose(self, anchors: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """See :class:`Proposer`."""
        if self._corpus is None:
            raise RuntimeError("propose() before fit(): there is no corpus to draw from")
        corpus, corpus_ids, seed = self._corpus
        ids = torch.full((len(anchors), count), -1)
        scores = torch.full((len(anchors), count), -torch.inf)
        width = min(count, len(corpus_ids))
        rows = torch.from_numpy(
            permuted(hashed(seed, anchors.numpy())[:, None], np.arange(width)[None], len(corpus_ids))
        )
        ids[:, :width] = corpus_ids[rows]
        for anchor, row in enumerate(rows):
            scores[anchor, :width] = (corpus[row] @ vectors[anchor]).cpu()
        return scores, ids

    def forget(self) -> None:
        """See :class:`Proposer`."""
        self._corpus = None


@dataclass(frozen=True, eq=False)
class FilteredProposals:
    """Proposals with what became of each.

    Args:
        ids: ``[A, k]`` int64, -1 where the corpus had no more.
        scores: ``[A, k]`` float32.
        verdicts: ``[A, k]`` int8: ``KEPT``, ``EMPTY``, ``BEYOND`` (enough had been found before it), or the
            number, from 1, of the filter that dropped it.
    """

    ids: Tensor
    scores: Tensor
    verdicts: Tensor

    def kept(self, count: int) -> tuple[Tensor, Tensor]:
        """Ids and scores ``[A, count]`` of the first ``count`` that were kept, -1 and -inf beyond the
        last."""
        ids, scores = first_kept(self.verdicts == KEPT, count, (self.ids, -1), (self.scores, -torch.inf))
        return ids, scores


Judge = Callable[[Tensor, Tensor, Tensor], Tensor]


def fetch(
    proposer: Proposer,
    vectors: Vectors,
    rows: Tensor,
    ids: Tensor,
    judge: Judge,
    wanted: int,
    limit: int,
    first: int | None = None,
) -> Iterator[tuple[Tensor, FilteredProposals]]:
    """Propose four times as many at each try, until each anchor has ``wanted`` left or saw ``limit`` of them.

    An anchor's class may be larger than any fixed number of spare neighbours, and once the encoder has
    learned something, the class is what is nearest.

    Args:
        proposer: already fitted.
        vectors, ids: vectors and global ids ``[M]``, the anchors' among them.
        rows: ``[A]`` those of the anchors.
        judge: takes ``rows [a]``, ids ``[a, k]`` and scores ``[a, k]`` and gives the verdicts, int8 ``[a,
            k]``, with no ``BEYOND`` among them.
        wanted: how many should be kept.
        limit: how many proposals are looked at most for an anchor.
        first: how many the first try asks for; twice as many as are wanted if None.

    Yields:
        Pairs ``(rows [a], FilteredProposals [a, k])`` that cover every anchor once; ``k`` differs between
        them, and none holds more than about two million entries, so memory stays flat if each is used up
        at once.
    """
    count = min(limit, first or 2 * wanted)
    while len(rows):
        short = []
        for part in rows.split(max(1, _HELD // count)):
            scores, found = proposer.propose(ids[part], vectors[part], count)
            verdicts = judge(part, found, scores)
            kept = (verdicts == KEPT).cumsum(1)
            settled = (kept[:, -1] >= wanted) | (found[:, -1] < 0) | (count >= limit)
            # A filter that has nothing to do with what comes after the last one needed is not to be blamed.
            before = torch.cat([torch.zeros_like(kept[:, :1]), kept[:, :-1]], dim=1)
            verdicts = verdicts.masked_fill((before >= wanted) & (verdicts != EMPTY), BEYOND)
            yield part[settled], FilteredProposals(found[settled], scores[settled], verdicts[settled])
            short.append(part[~settled])
        rows = torch.cat(short)
        count = min(limit, 4 * count)
