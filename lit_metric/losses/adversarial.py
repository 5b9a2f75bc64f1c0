"""CLAPS: hard negatives and distant positives that are made by moving the anchor's own vector."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.extended import ExtendedPairs, with_fixed
from lit_metric.losses.noise import between_pairs
from lit_metric.losses.norm_ratio import lengths
from lit_metric.losses.pairs import Pairs
from lit_metric.losses.scores import prepare, unit


class AdversarialLoss(CombinedLoss):
    """The mean of a loss with an imposter and of the same loss with a distant positive for each anchor.

    The imposter z⁻ = z + ε g/‖g‖ lies near the anchor z, in the direction g in which the loss of this anchor
    grows the most. It is a further negative of its own anchor. The distant positive lies further away, by η
    g/‖g‖, and is moved back by η along the gradient of KL(p(z)‖p(z⁺)), until the anchor's distribution p over
    the candidates stays what it was. It is a further positive of its own anchor. Both are scaled by ‖z‖, and
    have no gradient. For few examples of each class. Both terms are the given loss, so both have its
    temperature::

        model:
          loss:
            class_path: lit_metric.losses.AdversarialLoss
            init_args: {loss: {class_path: lit_metric.losses.InfoNCELoss}}

    The authors' code differs in the second term: it leaves the temperature out, the distant positive stands
    in the place of the anchor's own, and the imposter is among the negatives there, too.

    In the source the likelihood is that of a decoder. Here it is that of the anchor's positives among the
    candidates: the given loss.

    Cost: that of the loss three times; the encoder runs once.

    Logs ``imposters`` and ``distant``, the two terms, and what the loss logs as ``imposters/PART``.

    Source: CLAPS (Lee, Lee and Hwang, "Contrastive Learning with Adversarial Perturbations for Conditional
    Text Generation", ICLR 2021, arXiv 2012.07280).

    Args:
        loss: between pairs.
        epsilon: ε, how far imposters are, in lengths of the anchor, above 0. The source takes 1, which for a
            loss of cosines is a cosine of 0.71.
        eta: η, how far distant positives are moved, and moved back, above 0. The source takes 3.
        temperature: of p, the softmax of cosines to all candidates of an anchor, above 0. The source takes
            0.1.

    Raises:
        ValueError: if an argument is out of its range, or the loss doesn't compare pairs.

    Example:
        >>> from lit_metric.losses import InfoNCELoss
        >>> anchors, positives = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> output = AdversarialLoss(InfoNCELoss())(anchors, positives)
        >>> bool(output > 0)
        True
    """

    def __init__(self, loss: Loss, epsilon: float = 1.0, eta: float = 3.0, temperature: float = 0.1) -> None:
        super().__init__()
        between_pairs(loss, "AdversarialLoss")
        for name, value in (("epsilon", epsilon), ("eta", eta), ("temperature", temperature)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, not {value}")
        self.loss, self.epsilon, self.eta, self.temperature = loss, epsilon, eta, temperature
        self.combine([loss])

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        imposters, distant, moved = self.made(anchors, candidates, pairs)
        own = torch.diag(moved)
        outputs = {
            "imposters": self.loss.on_pairs(
                anchors, with_fixed(candidates, imposters), ExtendedPairs(pairs, negative=own)
            ),
            "distant": self.loss.on_pairs(
                anchors, with_fixed(candidates, distant), ExtendedPairs(pairs, positive=own)
            ),
        }
        return self.weighted_sum(outputs, [0.5, 0.5])

    def made(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Imposters and distant positives ``[A, d]``, and ``[A]`` bool, which anchors have them: those whose
        loss has a gradient. Every rank must call it."""
        kind = torch.promote_types(anchors.dtype, torch.float32)
        own, others = anchors.detach().to(kind), candidates.detach().to(kind)
        length = lengths(own)[:, None] if len(own) else own[:, :1]
        with torch.enable_grad(), torch.autocast(anchors.device.type, enabled=False):
            start = own.clone().requires_grad_()
            value = self.loss.on_pairs(start, others, pairs)["loss"]
            direction = unit(torch.autograd.grad(value, start)[0])
            moved = direction.any(dim=1)
            far = (own + self.eta * length * direction).requires_grad_()
            back = unit(torch.autograd.grad(self._divergence(own, far, others, pairs), far)[0])
        return own + self.epsilon * length * direction, far.detach() - self.eta * length * back, moved

    def _divergence(self, anchors: Tensor, moved: Tensor, candidates: Tensor, pairs: Pairs) -> Tensor:
        """The sum over anchors of KL(p(anchor)‖p(moved)), p over the pairs of each."""
        total = moved.sum() * 0
        if not len(anchors) or not len(candidates):
            return total
        block = pairs.rows(0, len(anchors))
        known = block.positive | block.negative
        some = known.any(dim=1)
        mask = known | ~some[:, None]
        logarithms = []
        for vectors in (anchors, moved):
            prepared, units = prepare(vectors, candidates, "cosine")
            scores = (prepared @ units.T / self.temperature).masked_fill(~mask, -1e4)
            logarithms.append(scores.log_softmax(dim=1))
        terms = logarithms[0].exp() * (logarithms[0] - logarithms[1])
        return total + torch.where(some[:, None] & mask, terms, 0.0).sum()
