"""Scores between anchors and candidates, as similarities: the larger, the closer, whatever the distance.

All of it is computed in float32 at least, and stays finite, gradients included, for zero and identical
vectors.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "dot", "euclidean", "squared_euclidean"]
DISTANCES: tuple[Distance, ...] = ("cosine", "dot", "euclidean", "squared_euclidean")


def as_scores_dtype(vectors: Tensor) -> Tensor:
    """float64 stays, everything narrower becomes float32."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``[..., d]`` at length 1; a zero vector stays zero and gets no gradient.

    Each is first divided by its largest entry, so that neither tiny nor huge vectors leave the floating-point
    range when squared.

    Example:
        >>> unit(torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    has_direction = largest >= torch.finfo(vectors.dtype).tiny
    # Selecting before dividing keeps infinite gradients out of the branch that is not taken.
    scaled = torch.where(has_direction, vectors, 1.0) / torch.where(has_direction, largest, 1.0)
    return torch.where(has_direction, scaled / scaled.norm(dim=-1, keepdim=True), 0.0)


def prepare(
    anchors: Tensor, candidates: Tensor, distance: Distance, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    """What is done once per batch, before scores are taken block by block.

    Casts both sides, scales to unit length where asked (always for cosine), and for the Euclidean distances
    moves the origin to the candidates' mean: distances do not change, and the cancellation in
    ``|a|² + |c|² − 2a·c`` no longer eats those between vectors that share a large offset.

    Args:
        anchors: ``[A, d]``.
        candidates: ``[C, d]``, C at least 1.
        distance: which distance will be asked for.
        normalize: scale to unit length although the distance doesn't need it.
    """
    anchors, candidates = as_scores_dtype(anchors), as_scores_dtype(candidates)
    if normalize or distance == "cosine":
        anchors, candidates = unit(anchors), unit(candidates)
    if distance in ("euclidean", "squared_euclidean"):
        centre = candidates.detach().mean(dim=0)
        anchors, candidates = anchors - centre, candidates - centre
    return anchors, candidates


def similarity(anchors: Tensor, candidates: Tensor, distance: Distance) -> Tensor:
    """Scores between vectors that went through :func:`prepare`.

    Args:
        anchors: ``[r, d]``, some or all of the anchors.
        candidates: ``[C, d]``.
        distance: ``cosine`` and ``dot`` give the inner product, ``squared_euclidean`` gives −d²,
            ``euclidean`` −d.

    Returns:
        ``[r, C]``.

    Example:
        >>> a, c = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]])
        >>> [similarity(*prepare(a, c, name), name)[0].tolist() for name in DISTANCES]
        [[0.0, 1.0], [0.0, 9.0], [-5.0, -0.0], [-25.0, -0.0]]
    """
    products = anchors @ candidates.T
    if distance in ("cosine", "dot"):
        return products
    squares = anchors.square().sum(dim=1, keepdim=True) + candidates.square().sum(dim=1) - 2 * products
    squares = squares.clamp_min(0)
    return -squares if distance == "squared_euclidean" else -safe_sqrt(squares)


def safe_sqrt(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 rather than infinite: coinciding vectors don't push each other."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + eˣ)``, exact at any magnitude (``F.softplus`` is cut off at 20)."""
    return -F.logsigmoid(-x)
