"""Which training items are held out for validation, where no validation source is given."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.formats.base import ReadOptions
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, Relations

logger = logging.getLogger(__name__)


def held_out(groups: Sequence[Hashable], reading: ReadOptions, least: int = 1) -> set[Hashable]:
    """The groups that go to validation: the configured share, at least ``least`` where as many again are
    left, at least one where there are two, and never all."""
    distinct = list(dict.fromkeys(groups))
    least = least if len(distinct) >= 2 * least else 1
    count = min(max(least, round(reading.validation_share * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng(reading.seed).permutation(len(distinct))
    return {distinct[place] for place in order[: max(count, 0)]}


def split_off(ids: Tensor, relations: Relations, reading: ReadOptions) -> dict[str, Tensor]:
    """Hold a share of the training items out, in which something can be measured; one log line says what.

    An item is measured by others of its class, so a class gives two items at least (one, if items are
    compared with training items), and keeps two. See :func:`_shares`. Where items have several classes, the
    share is one of all items. Unlabelled items stay, as there is nothing to measure of them.

    Args:
        ids: int64, the training items.
        relations: their labels.
        reading: the share and the seed.

    Returns:
        ``train`` and ``validation``; without the latter where there are too few items.
    """
    draw = np.random.default_rng(reading.seed)
    order = ids[torch.from_numpy(draw.permutation(len(ids)))]
    if isinstance(relations, LabelRelations):
        order = order[relations.labels[order] >= 0]
        order = order[relations.labels[order].argsort(stable=True)]
        sizes = relations.labels[order].unique_consecutive(return_counts=True)[1]
        take, told = _shares(sizes, reading.validation_share, 2 if reading.alone else 1, draw)
    else:
        assert isinstance(relations, MultiLabelRelations)
        order = order[relations.labels.lengths[order] > 0]
        sizes = torch.tensor([len(order)])
        take = (sizes * reading.validation_share).round().long().clamp(min=2).minimum(sizes // 2)
        told = "at random"
    place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    chosen = order[place < take.repeat_interleave(sizes)].sort().values
    if not len(chosen):
        logger.warning(
            "nothing is held out for validation, since none of the classes of the %d training items is large "
            "enough; give validation=",
            len(ids),
        )
        return {"train": ids}
    logger.info("%d of %d training items are held out for validation: %s", len(chosen), len(ids), told)
    return {"train": ids[~torch.isin(ids, chosen)], "validation": chosen}


def _shares(sizes: Tensor, share: float, least: int, draw: np.random.Generator) -> tuple[Tensor, str]:
    """How many items each class gives, and that in words.

    - A class that can keep two gives the share of its items, at least ``least`` and at most half. Where that
      is more than twice the share of all items, only some of the classes that would give fewer do.
    - If most items are in classes that are too small for that, the share of those classes is held out as a
      whole; not where items are compared with training items, which would have none of their class.
    - Where neither is possible, each class of three gives one.
    """
    large = sizes >= least + 2
    small = (sizes > 1) & ~large
    rounded = (sizes * share).round().long()
    take = rounded.clamp(min=least).minimum(sizes // 2) * large
    raised = (large & (rounded < least)).nonzero()[:, 0]
    most = 2 * share * int(sizes.sum())
    if int(take.sum()) > most and len(raised):
        others = int(take.sum()) - int(take[raised].sum())
        kept = max(int((most - others) // least), 2 - int(large.sum()) + len(raised), 0)
        take[raised[torch.from_numpy(draw.permutation(len(raised))[kept:])]] = 0
    told = f"{'two' if least == 2 else 'one'} or more of each of {_classes(int((take > 0).sum()))}"
    if least == 2 and int(sizes[small].sum()) > int(sizes[large].sum()):
        count = max(2, round(share * int(small.sum())))
        if int(small.sum()) - count + int(large.sum()) >= 2:
            places = small.nonzero()[:, 0]
            places = places[torch.from_numpy(draw.permutation(len(places))[:count])]
            take[places] = sizes[places]
            whole = f"all of {count} of the {int(small.sum())} classes that are too small to be split"
            told = f"{told}; and {whole}" if bool(large.any()) else whole
    if not bool(take.any()):
        take = (sizes > 2).long()
        told = f"one of each of {_classes(int(take.sum()))}, too few and too small for more"
    return take, told


def _classes(count: int) -> str:
    return f"{count} class{'es' * (count != 1)}"
