"""What the model sees at a step: distinct texts, distinct items, and who is compared with whom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_metric.data.items import Items
from lit_metric.data.ragged import Ragged
from lit_metric.data.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's data. Every text and every item occurs once, however often it is used.

    Args:
        tokens: ``[U]`` rows, the token ids of the distinct texts.
        text_ids: ``[U]`` int64 vocabulary ids of those texts, ascending.
        items: ``[I]`` rows, the distinct items as positions into the ``U`` texts.
        item_ids: ``[I]`` int64 global ids of those items, ascending.
        anchors: ``[A]`` int64 positions into the ``I`` items.
        candidates: ``[C]`` int64 positions into the ``I`` items.
    """

    tokens: Ragged
    text_ids: Tensor
    items: Ragged
    item_ids: Tensor
    anchors: Tensor
    candidates: Tensor

    @property
    def anchor_ids(self) -> Tensor:
        """``[A]`` int64 global ids."""
        return self.item_ids[self.anchors]

    @property
    def candidate_ids(self) -> Tensor:
        """``[C]`` int64 global ids."""
        return self.item_ids[self.candidates]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A copy on ``device``."""
        return Batch(
            self.tokens.to(device, non_blocking),
            self.text_ids.to(device, non_blocking=non_blocking),
            self.items.to(device, non_blocking),
            self.item_ids.to(device, non_blocking=non_blocking),
            self.anchors.to(device, non_blocking=non_blocking),
            self.candidates.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for asynchronous transfers."""
        return Batch(
            self.tokens.pin_memory(),
            self.text_ids.pin_memory(),
            self.items.pin_memory(),
            self.item_ids.pin_memory(),
            self.anchors.pin_memory(),
            self.candidates.pin_memory(),
        )


class Collator:
    """Builds batches out of global item ids.

    Args:
        items: all items.
        tokens: the token ids of the items' vocabulary.
    """

    def __init__(self, items: Items, tokens: Tokens) -> None:
        self.items = items
        self.tokens = tokens

    def __call__(self, anchor_ids: Tensor, candidate_ids: Tensor) -> Batch:
        """The batch of ``anchor_ids [A]`` and ``candidate_ids [C]``, which may overlap and hold repeats."""
        used, positions = torch.cat([anchor_ids, candidate_ids]).unique(return_inverse=True)
        texts = self.items.texts.select(used)
        text_ids, members = texts.values.unique(return_inverse=True)
        return Batch(
            tokens=self.tokens.select(text_ids),
            text_ids=text_ids,
            items=Ragged(members, texts.offsets),
            item_ids=used,
            anchors=positions[: len(anchor_ids)],
            candidates=positions[len(anchor_ids) :],
        )
