"""What every loss shares: precision, row blocks, the exact mean over ranks, the zero of an empty batch.

A loss is a sum of named parts, each a mean. A part is kept as (sum, number of terms) until the end, because
sums and numbers of terms can be added up over blocks of rows and over ranks, and means cannot.

Across ranks, anchors are this rank's own and candidates are those of all ranks, gathered with gradient. Each
rank returns ``world_size * its sum / everybody's number of terms``: the mean of that over ranks, which is
what DDP takes of the gradients, is the value for the union of the ranks' batches, however unevenly the terms
are spread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_metric.configurable import Configurable
from lit_metric.losses.gather import sum_over_ranks, world_size
from lit_metric.losses.pairs import PairBlock, Pairs
from lit_metric.losses.scores import DISTANCES, Distance, prepare, similarity

LossOutput = dict[str, Tensor]
Result = TypeVar("Result")


class Part(NamedTuple):
    """A mean in the making.

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


def masked_mean(terms: Tensor, mask: Tensor, weight: Tensor | None = None) -> Part:
    """The mean of ``weight * terms`` where ``mask`` holds, all of one shape; it divides by the number of
    terms and not by the sum of weights, so that weights keep their scale.

    Example:
        >>> part = masked_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True]))
        >>> part.total.item(), part.number.item()
        (5.0, 2)
    """
    if weight is not None:
        terms = terms * weight.to(terms.dtype)
    return Part(torch.where(mask, terms, 0.0).sum(), mask.sum())


def share(flags: Tensor, mask: Tensor) -> Part:
    """The share of ``flags`` among those that ``mask`` holds, both bool and of one shape; logged only.

    Example:
        >>> share(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
        Part(total=tensor(1), number=tensor(2), logged=True)
    """
    return Part((flags & mask).sum(), mask.sum(), logged=True)


class Loss(Configurable, nn.Module, ABC):
    """What a learner calls: a :class:`VectorLoss`, or a combination of losses."""

    needs_classes: bool = False
    """Whether :meth:`forward` takes, as ``classes``, the ``[A]`` int64 classes of the anchors, -1 for none.
    Then :meth:`build` comes before the first call."""

    def build(self, class_counts: Tensor, dimension: int) -> None:
        """Create what depends on the data; does nothing the second time.

        Args:
            class_counts: ``[classes]`` int64, how many training items each class has.
            dimension: of the embeddings.
        """

    @abstractmethod
    def forward(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """See :meth:`VectorLoss.forward`."""


class VectorLoss(Loss):
    """Base of the losses between anchors and candidates under positive and negative masks.

    A subclass implements :meth:`rows` on a block of anchors; one that looks at nothing but similarities is a
    :class:`MetricLoss`. Unless a loss says otherwise, anchors without a positive or without a negative teach
    nothing and don't count. In the formulas of losses s is the similarity that goes with ``distance``, p an
    anchor's positives and n its negatives.

    Args:
        distance: ``cosine``, ``dot``, ``euclidean`` or ``squared_euclidean``; embeddings arrive raw.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: how many anchors are compared with all candidates at a time. A batch with more is worked
            through in blocks whose scores are computed again in the backward pass, so that no more than
            ``[block_rows, C]`` is ever kept.

    Attributes:
        uses_targets: whether blocks come with ``target``, which a subclass says of itself.
    """

    uses_targets: bool = False

    def __init__(self, distance: Distance, normalize: bool = False, block_rows: int = 1024) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"distance {distance!r} is none of {', '.join(DISTANCES)}")
        if normalize and distance == "dot":
            raise ValueError("distance 'dot' with normalize is the cosine; ask for distance 'cosine'")
        if block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, not {block_rows}")
        self.distance: Distance = distance
        self.normalize = normalize
        self.block_rows = block_rows

    def usable(self, pairs: PairBlock) -> Tensor:
        """``[r]`` bool, which of a block's anchors teach something: the numerator of ``anchors_used``."""
        return pairs.positive.any(dim=1) & pairs.negative.any(dim=1)

    @abstractmethod
    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """The parts of one block of anchors, a pure and deterministic function of its arguments.

        Must give the same names for every block, also one with no rows, no positives or no negatives.

        Args:
            anchors: ``[r, d]``, prepared for ``distance``; r may be 0.
            candidates: ``[C, d]``, likewise, all of them; C is at least 1.
            pairs: the block's masks ``[r, C]``; pairs of weight 0 are already out of them, and of ``target``,
                which is there if the class says ``uses_targets``.
        """

    def forward(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """The loss on a batch.

        Args:
            anchors: ``[A, d]`` raw embeddings, this rank's; A may be 0.
            candidates: ``[C, d]`` raw embeddings, those of all ranks (see
                :func:`~lit_metric.losses.gather_with_grad`).
            pairs: which anchor and candidate belong together.

        Returns:
            ``loss``, differentiable, and detached scalars: every part of it by name, ``anchors_used`` (the
            share of anchors that have a positive and a negative) and what the loss reports besides. All are
            such that their mean over ranks is the value for the union batch. Without anything to learn from,
            ``loss`` is 0 and its gradient is 0, but reaches anchors, candidates and parameters, so that no
            rank waits for another.

        Raises:
            ValueError: if the shapes of anchors, candidates and masks don't fit together.
        """
        if anchors.ndim != 2 or candidates.ndim != 2 or anchors.shape[1] != candidates.shape[1]:
            raise ValueError(
                f"anchors {list(anchors.shape)} and candidates {list(candidates.shape)} must be [A, d] and "
                "[C, d]"
            )
        with torch.autocast(anchors.device.type, enabled=False):
            parts = self.sum_blocks(anchors, candidates, pairs)
            means = means_over_ranks(parts)
            touched = (anchors, candidates, *self.parameters())
            loss = sum((means[name] for name, part in parts.items() if not part.logged), nothing_of(touched))
        return {"loss": loss, **{name: mean.detach() for name, mean in means.items()}}

    def sum_blocks(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> Parts:
        """All parts of this rank's anchors; for a subclass to override whose blocks don't simply add up.

        Args and raw embeddings as in :meth:`forward`.
        """

        def work(rows: Tensor, candidates: Tensor, masks: PairBlock) -> Parts:
            return {**self.rows(rows, candidates, masks), "anchors_used": self.share_used(masks)}

        blocks = self.in_blocks(anchors, candidates, pairs, work)
        return {name: reduce(Part.plus, (parts[name] for parts in blocks)) for name in blocks[0]}

    def share_used(self, pairs: PairBlock) -> Part:
        """What ``anchors_used`` is made of."""
        usable = self.usable(pairs)
        return share(usable, torch.ones_like(usable))

    def in_blocks(
        self,
        anchors: Tensor,
        candidates: Tensor,
        pairs: Pairs,
        work: Callable[[Tensor, Tensor, PairBlock], Result],
    ) -> list[Result]:
        """``work(prepared anchors [r, d], prepared candidates [C, d], masks)`` of each block of rows, under a
        checkpoint if there are several; raw embeddings and ``pairs`` as :meth:`forward` gets them."""
        count, width = len(anchors), len(candidates)
        if width == 0:
            # One zero vector that no mask holds, so that no loss needs to think of reducing over nothing.
            candidates = torch.cat([candidates, candidates.new_zeros(1, candidates.shape[1])])
        anchors, candidates = prepare(anchors, candidates, self.distance, self.normalize)

        def block(start: int, stop: int) -> Result:
            # Asked for in here, the masks are built again in the backward pass and never kept for all rows.
            if start == stop or width == 0:
                nothing = anchors.new_zeros((stop - start, len(candidates)), dtype=torch.bool)
                masks = PairBlock(nothing, nothing)
            else:
                masks = pairs.rows(start, stop)
                if self.uses_targets:
                    masks = masks._replace(target=pairs.targets(start, stop))
                _check_shapes(masks, (stop - start, width))
            if self.uses_targets and masks.target is None:
                known = torch.where(masks.positive, 1.0, 0.0)
                masks = masks._replace(
                    target=known.masked_fill(~(masks.positive | masks.negative), torch.nan)
                )
            return work(anchors[start:stop], candidates, _without_zero_weights(masks))

        if count <= self.block_rows:
            return [block(0, count)]
        bounds = [(start, min(start + self.block_rows, count)) for start in range(0, count, self.block_rows)]
        return [checkpoint(block, *bound, use_reentrant=False, preserve_rng_state=False) for bound in bounds]


class MetricLoss(VectorLoss):
    """Base of the losses that look at the similarities of anchors and candidates, and at nothing else.

    A subclass implements :meth:`parts` on a block of scores.
    """

    @abstractmethod
    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """The parts of one block of anchors, under the same terms as :meth:`VectorLoss.rows`.

        Args:
            scores: ``[r, C]`` similarities, the larger the closer; C is at least 1, r may be 0.
            pairs: the block's masks ``[r, C]``.
        """

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`parts`."""
        return self.parts(similarity(anchors, candidates, self.distance), pairs)


def _check_shapes(pairs: PairBlock, shape: tuple[int, int]) -> None:
    for name, mask in pairs._asdict().items():
        if mask is not None and mask.shape != shape:
            raise ValueError(
                f"the {name} mask of these anchors is {list(mask.shape)}; it should be {list(shape)}"
            )


def _without_zero_weights(pairs: PairBlock) -> PairBlock:
    if pairs.weight is None:
        return pairs
    kept = pairs.weight > 0
    target = None if pairs.target is None else pairs.target.masked_fill(~kept, torch.nan)
    return PairBlock(pairs.positive & kept, pairs.negative & kept, pairs.weight, target)


def means_over_ranks(parts: Parts) -> dict[str, Tensor]:
    """By name, a scalar whose mean over ranks is the mean over the terms of all ranks."""
    counts = sum_over_ranks(torch.stack([part.number for part in parts.values()])).clamp_min(1)
    return {
        name: world_size() * part.total / count
        for (name, part), count in zip(parts.items(), counts, strict=True)
    }


def nothing_of(tensors: tuple[Tensor, ...]) -> Tensor:
    """0 with a gradient of 0 to each tensor: the sum of no entries, which is 0 even beside infinities."""
    return torch.cat([tensor.reshape(-1)[:0].to(tensors[0].dtype) for tensor in tensors]).sum()
