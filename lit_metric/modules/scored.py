"""Whether there is anything that a loss of scores could learn from."""

from __future__ import annotations

import logging

from torch import Tensor

from lit_metric.batching import BatchPlanner, ScoredPairPlanner
from lit_metric.data import DataError, LabelRelations, PairRelations, Relations
from lit_metric.losses import CombinedLoss, DistillationKLLoss, Loss, MarginMSELoss

log = logging.getLogger(__name__)

LOOKED_AT = 10  # batches


def check_scores(loss: Loss, planner: BatchPlanner, ids: Tensor, relations: Relations, seed: int) -> None:
    """Refuse a loss that compares scores where all are equal, or there are none.

    Args:
        loss, planner, ids, relations, seed: see :func:`say_what_is_alone`.

    Raises:
        DataError: says what to do.
    """
    named = (each for each in loss.modules() if isinstance(each, Loss) and not isinstance(each, CombinedLoss))
    name = next((type(each).__name__ for each in named if each.requires_scores), "")
    if name and isinstance(relations, LabelRelations | PairRelations):
        scores = relations.judgements(ids)[2] if isinstance(relations, PairRelations) else ids[:0]
        if len(scores.unique()) < 2:
            raise DataError(
                f"{name} learns from differences between scores, and these data have none: take "
                "loss=InfoNCELoss(), or name the column of scores, score= of Pairs"
            )
    say_what_is_alone(loss, planner, ids, relations, seed)


def say_what_is_alone(
    loss: Loss, planner: BatchPlanner, ids: Tensor, relations: Relations, seed: int
) -> None:
    """Warn if half of the anchors, or more, have a single scored candidate in their batch, and so teach
    nothing to a loss that compares an anchor's candidates with each other.

    Args:
        loss: any; only those that compare scored candidates are looked at.
        planner: of its batches; only :class:`~lit_metric.batching.ScoredPairPlanner` is looked at.
        ids: int64 ids of the items to train on.
        relations: of these ids.
        seed: of the plans.

    Raises:
        DataError: when no anchor has two scored candidates at all.
    """
    if not isinstance(loss, MarginMSELoss | DistillationKLLoss) or not isinstance(planner, ScoredPairPlanner):
        return
    if not isinstance(relations, PairRelations):
        return
    name = type(loss).__name__
    counts = relations.judgements(ids)[0].unique(return_counts=True)[1]
    if not bool((counts > 1).any()):
        raise DataError(
            f"{name} compares the scored candidates of an anchor, and none of the {len(counts)} anchors has "
            "more than one: give several rows for each, or take a loss of single scores, such as CoSENTLoss"
        )
    plan = planner.plan(ids, relations, seed, 0)
    looked_at = range(min(len(plan), LOOKED_AT))
    known = [~relations.targets(plan.anchors[batch], plan.candidates[batch]).isnan() for batch in looked_at]
    every = sum(map(len, known))
    alone = sum(int((block.sum(dim=1) < 2).sum()) for block in known)
    if 2 * alone >= every:
        log.warning(
            "%s compares the scored candidates of an anchor, and %d of the %d anchors in the first %d "
            "batches have only one there and teach nothing: set together to true in ScoredPairPlanner",
            name,
            alone,
            every,
            len(looked_at),
        )
