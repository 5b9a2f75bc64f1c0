"""Retrieval and k-NN classification over all embeddings of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.ragged import Ragged
from lit_metric.index import Similarity
from lit_metric.metrics.base import Relations, float32_by_default
from lit_metric.metrics.classification import ClassVotes, LabelVotes
from lit_metric.metrics.collapse import effective_rank
from lit_metric.metrics.ranking import RankingMetric
from lit_metric.metrics.retrieval import filtered_rank


@dataclass(frozen=True, eq=False)
class QueryValues:
    """The values of each query behind the means of an evaluation.

    Args:
        ids: ``[q]`` int64, rising global ids of the queries.
        columns: ``[q]`` float32 by the name of the metric; NaN for a query that doesn't count.
        weights: ``[q]`` by name, of those metrics that are no plain mean over queries: how many pairs each
            value is the mean of.
        nearest: ``[q]`` int64, the id of the nearest searched item; -1 where there is none.
    """

    ids: Tensor
    columns: dict[str, Tensor]
    weights: dict[str, Tensor]
    nearest: Tensor


class NeighbourMetrics(RankingMetric):
    """How well the neighbours of each query are of its kind: many metrics of one ranking.

    Give it embeddings under their global ids; with a corpus (``update(..., corpus=True)``) the queries search
    that, without one they search each other. A query never finds itself, in either case. An id that is given
    twice counts once. Search is exact, in float32 for any type of embeddings, and equally similar items come
    in the order of their ids.

    `compute` returns scalars:

    - ``hit_rate@k`` and ``precision@k`` for each of ``ks``, ``map@r``, ``r_precision``, ``mrr`` (over the
    whole
      ranking, not cut off), and ``effective_rank`` of the queries (unit vectors for cosine).
    - With one label each, for each k of ``knn``: ``knn{k}_accuracy``, ``knn{k}_accuracy_macro`` (mean over
    the
      queries' classes), ``knn{k}_f1_macro`` and ``knn{k}_accuracy_tail|medium|head``.
    - With any number of labels each: ``knn{k}_f1_micro`` and ``knn{k}_f1_macro``.
    - For each of ``graded``: ``ndcg@k``, ``map@k`` and ``recall@k``.
    - For each of ``filtered``: ``hits@k``, and with any of them ``filtered_mrr``. These are means over the
    positive
      pairs, not over the queries. Each positive is ranked among the items that are neither positive nor
      excluded by the relations.
    - With ``groups``: ``hit_rate@k_GROUP`` over the queries of each group.

    Queries without a relevant item in the corpus are left out of the retrieval means and counted in
    ``queries_without_positive``, which is there only if there are any; a mean over none is NaN. Unlabelled
    queries are not classified and unlabelled items don't vote. A query whose class no other item of the
    corpus has counts as wrong, and in ``queries_without_voter``, which is there only if there are any. If all
    queries are such, accuracies and F1 are NaN.

    In several processes each gives its own share; `compute` gathers all, and every process computes the same.
    Memory: the embeddings, and blocks of ``block_rows`` by the size of the corpus.

    Args:
        relations: ``.positive(anchor_ids [A], candidate_ids [C])`` returns ``[A, C]`` bool, relevance. If
            it has ``.to(device)``, a copy on the embeddings' device answers, else it gets ids on the CPU. If
            it has ``.targets``, of the same form, with NaN where nothing is known, those are the grades of
            ``ndcg@k``; else a relevant item has grade 1. Grades below 0 count as 0.
        labels: ``[N]`` integers, the class of each global id, negative where unlabelled; or ``N`` rows of
            distinct classes, any number for each.
        ks: list lengths of hit rate and precision.
        knn: numbers of voting neighbours.
        similarity: ``"cosine"`` or ``"dot"``.
        knn_temperature: weighs votes by ``exp(similarity / knn_temperature)``; ``None`` counts them.
        class_counts: ``[classes]``, the classes' frequencies in the *training* set, for the frequency bins;
            by default their frequencies in the corpus.
        frequency_edges: the two counts that part tail, medium and head; see `accuracy_by_frequency`, also for
            the default.
        block_rows: queries in one block; by default 2**24 scores' worth, but at least 64.
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

    labels: Tensor | Ragged | None
    class_counts: Tensor | None

    def __init__(
        self,
        relations: Relations,
        labels: Tensor | Ragged | None = None,
        ks: Sequence[int] = (1, 5, 10),
        knn: Sequence[int] = (1, 10),
        similarity: Similarity = "cosine",
        knn_temperature: float | None = None,
        class_counts: Tensor | None = None,
        frequency_edges: tuple[float, float] | None = None,
        block_rows: int | None = None,
        graded: Sequence[int] = (),
        filtered: Sequence[int] = (),
        groups: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        lengths = {"ks": tuple(ks), "knn": tuple(knn), "graded": tuple(graded), "filtered": tuple(filtered)}
        if min(sum(lengths.values(), (1,))) < 1:
            got = ", ".join(f"{name}={value}" for name, value in lengths.items())
            raise ValueError(f"every k must be at least 1, got {got}")
        if knn_temperature is not None and knn_temperature <= 0:
            raise ValueError(f"knn_temperature must be above 0, got {knn_temperature}")
        names = [f"{measure}@{k}" for measure in ("hit_rate", "precision") for k in ks]
        names += [f"{measure}@{k}" for measure in ("map", "recall", "ndcg") for k in graded]
        super().__init__([*names, "map@r", "r_precision", "mrr"], relations, similarity, block_rows, **kwargs)
        self.ks = tuple(ks)
        self.knn = tuple(knn)
        self.filtered = tuple(filtered)
        self.groups = groups
        self.knn_temperature = knn_temperature
        self.frequency_edges = frequency_edges
        if isinstance(labels, Ragged):
            self.labels = labels
        else:
            self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("class_counts", class_counts, persistent=False)

    def names(self) -> set[str]:
        """All names that `compute` may return."""
        found = {*self.retrieval, "effective_rank", "queries_without_positive", *self._over_pairs}
        found |= {f"hit_rate@{k}_{group}" for k in self.ks for group in {*(self.groups or ())} - {None}}
        if self.labels is not None and self.knn:
            votes = LabelVotes.names if isinstance(self.labels, Ragged) else ClassVotes.names
            found |= {f"knn{k}_{name}" for k in self.knn for name in votes} | {"queries_without_voter"}
        return found

    @property
    def _over_pairs(self) -> list[str]:
        return [*(f"hits@{k}" for k in self.filtered), *["filtered_mrr"] * bool(self.filtered)]

    def update(self, embeddings: Tensor, ids: Tensor, corpus: bool = False) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``, as queries or as corpus.

        Raises:
            ValueError: shapes disagree, with each other or with earlier ones.
        """
        self._collect(embeddings, ids, pool="corpus_" if corpus else "")

    @torch.no_grad()
    @float32_by_default()
    def compute(self) -> dict[str, Tensor]:
        """All values, float32 scalars by name.

        Raises:
            ValueError: there are no queries, an embedding holds NaN or infinity, an id is negative or
                beyond the labels.
        """
        return self._results()[0]

    def measure(self) -> tuple[dict[str, Tensor], QueryValues]:
        """What `compute` returns, and the values of each query, of one search; over all processes.

        Raises:
            ValueError: as `compute`.
        """
        with self._over_processes():
            return self._results()

    def _results(self) -> tuple[dict[str, Tensor], QueryValues]:
        queries, corpus = self._pools_to_rank()
        votes = self._votes(queries[1], corpus[1])
        values = self._measure(queries, corpus, votes)
        ids, total = values["id"], values["total"]
        counted = total > 0
        results = {name: values[name][counted].mean() for name in self.retrieval}
        for name in self._over_pairs:
            results[name] = values[name].double().sum() / total.sum()  # over pairs
        members: dict[str, list[int]] = {}
        if self.groups is not None:
            for place in counted.nonzero()[:, 0].tolist():
                if (group := self.groups[int(ids[place])]) is not None:
                    members.setdefault(group, []).append(place)
        for k in self.ks:
            column = values[f"hit_rate@{k}"]
            results |= {
                f"hit_rate@{k}_{group}": column[rows].mean() for group, rows in sorted(members.items())
            }
        if not bool(counted.all()):
            results["queries_without_positive"] = (~counted).sum()
        if votes is not None:
            results |= votes.results()
        results["effective_rank"] = effective_rank(queries[0])
        results = {name: value.to(ids.device, torch.float32) for name, value in results.items()}
        columns = {name: values[name] for name in self.retrieval}
        columns |= {name: values[name] / total for name in self._over_pairs}
        if isinstance(votes, ClassVotes):
            columns |= {f"knn{k}_accuracy": votes.right(k) for k in self.knn}
        weights = {name: total.float() for name in self._over_pairs}
        return results, QueryValues(ids, columns, weights, values["nearest"])

    def _per_query(self) -> dict[str, Tensor]:
        values = self._results()[1]
        return {"id": values.ids, **values.columns}

    def _votes(self, ids: Tensor, corpus_ids: Tensor) -> ClassVotes | LabelVotes | None:
        if self.labels is None or not self.knn:
            return None
        for last in (int(corpus_ids[-1]), int(ids[-1])):
            if last >= len(self.labels):
                raise ValueError(f"id {last} has no label; labels has {len(self.labels)} entries")
        among = torch.isin(ids, corpus_ids)
        voting = (among, self.knn, self.knn_temperature)
        if isinstance(self.labels, Ragged):
            rows = self.labels.to(ids.device)
            return LabelVotes(rows.select(ids), rows.select(corpus_ids), *voting)
        labels = self.labels.to(ids.device)
        return ClassVotes(labels[ids], labels[corpus_ids], *voting, self.class_counts, self.frequency_edges)

    def _more(
        self, relations: Any, scores: Tensor, relevant: Tensor, ids: Tensor, corpus_ids: Tensor
    ) -> dict[str, Tensor]:
        """Sums over each query's positives, for the filtered metrics."""
        if not self.filtered:
            return {}
        rows, ranks = filtered_rank(scores, relevant, relations.excluded(ids, corpus_ids))
        of_pairs = {f"hits@{k}": ranks <= k for k in self.filtered} | {"filtered_mrr": 1.0 / ranks}
        zeros = scores.new_zeros(len(scores))
        return {name: zeros.index_add(0, rows, pairs.to(scores.dtype)) for name, pairs in of_pairs.items()}
