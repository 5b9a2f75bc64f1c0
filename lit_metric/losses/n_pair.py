"""N-pair loss: every other pair's positive is a negative; raw inner products, norms held by a regulariser."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss, Part, Parts, masked_mean
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.tuplet import mean_over_positives, tuplet


def pair_norms(anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> tuple[Tensor, Tensor]:
    """``‖z‖² + ‖z⁺‖²`` of each anchor and its positive, the latter a mean where there are several.

    Args:
        anchors: ``[r, d]`` raw embeddings.
        candidates: ``[C, d]`` raw embeddings.
        pairs: masks ``[r, C]``; weights don't matter.

    Returns:
        ``[r]`` squared norms, and ``[r]`` which anchors have a positive and a negative; the others get 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
        >>> pair_norms(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0], [9.0, 0.0]]), pairs)
        (tensor([9.]), tensor([True]))
    """
    used = pairs.positive.any(dim=1) & pairs.negative.any(dim=1)
    squares = candidates.square().sum(dim=1).expand(pairs.positive.shape)
    of_positives = mean_over_positives(squares, pairs._replace(weight=None), used)
    return torch.where(used, anchors.square().sum(dim=1), 0.0) + of_positives, used


class NPairLoss(MetricLoss):
    """Multi-class N-pair loss: log(1 + Σ_n e^{z·z_n − z·z_p}) + ``l2`` · (‖z‖² + ‖z_p‖²), means over anchors,
    of inner products of raw embeddings.

    Norms can grow, which acts like a temperature, and the regulariser holds them in place of a normalisation,
    whose bound on the logit would slow the fit. Embeddings are taken raw also where the encoder says
    ``normalize``, which only concerns what ``encode`` returns. The batch of the source is two items each of N
    classes, ``NPairPlanner(classes=N)``; with ``PKPlanner`` batches each of several positives has its turn,
    and the others leave the denominator.

    Logs ``n_pair``, ``l2`` (with its coefficient) and ``squared_norm``, the mean of ‖z‖² + ‖z_p‖².

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, eq. 7 and
    section 3.2.2.

    Args:
        l2: coefficient of the regulariser, at least 0. The default is TensorFlow's 0.002, which it multiplies
            by 0.25; try 0 to 0.01, and watch ``train/squared_norm``.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.eye(2, dtype=torch.bool)
        >>> out = NPairLoss(l2=0.1)(torch.eye(2), torch.eye(2), DensePairs(same, ~same))
        >>> out["n_pair"], out["l2"], out["loss"]
        (tensor(0.3133), tensor(0.2000), tensor(0.5133))
    """

    def __init__(self, l2: float = 0.0005, block_rows: int = 1024) -> None:
        super().__init__("dot", block_rows=block_rows)
        if not 0 <= l2 < float("inf"):
            raise ValueError(f"l2 must be at least 0, not {l2}")
        self.l2 = l2

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """The part that needs only scores, see :func:`~lit_metric.losses.tuplet.tuplet`."""
        return {"n_pair": masked_mean(*tuplet(scores, pairs))}

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """Adds the regulariser, which needs the vectors."""
        norms = masked_mean(*pair_norms(anchors, candidates, pairs))
        return {
            **super().rows(anchors, candidates, pairs),
            "l2": Part(self.l2 * norms.total, norms.number),
            "squared_norm": norms._replace(logged=True),
        }

    def extra_repr(self) -> str:
        """The settings."""
        return f"l2={self.l2}"
