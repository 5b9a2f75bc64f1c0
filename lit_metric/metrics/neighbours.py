"""Retrieval and k-NN classification over all embeddings of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lit_metric.index import Similarity, padded, similarities, top_k
from lit_metric.metrics.functional import (
    accuracy,
    accuracy_by_frequency,
    effective_rank,
    knn_predict,
    macro_accuracy,
    macro_f1,
    map_at_r,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)

BLOCK_ELEMENTS = 2**24


class Relations(Protocol):
    """What the metric asks of relations between items."""

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Whether each candidate id ``[C]`` is relevant to each anchor id ``[A]``: ``[A, C]`` bool."""


class NeighbourMetrics(Metric):
    """How well the neighbours of each query are of its kind.

    Give it embeddings under their global ids; with a corpus (``update(..., corpus=True)``) the queries search
    that, without one they search each other. A query never finds itself, in either case. An id given twice,
    as samplers do that pad the last batch of a rank, counts once. Search is exact, in float32 whatever the
    embeddings' type, and equally similar items come in the order of their ids.

    `compute` returns scalars: ``recall@k`` and ``precision@k`` for each of ``ks``, ``map@r``,
    ``r_precision``, ``mrr`` (over the whole ranking, not cut off), ``effective_rank`` of the queries (unit
    vectors for cosine); and with ``labels``, for each k of ``knn``: ``knn{k}_accuracy``,
    ``knn{k}_accuracy_macro`` (mean over the queries' classes), ``knn{k}_f1_macro`` and
    ``knn{k}_accuracy_rare|medium|frequent``.

    - Queries without a relevant item in the corpus are left out of the retrieval means and counted in
      ``queries_without_positive``, which is there only if there are any; a mean over none is NaN.
    - Unlabelled queries are not classified and unlabelled items don't vote. A query whose class the corpus
      lacks counts as wrong.
    - In several processes each gives its own share; `compute` gathers all, and every process computes the
      same.
    - Memory: the embeddings, and blocks of ``block_rows`` by the size of the corpus.

    Args:
        relations: ``.positive(anchor_ids [A], candidate_ids [C])`` returns ``[A, C]`` bool, relevance. If
            it has ``.to(device)``, it is asked for a copy on the embeddings' device, else it is given ids
            on the CPU.
        labels: ``[N]`` integers, the class of each global id, negative where unlabelled.
        ks: list lengths of recall and precision.
        knn: numbers of voting neighbours.
        similarity: ``"cosine"`` or ``"dot"``.
        temperature: weighs votes by ``exp(similarity / temperature)``; ``None`` counts them.
        class_counts: ``[classes]``, the classes' frequencies in the *training* set, for the frequency bins;
            by default their frequencies in the corpus.
        frequency_edges: the two counts that part rare, medium and frequent; see `accuracy_by_frequency`,
            also for the default.
        block_rows: queries handled at once; by default 2**24 scores' worth, but at least 64.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> class SameParity:
        ...     def positive(self, anchors, candidates):
        ...         return (anchors[:, None] - candidates) % 2 == 0
        >>> metric = NeighbourMetrics(SameParity(), ks=(1,))
        >>> metric.update(torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.arange(4))
        >>> metric.compute()["recall@1"].item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    embeddings: list[Tensor]
    ids: list[Tensor]
    corpus_embeddings: list[Tensor]
    corpus_ids: list[Tensor]
    labels: Tensor | None
    class_counts: Tensor | None

    def __init__(
        self,
        relations: Relations,
        labels: Tensor | None = None,
        ks: Sequence[int] = (1, 5, 10),
        knn: Sequence[int] = (1, 10),
        similarity: Similarity = "cosine",
        temperature: float | None = None,
        class_counts: Tensor | None = None,
        frequency_edges: tuple[float, float] | None = None,
        block_rows: int | None = None,
        **kwargs: Any,
    ) -> None:
        # A rank that was given nothing since the last compute would answer from its cache, while the others
        # wait for it.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        if min([*ks, *knn, 1]) < 1:
            raise ValueError(f"every k must be at least 1, got ks={tuple(ks)} and knn={tuple(knn)}")
        if similarity not in ("cosine", "dot"):
            raise ValueError(f"similarity is {similarity!r}; use 'cosine' or 'dot'")
        if block_rows is not None and block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.relations = relations
        self.ks = tuple(ks)
        self.knn = tuple(knn)
        self.similarity = similarity
        self.temperature = temperature
        self.frequency_edges = frequency_edges
        self.block_rows = block_rows
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("class_counts", class_counts, persistent=False)
        for name in ("embeddings", "ids", "corpus_embeddings", "corpus_ids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, ids: Tensor, corpus: bool = False) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``, as queries or as corpus.

        Raises:
            ValueError: shapes disagree, with each other or with what was given before.
        """
        if embeddings.ndim != 2 or ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings must be [n, d] and ids [n], got {list(embeddings.shape)} and {list(ids.shape)}"
            )
        for earlier in (self.embeddings, self.corpus_embeddings):
            if earlier and earlier[0].shape[1] != embeddings.shape[1]:
                raise ValueError(
                    f"embeddings have dimension {embeddings.shape[1]}, earlier ones {earlier[0].shape[1]}"
                )
        prefix = "corpus_" if corpus else ""
        getattr(self, f"{prefix}embeddings").append(embeddings.detach().float())
        getattr(self, f"{prefix}ids").append(ids.detach().long())

    @torch.no_grad()
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
        labels = self._labels_of(corpus_ids)
        columns: dict[str, list[Tensor]] = {}
        rows = self.block_rows or self._default_rows(len(corpus_ids))
        positive = self._relevance(queries.device)
        for block, block_ids in zip(queries.split(rows), ids.split(rows), strict=True):
            for name, column in self._rank(block, block_ids, corpus, corpus_ids, positive, labels).items():
                columns.setdefault(name, []).append(column)
        values = {name: torch.cat(column) for name, column in columns.items()}
        results = self._retrieval(values)
        target = self._labels_of(ids)
        if labels is not None and target is not None:
            results |= self._classification(values, target, labels)
        results["effective_rank"] = effective_rank(queries)
        return {name: value.to(queries.device, torch.float32) for name, value in results.items()}

    def _items(self, prefix: str) -> tuple[Tensor, Tensor]:
        """Distinct items in the order of their ids: vectors ready to be multiplied, and ids."""
        if not len(getattr(self, f"{prefix}ids")):
            return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        ids, order = dim_zero_cat(getattr(self, f"{prefix}ids")).sort(stable=True)
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        ids = ids[first]
        if int(ids[0]) < 0:
            raise ValueError(f"ids must be >= 0, got {int(ids[0])}")
        vectors = dim_zero_cat(getattr(self, f"{prefix}embeddings"))[order[first]]
        finite = vectors.isfinite().all(dim=1)
        if not bool(finite.all()):
            raise ValueError(
                f"{int((~finite).sum())} of {len(ids)} embeddings hold NaN or infinity, the first is that of "
                f"item {int(ids[~finite][0])}; has the training diverged?"
            )
        return F.normalize(vectors, dim=1) if self.similarity == "cosine" else vectors, ids

    def _default_rows(self, corpus: int) -> int:
        # Votes are compared pair by pair among k neighbours.
        per_row = max([corpus, *(k * k for k in self.knn)])
        return max(64, BLOCK_ELEMENTS // per_row)

    def _relevance(self, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
        if hasattr(self.relations, "to"):
            return self.relations.to(device).positive
        return lambda anchors, candidates: self.relations.positive(anchors.cpu(), candidates.cpu()).to(device)

    def _rank(
        self,
        queries: Tensor,
        ids: Tensor,
        corpus: Tensor,
        corpus_ids: Tensor,
        positive: Callable[[Tensor, Tensor], Tensor],
        corpus_labels: Tensor | None,
    ) -> dict[str, Tensor]:
        """One value per query of a block, by name."""
        scores = similarities(queries, corpus)[:, : len(corpus_ids)]  # [b, N]
        itself = torch.searchsorted(corpus_ids, ids).clamp(max=len(corpus_ids) - 1)
        rows = (corpus_ids[itself] == ids).nonzero().squeeze(1)
        scores[rows, itself[rows]] = -torch.inf
        never = torch.zeros((), dtype=torch.bool, device=scores.device)
        relevant = positive(ids, corpus_ids).index_put((rows, itself[rows]), never)  # [b, N]
        total = relevant.sum(dim=1)
        values: dict[str, Tensor] = {"total": total}
        # R differs widely between classes: rows are grouped by the power of two that covers their R, so
        # that a large class does not make every row's list long.
        least = max([*self.ks, 1])
        depth = torch.ceil(torch.log2(total.clamp(min=least) / least)).long()
        for level in depth.unique().tolist():
            group = (depth == level).nonzero().squeeze(1)
            part = (scores, relevant, total)
            if len(group) < len(total):
                part = (scores[group], relevant[group], total[group])
            for name, column in self._rank_group(*part).items():
                values.setdefault(name, column.new_empty(len(total)))[group] = column
        if corpus_labels is not None:
            values |= self._vote(scores, corpus_labels)
        return values

    def _rank_group(self, scores: Tensor, relevant: Tensor, total: Tensor) -> dict[str, Tensor]:
        _, nearest = top_k(scores, max([*self.ks, int(total.max())]))
        hits = relevant.gather(1, nearest)  # [g, k]
        values = {f"recall@{k}": recall_at_k(hits, k) for k in self.ks}
        values |= {f"precision@{k}": precision_at_k(hits, k) for k in self.ks}
        values["map@r"] = map_at_r(hits, total)
        values["r_precision"] = r_precision(hits, total)
        values["mrr"] = reciprocal_rank(hits)
        later = (~hits.any(dim=1) & (total > 0)).nonzero().squeeze(1)
        values["mrr"][later] = 1.0 / first_relevant_rank(scores[later], relevant[later])
        return values

    def _vote(self, scores: Tensor, corpus_labels: Tensor) -> dict[str, Tensor]:
        """Predicted class of each query, -1 where no labelled item is left to vote."""
        unlabelled = corpus_labels < 0
        if bool(unlabelled.any()):
            scores = scores.masked_fill(unlabelled, -torch.inf)
        near, where = top_k(scores, max([*self.knn, 1]))
        voters = corpus_labels[where].masked_fill(near.isneginf(), -1)
        return {
            f"knn{k}": knn_predict(voters[:, :k], near[:, :k], temperature=self.temperature) for k in self.knn
        }

    def _retrieval(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        counted = values["total"] > 0
        names = [f"recall@{k}" for k in self.ks] + [f"precision@{k}" for k in self.ks]
        results = {name: values[name][counted].mean() for name in [*names, "map@r", "r_precision", "mrr"]}
        if not bool(counted.all()):
            results["queries_without_positive"] = (~counted).sum()
        return results

    def _classification(
        self, values: dict[str, Tensor], labels: Tensor, corpus_labels: Tensor
    ) -> dict[str, Tensor]:
        known = labels >= 0
        target = labels[known]
        counts = self.class_counts
        if counts is None:
            voters = corpus_labels[corpus_labels >= 0]
            counts = torch.bincount(voters, minlength=int(labels.max()) + 1)
        results = {}
        for k in self.knn:
            predicted = values[f"knn{k}"][known]
            name = f"knn{k}_accuracy"
            results[name] = accuracy(predicted, target)
            results[f"{name}_macro"] = macro_accuracy(predicted, target)
            results[f"knn{k}_f1_macro"] = macro_f1(predicted, target)
            bins = accuracy_by_frequency(predicted, target, counts.to(target.device), self.frequency_edges)
            results |= {f"{name}_{part}": value for part, value in bins.items()}
        return results

    def _labels_of(self, ids: Tensor) -> Tensor | None:
        if self.labels is None:
            return None
        if int(ids[-1]) >= len(self.labels):
            raise ValueError(f"id {int(ids[-1])} has no label; labels has {len(self.labels)} entries")
        return self.labels.to(ids.device)[ids]

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        # A process that was given nothing takes part with empty tensors of the right type and width;
        # torchmetrics would send a float vector for both.
        given = [x.shape[1] for x in [*self.embeddings, *self.corpus_embeddings]]
        width = torch.tensor(given[0] if given else 0, device=self.device)
        width = torch.stack(dist_sync_fn(width, group=process_group or self.process_group)).max()
        for prefix in ("", "corpus_"):
            if not getattr(self, f"{prefix}ids"):
                setattr(self, f"{prefix}ids", [torch.empty(0, dtype=torch.int64, device=self.device)])
                setattr(self, f"{prefix}embeddings", [torch.empty(0, int(width), device=self.device)])
        super()._sync_dist(dist_sync_fn, process_group)


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
