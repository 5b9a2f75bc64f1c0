"""How embeddings lie in their space: alignment, uniformity, hubs, clusters.

Distances are taken in float32, sums in float64.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import skew
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from lit_metric.clusters import k_means, nearest_centres
from lit_metric.index import padded, similarities, top_k
from lit_metric.metrics.base import EmbeddingMetric, Relations, float32_by_default

_ELEMENTS = 2**24
_STEPS = 2**20
"""Steps between a cosine of 0 and one of 1, to which cosines are rounded to be counted."""


class SpaceMetrics(EmbeddingMetric):
    """Numbers that say why neighbours are good or bad, of unit vectors.

    `compute` returns scalars:

    - ``alignment``: see `alignment`, of all positive pairs. The lower the better.
    - ``uniformity``: see `uniformity`, of all pairs. The lower the better.
    - ``all_pairs_ap``: the average precision (scikit-learn's) of finding the positive pairs among all pairs
      by their cosine, 0..1: how well one threshold serves all items. Pairs that the relations exclude without
      being positive, such as those of unlabelled items, don't count. Cosines are rounded to 2⁻²⁰.
    - ``hubness``: the skewness of how often each item is among the ``k`` nearest of the others: 0 where all
    are
      equally often, large where few hubs are near to everything (Radovanović, Nanopoulos and Ivanović, JMLR
      2010).
    - ``nmi``, with ``labels``: the normalised mutual information of the classes and of as many clusters by
      k-means, 0..1. 1 where each cluster is a class.

    All pairs of items are compared, in blocks. In several processes each gives its own share; `compute`
    gathers all, and every process computes the same.

    Args:
        relations: ``.positive(anchor_ids [A], candidate_ids [C])`` returns ``[A, C]`` bool.
        labels: ``[N]`` integers, the class of each global id, negative where unlabelled. Unlabelled items
            are not clustered.
        k: number of neighbours for ``hubness``.
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
        {'alignment': 0.0, 'uniformity': -1.063, 'all_pairs_ap': 1.0, 'hubness': 0.0, 'nmi': 1.0}
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
        """All names that `compute` may return."""
        return {
            "alignment",
            "uniformity",
            "all_pairs_ap",
            "hubness",
            *(() if self.labels is None else ("nmi",)),
        }

    def update(self, embeddings: Tensor, ids: Tensor) -> None:
        """Add ``embeddings [n, d]`` (any float dtype) of the items ``ids [n]``.

        Raises:
            ValueError: shapes disagree, with each other or with earlier ones.
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
        relations = self._placed(self.relations, ids.device)
        distances, neighbours, everyone, pairs = [], [], padded(vectors), PairScores(ids.device)
        width = min(self.k, len(ids) - 1)
        for rows in torch.arange(len(ids), device=ids.device).split(max(1, _ELEMENTS // 4 // len(ids))):
            scores = similarities(vectors[rows], everyone)[:, : len(ids)]
            scores[torch.arange(len(rows), device=ids.device), rows] = -torch.inf
            if width:
                neighbours.append(top_k(scores, width)[1])
            positive = relations.positive(ids[rows], ids)
            unknown = scores.isneginf()
            if hasattr(self.relations, "excluded"):
                unknown |= relations.excluded(ids[rows], ids) & ~positive
            pairs.add(scores, positive, unknown)
            row, column = positive.nonzero(as_tuple=True)
            at_a_time = max(1, _ELEMENTS // 4 // vectors.shape[1])
            for first, second in zip(row.split(at_a_time), column.split(at_a_time), strict=True):
                if len(first):
                    distance = alignment(vectors[rows[first]], vectors[second])
                    distances.append(torch.stack([distance, distance.new_tensor(len(first))]))
        means, numbers = torch.stack(distances).unbind(dim=1) if distances else vectors.new_zeros(2, 1)
        values = {"alignment": (means * numbers).sum() / numbers.sum(), "uniformity": uniformity(vectors)}
        values["all_pairs_ap"] = pairs.average_precision()
        if neighbours:
            counts = torch.bincount(torch.cat(neighbours).flatten(), minlength=len(ids)).cpu().double()
            same = bool((counts == counts[0]).all())
            values["hubness"] = torch.tensor(0.0 if same else float(skew(counts.numpy())))
        if self.labels is not None:
            values["nmi"] = torch.tensor(self._nmi(vectors, self.labels.to(ids.device)[ids]))
        return {name: value.to(ids.device, torch.float32) for name, value in values.items()}

    def _nmi(self, vectors: Tensor, labels: Tensor) -> float:
        known = labels >= 0
        if not bool(known.any()):
            return torch.nan
        points = F.normalize(vectors[known], dim=1)
        centres = k_means(points, len(labels[known].unique()), seed=self.seed)
        clusters = nearest_centres(points, centres)[:, 0]
        return float(normalized_mutual_info_score(labels[known].cpu().numpy(), clusters.cpu().numpy()))


class PairScores:
    """Counts pairs by their cosine, so that memory doesn't grow with their number.

    Example:
        >>> pairs = PairScores(torch.device("cpu"))
        >>> known = torch.zeros(1, 3, dtype=torch.bool)
        >>> pairs.add(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[True, False, True]]), known)
        >>> round(pairs.average_precision().item(), 4)  # (1 + 2/3) / 2
        0.8333
    """

    def __init__(self, device: torch.device) -> None:
        self.positives, self.all = torch.zeros(2, 2 * _STEPS + 1, dtype=torch.int64, device=device)

    def add(self, scores: Tensor, positive: Tensor, unknown: Tensor) -> None:
        """Count a block.

        Args:
            scores: ``[a, n]`` cosines.
            positive: ``[a, n]`` bool.
            unknown: ``[a, n]`` bool: pairs that don't count.
        """
        places = ((scores.clamp(-1, 1) + 1) * _STEPS).round().long()
        self.all += places[~unknown].bincount(minlength=len(self.all))
        self.positives += places[positive & ~unknown].bincount(minlength=len(self.all))

    def average_precision(self) -> Tensor:
        """Scalar float64: the sum of precisions at each cosine, each times the gain in recall there, from the
        highest cosine on; NaN without pairs of both kinds."""
        found, seen = self.positives.flip(0), self.all.flip(0)
        total = found.sum()
        if not 0 < total < seen.sum():
            return torch.full((), torch.nan, dtype=torch.float64, device=found.device)
        precision = found.cumsum(0).double() / seen.cumsum(0).clamp(min=1)
        return (precision * found).sum() / total


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean of ``‖x − y‖^alpha`` over positive pairs of unit vectors, 0 at best (Wang and Isola,
    "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere",
    ICML 2020).

    Args:
        first: ``[p, d]`` of length 1.
        second: ``[p, d]`` their positives.
        alpha: above 0.

    Returns:
        Scalar float64, in 0..4 for an ``alpha`` of 2; NaN of no pairs.

    Example:
        >>> round(alignment(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item(), 5)
        1.0
    """
    return (first - second).norm(dim=1).double().pow(alpha).mean()


def uniformity(vectors: Tensor, t: float = 2.0) -> Tensor:
    """``log mean exp(−t ‖x − y‖²)`` over all pairs of different unit vectors, the lower the more evenly they
    are spread (Wang and Isola, as `alignment`).

    Args:
        vectors: ``[n, d]`` of length 1; worked through in blocks.
        t: above 0.

    Returns:
        Scalar float64, at most 0; NaN of fewer than two.

    Example:
        >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item()  # −2 · 2²
        -8.0
    """
    n = len(vectors)
    if n < 2:
        return torch.full((), torch.nan, dtype=torch.float64, device=vectors.device)
    total = torch.zeros((), dtype=torch.float64, device=vectors.device)
    for rows in torch.arange(n, device=vectors.device).split(max(1, _ELEMENTS // n)):
        # Not from products: of close vectors little would be left.
        squared = torch.cdist(vectors[rows], vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
        near = (-t * squared).double().exp()
        near[torch.arange(len(rows), device=rows.device), rows] = 0.0
        total += near.sum()
    return (total / (n * (n - 1))).log()
