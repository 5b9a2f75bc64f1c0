"""What must hold of a data set before it is worth training on."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lit_metric.data.content import Content
from lit_metric.data.errors import DataError
from lit_metric.data.ragged import Ragged
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, PairRelations, Relations
from lit_metric.data.tokens import Tokenizer, Tokens
from lit_metric.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


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


def check(content: Content, alone: bool, planned: str) -> None:
    """Refuse training data in which nothing belongs together, and say what evaluations will miss.

    Args:
        content: what was read.
        alone: whether validation items search each other.
        planned: what batches are made of; see :class:`~lit_metric.data.Supervision`.

    Raises:
        DataError: when nothing can be learned.
    """
    train = content.splits.get("train")
    if train is not None:
        if isinstance(content.relations, PairRelations):
            _check_pairs(content.relations, train, planned)
        else:
            _check_classes(content.relations, train)
    if "validation" in content.splits and alone and isinstance(content.relations, LabelRelations):
        _check_validation(content.relations, content.splits["validation"])


def say_what_is_cut(vocabulary: Vocabulary, tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Log once how many texts are cut, for each maximal length that the tokenizer knows of."""
    limit_of = getattr(tokenizer, "max_length_of", None)
    if limit_of is None:
        return
    cut: dict[int, int] = {}
    lengths = tokens.lengths
    roles = vocabulary.roles
    for number, role in enumerate(vocabulary.role_names) if roles is not None else [(None, None)]:
        own = lengths if roles is None else lengths[roles == number]
        limit = int(limit_of(role))
        cut[limit] = cut.get(limit, 0) + int((own >= limit).sum())
    for limit, count in cut.items():
        if count:
            logger.info(
                "%d of %d texts have max_length=%d tokens or more, and are cut there",
                count,
                len(vocabulary),
                limit,
            )


def _check_classes(relations: Relations, train: Tensor) -> None:
    counts = class_counts(relations, train)
    if not bool((counts >= 2).any()):
        raise DataError(
            f"no class of the training items has two members ({len(train)} items, "
            f"{int((counts > 0).sum())} classes), so nothing belongs together; is data.label the right "
            "column?"
        )
    if single := int((counts == 1).sum()):
        logger.info("%d classes have one training item: they serve as negatives and neighbours only", single)


def _check_pairs(relations: PairRelations, train: Tensor, planned: str) -> None:
    if planned == "pairs" and not len(relations.all_positives(train).values):
        raise DataError(
            f"none of the {len(train)} training anchors has a positive, so nothing belongs together; is "
            "positive_from too high, or the column of scores the wrong one?"
        )


def _check_validation(relations: LabelRelations, ids: Tensor) -> None:
    labels = relations.labels[ids]
    if len(labels) and int(torch.bincount(labels[labels >= 0], minlength=1).max()) < 2:
        logger.warning(
            "no validation item has another of its class beside it, so retrieval metrics are NaN: "
            "raise data.validation_share, or set data.validate_against to train"
        )
