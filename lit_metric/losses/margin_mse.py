"""MarginMSE: differences of scores are to be those that a teacher gives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Part, Parts
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.scores import Distance

Compared = Literal["all", "positives"]


def margin_mse(scores: Tensor, pairs: PairBlock, compared: Compared = "all") -> Part:
    """``((s_i − s_j) − (t_i − t_j))²`` over two candidates i, j of an anchor, s their scores and t their
    targets.

    It is ``(e_i − e_j)²`` of the errors ``e = s − t``, whose sum over pairs comes of their squared deviations
    from the mean: no more than ``[r, C]`` is needed.

    Source: Hofstätter, Althammer, Schröder, Sertkan and Hanbury, "Improving Efficient Neural Ranking Models
    with Cross-Architecture Knowledge Distillation", arXiv 2010.02666, eq. 5.

    Args:
        scores: ``[r, C]``.
        pairs: masks and targets ``[r, C]``; a term is multiplied by both candidates' weights. A candidate
            with a target of −inf is left out.
        compared: ``all`` takes every two candidates with a target, once; ``positives`` only a positive with a
            negative.

    Returns:
        The sum of the terms, and their number.

    Example:
        >>> neither = torch.zeros(1, 3, dtype=torch.bool)
        >>> pairs = PairBlock(neither, neither, target=torch.tensor([[9.0, 2.0, torch.nan]]))
        >>> margin_mse(torch.tensor([[5.0, 1.0, 0.0]]), pairs)  # (4 - 7)²
        Part(total=tensor(9.), number=tensor(1), logged=False)
    """
    known = _compared(pairs)
    errors = scores - torch.where(known, pairs.targets, 0.0).to(scores.dtype)
    weight = torch.ones_like(scores) if pairs.weight is None else pairs.weight.to(scores.dtype)
    if compared == "all":
        total, _, scatter = _moments(errors, weight, known)
        number = known.sum(dim=1)
        return Part((total * scatter).sum(), (number * (number - 1) // 2).sum())
    first, second = pairs.positive & known, pairs.negative & known
    (total_p, mean_p, scatter_p), (total_n, mean_n, scatter_n) = (
        _moments(errors, weight, mask) for mask in (first, second)
    )
    between = total_p * total_n * (mean_p - mean_n).square()
    number = first.sum(dim=1) * second.sum(dim=1)
    return Part((between + total_n * scatter_p + total_p * scatter_n).sum(), number.sum())


def _compared(pairs: PairBlock) -> Tensor:
    """``[r, C]`` bool, which candidates have a target that differences can be taken of."""
    return pairs.targets > -torch.inf


def _moments(errors: Tensor, weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row's ``mask [r, C]``: the sum of weights, the weighted mean, and the weighted sum of squared
    deviations from it; 0 where there is nothing."""
    weight = torch.where(mask, weight, 0.0)
    total = weight.sum(dim=1)
    mean = (weight * errors).sum(dim=1) / torch.where(mask.any(dim=1), total, 1.0)
    return total, mean, (weight * (errors - mean[:, None]).square()).sum(dim=1)


class MarginMSELoss(MetricLoss):
    """MarginMSE: ((s_i − s_j) − (t_i − t_j))², the mean over any two candidates i, j of an anchor that have a
    teacher's score t.

    Only differences count, so the teacher may be off by a constant for each anchor, but its scale is learned:
    with ``cosine``, bring the scores to that of cosines. A batch must hold several scored candidates of an
    anchor, or ``anchors_used`` and the loss are 0: with ``PairPlanner(negatives=3)`` it holds one positive
    and three of the negatives that were given, with ``positive_from`` of the data between the scores of the
    two. Of bare masks, a positive counts as 1 and a negative as 0. A candidate with a score of −inf is left
    out.

    Logs ``margin_mse``.

    Source: Hofstätter et al., arXiv 2010.02666.

    Args:
        compared: ``all`` compares every two candidates with a score; ``positives`` a positive with a negative
            only, as sentence-transformers does.
        distance: any of the four; the source takes the inner product, on whose scale the scores should be.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> neither = torch.zeros(1, 2, dtype=torch.bool)
        >>> pairs = DensePairs(neither, neither, target=torch.tensor([[9.0, 2.0]]))
        >>> MarginMSELoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 1.0], [1.0, 3.0]]), pairs)["loss"]
        tensor(9.)
    """

    uses_targets = True

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
        if self.compared == "all":
            return _compared(pairs).sum(dim=1) >= 2
        known = _compared(pairs)
        return (pairs.positive & known).any(dim=1) & (pairs.negative & known).any(dim=1)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`margin_mse`."""
        return {"margin_mse": margin_mse(scores, pairs, self.compared)}

    def extra_repr(self) -> str:
        """The settings."""
        return f"compared={self.compared}, distance={self.distance}, normalize={self.normalize}"
