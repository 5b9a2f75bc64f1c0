"""Scores between anchors and candidates, as similarities: the larger, the closer, whatever the distance.

All of it is computed in float32 at least, and stays finite, gradients included, for zero and identical
vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["cosine", "dot", "euclidean", "squared_euclidean"]
_CANCELLED = 2**13
"""Below this number of roundings of the squared lengths, squared distances have lost a thousandth or all."""
DISTANCES: tuple[Distance, ...] = ("cosine", "dot", "euclidean", "squared_euclidean")


def in_scores_dtype(anchors: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in float64 if one of them is, else in float32."""
    double = torch.float64 in (anchors.dtype, candidates.dtype)
    dtype = torch.float64 if double else torch.float32
    return anchors.to(dtype), candidates.to(dtype)


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
    anchors, candidates = in_scores_dtype(anchors, candidates)
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
    norms = anchors.square().sum(dim=1, keepdim=True) + candidates.square().sum(dim=1)
    squares = norms - 2 * products
    width = len(candidates)
    restore_near(squares, norms, lambda at: anchors[at // width] - candidates[at % width])
    return -squares if distance == "squared_euclidean" else -safe_sqrt(squares)


@torch.no_grad()
def restore_near(squares: Tensor, norms: Tensor, differences: Callable[[Tensor], Tensor]) -> None:
    """Put squared distances right, in place, that cancellation in ``|a|² + |c|² − 2a·c`` has spoilt: those of
    vectors that are near each other, beside their length.

    The gradient of that formula is as it should be.

    Args:
        squares: the formula's results, contiguous.
        norms: ``|a|² + |c|²``, of the same shape or one that goes with it.
        differences: takes places ``[n]`` in the flat ``squares``, and gives ``a − c [n, d]`` of these pairs.
            Called for a few at a time, so that no more numbers are made than ``squares`` has.
    """
    flat = squares.detach().view(-1)
    near = (squares < _CANCELLED * torch.finfo(squares.dtype).eps * norms).view(-1).nonzero()[:, 0]
    start, step = 0, 1
    while start < len(near):
        places = near[start : start + step]
        found = differences(places)
        flat[places] = found.square().sum(dim=1)
        start, step = start + step, max(1, squares.numel() // max(1, found.shape[1]))


def safe_sqrt(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 rather than infinite: coinciding vectors don't push each other."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + eˣ)``, exact at any magnitude (``F.softplus`` is cut off at 20)."""
    return -F.logsigmoid(-x)
