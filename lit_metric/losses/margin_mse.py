"""MarginMSE: differences between scores follow those of a teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.pairs import PairBlock, any_in_row
from lit_metric.losses.parts import Part, Parts
from lit_metric.losses.scores import Distance

Compared = Literal["all", "positives"]


class MarginMSELoss(MetricLoss):
    """MarginMSE: ((s_i − s_j) − (t_i − t_j))², the mean over any two candidates i, j of an anchor that have a
    teacher's score t.

    Only differences count, so the teacher may be off by a constant for each anchor, but its scale is learned:
    with ``cosine``, bring the scores to that of cosines. A batch must hold several scored candidates of an
    anchor, or ``anchors_used`` and the loss are 0. ``PairPlanner(negatives=3)`` puts one positive and three
    of the given negatives there, with ``positive_from`` of the data between their scores. Without scores, a
    positive counts as 1 and a negative as 0. A candidate with a score of −inf is left out. A term is
    multiplied by both candidates' weights.

    Logs ``margin_mse``.

    Source: Hofstätter, Althammer, Schröder, Sertkan and Hanbury, "Improving Efficient Neural Ranking Models
    with Cross-Architecture Knowledge Distillation", arXiv 2010.02666, eq. 5.

    Args:
        compared: ``all`` compares every two candidates with a score; ``positives`` a positive with a negative
            only, as sentence-transformers does.
        distance: any of the four; the source takes the inner product, on whose scale the scores should be.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> loss = MarginMSELoss()
        >>> anchors, positives = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 1.0]])
        >>> negatives, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[9.0, 2.0]])
        >>> loss(anchors, positives, negatives, scores=teacher)  # (4 - 7)²
        tensor(9.)
    """

    requires_scores = True

    def __init__(
        self,
        compared: Compared = "all",
        distance: Distance = "dot",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(distance, normalize, block_rows)
        if compared not in ("all", "positives"):
            raise ValueError(f"compared {compared!r} is none of all, positives")
        self.compared: Compared = compared

    def usable(self, pairs: PairBlock) -> Tensor:
        """Anchors with two candidates to compare."""
        known = pairs.targets > -torch.inf
        if self.compared == "all":
            return known.sum(dim=1) >= 2
        return pairs._replace(positive=pairs.positive & known, negative=pairs.negative & known).usable

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`.

        A term is ``(e_i − e_j)²`` of the errors ``e = s − t``. The sum over pairs follows from the squared
        deviations from the mean, so that memory is ``[r, C]``.
        """
        known = pairs.targets > -torch.inf
        errors = scores - torch.where(known, pairs.targets, 0.0).to(scores.dtype)
        weight = torch.ones_like(scores) if pairs.weight is None else pairs.weight.to(scores.dtype)

        def moments(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Of each row: the sum of weights, the weighted mean, and the weighted sum of squared deviations
            from it; 0 where there is nothing."""
            weights = torch.where(mask, weight, 0.0)
            total = weights.sum(dim=1)
            mean = (weights * errors).sum(dim=1) / torch.where(any_in_row(mask), total, 1.0)
            return total, mean, (weights * (errors - mean[:, None]).square()).sum(dim=1)

        if self.compared == "all":
            total, _, scatter = moments(known)
            number = known.sum(dim=1)
            return {"margin_mse": Part((total * scatter).sum(), (number * (number - 1) // 2).sum())}
        first, second = pairs.positive & known, pairs.negative & known
        (total_p, mean_p, scatter_p), (total_n, mean_n, scatter_n) = moments(first), moments(second)
        between = total_p * total_n * (mean_p - mean_n).square()
        number = first.sum(dim=1) * second.sum(dim=1)
        terms = between + total_n * scatter_p + total_p * scatter_n
        return {"margin_mse": Part(terms.sum(), number.sum())}
