"""Neighbourhood components analysis: the softmax mass of an anchor's positives, taken together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean
from lit_metric.losses.scores import Distance, few_others, softplus
from lit_metric.losses.temperature import TemperatureLoss


def nca(scores: Tensor, pairs: PairBlock, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """``−log( Σ_p e^{l_p} / Σ_j e^{l_j} )``, p over an anchor's positives and j over positives and negatives,
    with l the scores times ``scale``.

    It is the negative logarithm of the probability that a neighbour sampled by its exponential is a positive.

    Source: Goldberger, Roweis, Hinton and Salakhutdinov, "Neighbourhood Components Analysis", NIPS 2004, the
    objective with the logarithm, the sum of log p_i; with a temperature, Frosst, Papernot and Hinton,
    "Analyzing and Improving Representations with the Soft Nearest Neighbor Loss", ICML 2019, eq. 1.

    Args:
        scores: ``[r, C]``.
        pairs: masks ``[r, C]``. A weight multiplies its pair's exponential, in numerator and denominator.
        scale: above 0, one over the temperature.

    Returns:
        ``[r]`` losses, and ``[r]`` which anchors have a positive and a negative; the loss of the others is 0.

    Example:
        >>> pairs = PairBlock(torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]]))
        >>> nca(torch.zeros(1, 3), pairs)[0].exp()
        tensor([1.5000])
    """
    if pairs.weight is not None:
        logarithms = torch.where(pairs.weight > 0, pairs.weight, 1.0).to(scores.dtype).log()
        scores, scale = scores * scale + logarithms, 1.0
    return _LogRatio.apply(scores, pairs.positive, pairs.negative, scale), pairs.usable


class _LogRatio(torch.autograd.Function):
    """``[r]`` log(1 + Σ_n e^{l_n} / Σ_p e^{l_p}). −log of the quotient itself would cancel where it is small.
    Keeps the shares of negatives in their sum minus those of positives in theirs, which a factor for each
    row makes the gradient, and nothing else of the shape ``[r, C]``."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        least = torch.finfo(scores.dtype).min / 2 / max(scale, 1.0)
        others = few_others(negative)
        if others is not None:
            found = _LogRatio.of_few(scores, positive, others, least, scale)
        else:
            push, pull = (
                _LogRatio.softmax(torch.where(mask, scores, least).mul_(scale))
                for mask in (negative, positive)
            )
            found = (push[0].sub_(pull[0]), *push[1:], *pull[1:])
        shares, of_negatives, nearest, of_positives, closest = found
        used = torch.minimum(nearest, closest) > least * scale / 2
        difference = torch.where(used, of_negatives - of_positives + (nearest - closest), 0.0)
        ctx.save_for_backward(shares, torch.where(used, scale * difference.sigmoid(), 0.0))
        return torch.where(used, softplus(difference), 0.0)

    @staticmethod
    def softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row, in place: the softmax; the log of the sum beside the largest; the largest."""
        largest = logits.amax(dim=1)
        torch.softmax(logits, dim=1, out=logits)
        return logits, -logits.amax(dim=1).log(), largest

    @staticmethod
    def of_few(
        scores: Tensor, positive: Tensor, others: Tensor, least: float, scale: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The shares, and the two numbers of each row for negatives and for positives, where all but a few
        pairs are negatives: one pass for these, and the positives one by one.

        Args:
            others: ``[n]`` places of all that is no negative, in the flat scores.
        """
        logits = (scores * scale).contiguous()
        flat, at = logits.view(-1), others[positive.reshape(-1)[others]]
        row, values = at // scores.shape[1], flat[at]
        flat[others] = least * scale
        _, of_negatives, nearest = _LogRatio.softmax(logits)
        closest = values.new_full((len(scores),), least * scale).scatter_reduce_(0, row, values, "amax")
        terms = (values - closest[row]).exp_()
        sums = torch.zeros_like(closest).index_add_(0, row, terms)
        flat[at] = -terms / sums[row]
        return logits, of_negatives, nearest, sums.log(), closest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        shares, slope = ctx.saved_tensors
        return shares * (gradient * slope)[:, None], None, None, None


class NCALoss(TemperatureLoss):
    """Neighbourhood components analysis, the soft nearest neighbour loss: −log Σ_p e^{s_p/τ} / (Σ_p e^{s_p/τ}
    + Σ_n e^{s_n/τ}), the mean over anchors.

    *Some* positives must be nearer than the negatives, while InfoNCE requires it of each: the nearer a
    positive already is, the larger its share of the pull. So a class may stay in several clusters, and a
    wrong label costs less. With one positive for each anchor the two are the same. A pair's weight multiplies
    its exponential.

    Logs ``nca`` and, if it is learned, the ``temperature``.

    Source: Goldberger et al., NIPS 2004; with a temperature, learned, Frosst et al., ICML 2019.

    Args:
        temperature: τ, above 0, and between 0.01 and 100 if it is learned. Try 0.05 to 0.5 with ``cosine``.
        distance: any of the four; Euclidean distances enter with a minus sign. The sources take
            ``squared_euclidean``.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.
        learnable: learn the temperature from that start, as its logarithm, within those bounds.

    Example:
        >>> loss = NCALoss(temperature=0.5)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> loss(embeddings, labels=torch.tensor([0, 0, 1]))
        tensor(0.5881)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
        learnable: bool = False,
    ) -> None:
        super().__init__(temperature, learnable, distance, normalize, block_rows)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`nca`."""
        if isinstance(self.temperature, Tensor):
            return {"nca": masked_mean(*nca(scores / self.temperature, pairs))}
        return {"nca": masked_mean(*nca(scores, pairs, 1 / self.temperature))}
