"""CoSENT: pairs that belong together better must be more similar, whichever anchors they have."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from lit_metric.losses.gather import gather_ids, gather_with_grad
from lit_metric.losses.pairs import PairBlock, Pairs, any_in_row
from lit_metric.losses.parts import Part, Parts
from lit_metric.losses.scores import Distance
from lit_metric.losses.temperature import TemperatureLoss


def cosent(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """``log(1 + Σ e^{l_i − l_j})`` over all i, j with ``targets_i < targets_j``.

    The sum over j of each i is a cumulative one in the order of targets, so that P pairs take the time of
    sorting them, and memory for P and not P² numbers.

    Source: Huang, Peng, Zou et al., "CoSENT: Consistent Sentence Embedding via Similarity Ranking", IEEE/ACM
    TASLP 2024.

    Args:
        logits: ``[P]`` scores divided by the temperature.
        targets: ``[P]`` how well each pair belongs together; only their order matters.
        weights: ``[P]`` above 0; the term of i and j is multiplied by both of theirs.

    Returns:
        A scalar, 0 if all targets are equal.

    Example:
        >>> cosent(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.2, 0.9, 0.9])).exp()  # 1 + e^-1 + e^-3
        tensor(1.4177)
    """
    fixed = logits.detach()
    # Logits in the thousands are rounded in float32 by more than the differences that count.
    low, (targets, order) = fixed.double(), targets.sort()
    low, high = low[order], -low[order]
    if weights is not None:
        log_weights = weights.double().log()[order]
        low, high = low + log_weights, high + log_weights
    nothing = low.new_full((1,), -torch.inf)
    # log Σ e^{-l_j} over the higher targets of each, and log Σ e^{l_i} over the lower ones.
    above = torch.cat([high.flip(0).logcumsumexp(0).flip(0), nothing])
    below = torch.cat([nothing, low.logcumsumexp(0)])
    as_low = low + above[torch.searchsorted(targets, targets, right=True)]
    as_high = high + below[torch.searchsorted(targets, targets)]
    value = torch.cat([as_low, torch.zeros_like(nothing)]).logsumexp(0)
    # Each share is at most 1, whatever rounding makes of it.
    slope = (as_low - value).clamp_max(0).exp() - (as_high - value).clamp_max(0).exp()
    slope = torch.empty_like(slope).index_copy(0, order, slope)
    # Autograd through cumulative sums of exponentials leaves the floating-point range at large scores.
    return value.to(fixed.dtype) + (slope.to(fixed.dtype) * (logits - fixed)).sum()


class CoSENTLoss(TemperatureLoss):
    """CoSENT: log(1 + Σ e^{(s_i − s_j)/τ}) over all pairs i, j of which j has the higher score or grade.

    Only the order of scores matters, not their scale. Pairs of different anchors are compared, all of the
    batch and of all processes. Pairs without a score are ignored, and one that is listed twice counts twice.
    It needs scores: with class labels alone there is nothing to compare. (Without scores, a positive counts
    as 1 and a negative as 0.) ``anchors_used`` counts the anchors that have a score. A pair's weight
    multiplies each of its terms.

    Cost: memory is one block of similarities and a few numbers for each pair that has a score; time is that
    of sorting them.

    Logs ``cosent``.

    Source: Huang, Peng, Zou et al., "CoSENT: Consistent Sentence Embedding via Similarity Ranking", IEEE/ACM
    TASLP 2024.

    Args:
        temperature: τ, above 0; sentence-transformers' ``scale`` is 1/τ. The source takes 0.05; try 0.02 to
            0.1.
        distance: any of the four; Euclidean distances enter with a minus sign. The source takes the cosine.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> loss = CoSENTLoss()
        >>> others = torch.tensor([[0.6, 0.8], [0.8, 0.6]])  # cosines 0.6 and 0.6
        >>> loss(torch.eye(2), others, scores=torch.tensor([4.5, 1.0]))  # log(1 + e^0)
        tensor(0.6931)
    """

    requires_scores = True

    def __init__(
        self,
        temperature: float = 0.05,
        distance: Distance = "cosine",
        normalize: bool = False,
        block_rows: int = 1024,
    ) -> None:
        super().__init__(temperature, False, distance, normalize, block_rows)

    def usable(self, pairs: PairBlock) -> Tensor:
        """Anchors with a known target."""
        return any_in_row(pairs.known)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :func:`cosent`; of the pairs of one block, and so not a sum over blocks."""
        known = pairs.known
        weights = None if pairs.weight is None else pairs.weight[known]
        loss = cosent(scores[known] / self.temperature, pairs.targets[known], weights)
        return {"cosent": Part(loss, torch.ones((), dtype=torch.int64, device=loss.device))}

    def sum_blocks(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> Parts:
        """The loss of all ranks' pairs, the same on every rank, as if they were one block."""
        blocks = self.in_blocks(anchors, candidates, pairs, self._known_pairs)
        scores, targets, weights, used = zip(*blocks, strict=True)
        # Every rank takes the gradient of the whole: the average over ranks is then that of one process.
        row = gather_with_grad(torch.cat(scores))[None]
        neither = torch.zeros_like(row, dtype=torch.bool)
        known, weight = gather_ids(torch.cat(targets))[None], gather_ids(torch.cat(weights))[None]
        parts = self.parts(row, PairBlock(neither, neither, weight, known))
        return {**parts, "anchors_used": reduce(Part.plus, used)}

    def _known_pairs(
        self, anchors: Tensor, candidates: Tensor, pairs: PairBlock
    ) -> tuple[Tensor, Tensor, Tensor, Part]:
        """``[p]`` scores, targets and weights of a block's pairs that have a target."""
        known = pairs.known
        scores = self.scores(anchors, candidates, pairs)[known]
        targets = pairs.targets[known].double()
        weights = torch.ones_like(targets) if pairs.weight is None else pairs.weight[known].double()
        return scores, targets, weights, self.share_used(pairs)
