"""Checks of a data set before training on it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lit_metric.data.dataset import Dataset
from lit_metric.data.errors import DataError, listed
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, PairRelations, Relations

logger = logging.getLogger(__name__)

Classified = LabelRelations | MultiLabelRelations


def class_counts(relations: Relations, ids: Tensor | None) -> Tensor:
    """``[classes]`` int64, how many of the items ``ids`` (all if None) each class has.

    Raises:
        TypeError: when the relations have no classes.
    """
    if not isinstance(relations, LabelRelations | MultiLabelRelations):
        raise TypeError(f"{type(relations).__name__} have no classes to count")
    labels = relations.labels
    if isinstance(labels, Ragged):
        values = labels.values if ids is None else labels.select(ids).values
    else:
        values = labels if ids is None else labels[ids]
    return torch.bincount(values[values >= 0], minlength=len(relations.classes))


def check(dataset: Dataset, alone: bool) -> None:
    """Refuse training data in which nothing belongs together, and log what evaluations will miss.

    Args:
        dataset: what was read.
        alone: whether validation items search each other.

    Raises:
        DataError: when nothing can be learned.
    """
    train, relations = dataset.splits.get("train"), dataset.relations
    if train is not None:
        if isinstance(relations, PairRelations):
            if dataset.planned == "pairs" and not len(relations.all_positives(train).values):
                raise DataError(
                    f"none of the {len(train)} training anchors has a positive, so nothing belongs together; "
                    "is positive_from= too high, or score= the wrong column?"
                )
            pairs = dataset.pairs.get("train")
            if pairs is not None and len(pairs) > 1 and bool((pairs.targets == pairs.targets[0]).all()):
                logger.warning(
                    "all %d scores of the training pairs are %g, and losses that compare scores learn "
                    "nothing from them: without score=, all pairs belong together",
                    len(pairs),
                    float(pairs.targets[0]),
                )
        elif isinstance(relations, LabelRelations | MultiLabelRelations):
            _check_classes(dataset, relations, train)
            for split in ("validation", "test"):
                if split in dataset.splits and not (split == "validation" and dataset.held_out):
                    _check_common(relations, train, dataset.splits[split], split)
    if "validation" in dataset.splits and alone and isinstance(relations, LabelRelations):
        _check_validation(relations, dataset.splits["validation"])


def _check_classes(dataset: Dataset, relations: Classified, train: Tensor) -> None:
    counts = class_counts(relations, train)
    if not bool((counts >= 2).any()):
        held = len(dataset.splits["validation"]) if dataset.held_out else 0
        after = f", after {held} were held out for validation" if held else ""
        raise DataError(
            f"no class of the training items has two members ({len(train)} items, "
            f"{int((counts > 0).sum())} classes{after}), so nothing belongs together; is label= the right "
            "column?"
        )
    single = [relations.classes[place] for place in (counts == 1).nonzero()[:, 0].tolist()]
    if single:
        logger.info(
            "%d class%s one training item, and serve%s as negatives and neighbours only: %s",
            len(single),
            "es have" if len(single) > 1 else " has",
            "" if len(single) > 1 else "s",
            listed(single, 8),
        )


def _check_common(relations: Classified, train: Tensor, ids: Tensor, split: str) -> None:
    """Log how many items of a split have no class in common with the training items."""
    known, evaluated = (class_counts(relations, each) > 0 for each in (train, ids))
    labels = relations.labels
    if isinstance(labels, Ragged):
        own = labels.select(ids)
        found = known[own.values].long()
        common = torch.zeros(len(ids), dtype=torch.int64).index_add_(0, own.segment_ids, found) > 0
        labelled = own.lengths > 0
    else:
        labelled = labels[ids] >= 0
        common = labelled & known[labels[ids].clamp(min=0)]
    count, all_of = int(common.sum()), int(labelled.sum())
    if not all_of or 2 * count >= all_of:
        return
    theirs, ours = (
        listed([relations.classes[place] for place in mask.nonzero()[:, 0].tolist()], 4)
        for mask in (evaluated & ~known, known)
    )
    logger.warning(
        "%s of the %d %s items %s a class that occurs in training: %s there, %s in training. That is right "
        "for new classes, and wrong if labels are written differently",
        count or "none",
        all_of,
        split,
        "has" if count < 2 else "have",
        theirs,
        ours,
    )


def _check_validation(relations: LabelRelations, ids: Tensor) -> None:
    labels = relations.labels[ids]
    if not len(labels):
        return
    counts = torch.bincount(labels[labels >= 0], minlength=1)
    if int(counts.max()) < 2:
        logger.warning(
            "no two validation items have the same class, so retrieval metrics are NaN: "
            "raise validation_share=, give validation=, or validation_corpus='train'"
        )
    elif int((counts > 0).sum()) == 1 and len(relations.classes) > 1:
        logger.warning("all validation items are of one class, so every neighbour is right: give validation=")
