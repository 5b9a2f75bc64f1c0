"""Scores between anchors and candidates, as similarities: the larger, the closer, whatever the distance; and
the softmax sums over them.

All of it is computed in float32 at least, and stays finite, gradients included, for zero and identical
vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_metric.losses.gather import fixed_rows
from lit_metric.losses.pairs import PairBlock, any_in_row

Distance = Literal["cosine", "dot", "euclidean", "squared_euclidean"]
_CANCELLED = 2**13
"""Squared distances below this many roundings of the squared lengths may be wrong by a thousandth or more."""
BLOCK_SCORES = 2**22
"""A loss compares this number of pairs at a time at most: 16 MiB of scores in single precision. Larger
blocks were no faster."""
DISTANCES: tuple[Distance, ...] = ("cosine", "dot", "euclidean", "squared_euclidean")


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
    found: Tensor = _Unit.apply(vectors)
    return found


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        largest = torch.maximum(vectors.amax(dim=-1, keepdim=True), -vectors.amin(dim=-1, keepdim=True))
        has_direction = largest >= torch.finfo(vectors.dtype).tiny
        inverse = torch.where(has_direction, 1 / largest, 0.0)
        units = vectors * inverse
        length = torch.where(has_direction, torch.linalg.vector_norm(units, dim=-1, keepdim=True), 1.0)
        units /= length
        ctx.save_for_backward(units, inverse / length)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        units, inverse = ctx.saved_tensors
        outward = (gradient * units).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, units, outward, value=-1).mul_(inverse)


def prepare(
    anchors: Tensor, candidates: Tensor, distance: Distance, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    """Prepare both sides once for each batch, before scores are computed block by block; one tensor that is
    both sides is prepared once.

    Casts both to float64 if one of them is, else to float32. Scales to unit length for the cosine, or with
    ``normalize``. For Euclidean distances it moves the origin to the candidates' mean: distances stay, and
    those between vectors with a large common offset don't cancel in ``|a|² + |c|² − 2a·c``.

    Args:
        anchors: ``[A, d]``.
        candidates: ``[C, d]``, C at least 1.
        distance: which distance follows.
        normalize: scale to unit length also for a Euclidean distance.
    """
    double = torch.float64 in (anchors.dtype, candidates.dtype)
    sides = [anchors] if anchors is candidates else [anchors, candidates]
    sides = [side.to(torch.float64 if double else torch.float32) for side in sides]
    if normalize or distance == "cosine":
        sides = [unit(side) for side in sides]
    if distance in ("euclidean", "squared_euclidean"):
        centre = sides[-1].detach().mean(dim=0)
        sides = [side - centre for side in sides]
    return sides[0], sides[-1]


def similarity(anchors: Tensor, candidates: Tensor, distance: Distance) -> Tensor:
    """Scores between vectors that went through :func:`prepare`.

    Args:
        anchors: ``[r, d]``, some or all of the anchors.
        candidates: ``[C, d]``; those marked by :func:`~lit_metric.losses.gather.mark_fixed` get a gradient of
            0, and none is computed.
        distance: ``cosine`` and ``dot`` give the inner product, ``squared_euclidean`` gives −d²,
            ``euclidean`` −d.

    Returns:
        ``[r, C]``.

    Example:
        >>> a, c = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]])
        >>> [similarity(*prepare(a, c, name), name)[0].tolist() for name in DISTANCES]
        [[0.0, 1.0], [0.0, 9.0], [-5.0, -0.0], [-25.0, -0.0]]
    """
    scores: Tensor
    fixed = fixed_rows(candidates)
    if distance in ("cosine", "dot"):
        scores = _Products.apply(anchors, candidates, fixed) if fixed else anchors @ candidates.T
    else:
        scores = _MinusDistance.apply(anchors, candidates, distance == "squared_euclidean", fixed)
    return scores


def _of_candidates(gradient: Tensor, anchors: Tensor, candidates: Tensor, fixed: int) -> Tensor:
    """``gradientᵀ · anchors``, with 0 in the last ``fixed`` rows."""
    if not fixed:
        return gradient.T @ anchors
    found, trained = torch.zeros_like(candidates), len(candidates) - fixed
    torch.mm(gradient[:, :trained].T, anchors, out=found[:trained])
    return found


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor, fixed: int) -> Tensor:
        ctx.save_for_backward(anchors, candidates)
        ctx.fixed = fixed
        return anchors @ candidates.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        anchors, candidates = ctx.saved_tensors
        of_anchors = gradient @ candidates if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_anchors, None, None
        return of_anchors, _of_candidates(gradient, anchors, candidates, ctx.fixed), None


class _MinusDistance(torch.autograd.Function):
    """Keeps nothing of the shape ``[r, C]`` but the scores themselves."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor, squared: bool, fixed: int) -> Tensor:
        ctx.fixed = fixed
        squares, width = tuple(side.square().sum(dim=1) for side in (anchors, candidates)), len(candidates)
        scores = (squares[0][:, None] + squares[1]).addmm_(anchors, candidates.T, alpha=-2)
        near = restore_near(scores, squares, lambda at: anchors[at // width] - candidates[at % width])
        if squared:
            ctx.save_for_backward(anchors, candidates)
            return scores.neg_()
        same = near[scores.view(-1)[near] == 0]
        ctx.save_for_backward(anchors, candidates, scores.sqrt_().neg_(), same)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        anchors, candidates, *euclidean = ctx.saved_tensors
        # Of −d² it is −2 (a − c), of −d it is (a − c) / −d. Vectors that coincide don't push each other.
        pull, factor = gradient, -2.0
        if euclidean:
            scores, same = euclidean
            pull, factor = gradient / scores, 1.0
            pull.view(-1)[same] = 0.0
        of_anchors = of_candidates = None
        if ctx.needs_input_grad[0]:
            sums = factor * pull.sum(dim=1, keepdim=True)
            of_anchors = torch.addmm(anchors * sums, pull, candidates, alpha=-factor)
        if ctx.needs_input_grad[1]:
            of_candidates = _of_candidates(pull, anchors, candidates, ctx.fixed).mul_(-factor)
            trained = len(candidates) - ctx.fixed
            sums = factor * pull[:, :trained].sum(dim=0)[:, None]
            of_candidates[:trained].addcmul_(candidates[:trained], sums)
        return of_anchors, of_candidates, None, None


@torch.no_grad()
def restore_near(
    squares: Tensor, norms: tuple[Tensor, ...], differences: Callable[[Tensor], Tensor]
) -> Tensor:
    """Correct squared distances in place where ``|a|² + |c|² − 2a·c`` cancels: those of vectors that are near
    each other compared with their length.

    The gradient of that formula is right without a correction.

    Args:
        squares: ``[..., r, C]`` the formula's results, contiguous.
        norms: ``|a|² [r]`` and ``|c|² [C]``.
        differences: takes places ``[n]`` in the flat ``squares``, and returns ``a − c [n, d]``. It is called
            for a few at a time, so that it never returns more numbers than ``squares`` has.

    Returns:
        The places that were corrected ``[n]``. All squares that are 0 are among them.
    """
    (of_rows, of_columns), flat = norms, squares.detach().view(-1)
    limit = _CANCELLED * torch.finfo(squares.dtype).eps
    # By the longest vector of the columns first, which needs no matrix of limits.
    most = limit * (of_rows + of_columns.amax()) if len(of_columns) else of_rows
    if not squares.numel() or not (squares.amin(dim=-1) <= most).any():
        return of_rows.new_empty(0, dtype=torch.int64)
    near = true_places(squares <= most[:, None])
    row, column = near // len(of_columns) % max(len(of_rows), 1), near % len(of_columns)
    near = near[flat[near] <= limit * (of_rows[row] + of_columns[column])]
    start, step = 0, 1
    while start < len(near):
        places = near[start : start + step]
        found = differences(places)
        flat[places] = found.square().sum(dim=1)
        start, step = start + step, max(1, squares.numel() // max(1, found.shape[1]))
    return near


def true_places(mask: Tensor) -> Tensor:
    """``[n]`` int64, the places of what is true in the flat ``mask``, in order; fast where little is true.

    Example:
        >>> true_places(torch.tensor([[False, True, False, False], [True, False, False, True]]))
        tensor([1, 4, 7])
    """
    flat = mask.contiguous().view(-1)
    if len(flat) % 8 or flat.storage_offset() % 8:
        return flat.nonzero()[:, 0]
    words = flat.view(torch.int64).nonzero()[:, 0]  # of eight each
    word, place = flat.view(-1, 8)[words].nonzero(as_tuple=True)
    return words[word] * 8 + place


def few_others(negative: Tensor) -> Tensor | None:
    """``[n]`` int64, the places in the flat mask of all that is no negative, if these are less than an eighth
    of all pairs; None if they are more, or on another device than a CPU, where it doesn't pay.

    Example:
        >>> few_others(torch.tensor([[True] * 8 + [False] + [True] * 7]))
        tensor([8])
        >>> few_others(torch.tensor([[True, False]])) is None
        True
    """
    if negative.device.type != "cpu":
        return None
    others = true_places(~negative)
    return others if 8 * len(others) < negative.numel() else None


def safe_sqrt(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 rather than infinite: coinciding vectors don't push each other."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + eˣ)``, exact at any magnitude (``F.softplus`` is cut off at 20)."""
    return -F.logsigmoid(-x)


def beside_largest(scores: Tensor, mask: Tensor) -> Tensor:
    """``scores [r, C]`` minus the largest of their row under ``mask``, through which no gradient passes.

    For losses in which only differences matter. Scores in the thousands would be rounded by the logarithm of
    a sum of their exponentials.

    Example:
        >>> beside_largest(torch.tensor([[8.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[ 0., -3.,  1.]])
    """
    largest = torch.where(mask, scores.detach(), -torch.inf).amax(dim=1, keepdim=True)
    return scores - torch.where(largest.isfinite(), largest, 0.0)


def log_sum_exp(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """``[r]``: ``log Σ weight · eˢ`` over the ``mask [r, C]``; 0 for rows without any."""
    total, largest = log_sum_beside(scores, mask, weight)
    return total + largest


def log_sum_beside(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``[r]`` ``log Σ weight · e^{s − m}`` over the ``mask [r, C]``, and ``[r]`` m, the largest of ``s + log
    weight``, without gradient. Both are 0 for rows without any.

    Large scores would be rounded by the sum of the two. So a loss that is a difference takes the differences
    of both, and adds them.
    """
    if weight is not None:
        # The logarithm of 0 must not enter even the branch that is not taken.
        scores = scores + torch.where(weight > 0, weight, 1.0).to(scores.dtype).log()
    total, largest = _LogSum.apply(scores, mask)
    return total, largest


class _LogSum(torch.autograd.Function):
    """Keeps each term's share of its row's sum, which is its gradient, and nothing else of the shape ``[r,
    C]``. The shares add up to 1, also for large scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        least = torch.finfo(scores.dtype).min
        held = torch.where(mask, scores, least)
        largest = held.amax(dim=1)
        some = largest > least
        shares = held.softmax(dim=1)  # much faster than exp where terms are 0
        total = torch.where(some, -shares.amax(dim=1).log(), 0.0)
        largest = torch.where(some, largest, 0.0)
        ctx.save_for_backward(shares, some)
        ctx.mark_non_differentiable(largest)
        return total, largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        shares, some = ctx.saved_tensors
        return shares * torch.where(some, gradient, 0.0)[:, None], None


def hard_log_sum_exp(scores: Tensor, mask: Tensor, weight: Tensor | None, hardness: float) -> Tensor:
    """:func:`log_sum_exp` with each term multiplied by ``e^{β s}``, scaled to a mean of 1.

    Source: Robinson, Chuang, Sra and Jegelka, "Contrastive Learning with Hard Negative Samples", ICLR 2021.

    Args:
        scores: ``[r, C]``.
        mask: ``[r, C]`` bool.
        weight: ``[r, C]`` or None; the mean is taken under it.
        hardness: β; 0 leaves the sum as it is.

    Example:
        >>> mask = torch.tensor([[True, True]])
        >>> scores = torch.tensor([[2.0, 1.0]]).log()
        >>> hard_log_sum_exp(scores, mask, None, 1.0).exp()  # 4/3 · 2 + 2/3 · 1
        tensor([3.3333])
    """
    if hardness == 0:
        return log_sum_exp(scores, mask, weight)
    harder, shares, number = (
        log_sum_exp(power * scores, mask, weight) for power in (1 + hardness, hardness, 0.0)
    )
    return harder - shares + number


def log_one_plus_sum_exp(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """``[r]``: ``log(1 + Σ weight · eˢ)`` over the ``mask [r, C]``; 0 for rows without any."""
    return torch.where(any_in_row(mask), softplus(log_sum_exp(scores, mask, weight)), 0.0)


def mean_over_positives(terms: Tensor, pairs: PairBlock, used: Tensor) -> Tensor:
    """``[r]``: the weighted mean of ``terms [r, C]`` over each row's positives; 0 for rows not ``used``."""
    if pairs.weight is not None:
        terms = terms * pairs.weight.to(terms.dtype)
    sums = torch.where(pairs.positive & used[:, None], terms, 0.0).sum(dim=1)
    return sums / pairs.positive.sum(dim=1).clamp_min(1)
