"""A batch: distinct texts, distinct items, and which items are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lit_metric.data.items import Items
from lit_metric.data.ragged import EncoderInput, Ragged
from lit_metric.data.tokens import Tokens


# Not frozen: for true half and double precision Lightning puts converted fields into a copy.
@dataclass(eq=False)
class Batch:
    """One step's data. Every text and every item occurs once, however often it is used.

    Args:
        tokens: ``[U]`` rows, the token ids of the distinct texts.
        text_ids: ``[U]`` int64 vocabulary ids of those texts, ascending.
        items: ``[I]`` rows, the distinct items as positions into the ``U`` texts.
        item_ids: ``[I]`` int64 global ids of those items, ascending.
        anchors: ``[A]`` int64 positions into the ``I`` items.
        candidates: ``[C]`` int64 positions into the ``I`` items.
        roles: ``[I]`` int64 numbers of the items' roles, 0 for queries, or None where items have none.
        weights: float32 > 0, how much each of ``items.values`` counts in its item, or None.
        skip: ``[U]`` int64, how many leading tokens of each text are kept out of pooling, or None.
        task: the number of the batch's data set in a mixture.
        mined_negatives: ``[A, n]`` int64 global ids of the hard negatives of each anchor, -1 for none;
            None where nothing is mined.
    """

    tokens: Ragged
    text_ids: Tensor
    items: Ragged
    item_ids: Tensor
    anchors: Tensor
    candidates: Tensor
    roles: Tensor | None = None
    weights: Tensor | None = None
    skip: Tensor | None = None
    task: int = 0
    mined_negatives: Tensor | None = None

    @property
    def anchor_ids(self) -> Tensor:
        """``[A]`` int64 global ids."""
        return self.item_ids[self.anchors]

    @property
    def candidate_ids(self) -> Tensor:
        """``[C]`` int64 global ids."""
        return self.item_ids[self.candidates]

    @property
    def inputs(self) -> EncoderInput:
        """What an encoder takes, which gives a vector for each of the items."""
        return EncoderInput(self.tokens, self.items, self.text_ids, self.weights, self.skip, self.roles)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A copy on ``device``."""
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for asynchronous transfers."""
        return self._map(lambda part: part.pin_memory())

    def _map(self, change: Callable[[Any], Any]) -> Batch:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(
            **{
                name: change(part) if isinstance(part, (Tensor, Ragged)) else part
                for name, part in parts.items()
            }
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

    def __call__(self, anchor_ids: Tensor, candidate_ids: Tensor, task: int = 0) -> Batch:
        """The batch of ``anchor_ids [A]`` and ``candidate_ids [C]``, which may overlap and hold repeats."""
        used, positions = torch.cat([anchor_ids, candidate_ids]).unique(return_inverse=True)
        items, skip = self.items, self.tokens.skip
        texts = items.texts.select(used)
        text_ids, members = texts.values.unique(return_inverse=True)
        weights = None
        if items.weights is not None:
            weights = Ragged(items.weights, items.texts.offsets).select(used).values
        return Batch(
            tokens=self.tokens.select(text_ids),
            text_ids=text_ids,
            items=Ragged(members, texts.offsets),
            item_ids=used,
            anchors=positions[: len(anchor_ids)],
            candidates=positions[len(anchor_ids) :],
            roles=None if items.roles is None else items.roles[used].long(),
            weights=weights,
            skip=None if skip is None else skip[text_ids],
            task=task,
        )
