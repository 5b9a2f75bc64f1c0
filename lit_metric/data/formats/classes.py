"""Items with class labels as they are read, names of classes, and which items are held out."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_metric.data.errors import KINDS
from lit_metric.data.formats.base import ReadOptions
from lit_metric.data.formats.columns import stands_for_missing
from lit_metric.data.items import Kind
from lit_metric.data.relations import LabelRelations, MultiLabelRelations, Relations
from lit_metric.data.text_sets import TextSets
from lit_metric.data.texts import OneTextEach

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelledItems:
    """The items of one source, checked.

    Args:
        rows: ``[n]`` the texts of each item: one if ``kind`` is ``"text"``, tags if it is ``"set"``. A list,
            :class:`~lit_metric.data.texts.OneTextEach`, or :class:`~lit_metric.data.text_sets.TextSets`.
        labels: ``[n]`` the class of each item, or None where there is none. Of several classes each,
            :class:`~lit_metric.data.text_sets.TextSets`, empty where there is none.
        kind: what an item is.
        keys: ``[n]`` names to show to people, or None.
        groups: ``[n]`` the group of each item, None for none; or None.
        places: ``[n]`` the row of each item in its table, from 0.
    """

    rows: Sequence[list[str]]
    labels: TextSets | Sequence[str | None]
    kind: Kind
    keys: list[str] | None = None
    groups: list[str | None] | None = None
    places: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def roles(self) -> list[list[str]] | None:
        """``[n]`` the role of each of the item's texts, or None."""
        return self.rows.role_rows() if isinstance(self.rows, TextSets) else None

    @property
    def weights(self) -> list[list[float]] | None:
        """``[n]`` the weight of each of the item's texts, or None."""
        return self.rows.weight_rows() if isinstance(self.rows, TextSets) else None

    def select(self, places: Sequence[int]) -> LabelledItems:
        """The items at the given places."""
        if places == range(len(self)):
            return self
        columns = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "kind"}
        numbers = np.array(places, dtype=np.int64)
        chosen: dict[str, Any] = {}
        for name, values in columns.items():
            if isinstance(values, OneTextEach):
                chosen[name] = OneTextEach(values.texts.select(numbers))
            elif isinstance(values, TextSets):
                chosen[name] = values.select(numbers)
            elif values is not None:
                chosen[name] = [values[place] for place in places]
        return replace(self, **chosen)


def unify_names(counts: Mapping[str, int], normalize: bool) -> dict[str, str]:
    """New names of classes, for those that get one. One line is logged for each kind of finding.

    Where all names are whole numbers, ``1.0`` becomes ``1``: a table with a missing value turns numbers into
    that. Some names differ only in case, blanks or the Unicode form (NFKC). With ``normalize``, they become
    the most frequent of them; otherwise they are only logged.

    Args:
        counts: how many items each class has, in all splits.
        normalize: whether to merge classes.

    Example:
        >>> unify_names({"1.0": 3, "2.0": 4, "1": 2}, normalize=False)
        {'1.0': '1', '2.0': '2'}
        >>> unify_names({"Card": 3, "card ": 1, "rate": 1}, normalize=True)
        {'card ': 'Card'}
    """
    renamed: dict[str, str] = {}
    matches = {name: re.fullmatch(r"[+-]?\d+(\.0+)?", name) for name in counts}
    if all(matches.values()):
        renamed = {name: name.partition(".")[0] for name, match in matches.items() if match and match[1]}
    if renamed:
        some = ", ".join(f"{old!r} as {new!r}" for old, new in [*renamed.items()][:KINDS])
        logger.info(
            "labels are whole numbers, so %d of them are read without a point: %s", len(renamed), some
        )
    merged: Counter[str] = Counter()
    for name, count in counts.items():
        merged[renamed.get(name, name)] += count
    spellings: dict[str, list[str]] = {}
    for name in sorted(merged, key=lambda name: (-merged[name], name)):
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        spellings.setdefault(plain, []).append(name)
    several = [group for group in spellings.values() if len(group) > 1]
    if several:
        _log_spellings(several, merged, normalize)
    if normalize:
        renamed |= {name: group[0] for group in several for name in group[1:]}
    if absent := [name for name in merged if stands_for_missing(name)]:
        logger.warning(
            "%s, and so a class; leave the cell empty where that means that there is no label",
            " and ".join(
                f"{merged[name]} item{'s have' if merged[name] > 1 else ' has'} the label {name!r}"
                for name in absent
            ),
        )
    return renamed


def _log_spellings(several: list[list[str]], counts: Mapping[str, int], normalize: bool) -> None:
    """Log names of classes that differ in nothing that people see, with their counts."""
    shown = []
    for names in several[:KINDS]:
        forms = [unicodedata.normalize("NFC", name) for name in names]
        # Characters are spelt out where two names look the same.
        each = [
            ascii(name) if forms.count(form) > 1 else repr(name)
            for name, form in zip(names, forms, strict=True)
        ]
        shown.append(" and ".join(f"{text} ({counts[name]})" for name, text in zip(names, each, strict=True)))
    text = "; ".join(shown) + (f"; and {len(several) - KINDS} more" if len(several) > KINDS else "")
    if normalize:
        logger.info("labels that differ in case, blanks or Unicode form are one class: %s", text)
    else:
        logger.warning(
            "%d label%s written in several ways (case, blanks, Unicode form), and each way is a class: "
            "%s. normalize_labels=True makes them one",
            len(several),
            "s are" if len(several) > 1 else " is",
            text,
        )


def hold_out_items(ids: Tensor, relations: Relations, reading: ReadOptions) -> dict[str, Tensor]:
    """Hold out training items with which something can be measured; one log line says which.

    An item is evaluated by others of its class. So a class gives two items at least and keeps two; it gives
    one at least if items are compared with training items. Where items have several classes, the share is one
    of all items. Unlabelled items stay in training.

    Args:
        ids: int64, the training items.
        relations: their labels.
        reading: the share and the seed.

    Returns:
        ``train`` and ``validation``; without the latter where there are too few items, or the share is 0.
    """
    if not reading.validation_share:
        return {"train": ids}
    draw = np.random.default_rng(reading.seed)
    order = ids[torch.from_numpy(draw.permutation(len(ids)))]
    if isinstance(relations, LabelRelations):
        order = order[relations.labels[order] >= 0]
        order = order[relations.labels[order].argsort(stable=True)]
        sizes = relations.labels[order].unique_consecutive(return_counts=True)[1]
        counts, how = _count_by_class(sizes, reading.validation_share, 2 if reading.alone else 1, draw)
    else:
        assert isinstance(relations, MultiLabelRelations)
        order = order[relations.labels.lengths[order] > 0]
        sizes = torch.tensor([len(order)])
        counts = (sizes * reading.validation_share).round().long().clamp(min=2).minimum(sizes // 2)
        how = "at random"
    place = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    chosen = order[place < counts.repeat_interleave(sizes)].sort().values
    if not len(chosen):
        logger.warning(
            "nothing is held out for validation, since none of the classes of the %d training items is large "
            "enough; give validation=",
            len(ids),
        )
        return {"train": ids}
    logger.info("%d of %d training items are held out for validation: %s", len(chosen), len(ids), how)
    return {"train": ids[~torch.isin(ids, chosen)], "validation": chosen}


def _count_by_class(sizes: Tensor, share: float, least: int, draw: np.random.Generator) -> tuple[Tensor, str]:
    """How many items each class gives, and that in words.

    - A class that can keep two gives the share of its items, at least ``least`` and at most half. Where that
      is more than twice the share of all items, only some of the classes that would give fewer do.
    - If most items are in classes that are too small for that, the share of those classes is held out as a
      whole; not where items are compared with training items, which would have none of their class.
    - Where neither is possible, each class of three gives one.
    """

    def classes(counts: Tensor) -> str:
        number = int((counts > 0).sum())
        return f"{number} class{'es' * (number != 1)}"

    large = sizes >= least + 2
    small = (sizes > 1) & ~large
    rounded = (sizes * share).round().long()
    counts = rounded.clamp(min=least).minimum(sizes // 2) * large
    raised = (large & (rounded < least)).nonzero()[:, 0]
    most = 2 * share * int(sizes.sum())
    if int(counts.sum()) > most and len(raised):
        others = int(counts.sum()) - int(counts[raised].sum())
        kept = max(int((most - others) // least), 2 - int(large.sum()) + len(raised), 0)
        counts[raised[torch.from_numpy(draw.permutation(len(raised))[kept:])]] = 0
    how = f"{'two' if least == 2 else 'one'} or more of each of {classes(counts)}"
    if least == 2 and int(sizes[small].sum()) > int(sizes[large].sum()):
        number = max(2, round(share * int(small.sum())))
        if int(small.sum()) - number + int(large.sum()) >= 2:
            places = small.nonzero()[:, 0]
            places = places[torch.from_numpy(draw.permutation(len(places))[:number])]
            counts[places] = sizes[places]
            whole = f"all of {number} of the {int(small.sum())} classes that are too small to be split"
            how = f"{how}; and {whole}" if bool(large.any()) else whole
    if not bool(counts.any()):
        counts = (sizes > 2).long()
        how = f"one of each of {classes(counts)}, too few and too small for more"
    return counts, how
