"""W-MSE: whitened positives at one place. Whitening keeps the vectors apart, so no negatives are needed."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import MetricLoss
from lit_metric.losses.gather import gather_with_grad, rows_before, shared_generator
from lit_metric.losses.pairs import PairBlock, Pairs
from lit_metric.losses.parts import Parts, masked_mean


def whiten(vectors: Tensor, epsilon: float = 0.0) -> Tensor:
    """``L⁻¹(v − μ)`` of ``vectors [n, d]`` v with their mean μ, and ``LLᵀ = (1 − ε)Σ + εI`` with their
    covariance Σ, divided by n − 1. In float64, which it returns.

    Without ε the result has mean 0, variance 1 and no correlations.

    Args:
        vectors: ``[n, d]``, n at least 2.
        epsilon: ε, in [0, 1].

    Raises:
        ValueError: if Σ can't be inverted.

    Example:
        >>> found = whiten(torch.tensor([[1.0, 1.0], [3.0, 1.0], [1.0, 5.0], [3.0, 5.0]]))
        >>> (found.T @ found / 3).round(decimals=6).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    centred = vectors.double() - vectors.double().mean(dim=0)
    covariance = centred.T @ centred / (len(vectors) - 1)
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    factor, failed = torch.linalg.cholesky_ex((1 - epsilon) * covariance + epsilon * identity)
    if failed:
        raise ValueError(
            f"the {len(vectors)} vectors of a batch lie in fewer than {vectors.shape[1]} directions, so they "
            "can't be whitened: give the encoder a smaller projection, or WhiteningMSELoss an epsilon above 0"
        )
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


class WhiteningMSELoss(MetricLoss):
    """W-MSE: 2 − 2 cos(u_a, u_p) of each positive pair, a mean over pairs, with whitened vectors u = L⁻¹(v −
    μ).

    It has no negatives. All vectors in one place, where a loss of positives alone ends, are no solution,
    since whitened vectors have variance 1 in all directions. For data that have positive pairs and hardly any
    true negatives. Anchors and candidates are whitened each by their own mean and covariance, over the batch
    of all ranks. An anchor without a negative counts. A pair's weight multiplies its term.

    A covariance of d components needs a batch of at least 2d anchors, and as many candidates. So give the
    encoder a small projection: ``projection: 64``, and batches of 128 or more.

    Logs ``whitening_mse``.

    Source: Ermolov, Siarohin, Sangineto and Sebe, "Whitening for Self-Supervised Representation Learning",
    ICML 2021 (arXiv 2007.06346), eq. 5 and section 3.1, with classes in place of views.

    Args:
        epsilon: ε of LLᵀ = (1 − ε)Σ + εI, in [0, 1). The source takes 0. With more, batches may be of any
            size.
        sub_batch: whiten random parts of the batch alone, each of this size or somewhat more; None for the
            whole batch. The source takes 128 at 64 components. The smaller, the noisier is the covariance.
        whiten: False leaves whitening out. All vectors then collapse into one, which shows what it is good
            for.
        block_rows: anchors compared with all candidates at a time.

    Raises:
        ValueError: if an argument is out of its range, or a batch is too small to be whitened.

    Example:
        >>> loss = WhiteningMSELoss(epsilon=0.5)
        >>> anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> loss(anchors, 2 * anchors), loss(anchors, -anchors)
        (tensor(0.), tensor(4.))
    """

    def __init__(
        self,
        epsilon: float = 0.0,
        sub_batch: int | None = None,
        whiten: bool = True,
        block_rows: int = 1024,
    ) -> None:
        super().__init__("cosine", block_rows=block_rows)
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon must be at least 0 and below 1, not {epsilon}")
        if sub_batch is not None and sub_batch < 2:
            raise ValueError(f"sub_batch must be at least 2, not {sub_batch}")
        self.epsilon, self.sub_batch, self.whiten = epsilon, sub_batch, whiten

    def sum_blocks(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> Parts:
        """See :meth:`VectorLoss.sum_blocks`; whitens before blocks are made, over all ranks."""
        if self.whiten:
            first, _ = rows_before(len(anchors), anchors.device)
            generator = shared_generator()
            state = generator.get_state()
            own = self._whitened(gather_with_grad(anchors), generator)[first : first + len(anchors)]
            # The same parts on both sides, as the source divides both views of its images alike.
            generator.set_state(state)
            anchors, candidates = own, self._whitened(candidates, generator)
        return super().sum_blocks(anchors, candidates, pairs)

    def _whitened(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """In parts, in the type of the vectors, or in float32 if that is narrower."""
        count, dimension = vectors.shape
        if not count:
            return vectors
        size = count if self.sub_batch is None else min(self.sub_batch, count)
        if not self.epsilon and size < 2 * dimension:
            raise ValueError(
                f"WhiteningMSELoss whitens {size} vectors of {dimension} components at a time, and needs "
                f"{2 * dimension}: take larger batches, a smaller projection of the encoder, or an epsilon "
                "above 0"
            )
        if count == 1:
            return vectors - vectors.detach()  # its own mean
        order = torch.randperm(count, generator=generator)
        parts = order.tensor_split(count // size) if self.sub_batch is not None else (torch.arange(count),)
        places = torch.cat([*parts]).to(vectors.device)
        whitened = torch.cat([whiten(vectors[part.to(vectors.device)], self.epsilon) for part in parts])
        kind = torch.promote_types(vectors.dtype, torch.float32)
        return whitened[places.argsort()].to(kind)

    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`MetricLoss.parts`."""
        return {"whitening_mse": masked_mean(2 - 2 * scores, pairs.positive, pairs.weight)}
