"""How the embeddings of an evaluation lie in their space."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_metric.clusters import k_means, nearest_centres
from lit_metric.index import padded, similarities, top_k
from lit_metric.metrics.embeddings import EmbeddingMetric, float32_by_default
from lit_metric.metrics.functional import (
    alignment,
    normalized_mutual_information,
    occurrence_skewness,
    uniformity,
)
from lit_metric.metrics.neighbours import Relations

_ELEMENTS = 2**22


class SpaceMetrics(EmbeddingMetric):
    """Numbers that say why neighbours are good or bad, of unit vectors.

    `compute` returns scalars: ``alignment``, the mean squared distance of positives; ``uniformity``, how
    evenly all are spread (the lower the better, as for alignment); ``hubness``, the skewness of how often an
    item is among the ``k`` nearest of the others; and with ``labels`` ``nmi``, of the classes and as many
    clusters by k-means. See `lit_metric.metrics.functional` for the definitions.

    All pairs of items are compared, in blocks. In several processes each gives its own share; `compute`
    gathers all, and every process computes the same.

    Args:
        relations: ``.positive(anchor_ids [A], candidate_ids [C])`` returns ``[A, C]`` bool.
        labels: ``[N]`` integers, the class of each global id, negative where unlabelled, which are not
            clustered.
        k: neighbours that make hubs.
        seed: of k-means.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        ValueError: ``k`` is below 1.

    Example:
        >>> from lit_metric.data import LabelRelations
        >>> relations = LabelRelations.from_names(["cat", "cat", "dog", "dog"], torch.arange(4))
        >>> metric = SpaceMetrics(relations, relations.labels, k=1)
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.arange(4))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'alignment': 0.0, 'uniformity': -1.063, 'hubness': 0.0, 'nmi': 1.0}
    """

    labels: Tensor | None

    def __init__(
        self, relations: Relations, labels: Tensor | None = None, k: int = 10, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.relations = relations
        self.k = k
        self.seed = seed
        self.register_buffer("labels", labels, persistent=False)

    def names(self) -> set[str]:
        """Everything that `compute` may return."""
        return {"alignment", "uniformity", "hubness", *(() if self.labels is None else ("nmi",))}

    def update(self, embeddings: Tensor, ids: Tensor) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``.

        Raises:
            ValueError: shapes disagree, with each other or with what was given before.
        """
        self._collect(embeddings, ids)

    @torch.no_grad()
    @float32_by_default()
    def compute(self) -> dict[str, Tensor]:
        """All values, float32 scalars by name; NaN where there is nothing to compare.

        Raises:
            ValueError: there are no items, an embedding holds NaN or infinity, or an id is negative.
        """
        vectors, ids = self._items()
        if not len(ids):
            raise ValueError("no embeddings were given; call update before compute")
        distances, neighbours, everyone = [], [], padded(vectors)
        width = min(self.k, len(ids) - 1)
        for rows in torch.arange(len(ids), device=ids.device).split(max(1, _ELEMENTS // len(ids))):
            scores = similarities(vectors[rows], everyone)[:, : len(ids)]
            scores[torch.arange(len(rows), device=ids.device), rows] = -torch.inf
            if width:
                neighbours.append(top_k(scores, width)[1])
            row, column = self._positive(ids[rows], ids).nonzero(as_tuple=True)
            at_a_time = max(1, _ELEMENTS // vectors.shape[1])
            for first, second in zip(row.split(at_a_time), column.split(at_a_time), strict=True):
                if len(first):
                    distance = alignment(vectors[rows[first]], vectors[second])
                    distances.append(torch.stack([distance, distance.new_tensor(len(first))]))
        values = {"alignment": _mean(distances, ids), "uniformity": uniformity(vectors)}
        if neighbours:
            values["hubness"] = occurrence_skewness(torch.cat(neighbours), len(ids))
        if self.labels is not None:
            values["nmi"] = self._clustered(vectors, self.labels.to(ids.device)[ids])
        return {name: value.to(ids.device, torch.float32) for name, value in values.items()}

    def _positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        relations: Any = self.relations
        if hasattr(relations, "to"):
            positive: Tensor = relations.to(anchors.device).positive(anchors, candidates)
            return positive
        return self.relations.positive(anchors.cpu(), candidates.cpu()).to(anchors.device)

    def _clustered(self, vectors: Tensor, labels: Tensor) -> Tensor:
        known = labels >= 0
        if not bool(known.any()):
            return torch.full((), torch.nan)
        points = F.normalize(vectors[known], dim=1)
        centres = k_means(points, len(labels[known].unique()), seed=self.seed)
        return normalized_mutual_information(labels[known].cpu(), nearest_centres(points, centres)[:, 0])


def _mean(parts: list[Tensor], like: Tensor) -> Tensor:
    """Of ``(mean, number)`` pairs."""
    if not parts:
        return torch.full((), torch.nan, device=like.device)
    means, numbers = torch.stack(parts).unbind(dim=1)
    return (means * numbers).sum() / numbers.sum()
