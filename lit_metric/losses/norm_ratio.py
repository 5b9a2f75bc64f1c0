"""Norm ratio loss: the longer vector belongs to the whole, the shorter one to its part."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import VectorLoss
from lit_metric.losses.pairs import PairBlock
from lit_metric.losses.parts import Parts, masked_mean, share

_FAR = 80.0


def lengths(vectors: Tensor) -> Tensor:
    """``[n]``, the Euclidean lengths of ``vectors [n, d]``; neither tiny nor huge ones leave the
    floating-point range when squared.

    Example:
        >>> lengths(torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]]))
        tensor([5.0000e+30, 5.0000e-30, 0.0000e+00])
    """
    largest = vectors.detach().abs().amax(dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
    return largest * torch.linalg.vector_norm(vectors / largest[:, None], dim=1)


class NormRatioLoss(VectorLoss):
    """Norm ratio loss: e^{1 − ‖c‖/‖a‖} of each positive pair of an anchor a and a candidate c, a mean over
    pairs.

    "Is a part of" has a direction, and a cosine has none. This loss keeps it in the norms, which the cosine
    leaves free: anchors, such as excerpts, become shorter than their candidates, such as the texts that they
    were taken from. Afterwards a match holds only if its query is the shorter one
    (:func:`~lit_metric.metrics.directional_scores`). Add it to a loss of cosines, which finds the
    matches::

        model:
          loss:
            class_path: SumLoss
            init_args:
              losses: {match: {class_path: InfoNCELoss}, direction: {class_path: NormRatioLoss}}

    Negatives don't matter, and anchors without a negative count. A pair's weight multiplies its term.

    Embeddings must be compared raw: save and encode with ``normalize: false`` of the encoder, since a vector
    of length 1 has lost its norm.

    Logs ``norm_ratio`` and ``wrong_way``, the share of pairs whose anchor is the longer one.

    Source: Wang, Sun and Yang, "A Benchmark and Asymmetrical-Similarity Learning for Practical Image Copy
    Detection", AAAI 2023 (arXiv 2205.12358), where the larger crop has the larger norm.

    Args:
        block_rows: anchors compared with all candidates at a time.

    Example:
        >>> loss = NormRatioLoss()
        >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]]))  # e^(1 - 2)
        tensor(0.3679)
    """

    def __init__(self, block_rows: int = 1024) -> None:
        super().__init__("dot", block_rows=block_rows)  # which leaves vectors as they are

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`VectorLoss.rows`."""
        own, others = lengths(anchors)[:, None], lengths(candidates)[None]
        # Beyond this the term is 0 in any precision, and the gradient of its exponent may not be finite.
        far = others.detach() >= _FAR * own.detach()
        ratio = torch.where(far, 0.0, others) / torch.where(far, 1.0, own)
        terms = torch.where(far, 0.0, (1 - ratio).exp())
        return {
            "norm_ratio": masked_mean(terms, pairs.positive, pairs.weight),
            "wrong_way": share(own > others, pairs.positive),
        }
