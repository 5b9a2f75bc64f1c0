"""The base of all losses: the two ways to call it, precision, row blocks, and the exact mean over ranks.

In a plain loop, ``loss(embeddings, labels=labels)`` or ``loss(anchors, positives)`` returns a scalar. A
learner knows more about its items: it calls :meth:`Loss.on_pairs`, which also returns what is logged.

A loss is a sum of named parts, each a mean. A part is kept as (sum, number of terms) until the end, because
sums and numbers of terms can be added up over blocks of rows and over ranks, and means cannot.

Across ranks, anchors are this rank's own and candidates are those of all ranks, gathered with gradient. Each
rank returns ``world_size * its sum / everybody's number of terms``. DDP takes the mean of the ranks'
gradients, so training follows the value for the union of the ranks' batches, however unevenly the terms are
spread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lit_metric.configurable import Configurable
from lit_metric.losses.gather import (
    fixed_rows,
    gather_ids,
    gather_with_grad,
    mark_fixed,
    rows_before,
    sum_over_ranks,
    world_size,
)
from lit_metric.losses.pairs import DensePairs, ItemRelations, LabelPairs, PairBlock, Pairs
from lit_metric.losses.parts import Part, Parts, added_up, bounds_of, differentiated, learned, share
from lit_metric.losses.scores import BLOCK_SCORES, DISTANCES, Distance, prepare, similarity
from lit_metric.renamed import refuse_old_hooks

LossOutput = dict[str, Tensor]
Result = TypeVar("Result")
Block = Callable[[int, int, Tensor, Tensor], Result]
"""Takes the bounds of a block, its anchors ``[r, d]`` and all candidates ``[C, d]``."""


@dataclass(frozen=True)
class LossContext:
    """What a loss can learn about the training data and the model before the first step.

    Attributes:
        dimension: of the embeddings.
        class_counts: ``[classes]`` int64, how many training items each class has, or None where items don't
            have one class each. If only the number of classes is known, ``torch.ones(number)`` will do.
        relations: between all items by global id, or None.
        encode: returns for the hub id or folder of another encoder its vectors ``[N, g]`` of all items, by
            global id; with a second argument ``ids [M]``, those of these items, ``[M, g]``. Every rank must
            call it.
        corpus: ``[N]`` int64 global ids of what training items are compared with, such as documents; None
            where it isn't known, as in a mixture of data sets.
    """

    dimension: int
    class_counts: Tensor | None = None
    relations: ItemRelations | None = None
    encode: Callable[..., Tensor] | None = None
    corpus: Tensor | None = None


class Loss(Configurable, nn.Module, ABC):
    """What a training loop or a learner calls: a :class:`VectorLoss`, or a combination of losses.

    Attributes:
        requires_labels: whether it needs the classes of anchors; :meth:`setup` comes before the first call.
        requires_scores: whether it compares scores or grades of pairs; a block of pairs then has ``target``.
    """

    requires_labels: bool = False
    requires_scores: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        refuse_old_hooks(cls)
        super().__init_subclass__(**kwargs)

    def setup(self, context: LossContext) -> None:
        """Create what depends on the data. A learner calls it before every fit; proxies that exist stay."""

    def extra_repr(self) -> str:
        """The arguments that were given, without the losses among them."""
        given = self.__dict__.get("_arguments", {}).items()
        return ", ".join(
            f"{name}={value}" for name, value in given if not isinstance(value, nn.Module | dict)
        )

    @property
    def plateau(self) -> float | None:
        """The loss if all embeddings were one point, where that doesn't depend on the batch; None elsewhere.

        A loss that stays there shows a collapse, see :class:`~lit_metric.callbacks.CollapseAlarm`.
        """
        return None

    def after_step(self) -> None:
        """Update buffers. A learner calls it after each step of the optimizer."""

    @abstractmethod
    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """The loss and what is logged, for pairs that are known already; see :meth:`VectorLoss.on_pairs`."""

    def forward(
        self,
        embeddings: Tensor,
        positives: Tensor | None = None,
        negatives: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        """The loss in a plain loop.

        With ``labels`` every item is an anchor, and all others are its candidates. With ``positives`` row i
        of the embeddings is an anchor and row i of the positives belongs to it; the other rows and all
        ``negatives`` are its negatives. Under a process group candidates are gathered from all ranks, so the
        gradient that DDP averages is that of the union batch, and every rank must call it.

        Args:
            embeddings: ``[n, d]``, raw.
            positives: ``[n, d]``.
            negatives: ``[m, d]``, or ``[n, k, d]`` for k of each anchor.
            labels: ``[n]`` int64 classes, -1 for none.
            scores: how well pairs belong together, for losses that compare scores: ``[n]`` for the positives,
                or ``[n, 1 + k]`` for an anchor's positive and its k negatives.

        Returns:
            A differentiable scalar; 0 if there is nothing to learn from.

        Raises:
            ValueError: if shapes don't fit together, or the loss can't use what is given.
            TypeError: if ``negatives`` are pairs, which :meth:`on_pairs` takes.
        """
        if isinstance(negatives, Pairs):
            raise TypeError("negatives must be a tensor; with masks, call loss.on_pairs(a, c, pairs)")
        if (labels is None) == (positives is None):
            raise ValueError(
                "call loss(embeddings, labels=labels), or loss(anchors, positives) without labels"
            )
        if scores is not None and (positives is None or not self.requires_scores):
            raise ValueError(f"{type(self).__name__} takes no scores here; only losses of scored pairs do")
        count, device = len(embeddings), embeddings.device
        first, total = rows_before(count, device)
        ids = torch.arange(first, first + count, device=device)
        pairs: Pairs
        if positives is None:
            if labels is None or negatives is not None or labels.shape != (count,):
                raise ValueError(f"give labels [{count}], one for each embedding, and no negatives")
            every = torch.arange(total, device=device)
            labels = labels.to(device)
            pairs = LabelPairs(labels, gather_ids(labels), ids, every)
            return self.on_pairs(embeddings, gather_with_grad(embeddings), pairs)["loss"]
        if positives.shape != embeddings.shape or (
            negatives is not None and negatives.shape[-1] != embeddings.shape[-1]
        ):
            shape = None if negatives is None else list(negatives.shape)
            raise ValueError(
                f"anchors {list(embeddings.shape)} and positives {list(positives.shape)} must be [n, d], "
                f"and negatives {shape} [m, d] or [n, k, d]"
            )
        others = embeddings[:0] if negatives is None else negatives.reshape(-1, embeddings.shape[1])
        candidates = gather_with_grad(torch.cat([positives, others]))
        if scores is not None:
            pairs = DensePairs.of_scores(scores.to(device), count, len(others), len(candidates))
        else:  # a negative has the number of no anchor
            numbers = torch.cat([ids, torch.full((len(others),), total, device=device)])
            pairs = LabelPairs(ids, gather_ids(numbers))
        return self.on_pairs(embeddings, candidates, pairs)["loss"]


class VectorLoss(Loss):
    """Base of the losses between anchors and candidates under positive and negative masks.

    A subclass implements :meth:`rows` on a block of anchors; one that needs only similarities is a
    :class:`MetricLoss`. Unless a loss says otherwise, anchors without a positive or without a negative don't
    count. In the formulas of losses s is the similarity that goes with ``distance``, p an anchor's positives
    and n its negatives.

    Args:
        distance: ``cosine``, ``dot``, ``euclidean`` or ``squared_euclidean``; embeddings arrive raw.
        normalize: scale embeddings to unit length before a Euclidean distance is taken.
        block_rows: how many anchors are compared with all candidates at a time, fewer beyond 2²² scores. A
            larger batch is computed in blocks, so that memory is ``[block_rows, C]``. If one part makes the
            loss, the gradient of each block is computed at once, in the forward pass. Otherwise the backward
            pass computes all blocks but the last again.
    """

    def __init__(self, distance: Distance, normalize: bool = False, block_rows: int = 1024) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"distance {distance!r} is none of {', '.join(DISTANCES)}")
        if normalize and distance == "dot":
            raise ValueError("distance 'dot' with normalize is the cosine; use distance 'cosine'")
        if block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, not {block_rows}")
        self.distance: Distance = distance
        self.normalize = normalize
        self.block_rows = block_rows

    def usable(self, pairs: PairBlock) -> Tensor:
        """``[r]`` bool, which anchors the loss can learn from; ``anchors_used`` is their share."""
        return pairs.usable

    @abstractmethod
    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """The parts of one block of anchors, a pure and deterministic function of its arguments.

        Must give the same names for every block, also one with no rows, no positives or no negatives.

        Args:
            anchors: ``[r, d]``, prepared for ``distance``; r may be 0.
            candidates: ``[C, d]``, prepared in the same way, of all ranks; C is at least 1.
            pairs: the block's masks ``[r, C]``, and its ``target`` if the class says ``requires_scores``.
                Pairs of weight 0 are out of both already.
        """

    def on_pairs(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> LossOutput:
        """The loss on a batch, and what is logged.

        Args:
            anchors: ``[A, d]`` raw embeddings, this rank's; A may be 0.
            candidates: ``[C, d]`` raw embeddings, those of all ranks (see
                :func:`~lit_metric.losses.gather_with_grad`).
            pairs: which anchor and candidate belong together.

        Returns:
            ``loss``, differentiable, and detached scalars: every part of it by name, ``anchors_used`` (the
            share of anchors that have a positive and a negative) and other figures of the loss. The mean of
            each over ranks is the value for the union batch. If there is nothing to learn from, ``loss`` is 0
            and its gradient is 0, but reaches anchors, candidates and parameters, so that no rank waits.

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
            # By name, a scalar whose mean over ranks is the mean over the terms of all ranks.
            counts = sum_over_ranks(torch.stack([part.number for part in parts.values()])).clamp_min(1)
            means = {
                name: world_size() * part.total / count
                for (name, part), count in zip(parts.items(), counts, strict=True)
            }
            touched = (anchors, candidates, *self.parameters())
            loss = sum((means[name] for name, part in parts.items() if not part.logged), nothing_of(touched))
        return {"loss": loss, **{name: mean.detach() for name, mean in means.items()}}

    def sum_blocks(self, anchors: Tensor, candidates: Tensor, pairs: Pairs) -> Parts:
        """All parts of this rank's anchors; for a subclass to override whose blocks don't simply add up.

        Args and raw embeddings as in :meth:`on_pairs`.
        """

        def work(rows: Tensor, candidates: Tensor, masks: PairBlock) -> Parts:
            return {**self.rows(rows, candidates, masks), "anchors_used": self.share_used(masks)}

        width = len(candidates)
        anchors, candidates, block, rows = self._split(anchors, candidates, pairs, work)
        several = len(anchors) > rows and width > 0 and torch.is_grad_enabled()
        # A learned bias or weight would get no gradient from blocks that are differentiated at once.
        if several and not learned(pairs.rows(0, 1)):
            found = differentiated(block, rows, anchors, candidates, [*self.parameters()])
            if found is not None:
                return found
        return added_up(_each(block, rows, anchors, candidates))

    def share_used(self, pairs: PairBlock) -> Part:
        """The part ``anchors_used`` of a block."""
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
        checkpoint if there are several; raw embeddings and ``pairs`` as in :meth:`on_pairs`."""
        anchors, candidates, block, rows = self._split(anchors, candidates, pairs, work)
        return _each(block, rows, anchors, candidates)

    def _split(
        self,
        anchors: Tensor,
        candidates: Tensor,
        pairs: Pairs,
        work: Callable[[Tensor, Tensor, PairBlock], Result],
    ) -> tuple[Tensor, Tensor, Block[Result], int]:
        """Prepared anchors and candidates, what computes a block of them, and the rows of a block."""
        width, fixed = len(candidates), fixed_rows(candidates)
        if width == 0:
            # One zero vector outside all masks, so that no loss needs to reduce over nothing.
            candidates = torch.cat([candidates, candidates.new_zeros(1, candidates.shape[1])])
        anchors, candidates = prepare(anchors, candidates, self.distance, self.normalize)

        def block(start: int, stop: int, rows: Tensor, candidates: Tensor) -> Result:
            # The masks are built in here, and never kept for all rows.
            if start == stop or width == 0:
                nothing = rows.new_zeros((stop - start, len(candidates)), dtype=torch.bool)
                masks = PairBlock(nothing, nothing)
            else:
                masks = pairs.rows(start, stop, targets=self.requires_scores)
                self._check(masks, [stop - start, width])
            if self.requires_scores and masks.target is None:
                known = torch.where(masks.positive, 1.0, 0.0)
                masks = masks._replace(
                    target=known.masked_fill(~(masks.positive | masks.negative), torch.nan)
                )
            if masks.weight is not None:
                kept = masks.weight > 0
                masks = masks._replace(
                    positive=masks.positive & kept,
                    negative=masks.negative & kept,
                    target=None if masks.target is None else masks.target.masked_fill(~kept, torch.nan),
                )
            return work(rows, mark_fixed(candidates, fixed) if fixed else candidates, masks)

        return anchors, candidates, block, min(self.block_rows, max(1, BLOCK_SCORES // len(candidates)))

    def _check(self, masks: PairBlock, shape: list[int]) -> None:
        for name, mask in masks._asdict().items():
            if mask is not None and list(mask.shape) != shape:
                raise ValueError(
                    f"the {name} mask of these anchors is {list(mask.shape)}; it should be {shape}"
                )
        if masks.bias is not None and not isinstance(self, MetricLoss):
            raise ValueError(f"{type(self).__name__} has no similarities that a bias could be added to")


class MetricLoss(VectorLoss):
    """Base of the losses that need the similarities of anchors and candidates, and nothing else.

    A subclass implements :meth:`parts` on a block of scores.
    """

    @abstractmethod
    def parts(self, scores: Tensor, pairs: PairBlock) -> Parts:
        """The parts of one block of anchors, under the same terms as :meth:`VectorLoss.rows`.

        Args:
            scores: ``[r, C]`` similarities, the larger the closer; C is at least 1, r may be 0.
            pairs: the block's masks ``[r, C]``.
        """

    def scores(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Tensor:
        """``[r, C]`` similarities of prepared vectors, with the pairs' bias."""
        scores = similarity(anchors, candidates, self.distance)
        return scores if pairs.bias is None else scores + pairs.bias.to(scores.dtype)

    def rows(self, anchors: Tensor, candidates: Tensor, pairs: PairBlock) -> Parts:
        """See :meth:`parts`."""
        return self.parts(self.scores(anchors, candidates, pairs), pairs)


def nothing_of(tensors: tuple[Tensor, ...]) -> Tensor:
    """0 with a gradient of 0 to each tensor: the sum of no entries, also if they hold infinities."""
    return torch.cat([tensor.reshape(-1)[:0].to(tensors[0].dtype) for tensor in tensors]).sum()


def _each(block: Block[Result], rows: int, anchors: Tensor, candidates: Tensor) -> list[Result]:
    """All blocks; those before the last are computed again in the backward pass, which starts with the last
    and frees it before it computes another."""
    *earlier, last = bounds_of(len(anchors), rows)
    again = partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
    found = [again(*bound, anchors[slice(*bound)], candidates) for bound in earlier]
    return [*found, block(*last, anchors[slice(*last)], candidates)]
