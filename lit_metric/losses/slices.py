"""Work through the positive pairs of a block of anchors without holding all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_metric.losses.base import Part
from lit_metric.losses.pairs import PairBlock


def over_positive_pairs(
    pairs: PairBlock, of_pairs: Callable[[Tensor, Tensor], tuple[Part, ...]]
) -> tuple[Part, ...]:
    """Add up what ``of_pairs`` gives for the positive pairs of anchors that have a negative.

    They are worked through r at a time and computed again in the backward pass, so that memory is ``[r, C]``
    and not ``[r, P, C]``.

    Args:
        pairs: masks ``[r, C]``.
        of_pairs: takes the rows and the columns of k positive pairs, two ``[k]`` int64; k may be 0.
    """
    row, column = (pairs.positive & pairs.negative.any(dim=1, keepdim=True)).nonzero(as_tuple=True)
    at_a_time = max(len(pairs.positive), 1)
    if len(row) <= at_a_time:
        return of_pairs(row, column)
    slices = [
        checkpoint(of_pairs, *slice_, use_reentrant=False, preserve_rng_state=False)
        for slice_ in zip(row.split(at_a_time), column.split(at_a_time), strict=True)
    ]
    return tuple(reduce(Part.plus, parts) for parts in zip(*slices, strict=True))
