"""The parts of a loss: means, kept as sums and numbers of terms until those of all blocks and ranks are added
up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from lit_metric.losses.pairs import PairBlock, any_in_row

CACHED_SCORES = 2**19
"""2 MiB in single precision, about what the second-level cache of a core holds."""


class Part(NamedTuple):
    """A mean, kept as a sum and a number of terms.

    Attributes:
        total: scalar, the sum of the terms; an integer where they are counted.
        number: scalar int64, the number of terms.
        logged: only reported, not a part of the loss.
    """

    total: Tensor
    number: Tensor
    logged: bool = False

    def plus(self, other: Part) -> Part:
        """The mean over both sets of terms."""
        return Part(self.total + other.total, self.number + other.number, self.logged)


Parts = dict[str, Part]


def added_up(blocks: Sequence[Parts]) -> Parts:
    """The parts over all blocks, which have the same names."""
    return {name: reduce(Part.plus, (parts[name] for parts in blocks)) for name in blocks[0]}


def masked_mean(terms: Tensor, mask: Tensor, weight: Tensor | None = None) -> Part:
    """The mean of ``weight * terms`` where ``mask`` is true, all of one shape.

    It divides by the number of terms and not by the sum of weights, so that weights keep their scale.

    Example:
        >>> part = masked_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True]))
        >>> part.total.item(), part.number.item()
        (5.0, 2)
    """
    if weight is not None:
        terms = terms * weight.to(terms.dtype)
    return Part(torch.where(mask, terms, 0.0).sum(), mask.count_nonzero())


def share(flags: Tensor, mask: Tensor) -> Part:
    """The share of true ``flags`` where ``mask`` is true, both bool and of one shape; logged only.

    Example:
        >>> share(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
        Part(total=tensor(1), number=tensor(2), logged=True)
    """
    return Part((flags & mask).count_nonzero(), mask.count_nonzero(), logged=True)


def over_positive_pairs(
    pairs: PairBlock, of_pairs: Callable[[Tensor, Tensor], tuple[Part, ...]]
) -> tuple[Part, ...]:
    """Add up what ``of_pairs`` returns for the positive pairs of anchors that have a negative.

    It is called for at most r pairs at a time and again in the backward pass, so that memory is ``[r, C]``
    and not ``[r, P, C]``.

    Args:
        pairs: masks ``[r, C]``.
        of_pairs: takes the rows and the columns of k positive pairs, two ``[k]`` int64; k may be 0.
    """
    row, column = (pairs.positive & any_in_row(pairs.negative)[:, None]).nonzero(as_tuple=True)
    at_a_time = max(len(pairs.positive), 1)
    if len(row) <= at_a_time:
        return of_pairs(row, column)
    slices = [
        checkpoint(of_pairs, *slice_, use_reentrant=False, preserve_rng_state=False)
        for slice_ in zip(row.split(at_a_time), column.split(at_a_time), strict=True)
    ]
    return tuple(reduce(Part.plus, parts) for parts in zip(*slices, strict=True))


def bounds_of(count: int, rows: int) -> list[tuple[int, int]]:
    """The bounds of blocks of at most ``rows`` of ``count`` rows, one block at least.

    Example:
        >>> bounds_of(5, 2), bounds_of(0, 2)
        ([(0, 2), (2, 4), (4, 5)], [(0, 0)])
    """
    return [(start, min(start + rows, count)) for start in range(0, count, rows)] or [(0, 0)]


def learned(pairs: PairBlock) -> bool:
    """Whether a gradient goes to the weights, targets or bias of pairs."""
    return any(isinstance(each, Tensor) and each.requires_grad for each in pairs)


def differentiated(
    block: Callable[[int, int, Tensor, Tensor], Parts],
    rows: int,
    anchors: Tensor,
    candidates: Tensor,
    parameters: Sequence[Tensor],
) -> Parts | None:
    """The parts over all blocks, each differentiated as soon as it is computed, so that no block is computed
    twice.

    That works where one part makes the loss: the gradient of its sum is the same for any number of terms, but
    for a factor.

    Args:
        block: takes the bounds of a block, its anchors ``[r, d]`` and all candidates; r may be 0.
        rows: of a block, at most; fewer if the scores of 128 rows or more then stay in the caches of a core.
        anchors: ``[A, d]``, prepared.
        candidates: ``[C, d]``, prepared.
        parameters: what else a gradient may reach.

    Returns:
        None if several parts make the loss, or none does.
    """
    empty = block(0, 0, anchors[:0], candidates)
    terms = [name for name, part in empty.items() if part.total.requires_grad and not part.logged]
    if len(terms) != 1:
        return None
    fewer = CACHED_SCORES // len(candidates)
    bounds = bounds_of(len(anchors), min(rows, fewer) if fewer >= 128 else rows)
    found = _Differentiated.apply(block, bounds, terms[0], anchors, candidates, *parameters)
    values = dict(zip(empty, zip(found[::2], found[1::2], strict=True), strict=True))
    return {name: Part(*values[name], part.logged) for name, part in empty.items()}


class _Differentiated(torch.autograd.Function):
    """Keeps the gradients of what goes in, and nothing of a block."""

    @staticmethod
    def forward(
        ctx: Any,
        block: Callable[[int, int, Tensor, Tensor], Parts],
        bounds: Sequence[tuple[int, int]],
        name: str,
        anchors: Tensor,
        candidates: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        needed = ctx.needs_input_grad[3:]
        everything = candidates.detach().requires_grad_(needed[1])
        sums = [
            torch.zeros_like(each) if need else None
            for each, need in zip((anchors, candidates, *parameters), needed, strict=True)
        ]
        total: Parts | None = None
        for start, stop in bounds:
            rows = anchors[start:stop].detach().requires_grad_(needed[0])
            given = rows, everything, *parameters
            places = [None if sums[0] is None else sums[0][start:stop], *sums[1:]]
            with torch.enable_grad():
                parts = block(start, stop, rows, everything)
                value = parts[name].total
                wanted = [each for each, need in zip(given, needed, strict=True) if need]
                found = torch.autograd.grad(value, wanted, allow_unused=True) if value.requires_grad else ()
            for place, gradient in zip((each for each in places if each is not None), found, strict=False):
                if gradient is not None:
                    place.add_(gradient)
            parts = {each: part._replace(total=part.total.detach()) for each, part in parts.items()}
            total = parts if total is None else added_up([total, parts])
        assert total is not None
        ctx.save_for_backward(*sums)
        flat = [each for part in total.values() for each in (part.total, part.number)]
        ctx.place = 2 * [*total].index(name)
        ctx.mark_non_differentiable(*(each for at, each in enumerate(flat) if at != ctx.place))
        return tuple(flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[ctx.place]
        return (
            None,
            None,
            None,
            *(None if each is None else each * factor.to(each.dtype) for each in ctx.saved_tensors),
        )
