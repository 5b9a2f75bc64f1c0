"""Metrics of the pairs and triplets in a data set, without a search."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score
from torch import Tensor

from lit_metric.index import Similarity
from lit_metric.metrics.base import EmbeddingMetric, float32_by_default

CHUNK = 2**16
"""Pairs in one block of products."""


class GivenMetric(EmbeddingMetric):
    """Keeps the embeddings of the items that occur in given tuples of ids.

    Args:
        columns: ids ``[T]`` by name.
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
        self.tuple_names = [*columns]
        for name, ids in columns.items():
            self.register_buffer(name, ids, persistent=False)

    def update(self, embeddings: Tensor, ids: Tensor) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``; items that occur in no
        tuple are not kept.

        Raises:
            ValueError: shapes disagree, with each other or with earlier ones.
        """
        kept = torch.isin(ids, self.wanted.to(ids.device))
        self._collect(embeddings[kept], ids[kept])

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
        """All items, as from `_items`, and ``[T]`` bool: the tuples that are complete.

        Raises:
            ValueError: an item is missing and the answer may not be ``partial``, or as `_items`.
        """
        vectors, ids = self._items()
        missing = self.wanted[~torch.isin(self.wanted, ids.to(self.wanted.device))]
        if len(missing) and not partial:
            raise ValueError(
                f"{len(missing)} of {len(self.wanted)} items were not given, the first is item "
                f"{int(missing[0])}; encode the items of all given pairs and triplets"
            )
        columns = [getattr(self, name) for name in self.tuple_names]
        return (vectors, ids), ~torch.stack([torch.isin(column, missing) for column in columns]).any(dim=0)


class PairMetrics(GivenMetric):
    """How well the similarities of given pairs agree with their targets.

    `compute` returns scalars: ``spearman`` and ``pearson``, the correlations of similarity and target, NaN
    where either is constant. If the targets have just two values, such as 0 and 1, there is ``pair_ap`` too:
    the average precision of finding the pairs with the higher target by their similarity.

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
        of_pairs, wanted = scores.cpu().numpy(), targets.double().cpu().numpy()
        results = {"spearman": torch.nan, "pearson": torch.nan}
        if len(scores.unique()) > 1 and len(targets.unique()) > 1:
            results["spearman"] = spearmanr(of_pairs, wanted).statistic
            results["pearson"] = pearsonr(of_pairs, wanted).statistic
        if len(targets.unique()) == 2:
            results["pair_ap"] = average_precision_score(wanted == wanted.max(), of_pairs)
        return {name: scores.new_tensor(float(value)).float() for name, value in results.items()}


class TripletMetrics(GivenMetric):
    """How often anchor and positive are nearer to each other than either is to the negative.

    `compute` returns ``tot``, the share of such triplets, and ``tot_GROUP`` for each group. It is the
    text-only test (TOT) of Dumpala et al., "SugarCrepe++ Dataset", NeurIPS 2024 (arXiv 2406.11171).

    Args:
        anchors: ``[T]`` ids.
        positives: ``[T]`` ids of items that belong to the anchors.
        negatives: ``[T]`` ids of items that belong to neither.
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
        together = self._similarity(items, first, second)
        apart = (self._similarity(items, one, third) for one in (first, second))
        right = torch.stack([together > other for other in apart]).all(dim=0).float()
        results = {"tot": right.mean()}
        for group in sorted(set(self.groups or [])):
            members = torch.tensor([name == group for name in self.groups or []], device=there.device)
            results[f"tot_{group}"] = right[members[there].to(right.device)].mean()
        return results
