"""Metrics of pairs and triplets that the data set gives, as they stand and without a search."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lit_metric.index import Similarity
from lit_metric.metrics.embeddings import EmbeddingMetric, float32_by_default
from lit_metric.metrics.functional import average_precision, pearson, spearman, triplet_order

CHUNK = 2**16
"""Pairs whose vectors are laid side by side at once."""


class GivenMetric(EmbeddingMetric):
    """Keeps the embeddings of those items that stand in given tuples of ids.

    Args:
        columns: ids ``[T]`` by the name of what they are.
        similarity: ``"cosine"`` or ``"dot"``.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: the columns differ in length, or the similarity is another.
    """

    wanted: Tensor

    def __init__(self, columns: dict[str, Tensor], similarity: Similarity, **kwargs: Any) -> None:
        super().__init__(similarity, **kwargs)
        shapes = [list(ids.shape) for ids in columns.values()]
        if any(shape != shapes[0] or len(shape) != 1 for shape in shapes):
            raise ValueError(f"{', '.join(columns)} must be vectors of one length, got {shapes}")
        self.register_buffer("wanted", torch.cat([*columns.values()]).unique(), persistent=False)
        self.columns = [*columns]
        for name, ids in columns.items():
            self.register_buffer(name, ids, persistent=False)

    def update(self, embeddings: Tensor, ids: Tensor) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``; others than those asked for
        are not kept.

        Raises:
            ValueError: shapes disagree, with each other or with what was given before.
        """
        kept = torch.isin(ids, self.wanted.to(ids.device))
        self._collect(embeddings[kept], ids[kept])

    @abstractmethod
    def names(self) -> set[str]:
        """Everything that `compute` may return."""

    def _similarity(self, items: tuple[Tensor, Tensor], first: Tensor, second: Tensor) -> Tensor:
        """``[T]`` float64, of the items with the ids ``first [T]`` and ``second [T]``."""
        vectors, ids = items
        places = [torch.searchsorted(ids, each.to(ids.device)) for each in (first, second)]
        parts = [
            (vectors[one].double() * vectors[other].double()).sum(dim=1)
            for one, other in zip(*(place.split(CHUNK) for place in places), strict=True)
        ]
        return torch.cat(parts)

    def _complete(self, partial: bool) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """All items, as `_items` gives them, and ``[T]`` bool, of which tuples all were given.

        Raises:
            ValueError: an item was not given, unless a ``partial`` answer is enough, or as `_items`.
        """
        vectors, ids = self._items()
        missing = self.wanted[~torch.isin(self.wanted, ids.to(self.wanted.device))]
        if len(missing) and not partial:
            raise ValueError(
                f"{len(missing)} of {len(self.wanted)} items were not given, the first is item "
                f"{int(missing[0])}; encode the items of all given pairs and triplets"
            )
        columns = [getattr(self, name) for name in self.columns]
        return (vectors, ids), ~torch.stack([torch.isin(column, missing) for column in columns]).any(dim=0)


class PairMetrics(GivenMetric):
    """How well the similarities of given pairs agree with their targets.

    `compute` returns scalars: ``spearman`` and ``pearson``, the correlations of similarity and target; and,
    where the targets are of two values, such as 0 and 1, ``pair_ap``, the average precision of finding the
    pairs with the higher one by their similarity. They are NaN where they are not defined.

    Args:
        anchors: ``[P]`` ids.
        candidates: ``[P]`` ids.
        targets: ``[P]`` how well each pair belongs together.
        similarity: ``"cosine"`` or ``"dot"``.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: lengths differ, or an argument is out of its range.

    Example:
        >>> metric = PairMetrics(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([5.0, 1.5]))
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.arange(3))
        >>> round(metric.compute()["spearman"].item(), 6)
        1.0
    """

    anchors: Tensor
    candidates: Tensor
    targets: Tensor

    def __init__(
        self,
        anchors: Tensor,
        candidates: Tensor,
        targets: Tensor,
        similarity: Similarity = "cosine",
        **kwargs: Any,
    ) -> None:
        super().__init__({"anchors": anchors, "candidates": candidates}, similarity, **kwargs)
        if targets.shape != anchors.shape:
            raise ValueError(f"targets must be {list(anchors.shape)}, got {list(targets.shape)}")
        self.register_buffer("targets", targets, persistent=False)

    def names(self) -> set[str]:
        return {"spearman", "pearson", "pair_ap"}

    @torch.no_grad()
    @float32_by_default()
    def compute(self, partial: bool = False) -> dict[str, Tensor]:
        """All values, float32 scalars by name.

        Args:
            partial: leave out pairs of which an item was not given.

        Raises:
            ValueError: an item of a pair was not given, or an embedding holds NaN or infinity.
        """
        items, there = self._complete(partial)
        scores = self._similarity(items, self.anchors[there], self.candidates[there])
        targets = self.targets[there].to(scores.device)
        results = {"spearman": spearman(scores, targets), "pearson": pearson(scores, targets)}
        if len(targets.unique()) == 2:
            results["pair_ap"] = average_precision(scores, targets == targets.max())
        return {name: value.float() for name, value in results.items()}


class TripletMetrics(GivenMetric):
    """How often two that belong together are nearer to each other than either is to a third.

    `compute` returns ``tot``, the share of such triplets, and ``tot_GROUP`` for each group; see
    `triplet_order`.

    Args:
        anchors: ``[T]`` ids.
        positives: ``[T]`` ids of what belongs to the anchors.
        negatives: ``[T]`` ids of what belongs to neither.
        groups: ``[T]`` names, or None.
        similarity: ``"cosine"`` or ``"dot"``.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: lengths differ, or an argument is out of its range.

    Example:
        >>> metric = TripletMetrics(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.arange(3))
        >>> metric.compute()["tot"].item()
        1.0
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor

    def __init__(
        self,
        anchors: Tensor,
        positives: Tensor,
        negatives: Tensor,
        groups: list[str] | None = None,
        similarity: Similarity = "cosine",
        **kwargs: Any,
    ) -> None:
        columns = {"anchors": anchors, "positives": positives, "negatives": negatives}
        super().__init__(columns, similarity, **kwargs)
        if groups is not None and len(groups) != len(anchors):
            raise ValueError(f"{len(groups)} groups were given for {len(anchors)} triplets")
        self.groups = groups

    def names(self) -> set[str]:
        return {"tot", *(f"tot_{group}" for group in self.groups or ())}

    @torch.no_grad()
    @float32_by_default()
    def compute(self, partial: bool = False) -> dict[str, Tensor]:
        """All values, float32 scalars by name.

        Args:
            partial: leave out triplets of which an item was not given.

        Raises:
            ValueError: an item of a triplet was not given, or an embedding holds NaN or infinity.
        """
        items, there = self._complete(partial)
        first, second, third = (ids[there] for ids in (self.anchors, self.positives, self.negatives))
        right = triplet_order(
            self._similarity(items, first, second),
            self._similarity(items, first, third),
            self._similarity(items, second, third),
        ).float()
        results = {"tot": right.mean()}
        for group in sorted(set(self.groups or [])):
            members = torch.tensor([name == group for name in self.groups or []], device=there.device)
            results[f"tot_{group}"] = right[members[there].to(right.device)].mean()
        return results
