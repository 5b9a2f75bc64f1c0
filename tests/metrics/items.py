"""Relations and embeddings that the tests of the metrics share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SameClass:
    """Relevant is what has the same label; remembers how large the blocks were that it was asked for."""

    labels: Tensor
    asked: list[tuple[int, int]] = field(default_factory=list)

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        self.asked.append((len(anchors), len(candidates)))
        of_anchors = self.labels[anchors][:, None]
        same = (of_anchors == self.labels[candidates]) & (of_anchors >= 0)
        return same & (anchors[:, None] != candidates)


@dataclass
class Overlap:
    """Relevant is what shares one of several tags."""

    tags: Tensor  # [N, T] bool

    def positive(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        shared = self.tags[anchors].float() @ self.tags[candidates].float().T > 0
        return shared & (anchors[:, None] != candidates)


def clustered(n: int, d: int = 8, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings ``[n, d]`` around class centres (of any seed the same) and labels of unequal frequency."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = 0.5 ** torch.arange(classes).float()
    labels = torch.multinomial(frequencies, n, replacement=True, generator=generator)
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + torch.randn(n, d, generator=generator), labels
