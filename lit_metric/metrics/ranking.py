"""One ranking, computed once, and the retrieval metrics that read it, each usable alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lit_metric.index import Similarity, padded, similarities, top_k
from lit_metric.metrics.base import EmbeddingMetric, Relations, float32_by_default
from lit_metric.metrics.classification import Votes
from lit_metric.metrics.retrieval import (
    hit_rate_at_k,
    map_at_k,
    map_at_r,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
)

BLOCK_ELEMENTS = 2**24


class Ranking:
    """The neighbours of some queries, nearest first: all that retrieval metrics need to know.

    Args:
        scores: ``[q, N]`` float32, similarities to the corpus; of equal ones the item further left is nearer.
        relevant: ``[q, N]`` bool.
        length: how many neighbours are kept, >= 1.
        grades: ``[q, N]`` >= 0, how relevant each item is; by default 1 where it is relevant.

    Attributes:
        relevant: ``[q, min(length, N)]`` bool, nearest first.
        total: ``[q]`` int64, the number R of relevant items in the whole corpus.
        first: ``[q]`` float32, the rank of the nearest relevant item in the whole ranking, from 1; infinity
            if there is none.
        grades: ``[q, min(length, N)]``, nearest first.
        nearest: ``[q, min(length, N)]`` int64, the places of the neighbours in ``scores``.
        ideal: takes k, returns ``[q, min(k, N)]``, the largest grades in the whole corpus, falling.

    Example:
        >>> ranking = Ranking(torch.tensor([[0.9, 0.5, 0.7]]), torch.tensor([[False, True, True]]), length=2)
        >>> ranking.value("mrr").tolist(), ranking.value("recall@2").tolist(), ranking.value("map@r").tolist()
        ([0.5], [0.5], [0.25])
    """

    def __init__(self, scores: Tensor, relevant: Tensor, length: int, grades: Tensor | None = None) -> None:
        self.nearest = nearest = top_k(scores, length)[1]
        self.relevant = relevant.gather(1, nearest)
        self.total = relevant.sum(dim=1)
        self.first = 1.0 + self.relevant.int().argmax(dim=1)
        # Where the list holds no relevant item, count those before the best one instead of sorting all.
        later = (~self.relevant.any(dim=1)).nonzero().squeeze(1)
        rest, wanted = scores[later], relevant[later]
        best, where = rest.masked_fill(~wanted, -torch.inf).max(dim=1, keepdim=True)
        left = torch.arange(scores.shape[1], device=scores.device) < where
        rank = 1.0 + ((rest > best) | ((rest == best) & left)).sum(dim=1)
        self.first[later] = rank.masked_fill(~wanted.any(dim=1), torch.inf)
        grades = relevant.float() if grades is None else grades
        self.grades = grades.gather(1, nearest)
        self.ideal = lambda k: grades.topk(min(k, grades.shape[1]), dim=1).values

    def value(self, name: str) -> Tensor:
        """``[q]`` float32 of one of `MEASURES`, with a number for k; NaN where nothing is relevant.

        Raises:
            ValueError: there is no such metric.
        """
        measure, k = split_name(name)
        return MEASURES[measure](self, k).masked_fill(self.total == 0, torch.nan)


MEASURES: dict[str, Callable[[Ranking, int], Tensor]] = {
    "hit_rate@k": lambda ranking, k: hit_rate_at_k(ranking.relevant, k),
    "precision@k": lambda ranking, k: precision_at_k(ranking.relevant, k),
    "recall@k": lambda ranking, k: recall_at_k(ranking.relevant, ranking.total, k),
    "map@k": lambda ranking, k: map_at_k(ranking.relevant, ranking.total, k),
    "ndcg@k": lambda ranking, k: ndcg_at_k(ranking.grades, ranking.ideal(k), k),
    "map@r": lambda ranking, _: map_at_r(ranking.relevant, ranking.total),
    "r_precision": lambda ranking, _: r_precision(ranking.relevant, ranking.total),
    "mrr": lambda ranking, _: 1.0 / ranking.first,
}
"""How each retrieval metric reads a ranking, which is as long as the largest k; a new one joins here."""

UP_TO_R = {"map@r", "r_precision"}  # they need a ranking as long as the largest R


def split_name(name: str) -> tuple[str, int]:
    """The measure of a retrieval metric, a key of `MEASURES`, and its k, 0 for a measure without one.

    Raises:
        ValueError: there is no such metric.

    Example:
        >>> split_name("recall@10"), split_name("map@r")
        (('recall@k', 10), ('map@r', 0))
    """
    if name in MEASURES and not name.endswith("@k"):
        return name, 0
    measure, _, k = name.partition("@")
    if f"{measure}@k" not in MEASURES or not k.isdigit() or int(k) < 1:
        known = ", ".join(MEASURES)
        raise ValueError(f"there is no retrieval metric {name!r}; use one of {known}, k a number from 1")
    return f"{measure}@k", int(k)


class RankingMetric(EmbeddingMetric):
    """Ranks a corpus for each query, in blocks of queries, and measures some retrieval metrics of each.

    Args:
        names: of metrics, those of `MEASURES` with a number for k.
        relations: which items are relevant to which, see `NeighbourMetrics`.
        similarity: ``"cosine"`` or ``"dot"``.
        block_rows: queries in one block; by default 2**24 scores' worth, but at least 64.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: an argument is out of its range.
    """

    pools = ("", "corpus_")

    def __init__(
        self,
        names: Sequence[str],
        relations: Relations | None,
        similarity: Similarity = "cosine",
        block_rows: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(similarity, **kwargs)
        if block_rows is not None and block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}")
        self.retrieval = tuple(names)
        self.length = max([1, *(split_name(name)[1] for name in names)])
        self.relations = relations
        self.block_rows = block_rows

    def per_query(self) -> dict[str, Tensor]:
        """The values of each query, over all processes, such as for a paired test of two models.

        Returns:
            ``[q]`` columns by name: ``id``, int64, rising, and each metric, float32, NaN for a query without
            a relevant item. A metric that is a mean over pairs is the mean over the query's pairs.

        Raises:
            ValueError: as `compute`.
        """
        with self._over_processes():
            return self._per_query()

    @contextmanager
    def _over_processes(self) -> Iterator[None]:
        """What all processes were given, as `compute` sees it."""
        with (
            self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync),
            torch.no_grad(),
            float32_by_default(),
        ):
            yield

    def _per_query(self) -> dict[str, Tensor]:
        values = self._measure(*self._pools_to_rank())
        return {name: values[name] for name in ("id", *self.retrieval)}

    def _pools_to_rank(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The columns of the queries and of the corpus; without a corpus, queries search each other.

        Raises:
            ValueError: there are no queries, or as `_items`.
        """
        queries, corpus = self._items(""), self._items("corpus_")
        if not len(queries[1]):
            raise ValueError("no embeddings were given; call update before compute")
        return queries, corpus if len(corpus[1]) else queries

    def _relations(self, queries: tuple[Tensor, ...], corpus: tuple[Tensor, ...]) -> Any:
        """Relations between ids of queries and of the corpus, on their device."""
        return self._placed(self.relations, queries[1].device)

    def _measure(
        self, queries: tuple[Tensor, ...], corpus: tuple[Tensor, ...], votes: Votes | None = None
    ) -> dict[str, Tensor]:
        """``[q]`` columns by name: ``id``, ``total`` (the number of relevant items), ``nearest`` (the nearest
        item's id, -1 without any), each metric, and `_more`."""
        relations = self._relations(queries, corpus)
        (vectors, ids), corpus_ids = queries[:2], corpus[1]
        everything = padded(corpus[0])  # once, rather than for each block
        least = 1 if votes is None else votes.per_row
        rows = self.block_rows or max(64, BLOCK_ELEMENTS // max(len(corpus_ids), least))
        columns: dict[str, list[Tensor]] = {}
        for start in range(0, len(ids), rows):
            block_ids = ids[start : start + rows]
            scores = similarities(vectors[start : start + rows], everything)[:, : len(corpus_ids)]
            # A query never finds itself.
            itself = torch.searchsorted(corpus_ids, block_ids).clamp(max=len(corpus_ids) - 1)
            own = (corpus_ids[itself] == block_ids).nonzero().squeeze(1)
            scores[own, itself[own]] = -torch.inf
            relevant = relations.positive(block_ids, corpus_ids)
            relevant = relevant.index_put((own, itself[own]), relevant.new_zeros(()))  # [b, N]
            grades = None
            if hasattr(self.relations, "targets") and any(name.startswith("ndcg") for name in self.retrieval):
                grades = relations.targets(block_ids, corpus_ids).nan_to_num(0.0).clamp(min=0)
                grades = grades.index_put((own, itself[own]), grades.new_zeros(()))
            values = self._rank(scores, relevant, grades)
            best = values["nearest"][:, None]
            alone = scores.gather(1, best)[:, 0].isneginf()
            values["nearest"] = corpus_ids[best[:, 0]].masked_fill(alone, -1)
            values |= self._more(relations, scores, relevant, block_ids, corpus_ids)
            for name, column in values.items():
                columns.setdefault(name, []).append(column)
            if votes is not None:
                votes.add(scores, start)
        return {"id": ids, **{name: torch.cat(column) for name, column in columns.items()}}

    def _rank(self, scores: Tensor, relevant: Tensor, grades: Tensor | None) -> dict[str, Tensor]:
        """``[b]`` values of each metric, ``total``, and the ``nearest``'s place, for a block ``[b, N]``."""
        total = relevant.sum(dim=1)
        values: dict[str, Tensor] = {"total": total, "nearest": torch.zeros_like(total)}
        needed = total if UP_TO_R & {*self.retrieval} else total * 0
        # R differs widely between classes: rows are grouped by the power of two that covers their R, so
        # that a large class does not make every row's list long.
        depth = torch.ceil(torch.log2(needed.clamp(min=self.length) / self.length)).long()
        for level in depth.unique().tolist():
            group = (depth == level).nonzero().squeeze(1)
            every = len(group) == len(total)
            part = [each if every or each is None else each[group] for each in (scores, relevant, grades)]
            length = max(self.length, int(needed[group].max()))
            ranking = Ranking(part[0], part[1], length, part[2])  # type: ignore[arg-type]
            values["nearest"][group] = ranking.nearest[:, 0]
            for name in self.retrieval:
                column = ranking.value(name)
                values.setdefault(name, column.new_empty(len(total)))[group] = column
        return values

    def _more(
        self, relations: Any, scores: Tensor, relevant: Tensor, ids: Tensor, corpus_ids: Tensor
    ) -> dict[str, Tensor]:
        """More ``[b]`` values of a block."""
        return {}


class RetrievalMetric(RankingMetric):
    """One retrieval metric: a scalar, the mean over queries.

    Give it embeddings with labels, or with global ids and relations. Without a corpus the queries search each
    other; a query never finds itself. Queries without a relevant item are left out of the mean. Search is
    exact, in float32, over all processes.

    Each metric has a class: `HitRateAtK`, `PrecisionAtK`, `RecallAtK`, `MAPAtK`, `NDCGAtK` take ``k``;
    `MAPAtR`, `RPrecision` and `MRR` don't.

    Args:
        k: length of the list, >= 1, for a metric ``…AtK``.
        relations: ``.positive(anchor_ids [A], candidate_ids [C])`` returns ``[A, C]`` bool, relevance; see
            `NeighbourMetrics`. None: items with equal labels are relevant to each other.
        similarity: ``"cosine"`` or ``"dot"``.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: ``k`` is missing, out of its range, or given to a metric without one.

    Example:
        >>> metric = MAPAtR()
        >>> embeddings = torch.tensor([[1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.8, 0.1]])
        >>> metric.update(embeddings, labels=torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item(), metric.per_query()["map@r"].tolist()
        (0.5, [0.0, 1.0, 1.0, 0.0])
    """

    measure = "map@r"

    def __init__(
        self,
        k: int | None = None,
        relations: Relations | None = None,
        similarity: Similarity = "cosine",
        **kwargs: Any,
    ) -> None:
        self.columns = ("embeddings", "ids") if relations is not None else ("embeddings", "ids", "labels")
        if (k is None) == self.measure.endswith("@k"):
            raise ValueError(f"{type(self).__name__} needs k" if k is None else f"{self.measure} has no k")
        self.name = self.measure if k is None else f"{self.measure[:-1]}{k}"
        super().__init__([self.name], relations, similarity, **kwargs)

    def update(
        self,
        embeddings: Tensor,
        ids: Tensor | None = None,
        labels: Tensor | None = None,
        corpus: bool = False,
    ) -> None:
        """Add ``embeddings [n, d]`` (any float dtype), as queries or as corpus.

        Args:
            embeddings: ``[n, d]``.
            ids: ``[n]`` global ids of the items. With labels they may be left out, in all calls; then every
                embedding is an item of its own.
            labels: ``[n]`` integers, negative where unlabelled; without relations.
            corpus: whether the items are searched.

        Raises:
            ValueError: ids or labels are missing or not wanted, or shapes disagree.
        """
        if (labels is None) == (self.relations is None):
            raise ValueError(
                "give labels=, or make the metric with relations="
                if labels is None
                else "the metric has relations, so it takes ids= and no labels="
            )
        if ids is None:
            if labels is None:
                raise ValueError("relations are between ids: give ids=")
            ids = torch.full(embeddings.shape[:1], -1, device=embeddings.device)
        others = (ids,) if labels is None else (ids, labels)
        self._collect(embeddings, *others, pool="corpus_" if corpus else "")

    def _ids(self, pool: str) -> Tensor:
        given = {name: super(RetrievalMetric, self)._ids(name) for name in self.pools if self._has(name)}
        missing = [bool((ids < 0).any()) for ids in given.values() if len(ids)]
        if self.relations is None and any(missing):
            if not all(bool((ids == -1).all()) for ids in given.values()):
                raise ValueError(
                    "some items have ids and some have none: give ids in every update, or in none"
                )
            start = 0 if pool == "" else len(given.get("", ()))
            return start + torch.arange(len(given[pool]), device=given[pool].device)
        return given[pool]

    def _has(self, pool: str) -> bool:
        return len(getattr(self, f"{pool}ids")) > 0

    def _relations(self, queries: tuple[Tensor, ...], corpus: tuple[Tensor, ...]) -> Any:
        return (
            super()._relations(queries, corpus) if self.relations is not None else _SameLabel(queries, corpus)
        )

    @torch.no_grad()
    @float32_by_default()
    def compute(self) -> Tensor:
        """The mean over the queries that have a relevant item, a float32 scalar; NaN if there are none.

        Raises:
            ValueError: there are no queries, an embedding holds NaN or infinity, or an id is negative.
        """
        columns = self._measure(*self._pools_to_rank())
        return columns[self.name][columns["total"] > 0].mean()


class _SameLabel:
    """Items with equal labels are relevant to each other."""

    def __init__(self, queries: tuple[Tensor, ...], corpus: tuple[Tensor, ...]) -> None:
        self.queries, self.corpus = queries, corpus

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        labels = self.queries[2][torch.searchsorted(self.queries[1], anchors)]
        return (labels[:, None] == self.corpus[2]) & (labels >= 0)[:, None]


class HitRateAtK(RetrievalMetric):
    """Share of queries with a relevant item among the k nearest; see `hit_rate_at_k`."""

    measure = "hit_rate@k"


class PrecisionAtK(RetrievalMetric):
    """Share of the k nearest that is relevant; see `precision_at_k`."""

    measure = "precision@k"


class RecallAtK(RetrievalMetric):
    """Share of a query's relevant items among the k nearest; see `recall_at_k`."""

    measure = "recall@k"


class MAPAtK(RetrievalMetric):
    """Mean average precision among the k nearest; see `map_at_k`."""

    measure = "map@k"


class NDCGAtK(RetrievalMetric):
    """Normalised discounted cumulative gain of the k nearest; see `ndcg_at_k`."""

    measure = "ndcg@k"


class MAPAtR(RetrievalMetric):
    """Mean average precision at R; see `map_at_r`."""

    measure = "map@r"


class RPrecision(RetrievalMetric):
    """Share of the R nearest that is relevant; see `r_precision`."""

    measure = "r_precision"


class MRR(RetrievalMetric):
    """Mean reciprocal rank of the first relevant item, over the whole ranking; see `reciprocal_rank`."""

    measure = "mrr"
