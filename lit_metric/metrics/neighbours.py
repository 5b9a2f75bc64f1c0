"""Retrieval and k-NN classification over all embeddings of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.index import Similarity, padded, similarities, top_k
from lit_metric.metrics.embeddings import EmbeddingMetric, float32_by_default
from lit_metric.metrics.functional import (
    effective_rank,
    filtered_rank,
    hit_rate_at_k,
    map_at_k,
    map_at_r,
    ndcg_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)
from lit_metric.metrics.votes import OF_CLASSES, OF_FREQUENCY, OF_LABELS, ClassVotes, LabelVotes, Votes

BLOCK_ELEMENTS = 2**24


class Relations(Protocol):
    """What the metric asks of relations between items."""

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Whether each candidate id ``[C]`` is relevant to each anchor id ``[A]``: ``[A, C]`` bool."""


Question = Callable[[Tensor, Tensor], Tensor]


class NeighbourMetrics(EmbeddingMetric):
    """How well the neighbours of each query are of its kind.

    Give it embeddings under their global ids; with a corpus (``update(..., corpus=True)``) the queries search
    that, without one they search each other. A query never finds itself, in either case. An id given twice,
    as samplers do that pad the last batch of a rank, counts once. Search is exact, in float32 whatever the
    embeddings' type, and equally similar items come in the order of their ids.

    `compute` returns scalars: ``hit_rate@k`` and ``precision@k`` for each of ``ks``, ``map@r``,
    ``r_precision``, ``mrr`` (over the whole ranking, not cut off), ``effective_rank`` of the queries (unit
    vectors for cosine); and with ``labels``, for each k of ``knn``: ``knn{k}_accuracy``,
    ``knn{k}_accuracy_macro`` (mean over the queries' classes), ``knn{k}_f1_macro`` and
    ``knn{k}_accuracy_rare|medium|frequent``, or, where items have any number of labels each,
    ``knn{k}_f1_micro`` and ``knn{k}_f1_macro``. For each of ``graded``: ``ndcg@k``, ``map@k`` and
    ``recall@k``. For each of ``filtered``: ``hits@k``, and with any of them ``filtered_mrr``, which are
    means over the positive pairs and not over the queries: each positive is ranked among what is neither
    positive nor left out by the relations. With ``groups``, ``hit_rate@k_GROUP`` over the queries of each.

    - Queries without a relevant item in the corpus are left out of the retrieval means and counted in
      ``queries_without_positive``, which is there only if there are any; a mean over none is NaN.
    - Unlabelled queries are not classified and unlabelled items don't vote. A query whose class no other
      item of the corpus has counts as wrong, and in ``queries_without_voter``, which is there only if there
      are any. Where that holds of all, accuracies and F1 are NaN.
    - In several processes each gives its own share; `compute` gathers all, and every process computes the
      same.
    - Memory: the embeddings, and blocks of ``block_rows`` by the size of the corpus.

    Args:
        relations: ``.positive(anchor_ids [A], candidate_ids [C])`` returns ``[A, C]`` bool, relevance. If
            it has ``.to(device)``, it is asked for a copy on the embeddings' device, else it is given ids
            on the CPU. If it has ``.targets``, of the same form, with NaN where nothing is known, those are
            the grades of ``ndcg@k``; else what is relevant has grade 1. Grades below 0 count as 0.
        labels: ``[N]`` integers, the class of each global id, negative where unlabelled; or ``N`` rows of
            distinct classes, any number for each.
        ks: list lengths of recall and precision.
        knn: numbers of voting neighbours.
        similarity: ``"cosine"`` or ``"dot"``.
        temperature: weighs votes by ``exp(similarity / temperature)``; ``None`` counts them.
        class_counts: ``[classes]``, the classes' frequencies in the *training* set, for the frequency bins;
            by default their frequencies in the corpus.
        frequency_edges: the two counts that part rare, medium and frequent; see `accuracy_by_frequency`,
            also for the default.
        block_rows: queries handled at once; by default 2**24 scores' worth, but at least 64.
        graded: list lengths of ``ndcg@k``, ``map@k`` and ``recall@k``; none by default.
        filtered: list lengths of ``hits@k``; none by default. ``relations`` then answers ``excluded`` in the
            form of ``positive``: such candidates are left out of the ranking.
        groups: ``N`` names, the group of each global id, None for none.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> class SameParity:
        ...     def positive(self, anchors, candidates):
        ...         return (anchors[:, None] - candidates) % 2 == 0
        >>> metric = NeighbourMetrics(SameParity(), ks=(1,))
        >>> metric.update(torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.arange(4))
        >>> metric.compute()["hit_rate@1"].item()
        1.0
    """

    pools = ("", "corpus_")

    labels: Tensor | Ragged | None
    class_counts: Tensor | None

    def __init__(
        self,
        relations: Relations,
        labels: Tensor | Ragged | None = None,
        ks: Sequence[int] = (1, 5, 10),
        knn: Sequence[int] = (1, 10),
        similarity: Similarity = "cosine",
        temperature: float | None = None,
        class_counts: Tensor | None = None,
        frequency_edges: tuple[float, float] | None = None,
        block_rows: int | None = None,
        graded: Sequence[int] = (),
        filtered: Sequence[int] = (),
        groups: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(similarity, **kwargs)
        lengths = {"ks": tuple(ks), "knn": tuple(knn), "graded": tuple(graded), "filtered": tuple(filtered)}
        if min(sum(lengths.values(), (1,))) < 1:
            told = ", ".join(f"{name}={value}" for name, value in lengths.items())
            raise ValueError(f"every k must be at least 1, got {told}")
        if block_rows is not None and block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.relations = relations
        self.ks = tuple(ks)
        self.knn = tuple(knn)
        self.graded = tuple(graded)
        self.filtered = tuple(filtered)
        self.groups = groups
        self.temperature = temperature
        self.frequency_edges = frequency_edges
        self.block_rows = block_rows
        if isinstance(labels, Ragged):
            self.labels = labels
        else:
            self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("class_counts", class_counts, persistent=False)

    def names(self) -> set[str]:
        """Everything that `compute` may return."""
        found = {f"{what}@{k}" for what in ("recall", "precision") for k in self.ks}
        found |= {f"{what}@{k}" for what in ("map", "hit_rate", "ndcg") for k in self.graded}
        found |= {f"hits@{k}" for k in self.filtered} | ({"filtered_mrr"} if self.filtered else set())
        found |= {"map@r", "r_precision", "mrr", "effective_rank", "queries_without_positive"}
        found |= {f"hit_rate@{k}_{group}" for k in self.ks for group in {*(self.groups or ())} - {None}}
        if self.labels is not None and self.knn:
            votes = OF_LABELS if isinstance(self.labels, Ragged) else (*OF_CLASSES, *OF_FREQUENCY)
            found |= {f"knn{k}_{what}" for k in self.knn for what in votes} | {"queries_without_voter"}
        return found

    def update(self, embeddings: Tensor, ids: Tensor, corpus: bool = False) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``, as queries or as corpus.

        Raises:
            ValueError: shapes disagree, with each other or with what was given before.
        """
        self._collect(embeddings, ids, "corpus_" if corpus else "")

    @torch.no_grad()
    @float32_by_default()
    def compute(self) -> dict[str, Tensor]:
        """All values, float32 scalars by name.

        Raises:
            ValueError: there are no queries, an embedding holds NaN or infinity, an id is negative or
                beyond the labels.
        """
        queries, ids = self._items("")
        if not len(ids):
            raise ValueError("no embeddings were given; call update before compute")
        corpus, corpus_ids = self._items("corpus_")
        if not len(corpus_ids):
            corpus, corpus_ids = queries, ids
        corpus = padded(corpus)  # once, rather than for each block
        votes = self._votes(ids, corpus_ids)
        columns: dict[str, list[Tensor]] = {}
        rows = self.block_rows or self._default_rows(len(corpus_ids), votes)
        asked = self._questions(queries.device)
        for start in range(0, len(ids), rows):
            block, block_ids = queries[start : start + rows], ids[start : start + rows]
            scores, itself = self._scores(block, block_ids, corpus, corpus_ids)
            for name, column in self._rank(scores, itself, block_ids, corpus_ids, *asked).items():
                columns.setdefault(name, []).append(column)
            if votes is not None:
                votes.add(scores, start)
        results = self._retrieval({name: torch.cat(column) for name, column in columns.items()}, ids)
        if votes is not None:
            results |= votes.results()
        results["effective_rank"] = effective_rank(queries)
        return {name: value.to(queries.device, torch.float32) for name, value in results.items()}

    def _default_rows(self, corpus: int, votes: Votes | None) -> int:
        return max(64, BLOCK_ELEMENTS // max(corpus, 1 if votes is None else votes.per_row))

    def _questions(self, device: torch.device) -> tuple[Question, Question | None, Question | None]:
        """What is relevant and, if that is asked for, how much, and what is left out; on ``device``."""
        relations: Any = self.relations
        moves = hasattr(relations, "to")
        if moves:
            relations = relations.to(device)

        def on_device(question: Question) -> Question:
            if moves:
                return question
            return lambda anchors, candidates: question(anchors.cpu(), candidates.cpu()).to(device)

        graded = self.graded and hasattr(relations, "targets")
        return (
            on_device(relations.positive),
            on_device(relations.targets) if graded else None,
            on_device(relations.excluded) if self.filtered else None,
        )

    def _votes(self, ids: Tensor, corpus_ids: Tensor) -> Votes | None:
        if self.labels is None or not self.knn:
            return None
        for last in (int(corpus_ids[-1]), int(ids[-1])):
            if last >= len(self.labels):
                raise ValueError(f"id {last} has no label; labels has {len(self.labels)} entries")
        among = torch.isin(ids, corpus_ids)
        if isinstance(self.labels, Ragged):
            labels = self.labels.to(ids.device)
            return LabelVotes(
                labels.select(ids), labels.select(corpus_ids), among, self.knn, self.temperature
            )
        of_items = self.labels.to(ids.device)
        target, voters, counts = of_items[ids], of_items[corpus_ids], self.class_counts
        return ClassVotes(target, voters, among, self.knn, self.temperature, counts, self.frequency_edges)

    def _scores(
        self, queries: Tensor, ids: Tensor, corpus: Tensor, corpus_ids: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Similarities ``[b, N]``, -inf of a query with itself, and the places of those."""
        scores = similarities(queries, corpus)[:, : len(corpus_ids)]
        itself = torch.searchsorted(corpus_ids, ids).clamp(max=len(corpus_ids) - 1)
        rows = (corpus_ids[itself] == ids).nonzero().squeeze(1)
        scores[rows, itself[rows]] = -torch.inf
        return scores, (rows, itself[rows])

    def _rank(
        self,
        scores: Tensor,
        itself: tuple[Tensor, Tensor],
        ids: Tensor,
        corpus_ids: Tensor,
        positive: Question,
        targets: Question | None,
        excluded: Question | None,
    ) -> dict[str, Tensor]:
        """One value per query of a block, by name."""
        never = torch.zeros((), dtype=torch.bool, device=scores.device)
        relevant = positive(ids, corpus_ids).index_put(itself, never)  # [b, N]
        total = relevant.sum(dim=1)
        values: dict[str, Tensor] = {"total": total}
        # R differs widely between classes: rows are grouped by the power of two that covers their R, so
        # that a large class does not make every row's list long.
        least = max([*self.ks, *self.graded, 1])
        depth = torch.ceil(torch.log2(total.clamp(min=least) / least)).long()
        for level in depth.unique().tolist():
            group = (depth == level).nonzero().squeeze(1)
            part = (scores, relevant, total)
            if len(group) < len(total):
                part = (scores[group], relevant[group], total[group])
            for name, column in self._rank_group(*part).items():
                values.setdefault(name, column.new_empty(len(total)))[group] = column
        if self.graded:
            grades = relevant.float() if targets is None else targets(ids, corpus_ids).nan_to_num(0.0)
            values |= self._gains(scores, grades.clamp(min=0).index_put(itself, grades.new_zeros(())))
        if excluded is not None:
            values |= self._filtered(scores, relevant, excluded(ids, corpus_ids))
        return values

    def _filtered(self, scores: Tensor, relevant: Tensor, left_out: Tensor) -> dict[str, Tensor]:
        """Sums over each query's positives."""
        rows, ranks = filtered_rank(scores, relevant, left_out)

        def added(values: Tensor) -> Tensor:
            return scores.new_zeros(len(scores)).index_add(0, rows, values.to(scores.dtype))

        hits = {f"hits@{k}": added(ranks <= k) for k in self.filtered}
        return {**hits, "filtered_mrr": added(1.0 / ranks)}

    def _gains(self, scores: Tensor, grades: Tensor) -> dict[str, Tensor]:
        depth = min(max(self.graded), scores.shape[1])
        ranked = grades.gather(1, top_k(scores, depth)[1])
        ideal = grades.topk(depth, dim=1).values
        return {f"ndcg@{k}": ndcg_at_k(ranked, ideal, k) for k in self.graded}

    def _rank_group(self, scores: Tensor, relevant: Tensor, total: Tensor) -> dict[str, Tensor]:
        _, nearest = top_k(scores, max([*self.ks, *self.graded, int(total.max())]))
        hits = relevant.gather(1, nearest)  # [g, k]
        values = {f"hit_rate@{k}": hit_rate_at_k(hits, k) for k in self.ks}
        values |= {f"precision@{k}": precision_at_k(hits, k) for k in self.ks}
        values |= {f"map@{k}": map_at_k(hits, total, k) for k in self.graded}
        values |= {f"recall@{k}": recall_at_k(hits, total, k) for k in self.graded}
        values["map@r"] = map_at_r(hits, total)
        values["r_precision"] = r_precision(hits, total)
        values["mrr"] = reciprocal_rank(hits)
        later = (~hits.any(dim=1) & (total > 0)).nonzero().squeeze(1)
        values["mrr"][later] = 1.0 / first_relevant_rank(scores[later], relevant[later])
        return values

    def _retrieval(self, values: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
        total = values.pop("total")
        counted = total > 0
        results = {name: column[counted].mean() for name, column in values.items()}
        for name in [f"hits@{k}" for k in self.filtered] + ["filtered_mrr"] * bool(self.filtered):
            results[name] = values[name].double().sum() / total.sum()  # over pairs
        results |= self._by_group(values, counted, ids)
        if not bool(counted.all()):
            results["queries_without_positive"] = (~counted).sum()
        return results

    def _by_group(self, values: dict[str, Tensor], counted: Tensor, ids: Tensor) -> dict[str, Tensor]:
        if self.groups is None:
            return {}
        members: dict[str, list[int]] = {}
        for place in counted.nonzero()[:, 0].tolist():
            if (group := self.groups[int(ids[place])]) is not None:
                members.setdefault(group, []).append(place)
        return {
            f"hit_rate@{k}_{group}": values[f"hit_rate@{k}"][places].mean()
            for k in self.ks
            for group, places in sorted(members.items())
        }


def first_relevant_rank(scores: Tensor, relevant: Tensor) -> Tensor:
    """Rank, counted from 1, of the highest-scored relevant item of each row, without sorting.

    Args:
        scores: ``[q, n]`` float; of equal scores the one further left is nearer.
        relevant: ``[q, n]`` bool.

    Returns:
        ``[q]`` float32; infinity where nothing is relevant.

    Example:
        >>> scores = torch.tensor([[0.9, 0.5, 0.5, 0.7]])
        >>> first_relevant_rank(scores, torch.tensor([[False, False, True, False]])).tolist()
        [4.0]
    """
    best, where = scores.masked_fill(~relevant, -torch.inf).max(dim=1, keepdim=True)
    left = torch.arange(scores.shape[1], device=scores.device) < where
    rank = 1.0 + ((scores > best) | ((scores == best) & left)).sum(dim=1)
    return rank.masked_fill(~relevant.any(dim=1), torch.inf)
