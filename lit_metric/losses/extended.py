"""Pairs with candidates that are no items, such as noise, or vectors made to be hard."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_metric.losses.gather import fixed_rows, mark_fixed
from lit_metric.losses.pairs import PairBlock, Pairs, any_in_row


class ExtendedPairs(Pairs):
    """Pairs with M more candidates behind the others, which have neither an id nor a class.

    An anchor that has no pair without them has none with them. Their weight is 1 and their bias 0.

    Args:
        pairs: of A anchors and C candidates.
        positive: ``[A, M]`` bool; None: none is.
        negative: ``[A, M]`` bool, or M as a number: all are negatives of all anchors. None: none is.

    Raises:
        ValueError: if neither is given.

    Example:
        >>> from lit_metric.losses import DensePairs
        >>> same = torch.tensor([[True, False], [False, False]])
        >>> ExtendedPairs(DensePairs(same, same.flip(1)), negative=1).rows(0, 2).negative.tolist()
        [[False, True, True], [False, False, False]]
    """

    def __init__(
        self, pairs: Pairs, positive: Tensor | None = None, negative: Tensor | int | None = None
    ) -> None:
        if positive is None and negative is None:
            raise ValueError("ExtendedPairs needs positive or negative candidates to add")
        self.pairs, self.positive, self.negative = pairs, positive, negative
        self.anchor_ids, self.anchor_labels = pairs.anchor_ids, pairs.anchor_labels

    def rows(self, start: int, stop: int, targets: bool = False) -> PairBlock:
        """See :meth:`Pairs.rows`."""
        block = self.pairs.rows(start, stop, targets)
        known = block.positive | block.negative
        some = any_in_row(known)[:, None] if known.shape[1] else known.any(dim=1, keepdim=True)
        width = self.negative if isinstance(self.negative, int) else 0
        for mask in (self.positive, self.negative):
            width = mask.shape[1] if isinstance(mask, Tensor) else width

        def extended(mask: Tensor, more: Tensor | int | None) -> Tensor:
            shape = (stop - start, width)
            if isinstance(more, int):
                added = some.expand(shape)
            else:
                added = mask.new_zeros(shape) if more is None else more[start:stop] & some
            return torch.cat([mask, added], dim=1)

        def filled(values: Tensor | None, value: float) -> Tensor | None:
            if values is None:
                return None
            return torch.cat([values, values.new_full((stop - start, width), value)], dim=1)

        return PairBlock(
            extended(block.positive, self.positive),
            extended(block.negative, self.negative),
            filled(block.weight, 1.0),
            filled(block.target, torch.nan),
            filled(block.bias, 0.0),
        )

    def turned(self) -> Pairs:
        """Not possible: the added vectors are nobody's anchors.

        Raises:
            ValueError: always, with the remedy.
        """
        raise ValueError(
            "pairs with vectors that are no items can't be turned round: put SymmetricLoss around the loss "
            "that adds them, and not within it"
        )


def with_fixed(candidates: Tensor, more: Tensor) -> Tensor:
    """``candidates [C, d]`` with ``more [M, d]`` behind them, which get no gradient."""
    together = torch.cat([candidates, more.detach().to(candidates.dtype)])
    return mark_fixed(together, fixed_rows(candidates) + len(more))
